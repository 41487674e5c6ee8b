//! The store in memory: its bounds, and the four ways of staying within them.
//!
//! `s3-fifo` is quick_cache's; the exact policies share one index (`exact.rs`). A quarter of
//! `--cache-memory` is kept free for bodies on their way in, and no single response may take more
//! than that: so one large download can neither be refused for want of room nor empty the cache.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::store::memory::exact::Exact;
use crate::store::memory::s3_fifo::S3Fifo;
use crate::store::{Arrivals, Store};

mod exact;
pub(super) mod names;
mod s3_fifo;

/// What goes when there is no more room (`--eviction-policy`).
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
}

/// Makes a store in memory.
pub fn store(eviction: Eviction, limits: MemoryLimits) -> Arc<dyn Store> {
    match eviction {
        // With one response there is but one that can go, and S3-FIFO needs room for two queues.
        Eviction::S3Fifo if limits.responses != Some(1) => Arc::new(S3Fifo::new(limits)),
        Eviction::S3Fifo | Eviction::Lru => Arc::new(Exact::new(Eviction::Lru, limits)),
        Eviction::Entire | Eviction::None => Arc::new(Exact::new(eviction, limits)),
    }
}

impl MemoryLimits {
    pub(super) fn parts(self) -> (u64, u64, Arc<Arrivals>) {
        let bytes_max = self.arriving_bytes();
        let arrivals = Arrivals { bytes: AtomicU64::new(0), bytes_max };
        (self.stored_bytes(), self.content_bytes_max(), Arc::new(arrivals))
    }
}
