//! The event front: one event loop a core, which never waits.
//!
//! A loop reads requests, answers what is fresh in memory on the spot, and hands all else to the worker
//! pool; a worker's answers come back as messages. The first loop also accepts clients, and gives
//! each loop the next one in turn.
//!
//! - `event_loop.rs` waits, `clients.rs` gives each client its turns, `accept.rs` has the listener,
//!   `inbox.rs` the messages.
//! - `connection.rs` is one connection; `receiving.rs`, `parse.rs` and `intake.rs` are what it reads,
//!   `sending.rs` and `output.rs` what it has to send, `plain.rs` what the fast path may answer: bytes in,
//!   bytes out, no socket.
//! - `simulation.rs` is a loop without sockets, for tests.
//! - `exchange.rs` and `upload.rs` are what a worker sees of it.
//! - `timeouts.rs` says for how long a client may take its time.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Interest, Poll, Registry, Waker};
use parking_lot::Mutex;

use crate::front::FrontSettings;
use crate::front::dispatch::{Dispatch, FetchOnLoop};
use crate::front::event::accept::Acceptor;
use crate::front::event::event_loop::{EventLoop, EventShared, LISTENER, WAKER};
use crate::front::event::exchange::{LoopInbox, LoopMessage};
use crate::front::event::inbox::Endless;
use crate::front::event::loop_state::LoopState;
use crate::front::event::timeouts::Timeouts;
use crate::front::workers::Pool;
use crate::proxy::BlockingDriver;
use crate::vital;

mod accept;
mod clients;
mod connection;
mod event_loop;
mod exchange;
mod inbox;
mod intake;
mod loop_state;
mod output;
pub mod parse;
mod plain;
mod receiving;
mod sending;
pub mod simulation;
mod timeouts;
mod upload;

/// Bytes of unfinished requests that are held for all connections together.
const HELD_MAX: usize = 32 * 1024 * 1024;
/// For how long connected clients may send one more request where another process is to serve the next clients.
const GRACE: Duration = Duration::from_secs(1);

/// A front that listens.
pub struct EventFront {
    shared: Arc<EventShared>,
    log: Arc<Option<crate::stats::AccessLog>>,
    /// What will accept clients, and where the first loop waits; `None` once it accepts.
    closed: Mutex<Option<(Acceptor, Registry)>>,
}

impl EventFront {
    /// The same as [`EventFront::new`] and [`EventFront::accept`].
    pub fn start(
        listeners: Vec<TcpListener>,
        driver: BlockingDriver,
        pool: Pool,
        threads: usize,
        settings: FrontSettings,
    ) -> io::Result<Self> {
        let front = Self::new(listeners, driver, pool, threads, settings)?;
        front.accept()?;
        Ok(front)
    }

    /// Makes all ready for the clients of `listeners`, at least one, with `threads` event loops, at least one.
    /// The listeners need not be open yet.
    pub fn new(
        listeners: Vec<TcpListener>,
        driver: BlockingDriver,
        pool: Pool,
        threads: usize,
        settings: FrontSettings,
    ) -> io::Result<Self> {
        assert!(!listeners.is_empty(), "a front listens somewhere");
        let log = Arc::new(settings.access_log);
        let timeouts = Timeouts::new(&settings.connections);
        let polls = (0..threads.max(1)).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let inboxes = polls.iter().map(inbox_of).collect::<io::Result<Vec<_>>>()?;
        let fetch_on_loop = settings.origin.is_some().then(|| fetch_on_loops(inboxes.clone()));
        let (handler, health_path) = (settings.handler, settings.health_path);
        let dispatch = Arc::new(Dispatch::new(driver, pool, handler, health_path, fetch_on_loop));
        let shared = Arc::new(EventShared {
            inboxes,
            open: Arc::new(AtomicUsize::new(0)),
            connections_max: settings.connections.connections_max.max(1),
            wait_max: settings.wait_max,
            stats: Arc::clone(dispatch.proxy.stats()),
            is_accepting: AtomicBool::new(true),
        });
        let registry = polls[0].registry().try_clone()?;
        let closed = Mutex::new(Some((Acceptor::new(listeners)?, registry)));
        let held_max = HELD_MAX / polls.len();
        // The first loop's inbox is the first one: it accepts, and expires parked requests for all.
        for (number, poll) in polls.into_iter().enumerate() {
            let inbox = Arc::clone(&shared.inboxes[number]);
            let (dispatch, log) = (Arc::clone(&dispatch), Arc::clone(&log));
            let state = LoopState::new(dispatch, inbox, log, settings.limits, timeouts, held_max);
            let origin = settings.origin.clone();
            let event_loop = EventLoop::new(poll, state, Arc::clone(&shared), origin)?;
            vital::spawn(&format!("loop-{number}"), move || event_loop.run())?;
        }
        Ok(Self { shared, log, closed })
    }

    /// Begins to serve clients; the listeners are open.
    pub fn accept(&self) -> io::Result<()> {
        let Some((mut acceptor, registry)) = self.closed.lock().take() else { return Ok(()) };
        // Here, not on the loop's thread, so that an error ends the start; the message makes the loop ask
        // them at once, since a client may have come in between.
        for listener in acceptor.listeners() {
            registry.register(listener, LISTENER, Interest::READABLE)?;
        }
        self.shared.inboxes[0].send(LoopMessage::Accept(Box::new(acceptor)));
        Ok(())
    }

    /// Opens the access log again.
    pub fn reopen_log(&self) {
        if let Some(log) = &*self.log {
            log.reopen();
        }
    }

    /// Stops accepting, because another process accepts now. A connected client may have sent a request that
    /// has not come yet, and is served once more if it comes soon; then what is under way is finished, as by
    /// [`EventFront::drain`]. No process waits for this one's end: streams without an end go on for as long
    /// as `limit` lets them.
    pub fn retire(&self, limit: Duration) -> bool {
        self.serve_once_more(GRACE);
        self.finish(limit, Endless::GoOn)
    }

    /// Stops accepting, because another process is to accept from the same sockets once this one has ended:
    /// as [`EventFront::retire`], at most `limit` in all, and streams without an end are cut.
    pub fn give_way(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        self.serve_once_more(GRACE.min(limit / 2));
        self.finish(limit.saturating_sub(begun.elapsed()), Endless::Cut)
    }

    /// Stops accepting, and serves the clients that are connected for `grace`, or until the last has left.
    fn serve_once_more(&self, grace: Duration) {
        const PAUSE: Duration = Duration::from_millis(2);
        let grace = Instant::now() + grace;
        // The others go on until no client is given to them any more: a loop that retires ends with its last
        // connection, and would not read the message with the next client.
        let (first, others) = self.shared.inboxes.split_at(1);
        for inbox in first {
            inbox.send(LoopMessage::Retire);
        }
        while self.shared.is_accepting.load(Ordering::Acquire) && Instant::now() < grace {
            thread::sleep(PAUSE);
        }
        for inbox in others {
            inbox.send(LoopMessage::Retire);
        }
        while self.shared.open.load(Ordering::Acquire) > 0 && Instant::now() < grace {
            thread::sleep(PAUSE);
        }
    }

    /// Stops accepting, cuts streams without an end, lets what else is under way finish, at most `limit`;
    /// `false` if it did not.
    pub fn drain(&self, limit: Duration) -> bool {
        self.finish(limit, Endless::Cut)
    }

    /// Lets what is under way finish, at most `limit`; `false` if it did not.
    fn finish(&self, limit: Duration, endless: Endless) -> bool {
        let deadline = Instant::now() + limit;
        for inbox in &self.shared.inboxes {
            inbox.send(LoopMessage::Drain(endless));
        }
        let drained = loop {
            if self.shared.open.load(Ordering::Acquire) == 0 {
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            thread::sleep(Duration::from_millis(2));
        };
        // The process ends soon, and lines are written by a thread of their own.
        if let Some(log) = &*self.log {
            log.flush();
        }
        drained
    }
}

/// Gives each loop in turn what is to be fetched for nobody.
fn fetch_on_loops(inboxes: Vec<Arc<LoopInbox>>) -> FetchOnLoop {
    let next = AtomicUsize::new(0);
    Box::new(move |fetch| {
        let number = next.fetch_add(1, Ordering::Relaxed) % inboxes.len();
        inboxes[number].send(LoopMessage::Fetch(fetch, None));
    })
}

/// The inbox of the loop that waits by `poll`.
fn inbox_of(poll: &Poll) -> io::Result<Arc<LoopInbox>> {
    let waker = Waker::new(poll.registry(), WAKER)?;
    // It fails only if the system has no memory for eight bytes; the next wake-up will do.
    Ok(LoopInbox::new(Arc::new(move || _ = waker.wake())))
}
