//! A body that is read on workers, from a store behind memory or as it comes there, on its way to a client. A worker
//! moves it on as long as nothing has to be waited for: neither a client that takes nothing nor a fetch that has yet to
//! bring more holds a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::front::dispatch::Dispatch;
use crate::message::body::{Arriving, Body};
use crate::message::growing::Writer;
use crate::policy::response::Response;
use crate::proxy::fill::{PIECE_BYTES, WINDOW_PIECE_BYTES};

/// How many pieces are read before others have their turn on the worker.
const PIECES_PER_TURN: usize = 64;

/// A body on its way. Dropped before its end, it cuts what the client reads.
pub(super) struct Relay {
    writer: Writer,
    body: Box<dyn Arriving>,
    /// Whose workers read it.
    dispatch: Arc<Dispatch>,
    /// How much is read at a time.
    pace: Pace,
}

/// How much is read at a time: more for a client that soon takes what there is, so that each read is worth a thread's
/// waking up; no more than a window for one that does not.
struct Pace {
    piece_bytes: usize,
    since: Instant,
}

impl Pace {
    /// A client that takes a piece in this time is fast.
    const SOON: Duration = Duration::from_millis(20);

    fn new() -> Self {
        Self { piece_bytes: WINDOW_PIECE_BYTES, since: Instant::now() }
    }

    /// The last piece has been taken, so far as there is space for another.
    fn note_taken(&mut self) {
        let is_soon = self.since.elapsed() < Self::SOON;
        self.piece_bytes =
            if is_soon { PIECE_BYTES.min(self.piece_bytes * 2) } else { WINDOW_PIECE_BYTES };
    }
}

/// What has become of a relay that was to move one piece on.
pub(super) enum Relayed {
    /// It has, or others are to have their turn.
    Moved(Relay),
    /// Something has to be waited for: it goes on by itself when that has come.
    Waits,
    /// The body has come to its end, or is of no use to anybody.
    Over,
}

/// Where a relay is that waits.
type WaitingRelay = Arc<Mutex<Option<Relay>>>;

impl Relay {
    /// The response with a body that grows, and what moves the one that arrives into it.
    pub fn between(
        response: Response,
        body: Box<dyn Arriving>,
        dispatch: &Arc<Dispatch>,
    ) -> (Response, Self) {
        // Read ahead of a client that is fast, by as much as a wide window has.
        let wide = dispatch.proxy.wide_windows();
        let (writer, reader) = Writer::passing_fast(body.length(), wide);
        let response = Response { body: Body::Growing(Box::new(reader)), ..response };
        (response, Self { writer, body, dispatch: Arc::clone(dispatch), pace: Pace::new() })
    }

    /// The body, where it is to be read in another way after all; nothing of it has been read.
    pub fn into_body(self) -> Box<dyn Arriving> {
        self.body
    }

    /// Has it run by a worker.
    pub fn start(self) {
        let dispatch = Arc::clone(&self.dispatch);
        self.go_on(&dispatch);
    }

    /// Moves the body on until it has to be waited for; then it goes on by itself. Reads, so it is for a worker.
    pub fn run(self) {
        let mut relay = self;
        let mut piece = vec![0; PIECE_BYTES];
        for _ in 0..PIECES_PER_TURN {
            let Relayed::Moved(next) = relay.step(&mut piece) else { return };
            relay = next;
        }
        // Others have their turn: a client that takes all at once would keep the thread for as long as its body takes.
        relay.start();
    }

    /// Moves one piece on, of at most [`PIECE_BYTES`] that `piece` has space for. Reads, so it is for a worker.
    pub fn step(self, piece: &mut [u8]) -> Relayed {
        let relay = self.wait_for_space().and_then(Self::wait_for_more);
        let Some(mut relay) = relay else { return Relayed::Waits };
        relay.pace.note_taken();
        let read = relay.body.read(&mut piece[..relay.pace.piece_bytes]);
        relay.pace.since = Instant::now();
        match read {
            Ok(0) => relay.writer.finish(),
            Ok(count) if relay.writer.push(&piece[..count]) => return Relayed::Moved(relay),
            // The client is gone; what is worth keeping is fetched to its end.
            Ok(_) => relay.body.abandon(),
            // The writer is dropped, which cuts the body.
            Err(error) => log::debug!("body cut short: {error}"),
        }
        Relayed::Over
    }

    /// The relay, if its client takes a piece now; else it goes on when the client does.
    fn wait_for_space(mut self) -> Option<Self> {
        if self.writer.has_space() {
            return Some(self);
        }
        let parked = WaitingRelay::default();
        let (taken, dispatch) = (Arc::clone(&parked), Arc::clone(&self.dispatch));
        let is_missed = Arc::new(AtomicBool::new(false));
        let misses = Arc::clone(&is_missed);
        self.writer.on_space(Box::new(move || {
            // Called with the body's lock, under which the worker looks for space with the slot's: so the slot is not
            // waited for. The worker is told, and finds it out when it has let go of the slot, or has it now.
            misses.store(true, Ordering::SeqCst);
            // One of the two sees what the other has written: the slot is free, or this was missed.
            fence(Ordering::SeqCst);
            let relay = taken.try_lock().and_then(|mut slot| slot.take());
            if let Some(relay) = relay {
                relay.go_on(&dispatch);
            }
        }));
        let mut slot = parked.lock();
        let relay = slot.insert(self);
        // Looked at once more: space that came before the relay was there has woken nobody.
        if relay.writer.has_space() {
            return slot.take();
        }
        drop(slot);
        fence(Ordering::SeqCst);
        // And once more: space that came while the slot was locked has found no relay. Another turn looks again.
        if is_missed.load(Ordering::SeqCst) {
            let relay = parked.lock().take();
            if let Some(relay) = relay {
                relay.start();
            }
        }
        None
    }

    /// The relay, if a read waits for no fetch; else it goes on when there is more.
    fn wait_for_more(mut self) -> Option<Self> {
        let parked = WaitingRelay::default();
        let (taken, dispatch) = (Arc::clone(&parked), Arc::clone(&self.dispatch));
        let wake = Box::new(move || {
            // Waits for the slot, where the relay is about to be put.
            let relay = taken.lock().take();
            if let Some(relay) = relay {
                relay.go_on(&dispatch);
            }
        });
        let mut slot = parked.lock();
        if !self.body.would_wait(wake) {
            return Some(self);
        }
        *slot = Some(self);
        None
    }

    fn go_on(self, dispatch: &Dispatch) {
        dispatch.run_elsewhere(Box::new(move || self.run()));
    }
}
