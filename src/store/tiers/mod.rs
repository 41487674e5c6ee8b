//! What stands between memory and a backing store: the locks under which both change in one order, the queue of
//! changes, the one thread that writes them, the breakers, and the writing end of bodies too large for memory.
//!
//! `store/cache.rs` puts them together; nothing here knows it.

pub(super) mod backed;
pub(super) mod breaker;
pub(super) mod claim;
pub(super) mod memory;
mod overtaken;
pub(super) mod queue;
pub(super) mod spool;
mod writer;

pub use claim::FetchClaim;
pub use queue::QueueLimits;
pub use writer::WriterSteps;
