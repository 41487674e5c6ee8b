//! The one thread that writes to the store behind memory, and what it does when that fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::purging::Selector;
use crate::store::backing::{Backing, BackingError, Change};
use crate::store::tiers::queue::{Next, Order, Owed, Queue, Work};
use crate::vital;

/// A store that has failed is left alone for so long, and twice as long each further time, up to
/// [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How much the writer thread stands back.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;
/// A use of a response is told once in so long.
const PERIOD: Duration = Duration::from_secs(30);
/// The log is told of failures once in so long.
const GRUMBLE_EVERY: Duration = Duration::from_secs(60);

/// Something that the log is told once in [`GRUMBLE_EVERY`], however often it happens.
#[derive(Debug, Default)]
pub(in crate::store) struct Remark(Mutex<(Option<Instant>, u64)>);

impl Remark {
    /// It has happened: is it to be told? Then, how often it has gone untold, to be added.
    pub(in crate::store) fn due(&self) -> Option<String> {
        let mut state = self.0.lock();
        let (told, untold) = &mut *state;
        if told.is_some_and(|told| told.elapsed() < GRUMBLE_EVERY) {
            *untold += 1;
            return None;
        }
        *told = Some(Instant::now());
        match std::mem::take(untold) {
            0 => Some(String::new()),
            more => Some(format!(" ({more} more before)")),
        }
    }
}

/// Who may ask a store that fails now and then: nobody for a while after a failure, then one.
#[derive(Debug)]
pub(in crate::store) struct Breaker {
    name: String,
    /// What follows from a failure, for the log.
    consequence: &'static str,
    state: Mutex<Failures>,
}

/// Guarded by [`Breaker::state`].
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    until: Option<Instant>,
    told: Option<Instant>,
    untold: u64,
    /// The log has been told of this failure.
    is_told: bool,
}

impl Breaker {
    /// For a store of this name, which works.
    pub(in crate::store) fn new(name: String, consequence: &'static str) -> Self {
        Self { name, consequence, state: Mutex::default() }
    }

    /// May the store be asked now?
    pub(in crate::store) fn lets_through(&self) -> bool {
        let mut state = self.state.lock();
        match state.until {
            None => true,
            Some(until) if Instant::now() >= until => {
                // One tries; the others wait for what it finds.
                state.until = Some(Instant::now() + PAUSE_MAX);
                true
            }
            Some(_) => false,
        }
    }

    /// It has answered.
    pub(in crate::store) fn worked(&self) {
        let mut state = self.state.lock();
        if state.in_a_row > 0 {
            (state.in_a_row, state.until) = (0, None);
            if std::mem::take(&mut state.is_told) {
                log::info!("{}: works again", self.name);
            }
        }
    }

    /// It has failed.
    pub(in crate::store) fn failed(&self, error: &BackingError) {
        let mut state = self.state.lock();
        let pause = PAUSE_FIRST.saturating_mul(1 << state.in_a_row.min(8)).min(PAUSE_MAX);
        state.in_a_row += 1;
        state.until = Some(Instant::now() + pause);
        state.untold += 1;
        if state.told.is_none_or(|told| told.elapsed() >= GRUMBLE_EVERY) {
            let more = state.untold - 1;
            let more = if more > 0 { format!(" ({more} more before)") } else { String::new() };
            log::warn!("{}: {error}; {}{more}", self.name, self.consequence);
            (state.told, state.untold, state.is_told) = (Some(Instant::now()), 0, true);
        }
    }

    /// Is it failing now?
    pub(in crate::store) fn is_open(&self) -> bool {
        self.state.lock().until.is_some()
    }
}

/// What the thread works on.
pub(in crate::store) struct StoreWriter {
    pub backing: Arc<dyn Backing>,
    pub queue: Arc<Queue>,
    pub breaker: Arc<Breaker>,
    /// Counts the periods in which the use of a response is told once; never 0.
    pub period: Arc<AtomicU32>,
    /// Dropped when the thread ends.
    pub _end: SyncSender<()>,
}

impl StoreWriter {
    /// Starts the thread; it ends when the queue is closed and empty.
    pub(in crate::store) fn start(self) -> io::Result<()> {
        let run = move || {
            // Where there are not cores enough, those who wait for an answer come first. (On Linux this
            // is about the thread alone.)
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICENESS);
            self.run();
            Ok(())
        };
        vital::spawn("store-writer", run)
    }

    fn run(self) {
        let mut pause = PAUSE_FIRST;
        let mut resting_until: Option<Instant> = None;
        let mut idle = Duration::from_secs(1);
        let mut period_began = Instant::now();
        let mut is_troubled = self.notice_trouble(false);
        loop {
            if period_began.elapsed() >= PERIOD {
                period_began = Instant::now();
                let next = self.period.load(Ordering::Relaxed).wrapping_add(1).max(1);
                self.period.store(next, Ordering::Relaxed);
            }
            let resting = resting_until.is_some_and(|until| Instant::now() < until);
            let holds = resting || !self.backing.is_ready();
            let work = match self.queue.next(self.backing.batch_bytes(), idle, holds) {
                Next::Closed => return self.backing.close(),
                Next::Idle => {
                    if !resting {
                        idle = self.backing.tidy();
                        is_troubled = self.notice_trouble(is_troubled);
                    }
                    continue;
                }
                Next::Work(work) => work,
            };
            if resting || !self.backing.is_ready() {
                self.queue.failed(&work, false);
                continue;
            }
            match self.carry_out(&work) {
                Ok(counts) => {
                    self.queue.done(work, &counts);
                    if resting_until.take().is_some() {
                        self.breaker.worked();
                    }
                    pause = PAUSE_FIRST;
                }
                Err(error) => {
                    self.queue.failed(&work, true);
                    self.breaker.failed(&error);
                    resting_until = Some(Instant::now() + pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Tells the log when the store gets into trouble by itself, and out of it; is it in any now?
    fn notice_trouble(&self, before: bool) -> bool {
        match self.backing.trouble() {
            Some(error) if !before => self.breaker.failed(&error),
            None if before => self.breaker.worked(),
            _ => {}
        }
        self.backing.trouble().is_some()
    }

    /// What is owed comes first; what came before it is not written any more.
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
        let mut counts = vec![0; work.orders.len()];
        for (index, count) in kept.into_iter().zip(done) {
            counts[index] = count;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_failed_is_left_alone_until_it_has_worked() {
        let breaker = Breaker::new("store x".to_string(), "nothing follows");
        assert!(breaker.lets_through() && !breaker.is_open());
        breaker.failed(&BackingError("gone".to_string()));
        assert!(!breaker.lets_through() && breaker.is_open());
        breaker.worked();
        assert!(breaker.lets_through() && !breaker.is_open());
    }

    #[test]
    fn what_happens_often_is_told_once_in_a_while() {
        let remark = Remark::default();
        assert_eq!(remark.due().as_deref(), Some(""));
        assert!(remark.due().is_none() && remark.due().is_none());
        remark.0.lock().0 = Instant::now().checked_sub(GRUMBLE_EVERY);
        assert_eq!(remark.due().as_deref(), Some(" (2 more before)"));
    }

    #[test]
    fn after_a_pause_one_may_try() {
        let breaker = Breaker::new("store x".to_string(), "nothing follows");
        breaker.failed(&BackingError("gone".to_string()));
        breaker.state.lock().until = Some(Instant::now());
        assert!(breaker.lets_through());
        assert!(!breaker.lets_through(), "the others wait for what it finds");
    }
}
