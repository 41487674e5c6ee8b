//! A response as it leaves the engine, and what the cache did with its request. RFC 9110 §6, RFC 9211.

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::policy::reason::CacheStatus;

/// Media types of streams to which a server adds for as long as the client listens: Server-Sent Events,
/// and the pictures of a camera.
const ENDLESS: [&str; 2] = ["text/event-stream", "multipart/x-mixed-replace"];

/// A response for a client.
///
/// `fields` holds no `Content-Length`, `Transfer-Encoding` or `Connection`: the front says how a body
/// is framed, because it knows the client's version of HTTP (RFC 9112 §6).
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The header section, less the framing fields.
    pub fields: Fields,
    /// The content.
    pub body: Body,
    /// What the cache did with the request. Its two fields, `X-Cache` and `Cache-Status`, are written from
    /// it, and nothing reads them again.
    pub cache_status: CacheStatus,
}

impl Response {
    /// A response with which the cache has nothing to do.
    pub fn new(status: StatusCode, fields: Fields, body: Body) -> Self {
        Self { status, fields, body, cache_status: CacheStatus::default() }
    }

    /// A short response of the proxy's own: what happened, as one line of text, or as JSON where the
    /// client asks for it.
    pub fn error(status: StatusCode, text: &str, as_json: bool) -> Self {
        let (content_type, content) = if as_json {
            let content = json!({ "status": status.as_u16(), "error": text });
            ("application/json", format!("{content}\n"))
        } else {
            ("text/plain; charset=utf-8", format!("{text}\n"))
        };
        // `no-store`: a cache in front of this one must not keep an error that ends in a moment.
        let mut fields = Fields::new();
        fields.append(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        fields.append(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.append(HeaderName::from_static("x-cache"), HeaderValue::from_static("MISS"));
        Self::new(status, fields, Body::Whole(content.into()))
    }

    /// Is the content a stream that does not end by itself, as far as its head tells? The end of the
    /// process does not wait for such streams.
    pub(crate) fn is_endless(&self) -> bool {
        // With a length it ends by itself, whatever its type.
        if !matches!(self.body, Body::Arriving(_) | Body::Growing(_))
            || self.body.length().is_some()
        {
            return false;
        }
        let content_type = self.fields.get("content-type").map(HeaderValue::as_bytes);
        let media_type = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
        media_type.is_some_and(|media_type| {
            let media_type = media_type.trim_ascii();
            ENDLESS.iter().any(|endless| media_type.eq_ignore_ascii_case(endless.as_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body::Arriving;

    struct Comes(Option<u64>);

    impl Arriving for Comes {
        fn length(&self) -> Option<u64> {
            self.0
        }

        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Ok(0)
        }
    }

    #[test]
    fn a_stream_without_an_end_is_known_by_its_type_unless_it_has_a_length() {
        let endless = |content_type: &[u8], body: Body| {
            let mut fields = Fields::new();
            let value = HeaderValue::from_bytes(content_type).expect("a value");
            fields.append(http::header::CONTENT_TYPE, value);
            Response::new(StatusCode::OK, fields, body).is_endless()
        };
        let unknown = || Body::Arriving(Box::new(Comes(None)));
        let table: [(&[u8], bool); 8] = [
            (b"text/event-stream", true),
            (b"Text/Event-Stream ; charset=utf-8", true),
            (b"multipart/x-mixed-replace;boundary=b", true),
            (b"text/event-streams", false),
            (b"text/plain; text/event-stream", false),
            (b"application/x-ndjson", false),
            (b"\xff", false),
            (b"", false),
        ];
        for (content_type, expected) in table {
            let shown = String::from_utf8_lossy(content_type);
            assert_eq!(endless(content_type, unknown()), expected, "{shown}");
            for ends in [
                Body::Arriving(Box::new(Comes(Some(5)))),
                Body::Whole("".into()),
                Body::None { length: None },
            ] {
                assert!(!endless(content_type, ends), "{shown}");
            }
        }
        let fields = Fields::new();
        assert!(!Response::new(StatusCode::OK, fields, unknown()).is_endless());
    }

    #[test]
    fn what_an_error_says_cannot_end_its_json() {
        let error = Response::error(StatusCode::NOT_FOUND, "a \"b\" \\ \n é", true);
        let Body::Whole(content) = error.body else { panic!("it has content") };
        assert_eq!(
            String::from_utf8_lossy(&content),
            "{\"status\":404,\"error\":\"a \\\"b\\\" \\\\ \\n é\"}\n"
        );
    }
}
