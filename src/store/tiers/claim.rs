//! That this proxy fetches a response which others that share the store wait for.

use std::sync::Arc;

use crate::policy::key::CacheKey;
use crate::store::backing::Change;
use crate::store::tiers::queue::Queue;

/// Do other proxies that share the store wait for what this one fetches?
#[derive(Default)]
pub enum FetchClaim {
    /// Nobody does that is known of.
    #[default]
    None,
    /// They may. When this is dropped, they are told that the fetch is over.
    Held(HeldClaim),
}

/// Dropped, it says that the fetch is over, whatever its outcome: also when the thread that fetches panics.
pub struct HeldClaim {
    queue: Arc<Queue>,
    key: CacheKey,
}

impl HeldClaim {
    /// For what a backing store has said that this proxy claims.
    pub(in crate::store) fn new(queue: &Arc<Queue>, key: &CacheKey) -> Self {
        Self { queue: Arc::clone(queue), key: key.clone() }
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        // The queue waits for nothing. Where it is full, the claim ends by its own lease.
        self.queue.send(Change::Release { key: self.key.clone() }, None);
    }
}
