//! When `--origin-rate` lets the next request begin: in any span of its length, N at most.
//!
//! Requests that wait here have a permit already. Their start times follow from their order: if one of them
//! goes away, those behind it begin earlier. The first one is woken for that, and each is when it becomes
//! the first; the others poll when they were told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::origin::gate::limits::Rate;
use crate::origin::gate::permits::WakeRequest;

/// The start of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Start {
    /// It begins.
    Now,
    /// It begins then, if no request before it goes away.
    At(Instant),
    /// It would begin after its deadline, in as many seconds.
    TooLate(u32),
}

/// When requests have begun, and those that wait to begin.
pub(super) struct StartTimes {
    rate: Option<Rate>,
    /// When the last requests have begun, the earliest first: as many of them as the rate counts.
    begun: VecDeque<Instant>,
    /// By their numbers, which rise in the order of arrival.
    waiting: BTreeMap<u64, WaitingStart>,
}

struct WaitingStart {
    /// When it will poll by itself; `None` if it was woken and has not polled since.
    polls_at: Option<Instant>,
    wake: WakeRequest,
}

impl StartTimes {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self { rate, begun: VecDeque::new(), waiting: BTreeMap::new() }
    }

    /// When a new request may begin, behind all that wait.
    pub(super) fn after_all(&self, now: Instant, deadline: Instant) -> Start {
        self.start(self.waiting.len(), now, deadline)
    }

    /// A request begins.
    pub(super) fn begin(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        if self.begun.len() >= rate.requests {
            self.begun.pop_front();
        }
        // Of two threads, the one that has read its clock first may come second.
        let now = self.begun.back().map_or(now, |last| now.max(*last));
        self.begun.push_back(now);
        assert!(self.begun.len() <= rate.requests, "the memory of the rate is bounded by it");
    }

    /// Lets a request with a permit wait for its start; `polls_at` is `None` if it is being woken.
    pub(super) fn enqueue(&mut self, number: u64, polls_at: Option<Instant>, wake: WakeRequest) {
        self.waiting.insert(number, WaitingStart { polls_at, wake });
    }

    /// May this waiting request begin?
    pub(super) fn poll(&mut self, number: u64, now: Instant, deadline: Instant) -> Start {
        let start = self.start(self.waiting.range(..number).count(), now, deadline);
        if let Start::At(time) = start {
            let waiting = self.waiting.get_mut(&number).expect("it is kept until it is withdrawn");
            waiting.polls_at = Some(time);
        }
        start
    }

    /// Takes a waiting request out.
    pub(super) fn withdraw(&mut self, number: u64) {
        let withdrawn = self.waiting.remove(&number);
        assert!(withdrawn.is_some(), "whoever has a permit and has not begun is kept here");
    }

    /// The wake of the first waiting request, if it can begin earlier than it knows.
    pub(super) fn first_if_earlier(&mut self) -> Option<WakeRequest> {
        let requests = self.rate?.requests;
        let per = self.rate?.per;
        let mut first = self.waiting.first_entry()?;
        let polls_at = first.get().polls_at?;
        let is_free = self.begun.len() < requests;
        if !is_free && self.begun.front().is_none_or(|begun| *begun + per >= polls_at) {
            return None;
        }
        // Not again before it has polled.
        first.get_mut().polls_at = None;
        Some(Arc::clone(&first.get().wake))
    }

    /// How many requests wait for their start.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The start of a request that has `before` waiting requests before it.
    fn start(&self, before: usize, now: Instant, deadline: Instant) -> Start {
        let Some(time) = self.time(before, now).filter(|time| *time > now) else {
            return Start::Now;
        };
        if time <= deadline {
            return Start::At(time);
        }
        let seconds = (time - now).as_secs().saturating_add(1);
        Start::TooLate(seconds.min(u64::from(u32::MAX)) as u32)
    }

    /// When a request begins that has `before` waiting requests before it; `None` for at once.
    ///
    /// In any span of the rate's length: a request begins one span after the one that lies as many
    /// requests back, be that one that has begun or, a span earlier, one that waits.
    fn time(&self, before: usize, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        let spans = (before / rate.requests) as u32;
        let position = self.begun.len() + before % rate.requests;
        let time = match position.checked_sub(rate.requests) {
            None => now,
            Some(back) => now.max(self.begun[back] + rate.per),
        };
        Some(time + rate.per * spans)
    }
}
