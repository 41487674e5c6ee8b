//! What may be stored, and which of its fields. RFC 9111 §3.

use caching_proxy::clock::DeltaSeconds;
use caching_proxy::policy::freshness::FreshnessRules;
use caching_proxy::policy::reason::Detail;
use caching_proxy::policy::storing::StoringRules;

use super::{RULES, STORING, request, verdict};

type Row =
    (&'static str, &'static str, &'static str, u16, &'static str, StoringRules, Option<Detail>);

/// A response without a word about freshness is kept for a minute.
const KEPT: StoringRules = StoringRules {
    freshness: FreshnessRules { default_ttl: DeltaSeconds(60), ..RULES },
    ..STORING
};
const SHARES: StoringRules = StoringRules { share_cookies: true, ..STORING };
const SMALL: StoringRules = StoringRules { object_bytes_max: 9, ..STORING };
const COOKIE: &str = "Cache-Control: max-age=1|Set-Cookie: a=b";

fn check(table: &[Row]) {
    for (section, method, asked, code, text, rules, expected) in table {
        let got = verdict(&request(method, asked), *code, text, rules).err();
        assert_eq!(got, *expected, "RFC 9111 §{section}: {method} {asked} -> {code} {text}");
    }
}

#[test]
fn only_what_has_freshness_or_a_validator_is_stored() {
    #[rustfmt::skip]
    check(&[
        ("3",        "GET",  "", 200, "Cache-Control: max-age=60",              STORING, None),
        ("3",        "GET",  "", 200, "Expires: NOW+60",                        STORING, None),
        ("3",        "GET",  "", 200, "Cache-Control: s-maxage=60",             STORING, None),
        ("3",        "GET",  "", 200, "Cache-Control: max-age=0",               STORING, None),
        ("3",        "GET",  "", 599, "Cache-Control: max-age=60",              STORING, None),
        ("3",        "GET",  "", 503, "Cache-Control: max-age=60",              STORING, None),
        ("3",        "GET",  "", 302, "Cache-Control: max-age=60",              STORING, None),
        ("3",        "GET",  "", 200, "X: y",                                   STORING, Some(Detail::NoFreshness)),
        ("3",        "GET",  "", 200, "X: y",                                   KEPT,    None),
        ("3",        "GET",  "", 404, "X: y",                                   KEPT,    Some(Detail::NoFreshness)),
        ("3",        "HEAD", "", 200, "Cache-Control: max-age=60",              STORING, Some(Detail::Method)),
        ("3",        "POST", "", 200, "Cache-Control: max-age=60",              STORING, Some(Detail::Method)),
        ("3",        "GET",  "", 304, "Cache-Control: max-age=60",              STORING, Some(Detail::Status)),
        ("3",        "GET",  "If-Match: \"a\"", 412, "Cache-Control: max-age=60",  STORING, Some(Detail::Status)),
        ("3",        "GET",  "", 200, "ETag: \"a\"",                               STORING, None),
        ("3",        "GET",  "", 302, "ETag: \"a\"",                               STORING, Some(Detail::NoFreshness)),
        ("3",        "GET",  "", 302, "ETag: \"a\"|Cache-Control: public",         STORING, None),
        ("3",        "GET",  "", 302, "ETag: \"a\"|Cache-Control: no-cache",       STORING, None),
        ("html 9.2", "GET",  "", 200, "Content-Type: text/event-stream",        KEPT,    Some(Detail::EventStream)),
        ("html 9.2", "GET",  "", 200, "Content-Type: text/event-stream; charset=utf-8|Cache-Control: max-age=60", STORING, None),
        ("",         "GET",  "", 200, "Cache-Control: max-age=60",              SMALL,   Some(Detail::TooLarge)),
        ("4.2.2",    "GET",  "", 404, "Last-Modified: NOW-86400",               STORING, None),
    ]);
}

#[test]
fn only_parts_and_methods_that_can_be_reused_are_stored() {
    #[rustfmt::skip]
    check(&[
        ("3.3",      "GET",  "", 206, "Cache-Control: max-age=60",              STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-1", 200, "Cache-Control: max-age=60", STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/20", STORING, None),
        ("3.3",      "GET",  "Range: bytes=-5", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/*", STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-8/20", STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-10/20", STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 4-19/20", STORING, None),
        ("3.3",      "GET",  "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Type: multipart/byteranges", STORING, Some(Detail::Partial)),
        ("3.3",      "GET",  "Range: bytes=90-", 416, "Cache-Control: max-age=60|Content-Range: bytes */20", STORING, Some(Detail::Status)),
        ("9.3.3",    "POST", "", 200, "Cache-Control: max-age=60|Content-Location: /", STORING, None),
        ("9.3.3",    "POST", "", 201, "Cache-Control: max-age=60|Content-Location: /", STORING, Some(Detail::Method)),
        ("9.3.3",    "POST", "", 200, "Last-Modified: NOW-86400|Content-Location: /", STORING, Some(Detail::Method)),
        ("9.3.3",    "PUT",  "", 200, "Cache-Control: max-age=60|Content-Location: /", STORING, Some(Detail::Method)),
        ("9110 15.3.7.2", "GET", "Range: bytes=0-9", 206, "Cache-Control: max-age=60|Content-Range: bytes 0-9/20|Content-Type: multipart/byteranges", STORING, Some(Detail::Partial)),
    ]);
}

#[test]
fn the_origin_servers_directives_decide_on_storing() {
    #[rustfmt::skip]
    check(&[
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: no-cache|ETag: \"a\"",       STORING, None),
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: NO-CACHE, max-age=60|Last-Modified: NOW-60", STORING, None),
        ("5.2.2.5",  "GET",  "", 200, "Cache-Control: no-store, max-age=60",    STORING, Some(Detail::NoStore)),
        ("5.2.2.5",  "GET",  "", 200, "Cache-Control: No-StOrE|Expires: NOW+60", STORING, Some(Detail::NoStore)),
        ("5.2.2.7",  "GET",  "", 200, "Cache-Control: private, max-age=60",     STORING, Some(Detail::Private)),
        ("5.2.2.7",  "GET",  "", 200, "Cache-Control: private=\"x\", max-age=60", STORING, None),
        ("5.2.2.4",  "GET",  "", 200, "Cache-Control: no-cache, max-age=60",    STORING, Some(Detail::NoCache)),
        ("5.2.2.3",  "GET",  "", 200, "Cache-Control: no-store, must-understand, max-age=60", STORING, None),
        ("5.2.2.3",  "GET",  "", 599, "Cache-Control: no-store, must-understand, max-age=60", STORING, Some(Detail::MustUnderstand)),
        ("5.2.2.3",  "GET",  "", 599, "Cache-Control: must-understand, max-age=60", STORING, Some(Detail::MustUnderstand)),
        ("5.2.1.5",  "GET",  "Cache-Control: no-store", 200, "Cache-Control: max-age=60", STORING, Some(Detail::NoStore)),
    ]);
}

#[test]
fn what_is_personal_is_not_stored() {
    #[rustfmt::skip]
    check(&[
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60", STORING, Some(Detail::Authorization)),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60, public", STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: max-age=60, must-revalidate", STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: s-maxage=60", STORING, None),
        ("3.5",      "GET",  "Authorization: x", 200, "Cache-Control: public",  KEPT,    Some(Detail::Authorization)),
        ("4.2.2",    "GET",  "Cookie: a=b", 200, "X: y",                        KEPT,    Some(Detail::Cookie)),
        ("4.2.2",    "GET",  "Cookie: a=b", 200, "Cache-Control: max-age=60",   STORING, None),
        ("7.3",      "GET",  "", 200, COOKIE,                                   STORING, Some(Detail::SetCookie)),
        ("7.3",      "GET",  "", 200, COOKIE,                                   SHARES,  None),
        ("7.3",      "GET",  "", 200, "Set-Cookie: a=b",                        KEPT,    Some(Detail::SetCookie)),
        ("7.3",      "GET",  "", 200, "Cache-Control: public, max-age=1|Set-Cookie: a=b", STORING, None),
        ("7.3",      "GET",  "", 200, "Cache-Control: s-maxage=1|Set-Cookie: a=b", STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: max-age=1, private=\"set-cookie\"|Set-Cookie: a=b", STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: max-age=1, no-cache=\"set-cookie\"|Set-Cookie: a=b", STORING, None),
        ("3.1",      "GET",  "", 200, "Cache-Control: private=\"set-cookie\"|Set-Cookie: a=b", KEPT, Some(Detail::SetCookie)),
    ]);
}

#[test]
fn what_no_request_would_match_is_not_stored() {
    #[rustfmt::skip]
    check(&[
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: no-store", KEPT, Some(Detail::NoStore)),
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: no-cache|ETag: \"a\"", KEPT, Some(Detail::Connection)),
        ("9110 7.6.1", "GET", "", 200, "Connection: Cache-Control|Cache-Control: max-age=60", STORING, None),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *",      STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary:|Vary: a, *", STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *, *",   STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *|Vary: *", STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: , *",    STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: a, *",   STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: *, a",   STORING, Some(Detail::VaryStar)),
        ("4.1",      "GET",  "", 200, "Cache-Control: max-age=60|Vary: , a",    STORING, None),
    ]);
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
