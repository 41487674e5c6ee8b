//! The header section of a message: field lines in the order in which they came. RFC 9110 §5.
//!
//! Values are bytes, and stay as they were sent (§5.5). Names are compared without regard to case, and
//! written as they came; those that the proxy adds are written in the usual capitals.

use bytes::Bytes;
use http::header::{InvalidHeaderName, InvalidHeaderValue};
use http::{HeaderName, HeaderValue};

use crate::clock::Timestamp;
use crate::message::date;
use crate::message::spelling::{
    Sieve, Spelling, Spellings, as_it_came, as_it_was_stored, write_usual,
};

/// Field lines, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fields {
    lines: Vec<(HeaderName, HeaderValue)>,
    spellings: Spellings,
    /// Of the names of all lines.
    names: NameFilter,
}

/// Says of most names that are not among some names that they are not: most of what is asked for is not there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct NameFilter(u64);

impl NameFilter {
    /// By its length and its last letters, in which names that are asked for differ. The letters' case does not count.
    fn bit(name: &[u8]) -> u64 {
        let letter = |from_end: usize| {
            let at = name.len().wrapping_sub(from_end);
            name.get(at).map_or(0, |letter| usize::from(letter & 0x1f))
        };
        1 << ((name.len() + 5 * letter(1) + 11 * letter(2)) % 64)
    }

    fn add(&mut self, name: &HeaderName) {
        self.0 |= Self::bit(name.as_str().as_bytes());
    }

    fn may_have(self, name: &str) -> bool {
        self.0 & Self::bit(name.as_bytes()) != 0
    }
}

/// The values of a header section, which share one copy of its bytes.
pub(crate) struct SharedValues<'a> {
    section: &'a [u8],
    copy: Bytes,
}

impl<'a> SharedValues<'a> {
    /// Of the field lines in this section.
    pub(crate) fn of(section: &'a [u8]) -> Self {
        Self { section, copy: Bytes::copy_from_slice(section) }
    }

    /// A value, which is a part of the section.
    pub(crate) fn value(&self, value: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        let at = value.as_ptr().addr().wrapping_sub(self.section.as_ptr().addr());
        assert!(at <= self.section.len(), "a value is a part of the section");
        HeaderValue::from_maybe_shared(self.copy.slice(at..at + value.len()))
    }
}

/// A field line, with the spelling of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldLine<'a> {
    /// The name, to compare.
    pub name: &'a HeaderName,
    /// The value.
    pub value: &'a HeaderValue,
    spelling: Spelling<'a>,
}

impl FieldLine<'_> {
    /// Writes the name as it came.
    pub(crate) fn write_name(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        write_usual(out, self.name);
        self.spelling.apply(&mut out[begin..]);
    }

    /// Writes the name for a store: in lower case, but for the letters whose case differs from the usual
    /// capitals. It takes no more bytes than the name, and a reader that knows no spellings reads the name.
    pub(crate) fn write_stored_name(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(self.name.as_str().as_bytes());
        self.spelling.apply(&mut out[begin..]);
    }
}

impl Fields {
    /// No field lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// No field lines, and memory for `lines` of them.
    pub fn with_capacity(lines: usize) -> Self {
        Self { lines: Vec::with_capacity(lines), ..Self::default() }
    }

    /// Adds a field line at the end, its name in the usual capitals.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.spellings.append_usual(&name);
        self.push(name, value);
    }

    /// Adds a field line at the end, its name as it is spelt here; an error if that is no name.
    pub fn append_spelt(
        &mut self,
        spelt: &[u8],
        value: HeaderValue,
    ) -> Result<(), InvalidHeaderName> {
        let name = HeaderName::from_bytes(spelt)?;
        let before = self.lines.iter().map(|(name, _)| name);
        self.spellings.append(before, as_it_came(&name, spelt));
        self.push(name, value);
        Ok(())
    }

    /// As `append_spelt`, with a name that [`FieldLine::write_stored_name`] has written.
    pub(crate) fn append_stored(
        &mut self,
        stored: &[u8],
        value: HeaderValue,
    ) -> Result<(), InvalidHeaderName> {
        let name = HeaderName::from_bytes(stored)?;
        let before = self.lines.iter().map(|(name, _)| name);
        self.spellings.append(before, as_it_was_stored(stored));
        self.push(name, value);
        Ok(())
    }

    /// Adds a field line of other fields at the end.
    pub(crate) fn append_line(&mut self, line: FieldLine<'_>) {
        let FieldLine { name, value, spelling } = line;
        let before = self.lines.iter().map(|(name, _)| name);
        self.spellings.append(before, spelling.words(name));
        self.push(name.clone(), value.clone());
    }

    fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.names.add(&name);
        self.lines.push((name, value));
    }

    /// Puts one line in the place of all lines of that name: it stands where the first of them stood, and its name
    /// is spelt as there. Without such a line, it is added at the end.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        if !self.names.may_have(name.as_str()) {
            return self.append(name, value);
        }
        let mut first = Some(value);
        for (_, old) in self.lines.iter_mut().filter(|(other, _)| *other == name) {
            match first.take() {
                Some(value) => *old = value,
                // There are more, which go.
                None => return self.remove_all_but_first(&name),
            }
        }
        if let Some(value) = first {
            self.append(name, value);
        }
    }

    /// As `set`, but the line is the proxy's own: it comes last, in the usual capitals.
    pub(crate) fn set_last(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(name.as_str());
        self.append(name, value);
    }

    /// Removes all field lines of that name but the first.
    pub(crate) fn remove_all_but_first(&mut self, name: &HeaderName) {
        let mut seen = false;
        self.retain(|other, _| other != name || !std::mem::replace(&mut seen, true));
    }

    /// As `set`, with a value that this program has made. A value that no field may have,
    /// because of a control character in it, turns into a question mark.
    pub fn set_text(&mut self, name: &'static str, value: String) {
        self.set(HeaderName::from_static(name), text_value(value));
    }

    /// Removes all field lines of that name.
    pub(crate) fn remove(&mut self, name: &str) {
        // Mostly there is none, and a search takes less than a walk that keeps all lines.
        if self.contains(name) {
            self.retain(|other, _| other != name);
        }
    }

    /// Keeps the field lines for which `keep` is true.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        let mut sieve = std::mem::take(&mut self.spellings).sieve();
        let mut names = NameFilter::default();
        self.lines.retain(|(name, value)| {
            let stays = keep(name, value);
            if stays {
                names.add(name);
            }
            if let Some(sieve) = &mut sieve {
                sieve.next(name, stays);
            }
            stays
        });
        self.names = names;
        self.spellings = sieve.map(Sieve::end).unwrap_or_default();
    }

    /// Replaces each value of the lines called `name` for which `replace` gives another one.
    pub(crate) fn rewrite(&mut self, name: &str, replace: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        for (_, value) in self.lines.iter_mut().filter(|(other, _)| other == name) {
            // A replacement that no field may hold leaves the line as it was: what came from outside is
            // not worth a panic.
            let replaced = replace(value.as_bytes());
            if let Some(Ok(new)) =
                replaced.map(|new| HeaderValue::from_maybe_shared(Bytes::from(new)))
            {
                *value = new;
            }
        }
    }

    /// The value of the first field line of that name.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        let lines = self.may_have(name).iter();
        lines.filter(|(other, _)| other == name).map(|(_, value)| value).next()
    }

    /// The values of all field lines of that name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.may_have(name).iter().filter(move |(other, _)| other == name).map(|(_, value)| value)
    }

    /// The lines among which those of that name are.
    fn may_have(&self, name: &str) -> &[(HeaderName, HeaderValue)] {
        // A walk over all of them: there are some twenty, and a map would take more memory than they do
        // for each stored response.
        if self.names.may_have(name) { &self.lines } else { &[] }
    }

    /// Is there a field line of that name?
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All field lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.lines.iter()
    }

    /// All field lines, in order, with the spelling of their names.
    pub(crate) fn lines(&self) -> impl Iterator<Item = FieldLine<'_>> {
        let spellings = self.spellings.of(self.lines.iter().map(|(name, _)| name));
        let lines = self.lines.iter().zip(spellings);
        lines.map(|((name, value), spelling)| FieldLine { name, value, spelling })
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Are there no field lines?
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Members of a list-based field over all its lines, which mean the same as one line (RFC 9110
    /// §5.3): split at commas outside quoted strings, trimmed, empty ones left out (§5.6.1).
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).flat_map(|value| list_members(value.as_bytes()))
    }

    /// Does a list-based field have this member, in any case?
    pub(crate) fn has_member(&self, name: &str, member: &str) -> bool {
        self.members(name).any(|other| other.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// The date in the only line of that name; `None` if there is no line, more than one, or an
    /// unreadable one. `now` settles the century of two-digit years.
    pub(crate) fn date(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        only_date(self.get_all(name).map(HeaderValue::as_bytes), now)
    }

    /// Bytes of the lines on the wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.lines.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    }

    /// Gives back memory that is allocated and not used; for fields that are kept.
    pub(crate) fn shrink(&mut self) {
        // Of the section that the values came in, what has been taken out would be kept as well.
        let mut values = Vec::with_capacity(self.lines.iter().map(|(_, value)| value.len()).sum());
        for (_, value) in &self.lines {
            values.extend_from_slice(value.as_bytes());
        }
        let values = Bytes::from(values);
        let mut at = 0;
        for (_, value) in &mut self.lines {
            let (end, is_sensitive) = (at + value.len(), value.is_sensitive());
            if let Ok(mut copy) = HeaderValue::from_maybe_shared(values.slice(at..end)) {
                copy.set_sensitive(is_sensitive);
                *value = copy;
            }
            at = end;
        }
        self.lines.shrink_to_fit();
        self.spellings.shrink();
    }

    /// Writes the lines as they go on the wire, each ended by CR LF.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        for line in self.lines() {
            line.write_name(out);
            out.extend_from_slice(b": ");
            out.extend_from_slice(line.value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> Self {
        let mut fields = Self::new();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    }
}

/// The date in the only one of these values.
fn only_date<'a>(mut values: impl Iterator<Item = &'a [u8]>, now: Timestamp) -> Option<Timestamp> {
    let first = values.next()?;
    // Two dates are no date: the later one would make a response fresh which the earlier one says
    // is stale.
    if values.next().is_some() {
        return None;
    }
    date::parse(first, now)
}

/// Writes a number in decimal digits, without an allocation: each hit writes its age and length.
pub(crate) fn write_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The same for text.
pub(crate) fn push_decimal(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// A field value that this program has made; a question mark if a control character is in it.
pub(crate) fn text_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// May this byte stand in a token, such as a field name (RFC 9110 §5.6.2)?
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Members of one line of a list-based field (RFC 9110 §5.6.1).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split_unquoted(value, b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Splits at each `separator` that does not stand in a quoted string, in which a backslash escapes the
/// next byte (RFC 9110 §5.6.4).
pub(crate) fn split_unquoted(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    // A quotation mark that is never closed hides all that follows: a member that cannot be delimited
    // is one member.
    let mut quoted = false;
    let mut escaped = false;
    value.split(move |byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if *byte == b'"' {
            quoted = !quoted;
        }
        *byte == separator && !quoted
    })
}

pub use section::{FieldSection, FieldValues};

mod section;
#[cfg(test)]
mod tests;
