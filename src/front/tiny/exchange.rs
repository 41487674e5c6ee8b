//! One request of a client and its answer, over tiny_http.
//!
//! The response is written by us, not by tiny_http, which reframes bodies and makes a cut one
//! look complete. And the request's content is accounted for before tiny_http sees the end of it:
//! tiny_http allocates as much memory as a client has announced and not sent.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use parking_lot::Mutex;

use crate::front::dispatch::{self, Dispatch};
use crate::front::outgoing::Outgoing;
use crate::front::relay::Relay;
use crate::front::served::{Arrival, LogRecord, record_response};
use crate::front::tiny::connections::{Activity, Connections};
use crate::front::tiny::pump::Pumps;
use crate::front::tiny::sender::{PIECE_BYTES, Sender};
use crate::front::tiny::sending::{Recipient, Sending, Then};
use crate::front::tunnels::{self, TunnelClient, TunnelPermit};
use crate::front::wire::{Delimiting, WireClient, interim_head};
use crate::message::body::{Arriving, Body};
use crate::message::fields::Fields;
use crate::message::request::{Framing, Request};
use crate::origin::{Interim, RequestContent, Tunnel};
use crate::policy::response::Response;
use crate::proxy::{Attempt, ContentFetch, Delivery, Fetch, Proxy};
use crate::stats::AccessLog;

/// Content that no worker reads is read to its end up to this; beyond it the connection is cut.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;

/// What the client of a worker is sent that has panicked (RFC 9110 §15.6.1).
const PANICKED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\
    X-Cache: MISS\r\nCache-Status: proxy\r\nContent-Length: 28\r\nConnection: close\r\n\r\n\
    proxy: a bug; see the log.\r\n";

/// What all exchanges of a front share.
pub(super) struct TinyShared {
    pub proxy: Arc<Proxy>,
    pub connections: Connections,
    pub pumps: Pumps,
    pub dispatch: Arc<Dispatch>,
    pub access_log: Option<AccessLog>,
}

/// A request and its client. Dropped unanswered, it cuts the connection.
pub(super) struct TinyExchange {
    shared: Arc<TinyShared>,
    inner: Option<tiny_http::Request>,
    request: Arc<Request>,
    peer: SocketAddr,
    activity: Arc<Activity>,
    client: WireClient,
    /// Bytes of content not read yet; `None` for a chunked one that has not ended.
    left: Option<u64>,
    /// The client waits for a 100 before it sends its content.
    expects_continue: bool,
    arrival: Arrival,
    /// The response is on its way, or was.
    answered: bool,
}

impl TinyExchange {
    pub(super) fn new(
        shared: Arc<TinyShared>,
        inner: tiny_http::Request,
        request: Arc<Request>,
        peer: SocketAddr,
        activity: Arc<Activity>,
    ) -> Self {
        let arrival = Arrival { at: shared.proxy.now(), since: Instant::now() };
        // Counted here because tiny_http gives no way to ask what it has still to read.
        let left = match request.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        // Its responses come from a driver that has no trailer fields.
        let client = WireClient {
            version: request.version,
            keeps_alive: keeps_alive(&request),
            takes_trailers: false,
        };
        let expects_continue = request.expects_continue();
        let inner = Some(inner);
        Self {
            shared,
            inner,
            request,
            peer,
            activity,
            client,
            left,
            expects_continue,
            arrival,
            answered: false,
        }
    }

    /// Sends the response and ends the exchange. May wait for the client.
    fn answer(mut self, response: Response) {
        let through = self.drain();
        self.answer_by(response, through);
    }

    /// Begins to send a response whose body grows, or is large, past tiny_http's writer. Gives both
    /// back if the client's socket cannot be had, or content of the request is still to be read.
    fn begin(mut self, response: Response) -> Result<Sending, Box<(Self, Response)>> {
        let through = self.drain();
        // With content unread, tiny_http would read all of it before the next request: the connection
        // has to be cut instead.
        let socket = if through { self.shared.connections.socket(self.peer) } else { None };
        let Some(socket) = socket else { return Err(Box::new((self, response))) };
        let record = self.begin_record(&response);
        match Outgoing::new(self.client, &self.request.method, response) {
            Ok(outgoing) => {
                self.answered = true;
                Ok(Sending::new(Box::new(self), socket, outgoing, record))
            }
            Err(response) => Err(Box::new((self, response))),
        }
    }

    /// Sends a response as the client takes it. This worker fetches the rest of its body, if there is more to fetch.
    fn send_paced(self, response: Response, rest: Option<Box<ContentFetch>>) {
        let shared = Arc::clone(&self.shared);
        let pump = shared.pumps.choose();
        match (self.begin(response), rest) {
            (Ok(sending), Some(rest)) => pump.drive(sending, *rest),
            (Ok(sending), None) => pump.send(sending),
            // Through tiny_http after all, at the price of this worker's time.
            (Err(back), rest) => {
                let (exchange, response) = *back;
                exchange.answer(Delivery { response, rest, refresh: None }.into_response());
            }
        }
    }

    /// Sends a response whose body is read from a store behind memory: by this worker while nothing has to be waited for,
    /// then by any that is free whenever the client has taken what there is. A hundred who read a body on its way into a store once held as many workers.
    fn relay(self, response: Response, body: Box<dyn Arriving>) {
        let shared = Arc::clone(&self.shared);
        let (response, relay) = Relay::between(response, body, &shared.dispatch);
        match self.begin(response) {
            Ok(sending) => shared.pumps.choose().relay(sending, relay),
            Err(back) => {
                let (exchange, response) = *back;
                let body = Body::Arriving(relay.into_body());
                exchange.answer(Response { body, ..response });
            }
        }
    }

    /// Tells the client that the origin server has agreed to speak another protocol, past tiny_http's
    /// writer, and makes a tunnel of the connection.
    fn become_tunnel(mut self, fields: &Fields, tunnel: Tunnel, permit: TunnelPermit) {
        // Dropped unanswered, the exchange sends a 500 on the way out.
        let Some(socket) = self.shared.connections.socket(self.peer) else {
            return log::warn!("{}: no tunnel: the client's socket was not found", self.peer);
        };
        self.answered = true;
        self.shared.connections.note_tunnel(self.peer);
        let record = LogRecord::of_tunnel();
        // Shared by the thread that reads and by the conclusion, which comes after that thread's last
        // read: neither waits for the lock long.
        let exchange = Arc::new(Mutex::new(Some(self)));
        let reading = Arc::clone(&exchange);
        let socket = Arc::new(socket);
        let cut = Arc::clone(&socket);
        let client = TunnelClient {
            greeting: interim_head(StatusCode::SWITCHING_PROTOCOLS, fields),
            // Locked by the one thread that reads, until the tunnel is over.
            read: Box::new(move |buffer| {
                reading.lock().as_mut().map_or(Ok(0), |exchange| exchange.read_from_tunnel(buffer))
            }),
            write: Box::new(move |bytes| socket.send_all(bytes)),
            cut: Box::new(move || cut.cut()),
            concluded: Box::new(move |passed| {
                if let Some(exchange) = exchange.lock().take() {
                    Box::new(exchange).conclude(&record, passed, Then::Closes);
                }
            }),
        };
        tunnels::begin(client, tunnel, permit);
    }

    /// Reads what the client sends through a tunnel: tiny_http hands over the bare connection where a
    /// request asks for an upgrade.
    fn read_from_tunnel(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.as_mut().map_or(Ok(0), |inner| inner.as_reader().read(buffer))
    }

    /// Sends the response, through tiny_http's writer or past it, and records it.
    fn answer_by(&mut self, response: Response, through: bool) {
        self.answered = true;
        let mut record = self.begin_record(&response);
        let bytes = if through {
            self.answer_through(response, &mut record)
        } else {
            self.answer_past(response)
        };
        self.record(&record, bytes);
    }

    /// What the access log will say of a response that is about to be sent; notes a stream without an end.
    fn begin_record(&self, response: &Response) -> LogRecord {
        if response.is_endless() && self.request.method != Method::HEAD {
            self.shared.connections.note_endless(self.peer);
        }
        LogRecord::of(response)
    }

    fn record(&self, record: &LogRecord, bytes: u64) {
        let TinyShared { proxy, access_log, .. } = &*self.shared;
        record_response(proxy, access_log.as_ref(), &self.request, self.arrival, record, bytes);
    }

    /// Sends the response through tiny_http's writer; gives the number of bytes of content.
    fn answer_through(&mut self, response: Response, record: &mut LogRecord) -> u64 {
        let Some(inner) = self.inner.take() else { return 0 };
        let note = |waiting| self.shared.connections.note_waiting(&self.activity, waiting);
        let mut sender =
            Sender { out: inner.into_writer(), sent: 0, truncated: false, note: &note };
        let delimiting = self.client.delimiting_of(&self.request.method, &response);
        match sender.send(self.client, &self.request.method, response) {
            // tiny_http closes when it has read `Connection: close`, and knows no other reason.
            Ok(Delimiting::Close) => self.shared.connections.cut(self.peer),
            Ok(_) => {}
            Err(error) => {
                log::debug!("{}: response cut short: {error}", self.peer);
                if delimiting == Delimiting::Close {
                    self.shared.connections.reset(self.peer);
                } else {
                    self.shared.connections.cut(self.peer);
                }
            }
        }
        if sender.truncated {
            record.truncated();
        }
        sender.sent
    }

    /// Sends a response past tiny_http and cuts the connection: the client may still send content that
    /// has no use, and tiny_http would read all of it first.
    fn answer_past(&mut self, mut response: Response) -> u64 {
        if let Body::Arriving(body) = response.body {
            // Read to its end first, if that is not far: what is sent here is sent at once or not at
            // all, and no answer is better than half of one.
            let Some(content) = read_short(body) else {
                self.shared.connections.cut(self.peer);
                return 0;
            };
            response.body = Body::Whole(content);
        }
        let client = WireClient { keeps_alive: false, ..self.client };
        let mut head_and_content = Vec::new();
        let mut sender = Sender {
            out: Box::new(&mut head_and_content),
            sent: 0,
            truncated: false,
            note: &|_| (),
        };
        let sent = match sender.send(client, &self.request.method, response) {
            Ok(_) => sender.sent,
            Err(_) => 0,
        };
        drop(sender);
        self.shared.connections.cut_with(self.peer, &head_and_content);
        sent
    }

    /// Reads content that has no use to its end, up to a bound; `false` if there is more.
    fn drain(&mut self) -> bool {
        // Without content nothing is asked of the client, and no socket is looked for.
        if self.left == Some(0) {
            return true;
        }
        // A client that waits for a 100 has sent nothing, and an announced length beyond the bound is
        // not worth waiting for.
        if self.expects_continue || self.left.is_some_and(|left| left > DRAIN_BYTES_MAX) {
            return false;
        }
        let mut scratch = [0; 4096];
        let mut drained = 0;
        let mut reader = RequestContentReader { exchange: self };
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

impl dispatch::ClientExchange for TinyExchange {
    fn request(&self) -> &Arc<Request> {
        &self.request
    }

    fn with_content<T>(&mut self, send: impl FnOnce(RequestContent<'_>) -> T) -> T {
        if self.left == Some(0) {
            return send(RequestContent::None);
        }
        let mut reader = RequestContentReader { exchange: self };
        match reader.exchange.request.framing {
            Framing::Length(length) => send(RequestContent::Length(length, &mut reader)),
            _ => send(RequestContent::Chunked(&mut reader)),
        }
    }

    // An HTTP/1.0 client would take the 103 for the response (RFC 9110 §15.2).
    fn interim(&self) -> Option<Arc<Interim>> {
        if self.request.version == Version::HTTP_10 {
            return None;
        }
        let (shared, peer) = (Arc::clone(&self.shared), self.peer);
        Some(Arc::new(move |status, fields| {
            let bytes = interim_head(status, &fields);
            shared.connections.send_between(peer, &bytes);
        }))
    }

    /// A body that grows, or is large, or is read from a store behind memory, is sent as the client takes it, which
    /// holds no worker; what has to be fetched of it is fetched here.
    fn respond(self, delivery: Delivery) {
        let Delivery { mut response, rest, .. } = delivery;
        // A short body fits into the socket's buffer: one write, and the worker is free. A HEAD has no
        // body to wait for.
        let has_content = self.request.method != Method::HEAD;
        match std::mem::replace(&mut response.body, Body::None { length: None }) {
            Body::Arriving(body) if has_content => self.relay(response, body),
            body @ Body::Growing(_) => {
                return self.send_paced(Response { body, ..response }, rest);
            }
            Body::Whole(bytes) if bytes.len() > PIECE_BYTES && has_content => {
                let body = Body::Whole(bytes);
                return self.send_paced(Response { body, ..response }, rest);
            }
            body => self.answer(Response { body, ..response }),
        }
        // What the client did not need may be worth keeping.
        if let Some(rest) = rest {
            rest.run();
        }
    }

    fn refuse(mut self, response: Response) {
        self.answer_by(response, false);
    }

    fn upgrade(self, dispatch: &Arc<Dispatch>, protocols: &str) -> Option<(Self, Response)> {
        dispatch.submit_upgrade(self, protocols, Self::become_tunnel);
        None
    }

    fn begin_fetch(self, _: &Dispatch, fetch: Box<Fetch>) -> Result<(), (Self, Box<Fetch>)> {
        Err((self, fetch))
    }

    fn resume(self, dispatch: &Arc<Dispatch>, attempt: Attempt) {
        dispatch.submit_lookup(self, attempt);
    }
}

impl Recipient for TinyExchange {
    fn note_waiting(&self, waits: bool) {
        self.shared.connections.note_waiting(&self.activity, waits);
    }

    fn refuse_cut(mut self: Box<Self>) {
        let response = self.shared.proxy.refuse_cut(&self.request);
        self.answer_by(response, false);
    }

    fn conclude(mut self: Box<Self>, record: &LogRecord, sent: u64, then: Then) {
        // tiny_http knows of no reason to close, so the socket is closed under it.
        match then {
            Then::Persists => {}
            Then::Closes => self.shared.connections.cut(self.peer),
            Then::Resets => self.shared.connections.reset(self.peer),
        }
        // The response went past tiny_http's writer: it goes on to the connection's next request.
        drop(self.inner.take().map(tiny_http::Request::into_writer));
        self.record(record, sent);
    }
}

/// All of a short body; `None`, and the body is abandoned, if it is longer or cut.
fn read_short(mut body: Box<dyn Arriving>) -> Option<Bytes> {
    let mut content = Vec::new();
    let mut piece = [0; 4096];
    while content.len() <= DRAIN_BYTES_MAX as usize {
        match body.read(&mut piece) {
            Ok(0) => return Some(content.into()),
            Ok(count) => content.extend_from_slice(&piece[..count]),
            Err(_) => return None,
        }
    }
    body.abandon();
    None
}

/// Does tiny_http read another request on this connection? It does under these conditions only, so this
/// is what the response announces.
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

impl Drop for TinyExchange {
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

/// Reads a request's content; a cut one is an error, never an end.
struct RequestContentReader<'a> {
    exchange: &'a mut TinyExchange,
}

impl Read for RequestContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let exchange = &mut *self.exchange;
        let Some(inner) = &mut exchange.inner else { return Ok(0) };
        // Never beyond the announced length: what follows is the next request.
        let most = match exchange.left {
            Some(0) => return Ok(0),
            Some(left) => buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => buffer.len(),
        };
        if most == 0 {
            return Ok(0);
        }
        // tiny_http sends the 100 at the first read.
        exchange.expects_continue = false;
        let connections = &exchange.shared.connections;
        connections.note_waiting(&exchange.activity, true);
        let result = inner.as_reader().read(&mut buffer[..most]);
        connections.note_waiting(&exchange.activity, false);
        match (result?, &mut exchange.left) {
            // The end before the announced length: a truncated upload that looked complete would be
            // stored by the origin server.
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

/// The error for content that ended too early.
fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the client stopped before its content was complete",
    )
}

/// Drops a request that was refused before its framing was known.
pub(super) fn discard_unread(inner: tiny_http::Request) {
    let left = inner.body_length().unwrap_or(0) as u64;
    discard(inner, left);
}
