//! What directives and `Connection` permit and forbid, through the whole engine. RFC 9111 §3, §5.2;
//! RFC 9110 §7.6.1; RFC 5861 §4.

use super::support;
use super::support::engine::bench;
use caching_proxy::clock::DeltaSeconds;

/// The client wants nothing from the origin server, whatever the method.
#[test]
fn only_if_cached_forwards_no_method() {
    for method in ["GET", "HEAD", "QUERY", "OPTIONS", "PROPFIND", "SEARCH", "POST", "DELETE", "FOO"]
    {
        let bench = bench(|_| ());
        let answer = bench.fetch(method, "/a", "Cache-Control: only-if-cached");
        assert_eq!((answer.status, answer.told().as_str()), (504, "detail=only-if-cached"));
        assert_eq!(bench.asked().len(), 0, "RFC 9111 §5.2.1.7: {method}");
    }
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "x");
    bench.get("/a");
    for own in ["Content-Length: 3", "If-Match: \"a\"", "Cache-Control: no-cache"] {
        let own = format!("Cache-Control: only-if-cached; {own}");
        assert_eq!(bench.fetch("GET", "/a", &own).status, 504, "{own}");
    }
    assert_eq!(bench.get_with("/a", "Cache-Control: only-if-cached").1, "x");
}

/// RFC 5861 §4: the client says for how long what is stale will do. Whatever states a bound, holds.
#[test]
fn stale_if_error_in_a_request_permits_and_bounds() {
    #[rustfmt::skip]
    let table = [
        // The response, the operator's seconds, the request, and does it stand in after ten seconds?
        ("X: y",              0,      "stale-if-error=10",                   true),
        ("X: y",              0,      "stale-if-error=9",                    false),
        ("X: y",              0,      "stale-if-error",                      false),
        ("X: y",              0,      "no-transform",                        false),
        ("X: y",              86_400, "no-transform",                        true),
        ("X: y",              86_400, "stale-if-error=5",                    false),
        ("stale-if-error=60", 0,      "no-transform",                        true),
        ("stale-if-error=60", 0,      "stale-if-error=5",                    false),
        ("stale-if-error=60", 0,      "stale-if-error=10",                   true),
        ("stale-if-error=5",  86_400, "stale-if-error=60",                   false),
        ("must-revalidate",   0,      "stale-if-error=60",                   false),
        ("proxy-revalidate",  0,      "stale-if-error=60",                   false),
    ];
    for (stated, flag, asked, serves) in table {
        for failed in [Some(503), None] {
            let bench = bench(|settings| settings.reuse.stale_if_error = DeltaSeconds(flag));
            let stated = if stated == "X: y" { "no-transform" } else { stated };
            bench.answers(200, &format!("Cache-Control: max-age=1, {stated}"), "stale");
            match failed {
                Some(status) => bench.answers(status, "X: y", "busy"),
                None => bench.refuses(),
            };
            bench.get("/a");
            // Stale for nine seconds and something: the window ends at its last second.
            let own = format!("Cache-Control: {asked}");
            let (_, content, _) = bench.after(10).get_with("/a", &own);
            assert_eq!(content == "stale", serves, "RFC 5861 §4: {stated}, {flag}, {asked}");
        }
    }
}

/// Who says `no-cache` wants what the origin server says now, and that is an error.
#[test]
fn no_cache_in_a_request_gets_the_error_that_answered_it() {
    for status in [429, 500, 502, 503, 504] {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "stored");
        bench.answers(status, "X: y", "bad").answers(status, "X: y", "bad");
        bench.get("/a");
        let (code, content, _) = bench.get_with("/a", "Cache-Control: no-cache");
        assert_eq!((code, content.as_str()), (status, "bad"), "RFC 9111 §5.2.1.4");
        assert_eq!(bench.get("/a").1, "stored", "and what is stored stays");
        let (code, content, _) = bench.after(70).get("/a");
        assert_eq!((code, content.as_str()), (200, "stored"), "nobody else gets it");
        bench.refuses();
        let (code, content, told) = bench.get_with("/a", "Cache-Control: no-cache");
        assert_eq!((code, content.as_str()), (200, "stored"), "RFC 9111 §4.2.4: no answer at all");
        assert!(told.ends_with("detail=stale-if-error"), "{told}");
    }
}

/// The operator's rules, where these hold, are not the client's to change.
#[test]
fn force_ignores_what_requests_say_about_errors() {
    let bench = bench(|settings| {
        settings.reuse.mode = caching_proxy::policy::reuse::Mode::Force;
        settings.reuse.stale_if_error = DeltaSeconds(60);
    });
    bench.answers(404, "Cache-Control: max-age=1", "stored").answers(500, "X: y", "bad");
    bench.get("/a");
    let own = "Cache-Control: no-cache, stale-if-error=0";
    assert_eq!(bench.after(2).get_with("/a", own).1, "stored");
}

/// What `private` or `no-cache` names is left out, and the rest is for everybody.
#[test]
fn a_cookie_that_is_named_is_left_out_of_what_is_stored() {
    #[rustfmt::skip]
    let table = [
        ("Cache-Control: max-age=60, private=\"set-cookie\"", true),
        ("Cache-Control: max-age=60, no-cache=\"Set-Cookie\"", true),
        ("Cache-Control: max-age=60, private=\"x, Set-Cookie\"", true),
        ("Cache-Control: private=\"set-cookie\"; Expires: Fri, 15 Jan 2027 08:01:00 GMT; Date: Fri, 15 Jan 2027 08:00:00 GMT", true),
        ("CDN-Cache-Control: max-age=60, private=\"set-cookie\"", true),
        ("Cache-Control: max-age=60, private=\"set-cookie\"; Set-Cookie2: c=d", false),
        ("Cache-Control: max-age=60, private=\"x\"", false),
        ("Cache-Control: max-age=60, private=\"set-cookie\", private", false),
        ("Cache-Control: private=\"set-cookie\"", false),
    ];
    for (fields, kept) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("{fields}; Set-Cookie: a=b; A: 1"), "x");
        let first = bench.fetch("GET", "/a", "");
        assert_eq!(first.field("set-cookie"), "a=b", "the client that asked gets it");
        assert_eq!(first.told().ends_with("; stored"), kept, "RFC 9111 §3.1: {fields}");
        if kept {
            let again = bench.fetch("GET", "/a", "");
            assert_eq!((again.field("set-cookie").as_str(), again.field("a").as_str()), ("", "1"));
            assert_eq!(again.told(), "hit; ttl=60");
        }
    }
}

/// What `Connection` names is meant for the proxy: it obeys that, and passes it on to nobody.
#[test]
fn a_field_that_connection_names_is_obeyed_and_dropped() {
    let fresh = "Cache-Control: max-age=60";
    #[rustfmt::skip]
    let table = [
        ("Cache-Control",     "Cache-Control: no-store",                    "detail=no-store"),
        ("cache-control",     "Cache-Control: private, max-age=60",         "detail=private"),
        ("Cache-Control",     "Cache-Control: max-age=60",                  "stored"),
        ("CDN-Cache-Control", &format!("{fresh}; CDN-Cache-Control: no-store"), "detail=no-store"),
        ("Vary",              &format!("{fresh}; Vary: *"),                 "detail=vary-star"),
        ("Set-Cookie",        &format!("{fresh}; Set-Cookie: a=b"),         "detail=set-cookie"),
        ("a, Expires",        "Expires: Fri, 15 Jan 2027 08:01:00 GMT; Date: Fri, 15 Jan 2027 08:00:00 GMT", "stored"),
        ("Age",               &format!("{fresh}; Age: 10"),                 "stored"),
        // These are needed later than now, and would be forgotten.
        ("Cache-Control",     "Cache-Control: no-cache; ETag: \"a\"",       "detail=connection"),
        ("Cache-Control",     "Cache-Control: max-age=60, must-revalidate", "detail=connection"),
        ("Cache-Control",     "Cache-Control: s-maxage=60",                 "detail=connection"),
        ("Cache-Control",     "Cache-Control: max-age=60, stale-if-error=0", "detail=connection"),
    ];
    for (named, fields, told) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Connection: {named}; {fields}"), "x");
        let first = bench.fetch("GET", "/a", "");
        let expected = format!("fwd=uri-miss; fwd-status=200; {told}");
        assert_eq!(first.told(), expected, "RFC 9110 §7.6.1: {fields}");
        let shown = |answer: &support::engine::Fetched| {
            let name = named.rsplit(", ").next().expect("a name").to_ascii_lowercase();
            // The proxy's own Age is not the origin server's.
            (
                if name == "age" { String::new() } else { answer.field(&name) },
                answer.field("connection"),
            )
        };
        assert_eq!(shown(&first), Default::default(), "{fields}");
        if told == "stored" {
            let again = bench.after(1).fetch("GET", "/a", "");
            assert_eq!(shown(&again), Default::default(), "{fields}");
            let left = if named == "Age" { "hit; ttl=49" } else { "hit; ttl=59" };
            assert_eq!(again.told(), left, "{fields}");
        }
    }
}

#[test]
fn a_vary_that_connection_names_selects() {
    let bench = bench(|_| ());
    for value in ["1", "2"] {
        bench.answers(
            200,
            "Connection: Vary; Cache-Control: max-age=60; Vary: Foo",
            if value == "1" { "1" } else { "2" },
        );
        let answer = bench.fetch("GET", "/a", &format!("Foo: {value}"));
        assert_eq!((answer.content.as_str(), answer.field("vary").as_str()), (value, ""));
    }
    for value in ["1", "2"] {
        let answer = bench.fetch("GET", "/a", &format!("Foo: {value}"));
        assert_eq!((answer.content.as_str(), answer.told().as_str()), (value, "hit; ttl=60"));
        assert_eq!(answer.field("vary"), "", "RFC 9110 §7.6.1");
    }
    assert!(bench.is_finished());
}

/// A 304 and a response to HEAD are obeyed alike.
#[test]
fn what_connection_names_in_a_304_or_a_head_response_is_obeyed() {
    for (method, status) in [("GET", 304), ("HEAD", 304), ("HEAD", 200)] {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"", "x");
        bench.answers(
            status,
            "Connection: Cache-Control; Cache-Control: no-store; ETag: \"a\"",
            "",
        );
        bench.get("/a");
        let answer = bench.after(2).fetch(method, "/a", "");
        assert_eq!((answer.status, answer.field("connection").as_str()), (200, ""));
        assert_eq!(bench.store.usage().memory.responses, 0, "RFC 9110 §7.6.1: {method}");
    }
}

#[test]
fn a_field_of_a_request_that_connection_names_is_obeyed_and_dropped() {
    #[rustfmt::skip]
    let table = [
        ("Cache-Control", "Cache-Control: no-store",          "fwd=uri-miss; fwd-status=200; detail=no-store"),
        ("Authorization", "Authorization: Basic x",           "fwd=uri-miss; fwd-status=200; detail=authorization"),
        ("Cookie",        "Cookie: a=b",                      "fwd=uri-miss; fwd-status=200; detail=cookie"),
        ("X-Other",       "X-Other: 1",                       "fwd=uri-miss; fwd-status=200; stored"),
    ];
    for (named, fields, told) in table {
        let bench = bench(|_| ());
        bench.answers(200, "X: y", "x");
        let answer = bench.fetch("GET", "/a", &format!("Connection: {named}; {fields}"));
        assert_eq!(answer.told(), told, "RFC 9110 §7.6.1: {fields}");
        let asked = bench.last_asked();
        assert_eq!((asked.field(named), asked.field("connection")), Default::default());
    }
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "0123456789");
    bench.get("/a");
    #[rustfmt::skip]
    let table = [
        ("Range",         "Range: bytes=1-2",                 206),
        ("If-None-Match", "If-None-Match: \"a\"",             304),
        ("Cache-Control", "Cache-Control: min-fresh=61, only-if-cached", 504),
    ];
    for (named, fields, status) in table {
        let answer = bench.fetch("GET", "/a", &format!("Connection: {named}; {fields}"));
        assert_eq!(answer.status, status, "RFC 9110 §7.6.1: {fields}");
    }
}

#[test]
fn a_response_has_one_date() {
    let (one, other) = ("Fri, 15 Jan 2027 07:59:50 GMT", "Fri, 15 Jan 2027 07:59:30 GMT");
    let bench = bench(|_| ());
    let fields = format!("Cache-Control: max-age=60; Date: {one}; Date: {other}");
    bench.answers(200, &fields, "x").answers(204, &fields, "");
    for told in ["fwd=uri-miss; fwd-status=200; stored", "hit; ttl=50"] {
        let answer = bench.fetch("GET", "/a", "");
        assert_eq!((answer.field("date").as_str(), answer.told().as_str()), (one, told));
    }
    assert_eq!(bench.fetch("POST", "/a", "").field("date"), one);
}

/// A client learns from it what the proxy did, errors included (RFC 9211).
#[test]
fn every_error_of_the_proxys_own_has_a_cache_status() {
    let bench = bench(|settings| {
        settings.origin =
            caching_proxy::message::target::OriginUrl::parse("http://o.test/p").expect("a URL");
    });
    bench.refuses();
    let circles = "Via: 1.1 proxy".to_string() + &", 1.1 proxy".repeat(9);
    #[rustfmt::skip]
    let table = [
        ("GET",  "/a",    "Cache-Control: only-if-cached", 504, "proxy; detail=only-if-cached"),
        ("GET",  "/a",    "X: y",                          502, "proxy; fwd=uri-miss; detail=connect"),
        ("GET",  "/../a", "X: y",                          400, "proxy"),
        ("GET",  "/a",    &circles,                        502, "proxy; detail=loop"),
    ];
    for (method, target, fields, status, told) in table {
        let answer = bench.fetch(method, target, fields);
        assert_eq!((answer.status, answer.field("cache-status").as_str()), (status, told));
        assert_eq!(answer.field("x-cache"), "MISS");
    }
}
