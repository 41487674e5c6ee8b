//! Room on the disk: what goes so that the file and its log stay within `--cache-disk`, and what is given
//! back.
//!
//! The file never grows beyond its share: room is made before anything is written, and what is freed is
//! used again. The log is written back into the file, and cut to nothing, when it is long.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use crate::store::backing::BackingError;
use crate::store::sqlite::changes::SqliteBatch;
use crate::store::sqlite::schema::{self, PAGE_BYTES, Refused};
use crate::store::sqlite::{Database, DiskLimits, Trouble};

/// Pages that one response takes beside its content, at most, as a rule.
const PAGES_EACH: u64 = 3;
/// Responses that go at a time.
const EVICT_BATCH: usize = 16;
/// Free pages that are given back at a time.
const VACUUM_PAGES: u64 = 512;
/// While there is more to tidy up.
const SOON: Duration = Duration::from_millis(10);
/// While there is not.
const LATER: Duration = Duration::from_secs(1);

impl DiskLimits {
    /// The most that the write-ahead log takes: an eighth, at most 16 MiB.
    pub(super) fn log_bytes_max(self) -> u64 {
        (self.bytes / 8).min(16 << 20)
    }

    /// What is left for the file.
    fn file_bytes_max(self) -> u64 {
        self.bytes - self.log_bytes_max()
    }

    /// The largest content: `--max-object-size`, or a half of the file.
    pub(super) fn content_bytes_max(self) -> u64 {
        self.content_bytes.min(self.file_bytes_max() / 2)
    }
}

struct Pages {
    all: u64,
    free: u64,
}

impl Pages {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        Ok(Self { all: number("page_count")?, free: number("freelist_count")? })
    }
}

/// Makes room for `bytes` of content and `responses` more, least recently used first. An error if there
/// is nothing left that could go.
pub(super) fn make_room(
    batch: &SqliteBatch<'_>,
    bytes: u64,
    responses: u64,
) -> rusqlite::Result<()> {
    let limits = batch.database.limits;
    let most = limits.file_bytes_max() / PAGE_BYTES;
    let needed = bytes.div_ceil(PAGE_BYTES - 64) + (responses + 4) * PAGES_EACH;
    loop {
        let pages = Pages::of(batch.connection)?;
        let too_many = match limits.responses {
            Some(most) => batch.total()? + responses > most,
            None => false,
        };
        if pages.all - pages.free + needed <= most && !too_many {
            return Ok(());
        }
        if batch.evict(EVICT_BATCH.min(responses.max(1) as usize))? == 0 {
            // What is left is being read or written; or the limit is less than one batch.
            return if too_many { Ok(()) } else { Err(full()) };
        }
    }
}

fn full() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(code, Some("--cache-disk leaves no room".to_string()))
}

fn beside(database: &Database, ending: &str) -> PathBuf {
    let mut name = database.path.as_os_str().to_os_string();
    name.push(ending);
    PathBuf::from(name)
}

fn log_bytes(database: &Database) -> u64 {
    fs::metadata(beside(database, "-wal")).map_or(0, |found| found.len())
}

/// Writes the log back into the file when it is long.
pub(super) fn checkpoint_if_long(database: &Database, connection: &Connection) {
    if log_bytes(database) > database.limits.log_bytes_max() / 4 {
        checkpoint(connection);
    }
}

/// Writes the log back into the file and cuts it to nothing, unless somebody reads just now.
pub(super) fn checkpoint(connection: &Connection) {
    // The answer says whether it was complete; the next time comes soon.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// Makes a file anew that has turned out to be damaged, and opens one again that was taken away, or that
/// could not be opened before.
pub(super) fn mend(database: &Arc<Database>) -> Result<(), BackingError> {
    let is_damaged = database.is_damaged.load(Ordering::Acquire);
    let found = schema::inode(&database.path);
    let opened = database.inode.load(Ordering::Relaxed);
    let is_ours = found != 0 && found == opened;
    let mut writer = database.writer.lock();
    if is_ours && !is_damaged && writer.is_some() {
        return Ok(());
    }
    *writer = None;
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    let damaged = (is_damaged && is_ours).then_some(opened);
    let outcome = schema::open_or_make(&database.path, database.opening, damaged);
    // What is read from now on is read from what is there now.
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    match outcome {
        Ok(connection) => {
            if found == 0 && opened != 0 {
                log::info!("store {}: it was taken away; begun anew", database.path.display());
            }
            *database.salt.lock() = schema::salt(&connection);
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
            if salt.is_some() {
                *database.salt.lock() = salt;
            }
            let why = refused.why();
            *database.trouble.lock() = Some(Trouble { why: why.clone(), reading });
            Err(BackingError(why))
        }
    }
}

/// What can wait: deletes what nobody reads any more, gives free pages back, cuts the log.
pub(super) fn tidy(database: &Arc<Database>) -> Duration {
    if database.is_read_only || mend(database).is_err() {
        return LATER;
    }
    let writer = database.writer.lock();
    let Some(connection) = writer.as_ref() else { return LATER };
    let done = tidy_up(database, connection);
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    if log_bytes(database) > 0 {
        checkpoint(connection);
    }
    match done {
        Ok(wait) => wait,
        Err(error) => {
            log::debug!("{}", database.error(&error));
            LATER
        }
    }
}

fn tidy_up(database: &Arc<Database>, connection: &Connection) -> rusqlite::Result<Duration> {
    let batch = SqliteBatch::of(database, connection);
    if !database.doomed.lock().is_empty() {
        batch.begin()?;
        batch.delete_doomed()?;
        batch.commit()?;
    }
    let pages = Pages::of(connection)?;
    let most = database.limits.file_bytes_max() / PAGE_BYTES;
    if pages.all - pages.free > most {
        // The limit is lower than it was.
        batch.begin()?;
        batch.evict(1000)?;
        batch.commit()?;
        return Ok(SOON);
    }
    let much = pages.free > VACUUM_PAGES / 2 && pages.free > pages.all / 4;
    if much || pages.all > most && pages.free > 0 {
        let count = VACUUM_PAGES.min(pages.free);
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({count})"))?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        return Ok(SOON);
    }
    Ok(LATER)
}

/// Puts everything into the file itself, and closes it.
pub(super) fn close(database: &Arc<Database>) {
    database.epoch.fetch_add(1, Ordering::Release);
    database.readers.lock().clear();
    let writer = database.writer.lock().take();
    if let Some(connection) = writer {
        checkpoint(&connection);
        drop(connection);
    }
}
