//! The file: where it is, what is in it, and what is done with one that cannot be used.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::policy::digest::Salt;
use crate::store::salt::random;
use crate::store::sqlite::{Database, DiskLimits, Reading, Trouble, invalidations};

/// The schema's version, in `user_version`.
const VERSION: i64 = 2;
/// The one before it, which is brought up to date in place.
const PREVIOUS: i64 = 1;
/// In `application_id`: "cpx1".
const APPLICATION: i64 = 0x6370_7831;
/// A page of the file.
pub(super) const PAGE_BYTES: u64 = 4096;
/// For how long a connection waits for another process, if nobody says otherwise.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(5);
/// Where nobody says when a lock is free, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Times are Unix seconds; NULL is never. `state` is 1 for what may be used, 0 for what is on its way in,
/// 2 for what is on its way out. What the program itself reads is `head` (see `codec.rs`); the columns
/// before it say the same to people and to indexes. Numbers of responses begin at the milliseconds of the
/// clock: what is still known in memory by a row of an earlier file must not be taken for one of this.
const TABLES: &str = "
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

/// The previous schema had counters instead of invalidations. A program that still goes by them gets an error
/// for all that it writes, so that nothing that is invalidated from now on can come back through it.
const MIGRATION: &str = "DROP TABLE IF EXISTS generations;";

/// Why the file cannot be used: one line.
#[derive(Debug)]
pub struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the file is if nothing is said: `$XDG_CACHE_HOME/caching-proxy/cache.db`, else the same below
/// `~/.cache`. `None` if neither variable is set.
pub fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path is to be ignored, says the XDG base directory specification.
    let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("caching-proxy").join("cache.db"))
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// By several connections, and several processes.
    pub is_shared: bool,
    /// For how long each of them waits for a lock that another one holds.
    pub busy_max: Duration,
}

/// Opens or makes the file. What may pass is no error: a full disk, a lock that another process holds. Then
/// the file is read, if it can be, and opened for writing later (`room.rs`).
pub(super) fn open(
    path: &Path,
    limits: DiskLimits,
    busy_max: Duration,
) -> Result<Database, OpenError> {
    let is_shared = !is_on_a_network(path);
    let opening = Opening { is_shared, busy_max };
    let database = |writer: Option<Connection>, salt, is_read_only| Database {
        path: path.to_path_buf(),
        limits,
        opening: Opening { is_shared: is_shared || is_read_only, busy_max },
        is_read_only,
        writer: Mutex::new(writer),
        readers: Mutex::default(),
        epoch: AtomicU64::new(0),
        is_damaged: AtomicBool::new(false),
        held: Mutex::new(HashMap::new()),
        doomed: Mutex::default(),
        evicted: AtomicU64::new(0),
        salt: Mutex::new(salt),
        inode: AtomicU64::new(inode(path)),
        trouble: Mutex::default(),
    };
    let refused = match open_or_make(path, opening, None) {
        Ok(writer) => {
            let salt = salt(&writer);
            return Ok(database(Some(writer), salt, false));
        }
        Err(refused) => refused,
    };
    if matches!(refused, Refused::ReadOnly(_))
        && let Ok(reader) = open_reader(path, true, busy_max)
        && matches!(check(&reader), Ok(Tables::Current | Tables::Previous))
    {
        log::warn!("store {}: cannot be written; what is in it is used as it is", path.display());
        return Ok(database(None, salt(&reader), true));
    }
    if !refused.may_pass(path) {
        return Err(refused.told(path));
    }
    let (reading, salt) = readable(path, opening);
    let database = database(None, salt, false);
    *database.trouble.lock() = Some(Trouble { why: refused.why(), reading });
    Ok(database)
}

/// Opens the file for writing; makes it, and its folder, if it is not there, and makes it anew if it is
/// damaged. `damaged` is the number of a file that is known to be.
///
/// One process at a time: else one would move away, as damaged, what another has just made anew.
pub(super) fn open_or_make(
    path: &Path,
    opening: Opening,
    damaged: Option<u64>,
) -> Result<Connection, Refused> {
    let folder = folder_of(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Refused::Folder)?;
    let locked = lock_folder(folder, opening.busy_max);
    if inode(path) == 0 && locked.is_ok() {
        // What a file that was taken away has left behind is no part of the new one.
        for ending in ["-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(path, ending));
        }
    }
    if damaged.is_none_or(|number| number != inode(path)) {
        match open_writer(path, opening) {
            Err(Refused::Damaged) => {}
            opened => return opened,
        }
    }
    let _locked = locked?;
    set_aside(path)?;
    open_writer(path, opening)
}

/// The folder of the file.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Locks the folder until it is dropped, where the file system can do that; an error if it takes too long.
fn lock_folder(folder: &Path, busy_max: Duration) -> Result<Option<fs::File>, Refused> {
    let Ok(file) = fs::File::open(folder) else { return Ok(None) };
    let deadline = Instant::now() + busy_max;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(fs::TryLockError::Error(_)) => return Ok(None),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Refused::Other(busy()));
            }
            Err(fs::TryLockError::WouldBlock) => thread::sleep(RETRY_AFTER),
        }
    }
}

/// The file's number on its file system; 0 if it is not there.
pub(super) fn inode(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.ino())
}

/// What can be read of a file that cannot be opened for writing now, and its salt.
pub(super) fn readable(path: &Path, opening: Opening) -> (Reading, Option<Arc<Salt>>) {
    let read = |is_alone| {
        let reader = open_reader(path, is_alone, RETRY_AFTER).ok()?;
        matches!(check(&reader), Ok(Tables::Current)).then(|| salt(&reader))
    };
    // Where there is but one connection, nobody reads before it is there.
    if !opening.is_shared {
        return (Reading::Nothing, None);
    }
    if let Some(salt) = read(false) {
        return (Reading::Shared, salt);
    }
    // Readers share an index of the log. On a full disk there is no room for it; but if there is no log
    // either, nobody writes.
    if has_log(path) {
        return (Reading::Nothing, None);
    }
    read(true).map_or((Reading::Nothing, None), |salt| (Reading::Alone, salt))
}

/// Is there anything in the write-ahead log?
pub(super) fn has_log(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|found| found.len() > 0)
}

fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)
}

/// What digests of credentials in the file are keyed with.
pub(super) fn salt(connection: &Connection) -> Option<Arc<Salt>> {
    let bytes = connection.query_row("SELECT value FROM salt", [], |row| row.get(0)).ok()?;
    Some(Arc::new(Salt::new(bytes)))
}

/// Why a file is not opened for writing.
pub(super) enum Refused {
    /// It is no database any more, or one of an older schema.
    Damaged,
    /// It can be read only, or not even that.
    ReadOnly(rusqlite::Error),
    /// It has another program's application id.
    Foreign,
    /// Its schema is newer than this program.
    Newer(i64),
    /// Its folder is not there, and cannot be made.
    Folder(io::Error),
    /// It is damaged, and cannot be moved out of the way.
    InTheWay(io::Error),
    /// Anything else: it may pass.
    Other(rusqlite::Error),
}

impl Refused {
    /// Is it something that may pass by itself, as a full disk or another process's lock?
    fn may_pass(&self, path: &Path) -> bool {
        match self {
            Self::Other(_) => true,
            Self::Folder(error) | Self::InTheWay(error) => passes(error),
            // SQLite does not tell a file that may not be opened from one that cannot be just now.
            Self::ReadOnly(_) => {
                let mut options = fs::OpenOptions::new();
                let opened = options.read(true).write(true).create(true).truncate(false).open(path);
                opened.is_err_and(|error| passes(&error))
            }
            Self::Damaged | Self::Foreign | Self::Newer(_) => false,
        }
    }

    /// The same as [`Refused::told`], without the path.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Damaged => "damaged, and cannot be made anew".to_string(),
            Self::ReadOnly(error) | Self::Other(error) => explain(error),
            Self::Foreign => "a database of another program; choose another path".to_string(),
            Self::Newer(version) => format!(
                "written by a newer version of this program (schema {version}, this one knows {VERSION}); \
                 use that version, or another path"
            ),
            Self::Folder(error) => {
                format!("its folder cannot be made: {error}; choose another path")
            }
            Self::InTheWay(error) => format!("damaged, and {error}"),
        }
    }

    /// One line.
    pub(super) fn told(&self, path: &Path) -> OpenError {
        OpenError(format!("{}: {}", path.display(), self.why()))
    }
}

/// Does an error of the file system pass by itself?
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ResourceBusy, StorageFull, TimedOut};
    matches!(error.kind(), StorageFull | QuotaExceeded | ResourceBusy | TimedOut)
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::ReadOnly(error)
            }
            _ => Self::Other(error),
        }
    }
}

/// Opens the file for the writer, and makes its tables, or brings them up to date. What a file holds from before
/// there were digests cannot be read any more, and may be credentials in clear: it is wiped, in the
/// transaction in which the new tables are made, so that of several processes one does it.
fn open_writer(path: &Path, opening: Opening) -> Result<Connection, Refused> {
    let deadline = Instant::now() + opening.busy_max;
    loop {
        match try_writer(path, opening) {
            // SQLite itself waits for a lock, but not for the one that changes the kind of journal.
            Err(Refused::Other(error)) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(RETRY_AFTER);
            }
            opened => return opened,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn try_writer(path: &Path, opening: Opening) -> Result<Connection, Refused> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(opening.busy_max)?;
    // Before anything is changed.
    if check(&connection)? == Tables::Clear {
        connection.pragma_update(None, "secure_delete", true)?;
    }
    connection.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    if opening.is_shared {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    } else {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "TRUNCATE")?;
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // `room.rs` decides when.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.set_prepared_statement_cache_capacity(32);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been quicker.
    let found = check(&transaction)?;
    match found {
        Tables::Current => {}
        Tables::Previous => transaction.execute_batch(MIGRATION)?,
        Tables::Missing | Tables::Clear => {
            drop_tables(&transaction)?;
            transaction.execute_batch(TABLES)?;
            transaction.execute("INSERT INTO salt VALUES (1, ?1)", [random().bytes()])?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
        }
    }
    if found != Tables::Current {
        transaction.execute_batch(invalidations::TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    if found == Tables::Clear {
        connection.pragma_update(None, "secure_delete", false)?;
        // The log still has the old pages; other processes may keep it from going, for now.
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        log::warn!("store {}: of an older version; its contents are wiped", path.display());
    }
    Ok(connection)
}

fn drop_tables(connection: &Connection) -> rusqlite::Result<()> {
    let text = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut select = connection.prepare(text)?;
    let names: Vec<String> =
        select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in names {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}

/// Which tables a file has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tables {
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
fn check(connection: &Connection) -> Result<Tables, Refused> {
    // One transaction: what another process does between two questions would look like another program's
    // file, or a damaged one.
    let _reading =
        if connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (number("user_version")?, number("application_id")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    match (tables, application, version) {
        (0, ..) => Ok(Tables::Missing),
        (_, APPLICATION, VERSION) => Ok(Tables::Current),
        (_, APPLICATION, PREVIOUS) if !has_table(connection, "salt")? => Ok(Tables::Clear),
        (_, APPLICATION, PREVIOUS) => Ok(Tables::Previous),
        (_, APPLICATION, version) if version > VERSION => Err(Refused::Newer(version)),
        (_, APPLICATION, _) => Err(Refused::Damaged),
        _ => Err(Refused::Foreign),
    }
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let count = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    connection.query_row(count, [name], |row| row.get(0))
}

/// A connection that reads. `is_alone` says that nobody can write, so that not even a lock is taken.
pub(super) fn open_reader(
    path: &Path,
    is_alone: bool,
    busy_max: Duration,
) -> rusqlite::Result<Connection> {
    let connection = if is_alone {
        let escaped: String =
            path.to_string_lossy().chars().fold(String::new(), |mut text, letter| {
                match letter {
                    '%' => text.push_str("%25"),
                    '?' => text.push_str("%3f"),
                    '#' => text.push_str("%23"),
                    letter => text.push(letter),
                }
                text
            });
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?
    } else {
        // Not read-only: the first connection after a crash has to recover the log.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)?
    };
    connection.busy_timeout(busy_max)?;
    connection.pragma_update(None, "cache_size", -256)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

/// Moves a file that cannot be used out of the way; it may not have been ours.
fn set_aside(path: &Path) -> Result<(), Refused> {
    let aside = beside(path, ".damaged");
    let moved = fs::rename(path, &aside);
    for ending in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(beside(path, ending));
    }
    moved.map_err(Refused::InTheWay)?;
    log::warn!(
        "store {}: damaged or of an older version; begun anew, the old file is {}",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// The file of the same name with this ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Is the file on a file system where locks or shared memory between processes cannot be trusted?
fn is_on_a_network(path: &Path) -> bool {
    const NETWORKS: [i64; 7] = [
        0x6969,      // NFS
        0x517B,      // SMB
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB2
        0x0102_1997, // 9P
        0x6573_5546, // FUSE, virtiofs
        0x5346_414F, // AFS
    ];
    // The folder may have to be made first.
    let mut folders = folder_of(path).ancestors();
    let Some(found) = folders.find_map(|folder| rustix::fs::statfs(folder).ok()) else {
        return false;
    };
    #[allow(clippy::useless_conversion, reason = "its type differs by target")]
    let kind = i64::from(found.f_type);
    let networked = NETWORKS.contains(&kind);
    if networked {
        log::info!("store {}: on a network; no other process can use it meanwhile", path.display());
    }
    networked
}

/// An error of SQLite with what to do about it.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full; see --cache-disk".to_string(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds it".to_string()
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "cannot be opened or written; check its folder's permissions, or choose another path"
                .to_string()
        }
        Some(ErrorCode::SystemIoFailure) => format!("{error}; is the disk full?"),
        _ => error.to_string(),
    }
}
