//! Stored parts: what belongs together, and what takes whose place. RFC 9111 §3.3, §3.4.
//!
//! A part is kept apart from complete responses and answers range requests only. Two parts become one
//! only if they have the same strong validator (RFC 9110 §15.3.7.3) and leave no gap; a part that is
//! shorter than it claims is never combined.

use crate::clock::Timestamp;
use crate::message::fields::Fields;
use crate::policy::precondition::{opaque, strong_last_modified};
use crate::policy::range::{Part, Span};
use crate::policy::stored::{StoredHead, StoredResponse};

/// The most stored responses for one target URI; the oldest goes for a new one.
pub const VARIANTS_MAX: usize = 64;
/// The most parts of one representation that are kept side by side.
const PARTS_MAX: usize = 16;
/// A part is joined to what is kept only if it makes that longer by at least this share of it:
/// otherwise many small ranges in a row would copy a large part again and again.
const GROWTH_SHARE: u64 = 8;

/// Digests of the very content of one message (RFC 9530 §2; RFC 1864). `Repr-Digest` is none: it is of the
/// whole representation, however much of it a message has.
const DIGESTS: [&str; 2] = ["content-digest", "content-md5"];

/// Takes out the digests of other content than what the fields will stand before.
pub(crate) fn without_digests(fields: &mut Fields) {
    fields.retain(|name, _| !DIGESTS.contains(&name.as_str()));
}

/// A strong validator (RFC 9110 §8.8.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Strong {
    /// An entity tag without `W/`, as it was sent.
    Tag(Vec<u8>),
    /// A `Last-Modified` that is strong.
    Modified(Timestamp),
}

/// The strong validator of a response, if it has one.
pub(crate) fn strong_validator(head: &StoredHead) -> Option<Strong> {
    match head.fields.get("etag").map(<[u8]>::trim_ascii) {
        // A tag counts alone: with a weak one, not even a strong date says that two parts fit byte for
        // byte.
        Some(tag) if tag.starts_with(b"\"") => Some(Strong::Tag(tag.to_vec())),
        Some(_) => None,
        None => strong_last_modified(head).map(Strong::Modified),
    }
}

/// Are both certainly of the same representation?
pub(crate) fn same_representation(one: &StoredHead, other: &StoredHead) -> bool {
    let validator = strong_validator(one);
    validator.is_some() && validator == strong_validator(other)
}

/// Which of `present`, all that is stored for the target URI but `new` itself, go when `new` is stored beside
/// them: one answer for each. The most recent comes first.
///
/// Memory and each backing store ask here and nowhere else: where they differ, a response that one of them
/// has let go of comes back from the other.
pub fn displaced<'a>(
    new: &StoredHead,
    present: impl IntoIterator<Item = &'a StoredHead>,
) -> Vec<bool> {
    // Both count the new response, which is not among them.
    let (mut kept, mut newer_parts) = (1, 1);
    let mut goes = |old: &StoredHead| {
        // In the order of their age, so that the oldest go where there are too many.
        let goes = kept >= VARIANTS_MAX || displaces(new, old, newer_parts);
        if !goes {
            kept += 1;
            newer_parts += usize::from(old.part.is_some() && old.selecting == new.selecting);
        }
        goes
    };
    present.into_iter().map(&mut goes).collect()
}

/// Must `old` go where `new`, which came later, could not be stored: would it answer a request that `new`
/// has answered meanwhile?
pub fn outdates(new: &StoredHead, old: &StoredHead) -> bool {
    // Nothing is added, so neither bound is reached by it. What another proxy has stored may be newer.
    old.response_time <= new.response_time && displaces(new, old, 1)
}

/// Does `new`, which is being stored for the same target URI, take the place of `old`?
///
/// Only what fits the same requests does; and an older response with the same validator that names fewer
/// selecting header fields, for it has turned out to fit fewer requests than it says (§4.1).
///
/// `newer` says how many parts with the same selecting header fields are newer than `old`.
fn displaces(new: &StoredHead, old: &StoredHead, newer: usize) -> bool {
    // Both answer some of the same requests. The older one would answer more, and some of these the
    // origin server has since told apart.
    let names_too_few = || {
        new.selecting.includes(&old.selecting)
            && old.response_time <= new.response_time
            && has_same_validator(new, old)
    };
    if new.selecting != old.selecting && !names_too_few() {
        return false;
    }
    // From here on both fit the same requests.
    match (new.part, old.part) {
        (None, _) => true,
        // A part says that the representation has changed, unless both have the same validator.
        (Some(_), None) => !same_representation(new, old),
        // A part that lies within the new one is of no use beside it. One with another validator is of
        // an older representation, and could never be combined with the new one.
        (Some(part), Some(before)) => {
            let inside = before.span.first >= part.span.first && before.span.last <= part.span.last;
            let changed = strong_validator(new) != strong_validator(old);
            inside || changed || newer >= PARTS_MAX
        }
    }
}

/// Have both the same tag, weakly compared, or the same date?
fn has_same_validator(one: &StoredHead, other: &StoredHead) -> bool {
    let same = |name, opaque: fn(&[u8]) -> &[u8]| {
        let value = |head: &StoredHead| {
            head.fields.get(name).map(|value| opaque(value.trim_ascii()).to_vec())
        };
        value(one).is_some() && value(one) == value(other)
    };
    same("etag", opaque) || same("last-modified", |date| date)
}

/// Where the content of two parts lies in what they make together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Union {
    /// What it holds.
    pub part: Part,
    /// The new part comes first; the old one's bytes before `from` are not needed.
    pub new_first: bool,
    /// How many bytes of the second one are not needed, because the first has them.
    pub from: u64,
}

impl Union {
    /// Is it the whole representation?
    pub(crate) fn is_whole(&self) -> bool {
        self.part.span.first == 0 && self.part.reaches_end()
    }
}

/// What the part `new` makes with `old`; `None` if they do not belong together, or it is not worth
/// it.
pub fn union(new: &StoredHead, new_held: u64, old: &StoredResponse) -> Option<Union> {
    let (part, before) = (new.part?, old.part?);
    let old_held = old.content.len();
    // A part that is shorter than it claims has an unknown gap at its end (`Part::admits`), so it is
    // never joined to another.
    let full = part.is_full(new_held) && before.is_full(old_held);
    let same = part.complete == before.complete && new.selecting == old.selecting;
    if !full || !same || !same_representation(new, old) {
        return None;
    }
    let (low, high) = if part.span.first <= before.span.first {
        (part.span, before.span)
    } else {
        (before.span, part.span)
    };
    // A gap between them, or one within the other: nothing is gained.
    if high.first > low.last.saturating_add(1) || high.last <= low.last {
        return None;
    }
    let span = Span { first: low.first, last: high.last };
    let union = Union {
        part: Part { span, complete: part.complete },
        new_first: part.span.first <= before.span.first,
        from: low.last + 1 - high.first,
    };
    // Worth a copy of all that is held only if it grows by a share of it.
    let grown = span.length() - old_held;
    (union.is_whole() || grown >= old_held / GROWTH_SHARE).then_some(union)
}

/// Does the 206 that has come hold just what `prefix`, a part from 0, lacks of the whole (§3.4)? `length` is
/// that of its content, where its head states it.
pub(crate) fn completes(
    received: &StoredHead,
    length: Option<u64>,
    prefix: &StoredResponse,
) -> bool {
    let held = prefix.content.len();
    let (Some(part), Some(before)) = (received.part, prefix.part) else { return false };
    // Each condition rules out one way of making a body up from two: a gap, an overlap, another length,
    // another representation.
    before.span.first == 0
        && before.is_full(held)
        && part.span.first == held
        && part.reaches_end()
        && length.is_none_or(|length| part.is_full(length))
        && part.complete == before.complete
        && same_representation(received, prefix)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, StatusCode, header};

    use super::*;
    use crate::clock::DeltaSeconds;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::digest::{SALT_BYTES, Salt};
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::{Selecting, Sent};

    /// A response that came at `time`, made for these fields of a request, with this tag and these bytes of 100.
    fn head(
        time: u64,
        selected_by: &[(&str, &str)],
        tag: &str,
        bytes: Option<(u64, u64)>,
    ) -> StoredHead {
        let (mut sent, mut fields) = (Fields::new(), Fields::new());
        for (name, value) in selected_by {
            let value = HeaderValue::try_from(*value).expect("a value");
            sent.append(HeaderName::try_from(*name).expect("a name"), value);
            fields.append(header::VARY, HeaderValue::try_from(*name).expect("a value"));
        }
        fields.set_text("etag", tag.to_string());
        let sent = Sent { fields: &sent, salt: &Salt::new([0; SALT_BYTES]) };
        StoredHead {
            status: StatusCode::OK,
            part: bytes
                .map(|(first, last)| Part { span: Span { first, last }, complete: Some(100) }),
            selecting: Selecting::read(&fields, sent).expect("no star"),
            fields: fields.into(),
            directives: ResponseDirectives::default(),
            lifetime: Lifetime::Unknown,
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(time),
            fresh_until: Timestamp::MAX,
            useful_until: Timestamp::MAX,
        }
    }

    #[test]
    fn a_new_response_displaces_what_fits_the_same_requests() {
        const EN: &[(&str, &str)] = &[("accept-language", "en")];
        const DE: &[(&str, &str)] = &[("accept-language", "de")];
        const EN_DARK: &[(&str, &str)] = &[("accept-language", "en"), ("theme", "dark")];
        #[rustfmt::skip]
        let table = [
            ("the same fields",            (9, EN, "\"a\"", None),           (1, EN, "\"b\"", None),           true),
            ("other fields",               (9, EN, "\"a\"", None),           (1, DE, "\"a\"", None),           false),
            ("§4.1: it names too few",     (9, EN_DARK, "\"a\"", None),      (1, EN, "\"a\"", None),           true),
            ("but of another validator",   (9, EN_DARK, "\"a\"", None),      (1, EN, "\"b\"", None),           false),
            ("a whole one for a part",     (9, EN, "\"a\"", None),           (1, EN, "\"a\"", Some((0, 9))),   true),
            ("a part beside its whole",    (9, EN, "\"a\"", Some((0, 9))),   (1, EN, "\"a\"", None),           false),
            ("a part of what has changed", (9, EN, "\"b\"", Some((0, 9))),   (1, EN, "\"a\"", None),           true),
            ("a part within",              (9, EN, "\"a\"", Some((0, 9))),   (1, EN, "\"a\"", Some((2, 5))),   true),
            ("a part beside",              (9, EN, "\"a\"", Some((0, 9))),   (1, EN, "\"a\"", Some((2, 15))),  false),
            ("a part of another tag",      (9, EN, "\"b\"", Some((0, 9))),   (1, EN, "\"a\"", Some((20, 30))), true),
        ];
        for (case, new, old, expected) in table {
            let of = |(time, selected_by, tag, bytes)| head(time, selected_by, tag, bytes);
            let (new, old) = (of(new), of(old));
            assert_eq!(displaced(&new, [&old]), [expected], "{case}");
            assert_eq!(outdates(&new, &old), expected, "{case}, and it could not be stored");
        }
    }

    #[test]
    fn what_is_newer_than_a_response_that_could_not_be_stored_stays() {
        let (old, new) = (head(1, &[], "\"a\"", None), head(9, &[], "\"a\"", None));
        assert!(outdates(&new, &old) && !outdates(&old, &new));
        // What is stored takes the place all the same: a recalled response may be older than what is here.
        assert_eq!(displaced(&old, [&new]), [true]);
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many() {
        let name = |number: usize| number.to_string();
        let variant = |number: usize| head(9, &[("name", &name(number))], "\"a\"", None);
        let part = |number: usize| {
            let first = number as u64 * 2;
            head(9, &[], "\"a\"", Some((first, first)))
        };
        for (bound, of) in
            [(VARIANTS_MAX, &variant as &dyn Fn(usize) -> StoredHead), (PARTS_MAX, &part)]
        {
            let present: Vec<_> = (1..=bound + 2).map(of).collect();
            let goes = displaced(&of(0), &present);
            let expected: Vec<_> = (1..=bound + 2).map(|number| number >= bound).collect();
            assert_eq!(goes, expected, "{bound} with the new one");
        }
    }
}
