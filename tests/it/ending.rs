//! The end of the process: who is waited for, who is not, and what is still done.

use std::io::Read;
use std::time::Instant;

use super::support::origin::{Gate, Origin, Rule, Step, on};
use super::support::proxy::Proxy;
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder};

const FRESH: &str = "Cache-Control: max-age=600";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
const AGREED: &str = "Upgrade: websocket; Connection: Upgrade; Sec-WebSocket-Accept: s";
const EVENT: &str = "data: one\n\n";

/// It ends, although it would be given an hour.
fn assert_ends(proxy: &mut Proxy) -> String {
    let deadline = Instant::now() + PATIENCE;
    while proxy.is_alive() {
        assert!(Instant::now() < deadline, "it does not end: {}", proxy.log());
        super::support::pause();
    }
    let (status, _, log) = proxy.wait();
    assert!(status.success() && !log.contains("not finished in time"), "{log}");
    log
}

/// Begins a stream and never ends it.
fn stream(target: &str, fields: &str, never: &Gate) -> Rule {
    let chunked = format!("{fields}; Transfer-Encoding: chunked");
    on(&format!("GET {target}")).head(200, &chunked).bytes(&format!("b\r\n{EVENT}\r\n")).wait(never)
}

/// Asks for a stream and reads its first event.
fn listen(proxy: &Proxy, request: &str) -> Connection {
    let mut connection = proxy.connect();
    connection.send(request);
    let head = connection.head().expect("a head");
    assert_eq!(head.word(1), "200", "{request}");
    let chunk = format!("B\r\n{EVENT}\r\n");
    let event = if head.field("transfer-encoding") == "chunked" { &chunk } else { EVENT };
    let mut bytes = vec![0; event.len()];
    connection.stream.read_exact(&mut bytes).expect("an event");
    assert_eq!(String::from_utf8_lossy(&bytes), event);
    connection
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// Content of every kind, by whether and how it says that it will end.
fn endless_and_bounded(never: &Gate, slow: &Gate, late: &Gate) -> Origin {
    let with_length = "Content-Type: text/event-stream; Content-Length: 22";
    Origin::script([
        stream("/events", "Content-Type: text/event-stream; Cache-Control: no-store", never)
            .times(56),
        stream("/storable", &format!("Content-Type: text/event-stream; {FRESH}"), never),
        stream("/named", "Content-Type: Text/Event-Stream ; charset=utf-8", never).times(2),
        stream("/pictures", "Content-Type: multipart/x-mixed-replace;boundary=b", never),
        on("GET /until-closed")
            .head(200, "Content-Type: text/event-stream")
            .bytes(EVENT)
            .wait(never),
        on("GET /much")
            .head(200, "Content-Type: text/event-stream")
            .then(Step::Repeat(EVENT.repeat(1000).into_bytes(), 10_000))
            .wait(never),
        on("GET /late")
            .wait(late)
            .head(200, "Content-Type: text/event-stream")
            .bytes(EVENT)
            .wait(never),
        on("GET /socket").head(101, AGREED).then(Step::Echo),
        on("GET /bounded").head(200, with_length).bytes(EVENT).wait(slow).bytes(EVENT),
        on("GET /slow")
            .head(200, "Content-Type: text/plain; Transfer-Encoding: chunked")
            .bytes(&format!("b\r\n{EVENT}\r\n"))
            .wait(slow)
            .bytes("4\r\nlast\r\n0\r\n\r\n"),
        on("GET /stored").send(200, FRESH, "stored"),
    ])
}

/// Streams without an end are cut at once, whoever listens to them and whatever they are called; a response
/// that ends by itself is waited for; what was stored is on disk.
#[cfg(feature = "sqlite")]
#[test]
fn sigterm_waits_for_what_ends_and_for_nothing_else() {
    let (never, slow, late) = (Gate::new(), Gate::new(), Gate::new());
    let origin = endless_and_bounded(&never, &slow, &late);
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let flags = ["--drain-timeout", "1h", "--workers", "80", "--store", &store];
    let mut proxy = Proxy::before(&origin, &flags);
    let mut streams: Vec<Connection> = (0..56).map(|_| listen(&proxy, &get("/events"))).collect();
    for target in ["/storable", "/named", "/pictures", "/until-closed"] {
        streams.push(listen(&proxy, &get(target)));
    }
    let mut old = listen(&proxy, "GET /named HTTP/1.0\r\n\r\n");
    let mut much = proxy.connect();
    much.send(get("/much"));
    assert_eq!(much.head().expect("a head").word(1), "200");
    let mut socket = proxy.connect();
    socket.request("GET", "/socket", UPGRADE, "");
    assert_eq!(socket.head().expect("a head").word(1), "101");
    let mut bounded = proxy.connect();
    bounded.send(get("/bounded"));
    let mut plain = listen(&proxy, &get("/slow"));
    let mut to_come = proxy.connect();
    to_come.send(get("/late"));
    origin.wait_for(66);
    assert_eq!(proxy.get("/stored").body(), "stored");

    proxy.signal("-TERM");
    for stream in &mut streams {
        assert_eq!(
            String::from_utf8_lossy(&stream.rest()),
            "",
            "it is cut and does not look whole"
        );
    }
    old.rest();
    much.rest();
    assert!(socket.is_closed());
    assert!(proxy.is_alive(), "others are waited for");
    late.open();
    to_come.rest();
    assert!(proxy.is_alive(), "others are waited for");
    slow.open();
    let reply = bounded.reply();
    assert!(reply.complete && reply.body() == EVENT.repeat(2), "{}", reply.body());
    assert_eq!(String::from_utf8_lossy(&plain.rest()), "4\r\nlast\r\n0\r\n\r\n");
    let log = assert_ends(&mut proxy);
    assert!(!log.contains("did not take all"), "{log}");

    let next = Proxy::before(&origin, &["--store", &store]);
    assert!(next.get("/stored").is_hit(), "it was written before the end");
    never.open();
}

/// Somebody may take all the time that clients have: the store has its own share of it.
#[cfg(feature = "sqlite")]
#[test]
fn what_was_stored_is_written_although_somebody_is_not_finished_in_time() {
    let never = Gate::new();
    let origin = Origin::script([
        on("GET /slow").head(200, "Content-Length: 20").bytes(EVENT).wait(&never),
        on("GET *any*").send(200, FRESH, "stored").times(100),
    ]);
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let mut proxy = Proxy::before(&origin, &["--drain-timeout", "6s", "--store", &store]);
    let mut slow = proxy.connect();
    slow.send(get("/slow"));
    assert!(slow.head().is_some());
    for number in 0..100 {
        assert_eq!(proxy.get(&format!("/{number}")).body(), "stored");
    }
    proxy.signal("-TERM");
    let (status, _, log) = proxy.wait();
    assert!(status.success() && log.contains("not finished in time"), "{log}");
    assert!(!log.contains("did not take all"), "{log}");
    let next = Proxy::before(&origin, &["--store", &store]);
    for number in 0..100 {
        assert!(next.get(&format!("/{number}")).is_hit(), "{number}");
    }
    never.open();
}
