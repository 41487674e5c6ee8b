//! The clients of one event loop: whose turn it is, and what happens in a turn.
//!
//! All bytes from and to a client go through its `Connection`. What stands for the socket is a trait,
//! so that a simulation plays the very turns that the loop plays.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::front::event::connection::Connection;
use crate::front::event::exchange::LoopMessage;
use crate::front::event::loop_state::LoopState;
use crate::front::event::sending::Transmitted;
use crate::front::outgoing::Take;
use crate::message::pipe::BodyPipe;
use crate::stats::Counter;

/// How much is read at a time, of any client.
const READ_BYTES: usize = 64 * 1024;
/// How often a client is read from before others have their turn.
const READS_PER_TURN: usize = 16;

/// A client's socket, which never blocks.
pub(super) trait Socket {
    /// Reads what has come.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends as much as the client takes at once.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends at most `most` bytes out of a pipe, as many as the client takes at once; for loops whose clients take
    /// pipes ([`LoopState::takes_pipes`]).
    fn send_piped(&mut self, _pipe: &BodyPipe, _most: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Nothing more will be sent.
    fn end(&mut self);

    /// When it is closed, the client is to see an error.
    fn cut(&mut self);
}

/// A socket, as a response that is sent sees it.
struct Taker<'a, S>(&'a mut S);

impl<S: Socket> Take for Taker<'_, S> {
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(slices)
    }

    fn take_piped(&mut self, pipe: &BodyPipe, most: usize) -> io::Result<usize> {
        self.0.send_piped(pipe, most)
    }
}

/// The clients of a loop, and what their connections share.
pub(super) struct Clients<S> {
    pub state: LoopState,
    slots: Vec<Option<ConnectedClient<S>>>,
    free: Vec<usize>,
    /// The slots of clients that had more to do when their turn was over.
    unfinished: Vec<usize>,
    buffer: Vec<u8>,
}

/// A client: its socket, and the connection that knows no socket.
pub(super) struct ConnectedClient<S> {
    pub socket: S,
    pub connection: Connection,
    /// The socket may have bytes to read: readiness is edge-triggered, so this is kept until a read blocks.
    readable: bool,
    /// The client has closed its side: behind the last bytes a read gives the end, without new readiness.
    ending: bool,
    /// It is listed in [`Clients::unfinished`], once.
    is_unfinished: bool,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    pub readable: bool,
    /// The client has closed its side.
    pub ended: bool,
    /// The connection is gone.
    pub broken: bool,
}

/// What becomes of a client.
#[derive(Clone, Copy)]
pub(super) enum ClientOutcome {
    Stays,
    /// With its number, if the origin server may have authenticated its connection.
    Gone(Option<u64>),
}

/// What a turn came to.
enum TurnEnd {
    Wait,
    Again,
    Over,
}

impl<S: Socket> Clients<S> {
    pub(super) fn new(state: LoopState) -> Self {
        let (slots, free, unfinished) = (Vec::new(), Vec::new(), Vec::new());
        Self { state, slots, free, unfinished, buffer: vec![0; READ_BYTES] }
    }

    /// How many slots there are, free ones among them.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A slot for a new client.
    pub(super) fn free_slot(&mut self) -> usize {
        // A freed one before a new one: the list gets as long as the most clients at a time, no longer.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        assert!(self.slots[slot].is_none(), "a free slot has no client");
        slot
    }

    /// The slot is not needed after all.
    pub(super) fn give_back(&mut self, slot: usize) {
        assert!(self.slots[slot].is_none(), "a slot that is given back has no client");
        self.free.push(slot);
    }

    /// A new client, which may have sent something already.
    pub(super) fn add(&mut self, slot: usize, socket: S, peer: SocketAddr) {
        assert!(self.slots[slot].is_none(), "a slot has one client");
        let number = self.state.next_id(slot).number;
        let connection = Connection::new(peer, slot, number, self.state.moment);
        // Its first bytes may have come before the socket was registered: no readiness reports them.
        let (readable, ending, is_unfinished) = (true, false, false);
        self.slots[slot] =
            Some(ConnectedClient { socket, connection, readable, ending, is_unfinished });
    }

    /// The connection of the client in this slot.
    pub(super) fn connection(&self, slot: usize) -> Option<&Connection> {
        self.slots.get(slot)?.as_ref().map(|client| &client.connection)
    }

    /// Notes what a client's socket is ready for, and gives the client a turn.
    pub(super) fn handle_readiness(&mut self, slot: usize, readiness: Readiness) -> ClientOutcome {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return ClientOutcome::Stays };
        client.readable |= readiness.readable || readiness.ended;
        client.ending |= readiness.ended;
        if readiness.broken {
            return self.close(slot);
        }
        self.give_turn(slot)
    }

    /// Have clients more to do?
    pub(super) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// The slots of the clients that have more to do: each is to be given one more turn, by
    /// [`Clients::go_on`], whatever else has happened to it.
    pub(super) fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    /// Gives a client the turn that it is listed for, if it is still there.
    pub(super) fn go_on(&mut self, slot: usize) -> ClientOutcome {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return ClientOutcome::Stays };
        // The slot may have another client by now, which is not listed.
        if std::mem::take(&mut client.is_unfinished) {
            self.give_turn(slot)
        } else {
            ClientOutcome::Stays
        }
    }

    /// Gives a client a turn, unless it is listed for one.
    pub(super) fn give_turn(&mut self, slot: usize) -> ClientOutcome {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return ClientOutcome::Stays };
        if client.is_unfinished {
            // Readiness and messages must not let it overtake the others: its turn comes in the next round.
            return ClientOutcome::Stays;
        }
        let (state, buffer) = (&mut self.state, &mut self.buffer);
        let before = state.fast_hits.count;
        // A bug that one client's bytes reach costs this connection, not the loop's other clients.
        let turn = catch_unwind(AssertUnwindSafe(|| client.turn(state, buffer)));
        let fast_hits = state.fast_hits.count - before;
        // Measured from the loop's waking up, so that waiting for other clients' turns counts; one clock
        // read for all of a turn.
        if fast_hits > 0 {
            state.latencies.count(state.woke.elapsed(), fast_hits);
        }
        match turn {
            Ok(TurnEnd::Wait) => ClientOutcome::Stays,
            Ok(TurnEnd::Again) => {
                client.is_unfinished = true;
                self.unfinished.push(slot);
                ClientOutcome::Stays
            }
            Ok(TurnEnd::Over) => self.close(slot),
            Err(_) => self.panicked(slot),
        }
    }

    /// Handles a message about an exchange; one about an exchange that is over is dropped.
    pub(super) fn deliver(&mut self, message: LoopMessage) -> ClientOutcome {
        let id = message.exchange_id().expect("the loop handles what is about no exchange");
        let Some(Some(client)) = self.slots.get_mut(id.slot) else { return ClientOutcome::Stays };
        // A worker answers whenever it is done. Its client may be gone by then, and the slot another's:
        // that one must not be sent the response, so the number decides.
        if !client.connection.is_current(id) {
            return ClientOutcome::Stays;
        }
        let state = &mut self.state;
        match catch_unwind(AssertUnwindSafe(|| client.connection.deliver(message, state))) {
            Ok(true) => self.give_turn(id.slot),
            Ok(false) => ClientOutcome::Stays,
            Err(_) => self.panicked(id.slot),
        }
    }

    /// Ends what has taken a client too long; `interval` has passed since the last check.
    pub(super) fn check_timeouts(&mut self, slot: usize, interval: Duration) -> ClientOutcome {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return ClientOutcome::Stays };
        // Its end may be unread: nothing is read while a request is answered.
        let asks = client.ending && client.connection.ask_whether_client_is_there();
        if asks || client.connection.check_timeouts(interval, &mut self.state) {
            self.give_turn(slot)
        } else {
            ClientOutcome::Stays
        }
    }

    /// The proxy is about to end.
    pub(super) fn drain(&mut self, slot: usize) -> ClientOutcome {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return ClientOutcome::Stays };
        client.connection.drain();
        self.give_turn(slot)
    }

    /// Closes the connection on which a bug has shown.
    fn panicked(&mut self, slot: usize) -> ClientOutcome {
        self.state.dispatch.proxy.stats().count(Counter::Panic);
        log::error!("an event loop panicked; this cost one connection");
        self.close(slot)
    }

    /// Closes a client's connection, by dropping its socket.
    pub(super) fn close(&mut self, slot: usize) -> ClientOutcome {
        let Some(mut client) = self.take(slot) else { return ClientOutcome::Stays };
        let (state, bound) = (&mut self.state, client.connection.bound());
        // After a panic its state may be anything, so this may panic, too.
        let _ = catch_unwind(AssertUnwindSafe(|| client.connection.abandon(state)));
        ClientOutcome::Gone(bound)
    }

    /// Takes a client out of its slot, which is free from then on.
    fn take(&mut self, slot: usize) -> Option<Box<ConnectedClient<S>>> {
        let client = self.slots.get_mut(slot).and_then(Option::take)?;
        self.free.push(slot);
        Some(Box::new(client))
    }
}

impl<S: Socket> ConnectedClient<S> {
    /// Sends, works and reads until there is nothing more to do, or other clients should have their turn.
    /// The loop's turn buffer is this client's meanwhile, and empty again at the end.
    fn turn(&mut self, state: &mut LoopState, buffer: &mut [u8]) -> TurnEnd {
        self.connection.output.begin_turn(&mut state.turn_buffer);
        let turn = self.rounds(state, buffer);
        self.connection.output.end_turn(&mut state.turn_buffer);
        turn
    }

    /// One round for each read: what it sends makes it able to read, and what it reads makes it send.
    fn rounds(&mut self, state: &mut LoopState, buffer: &mut [u8]) -> TurnEnd {
        for _ in 0..READS_PER_TURN {
            let Self { socket, connection, readable, .. } = &mut *self;
            match connection.transmit(state, &mut Taker(socket)) {
                Transmitted::Enough => {}
                Transmitted::More => return TurnEnd::Again,
                Transmitted::Last => socket.end(),
                Transmitted::Over => return TurnEnd::Over,
                Transmitted::Cut => {
                    socket.cut();
                    return TurnEnd::Over;
                }
            }
            // Bytes that are here come before bytes that a read would bring.
            if connection.has_more() {
                connection.go_on(state);
                continue;
            }
            if connection.is_over() {
                return TurnEnd::Over;
            }
            if !*readable || !connection.wants_input() {
                return TurnEnd::Wait;
            }
            if self.read(state, buffer).is_err() {
                return TurnEnd::Over;
            }
        }
        TurnEnd::Again
    }

    /// Reads once; an error is the connection's end.
    fn read(&mut self, state: &mut LoopState, buffer: &mut [u8]) -> io::Result<()> {
        // No more than can be used: what stays here is kept for this client, and what stays in the socket is not.
        let most = self.connection.input_bytes_max().min(buffer.len());
        let buffer = &mut buffer[..most];
        match self.socket.receive(buffer) {
            Ok(0) => {
                self.readable = false;
                self.connection.end_of_input(state);
            }
            Ok(count) => {
                // Less than the buffer holds: there is no more, and new bytes bring new readiness. Only the
                // client's end may be behind them, which has been reported already.
                self.readable = count == buffer.len() || self.ending;
                self.connection.receive(&buffer[..count], state);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
