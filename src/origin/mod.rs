//! The origin server as the engine sees it: a request goes in, a response or an error comes out.
//!
//! `gate.rs` decides whether it is asked at all, `resolver` and `egress.rs` where it is, `trust.rs`
//! whom to believe that it is, and `outgoing.rs` writes what it is sent. `evented` asks it, on an event loop that
//! waits for nothing; `blocking`, on a thread that can wait.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::message::fields::Fields;
use crate::message::framing::{ResponseFraming, content_length};
use crate::message::head::ResponseHead;

pub mod blocking;
pub mod egress;
mod error;
pub mod evented;
pub mod gate;
mod limit_response;
pub mod outgoing;
pub mod resolver;
#[cfg(feature = "tls")]
pub mod trust;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
pub mod trust;
mod tunnel;

pub use error::OriginError;

// Bounds that both drivers keep to.
/// The most bytes a response head may have; a longer one is an invalid response.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most interim responses to one request; an origin server that sends more is broken.
pub(crate) const INTERIM_MAX: usize = 64;
/// For how long content waits for a 100 (RFC 9110 §10.1.1): not every origin server sends one.
pub(crate) const CONTINUE_MAX: Duration = Duration::from_secs(1);
/// When a silent connection is asked whether it is still there.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);

/// Answers requests: the origin server, or a script in a test.
pub trait Origin: Send + Sync {
    /// Sends a request and waits for the head of the response.
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError>;

    /// Sends a request to go over to another protocol, on a connection of its own (RFC 9110 §7.8).
    /// `request` has `Connection` and `Upgrade` among its fields, and no content.
    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        self.send(request).map(Upgrade::Declined)
    }

    /// Its state, as far as that is known.
    fn condition(&self) -> OriginCondition {
        OriginCondition::default()
    }
}

/// What an origin server answers to a request to go over to another protocol.
pub enum Upgrade {
    /// 101: from now on the connection speaks the other protocol.
    Agreed(Fields, Tunnel),
    /// Any other response.
    Declined(OriginResponse),
}

/// A connection that speaks another protocol.
pub struct Tunnel {
    /// Reads what the origin server sends.
    pub from_origin: Box<dyn Read + Send>,
    /// Writes to the origin server.
    pub to_origin: Box<dyn Write + Send>,
    /// Ends both directions, from any thread.
    pub hang_up: Box<dyn Fn() + Send + Sync>,
}

/// A request to the origin server.
pub struct OriginRequest<'a, 'content> {
    /// The method, known or not.
    pub method: &'a Method,
    /// The absolute URL.
    pub url: &'a str,
    /// The Host field, where it is not the URL's own authority.
    pub host: Option<&'a str>,
    /// The header section, without Host and framing fields.
    pub fields: &'a Fields,
    /// The content.
    pub content: RequestContent<'content>,
    /// May the request wait for a permit at the gate? Not if a stale response can be had instead.
    pub waits: bool,
    /// Is called with each interim response, as it comes (RFC 9110 §15.2).
    pub interim: Option<Arc<Interim>>,
}

/// The head of a request to the origin server.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The absolute URL.
    pub url: String,
    /// The Host field; `None` where it is the URL's own authority (all but `--preserve-host`).
    pub host: Option<String>,
    /// The header section, without Host and framing fields.
    pub fields: Arc<Fields>,
    /// May the request wait for its turn at the gate (`--origin-concurrency`, `--origin-rate`)? Not if a stale
    /// response can be had instead.
    pub waits: bool,
}

impl RequestHead {
    /// The request with this head, for a driver that sends it.
    pub fn request<'a, 'content>(
        &'a self,
        content: RequestContent<'content>,
        interim: Option<Arc<Interim>>,
    ) -> OriginRequest<'a, 'content> {
        let Self { method, url, host, fields, waits } = self;
        let (host, waits) = (host.as_deref(), *waits);
        OriginRequest { method, url, host, fields, content, waits, interim }
    }
}

/// The state of the origin server, as far as requests have shown it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OriginCondition {
    /// Why it could not be reached, while that is so.
    pub unreachable: Option<String>,
    /// How many clients or paths it has asked to leave it alone for a while (RFC 9110 §10.2.3).
    pub held_back: usize,
    /// Requests that are under way to it.
    pub in_flight: usize,
    /// Requests that wait for their turn.
    pub waiting: usize,
}

/// Takes an interim response, 102 to 199 but not 101: its status and fields.
pub type Interim = dyn Fn(StatusCode, Fields) + Send + Sync;

/// The content of a request, which is read while it is sent.
pub enum RequestContent<'a> {
    /// There is none.
    None,
    /// As many bytes as this, from the reader.
    Length(u64, &'a mut (dyn Read + 'a)),
    /// Until the reader ends.
    Chunked(&'a mut (dyn Read + 'a)),
}

/// A response: its head, and a body to read.
pub struct OriginResponse {
    /// What is known before any of the content is read.
    pub head: OriginHead,
    /// The content; `None` where the status or the method allows none.
    pub body: Option<Box<dyn OriginBody>>,
}

/// The head of a response: plain data, so that it can be judged without any I/O.
#[derive(Clone, Debug)]
pub struct OriginHead {
    /// The status code.
    pub status: StatusCode,
    /// The version of HTTP that it came in.
    pub version: Version,
    /// The header section as it came.
    pub fields: Fields,
    /// The length of the content in bytes, where the head states it.
    pub length: Option<u64>,
    /// Does only the end of the connection end the content, without an announcement of it?
    pub silently_delimited: bool,
    /// Has it content? Not where the status or the method allows none; it may have no bytes.
    pub has_content: bool,
}

impl OriginHead {
    /// This head, of a response whose content is delimited so.
    pub(crate) fn new(head: ResponseHead, framing: ResponseFraming) -> Self {
        let ResponseHead { status, version, fields, .. } = head;
        let length = match framing {
            ResponseFraming::Length(length) => Some(length),
            // Of a HEAD, what a GET would get.
            ResponseFraming::None if !fields.contains("transfer-encoding") => {
                content_length(&fields).ok().flatten()
            }
            _ => None,
        };
        // RFC 9112 §6.3: an end that nobody announced may as well be a connection that broke, so that
        // such content is not stored. With an unknown transfer coding there is no other end.
        let announced = version == Version::HTTP_10
            || fields.has_member("connection", "close")
            || fields.contains("transfer-encoding");
        let silently_delimited = framing == ResponseFraming::Close && !announced;
        let has_content = framing != ResponseFraming::None;
        Self { status, version, fields, length, silently_delimited, has_content }
    }
}

/// The content of a response while it arrives.
pub trait OriginBody: Send {
    /// Reads what has come. `Ok(0)` is the end that the framing proves; a body that is cut short
    /// ends in an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// The origin server of `--cache-mode offline`: never contacted, because the engine answers before.
pub struct Unreachable;

impl Origin for Unreachable {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let source = io::Error::other("--cache-mode is offline");
        Err(OriginError::Connect { origin: request.url.to_string(), source })
    }

    fn condition(&self) -> OriginCondition {
        let unreachable = Some("never contacted: --cache-mode is offline".to_string());
        OriginCondition { unreachable, ..OriginCondition::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::framing::response_framing;
    use crate::message::head::read_response;

    #[test]
    fn a_head_tells_the_length_and_whether_the_end_is_announced() {
        #[rustfmt::skip]
        let table = [
            // Head, whether it answers a HEAD, the length, and whether nobody announces the end.
            ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", false, Some(5), false),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", false, None, false),
            ("HTTP/1.1 200 \r\n\r\n", false, None, true),
            ("HTTP/1.1 200 \r\nConnection: close\r\n\r\n", false, None, false),
            ("HTTP/1.0 200 \r\n\r\n", false, None, false),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: foo\r\n\r\n", false, None, false),
            ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", true, Some(5), false),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", true, None, false),
            ("HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", false, Some(5), false),
            ("HTTP/1.1 304 \r\n\r\n", false, None, false),
        ];
        for (text, to_head, length, silently) in table {
            let head = read_response(text.as_bytes()).expect("valid").expect("complete");
            let framing = response_framing(&head, to_head).expect("valid");
            let head = OriginHead::new(head, framing);
            assert_eq!((head.length, head.silently_delimited), (length, silently), "{text:?}");
        }
    }
}
