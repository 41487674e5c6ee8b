//! What reaches the origin server, and over which connection: connections that are authenticated,
//! expectations, lines of any length, and how far OPTIONS goes. RFC 9110 §7.4, §7.6.2, §10.1.1; RFC 9112
//! §3.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{FRONT, ONE_LOOP, Proxy};
use super::support::wire::read_head;

/// An origin server whose every connection `serve` has, on a thread of its own.
pub fn origin(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Takes whoever comes over a connection for the one who has authenticated it, as NTLM does.
fn serve_mail(mut stream: TcpStream) {
    let mut authenticated = false;
    while let Some(head) = read_head(&mut stream) {
        authenticated |= !head.field("authorization").is_empty();
        let answer: &[u8] = if authenticated {
            b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 13\r\n\r\nmail of alice"
        } else {
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate, NTLM\r\nContent-Length: 0\r\n\r\n"
        };
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// RFC 9110 §7.4: another client's requests do not go over a connection that one has authenticated.
#[test]
fn an_authenticated_connection_is_used_for_nobody_else() {
    let url = format!("http://{}", origin(serve_mail));
    for scheme in ["NTLM TlRMTVNTUAAB", "ntlm TlRM", "Negotiate YII=", "NEGOTIATE x", "Kerberos x"]
    {
        let proxy = Proxy::start(&["--origin", &url]);
        let alice = proxy.get_with("/mail", &format!("Authorization: {scheme}\r\n"));
        assert_eq!((alice.status, alice.body()), (200, "mail of alice".into()), "{scheme}");
        let stranger = proxy.get("/mail");
        assert_eq!((stranger.status, stranger.body()), (401, String::new()), "{scheme}");
    }
}

#[test]
fn a_connection_that_was_challenged_is_not_used_again() {
    #[rustfmt::skip]
    let table = [
        ("WWW-Authenticate: NTLM", false), ("WWW-Authenticate: negotiate oYG2MIG=", false),
        ("WWW-Authenticate: Basic realm=\"a\", Negotiate", false), ("Proxy-Authenticate: NTLM", false),
        ("WWW-Authenticate: Basic realm=\"a\"; WWW-Authenticate: Kerberos", false),
        ("WWW-Authenticate: Basic realm=\"NTLM\"", true), ("WWW-Authenticate: Bearer", true),
    ];
    for (challenge, used_again) in table {
        let origin = Origin::script([on("GET /a").send(401, challenge, "no").times(2)]);
        let proxy = Proxy::before(&origin, ONE_LOOP);
        assert_eq!((proxy.get("/a").status, proxy.get("/a").status), (401, 401));
        assert_eq!(origin.connections(), if used_again { 1 } else { 2 }, "{challenge}");
    }
}

const EXPECTING: &str = "Expect: 100-continue\r\nContent-Length: 3\r\n";

/// RFC 9110 §10.1.1: the 100 that the client gets is the origin server's, whatever it comes with.
#[test]
fn the_origin_server_says_when_it_wants_content() {
    let wanted = [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nServer: x\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
    ];
    for bytes in wanted {
        let gate = Gate::new();
        let origin = Origin::script([on("PUT /a")
            .having("Expect: 100-continue; Content-Length: 3")
            .without_reading()
            .wait(&gate)
            .bytes(bytes)
            .then(Step::Read(3))
            .send(200, "", "ok")]);
        let proxy = Proxy::before(&origin, &[]);
        let mut client = proxy.connect();
        client.send(format!("PUT /a HTTP/1.1\r\nHost: h\r\n{EXPECTING}\r\n"));
        origin.wait_for(1);
        gate.open();
        let mut interim = client.head().expect("it is wanted");
        if bytes.contains("103") && interim.word(1) == "103" {
            interim = client.head().expect("it is wanted");
        }
        assert_eq!(interim.word(1), "100");
        assert_eq!(client.send("abc").reply().body(), "ok", "{bytes:?}");
        origin.assert_finished();
    }
}

/// An answer that does not wait for the content reaches the client, and the content stays with it.
#[test]
fn a_final_answer_comes_instead_of_100() {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n";
    let length = "Content-Length: 2\r\n\r\nno";
    #[rustfmt::skip]
    let table = [
        (401, length), (401, chunked), (417, length), (200, length), (204, "\r\n"),
        (413, "Connection: close\r\nContent-Length: 2\r\n\r\nno"),
    ];
    for (status, rest_of_answer) in table {
        let (told, content) = std::sync::mpsc::channel();
        let serve = move |mut stream: TcpStream| {
            let Some(head) = read_head(&mut stream) else { return };
            assert_eq!(head.field("expect"), "100-continue");
            let answer = format!("HTTP/1.1 {status} No\r\n{rest_of_answer}");
            stream.write_all(answer.as_bytes()).expect("the proxy reads");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = told.send(rest);
        };
        let proxy = Proxy::start(&["--origin", &format!("http://{}", origin(serve))]);
        let mut client = proxy.connect();
        client.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{EXPECTING}\r\n"));
        let reply = client.reply();
        let expected = if status == 204 { "" } else { "no" };
        assert_eq!((reply.status, reply.interim.len()), (status, 0), "{}", reply.head.text);
        assert_eq!((reply.body(), reply.complete), (expected.into(), true), "{status}");
        assert_eq!(content.recv().expect("the connection ended"), b"", "it was not sent on");
    }
}

/// Also over TLS, where the wait ends in the middle of what the TLS library does.
#[cfg(feature = "tls")]
#[test]
fn silence_is_an_answer_too() {
    let (origin, _) = Origin::script_tls([
        on("POST /a").having("Expect: 100-continue").send(200, "", "ok").times(2),
        on("GET /b").send(200, "", "next"),
    ]);
    let proxy = Proxy::before(&origin, &["--insecure", "--threads", "1"]);
    for _ in 0..2 {
        let mut client = proxy.connect();
        client.send(format!("POST /a HTTP/1.1\r\nHost: h\r\n{EXPECTING}\r\n"));
        assert_eq!(client.head().expect("it is wanted").word(1), "100");
        assert_eq!(client.send("abc").reply().body(), "ok");
    }
    assert_eq!(proxy.get("/b").body(), "next");
    assert_eq!(origin.connections(), 1, "the connection is used again");
    assert_eq!(origin.asked()[1].content, b"abc");
    origin.assert_finished();
}

#[test]
fn no_content_is_asked_for_where_nobody_takes_it() {
    let origin = Origin::script([
        on("POST /a").having("Expect: 100-continue").without_reading().close(),
        on("POST /b").lacking("Expect").send(200, "", "old"),
        on("POST /c").lacking("Expect").send(200, "", "none"),
    ]);
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    let ask = |request: &str| proxy.connect().send(request).reply();
    let closed = ask(&format!("POST /a HTTP/1.1\r\nHost: h\r\n{EXPECTING}\r\n"));
    assert_eq!((closed.status, closed.interim.len()), (502, 0), "no 100 before a 502");
    let old = ask(&format!("POST /b HTTP/1.0\r\nHost: h\r\n{EXPECTING}\r\nabc"));
    assert_eq!(old.body(), "old");
    // tiny_http sends its 100 to whoever says that it waits for one.
    assert!(old.interim.is_empty() || FRONT == "tiny-http", "RFC 9110 §10.1.1");
    let none = "POST /c HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(none).body(), "none");
    origin.assert_finished();
}

/// Up to what the flags allow, whatever the line is; and beyond that nobody blames the origin server.
#[test]
fn long_lines_reach_the_origin_server() {
    let long = "x".repeat(30_000);
    let (target, braces) = (format!("/{long}"), format!("/{}", "{".repeat(30_000)));
    let origin =
        Origin::script([on("GET *any*").send(200, "Cache-Control: no-store", "ok").always()]);
    let proxy = Proxy::before(&origin, &[]);
    #[rustfmt::skip]
    let table = [
        (target.as_str(), String::new(), 200),
        (&braces, String::new(), 200),
        ("/cookie", format!("Cookie: {}\r\n", "c".repeat(60_000)), 200),
        ("/token", format!("Authorization: Bearer {long}\r\n"), 200),
        ("/many", format!("A: {long}\r\nB: {long}\r\n"), 200),
        ("/large", format!("A: {long}\r\nB: {long}\r\nC: {long}\r\n"), 431),
    ];
    for (target, fields, status) in &table {
        let reply = proxy.get_with(target, fields);
        let shown = &target[..target.len().min(10)];
        assert_eq!(reply.status, *status, "{shown}: {}", reply.body());
    }
    let asked = origin.asked();
    assert_eq!(asked[0].head.word(1), target);
    assert_eq!(asked[1].head.word(1), format!("/{}", "%7B".repeat(30_000)));
    assert_eq!(asked[2].head.field("cookie").len(), 60_000);
    assert_eq!(asked[3].head.field("authorization"), format!("Bearer {long}"));
    assert_eq!((asked[4].head.field("a"), asked[4].head.field("b")), (long.clone(), long.clone()));
    assert_eq!(proxy.get(&format!("/{}", "x".repeat(33_000))).status, 414);
}

/// RFC 9112 §3.2.4, RFC 9110 §7.6.2.
#[test]
fn options_goes_as_far_as_it_says() {
    let origin = Origin::script([
        on("OPTIONS *").lacking("Max-Forwards").send(200, "Allow: GET", ""),
        on("OPTIONS /a").having("Max-Forwards: 6").send(200, "Allow: GET", ""),
        on("OPTIONS /b").having("Max-Forwards: 0").send(200, "Allow: GET", ""),
        on("OPTIONS /c").having("Max-Forwards: many").send(200, "Allow: GET", ""),
        on("GET /d").having("Max-Forwards: 0").send(200, "", ""),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let table = [
        ("OPTIONS", "*", "", "GET"),
        ("OPTIONS", "/a", "Max-Forwards: 7\r\n", "GET"),
        ("OPTIONS", "/b", "Max-Forwards: 1\r\n", "GET"),
        ("OPTIONS", "/c", "Max-Forwards: many\r\n", "GET"),
        ("GET", "/d", "Max-Forwards: 0\r\n", ""),
    ];
    for (method, target, fields, allow) in table {
        let reply = proxy.ask(method, target, fields, "");
        assert_eq!((reply.status, reply.field("allow")), (200, allow.into()), "{method} {target}");
    }
    for target in ["*", "/a"] {
        let reply = proxy.ask("OPTIONS", target, "Max-Forwards: 0\r\n", "");
        let got = (reply.status, reply.field("content-length"), reply.complete);
        assert_eq!(got, (200, "0".into(), true), "it goes no further: {target}");
        assert!(reply.field("allow").contains("OPTIONS"));
    }
    origin.assert_finished();
}
