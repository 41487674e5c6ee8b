//! The ready file: where clients are served, for whoever started the proxy (`--ready-file`).

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::daemon::error::StartError;

/// A file that says where clients are served. It appears all at once, and only when they are.
pub struct ReadyFile {
    /// Where it appears.
    path: PathBuf,
    /// Where it is until then; `None` once it has appeared.
    temporary: Option<PathBuf>,
}

impl ReadyFile {
    /// Writes it beside its place, before clients are let in: a folder that cannot be written to stops
    /// the start.
    pub fn write(path: &Path, local: SocketAddr) -> Result<Self, StartError> {
        // Beside its place, not in the folder for temporary files: only within one file system is a
        // rename atomic.
        let mut temporary = path.as_os_str().to_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        // A rename onto a folder would fail only at the end, when clients are served already.
        let written = if path.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else {
            std::fs::write(&temporary, format!("http://{local}\n"))
        };
        let told = |source| Self::error(path, source);
        written.map_err(told)?;
        Ok(Self { path: path.to_path_buf(), temporary: Some(temporary) })
    }

    /// Puts it in its place: whoever waits for the file sees all of its content, or no file.
    pub fn appear(mut self) -> Result<(), StartError> {
        // Taken out, so that the drop below has nothing left to remove.
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        std::fs::rename(temporary, &self.path).map_err(|source| Self::error(&self.path, source))
    }

    fn error(path: &Path, source: io::Error) -> StartError {
        StartError::File { flag: "--ready-file", path: path.to_path_buf(), source }
    }
}

// A start that fails leaves nothing behind.
impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}
