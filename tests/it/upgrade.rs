//! Interim responses, and connections that go over to another protocol. RFC 9110 §7.8, §15.2, RFC 8297.

use std::io::Read;
use std::time::Instant;

use serde_json::Value;

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{FRONT, Proxy};
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder};

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";

fn exactly(connection: &mut Connection, count: usize) -> String {
    let mut bytes = vec![0; count];
    connection.stream.read_exact(&mut bytes).expect("bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn interim_responses_are_passed_on_as_they_come_and_never_stored() {
    let (early, late) = (Gate::new(), Gate::new());
    let origin = Origin::script([on("GET /a")
        .bytes("HTTP/1.1 102 Processing\r\n\r\n")
        .wait(&early)
        .bytes("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nLink: </b>\r\nX-Early: 1\r\n\r\n")
        .wait(&late)
        .send(200, "Cache-Control: max-age=60; X-Final: 1", "hello")]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.request("GET", "/a", "", "");
    let processing = connection.head().expect("102 comes before anything else");
    assert_eq!(processing.text.trim_end(), "HTTP/1.1 102 Processing", "RFC 9110 §15.2");
    early.open();
    let hints = connection.head().expect("103 comes as it is");
    assert_eq!(hints.word(1), "103", "RFC 8297");
    assert_eq!((hints.all("link").len(), hints.field("x-early")), (2, "1".to_string()));
    late.open();
    let reply = connection.reply();
    assert_eq!(
        (reply.status, reply.body(), reply.field("x-final")),
        (200, "hello".into(), "1".into())
    );
    assert_eq!(reply.field("x-early") + &reply.field("link"), "", "fields of theirs stay theirs");
    let again = connection.request("GET", "/a", "", "").reply();
    assert!(again.is_hit() && again.interim.is_empty());
    origin.assert_finished();
}

#[test]
fn interim_responses_that_nobody_wants_do_no_harm() {
    let many = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let origin = Origin::script([
        on("GET /old").bytes(many).send(200, "", "old"),
        on("GET /together").bytes(&format!("HTTP/1.1 100 Continue\r\n\r\n{many}{many}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nboth")),
        on("GET /endless").bytes(&many.repeat(65)).times(2),
        on("POST /up").bytes(many).send(200, "", "up"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut old = proxy.connect();
    let reply = old.send("GET /old HTTP/1.0\r\n\r\n").reply();
    assert_eq!(
        (reply.body(), reply.interim.len()),
        ("old".into(), 0),
        "HTTP/1.0 knows none of them"
    );
    let reply = proxy.get("/together");
    assert_eq!(
        (reply.body(), reply.interim.len()),
        ("both".into(), 2),
        "a 100 is between two neighbours"
    );
    let reply = proxy.get("/endless");
    assert_eq!((reply.status, reply.interim.len()), (502, 64), "there is a bound");
    assert_eq!(proxy.get_with("/endless", ASK).status, 502, "and one for upgrades");
    assert_eq!(proxy.ask("POST", "/up", "", "content").body(), "up");
    origin.assert_finished();
}

#[test]
fn a_websocket_is_a_tunnel_until_either_side_closes() {
    let agreed = "Upgrade: websocket; Connection: Upgrade; Sec-WebSocket-Accept: s";
    let bye = Gate::new();
    let origin = Origin::script([
        on("GET /echo")
            .having("Upgrade: websocket; Connection: Upgrade; Sec-WebSocket-Key: k")
            .head(101, agreed)
            .bytes("first")
            .then(Step::Echo),
        on("GET /echo").head(101, agreed).then(Step::Echo),
        on("GET /bye").head(101, agreed).wait(&bye).bytes("last").close(),
    ]);
    let mut proxy = Proxy::before(&origin, &["--workers", "1", "--idle-timeout", "1"]);
    let mut open: Vec<Connection> = Vec::new();
    for first in ["first", ""] {
        let mut connection = proxy.connect();
        connection.request("GET", "/echo", ASK, "");
        let head = connection.head().expect("a head");
        assert_eq!((head.word(1), head.field("sec-websocket-accept")), ("101", "s".into()));
        assert_eq!(
            (head.field("upgrade"), head.field("connection")),
            ("websocket".into(), "Upgrade".into())
        );
        assert_eq!(
            exactly(&mut connection, first.len()),
            first,
            "bytes behind the head are not lost"
        );
        open.push(connection);
    }
    // Both at once, although there is one worker, and in both directions.
    for round in 0..3 {
        for connection in &mut open {
            connection.send(format!("round {round}"));
            assert_eq!(exactly(connection, 7), format!("ROUND {round}"));
        }
    }
    let mut leaving = proxy.connect();
    leaving.request("GET", "/bye", ASK, "");
    assert_eq!(leaving.head().expect("a head").word(1), "101");
    bye.open();
    assert_eq!(String::from_utf8_lossy(&leaving.rest()), "last", "the origin server has closed");
    // The client closes: the origin server's side ends, too (its thread returns).
    drop(open.pop());
    // A tunnel does not hold up the end.
    let (status, _, log) = proxy.stop();
    assert!(status.success() && !log.contains("not finished in time"), "{log}");
    assert!(open[0].is_closed());
    origin.assert_finished();
}

#[test]
fn what_comes_with_the_request_goes_through_the_tunnel() {
    let origin = Origin::script([on("GET /echo")
        .head(101, "Upgrade: x; Connection: Upgrade")
        .then(Step::Echo)]);
    let proxy = Proxy::before(&origin, &[]);
    let mut connection = proxy.connect();
    connection.send("GET /echo HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\nearly");
    assert_eq!(connection.head().expect("a head").word(1), "101");
    assert_eq!(exactly(&mut connection, 5), "EARLY");
}

#[test]
fn an_origin_server_may_decline_to_go_over() {
    let origin = Origin::script([
        on("GET /length").send(426, "Upgrade: x", "no"),
        on("GET /chunked")
            .head(403, "Transfer-Encoding: chunked")
            .bytes("2\r\nno\r\n4;a=b\r\n way\r\n0\r\n\r\n"),
        on("GET /close").head(200, "Cache-Control: max-age=60").bytes("until the end").close(),
        on("GET /cut").head(200, "Content-Length: 10").bytes("cut").close(),
        on("GET /chunk").head(200, "Transfer-Encoding: chunked").bytes("5\r\ncut").close(),
        on("GET /none").send(204, "", ""),
        on("GET /close").send(200, "", "anew"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    #[rustfmt::skip]
    let table = [
        ("/length", 426, "no", true), ("/chunked", 403, "no way", true), ("/close", 200, "until the end", true),
        ("/cut", 200, "cut", false), ("/chunk", 200, "cut", false), ("/none", 204, "", true),
    ];
    for (target, status, content, complete) in table {
        let reply = proxy.get_with(target, ASK);
        assert_eq!(
            (reply.status, reply.body(), reply.complete),
            (status, content.into(), complete),
            "{target}"
        );
        assert_eq!(
            reply.cache_status(),
            format!("proxy; fwd=bypass; fwd-status={status}; detail=upgrade-declined")
        );
    }
    assert_eq!(proxy.get("/close").body(), "anew", "nothing of it is stored");
    origin.assert_finished();
}

/// Only what has reached the origin server counts as forwarded, and only a tunnel as an upgrade: in the counters
/// and in the access log alike.
#[test]
fn an_upgrade_that_is_refused_is_not_counted_as_forwarded() {
    let agreed = "Upgrade: websocket; Connection: Upgrade";
    let circles = "Via: 1.1 proxy\r\n".repeat(20);
    let (own, nowhere) = (None, Some("http://127.0.0.1:1"));
    #[rustfmt::skip]
    let table: [(&str, Option<&str>, &[&str], &str, u16, &str, u64); 9] = [
        // Target, another origin server, flags, fields, what the client is told, and how many were forwarded.
        ("/agreed",   own,     &[], "", 101, "fwd=bypass; fwd-status=101; detail=upgrade", 1),
        ("/declined", own,     &[], "", 426, "fwd=bypass; fwd-status=426; detail=upgrade-declined", 1),
        ("/bad",      own,     &[], "", 502, "fwd=bypass; detail=invalid", 1),
        ("/silent",   own,     &[], "", 502, "fwd=bypass; detail=truncated", 1),
        ("/down",     nowhere, &[], "", 502, "detail=connect", 0),
        ("/offline",  own,     &["--cache-mode", "offline"], "", 504, "detail=offline", 0),
        ("/cached",   own,     &[], "Cache-Control: only-if-cached\r\n", 504, "detail=only-if-cached", 0),
        ("/circles",  own,     &[], &circles, 502, "detail=loop", 0),
        ("/rate",     own,     &["--origin-rate", "1/d"], "", 503, "detail=rate", 0),
    ];
    for (target, elsewhere, flags, fields, status, told, forwarded) in table {
        let origin = Origin::script([
            on("GET /first").send(200, "", ""),
            on("GET /agreed").head(101, agreed).close(),
            on("GET /declined").send(426, "Upgrade: x", "no"),
            on("GET /bad").bytes("nonsense\r\n\r\n").close(),
            on("GET /silent").close(),
        ]);
        let folder = TemporaryFolder::new();
        let log = folder.file("log").display().to_string();
        let url = elsewhere.map_or_else(|| origin.url(), str::to_string);
        let proxy = Proxy::start(&[&["--origin", &url, "--access-log", &log], flags].concat());
        let is_limited = told == "detail=rate";
        if is_limited {
            // It takes what there is of the rate.
            assert_eq!(proxy.get("/first").status, 200);
        }
        let mut connection = proxy.connect();
        connection.request("GET", target, &format!("{ASK}{fields}"), "");
        assert_eq!(connection.head().expect("a head").word(1), status.to_string(), "{target}");
        drop(connection);
        let stats = proxy.tell(&["stats", "--json"]);
        let stats: Value = serde_json::from_slice(&stats.stdout).expect("JSON");
        assert_eq!(stats["requests"], 1 + u64::from(is_limited), "{target}");
        assert_eq!(stats["forwarded"]["bypass"].as_u64().unwrap_or(0), forwarded, "{target}");
        let (_, detail) = told.split_once("detail=").expect("a detail");
        assert_eq!(stats["details"][detail], 1, "{target}: {stats}");
        let upgrades = u64::from(status == 101);
        assert_eq!(stats["details"]["upgrade"].as_u64().unwrap_or(0), upgrades, "{target}");
        // The line is written when the last byte is sent.
        let line = format!("proxy; {told}\"");
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&log).unwrap_or_default().contains(&line) {
            assert!(Instant::now() < deadline, "{target}: {line} is not in the access log");
            super::support::pause();
        }
    }
}

/// There is a bound, and whoever comes beyond it is counted as a request that was refused. Behind tiny_http each tunnel
/// has two threads, so that the program sets it; else it is that of connections.
#[test]
fn there_are_only_so_many_tunnels_at_a_time() {
    let (tunnels_max, flags, detail): (_, &[&str], _) = match FRONT {
        "tiny-http" => (256, &[], "full"),
        _ => (3, &["--origin-connections", "3", "--first-byte-timeout", "300ms"], "rate"),
    };
    let agreed = "Upgrade: websocket; Connection: Upgrade";
    let origin = Origin::script([on("GET /echo").head(101, agreed).then(Step::Echo).always()]);
    let proxy = Proxy::before(&origin, flags);
    let open: Vec<Connection> = (0..tunnels_max)
        .map(|_| {
            let mut connection = proxy.connect();
            connection.request("GET", "/echo", ASK, "");
            assert_eq!(connection.head().expect("a head").word(1), "101");
            connection
        })
        .collect();
    let refused = proxy.get_with("/echo", ASK);
    let told = format!("proxy; detail={detail}");
    assert_eq!((refused.status, refused.cache_status()), (503, told));
    let stats = proxy.tell(&["stats", "--json"]);
    let stats: Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (all, forwarded) = (number(&stats["requests"]), number(&stats["forwarded"]["bypass"]));
    assert_eq!((all, forwarded), (tunnels_max + 1, tunnels_max), "{stats}");
    assert_eq!(number(&stats["details"]["upgrade"]), tunnels_max);
    drop(open);
}

#[test]
fn what_is_no_upgrade_stays_http() {
    let origin = Origin::script([
        on("GET /h2c").lacking("upgrade").lacking("http2-settings").send(200, "", "http"),
        on("POST /post").lacking("upgrade").send(200, "", "http"),
        on("GET /old").lacking("upgrade").send(200, "", "http"),
        on("GET /alone").lacking("upgrade").send(200, "", "http"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(proxy.get_with("/h2c", h2c).body(), "http");
    assert_eq!(proxy.ask("POST", "/post", ASK, "content").body(), "http");
    let mut old = proxy.connect();
    assert_eq!(old.send(format!("GET /old HTTP/1.0\r\n{ASK}\r\n")).reply().body(), "http");
    assert_eq!(
        proxy.get_with("/alone", "Upgrade: websocket\r\n").body(),
        "http",
        "Connection does not name it"
    );
    origin.assert_finished();
}

#[cfg(feature = "tls")]
#[test]
fn a_tunnel_can_lead_to_an_https_origin() {
    let (origin, _) = Origin::script_tls([on("GET /echo")
        .head(101, "Upgrade: websocket; Connection: Upgrade")
        .bytes("first")
        .then(Step::Echo)]);
    let proxy = Proxy::before(&origin, &["--insecure"]);
    let mut connection = proxy.connect();
    connection.request("GET", "/echo", ASK, "");
    assert_eq!(connection.head().expect("a head").word(1), "101");
    assert_eq!(exactly(&mut connection, 5), "first");
    let large = "x".repeat(200_000);
    let (mut reader, expected) =
        (connection.stream.try_clone().expect("a handle"), large.to_uppercase());
    let read = std::thread::spawn(move || {
        let mut back = vec![0; expected.len()];
        reader.read_exact(&mut back).expect("all of it");
        assert!(back == expected.as_bytes());
    });
    connection.send(&large);
    read.join().expect("the same bytes came back");
}

#[test]
fn a_tunnel_to_nowhere_is_an_error_that_helps() {
    let long = format!("HTTP/1.1 101 Long\r\nA: {}\r\n", "x".repeat(70_000));
    let many = format!("HTTP/1.1 101 Many\r\n{}\r\n", "A: b\r\n".repeat(129));
    let origin = Origin::script([
        on("GET /long").bytes(&long).close(),
        on("GET /many").bytes(&many).close(),
        on("GET /lengths").head(200, "Content-Length: 3; Content-Length: 4").bytes("abcd").close(),
        on("GET /bad").bytes("nonsense\r\n\r\n").close(),
        on("GET /silent").close(),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for target in ["/long", "/many", "/lengths", "/bad"] {
        let told = proxy.get_with(target, ASK).cache_status();
        assert_eq!(told, "proxy; fwd=bypass; detail=invalid", "{target}");
    }
    assert_eq!(
        proxy.get_with("/silent", ASK).cache_status(),
        "proxy; fwd=bypass; detail=truncated"
    );
    let nowhere = Proxy::start(&["--origin", "http://127.0.0.1:1"]);
    let reply = nowhere.get_with("/a", ASK);
    assert_eq!((reply.status, reply.cache_status().as_str()), (502, "proxy; detail=connect"));
    let offline = Proxy::before(&origin, &["--cache-mode", "offline"]);
    assert_eq!(offline.get_with("/a", ASK).status, 504);
}

#[test]
fn a_tunnel_goes_through_the_proxy_that_leads_out() {
    let way_out = Origin::script([
        on("CONNECT origin.test:80").bytes("HTTP/1.1 200 OK\r\n\r\n"),
        on("GET /echo")
            .having("Host: origin.test")
            .head(101, "Upgrade: x; Connection: Upgrade")
            .then(Step::Echo),
        on("CONNECT origin.test:80").send(403, "", "no"),
    ]);
    let mut command = support::proxy::command();
    command.args(["--origin", "http://origin.test"]).env("http_proxy", way_out.url());
    let proxy = Proxy::start_as(command);
    let mut connection = proxy.connect();
    connection.request("GET", "/echo", ASK, "");
    assert_eq!(connection.head().expect("a head").word(1), "101");
    connection.send("through");
    assert_eq!(exactly(&mut connection, 7), "THROUGH");
    let refused = proxy.get_with("/echo", ASK);
    assert_eq!(refused.cache_status(), "proxy; detail=connect");
    assert!(refused.body().contains("the proxy that leads out refused"), "{}", refused.body());
    way_out.assert_finished();
}
