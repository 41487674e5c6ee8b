//! Content in the coding gzip or deflate (RFC 9110 §8.4.1), decoded as far as it is to be looked at.
//!
//! Nothing that goes to clients passes through here: the proxy sends content as it came. Whatever the bytes say, no more
//! is decoded than is wanted.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

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
    // One byte more than is wanted shows whether there is more.
    let mut out = Vec::with_capacity(most + 1);
    let has_ended = if is("gzip") || is("x-gzip") {
        MultiGzDecoder::new(bytes).take(most as u64 + 1).read_to_end(&mut out).is_ok()
    } else if is("deflate") {
        let mut decoder = Decompress::new(has_zlib_header(bytes));
        let status = decoder.decompress_vec(bytes, &mut out, FlushDecompress::Finish);
        matches!(status, Ok(Status::StreamEnd))
    } else {
        return None;
    };
    let is_whole = has_ended && out.len() <= most;
    out.truncate(most);
    (is_whole || !out.is_empty()).then_some(Inflated { bytes: out, is_whole })
}

/// Some servers take deflate for the format without a header (RFC 9110 §8.4.1.2).
fn has_zlib_header(bytes: &[u8]) -> bool {
    let &[first, second, ..] = bytes else { return false };
    // RFC 1950 §2.2: the method, a check, and no dictionary.
    first & 0x0f == 8
        && u16::from_be_bytes([first, second]).is_multiple_of(31)
        && second & 0x20 == 0
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
        let header = bytes("1f8b081e0000000002ff0200aaaa6e0063005a26");
        let coded = [header, bytes(FIXED), bytes("8088f9e511000000")].concat();
        assert_eq!(decoded("gzip", &coded, 100), Some((hello.to_string(), true)));
        let twice = [bytes(GZIP), bytes(GZIP)].concat();
        assert_eq!(decoded("gzip", &twice, 100), Some((hello.repeat(2), true)));
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
