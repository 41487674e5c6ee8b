//! What becomes of a response between the moment when the store behind memory gives it out and the moment
//! when the origin server is asked about it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::StoredResponse;
use caching_proxy::store::backing::{
    Backing, BackingError, BackingUsage, Change, Fetcher, Listed, LoadPage, LoadPosition, Recalled,
    Stamp,
};
use caching_proxy::store::cache::{Cache, LoadBounds};
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use parking_lot::Mutex;

use super::support::engine::{Bench, bench_over, request};
use super::support::{PATIENCE, settings};

const ROOMY: MemoryLimits =
    MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 8 << 20 };
const KEY: &str = "http://o.test/a";
/// Stale on arrival, and with all that can be meant by a purge.
const STALE: &str = "Cache-Control: max-age=60; Age: 100; ETag: \"v1\"; Surrogate-Key: red";
const FRESH: &str = "Cache-Control: max-age=60; ETag: \"v2\"";

type Deed = Box<dyn FnOnce() + Send>;

/// A store behind memory that has this, and does something between its look and its answer.
#[derive(Default)]
struct Scripted {
    variants: Mutex<Vec<Arc<StoredResponse>>>,
    deed: Mutex<Option<Deed>>,
    /// Another proxy fetches what it has not.
    is_claimed: AtomicBool,
    /// How often somebody was to fetch what it has not, and how many changes it was told.
    claims: AtomicU64,
    changes: AtomicU64,
    /// What it was told to store, and that a fetch is over which it had been told of, in order.
    log: Mutex<Vec<&'static str>>,
}

impl Backing for Scripted {
    fn name(&self) -> String {
        "script".to_string()
    }

    fn recall(&self, _: &CacheKey, claims: bool) -> Result<Recalled, BackingError> {
        self.claims.fetch_add(u64::from(claims), Ordering::Relaxed);
        let variants = self.variants.lock().clone();
        let stamp = Stamp { numbers: Some([0; 4]), was_empty: variants.is_empty(), moment: 0 };
        if let Some(deed) = self.deed.lock().take() {
            deed();
        }
        let fetcher = match claims && variants.is_empty() {
            true if self.is_claimed.load(Ordering::Relaxed) => Fetcher::Another,
            true => Fetcher::Us,
            false => Fetcher::Nobody,
        };
        Ok(Recalled { variants, stamp, fetcher })
    }

    fn most_valuable(
        &self,
        position: LoadPosition,
        _: Timestamp,
    ) -> Result<LoadPage, BackingError> {
        let keys = if position.is_second { vec![] } else { vec![CacheKey::from(KEY)] };
        Ok(LoadPage { keys, considered: 1, next: None })
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        self.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        for change in changes {
            match change {
                Change::Put { response, .. } => {
                    self.log.lock().push("stored");
                    *self.variants.lock() = vec![Arc::clone(response)];
                }
                Change::Release { .. } => self.log.lock().push("released"),
                Change::Remove { .. } | Change::Forget { .. } | Change::Purge { .. } => {
                    self.variants.lock().clear();
                }
                _ => {}
            }
        }
        Ok(vec![1; changes.len()])
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        static SALT: OnceLock<Arc<Salt>> = OnceLock::new();
        Some(Arc::clone(SALT.get_or_init(|| Arc::new(Salt::new([0; SALT_BYTES])))))
    }

    fn content_bytes_max(&self) -> u64 {
        64 << 20
    }

    fn batch_bytes(&self) -> u64 {
        1 << 20
    }

    fn usage(&self) -> Result<BackingUsage, BackingError> {
        Ok(BackingUsage { responses: self.variants.lock().len() as u64, ..BackingUsage::default() })
    }

    fn list(&self, _: &str, _: usize) -> Result<Vec<Listed>, BackingError> {
        Ok(Vec::new())
    }

    fn tidy(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// An engine over a store that has a stale response behind memory and nothing in memory, as after a start.
fn after_a_restart() -> (Bench, Arc<Scripted>) {
    let backing = Arc::new(Scripted::default());
    let start = |backing: &Arc<Scripted>| {
        let memory = store(Eviction::Lru, ROOMY);
        let backing = Arc::clone(backing) as Arc<dyn Backing>;
        let tiers: Arc<Cache> =
            Arc::new(Cache::with_backing(memory, backing, 1 << 20, false).expect("a thread"));
        bench_over(tiers, |_| {})
    };
    let before = start(&backing);
    before.answers(200, STALE, "old");
    assert_eq!(before.get("/a").1, "old");
    assert!(before.store.flush(PATIENCE));
    assert_eq!(backing.variants.lock().len(), 1);
    (start(&backing), backing)
}

/// All ways of invalidating it.
fn meant() -> [fn(&Cache); 7] {
    [
        |store| _ = store.invalidate(&CacheKey::from(KEY), None),
        |store| _ = store.forget(&Selector::Uri(KEY.into()), Timestamp::MAX),
        |store| _ = store.forget(&Selector::Prefix("http://o.test/".into()), Timestamp::MAX),
        |store| _ = store.forget(&Selector::Match(Glob::new("*/a")), Timestamp::MAX),
        |store| _ = store.forget(&Selector::Tag("red".into()), Timestamp::MAX),
        |store| _ = store.forget(&Selector::Stale, Timestamp::MAX),
        |store| _ = store.forget(&Selector::All, Timestamp::MAX),
    ]
}

/// Found in memory, and purged before another proxy is waited for: the fetch begins anew after the wait, and no mark
/// of the purge keeps its response out.
#[test]
fn what_is_purged_before_a_wait_for_another_proxy_is_not_asked_about() {
    let part = format!("{FRESH}; Surrogate-Key: red; Content-Range: bytes 0-2/6");
    for (number, invalidate) in meant().into_iter().enumerate() {
        for (status, fields, range) in [(206, &*part, "Range: bytes=0-2"), (200, STALE, "")] {
            let backing = Arc::new(Scripted::default());
            let behind = Arc::clone(&backing) as Arc<dyn Backing>;
            let memory = store(Eviction::Lru, ROOMY);
            let cache = Cache::with_backing(memory, behind, 1 << 20, false).expect("a thread");
            let bench = bench_over(Arc::new(cache), |_| {});
            bench.answers(status, fields, "old");
            assert_eq!(bench.fetch("GET", "/a", range).content, "old");
            assert!(bench.store.flush(PATIENCE));
            backing.variants.lock().clear();
            backing.is_claimed.store(true, Ordering::Relaxed);
            let set_out = bench.set_out("GET", "/a", "");
            invalidate(&bench.store);
            assert!(bench.store.flush(PATIENCE));
            bench.answers(200, FRESH, "newest");
            assert_eq!(bench.arrive(set_out).content, "newest", "{number} {status}");
            let asked = bench.last_asked();
            let about = ["range", "if-range", "if-none-match"].map(|name| asked.field(name));
            assert_eq!(about, ["", "", ""], "{number} {status}");
        }
    }
}

#[test]
fn what_is_purged_while_it_is_recalled_is_neither_asked_about_nor_used() {
    assert!(settings().reuse.stale_if_error.0 > 0, "it could stand in");
    for (number, invalidate) in meant().into_iter().enumerate() {
        for fails in [false, true] {
            let (bench, backing) = after_a_restart();
            let store = Arc::clone(&bench.store);
            *backing.deed.lock() = Some(Box::new(move || invalidate(&store)));
            if fails {
                bench.answers(503, "", "failed");
                assert_eq!(bench.get("/a").0, 503, "{number}: it does not stand in");
            } else {
                bench.answers(200, FRESH, "new");
                assert_eq!(bench.get("/a").1, "new", "{number}");
            }
            let asked = bench.last_asked().field("if-none-match");
            assert_eq!(asked, "", "{number}: nothing is asked about what is purged");
            bench.answers(200, FRESH, "newer");
            assert_ne!(bench.get("/a").1, "old", "{number}: it does not come back");
        }
    }
}

/// The same while memory is filled after the start.
#[test]
fn what_is_purged_while_it_is_loaded_stays_out() {
    let bounds = LoadBounds { bytes: 1 << 20, responses: None };
    let load = |store: &Cache| {
        store.load(bounds, || Timestamp(0), |_| true);
        store.look_at(KEY).is_some()
    };
    let begin = || {
        let (bench, backing) = after_a_restart();
        // It was fresh once, and is not when it is purged.
        let mut head = backing.variants.lock()[0].head().clone();
        head.fresh_until = Timestamp::MAX;
        let fresh = StoredResponse::new(head, Bytes::from_static(b"old")).found_at(1, 0);
        *backing.variants.lock() = vec![Arc::new(fresh)];
        (bench, backing)
    };
    assert!(load(&begin().0.store), "nothing is purged");
    for purge in meant() {
        let (bench, backing) = begin();
        let store = Arc::clone(&bench.store);
        *backing.deed.lock() = Some(Box::new(move || purge(&store)));
        assert!(!load(&bench.store));
    }
}

#[test]
fn what_is_not_meant_by_a_purge_is_recalled_all_the_same() {
    let others: [fn(&Cache); 3] = [
        |store| _ = store.invalidate(&CacheKey::from("http://o.test/b"), None),
        |store| _ = store.forget(&Selector::Tag("green".into()), Timestamp::MAX),
        |store| _ = store.forget(&Selector::Prefix("http://o.test/b".into()), Timestamp::MAX),
    ];
    for (number, invalidate) in others.into_iter().enumerate() {
        let (bench, backing) = after_a_restart();
        let store = Arc::clone(&bench.store);
        *backing.deed.lock() = Some(Box::new(move || invalidate(&store)));
        bench.answers(304, "Cache-Control: max-age=60; ETag: \"v1\"", "");
        assert_eq!(bench.get("/a").1, "old", "{number}");
        assert_eq!(bench.last_asked().field("if-none-match"), "\"v1\"");
        assert!(bench.get("/a").2.starts_with("hit"), "{number}: it is freshened");
    }
}

/// What others share is not claimed by an explanation, and nothing is told to them; nor is it brought into memory,
/// where it would take the place of something.
#[test]
fn an_explanation_claims_nothing_and_brings_nothing_into_memory() {
    for (target, script) in [("/a", 304), ("/absent", 200)] {
        let (bench, backing) = after_a_restart();
        let counted =
            || [&backing.claims, &backing.changes].map(|count| count.load(Ordering::Relaxed));
        let before = counted();
        bench.answers(script, "Cache-Control: max-age=60; ETag: \"v1\"", "");
        let asked = Arc::new(request("GET", target, ""));
        let explained = bench.driver.explain(&asked).expect("the origin server is asked");
        assert!(explained.received.expect("it answers").stored.is_some(), "{target}");
        assert!(bench.store.flush(PATIENCE));
        assert_eq!(counted(), before, "{target}");
        assert_eq!(bench.store.usage().memory.responses, 0, "{target}");
    }
}

/// Other proxies that share the store wait while this one fetches: they are told when the response is there, though
/// nobody may be given it without validation, or as soon as it is known that there will be none.
#[test]
fn other_proxies_are_told_when_the_response_is_there_or_will_not_be() {
    let stored = ["stored", "released"].as_slice();
    let table = [
        (200, FRESH, stored),
        (200, STALE, stored),
        (200, "Cache-Control: no-cache; ETag: \"v1\"", stored),
        (200, "Cache-Control: max-age=0, must-revalidate; ETag: \"v1\"", stored),
        (200, "Cache-Control: no-store", &["released"]),
        (200, "Cache-Control: private", &["released"]),
        (503, "", &["released"]),
    ];
    for (status, fields, expected) in table {
        let backing = Arc::new(Scripted::default());
        let (memory, behind) = (store(Eviction::Lru, ROOMY), Arc::clone(&backing));
        let cache = Cache::with_backing(memory, behind as Arc<dyn Backing>, 1 << 20, false);
        let bench = bench_over(Arc::new(cache.expect("a thread")), |_| {});
        bench.answers(status, fields, "a whole response").get("/a");
        assert!(bench.store.flush(PATIENCE));
        assert_eq!(*backing.log.lock(), expected, "{status} {fields}");
    }
}
