//! The bounds of the file and of its write-ahead log.

/// The bounds of the file.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimits {
    /// `--cache-disk`: bytes of the file and its write-ahead log.
    pub bytes: u64,
    /// `--cache-size-limit`: number of stored responses.
    pub responses: Option<u64>,
    /// `--max-object-size`: bytes of the largest content.
    pub content_bytes: u64,
}

impl DiskLimits {
    /// The most that the write-ahead log takes: an eighth, at most 16 MiB.
    pub(super) fn log_bytes_max(self) -> u64 {
        // Counted within the limit: an operator gives a partition's size, and the log lies beside the file.
        (self.bytes / 8).min(16 << 20)
    }

    /// What is left for the file.
    pub(super) fn file_bytes_max(self) -> u64 {
        self.bytes - self.log_bytes_max()
    }

    /// The largest content: `--max-object-size`, or a half of the file.
    pub(super) fn content_bytes_max(self) -> u64 {
        // Space is made before content is written, of what has no readers: more than a half may not be had.
        self.content_bytes.min(self.file_bytes_max() / 2)
    }
}
