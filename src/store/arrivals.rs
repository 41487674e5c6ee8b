//! Memory for bodies on their way into a store: each takes what it needs, piece by piece, and gives it back when it
//! has come or is given up.
//!
//! A store in memory reserves a quarter of its bound for them ([`ReservedMemory`]), or lends that quarter to what is
//! stored and takes it back piece by piece.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The account of the bodies on their way into one memory. None of it waits.
pub(in crate::store) trait Arrivals: Send + Sync {
    /// Takes `bytes` more; `false`, and nothing is taken, if they would exceed the bound.
    fn take(&self, bytes: u64) -> bool;

    /// Gives back what was taken.
    fn give_back(&self, bytes: u64);
}

/// A share of the memory for bodies on their way in, given back when it is dropped.
pub struct Reservation {
    arrivals: Arc<dyn Arrivals>,
    bytes: u64,
}

impl Reservation {
    /// Nothing yet.
    pub(in crate::store) fn of(arrivals: Arc<dyn Arrivals>) -> Self {
        Self { arrivals, bytes: 0 }
    }

    /// Takes `bytes` more; `false` if they would exceed the bound.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let is_taken = self.arrivals.take(bytes);
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.arrivals.give_back(self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

/// Memory that nothing else uses.
#[derive(Debug)]
pub(in crate::store) struct ReservedMemory {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl ReservedMemory {
    /// Space for `bytes_max` bytes.
    pub(in crate::store) fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }

    /// What is taken at present, in bytes.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Arrivals for ReservedMemory {
    fn take(&self, bytes: u64) -> bool {
        // Compared and added in one step: many bodies arrive at once, and together must stay in the bound.
        let taken = |all: u64| all.checked_add(bytes).filter(|all| *all <= self.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "no more is given back than was taken");
    }
}
