//! Requests that wait for what is behind memory, where one look can be for many of them: whoever is first has a worker
//! look, and those who come meanwhile wait for its next look.
//!
//! While the store is quick, one worker reads for all, which spares each request a thread's waking up. A look that
//! takes long ends early, and calls another worker: a disk that has to be waited for is asked by several.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::front::wakes;
use crate::front::workers::{Kind, Pool};
use crate::proxy::{Next, Proxy, Recall};
use crate::stats::Counter;

/// The most requests that one look is for.
const TOGETHER_MAX: usize = 64;
/// The most workers that look at a time.
const READERS_MAX: usize = 8;
/// How many times a worker looks before others have their turn on it.
const LOOKS_PER_TURN: usize = 16;
/// A look that takes longer is slow.
const SOON: Duration = Duration::from_millis(1);

/// A request that waits.
pub(super) struct WaitingRecall {
    /// What it asks.
    pub recall: Box<Recall>,
    /// Is given the next step, or the question back if it has to be asked alone.
    pub go_on: Box<dyn FnOnce(Next) + Send>,
}

/// All that wait, and those who read for them.
pub(super) struct Recalls {
    proxy: Arc<Proxy>,
    pool: Arc<Pool>,
    state: Mutex<RecallsState>,
}

/// Guarded by [`Recalls::state`].
#[derive(Default)]
struct RecallsState {
    waiting: VecDeque<WaitingRecall>,
    readers: usize,
    /// Until when the latest look is quick.
    quick_until: Option<Instant>,
}

impl Recalls {
    /// Nobody waits yet.
    pub(super) fn new(proxy: &Arc<Proxy>, pool: &Arc<Pool>) -> Arc<Self> {
        let (proxy, pool) = (Arc::clone(proxy), Arc::clone(pool));
        Arc::new(Self { proxy, pool, state: Mutex::default() })
    }

    /// Can this be asked together with what others ask?
    pub(super) fn takes(&self, recall: &Recall) -> bool {
        self.proxy.recalls_together(recall)
    }

    /// Do so many wait that one of this kind is refused? Without a lock that holds until the push: event loops may
    /// overshoot by one request each.
    pub(super) fn is_full(&self, kind: Kind) -> bool {
        self.state.lock().waiting.len() >= self.pool.waiting_max(kind)
    }

    /// Adds a request that waits; never waits itself.
    pub(super) fn push(self: &Arc<Self>, waiting: WaitingRecall) {
        let mut state = self.state.lock();
        state.waiting.push_back(waiting);
        self.proxy.stats().gauge(Counter::WaitingJobs, 1);
        // Those who read look here before they end. One that is held up by the disk holds up nobody else.
        let is_late = state.quick_until.is_some_and(|until| Instant::now() > until);
        let is_wanted = state.readers == 0 || is_late && state.readers < READERS_MAX;
        state.readers += usize::from(is_wanted);
        drop(state);
        if is_wanted {
            self.start_reader();
        }
    }

    /// Those that the next look is for, and until when it is quick; `None` if nobody waits: then whoever asks is
    /// counted as a reader no more.
    fn take(&self) -> Option<(Vec<WaitingRecall>, Instant)> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            state.readers -= 1;
            return None;
        }
        let count = state.waiting.len().min(TOGETHER_MAX);
        let taken: Vec<_> = state.waiting.drain(..count).collect();
        self.proxy.stats().gauge(Counter::WaitingJobs, -(taken.len().cast_signed() as i64));
        let until = Instant::now() + SOON;
        state.quick_until = Some(until);
        Some((taken, until))
    }

    /// A look has ended, and was not for `rest`, who are the next. If it was slow, others look, too.
    fn give_back(self: &Arc<Self>, rest: Vec<WaitingRecall>, is_slow: bool) {
        let mut state = self.state.lock();
        self.proxy.stats().gauge(Counter::WaitingJobs, rest.len().cast_signed() as i64);
        for waiting in rest.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
        let is_wanted = is_slow && !state.waiting.is_empty() && state.readers < READERS_MAX;
        state.readers += usize::from(is_wanted);
        drop(state);
        if is_wanted {
            self.start_reader();
        }
    }

    /// Has a worker read, which is counted already.
    fn start_reader(self: &Arc<Self>) {
        RecallReader { recalls: Arc::clone(self), is_counted: true }.go_on();
    }
}

/// A worker that looks for all who wait.
struct RecallReader {
    recalls: Arc<Recalls>,
    /// It is counted among the readers.
    is_counted: bool,
}

impl RecallReader {
    /// Has a worker run this.
    fn go_on(self) {
        let pool = Arc::clone(&self.recalls.pool);
        // An elastic pool refuses none.
        if pool.submit(Kind::Begun, Box::new(move |_| self.run())).is_err() {
            log::debug!("no worker to ask the backing store");
        }
    }

    /// Looks until nobody waits. It waits for the backing store, so it is for a worker.
    fn run(mut self) {
        for _ in 0..LOOKS_PER_TURN {
            let Some((taken, until)) = self.recalls.take() else {
                self.is_counted = false;
                return;
            };
            self.look(taken, until);
        }
        self.go_on();
    }

    /// Looks for those who were taken, and has them go on.
    fn look(&self, taken: Vec<WaitingRecall>, until: Instant) {
        let proxy = &self.recalls.proxy;
        let (asked, mut go_ons): (Vec<_>, Vec<_>) =
            taken.into_iter().map(|waiting| (waiting.recall, waiting.go_on)).unzip();
        let (nexts, unread) = proxy.recall_together(asked, until);
        let rest = unread.into_iter().zip(go_ons.split_off(nexts.len()));
        let rest = rest.map(|(recall, go_on)| WaitingRecall { recall, go_on }).collect();
        // Before the answers: the disk is asked for the others meanwhile.
        self.recalls.give_back(rest, Instant::now() >= until);
        wakes::hold(|| {
            for (go_on, next) in go_ons.into_iter().zip(nexts) {
                // What the closure owns is dropped by the unwinding: one exchange, and none of the others.
                if catch_unwind(AssertUnwindSafe(|| go_on(next))).is_err() {
                    proxy.stats().count(Counter::Panic);
                    log::error!("a worker panicked; this cost one exchange");
                }
            }
        });
    }
}

impl Drop for RecallReader {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        // The look itself has panicked, or no worker could begin it. Those who wait behind it are read for by another.
        let mut state = self.recalls.state.lock();
        state.readers -= 1;
        let is_wanted = state.readers == 0 && !state.waiting.is_empty();
        state.readers += usize::from(is_wanted);
        drop(state);
        if is_wanted {
            self.recalls.start_reader();
        }
    }
}
