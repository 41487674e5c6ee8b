//! The line of changes before a store that is slower than those who make them.
//!
//! Nobody waits for it but who writes a body that does not fit into memory. It is bounded in number and
//! bytes. A response that finds it full is not written; but what is removed, or was replaced by that
//! response, must not come back, so its key is owed: until the store has forgotten it, nothing that it has
//! for it is used. What was replaced is known to be overtaken besides: more such keys than can be owed must
//! not cost all that is stored.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::backing::Change;
use crate::store::tiers::overtaken::Overtaken;

/// The most changes that wait.
const CHANGES_MAX: usize = 4096;
/// The most changes of one call of the store.
const BATCH_MAX: usize = 1024;
/// The most keys that are owed; beyond it everything is.
const OWED_MAX: usize = 10_000;
/// The most of them that are owed for what was replaced; the rest is for what was removed.
const OWED_REPLACED_MAX: usize = OWED_MAX / 2;
/// For how long a lookup waits for a change of its key to be carried out.
const SETTLE_MAX: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });
/// For how long a piece of a large body waits for its place in the line.
const PLACE_MAX: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 10_000 });

/// A change on its way.
pub(in crate::store) struct Order {
    pub change: Change,
    /// Changes come in the order of their numbers.
    pub number: u64,
    /// Is told how many responses were stored or removed; dropped if it failed.
    pub reply: Option<SyncSender<u64>>,
}

/// The line.
pub(in crate::store) struct Queue {
    bytes_max: u64,
    state: Mutex<QueueState>,
    /// Something has come, or the end.
    arrived: Condvar,
    /// Something was carried out, or taken out of the line.
    settled: Condvar,
    dropped: AtomicU64,
    overtaken: Overtaken,
}

/// Guarded by [`Queue::state`].
#[derive(Default)]
struct QueueState {
    line: VecDeque<Order>,
    bytes: u64,
    next_number: u64,
    /// Changes that are in the line or being carried out, in all and by key.
    unsettled: usize,
    pending: HashMap<CacheKey, u32>,
    /// Those among them that may concern any key.
    pending_all: u32,
    /// Keys that the store is to forget.
    owed: HashMap<CacheKey, Owed>,
    owed_all: Option<u64>,
    closed: bool,
}

/// That the store is to forget a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::store) struct Owed {
    /// Since this change: what was handed in before it is not stored any more.
    pub since: u64,
    /// Nothing is let in that was asked for before.
    pub invalidates: bool,
}

/// What the writer is to do next.
pub(in crate::store) enum Next {
    /// Carry these out, after what is owed.
    Work(Work),
    /// Nothing has come for a while.
    Idle,
    /// The end.
    Closed,
}

/// What is to be carried out.
pub(in crate::store) struct Work {
    pub orders: Vec<Order>,
    pub owed: Vec<(CacheKey, Owed)>,
    pub owed_all: Option<u64>,
}

impl Queue {
    /// A line for at most `bytes_max` bytes of content; one change that carries more may stand alone.
    pub(in crate::store) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            arrived: Condvar::new(),
            settled: Condvar::new(),
            dropped: AtomicU64::new(0),
            overtaken: Overtaken::default(),
        }
    }

    /// Changes that were not carried out.
    pub(in crate::store) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What was stored later than what the store has.
    pub(in crate::store) fn overtaken(&self) -> &Overtaken {
        &self.overtaken
    }

    /// Hands in a change; waits for nothing. What finds no room is dropped, or owed.
    pub(in crate::store) fn send(&self, change: Change, reply: Option<SyncSender<u64>>) {
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
                | Change::Displace { .. }
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
            state.owe(&change, number, &self.overtaken, Fate::Dropped);
        } else {
            state.push(change, reply);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Hands in a piece of a large body; waits for its place, and says whether it got one.
    pub(in crate::store) fn send_waiting(&self, change: Change) -> bool {
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
    pub(in crate::store) fn settle(&self, key: &CacheKey) -> bool {
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
    pub(in crate::store) fn flush(&self, most: Duration) -> bool {
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
    pub(in crate::store) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
        self.settled.notify_all();
    }

    /// The next changes, about `bytes_max` bytes of them; waits for at most `idle`. What is owed is
    /// among them unless `hold` says that the store would not take it.
    pub(in crate::store) fn next(&self, bytes_max: u64, idle: Duration, hold: bool) -> Next {
        let deadline = Instant::now() + idle;
        let mut state = self.state.lock();
        loop {
            let owes = !hold && state.owes();
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

    fn take(&self, mut state: MutexGuard<'_, QueueState>, bytes_max: u64, hold: bool) -> Work {
        let mut orders = Vec::new();
        let mut bytes = 0;
        while orders.len() < BATCH_MAX && bytes < bytes_max {
            let Some(order) = state.line.pop_front() else { break };
            bytes += order.change.bytes();
            orders.push(order);
        }
        state.bytes -= bytes;
        // Not before all that was handed in earlier: it would still be stored then.
        let next = state.line.front().map_or(u64::MAX, |order| order.number);
        let is_due = |since: u64| !hold && since < next;
        let due = state.owed.iter().filter(|(_, owed)| is_due(owed.since));
        let owed = due.map(|(key, owed)| (key.clone(), *owed)).collect();
        let owed_all = state.owed_all.filter(|since| is_due(*since));
        drop(state);
        self.settled.notify_all();
        Work { orders, owed, owed_all }
    }

    /// These were carried out, and what was owed with them.
    pub(in crate::store) fn done(&self, work: Work, counts: &[u64]) {
        let mut state = self.state.lock();
        for (key, owed) in &work.owed {
            if state.owed.get(key) == Some(owed) {
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

    /// These could not be carried out. If that was tried, nobody knows how far it came.
    pub(in crate::store) fn failed(&self, work: &Work, was_tried: bool) {
        let fate = if was_tried { Fate::Unknown } else { Fate::Dropped };
        let mut state = self.state.lock();
        for order in &work.orders {
            state.settle(&order.change);
            state.owe(&order.change, order.number, &self.overtaken, fate);
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

/// What became of a change that was not carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Dropped,
    Unknown,
}

impl QueueState {
    fn owes(&self) -> bool {
        self.owed_all.is_some() || !self.owed.is_empty()
    }

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

    /// A change was not carried out: what it was to remove, or to take the place of, must not be used.
    fn owe(&mut self, change: &Change, number: u64, overtaken: &Overtaken, fate: Fate) {
        match change {
            Change::Put { key, response, begun } => {
                let has_nothing = begun.was_empty && !self.pending.contains_key(key);
                if fate == Fate::Unknown || !has_nothing {
                    overtaken.note(key, response.response_time);
                    self.owe_replaced(key, number);
                }
            }
            Change::Displace { key, head } => {
                overtaken.note(key, head.response_time);
                self.owe_replaced(key, number);
            }
            Change::Remove { key, .. } => self.owe_key(key.clone(), number, true),
            Change::Forget { key, invalidates } => {
                self.owe_key(key.clone(), number, *invalidates);
            }
            Change::Purge { selector: Selector::Uri(uri), .. } => {
                self.owe_key(CacheKey::from(uri.as_str()), number, true);
            }
            Change::Purge { .. } => self.owed_all = self.owed_all.max(Some(number)),
            _ => {}
        }
        if let Some(all) = &mut self.owed_all {
            let last = self.owed.drain().map(|(_, owed)| owed.since).max();
            *all = last.unwrap_or(0).max(*all);
        }
    }

    fn owe_key(&mut self, key: CacheKey, number: u64, invalidates: bool) {
        if let Some(owed) = self.owed.get_mut(&key) {
            owed.since = owed.since.max(number);
            owed.invalidates |= invalidates;
        } else if self.owed.len() < OWED_MAX {
            self.owed.insert(key, Owed { since: number, invalidates });
        } else {
            self.owed_all = self.owed_all.max(Some(number));
        }
    }

    /// What was replaced is to go; if too much is owed already, it is at least not used.
    fn owe_replaced(&mut self, key: &CacheKey, number: u64) {
        if self.owed.len() < OWED_REPLACED_MAX || self.owed.contains_key(key) {
            self.owe_key(key.clone(), number, false);
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
    use crate::store::backing::Stamp;

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
        let begun = Stamp { was_empty: true, ..Stamp::default() };
        Change::Put { key: key(name), response, begun }
    }

    impl Change {
        /// A response for whose key there is another one.
        fn replacing(mut self) -> Self {
            if let Self::Put { begun, .. } = &mut self {
                begun.was_empty = false;
            }
            self
        }
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
        queue.send(put("new", 0), None);
        queue.send(put("replaced", 0).replacing(), None);
        queue.send(forget("late"), None);
        assert_eq!(queue.dropped(), 3);
        let first = work(&queue);
        assert_eq!(first.orders.len(), BATCH_MAX);
        assert!(first.owed.is_empty(), "what stands before it in the line may store it yet");
        queue.done(first, &[0; BATCH_MAX]);
        let is_settled = |name| queue.settle(&key(name));
        assert_eq!(["late", "replaced", "new"].map(is_settled), [false, false, true]);
        carry_out_all(&queue);
        assert_eq!(["late", "replaced", "new"].map(is_settled), [true; 3], "they are forgotten");
        assert!(queue.flush(Duration::ZERO));
    }

    /// More is replaced by what finds no place than can be owed: that must not cost all that is stored.
    #[test]
    fn what_is_replaced_and_not_owed_is_known_to_be_overtaken() {
        let queue = Queue::new(1000);
        for number in 0..CHANGES_MAX {
            queue.send(forget(format!("first {number}")), None);
        }
        for number in 0..OWED_MAX * 2 {
            queue.send(put(number, 0).replacing(), None);
        }
        let head = |change: Change| match change {
            Change::Put { response, .. } => response.head().clone(),
            _ => unreachable!("it is a response"),
        };
        let old = head(put("old", 0));
        assert!(queue.overtaken().has(&key(OWED_MAX * 2 - 1), &old));
        carry_out_all(&queue);
        assert!(queue.settle(&key("other")), "not everything is owed");
        let new = StoredHead { response_time: Timestamp(2), ..old };
        assert!(!queue.overtaken().has(&key(OWED_MAX * 2 - 1), &new));
    }

    #[test]
    fn what_is_owed_again_is_owed_since_the_later_change() {
        let queue = Queue::new(1000);
        for number in 0..CHANGES_MAX - 1 {
            queue.send(forget(number), None);
        }
        queue.send(put("a", 0), None);
        queue.send(forget("a"), None);
        // An earlier one fails: the response that is still in the line came before the later one.
        let mut first = work(&queue);
        first.orders[0].change = forget("a");
        queue.state.lock().pending.insert(key("a"), 2);
        queue.failed(&first, true);
        let mut outdated = 0;
        while let Next::Work(work) = queue.next(u64::MAX, Duration::ZERO, false) {
            let put = work.orders.iter().find(|order| matches!(order.change, Change::Put { .. }));
            if let Some(put) = put {
                let owed = work.owed.iter().find(|(owed, _)| *owed == key("a"));
                outdated += usize::from(owed.is_some_and(|(_, owed)| put.number < owed.since));
            }
            let counts = vec![0; work.orders.len()];
            queue.done(work, &counts);
        }
        assert_eq!(outdated, 1);
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
        let mut owed_all = None;
        while owed_all.is_none() {
            let work = work(&queue);
            owed_all = work.owed_all;
            let counts = vec![0; work.orders.len()];
            queue.done(work, &counts);
        }
        assert!(queue.settle(&key("other")), "everything is forgotten");
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
        queue.failed(&failed, true);
        drop(failed);
        assert!(told.recv().is_err());
        assert!(!queue.settle(&key("a")), "nobody knows whether it is there, and what else");
        assert!(!queue.settle(&key("b")));
        // While the store is left alone, what is owed waits.
        assert!(matches!(queue.next(1, Duration::ZERO, true), Next::Idle));
        carry_out_all(&queue);
        assert!(queue.settle(&key("b")));
        let selector = Selector::Uri("c".to_string());
        queue.send(Change::Purge { selector, now: Timestamp(0) }, None);
        queue.failed(&work(&queue), true);
        assert!(queue.settle(&key("a")) && !queue.settle(&key("c")), "one key is meant");
        queue.send(Change::Purge { selector: Selector::Stale, now: Timestamp(0) }, None);
        queue.failed(&work(&queue), true);
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
