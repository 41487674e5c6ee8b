//! One request of a client and its answer, over tiny_http.
//!
//! The response is written by this file, not by tiny_http, which reframes bodies and makes a cut one
//! look complete. And the request's content is accounted for before tiny_http sees the end of it:
//! tiny_http allocates as much memory as a client has announced and not sent.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Version};

use crate::clock::Timestamp;
use crate::front::connections::{Activity, Connections};
use crate::front::sending::Sending;
use crate::front::sockets::Client;
use crate::front::wire::{
    CHUNK_HEAD_BYTES, Delimiting, LAST_CHUNK, Reader, chunk_head, interim_head,
};
use crate::message::body::{Arriving, Awaited, Body, Growing, InMemory};
use crate::message::request::{Framing, Request};
use crate::message::response::Response;
use crate::origin::{Content, Interim};
use crate::proxy::{Proxy, field_text};
use crate::stats::{AccessLog, Served};

/// A piece of a body on its way to a client.
const PIECE_BYTES: usize = 64 * 1024;
/// Content that nobody wanted is read to its end up to this; beyond it the connection is cut.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;

/// The answer of a worker that could not give one (RFC 9110 §15.6.1).
const PANICKED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\
    X-Cache: MISS\r\nCache-Status: proxy\r\nContent-Length: 28\r\nConnection: close\r\n\r\n\
    proxy: a bug; see the log.\r\n";

/// What all exchanges of a front share.
pub(super) struct Shared {
    pub proxy: Arc<Proxy>,
    pub connections: Connections,
    pub access_log: Option<AccessLog>,
}

/// What the log says of a response.
pub(super) struct Told {
    status: u16,
    from_cache: bool,
    cache_status: String,
}

/// A request and its client. Dropped unanswered, it cuts the connection.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    inner: Option<tiny_http::Request>,
    pub request: Arc<Request>,
    pub peer: SocketAddr,
    activity: Arc<Activity>,
    reader: Reader,
    /// Bytes of content not read yet; `None` for a chunked one that has not ended.
    left: Option<u64>,
    /// The client waits for a 100 before it sends its content.
    expects_continue: bool,
    at: Timestamp,
    since: Instant,
    /// The response is on its way, or past.
    answered: bool,
}

impl Exchange {
    pub(super) fn new(
        shared: Arc<Shared>,
        inner: tiny_http::Request,
        request: Arc<Request>,
        peer: SocketAddr,
        activity: Arc<Activity>,
    ) -> Self {
        let at = shared.proxy.now();
        let left = match request.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let reader = Reader { version: request.version, keeps_alive: keeps_alive(&request) };
        let expects_continue = request.fields.contains("expect");
        let (inner, since) = (Some(inner), Instant::now());
        let expects_continue = expects_continue && left != Some(0);
        Self {
            shared,
            inner,
            request,
            peer,
            activity,
            reader,
            left,
            expects_continue,
            at,
            since,
            answered: false,
        }
    }

    /// Runs `send` with the request's content.
    pub(super) fn with_content<T>(&mut self, send: impl FnOnce(Content<'_>) -> T) -> T {
        if self.left == Some(0) {
            return send(Content::None);
        }
        let mut reader = ContentReader { exchange: self };
        match reader.exchange.request.framing {
            Framing::Length(length) => send(Content::Length(length, &mut reader)),
            _ => send(Content::Chunked(&mut reader)),
        }
    }

    /// Sends the response and ends the exchange. May wait for the client.
    pub(super) fn answer(mut self, response: Response) {
        let through = self.drain();
        self.answer_by(response, through);
    }

    /// Sends a short response, cuts the connection, and waits for nobody.
    pub(super) fn refuse(mut self, response: Response) {
        self.answer_by(response, false);
    }

    /// Says that the body which was to be sent is cut.
    pub(super) fn refuse_cut(self) {
        let response = self.shared.proxy.refuse_cut(&self.request);
        self.refuse(response);
    }

    /// Begins to send a response whose body grows, or is large; gives all back if that is not possible
    /// without waiting for the client.
    pub(super) fn begin(mut self, response: Response) -> Result<Sending, Box<(Self, Response)>> {
        let through = self.drain();
        let socket = if through { self.shared.connections.socket(self.peer) } else { None };
        let Some(socket) = socket else { return Err(Box::new((self, response))) };
        let told = self.tell(&response);
        let Response { status, fields, body } = response;
        let body: Box<dyn Growing> = match body {
            Body::Growing(body) => body,
            Body::Whole(bytes) => Box::new(InMemory(bytes)),
            body => return Err(Box::new((self, Response { status, fields, body }))),
        };
        let delimiting = self.reader.delimiting(body.length());
        let head = Response { status, fields, body: Body::None { length: None } };
        let head = self.reader.head(&head, delimiting);
        self.answered = true;
        Ok(Sending::new(self, socket, head, body, delimiting, told))
    }

    /// The client's socket, for a response that is sent past tiny_http's writer, and what the log says
    /// of it; the connection is a tunnel from now on.
    pub(super) fn become_tunnel(&mut self) -> Option<(Client, Told)> {
        let socket = self.shared.connections.socket(self.peer)?;
        self.answered = true;
        self.shared.connections.note_tunnel(self.peer);
        let cache_status = "proxy; fwd=bypass; fwd-status=101; detail=upgrade".to_string();
        Some((socket, Told { status: 101, from_cache: false, cache_status }))
    }

    /// Reads what the client sends through a tunnel.
    pub(super) fn read_from_tunnel(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.as_mut().map_or(Ok(0), |inner| inner.as_reader().read(buffer))
    }

    /// Ends an exchange whose response was sent past tiny_http's writer.
    pub(super) fn conclude(mut self, told: &Told, bytes: u64, well: bool) {
        if !well {
            self.shared.connections.cut(self.peer);
        }
        // tiny_http goes on to the connection's next request.
        drop(self.inner.take().map(tiny_http::Request::into_writer));
        self.write_down(told, bytes);
    }

    fn answer_by(&mut self, response: Response, through: bool) {
        self.answered = true;
        let told = self.tell(&response);
        let bytes =
            if through { self.answer_through(response) } else { self.answer_past(response) };
        self.write_down(&told, bytes);
    }

    fn tell(&self, response: &Response) -> Told {
        let cache_status = match &self.shared.access_log {
            Some(_) => field_text(&response.fields, "cache-status").to_string(),
            None => String::new(),
        };
        let from_cache = field_text(&response.fields, "x-cache") == "HIT";
        Told { status: response.status.as_u16(), from_cache, cache_status }
    }

    fn write_down(&self, told: &Told, bytes: u64) {
        let Told { status, from_cache, cache_status } = told;
        self.shared.proxy.stats().count_bytes(bytes, *from_cache);
        if let Some(log) = &self.shared.access_log {
            let fields = &self.request.fields;
            log.write(&Served {
                at: self.at,
                client: Some(self.peer.ip()),
                method: self.request.method.as_str(),
                target: self.request.target.as_str(),
                version: if self.request.version == Version::HTTP_10 {
                    "HTTP/1.0"
                } else {
                    "HTTP/1.1"
                },
                status: *status,
                bytes,
                referer: field_text(fields, "referer"),
                user_agent: field_text(fields, "user-agent"),
                from_cache: *from_cache,
                cache_status,
                taken: self.since.elapsed(),
            });
        }
    }

    /// What passes interim responses on to the client, if it understands them (RFC 9110 §15.2).
    pub(super) fn interim(&self) -> Option<Arc<Interim>> {
        if self.request.version == Version::HTTP_10 {
            return None;
        }
        let (shared, peer) = (Arc::clone(&self.shared), self.peer);
        Some(Arc::new(move |status, fields| {
            let bytes = interim_head(status, &fields);
            shared.connections.send_between(peer, &bytes);
        }))
    }

    /// A worker begins or ends waiting for the client.
    pub(super) fn note_waiting(&self, waiting: bool) {
        self.shared.connections.note_waiting(&self.activity, waiting);
    }

    /// Sends the response through tiny_http's writer; how many bytes of content.
    fn answer_through(&mut self, response: Response) -> u64 {
        let Some(inner) = self.inner.take() else { return 0 };
        let note = |waiting| self.shared.connections.note_waiting(&self.activity, waiting);
        let mut sender = Sender { out: inner.into_writer(), sent: 0, note: &note };
        match sender.send(self.reader, &self.request.method, response) {
            // tiny_http closes when it has read `Connection: close`, and knows no other reason.
            Ok(Delimiting::Close) => self.shared.connections.cut(self.peer),
            Ok(_) => {}
            Err(error) => {
                log::debug!("{}: response cut short: {error}", self.peer);
                self.shared.connections.cut(self.peer);
            }
        }
        sender.sent
    }

    /// Sends a response of the proxy's own past tiny_http and cuts the connection: the client may
    /// still send content that nobody wants, and tiny_http would read all of it first.
    fn answer_past(&mut self, response: Response) -> u64 {
        if let Body::Arriving(body) = response.body {
            // It would have to be read to its end first; better no answer than half of one.
            body.abandon();
            self.shared.connections.cut(self.peer);
            return 0;
        }
        let reader = Reader { keeps_alive: false, ..self.reader };
        let mut head_and_content = Vec::new();
        let mut sender = Sender { out: Box::new(&mut head_and_content), sent: 0, note: &|_| () };
        let sent = match sender.send(reader, &self.request.method, response) {
            Ok(_) => sender.sent,
            Err(_) => 0,
        };
        drop(sender);
        self.shared.connections.cut_with(self.peer, &head_and_content);
        sent
    }

    /// Reads content that nobody wanted to its end, up to a bound; `false` if there is more.
    fn drain(&mut self) -> bool {
        if self.left == Some(0) {
            return true;
        }
        if self.expects_continue || self.left.is_some_and(|left| left > DRAIN_BYTES_MAX) {
            return false;
        }
        let mut scratch = [0; 4096];
        let mut drained = 0;
        let mut reader = ContentReader { exchange: self };
        while drained <= DRAIN_BYTES_MAX {
            match reader.read(&mut scratch) {
                Ok(0) => return true,
                Ok(count) => drained += count as u64,
                Err(_) => return false,
            }
        }
        false
    }
}

/// tiny_http reads a connection on only under these conditions, so these are what we announce.
fn keeps_alive(request: &Request) -> bool {
    // tiny_http looks at the first line only, and for the word anywhere in it.
    let line = request.fields.get("connection").map(|line| line.as_bytes().to_ascii_lowercase());
    let has = |word: &[u8]| {
        line.as_ref().is_some_and(|line| line.windows(word.len()).any(|part| part == word))
    };
    !has(b"close")
        && !has(b"upgrade")
        && (request.version != Version::HTTP_10 || has(b"keep-alive"))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            if self.answered {
                self.shared.connections.cut(self.peer);
            } else {
                // A worker panicked: this one client learns of it, and no other.
                self.shared.connections.cut_with(self.peer, PANICKED);
            }
            discard(inner, self.left.unwrap_or(0));
        }
        self.shared.connections.end(self.peer);
    }
}

/// Drops a request with `left` bytes of content unread.
///
/// tiny_http allocates that many bytes to read them into, and a process that cannot have them is
/// aborted. Where that would happen the request is leaked instead: one thread, which waits for ever.
fn discard(inner: tiny_http::Request, left: u64) {
    let size = usize::try_from(left).unwrap_or(usize::MAX);
    if size > DRAIN_BYTES_MAX as usize && Vec::<u8>::new().try_reserve_exact(size).is_err() {
        log::warn!("a client announced {left} bytes and sent less; one thread is lost to it");
        std::mem::forget(inner);
    }
}

/// Reads a request's content, and knows a cut one from a complete one.
struct ContentReader<'a> {
    exchange: &'a mut Exchange,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let exchange = &mut *self.exchange;
        let Some(inner) = &mut exchange.inner else { return Ok(0) };
        let most = match exchange.left {
            Some(0) => return Ok(0),
            Some(left) => buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => buffer.len(),
        };
        if most == 0 {
            return Ok(0);
        }
        exchange.expects_continue = false;
        let connections = &exchange.shared.connections;
        connections.note_waiting(&exchange.activity, true);
        let result = inner.as_reader().read(&mut buffer[..most]);
        connections.note_waiting(&exchange.activity, false);
        match (result?, &mut exchange.left) {
            (0, Some(_)) => Err(cut()),
            // tiny_http says the same for the last chunk and for a connection that was cut.
            (0, None) if connections.has_ended(exchange.peer) => Err(cut()),
            (0, left @ None) => {
                *left = Some(0);
                Ok(0)
            }
            (count, left) => {
                if let Some(left) = left {
                    *left -= count as u64;
                }
                Ok(count)
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the client stopped before its content was complete",
    )
}

/// Writes one response.
struct Sender<'a> {
    out: Box<dyn Write + 'a>,
    /// Bytes of content that were sent.
    sent: u64,
    /// Is told when the client is waited for, and when no longer.
    note: &'a dyn Fn(bool),
}

impl Sender<'_> {
    /// Sends a response; says how it was delimited. After an error the connection must be cut.
    fn send(
        &mut self,
        reader: Reader,
        method: &Method,
        mut response: Response,
    ) -> io::Result<Delimiting> {
        let body = match std::mem::replace(&mut response.body, Body::None { length: None }) {
            // This thread can wait for it.
            Body::Growing(body) => Body::Arriving(Box::new(Awaited(body))),
            body => body,
        };
        let no_content = *method == Method::HEAD;
        let delimiting = match &body {
            Body::None { length } => {
                Delimiting::Nothing(length.filter(|_| no_content).or_else(|| {
                    // A response that could have content and has none says so.
                    let silent =
                        no_content || !crate::policy::forwarding::has_content(response.status);
                    (!silent).then_some(0)
                }))
            }
            Body::Whole(bytes) if no_content => Delimiting::Nothing(Some(bytes.len() as u64)),
            other => reader.delimiting(other.length()),
        };
        let mut head = reader.head(&response, delimiting);
        match body {
            Body::Whole(bytes) if !no_content => {
                if head.len() + bytes.len() <= PIECE_BYTES {
                    // One write for all: one packet, and one call of the system.
                    head.extend_from_slice(&bytes);
                    self.write_now(&head)?;
                } else {
                    self.write_now(&head)?;
                    self.write_now(&bytes)?;
                }
                self.sent = bytes.len() as u64;
            }
            Body::Arriving(body) => return self.relay(&head, body, delimiting),
            _ => self.write_now(&head)?,
        }
        Ok(delimiting)
    }

    /// Passes on what arrives, as it arrives.
    fn relay(
        &mut self,
        head: &[u8],
        mut body: Box<dyn Arriving>,
        delimiting: Delimiting,
    ) -> io::Result<Delimiting> {
        let mut result = self.write_now(head);
        let mut piece = vec![0; PIECE_BYTES + CHUNK_HEAD_BYTES + 2];
        while result.is_ok() {
            let room = CHUNK_HEAD_BYTES..CHUNK_HEAD_BYTES + PIECE_BYTES;
            let count = body.read(&mut piece[room])?;
            if count == 0 {
                let last: &[u8] = if delimiting == Delimiting::Chunked { LAST_CHUNK } else { &[] };
                if !last.is_empty() {
                    self.write_now(last)?;
                }
                return Ok(delimiting);
            }
            let (mut start, mut end) = (CHUNK_HEAD_BYTES, CHUNK_HEAD_BYTES + count);
            if delimiting == Delimiting::Chunked {
                let size = chunk_head(count);
                start -= size.len();
                piece[start..CHUNK_HEAD_BYTES].copy_from_slice(&size);
                piece[end..end + 2].copy_from_slice(b"\r\n");
                end += 2;
            }
            result = self.write_now(&piece[start..end]);
            if result.is_ok() {
                self.sent += count as u64;
            }
        }
        // The client is gone; what is worth keeping is fetched to its end.
        body.abandon();
        result.map(|()| delimiting)
    }

    /// Writes piece by piece: a client may be slow, as long as it takes one now and then.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES + CHUNK_HEAD_BYTES + 2) {
            (self.note)(true);
            self.out.write_all(piece)?;
        }
        let flushed = self.out.flush();
        (self.note)(false);
        flushed
    }
}

/// Drops a request that was refused before its framing was known.
pub(super) fn discard_unread(inner: tiny_http::Request) {
    let left = inner.body_length().unwrap_or(0) as u64;
    discard(inner, left);
}
