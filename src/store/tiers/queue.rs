//! The queue of changes in front of a store that is slower than the threads that make them.
//!
//! Nobody waits for it but the writer of a body that does not fit into memory. It is bounded in number and
//! bytes. A response that finds it full is not written; but what is removed, or was replaced by that
//! response, must not come back, so its key is owed: until the store has forgotten it, nothing that the
//! store has for it is used. What was replaced is known to be overtaken besides (`overtaken.rs`): more such
//! keys than can be owed must not cost all that is stored.
//!
//! Its lock is taken last: under the locks of `memory.rs` by [`Queue::send`], without them by all that
//! waits. It is held for one step, never while the store is asked.

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
/// The most of them that are at leisure.
const LEISURELY_MAX: usize = 2048;
/// The most keys that are owed; beyond it everything is.
const OWED_MAX: usize = 10_000;
/// The most of them that are owed for what was replaced; the rest is for what was removed.
const OWED_REPLACED_MAX: usize = OWED_MAX / 2;

/// How much waits, and how long threads wait for it.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Bytes of content in the queue; one change that carries more may stand there alone.
    pub content_bytes: u64,
    /// For how long a lookup waits for a change of its key to be carried out.
    pub settle_wait: Duration,
    /// For how long a piece of a large body waits for space in the queue.
    pub space_wait: Duration,
    /// For how long the outcome of a large body is waited for, once all of it was handed in.
    pub commit_wait: Duration,
    /// For how long a purge waits until the backing store has carried it out.
    pub purge_wait: Duration,
    /// For how long a list waits for what was stored a moment ago.
    pub list_wait: Duration,
    /// For how long a recall waits for the response that another proxy fetches.
    pub others_wait: Duration,
}

impl QueueLimits {
    /// What pieces of large bodies may take of the content. They are waited for, and responses that come whole
    /// are not: one large body must not keep all others out of the backing store.
    fn piece_bytes(&self) -> u64 {
        self.content_bytes / 4 * 3
    }

    /// At most `content_bytes` bytes of content; the usual waits.
    pub fn of(content_bytes: u64) -> Self {
        Self {
            content_bytes,
            // A miss that goes to the origin server costs no more than that as a rule.
            settle_wait: Duration::from_millis(250),
            space_wait: Duration::from_secs(10),
            commit_wait: Duration::from_secs(10),
            purge_wait: Duration::from_secs(60),
            // A slow store must not keep the list.
            list_wait: Duration::from_secs(1),
            others_wait: Duration::from_secs(3),
        }
    }

    /// The same bound, and no wait: for tests that carry out the changes themselves.
    pub fn without_waits(content_bytes: u64) -> Self {
        let wait = Duration::ZERO;
        Self {
            content_bytes,
            settle_wait: wait,
            space_wait: wait,
            commit_wait: wait,
            purge_wait: wait,
            list_wait: wait,
            others_wait: wait,
        }
    }
}

/// A change on its way.
pub(in crate::store) struct Order {
    pub change: Change,
    /// Changes come in the order of their numbers.
    pub number: u64,
    /// Sent how many responses were stored or removed; dropped if the change failed.
    pub reply: Option<SyncSender<u64>>,
}

/// The queue.
pub(in crate::store) struct Queue {
    limits: QueueLimits,
    state: Mutex<QueueState>,
    /// Something has come, or the end.
    arrived: Condvar,
    /// Something was carried out, or taken out of the queue.
    settled: Condvar,
    dropped: AtomicU64,
    overtaken: Overtaken,
}

/// Guarded by [`Queue::state`].
#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Order>,
    /// Bytes of content in `waiting`.
    bytes: u64,
    /// Not all that waits is at leisure, or somebody waits for it.
    hurries: bool,
    next_number: u64,
    /// Changes that wait or are being carried out, in all and by key.
    unsettled: usize,
    pending: HashMap<CacheKey, u32>,
    /// Those among them that may concern any key.
    pending_all: u32,
    /// Keys that the store is to forget.
    owed: HashMap<CacheKey, Owed>,
    /// Since this change the store is to forget everything; then `owed` is empty.
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
pub(in crate::store) enum NextWork {
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
    /// An empty queue.
    pub(in crate::store) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            arrived: Condvar::new(),
            settled: Condvar::new(),
            dropped: AtomicU64::new(0),
            overtaken: Overtaken::default(),
        }
    }

    /// Its bounds.
    pub(in crate::store) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// Changes that were not carried out.
    pub(in crate::store) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What was stored later than what the store has.
    pub(in crate::store) fn overtaken(&self) -> &Overtaken {
        &self.overtaken
    }

    /// Hands in a change; waits for nothing. What finds no space is dropped, or owed.
    ///
    /// Called with the key's lock held, or that of purges, right after memory was changed: the order in which
    /// changes get here is the order in which memory saw them.
    pub(in crate::store) fn send(&self, change: Change, reply: Option<SyncSender<u64>>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let full = state.waiting.len() >= CHANGES_MAX
            || !state.has_space(change.bytes(), self.limits.content_bytes);
        // The others are bounded where they come from, or are waited for: a purge by its operator, pieces
        // in `send_waiting`, one end for each body.
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
            // It gets a number all the same: what was handed in before it must be carried out, or left out,
            // before its key is forgotten.
            let number = state.number();
            state.owe(&change, number, &self.overtaken, Fate::Dropped);
        } else {
            state.push(change, reply);
            state.hurries = true;
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Hands in a change that may wait for others, or until the writer has been idle for a while; waits for
    /// nothing. One beyond the bound is dropped. Each batch has readers of the store begin anew with what they
    /// know of it, and many batches of one change each would take longer than all changes in one.
    pub(in crate::store) fn send_at_leisure(&self, change: Change) {
        assert!(change.key().is_none() && change.bytes() == 0, "nobody waits for it");
        let mut state = self.state.lock();
        if !state.closed && state.waiting.len() < LEISURELY_MAX {
            state.push(change, None);
        }
    }

    /// Hands in a piece of a large body if there is space for it now; gives it back if not.
    pub(in crate::store) fn send_now(&self, change: Change) -> Option<Change> {
        let mut state = self.state.lock();
        // The number of changes is not looked at: pieces are large, so their bytes are the bound.
        if !state.has_space(change.bytes(), self.limits.piece_bytes()) {
            return Some(change);
        }
        state.push(change, None);
        state.hurries = true;
        drop(state);
        self.arrived.notify_one();
        None
    }

    /// Hands in a piece of a large body; waits for space, and says whether there was any.
    ///
    /// Called without a lock: the wait would hold up every change of the key.
    pub(in crate::store) fn send_waiting(&self, change: Change) -> bool {
        let deadline = Instant::now() + self.limits.space_wait;
        let mut state = self.state.lock();
        while !state.has_space(change.bytes(), self.limits.piece_bytes()) {
            let late = self.settled.wait_until(&mut state, deadline).timed_out();
            if late || state.closed {
                return false;
            }
        }
        state.push(change, None);
        state.hurries = true;
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// May what the store has for `key` be used, without a wait?
    pub(in crate::store) fn is_settled(&self, key: &CacheKey) -> bool {
        let state = self.state.lock();
        state.owed_all.is_none()
            && state.pending_all == 0
            && !state.owed.contains_key(key)
            && !state.pending.contains_key(key)
    }

    /// May what the store has for `key` be used? Waits a little for changes that are under way.
    ///
    /// Called without a lock, by a worker that is about to recall.
    pub(in crate::store) fn settle(&self, key: &CacheKey) -> bool {
        let deadline = Instant::now() + self.limits.settle_wait;
        let mut state = self.state.lock();
        loop {
            // What is owed is not waited for: the store has failed, and the pause may be long.
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
        state.hurries = true;
        self.arrived.notify_one();
        while state.unsettled > 0 {
            if self.settled.wait_until(&mut state, deadline).timed_out() {
                return state.unsettled == 0;
            }
        }
        true
    }

    /// Is nothing more taken?
    pub(in crate::store) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Nothing more is taken; what waits is still carried out.
    pub(in crate::store) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
        self.settled.notify_all();
    }

    /// The next changes, about `bytes_max` bytes of them; waits for at most `idle`. What is owed is
    /// among them unless `hold` says that the store would not take it. Called by the writer thread alone.
    pub(in crate::store) fn next(&self, bytes_max: u64, idle: Duration, hold: bool) -> NextWork {
        let deadline = Instant::now() + idle;
        let mut state = self.state.lock();
        loop {
            let owes = !hold && state.owes();
            let hurries = state.hurries || state.closed;
            if hurries && !state.waiting.is_empty() || owes {
                return NextWork::Work(self.take(state, bytes_max, hold));
            }
            if state.closed {
                return NextWork::Closed;
            }
            if self.arrived.wait_until(&mut state, deadline).timed_out() {
                if state.waiting.is_empty() {
                    return NextWork::Idle;
                }
                state.hurries = true;
            }
        }
    }

    /// Takes changes out of the queue. They stay unsettled until [`Queue::done`] or [`Queue::failed`], so a
    /// lookup of their keys waits on.
    fn take(&self, mut state: MutexGuard<'_, QueueState>, bytes_max: u64, hold: bool) -> Work {
        let mut orders = Vec::new();
        let mut bytes = 0;
        while orders.len() < BATCH_MAX && bytes < bytes_max {
            let Some(order) = state.waiting.pop_front() else { break };
            bytes += order.change.bytes();
            orders.push(order);
        }
        debug_assert!(
            bytes <= state.bytes,
            "bytes are counted when a change comes and when it goes"
        );
        state.bytes -= bytes;
        // Not before all that was handed in earlier: it would be stored after its key was forgotten, and
        // nothing would be owed any more.
        let next = state.waiting.front().map_or(u64::MAX, |order| order.number);
        state.hurries &= !state.waiting.is_empty();
        let is_due = |since: u64| !hold && since < next;
        let due = state.owed.iter().filter(|(_, owed)| is_due(owed.since));
        let owed = due.map(|(key, owed)| (key.clone(), *owed)).collect();
        let owed_all = state.owed_all.filter(|since| is_due(*since));
        // A piece may have been waiting for the space.
        drop(state);
        self.settled.notify_all();
        Work { orders, owed, owed_all }
    }

    /// These were carried out, and what was owed with them.
    pub(in crate::store) fn done(&self, work: Work, counts: &[u64]) {
        assert_eq!(work.orders.len(), counts.len(), "each change has its count");
        let mut state = self.state.lock();
        for (key, owed) in &work.owed {
            // If another change of the key was dropped meanwhile, it is owed anew.
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
        // Without the lock: the thread that waits for a reply may hand in the next change at once.
        for (order, count) in work.orders.into_iter().zip(counts) {
            if let Some(reply) = order.reply {
                let _ = reply.try_send(*count);
            }
        }
    }

    /// These could not be carried out. If that was tried, it is not known how far it came. What was owed with
    /// them is owed on.
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
    /// The store has not seen it.
    Dropped,
    /// The store has failed on it, or on another of the same batch: it may have been carried out.
    Unknown,
}

impl QueueState {
    fn owes(&self) -> bool {
        self.owed_all.is_some() || !self.owed.is_empty()
    }

    /// A response larger than the bound is let in when nothing else is there: else it could never be stored.
    fn has_space(&self, bytes: u64, bytes_max: u64) -> bool {
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
        self.waiting.push_back(Order { change, number, reply });
    }

    /// A change is over, one way or the other.
    fn settle(&mut self, change: &Change) {
        assert!(self.unsettled > 0, "a change is settled once, and was pushed before");
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
                // The first response of a key displaces nothing, so nothing has to go for it. But if the store
                // was asked to write it, an older batch of the same key may be in there by halves.
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
        // Everything is owed: no key says more. It is owed since the last of them, so that nothing from
        // before that is stored after the purge.
        if let Some(all) = &mut self.owed_all {
            let last = self.owed.drain().map(|(_, owed)| owed.since).max();
            *all = last.unwrap_or(0).max(*all);
        }
    }

    /// Owes a key, or everything if there are too many.
    fn owe_key(&mut self, key: CacheKey, number: u64, invalidates: bool) {
        if let Some(owed) = self.owed.get_mut(&key) {
            // A batch that fails late must not set the key back to an earlier change: what stands between
            // the two would be stored after the key was forgotten.
            owed.since = owed.since.max(number);
            owed.invalidates |= invalidates;
        } else if self.owed.len() < OWED_MAX {
            self.owed.insert(key, Owed { since: number, invalidates });
        } else {
            self.owed_all = self.owed_all.max(Some(number));
        }
    }

    /// What was replaced is to go. If too much is owed already, it is at least not used: `overtaken` has noted
    /// it, which the caller has seen to.
    fn owe_replaced(&mut self, key: &CacheKey, number: u64) {
        if self.owed.len() < OWED_REPLACED_MAX || self.owed.contains_key(key) {
            self.owe_key(key.clone(), number, false);
        }
    }
}

#[cfg(test)]
mod tests;
