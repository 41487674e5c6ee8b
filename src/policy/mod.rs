//! What the RFCs say, as pure functions: a section or two a file.
//!
//! Nothing here does I/O, reads a clock, takes a lock, writes a log or counts. Functions are given
//! messages and times, and return decisions with their reasons.

pub mod age;
pub mod bound;
pub mod cache_control;
pub mod credentials;
pub mod destination;
pub mod digest;
pub mod effect;
pub mod forwarded;
pub mod forwarding;
pub mod freshness;
pub mod invalidation;
pub mod key;
pub mod limited;
pub mod partial;
pub mod precondition;
pub mod purging;
pub mod range;
pub mod reason;
pub mod redirect;
pub mod reuse;
pub mod rewriting;
pub mod selection;
pub mod stored;
pub mod storing;
pub mod targeted;
pub mod unkeyed;
pub mod validation;
pub mod vary;
