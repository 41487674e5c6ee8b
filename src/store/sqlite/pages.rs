//! How many pages the file has.

use rusqlite::Connection;

/// Pages of the file, and those of them that are free to be used again.
pub(super) struct Pages {
    pub all: u64,
    pub free: u64,
}

impl Pages {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |text| connection.prepare_cached(text)?.query_row([], |row| row.get(0));
        Ok(Self { all: number("PRAGMA page_count")?, free: number("PRAGMA freelist_count")? })
    }

    /// Pages with something in them. Outside of a transaction the two numbers are of two moments, and another
    /// process may have written in between.
    pub(super) fn used(&self) -> u64 {
        self.all.saturating_sub(self.free)
    }
}
