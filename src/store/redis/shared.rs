//! What all threads share of a store in Redis: its connections, the names of its keys, and what is known of
//! clears and purges.
//!
//! Each lock here is held for one look or one change, and no other is taken meanwhile; Redis is asked without
//! any.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, RedisResult, Value, cmd};

use crate::clock::{Clock, Timestamp};
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::backing::Invalidations;
use crate::store::redis::address::Address;
use crate::store::redis::link::Link;
use crate::store::redis::links::Links;
use crate::store::redis::purges::{RedisState, selector_text};
use crate::store::redis::scripts::{RENEW, script};
use crate::store::redis::values;
use crate::store::redis::waits::Waits;
use crate::store::salt::{from_text, random, to_text};
use crate::store::tiers::breaker::LogLimit;

/// The version of the format. Proxies of different versions share nothing, and disturb nothing, in one Redis.
const FORMAT: &str = "2:";

/// The bounds of the store, and its share of the names in Redis.
#[derive(Clone, Debug)]
pub struct RedisLimits {
    /// `--redis-prefix`: what all keys begin with.
    pub prefix: String,
    /// `--max-object-size`: bytes of the largest content.
    pub content_bytes: u64,
    /// The longest wait to be connected, and for each answer; [`ANSWER_MAX`] unless a test has more time.
    /// Redis is not used after a longer silence, until it is heard of again.
    pub answer_max: Duration,
}

/// How long requests may be held up by a Redis that hangs.
pub const ANSWER_MAX: Duration = Duration::from_millis(500);

/// What all threads share.
pub(super) struct RedisShared {
    pub address: Address,
    pub limits: RedisLimits,
    pub links: Links,
    /// This proxy's name among those that share the store; random, and new at each start.
    pub id: String,
    pub state: Mutex<RedisState>,
    /// What digests of credentials are keyed with, once Redis has said.
    pub salt: Mutex<Option<Arc<Salt>>>,
    /// Workers that wait for what another proxy fetches.
    pub waits: Waits,
    pub invalidations: Mutex<Option<Arc<dyn Invalidations>>>,
    pub last_number: AtomicU64,
    /// How often lost content is logged.
    pub losses: LogLimit,
    pub hasher: RandomState,
}

impl RedisShared {
    /// What the names of all keys begin with.
    pub(super) fn beginning(&self) -> String {
        format!("{}{FORMAT}", self.limits.prefix)
    }

    /// The hash of what is stored for a target URI.
    pub(super) fn entry(&self, generation: u64, key: &CacheKey) -> String {
        format!("{}e{generation:016x}:{{{key}}}", self.beginning())
    }

    /// The number of its last invalidation.
    pub(super) fn invalidations(&self, key: &CacheKey) -> String {
        format!("{}i:{{{key}}}", self.beginning())
    }

    /// Who fetches it.
    pub(super) fn claim(&self, key: &CacheKey) -> String {
        format!("{}f:{{{key}}}", self.beginning())
    }

    /// A piece of content.
    pub(super) fn piece(&self, number: u64, piece: u64) -> String {
        format!("{}c:{{{number:016x}}}:{piece}", self.beginning())
    }

    /// What has been cleared and purged.
    pub(super) fn state_key(&self) -> String {
        format!("{}state", self.beginning())
    }

    pub(super) fn channel(&self) -> String {
        format!("{}news", self.beginning())
    }

    /// A number that no other proxy has given out, as good as certainly; later ones are larger.
    pub(super) fn new_number(&self) -> u64 {
        // Not a count in Redis: under memory pressure that may be evicted, begins anew, and names of evicted
        // generations would come again, with responses that a clear had removed.
        const RANDOM_BITS: u32 = 22;
        let now = Clock::System.now().0;
        let random = self.hasher.hash_one(now) >> (64 - RANDOM_BITS);
        let wanted = now << RANDOM_BITS | random;
        // The clock may have been set back, or stand still between two calls.
        let later = |last: u64| Some(wanted.max(last + 1));
        let last = self.last_number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        wanted.max(last.unwrap_or(0) + 1)
    }

    pub(super) fn state(&self) -> RedisState {
        self.state.lock().clone()
    }

    /// Asks for what [`Self::update_state`] takes over.
    pub(super) fn read_state(&self) -> Cmd {
        cmd("HMGET").arg(self.state_key()).arg(&["generation", "purges", "salt"]).clone()
    }

    /// Takes over the salt that all proxies use, or sees to it that there is one. A Redis that was
    /// emptied is given the one that it had: the first proxy to come back decides.
    fn update_salt(&self, link: &mut Link, answer: Option<&Value>) -> RedisResult<()> {
        // The lock is taken twice, briefly, with Redis asked in between: two threads that find no salt both try
        // to set theirs, and both read the one that came first.
        let mut text = answer.and_then(values::bytes).map(<[u8]>::to_vec);
        let known = self.salt.lock().clone();
        if text.is_none() {
            let own = known.as_ref().map_or_else(|| to_text(&random()), |salt| to_text(salt));
            link.one(cmd("HSETNX").arg(self.state_key()).arg("salt").arg(own))?;
            let kept = link.one(cmd("HGET").arg(self.state_key()).arg("salt"))?;
            text = values::bytes(&kept).map(<[u8]>::to_vec);
        }
        // What makes no sense is no salt: credentials then select nothing that others have stored.
        let kept = text.and_then(|text| from_text(&text));
        let is_same = match (&known, &kept) {
            (Some(known), Some(kept)) => known.bytes() == kept.bytes(),
            (known, kept) => known.is_none() && kept.is_none(),
        };
        if !is_same {
            *self.salt.lock() = kept.map(Arc::new);
        }
        Ok(())
    }

    /// Takes over what Redis says of clears and purges; reads more of it if something is new.
    pub(super) fn update_state(&self, link: &mut Link, answer: &Value) -> RedisResult<RedisState> {
        self.update_salt(link, values::members(answer).get(2))?;
        let (generation, purges) = values::two_numbers(answer);
        // Two numbers with each question say whether the list of purges has to be read; it nearly never has.
        let known = self.state();
        if generation > 0 && (known.generation, known.purges) == (generation, purges) {
            return Ok(known);
        }
        let all = if generation > 0 {
            link.one(cmd("HGETALL").arg(self.state_key()))?
        } else {
            // It has never been there, or was evicted or deleted, and the purges with it.
            self.renew_generation(link, answer)?
        };
        // Two threads may do this at once, and the older answer may come last. Its numbers then differ from
        // those of the next answer, and the list is read again.
        let state = values::state(&all);
        *self.state.lock() = state.clone();
        Ok(state)
    }

    /// Begins a new generation in the place of the one of this `answer`, if no other proxy has done so
    /// meanwhile; all that is known of clears and purges then.
    pub(super) fn renew_generation(&self, link: &mut Link, answer: &Value) -> RedisResult<Value> {
        let seen = values::members(answer).first().and_then(values::bytes).unwrap_or_default();
        // Compared and set in one script: of several proxies that find Redis emptied, one begins it.
        let mut renew = script(RENEW, &[self.state_key()]);
        renew.arg(seen).arg(self.new_generation(self.state().generation));
        link.one(&renew)
    }

    /// A generation that has never been, and comes after `last`.
    pub(super) fn new_generation(&self, last: u64) -> u64 {
        self.new_number().max(last.saturating_add(1))
    }

    /// A message that what is stored for a key has changed; `number` is that of what is stored now, or 0.
    pub(super) fn changed_message(&self, key: &CacheKey, number: u64) -> Vec<u8> {
        format!("{} k {number} {key}", self.id).into_bytes()
    }

    /// A message that something was purged.
    pub(super) fn purged_message(&self, selector: &Selector, now: Timestamp) -> Vec<u8> {
        let now = now.0.to_string();
        [self.id.as_bytes(), b" p ", now.as_bytes(), b" ", &selector_text(selector)].concat()
    }
}
