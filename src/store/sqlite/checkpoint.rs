//! The write-ahead log: how long it is, and writing it back into the file.
//!
//! Nothing is written back by SQLite itself (`schema.rs` sets `wal_autocheckpoint` to 0): the writer does it
//! between two transactions, so that the log keeps within its share of `--cache-disk`.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::store::sqlite::limits::DiskLimits;
use crate::store::sqlite::schema::beside;

pub(super) fn log_bytes(path: &Path) -> u64 {
    fs::metadata(beside(path, "-wal")).map_or(0, |found| found.len())
}

/// Writes the log back into the file when it is long.
pub(super) fn checkpoint_if_long(path: &Path, limits: DiskLimits, connection: &Connection) {
    // A quarter: a batch fills another quarter at most (`Backing::batch_bytes`), and while a reader keeps the
    // log from being cut, it may grow on for some batches.
    if log_bytes(path) > limits.log_bytes_max() / 4 {
        checkpoint(connection);
    }
}

/// Writes the log back into the file and cuts it to nothing, unless a reader is in the middle of it.
pub(super) fn checkpoint(connection: &Connection) {
    // The answer says whether it was complete; the next time comes soon.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}
