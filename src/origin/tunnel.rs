//! Going over to another protocol (WebSocket, above all): a connection of its own to the origin server,
//! for the front over tiny_http, because ureq keeps its sockets to itself. RFC 9110 §7.8.
//!
//! One request goes out and one head comes back. After a 101 the connection is a pipe in both
//! directions; any other response is an ordinary one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use crate::message::chunked::{Decoder, Piece};
use crate::message::fields::Fields;
use crate::message::framing::{ResponseFraming, response_framing};
use crate::message::head::{ResponseHead, read_response, write_request};
use crate::message::request::RequestLimits;
use crate::message::target::{Server, split_url};
use crate::origin::egress::{Egress, EgressProxy};
use crate::origin::outgoing::connect_request;
use crate::origin::resolver::Names;
use crate::origin::trust::{TlsError, TlsSession, TlsSettings};
use crate::origin::{
    HEAD_BYTES_MAX, INTERIM_MAX, KEEPALIVE, OriginBody, OriginError, OriginHead, OriginRequest,
    OriginResponse, RequestContent, Tunnel, Upgrade,
};

/// How much is read at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// Makes connections that become tunnels.
pub struct Dialer {
    pub(super) names: Names,
    connect_timeout: Duration,
    origin_timeout: Duration,
    pub(super) tls: TlsSettings,
    pub(super) egress: Egress,
}

impl Dialer {
    /// A dialer with the client's settings.
    pub fn new(
        names: Names,
        timeouts: (Duration, Duration),
        tls: TlsSettings,
        egress: Egress,
    ) -> Self {
        let (connect_timeout, origin_timeout) = timeouts;
        Self { names, connect_timeout, origin_timeout, tls, egress }
    }

    /// Sends a request to go over to another protocol, and waits for the head of the answer.
    pub fn upgrade(&self, request: &OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        assert!(matches!(request.content, RequestContent::None), "the head alone is sent");
        let unsent = |what: String| OriginError::Unsent { what: format!("request URL: {what}") };
        let (origin, path) = split_url(request.url).map_err(unsent)?;
        let base = &self.shown(&origin);
        let mut connection = self.connect(&origin)?;
        let authority = origin.authority();
        let host = request.host.unwrap_or(&authority);
        let mut head = write_request(request.method, [""; 2], path, host, request.fields);
        head.extend_from_slice(b"\r\n");
        connection.write.write_all(&head).map_err(|error| self.explain(base, &error))?;
        self.answer(base, connection)
    }

    /// Reads the head of the answer; interim responses are of no interest here.
    fn answer(&self, base: &str, mut connection: TunnelConnection) -> Result<Upgrade, OriginError> {
        let (mut input, mut interims, mut seen) = (Vec::new(), 0, 0);
        let mut piece = vec![0; PIECE_BYTES];
        let invalid =
            |what: &str| OriginError::Invalid { origin: base.to_string(), what: what.to_string() };
        loop {
            // However slowly a head drips, it is read again only when it may be complete.
            let news = &input[usize::saturating_sub(seen, 3)..];
            let may_be_complete = seen == 0 || news.windows(2).any(|two| two[1] == b'\n');
            seen = input.len();
            let read = if may_be_complete { read_response(&input) } else { Ok(None) };
            if let Some(head) = read.map_err(|what| invalid(&what))? {
                input.drain(..head.length);
                seen = 0;
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    // What has come behind the head is in the other protocol already (RFC 9110 §7.8).
                    return connection
                        .into_tunnel(head.fields, input)
                        .map_err(|error| self.explain(base, &error));
                }
                if !head.status.is_informational() {
                    return declined(head, input, connection)
                        .map_err(invalid)
                        .map(Upgrade::Declined);
                }
                interims += 1;
                if interims > INTERIM_MAX {
                    return Err(invalid("interim responses without end"));
                }
                continue;
            }
            if input.len() > HEAD_BYTES_MAX {
                return Err(invalid("a head that is too long"));
            }
            match connection.read.read(&mut piece) {
                Ok(0) => {
                    let what = "before an answer".to_string();
                    return Err(OriginError::Closed { origin: base.to_string(), what });
                }
                Ok(count) => input.extend_from_slice(&piece[..count]),
                Err(error) => return Err(self.explain(base, &error)),
            }
        }
    }

    fn explain(&self, base: &str, error: &io::Error) -> OriginError {
        let origin = base.to_string();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                OriginError::Timeout { origin, limit: self.origin_timeout }
            }
            io::ErrorKind::InvalidData => OriginError::Tls { origin, what: error.to_string() },
            _ => OriginError::Closed { origin, what: error.to_string() },
        }
    }

    /// The egress proxy for a server; `None` if it is reached directly.
    pub fn proxy_for(&self, to: &Server<'_>) -> Result<Option<&EgressProxy>, String> {
        self.egress.proxy_for(to)
    }

    /// A server as errors name it, with the egress proxy for it.
    pub fn shown(&self, to: &Server<'_>) -> String {
        let shown = format!("{}://{}", to.scheme(), to.authority());
        match self.proxy_for(to) {
            Ok(Some(proxy)) => format!("{shown} through proxy {}", proxy.shown),
            _ => shown,
        }
    }

    /// No connection could be made for this URL: has the name moved, of the origin server or of
    /// its egress proxy?
    pub fn has_moved(&self, url: &str) -> bool {
        let Ok((origin, _)) = split_url(url) else { return false };
        let proxy = self.proxy_for(&origin).ok().flatten();
        let Server { host, port, .. } = proxy.map_or(origin, |proxy| proxy.at.clone());
        self.names.has_moved(&host, port, self.connect_timeout)
    }

    /// A connection to the origin server: through an egress proxy and with TLS, where needed.
    fn connect(&self, origin: &Server<'_>) -> Result<TunnelConnection, OriginError> {
        let shown = self.shown(origin);
        let refused = |source| OriginError::Connect { origin: shown.clone(), source };
        let proxy = self.proxy_for(origin).map_err(|what| refused(io::Error::other(what)))?;
        let Some(proxy) = proxy else { return self.connect_to(&shown, origin) };
        let mut connection = self.connect_to(&shown, &proxy.at)?;
        connect_through(&mut connection, origin, proxy).map_err(refused)?;
        if origin.secure {
            self.start_tls(&shown, connection, &origin.host)
        } else {
            Ok(connection)
        }
    }

    /// A connection to what is reached directly: the origin server, or the egress proxy.
    fn connect_to(&self, shown: &str, to: &Server<'_>) -> Result<TunnelConnection, OriginError> {
        let stream = self.dial(shown, &to.host, to.port)?;
        let refused = |source| OriginError::Connect { origin: shown.to_string(), source };
        let connection = TunnelConnection::plain(stream).map_err(refused)?;
        if to.secure { self.start_tls(shown, connection, &to.host) } else { Ok(connection) }
    }

    /// The same connection with TLS.
    fn start_tls(
        &self,
        shown: &str,
        connection: TunnelConnection,
        host: &str,
    ) -> Result<TunnelConnection, OriginError> {
        let what = |error: TlsError| OriginError::Tls {
            origin: shown.to_string(),
            what: error.to_string(),
        };
        let tls = self.tls.connection(host).map_err(what)?;
        connection.secure(tls).map_err(|error| self.explain(shown, &error))
    }

    /// Connects to the first address that answers; again, if the name has moved meanwhile.
    fn dial(&self, shown: &str, host: &str, port: u16) -> Result<TcpStream, OriginError> {
        match self.dial_once(shown, host, port) {
            Err(OriginError::Connect { .. } | OriginError::ConnectTimeout { .. })
                if self.names.has_moved(host, port, self.connect_timeout) =>
            {
                self.dial_once(shown, host, port)
            }
            result => result,
        }
    }

    fn dial_once(&self, shown: &str, host: &str, port: u16) -> Result<TcpStream, OriginError> {
        let deadline = Instant::now() + self.connect_timeout;
        let addresses: Vec<SocketAddr> = self.names.addresses(host, port, self.connect_timeout);
        if addresses.is_empty() {
            return Err(OriginError::Resolve { origin: shown.to_string() });
        }
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        // All of them share the limit: a name with many dead addresses takes no longer than one.
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    // A tunnel may be silent for hours, and nothing but this finds out that the other
                    // side is gone.
                    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                    let set = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                    let set = set.and_then(|()| stream.set_nodelay(true));
                    let set = set.and_then(|()| stream.set_read_timeout(Some(self.origin_timeout)));
                    match set.and_then(|()| stream.set_write_timeout(Some(self.origin_timeout))) {
                        Ok(()) => return Ok(stream),
                        Err(error) => last = error,
                    }
                }
                Err(error) => last = error,
            }
        }
        if last.kind() == io::ErrorKind::TimedOut {
            let limit = self.connect_timeout;
            return Err(OriginError::ConnectTimeout { origin: shown.to_string(), limit });
        }
        Err(OriginError::Connect { origin: shown.to_string(), source: last })
    }
}

/// Asks an egress proxy for a connection (RFC 9110 §9.3.6).
fn connect_through(
    connection: &mut TunnelConnection,
    to: &Server<'_>,
    proxy: &EgressProxy,
) -> io::Result<()> {
    connection.write.write_all(&connect_request(to, proxy.authorization.as_ref()))?;
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte: what comes behind the head is the origin server's, and not read here.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || connection.read.read(&mut byte)? == 0 {
            return Err(io::Error::other("the proxy that leads out gave no answer"));
        }
        head.push(byte[0]);
    }
    match read_response(&head) {
        Ok(Some(head)) if head.status.is_success() => Ok(()),
        Ok(Some(head)) => {
            let status = head.status.as_u16();
            Err(io::Error::other(format!("the proxy that leads out refused with {status}")))
        }
        _ => Err(io::Error::other("the proxy that leads out gave no valid answer")),
    }
}

/// An ordinary response, on a connection that ends with it.
fn declined(
    head: ResponseHead,
    input: Vec<u8>,
    connection: TunnelConnection,
) -> Result<OriginResponse, &'static str> {
    // A request to go over to another protocol is a GET in practice, and no HEAD.
    let framing = response_framing(&head, false)?;
    let left = match framing {
        ResponseFraming::None | ResponseFraming::Length(0) => ContentLeft::Bytes(0),
        ResponseFraming::Length(length) => ContentLeft::Bytes(length),
        ResponseFraming::Chunked => {
            ContentLeft::Chunks(Box::new((Decoder::new(RequestLimits::default()), Vec::new())))
        }
        ResponseFraming::Close => ContentLeft::UntilTheEnd,
    };
    let read = WithBuffered { before: input, rest: connection.read };
    let body = (framing != ResponseFraming::None)
        .then(|| Box::new(DeclinedBody { read, left }) as Box<dyn OriginBody>);
    Ok(OriginResponse { head: OriginHead::new(head, framing), body })
}

/// The content of an ordinary response.
struct DeclinedBody {
    read: WithBuffered,
    left: ContentLeft,
}

/// How much there is to come (RFC 9112 §6.3).
enum ContentLeft {
    Bytes(u64),
    /// In the chunked coding; with what has come and has not been taken apart.
    Chunks(Box<(Decoder, Vec<u8>)>),
    UntilTheEnd,
}

impl OriginBody for DeclinedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.left {
            ContentLeft::Bytes(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                if most == 0 {
                    return Ok(0);
                }
                let count = self.read.read(&mut buffer[..most])?;
                // RFC 9112 §8: a connection that ends before the stated length has cut the content.
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count as u64;
                Ok(count)
            }
            ContentLeft::Chunks(coded) => {
                let (decoder, input) = &mut **coded;
                let count = read_chunks(decoder, input, &mut self.read, buffer)?;
                if count == 0 && !buffer.is_empty() {
                    // The decoder has seen its end and must not be asked again.
                    self.left = ContentLeft::Bytes(0);
                }
                Ok(count)
            }
            ContentLeft::UntilTheEnd => self.read.read(buffer),
        }
    }
}

/// Reads what chunks hold; none at the end that the coding proves.
fn read_chunks(
    decoder: &mut Decoder,
    input: &mut Vec<u8>,
    from: &mut WithBuffered,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        // What has come is looked at before more is waited for: the last chunk may be among it.
        let next = decoder.next(input, buffer.len());
        let (used, piece) = next.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let count = match piece {
            Piece::Data(data) => {
                buffer[..data.len()].copy_from_slice(data);
                Some(data.len())
            }
            Piece::More => None,
            Piece::End => Some(0),
        };
        input.drain(..used);
        if let Some(count) = count {
            return Ok(count);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut piece = vec![0; PIECE_BYTES];
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&piece[..count]);
    }
}

/// What has come already, and then the rest.
struct WithBuffered {
    before: Vec<u8>,
    rest: Box<dyn Read + Send>,
}

impl Read for WithBuffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.before.is_empty() {
            return self.rest.read(buffer);
        }
        let count = buffer.len().min(self.before.len());
        buffer[..count].copy_from_slice(&self.before[..count]);
        self.before.drain(..count);
        Ok(count)
    }
}

/// A connection, and its two directions.
struct TunnelConnection {
    stream: TcpStream,
    read: Box<dyn Read + Send>,
    write: Box<dyn Write + Send>,
}

impl TunnelConnection {
    fn plain(stream: TcpStream) -> io::Result<Self> {
        let (read, write) = (Box::new(stream.try_clone()?), Box::new(stream.try_clone()?));
        Ok(Self { stream, read, write })
    }

    /// TLS over it; what is below may itself have TLS.
    fn secure(self, mut connection: TlsSession) -> io::Result<Self> {
        let Self { stream, read, write } = self;
        // Here, and not at the first write, so that a failed handshake is an error of TLS.
        let mut below = Duplex(read, write);
        while connection.is_handshaking() {
            connection.complete_io(&mut below)?;
        }
        let Duplex(read, write) = below;
        let connection = Arc::new(Mutex::new(connection));
        let out = Arc::new(Mutex::new(write));
        let write = TlsWriteHalf { connection: Arc::clone(&connection), out: Arc::clone(&out) };
        let pending = vec![0; PIECE_BYTES];
        let read = TlsReadHalf { connection, out, below: read, pending };
        Ok(Self { stream, read: Box::new(read), write: Box::new(write) })
    }

    /// From now on nobody waits for anybody's answer: silence is no failure.
    fn into_tunnel(self, fields: Fields, before: Vec<u8>) -> io::Result<Upgrade> {
        self.stream.set_read_timeout(None)?;
        let from_origin = Box::new(WithBuffered { before, rest: self.read });
        let stream = self.stream;
        let hang_up = Box::new(move || _ = stream.shutdown(Shutdown::Both));
        Ok(Upgrade::Agreed(fields, Tunnel { from_origin, to_origin: self.write, hang_up }))
    }
}

/// Both directions of a connection, for the handshake.
struct Duplex(Box<dyn Read + Send>, Box<dyn Write + Send>);

impl Read for Duplex {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

/// The writing half of a TLS connection. Locks are taken in this order: `out`, `connection`.
struct TlsWriteHalf {
    connection: Arc<Mutex<TlsSession>>,
    out: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl Write for TlsWriteHalf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = self.out.lock();
        let mut records = Vec::new();
        let mut connection = self.connection.lock();
        let count = connection.writer().write(bytes)?;
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
        // An origin server that takes nothing holds up its writer alone: the reader needs the other lock.
        drop(connection);
        out.write_all(&records)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading half.
struct TlsReadHalf {
    connection: Arc<Mutex<TlsSession>>,
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    below: Box<dyn Read + Send>,
    pending: Vec<u8>,
}

impl Read for TlsReadHalf {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.lock().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            // The lock is not held while waiting, or nothing could be sent meanwhile.
            let count = self.below.read(&mut self.pending)?;
            let mut records = &self.pending[..count];
            let mut connection = self.connection.lock();
            loop {
                // rustls takes as much as its buffer holds, which is emptied by processing it.
                connection.read_tls(&mut records)?;
                let state = connection.process_new_packets();
                state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if records.is_empty() {
                    break;
                }
            }
            let wants_write = connection.wants_write();
            drop(connection);
            // A key update, or an alert, asks for records that nobody else would send (RFC 8446 §4.6.3).
            if wants_write {
                TlsWriteHalf {
                    connection: Arc::clone(&self.connection),
                    out: Arc::clone(&self.out),
                }
                .write(&[])?;
            }
        }
    }
}
