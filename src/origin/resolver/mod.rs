//! Names of origin servers and their addresses, remembered for half a minute.
//!
//! A name is looked up by one thread at a time, however many requests need it, and no request waits
//! longer than its own limit: the system's resolver cannot be interrupted, so it runs on threads of its
//! own, few of them. When a look-up fails, the addresses that were good last are used. When none of a
//! name's addresses can be connected to, the name is looked up again: it may have moved.
//!
//! `names.rs` answers without ever waiting: event loops use it as it is, and `waiting.rs` waits over it,
//! for threads that may. `memory.rs` has what is remembered, who has asked and what waits for a thread.

mod memory;
mod names;
#[cfg(test)]
mod tests;
mod waiting;

pub use names::{AskedName, NameAnswer, Names, Renewal, RenewedName};
