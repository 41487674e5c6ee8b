//! Two tiers: memory in front, and a backing store that lasts or is shared.
//!
//! Whatever does not wait is memory's: an event loop sees nothing else. What is stored or removed is so in
//! memory at once, and in the backing store soon after, by the writer thread (`writer.rs`, through
//! `queue.rs`). What is not in memory is recalled by a worker, on its way to the origin server
//! (`recall.rs`). Content that memory has no space for stays in the backing store, and is read from there.
//!
//! Both tiers see the changes of a key in one order: each is made in memory and handed to the queue under
//! the locks of `memory.rs`, which has their order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::partial::displaced;
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{Backing, Change, Invalidations, Listed, Stamp};
use crate::store::outcome::{Purged, Put};
use crate::store::second_tier::SecondTier;
use crate::store::tiers::breaker::{Breaker, LogLimit};
use crate::store::tiers::memory::MemoryTier;
use crate::store::tiers::queue::{Queue, QueueLimits};
use crate::store::tiers::writer::StoreWriter;
use crate::store::underway::Begun;
use crate::store::{Reservation, Store, Usage, Variants};

pub(super) mod breaker;
mod claim;
mod memory;
mod overtaken;
mod queue;
mod recall;
pub mod spool;
mod writer;

pub use claim::FetchClaim;

/// The longest wait for the backing store to carry out a purge.
const PURGE_MAX: Duration = Duration::from_secs(60);

/// Memory and its backing store.
pub struct Tiers {
    first: Arc<MemoryTier>,
    backing: Arc<dyn Backing>,
    queue: Arc<Queue>,
    /// Two breakers: a file on a full disk can still be read, and must be.
    reads: Breaker,
    writes: Arc<Breaker>,
    /// How often lost content is logged.
    lost: LogLimit,
    /// The period in which a response's use is handed in once; raised by the writer thread.
    period: Arc<AtomicU32>,
    /// Each reuse is handed in, because the number of reuses is limited (`--hit-ttl`).
    reports_each_use: bool,
    /// `--cache-ttl`, for what was stored without it.
    cache_ttl: Option<DeltaSeconds>,
    /// Closed when the writer thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Tiers {
    /// Puts `memory` in front of `backing`, and starts the writer thread. At most `queued_bytes` of
    /// content wait to be written.
    pub fn new(
        memory: Arc<dyn Store>,
        backing: Arc<dyn Backing>,
        queued_bytes: u64,
        reports_each_use: bool,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(QueueLimits::of(queued_bytes)));
        let period = Arc::new(AtomicU32::new(1));
        let (end, ended) = sync_channel(1);
        let writes = Breaker::new(backing.name(), "nothing is written to it until it works again");
        let writes = Arc::new(writes);
        StoreWriter {
            backing: Arc::clone(&backing),
            queue: Arc::clone(&queue),
            breaker: Arc::clone(&writes),
            period: Arc::clone(&period),
            _end: end,
        }
        .start()?;
        let reads = Breaker::new(backing.name(), "memory alone is used until it works again");
        // News may come from this line on: memory is ready for them, and nothing has been recalled yet.
        let first = Arc::new(MemoryTier::new(memory));
        backing.listen(Arc::clone(&first) as Arc<dyn Invalidations>);
        let (cache_ttl, ended, lost) = (None, Mutex::new(ended), LogLimit::default());
        Ok(Self {
            first,
            backing,
            queue,
            reads,
            writes,
            lost,
            period,
            reports_each_use,
            cache_ttl,
            ended,
        })
    }

    /// The same, where nothing is reused later than `cache_ttl` after it came, by whatever process it was stored.
    #[must_use]
    pub fn capped(mut self, cache_ttl: Option<DeltaSeconds>) -> Self {
        self.cache_ttl = cache_ttl;
        self
    }

    /// Locks the key, and gives the state of the backing store when the fetch began.
    ///
    /// The caller holds `purging` for reading, and no stripe. The guard is to be held until the change has
    /// been handed to the queue.
    fn change(&self, key: &CacheKey, begun: &Begun) -> (MutexGuard<'_, ()>, Stamp) {
        let changing = self.first.stripe(key).lock();
        let mut stamp = begun.backing();
        // That there was nothing for the key says no more once anything has been stored for it: it would
        // spare the look for what the new response displaces. Compared before this change counts itself.
        stamp.was_empty &= stamp.moment == self.first.moments.now(key);
        self.first.moments.next(key);
        (changing, stamp)
    }

    /// Hands what memory has done with a response to the backing store. The key's lock is held, so this
    /// must not wait: the queue takes the change at once, or owes it.
    fn put_backing(
        &self,
        key: &CacheKey,
        response: Arc<StoredResponse>,
        begun: Stamp,
        put: Put,
    ) -> Put {
        debug_assert!(put != Put::Replaced, "what was not stored replaces nothing");
        if put == Put::Cleared {
            return put;
        }
        if response.content.len() > self.backing.content_bytes_max() {
            if put == Put::Stored && !begun.was_empty {
                self.displace_in_backing(key, &response);
            }
            return put;
        }
        if put == Put::TooLarge
            && let Some(present) = self.first.memory.get(key.as_str())
        {
            // It lives in the backing store alone, and what it takes the place of must not outlive it here.
            let goes = displaced(&response, present.iter().map(|other| other.head()));
            for (other, _) in present.iter().zip(goes).filter(|(_, goes)| *goes) {
                self.first.memory.remove(key, other);
            }
        }
        let key = key.clone();
        self.queue.send(Change::Put { key, response, begun }, None);
        Put::Stored
    }

    /// A response is in memory alone: it is too large for the backing store. What it has replaced must not
    /// outlive it there: once memory evicts the new response, the old one would be recalled.
    fn displace_in_backing(&self, key: &CacheKey, response: &StoredResponse) {
        let is_read_only = self.backing.content_bytes_max() == 0;
        if is_read_only && response.place().number().is_some() {
            // Freshened, not replaced: the stored content is the same, and all that there is when the
            // origin server is away.
            return;
        }
        // Until the change is carried out, and for good where nothing can be written.
        self.queue.overtaken().note(key, response.response_time);
        if !is_read_only {
            let head = Box::new(response.head().clone());
            self.queue.send(Change::Displace { key: key.clone(), head }, None);
        }
    }
}

/// The writer thread holds the queue, not the tiers: without this it would wait for changes for ever.
impl Drop for Tiers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store for Tiers {
    fn get(&self, key: &str) -> Option<Variants> {
        self.first.memory.get(key)
    }

    fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        self.first.memory.touch(key, response);
        // On the way of every hit: no lock but the queue's, and that only once in a period.
        let place = response.place();
        if self.reports_each_use || place.is_news(self.period.load(Ordering::Relaxed)) {
            let place = Arc::clone(place);
            self.queue.send(Change::Used { place, reuses: response.reuses() }, None);
        }
    }

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        let _purging = self.first.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let put = self.first.memory.put(key, Arc::clone(&response), begun);
        self.put_backing(key, response, stamp, put)
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let _purging = self.first.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let place = old.place().number();
        let present = self.first.memory.get(key.as_str()).unwrap_or_default();
        // A twin: `old` was recalled for this request, and another request has promoted it since.
        let is_old = |other: &&Arc<StoredResponse>| Arc::ptr_eq(other, old) || is_twin(other, old);
        let put = match present.iter().find(is_old) {
            Some(old) => self.first.memory.replace(key, old, Arc::clone(&new), begun),
            None if !begun.admits(&new) => Put::Cleared,
            // What has come meanwhile, and would have to go for it, is newer than both.
            None if place.is_none() || displaces_any(&new, &present) => Put::Replaced,
            // Memory has no space for it. Whether the backing store still has the old one is known there
            // alone: the change names what the new one was made from.
            None => Put::TooLarge,
        };
        if put == Put::Replaced { put } else { self.put_backing(key, new, stamp, put) }
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        let _changing = self.first.change(key);
        let present = self.first.memory.get(key.as_str()).unwrap_or_default();
        let is_successor = |other: &Arc<StoredResponse>| {
            !Arc::ptr_eq(other, response) && Arc::ptr_eq(other.place(), response.place())
        };
        if present.iter().any(is_successor) {
            // It has been freshened: both have one place in the backing store, where removing the old one
            // would remove what was made from it.
            return;
        }
        self.first.memory.remove(key, response);
        for twin in present.iter().filter(|other| is_twin(other, response)) {
            self.first.memory.remove(key, twin);
        }
        let (key, response) = (key.clone(), Arc::clone(response));
        self.queue.send(Change::Remove { key, response }, None);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        // Marks, memory, queue, in this order and under the key's lock: what comes in between is kept out
        // by the mark, what was stored before is removed by the rest.
        let _purging = self.first.purging.read();
        let _changing = self.first.change(key);
        let removed = self.first.memory.remove_all_but(key, own);
        self.queue.send(Change::Forget { key: key.clone(), invalidates: true }, None);
        removed
    }

    fn sweep(&self, now: Timestamp) -> usize {
        self.queue.send(Change::Sweep { now }, None);
        self.first.memory.sweep(now)
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        self.purge_all_tiers(selector, now).count
    }

    fn purge_all_tiers(&self, selector: &Selector, now: Timestamp) -> Purged {
        let (reply, outcome) = sync_channel(1);
        // No change is between its two halves while this is held, so none is handed in after the purge
        // that memory took before it.
        let purging = self.first.purging.write();
        let here = self.first.memory.purge(selector, now);
        self.queue.send(Change::Purge { selector: selector.clone(), now }, Some(reply));
        // The wait below may be a minute; under the lock nothing could be stored meanwhile.
        drop(purging);
        // A failed or dropped change has its sender dropped, which ends the wait at once.
        match outcome.recv_timeout(PURGE_MAX) {
            Ok(backing) => Purged { count: here.max(backing as usize), owed_by: None },
            Err(_) => Purged { count: here, owed_by: Some(self.backing.name()) },
        }
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        // What was stored a moment ago should be on the list, but a slow store must not keep it.
        self.queue.flush(Duration::from_secs(1));
        match self.backing.list(after, most) {
            Ok(mut listed) => {
                if let Some(most) = self.cache_ttl {
                    for listed in &mut listed {
                        listed.head.cap_freshness(most);
                    }
                }
                listed
            }
            Err(error) => {
                log::info!("{}: {error}; what is in memory is listed", self.backing.name());
                self.first.memory.list(after, most)
            }
        }
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        self.first.memory.begin(key)
    }

    fn reserve(&self) -> Reservation {
        self.first.memory.reserve()
    }

    fn content_bytes_max(&self) -> u64 {
        self.first.memory.content_bytes_max().max(self.backing.content_bytes_max())
    }

    fn usage(&self) -> Usage {
        self.first.memory.usage()
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        self.backing.salt()
    }

    fn tiers(&self) -> Option<&dyn SecondTier> {
        Some(self)
    }
}

/// Would one of `present` have to go for `new`? Each is compared by itself: that there are too many is no answer.
fn displaces_any(new: &StoredHead, present: &[Arc<StoredResponse>]) -> bool {
    present.iter().any(|other| displaced(new, [other.head()]) == [true])
}

/// Is one what was recalled, and the other what was promoted of it? They have one number in the backing
/// store, but each has read it by itself.
fn is_twin(one: &StoredResponse, other: &StoredResponse) -> bool {
    let (one, other) = (one.place(), other.place());
    !Arc::ptr_eq(one, other) && one.number().is_some() && one.number() == other.number()
}
