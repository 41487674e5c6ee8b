//! That this proxy fetches a response which others that share the store wait for.

use std::sync::Arc;

use crate::policy::key::CacheKey;
use crate::store::Store;

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
