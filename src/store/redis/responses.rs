//! Stored responses as Redis has them: the fields of a hash, read.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use crate::message::content::Content;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::codec;
use crate::store::redis::content::RedisPieces;
use crate::store::redis::purges::RedisState;
use crate::store::redis::shared::RedisShared;
use crate::store::redis::values;

/// A response as it was read.
pub(super) struct ReadResponse {
    /// How many purges there had been when it was written.
    pub purges: u64,
    pub is_inline: bool,
    pub response: StoredResponse,
}

impl RedisShared {
    /// The responses in a hash that belong to `key`, are whole, and have stood all purges; the most
    /// recent first.
    pub(super) fn variants(
        self: &Arc<Self>,
        key: &CacheKey,
        found: &Value,
        state: &RedisState,
    ) -> Vec<Arc<StoredResponse>> {
        let mut variants: Vec<Arc<StoredResponse>> = values::fields(found)
            .into_iter()
            .filter_map(|(_, value)| {
                // The frame names its key: a store that mixes up its answers must not give another's response.
                let (kept, own) = self.response(value)?;
                let fits = own == *key && state.admits(kept.purges, key, kept.response.head());
                fits.then(|| Arc::new(kept.response))
            })
            .collect();
        // A hash has no order.
        variants.sort_by_key(|response| {
            std::cmp::Reverse((response.response_time, response.place().number()))
        });
        variants
    }

    /// Reads a field of a hash.
    pub(super) fn response(self: &Arc<Self>, value: &[u8]) -> Option<(ReadResponse, CacheKey)> {
        let read = values::read(value)?;
        let frame = Bytes::copy_from_slice(read.frame);
        let (key, response) = if read.is_inline {
            codec::decode(&frame).ok()?
        } else {
            let (key, head, length) = codec::decode_head(&frame).ok()?;
            let field = values::field(&head);
            let content = RedisPieces::new(self, &key, read.number, length, Some(field));
            (key, StoredResponse::new(head, Content::Distant(Arc::new(content))))
        };
        let (number, purges) = (read.number, read.purges);
        // Reuses are counted by each proxy for itself.
        let response = response.found_at(number, 0);
        Some((ReadResponse { purges, is_inline: read.is_inline, response }, key))
    }
}
