//! One event loop: what it waits for, and in which order it does what there is to do.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::front::event::accept::{Accepted, Acceptor, PAUSE};
use crate::front::event::clients::{ClientOutcome, Clients, ConnectedClient, Ready, Socket};
use crate::front::event::exchange::{LoopInbox, LoopMessage};
use crate::front::event::inbox::Endless;
use crate::front::event::loop_state::LoopState;
use crate::front::event::timeouts::Ticker;
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
    pauses: bool,
    /// Who has been accepted is served.
    lets_in: bool,
    /// Which loop has the next client.
    next: usize,
    ticker: Ticker,
    messages: Vec<LoopMessage>,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, state: LoopState, shared: Arc<EventShared>) -> Self {
        let ticker = Ticker::new(state.timeouts.tick(), state.now);
        Self {
            poll,
            clients: Clients::new(state),
            shared,
            acceptor: None,
            accepts: false,
            pauses: false,
            lets_in: true,
            next: 0,
            ticker,
            messages: Vec::new(),
        }
    }

    /// Runs until the proxy ends; the error is that it cannot wait for clients any more.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.clients.state.inbox.set_owner();
        let mut events = Events::with_capacity(EVENTS);
        while !self.clients.state.draining || self.shared.open.load(Ordering::Acquire) > 0 {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(format!("waiting for clients: {error}"));
            }
            let state = &mut self.clients.state;
            (state.now, state.woke) = (state.dispatch.proxy.now(), Instant::now());
            // The loop may have slept for long; who comes now begins now.
            let due = self.ticker.due(state.now);
            state.moment = due.unwrap_or(state.moment);
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.accepts = true,
                    Token(slot) => {
                        let outcome = self.clients.hear(slot, ready(event));
                        self.settle(outcome);
                    }
                }
            }
            for slot in self.clients.take_unfinished() {
                let outcome = self.clients.go_on(slot);
                self.settle(outcome);
            }
            self.read_messages();
            if self.accepts {
                self.accept();
            }
            if due.is_some() {
                self.look();
            }
            self.clients.state.count();
        }
        Ok(())
    }

    /// Does what a client's turn leaves to be done.
    fn settle(&mut self, outcome: ClientOutcome<TcpStream>) {
        match outcome {
            ClientOutcome::Stays => {}
            ClientOutcome::Gone => self.shared.leave(),
            ClientOutcome::Upgraded(client) => self.begin_tunnel(*client),
        }
    }

    /// How long to sleep if nothing happens.
    fn patience(&self) -> Option<Duration> {
        if self.clients.has_unfinished() || self.accepts && !self.pauses {
            return Some(Duration::ZERO);
        }
        if self.pauses {
            return Some(PAUSE);
        }
        // Those who wait for others' answers may be another loop's clients.
        let anybody = if self.is_first() || self.clients.state.draining {
            self.shared.open.load(Ordering::Relaxed) > 0
        } else {
            !self.clients.is_empty()
        };
        anybody.then(|| self.ticker.tick())
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
            LoopMessage::Client(stream, peer) => self.welcome(TcpStream::from_std(stream), peer),
            LoopMessage::Drain(endless) => self.drain(endless),
            LoopMessage::Retire => self.stop_accepting(),
            LoopMessage::Accept(acceptor) => {
                self.acceptor = Some(*acceptor);
                // Somebody may have come before it was here.
                self.accepts = true;
            }
            message => {
                let outcome = self.clients.deliver(message);
                self.settle(outcome);
            }
        }
    }

    /// Accepts who waits, as many as there may be.
    fn accept(&mut self) {
        self.pauses = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(acceptor) = &mut self.acceptor else { return };
            if self.shared.open.load(Ordering::Relaxed) >= self.shared.connections_max {
                // The next connection that is closed wakes this loop.
                self.pauses = true;
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
                        self.welcome(stream, peer);
                    } else {
                        inbox.send(LoopMessage::Client(stream.into(), peer));
                    }
                }
                Accepted::Nobody => {
                    self.accepts = false;
                    return;
                }
                Accepted::Later => {
                    self.pauses = true;
                    return;
                }
            }
        }
    }

    /// Takes a client in.
    fn welcome(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let slot = self.clients.free_slot();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(slot), interest) {
            log::warn!("{peer}: {error}");
            self.clients.give_back(slot);
            return self.shared.leave();
        }
        self.clients.add(slot, stream, peer);
        let outcome =
            if self.lets_in { self.clients.give_turn(slot) } else { self.clients.close(slot) };
        self.settle(outcome);
    }

    /// Hands a connection over to a tunnel.
    fn begin_tunnel(&mut self, client: ConnectedClient<TcpStream>) {
        let ConnectedClient { mut socket, mut connection, .. } = client;
        let _ = self.poll.registry().deregister(&mut socket);
        let Some((upgrade, request, arrival, early)) = connection.take_upgrade() else {
            return self.shared.leave();
        };
        let state = &mut self.clients.state;
        state.held -= early.len();
        let (dispatch, log) = (&state.dispatch, &state.log);
        let (open_tunnels, shared) = (&self.shared.open_tunnels, Arc::clone(&self.shared));
        let end = Box::new(move || shared.leave());
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
    fn look(&mut self) {
        if self.is_first() {
            self.clients.state.dispatch.proxy.expire_parked(self.shared.wait_max);
        }
        let tick = self.ticker.tick();
        for slot in 0..self.clients.slots() {
            let outcome = self.clients.look(slot, tick);
            self.settle(outcome);
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
        self.pauses = false;
    }

    /// The proxy is about to end.
    fn drain(&mut self, endless: Endless) {
        self.stop_accepting();
        self.clients.state.endless = endless;
        self.lets_in = false;
        for slot in 0..self.clients.slots() {
            let outcome = self.clients.drain(slot);
            self.settle(outcome);
        }
    }
}

impl EventShared {
    /// A client is gone: if others had to wait for that, one of them comes in.
    pub(super) fn leave(&self) {
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

fn ready(event: &Readiness) -> Ready {
    Ready {
        readable: event.is_readable(),
        ended: event.is_read_closed(),
        broken: event.is_error() || event.is_write_closed(),
    }
}
