//! The origin client: ureq, set up for a proxy. RFC 9110 §7.6, RFC 9112 §9.
//!
//! ureq's defaults are for applications; here every status is an answer, no redirect is followed,
//! nothing is decoded or added, and every wait has its limit. No type of ureq leaves this file and
//! `trust.rs`.
//!
//! A thin layer over ureq's transport notes what ureq does not tell: whether a request went out on
//! a connection from the pool (then a dead one may be tried again on a fresh one), and whether the
//! connection that ends a body ended cleanly. It also takes out the interim responses that ureq would
//! throw away. ureq works on the calling thread, so all this is thread-local.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use ureq::config::Config;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};
use ureq::{Agent, Error, Proxy, SendBody, Timeout};

use crate::message::fields::Fields;
use crate::message::target::OriginUrl;
use crate::origin::interim::{Beginning, INTERIM_MAX, look_at};
use crate::origin::resolver::Names;
use crate::origin::trust::Roots;
use crate::origin::tunnel::Dialer;
use crate::origin::{
    Content, Interim, Origin, OriginBody, OriginError, OriginRequest, OriginResponse, Upgrade,
};

/// The most bytes a response head may have; a longer one is an invalid response.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Idle connections are closed after this: origin servers close theirs after 5 s, and a request
/// that goes out on a connection which is being closed may be lost.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// A connection's buffer for what goes out.
const OUTPUT_BUFFER_BYTES: usize = 16 * 1024;

thread_local! {
    /// Connections that this thread has opened.
    static OPENED: Cell<u64> = const { Cell::new(0) };
    /// Reads of this thread that brought bytes.
    static RECEIVED: Cell<u64> = const { Cell::new(0) };
    /// Did the last read of this thread fail?
    static READ_FAILED: Cell<bool> = const { Cell::new(false) };
    /// Until the final response begins: whom to tell of interim ones, and how many there were.
    static AWAITING: RefCell<Option<(Option<Arc<Interim>>, usize)>> = const { RefCell::new(None) };
}

/// How the origin server is reached.
pub struct Reach {
    /// `--connect-timeout`: to resolve the name, and to connect.
    pub connect_timeout: Duration,
    /// `--origin-timeout`: between two bytes.
    pub origin_timeout: Duration,
    /// The trusted roots; `None` for no verification at all.
    pub roots: Option<Roots>,
    /// The most idle connections: as many as there are workers.
    pub idle_connections_max: usize,
    /// The proxies that lead out, for http and for https.
    pub egress: (Option<String>, Option<String>),
}

/// A client for any number of threads, with one pool of connections for http and one for https.
pub struct Client {
    plain: Agent,
    secure: Agent,
    dialer: Dialer,
    connect_timeout: Duration,
    origin_timeout: Duration,
}

impl Client {
    /// Sets the client up; the error is one line that names the proxy that cannot be used.
    pub fn new(reach: Reach) -> Result<Self, String> {
        let names = Names::default();
        let timeouts = (reach.connect_timeout, reach.origin_timeout);
        let dialer =
            Dialer::new(names.clone(), timeouts, reach.roots.clone(), reach.egress.clone());
        let tls = match reach.roots {
            Some(roots) => {
                let certificates = RootCerts::Specific(roots.certificates.into());
                TlsConfig::builder().root_certs(certificates).build()
            }
            None => TlsConfig::builder().disable_verification(true).build(),
        };
        let agent = |egress: Option<String>| -> Result<Agent, String> {
            let proxy = egress.map(|url| egress_proxy(&url)).transpose()?;
            let config = Config::builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .allow_non_standard_methods(true)
                .user_agent("")
                .accept("")
                .accept_encoding("")
                .proxy(proxy)
                .tls_config(tls.clone())
                .timeout_resolve(Some(reach.connect_timeout))
                .timeout_connect(Some(reach.connect_timeout))
                .timeout_per_read(Some(reach.origin_timeout))
                .timeout_per_write(Some(reach.origin_timeout))
                .max_response_header_size(HEAD_BYTES_MAX)
                // A head that is too long must fit, or it would look like an end of the connection.
                .input_buffer_size(HEAD_BYTES_MAX + 4096)
                .output_buffer_size(OUTPUT_BUFFER_BYTES)
                .max_idle_connections(reach.idle_connections_max)
                .max_idle_connections_per_host(reach.idle_connections_max)
                .max_idle_age(IDLE_MAX)
                .build();
            let connector =
                ().chain(ConnectProxyConnector::default())
                    .chain(TcpConnector::default())
                    .chain(RustlsConnector::default())
                    .chain(NotingConnector);
            Ok(Agent::with_parts(config, connector, CachingResolver(names.clone())))
        };
        Ok(Self {
            plain: agent(reach.egress.0)?,
            secure: agent(reach.egress.1)?,
            dialer,
            connect_timeout: reach.connect_timeout,
            origin_timeout: reach.origin_timeout,
        })
    }

    /// Sends a request once; on a fresh connection if `fresh`.
    fn send_once(
        &self,
        request: &http::request::Parts,
        body: SendBody<'_>,
        interim: Option<&Arc<Interim>>,
        fresh: bool,
    ) -> Result<http::Response<ureq::Body>, Error> {
        let secure = request.uri.scheme_str() == Some("https");
        let agent = if secure { &self.secure } else { &self.plain };
        let request = http::Request::from_parts(request.clone(), body);
        AWAITING.set(Some((interim.cloned(), 0)));
        let result = if fresh {
            let request = agent.configure_request(request).max_idle_age(Duration::ZERO).build();
            agent.run(request)
        } else {
            agent.run(request)
        };
        AWAITING.set(None);
        result
    }

    /// What ureq's error means to a user of this program.
    fn explain(&self, url: &str, error: Error) -> OriginError {
        let origin = OriginUrl::parse(url.split(['?', '#']).next().unwrap_or(url)).map_or_else(
            |_| url.to_string(),
            |origin| format!("{}://{}", origin.scheme(), origin.authority()),
        );
        match error {
            Error::HostNotFound => OriginError::Resolve { origin },
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                OriginError::ConnectTimeout { origin, limit: self.connect_timeout }
            }
            Error::Timeout(_) => OriginError::Timeout { origin, limit: self.origin_timeout },
            Error::Rustls(error) => OriginError::Tls { origin, what: error.to_string() },
            Error::Tls(what) => OriginError::Tls { origin, what: what.to_string() },
            Error::Io(error) => explain_io(origin, error),
            Error::ConnectionFailed => {
                OriginError::Connect { origin, source: io::Error::other("connection failed") }
            }
            Error::ConnectProxyFailed(what) => {
                let what = format!("the proxy that leads out: {what}");
                OriginError::Connect { origin, source: io::Error::other(what) }
            }
            other => OriginError::Invalid { origin, what: other.to_string() },
        }
    }
}

fn egress_proxy(url: &str) -> Result<Proxy, String> {
    let scheme = url.split("://").next().unwrap_or_default();
    if !["http", "https"].contains(&scheme) {
        return Err(format!("proxy {url} from the environment: {scheme} is not spoken; http is"));
    }
    Proxy::new(url).map_err(|error| format!("proxy {url} from the environment: {error}"))
}

/// Does the error say that nobody has read the request? What comes to a closed socket is answered with
/// a reset; an orderly end is the origin server's word about this very request, which is then not
/// repeated. (A connection that was ended while it was idle is found out before it is used.)
fn was_not_read(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Has the other side ended a connection that there was?
fn is_end_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn explain_io(origin: String, error: io::Error) -> OriginError {
    match error.kind() {
        _ if is_end_of_connection(&error) => {
            OriginError::Closed { origin, what: error.to_string() }
        }
        // rustls reports a failed handshake as invalid data.
        io::ErrorKind::InvalidData => OriginError::Tls { origin, what: error.to_string() },
        _ => OriginError::Connect { origin, source: error },
    }
}

impl Origin for Client {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let OriginRequest { method, url, host, fields, content, waits: _, interim } = request;
        let interim = interim.as_ref();
        let repeatable = matches!(content, Content::None)
            && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        let (parts, mut content) = assemble(method, url, host, fields, content)?;
        let (opened, received) = (OPENED.get(), RECEIVED.get());
        let mut result = if content.reader.is_some() {
            self.send_once(&parts, SendBody::from_reader(&mut content), interim, false)
        } else {
            self.send_once(&parts, SendBody::none(), interim, false)
        };
        // A connection from the pool that is reset and brought no byte was dead before the request was
        // read, or at least nothing shows otherwise (RFC 9112 §9.3.1).
        if let Err(Error::Io(error)) = &result
            && was_not_read(error)
            && repeatable
            && OPENED.get() == opened
            && RECEIVED.get() == received
        {
            result = self.send_once(&parts, SendBody::none(), interim, true);
        }
        match result {
            Ok(response) => received_response(method, url, response),
            Err(error) => match content.failure.take() {
                Some(error) => Err(OriginError::Content(error)),
                None => Err(self.explain(url, error)),
            },
        }
    }

    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        self.dialer.upgrade(&request)
    }
}

/// The request as ureq takes it.
fn assemble<'a>(
    method: &Method,
    url: &str,
    host: Option<&str>,
    fields: &Fields,
    content: Content<'a>,
) -> Result<(http::request::Parts, ContentReader<'a>), OriginError> {
    let invalid = |what: String| OriginError::Invalid { origin: url.to_string(), what };
    let uri: Uri = url.parse().map_err(|error| invalid(format!("request URL: {error}")))?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method.clone();
    parts.uri = uri;
    for (name, value) in fields.iter() {
        parts.headers.append(name.clone(), value.clone());
    }
    if let Some(host) = host {
        let value = HeaderValue::from_str(host).map_err(|error| invalid(error.to_string()))?;
        parts.headers.insert(http::header::HOST, value);
    }
    // RFC 9110 §8.6: methods that anticipate content say so when there is none.
    let anticipated = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    let reader = match content {
        Content::None if anticipated => {
            parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(0_u64));
            Some(Box::new(io::empty()) as Box<dyn Read>)
        }
        Content::None => None,
        Content::Length(length, reader) => {
            parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
            Some(Box::new(reader) as Box<dyn Read>)
        }
        Content::Chunked(reader) => {
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(http::header::TRANSFER_ENCODING, chunked);
            Some(Box::new(reader) as Box<dyn Read>)
        }
    };
    Ok((parts, ContentReader { reader, failure: None }))
}

/// The client's content, and how reading it failed: ureq's error does not say whose fault it was.
struct ContentReader<'a> {
    reader: Option<Box<dyn Read + 'a>>,
    failure: Option<io::Error>,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        reader.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}

/// The head of a response, and its framing (RFC 9112 §6.3).
fn received_response(
    method: &Method,
    url: &str,
    response: http::Response<ureq::Body>,
) -> Result<OriginResponse, OriginError> {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let what = "101, and nobody asked for another protocol".to_string();
        return Err(OriginError::Invalid { origin: url.to_string(), what });
    }
    let mut last: Option<HeaderName> = None;
    let mut fields = Fields::new();
    for (name, value) in parts.headers {
        last = name.or(last);
        if let Some(name) = &last {
            fields.append(name.clone(), value);
        }
    }
    let old = parts.version == Version::HTTP_10;
    let chunked = fields.has_member("transfer-encoding", "chunked") && !old;
    let stated = fields.get("content-length").and_then(|value| value.to_str().ok());
    let length = stated.and_then(|digits| digits.trim().parse().ok()).filter(|_| !chunked);
    let has_body = *method != Method::HEAD
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let announced =
        old || fields.has_member("connection", "close") || fields.contains("transfer-encoding");
    Ok(OriginResponse {
        status,
        version: parts.version,
        fields,
        length,
        silently_delimited: has_body && !chunked && length.is_none() && !announced,
        body: has_body.then(|| {
            let close_delimited = !chunked && length.is_none();
            let reader = body.into_with_config().limit(u64::MAX).reader();
            Box::new(ReceivedBody { reader, close_delimited }) as Box<dyn OriginBody>
        }),
    })
}

struct ReceivedBody {
    reader: ureq::BodyReader<'static>,
    close_delimited: bool,
}

impl OriginBody for ReceivedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        READ_FAILED.set(false);
        let count = self.reader.read(buffer)?;
        // ureq takes any end of the connection for the end of such a body: also a reset, and with
        // TLS one without close_notify, which anybody on the way can cause.
        if count == 0 && !buffer.is_empty() && self.close_delimited && READ_FAILED.get() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }
}

/// ureq's resolver, over [`Names`].
#[derive(Debug)]
struct CachingResolver(Names);

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let mut resolved = self.empty();
        // ureq's list holds 16 addresses and panics beyond.
        for address in self.0.addresses(host, port, *timeout.after).into_iter().take(16) {
            resolved.push(address);
        }
        if resolved.is_empty() { Err(Error::HostNotFound) } else { Ok(resolved) }
    }
}

/// Puts a [`NotingTransport`] around each new connection.
#[derive(Debug)]
struct NotingConnector;

impl<In: Transport> Connector<In> for NotingConnector {
    type Out = NotingTransport<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        OPENED.set(OPENED.get() + 1);
        Ok(chained.map(|inner| NotingTransport { inner, used: false }))
    }
}

/// A connection that notes what its reads bring.
#[derive(Debug)]
struct NotingTransport<T> {
    inner: T,
    /// A request has gone out since the connection was last found open.
    used: bool,
}

impl<T: Transport> NotingTransport<T> {
    /// Takes interim responses out of the input, and passes them on; `false` if there were none.
    fn take_interim_responses(&mut self) -> Result<bool, Error> {
        let mut taken = false;
        loop {
            let Some((interim, count)) = AWAITING.take() else { return Ok(taken) };
            let beginning = look_at(self.inner.buffers().input());
            if beginning == Beginning::Other {
                return Ok(taken);
            }
            let count = count + usize::from(beginning != Beginning::Partial);
            AWAITING.set(Some((interim.clone(), count)));
            let Beginning::Interim { status, fields, bytes } = beginning else { return Ok(taken) };
            if count > INTERIM_MAX {
                return Err(Error::LargeResponseHeader(count, INTERIM_MAX));
            }
            self.inner.buffers().input_consume(bytes);
            taken = true;
            if let Some(interim) = interim.filter(|_| status != StatusCode::CONTINUE) {
                interim(status, fields);
            }
        }
    }
}

impl<T: Transport> Transport for NotingTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.used = true;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        loop {
            let result = self.inner.await_input(timeout);
            match &result {
                Ok(true) => RECEIVED.set(RECEIVED.get() + 1),
                Ok(false) => {}
                Err(_) => READ_FAILED.set(true),
            }
            // Where interim responses were all that came, there is nothing yet for ureq to read.
            if !result? {
                return Ok(false);
            }
            if !self.take_interim_responses()? || !self.inner.buffers().input().is_empty() {
                return Ok(true);
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // ureq probes a connection, with three calls of the system, when it goes into the pool and
        // again when it comes out. What happens in between is seen by the second probe alone, and
        // bytes beyond the end of a response are in the buffer, where ureq looks by itself.
        if self.used {
            self.used = false;
            return true;
        }
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
