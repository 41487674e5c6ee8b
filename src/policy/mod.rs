//! What the RFCs say, as pure functions: a section or two a file.
//!
//! Nothing here does I/O, reads a clock, takes a lock, writes a log or counts. Functions are given
//! messages and times, and return decisions with their reasons.

pub mod age;
pub(crate) mod bound;
pub mod cache_control;
pub(crate) mod credentials;
pub(crate) mod destination;
pub mod digest;
pub(crate) mod effect;
pub(crate) mod forwarded;
pub(crate) mod forwarding;
pub mod freshness;
pub(crate) mod invalidation;
pub mod key;
pub(crate) mod limited;
pub mod packing;
pub mod partial;
pub(crate) mod plain;
pub mod precondition;
pub mod purging;
pub mod range;
pub mod reason;
pub(crate) mod redirect;
pub mod response;
pub mod reuse;
pub(crate) mod rewriting;
pub(crate) mod selection;
pub mod stored;
pub mod storing;
pub mod targeted;
pub(crate) mod trailers;
pub(crate) mod unkeyed;
pub(crate) mod validation;
pub mod vary;
