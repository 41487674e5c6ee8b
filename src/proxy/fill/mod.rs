//! The content of a response on its way from the origin server: to its readers, and into the cache.
//! RFC 9111 §3.3.
//!
//! A body that may be stored grows at the origin server's pace while clients read it. It becomes a stored
//! response with the end that the framing proves, and not before. An error, a body that grows too large, or
//! want of memory drops what was kept; of the last two the clients notice nothing. A body that is worth keeping
//! is fetched to its end although its clients have gone. A body that may not be stored is passed on to the one
//! client that asked.
//!
//! A response is an [`Incoming`] until its head goes out, and a [`Transfer`] from then on. Nothing here
//! waits or reads from a connection: a driver does.

mod incoming;
mod sink;
mod transfer;

pub(in crate::proxy) use incoming::IncomingContent;
pub use incoming::{Incoming, PassedResponse};
pub(in crate::proxy) use sink::commit_in_memory;
pub use sink::{Ended, Ending, Progress, SettlingSink, Sink, WINDOW_PIECE_BYTES};
pub use transfer::{CutShort, Transfer};

/// How many bytes are read at a time, at most.
// With the window of a body that is not kept, 256 KiB a response (`message/growing.rs`).
pub const PIECE_BYTES: usize = 64 * 1024;
