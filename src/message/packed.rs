//! Content that is kept compressed in memory, and that clients get as it came.
//!
//! Zstandard (RFC 8878), frame by frame, so that a piece of it costs no more than a frame. What is short is one frame, which
//! an event loop may expand; of what is longer each frame is as much as is read at a time, by a worker.

use std::cell::RefCell;
use std::fmt;
use std::io;

use bytes::Bytes;
#[cfg(feature = "zstd")]
use zstd::bulk::{Compressor, Decompressor};

use crate::message::distant::Distant;
#[cfg(not(feature = "zstd"))]
use crate::message::without_zstd::{Compressor, Decompressor};

/// Content up to this many bytes is one frame.
pub const ONE_FRAME_BYTES: usize = 64 * 1024;
/// Bytes of content in each frame of longer content.
const FRAME_BYTES: usize = 16 * 1024;
/// Measured with JSON, HTML, scripts and style sheets: level 9 saves a tenth more and takes five times as long.
const LEVEL: i32 = 3;

/// Compressed content.
pub struct Packed {
    frames: Bytes,
    /// Where each frame ends.
    ends: Box<[u32]>,
    length: usize,
}

thread_local! {
    /// Its memory, some 100 KiB, is taken once by each thread that expands anything.
    static EXPANDER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses content. It holds about a megabyte of memory.
pub struct Packing(Compressor<'static>);

impl Packing {
    /// An error if there is no memory, or the program was built without `zstd`.
    pub fn new() -> io::Result<Self> {
        Compressor::new(LEVEL).map(Self)
    }

    /// The same content, compressed; `None` if that saves less than an eighth.
    pub fn pack(&mut self, content: &[u8]) -> Option<Packed> {
        let most = content.len() - content.len() / 8;
        let (mut frames, mut ends) = (Vec::new(), Vec::new());
        for piece in content.chunks(frame_bytes(content.len())) {
            frames.extend_from_slice(&self.0.compress(piece).ok()?);
            if frames.len() > most {
                return None;
            }
            ends.push(u32::try_from(frames.len()).ok()?);
        }
        frames.shrink_to_fit();
        let (frames, ends) = (Bytes::from(frames), ends.into_boxed_slice());
        Some(Packed { frames, ends, length: content.len() })
    }
}

fn frame_bytes(length: usize) -> usize {
    if length <= ONE_FRAME_BYTES { ONE_FRAME_BYTES } else { FRAME_BYTES }
}

impl Packed {
    /// Its length in bytes, expanded.
    pub fn len(&self) -> u64 {
        self.length as u64
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        /// Reference counts and allocator slack.
        const BOOKKEEPING: usize = 96;
        self.frames.len() + size_of_val(&*self.ends) + BOOKKEEPING
    }

    /// May an event loop expand it: is it one frame?
    pub fn is_short(&self) -> bool {
        self.length <= ONE_FRAME_BYTES
    }

    /// All of it.
    pub fn expand(&self) -> io::Result<Bytes> {
        let mut content = vec![0; self.length];
        let mut filled = 0;
        while filled < content.len() {
            filled += self.read_at(filled as u64, &mut content[filled..])?;
        }
        Ok(content.into())
    }

    /// Fills `content`, which is exactly what the frame holds.
    fn expand_frame(&self, number: usize, content: &mut [u8]) -> io::Result<()> {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let frame = &self.frames[begin..self.ends[number] as usize];
        EXPANDER.with_borrow_mut(|expander| {
            let expander = match expander {
                Some(expander) => expander,
                None => expander.insert(Decompressor::new()?),
            };
            // It writes no further than `content` goes, whatever the frame says.
            let count = expander.decompress_to_buffer(frame, content)?;
            if count == content.len() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }
}

impl Distant for Packed {
    fn length(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (at, frame_bytes) = (at as usize, frame_bytes(self.length));
        let left = self.length.saturating_sub(at).min(buffer.len());
        if left == 0 {
            return Ok(0);
        }
        let (number, skipped) = (at / frame_bytes, at % frame_bytes);
        let length = frame_bytes.min(self.length - number * frame_bytes);
        if skipped == 0 && left >= length {
            self.expand_frame(number, &mut buffer[..length])?;
            return Ok(length);
        }
        // A piece of a frame, as of a range: all of it is expanded.
        let mut frame = vec![0; length];
        self.expand_frame(number, &mut frame)?;
        let count = left.min(length - skipped);
        buffer[..count].copy_from_slice(&frame[skipped..skipped + count]);
        Ok(count)
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} of {} bytes)", self.frames.len(), self.length)
    }
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        let lines = (0..).map(|number| format!("{{\"number\": {}}},\n", number * 7919 % 1000));
        lines.flat_map(String::into_bytes).take(length).collect()
    }

    fn packed(content: &[u8]) -> Packed {
        Packing::new().expect("memory").pack(content).expect("it saves something")
    }

    #[test]
    fn any_piece_of_any_content_comes_back() {
        for length in [600, FRAME_BYTES, ONE_FRAME_BYTES, ONE_FRAME_BYTES + 1, 200_000] {
            let content = text(length);
            let packed = packed(&content);
            assert_eq!(
                (packed.len(), &*packed.expand().expect("whole")),
                (length as u64, &*content)
            );
            assert!(packed.memory_bytes() < length);
            for at in [0, 1, 599, FRAME_BYTES - 1, FRAME_BYTES, length - 1, length, length + 9] {
                for size in [0, 1, 500, FRAME_BYTES, 70_000] {
                    let mut buffer = vec![0; size];
                    let count = packed.read_at(at as u64, &mut buffer).expect("whole");
                    let expected = content.get(at..).unwrap_or_default();
                    assert_eq!(buffer[..count], expected[..count], "{length} {at} {size}");
                    assert_eq!(
                        count == 0,
                        expected.is_empty() || size == 0,
                        "{length} {at} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_saves_little_is_left_as_it_is() {
        let mut number = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (number >> 56) as u8
        })
        .take(100_000)
        .collect();
        assert!(Packing::new().expect("memory").pack(&noise).is_none());
        assert!(Packing::new().expect("memory").pack(b"").is_none_or(|packed| packed.is_empty()));
    }

    /// Whatever a frame holds, no byte is written beyond the stated length, and nothing else is given out.
    #[test]
    fn what_is_damaged_is_an_error() {
        let content = text(50_000);
        let good = packed(&content);
        let longer = Packed { length: 40_000, ..packed(&content) };
        let shorter = Packed { length: 60_000, ..packed(&content) };
        let cut = Packed { frames: good.frames.slice(..good.frames.len() / 2), ..packed(&content) };
        let cut = Packed { ends: Box::new([cut.frames.len() as u32]), ..cut };
        for damaged in [longer, shorter, cut] {
            damaged.expand().expect_err("it is not what it says");
        }
    }
}
