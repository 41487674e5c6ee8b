//! Content that has to be read piece by piece, by a thread that can wait.

use std::io;

/// Content that is not in memory. Several clients read it at the same time, each at its own place.
pub trait Distant: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;

    /// Is all of it there, as far as can be told without reading it? Waits.
    fn is_whole(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Reads from byte `at` on, and waits for it: at least one byte, unless that is the end. An error
    /// means that the content is lost or damaged; not one wrong byte is given out.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
}
