//! The store on disk, by itself and behind the real binary: what it survives, what it never gives out, and
//! how much room it takes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::store::Put;
use caching_proxy::store::backing::Backing;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use rusqlite::Connection;

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{Proxy, command, run};
use super::support::stored::{
    at, clear, content, contents, put, recall, response, stored, variants,
};
use super::support::{PATIENCE, TemporaryFolder};

const LIMITS: DiskLimits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 16 << 20 };
/// Next to nothing stays in memory.
const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 8 << 20, responses: Some(1), content_bytes: 8 << 20 };

fn open(path: &Path, limits: DiskLimits) -> Arc<Cache> {
    let backing = Sqlite::open(path, limits).expect("a store");
    let memory = store(Eviction::Lru, MEMORY);
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 1 << 20, false).expect("a thread"))
}

fn close(store: &Arc<Cache>) {
    assert!(store.close(PATIENCE));
}

/// The file, its log, and what is beside them.
fn disk_bytes(path: &Path) -> u64 {
    let length = |ending: &str| {
        fs::metadata(format!("{}{ending}", path.display())).map_or(0, |found| found.len())
    };
    length("") + length("-wal")
}

#[test]
fn what_is_stored_is_there_after_a_restart_and_readable_for_people() {
    let folder = TemporaryFolder::new();
    let path = folder.file("new/folders/cache.db");
    let first = open(&path, LIMITS);
    put(&first, "http://o/a", response(Some("en"), b"hello", 1_000));
    put(&first, "http://o/large", response(None, &vec![7; 300_000], 2_000));
    close(&first);
    assert!(
        !fs::exists(folder.file("new/folders/cache.db-wal")).expect("a folder"),
        "all in one file"
    );
    let folder_mode = fs::metadata(folder.file("new/folders")).expect("it is there").permissions();
    assert_eq!(folder_mode.mode() & 0o777, 0o700, "for nobody else");
    let shell = Connection::open(&path).expect("a database");
    let row: (String, String, u16, i64, i64, i64, String) = shell
        .query_row(
            "SELECT method, url, status, stored, expires, size, selecting FROM responses WHERE size = 5",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?)),
        )
        .expect("a row");
    let expires = at(1_000).seconds().cast_signed();
    let expected =
        ("GET".into(), "http://o/a".into(), 200, 0, expires, 5, "accept-language: en".into());
    assert_eq!(row, expected);
    drop(shell);
    let second = open(&path, LIMITS);
    assert_eq!(contents(&second, "http://o/a"), ["hello"]);
    assert_eq!(contents(&second, "http://o/large"), [vec![7; 300_000]]);
    assert_eq!(variants(&second, "http://o/a")[0].fresh_until, at(1_000));
}

/// `--cache-disk` bounds the file and its log together, at every moment.
#[test]
fn the_disk_is_bounded_under_churn_and_given_back() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let limits = DiskLimits { bytes: 8 << 20, ..LIMITS };
    let store = open(&path, limits);
    let mut highest = 0;
    for number in 0..3_000_usize {
        put(
            &store,
            &format!("http://o/{number}"),
            response(None, &vec![number as u8; number * 37 % 60_000], 9),
        );
        highest = highest.max(disk_bytes(&path));
        if number % 100 == 0 {
            assert!(store.flush(PATIENCE));
        }
    }
    assert!(stored(&store) > 50, "{}", stored(&store));
    assert!(highest <= limits.bytes, "{highest}");
    assert!(highest > limits.bytes / 2, "{highest}: the room is used");
    let usage = store.usage().backing.expect("there is one").usage.expect("it works");
    assert!(usage.evicted > 1_000, "{usage:?}");
    clear(&store);
    close(&store);
    // Little by little, whenever there is nothing else to do; or at the next start.
    let backing = Sqlite::open(&path, limits).expect("a store");
    for _ in 0..1_000 {
        backing.tidy();
    }
    assert!(disk_bytes(&path) < 1 << 20, "{}", disk_bytes(&path));
}

#[test]
fn the_least_recently_used_goes_first() {
    let folder = TemporaryFolder::new();
    let limits = DiskLimits { responses: Some(3), ..LIMITS };
    let store = open(&folder.file("cache.db"), limits);
    for key in ["a", "b", "c"] {
        put(&store, key, response(None, key.as_bytes(), 9));
        assert_eq!(
            stored(&store),
            ["a", "b", "c"].iter().position(|other| *other == key).expect("one") as u64 + 1
        );
    }
    // Times are whole seconds: what was used in the same one goes in the order it came.
    let shell = Connection::open(folder.file("cache.db")).expect("a database");
    shell.execute("UPDATE responses SET used = used - 10", []).expect("rows");
    let first = variants(&store, "a")[0].clone();
    store.touch("a", &first);
    put(&store, "d", response(None, b"d", 9));
    let kept = ["a", "b", "c", "d"].map(|key| contents(&store, key).len());
    assert_eq!(kept, [1, 0, 1, 1]);
    assert_eq!(stored(&store), 3);
}

#[test]
fn damaged_content_is_never_given_out() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path, LIMITS);
    let changes = [
        "UPDATE contents SET content = zeroblob(length(content)) WHERE id = (SELECT max(id) FROM contents)",
        "UPDATE contents SET content = substr(content, 1, 10) WHERE id = (SELECT max(id) FROM contents)",
        "DELETE FROM contents WHERE id = (SELECT max(id) FROM contents)",
        "UPDATE contents SET content = (SELECT content FROM contents LIMIT 1), \
         checksum = (SELECT checksum FROM contents LIMIT 1) WHERE id = (SELECT max(id) FROM contents)",
        "UPDATE responses SET head = zeroblob(100)",
        "UPDATE responses SET url = 'other'",
    ];
    for change in changes {
        put(
            &store,
            "key",
            response(None, &(0..100_000_u32).map(|number| number as u8).collect::<Vec<_>>(), 9),
        );
        put(&store, "evicts", response(None, b"", 9));
        store.flush(PATIENCE);
        Connection::open(&path).expect("a database").execute(change, []).expect(change);
        for key in ["key", "other"] {
            for found in variants(&store, key) {
                let key = CacheKey::from(key);
                let brought = store.bring(&key, &found, &store.note(&key));
                assert!(brought.is_none(), "{change}: {:?}", brought.map(|found| content(&found)));
            }
        }
        clear(&store);
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_begun_anew() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let mut rubbish = b"SQLite format 3\0".to_vec();
    rubbish.resize(100_000, 0x55);
    fs::write(&path, rubbish).expect("a file");
    let store = open(&path, LIMITS);
    assert_eq!(fs::metadata(folder.file("cache.db.damaged")).expect("it is kept").len(), 100_000);
    for number in 0..50 {
        put(&store, &number.to_string(), response(None, &[1; 5_000], 9));
    }
    assert_eq!(stored(&store), 50);
    close(&store);
    // All pages but the first are overwritten: it opens, and then turns out to be damaged.
    let length = fs::metadata(&path).expect("it is there").len() as usize;
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[4096..length].fill(0xAA);
    fs::write(&path, bytes).expect("it can be written");
    let store = open(&path, LIMITS);
    for number in 0..50 {
        let recalled = recall(&store, &number.to_string());
        assert!(recalled.unwrap_or_default().is_empty(), "nothing damaged is given out");
    }
    // The next thing to write makes it anew; what is owed is forgotten then.
    let deadline = std::time::Instant::now() + PATIENCE;
    while contents_or_nothing(&store, "new") != ["new"] {
        assert!(std::time::Instant::now() < deadline, "it works again");
        put(&store, "new", response(None, b"new", 9));
        store.flush(PATIENCE);
    }
}

fn contents_or_nothing(store: &Arc<Cache>, key: &str) -> Vec<Bytes> {
    recall(store, key).unwrap_or_default().iter().map(|found| content(found)).collect()
}

#[test]
fn a_file_that_is_not_ours_or_newer_is_left_alone() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([]);
    let refused = |path: &Path, expected: &str| {
        let before = fs::read(path).expect("it is there");
        let store = format!("sqlite:{}", path.display());
        let output = run(&["--origin", &origin.url(), "--port", "0", "--store", &store]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(expected) && told.trim().lines().count() == 1, "{told}");
        assert_eq!(fs::read(path).expect("it is still there"), before);
    };
    let foreign = folder.file("photos.db");
    let photos = Connection::open(&foreign).expect("a database");
    photos.execute_batch("CREATE TABLE photos (name TEXT)").expect("a table");
    drop(photos);
    refused(&foreign, "a database of another program; choose another path");
    let newer = folder.file("newer.db");
    close(&open(&newer, LIMITS));
    Connection::open(&newer)
        .expect("a database")
        .pragma_update(None, "user_version", 99)
        .expect("a version");
    refused(&newer, "written by a newer version of this program (schema 99, this one knows 2)");
    let output = run(&["--port", "0", "--store", "sqlite:/dev/null/cache.db"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), told.contains("choose another path")),
        (Some(1), true),
        "{told}"
    );
}

fn store_flag(folder: &TemporaryFolder) -> String {
    format!("sqlite:{}", folder.file("cache.db").display())
}

#[test]
fn hits_last_over_restarts_even_offline() {
    let folder = TemporaryFolder::new();
    let store = store_flag(&folder);
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=600; ETag: \"1\"", "hello"),
        on("GET /b").send(200, "Cache-Control: max-age=600; Age: 600; ETag: \"2\"", "stale"),
        on("GET /b").having("If-None-Match: \"2\"").send(304, "Cache-Control: max-age=600", ""),
    ]);
    let mut first = Proxy::before(&origin, &["--store", &store]);
    assert!(!first.get("/a").is_hit() && first.get("/a").is_hit());
    assert_eq!(first.get("/b").body(), "stale");
    first.stop();
    let mut second = Proxy::before(&origin, &["--store", &store]);
    let hit = second.get("/a");
    assert_eq!((hit.is_hit(), hit.body().as_str()), (true, "hello"));
    assert!(hit.cache_status().starts_with("proxy; hit; ttl="), "{}", hit.cache_status());
    assert_eq!(
        second.get("/b").cache_status(),
        "proxy; fwd=stale; fwd-status=304; ttl=600; stored"
    );
    assert!(second.get("/b").is_hit());
    second.stop();
    origin.assert_finished();
    let offline = Proxy::before(&origin, &["--store", &store, "--cache-mode", "offline"]);
    assert_eq!(
        (offline.get("/a").body().as_str(), offline.get("/b").body().as_str()),
        ("hello", "stale")
    );
    assert_eq!(offline.get("/c").status, 504);
    assert!(offline.get_with("/a", "Cache-Control: only-if-cached\r\n").is_hit());
}

/// A body many times larger than memory goes in and out piece by piece, to several clients, and is
/// fetched once.
#[test]
fn a_body_larger_than_memory_is_stored_and_served() {
    const PIECES: usize = 3_000;
    let folder = TemporaryFolder::new();
    let gate = Gate::new();
    let piece: Vec<u8> = (0..10_000_u32).map(|number| (number % 253) as u8).collect();
    let origin = Origin::script([on("GET /large")
        .head(200, &format!("Cache-Control: max-age=600; Content-Length: {}", PIECES * piece.len()))
        .then(Step::Repeat(piece.clone(), PIECES / 2))
        .wait(&gate)
        .then(Step::Repeat(piece.clone(), PIECES / 2))]);
    let flags = ["--store", &store_flag(&folder), "--cache-memory", "4M"];
    let mut proxy = Proxy::before(&origin, &flags);
    let expected = piece.repeat(PIECES);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| proxy.get("/large"));
        // Somebody comes when the beginning is in memory no more, and reads along.
        let mut late = proxy.connect();
        let path = folder.file("cache.db");
        wait_until(|| disk_bytes(&path) > 5_000_000);
        late.request("GET", "/large", "", "");
        let head = late.head().expect("a head");
        assert!(head.field("cache-status").contains("collapsed"), "{}", head.text);
        gate.open();
        let mut all = vec![0; expected.len()];
        std::io::Read::read_exact(&mut late.stream, &mut all).expect("all of it");
        assert!(all == expected, "what is read along is the same");
        let first = first.join().expect("no panic");
        assert!(first.complete && first.content == expected);
    });
    let hit = proxy.get("/large");
    assert!(hit.is_hit() && hit.content == expected);
    let ranged = proxy.get_with("/large", "Range: bytes=9999-10001,20000000-20000009\r\n");
    assert_eq!(ranged.status, 206);
    let text = String::from_utf8_lossy(&ranged.content).into_owned();
    assert!(text.contains("Content-Range: bytes 20000000-20000009/30000000"), "{text}");
    let one = proxy.get_with("/large", "Range: bytes=29999990-\r\n");
    assert_eq!((one.status, &one.content[..]), (206, &expected[29_999_990..]));
    let (_, most) = proxy.memory_kib();
    assert!(most < 40_000, "{most} KiB for a body of 30 MB");
    origin.assert_finished();
    proxy.stop();
    let restarted = Proxy::before(&origin, &flags);
    let hit = restarted.get("/large");
    assert!(hit.is_hit() && hit.content == expected);
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "it does not happen");
        super::support::pause();
    }
}

/// Of a body that is cut short nothing is left.
#[test]
fn a_large_body_that_is_cut_short_is_not_stored() {
    let folder = TemporaryFolder::new();
    let piece = vec![1; 100_000];
    let cut = |target: &str, fields: &str| {
        on(target).head(200, fields).then(Step::Repeat(piece.clone(), 50)).close()
    };
    let origin = Origin::script([
        cut("GET /length", "Cache-Control: max-age=600; Content-Length: 10000000"),
        cut("GET /length", "Cache-Control: max-age=600; Content-Length: 10000000"),
    ]);
    let mut proxy =
        Proxy::before(&origin, &["--store", &store_flag(&folder), "--cache-memory", "1M"]);
    for _ in 0..2 {
        let reply = proxy.get("/length");
        assert!(!reply.complete && !reply.is_hit());
    }
    proxy.stop();
    let shell = Connection::open(folder.file("cache.db")).expect("a database");
    let rows: (u64, u64) = shell
        .query_row(
            "SELECT (SELECT count(*) FROM responses), (SELECT count(*) FROM contents)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("rows");
    assert_eq!(rows, (0, 0));
}

/// kill -9 at any moment: the file opens, and whatever is in it is whole.
#[test]
fn after_kill_9_what_is_there_is_whole() {
    let folder = TemporaryFolder::new();
    let store = store_flag(&folder);
    let rules = (0..40).map(|number| {
        let body = format!("{number:03}").repeat(1 + number * 997 % 60_000);
        on(&format!("GET /{number}")).send(200, "Cache-Control: max-age=600", &body).always()
    });
    let origin = Origin::script(rules);
    let check = |number: usize, reply: &support::wire::Reply| {
        let expected = format!("{number:03}").repeat(1 + number * 997 % 60_000);
        assert!(!reply.complete || reply.body() == expected, "{number}");
    };
    for round in 0..8 {
        let flags = ["--store", &store, "--cache-memory", "1M", "--cache-disk", "2M"];
        let mut proxy = Proxy::before(&origin, &flags);
        for number in 0..(round + 1) * 7 {
            let number = (number * 7 + round) % 40;
            check(number, &proxy.get(&format!("/{number}")));
        }
        proxy.signal("-KILL");
        let _ = proxy.wait();
        let shell = Connection::open(folder.file("cache.db")).expect("a database");
        let found: String =
            shell.pragma_query_value(None, "integrity_check", |row| row.get(0)).expect("an answer");
        assert_eq!(found, "ok");
    }
    let offline = Proxy::before(&origin, &["--store", &store, "--cache-mode", "offline"]);
    let mut hits = 0;
    for number in 0..40 {
        let reply = offline.get(&format!("/{number}"));
        if reply.status == 200 {
            assert!(reply.complete);
            check(number, &reply);
            hits += 1;
        }
    }
    assert!(hits > 5, "{hits} of 40");
}

/// A limit on the size of files stands for a full disk: writing fails, and everything else goes on.
#[test]
fn a_full_disk_costs_nothing_but_what_is_not_stored() {
    let folder = TemporaryFolder::new();
    let body = "x".repeat(50_000);
    let rules = (0..60).map(|number| {
        on(&format!("GET /{number}")).send(200, "Cache-Control: max-age=600", &body).always()
    });
    let origin = Origin::script(rules);
    let mut shell = command_with_limit(512);
    shell.args([
        "--origin",
        &origin.url(),
        "--store",
        &store_flag(&folder),
        "--cache-memory",
        "1M",
    ]);
    let proxy = Proxy::start_as(shell);
    for number in 0..60 {
        let reply = proxy.get(&format!("/{number}"));
        assert_eq!((reply.status, reply.body() == body), (200, true), "{number}");
    }
    assert!(proxy.get("/59").is_hit(), "memory works");
    proxy.wait_for_log("nothing is written to it until it works again");
    assert!(proxy.log().matches("[WARN]").count() <= 2, "{}", proxy.log());
    assert!(disk_bytes(&folder.file("cache.db")) <= 1 << 20);
}

/// The binary, which may not write files of more than so many KiB.
fn command_with_limit(kib: u32) -> std::process::Command {
    let mut shell = command_named("sh");
    // The signal that goes with the limit is ignored, so that writing gives an error.
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_proxy")]);
    shell
}

fn command_named(program: &str) -> std::process::Command {
    support::proxy::command_of(program)
}

#[test]
fn a_store_that_cannot_be_written_is_read() {
    let folder = TemporaryFolder::new();
    let store = store_flag(&folder);
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=600", "hello"),
        on("GET /b").send(200, "Cache-Control: max-age=600", "new"),
        on("POST /a").send(200, "", ""),
        on("GET /a").send(200, "Cache-Control: max-age=600", "later"),
    ]);
    let mut first = Proxy::before(&origin, &["--store", &store]);
    first.get("/a");
    first.stop();
    let modes = [(folder.file("cache.db"), 0o444), (folder.path().to_path_buf(), 0o555)];
    for (path, mode) in &modes {
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).expect("they are ours");
    }
    let mut unprivileged = command();
    // Root may write everywhere.
    if fs::metadata(folder.path()).expect("it is there").uid() == 0 {
        unprivileged.uid(65_534).gid(65_534);
    }
    unprivileged.args(["--origin", &origin.url(), "--store", &store]);
    let proxy = Proxy::start_as(unprivileged);
    assert!(
        proxy.log().contains("cannot be written; what is in it is used as it is"),
        "{}",
        proxy.log()
    );
    assert!(proxy.get("/a").is_hit());
    assert!(!proxy.get("/b").is_hit() && proxy.get("/b").is_hit(), "memory works");
    proxy.ask("POST", "/a", "", "");
    assert_eq!(proxy.get("/a").body(), "later", "what is removed does not come back");
    drop(proxy);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
fn two_proxies_can_use_one_file() {
    let folder = TemporaryFolder::new();
    let store = store_flag(&folder);
    let origin = Origin::script((0..20).flat_map(|number| {
        let target = format!("/{number}");
        [on(&format!("GET {target}")).send(200, "Cache-Control: max-age=600", &target)]
    }));
    let mut first = Proxy::before(&origin, &["--store", &store]);
    let second = Proxy::before(&origin, &["--store", &store]);
    for number in 0..20 {
        let (asked, other) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let target = format!("/{number}");
        assert!(!asked.get(&target).is_hit());
        // The other one finds it as soon as it is written, which is soon.
        let path = folder.file("cache.db");
        let shell = Connection::open(&path).expect("a database");
        wait_until(|| {
            let text = "SELECT count(*) FROM responses WHERE url LIKE '%' || ?1";
            shell.query_row(text, [&target], |row| row.get::<_, u64>(0)).is_ok_and(|rows| rows > 0)
        });
        let hit = other.get(&target);
        assert!(hit.is_hit() && hit.body() == target);
    }
    first.stop();
    assert!(second.get("/0").is_hit());
    origin.assert_finished();
}

#[test]
fn a_file_that_is_taken_away_is_made_anew() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path, LIMITS);
    put(&store, "a", response(None, b"a", 9));
    assert_eq!(contents(&store, "a"), ["a"]);
    fs::remove_file(&path).expect("it is there");
    put(&store, "b", response(None, b"b", 9));
    assert_eq!(contents(&store, "b"), ["b"]);
    assert!(fs::exists(&path).expect("a folder"));
    assert!(contents(&store, "a").is_empty());
}

/// What one process clears while another has a response on its way is not stored by that.
#[test]
fn a_clear_in_another_process_cannot_be_undone_by_what_was_on_its_way() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let (one, other) = (open(&path, LIMITS), open(&path, LIMITS));
    let key = CacheKey::from("a");
    for remove in [
        |store: &Arc<Cache>| clear(store),
        |store: &Arc<Cache>| store.invalidate(&CacheKey::from("a"), None),
    ] {
        let begun = support::stored::begun(&one, &key);
        remove(&other);
        other.flush(PATIENCE);
        // It is in this one's memory, as far as that goes, and no further.
        assert_eq!(one.put(&key, response(None, b"old", 9), &begun), Put::Stored);
        assert!(contents(&one, "a").is_empty() && contents(&other, "a").is_empty());
    }
}

#[test]
fn what_a_dead_process_left_half_way_is_removed() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    close(&open(&path, LIMITS));
    let shell = Connection::open(&path).expect("a database");
    let insert = "INSERT INTO responses (method, url, status, state, stored, used, hits, size, salt, fields, head) \
                  VALUES ('GET', 'u', 0, ?1, 0, ?2, 0, 0, 0, '', x'')";
    for state in [0, 2] {
        shell.execute(insert, (state, 1)).expect("a row");
        shell
            .execute("INSERT INTO contents VALUES (last_insert_rowid() * 1048576, 0, x'00')", [])
            .expect("a row");
    }
    let store = open(&path, LIMITS);
    store.sweep(Timestamp::from_seconds(5));
    assert_eq!(stored(&store), 0);
    let left: u64 = shell
        .query_row(
            "SELECT (SELECT count(*) FROM responses) + (SELECT count(*) FROM contents)",
            [],
            |row| row.get(0),
        )
        .expect("a number");
    assert_eq!(left, 0);
}

/// What is removed while somebody reads it is read to its end.
#[test]
fn what_is_removed_while_it_is_read_is_read_to_its_end() {
    let folder = TemporaryFolder::new();
    let store = open(&folder.file("cache.db"), LIMITS);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 249) as u8).collect();
    put(&store, "a", response(None, &bytes, 9));
    let found = variants(&store, "a")[0].clone();
    clear(&store);
    assert!(contents(&store, "a").is_empty());
    put(&store, "a", response(None, b"new", 9));
    assert_eq!(contents(&store, "a"), ["new"]);
    assert!(content(&found) == bytes);
}
