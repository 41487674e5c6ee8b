//! A response as it leaves the engine. RFC 9110 §6.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::message::body::Body;
use crate::message::fields::Fields;

/// A response for a client.
///
/// `fields` holds no `Content-Length`, `Transfer-Encoding` or `Connection`: how a body is framed is
/// for the front to say, which knows the client's version of HTTP (RFC 9112 §6).
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The header section, less the framing fields.
    pub fields: Fields,
    /// The content.
    pub body: Body,
}

impl Response {
    /// A short response of the proxy's own: what happened, as one line of text, or as JSON where
    /// the client asks for it.
    pub fn error(status: StatusCode, text: &str, as_json: bool) -> Self {
        let (content_type, content) = if as_json {
            let code = status.as_u16();
            ("application/json", format!("{{\"status\":{code},\"error\":{}}}\n", json_string(text)))
        } else {
            ("text/plain; charset=utf-8", format!("{text}\n"))
        };
        let mut fields = Fields::new();
        fields.append(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        fields.append(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.append(HeaderName::from_static("x-cache"), HeaderValue::from_static("MISS"));
        Self { status, fields, body: Body::Whole(content.into()) }
    }
}

/// Writes a status line (RFC 9112 §4).
pub fn write_status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `text` as a JSON string, quotes included (RFC 8259 §7).
pub fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a \"b\" \\ \n é"), "\"a \\\"b\\\" \\\\ \\u000a é\"");
    }
}
