//! What a backing store owes the cache: it is slower than memory, lasts longer, and may be shared.
//!
//! All its methods wait, so they are called by workers and by the one writer thread (`tiers/writer.rs`), never
//! by an event loop. It may fail at any time; a failure costs a miss and nothing else.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::{BackingId, StoredHead, StoredResponse};
use crate::store::spooled::Spooled;

/// What is read and written of content at a time, in bytes.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The state of a backing store at the moment when a request begins, as far as it decides whether the response
/// may still be stored later: others that share the store may clear or purge meanwhile.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stamp {
    /// Numbers that mean something to the store; `None` if it was not asked.
    pub numbers: Option<[u64; 4]>,
    /// It had nothing for the key.
    pub was_empty: bool,
    /// How often what is stored for the key had changed, which is for the cache to say.
    pub moment: u64,
}

/// What a backing store has for a key.
#[derive(Debug, Default)]
pub struct Recalled {
    /// The responses, the most recent first; their content is distant, or here if it is small.
    pub variants: Vec<Arc<StoredResponse>>,
    /// The state of the store.
    pub stamp: Stamp,
    /// Who is fetching a response for the key, if the store can tell.
    pub fetcher: Fetcher,
}

/// Who is fetching a response that several proxies may have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fetcher {
    /// Nobody that is known of.
    #[default]
    Nobody,
    /// It has been noted that this proxy does; it must say so when it is done ([`Change::Release`]).
    Us,
    /// Another proxy.
    Another,
}

/// Takes over what others have done to a shared store.
pub trait Invalidations: Send + Sync {
    /// What is stored for `key` has changed, or was invalidated. `number` is that of what is stored
    /// now, by which a proxy that has it already knows that it has missed nothing.
    fn changed(&self, key: &CacheKey, number: Option<u64>);

    /// Something was purged.
    fn purged(&self, selector: &Selector, now: Timestamp);

    /// Something may have been missed.
    fn missed(&self);
}

/// Where the search for what is worth being in memory stands; from its beginning by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadPosition {
    /// It looks for what has not been reused.
    pub is_second: bool,
    /// After what was used then, and has this number.
    pub after: Option<(i64, u64)>,
}

/// What a search for it has come to.
#[derive(Debug, Default)]
pub struct LoadPage {
    /// Keys whose responses are worth being in memory.
    pub keys: Vec<CacheKey>,
    /// How many responses were looked at.
    pub considered: u64,
    /// Where it goes on; `None` at the end.
    pub next: Option<LoadPosition>,
}

/// A stored response as `list` gives it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The cache key.
    pub key: CacheKey,
    /// All but its content.
    pub head: StoredHead,
    /// Bytes of content.
    pub bytes: u64,
    /// How often it has been reused, as far as is known.
    pub reuses: u64,
    /// What a list goes on after, where that is not the key.
    pub cursor: Option<String>,
}

impl Listed {
    /// What the next page is asked for with.
    pub fn after(&self) -> &str {
        self.cursor.as_deref().unwrap_or(self.key.as_str())
    }
}

/// A change of what is stored.
pub enum Change {
    /// A response is stored.
    Put {
        /// Its key.
        key: CacheKey,
        /// The response; its content is in memory, or where it was before.
        response: Arc<StoredResponse>,
        /// The state when its request began.
        begun: Stamp,
    },
    /// A response was reused.
    Used {
        /// Where it is, or will be once what comes before this is carried out.
        place: Arc<BackingId>,
        /// How often, all in all.
        reuses: u64,
    },
    /// What a response takes the place of goes, because that response itself cannot be stored here.
    Displace {
        /// Its key.
        key: CacheKey,
        /// All of it but the content.
        head: Box<StoredHead>,
    },
    /// One response goes.
    Remove {
        /// Its key.
        key: CacheKey,
        /// The response.
        response: Arc<StoredResponse>,
    },
    /// All responses for a key go.
    Forget {
        /// The key.
        key: CacheKey,
        /// Nothing is let in that was asked for before.
        invalidates: bool,
    },
    /// What a selector selects goes, and nothing is let in that was asked for before.
    Purge {
        /// What goes.
        selector: Selector,
        /// What is stale is so now.
        now: Timestamp,
    },
    /// What is of no more use goes.
    Sweep {
        /// The present moment.
        now: Timestamp,
    },
    /// A response for the key is not being fetched any more, whatever came of it.
    Release {
        /// The key.
        key: CacheKey,
    },
    /// A piece of content that does not fit into memory.
    Chunk {
        /// What it belongs to.
        spooled: Arc<Spooled>,
        /// All pieces but the last have [`CHUNK_BYTES`].
        bytes: Bytes,
    },
    /// All its pieces have come: they stand before it in the queue.
    Whole {
        /// What they belong to.
        spooled: Arc<Spooled>,
        /// What the response is.
        head: Box<StoredHead>,
        /// The state when its request began; `None` if it was invalidated since. Then it is not stored,
        /// but stays for as long as it has readers.
        begun: Option<Stamp>,
    },
    /// Its remaining pieces will not come.
    Abandon {
        /// What they belong to.
        spooled: Arc<Spooled>,
    },
}

impl Change {
    /// The key that it is about, if what is stored for a key may change by it. A lookup of that key waits for it.
    pub fn key(&self) -> Option<&CacheKey> {
        match self {
            Self::Put { key, .. }
            | Self::Displace { key, .. }
            | Self::Remove { key, .. }
            | Self::Forget { key, .. } => Some(key),
            Self::Whole { spooled, .. } => Some(spooled.key()),
            // A piece belongs to no stored response yet; a purge may concern any key, and is counted apart.
            _ => None,
        }
    }

    /// Bytes of content that it carries: what it holds of the memory until it is carried out.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Put { response, .. } => {
                response.content.memory_bytes().map_or(0, |bytes| bytes as u64)
            }
            Self::Chunk { bytes, .. } => bytes.len() as u64,
            _ => 0,
        }
    }
}

/// How much a backing store holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BackingUsage {
    /// Stored responses.
    pub responses: u64,
    /// Bytes that they take, with bookkeeping.
    pub bytes: u64,
    /// Responses dropped to make space since the start.
    pub evicted: u64,
}

/// A backing store.
pub trait Backing: Send + Sync {
    /// Its name in the log.
    fn name(&self) -> String;

    /// Can it be asked at all at the moment? Does not wait.
    fn is_ready(&self) -> bool {
        true
    }

    /// Why nothing can be written to it since it was opened, or since it was last asked; `None` if it can.
    /// [`Backing::apply`] and [`Backing::tidy`] try to mend that. Does not wait.
    fn trouble(&self) -> Option<BackingError> {
        None
    }

    /// Had it no space for what was last to be stored? That something can be removed says nothing about this.
    fn is_full(&self) -> bool {
        false
    }

    /// Calls `invalidations` from now on with what others do to the store.
    fn listen(&self, _invalidations: Arc<dyn Invalidations>) {}

    /// What is stored for `key`, and the store's state. If that is nothing and `claims` is set, it is noted
    /// that this proxy fetches it, where the store can do that.
    fn recall(&self, key: &CacheKey, claims: bool) -> Result<Recalled, BackingError>;

    /// Can one look be for several keys, and nobody is waited for on the way?
    fn recalls_together(&self) -> bool {
        false
    }

    /// The same as [`Backing::recall`], without a claim, for the first of `keys`, and for those after it as far as they
    /// are read by `until`: a slow store must not keep all of them for as long as all of them take.
    fn recall_together(
        &self,
        keys: &[&CacheKey],
        _until: Instant,
    ) -> Result<Vec<Recalled>, BackingError> {
        Ok(vec![self.recall(keys[0], false)?])
    }

    /// What is worth being in memory after a start, and fresh at `now`: some of it, after `position`. Nothing where
    /// the store is not this machine's own.
    fn most_valuable(
        &self,
        _position: LoadPosition,
        _now: Timestamp,
    ) -> Result<LoadPage, BackingError> {
        Ok(LoadPage::default())
    }

    /// The use of a response that goes on is told once in this period.
    fn use_period(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Waits until another proxy is done with `key`, but no longer than `most`.
    fn wait(&self, _key: &CacheKey, _most: Duration) {}

    /// Carries out changes, in their order; how many responses each has stored or removed. On an error, any of
    /// them may have been carried out: the caller owes them all. Called by the writer thread alone.
    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError>;

    /// What digests of credentials in it are keyed with; `None` while that is not known. Does not wait.
    fn salt(&self) -> Option<Arc<Salt>>;

    /// The largest content in bytes that can be stored.
    fn content_bytes_max(&self) -> u64;

    /// Bytes of content, about, for one call of [`Backing::apply`].
    fn batch_bytes(&self) -> u64;

    /// What the store holds.
    fn usage(&self) -> Result<BackingUsage, BackingError>;

    /// At most `most` stored responses, those that come after `after`: [`Listed::after`] of the last one that is
    /// known, or its key. All variants of a key together; in the order of their keys, unless the store has none.
    fn list(&self, after: &str, most: usize) -> Result<Vec<Listed>, BackingError>;

    /// There is nothing to do: time for whatever can wait. Called at least about once a second by the
    /// writer thread when it is idle; how long it may be left alone.
    fn tidy(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// The program ends: what is written is to last.
    fn close(&self) {}
}

/// Why a backing store did not do what it was asked for.
#[derive(Debug)]
pub struct BackingError(pub String);

impl fmt::Display for BackingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
