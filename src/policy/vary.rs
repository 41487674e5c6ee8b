//! Selecting header fields: which of the stored responses fits this request? RFC 9111 §4.1.
//!
//! What is compared is the request as the origin server gets it, so that a field which the proxy
//! writes itself (`X-Forwarded-For`, say) takes part like any other. Values are normalised first:
//! joined, without the white space around commas; language ranges in order of their weights.

use http::HeaderName;

use crate::message::fields::Fields;
use crate::policy::stored::StoredHead;

/// The selecting header fields of a stored response and their values in the request it answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selecting(Vec<(HeaderName, Option<Vec<u8>>)>);

impl Selecting {
    /// The values in `request` of the fields that `response` names in `Vary`. `None` if it names
    /// `*`, or something that is no field name: such a response matches no request.
    pub fn read(response: &Fields, request: &Fields) -> Option<Self> {
        let mut values: Vec<(HeaderName, Option<Vec<u8>>)> = Vec::new();
        for member in response.members("vary") {
            if member == b"*" {
                return None;
            }
            let name = HeaderName::from_bytes(member).ok()?;
            if !values.iter().any(|(known, _)| *known == name) {
                let value = normalised(&name, request);
                values.push((name, value));
            }
        }
        Some(Self(values))
    }

    /// The names, and the values where there were any.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, Option<&[u8]>)> {
        self.0.iter().map(|(name, value)| (name, value.as_deref()))
    }

    /// Does the response fit every request alike?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same fields with their values in another request.
    #[must_use]
    pub fn of_request(&self, request: &Fields) -> Self {
        let value = |(name, _): &(HeaderName, _)| (name.clone(), normalised(name, request));
        Self(self.0.iter().map(value).collect())
    }

    /// One text for all the values: requests that differ in none of them have the same.
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, value) in &self.0 {
            text.extend_from_slice(name.as_str().as_bytes());
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

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        let values = self.0.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len));
        self.0.capacity() * size_of::<(HeaderName, Option<Vec<u8>>)>() + values.sum::<usize>()
    }
}

impl FromIterator<(HeaderName, Option<Vec<u8>>)> for Selecting {
    fn from_iter<I: IntoIterator<Item = (HeaderName, Option<Vec<u8>>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Does `stored` fit `request` (as the origin server would get it)?
///
/// Each selecting field must have the same value in both requests, absent matching absent. A
/// language the client prefers to all others also fits a response that is in this language.
pub fn matches(stored: &StoredHead, request: &Fields) -> bool {
    stored.selecting.0.iter().all(|(name, value)| {
        *value == normalised(name, request)
            || (name == "accept-language" && is_in_preferred_language(stored, request))
    })
}

/// The value of a selecting field, normalised (§4.1); `None` where the field is absent.
fn normalised(name: &HeaderName, request: &Fields) -> Option<Vec<u8>> {
    request.get(name.as_str())?;
    let mut joined = Vec::new();
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
fn is_in_preferred_language(stored: &StoredHead, request: &Fields) -> bool {
    let ranges = language_ranges(request);
    let Some((weight, preferred)) = ranges.first() else { return false };
    let alone = ranges.get(1).is_none_or(|(second, _)| second < weight);
    let mut languages = stored.fields.members("content-language");
    let language = languages.next();
    alone
        && *weight > 0
        && languages.next().is_none()
        && language.is_some_and(|language| language.eq_ignore_ascii_case(preferred))
}
