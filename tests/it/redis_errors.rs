//! A Redis that answers with errors: what could not be told to it is owed, said, and done later.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;
use super::support::redis::{Server, programs};
use super::support::wait_until;

const FRESH: &str = "Cache-Control: max-age=600; Surrogate-Key: tagged";
/// Keys that are read slowly, one by one.
const FILLERS: usize = 400;

/// A way in which Redis answers, but does not do as it is asked.
struct Failure {
    code: &'static str,
    flags: &'static [&'static str],
    begin: fn(&Server),
    end: fn(&Server),
}

fn config(server: &Server, name: &str, value: &str) {
    server.ask(&["CONFIG", "SET", name, value]);
}

fn cannot_save(server: &Server) {
    // What is written in its place cannot take the place of a folder.
    let folder = server.folder().join("dump.rdb");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "x").expect("a file");
    config(server, "save", "3600 1");
    server.ask(&["BGSAVE"]);
    wait_until("it cannot save", || {
        let Value::BulkString(info) = server.ask(&["INFO", "persistence"]) else { return false };
        String::from_utf8_lossy(&info).contains("rdb_last_bgsave_status:err")
    });
}

fn is_loading(server: &Server) -> bool {
    server.try_ask(&["GET", "x"]).is_err_and(|error| error.code() == Some("LOADING"))
}

fn load_slowly(server: &Server) {
    for number in 0..FILLERS {
        server.ask(&["SET", &format!("filler:{number}"), &"x".repeat(3000)]);
    }
    config(server, "rdbcompression", "no");
    config(server, "loading-process-events-interval-bytes", "1024");
    config(server, "key-load-delay", "50000");
    // It answers when it is through.
    let mut connection = TcpStream::connect(("127.0.0.1", server.port)).expect("it runs");
    connection.write_all(b"DEBUG RELOAD\r\n").expect("it reads");
    wait_until("it loads", || is_loading(server));
    // Were the connection closed, nothing would be different.
}

fn failures() -> [Failure; 7] {
    [
        Failure {
            code: "OOM",
            flags: &[],
            begin: |server| config(server, "maxmemory", "1"),
            end: |server| config(server, "maxmemory", "0"),
        },
        Failure {
            code: "READONLY",
            flags: &[],
            begin: |server| _ = server.ask(&["REPLICAOF", "127.0.0.1", "1"]),
            end: |server| _ = server.ask(&["REPLICAOF", "NO", "ONE"]),
        },
        Failure {
            code: "MISCONF",
            flags: &[],
            begin: cannot_save,
            end: |server| config(server, "stop-writes-on-bgsave-error", "no"),
        },
        Failure {
            code: "NOREPLICAS",
            flags: &[],
            begin: |server| config(server, "min-replicas-to-write", "1"),
            end: |server| config(server, "min-replicas-to-write", "0"),
        },
        Failure {
            code: "NOPERM",
            flags: &[],
            begin: |server| {
                server.ask(&["ACL", "SETUSER", "default", "-@write", "-@scripting"]);
            },
            end: |server| _ = server.ask(&["ACL", "SETUSER", "default", "+@all"]),
        },
        Failure {
            code: "CLUSTERDOWN",
            // A cluster of one, which a client may take for a single server.
            flags: &["--cluster-enabled", "yes", "--cluster-port", "BUS"],
            begin: |server| _ = server.ask(&["CLUSTER", "DELSLOTSRANGE", "0", "16383"]),
            end: |server| _ = server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]),
        },
        Failure {
            code: "LOADING",
            flags: &["--enable-debug-command", "yes"],
            begin: load_slowly,
            end: |server| {
                config(server, "key-load-delay", "0");
                wait_until("it is through", || !is_loading(server));
            },
        },
    ]
}

/// What is removed: by a write, by the method PURGE, and by each command that purges. The words are those of
/// `proxy purge`.
const REMOVALS: [(&str, &[&str]); 6] = [
    ("/post", &[]),
    ("/url", &["/url"]),
    ("/method", &["PURGE"]),
    ("/prefix/x", &["--prefix", "/prefix/"]),
    ("/tag", &["--tag", "tagged"]),
    ("/all", &["--all"]),
];

fn before(origin: &Origin, server: &Server, prefix: &str) -> Proxy {
    let flags = ["--store", &server.url(), "--redis-prefix", prefix, "--allow-purge", "127.0.0.1"];
    Proxy::before(origin, &flags)
}

fn prefix_of(path: &str) -> String {
    format!("{}:", path.replace('/', "-"))
}

fn origin() -> Origin {
    let mut rules = vec![on("POST /post").send(200, "", "")];
    for (path, _) in REMOVALS {
        rules.push(on(&format!("GET {path}")).send(200, FRESH, "old"));
        rules.push(on(&format!("GET {path}")).send(200, FRESH, "new").always());
    }
    Origin::script(rules)
}

/// With every error: what is removed is used no more, by the proxy that was told, from then on, and by
/// any other as soon as Redis is well again; and the command says that it is not done.
#[test]
fn what_redis_refuses_to_remove_is_owed() {
    let Some(program) = programs().into_iter().next() else { return };
    for Failure { code, flags, begin, end } in failures() {
        let server = Server::start_with(program, flags);
        if code == "CLUSTERDOWN" {
            end(&server);
            wait_until("the cluster is up", || server.try_ask(&["GET", "x"]).is_ok());
        }
        let origin = origin();
        let proxies = REMOVALS.map(|(path, _)| before(&origin, &server, &prefix_of(path)));
        for (proxy, (path, _)) in proxies.iter().zip(REMOVALS) {
            assert_eq!(proxy.get(path).body(), "old", "{code} {path}");
            let pattern = format!("{}*{{{}{path}}}", prefix_of(path), origin.url());
            wait_until(
                "it is stored",
                || matches!(server.ask(&["KEYS", &pattern]), Value::Array(names) if names.len() == 1),
            );
        }
        begin(&server);
        for (proxy, (path, words)) in proxies.iter().zip(REMOVALS) {
            if words.is_empty() {
                assert_eq!(proxy.ask("POST", path, "", "").status, 200);
            } else if words == ["PURGE"] {
                let status = if code == "OOM" { 200 } else { 503 };
                assert_eq!(proxy.ask("PURGE", path, "", "").status, status, "{code}");
            } else {
                let told = proxy.tell(&[&["purge"], words].concat());
                let error = String::from_utf8_lossy(&told.stderr);
                // What needs no memory is done without it.
                let is_done = (code, path) == ("OOM", "/url");
                assert_eq!(told.status.success(), is_done, "{code} {path}: {told:?}");
                let says_so = error.contains("not purged yet, only 1 here");
                assert!(is_done || says_so, "{code} {path}: {error}");
            }
            for _ in 0..3 {
                assert_eq!(proxy.get(path).body(), "new", "{code} {path}");
            }
            proxy.wait_for_log(code_in_log(code));
        }
        end(&server);
        for (proxy, (path, _)) in proxies.iter().zip(REMOVALS) {
            wait_until(&format!("{code} {path}: it is done"), || {
                assert_eq!(proxy.get(path).body(), "new", "{code} {path}");
                let other = before(&origin, &server, &prefix_of(path));
                other.get_with(path, "Cache-Control: only-if-cached\r\n").body() != "old"
            });
            for _ in 0..3 {
                assert_eq!(proxy.get(path).body(), "new", "{code} {path}: it is well again");
            }
        }
    }
}

/// How Redis names the error, to a script where it does not use the code.
fn code_in_log(code: &'static str) -> &'static str {
    match code {
        "LOADING" => "oading",
        "CLUSTERDOWN" => "luster",
        "NOPERM" => "permission",
        "NOREPLICAS" => "replicas",
        "READONLY" => "read only",
        "MISCONF" => "RDB",
        _ => "maxmemory",
    }
}

fn as_user(server: &Server, name: &str) -> String {
    format!("redis://{name}:secret@127.0.0.1:{}", server.port)
}

fn user(server: &Server, name: &str, rules: &[&str]) {
    server.ask(&[&["ACL", "SETUSER", name], rules].concat());
}

fn stored(server: &Server) -> usize {
    match server.ask(&["KEYS", "proxy:2:e*"]) {
        Value::Array(names) => names.len(),
        other => panic!("{other:?}"),
    }
}

/// Who cannot hear or send the news does not use Redis, says so at the start and counts as failing; once it
/// may, it does.
#[test]
fn a_user_without_rights_to_the_news_does_not_share() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "a").always(),
        on("GET *any*").send(200, FRESH, "b").always(),
    ]);
    // These rights are enough.
    let rights = "on >secret ~proxy:* &proxy:* +@read +@write +@scripting +@pubsub +@connection";
    let rights: Vec<&str> = rights.split(' ').collect();
    for (name, lacks, grant) in [
        ("channels", "resetchannels", "&proxy:*"),
        ("publish", "-publish", "+publish"),
        ("subscribe", "-subscribe", "+subscribe"),
    ] {
        user(&server, name, &[&rights[..], &[lacks]].concat());
        server.ask(&["FLUSHALL"]);
        let proxy = Proxy::before(&origin, &["--store", &as_user(&server, name)]);
        assert!(proxy.log().contains("may the user publish and subscribe there?"), "{name}");
        proxy.get("/a");
        assert!(proxy.get("/a").is_hit() && stored(&server) == 0, "{name}: memory alone is used");
        assert!(is_failing(&proxy), "{name}");
        user(&server, name, &[grant]);
        proxy.wait_for_log(": works again");
        let mut number = 0;
        wait_until("it is used", || {
            number += 1;
            proxy.get(&format!("/b?{number}"));
            stored(&server) > 0
        });
        let told = proxy.tell(&["purge", "--prefix", "/b"]);
        assert!(told.status.success() && stored(&server) == 0, "{name}: {told:?}");
        assert!(!proxy.log().contains("secret"), "{}", proxy.log());
    }
}

/// The number of failing stores, as `proxy stats` tells it.
fn is_failing(proxy: &Proxy) -> bool {
    let stats = proxy.tell(&["stats", "--json"]);
    String::from_utf8_lossy(&stats.stdout).replace(' ', "").contains("\"store_failing\":1")
}

/// The same for who loses its news while it runs, whether the server says so or not: within about a second it
/// counts as failing, and Redis is not used until news come again. Then nothing is kept that was missed.
#[test]
fn who_loses_the_news_does_not_share_until_they_are_back() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let mut rules = vec![on("POST *any*").send(200, "", "").always()];
    let losses = ["resetchannels", "-publish", "-subscribe", "deaf"];
    for loss in losses {
        rules.push(on(&format!("GET /{loss}")).send(200, FRESH, "old"));
        rules.push(on(&format!("GET /{loss}")).send(200, FRESH, "new").always());
    }
    rules.push(on("GET *any*").send(200, FRESH, "b").always());
    let origin = Origin::script(rules);
    let other = Proxy::before(&origin, &["--store", &server.url()]);
    for loss in losses {
        let path = format!("/{loss}");
        let relay = Relay::to(server.port);
        user(&server, "u", &["reset", "on", ">secret", "~*", "+@all", "allchannels"]);
        let address = format!("redis://u:secret@127.0.0.1:{}", relay.port);
        let proxy = Proxy::before(&origin, &["--store", &address]);
        assert_eq!(proxy.get(&path).body(), "old", "{loss}");
        wait_until("the other one has it", || {
            other.get_with(&path, "Cache-Control: only-if-cached\r\n").is_hit()
        });
        let begun = Instant::now();
        match loss {
            "deaf" => relay.is_deaf.store(true, Ordering::SeqCst),
            // Who listens already goes on: Redis looks at this right when somebody subscribes.
            "-subscribe" => {
                user(&server, "u", &[loss]);
                server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            _ => user(&server, "u", &[loss]),
        }
        wait_until("it is noticed", || is_failing(&proxy));
        // A second, and what a busy machine adds.
        assert!(begun.elapsed() < Duration::from_secs(3), "{loss}: {:?}", begun.elapsed());
        proxy.wait_for_log("no news on channel");
        let before = stored(&server);
        proxy.get(&format!("{path}/alone"));
        assert!(proxy.get(&format!("{path}/alone")).is_hit(), "{loss}: memory alone is used");
        assert_eq!(stored(&server), before, "{loss}: it is not stored in Redis");
        wait_until("the other one is well", || !is_failing(&other));
        other.ask("POST", &path, "", "");
        assert_eq!(other.get(&path).body(), "new", "{loss}");
        relay.is_deaf.store(false, Ordering::SeqCst);
        user(&server, "u", &["+@all", "allchannels"]);
        wait_until("it is well again", || !is_failing(&proxy));
        wait_until("what was missed is not kept", || proxy.get(&path).body() == "new");
        assert_eq!(proxy.log().matches("[WARN]").count(), 1, "{loss}: {}", proxy.log());
        assert!(proxy.log().contains(": works again"), "{loss}: {}", proxy.log());
    }
}

/// Stands between a proxy and Redis, and keeps what was published to itself while `is_deaf`: all else is answered.
struct Relay {
    port: u16,
    is_deaf: Arc<AtomicBool>,
}

impl Relay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let is_deaf = Arc::new(AtomicBool::new(false));
        let deaf = Arc::clone(&is_deaf);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let server = TcpStream::connect(("127.0.0.1", port)).expect("it runs");
                let (client_too, server_too) = (client.try_clone(), server.try_clone());
                let never = Arc::new(AtomicBool::new(false));
                thread::spawn(move || relay(client, server, &never));
                let deaf = Arc::clone(&deaf);
                let (client, server) = (client_too.expect("a copy"), server_too.expect("a copy"));
                thread::spawn(move || relay(server, client, &deaf));
            }
        });
        Self { port: own, is_deaf }
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, is_deaf: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        let is_news = bytes.windows(11).any(|window| window == b"$7\r\nmessage");
        if is_news && is_deaf.load(Ordering::SeqCst) {
            continue;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// What is removed by a proxy that is not heard any more is soon gone from the memory of the others.
#[test]
fn what_is_removed_without_a_word_is_found_out() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let mut rules = vec![on("POST /post").send(200, "", "")];
    for path in ["/post", "/url"] {
        rules.push(on(&format!("GET {path}")).send(200, FRESH, "old"));
        rules.push(on(&format!("GET {path}")).send(200, FRESH, "new").always());
    }
    let origin = Origin::script(rules);
    user(&server, "one", &["on", ">secret", "~*", "+@all", "allchannels"]);
    for path in ["/post", "/url"] {
        let one = Proxy::before(&origin, &["--store", &as_user(&server, "one")]);
        let other = Proxy::before(&origin, &["--store", &server.url()]);
        assert_eq!(one.get(path).body(), "old");
        wait_until("the other one has it", || {
            other.get_with(path, "Cache-Control: only-if-cached\r\n").is_hit()
        });
        user(&server, "one", &["-publish"]);
        if path == "/post" {
            one.ask("POST", path, "", "");
        } else {
            assert_eq!(one.tell(&["purge", path]).status.code(), Some(1));
        }
        wait_until("it has heard of it", || other.get(path).body() == "new");
        assert_eq!(one.get(path).body(), "new");
        user(&server, "one", &["+publish"]);
    }
}
