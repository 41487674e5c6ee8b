//! Content that shows by each of its bytes whose it is and where it stands; and how content is taken out of
//! its framing while it comes. RFC 9112 §6, §7.
//!
//! Nothing here keeps more than a piece of it.

use std::io::{self, BufRead, Read};

/// The most that is made or read at a time.
pub const PIECE_BYTES: usize = 16 * 1024;
/// Each so many words of eight bytes, the content has its name in it.
const LABEL_WORDS: u64 = 128;

/// The content of one message. All but its length follows from its name.
#[derive(Debug)]
pub struct Content {
    name: String,
    seed: u64,
    label: [u64; 3],
}

impl Content {
    pub fn of(name: &str) -> Self {
        // FNV-1a.
        let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        let mut text = [b'.'; 24];
        let shown = format!("<{name}>");
        let length = shown.len().min(text.len());
        text[..length].copy_from_slice(&shown.as_bytes()[..length]);
        let word = |at: usize| u64::from_le_bytes(text[at..at + 8].try_into().expect("eight"));
        Self { name: name.to_string(), seed, label: [word(0), word(8), word(16)] }
    }

    fn word(&self, index: u64) -> [u8; 8] {
        // Not at the front, where short content would consist of it.
        let word = match index % LABEL_WORDS {
            place @ 4..7 => self.label[place as usize - 4],
            _ => mixed(self.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))),
        };
        word.to_le_bytes()
    }

    /// The bytes from `from` on.
    pub fn write(&self, from: u64, bytes: &mut [u8]) {
        let skipped = (from % 8) as usize;
        let first = self.word(from / 8);
        let count = if skipped == 0 { 0 } else { bytes.len().min(8 - skipped) };
        bytes[..count].copy_from_slice(&first[skipped..skipped + count]);
        for (word, index) in bytes[count..].chunks_mut(8).zip(from.div_ceil(8)..) {
            word.copy_from_slice(&self.word(index)[..word.len()]);
        }
    }

    /// Are these the bytes from `from` on? The error says which is the first that is not, and what comes
    /// in its place.
    pub fn check(&self, from: u64, bytes: &[u8]) -> Result<(), String> {
        let mut expected = vec![0; bytes.len()];
        self.write(from, &mut expected);
        if bytes == expected {
            return Ok(());
        }
        let at = bytes.iter().zip(&expected).position(|(one, other)| one != other).unwrap_or(0);
        let rest = &bytes[at..];
        let label = rest.iter().position(|byte| *byte == b'<').and_then(|begin| {
            let label = &rest[begin..rest.len().min(begin + 24)];
            label.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ').then_some(label)
        });
        Err(format!(
            "byte {} of {:?} is another: {}{}",
            from + at as u64,
            self.name,
            rest[..rest.len().min(100)].escape_ascii(),
            label.map_or(String::new(), |label| format!(", near {}", label.escape_ascii())),
        ))
    }
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Content on its way in, by the way it is delimited.
#[derive(Debug)]
pub enum Arriving {
    Length(u64),
    /// So much is left of a chunk; of one that has come, the line end is still to come.
    Chunk {
        left: u64,
        begun: bool,
    },
    UntilClose,
    /// All of it has come.
    Over,
}

/// What has come.
#[derive(Debug)]
pub enum Came {
    Bytes(usize),
    /// The end that the framing proves. Without framing, it is that of the connection.
    End,
    /// The connection has ended before that, for this reason.
    Cut(io::Error),
    /// No framing at all.
    Malformed(String),
}

impl Arriving {
    pub fn chunked() -> Self {
        Self::Chunk { left: 0, begun: false }
    }

    /// Reads what comes next into `piece`.
    pub fn next(&mut self, reader: &mut impl BufRead, piece: &mut [u8]) -> Came {
        match self.try_next(reader, piece) {
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Came::Malformed(error.to_string())
            }
            Err(error) => Came::Cut(error),
        }
    }

    fn try_next(&mut self, reader: &mut impl BufRead, piece: &mut [u8]) -> io::Result<Came> {
        match self {
            Self::Length(0) | Self::Over => Ok(Came::End),
            Self::Length(left) => {
                let count = read_some(reader, piece, *left)?;
                *left -= count as u64;
                Ok(Came::Bytes(count))
            }
            Self::UntilClose => Ok(match read(reader, piece)? {
                0 => Came::End,
                count => Came::Bytes(count),
            }),
            Self::Chunk { left, begun } => {
                if *left == 0 {
                    if *begun && !read_line(reader)?.is_empty() {
                        return Err(malformed("no line end behind a chunk"));
                    }
                    *left = read_size(reader)?;
                    *begun = true;
                }
                if *left == 0 {
                    while !read_line(reader)?.is_empty() {}
                    *self = Self::Over;
                    return Ok(Came::End);
                }
                let count = read_some(reader, piece, *left)?;
                *left -= count as u64;
                Ok(Came::Bytes(count))
            }
        }
    }
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads once, whatever signals come.
fn read(reader: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads at least one byte and no more than `most`.
fn read_some(reader: &mut impl Read, piece: &mut [u8], most: u64) -> io::Result<usize> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(piece.len());
    match read(reader, &mut piece[..most])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(1000).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.pop();
    match line.pop() {
        Some(b'\r') => Ok(line),
        _ => Err(malformed("a bare line feed")),
    }
}

fn read_size(reader: &mut impl BufRead) -> io::Result<u64> {
    let line = read_line(reader)?;
    let digits = std::str::from_utf8(&line).ok().filter(|text| {
        !text.is_empty() && text.len() < 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or_else(|| malformed(format!("no size of a chunk: {}", line.escape_ascii())))
}

#[test]
fn content_is_the_same_however_it_is_cut() {
    let content = Content::of("a");
    let mut whole = vec![0; 5000];
    content.write(0, &mut whole);
    for from in (0..3000).step_by(7) {
        for length in [0, 1, 7, 8, 9, 1500] {
            let part = &whole[from..from + length];
            assert_eq!(content.check(from as u64, part), Ok(()), "{from} {length}");
        }
    }
    assert!(content.check(8, &whole[..8]).is_err());
    assert!(Content::of("b").check(0, &whole[..1]).is_err());
}

#[test]
fn another_byte_is_found_and_what_it_belongs_to() {
    let mut piece = vec![0; 2000];
    Content::of("the other").write(0, &mut piece);
    let found = Content::of("the one").check(0, &piece).expect_err("it is another");
    assert!(found.starts_with("byte 0 of \"the one\""), "{found}");
    Content::of("the one").write(0, &mut piece[..1000]);
    let found = Content::of("the one").check(0, &piece).expect_err("it is another");
    assert!(found.starts_with("byte 1000 of") && found.contains("<the other>"), "{found}");
}
