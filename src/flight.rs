//! Collapsed requests: one leader a cache key, the others wait. RFC 9111 §4 permits it.
//!
//! A request that waits holds no thread: it is parked, as a piece of work that is handed back when
//! the leader is done. What the leader's response turned out to be decides what happens then: a
//! stored one is looked up again, anything else sends all who wait to the origin server in
//! parallel, and the key is remembered for some seconds so that the next ones do not wait in vain.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::key::CacheKey;

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

/// How a flight ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Landing {
    /// The response is stored: look it up.
    Stored,
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
        let flight = Flight { number, since: Instant::now(), parked: Vec::new() };
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
        release(released, Landing::Unshareable);
    }

    /// How many requests wait.
    #[cfg(test)]
    fn parked(&self) -> usize {
        self.state.lock().in_the_air.values().map(|flight| flight.parked.len()).sum()
    }

    fn land(&self, key: &FlightKey, number: u64, landing: Landing, remember: bool) {
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
        release(flight.map(|flight| flight.parked).unwrap_or_default(), landing);
    }
}

fn release(parked: Vec<Parked>, landing: Landing) {
    for resume in parked {
        resume(landing);
    }
}

/// The one request that asks the origin server. Dropped without a landing, it releases all who
/// wait: they then ask for themselves.
pub struct Leader {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
    landed: bool,
}

impl Leader {
    /// The response is stored.
    pub fn stored(mut self) {
        self.landed = true;
        self.flights.land(&self.key, self.number, Landing::Stored, false);
    }

    /// The response has been stored meanwhile, by the leader before this one: look it up. Those who
    /// wait already are told so; the seat is for the one who was to lead.
    pub fn step_back(self) -> Seat {
        let (flights, key, number) = (Arc::clone(&self.flights), self.key.clone(), self.number);
        self.stored();
        Seat { flights, key, number }
    }

    /// The response cannot be shared, and the next ones under this key probably cannot either.
    pub fn unshareable(mut self) {
        self.landed = true;
        self.flights.land(&self.key, self.number, Landing::Unshareable, true);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.landed {
            self.flights.land(&self.key, self.number, Landing::Unshareable, false);
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
        match state.in_the_air.get_mut(&self.key) {
            Some(flight) if flight.number == self.number => flight.parked.push(resume),
            _ => {
                drop(state);
                resume(Landing::Stored);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn key(uri: &str) -> FlightKey {
        FlightKey { key: CacheKey::from(uri), selecting: Vec::new() }
    }

    fn wait(flights: &Arc<Flights>, uri: &str, sender: &std::sync::mpsc::Sender<Landing>) {
        let Turn::Wait(seat) = flights.join(key(uri)) else { panic!("a flight is in the air") };
        let sender = sender.clone();
        seat.park(Box::new(move |landing| sender.send(landing).expect("the test listens")));
    }

    #[test]
    fn all_who_wait_are_resumed_when_the_leader_lands() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        assert!(matches!(flights.join(key("b")), Turn::Lead(_)));
        for _ in 0..3 {
            wait(&flights, "a", &sender);
        }
        assert_eq!(flights.parked(), 3);
        leader.stored();
        assert_eq!(landings.try_iter().collect::<Vec<_>>(), [Landing::Stored; 3]);
        assert!(matches!(flights.join(key("a")), Turn::Lead(_)), "the flight is over");
    }

    #[test]
    fn a_leader_that_dies_releases_all_who_wait() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        wait(&flights, "a", &sender);
        drop(leader);
        assert_eq!(landings.try_recv(), Ok(Landing::Unshareable));
        assert!(matches!(flights.join(key("a")), Turn::Lead(_)), "a death is not remembered");
    }

    #[test]
    fn a_key_that_could_not_be_shared_is_remembered() {
        let flights = Arc::new(Flights::default());
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        leader.unshareable();
        assert!(matches!(flights.join(key("a")), Turn::Alone));
    }

    #[test]
    fn the_memory_of_what_cannot_be_shared_is_bounded() {
        let flights = Arc::new(Flights::default());
        for number in 0..=HIT_FOR_MISS_MAX {
            let Turn::Lead(leader) = flights.join(key(&number.to_string())) else {
                panic!("nobody leads yet")
            };
            leader.unshareable();
        }
        assert!(flights.state.lock().hit_for_miss.len() <= HIT_FOR_MISS_MAX);
    }

    #[test]
    fn who_takes_a_seat_too_late_is_resumed_at_once() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        let Turn::Wait(seat) = flights.join(key("a")) else { panic!("a flight is in the air") };
        leader.stored();
        seat.park(Box::new(move |landing| sender.send(landing).expect("the test listens")));
        assert_eq!(landings.try_recv(), Ok(Landing::Stored));
    }

    #[test]
    fn a_leader_that_steps_back_looks_up_again() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        wait(&flights, "a", &sender);
        leader
            .step_back()
            .park(Box::new(move |landing| sender.send(landing).expect("listened to")));
        assert_eq!(landings.try_iter().collect::<Vec<_>>(), [Landing::Stored; 2]);
    }

    #[test]
    fn nobody_waits_beyond_the_bound() {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let Turn::Lead(leader) = flights.join(key("a")) else { panic!("nobody leads yet") };
        wait(&flights, "a", &sender);
        flights.expire(Duration::from_secs(3600));
        assert!(landings.try_recv().is_err());
        flights.expire(Duration::ZERO);
        assert_eq!(landings.try_recv(), Ok(Landing::Unshareable));
        leader.stored();
    }
}
