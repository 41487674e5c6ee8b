//! A cache that compresses what it has in memory (`store/packing.rs`): how it begins, and what it notes.

use std::sync::Arc;

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::Put;
use crate::store::cache::Cache;
use crate::store::packing::Packer;
use crate::store::underway::Begun;

impl Cache {
    /// The same, where responses in memory, which may take so many bytes, are compressed when it is nearly full.
    #[must_use]
    pub fn compressing(mut self, memory_bytes: u64) -> Self {
        self.packer = Some(Packer::new(Arc::clone(&self.memory), memory_bytes, false));
        self
    }

    /// The same for the least memory and without a thread, for tests: [`Cache::compress_now`] and [`Cache::expand_now`] do
    /// what it would do.
    #[must_use]
    pub fn compressing_by_hand(mut self) -> Self {
        self.packer = Some(Packer::new(Arc::clone(&self.memory), 0, true));
        self
    }

    /// Compresses all that is waiting for it.
    pub fn compress_now(&self) {
        self.packer.iter().for_each(|packer| packer.pack_all());
    }

    /// Expands what is stored for a key.
    pub fn expand_now(&self, key: &CacheKey) {
        self.packer.iter().for_each(|packer| packer.expand_all(key));
    }

    /// Stores a response in memory, and notes it for compression. Takes the locks of the memory, one after the other.
    pub(super) fn put_in_memory(
        &self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let put = self.memory.put(key, Arc::clone(response), begun);
        self.note_stored(key, response, put)
    }

    /// The same for one that was made from `old`.
    pub(super) fn replace_in_memory(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let put = self.memory.replace(key, old, Arc::clone(new), begun);
        self.note_stored(key, new, put)
    }

    fn note_stored(&self, key: &CacheKey, response: &StoredResponse, put: Put) -> Put {
        if let (Put::Stored, Some(packer)) = (put, &self.packer) {
            packer.stored(key, response);
        }
        put
    }
}
