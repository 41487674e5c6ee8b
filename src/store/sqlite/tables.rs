//! What is in the file: its tables, their versions, and whether a file has them.
//!
//! `schema.rs` opens the file, `row.rs` says what the columns of a response are.

use std::sync::Arc;

use rusqlite::Connection;

use crate::policy::digest::Salt;
use crate::store::sqlite::refused::Refused;

/// The schema's version, in `user_version`.
pub(super) const VERSION: i64 = 2;
/// The one before it, which is brought up to date in place.
const PREVIOUS: i64 = 1;
/// In `application_id`: "cpx1".
pub(super) const APPLICATION: i64 = 0x6370_7831;

/// Times are Unix seconds; NULL is never. `state` is 1 for what may be used, 0 for what is on its way in,
/// 2 for what is on its way out. What the program itself reads is `head` (see `codec.rs`), with the content if
/// that is small, and `contents` for all other content; the columns before it say the same to people and to
/// indexes. Numbers of responses begin at the milliseconds of the clock: what is still known in memory by a row
/// of an earlier file must not be taken for one of this.
pub(super) const TABLES: &str = "
CREATE TABLE responses (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    method        TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    status        INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    stored        INTEGER NOT NULL,
    expires       INTEGER,
    useless       INTEGER,
    used          INTEGER NOT NULL,
    hits          INTEGER NOT NULL,
    size          INTEGER NOT NULL,
    salt          INTEGER NOT NULL,
    content_type  TEXT,
    etag          TEXT,
    last_modified TEXT,
    selecting     TEXT,
    fields        TEXT    NOT NULL,
    head          BLOB    NOT NULL
);
CREATE INDEX responses_by_url ON responses (url);
CREATE INDEX responses_by_use ON responses (used);
CREATE INDEX responses_by_uselessness ON responses (useless) WHERE useless IS NOT NULL;
CREATE INDEX responses_by_state ON responses (state) WHERE state <> 1;
CREATE TABLE contents (
    id       INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    content  BLOB    NOT NULL
);
CREATE TABLE tags (
    tag      TEXT    NOT NULL,
    response INTEGER NOT NULL,
    PRIMARY KEY (tag, response)
) WITHOUT ROWID;
CREATE INDEX tags_by_response ON tags (response);
CREATE TABLE salt (id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES ('responses', 0);
INSERT INTO sqlite_sequence VALUES ('responses', CAST(unixepoch('subsec') * 1000 AS INTEGER));
";

/// `file` is another number in each file, `sequence` the last invalidation, `cleared` the last one of
/// everything, and `pruned` the last one that is kept no more. A key is its fingerprint: a client decides how
/// long a key is, and an unsafe request to it must not fill the file. `time` is in Unix milliseconds.
pub(super) const INVALIDATION_TABLES: &str = "
CREATE TABLE invalidations (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    file      INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    cleared   INTEGER NOT NULL,
    pruned    INTEGER NOT NULL,
    keys      INTEGER NOT NULL,
    selectors INTEGER NOT NULL
);
INSERT INTO invalidations VALUES (1, random() & 0x7fffffffffffffff, 0, 0, 0, 0, 0);
CREATE TABLE invalidated_keys (
    sequence INTEGER PRIMARY KEY,
    key      BLOB    NOT NULL UNIQUE
);
CREATE TABLE invalidated_selectors (
    sequence INTEGER PRIMARY KEY,
    selector TEXT    NOT NULL UNIQUE,
    time     INTEGER NOT NULL
);
";

/// The previous schema had counters instead of invalidations. A program that still goes by them gets an error
/// for all that it writes, so that nothing that is invalidated from now on can come back through it.
pub(super) const MIGRATION: &str = "DROP TABLE IF EXISTS generations;";

/// Which tables a file has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tables {
    /// None at all.
    Missing,
    /// Ours, from before there were digests.
    Clear,
    /// Ours, of the previous schema.
    Previous,
    /// Ours.
    Current,
}

/// Does the file have our tables? It may have none at all, but no others.
pub(super) fn check(connection: &Connection) -> Result<Tables, Refused> {
    // One transaction: what another process does between two questions would look like another program's
    // file, or a damaged one.
    let _reading =
        if connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (number("user_version")?, number("application_id")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    match (tables, application, version) {
        // Whatever its numbers: an empty file of any name may be made ours.
        (0, ..) => Ok(Tables::Missing),
        (_, APPLICATION, VERSION) => Ok(Tables::Current),
        (_, APPLICATION, PREVIOUS) if !has_table(connection, "salt")? => Ok(Tables::Clear),
        (_, APPLICATION, PREVIOUS) => Ok(Tables::Previous),
        (_, APPLICATION, version) if version > VERSION => {
            Err(Refused::Newer { found: version, known: VERSION })
        }
        (_, APPLICATION, _) => Err(Refused::Damaged),
        _ => Err(Refused::Foreign),
    }
}

pub(super) fn drop_tables(connection: &Connection) -> rusqlite::Result<()> {
    let text = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut select = connection.prepare(text)?;
    let names: Vec<String> =
        select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in names {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let count = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    connection.query_row(count, [name], |row| row.get(0))
}

/// What digests of credentials in the file are keyed with.
pub(super) fn salt(connection: &Connection) -> Option<Arc<Salt>> {
    let bytes = connection.query_row("SELECT value FROM salt", [], |row| row.get(0)).ok()?;
    Some(Arc::new(Salt::new(bytes)))
}

/// How many responses are stored.
pub(super) fn total(connection: &Connection) -> rusqlite::Result<u64> {
    let mut select =
        connection.prepare_cached("SELECT number FROM totals WHERE name = 'responses'")?;
    select.query_row([], |row| row.get(0))
}
