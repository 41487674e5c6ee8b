//! Odd things that origin servers put on the wire. All seen; each must be served, and stored where it
//! may be. RFC 9112 §6, §9; RFC 9110 §5, §7.6.1, §15.

use super::support;
use super::support::origin::{Origin, Rule, on};
use super::support::proxy::{ONE_LOOP, Proxy};

const FRESH: &str = "Cache-Control: max-age=60";

/// Asks twice; the second answer comes from the cache.
fn stored(proxy: &Proxy, target: &str) -> support::wire::Reply {
    proxy.get(target);
    let reply = proxy.get(target);
    assert!(reply.is_hit() && reply.complete, "{target}: {}", reply.head.text);
    reply
}

#[test]
fn more_bytes_than_announced_are_not_content() {
    let origin = Origin::script([
        on("GET /a")
            .head(200, &format!("{FRESH}; Content-Length: 10"))
            .bytes("0123456789abcdefghijklmnopqrstuvwxyz"),
        on("GET /b").send(200, FRESH, "next"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = stored(&proxy, "/a");
    assert_eq!((reply.body(), reply.field("content-length")), ("0123456789".into(), "10".into()));
    assert_eq!(proxy.get("/b").body(), "next");
    assert_eq!(origin.connections(), 2, "the spoilt connection is not used again");
    origin.assert_finished();
}

#[test]
fn a_transfer_coding_that_nobody_knows_ends_with_the_connection() {
    let origin = Origin::script([on("GET /a")
        .head(200, &format!("{FRESH}; Transfer-Encoding: wombat"))
        .bytes("content")
        .close()]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = stored(&proxy, "/a");
    assert_eq!((reply.body(), reply.field("transfer-encoding")), ("content".into(), String::new()));
    origin.assert_finished();
}

#[test]
fn a_304_with_a_length_has_no_content() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60; Age: 60; ETag: \"a\"", "hello"),
        on("GET /a")
            .having("If-None-Match: \"a\"")
            .head(304, &format!("{FRESH}; Content-Length: 10; Content-Type: text/odd")),
        on("GET /b").having("If-None-Match: \"b\"").head(304, "Content-Length: 10"),
        on("HEAD /c").head(200, "Content-Type: text/plain"),
        on("GET /d").send(200, "", "next"),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    proxy.get("/a");
    let reply = proxy.get("/a");
    assert_eq!(
        (reply.body(), reply.field("content-length"), reply.field("content-type")),
        ("hello".into(), "5".into(), "text/odd".into())
    );
    assert_eq!(proxy.get_with("/b", "If-None-Match: \"b\"\r\n").status, 304);
    assert_eq!(proxy.ask("HEAD", "/c", "", "").status, 200, "nothing follows the head");
    assert_eq!(proxy.get("/d").body(), "next");
    assert_eq!(origin.connections(), 1, "nobody waited for content that does not come");
    origin.assert_finished();
}

#[test]
fn nonsense_in_fields_about_the_connection_is_dropped_and_the_rest_stored() {
    let nonsense = "Keep-Alive: wombat; Proxy-Connection: wombat; TE: wombat; Upgrade: wombat; Proxy-Authenticate: wombat; \
                    Proxy-Authentication-Info: wombat; Proxy-Authorization: wombat; Connection: a, b; A: 1; B: 2; C: 3; \
                    Content-Encoding: wombat; Content-Range: wombat; Content-MD5: wombat; Date: foo; Vary:; Vary: , Foo";
    let origin = Origin::script([on("GET /a").send(200, &format!("{FRESH}; {nonsense}"), "hello")]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = stored(&proxy, "/a");
    for gone in [
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "a",
        "b",
    ] {
        assert_eq!(reply.field(gone), "", "RFC 9110 §7.6.1: {gone}");
    }
    for (kept, value) in [
        ("c", "3"),
        ("content-encoding", "wombat"),
        ("content-range", "wombat"),
        ("content-md5", "wombat"),
        ("date", "foo"),
    ] {
        assert_eq!(reply.field(kept), value, "RFC 9111 §3.1: {kept}");
    }
    assert_eq!(reply.body(), "hello");
    origin.assert_finished();
}

#[test]
fn any_three_digits_are_a_status() {
    let statuses =
        [200, 203, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599, 999];
    let rule = |status: &u16| on(&format!("GET /{status}")).send(*status, FRESH, "content");
    let origin = Origin::script(statuses.iter().map(rule).collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, &["--follow-redirects"]);
    for status in statuses {
        let reply = stored(&proxy, &format!("/{status}"));
        assert_eq!(
            (reply.status, reply.body()),
            (status, "content".into()),
            "RFC 9111 §3: no redirect is followed without Location"
        );
    }
    origin.assert_finished();
}

#[test]
fn tags_and_values_are_bytes() {
    let origin = Origin::script([
        on("GET /a").send(
            200,
            "Cache-Control: max-age=60; Age: 60; ETag: \"é\"; X: naïve",
            "hello",
        ),
        on("GET /a").having("If-None-Match: \"é\"").head(304, FRESH),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/a");
    let reply = proxy.get("/a");
    assert_eq!(
        (reply.body(), reply.field("etag"), reply.field("x")),
        ("hello".into(), "\"é\"".into(), "naïve".into())
    );
    origin.assert_finished();
}

/// RFC 9112 §7.1.2: trailers are dropped, and the content is whole without them.
#[test]
fn trailers_are_dropped() {
    let origin = Origin::script([
        on("GET /a")
            .head(200, &format!("{FRESH}; Transfer-Encoding: chunked; Trailer: X-Sum"))
            .bytes("5\r\nhello\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"),
        on("GET /b").send(200, "", "next"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = stored(&proxy, "/a");
    assert_eq!(
        (reply.body(), reply.field("x-sum"), reply.field("trailer")),
        ("hello".into(), String::new(), String::new())
    );
    assert_eq!(proxy.get("/b").body(), "next");
    assert_eq!(origin.connections(), 1, "they are read to their end");
    origin.assert_finished();
}

/// Closed after the request was read, before any byte of an answer: the cache is disconnected (§4.2.4).
#[test]
fn a_connection_that_closes_without_an_answer_lets_the_stale_stand_in() {
    let stale = |directives: &str| format!("Cache-Control: max-age=60{directives}; Age: 60; X: y");
    #[rustfmt::skip]
    let table = [
        ("/plain", "", 200), ("/window", ", stale-if-error=60", 200), ("/must", ", must-revalidate", 502),
        ("/proxy", ", proxy-revalidate", 502), ("/shared", ", s-maxage=60", 502), ("/no-cache", ", no-cache", 502),
    ];
    let rules = table.iter().flat_map(|(target, directives, _)| {
        let request = format!("GET {target}");
        // The first end is that of a reused connection, so the request is repeated once.
        [on(&request).send(200, &stale(directives), "stored"), on(&request).close().times(2)]
    });
    let origin = Origin::script(rules.collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for (target, directives, status) in table {
        proxy.get(target);
        let reply = proxy.get(target);
        assert_eq!((reply.status, reply.complete), (status, true), "RFC 9111 §4.2.4:{directives}");
        assert_eq!(
            reply.field("x") == "y",
            status == 200,
            "an error has nothing of it: {}",
            reply.head.text
        );
    }
    origin.assert_finished();
}

#[test]
fn a_part_of_another_length_than_it_says_is_served_as_it_came() {
    let origin = Origin::script([on("GET /a").send(
        206,
        &format!("{FRESH}; Content-Range: bytes 4-9/10"),
        "abcde",
    )]);
    let proxy = Proxy::before(&origin, &[]);
    let first = proxy.get_with("/a", "Range: bytes=-5\r\n");
    assert_eq!((first.status, first.body()), (206, "abcde".into()));
    let again = proxy.get_with("/a", "Range: bytes=6-8\r\n");
    assert_eq!((again.body(), again.is_hit()), ("cde".into(), true));
    origin.assert_finished();
}

/// RFC 9111 §3.1: whatever it is, if it is not about the connection it is stored and given back.
#[test]
fn every_other_field_is_stored_and_given_back() {
    let names = [
        "Test-Header",
        "X-Test-Header",
        "Content-Foo",
        "X-Content-Foo",
        "Content-Encoding",
        "Content-Location",
        "Content-MD5",
        "Content-Range",
        "Content-Security-Policy",
        "Content-Type",
        "Clear-Site-Data",
        "ETag",
        "Public-Key-Pins",
        "Set-Cookie",
        "Set-Cookie2",
        "X-Frame-Options",
        "X-XSS-Protection",
        "Server",
        "Retry-After",
        "Link",
        "Pragma",
        "Warning",
    ];
    let fields: Vec<String> = names.iter().map(|name| format!("{name}: value-of-{name}")).collect();
    let origin = Origin::script([on("GET /a").send(
        200,
        &format!("{FRESH}; {}", fields.join("; ")),
        "hello",
    )]);
    let proxy = Proxy::before(&origin, &["--share-cookies"]);
    let first = proxy.get("/a");
    let reply = stored(&proxy, "/a");
    for name in names {
        let value = format!("value-of-{name}");
        assert_eq!((first.field(name), reply.field(name)), (value.clone(), value), "{name}");
    }
    assert_eq!(reply.field("date"), first.field("date"), "RFC 9110 §6.6.1");
    assert_eq!(reply.head.all("age").len(), 1);
    origin.assert_finished();
}

/// RFC 9111 §4.2.1: a past Expires is the origin server's word, whatever the status.
#[test]
fn no_status_is_reused_with_a_past_expires() {
    let statuses = [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 599];
    let past = "Expires: DATE-60; Last-Modified: DATE-86400";
    let rule = |status: &u16| {
        on(&format!("GET /{status}")).head(*status, &format!("{past}; Content-Length: 0")).times(2)
    };
    let origin = Origin::script(statuses.iter().map(rule).collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, &[]);
    for status in statuses {
        for _ in 0..2 {
            let reply = proxy.get(&format!("/{status}"));
            assert_eq!((reply.status, reply.is_hit()), (status, false));
        }
    }
    origin.assert_finished();
}

/// RFC 9111 §4.2.2 with `--default-ttl 0`: the statuses of RFC 9110 §15.1, and others with `public`.
#[test]
fn statuses_that_may_be_kept_by_heuristic_are() {
    #[rustfmt::skip]
    let table = [
        (200, "", true), (203, "", true), (204, "", true), (300, "", true), (301, "", true), (308, "", true), (404, "", true),
        (405, "", true), (410, "", true), (414, "", true), (501, "", true), (599, "; Cache-Control: public", true),
        (201, "", false), (202, "", false), (403, "", false), (502, "", false), (503, "", false), (504, "", false), (599, "", false),
    ];
    for (status, more, kept) in table {
        let fields = format!("Date: DATE; Last-Modified: DATE-86400{more}; Content-Length: 0");
        let origin = Origin::script([on("GET /a").head(status, &fields).always()]);
        let proxy = Proxy::before(&origin, &["--default-ttl", "0", "--log-level", "off"]);
        proxy.get("/a");
        let reply = proxy.get("/a");
        assert_eq!((reply.status, reply.is_hit()), (status, kept), "{status}{more}");
    }
}

/// RFC 9110 §7.6.1: what `Connection` names is meant for the proxy, which obeys it and drops it.
#[test]
fn fields_that_connection_names_are_obeyed_and_dropped() {
    let rule = |target: &str, fields: &str| on(&format!("GET {target}")).send(200, fields, "x");
    let forbidden = "Connection: Cache-Control; Cache-Control: no-store";
    let origin = Origin::script([
        rule("/a", forbidden).times(2),
        rule("/b", "Connection: cache-control; Cache-Control: max-age=60"),
        rule("/c", "Connection: Vary; Cache-Control: max-age=60; Vary: *").times(2),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for (target, named, is_hit) in
        [("/a", "cache-control", false), ("/b", "cache-control", true), ("/c", "vary", false)]
    {
        proxy.get(target);
        let reply = proxy.get(target);
        assert_eq!(reply.is_hit(), is_hit, "{target}: {}", reply.head.text);
        assert_eq!(reply.field(named), "", "{target}");
    }
    origin.assert_finished();
}
