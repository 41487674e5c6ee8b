//! Validation: asking the origin server whether what is stored still holds, and what its answer does
//! to it. RFC 9111 §4.3, §3.2.
//!
//! Validators are offered byte for byte, because origin servers compare strings. What a 304 brings is
//! merged here; whether the result may be kept is asked of `storing.rs` again.

use http::header::{
    CACHE_CONTROL, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, PRAGMA, RANGE, TE, VARY,
};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::clock::Timestamp;
use crate::message::fields::{FieldValues, Fields, text_value};
use crate::policy::partial::{Strong, strong_validator};
use crate::policy::precondition::{opaque, strong_modification};
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::vary::names_too_many;

/// Has it a validator that can be offered to the origin server? Any: whether the validator is strong is
/// the origin server's to weigh.
pub fn has_validator(fields: &impl FieldValues) -> bool {
    [ETAG, LAST_MODIFIED].iter().any(|name| fields.value(name.as_str()).is_some())
}

/// Makes a request conditional: the client's own conditions give way to the validators of `stored`
/// (§4.3.1). A `Range` stays; it counts only if what is stored no longer holds.
///
/// The tags of variants that were made for other requests are not offered, though §4.1 permits it:
/// weak tags, and the strong ones of some servers, are the same for all codings, types and users, so
/// that a 304 would select a variant that this client cannot take, or may not see.
pub fn make_conditional(sent: &mut Fields, stored: &StoredHead) {
    // Byte for byte as they came: origin servers compare strings, and a tag without quotation marks
    // must return without them. Both are sent where there are both; a server that knows tags ignores
    // the date (RFC 9110 §13.1.3).
    for (condition, validator) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        match stored.fields.get(validator.as_str()) {
            Some(value) => sent.set(condition, stored_value(value)),
            None => sent.remove(condition.as_str()),
        }
    }
}

/// Asks for what `prefix`, a part from the front, lacks of the whole (§3.3).
pub fn ask_for_rest(sent: &mut Fields, prefix: &StoredResponse) {
    // Without a validator the server may answer with the rest of another representation;
    // `partial::completes` then refuses it and the whole is asked for.
    sent.set(RANGE, text_value(format!("bytes={}-", prefix.content.len())));
    let validator = match strong_validator(prefix) {
        Some(Strong::Tag(_)) => prefix.fields.get(ETAG.as_str()),
        Some(Strong::Modified(_)) => prefix.fields.get(LAST_MODIFIED.as_str()),
        None => None,
    };
    // The client's own If-Range is about what the client holds, not about this part.
    match validator {
        Some(validator) => sent.set(IF_RANGE, stored_value(validator)),
        None => sent.remove(IF_RANGE.as_str()),
    }
}

/// A value of a stored field.
fn stored_value(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).expect("it was a value before")
}

/// Takes out what one client wanted of the representation and of the caches on the way: the rest is what
/// a cache asks with on its own account (RFC 5861 §3). `only-if-cached`, say, would make the next cache
/// answer 504.
pub fn make_own(sent: &mut Fields) {
    // RFC 5861 §3: a refresh is the cache's own request. It once carried a client's Range, and what
    // players read in ranges was never refreshed.
    make_unconditional(sent);
    // Nor is there anybody to take trailer fields.
    for name in [IF_MATCH, IF_UNMODIFIED_SINCE, CACHE_CONTROL, PRAGMA, TE] {
        sent.remove(name.as_str());
    }
}

/// Takes out all that asks for less than the whole response.
pub fn make_unconditional(sent: &mut Fields) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
        sent.remove(name.as_str());
    }
}

/// Does a 304, received at `now`, confirm the stored response whose validators it was asked about
/// (§4.3.4)? If not, the origin server has to be asked again, without a condition.
///
/// A 304 without any validator says nothing that contradicts.
pub fn confirms(stored: &StoredHead, received: &Fields, now: Timestamp) -> bool {
    // §4.3.4 in its order: a strong tag selects, then a weak one or a date, then nothing at all.
    let Some(tag) = received.get(ETAG.as_str()).map(|tag| tag.as_bytes().trim_ascii()) else {
        return same_modification(stored, received, now).unwrap_or(true);
    };
    // A tag in the 304 and none stored: only the date could still say that it is the same.
    let Some(own) = stored.fields.get(ETAG.as_str()).map(<[u8]>::trim_ascii) else {
        return same_modification(stored, received, now).unwrap_or(false);
    };
    // A 304 with another strong tag is about another representation, kind as it would be to take it:
    // the client would get old content under a new tag.
    if !tag.starts_with(b"W/") {
        return own == tag;
    }
    // A weak tag says less than a date that is strong.
    let is_strong = strong_modification(received, now).is_some();
    opaque(own) == opaque(tag)
        && (!is_strong || same_modification(stored, received, now).unwrap_or(true))
}

/// Has `received` the `Last-Modified` of the stored response? `None` if it has none that can be read.
fn same_modification(stored: &StoredHead, received: &Fields, now: Timestamp) -> Option<bool> {
    let name = LAST_MODIFIED.as_str();
    // An origin server may repeat what it cannot read itself.
    if received.contains(name) && received.value(name) == stored.fields.get(name) {
        return Some(true);
    }
    let modified = received.date(name, now)?;
    Some(stored.fields.date(name, now) == Some(modified))
}

/// A stored response's fields after a 304, or a 200 to HEAD, brought others (§3.2): the lines of each name
/// that came, spelt as they came, replace the stored lines of that name, where the first of these stood.
///
/// The length stays what it is, and an age that did not come is not kept. `Vary` grows and never shrinks:
/// what has selected the stored response still does, whatever one 304 leaves out (§4.1); grown too long, it
/// is `*`.
pub fn merged(stored: &StoredHead, received: &Fields) -> Fields {
    // Deviation from §3.2: it excepts fewer fields, but these tell of content that a 304 does not
    // bring.
    let stays = |name: &HeaderName| {
        // They are about the content of one message, and this one has none (RFC 9530 §2).
        name == "content-length"
            || name == "content-digest"
            || name == "content-range" && stored.part.is_some()
    };
    let old = stored.fields.to_fields();
    let mut fields = Fields::with_capacity(old.len() + received.len());
    for line in old.lines() {
        if !stays(line.name) && received.contains(line.name.as_str()) {
            // All that came of a name is added at its first stored line, and the others are dropped.
            if !fields.contains(line.name.as_str()) {
                received
                    .lines()
                    .filter(|new| new.name == line.name)
                    .for_each(|new| fields.append_line(new));
            }
        } else if line.name != "age" {
            fields.append_line(line);
        }
    }
    let is_new = |name: &HeaderName| !stays(name) && !stored.fields.contains(name.as_str());
    received.lines().filter(|new| is_new(new.name)).for_each(|new| fields.append_line(new));
    // Deviation from §3.2: Vary is not replaced but extended. A 304 that leaves out a name (servers do)
    // would open a response that was selected by it to all other requests.
    let has = |member: &&[u8]| {
        received.members(VARY.as_str()).any(|other| other.eq_ignore_ascii_case(member))
    };
    if received.contains(VARY.as_str()) {
        for member in stored.fields.members(VARY.as_str()).filter(|member| !has(member)) {
            fields.append(VARY, HeaderValue::from_bytes(member).expect("a piece of a field value"));
        }
        // Names add up over many 304s: a new one each time let the stored head grow without bound.
        if names_too_many(&fields) {
            fields.set(VARY, HeaderValue::from_static("*"));
        }
    }
    fields
}

/// Is a 200 to HEAD about what is stored (§4.3.5)? Both must have the same validators, or neither one,
/// and its length must not contradict.
pub fn head_confirms(stored: &StoredResponse, received: &Fields, length: Option<u64>) -> bool {
    let agrees = |name: &str| received.value(name) == stored.fields.get(name);
    // A validator on one side alone contradicts as well: the representation has gained it, or lost it,
    // since.
    stored.status == StatusCode::OK
        && agrees(ETAG.as_str())
        && agrees(LAST_MODIFIED.as_str())
        && length.is_none_or(|length| length == stored.content.len())
}
