//! The origin client: ureq, set up for a proxy. RFC 9110 §7.6, RFC 9112 §9.
//!
//! ureq's defaults are for applications; here every status is an answer, no redirect is followed,
//! nothing is decoded or added, and every wait has its limit. No type of ureq leaves this file,
//! `transport.rs` and `tls.rs`.
//!
//! What goes over the wire is `transport.rs`'s: ureq is given a request that says where to connect and
//! how much content there is.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::InvalidUri;
use http::{HeaderValue, Method, StatusCode, Uri};
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector};
use ureq::{Agent, Error, Proxy, SendBody, Timeout};

use crate::message::framing::ResponseFraming;
use crate::message::head::ResponseHead;
use crate::message::request::Framing;
use crate::message::target::Server;
use crate::origin::blocking::tls::TlsConnector;
use crate::origin::blocking::transport::{
    OUTPUT_BUFFER_BYTES, Violation, WireConnector, WireExchange, WireOutcome, is_end_of_connection,
};
use crate::origin::egress::{Egress, EgressProxy};
use crate::origin::evented::EventedSettings;
use crate::origin::gate::Gate;
use crate::origin::outgoing::{KnownServers, Route, UnsentHead, WireRequest, refused_by_proxy};
use crate::origin::resolver::Names;
use crate::origin::trust::{Roots, TlsSettings};
use crate::origin::tunnel::Dialer;
use crate::origin::{
    CONTINUE_MAX, HEAD_BYTES_MAX, Interim, Origin, OriginBody, OriginError, OriginHead,
    OriginRequest, OriginResponse, RequestContent, Upgrade,
};

/// Idle connections are closed after this: origin servers close theirs after 5 s, and a request
/// that goes out on a connection which is being closed may be lost.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The most idle connections of one event loop.
const EVENTED_IDLE_MAX: usize = 1024;

/// How the origin server is reached: addresses, trust, limits.
pub struct OriginClientSettings {
    /// `--connect-timeout`: to resolve the name, and to connect.
    pub connect_timeout: Duration,
    /// `--origin-timeout`: between two bytes.
    pub origin_timeout: Duration,
    /// `--first-byte-timeout`: from the request to the first byte of an answer.
    pub first_byte_timeout: Duration,
    /// The trusted roots; `None` for no verification at all.
    pub roots: Option<Roots>,
    /// How names are looked up.
    pub names: Names,
    /// The most idle connections: as many as there are workers.
    pub idle_connections_max: usize,
    /// The egress proxies.
    pub egress: Egress,
}

/// A client for any number of threads, with its own pools of connections for http and for https.
pub struct OriginClient {
    plain: Agent,
    secure: Agent,
    /// For https through an egress proxy, if there is one for it.
    through: Option<Result<Agent, String>>,
    dialer: Dialer,
    connect_timeout: Duration,
    origin_timeout: Duration,
    first_byte_timeout: Duration,
}

impl OriginClient {
    /// Sets the client up.
    pub fn new(settings: OriginClientSettings) -> Self {
        let names = settings.names;
        let timeouts = (settings.connect_timeout, settings.origin_timeout);
        let first_byte_timeout = settings.first_byte_timeout;
        let tls = TlsSettings::new(settings.roots);
        let dialer = Dialer::new(names.clone(), timeouts, tls.clone(), settings.egress.clone());
        let agent = |proxy: Option<Proxy>| {
            let proxied = proxy.is_some();
            let config = Config::builder()
                // A proxy passes on what it gets: status, fields and content are the client's to judge.
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .allow_non_standard_methods(true)
                .user_agent("")
                .accept("")
                .accept_encoding("")
                .proxy(proxy)
                .timeout_resolve(Some(settings.connect_timeout))
                .timeout_connect(Some(settings.connect_timeout))
                // Between two bytes, and not for all of them: a large response may take its time.
                .timeout_per_read(Some(settings.origin_timeout))
                .timeout_per_write(Some(settings.origin_timeout))
                .timeout_await_100(Some(CONTINUE_MAX.min(settings.origin_timeout)))
                // A head that is too long must fit, or it would look like an end of the connection.
                .input_buffer_size(HEAD_BYTES_MAX + 4096)
                .output_buffer_size(OUTPUT_BUFFER_BYTES)
                .max_idle_connections(settings.idle_connections_max)
                .max_idle_connections_per_host(settings.idle_connections_max)
                .max_idle_age(IDLE_MAX)
                .build();
            // Each wraps what the one before it has connected: `transport.rs` is outermost, and reads what TLS
            // has decrypted.
            let connector =
                ().chain(ConnectProxyConnector::default())
                    .chain(TcpConnector::default())
                    .chain(TlsConnector::new(tls.clone()))
                    .chain(WireConnector { egress: proxied, first_byte_timeout });
            Agent::with_parts(config, connector, CachingResolver(names.clone()))
        };
        let through = settings.egress.of_scheme(true).map(|proxy| {
            // Kept as an error: only requests that would go through it fail.
            let proxy = proxy.as_ref().map_err(Clone::clone)?;
            Ok(agent(Some(ureq_proxy(proxy)?)))
        });
        Self {
            plain: agent(None),
            secure: agent(None),
            through,
            dialer,
            connect_timeout: settings.connect_timeout,
            origin_timeout: settings.origin_timeout,
            first_byte_timeout,
        }
    }

    /// How event loops reach what this client reaches, as far as the gate lets them.
    pub fn evented(&self, gate: Gate) -> EventedSettings {
        let Dialer { names, tls, egress, .. } = &self.dialer;
        EventedSettings {
            connect_timeout: self.connect_timeout,
            origin_timeout: self.origin_timeout,
            first_byte_timeout: self.first_byte_timeout,
            gate,
            names: names.clone(),
            egress: egress.clone(),
            tls: tls.clone(),
            idle_connections_max: EVENTED_IDLE_MAX,
        }
    }

    /// The agent that sends this request.
    fn agent(&self, wire: &WireRequest) -> Result<&Agent, OriginError> {
        if wire.to.route.through.is_none() {
            return Ok(if wire.to.route.to.secure { &self.secure } else { &self.plain });
        }
        let refused = |what: &String| {
            let source = io::Error::other(what.clone());
            OriginError::Connect { origin: wire.to.shown.clone(), source }
        };
        let through = self.through.as_ref().expect("the route leads through the proxy for https");
        through.as_ref().map_err(refused)
    }

    /// What ureq's error means to a user of this program.
    fn explain(&self, origin: String, error: Error) -> OriginError {
        match error {
            Error::HostNotFound => OriginError::Resolve { origin },
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                OriginError::ConnectTimeout { origin, limit: self.connect_timeout }
            }
            Error::Timeout(Timeout::RecvResponse) => {
                OriginError::Timeout { origin, limit: self.first_byte_timeout }
            }
            Error::Timeout(_) => OriginError::Timeout { origin, limit: self.origin_timeout },
            #[cfg(feature = "tls")]
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
            Error::Other(error) if error.is::<Violation>() => {
                OriginError::Invalid { origin, what: error.to_string() }
            }
            // ureq has seen nothing but what is made here, so that it can find fault with nothing else.
            other => OriginError::Unsent { what: other.to_string() },
        }
    }
}

fn ureq_proxy(proxy: &EgressProxy) -> Result<Proxy, String> {
    let unusable = |error| format!("proxy {} from the environment: {error}", proxy.shown);
    Proxy::new(&proxy.url).map_err(unusable)
}

/// Could no address be connected to?
fn is_no_connection(error: &Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    match error {
        Error::Timeout(Timeout::Connect) | Error::ConnectionFailed => true,
        Error::Io(error) => matches!(
            error.kind(),
            AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut
        ),
        _ => false,
    }
}

/// May the request go out once more, on a fresh connection (RFC 9112 §9.3.1)? Only where the connection was one
/// from the pool that brought no byte: such a connection had its end on the way when the request went out.
fn may_be_repeated(wire: &WireRequest, error: &Error, outcome: &WireOutcome) -> bool {
    let Error::Io(error) = error else { return false };
    wire.repeats.survives(error.kind()) && !outcome.opened && !outcome.received
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

impl Origin for OriginClient {
    fn send(&self, mut request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let content = std::mem::replace(&mut request.content, RequestContent::None);
        let url = request.url;
        let has_content = !matches!(content, RequestContent::None);
        let prepared = PreparedRequest::new(&request, framing_of(&content), &self.dialer.egress)?;
        let framing = prepared.wire.framing;
        let mut content = ContentReader::new(content, framing);
        let exchange = || prepared.exchange(request.interim.as_ref());
        let agent = self.agent(&prepared.wire)?;
        let (mut result, mut outcome) = prepared.send_with(agent, &mut content, exchange());
        // Nothing has been sent, so this is no repetition, and none of the content has been read.
        if let Err(error) = &result
            && !outcome.sent
            && is_no_connection(error)
            && self.dialer.has_moved(url)
        {
            (result, outcome) = prepared.send_with(agent, &mut content, exchange());
        }
        if let Err(error) = &result
            && !has_content
            && may_be_repeated(&prepared.wire, error, &outcome)
        {
            (result, outcome) = prepared.send_once(agent, SendBody::none(), exchange(), true);
        }
        match (result, outcome.response) {
            (Ok(response), Some((head, framing))) => {
                if prepared.wire.to.is_passed_on
                    && head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
                {
                    return Err(refused_by_proxy(&prepared.wire.to.shown, head.status));
                }
                received_response(url, (head, framing), response.into_body())
            }
            // ureq ends with a response only after `transport.rs` has read a head.
            (Ok(_), None) => Err(OriginError::Unsent { what: "no head was read".to_string() }),
            // ureq reports the client's failure as one of the connection: who failed decides the status.
            (Err(error), _) => match content.failure.take() {
                Some(error) => Err(OriginError::Content(error)),
                None => Err(self.explain(prepared.wire.to.shown.clone(), error)),
            },
        }
    }

    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        self.dialer.upgrade(&request)
    }
}

/// A request, ready to be sent.
struct PreparedRequest {
    /// What goes over the wire.
    wire: WireRequest,
    /// What ureq is given: where to connect, and how much content there is. Its target and its fields
    /// go nowhere, and are short.
    ureq_head: http::request::Parts,
}

impl PreparedRequest {
    fn new(
        request: &OriginRequest<'_, '_>,
        content: Framing,
        egress: &Egress,
    ) -> Result<Self, OriginError> {
        let mut head = UnsentHead::from(request);
        // ureq has no place behind the content, so that trailer fields would be lost (RFC 9110 §10.1.4).
        let mut without;
        if head.fields.contains("te") {
            without = head.fields.clone();
            without.remove("te");
            head.fields = &without;
        }
        let wire = WireRequest::new(head, content, false, &mut KnownServers::default(), egress)?;
        // What an egress proxy passes on goes to that proxy, as far as ureq knows; where it is to connect to
        // the origin server, ureq asks it.
        let Route { to, through } = &*wire.to.route;
        let (Server { host, port, .. }, secure) = match through {
            Some(origin) => (origin, true),
            None => (to, to.secure),
        };
        let uri = format!("{}://{host}:{port}/", if secure { "https" } else { "http" });
        let (mut ureq_head, ()) = http::Request::new(()).into_parts();
        let unsent =
            |error: InvalidUri| OriginError::Unsent { what: format!("request URL: {error}") };
        ureq_head.uri = uri.parse::<Uri>().map_err(unsent)?;
        // ureq expects content by the method and the framing fields; any method but HEAD is a GET to it.
        if wire.asked.to_head {
            ureq_head.method = Method::HEAD;
        }
        ureq_head.headers.insert(HOST, HeaderValue::from_static("h"));
        match wire.framing {
            Framing::None => {}
            Framing::Length(length) => {
                ureq_head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Framing::Chunked => {
                let chunked = HeaderValue::from_static("chunked");
                ureq_head.headers.insert(TRANSFER_ENCODING, chunked);
            }
        }
        if wire.expects_continue {
            ureq_head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        Ok(Self { wire, ureq_head })
    }

    /// Sends it once; on a fresh connection if `fresh`.
    fn send_once(
        &self,
        agent: &Agent,
        body: SendBody<'_>,
        exchange: WireExchange,
        fresh: bool,
    ) -> (Result<http::Response<ureq::Body>, Error>, WireOutcome) {
        let request = http::Request::from_parts(self.ureq_head.clone(), body);
        exchange.run(|| {
            if fresh {
                // Of no age at all is no idle connection.
                let request = agent.configure_request(request).max_idle_age(Duration::ZERO).build();
                agent.run(request)
            } else {
                agent.run(request)
            }
        })
    }

    /// Sends it with its content, of which nothing has been read.
    fn send_with(
        &self,
        agent: &Agent,
        content: &mut ContentReader<'_>,
        exchange: WireExchange,
    ) -> (Result<http::Response<ureq::Body>, Error>, WireOutcome) {
        if content.reader.is_some() {
            self.send_once(agent, SendBody::from_reader(content), exchange, false)
        } else {
            self.send_once(agent, SendBody::none(), exchange, false)
        }
    }

    /// What happens on the wire when it is sent.
    fn exchange(&self, interim: Option<&Arc<Interim>>) -> WireExchange {
        WireExchange {
            head: self.wire.head.clone(),
            to_head: self.wire.asked.to_head,
            expects_continue: self.wire.expects_continue,
            binds: self.wire.binds,
            interim: interim.cloned(),
            outcome: WireOutcome::default(),
        }
    }
}

fn framing_of(content: &RequestContent<'_>) -> Framing {
    match content {
        RequestContent::None => Framing::None,
        RequestContent::Length(length, _) => Framing::Length(*length),
        RequestContent::Chunked(_) => Framing::Chunked,
    }
}

/// The client's content, and how reading it failed: ureq's error does not say whose fault it was.
struct ContentReader<'a> {
    reader: Option<Box<dyn Read + 'a>>,
    failure: Option<io::Error>,
}

impl<'a> ContentReader<'a> {
    fn new(content: RequestContent<'a>, framing: Framing) -> Self {
        let reader = match content {
            RequestContent::None if framing == Framing::None => None,
            RequestContent::None => Some(Box::new(io::empty()) as Box<dyn Read>),
            RequestContent::Length(_, reader) | RequestContent::Chunked(reader) => {
                Some(Box::new(reader) as Box<dyn Read>)
            }
        };
        Self { reader, failure: None }
    }
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

/// The head of a response that has come, and its content.
fn received_response(
    url: &str,
    (head, framing): (ResponseHead, ResponseFraming),
    body: ureq::Body,
) -> Result<OriginResponse, OriginError> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let what = "101, and nobody asked for another protocol".to_string();
        return Err(OriginError::Invalid { origin: url.to_string(), what });
    }
    let body = (framing != ResponseFraming::None).then(|| {
        let reader = body.into_with_config().limit(u64::MAX).reader();
        Box::new(ReceivedBody { reader, failed: false }) as Box<dyn OriginBody>
    });
    Ok(OriginResponse { head: OriginHead::new(head, framing), body })
}

/// Content that has gone through `transport.rs`, where a violation of its framing is an error.
struct ReceivedBody {
    reader: ureq::BodyReader<'static>,
    failed: bool,
}

impl OriginBody for ReceivedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // ureq says once that the content was cut, and then that it has ended.
        if self.failed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.read(buffer).inspect_err(|_| self.failed = true)
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
