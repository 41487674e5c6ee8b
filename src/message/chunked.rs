//! The chunked transfer coding, taken apart as it comes. RFC 9112 §7.1.
//!
//! Strict: every line ends in CR LF, a size is hexadecimal digits and nothing else, and what stands
//! behind it is an extension or a mistake. Extensions and trailer fields are checked and bounded.
//! Extensions are dropped (§7.1.1), and trailer fields are kept where somebody wants them (§7.1.2,
//! RFC 9110 §6.5).

use http::{HeaderName, HeaderValue};

use crate::message::fields::{Fields, is_token_byte};
use crate::message::request::RequestLimits;

/// Bytes of chunk extensions that one message may have beyond its content; they mean nothing to
/// anybody.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Digits of one size, leading zeros among them: some senders pad it with zeros.
const DIGITS_MAX: u16 = 256;

/// The last chunk (RFC 9112 §7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Bytes that a chunk's size line may take, for chunks of less than 2^32 bytes.
pub const CHUNK_HEAD_BYTES: usize = 10;

/// The size line of a chunk, at most [`CHUNK_HEAD_BYTES`] long.
pub fn chunk_head(length: usize) -> Vec<u8> {
    // A chunk without bytes is the last one: it would end the body (RFC 9112 §7.1).
    assert!(length > 0, "a chunk has content");
    assert!(u32::try_from(length).is_ok(), "the size line is no longer than CHUNK_HEAD_BYTES");
    format!("{length:X}\r\n").into_bytes()
}

/// The last chunk and the trailer section behind it (RFC 9112 §7.1.2).
pub fn last_chunk(trailers: &Fields) -> Vec<u8> {
    let mut bytes = b"0\r\n".to_vec();
    trailers.write_to(&mut bytes);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Takes the coding apart, over as many reads as it comes in.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: ChunkedState,
    extension_bytes: usize,
    trailer_lines: usize,
    trailer_bytes: usize,
    limits: RequestLimits,
    /// What has come of the trailer section, each line ended by a line feed; `None` if it is dropped.
    kept: Option<Vec<u8>>,
    trailers: Fields,
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
    /// Right behind the colon.
    TrailerColon,
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
    /// A decoder at the beginning of content, whose trailer section is bounded as a head is, and dropped.
    pub fn new(limits: RequestLimits) -> Self {
        Self {
            state: ChunkedState::Size(0, 0),
            extension_bytes: 0,
            trailer_lines: 0,
            trailer_bytes: 0,
            limits,
            kept: None,
            trailers: Fields::new(),
        }
    }

    /// The same, but the trailer section is kept: [`Decoder::take_trailers`].
    pub fn keeping_trailers(limits: RequestLimits) -> Self {
        Self { kept: Some(Vec::new()), ..Self::new(limits) }
    }

    /// The trailer section as it came, behind [`Piece::End`]; empty if there was none, or it was dropped.
    pub fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
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

    /// Takes one byte of the trailer section (§7.1.2).
    fn step_in_trailer(&mut self, byte: u8) -> Result<ChunkedState, Malformed> {
        Ok(match (self.state, byte) {
            (ChunkedState::Trailer, b'\r') => ChunkedState::LastLf,
            (ChunkedState::Trailer, byte) if is_token_byte(byte) => {
                // Bounded as a head is, dropped or not: it would be an endless message otherwise.
                self.trailer_lines += 1;
                if self.trailer_lines > self.limits.field_lines {
                    return Err(Malformed);
                }
                self.trail(byte, ChunkedState::TrailerName)?
            }
            (ChunkedState::TrailerName, b':') => self.keep(byte, ChunkedState::TrailerColon),
            // Not counted: it is written whether it has come or not, and what goes on to another reader with the
            // same bound must not be more than has come.
            (ChunkedState::TrailerColon, b' ') => ChunkedState::TrailerValue,
            (ChunkedState::TrailerName, byte) if is_token_byte(byte) => {
                self.trail(byte, ChunkedState::TrailerName)?
            }
            (ChunkedState::TrailerColon | ChunkedState::TrailerValue, b'\r') => {
                self.keep(b'\n', ChunkedState::TrailerEnd)
            }
            (ChunkedState::TrailerColon | ChunkedState::TrailerValue, byte) if is_text(byte) => {
                self.trail(byte, ChunkedState::TrailerValue)?
            }
            (ChunkedState::LastLf, b'\n') => {
                if let Some(kept) = self.kept.take() {
                    self.trailers = read_trailers(&kept)?;
                }
                ChunkedState::Done
            }
            // Whatever is not expected: there is no way to find the next chunk again.
            _ => return Err(Malformed),
        })
    }

    /// Counts a byte of an extension, and bounds them.
    fn extend(&mut self, state: ChunkedState) -> Result<ChunkedState, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err(Malformed) } else { Ok(state) }
    }

    /// Counts a byte of a trailer field, and bounds them.
    fn trail(&mut self, byte: u8, state: ChunkedState) -> Result<ChunkedState, Malformed> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.limits.field_bytes {
            return Err(Malformed);
        }
        Ok(self.keep(byte, state))
    }

    /// Keeps a byte of the trailer section, where that is wanted.
    fn keep(&mut self, byte: u8, state: ChunkedState) -> ChunkedState {
        if let Some(kept) = &mut self.kept {
            kept.push(byte);
        }
        state
    }
}

/// The fields of a trailer section that has come to its end, each line of it ended by a line feed.
fn read_trailers(kept: &[u8]) -> Result<Fields, Malformed> {
    kept.split_inclusive(|byte| *byte == b'\n')
        .map(|line| {
            // Each byte was checked when it came; what is left to fail is a name of 64 KiB.
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed)?;
            let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Malformed)?;
            let value = line[colon + 1..].trim_ascii();
            Ok((name, HeaderValue::from_bytes(value).map_err(|_| Malformed)?))
        })
        .collect()
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

    fn trailers_of(bytes: &[u8], step: usize) -> Result<Option<String>, Malformed> {
        let mut decoder = Decoder::keeping_trailers(RequestLimits::default());
        for mut piece in bytes.chunks(step) {
            loop {
                match decoder.next(piece, usize::MAX)? {
                    (used, Piece::Data(_)) => piece = &piece[used..],
                    (_, Piece::More) => break,
                    (_, Piece::End) => {
                        let mut out = Vec::new();
                        decoder.take_trailers().write_to(&mut out);
                        assert!(decoder.take_trailers().is_empty(), "they are taken once");
                        return Ok(Some(String::from_utf8_lossy(&out).into_owned()));
                    }
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn trailer_fields_are_kept_where_they_are_wanted() {
        #[rustfmt::skip]
        let table = [
            ("0\r\n\r\n",                              ""),
            ("1\r\nx\r\n0\r\nA: b\r\n\r\n",            "A: b\r\n"),
            ("0;x=y\r\nA:b:c\r\nB: \t d e \t\r\n\r\n",  "A: b:c\r\nB: d e\r\n"),
            ("0\r\nA:\r\na: 2\r\nA: 3\r\n\r\n",        "A: \r\nA: 2\r\nA: 3\r\n"),
            ("0\r\nA: \u{e9}\r\n\r\n",                  "A: \u{e9}\r\n"),
        ];
        for (bytes, expected) in table {
            let whole = Ok(Some(expected.to_string()));
            for step in 1..=bytes.len() {
                assert_eq!(trailers_of(bytes.as_bytes(), step), whole, "§7.1.2: {bytes:?}, {step}");
            }
            for end in 0..bytes.len() {
                assert_eq!(trailers_of(&bytes.as_bytes()[..end], 3), Ok(None), "{bytes:?}, {end}");
            }
        }
        let written = last_chunk(
            &[(HeaderName::from_static("a"), HeaderValue::from_static("b"))].into_iter().collect(),
        );
        assert_eq!(trailers_of(&written, 1), Ok(Some("A: b\r\n".to_string())));
        assert_eq!(last_chunk(&Fields::new()), LAST_CHUNK);
    }

    #[test]
    fn trailer_fields_that_are_kept_are_bounded_and_read_strictly() {
        let RequestLimits { field_lines, field_bytes, .. } = RequestLimits::default();
        let lines = |count| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
        let value = |count: usize| format!("0\r\nA:{}\r\n\r\n", "b".repeat(count - 1));
        let name = |count: usize| format!("0\r\n{}:\r\n\r\n", "n".repeat(count));
        assert!(trailers_of(lines(field_lines).as_bytes(), 9).is_ok_and(|all| all.is_some()));
        // Also when it is passed on, with a space that has not come.
        let most = trailers_of(value(field_bytes).as_bytes(), 9).expect("it fits").expect("all");
        let again = trailers_of(format!("0\r\n{most}\r\n").as_bytes(), 9);
        assert!(most.len() > field_bytes && again == Ok(Some(most)));
        for bytes in [
            &lines(field_lines + 1),
            &value(field_bytes + 1),
            &name(field_bytes),
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "0\r\nA: b\r\n: c\r\n\r\n",
            "0\r\nA\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\r\n\n",
            "0\r\nA: b\rc\r\n\r\n",
            "0\r\nA: b\0c\r\n\r\n",
            "0\r\nA\u{e9}: b\r\n\r\n",
        ] {
            for step in [1, 7, usize::MAX] {
                assert_eq!(trailers_of(bytes.as_bytes(), step), Err(Malformed), "{bytes:.40?}");
            }
        }
    }

    #[test]
    fn content_pays_for_the_extensions_beside_it() {
        let signed = format!("400;signature={}\r\n{}\r\n", "s".repeat(64), "x".repeat(0x400));
        let signed = format!("{}0\r\n\r\n", signed.repeat(400));
        let content = "x".repeat(400 * 0x400).into_bytes();
        assert_eq!(decode(signed.as_bytes(), 1000), Ok((content, Some(0))));
    }

    #[test]
    #[should_panic(expected = "a chunk has content")]
    fn a_chunk_without_content_is_a_bug() {
        chunk_head(0);
    }
}
