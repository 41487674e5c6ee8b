//! The threads that send growing and large bodies to clients that cannot take them as fast as they
//! come, or that wait for another request's fetch: any number of clients, each at its own pace, none of
//! which holds a worker.
//!
//! A thread owns its responses. Other threads reach it by its inbox alone: new responses, and the
//! numbers of those whose body has grown.

use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

use crate::front::outgoing::{Halt, SCRATCH_BYTES};
use crate::front::relay::{Relay, Relayed};
use crate::front::tiny::sending::Sending;
use crate::proxy::ContentFetch;
use crate::proxy::fill::PIECE_BYTES;
use crate::stats::{Counter, Stats};
use crate::vital;

/// The waker's token, among the clients' numbers.
const INBOX: Token = Token(usize::MAX);

/// All the threads, one for each core.
pub(super) struct Pumps {
    pumps: Vec<Pump>,
    next: AtomicUsize,
}

impl Pumps {
    /// Starts the threads.
    pub(super) fn start(stats: &Arc<Stats>) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pumps = (0..count).map(|_| Pump::start(stats)).collect::<io::Result<_>>()?;
        Ok(Self { pumps, next: AtomicUsize::new(0) })
    }

    /// The thread for one more response, in turn.
    pub(super) fn choose(&self) -> &Pump {
        &self.pumps[self.next.fetch_add(1, Ordering::Relaxed) % self.pumps.len()]
    }
}

/// Hands responses to one thread.
pub(super) struct Pump {
    inbox: Arc<PumpInbox>,
}

struct PumpInbox {
    waker: Waker,
    messages: Mutex<PumpMessages>,
}

/// What other threads have sent since the thread last read it. Guarded by [`PumpInbox::messages`].
#[derive(Default)]
struct PumpMessages {
    new: Vec<Sending>,
    /// The responses whose body has grown.
    grown: HashSet<usize>,
}

impl Pump {
    fn start(stats: &Arc<Stats>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), INBOX)?;
        let inbox = Arc::new(PumpInbox { waker, messages: Mutex::default() });
        let stats = Arc::clone(stats);
        let thread_inbox = Arc::clone(&inbox);
        let work = move || {
            let sendings = HashMap::new();
            let scratch = vec![0; SCRATCH_BYTES];
            Pumping { poll, inbox: thread_inbox, sendings, next: 0, scratch, stats }.run()
        };
        vital::spawn("pump", work)?;
        Ok(Self { inbox })
    }

    /// Sends what the client takes at once of a response, on this thread; the pump sends the rest.
    pub(super) fn send(&self, mut sending: Sending) {
        match sending.advance(&mut vec![0; SCRATCH_BYTES]) {
            Halt::Blocked | Halt::Starved => self.add(sending),
            halt => sending.finish(halt),
        }
    }

    /// Hands a response to the thread.
    fn add(&self, sending: Sending) {
        // First the message, then the wake-up: the thread reads its messages once it is awake.
        self.inbox.messages.lock().new.push(sending);
        self.inbox.wake();
    }

    /// Sends a response and fetches its body, on this thread, as long as the client keeps up; then the
    /// fetch goes on alone.
    pub(super) fn drive(&self, mut sending: Sending, mut rest: ContentFetch) {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match sending.advance(&mut scratch) {
                // This thread is the one that moves the body along: another step brings more, or the
                // end.
                Halt::Starved => _ = rest.step(&mut piece),
                Halt::Blocked => {
                    self.add(sending);
                    break;
                }
                halt => {
                    sending.finish(halt);
                    break;
                }
            }
        }
        // The rest may take minutes, and has a buffer of its own.
        drop((scratch, piece));
        rest.run();
    }

    /// Sends a response and reads its body, on this thread, as long as neither the client nor the body has to be waited
    /// for; then the two go on by themselves.
    pub(super) fn relay(&self, mut sending: Sending, relay: Relay) {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut piece = vec![0; PIECE_BYTES];
        let mut step = |relay: Relay| match relay.step(&mut piece) {
            Relayed::Moved(relay) => Some(relay),
            Relayed::Waits | Relayed::Over => None,
        };
        // First the body, so that a short one goes out with its head.
        let mut relay = step(relay);
        let rest = loop {
            match (sending.advance(&mut scratch), relay) {
                (Halt::Starved, Some(more)) => relay = step(more),
                (Halt::Blocked | Halt::Starved, rest) => {
                    self.add(sending);
                    break rest;
                }
                (halt, rest) => {
                    sending.finish(halt);
                    break rest;
                }
            }
        };
        // It fills the window of a client that takes nothing, and gives up a body that has no client any more.
        if let Some(rest) = rest {
            rest.run();
        }
    }
}

impl PumpInbox {
    fn wake(&self) {
        // It fails only if the system has no memory for eight bytes; the next wake-up will do.
        let _ = self.waker.wake();
    }
}

/// What the thread owns.
struct Pumping {
    poll: Poll,
    inbox: Arc<PumpInbox>,
    sendings: HashMap<usize, Sending>,
    next: usize,
    scratch: Vec<u8>,
    stats: Arc<Stats>,
}

impl Pumping {
    fn run(mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(256);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(format!("waiting for clients: {error}"));
            }
            // The lock is held for the exchange of two values: the threads that send messages must not wait.
            let PumpMessages { new, mut grown } = std::mem::take(&mut *self.inbox.messages.lock());
            grown.extend(events.iter().map(|event| event.token().0));
            for sending in new {
                if let Some(number) = self.take_in(sending) {
                    grown.insert(number);
                }
            }
            for number in grown {
                self.advance(number);
            }
        }
    }

    /// Begins to send a response; gives its number.
    fn take_in(&mut self, mut sending: Sending) -> Option<usize> {
        // Numbers are never used again, so that a late wake-up reaches no other response.
        let number = self.next;
        self.next += 1;
        let descriptor = sending.socket().descriptor();
        let registry = self.poll.registry();
        let source = &mut SourceFd(&descriptor);
        if let Err(error) = registry.register(source, Token(number), Interest::WRITABLE) {
            log::warn!("waiting for a client: {error}");
            sending.finish(Halt::Failed);
            return None;
        }
        let inbox = Arc::clone(&self.inbox);
        sending.listen(Box::new(move || {
            let mut messages = inbox.messages.lock();
            // One wake-up for all that grows until the thread reads its messages.
            let first = messages.grown.is_empty();
            messages.grown.insert(number);
            drop(messages);
            if first {
                inbox.wake();
            }
        }));
        let replaced = self.sendings.insert(number, sending);
        assert!(replaced.is_none(), "a number is one response's");
        Some(number)
    }

    /// Sends what there is to one client.
    fn advance(&mut self, number: usize) {
        // Over already: the socket and the body may both have called.
        let Some(sending) = self.sendings.get_mut(&number) else { return };
        // A bug that one response reaches costs its client, not the thread's other clients.
        let scratch = &mut self.scratch;
        let halt = catch_unwind(AssertUnwindSafe(|| sending.advance(scratch)));
        if matches!(halt, Ok(Halt::Blocked | Halt::Starved)) {
            return;
        }
        if let Some(sending) = self.sendings.remove(&number) {
            let descriptor = sending.socket().descriptor();
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
            match halt {
                Ok(halt) => sending.finish(halt),
                Err(_) => self.stats.count(Counter::Panic),
            }
        }
    }
}
