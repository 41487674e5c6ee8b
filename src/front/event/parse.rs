//! Heads of requests out of bytes. RFC 9112 §2, §3, §5.
//!
//! The request line is read here, because what is wrong with it has several answers; the field lines
//! are httparse's. Both are strict where two readers could see two messages: no bare CR, no folded
//! line, no space before a colon. Lines may end in a bare LF (§2.2), as old clients write them, but
//! then all of them must: one among others could hide a field from a proxy in front of this one.

use std::net::SocketAddr;

use http::{Method, Version};
use httparse::{Error, Status};

use crate::message::fields::{Fields, SharedValues, is_token_byte};
use crate::message::percent::encode_beyond_ascii;
use crate::message::request::{Request, RequestError, RequestLimits};
use crate::message::target::TARGET_BYTES_MAX;

pub use crate::message::head::may_be_complete;
pub use httparse::Header as Line;

/// Field lines that are read without allocating; more are read all the same.
const FEW_LINES: usize = 24;
/// Bytes of a request line besides its target.
const LINE_BYTES: usize = 128;

/// A head, as it came.
#[derive(Debug)]
pub struct Head<'bytes, 'lines> {
    /// The method: a token.
    pub method: &'bytes [u8],
    /// The target: neither spaces nor control characters.
    pub target: &'bytes [u8],
    /// HTTP/1.0, or HTTP/1.1 for any other minor version (RFC 9110 §2.5).
    pub version: Version,
    /// The field lines: names that are tokens, values without control characters.
    pub lines: &'lines [Line<'bytes>],
    /// The bytes that the lines are in.
    pub section: &'bytes [u8],
    /// Bytes of the whole head, its last line end included.
    pub length: usize,
}

impl Head<'_, '_> {
    /// The request, which `client` has sent, if it is acceptable within these limits.
    pub(crate) fn to_request(
        &self,
        client: Option<SocketAddr>,
        limits: RequestLimits,
    ) -> Result<Request, RequestError> {
        let method = Method::from_bytes(self.method)
            .map_err(|_| RequestError::Line("the method is no token"))?;
        let mut fields = Fields::with_capacity(self.lines.len());
        let values = SharedValues::of(self.section);
        for line in self.lines {
            let refused = || RequestError::Field(line.name.chars().take(40).collect());
            let value = values.value(line.value).map_err(|_| refused())?;
            fields.append_spelt(line.name.as_bytes(), value).map_err(|_| refused())?;
        }
        let target = encode_beyond_ascii(self.target);
        Request::within(limits, method, &target, self.version, fields, client)
    }
}

/// Reads a head from the beginning of `bytes` and gives what `then` makes of it; `None` if it is not
/// complete. What is wrong with the bytes so far is an error at once.
pub fn head<T>(
    bytes: &[u8],
    limits: RequestLimits,
    then: impl FnOnce(&Head<'_, '_>) -> T,
) -> Result<Option<T>, RequestError> {
    // Line by line, so that a request that is no HTTP is refused with its first bytes, not once the header
    // timeout is over.
    let Some(skipped) = skip_empty_lines(bytes)? else { return Ok(None) };
    let Some(line) = request_line(&bytes[skipped..])? else { return Ok(None) };
    let begin = skipped + line.length;
    // Names, values, and four bytes a line between and behind them. What stands behind that is not
    // looked at, so that what is wrong with a head does not depend on how much of it has come.
    let most = limits.field_bytes + 4 * limits.field_lines + 2;
    let section = &bytes[begin..bytes.len().min(begin + most + 1)];
    // On the stack for common heads: only a longer one is parsed twice, and allocates.
    let mut few = [httparse::EMPTY_HEADER; FEW_LINES];
    let mut many;
    let mut parsed = httparse::parse_headers(section, &mut few);
    if parsed == Err(Error::TooManyHeaders) && limits.field_lines > FEW_LINES {
        many = vec![httparse::EMPTY_HEADER; limits.field_lines];
        parsed = httparse::parse_headers(section, &mut many);
    }
    match parsed {
        Ok(Status::Complete((length, lines))) => {
            // RFC 9112 §2.2 permits a bare LF, and §11.2 is why it must not stand among other line ends.
            if !ends_alike(&section[..length], lines, line.ends_in_crlf) {
                return Err(RequestError::Field("a line end unlike the first".to_string()));
            }
            let RequestLine { method, target, version, .. } = line;
            let (section, length) = (&section[..length], begin + length);
            Ok(Some(then(&Head { method, target, version, lines, section, length })))
        }
        Ok(Status::Partial) if section.len() > most => {
            Err(RequestError::FieldsTooLarge(limits.field_bytes))
        }
        Ok(Status::Partial) => Ok(None),
        Err(Error::TooManyHeaders) => Err(RequestError::TooManyFields(limits.field_lines)),
        // httparse says only that something is wrong; the operator's log needs the line.
        Err(_) => Err(RequestError::Field(first_bad_line(section))),
    }
}

/// A request line (§3).
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: Version,
    ends_in_crlf: bool,
    /// Bytes of the line, its end included.
    length: usize,
}

/// §2.2: some clients send an empty line too many. How many bytes these are; `None` if there is
/// nothing else yet.
fn skip_empty_lines(bytes: &[u8]) -> Result<Option<usize>, RequestError> {
    /// More of them are no mistake.
    const EMPTY_LINES_MAX: usize = 8;
    let mut rest = bytes;
    for _ in 0..=EMPTY_LINES_MAX {
        let next = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"));
        match next {
            Some(next) => rest = next,
            None if rest.is_empty() || rest == b"\r" => return Ok(None),
            None => return Ok(Some(bytes.len() - rest.len())),
        }
    }
    Err(RequestError::Line("empty lines instead of one"))
}

fn request_line(bytes: &[u8]) -> Result<Option<RequestLine<'_>>, RequestError> {
    // A line that is longer is refused anyway: what stands behind it must not be searched each time.
    let bytes = &bytes[..bytes.len().min(TARGET_BYTES_MAX + LINE_BYTES + 1)];
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return match bytes.first() {
            Some(byte) if !is_token_byte(*byte) => Err(no_http(*byte)),
            _ if bytes.len() > TARGET_BYTES_MAX + LINE_BYTES => Err(RequestError::TargetTooLong),
            _ => Ok(None),
        };
    };
    let (line, ends_in_crlf) = match bytes[..end].strip_suffix(b"\r") {
        Some(line) => (line, true),
        None => (&bytes[..end], false),
    };
    if let Some(byte) = line.first().filter(|byte| !is_token_byte(**byte)) {
        return Err(no_http(*byte));
    }
    // §3: lenient parsing by any whitespace invites request smuggling, so it is one space or nothing.
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(RequestError::Line("not a method, a target and a version, one space between"));
    };
    if method.len() > LINE_BYTES / 2 || !method.iter().all(|byte| is_token_byte(*byte)) {
        return Err(RequestError::Line("the method is no token"));
    }
    let version = version_of(version)?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(RequestError::TargetTooLong);
    }
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(RequestError::Target);
    }
    Ok(Some(RequestLine { method, target, version, ends_in_crlf, length: end + 1 }))
}

fn no_http(first: u8) -> RequestError {
    /// A TLS record that holds a handshake begins so (RFC 8446 §5.1).
    const TLS: u8 = 0x16;
    RequestError::Line(if first == TLS {
        "this is TLS; ask http://, not https://"
    } else {
        "does not begin with a method"
    })
}

/// §2.3. A later minor version is served as the latest known (RFC 9110 §2.5).
fn version_of(text: &[u8]) -> Result<Version, RequestError> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            if *major == b'1' {
                Ok(Version::HTTP_11)
            } else {
                Err(RequestError::Version)
            }
        }
        _ => Err(RequestError::Line("the version is none of HTTP")),
    }
}

/// Do all lines end as the request line does?
fn ends_alike(section: &[u8], lines: &[Line<'_>], crlf: bool) -> bool {
    // httparse hides the line ends. Values are slices of the section, so their addresses say where each
    // line's end must begin.
    let base = section.as_ptr() as usize;
    let is_end = |rest: &[u8]| rest.starts_with(if crlf { b"\r\n" } else { b"\n" });
    let all = lines.iter().all(|line| {
        let at = line.value.as_ptr() as usize - base + line.value.len();
        let rest = &section[at..];
        let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        is_end(&rest[spaces..])
    });
    all && section.ends_with(b"\r\n") == crlf
}

/// What can be shown of the line that made a head unreadable.
fn first_bad_line(section: &[u8]) -> String {
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let mut one = [httparse::EMPTY_HEADER; 1];
        if httparse::parse_headers(line, &mut one).is_err() {
            let name = line.split(|byte| !is_token_byte(*byte)).next().unwrap_or_default();
            return String::from_utf8_lossy(&name[..name.len().min(40)]).into_owned();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<String>, u16> {
        head(bytes, RequestLimits::default(), |head| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let lines =
                head.lines.iter().map(|line| format!("|{}={}", line.name, text(line.value)));
            let lines: String = lines.collect();
            assert_eq!(head.length, bytes.len());
            format!("{} {} {:?}{lines}", text(head.method), text(head.target), head.version)
        })
        .map_err(|error| error.status().as_u16())
    }

    #[test]
    fn heads_are_read_or_refused() {
        #[rustfmt::skip]
        let table: [(&str, &[u8], Result<&str, u16>); 40] = [
            ("3",     b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",          Ok("GET /a HTTP/1.1|Host=h")),
            ("2.2",   b"\r\n\nGET / HTTP/1.0\r\n\r\n",                Ok("GET / HTTP/1.0")),
            ("2.2",   b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",         Err(400)),
            ("2.2",   b"\rGET / HTTP/1.0\r\n\r\n",                   Err(400)),
            ("2.2",   b"GET / HTTP/1.1\r\n\n",                       Err(400)),
            ("2.2",   b"GET / HTTP/1.1\n\r\n",                       Err(400)),
            ("2.2",   b"GET / HTTP/1.1\nHost: h\nA:b\n\n",            Ok("GET / HTTP/1.1|Host=h|A=b")),
            ("2.2",   b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n",     Err(400)),
            ("2.2",   b"GET / HTTP/1.1\nHost: h\r\n\n",               Err(400)),
            ("2.2",   b"GET / HTTP/1.1\r\nHost: h\r\n\n",             Err(400)),
            ("2.2",   b"GET / HTTP/1.1\nHost: h\n\r\n",               Err(400)),
            ("2.2",   b"GET / HTTP/1.1\r\nHost: h\rA: b\r\n\r\n",     Err(400)),
            ("2.3",   b"GET / HTTP/1.7\r\nHost: h\r\n\r\n",           Ok("GET / HTTP/1.1|Host=h")),
            ("2.3",   b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",           Err(505)),
            ("2.3",   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",            Err(505)),
            ("2.3",   b"GET / http/1.1\r\nHost: h\r\n\r\n",           Err(400)),
            ("2.3",   b"GET / HTTP/1.10\r\nHost: h\r\n\r\n",          Err(400)),
            ("3",     b"GET /\r\n\r\n",                               Err(400)),
            ("3",     b"GET  / HTTP/1.1\r\n\r\n",                     Err(400)),
            ("3",     b"GET / a HTTP/1.1\r\n\r\n",                    Err(400)),
            ("3",     b"GET\t/ HTTP/1.1\r\n\r\n",                     Err(400)),
            ("3",     b" GET / HTTP/1.1\r\n\r\n",                     Err(400)),
            ("3",     b"G(T / HTTP/1.1\r\n\r\n",                      Err(400)),
            ("3",     b"GET /\x00 HTTP/1.1\r\n\r\n",                  Err(400)),
            ("3",     b"GET /\x7f HTTP/1.1\r\n\r\n",                  Err(400)),
            ("3",     b"GET /\xff HTTP/1.1\r\n\r\n",                  Ok("GET /\u{fffd} HTTP/1.1")),
            ("3",     b"\x16\x03\x01\x02\x00\x01",                    Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",          Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\n: h\r\n\r\n",               Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\nHost\r\n\r\n",              Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",          Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\nA:\r\nB: \t c \t\r\n\r\n",  Ok("GET / HTTP/1.1|A=|B=c")),
            ("5.2",   b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",        Err(400)),
            ("5.2",   b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n",       Err(400)),
            ("5.5",   b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",         Err(400)),
            ("5.5",   b"GET / HTTP/1.1\r\nA: b\x01c\r\n\r\n",         Err(400)),
            ("5.5",   b"GET / HTTP/1.1\r\nA: b\x7fc\r\n\r\n",         Err(400)),
            ("5.5",   b"GET / HTTP/1.1\r\nA: \xe9\r\n\r\n",           Ok("GET / HTTP/1.1|A=\u{fffd}")),
            ("5.1",   b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",          Err(400)),
            ("5.1",   b"GET / HTTP/1.1\r\nA\xe9: b\r\n\r\n",          Err(400)),
        ];
        for (section, bytes, expected) in table {
            let got = read(bytes);
            let shown = String::from_utf8_lossy(bytes);
            let expected = expected.map(|text| Some(text.to_string()));
            assert_eq!(got, expected, "RFC 9112 §{section}: {shown:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_head_is_incomplete() {
        for bytes in
            [&b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"[..], b"GET / HTTP/1.0\nA: b\n\n"]
        {
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(None), "{:?}", &bytes[..end]);
                assert!(!may_be_complete(&bytes[..end], 0));
            }
            assert!(may_be_complete(bytes, bytes.len() - 1) && read(bytes).is_ok());
        }
    }

    #[test]
    fn a_head_without_end_is_refused_at_its_bounds() {
        let target = [b"GET /", vec![b'a'; TARGET_BYTES_MAX + LINE_BYTES].as_slice()].concat();
        assert_eq!(read(&target), Err(414));
        let limits = RequestLimits::default();
        let value = [&b"GET / HTTP/1.1\r\nA: "[..], &vec![b'a'; limits.field_bytes + 403]].concat();
        assert_eq!(read(&value), Err(431));
        let lines = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(limits.field_lines + 1)];
        assert_eq!(read(&lines.concat()), Err(431));
        let lines = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(limits.field_lines), b"\r\n"];
        assert!(read(&lines.concat()).is_ok_and(|head| head.is_some()));
    }
}
