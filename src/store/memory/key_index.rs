//! The keys of what is in memory, in order: a list is read from here a page at a time.
//!
//! Its lock is its own, and is held for one key or one page. A hit never takes it. It is taken last: nothing
//! else is locked while it is held.

use std::collections::BTreeSet;
use std::ops::Bound;

use parking_lot::Mutex;

use crate::policy::key::CacheKey;
use crate::store::backing::Listed;
use crate::store::{Variants, listed_of};

/// Keys in order.
#[derive(Debug, Default)]
pub(in crate::store) struct KeyIndex(Mutex<BTreeSet<CacheKey>>);

impl KeyIndex {
    /// Something is stored for `key`.
    pub(in crate::store) fn add(&self, key: &CacheKey) {
        self.0.lock().insert(key.clone());
    }

    /// Nothing is stored for `key` any more.
    pub(in crate::store) fn remove(&self, key: &CacheKey) {
        self.0.lock().remove(key);
    }

    /// Nothing is stored at all.
    pub(in crate::store) fn clear(&self) {
        // Dropped without the lock: freeing many keys takes time.
        let held = std::mem::take(&mut *self.0.lock());
        drop(held);
    }

    /// The next keys after `after`, at most `most`.
    fn after(&self, after: &CacheKey, most: usize) -> Vec<CacheKey> {
        let rest = (Bound::Excluded(after), Bound::Unbounded);
        self.0.lock().range::<CacheKey, _>(rest).take(most).cloned().collect()
    }

    /// A page: at most `most` responses after `after`, but all of one key. `get` looks a key up, as a hit
    /// does; what it does not find went meanwhile.
    pub(in crate::store) fn page(
        &self,
        after: &str,
        most: usize,
        get: impl Fn(&CacheKey) -> Option<Variants>,
    ) -> Vec<Listed> {
        let mut listed: Vec<Listed> = Vec::new();
        let mut after = CacheKey::from(after);
        while listed.is_empty() {
            // Copied, so that the lock is not held while keys are looked up: a store takes its own lock first,
            // and this one under it.
            let keys = self.after(&after, most);
            let Some(last) = keys.last() else { break };
            after = last.clone();
            for key in &keys {
                let Some(variants) = get(key) else { continue };
                // One key with very many variants is better listed whole than not at all.
                if !listed.is_empty() && listed.len() + variants.len() > most {
                    break;
                }
                listed.extend(variants.iter().map(|response| listed_of(key, response)));
            }
        }
        listed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::stored::{StoredHead, StoredResponse};
    use crate::policy::vary::Selecting;

    fn variants() -> Variants {
        let head = StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: Fields::new().into(),
            directives: ResponseDirectives::default(),
            selecting: Selecting::default(),
            lifetime: Lifetime::Explicit(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(0),
            fresh_until: Timestamp::MAX,
            useful_until: Timestamp::MAX,
        };
        [Arc::new(StoredResponse::new(head, Bytes::new()))].into()
    }

    #[test]
    fn a_page_looks_up_what_it_shows_and_no_more() {
        let keys = KeyIndex::default();
        for number in 0..10_000 {
            keys.add(&CacheKey::from(format!("{number:05}").as_str()));
        }
        let looked_up = Cell::new(0);
        let page = |most, gone: usize| {
            looked_up.set(0);
            let page = keys.page("00041", most, |_| {
                looked_up.set(looked_up.get() + 1);
                (looked_up.get() > gone).then(variants)
            });
            let keys: Vec<String> = page.iter().map(|listed| listed.key.to_string()).collect();
            (keys, looked_up.get())
        };
        assert_eq!(page(2, 0), (vec!["00042".to_string(), "00043".to_string()], 2));
        // What has just gone is passed over.
        assert_eq!(page(2, 5), (vec!["00047".to_string()], 6));
        assert_eq!(page(2, 1_000_000).0, Vec::<String>::new());
    }
}
