//! Recalling: what is stored for some keys, in one look at the file.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use crate::clock::{Clock, Timestamp};
use crate::message::content::Content;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::VARIANTS_MAX;
use crate::store::backing::{BackingError, CHUNK_BYTES, Recalled, Stamp};
use crate::store::codec::{self, RowDecoded};
use crate::store::sqlite::database::{Database, chunk_id};
use crate::store::sqlite::invalidations::InvalidationState;
use crate::store::sqlite::schema::Reading;

/// Rows that are read of one key. The writer keeps fewer; another version of the program need not.
const ROWS_MAX: usize = 4 * VARIANTS_MAX;

/// A response as it is read.
struct ResponseRead {
    number: u64,
    salt: u64,
    reuses: u64,
    used: i64,
    stored: i64,
    /// `None` if it is damaged, of another version, or another key's.
    decoded: Option<RowDecoded>,
}

/// What is read for a key.
struct KeyRead {
    /// The responses, the most recent first.
    rows: Vec<ResponseRead>,
    /// The content of the only one, where it is short and not in the row.
    only: Option<Bytes>,
}

/// What is stored for the first of `keys`, and for as many more as are read before `until`.
pub(super) fn recall(
    database: &Arc<Database>,
    keys: &[&CacheKey],
    until: Option<Instant>,
) -> Result<Vec<Recalled>, BackingError> {
    assert!(!keys.is_empty(), "something is asked for");
    if database.how_read() == Reading::Nothing {
        return Ok(keys.iter().map(|_| Recalled::default()).collect());
    }
    let read = database.reading(|connection| {
        // One transaction, and with it one lock, for all that small responses need.
        let _reading = ReadTransaction::begin(connection)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(read_key(connection, key)?);
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        // What can only be read stores nothing, and may be from before there were invalidations in it.
        let numbers =
            (!database.is_read_only).then(|| InvalidationState::read(connection)).transpose()?;
        Ok((found, numbers.map(|state| state.stamp())))
    });
    let (found, numbers) = match read {
        // The file was moved away or deleted: nothing is stored any more, and the writer makes another. No
        // failure of the store, which would leave it alone for a while.
        Err(_) if database.is_taken_away() => {
            return Ok(keys.iter().map(|_| Recalled::default()).collect());
        }
        read => read?,
    };
    let now = Clock::System.now();
    let recalled = found.into_iter().map(|read| {
        let variants = variants(database, read, now);
        let stamp = Stamp { numbers, was_empty: variants.is_empty(), ..Stamp::default() };
        Recalled { variants, stamp, ..Recalled::default() }
    });
    Ok(recalled.collect())
}

fn read_key(connection: &Connection, key: &CacheKey) -> rusqlite::Result<KeyRead> {
    let mut select = connection.prepare_cached(
        "SELECT id, salt, hits, used, stored, head FROM responses WHERE url = ?1 AND state = 1",
    )?;
    let mut found = select.query([key.as_str()])?;
    let mut rows = Vec::new();
    while rows.len() < ROWS_MAX
        && let Some(row) = found.next()?
    {
        rows.push(ResponseRead {
            number: row.get(0)?,
            salt: row.get::<_, i64>(1)?.cast_unsigned(),
            reuses: row.get(2)?,
            used: row.get(3)?,
            stored: row.get(4)?,
            decoded: decode(key, row.get(5)?),
        });
    }
    // Here and not in the statement, which would make a sorter for the one row that most keys have.
    rows.sort_by_key(|row| std::cmp::Reverse((row.stored, row.number)));
    rows.truncate(VARIANTS_MAX);
    // Most keys have one response of one piece: its content comes with the head.
    let only = match &rows[..] {
        [ResponseRead { number, salt, decoded: Some(decoded), .. }]
            if decoded.content.is_none() && decoded.length <= CHUNK_BYTES as u64 =>
        {
            first_chunk(connection, *number, *salt)?
        }
        _ => None,
    };
    Ok(KeyRead { rows, only })
}

fn decode(key: &CacheKey, head: Vec<u8>) -> Option<RowDecoded> {
    codec::decode_row(&Bytes::from(head)).ok().filter(|decoded| decoded.key == *key)
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

/// The responses of what was read for a key.
fn variants(database: &Arc<Database>, read: KeyRead, now: Timestamp) -> Vec<Arc<StoredResponse>> {
    let KeyRead { rows, only } = read;
    let mut variants = Vec::with_capacity(rows.len());
    for ResponseRead { number, salt, reuses, used, decoded, .. } in rows {
        let Some(RowDecoded { head, length, content, .. }) = decoded else {
            // Of no use to any request.
            database.doom(number);
            continue;
        };
        let here = content.or_else(|| only.clone().filter(|bytes| bytes.len() as u64 == length));
        let content = match here {
            Some(bytes) => Content::Here(bytes),
            None => Content::Distant(database.content(number, salt, length)),
        };
        let response = StoredResponse::new(head, content).found_at(number, reuses);
        if database.uses.is_lately(used, now) {
            response.place().note_heard();
        }
        variants.push(Arc::new(response));
    }
    variants
}

/// A transaction that reads, by statements that are prepared once. Ends when it is dropped.
struct ReadTransaction<'a>(&'a Connection);

impl<'a> ReadTransaction<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(connection))
    }
}

impl Drop for ReadTransaction<'_> {
    fn drop(&mut self) {
        // Should it fail, the connection is closed after the error that it has failed by; the writer's own, where
        // there is but that, says so at its next BEGIN.
        let ended = self.0.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
        if ended.is_err() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}
