//! What is written into Redis, and what its answers mean. What makes no sense is as if it were not there.

use redis::Value;

use crate::policy::stored::StoredHead;
use crate::store::codec;
use crate::store::redis::purges::{RedisState, read_purge};

/// The number of a response, how many purges it has stood, where its content is, and a checksum of these.
const HEAD_BYTES: usize = 16 + 16 + 1 + 8;

/// A field of a hash, taken apart.
pub(super) struct HashField<'a> {
    pub number: u64,
    pub purges: u64,
    /// The frame has the content, too.
    pub is_inline: bool,
    pub frame: &'a [u8],
}

/// A response as a field of a hash. It begins with its number, in hexadecimal digits.
pub(super) fn write(number: u64, purges: u64, is_inline: bool, frame: &[u8]) -> Vec<u8> {
    let kind = if is_inline { 'i' } else { 'c' };
    let head = format!("{number:016x}{purges:016x}{kind}");
    let sum = codec::checksum(0, 0, head.as_bytes());
    [format!("{head}{sum:08x}").as_bytes(), frame].concat()
}

/// Reads such a field.
pub(super) fn read(value: &[u8]) -> Option<HashField<'_>> {
    // Anybody may write into a shared Redis, and other versions do: what is not exactly this is not there.
    let (head, frame) = value.split_at_checked(HEAD_BYTES)?;
    let text = std::str::from_utf8(head).ok()?;
    let number = |from: usize, to: usize| u64::from_str_radix(text.get(from..to)?, 16).ok();
    if number(33, 41)? != u64::from(codec::checksum(0, 0, &head[..33])) {
        return None;
    }
    Some(HashField {
        number: number(0, 16)?,
        purges: number(16, 32)?,
        is_inline: head[32] == b'i',
        frame,
    })
}

/// A piece of content with its checksum.
pub(super) fn piece(salt: u64, piece: u64, bytes: &[u8]) -> Vec<u8> {
    [&codec::checksum(salt, piece, bytes).to_le_bytes(), bytes].concat()
}

/// The piece, if it is this one, and whole.
pub(super) fn checked(salt: u64, piece: u64, value: &[u8]) -> Option<&[u8]> {
    let (sum, bytes) = value.split_at_checked(4)?;
    (sum == codec::checksum(salt, piece, bytes).to_le_bytes()).then_some(bytes)
}

/// The bytes of an answer.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// A number, 0 for none.
pub(super) fn number(value: &Value) -> u64 {
    match value {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        other => bytes(other)
            .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
            .unwrap_or(0),
    }
}

/// A list's members.
pub(super) fn members(value: &Value) -> &[Value] {
    match value {
        Value::Array(members) | Value::Set(members) => members,
        _ => &[],
    }
}

/// The first two numbers of a list.
pub(super) fn two_numbers(value: &Value) -> (u64, u64) {
    let at = |index: usize| members(value).get(index).map_or(0, number);
    (at(0), at(1))
}

/// The fields of a hash.
pub(super) fn fields(value: &Value) -> Vec<(&[u8], &[u8])> {
    match value {
        Value::Map(pairs) => {
            pairs.iter().filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect()
        }
        other => members(other)
            .chunks_exact(2)
            .filter_map(|pair| Some((bytes(&pair[0])?, bytes(&pair[1])?)))
            .collect(),
    }
}

/// What has been cleared and purged.
pub(super) fn state(value: &Value) -> RedisState {
    let mut state = RedisState::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (name, value) in fields(value) {
        match name {
            b"generation" => state.generation = text(value).parse().unwrap_or(0),
            b"purges" => state.purges = text(value).parse().unwrap_or(0),
            // "p7" is the seventh purge: when, and what.
            name => {
                let number = name.strip_prefix(b"p").and_then(|number| text(number).parse().ok());
                if let Some(number) = number {
                    state.remembered.insert(number, read_purge(value));
                }
            }
        }
    }
    state
}

/// The field of a response: the same for what has the same selecting header fields and is the same part.
pub(super) fn field(head: &StoredHead) -> String {
    let fingerprint = head.selecting.fingerprint();
    let sum = |salt| codec::checksum(salt, 0, &fingerprint);
    let part = head.part.map(|part| format!(":{}-{}", part.span.first, part.span.last));
    format!("{:08x}{:08x}{}", sum(1), sum(2), part.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::policy::key::Glob;
    use crate::policy::purging::Selector;
    use crate::store::redis::purges::{read_selector, selector_text};

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let written = write(7, 3, true, b"frame");
        let read_back = read(&written).expect("it was just written");
        assert_eq!((read_back.number, read_back.purges, read_back.frame), (7, 3, &b"frame"[..]));
        assert!(read_back.is_inline);
        for at in 0..HEAD_BYTES {
            let mut changed = written.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_none(), "{at}");
            assert!(read(&written[..at]).is_none(), "{at}");
        }
        let bytes = piece(7, 1, b"content");
        assert_eq!(checked(7, 1, &bytes), Some(&b"content"[..]));
        assert_eq!((checked(7, 2, &bytes), checked(8, 1, &bytes)), (None, None), "another's");
        assert_eq!(checked(7, 1, &bytes[..8]), None);
    }

    #[test]
    fn selectors_are_written_and_read() {
        for selector in [
            Selector::All,
            Selector::Stale,
            Selector::Uri("http://o/ü".into()),
            Selector::Prefix("http://o/".into()),
            Selector::Match(Glob::new("*.png")),
            Selector::Tag("t".into()),
        ] {
            let text = selector_text(&selector);
            assert_eq!(read_selector(&text), selector);
            let written = [b"7 ", &text[..]].concat();
            assert_eq!(read_purge(&written), (selector, Timestamp(7)));
        }
    }

    #[test]
    fn a_purge_that_makes_no_sense_is_of_everything() {
        for text in ["7 ", "7 x", "7 xhttp://o/", "7", "", " ", "u", "later uhttp://o/", "-1 s"] {
            assert_eq!(read_purge(text.as_bytes()).0, Selector::All, "{text:?}");
        }
    }
}
