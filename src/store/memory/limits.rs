//! The bounds of the store in memory, and which of the ways of staying within them is taken.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::store::Arrivals;

/// What goes when there is no more space (`--eviction-policy`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// What has been asked for least, lately, by quick_cache's S3-FIFO.
    S3Fifo,
    /// Exactly the least recently used response.
    Lru,
    /// Everything.
    Entire,
    /// Nothing: the limits do not apply.
    None,
}

/// The bounds of the store in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// `--cache-memory`: bytes of keys, fields, content and bookkeeping.
    pub bytes: u64,
    /// `--cache-size-limit`: number of stored responses, at least 1; `None` for no limit.
    pub responses: Option<u64>,
    /// `--max-object-size`: bytes of the largest content that is stored.
    pub content_bytes: u64,
}

impl MemoryLimits {
    /// Bytes for what is stored: three quarters.
    fn stored_bytes(self) -> u64 {
        self.bytes - self.arriving_bytes()
    }

    /// Bytes for what is on its way in: a quarter.
    fn arriving_bytes(self) -> u64 {
        self.bytes / 4
    }

    /// The largest content that is stored: `--max-object-size`, or a quarter of the memory.
    fn content_bytes_max(self) -> u64 {
        self.content_bytes.min(self.arriving_bytes())
    }

    /// Bytes for what is stored, bytes of the largest content, and the account of what arrives.
    pub(in crate::store) fn parts(self) -> (u64, u64, Arc<Arrivals>) {
        // Two accounts: arriving bodies must not be refused because the cache is full, which it always is.
        let bytes_max = self.arriving_bytes();
        let arrivals = Arrivals { bytes: AtomicU64::new(0), bytes_max };
        (self.stored_bytes(), self.content_bytes_max(), Arc::new(arrivals))
    }
}
