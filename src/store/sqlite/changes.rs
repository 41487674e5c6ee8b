//! What is written into the file: one transaction for a batch of changes, or several where much goes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::{Connection, params};

use crate::clock::{Clock, Timestamp};
use crate::message::content::Content;
use crate::policy::key::{CacheKey, Glob};
use crate::policy::partial::displaces;
use crate::policy::purging::{Selector, tags};
use crate::policy::stored::{BackingId, StoredHead, StoredResponse};
use crate::store::VARIANTS_MAX;
use crate::store::backing::{BackingError, CHUNK_BYTES, Change, Stamp};
use crate::store::codec;
use crate::store::spooled::Spooled;
use crate::store::sqlite::invalidations::Standing;
use crate::store::sqlite::row::{ResponseRow, seconds};
use crate::store::sqlite::{CHUNKS_MAX, Database, chunk_id, room};

/// Rows that are deleted in one transaction.
const DELETE_BATCH: usize = 1000;
/// What is on its way in or out is left alone for so many seconds after it was last seen alive.
const ORPHANED_AFTER: i64 = 300;

/// What is true once the transaction is committed. What is changed after it within the transaction is to
/// see it before.
#[derive(Default)]
pub(super) struct BatchOutcome {
    /// By address, which is a place's own for as long as it is in here.
    places: HashMap<*const BackingId, (Arc<BackingId>, u64)>,
    pub grown: Vec<(Arc<Spooled>, u64)>,
}

/// Carries out changes.
pub(super) fn apply(
    database: &Arc<Database>,
    changes: &[&Change],
) -> Result<Vec<u64>, BackingError> {
    if database.is_read_only {
        return read_only(changes);
    }
    room::mend(database)?;
    let writer = database.writer.lock();
    let connection = writer.as_ref().ok_or_else(Database::gone)?;
    match SqliteBatch::of(database, connection).run(changes) {
        Ok(counts) => {
            room::checkpoint_if_long(database, connection);
            Ok(counts)
        }
        Err(error) => {
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            let error = database.error(&error);
            // A full disk has room again sooner if the log is gone.
            room::checkpoint(connection);
            Err(error)
        }
    }
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

/// How many responses are stored.
pub(super) fn total(connection: &Connection) -> rusqlite::Result<u64> {
    let mut select =
        connection.prepare_cached("SELECT number FROM totals WHERE name = 'responses'")?;
    select.query_row([], |row| row.get(0))
}

/// Changes that are being carried out.
pub(super) struct SqliteBatch<'a> {
    pub database: &'a Arc<Database>,
    pub connection: &'a Connection,
    pub now: Timestamp,
    pub outcome: RefCell<BatchOutcome>,
    /// How many more responses there are than the totals say.
    counted: Cell<isize>,
}

impl SqliteBatch<'_> {
    fn run(&mut self, changes: &[&Change]) -> rusqlite::Result<Vec<u64>> {
        let bytes: u64 = changes.iter().map(|change| change.bytes()).sum();
        let puts = changes.iter().filter(|change| matches!(change, Change::Put { .. })).count();
        self.begin()?;
        let mut counts = Vec::with_capacity(changes.len());
        let mut has_room = false;
        for change in changes {
            let comes_in = matches!(change, Change::Put { .. } | Change::Chunk { .. });
            if comes_in && !has_room {
                room::make_room(self, bytes, puts as u64)?;
                has_room = true;
            }
            counts.push(self.carry_out(change)?);
        }
        self.commit()?;
        Ok(counts)
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        let more = self.counted.take();
        if more != 0 {
            let text = "UPDATE totals SET number = max(0, number + ?1) WHERE name = 'responses'";
            self.execute(text, [more as i64])?;
        }
        self.connection.execute_batch("COMMIT")?;
        let BatchOutcome { places, grown } = self.outcome.take();
        for (place, number) in places.values() {
            place.set(*number);
        }
        for (spooled, bytes) in grown {
            spooled.grown(bytes);
        }
        Ok(())
    }

    /// The row of what has this place, if it has got one, be it in this transaction.
    fn number(&self, place: &Arc<BackingId>) -> Option<u64> {
        let given = self.outcome.borrow().places.get(&Arc::as_ptr(place)).map(|given| given.1);
        given.or_else(|| place.number())
    }

    /// Ends this transaction and begins another: what is deleted in one go must not fill the log.
    fn turn(&self) -> rusqlite::Result<()> {
        self.commit()?;
        room::checkpoint_if_long(self.database, self.connection);
        self.begin()
    }

    pub(super) fn execute(
        &self,
        text: &str,
        params: impl rusqlite::Params,
    ) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(text)?.execute(params)
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
        let made_from = self.number(response.place());
        let place = made_from.filter(|number| self.exists(*number));
        match self.standing(key, response, begun)? {
            Standing::Admitted => {}
            Standing::KeyOutdated => return Ok(0),
            Standing::Outdated => return self.forget_replaced(key, response, place),
        }
        if place.is_none() && made_from.is_some() {
            // What it was made from is not there any more, and something newer may be.
            return Ok(0);
        }
        self.displace(key, response, place)?;
        let length = response.content.len();
        let number = match (place, &response.content) {
            (Some(number), _) => {
                self.set_head(number, key, response, length, response.reuses())?;
                number
            }
            (None, Content::Here(content)) => {
                let (number, salt) = self.insert(key, response, length)?;
                for (chunk, bytes) in content.chunks(CHUNK_BYTES).enumerate() {
                    self.insert_chunk(number, salt, chunk as u64, bytes)?;
                }
                self.count(1);
                number
            }
            (None, Content::Distant(_)) => return Ok(0),
        };
        let place = response.place();
        let given = (Arc::clone(place), number);
        self.outcome.borrow_mut().places.insert(Arc::as_ptr(place), given);
        Ok(1)
    }

    fn exists(&self, number: u64) -> bool {
        let exists =
            self.connection.prepare_cached("SELECT 1 FROM responses WHERE id = ?1 AND state = 1");
        exists.and_then(|mut select| select.exists([number.cast_signed()])).unwrap_or(false)
    }

    /// Deletes what `response` takes the place of, but for `place`, which is its own.
    pub(super) fn displace(
        &mut self,
        key: &CacheKey,
        response: &StoredResponse,
        place: Option<u64>,
    ) -> rusqlite::Result<()> {
        let (mut kept, mut newer_parts) = (0, 1);
        let rows = self.variants(key)?;
        for (number, old) in rows.into_iter().filter(|(number, _)| Some(*number) != place) {
            let goes = old.as_ref().is_none_or(|old| displaces(response, old, newer_parts));
            if goes || kept + 1 >= VARIANTS_MAX {
                self.delete(number)?;
            } else {
                kept += 1;
                newer_parts +=
                    usize::from(old.is_some_and(|old| {
                        old.part.is_some() && old.selecting == response.selecting
                    }));
            }
        }
        Ok(())
    }

    /// What is stored for `key`, the most recent first, without content; `None` for what cannot be read.
    pub(super) fn variants(
        &self,
        key: &CacheKey,
    ) -> rusqlite::Result<Vec<(u64, Option<StoredResponse>)>> {
        let text = "SELECT id, head FROM responses WHERE url = ?1 AND state = 1 ORDER BY stored DESC, id DESC";
        let mut select = self.connection.prepare_cached(text)?;
        let row = |row: &rusqlite::Row<'_>| {
            let head = codec::decode_head(&Bytes::from(row.get::<_, Vec<u8>>(1)?)).ok();
            Ok((row.get(0)?, head.map(|(_, head, _)| StoredResponse::new(head, Bytes::new()))))
        };
        select.query_map([key.as_str()], row)?.collect()
    }

    /// A new row for a response; its number and salt.
    fn insert(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        length: u64,
    ) -> rusqlite::Result<(u64, u64)> {
        let salt = RandomState::new().hash_one(key);
        let text = "INSERT INTO responses (method, state, status, stored, expires, useless, used, hits, \
                    size, content_type, etag, last_modified, selecting, fields, head, url, salt) \
                    VALUES ('GET', 1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
        let row = ResponseRow::of(key, head, length, 0, self.now);
        let (url, signed) = (key.as_str(), salt.cast_signed());
        self.execute(text, &*row.params(&[&url, &signed]))?;
        let number = self.connection.last_insert_rowid().cast_unsigned();
        self.tag(number, head)?;
        Ok((number, salt))
    }

    /// Writes down all that is known of a response but its content, over what was there.
    pub(super) fn set_head(
        &self,
        number: u64,
        key: &CacheKey,
        head: &StoredHead,
        length: u64,
        reuses: u64,
    ) -> rusqlite::Result<()> {
        let text = "UPDATE responses SET state = 1, status = ?1, stored = ?2, expires = ?3, \
                    useless = ?4, used = ?5, hits = ?6, size = ?7, content_type = ?8, etag = ?9, \
                    last_modified = ?10, selecting = ?11, fields = ?12, head = ?13 WHERE id = ?14";
        let row = ResponseRow::of(key, head, length, reuses, self.now);
        self.execute(text, &*row.params(&[&number.cast_signed()]))?;
        self.execute("DELETE FROM tags WHERE response = ?1", [number.cast_signed()])?;
        self.tag(number, head)
    }

    fn tag(&self, number: u64, head: &StoredHead) -> rusqlite::Result<()> {
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

    /// Deletes a response; one that somebody reads is only marked, and deleted later. 1 if it was there.
    pub(super) fn delete(&self, number: u64) -> rusqlite::Result<u64> {
        let id = number.cast_signed();
        let gone = if self.database.is_held(number) {
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
        self.count(-gone.cast_signed());
        Ok(gone as u64)
    }

    /// Deletes many, some in each transaction.
    fn delete_all(&self, numbers: &[u64]) -> rusqlite::Result<u64> {
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

    fn numbers(&self, text: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<u64>> {
        let mut select = self.connection.prepare_cached(text)?;
        select.query_map(params, |row| row.get(0))?.collect()
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
            let head = codec::decode_head(&Bytes::from(row.get::<_, Vec<u8>>(1)?));
            if head.is_ok_and(|(_, head, _)| !head.is_fresh(now)) {
                numbers.push(row.get(0)?);
            }
        }
        Ok(numbers)
    }

    /// Deletes everything but what somebody reads, or is on its way in and will not be let in.
    fn purge_all(&mut self) -> rusqlite::Result<u64> {
        let gone = self.total()?;
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

    pub(super) fn clear_up(&self) -> rusqlite::Result<()> {
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

    /// Deletes what was doomed and is held by nobody any more.
    pub(super) fn delete_doomed(&self) -> rusqlite::Result<()> {
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
