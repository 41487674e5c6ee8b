//! The circuit breaker of a store behind memory, and how often the log hears of what goes wrong.
//!
//! After a failure the store is left alone, for longer each time; then one attempt is let through, and its
//! outcome decides for all. What follows from a failure is the caller's: a miss, or a change that is owed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::backing::BackingError;

/// A store that has failed is left alone for so long, and twice as long each further time, up to
/// [`PAUSE_MAX`].
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Failures are logged at most once in this period.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Something that the log is told once in [`LOG_EVERY`], however often it happens.
#[derive(Debug, Default)]
pub(in crate::store) struct Remark(Mutex<(Option<Instant>, u64)>);

impl Remark {
    /// It has happened: is it to be told? Then, how often it has gone untold, to be added.
    pub(in crate::store) fn due(&self) -> Option<String> {
        let mut state = self.0.lock();
        let (told, untold) = &mut *state;
        if told.is_some_and(|told| told.elapsed() < LOG_EVERY) {
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
        if state.told.is_none_or(|told| told.elapsed() >= LOG_EVERY) {
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
        remark.0.lock().0 = Instant::now().checked_sub(LOG_EVERY);
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
