//! The origin server as the engine sees it: a request goes in, a response or an error comes out.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::message::fields::Fields;
use crate::message::framing::{ResponseFraming, content_length};
use crate::message::head::ResponseHead;
use crate::origin::held::HeldAnswer;
use crate::policy::reason::Detail;

pub mod blocking;
pub mod egress;
pub mod gate;
pub mod held;
pub mod resolver;
mod tls;
pub mod trust;
pub mod tunnel;

/// Something that answers requests: the origin server, or a script in a test.
pub trait Origin: Send + Sync {
    /// Sends a request and waits for the head of the response.
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError>;

    /// Sends a request to go over to another protocol, on a connection of its own (RFC 9110 §7.8).
    /// `request` has `Connection` and `Upgrade` among its fields, and no content.
    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        self.send(request).map(Upgrade::Declined)
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
    /// What the origin server says.
    pub from_origin: Box<dyn Read + Send>,
    /// What it is told.
    pub to_origin: Box<dyn Write + Send>,
    /// Ends both, from any thread.
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
    /// May it wait for its turn? Not if there is a stale response to be had instead.
    pub waits: bool,
    /// What is told of interim responses, as they come (RFC 9110 §15.2).
    pub interim: Option<Arc<Interim>>,
}

/// Told of an interim response, 102 to 199 but not 101: its status and fields.
pub type Interim = dyn Fn(StatusCode, Fields) + Send + Sync;

/// The content of a request, which is read while it is sent.
pub enum RequestContent<'a> {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64, &'a mut (dyn Read + 'a)),
    /// Until the reader ends.
    Chunked(&'a mut (dyn Read + 'a)),
}

/// The head of a response, and a body to read.
pub struct OriginResponse {
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
    /// The content; `None` where the status or the method allows none.
    pub body: Option<Box<dyn OriginBody>>,
}

impl OriginResponse {
    /// The response with this head, whose content is delimited so.
    fn new(
        head: ResponseHead,
        framing: ResponseFraming,
        body: Option<Box<dyn OriginBody>>,
    ) -> Self {
        let ResponseHead { status, version, fields, .. } = head;
        let length = match framing {
            ResponseFraming::Length(length) => Some(length),
            // Of a HEAD, what a GET would get.
            ResponseFraming::None if !fields.contains("transfer-encoding") => {
                content_length(&fields).ok().flatten()
            }
            _ => None,
        };
        let announced = version == Version::HTTP_10
            || fields.has_member("connection", "close")
            || fields.contains("transfer-encoding");
        let silently_delimited = framing == ResponseFraming::Close && !announced;
        Self { status, version, fields, length, silently_delimited, body }
    }
}

/// The content of a response while it arrives.
pub trait OriginBody: Send {
    /// Reads what has come. `Ok(0)` is the end that the framing proves; a body that is cut short
    /// ends in an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Why the origin server gave no usable response.
#[derive(Debug)]
pub enum OriginError {
    /// Its name has no address.
    Resolve {
        /// The URL's scheme, host and port.
        origin: String,
    },
    /// No connection to any of its addresses.
    Connect {
        /// The URL's scheme, host and port.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    Tls {
        /// The URL's scheme, host and port.
        origin: String,
        /// What the TLS library said.
        what: String,
    },
    /// No connection within `--connect-timeout`.
    ConnectTimeout {
        /// The URL's scheme, host and port.
        origin: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// Connected, but the response did not come in time.
    Timeout {
        /// The URL's scheme, host and port.
        origin: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// The connection ended before there was a response.
    Closed {
        /// The URL's scheme, host and port.
        origin: String,
        /// What the system said.
        what: String,
    },
    /// The connection ended before the content of the response, of which nothing was passed on.
    Cut {
        /// The URL's scheme, host and port.
        origin: String,
        /// What the system said.
        what: String,
    },
    /// What came is no valid response.
    Invalid {
        /// The URL's scheme, host and port.
        origin: String,
        /// What is wrong with it.
        what: String,
    },
    /// The request could not be put on the wire: the proxy's own fault.
    Unsent {
        /// What is wrong with it.
        what: String,
    },
    /// It redirects in circles.
    Redirects {
        /// How many redirects were followed.
        followed: usize,
    },
    /// It could not be reached a moment ago, and is not asked again yet.
    Down {
        /// The status that was answered then.
        status: StatusCode,
        /// What went wrong then.
        text: String,
    },
    /// It has asked to be left alone.
    HeldBack {
        /// What it has answered.
        answer: Arc<HeldAnswer>,
        /// For how many seconds more.
        seconds: u32,
    },
    /// `--origin-rate` or `--origin-concurrency` has been reached.
    Busy {
        /// When it may be worth trying again.
        seconds: u32,
    },
    /// The client's content could not be read: not the origin server's fault.
    Content(io::Error),
}

impl OriginError {
    /// 504 when the origin server was late (RFC 9110 §15.6.5), else 502 (§15.6.3); 400 when the
    /// client was at fault, and 500 when the proxy was.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Timeout { .. } | Self::ConnectTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Content(_) => StatusCode::BAD_REQUEST,
            Self::Unsent { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Down { status, .. } => *status,
            Self::HeldBack { answer, .. } => answer.status,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// The reason for `Cache-Status`, the log and the counters.
    pub fn detail(&self) -> Detail {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } => Detail::Connect,
            Self::Timeout { .. } | Self::ConnectTimeout { .. } => Detail::Timeout,
            Self::Tls { .. } => Detail::Tls,
            Self::Closed { .. } | Self::Cut { .. } | Self::Content(_) => Detail::Truncated,
            Self::Invalid { .. } => Detail::Invalid,
            Self::Unsent { .. } => Detail::Unsent,
            Self::Redirects { .. } => Detail::Loop,
            Self::Down { .. } => Detail::Down,
            Self::HeldBack { .. } => Detail::RetryAfter,
            Self::Busy { .. } => Detail::Rate,
        }
    }

    /// Was the origin server not even asked?
    pub fn spared_it(&self) -> bool {
        matches!(self, Self::Down { .. } | Self::HeldBack { .. } | Self::Busy { .. })
    }

    /// Did nothing of the request reach the origin server?
    pub fn undelivered(&self) -> bool {
        self.spared_it()
            || matches!(
                self,
                Self::Resolve { .. }
                    | Self::Connect { .. }
                    | Self::ConnectTimeout { .. }
                    | Self::Tls { .. }
                    | Self::Unsent { .. }
            )
    }

    /// When the client may try again, in seconds; `None` if nobody knows.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::HeldBack { seconds, .. } | Self::Busy { seconds } => Some(*seconds),
            Self::Down { .. } => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { origin } => {
                write!(f, "{origin}: the name has no address; see --origin")
            }
            Self::Connect { origin, source } => {
                write!(f, "{origin}: no connection ({source}); is it running? see --origin")
            }
            Self::Tls { origin, what } => {
                write!(f, "{origin}: no TLS ({what}); see --ca-cert, --insecure")
            }
            Self::ConnectTimeout { origin, limit } => {
                write!(f, "{origin}: no connection within {limit:?}; see --connect-timeout")
            }
            Self::Timeout { origin, limit } => {
                write!(f, "{origin}: silent for {limit:?}; see --origin-timeout")
            }
            Self::Closed { origin, what } => {
                write!(f, "{origin}: closed the connection without a response ({what})")
            }
            Self::Cut { origin, what } => {
                write!(f, "{origin}: closed the connection in the middle of a response ({what})")
            }
            Self::Invalid { origin, what } => {
                write!(f, "{origin}: no valid HTTP response ({what})")
            }
            Self::Unsent { what } => {
                write!(f, "proxy: this request could not be sent on ({what})")
            }
            Self::Redirects { followed } => {
                write!(f, "redirects: {followed} followed and no end; see --follow-redirects")
            }
            Self::Down { text, .. } => write!(f, "{text}; asked once a second until it answers"),
            Self::HeldBack { answer, seconds } => write!(
                f,
                "the origin server answered {} and wants to be left alone for {seconds} s more",
                answer.status.as_u16()
            ),
            Self::Busy { seconds } => write!(
                f,
                "no turn at the origin server within the limits; see --origin-rate and \
                 --origin-concurrency; try again in {seconds} s"
            ),
            Self::Content(source) => write!(f, "request content: {source}"),
        }
    }
}

/// The origin server of `--cache-mode offline`: never contacted, because the engine answers before.
pub struct Unreachable;

impl Origin for Unreachable {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let source = io::Error::other("--cache-mode is offline");
        Err(OriginError::Connect { origin: request.url.to_string(), source })
    }
}
