//! Heads on the wire between the proxy and the origin server: a request's into bytes, a response's out
//! of bytes. RFC 9112 §2, §3, §4, §5.
//!
//! The field lines are httparse's, which refuses a bare CR, a folded line and a space before a colon.
//! What the fields of a response say about its content is for `framing.rs`.

use std::borrow::Cow;

use http::{Method, StatusCode, Version};

use crate::message::fields::{Fields, SharedValues};

/// Memory for lines that the proxy adds: Via, X-Cache, Cache-Status, and Date where there is none.
const ADDED_LINES: usize = 4;
/// The most field lines that a response may have.
pub(crate) const RESPONSE_LINES_MAX: usize = 128;

/// The head of a response, interim or final.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: StatusCode,
    /// HTTP/1.0, or HTTP/1.1 for any later minor version (RFC 9110 §2.5).
    pub version: Version,
    /// The header section as it came.
    pub fields: Fields,
    /// Bytes of the whole head, its last line end included.
    pub length: usize,
}

/// Reads a head from the beginning of `bytes`; `None` if it is not complete yet. The error says what is
/// wrong.
pub fn read_response(bytes: &[u8]) -> Result<Option<ResponseHead>, String> {
    let bytes = with_known_version(bytes);
    // On the stack, and bounded: the origin server decides how many lines there are.
    let mut lines = [httparse::EMPTY_HEADER; RESPONSE_LINES_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let length = match head.parse(&bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(format!("more than {RESPONSE_LINES_MAX} field lines"));
        }
        Err(error) => return Err(error.to_string()),
    };
    // Any three digits from 100 on: 599 and 999 are seen, and no status is an error here.
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("a status code below 100")?;
    let version = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut fields = Fields::with_capacity(head.headers.len() + ADDED_LINES);
    let values = SharedValues::of(&bytes[..length]);
    for line in head.headers.iter() {
        let value = values.value(line.value).map_err(|error| error.to_string())?;
        let appended = fields.append_spelt(line.name.as_bytes(), value);
        appended.map_err(|error| error.to_string())?;
    }
    Ok(Some(ResponseHead { status, version, fields, length }))
}

/// RFC 9110 §2.5: a later minor version is read as the latest one that is known. httparse knows two.
fn with_known_version(bytes: &[u8]) -> Cow<'_, [u8]> {
    const LATER: std::ops::RangeInclusive<u8> = b'2'..=b'9';
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    match bytes[start..].strip_prefix(b"HTTP/1.") {
        // Only the digit changes, so that the length of the head stays what it is on the wire.
        Some([minor, b' ', ..]) if LATER.contains(minor) => {
            let mut known = bytes.to_vec();
            known[start + b"HTTP/1.".len()] = b'1';
            Cow::Owned(known)
        }
        // The read ended within the version: without that digit the head is incomplete, with it
        // httparse would refuse it.
        Some([minor]) if LATER.contains(minor) => Cow::Borrowed(&bytes[..bytes.len() - 1]),
        _ => Cow::Borrowed(bytes),
    }
}

/// Is there an empty line in `bytes` that ends behind `seen`, so that a head may be complete? Called
/// for each read, so that a head that comes byte by byte is not parsed once for each byte.
pub fn may_be_complete(bytes: &[u8], seen: usize) -> bool {
    // The empty line may have begun in bytes that were seen before.
    let from = seen.saturating_sub(3);
    bytes[from..].windows(2).any(|pair| pair == b"\n\n")
        || bytes[from..].windows(3).any(|three| three == b"\n\r\n")
}

/// Writes the head of a request up to the empty line, so that framing fields can follow.
///
/// `path` is what follows the authority in the target URI. Without one, OPTIONS asks about the server
/// as a whole (RFC 9112 §3.2.4). `base` is what stands before it, for a proxy that passes the request on
/// (§3.2.2), in two parts; empty for the server itself.
pub(crate) fn write_request(
    method: &Method,
    base: [&str; 2],
    path: &str,
    host: &str,
    fields: &Fields,
) -> Vec<u8> {
    let target = match path {
        // To a proxy, a URL without a path says the same (§3.2.4).
        "" if *method == Method::OPTIONS => ["", if base == [""; 2] { "*" } else { "" }],
        path if path.starts_with('/') => ["", path],
        path => ["/", path],
    };
    let mut head = Vec::with_capacity(512);
    // Host comes first, as RFC 9110 §7.2 advises: servers choose by it what they are asked for.
    let version_and_host = [" HTTP/1.1\r\nHost: ", host, "\r\n"];
    for part in
        [[method.as_str(), " "], base, target].as_flattened().iter().chain(&version_and_host)
    {
        head.extend_from_slice(part.as_bytes());
    }
    fields.write_to(&mut head);
    head
}

/// Writes a status line (RFC 9112 §4).
pub(crate) fn write_status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    #[test]
    fn response_heads_are_read_or_refused() {
        #[rustfmt::skip]
        let table: [(&str, &str, Result<&str, ()>); 17] = [
            ("4",   "HTTP/1.1 200 OK\r\nA: b\r\nA:c\r\n\r\n",      Ok("200 HTTP/1.1 2")),
            ("4",   "HTTP/1.1 200\r\n\r\n",                        Ok("200 HTTP/1.1 0")),
            ("4",   "HTTP/1.1 999 \r\n\r\n",                       Ok("999 HTTP/1.1 0")),
            ("4",   "HTTP/1.0 404 No\r\n\r\n",                     Ok("404 HTTP/1.0 0")),
            ("2.3", "HTTP/1.2 200 OK\r\nA: b\r\n\r\n",             Ok("200 HTTP/1.1 1")),
            ("2.3", "HTTP/1.9 103 Hints\r\nA: b\r\n\r\n",          Ok("103 HTTP/1.1 1")),
            ("2.3", "HTTP/1.10 200 OK\r\n\r\n",                    Err(())),
            ("2.3", "HTTP/2.0 200 OK\r\n\r\n",                     Err(())),
            ("2.3", "HTTP/1.x 200 OK\r\n\r\n",                     Err(())),
            ("4",   "HTTP/1.1 099 No\r\n\r\n",                     Err(())),
            ("4",   "HTTP/1.1 20 No\r\n\r\n",                      Err(())),
            ("4",   "HTTP/1.1 2000 No\r\n\r\n",                    Err(())),
            ("4",   "junk\r\n\r\n",                                Err(())),
            ("5.1", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",            Err(())),
            ("5.2", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",       Err(())),
            ("5.5", "HTTP/1.1 200 OK\r\nA: b\u{1}\r\n\r\n",        Err(())),
            ("5.5", "HTTP/1.1 200 OK\r\nA: b\rB: c\r\n\r\n",       Err(())),
        ];
        for (section, text, expected) in table {
            let got = read_response(text.as_bytes()).map_err(|_| ()).map(|head| {
                let head = head.expect("it is complete");
                assert_eq!(head.length, text.len());
                format!("{} {:?} {}", head.status.as_u16(), head.version, head.fields.len())
            });
            assert_eq!(got, expected.map(str::to_string), "RFC 9112 §{section}: {text:?}");
            if expected.is_ok() {
                for end in 0..text.len() {
                    assert!(matches!(read_response(&text.as_bytes()[..end]), Ok(None)), "{text:?}");
                    assert!(!may_be_complete(&text.as_bytes()[..end], 0));
                }
            }
        }
        let lines = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(
            read_response(lines(RESPONSE_LINES_MAX).as_bytes()).is_ok_and(|head| head.is_some())
        );
        assert!(read_response(lines(RESPONSE_LINES_MAX + 1).as_bytes()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(9110),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// RFC 9110 §5.1, §5.3: names in any case, and lines in any order.
        #[test]
        fn field_lines_are_written_as_they_were_read(
            lines in vec(("[A-Za-z0-9!#$%&'*+.^_`|~-]{1,140}", "[!-~]{1,20}"), 0..12),
        ) {
            let lines: Vec<_> =
                lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let lines = lines.concat();
            let head = read_response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes());
            let mut written = Vec::new();
            head.expect("a head").expect("all of it").fields.write_to(&mut written);
            prop_assert_eq!(String::from_utf8_lossy(&written), lines);
        }
    }

    #[test]
    fn a_request_is_written_with_its_target_in_the_right_form() {
        let table = [
            ("GET", "", "/a?b", "GET /a?b"),
            ("GET", "", "", "GET /"),
            ("GET", "", "?b", "GET /?b"),
            ("OPTIONS", "", "", "OPTIONS *"),
            ("OPTIONS", "", "/", "OPTIONS /"),
            ("GET", "http://h:1", "", "GET http://h:1/"),
            ("GET", "http://h:1", "/a", "GET http://h:1/a"),
            ("OPTIONS", "http://h:1", "", "OPTIONS http://h:1"),
        ];
        let fields = [(HeaderName::from_static("a"), HeaderValue::from_static("b"))];
        let fields: Fields = fields.into_iter().collect();
        for (method, base, path, line) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let head = write_request(&method, [base, ""], path, "h:1", &fields);
            let expected = format!("{line} HTTP/1.1\r\nHost: h:1\r\nA: b\r\n");
            assert_eq!(String::from_utf8_lossy(&head), expected, "RFC 9112 §3.2");
        }
    }
}
