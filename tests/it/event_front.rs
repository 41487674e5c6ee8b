//! What the event front alone does, or does otherwise than the plain one: strict reading, bounds on time
//! and size, and going on whatever happens.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::support;
use super::support::PATIENCE;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::Proxy;
use super::support::wire::Connection;

const FRESH: &str = "Cache-Control: max-age=60";

/// RFC 9112 §2, §3, RFC 9110 §15: each fault has its status, and an explanation.
#[test]
fn faults_of_a_head_have_their_statuses() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--max-request-size", "1000"]);
    #[rustfmt::skip]
    let table: [(&[u8], u16, &str); 17] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "send HTTP/1.1"),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, "send HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "this is TLS"),
        (b"GET /\r\n\r\n", 400, "request line"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400, "request field"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\x00\r\n\r\n", 400, "request field \"A\""),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", 400, "request field \"A\""),
        (b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n", 400, "request field"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n", 400, "line end"),
        (b"OPTIONS / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n", 417, "expectation \"more\""),
        (b"POST / HTTP/1.0\r\n\r\n", 411, "no Content-Length"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 413, "--max-request-size"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "transfer coding"),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 501, "method CONNECT"),
        (b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 501, "method TRACE"),
        (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "request target"),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "request target"),
    ];
    for (head, status, text) in table {
        let mut connection = proxy.connect();
        let reply = connection.send(head).reply();
        let shown = String::from_utf8_lossy(head);
        assert_eq!(reply.status, status, "{shown:?}: {}", reply.body());
        assert!(reply.body().contains(text), "{shown:?}: {}", reply.body());
        assert_eq!(reply.field("connection"), "close");
        assert_eq!(connection.rest(), b"", "{shown:?}");
    }
    assert!(origin.asked().is_empty());
}

/// RFC 9112 §2.2, §3.2, RFC 9110 §5.5: what is odd and clear is served.
#[test]
fn odd_but_clear_requests_are_served() {
    let origin = Origin::script([
        on("GET /lf").send(200, "", "lf"),
        on("GET /a?b").send(200, "", "absolute"),
        on("OPTIONS *").send(200, "", "asterisk").times(2),
        on("GET /latin").send(200, "", "latin"),
        on("GET /token").having("Authorization: Bearer caf\u{fffd}").send(200, "", "token"),
        on("GET /%E9").send(200, "", "encoded"),
        on("GET /minor").send(200, "", "minor"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let ask = |bytes: &[u8]| proxy.connect().send(bytes).reply();
    assert_eq!(ask(b"GET /lf HTTP/1.1\nHost: h\n\n").body(), "lf");
    assert_eq!(ask(b"\r\nGET http://x/a?b HTTP/1.1\r\nHost: h\r\n\r\n").body(), "absolute");
    assert_eq!(ask(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").body(), "asterisk");
    assert_eq!(ask(b"OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n").body(), "asterisk");
    assert_eq!(ask(b"GET /latin HTTP/1.1\r\nHost: h\r\nX-A: caf\xe9\r\n\r\n").body(), "latin");
    assert_eq!(ask(b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n").body(), "encoded");
    assert_eq!(ask(b"GET /minor HTTP/1.9\r\nHost: h\r\n\r\n").body(), "minor");
    let token = b"GET /token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer caf\xe9\r\n\r\n";
    assert_eq!(ask(token).body(), "token");
    let latin = origin.asked().into_iter().find(|asked| asked.head.word(1) == "/latin");
    assert!(latin.is_some_and(|asked| asked.head.field("x-a") == "caf\u{fffd}"));
    origin.assert_finished();
}

/// RFC 9112 §7.1: extensions and trailers end here, and the content passes whole.
#[test]
fn a_chunked_upload_is_put_together_anew() {
    let origin = Origin::script([on("POST /a").send(200, "", "x").times(2)]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    for _ in 0..2 {
        connection.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send("3;a=b;c=\"d\"\r\nabc\r\n0003\r\ndef\r\n0\r\nX-Trailer: y\r\nZ:\r\n\r\n");
        assert_eq!(connection.reply().status, 200);
    }
    for asked in origin.asked() {
        assert_eq!((&asked.content[..], asked.complete), (&b"abcdef"[..], true));
        assert!(!asked.head.text.to_ascii_lowercase().contains("trailer"));
    }
    // A coding that goes wrong in the middle is never passed on as whole.
    origin.add(on("POST /b").send(200, "", "x"));
    let mut connection = proxy.connect();
    connection.send("POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection
        .send("3\r\nabc\r\n5 \r\nsmugg\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = connection.reply();
    assert_eq!(
        (reply.status, reply.field("connection")),
        (400, "close".into()),
        "{}",
        reply.body()
    );
    assert_eq!(connection.rest(), b"");
    assert!(origin.asked().iter().all(|asked| asked.head.word(1) != "/smuggled"));
    assert!(origin.asked().iter().filter(|asked| asked.head.word(1) == "/b").all(|b| !b.complete));
}

/// RFC 9112 §9.3.2: answers come in order, whatever each of them takes.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /hit").send(200, FRESH, "hit"),
        on("GET /slow").wait(&gate).send(200, "", "slow"),
        on("POST /up").send(200, "", "up"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/hit");
    let mut connection = proxy.connect();
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    let upload = "POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let all = [get("/hit").repeat(3), get("/slow"), upload.into(), get("/hit").repeat(2)].concat();
    connection.send(all);
    gate.open();
    let bodies: Vec<String> = (0..7).map(|_| connection.reply().body()).collect();
    assert_eq!(bodies, ["hit", "hit", "hit", "slow", "up", "hit", "hit"]);
    origin.assert_finished();
}

/// RFC 9112 §9.6: who has said all it had to say still listens.
#[test]
fn a_client_that_closes_its_side_gets_its_answers() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /slow").wait(&gate).send(200, "", "slow"),
        on("GET /hit").send(200, FRESH, "hit"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.request("GET", "/slow", "", "").request("GET", "/hit", "", "");
    connection.half_close();
    gate.open();
    assert_eq!(connection.reply().body(), "slow");
    assert_eq!(connection.reply().body(), "hit");
    assert!(connection.is_closed());
    // In the middle of a head, the answer says so.
    let mut connection = proxy.connect();
    connection.send("GET /a HTTP/1.1\r\nHos").half_close();
    assert_eq!(connection.reply().status, 400);
}

/// RFC 9110 §10.1.1: the client is asked for its content when somebody wants it.
#[test]
fn content_is_asked_for_when_it_is_wanted() {
    let origin = Origin::script([
        on("POST /up").send(200, "", "up"),
        on("GET /hit").send(200, FRESH, "hit"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let expecting = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    let mut connection = proxy.connect();
    connection.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{expecting}\r\n"));
    let interim = connection.head().expect("it is asked for");
    assert_eq!(interim.first, "HTTP/1.1 100 Continue");
    connection.send("abc");
    let reply = connection.reply();
    assert_eq!((reply.status, reply.interim.len(), reply.body()), (200, 0, "up".into()));
    // Nobody wants it: the answer is final, and what follows cannot be told apart.
    let mut connection = proxy.connect();
    connection.send(format!(
        "POST /up HTTP/1.1\r\nHost: h\r\nCache-Control: only-if-cached\r\nTE: x\r\nVia: {}\r\n{expecting}\r\n",
        "1.1 proxy, ".repeat(10)
    ));
    let reply = connection.reply();
    assert_eq!(
        (reply.status, reply.interim.len(), reply.field("connection")),
        (502, 0, "close".into())
    );
    assert!(connection.is_closed());
}

/// An answer to who is still sending is read before the end of the connection is seen (§9.6).
#[test]
fn a_refused_upload_reads_why() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--max-request-size", "1M"]);
    let mut connection = proxy.connect();
    connection.send("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    connection.send(vec![b'x'; 3_000_000]);
    let reply = connection.reply();
    assert_eq!((reply.status, reply.field("connection")), (413, "close".into()));
    // But not for ever.
    let piece = vec![b'x'; 1 << 20];
    assert!((0..1000).any(|_| connection.stream.write_all(&piece).is_err()));
    // Where the length is not told, as soon as it is too much.
    let mut connection = proxy.connect();
    connection.send("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n");
    connection.send(vec![b'x'; 1_500_000]);
    assert_eq!(connection.reply().status, 413);
}

/// The deadline of a head is absolute: every byte in time is not enough.
#[test]
fn a_head_that_drips_is_refused_in_time() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--header-timeout", "300ms"]);
    let mut connection = proxy.connect();
    connection.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    connection.send("GET / HTTP/1.1\r\nHost: h\r\n");
    let mut first = [0; 12];
    // One more byte each time that nothing has come: at most ten seconds of them.
    let answered = (0..500).any(|_| {
        let _ = connection.stream.write_all(b"a");
        connection.stream.read_exact(&mut first).is_ok()
    });
    assert!(answered && &first == b"HTTP/1.1 408");
}

/// A loop without connections sleeps without a clock; who comes then has all the time there is.
#[test]
fn who_comes_after_a_long_silence_is_not_late() {
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a")]);
    let flags = ["--header-timeout", "2", "--idle-timeout", "2", "--threads", "1"];
    let proxy = Proxy::before(&origin, &flags);
    assert_eq!(proxy.get_with("/a", "Connection: close\r\n").status, 200);
    proxy.wait_for_clients(0);
    // Another one's timeout, which is longer, tells when the loop has been asleep for long enough.
    let clock = Proxy::before(&origin, &["--header-timeout", "2300ms"]);
    assert!(clock.connect().is_closed());
    let mut connection = proxy.connect();
    connection.send("GET /a HTTP/1.1\r\nHos");
    for _ in 0..3 {
        // Other events in between give the loop reason to look at this one.
        assert!(proxy.get("/a").is_hit());
    }
    connection.send("t: h\r\n\r\n");
    assert!(connection.reply().is_hit());
    connection.request("GET", "/a", "", "");
    assert!(connection.reply().is_hit());
}

/// Content has to come at a rate, beside what is granted at first.
#[test]
fn content_that_drips_is_refused_in_time() {
    let origin = Origin::script([on("POST /a").send(200, "", "x")]);
    let flags = ["--header-timeout", "300ms", "--idle-timeout", "20"];
    let proxy = Proxy::before(&origin, &flags);
    let mut connection = proxy.connect();
    connection.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    connection.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    let mut first = [0; 12];
    let answered = (0..500).any(|_| {
        let _ = connection.stream.write_all(b"a");
        connection.stream.read_exact(&mut first).is_ok()
    });
    assert!(answered && &first == b"HTTP/1.1 408");
    assert!(origin.wait_for(1).iter().all(|asked| !asked.complete));
}

/// A hit, large or growing: a client that takes nothing is cut, and others are served meanwhile.
#[test]
fn a_client_that_takes_nothing_is_cut_in_time() {
    let large = |target: &str| {
        on(&format!("GET {target}"))
            .head(200, "Content-Length: 8000000; Cache-Control: max-age=60")
            .then(Step::Repeat(vec![b'x'; 1_000_000], 8))
    };
    let origin = Origin::script([large("/large"), on("GET /a").send(200, FRESH, "a")]);
    let proxy = Proxy::before(&origin, &["--idle-timeout", "300ms", "--threads", "1"]);
    assert_eq!(proxy.get("/large").content.len(), 8_000_000);
    let mut deaf: Vec<Connection> = (0..20).map(|_| proxy.connect()).collect();
    for connection in &mut deaf {
        connection.request("GET", "/large", "", "");
    }
    for _ in 0..50 {
        assert_eq!(proxy.get("/a").status, 200);
    }
    for connection in &mut deaf {
        // They read what is on its way only after the proxy has given them up.
        thread::yield_now();
        proxy.wait_for_clients(0);
        assert!(connection.rest().len() < 8_000_000);
    }
}

/// All loops together hold only so much of unfinished requests.
#[test]
fn unfinished_requests_take_bounded_memory() {
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a").always()]);
    let proxy = Proxy::before(&origin, &["--threads", "1"]);
    assert_eq!(proxy.get("/a").status, 200);
    let half = format!("GET /a HTTP/1.1\r\nHost: h\r\nA: {}", "a".repeat(60_000));
    let mut many: Vec<Connection> = (0..700)
        .map(|_| {
            let mut connection = proxy.connect();
            let _ = connection.stream.write_all(half.as_bytes());
            connection
        })
        .collect();
    let refused = many
        .iter_mut()
        .rev()
        .take(50)
        .map(|connection| connection.reply_to("GET").map_or(0, |reply| reply.status));
    assert!(refused.into_iter().all(|status| status == 503));
    let (_, peak) = proxy.memory_kib();
    assert!(peak < 64 * 1024, "{peak} KiB");
    assert_eq!(proxy.get("/a").status, 200);
    // Those that were there before go on.
    let mut first = many.swap_remove(0);
    first.send("\r\n\r\n");
    assert_eq!(first.reply().status, 200);
}

/// Without descriptors, those who come are told so, and accepting goes on by itself.
#[test]
fn clients_are_told_when_there_are_no_descriptors() {
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a").always()]);
    let proxy = Proxy::before(&origin, &["--threads", "1"]);
    let mut first = proxy.connect();
    first.request("GET", "/a", "", "");
    assert_eq!(first.reply().status, 200);
    let limit = |most: usize| {
        let pid = proxy.pid().to_string();
        let most = format!("--nofile={most}:{most}");
        let done = Command::new("prlimit").args(["--pid", &pid, &most]).status();
        assert!(done.expect("prlimit").success());
    };
    let folder = format!("/proc/{}/fd", proxy.pid());
    let is_free = |number: &usize| !std::path::Path::new(&format!("{folder}/{number}")).exists();
    limit((0..10_000).filter(is_free).nth(2).expect("a number") + 1);
    let mut many: Vec<Connection> = (0..30).map(|_| proxy.connect()).collect();
    let told = many.iter_mut().rev().take(20).all(|connection| {
        let reply = connection.reply();
        reply.status == 503 && reply.complete && reply.body().contains("descriptors")
    });
    assert!(told);
    first.request("GET", "/a", "", "");
    assert!(first.reply().is_hit(), "who is served is served on");
    drop(many);
    // Those who left are noticed in a moment.
    let served = (0..1000).any(|_| {
        let mut after = proxy.connect();
        let _ = after.stream.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        after.reply_to("GET").is_some_and(|reply| reply.is_hit())
    });
    assert!(served, "{}", proxy.log());
    assert!(proxy.log().contains("accepting connections"), "{}", proxy.log());
}

/// SIGTERM: idle connections end, busy ones after their response, which says so.
#[test]
fn a_drain_ends_idle_connections_and_finishes_busy_ones() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "a"),
        on("GET /slow").wait(&gate).send(200, "", "slow"),
    ]);
    let mut proxy = Proxy::before(&origin, &[]);
    let mut idle: Vec<Connection> = (0..50).map(|_| proxy.connect()).collect();
    for connection in &mut idle {
        connection.request("GET", "/a", "", "");
        assert_eq!(connection.reply().status, 200);
    }
    let mut busy = proxy.connect();
    busy.request("GET", "/slow", "", "");
    origin.wait_for(2);
    proxy.signal("-TERM");
    assert!(idle.iter_mut().all(Connection::is_closed));
    assert!(TcpStream::connect(proxy.address).is_err(), "nobody else is let in");
    gate.open();
    let reply = busy.reply();
    assert_eq!((reply.body(), reply.field("connection")), ("slow".into(), "close".into()));
    let (status, _, log) = proxy.wait();
    assert!(status.success() && !log.contains("not finished"), "{log}");
}

/// The fast path and the lookup answer alike.
#[test]
fn the_fast_path_and_the_lookup_agree() {
    let with = |target: &str, status: u16, fields: &str, body: &str| {
        on(&format!("GET {target}")).send(status, &format!("{FRESH}; {fields}"), body).always()
    };
    let long = "x".repeat(20_000);
    let origin = Origin::script([
        with("/a", 200, "Age: 7; ETag: \"a\"", "hello"),
        with("/via", 200, "Via: 1.1 other; Cache-Status: other; hit; X-Cache: MISS", "hello"),
        with("/gone", 410, "", "gone"),
        with("/empty", 200, "", ""),
        with("/nothing", 204, "", ""),
        with("/long", 200, "", &long),
        with("/moved", 301, "Location: /there; Link: <http://elsewhere/>", "moved"),
    ]);
    for flags in [&[][..], &["--no-browser-cache"], &["--eviction-policy", "lru"]] {
        let proxy = Proxy::before(&origin, flags);
        for target in ["/a", "/via", "/gone", "/empty", "/nothing", "/long", "/moved"] {
            proxy.get(target);
            for (method, connection) in
                [("GET", ""), ("HEAD", ""), ("GET", "Connection: close\r\n")]
            {
                let fast = proxy.ask(method, target, connection, "");
                // A length of nothing changes nothing, and is not plain.
                let fields = format!("{connection}Content-Length: 0\r\n");
                let lookup = proxy.ask(method, target, &fields, "");
                let sorted = |reply: &support::wire::Reply| {
                    let mut fields = reply.head.fields.clone();
                    // A second may pass between the two.
                    fields.retain(|(name, _)| name != "Age");
                    for (name, value) in &mut fields {
                        if name == "Cache-Status" {
                            *value = value.split("ttl").next().unwrap_or_default().to_string();
                        }
                    }
                    fields.sort();
                    (reply.head.first.clone(), fields, reply.content.clone())
                };
                assert_eq!(sorted(&fast), sorted(&lookup), "{method} {target} {flags:?}");
                assert!(fast.is_hit() && !fast.field("age").is_empty());
            }
        }
    }
}

/// At rest there are no threads but the main one, the loops, and one each for work that waits, the timer, the control
/// socket and a process that takes over.
#[test]
fn at_rest_there_are_few_threads() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "a")]);
    let proxy = Proxy::before(&origin, &["--threads", "2"]);
    assert_eq!(proxy.get("/a").body(), "a");
    assert_eq!(proxy.get("/a").body(), "a");
    assert!(proxy.tell(&["stats", "--port", &proxy.address.port().to_string()]).status.success());
    let deadline = Instant::now() + PATIENCE;
    // The one that has answered is about to end.
    while proxy.threads() > 7 {
        assert!(Instant::now() < deadline, "{} threads", proxy.threads());
        support::pause();
    }
}

/// Who waits for a turn at the origin server and leaves takes nobody's: what would not be kept is not asked for.
#[test]
fn a_client_that_leaves_while_its_request_waits_for_a_turn_is_not_asked_for() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /1").wait(&gate).send(200, "", "one"),
        on("GET /3").send(200, "", "three"),
    ]);
    let proxy = Proxy::before(&origin, &["--origin-concurrency", "1", "--threads", "1"]);
    let ask = |target: &str| {
        let mut client = proxy.connect();
        client.request("GET", target, "Cache-Control: no-store\r\n", "");
        // What comes later over another connection is answered: so the loop has seen the request.
        assert_eq!(proxy.get_with("/0", "Cache-Control: only-if-cached\r\n").status, 504);
        client
    };
    let mut first = ask("/1");
    origin.wait_for(1);
    let leaving = [ask("/2"), ask("/2")];
    let mut last = ask("/3");
    leaving.into_iter().for_each(Connection::reset);
    // The loop has seen that, too.
    ask("/4").reset();
    gate.open();
    assert_eq!(first.reply().body(), "one");
    assert_eq!(last.reply().body(), "three");
    origin.assert_finished();
}
