//! Which of the responses stored for a target URI is to answer: a whole one, or a part that holds what
//! is asked for. RFC 9111 §4, §3.3, §4.1.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::message::fields::{FieldValues, Fields};
use crate::policy::precondition::if_range_holds;
use crate::policy::range::{self, Spec};
use crate::policy::reason::Why;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredResponse;

/// What was found.
#[derive(Debug)]
pub struct Selection {
    /// The selected response, or why there is none.
    pub selected: Result<Arc<StoredResponse>, Why>,
    /// What a fresh part says about what to ask the origin server for, where no response is selected.
    pub lacking: Lacking,
}

/// What is lacking where no stored response is selected.
#[derive(Debug)]
pub enum Lacking {
    /// What the client asks for.
    Asked,
    /// The rest of this part from the front: the client asks for the whole.
    Rest(Arc<StoredResponse>),
    /// The whole, as if there were no `Range`: the client's `If-Range` does not hold (RFC 9110 §13.1.5).
    Whole,
}

impl Selection {
    /// The stored response that is given out, or completed.
    pub fn used(self) -> Option<Arc<StoredResponse>> {
        match (self.selected, self.lacking) {
            (Ok(stored), _) | (Err(_), Lacking::Rest(stored)) => Some(stored),
            _ => None,
        }
    }
}

/// What a request asks for of the representation: all of it, or ranges.
#[derive(Debug)]
pub struct Sought<'a> {
    ranges: Option<Vec<Spec>>,
    fields: &'a Fields,
}

impl<'a> Sought<'a> {
    /// Reads the ranges of a request with these fields, if they mean anything.
    pub fn read(presented: &Presented, fields: &'a Fields) -> Self {
        let ranges = if presented.range { range::read(fields) } else { None };
        Self { ranges, fields }
    }
}

/// Selects among `variants`, the most recent first; `fits` says whether the selecting header fields of
/// a response match (§4.1).
///
/// A whole response comes before a part, and a part answers only a range that lies within it, if
/// `If-Range` lets it.
pub fn select(
    variants: &[Arc<StoredResponse>],
    sought: &Sought<'_>,
    now: Timestamp,
    mut fits: impl FnMut(&StoredResponse) -> bool,
) -> Selection {
    let mut part: Option<&Arc<StoredResponse>> = None;
    let (mut any_fits, mut lacking) = (false, Lacking::Asked);
    for stored in variants.iter().filter(|stored| fits(stored)) {
        any_fits = true;
        // The most recent whole response answers (§4), even if a newer part is beside it: a part of a
        // newer representation would have displaced it (`partial::displaces`).
        let Some(held) = stored.part else {
            let selected = Ok(Arc::clone(stored));
            return Selection { selected, lacking };
        };
        let bytes = stored.content.len();
        // §3.3: a part is completed only while it is fresh. A stale one would have to be validated
        // first, and then completed: two requests for less than one.
        let usable = stored.is_fresh(now) && !stored.directives.no_cache;
        match &sought.ranges {
            Some(specs) if part.is_none() && held.covers(bytes, specs).is_some() => {
                // RFC 9110 §13.1.5: where the validator differs, the client wants the whole of the new
                // representation, not these bytes of the old one.
                if if_range_holds(sought.fields, stored) {
                    part = Some(stored);
                } else if usable {
                    lacking = Lacking::Whole;
                }
            }
            // The first part from the front, the newest one. It must be full and know the length, or
            // nobody could say what its rest is.
            None if matches!(lacking, Lacking::Asked)
                && held.span.first == 0
                && held.is_full(bytes)
                && held.complete.is_some()
                && usable =>
            {
                lacking = Lacking::Rest(Arc::clone(stored));
            }
            _ => {}
        }
    }
    // The reason tells an operator what to look at: the range, nothing stored, or `Vary`.
    let why = if any_fits {
        Why::Partial
    } else if variants.is_empty() {
        Why::UriMiss
    } else {
        Why::VaryMiss
    };
    Selection { selected: part.cloned().ok_or(why), lacking }
}

/// Can the client decode a response with these fields, by its `Accept-Encoding` (RFC 9110 §12.5.3)? A
/// response without a content coding every client can.
pub fn takes_coding(request: &Fields, response: &impl FieldValues) -> bool {
    // Deviation from §12.5.3: without the field any coding is acceptable, but here none is, because a
    // client that does not send it, such as curl, does not decode either. Only what is served offline
    // is chosen so.
    let takes = |coding: &[u8]| {
        let coding = usual_coding(coding);
        let mut by_any = false;
        for member in request.members("accept-encoding") {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = usual_coding(parts.next().unwrap_or_default());
            let is_refused = parts.any(is_weight_of_zero);
            if name.eq_ignore_ascii_case(coding) {
                return !is_refused;
            }
            // `*` is for codings that are not named, so it counts only when all members are read.
            by_any |= name == b"*" && !is_refused;
        }
        by_any || coding.eq_ignore_ascii_case(b"identity")
    };
    response.list("content-encoding").all(takes)
}

/// The name of a coding; `x-gzip` and `x-compress` are old names (RFC 9110 §8.4.1).
fn usual_coding(coding: &[u8]) -> &[u8] {
    if coding.eq_ignore_ascii_case(b"x-gzip") || coding.eq_ignore_ascii_case(b"x-compress") {
        return &coding[2..];
    }
    coding
}

/// Is it `q=0`, with up to three zeros behind the point (RFC 9110 §12.4.2)?
fn is_weight_of_zero(parameter: &[u8]) -> bool {
    let mut halves = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
    let is_weight = halves.next().is_some_and(|name| name.eq_ignore_ascii_case(b"q"));
    let is_zero = |value: &[u8]| {
        value.first() == Some(&b'0') && value[1..].iter().all(|byte| matches!(byte, b'.' | b'0'))
    };
    is_weight && halves.next().is_some_and(is_zero)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fields(name: &'static str, lines: &[&'static str]) -> Fields {
        let line =
            |value: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_client_takes_the_codings_that_it_names() {
        #[rustfmt::skip]
        let table: [(&[&str], &[&str], bool); 17] = [
            (&[], &[], true),
            (&[], &["gzip"], false),
            (&[""], &["gzip"], false),
            (&["br"], &[], true),
            (&["identity;q=0"], &[], true),
            (&[], &["identity"], true),
            (&["gzip, deflate, br, zstd"], &["zstd"], true),
            (&["gzip, deflate"], &["br"], false),
            (&["gzip", "br"], &["br"], true),
            (&["GZIP"], &["x-gzip"], true),
            (&["gzip;q=0"], &["gzip"], false),
            (&["gzip; Q=0.000"], &["gzip"], false),
            (&["gzip;q=0.001"], &["gzip"], true),
            (&["*"], &["br"], true),
            (&["br;q=0, *"], &["br"], false),
            (&["*;q=0, gzip"], &["gzip"], true),
            (&["gzip"], &["gzip, br"], false),
        ];
        for (accepted, coded, expected) in table {
            let taken = takes_coding(
                &fields("accept-encoding", accepted),
                &fields("content-encoding", coded),
            );
            assert_eq!(taken, expected, "{accepted:?} {coded:?}");
        }
    }
}
