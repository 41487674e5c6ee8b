//! The cache: memory, and what is behind it. The engine, the operator's interfaces and the commands know this one
//! type, and none of them asks whether there is a backing store but to learn whether to recall.
//!
//! Whatever does not wait is memory's: an event loop sees nothing else. What is stored or removed is so in
//! memory at once, and in the backing store soon after, by the writer thread (`tiers/writer.rs`, through
//! `tiers/queue.rs`). What is not in memory is recalled by a worker, on its way to the origin server
//! (`cache/recall.rs`). Content that memory has no space for stays in the backing store, and is read from there.
//!
//! Both see the changes of a key in one order: each is made in memory and handed to the queue under the locks of
//! `tiers/memory.rs`, which has their order. Without a backing store there is one place to change, which has locks
//! of its own, and none of these is taken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::content::Content;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::partial::displaced;
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{
    Backing, BackingError, BackingUsage, Change, Invalidations, Listed, Stamp,
};
use crate::store::outcome::{Purged, Put};
use crate::store::overlay::Overlay;
use crate::store::packing::Packer;
use crate::store::tiers::backed::Backed;
use crate::store::tiers::memory::{KeyChange, MemoryTier};
use crate::store::tiers::{QueueLimits, WriterSteps};
use crate::store::underway::Begun;
use crate::store::{Reservation, Store, Usage, Variants};

mod compressing;
mod load;
mod recall;

pub use load::LoadBounds;
pub use recall::Recollected;

/// Memory, and what is behind it.
pub struct Cache {
    /// That of `tier`, without the way there: every hit comes here.
    memory: Arc<dyn Store>,
    tier: Arc<MemoryTier>,
    behind: Behind,
    /// Where `--cache-compress` is on.
    packer: Option<Arc<Packer>>,
    load: load::LoadProgress,
}

/// What is behind memory.
enum Behind {
    Nothing,
    Store(Box<Backed>),
    /// This cache is for one explanation (`Cache::apart`).
    Below(Below),
}

/// The cache that an explanation is about.
struct Below {
    cache: Arc<Cache>,
    /// What is seen of it; the memory of the cache above.
    overlay: Arc<Overlay>,
    /// Its backing store was asked, and the overlay shows what it has.
    is_asked: AtomicBool,
}

/// What memory has for a key, and the moment of the look.
pub struct Look {
    /// The stored responses, the most recent first.
    pub variants: Option<Variants>,
    moment: u64,
}

impl Look {
    /// The stored responses, the most recent first.
    pub fn variants(&self) -> &[Arc<StoredResponse>] {
        self.variants.as_ref().map_or(&[][..], |variants| variants)
    }
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheUsage {
    /// In memory.
    pub memory: Usage,
    /// Behind it; `None` if there is nothing.
    pub backing: Option<BackingState>,
    /// Responses compressed in memory since the start.
    pub packed: u64,
}

/// How a backing store is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BackingState {
    /// What it holds, if it can say.
    pub usage: Option<BackingUsage>,
    /// It is left alone, because it has failed.
    pub is_failing: bool,
    /// Changes that it did not take.
    pub dropped: u64,
    /// Responses that were brought from it into memory after the start.
    pub loaded: u64,
    /// That goes on.
    pub is_loading: bool,
}

impl Cache {
    /// Memory alone.
    pub fn in_memory(memory: Arc<dyn Store>) -> Self {
        Self::over(memory, Behind::Nothing)
    }

    /// Puts `memory` in front of `backing`, and starts the writer thread. At most `queued_bytes` of
    /// content wait to be written. With `reports_each_use` the backing store hears of each reuse, else now and then.
    pub fn with_backing(
        memory: Arc<dyn Store>,
        backing: Arc<dyn Backing>,
        queued_bytes: u64,
        reports_each_use: bool,
    ) -> io::Result<Self> {
        let limits = QueueLimits::of(queued_bytes);
        let backed = Backed::start(backing, limits, reports_each_use)?;
        Ok(Self::listening(memory, backed))
    }

    /// The same without a thread, for tests: changes wait in the queue until the second of the two carries them out.
    pub fn with_backing_by_hand(
        memory: Arc<dyn Store>,
        backing: Arc<dyn Backing>,
        limits: QueueLimits,
        reports_each_use: bool,
    ) -> (Self, WriterSteps) {
        let (backed, steps) = Backed::by_hand(backing, limits, reports_each_use);
        (Self::listening(memory, backed), steps)
    }

    /// For one explanation: what `below` has for `key`, whose changes nobody else sees. To recall reads what is
    /// behind `below`, claims nothing there, and brings nothing into its memory.
    #[must_use]
    pub fn apart(below: &Arc<Self>, key: &CacheKey) -> Self {
        let overlay = Arc::new(Overlay::new(&below.memory, below.content_bytes_max(), key));
        let memory = Arc::clone(&overlay) as Arc<dyn Store>;
        let is_asked = AtomicBool::new(false);
        Self::over(memory, Behind::Below(Below { cache: Arc::clone(below), overlay, is_asked }))
    }

    /// The same, where nothing is reused later than `cache_ttl` after it came, by whatever process it was stored.
    #[must_use]
    pub fn capped(mut self, cache_ttl: Option<Duration>) -> Self {
        if let Behind::Store(backed) = &mut self.behind {
            backed.cache_ttl = cache_ttl;
        }
        self
    }

    fn over(memory: Arc<dyn Store>, behind: Behind) -> Self {
        let tier = Arc::new(MemoryTier::new(Arc::clone(&memory)));
        Self { memory, tier, behind, packer: None, load: load::LoadProgress::default() }
    }

    fn listening(memory: Arc<dyn Store>, backed: Backed) -> Self {
        let backing = Arc::clone(&backed.backing);
        let cache = Self::over(memory, Behind::Store(Box::new(backed)));
        // News may come from this line on: memory is ready for them, and nothing has been recalled yet.
        backing.listen(Arc::clone(&cache.tier) as Arc<dyn Invalidations>);
        cache
    }

    fn backed(&self) -> Option<&Backed> {
        match &self.behind {
            Behind::Store(backed) => Some(backed),
            Behind::Nothing | Behind::Below(_) => None,
        }
    }
}

/// What a request finds and uses. None of it waits.
impl Cache {
    /// What memory has for `key`.
    pub fn look(&self, key: &CacheKey) -> Look {
        // The moment first: what changes between the two makes it an old one.
        let moment = self.tier.moments.looked(key);
        Look { variants: self.memory.get(key.as_str()), moment }
    }

    /// The same for a key as text, without the moment: for the fast path, which looks once.
    pub fn look_at(&self, key: &str) -> Option<Variants> {
        self.memory.get(key)
    }

    /// Was anything stored, brought, removed, purged or cleared for `key` since that look? It may say so of a key that
    /// has changes in common with others, and never misses one that was made. What memory evicts is no change.
    pub fn has_changed(&self, key: &CacheKey, look: &Look) -> bool {
        self.tier.moments.looked(key) != look.moment
    }

    /// A response was selected and reused.
    pub fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        self.memory.touch(key, response);
        if let (Content::Packed(_), Some(packer)) = (&response.content, &self.packer) {
            packer.used(key, response);
        }
        if let Some(backed) = self.backed() {
            backed.touch(response);
        }
    }

    /// May there be more than memory has, so that [`Cache::recall`] is worth a wait?
    pub fn has_backing(&self) -> bool {
        match &self.behind {
            Behind::Nothing => false,
            Behind::Store(_) => true,
            // Once it was asked, all that it has is shown.
            Behind::Below(below) => {
                below.cache.has_backing() && !below.is_asked.load(Ordering::Relaxed)
            }
        }
    }

    /// Notes that a request for `key` begins whose response may be stored.
    pub fn note(&self, key: &CacheKey) -> Begun {
        self.memory.begin(key)
    }

    /// The largest content in bytes that can be stored.
    pub fn content_bytes_max(&self) -> u64 {
        let here = self.memory.content_bytes_max();
        self.backed().map_or(here, |backed| here.max(backed.backing.content_bytes_max()))
    }

    /// The largest content in bytes that can be stored in memory.
    pub fn memory_content_bytes_max(&self) -> u64 {
        match &self.behind {
            // What would go past memory is read and let go of, and must be known as such.
            Behind::Below(below) => below.cache.memory_content_bytes_max(),
            Behind::Nothing | Behind::Store(_) => self.memory.content_bytes_max(),
        }
    }

    /// Memory for a body on its way in, none at first.
    pub fn reserve(&self) -> Reservation {
        self.memory.reserve()
    }

    /// What digests of credentials are keyed with, where what is stored lasts or is shared; `None` while that
    /// is not known.
    pub fn salt(&self) -> Option<Arc<Salt>> {
        match &self.behind {
            Behind::Nothing => None,
            Behind::Store(backed) => backed.backing.salt(),
            Behind::Below(below) => below.cache.salt(),
        }
    }
}

/// What changes. A change is made in memory and handed in without a wait.
impl Cache {
    /// Stores a response whose content is in memory, in the place of what it displaces, unless it was
    /// invalidated since `begun`.
    pub fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        let Some(backed) = self.backed() else {
            let _counted = self.tier.moments.changing(key);
            return self.put_in_memory(key, &response, begun);
        };
        let _purging = self.tier.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let put = self.put_in_memory(key, &response, begun);
        self.put_backing(backed, key, response, stamp, put)
    }

    /// The same for `new`, which was made from `old`, if that is still stored (RFC 9111 §4.3.4): what has come
    /// while the origin server was asked about `old` is newer than both.
    pub fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let Some(backed) = self.backed() else {
            let _counted = self.tier.moments.changing(key);
            return self.replace_in_memory(key, old, &new, begun);
        };
        let _purging = self.tier.purging.read();
        let (_changing, stamp) = self.change(key, begun);
        let place = old.place().number();
        let present = self.memory.get(key.as_str()).unwrap_or_default();
        // A twin: `old` was recalled for this request, and another request has promoted it since.
        let is_old = |other: &&Arc<StoredResponse>| other.is_same(old) || is_twin(other, old);
        let put = match present.iter().find(is_old) {
            Some(old) => self.replace_in_memory(key, old, &new, begun),
            None if !begun.admits(&new) => Put::Cleared,
            // What has come meanwhile, and would have to go for it, is newer than both.
            None if place.is_none() || displaces_any(&new, &present) => Put::Replaced,
            // Memory has no space for it. Whether the backing store still has the old one is known there
            // alone: the change names what the new one was made from.
            None => Put::TooLarge,
        };
        if put == Put::Replaced { put } else { self.put_backing(backed, key, new, stamp, put) }
    }

    /// Removes one response, if it is still the one stored.
    pub fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        let Some(backed) = self.backed() else {
            let _counted = self.tier.moments.changing(key);
            return self.memory.remove(key, response);
        };
        let _changing = self.tier.change(key);
        let present = self.memory.get(key.as_str()).unwrap_or_default();
        let is_successor = |other: &Arc<StoredResponse>| {
            !other.is_same(response) && Arc::ptr_eq(other.place(), response.place())
        };
        if present.iter().any(is_successor) {
            // It has been freshened: both have one place in the backing store, where removing the old one
            // would remove what was made from it.
            return;
        }
        self.memory.remove(key, response);
        for twin in present.iter().filter(|other| is_twin(other, response)) {
            self.memory.remove(key, twin);
        }
        let (key, response) = (key.clone(), Arc::clone(response));
        backed.queue.send(Change::Remove { key, response }, None);
    }

    /// Removes all responses stored for `key`, and lets none in that was asked for before; how many memory had.
    /// `own` may come in all the same: it is the fetch whose response invalidates the others (§4.4).
    pub fn invalidate(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        let Some(backed) = self.backed() else {
            let _counted = self.tier.moments.changing(key);
            return self.memory.remove_all_but(key, own);
        };
        // Marks, memory, queue, in this order and under the key's lock: what comes in between is kept out
        // by the mark, what was stored before is removed by the rest.
        let _purging = self.tier.purging.read();
        let _changing = self.tier.change(key);
        let removed = self.memory.remove_all_but(key, own);
        backed.queue.send(Change::Forget { key: key.clone(), invalidates: true }, None);
        removed
    }

    /// Locks the key, and gives the state of the backing store when the fetch began.
    ///
    /// The caller holds `purging` for reading, and no stripe. The guard is to be held until the change has
    /// been handed to the queue.
    fn change(&self, key: &CacheKey, begun: &Begun) -> (KeyChange<'_>, Stamp) {
        let stripe = self.tier.stripe(key).lock();
        let mut stamp = begun.backing();
        // That there was nothing for the key says no more once anything has been stored for it: it would
        // spare the look for what the new response displaces. Compared before this change counts itself.
        stamp.was_empty &= stamp.moment == self.tier.moments.now(key);
        (self.tier.change_under(stripe, key), stamp)
    }

    /// Hands what memory has done with a response to the backing store. The key's lock is held, so this
    /// must not wait: the queue takes the change at once, or owes it.
    fn put_backing(
        &self,
        backed: &Backed,
        key: &CacheKey,
        response: Arc<StoredResponse>,
        begun: Stamp,
        put: Put,
    ) -> Put {
        assert!(put != Put::Replaced, "what was not stored replaces nothing");
        if put == Put::Cleared {
            return put;
        }
        if response.content.len() > backed.backing.content_bytes_max() {
            if put == Put::Stored && !begun.was_empty {
                displace_in_backing(backed, key, &response);
            }
            return put;
        }
        if put == Put::TooLarge
            && let Some(present) = self.memory.get(key.as_str())
        {
            // It lives in the backing store alone, and what it takes the place of must not outlive it here.
            let goes = displaced(&response, present.iter().map(|other| other.head()));
            for (other, _) in present.iter().zip(goes).filter(|(_, goes)| *goes) {
                self.memory.remove(key, other);
            }
        }
        let key = key.clone();
        backed.queue.send(Change::Put { key, response, begun }, None);
        Put::Stored
    }
}

/// What an operator does and sees. It may wait for the backing store.
impl Cache {
    /// Removes what is selected at `now`, and lets nothing of it in that was asked for before.
    pub fn forget(&self, selector: &Selector, now: Timestamp) -> Purged {
        let Some(backed) = self.backed() else {
            let _counted = self.tier.moments.changing_all();
            return Purged { count: self.memory.purge(selector, now), owed_by: None };
        };
        let (reply, outcome) = sync_channel(1);
        // No change is between its two halves while this is held, so none is handed in after the purge
        // that memory took before it.
        let purging = self.tier.purging.write();
        let counted = self.tier.moments.changing_all();
        let here = self.memory.purge(selector, now);
        backed.queue.send(Change::Purge { selector: selector.clone(), now }, Some(reply));
        // The wait below may be a minute; under the lock nothing could be stored meanwhile.
        drop((counted, purging));
        // A failed or dropped change has its sender dropped, which ends the wait at once.
        match outcome.recv_timeout(backed.queue.limits().purge_wait) {
            Ok(backing) => Purged { count: here.max(backing as usize), owed_by: None },
            Err(_) => Purged { count: here, owed_by: Some(backed.backing.name()) },
        }
    }

    /// Removes what is of no use at `now`; how many there were in memory. Never waits, nor holds up a request
    /// for long.
    pub fn sweep(&self, now: Timestamp) -> usize {
        if let Some(backed) = self.backed() {
            backed.queue.send(Change::Sweep { now }, None);
        }
        let _counted = self.tier.moments.changing_all();
        self.memory.sweep(now)
    }

    /// At most `most` stored responses, those that come after `after`: [`Listed::after`] of the last one that is
    /// known, or its key. All variants of a key together; in the order of their keys, unless the store has none.
    pub fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        let listed = self.backed().and_then(|backed| backed.list(after, most));
        listed.unwrap_or_else(|| self.memory.list(after, most))
    }

    /// What memory holds. Asks nothing behind it.
    pub fn memory_usage(&self) -> Usage {
        self.memory.usage()
    }

    /// What the cache holds.
    pub fn usage(&self) -> CacheUsage {
        let backing = self.backed().map(|backed| BackingState {
            usage: backed.backing.usage().ok(),
            is_failing: backed.is_failing(),
            dropped: backed.queue.dropped(),
            loaded: self.load.loaded(),
            is_loading: self.load.is_under_way(),
        });
        let packed = self.packer.as_ref().map_or(0, |packer| packer.packed());
        CacheUsage { memory: self.memory.usage(), backing, packed }
    }

    /// The name of the backing store, for logs and answers; empty for memory alone.
    pub fn name(&self) -> String {
        self.backed().map(|backed| backed.backing.name()).unwrap_or_default()
    }

    /// Does all that is behind memory answer, as far as that is known? Never waits.
    pub fn is_ready(&self) -> bool {
        self.backed().is_none_or(|backed| backed.backing.is_ready())
    }

    /// Why nothing can be written behind memory now, as far as that is known. Never waits.
    pub fn trouble(&self) -> Option<BackingError> {
        self.backed().and_then(|backed| backed.backing.trouble())
    }

    /// Waits until all that was stored so far is where it lasts, but no longer than `most`; is it?
    pub fn flush(&self, most: Duration) -> bool {
        self.backed().is_none_or(|backed| backed.queue.flush(most))
    }

    /// Ends the writer thread, once it has written what it has; waits no longer than `most`. Has it ended?
    pub fn close(&self, most: Duration) -> bool {
        self.backed().is_none_or(|backed| backed.close(most))
    }
}

/// A response is in memory alone: it is too large for the backing store. What it has replaced must not
/// outlive it there: once memory evicts the new response, the old one would be recalled.
fn displace_in_backing(backed: &Backed, key: &CacheKey, response: &StoredResponse) {
    let is_read_only = backed.backing.content_bytes_max() == 0;
    if is_read_only && response.place().number().is_some() {
        // Freshened, not replaced: the stored content is the same, and all that there is when the
        // origin server is away.
        return;
    }
    // Until the change is carried out, and for good where nothing can be written.
    backed.queue.overtaken().note(key, response.response_time);
    if !is_read_only {
        let head = Box::new(response.head().clone());
        backed.queue.send(Change::Displace { key: key.clone(), head }, None);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::clock::DeltaSeconds;
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::Selecting;
    use crate::store::memory::{Eviction, MemoryLimits, store};

    fn response(content: &'static [u8]) -> Arc<StoredResponse> {
        let head = StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: Fields::new().into(),
            directives: ResponseDirectives::default(),
            selecting: Selecting::default(),
            lifetime: Lifetime::Unknown,
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(1),
            fresh_until: Timestamp(10),
            useful_until: Timestamp(10),
        };
        Arc::new(StoredResponse::new(head, Bytes::from_static(content)))
    }

    /// A change, whether it is seen, and how it is made.
    type Case<'a> = (&'a str, bool, Box<dyn Fn(&Cache) + 'a>);

    /// Each kind of change is seen by who has looked before it, and each look after it sees no more.
    #[test]
    fn a_look_knows_of_each_change_since() {
        let memory = MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };
        let cache = Cache::in_memory(store(Eviction::Lru, memory));
        let (key, old, new) = (CacheKey::from("http://o/a"), response(b"old"), response(b"new"));
        let begun = cache.note(&key);
        let here = |cache: &Cache| cache.look_at("http://o/a").expect("it is there")[0].clone();
        #[rustfmt::skip]
        let changes: [Case<'_>; 10] = [
            ("nothing",           false, Box::new(|_| {})),
            ("a store",           true,  Box::new(|cache| _ = cache.put(&key, Arc::clone(&old), &begun))),
            ("a use",             false, Box::new(|cache| cache.touch("http://o/a", &here(cache)))),
            ("a fresh head",      true,  Box::new(|cache| _ = cache.replace(&key, &old, Arc::clone(&new), &begun))),
            ("a removal",         true,  Box::new(|cache| cache.remove(&key, &new))),
            ("an invalidation",   true,  Box::new(|cache| _ = cache.invalidate(&key, None))),
            ("a purge",           true,  Box::new(|cache| _ = cache.forget(&Selector::Uri(key.to_string()), Timestamp(5)))),
            ("another's purge",   true,  Box::new(|cache| _ = cache.forget(&Selector::Tag("red".into()), Timestamp(5)))),
            ("a clear",           true,  Box::new(|cache| _ = cache.forget(&Selector::All, Timestamp::MAX))),
            ("a sweep",           true,  Box::new(|cache| _ = cache.sweep(Timestamp(50)))),
        ];
        for (what, is_seen, change) in changes {
            let look = cache.look(&key);
            change(&cache);
            assert_eq!(cache.has_changed(&key, &look), is_seen, "{what}");
            assert!(!cache.has_changed(&key, &cache.look(&key)), "{what}: seen once");
        }
    }
}
