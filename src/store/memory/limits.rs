//! The bounds of the store in memory, and which of the ways of staying within them is taken.

/// What goes when there is no more space (`--eviction-policy`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Eviction {
    /// What is worth least for each byte: by uses, and by what fetching took.
    Cost,
    /// What has been asked for least, lately, by quick_cache's own policy: a CLOCK-Pro of hot and cold parts.
    S3Fifo,
    /// Exactly the least recently used response.
    Lru,
    /// Everything.
    Entire,
    /// Nothing: the limits do not apply.
    None,
}

/// The bounds of the store in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// `--cache-memory`: bytes of keys, fields, content and bookkeeping.
    pub bytes: u64,
    /// `--cache-size-limit`: number of stored responses, at least 1; `None` for no limit.
    pub responses: Option<u64>,
    /// `--max-object-size`: bytes of the largest content that is stored.
    pub content_bytes: u64,
}

impl MemoryLimits {
    /// Bytes for what is stored, at least: three quarters.
    pub(super) fn stored_bytes(self) -> u64 {
        self.bytes - self.arriving_bytes()
    }

    /// Bytes for what is on its way in, at most: a quarter. Two accounts, because arriving bodies must not be refused when
    /// the cache is full, which it always is; `cost` and `lru` lend this one to what is stored.
    pub(super) fn arriving_bytes(self) -> u64 {
        self.bytes / 4
    }

    /// The largest content that is stored: `--max-object-size`, or a quarter of the memory.
    pub(super) fn content_bytes_max(self) -> u64 {
        self.content_bytes.min(self.arriving_bytes())
    }
}
