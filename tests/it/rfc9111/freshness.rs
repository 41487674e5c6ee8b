//! Freshness lifetime, age, and the directives that state them. RFC 9111 §4.2, §5.1, §5.2.

use std::time::Duration;

use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::policy::age::{age_value, corrected_initial_age};
use caching_proxy::policy::cache_control::{RequestDirectives, ResponseDirectives};
use caching_proxy::policy::freshness::{FreshnessRules, Lifetime, fresh_until, freshness_lifetime};
use http::HeaderName;

use super::{NOW, RULES, fields, status};

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
    let ttl = |milliseconds| FreshnessRules {
        cache_ttl: Some(Duration::from_millis(milliseconds)),
        ..default(1 << 31)
    };
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
        (ttl(5000),        200, "Last-Modified: NOW-86400",            Operator(DeltaSeconds(5))),
        (ttl(4001),        200, "Last-Modified: NOW-86400",            Operator(DeltaSeconds(5))),
        (ttl(5000),        200, "Cache-Control: max-age=60",           Explicit(DeltaSeconds(60))),
        (ttl(5000),        404, "Date: NOW",                           Unknown),
        (force,            200, "Cache-Control: no-store, max-age=0",  Operator(DeltaSeconds::MAX)),
        (force,            404, "Cache-Control: max-age=1",            Explicit(DeltaSeconds(1))),
    ];
    for (rules, code, text, expected) in table {
        assert_eq!(lifetime(code, text, rules), expected, "{rules:?}: {code} {text}");
    }
}

#[test]
fn no_response_is_fresh_beyond_cache_ttl() {
    let ttl = |seconds| FreshnessRules { cache_ttl: Some(Duration::from_secs(seconds)), ..RULES };
    let brief = FreshnessRules { cache_ttl: Some(Duration::from_millis(250)), ..RULES };
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
    for lifetime in [explicit, Lifetime::Operator(DeltaSeconds(1))] {
        assert_eq!(fresh_until(lifetime, DeltaSeconds(9), NOW, brief), Timestamp(NOW.0 + 250));
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
