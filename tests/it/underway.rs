//! What was on its way when something was invalidated: exactly what was meant is kept out, and nothing else,
//! whatever the order of the steps, with several fetches and several threads on one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::message::body::Arriving;
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::StoredResponse;
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::underway::Begun;
use http::{HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::*;

use super::support;
use super::support::seeded::seeded;
use super::support::stored::{at, clear, content, memory, response};
use super::support::{PATIENCE, TemporaryFolder};

const POLICIES: [Eviction; 5] =
    [Eviction::Cost, Eviction::S3Fifo, Eviction::Lru, Eviction::Entire, Eviction::None];
const ROOMY: MemoryLimits =
    MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 8 << 20 };
const DISK: DiskLimits = DiskLimits { bytes: 256 << 20, responses: None, content_bytes: 64 << 20 };
const KEYS: [&str; 5] =
    ["http://o/a", "http://o/a/1", "http://o/a/2", "http://o/b", "http://o/b.png"];
const TAGS: [&str; 3] = ["red", "green", ""];
const NOW: u64 = 100;

fn behind_memory(folder: &TemporaryFolder) -> Arc<Cache> {
    let backing = Sqlite::open(&folder.file("cache.db"), DISK).expect("a store");
    let memory = store(Eviction::Lru, ROOMY);
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 1 << 20, false).expect("a thread"))
}

/// A response with a tag and this content, fresh or stale.
fn tagged(tag: &str, text: &str, is_fresh: bool) -> Arc<StoredResponse> {
    let mut head = response(None, b"", 1000).head().clone();
    let value = HeaderValue::try_from(tag).expect("a value");
    let mut fields = head.fields.to_fields();
    fields.append(HeaderName::from_static("surrogate-key"), value);
    head.fields = fields.into();
    head.fresh_until = at(if is_fresh { NOW + 1 } else { NOW });
    Arc::new(StoredResponse::new(head, Bytes::copy_from_slice(text.as_bytes())))
}

/// However many other keys are invalidated: none of them shares anything with the one that is on its way.
#[test]
fn an_invalidation_of_other_keys_keeps_nothing_out() {
    let folder = TemporaryFolder::new();
    let mut stores: Vec<_> = POLICIES.iter().map(|policy| memory(*policy, ROOMY)).collect();
    stores.push(behind_memory(&folder));
    for store in &stores {
        let key = CacheKey::from("http://o/a");
        let begun = store.note(&key);
        for number in 0..3_000 {
            store.invalidate(&CacheKey::from(format!("http://o/a{number}").as_str()), None);
        }
        let others = [
            Selector::Prefix("http://o/b".into()),
            Selector::Match(Glob::new("*.png")),
            Selector::Tag("red".into()),
            Selector::Stale,
        ];
        for selector in &others {
            store.forget(selector, at(NOW));
        }
        assert_eq!(store.put(&key, tagged("green", "x", true), &begun), Put::Stored);
        assert!(store.look_at("http://o/a").is_some());
    }
}

/// What is remembered for one fetch is bounded, and beyond the bound nothing gets in that was meant.
#[test]
fn more_purges_than_are_remembered_are_as_good_as_a_clear() {
    for policy in POLICIES {
        let store = memory(policy, ROOMY);
        let key = CacheKey::from("http://o/a");
        for (purges, expected) in [(64, Put::Stored), (65, Put::Cleared), (1_000, Put::Cleared)] {
            let begun = store.note(&key);
            for number in 0..purges {
                store.forget(&Selector::Tag(format!("t{number}")), at(NOW));
            }
            assert_eq!(begun.moment(), purges.min(65), "{policy:?}");
            assert_eq!(store.put(&key, tagged("red", "x", true), &begun), expected, "{purges}");
        }
    }
}

/// A large body on its way behind memory: whoever reads along reads to the end, and nothing is left of it.
#[test]
fn what_is_invalidated_on_its_way_behind_memory_is_read_to_its_end() {
    let folder = TemporaryFolder::new();
    let store = behind_memory(&folder);
    let key = CacheKey::from("http://o/a");
    let body: Vec<u8> = (0..500_000_u32).map(|number| (number % 241) as u8).collect();
    // Here, and where the store behind memory alone knows of it.
    for is_here in [true, false] {
        let begun = support::stored::begun(&store, &key);
        let head = tagged("red", "", true).head().clone();
        let mut recording = support::stored::behind(&store, &key, head, &begun);
        assert!(
            body.chunks(10_000).all(|piece| recording.write(piece) && recording.wait_for_space())
        );
        let mut reader = recording
            .spooled()
            .expect("it goes behind memory")
            .reader()
            .expect("it has not failed");
        let mut read = vec![0; body.len() / 2];
        read_exactly(&mut reader, &mut read);
        assert!(read[..] == body[..read.len()]);
        if is_here {
            store.invalidate(&key, None);
        } else {
            let other = behind_memory(&folder);
            other.invalidate(&key, None);
            assert!(other.flush(PATIENCE));
        }
        assert_eq!(recording.commit(Bytes::new()).wait(), Put::Cleared);
        let mut rest = vec![0; body.len() - read.len()];
        read_exactly(&mut reader, &mut rest);
        assert!(rest[..] == body[read.len()..], "{is_here}");
        assert_eq!(reader.read(&mut [0]).expect("a proven end"), 0);
    }
    assert!(support::stored::contents(&store, "http://o/a").is_empty());
    let shell = rusqlite::Connection::open(folder.file("cache.db")).expect("a database");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = "SELECT (SELECT count(*) FROM responses) + (SELECT count(*) FROM contents)";
        let left: u64 = shell.query_row(text, [], |row| row.get(0)).expect("a number");
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{left} rows are left");
        super::support::pause();
    }
}

fn read_exactly(reader: &mut dyn Arriving, all: &mut [u8]) {
    let mut filled = 0;
    while filled < all.len() {
        filled += match reader.read(&mut all[filled..]).expect("it is not cut") {
            0 => panic!("it ends after {filled} bytes"),
            count => count,
        };
    }
}

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Begin(usize),
    /// One of the fetches that are under way brings a response with this tag.
    Bring(usize, usize, bool),
    /// It fails.
    Fail(usize),
    Invalidate(usize),
    Purge(Selector),
}

fn step() -> impl Strategy<Value = Step> {
    let selector = prop_oneof![
        (0..KEYS.len()).prop_map(|key| Selector::Uri(KEYS[key].to_string())),
        prop_oneof!["http://o/a", "http://o/a/", "http://o/b", "http://o/c"]
            .prop_map(Selector::Prefix),
        Just(Selector::Match(Glob::new("*.png"))),
        (0..TAGS.len()).prop_map(|tag| Selector::Tag(TAGS[tag].to_string())),
        Just(Selector::Stale),
        Just(Selector::All),
    ];
    prop_oneof![
        4 => (0..KEYS.len()).prop_map(Step::Begin),
        4 => (0..8_usize, 0..TAGS.len(), any::<bool>())
            .prop_map(|(fetch, tag, fresh)| Step::Bring(fetch, tag, fresh)),
        1 => (0..8_usize).prop_map(Step::Fail),
        1 => (0..KEYS.len()).prop_map(Step::Invalidate),
        2 => selector.prop_map(Step::Purge),
    ]
}

/// What the store should hold: the last response for each key, and all that was purged, in order.
#[derive(Default)]
struct Model {
    stored: BTreeMap<usize, Arc<StoredResponse>>,
    purged: Vec<Selector>,
    /// The key, how many purges there were then, and what the store said.
    fetches: Vec<(usize, usize, Begun)>,
}

impl Model {
    fn purge(&mut self, selector: &Selector) {
        self.stored.retain(|key, stored| !selector.selects(KEYS[*key], stored.head(), at(NOW)));
        self.purged.push(selector.clone());
    }

    fn bring(
        &mut self,
        fetch: usize,
        response: &Arc<StoredResponse>,
    ) -> Option<(usize, Begun, Put)> {
        if self.fetches.is_empty() {
            return None;
        }
        let (key, since, begun) = self.fetches.remove(fetch % self.fetches.len());
        let meant = |selector: &Selector| selector.selects(KEYS[key], response.head(), at(NOW));
        let put = if self.purged[since..].iter().any(meant) { Put::Cleared } else { Put::Stored };
        if put == Put::Stored {
            self.stored.insert(key, Arc::clone(response));
        }
        Some((key, begun, put))
    }
}

fn play(store: &Arc<Cache>, steps: &[Step]) {
    let mut model = Model::default();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Begin(key) => {
                let begun = store.note(&CacheKey::from(KEYS[*key]));
                model.fetches.push((*key, model.purged.len(), begun));
            }
            Step::Bring(fetch, tag, is_fresh) => {
                let response = tagged(TAGS[*tag], &number.to_string(), *is_fresh);
                let Some((key, begun, expected)) = model.bring(*fetch, &response) else { continue };
                let put = store.put(&CacheKey::from(KEYS[key]), response, &begun);
                assert_eq!(put, expected, "step {number} of {steps:?}");
            }
            Step::Fail(fetch) if !model.fetches.is_empty() => {
                let fetch = fetch % model.fetches.len();
                model.fetches.remove(fetch);
            }
            Step::Fail(_) => {}
            Step::Invalidate(key) => {
                store.invalidate(&CacheKey::from(KEYS[*key]), None);
                model.purge(&Selector::Uri(KEYS[*key].to_string()));
            }
            Step::Purge(selector) => {
                store.forget(selector, at(NOW));
                model.purge(selector);
            }
        }
        for (index, key) in KEYS.iter().enumerate() {
            let found = store.look_at(key).map(|variants| content(&variants[0]));
            let expected = model.stored.get(&index).map(|stored| content(stored));
            assert_eq!(found, expected, "{key} after step {number} of {steps:?}");
        }
    }
}

proptest! {
    #![proptest_config(seeded(Some(200)))]

    #[test]
    fn any_history_ends_as_a_plain_model_says(steps in vec(step(), 1..60)) {
        for policy in POLICIES {
            play(&memory(policy, ROOMY), &steps);
        }
    }
}

proptest! {
    #![proptest_config(seeded(Some(8)))]

    /// As far as memory is concerned.
    #[test]
    fn the_same_with_a_store_behind_memory(steps in vec(step(), 1..40)) {
        play(&behind_memory(&TemporaryFolder::new()), &steps);
    }
}

/// One thread changes what the origin server has and invalidates it, others fetch it all the while: after
/// an invalidation nothing older than it is found.
#[test]
fn nothing_older_is_found_after_an_invalidation_whoever_stores_meanwhile() {
    let folder = TemporaryFolder::new();
    let mut stores: Vec<_> = POLICIES.iter().map(|policy| memory(*policy, ROOMY)).collect();
    stores.push(behind_memory(&folder));
    let key = CacheKey::from("http://o/a");
    let removals: [fn(&Cache); 4] = [
        |store| _ = store.invalidate(&CacheKey::from("http://o/a"), None),
        |store| _ = store.forget(&Selector::Prefix("http://o/".into()), Timestamp(0)),
        |store| _ = store.forget(&Selector::Tag("red".into()), Timestamp(0)),
        |store| _ = clear(store),
    ];
    for store in &stores {
        let (version, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        let begun = store.note(&key);
                        let seen = version.load(Ordering::SeqCst);
                        store.put(&key, tagged("red", &seen.to_string(), true), &begun);
                    }
                });
            }
            let rounds = if store.has_backing() { 8 } else { 200 };
            for round in 0..rounds {
                let present = version.fetch_add(1, Ordering::SeqCst) + 1;
                removals[round % removals.len()](store);
                for found in store.look_at(key.as_str()).unwrap_or_default().iter() {
                    let text = String::from_utf8_lossy(&content(found)).into_owned();
                    assert!(text.parse::<u64>().expect("a number") >= present, "{text} {present}");
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
    }
}
