//! Validation: asking the origin server whether what is stored still holds, and what its answer does
//! to it. RFC 9111 §4.3, §3.2.
//!
//! Validators are offered byte for byte, because origin servers compare strings. What a 304 brings is
//! merged here; whether the result may be kept is asked of `storing.rs` again.

use std::sync::Arc;

use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::message::fields::{Fields, text_value};
use crate::policy::partial::{Strong, strong_validator};
use crate::policy::precondition::opaque;
use crate::policy::stored::{StoredHead, StoredResponse};

/// The most variants whose tags are offered in one request.
const TAGS_MAX: usize = 16;
/// The most bytes of tags that are offered in one request.
const TAGS_BYTES_MAX: usize = 2048;

/// Has it a validator that can be offered to the origin server?
pub fn has_validator(fields: &Fields) -> bool {
    fields.contains(ETAG.as_str()) || fields.contains(LAST_MODIFIED.as_str())
}

/// Those among `variants`, none of which fits the request, whose tags the origin server may recognise
/// as fitting it (§4.1, §4.3.1); one response a tag.
pub fn offerable(variants: &[Arc<StoredResponse>]) -> Vec<Arc<StoredResponse>> {
    let mut offered: Vec<Arc<StoredResponse>> = Vec::new();
    let mut bytes = 0;
    for stored in variants.iter().filter(|stored| stored.part.is_none()) {
        let Some(tag) = stored.fields.get(ETAG.as_str()) else { continue };
        let known = |other: &Arc<StoredResponse>| other.fields.get(ETAG.as_str()) == Some(tag);
        bytes += tag.len() + 2;
        if offered.len() == TAGS_MAX || bytes > TAGS_BYTES_MAX {
            break;
        }
        if !offered.iter().any(known) {
            offered.push(Arc::clone(stored));
        }
    }
    offered
}

/// Makes a request conditional: the client's own conditions give way to the validators of what is
/// offered (§4.3.1). A `Range` stays; it counts only if what is stored no longer holds.
pub fn make_conditional(sent: &mut Fields, offered: &[Arc<StoredResponse>]) {
    sent.remove(IF_NONE_MATCH.as_str());
    sent.remove(IF_MODIFIED_SINCE.as_str());
    let tags: Vec<&[u8]> = offered
        .iter()
        .filter_map(|stored| stored.fields.get(ETAG.as_str()).map(HeaderValue::as_bytes))
        .collect();
    if let Ok(tags) = HeaderValue::from_bytes(&tags.join(&b", "[..]))
        && !tags.is_empty()
    {
        sent.append(IF_NONE_MATCH, tags);
    }
    if let [only] = offered
        && let Some(date) = only.fields.get(LAST_MODIFIED.as_str())
    {
        sent.append(IF_MODIFIED_SINCE, date.clone());
    }
}

/// Asks for what `prefix`, a part from the front, lacks of the whole (§3.3).
pub fn ask_for_rest(sent: &mut Fields, prefix: &StoredResponse) {
    sent.set(RANGE, text_value(format!("bytes={}-", prefix.content.len())));
    sent.remove(IF_RANGE.as_str());
    let validator = match strong_validator(prefix) {
        Some(Strong::Tag(_)) => prefix.fields.get(ETAG.as_str()),
        Some(Strong::Modified(_)) => prefix.fields.get(LAST_MODIFIED.as_str()),
        None => None,
    };
    if let Some(validator) = validator {
        sent.append(IF_RANGE, validator.clone());
    }
}

/// Takes out all that asks for less than the whole response.
pub fn make_unconditional(sent: &mut Fields) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
        sent.remove(name.as_str());
    }
}

/// Which of the offered responses does a 304 confirm (§4.3.4)? `None` if it is about none of them:
/// then the origin server has to be asked again, without a condition.
pub fn confirmed<'a>(
    offered: &'a [Arc<StoredResponse>],
    received: &Fields,
) -> Option<&'a Arc<StoredResponse>> {
    let Some(tag) = received.get(ETAG.as_str()).map(|tag| tag.as_bytes().trim_ascii()) else {
        // It says nothing that contradicts; but which one of several is meant cannot be told.
        let [only] = offered else { return None };
        return Some(only);
    };
    let weak = tag.starts_with(b"W/");
    offered.iter().find(|stored| {
        let own = stored.fields.get(ETAG.as_str()).map(|own| own.as_bytes().trim_ascii());
        own.is_some_and(|own| own == tag || weak && opaque(own) == opaque(tag))
    })
}

/// A stored response's fields after a 304, or a 200 to HEAD, brought others (§3.2): each name that
/// came replaces the stored lines of that name. The length stays what it is, and an age that did not
/// come is not kept.
pub fn merged(stored: &StoredHead, received: &Fields) -> Fields {
    let stays = |name: &HeaderName| {
        name == "content-length" || name == "content-range" && stored.part.is_some()
    };
    let mut fields = stored.fields.clone();
    fields.retain(|name, _| stays(name) || name != "age" && !received.contains(name.as_str()));
    for (name, value) in received.iter().filter(|(name, _)| !stays(name)) {
        fields.append(name.clone(), value.clone());
    }
    fields
}

/// Is a 200 to HEAD about what is stored (§4.3.5)? Its validators and its length must not contradict;
/// what is absent does not.
pub fn head_confirms(stored: &StoredResponse, received: &Fields, length: Option<u64>) -> bool {
    let agrees = |name: &str| match (received.get(name), stored.fields.get(name)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    stored.status == StatusCode::OK
        && agrees(ETAG.as_str())
        && agrees(LAST_MODIFIED.as_str())
        && length.is_none_or(|length| length == stored.content.len())
}
