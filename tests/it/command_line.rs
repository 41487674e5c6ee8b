//! The command line of the real binary: words, exit codes, start and end.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use caching_proxy::cli::features;
use socket2::{Domain, Socket, Type};

use super::support;
use super::support::origin::{Gate, Origin, on};
use super::support::proxy::{Proxy, command, run};
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder};

fn outcome(args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_and_version_are_answered_at_once() {
    let (code, out, err) = outcome(&["--help", "--nonsense"]);
    assert_eq!((code, err), (Some(0), String::new()));
    assert!(out.starts_with("proxy: an HTTP caching reverse proxy\n"));
    for group in ["Listening", "Storing and freshness", "Limits and stores", "Clients", "Logging"] {
        assert!(out.contains(group), "{group}");
    }
    assert!(out.lines().any(|line| line.contains("--port N") && line.ends_with("[3000]")));
    let (code, out, _) = outcome(&["--version"]);
    let version = format!("proxy {}{}\n", env!("CARGO_PKG_VERSION"), features::note());
    assert_eq!((code, out), (Some(0), version));
}

/// What the program was built without is no slip of the pen.
#[test]
fn what_was_left_out_is_named() {
    let asking = [
        ("sqlite", &["--store sqlite", "--store=sqlite:/x"][..]),
        (
            "redis",
            &[
                "--store redis://h",
                "--store rediss://h",
                "--store redis+unix:/x",
                "--store redis:x",
            ],
        ),
        ("tls", &["--origin https://h", "--origin HTTPS://h/", "--ca-cert /x", "--insecure"]),
        ("zstd", &["--cache-compress on"]),
    ];
    for (feature, lines) in asking {
        for line in lines.iter().filter(|_| features::LEFT_OUT.contains(&feature)) {
            let words: Vec<&str> = line.split(' ').collect();
            let (code, _, err) = outcome(&words);
            let flag = words[0].split('=').next().unwrap_or_default();
            let told = format!(
                "proxy: {flag}: this proxy was built without {feature}; build it with --features \
                 {feature}\n"
            );
            assert_eq!((code, err), (Some(2), told), "{line}");
        }
        assert_eq!(features::note().contains(feature), features::LEFT_OUT.contains(&feature));
    }
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    for args in [
        &["--nonsense"][..],
        &["--port"],
        &["--port", "x"],
        &["a", "b"],
        &["--cache-memory", "lots"],
    ] {
        let (code, out, err) = outcome(args);
        assert_eq!((code, out), (Some(2), String::new()), "{args:?}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.starts_with("proxy: "), "{err}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let running = Proxy::start(&[]);
    let own = running.address.port().to_string();
    let folder = TemporaryFolder::new();
    let missing = folder.file("missing/file").display().to_string();
    let missing = &*missing;
    let table: [(&[&str], String); 7 + cfg!(feature = "tls") as usize] = [
        (&["--origin", "example.com"], "proxy: --origin example.com: no scheme; expected http://HOST[:PORT][/PATH] or https://…\n".into()),
        (&["--origin", "ftp://example.com"], "proxy: --origin ftp://example.com: the scheme is \"ftp\"; expected http://HOST[:PORT][/PATH] or https://…\n".into()),
        (&["--port", &port], format!("proxy: port {port}: in use by another program; choose another --port\n")),
        (&["--port", &own], format!("proxy: port {own}: in use by another proxy; stop it, or choose another --port\n")),
        (&["--host", "192.0.2.1"], "proxy: --host 192.0.2.1: this machine has no such address; 0.0.0.0 is all of them\n".into()),
        (&["--front", "tiny-http", "--host", "0.0.0.0"], "proxy: --host 0.0.0.0: --front tiny-http is not safe on a network; use --front event, listen on 127.0.0.1, or add --allow-unsafe-front\n".into()),
        #[cfg(feature = "tls")]
        (&["--port", "0", "--ca-cert", missing], format!("proxy: --ca-cert {missing}: No such file or directory (os error 2)\n")),
        (&["--port", "0", "--ready-file", missing], format!("proxy: --ready-file {missing}: No such file or directory (os error 2)\n")),
    ];
    for (args, expected) in table {
        let (code, _, err) = outcome(args);
        let last = err.lines().last().map(|line| format!("{line}\n")).unwrap_or_default();
        assert_eq!((code, last), (Some(1), expected), "{args:?}");
    }
    let free =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let (code, _, err) =
        outcome(&["--port", &free.to_string(), "--origin", &format!("http://localhost:{free}")]);
    assert_eq!(code, Some(1));
    assert!(
        err.ends_with(&format!(
            "this is the proxy itself (127.0.0.1:{free}); name another server\n"
        )),
        "{err}"
    );
}

#[test]
fn the_environment_sets_defaults() {
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "x").times(2)]);
    let mut with_environment = command();
    with_environment
        .env("CACHING_PROXY_ORIGIN", origin.url())
        .env("CACHING_PROXY_CACHE_SIZE_LIMIT", "0")
        // What Kubernetes sets beside a Service named proxy, and base images set.
        .env("PROXY_PORT", "tcp://10.0.0.1:3000")
        .env("PROXY_HOST", "proxy.internal")
        .env("PROXY_VERSION", "1.27.3")
        .env("PROXY_CACHE_TTL", "60");
    let proxy = Proxy::start_as(with_environment);
    assert!(!proxy.get("/a").is_hit() && !proxy.get("/a").is_hit());
    origin.assert_finished();
    for word in ["PROXY_PORT: ignored", "PROXY_HOST: ignored", "use CACHING_PROXY_CACHE_TTL"] {
        assert!(proxy.log().contains(word), "{word}: {}", proxy.log());
    }
    let output = command().env("CACHING_PROXY_PORT", "x").output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("proxy: CACHING_PROXY_PORT: \"x\"; expected"), "{told}");
}

/// Names such as localhost lead to either loopback address; an address that is given is the only one.
#[test]
fn the_default_and_localhost_are_both_loopback_addresses() {
    let can_have = TcpListener::bind("[::1]:0").is_ok();
    let is_event = support::proxy::FRONT == "event";
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "a").always()]);
    for (flags, both) in
        [(&[][..], true), (&["--host", "localhost"], true), (&["--host", "127.0.0.1"], false)]
    {
        let proxy = Proxy::before(&origin, flags);
        assert!(proxy.address.is_ipv4(), "the ready line stays");
        let second =
            std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, proxy.address.port()));
        let reached = std::net::TcpStream::connect(second).is_ok();
        assert_eq!(reached, both && can_have && is_event, "{flags:?}");
        assert_eq!(proxy.get("/a").body(), "a");
        if reached {
            // One after the other and at once.
            let mut clients = [second, proxy.address, second].map(support::wire::Connection::open);
            for client in &mut clients {
                client.request("GET", "/a", "", "");
            }
            assert!(clients.iter_mut().all(|client| client.reply().is_hit()));
        }
    }
}

#[test]
fn health_checks_are_answered_here() {
    let origin = Origin::script([on("GET /healthz/deep").send(200, "", "origin")]);
    let proxy = Proxy::before(&origin, &["--health-path", "/healthz"]);
    for (method, target) in [("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/healthz?probe=1")]
    {
        let reply = proxy.ask(method, target, "", "");
        assert_eq!(reply.status, 200, "{method} {target}");
        assert_eq!(reply.body(), if method == "GET" { "ok\n" } else { "" });
    }
    assert_eq!(proxy.get("/healthz/deep").body(), "origin");
    origin.assert_finished();
}

#[test]
fn positional_words_are_taken() {
    let origin = Origin::script([on("GET /a").send(200, "", "x")]);
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let mut child = command()
        .args(["127.0.0.1", &port.to_string(), &origin.url(), "--cache-ttl=60"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let asked = support::wire::Connection::open(([127, 0, 0, 1], port).into())
        .request("GET", "/a", "", "")
        .reply();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(line, format!("listening on http://127.0.0.1:{port}\n"));
    assert_eq!(asked.status, 200);
}

#[test]
fn the_ready_file_appears_with_the_address_and_goes_at_the_end() {
    let folder = TemporaryFolder::new();
    let file = folder.file("ready");
    let mut proxy =
        Proxy::start(&["--ready-file", file.to_str().expect("a path"), "--log-level", "info"]);
    proxy.connect();
    let expected = format!("http://{}\n", proxy.address);
    let mut text = String::new();
    while text.is_empty() {
        text = std::fs::read_to_string(&file).unwrap_or_default();
    }
    assert_eq!(text, expected);
    let (status, _, _) = proxy.stop();
    assert_eq!(status.code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn a_signal_lets_what_is_under_way_finish_and_sums_up() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /slow").wait(&gate).send(200, "", "slow"),
        on("GET /a").send(200, "Cache-Control: max-age=60", "12345"),
    ]);
    for signal in ["-TERM", "-INT"] {
        origin.add(on("GET /slow").wait(&gate).send(200, "", "slow"));
        origin.add(on("GET /a").send(200, "Cache-Control: max-age=60", "12345"));
        let before = origin.asked().len();
        let mut proxy = Proxy::start(&["--origin", &origin.url()]);
        proxy.get("/a");
        proxy.get("/a");
        let mut idle = proxy.connect();
        idle.request("GET", "/a", "", "");
        assert!(idle.reply().is_hit());
        let mut client = proxy.connect();
        client.request("GET", "/slow", "", "");
        origin.wait_for(before + 2);
        proxy.signal(signal);
        proxy.wait_for_log("finishing what is under way");
        gate.open();
        assert_eq!(client.reply().body(), "slow");
        let (status, _, log) = proxy.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        let summary = "4 requests: 2 hits (50%), 2 misses; 19 bytes sent, 10 from the cache (52%); 2 origin requests, 2 saved";
        assert!(log.contains(summary), "{log}");
        assert!(idle.is_closed());
    }
}

/// What does not come to an end is not waited for longer than is said.
#[test]
fn the_time_to_end_is_bounded() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET /slow").wait(&gate).send(200, "", "slow")]);
    let mut proxy = Proxy::before(&origin, &["--drain-timeout", "400ms"]);
    let mut client = proxy.connect();
    client.request("GET", "/slow", "", "");
    origin.wait_for(1);
    proxy.signal("-TERM");
    let begun = std::time::Instant::now();
    let (status, _, log) = proxy.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{log}");
    assert!(log.contains("not finished in time"), "{log}");
    gate.open();
}

#[test]
fn an_old_ready_file_goes_first_thing() {
    let folder = TemporaryFolder::new();
    let file = folder.file("ready");
    std::fs::write(&file, "http://127.0.0.1:1\n").expect("a file");
    let ready = file.to_str().expect("a path");
    let (code, _, err) = outcome(&["--origin", "nowhere", "--ready-file", ready]);
    assert_eq!(code, Some(1), "{err}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    std::fs::write(&file, "http://127.0.0.1:1\n").expect("a file");
    let (code, _, err) = outcome(&["--port", &port, "--ready-file", ready]);
    assert_eq!(code, Some(1), "{err}");
    assert!(!file.exists(), "it did not start");
}

/// Whatever becomes of the log, requests are answered, and the operator is told.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_access_log_is_told_once_and_its_lines_are_counted() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "a")]);
    let flags = ["--access-log", "/dev/full", "--admin", "127.0.0.1:0"];
    let mut proxy = Proxy::before(&origin, &flags);
    let log = proxy.log();
    let admin = log.split("control interface at http://").nth(1).expect("an address");
    let admin = admin.lines().next().and_then(|line| line.trim().parse().ok()).expect("an address");
    for _ in 0..5 {
        assert_eq!(proxy.get("/a").body(), "a");
    }
    proxy.wait_for_log("--access-log /dev/full: ");
    // A line is written when its client has the last byte already.
    let deadline = std::time::Instant::now() + PATIENCE;
    let counted = |text: &str| {
        let told = String::from_utf8_lossy(&proxy.tell(&["stats"]).stdout).into_owned();
        let line = told.lines().find(|line| line.contains("access log lines lost"));
        line.is_some_and(|line| line.ends_with(text))
    };
    while !counted(" 5") {
        assert!(std::time::Instant::now() < deadline, "5 lines are lost");
    }
    let metrics = Connection::open(admin).request("GET", "/metrics", "", "").reply().body();
    assert!(metrics.contains("\nproxy_access_log_lines_lost_total 5\n"), "{metrics}");
    let (status, _, log) = proxy.stop();
    assert_eq!(status.code(), Some(0));
    assert_eq!(log.matches("lines are lost").count(), 1, "{log}");
    assert!(log.contains("; 5 lines of the access log lost"), "{log}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET /slow").wait(&gate).send(200, "", "slow")]);
    let mut proxy = Proxy::start(&["--origin", &origin.url()]);
    proxy.connect().request("GET", "/slow", "", "");
    origin.wait_for(1);
    proxy.signal("-TERM");
    proxy.wait_for_log("finishing what is under way");
    proxy.signal("-TERM");
    let (status, _, _) = proxy.wait();
    assert_eq!(status.code(), Some(130));
    gate.open();
}

#[test]
fn every_request_is_in_the_access_log() {
    let folder = TemporaryFolder::new();
    let origin =
        Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "12345").times(2)]);
    for format in ["combined", "json"] {
        let file = folder.file(format);
        let path = file.to_str().expect("a path");
        let mut proxy = Proxy::start(&[
            "--origin",
            &origin.url(),
            "--access-log",
            path,
            "--access-log-format",
            format,
        ]);
        proxy.get_with("/a", "User-Agent: test\r\n");
        proxy.get("/a");
        proxy.stop();
        let mut lines: Vec<String> =
            std::fs::read_to_string(&file).expect("a log").lines().map(String::from).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        // A line is written when the last byte is sent, so the second client's may be the first.
        lines.sort_by_key(|line| line.contains("hit; "));
        if format == "combined" {
            assert!(lines[0].starts_with("127.0.0.1 - - ["), "{}", lines[0]);
            let told = "\"GET /a HTTP/1.1\" 200 5 \"-\" \"test\" \"proxy; fwd=uri-miss; fwd-status=200; stored\" ";
            assert!(lines[0].contains(told), "{}", lines[0]);
            assert!(lines[1].contains("\"proxy; hit; ttl="), "{}", lines[1]);
        } else {
            let told = "\"hit\":false,\"cache_status\":\"proxy; fwd=uri-miss";
            assert!(lines[0].contains(told), "{}", lines[0]);
            assert!(lines[1].contains("\"bytes\":5,\"hit\":true"), "{}", lines[1]);
        }
    }
    origin.assert_finished();
}

/// Who connects to this port while a start goes on is refused, until it is sure to succeed.
#[cfg(target_os = "linux")]
#[test]
fn nobody_is_let_in_before_the_start_is_sure_to_succeed() {
    let host = "127.0.0.3";
    let folder = TemporaryFolder::new();
    let fifo = folder.file("fifo").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let tokens = ["--admin", "127.0.0.1:0", "--admin-token", &fifo];
    let roots = ["--origin", "https://127.0.0.1:1", "--ca-cert", &fifo];
    // The start waits for what it reads there: one of the first things that can fail, and one of the last.
    let waiting = [&roots[..], &tokens];
    // Without TLS, roots are no flag.
    let first = usize::from(cfg!(not(feature = "tls")));
    for flags in waiting.into_iter().skip(first) {
        for front in ["event", "tiny-http"] {
            let port = free_port(host);
            let mut command = command();
            command.env("XDG_RUNTIME_DIR", folder.path()).args(flags);
            command.args(["--host", host, "--port", &port.to_string(), "--front", front]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            let start = command.spawn().expect("it runs");
            // This waits until the other side has opened it, too.
            let mut rubbish = std::fs::OpenOptions::new().write(true).open(&fifo).expect("a pipe");
            assert!(!is_let_in(host, port), "{flags:?} {front}");
            rubbish.write_all(b"no").expect("it is read");
            drop(rubbish);
            let output = start.wait_with_output().expect("it ends");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{flags:?} {front}: {told}");
            assert!(told.contains(&fifo), "{flags:?} {front}: {told}");
        }
    }
}

/// The same for whatever can fail: somebody who tries all the while never gets in, and nothing is left behind.
#[cfg(target_os = "linux")]
#[test]
fn a_start_that_fails_lets_nobody_in() {
    let host = "127.0.0.4";
    let folder = TemporaryFolder::new();
    let file = |name: &str| folder.file(name).display().to_string();
    let (there, ready) = (file("there"), file("ready"));
    std::fs::create_dir(&there).expect("a folder");
    let text = file("text");
    std::fs::write(&text, "text").expect("a file");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let (ca, log, below) = (file("none.pem"), "/dev/null/x", format!("{text}/x"));
    let admin = ["--admin", "127.0.0.1:0", "--admin-token"];
    let table: [&[&str]; 13] = [
        &["--origin", "https://127.0.0.1:1", "--ca-cert", &ca],
        &["--origin", "https://127.0.0.1:1", "--ca-cert", &text],
        &["--origin", "nowhere"],
        &["--access-log", log],
        &["--access-log", &there],
        &["--admin", &taken],
        &[admin[0], admin[1], admin[2], &ca],
        &[admin[0], admin[1], admin[2], &text],
        &["--ready-file", &below],
        &["--ready-file", &there],
        &["--ready-file", &ready, "--admin", &taken],
        &["--store", "redis://127.0.0.1:1/nonsense"],
        &["--store", "redis://", "--ready-file", &ready],
    ];
    for flags in table {
        for front in ["event", "tiny-http"] {
            let port = free_port(host);
            let mut command = command();
            command.env("XDG_RUNTIME_DIR", folder.path()).args(flags);
            command.args(["--host", host, "--port", &port.to_string(), "--front", front]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut start = command.spawn().expect("it runs");
            while start.try_wait().expect("a child").is_none() {
                assert!(!is_let_in(host, port), "{flags:?} {front}");
            }
            let output = start.wait_with_output().expect("it ends");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(matches!(output.status.code(), Some(1 | 2)), "{flags:?} {front}: {told}");
            assert!(output.stdout.is_empty(), "{flags:?} {front}: it was said to listen");
            let left = |name: &str| folder.file(name).exists();
            assert!(
                !left("ready") && !left("ready.tmp") && !left("there.tmp"),
                "{flags:?} {front}"
            );
        }
    }
}

/// A free port of an address that no other test uses.
fn free_port(host: &str) -> u16 {
    let listener = TcpListener::bind((host, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Is somebody let in? From another address, so that nobody can happen to connect to itself.
fn is_let_in(host: &str, port: u16) -> bool {
    let address = |host: &str, port| SocketAddr::new(host.parse().expect("an address"), port);
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    client.bind(&address("127.0.0.2", 0).into()).expect("an address");
    client.connect(&address(host, port).into()).is_ok()
}
