//! What is stored, reused, invalidated and evicted: the real binary between a client on a socket and a
//! scripted origin server on another.

use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;

#[test]
fn a_fresh_response_is_reused() {
    let origin = Origin::script([on("GET /a").send(
        200,
        "Cache-Control: max-age=60; Age: 30; X-Own: b",
        "hello",
    )]);
    let proxy = Proxy::before(&origin, &[]);
    let miss = proxy.get("/a");
    assert_eq!((miss.status, miss.body()), (200, "hello".into()));
    assert_eq!(miss.field("x-cache"), "MISS");
    assert_eq!(miss.cache_status(), "proxy; fwd=uri-miss; fwd-status=200; stored");
    let hit = proxy.get("/a");
    assert_eq!((hit.status, hit.body(), hit.field("x-own")), (200, "hello".into(), "b".into()));
    assert_eq!(hit.field("x-cache"), "HIT");
    let age: u32 = hit.field("age").parse().expect("RFC 9111 §5.1: one Age");
    assert!((30..=40).contains(&age), "{age}");
    assert!(hit.cache_status().starts_with("proxy; hit; ttl="), "{}", hit.cache_status());
    assert_eq!(hit.field("via"), "1.1 proxy");
    assert_eq!(hit.field("date"), miss.field("date"), "RFC 9110 §6.6.1");
    origin.assert_finished();
}

/// RFC 9111 §4.2. The response is born stale (`Age` equals `max-age`), so the test does not wait.
#[test]
fn a_stale_response_is_fetched_anew() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60; Age: 60", "old"),
        on("GET /a").send(200, "Cache-Control: max-age=60", "new"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/a").body(), "old");
    let second = proxy.get("/a");
    assert_eq!((second.body(), second.is_hit()), ("new".into(), false));
    assert_eq!(second.cache_status(), "proxy; fwd=stale; fwd-status=200; stored");
    assert!(proxy.get("/a").is_hit());
    origin.assert_finished();
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let fresh = "Cache-Control: max-age=60";
    let origin = Origin::script([
        on("HEAD /a").head(200, &format!("{fresh}; Content-Length: 5")).times(2),
        on("GET /a").send(200, fresh, "hello"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    // Who asks with `curl -I` twice, and has no hit, is told why.
    for _ in 0..2 {
        let head = proxy.ask("HEAD", "/a", "", "");
        assert_eq!(head.cache_status(), "proxy; fwd=uri-miss; fwd-status=200; detail=method");
    }
    proxy.get("/a");
    let head = proxy.ask("HEAD", "/a", "", "");
    assert_eq!((head.status, head.field("content-length")), (200, "5".into()));
    assert!(head.is_hit());
    origin.assert_finished();
}

#[test]
fn what_is_personal_is_not_shared() {
    let rule =
        |target: &str, fields: &str| on(&format!("GET {target}")).send(200, fields, "x").times(2);
    let origin = Origin::script([
        rule("/auth", "Cache-Control: max-age=60"),
        rule("/cookie", "ETag: \"a\""),
        rule("/set", "Cache-Control: max-age=60; Set-Cookie: a=b"),
        rule("/private", "Cache-Control: private, max-age=60"),
        rule("/star", "Cache-Control: max-age=60; Vary: *"),
        on("GET /shared").send(200, "Cache-Control: public, max-age=60; Set-Cookie: a=b", "x"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for (target, fields, detail) in [
        ("/auth", "Authorization: a\r\n", "authorization"),
        ("/cookie", "Cookie: a=b\r\n", "cookie"),
        ("/set", "", "set-cookie"),
        ("/private", "", "private"),
        ("/star", "", "vary-star"),
    ] {
        for _ in 0..2 {
            let reply = proxy.get_with(target, fields);
            assert!(!reply.is_hit(), "{target}");
            let told = reply.cache_status();
            assert!(told.ends_with(&format!("detail={detail}")), "{told}");
        }
    }
    proxy.get_with("/shared", "Authorization: a\r\n");
    let shared = proxy.get("/shared");
    assert_eq!((shared.is_hit(), shared.field("set-cookie")), (true, "a=b".into()));
    origin.assert_finished();
}

/// RFC 9111 §4.4
#[test]
fn an_unsafe_or_unknown_method_invalidates_what_is_stored() {
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x").always()]);
    let proxy = Proxy::before(&origin, &[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        proxy.get("/a");
        assert!(proxy.get("/a").is_hit());
        origin.add(on(&format!("{method} /a")).send(500, "", "no"));
        proxy.ask(method, "/a", "", "content");
        assert!(proxy.get("/a").is_hit(), "{method}: an error changes nothing");
        origin.add(on(&format!("{method} /a")).send(200, "", "yes"));
        proxy.ask(method, "/a", "", "content");
        assert!(!proxy.get("/a").is_hit(), "{method}");
    }
    origin.assert_finished();
}

#[test]
fn variants_live_side_by_side() {
    let variant = |value: &str| {
        on("GET /a").having(&format!("Accept-Encoding: {value}")).send(
            200,
            "Cache-Control: max-age=60; Vary: Accept-Encoding",
            value,
        )
    };
    let origin = Origin::script([variant("gzip"), variant("br")]);
    let proxy = Proxy::before(&origin, &[]);
    for (value, hit) in [("gzip", false), ("br", false), ("gzip", true), ("br", true)] {
        let reply = proxy.get_with("/a", &format!("Accept-Encoding: {value}\r\n"));
        assert_eq!((reply.body(), reply.is_hit()), (value.to_string(), hit));
    }
    origin.assert_finished();
}

#[test]
fn a_client_may_ask_for_the_origin_server() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60; Age: 10", "1"),
        on("GET /a").having("Cache-Control: no-cache").send(
            200,
            "Cache-Control: max-age=60; Age: 10",
            "2",
        ),
        on("GET /a").having("Cache-Control: max-age=5").send(200, "Cache-Control: max-age=60", "3"),
        on("GET /b")
            .having("Cache-Control: no-store")
            .send(200, "Cache-Control: max-age=60", "4")
            .times(2),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/a");
    let told = proxy.get_with("/a", "Cache-Control: no-cache\r\n").cache_status();
    assert_eq!(told, "proxy; fwd=request; fwd-status=200; stored; detail=no-cache");
    let told = proxy.get_with("/a", "Cache-Control: max-age=5\r\n").cache_status();
    assert_eq!(told, "proxy; fwd=request; fwd-status=200; stored; detail=max-age");
    assert_eq!(proxy.get_with("/a", "Cache-Control: only-if-cached\r\n").body(), "3");
    let none = proxy.get_with("/b", "Cache-Control: only-if-cached\r\n");
    assert_eq!((none.status, none.cache_status()), (504, "proxy; detail=only-if-cached".into()));
    assert!(!none.field("date").is_empty(), "RFC 9110 §6.6.1");
    for _ in 0..2 {
        assert!(!proxy.get_with("/b", "Cache-Control: no-store\r\n").is_hit());
    }
    origin.assert_finished();
}

#[test]
fn a_response_is_reused_as_often_as_hit_ttl_says() {
    let origin = Origin::script([on("GET /a").send(200, "", "x").times(2)]);
    let proxy = Proxy::before(&origin, &["--hit-ttl", "2"]);
    let hits: Vec<bool> = (0..6).map(|_| proxy.get("/a").is_hit()).collect();
    assert_eq!(hits, [false, true, true, false, true, true]);
    origin.assert_finished();
}

#[test]
fn lru_evicts_exactly_the_least_recently_used() {
    let once = |target: &str| on(&format!("GET {target}")).send(200, "", "x");
    let origin = Origin::script([once("/a"), once("/b"), once("/c"), once("/b")]);
    let proxy = Proxy::before(&origin, &["--eviction-policy", "lru", "--cache-size-limit", "2"]);
    let hits: Vec<bool> = ["/a", "/b", "/a", "/c", "/a", "/c", "/b"]
        .iter()
        .map(|target| proxy.get(target).is_hit())
        .collect();
    assert_eq!(hits, [false, false, true, false, true, true, false]);
    origin.assert_finished();
}

#[test]
fn entire_empties_a_full_cache_and_none_keeps_all() {
    for (policy, kept) in [("entire", [false, false, true]), ("none", [true, true, true])] {
        let origin = Origin::script([on("GET *any*").send(200, "", "x").always()]);
        let proxy =
            Proxy::before(&origin, &["--eviction-policy", policy, "--cache-size-limit", "2"]);
        for target in ["/a", "/b", "/c"] {
            assert!(!proxy.get(target).is_hit());
        }
        // From the newest on, because a miss stores something again.
        let hits = [proxy.get("/c").is_hit(), proxy.get("/b").is_hit(), proxy.get("/a").is_hit()];
        assert_eq!([hits[2], hits[1], hits[0]], kept, "{policy}");
    }
}

#[test]
fn a_size_limit_of_zero_turns_caching_off() {
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x").times(2)]);
    let proxy = Proxy::before(&origin, &["--cache-size-limit", "0"]);
    proxy.get("/a");
    assert_eq!(
        proxy.get("/a").cache_status(),
        "proxy; fwd=bypass; fwd-status=200; detail=disabled"
    );
    origin.assert_finished();
}

#[test]
fn bodies_are_stored_up_to_max_object_size() {
    let large = "x".repeat(8 << 20);
    let origin = Origin::script([
        on("GET /kept").send(200, "", &large),
        on("GET /over").send(200, "", &format!("{large}y")).times(2),
        on("GET /grows")
            .head(200, "Transfer-Encoding: chunked")
            .bytes("800001\r\n")
            .bytes(&large)
            .bytes("y\r\n0\r\n\r\n")
            .times(2),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/kept");
    assert!(proxy.get("/kept").is_hit(), "8 MiB are not above --max-object-size");
    assert!(proxy.get("/over").cache_status().ends_with("detail=too-large"));
    assert!(!proxy.get("/over").is_hit());
    assert_eq!(proxy.get("/grows").content.len(), (8 << 20) + 1);
    assert!(!proxy.get("/grows").is_hit());
    origin.assert_finished();
}
