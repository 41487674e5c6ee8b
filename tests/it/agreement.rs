//! Memory and the store behind it hold the same: whatever is put, freshened, removed and purged in a row, and
//! wherever the writer cuts it into transactions, what is found behind memory is what a plain model has.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::support;
use super::support::redis::Server;
use super::support::seeded::seeded;
use super::support::stored::{at, begun, content, response, variants};
use super::support::{PATIENCE, TemporaryFolder};
use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::digest::Salt;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::Store;
use caching_proxy::store::backing::{
    Backing, BackingError, BackingUsage, Change, Invalidations, Listed, Recalled,
};
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::redis::{Address, Redis, RedisLimits};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use parking_lot::RwLock;
use proptest::collection::vec;
use proptest::prelude::*;

const ROOMY: MemoryLimits =
    MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 8 << 20 };
const DISK: DiskLimits = DiskLimits { bytes: 256 << 20, responses: None, content_bytes: 64 << 20 };
const KEYS: [&str; 3] = ["http://o/a", "http://o/a/1", "http://o/b"];
const LANGUAGES: [Option<&str>; 3] = [None, Some("en"), Some("de")];

/// A store whose changes wait until the gate is open.
struct Gated {
    inner: Box<dyn Backing>,
    gate: RwLock<()>,
}

impl Backing for Gated {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }
    fn listen(&self, invalidations: Arc<dyn Invalidations>) {
        self.inner.listen(invalidations);
    }
    fn recall(&self, key: &CacheKey, claims: bool) -> Result<Recalled, BackingError> {
        self.inner.recall(key, claims)
    }
    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        let _open = self.gate.read();
        self.inner.apply(changes)
    }
    fn salt(&self) -> Option<Arc<Salt>> {
        self.inner.salt()
    }
    fn content_bytes_max(&self) -> u64 {
        self.inner.content_bytes_max()
    }
    fn batch_bytes(&self) -> u64 {
        self.inner.batch_bytes()
    }
    fn usage(&self) -> Result<BackingUsage, BackingError> {
        self.inner.usage()
    }
    fn list(&self, after: &str, most: usize) -> Result<Vec<Listed>, BackingError> {
        self.inner.list(after, most)
    }
    fn tidy(&self) -> Duration {
        self.inner.tidy()
    }
    fn close(&self) {
        self.inner.close();
    }
}

fn sqlite(path: &Path, content_bytes: u64) -> Arc<Gated> {
    let limits = DiskLimits { content_bytes, ..DISK };
    let inner = Box::new(Sqlite::open(path, limits).expect("a store"));
    Arc::new(Gated { inner, gate: RwLock::default() })
}

fn redis(server: &Server, content_bytes: u64) -> Arc<Gated> {
    let address = Address::read(&server.url()).expect("an address");
    let wanted = RedisLimits { prefix: "test:".to_string(), content_bytes, answer_max: PATIENCE };
    let inner = Box::new(Redis::open(address, wanted).expect("a store"));
    let deadline = Instant::now() + PATIENCE;
    while !inner.is_ready() {
        assert!(Instant::now() < deadline, "Redis is there, and not used");
        super::support::pause();
    }
    Arc::new(Gated { inner, gate: RwLock::default() })
}

/// Changes that the backing store did not take.
fn dropped(store: &Cache) -> u64 {
    store.usage().backing.expect("there is one").dropped
}

fn tiers(backing: &Arc<Gated>, memory: Arc<dyn Store>) -> Arc<Cache> {
    let backing = Arc::clone(backing) as Arc<dyn Backing>;
    Arc::new(Cache::with_backing(memory, backing, 1 << 20, true).expect("a thread"))
}

/// Something that is done to the store. A response is known by its key, its language, and how many came
/// before it there.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: usize,
        language: usize,
    },
    /// A 304 confirms it, or what came so many before it.
    Freshen {
        key: usize,
        language: usize,
        back: usize,
    },
    Remove {
        key: usize,
        language: usize,
        back: usize,
    },
    Use {
        key: usize,
        language: usize,
    },
    Invalidate {
        key: usize,
    },
    Purge(usize),
    /// All that was done so far is carried out.
    Cut,
}

const SELECTORS: usize = 4;

fn selector(number: usize) -> Selector {
    match number {
        0 => Selector::All,
        1 => Selector::Uri(KEYS[0].to_string()),
        2 => Selector::Prefix(KEYS[0].to_string()),
        _ => Selector::Stale,
    }
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let language = 0..LANGUAGES.len();
    let one = (key.clone(), language, 0..3_usize);
    let one = || one.clone();
    prop_oneof![
        6 => one().prop_map(|(key, language, _)| Step::Put { key, language }),
        4 => one().prop_map(|(key, language, back)| Step::Freshen { key, language, back }),
        4 => one().prop_map(|(key, language, back)| Step::Remove { key, language, back }),
        2 => one().prop_map(|(key, language, _)| Step::Use { key, language }),
        1 => key.prop_map(|key| Step::Invalidate { key }),
        1 => (0..SELECTORS).prop_map(Step::Purge),
        2 => Just(Step::Cut),
    ]
}

/// What a response is, as far as the model goes: its content, and until when it is fresh.
type Facts = (Bytes, Timestamp);
type Held = BTreeMap<(usize, usize), Facts>;

fn facts(response: &StoredResponse) -> Facts {
    (content(response), response.fresh_until)
}

/// A store, and what it should hold.
struct Trial {
    store: Arc<Cache>,
    backing: Arc<Gated>,
    /// A shared store takes nothing from who has not asked it.
    asks: bool,
    model: Held,
    /// All that there has ever been, the last one last.
    history: BTreeMap<(usize, usize), Vec<Arc<StoredResponse>>>,
    begun: Vec<caching_proxy::store::underway::Begun>,
    count: u64,
}

impl Trial {
    fn new(backing: Arc<Gated>, asks: bool) -> Self {
        let store = tiers(&backing, store(Eviction::None, ROOMY));
        let (model, history, begun) = (Held::new(), BTreeMap::new(), Vec::new());
        let mut trial = Self { store, backing, asks, model, history, begun, count: 0 };
        trial.ask();
        trial
    }

    fn ask(&mut self) {
        let begin = |key: &&str| begun(&self.store, &CacheKey::from(*key));
        self.begun = KEYS.iter().filter(|_| self.asks).map(begin).collect();
    }

    /// The fetch of a response that comes now.
    fn begin(&self, key: usize) -> caching_proxy::store::underway::Begun {
        let begun = self.store.note(&CacheKey::from(KEYS[key]));
        self.begun.get(key).map_or(begun.clone(), |asked| begun.with(asked.backing()))
    }

    fn past(&self, one: (usize, usize), back: usize) -> Option<Arc<StoredResponse>> {
        let all = self.history.get(&one)?;
        all.len().checked_sub(back + 1).map(|index| Arc::clone(&all[index]))
    }

    fn is_held(&self, one: (usize, usize), response: &StoredResponse) -> bool {
        self.model.get(&one) == Some(&facts(response))
    }

    fn add(&mut self, one: (usize, usize), response: &Arc<StoredResponse>) {
        self.model.insert(one, facts(response));
        self.history.entry(one).or_default().push(Arc::clone(response));
    }

    fn take(&mut self, step: &Step) {
        self.count += 1;
        let until = at(1000 + self.count);
        match *step {
            Step::Put { key, language } => {
                let text = format!("{} {}", KEYS[key], self.count);
                let made = response(LANGUAGES[language], text.as_bytes(), 1_000_000);
                let head = StoredHead {
                    fresh_until: until,
                    response_time: Timestamp(self.count),
                    ..made.head().clone()
                };
                let made = Arc::new(StoredResponse::new(head, made.content.clone()));
                self.store.put(&KEYS[key].into(), Arc::clone(&made), &self.begin(key));
                self.add((key, language), &made);
            }
            Step::Freshen { key, language, back } => {
                let one = (key, language);
                let Some(old) = self.past(one, back) else { return };
                let head = StoredHead {
                    fresh_until: until,
                    response_time: Timestamp(self.count),
                    ..old.head().clone()
                };
                let fresh = Arc::new(old.with(head, old.content.clone()));
                let is_held = self.is_held(one, &old);
                self.store.replace(&KEYS[key].into(), &old, Arc::clone(&fresh), &self.begin(key));
                if is_held {
                    self.add(one, &fresh);
                }
            }
            Step::Remove { key, language, back } => {
                let Some(old) = self.past((key, language), back) else { return };
                if self.is_held((key, language), &old) {
                    self.model.remove(&(key, language));
                }
                self.store.remove(&KEYS[key].into(), &old);
            }
            Step::Use { key, language } => {
                if let Some(used) = self.past((key, language), 0) {
                    used.note_reuse();
                    self.store.touch(KEYS[key], &used);
                }
            }
            Step::Invalidate { key } => {
                self.store.invalidate(&KEYS[key].into(), None);
                self.model.retain(|(other, _), _| *other != key);
            }
            Step::Purge(number) => self.purge(&selector(number), at(1000 + self.count / 2)),
            Step::Cut => {}
        }
    }

    /// A purge waits until it is carried out, with what came before it.
    fn purge(&mut self, selector: &Selector, now: Timestamp) {
        self.store.forget(selector, now);
        let head =
            |fresh_until| StoredHead { fresh_until, ..response(None, b"", 0).head().clone() };
        self.model.retain(|(key, _), (_, until)| !selector.selects(KEYS[*key], &head(*until), now));
    }

    /// What is behind memory.
    fn found(&self) -> Held {
        let mut held = Held::new();
        for (key, name) in KEYS.iter().enumerate() {
            for response in variants(&self.store, name) {
                let fits = |language| {
                    support::stored::response(language, b"", 0).selecting == response.selecting
                };
                let language = LANGUAGES.into_iter().position(fits).expect("one of them");
                let twice = held.insert((key, language), facts(&response));
                assert!(twice.is_none(), "two of {name} {:?}", LANGUAGES[language]);
            }
        }
        held
    }

    /// Does these with the gate closed, but for one change that the writer may have taken, then opens it.
    fn run(&mut self, steps: &[Step]) {
        for segment in steps.split_inclusive(|step| matches!(step, Step::Cut)) {
            self.ask();
            let (open, opened): (Sender<()>, Receiver<()>) = channel();
            let backing = Arc::clone(&self.backing);
            thread::scope(|scope| {
                let (told, is_closed) = channel();
                scope.spawn(move || {
                    let _gate = backing.gate.write();
                    told.send(()).expect("it is waited for");
                    let _ = opened.recv();
                });
                is_closed.recv().expect("it is closed");
                let mut open = Some(open);
                for step in segment {
                    if matches!(step, Step::Purge(_)) {
                        open = None;
                    }
                    self.take(step);
                }
                drop(open);
            });
            let there = self.found();
            self.check(&there, &segment);
        }
    }

    fn check(&self, there: &Held, what: &dyn Debug) {
        if self.asks {
            for (one, facts) in there {
                assert_eq!(self.model.get(one), Some(facts), "{one:?} after {what:?}");
            }
        } else {
            assert_eq!(*there, self.model, "after {what:?}");
        }
    }
}

proptest! {
    #![proptest_config(seeded(Some(60)))]

    #[test]
    fn a_file_holds_what_was_stored_last_and_not_removed(steps in vec(step(), 1..40)) {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        let mut trial = Trial::new(sqlite(&path, ROOMY.content_bytes), false);
        trial.run(&steps);
        prop_assert!(trial.store.close(PATIENCE));
        let Trial { model, .. } = trial;
        let again = Trial::new(sqlite(&path, ROOMY.content_bytes), false);
        prop_assert_eq!(again.found(), model, "after a restart");
    }
}

#[test]
fn a_shared_store_holds_nothing_but_what_was_stored_last_and_not_removed() {
    for program in support::redis::programs() {
        let server = Server::start(program);
        proptest!(seeded(Some(15)), |(steps in vec(step(), 1..40))| {
            server.ask(&["FLUSHALL"]);
            Trial::new(redis(&server, ROOMY.content_bytes), true).run(&steps);
        });
    }
}

/// How often a response may be reused is limited (`--hit-ttl`), also by a program that starts again.
#[test]
fn uses_of_what_is_not_written_yet_are_counted() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let mut trial = Trial::new(sqlite(&path, ROOMY.content_bytes), false);
    let used = Step::Use { key: 0, language: 0 };
    trial.run(&[Step::Put { key: 0, language: 0 }, used.clone(), used.clone(), used]);
    assert!(trial.store.close(PATIENCE));
    drop(trial);
    let again = Trial::new(sqlite(&path, ROOMY.content_bytes), false);
    assert_eq!(variants(&again.store, KEYS[0])[0].reuses(), 3);
}

/// The file is taken away, and a new one begins with other responses: what memory still has of the old one
/// must not be written over them.
#[test]
fn what_was_in_a_file_that_is_gone_changes_nothing_in_the_next() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let mut trial = Trial::new(sqlite(&path, ROOMY.content_bytes), false);
    trial.take(&Step::Put { key: 0, language: 0 });
    assert!(trial.store.flush(PATIENCE));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let put = Step::Put { key: 0, language: 1 };
    let freshen = Step::Freshen { key: 0, language: 0, back: 0 };
    for step in [put, freshen, Step::Remove { key: 0, language: 0, back: 1 }] {
        trial.take(&step);
    }
    let found = trial.found();
    assert_eq!(found.get(&(0, 1)), trial.model.get(&(0, 1)));
    assert_eq!(found.len(), 1, "what was not in this file is not freshened there");
}

/// A response for `KEYS[0]` that came at `time`.
fn came_at(time: u64, content: &[u8]) -> Arc<StoredResponse> {
    let made = response(None, content, 1_000);
    let head = StoredHead { response_time: Timestamp(time), ..made.head().clone() };
    Arc::new(StoredResponse::new(head, made.content.clone()))
}

/// How the new response does not get behind memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refusal {
    QueueFull,
    TooLarge,
}

/// Memory has room for one response.
fn old_response_is_not_found(backing: &Arc<Gated>, refusal: Refusal, is_freshened: bool) {
    const FULL: usize = 6_000;
    let case = format!("{} {refusal:?} {is_freshened}", backing.name());
    let key = CacheKey::from(KEYS[0]);
    let tiny = MemoryLimits { responses: Some(1), ..ROOMY };
    let store = &tiers(backing, store(Eviction::Lru, tiny));
    support::stored::put(store, KEYS[0], came_at(1, b"old"));
    assert!(store.flush(PATIENCE));
    let asked = begun(store, &key);
    let old = store.look_at(KEYS[0]).expect("it is in memory")[0].clone();
    let gate = backing.gate.write();
    let before = dropped(store);
    if refusal == Refusal::QueueFull {
        for number in 0..FULL {
            store.remove(&CacheKey::from(format!("f{number}").as_str()), &came_at(1, b""));
        }
        assert!(dropped(store) > before, "{case}: it is full");
    }
    let large = vec![b'x'; if refusal == Refusal::TooLarge { 5_000 } else { 5 }];
    if is_freshened {
        let head = StoredHead { response_time: Timestamp(2), ..old.head().clone() };
        store.replace(&key, &old, Arc::new(old.with(head, old.content.clone())), &asked);
    } else {
        store.put(&key, came_at(2, &large), &asked);
    }
    drop(gate);
    support::stored::put(store, KEYS[2], came_at(3, b"another"));
    assert!(store.look_at(KEYS[0]).is_none(), "{case}: it is evicted");
    let found = variants(store, KEYS[0]);
    assert!(found.iter().all(|found| found.response_time > Timestamp(1)), "{case}");
    // Nor by a program that starts again, or another one that shares the store.
    assert!(store.close(PATIENCE));
}

#[test]
fn what_was_replaced_in_memory_is_not_found_behind_it() {
    let table =
        [(Refusal::QueueFull, false), (Refusal::QueueFull, true), (Refusal::TooLarge, false)];
    for (refusal, is_freshened) in table {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        let again = |backing: Arc<Gated>| {
            let found = backing.recall(&CacheKey::from(KEYS[0]), false).expect("it works").variants;
            let is_new = |found: &Arc<StoredResponse>| found.response_time > Timestamp(1);
            assert!(found.iter().all(is_new), "{}: {refusal:?} after a restart", backing.name());
        };
        old_response_is_not_found(&sqlite(&path, 1_000), refusal, is_freshened);
        again(sqlite(&path, 1_000));
        for program in support::redis::programs() {
            let server = Server::start(program);
            old_response_is_not_found(&redis(&server, 1_000), refusal, is_freshened);
            again(redis(&server, 1_000));
        }
    }
}

/// Nothing is taken by a shared store from a proxy that could not ask it first; what that has in memory is
/// newer all the same.
#[test]
fn what_a_shared_store_does_not_take_displaces_what_it_has() {
    for program in support::redis::programs() {
        let server = Server::start(program);
        let store = &tiers(&redis(&server, 1_000), store(Eviction::None, ROOMY));
        support::stored::put(store, KEYS[0], came_at(2, b"old"));
        let unasked = store.note(&CacheKey::from(KEYS[0]));
        store.put(&CacheKey::from(KEYS[0]), came_at(1, b"older"), &unasked);
        assert_eq!(variants(store, KEYS[0]).len(), 1, "what is there is newer");
        let unasked = store.note(&CacheKey::from(KEYS[0]));
        store.put(&CacheKey::from(KEYS[0]), came_at(3, b"new"), &unasked);
        assert!(variants(store, KEYS[0]).is_empty());
    }
}
