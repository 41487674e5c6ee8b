//! Requests under way, and those that wait because `--origin-concurrency` or the limit of connections is
//! reached: first in, first out.
//!
//! A permit that is given back goes to the next waiting request under the same lock. So no request can
//! overtake it and no wake-up can be lost: between two calls, none waits here that could go. A request
//! whose authority has all of its connections in use is passed over by those behind it that lead
//! elsewhere; it cannot be overtaken within its authority.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::origin::gate::limits::Limits;
use crate::origin::gate::memory::ByHash;

/// Tells a waiting request's event loop or thread that it is this request's turn.
pub(super) type WakeRequest = Arc<dyn Fn() + Send + Sync>;

/// Permits that are out, and requests that wait for one.
pub(super) struct Permits {
    concurrency: Option<usize>,
    connections: Option<usize>,
    in_flight: usize,
    waiting: usize,
    /// By the hash of the authority; all are one where connections have no limit. An authority is here
    /// while a request to it is under way or waits, and no longer.
    authorities: HashMap<u64, AuthorityPermits, ByHash>,
}

#[derive(Default)]
struct AuthorityPermits {
    in_flight: usize,
    /// By their numbers, which rise in the order of arrival.
    waiting: BTreeMap<u64, WakeRequest>,
}

impl Permits {
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { concurrency, connections, .. } = *limits;
        Self { concurrency, connections, in_flight: 0, waiting: 0, authorities: HashMap::default() }
    }

    /// Takes a permit for a new request, if there is one. Those who wait could not use it.
    pub(super) fn take(&mut self, authority: u64) -> bool {
        let key = self.key(authority);
        let at_authority = self.authorities.get(&key).map_or(0, |it| it.in_flight);
        let is_free =
            is_below(self.in_flight, self.concurrency) && is_below(at_authority, self.connections);
        if is_free {
            self.in_flight += 1;
            self.authorities.entry(key).or_default().in_flight += 1;
        }
        is_free
    }

    /// Lets a request wait for a permit. Its number is higher than all before it.
    pub(super) fn enqueue(&mut self, authority: u64, number: u64, wake: WakeRequest) {
        let key = self.key(authority);
        self.authorities.entry(key).or_default().waiting.insert(number, wake);
        self.waiting += 1;
    }

    /// Does this request still wait for a permit?
    pub(super) fn is_waiting(&self, authority: u64, number: u64) -> bool {
        let authority = self.authorities.get(&self.key(authority));
        authority.is_some_and(|it| it.waiting.contains_key(&number))
    }

    /// Takes a waiting request out of the queue; `false` if it has a permit already.
    pub(super) fn withdraw(&mut self, authority: u64, number: u64) -> bool {
        let key = self.key(authority);
        let at_authority = self.authorities.get_mut(&key);
        let is_withdrawn = at_authority.is_some_and(|it| it.waiting.remove(&number).is_some());
        self.waiting -= usize::from(is_withdrawn);
        self.forget_idle(key);
        is_withdrawn
    }

    /// Takes a permit back. The next request that can use it has it from now on, and is returned.
    pub(super) fn give_back(&mut self, authority: u64) -> Option<(u64, WakeRequest)> {
        let key = self.key(authority);
        let at_authority = self.authorities.get_mut(&key).expect("it is kept while in use");
        assert!(at_authority.in_flight > 0 && self.in_flight > 0, "each permit was counted");
        at_authority.in_flight -= 1;
        self.in_flight -= 1;
        // At most one can go: before this, none could.
        let next = self.pass_on();
        self.forget_idle(key);
        next
    }

    /// Gives a permit to the first waiting request that can use one.
    fn pass_on(&mut self) -> Option<(u64, WakeRequest)> {
        if self.waiting == 0 || !is_below(self.in_flight, self.concurrency) {
            return None;
        }
        // All authorities are looked at: there is one, and a few more where redirects lead elsewhere.
        let first = self
            .authorities
            .values_mut()
            .filter(|it| is_below(it.in_flight, self.connections) && !it.waiting.is_empty())
            .min_by_key(|it| it.waiting.first_key_value().map(|(number, _)| *number))?;
        let next = first.waiting.pop_first();
        first.in_flight += 1;
        self.in_flight += 1;
        self.waiting -= 1;
        next
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many permits are out.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn key(&self, authority: u64) -> u64 {
        if self.connections.is_some() { authority } else { 0 }
    }

    fn forget_idle(&mut self, key: u64) {
        let it = self.authorities.get(&key);
        if it.is_some_and(|it| it.in_flight == 0 && it.waiting.is_empty()) {
            self.authorities.remove(&key);
        }
    }
}

fn is_below(count: usize, most: Option<usize>) -> bool {
    most.is_none_or(|most| count < most)
}
