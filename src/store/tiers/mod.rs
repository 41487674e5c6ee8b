//! Two tiers: memory in front, and behind it a store that lasts or is shared.
//!
//! Whatever does not wait is memory's: an event loop sees nothing else. What is stored or removed is so
//! in memory at once, and behind it soon after, by the writer thread. What is not in memory is recalled
//! by a worker, on its way to the origin server. Content that memory has no room for stays behind, and
//! is read from there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::buffer::Buffer;
use crate::message::content::Content;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::partial::displaces;
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{
    Backing, BackingError, BackingUsage, CHUNK_BYTES, Change, Fetcher, Invalidations, Listed,
    Recalled, Stamp,
};
use crate::store::codec;
use crate::store::tiers::overtaken::Moments;
use crate::store::tiers::queue::Queue;
use crate::store::tiers::spool::Spool;
use crate::store::tiers::writer::{Breaker, Remark, StoreWriter};
use crate::store::underway::Begun;
use crate::store::{Purged, Put, Reservation, Store, Usage, Variants};

mod overtaken;
mod queue;
pub mod spool;
pub(super) mod writer;

/// For how long a purge waits for the store behind memory to carry it out.
const PURGE_MAX: Duration = Duration::from_secs(60);
/// For how long another proxy's answer is waited for.
const OTHERS_MAX: Duration = Duration::from_secs(3);
/// How many keys can be changed at a time.
const STRIPES: usize = 64;

/// Memory and what is behind it.
pub struct Tiers {
    front: Arc<MemoryTier>,
    backing: Arc<dyn Backing>,
    queue: Arc<Queue>,
    reads: Breaker,
    writes: Arc<Breaker>,
    /// What is said of lost content.
    lost: Remark,
    period: Arc<AtomicU32>,
    /// Each reuse is told, because the number of reuses is limited (`--hit-ttl`).
    tells_each_use: bool,
    /// `--cache-ttl`, for what was stored without it.
    cache_ttl: Option<DeltaSeconds>,
    ended: Mutex<Receiver<()>>,
}

/// That this proxy fetches a response which others that share the store wait for. Dropped, it says that
/// it is done.
pub struct FetchClaim {
    store: Arc<dyn Store>,
    key: CacheKey,
}

impl FetchClaim {
    /// For what [`Tiers::recall`] has noted.
    pub fn new(store: &Arc<dyn Store>, key: &CacheKey) -> Self {
        Self { store: Arc::clone(store), key: key.clone() }
    }
}

impl Drop for FetchClaim {
    fn drop(&mut self) {
        if let Some(tiers) = self.store.tiers() {
            tiers.release(self.key.clone());
        }
    }
}

/// The first tier.
struct MemoryTier {
    memory: Arc<dyn Store>,
    /// One is held while a key changes in both tiers, so that both see its changes in one order.
    changing: Vec<Mutex<()>>,
    /// Held for writing while anything may go.
    purging: RwLock<()>,
    /// Counted up under a key's lock whenever what is stored for it changes.
    moments: Moments,
}

impl MemoryTier {
    fn stripe(&self, key: &CacheKey) -> &Mutex<()> {
        let hash = codec::checksum(0, 0, key.as_str().as_bytes());
        &self.changing[hash as usize % STRIPES]
    }

    /// What is stored for `key` changes, or is about to; nobody else changes it until the guard is dropped.
    fn change(&self, key: &CacheKey) -> MutexGuard<'_, ()> {
        let changing = self.stripe(key).lock();
        self.moments.next(key);
        changing
    }
}

/// What other proxies have done to a shared store is done to memory, too.
impl Invalidations for MemoryTier {
    fn changed(&self, key: &CacheKey, place: Option<u64>) {
        let _changing = self.change(key);
        let present = self.memory.get(key.as_str()).unwrap_or_default();
        if place.is_some() && present.iter().any(|response| response.place().number() == place) {
            return;
        }
        if place.is_some() {
            // Something newer is stored: what was here goes, but nothing is wrong with what is on its way,
            // which may be that very response, read a moment before its news came.
            for other in present.iter() {
                self.memory.remove(key, other);
            }
            return;
        }
        self.memory.remove_all(key);
    }

    fn purged(&self, selector: &Selector, now: Timestamp) {
        let _purging = self.purging.write();
        self.memory.purge(selector, now);
    }

    fn missed(&self) {
        self.purged(&Selector::All, Timestamp::MAX);
    }
}

impl Tiers {
    /// Puts `memory` in front of `backing`, and starts the writer thread. At most `queued_bytes` of
    /// content wait to be written.
    pub fn new(
        memory: Arc<dyn Store>,
        backing: Arc<dyn Backing>,
        queued_bytes: u64,
        tells_each_use: bool,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(queued_bytes));
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
        let changing = (0..STRIPES).map(|_| Mutex::default()).collect();
        let front = Arc::new(MemoryTier {
            memory,
            changing,
            purging: RwLock::default(),
            moments: Moments::default(),
        });
        backing.listen(Arc::clone(&front) as Arc<dyn Invalidations>);
        let ended = Mutex::new(ended);
        Ok(Self {
            front,
            backing,
            queue,
            reads,
            writes,
            period,
            tells_each_use,
            cache_ttl: None,
            ended,
            lost: Remark::default(),
        })
    }

    /// The same, where nothing is reused later than `cache_ttl` after it came, whoever stored it.
    #[must_use]
    pub fn capped(mut self, cache_ttl: Option<DeltaSeconds>) -> Self {
        self.cache_ttl = cache_ttl;
        self
    }

    /// What the store behind memory has for `key`; waits. `None` if it has nothing that may be used, or
    /// does not work. With `claims`, who finds nothing is to fetch it, and to say when that is over
    /// ([`Tiers::release`]); if another proxy is at it, that is waited for.
    pub fn recall(&self, key: &CacheKey, claims: bool) -> Option<Recalled> {
        self.recall_for(&mut self.begin(key), key, claims)
    }

    /// The same for the fetch `begun`, which begins anew if another proxy was waited for: what that one has
    /// brought is the outcome of the wait, and news of it must not rule it out.
    pub fn recall_for(&self, begun: &mut Begun, key: &CacheKey, claims: bool) -> Option<Recalled> {
        let recalled = self.ask(key, claims)?;
        if recalled.fetcher != Fetcher::Another {
            return Some(recalled);
        }
        self.backing.wait(key, OTHERS_MAX);
        *begun = begun.anew();
        self.ask(key, false)
    }

    fn ask(&self, key: &CacheKey, claims: bool) -> Option<Recalled> {
        let is_ready = || self.backing.is_ready();
        if !is_ready() || !self.queue.settle(key) || !is_ready() || !self.reads.lets_through() {
            return None;
        }
        let moment = self.front.moments.now(key);
        match self.backing.recall(key, claims) {
            Ok(mut recalled) => {
                self.reads.worked();
                recalled.stamp.moment = moment;
                recalled.variants.retain(|response| !self.queue.overtaken().has(key, response));
                if let Some(most) = self.cache_ttl {
                    for response in &mut recalled.variants {
                        *response = Arc::new(response.capped(most));
                    }
                }
                Some(recalled)
            }
            Err(error) => {
                self.reads.failed(&error);
                None
            }
        }
    }

    /// Fetches a recalled response into memory, if it has room for it: the same response, its content
    /// here. An error means that the content is lost.
    pub fn promote(
        &self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> io::Result<Arc<StoredResponse>> {
        let Content::Distant(distant) = &response.content else {
            return Ok(self.install(key, Arc::clone(response), begun));
        };
        let length = distant.length();
        let mut room = self.front.memory.room();
        // What is read while it is sent must be there before the head is.
        let left_behind = || {
            let there = distant.is_whole()?.then(|| Arc::clone(response));
            there.ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        if length > self.front.memory.content_bytes_max() || !room.grow(length) {
            return left_behind();
        }
        let Some(mut buffer) = Buffer::with_capacity(length as usize) else {
            return left_behind();
        };
        let mut piece = vec![0; CHUNK_BYTES.min(length as usize)];
        while (buffer.len() as u64) < length {
            let most = piece.len().min(length as usize - buffer.len());
            let count = distant.read_at(buffer.len() as u64, &mut piece[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.extend(&piece[..count]);
        }
        let (head, place) = (response.head().clone(), response.place().number().unwrap_or(0));
        let fetched = StoredResponse::new(head, buffer.into_bytes());
        let fetched = Arc::new(fetched.found_at(place, response.reuses()));
        Ok(self.install(key, fetched, begun))
    }

    /// Puts a recalled response into memory, unless there is a newer one; gives the one to use.
    fn install(
        &self,
        key: &CacheKey,
        fetched: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Arc<StoredResponse> {
        let _changing = self.front.stripe(key).lock();
        let newer = |other: &&Arc<StoredResponse>| {
            other.selecting == fetched.selecting
                && other.part == fetched.part
                && other.response_time >= fetched.response_time
        };
        let present = self.front.memory.get(key.as_str());
        if let Some(newer) = present.iter().flat_map(|variants| variants.iter()).find(newer) {
            return Arc::clone(newer);
        }
        // Since it was found it may have been removed or replaced, and what has replaced it evicted.
        if begun.backing().moment == self.front.moments.now(key) {
            self.front.memory.put(key, Arc::clone(&fetched), begun);
        }
        fetched
    }

    /// Takes a recalled response out: its content is lost.
    pub fn drop_lost(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        if let Some(more) = self.lost.due() {
            let (store, key) = (self.backing.name(), key.redacted());
            log::info!("{store}: {key}: its content is damaged or gone; it is dropped{more}");
        }
        self.remove(key, response);
    }

    /// Something for `key` has been stored behind memory alone: what was in memory before is outdated.
    fn forget_in_memory(&self, key: &CacheKey) {
        let _changing = self.front.change(key);
        for other in self.front.memory.get(key.as_str()).unwrap_or_default().iter() {
            self.front.memory.remove(key, other);
        }
    }

    /// Begins to store content that does not fit into memory.
    pub fn spool(&self, key: CacheKey, length: Option<u64>) -> Spool {
        Spool::new(&self.queue, key, length)
    }

    /// All of a body that was spooled has come: makes a stored response of it, unless it was invalidated
    /// since `begun`. Waits until that is done.
    pub fn commit(&self, mut spool: Spool, head: StoredHead, begun: &Begun) -> Put {
        // The last piece may wait for its place in the line: that is before the locks.
        if !spool.flush() {
            return Put::TooLarge;
        }
        let key = spool.spooled().key().clone();
        let purging = self.front.purging.read();
        let changing = self.front.change(&key);
        let stamp = begun.admits(&head).then(|| begun.backing());
        let sent = spool.send_whole(head, stamp);
        drop((purging, changing));
        let put = spool.settle(&sent);
        if put == Put::Stored {
            self.forget_in_memory(&key);
        }
        put
    }

    /// Locks the key, and gives the state of the store behind memory when the fetch began. That it had nothing for the key says no
    /// more once anything has been stored for it.
    fn change(&self, key: &CacheKey, begun: &Begun) -> (MutexGuard<'_, ()>, Stamp) {
        let changing = self.front.stripe(key).lock();
        let mut stamp = begun.backing();
        stamp.was_empty &= stamp.moment == self.front.moments.now(key);
        self.front.moments.next(key);
        (changing, stamp)
    }

    /// What memory has done with a response, is done behind it. The key's lock is held.
    fn put_backing(
        &self,
        key: &CacheKey,
        response: Arc<StoredResponse>,
        begun: Stamp,
        put: Put,
    ) -> Put {
        if put == Put::Cleared {
            return put;
        }
        if response.content.len() > self.backing.content_bytes_max() {
            if put == Put::Stored && !begun.was_empty {
                self.displace_behind(key, &response);
            }
            return put;
        }
        if put == Put::TooLarge
            && let Some(present) = self.front.memory.get(key.as_str())
        {
            // It lives behind memory alone, and what it takes the place of must not outlive it here.
            for other in present.iter().filter(|other| other.selecting == response.selecting) {
                self.front.memory.remove(key, other);
            }
        }
        let key = key.clone();
        self.queue.send(Change::Put { key, response, begun }, None);
        Put::Stored
    }

    /// A response is in memory alone: it is too large for the store behind it. What it has replaced must not
    /// outlive it there.
    fn displace_behind(&self, key: &CacheKey, response: &StoredResponse) {
        let is_read_only = self.backing.content_bytes_max() == 0;
        if is_read_only && response.place().number().is_some() {
            // The content is the same, and is all that there is when the origin server is away.
            return;
        }
        self.queue.overtaken().note(key, response.response_time);
        if !is_read_only {
            let head = Box::new(response.head().clone());
            self.queue.send(Change::Displace { key: key.clone(), head }, None);
        }
    }

    /// What the store behind memory is called.
    pub fn name(&self) -> String {
        self.backing.name()
    }

    /// Bytes of content that fit into memory.
    pub fn memory_content_bytes_max(&self) -> u64 {
        self.front.memory.content_bytes_max()
    }

    /// What the store behind memory holds, if it can say.
    pub fn backing_usage(&self) -> Option<BackingUsage> {
        self.backing.usage().ok()
    }

    /// Changes that the store behind memory did not take.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Why nothing can be written behind memory just now, as far as that is known.
    pub fn trouble(&self) -> Option<BackingError> {
        self.backing.trouble()
    }

    /// Does the store behind memory answer, as far as that is known?
    pub fn is_ready(&self) -> bool {
        self.backing.is_ready()
    }

    /// Is the store behind memory left alone, because it has failed?
    pub fn is_failing(&self) -> bool {
        self.reads.is_open() || self.writes.is_open() || !self.backing.is_ready()
    }

    /// Waits until all that was stored so far is in the store behind memory, but no longer than `most`;
    /// is it?
    pub fn flush(&self, most: Duration) -> bool {
        self.queue.flush(most)
    }

    /// Ends the writer thread, once it has written what it has; waits no longer than `most`.
    pub fn close(&self, most: Duration) -> bool {
        self.queue.close();
        // The thread drops its end when it is through.
        let ended = self.ended.lock().recv_timeout(most);
        !matches!(ended, Err(std::sync::mpsc::RecvTimeoutError::Timeout))
    }

    /// This proxy is done with fetching what it has claimed.
    pub fn release(&self, key: CacheKey) {
        self.queue.send(Change::Release { key }, None);
    }
}

impl Drop for Tiers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store for Tiers {
    fn get(&self, key: &str) -> Option<Variants> {
        self.front.memory.get(key)
    }

    fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        self.front.memory.touch(key, response);
        let place = response.place();
        if self.tells_each_use || place.is_news(self.period.load(Ordering::Relaxed)) {
            let place = Arc::clone(place);
            self.queue.send(Change::Used { place, reuses: response.reuses() }, None);
        }
    }

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        let _purging = self.front.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let put = self.front.memory.put(key, Arc::clone(&response), begun);
        self.put_backing(key, response, stamp, put)
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let _purging = self.front.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let place = old.place().number();
        let present = self.front.memory.get(key.as_str()).unwrap_or_default();
        let is_old = |other: &&Arc<StoredResponse>| Arc::ptr_eq(other, old) || is_twin(other, old);
        let put = match present.iter().find(is_old) {
            Some(old) => self.front.memory.replace(key, old, Arc::clone(&new), begun),
            None if !begun.admits(&new) => Put::Cleared,
            None if place.is_none() || present.iter().any(|other| displaces(&new, other, 1)) => {
                Put::Replaced
            }
            // Memory has no room for it. Whether it is still behind memory is known there.
            None => Put::TooLarge,
        };
        if put == Put::Replaced { put } else { self.put_backing(key, new, stamp, put) }
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        let _changing = self.front.change(key);
        let present = self.front.memory.get(key.as_str()).unwrap_or_default();
        let is_successor = |other: &Arc<StoredResponse>| {
            !Arc::ptr_eq(other, response) && Arc::ptr_eq(other.place(), response.place())
        };
        if present.iter().any(is_successor) {
            // It has been freshened: its place behind memory is that of what was made from it.
            return;
        }
        self.front.memory.remove(key, response);
        for twin in present.iter().filter(|other| is_twin(other, response)) {
            self.front.memory.remove(key, twin);
        }
        let (key, response) = (key.clone(), Arc::clone(response));
        self.queue.send(Change::Remove { key, response }, None);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        let _purging = self.front.purging.read();
        let _changing = self.front.change(key);
        let removed = self.front.memory.remove_all_but(key, own);
        self.queue.send(Change::Forget { key: key.clone(), invalidates: true }, None);
        removed
    }

    fn sweep(&self, now: Timestamp) -> usize {
        self.queue.send(Change::Sweep { now }, None);
        self.front.memory.sweep(now)
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        self.purge_all_tiers(selector, now).count
    }

    fn purge_all_tiers(&self, selector: &Selector, now: Timestamp) -> Purged {
        let (reply, told) = sync_channel(1);
        let purging = self.front.purging.write();
        let here = self.front.memory.purge(selector, now);
        self.queue.send(Change::Purge { selector: selector.clone(), now }, Some(reply));
        drop(purging);
        // Nobody answers if it has failed.
        match told.recv_timeout(PURGE_MAX) {
            Ok(backing) => Purged { count: here.max(backing as usize), owed_by: None },
            Err(_) => Purged { count: here, owed_by: Some(self.backing.name()) },
        }
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
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
                self.front.memory.list(after, most)
            }
        }
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        self.front.memory.begin(key)
    }

    fn room(&self) -> Reservation {
        self.front.memory.room()
    }

    fn content_bytes_max(&self) -> u64 {
        self.front.memory.content_bytes_max().max(self.backing.content_bytes_max())
    }

    fn usage(&self) -> Usage {
        self.front.memory.usage()
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        self.backing.salt()
    }

    fn tiers(&self) -> Option<&Tiers> {
        Some(self)
    }
}

/// Is one what was recalled, and the other what is in memory of it? They have one place, each found it by
/// itself.
fn is_twin(one: &StoredResponse, other: &StoredResponse) -> bool {
    let (one, other) = (one.place(), other.place());
    !Arc::ptr_eq(one, other) && one.number().is_some() && one.number() == other.number()
}
