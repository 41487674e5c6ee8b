//! Where content is in the SQLite file: small content in the row of its response, all other content in rows of its own;
//! what a file has whose small content is not there; looks for several keys at a time; and uses that are worth
//! writing down.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use caching_proxy::policy::key::CacheKey;
use caching_proxy::store::backing::Backing;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::codec;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use rusqlite::{Connection, params};

use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;
use super::support::stored::{begun, contents, put, response, variants};
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

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn count(path: &Path, rows: &str) -> i64 {
    let shell = Connection::open(path).expect("a database");
    shell.query_row(&format!("SELECT count(*) FROM {rows}"), [], |row| row.get(0)).expect("a count")
}

/// Moves small content to a row of its own, where earlier versions had it.
fn move_content_out(path: &Path, key: &str, content: &[u8]) {
    let shell = Connection::open(path).expect("a database");
    let (number, salt, frame): (i64, i64, Vec<u8>) = shell
        .query_row("SELECT id, salt, head FROM responses WHERE url = ?1", [key], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .expect("a row");
    let decoded = codec::decode_row(&frame.into()).expect("it was just written");
    let head = codec::encode_head(&decoded.key, &decoded.head, decoded.length);
    let checksum = codec::checksum(salt.cast_unsigned(), 0, content);
    shell
        .execute("UPDATE responses SET head = ?2 WHERE id = ?1", params![number, head])
        .expect("it");
    shell
        .execute(
            "INSERT INTO contents VALUES (?1, ?2, ?3)",
            params![number << 20, checksum, content],
        )
        .expect("a row of its own");
}

#[test]
fn small_content_is_in_the_row_and_other_content_beside_it() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path, LIMITS);
    for (length, apart) in [(0, 0), (1, 0), (2048, 0), (2049, 1), (65_536, 1), (65_537, 2)] {
        put(&store, "key", response(None, &pattern(length), 9));
        put(&store, "evicts", response(None, b"", 9));
        assert!(store.flush(PATIENCE));
        assert_eq!(count(&path, "contents"), apart, "{length}");
        assert_eq!(contents(&store, "key"), [pattern(length)], "{length}");
    }
    close(&store);
}

#[test]
fn small_content_that_is_beside_its_row_is_found_and_freshened() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let first = open(&path, LIMITS);
    put(&first, "key", response(None, b"hello", 9));
    close(&first);
    move_content_out(&path, "key", b"hello");
    assert_eq!(count(&path, "contents"), 1);
    let second = open(&path, LIMITS);
    let found = variants(&second, "key")[0].clone();
    let key = CacheKey::from("key");
    let found = second.bring(&key, &found, &second.note(&key)).expect("its content");
    let mut head = found.head().clone();
    head.response_time.0 += 1000;
    let fresh = Arc::new(found.with(head, found.content.clone()));
    let noted = begun(&second, &key);
    second.replace(&key, &found, fresh, &noted);
    close(&second);
    assert_eq!(count(&path, "responses"), 1);
    let third = open(&path, LIMITS);
    assert_eq!(contents(&third, "key"), [&b"hello"[..]]);
    // With the response goes all of its content, wherever that is.
    assert_eq!(third.invalidate(&key, None), 0);
    close(&third);
    assert_eq!((count(&path, "responses"), count(&path, "contents")), (0, 0));
}

#[test]
fn damaged_content_in_a_row_is_never_given_out() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    for at in ["1", "length(head) - 4", "length(head)"] {
        let store = open(&path, LIMITS);
        put(&store, "key", response(None, b"hello", 9));
        close(&store);
        let shell = Connection::open(&path).expect("a database");
        let text = format!(
            "UPDATE responses SET head = CAST(substr(head, 1, {at} - 1) || x'ff' || substr(head, {at} + 1) AS BLOB)"
        );
        shell.execute(&text, []).expect("a row");
        drop(shell);
        let store = open(&path, LIMITS);
        assert!(contents(&store, "key").is_empty(), "{at}");
        close(&store);
        Connection::open(&path).expect("it").execute("DELETE FROM responses", []).expect("rows");
    }
}

#[test]
fn a_look_for_several_keys_ends_when_it_takes_long() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path, LIMITS);
    let keys: Vec<_> = (0..5).map(|number| CacheKey::from(&*format!("key {number}"))).collect();
    // The last one is not there.
    for (number, key) in keys.iter().take(4).enumerate() {
        put(&store, key.as_str(), response(None, &pattern(number * 1000), 9));
    }
    close(&store);
    let backing = Sqlite::open(&path, LIMITS).expect("a store");
    let asked: Vec<_> = keys.iter().collect();
    let now = Instant::now();
    assert_eq!(backing.recall_together(&asked, now).expect("an answer").len(), 1);
    let all = backing.recall_together(&asked, now + PATIENCE).expect("an answer");
    assert_eq!(all.len(), 5);
    for (number, recalled) in all.iter().enumerate() {
        let alone = backing.recall(asked[number], false).expect("an answer");
        assert_eq!(recalled.stamp, alone.stamp);
        let content: Vec<_> = recalled.variants.iter().map(|it| it.content.here()).collect();
        let expected: Vec<_> = alone.variants.iter().map(|it| it.content.here()).collect();
        assert_eq!(content, expected);
        assert_eq!(content.len(), usize::from(number < 4));
        assert_eq!(recalled.stamp.was_empty, number == 4);
    }
}

/// A use that would hardly move a response in the order of eviction is not written down.
#[test]
fn a_use_is_written_down_if_the_order_of_eviction_needs_it() {
    let used = |path: &Path| -> Vec<i64> {
        let shell = Connection::open(path).expect("a database");
        let mut select =
            shell.prepare("SELECT unixepoch() - used FROM responses ORDER BY url").expect("rows");
        let ages = select.query_map([], |row| row.get(0)).expect("rows");
        ages.map(|age| age.expect("a number")).collect()
    };
    // In a file that is nearly full an eighth of 8,000 s counts, in another one an hour.
    for (most, expected) in
        [(Some(3), [8000, 0, 500]), (None, [8000, 0, 500]), (Some(100), [8000, 0, 500])]
    {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        let limits = DiskLimits { responses: most, ..LIMITS };
        let store = open(&path, limits);
        for key in ["a", "b", "c"] {
            put(&store, key, response(None, key.as_bytes(), 9));
        }
        close(&store);
        let shell = Connection::open(&path).expect("a database");
        let text = "UPDATE responses SET used = used - CASE url WHEN 'a' THEN 8000 WHEN 'b' THEN ?1 ELSE 500 END";
        // Once more than the bound, once less.
        let bound = if most == Some(3) { 1000 } else { 3600 };
        for (age, is_told) in [(bound + 50, true), (bound - 50, false)] {
            shell.execute(text, [age]).expect("rows");
            let store = open(&path, limits);
            for key in ["b", "c"] {
                let found = variants(&store, key)[0].clone();
                store.touch(key, &found);
            }
            close(&store);
            let ages = used(&path);
            let near = |age: i64, expected: i64| (age - expected).abs() < 40;
            assert!(near(ages[1], if is_told { expected[1] } else { age }), "{most:?} {ages:?}");
            assert!(near(ages[2], expected[2]), "{most:?} {ages:?}");
            shell.execute("UPDATE responses SET used = unixepoch()", []).expect("rows");
        }
    }
}

/// Very many clients whose responses are all in the file: each gets its own, byte for byte, and the origin server is
/// asked for nothing but what is not there.
#[test]
fn many_clients_are_recalled_for_together() {
    const CLIENTS: usize = 64;
    let length = |number: usize| [0, 17, 2048, 2049, 70_000, 300_000][number % 6] + number;
    let text = |number: usize| -> String {
        let word = format!("{number:04} ");
        word.repeat(length(number) / word.len() + 1)[..length(number)].to_string()
    };
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = Origin::script([]);
    for number in 0..CLIENTS {
        origin.add(on(&format!("GET /{number}")).send(
            200,
            "Cache-Control: max-age=600",
            &text(number),
        ));
    }
    let mut first = Proxy::before(&origin, &["--store", &store]);
    for number in 0..CLIENTS {
        assert_eq!(first.get(&format!("/{number}")).body(), text(number));
    }
    first.stop();
    let flags =
        ["--store", &store, "--warm-start", "off", "--workers", "8", "--cache-memory", "1M"];
    let second = Proxy::before(&origin, &flags);
    for number in 0..4 {
        origin.add(on(&format!("GET /new{number}")).send(200, "Cache-Control: max-age=600", "new"));
    }
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| second.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.request("GET", &format!("/{number}"), "", "");
    }
    thread::scope(|scope| {
        for number in 0..4 {
            let second = &second;
            scope.spawn(move || {
                let reply = second.get(&format!("/new{number}"));
                assert_eq!((reply.body().as_str(), reply.is_hit()), ("new", false));
            });
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let reply = client.reply();
            assert!(reply.is_hit(), "{number}: {}", reply.cache_status());
            assert!(reply.body() == text(number), "{number}: other bytes");
        }
    });
    origin.assert_finished();
}

/// What several threads recall, put and remove at a time is what was put last, or nothing.
#[test]
fn looks_for_several_keys_go_with_changes() {
    let folder = TemporaryFolder::new();
    let store = open(&folder.file("cache.db"), LIMITS);
    let keys: Vec<_> = (0..8).map(|number| CacheKey::from(&*format!("key {number}"))).collect();
    let until = Instant::now() + Duration::from_millis(300);
    thread::scope(|scope| {
        for (number, key) in keys.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                let mut length = number;
                while Instant::now() < until {
                    put(store, key.as_str(), response(None, &vec![number as u8; length], 9));
                    if length % 3 == 0 {
                        store.invalidate(key, None);
                    }
                    length = (length + 811) % 5000;
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < until {
                let asked = keys.iter().map(|key| (key, store.note(key))).collect();
                for (number, found) in store.recall_together(asked, until).into_iter().enumerate() {
                    let Some((_, found)) = found else { continue };
                    let contents = found.variants.iter().filter_map(|it| it.content.here());
                    for content in contents {
                        assert!(content.iter().all(|byte| *byte == number as u8), "{number}");
                    }
                }
            }
        });
    });
    close(&store);
}
