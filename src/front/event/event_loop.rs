//! One event loop: what it waits for, and in which order it does what there is to do.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::front::event::accept::{Accepted, Acceptor, PAUSE};
use crate::front::event::clients::{ClientOutcome, Clients, ConnectedClient, Readiness, Socket};
use crate::front::event::exchange::{LoopInbox, LoopMessage};
use crate::front::event::inbox::Endless;
use crate::front::event::loop_state::LoopState;
use crate::front::event::timeouts::CheckTimer;
use crate::front::event::tunnelling::{OpenTunnels, tunnel};
use crate::stats::{Counter, Stats};

/// The waker's token, among the clients' slots.
pub(super) const WAKER: Token = Token(usize::MAX);
/// The token of the listeners.
pub(super) const LISTENER: Token = Token(usize::MAX - 1);
/// How many sockets' news are heard at a time.
const EVENTS: usize = 1024;
/// How many clients are accepted before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// What all loops of a front share.
pub(super) struct EventShared {
    pub inboxes: Vec<Arc<LoopInbox>>,
    /// Clients that are connected.
    pub open: Arc<AtomicUsize>,
    pub connections_max: usize,
    pub wait_max: Duration,
    pub open_tunnels: Arc<OpenTunnels>,
    pub stats: Arc<Stats>,
    /// New clients are accepted.
    pub accepts: AtomicBool,
}

/// One loop.
pub(super) struct EventLoop {
    poll: Poll,
    clients: Clients<TcpStream>,
    shared: Arc<EventShared>,
    /// One loop accepts for all, as soon as the listeners are open.
    acceptor: Option<Acceptor>,
    /// Somebody may be waiting to be accepted.
    accepts: bool,
    /// Accepting has failed, and is tried again after a pause.
    accept_paused: bool,
    /// Who has been accepted is served.
    serves_new: bool,
    /// Which loop has the next client.
    next: usize,
    check_timer: CheckTimer,
    messages: Vec<LoopMessage>,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, state: LoopState, shared: Arc<EventShared>) -> Self {
        let check_timer = CheckTimer::new(state.timeouts.check_interval(), state.now);
        Self {
            poll,
            clients: Clients::new(state),
            shared,
            acceptor: None,
            accepts: false,
            accept_paused: false,
            serves_new: true,
            next: 0,
            check_timer,
            messages: Vec::new(),
        }
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
            let state = &mut self.clients.state;
            (state.now, state.woke) = (state.dispatch.proxy.now(), Instant::now());
            // The loop may have slept for long; who comes now begins now.
            let due = self.check_timer.due(state.now);
            state.moment = due.unwrap_or(state.moment);
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.accepts = true,
                    Token(slot) => {
                        let outcome = self.clients.handle_readiness(slot, readiness(event));
                        self.apply(outcome);
                    }
                }
            }
            for slot in self.clients.take_unfinished() {
                let outcome = self.clients.go_on(slot);
                self.apply(outcome);
            }
            self.read_messages();
            if self.accepts {
                self.accept();
            }
            if due.is_some() {
                self.check_timeouts();
            }
            self.clients.state.count();
        }
        Ok(())
    }

    /// Does what a client's turn leaves to be done.
    fn apply(&mut self, outcome: ClientOutcome<TcpStream>) {
        match outcome {
            ClientOutcome::Stays => {}
            ClientOutcome::Gone => self.shared.note_closed(),
            ClientOutcome::Upgraded(client) => self.begin_tunnel(*client),
        }
    }

    /// How long to sleep if nothing happens.
    fn poll_timeout(&self) -> Option<Duration> {
        if self.clients.has_unfinished() || self.accepts && !self.accept_paused {
            return Some(Duration::ZERO);
        }
        if self.accept_paused {
            return Some(PAUSE);
        }
        // Those who wait for others' answers may be another loop's clients.
        let anybody = if self.is_first() || self.clients.state.draining {
            self.shared.open.load(Ordering::Relaxed) > 0
        } else {
            !self.clients.is_empty()
        };
        anybody.then(|| self.check_timer.interval())
    }

    fn read_messages(&mut self) {
        loop {
            let mut messages = std::mem::take(&mut self.messages);
            self.clients.state.inbox.take(&mut messages);
            if messages.is_empty() {
                self.messages = messages;
                return;
            }
            for message in messages.drain(..) {
                self.read(message);
            }
            self.messages = messages;
        }
    }

    fn read(&mut self, message: LoopMessage) {
        match message {
            LoopMessage::Client(stream, peer) => self.add_client(TcpStream::from_std(stream), peer),
            LoopMessage::Drain(endless) => self.drain(endless),
            LoopMessage::Retire => self.stop_accepting(),
            LoopMessage::Accept(acceptor) => {
                self.acceptor = Some(*acceptor);
                // Somebody may have come before it was here.
                self.accepts = true;
            }
            message => {
                let outcome = self.clients.deliver(message);
                self.apply(outcome);
            }
        }
    }

    /// Accepts who waits, as many as there may be.
    fn accept(&mut self) {
        self.accept_paused = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(acceptor) = &mut self.acceptor else { return };
            if self.shared.open.load(Ordering::Relaxed) >= self.shared.connections_max {
                // The next connection that is closed wakes this loop.
                self.accept_paused = true;
                return;
            }
            match acceptor.next() {
                Accepted::Client(stream, peer) => {
                    self.shared.open.fetch_add(1, Ordering::AcqRel);
                    self.shared.stats.gauge(Counter::Connections, 1);
                    let loops = self.shared.inboxes.len();
                    self.next = (self.next + 1) % loops;
                    let inbox = &self.shared.inboxes[self.next];
                    if Arc::ptr_eq(inbox, &self.clients.state.inbox) {
                        self.add_client(stream, peer);
                    } else {
                        inbox.send(LoopMessage::Client(stream.into(), peer));
                    }
                }
                Accepted::Nobody => {
                    self.accepts = false;
                    return;
                }
                Accepted::Later => {
                    self.accept_paused = true;
                    return;
                }
            }
        }
    }

    /// Takes a client in.
    fn add_client(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let slot = self.clients.free_slot();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(slot), interest) {
            log::warn!("{peer}: {error}");
            self.clients.give_back(slot);
            return self.shared.note_closed();
        }
        self.clients.add(slot, stream, peer);
        let outcome =
            if self.serves_new { self.clients.give_turn(slot) } else { self.clients.close(slot) };
        self.apply(outcome);
    }

    /// Hands a connection over to a tunnel.
    fn begin_tunnel(&mut self, client: ConnectedClient<TcpStream>) {
        let ConnectedClient { mut socket, mut connection, .. } = client;
        let _ = self.poll.registry().deregister(&mut socket);
        let Some((upgrade, request, arrival, early)) = connection.take_upgrade() else {
            return self.shared.note_closed();
        };
        let state = &mut self.clients.state;
        state.held -= early.len();
        let (dispatch, log) = (&state.dispatch, &state.log);
        let (open_tunnels, shared) = (&self.shared.open_tunnels, Arc::clone(&self.shared));
        let end = Box::new(move || shared.note_closed());
        tunnel(
            socket.into(),
            early,
            upgrade,
            (request, arrival),
            (dispatch, log),
            open_tunnels,
            end,
        );
    }

    /// The first loop looks after those who wait for others' answers, also when it does not accept any more.
    fn is_first(&self) -> bool {
        Arc::ptr_eq(&self.shared.inboxes[0], &self.clients.state.inbox)
    }

    /// Looks at all connections.
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

    /// Nobody else is accepted, and each response is its connection's last.
    fn stop_accepting(&mut self) {
        self.clients.state.draining = true;
        if let Some(mut acceptor) = self.acceptor.take() {
            for listener in acceptor.listeners() {
                let _ = self.poll.registry().deregister(listener);
            }
            drop(acceptor);
            self.shared.accepts.store(false, Ordering::Release);
        }
        self.accepts = false;
        self.accept_paused = false;
    }

    /// The proxy is about to end.
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
    /// A client is gone: if others had to wait for that, one of them comes in.
    pub(super) fn note_closed(&self) {
        self.stats.gauge(Counter::Connections, -1);
        if self.open.fetch_sub(1, Ordering::AcqRel) >= self.connections_max {
            self.inboxes[0].wake();
        }
    }
}

impl Socket for TcpStream {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    /// In one call of the system.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut full = slices.iter().filter(|slice| !slice.is_empty());
        match (full.next(), full.next()) {
            (None, _) => Ok(0),
            (Some(only), None) => self.write(only),
            _ => self.write_vectored(slices),
        }
    }

    fn end(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn cut(&mut self) {
        let _ = socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

fn readiness(event: &Event) -> Readiness {
    Readiness {
        readable: event.is_readable(),
        ended: event.is_read_closed(),
        broken: event.is_error() || event.is_write_closed(),
    }
}
