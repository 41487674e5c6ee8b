//! What of the stored responses is worth compressing in memory (`--cache-compress`). No RFC has a word about it: what
//! clients get is as it came.

use crate::message::fields::FieldValues;
use crate::policy::stored::StoredHead;

/// Less content than this saves less than it costs.
pub const PACKED_MIN: u64 = 512;

/// Is content of `length` bytes under this head likely to be much shorter when it is compressed?
pub fn is_worth_packing(head: &StoredHead, length: u64) -> bool {
    let is_encoded = head
        .fields
        .members("content-encoding")
        .any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    // A part is put together with others, byte by byte.
    length >= PACKED_MIN
        && head.part.is_none()
        && !is_encoded
        && head.fields.value("content-type").is_some_and(is_text)
}

/// Is this the media type of text, whatever it is called (RFC 9110 §8.3.1)?
fn is_text(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    // RFC 6839: the suffix says what the syntax is.
    let has_suffix = [&b"+json"[..], b"+xml"].iter().any(|suffix| essence.ends_with(suffix));
    let (kind, name) = match essence.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&essence[..slash], &essence[slash + 1..]),
        None => return false,
    };
    let is_known = matches!(
        name,
        b"json"
            | b"xml"
            | b"javascript"
            | b"x-javascript"
            | b"ecmascript"
            | b"x-ndjson"
            | b"yaml"
            | b"sql"
            | b"graphql"
            | b"wasm"
            | b"x-www-form-urlencoded"
    );
    // An endless stream is not stored, but a recorded one may be.
    kind == b"text" || has_suffix || kind == b"application" && is_known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_known_by_its_media_type() {
        #[rustfmt::skip]
        let table = [
            ("text/html; charset=utf-8", true), ("TEXT/plain", true), ("application/json", true),
            ("application/vnd.api+json;v=1", true), ("image/svg+xml", true), ("application/xml", true),
            ("application/javascript", true), ("application/x-ndjson", true),
            ("image/png", false), ("application/zip", false), ("application/octet-stream", false),
            ("video/mp4", false), ("json", false), ("", false), ("image/json", false),
        ];
        for (content_type, expected) in table {
            assert_eq!(is_text(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
