//! Admission to the origin server, by calls that never wait.
//!
//! A request is admitted, is refused, or waits: it is woken when its turn has come, and it polls at a time
//! of its own if nobody wakes it. All rules are here and in the files below; `gated.rs` waits over them.
//!
//! One lock guards all that is remembered. It is held for a look and a note, and never while a waiting
//! request is woken.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::origin::gate::limits::Limits;
use crate::origin::gate::memory::{GateMemory, GateRequest, RequestHashes};
use crate::origin::gate::permits::{Permits, WakeRequest};
use crate::origin::gate::starts::{Start, StartTimes};
use crate::origin::limit_response::LimitCopy;
use crate::origin::{OriginCondition, OriginError, OriginHead};

/// The most requests that wait for a permit or for their start; one more is refused at once. Each keeps
/// a client waiting, its connection and what has come of its content: this bounds them all, and with
/// limits so tight that more would wait, the last would hardly get its turn within `wait_max`.
pub(super) const WAITING_MAX: usize = 4096;

/// The gate's answer to a request.
pub enum Admission {
    /// It may be sent. It is under way until the permit is dropped.
    Admitted(OriginPermit),
    /// Neither yet.
    Waits(WaitingRequest),
    /// It is not sent; nothing has reached the origin server.
    Refused(OriginError),
}

/// The gate, shared by its clones: by event loops and, with [`super::Gated`], by threads that wait.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<SharedGate>,
}

struct SharedGate {
    clock: Clock,
    wait_max: Duration,
    hasher: RandomState,
    state: Mutex<GateState>,
}

/// Guarded by [`SharedGate::state`].
struct GateState {
    memory: GateMemory,
    permits: Permits,
    starts: StartTimes,
    /// The number of the next request that waits. They rise in the order of arrival.
    next_number: u64,
}

/// What comes of a look at a request.
enum Turn {
    Begins,
    PollsAt(Instant),
    Refused(OriginError),
}

impl Gate {
    /// A gate with these limits.
    pub fn new(clock: Clock, limits: Limits) -> Self {
        limits.assert_possible();
        let state = GateState {
            memory: GateMemory::default(),
            permits: Permits::new(&limits),
            starts: StartTimes::new(limits.rate),
            next_number: 0,
        };
        let (hasher, state) = (RandomState::new(), Mutex::new(state));
        Self { shared: Arc::new(SharedGate { clock, wait_max: limits.wait_max, hasher, state }) }
    }

    /// Admits a request if the limits and the origin server allow it now.
    ///
    /// A request that waits is woken by `wake` when its turn has come: from any thread, possibly more
    /// than once, also when it has been polled meanwhile. `wake` must not wait. Nothing calls it after
    /// the request has been admitted, refused or dropped, but for a call that is under way.
    pub fn admit(
        &self,
        request: GateRequest<'_>,
        now: Instant,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Admission {
        let mut wake = Some(wake);
        let hashes = RequestHashes::new(&self.shared.hasher, request);
        let timestamp = self.shared.clock.now();
        // With a stale response at hand it is better given at once than after a wait.
        let wait_max = if request.waits { self.shared.wait_max } else { Duration::ZERO };
        let deadline = now + wait_max;
        // Under one lock, so that of many requests at once exactly one is the probe of this second.
        let mut state = self.shared.state.lock();
        let number = state.next_number;
        match state.admit(hashes, (now, timestamp), deadline, &mut wake) {
            Turn::Begins => Admission::Admitted(self.permit(hashes, timestamp)),
            Turn::Refused(error) => Admission::Refused(error),
            Turn::PollsAt(polls_at) => Admission::Waits(WaitingRequest {
                gate: self.clone(),
                hashes,
                number,
                deadline,
                polls_at,
                has_ended: false,
            }),
        }
    }

    /// What requests have shown of the origin server so far.
    pub(super) fn condition(&self) -> OriginCondition {
        let now = self.shared.clock.now();
        let state = self.shared.state.lock();
        OriginCondition {
            unreachable: state.memory.unreachable(),
            held_back: state.memory.held_back_at(now),
            in_flight: state.permits.in_flight(),
            waiting: state.waiting(),
        }
    }

    /// How many permits are out, and how many requests wait.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.permits.in_flight(), state.waiting())
    }

    /// How many clients and paths are held back.
    #[cfg(test)]
    pub(super) fn held_back(&self) -> usize {
        self.shared.state.lock().memory.held_back()
    }

    fn permit(&self, hashes: RequestHashes, asked_at: Timestamp) -> OriginPermit {
        OriginPermit { gate: self.clone(), hashes, asked_at }
    }

    /// Changes the state, and wakes those whose turn has come by it.
    fn change<T>(&self, change: impl FnOnce(&mut GateState, &mut Vec<WakeRequest>) -> T) -> T {
        let mut woken = Vec::new();
        let result = change(&mut self.shared.state.lock(), &mut woken);
        // Without the lock: what is woken may come here at once.
        for wake in woken {
            wake();
        }
        result
    }
}

impl GateState {
    /// A new request, in the order of the rules: what the server has said, then the limits. The rate is
    /// counted last: a request that is counted and not sent would delay others.
    fn admit(
        &mut self,
        hashes: RequestHashes,
        (now, timestamp): (Instant, Timestamp),
        deadline: Instant,
        wake: &mut Option<impl Fn() + Send + Sync + 'static>,
    ) -> Turn {
        if let Some(error) = self.memory.refusal(hashes, timestamp) {
            return Turn::Refused(error);
        }
        let start = self.starts.after_all(now, deadline);
        if let Start::TooLate(seconds) = start {
            return Turn::Refused(OriginError::Busy { seconds });
        }
        let may_wait = now < deadline && self.waiting() < WAITING_MAX;
        let begins = start == Start::Now;
        if (begins || may_wait) && self.permits.take(hashes.authority) {
            let Start::At(time) = start else {
                self.begin(hashes, (now, timestamp));
                return Turn::Begins;
            };
            let (number, wake) = (self.number(), wake.take().expect("it is taken once"));
            self.starts.enqueue(number, Some(time), Arc::new(wake));
            Turn::PollsAt(time)
        } else if may_wait {
            let (number, wake) = (self.number(), wake.take().expect("it is taken once"));
            self.permits.enqueue(hashes.authority, number, Arc::new(wake));
            Turn::PollsAt(deadline)
        } else {
            Turn::Refused(OriginError::Busy { seconds: 1 })
        }
    }

    /// A request that waits: whatever this returns but a time, it waits no longer.
    fn poll(
        &mut self,
        waiting: &WaitingRequest,
        (now, timestamp): (Instant, Timestamp),
        woken: &mut Vec<WakeRequest>,
    ) -> Turn {
        let WaitingRequest { hashes, number, deadline, .. } = *waiting;
        // Asked again: the server may have gone down or have limited such requests meanwhile.
        if let Some(error) = self.memory.refusal(hashes, timestamp) {
            self.withdraw(hashes, number, woken);
            return Turn::Refused(error);
        }
        if self.permits.is_waiting(hashes.authority, number) {
            if now < deadline {
                return Turn::PollsAt(deadline);
            }
            self.withdraw(hashes, number, woken);
            return Turn::Refused(OriginError::Busy { seconds: 1 });
        }
        match self.starts.poll(number, now, deadline) {
            Start::At(time) => Turn::PollsAt(time),
            Start::TooLate(seconds) => {
                self.withdraw(hashes, number, woken);
                Turn::Refused(OriginError::Busy { seconds })
            }
            Start::Now => {
                self.starts.withdraw(number);
                self.begin(hashes, (now, timestamp));
                woken.extend(self.starts.first_if_earlier());
                Turn::Begins
            }
        }
    }

    /// A request with a permit begins.
    fn begin(&mut self, hashes: RequestHashes, (now, timestamp): (Instant, Timestamp)) {
        self.memory.begin(hashes, timestamp);
        self.starts.begin(now);
    }

    /// Takes a waiting request out, and gives its permit back if it has one.
    fn withdraw(&mut self, hashes: RequestHashes, number: u64, woken: &mut Vec<WakeRequest>) {
        if self.permits.withdraw(hashes.authority, number) {
            return;
        }
        self.starts.withdraw(number);
        woken.extend(self.starts.first_if_earlier());
        self.give_back(hashes, woken);
    }

    /// Takes a permit back; the next request that waits for one has it from now on.
    fn give_back(&mut self, hashes: RequestHashes, woken: &mut Vec<WakeRequest>) {
        let Some((number, wake)) = self.permits.give_back(hashes.authority) else { return };
        self.starts.enqueue(number, None, Arc::clone(&wake));
        woken.push(wake);
    }

    fn waiting(&self) -> usize {
        self.permits.waiting() + self.starts.waiting()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// A request that waits for a permit or for its start. Dropped, it gives back what it has: its place in
/// the queue, or its permit, which goes to the next.
pub struct WaitingRequest {
    gate: Gate,
    hashes: RequestHashes,
    number: u64,
    deadline: Instant,
    polls_at: Instant,
    /// Nothing of it is left at the gate.
    has_ended: bool,
}

impl WaitingRequest {
    /// Asks again: when it was woken, and at [`Self::polls_at`].
    pub fn poll(mut self, now: Instant) -> Admission {
        let timestamp = self.gate.shared.clock.now();
        let turn = self.gate.change(|state, woken| state.poll(&self, (now, timestamp), woken));
        if let Turn::PollsAt(time) = turn {
            self.polls_at = time;
            return Admission::Waits(self);
        }
        self.has_ended = true;
        match turn {
            Turn::Refused(error) => Admission::Refused(error),
            _ => Admission::Admitted(self.gate.permit(self.hashes, timestamp)),
        }
    }

    /// When to poll although nobody has woken it: at its start under `--origin-rate`, or at its deadline.
    pub fn polls_at(&self) -> Instant {
        self.polls_at
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        if !self.has_ended {
            self.gate.change(|state, woken| state.withdraw(self.hashes, self.number, woken));
        }
    }
}

/// The permit to have one request under way; given back when it is dropped.
pub struct OriginPermit {
    gate: Gate,
    hashes: RequestHashes,
    asked_at: Timestamp,
}

impl OriginPermit {
    /// Notes what a response says about the origin server. If it limits requests, those that are held
    /// back get the same response: the copy is to be given its content as that passes by.
    pub fn note_answer(&self, head: &OriginHead) -> Option<LimitCopy> {
        let now = self.gate.shared.clock.now();
        let mut state = self.gate.shared.state.lock();
        state.memory.note_reached(self.hashes, now);
        state.memory.note_limit(self.hashes, head, now)
    }

    /// Notes that the origin server has gone over to another protocol: it can be reached.
    pub fn note_upgrade(&self) {
        let now = self.gate.shared.clock.now();
        self.gate.shared.state.lock().memory.note_reached(self.hashes, now);
    }

    /// Notes that the origin server could not be reached, where the error says so: no connection; or
    /// silence since this request was sent, for other requests as well.
    pub fn note_error(&self, error: &OriginError) {
        let mut state = self.gate.shared.state.lock();
        state.memory.note_error(self.hashes, self.asked_at, error);
    }
}

impl Drop for OriginPermit {
    fn drop(&mut self) {
        self.gate.change(|state, woken| state.give_back(self.hashes, woken));
    }
}
