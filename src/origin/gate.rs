//! The gate in front of the origin server: no request passes while the server is down, while it has limited
//! such requests itself, or beyond the limits that the operator sets.
//!
//! An origin server that cannot be reached is asked once a second; all other requests fail at once with
//! the last one's error. A 429 or 503 that says for how long is obeyed, for a minute at most: a GET or
//! HEAD for the same path is held back, from the same client; for any path if its quota is spent.
//! Clients are told apart by their credentials, those without any by their addresses. `--origin-rate`,
//! `--origin-concurrency` and the limit of connections let requests wait for a permit, first in first out,
//! but never longer than `wait_max`. What is answered from the cache never comes here.
//!
//! `admission.rs` admits requests without ever waiting: event loops use it as it is, and `gated.rs` waits
//! over it, for drivers that may. `memory.rs` remembers what the origin server has said, `permits.rs` who
//! is under way and who waits, `starts.rs` when the rate lets the next one begin.

mod admission;
mod gated;
mod limits;
mod memory;
mod permits;
mod starts;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Gate, OriginPermit, WaitingRequest};
pub use gated::Gated;
pub use limits::{Limits, Rate};
pub use memory::GateRequest;
