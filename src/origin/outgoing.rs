//! A request on its way to the origin server, whichever driver sends it: where it goes, and its bytes.
//! RFC 9112 §3, §6, §7.1.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};

use crate::message::chunked::{LAST_CHUNK, chunk_head};
use crate::message::fields::Fields;
use crate::message::head::write_request;
use crate::message::request::Framing;
use crate::message::target::{Server, split_url, without_fragment};
use crate::origin::egress::Egress;
use crate::origin::{OriginError, OriginRequest, RequestHead};
use crate::policy::bound::binds_connection;
use crate::policy::trailers::te_option;

/// How much content is put behind what has not been sent yet.
pub const PIECE_BYTES: usize = 16 * 1024;

/// What is sent of a request before its content.
#[derive(Clone, Copy, Debug)]
pub struct UnsentHead<'a> {
    /// The method, known or not.
    pub method: &'a Method,
    /// The absolute URL.
    pub url: &'a str,
    /// The Host field, where it is not the URL's own authority.
    pub host: Option<&'a str>,
    /// The header section, without Host and framing fields.
    pub fields: &'a Fields,
}

impl<'a> From<&'a RequestHead> for UnsentHead<'a> {
    fn from(head: &'a RequestHead) -> Self {
        let RequestHead { method, url, host, fields, .. } = head;
        Self { method, url, host: host.as_deref(), fields }
    }
}

impl<'a> From<&OriginRequest<'a, '_>> for UnsentHead<'a> {
    fn from(request: &OriginRequest<'a, '_>) -> Self {
        let OriginRequest { method, url, host, fields, .. } = *request;
        Self { method, url, host, fields }
    }
}

/// What a request means to the response that is read for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The method is HEAD: the response has no content.
    pub to_head: bool,
    /// It asks to go over to another protocol: a 101 may come.
    pub upgrades: bool,
    /// It says that trailer fields are welcome (RFC 9110 §10.1.4).
    pub takes_trailers: bool,
}

/// Where a request goes over the wire: connections of one route are as good as each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// The server that the connection leads to: the origin server, or an egress proxy that passes requests on.
    pub to: Server<'static>,
    /// The origin server that an egress proxy is asked to connect to (CONNECT, RFC 9110 §9.3.6); `None` where there is
    /// none between, or it passes requests on.
    pub through: Option<Server<'static>>,
}

/// A server that requests are for, and how it is reached.
#[derive(Debug)]
pub struct KnownServer {
    /// Where they go.
    pub route: Arc<Route>,
    /// An egress proxy reads them itself, and passes them on.
    pub is_passed_on: bool,
    /// What an egress proxy is told of who asks, where the route leads through one (RFC 9110 §11.7.1).
    pub proxy_authorization: Option<HeaderValue>,
    /// The server as errors name it.
    pub shown: String,
    /// The server in its one spelling, without the egress proxy.
    pub server: String,
    /// Host, and port where it is not the scheme's own.
    authority: String,
}

impl KnownServer {
    /// How this server is reached, by requests that ask to go over to another protocol, or by others.
    fn new(to: &Server<'_>, upgrades: bool, egress: &Egress) -> Result<Self, OriginError> {
        let server = to.to_string();
        let proxy = egress.proxy_for(to).map_err(|what| OriginError::Connect {
            origin: server.clone(),
            source: io::Error::other(what),
        })?;
        let shown = match proxy {
            Some(proxy) => format!("{server} through proxy {}", proxy.shown),
            None => server.clone(),
        };
        // What becomes a tunnel needs one to the origin server (RFC 6455 §4.1): a proxy that passes requests on would
        // take the upgrade for its own.
        let is_through = proxy.is_some() && (to.secure || upgrades);
        let is_passed_on = proxy.is_some() && !is_through;
        let origin = to.clone().into_owned();
        let route = match proxy {
            Some(proxy) => Route { to: proxy.at.clone(), through: is_through.then_some(origin) },
            None => Route { to: origin, through: None },
        };
        Ok(Self {
            route: Arc::new(route),
            is_passed_on,
            proxy_authorization: proxy.and_then(|proxy| proxy.authorization.clone()),
            shown,
            server,
            authority: to.authority(),
        })
    }
}

/// Finds out how servers are reached.
#[derive(Debug, Default)]
pub struct KnownServers {
    /// The URL of the server that was asked for last, whether to go over to another protocol, and how it is reached:
    /// almost all requests are for one server.
    last: Option<(String, bool, Arc<KnownServer>)>,
}

impl KnownServers {
    /// The server that a URL names, and what follows the authority in it.
    fn of<'url>(
        &mut self,
        url: &'url str,
        upgrades: bool,
        egress: &Egress,
    ) -> Result<(Arc<KnownServer>, &'url str), OriginError> {
        let unsent = |what: String| OriginError::Unsent { what: format!("request URL: {what}") };
        // As it is spelt there: it ends where a path begins.
        if let Some((base, did_upgrade, last)) = &self.last
            && *did_upgrade == upgrades
            && let Some(path) = url.strip_prefix(base.as_str())
            && path.starts_with('/')
        {
            return Ok((Arc::clone(last), without_fragment(path)));
        }
        let (to, path) = split_url(url).map_err(unsent)?;
        let known = Arc::new(KnownServer::new(&to, upgrades, egress)?);
        self.last = Some((known.server.clone(), upgrades, Arc::clone(&known)));
        Ok((known, path))
    }
}

/// A request, ready to be sent.
#[derive(Debug)]
pub struct WireRequest {
    /// Where it goes.
    pub to: Arc<KnownServer>,
    /// The head, whole.
    pub head: Vec<u8>,
    /// What its response is read by.
    pub asked: Asked,
    /// How its content is delimited.
    pub framing: Framing,
    /// The content waits for a 100 (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Its credentials are for a connection.
    pub binds: bool,
    /// Which failures of a connection that was used before it survives.
    pub repeats: Repeats,
}

/// May a request go out once more, on a fresh connection, when one that was used before has ended without a byte of
/// an answer (RFC 9112 §9.3.1)?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repeats {
    /// After any end: it asks for nothing to be changed.
    Always,
    /// After a reset alone, which says that nobody has read it.
    AfterReset,
    /// Never.
    Never,
}

impl WireRequest {
    /// The request with this head, and content that is delimited so.
    pub fn new(
        head: UnsentHead<'_>,
        content: Framing,
        upgrades: bool,
        servers: &mut KnownServers,
        egress: &Egress,
    ) -> Result<Self, OriginError> {
        let UnsentHead { method, url, host, fields } = head;
        let (to, path) = servers.of(url, upgrades, egress)?;
        let framing = framing_of(method, content);
        let has_content = !matches!(framing, Framing::None | Framing::Length(0));
        let mut fields = Cow::Borrowed(fields);
        let expects_continue = fields.contains("expect");
        if expects_continue && !has_content {
            // RFC 9110 §10.1.1: without content there is nothing to wait for.
            fields.to_mut().remove("expect");
        }
        // The client's own Host where the operator has it passed on (`--preserve-host`).
        let host = host.unwrap_or(&to.authority);
        // RFC 9112 §3.2.2: an egress proxy that passes requests on has to be told where.
        let base = if to.is_passed_on { ["http://", &to.authority] } else { [""; 2] };
        let mut bytes = write_request(method, base, path, host, &fields);
        let mut framed = framing_fields(framing);
        if let Some(value) = to.proxy_authorization.clone().filter(|_| to.is_passed_on) {
            framed.append(PROXY_AUTHORIZATION, value);
        }
        let te_option = te_option(&fields);
        let takes_trailers = te_option.is_some();
        if let Some((name, value)) = te_option {
            framed.append(name, value);
        }
        framed.write_to(&mut bytes);
        bytes.extend_from_slice(b"\r\n");
        Ok(Self {
            to,
            head: bytes,
            asked: Asked { to_head: *method == Method::HEAD, upgrades, takes_trailers },
            framing,
            expects_continue: has_content && expects_continue,
            binds: binds_connection(&fields),
            repeats: if has_content { Repeats::Never } else { Repeats::of(method) },
        })
    }
}

impl Repeats {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Always,
            Method::DELETE => Self::AfterReset,
            _ => Self::Never,
        }
    }

    /// May it go out once more after such an end of the connection?
    pub fn survives(self, error: io::ErrorKind) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let is_reset = matches!(error, ConnectionReset | ConnectionAborted | BrokenPipe);
        match self {
            Self::Always => is_reset || error == UnexpectedEof,
            Self::AfterReset => is_reset,
            Self::Never => false,
        }
    }
}

/// The fields that say how content is delimited.
fn framing_fields(framing: Framing) -> Fields {
    let mut fields = Fields::new();
    match framing {
        Framing::None => {}
        Framing::Length(length) => fields.append(CONTENT_LENGTH, HeaderValue::from(length)),
        Framing::Chunked => {
            fields.append(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    fields
}

/// An egress proxy wants other credentials than it was given (RFC 9110 §15.5.8): that is a matter between it and this
/// program, and its answer would make a client believe that it was asked.
pub fn refused_by_proxy(shown: &str, status: StatusCode) -> OriginError {
    let source =
        io::Error::other(format!("the proxy that leads out refused with {}", status.as_u16()));
    OriginError::Connect { origin: shown.to_string(), source }
}

/// How the content of a request is delimited on its way out (RFC 9112 §6.3).
fn framing_of(method: &Method, content: Framing) -> Framing {
    // RFC 9110 §8.6: methods that anticipate content say so when there is none.
    let anticipated = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match content {
        Framing::None if anticipated => Framing::Length(0),
        framing => framing,
    }
}

/// Asks an egress proxy for a connection to a server (RFC 9110 §9.3.6).
pub fn connect_request(
    Server { host, port, .. }: &Server<'_>,
    authorization: Option<&HeaderValue>,
) -> Vec<u8> {
    let mut request =
        format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Puts the framing of the request around a piece of its content, which is not empty.
pub fn frame(framing: Framing, piece: &[u8], out: &mut Vec<u8>) {
    if framing == Framing::Chunked {
        out.extend_from_slice(&chunk_head(piece.len()));
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(piece);
    }
}

/// Ends the content.
pub fn frame_end(framing: Framing, out: &mut Vec<u8>) {
    if framing == Framing::Chunked {
        out.extend_from_slice(LAST_CHUNK);
    }
}
