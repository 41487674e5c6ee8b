//! Large content that passes through and is not stored: it goes from socket to socket through a pipe, as far as it can,
//! and nobody can tell. Whatever ends early, ends as it does for content that is read.

use std::io::Read;
use std::path::Path;

use super::support::origin::{Gate, Origin, SCHEMES, Step, on};
use super::support::proxy::Proxy;
use super::support::wait_until;

/// From this size on a pipe is used; and what is left for a read at the end.
const PIPED_FROM: usize = 256 * 1024;
const UNSTORED: &str = "Cache-Control: no-store";

/// Content in which no two stretches are alike, and no two bodies.
fn content(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

fn with_length(size: usize) -> String {
    format!("{UNSTORED}; Content-Length: {size}")
}

/// How many ends of pipes the proxy has.
fn pipe_ends(proxy: &Proxy) -> usize {
    let folder = format!("/proc/{}/fd", proxy.pid());
    let entries = std::fs::read_dir(Path::new(&folder)).expect("a process").flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn a_body_of_any_size_passes_byte_for_byte_and_both_connections_go_on() {
    let edges = [PIPED_FROM - 1, PIPED_FROM, PIPED_FROM + 1, 2 * PIPED_FROM + 77];
    let sizes = [1, 16 * 1024 + 1, 100 * 1024, 128 * 1024, 1 << 20, 3 * (1 << 20) + 7];
    let sizes: Vec<usize> = edges.into_iter().chain(sizes).collect();
    for (tls, framed) in [(false, true), (false, false), (true, true)] {
        if !SCHEMES.contains(&tls) {
            continue;
        }
        let rules = sizes.iter().map(|&size| {
            let (bytes, target) = (content(size, size), format!("GET /{size}"));
            if framed {
                return on(&target).head(200, &with_length(size)).then(Step::Send(bytes)).always();
            }
            let mut chunk = format!("{size:x}\r\n").into_bytes();
            chunk.extend(bytes);
            let fields = format!("{UNSTORED}; Transfer-Encoding: chunked");
            on(&target).head(200, &fields).then(Step::Send(chunk)).bytes("\r\n0\r\n\r\n").always()
        });
        let origin = if tls { Origin::script_tls(rules).0 } else { Origin::script(rules) };
        let proxy = Proxy::before(&origin, if tls { &["--insecure"] } else { &[] });
        let before = pipe_ends(&proxy);
        let mut connection = proxy.connect();
        for &size in &sizes {
            let reply = connection.request("GET", &format!("/{size}"), "", "").reply();
            assert_eq!((reply.status, reply.complete), (200, true), "{size} {tls} {framed}");
            assert!(reply.content == content(size, size), "{size} {tls} {framed}");
        }
        assert_eq!(origin.connections(), 1, "it goes on after each of them");
        assert_eq!(pipe_ends(&proxy), before, "a pipe is for one body");
    }
}

/// A machine that is busy may make either side look slow, and then content is read: so it may take several.
#[test]
#[cfg(target_os = "linux")]
fn a_large_body_goes_through_a_pipe() {
    let gate = Gate::new();
    let rule = on("GET /a").head(200, &with_length(8 << 20));
    let rule = rule.then(Step::Send(content(1 << 20, 4))).wait(&gate).close().always();
    let origin = Origin::script([rule]);
    let proxy = Proxy::before(&origin, &[]);
    let before = pipe_ends(&proxy);
    let is_seen = (0..20).any(|_| {
        let mut connection = proxy.connect();
        connection.request("GET", "/a", "", "").head().expect("a head");
        connection.stream.read_exact(&mut vec![0; 1 << 20]).expect("all that was sent");
        pipe_ends(&proxy) > before
    });
    gate.open();
    assert!(is_seen);
}

#[test]
fn an_old_client_and_one_that_asks_for_the_head_get_what_is_theirs() {
    let (size, fields) = (1 << 20, with_length(1 << 20));
    let rule = |request: &str| on(request).head(200, &fields);
    let bytes = content(size, 1);
    let origin = Origin::script([
        rule("GET /a").then(Step::Send(bytes.clone())).always(),
        rule("HEAD /a").always(),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut old = proxy.connect();
    let reply = old.send("GET /a HTTP/1.0\r\nHost: h\r\n\r\n").reply();
    assert!(reply.complete && reply.content == bytes);
    assert!(old.is_closed());
    let mut connection = proxy.connect();
    connection.request("HEAD", "/a", "", "");
    let reply = connection.reply_to("HEAD").expect("a response");
    assert_eq!((reply.field("content-length"), reply.content.len()), (size.to_string(), 0));
    assert!(connection.request("GET", "/a", "", "").reply().content == bytes);
}

/// RFC 9112 §8: what has come is passed on, and does not look complete.
#[test]
fn a_body_whose_origin_dies_half_way_is_cut() {
    for end in [Step::Close, Step::Reset] {
        let (sent, gate) = (content(1 << 20, 2), Gate::new());
        let rule = on("GET /a").head(200, &with_length(2 << 20)).then(Step::Send(sent.clone()));
        let origin = Origin::script([
            rule.wait(&gate).then(end.clone()).always(),
            on("GET /b").send(200, UNSTORED, "b"),
        ]);
        let proxy = Proxy::before(&origin, &[]);
        let before = pipe_ends(&proxy);
        let mut connection = proxy.connect();
        assert_eq!(connection.request("GET", "/a", "", "").head().expect("a head").word(1), "200");
        let mut got = vec![0; sent.len()];
        connection.stream.read_exact(&mut got).expect("all that was sent");
        assert!(got == sent);
        gate.open();
        assert_eq!(connection.rest(), b"", "no byte is made up");
        assert_eq!(proxy.get("/b").body(), "b");
        assert_eq!(pipe_ends(&proxy), before);
    }
}

#[test]
fn a_client_that_leaves_half_way_ends_the_fetch_and_its_pipe() {
    let gate = Gate::new();
    let rule = on("GET /a").head(200, &with_length(8 << 20));
    let rule = rule.then(Step::Send(content(1 << 20, 3))).wait(&gate);
    let origin = Origin::script([
        rule.then(Step::Send(content(7 << 20, 3))).always(),
        on("GET /b").send(200, UNSTORED, "b"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let before = pipe_ends(&proxy);
    for _ in 0..3 {
        let mut connection = proxy.connect();
        connection.request("GET", "/a", "", "").head().expect("a head");
        connection.stream.read_exact(&mut vec![0; 100_000]).expect("some of it");
        connection.reset();
    }
    gate.open();
    origin.wait_for_ends(3);
    wait_until("the pipes are gone", || pipe_ends(&proxy) == before);
    assert_eq!(proxy.get("/b").body(), "b");
}

/// What is in one client's pipe is nobody else's, however long it stays there; and there are two descriptors for each
/// of those who wait, at most.
#[test]
fn clients_that_take_nothing_hold_up_nobody_and_get_their_own() {
    const SLOW: usize = 5;
    let size = 6 << 20;
    let rules = (0..=SLOW).map(|number| {
        let rule = on(&format!("GET /{number}")).head(200, &with_length(size));
        rule.then(Step::Send(content(size, number)))
    });
    let origin = Origin::script(rules);
    let proxy = Proxy::before(&origin, &[]);
    let before = pipe_ends(&proxy);
    let mut slow: Vec<_> = (0..SLOW).map(|_| proxy.connect()).collect();
    for (number, connection) in slow.iter_mut().enumerate() {
        connection.request("GET", &format!("/{number}"), "", "").head().expect("a head");
    }
    let reply = proxy.get(&format!("/{SLOW}"));
    assert!(reply.complete && reply.content == content(size, SLOW));
    assert!(pipe_ends(&proxy) <= before + 2 * SLOW);
    for (number, connection) in slow.iter_mut().enumerate() {
        let mut got = vec![0; size];
        connection.stream.read_exact(&mut got).expect("the body");
        assert!(got == content(size, number), "{number}");
    }
    wait_until("the pipes are gone", || pipe_ends(&proxy) == before);
    origin.assert_finished();
}
