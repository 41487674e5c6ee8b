//! What the connections of one event loop share: the time, the counters, and buffers that they use in
//! turn, so that none of them needs any of its own while it is idle.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Timestamp;
use crate::front::dispatch::Dispatch;
use crate::front::event::exchange::LoopInbox;
use crate::front::event::inbox::{Endless, ExchangeId};
use crate::front::event::output::TurnBuffer;
use crate::front::event::timeouts::{Moment, Timeouts};
use crate::front::outgoing::SCRATCH_BYTES;
use crate::message::request::RequestLimits;
use crate::stats::{AccessLog, Tally};

/// Hits of the fast path, counted by the loop: a counter that all threads share would cost each hit more
/// than its lookup.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FastHits {
    pub count: u64,
    pub content_bytes: u64,
}

/// What a loop's connections share.
pub(super) struct LoopState {
    pub dispatch: Arc<Dispatch>,
    pub inbox: Arc<LoopInbox>,
    pub log: Arc<Option<AccessLog>>,
    pub limits: RequestLimits,
    pub timeouts: Timeouts,
    /// The proxy is about to end: connections do not go on after their response.
    pub draining: bool,
    /// What becomes of streams without an end.
    pub endless: Endless,
    /// The time, read when the loop woke up.
    pub now: Timestamp,
    /// The moment, as of the last check of timeouts.
    pub moment: Moment,
    /// Bytes that have come and cannot be used yet, of all connections together. Each connection counts
    /// what it keeps, by [`LoopState::hold`], and gives it back, by [`LoopState::release`].
    held: usize,
    /// The most of them: what one client does not finish must not cost the others their memory.
    held_max: usize,
    /// What the connection that has a turn puts its responses together in.
    pub turn_buffer: TurnBuffer,
    /// A piece of a body on its way to a client.
    pub scratch: Vec<u8>,
    /// The clients' sockets take content out of pipes.
    pub takes_pipes: bool,
    /// The cache key of a plain request.
    pub key: String,
    /// Hits of the fast path since they were counted last.
    pub fast_hits: FastHits,
    /// How long they took.
    pub latencies: Tally,
    /// When the loop woke up.
    pub woke: Instant,
    next_number: u64,
}

impl LoopState {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        inbox: Arc<LoopInbox>,
        log: Arc<Option<AccessLog>>,
        limits: RequestLimits,
        timeouts: Timeouts,
        held_max: usize,
    ) -> Self {
        // Read again when the loop wakes up; nothing happens before.
        let now = dispatch.proxy.now();
        Self {
            dispatch,
            inbox,
            log,
            limits,
            timeouts,
            draining: false,
            endless: Endless::GoOn,
            now,
            moment: Moment::default(),
            held: 0,
            held_max,
            turn_buffer: TurnBuffer::default(),
            scratch: vec![0; SCRATCH_BYTES],
            takes_pipes: false,
            key: String::new(),
            fast_hits: FastHits::default(),
            latencies: Tally::default(),
            woke: Instant::now(),
            next_number: 0,
        }
    }

    /// Counts `bytes` more that a connection keeps; `false`, and nothing is counted, if that is too many.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let fits = self.held + bytes <= self.held_max;
        if fits {
            self.held += bytes;
        }
        fits
    }

    /// Counts `bytes` less.
    pub(super) fn release(&mut self, bytes: usize) {
        // A number that wrapped would refuse every request from then on.
        assert!(self.held >= bytes, "a connection gives back what it has kept");
        self.held -= bytes;
    }

    /// Is nothing kept for any connection?
    pub(super) fn holds_nothing(&self) -> bool {
        self.held == 0
    }

    /// The id of a new exchange of the connection in this slot.
    pub(super) fn next_id(&mut self, slot: usize) -> ExchangeId {
        // Counted, never reused: a slot's next client must not be given a message for the last one.
        self.next_number += 1;
        ExchangeId { slot, number: self.next_number }
    }

    /// Adds the hits of the fast path to the counters that all threads share.
    pub(super) fn count(&mut self) {
        // Once a round: the counters are atomic, and shared by all loops and workers.
        let FastHits { count, content_bytes } = std::mem::take(&mut self.fast_hits);
        if count > 0 {
            let stats = self.dispatch.proxy.stats();
            stats.count_fast_hits(count, content_bytes);
            stats.count_hit_latencies(&std::mem::take(&mut self.latencies));
        }
    }
}
