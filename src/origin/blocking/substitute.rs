//! The bytes that ureq reads in the place of a response's own, and what is to be read next. RFC 9112 §7.1.
//!
//! `transport.rs` decides what they are. Chunks are taken apart by `message`'s decoder, which is strict, and
//! put together again without extensions and trailers, because ureq's own reader takes what is malformed
//! and refuses what is not.

use std::io::Write;

use ureq::unversioned::transport::Buffers;

use crate::message::chunked::{Decoder, Piece};

/// What the next bytes from the origin server are.
#[derive(Debug)]
pub(in crate::origin) enum ReadStage {
    Head,
    /// Content that ureq counts by itself, or none. What there is beyond it spoils the connection: ureq
    /// looks for that before it puts one into its pool.
    Counted,
    /// Content that ends with the connection.
    UntilClose,
    Chunked(Decoder),
    /// What comes cannot be read.
    Broken,
}

/// Adds to `substitute` what the chunks hold, in chunks that ureq can read. The last one is added when all of
/// the coding has come, its trailer section included: until then the content may be cut.
pub(in crate::origin) fn reframe_chunks(
    stage: &mut ReadStage,
    mut bytes: &[u8],
    substitute: &mut Substitute,
) {
    if matches!(stage, ReadStage::Broken) {
        return;
    }
    while let ReadStage::Chunked(decoder) = stage {
        let Ok((used, piece)) = decoder.next(bytes, usize::MAX) else {
            // What stands before it is content all the same, however it was cut.
            *stage = ReadStage::Broken;
            return;
        };
        bytes = &bytes[used..];
        match piece {
            Piece::Data(data) => {
                // Writing to a vector cannot fail.
                let _ = write!(substitute.bytes, "{:x}\r\n", data.len());
                substitute.extend(data);
                substitute.extend(b"\r\n");
            }
            Piece::More => return,
            Piece::End => {
                // The trailer section is dropped (RFC 9110 §6.5.1): nobody here has a use for its fields.
                substitute.extend(b"0\r\n\r\n");
                *stage = ReadStage::Counted;
            }
        }
    }
    // What there is beyond the end stays where ureq finds it, and spoils the connection.
    substitute.extend(bytes);
}

/// Bytes made for ureq to read. It writes nothing while there are any.
#[derive(Debug, Default)]
pub(in crate::origin) struct Substitute {
    bytes: Vec<u8>,
    used: usize,
}

impl Substitute {
    pub fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl Buffers for Substitute {
    fn output(&mut self) -> &mut [u8] {
        &mut []
    }

    fn input(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        self.used = self.bytes.len().min(self.used + amount);
        if self.is_empty() {
            self.bytes.clear();
            self.used = 0;
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], &mut [])
    }

    fn can_use_input(&self) -> bool {
        // Each piece is complete, so ureq can always go on with it.
        !self.is_empty()
    }
}
