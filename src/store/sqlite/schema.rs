//! Opening the file: where it is, how it is made, and what is done with one that cannot be used.
//!
//! Several processes may do this at once. Each look at a file is one transaction, and a file is made anew by
//! one process at a time: the lock of its folder says which. What is in it is in `tables.rs`.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::policy::digest::Salt;
use crate::store::salt::random;
use crate::store::sqlite::refused::Refused;
use crate::store::sqlite::tables::{
    APPLICATION, INVALIDATION_TABLES, MIGRATION, TABLES, Tables, VERSION, check, drop_tables, salt,
};

/// A page of the file.
pub(super) const PAGE_BYTES: u64 = 4096;
/// For how long a connection waits for another process, by default (`--store-lock-timeout`).
pub(super) const BUSY_MAX: Duration = Duration::from_secs(5);
/// Pages that a connection for reading keeps in memory, in KiB: the upper parts of the indexes.
const READER_KIB: i64 = 1024;
/// A lock that cannot be waited for is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(10);

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

/// What is read of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// All, and others may write meanwhile.
    Shared,
    /// All, as long as nobody writes.
    Alone,
    /// Nothing.
    Nothing,
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
    // Held while a file is made anew, and no longer. That it could not be had is no error where the file opens.
    let locked = lock_folder(folder, opening.busy_max);
    if inode(path) == 0 && locked.is_ok() {
        // What a file that was taken away has left behind is no part of the new one.
        for ending in ["-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(path, ending));
        }
    }
    if damaged.is_none_or(|number| number != inode(path)) {
        match open_writer(path, opening) {
            // Whatever else is there under this name is somebody's: it was moved away, and the next time lost.
            Err(Refused::Damaged) if !was_database(path) => return Err(Refused::NoDatabase),
            Err(Refused::Damaged) => {}
            opened => return opened,
        }
    }
    let _locked = locked?;
    set_aside(path)?;
    open_writer(path, opening)
}

/// Is a file that is no database what a crash may have left of one? It begins as they do, or with zeros.
fn was_database(path: &Path) -> bool {
    const BEGINNING: &[u8; 16] = b"SQLite format 3\0";
    let mut found = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(BEGINNING.len() as u64).read_to_end(&mut found));
    read.is_ok() && (found == BEGINNING || found.iter().all(|byte| *byte == 0))
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
    // Where there is but one connection, nothing is read before it is open.
    if !opening.is_shared {
        return (Reading::Nothing, None);
    }
    if let Some(salt) = read(false) {
        return (Reading::Shared, salt);
    }
    // Readers share an index of the log. On a full disk there is no space for it; but if there is no
    // log either, no process writes.
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
    // `checkpoint.rs` decides when.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -4096)?;
    keep_plans(&connection)?;
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
        transaction.execute_batch(INVALIDATION_TABLES)?;
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

/// A connection that reads. `is_alone` says that no process writes, so that not even a lock is taken.
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
    connection.pragma_update(None, "cache_size", -READER_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

/// A statement is prepared once, whatever values it is given. Else SQLite plans anew for each value that a partial
/// index may depend on, which took longer than the look that was planned.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Moves a database that cannot be used out of the way.
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
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Is the file on a file system where locks or shared memory between processes cannot be trusted?
pub(super) fn is_on_a_network(path: &Path) -> bool {
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
