//! What is worth being in memory after a start: what was used last, and of that first what was reused at all.

use rusqlite::{Connection, Row, params};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::store::backing::{CHUNK_BYTES, LoadPage, LoadPosition};
use crate::store::sqlite::row::seconds;

/// Rows that are looked at in one go.
const PAGE_ROWS: usize = 256;

/// A row that is considered.
struct Considered {
    number: u64,
    used: i64,
    url: String,
    hits: u64,
    size: u64,
    is_usable: bool,
}

/// The rows after `position`, the last used first.
pub(super) fn page(
    connection: &Connection,
    position: LoadPosition,
    now: Timestamp,
) -> rusqlite::Result<LoadPage> {
    let LoadPosition { is_second, after } = position;
    let (used, number) = after.unwrap_or((i64::MAX, u64::MAX >> 1));
    // Two looks into one index, because many rows may have been used in the same second.
    let columns = "SELECT id, used, url, hits, size, state = 1 AND (expires IS NULL OR expires > ?1) \
                   FROM responses WHERE";
    let now = seconds(now);
    let mut rows = Vec::with_capacity(PAGE_ROWS);
    let text = format!("{columns} used = ?2 AND id < ?3 ORDER BY id DESC LIMIT {PAGE_ROWS}");
    let mut select = connection.prepare_cached(&text)?;
    for row in select.query_map(params![now, used, number.cast_signed()], considered)? {
        rows.push(row?);
    }
    if rows.len() < PAGE_ROWS {
        let more = PAGE_ROWS - rows.len();
        let text = format!("{columns} used < ?2 ORDER BY used DESC, id DESC LIMIT ?3");
        let mut select = connection.prepare_cached(&text)?;
        for row in select.query_map(params![now, used, more], considered)? {
            rows.push(row?);
        }
    }
    let next = match rows.last() {
        Some(last) if rows.len() == PAGE_ROWS => {
            Some(LoadPosition { is_second, after: Some((last.used, last.number)) })
        }
        // Once more from the beginning, for what has not been reused so far.
        _ if !is_second => Some(LoadPosition { is_second: true, after: None }),
        _ => None,
    };
    let count = rows.len() as u64;
    rows.retain(|row| {
        row.is_usable && (row.hits == 0) == is_second && row.size <= CHUNK_BYTES as u64
    });
    // As many as there is space for are worth more than one that takes as much.
    rows.sort_by_key(|row| row.size);
    let mut keys: Vec<_> = rows.into_iter().map(|row| CacheKey::from(&*row.url)).collect();
    // Variants of one key come together.
    let mut known = std::collections::HashSet::new();
    keys.retain(|key| known.insert(key.clone()));
    Ok(LoadPage { keys, considered: count, next })
}

fn considered(row: &Row<'_>) -> rusqlite::Result<Considered> {
    Ok(Considered {
        number: row.get(0)?,
        used: row.get(1)?,
        url: row.get(2)?,
        hits: row.get(3)?,
        size: row.get(4)?,
        is_usable: row.get(5)?,
    })
}
