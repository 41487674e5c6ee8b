//! Fetches that are under way, and what has been invalidated since each of them began.
//!
//! A response that was asked for before an invalidation must not be stored after it. A fetch is noted here
//! from its beginning to its end; an invalidation marks the fetches that it concerns, and no others. What a
//! selector means by the fields of a response (a tag, staleness) is decided when the response is there.
//!
//! Misses and invalidations come here; hits do not. The lock of the list is held for one look, and no other
//! is taken meanwhile but those of the marks. Both may be taken under the lock of a store or of the flights.
//!
//! An invalidation marks before it removes, and a store looks at the marks under the lock under which it
//! stores: so a response either sees the mark and stays out, or is there when the invalidation removes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredHead;
use crate::store::backing::Stamp;

/// The most invalidations that one fetch remembers; one more, and it is as if everything was cleared.
const MARKS_MAX: usize = 64;

/// The fetches under way of one store: as many as there are requests on their way to the origin server.
#[derive(Default)]
pub struct Underway {
    by_key: Mutex<HashMap<CacheKey, Vec<(u64, Arc<Marks>)>>>,
    next_number: AtomicU64,
}

/// What was invalidated, and when.
struct Mark {
    selector: Selector,
    now: Timestamp,
}

/// The invalidations since a fetch began that may concern it, in their order.
#[derive(Default)]
struct Marks {
    list: Mutex<Vec<Arc<Mark>>>,
}

impl Marks {
    fn add(&self, key: &CacheKey, mark: &Arc<Mark>) {
        let mut list = self.list.lock();
        let is_decided = |mark: &Arc<Mark>| mark.selector.selects_key(key.as_str()) == Some(true);
        // Once all responses for the key are meant, further marks say nothing new. Without this, a client that
        // sends unsafe requests during one long fetch would fill the list.
        if list.last().is_some_and(is_decided) {
            return;
        }
        if list.len() < MARKS_MAX {
            list.push(Arc::clone(mark));
        } else {
            // The bound: it costs this one response, and `is_decided` keeps the list from growing on.
            list.push(Arc::new(Mark { selector: Selector::All, now: mark.now }));
        }
    }
}

impl Underway {
    /// Notes that a fetch for `key` begins, until the last copy of what is returned is dropped.
    pub fn begin(self: &Arc<Self>, key: &CacheKey) -> Begun {
        // In the list before the origin server is asked: whatever is invalidated from now on is seen.
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let marks = Arc::<Marks>::default();
        self.by_key.lock().entry(key.clone()).or_default().push((number, Arc::clone(&marks)));
        let fetch = NotedFetch { underway: Arc::clone(self), key: key.clone(), number, marks };
        Begun { fetch: Arc::new(fetch), since: Instant::now(), backing: Stamp::default() }
    }

    /// All responses for `key` are invalidated, but for the one that `own` will bring. To be called before
    /// they are removed.
    pub fn invalidate(&self, key: &CacheKey, own: Option<&Begun>) {
        // Held to the end: a fetch that begins meanwhile asks the origin server after the invalidation.
        let by_key = self.by_key.lock();
        let Some(fetches) = by_key.get(key) else { return };
        let selector = Selector::Uri(key.to_string());
        let mark = Arc::new(Mark { selector, now: Timestamp::MAX });
        let is_own =
            |marks: &Arc<Marks>| own.is_some_and(|own| Arc::ptr_eq(&own.fetch.marks, marks));
        for (_, marks) in fetches.iter().filter(|(_, marks)| !is_own(marks)) {
            marks.add(key, &mark);
        }
    }

    /// What `selector` selects at `now` is purged. To be called before it is removed.
    pub fn purge(&self, selector: &Selector, now: Timestamp) {
        if let Selector::Uri(uri) = selector {
            return self.invalidate(&CacheKey::from(uri.as_str()), None);
        }
        let mark = Arc::new(Mark { selector: selector.clone(), now });
        for (key, fetches) in self.by_key.lock().iter() {
            // Undecided, too: a tag or staleness is a matter of the response, which is not there yet.
            if selector.selects_key(key.as_str()) != Some(false) {
                for (_, marks) in fetches {
                    marks.add(key, &mark);
                }
            }
        }
    }

    /// How many fetches are under way.
    pub fn count(&self) -> usize {
        self.by_key.lock().values().map(Vec::len).sum()
    }
}

/// That a fetch for a key has begun. What is invalidated from then on is not stored by it.
#[derive(Clone)]
pub struct Begun {
    fetch: Arc<NotedFetch>,
    since: Instant,
    /// The state of the backing store.
    backing: Stamp,
}

/// A fetch in the list; dropped, it is taken out.
struct NotedFetch {
    underway: Arc<Underway>,
    key: CacheKey,
    number: u64,
    marks: Arc<Marks>,
}

impl Drop for NotedFetch {
    fn drop(&mut self) {
        let mut by_key = self.underway.by_key.lock();
        if let Some(fetches) = by_key.get_mut(&self.key) {
            debug_assert!(fetches.iter().any(|(number, _)| *number == self.number), "dropped once");
            fetches.retain(|(number, _)| *number != self.number);
            if fetches.is_empty() {
                by_key.remove(&self.key);
            }
        }
    }
}

impl Begun {
    /// The same, with the state of the backing store.
    #[must_use]
    pub fn with(self, backing: Stamp) -> Self {
        Self { backing, ..self }
    }

    /// The same fetch, if it begins only now: marks from before are forgotten. The stamp of the backing store
    /// stays, and is replaced by that of the next recall.
    #[must_use]
    pub fn anew(&self) -> Self {
        self.fetch.underway.begin(&self.fetch.key).with(self.backing)
    }

    /// The same, as if it had begun at that moment.
    #[must_use]
    pub fn since(self, since: Instant) -> Self {
        Self { since, ..self }
    }

    /// How long it has taken so far: what fetching costs, once the last byte has come.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Is it the same fetch, with the same marks?
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fetch, &other.fetch)
    }

    /// The cache key of what is fetched.
    pub fn key(&self) -> &CacheKey {
        &self.fetch.key
    }

    /// The state of the backing store.
    pub fn backing(&self) -> Stamp {
        self.backing
    }

    /// May a response with this head be stored: was nothing invalidated since that selects it?
    pub fn admits(&self, head: &StoredHead) -> bool {
        self.admitted_at(usize::MAX, head)
    }

    /// The same at the moment when [`Begun::moment`] was `moment`.
    pub fn admitted_at(&self, moment: usize, head: &StoredHead) -> bool {
        let key = self.fetch.key.as_str();
        let list = self.fetch.marks.list.lock();
        // One mark is enough: they are not undone by what was stored or removed later.
        list.iter().take(moment).all(|mark| !mark.selector.selects(key, head, mark.now))
    }

    /// How many invalidations so far may concern the fetch.
    pub fn moment(&self) -> usize {
        self.fetch.marks.list.lock().len()
    }

    /// Is the response out, whatever it will be? If not, its head decides.
    pub fn is_cleared(&self) -> bool {
        let key = self.fetch.key.as_str();
        let list = self.fetch.marks.list.lock();
        list.iter().any(|mark| mark.selector.selects_key(key) == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_is_in_the_list_until_its_last_copy_is_gone() {
        let underway = Arc::<Underway>::default();
        let (one, other) = (underway.begin(&"a".into()), underway.begin(&"a".into()));
        let copy = one.clone();
        drop(one);
        assert_eq!(underway.count(), 2);
        underway.invalidate(&"a".into(), None);
        let late = underway.begin(&"a".into());
        let cleared = [&copy, &other, &late].map(Begun::is_cleared);
        assert_eq!(cleared, [true, true, false], "what begins after it is not meant");
        drop((copy, other, late));
        assert_eq!(underway.count(), 0);
        assert!(underway.by_key.lock().is_empty(), "keys go with their last fetch");
    }
}
