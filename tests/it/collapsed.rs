//! Collapsed requests: one request to the origin server, and its answer for all, while it grows.
//! RFC 9111 §4.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc::channel;
use std::thread;

use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::Proxy;
use super::support::wire::{Connection, Reply};

const FRESH: &str = "Cache-Control: max-age=60";

fn exactly(connection: &mut Connection, count: usize) -> String {
    let mut bytes = vec![0; count];
    connection.stream.read_exact(&mut bytes).expect("bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many letters come until the end of the body, in whatever chunks.
fn letters_left(connection: &mut Connection, chunked: bool) -> usize {
    let (mut letters, mut tail, mut piece) = (0, Vec::new(), vec![0; 65_536]);
    while if chunked { !tail.ends_with(b"\r\n0\r\n\r\n") } else { letters < 600_000 } {
        let count = connection.stream.read(&mut piece).expect("bytes");
        assert!(count > 0, "it is not cut");
        letters += piece[..count].iter().filter(|byte| byte.is_ascii_lowercase()).count();
        tail.extend_from_slice(&piece[..count]);
        tail.drain(..tail.len().saturating_sub(7));
    }
    letters
}

/// Opens connections and sends the same request on each.
fn ask(proxy: &Proxy, count: usize, target: &str, fields: &str) -> Vec<Connection> {
    let open = |_| {
        let mut connection = proxy.connect();
        connection.request("GET", target, fields, "");
        connection
    };
    (0..count).map(open).collect()
}

fn replies(connections: Vec<Connection>) -> Vec<Reply> {
    let read = |mut connection: Connection| thread::spawn(move || connection.reply());
    let threads: Vec<_> = connections.into_iter().map(read).collect();
    threads.into_iter().map(|thread| thread.join().expect("a reply")).collect()
}

/// One worker is enough for all who wait, and nobody waits for a slow one.
#[test]
fn those_who_wait_get_the_body_as_it_grows_each_at_its_own_pace() {
    for framing in ["Content-Length: 600005", "Transfer-Encoding: chunked"] {
        let chunked = framing.starts_with('T');
        let (second, third) = (Gate::new(), Gate::new());
        let piece = |text: &str| {
            if chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text.to_string() }
        };
        let large = "x".repeat(600_000);
        let mut rule = on("GET /a").head(200, &format!("{FRESH}; {framing}")).bytes(&piece("ab"));
        rule = rule.wait(&second).bytes(&piece("cde")).wait(&third).bytes(&piece(&large));
        if chunked {
            rule = rule.bytes("0\r\n\r\n");
        }
        let origin = Origin::script([rule, on("GET /b").send(200, FRESH, "other")]);
        let proxy = Proxy::before(&origin, &["--workers", "2"]);
        let mut clients = ask(&proxy, 20, "/a", "");
        let first = piece("ab");
        for client in &mut clients {
            assert_eq!(client.head().expect("a head").word(1), "200");
            assert_eq!(exactly(client, first.len()), first);
        }
        second.open();
        let next = piece("cde");
        let mut late = ask(&proxy, 1, "/a", "").remove(0);
        let head = late.head().expect("who comes late gets all of it from the front");
        let told = head.field("cache-status");
        assert!(told.starts_with("proxy; fwd=uri-miss; ttl=") && told.ends_with("; collapsed"));
        let begins = exactly(&mut late, 2);
        assert!(if chunked { begins.ends_with('\r') } else { begins == "ab" }, "{begins}");
        for client in &mut clients {
            assert_eq!(exactly(client, next.len()), next);
        }
        assert_eq!(proxy.get("/b").body(), "other", "a worker is free all the time");
        third.open();
        // Nineteen never read on; it is stored all the same, and the last one gets it.
        let mut reader = clients.pop().expect("twenty of them");
        assert_eq!(letters_left(&mut reader, chunked), 600_000);
        while !proxy.get("/a").is_hit() {}
        for mut client in clients {
            assert_eq!(letters_left(&mut client, chunked), 600_000, "and they at their leisure");
        }
        origin.assert_finished();
    }
}

#[test]
fn a_slow_leader_delays_nobody() {
    let origin = Origin::script([on("GET /a")
        .head(200, &format!("{FRESH}; Content-Length: 4000000"))
        .then(Step::Repeat(b"y".repeat(1000), 4000))]);
    let proxy = Proxy::before(&origin, &["--workers", "1"]);
    let mut leader = ask(&proxy, 1, "/a", "").remove(0);
    assert_eq!(leader.head().expect("a head").word(1), "200");
    // It reads no further, and the only worker is free again, with all of it stored.
    let mut reply = proxy.get("/a");
    while reply.field("cache-status").contains("collapsed") {
        assert_eq!((reply.complete, reply.content.len()), (true, 4_000_000));
        reply = proxy.get("/a");
    }
    assert!(reply.is_hit() && reply.content.len() == 4_000_000);
    let mut rest = vec![0; 4_000_000];
    leader.stream.read_exact(&mut rest).expect("it was only slow");
    origin.assert_finished();
}

#[test]
fn clients_that_leave_take_nothing_with_them() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET /a")
        .head(200, &format!("{FRESH}; Content-Length: 10"))
        .bytes("12345")
        .wait(&gate)
        .bytes("67890")]);
    let proxy = Proxy::before(&origin, &["--workers", "1"]);
    let mut clients = ask(&proxy, 5, "/a", "");
    for client in &mut clients {
        client.head().expect("a head");
        assert_eq!(exactly(client, 5), "12345");
    }
    // The leader and three others go, in the middle of it.
    let mut last = clients.pop().expect("five of them");
    for client in clients {
        client.stream.shutdown(Shutdown::Both).expect("it was open");
    }
    gate.open();
    assert_eq!(exactly(&mut last, 5), "67890");
    assert_eq!(
        last.request("GET", "/a", "", "").reply().body(),
        "1234567890",
        "and the connection lives on"
    );
    origin.assert_finished();
}

#[test]
fn an_answer_that_cannot_be_shared_releases_all_and_is_remembered() {
    let (gate, all) = (Gate::new(), Gate::new());
    let origin = Origin::script([
        on("GET /a").wait(&gate).send(200, "Cache-Control: no-store", "own"),
        on("GET /a").wait(&all).send(200, "Cache-Control: no-store", "own").times(59),
        on("GET /a").wait(&all).send(200, "Cache-Control: no-store", "own").times(5),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "64"]);
    let clients = ask(&proxy, 60, "/a", "");
    origin.wait_for(1);
    gate.open();
    // All of them are under way at once: none waits for another.
    origin.wait_for(60);
    let later = ask(&proxy, 5, "/a", "");
    // Nor do the next ones (hit-for-miss).
    origin.wait_for(65);
    all.open();
    let told: Vec<_> = replies(later).iter().map(Reply::cache_status).collect();
    assert!(told.iter().all(|told| told.ends_with("detail=no-store")), "{told:?}");
    assert!(replies(clients).iter().all(|reply| reply.body() == "own" && !reply.is_hit()));
    origin.assert_finished();
}

/// What is not stored because of one request, or at one moment, says nothing about what others would get.
#[test]
fn one_clients_refusal_does_not_keep_the_others_from_collapsing() {
    #[rustfmt::skip]
    let table = [
        // One client's request, what it gets, and what is special about it.
        ("Cookie: a=b\r\n", 200, "X: y", "cookie"),
        ("X-Api-Key: a\r\n", 200, "X: y", "credentials"),
        ("Authorization: Basic a\r\n", 200, "X: y", "authorization"),
        ("Cache-Control: no-store\r\n", 200, "X: y", "no-store"),
        ("Range: bytes=9-\r\n", 416, "Content-Range: bytes */3", "status"),
        ("", 429, "Cache-Control: no-store", "no-store"),
        ("", 408, "Cache-Control: no-store", "no-store"),
    ];
    for (fields, status, answer, detail) in table {
        let gate = Gate::new();
        let origin = Origin::script([
            on("GET /a").send(status, answer, "own"),
            on("GET /a").wait(&gate).send(200, "X: y", "all"),
        ]);
        let proxy = Proxy::before(&origin, &["--workers", "16"]);
        let own = proxy.get_with("/a", fields);
        assert_eq!(own.status, status);
        assert!(own.cache_status().ends_with(&format!("detail={detail}")), "{own:?}");
        let clients = ask(&proxy, 8, "/a", "");
        origin.wait_for(2);
        gate.open();
        assert!(replies(clients).iter().all(|reply| reply.body() == "all"), "{fields}");
        origin.assert_finished();
    }
}

/// But those with credentials do not wait for each other in vain.
#[test]
fn what_is_made_for_one_user_is_not_waited_for_by_other_users() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, "X: y", "own"),
        on("GET /a").wait(&gate).send(200, "X: y", "own").times(5),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "16"]);
    proxy.get_with("/a", "Cookie: a=b\r\n");
    let clients = ask(&proxy, 5, "/a", "Cookie: c=d\r\n");
    // All of them are under way at once.
    origin.wait_for(6);
    gate.open();
    assert!(replies(clients).iter().all(|reply| reply.body() == "own"));
    origin.assert_finished();
}

/// The connection to the origin server dies before an answer: one of the others tries, once.
#[test]
fn a_leader_that_gets_no_answer_hands_over_once() {
    for second_answers in [true, false] {
        let (first, second) = (Gate::new(), Gate::new());
        let answer = on("GET /a").wait(&second);
        let answer = if second_answers { answer.send(200, FRESH, "whole") } else { answer.close() };
        // Who comes after both have failed begins anew.
        let more = on("GET /a").close().times(if second_answers { 0 } else { 20 });
        let origin = Origin::script([on("GET /a").wait(&first).close(), answer, more]);
        let proxy = Proxy::before(&origin, &["--workers", "1"]);
        let clients = ask(&proxy, 20, "/a", "");
        origin.wait_for(1);
        first.open();
        origin.wait_for(2);
        second.open();
        let replies = replies(clients);
        let whole = replies.iter().filter(|reply| reply.body() == "whole").count();
        let failed = replies.iter().filter(|reply| reply.status == 502).count();
        assert_eq!((whole, failed), if second_answers { (19, 1) } else { (0, 20) });
        assert!(replies.iter().all(|reply| reply.complete));
    }
}

#[test]
fn a_dead_origin_is_asked_once_for_all_who_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let once = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]);
        let fields = "Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"a\"\r\nConnection: close";
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 5\r\n\r\nstale");
        stream.write_all(answer.as_bytes()).expect("it is read");
        // And nobody listens any more.
    });
    let proxy = Proxy::start(&["--origin", &url, "--workers", "4"]);
    assert_eq!(proxy.get("/a").body(), "stale");
    once.join().expect("no panic");
    let replies = replies(ask(&proxy, 200, "/a", ""));
    assert!(
        replies
            .iter()
            .all(|reply| reply.status == 200 && reply.body() == "stale" && reply.is_hit())
    );
    let nothing = proxy.get("/b");
    assert_eq!(
        (nothing.status, nothing.cache_status().as_str()),
        (502, "proxy; fwd=uri-miss; detail=down")
    );
    assert_eq!(nothing.field("retry-after"), "1");
    let told: std::collections::BTreeSet<String> =
        replies.iter().map(Reply::cache_status).collect();
    assert!(
        told.iter().all(|told| told.contains("stale-if-error") || told.contains("down")),
        "{told:?}"
    );
}

#[test]
fn variants_do_not_wait_for_each_other_for_long() {
    let (english, german) = (Gate::new(), Gate::new());
    let fields = format!("{FRESH}; Vary: Accept-Language");
    let origin = Origin::script([
        on("GET /a").having("Accept-Language: en").wait(&english).send(200, &fields, "en"),
        on("GET /a").having("Accept-Language: de").wait(&german).send(200, &fields, "de"),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "3"]);
    let first = ask(&proxy, 1, "/a", "Accept-Language: en\r\n");
    origin.wait_for(1);
    let others = ask(&proxy, 10, "/a", "Accept-Language: de\r\n");
    let same = ask(&proxy, 10, "/a", "Accept-Language: en\r\n");
    english.open();
    assert_eq!(replies(first)[0].body(), "en");
    assert!(replies(same).iter().all(|reply| reply.body() == "en"));
    origin.wait_for(2);
    german.open();
    assert!(replies(others).iter().all(|reply| reply.body() == "de"), "one request for all ten");
    origin.assert_finished();
}

#[test]
fn the_same_range_is_asked_for_once() {
    let gate = Gate::new();
    let part = format!("{FRESH}; Content-Range: bytes 2-4/10");
    let origin = Origin::script([on("GET /a")
        .having("Range: bytes=2-4")
        .wait(&gate)
        .send(206, &part, "234")]);
    let proxy = Proxy::before(&origin, &["--workers", "2"]);
    let clients = ask(&proxy, 10, "/a", "Range: bytes=2-4\r\n");
    origin.wait_for(1);
    gate.open();
    for reply in replies(clients) {
        assert_eq!(
            (reply.status, reply.body(), reply.field("content-range")),
            (206, "234".into(), "bytes 2-4/10".into())
        );
    }
    origin.assert_finished();
}

/// Who sends a condition shares a validation, and gets a 304 for itself.
#[test]
fn conditional_requests_share_a_validation() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60; Age: 60; ETag: \"a\"", "x"),
        on("GET /a").having("If-None-Match: \"a\"").wait(&gate).send(304, FRESH, ""),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "2"]);
    proxy.get("/a");
    let clients = ask(&proxy, 10, "/a", "If-None-Match: \"a\"\r\n");
    origin.wait_for(2);
    gate.open();
    assert!(replies(clients).iter().all(|reply| reply.status == 304 && reply.is_hit()));
    origin.assert_finished();
}

/// A body of unknown length grows too large to be stored while others read along: they all get it,
/// and memory does not grow with it.
#[test]
fn a_body_that_outgrows_the_store_is_passed_on_to_all() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a")
            .head(200, &format!("{FRESH}; Transfer-Encoding: chunked"))
            .bytes("1\r\na\r\n")
            .wait(&gate)
            .then(Step::Repeat(format!("10000\r\n{}\r\n", "z".repeat(65_536)).into_bytes(), 1000))
            .bytes("0\r\n\r\n"),
        on("GET /a").send(200, FRESH, "later"),
    ]);
    let proxy = Proxy::before(&origin, &["--cache-memory", "8M", "--workers", "2"]);
    let mut clients = ask(&proxy, 4, "/a", "");
    for client in &mut clients {
        client.head().expect("a head");
        assert_eq!(exactly(client, 6), "1\r\na\r\n");
    }
    gate.open();
    let read = |mut client: Connection| thread::spawn(move || letters_left(&mut client, true));
    let threads: Vec<_> = clients.into_iter().map(read).collect();
    for thread in threads {
        assert_eq!(thread.join().expect("all of it"), 65_536_000);
    }
    assert!(proxy.memory_kib().1 < 40 * 1024, "{:?}", proxy.memory_kib());
    assert_eq!(proxy.get("/a").body(), "later", "it is not stored");
}

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
