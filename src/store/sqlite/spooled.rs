//! Content that comes bit by bit, on its way into the file: a row that no lookup finds (`state` is 0) until all
//! of it is there.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension, params};

use crate::policy::key::CacheKey;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::Stamp;
use crate::store::spooled::Spooled;
use crate::store::sqlite::batch::SqliteBatch;
use crate::store::sqlite::database::CHUNKS_MAX;
use crate::store::sqlite::invalidations::Standing;
use crate::store::sqlite::row::{RowContent, seconds};

impl SqliteBatch<'_> {
    /// A row for what is on its way in.
    fn insert_empty(&self, key: &CacheKey) -> rusqlite::Result<(u64, u64)> {
        let salt = RandomState::new().hash_one(key);
        let now = seconds(self.now);
        self.execute(
            "INSERT INTO responses (method, url, status, state, stored, used, hits, size, salt, fields, head) \
             VALUES ('GET', ?1, 0, 0, ?2, ?2, 0, 0, ?3, '', x'')",
            params![key.as_str(), now, salt.cast_signed()],
        )?;
        Ok((self.connection.last_insert_rowid().cast_unsigned(), salt))
    }

    /// A piece of content that comes bit by bit.
    pub(super) fn chunk(&mut self, spooled: &Arc<Spooled>, bytes: &Bytes) -> rusqlite::Result<u64> {
        let (number, salt) = if let Some(place) = spooled.place() {
            place
        } else {
            let (number, salt) = self.insert_empty(spooled.key())?;
            // Its length is not known yet; `Spooled` keeps its readers from reading further than it has come.
            spooled.begun(number, salt, self.database.content(number, salt, u64::MAX));
            (number, salt)
        };
        let chunk = spooled.next_chunk();
        // Nothing is grown by it, so the end finds bytes missing, and the body is cut.
        if chunk >= CHUNKS_MAX {
            return Ok(0);
        }
        self.insert_chunk(number, salt, chunk, bytes)?;
        // Readers have connections of their own, and see the piece once it is committed.
        self.outcome.borrow_mut().grown.push((Arc::clone(spooled), bytes.len() as u64));
        Ok(1)
    }

    pub(super) fn whole(
        &mut self,
        spooled: &Arc<Spooled>,
        head: &StoredHead,
        begun: Option<Stamp>,
    ) -> rusqlite::Result<u64> {
        let Some((number, _)) = spooled.place() else { return Ok(0) };
        let key = spooled.key();
        let standing = begun.map(|begun| self.standing(key, head, begun)).transpose()?;
        if standing != Some(Standing::Admitted) {
            // Its readers read to the end; it is deleted when there are none any more. Deleted at once, it
            // broke off their downloads.
            self.database.doom(number);
            return Ok(0);
        }
        let arriving = self.connection.query_row(
            "SELECT 1 FROM responses WHERE id = ?1 AND state = 0",
            [number.cast_signed()],
            |_| Ok(()),
        );
        // A purge of everything, or another process that took it for orphaned, has deleted the row.
        if arriving.optional()?.is_none() {
            return Ok(0);
        }
        // Its last pieces may be in this very transaction, and not grown yet.
        let coming: u64 = self
            .outcome
            .borrow()
            .grown
            .iter()
            .filter(|(other, _)| Arc::ptr_eq(other, spooled))
            .map(|(_, bytes)| bytes)
            .sum();
        let length = spooled.bytes() + coming;
        let response = StoredResponse::new(head.clone(), Bytes::new());
        self.displace(key, &response, Some(number))?;
        self.set_head(number, key, head, RowContent::apart(length), 0)?;
        self.count(1);
        Ok(1)
    }

    /// Deletes the row of what will not come, if it is its own: a transaction that was rolled back has given its
    /// number to another.
    pub(super) fn abandon_spooled(&self, spooled: &Spooled) -> rusqlite::Result<u64> {
        let Some((number, salt)) = spooled.place() else { return Ok(0) };
        let text = "SELECT 1 FROM responses WHERE id = ?1 AND salt = ?2";
        let is_own = self
            .connection
            .prepare_cached(text)?
            .exists(params![number.cast_signed(), salt.cast_signed()])?;
        if is_own { self.abandon(number) } else { Ok(0) }
    }
}
