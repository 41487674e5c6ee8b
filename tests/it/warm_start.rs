//! `--warm-start`: what was used last in the store behind memory is brought into memory after a start, within a bound,
//! and nothing that may not be there.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use caching_proxy::clock::Timestamp;
use caching_proxy::policy::purging::Selector;
use caching_proxy::store::cache::{Cache, LoadBounds};
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use rusqlite::Connection;

use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;
use super::support::stored::{at, contents, put, response};
use super::support::{PATIENCE, TemporaryFolder, pause};

const LIMITS: DiskLimits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 16 << 20 };
const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 16 << 20, responses: None, content_bytes: 1 << 20 };
const ALL: LoadBounds = LoadBounds { bytes: 8 << 20, responses: None };

fn open(path: &Path) -> Arc<Cache> {
    let backing = Sqlite::open(path, LIMITS).expect("a store");
    let memory = store(Eviction::S3Fifo, MEMORY);
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 4 << 20, false).expect("a thread"))
}

/// A file with so many responses of so many bytes, which are fresh until second 1,000.
fn fill(path: &Path, count: usize, bytes: usize) {
    let store = open(path);
    for number in 0..count {
        put(
            &store,
            &format!("http://o/{number}"),
            response(None, &vec![number as u8; bytes], 1000),
        );
        if number % 64 == 0 {
            assert!(store.flush(PATIENCE));
        }
    }
    assert!(store.close(PATIENCE));
}

/// Which of the responses `0..count` memory has.
fn in_memory(store: &Cache, count: usize) -> Vec<usize> {
    let is_here = |number: &usize| store.look_at(&format!("http://o/{number}")).is_some();
    (0..count).filter(is_here).collect()
}

fn load(store: &Cache, bounds: LoadBounds) {
    store.load(bounds, || at(0), |_| true);
}

fn statistic(proxy: &Proxy, name: &str) -> u64 {
    let told = proxy.tell(&["stats", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    told[name].as_u64().expect(name)
}

#[test]
fn after_a_restart_hits_come_from_memory() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = format!("sqlite:{}", path.display());
    let origin = Origin::script([]);
    let text = |number: usize| format!("{number} ").repeat(number * 20);
    for number in 0..40 {
        let fields = "Cache-Control: max-age=600";
        origin.add(on(&format!("GET /{number}")).send(200, fields, &text(number)));
    }
    let mut first = Proxy::before(&origin, &["--store", &store]);
    for number in 0..40 {
        first.get(&format!("/{number}"));
    }
    first.stop();
    let mut cold = Proxy::before(&origin, &["--store", &store, "--warm-start", "off"]);
    let counts = ["store_loading", "store_loaded", "memory_responses", "store_responses"];
    assert_eq!(counts.map(|name| statistic(&cold, name)), [0, 0, 0, 40]);
    cold.stop();
    let warm = Proxy::before(&origin, &["--store", &store]);
    let deadline = Instant::now() + PATIENCE;
    while statistic(&warm, "store_loading") == 1 {
        assert!(Instant::now() < deadline, "it never ends");
        pause();
    }
    assert_eq!(counts.map(|name| statistic(&warm, name)), [0, 40, 40, 40]);
    // The store has nothing any more that could be found.
    Connection::open(&path)
        .expect("it")
        .execute("UPDATE responses SET state = 2", [])
        .expect("rows");
    for number in 0..40 {
        let reply = warm.get(&format!("/{number}"));
        assert!(reply.is_hit() && reply.body() == text(number), "{number}");
    }
    origin.assert_finished();
}

#[test]
fn what_was_reused_and_used_last_is_loaded_within_the_bounds() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    fill(&path, 1200, 1000);
    let shell = Connection::open(&path).expect("a database");
    // The later the number, the longer unused; every third was reused.
    let text = "UPDATE responses SET used = used - substr(url, 10), hits = substr(url, 10) % 3 = 0";
    shell.execute(text, []).expect("rows");
    let sizes =
        [ALL, LoadBounds { responses: Some(700), ..ALL }, LoadBounds { bytes: 400_000, ..ALL }];
    for bounds in sizes {
        let store = open(&path);
        load(&store, bounds);
        let (usage, loaded) = (store.usage(), in_memory(&store, 1200));
        let told = usage.backing.expect("a store");
        assert_eq!((told.loaded, told.is_loading), (loaded.len() as u64, false));
        assert!(usage.memory.bytes <= bounds.bytes, "{bounds:?}: {usage:?}");
        let expected = match bounds {
            LoadBounds { responses: Some(most), .. } => most as usize,
            LoadBounds { bytes: 400_000, .. } => loaded.len().clamp(100, 399),
            _ => 1200,
        };
        let reused = (0..1200).filter(|number| number % 3 == 0);
        let others = (0..1200).filter(|number| number % 3 != 0);
        let mut first: Vec<_> = reused.chain(others).take(expected).collect();
        first.sort_unstable();
        // Within a look for some keys, what comes first is not said.
        let wrong = first.iter().filter(|number| !loaded.contains(number)).count();
        assert!(loaded.len() == expected && wrong <= 256, "{bounds:?}: {wrong} of {expected}");
        assert!(store.close(PATIENCE));
    }
}

#[test]
fn what_is_stale_large_or_replaced_is_not_loaded() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path);
    put(&store, "http://o/0", response(None, b"good", 1000));
    put(&store, "http://o/1", response(None, b"stale", 5));
    put(&store, "http://o/2", response(None, &vec![0; 65_537], 1000));
    put(&store, "http://o/3", response(None, &vec![3; 65_536], 1000));
    for language in ["en", "de"] {
        put(&store, "http://o/4", response(Some(language), language.as_bytes(), 1000));
    }
    put(&store, "http://o/5", response(None, b"old", 1000));
    assert!(store.close(PATIENCE));
    let store = open(&path);
    // A request has brought something newer.
    put(&store, "http://o/5", response(None, b"new", 1000));
    store.load(ALL, || at(5), |_| true);
    assert_eq!(in_memory(&store, 6), [0, 3, 4, 5]);
    assert_eq!(store.look_at("http://o/4").expect("both").len(), 2);
    assert_eq!(contents(&store, "http://o/5"), [&b"new"[..]]);
    assert!(store.close(PATIENCE));
}

/// Between the choice of what is loaded and each look for it: by this process, and by another one.
#[test]
fn what_is_purged_while_memory_is_filled_stays_out() {
    const COUNT: usize = 600;
    for by_another in [false, true] {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        fill(&path, COUNT, 10);
        let (store, other) = (open(&path), open(&path));
        let mut looks = 0;
        let mut purged = Vec::new();
        store.load(
            ALL,
            || at(0),
            |_| {
                looks += 1;
                // One that was not loaded so far.
                let missing = (0..COUNT).find(|number| {
                    !purged.contains(number)
                        && store.look_at(&format!("http://o/{number}")).is_none()
                });
                if let Some(number) = missing {
                    let selector = Selector::Uri(format!("http://o/{number}"));
                    let purger = if by_another { &other } else { &store };
                    assert_eq!(purger.forget(&selector, Timestamp::MAX).owed_by, None);
                    purged.push(number);
                }
                true
            },
        );
        assert!(looks >= COUNT / 32 && purged.len() > 5, "{looks} {purged:?}");
        let loaded = in_memory(&store, COUNT);
        assert!(purged.iter().all(|number| !loaded.contains(number)), "{by_another}");
        assert_eq!(loaded.len() + purged.len(), COUNT);
        assert!(store.close(PATIENCE) && other.close(PATIENCE));
    }
}

#[test]
fn the_end_of_the_store_ends_the_load() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    fill(&path, 300, 10);
    let store = open(&path);
    store.note_load(true);
    assert!(store.usage().backing.expect("a store").is_loading);
    let mut looks = 0;
    store.load(
        ALL,
        || at(0),
        |_| {
            looks += 1;
            store.close(PATIENCE)
        },
    );
    assert_eq!(looks, 1);
    assert!(!store.usage().backing.expect("a store").is_loading);
    assert!(in_memory(&store, 300).len() <= 32);
}
