//! The store on disk: one SQLite file, which a person can query with the `sqlite3` shell.
//!
//! One connection writes, from the writer thread; workers read, each with a connection from a small pool,
//! and never for longer than one row takes. Content lies in rows of at most [`CHUNK_BYTES`], each with a
//! checksum over what it is and whose it is: whatever happens to the file, what is given out is what was
//! put in, or nothing. `schema.rs` opens and makes the file, `changes.rs` and `spooled.rs` write, `invalidations.rs` says
//! what is not let in, `room.rs` keeps to `--cache-disk`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::message::content::{Content, Distant};
use crate::policy::digest::Salt;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::VARIANTS_MAX;
use crate::store::backing::{
    Backing, BackingError, BackingUsage, CHUNK_BYTES, Change, Listed, Recalled, Stamp,
};
use crate::store::codec;
use crate::store::sqlite::invalidations::InvalidationState;
use crate::store::sqlite::schema::Opening;

mod changes;
mod invalidations;
mod room;
mod row;
mod schema;
mod spooled;

pub use schema::{OpenError, default_path};

/// Connections for reading that are kept open.
const READERS_KEPT: usize = 8;
/// Chunks of one response have numbers below this, so one has at most 64 GiB.
const CHUNKS_MAX: u64 = 1 << 20;

/// The bounds of the file.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimits {
    /// `--cache-disk`: bytes of the file and its write-ahead log.
    pub bytes: u64,
    /// `--cache-size-limit`: number of stored responses.
    pub responses: Option<u64>,
    /// `--max-object-size`: bytes of the largest content.
    pub content_bytes: u64,
}

/// A store in a SQLite file.
pub struct Sqlite(Arc<Database>);

/// What connections, readers of content and the writer share.
struct Database {
    path: PathBuf,
    limits: DiskLimits,
    /// The file is opened by several connections; else the file system does not permit that, and there
    /// is but the writer's.
    opening: Opening,
    /// Nothing can be written: what there is is read, for good.
    is_read_only: bool,
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Vec<Connection>>,
    /// Raised when the file is made anew, so that no old connection goes back into the pool.
    epoch: AtomicU64,
    is_damaged: AtomicBool,
    /// Responses whose content is held by somebody, and how often: they are not deleted meanwhile.
    held: Mutex<HashMap<u64, usize>>,
    /// Responses to be deleted: they were removed while somebody read them, or their content is damaged.
    doomed: Mutex<Vec<u64>>,
    evicted: AtomicU64,
    /// What digests of credentials are keyed with; `None` if the file is from before there were any, and
    /// can only be read.
    salt: Mutex<Option<Arc<Salt>>>,
    /// The file's number on its file system: it is another one if somebody has taken the file away.
    inode: AtomicU64,
    /// Why nothing can be written just now; `None` if it can, or never can.
    trouble: Mutex<Option<Trouble>>,
}

/// The file cannot be opened for writing, and that may pass.
struct Trouble {
    why: String,
    reading: Reading,
}

/// What is read of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    /// All, and others may write meanwhile.
    Shared,
    /// All, as long as nobody writes.
    Alone,
    /// Nothing.
    Nothing,
}

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
        schema::open(path, limits, busy_max).map(|database| Self(Arc::new(database)))
    }

    /// Can nothing be written?
    pub fn is_read_only(&self) -> bool {
        self.0.is_read_only
    }
}

impl Database {
    /// Runs `read` with a connection.
    fn reading<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BackingError> {
        if !self.opening.is_shared {
            let writer = self.writer.lock();
            let connection = writer.as_ref().ok_or_else(Self::gone)?;
            return read(connection).map_err(|error| self.error(&error));
        }
        if self.how_read() == Reading::Alone && !schema::has_log(&self.path) {
            return self.reading_alone(read);
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let kept = self.readers.lock().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.new_reader().map_err(|error| self.error(&error))?,
        };
        let result = read(&connection).map_err(|error| self.error(&error));
        let mut readers = self.readers.lock();
        if readers.len() < READERS_KEPT
            && epoch == self.epoch.load(Ordering::Acquire)
            && result.is_ok()
        {
            readers.push(connection);
        }
        result
    }

    fn new_reader(&self) -> rusqlite::Result<Connection> {
        let open = || schema::open_reader(&self.path, self.is_read_only, self.opening.busy_max);
        let connection = open()?;
        if schema::has_table(&connection, "responses")? {
            return Ok(connection);
        }
        // The writer is making the file anew at this moment, and holds its lock until the tables are there.
        drop(self.writer.lock());
        open()
    }

    /// Runs `read` with a connection that takes no lock and knows no log: only while nobody writes. None is
    /// kept, because it would never hear of what another process changes.
    fn reading_alone<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BackingError> {
        // What looks like damage is another process that has just begun to write.
        let told = |error: rusqlite::Error| BackingError(schema::explain(&error));
        let connection =
            schema::open_reader(&self.path, true, self.opening.busy_max).map_err(told)?;
        read(&connection).map_err(told)
    }

    fn how_read(&self) -> Reading {
        self.trouble.lock().as_ref().map_or(Reading::Shared, |trouble| trouble.reading)
    }

    fn is_taken_away(&self) -> bool {
        !self.is_read_only && schema::inode(&self.path) != self.inode.load(Ordering::Relaxed)
    }

    fn gone() -> BackingError {
        BackingError("not open".to_string())
    }

    /// Puts an error into words, and notes what it says about the file.
    fn error(&self, error: &rusqlite::Error) -> BackingError {
        if matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ) {
            self.is_damaged.store(true, Ordering::Release);
        }
        BackingError(schema::explain(error))
    }

    /// Content of response `number`, which is held until it is dropped.
    fn content(self: &Arc<Self>, number: u64, salt: u64, length: u64) -> Arc<dyn Distant> {
        *self.held.lock().entry(number).or_default() += 1;
        Arc::new(ContentRows { database: Arc::clone(self), number, salt, length })
    }

    fn is_held(&self, number: u64) -> bool {
        self.held.lock().contains_key(&number)
    }

    fn doom(&self, number: u64) {
        let mut doomed = self.doomed.lock();
        if doomed.len() < 10_000 && !doomed.contains(&number) {
            doomed.push(number);
        }
    }
}

/// Content in rows of the file.
struct ContentRows {
    database: Arc<Database>,
    number: u64,
    salt: u64,
    length: u64,
}

impl ContentRows {
    /// Says that a row is damaged or missing; the response is of no use any more.
    fn damaged(&self, what: &str) -> io::Error {
        self.database.doom(self.number);
        io::Error::new(io::ErrorKind::InvalidData, format!("{what} of a stored response"))
    }
}

impl Distant for ContentRows {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (chunk, skip) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
        let id = chunk_id(self.number, chunk);
        let read = |connection: &Connection| {
            let mut select = connection
                .prepare_cached("SELECT checksum, content FROM contents WHERE id = ?1")?;
            let mut copy = |row: &rusqlite::Row<'_>| {
                let bytes = row.get_ref(1)?.as_blob()?;
                let good = codec::checksum(self.salt, chunk, bytes) == row.get::<_, u32>(0)?;
                let rest = bytes.get(skip..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(good.then_some(count))
            };
            select.query_row([id], &mut copy).optional()
        };
        match self.database.reading(read) {
            Ok(Some(Some(count))) => Ok(count),
            Ok(Some(None)) => Err(self.damaged("damaged content")),
            Ok(None) => Err(self.damaged("missing content")),
            Err(error) => Err(io::Error::other(error.0)),
        }
    }
}

impl Drop for ContentRows {
    fn drop(&mut self) {
        let mut held = self.database.held.lock();
        if let Some(count) = held.get_mut(&self.number) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.number);
            }
        }
    }
}

/// The row of a chunk of response `number`.
fn chunk_id(number: u64, chunk: u64) -> i64 {
    (number * CHUNKS_MAX + chunk).cast_signed()
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
            // Somebody has taken the file away. Nothing is stored any more, and the writer makes another.
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
            let responses = changes::total(connection)?;
            let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let free: u64 =
                connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            Ok((responses, (pages - free) * schema::PAGE_BYTES))
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
            // The last key may have more variants; it is told whole, or next time.
            all.retain(|listed| listed.key < last);
            if all.is_empty() {
                all = listed(read(last.as_str(), VARIANTS_MAX, true)?);
            }
        }
        Ok(all)
    }

    fn tidy(&self) -> Duration {
        room::tidy(&self.0)
    }

    fn close(&self) {
        room::close(&self.0);
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
