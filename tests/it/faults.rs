//! The store behind memory fails now and then, before a change or after it, and memory has room for little:
//! a client never gets an older response than one that was stored before, nor one that was removed or purged.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support;
use super::support::redis::Server;
use super::support::stored::{at, begun, content, response};
use super::support::{PATIENCE, TemporaryFolder};
use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::digest::Salt;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::Put;
use caching_proxy::store::backing::{
    Backing, BackingError, BackingUsage, Change, Invalidations, Listed, Recalled,
};
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::redis::{Address, Redis, RedisLimits};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::underway::Begun;

const KEYS: [&str; 4] = ["http://o/a", "http://o/a/1", "http://o/b", "http://o/c"];
const STEPS: usize = 400;

/// The same numbers for the same seed.
struct Dice(AtomicU64);

impl Dice {
    fn below(&self, most: u64) -> u64 {
        let next = |state: u64| {
            let state = state ^ state << 13;
            let state = state ^ state >> 7;
            Some(state ^ state << 17)
        };
        let state = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        state.expect("there is always a next one") % most
    }
}

/// A store that does not do what it is asked for, or does it and says that it has failed.
struct Faulty {
    inner: Box<dyn Backing>,
    dice: Dice,
    /// Three of so many changes fail, and one of so many recalls.
    odds: u64,
}

/// After a fault little is asked for a while, so some trials have few, and some none.
const ODDS: [u64; 3] = [u64::MAX, 400, 40];

fn fault() -> BackingError {
    BackingError("a fault".to_string())
}

impl Backing for Faulty {
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
        if self.dice.below(self.odds) == 0 { Err(fault()) } else { self.inner.recall(key, claims) }
    }
    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        match self.dice.below(self.odds) {
            0 => Err(fault()),
            1 => self.inner.apply(changes).and(Err(fault())),
            2 => {
                // Only Redis carries out a part; which of the changes it is nobody learns.
                self.inner.apply(&changes[..changes.len() / 2]).and(Err(fault()))
            }
            _ => self.inner.apply(changes),
        }
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

/// A store under test, and what a client may get from it. Responses have numbers; later ones are larger.
struct Trial {
    store: Arc<Cache>,
    dice: Dice,
    last: u64,
    /// The oldest response that may still be given for a key.
    oldest: HashMap<usize, u64>,
    /// Responses that were not let in.
    refused: HashSet<u64>,
    /// Fetches and recalls that began a while ago.
    fetches: Vec<(usize, Begun)>,
    recalls: Vec<(usize, Arc<StoredResponse>, Begun)>,
    log: Vec<String>,
}

impl Trial {
    fn new(inner: Box<dyn Backing>, seed: u64, memory_bytes: u64) -> Self {
        let dice = || Dice(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        let backing =
            Arc::new(Faulty { inner, dice: dice(), odds: ODDS[seed as usize % ODDS.len()] });
        let limits =
            MemoryLimits { bytes: 64 << 20, responses: Some(2), content_bytes: memory_bytes };
        let tiers = Cache::with_backing(store(Eviction::Lru, limits), backing, 200_000, false);
        Self {
            store: Arc::new(tiers.expect("a thread")),
            dice: dice(),
            last: 0,
            oldest: HashMap::new(),
            refused: HashSet::new(),
            fetches: Vec::new(),
            recalls: Vec::new(),
            log: Vec::new(),
        }
    }

    fn next(&mut self) -> Arc<StoredResponse> {
        self.last += 1;
        let size = [10, 10, 10, 5_000][self.dice.below(4) as usize];
        let text = format!("{:>size$}", self.last);
        let made = response(None, text.as_bytes(), 1_000_000);
        let response_time = Timestamp(self.last);
        let head = StoredHead { response_time, ..made.head().clone() };
        Arc::new(StoredResponse::new(head, made.content.clone()))
    }

    /// The fetch of a response that comes now: it began just now, or a while ago.
    fn fetch(&mut self, key: usize) -> Begun {
        let old = self.fetches.iter().position(|(other, _)| *other == key);
        if let Some(old) = old.filter(|_| self.dice.below(2) == 0) {
            return self.fetches.swap_remove(old).1;
        }
        begun(&self.store, &KEYS[key].into())
    }

    fn stored(&mut self, key: usize, number: u64, put: Put) {
        match put {
            Put::Stored => _ = self.oldest.insert(key, number),
            Put::Cleared => _ = self.refused.insert(number),
            Put::TooLarge | Put::Replaced => {}
        }
    }

    fn gone(&mut self, key: usize) {
        self.oldest.insert(key, self.last + 1);
    }

    /// What a client gets.
    fn look_up(&mut self, key: usize) -> Option<Arc<StoredResponse>> {
        let name = CacheKey::from(KEYS[key]);
        let mut begun = self.store.note(&name);
        if let Some(here) = self.store.look_at(KEYS[key]) {
            self.store.touch(KEYS[key], &here[0]);
            return Some(here[0].clone());
        }
        let recalled = self.store.recall(&name, &mut begun, false);
        let found = recalled.variants.first()?;
        if self.dice.below(3) == 0 {
            // Another worker has found the same, and takes long to read it.
            self.recalls.push((key, Arc::clone(found), begun.clone()));
        }
        self.store.bring(&name, found, &begun)
    }

    fn check(&mut self, key: usize) {
        let Some(found) = self.look_up(key) else { return };
        let number = found.response_time.0;
        let oldest = self.oldest.get(&key).copied().unwrap_or(0);
        assert!(number >= oldest, "{key}: {number}, not {oldest}: {:#?}", self.log);
        assert!(!self.refused.contains(&number), "{key}: {number} was refused: {:#?}", self.log);
        let text = String::from_utf8(content(&found).to_vec()).expect("a number");
        let made = text.trim().parse::<u64>().expect("a number");
        assert!(made <= number, "{key}: {number} has the content of {made}");
    }

    fn step(&mut self) {
        let key = self.dice.below(KEYS.len() as u64) as usize;
        let name = CacheKey::from(KEYS[key]);
        let kind = self.dice.below(24);
        self.log.push(format!("{kind} {key} {}", self.last));
        match kind {
            0..6 => {
                let (made, begun) = (self.next(), self.fetch(key));
                let put = self.store.put(&name, Arc::clone(&made), &begun);
                self.stored(key, made.response_time.0, put);
            }
            6..9 => {
                let begun = self.fetch(key);
                let Some(old) = self.look_up(key) else { return };
                self.last += 1;
                let response_time = Timestamp(self.last);
                let head = StoredHead { response_time, ..old.head().clone() };
                let fresh = Arc::new(old.with(head, old.content.clone()));
                let put = self.store.replace(&name, &old, fresh, &begun);
                self.stored(key, response_time.0, put);
            }
            9 => {
                let Some(old) = self.look_up(key) else { return };
                self.store.remove(&name, &old);
                self.gone(key);
            }
            10 => {
                self.store.invalidate(&name, None);
                self.gone(key);
            }
            11 => self.purge(),
            12 | 13 => {
                let begun = self.fetch(key);
                self.fetches.push((key, begun));
            }
            14 | 15 => {
                if let Some((key, found, begun)) = self.recalls.pop() {
                    let _ = self.store.bring(&KEYS[key].into(), &found, &begun);
                }
            }
            16 => self.spool(key),
            17 => _ = self.store.flush(Duration::from_millis(50)),
            _ => self.check(key),
        }
    }

    fn purge(&mut self) {
        let selector = match self.dice.below(3) {
            0 => Selector::All,
            1 => Selector::Prefix(KEYS[0].to_string()),
            _ => Selector::Uri(KEYS[2].to_string()),
        };
        self.store.forget(&selector, at(0));
        for (key, name) in KEYS.iter().enumerate() {
            if selector.selects_key(name) == Some(true) {
                self.gone(key);
            }
        }
    }

    /// A large body; some do not come to their end.
    fn spool(&mut self, key: usize) {
        let (made, begun) = (self.next(), self.fetch(key));
        let head = made.head().clone();
        let begun = self.store.begin(KEYS[key].into(), head, begun, None);
        let Ok((mut recording, _)) = begun else { return };
        assert!(recording.overflow(Bytes::new(), None), "there is a backing store");
        let mut text = content(&made).to_vec();
        text.resize(150_000, b' ');
        let is_written = recording.write(&text) && recording.wait_for_space();
        if is_written && self.dice.below(3) > 0 {
            let put = recording.commit(Bytes::new()).wait();
            self.stored(key, made.response_time.0, put);
        }
    }

    fn run(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for _ in 0..STEPS {
            if Instant::now() > deadline {
                break;
            }
            self.step();
        }
        for key in 0..KEYS.len() {
            self.check(key);
        }
    }
}

/// Memory has room for less than the store behind it, or for more.
const SIZES: [(u64, u64); 2] = [(1_000, 1_000_000), (1_000_000, 1_000)];

fn sqlite(path: &Path, content_bytes: u64) -> Box<dyn Backing> {
    let limits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes };
    Box::new(Sqlite::open(path, limits).expect("a store"))
}

fn redis(server: &Server, seed: u64, content_bytes: u64) -> Box<dyn Backing> {
    let address = Address::read(&server.url()).expect("an address");
    let wanted = RedisLimits { prefix: format!("{seed}:"), content_bytes, answer_max: PATIENCE };
    let redis = Redis::open(address, wanted).expect("a store");
    let deadline = Instant::now() + PATIENCE;
    while !redis.is_ready() {
        assert!(Instant::now() < deadline, "Redis is there, and not used");
        super::support::pause();
    }
    Box::new(redis)
}

/// Other seeds by environment (`FAULTS_SEED`).
fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = first.unwrap_or(9111);
    first..first + count
}

#[test]
fn whatever_fails_in_a_file_no_older_response_is_given() {
    thread::scope(|scope| {
        for seed in seeds(24) {
            scope.spawn(move || {
                let folder = TemporaryFolder::new();
                let path = folder.file("cache.db");
                let (here, backing) = SIZES[seed as usize % 2];
                Trial::new(sqlite(&path, backing), seed, here).run();
            });
        }
    });
}

#[test]
fn whatever_fails_in_a_shared_store_no_older_response_is_given() {
    for program in support::redis::programs() {
        let server = &Server::start(program);
        thread::scope(|scope| {
            for seed in seeds(12) {
                scope.spawn(move || {
                    let (here, backing) = SIZES[seed as usize % 2];
                    Trial::new(redis(server, seed, backing), seed, here).run();
                });
            }
        });
    }
}

/// What a purge has said to be done is so for who is killed at that moment and starts again.
#[test]
fn what_is_purged_is_gone_after_a_kill() {
    for seed in seeds(8) {
        let folder = TemporaryFolder::new();
        let (path, copy) = (folder.file("cache.db"), folder.file("copy.db"));
        let (here, backing) = SIZES[0];
        let mut trial = Trial::new(sqlite(&path, backing), seed, here);
        for _ in 0..20 {
            trial.step();
        }
        let purged = trial.store.forget(&Selector::All, at(0));
        if purged.owed_by.is_some() {
            continue;
        }
        for suffix in ["", "-wal"] {
            // What a process that is killed leaves; the log may have gone into the file.
            let from = format!("{}{suffix}", path.display());
            let _ = fs::copy(from, format!("{}{suffix}", copy.display()));
        }
        let again = sqlite(&copy, backing);
        for key in KEYS {
            assert!(again.recall(&key.into(), false).expect("it works").variants.is_empty());
        }
    }
}
