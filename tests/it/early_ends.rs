//! Exchanges that end before their time: answers that come before the content has been sent, and clients that leave
//! before there is an answer. RFC 9110 §10.1.1, RFC 9112 §9.5; RFC 9111 §4.4.

use std::io::Write;

use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::Proxy;

/// What the origin server does when it has answered.
#[derive(Clone, Copy, Debug)]
enum Then {
    ReadsOn,
    Stops,
    Closes,
}

/// The client has sent a part of its content, and waits for what the origin server says to it.
#[test]
fn an_early_answer_reaches_the_client() {
    for status in [200, 401, 413, 500] {
        for then in [Then::ReadsOn, Then::Stops, Then::Closes] {
            for chunked in [false, true] {
                early_answer(status, then, chunked);
            }
        }
    }
}

fn early_answer(status: u16, then: Then, chunked: bool) {
    const PART: usize = 20_000;
    const REST: usize = 400_000;
    let what = format!("{status} {then:?} chunked: {chunked}");
    let end = Gate::new();
    let rule = on("POST /a").without_reading().send(status, "Cache-Control: no-store", "early");
    let rule = match then {
        Then::ReadsOn => rule.then(Step::Read(PART + REST)).wait(&end),
        Then::Stops => rule.wait(&end),
        Then::Closes => rule.close(),
    };
    let origin = Origin::script([rule, on("GET /b").send(200, "", "b")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    let framing = if chunked {
        "Transfer-Encoding: chunked".into()
    } else {
        format!("Content-Length: {}", PART + REST)
    };
    let piece = |count: usize| {
        let bytes = "x".repeat(count);
        if chunked { format!("{count:x}\r\n{bytes}\r\n") } else { bytes }
    };
    connection.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{}", piece(PART)));
    let reply = connection.reply();
    assert_eq!((reply.status, reply.body()), (status, "early".into()), "{what}");
    if status >= 300 {
        // It may be more than the proxy reads and throws away.
        assert_eq!(reply.field("connection"), "close", "{what}");
    }
    // What is left of it harms nobody, whether it is sent or not.
    let rest = piece(REST) + if chunked { "0\r\n\r\n" } else { "" };
    let _ = connection.stream.write_all(rest.as_bytes());
    end.open();
    assert_eq!(proxy.get("/b").body(), "b", "{what}");
}

/// RFC 9112 §9.5: the origin server reads until the proxy's side ends, and its response ends when it closes then.
#[test]
fn an_early_answer_that_ends_with_the_connection_has_an_end() {
    for (fields, expects) in [("", ""), ("Connection: close", ""), ("", "Expect: 100-continue\r\n")]
    {
        let origin = Origin::script([on("POST /a")
            .without_reading()
            .head(401, fields)
            .bytes("refused")
            .then(Step::Read(400_000))]);
        let proxy = Proxy::before(&origin, &[]);
        let mut connection = proxy.connect();
        let framing = "Content-Length: 400000\r\n";
        connection.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{framing}{expects}\r\n"));
        if expects.is_empty() {
            connection.send("x".repeat(20_000));
        }
        let reply = connection.reply();
        assert_eq!((reply.status, &*reply.body()), (401, "refused"), "{fields} {expects}");
    }
}

/// RFC 9112 §9.6: there may be any amount of chunked content to come, so the connection is not said to go on.
#[test]
fn an_early_answer_to_chunked_content_ends_the_connection() {
    for (framing, content, connection) in [
        ("Transfer-Encoding: chunked", "1\r\nx\r\n", "close"),
        ("Content-Length: 2", "x", ""),
        ("Content-Length: 300000", "x", "close"),
    ] {
        let rule = on("POST /a").without_reading().send(401, "", "").then(Step::Read(300_000));
        let origin = Origin::script([rule]);
        let proxy = Proxy::before(&origin, &[]);
        let mut client = proxy.connect();
        client.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{content}"));
        let reply = client.reply();
        assert_eq!((reply.status, &*reply.field("connection")), (401, connection), "{framing}");
    }
}

/// Both sides go on: what the client sends reaches the origin server, whose answer has begun.
#[test]
fn content_is_sent_on_while_the_answer_comes() {
    let origin = Origin::script([on("POST /echo")
        .without_reading()
        .head(200, "Content-Length: 10; Cache-Control: no-store")
        .bytes("begun")
        .then(Step::Read(300_000))
        .bytes("ended")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n");
    let mut begun = vec![0; 5];
    assert_eq!(connection.head().map(|head| head.word(1).to_string()), Some("200".into()));
    std::io::Read::read_exact(&mut connection.stream, &mut begun).expect("the beginning");
    assert_eq!(begun, b"begun");
    connection.send("y".repeat(300_000));
    std::io::Read::read_exact(&mut connection.stream, &mut begun).expect("the end");
    assert_eq!(begun, b"ended");
    origin.assert_finished();
}

/// The client has gone; the origin server has said nothing yet, and learns that nobody waits.
#[test]
fn a_client_that_leaves_ends_what_is_not_worth_finishing() {
    for reset in [false, true] {
        // It waits for what does not come, and sees the end.
        let origin = Origin::script([on("GET /a").then(Step::Read(1))]);
        let proxy = Proxy::before(&origin, &[]);
        let mut connection = proxy.connect();
        connection.request("GET", "/a", "Cache-Control: no-store\r\n", "");
        origin.wait_for(1);
        if reset {
            connection.reset();
        } else {
            drop(connection);
        }
        origin.wait_for_ends(1);
    }
}

/// Nobody knows what came of it: what it may have changed is fetched anew.
#[test]
fn an_unsafe_request_whose_client_leaves_invalidates() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60", "old"),
        on("POST /a").then(Step::Read(1)),
        on("GET /a").send(200, "Cache-Control: max-age=60", "new"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/a").body(), "old");
    let mut connection = proxy.connect();
    connection.request("POST", "/a", "", "change");
    origin.wait_for(2);
    connection.reset();
    origin.wait_for_ends(1);
    assert_eq!(proxy.get("/a").body(), "new");
}
