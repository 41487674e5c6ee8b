//! An event loop without sockets, for tests and fuzzing: any number of clients, which send and take bytes
//! in any pieces and in any order. The turns they are given are the very ones of the loop.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use parking_lot::Mutex;

use crate::front::FrontSettings;
use crate::front::dispatch::Dispatch;
use crate::front::event::clients::{ClientOutcome, Clients, Readiness, Socket};
use crate::front::event::connection::Connection;
use crate::front::event::exchange::{LoopInbox, LoopMessage};
use crate::front::event::loop_state::LoopState;
use crate::front::event::timeouts::Timeouts;
use crate::front::workers::Pool;
use crate::proxy::BlockingDriver;

/// The longest that a test waits for a worker: nothing that one does takes this long.
const WORKER_WAIT_MAX: Duration = Duration::from_secs(20);

/// A loop and its clients. What does not happen by itself on a real loop happens here only when it is
/// called for.
pub struct Simulation {
    clients: Clients<Pipe>,
    wakes: Receiver<()>,
    /// What other threads have sent to the loop, and it has not handled yet.
    messages: VecDeque<LoopMessage>,
    /// One for each client that there ever was, and its slot while it is connected.
    ends: Vec<(Arc<Mutex<ClientEnd>>, Option<usize>)>,
}

/// The client's end of a connection.
#[derive(Default)]
struct ClientEnd {
    to_proxy: VecDeque<u8>,
    has_ended: bool,
    /// How many bytes more the client takes.
    window: usize,
    /// How many it takes at a time.
    piece_max: usize,
    received: Vec<u8>,
    is_cut: bool,
}

/// The proxy's end.
struct Pipe(Arc<Mutex<ClientEnd>>);

impl Socket for Pipe {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut end = self.0.lock();
        if end.to_proxy.is_empty() {
            return if end.has_ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        // Like a socket's, a short read means that there is no more: the queue's two halves are one.
        end.to_proxy.make_contiguous();
        end.to_proxy.read(buffer)
    }

    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut end = self.0.lock();
        let most = end.window.min(end.piece_max.max(1));
        let mut taken = 0;
        for slice in slices {
            let count = slice.len().min(most - taken);
            end.received.extend_from_slice(&slice[..count]);
            taken += count;
        }
        end.window -= taken;
        if taken == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn end(&mut self) {}

    fn cut(&mut self) {
        self.0.lock().is_cut = true;
    }
}

impl Simulation {
    /// A loop in front of an engine and a pool.
    pub fn new(driver: BlockingDriver, pool: Pool, settings: &FrontSettings) -> Self {
        let (sent, wakes) = channel();
        let inbox = LoopInbox::new(Arc::new(move || _ = sent.send(())));
        let dispatch = Arc::new(Dispatch::new(driver, pool, None, None, None));
        let timeouts = Timeouts::new(&settings.connections);
        // Less than a real loop's, so that a test can reach it.
        let held_max = 1 << 20;
        let state =
            LoopState::new(dispatch, inbox, Arc::new(None), settings.limits, timeouts, held_max);
        let clients = Clients::new(state);
        Self { clients, wakes, messages: VecDeque::new(), ends: Vec::new() }
    }

    /// A client connects, which takes nothing yet, and later `piece_max` bytes at a time.
    pub fn connect(&mut self, piece_max: usize) -> usize {
        let end = Arc::new(Mutex::new(ClientEnd { piece_max, ..ClientEnd::default() }));
        let slot = self.clients.free_slot();
        let client = self.ends.len();
        // Each client has an address of its own, as far as there are ports.
        let port = u16::try_from(client + 1).unwrap_or(u16::MAX);
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        self.clients.add(slot, Pipe(Arc::clone(&end)), peer);
        self.ends.push((end, Some(slot)));
        // As a real loop does for a new client.
        let outcome = self.clients.give_turn(slot);
        self.apply(slot, &outcome);
        client
    }

    /// A client sends bytes.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.ends[client].0.lock().to_proxy.extend(bytes);
        self.handle_readiness(client, Readiness { readable: true, ..Readiness::default() });
    }

    /// A client closes its side.
    pub fn end(&mut self, client: usize) {
        self.ends[client].0.lock().has_ended = true;
        self.handle_readiness(client, Readiness { ended: true, ..Readiness::default() });
    }

    /// A client goes away.
    pub fn leave(&mut self, client: usize) {
        self.handle_readiness(client, Readiness { broken: true, ..Readiness::default() });
    }

    /// A client takes `count` bytes more.
    pub fn take(&mut self, client: usize, count: usize) {
        let mut end = self.ends[client].0.lock();
        end.window = end.window.saturating_add(count);
        // The turn sends through the same lock.
        drop(end);
        self.handle_readiness(client, Readiness::default());
    }

    /// Gives clients that had more to do when their turn was over another one; `false` if there are none.
    pub fn go_on(&mut self) -> bool {
        let unfinished = self.clients.take_unfinished();
        let any = !unfinished.is_empty();
        for slot in unfinished {
            let outcome = self.clients.go_on(slot);
            self.apply(slot, &outcome);
        }
        any
    }

    /// The loop handles the oldest message; `false` if there is none.
    pub fn deliver(&mut self) -> bool {
        // One at a time, so that a test can do anything between two messages.
        let mut messages = Vec::new();
        self.clients.state.inbox.take(&mut messages);
        self.messages.extend(messages);
        let Some(message) = self.messages.pop_front() else { return false };
        let slot = message.exchange_id().map_or(usize::MAX, |id| id.slot);
        let outcome = self.clients.deliver(message);
        self.apply(slot, &outcome);
        true
    }

    /// The same, once a worker has had so much time to send one.
    pub fn deliver_within(&mut self, span: Duration) -> bool {
        if !self.deliver() {
            let _ = self.wakes.recv_timeout(span);
            return self.deliver();
        }
        true
    }

    /// Waits until there is a message, and handles it.
    pub fn wait_and_deliver(&mut self) {
        while !self.deliver() {
            self.wakes.recv_timeout(WORKER_WAIT_MAX).expect("an exchange that hangs");
        }
    }

    /// `span` passes, and the loop checks the timeouts of all connections.
    pub fn advance_time(&mut self, span: Duration) {
        self.clients.state.moment = self.clients.state.moment.after(span);
        for slot in 0..self.clients.slots() {
            let outcome = self.clients.check_timeouts(slot, span);
            self.apply(slot, &outcome);
        }
    }

    /// Does the loop still hold this client's connection?
    pub fn is_connected(&self, client: usize) -> bool {
        self.ends[client].1.is_some()
    }

    /// Has this client's connection anything under way that a worker, or another turn, brings on?
    pub fn is_busy(&self, client: usize) -> bool {
        self.ends[client]
            .1
            .and_then(|slot| self.clients.connection(slot))
            .is_some_and(Connection::is_answering)
    }

    /// All that a client has taken so far.
    pub fn received(&self, client: usize) -> Vec<u8> {
        self.ends[client].0.lock().received.clone()
    }

    /// Was the client's connection cut, so that it sees an error?
    pub fn is_cut(&self, client: usize) -> bool {
        self.ends[client].0.lock().is_cut
    }

    /// What a single client is sent that sends these pieces, closes its side, and takes `most` bytes at a
    /// time; and whether its connection was cut.
    pub fn play<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        most: usize,
    ) -> (Vec<u8>, bool) {
        let client = self.connect(most);
        self.take(client, usize::MAX);
        let mut pieces = pieces.into_iter();
        while self.is_connected(client) {
            // A client that still has a turn coming is not sent more: that would hide a lost wake-up.
            if self.go_on() {
            } else if self.is_reading(client) {
                match pieces.next() {
                    Some(piece) => self.send(client, piece),
                    None => self.end(client),
                }
            } else {
                self.wait_and_deliver();
            }
        }
        assert!(self.clients.state.holds_nothing(), "what was kept is given back");
        (self.received(client), self.is_cut(client))
    }

    /// Has the loop read all that the client has sent, and could it use more?
    fn is_reading(&self, client: usize) -> bool {
        let (end, slot) = &self.ends[client];
        let connection = slot.and_then(|slot| self.clients.connection(slot));
        end.lock().to_proxy.is_empty() && connection.is_some_and(Connection::wants_input)
    }

    /// Tells the loop what a client's socket is ready for.
    fn handle_readiness(&mut self, client: usize, readiness: Readiness) {
        let Some(slot) = self.ends[client].1 else { return };
        let outcome = self.clients.handle_readiness(slot, readiness);
        self.apply(slot, &outcome);
    }

    /// Notes that a client is not connected any more.
    fn apply(&mut self, slot: usize, outcome: &ClientOutcome) {
        if !matches!(outcome, ClientOutcome::Stays) {
            for (_, other) in self.ends.iter_mut().filter(|(_, other)| *other == Some(slot)) {
                // Its slot may be another client's from now on.
                *other = None;
            }
        }
    }
}
