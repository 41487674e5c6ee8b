//! Validation, freshening, invalidation and the client's own conditions, through the whole engine.
//! RFC 9111 §3.2, §4.1, §4.3, §4.4; RFC 9110 §13.

use super::support;
use super::support::engine::bench;

#[test]
fn both_validators_are_offered_byte_for_byte() {
    #[rustfmt::skip]
    let table = [
        ("ETag: \"a\"", "\"a\"", ""),
        ("ETag: W/\"a,b\"", "W/\"a,b\"", ""),
        ("ETag: bare", "bare", ""),
        ("ETag: \"é\"", "\"é\"", ""),
        ("Last-Modified: Sun Nov  6 08:49:37 1994", "", "Sun Nov  6 08:49:37 1994"),
        ("Last-Modified: nonsense", "", "nonsense"),
        ("ETag: \"a\"; Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "\"a\"", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    for (fields, tag, date) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Cache-Control: max-age=1; {fields}"), "old");
        bench.answers(304, "Cache-Control: max-age=60", "");
        bench.get("/a");
        // The client's own conditions are for the client alone.
        let own = "If-None-Match: \"x\"; If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
        let answer = bench.after(2).fetch("GET", "/a", own);
        let asked = bench.last_asked();
        assert_eq!(
            (asked.field("if-none-match"), asked.field("if-modified-since")),
            (tag.into(), date.into()),
            "RFC 9111 §4.3.1: {fields}"
        );
        assert_eq!(
            (answer.status, answer.content.as_str(), answer.field("x-cache")),
            (200, "old", "HIT".into())
        );
        assert_eq!(answer.told(), "fwd=stale; fwd-status=304; ttl=60; stored");
        assert_eq!(bench.get("/a").2, "hit; ttl=60", "the 304 counts from its arrival");
    }
}

#[test]
fn a_304_replaces_the_fields_that_it_carries() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=10; ETag: \"a\"; A: 1; B: 1; B: 2; Content-Type: text/plain; Age: 3; Content-Length: 5; X-Frame-Options: deny", "hello");
    let changes = "Cache-Control: max-age=99; ETag: \"a\"; B: 3; Content-Type: text/html; Content-Length: 77; Set-Cookie: a=b; X-Frame-Options: sameorigin; Connection: C; C: 4; Date: Fri, 15 Jan 2027 08:00:20 GMT";
    bench.answers(304, changes, "");
    bench.get("/a");
    let answer = bench.after(20).fetch("GET", "/a", "");
    let shown = |answer: &support::engine::Fetched| {
        let names = ["a", "b", "content-type", "cache-control", "age", "c", "x-frame-options"];
        names.map(|name| answer.field(name))
    };
    let merged = ["1", "3", "text/html", "max-age=99", "0", "", "sameorigin"].map(String::from);
    assert_eq!(shown(&answer), merged, "RFC 9111 §3.2");
    assert_eq!((answer.status, answer.content.as_str()), (200, "hello"));
    // A cookie that came with the 304 may not be stored, so what it was merged into is gone.
    assert_eq!(bench.store.usage().memory.responses, 0);

    bench.answers(200, "Cache-Control: max-age=10; ETag: \"a\"; A: 1; Age: 3", "hello");
    bench.answers(304, "Cache-Control: max-age=99; B: 2", "");
    bench.get("/a");
    assert_eq!(bench.after(20).fetch("GET", "/a", "").field("b"), "2");
    let later = bench.after(50).fetch("GET", "/a", "");
    assert_eq!([later.field("a"), later.field("b"), later.field("age")], ["1", "2", "50"]);
    assert!(bench.is_finished());
}

const OLD: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
const OTHER: &str =
    "Last-Modified: Mon, 07 Nov 1994 08:49:37 GMT; Date: Fri, 15 Jan 2027 08:00:02 GMT";
const RECENT: &str =
    "Last-Modified: Fri, 15 Jan 2027 08:00:02 GMT; Date: Fri, 15 Jan 2027 08:00:02 GMT";

#[test]
fn a_304_is_matched_by_its_validator() {
    #[rustfmt::skip]
    let table = [
        ("ETag: \"a\"",   "ETag: \"a\"",   true),
        ("ETag: \"a\"",   "X: y",          true),
        ("ETag: W/\"a\"", "ETag: W/\"a\"", true),
        ("ETag: \"a\"",   "ETag: W/\"a\"", true),
        ("ETag: W/\"a\"", "ETag: \"a\"",   false),
        ("ETag: \"a\"",   "ETag: \"b\"",   false),
        ("ETag: W/\"a\"", "ETag: W/\"b\"", false),
        // Dates of long ago are strong, and one of this very second is weak.
        (OLD,                              OLD,                                        true),
        (OLD,                              "Last-Modified: Sunday, 06-Nov-94 08:49:37 GMT", true),
        ("Last-Modified: nonsense",        "Last-Modified: nonsense",                  true),
        (OLD,                              "X: y",                                     true),
        (OLD,                              OTHER,                                      false),
        (OLD,                              RECENT,                                     false),
        (OLD,                              &format!("ETag: \"b\"; {OLD}"),             true),
        (OLD,                              "ETag: \"b\"",                              false),
        (OLD,                              &format!("ETag: \"b\"; {OTHER}"),           false),
        ("ETag: \"a\"",                    OTHER,                                      false),
        (&format!("ETag: \"a\"; {OLD}"),   &format!("ETag: \"a\"; {OTHER}"),           true),
        (&format!("ETag: \"a\"; {OLD}"),   OTHER,                                      false),
        (&format!("ETag: W/\"a\"; {OLD}"), &format!("ETag: W/\"a\"; {OLD}"),           true),
        (&format!("ETag: W/\"a\"; {OLD}"), &format!("ETag: W/\"a\"; {OTHER}"),         false),
        (&format!("ETag: W/\"a\"; {OLD}"), &format!("ETag: W/\"a\"; {RECENT}"),        true),
    ];
    for (stored, received, taken) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Cache-Control: max-age=1; {stored}"), "old");
        bench.answers(304, &format!("Cache-Control: max-age=60; {received}"), "");
        bench.get("/a");
        bench.after(2);
        if !taken {
            bench.answers(200, "Cache-Control: max-age=60", "new");
        }
        let answer = bench.fetch("GET", "/a", "");
        assert_eq!(
            answer.content,
            if taken { "old" } else { "new" },
            "RFC 9111 §4.3.4: {stored} {received}"
        );
        if !taken {
            let asked = bench.last_asked();
            assert_eq!(
                asked.field("if-none-match") + &asked.field("if-modified-since"),
                "",
                "it is asked again without a condition"
            );
            assert_eq!(answer.told(), "fwd=stale; fwd-status=200; stored; detail=validator");
        }
        assert!(bench.is_finished());
    }
}

#[test]
fn a_304_to_the_clients_own_condition_is_passed_on() {
    let bench = bench(|_| ());
    bench.answers(304, "ETag: \"x\"; Cache-Control: max-age=60", "");
    let answer = bench.fetch("GET", "/a", "If-None-Match: \"x\"");
    assert_eq!(
        (answer.status, answer.field("x-cache"), answer.field("etag")),
        (304, "MISS".into(), "\"x\"".into())
    );
    assert_eq!(bench.last_asked().field("if-none-match"), "\"x\"");
    assert_eq!(bench.store.usage().memory.responses, 0, "there is nothing to store");
    bench.answers(200, "ETag: \"y\"; Cache-Control: max-age=60", "y");
    assert_eq!(
        bench.fetch("GET", "/a", "If-None-Match: \"x\"").told(),
        "fwd=uri-miss; fwd-status=200; stored"
    );
    assert!(bench.is_finished());
}

#[test]
fn a_no_cache_response_is_validated_each_time() {
    for fields in [
        "Cache-Control: no-cache",
        "Cache-Control: no-cache, max-age=60; Expires: Fri, 15 Jan 2027 08:01:00 GMT",
    ] {
        let bench = bench(|_| ());
        bench.answers(200, &format!("{fields}; ETag: \"a\""), "x");
        bench.answers(304, "ETag: \"a\"", "").answers(304, "ETag: \"a\"", "");
        bench.get("/a");
        for _ in 0..2 {
            let answer = bench.fetch("GET", "/a", "");
            assert_eq!(
                (answer.content.as_str(), answer.field("x-cache")),
                ("x", "HIT".into()),
                "RFC 9111 §5.2.2.4"
            );
        }
        bench.refuses();
        assert_eq!(bench.get("/a").0, 502, "nor does it stand in");
    }
}

#[test]
fn a_changed_representation_replaces_the_old_one() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"", "old");
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"b\"", "new");
    bench.get("/a");
    assert_eq!(
        bench.after(2).get("/a"),
        (200, "new".into(), "fwd=stale; fwd-status=200; stored".into())
    );
    assert_eq!((bench.get("/a").1.as_str(), bench.store.usage().memory.responses), ("new", 1));
}

#[test]
fn request_directives_validate_what_is_stored() {
    #[rustfmt::skip]
    let table = [
        ("5.2.1.4", "no-cache",     "fwd=request; fwd-status=304; ttl=60; stored; detail=no-cache"),
        ("5.2.1.1", "max-age=4",    "fwd=request; fwd-status=304; ttl=60; stored; detail=max-age"),
        ("5.2.1.3", "min-fresh=56", "fwd=request; fwd-status=304; ttl=60; stored; detail=min-fresh"),
    ];
    for (section, directive, expected) in table {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "x").answers(304, "X: y", "");
        bench.get("/a");
        let answer = bench.after(5).fetch("GET", "/a", &format!("Cache-Control: {directive}"));
        assert_eq!(
            (answer.told().as_str(), answer.field("x-cache")),
            (expected, "HIT".into()),
            "RFC 9111 §{section}"
        );
    }
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "x").answers(
        200,
        "Cache-Control: max-age=60",
        "y",
    );
    bench.get("/a");
    assert_eq!(
        bench.get_with("/a", "Cache-Control: no-cache").1,
        "y",
        "without a validator it is fetched"
    );
}

#[test]
fn max_stale_takes_what_nothing_forbids() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=10", "x");
    bench.get("/a");
    let answer = bench.after(15).get_with("/a", "Cache-Control: max-stale=5");
    assert_eq!(answer.2, "hit; ttl=-5; detail=max-stale", "RFC 9111 §5.2.1.2");
    bench.answers(200, "Cache-Control: max-age=10", "y");
    assert_eq!(bench.after(1).get_with("/a", "Cache-Control: max-stale=5").1, "y");
}

#[test]
fn the_clients_conditions_are_answered_from_what_is_stored() {
    let stored = "Cache-Control: max-age=60; ETag: \"a\"; Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT; Content-Type: text/plain; Content-Location: /b; Vary: Foo; Expires: Fri, 15 Jan 2027 08:00:00 GMT; A: 1";
    let bench = bench(|_| ());
    bench.answers(200, stored, "hello");
    bench.get("/a");
    let answer = bench.fetch("GET", "/a", "If-None-Match: \"a\"");
    assert_eq!(
        (answer.status, answer.content.as_str(), answer.field("x-cache")),
        (304, "", "HIT".into())
    );
    for name in ["etag", "cache-control", "content-location", "date", "expires", "vary", "age", "a"]
    {
        assert_ne!(answer.field(name), "", "RFC 9110 §15.4.5: {name}");
    }
    assert_eq!(answer.field("content-type") + &answer.field("last-modified"), "");
    assert_eq!(bench.fetch("HEAD", "/a", "If-None-Match: \"a\"").status, 304);
    let old = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(bench.fetch("GET", "/a", old).status, 304);
    assert_eq!(bench.fetch("GET", "/a", &format!("If-None-Match: \"b\"; {old}")).status, 200);
}

/// RFC 9110 §13.1.3: the client's date is compared with what the origin server has just confirmed.
#[test]
fn the_clients_condition_is_evaluated_after_freshening() {
    let bench = bench(|_| ());
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    bench.answers(200, &format!("Cache-Control: max-age=1; Last-Modified: {date}"), "x");
    bench.answers(304, "Cache-Control: max-age=60", "");
    bench.get("/a");
    let answer =
        bench.after(2).fetch("GET", "/a", "If-Modified-Since: Mon, 07 Nov 1994 08:49:37 GMT");
    assert_eq!(
        (answer.status, bench.last_asked().field("if-modified-since").as_str()),
        (304, date)
    );
}

/// The client has what the cache has not: the new response is stored, and not sent.
#[test]
fn the_clients_condition_is_evaluated_against_what_has_come() {
    for content in ["short", String::leak("long".repeat(50_000))] {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"", "old");
        bench.answers(200, "Cache-Control: max-age=60; ETag: \"b\"; A: 1", content);
        bench.get("/a");
        let answer = bench.after(2).fetch("GET", "/a", "If-None-Match: \"b\"");
        assert_eq!((answer.status, answer.content.as_str()), (304, ""));
        assert_eq!((answer.field("x-cache"), answer.field("a")), ("MISS".into(), "1".into()));
        assert_eq!(answer.told(), "fwd=stale; fwd-status=200; stored");
        assert_eq!(bench.get("/a").1, content);
    }
}

#[test]
fn conditions_for_the_origin_server_go_there() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "x").answers(412, "X: y", "no");
    bench.get("/a");
    let answer = bench.fetch("GET", "/a", "If-Match: \"b\"");
    assert_eq!(
        (answer.status, answer.told().as_str()),
        (412, "fwd=request; fwd-status=412; detail=precondition")
    );
    assert_eq!(bench.last_asked().field("if-match"), "\"b\"");
    assert_eq!(bench.get("/a").2, "hit; ttl=60", "and what is stored stays");
}

const TAG: &str = "ETag: \"a\"";
const BOTH: &str = "ETag: \"a\"; Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";

#[test]
fn head_freshens_what_is_stored_or_shows_that_it_is_out_of_date() {
    #[rustfmt::skip]
    let table = [
        (BOTH,   BOTH,                                  200, "freshened"),
        (BOTH,   &format!("{BOTH}; Content-Length: 5"), 200, "freshened"),
        (TAG,    TAG,                                   200, "freshened"),
        (OLD,   OLD,                                  200, "freshened"),
        ("X: y", "X: z",                                200, "freshened"),
        ("X: y", "Content-Length: 5",                   200, "freshened"),
        (BOTH,   "ETag: \"b\"",                         200, "stale"),
        (BOTH,   &format!("ETag: \"b\"; {OLD}"),       200, "stale"),
        (BOTH,   "ETag: \"a\"; Last-Modified: Mon, 07 Nov 1994 08:49:37 GMT", 200, "stale"),
        (BOTH,   &format!("{BOTH}; Content-Length: 6"), 200, "stale"),
        ("X: y", "Content-Length: 6",                   200, "stale"),
        (BOTH,   "X: y",                                200, "stale"),
        (BOTH,   TAG,                                   200, "stale"),
        (BOTH,   OLD,                                  200, "stale"),
        (TAG,    OLD,                                  200, "stale"),
        (TAG,    BOTH,                                  200, "stale"),
        (OLD,   BOTH,                                  200, "stale"),
        ("X: y", TAG,                                   200, "stale"),
        ("X: y", OLD,                                  200, "stale"),
        (BOTH,   &format!("{BOTH}; Cache-Control: no-store"), 200, "gone"),
        (BOTH,   &format!("{BOTH}; Cache-Control: private"),  200, "gone"),
        (BOTH,   &format!("{BOTH}; Vary: *"),           200, "gone"),
        (BOTH,   "ETag: \"b\"; Cache-Control: no-store", 200, "gone"),
        ("X: y", "Vary: Foo, *",                        200, "gone"),
        (BOTH,   TAG,                                   410, "as it was"),
        (BOTH,   "Cache-Control: no-store",             410, "as it was"),
    ];
    for (stored, fields, status, expected) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Cache-Control: max-age=60; {stored}"), "hello");
        bench.get("/a");
        bench.answers(status, &format!("Cache-Control: max-age=90; New: 1; {fields}"), "");
        let head = bench.after(5).fetch("HEAD", "/a", "Cache-Control: no-cache");
        assert_eq!((head.status, head.content.as_str()), (status, ""));
        assert_eq!(bench.last_asked().method, "HEAD");
        if matches!(expected, "stale" | "gone") {
            bench.answers(200, "Cache-Control: max-age=60", "new");
        }
        let answer = bench.fetch("GET", "/a", "");
        let got = match (answer.content.as_str(), answer.told().as_str()) {
            ("hello", "hit; ttl=90") => "freshened",
            ("hello", "hit; ttl=55") => "as it was",
            ("new", "fwd=stale; fwd-status=200; stored") => "stale",
            ("new", "fwd=uri-miss; fwd-status=200; stored") => "gone",
            other => panic!("{other:?}"),
        };
        assert_eq!(got, expected, "RFC 9111 §4.3.5: {stored} / {status} {fields}");
        assert_eq!(answer.field("new").is_empty(), expected != "freshened");
    }
}

#[test]
fn a_stale_head_is_validated_as_head() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"; A: 1", "hello");
    bench.answers(304, "Cache-Control: max-age=60; B: 2", "");
    bench.get("/a");
    let head = bench.after(2).fetch("HEAD", "/a", "");
    assert_eq!(
        (head.status, head.field("a"), head.field("b"), head.content.as_str()),
        (200, "1".into(), "2".into(), "")
    );
    assert_eq!(
        (bench.last_asked().method.as_str(), bench.get("/a").2.as_str()),
        ("HEAD", "hit; ttl=60")
    );
}

#[test]
fn unsafe_and_unknown_methods_invalidate() {
    #[rustfmt::skip]
    let table = [
        ("POST",     200, "", "/a", true),
        ("PUT",      204, "", "/a", true),
        ("DELETE",   200, "", "/a", true),
        ("M-SEARCH", 200, "", "/a", true),
        ("POST",     302, "", "/a", true),
        ("POST",     500, "", "/a", false),
        ("POST",     403, "", "/a", false),
        ("OPTIONS",  200, "", "/a", false),
        ("POST",     201, "Location: /b", "/b", true),
        ("PUT",      200, "Content-Location: /b", "/b", true),
        ("DELETE",   200, "Location: http://o.test/b", "/b", true),
        ("M-SEARCH", 200, "Content-Location: http://o.test:80/b", "/b", true),
        ("POST",     201, "Location: b", "/b", true),
        ("POST",     201, "Location: http://other.test/b", "/b", false),
        ("POST",     201, "Location: https://o.test/b", "/b", false),
        ("POST",     201, "Location: http://o.test:81/b", "/b", false),
        ("POST",     500, "Location: /b", "/b", false),
    ];
    for (method, status, fields, target, gone) in table {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=60; Vary: Foo", "1");
        bench.answers(200, "Cache-Control: max-age=60; Vary: Foo", "2");
        bench.get_with(target, "Foo: 1");
        bench.get_with(target, "Foo: 2");
        bench.answers(status, &format!("X: y; {fields}"), "");
        bench.ask(method, "/a", "");
        let left = bench.store.usage().memory.responses;
        assert_eq!(left, if gone { 0 } else { 2 }, "RFC 9111 §4.4: {method} {status} {fields}");
    }
}

/// What was on its way when something changed is not stored after it.
#[test]
fn an_invalidation_is_not_undone_by_a_fill_in_flight() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "old").answers(200, "X: y", "");
    let mut early = bench.response("/a", "");
    bench.ask("POST", "/a", "");
    assert_eq!(support::engine::content(&mut early), "old");
    assert_eq!(bench.store.usage().memory.responses, 0);
}

#[test]
fn a_post_that_says_what_it_is_answers_later_gets() {
    let fresh = "Cache-Control: max-age=60";
    #[rustfmt::skip]
    let table = [
        (200, format!("{fresh}; Content-Location: /a"),              true),
        (200, format!("{fresh}; Content-Location: http://o.test/a"), true),
        (200, format!("{fresh}; Content-Location: /b"),              false),
        (200, format!("{fresh}; Content-Location: http://x.test/a"), false),
        (201, format!("{fresh}; Content-Location: /a"),              false),
        (200, fresh.to_string(),                                     false),
        (200, "Content-Location: /a".to_string(),                    false),
        (200, format!("{fresh}, no-store; Content-Location: /a"),    false),
    ];
    for (status, fields, kept) in table {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=60", "before");
        bench.answers(status, &fields, "posted");
        bench.get("/a");
        assert_eq!(bench.fetch("POST", "/a", "").content, "posted");
        if !kept {
            bench.answers(200, "X: y", "got");
        }
        let expected = if kept { "posted" } else { "got" };
        assert_eq!(bench.get("/a").1, expected, "RFC 9110 §9.3.3: {status} {fields}");
        assert!(bench.is_finished());
    }
}

#[test]
fn a_304_that_forbids_storing_takes_away_what_was_stored() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"", "x");
    bench.answers(304, "Cache-Control: no-store", "");
    bench.get("/a");
    let answer = bench.after(2).fetch("GET", "/a", "");
    assert_eq!((answer.status, answer.content.as_str()), (200, "x"));
    assert_eq!(bench.store.usage().memory.responses, 0);
}

/// `--hit-ttl` says that it must come from the origin server again.
#[test]
fn what_is_used_up_is_fetched_without_a_condition() {
    let bench = bench(|settings| settings.reuse.reuses_max = Some(1));
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "x");
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"a\"", "y");
    bench.get("/a");
    assert!(bench.get("/a").2.starts_with("hit"));
    assert_eq!(bench.get("/a").2, "fwd=stale; fwd-status=200; stored; detail=hit-ttl");
    assert_eq!(bench.last_asked().field("if-none-match"), "");
}

#[test]
fn a_refresh_in_the_background_is_a_validation_with_the_requests_fields() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1, stale-while-revalidate=10; ETag: \"a\"", "x");
    bench.answers(304, "Cache-Control: max-age=60", "");
    bench.get("/a");
    let own = "Foo: 1; If-None-Match: \"own\"; Range: bytes=0-0";
    let answer = bench.after(3).fetch("GET", "/a", own);
    assert_eq!((answer.status, answer.content.as_str()), (206, "x"));
    assert_eq!(answer.told(), "hit; ttl=-2; detail=stale-while-revalidate");
    let asked = bench.last_asked();
    assert_eq!(
        (asked.method.as_str(), asked.field("foo"), asked.field("if-none-match")),
        ("GET", "1".into(), "\"a\"".into())
    );
    assert_eq!(bench.get("/a").2, "hit; ttl=60");
    // A HEAD sets off the same.
    bench.answers(200, "Cache-Control: max-age=1, stale-while-revalidate=10", "x").answers(
        200,
        "Cache-Control: max-age=60",
        "y",
    );
    bench.get("/b");
    bench.after(3).fetch("HEAD", "/b", "");
    assert_eq!((bench.last_asked().method.as_str(), bench.get("/b").1.as_str()), ("GET", "y"));
}

/// What the client wanted of the representation, or of caches, is answered from the stale response; the
/// new one is for everybody.
#[test]
fn a_refresh_in_the_background_asks_for_the_whole() {
    #[rustfmt::skip]
    let table = [
        "Range: bytes=1-2", "Range: bytes=0-", "Range: bytes=99-", "Range: bytes=1-2; If-Range: \"a\"",
        "Range: bytes=1-2; If-Range: \"x\"", "If-None-Match: \"a\"", "If-None-Match: \"x\"",
        "If-Modified-Since: Fri, 15 Jan 2027 08:00:00 GMT", "Cache-Control: only-if-cached", "Pragma: no-cache",
    ];
    for own in table {
        for validator in ["ETag: \"a\"", "X: y"] {
            let bench = bench(|_| ());
            let stale = "Cache-Control: max-age=1, stale-while-revalidate=10";
            bench.answers(200, &format!("{stale}; {validator}"), "old");
            bench.answers(200, "Cache-Control: max-age=60", "new");
            bench.get("/a");
            let answer = bench.after(3).fetch("GET", "/a", &format!("Foo: 1; {own}"));
            assert_eq!(answer.told(), "hit; ttl=-2; detail=stale-while-revalidate", "{own}");
            let asked = bench.last_asked();
            let tag = if validator == "X: y" { "" } else { "\"a\"" };
            assert_eq!(asked.field("if-none-match"), tag, "RFC 5861 §3: {own}");
            for name in ["range", "if-range", "if-modified-since", "cache-control", "pragma"] {
                assert_eq!(asked.field(name), "", "RFC 5861 §3: {own}");
            }
            assert_eq!((asked.method.as_str(), asked.field("foo").as_str()), ("GET", "1"));
            assert_eq!(bench.get("/a"), (200, "new".into(), "hit; ttl=60".into()), "{own}");
        }
    }
    // A stale part gives way to the whole, too.
    let bench = bench(|_| ());
    let part = "Cache-Control: max-age=1, stale-while-revalidate=10; Content-Range: bytes 2-4/10";
    bench.answers(206, part, "234").answers(200, "Cache-Control: max-age=60", "0123456789");
    bench.fetch("GET", "/a", "Range: bytes=2-4");
    assert_eq!(bench.after(3).fetch("GET", "/a", "Range: bytes=3-4").content, "34");
    assert_eq!(bench.last_asked().field("range"), "");
    assert_eq!(bench.get("/a").1, "0123456789");
    // What may not be stored is not fetched.
    bench.answers(200, "Cache-Control: max-age=1, stale-while-revalidate=10", "old");
    bench.get("/b");
    let (_, content, told) = bench.after(3).get_with("/b", "Cache-Control: no-store");
    assert_eq!((content.as_str(), told.starts_with("hit; ttl=-2")), ("old", true));
    assert!(bench.is_finished());
}

/// RFC 5861 §3, and what the background brings replaces what is stored.
#[test]
fn what_the_background_brings_replaces_the_stale_response() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1, stale-while-revalidate=4; ETag: \"a\"", "old");
    bench.answers(200, "Cache-Control: no-cache; ETag: \"b\"", "new");
    bench.get("/a");
    assert_eq!(bench.after(3).get("/a").1, "old");
    bench.answers(304, "X: y", "");
    let (_, content, told) = bench.after(3).get("/a");
    assert_eq!((content.as_str(), told.starts_with("fwd=stale; fwd-status=304")), ("new", true));
    assert_eq!(bench.last_asked().field("if-none-match"), "\"b\"");
}

#[test]
fn failures_that_are_answers_let_the_stale_stand_in() {
    for status in [429, 500, 502, 503, 504] {
        let bench = bench(|_| ());
        bench
            .answers(200, "Cache-Control: max-age=1; ETag: \"a\"", "x")
            .answers(status, "X: y", "bad");
        bench.get("/a");
        let (code, content, told) = bench.after(2).get("/a");
        assert_eq!((code, content.as_str()), (200, "x"), "RFC 5861 §4: {status}");
        assert_eq!(told, format!("fwd=stale; fwd-status={status}; ttl=-1; detail=stale-if-error"));
    }
    let bench =
        bench(|settings| settings.reuse.stale_if_error = caching_proxy::clock::DeltaSeconds::ZERO);
    bench.answers(200, "Cache-Control: max-age=1", "x").answers(503, "X: y", "bad");
    bench.get("/a");
    assert_eq!(bench.after(2).get("/a").1, "bad", "nothing permits it");
}
