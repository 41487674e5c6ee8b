//! The store in memory: four ways of staying within its bounds (`limits.rs`).
//!
//! `s3-fifo` is quick_cache's; the exact policies share one index (`exact.rs`). A quarter of
//! `--cache-memory` is kept free for bodies on their way in, and no single response may take more
//! than that: so one large download can neither be refused for want of memory nor empty the cache.

use std::sync::Arc;

use crate::store::Store;
use crate::store::memory::exact::Exact;
use crate::store::memory::s3_fifo::S3Fifo;

mod exact;
mod key_index;
mod limits;
mod s3_fifo;

pub use limits::{Eviction, MemoryLimits};

/// Makes a store in memory.
pub fn store(eviction: Eviction, limits: MemoryLimits) -> Arc<dyn Store> {
    match eviction {
        // With one response there is but one that can go, and S3-FIFO needs two queues.
        Eviction::S3Fifo if limits.responses != Some(1) => Arc::new(S3Fifo::new(limits)),
        Eviction::S3Fifo | Eviction::Lru => Arc::new(Exact::new(Eviction::Lru, limits)),
        Eviction::Entire | Eviction::None => Arc::new(Exact::new(eviction, limits)),
    }
}
