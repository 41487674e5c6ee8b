//! Forwarding: methods, fields and content on their way through, in memory that does not grow, and what
//! becomes of content that is cut short.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{FRONT, Proxy};

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
    for gone in ["x-named", "proxy-authorization", "forwarded", "x-real-ip", "x-forwarded-port"] {
        assert_eq!(head.field(gone), "", "{gone}");
    }
    // RFC 9110 §10.1.4: the proxy says so itself, where it passes trailer fields on.
    let said = if FRONT == "event" { ("trailers", "TE") } else { ("", "") };
    assert_eq!((&*head.field("te"), &*head.field("connection")), said);
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

/// Without a length, the end of an HTTP/1.0 response is the end of the connection; one that was cut is
/// not to look whole.
#[test]
fn an_http_1_0_client_sees_that_a_body_was_cut() {
    for fields in ["no-store", "max-age=60"] {
        let gate = Gate::new();
        let origin = Origin::script([on("GET /cut")
            .head(200, &format!("Transfer-Encoding: chunked; Cache-Control: {fields}"))
            .bytes("5\r\nhello\r\n")
            .wait(&gate)
            .close()]);
        let proxy = Proxy::before(&origin, &[]);
        let mut client = proxy.connect();
        client.send("GET /cut HTTP/1.0\r\n\r\n");
        let mut content = [0; 5];
        assert_eq!(client.head().expect("a head").word(1), "200");
        client.stream.read_exact(&mut content).expect("what came before");
        gate.open();
        let end = client.stream.read(&mut content).map_err(|error| error.kind());
        assert_eq!((&content, end), (b"hello", Err(ErrorKind::ConnectionReset)), "{fields}");
    }
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
