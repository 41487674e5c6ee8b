//! Going over to another protocol (WebSocket, above all): a connection of its own to the origin server,
//! because ureq keeps its sockets to itself. RFC 9110 §7.8.
//!
//! One request goes out and one head comes back. After a 101 the connection is a pipe in both
//! directions; any other response is an ordinary one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode, Version};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use crate::message::fields::Fields;
use crate::message::target::{OriginUrl, split_authority};
use crate::origin::resolver::Names;
use crate::origin::trust::{Roots, TlsSettings};
use crate::origin::{OriginBody, OriginError, OriginRequest, OriginResponse, Tunnel, Upgrade};

/// The most bytes that the head of an answer may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most field lines that it may have.
const LINES_MAX: usize = 128;
/// How much is read at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// When a silent connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Makes connections that become tunnels.
pub struct Dialer {
    names: Names,
    connect_timeout: Duration,
    origin_timeout: Duration,
    /// `None` for no verification at all.
    roots: Option<Roots>,
    /// Made at the first use: reading all roots takes longer than a start may.
    tls: OnceLock<TlsSettings>,
    /// The proxies that lead out, for http and for https.
    egress: (Option<String>, Option<String>),
}

impl Dialer {
    /// A dialer with the client's settings.
    pub fn new(
        names: Names,
        timeouts: (Duration, Duration),
        roots: Option<Roots>,
        egress: (Option<String>, Option<String>),
    ) -> Self {
        let (connect_timeout, origin_timeout) = timeouts;
        Self { names, connect_timeout, origin_timeout, roots, tls: OnceLock::new(), egress }
    }

    /// Sends a request to go over to another protocol, and waits for the head of the answer.
    pub fn upgrade(&self, request: &OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        let path_at = request.url.find("://").map_or(0, |at| at + 3);
        let slash = request.url[path_at..].find(['/', '?']).map(|at| path_at + at);
        let (base, path) = request.url.split_at(slash.unwrap_or(request.url.len()));
        let invalid = |what: String| OriginError::Invalid { origin: base.to_string(), what };
        let origin = OriginUrl::parse(base).map_err(invalid)?;
        let mut line = self.connect(&origin)?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let authority = origin.authority();
        let host = request.host.unwrap_or(&authority);
        let method = request.method;
        let mut head = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        request.fields.write_to(&mut head);
        head.extend_from_slice(b"\r\n");
        line.write.write_all(&head).map_err(|error| self.explain(base, &error))?;
        self.answer(base, line)
    }

    /// Reads the head of the answer; interim responses are of no interest here.
    fn answer(&self, base: &str, mut line: Line) -> Result<Upgrade, OriginError> {
        let mut input = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        let invalid =
            |what: &str| OriginError::Invalid { origin: base.to_string(), what: what.to_string() };
        loop {
            let head = parse(&input).map_err(|what| invalid(&what))?;
            if let Some((status, version, fields, bytes)) = head {
                input.drain(..bytes);
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    return line
                        .into_tunnel(fields, input)
                        .map_err(|error| self.explain(base, &error));
                }
                if !status.is_informational() {
                    return declined(status, version, fields, input, line)
                        .ok_or_else(|| invalid("framing of the answer"))
                        .map(Upgrade::Declined);
                }
                continue;
            }
            if input.len() > HEAD_BYTES_MAX {
                return Err(invalid("a head that is too long"));
            }
            match line.read.read(&mut piece) {
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

    /// A connection to the origin server: through a proxy that leads out and with TLS, where needed.
    fn connect(&self, origin: &OriginUrl) -> Result<Line, OriginError> {
        let egress = if origin.secure { &self.egress.1 } else { &self.egress.0 };
        let shown = format!("{}://{}", origin.scheme(), origin.authority());
        let refused = |source| OriginError::Connect { origin: shown.clone(), source };
        let stream = match egress.as_deref().and_then(|url| url.split("://").nth(1)) {
            None => self.dial(&shown, &origin.host, origin.port)?,
            Some(rest) => {
                let authority = rest.split('/').next().unwrap_or_default();
                let authority = authority.rsplit('@').next().unwrap_or_default();
                let (host, port) = split_authority(authority)
                    .ok_or_else(|| refused(io::Error::other("the proxy that leads out")))?;
                let mut stream = self.dial(&shown, &host, port.unwrap_or(80))?;
                ask_for_connection(&mut stream, &origin.host, origin.port).map_err(refused)?;
                stream
            }
        };
        if !origin.secure {
            return Line::plain(stream).map_err(refused);
        }
        let tls = self.tls.get_or_init(|| TlsSettings::new(self.roots.as_ref()));
        let what = |what: String| OriginError::Tls { origin: shown.clone(), what };
        let host = origin.host.trim_start_matches('[').trim_end_matches(']');
        let connection = tls.connection(host).map_err(what)?;
        Line::secure(stream, connection).map_err(|error| self.explain(&shown, &error))
    }

    /// Connects to the first address that answers.
    fn dial(&self, shown: &str, host: &str, port: u16) -> Result<TcpStream, OriginError> {
        let deadline = Instant::now() + self.connect_timeout;
        let addresses: Vec<SocketAddr> = self.names.addresses(host, port, self.connect_timeout);
        if addresses.is_empty() {
            return Err(OriginError::Resolve { origin: shown.to_string() });
        }
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
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

/// Asks a proxy that leads out for a connection (RFC 9110 §9.3.6).
fn ask_for_connection(stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
    write!(stream, "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("the proxy that leads out gave no answer"));
        }
        head.push(byte[0]);
    }
    match parse(&head) {
        Ok(Some((status, ..))) if status.is_success() => Ok(()),
        _ => Err(io::Error::other("the proxy that leads out refused")),
    }
}

/// A complete head and its length in bytes; `None` if there is more to come.
fn parse(input: &[u8]) -> Result<Option<(StatusCode, Version, Fields, usize)>, String> {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let bytes = match head.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("a status that is none")?;
    let version = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut fields = Fields::new();
    for line in head.headers.iter() {
        let name =
            HeaderName::from_bytes(line.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_bytes(line.value).map_err(|error| error.to_string())?;
        fields.append(name, value);
    }
    Ok(Some((status, version, fields, bytes)))
}

/// An ordinary response on a connection that ends with it; `None` if its end cannot be told.
fn declined(
    status: StatusCode,
    version: Version,
    fields: Fields,
    input: Vec<u8>,
    line: Line,
) -> Option<OriginResponse> {
    let coded = fields.contains("transfer-encoding");
    let chunked = coded && fields.has_member("transfer-encoding", "chunked");
    let lengths: Vec<_> = fields.get_all("content-length").collect();
    let length = match lengths[..] {
        _ if coded => None,
        [] => None,
        [one] => Some(one.to_str().ok()?.trim().parse().ok()?),
        _ => return None,
    };
    let left = if chunked { Left::Chunk(0) } else { length.map_or(Left::UntilTheEnd, Left::Bytes) };
    let has_body = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let read = Preceded { before: input, rest: line.read };
    let body =
        has_body.then(|| Box::new(Declined { read, left, began: false }) as Box<dyn OriginBody>);
    Some(OriginResponse { status, version, fields, length, silently_delimited: true, body })
}

/// The content of an ordinary response.
struct Declined {
    read: Preceded,
    left: Left,
    /// A chunk has been read, so a line end comes before the next.
    began: bool,
}

/// How much there is to come (RFC 9112 §6.3).
enum Left {
    Bytes(u64),
    /// So much of this chunk, and then others.
    Chunk(u64),
    UntilTheEnd,
}

impl OriginBody for Declined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if matches!(self.left, Left::Chunk(0)) {
            let size = self.chunk_size()?;
            self.left = if size == 0 { Left::Bytes(0) } else { Left::Chunk(size) };
        }
        let (Left::Bytes(left) | Left::Chunk(left)) = &mut self.left else {
            return self.read.read(buffer);
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.read.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= count as u64;
        Ok(count)
    }
}

impl Declined {
    /// Reads the line before a chunk.
    fn chunk_size(&mut self) -> io::Result<u64> {
        const LINE_BYTES_MAX: usize = 256;
        let mut line = Vec::new();
        let mut byte = [0];
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            if line.len() > LINE_BYTES_MAX || self.read.read(&mut byte)? == 0 {
                return Err(invalid());
            }
            line.push(byte[0]);
            if self.began && line == b"\r\n" {
                self.began = false;
                line.clear();
            }
            match httparse::parse_chunk_size(&line).map_err(|_| invalid())? {
                httparse::Status::Complete((_, size)) => {
                    self.began = true;
                    return Ok(size);
                }
                httparse::Status::Partial => {}
            }
        }
    }
}

/// What has come already, and then the rest.
struct Preceded {
    before: Vec<u8>,
    rest: Box<dyn Read + Send>,
}

impl Read for Preceded {
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
struct Line {
    stream: TcpStream,
    read: Box<dyn Read + Send>,
    write: Box<dyn Write + Send>,
}

impl Line {
    fn plain(stream: TcpStream) -> io::Result<Self> {
        let (read, write) = (Box::new(stream.try_clone()?), Box::new(stream.try_clone()?));
        Ok(Self { stream, read, write })
    }

    fn secure(stream: TcpStream, mut connection: rustls::ClientConnection) -> io::Result<Self> {
        while connection.is_handshaking() {
            connection.complete_io(&mut &stream)?;
        }
        let connection = Arc::new(Mutex::new(connection));
        let out = Arc::new(Mutex::new(stream.try_clone()?));
        let write = Sealed { connection: Arc::clone(&connection), out: Arc::clone(&out) };
        let pending = vec![0; PIECE_BYTES];
        let read = Opened { connection, out, socket: stream.try_clone()?, pending };
        Ok(Self { stream, read: Box::new(read), write: Box::new(write) })
    }

    /// From now on nobody waits for anybody's answer: silence is no failure.
    fn into_tunnel(self, fields: Fields, before: Vec<u8>) -> io::Result<Upgrade> {
        self.stream.set_read_timeout(None)?;
        let from_origin = Box::new(Preceded { before, rest: self.read });
        let stream = self.stream;
        let hang_up = Box::new(move || _ = stream.shutdown(Shutdown::Both));
        Ok(Upgrade::Agreed(fields, Tunnel { from_origin, to_origin: self.write, hang_up }))
    }
}

/// The writing half of a TLS connection. Locks are taken in this order: `out`, `connection`.
struct Sealed {
    connection: Arc<Mutex<rustls::ClientConnection>>,
    out: Arc<Mutex<TcpStream>>,
}

impl Write for Sealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = self.out.lock();
        let mut records = Vec::new();
        let mut connection = self.connection.lock();
        let count = connection.writer().write(bytes)?;
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
        drop(connection);
        out.write_all(&records)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading half.
struct Opened {
    connection: Arc<Mutex<rustls::ClientConnection>>,
    out: Arc<Mutex<TcpStream>>,
    socket: TcpStream,
    pending: Vec<u8>,
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.lock().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            // The lock is not held while waiting, or nothing could be sent meanwhile.
            let count = self.socket.read(&mut self.pending)?;
            let mut records = &self.pending[..count];
            let mut connection = self.connection.lock();
            loop {
                connection.read_tls(&mut records)?;
                let state = connection.process_new_packets();
                state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if records.is_empty() {
                    break;
                }
            }
            let wants_write = connection.wants_write();
            drop(connection);
            if wants_write {
                Sealed { connection: Arc::clone(&self.connection), out: Arc::clone(&self.out) }
                    .write(&[])?;
            }
        }
    }
}
