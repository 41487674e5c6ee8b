//! The store in memory: five ways of staying within its bounds (`limits.rs`).
//!
//! `cost` and `s3-fifo` have entries in quick_cache (`by_key.rs`); the exact policies share one index (`exact.rs`). A
//! quarter of `--cache-memory` is there for bodies on their way in, and no single response may take more
//! than that: so one large download can neither be refused for want of memory nor empty the cache. While nothing comes
//! in, `cost` and `lru` use that quarter for what is stored.

use std::sync::Arc;

use crate::store::Store;
use crate::store::memory::cost::Cost;
use crate::store::memory::exact::Exact;
use crate::store::memory::s3_fifo::S3Fifo;

mod by_key;
mod cost;
mod exact;
mod ghosts;
mod key_index;
mod limits;
mod s3_fifo;
mod worth;

pub use limits::{Eviction, MemoryLimits};

/// Makes a store in memory.
pub fn store(eviction: Eviction, limits: MemoryLimits) -> Arc<dyn Store> {
    match eviction {
        Eviction::Cost => Arc::new(Cost::store(limits)),
        // With one response there is but one that can go, and quick_cache needs two parts.
        Eviction::S3Fifo if limits.responses != Some(1) => Arc::new(S3Fifo::store(limits)),
        Eviction::S3Fifo | Eviction::Lru => Arc::new(Exact::new(Eviction::Lru, limits)),
        Eviction::Entire | Eviction::None => Arc::new(Exact::new(eviction, limits)),
    }
}
