//! The store on disk: one SQLite file, which a person can query with the `sqlite3` shell.
//!
//! One connection writes, from the writer thread; workers read, each with a connection from a small pool,
//! and never for longer than one row takes. Content lies in rows of at most [`CHUNK_BYTES`], each with a
//! checksum over what it is and whose it is: whatever happens to the file, what is given out is what was
//! put in, or nothing.
//!
//! From below: `tables.rs` has the tables, `schema.rs` opens and makes the file, `database.rs` holds its
//! connections, `batch.rs` is a transaction, `invalidations.rs` says what is not let in, `space.rs` keeps to
//! `--cache-disk`, `changes.rs` and `spooled.rs` carry changes out.
//!
//! [`CHUNK_BYTES`]: crate::store::backing::CHUNK_BYTES

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use crate::message::content::Content;
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::VARIANTS_MAX;
use crate::store::backing::{Backing, BackingError, BackingUsage, Change, Listed, Recalled, Stamp};
use crate::store::codec;
use crate::store::sqlite::database::{Database, chunk_id};
use crate::store::sqlite::invalidations::InvalidationState;
use crate::store::sqlite::schema::Reading;

mod batch;
mod changes;
mod checkpoint;
mod database;
mod invalidations;
mod limits;
mod refused;
mod row;
mod schema;
mod space;
mod spooled;
mod tables;

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
        type Row = (u64, u64, u64, Vec<u8>);
        let database = &self.0;
        if database.how_read() == Reading::Nothing {
            return Ok(Recalled::default());
        }
        let read = database.reading(|connection| {
            // One transaction, and with it one lock, for all that a small response needs.
            let _reading = connection.unchecked_transaction()?;
            let mut select = connection.prepare_cached(
                "SELECT id, salt, hits, head FROM responses WHERE url = ?1 AND state = 1 \
                 ORDER BY stored DESC, id DESC LIMIT ?2",
            )?;
            let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?, row.get(3)?))
            };
            let rows: Vec<Row> = select
                .query_map(params![key.as_str(), VARIANTS_MAX], row)?
                .collect::<rusqlite::Result<_>>()?;
            // Most keys have one response of one piece: its content comes with the head.
            let only = match &rows[..] {
                [(number, salt, ..)] => first_chunk(connection, *number, *salt)?,
                _ => None,
            };
            // What can only be read stores nothing, and may be from before there were invalidations in it.
            let numbers = (!database.is_read_only)
                .then(|| InvalidationState::read(connection))
                .transpose()?;
            Ok((rows, numbers.map(|state| state.stamp()), only))
        });
        let (rows, numbers, only) = match read {
            // The file was moved away or deleted: nothing is stored any more, and the writer makes another. No
            // failure of the store, which would leave it alone for a while.
            Err(_) if database.is_taken_away() => return Ok(Recalled::default()),
            read => read?,
        };
        let mut variants = Vec::with_capacity(rows.len());
        for (number, salt, reuses, head) in rows {
            match codec::decode_head(&Bytes::from(head)) {
                Ok((own, head, length)) if own == *key => {
                    let content = match &only {
                        Some(bytes) if bytes.len() as u64 == length => Content::Here(bytes.clone()),
                        _ => Content::Distant(database.content(number, salt, length)),
                    };
                    let response = StoredResponse::new(head, content).found_at(number, reuses);
                    variants.push(Arc::new(response));
                }
                // Damaged, of another version, or another key's: of no use to any request.
                _ => database.doom(number),
            }
        }
        let was_empty = variants.is_empty();
        let stamp = Stamp { numbers, was_empty, ..Stamp::default() };
        Ok(Recalled { variants, stamp, ..Recalled::default() })
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        changes::apply(&self.0, changes)
    }

    fn trouble(&self) -> Option<BackingError> {
        self.0.trouble.lock().as_ref().map(|trouble| BackingError(trouble.why.clone()))
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
            let responses = batch::total(connection)?;
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
                let (key, head, bytes) = codec::decode_head(&Bytes::from(head)).ok()?;
                Some(Listed { key, head, bytes, reuses, cursor: None })
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

/// The first piece of a response's content, if it is whole: most have no other.
fn first_chunk(connection: &Connection, number: u64, salt: u64) -> rusqlite::Result<Option<Bytes>> {
    let mut select =
        connection.prepare_cached("SELECT checksum, content FROM contents WHERE id = ?1")?;
    let read = |row: &rusqlite::Row<'_>| {
        let bytes = row.get_ref(1)?.as_blob()?;
        let is_whole = codec::checksum(salt, 0, bytes) == row.get::<_, u32>(0)?;
        Ok(is_whole.then(|| Bytes::copy_from_slice(bytes)))
    };
    Ok(select.query_row([chunk_id(number, 0)], read).optional()?.flatten())
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.0.path.display())
    }
}
