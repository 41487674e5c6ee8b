//! Credentials that select among variants are kept as digests, wherever that is. RFC 9111 §4.1.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use rusqlite::Connection;

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::Proxy;
use super::support::redis::{Server, programs};
use super::support::stored::{put, response, stored};
use super::support::{PATIENCE, TemporaryFolder};

const SECRETS: [(&str, &str); 2] = [("alice", "s3cret-of-alice"), ("bob", "s3cret-of-bob")];
const FIELDS: [&str; 5] = ["Authorization", "Cookie", "X-API-Key", "PRIVATE-TOKEN", "X-Tenant-Id"];

/// Each of the two gets a response of its own, once.
fn answers() -> impl Iterator<Item = Rule> {
    FIELDS.into_iter().flat_map(|name| {
        SECRETS.map(|(who, secret)| {
            let fields = format!("Cache-Control: max-age=600, public; Vary: {name}");
            on(&format!("GET /{name}")).having(&format!("{name}: {secret}")).send(
                200,
                &fields,
                &format!("for {who}"),
            )
        })
    })
}

/// Both ask for everything, by turns; were the answers hits?
fn all_ask(proxy: &Proxy, rounds: usize) -> Vec<bool> {
    let mut hits = Vec::new();
    for _ in 0..rounds {
        for name in FIELDS {
            for (who, secret) in SECRETS {
                let reply = proxy.get_with(&format!("/{name}"), &format!("{name}: {secret}\r\n"));
                assert_eq!(reply.body(), format!("for {who}"), "{name}");
                hits.push(reply.is_hit());
            }
        }
    }
    hits
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"s3cret")
}

/// All files in a folder and below.
fn assert_clean(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            assert_clean(&path);
        } else if let Ok(bytes) = fs::read(&path) {
            assert!(!holds_secret(&bytes), "{} holds a secret", path.display());
        }
    }
}

#[test]
fn the_file_the_logs_and_the_control_interface_hold_no_credentials() {
    let folder = TemporaryFolder::new();
    let file = |name: &str| folder.file(name).display().to_string();
    let store_flag = format!("sqlite:{}", file("cache.db"));
    let (log, har) = (file("access.log"), file("all.har"));
    let flags = ["--store", &store_flag, "--access-log", &log, "--log-level", "debug"];
    let origin = Origin::script(answers());
    let mut proxy = Proxy::before(&origin, &flags);
    let hits = all_ask(&proxy, 2);
    let (first, second) = hits.split_at(hits.len() / 2);
    assert!(first.iter().all(|hit| !hit) && second.iter().all(|hit| *hit), "{hits:?}");
    for words in
        [&["list"][..], &["list", "--json"], &["show", "/Cookie"], &["show", "/Cookie", "--json"]]
    {
        let told = proxy.tell(words);
        assert!(told.status.success() && !holds_secret(&told.stdout), "{words:?}");
    }
    let shown = String::from_utf8_lossy(&proxy.tell(&["show", "/Cookie"]).stdout).into_owned();
    assert_eq!(shown.matches("made for          cookie: digest:").count(), 2, "{shown}");
    for flags in [&["export", &har][..], &["export", &har, "--with-secrets"]] {
        assert!(proxy.tell(flags).status.success());
        assert!(!holds_secret(&fs::read(&har).expect("it is there")), "{flags:?}");
    }
    // While it runs there is a write-ahead log.
    assert_clean(folder.path());
    let (_, _, told) = proxy.stop();
    assert!(!holds_secret(told.as_bytes()), "{told}");
    assert_clean(folder.path());
    // The salt lasts as long as what is stored.
    let again = Proxy::before(&origin, &flags);
    assert!(all_ask(&again, 1).iter().all(|hit| *hit));
    origin.assert_finished();
}

#[test]
fn redis_holds_no_credentials_and_all_proxies_agree_on_the_digests() {
    for program in programs() {
        let server = Server::start(program);
        let origin = Origin::script(answers());
        let flags = ["--store", &server.url(), "--log-level", "debug"];
        let (one, two) = (Proxy::before(&origin, &flags), Proxy::before(&origin, &flags));
        assert!(all_ask(&one, 1).iter().all(|hit| !hit));
        // What one has stored the other finds, as soon as it is written.
        let deadline = Instant::now() + PATIENCE;
        while origin.asked().len() < 2 * FIELDS.len() || entries(&server).len() < FIELDS.len() {
            assert!(Instant::now() < deadline, "it is not written");
        }
        drop(one);
        assert!(all_ask(&two, 2).iter().all(|hit| *hit));
        let late = Proxy::before(&origin, &flags);
        assert!(all_ask(&late, 1).iter().all(|hit| *hit));
        origin.assert_finished();
        for key in keys(&server) {
            let dumped = format!("{:?}", server.ask(&["DUMP", &key]));
            let value = match text(&server.ask(&["TYPE", &key])).as_str() {
                "hash" => server.ask(&["HGETALL", &key]),
                "string" => server.ask(&["GET", &key]),
                other => panic!("{key} is a {other}"),
            };
            let value = format!("{value:?}");
            // Bytes are shown as a list of numbers: "s3cret" is this.
            let shown = format!("{:?}", b"s3cret");
            let shown = shown.trim_matches(['[', ']']);
            for text in [&dumped, &value] {
                assert!(!text.contains("s3cret") && !text.contains(shown), "{key}: {text}");
            }
        }
        for proxy in [&two, &late] {
            assert!(!proxy.log().contains("s3cret"), "{}", proxy.log());
        }
    }
}

/// A Redis that was emptied is given the salt again that its proxies have.
#[test]
fn proxies_agree_on_the_digests_when_redis_was_emptied() {
    for program in programs() {
        let server = Server::start(program);
        let origin = Origin::script(answers());
        let url = server.url();
        let flags = ["--store", &url];
        let one = Proxy::before(&origin, &flags);
        one.get("/none");
        let salt = || text(&server.ask(&["HGET", "proxy:2:state", "salt"]));
        let before = salt();
        assert_eq!(before.len(), 64, "{before}");
        server.ask(&["FLUSHALL"]);
        assert!(all_ask(&one, 1).iter().all(|hit| !hit));
        assert_eq!(salt(), before);
    }
}

fn keys(server: &Server) -> Vec<String> {
    match server.ask(&["KEYS", "*"]) {
        redis::Value::Array(keys) => keys.iter().map(text).collect(),
        other => panic!("{other:?}"),
    }
}

/// The keys of hashes with two variants.
fn entries(server: &Server) -> Vec<String> {
    let mut keys = keys(server);
    keys.retain(|key| {
        key.starts_with("proxy:2:e") && server.ask(&["HLEN", key]) == redis::Value::Int(2)
    });
    keys
}

fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// A file from before there were digests is not kept, nor set aside: it may hold credentials.
#[test]
fn a_file_with_credentials_in_clear_is_begun_anew() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let limits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 1 << 20 };
    let open = || -> std::sync::Arc<Cache> {
        let memory = MemoryLimits { bytes: 4 << 20, responses: None, content_bytes: 1 << 20 };
        let backing = Sqlite::open(&path, limits).expect("a store");
        let memory = store(Eviction::Lru, memory);
        std::sync::Arc::new(
            Cache::with_backing(memory, std::sync::Arc::new(backing), 1 << 20, false)
                .expect("a thread"),
        )
    };
    let opened = open();
    put(&opened, "http://o/a", response(None, b"content", 1_000_000));
    assert!(opened.close(PATIENCE));
    drop(opened);
    let shell = Connection::open(&path).expect("a database");
    shell
        .execute_batch("DROP TABLE salt; UPDATE responses SET selecting = 'cookie: s3cret'; PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("an update");
    drop(shell);
    assert!(holds_secret(&fs::read(&path).expect("a file")));
    // Whoever comes first wipes it, and the others go on with what that one has made.
    let all: Vec<_> = thread::scope(|scope| {
        let opening: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        opening.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let salt = all[0].salt().expect("a salt");
    for opened in &all {
        assert_eq!(stored(opened), 0);
        assert_eq!(opened.salt().expect("a salt").bytes(), salt.bytes());
        assert!(opened.close(PATIENCE));
    }
    drop(all);
    assert_clean(folder.path());
}
