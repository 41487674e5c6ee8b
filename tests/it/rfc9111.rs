//! RFC 9111 as tables: policy functions, a row per rule.

use std::sync::Arc;

use super::support::field_lines;
use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::message::date;
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Request;
use caching_proxy::policy::age::{age_value, corrected_initial_age};
use caching_proxy::policy::cache_control::{RequestDirectives, ResponseDirectives};
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::freshness::{FreshnessRules, Lifetime, fresh_until, freshness_lifetime};
use caching_proxy::policy::range::Part;
use caching_proxy::policy::reason::{Detail, Why};
use caching_proxy::policy::reuse::{Decision, Mode, Presented, ReuseRules, decide, may_stand_in};
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::storing::{Received, StoringRules, storable};
use caching_proxy::policy::vary::{self, Selecting, Sent};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

/// The moment the response was received, unless a row says otherwise.
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const RULES: FreshnessRules =
    FreshnessRules { cache_ttl: None, default_ttl: DeltaSeconds::ZERO, force: false };
const STORING: StoringRules = StoringRules {
    freshness: RULES,
    share_cookies: false,
    stale_if_error: DeltaSeconds(86_400),
    stale_while_revalidate: DeltaSeconds::ZERO,
    object_bytes_max: 1000,
};
const REUSE: ReuseRules = ReuseRules {
    mode: Mode::Standard,
    disabled: false,
    share_credentials: false,
    reuses_max: None,
    stale_while_revalidate: DeltaSeconds::ZERO,
    stale_if_error: DeltaSeconds(86_400),
};

/// Fields from text; `NOW`, `NOW+60` and `NOW-60` are dates. `|` separates them.
fn fields(text: &str) -> Fields {
    let lines = text.split('|').filter(|line| !line.is_empty()).map(|line| {
        let (name, value) = line.split_once(':').expect("a name and a value");
        let value = match value.trim_start().strip_prefix("NOW") {
            Some("") => date::format(NOW),
            Some(offset) => {
                let offset: i64 = offset.parse().expect("seconds");
                date::format(Timestamp::from_seconds(NOW.seconds().saturating_add_signed(offset)))
            }
            None => value.trim_start().to_string(),
        };
        let name = HeaderName::try_from(name).expect("a name");
        (name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
    });
    lines.collect()
}

fn salt() -> Salt {
    Salt::new([7; SALT_BYTES])
}

fn sent<'a>(fields: &'a Fields, salt: &'a Salt) -> Sent<'a> {
    Sent { fields, salt }
}

fn request(method: &str, text: &str) -> Request {
    let mut all = fields(text);
    all.append(http::header::HOST, HeaderValue::from_static("h"));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Request::new(method, "/", Version::HTTP_11, all, None).expect("a request")
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).expect("a status")
}

fn lifetime(code: u16, text: &str, rules: FreshnessRules) -> Lifetime {
    let fields = fields(text);
    freshness_lifetime(status(code), &fields, &ResponseDirectives::read(&fields), NOW, rules)
}

#[test]
fn freshness_lifetime_follows_the_first_match() {
    use Lifetime::{Explicit, Heuristic, Unknown};
    const DAY: u32 = 86_400;
    #[rustfmt::skip]
    let table = [
        ("4.2.1",   200, "Cache-Control: max-age=3600",                           Explicit(DeltaSeconds(3600))),
        ("4.2.1",   200, "Cache-Control: max-age=1, s-maxage=3600",               Explicit(DeltaSeconds(3600))),
        ("4.2.1",   200, "Cache-Control: s-maxage=1|Cache-Control: max-age=3600", Explicit(DeltaSeconds(1))),
        ("4.2.1",   200, "Cache-Control: max-age=0|Expires: NOW+60",              Explicit(DeltaSeconds::ZERO)),
        ("4.2.1",   200, "Cache-Control: max-age=60|Expires: NOW-60",             Explicit(DeltaSeconds(60))),
        ("4.2.1",   200, "Cache-Control: max-age=60|Expires: 0",                  Explicit(DeltaSeconds(60))),
        ("4.2.1",   200, "Cache-Control: max-age=a|Expires: NOW+60",              Explicit(DeltaSeconds::ZERO)),
        ("4.2.1",   200, "Cache-Control: max-age=60, max-age=1",                  Explicit(DeltaSeconds(60))),
        ("4.2.1",   200, "Cache-Control: max-age=1|Cache-Control: max-age=60",    Explicit(DeltaSeconds(1))),
        ("1.2.2",   200, "Cache-Control: max-age=2147483647",                     Explicit(DeltaSeconds(2_147_483_647))),
        ("1.2.2",   200, "Cache-Control: max-age=2147483648",                     Explicit(DeltaSeconds::MAX)),
        ("1.2.2",   200, "Cache-Control: max-age=2147483649",                     Explicit(DeltaSeconds::MAX)),
        ("1.2.2",   200, "Cache-Control: max-age=99999999999",                    Explicit(DeltaSeconds::MAX)),
        ("1.2.2",   200, "Cache-Control: max-age=99999999999999999999999999",     Explicit(DeltaSeconds::MAX)),
        ("1.2.2",   200, "Cache-Control: max-age=-3600",                          Explicit(DeltaSeconds::ZERO)),
        ("5.3",     200, "Date: NOW|Expires: NOW+60",                             Explicit(DeltaSeconds(60))),
        ("5.3",     200, "Date: NOW+30|Expires: NOW+60",                          Explicit(DeltaSeconds(30))),
        ("5.3",     200, "Date: NOW+60|Expires: NOW+30",                          Explicit(DeltaSeconds::ZERO)),
        ("5.3",     200, "Date: foo|Expires: NOW+60",                             Explicit(DeltaSeconds(60))),
        ("5.3",     200, "Expires: NOW+60",                                       Explicit(DeltaSeconds(60))),
        ("5.3",     200, "Expires: 0|Last-Modified: NOW-86400",                   Explicit(DeltaSeconds::ZERO)),
        ("5.3",     200, "Expires: NOW+60|Expires: NOW+60",                       Explicit(DeltaSeconds::ZERO)),
        ("4.2.2",   200, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   203, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   204, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   404, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   405, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   410, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   414, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   501, "Date: NOW|Last-Modified: NOW-86400",                    Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   599, "Cache-Control: public|Last-Modified: NOW-86400",        Heuristic(DeltaSeconds(DAY / 10))),
        ("4.2.2",   599, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   201, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   202, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   403, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   502, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   503, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   504, "Last-Modified: NOW-86400",                              Unknown),
        ("4.2.2",   200, "Last-Modified: NOW+60",                                 Heuristic(DeltaSeconds::ZERO)),
        ("4.2.2",   200, "Last-Modified: foo",                                    Unknown),
        ("4.2",     200, "Date: NOW",                                             Unknown),
    ];
    for (section, code, text, expected) in table {
        assert_eq!(lifetime(code, text, RULES), expected, "RFC 9111 §{section}: {code} {text}");
    }
}

#[test]
fn the_operators_word_holds_where_the_origin_is_silent() {
    use Lifetime::{Explicit, Heuristic, Operator, Unknown};
    let default = |seconds| FreshnessRules { default_ttl: DeltaSeconds(seconds), ..RULES };
    let ttl =
        |seconds| FreshnessRules { cache_ttl: Some(DeltaSeconds(seconds)), ..default(1 << 31) };
    let force = FreshnessRules { force: true, ..default(60) };
    #[rustfmt::skip]
    let table = [
        (default(60),      200, "Date: NOW",                           Operator(DeltaSeconds(60))),
        (default(60),      301, "Date: NOW",                           Operator(DeltaSeconds(60))),
        (default(60),      308, "Date: NOW",                           Operator(DeltaSeconds(60))),
        (default(60),      404, "Date: NOW",                           Unknown),
        (default(60),      302, "Date: NOW",                           Unknown),
        (default(60),      200, "Cache-Control: max-age=1",            Explicit(DeltaSeconds(1))),
        (default(60),      200, "Expires: 0",                          Explicit(DeltaSeconds::ZERO)),
        (default(60),      200, "Last-Modified: NOW-86400",            Heuristic(DeltaSeconds(8640))),
        (default(60),      200, "Last-Modified: NOW-60",               Operator(DeltaSeconds(60))),
        (default(1 << 31), 200, "Last-Modified: NOW-86400",            Operator(DeltaSeconds::MAX)),
        (ttl(5),           200, "Last-Modified: NOW-86400",            Operator(DeltaSeconds(5))),
        (ttl(5),           200, "Cache-Control: max-age=60",           Explicit(DeltaSeconds(60))),
        (ttl(5),           404, "Date: NOW",                           Unknown),
        (force,            200, "Cache-Control: no-store, max-age=0",  Operator(DeltaSeconds::MAX)),
        (force,            404, "Cache-Control: max-age=1",            Explicit(DeltaSeconds(1))),
    ];
    for (rules, code, text, expected) in table {
        assert_eq!(lifetime(code, text, rules), expected, "{rules:?}: {code} {text}");
    }
}

#[test]
fn no_response_is_fresh_beyond_cache_ttl() {
    let ttl = |seconds| FreshnessRules { cache_ttl: Some(DeltaSeconds(seconds)), ..RULES };
    let explicit = Lifetime::Explicit(DeltaSeconds(60));
    let operator = Lifetime::Operator(DeltaSeconds(10));
    #[rustfmt::skip]
    let table = [
        (explicit, 0,  RULES,   60),
        (explicit, 20, RULES,   40),
        (explicit, 60, RULES,   0),
        (explicit, 0,  ttl(10), 10),
        (explicit, 55, ttl(10), 5),
        // It states no freshness, so it gets exactly D, whatever its Age.
        (operator, 99, ttl(10), 10),
        (Lifetime::Heuristic(DeltaSeconds(100)), 0, ttl(10), 10),
        (Lifetime::Unknown, 0, RULES, 0),
    ];
    for (lifetime, age, rules, expected) in table {
        let until = fresh_until(lifetime, DeltaSeconds(age), NOW, rules);
        assert_eq!(
            until.seconds_since(NOW),
            DeltaSeconds(expected),
            "{lifetime:?} {age} {rules:?}"
        );
    }
    let before = fresh_until(explicit, DeltaSeconds(90), NOW, RULES);
    assert_eq!(NOW.seconds_since(before), DeltaSeconds(30), "stale for half a minute on arrival");
    let forever = Lifetime::Operator(DeltaSeconds::MAX);
    assert_eq!(fresh_until(forever, DeltaSeconds(5), NOW, RULES), Timestamp::MAX);
    assert_eq!(
        fresh_until(forever, DeltaSeconds::MAX, NOW, RULES),
        NOW,
        "RFC 9111 §4.2: equality is stale"
    );
}

#[test]
fn age_is_read_from_the_first_member_of_the_first_line() {
    #[rustfmt::skip]
    let table = [
        ("Age: 7200",           Some(7200)),
        ("Age: 0",              Some(0)),
        ("Age: abc",            None),
        ("Age: -7200",          None),
        ("Age: 7200.0",         None),
        ("Age: 7200;foo=bar",   None),
        ("Age: ",               None),
        ("Age: 7200, 0",        Some(7200)),
        ("Age: 0, 7200",        Some(0)),
        ("Age: 7200|Age: 0",    Some(7200)),
        ("Age: 0|Age: 7200",    Some(0)),
        ("Age: 2147483647",     Some(2_147_483_647)),
        ("Age: 2147483648",     Some(1 << 31)),
        ("Age: 99999999999999", Some(1 << 31)),
        ("X: y",                None),
    ];
    for (text, expected) in table {
        let age = age_value(&fields(text)).map(|age| age.0);
        assert_eq!(age, expected, "RFC 9111 §5.1: {text}");
    }
}

#[test]
fn the_initial_age_is_the_larger_of_what_is_seen_and_what_is_said() {
    #[rustfmt::skip]
    let table = [
        ("Date: NOW",             0, 0),
        ("Date: NOW-30",          0, 30),
        ("Date: NOW+30",          0, 0),
        ("Date: NOW|Age: 10",     0, 10),
        ("Date: NOW-30|Age: 10",  0, 30),
        ("Date: NOW|Age: 10",     5, 15),
        ("Date: foo|Age: 10",     0, 10),
        ("X: y",                  3, 3),
    ];
    for (text, delay, expected) in table {
        let asked = Timestamp(NOW.0 - delay * 1000);
        let age = corrected_initial_age(&fields(text), asked, NOW);
        assert_eq!(age, DeltaSeconds(expected), "RFC 9111 §4.2.3: {text}, {delay} s");
    }
}

#[test]
fn directives_are_list_members_outside_quotes() {
    let max_age = |text| ResponseDirectives::read(&fields(text)).max_age.map(|age| age.0);
    #[rustfmt::skip]
    let table = [
        ("Cache-Control: max-age=3600",                          Some(3600)),
        ("Cache-Control: MaX-aGe=3600",                          Some(3600)),
        ("Cache-Control: foo, max-age=3600",                     Some(3600)),
        ("Cache-Control: foo=\"a\\\"b, max-age=1\", max-age=3600", Some(3600)),
        ("Cache-Control: foo=\"max-age=1\"",                     None),
        ("Cache-Control: max-age=3600, foo=\"max-age=1\"",       Some(3600)),
        ("Cache-Control: max-age=003600",                        Some(3600)),
        ("Cache-Control: max-age=\"3600\"",                      Some(3600)),
        ("Cache-Control: max-age='3600'",                        Some(0)),
        ("Cache-Control: max-age =3600",                         Some(0)),
        ("Cache-Control: max-age= 3600",                         Some(0)),
        ("Cache-Control: max-age=3600.0",                        Some(0)),
        ("Cache-Control: max-age=a3600",                         Some(0)),
        ("Cache-Control: max-age=3600a",                         Some(0)),
        ("Cache-Control: max-age",                               Some(0)),
        ("Cache-Control: , ,max-age=3600,",                      Some(3600)),
        ("Cache-Control: xmax-age=3600",                         None),
    ];
    for (text, expected) in table {
        assert_eq!(max_age(text), expected, "RFC 9111 §5.2: {text}");
    }
    let read = |text| ResponseDirectives::read(&fields(text));
    assert!(read("Cache-Control: No-Store").no_store && read("Cache-Control: PRIVATE").private);
    assert!(read("Cache-Control: no-cache").no_cache);
    let qualified = read("Cache-Control: no-cache=\"A, b\", private=\"c\"");
    assert!(!qualified.no_cache && !qualified.private);
    assert_eq!(qualified.withheld, ["a", "b", "c"].map(HeaderName::from_static));
    let request = RequestDirectives::read(&fields(
        "Cache-Control: no-cache, only-if-cached, max-age=5|Pragma: x",
    ));
    assert!(request.no_cache && request.only_if_cached && !request.no_store);
    assert_eq!(request.max_age, Some(DeltaSeconds(5)));
    assert!(!RequestDirectives::read(&fields("Pragma: no-cache")).no_cache, "RFC 9111 §5.4");
}

fn verdict(
    asked: &Request,
    code: u16,
    text: &str,
    rules: &StoringRules,
) -> Result<StoredHead, Detail> {
    let fields = fields(text);
    let received = Received {
        status: status(code),
        fields: &fields,
        length: Some(10),
        part: Part::of_response(status(code), &fields),
        describes_target: fields.contains("content-location"),
        leads_nowhere: false,
        request_time: NOW,
        response_time: NOW,
    };
    storable(&Presented::read(asked), sent(&asked.fields, &salt()), received, rules)
}

#[test]
fn only_what_may_be_stored_is_stored() {
    let kept = StoringRules {
        freshness: FreshnessRules { default_ttl: DeltaSeconds(60), ..RULES },
        ..STORING
    };
    let shares = StoringRules { share_cookies: true, ..STORING };
    let small = StoringRules { object_bytes_max: 9, ..STORING };
    let cookie = "Cache-Control: max-age=1|Set-Cookie: a=b";
    #[rustfmt::skip]
    let table: [(&str, &str, &str, u16, &str, &StoringRules, Option<Detail>); 73] = [
        ("3",        "GET",  "", 200, "Cache-Control: max-age=60",              &STORING, None),
        ("3",        "GET",  "", 200, "Expires: NOW+60",                        &STORING, None),
        ("3",        "GET",  "", 200, "Cache-Control: s-maxage=60",             &STORING, None),
        ("3",        "GET",  "", 200, "Cache-Control: max-age=0",               &STORING, None),
        ("3",        "GET",  "", 599, "Cache-Control: max-age=60",              &STORING, None),
        ("3",        "GET",  "", 503, "Cache-Control: max-age=60",              &STORING, None),
        ("3",        "GET",  "", 302, "Cache-Control: max-age=60",              &STORING, None),
        ("3",        "GET",  "", 200, "X: y",                                   &STORING, Some(Detail::NoFreshness)),
        ("3",        "GET",  "", 200, "X: y",                                   &kept,    None),
        ("3",        "GET",  "", 404, "X: y",                                   &kept,    Some(Detail::NoFreshness)),
        ("3",        "HEAD", "", 200, "Cache-Control: max-age=60",              &STORING, Some(Detail::Method)),
        ("3",        "POST", "", 200, "Cache-Control: max-age=60",              &STORING, Some(Detail::Method)),
        ("3",        "GET",  "", 304, "Cache-Control: max-age=60",              &STORING, Some(Detail::Status)),
        ("3.3",      "GET",  "", 206, "Cache-Control: max-age=60",              &STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-1", 200, "Cache-Control: max-age=60", &STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/20", &STORING, None),
        ("3.3",      "GET",  "Range: bytes=-5", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/*", &STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-8/20", &STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-10/20", &STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 4-19/20", &STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Type: multipart/byteranges", &STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=90-", 416, "Cache-Control: max-age=60|Content-Range: bytes */20", &STORING, Some(Detail::Status)),
        ("3",        "GET",  "If-Match: \"a\"", 412, "Cache-Control: max-age=60",  &STORING, Some(Detail::Status)),
        ("3",        "GET",  "", 200, "ETag: \"a\"",                               &STORING, None),
        ("3",        "GET",  "", 302, "ETag: \"a\"",                               &STORING, Some(Detail::NoFreshness)),
        ("3",        "GET",  "", 302, "ETag: \"a\"|Cache-Control: public",         &STORING, None),
        ("3",        "GET",  "", 302, "ETag: \"a\"|Cache-Control: no-cache",       &STORING, None),
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: no-cache|ETag: \"a\"",       &STORING, None),
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: NO-CACHE, max-age=60|Last-Modified: NOW-60", &STORING, None),
        ("9.3.3",    "POST", "", 200, "Cache-Control: max-age=60|Content-Location: /", &STORING, None),
        ("9.3.3",    "POST", "", 201, "Cache-Control: max-age=60|Content-Location: /", &STORING, Some(Detail::Method)),
        ("9.3.3",    "POST", "", 200, "Last-Modified: NOW-86400|Content-Location: /", &STORING, Some(Detail::Method)),
        ("9.3.3",    "PUT",  "", 200, "Cache-Control: max-age=60|Content-Location: /", &STORING, Some(Detail::Method)),
        ("html 9.2", "GET",  "", 200, "Content-Type: text/event-stream",        &kept,    Some(Detail::EventStream)),
        ("html 9.2", "GET",  "", 200, "Content-Type: text/event-stream; charset=utf-8|Cache-Control: max-age=60", &STORING, None),
        ("5.2.2.5",  "GET",  "", 200, "Cache-Control: no-store, max-age=60",    &STORING, Some(Detail::NoStore)),
        ("5.2.2.5",  "GET",  "", 200, "Cache-Control: No-StOrE|Expires: NOW+60", &STORING, Some(Detail::NoStore)),
        ("5.2.2.7",  "GET",  "", 200, "Cache-Control: private, max-age=60",     &STORING, Some(Detail::Private)),
        ("5.2.2.7",  "GET",  "", 200, "Cache-Control: private=\"x\", max-age=60", &STORING, None),
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: no-cache, max-age=60",    &STORING, Some(Detail::NoCache)),
        ("5.2.2.3",  "GET",  "", 200, "Cache-Control: no-store, must-understand, max-age=60", &STORING, None),
        ("5.2.2.3",  "GET",  "", 599, "Cache-Control: no-store, must-understand, max-age=60", &STORING, Some(Detail::MustUnderstand)),
        ("5.2.2.3",  "GET",  "", 599, "Cache-Control: must-understand, max-age=60", &STORING, Some(Detail::MustUnderstand)),
        ("5.2.1.5",  "GET",  "Cache-Control: no-store", 200, "Cache-Control: max-age=60", &STORING, Some(Detail::NoStore)),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60", &STORING, Some(Detail::Authorization)),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60, public", &STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60, must-revalidate", &STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: s-maxage=60", &STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: public",  &kept,    Some(Detail::Authorization)),
        ("4.2.2",    "GET",  "Cookie: a=b", 200, "X: y",                        &kept,    Some(Detail::Cookie)),
        ("4.2.2",    "GET",  "Cookie: a=b", 200, "Cache-Control: max-age=60",   &STORING, None),
        ("7.3",      "GET",  "", 200, cookie,                                   &STORING, Some(Detail::SetCookie)),
        ("7.3",      "GET",  "", 200, cookie,                                   &shares,  None),
        ("7.3",      "GET",  "", 200, "Set-Cookie: a=b",                        &kept,    Some(Detail::SetCookie)),
        ("7.3",      "GET",  "", 200, "Cache-Control: public, max-age=1|Set-Cookie: a=b", &STORING, None),
        ("7.3",      "GET",  "", 200, "Cache-Control: s-maxage=1|Set-Cookie: a=b", &STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: max-age=1, private=\"set-cookie\"|Set-Cookie: a=b", &STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: max-age=1, no-cache=\"set-cookie\"|Set-Cookie: a=b", &STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: private=\"set-cookie\"|Set-Cookie: a=b", &kept, Some(Detail::SetCookie)),
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: no-store", &kept, Some(Detail::NoStore)),
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: no-cache|ETag: \"a\"", &kept, Some(Detail::Connection)),
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: max-age=60", &STORING, None),
        ("9110 15.3.7.2", "GET", "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/20|Content-Type: multipart/byteranges", &STORING, Some(Detail::Partial)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *",      &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary:|Vary: a, *", &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *, *",   &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *|Vary: *", &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: , *",    &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: a, *",   &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *, a",   &STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: , a",    &STORING, None),
        ("",         "GET",  "", 200, "Cache-Control: max-age=60",              &small,   Some(Detail::TooLarge)),
        ("4.2.2",    "GET",  "", 404, "Last-Modified: NOW-86400",               &STORING, None),
    ];
    for (section, method, asked, code, text, rules, expected) in table {
        let got = verdict(&request(method, asked), code, text, rules).err();
        assert_eq!(got, expected, "RFC 9111 §{section}: {method} {asked} -> {code} {text}");
    }
}

#[test]
fn fields_that_may_not_be_kept_are_left_out() {
    let asked = request("GET", "");
    let parts =
        verdict(&asked, 200, "Cache-Control: max-age=60, no-cache=\"A\"|A: 1|B: 2", &STORING)
            .expect("storable");
    assert!(!parts.fields.contains("a") && parts.fields.contains("b"), "RFC 9111 §5.2.2.4");
    let force = StoringRules { freshness: FreshnessRules { force: true, ..RULES }, ..STORING };
    let parts = verdict(&asked, 200, "Cache-Control: no-store|Set-Cookie: a=b|Vary: *", &force)
        .expect("forced");
    assert!(!parts.fields.contains("set-cookie") && parts.selecting.is_empty());
}

fn stored(text: &str) -> Arc<StoredResponse> {
    stored_for("", text)
}

fn stored_for(asked: &str, text: &str) -> Arc<StoredResponse> {
    let rules = StoringRules {
        freshness: FreshnessRules { default_ttl: DeltaSeconds(60), ..RULES },
        ..STORING
    };
    let parts = verdict(&request("GET", asked), 200, text, &rules).expect("storable");
    Arc::new(StoredResponse::new(parts, bytes::Bytes::from_static(b"0123456789")))
}

#[test]
fn selecting_fields_must_match() {
    #[rustfmt::skip]
    let table = [
        ("Vary: Foo",        "Foo: 1",             "Foo: 1",             true),
        ("Vary: Foo",        "Foo: 1",             "Foo: 2",             false),
        ("Vary: Foo",        "Foo: 1",             "X: y",               false),
        ("Vary: Foo",        "X: y",               "Foo: 1",             false),
        ("Vary: Foo",        "X: y",               "Z: y",               true),
        ("Vary: Foo",        "Foo: 1|Bar: 1",      "Foo: 1|Bar: 2",      true),
        ("Vary: Foo, Bar",   "Foo: 1|Bar: 1",      "Bar: 1|Foo: 1",      true),
        ("Vary: Foo|Vary: Bar, Baz", "Foo: 1|Bar: 1|Baz: 1", "Foo: 1|Bar: 1|Baz: 2", false),
        ("Vary: Foo",        "Foo: 1, 2",          "Foo: 1 ,  2",        true),
        ("Vary: Foo",        "Foo: 1, 2",          "Foo: 1|Foo: 2",      true),
        ("Vary: Foo",        "Foo: 1, 2",          "Foo: 2, 1",          false),
        ("Vary: Foo",        "Foo: \"1, 2\"",      "Foo: \"1,2\"",       false),
        ("Vary: Foo",        "Foo: a",             "Foo: A",             false),
        ("Vary: Accept-Language", "Accept-Language: en, de", "Accept-Language: de, EN", true),
        ("Vary: Accept-Language", "Accept-Language: en, de;q=0.5", "Accept-Language: de;q=0.4,en", true),
        ("Vary: Accept-Language", "Accept-Language: en, de;q=0.5", "Accept-Language: en;q=0.5, de", false),
        ("Vary: Accept-Language|Content-Language: de", "Accept-Language: en, de", "Accept-Language: fr;q=0.5, de;q=1.0", true),
        ("Vary: Accept-Language|Content-Language: de", "Accept-Language: en, de", "Accept-Language: fr, de", false),
        ("Vary: Accept-Language|Content-Language: de", "Accept-Language: en, de", "Accept-Language: fr, de;q=0.5", false),
    ];
    for (response, asked, presented, expected) in table {
        let stored = stored_for(asked, &format!("Cache-Control: max-age=60|{response}"));
        let got =
            vary::matches(&stored.selecting, &stored.fields, sent(&fields(presented), &salt()));
        assert_eq!(got, expected, "RFC 9111 §4.1: {response}; {asked} / {presented}");
    }
    for nobody in ["Vary: a b", "Vary: a, *"] {
        let selecting = Selecting::read(&fields(nobody), sent(&Fields::new(), &salt()));
        assert_eq!(selecting, None, "no request fits {nobody}");
    }
}

/// Credentials select by their digest, and are nowhere in clear.
#[test]
fn selecting_credentials_are_digests() {
    for name in ["Authorization", "Cookie", "X-API-Key", "PRIVATE-TOKEN", "X-Tenant-Id"] {
        let text = format!("Cache-Control: max-age=60, public|Vary: Accept, {name}");
        let alice = format!("Accept: a|{name}: s3cret");
        let stored = stored_for(&alice, &text);
        for (presented, expected) in [
            (alice.clone(), true),
            (format!("Accept: b|{name}: s3cret"), false),
            (format!("Accept: a|{name}: s3cre"), false),
            (format!("Accept: a|{name}:"), false),
            ("Accept: a".to_string(), false),
        ] {
            let got = vary::matches(
                &stored.selecting,
                &stored.fields,
                sent(&fields(&presented), &salt()),
            );
            assert_eq!(got, expected, "{name}: {presented}");
        }
        let other = Salt::new([8; SALT_BYTES]);
        assert!(
            !vary::matches(&stored.selecting, &stored.fields, sent(&fields(&alice), &other)),
            "another store's digest"
        );
        let kept: Vec<_> = stored.selecting.iter().filter_map(|(_, value)| value).collect();
        // Who knows the digest is not taken for whom it stands for.
        let digest = String::from_utf8_lossy(kept[1]).into_owned();
        let replayed = fields(&format!("Accept: a|{name}: {digest}"));
        assert!(
            !vary::matches(&stored.selecting, &stored.fields, sent(&replayed, &salt())),
            "{digest}"
        );
        assert!(kept[0] == b"a" && digest.starts_with("digest:") && !digest.contains("s3cret"));
        assert!(!String::from_utf8_lossy(&stored.selecting.fingerprint()).contains("s3cret"));
    }
}

#[test]
fn a_stored_response_answers_only_whom_it_may() {
    let fresh = "Cache-Control: max-age=60|Age: 10";
    let stale = "Cache-Control: max-age=60|Age: 60";
    let swr = "Cache-Control: max-age=60, stale-while-revalidate=5|Age: ";
    let disabled = ReuseRules { disabled: true, ..REUSE };
    let offline = ReuseRules { mode: Mode::Offline, ..REUSE };
    let force = ReuseRules { mode: Mode::Force, ..REUSE };
    let swr_flag = ReuseRules { stale_while_revalidate: DeltaSeconds(10), ..REUSE };
    let used_up = ReuseRules { reuses_max: Some(0), ..REUSE };
    #[rustfmt::skip]
    let table: [(&str, &str, &str, &str, &ReuseRules, &str); 49] = [
        ("4",       "GET",  "", fresh, &REUSE,    "reuse"),
        ("4.3.5",   "HEAD", "", fresh, &REUSE,    "reuse"),
        ("4",       "POST", "", fresh, &REUSE,    "method"),
        ("4",       "GET",  "Content-Length: 3", fresh, &REUSE, "method"),
        ("4",       "GET",  "Content-Length: 0", fresh, &REUSE, "reuse"),
        ("4.2",     "GET",  "", stale, &REUSE,    "stale"),
        ("3.3",     "GET",  "Range: bytes=0-1", fresh, &REUSE, "reuse"),
        ("4.3.2",   "GET",  "If-Match: \"a\"", fresh, &REUSE, "request precondition"),
        ("4.3.2",   "GET",  "If-Unmodified-Since: NOW", fresh, &REUSE, "request precondition"),
        ("4.3.2",   "GET",  "If-None-Match: \"a\"", fresh, &REUSE, "reuse"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", stale, &REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=0", stale, &REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=9", "Cache-Control: max-age=60|Age: 69", &REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=9", "Cache-Control: max-age=60|Age: 70", &REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: max-age=60, must-revalidate|Age: 60", &REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: s-maxage=60|Age: 60", &REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: s-maxage=0", &REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: no-cache|ETag: \"a\"", &REUSE, "stale no-cache"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale, max-age=60", stale, &REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale, max-age=59", stale, &REUSE, "request max-age"),
        ("5.2.1.3", "GET",  "Cache-Control: min-fresh=50", fresh, &REUSE, "reuse"),
        ("5.2.1.3", "GET",  "Cache-Control: min-fresh=51", fresh, &REUSE, "request min-fresh"),
        ("5.2.2.4", "GET",  "", "Cache-Control: no-cache, max-age=60|ETag: \"a\"", &REUSE, "stale no-cache"),
        ("5.2.2.4", "GET",  "", "Cache-Control: No-Cache|Last-Modified: NOW-60", &REUSE, "stale no-cache"),
        ("5.2.1.4", "GET",  "Cache-Control: no-cache", fresh, &REUSE, "request no-cache"),
        ("5.2.1.1", "GET",  "Cache-Control: max-age=9", fresh, &REUSE, "request max-age"),
        ("5.2.1.1", "GET",  "Cache-Control: max-age=10", fresh, &REUSE, "reuse"),
        ("5.2.1.5", "GET",  "Cache-Control: no-store", fresh, &REUSE, "reuse"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached", fresh, &REUSE, "reuse"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached", stale, &REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "QUERY", "Cache-Control: only-if-cached", fresh, &REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "POST", "Cache-Control: only-if-cached", fresh, &REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached|Content-Length: 3", fresh, &REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "POST", "Cache-Control: only-if-cached", fresh, &force, "method"),
        ("3.5",     "GET",  "Authorization: x", fresh, &REUSE, "reuse"),
        ("3.5",     "GET",  "Authorization: x", "X: y", &REUSE, "request authorization"),
        ("4.2.2",   "GET",  "Cookie: x", "X: y", &REUSE, "request cookie"),
        ("4.2.2",   "GET",  "", "X: y", &REUSE,   "reuse"),
        ("5861 3",  "GET",  "", &format!("{swr}64"), &REUSE, "stale-while-revalidate"),
        ("5861 3",  "GET",  "", &format!("{swr}65"), &REUSE, "stale"),
        ("5861 3",  "GET",  "Cache-Control: max-age=99", &format!("{swr}64"), &REUSE, "stale"),
        ("5861 3",  "GET",  "", "Cache-Control: max-age=60, must-revalidate, stale-while-revalidate=5|Age: 60", &REUSE, "stale"),
        ("flag",    "GET",  "", stale, &swr_flag, "stale-while-revalidate"),
        ("flag",    "GET",  "", fresh, &disabled, "bypass disabled"),
        ("flag",    "GET",  "", stale, &offline,  "offline"),
        ("flag",    "POST", "", fresh, &offline,  "refuse offline"),
        ("flag",    "GET",  "Cache-Control: no-cache", fresh, &force, "reuse"),
        ("flag",    "GET",  "Cookie: x", "X: y", &force, "reuse"),
        ("flag",    "GET",  "", fresh, &used_up,  "stale hit-ttl"),
    ];
    for (section, method, asked, text, rules, expected) in table {
        let presented = Presented::read(&request(method, asked));
        let told = match decide(&presented, Ok(stored(text)), NOW, rules) {
            Decision::Reuse(_) => "reuse".to_string(),
            Decision::ReuseStale { detail, .. } => detail.as_str().to_string(),
            Decision::Forward { why, detail: None, .. } => why.as_str().to_string(),
            Decision::Forward { why, detail: Some(detail), .. } => {
                format!("{} {}", why.as_str(), detail.as_str())
            }
            Decision::Refuse(detail) => format!("refuse {}", detail.as_str()),
        };
        assert_eq!(told, expected, "RFC 9111 §{section}: {method} {asked} / {text}");
    }
    let nothing = decide(&Presented::read(&request("GET", "")), Err(Why::VaryMiss), NOW, &REUSE);
    assert!(matches!(nothing, Decision::Forward { why: Why::VaryMiss, selected: None, .. }));
}

#[test]
fn a_stale_response_stands_in_unless_something_prohibits_it() {
    let never = ReuseRules { stale_if_error: DeltaSeconds::ZERO, ..REUSE };
    let own = "Cache-Control: max-age=60, stale-if-error=10|Age: ";
    #[rustfmt::skip]
    let table = [
        ("4.2.4",    "Cache-Control: max-age=60|Age: 60",                     &REUSE, true),
        ("4.2.4",    "Cache-Control: max-age=60|Age: 60",                     &never, false),
        ("4.2.4",    "Cache-Control: max-age=60|Age: 86459",                  &REUSE, true),
        ("4.2.4",    "Cache-Control: max-age=60|Age: 86460",                  &REUSE, false),
        ("5861 4",   &format!("{own}69"),                                     &never, true),
        ("5861 4",   &format!("{own}70"),                                     &REUSE, false),
        ("5.2.2.2",  "Cache-Control: max-age=60, must-revalidate|Age: 60",    &REUSE, false),
        ("5.2.2.2",  "Cache-Control: max-age=60, must-revalidate, stale-if-error=9|Age: 60", &REUSE, false),
        ("5.2.2.8",  "Cache-Control: max-age=60, proxy-revalidate|Age: 60",   &REUSE, false),
        ("5.2.2.10", "Cache-Control: s-maxage=60|Age: 60",                    &REUSE, false),
        ("5.2.2.4",  "Cache-Control: max-age=60, no-cache|ETag: \"a\"",       &REUSE, false),
        ("4.2.4",    "Cache-Control: max-age=60, must-revalidate|Age: 10",    &REUSE, true),
    ];
    for (section, text, rules, expected) in table {
        let got = may_stand_in(&Presented::default(), &stored(text), NOW, rules);
        assert_eq!(got, expected, "RFC 9111 §{section}: {text}");
    }
}

#[test]
fn support_reads_fields_with_semicolons() {
    let expected = [("A".to_string(), "b; c".to_string()), ("D".to_string(), "e".to_string())];
    assert_eq!(field_lines("A: b; c; D: e"), expected);
}
