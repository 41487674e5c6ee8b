//! The open file: its connections, the readers of its content, and opening it again.
//!
//! Order of locks: `writer` first, then one of the others, each held for one look. `writer` is held for a
//! whole batch, and by a reader only where there is no other connection; so nothing that an event loop calls
//! takes it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use crate::clock::Clock;
use crate::message::distant::Distant;
use crate::policy::digest::Salt;
use crate::store::backing::{BackingError, CHUNK_BYTES};
use crate::store::codec;
use crate::store::sqlite::checkpoint::checkpoint;
use crate::store::sqlite::limits::DiskLimits;
use crate::store::sqlite::refused::{OpenError, Refused, explain};
use crate::store::sqlite::schema::{self, Opening, Reading};
use crate::store::sqlite::tables::{self, Tables};
use crate::store::sqlite::uses::UseResolution;

/// Connections for reading that are kept open.
const READERS_KEPT: usize = 8;
/// Chunks of one response have numbers below this, so one has at most 64 GiB.
pub(super) const CHUNKS_MAX: u64 = 1 << 20;

/// What connections, readers of content and the writer share.
pub(super) struct Database {
    pub path: PathBuf,
    pub limits: DiskLimits,
    /// The file is opened by several connections; else the file system does not permit that, and there
    /// is but the writer's.
    pub opening: Opening,
    /// Nothing can be written: what there is is read, for good.
    pub is_read_only: bool,
    pub writer: Mutex<Option<Connection>>,
    pub readers: Mutex<Vec<Connection>>,
    /// Raised when the file is made anew, so that no old connection goes back into the pool.
    pub epoch: AtomicU64,
    pub is_damaged: AtomicBool,
    /// There was no space on the disk, and nothing has been stored since.
    pub is_full: AtomicBool,
    /// Responses whose content has readers, and how many: they are not deleted meanwhile.
    pub held: Mutex<HashMap<u64, usize>>,
    /// Responses to be deleted: they were removed while they had readers, or their content is damaged.
    pub doomed: Mutex<Vec<u64>>,
    pub evicted: AtomicU64,
    /// How exactly the file says when a response was used (`uses.rs`).
    pub uses: UseResolution,
    /// What digests of credentials are keyed with; `None` if the file is from before there were any, and
    /// can only be read. Taken by requests that carry credentials, so never held while the file is read.
    pub salt: Mutex<Option<Arc<Salt>>>,
    /// The file's number on its file system: it is another one if the file was moved away or deleted.
    pub inode: AtomicU64,
    /// Why nothing can be written just now; `None` if it can, or never can.
    pub trouble: Mutex<Option<Trouble>>,
}

/// The file cannot be opened for writing, and that may pass.
pub(super) struct Trouble {
    pub why: String,
    pub reading: Reading,
}

/// Opens or makes the file. What may pass is no error: a full disk, a lock that another process holds. Then
/// the file is read, if it can be, and opened for writing later ([`reopen`]).
pub(super) fn open(
    path: &Path,
    limits: DiskLimits,
    busy_max: Duration,
) -> Result<Database, OpenError> {
    let is_shared = !schema::is_on_a_network(path);
    let opening = Opening { is_shared, busy_max };
    let database = |writer: Option<Connection>, salt, is_read_only| Database {
        path: path.to_path_buf(),
        limits,
        opening: Opening { is_shared: is_shared || is_read_only, busy_max },
        is_read_only,
        writer: Mutex::new(writer),
        readers: Mutex::default(),
        epoch: AtomicU64::new(0),
        is_damaged: AtomicBool::new(false),
        is_full: AtomicBool::new(false),
        held: Mutex::new(HashMap::new()),
        doomed: Mutex::default(),
        evicted: AtomicU64::new(0),
        uses: UseResolution::default(),
        salt: Mutex::new(salt),
        inode: AtomicU64::new(schema::inode(path)),
        trouble: Mutex::default(),
    };
    // Not an error to end with, as far as it may pass: several proxies start at once, and one holds the lock.
    let refused = match schema::open_or_make(path, opening, None) {
        Ok(writer) => {
            let salt = tables::salt(&writer);
            let uses = UseResolution::default();
            uses.measure(&writer, limits, Clock::System.now());
            return Ok(Database { uses, ..database(Some(writer), salt, false) });
        }
        Err(refused) => refused,
    };
    if matches!(refused, Refused::ReadOnly(_))
        && let Ok(reader) = schema::open_reader(path, true, busy_max)
        && matches!(tables::check(&reader), Ok(Tables::Current | Tables::Previous))
    {
        log::warn!("store {}: cannot be written; what is in it is used as it is", path.display());
        return Ok(database(None, tables::salt(&reader), true));
    }
    if !refused.may_pass(path) {
        return Err(refused.in_one_line(path));
    }
    let (reading, salt) = schema::readable(path, opening);
    let database = database(None, salt, false);
    *database.trouble.lock() = Some(Trouble { why: refused.why(), reading });
    Ok(database)
}

impl Database {
    /// Runs `read` with a connection. Called without a lock.
    pub(super) fn reading<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BackingError> {
        if !self.opening.is_shared {
            // On a network file system: locks between connections cannot be trusted, so there is but one.
            let writer = self.writer.lock();
            let connection = writer.as_ref().ok_or_else(Self::gone)?;
            return read(connection).map_err(|error| self.error(&error));
        }
        if self.how_read() == Reading::Alone && !schema::has_log(&self.path) {
            return self.reading_alone(read);
        }
        // Before the connection is taken: one that was opened on a file that has since been replaced would
        // read a file that has no name any more, for ever.
        let epoch = self.epoch.load(Ordering::Acquire);
        let kept = self.readers.lock().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.new_reader().map_err(|error| self.error(&error))?,
        };
        let result = read(&connection).map_err(|error| self.error(&error));
        // After an error the connection may be in a transaction; it is closed instead of being asked.
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
        if tables::has_table(&connection, "responses")? {
            return Ok(connection);
        }
        // The writer is making the file anew at this moment, and holds its lock until the tables are there.
        // Without the wait, this look was a failure of the store, which was left alone for a while.
        drop(self.writer.lock());
        open()
    }

    /// Runs `read` with a connection that takes no lock and knows no log: only while no process writes. None is
    /// kept, because it would never hear of what another process changes.
    fn reading_alone<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BackingError> {
        // What looks like damage is another process that has just begun to write.
        let passing = |error: rusqlite::Error| BackingError(explain(&error));
        let connection =
            schema::open_reader(&self.path, true, self.opening.busy_max).map_err(passing)?;
        read(&connection).map_err(passing)
    }

    pub(super) fn how_read(&self) -> Reading {
        self.trouble.lock().as_ref().map_or(Reading::Shared, |trouble| trouble.reading)
    }

    pub(super) fn is_taken_away(&self) -> bool {
        !self.is_read_only && schema::inode(&self.path) != self.inode.load(Ordering::Relaxed)
    }

    pub(super) fn gone() -> BackingError {
        BackingError("not open".to_string())
    }

    /// Puts an error into words, and notes what it says about the file.
    pub(super) fn error(&self, error: &rusqlite::Error) -> BackingError {
        if matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ) {
            // Only noted: the writer makes the file anew before its next batch, under its own lock.
            self.is_damaged.store(true, Ordering::Release);
        }
        BackingError(explain(error))
    }

    /// Content of response `number`, which is held until it is dropped.
    pub(super) fn content(
        self: &Arc<Self>,
        number: u64,
        salt: u64,
        length: u64,
    ) -> Arc<dyn Distant> {
        // Counted before the caller lets go of what it has read: a row that is deleted before that is found
        // missing by the first read, which drops the response.
        *self.held.lock().entry(number).or_default() += 1;
        Arc::new(ContentRows { database: Arc::clone(self), number, salt, length })
    }

    pub(super) fn is_held(&self, number: u64) -> bool {
        self.held.lock().contains_key(&number)
    }

    pub(super) fn doom(&self, number: u64) {
        // Bounded: beyond it, a removed row is found by the sweep (its state is not 1), and a damaged one when
        // it is read next.
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
        // One piece, one row, one short read lock: a slow client must not keep the log from being cut.
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
            debug_assert!(*count > 0, "a reader is counted from its beginning to its drop");
            *count -= 1;
            if *count == 0 {
                held.remove(&self.number);
            }
        }
    }
}

/// The row of a chunk of response `number`.
pub(super) fn chunk_id(number: u64, chunk: u64) -> i64 {
    debug_assert!(chunk < CHUNKS_MAX, "a further piece would be another response's first");
    (number * CHUNKS_MAX + chunk).cast_signed()
}

/// Makes a file anew that has turned out to be damaged, and opens one again that was taken away, or that
/// could not be opened before.
///
/// Called by the writer thread alone, without a lock; holds the writer's until the tables are there, which
/// readers without a connection wait for ([`Database::new_reader`]).
pub(super) fn reopen(database: &Arc<Database>) -> Result<(), BackingError> {
    let is_damaged = database.is_damaged.load(Ordering::Acquire);
    let found = schema::inode(&database.path);
    let opened = database.inode.load(Ordering::Relaxed);
    let is_ours = found != 0 && found == opened;
    let mut writer = database.writer.lock();
    if is_ours && !is_damaged && writer.is_some() {
        return Ok(());
    }
    // Closed first: an open connection keeps a deleted file and its log on the disk.
    *writer = None;
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    // Damage was seen in the file that was open. If another process has made it anew meanwhile, that one is good.
    let damaged = (is_damaged && is_ours).then_some(opened);
    let outcome = schema::open_or_make(&database.path, database.opening, damaged);
    // Once more: a reader that opened the old file in between has noted the epoch before this.
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    match outcome {
        Ok(connection) => {
            if found == 0 && opened != 0 {
                log::info!("store {}: it was taken away; begun anew", database.path.display());
            }
            *database.salt.lock() = tables::salt(&connection);
            *writer = Some(connection);
            database.inode.store(schema::inode(&database.path), Ordering::Relaxed);
            database.is_damaged.store(false, Ordering::Release);
            *database.trouble.lock() = None;
            Ok(())
        }
        Err(refused) => {
            if matches!(refused, Refused::Damaged) {
                database.is_damaged.store(true, Ordering::Release);
            }
            let (reading, salt) = schema::readable(&database.path, database.opening);
            // A file that cannot be read now keeps the salt that is known: it may be the same file later.
            if salt.is_some() {
                *database.salt.lock() = salt;
            }
            let why = refused.why();
            *database.trouble.lock() = Some(Trouble { why: why.clone(), reading });
            Err(BackingError(why))
        }
    }
}

/// Puts everything into the file itself, and closes it.
pub(super) fn close(database: &Arc<Database>) {
    // Readers that are out close their connections when they are done; the last one to close removes the log.
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    let writer = database.writer.lock().take();
    if let Some(connection) = writer {
        checkpoint(&connection);
        drop(connection);
    }
}
