//! The store on disk: one SQLite file, which a person can query with the `sqlite3` shell.
//!
//! One connection writes, from the writer thread; workers read, each with a connection from a small pool,
//! and never for longer than some keys or one piece of content take. Small content lies beside its head, other
//! content in rows of at most [`CHUNK_BYTES`], each with a checksum over what it is and whose it is: whatever
//! happens to the file, what is given out is what was put in, or nothing.
//!
//! From below: `tables.rs` has the tables, `schema.rs` opens and makes the file, `database.rs` holds its
//! connections, `batch.rs` is a transaction, `invalidations.rs` says what is not let in, `space.rs` keeps to
//! `--cache-disk`, `uses.rs` says which uses are worth writing down, `changes.rs` and `spooled.rs` carry changes
//! out, `recall.rs` finds what is stored, `valuable.rs` what is worth being in memory.
//!
//! [`CHUNK_BYTES`]: crate::store::backing::CHUNK_BYTES

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::params;

use crate::clock::Timestamp;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::store::VARIANTS_MAX;
use crate::store::backing::{
    Backing, BackingError, BackingUsage, Change, Listed, LoadPage, LoadPosition, Recalled,
};
use crate::store::codec::{self, RowDecoded};
use crate::store::sqlite::database::Database;
use crate::store::sqlite::schema::Reading;

mod batch;
mod changes;
mod checkpoint;
mod database;
mod invalidations;
mod limits;
mod pages;
mod recall;
mod refused;
mod row;
mod schema;
mod space;
mod spooled;
mod tables;
mod uses;
mod valuable;

pub use limits::DiskLimits;
pub use refused::OpenError;
pub use schema::default_path;

/// A store in a SQLite file.
pub struct Sqlite(Arc<Database>);

impl Sqlite {
    /// Opens the file, or makes it.
    pub fn open(path: &Path, limits: DiskLimits) -> Result<Self, OpenError> {
        Self::open_within(path, limits, schema::BUSY_MAX)
    }

    /// The same, where no lock of another process is waited for longer than `busy_max`.
    pub fn open_within(
        path: &Path,
        limits: DiskLimits,
        busy_max: Duration,
    ) -> Result<Self, OpenError> {
        database::open(path, limits, busy_max).map(|database| Self(Arc::new(database)))
    }

    /// Can nothing be written?
    pub fn is_read_only(&self) -> bool {
        self.0.is_read_only
    }
}

impl Backing for Sqlite {
    fn name(&self) -> String {
        format!("store {}", self.0.path.display())
    }

    fn recall(&self, key: &CacheKey, _: bool) -> Result<Recalled, BackingError> {
        let recalled = recall::recall(&self.0, &[key], None)?.pop();
        Ok(recalled.expect("the first key is always asked about"))
    }

    fn recalls_together(&self) -> bool {
        // With one connection, whoever waits for it waits for a batch of the writer.
        self.0.opening.is_shared
    }

    fn recall_together(
        &self,
        keys: &[&CacheKey],
        until: Instant,
    ) -> Result<Vec<Recalled>, BackingError> {
        recall::recall(&self.0, keys, Some(until))
    }

    fn most_valuable(
        &self,
        position: LoadPosition,
        now: Timestamp,
    ) -> Result<LoadPage, BackingError> {
        if self.0.how_read() == Reading::Nothing {
            return Ok(LoadPage::default());
        }
        self.0.reading(|connection| valuable::page(connection, position, now))
    }

    fn use_period(&self) -> Duration {
        self.0.uses.period()
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        changes::apply(&self.0, changes)
    }

    fn trouble(&self) -> Option<BackingError> {
        self.0.trouble.lock().as_ref().map(|trouble| BackingError(trouble.why.clone()))
    }

    fn is_full(&self) -> bool {
        self.0.is_full.load(Ordering::Relaxed)
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        self.0.salt.lock().clone()
    }

    fn content_bytes_max(&self) -> u64 {
        if self.0.is_read_only { 0 } else { self.0.limits.content_bytes_max() }
    }

    fn batch_bytes(&self) -> u64 {
        self.0.limits.log_bytes_max() / 4
    }

    fn usage(&self) -> Result<BackingUsage, BackingError> {
        let (responses, bytes) = self.0.reading(|connection| {
            let responses = tables::total(connection)?;
            let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let free: u64 =
                connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            Ok((responses, pages.saturating_sub(free) * schema::PAGE_BYTES))
        })?;
        Ok(BackingUsage { responses, bytes, evicted: self.0.evicted.load(Ordering::Relaxed) })
    }

    fn list(&self, after: &str, most: usize) -> Result<Vec<Listed>, BackingError> {
        let read = |after: &str, most: usize, same: bool| {
            let comparison = if same { "=" } else { ">" };
            let text = format!(
                "SELECT hits, head FROM responses WHERE url {comparison} ?1 AND state = 1 \
                 ORDER BY url, stored DESC, id DESC LIMIT ?2"
            );
            self.0.reading(|connection| {
                let mut select = connection.prepare_cached(&text)?;
                let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                let rows = select.query_map(params![after, most], row)?;
                rows.collect::<rusqlite::Result<Vec<(u64, Vec<u8>)>>>()
            })
        };
        let listed = |rows: Vec<(u64, Vec<u8>)>| {
            let heads = rows.into_iter().filter_map(|(reuses, head)| {
                let RowDecoded { key, head, length, .. } =
                    codec::decode_row(&Bytes::from(head)).ok()?;
                Some(Listed { key, head, bytes: length, reuses, cursor: None })
            });
            heads.collect::<Vec<_>>()
        };
        let mut all = listed(read(after, most + 1, false)?);
        if all.len() > most
            && let Some(last) = all.last().map(|listed| listed.key.clone())
        {
            // The last key may have more variants; it is listed whole, or on the next page.
            all.retain(|listed| listed.key < last);
            if all.is_empty() {
                all = listed(read(last.as_str(), VARIANTS_MAX, true)?);
            }
        }
        Ok(all)
    }

    fn tidy(&self) -> Duration {
        space::tidy(&self.0)
    }

    fn close(&self) {
        database::close(&self.0);
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.0.path.display())
    }
}
