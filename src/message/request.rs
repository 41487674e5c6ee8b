//! A request as it enters the engine, and what makes one unacceptable. RFC 9112 §3, §6.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use http::{Method, StatusCode, Version};

use crate::message::fields::Fields;
use crate::message::target::{TARGET_BYTES_MAX, Target, is_authority};

/// How large a request may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestLimits {
    /// `--max-header-fields`: field lines; more are answered 431.
    pub field_lines: usize,
    /// `--max-header-size`: bytes of all field lines together; more are answered 431.
    pub field_bytes: usize,
    /// `--max-request-size`: bytes of content; more are answered 413. `None` for no limit: content is
    /// passed on as it comes, and takes no memory.
    pub content_bytes: Option<u64>,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { field_lines: 100, field_bytes: 64 * 1024, content_bytes: None }
    }
}

/// A request from a client, without its content.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, known or not.
    pub method: Method,
    /// The request target.
    pub target: Target,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The header section.
    pub fields: Fields,
    /// How the content is framed.
    pub framing: Framing,
    /// The address of the peer that sent it; `None` over a Unix socket.
    pub client: Option<SocketAddr>,
    /// It came over a connection that the origin server authenticates as a whole: what is right for this client is
    /// right for nobody else.
    pub is_bound: bool,
}

/// How the content of a message is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
}

impl Request {
    /// Makes a request of what a front has parsed, if it is acceptable.
    pub fn new(
        method: Method,
        target: &str,
        version: Version,
        fields: Fields,
        client: Option<SocketAddr>,
    ) -> Result<Self, RequestError> {
        Self::within(RequestLimits::default(), method, target, version, fields, client)
    }

    /// The same, under other limits than the default ones.
    pub(crate) fn within(
        limits: RequestLimits,
        method: Method,
        target: &str,
        version: Version,
        fields: Fields,
        client: Option<SocketAddr>,
    ) -> Result<Self, RequestError> {
        // The bounds come first: nothing below is done for a request that is refused for its size.
        if target.len() > TARGET_BYTES_MAX {
            return Err(RequestError::TargetTooLong);
        }
        if fields.len() > limits.field_lines {
            return Err(RequestError::TooManyFields(limits.field_lines));
        }
        let bytes: usize =
            fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > limits.field_bytes {
            return Err(RequestError::FieldsTooLarge(limits.field_bytes));
        }
        // CONNECT would make an open proxy of this one, and TRACE sends a client's credentials back
        // where a script can read them.
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(RequestError::MethodRefused(method));
        }
        let target = Target::of_request(&method, target).ok_or(RequestError::Target)?;
        // RFC 9112 §3.2.4: the asterisk is for OPTIONS alone.
        if target.as_str() == "*" && method != Method::OPTIONS {
            return Err(RequestError::Target);
        }
        let framing = framing(&fields, version)?;
        check_host(&fields, version, &target)?;
        // HTTP/1.0 has no chunks: without a length a body would end with the connection, which cannot
        // carry a response then.
        let needs_length = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        if version == Version::HTTP_10 && framing == Framing::None && needs_length {
            return Err(RequestError::LengthRequired);
        }
        if let (Framing::Length(length), Some(most)) = (framing, limits.content_bytes)
            && length > most
        {
            return Err(RequestError::ContentTooLong(most));
        }
        check_expectation(&fields, version)?;
        Ok(Self { method, target, version, fields, framing, client, is_bound: false })
    }

    /// Does the client wait for a 100 before it sends its content (RFC 9110 §10.1.1)? An HTTP/1.0
    /// client cannot, and one without content has nothing to send.
    pub(crate) fn expects_continue(&self) -> bool {
        self.version != Version::HTTP_10
            && !matches!(self.framing, Framing::None | Framing::Length(0))
            && self.fields.contains("expect")
    }

    /// Does the client take trailer fields behind the content of its response (RFC 9110 §10.1.4)? That
    /// `Connection` has to name `TE` is not insisted on: whoever says this means it.
    pub(crate) fn takes_trailers(&self) -> bool {
        // A response to HEAD has no content, and HTTP/1.0 no coding with a place behind it.
        self.version != Version::HTTP_10
            && self.method != Method::HEAD
            && self.fields.has_member("te", "trailers")
    }

    /// The host and port that the client asked for: those of the target, which outrank the Host field
    /// (RFC 9112 §3.2.2).
    pub(crate) fn authority(&self) -> Option<&str> {
        let host = || self.fields.get("host").and_then(|host| host.to_str().ok());
        self.target.authority().or_else(host).filter(|authority| !authority.is_empty())
    }

    /// Would this client rather read JSON than text? By the first media type that it names; the error
    /// is short in either form.
    pub(crate) fn prefers_json(&self) -> bool {
        let first = self.fields.members("accept").next();
        first.is_some_and(|kind| kind.starts_with(b"application/json") || kind.ends_with(b"+json"))
    }
}

/// How the content of a request is framed; anything ambiguous is an error, because two servers
/// would read two different messages out of it (RFC 9112 §6.1, §6.3, §11.2).
fn framing(fields: &Fields, version: Version) -> Result<Framing, RequestError> {
    // Deviation from RFC 9112 §6.3, which permits to merge equal lengths and lets chunked outrank a
    // length: here all of these are refused. Between two servers the request is where smuggling begins,
    // and no honest client sends both.
    let mut codings = fields.get_all("transfer-encoding");
    let mut lengths = fields.get_all("content-length");
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() || lengths.next().is_some() {
        return Err(RequestError::Framing("a framing field is repeated"));
    }
    match (coding, length) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => {
            Err(RequestError::Framing("both Transfer-Encoding and Content-Length are present"))
        }
        (Some(_), None) if version == Version::HTTP_10 => {
            Err(RequestError::Framing("Transfer-Encoding in an HTTP/1.0 request"))
        }
        // The one coding, by itself: `chunked, chunked` or `gzip, chunked` is a 501 (§6.1), because
        // nobody here takes gzip off.
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        (Some(coding), None) => Err(RequestError::TransferCoding(
            String::from_utf8_lossy(coding.as_bytes()).into_owned(),
        )),
        (None, Some(length)) => {
            // Rust's parser takes a plus sign, which HTTP does not.
            let digits = length.as_bytes();
            let readable = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let number = length.to_str().ok().and_then(|digits| digits.parse().ok());
            match number {
                Some(number) if readable => Ok(Framing::Length(number)),
                _ => Err(RequestError::Framing("Content-Length is not a number")),
            }
        }
    }
}

/// RFC 9112 §3.2: one Host field, a readable one; only HTTP/1.0 may leave it out.
fn check_host(fields: &Fields, version: Version, target: &Target) -> Result<(), RequestError> {
    // Two Host fields let the cache key be made of one and the origin server choose by the other.
    let mut hosts = fields.get_all("host");
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(RequestError::Host("is repeated"));
    }
    match first {
        // An absolute target names the host itself. Deviation from RFC 9112 §3.2, which wants a Host
        // field all the same: such clients talk to forward proxies, and nothing is ambiguous.
        None if version == Version::HTTP_10 || target.authority().is_some() => Ok(()),
        None => Err(RequestError::Host("is missing")),
        // RFC 9112 §3.2: empty where the target URI has no authority.
        Some(host) if host.is_empty() => Ok(()),
        Some(host) if is_authority(host.as_bytes()) => Ok(()),
        Some(_) => Err(RequestError::Host("is not a host and port")),
    }
}

/// RFC 9110 §10.1.1: there is but one expectation, and an HTTP/1.0 client can have none.
fn check_expectation(fields: &Fields, version: Version) -> Result<(), RequestError> {
    let unknown = |member: &&[u8]| !member.eq_ignore_ascii_case(b"100-continue");
    match fields.members("expect").find(unknown) {
        Some(member) if version != Version::HTTP_10 => {
            let member = &member[..member.len().min(40)];
            Err(RequestError::Expectation(String::from_utf8_lossy(member).into_owned()))
        }
        _ => Ok(()),
    }
}

/// Why a request is not acceptable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestError {
    /// The request target has none of the forms of RFC 9112 §3.2.
    Target,
    /// The request target is longer than `TARGET_BYTES_MAX`.
    TargetTooLong,
    /// More field lines than this.
    TooManyFields(usize),
    /// More bytes of field lines than this.
    FieldsTooLarge(usize),
    /// The request line (RFC 9112 §3).
    Line(&'static str),
    /// A version of HTTP that is not served (RFC 9110 §15.6.6).
    Version,
    /// An expectation that cannot be met (RFC 9110 §15.5.18).
    Expectation(String),
    /// Content that an HTTP/1.0 client did not announce (RFC 9110 §15.5.12).
    LengthRequired,
    /// The head, or the content, did not come in time (RFC 9110 §15.5.9).
    Late(&'static str),
    /// A field that no HTTP message may have.
    Field(String),
    /// The end of the content cannot be told for certain.
    Framing(&'static str),
    /// A transfer coding that this server does not know (RFC 9112 §6.1).
    TransferCoding(String),
    /// The Host field (RFC 9112 §3.2).
    Host(&'static str),
    /// CONNECT or TRACE: a reverse proxy has no use for either.
    MethodRefused(Method),
    /// The path leads out of the origin server's path prefix.
    Escapes,
    /// More bytes of content than this.
    ContentTooLong(u64),
    /// The client stopped before the content was complete.
    ContentCut,
}

impl RequestError {
    /// What is wrong with a request whose content could not be read to its end. A front says so by the
    /// kind of its error.
    pub(crate) fn of_content(error: &io::Error, limits: RequestLimits) -> Self {
        // The fronts read content through `io::Read`, which has no room for more than a kind.
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Late("content"),
            io::ErrorKind::InvalidData => Self::Framing("the chunked coding is malformed"),
            io::ErrorKind::FileTooLarge => {
                Self::ContentTooLong(limits.content_bytes.unwrap_or(u64::MAX))
            }
            _ => Self::ContentCut,
        }
    }

    /// The status code that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyFields(_) | Self::FieldsTooLarge(_) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::TransferCoding(_) | Self::MethodRefused(_) => StatusCode::NOT_IMPLEMENTED,
            Self::ContentTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Expectation(_) => StatusCode::EXPECTATION_FAILED,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => write!(f, "request target: not a path; send \"/…\""),
            Self::TargetTooLong => write!(f, "request target: more than {TARGET_BYTES_MAX} bytes"),
            Self::TooManyFields(most) => {
                write!(f, "request fields: more than {most} lines; see --max-header-fields")
            }
            Self::FieldsTooLarge(most) => {
                write!(f, "request fields: more than {most} bytes; see --max-header-size")
            }
            Self::Line(what) => write!(f, "request line: {what}"),
            Self::Version => write!(f, "version: not served; send HTTP/1.1"),
            Self::Expectation(seen) => {
                write!(f, "expectation {seen:?}: unknown; 100-continue alone is met")
            }
            Self::LengthRequired => write!(f, "request content: no Content-Length"),
            Self::Late(what) => write!(f, "request {what}: did not come in time"),
            Self::Field(name) => write!(f, "request field {name:?}: bytes that no field may hold"),
            Self::Framing(what) => write!(f, "request framing: {what}"),
            Self::TransferCoding(coding) => {
                write!(f, "transfer coding {coding:?}: unknown; chunked alone is accepted")
            }
            Self::Host(what) => write!(f, "host field: {what}"),
            // Programs send it to what they take for the proxy that leads out.
            Self::MethodRefused(Method::CONNECT) => write!(
                f,
                "method CONNECT: not served; give this address in place of the server's, not as https_proxy"
            ),
            Self::MethodRefused(method) => write!(f, "method {method}: not served by this proxy"),
            Self::Escapes => {
                write!(f, "request target: dot segments lead out of the origin's path")
            }
            Self::ContentTooLong(most) => {
                write!(f, "request content: more than {most} bytes; see --max-request-size")
            }
            Self::ContentCut => write!(f, "request content: ended before it was complete"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(target: &str, version: Version, lines: &[(&str, &str)]) -> Result<Framing, u16> {
        let line = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::try_from(*value).expect("a value"),
            )
        };
        let fields = lines.iter().map(line).collect();
        Request::new(Method::POST, target, version, fields, None)
            .map(|request| request.framing)
            .map_err(|error| error.status().as_u16())
    }

    #[test]
    fn framing_is_unambiguous_or_refused() {
        let host = ("host", "h");
        #[rustfmt::skip]
        let table: [(&str, &[(&str, &str)], Result<Framing, u16>); 15] = [
            ("6.3", &[host],                                                     Ok(Framing::None)),
            ("6.3", &[host, ("content-length", "3")],                            Ok(Framing::Length(3))),
            ("6.3", &[host, ("transfer-encoding", "Chunked")],                   Ok(Framing::Chunked)),
            ("6.2", &[host, ("content-length", "+3")],                           Err(400)),
            ("6.2", &[host, ("content-length", "3 0")],                          Err(400)),
            ("6.2", &[host, ("content-length", "3, 3")],                         Err(400)),
            ("6.2", &[host, ("content-length", "")],                             Err(400)),
            ("6.2", &[host, ("content-length", "99999999999999999999")],         Err(400)),
            ("6.2", &[host, ("content-length", "3"), ("content-length", "3")],   Err(400)),
            ("6.1", &[host, ("content-length", "3"), ("transfer-encoding", "chunked")], Err(400)),
            ("6.1", &[host, ("transfer-encoding", "gzip, chunked")],             Err(501)),
            ("6.1", &[host, ("transfer-encoding", "identity")],                  Err(501)),
            ("3.2", &[],                                                         Err(400)),
            ("3.2", &[host, host],                                               Err(400)),
            ("3.2", &[("host", "a b")],                                          Err(400)),
        ];
        for (section, lines, expected) in table {
            let got = read("/", Version::HTTP_11, lines);
            assert_eq!(got, expected, "RFC 9112 §{section}: {lines:?}");
        }
        assert_eq!(read("/", Version::HTTP_10, &[("transfer-encoding", "chunked")]), Err(400));
        assert_eq!(read("/", Version::HTTP_10, &[]), Err(411), "RFC 9110 §15.5.12: it is a POST");
        assert_eq!(read("/", Version::HTTP_10, &[("content-length", "0")]), Ok(Framing::Length(0)));
    }

    #[test]
    fn one_expectation_is_met() {
        let host = ("host", "h");
        let expects = |value| read("/", Version::HTTP_11, &[host, ("expect", value)]);
        assert_eq!(expects("100-Continue"), Ok(Framing::None));
        assert_eq!(expects("100-continue, more"), Err(417));
        let old = [("expect", "more"), ("content-length", "1")];
        assert_eq!(read("/", Version::HTTP_10, &old), Ok(Framing::Length(1)));
    }

    #[test]
    fn content_may_be_bounded() {
        let limits = RequestLimits { content_bytes: Some(3), ..RequestLimits::default() };
        let request = |length| {
            let fields = [("host", "h"), ("content-length", length)].map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            let fields = fields.into_iter().collect();
            Request::within(limits, Method::PUT, "/", Version::HTTP_11, fields, None)
                .map(drop)
                .map_err(|error| error.status().as_u16())
        };
        assert_eq!((request("3"), request("4")), (Ok(()), Err(413)));
    }

    #[test]
    fn every_bound_of_a_head_is_reached() {
        let host = ("host", "h");
        let long = format!("/{}", "a".repeat(TARGET_BYTES_MAX));
        assert_eq!(read(&long, Version::HTTP_11, &[host]), Err(414));
        assert_eq!(read(&long[..TARGET_BYTES_MAX], Version::HTTP_11, &[host]), Ok(Framing::None));
        let limits = RequestLimits::default();
        let mut lines = vec![("x-a", "b"); limits.field_lines - 1];
        lines.push(host);
        assert_eq!(read("/", Version::HTTP_11, &lines), Ok(Framing::None));
        lines.push(host);
        assert_eq!(read("/", Version::HTTP_11, &lines), Err(431));
        let value = "v".repeat(limits.field_bytes);
        assert_eq!(read("/", Version::HTTP_11, &[host, ("x-a", &value)]), Err(431));
    }
}
