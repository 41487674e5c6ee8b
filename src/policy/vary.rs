//! Selecting header fields: which of the stored responses fits this request? RFC 9111 §4.1.
//!
//! What is compared is the request as the origin server gets it, so that a field which the proxy
//! writes itself (`X-Forwarded-For`, say) takes part like any other. Values are normalised first:
//! joined, without the white space around commas; language ranges in order of their weights.
//! Credentials
//! are never kept: a digest stands for them.

use http::HeaderName;

use crate::message::fields::{FieldValues, Fields};
use crate::policy::credentials::is_credential;
use crate::policy::digest::Salt;

/// The most selecting header fields of one response. Every 304 may name more (§3.2), each is kept with a
/// value, and each lookup compares them all; an origin server that names more means none in particular.
pub(crate) const NAMES_MAX: usize = 64;

/// A request as the origin server gets it, and the key of its credentials' digests. The two go
/// together, so that no selecting value can be read in clear.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its header section.
    pub fields: &'a Fields,
    /// The salt of the store.
    pub salt: &'a Salt,
}

/// The selecting header fields of a stored response and their values in the request it answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selecting(Box<[(HeaderName, Option<Vec<u8>>)]>);

impl Selecting {
    /// The values in `request` of the fields that `response` names in `Vary`. `None` if it names `*`,
    /// something that is no field name, or more than `NAMES_MAX`: such a response matches no request.
    pub fn read(response: &Fields, request: Sent<'_>) -> Option<Self> {
        // RFC 9111 §4.1: one `*` among the members, in any line, and no request ever matches.
        let mut values: Vec<(HeaderName, Option<Vec<u8>>)> = Vec::new();
        for member in response.members("vary") {
            let name = selecting_name(member)?;
            if !values.iter().any(|(known, _)| *known == name) {
                // Each name is compared at every lookup: an origin server decides how many, so there is
                // a bound.
                if values.len() == NAMES_MAX {
                    return None;
                }
                let value = selecting_value(&name, request);
                values.push((name, value));
            }
        }
        Some(Self(values.into()))
    }

    /// The names, and the values where there were any.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, Option<&[u8]>)> {
        self.0.iter().map(|(name, value)| (name, value.as_deref()))
    }

    /// Does the response fit every request?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same fields with their values in another request.
    #[must_use]
    pub(crate) fn of_request(&self, request: Sent<'_>) -> Self {
        let value = |(name, _): &(HeaderName, _)| (name.clone(), selecting_value(name, request));
        Self(self.0.iter().map(value).collect())
    }

    /// Are all fields of `other` among these, with the same values?
    pub(crate) fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|selecting| self.0.contains(selecting))
    }

    /// The same fields and values, and those of `other` whose names are not among them; `None` if these
    /// are too many.
    #[must_use]
    pub fn with(&self, other: &Self) -> Option<Self> {
        let is_new = |(name, _): &&(HeaderName, _)| !self.0.iter().any(|(known, _)| known == name);
        let all: Vec<_> = self.0.iter().chain(other.0.iter().filter(is_new)).cloned().collect();
        (all.len() <= NAMES_MAX).then(|| Self(all.into()))
    }

    /// One text for all the values: requests that differ in none of them have the same text.
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, value) in &self.0 {
            text.extend_from_slice(name.as_str().as_bytes());
            // An absent field and an empty one are different values (§4.1).
            match value {
                Some(value) => {
                    text.push(b':');
                    text.extend_from_slice(value);
                }
                None => text.push(b'-'),
            }
            text.push(b'\n');
        }
        text
    }

    /// Bytes in memory, those that were allocated and not used included.
    pub(crate) fn memory_bytes(&self) -> usize {
        let values = self.0.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len));
        size_of_val(&*self.0) + values.sum::<usize>()
    }
}

impl FromIterator<(HeaderName, Option<Vec<u8>>)> for Selecting {
    fn from_iter<I: IntoIterator<Item = (HeaderName, Option<Vec<u8>>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Does a stored response fit `request` (as the origin server would get it)? `selecting` and `fields` are
/// those of the stored response.
///
/// Each selecting field must have the same value in both requests, absent matching absent. A
/// language the client prefers to all others also fits a response that is in this language.
pub fn matches(selecting: &Selecting, fields: &impl FieldValues, request: Sent<'_>) -> bool {
    // Deviation from §4.1, which speaks of values that match: a response that is written in the
    // client's one preferred language is what the origin server would choose, so it is given although
    // another list of languages brought it.
    selecting.0.iter().all(|(name, value)| {
        *value == selecting_value(name, request)
            || (name == "accept-language" && is_in_preferred_language(fields, request.fields))
    })
}

/// Does `response` name something in `Vary` for which no request can match?
pub(crate) fn matches_none(response: &Fields) -> bool {
    response.members("vary").any(|member| selecting_name(member).is_none())
        || names_too_many(response)
}

/// Does `response` name more than `NAMES_MAX` fields in `Vary`?
pub(crate) fn names_too_many(response: &Fields) -> bool {
    let mut names: Vec<&[u8]> = Vec::new();
    for member in response.members("vary") {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(member)) {
            names.push(member);
        }
        if names.len() > NAMES_MAX {
            return true;
        }
    }
    false
}

/// The name of a selecting field; `None` for `*`, and for what is no field name.
fn selecting_name(member: &[u8]) -> Option<HeaderName> {
    // `*` is a token, and so a valid field name.
    HeaderName::from_bytes(member).ok().filter(|name| name != "*")
}

/// What is kept and compared of a selecting field: its value, or for credentials a digest of it.
fn selecting_value(name: &HeaderName, request: Sent<'_>) -> Option<Vec<u8>> {
    let value = normalised(name, request.fields)?;
    let is_secret = is_credential(name.as_str());
    Some(if is_secret { request.salt.digest(name.as_str(), &value) } else { value })
}

/// The value of a selecting field, normalised (§4.1); `None` where the field is absent.
fn normalised(name: &HeaderName, request: &Fields) -> Option<Vec<u8>> {
    // Absent matches only absent, so it must not become an empty list.
    request.get(name.as_str())?;
    let mut joined = Vec::new();
    // Its ranges are ordered by weight: `en, de` and `de, en` mean the same (RFC 9110 §12.5.4). Some
    // servers take the first one all the same; they get the order of names, for all clients alike.
    if name == "accept-language" {
        for (_, range) in language_ranges(request) {
            joined.extend_from_slice(&range);
            joined.push(b',');
        }
    } else {
        for member in request.members(name.as_str()) {
            joined.extend_from_slice(member);
            joined.push(b',');
        }
    }
    // §4.1 permits to normalise white space where the syntax does. Unknown fields are taken for lists:
    // one that is none has no commas to normalise, but for those in quoted strings, which stay.
    joined.pop();
    Some(joined)
}

/// Language ranges by falling weight, in thousandths, and then by name (RFC 9110 §12.5.4): two
/// requests that rank the same languages alike get the same list.
fn language_ranges(request: &Fields) -> Vec<(u16, Vec<u8>)> {
    let mut ranges: Vec<(u16, Vec<u8>)> = request
        .members("accept-language")
        .map(|member| {
            let mut parts = member.split(|byte| *byte == b';');
            let range = parts.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
            let weight = parts.next().and_then(|part| {
                let part = part.trim_ascii();
                let value = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="))?;
                std::str::from_utf8(value.trim_ascii()).ok()?.parse::<f32>().ok()
            });
            // RFC 9110 §12.4.2 gives weights three digits; whole numbers can be compared for equality.
            let thousandths = weight.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0;
            // The cast cannot fail: the weight lies between 0 and 1000 (a NaN becomes 0).
            #[allow(clippy::cast_sign_loss)]
            (thousandths as u16, range)
        })
        .collect();
    ranges.sort_by(|(weight, range), (other_weight, other_range)| {
        other_weight.cmp(weight).then_with(|| range.cmp(other_range))
    });
    // The weights themselves do not matter once they have given the order, but a refusal does.
    for (weight, range) in &mut ranges {
        if *weight == 0 {
            range.extend_from_slice(b";q=0");
        }
    }
    ranges
}

/// Is the stored response in the one language that the client prefers to all others?
fn is_in_preferred_language(stored: &impl FieldValues, request: &Fields) -> bool {
    let ranges = language_ranges(request);
    let Some((weight, preferred)) = ranges.first() else { return false };
    // Two languages of the same weight leave the choice to the origin server, and it has not been
    // asked.
    let alone = ranges.get(1).is_none_or(|(second, _)| second < weight);
    let mut languages = stored.list("content-language");
    let language = languages.next();
    alone
        && *weight > 0
        && languages.next().is_none()
        && language.is_some_and(|language| language.eq_ignore_ascii_case(preferred))
}
