//! Requests that wait for what another proxy fetches. A key is listed here for as long as a worker waits for it,
//! whether or not the other proxy is ever done.
//!
//! The lock of the list is held for one look, without that of a wait; a wait's is held alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::policy::key::CacheKey;

/// All of them.
#[derive(Default)]
pub(super) struct Waits(Mutex<HashMap<CacheKey, Arc<ClaimWait>>>);

#[derive(Default)]
struct ClaimWait {
    is_over: Mutex<bool>,
    over: Condvar,
}

/// One worker's wait; over when it is dropped.
pub(super) struct Wait<'a> {
    waits: &'a Waits,
    key: &'a CacheKey,
    waiting: Arc<ClaimWait>,
}

impl Waits {
    /// Begins a wait for `key`; several of one key end together.
    pub(super) fn begin<'a>(&'a self, key: &'a CacheKey) -> Wait<'a> {
        let waiting = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        Wait { waits: self, key, waiting }
    }

    /// The other proxy is done with `key`.
    pub(super) fn end(&self, key: &CacheKey) {
        // Taken out first: a wait that begins from now on is for the next fetch.
        let waiting = self.0.lock().remove(key);
        if let Some(waiting) = waiting {
            *waiting.is_over.lock() = true;
            waiting.over.notify_all();
        }
    }
}

impl Wait<'_> {
    /// Waits until the other proxy is done, but no longer than until `deadline`; is it?
    pub(super) fn until(&self, deadline: Instant) -> bool {
        let mut is_over = self.waiting.is_over.lock();
        while !*is_over && !self.waiting.over.wait_until(&mut is_over, deadline).timed_out() {}
        *is_over
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut all = self.waits.0.lock();
        // The entry may be a later wait's. The last to leave removes its own: the list has the other of two
        // copies, and none is made without its lock. Without this, keys of proxies that had died stayed for
        // ever.
        let is_ours = all.get(self.key).is_some_and(|there| Arc::ptr_eq(there, &self.waiting));
        if is_ours && Arc::strong_count(&self.waiting) == 2 {
            all.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_that_times_out_leaves_nothing() {
        let (waits, now) = (Waits::default(), Instant::now());
        let (a, b) = (CacheKey::from("a"), CacheKey::from("b"));
        for _ in 0..100 {
            let (one, other, apart) = (waits.begin(&a), waits.begin(&a), waits.begin(&b));
            assert!(!one.until(now) && !other.until(now) && !apart.until(now));
            drop(one);
            assert_eq!(waits.0.lock().len(), 2, "the other one still waits");
            drop((other, apart));
            assert!(waits.0.lock().is_empty());
        }
    }

    #[test]
    fn all_waits_for_a_key_end_together_and_later_ones_do_not() {
        let waits = Waits::default();
        let (key, late) = (CacheKey::from("a"), Instant::now() + Duration::from_secs(60));
        let (one, other) = (waits.begin(&key), waits.begin(&key));
        // One that gives up does not wake the others.
        drop(waits.begin(&key));
        assert!(!one.until(Instant::now()));
        waits.end(&key);
        assert!(one.until(late) && other.until(late));
        let next = waits.begin(&key);
        drop((one, other));
        assert!(!next.until(Instant::now()));
        waits.end(&key);
        assert!(next.until(late));
        drop(next);
        assert!(waits.0.lock().is_empty());
        // Nobody waits.
        waits.end(&key);
        assert!(waits.0.lock().is_empty());
    }
}
