//! One exchange with the origin server: how far it has come, and the connection that it has.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::message::pipe::BodyPipe;
use crate::message::request::Framing;
use crate::origin::OriginError;
use crate::origin::evented::dial::Race;
use crate::origin::evented::protocol::ResponseReader;
use crate::origin::evented::stream::Stream;
use crate::origin::evented::{Consumer, ContentTaken, OriginReadiness, Wish};
use crate::origin::gate::{Admission, OriginPermit};
use crate::origin::limit_response::LimitCopy;
use crate::origin::outgoing::{PIECE_BYTES, Route, WireRequest, frame, frame_end};
use crate::origin::resolver::{AskedName, RenewedName};
use crate::origin::trust::TlsSession;

/// A connection to the origin server, or to an egress proxy.
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that has happened to it")]
pub struct OriginConnection {
    /// By which readiness is reported.
    pub token: usize,
    pub stream: Stream<TcpStream>,
    pub reader: ResponseReader,
    pub route: Arc<Route>,
    /// There may be bytes to read: readiness is edge-triggered, so this is kept until a read blocks.
    pub readable: bool,
    /// The system may take bytes.
    pub writable: bool,
    /// The other side has ended: behind the last bytes a read gives the end, without new readiness.
    pub ending: bool,
    pub opened: Instant,
    pub idle_since: Instant,
    /// The one client whose requests go over it, where it may have been authenticated for that client.
    pub client: Option<u64>,
    /// How many requests have gone over it.
    pub requests: u64,
    /// The egress proxy has been asked to connect.
    pub is_greeted: bool,
    /// It has connected: what follows is the origin server's.
    pub is_through: bool,
}

impl OriginConnection {
    /// The same with TLS over it.
    #[must_use]
    pub fn secured(self, session: TlsSession) -> Self {
        // The handshake begins with what this side sends.
        Self { stream: self.stream.secured(session), readable: true, writable: true, ..self }
    }
}

/// An exchange.
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that has happened to it")]
pub struct Exchange<C> {
    pub number: u64,
    /// The client's connection, where it has one; while it is there.
    pub client: Option<u64>,
    pub consumer: C,
    pub request: WireRequest,
    pub stage: ExchangeStage,
    pub connection: Option<OriginConnection>,
    /// Bytes of the request's head that are sent.
    pub head_sent: usize,
    /// Framed content, and how much of it is sent.
    output: Vec<u8>,
    output_sent: usize,
    pub content: ContentState,
    /// It must not go over a connection that was used before.
    pub needs_fresh: bool,
    /// The addresses of the name have been asked for once more.
    pub renewed: bool,
    /// While it is under way; given back before the consumer learns of the end.
    pub permit: Option<OriginPermit>,
    /// What content goes through whose client is fast, from this socket to the client's.
    pub pipe: Option<Arc<BodyPipe>>,
    /// Takes a copy of the content for others.
    pub limit_copy: Option<LimitCopy>,
    /// When the connection must stand; set when the request is admitted.
    pub connect_by: Instant,
    /// When the exchange is given a turn although nothing has come; `None` for never.
    pub deadline: Option<Instant>,
    /// The request cannot be sent any further; an answer may have come all the same.
    pub broken: Option<io::Error>,
    /// The head of the final response has come.
    pub is_answered: bool,
    /// Both sides speak another protocol.
    pub is_tunnel: bool,
    /// It is listed for one more turn.
    pub is_unfinished: bool,
    /// Content was not read the last time, because there was no space for it.
    pub is_blocked: bool,
}

/// How far an exchange has come.
pub enum ExchangeStage {
    /// The gate has answered, or is waited for; `None` only within a turn.
    Admitting(Option<Admission>),
    /// It needs a connection, or the addresses of its server.
    Naming,
    /// The addresses are looked up.
    Asking(AskedName),
    /// None of them connects: they are looked up once more. If the server has no others, this is the error.
    Renewing(RenewedName, OriginError),
    /// Connections to these addresses are being made.
    Racing(Race, Vec<Racer>),
    /// An egress proxy is asked to connect; what it has answered so far.
    Greeting(Vec<u8>),
    /// TLS shakes hands.
    Securing,
    /// The request goes out, and the response comes in.
    Talking,
}

/// A connection that is being made.
pub struct Racer {
    /// By which readiness is reported.
    pub token: usize,
    pub socket: TcpStream,
    /// What has been reported: bytes may come together with the connection, and are not reported once more.
    pub readiness: OriginReadiness,
}

/// How far the content of the request has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentState {
    /// It is sent, or there is none.
    Sent,
    /// It waits for a 100, until this moment at most.
    Awaits100(Instant),
    /// It is sent as it comes.
    Going,
    /// The client has to send more first.
    Starved,
    /// It will not be sent to its end.
    Dropped,
}

impl<C: Consumer> Exchange<C> {
    /// An exchange that has not begun.
    pub fn new(
        (number, client): (u64, Option<u64>),
        consumer: C,
        request: WireRequest,
        now: Instant,
    ) -> Self {
        let content = content_of(&request, now);
        Self {
            number,
            client,
            consumer,
            request,
            stage: ExchangeStage::Admitting(None),
            connection: None,
            head_sent: 0,
            output: Vec::new(),
            output_sent: 0,
            content,
            needs_fresh: false,
            renewed: false,
            permit: None,
            pipe: None,
            limit_copy: None,
            connect_by: now,
            deadline: None,
            broken: None,
            is_answered: false,
            is_tunnel: false,
            is_unfinished: false,
            is_blocked: false,
        }
    }

    /// Has all of the request gone out?
    pub fn is_sent(&self) -> bool {
        self.content == ContentState::Sent && !self.has_output()
    }

    /// Is something to be sent that the connection has not taken?
    pub fn has_output(&self) -> bool {
        self.head_sent < self.request.head.len() || self.output_sent < self.output.len()
    }

    /// A 100 has come.
    pub fn permit_content(&mut self) {
        if let ContentState::Awaits100(_) = self.content {
            self.content = ContentState::Going;
        }
    }

    /// Both sides speak another protocol from now on: what the client sends is passed on as it is.
    pub fn become_tunnel(&mut self) {
        (self.is_answered, self.is_tunnel) = (true, true);
        self.content = ContentState::Going;
    }

    /// The content is not sent any further.
    pub fn drop_content(&mut self) {
        if self.content != ContentState::Sent {
            self.content = ContentState::Dropped;
            (self.output, self.output_sent) = (Vec::new(), 0);
            self.consumer.drop_content();
        }
    }

    /// The answer has come, and the content is not sent to its end. A server that is to close the connection is told
    /// that no more comes (RFC 9112 §9.5): it may read until then, and its response ends when it closes.
    pub fn cut_content(&mut self) {
        self.drop_content();
        let is_cut = self.content == ContentState::Dropped && !self.has_output();
        if let Some(connection) = &mut self.connection
            && is_cut
            && !connection.reader.stays_open()
        {
            connection.stream.end();
        }
    }

    /// Begins to send on a connection.
    pub fn begin_sending(&mut self, now: Instant, continue_max: Duration) {
        self.stage = ExchangeStage::Talking;
        (self.head_sent, self.deadline) = (0, None);
        if let ContentState::Awaits100(until) = &mut self.content {
            *until = now + continue_max;
        }
        let connection = self.connection.as_mut().expect("a connection stands");
        connection.requests += 1;
        connection.reader.ask(self.request.asked);
    }

    /// Sends what there is and what the system takes; how many bytes these were. An error of the outer kind is the
    /// connection's, of the inner the client's.
    pub fn send(&mut self, scratch: &mut Vec<u8>) -> io::Result<Result<usize, io::Error>> {
        let mut sent = 0;
        loop {
            // Content that is there goes out together with the head.
            if self.output_sent == self.output.len()
                && let Err(error) = self.refill(scratch)
            {
                return Ok(Err(error));
            }
            let Some(connection) = &mut self.connection else { return Ok(Ok(sent)) };
            if !connection.writable {
                return Ok(Ok(sent));
            }
            let head = &self.request.head[self.head_sent..];
            let output = &self.output[self.output_sent..];
            if head.is_empty() && output.is_empty() {
                connection.writable = connection.stream.flush()?;
                return Ok(Ok(sent));
            }
            match connection.stream.write(&[IoSlice::new(head), IoSlice::new(output)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    sent += count;
                    let of_head = count.min(head.len());
                    self.head_sent += of_head;
                    self.output_sent += count - of_head;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.writable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes more of the content, in its framing. An error is the client's.
    fn refill(&mut self, scratch: &mut Vec<u8>) -> io::Result<()> {
        self.output.clear();
        self.output_sent = 0;
        if !matches!(self.content, ContentState::Going | ContentState::Starved) {
            // What was needed for the content is given back: the response may take long.
            self.output = Vec::new();
            return Ok(());
        }
        scratch.clear();
        let framing = self.request.framing;
        self.content = match self.consumer.take_content(scratch, PIECE_BYTES)? {
            ContentTaken::Bytes => {
                frame(framing, scratch, &mut self.output);
                ContentState::Going
            }
            ContentTaken::NotYet => ContentState::Starved,
            ContentTaken::End => {
                frame_end(framing, &mut self.output);
                ContentState::Sent
            }
        };
        Ok(())
    }

    /// All content has come, of which this is the rest. The connection is free or gone, and with it the permit:
    /// who learns of the end may ask again at once.
    pub fn pass_last(&mut self, piece: &[u8]) -> Wish {
        if let Some(mut copy) = self.limit_copy.take() {
            copy.push(piece);
            copy.finish();
        }
        self.permit = None;
        self.consumer.last(piece)
    }

    /// The connection has ended before the head of a response: may the request go out once more, on a fresh one?
    pub fn may_repeat(&self, error: &io::Error) -> bool {
        let Some(connection) = &self.connection else { return false };
        let repeats = self.request.repeats.survives(error.kind());
        // The end of a connection that was used before was on its way when the request went out.
        repeats && connection.requests > 1 && !connection.reader.has_begun()
    }

    /// What an error of the connection means to a client.
    pub fn explain(&self, error: &io::Error) -> OriginError {
        let origin = self.request.to.shown.clone();
        let what = error.to_string();
        match error.kind() {
            io::ErrorKind::InvalidData => OriginError::Tls { origin, what },
            _ if self.is_answered => OriginError::Cut { origin, what },
            _ => OriginError::Closed { origin, what },
        }
    }
}

/// How the content of this request begins.
fn content_of(request: &WireRequest, now: Instant) -> ContentState {
    match request.framing {
        Framing::None | Framing::Length(0) => ContentState::Sent,
        // The moment is set when the head goes out.
        _ if request.expects_continue => ContentState::Awaits100(now),
        _ => ContentState::Going,
    }
}
