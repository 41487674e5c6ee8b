//! What the engine needs of a store with a backing store, beside what it needs of every [`Store`].
//!
//! All of it may wait, so a worker calls it, never an event loop; `tiers/` implements it.
//!
//! [`Store`]: crate::store::Store

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::key::CacheKey;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{BackingError, BackingUsage, Recalled};
use crate::store::outcome::Put;
use crate::store::tiers::spool::Spool;
use crate::store::underway::Begun;

/// The backing store, as the engine uses it.
pub trait SecondTier: Send + Sync {
    /// What the backing store has for `key`; waits. `None` if it has nothing that may be used, or does not
    /// work. If it has nothing and `claims` is set, this proxy is to fetch the response, and to say when that
    /// is over ([`SecondTier::release`]); if another proxy fetches it already, that is waited for.
    fn recall(&self, key: &CacheKey, claims: bool) -> Option<Recalled>;

    /// The same for the fetch `begun`, which begins anew if another proxy was waited for: what that one has
    /// stored is the outcome of the wait, and news of it must not rule it out.
    fn recall_for(&self, begun: &mut Begun, key: &CacheKey, claims: bool) -> Option<Recalled>;

    /// Fetches a recalled response into memory, if it has space for it: the same response, its content in
    /// memory. An error means that the content is lost.
    fn promote(
        &self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> io::Result<Arc<StoredResponse>>;

    /// Removes a recalled response whose content is lost.
    fn drop_lost(&self, key: &CacheKey, response: &Arc<StoredResponse>);

    /// Begins to store content that does not fit into memory.
    fn spool(&self, key: CacheKey, length: Option<u64>) -> Spool;

    /// All of a spooled body has come: makes a stored response of it, unless it was invalidated since
    /// `begun`. Waits until that is done.
    fn commit(&self, spool: Spool, head: StoredHead, begun: &Begun) -> Put;

    /// The name of the backing store, for logs and answers.
    fn name(&self) -> String;

    /// Bytes of content that fit into memory.
    fn memory_content_bytes_max(&self) -> u64;

    /// What the backing store holds, if it can say.
    fn backing_usage(&self) -> Option<BackingUsage>;

    /// Changes that the backing store did not take.
    fn dropped(&self) -> u64;

    /// Why nothing can be written to the backing store now, as far as that is known.
    fn trouble(&self) -> Option<BackingError>;

    /// Does the backing store answer, as far as that is known?
    fn is_ready(&self) -> bool;

    /// Is the backing store left alone, because it has failed?
    fn is_failing(&self) -> bool;

    /// Waits until all that was stored so far is in the backing store, but no longer than `most`; is it?
    fn flush(&self, most: Duration) -> bool;

    /// Ends the writer thread, once it has written what it has; waits no longer than `most`.
    fn close(&self, most: Duration) -> bool;

    /// This proxy is done with fetching what it has claimed.
    fn release(&self, key: CacheKey);
}
