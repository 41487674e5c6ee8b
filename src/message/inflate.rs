//! Content in the coding gzip or deflate (RFC 9110 §8.4.1), decoded as far as it is to be looked at: RFC 1950 to 1952.
//!
//! Nothing that goes to clients passes through here: the proxy sends content as it came. The checksum is not compared,
//! for what is shown is the beginning of the content, and of that what has come. Neither the time nor the memory
//! depends on what the bytes say: both are bounded by the bytes given and by those that are wanted.

use std::iter;

/// The longest code, in bits (RFC 1951 §3.2.7).
const CODE_BITS_MAX: usize = 15;
/// How far back a copy may reach.
const DISTANCE_MAX: usize = 32 * 1024;
/// The lengths of the codes for lengths come in this order.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// For each symbol from 257 on: the shortest copy, and the bits that add to it.
#[rustfmt::skip]
const LENGTHS: [(u16, u8); 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1), (19, 2),
    (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4), (115, 4), (131, 5),
    (163, 5), (195, 5), (227, 5), (258, 0),
];

/// What has been decoded.
#[derive(Debug, Eq, PartialEq)]
pub struct Inflated {
    /// The beginning of the content, or all of it.
    pub bytes: Vec<u8>,
    /// Is this all of it?
    pub is_whole: bool,
}

/// Decodes the beginning of content in this coding, until it has `most` bytes; `None` if the coding is another one, or
/// the content is none of it. What is wrong further on ends it there.
pub fn inflated(coding: &[u8], bytes: &[u8], most: usize) -> Option<Inflated> {
    let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
    let (coded, trailer) = match bytes {
        _ if is("gzip") || is("x-gzip") => (behind_gzip_header(bytes)?, 8),
        // Some servers take deflate for the format without a header.
        [first, second, rest @ ..] if is("deflate") => {
            match u16::from_be_bytes([*first, *second]) {
                header if first & 0x0f == 8 && header % 31 == 0 && second & 0x20 == 0 => (rest, 4),
                _ => (bytes, 0),
            }
        }
        _ => return None,
    };
    let mut inflater =
        Inflater { bits: Bits { rest: coded, held: 0, count: 0 }, out: Vec::new(), most };
    let has_ended = inflater.all().is_some();
    let Inflater { bits, out, .. } = inflater;
    // Something behind it would be content, too: gzip may come in several members.
    let is_whole = has_ended && bits.rest.len() <= trailer;
    (is_whole || !out.is_empty()).then_some(Inflated { bytes: out, is_whole })
}

/// What is behind the header of RFC 1952 §2.3; `None` if there is no such header.
fn behind_gzip_header(bytes: &[u8]) -> Option<&[u8]> {
    let ([0x1f, 0x8b, 8, flags, ..], mut rest) = bytes.split_at_checked(10)? else { return None };
    if flags & 4 != 0 {
        let (length, more) = rest.split_first_chunk()?;
        rest = more.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    // A name and a comment end in a zero.
    for _ in 0..(flags & 8).min(1) + (flags & 16).min(1) {
        rest = &rest[rest.iter().position(|byte| *byte == 0)? + 1..];
    }
    rest.get(usize::from(flags & 2)..)
}

/// Bits, each byte's lowest first.
struct Bits<'a> {
    rest: &'a [u8],
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next bits as a number, 16 at most; `None` if there are not as many.
    fn take(&mut self, count: u32) -> Option<usize> {
        while self.count < count {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            self.held |= u32::from(*first) << self.count;
            self.count += 8;
        }
        let taken = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Some(taken as usize)
    }
}

/// A set of codes, by the number of those of each length, and their symbols in order (§3.2.2).
struct Codes {
    counts: [u16; CODE_BITS_MAX + 1],
    symbols: Vec<u16>,
}

impl Codes {
    /// From the length of each symbol's code, 0 if it has none; `None` if there are more codes than bits can tell apart.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; CODE_BITS_MAX + 1];
        for length in lengths {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        let left = counts[1..].iter().try_fold(1_i32, |left, count| {
            Some(left * 2 - i32::from(*count)).filter(|left| *left >= 0)
        });
        left?;
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).collect();
        symbols.retain(|symbol| lengths[usize::from(*symbol)] > 0);
        // A stable order: of codes of one length, the smaller symbol has the smaller one.
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Some(Self { counts, symbols })
    }

    /// The symbol of the next code.
    fn symbol(&self, bits: &mut Bits) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            let count = usize::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                return self.symbols.get(index + code - first).map(|symbol| usize::from(*symbol));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// Decodes the format of RFC 1951.
struct Inflater<'a> {
    bits: Bits<'a>,
    out: Vec<u8>,
    most: usize,
}

impl Inflater<'_> {
    /// All blocks; `None` if the last one has not been reached.
    fn all(&mut self) -> Option<()> {
        loop {
            let is_last = self.bits.take(1)? == 1;
            match self.bits.take(2)? {
                0 => self.stored()?,
                1 => {
                    let lengths = iter::repeat_n(8, 144).chain(iter::repeat_n(9, 112));
                    let lengths = lengths.chain(iter::repeat_n(7, 24)).chain(iter::repeat_n(8, 8));
                    let lengths: Vec<u8> = lengths.collect();
                    self.coded(&Codes::new(&lengths)?, &Codes::new(&[5; 30])?)?;
                }
                2 => {
                    let (literals, distances) = self.codes()?;
                    self.coded(&literals, &distances)?;
                }
                _ => return None,
            }
            if is_last {
                return Some(());
            }
        }
    }

    /// One byte more; `None` if there are enough.
    fn push(&mut self, byte: u8) -> Option<()> {
        (self.out.len() < self.most).then(|| self.out.push(byte))
    }

    /// A block of bytes as they are (§3.2.4).
    fn stored(&mut self) -> Option<()> {
        self.bits.take(self.bits.count % 8)?;
        let (length, complement) = (self.bits.take(16)?, self.bits.take(16)?);
        if length != complement ^ 0xffff {
            return None;
        }
        for _ in 0..length {
            let byte = self.bits.take(8)? as u8;
            self.push(byte)?;
        }
        Some(())
    }

    /// The codes of a block that brings its own (§3.2.7).
    fn codes(&mut self) -> Option<(Codes, Codes)> {
        let (literals, distances) = (self.bits.take(5)? + 257, self.bits.take(5)? + 1);
        let mut lengths = [0; ORDER.len()];
        let count = self.bits.take(4)? + 4;
        for symbol in &ORDER[..count] {
            lengths[*symbol] = self.bits.take(3)? as u8;
        }
        let codes = Codes::new(&lengths)?;
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            let (length, count) = match codes.symbol(&mut self.bits)? {
                16 => (*lengths.last()?, self.bits.take(2)? + 3),
                17 => (0, self.bits.take(3)? + 3),
                18 => (0, self.bits.take(7)? + 11),
                length => (length as u8, 1),
            };
            lengths.extend(iter::repeat_n(length, count));
        }
        let (literals, rest) = lengths.split_at(literals);
        Some((Codes::new(literals)?, Codes::new(rest.get(..distances)?)?))
    }

    /// A block of bytes and of copies of what has been before (§3.2.5).
    fn coded(&mut self, literals: &Codes, distances: &Codes) -> Option<()> {
        loop {
            let symbol = match literals.symbol(&mut self.bits)? {
                256 => return Some(()),
                literal @ 0..256 => {
                    self.push(literal as u8)?;
                    continue;
                }
                symbol => symbol - 257,
            };
            let (base, extra) = *LENGTHS.get(symbol)?;
            let length = usize::from(base) + self.bits.take(extra.into())?;
            let symbol = distances.symbol(&mut self.bits)?;
            // From the fifth on, each second one has a bit more.
            let extra = (symbol / 2).saturating_sub(1);
            let base = match symbol {
                0..4 => symbol + 1,
                4..30 => ((2 + symbol % 2) << extra) + 1,
                _ => return None,
            };
            let distance = base + self.bits.take(extra as u32)?;
            let begin =
                self.out.len().checked_sub(distance).filter(|_| distance <= DISTANCE_MAX)?;
            // A copy may go on with what it has copied itself.
            for at in begin..begin + length {
                self.push(self.out[at])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = "010500faff68656c6c6f";
    const FIXED: &str = "cb48cdc9c957c8409000";
    const GZIP: &str = "1f8b08080000000002ff6e616d6500cb48cdc9c957c84090008088f9e511000000";
    const ZLIB: &str = "78dacb48cdc9c957c84090003a2e067d";
    /// [`products`], by zlib at its best: a block that brings its own codes.
    const DYNAMIC: &str = "6dd33b0e42211046e1de55186a0b99b970c1dd18b5b0f011a39571ef460bfe49cead4f787dc03b9d8f69b7dd\
        a4ebfe724abb747fdc8eafc373bd4d9fd5fbdf325a1ecdd0a6d11cad8f3671ce3a6241b4326245748d9cb91dadd910ab36db119b4e99\
        c9e38af431cd9b178466551acda64aa510a9e461c764aa612c9dba8433a13c1c9752b3de8a512a6b5d2355d1cc46aaaeab35524d6236\
        52f5f04a6935857569d5c3ccb42ae1bcb46a8aa4aa627652995e8693aa69662755091f8f54a64b7052357d12275515a42ffcbe702252\
        e53076814ad7eb0b56bffa05";

    fn products() -> String {
        let line = |n| format!("{{\"id\":{n},\"name\":\"product {}\"}}\n", n * n % 97);
        (0..40).map(line).collect::<Vec<_>>().concat()
    }

    fn bytes(digits: &str) -> Vec<u8> {
        let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
        digits.as_bytes().chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
    }

    fn decoded(coding: &str, coded: &[u8], most: usize) -> Option<(String, bool)> {
        let Inflated { bytes, is_whole } = inflated(coding.as_bytes(), coded, most)?;
        Some((String::from_utf8(bytes).expect("text"), is_whole))
    }

    #[test]
    fn every_kind_of_block_and_header_is_decoded() {
        let (hello, all) = ("hello hello hello", products());
        for (coding, coded, expected) in [
            ("deflate", STORED, "hello"),
            ("Deflate", FIXED, hello),
            ("deflate", ZLIB, hello),
            ("GZIP", GZIP, hello),
            ("x-gzip", GZIP, hello),
            ("deflate", DYNAMIC, &all),
        ] {
            let coded = bytes(coded);
            let length = expected.len();
            assert_eq!(decoded(coding, &coded, length), Some((expected.to_string(), true)));
            let cut = Some((expected[..length - 1].to_string(), false));
            assert_eq!(decoded(coding, &coded, length - 1), cut, "{expected}");
        }
        // Extra bytes, a name, a comment and a checksum of the header; and another member behind the first.
        let header = bytes("1f8b081e0000000002ff0200aaaa6e00630000bb");
        let coded = [header, bytes(FIXED), vec![0; 8]].concat();
        assert_eq!(decoded("gzip", &coded, 100), Some((hello.to_string(), true)));
        let twice = [bytes(GZIP), bytes(GZIP)].concat();
        assert_eq!(decoded("gzip", &twice, 100), Some((hello.to_string(), false)));
    }

    #[test]
    fn what_is_not_coded_like_that_is_nothing() {
        for (coding, coded) in [
            ("br", GZIP),
            ("", GZIP),
            ("gzip", ZLIB),
            ("gzip", ""),
            ("deflate", ""),
            // A block of no kind, a length that is not its complement's, a copy from before the beginning.
            ("deflate", "07"),
            ("deflate", "010500fffe68"),
            ("deflate", "0302"),
        ] {
            assert_eq!(decoded(coding, &bytes(coded), 100), None, "{coding} {coded}");
        }
    }

    /// What has come of it is shown, and what is wrong in it does no harm.
    #[test]
    fn a_part_is_a_part_and_any_bytes_are_bounded() {
        let (coded, all) = (bytes(DYNAMIC), products());
        for end in 0..coded.len() {
            let Some((text, is_whole)) = decoded("deflate", &coded[..end], 2000) else { continue };
            assert!(all.starts_with(&text) && !is_whole, "{end}: {text}");
        }
        for at in 0..coded.len() * 8 {
            let mut wrong = coded.clone();
            wrong[at / 8] ^= 1 << (at % 8);
            let length = inflated(b"deflate", &wrong, 2000).map_or(0, |found| found.bytes.len());
            assert!(length <= 2000, "{at}");
        }
    }
}
