//! A stored response: what all the other files of the policy are about. RFC 9111 §3.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::buffer;
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::key::CacheKey;
use crate::policy::range::Part;
use crate::policy::vary::Selecting;

/// What is known of a response when its head has come: all but its content.
///
/// Everything that decides about its reuse is worked out once: a lookup compares and does not parse.
#[derive(Clone, Debug)]
pub struct StoredHead {
    /// The status code; 206 for a part.
    pub status: StatusCode,
    /// Which part of the representation the content is; `None` for all of it. A part's
    /// `Content-Range` is not among its fields.
    pub part: Option<Part>,
    /// The header section as the origin server sent it, less what may not be kept (§3.1).
    pub fields: Fields,
    /// The directives of its `Cache-Control`.
    pub directives: ResponseDirectives,
    /// What the request it answered had in the fields that `Vary` names.
    pub selecting: Selecting,
    /// Its freshness lifetime.
    pub lifetime: Lifetime,
    /// Its age when it arrived (§4.2.3).
    pub age_on_arrival: DeltaSeconds,
    /// When its head arrived.
    pub response_time: Timestamp,
    /// From this moment on it is stale.
    pub fresh_until: Timestamp,
    /// From this moment on it may not even be served stale, and is of no more use.
    pub useful_until: Timestamp,
}

/// A response of the origin server, complete or a part, as it is kept.
#[derive(Debug)]
pub struct StoredResponse {
    head: StoredHead,
    /// The content.
    pub content: Bytes,
    /// How often it has been reused, for `--hit-ttl`.
    reuses: AtomicU64,
    /// Its head as plain requests get it, as bytes; made when the first one comes. `None` within if
    /// there is no one head for all.
    ready: OnceLock<Option<Vec<u8>>>,
}

impl Deref for StoredResponse {
    type Target = StoredHead;

    fn deref(&self) -> &StoredHead {
        &self.head
    }
}

impl StoredHead {
    /// Its age at `now`, in whole seconds (§4.2.3).
    pub fn current_age(&self, now: Timestamp) -> DeltaSeconds {
        self.age_on_arrival.plus(now.seconds_since(self.response_time))
    }

    /// Is it fresh at `now` (§4.2)?
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.fresh_until
    }

    /// For how long it stays fresh, in whole seconds.
    pub fn fresh_for(&self, now: Timestamp) -> DeltaSeconds {
        self.fresh_until.seconds_since(now)
    }

    /// For how long it has been stale, in seconds, rounded up.
    pub fn stale_for(&self, now: Timestamp) -> DeltaSeconds {
        Timestamp(now.0.saturating_add(999)).seconds_since(self.fresh_until)
    }

    /// Seconds of freshness left; negative once it is stale; `None` if it never ends.
    pub fn freshness_left(&self, now: Timestamp) -> Option<i64> {
        if self.fresh_until == Timestamp::MAX {
            return None;
        }
        let seconds = |timestamp: Timestamp| timestamp.seconds().cast_signed();
        Some(if self.is_fresh(now) {
            i64::from(self.fresh_until.seconds_since(now).0)
        } else {
            seconds(self.fresh_until) - seconds(now)
        })
    }
}

impl StoredResponse {
    /// A stored response with its whole content.
    pub fn new(head: StoredHead, content: Bytes) -> Self {
        Self { head, content, reuses: AtomicU64::new(0), ready: OnceLock::new() }
    }

    /// All but its content.
    pub fn head(&self) -> &StoredHead {
        &self.head
    }

    /// Counts one reuse; `false` if it has been reused `most` times already (`--hit-ttl`).
    pub fn count_reuse(&self, most: u64) -> bool {
        let more = |reuses| (reuses < most).then_some(reuses + 1);
        self.reuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Has it been reused `most` times?
    pub fn is_used_up(&self, most: u64) -> bool {
        self.reuses.load(Ordering::Relaxed) >= most
    }

    /// Its head as bytes, for requests that ask nothing in particular; `make` is asked once.
    pub fn make_ready(&self, make: impl FnOnce(&Self) -> Option<Vec<u8>>) -> Option<&[u8]> {
        self.ready.get_or_init(|| make(self)).as_deref()
    }

    /// The same, if it has been made.
    pub fn ready_head(&self) -> Option<&[u8]> {
        self.ready.get()?.as_deref()
    }

    /// Bytes that such a head takes, or a few less.
    pub fn ready_bytes(&self) -> usize {
        /// The status line, and the fields that the proxy adds.
        const ADDED: usize = 96;
        let line =
            |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + 4;
        self.fields.iter().map(line).sum::<usize>() + ADDED
    }

    /// Bytes in memory under `key`: key, fields, content, and the bookkeeping around them.
    pub fn memory_bytes(&self, key: &CacheKey) -> usize {
        /// Reference counts, allocator slack, and the entry in the index.
        const BOOKKEEPING: usize = 160;
        size_of::<Self>()
            + self.fields.memory_bytes()
            + self.ready_bytes()
            + self.selecting.memory_bytes()
            + buffer::memory_bytes(self.content.len())
            + key.as_str().len()
            + BOOKKEEPING
    }
}
