//! Which request a stored response answers. RFC 9111 §4, §4.1, §4.2.4, §5.2.1.

use caching_proxy::clock::DeltaSeconds;
use caching_proxy::message::fields::Fields;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::reason::Why;
use caching_proxy::policy::reuse::{Decision, Mode, Presented, ReuseRules, decide, may_stand_in};
use caching_proxy::policy::vary::{self, Selecting};

use super::{NOW, REUSE, fields, request, salt, sent, stored, stored_for};

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

type Row = (&'static str, &'static str, &'static str, &'static str, ReuseRules, &'static str);

const FRESH: &str = "Cache-Control: max-age=60|Age: 10";
const STALE: &str = "Cache-Control: max-age=60|Age: 60";
const FORCE: ReuseRules = ReuseRules { mode: Mode::Force, ..REUSE };

fn check(table: &[Row]) {
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
        assert_eq!(told, *expected, "RFC 9111 §{section}: {method} {asked} / {text}");
    }
}

#[test]
fn a_stored_response_answers_only_whom_it_may() {
    #[rustfmt::skip]
    check(&[
        ("4",       "GET",  "", FRESH, REUSE,    "reuse"),
        ("4.3.5",   "HEAD", "", FRESH, REUSE,    "reuse"),
        ("4",       "POST", "", FRESH, REUSE,    "method"),
        ("4",       "GET",  "Content-Length: 3", FRESH, REUSE, "method"),
        ("4",       "GET",  "Content-Length: 0", FRESH, REUSE, "reuse"),
        ("4.2",     "GET",  "", STALE, REUSE,    "stale"),
        ("3.3",     "GET",  "Range: bytes=0-1", FRESH, REUSE, "reuse"),
        ("4.3.2",   "GET",  "If-Match: \"a\"", FRESH, REUSE, "request precondition"),
        ("4.3.2",   "GET",  "If-Unmodified-Since: NOW", FRESH, REUSE, "request precondition"),
        ("4.3.2",   "GET",  "If-None-Match: \"a\"", FRESH, REUSE, "reuse"),
        ("3.5",     "GET",  "Authorization: x", FRESH, REUSE, "reuse"),
        ("3.5",     "GET",  "Authorization: x", "X: y", REUSE, "request authorization"),
        ("4.2.2",   "GET",  "Cookie: x", "X: y", REUSE, "request cookie"),
        ("4.2.2",   "GET",  "", "X: y", REUSE,   "reuse"),
    ]);
    let nothing = decide(&Presented::read(&request("GET", "")), Err(Why::VaryMiss), NOW, &REUSE);
    assert!(matches!(nothing, Decision::Forward { why: Why::VaryMiss, selected: None, .. }));
}

#[test]
fn directives_of_request_and_response_decide_on_reuse() {
    #[rustfmt::skip]
    check(&[
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", STALE, REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=0", STALE, REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=9", "Cache-Control: max-age=60|Age: 69", REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale=9", "Cache-Control: max-age=60|Age: 70", REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: max-age=60, must-revalidate|Age: 60", REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: s-maxage=60|Age: 60", REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: s-maxage=0", REUSE, "stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale", "Cache-Control: no-cache|ETag: \"a\"", REUSE, "stale no-cache"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale, max-age=60", STALE, REUSE, "max-stale"),
        ("5.2.1.2", "GET",  "Cache-Control: max-stale, max-age=59", STALE, REUSE, "request max-age"),
        ("5.2.1.3", "GET",  "Cache-Control: min-fresh=50", FRESH, REUSE, "reuse"),
        ("5.2.1.3", "GET",  "Cache-Control: min-fresh=51", FRESH, REUSE, "request min-fresh"),
        ("5.2.2.4", "GET",  "", "Cache-Control: no-cache, max-age=60|ETag: \"a\"", REUSE, "stale no-cache"),
        ("5.2.2.4", "GET",  "", "Cache-Control: No-Cache|Last-Modified: NOW-60", REUSE, "stale no-cache"),
        ("5.2.1.4", "GET",  "Cache-Control: no-cache", FRESH, REUSE, "request no-cache"),
        ("5.2.1.1", "GET",  "Cache-Control: max-age=9", FRESH, REUSE, "request max-age"),
        ("5.2.1.1", "GET",  "Cache-Control: max-age=10", FRESH, REUSE, "reuse"),
        ("5.2.1.5", "GET",  "Cache-Control: no-store", FRESH, REUSE, "reuse"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached", FRESH, REUSE, "reuse"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached", STALE, REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "QUERY", "Cache-Control: only-if-cached", FRESH, REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "POST", "Cache-Control: only-if-cached", FRESH, REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "GET",  "Cache-Control: only-if-cached|Content-Length: 3", FRESH, REUSE, "refuse only-if-cached"),
        ("5.2.1.7", "POST", "Cache-Control: only-if-cached", FRESH, FORCE, "method"),
    ]);
}

#[test]
fn stale_responses_are_reused_where_somebody_permits_it() {
    const RETURNS: &str = "Cache-Control: max-age=60, stale-while-revalidate=5|Age: 64";
    const ENDS: &str = "Cache-Control: max-age=60, stale-while-revalidate=5|Age: 65";
    const DISABLED: ReuseRules = ReuseRules { disabled: true, ..REUSE };
    const OFFLINE: ReuseRules = ReuseRules { mode: Mode::Offline, ..REUSE };
    const SWR_FLAG: ReuseRules = ReuseRules { stale_while_revalidate: DeltaSeconds(10), ..REUSE };
    const USED_UP: ReuseRules = ReuseRules { reuses_max: Some(0), ..REUSE };
    #[rustfmt::skip]
    check(&[
        ("5861 3",  "GET",  "", RETURNS, REUSE, "stale-while-revalidate"),
        ("5861 3",  "GET",  "", ENDS, REUSE, "stale"),
        ("5861 3",  "GET",  "Cache-Control: max-age=99", RETURNS, REUSE, "stale"),
        ("5861 3",  "GET",  "", "Cache-Control: max-age=60, must-revalidate, stale-while-revalidate=5|Age: 60", REUSE, "stale"),
        ("flag",    "GET",  "", STALE, SWR_FLAG, "stale-while-revalidate"),
        ("flag",    "GET",  "", FRESH, DISABLED, "bypass disabled"),
        ("flag",    "GET",  "", STALE, OFFLINE,  "offline"),
        ("flag",    "POST", "", FRESH, OFFLINE,  "refuse offline"),
        ("flag",    "GET",  "Cache-Control: no-cache", FRESH, FORCE, "reuse"),
        ("flag",    "GET",  "Cookie: x", "X: y", FORCE, "reuse"),
        ("flag",    "GET",  "", FRESH, USED_UP,  "stale hit-ttl"),
    ]);
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
