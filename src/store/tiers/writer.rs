//! The one thread that writes to the backing store, and what it does when that fails.
//!
//! It holds no lock while the store is asked. Whatever it does with a batch, the queue hears of the outcome
//! exactly once, by [`Queue::done`] or [`Queue::failed`]: lookups wait for that. A panic here ends the
//! process (`vital.rs`), since nothing would be removed from the store any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::policy::purging::Selector;
use crate::store::backing::{Backing, BackingError, Change};
use crate::store::tiers::breaker::{Breaker, PAUSE_FIRST, PAUSE_MAX};
use crate::store::tiers::queue::{NextWork, Order, Owed, Queue, Work};
use crate::vital;

/// How much the writer thread stands back.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// What the thread works on.
pub(in crate::store) struct StoreWriter {
    backing: Arc<dyn Backing>,
    queue: Arc<Queue>,
    breaker: Arc<Breaker>,
    /// Counts the periods in which the use of a response is handed in once; never 0.
    period: Arc<AtomicU32>,
    /// Dropped when the thread ends.
    _end: SyncSender<()>,
    /// The breaker keeps lookups from the store; the pause here keeps the writer from it, which comes by
    /// itself and must be the one attempt after each failure.
    pause: Duration,
    resting_until: Option<Instant>,
}

/// What a step of the writer has come to.
enum Stepped {
    /// Some changes were carried out, or were not.
    Worked,
    /// There are none.
    Idle,
    /// There will be none any more.
    Closed,
}

/// The writer without its thread, for tests: they decide when changes are carried out, and how many at a time
/// ([`Backing::batch_bytes`]).
pub struct WriterSteps(StoreWriter);

impl WriterSteps {
    /// In the place of the thread.
    pub(in crate::store) fn new(writer: StoreWriter) -> Self {
        Self(writer)
    }

    /// Carries out the next batch of changes; was there one? Never waits, also not after a failure: the next step
    /// is the next attempt.
    pub fn step(&mut self) -> bool {
        if let Some(resting) = &mut self.0.resting_until {
            // The pause is over; that there was a failure is not forgotten.
            *resting = Instant::now();
        }
        matches!(self.0.step(Duration::ZERO), Stepped::Worked)
    }

    /// Carries out all that there is.
    pub fn run(&mut self) {
        while self.step() {}
    }
}

impl StoreWriter {
    /// A writer that has not begun.
    pub(in crate::store) fn new(
        backing: Arc<dyn Backing>,
        queue: Arc<Queue>,
        breaker: Arc<Breaker>,
        period: Arc<AtomicU32>,
        end: SyncSender<()>,
    ) -> Self {
        let (pause, resting_until) = (PAUSE_FIRST, None);
        Self { backing, queue, breaker, period, _end: end, pause, resting_until }
    }

    /// Starts the thread; it ends when the queue is closed and empty.
    pub(in crate::store) fn start(self) -> io::Result<()> {
        let run = move || {
            // Where there are not cores enough, threads that clients wait for come first. (On Linux this
            // is about the thread alone.)
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICENESS);
            self.run();
            Ok(())
        };
        vital::spawn("store-writer", run)
    }

    fn run(mut self) {
        let mut idle = Duration::from_secs(1);
        let mut period_began = Instant::now();
        let mut is_troubled = self.notice_trouble(false);
        loop {
            if period_began.elapsed() >= self.backing.use_period() {
                period_began = Instant::now();
                let next = self.period.load(Ordering::Relaxed).wrapping_add(1).max(1);
                self.period.store(next, Ordering::Relaxed);
            }
            match self.step(idle) {
                Stepped::Worked => {}
                Stepped::Idle if self.is_resting() => {}
                Stepped::Idle => {
                    idle = self.backing.tidy();
                    is_troubled = self.notice_trouble(is_troubled);
                }
                Stepped::Closed => return self.backing.close(),
            }
        }
    }

    fn is_resting(&self) -> bool {
        self.resting_until.is_some_and(|until| Instant::now() < until)
    }

    /// Carries out the next changes; waits for them for at most `idle`.
    fn step(&mut self, idle: Duration) -> Stepped {
        let resting = self.is_resting();
        // What is owed waits for the store to work again: an attempt with it would fail at once, and again.
        let holds = resting || !self.backing.is_ready();
        let work = match self.queue.next(self.backing.batch_bytes(), idle, holds) {
            NextWork::Closed => return Stepped::Closed,
            NextWork::Idle => return Stepped::Idle,
            NextWork::Work(work) => work,
        };
        // Changes are not kept for later: the queue would be full after a moment. What must go is owed,
        // and the rest is lost.
        if resting || !self.backing.is_ready() {
            self.queue.failed(&work, false);
            return Stepped::Worked;
        }
        match self.carry_out(&work) {
            Ok(counts) => {
                self.queue.done(work, &counts);
                // A full disk takes removals: it was said to work again, and dropped the next response.
                if !self.backing.is_full() {
                    if self.resting_until.take().is_some() {
                        self.breaker.worked();
                    }
                    self.pause = PAUSE_FIRST;
                }
            }
            Err(error) => {
                self.queue.failed(&work, true);
                self.breaker.failed(&error);
                self.resting_until = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
        Stepped::Worked
    }

    /// Logs when the store gets into trouble by itself, and out of it; is it in any now?
    fn notice_trouble(&self, before: bool) -> bool {
        match self.backing.trouble() {
            Some(error) if !before => self.breaker.failed(&error),
            None if before => self.breaker.worked(),
            _ => {}
        }
        self.backing.trouble().is_some()
    }

    /// Carries out what is owed, then the changes but for those that it has outdated; how many responses each
    /// has stored or removed.
    ///
    /// Two calls of the store: should the second fail, what was owed is carried out, and owed once more, which
    /// does no harm.
    fn carry_out(&self, work: &Work) -> Result<Vec<u64>, BackingError> {
        let mut owed = Vec::new();
        if work.owed_all.is_some() {
            owed.push(Change::Purge { selector: Selector::All, now: Timestamp::MAX });
        }
        for (key, Owed { invalidates, .. }) in &work.owed {
            owed.push(Change::Forget { key: key.clone(), invalidates: *invalidates });
        }
        if !owed.is_empty() {
            self.backing.apply(&owed.iter().collect::<Vec<_>>())?;
        }
        let outdated = |order: &Order| {
            let all = work.owed_all.is_some_and(|number| order.number < number);
            let own = || {
                let key = order.change.key();
                work.owed
                    .iter()
                    .any(|(owed, Owed { since, .. })| Some(owed) == key && order.number < *since)
            };
            match &order.change {
                // Some of it was not written: the rest must not pass for the whole.
                Change::Whole { spooled, .. } if spooled.has_failed() => true,
                Change::Put { .. } | Change::Whole { .. } => all || own(),
                _ => false,
            }
        };
        let (mut changes, mut kept) = (Vec::with_capacity(work.orders.len()), Vec::new());
        for (index, order) in work.orders.iter().enumerate() {
            if !outdated(order) {
                changes.push(&order.change);
                kept.push(index);
            }
        }
        let done = self.backing.apply(&changes)?;
        assert_eq!(done.len(), kept.len(), "a store counts for each change, or fails");
        // What was left out counts 0: a purge does not stand among it, so no answer is wrong by it.
        let mut counts = vec![0; work.orders.len()];
        for (index, count) in kept.into_iter().zip(done) {
            counts[index] = count;
        }
        Ok(counts)
    }
}
