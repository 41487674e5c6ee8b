//! A store of one entry a target URI, which holds all its variants. What is common to the policies that use quick_cache
//! is here; what goes when there is no more space is theirs ([`KeyedEntries`]).
//!
//! Order of locks, from the first: the change lock of a key, then those of the entries.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::arrivals::Arrivals;
use crate::store::backing::Listed;
use crate::store::memory::key_index::KeyIndex;
use crate::store::underway::{Begun, Underway};
use crate::store::{Put, Reservation, Store, Usage, Variants, fits, with_variant};

/// How many keys can be changed at a time; a key's lock is chosen by its hash.
const STRIPES: usize = 512;

/// The outcome of writing an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EntryWritten {
    Written,
    /// Nothing is changed: it is too large.
    TooLarge,
    /// Nothing is changed: what it was made from has gone meanwhile, evicted or cleared.
    Gone,
}

/// The entries of a store, and the bounds that it keeps. All methods may be called from any thread.
pub(super) trait KeyedEntries: Send + Sync {
    /// For a hit: an entry is used.
    fn get(&self, key: &str) -> Option<Variants>;

    /// For a change: what is stored, without a use.
    fn peek(&self, key: &CacheKey) -> Option<Variants>;

    /// Writes an entry; the oldest variants are left out where all together are too much for it, and nothing is written
    /// if the first alone is. `present` is what [`KeyedEntries::peek`] gave, and must still be there: else what was cleared
    /// meanwhile would come back. `begun` is the fetch that brought something new. The key's change lock is held.
    fn write(
        &self,
        key: &CacheKey,
        present: Option<&Variants>,
        variants: Vec<Arc<StoredResponse>>,
        begun: Option<&Begun>,
    ) -> EntryWritten;

    /// Do these fit, all together?
    fn fits(&self, key: &CacheKey, variants: &[Arc<StoredResponse>]) -> bool;

    /// Removes an entry, whose change lock is held.
    fn remove(&self, key: &CacheKey);

    /// Removes all entries.
    fn clear(&self);

    /// All entries. No lock is held between two of them.
    fn iter(&self) -> impl Iterator<Item = (CacheKey, Variants)>;

    /// The keys in order, for lists: of all entries, and of no others but for a moment.
    fn keys(&self) -> &KeyIndex;

    /// The account of what is on its way in.
    fn arrivals(&self) -> Arc<dyn Arrivals>;

    /// Is more than three quarters of the space taken?
    fn is_nearly_full(&self) -> bool;

    /// What they hold; fetches under way are not theirs.
    fn usage(&self) -> Usage;
}

/// A store of such entries.
pub(super) struct ByKey<E> {
    entries: E,
    content_bytes_max: u64,
    hasher: RandomState,
    /// One is held while an entry with that hash is read, changed and written back, so that two new
    /// variants do not overwrite each other.
    changes: Vec<Mutex<()>>,
    underway: Arc<Underway>,
}

impl<E: KeyedEntries> ByKey<E> {
    /// `content_bytes_max` is the largest content.
    pub(super) fn new(entries: E, content_bytes_max: u64) -> Self {
        let (hasher, underway) = (RandomState::new(), Arc::default());
        let changes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self { entries, content_bytes_max, hasher, changes, underway }
    }

    /// Stores a response, if `old`, where there is one, is stored. Called without a lock, or under those of the
    /// cache; takes the key's change lock, under which the entries take theirs.
    fn let_in(
        &self,
        key: &CacheKey,
        old: Option<&Arc<StoredResponse>>,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let _changing = self.change_lock(key).lock();
        // An invalidation marks what is under way before it takes the locks of the changes: it either
        // keeps the response out, or finds it.
        if !begun.admits(response) {
            return Put::Cleared;
        }
        if !fits(response, self.content_bytes_max) {
            return Put::TooLarge;
        }
        // What is made of a stored response has its content: to fetch it would take as long as before.
        let fetched = old.is_none().then_some(begun);
        loop {
            let present = self.entries.peek(key);
            let list = present.as_ref().map_or(&[][..], |variants| variants);
            if old.is_some_and(|old| !list.iter().any(|other| other.is_same(old))) {
                return Put::Replaced;
            }
            let (variants, _) = with_variant(list, Arc::clone(response));
            // An entry that is evicted at once has been stored all the same: nothing else was promised.
            match self.entries.write(key, present.as_ref(), variants, fetched) {
                EntryWritten::Written => return Put::Stored,
                EntryWritten::TooLarge => return Put::TooLarge,
                // Others change nothing for the key meanwhile: the next turn finds nothing there.
                EntryWritten::Gone => {}
            }
        }
    }

    fn change_lock(&self, key: &CacheKey) -> &Mutex<()> {
        &self.changes[self.hasher.hash_one(key) as usize % STRIPES]
    }

    /// Removes the responses that `drops` says yes to; how many there were.
    fn remove_where(&self, key: &CacheKey, drops: impl Fn(&Arc<StoredResponse>) -> bool) -> usize {
        let _changing = self.change_lock(key).lock();
        // An eviction takes no change lock: the entry may be gone by the time that it is written back, and is not then.
        let Some(present) = self.entries.peek(key) else { return 0 };
        let kept: Vec<_> = present.iter().filter(|response| !drops(response)).cloned().collect();
        let gone = present.len() - kept.len();
        if kept.is_empty() {
            self.entries.remove(key);
        } else if gone > 0 {
            self.entries.write(key, Some(&present), kept, None);
        }
        gone
    }

    fn remove_from_all(&self, drops: impl Fn(&CacheKey, &Arc<StoredResponse>) -> bool) -> usize {
        let mut removed = 0;
        for (key, variants) in self.entries.iter() {
            let drops = |response: &Arc<StoredResponse>| drops(&key, response);
            // Most have nothing to be dropped, and cost no lock but the iterator's.
            if variants.iter().any(drops) {
                removed += self.remove_where(&key, drops);
            }
        }
        removed
    }
}

impl<E: KeyedEntries> Store for ByKey<E> {
    fn get(&self, key: &str) -> Option<Variants> {
        self.entries.get(key)
    }

    fn peek(&self, key: &CacheKey) -> Option<Variants> {
        self.entries.peek(key)
    }

    fn reform(&self, key: &CacheKey, old: &Arc<StoredResponse>, new: Arc<StoredResponse>) -> bool {
        let _changing = self.change_lock(key).lock();
        let Some(present) = self.entries.peek(key) else { return false };
        let Some(index) = present.iter().position(|other| Arc::ptr_eq(other, old)) else {
            return false;
        };
        let mut variants = present.to_vec();
        variants[index] = new;
        // What is expanded takes more: if there is no space, it stays as it is.
        self.entries.fits(key, &variants)
            && self.entries.write(key, Some(&present), variants, None) == EntryWritten::Written
    }

    fn is_nearly_full(&self) -> bool {
        self.entries.is_nearly_full()
    }

    /// Nothing to do: uses are counted in [`KeyedEntries::get`], or in the stored responses.
    fn touch(&self, _: &str, _: &Arc<StoredResponse>) {}

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        self.let_in(key, None, &response, begun)
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        self.let_in(key, Some(old), &new, begun)
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        self.remove_where(key, |other| other.is_same(response));
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        self.underway.invalidate(key, own);
        self.remove_where(key, |_| true)
    }

    fn sweep(&self, now: Timestamp) -> usize {
        self.remove_from_all(|_, response| response.useful_until <= now)
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        if let Selector::Uri(uri) = selector {
            return self.remove_all_but(&CacheKey::from(uri.as_str()), None);
        }
        self.underway.purge(selector, now);
        // A put that has not seen the mark holds one of these until its response is in. Each is taken once, so
        // that all such puts are over before anything is removed.
        for change in &self.changes {
            drop(change.lock());
        }
        if *selector == Selector::All {
            let held = self.entries.usage().responses as usize;
            self.entries.clear();
            return held;
        }
        self.remove_from_all(|key, response| selector.selects(key.as_str(), response, now))
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        self.entries.keys().page(after, most, |key| {
            if let Some(variants) = self.entries.peek(key) {
                return Some(variants);
            }
            // What came in while everything was cleared may have left its name. Looked at again under the change
            // lock, or the name of what is being inserted would be removed.
            let _changing = self.change_lock(key).lock();
            let variants = self.entries.peek(key);
            if variants.is_none() {
                self.entries.keys().remove(key);
            }
            variants
        })
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        self.underway.begin(key)
    }

    fn reserve(&self) -> Reservation {
        Reservation::of(self.entries.arrivals())
    }

    fn content_bytes_max(&self) -> u64 {
        self.content_bytes_max
    }

    fn usage(&self) -> Usage {
        Usage { under_way: self.underway.count() as u64, ..self.entries.usage() }
    }
}
