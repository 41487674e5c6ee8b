//! Percent-encoding: one spelling for URIs that mean the same. RFC 3986 §2.1, §6.2.2.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The name or value of a query parameter without its encoding: `utm%5Fsource` is `utm_source`.
pub fn decoded(text: &str) -> Cow<'_, [u8]> {
    // Most names have nothing to decode, and this runs for each parameter of each request.
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut rest = text.as_bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some((first, after)) = rest.split_first() {
        if let Some(byte) = triplet(rest) {
            plain.push(byte);
            rest = &rest[3..];
        } else {
            // A plus sign is a space in forms, and a `%` that begins nothing is itself (WHATWG URL,
            // form parsing).
            plain.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    Cow::Owned(plain)
}

/// A path, with a query or without, in the one spelling of all that mean the same: bytes that need no
/// encoding have none, and hexadecimal digits are capitals (RFC 3986 §6.2.2.1, §6.2.2.2). What stands
/// for a reserved byte stays encoded, because it means something else.
///
/// A segment or parameter in which a `%` begins nothing is none of a URI, and stays as it is: decoding
/// around it could make up an encoding that nobody wrote (`%2%65`).
pub fn normalised(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut normal = String::with_capacity(text.len());
    // Part by part, because a mistake in one says nothing about the others.
    for part in text.split_inclusive(['/', '?', '&']) {
        let before = normal.len();
        // What was added before the mistake was found is taken back.
        if !push_normalised(&mut normal, part) {
            normal.truncate(before);
            normal.push_str(part);
        }
    }
    if normal == text { Cow::Borrowed(text) } else { Cow::Owned(normal) }
}

/// Adds a part in its normal spelling; `false` if a `%` in it begins nothing.
fn push_normalised(normal: &mut String, part: &str) -> bool {
    let mut rest = part;
    while let Some(at) = rest.find('%') {
        let Some(byte) = triplet(&rest.as_bytes()[at..]) else { return false };
        normal.push_str(&rest[..at]);
        // RFC 3986 §2.3: these mean the same with and without encoding. All others are kept encoded,
        // because `%2F` is not a slash that separates segments.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(char::from(byte));
        } else {
            let _ = write!(normal, "%{byte:02X}");
        }
        rest = &rest[at + 3..];
    }
    normal.push_str(rest);
    true
}

/// Percent-encodes the bytes that a URI may not hold (RFC 3986 §2), and leaves `%` alone.
pub fn encode(uri: &str) -> String {
    encode_behind("", uri)
}

/// The same, behind the beginning of the URI, which has nothing to encode.
pub fn encode_behind(begin: &str, rest: &str) -> String {
    let mut encoded = String::with_capacity(begin.len() + rest.len());
    encoded.push_str(begin);
    // Most have nothing to encode.
    if rest.bytes().all(is_of_uri) {
        encoded.push_str(rest);
        return encoded;
    }
    for byte in rest.bytes() {
        if is_of_uri(byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// May this byte stand in a URI?
fn is_of_uri(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'<' | b'>' | b'"' | b'`' | b'{' | b'}' | b'|' | b'\\' | b'^')
}

/// A request target as text. If it is not UTF-8, as old clients write theirs, its bytes beyond ASCII
/// are percent-encoded.
pub fn encode_beyond_ascii(target: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(target) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(target.len() + 16);
    for byte in target {
        if byte.is_ascii() {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// The byte that `bytes` begin with in percent-encoding: `%7E…` is `~`.
fn triplet(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_in_another_encoding_is_percent_encoded() {
        assert_eq!(encode_beyond_ascii("/é".as_bytes()), "/é");
        assert_eq!(encode_beyond_ascii(b"/a%20\xe9\xff"), "/a%20%E9%FF");
    }

    #[test]
    fn parameters_are_decoded() {
        #[rustfmt::skip]
        let table = [
            ("utm_x", "utm_x"), ("utm%5Fx", "utm_x"), ("%74%6F", "to"), ("a+b", "a b"), ("%", "%"),
            ("%4", "%4"), ("%g1", "%g1"), ("%%41", "%A"), ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(&*decoded(text), expected.as_bytes(), "{text}");
        }
    }
    #[test]
    fn what_means_the_same_is_spelt_alike() {
        #[rustfmt::skip]
        let table = [
            ("/%7Ea", "/~a"), ("/~a", "/~a"), ("/%7ea%41%2d", "/~aA-"), ("/%2f%2F", "/%2F%2F"),
            ("/a?b=%41&c=%26%3d", "/a?b=A&c=%26%3D"), ("/%c3%A9", "/%C3%A9"), ("/é%7E", "/é~"),
            ("/%252e", "/%252e"), ("/%2e%2E/", "/../"), ("/%20+", "/%20+"), ("", ""), ("/a%", "/a%"),
            ("/%2%65", "/%2%65"), ("/%%41%41", "/%%41%41"), ("/%7e%4", "/%7e%4"), ("/%é1", "/%é1"),
            ("/%7e/%?%7e&%", "/~/%?~&%"), ("/%2/%65", "/%2/e"),
        ];
        for (text, expected) in table {
            assert_eq!(normalised(text), expected, "RFC 3986 §6.2.2: {text}");
            assert_eq!(normalised(expected), expected, "once is enough: {text}");
        }
        assert!(matches!(normalised("/a%20b"), Cow::Borrowed(_)), "nothing is copied in vain");
    }
}
