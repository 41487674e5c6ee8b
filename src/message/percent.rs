//! Percent-encoding: one spelling for URIs that mean the same. RFC 3986 §2.1, §6.2.2.

use std::borrow::Cow;

/// The name or value of a query parameter without its encoding: `utm%5Fsource` is `utm_source`.
pub fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut rest = text.as_bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some((first, after)) = rest.split_first() {
        match triplet(rest) {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[3..];
            }
            None => {
                plain.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    Cow::Owned(plain)
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
}
