//! One client's connection: bytes in, bytes out, and no socket. RFC 9112 §9.
//!
//! Requests are read one at a time. While one is being answered nothing else of the connection is read,
//! so a client that pipelines gets its answers in order and a client that does not read waits for
//! itself. An idle connection holds no buffers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{StatusCode, Version};

use crate::front::event::exchange::{EventExchange, LoopMessage, Presence};
use crate::front::event::inbox::{AgreedUpgrade, ExchangeId};
use crate::front::event::intake::Intake;
use crate::front::event::loop_state::LoopState;
use crate::front::event::output::Output;
use crate::front::event::parse::Head;
use crate::front::event::plain::{self, PlainHead};
use crate::front::event::timeouts::{Awaited, Moment};
use crate::front::event::upload::Upload;
use crate::front::outgoing::Outgoing;
use crate::front::served::{Arrival, LogRecord};
use crate::front::wire::{WireClient, interim_head};
use crate::front::workers::Role;
use crate::message::body::Body;
use crate::message::request::{Framing, Request, RequestError};
use crate::policy::bound::binds_connection;
use crate::policy::response::Response;
use crate::proxy::{Attempt, FastHit};
use crate::stats::AnsweredRequest;

/// Content of a hit up to this is sent from one buffer, with its head and with other responses.
const COPIED_MAX: usize = 8 * 1024;
/// Interim responses that a client has not taken yet; further ones are left out.
const UNSENT_MAX: usize = 16 * 1024;
/// At most this much of what a client sends after the last response is read and thrown away.
pub(super) const LINGERED_MAX: usize = 4 * 1024 * 1024;

/// Asks a client that waits for this to send its content (RFC 9110 §15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The answer of a worker that could not give one (RFC 9110 §15.6.1).
const PANICKED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\
    X-Cache: MISS\r\nCache-Status: proxy\r\nContent-Length: 28\r\nConnection: close\r\n\r\n\
    proxy: a bug; see the log.\r\n";

/// A connection.
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that has happened to it")]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) slot: usize,
    /// No other connection of the loop has the same.
    number: u64,
    /// The origin server may have authenticated it as a whole (`policy/bound.rs`).
    is_bound: bool,
    pub(super) phase: Phase,
    /// Bytes that have come and cannot be used yet.
    pub(super) input: Vec<u8>,
    /// How many bytes of `input` have been searched for the end of a head.
    pub(super) searched: usize,
    /// Some bytes of `input` can be used as soon as the present response is sent.
    pub(super) has_more: bool,
    /// The client has closed its side.
    pub(super) half_closed: bool,
    /// Content that has not come to its end.
    pub(super) intake: Option<Box<Intake>>,
    /// The exchange under way, unless it was answered on the fast path.
    pub(super) current: Option<Box<CurrentExchange>>,
    /// What is to be sent, and the client has not taken yet.
    pub(super) output: Output,
    /// The connection ends with what is being sent.
    pub(super) closes: bool,
    /// What the client sends is ignored: where its next request would begin is not known any more.
    pub(super) ignores_input: bool,
    /// No request has come yet.
    pub(super) first: bool,
    /// When bytes moved last, in either direction; of a head, its first byte.
    pub(super) since: Moment,
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Phase {
    Open,
    /// The last response is sent. What the client still sends is read and thrown away until it closes, this
    /// many bytes at most: unread bytes make the kernel send RST, and the client could lose the response
    /// to it (§9.6).
    Lingering(usize),
    Over,
}

/// An exchange that was not answered on the fast path.
pub(super) struct CurrentExchange {
    pub(super) id: ExchangeId,
    pub(super) request: Arc<Request>,
    presence: Arc<Presence>,
    pub(super) client: WireClient,
    pub(super) arrival: Arrival,
    pub(super) outgoing: Option<Outgoing>,
    pub(super) record: Option<LogRecord>,
    /// Its body has grown since it was found to have no more; `None` until the body is listened to.
    /// Whoever sets it sends a message, so there is only one each time that more is waited for.
    pub(super) grown: Option<Arc<AtomicBool>>,
    /// There is no more of the body at the moment.
    pub(super) starved: bool,
    /// The client has been sent a 100, or has sent content without one, or has been asked whether it is there.
    pub(super) continued: bool,
    /// Both sides speak another protocol.
    pub(super) is_tunnel: bool,
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, slot: usize, number: u64, moment: Moment) -> Self {
        Self {
            peer,
            slot,
            number,
            is_bound: false,
            phase: Phase::Open,
            input: Vec::new(),
            searched: 0,
            has_more: false,
            half_closed: false,
            intake: None,
            current: None,
            output: Output::default(),
            closes: false,
            ignores_input: false,
            first: true,
            since: moment,
        }
    }

    /// Can the connection use more bytes from the client? If not, they stay in the kernel's buffer, and the
    /// client waits.
    pub(super) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Lingering(_) => !self.half_closed,
            Phase::Over => false,
            Phase::Open if self.half_closed || self.ignores_input => false,
            Phase::Open => match &self.intake {
                // Kept bytes come before new ones, and a worker that reads slowly holds up its client alone.
                Some(intake) => self.input.is_empty() && intake.has_space(),
                // The next request is not read before this one is answered: a client that pipelines
                // cannot make the proxy keep more for it than one read.
                None => !self.is_busy(),
            },
        }
    }

    /// How many bytes it can use at most, where it wants input.
    pub(super) fn input_bytes_max(&self) -> usize {
        match &self.intake {
            Some(intake) if self.phase == Phase::Open => intake.input_bytes_max(),
            _ => usize::MAX,
        }
    }

    /// Its number, if the origin server may have authenticated it.
    pub(super) fn bound(&self) -> Option<u64> {
        self.is_bound.then_some(self.number)
    }

    /// The origin server asks for authentication of the connection.
    pub(super) fn bind(&mut self) {
        self.is_bound = true;
    }

    /// Can bytes that have come already be used now?
    pub(super) fn has_more(&self) -> bool {
        self.has_more && !self.is_busy()
    }

    /// Is an exchange under way, or something that the client must take first?
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some() || self.output.is_closed() || self.closes
    }

    /// Is a request being answered?
    pub(super) fn is_answering(&self) -> bool {
        self.current.is_some()
    }

    /// Is there nothing more to read and nothing more to send?
    pub(super) fn is_over(&self) -> bool {
        match self.phase {
            Phase::Over => true,
            Phase::Lingering(_) => self.half_closed,
            Phase::Open => self.half_closed && !self.is_busy() && !self.has_more,
        }
    }

    /// A head has come.
    pub(super) fn begin(&mut self, head: &Head<'_, '_>, state: &mut LoopState) {
        self.first = false;
        self.since = state.moment;
        // The fast path writes no log line, and knows of no handler. All other reasons to leave it are in
        // `plain::read` and in `answer_fast`; the long way comes to the same answer.
        if state.log.is_none()
            && let Some(plain) = plain::read(head)
            && !state.dispatch.has_handler()
            && let Some(hit) =
                state.dispatch.proxy.answer_fast(plain.plain, state.now, &mut state.key)
        {
            return self.answer_fast(&hit, &plain, head.version, state);
        }
        match head.to_request(Some(self.peer), state.limits) {
            Ok(request) => self.begin_exchange(request, state),
            Err(error) => self.refuse_head(&error, state),
        }
    }

    /// Answers with a fresh response from memory, in the output: no exchange begins.
    fn answer_fast(
        &mut self,
        hit: &FastHit,
        plain: &PlainHead<'_>,
        version: Version,
        state: &mut LoopState,
    ) {
        debug_assert!(self.current.is_none() && !self.closes, "one response at a time");
        let out = self.output.bytes_mut();
        hit.write_head(out);
        self.closes = !plain.keeps_alive || state.draining;
        if self.closes {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if version == Version::HTTP_10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let content = hit.content();
        state.fast_hits.count += 1;
        let sent = if plain.head { 0 } else { content.len() as u64 };
        let now = state.now;
        state.dispatch.proxy.stats().recent().note(|| AnsweredRequest {
            at: now,
            method: if plain.head { "HEAD" } else { "GET" },
            target: plain.plain.target,
            status: hit.status().as_u16(),
            bytes: sent,
            outcome: "hit",
            taken: None,
        });
        if plain.head {
            return;
        }
        state.fast_hits.content_bytes += content.len() as u64;
        // A short copy costs less than a second slice, and lets the next response follow in the same
        // buffer. Large content is sent from the store's own memory.
        if content.len() <= COPIED_MAX {
            out.extend_from_slice(content);
        } else {
            self.output.follow_with(content.clone());
        }
    }

    /// Begins the exchange of a request that is not answered on the fast path.
    fn begin_exchange(&mut self, mut request: Request, state: &mut LoopState) {
        assert!(self.current.is_none(), "a connection has one exchange at a time");
        assert!(self.intake.is_none(), "the content of the request before has come to its end");
        self.is_bound |= binds_connection(&request.fields);
        request.is_bound = self.is_bound;
        let request = Arc::new(request);
        let id = state.next_id(self.slot);
        let arrival = Arrival { at: state.now, since: state.woke };
        let client = WireClient {
            version: request.version,
            keeps_alive: keeps_alive(&request),
            takes_trailers: request.takes_trailers(),
        };
        // Content of no bytes has no end to wait for: an intake for it would never be asked for any.
        let upload = if matches!(request.framing, Framing::None | Framing::Length(0)) {
            None
        } else {
            let inbox = Arc::clone(&state.inbox);
            let ask_loop = move || inbox.send(LoopMessage::ContentWanted(id));
            let upload = Upload::new(Box::new(ask_loop));
            self.intake = Some(Box::new(Intake::new(request.framing, &upload, state.limits)));
            Some(upload)
        };
        let presence = Arc::<Presence>::default();
        let exchange = EventExchange::new(
            (Arc::clone(&state.inbox), Arc::clone(&state.dispatch)),
            (id, self.number),
            Arc::clone(&request),
            upload,
            Arc::clone(&presence),
        );
        // Before the lookup: the exchange's first message may come while that is still going on.
        self.current = Some(Box::new(CurrentExchange {
            id,
            request,
            presence,
            client,
            arrival,
            outgoing: None,
            record: None,
            grown: None,
            starved: false,
            continued: false,
            is_tunnel: false,
        }));
        self.look_up(exchange, Attempt::default(), state);
    }

    /// Looks the request up, as far as that needs no waiting; a response is sent at once.
    fn look_up(&mut self, exchange: EventExchange, attempt: Attempt, state: &mut LoopState) {
        // `Reserved`: on this thread nothing may wait. What has to wait goes to the pool, and its response
        // comes back as a message.
        if let Some((exchange, response)) =
            state.dispatch.look_up(exchange, attempt, Role::Reserved)
        {
            exchange.into_answered();
            self.respond(response, state);
        }
    }

    /// Handles a message about the exchange under way; `false` if there is nothing to do about it.
    pub(super) fn deliver(&mut self, message: LoopMessage, state: &mut LoopState) -> bool {
        let Some(current) = &mut self.current else { return false };
        match message {
            // A client that has not taken what there was need not be asked again.
            LoopMessage::Grown(_) => return current.starved,
            // Content may be sent on while the response comes.
            LoopMessage::ContentWanted(_) => self.ask_for_content(state),
            // All others come before the response; what is late has no use any more.
            _ if current.outgoing.is_some() => {}
            LoopMessage::Response(_, response) => self.respond(response, state),
            LoopMessage::Resume(_, exchange, attempt) => self.look_up(*exchange, attempt, state),
            LoopMessage::Interim(_, bytes) => {
                // Deviation from RFC 9110 §15.2: further ones are left out, because an origin server could
                // fill memory with them while the client takes nothing.
                if self.output.len() < UNSENT_MAX {
                    self.output.extend(&bytes);
                }
            }
            LoopMessage::Switched(_, upgrade) => self.become_tunnel(*upgrade),
            LoopMessage::Lost(_) => {
                // Nothing of a response has been sent, so the client can be given a whole one.
                self.current = None;
                self.output.extend(PANICKED);
                self.ignore_input();
            }
            LoopMessage::Client(..)
            | LoopMessage::Accept(_)
            | LoopMessage::Drain(_)
            | LoopMessage::Fetch(..)
            | LoopMessage::AskToUpgrade(..)
            | LoopMessage::WakeOrigin(_)
            | LoopMessage::Retire => unreachable!("the loop handles what is about no exchange"),
        }
        true
    }

    /// Both sides speak another protocol from now on (RFC 9110 §7.8). What the client has sent already is for the
    /// tunnel: it need not wait for the 101.
    fn become_tunnel(&mut self, upgrade: AgreedUpgrade) {
        let Some(current) = &mut self.current else { return };
        assert!(self.intake.is_none(), "a request to go over to another protocol has no content");
        let AgreedUpgrade { fields, content, upload } = upgrade;
        let head = interim_head(StatusCode::SWITCHING_PROTOCOLS, &fields);
        current.outgoing = Some(Outgoing::of_tunnel(head, content));
        current.record = Some(LogRecord::of_tunnel());
        current.client.keeps_alive = false;
        (current.is_tunnel, current.continued) = (true, true);
        self.intake = Some(Box::new(Intake::of_tunnel(&upload)));
    }

    /// A worker waits for content: asks the client for it, and passes on what has come already.
    fn ask_for_content(&mut self, state: &mut LoopState) {
        let Some(current) = &mut self.current else { return };
        // The client's time to send content begins now; until now the proxy did not read it.
        self.since = state.moment;
        if current.request.expects_continue() && !current.continued {
            current.continued = true;
            // RFC 9110 §10.1.1: it may be left out if content has come already.
            if self.input.is_empty() {
                self.output.extend(CONTINUE);
            }
        }
        self.go_on(state);
    }

    /// Is this the exchange under way? Messages about an earlier one may still come.
    pub(super) fn is_current(&self, id: ExchangeId) -> bool {
        self.current.as_ref().is_some_and(|current| current.id == id)
    }

    /// Refuses what is not an acceptable request.
    pub(super) fn refuse_head(&mut self, error: &RequestError, state: &mut LoopState) {
        log::info!("{}: {error}", self.peer);
        let response = state.dispatch.proxy.refuse_unread(error, false);
        self.refuse(&response);
    }

    /// Sends a short response, and ignores what the client sends from then on.
    pub(super) fn refuse(&mut self, response: &Response) {
        let client =
            WireClient { version: Version::HTTP_11, keeps_alive: false, takes_trailers: false };
        if let Body::Whole(content) = &response.body {
            let delimiting = client.delimiting(Some(content.len() as u64));
            self.output.extend(&client.head(response, delimiting));
            self.output.extend(content);
        }
        self.ignore_input();
    }

    /// The proxy is about to end: an idle connection is closed now, another one after its response.
    pub(super) fn drain(&mut self) {
        if self.current.is_none() && self.intake.is_none() && self.output.is_empty() {
            self.phase = Phase::Over;
        }
    }

    /// The connection is gone: the worker that reads its content sees an error, and what was sent of its
    /// response is recorded.
    pub(super) fn abandon(&mut self, state: &mut LoopState) {
        state.release(self.input.len());
        self.input = Vec::new();
        if let Some(current) = &self.current {
            current.presence.leave();
        }
        // A worker may be waiting for more of it, and has no timeout of its own.
        if let Some(intake) = &self.intake {
            intake.end(Err(io::ErrorKind::UnexpectedEof));
        }
        self.end_exchange(state);
    }

    /// What the connection waits for the client to do. The order counts: what is to be taken comes before
    /// what is to be sent, because a client that takes nothing is not asked for anything either.
    fn awaited(&self) -> Awaited {
        if let Phase::Lingering(_) = self.phase {
            return Awaited::Closing;
        }
        if !self.output.is_empty() {
            return Awaited::Taking;
        }
        let sending = self.current.as_ref().filter(|current| current.outgoing.is_some());
        if sending.is_some_and(|current| !current.starved) {
            return Awaited::Taking;
        }
        if self.current.as_ref().is_some_and(|current| current.is_tunnel) {
            // A chat may be silent for hours.
            return Awaited::Nothing;
        }
        if let Some(intake) = self.intake.as_ref().filter(|intake| intake.has_space()) {
            return Awaited::Content { received: intake.received, waited: intake.waited };
        }
        if self.current.is_some() {
            return Awaited::Nothing;
        }
        if self.input.is_empty() { Awaited::Request { first: self.first } } else { Awaited::Head }
    }

    /// A client that has closed its side may wait for its answer, or be gone: both look alike until it is sent
    /// something. A 100 means nothing to the one, and the system of the other refuses it. `true` if one is to be sent.
    pub(super) fn ask_whether_client_is_there(&mut self) -> bool {
        let Some(current) = &mut self.current else { return false };
        // RFC 9110 §15.2: an HTTP/1.0 client would take it for the response.
        let is_asked = current.outgoing.is_none()
            && !current.continued
            && current.request.version == Version::HTTP_11;
        if is_asked {
            current.continued = true;
            self.output.extend(CONTINUE);
        }
        is_asked
    }

    /// Ends what has taken too long; `interval` has passed since the last check. `true` if there is something
    /// to send or to close.
    pub(super) fn check_timeouts(&mut self, interval: Duration, state: &mut LoopState) -> bool {
        let awaited = self.awaited();
        if let (Awaited::Content { .. }, Some(intake)) = (awaited, &mut self.intake) {
            // Counted by the checks: a client that sends a byte now and then still has to come to its end.
            intake.waited += interval;
        }
        if !state.timeouts.is_over(awaited, state.moment.since(self.since)) {
            return false;
        }
        match awaited {
            Awaited::Head => self.refuse_head(&RequestError::Late("head"), state),
            // The worker answers: it sees the error when it reads on, and knows what has been sent already.
            Awaited::Content { .. } if self.current.is_some() => {
                if let Some(intake) = self.intake.take() {
                    intake.end(Err(io::ErrorKind::TimedOut));
                }
                self.ignore_input();
            }
            _ => self.phase = Phase::Over,
        }
        true
    }
}

/// RFC 9112 §9.3.
fn keeps_alive(request: &Request) -> bool {
    let fields = &request.fields;
    !fields.has_member("connection", "close")
        && (request.version != Version::HTTP_10 || fields.has_member("connection", "keep-alive"))
}
