//! The header section of a message: field lines in the order in which they came. RFC 9110 §5.
//!
//! Values are bytes, and stay as they were sent (§5.5). Names are compared without regard to case and
//! written in the usual capitals, because clients of the 1990s compare them letter by letter.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::clock::Timestamp;
use crate::message::date;

/// Names whose usual spelling is not one capital a word.
const SPELLINGS: [(&str, &str); 12] = [
    ("cdn-cache-control", "CDN-Cache-Control"),
    ("content-md5", "Content-MD5"),
    ("dnt", "DNT"),
    ("etag", "ETag"),
    ("expect-ct", "Expect-CT"),
    ("nel", "NEL"),
    ("sec-gpc", "Sec-GPC"),
    ("sec-websocket-key", "Sec-WebSocket-Key"),
    ("te", "TE"),
    ("www-authenticate", "WWW-Authenticate"),
    ("x-ua-compatible", "X-UA-Compatible"),
    ("x-xss-protection", "X-XSS-Protection"),
];

/// Field lines, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fields {
    lines: Vec<(HeaderName, HeaderValue)>,
}

impl Fields {
    /// No field lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field line at the end.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.lines.push((name, value));
    }

    /// Puts one field line in the place of all lines of that name; it comes last.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(name.as_str());
        self.append(name, value);
    }

    /// As `set`, with a value that this program has made. A value that no field may have,
    /// because of a control character in it, turns into a question mark.
    pub fn set_text(&mut self, name: &'static str, value: String) {
        self.set(HeaderName::from_static(name), text_value(value));
    }

    /// Removes all field lines of that name.
    pub(crate) fn remove(&mut self, name: &str) {
        self.lines.retain(|(other, _)| other != name);
    }

    /// Keeps the field lines for which `keep` is true.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.lines.retain(|(name, value)| keep(name, value));
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
        // A walk over all lines: there are some twenty, and a map would take more memory than they do
        // for each stored response.
        self.lines.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The values of all field lines of that name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.lines.iter().filter(move |(other, _)| other == name).map(|(_, value)| value)
    }

    /// Is there a field line of that name?
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All field lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.lines.iter()
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
        let mut lines = self.get_all(name);
        let first = lines.next()?;
        // Two dates are no date: the later one would make a response fresh which the earlier one says
        // is stale.
        if lines.next().is_some() {
            return None;
        }
        date::parse(first.as_bytes(), now)
    }

    /// Bytes that the lines take in memory, bookkeeping included.
    pub(crate) fn memory_bytes(&self) -> usize {
        let line_bytes = size_of::<(HeaderName, HeaderValue)>();
        let text = |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len();
        self.lines.capacity() * line_bytes + self.lines.iter().map(text).sum::<usize>()
    }

    /// Gives back memory that is allocated and not used; for fields that are kept.
    pub(crate) fn shrink(&mut self) {
        self.lines.shrink_to_fit();
    }

    /// Writes the lines as they go on the wire, each ended by CR LF.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.lines {
            write_name(out, name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> Self {
        Self { lines: lines.into_iter().collect() }
    }
}

/// Writes a number in decimal digits, without an allocation: each hit writes its age and length.
pub(crate) fn write_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A field value that this program has made; a question mark if a control character is in it.
pub(crate) fn text_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// Writes a field name in the usual capitals: `Content-Type`, `ETag`.
fn write_name(out: &mut Vec<u8>, name: &HeaderName) {
    let name = name.as_str();
    // The table is in order of names. It is short, and most names miss it after four comparisons.
    if let Ok(index) = SPELLINGS.binary_search_by(|(lower, _)| (*lower).cmp(name)) {
        out.extend_from_slice(SPELLINGS[index].1.as_bytes());
        return;
    }
    let mut at_start = true;
    for byte in name.bytes() {
        out.push(if at_start { byte.to_ascii_uppercase() } else { byte });
        at_start = byte == b'-';
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quoted_strings_separate_nothing() {
        #[rustfmt::skip]
        let table: [(&str, &[&str]); 6] = [
            ("a, b ,c",            &["a", "b", "c"]),
            (", ,a,,",             &["a"]),
            (r#"a="x,y", b"#,      &[r#"a="x,y""#, "b"]),
            (r#"a="x\",y", b"#,    &[r#"a="x\",y""#, "b"]),
            (r#"a="never ends, b"#, &[r#"a="never ends, b"#]),
            ("",                   &[]),
        ];
        for (value, expected) in table {
            let members: Vec<_> = list_members(value.as_bytes()).collect();
            let expected: Vec<_> = expected.iter().map(|member| member.as_bytes()).collect();
            assert_eq!(members, expected, "RFC 9110 §5.6.1: {value}");
        }
    }

    #[test]
    fn names_go_out_in_the_usual_capitals() {
        let table =
            [("content-type", "Content-Type"), ("etag", "ETag"), ("te", "TE"), ("x-a", "X-A")];
        for (name, expected) in table {
            let mut out = Vec::new();
            write_name(&mut out, &HeaderName::from_static(name));
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
        assert!(SPELLINGS.is_sorted(), "the spellings are searched by halves");
    }

    #[test]
    fn numbers_are_written_in_digits() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = b"x".to_vec();
            write_decimal(&mut out, number);
            assert_eq!(String::from_utf8_lossy(&out), format!("x{number}"));
        }
    }

    #[test]
    fn two_lines_hold_no_date() {
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        let mut fields = Fields::new();
        fields.append(HeaderName::from_static("expires"), date.clone());
        assert!(fields.date("expires", Timestamp(0)).is_some());
        fields.append(HeaderName::from_static("expires"), date);
        assert!(fields.date("expires", Timestamp(0)).is_none());
    }
}
