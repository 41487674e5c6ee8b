//! Range requests: which bytes are asked for, and which part of a representation a 206 holds.
//! RFC 9110 §14.
//!
//! Positions count from 0, and every pair of them is inclusive, as on the wire. All arithmetic
//! saturates: a position that no representation has is as good as the largest number.

use std::fmt;

use http::StatusCode;

use crate::message::fields::Fields;

/// More ranges than this are not worth their overhead: the request is answered as a whole
/// (RFC 9110 §14.2).
const RANGES_MAX: usize = 16;
/// Ranges closer together than this are joined: the head of a part takes more (§15.3.7.2).
const GAP_JOINED: u64 = 80;

/// One range of a `Range` field (§14.1.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spec {
    /// From a position, to another or to the end.
    From(u64, Option<u64>),
    /// The last bytes, this many.
    Last(u64),
}

/// Bytes `first` to `last`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span {
    /// The position of the first byte.
    pub first: u64,
    /// The position of the last byte; at least `first`.
    pub last: u64,
}

impl Span {
    /// How many bytes it has; saturates at the largest number.
    pub fn length(self) -> u64 {
        // Never negative: whoever makes a span has compared its ends.
        assert!(self.first <= self.last, "a span has at least one byte");
        (self.last - self.first).saturating_add(1)
    }
}

/// What is to be sent for a request's ranges.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// All of it: there are no ranges, or they are not to be obeyed.
    Whole,
    /// These bytes, in a 206.
    One(Span),
    /// These, in a 206 of several parts: as they were asked for, none touching another.
    Several(Vec<Span>),
    /// None of them exists: 416.
    Nothing,
}

/// The ranges of a request. `None` if it has none that this server understands: it is then answered as
/// if the field were not there (§14.2).
pub fn read(fields: &Fields) -> Option<Vec<Spec>> {
    let mut lines = fields.get_all("range");
    let value = lines.next()?.as_bytes();
    // Ignoring the field is always right: the client gets the whole with a 200, and sees that it does.
    if lines.next().is_some() {
        return None;
    }
    let (unit, set) = value.split_at(value.iter().position(|byte| *byte == b'=')?);
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for member in set[1..].split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        // Empty list members are skipped (§5.6.1.2); one that cannot be read spoils all.
        if !member.is_empty() {
            specs.push(spec(member)?);
        }
        // Looked at within the loop: a head may hold thousands of ranges.
        if specs.len() > RANGES_MAX {
            return None;
        }
    }
    (!specs.is_empty()).then_some(specs)
}

fn spec(member: &[u8]) -> Option<Spec> {
    // The first dash separates; `1--2` has a last position that is no number. A first position behind
    // the last one makes the range invalid (§14.1.1), and the field with it.
    let dash = member.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&member[..dash], &member[dash + 1..]);
    match (position(first), position(last)) {
        (None, Some(length)) if first.is_empty() => Some(Spec::Last(length)),
        (Some(first), None) if last.is_empty() => Some(Spec::From(first, None)),
        (Some(first), Some(last)) if first <= last => Some(Spec::From(first, Some(last))),
        _ => None,
    }
}

/// Digits and nothing else; saturates.
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// What to send of a representation of `length` bytes (§14.1.2, §14.2).
///
/// Ranges that overlap or nearly touch are joined, so that no request can make the answer much
/// larger than the representation (§17.15). What is joined stands where the first of it was asked for
/// (§15.3.7.2).
pub fn wanted(specs: &[Spec], length: u64) -> Wanted {
    // Each range remembers its place, because sorting loses it and the client expects its own order.
    let asked = specs.iter().enumerate();
    let mut spans: Vec<(Span, usize)> =
        asked.filter_map(|(place, spec)| Some((span(*spec, length)?, place))).collect();
    spans.sort_unstable();
    let mut joined: Vec<(Span, usize)> = Vec::new();
    for (span, place) in spans {
        match joined.last_mut() {
            // In order of positions, only the last one can touch this one. Joining bounds the answer:
            // with RANGES_MAX ranges that do not overlap, no byte is sent twice.
            Some((before, first)) if span.first <= before.last.saturating_add(GAP_JOINED) => {
                before.last = before.last.max(span.last);
                *first = place.min(*first);
            }
            _ => joined.push((span, place)),
        }
    }
    joined.sort_unstable_by_key(|(_, place)| *place);
    match joined.as_slice() {
        // The last bytes of nothing exist, and are no bytes (§14.1.2): no part can say so.
        [] if length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(1..))) => {
            Wanted::Whole
        }
        [] => Wanted::Nothing,
        [(one, _)] => Wanted::One(*one),
        _ => Wanted::Several(joined.into_iter().map(|(span, _)| span).collect()),
    }
}

fn span(spec: Spec, length: u64) -> Option<Span> {
    // A representation without bytes satisfies no range.
    let end = length.checked_sub(1)?;
    match spec {
        Spec::From(first, last) if first <= end => {
            Some(Span { first, last: last.map_or(end, |last| last.min(end)) })
        }
        Spec::Last(count) if count > 0 => {
            Some(Span { first: length.saturating_sub(count), last: end })
        }
        _ => None,
    }
}

/// What a `Content-Range` says: which part of a representation a 206 holds (§14.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// The bytes it claims to hold.
    pub span: Span,
    /// The length of the whole representation, where it is known.
    pub complete: Option<u64>,
}

impl Part {
    /// Reads a `Content-Range`; `None` unless there is exactly one that makes sense.
    pub fn read(fields: &Fields) -> Option<Self> {
        let mut lines = fields.get_all("content-range");
        let value = lines.next()?.as_bytes().trim_ascii();
        // Two lines, or `bytes */10`, say nothing about what came; the response is then passed on and
        // not stored.
        if lines.next().is_some() || value.len() < 6 {
            return None;
        }
        let (unit, rest) = value.split_at(6);
        if !unit.eq_ignore_ascii_case(b"bytes ") {
            return None;
        }
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        let (range, complete) = (&rest[..slash], &rest[slash + 1..]);
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let span = Span { first: position(&range[..dash])?, last: position(&range[dash + 1..])? };
        // An unknown length is permitted (§14.4); an unreadable one spoils the field.
        let complete = if complete == b"*" { None } else { Some(position(complete)?) };
        let fits = span.first <= span.last && complete.is_none_or(|length| span.last < length);
        // The largest number stands for everything beyond it, so it names no byte.
        (fits && span.last < u64::MAX).then_some(Self { span, complete })
    }

    /// The part that the content of a response is; `None` unless it is a 206 with a single part. One of
    /// several parts has its ranges in its content (§15.3.7.2), whatever `Content-Range` says.
    pub fn of_response(status: StatusCode, fields: &Fields) -> Option<Self> {
        const SEVERAL: &[u8] = b"multipart/byteranges";
        // Its content is a multipart message. Taken for the bytes that a stray Content-Range names, it
        // would be spliced into another body.
        let of_several_parts = fields.get("content-type").is_some_and(|value| {
            let start = value.as_bytes().trim_ascii().get(..SEVERAL.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(SEVERAL))
        });
        let is_part = status == StatusCode::PARTIAL_CONTENT && !of_several_parts;
        if is_part { Self::read(fields) } else { None }
    }

    /// Is it, with `held` bytes, the whole representation?
    pub(crate) fn is_whole(self, held: u64) -> bool {
        self.span.first == 0 && self.reaches_end() && self.is_full(held)
    }

    /// Does it claim to reach the end of the representation?
    pub(crate) fn reaches_end(self) -> bool {
        self.complete.is_some_and(|length| self.span.last + 1 == length)
    }

    /// May a part with this claim and `held` bytes be kept? It may hold as many as it claims, or fewer
    /// if it claims to reach the end: then positions count from its front, and what did not come does
    /// not exist.
    pub(crate) fn admits(self, held: u64) -> bool {
        // Origin servers are seen that say `bytes 4-9/10` over five bytes. The message is complete by
        // its length, so it is no truncation; it answers ranges from its front, and `is_full` keeps it
        // from being combined with others.
        held > 0 && (held == self.span.length() || held < self.span.length() && self.reaches_end())
    }

    /// Are all the bytes there that it claims?
    pub(crate) fn is_full(self, held: u64) -> bool {
        held == self.span.length()
    }

    /// Which of the `held` bytes answer the request; `None` if it asks for others, or for several
    /// ranges.
    pub fn covers(self, held: u64, specs: &[Spec]) -> Option<Span> {
        // Several ranges would need a multipart answer out of parts; the origin server has them all.
        let [spec] = specs else { return None };
        let start = self.span.first;
        let end = start.checked_add(held.checked_sub(1)?)?;
        let at_end = self.reaches_end();
        // A range that ends behind what is held is covered only if nothing lies behind it. A suffix or
        // an open end needs the end of the representation.
        let span = match *spec {
            Spec::From(first, Some(last)) => {
                Span { first, last: if at_end { last.min(end) } else { last } }
            }
            Spec::From(first, None) if at_end => Span { first, last: end },
            Spec::Last(count) if at_end && count > 0 => {
                Span { first: (end + 1).saturating_sub(count), last: end }
            }
            _ => return None,
        };
        (span.first >= start && span.first <= span.last && span.last <= end).then_some(span)
    }
}

/// The value of a `Content-Range`, for `span` of a representation of `complete` bytes.
pub fn content_range(span: Span, complete: Option<u64>) -> String {
    // §14.4: `*` stands for a length that is not known.
    struct Length(Option<u64>);
    impl fmt::Display for Length {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {
                Some(length) => write!(f, "{length}"),
                None => f.write_str("*"),
            }
        }
    }
    format!("bytes {}-{}/{}", span.first, span.last, Length(complete))
}
