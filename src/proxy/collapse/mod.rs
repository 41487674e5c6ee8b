//! Collapsed requests: of those that ask the same, one request leads and the others follow it. RFC 9111 §4
//! permits it.
//!
//! A request that follows holds no thread: it is parked, as a closure that is called when there is something
//! for it. As soon as the head of the leader's response shows that others may have the response, all followers
//! get it, and its body while that grows; so do requests that come while it grows. Every other end of a fetch
//! is an [`Outcome`], and what each outcome means for the followers is said there alone.
//!
//! A response that is invalidated on its way goes to no request that came after the invalidation: the next
//! request begins a flight of its own, which takes over the followers that are parked already.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;

use crate::message::growing;
use crate::policy::key::CacheKey;
use crate::policy::reason::Detail;
use crate::policy::stored::StoredHead;
use crate::store::Put;
use crate::store::spooled::Spooled;
use crate::store::underway::Begun;

mod duty;
mod join;

pub use duty::Duty;

/// For how long a key is remembered after its response could not be shared.
const HIT_FOR_MISS: Duration = Duration::from_secs(5);
/// The most keys that are remembered; one more, and all are forgotten, which costs a few requests a wait.
const HIT_FOR_MISS_MAX: usize = 10_000;

/// What requests must have in common to wait for one answer: the target URI and, where it is known
/// which fields select among its variants, the values of these fields.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct FlightKey {
    /// The cache key.
    pub key: CacheKey,
    /// The fingerprint of the selecting header fields; empty where none are known.
    pub selecting: Vec<u8>,
}

/// A response that followers may be given while its body grows.
pub struct Shareable {
    /// All but its content.
    pub head: StoredHead,
    /// The content.
    pub body: Arc<growing::GrowingBody>,
    /// The content on its way into the store behind memory, once it has turned out too large for memory.
    pub spooled: OnceLock<Arc<Spooled>>,
}

/// A failure of the origin server that followers are answered with, too.
#[derive(Debug)]
pub struct Failed {
    /// The status to answer with.
    pub status: StatusCode,
    /// The reason, as `Cache-Status` says it.
    pub detail: Detail,
    /// The reason in words, for the content of the error response.
    pub text: String,
    /// The connection failed, not the origin server: one follower leads then and tries, once a flight.
    pub another_may_try: bool,
}

/// What a parked request is resumed with.
pub enum FollowerOutcome {
    /// The response is stored: look it up.
    Stored,
    /// The response is on its way, and may be read along.
    Growing(Arc<Shareable>),
    /// The response was invalidated on its way: look up again, and collapse again.
    Cleared,
    /// The origin server has just failed.
    Failed(Arc<Failed>),
    /// The leader ended without an outcome, or with one that another may better: lead.
    Lead(Leader),
    /// There is nothing to share: ask the origin server alone.
    Unshareable,
}

/// Resumes a parked request. Called once, without a lock, by the thread that has the outcome; must not block.
pub type Parked = Box<dyn FnOnce(FollowerOutcome) + Send>;

/// All flights: the fetches that others may join.
#[derive(Default)]
pub struct Flights {
    state: Mutex<FlightsState>,
}

/// Guarded by [`Flights::state`].
#[derive(Default)]
struct FlightsState {
    flights: HashMap<FlightKey, Flight>,
    /// Keys whose responses could not be shared, and until when that is remembered.
    hit_for_miss: HashMap<CacheKey, Instant>,
    /// The same for requests with credentials alone.
    personal: HashMap<CacheKey, Instant>,
    next_number: u64,
}

/// One fetch that others may follow.
struct Flight {
    /// Distinguishes it from earlier and later flights for the same key.
    number: u64,
    since: Instant,
    /// The fetch as it is noted: what was invalidated since then, its response is not stored over.
    begun: Begun,
    parked: Vec<Waiter>,
    /// The response, once its head has come and shows that it may be shared.
    growing: Option<Arc<Shareable>>,
    /// A second leader is at it already; there is no third.
    handed_over: bool,
}

impl Flight {
    /// Was its response invalidated, so that no request that comes now may have it?
    fn is_outdated(&self) -> bool {
        match &self.growing {
            Some(shareable) => !self.begun.admits(&shareable.head),
            None => self.begun.is_cleared(),
        }
    }
}

/// What a follower gets when `shareable` grows: that response, unless it was invalidated for this follower.
fn offer(shareable: &Arc<Shareable>, begun: &Begun, entitlement: Entitlement) -> FollowerOutcome {
    let head = &shareable.head;
    if begun.admits(head)
        || entitlement.was_invalidated && begun.admitted_at(entitlement.moment, head)
    {
        FollowerOutcome::Growing(Arc::clone(shareable))
    } else {
        FollowerOutcome::Cleared
    }
}

/// A parked request.
struct Waiter {
    resume: Parked,
    entitlement: Entitlement,
}

/// Which invalidations keep a response from a follower.
#[derive(Clone, Copy)]
struct Entitlement {
    /// The flight's moment (`Begun::moment`) when the request joined it: what was invalidated by then must not
    /// be given to it.
    moment: usize,
    /// What the request followed before was invalidated: it may have what was invalidated after it came. So it
    /// waits for two responses at most, however often that happens.
    was_invalidated: bool,
}

/// What a request does after [`Flights::join`].
pub enum FlightRole {
    /// Ask the origin server; others may come to follow. The fetch is noted from here on.
    Lead(Leader, Begun),
    /// Ask the origin server alone: the last response under this key could not be shared.
    Alone,
    /// Follow the leader.
    Wait(Joined),
}

impl Flights {
    /// Joins the flight for `key`, or begins it: then `note` notes the fetch. `was_invalidated`: what the request
    /// followed before was invalidated. Never waits.
    pub fn join(
        self: &Arc<Self>,
        key: FlightKey,
        note: impl FnOnce() -> Begun,
        was_invalidated: bool,
    ) -> FlightRole {
        let mut state = self.state.lock();
        // The last response under this key could not be shared, and the next one probably cannot
        // either: to wait for it would be in vain.
        if state.hit_for_miss.get(&key.key).is_some_and(|until| *until > Instant::now()) {
            return FlightRole::Alone;
        }
        let mut parked = Vec::new();
        if let Some(flight) = state.flights.get_mut(&key) {
            if !flight.is_outdated() {
                let entitlement = Entitlement { moment: flight.begun.moment(), was_invalidated };
                // The request is parked later, by `park`: under this lock nothing is called that could
                // join again.
                let number = flight.number;
                drop(state);
                return FlightRole::Wait(Joined {
                    flights: Arc::clone(self),
                    key,
                    number,
                    entitlement,
                });
            }
            parked = std::mem::take(&mut flight.parked);
            forget_invalidations(&mut parked);
        }
        // Under the lock, and not before: a fetch that was noted earlier might be outdated from its
        // beginning, and the next request would lead, too.
        let begun = note();
        let number = state.next_number;
        state.next_number += 1;
        let (since, noted) = (Instant::now(), begun.clone());
        let flight =
            Flight { number, since, begun: noted, parked, growing: None, handed_over: false };
        let outdated = state.flights.insert(key.clone(), flight);
        drop(state);
        // With it may go the last hold on a body.
        drop(outdated);
        FlightRole::Lead(
            Leader { flights: Arc::clone(self), key, number, is_settled: false },
            begun,
        )
    }

    /// Was a response for `key` lately not shared because of the request's credentials? Then it is in vain
    /// for others who have some to wait.
    pub fn is_personal(&self, key: &CacheKey) -> bool {
        self.state.lock().personal.get(key).is_some_and(|until| *until > Instant::now())
    }

    /// Resumes the followers of all flights that are older than `most`: each asks for itself. Forgets the keys
    /// whose time is over.
    pub fn expire(&self, most: Duration) {
        let now = Instant::now();
        let mut released = Vec::new();
        let mut state = self.state.lock();
        state.hit_for_miss.retain(|_, until| *until > now);
        state.personal.retain(|_, until| *until > now);
        for flight in state.flights.values_mut() {
            // By the age of the flight: who came later has not waited longer. The flight goes on, and
            // may be joined.
            if now.duration_since(flight.since) > most {
                released.append(&mut flight.parked);
            }
        }
        drop(state);
        resume_all(released, || FollowerOutcome::Unshareable);
    }

    /// How many flights there are, and how many requests wait.
    pub fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        let waiting = state.flights.values().map(|flight| flight.parked.len()).sum();
        (state.flights.len(), waiting)
    }

    fn end(self: &Arc<Self>, key: &FlightKey, number: u64, outcome: &Outcome) {
        let mut state = self.state.lock();
        // Of another number, it is the flight of a request that came after an invalidation, and took
        // over the followers.
        let ours = state.flights.get(key).filter(|flight| flight.number == number);
        // Tried once: two in a row whose connections died are a reason for all.
        let is_tried = ours.is_none_or(|flight| flight.handed_over);
        if matches!(outcome, Outcome::Failed(failed) if failed.another_may_try) && !is_tried {
            drop(state);
            return self.hand_over(key, number);
        }
        // Taken out under the lock of the look above: nobody joins what has ended, and nobody is
        // resumed twice.
        let flight = if ours.is_some() { state.flights.remove(key) } else { None };
        let remembered = match outcome {
            Outcome::Unshareable(Scope::Credentials) => Some(&mut state.personal),
            outcome if outcome.is_remembered() => Some(&mut state.hit_for_miss),
            _ => None,
        };
        if let Some(remembered) = remembered {
            if remembered.len() >= HIT_FOR_MISS_MAX {
                remembered.clear();
            }
            remembered.insert(key.key.clone(), Instant::now() + HIT_FOR_MISS);
        }
        drop(state);
        // Without the lock: a resumed request may join again in this very call.
        resume_all(flight.map(|flight| flight.parked).unwrap_or_default(), || {
            outcome.for_followers()
        });
    }

    /// The leader is gone without an outcome: one follower leads now, unless that has been tried.
    fn hand_over(self: &Arc<Self>, key: &FlightKey, number: u64) {
        let mut state = self.state.lock();
        let next_leader = match state.flights.get_mut(key) {
            Some(flight) if flight.number == number && !flight.handed_over => {
                flight.handed_over = true;
                flight.parked.pop()
            }
            _ => None,
        };
        drop(state);
        // Nobody waits, or the lead was handed over before: what has ended two leaders may end every
        // one.
        let Some(next_leader) = next_leader else {
            return self.end(key, number, &Outcome::Unshareable(Scope::Request));
        };
        let (flights, key) = (Arc::clone(self), key.clone());
        (next_leader.resume)(FollowerOutcome::Lead(Leader {
            flights,
            key,
            number,
            is_settled: false,
        }));
    }
}

/// How a fetch ended. What its followers are given follows from it, here and nowhere else.
#[derive(Debug)]
pub enum Outcome {
    /// The response is stored in memory.
    Stored,
    /// The response is stored in the backing store alone.
    StoredInBacking,
    /// The stored response still holds, and is stored with new fields (RFC 9111 §4.3.4).
    Freshened,
    /// The response was purged, or its key invalidated, before it could be stored.
    Cleared,
    /// No store has space for the response.
    TooLarge,
    /// The response may not be stored, or not be reused as it is.
    Unshareable(Scope),
    /// The origin server failed, and so it would for the others.
    Failed(Arc<Failed>),
}

/// Whose requests a response is not to be shared among.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// All that ask the same: the key is remembered.
    Everyone,
    /// Those with credentials: the key is remembered for them.
    Credentials,
    /// This one, or those of this moment: nothing is remembered.
    Request,
}

impl Outcome {
    /// The outcome of a fetch whose response is stored, in memory or in the backing store alone.
    pub fn stored(is_here: bool) -> Self {
        // Followers look in memory; for what is in the backing store each of them has to recall it.
        if is_here { Self::Stored } else { Self::StoredInBacking }
    }

    /// The outcome of a fetch that failed so. A 429 is about whose request it was (RFC 6585 §4), and followers
    /// may have other credentials; any other failure would meet them as well.
    pub fn failed(failed: Failed) -> Self {
        if failed.status == StatusCode::TOO_MANY_REQUESTS {
            Self::Unshareable(Scope::Request)
        } else {
            Self::Failed(Arc::new(failed))
        }
    }

    /// The outcome of a fetch whose response was not stored for this reason; `None` if it was stored.
    pub fn of(refusal: Option<Detail>) -> Self {
        match refusal {
            // What has overtaken it is there, for who looks it up.
            None | Some(Detail::Replaced) => Self::Stored,
            Some(Detail::Cleared) => Self::Cleared,
            Some(Detail::TooLarge | Detail::Memory) => Self::TooLarge,
            Some(_) => Self::Unshareable(Scope::Everyone),
        }
    }

    fn for_followers(&self) -> FollowerOutcome {
        match self {
            Self::Stored | Self::Freshened => FollowerOutcome::Stored,
            Self::Cleared => FollowerOutcome::Cleared,
            Self::Failed(failed) => FollowerOutcome::Failed(Arc::clone(failed)),
            // Each asks for itself: the backing store first, where there is one.
            Self::StoredInBacking | Self::TooLarge | Self::Unshareable(_) => {
                FollowerOutcome::Unshareable
            }
        }
    }

    /// Is the key remembered, because the next response under it can probably not be shared either?
    pub fn is_remembered(&self) -> bool {
        matches!(self, Self::TooLarge | Self::Unshareable(Scope::Everyone))
    }
}

impl From<Put> for Outcome {
    fn from(put: Put) -> Self {
        Self::of(put.refusal())
    }
}

fn resume_all(parked: Vec<Waiter>, outcome: impl Fn() -> FollowerOutcome) {
    for waiter in parked {
        (waiter.resume)(outcome());
    }
}

/// These requests follow a fetch that begins only now: whatever was invalidated before does not concern it.
fn forget_invalidations(parked: &mut [Waiter]) {
    for waiter in parked {
        waiter.entitlement.moment = 0;
    }
}

/// The one request of a flight that asks the origin server. Dropped without an outcome, it hands over to a
/// follower.
pub struct Leader {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
    is_settled: bool,
}

impl Leader {
    /// Ends the flight with this outcome.
    pub fn settle(mut self, outcome: &Outcome) {
        self.is_settled = true;
        self.flights.end(&self.key, self.number, outcome);
    }

    /// Does `begun` fetch what the flight is for?
    fn leads_for(&self, begun: &Begun) -> bool {
        self.key.key == *begun.key()
    }

    /// The fetch begins only now, at `begun`: what was invalidated before does not concern it. If it is the
    /// one that the flight began with, that still does.
    pub fn renew(&self, begun: &Begun) {
        let mut state = self.flights.state.lock();
        if let Some(flight) = state.flights.get_mut(&self.key)
            && flight.number == self.number
            && !flight.begun.is_same(begun)
        {
            let before = std::mem::replace(&mut flight.begun, begun.clone());
            forget_invalidations(&mut flight.parked);
            drop(state);
            drop(before);
        }
    }

    /// The head of the response has come, and others may have it: the followers, and requests that come until
    /// the flight ends or the response is invalidated. If it has been by now, the followers collapse again.
    pub fn share(&self, shareable: &Arc<Shareable>) {
        let mut state = self.flights.state.lock();
        let Some(flight) = state.flights.get_mut(&self.key) else { return };
        if flight.number != self.number {
            return;
        }
        // Requests that join from now on are offered it by `park`.
        flight.growing = Some(Arc::clone(shareable));
        let parked = std::mem::take(&mut flight.parked);
        let begun = flight.begun.clone();
        drop(state);
        for Waiter { resume, entitlement } in parked {
            resume(offer(shareable, &begun, entitlement));
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_settled {
            self.flights.hand_over(&self.key, self.number);
        }
    }
}

/// A request that has joined a flight, and is not parked yet. Dropped, nobody is resumed for it.
pub struct Joined {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
    entitlement: Entitlement,
}

impl Joined {
    /// Parks the request until there is something for it. `resume` is called in this very call if that is so
    /// already.
    pub fn park(self, resume: Parked) {
        let mut state = self.flights.state.lock();
        let outcome = match state.flights.get_mut(&self.key) {
            Some(flight) if flight.number == self.number => {
                let Some(shareable) = &flight.growing else {
                    flight.parked.push(Waiter { resume, entitlement: self.entitlement });
                    return;
                };
                offer(shareable, &flight.begun, self.entitlement)
            }
            // It has ended since the request joined it. With what outcome is not known any more, but a
            // look shows what there is.
            _ => FollowerOutcome::Stored,
        };
        drop(state);
        resume(outcome);
    }
}

#[cfg(test)]
mod tests;
