//! The real binary between a client on a socket and a scripted origin server on another: caching,
//! modes, forwarding, collapsing.

use std::io::Write;
use std::sync::mpsc::channel;
use std::thread;

use super::support;
use super::support::origin::{Gate, Origin, Rule, Step, on};
use super::support::proxy::Proxy;
use super::support::wire::Reply;

// Caching.

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
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let proxy = Proxy::before(&origin, &[]);
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

// Modes and rewriting.

#[test]
fn force_stores_what_http_forbids() {
    let fields = "Cache-Control: private, no-store; Vary: *; Set-Cookie: a=b";
    let origin = Origin::script([
        on("GET /a").send(200, fields, "x"),
        on("GET /b").send(404, "", "y").times(2),
    ]);
    let proxy = Proxy::before(&origin, &["--cache-mode", "force"]);
    assert_eq!(proxy.get_with("/a", "Authorization: x\r\n").field("set-cookie"), "a=b");
    let hit = proxy.get_with("/a", "Cache-Control: no-cache\r\nCookie: c=d\r\n");
    assert_eq!((hit.is_hit(), hit.field("set-cookie")), (true, String::new()));
    assert!(!proxy.get("/b").is_hit() && !proxy.get("/b").is_hit());
    assert!(proxy.log().contains("--cache-mode force"));
    origin.assert_finished();
}

#[test]
fn offline_never_contacts_the_origin_server() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--cache-mode", "offline"]);
    for method in ["GET", "POST", "DELETE"] {
        let reply = proxy.ask(method, "/a", "", "");
        assert_eq!((reply.status, reply.cache_status()), (504, "proxy; detail=offline".into()));
        assert!(
            reply.body().contains("/a: not stored, and --cache-mode is offline"),
            "{}",
            reply.body()
        );
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn redirects_are_followed_inside_and_stored_under_the_first_target() {
    let other = Origin::script([on("GET /end").lacking("Cookie").send(200, "", "there")]);
    let origin = Origin::script([
        on("GET /a").send(302, "Location: /b", ""),
        on("GET /b").having("Cookie: a=b").send(
            301,
            &format!("Location: {}/end", other.url()),
            "away",
        ),
        on("GET /loop").send(302, "Location: /loop", "").times(11),
        on("POST /a").send(302, "Location: /b", ""),
    ]);
    let proxy =
        Proxy::before(&origin, &["--follow-redirects", "--share-cookies", "--cache-mode", "force"]);
    let first = proxy.get_with("/a", "Cookie: a=b\r\n");
    assert_eq!((first.status, first.body()), (200, "there".into()));
    assert!(proxy.get("/a").is_hit());
    assert_eq!(proxy.get("/loop").status, 502);
    assert_eq!(proxy.ask("POST", "/a", "", "x").status, 302);
    origin.assert_finished();
    other.assert_finished();
}

/// What a client says to one server is not for another's ears, whatever the field is called.
#[test]
fn a_redirect_to_another_server_takes_no_credentials_along() {
    let names = ["Authorization", "Cookie", "X-API-Key", "PRIVATE-TOKEN", "X-Tenant-Id"];
    let there = names.into_iter().fold(on("GET /end"), Rule::lacking);
    let other = Origin::script([there.having("Accept: b").send(200, "", "there")]);
    let here =
        |rule: Rule| names.iter().fold(rule, |rule, name| rule.having(&format!("{name}: a")));
    let away = format!("Location: {}/end", other.url());
    let origin = Origin::script([
        here(on("GET /a").having("Host: shop.test")).send(302, "Location: /b", ""),
        here(on("GET /b").having("Host: shop.test")).send(302, &away, ""),
    ]);
    let proxy = Proxy::before(&origin, &["--follow-redirects", "--preserve-host"]);
    let mut fields = "Accept: b\r\n".to_string();
    fields.extend(names.iter().flat_map(|name| [*name, ": a\r\n"]));
    let head = format!("GET /a HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    assert_eq!(proxy.connect().send(head).reply().body(), "there");
    origin.assert_finished();
    other.assert_finished();
}

#[test]
fn without_follow_redirects_they_are_passed_on() {
    let origin = Origin::script([on("GET /a").send(302, "Location: /b", "")]);
    let reply = Proxy::before(&origin, &[]).get("/a");
    assert_eq!((reply.status, reply.field("location")), (302, "/b".into()));
    origin.assert_finished();
}

#[test]
fn browsers_store_nothing_where_the_operator_wants_it() {
    let origin = Origin::script([on("GET /a").send(
        200,
        "Cache-Control: max-age=60; Expires: DATE+60",
        "x",
    )]);
    let proxy = Proxy::before(&origin, &["--no-browser-cache"]);
    proxy.get("/a");
    let hit = proxy.get("/a");
    assert_eq!(
        (hit.is_hit(), hit.field("cache-control"), hit.field("expires")),
        (true, "no-store".into(), String::new())
    );
    origin.assert_finished();
}

#[test]
fn the_host_is_the_origins_or_with_preserve_host_the_clients() {
    let origin = Origin::script([on("GET /a").send(200, "", "x").times(3)]);
    let own = origin.url().replace("http://", "");
    let proxy = Proxy::before(&origin, &[]);
    let ask = |proxy: &Proxy, host: &str| {
        proxy.connect().send(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply().is_hit()
    };
    assert_eq!((ask(&proxy, "one.test"), ask(&proxy, "two.test")), (false, true));
    assert_eq!(origin.asked()[0].head.field("host"), own);
    // A host that the key does not hold must not get into a stored response by way of the origin.
    assert_eq!(origin.asked()[0].head.field("x-forwarded-host"), proxy.address.to_string());
    let proxy = Proxy::before(&origin, &["--preserve-host"]);
    assert_eq!(
        (ask(&proxy, "one.test"), ask(&proxy, "two.test"), ask(&proxy, "one.test")),
        (false, false, true)
    );
    assert_eq!(origin.asked()[2].head.field("host"), "two.test");
    assert_eq!(origin.asked()[2].head.field("x-forwarded-host"), "two.test");
    origin.assert_finished();
}

#[test]
fn uris_of_the_origin_lead_back_to_the_proxy() {
    let origin = Origin::script([]);
    let url = origin.url();
    let fields = format!(
        "Location: {url}/b; Content-Location: {url}/c; Link: <{url}/d>; Set-Cookie: a=b; Domain=127.0.0.1; Path=/; Cache-Control: public, max-age=60"
    );
    origin.add(on("GET /a").send(301, &fields, ""));
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..2 {
        let reply = proxy.get_with("/a", "");
        let at = format!("http://{}", proxy.address);
        assert_eq!(reply.field("location"), format!("{at}/b"));
        assert_eq!(reply.field("content-location"), format!("{at}/c"));
        assert_eq!(reply.field("link"), format!("<{at}/d>"));
        assert_eq!(reply.field("set-cookie"), "a=b; Path=/");
    }
    origin.assert_finished();
}

// Forwarding.

#[test]
fn every_method_is_forwarded_with_its_content() {
    let methods =
        ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND", "M-SEARCH", "X"];
    let origin =
        Origin::script(methods.map(|method| on(&format!("{method} /a?b")).send(200, "", method)));
    let proxy = Proxy::before(&origin, &[]);
    for method in methods {
        let reply = proxy.ask(method, "/a?b", "", "content");
        assert_eq!((reply.status, reply.body()), (200, method.to_string()));
        let told = reply.cache_status();
        assert_eq!(told, "proxy; fwd=method; fwd-status=200", "{method}");
    }
    for asked in origin.asked() {
        assert_eq!(asked.content, b"content", "{}", asked.head.first);
    }
    origin.assert_finished();
}

#[test]
fn hop_by_hop_fields_stop_here() {
    let fields = "Connection: keep-alive, X-Named; X-Named: a; Keep-Alive: timeout=5; Proxy-Authenticate: x; \
                  Proxy-Connection: y; TE: z; Upgrade: h2c; Trailer: t; X-Kept: b; Cache-Control: max-age=60";
    let origin =
        Origin::script([on("GET /a").send(200, fields, "x"), on("POST /a").send(200, "", "")]);
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..2 {
        let reply = proxy.get("/a");
        assert_eq!(reply.field("x-kept"), "b");
        for gone in [
            "connection",
            "x-named",
            "keep-alive",
            "proxy-authenticate",
            "proxy-connection",
            "te",
            "upgrade",
            "trailer",
        ] {
            assert_eq!(reply.field(gone), "", "RFC 9110 §7.6.1: {gone}");
        }
    }
    let sent = "Connection: X-Named, close\r\nX-Named: a\r\nTE: trailers\r\nProxy-Authorization: x\r\nX-Kept: b\r\n\
                X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";
    proxy.ask("POST", "/a", sent, "x");
    let head = origin.asked()[1].head.clone();
    for gone in
        ["x-named", "te", "proxy-authorization", "forwarded", "x-real-ip", "x-forwarded-port"]
    {
        assert_eq!(head.field(gone), "", "{gone}");
    }
    assert_eq!(head.field("x-kept"), "b");
    assert_eq!(head.field("x-forwarded-for"), "127.0.0.1");
    assert_eq!(head.field("x-forwarded-proto"), "http");
    assert_eq!(head.field("x-forwarded-host"), proxy.address.to_string());
    assert_eq!(head.field("via"), "1.1 proxy");
    assert_eq!(
        (head.field("user-agent"), head.field("accept"), head.field("accept-encoding")),
        Default::default()
    );
    origin.assert_finished();
}

#[test]
fn content_is_streamed_both_ways_in_flat_memory() {
    const PIECES: usize = 1024;
    let piece = vec![b'x'; 256 * 1024];
    let length = PIECES * piece.len();
    let origin = Origin::script([on("GET /big")
        .head(200, &format!("Content-Length: {length}"))
        .then(Step::Repeat(piece.clone(), PIECES))]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = proxy.get("/big");
    assert_eq!((reply.content.len(), reply.complete), (length, true));
    drop(reply);
    // The upload goes to a server that counts and forgets.
    let sink = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = sink.local_addr().expect("an address");
    let counted = thread::spawn(move || {
        let (mut stream, _) = sink.accept().expect("a connection");
        support::wire::read_head(&mut stream).expect("a head");
        let mut left = length as u64;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let count = std::io::Read::read(&mut stream, &mut buffer).expect("content");
            assert!(count > 0, "{left} bytes are missing");
            left -= count as u64;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("a reader");
    });
    let uploading = Proxy::start(&["--origin", &format!("http://{address}")]);
    let mut connection = uploading.connect();
    connection.send(format!("PUT /big HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
    for _ in 0..PIECES {
        connection.send(&piece);
    }
    assert_eq!(connection.reply().status, 200);
    counted.join().expect("all came");
    for proxy in [&proxy, &uploading] {
        let (_, highest) = proxy.memory_kib();
        assert!(highest < 40 * 1024, "{highest} KiB for 256 MiB");
    }
}

#[test]
fn chunked_uploads_arrive_whole() {
    let origin =
        Origin::script([on("POST /a").having("Transfer-Encoding: chunked").send(200, "", "ok")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
    assert_eq!(connection.reply().body(), "ok");
    assert_eq!(origin.asked()[0].content, b"abcde");
    origin.assert_finished();
}

/// RFC 9110 §10.1.1: also where the origin server never sends one.
#[test]
fn a_client_that_waits_for_100_gets_it() {
    let expecting = on("POST /a").having("Expect: 100-continue");
    let origin = Origin::script([expecting.send(200, "", "ok")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection
        .send("POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(connection.head().expect("a response").word(1), "100");
    assert_eq!(connection.send("abc").reply().body(), "ok");
    origin.assert_finished();
}

#[test]
fn event_streams_are_flushed_at_once() {
    let (first, second) = (Gate::new(), Gate::new());
    let origin = Origin::script([on("GET /events")
        .head(200, "Content-Type: text/event-stream; Transfer-Encoding: chunked")
        .wait(&first)
        .bytes("9\r\ndata: 1\n\n\r\n")
        .wait(&second)
        .bytes("9\r\ndata: 2\n\n\r\n0\r\n\r\n")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.request("GET", "/events", "", "");
    assert_eq!(connection.head().expect("the head comes before any event").word(1), "200");
    first.open();
    let mut event = [0; 14];
    std::io::Read::read_exact(&mut connection.stream, &mut event).expect("the first event");
    assert_eq!(&event, b"9\r\ndata: 1\n\n\r\n");
    second.open();
    std::io::Read::read_exact(&mut connection.stream, &mut event).expect("the second event");
    origin.assert_finished();
}

#[test]
fn a_body_that_is_cut_short_never_looks_complete_and_is_not_stored() {
    let cut = |target: &str, fields: &str, bytes: &str| {
        on(&format!("GET {target}"))
            .head(200, &format!("Cache-Control: max-age=60; {fields}"))
            .bytes(bytes)
            .close()
            .times(2)
    };
    let origin = Origin::script([
        cut("/length", "Content-Length: 10", "12345"),
        cut("/chunked", "Transfer-Encoding: chunked", "5\r\n12345\r\n"),
        cut("/chunk", "Transfer-Encoding: chunked", "a\r\n12345"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for target in ["/length", "/chunked", "/chunk"] {
        for _ in 0..2 {
            let reply = proxy.get(target);
            assert_eq!(
                (reply.body(), reply.complete, reply.is_hit()),
                ("12345".into(), false, false),
                "{target}"
            );
        }
    }
    // A client on HTTP/1.0 that is told a length sees it too.
    origin.add(on("GET /length").head(200, "Content-Length: 10").bytes("12345").close());
    let reply = proxy.connect().send("GET /length HTTP/1.0\r\n\r\n").reply();
    assert!(!reply.complete);
    origin.assert_finished();
}

/// Decision of this project: content that only a close delimits, and that nobody announced to be so,
/// is passed on and not stored.
#[test]
fn close_delimited_content_is_stored_only_if_the_close_was_announced() {
    let closed =
        |target: &str, fields: &str| on(&format!("GET {target}")).head(200, fields).bytes("hello");
    let origin = Origin::script([
        closed("/silent", "X: y").close().times(2),
        closed("/announced", "Connection: close").close(),
        closed("/reset", "Connection: close").then(Step::Reset).times(2),
        closed("/unknown", "Transfer-Encoding: nonsense").close(),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let silent = proxy.get("/silent");
    assert_eq!((silent.body(), silent.complete), ("hello".into(), true));
    assert!(silent.cache_status().ends_with("detail=close-delimited"));
    assert!(!proxy.get("/silent").is_hit());
    assert_eq!(proxy.get("/announced").body(), "hello");
    assert!(proxy.get("/announced").is_hit());
    for _ in 0..2 {
        assert!(!proxy.get("/reset").is_hit());
    }
    proxy.get("/unknown");
    let unknown = proxy.get("/unknown");
    assert_eq!(
        (unknown.is_hit(), unknown.body(), unknown.field("transfer-encoding")),
        (true, "hello".into(), String::new())
    );
    origin.assert_finished();
}

#[test]
fn http_1_0_clients_are_served_in_their_own_way() {
    let origin = Origin::script([
        on("GET /length").send(200, "", "hello"),
        on("GET /chunked").head(200, "Transfer-Encoding: chunked").bytes("5\r\nhello\r\n0\r\n\r\n"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.send("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = connection.reply();
    assert_eq!(
        (reply.body(), reply.field("connection"), reply.field("content-length")),
        ("hello".into(), "keep-alive".into(), "5".into())
    );
    connection.send("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = connection.reply();
    assert_eq!(
        (reply.body(), reply.field("transfer-encoding"), reply.field("connection")),
        ("hello".into(), String::new(), "close".into())
    );
    assert!(connection.is_closed());
    origin.assert_finished();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /slow").wait(&gate).send(200, "", "slow"),
        on("GET /fast").send(200, "", "fast"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /fast HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_for(1);
    gate.open();
    assert_eq!(
        (connection.reply().body(), connection.reply().body()),
        ("slow".into(), "fast".into())
    );
}

#[test]
fn a_204_and_a_304_have_no_framing_of_content() {
    let origin = Origin::script([
        on("GET /204").head(204, "Cache-Control: max-age=60"),
        on("GET /304").having("If-None-Match: \"a\"").head(304, "Content-Length: 10; ETag: \"a\""),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..2 {
        let reply = proxy.get("/204");
        assert_eq!(
            (reply.status, reply.field("content-length"), reply.field("transfer-encoding")),
            (204, String::new(), String::new())
        );
    }
    let reply = proxy.get_with("/304", "If-None-Match: \"a\"\r\n");
    assert_eq!((reply.status, reply.field("content-length")), (304, String::new()));
    origin.assert_finished();
}

#[test]
fn odd_bytes_in_a_target_reach_the_origin_server_encoded() {
    let origin = Origin::script([on("GET /a%3Cb%3E?c=%22d%22").send(200, "", "x")]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/a<b>?c=\"d\"").status, 200);
    assert!(proxy.get("/a<b>?c=\"d\"").is_hit());
    assert_eq!(
        proxy
            .connect()
            .send("GET http://other.test/a<b>?c=\"d\" HTTP/1.1\r\nHost: h\r\n\r\n")
            .reply()
            .field("x-cache"),
        "HIT"
    );
    origin.assert_finished();
}

// Collapsed requests.

/// Sends the same request from so many clients, and gives their replies.
fn together(
    proxy: &Proxy,
    count: usize,
    target: &str,
    fields: &str,
    ready: impl FnOnce(),
) -> Vec<Reply> {
    let (sender, replies) = channel();
    let mut clients = Vec::new();
    for _ in 0..count {
        let (sender, mut connection) = (sender.clone(), proxy.connect());
        connection.request("GET", target, fields, "");
        clients.push(thread::spawn(move || {
            sender.send(connection.reply()).expect("the test listens");
        }));
    }
    ready();
    drop(sender);
    replies.iter().collect()
}

#[test]
fn concurrent_misses_make_one_request_and_hold_no_worker() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").wait(&gate).send(200, "Cache-Control: max-age=60", "hello"),
        on("GET /b").send(200, "", "other"),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "3"]);
    let replies = together(&proxy, 60, "/a", "", || {
        origin.wait_for(1);
        // Sixty wait, one holds a worker, and there are three: others are served all the same.
        assert_eq!(proxy.get("/b").body(), "other");
        assert!(proxy.get("/b").is_hit());
        gate.open();
    });
    assert_eq!(replies.len(), 60);
    for reply in &replies {
        assert_eq!((reply.body(), reply.complete), ("hello".into(), true), "{}", reply.head.text);
    }
    assert_eq!(replies.iter().filter(|reply| !reply.is_hit()).count(), 1);
    origin.assert_finished();
}

#[test]
fn an_answer_that_cannot_be_shared_releases_all_who_wait() {
    let (gate, second) = (Gate::new(), Gate::new());
    let origin = Origin::script([
        on("GET /a").wait(&gate).send(200, "Cache-Control: no-store", "own"),
        on("GET /a").wait(&second).send(200, "Cache-Control: no-store", "own").times(9),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let replies = together(&proxy, 10, "/a", "", || {
        origin.wait_for(1);
        gate.open();
        // All nine are under way at the same time: none waits for another.
        origin.wait_for(10);
        second.open();
    });
    assert_eq!(replies.iter().filter(|reply| reply.body() == "own" && !reply.is_hit()).count(), 10);
    origin.assert_finished();
}

/// The connection dies half way: one more request brings the rest, if it begins with the same bytes.
#[test]
fn the_death_of_a_fetch_is_mended_once_for_those_who_share_it() {
    for (second, whole) in [("1234567890", true), ("abcdefghij", false)] {
        let gate = Gate::new();
        let fields = "Content-Length: 10; Cache-Control: max-age=60; ETag: \"a\"";
        let origin = Origin::script([
            on("GET /a").head(200, fields).bytes("123").wait(&gate).close(),
            on("GET /a").head(200, fields).bytes(second),
        ]);
        // The second try is under way alone, too.
        let proxy = Proxy::before(&origin, &["--workers", "2", "--origin-concurrency", "1"]);
        let mut clients: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.request("GET", "/a", "", "");
            assert_eq!(client.head().expect("it grows for all").word(1), "200");
        }
        gate.open();
        for client in &mut clients {
            let expected: &[u8] = if whole { b"1234567890" } else { b"123" };
            let mut content = vec![0; expected.len()];
            std::io::Read::read_exact(&mut client.stream, &mut content).expect("content");
            assert_eq!(content, expected);
            assert!(whole || client.is_closed(), "what is not the same is not mixed");
        }
        assert_eq!(origin.asked().len(), 2);
    }
}

#[test]
fn a_leader_whose_client_leaves_finishes_for_the_others() {
    let (gate, rest) = (Gate::new(), Gate::new());
    let origin = Origin::script([on("GET /a")
        .wait(&gate)
        .head(200, "Content-Length: 400000; Cache-Control: max-age=60")
        .then(Step::Repeat(vec![b'x'; 100_000], 2))
        .wait(&rest)
        .then(Step::Repeat(vec![b'x'; 100_000], 2))]);
    let proxy = Proxy::before(&origin, &[]);
    let mut leader = proxy.connect();
    leader.request("GET", "/a", "", "");
    origin.wait_for(1);
    let replies = together(&proxy, 3, "/a", "", || {
        gate.open();
        assert!(leader.head().is_some());
        drop(leader);
        rest.open();
    });
    for reply in replies {
        let got = (reply.complete, reply.content.len(), reply.is_hit());
        assert_eq!(got, (true, 400_000, true), "{} {}", reply.head.text, proxy.log());
    }
    origin.assert_finished();
}

#[test]
fn a_full_pool_says_so_at_once() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET *any*")
        .wait(&gate)
        .send(200, "Cache-Control: no-store", "x")
        .always()]);
    let proxy = Proxy::before(&origin, &["--workers", "1"]);
    let (sender, replies) = channel();
    for number in 0..30 {
        let (sender, mut connection) = (sender.clone(), proxy.connect());
        connection.request("GET", &format!("/{number}"), "", "");
        thread::spawn(move || sender.send(connection.reply()).expect("the test listens"));
    }
    drop(sender);
    // One is at work and sixteen wait in line; the others are refused while the origin is silent.
    for _ in 0..13 {
        let refused = replies.recv().expect("a reply");
        assert_eq!((refused.status, refused.field("retry-after")), (503, "1".into()));
        assert_eq!(refused.cache_status(), "proxy; detail=full");
    }
    gate.open();
    assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200; 17]);
}

#[test]
fn stale_responses_are_served_while_a_new_one_is_fetched() {
    let gate = Gate::new();
    let fields = "Cache-Control: max-age=60, stale-while-revalidate=600; Age: 61";
    let origin = Origin::script([
        on("GET /a").send(200, fields, "old"),
        on("GET /a").wait(&gate).send(200, "Cache-Control: max-age=60", "new"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/a");
    for _ in 0..3 {
        let stale = proxy.get("/a");
        assert_eq!((stale.body(), stale.is_hit()), ("old".into(), true));
        assert!(
            stale.cache_status().ends_with("detail=stale-while-revalidate"),
            "{}",
            stale.cache_status()
        );
    }
    origin.wait_for(2);
    gate.open();
    while proxy.get("/a").body() != "new" {}
    origin.assert_finished();
}

#[test]
fn the_timer_removes_what_is_of_no_more_use() {
    let fields = "Cache-Control: max-age=60, stale-if-error=0; Age: 60";
    let origin = Origin::script([on("GET /a").send(200, fields, "x")]);
    let proxy = Proxy::before(&origin, &["--cache-clean-interval", "10ms", "--log-level", "debug"]);
    proxy.get("/a");
    proxy.wait_for_log("timer: 1 removed");
}
