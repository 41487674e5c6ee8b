//! That this proxy fetches a response which others that share the store wait for.

use std::sync::Arc;

use crate::policy::key::CacheKey;
use crate::store::Store;

/// That this proxy fetches a response which others that share the store wait for. Dropped, it says that the
/// fetch is over, whatever came of it: also when the thread that fetches panics.
pub struct FetchClaim {
    store: Arc<dyn Store>,
    key: CacheKey,
}

impl FetchClaim {
    /// For what `SecondTier::recall` has claimed.
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
