//! The client's own conditions, evaluated against a stored response. RFC 9110 §13, RFC 9111 §4.3.2.
//!
//! `If-None-Match` and `If-Modified-Since` are a cache's business. `If-Match` and
//! `If-Unmodified-Since` are not (§4.3.2): a request with one of them goes to the origin server as it
//! is. `If-Range` is here too; `range.rs` reads the ranges themselves.

use http::StatusCode;

use crate::clock::Timestamp;
use crate::message::fields::{FieldValues, Fields};
use crate::policy::stored::StoredHead;

/// Metadata of the representation, which a 304 leaves out: the client has it, or may not want it (RFC
/// 9110 §15.4.5). `Last-Modified` goes too where there is an `ETag`.
const LEFT_OUT_OF_304: [&str; 7] = [
    "content-digest",
    "content-type",
    "content-encoding",
    "content-language",
    "content-range",
    "content-md5",
    "content-disposition",
];

/// Do the request's conditions say that the client has what is stored already?
///
/// Asked of a 200 or 206 only: a condition is about a representation (§13.2.1).
pub fn is_not_modified(request: &Fields, stored: &StoredHead) -> bool {
    holds_for(request, stored.status, &stored.fields, stored.response_time)
}

/// The same for a response whose head has come at `response_time`.
pub(crate) fn holds_for(
    request: &Fields,
    status: StatusCode,
    response: &impl FieldValues,
    response_time: Timestamp,
) -> bool {
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return false;
    }
    if request.contains("if-none-match") {
        // §13.1.3: with If-None-Match, If-Modified-Since is not looked at.
        return matches_any(request, response);
    }
    // §13.1.3: an unreadable date is ignored, and so is a second line.
    let Some(since) = request.date("if-modified-since", response_time) else {
        return false;
    };
    since >= modified(response, response_time)
}

/// §13.1.2: does one of the tags fit the stored response's, weakly compared?
fn matches_any(request: &Fields, response: &impl FieldValues) -> bool {
    // Weakly, because the client has a representation that will do; what is combined byte for byte is
    // compared strongly.
    let own = response.value("etag").map(|tag| opaque(tag.trim_ascii()));
    request
        .get_all("if-none-match")
        .flat_map(|value| entity_tags(value.as_bytes()))
        .any(|tag| tag == b"*" || own.is_some_and(|own| own == opaque(tag)))
}

/// When a response was modified, as §4.3.2 reads it: `Last-Modified`, else `Date`, else the moment it
/// came. A client whose copy is older than that Date gets the whole, although it may have the same.
fn modified(response: &impl FieldValues, response_time: Timestamp) -> Timestamp {
    let date = |name| response.only_date(name, response_time);
    date("last-modified").or_else(|| date("date")).unwrap_or(response_time)
}

/// A tag without the mark of weakness: what weak comparison compares (§8.8.3.2).
pub(crate) fn opaque(tag: &[u8]) -> &[u8] {
    match tag.strip_prefix(b"W/") {
        Some(rest) if rest.starts_with(b"\"") => rest,
        _ => tag,
    }
}

/// Members of a list of entity tags: split at commas outside quotes. There are no escapes in a tag,
/// unlike in a quoted string (§8.8.3); nonsense is kept as it is and compared byte for byte.
pub fn entity_tags(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Not `split_unquoted`: a backslash in a tag is an ordinary byte.
    let mut quoted = false;
    value
        .split(move |byte| {
            quoted ^= *byte == b'"';
            *byte == b',' && !quoted
        })
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty())
}

/// Does `If-Range` let the range be served (§13.1.5)? Also where the request has none.
///
/// A tag must be strong and the same; a date must be the `Last-Modified`, and that must be strong
/// (§8.8.2.2).
pub fn if_range_holds(request: &Fields, stored: &StoredHead) -> bool {
    let mut lines = request.get_all("if-range");
    let Some(value) = lines.next().map(|value| value.as_bytes().trim_ascii()) else { return true };
    // Two lines cannot both hold. The whole is always right, only longer.
    if lines.next().is_some() {
        return false;
    }
    // A weak tag falls through, is no date either, and so does not hold: bytes of two representations
    // that are only equivalent must not meet.
    if value.starts_with(b"\"") {
        let own = stored.fields.get("etag").map(<[u8]>::trim_ascii);
        return own == Some(value);
    }
    let Some(date) = request.date("if-range", stored.response_time) else { return false };
    strong_last_modified(stored) == Some(date)
}

/// The `Last-Modified` of a stored response, where it is a strong validator.
pub(crate) fn strong_last_modified(stored: &StoredHead) -> Option<Timestamp> {
    strong_modification(&stored.fields, stored.response_time)
}

/// `Last-Modified`, where it is a strong validator: older than `Date` by so much that no second change
/// can hide in the same second (§8.8.2.2).
pub(crate) fn strong_modification(
    response: &impl FieldValues,
    now: Timestamp,
) -> Option<Timestamp> {
    // A cache cannot know that one clock made both dates, so a second is not enough. RFC 7232 §2.2.2 named a
    // minute.
    const SAFE_SECONDS: u32 = 60;
    let modified = response.only_date("last-modified", now)?;
    let date = response.only_date("date", now)?;
    (date.seconds_since(modified).0 >= SAFE_SECONDS).then_some(modified)
}

/// What is true of a representation, or of the 200 that brought it, and not of a 416.
const LEFT_OUT_OF_416: [&str; 19] = [
    "age",
    "cache-control",
    "cdn-cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "repr-digest",
    "set-cookie",
];

/// Takes out of a stored response's fields what a 416 does not carry (RFC 9110 §15.5.17). The others are
/// about the resource, and a browser may need them to read the response.
pub(crate) fn keep_for_416(fields: &mut Fields) {
    fields.retain(|name, _| !LEFT_OUT_OF_416.contains(&name.as_str()));
}

/// Takes out of a stored response's fields what a 304 does not carry (RFC 9110 §15.4.5).
pub(crate) fn keep_for_304(fields: &mut Fields) {
    let has_tag = fields.contains("etag");
    fields.retain(|name, _| {
        let name = name.as_str();
        !(LEFT_OUT_OF_304.contains(&name) || has_tag && name == "last-modified")
    });
}
