//! Why a file cannot be opened or written: what may pass by itself, and what an operator reads of it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

/// Why the file cannot be used: one line.
#[derive(Debug)]
pub struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a file is not opened for writing.
pub(super) enum Refused {
    /// It is no database any more, or one of an older schema.
    Damaged,
    /// It can be read only, or not even that.
    ReadOnly(rusqlite::Error),
    /// It is a file of another kind.
    NoDatabase,
    /// It has another program's application id.
    Foreign,
    /// Its schema is newer than this program.
    Newer {
        /// The version of its schema.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// Its folder is not there, and cannot be made.
    Folder(io::Error),
    /// It is damaged, and cannot be moved out of the way.
    InTheWay(io::Error),
    /// Anything else: it may pass.
    Other(rusqlite::Error),
}

impl Refused {
    /// Is it something that may pass by itself, as a full disk or another process's lock?
    pub(super) fn may_pass(&self, path: &Path) -> bool {
        match self {
            Self::Other(_) => true,
            Self::Folder(error) | Self::InTheWay(error) => passes(error),
            // SQLite does not tell a file that may not be opened from one that cannot be just now.
            Self::ReadOnly(_) => {
                let mut options = fs::OpenOptions::new();
                let opened = options.read(true).write(true).create(true).truncate(false).open(path);
                opened.is_err_and(|error| passes(&error))
            }
            Self::Damaged | Self::NoDatabase | Self::Foreign | Self::Newer { .. } => false,
        }
    }

    /// The same as [`Refused::in_one_line`], without the path.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Damaged => "damaged, and cannot be made anew".to_string(),
            Self::ReadOnly(error) | Self::Other(error) => explain(error),
            Self::NoDatabase => {
                "a file that is no database, and is left as it is; choose another path, or remove it".to_string()
            }
            Self::Foreign => "a database of another program; choose another path".to_string(),
            Self::Newer { found, known } => format!(
                "written by a newer version of this program (schema {found}, this one knows {known}); \
                 use that version, or another path"
            ),
            Self::Folder(error) => {
                format!("its folder cannot be made: {error}; choose another path")
            }
            Self::InTheWay(error) => format!("damaged, and {error}"),
        }
    }

    /// One line.
    pub(super) fn in_one_line(&self, path: &Path) -> OpenError {
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
        // SQLite says "disk I/O error" for a full disk where it cannot tell.
        Some(ErrorCode::SystemIoFailure) => format!("{error}; is the disk full?"),
        _ => error.to_string(),
    }
}
