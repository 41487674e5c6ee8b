//! Collapsed requests: one leader a cache key, the others wait. RFC 9111 §4 permits it.
//!
//! A request that waits holds no thread: it is parked, as a piece of work that is handed back when
//! there is something for it. As soon as the head of the leader's response shows that others may have
//! it, they all get it, and its body while it grows; so does whoever comes while it grows. An answer
//! that cannot be shared sends all who wait to the origin server in parallel, and the key is remembered
//! for some seconds so that the next ones do not wait in vain. A leader that dies without an answer
//! hands over to one of those who wait, once; one whose origin server failed shares that.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;

use crate::growing;
use crate::policy::key::CacheKey;
use crate::policy::reason::Detail;
use crate::policy::stored::StoredHead;
use crate::store::spool::Spooled;

/// For how long a key is remembered whose response could not be shared.
const HIT_FOR_MISS: Duration = Duration::from_secs(5);
/// The most keys remembered so; beyond it the memory is emptied, which costs a little waiting.
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

/// A response that others may be given while its body grows.
pub struct Shareable {
    /// All but its content.
    pub head: StoredHead,
    /// The content.
    pub body: Arc<growing::Shared>,
    /// The content on its way into the store behind memory, once it has turned out too large for memory.
    pub spooled: OnceLock<Arc<Spooled>>,
}

/// The origin server failed, and so it would for the others.
#[derive(Debug)]
pub struct Failed {
    /// The status to answer with.
    pub status: StatusCode,
    /// The reason.
    pub detail: Detail,
    /// The same in words.
    pub text: String,
}

/// What a request that has waited is given.
pub enum Landing {
    /// The response is stored: look it up.
    Stored,
    /// This response is on its way in.
    Growing(Arc<Shareable>),
    /// The origin server has just failed.
    Failed(Arc<Failed>),
    /// The leader is gone: lead.
    Lead(Leader),
    /// There is nothing to share: ask the origin server yourself.
    Unshareable,
}

/// What a parked request does when the flight that it waits for ends.
pub type Parked = Box<dyn FnOnce(Landing) + Send>;

/// All flights in the air.
#[derive(Default)]
pub struct Flights {
    state: Mutex<State>,
}

/// Guarded by [`Flights::state`].
#[derive(Default)]
struct State {
    in_the_air: HashMap<FlightKey, Flight>,
    hit_for_miss: HashMap<CacheKey, Instant>,
    next_number: u64,
}

struct Flight {
    number: u64,
    since: Instant,
    parked: Vec<Parked>,
    growing: Option<Arc<Shareable>>,
    handed_over: bool,
}

/// What a request is to do.
pub enum Turn {
    /// Ask the origin server; others may come to wait for it.
    Lead(Leader),
    /// Ask the origin server, for oneself alone: answers under this key cannot be shared.
    Alone,
    /// Wait for the leader.
    Wait(Seat),
}

impl Flights {
    /// Joins the flight for `key`, or begins it. Never waits.
    pub fn join(self: &Arc<Self>, key: FlightKey) -> Turn {
        let mut state = self.state.lock();
        if state.hit_for_miss.get(&key.key).is_some_and(|until| *until > Instant::now()) {
            return Turn::Alone;
        }
        if let Some(flight) = state.in_the_air.get(&key) {
            let number = flight.number;
            drop(state);
            return Turn::Wait(Seat { flights: Arc::clone(self), key, number });
        }
        let number = state.next_number;
        state.next_number += 1;
        let (since, parked) = (Instant::now(), Vec::new());
        let flight = Flight { number, since, parked, growing: None, handed_over: false };
        state.in_the_air.insert(key.clone(), flight);
        drop(state);
        Turn::Lead(Leader { flights: Arc::clone(self), key, number, landed: false })
    }

    /// Sends all who have waited longer than `most` to the origin server, and forgets which keys
    /// could not be shared once their time is over.
    pub fn expire(&self, most: Duration) {
        let now = Instant::now();
        let mut released = Vec::new();
        let mut state = self.state.lock();
        state.hit_for_miss.retain(|_, until| *until > now);
        for flight in state.in_the_air.values_mut() {
            if now.duration_since(flight.since) > most {
                released.append(&mut flight.parked);
            }
        }
        drop(state);
        release(released, || Landing::Unshareable);
    }

    /// How many requests wait.
    #[cfg(test)]
    fn parked(&self) -> usize {
        self.state.lock().in_the_air.values().map(|flight| flight.parked.len()).sum()
    }

    fn land(&self, key: &FlightKey, number: u64, landing: &Ending, remember: bool) {
        let mut state = self.state.lock();
        let ours = state.in_the_air.get(key).is_some_and(|flight| flight.number == number);
        let flight = if ours { state.in_the_air.remove(key) } else { None };
        if remember {
            if state.hit_for_miss.len() >= HIT_FOR_MISS_MAX {
                state.hit_for_miss.clear();
            }
            state.hit_for_miss.insert(key.key.clone(), Instant::now() + HIT_FOR_MISS);
        }
        drop(state);
        release(flight.map(|flight| flight.parked).unwrap_or_default(), || landing.tell());
    }

    /// The leader is gone without an answer: one of those who wait leads now, unless that has been
    /// tried.
    fn hand_over(self: &Arc<Self>, key: &FlightKey, number: u64) {
        let mut state = self.state.lock();
        let heir = match state.in_the_air.get_mut(key) {
            Some(flight) if flight.number == number && !flight.handed_over => {
                flight.handed_over = true;
                flight.parked.pop()
            }
            _ => None,
        };
        drop(state);
        let Some(heir) = heir else {
            return self.land(key, number, &Ending::Unshareable, false);
        };
        let (flights, key) = (Arc::clone(self), key.clone());
        heir(Landing::Lead(Leader { flights, key, number, landed: false }));
    }
}

/// How a flight ends.
enum Ending {
    Stored,
    Failed(Arc<Failed>),
    Unshareable,
}

impl Ending {
    fn tell(&self) -> Landing {
        match self {
            Self::Stored => Landing::Stored,
            Self::Failed(failed) => Landing::Failed(Arc::clone(failed)),
            Self::Unshareable => Landing::Unshareable,
        }
    }
}

fn release(parked: Vec<Parked>, landing: impl Fn() -> Landing) {
    for resume in parked {
        resume(landing());
    }
}

/// The one request that asks the origin server. Dropped without a landing, it hands over.
pub struct Leader {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
    landed: bool,
}

impl Leader {
    /// The response is stored.
    pub fn stored(mut self) {
        self.land(&Ending::Stored, false);
    }

    /// The response has been stored meanwhile, by the leader before this one: look it up. Those who
    /// wait already are told so; the seat is for the one who was to lead.
    pub fn step_back(self) -> Seat {
        let (flights, key, number) = (Arc::clone(&self.flights), self.key.clone(), self.number);
        self.stored();
        Seat { flights, key, number }
    }

    /// This response cannot be shared, though the next ones may be.
    pub fn released(mut self) {
        self.land(&Ending::Unshareable, false);
    }

    /// The response cannot be shared, and the next ones under this key probably cannot either.
    pub fn unshareable(mut self) {
        self.land(&Ending::Unshareable, true);
    }

    /// The connection to the origin server died: one of the others may have more luck, once.
    pub fn died(mut self, failed: Failed) {
        let state = self.flights.state.lock();
        let tried = state.in_the_air.get(&self.key).is_none_or(|flight| flight.handed_over);
        drop(state);
        if tried {
            self.land(&Ending::Failed(Arc::new(failed)), false);
        }
    }

    /// The origin server failed: nobody else need try.
    pub fn failed(mut self, failed: Failed) {
        self.land(&Ending::Failed(Arc::new(failed)), false);
    }

    /// The head of the response has come, and others may have it: those who wait, and those who come
    /// from now on until it lands.
    pub fn share(&mut self, shareable: &Arc<Shareable>) {
        let mut state = self.flights.state.lock();
        let Some(flight) = state.in_the_air.get_mut(&self.key) else { return };
        if flight.number != self.number {
            return;
        }
        flight.growing = Some(Arc::clone(shareable));
        let parked = std::mem::take(&mut flight.parked);
        drop(state);
        release(parked, || Landing::Growing(Arc::clone(shareable)));
    }

    fn land(&mut self, ending: &Ending, remember: bool) {
        self.landed = true;
        self.flights.land(&self.key, self.number, ending, remember);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.landed {
            self.flights.hand_over(&self.key, self.number);
        }
    }
}

/// A place among those who wait.
pub struct Seat {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
}

impl Seat {
    /// Parks a request until the flight ends; resumed at once, in this very call, if it has ended
    /// already.
    pub fn park(self, resume: Parked) {
        let mut state = self.flights.state.lock();
        let landing = match state.in_the_air.get_mut(&self.key) {
            Some(flight) if flight.number == self.number => {
                let Some(shareable) = &flight.growing else {
                    flight.parked.push(resume);
                    return;
                };
                Landing::Growing(Arc::clone(shareable))
            }
            _ => Landing::Stored,
        };
        drop(state);
        resume(landing);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn key(uri: &str) -> FlightKey {
        FlightKey { key: CacheKey::from(uri), selecting: Vec::new() }
    }

    fn lead(flights: &Arc<Flights>, uri: &str) -> Leader {
        let Turn::Lead(leader) = flights.join(key(uri)) else { panic!("nobody leads yet") };
        leader
    }

    fn wait(flights: &Arc<Flights>, uri: &str, sender: &Sender<Landing>) {
        let Turn::Wait(seat) = flights.join(key(uri)) else { panic!("a flight is in the air") };
        park(seat, sender);
    }

    fn park(seat: Seat, sender: &Sender<Landing>) {
        let sender = sender.clone();
        seat.park(Box::new(move |landing| drop(sender.send(landing))));
    }

    fn failed() -> Failed {
        let (status, detail) = (StatusCode::BAD_GATEWAY, Detail::Connect);
        Failed { status, detail, text: String::new() }
    }

    /// What those who waited were told, by name; who is to lead does so no more.
    fn told(landings: &Receiver<Landing>) -> Vec<&'static str> {
        let name = |landing| match landing {
            Landing::Stored => "stored",
            Landing::Growing(_) => "growing",
            Landing::Failed(_) => "failed",
            Landing::Lead(leader) => {
                leader.failed(failed());
                "lead"
            }
            Landing::Unshareable => "unshareable",
        };
        landings.try_iter().map(name).collect()
    }

    #[test]
    fn all_who_wait_are_resumed_when_the_leader_lands() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        assert!(matches!(flights.join(key("b")), Turn::Lead(_)));
        for _ in 0..3 {
            wait(&flights, "a", &sender);
        }
        assert_eq!(flights.parked(), 3);
        leader.stored();
        assert_eq!(told(&landings), ["stored"; 3]);
        assert!(matches!(flights.join(key("a")), Turn::Lead(_)), "the flight is over");
    }

    #[test]
    fn a_leader_that_dies_hands_over_once() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        for _ in 0..3 {
            wait(&flights, "a", &sender);
        }
        drop(leader);
        let Ok(Landing::Lead(heir)) = landings.try_recv() else { panic!("one leads on") };
        assert!(landings.try_recv().is_err(), "the others wait on");
        wait(&flights, "a", &sender);
        drop(heir);
        assert_eq!(told(&landings), ["unshareable"; 3]);
        assert!(matches!(flights.join(key("a")), Turn::Lead(_)), "a death is not remembered");
    }

    #[test]
    fn a_lost_connection_is_tried_once_more_and_then_shared() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        for _ in 0..3 {
            wait(&flights, "a", &sender);
        }
        leader.died(failed());
        let Ok(Landing::Lead(heir)) = landings.try_recv() else { panic!("one leads on") };
        heir.died(failed());
        assert_eq!(told(&landings), ["failed"; 2]);
    }

    #[test]
    fn a_failure_is_shared_by_all_who_wait() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        wait(&flights, "a", &sender);
        leader.failed(failed());
        assert_eq!(told(&landings), ["failed"]);
        assert!(matches!(flights.join(key("a")), Turn::Lead(_)), "it is not remembered here");
    }

    #[test]
    fn a_key_that_could_not_be_shared_is_remembered() {
        let flights = Arc::new(Flights::default());
        lead(&flights, "a").unshareable();
        assert!(matches!(flights.join(key("a")), Turn::Alone));
    }

    #[test]
    fn the_memory_of_what_cannot_be_shared_is_bounded() {
        let flights = Arc::new(Flights::default());
        for number in 0..=HIT_FOR_MISS_MAX {
            lead(&flights, &number.to_string()).unshareable();
        }
        assert!(flights.state.lock().hit_for_miss.len() <= HIT_FOR_MISS_MAX);
    }

    #[test]
    fn who_takes_a_seat_too_late_is_resumed_at_once() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        let Turn::Wait(seat) = flights.join(key("a")) else { panic!("a flight is in the air") };
        leader.stored();
        park(seat, &sender);
        assert_eq!(told(&landings), ["stored"]);
    }

    #[test]
    fn a_leader_that_steps_back_looks_up_again() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        wait(&flights, "a", &sender);
        park(leader.step_back(), &sender);
        assert_eq!(told(&landings), ["stored"; 2]);
    }

    #[test]
    fn nobody_waits_beyond_the_bound() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        wait(&flights, "a", &sender);
        flights.expire(Duration::from_secs(3600));
        assert!(landings.try_recv().is_err());
        flights.expire(Duration::ZERO);
        assert_eq!(told(&landings), ["unshareable"]);
        leader.stored();
    }
}
