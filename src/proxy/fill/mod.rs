//! The content of a response on its way from the origin server: to its readers, and into the cache.
//! RFC 9111 §3.3.
//!
//! What may be stored grows at the origin server's pace while clients read it. Only the end that the
//! framing proves makes a stored response out of it; an error, a body that grows too large, or want of
//! memory drops what was kept, and the clients never notice. Clients that go away do not stop what is worth
//! keeping. What may not be stored is passed on to the one client that asked.
//!
//! A response is an [`Incoming`] until its head goes out, and a [`Transfer`] from then on. Nothing here
//! waits or reads from a connection: a driver does.

mod incoming;
mod sink;
mod transfer;

pub(in crate::proxy) use incoming::IncomingContent;
pub use incoming::{Incoming, PassedResponse};
pub(in crate::proxy) use sink::commit_in_memory;
pub use sink::{Ended, Ending, Progress, SettlingSink, Sink};
pub use transfer::{CutShort, Transfer};

/// How much is read at a time.
// With the window of a body that is not kept, 256 KiB a response (`message/growing.rs`).
pub const PIECE_BYTES: usize = 64 * 1024;
