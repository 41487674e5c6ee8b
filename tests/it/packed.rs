//! Content that is compressed in memory (`--cache-compress`): clients get what they would get without, byte for byte.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use serde_json::Value;

use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;
use super::support::seeded::Random;
use super::support::stored::{at, content, contents, put, response, variants};
use super::support::{PATIENCE, TemporaryFolder, pause};

const RESPONSES: usize = 100;
const FIELDS: &str = "Cache-Control: max-age=600; Content-Type: application/json; ETag: \"1\"";

/// Readable text of about that many bytes, another one for each number.
fn text(number: usize, length: usize) -> String {
    let lines = (0..).map(|line| format!("{{\"of\": {number}, \"line\": {line}}}\n"));
    lines
        .scan(0, |all, line| {
            (*all < length).then(|| {
                *all += line.len();
                line
            })
        })
        .collect()
}

/// Some short, one larger than a frame.
fn length_of(number: usize) -> usize {
    if number == 7 { 150_000 } else { 600 + number % 9 * 1_500 }
}

fn start(arguments: &[&str]) -> (Origin, Proxy) {
    let rules = (0..RESPONSES).map(|number| {
        on(&format!("GET /{number}")).send(200, FIELDS, &text(number, length_of(number))).always()
    });
    let origin = Origin::script(rules);
    let all = [&["--threads", "1"], arguments].concat();
    let proxy = Proxy::before(&origin, &all);
    (origin, proxy)
}

fn count(proxy: &Proxy, name: &str) -> u64 {
    let told = proxy.tell(&["stats", "--json"]).stdout;
    let stats: Value = serde_json::from_slice(&told).expect("JSON");
    stats[name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"))
}

/// Fills the memory until something has been compressed.
fn fill(proxy: &Proxy) {
    let deadline = Instant::now() + PATIENCE;
    (0..RESPONSES).for_each(|number| drop(proxy.get(&format!("/{number}"))));
    while count(proxy, "memory_compressed") < 10 {
        assert!(Instant::now() < deadline, "nothing is compressed");
        pause();
    }
}

#[test]
fn clients_do_not_notice() {
    let (_origin, proxy) = start(&["--cache-memory", "640K"]);
    fill(&proxy);
    for number in (0..RESPONSES).rev() {
        let (target, expected) = (format!("/{number}"), text(number, length_of(number)));
        let reply = proxy.get(&target);
        assert!(reply.complete && reply.body() == expected, "{number}: {}", reply.head.text);
        let head = proxy.ask("HEAD", &target, "", "");
        assert_eq!(head.field("content-length"), expected.len().to_string());
        let same = proxy.get_with(&target, "If-None-Match: \"1\"\r\n");
        assert_eq!((same.status, &*same.body()), (304, ""));
        for (range, from, to) in [
            ("0-99", 0, 100),
            ("500-", 500, expected.len()),
            ("-1", expected.len() - 1, expected.len()),
        ] {
            let part = proxy.get_with(&target, &format!("Range: bytes={range}\r\n"));
            assert_eq!(
                (part.status, &*part.body()),
                (206, &expected[from..to]),
                "{number} {range}"
            );
        }
        let several = proxy.get_with(&target, "Range: bytes=0-9,50-59\r\n");
        assert!(several.body().contains(&expected[50..60]), "{number}");
    }
    assert!(count(&proxy, "expanded_hits") > 0);
}

#[test]
fn operators_do_not_notice() {
    let (_origin, proxy) = start(&["--cache-memory", "640K"]);
    fill(&proxy);
    let archive = String::from_utf8(proxy.tell(&["export", "-"]).stdout).expect("text");
    let archive: Value = serde_json::from_str(&archive).expect("JSON");
    let entries = archive["log"]["entries"].as_array().expect("entries");
    assert!(entries.len() > RESPONSES / 2);
    for entry in entries {
        let url = entry["request"]["url"].as_str().expect("a URL");
        let number: usize =
            url.rsplit('/').next().and_then(|name| name.parse().ok()).expect("a number");
        assert_eq!(entry["response"]["content"]["text"], text(number, length_of(number)), "{url}");
    }
    let shown = String::from_utf8_lossy(&proxy.tell(&["show", "/5"]).stdout).into_owned();
    assert!(shown.contains(&text(5, length_of(5)).len().to_string()), "{shown}");
}

#[test]
fn more_is_stored_with_it() {
    let stored = |compress| {
        let (_origin, proxy) = start(&["--cache-memory", "256K", "--cache-compress", compress]);
        for _ in 0..3 {
            (0..RESPONSES).for_each(|number| drop(proxy.get(&format!("/{number}"))));
        }
        (count(&proxy, "memory_responses"), count(&proxy, "memory_compressed"))
    };
    let (with, without) = (stored("on"), stored("off"));
    assert!(with.0 > without.0 && with.1 > 0, "{with:?} {without:?}");
    assert_eq!(without.1, 0);
}

/// What is compressed here is written as it came.
#[test]
fn what_lasts_is_as_it_came() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.sqlite").display());
    let (origin, mut proxy) = start(&["--cache-memory", "640K", "--store", &store]);
    fill(&proxy);
    proxy.stop();
    let proxy = Proxy::before(&origin, &["--store", &store, "--cache-compress", "off"]);
    for number in 0..RESPONSES {
        let reply = proxy.get(&format!("/{number}"));
        assert!(reply.is_hit() && reply.body() == text(number, length_of(number)), "{number}");
    }
}

/// Several threads store, use, compress, expand, remove and purge: each response is its own, and the account is right.
#[test]
fn forms_change_while_they_are_used() {
    const KEYS: usize = 40;
    for (eviction, seed) in [(Eviction::Cost, 1), (Eviction::S3Fifo, 2), (Eviction::Lru, 3)] {
        let limits = MemoryLimits { bytes: 200_000, responses: None, content_bytes: 1 << 20 };
        let cache = Arc::new(Cache::in_memory(store(eviction, limits)).compressing_by_hand());
        thread::scope(|scope| {
            for thread in 0..3 {
                let cache = &cache;
                scope.spawn(move || change(cache, &mut Random::new(seed * 10 + thread), KEYS));
            }
        });
        for number in 0..KEYS {
            for content in contents(&cache, &number.to_string()) {
                assert_eq!(content, text(number, length_of(number)), "{eviction:?}");
            }
            cache.invalidate(&CacheKey::from(&*number.to_string()), None);
        }
        assert_eq!(
            (cache.usage().memory.responses, cache.usage().memory.bytes),
            (0, 0),
            "{eviction:?}"
        );
        assert!(cache.usage().packed > 0);
    }
}

fn change(cache: &Arc<Cache>, random: &mut Random, keys: usize) {
    for _ in 0..400 {
        let number = random.below(keys);
        let name = number.to_string();
        let key = CacheKey::from(&*name);
        match random.below(12) {
            0 => cache.compress_now(),
            1 => cache.expand_now(&key),
            2 => _ = cache.invalidate(&key, None),
            3..6 => {
                // It holds one form while the other takes its place.
                let Some(found) = cache.look_at(&name) else { continue };
                let old = Arc::clone(&found[0]);
                cache.compress_now();
                if random.one_in(2) {
                    let new = Arc::new(old.with(old.head().clone(), old.content.clone()));
                    cache.replace(&key, &old, new, &cache.note(&key));
                } else {
                    cache.remove(&key, &old);
                }
            }
            6..9 => {
                for content in contents(cache, &name) {
                    assert_eq!(content, text(number, length_of(number)));
                }
            }
            _ => {
                let stored = text_response(number, length_of(number));
                cache.put(&key, stored, &cache.note(&key));
            }
        }
        let usage = cache.usage().memory;
        assert!(usage.bytes + usage.arriving_bytes <= 200_000, "{usage:?}");
    }
}

/// A freshened response has replaced the one that a request holds in its other form.
#[test]
fn a_response_is_the_same_in_both_forms() {
    let limits = MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };
    for eviction in [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru] {
        let cache = Arc::new(Cache::in_memory(store(eviction, limits)).compressing_by_hand());
        let mut random = Random::new(1);
        let key = CacheKey::from("5");
        while cache.look_at("5").is_none() {
            change(&cache, &mut random, 9);
        }
        cache.expand_now(&key);
        let plain = Arc::clone(&cache.look_at("5").expect("it is stored")[0]);
        plain.note_reuse();
        cache.compress_now();
        let packed = Arc::clone(&cache.look_at("5").expect("it is stored")[0]);
        assert!(packed.content.here().is_none() && packed.is_same(&plain), "{eviction:?}");
        assert_eq!(packed.reuses(), plain.reuses());
        cache.remove(&key, &plain);
        assert!(cache.look_at("5").is_none(), "{eviction:?}");
    }
}

/// What waits to be compressed is bounded by the memory: the newest do, and the others stay as they came.
#[test]
fn a_bounded_number_waits_to_be_compressed() {
    const WAITING: usize = 256;
    let limits = MemoryLimits { bytes: 8 << 20, responses: None, content_bytes: 1 << 20 };
    let cache = Arc::new(Cache::in_memory(store(Eviction::Cost, limits)).compressing_by_hand());
    for number in 0..WAITING + 100 {
        put(&cache, &number.to_string(), text_response(number, 600));
    }
    assert_eq!(cache.usage().memory.responses as usize, WAITING + 100, "all of them are there");
    cache.compress_now();
    assert_eq!(cache.usage().packed as usize, WAITING);
    let is_plain = |number: usize| {
        let found = cache.look_at(&number.to_string()).expect("it is stored");
        found[0].content.here().is_some()
    };
    assert!(is_plain(99) && !is_plain(100) && !is_plain(WAITING + 99));
}

/// A response is freshened while it is compressed, and is found behind memory with its content.
#[test]
fn what_is_freshened_while_it_is_compressed_lasts() {
    let folder = TemporaryFolder::new();
    let disk = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 16 << 20 };
    let limits = MemoryLimits { bytes: 4 << 20, responses: None, content_bytes: 1 << 20 };
    let file = folder.file("cache.db");
    let open = || {
        let backing = Arc::new(Sqlite::open(&file, disk).expect("a store"));
        let cache = Cache::with_backing(store(Eviction::Cost, limits), backing, 1 << 20, false);
        Arc::new(cache.expect("a thread").compressing_by_hand())
    };
    let sizes = [600, 1_500, 2_048, 2_049, 5_000, 64 * 1024, 200_000];
    let cache = open();
    for size in sizes {
        let name = size.to_string();
        let key = CacheKey::from(&*name);
        put(&cache, &name, text_response(size, size));
        assert!(cache.flush(PATIENCE));
        cache.compress_now();
        let old = Arc::clone(&cache.look_at(&name).expect("it is stored")[0]);
        assert!(old.content.here().is_none(), "{size} is compressed");
        let head = StoredHead { fresh_until: at(77), useful_until: at(99), ..old.head().clone() };
        let new = Arc::new(old.with(head, old.content.clone()));
        assert_eq!(cache.replace(&key, &old, new, &cache.note(&key)), Put::Stored, "{size}");
        assert_eq!(contents(&cache, &name), [text(size, size)], "{size}");
    }
    drop(cache);
    let cache = open();
    for size in sizes {
        let found = variants(&cache, &size.to_string());
        assert_eq!((found.len(), found[0].fresh_until), (1, at(77)), "{size}");
        assert_eq!(content(&found[0]), text(size, size), "{size}");
    }
}

/// A stored response with this text as its content.
fn text_response(number: usize, length: usize) -> Arc<StoredResponse> {
    let stored = response(None, text(number, length).as_bytes(), 9);
    let mut head = stored.head().clone();
    let mut fields = head.fields.to_fields();
    fields.append(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    head.fields = fields.into();
    Arc::new(stored.with(head, stored.content.clone()))
}
