//! One event loop: what it waits for, and in which order it does what there is to do.
//!
//! A round of the loop: wait for readiness, read the clock, give turns to the clients whose sockets are
//! ready and to those with more to do, handle messages, accept, check timeouts. Nothing in a round waits
//! for anything but `poll`.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
#[cfg(target_os = "linux")]
use rustix::pipe::{SpliceFlags, splice};

use crate::front::event::accept::{Accepted, Acceptor, PAUSE};
use crate::front::event::clients::{ClientOutcome, Clients, Readiness, Socket};
use crate::front::event::exchange::{EventExchange, FetchingClient, LoopInbox, LoopMessage};
use crate::front::event::inbox::Endless;
use crate::front::event::loop_state::LoopState;
use crate::front::event::timeouts::CheckTimer;
use crate::message::pipe::BodyPipe;
use crate::message::request::Framing;
use crate::origin::evented::{self, EventedSettings, Exchanges, NewExchange, WakeExchange};
use crate::proxy::{EventedFetch, Fetch, RunElsewhere, UpgradeRequest};
use crate::stats::{Counter, Stats};

/// The waker's token, among the clients' slots.
pub(super) const WAKER: Token = Token(usize::MAX);
/// The token of the listeners.
pub(super) const LISTENER: Token = Token(usize::MAX - 1);
/// The tokens of connections to the origin server begin here; those below are the clients' slots.
const ORIGIN_FIRST: usize = usize::MAX / 2;
/// How many sockets' readiness one `poll` reports, at most.
const EVENTS: usize = 1024;
/// How many clients are accepted before connected ones have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// What all loops of a front share.
pub(super) struct EventShared {
    pub inboxes: Vec<Arc<LoopInbox>>,
    /// How many clients are connected, tunnels among them.
    pub open: Arc<AtomicUsize>,
    pub connections_max: usize,
    pub wait_max: Duration,
    pub stats: Arc<Stats>,
    /// New clients are still accepted, so other loops may be sent some.
    pub is_accepting: AtomicBool,
}

/// One loop.
pub(super) struct EventLoop {
    poll: Poll,
    clients: Clients<TcpStream>,
    shared: Arc<EventShared>,
    /// One loop accepts for all, as soon as the listeners are open.
    acceptor: Option<Acceptor>,
    /// Clients may be waiting to be accepted.
    may_accept: bool,
    /// No client can be accepted at the moment; accepting is tried again after a pause.
    accept_paused: bool,
    /// A client that another loop has accepted is served; once the proxy ends, it is closed.
    serves_new: bool,
    /// The loop that the last client was given to.
    next: usize,
    check_timer: CheckTimer,
    /// Empty between rounds; kept for its memory, which goes back and forth with the inbox.
    messages: Vec<LoopMessage>,
    /// The exchanges with the origin server; `None` where workers ask it.
    exchanges: Option<Exchanges<EventedFetch<FetchingClient>>>,
    /// Runs what has to wait.
    run_elsewhere: RunElsewhere,
}

impl EventLoop {
    pub(super) fn new(
        poll: Poll,
        mut state: LoopState,
        shared: Arc<EventShared>,
        origin: Option<Arc<EventedSettings>>,
    ) -> io::Result<Self> {
        state.takes_pipes = cfg!(target_os = "linux");
        let dispatch = Arc::clone(&state.dispatch);
        let run_elsewhere: RunElsewhere = Arc::new(move |work| dispatch.run_elsewhere(work));
        let inbox = Arc::clone(&state.inbox);
        let wake: WakeExchange = Arc::new(move |key| inbox.send(LoopMessage::WakeOrigin(key)));
        let exchanges = match origin {
            Some(origin) => {
                let registry = poll.registry().try_clone()?;
                Some(Exchanges::new(origin, registry, ORIGIN_FIRST, wake))
            }
            None => None,
        };
        let check_timer = CheckTimer::new(state.timeouts.check_interval(), state.now);
        Ok(Self {
            poll,
            clients: Clients::new(state),
            shared,
            acceptor: None,
            may_accept: false,
            accept_paused: false,
            serves_new: true,
            next: 0,
            check_timer,
            messages: Vec::new(),
            exchanges,
            run_elsewhere,
        })
    }

    /// Runs until the proxy ends; the error is that it cannot wait for clients any more.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.clients.state.inbox.set_owner();
        let mut events = Events::with_capacity(EVENTS);
        while !self.clients.state.draining || self.shared.open.load(Ordering::Acquire) > 0 {
            if let Err(error) = self.poll.poll(&mut events, self.poll_timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(format!("waiting for clients: {error}"));
            }
            let checks_timeouts = self.read_clocks();
            self.give_turns(&events);
            if self.may_accept {
                self.accept();
            }
            if checks_timeouts {
                self.check_timeouts();
            }
            // After all turns, which may send messages to this very loop: nothing wakes it for them.
            self.handle_messages();
            self.go_on_with_exchanges();
            self.clients.state.count();
        }
        Ok(())
    }

    /// Gives a turn to each exchange that had more to do.
    fn go_on_with_exchanges(&mut self) {
        let unfinished = self.exchanges.as_mut().map(Exchanges::take_unfinished);
        for slot in unfinished.unwrap_or_default() {
            if let Some(exchanges) = &mut self.exchanges {
                exchanges.go_on_with(slot);
            }
            self.handle_messages();
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.end_round();
            self.handle_messages();
        }
    }

    /// Reads the clocks, once for all that happens in this round; `true` if timeouts are to be checked.
    fn read_clocks(&mut self) -> bool {
        let state = &mut self.clients.state;
        (state.now, state.woke) = (state.dispatch.proxy.now(), Instant::now());
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.woke(state.woke);
        }
        // Before any turn: the loop may have slept for hours, and a request whose first byte has come
        // now has all of its timeout left.
        let due = self.check_timer.due(state.now);
        state.moment = due.unwrap_or(state.moment);
        due.is_some()
    }

    /// Gives a turn to each client whose socket is ready, then to each that had more to do.
    fn give_turns(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                // It has ended the wait, which is all that it is for; messages are read anyway.
                WAKER => {}
                LISTENER => self.may_accept = true,
                Token(token) if token >= ORIGIN_FIRST => {}
                Token(slot) => {
                    let outcome = self.clients.handle_readiness(slot, readiness(event));
                    self.apply(outcome);
                }
            }
        }
        // After the clients': a message may give a slot to another client, whose readiness what is reported here is not.
        for event in events {
            let Token(token) = event.token();
            if let Some(exchanges) = &mut self.exchanges
                && (ORIGIN_FIRST..LISTENER.0).contains(&token)
            {
                exchanges.handle_readiness(token, origin_readiness(event));
                // What it has brought is sent on before another one brings more: it is still in the processor's cache.
                self.handle_messages();
            }
        }
        // Taken as a whole first: a client that is still not done is listed again, for the next round.
        for slot in self.clients.take_unfinished() {
            let outcome = self.clients.go_on(slot);
            self.apply(outcome);
        }
    }

    /// Does what a client's turn leaves to be done.
    fn apply(&mut self, outcome: ClientOutcome) {
        match outcome {
            ClientOutcome::Stays => {}
            ClientOutcome::Gone(bound) => {
                if let (Some(client), Some(exchanges)) = (bound, &mut self.exchanges) {
                    exchanges.forget_client(client);
                }
                self.shared.note_closed();
            }
        }
    }

    /// How long to wait for readiness; `None` without a bound.
    fn poll_timeout(&self) -> Option<Duration> {
        let of_exchanges = self.exchanges.as_ref().and_then(|exchanges| {
            if exchanges.has_unfinished() {
                return Some(Duration::ZERO);
            }
            Some(exchanges.deadline()?.saturating_duration_since(Instant::now()))
        });
        match (self.timeout_of_clients(), of_exchanges) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The same, as far as clients are concerned.
    fn timeout_of_clients(&self) -> Option<Duration> {
        // Work that is left over must not wait; sockets are asked all the same, so that all have turns.
        if self.clients.has_unfinished() || self.may_accept && !self.accept_paused {
            return Some(Duration::ZERO);
        }
        if self.accept_paused {
            return Some(PAUSE);
        }
        // The first loop expires parked requests, which may be another loop's clients'. A loop that drains
        // has to learn when the last tunnel has ended: no message says so.
        let is_needed = if self.is_first() || self.clients.state.draining {
            self.shared.open.load(Ordering::Relaxed) > 0
        } else {
            !self.clients.is_empty()
        };
        // Without clients nothing can be overdue: an idle proxy does not wake up.
        is_needed.then(|| self.check_timer.interval())
    }

    /// Handles all messages, those among them that come meanwhile.
    fn handle_messages(&mut self) {
        loop {
            // A message's handling may send another one to this very loop, without a wake-up: the inbox is
            // read until it is empty.
            let mut messages = std::mem::take(&mut self.messages);
            self.clients.state.inbox.take(&mut messages);
            if messages.is_empty() {
                self.messages = messages;
                return;
            }
            for message in messages.drain(..) {
                self.handle(message);
            }
            self.messages = messages;
        }
    }

    fn handle(&mut self, message: LoopMessage) {
        match message {
            LoopMessage::Client(stream, peer) => self.add_client(TcpStream::from_std(stream), peer),
            LoopMessage::Drain(endless) => self.drain(endless),
            LoopMessage::Fetch(fetch, exchange) => self.fetch(fetch, exchange),
            LoopMessage::AskToUpgrade(asked, exchange) => self.ask_to_upgrade(asked, exchange),
            LoopMessage::WakeOrigin(key) => {
                if let Some(exchanges) = &mut self.exchanges {
                    exchanges.wake(key);
                }
            }
            LoopMessage::Retire => self.stop_accepting(),
            LoopMessage::Accept(acceptor) => {
                assert!(self.acceptor.is_none(), "a front begins to accept once");
                self.acceptor = Some(*acceptor);
                // The listeners are registered before this message is sent, and report each client once
                // (edge-triggered): one may have come in between.
                self.may_accept = true;
            }
            message => {
                let outcome = self.clients.deliver(message);
                self.apply(outcome);
            }
        }
    }

    /// Begins to ask the origin server.
    fn fetch(&mut self, fetch: Box<Fetch>, exchange: Option<Box<EventExchange>>) {
        let dispatch = &self.clients.state.dispatch;
        let exchanges = self.exchanges.as_mut().expect("a loop that fetches has exchanges");
        let number = exchange.as_ref().map(|exchange| exchange.client());
        let mut client = exchange.map(FetchingClient::new);
        let taken = client.as_mut().map(FetchingClient::take_upload);
        let (framing, upload) = taken.unwrap_or((Framing::None, None));
        let run_elsewhere = Arc::clone(&self.run_elsewhere);
        let (fetch, head) =
            EventedFetch::new(&dispatch.proxy, fetch, (client, upload), run_elsewhere);
        let new = NewExchange { head: &head, content: framing, upgrades: false, client: number };
        exchanges.begin(fetch, new);
    }

    /// Begins to ask the origin server to go over to another protocol.
    fn ask_to_upgrade(&mut self, asked: Box<UpgradeRequest>, exchange: Box<EventExchange>) {
        let dispatch = &self.clients.state.dispatch;
        let exchanges = self.exchanges.as_mut().expect("a loop that fetches has exchanges");
        let number = exchange.client();
        let client = FetchingClient::new(exchange);
        let run_elsewhere = Arc::clone(&self.run_elsewhere);
        let (fetch, head) = EventedFetch::upgrading(&dispatch.proxy, asked, client, run_elsewhere);
        let content = Framing::None;
        let new = NewExchange { head: &head, content, upgrades: true, client: Some(number) };
        exchanges.begin(fetch, new);
    }

    /// Accepts waiting clients, as many as there may be.
    fn accept(&mut self) {
        self.accept_paused = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(acceptor) = &mut self.acceptor else { return };
            // Only this loop adds to the number, so it cannot get past the bound between here and there.
            if self.shared.open.load(Ordering::Relaxed) >= self.shared.connections_max {
                // The next connection that is closed wakes this loop.
                self.accept_paused = true;
                return;
            }
            match acceptor.next() {
                Accepted::Client(stream, peer) => self.assign(stream, peer),
                Accepted::Nobody => {
                    self.may_accept = false;
                    return;
                }
                Accepted::Later => {
                    self.accept_paused = true;
                    return;
                }
            }
        }
    }

    /// Gives a new client to a loop, to each in its turn.
    fn assign(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Counted here, not by the client's loop: a draining front waits until the number is zero, and
        // a client on its way to its loop must not be missed.
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.shared.stats.gauge(Counter::Connections, 1);
        self.next = (self.next + 1) % self.shared.inboxes.len();
        let inbox = &self.shared.inboxes[self.next];
        if Arc::ptr_eq(inbox, &self.clients.state.inbox) {
            self.add_client(stream, peer);
        } else {
            inbox.send(LoopMessage::Client(stream.into(), peer));
        }
    }

    /// Adds a client, which has been counted already.
    fn add_client(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let slot = self.clients.free_slot();
        assert!(slot < ORIGIN_FIRST, "a slot's token is a client's alone");
        // Registered once for both: edge-triggered readiness costs no call of the system per turn.
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(slot), interest) {
            log::warn!("{peer}: {error}");
            self.clients.give_back(slot);
            return self.shared.note_closed();
        }
        self.clients.add(slot, stream, peer);
        // It may have sent its request before it was registered, so it has a turn now.
        let outcome =
            if self.serves_new { self.clients.give_turn(slot) } else { self.clients.close(slot) };
        self.apply(outcome);
    }

    /// The first loop expires parked requests, also when it does not accept any more.
    fn is_first(&self) -> bool {
        Arc::ptr_eq(&self.shared.inboxes[0], &self.clients.state.inbox)
    }

    /// Ends what has taken too long, on all connections.
    fn check_timeouts(&mut self) {
        if self.is_first() {
            self.clients.state.dispatch.proxy.expire_parked(self.shared.wait_max);
        }
        let interval = self.check_timer.interval();
        for slot in 0..self.clients.slots() {
            let outcome = self.clients.check_timeouts(slot, interval);
            self.apply(outcome);
        }
    }

    /// Accepts no more clients; each response is its connection's last from now on.
    fn stop_accepting(&mut self) {
        self.clients.state.draining = true;
        if let Some(mut acceptor) = self.acceptor.take() {
            for listener in acceptor.listeners() {
                let _ = self.poll.registry().deregister(listener);
            }
            // Closed before the store: whoever sees it knows that no client is given to a loop any more.
            drop(acceptor);
            self.shared.is_accepting.store(false, Ordering::Release);
        }
        self.may_accept = false;
        self.accept_paused = false;
    }

    /// The proxy is about to end: closes idle connections, and others after their response.
    fn drain(&mut self, endless: Endless) {
        self.stop_accepting();
        self.clients.state.endless = endless;
        self.serves_new = false;
        for slot in 0..self.clients.slots() {
            let outcome = self.clients.drain(slot);
            self.apply(outcome);
        }
    }
}

impl EventShared {
    /// Notes that a connection is closed: if clients had to wait for that, one of them is accepted.
    pub(super) fn note_closed(&self) {
        self.stats.gauge(Counter::Connections, -1);
        let open = self.open.fetch_sub(1, Ordering::AcqRel);
        assert!(open > 0, "a connection is closed once");
        // Below the bound the first loop does not wait for this: accepting was never paused.
        if open >= self.connections_max {
            self.inboxes[0].wake();
        }
    }
}

impl Socket for TcpStream {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    /// Sends all slices in one call of the system.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // A short hit is one slice: `write` need not copy a list of slices into the kernel first.
        let mut full = slices.iter().filter(|slice| !slice.is_empty());
        match (full.next(), full.next()) {
            (None, _) => Ok(0),
            (Some(only), None) => self.write(only),
            _ => write_together(self, slices),
        }
    }

    #[cfg(target_os = "linux")]
    fn send_piped(&mut self, pipe: &BodyPipe, most: usize) -> io::Result<usize> {
        Ok(splice(&pipe.read, None, self, None, most, SpliceFlags::NONBLOCK)?)
    }

    fn end(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn cut(&mut self) {
        // RFC 9112 §8: without a length, only an error tells the client that the body is cut. With no time
        // to linger the kernel sends RST instead of FIN.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

/// Sends slices of few bytes from one buffer: to copy them costs less than to hand over a list.
fn write_together(socket: &mut TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    const COPIED_BYTES: usize = 4096;
    let length: usize = slices.iter().map(|slice| slice.len()).sum();
    if length > COPIED_BYTES {
        return socket.write_vectored(slices);
    }
    thread_local! {
        static COPY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    COPY.with_borrow_mut(|copy| {
        assert!(copy.is_empty(), "another client's bytes are left in the copy");
        for slice in slices {
            copy.extend_from_slice(slice);
        }
        let written = socket.write(copy);
        copy.clear();
        written
    })
}

fn origin_readiness(event: &Event) -> evented::OriginReadiness {
    evented::OriginReadiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        ended: event.is_read_closed() || event.is_error(),
    }
}

fn readiness(event: &Event) -> Readiness {
    Readiness {
        readable: event.is_readable(),
        ended: event.is_read_closed(),
        // The peer takes nothing more. A client that has only closed its side still reads.
        broken: event.is_error() || event.is_write_closed(),
    }
}
