//! One contract, run against every memory, alone and before each backing store: what is put comes back, whole, until it
//! is removed; limits hold; neither a clear nor a purge can be undone by what was on its way.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::Put;
use caching_proxy::store::backing::Backing;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::redis::{Address, Redis, RedisLimits};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use http::{HeaderName, HeaderValue};

use super::support;
use super::support::redis::Server;
use super::support::stored::{
    at, begun, clear, content, contents, memory, put, response, stored, variants,
};
use super::support::{PATIENCE, TemporaryFolder};

const POLICIES: [Eviction; 5] =
    [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru, Eviction::Entire, Eviction::None];
const ROOMY: MemoryLimits =
    MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 8 << 20 };

/// A store that is to keep the contract.
pub(super) struct Kept {
    pub name: String,
    pub store: Arc<Cache>,
    /// Where it is.
    #[allow(dead_code, reason = "it is removed when this is dropped")]
    folder: Option<TemporaryFolder>,
    server: Option<Server>,
}

fn on_disk(limits: MemoryLimits, disk: DiskLimits) -> Kept {
    let folder = TemporaryFolder::new();
    let backing = Sqlite::open(&folder.file("cache.db"), disk).expect("a store");
    let memory = store(Eviction::Lru, limits);
    let tiers = Cache::with_backing(memory, Arc::new(backing), QUEUED, false).expect("a thread");
    Kept {
        name: format!("sqlite {limits:?}"),
        store: Arc::new(tiers),
        folder: Some(folder),
        server: None,
    }
}

fn shared(program: &str, limits: MemoryLimits) -> Kept {
    let server = Server::start(program);
    let address = Address::read(&server.url()).expect("an address");
    let wanted =
        RedisLimits { prefix: "test:".to_string(), content_bytes: 64 << 20, answer_max: PATIENCE };
    let backing = Redis::open(address, wanted).expect("a store");
    let deadline = Instant::now() + PATIENCE;
    while !backing.is_ready() {
        assert!(Instant::now() < deadline, "Redis is there, and not used");
        super::support::pause();
    }
    let memory = store(Eviction::Lru, limits);
    let tiers = Cache::with_backing(memory, Arc::new(backing), QUEUED, false).expect("a thread");
    let name = format!("{program} {limits:?}");
    Kept { name, store: Arc::new(tiers), folder: None, server: Some(server) }
}

/// Bytes of changes that wait for the store: all that a test stores, however busy the machine is.
const QUEUED: u64 = 64 << 20;
const DISK: DiskLimits = DiskLimits { bytes: 256 << 20, responses: None, content_bytes: 64 << 20 };
/// Room for one response.
const TINY: MemoryLimits =
    MemoryLimits { bytes: 64 << 20, responses: Some(1), content_bytes: 8 << 20 };

/// All of them, with roomy limits.
pub(super) fn all() -> Vec<Kept> {
    let memory = |policy: &Eviction| {
        let name = format!("{policy:?}");
        Kept { name, store: memory(*policy, ROOMY), folder: None, server: None }
    };
    let mut all: Vec<Kept> = POLICIES.iter().map(memory).collect();
    all.push(on_disk(ROOMY, DISK));
    all.push(on_disk(TINY, DISK));
    all.extend(support::redis::programs().into_iter().map(|program| shared(program, ROOMY)));
    all.extend(support::redis::programs().into_iter().map(|program| shared(program, TINY)));
    all
}

#[test]
fn what_is_put_comes_back_the_newest_first_until_it_is_removed() {
    for Kept { name, store, .. } in &all() {
        assert!(contents(store, "a").is_empty());
        assert_eq!(put(store, "a", response(Some("en"), b"en", 9)), Put::Stored);
        assert_eq!(put(store, "a", response(Some("de"), b"de", 9)), Put::Stored);
        assert_eq!(contents(store, "a"), ["de", "en"], "{name}");
        assert_eq!(put(store, "a", response(Some("en"), b"new", 9)), Put::Stored);
        assert_eq!(contents(store, "a"), ["new", "de"], "{name}: in the place of the old one");
        let newest = variants(store, "a")[0].clone();
        store.remove(&CacheKey::from("a"), &newest);
        store.remove(&CacheKey::from("a"), &newest);
        assert_eq!(contents(store, "a"), ["de"], "{name}");
        assert_eq!(stored(store), 1, "{name}");
        store.invalidate(&CacheKey::from("a"), None);
        assert_eq!(store.invalidate(&CacheKey::from("a"), None), 0);
        assert_eq!((stored(store), store.usage().memory.bytes), (0, 0), "{name}");
        assert!(contents(store, "a").is_empty() && store.look_at("a").is_none(), "{name}");
    }
}

#[test]
fn content_of_any_size_comes_back_as_it_was() {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 200_000, 1_000_000];
    for Kept { name, store, .. } in &all() {
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|number: usize| (number * 7 % 251) as u8).collect();
            put(store, &size.to_string(), response(None, &bytes, 9));
            assert_eq!(contents(store, &size.to_string()), [bytes], "{name}: {size}");
        }
        assert_eq!(stored(store), sizes.len() as u64);
    }
}

#[test]
fn a_freshened_response_takes_the_place_of_the_old_one_with_its_content() {
    for Kept { name, store, .. } in &all() {
        put(store, "a", response(None, b"content", 9));
        let old = variants(store, "a")[0].clone();
        let until = at(500);
        let head = StoredHead { useful_until: until, fresh_until: until, ..old.head().clone() };
        let fresh = Arc::new(old.with(head, old.content.clone()));
        assert_eq!(put(store, "a", fresh), Put::Stored, "{name}");
        let found = variants(store, "a");
        assert_eq!((found.len(), found[0].fresh_until, stored(store)), (1, until, 1), "{name}");
        assert_eq!(content(&found[0]), "content", "{name}");
    }
}

/// A 304 has named another selecting field: the response without it is found no more.
#[test]
fn a_freshened_response_may_name_more_selecting_fields() {
    for Kept { name, store, .. } in &all() {
        for content in [b"content".to_vec(), vec![b'x'; 100_000]] {
            let tagged = response(None, &content, 9);
            let mut fields = tagged.fields.to_fields();
            fields.set_text("etag", "W/\"a\"".to_string());
            let head = StoredHead { fields: fields.into(), ..tagged.head().clone() };
            put(store, "a", Arc::new(tagged.with(head, tagged.content.clone())));
            let old = variants(store, "a")[0].clone();
            let selecting = response(Some("en"), b"", 9).selecting.clone();
            let head = StoredHead { selecting: selecting.clone(), ..old.head().clone() };
            let fresh = Arc::new(old.with(head, old.content.clone()));
            assert_eq!(put(store, "a", fresh), Put::Stored, "{name}");
            let found = variants(store, "a");
            assert_eq!((found.len(), stored(store)), (1, 1), "{name}");
            assert_eq!(found[0].selecting, selecting, "{name}");
            assert_eq!(support::stored::content(&found[0]), content, "{name}");
            store.invalidate(&CacheKey::from("a"), None);
        }
    }
}

#[test]
fn a_clear_cannot_be_undone_by_what_was_on_its_way() {
    for Kept { name, store, .. } in &all() {
        let begun = begun(store, &CacheKey::from("b"));
        put(store, "a", response(None, b"a", 9));
        assert_eq!(clear(store), 1, "{name}");
        assert_eq!(store.put(&CacheKey::from("b"), response(None, b"b", 9), &begun), Put::Cleared);
        assert_eq!(stored(store), 0);
        assert!(contents(store, "a").is_empty());
        assert_eq!(put(store, "b", response(None, b"b", 9)), Put::Stored);
        assert_eq!(contents(store, "b"), ["b"], "{name}");
    }
}

#[test]
fn an_invalidation_cannot_be_undone_by_what_was_on_its_way() {
    for Kept { name, store, .. } in &all() {
        let key = CacheKey::from("a");
        let begun = begun(store, &key);
        assert_eq!(store.invalidate(&key, None), 0, "nothing was stored yet, but it is on its way");
        assert_eq!(store.put(&key, response(None, b"old", 9), &begun), Put::Cleared, "{name}");
        assert!(contents(store, "a").is_empty());
        assert_eq!(put(store, "a", response(None, b"new", 9)), Put::Stored);
        assert_eq!(contents(store, "a"), ["new"], "{name}");
    }
}

/// The same content under a head that came later, as a 304 makes it.
fn freshened(old: &Arc<StoredResponse>, seconds: u64) -> Arc<StoredResponse> {
    let head = StoredHead { fresh_until: at(seconds), ..old.head().clone() };
    Arc::new(old.with(head, old.content.clone()))
}

fn fresh_until(store: &Arc<Cache>, key: &str) -> Vec<Timestamp> {
    variants(store, key).iter().map(|response| response.fresh_until).collect()
}

#[test]
fn what_is_freshened_takes_the_place_of_what_it_was_made_from_and_of_nothing_else() {
    type Overtake = fn(&Arc<Cache>, &Arc<StoredResponse>);
    #[rustfmt::skip]
    let table: [(&str, Overtake, &[&str]); 5] = [
        ("nothing", |_, _| {}, &["old"]),
        ("another variant", |store, _| _ = put(store, "a", response(Some("en"), b"en", 9)), &["en", "old"]),
        ("a newer one", |store, _| _ = put(store, "a", response(None, b"new", 9)), &["new"]),
        ("a removal", |store, old| store.remove(&CacheKey::from("a"), old), &[]),
        ("both", |store, old| {
            store.remove(&CacheKey::from("a"), old);
            put(store, "a", response(None, b"new", 9));
        }, &["new"]),
    ];
    for Kept { name, store, server, .. } in &all() {
        for (what, overtake, expected) in &table {
            // By now it has its place behind memory, or will have it only when it has been overtaken.
            // A shared store takes nothing from who could not ask it, and what is removed must have a place.
            let is_always_settled = server.is_some() || matches!(*what, "a removal" | "both");
            for is_settled in if is_always_settled { &[true][..] } else { &[true, false] } {
                let case = format!("{name}: {what}, {is_settled}");
                let key = CacheKey::from("a");
                store.invalidate(&key, None);
                assert_eq!(put(store, "a", response(None, b"old", 9)), Put::Stored);
                let begun = if *is_settled { begun(store, &key) } else { store.note(&key) };
                let old = store.look_at("a").expect("it is in memory")[0].clone();
                if *is_settled {
                    contents(store, "a");
                }
                let new = freshened(&old, 500);
                overtake(store, &old);
                let put = store.replace(&key, &old, new, &begun);
                // Only the store behind memory may know that it is gone, and nobody waits for that.
                assert!(put == Put::Stored || !expected.contains(&"old"), "{case}: {put:?}");
                assert!(put != Put::Stored || store.has_backing() || expected.contains(&"old"));
                let mut found = contents(store, "a");
                found.sort();
                assert_eq!(found, *expected, "{case}");
                let is_new = fresh_until(store, "a").contains(&at(500));
                assert_eq!(is_new, expected.contains(&"old"), "{case}");
                if let Some(here) = store.look_at("a") {
                    let here: Vec<_> = here.iter().map(|response| content(response)).collect();
                    assert!(
                        here.iter().all(|text| expected.iter().any(|other| text == other)),
                        "{case}"
                    );
                }
            }
        }
    }
}

/// Memory has room for one response: what is freshened has left it meanwhile.
#[test]
fn what_is_behind_memory_alone_is_freshened_if_it_is_still_there() {
    for Kept { name, store, .. } in all().iter().filter(|kept| kept.store.has_backing()) {
        for overtaken in [false, true] {
            let key = CacheKey::from("a");
            put(store, "a", response(None, b"old", 9));
            let old = variants(store, "a")[0].clone();
            let begun = begun(store, &key);
            let new = freshened(&old, 500);
            if overtaken {
                put(store, "a", response(None, b"new", 9));
            }
            put(store, "b", response(None, b"b", 9));
            store.replace(&key, &old, new, &begun);
            let expected = if overtaken { ("new", at(9)) } else { ("old", at(500)) };
            let found = (contents(store, "a"), fresh_until(store, "a"));
            assert_eq!(
                found,
                (vec![Bytes::from(expected.0)], vec![expected.1]),
                "{name} {overtaken}"
            );
        }
    }
}

/// A response with a tag, fresh until second `fresh_until`.
fn tagged(tag: &'static str, fresh_until: u64) -> Arc<StoredResponse> {
    let plain = response(None, b"x", 1000);
    let mut head = plain.head().clone();
    let mut fields = head.fields.to_fields();
    fields.append(HeaderName::from_static("surrogate-key"), HeaderValue::from_static(tag));
    head.fields = fields.into();
    head.fresh_until = at(fresh_until);
    Arc::new(StoredResponse::new(head, Bytes::from_static(b"x")))
}

#[test]
fn a_purge_removes_what_is_selected_and_nothing_else() {
    let keys = ["http://o/a", "http://o/a/1", "http://o/a/2", "http://o/b", "http://o/c%20ü"];
    #[rustfmt::skip]
    let table = [
        (Selector::Uri("http://o/a".into()), vec![0]),
        (Selector::Uri("http://o/".into()), vec![]),
        (Selector::Prefix("http://o/a".into()), vec![0, 1, 2]),
        (Selector::Prefix("http://o/a/".into()), vec![1, 2]),
        (Selector::Match(Glob::new("*/a*2")), vec![2]),
        (Selector::Match(Glob::new("*ü")), vec![4]),
        (Selector::Tag("odd".into()), vec![1, 3]),
        (Selector::Stale, vec![0, 1]),
        (Selector::All, vec![0, 1, 2, 3, 4]),
    ];
    for Kept { name, store, .. } in &all() {
        for (selector, expected) in &table {
            for (index, key) in keys.iter().enumerate() {
                let tag = if index % 2 == 1 { "all odd" } else { "all even" };
                put(store, key, tagged(tag, 98 + index as u64));
            }
            let fetches = keys.map(|key| begun(store, &CacheKey::from(key)));
            let gone = store.forget(selector, at(99));
            let missing: Vec<usize> =
                (0..keys.len()).filter(|index| variants(store, keys[*index]).is_empty()).collect();
            assert_eq!(missing, *expected, "{name}: {selector}");
            assert_eq!(gone.count, expected.len(), "{name}: {selector}");
            // The same goes for what was on its way, and for nothing else.
            for (index, begun) in fetches.iter().enumerate() {
                let late =
                    tagged(if index % 2 == 1 { "all odd" } else { "all even" }, 98 + index as u64);
                let put = store.put(&CacheKey::from(keys[index]), late, begun);
                assert_eq!(put == Put::Cleared, expected.contains(&index), "{name}: {selector}");
            }
            for index in expected {
                assert!(store.look_at(keys[*index]).is_none(), "{name}: {selector}");
            }
        }
    }
}

#[test]
fn all_that_is_stored_is_listed_page_by_page_in_order() {
    for Kept { name, store, .. } in &all() {
        for number in 0..25 {
            put(store, &format!("k{number:02}"), response(None, b"12345", 9));
        }
        put(store, "k07", response(Some("en"), b"en", 9));
        let (mut after, mut keys) = (String::new(), Vec::new());
        loop {
            let page = store.list(&after, 4);
            let Some(last) = page.last() else { break };
            after = last.key.to_string();
            keys.extend(page.iter().map(|listed| (listed.key.to_string(), listed.bytes)));
        }
        assert_eq!(keys.len(), 26, "{name}: {keys:?}");
        assert!(keys.is_sorted_by_key(|(key, _)| key.clone()), "{name}: {keys:?}");
        assert_eq!(keys.iter().filter(|(key, _)| key == "k07").count(), 2, "{name}");
        assert_eq!(keys[0].1, 5);
    }
}

/// Lists are read from an index of their own; it says at the end what lookups say.
#[test]
fn what_comes_and_goes_while_it_is_listed_is_listed_if_it_stays() {
    for policy in POLICIES {
        let store = &memory(policy, MemoryLimits { bytes: 200_000, ..ROOMY });
        let key = |number: usize| format!("k{:03}", number % 400);
        thread::scope(|scope| {
            for first in 0..4_usize {
                scope.spawn(move || {
                    for number in (0..6_000).map(|number| number * 7 + first * 100) {
                        put(store, &key(number), response(None, &[1; 500], number as u64 % 3));
                        match number % 1_000 {
                            10 => {
                                _ = store
                                    .invalidate(&CacheKey::from(key(number / 3).as_str()), None);
                            }
                            20 => _ = store.sweep(at(1)),
                            30 => _ = store.forget(&Selector::Prefix("k1".to_string()), at(0)),
                            40 => _ = clear(store),
                            _ => {}
                        }
                    }
                });
            }
            scope.spawn(move || (0..300).for_each(|number| drop(store.list(&key(number), 20))));
        });
        let there = (0..400).map(key).filter(|key| store.look_at(key).is_some());
        let listed = store.list("", 1_000).into_iter().map(|listed| listed.key.to_string());
        assert_eq!(listed.collect::<Vec<_>>(), there.collect::<Vec<_>>(), "{policy:?}");
    }
}

#[test]
fn a_sweep_removes_what_is_of_no_more_use_and_nothing_else() {
    // A shared server expires by itself, and by its own clock.
    for Kept { name, store, .. } in all().iter().filter(|kept| kept.server.is_none()) {
        for number in 0..1000 {
            put(store, &number.to_string(), response(None, b"x", number % 2 * 100));
        }
        let swept = store.sweep(at(50));
        assert!(store.has_backing() || swept == 500, "{name}");
        assert_eq!(stored(store), 500, "{name}");
        assert!(contents(store, "0").is_empty() && contents(store, "1").len() == 1);
    }
}

#[test]
fn the_number_of_responses_is_bounded_exactly() {
    for most in [1, 2, 3, 10, 100] {
        for policy in [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
            let store = memory(policy, MemoryLimits { responses: Some(most), ..ROOMY });
            for number in 0..most {
                put(&store, &number.to_string(), response(None, b"x", 9));
            }
            assert_eq!(store.usage().memory.responses, most, "{policy:?} has room for {most}");
            for number in most..most * 5 {
                put(&store, &number.to_string(), response(None, b"x", 9));
                assert!(store.usage().memory.responses <= most, "{policy:?}: {most}");
            }
            assert!(store.usage().memory.evicted >= most * 4, "{policy:?}: {:?}", store.usage());
        }
    }
    let store =
        memory(Eviction::None, MemoryLimits { responses: Some(2), bytes: 1 << 16, ..ROOMY });
    for number in 0..100 {
        put(&store, &number.to_string(), response(None, &[0; 10_000], 9));
    }
    assert_eq!(
        (store.usage().memory.responses, store.usage().memory.evicted),
        (100, 0),
        "none: no limit applies"
    );
}

#[test]
fn the_memory_is_bounded() {
    for policy in [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
        let store = memory(policy, MemoryLimits { bytes: 1 << 20, ..ROOMY });
        for number in 0..2000 {
            put(&store, &number.to_string(), response(None, &vec![0; number % 50 * 1000], 9));
            assert!(store.usage().memory.bytes <= 1 << 20, "{policy:?}: {:?}", store.usage());
        }
        assert!(store.usage().memory.responses > 0);
    }
}

#[test]
fn lru_evicts_exactly_the_least_recently_used() {
    let store = memory(Eviction::Lru, MemoryLimits { responses: Some(3), ..ROOMY });
    for key in ["a", "b", "c"] {
        put(&store, key, response(None, key.as_bytes(), 9));
    }
    let first = store.look_at("a").expect("it is stored")[0].clone();
    store.touch("a", &first);
    // To look is not to use: only what is reused counts.
    store.look_at("b");
    put(&store, "d", response(None, b"d", 9));
    let kept = ["a", "b", "c", "d"].map(|key| contents(&store, key).len());
    assert_eq!(kept, [1, 0, 1, 1]);
    // Each variant counts by itself.
    put(&store, "d", response(Some("en"), b"en", 9));
    assert_eq!((contents(&store, "c").len(), contents(&store, "d").len()), (0, 2));
}

#[test]
fn entire_drops_everything_when_it_is_full() {
    let store = memory(Eviction::Entire, MemoryLimits { responses: Some(3), ..ROOMY });
    for key in ["a", "b", "c", "d"] {
        put(&store, key, response(None, key.as_bytes(), 9));
    }
    assert_eq!(["a", "b", "c", "d"].map(|key| contents(&store, key).len()), [0, 0, 0, 1]);
    assert_eq!(store.usage().memory.evicted, 3);
}

/// quick_cache refuses what is heavier than almost a whole shard.
#[test]
fn a_large_response_is_kept_whatever_the_number_of_shards() {
    for megabytes in [4, 16, 64, 256] {
        for policy in [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
            let limits = MemoryLimits { bytes: megabytes << 20, ..ROOMY };
            let store = memory(policy, limits);
            let largest = vec![0; store.content_bytes_max() as usize];
            assert_eq!(largest.len() as u64, (8 << 20).min(megabytes << 18));
            for key in ["a", "b", "c"] {
                assert_eq!(put(&store, key, response(None, &largest, 9)), Put::Stored);
                assert_eq!(contents(&store, key).len(), 1, "{policy:?}: {megabytes}M");
            }
            let too_large = vec![0; largest.len() + 1];
            assert_eq!(put(&store, "d", response(None, &too_large, 9)), Put::TooLarge);
        }
    }
}

#[test]
fn a_scan_does_not_sweep_out_what_is_used() {
    let store = memory(Eviction::S3Fifo, MemoryLimits { responses: Some(100), ..ROOMY });
    for key in 0..50 {
        put(&store, &format!("used{key}"), response(None, b"x", 9));
        contents(&store, &format!("used{key}"));
    }
    for key in 0..2000 {
        put(&store, &format!("scan{key}"), response(None, b"x", 9));
    }
    let kept = (0..50).filter(|key| !contents(&store, &format!("used{key}")).is_empty()).count();
    assert!(kept >= 45, "{kept} of 50");
}

#[test]
fn bodies_on_their_way_in_share_a_quarter_of_the_memory() {
    for policy in POLICIES {
        let store = memory(policy, MemoryLimits { bytes: 4 << 20, ..ROOMY });
        let (mut first, mut second) = (store.reserve(), store.reserve());
        assert!(first.grow(700_000) && first.grow(300_000));
        let beyond = policy == Eviction::None;
        assert_eq!(second.grow(100_000), beyond, "{policy:?}");
        drop(first);
        assert!(second.grow(1_000_000));
        drop(second);
        assert_eq!(store.usage().memory.arriving_bytes, 0);
    }
}

#[test]
fn variants_of_one_target_are_bounded() {
    for Kept { name, store, .. } in &all() {
        for number in 0..200 {
            put(store, "a", response(Some(&format!("l{number}")), b"x", 9));
        }
        assert_eq!(variants(store, "a").len(), caching_proxy::store::VARIANTS_MAX, "{name}");
    }
}

#[test]
fn concurrent_use_loses_nothing_and_mixes_nothing_up() {
    for Kept { name, store, .. } in &all() {
        thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    let language = format!("l{thread}");
                    for round in 0..200 {
                        let key = format!("{}", round % 10);
                        let text = format!("{key} {language}");
                        put(store, &key, response(Some(&language), text.as_bytes(), 9));
                        for variant in store.look_at(key.as_str()).unwrap_or_default().iter() {
                            assert!(content(variant).starts_with(key.as_bytes()));
                        }
                        if round % 50 == 0 {
                            store.sweep(at(5));
                        }
                    }
                });
            }
        });
        for key in 0..10 {
            let variants = contents(store, &key.to_string());
            assert_eq!(variants.len(), 8, "{name}: all variants are there");
            assert!(variants.iter().all(|variant| variant.starts_with(key.to_string().as_bytes())));
        }
    }
}
