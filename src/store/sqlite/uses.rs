//! How exactly the file says when a response was used.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use crate::clock::Timestamp;
use crate::store::sqlite::limits::DiskLimits;
use crate::store::sqlite::pages::Pages;
use crate::store::sqlite::row::seconds;
use crate::store::sqlite::schema::PAGE_BYTES;
use crate::store::sqlite::tables::total;

/// How exactly the file says when a response was used, in seconds. To write each use down would cost more than it is
/// worth: the order of eviction is about what has not been used for long.
#[derive(Default)]
pub(super) struct UseResolution {
    seconds: AtomicI64,
}

impl UseResolution {
    /// At most.
    const MAX: i64 = 3600;
    /// Uses that go on are told once in this time at least: hits on what is in memory are many.
    const PERIOD_MIN: i64 = 30;

    /// Finds it out. An eighth of the time for which the least recently used response has not been used: what moves
    /// by less would go next to where it stood. As long as much of the space is free, nothing goes soon.
    pub(super) fn measure(&self, connection: &Connection, limits: DiskLimits, now: Timestamp) {
        let now = seconds(now);
        let resolution = match is_nearly_full(connection, limits) {
            Ok(false) => Self::MAX,
            Ok(true) => {
                let text = "SELECT used FROM responses ORDER BY used LIMIT 1";
                let select = connection.prepare_cached(text);
                let oldest = select.and_then(|mut select| select.query_row([], |row| row.get(0)));
                (now - oldest.unwrap_or(now)) / 8
            }
            // Each use is worth writing down, then.
            Err(_) => 0,
        };
        self.seconds.store(resolution.clamp(1, Self::MAX), Ordering::Relaxed);
    }

    /// Was something used so lately, at `used`, that another use `now` need not be written down?
    pub(super) fn is_lately(&self, used: i64, now: Timestamp) -> bool {
        seconds(now).saturating_sub(used) < self.seconds.load(Ordering::Relaxed)
    }

    /// How often uses that go on are written down.
    pub(super) fn period(&self) -> Duration {
        let resolution = self.seconds.load(Ordering::Relaxed).max(Self::PERIOD_MIN);
        Duration::from_secs(resolution.cast_unsigned())
    }
}

/// Is less than a quarter of the space left?
fn is_nearly_full(connection: &Connection, limits: DiskLimits) -> rusqlite::Result<bool> {
    let is_nearly = |count: u64, most: u64| count.saturating_mul(4) > most.saturating_mul(3);
    if is_nearly(Pages::of(connection)?.used(), limits.file_bytes_max() / PAGE_BYTES) {
        return Ok(true);
    }
    match limits.responses {
        Some(most) => Ok(is_nearly(total(connection)?, most)),
        None => Ok(false),
    }
}
