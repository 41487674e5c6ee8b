//! What is written into the file: one transaction for a batch of changes, or several where much goes.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::{ErrorCode, params};

use crate::clock::{Clock, Timestamp};
use crate::policy::key::{CacheKey, Glob};
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{BackingError, CHUNK_BYTES, Change, Stamp};
use crate::store::codec;
use crate::store::sqlite::batch::SqliteBatch;
use crate::store::sqlite::checkpoint::{checkpoint, checkpoint_if_long};
use crate::store::sqlite::database::{self, CHUNKS_MAX, Database};
use crate::store::sqlite::invalidations::Standing;
use crate::store::sqlite::row::{INLINE_BYTES_MAX, ResponseRow, RowContent, seconds};
use crate::store::sqlite::space;

/// Carries out changes, in one transaction where it can be. Called by the writer thread, without a lock; holds
/// the writer's lock throughout, which readers take only where there is but one connection.
pub(super) fn apply(
    database: &Arc<Database>,
    changes: &[&Change],
) -> Result<Vec<u64>, BackingError> {
    if database.is_read_only {
        return read_only(changes);
    }
    database::reopen(database)?;
    let writer = database.writer.lock();
    let connection = writer.as_ref().ok_or_else(Database::gone)?;
    match SqliteBatch::of(database, connection).run(changes) {
        Ok(counts) => {
            if changes.iter().any(|change| comes_in(change)) {
                database.is_full.store(false, Ordering::Relaxed);
            }
            database.uses.measure(connection, database.limits, Clock::System.now());
            checkpoint_if_long(&database.path, database.limits, connection);
            Ok(counts)
        }
        Err(error) => {
            // SQLite rolls back by itself after some errors, after others not. If this fails, too, the next
            // BEGIN says so.
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            let code = error.sqlite_error_code();
            if matches!(code, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)) {
                database.is_full.store(true, Ordering::Relaxed);
            }
            let error = database.error(&error);
            // On a full disk, the log is what can be given back at once.
            checkpoint(connection);
            Err(error)
        }
    }
}

/// Does it bring content?
fn comes_in(change: &Change) -> bool {
    matches!(change, Change::Put { .. } | Change::Chunk { .. })
}

/// What cannot be written is no error, so long as nothing that is there is to go.
fn read_only(changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
    let goes = |change: &&Change| {
        matches!(
            change,
            Change::Displace { .. }
                | Change::Remove { .. }
                | Change::Forget { .. }
                | Change::Purge { .. }
                | Change::Chunk { .. }
                | Change::Whole { .. }
        )
    };
    if changes.iter().any(goes) {
        return Err(BackingError("it can be read only".to_string()));
    }
    Ok(vec![0; changes.len()])
}

impl SqliteBatch<'_> {
    fn run(&mut self, changes: &[&Change]) -> rusqlite::Result<Vec<u64>> {
        // Space is made for the whole batch at once, before its first response: within the transaction the
        // file may grow, and must not do so beyond its share.
        let bytes: u64 = changes.iter().map(|change| change.bytes()).sum();
        let puts = changes.iter().filter(|change| matches!(change, Change::Put { .. })).count();
        self.begin()?;
        let mut counts = Vec::with_capacity(changes.len());
        let mut has_space = false;
        for change in changes {
            if comes_in(change) && !has_space {
                space::make_space(self, bytes, puts as u64)?;
                has_space = true;
            }
            counts.push(self.carry_out(change)?);
        }
        self.commit()?;
        Ok(counts)
    }

    fn carry_out(&mut self, change: &Change) -> rusqlite::Result<u64> {
        match change {
            Change::Put { key, response, begun } => self.put(key, response, *begun),
            Change::Used { place, reuses } => {
                let Some(number) = self.number(place) else { return Ok(0) };
                let now = seconds(self.now);
                let text = "UPDATE responses SET used = ?2, hits = max(hits, ?3) WHERE id = ?1";
                self.execute(text, params![number.cast_signed(), now, reuses.cast_signed()])?;
                Ok(0)
            }
            Change::Displace { key, head } => {
                let response = StoredResponse::new((**head).clone(), Bytes::new());
                self.forget_replaced(key, &response, None)
            }
            Change::Remove { response, .. } => match self.number(response.place()) {
                Some(number) => self.delete(number),
                None => Ok(0),
            },
            Change::Forget { key, invalidates } => {
                if *invalidates {
                    self.note_key(key)?;
                }
                self.delete_all(&self.numbers(
                    "SELECT id FROM responses WHERE url = ?1 AND state = 1",
                    [key.as_str()],
                )?)
            }
            Change::Purge { selector, now } => {
                self.note_selector(selector, *now)?;
                self.purge(selector, *now)
            }
            Change::Sweep { now } => self.sweep(*now),
            Change::Release { .. } => Ok(0),
            Change::Chunk { spooled, bytes } => self.chunk(spooled, bytes),
            Change::Whole { spooled, head, begun } => self.whole(spooled, head, *begun),
            Change::Abandon { spooled } => self.abandon_spooled(spooled),
        }
    }

    /// Stores a response, or a new head for one that is there already.
    fn put(
        &mut self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: Stamp,
    ) -> rusqlite::Result<u64> {
        // A response that was made from another (RFC 9111 §4.3.4) has its place: the row is written over.
        let made_from = self.number(response.place());
        let place = made_from.filter(|number| self.exists(*number));
        match self.standing(key, response, begun)? {
            Standing::Admitted => {}
            // What is stored for the key was asked for after the invalidation, and stays.
            Standing::KeyOutdated => return Ok(0),
            // What it has replaced in memory must not come back when memory has dropped it.
            Standing::Outdated => return self.forget_replaced(key, response, place),
        }
        if place.is_none() && made_from.is_some() {
            // The response that it was made from is not there any more, and something newer may be: storing
            // this would bring back what was removed.
            return Ok(0);
        }
        self.displace(key, response, place)?;
        // What is compressed is written as it came, if it is written at all: large content has its rows already.
        let is_written = place.is_none() || response.content.len() <= INLINE_BYTES_MAX as u64;
        let content = if is_written { response.content.in_memory() } else { Ok(None) };
        // There is no memory to expand it: what is there must not come back in its place.
        let Ok(content) = content else { return self.forget_replaced(key, response, place) };
        let row_content = RowContent::of(response.content.len(), content.as_ref());
        let number = match (place, &content) {
            (Some(number), _) => {
                self.set_head(number, key, response, row_content, response.reuses())?;
                number
            }
            (None, Some(content)) => {
                let (number, salt) = self.insert(key, response, row_content)?;
                let apart = if row_content.inline.is_some() { &[] } else { &content[..] };
                for (chunk, bytes) in apart.chunks(CHUNK_BYTES).enumerate() {
                    self.insert_chunk(number, salt, chunk as u64, bytes)?;
                }
                self.count(1);
                number
            }
            (None, None) => return Ok(0),
        };
        let place = response.place();
        // The copy keeps the address from being given to another place while it is the key.
        let given = (Arc::clone(place), number);
        self.outcome.borrow_mut().places.insert(Arc::as_ptr(place), given);
        Ok(1)
    }

    /// A new row for a response; its number and salt.
    fn insert(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        content: RowContent<'_>,
    ) -> rusqlite::Result<(u64, u64)> {
        // Random: rows may get the number of a deleted one, and content that was left over from that must not
        // pass its checksum.
        let salt = RandomState::new().hash_one(key);
        let text = "INSERT INTO responses (method, state, status, stored, expires, useless, used, hits, \
                    size, content_type, etag, last_modified, selecting, fields, head, url, salt) \
                    VALUES ('GET', 1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
        let row = ResponseRow::of(key, head, content, 0, self.now);
        let (url, signed) = (key.as_str(), salt.cast_signed());
        self.execute(text, &*row.params(&[&url, &signed]))?;
        let number = self.connection.last_insert_rowid().cast_unsigned();
        self.tag(number, head)?;
        Ok((number, salt))
    }

    fn purge(&mut self, selector: &Selector, now: Timestamp) -> rusqlite::Result<u64> {
        let numbers = match selector {
            Selector::All => return self.purge_all(),
            Selector::Uri(uri) => {
                self.numbers("SELECT id FROM responses WHERE url = ?1 AND state = 1", [uri])?
            }
            Selector::Prefix(prefix) => self.numbers(
                "SELECT id FROM responses WHERE url >= ?1 AND url < ?1 || char(1114111) AND state = 1",
                [prefix],
            )?,
            Selector::Match(glob) => self.matching(glob)?,
            Selector::Tag(tag) => self.numbers("SELECT response FROM tags WHERE tag = ?1", [tag])?,
            Selector::Stale => self.stale(now)?,
        };
        self.delete_all(&numbers)
    }

    fn matching(&self, glob: &Glob) -> rusqlite::Result<Vec<u64>> {
        let mut select =
            self.connection.prepare_cached("SELECT id, url FROM responses WHERE state = 1")?;
        let mut rows = select.query([])?;
        let mut numbers = Vec::new();
        while let Some(row) = rows.next()? {
            if glob.fits(row.get_ref(1)?.as_bytes()?) {
                numbers.push(row.get(0)?);
            }
        }
        Ok(numbers)
    }

    fn stale(&self, now: Timestamp) -> rusqlite::Result<Vec<u64>> {
        let text = "SELECT id, head FROM responses WHERE expires <= ?1 AND state = 1";
        let mut select = self.connection.prepare_cached(text)?;
        let mut rows = select.query([seconds(now)])?;
        let mut numbers = Vec::new();
        while let Some(row) = rows.next()? {
            // The column has whole seconds.
            let decoded = codec::decode_row(&Bytes::from(row.get::<_, Vec<u8>>(1)?));
            if decoded.is_ok_and(|decoded| !decoded.head.is_fresh(now)) {
                numbers.push(row.get(0)?);
            }
        }
        Ok(numbers)
    }

    /// Deletes everything but what has readers, and what is on its way in, which its stamp keeps out.
    fn purge_all(&mut self) -> rusqlite::Result<u64> {
        let gone = self.total()?;
        // These are marked one by one; then whole tables go, which is quick however much is in them.
        let held: Vec<u64> = self.database.held.lock().keys().copied().collect();
        for number in held {
            self.delete(number)?;
        }
        let kept = self.numbers("SELECT id FROM responses WHERE state <> 1", [])?;
        if kept.is_empty() {
            self.connection
                .execute_batch("DELETE FROM contents; DELETE FROM tags; DELETE FROM responses")?;
        } else {
            self.connection.execute_batch(&format!(
                "DELETE FROM responses WHERE state = 1; DELETE FROM tags; \
                 DELETE FROM contents WHERE id / {CHUNKS_MAX} NOT IN (SELECT id FROM responses)"
            ))?;
        }
        // The total is set, not counted down: whatever was wrong with it before is mended.
        self.counted.set(0);
        self.execute("UPDATE totals SET number = 0 WHERE name = 'responses'", [])?;
        Ok(gone)
    }

    /// Deletes what is of no more use, and what was left half way by a process that died.
    fn sweep(&self, now: Timestamp) -> rusqlite::Result<u64> {
        let text = "SELECT id FROM responses WHERE useless < ?1 AND state = 1";
        let gone = self.delete_all(&self.numbers(text, [seconds(now)])?)?;
        self.clear_up()?;
        Ok(gone)
    }
}
