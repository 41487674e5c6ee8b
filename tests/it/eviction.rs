//! What goes when memory is full, by `--eviction-policy cost`, and what is lent to stored responses while nothing comes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::stored::StoredResponse;
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits};

use super::support::seeded::Random;
use super::support::stored::{at, clear, contents, memory, put, response, stored};

const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };

/// Stores content of that size which took that long to fetch.
fn fetch(store: &Arc<Cache>, key: &str, size: usize, took: Duration) -> Put {
    let key = CacheKey::from(key);
    let since = Instant::now().checked_sub(took).expect("the machine runs for longer");
    store.put(&key, response(None, &vec![7; size], 9), &store.note(&key).since(since))
}

fn is_stored(store: &Arc<Cache>, key: &str) -> bool {
    store.look_at(key).is_some()
}

fn use_it(store: &Arc<Cache>, key: &str, times: usize) {
    let found = store.look_at(key).expect("it is stored")[0].clone();
    (0..times).for_each(|_| found.note_reuse());
}

/// Fills the memory with responses that nobody asks for again.
fn scan(store: &Arc<Cache>, from: usize, count: usize) {
    for number in from..from + count {
        fetch(store, &format!("scan{number}"), 2_000, Duration::from_millis(10));
    }
}

#[test]
fn what_is_worth_least_for_its_bytes_goes_first() {
    const TEN: Duration = Duration::from_millis(10);
    #[rustfmt::skip]
    let table = [
        // What stays, and what goes: size, uses, time to fetch.
        ("small before large",  (1_000, 0, TEN), (100_000, 0, TEN)),
        ("used before unused",  (2_000, 2, TEN), (2_000, 0, TEN)),
        ("often before seldom", (2_000, 9, TEN), (2_000, 1, TEN)),
        ("slow before fast",    (2_000, 0, 100 * TEN), (2_000, 0, TEN)),
        ("used outweighs size", (20_000, 60, TEN), (10_000, 0, TEN)),
    ];
    for (rule, (size, uses, took), (other_size, other_uses, other_took)) in table {
        // In either order: it is no matter of which came first.
        for swapped in [false, true] {
            let store = memory(Eviction::Cost, MEMORY);
            let keys = if swapped { ["goes", "stays"] } else { ["stays", "goes"] };
            for key in keys {
                let (size, took) =
                    if key == "stays" { (size, took) } else { (other_size, other_took) };
                assert_eq!(fetch(&store, key, size, took), Put::Stored, "{rule}");
            }
            use_it(&store, "stays", uses);
            use_it(&store, "goes", other_uses);
            let mut number = 0;
            while is_stored(&store, "goes") {
                scan(&store, number, 1);
                number += 1;
                assert!(number < 10_000, "{rule}: something goes");
            }
            assert!(is_stored(&store, "stays"), "{rule}");
        }
    }
}

#[test]
fn a_scan_leaves_what_is_used() {
    let store = memory(Eviction::Cost, MEMORY);
    for number in 0..50 {
        fetch(&store, &format!("used{number}"), 2_000, Duration::from_millis(10));
        use_it(&store, &format!("used{number}"), 3);
    }
    scan(&store, 0, 1_500);
    let kept = (0..50).filter(|number| is_stored(&store, &format!("used{number}"))).count();
    assert_eq!(kept, 50);
}

#[test]
fn what_is_used_no_more_goes_in_the_end_however_often_it_was_used() {
    let store = memory(Eviction::Cost, MEMORY);
    fetch(&store, "famous", 2_000, Duration::from_millis(10));
    use_it(&store, "famous", 1_000_000);
    scan(&store, 0, 1_000);
    assert!(is_stored(&store, "famous"), "for a while");
    scan(&store, 1_000, 300_000);
    assert!(!is_stored(&store, "famous"));
}

#[test]
fn what_comes_back_after_an_eviction_does_not_begin_anew() {
    let store = memory(Eviction::Cost, MEMORY);
    fetch(&store, "a", 200_000, Duration::from_millis(10));
    use_it(&store, "a", 9);
    let mut number = 0;
    while is_stored(&store, "a") {
        scan(&store, number, 1);
        number += 1;
    }
    // Ten uses are known of one of them, none of the other, which comes later.
    fetch(&store, "a", 200_000, Duration::from_millis(10));
    fetch(&store, "b", 200_000, Duration::from_millis(10));
    while is_stored(&store, "b") {
        scan(&store, number, 1);
        number += 1;
    }
    assert!(is_stored(&store, "a"));
}

/// One slow answer does not make a response dear for ever.
#[test]
fn the_cost_of_a_response_is_smoothed() {
    let store = memory(Eviction::Cost, MEMORY);
    let (fast, slow) = (Duration::from_millis(1), Duration::from_secs(20));
    fetch(&store, "mended", 2_000, slow);
    fetch(&store, "slow", 2_000, slow);
    for _ in 0..40 {
        fetch(&store, "mended", 2_000, fast);
        fetch(&store, "slow", 2_000, slow);
    }
    let mut number = 0;
    while is_stored(&store, "mended") {
        scan(&store, number, 1);
        number += 1;
    }
    assert!(is_stored(&store, "slow"));
}

#[test]
fn what_freshens_a_response_leaves_it_its_uses_and_its_cost() {
    let store = memory(Eviction::Cost, MEMORY);
    for key in ["freshened", "other"] {
        fetch(&store, key, 2_000, Duration::from_millis(if key == "other" { 10 } else { 4_000 }));
    }
    let key = CacheKey::from("freshened");
    use_it(&store, "freshened", 5);
    let old: Arc<StoredResponse> = store.look_at("freshened").expect("it is stored")[0].clone();
    let new = Arc::new(old.with(old.head().clone(), old.content.clone()));
    // The validation took no time at all.
    assert_eq!(store.replace(&key, &old, new, &store.note(&key)), Put::Stored);
    let mut number = 0;
    while is_stored(&store, "other") {
        scan(&store, number, 1);
        number += 1;
    }
    assert!(is_stored(&store, "freshened"));
}

#[test]
fn the_quarter_for_what_comes_in_is_lent_to_what_is_stored() {
    for policy in [Eviction::Cost, Eviction::Lru] {
        let store = memory(policy, MEMORY);
        scan(&store, 0, 1_000);
        let all = store.usage().memory;
        assert!(all.bytes > MEMORY.bytes - 16_000, "{policy:?}: {all:?}");
        let (mut first, mut second) = (store.reserve(), store.reserve());
        for taken in 1..=16 {
            let reservation = if taken % 2 == 0 { &mut first } else { &mut second };
            assert!(reservation.grow(MEMORY.bytes / 64), "{policy:?}");
            let usage = store.usage().memory;
            assert_eq!(usage.arriving_bytes, taken * MEMORY.bytes / 64);
            assert!(usage.bytes + usage.arriving_bytes <= MEMORY.bytes, "{policy:?}: {usage:?}");
        }
        assert!(!first.grow(1), "{policy:?}: no more than a quarter");
        let usage = store.usage().memory;
        assert!(usage.bytes > MEMORY.bytes / 2, "{policy:?}: and no more than that is taken back");
        drop((first, second));
        scan(&store, 1_000, 1_000);
        assert!(store.usage().memory.bytes > MEMORY.bytes - 16_000, "{policy:?}: lent again");
    }
}

/// Bodies come in, are stored, used, replaced, removed and purged by several threads: the memory keeps its bound at
/// every look, and the account is that of what is there when all is done.
#[test]
fn the_account_is_right_at_every_moment() {
    for (policy, seed) in [(Eviction::Cost, 1), (Eviction::Cost, 2), (Eviction::Lru, 3)] {
        let store = memory(policy, MemoryLimits { responses: Some(300), ..MEMORY });
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let changing: Vec<_> = (0..3)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || change(store, &mut Random::new(seed * 10 + thread))
                    })
                })
                .collect();
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    let usage = store.usage().memory;
                    let bytes = usage.bytes + usage.arriving_bytes;
                    assert!(bytes <= MEMORY.bytes && usage.responses <= 300, "{usage:?}");
                }
            });
            for thread in changing {
                let result = thread.join();
                ends.store(true, Ordering::Relaxed);
                result.expect("it ends well");
            }
        });
        let usage = store.usage().memory;
        let there: usize =
            (0..KEYS).map(|number| contents(&store, &number.to_string()).len()).sum();
        assert_eq!((usage.responses, usage.arriving_bytes), (there as u64, 0), "{policy:?} {seed}");
        clear(&store);
        assert_eq!((stored(&store), store.usage().memory.bytes), (0, 0), "{policy:?} {seed}");
    }
}

const KEYS: usize = 400;

fn change(store: &Arc<Cache>, random: &mut Random) {
    for _ in 0..4_000 {
        let key = random.below(KEYS).to_string();
        let (key, size) = (CacheKey::from(key.as_str()), random.below(9_000));
        match random.below(40) {
            0 => _ = store.invalidate(&key, None),
            1 => _ = store.sweep(at(4)),
            2 if random.below(20) == 0 => _ = clear(store),
            3..10 => {
                if let Some(found) = store.look_at(key.as_str()) {
                    found[0].note_reuse();
                    let new =
                        Arc::new(found[0].with(found[0].head().clone(), found[0].content.clone()));
                    store.replace(&key, &found[0], new, &store.note(&key));
                }
            }
            10..15 => {
                let language = format!("l{}", random.below(5));
                put(store, key.as_str(), response(Some(&language), &vec![1; size], 9));
            }
            _ => {
                let mut reservation = store.reserve();
                if reservation.grow(size as u64) {
                    put(
                        store,
                        key.as_str(),
                        response(None, &vec![1; size], random.below(9) as u64),
                    );
                }
            }
        }
    }
}

/// What was seen before everything was removed is not written back after it, in another form or with another variant.
#[test]
fn what_is_cleared_does_not_come_back() {
    for policy in [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru] {
        let store = &memory(policy, MemoryLimits { bytes: 16 << 20, ..MEMORY });
        for turn in 0..20 {
            let fill = |from: usize| {
                for number in from..from + 300 {
                    fetch(store, &format!("{turn}-{number}"), 500, Duration::ZERO);
                }
            };
            fill(0);
            let is_cleared = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_cleared.load(Ordering::Relaxed) {
                        for number in 0..300 {
                            let key = CacheKey::from(&*format!("{turn}-{number}"));
                            let Some(found) = store.look_at(key.as_str()) else { continue };
                            let old = &found[0];
                            let new = Arc::new(old.with(old.head().clone(), old.content.clone()));
                            let begun = store.note(&key);
                            store.replace(&key, old, new, &begun);
                        }
                    }
                });
                clear(store);
                is_cleared.store(true, Ordering::Relaxed);
            });
            // Whoever freshened a response found it before, or not at all.
            assert_eq!(store.usage().memory.responses, 0, "{policy:?}, turn {turn}");
        }
    }
}

/// A body on its way in has its own quarter where that is not lent.
#[test]
fn what_comes_in_removes_nothing_where_its_quarter_is_not_lent() {
    let store = memory(Eviction::Entire, MEMORY);
    scan(&store, 0, 250);
    let before = store.usage().memory.responses;
    assert!(before > 100);
    let mut reservation = store.reserve();
    assert!(reservation.grow(MEMORY.bytes / 4) && !reservation.grow(1));
    assert_eq!(store.usage().memory.responses, before);
}
