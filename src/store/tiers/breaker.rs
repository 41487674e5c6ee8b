//! The circuit breaker of a backing store, and how often the log hears of what goes wrong.
//!
//! After a failure the store is left alone, for longer each time; then one attempt is let through, and its
//! outcome decides for all. What follows from a failure is the caller's: a miss, or a change that is owed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::backing::BackingError;

/// The pause after a failure; twice as long after each further one, up to [`PAUSE_MAX`].
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Failures are logged at most once in this period.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Something that is logged once in [`LOG_EVERY`], however often it happens.
#[derive(Debug, Default)]
pub(in crate::store) struct LogLimit(Mutex<(Option<Instant>, u64)>);

impl LogLimit {
    /// It has happened: `None` if it is not to be logged now; else how often it went unlogged, as text to add.
    pub(in crate::store) fn due(&self) -> Option<String> {
        let mut state = self.0.lock();
        let (logged, unlogged) = &mut *state;
        if logged.is_some_and(|logged| logged.elapsed() < LOG_EVERY) {
            *unlogged += 1;
            return None;
        }
        *logged = Some(Instant::now());
        match std::mem::take(unlogged) {
            0 => Some(String::new()),
            more => Some(format!(" ({more} more before)")),
        }
    }
}

/// Lets no question through to a failing store for a while after each failure, then one at a time.
///
/// Its lock is its own, held for one look; the store is asked without it.
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
    /// No question before this; `None` while the store works.
    until: Option<Instant>,
    logged: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
    /// The log names the failure that lasts: then it is to name its end, too.
    is_logged: bool,
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
                // One worker tries. The pause begins anew for all others: a store that hangs would else take
                // one worker after the other for as long as its timeout.
                state.until = Some(Instant::now() + PAUSE_MAX);
                true
            }
            Some(_) => false,
        }
    }

    /// It has answered.
    pub(in crate::store) fn worked(&self) {
        let mut state = self.state.lock();
        // The usual case, once in each recall: nothing is written, and nothing logged.
        if state.in_a_row > 0 {
            (state.in_a_row, state.until) = (0, None);
            if std::mem::take(&mut state.is_logged) {
                log::info!("{}: works again", self.name);
            }
        }
    }

    /// It has failed.
    pub(in crate::store) fn failed(&self, error: &BackingError) {
        let mut state = self.state.lock();
        // Questions that were let through before the first failure come back late, and raise the count
        // together; that lengthens a pause, and is bounded by PAUSE_MAX.
        let pause = PAUSE_FIRST.saturating_mul(1 << state.in_a_row.min(8)).min(PAUSE_MAX);
        state.in_a_row += 1;
        state.until = Some(Instant::now() + pause);
        state.unlogged += 1;
        if state.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            let more = state.unlogged - 1;
            let more = if more > 0 { format!(" ({more} more before)") } else { String::new() };
            log::warn!("{}: {error}; {}{more}", self.name, self.consequence);
            (state.logged, state.unlogged, state.is_logged) = (Some(Instant::now()), 0, true);
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
    fn a_failed_store_is_left_alone_until_it_has_worked() {
        let breaker = Breaker::new("store x".to_string(), "nothing follows");
        assert!(breaker.lets_through() && !breaker.is_open());
        breaker.failed(&BackingError("gone".to_string()));
        assert!(!breaker.lets_through() && breaker.is_open());
        breaker.worked();
        assert!(breaker.lets_through() && !breaker.is_open());
    }

    #[test]
    fn what_happens_often_is_logged_once_in_a_while() {
        let limit = LogLimit::default();
        assert_eq!(limit.due().as_deref(), Some(""));
        assert!(limit.due().is_none() && limit.due().is_none());
        limit.0.lock().0 = Instant::now().checked_sub(LOG_EVERY);
        assert_eq!(limit.due().as_deref(), Some(" (2 more before)"));
    }

    #[test]
    fn after_a_pause_one_question_is_let_through() {
        let breaker = Breaker::new("store x".to_string(), "nothing follows");
        breaker.failed(&BackingError("gone".to_string()));
        breaker.state.lock().until = Some(Instant::now());
        assert!(breaker.lets_through());
        assert!(!breaker.lets_through(), "the others wait for what it finds");
    }
}
