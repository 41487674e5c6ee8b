//! Space on the disk: what goes so that the file and its log stay within `--cache-disk`, and what is given
//! back.
//!
//! The file never grows beyond its share: space is made before anything is written, and what is freed is
//! used again. The log is written back into the file, and cut to nothing, when it is long.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::store::sqlite::batch::SqliteBatch;
use crate::store::sqlite::checkpoint::{checkpoint, log_bytes};
use crate::store::sqlite::database::{self, Database};
use crate::store::sqlite::pages::Pages;
use crate::store::sqlite::schema::PAGE_BYTES;

/// Pages that one response takes beside its content, at most, as a rule.
const PAGES_EACH: u64 = 3;
/// Responses that are evicted at a time.
const EVICT_BATCH: usize = 16;
/// Free pages that are given back at a time.
const VACUUM_PAGES: u64 = 512;
/// While there is more to tidy up.
const SOON: Duration = Duration::from_millis(10);
/// While there is not.
const LATER: Duration = Duration::from_secs(1);

/// Makes space for `bytes` of content and `responses` more, least recently used first. An error if there
/// is nothing left that could go.
///
/// Called in a transaction, before anything of it is written. The count of pages is SQLite's own, with what
/// this transaction has freed, so nothing has to be kept in step with the file.
pub(super) fn make_space(
    batch: &SqliteBatch<'_>,
    bytes: u64,
    responses: u64,
) -> rusqlite::Result<()> {
    let limits = batch.database.limits;
    let most = limits.file_bytes_max() / PAGE_BYTES;
    // A page of content has some 64 bytes of its own; heads, indexes and half-filled pages take the rest.
    let needed = bytes.div_ceil(PAGE_BYTES - 64) + (responses + 4) * PAGES_EACH;
    loop {
        let pages = Pages::of(batch.connection)?;
        let too_many = match limits.responses {
            Some(most) => batch.total()? + responses > most,
            None => false,
        };
        if pages.used() + needed <= most && !too_many {
            return Ok(());
        }
        // Few at a time, and measured again: how much a response frees depends on its content.
        if batch.evict(EVICT_BATCH.min(responses.max(1) as usize))? == 0 {
            // What is left has readers or is on its way in; or the limit is less than one batch. Too many
            // responses are no reason to refuse one; too many bytes are, for the disk may be small.
            return if too_many { Ok(()) } else { Err(full()) };
        }
    }
}

fn full() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(code, Some("--cache-disk leaves no space".to_string()))
}

/// What can wait: deletes what has no more readers, gives free pages back, cuts the log. Called by the idle
/// writer thread, without a lock; holds the writer's for one small step, so that a batch waits little.
pub(super) fn tidy(database: &Arc<Database>) -> Duration {
    if database.is_read_only || database::reopen(database).is_err() {
        return LATER;
    }
    let writer = database.writer.lock();
    let Some(connection) = writer.as_ref() else { return LATER };
    // An error is no failure of the store: nothing was asked of it, and the next batch will find out.
    let done = tidy_up(database, connection);
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    if log_bytes(&database.path) > 0 {
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
    database.uses.measure(connection, database.limits, batch.now);
    let pages = Pages::of(connection)?;
    let most = database.limits.file_bytes_max() / PAGE_BYTES;
    if pages.used() > most {
        // The limit is lower than it was.
        batch.begin()?;
        batch.evict(1000)?;
        batch.commit()?;
        return Ok(SOON);
    }
    // Free pages are used again before the file grows, so a few of them are kept. Many are space on the disk
    // that others could use.
    let much = pages.free > VACUUM_PAGES / 2 && pages.free > pages.all / 4;
    if much || pages.all > most && pages.free > 0 {
        let count = VACUUM_PAGES.min(pages.free);
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({count})"))?;
        // Each step of the statement gives one page back; it must be run to its end.
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        return Ok(SOON);
    }
    Ok(LATER)
}
