//! The chunked transfer coding, taken apart as it comes. RFC 9112 §7.1.
//!
//! Strict: every line ends in CR LF, a size is hexadecimal digits and nothing else, and what stands
//! behind it is an extension or a mistake. Extensions and trailer fields are checked, bounded and
//! dropped (§7.1.1, RFC 9110 §6.5.1).

use crate::message::fields::is_token_byte;
use crate::message::request::RequestLimits;

/// Bytes of chunk extensions that one message may have beyond its content; they mean nothing to
/// anybody.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Digits of one size, leading zeros among them: some senders pad it with zeros.
const DIGITS_MAX: u16 = 256;

/// Takes the coding apart, over as many reads as it comes in.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: ChunkedState,
    extension_bytes: usize,
    trailer_lines: usize,
    trailer_bytes: usize,
    limits: RequestLimits,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ChunkedState {
    /// Digits of a size, and how many have come.
    Size(u64, u16),
    /// White space before an extension.
    Space(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataEndLf,
    /// A trailer field, or the end.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    LastLf,
    Done,
}

/// What the decoder has found.
#[derive(Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// Content.
    Data(&'a [u8]),
    /// More bytes are needed.
    More,
    /// The content has ended.
    End,
}

/// The coding is not what it should be: the end of the content cannot be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

impl Decoder {
    /// A decoder at the beginning of content, whose trailer section is bounded as a head is.
    pub fn new(limits: RequestLimits) -> Self {
        let state = ChunkedState::Size(0, 0);
        Self { state, extension_bytes: 0, trailer_lines: 0, trailer_bytes: 0, limits }
    }

    /// Goes on with `bytes`, and gives no more than `most` bytes of content. Also says how many bytes
    /// were used: those before the content are framing, and are gone with it.
    pub fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        most: usize,
    ) -> Result<(usize, Piece<'a>), Malformed> {
        // Every byte is looked at once. Framing goes byte by byte, because a read may end anywhere in
        // it; content goes at once.
        let mut used = 0;
        loop {
            if self.state == ChunkedState::Done {
                return Ok((used, Piece::End));
            }
            if let ChunkedState::Data(left) = self.state {
                let count = usize::try_from(left).unwrap_or(usize::MAX);
                let count = count.min(bytes.len() - used).min(most);
                // Nothing of the content has come, or nothing is wanted: both are for the caller to
                // change.
                if count == 0 {
                    return Ok((used, Piece::More));
                }
                let left = left - count as u64;
                self.state =
                    if left == 0 { ChunkedState::DataEnd } else { ChunkedState::Data(left) };
                return Ok((used + count, Piece::Data(&bytes[used..used + count])));
            }
            let Some(byte) = bytes.get(used) else { return Ok((used, Piece::More)) };
            self.state = self.step(*byte)?;
            used += 1;
        }
    }

    /// Takes one byte that is not content, and gives the next state.
    fn step(&mut self, byte: u8) -> Result<ChunkedState, Malformed> {
        /// A size with these bits has no room for another digit.
        const FULL: u64 = 0xf << 60;
        Ok(match (self.state, byte) {
            (ChunkedState::Size(size, digits), digit) if digit.is_ascii_hexdigit() => {
                // A size that overflowed would wrap to a small one, and the rest of the chunk be read
                // as the next message.
                if size & FULL != 0 || digits == DIGITS_MAX {
                    return Err(Malformed);
                }
                let value = char::from(digit).to_digit(16).unwrap_or(0);
                ChunkedState::Size(size << 4 | u64::from(value), digits + 1)
            }
            // No digit at all: an empty size is not zero.
            (ChunkedState::Size(_, 0), _) => return Err(Malformed),
            (ChunkedState::Size(size, _), b' ' | b'\t') => ChunkedState::Space(size),
            // Not behind white space: `5 \r\n` is a mistake, `5 ;x\r\n` is bad white space that RFC
            // 9110 §5.6.3 wants to be accepted.
            (ChunkedState::Size(size, _) | ChunkedState::Extension(size), b'\r') => {
                ChunkedState::SizeEnd(size)
            }
            (ChunkedState::Space(size), b' ' | b'\t') => self.extend(ChunkedState::Space(size))?,
            (ChunkedState::Size(size, _) | ChunkedState::Space(size), b';') => {
                ChunkedState::Extension(size)
            }
            (ChunkedState::Extension(size), byte) if is_text(byte) => {
                self.extend(ChunkedState::Extension(size))?
            }
            (ChunkedState::SizeEnd(0) | ChunkedState::TrailerEnd, b'\n') => ChunkedState::Trailer,
            (ChunkedState::SizeEnd(size), b'\n') => {
                // Content pays for the extensions beside it; only those of a sender that sends little
                // else add up.
                let paid = usize::try_from(size).unwrap_or(usize::MAX);
                self.extension_bytes = self.extension_bytes.saturating_sub(paid);
                ChunkedState::Data(size)
            }
            // A bare line feed is refused here and everywhere: a server that takes it for a line's end
            // and one that does not would see two different requests in the same bytes (RFC 9112
            // §11.2).
            (ChunkedState::DataEnd, b'\r') => ChunkedState::DataEndLf,
            (ChunkedState::DataEndLf, b'\n') => ChunkedState::Size(0, 0),
            _ => self.step_in_trailer(byte)?,
        })
    }

    /// Takes one byte of the trailer section, whose fields are dropped (§7.1.2).
    fn step_in_trailer(&mut self, byte: u8) -> Result<ChunkedState, Malformed> {
        Ok(match (self.state, byte) {
            (ChunkedState::Trailer, b'\r') => ChunkedState::LastLf,
            (ChunkedState::Trailer, byte) if is_token_byte(byte) => {
                // Trailer fields are dropped, but bounded as a head is: they would be an endless
                // message otherwise.
                self.trailer_lines += 1;
                if self.trailer_lines > self.limits.field_lines {
                    return Err(Malformed);
                }
                self.trail(ChunkedState::TrailerName)?
            }
            (ChunkedState::TrailerName, b':') => ChunkedState::TrailerValue,
            (ChunkedState::TrailerName, byte) if is_token_byte(byte) => {
                self.trail(ChunkedState::TrailerName)?
            }
            (ChunkedState::TrailerValue, b'\r') => ChunkedState::TrailerEnd,
            (ChunkedState::TrailerValue, byte) if is_text(byte) => {
                self.trail(ChunkedState::TrailerValue)?
            }
            (ChunkedState::LastLf, b'\n') => ChunkedState::Done,
            // Whatever is not expected: there is no way to find the next chunk again.
            _ => return Err(Malformed),
        })
    }

    /// Counts a byte of an extension, and bounds them.
    fn extend(&mut self, state: ChunkedState) -> Result<ChunkedState, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err(Malformed) } else { Ok(state) }
    }

    /// Counts a byte of the trailer section, and bounds them.
    fn trail(&mut self, state: ChunkedState) -> Result<ChunkedState, Malformed> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.limits.field_bytes { Err(Malformed) } else { Ok(state) }
    }
}

/// May this byte stand in a field value (RFC 9110 §5.5)?
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, and what is left behind its end; `None` for the end if it has not come.
    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), Malformed> {
        let mut decoder = Decoder::new(RequestLimits::default());
        let (mut content, mut at, mut seen) = (Vec::new(), 0, 0);
        while seen < bytes.len() {
            seen = (seen + step).min(bytes.len());
            loop {
                let (used, piece) = decoder.next(&bytes[at..seen], step)?;
                at += used;
                match piece {
                    Piece::Data(data) => content.extend_from_slice(data),
                    Piece::More => break,
                    Piece::End => return Ok((content, Some(bytes.len() - at))),
                }
            }
        }
        Ok((content, None))
    }

    /// However the bytes are cut.
    fn all_ways(bytes: &str, expected: &Result<(Vec<u8>, Option<usize>), Malformed>) {
        for step in [1, 2, 3, 7, 1000, usize::MAX / 2] {
            let shown = &bytes[..bytes.len().min(40)];
            assert_eq!(decode(bytes.as_bytes(), step), *expected, "RFC 9112 §7.1: {shown:?}");
        }
    }

    #[test]
    fn well_formed_chunks_are_taken_apart() {
        let zeros = format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(usize::from(DIGITS_MAX) - 1));
        for (bytes, content, end) in [
            ("5\r\nhello\r\n0\r\n\r\n", "hello", Some(0)),
            ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET", "hello world", Some(3)),
            ("0\r\n\r\n", "", Some(0)),
            ("0005\r\nhello\r\n000\r\n\r\n", "hello", Some(0)),
            ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789", Some(0)),
            ("a;b=c;d=\"e f\"\r\n0123456789\r\n0;x\r\n\r\n", "0123456789", Some(0)),
            ("1 ;a\r\nx\r\n0\r\n\r\n", "x", Some(0)),
            ("0\r\nA: b\r\nC:\r\n\r\n", "", Some(0)),
            ("00000000000000000000000005\r\nhello\r\n0\r\n\r\n", "hello", Some(0)),
            (&zeros, "x", Some(0)),
            ("5\r\nhel", "hel", None),
            ("5\r\nhello\r\n0\r\n", "hello", None),
            ("", "", None),
        ] {
            all_ways(bytes, &Ok((content.as_bytes().to_vec(), end)));
        }
        // The largest size there is waits for its content.
        assert_eq!(decode(b"FFFFFFFFFFFFFFFF\r\nx", 100), Ok((b"x".to_vec(), None)));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(EXTENSION_BYTES_MAX + 1));
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(101));
        let wide = format!("0\r\nA: {}\r\n\r\n", "b".repeat(64 * 1024));
        let zeros = format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(usize::from(DIGITS_MAX)));
        for bytes in [
            &zeros,
            "+a\r\n0123456789\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r\n0\n\n",
            "5\r\nhello\r\n0\r\n\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "g\r\n",
            ";a\r\n",
            "\r\n",
            "5;a\u{1}\r\nhello\r\n",
            "5;a\nhello\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "10000000000000000\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA\r\n\r\n",
            &long,
            &many,
            &wide,
        ] {
            all_ways(bytes, &Err(Malformed));
        }
    }

    #[test]
    fn content_pays_for_the_extensions_beside_it() {
        let signed = format!("400;signature={}\r\n{}\r\n", "s".repeat(64), "x".repeat(0x400));
        let signed = format!("{}0\r\n\r\n", signed.repeat(400));
        let content = "x".repeat(400 * 0x400).into_bytes();
        assert_eq!(decode(signed.as_bytes(), 1000), Ok((content, Some(0))));
    }
}
