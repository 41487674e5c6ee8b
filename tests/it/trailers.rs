//! Trailer fields of responses: they go to the clients that take them, where the response is not stored. RFC 9110
//! §6.5, §10.1.4, RFC 9112 §7.1.2. Over event loops: ureq has no place behind the content.

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::{ONE_LOOP, Proxy};

/// How a client says that it takes trailer fields.
const TE: &str = "Connection: close, TE\r\nTE: trailers\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked; Trailer: X-Sum, Content-Length, X-Named";
const CONTENT: &str = "5\r\nhello\r\n0\r\n";

/// A response that is not stored, with these trailer fields.
fn trailed(request: &str, trailers: &str) -> Rule {
    let head = format!("Cache-Control: no-store; Connection: X-Named; {CHUNKED}");
    on(request).head(200, &head).bytes(&format!("{CONTENT}{trailers}\r\n"))
}

/// Head and framed content of the response on a connection that ends with it.
fn received(proxy: &Proxy, request: &str, fields: &str) -> (String, String) {
    let mut connection = proxy.connect();
    connection.send(format!("{request}\r\nHost: h\r\n{fields}\r\n"));
    let bytes = String::from_utf8_lossy(&connection.rest()).into_owned();
    let (head, content) = bytes.split_once("\r\n\r\n").expect("a head");
    (head.to_string(), content.to_string())
}

#[test]
fn trailer_fields_go_to_clients_that_take_them_and_to_no_others() {
    let trailers = "X-Sum: 1\r\nServer-Timing: a\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nTransfer-Encoding: gzip\r\nX-Named: 2\r\n";
    let kept = "X-Sum: 1\r\nServer-Timing: a\r\n";
    let origin = Origin::script([
        trailed("GET /a", trailers).having("TE: trailers; Connection: TE").times(3),
        trailed("GET /a", trailers).lacking("TE").lacking("Connection").times(4),
        trailed("POST /a", trailers).having("TE: trailers; Connection: TE"),
        trailed("GET /none", "").having("TE: trailers"),
        on("GET /length").having("TE: trailers").send(200, "Trailer: X-Sum", "hello"),
        on("HEAD /a").lacking("TE").head(200, CHUNKED),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    #[rustfmt::skip]
    let table = [
        ("GET /a HTTP/1.1", TE, kept),
        ("GET /a HTTP/1.1", "Connection: close\r\nTE: trailers\r\n", kept),
        ("GET /a HTTP/1.1", "Connection: close\r\nTE: gzip;q=0.5, Trailers\r\n", kept),
        ("GET /a HTTP/1.1", "Connection: close\r\n", ""),
        ("GET /a HTTP/1.1", "Connection: close, TE\r\nTE: gzip\r\n", ""),
        ("GET /a HTTP/1.1", "Connection: close, TE\r\nTE:\r\n", ""),
        ("POST /a HTTP/1.1", &format!("{TE}Content-Length: 0\r\n"), kept),
        ("GET /none HTTP/1.1", TE, ""),
    ];
    for (request, fields, kept) in table {
        let (head, content) = received(&proxy, request, fields);
        assert_eq!(content, format!("{CONTENT}{kept}\r\n"), "RFC 9110 §6.5: {request} {fields}");
        // What may follow is announced to those who may get it.
        let announced =
            fields.to_ascii_lowercase().contains("trailers").then_some("Trailer: x-sum");
        let line = head.lines().find(|line| line.starts_with("Trailer:"));
        assert_eq!(line, announced, "§6.6.2: {request} {fields}");
        assert!(!head.contains("Server-Timing"), "§6.5.1: they are not merged: {head}");
    }
    // There is no place behind such content, and HTTP/1.0 knows none.
    for (request, fields, expected) in [
        ("GET /length HTTP/1.1", TE, "hello"),
        ("GET /a HTTP/1.0", "TE: trailers\r\n", "hello"),
        ("HEAD /a HTTP/1.1", TE, ""),
    ] {
        let (head, content) = received(&proxy, request, fields);
        assert_eq!((&*content, head.contains("Trailer")), (expected, false), "{request}: {head}");
    }
    assert_eq!(origin.connections(), 1, "trailer sections are read to their ends");
    origin.assert_finished();
}

/// Also of the connection on which they come, another request follows.
#[test]
fn a_request_may_follow_a_trailer_section() {
    let origin = Origin::script([
        trailed("GET /a", "X-Sum: 1\r\n"),
        on("GET /b").having("TE: trailers").send(200, "Cache-Control: no-store", "next"),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    let fields = "Host: h\r\nTE: trailers\r\nConnection: TE";
    let mut connection = proxy.connect();
    connection.send(format!(
        "GET /a HTTP/1.1\r\n{fields}\r\n\r\nGET /b HTTP/1.1\r\n{fields}, close\r\n\r\n"
    ));
    let bytes = String::from_utf8_lossy(&connection.rest()).into_owned();
    let (first, second) = bytes.split_once("X-Sum: 1\r\n\r\n").expect("a trailer section");
    assert!(first.ends_with(CONTENT) && second.starts_with("HTTP/1.1 200 "), "{bytes}");
    assert!(second.ends_with("\r\n\r\nnext"), "{second}");
    origin.assert_finished();
}

/// Not for the client that brings it either: what is stored has none, and all get the same.
#[test]
fn a_response_that_is_stored_has_no_trailer_fields() {
    let head = format!("Cache-Control: max-age=60; {CHUNKED}");
    let body = format!("{CONTENT}X-Sum: 1\r\n\r\n");
    let origin = Origin::script([
        on("GET /a").having("TE: trailers").head(200, &head).bytes(&body),
        on("GET /varies")
            .having("TE: trailers")
            .head(200, &format!("Vary: TE; {head}"))
            .bytes(&body),
        on("GET /varies").lacking("TE").send(200, "Vary: TE; Cache-Control: max-age=60", "other"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let (head, content) = received(&proxy, "GET /a HTTP/1.1", TE);
    assert_eq!((&*content, head.contains("Trailer")), ("5\r\nhello\r\n0\r\n\r\n", false), "{head}");
    for fields in [TE, "Connection: close\r\n"] {
        let (head, content) = received(&proxy, "GET /a HTTP/1.1", fields);
        assert!(head.contains("X-Cache: HIT") && !head.contains("Trailer"), "{head}");
        assert_eq!(content, "hello");
    }
    // RFC 9111 §4.1: the origin server may say that it matters.
    for (fields, hit, expected) in
        [(TE, false, "hello"), ("", false, "other"), (TE, true, "hello"), ("", true, "other")]
    {
        let reply = proxy.get_with("/varies", fields);
        assert_eq!((reply.body(), reply.is_hit()), (expected.into(), hit), "{fields}");
    }
    origin.assert_finished();
}

/// A response that has turned out too large to be stored is passed on with them.
#[test]
fn a_response_that_grows_too_large_keeps_its_trailer_fields() {
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let origin = Origin::script([on("GET /a")
        .head(200, "Cache-Control: max-age=60; Transfer-Encoding: chunked")
        .bytes(&format!("{chunk}{chunk}0\r\nX-Sum: 1\r\n\r\n"))]);
    let proxy = Proxy::before(&origin, &["--max-object-size", "1K"]);
    let (_, content) = received(&proxy, "GET /a HTTP/1.1", TE);
    assert!(content.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n"), "{content}");
    origin.assert_finished();
}

/// RFC 9112 §8: content whose trailer section cannot be read, or does not come, is not whole.
#[test]
fn a_malformed_trailer_section_cuts_the_content() {
    let many = "A: b\r\n".repeat(101);
    let wide = format!("A: {}\r\n", "b".repeat(64 * 1024));
    let sections = [
        "A : b\r\n\r\n",
        " A: b\r\n\r\n",
        "A: b\r\n c\r\n\r\n",
        "A\r\n\r\n",
        "A: b\n\r\n",
        "A: b\r\n",
        "A: \0\r\n\r\n",
        &many,
        &wide,
    ];
    let rules = sections.iter().map(|section| {
        let rule = on("GET /a").head(200, "Cache-Control: no-store; Transfer-Encoding: chunked");
        rule.bytes(&format!("{CONTENT}{section}")).close()
    });
    let origin = Origin::script(rules.collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    for section in sections {
        let (_, content) = received(&proxy, "GET /a HTTP/1.1", TE);
        assert!(!content.contains("\r\n0\r\n"), "{section:.30?}: {content}");
    }
    origin.assert_finished();
}
