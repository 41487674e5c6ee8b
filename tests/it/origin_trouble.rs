//! The origin client: connections, time, TLS, and an origin server that fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{ONE_LOOP, Proxy, command};
use super::support::{PATIENCE, TemporaryFolder};
use caching_proxy::message::fields::Fields;
use caching_proxy::origin::blocking::client::{OriginClient, OriginClientSettings};
use caching_proxy::origin::egress::Egress;
use caching_proxy::origin::resolver::Names;
use caching_proxy::origin::{Origin as _, OriginRequest, RequestContent, Upgrade};
use http::Method;

#[test]
fn connections_to_the_origin_server_are_reused() {
    let origin = Origin::script([
        on("GET *any*").send(200, "Cache-Control: no-store", "x").times(5),
        on("POST /a").send(200, "", "x"),
        on("GET /c").head(200, "Transfer-Encoding: chunked").bytes("1\r\nx\r\n0\r\n\r\n"),
        on("HEAD /a").head(200, "Content-Length: 5"),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for number in 0..5 {
        proxy.get(&format!("/{number}"));
    }
    proxy.ask("POST", "/a", "", "content");
    proxy.get("/c");
    proxy.ask("HEAD", "/a", "", "");
    assert_eq!(origin.connections(), 1);
    origin.assert_finished();
}

/// What meets the end of a pooled connection before any byte of a response costs a second try, on a
/// fresh one, if it may be repeated (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
#[test]
fn a_request_that_meets_the_end_of_a_reused_connection_is_repeated_once() {
    #[rustfmt::skip]
    let table = [
        // Method, content, how the connection ends, and whether the request is repeated.
        ("GET", "", Step::Close, true), ("GET", "", Step::Reset, true),
        ("HEAD", "", Step::Close, true), ("HEAD", "", Step::Reset, true),
        ("OPTIONS", "", Step::Close, true), ("OPTIONS", "", Step::Reset, true),
        ("DELETE", "", Step::Close, false), ("DELETE", "", Step::Reset, true),
        ("POST", "", Step::Close, false), ("POST", "", Step::Reset, false),
        ("POST", "x", Step::Close, false), ("POST", "x", Step::Reset, false),
        ("PUT", "x", Step::Close, false), ("PUT", "x", Step::Reset, false),
        ("GET", "x", Step::Close, false), ("GET", "x", Step::Reset, false),
        ("BREW", "", Step::Close, false), ("BREW", "", Step::Reset, false),
    ];
    for (method, content, end, repeated) in table {
        let case = format!("{method} {content:?}, reset: {}", matches!(end, Step::Reset));
        let again = on(&format!("{method} /a")).head(200, "Content-Length: 0");
        let mut script = vec![
            on("GET /first").send(200, "Cache-Control: no-store", "x"),
            on(&format!("{method} /a")).then(end),
        ];
        script.extend(repeated.then_some(again));
        let origin = Origin::script(script);
        let proxy = Proxy::before(&origin, ONE_LOOP);
        proxy.get("/first");
        let reply = proxy.ask(method, "/a", "", content);
        assert_eq!(reply.status, if repeated { 200 } else { 502 }, "{case}");
        let asked = 2 + usize::from(repeated);
        assert_eq!((origin.asked().len(), origin.connections()), (asked, asked - 1), "{case}");
        origin.assert_finished();
    }
}

/// Once: neither a fresh connection nor the second try is followed by another, and nothing is repeated
/// of which a byte has come.
#[test]
fn a_request_is_not_repeated_on_end() {
    let first = || on("GET /first").send(200, "Cache-Control: no-store", "x");
    let origin = Origin::script([
        on("GET /fresh").close(),
        first(),
        on("GET /twice").close().times(2),
        first(),
        on("GET /begun").bytes("HTTP/1.1 200 OK\r\nContent-").close(),
        first(),
        on("GET /interim").bytes("HTTP/1.1 103 Early Hints\r\n\r\n").close(),
        first(),
        on("GET /cut").head(200, "Content-Length: 5").bytes("abc").close(),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for target in ["/fresh", "/twice", "/begun", "/interim"] {
        if target != "/fresh" {
            proxy.get("/first");
        }
        let reply = proxy.get(target);
        let told = "closed the connection without a response";
        assert_eq!((reply.status, reply.body().contains(told)), (502, true), "{target}");
    }
    proxy.get("/first");
    assert!(!proxy.get("/cut").complete, "what was passed on in part stays cut");
    assert_eq!(origin.asked().len(), 10, "one request each, and one repeated");
    origin.assert_finished();
}

/// The end of an idle connection is found out before it is used.
#[test]
fn a_connection_that_ended_while_it_was_idle_is_not_used() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: no-store", "a").close(),
        on("POST /b").send(200, "", "b").close(),
        on("GET /c").send(200, "", "c"),
    ]);
    let proxy = Proxy::before(&origin, &["--workers", "1"]);
    assert_eq!(proxy.get("/a").body(), "a");
    origin.wait_for_ends(1);
    assert_eq!(proxy.ask("POST", "/b", "", "content").body(), "b");
    origin.wait_for_ends(2);
    assert_eq!(proxy.get("/c").body(), "c");
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_connection_with_unread_bytes_is_not_reused() {
    let origin = Origin::script([
        on("GET /more")
            .head(200, "Content-Length: 1")
            .bytes("xHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        on("GET /next").send(200, "", "clean"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/more").body(), "x");
    assert_eq!(proxy.get("/next").body(), "clean");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_refused_connection_is_a_502_that_helps() {
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let proxy = Proxy::start(&["--origin", &format!("http://127.0.0.1:{port}")]);
    let reply = proxy.get("/a");
    assert_eq!(
        (reply.status, reply.cache_status()),
        (502, "proxy; fwd=uri-miss; detail=connect".into())
    );
    let expected = format!(
        "http://127.0.0.1:{port}: no connection (Connection refused (os error 111)); is it running? see --origin\n"
    );
    assert_eq!(reply.body(), expected);
    let json = proxy.get_with("/a", "Accept: application/json\r\n");
    assert_eq!(json.field("content-type"), "application/json");
    assert!(json.body().starts_with("{\"status\":502,\"error\":\""), "{}", json.body());
}

#[test]
fn a_name_without_an_address_is_a_502_that_helps() {
    let proxy =
        Proxy::start(&["--origin", "http://no-such-name.invalid", "--connect-timeout", "2"]);
    let reply = proxy.get("/a");
    assert_eq!(reply.status, 502);
    assert!(reply.body().contains("the name has no address; see --origin"), "{}", reply.body());
}

/// A name that was good, and whose addresses connect no more, is looked up again at once: for any
/// method, because nothing has been sent.
#[test]
fn a_name_that_has_moved_is_looked_up_again() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    for method in [Method::GET, Method::POST, Method::CONNECT] {
        let origin = Origin::script([
            on("GET /a").send(200, "", "moved"),
            on("POST /a").send(200, "", "moved"),
        ]);
        let (port, count) = (origin.port(), AtomicUsize::new(0));
        let names = Names::new(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(vec![closed]),
            _ => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        });
        let second = Duration::from_secs(20);
        let client = OriginClient::new(OriginClientSettings {
            connect_timeout: second,
            origin_timeout: second,
            first_byte_timeout: second,
            roots: None,
            names,
            idle_connections_max: 1,
            egress: Egress::default(),
        });
        let upgrades = method == Method::CONNECT;
        let mut content = "content".as_bytes();
        let length = content.len() as u64;
        let request = OriginRequest {
            method: if method == Method::POST { &Method::POST } else { &Method::GET },
            url: "http://moves.test/a",
            host: None,
            fields: &Fields::new(),
            content: match method {
                Method::POST => RequestContent::Length(length, &mut content),
                _ => RequestContent::None,
            },
            waits: false,
            interim: None,
        };
        let response = if upgrades {
            match client.upgrade(request).expect("a connection") {
                Upgrade::Declined(response) => response,
                Upgrade::Agreed(..) => panic!("it is no 101"),
            }
        } else {
            client.send(request).expect("a response")
        };
        assert_eq!((response.head.status.as_u16(), origin.connections()), (200, 1), "{method}");
    }
}

#[test]
fn a_silent_origin_server_is_a_504_that_helps() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /head").wait(&gate),
        on("GET /body").head(200, "Content-Length: 10").bytes("12345").wait(&gate),
    ]);
    let proxy = Proxy::before(&origin, &["--origin-timeout", "200ms"]);
    let reply = proxy.get("/head");
    assert_eq!(
        (reply.status, reply.cache_status()),
        (504, "proxy; fwd=uri-miss; detail=timeout".into())
    );
    assert!(
        reply.body().ends_with("silent for 200ms; see --first-byte-timeout and --origin-timeout\n"),
        "{}",
        reply.body()
    );
    let reply = proxy.get("/body");
    assert_eq!((reply.status, reply.complete), (200, false));
    gate.open();
}

#[test]
fn a_stale_response_stands_in_for_a_failed_origin_server() {
    let stale = |target: &str, directives: &str| {
        on(&format!("GET {target}")).send(
            200,
            &format!("Cache-Control: max-age=60{directives}; Age: 60"),
            "stale",
        )
    };
    let origin = Origin::script([
        stale("/closed", ""),
        on("GET /closed").close().times(2),
        stale("/503", ""),
        on("GET /503").send(503, "", "busy"),
        stale("/404", ""),
        on("GET /404").send(404, "", "gone"),
        stale("/must", ", must-revalidate"),
        on("GET /must").close().times(2),
        stale("/shared", ", s-maxage=60"),
        on("GET /shared").close().times(2),
        stale("/over", ", stale-if-error=0"),
        on("GET /over").send(503, "", "busy"),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for (target, status, body) in [
        ("/closed", 200, "stale"),
        ("/503", 200, "stale"),
        ("/404", 404, "gone"),
        ("/must", 502, ""),
        ("/shared", 502, ""),
        ("/over", 503, "busy"),
    ] {
        proxy.get(target);
        let reply = proxy.get(target);
        assert_eq!(reply.status, status, "RFC 9111 §4.2.4: {target}");
        assert!(body.is_empty() || reply.body() == body, "{target}: {}", reply.body());
        assert_eq!(reply.is_hit(), body == "stale", "{target}");
        assert_eq!(reply.cache_status().contains("detail=stale-if-error"), body == "stale");
    }
    origin.assert_finished();
    let origin = Origin::script([stale("/a", ""), on("GET /a").send(503, "", "busy")]);
    let proxy = Proxy::before(&origin, &["--stale-if-error", "0"]);
    proxy.get("/a");
    assert_eq!(proxy.get("/a").status, 503);
}

#[cfg(feature = "tls")]
#[test]
fn an_https_origin_is_verified() {
    let folder = TemporaryFolder::new();
    let (origin, pem) = Origin::script_tls([on("GET /a")
        .send(200, "Cache-Control: max-age=60", "secret")
        .times(3)]);
    let file = folder.file("ca.pem");
    std::fs::write(&file, pem).expect("a file");
    let file = file.to_str().expect("a path");
    let url = format!("https://localhost:{}", origin.port());
    let refused = Proxy::start(&["--origin", &url]).get("/a");
    assert_eq!(
        (refused.status, refused.cache_status()),
        (502, "proxy; fwd=uri-miss; detail=tls".into())
    );
    assert!(refused.body().contains("see --ca-cert, --insecure"), "{}", refused.body());
    let trusting = Proxy::start(&["--origin", &url, "--ca-cert", file]);
    assert_eq!((trusting.get("/a").body(), trusting.get("/a").is_hit()), ("secret".into(), true));
    let mut by_environment = command();
    by_environment.env("SSL_CERT_FILE", file).args(["--origin", &url]);
    assert_eq!(Proxy::start_as(by_environment).get("/a").body(), "secret");
    let insecure = Proxy::start(&["--origin", &url, "--insecure"]);
    assert_eq!(insecure.get("/a").body(), "secret");
    assert!(insecure.log().contains("--insecure: the origin server's certificate is not verified"));
    origin.assert_finished();
}

/// With TLS, an end without close_notify is one that anybody on the way can cause.
#[cfg(feature = "tls")]
#[test]
fn close_delimited_content_over_tls_needs_close_notify() {
    let folder = TemporaryFolder::new();
    let (origin, pem) = Origin::script_tls([
        on("GET /clean").head(200, "Connection: close").bytes("hello").close(),
        on("GET /cut").head(200, "Connection: close").bytes("hello").then(Step::Reset).times(2),
    ]);
    let file = folder.file("ca.pem");
    std::fs::write(&file, pem).expect("a file");
    let proxy = Proxy::before(&origin, &["--ca-cert", file.to_str().expect("a path")]);
    proxy.get("/clean");
    assert!(proxy.get("/clean").is_hit());
    // A request that comes before the first fetch is over shares its cut response, and is no hit either.
    let deadline = Instant::now() + PATIENCE;
    while origin.asked().len() < 3 {
        assert!(Instant::now() < deadline, "what was cut is asked for again");
        assert!(!proxy.get("/cut").is_hit());
    }
    origin.assert_finished();
}

/// A proxy that leads out: it sees a CONNECT and passes bytes on. What is on this machine is reached
/// directly.
#[cfg(feature = "tls")]
#[test]
fn https_proxy_and_no_proxy_are_honoured() {
    let (origin, _) = Origin::script_tls([on("GET /a").send(200, "", "x").times(3)]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let egress = listener.local_addr().expect("an address");
    let target = origin.url().replace("https://", "");
    let tunnel = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a connection");
        let head = support::wire::read_head(&mut client).expect("a head");
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("a reader");
        let mut server = std::net::TcpStream::connect(target).expect("the origin server");
        let (mut from_client, mut to_server) =
            (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(&mut server, &mut client);
        head.first
    });
    let start = |url: &str, environment: &[(&str, String)]| {
        let mut command = command();
        command.envs(environment.iter().cloned());
        command.args(["--origin", url, "--insecure"]);
        Proxy::start_as(command)
    };
    let through = ("https_proxy", format!("http://user:secret@{egress}"));
    let proxy = start("https://origin.test:4430", std::slice::from_ref(&through));
    assert_eq!(proxy.get("/a").body(), "x");
    let said = format!("reached through proxy http://***@{egress} from the environment");
    assert!(proxy.log().contains(&said), "{}", proxy.log());
    drop(proxy);
    assert_eq!(tunnel.join().expect("a tunnel"), "CONNECT origin.test:4430 HTTP/1.1");
    // Nobody listens there any more: the origin server must be reached directly.
    let proxy = start(&origin.url(), std::slice::from_ref(&through));
    assert_eq!(proxy.get("/a").body(), "x", "loopback");
    assert!(!proxy.log().contains("through proxy"), "{}", proxy.log());
    for (url, is_direct) in [("https://192.0.2.1:9", true), ("https://198.51.100.1:9", false)] {
        let environment = [through.clone(), ("no_proxy", "192.0.2.0/24".to_string())];
        let mut command = command();
        command.envs(environment);
        command.args(["--origin", url, "--connect-timeout", "200ms"]);
        let reply = Proxy::start_as(command).get("/a");
        assert!(matches!(reply.status, 502 | 504), "{}", reply.status);
        let said = format!("{url} through proxy http://***@{egress}: ");
        assert_eq!(reply.body().starts_with(&said), !is_direct, "{}", reply.body());
        assert!(!reply.body().contains("secret"), "{}", reply.body());
    }
}

#[test]
fn an_origin_server_that_dies_while_it_sends_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten().take(2) {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Len");
        }
    });
    let proxy = Proxy::start(&["--origin", &format!("http://{address}")]);
    let reply = proxy.get("/a");
    assert_eq!((reply.status, reply.complete), (502, true));
}

/// The client sees it by the framing; the operator reads it in both logs, whatever is done with the body.
#[test]
fn a_body_that_the_origin_server_cuts_is_in_the_logs() {
    const HALF: usize = 100_000;
    let folder = TemporaryFolder::new();
    let part = "x".repeat(HALF);
    let chunk = format!("{HALF:x}\r\n{part}\r\n");
    let framings =
        [("Content-Length: 200000", part.as_str()), ("Transfer-Encoding: chunked", chunk.as_str())];
    for (number, (framing, sent)) in framings.into_iter().enumerate() {
        for (kept, fields) in
            [("kept", "Cache-Control: max-age=60"), ("not", "Cache-Control: no-store")]
        {
            let file = folder.file(&format!("{kept}{number}"));
            let path = file.to_str().expect("a path");
            let origin = Origin::script([
                on("GET *any*").head(200, &format!("{fields}; {framing}")).bytes(sent).close(),
                on("GET *any*").send(200, "Cache-Control: max-age=60", "whole"),
            ]);
            let mut proxy = Proxy::before(&origin, &["--access-log", path]);
            let reply = proxy.get("/a?token=secret&b=1");
            assert!(!reply.complete && reply.content.len() <= HALF, "{framing} {fields}");
            assert_eq!(proxy.get("/b").body(), "whole");
            let (_, _, log) = proxy.stop();
            let warned: Vec<&str> =
                log.lines().filter(|line| line.contains("in the middle of the response")).collect();
            assert_eq!(warned.len(), 1, "{log}");
            assert!(warned[0].contains("WARN") && warned[0].contains("/a?"), "{log}");
            assert!(!log.contains("secret"), "{log}");
            let lines = std::fs::read_to_string(&file).expect("a log");
            let cut = lines.lines().find(|line| line.contains("/a?")).expect("a line");
            assert!(cut.contains("; detail=truncated\""), "{lines}");
            assert!(!cut.contains("stored"), "{lines}");
            let whole = lines.lines().find(|line| line.contains("/b")).expect("a line");
            assert!(whole.contains("; stored\""), "{lines}");
            origin.assert_finished();
        }
    }
}
