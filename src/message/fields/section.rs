//! A header section in one piece of memory: its field lines as they go on the wire. RFC 9110 §5, §6.3.
//!
//! Stored responses have theirs so: a list of names and values takes three times as much memory as the text. To look
//! something up is a walk over the text; what is changed is made into [`Fields`] first.

use std::fmt;

use http::HeaderValue;

use crate::clock::Timestamp;
use crate::message::fields::{Fields, NameFilter, SharedValues, list_members, only_date};

/// Field lines, in order, that do not change.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct FieldSection {
    /// Each is a name as it came, a colon, a space, a value, CR LF.
    lines: Box<[u8]>,
    /// Of the names of all lines.
    names: NameFilter,
}

/// Field lines that can be looked up by name.
pub trait FieldValues {
    /// The values of all field lines of that name, in order.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;

    /// The value of the first one.
    fn value<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The members of a list-based field, as [`Fields::members`] has them.
    fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(list_members)
    }

    /// The date in the only line of that name; `None` if there is none, more than one, or an unreadable one.
    fn only_date(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        only_date(self.values(name), now)
    }
}

impl FieldSection {
    /// The value of the first field line of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.lines_of(name).find(is_of(name)).map(|(_, value)| value)
    }

    /// Is there a field line of that name?
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Members of a list-based field over all its lines, as [`Fields::members`] has them.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.list(name)
    }

    /// The date in the only line of that name, as [`Fields::date`] has it.
    pub(crate) fn date(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.only_date(name, now)
    }

    /// All field lines, in order: names as they came, and values.
    pub fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.lines[..];
        std::iter::from_fn(move || {
            // No name has a colon in it, and no value a carriage return.
            let name_end = rest.iter().position(|byte| *byte == b':')?;
            let (name, after) = rest.split_at(name_end);
            let value_end = after.iter().position(|byte| *byte == b'\r')?;
            rest = &after[value_end + 2..];
            Some((name, &after[2..value_end]))
        })
    }

    /// The number of field lines.
    pub fn len(&self) -> usize {
        self.lines().count()
    }

    /// Are there no field lines?
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines as they go on the wire, each ended by CR LF.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.lines
    }

    /// May there be a line of that name? Fast, and sometimes wrongly yes.
    pub(crate) fn may_have(&self, name: &str) -> bool {
        self.names.may_have(name)
    }

    /// Bytes of memory, but for the section itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.len()
    }

    /// The same field lines, to be changed.
    pub fn to_fields(&self) -> Fields {
        let mut fields = Fields::with_capacity(self.len());
        let values = SharedValues::of(&self.lines);
        for (name, value) in self.lines() {
            let value = values.value(value).expect("it was a value before");
            fields.append_spelt(name, value).expect("it was a name before");
        }
        fields
    }

    /// The lines among which those of that name are.
    fn lines_of(&self, name: &str) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.names.may_have(name).then(|| self.lines());
        lines.into_iter().flatten()
    }
}

impl fmt::Debug for FieldSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.lines), f)
    }
}

impl FieldValues for FieldSection {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines_of(name).filter(is_of(name)).map(|(_, value)| value)
    }
}

/// Has a line this name?
fn is_of(name: &str) -> impl Fn(&(&[u8], &[u8])) -> bool {
    |(other, _)| other.eq_ignore_ascii_case(name.as_bytes())
}

impl FieldValues for Fields {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).map(HeaderValue::as_bytes)
    }
}

impl From<&Fields> for FieldSection {
    fn from(fields: &Fields) -> Self {
        let mut lines = Vec::with_capacity(fields.wire_bytes());
        fields.write_to(&mut lines);
        Self { lines: lines.into_boxed_slice(), names: fields.names }
    }
}

impl From<Fields> for FieldSection {
    fn from(fields: Fields) -> Self {
        Self::from(&fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_found_by_name_in_any_case() {
        let mut fields = Fields::new();
        for (name, value) in [("ETag", "\"a\""), ("vary", "a, b"), ("VARY", " ,c"), ("X-Empty", "")]
        {
            let value = HeaderValue::from_static(value);
            fields.append_spelt(name.as_bytes(), value).expect("a name");
        }
        let section = FieldSection::from(&fields);
        assert_eq!(section.get("etag"), Some(&b"\"a\""[..]));
        assert_eq!(section.get("x-empty"), Some(&b""[..]));
        assert_eq!(section.get("x-none"), None);
        assert_eq!(section.members("vary").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!((section.len(), section.is_empty()), (4, false));
        assert!(FieldSection::default().is_empty());
    }

    proptest! {
        /// Whatever a field line may have in it, nothing is lost, and both forms find the same.
        #[test]
        fn a_section_and_its_fields_say_the_same(
            lines in vec(("[A-Za-z!#$%&'*+.^_`|~0-9-]{1,70}", vec(prop_oneof![Just(9_u8), 32..127_u8, 128..=255_u8], 0..40)), 0..12),
        ) {
            let mut fields = Fields::new();
            for (name, value) in &lines {
                let value = HeaderValue::from_bytes(value).expect("a value");
                fields.append_spelt(name.as_bytes(), value).expect("a name");
            }
            let section = FieldSection::from(&fields);
            prop_assert_eq!(&section.to_fields(), &fields);
            prop_assert_eq!(section.len(), lines.len());
            for (name, _) in &lines {
                let name = name.to_ascii_lowercase();
                let found: Vec<_> = section.values(&name).collect();
                prop_assert_eq!(found, fields.values(&name).collect::<Vec<_>>());
            }
        }
    }
}
