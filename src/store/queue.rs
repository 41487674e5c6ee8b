//! The line of changes before a store that is slower than those who make them.
//!
//! Nobody waits for it but who writes a body that does not fit into memory. It is bounded in number and
//! bytes. A response that finds it full is not written; but what is removed must not come back, so a
//! key that could not be removed is owed: until the store has forgotten it, nothing that it has for it is
//! used.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::behind::Change;

/// The most changes that wait.
const CHANGES_MAX: usize = 4096;
/// The most changes of one call of the store.
const BATCH_MAX: usize = 1024;
/// The most keys that are owed; beyond it everything is.
const OWED_MAX: usize = 10_000;
/// For how long a lookup waits for a change of its key to be carried out.
const SETTLE_MAX: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });
/// For how long a piece of a large body waits for its place in the line.
const PLACE_MAX: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 10_000 });

/// A change on its way.
pub(super) struct Order {
    pub change: Change,
    /// Changes come in the order of their numbers.
    pub number: u64,
    /// Is told how many responses were stored or removed; dropped if it failed.
    pub reply: Option<SyncSender<u64>>,
}

/// The line.
pub(super) struct Queue {
    bytes_max: u64,
    state: Mutex<State>,
    /// Something has come, or the end.
    arrived: Condvar,
    /// Something was carried out, or taken out of the line.
    settled: Condvar,
    dropped: AtomicU64,
}

/// Guarded by [`Queue::state`].
#[derive(Default)]
struct State {
    line: VecDeque<Order>,
    bytes: u64,
    next_number: u64,
    /// Changes that are in the line or being carried out, in all and by key.
    unsettled: usize,
    pending: HashMap<CacheKey, u32>,
    /// Those among them that may concern any key.
    pending_all: u32,
    /// Keys that the store is to forget, and since which change.
    owed: HashMap<CacheKey, u64>,
    owed_all: Option<u64>,
    closed: bool,
}

/// What the writer is to do next.
pub(super) enum Next {
    /// Carry these out, after what is owed.
    Work(Work),
    /// Nothing has come for a while.
    Idle,
    /// The end.
    Closed,
}

/// What is to be carried out.
pub(super) struct Work {
    pub orders: Vec<Order>,
    pub owed: Vec<(CacheKey, u64)>,
    pub owed_all: Option<u64>,
}

impl Queue {
    /// A line for at most `bytes_max` bytes of content; one change that carries more may stand alone.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            arrived: Condvar::new(),
            settled: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Changes that were not carried out.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands in a change; waits for nothing. What finds no room is dropped, or owed.
    pub(super) fn send(&self, change: Change, reply: Option<SyncSender<u64>>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let full =
            state.line.len() >= CHANGES_MAX || !state.has_room(change.bytes(), self.bytes_max);
        let may_be_dropped = matches!(
            change,
            Change::Put { .. }
                | Change::Used { .. }
                | Change::Remove { .. }
                | Change::Forget { .. }
                | Change::Sweep { .. }
                | Change::Release { .. }
        );
        if full && may_be_dropped {
            if !matches!(change, Change::Used { .. } | Change::Sweep { .. }) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            let number = state.number();
            state.owe(&change, number);
        } else {
            state.push(change, reply);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Hands in a piece of a large body; waits for its place, and says whether it got one.
    pub(super) fn send_waiting(&self, change: Change) -> bool {
        let deadline = Instant::now() + PLACE_MAX;
        let mut state = self.state.lock();
        while !state.has_room(change.bytes(), self.bytes_max) {
            let late = self.settled.wait_until(&mut state, deadline).timed_out();
            if late || state.closed {
                return false;
            }
        }
        state.push(change, None);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// May what the store has for `key` be used? Waits a little for changes that are under way.
    pub(super) fn settle(&self, key: &CacheKey) -> bool {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut state = self.state.lock();
        loop {
            if state.owed_all.is_some() || state.owed.contains_key(key) {
                return false;
            }
            if state.pending_all == 0 && !state.pending.contains_key(key) {
                return true;
            }
            if self.settled.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
    }

    /// Waits until all is carried out, but not longer than `most`; was it?
    pub(super) fn flush(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let mut state = self.state.lock();
        while state.unsettled > 0 {
            if self.settled.wait_until(&mut state, deadline).timed_out() {
                return state.unsettled == 0;
            }
        }
        true
    }

    /// Nothing more is taken; what is in the line is still carried out.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
        self.settled.notify_all();
    }

    /// The next changes, about `bytes_max` bytes of them; waits for at most `idle`. What is owed is
    /// among them unless `hold` says that the store would not take it.
    pub(super) fn next(&self, bytes_max: u64, idle: Duration, hold: bool) -> Next {
        let deadline = Instant::now() + idle;
        let mut state = self.state.lock();
        loop {
            let owes = !hold && (state.owed_all.is_some() || !state.owed.is_empty());
            if !state.line.is_empty() || owes {
                return Next::Work(self.take(state, bytes_max, hold));
            }
            if state.closed {
                return Next::Closed;
            }
            if self.arrived.wait_until(&mut state, deadline).timed_out() {
                return Next::Idle;
            }
        }
    }

    fn take(&self, mut state: MutexGuard<'_, State>, bytes_max: u64, hold: bool) -> Work {
        let mut orders = Vec::new();
        let mut bytes = 0;
        while orders.len() < BATCH_MAX && bytes < bytes_max {
            let Some(order) = state.line.pop_front() else { break };
            bytes += order.change.bytes();
            orders.push(order);
        }
        state.bytes -= bytes;
        let owed = if hold { Vec::new() } else { state.owed.clone().into_iter().collect() };
        let owed_all = state.owed_all.filter(|_| !hold);
        drop(state);
        self.settled.notify_all();
        Work { orders, owed, owed_all }
    }

    /// These were carried out, and what was owed with them.
    pub(super) fn done(&self, work: Work, counts: &[u64]) {
        let mut state = self.state.lock();
        for (key, number) in &work.owed {
            if state.owed.get(key) == Some(number) {
                state.owed.remove(key);
            }
        }
        if state.owed_all == work.owed_all {
            state.owed_all = None;
        }
        for order in &work.orders {
            state.settle(&order.change);
        }
        drop(state);
        self.settled.notify_all();
        for (order, count) in work.orders.into_iter().zip(counts) {
            if let Some(reply) = order.reply {
                let _ = reply.try_send(*count);
            }
        }
    }

    /// These could not be carried out.
    pub(super) fn failed(&self, work: &Work) {
        let mut state = self.state.lock();
        for order in &work.orders {
            state.settle(&order.change);
            state.owe(&order.change, order.number);
            match &order.change {
                Change::Chunk { spooled, .. } | Change::Whole { spooled, .. } => spooled.fail(),
                _ => {}
            }
        }
        drop(state);
        self.dropped.fetch_add(work.orders.len() as u64, Ordering::Relaxed);
        self.settled.notify_all();
    }
}

impl State {
    fn has_room(&self, bytes: u64, bytes_max: u64) -> bool {
        bytes == 0 || self.bytes == 0 || self.bytes + bytes <= bytes_max
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn push(&mut self, change: Change, reply: Option<SyncSender<u64>>) {
        let number = self.number();
        self.bytes += change.bytes();
        self.unsettled += 1;
        if let Some(key) = change.key() {
            *self.pending.entry(key.clone()).or_default() += 1;
        } else if matches!(change, Change::Purge { .. }) {
            self.pending_all += 1;
        }
        self.line.push_back(Order { change, number, reply });
    }

    /// A change is over, one way or the other.
    fn settle(&mut self, change: &Change) {
        self.unsettled -= 1;
        if let Some(key) = change.key() {
            if let Some(count) = self.pending.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.pending.remove(key);
                }
            }
        } else if matches!(change, Change::Purge { .. }) {
            self.pending_all -= 1;
        }
    }

    /// A change was not carried out: what it was to remove must not be used. What was to be stored is not,
    /// and what is stored in its place is as good as it was.
    fn owe(&mut self, change: &Change, number: u64) {
        match change {
            Change::Remove { key, .. } | Change::Forget { key, .. } => {
                self.owe_key(key.clone(), number);
            }
            Change::Purge { selector: Selector::Uri(uri), .. } => {
                self.owe_key(CacheKey::from(uri.as_str()), number);
            }
            Change::Purge { .. } => self.owed_all = Some(number),
            _ => {}
        }
        if self.owed_all.is_some() {
            self.owed.clear();
        }
    }

    fn owe_key(&mut self, key: CacheKey, number: u64) {
        if self.owed.len() < OWED_MAX {
            self.owed.insert(key, number);
        } else {
            self.owed_all = Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::stored::{StoredHead, StoredResponse};
    use crate::policy::vary::Selecting;
    use crate::store::behind::Stamp;

    fn key(name: impl std::fmt::Display) -> CacheKey {
        CacheKey::from(format!("{name}").as_str())
    }

    fn forget(name: impl std::fmt::Display) -> Change {
        Change::Forget { key: key(name), invalidates: true }
    }

    fn put(name: impl std::fmt::Display, bytes: usize) -> Change {
        let head = StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: Fields::new(),
            directives: ResponseDirectives::default(),
            selecting: std::iter::empty().collect::<Selecting>(),
            lifetime: Lifetime::Explicit(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(0),
            fresh_until: Timestamp::MAX,
            useful_until: Timestamp::MAX,
        };
        let response = Arc::new(StoredResponse::new(head, Bytes::from(vec![0; bytes])));
        Change::Put { key: key(name), response, begun: Stamp::default() }
    }

    fn work(queue: &Queue) -> Work {
        match queue.next(u64::MAX, Duration::ZERO, false) {
            Next::Work(work) => work,
            _ => panic!("there is something to do"),
        }
    }

    fn carry_out_all(queue: &Queue) {
        while let Next::Work(work) = queue.next(u64::MAX, Duration::ZERO, false) {
            let counts = vec![1; work.orders.len()];
            queue.done(work, &counts);
        }
    }

    #[test]
    fn a_lookup_waits_for_the_changes_of_its_key_and_no_others() {
        let queue = Queue::new(1000);
        queue.send(forget("a"), None);
        assert!(!queue.settle(&key("a")) && queue.settle(&key("b")));
        carry_out_all(&queue);
        assert!(queue.settle(&key("a")) && queue.flush(Duration::ZERO));
        queue.send(Change::Purge { selector: Selector::All, now: Timestamp(0) }, None);
        assert!(!queue.settle(&key("b")), "any key may be meant");
    }

    #[test]
    fn the_line_is_bounded_and_what_must_go_is_owed() {
        let queue = Queue::new(1000);
        for number in 0..CHANGES_MAX {
            queue.send(forget(number), None);
        }
        queue.send(put("stored", 0), None);
        queue.send(forget("late"), None);
        assert_eq!(queue.dropped(), 2);
        let first = work(&queue);
        assert_eq!((first.orders.len(), first.owed.len()), (BATCH_MAX, 1), "it is owed");
        assert!(!queue.settle(&key("late")) && queue.settle(&key("stored")));
        queue.done(first, &[0; BATCH_MAX]);
        assert!(queue.settle(&key("late")), "it is forgotten");
        carry_out_all(&queue);
        assert!(queue.flush(Duration::ZERO));
    }

    #[test]
    fn what_is_owed_is_bounded_too() {
        let queue = Queue::new(1000);
        for number in 0..CHANGES_MAX + OWED_MAX {
            queue.send(forget(number), None);
        }
        assert!(queue.settle(&key("other")));
        queue.send(forget("one more"), None);
        assert!(!queue.settle(&key("other")), "everything is owed");
        assert!(work(&queue).owed_all.is_some());
    }

    #[test]
    fn content_in_the_line_is_bounded() {
        let queue = Queue::new(1000);
        queue.send(put("large", 5000), None);
        queue.send(put("small", 1), None);
        assert_eq!(queue.dropped(), 1, "a large one may stand there, but alone");
        carry_out_all(&queue);
        for _ in 0..3 {
            queue.send(put("a", 400), None);
        }
        assert_eq!(queue.dropped(), 2);
        assert!(!queue.send_waiting(put("b", 400)), "it has waited in vain");
        carry_out_all(&queue);
        assert!(queue.send_waiting(put("b", 400)));
    }

    #[test]
    fn what_fails_is_owed_and_whoever_waits_for_it_learns_of_it() {
        let queue = Queue::new(1000);
        let (reply, told) = sync_channel(1);
        queue.send(put("a", 1), None);
        queue.send(forget("b"), Some(reply));
        let failed = work(&queue);
        queue.failed(&failed);
        drop(failed);
        assert!(told.recv().is_err());
        assert!(queue.settle(&key("a")) && !queue.settle(&key("b")));
        // While the store is left alone, what is owed waits.
        assert!(matches!(queue.next(1, Duration::ZERO, true), Next::Idle));
        carry_out_all(&queue);
        assert!(queue.settle(&key("b")));
        let selector = Selector::Uri("c".to_string());
        queue.send(Change::Purge { selector, now: Timestamp(0) }, None);
        queue.failed(&work(&queue));
        assert!(queue.settle(&key("a")) && !queue.settle(&key("c")), "one key is meant");
        queue.send(Change::Purge { selector: Selector::Stale, now: Timestamp(0) }, None);
        queue.failed(&work(&queue));
        assert!(!queue.settle(&key("a")), "nobody knows what was meant");
    }

    #[test]
    fn after_the_end_the_rest_is_carried_out_and_no_more() {
        let queue = Queue::new(1000);
        queue.send(forget("a"), None);
        queue.close();
        queue.send(forget("b"), None);
        assert_eq!(work(&queue).orders.len(), 1);
        assert!(matches!(queue.next(1, Duration::from_secs(60), false), Next::Closed));
    }
}
