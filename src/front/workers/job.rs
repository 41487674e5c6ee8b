//! A piece of work: what kind it is, what whoever does it may do, and how it is done.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::stats::{Counter, Stats};

/// New requests that can wait for each worker.
pub(super) const FORWARDS_PER_WORKER: usize = 16;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce(Role) + Send>;

/// What a worker may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Anything.
    Any,
    /// Look things up, and nothing that may wait; that is handed on as [`Kind::Forward`]
    /// or, where it was accepted before, as [`Kind::ResumedForward`].
    Reserved,
}

/// What kind of work it is, and whether it was accepted before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A request that has just come.
    Arrival,
    /// An arrival that was parked.
    Resumed,
    /// A request that has to ask the origin server, or what is behind memory.
    Forward,
    /// The same for one that was parked.
    ResumedForward,
    /// The next part of an exchange that is under way. Each has one at a time, so their number bounds these.
    Begun,
}

/// Does a piece of work that was taken out of a queue.
pub(super) fn run(job: Job, role: Role, stats: &Stats) {
    stats.gauge(Counter::WaitingJobs, -1);
    stats.gauge(Counter::BusyWorkers, 1);
    // What the job owned is dropped by the unwinding, and with it the client's connection.
    if catch_unwind(AssertUnwindSafe(|| job(role))).is_err() {
        stats.count(Counter::Panic);
        log::error!("a worker panicked; this cost one exchange");
    }
    stats.gauge(Counter::BusyWorkers, -1);
}
