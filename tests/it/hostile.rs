//! Truncated, oversized, ambiguous and malicious input; clients and connections that misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{FRONT, Proxy, command};
use super::support::wire::Connection;

/// RFC 9112 §6, §11.2: what two servers would read differently is refused, and what follows it on
/// the connection is not listened to.
#[test]
fn ambiguous_framing_is_refused_and_the_connection_cut() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Content-Length: 3 0\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: -1\r\n",
    ] {
        let mut connection = proxy.connect();
        connection.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{smuggled}"));
        let reply = connection.reply();
        assert!([400, 501].contains(&reply.status), "{fields}: {}", reply.head.first);
        assert_eq!(reply.field("connection"), "close", "{fields}");
        assert_eq!(connection.rest(), b"", "{fields}: nothing else is answered");
    }
    assert!(origin.asked().is_empty(), "{:#?}", origin.asked());
}

#[test]
fn odd_heads_are_refused() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(100));
    let wide = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "b".repeat(70_000));
    let table = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\u{1}c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n", 400),
        ("GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (&long, 414),
        (&many, 431),
        (&wide, 431),
    ];
    for (head, status) in table {
        let mut connection = proxy.connect();
        let reply = connection.send(head).reply();
        assert_eq!(reply.status, status, "{:.60}: {}", head, reply.body());
        assert!(reply.complete);
    }
    assert!(origin.asked().is_empty());
}

#[test]
fn dot_segments_do_not_leave_the_origins_prefix() {
    let origin = Origin::script([on("GET /p/a").send(200, "", "x")]);
    let proxy = Proxy::start(&["--origin", &format!("{}/p", origin.url())]);
    assert_eq!(proxy.get("/a").status, 200);
    for target in ["/../secret", "/a/%2e%2E/../secret"] {
        assert_eq!(proxy.get(target).status, 400, "{target}");
    }
    origin.assert_finished();
}

/// tiny_http would allocate what a client announces, and abort the process.
#[test]
fn an_announced_length_that_is_not_sent_harms_nobody() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x")]);
    let mut proxy = Proxy::before(&origin, &["--cache-mode", "offline"]);
    for length in ["10000000000000", "9223372036854775807", "18446744073709551615", "3000000000"] {
        let mut connection = proxy.connect();
        connection
            .send(format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\nabc"));
        let reply = connection.reply();
        assert_eq!(reply.status, 504, "{length}");
        assert_eq!(connection.rest(), b"");
    }
    assert!(proxy.is_alive());
    assert_eq!(proxy.get("/a").status, 504);
}

#[test]
fn content_that_nobody_reads_does_not_become_the_next_request() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x")]);
    let proxy = Proxy::before(&origin, &["--cache-mode", "offline"]);
    let inner = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let size = inner.len();
    // A short one is read to its end, and the connection goes on.
    let mut connection = proxy.connect();
    connection.send(format!("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{inner}\r\n0\r\n\r\n"));
    assert_eq!(connection.reply().status, 504);
    assert_eq!(connection.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").reply().status, 504);
    // A long one is not.
    let mut connection = proxy.connect();
    connection.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n");
    assert_eq!(connection.reply().field("connection"), "close");
    assert_eq!(connection.rest(), b"");
}

/// A refusal must not get into the middle of an earlier response on the same connection.
#[test]
fn a_refused_request_does_not_mix_into_the_response_before_it() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET /slow")
        .head(200, "Content-Length: 1000")
        .bytes("begun")
        .wait(&gate)
        .bytes(&"x".repeat(995))]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.request("GET", "/slow", "", "");
    assert!(connection.head().is_some());
    connection.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3 0\r\n\r\n");
    if FRONT == "event" {
        // In order: the earlier response comes to its end first.
        gate.open();
        let whole = "begun".to_string() + &"x".repeat(995);
        let rest = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(rest.starts_with(&(whole + "HTTP/1.1 400 Bad Request\r\n")), "{rest}");
        return;
    }
    let rest = connection.rest();
    gate.open();
    assert_eq!(rest, b"begun", "cut, and nothing else in it");
}

/// What follows a refused request on its connection may announce any length.
#[test]
fn content_behind_a_refused_request_harms_nobody() {
    let origin = Origin::script([]);
    let mut proxy = Proxy::before(&origin, &["--cache-mode", "offline"]);
    let backing = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000000000\r\n\r\nabc";
    for _ in 0..5 {
        let mut connection = proxy.connect();
        connection
            .send(format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3 0\r\n\r\n{backing}"));
        assert_eq!(connection.reply().status, 400);
        assert_eq!(connection.rest(), b"");
    }
    assert!(proxy.is_alive());
    assert_eq!(proxy.get("/a").status, 504);
}

/// An upload that is cut must not reach the origin server as a whole one.
#[test]
fn a_cut_upload_is_not_forwarded_as_complete() {
    let origin = Origin::script([
        on("POST /length").send(200, "", "x"),
        on("POST /chunked").send(200, "", "x"),
        on("POST /chunk").send(200, "", "x"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for (count, head) in [
        "POST /length HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc",
        "POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST /chunk HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    ]
    .into_iter()
    .enumerate()
    {
        let mut connection = proxy.connect();
        connection.send(head);
        connection.half_close();
        let asked = origin.wait_for(count + 1);
        assert!(!asked[count].complete, "{head}");
    }
}

#[test]
fn a_connection_without_a_request_is_closed_in_time() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--header-timeout", "300ms", "--idle-timeout", "300ms"]);
    let mut silent = proxy.connect();
    let mut partial = proxy.connect();
    partial.send("GET / HTTP/1.1\r\nHost: h\r\nA: ");
    let mut bare = proxy.connect();
    bare.send("GET / HTTP/1.1\nHost: h\n");
    for connection in [&mut partial, &mut bare] {
        if FRONT == "event" {
            let reply = connection.reply();
            assert_eq!((reply.status, reply.field("connection")), (408, "close".into()));
        }
        assert!(connection.is_closed());
    }
    assert!(silent.is_closed(), "and nothing is said to who has said nothing");
}

#[test]
fn an_idle_connection_is_closed_in_time_and_a_busy_one_is_not() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60", "x"),
        on("GET /slow").wait(&gate).send(200, "", "slow"),
    ]);
    let proxy = Proxy::before(&origin, &["--idle-timeout", "300ms"]);
    let mut busy = proxy.connect();
    busy.request("GET", "/slow", "", "");
    origin.wait_for(1);
    let mut idle = proxy.connect();
    idle.request("GET", "/a", "", "");
    assert_eq!(idle.reply().status, 200);
    assert!(idle.is_closed());
    gate.open();
    assert_eq!(busy.reply().body(), "slow");
    // An upload that stalls is no better than an idle connection.
    origin.add(on("POST /a").send(200, "", "x"));
    let mut stalled = proxy.connect();
    stalled.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc");
    if FRONT == "event" {
        assert_eq!(stalled.reply().status, 408);
    }
    assert!(stalled.is_closed());
}

#[test]
fn connections_beyond_the_bound_are_closed_or_wait() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x")]);
    let proxy = Proxy::before(&origin, &["--max-connections", "5"]);
    let mut first = proxy.connect();
    first.request("GET", "/a", "", "");
    assert_eq!(first.reply().status, 200);
    let mut many: Vec<Connection> = (0..20).map(|_| proxy.connect()).collect();
    if FRONT == "event" {
        // Further ones wait in the kernel's queue until others leave.
        for connection in &mut many {
            connection.request("GET", "/a", "Connection: close\r\n", "");
        }
        first.request("GET", "/a", "", "");
        assert!(first.reply().is_hit(), "who was served before is served on");
        for connection in &mut many {
            assert!(connection.reply().is_hit());
        }
        return;
    }
    for connection in &many {
        connection.stream.set_nonblocking(true).expect("an option");
    }
    let closed = || {
        let ended = |connection: &&Connection| matches!((&connection.stream).read(&mut [0]), Ok(0));
        many.iter().filter(ended).count()
    };
    // Twenty-one are open and five may be. Silent ones would be closed after ten seconds anyway.
    let deadline = Instant::now() + Duration::from_secs(8);
    while closed() < 16 {
        assert!(Instant::now() < deadline, "{} of 16 are closed", closed());
        super::support::pause();
    }
    assert!(proxy.log().contains("at most 5 are kept: see --max-connections"));
    first.request("GET", "/a", "", "");
    assert!(first.reply().is_hit(), "who was served before is served on");
}

/// tiny_http stops accepting for good when it runs out of descriptors.
#[test]
fn running_out_of_descriptors_is_survived() {
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x").always()]);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "ulimit -n 100; exec \"$0\" \"$@\"",
        command().get_program().to_str().expect("a path"),
    ]);
    shell.args(["--origin", &origin.url(), "--workers", "4", "--header-timeout", "500ms"]);
    let mut proxy = Proxy::start_as(shell);
    assert_eq!(proxy.get("/a").status, 200);
    for _ in 0..3 {
        let many: Vec<TcpStream> =
            (0..150).filter_map(|_| TcpStream::connect(proxy.address).ok()).collect();
        assert!(many.len() > 100);
    }
    assert!(proxy.is_alive());
    // It may take a moment until the flood is over; then it serves as before.
    let served = (0..10_000).any(|_| {
        let Ok(mut stream) = TcpStream::connect(proxy.address) else { return false };
        let mut first = [0; 12];
        stream.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        let asked = stream.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        asked.is_ok() && stream.read_exact(&mut first).is_ok() && &first == b"HTTP/1.1 200"
    });
    assert!(served, "{}", proxy.log());
}

/// tiny_http can leave a new connection in its queue while all its threads are busy.
#[test]
fn no_connection_starves_when_many_come_at_once() {
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x").always()]);
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..5 {
        let mut all: Vec<Connection> = (0..40).map(|_| proxy.connect()).collect();
        for connection in &mut all {
            connection.request("GET", "/a", "", "");
        }
        // All are kept open, so that no thread becomes free.
        for connection in &mut all {
            assert_eq!(connection.reply().status, 200);
        }
    }
}

#[test]
fn a_client_that_reads_nothing_delays_nobody() {
    let origin = Origin::script([
        on("GET /big")
            .head(200, "Content-Length: 50000000")
            .then(Step::Repeat(vec![b'x'; 1_000_000], 50))
            .times(2),
        on("GET /a").send(200, "Cache-Control: max-age=60", "x"),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "2"]);
    let mut deaf: Vec<Connection> = (0..2).map(|_| proxy.connect()).collect();
    for connection in &mut deaf {
        connection.request("GET", "/big", "Cache-Control: no-store\r\n", "");
        assert!(connection.head().is_some());
    }
    let offline = proxy.get_with("/a", "Cache-Control: only-if-cached\r\n");
    assert_eq!(offline.status, 504, "answered although both workers wait for their clients");
}

#[test]
fn a_client_that_reads_nothing_is_cut_in_time() {
    let origin = Origin::script([
        on("GET /big")
            .head(200, "Content-Length: 50000000; Cache-Control: no-store")
            .then(Step::Repeat(vec![b'x'; 1_000_000], 50)),
        on("GET /a").send(200, "", "x"),
    ]);
    let limits = ["--origin-connections", "1", "--idle-timeout", "300ms"];
    let proxy = Proxy::before(&origin, &limits);
    let mut deaf = proxy.connect();
    deaf.request("GET", "/big", "", "");
    assert!(deaf.head().is_some());
    // The only connection to the origin server is free again.
    assert_eq!(proxy.get("/a").status, 200);
    assert!(deaf.rest().len() < 50_000_000);
}

/// tiny_http lets whoever answers out of turn wait: a client that pipelines could hold every worker.
#[test]
fn a_client_that_pipelines_holds_one_worker() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60", "x"),
        on("GET /slow").wait(&gate).send(200, "", "slow"),
        on("GET /b").send(200, "", "other"),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "2"]);
    assert_eq!(proxy.get("/a").status, 200);
    let mut connection = proxy.connect();
    connection.request("GET", "/slow", "", "");
    origin.wait_for(2);
    for _ in 0..20 {
        connection.request("GET", "/a", "", "");
    }
    assert_eq!(proxy.get("/b").body(), "other");
    assert!(proxy.get("/a").is_hit());
    gate.open();
    assert_eq!(connection.reply().body(), "slow");
    for _ in 0..20 {
        assert!(connection.reply().is_hit());
    }
    origin.assert_finished();
}

#[test]
fn a_client_that_pipelines_without_end_is_cut_or_waits() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET /slow").wait(&gate).send(200, "", "slow")]);
    let mut proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.request("GET", "/slow", "", "");
    origin.wait_for(1);
    if FRONT == "event" {
        // What there is no room for stays with the client.
        let (_, before) = proxy.memory_kib();
        connection.stream.set_nonblocking(true).expect("an option");
        let requests = b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
        let mut sent = 0;
        while let Ok(count) = connection.stream.write(&requests) {
            sent += count;
            assert!(sent < 1 << 30, "there is no end to what it takes");
        }
        let (_, after) = proxy.memory_kib();
        assert!(after < before + 1024, "{before} KiB, then {after} KiB");
        gate.open();
        connection.stream.set_nonblocking(false).expect("an option");
        for _ in 0..100 {
            assert_eq!(connection.reply().body(), "slow");
        }
        return;
    }
    for _ in 0..10_000 {
        if connection.stream.write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").is_err() {
            break;
        }
    }
    assert_eq!(connection.rest(), b"", "cut, without an answer");
    gate.open();
    assert!(proxy.is_alive());
}

/// An origin server that lies about its content, or sends what is no HTTP.
#[test]
fn what_the_origin_server_sends_cannot_do_harm() {
    let many = "A: b; ".repeat(200);
    let huge = format!("A: {}", "b".repeat(100_000));
    let origin = Origin::script([
        on("GET /more")
            .head(200, "Content-Length: 10; Cache-Control: max-age=60")
            .bytes("0123456789and much more than that"),
        on("GET /garbage").bytes("this is no HTTP\r\n\r\n").close(),
        on("GET /many").send(200, &many, "x"),
        on("GET /huge").send(200, &huge, "x"),
        on("GET /negative").head(200, "Content-Length: -5").bytes("x").close(),
        on("GET /two").head(200, "Content-Length: 3; Content-Length: 4").bytes("abcd").close(),
        on("GET /chunk").head(200, "Transfer-Encoding: chunked").bytes("zz\r\nabc\r\n").close(),
        on("GET /split").send(200, "A: b", "x"),
        on("GET /switch").head(101, "Upgrade: x"),
        on("GET /interim")
            .bytes("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .send(200, "", "final"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..2 {
        let more = proxy.get("/more");
        assert_eq!((more.body(), more.complete), ("0123456789".into(), true));
    }
    for target in ["/garbage", "/many", "/huge", "/negative", "/two", "/switch"] {
        let reply = proxy.get(target);
        assert_eq!(reply.status, 502, "{target}: {}", reply.head.text);
        assert!(reply.complete && !reply.body().is_empty());
        assert!(
            reply.cache_status().contains("detail=invalid"),
            "{target}: {}",
            reply.cache_status()
        );
    }
    // Cut before its first byte: said so, if that was known before the head was sent.
    let chunk = proxy.get("/chunk");
    assert!((chunk.status, chunk.complete) == (502, true) || !chunk.complete, "{}", chunk.status);
    assert_eq!(proxy.get("/split").status, 200);
    assert_eq!(proxy.get("/interim").body(), "final");
    origin.assert_finished();
}

#[test]
fn a_request_that_goes_in_circles_is_stopped() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    let via = "Via: 1.1 proxy\r\n".repeat(9);
    let reply = proxy.get_with("/a", &via);
    assert_eq!((reply.status, reply.cache_status()), (502, "proxy; detail=loop".into()));
}

/// A client that has only closed its side gets its answer.
#[test]
fn a_client_that_has_closed_its_side_is_answered() {
    let late = Gate::new();
    let origin = Origin::script([on("GET /a").wait(&late).send(200, "", "late")]);
    let proxy = Proxy::before(&origin, &["--header-timeout", "400ms"]);
    let mut connection = proxy.connect();
    connection.request("GET", "/a", "Cache-Control: no-store\r\n", "");
    connection.half_close();
    origin.wait_for(1);
    if FRONT == "event" {
        // It is asked whether it is there.
        assert_eq!(connection.head().map(|head| head.word(1).to_string()), Some("100".into()));
    }
    late.open();
    assert_eq!(connection.reply().body(), "late");
}
