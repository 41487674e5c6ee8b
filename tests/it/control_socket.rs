//! The control socket itself: who does not ask, or asks in an odd way, and how many may ask at a time.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::support::origin::Origin;
use super::support::proxy::{Proxy, command};
use super::support::{PATIENCE, TemporaryFolder};

/// The client sends no more.
const CUT: &str = "cut";

/// A proxy, and the folder with its socket.
fn start() -> (Proxy, TemporaryFolder) {
    let (origin, runtime) = (Origin::script([]), TemporaryFolder::new());
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", runtime.path()).args(["--origin", &origin.url()]);
    (Proxy::start_as(command), runtime)
}

fn connect(runtime: &TemporaryFolder) -> UnixStream {
    let folder = std::fs::read_dir(runtime.file("caching-proxy")).expect("a folder");
    let mut paths = folder.map(|entry| entry.expect("an entry").path());
    let socket = paths.find(|path| path.extension().is_some_and(|ending| ending == "sock"));
    UnixStream::connect(socket.expect("a socket")).expect("it listens")
}

/// Somebody who asks and never reads, or never asks, does not keep the others from asking.
#[test]
fn a_stuck_client_of_the_socket_holds_up_nobody_for_long() {
    let (_proxy, runtime) = start();
    let stuck = [
        "",
        "GET /health HTTP/1.1\r\n",
        "POST /import HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n[",
    ];
    let mut stuck = stuck.map(|part| {
        let mut client = connect(&runtime);
        client.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        client.write_all(part.as_bytes()).expect("a part of a request");
        client
    });
    let mut stats = command();
    let output =
        stats.env("XDG_RUNTIME_DIR", runtime.path()).arg("stats").output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("requests"), "{output:?}");
    // None of them has been given up for it.
    for client in &mut stuck {
        client.set_nonblocking(true).expect("an option");
        let read = client.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(read, Err(io::ErrorKind::WouldBlock));
    }
}

/// What a client of the socket sends, which is no program of ours, and what it gets.
#[test]
fn the_socket_speaks_http() {
    let (_proxy, runtime) = start();
    let import = "POST /import HTTP/1.1\r\nHost: h\r\n";
    let chunked = format!("{import}Transfer-Encoding: chunked\r\n\r\n");
    let with_length = |length: u64| format!("{import}Content-Length: {length}\r\n\r\n");
    let large = with_length(1 << 40).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    // What is sent, and after a while; what is said, from its first line to its end.
    let table = [
        ("GET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_string(), "", "200 OK", "ok"),
        ("GET /health HTTP/1.1\r\nHo".to_string(), "st: h\r\n\r\n", "200 OK", "ok"),
        ("GET /health HTTP/1.0\r\n\r\n".to_string(), "", "200 OK", "ok"),
        ("HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n".to_string(), "", "200 OK", "\r\n\r\n"),
        (with_length(2), "[]", "200 OK", "}"),
        (with_length(2) + "[] and more", "", "200 OK", "}"),
        (format!("{chunked}1\r\n[\r\n1\r\n]\r\n0\r\n"), "A: b\r\n\r\n", "200 OK", "}"),
        (format!("{chunked}x\r\n"), "", "400 Bad Request", "malformed\n"),
        (large, "", "400 Bad Request", "are taken\n"),
        (with_length(1 << 40) + &"x".repeat(1 << 20), "", "400 Bad Request", "are taken\n"),
        ("SSH-2.0\r\n\r\n".to_string(), "", "400 Bad Request", "\n"),
        (with_length(2) + "[", CUT, "400 Bad Request", "was complete\n"),
        ("GET /health HTTP/1.1\r\n".to_string(), CUT, "", ""),
    ];
    for (asked, later, first, last) in table {
        let mut client = connect(&runtime);
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.write_all(asked.as_bytes()).expect("it reads");
        if later == CUT {
            client.shutdown(Shutdown::Write).expect("it is open");
        } else {
            client.write_all(later.as_bytes()).expect("it reads");
        }
        let mut said = String::new();
        client.read_to_string(&mut said).expect("an answer, and the end");
        let asked = &asked[..asked.len().min(80)];
        let line = said.lines().next().unwrap_or_default();
        let version = if first.is_empty() { "" } else { "HTTP/1.1 " };
        assert_eq!(line, format!("{version}{first}"), "{asked:?}: {said:?}");
        assert!(
            said.trim_end_matches('\n').ends_with(last.trim_end_matches('\n')),
            "{asked:?}: {said:?}"
        );
    }
}

/// RFC 9110 §10.1.1: content that waits for a 100.
#[test]
fn content_for_the_socket_may_wait_for_a_100() {
    let (_proxy, runtime) = start();
    let mut client = connect(&runtime);
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head =
        "POST /import HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.write_all(head.as_bytes()).expect("it reads");
    let mut interim = [0; 25];
    client.read_exact(&mut interim).expect("a 100");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"[]").expect("it reads");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

/// As many as are answered at a time: one that leaves is followed by the next.
#[test]
fn the_socket_answers_so_many_at_a_time() {
    let (_proxy, runtime) = start();
    let mut silent: Vec<_> = (0..16).map(|_| connect(&runtime)).collect();
    let mut next = connect(&runtime);
    next.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    next.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").expect("it is kept for later");
    silent.pop();
    let mut said = String::new();
    next.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}
