//! A pipe of the system, by which content goes from one socket to another and does not come into the memory of the
//! process. The descriptors alone: whoever fills the pipe or empties it makes the calls.

use std::fmt;
use std::os::fd::OwnedFd;

/// A pipe. It is for one body, so that nothing of another one can be in it.
pub struct BodyPipe {
    /// What was put in first comes out here.
    pub read: OwnedFd,
    /// Here content is put in.
    pub write: OwnedFd,
}

impl fmt::Debug for BodyPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyPipe")
    }
}
