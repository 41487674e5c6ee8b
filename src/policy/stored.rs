//! A stored response: what all the other files of the policy are about. RFC 9111 §3.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::StatusCode;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::buffer;
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::key::CacheKey;
use crate::policy::vary::Selecting;

/// A complete response of the origin server, as it is kept.
///
/// Everything that decides about its reuse is worked out once, when it is stored: a lookup compares
/// and does not parse.
#[derive(Debug)]
pub struct StoredResponse {
    /// The status code.
    pub status: StatusCode,
    /// The header section as the origin server sent it, less what may not be kept (§3.1).
    pub fields: Fields,
    /// The content.
    pub content: Bytes,
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
    /// How often it has been reused, for `--hit-ttl`.
    reuses: AtomicU64,
}

/// What [`StoredResponse::new`] puts together.
#[derive(Debug)]
pub struct Parts {
    /// See [`StoredResponse::status`].
    pub status: StatusCode,
    /// See [`StoredResponse::fields`].
    pub fields: Fields,
    /// See [`StoredResponse::directives`].
    pub directives: ResponseDirectives,
    /// See [`StoredResponse::selecting`].
    pub selecting: Selecting,
    /// See [`StoredResponse::lifetime`].
    pub lifetime: Lifetime,
    /// See [`StoredResponse::age_on_arrival`].
    pub age_on_arrival: DeltaSeconds,
    /// See [`StoredResponse::response_time`].
    pub response_time: Timestamp,
    /// See [`StoredResponse::fresh_until`].
    pub fresh_until: Timestamp,
    /// See [`StoredResponse::useful_until`].
    pub useful_until: Timestamp,
}

impl StoredResponse {
    /// A stored response with its whole content.
    pub fn new(parts: Parts, content: Bytes) -> Self {
        Self {
            status: parts.status,
            fields: parts.fields,
            content,
            directives: parts.directives,
            selecting: parts.selecting,
            lifetime: parts.lifetime,
            age_on_arrival: parts.age_on_arrival,
            response_time: parts.response_time,
            fresh_until: parts.fresh_until,
            useful_until: parts.useful_until,
            reuses: AtomicU64::new(0),
        }
    }

    /// Its age at `now`, in whole seconds (§4.2.3).
    pub fn current_age(&self, now: Timestamp) -> DeltaSeconds {
        self.age_on_arrival.plus(now.seconds_since(self.response_time))
    }

    /// Is it fresh at `now` (§4.2)?
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.fresh_until
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

    /// Counts one reuse; `false` if it has been reused `most` times already (`--hit-ttl`).
    pub fn count_reuse(&self, most: u64) -> bool {
        let more = |reuses| (reuses < most).then_some(reuses + 1);
        self.reuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Has it been reused `most` times?
    pub fn is_used_up(&self, most: u64) -> bool {
        self.reuses.load(Ordering::Relaxed) >= most
    }

    /// Bytes in memory under `key`: key, fields, content, and the bookkeeping around them.
    pub fn memory_bytes(&self, key: &CacheKey) -> usize {
        /// Reference counts, allocator slack, and the entry in the index.
        const BOOKKEEPING: usize = 160;
        size_of::<Self>()
            + self.fields.memory_bytes()
            + self.selecting.memory_bytes()
            + buffer::memory_bytes(self.content.len())
            + key.as_str().len()
            + BOOKKEEPING
    }
}
