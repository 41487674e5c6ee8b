//! The shared store: Redis or Valkey, on one server, a cluster or what Sentinels watch over.
//!
//! All responses for a target URI are fields of one hash, whose name is the prefix, the version of this
//! format, the generation and the URI in braces; so everything about one URI is on one node, and a clear is
//! a new generation. Generations are not counted but made from the clock: Redis may evict what says which
//! one it is, and the next must be none that was there before. Each field
//! has the response's number, how many purges it has stood, and a frame (`codec.rs`), with its content if
//! that is small; larger content is in keys of its own, piece by piece, each with a checksum. Redis
//! expires it all.
//!
//! What is removed stays removed: an invalidation raises a number beside the hash, a purge is written into
//! a list that each proxy compares with what it reads and writes, and what was asked for before is not
//! let in (`changes.rs`). What one proxy does, the others hear (`news.rs`). When Redis does not answer, it
//! is not asked any more until news come from it again.
//!
//! From below: `link.rs` and `links.rs` are connections, `purges.rs`, `values.rs` and `scripts.rs` what is
//! written, `shared.rs` what threads share, `content.rs` and `responses.rs` what is read.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Value, cmd};

use crate::clock::Clock;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::store::backing::{
    Backing, BackingError, BackingUsage, Change, Fetcher, Invalidations, Listed, Recalled, Stamp,
};
use crate::store::redis::links::Links;
use crate::store::redis::shared::RedisShared;
use crate::store::redis::waits::Waits;
use crate::store::tiers::breaker::LogLimit;

mod address;
mod changes;
mod content;
mod link;
mod links;
mod listing;
mod news;
mod purges;
mod responses;
mod scripts;
mod sentinel;
mod shared;
mod values;
mod waits;

pub use address::{Address, FORMS, Trust};
pub use shared::{ANSWER_MAX, RedisLimits};

/// For how long a claim holds, should its proxy end without a word.
const CLAIM: Duration = Duration::from_secs(10);

/// A store in Redis.
pub struct Redis(Arc<RedisShared>);

impl Redis {
    /// Opens the store. That Redis cannot be reached now is no error: it is used as soon as it can.
    pub fn open(address: Address, limits: RedisLimits) -> Result<Self, BackingError> {
        let links =
            Links::new(&address, limits.answer_max).map_err(|error| link::backing_error(&error))?;
        let hasher = RandomState::new();
        let id = format!("{:016x}", hasher.hash_one("proxy"));
        let shared = Arc::new(RedisShared {
            address,
            limits,
            links,
            id,
            state: Mutex::default(),
            salt: Mutex::default(),
            waits: Waits::default(),
            invalidations: Mutex::default(),
            last_number: AtomicU64::new(0),
            losses: LogLimit::default(),
            hasher,
        });
        news::start(&shared)?;
        Ok(Self(shared))
    }
}

impl Backing for Redis {
    fn name(&self) -> String {
        format!("store {}", self.0.address)
    }

    fn is_ready(&self) -> bool {
        self.0.links.is_up()
    }

    fn listen(&self, invalidations: Arc<dyn Invalidations>) {
        *self.0.invalidations.lock() = Some(invalidations);
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        self.0.salt.lock().clone()
    }

    fn recall(&self, key: &CacheKey, claims: bool) -> Result<Recalled, BackingError> {
        let shared = &self.0;
        shared.links.with(|link| {
            // One round trip, on the bet that nothing was cleared: the state that comes with the hash says
            // whether the bet was good.
            let known = shared.state().generation;
            let answers = link.ask(&[
                shared.read_state(),
                cmd("GET").arg(shared.invalidations(key)).clone(),
                cmd("HGETALL").arg(shared.entry(known, key)).clone(),
            ])?;
            let [known_to_redis, invalidations, found] = &answers[..] else {
                return Ok(Recalled::default());
            };
            let state = shared.update_state(link, known_to_redis)?;
            let found = if state.generation == known {
                found.clone()
            } else {
                link.one(cmd("HGETALL").arg(shared.entry(state.generation, key)))?
            };
            let mut variants = shared.variants(key, &found, &state);
            // Read before the hash, or together with it, so an invalidation in between is one that came later.
            let invalidations = values::number(invalidations);
            let now = Clock::System.now().0;
            let numbers = Some([state.generation, state.purges, invalidations, now]);
            let mut fetcher = Fetcher::Nobody;
            if variants.is_empty() && claims {
                let mut set = cmd("SET");
                set.arg(shared.claim(key)).arg(&shared.id).arg("NX");
                set.arg("PX").arg(CLAIM.as_millis() as u64);
                // Another proxy may have stored it, and given up its claim, since the look above.
                let look = cmd("HGETALL").arg(shared.entry(state.generation, key)).clone();
                let answers = link.ask(&[set, look])?;
                let is_ours = answers.first().is_some_and(|answer| *answer != Value::Nil);
                variants = answers
                    .get(1)
                    .map(|found| shared.variants(key, found, &state))
                    .unwrap_or_default();
                fetcher = if is_ours { Fetcher::Us } else { Fetcher::Another };
            }
            let was_empty = variants.is_empty();
            let stamp = Stamp { numbers, was_empty, ..Stamp::default() };
            Ok(Recalled { variants, stamp, fetcher })
        })
    }

    fn wait(&self, key: &CacheKey, most: Duration) {
        let shared = &self.0;
        let deadline = Instant::now() + most;
        let wait = shared.waits.begin(key);
        // In the list before the look: the other proxy may have been done a moment ago, and its news then
        // ended waits that did not include this one.
        let claim = shared.links.with(|link| link.one(cmd("GET").arg(shared.claim(key))));
        if !matches!(claim, Ok(Value::Nil) | Err(_)) {
            wait.until(deadline);
        }
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        if !self.is_ready() {
            return Err(BackingError("not reachable".to_string()));
        }
        changes::apply(&self.0, changes)
    }

    fn content_bytes_max(&self) -> u64 {
        self.0.limits.content_bytes
    }

    fn batch_bytes(&self) -> u64 {
        1 << 20
    }

    fn usage(&self) -> Result<BackingUsage, BackingError> {
        Err(BackingError("it is shared, and not counted".to_string()))
    }

    fn list(&self, after: &str, most: usize) -> Result<Vec<Listed>, BackingError> {
        listing::list(&self.0, after, most)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.0.address)
    }
}
