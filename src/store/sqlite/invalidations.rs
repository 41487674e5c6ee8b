//! What was invalidated, and in which order: whatever process asks or invalidates, a response that was asked
//! for before is not stored after it, and every other response is.
//!
//! Each invalidation has a number, its sequence. A request notes the last one when it begins
//! ([`InvalidationState::stamp`]); before its response is stored, later ones are looked at
//! ([`SqliteBatch::standing`]). Of each key and each selector the last invalidation is kept, and both are
//! bounded: what began before one that is kept no more counts as outdated. A change and its entry here are one
//! transaction, or its entry is in the first of several.

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::policy::digest::fingerprint;
use crate::policy::key::{CacheKey, Glob};
use crate::policy::partial::outdates;
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::Stamp;
use crate::store::sqlite::batch::SqliteBatch;
use crate::store::sqlite::limits::DiskLimits;

/// The most keys and selectors that are kept; fewer in a small file.
const KEYS_MAX: u64 = 10_000;
const SELECTORS_MAX: u64 = 1_000;
/// A longer selector counts as all.
const SELECTOR_BYTES_MAX: usize = 1024;
/// Bytes in the file of a key and of the longest selector, each in a table and in its index.
const KEY_BYTES: u64 = 128;
const SELECTOR_BYTES: u64 = 2560;

/// May a response be stored, as far as invalidations go?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// Nothing that selects it was invalidated since its request began.
    Admitted,
    /// All responses for its key were: what is stored for it now was asked for later.
    KeyOutdated,
    /// It was, by its fields (or that is not known any more): what it has replaced elsewhere may still be
    /// stored.
    Outdated,
}

/// The one row of `invalidations`.
pub(super) struct InvalidationState {
    file: u64,
    sequence: u64,
    cleared: u64,
    pruned: u64,
    keys: u64,
    selectors: u64,
}

impl InvalidationState {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let text = "SELECT file, sequence, cleared, pruned, keys, selectors FROM invalidations";
        connection.prepare_cached(text)?.query_row([], |row| {
            Ok(Self {
                file: row.get(0)?,
                sequence: row.get(1)?,
                cleared: row.get(2)?,
                pruned: row.get(3)?,
                keys: row.get(4)?,
                selectors: row.get(5)?,
            })
        })
    }

    /// What a request notes that begins now.
    pub(super) fn stamp(&self) -> [u64; 4] {
        [self.file, self.sequence, 0, 0]
    }

    /// The last invalidation before the request of this stamp. Nobody knows what came before it in a file that
    /// was made meanwhile, so all of that one's count.
    fn last_before(&self, stamp: [u64; 4]) -> u64 {
        if stamp[0] == self.file { stamp[1] } else { 0 }
    }
}

impl SqliteBatch<'_> {
    /// May a response of this head be stored whose request began then?
    ///
    /// Called in the transaction that stores it: SQLite lets no other process invalidate before that is committed.
    pub(super) fn standing(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        begun: Stamp,
    ) -> rusqlite::Result<Standing> {
        let Some(stamp) = begun.numbers else { return Ok(Standing::Admitted) };
        let state = InvalidationState::read(self.connection)?;
        let before = state.last_before(stamp);
        // The usual case, and one row read for it.
        if before >= state.sequence {
            return Ok(Standing::Admitted);
        }
        if before < state.cleared || self.is_key_outdated(key, before)? {
            return Ok(Standing::KeyOutdated);
        }
        let by_selector = self.standing_by_selectors(key, head, before)?;
        // An invalidation that is kept no more may have concerned it. Outdated and not KeyOutdated: what is
        // stored now may be older than that invalidation.
        Ok(if by_selector == Standing::Admitted && before < state.pruned {
            Standing::Outdated
        } else {
            by_selector
        })
    }

    fn is_key_outdated(&self, key: &CacheKey, before: u64) -> rusqlite::Result<bool> {
        let text = "SELECT 1 FROM invalidated_keys WHERE key = ?1 AND sequence > ?2";
        let mut select = self.connection.prepare_cached(text)?;
        select.exists(params![fingerprint(key.as_str().as_bytes()), before.cast_signed()])
    }

    fn standing_by_selectors(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        before: u64,
    ) -> rusqlite::Result<Standing> {
        let text = "SELECT selector, time FROM invalidated_selectors WHERE sequence > ?1";
        let mut select = self.connection.prepare_cached(text)?;
        let mut rows = select.query([before.cast_signed()])?;
        let mut standing = Standing::Admitted;
        while let Some(row) = rows.next()? {
            let now = Timestamp(row.get::<_, i64>(1)?.cast_unsigned());
            match read_selector(row.get_ref(0)?.as_bytes().unwrap_or_default()) {
                Some(selector) if selector.selects_key(key.as_str()) == Some(true) => {
                    return Ok(Standing::KeyOutdated);
                }
                Some(selector) if !selector.selects(key.as_str(), head, now) => {}
                // Selected by its fields; or another version has written what this one cannot read.
                _ => standing = Standing::Outdated,
            }
        }
        Ok(standing)
    }

    /// Deletes what a response that is not stored has replaced in memory, `place` among it: an older response
    /// must not come back when the newer one is there no more.
    pub(super) fn forget_replaced(
        &self,
        key: &CacheKey,
        response: &StoredResponse,
        place: Option<u64>,
    ) -> rusqlite::Result<u64> {
        for (number, old) in self.variants(key)? {
            let is_replaced = old.is_none_or(|old| outdates(response, &old));
            if is_replaced || Some(number) == place {
                self.delete(number)?;
            }
        }
        Ok(0)
    }

    /// All responses for `key` are invalidated. To be called in the transaction that begins to delete them.
    pub(super) fn note_key(&self, key: &CacheKey) -> rusqlite::Result<()> {
        let mut state = InvalidationState::read(self.connection)?;
        state.sequence += 1;
        // The last one of a key says all: it is newer for every request that an earlier one is newer for.
        let key = fingerprint(key.as_str().as_bytes());
        let known = self.execute("DELETE FROM invalidated_keys WHERE key = ?1", [key])?;
        let text = "INSERT INTO invalidated_keys (sequence, key) VALUES (?1, ?2)";
        self.execute(text, params![state.sequence.cast_signed(), key])?;
        state.keys = (state.keys + 1).saturating_sub(known as u64);
        let most = self.database.limits.keys_max();
        let pruned = self.prune("invalidated_keys", &mut state.keys, most)?;
        self.write(&InvalidationState { pruned: pruned.max(state.pruned), ..state })
    }

    /// What `selector` selects at `now` is purged. To be called in the transaction that begins to delete it.
    pub(super) fn note_selector(
        &self,
        selector: &Selector,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        if let Selector::Uri(uri) = selector {
            return self.note_key(&CacheKey::from(uri.as_str()));
        }
        let mut state = InvalidationState::read(self.connection)?;
        state.sequence += 1;
        if *selector == Selector::All {
            // That goes for all that came before: no entry says more.
            self.execute("DELETE FROM invalidated_keys", [])?;
            self.execute("DELETE FROM invalidated_selectors", [])?;
            let cleared = state.sequence;
            return self.write(&InvalidationState { cleared, keys: 0, selectors: 0, ..state });
        }
        let text = selector_text(selector);
        let delete = "DELETE FROM invalidated_selectors WHERE selector = ?1 RETURNING time";
        let known = self.connection.prepare_cached(delete)?.query_row([&text], |row| row.get(0));
        let known: Option<i64> = known.optional()?;
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let insert =
            "INSERT INTO invalidated_selectors (sequence, selector, time) VALUES (?1, ?2, ?3)";
        // What was stale at the later of two moments was so at both.
        let time = known.map_or(now, |known| known.max(now));
        self.execute(insert, params![state.sequence.cast_signed(), text, time])?;
        state.selectors += u64::from(known.is_none());
        let most = self.database.limits.selectors_max();
        let pruned = self.prune("invalidated_selectors", &mut state.selectors, most)?;
        self.write(&InvalidationState { pruned: pruned.max(state.pruned), ..state })
    }

    /// Deletes the oldest of `count` rows until there are `most`; the last sequence that went, or 0.
    fn prune(&self, table: &str, count: &mut u64, most: u64) -> rusqlite::Result<u64> {
        let excess = count.saturating_sub(most);
        if excess == 0 {
            return Ok(0);
        }
        let text = format!("SELECT sequence FROM {table} ORDER BY sequence LIMIT 1 OFFSET ?1");
        let mut select = self.connection.prepare_cached(&text)?;
        let last: Option<u64> = select.query_row([excess - 1], |row| row.get(0)).optional()?;
        // Whole sequences go, the oldest first, so that one number says what is kept no more.
        let last = last.unwrap_or(0);
        let text = format!("DELETE FROM {table} WHERE sequence <= ?1");
        let gone = self.execute(&text, [last.cast_signed()])?;
        *count = count.saturating_sub(gone as u64);
        Ok(last)
    }

    fn write(&self, state: &InvalidationState) -> rusqlite::Result<()> {
        let text = "UPDATE invalidations SET sequence = ?1, cleared = ?2, pruned = ?3, keys = ?4, \
                    selectors = ?5";
        let InvalidationState { sequence, cleared, pruned, keys, selectors, .. } = *state;
        let numbers = [sequence, cleared, pruned, keys, selectors].map(u64::cast_signed);
        self.execute(text, numbers).map(drop)
    }
}

impl DiskLimits {
    /// The most keys: a sixteenth of the file at most.
    fn keys_max(self) -> u64 {
        (self.bytes / 16 / KEY_BYTES).min(KEYS_MAX)
    }

    fn selectors_max(self) -> u64 {
        (self.bytes / 16 / SELECTOR_BYTES).min(SELECTORS_MAX)
    }
}

/// A selector as it is written down: a word, and for most a space and a text. Other versions read it, too.
fn selector_text(selector: &Selector) -> String {
    let text = match selector {
        Selector::All => "all".to_string(),
        Selector::Uri(uri) => format!("uri {uri}"),
        Selector::Prefix(prefix) => format!("prefix {prefix}"),
        Selector::Match(glob) => format!("match {glob}"),
        Selector::Tag(tag) => format!("tag {tag}"),
        Selector::Stale => "stale".to_string(),
    };
    if text.len() > SELECTOR_BYTES_MAX { "all".to_string() } else { text }
}

/// The selector; `None` if another version has written it, or it means all: what is stored may be anything.
fn read_selector(text: &[u8]) -> Option<Selector> {
    let text = std::str::from_utf8(text).ok()?;
    Some(match text.split_once(' ') {
        None if text == "stale" => Selector::Stale,
        Some(("uri", rest)) => Selector::Uri(rest.to_string()),
        Some(("prefix", rest)) => Selector::Prefix(rest.to_string()),
        Some(("match", rest)) => Selector::Match(Glob::new(rest)),
        Some(("tag", rest)) => Selector::Tag(rest.to_string()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_and_read() {
        for selector in [
            Selector::Stale,
            Selector::Uri("http://o/ü".into()),
            Selector::Prefix("http://o/ a".into()),
            Selector::Prefix(String::new()),
            Selector::Match(Glob::new("*.png")),
            Selector::Tag("t".into()),
        ] {
            assert_eq!(read_selector(selector_text(&selector).as_bytes()), Some(selector));
        }
    }

    #[test]
    fn a_selector_that_cannot_be_read_counts_as_all() {
        let long = selector_text(&Selector::Prefix("x".repeat(SELECTOR_BYTES_MAX)));
        for text in [&long[..], "all", "", "stale ", "regex a.*b", "tag", "Tag a"] {
            assert_eq!(read_selector(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read_selector(b"tag \xff"), None);
    }

    #[test]
    fn invalidations_take_a_small_part_of_a_small_file() {
        let limits = |bytes| DiskLimits { bytes, responses: None, content_bytes: 0 };
        let counts = |bytes| (limits(bytes).keys_max(), limits(bytes).selectors_max());
        assert_eq!(counts(1 << 20), (512, 25));
        assert_eq!(counts(1 << 30), (KEYS_MAX, SELECTORS_MAX));
    }
}
