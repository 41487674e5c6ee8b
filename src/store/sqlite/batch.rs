//! A transaction of the writer, and what every change does to rows within it.
//!
//! Called with the writer's lock held. What is true only once the transaction is committed (which row a
//! response has got, how far a body has come) is kept aside until then: a rollback must leave no trace in
//! memory.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::{Connection, params};

use crate::clock::{Clock, Timestamp};
use crate::policy::key::CacheKey;
use crate::policy::partial::displaced;
use crate::policy::purging::tags;
use crate::policy::stored::{BackingId, StoredHead};
use crate::store::codec;
use crate::store::spooled::Spooled;
use crate::store::sqlite::checkpoint::checkpoint_if_long;
use crate::store::sqlite::database::{CHUNKS_MAX, Database, chunk_id};
use crate::store::sqlite::row::{ResponseRow, RowContent, seconds};
use crate::store::sqlite::tables::total;

/// Rows that are deleted in one transaction.
const DELETE_BATCH: usize = 1000;
/// Seconds for which what is on its way in or out is left alone after a process has last shown that it uses it.
const ORPHANED_AFTER: i64 = 300;

/// What becomes true when the transaction is committed. Changes that follow in the same transaction see it
/// before: a removal once found nothing in SQLite because the response that it was about was in its own batch.
#[derive(Default)]
pub(super) struct BatchOutcome {
    /// By address, which belongs to one place for as long as that is kept here.
    pub places: HashMap<*const BackingId, (Arc<BackingId>, u64)>,
    pub grown: Vec<(Arc<Spooled>, u64)>,
}

/// Changes that are being carried out.
pub(super) struct SqliteBatch<'a> {
    pub database: &'a Arc<Database>,
    pub connection: &'a Connection,
    pub now: Timestamp,
    pub outcome: RefCell<BatchOutcome>,
    /// How many more responses there are than the totals say.
    pub counted: Cell<isize>,
}

impl SqliteBatch<'_> {
    /// The batch for what is done between changes.
    pub(super) fn of<'a>(
        database: &'a Arc<Database>,
        connection: &'a Connection,
    ) -> SqliteBatch<'a> {
        SqliteBatch {
            database,
            connection,
            now: Clock::System.now(),
            outcome: RefCell::default(),
            counted: Cell::new(0),
        }
    }

    /// Takes SQLite's write lock at once: a transaction that reads first and writes later may be refused in
    /// its middle, where other processes write, too.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// Commits, and then makes known what has become true by it. On an error nothing is made known, and the
    /// caller rolls back.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        // One row for all that the transaction has stored and removed: a count of the rows takes long.
        let more = self.counted.take();
        if more != 0 {
            let text = "UPDATE totals SET number = max(0, number + ?1) WHERE name = 'responses'";
            self.execute(text, [more as i64])?;
        }
        self.connection.execute_batch("COMMIT")?;
        let BatchOutcome { places, grown } = self.outcome.take();
        // Only now: what was rolled back has no row, and its number may be given to another response.
        for (place, number) in places.values() {
            place.set(*number);
        }
        for (spooled, bytes) in grown {
            spooled.grown(bytes);
        }
        Ok(())
    }

    /// The row of what has this place, if it has got one, be it in this transaction.
    pub(super) fn number(&self, place: &Arc<BackingId>) -> Option<u64> {
        let given = self.outcome.borrow().places.get(&Arc::as_ptr(place)).map(|given| given.1);
        given.or_else(|| place.number())
    }

    /// Ends this transaction and begins another: what is deleted in one go must not fill the log.
    pub(super) fn turn(&self) -> rusqlite::Result<()> {
        // What was changed so far is let go of for good, so the entry that keeps old responses out must be in
        // the first transaction (`invalidations.rs`).
        self.commit()?;
        checkpoint_if_long(&self.database.path, self.database.limits, self.connection);
        self.begin()
    }

    pub(super) fn execute(
        &self,
        text: &str,
        params: impl rusqlite::Params,
    ) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(text)?.execute(params)
    }

    pub(super) fn exists(&self, number: u64) -> bool {
        let exists =
            self.connection.prepare_cached("SELECT 1 FROM responses WHERE id = ?1 AND state = 1");
        exists.and_then(|mut select| select.exists([number.cast_signed()])).unwrap_or(false)
    }

    /// Deletes what `response` takes the place of, but for `place`, which is its own.
    pub(super) fn displace(
        &mut self,
        key: &CacheKey,
        response: &StoredHead,
        place: Option<u64>,
    ) -> rusqlite::Result<()> {
        let mut present = Vec::new();
        for (number, old) in self.variants(key)? {
            match old {
                _ if Some(number) == place => {}
                Some(old) => present.push((number, old)),
                // What cannot be read can neither answer anything, nor be compared.
                None => _ = self.delete(number)?,
            }
        }
        // The rule is the policy's, and needs whole heads: a new response may serve requests that an old one
        // with fewer selecting fields was stored for.
        let goes = displaced(response, present.iter().map(|(_, old)| old));
        for ((number, _), _) in present.iter().zip(goes).filter(|(_, goes)| *goes) {
            self.delete(*number)?;
        }
        Ok(())
    }

    /// What is stored for `key`, the most recent first, without content; `None` for what cannot be read.
    pub(super) fn variants(
        &self,
        key: &CacheKey,
    ) -> rusqlite::Result<Vec<(u64, Option<StoredHead>)>> {
        let text = "SELECT id, head FROM responses WHERE url = ?1 AND state = 1 ORDER BY stored DESC, id DESC";
        let mut select = self.connection.prepare_cached(text)?;
        let row = |row: &rusqlite::Row<'_>| {
            let decoded = codec::decode_row(&Bytes::from(row.get::<_, Vec<u8>>(1)?)).ok();
            Ok((row.get(0)?, decoded.map(|decoded| decoded.head)))
        };
        select.query_map([key.as_str()], row)?.collect()
    }

    /// Writes down all that is known of a response, over what was there. Content that has rows of its own stays there:
    /// it is the same, and may have readers.
    pub(super) fn set_head(
        &self,
        number: u64,
        key: &CacheKey,
        head: &StoredHead,
        content: RowContent<'_>,
        reuses: u64,
    ) -> rusqlite::Result<()> {
        let text = "UPDATE responses SET state = 1, status = ?1, stored = ?2, expires = ?3, \
                    useless = ?4, used = ?5, hits = ?6, size = ?7, content_type = ?8, etag = ?9, \
                    last_modified = ?10, selecting = ?11, fields = ?12, head = ?13 WHERE id = ?14";
        let row = ResponseRow::of(key, head, content, reuses, self.now);
        self.execute(text, &*row.params(&[&number.cast_signed()]))?;
        // A freshened response may have other tags than before.
        self.execute("DELETE FROM tags WHERE response = ?1", [number.cast_signed()])?;
        self.tag(number, head)
    }

    pub(super) fn tag(&self, number: u64, head: &StoredHead) -> rusqlite::Result<()> {
        for tag in tags(head) {
            let text = "INSERT OR IGNORE INTO tags (tag, response) VALUES (?1, ?2)";
            self.execute(text, params![tag, number.cast_signed()])?;
        }
        Ok(())
    }

    pub(super) fn insert_chunk(
        &self,
        number: u64,
        salt: u64,
        chunk: u64,
        bytes: &[u8],
    ) -> rusqlite::Result<()> {
        let checksum = codec::checksum(salt, chunk, bytes);
        let text = "INSERT INTO contents (id, checksum, content) VALUES (?1, ?2, ?3)";
        self.execute(text, params![chunk_id(number, chunk), checksum, bytes]).map(drop)
    }

    /// Deletes a row for what was on its way in.
    pub(super) fn abandon(&self, number: u64) -> rusqlite::Result<u64> {
        let text = "DELETE FROM responses WHERE id = ?1 AND state <> 1";
        if self.execute(text, [number.cast_signed()])? > 0 {
            self.delete_contents(number)?;
        }
        Ok(0)
    }

    fn delete_contents(&self, number: u64) -> rusqlite::Result<()> {
        let text = "DELETE FROM contents WHERE id BETWEEN ?1 AND ?2";
        self.execute(text, params![chunk_id(number, 0), chunk_id(number, CHUNKS_MAX - 1)])?;
        self.execute("DELETE FROM tags WHERE response = ?1", [number.cast_signed()]).map(drop)
    }

    /// Deletes a response; one that has readers is only marked, and deleted later. 1 if it was there.
    pub(super) fn delete(&self, number: u64) -> rusqlite::Result<u64> {
        let id = number.cast_signed();
        let gone = if self.database.is_held(number) {
            // Nobody finds it from now on. `used` is when it was last seen alive, for other processes.
            self.database.doom(number);
            let text = "UPDATE responses SET state = 2, used = ?2 WHERE id = ?1 AND state = 1";
            self.execute(text, params![id, seconds(self.now)])?
        } else {
            let gone = self.execute("DELETE FROM responses WHERE id = ?1 AND state = 1", [id])?;
            if gone > 0 {
                self.delete_contents(number)?;
            }
            gone
        };
        debug_assert!(gone <= 1, "a number is one response's");
        self.count(-gone.cast_signed());
        Ok(gone as u64)
    }

    /// Deletes many, some in each transaction.
    pub(super) fn delete_all(&self, numbers: &[u64]) -> rusqlite::Result<u64> {
        let mut gone = 0;
        for (index, number) in numbers.iter().enumerate() {
            if index > 0 && index % DELETE_BATCH == 0 {
                self.turn()?;
            }
            gone += self.delete(*number)?;
        }
        Ok(gone)
    }

    /// So many more responses are stored; written down at the end of the transaction.
    pub(super) fn count(&self, more: isize) {
        self.counted.set(self.counted.get() + more);
    }

    /// How many responses are stored, with what this transaction has changed.
    pub(super) fn total(&self) -> rusqlite::Result<u64> {
        Ok(total(self.connection)?.saturating_add_signed(self.counted.get() as i64))
    }

    pub(super) fn numbers(
        &self,
        text: &str,
        params: impl rusqlite::Params,
    ) -> rusqlite::Result<Vec<u64>> {
        let mut select = self.connection.prepare_cached(text)?;
        select.query_map(params, |row| row.get(0))?.collect()
    }

    pub(super) fn clear_up(&self) -> rusqlite::Result<()> {
        // Rows that this process holds are shown to be alive, well before another process may think otherwise.
        let now = seconds(self.now);
        let text = "SELECT id FROM responses WHERE state <> 1 AND used < ?1";
        for number in self.numbers(text, [now - ORPHANED_AFTER / 3])? {
            if self.database.is_held(number) {
                let text = "UPDATE responses SET used = ?2 WHERE id = ?1";
                self.execute(text, params![number.cast_signed(), now])?;
            }
        }
        for number in self.numbers(text, [now - ORPHANED_AFTER])? {
            self.abandon(number)?;
        }
        Ok(())
    }

    /// Deletes what was doomed and has no readers any more.
    pub(super) fn delete_doomed(&self) -> rusqlite::Result<()> {
        // Taken out of the lock: `doom` takes it again below, for those that still have readers.
        let doomed = std::mem::take(&mut *self.database.doomed.lock());
        for number in doomed {
            if self.database.is_held(number) {
                self.database.doom(number);
            }
            self.delete(number)?;
            if !self.database.is_held(number) {
                self.abandon(number)?;
            }
        }
        Ok(())
    }

    /// Deletes the least recently used responses, about `most` of them; how many went.
    pub(super) fn evict(&self, most: usize) -> rusqlite::Result<u64> {
        let text = "SELECT id FROM responses WHERE state = 1 ORDER BY used, id LIMIT ?1";
        let mut gone = 0;
        for number in self.numbers(text, [most])? {
            gone += self.delete(number)?;
        }
        self.database.evicted.fetch_add(gone, Ordering::Relaxed);
        Ok(gone)
    }
}
