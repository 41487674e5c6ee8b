//! One loop: the sockets of its clients, and who has a turn. All that a client says or is told goes
//! through its `Connection`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::front::event::accept::{Accepted, Acceptor, PAUSE};
use crate::front::event::connection::Connection;
use crate::front::event::inbox::{Inbox, Letter, Place};
use crate::front::event::room::Room;
use crate::front::event::sending::Sent;
use crate::front::event::timeouts::Ticker;
use crate::front::event::tunnelling::{Tunnelling, tunnel};
use crate::stats::{Event, Gauge, Stats};

/// Stands for the bell among the clients' slots.
pub(super) const BELL: Token = Token(usize::MAX);
/// Stands for the listener.
const LISTENER: Token = Token(usize::MAX - 1);
/// How many sockets' news are heard at a time.
const EVENTS: usize = 1024;
/// How much is read at a time, of any client.
const READ_BYTES: usize = 64 * 1024;
/// How often a client is read from before others have their turn.
const READS_PER_TURN: usize = 16;
/// How many clients are accepted before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// What all loops of a front share.
pub(super) struct Shared {
    pub inboxes: Vec<Arc<Inbox>>,
    /// Clients that are connected.
    pub open: Arc<AtomicUsize>,
    pub connections_max: usize,
    pub wait_max: Duration,
    pub tunnelling: Tunnelling,
    pub stats: Arc<Stats>,
    /// New clients are accepted.
    pub accepts: AtomicBool,
}

/// One loop.
pub(super) struct EventLoop {
    poll: Poll,
    room: Room,
    shared: Arc<Shared>,
    /// One loop accepts for all.
    acceptor: Option<Acceptor>,
    /// Somebody may be waiting to be accepted.
    accepts: bool,
    /// Accepting has failed, and is tried again after a pause.
    pauses: bool,
    /// Who has been accepted is served.
    lets_in: bool,
    /// Which loop has the next client.
    next: usize,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    ticker: Ticker,
    /// Whose turn was over before all was done.
    again: Vec<usize>,
    letters: Vec<Letter>,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    connection: Connection,
    /// There may be something to read.
    readable: bool,
    /// What there is to read ends with the client's end.
    ending: bool,
    /// It has its one place among those whose turn was over before all was done.
    waits: bool,
}

/// What a turn came to.
enum Turn {
    Wait,
    Again,
    Over,
    GoOver,
}

impl EventLoop {
    pub(super) fn new(
        poll: Poll,
        room: Room,
        shared: Arc<Shared>,
        mut acceptor: Option<Acceptor>,
    ) -> io::Result<Self> {
        if let Some(acceptor) = &mut acceptor {
            poll.registry().register(acceptor.listener(), LISTENER, Interest::READABLE)?;
        }
        let ticker = Ticker::new(room.timeouts.tick(), room.now);
        Ok(Self {
            poll,
            room,
            shared,
            acceptor,
            accepts: false,
            pauses: false,
            lets_in: true,
            next: 0,
            clients: Vec::new(),
            free: Vec::new(),
            ticker,
            again: Vec::new(),
            letters: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Runs until the proxy ends.
    pub(super) fn run(mut self) {
        self.room.inbox.own();
        let mut events = Events::with_capacity(EVENTS);
        while !self.room.draining || self.shared.open.load(Ordering::Acquire) > 0 {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("waiting for clients: {error}");
                return;
            }
            (self.room.now, self.room.woke) = (self.room.desk.proxy.now(), Instant::now());
            // The loop may have slept for long; who comes now begins now.
            let due = self.ticker.due(self.room.now);
            self.room.moment = due.unwrap_or(self.room.moment);
            for event in &events {
                match event.token() {
                    BELL => {}
                    LISTENER => self.accepts = true,
                    Token(slot) => self.hear(slot, event),
                }
            }
            self.go_on();
            self.read_letters();
            if self.accepts {
                self.accept();
            }
            if due.is_some() {
                self.look();
            }
            self.room.count();
        }
    }

    /// Goes on with those whose turn was over before all was done: one turn for each, whatever else has
    /// happened to them.
    fn go_on(&mut self) {
        for slot in std::mem::take(&mut self.again) {
            if let Some(Some(client)) = self.clients.get_mut(slot)
                && std::mem::take(&mut client.waits)
            {
                self.give_turn(slot);
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() || self.accepts && !self.pauses {
            return Some(Duration::ZERO);
        }
        if self.pauses {
            return Some(PAUSE);
        }
        // The loop that accepts also looks after those who wait for others' answers.
        let anybody = if self.acceptor.is_some() || self.room.draining {
            self.shared.open.load(Ordering::Relaxed) > 0
        } else {
            self.free.len() < self.clients.len()
        };
        anybody.then(|| self.ticker.tick())
    }

    /// Something has happened to a client's socket.
    fn hear(&mut self, slot: usize, event: &Readiness) {
        let Some(Some(client)) = self.clients.get_mut(slot) else { return };
        client.readable |= event.is_readable() || event.is_read_closed();
        client.ending |= event.is_read_closed();
        if event.is_error() || event.is_write_closed() {
            return self.close(slot);
        }
        self.give_turn(slot);
    }

    fn give_turn(&mut self, slot: usize) {
        let Some(Some(client)) = self.clients.get_mut(slot) else { return };
        if client.waits {
            // Its turn comes.
            return;
        }
        let (room, buffer) = (&mut self.room, &mut self.buffer);
        let before = room.glances.0;
        // One client's trouble must not be the others'.
        let turn = catch_unwind(AssertUnwindSafe(|| client.turn(room, buffer)));
        let glances = room.glances.0 - before;
        if glances > 0 {
            room.latencies.count(room.woke.elapsed(), glances);
        }
        match turn {
            Ok(Turn::Wait) => {}
            Ok(Turn::Again) => {
                client.waits = true;
                self.again.push(slot);
            }
            Ok(Turn::Over) => self.close(slot),
            Ok(Turn::GoOver) => self.go_over(slot),
            Err(_) => {
                self.room.desk.proxy.stats().count(Event::Panic);
                log::error!("an event loop panicked; this cost one connection");
                self.room.out.clear();
                self.close(slot);
            }
        }
    }

    fn read_letters(&mut self) {
        loop {
            let mut letters = std::mem::take(&mut self.letters);
            self.room.inbox.take(&mut letters);
            if letters.is_empty() {
                self.letters = letters;
                return;
            }
            for letter in letters.drain(..) {
                self.read(letter);
            }
            self.letters = letters;
        }
    }

    fn read(&mut self, letter: Letter) {
        let place = letter.place();
        match (letter, place) {
            (Letter::Client(stream, peer), _) => self.welcome(TcpStream::from_std(stream), peer),
            (Letter::Drain, _) => self.drain(),
            (Letter::Retire, _) => self.stop_accepting(),
            (letter, Some(place)) => self.deliver(place, letter),
            (_, None) => {}
        }
    }

    fn deliver(&mut self, place: Place, letter: Letter) {
        let Some(Some(client)) = self.clients.get_mut(place.slot) else { return };
        if !client.connection.is_at(place) {
            return;
        }
        let room = &mut self.room;
        let delivery = AssertUnwindSafe(|| client.connection.deliver(letter, room));
        match catch_unwind(delivery) {
            Ok(true) => self.give_turn(place.slot),
            Ok(false) => {}
            Err(_) => {
                self.room.desk.proxy.stats().count(Event::Panic);
                self.room.out.clear();
                self.close(place.slot);
            }
        }
    }

    /// Accepts who waits, as many as there may be.
    fn accept(&mut self) {
        self.pauses = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(acceptor) = &mut self.acceptor else { return };
            if self.shared.open.load(Ordering::Relaxed) >= self.shared.connections_max {
                // Whoever leaves rings the bell.
                self.pauses = true;
                return;
            }
            match acceptor.next() {
                Accepted::Client(stream, peer) => {
                    self.shared.open.fetch_add(1, Ordering::AcqRel);
                    self.shared.stats.gauge(Gauge::Connections, 1);
                    let loops = self.shared.inboxes.len();
                    self.next = (self.next + 1) % loops;
                    let inbox = &self.shared.inboxes[self.next];
                    if Arc::ptr_eq(inbox, &self.room.inbox) {
                        self.welcome(stream, peer);
                    } else {
                        inbox.post(Letter::Client(stream.into(), peer));
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
        let slot = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(slot), interest) {
            log::warn!("{peer}: {error}");
            self.free.push(slot);
            return self.shared.leave();
        }
        let connection = Connection::new(peer, slot, self.room.moment);
        let (readable, ending, waits) = (true, false, false);
        self.clients[slot] = Some(Client { stream, connection, readable, ending, waits });
        if !self.lets_in {
            return self.close(slot);
        }
        self.give_turn(slot);
    }

    /// Lets a client go.
    fn close(&mut self, slot: usize) {
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        let room = &mut self.room;
        // What it leaves behind may be anything but a reason to stop.
        let _ = catch_unwind(AssertUnwindSafe(|| client.connection.abandon(room)));
        drop(client);
        self.shared.leave();
    }

    /// Hands a connection over to a tunnel.
    fn go_over(&mut self, slot: usize) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        let Client { mut stream, mut connection, .. } = client;
        let _ = self.poll.registry().deregister(&mut stream);
        let Some((agreed, request, arrival, early)) = connection.take_agreed() else {
            return self.shared.leave();
        };
        self.room.held -= early.len();
        let (desk, log) = (&self.room.desk, &self.room.log);
        tunnel(stream.into(), early, agreed, (request, arrival), (desk, log), &self.shared);
    }

    /// Looks at all connections.
    fn look(&mut self) {
        if self.acceptor.is_some() {
            self.room.desk.proxy.release_the_patient(self.shared.wait_max);
        }
        let tick = self.ticker.tick();
        for slot in 0..self.clients.len() {
            let Some(Some(client)) = self.clients.get_mut(slot) else { continue };
            if client.connection.look(tick, &mut self.room) {
                self.give_turn(slot);
            }
        }
    }

    /// Nobody else is accepted, and each response is its connection's last.
    fn stop_accepting(&mut self) {
        self.room.draining = true;
        if let Some(mut acceptor) = self.acceptor.take() {
            let _ = self.poll.registry().deregister(acceptor.listener());
            drop(acceptor);
            self.shared.accepts.store(false, Ordering::Release);
        }
        self.accepts = false;
        self.pauses = false;
    }

    /// The proxy is about to end.
    fn drain(&mut self) {
        self.stop_accepting();
        self.lets_in = false;
        for slot in 0..self.clients.len() {
            if let Some(Some(client)) = self.clients.get_mut(slot) {
                client.connection.drain();
                self.give_turn(slot);
            }
        }
    }
}

impl Shared {
    /// A client is gone: if others had to wait for that, one of them comes in.
    pub(super) fn leave(&self) {
        self.stats.gauge(Gauge::Connections, -1);
        if self.open.fetch_sub(1, Ordering::AcqRel) >= self.connections_max {
            self.inboxes[0].ring();
        }
    }
}

impl Client {
    /// Sends, works and reads until there is nothing more to do, or others should have their turn.
    fn turn(&mut self, room: &mut Room, buffer: &mut [u8]) -> Turn {
        let Self { stream, connection, readable, ending, .. } = self;
        for _ in 0..READS_PER_TURN {
            match connection.transmit(room, &mut |slices| send(stream, slices)) {
                Sent::Enough => {}
                Sent::More => return Turn::Again,
                Sent::Last => drop(stream.shutdown(Shutdown::Write)),
                Sent::Over => return Turn::Over,
                Sent::Cut => {
                    let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                    return Turn::Over;
                }
            }
            if connection.has_more() {
                connection.go_on(room);
                continue;
            }
            if connection.is_agreed() {
                return Turn::GoOver;
            }
            if connection.is_over() {
                return Turn::Over;
            }
            if !*readable || !connection.wants_input() {
                return Turn::Wait;
            }
            match stream.read(buffer) {
                Ok(0) => {
                    *readable = false;
                    connection.end_of_input(room);
                }
                Ok(count) => {
                    // Less than there was room for: there is no more, unless the end is.
                    *readable = count == buffer.len() || *ending;
                    connection.receive(&buffer[..count], room);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
        Turn::Again
    }
}

/// Sends in one call of the system what the client takes at once.
fn send(mut stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut full = slices.iter().filter(|slice| !slice.is_empty());
    match (full.next(), full.next()) {
        (None, _) => Ok(0),
        (Some(only), None) => stream.write(only),
        _ => stream.write_vectored(slices),
    }
}
