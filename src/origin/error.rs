//! Why the origin server gave no usable response, and what clients and operators are told of it.
//!
//! No text here holds a password: origins are shown by scheme, host and port.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::origin::limit_response::LimitResponse;
use crate::policy::reason::Detail;

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
    /// The connection ended before the content of a response of which nothing had been passed on.
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
    /// It has asked for requests to be held back.
    HeldBack {
        /// What it has answered.
        answer: Arc<LimitResponse>,
        /// For how many seconds more.
        seconds: u32,
    },
    /// `--origin-rate`, `--origin-concurrency` or `--origin-connections` has been reached.
    Busy {
        /// When it may be worth trying again.
        seconds: u32,
    },
    /// The client's content could not be read: not the origin server's fault.
    Content(io::Error),
}

impl OriginError {
    /// 504 when the origin server was late (RFC 9110 §15.6.5), else 502 (§15.6.3); 400 when the client
    /// was at fault, and 500 when the proxy was.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Timeout { .. } | Self::ConnectTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Content(_) => StatusCode::BAD_REQUEST,
            // No other request would fare better: 502 would send the operator to the origin server.
            Self::Unsent { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            // The one that found it down has decided between 502 and 504.
            Self::Down { status, .. } => *status,
            // 429 or 503, as the limited client got it.
            Self::HeldBack { answer, .. } => answer.status,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// The reason for `Cache-Status`, the log and the counters.
    pub fn detail(&self) -> Detail {
        match self {
            // For a client it is the same, and the log's text tells the two apart.
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

    /// Was the origin server not asked at all?
    pub fn spared_it(&self) -> bool {
        matches!(self, Self::Down { .. } | Self::HeldBack { .. } | Self::Busy { .. })
    }

    /// Did nothing of the request reach the origin server?
    pub fn undelivered(&self) -> bool {
        // Only then may another address, or a request that is not idempotent, be tried without doing
        // something twice (RFC 9110 §9.2.2).
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
            // It is asked once a second.
            Self::Down { .. } => Some(1),
            _ => None,
        }
    }
}

/// What to do where there is no TLS; without TLS in the program, the error says it.
const TLS_REMEDY: &str = if cfg!(feature = "tls") { "; see --ca-cert, --insecure" } else { "" };

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { origin } => {
                write!(f, "{origin}: the name has no address; see --origin")
            }
            Self::Connect { origin, source } if is_led_out(origin) => write!(
                f,
                "{origin}: no connection ({source}); see http_proxy, https_proxy and no_proxy in the environment"
            ),
            Self::Connect { origin, source } => {
                write!(f, "{origin}: no connection ({source}); is it running? see --origin")
            }
            // A certificate is not what is wrong: what came is no TLS.
            Self::Tls { origin, what } if what.contains("InvalidContentType") => {
                write!(f, "{origin}: no TLS ({what}); does it speak http? see --origin")
            }
            Self::Tls { origin, what } => {
                write!(f, "{origin}: no TLS ({what}){TLS_REMEDY}")
            }
            Self::ConnectTimeout { origin, limit } => {
                write!(f, "{origin}: no connection within {limit:?}; see --connect-timeout")
            }
            Self::Timeout { origin, limit } => {
                write!(
                    f,
                    "{origin}: silent for {limit:?}; see --first-byte-timeout and --origin-timeout"
                )
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
                "no turn at the origin server within the limits; see --origin-rate, --origin-concurrency and \
                 --origin-connections; try again in {seconds} s"
            ),
            Self::Content(source) => write!(f, "request content: {source}"),
        }
    }
}

/// Is the origin server reached through another proxy? `egress.rs` names both then.
fn is_led_out(origin: &str) -> bool {
    origin.contains(" through proxy ")
}
