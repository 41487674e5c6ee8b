//! What is remembered of names, who waits for their addresses, and in which order they are looked up.
//!
//! No lock, no thread and no clock: `names.rs` has those. A name is kept while it is looked up and while
//! it has askers; of the others there are [`NAMES_MAX`] at most.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// For how long an answer is used before the name is looked up again.
pub(super) const REMEMBERED: Duration = Duration::from_secs(30);
/// For how long a failure is taken for an answer.
pub(super) const FAILURE_REMEMBERED: Duration = Duration::from_secs(1);
/// The most names remembered; redirects can lead to many.
pub(super) const NAMES_MAX: usize = 256;

/// A name and a port.
pub(super) type NameKey = (String, u16);
/// Wakes one who has asked for a name.
pub(super) type WakeAsker = Box<dyn FnOnce() + Send>;

/// All names, and what is being done about them.
#[derive(Default)]
pub(super) struct NameMemory {
    names: HashMap<NameKey, ResolvedName>,
    /// The names that wait for a thread, by number: the first one is looked up next.
    queue: BTreeMap<u64, NameKey>,
    /// How many threads look names up.
    pub(super) resolvers: usize,
    /// The next number, for the queue and for askers.
    next_number: u64,
}

/// What is known of one name.
#[derive(Default)]
struct ResolvedName {
    /// The addresses that were found last; a failure does not remove them.
    addresses: Vec<SocketAddr>,
    /// Until when no new look-up is made.
    valid_until: Option<Instant>,
    /// Until when addresses that do not connect cause no other look-up.
    no_renewal_until: Option<Instant>,
    look_up: LookUpState,
    /// Those who have asked, by number; `None` in place of the waker once the look-up has ended.
    askers: BTreeMap<u64, Option<WakeAsker>>,
}

/// How far the look-up of a name has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum LookUpState {
    /// There is none.
    #[default]
    None,
    /// It waits for a thread, under this number.
    Queued(u64),
    /// A thread is at it.
    UnderWay,
}

/// What is to be done about a name whose addresses do not connect.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum RenewalStep {
    /// Nothing: it has just been looked up, and has not moved.
    Nothing,
    /// Other addresses are known already.
    Moved(Vec<SocketAddr>),
    /// Look it up, or wait for the look-up that there is.
    LookUp,
}

impl NameMemory {
    /// The addresses of a name if no look-up is needed; none of them if the last one has just failed and there
    /// was none before.
    pub(super) fn valid(&self, key: &NameKey, now: Instant) -> Option<Vec<SocketAddr>> {
        let name = self.names.get(key)?;
        name.valid_until.is_some_and(|until| until > now).then(|| name.addresses.clone())
    }

    /// The addresses that were found last, however long ago; none if there were none yet.
    pub(super) fn last_good(&self, key: &NameKey) -> Vec<SocketAddr> {
        self.names.get(key).map(|name| name.addresses.clone()).unwrap_or_default()
    }

    /// Puts a name in the queue; `false` if it is there or is looked up already.
    pub(super) fn enqueue(&mut self, key: &NameKey) -> bool {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(key) {
            self.names.retain(|_, name| name.is_in_use());
        }
        let number = self.number();
        let name = self.names.entry(key.clone()).or_default();
        if name.look_up != LookUpState::None {
            return false;
        }
        name.look_up = LookUpState::Queued(number);
        self.queue.insert(number, key.clone());
        true
    }

    /// Adds one who waits for the look-up of a name; the number is theirs.
    pub(super) fn add_asker(&mut self, key: &NameKey, wake: WakeAsker) -> u64 {
        let number = self.number();
        let name = self.names.get_mut(key).expect("a name that is looked up is kept");
        assert!(name.look_up != LookUpState::None, "somebody will be woken");
        name.askers.insert(number, Some(wake));
        number
    }

    /// The outcome for one who has asked, who is forgotten with it; `None` while the look-up goes on.
    pub(super) fn poll(&mut self, key: &NameKey, number: u64) -> Option<Vec<SocketAddr>> {
        let name = self.names.get_mut(key).expect("a name with askers is kept");
        if name.askers.get(&number).expect("an asker polls until there is an answer").is_some() {
            return None;
        }
        name.askers.remove(&number);
        Some(name.addresses.clone())
    }

    /// Forgets one who has asked, and gives the waker back. What nobody waits for any more is not looked up,
    /// if no thread has begun.
    pub(super) fn withdraw(&mut self, key: &NameKey, number: u64) -> Option<WakeAsker> {
        let name = self.names.get_mut(key).expect("a name with askers is kept");
        let wake = name.askers.remove(&number).expect("an asker withdraws once");
        if name.askers.is_empty() {
            self.dequeue(key);
        }
        wake
    }

    /// Takes a name out of the queue, if it is there.
    pub(super) fn dequeue(&mut self, key: &NameKey) {
        let Some(name) = self.names.get_mut(key) else { return };
        if let LookUpState::Queued(number) = name.look_up {
            name.look_up = LookUpState::None;
            self.queue.remove(&number);
        }
    }

    /// The name that a thread is to look up now. With `None` the thread ends, and is counted no more.
    pub(super) fn next_to_look_up(&mut self) -> Option<NameKey> {
        let Some((_, key)) = self.queue.pop_first() else {
            // In one step with the look: whoever puts a name in after this starts a thread for it.
            self.resolvers -= 1;
            return None;
        };
        let name = self.names.get_mut(&key).expect("a name that is looked up is kept");
        name.look_up = LookUpState::UnderWay;
        Some(key)
    }

    /// Notes what a look-up has found; whom to wake.
    pub(super) fn note(
        &mut self,
        key: &NameKey,
        found: Vec<SocketAddr>,
        now: Instant,
    ) -> Vec<WakeAsker> {
        let name = self.names.get_mut(key).expect("a name that is looked up is kept");
        assert!(name.look_up == LookUpState::UnderWay, "one thread looks a name up");
        name.look_up = LookUpState::None;
        // A failure is remembered for a second: long enough that a burst of requests causes one look-up.
        let lasts = if found.is_empty() { FAILURE_REMEMBERED } else { REMEMBERED };
        name.valid_until = Some(now + lasts);
        if !found.is_empty() {
            name.addresses = found;
        }
        name.askers.values_mut().filter_map(Option::take).collect()
    }

    /// None of the addresses in `tried` has connected: what is to be done?
    pub(super) fn renew(
        &mut self,
        key: &NameKey,
        tried: &[SocketAddr],
        now: Instant,
    ) -> RenewalStep {
        let Some(name) = self.names.get_mut(key) else { return RenewalStep::Nothing };
        if has_moved(tried, &name.addresses) {
            return RenewalStep::Moved(name.addresses.clone());
        }
        if name.look_up != LookUpState::None {
            return RenewalStep::LookUp;
        }
        // An origin server that is down would be looked up for every request otherwise.
        if name.no_renewal_until.is_some_and(|until| until > now) {
            return RenewalStep::Nothing;
        }
        name.no_renewal_until = Some(now + FAILURE_REMEMBERED);
        name.valid_until = None;
        RenewalStep::LookUp
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Lets what is known of a name be too old.
    #[cfg(test)]
    pub(super) fn expire(&mut self, key: &NameKey) {
        if let Some(name) = self.names.get_mut(key) {
            name.valid_until = None;
        }
    }

    /// How many names are remembered, and how many wait for a thread.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.names.len(), self.queue.len())
    }

    /// How many wait for a name.
    #[cfg(test)]
    pub(super) fn askers(&self, key: &NameKey) -> usize {
        self.names.get(key).map_or(0, |name| name.askers.len())
    }
}

impl ResolvedName {
    /// Does a thread or an asker rely on it?
    fn is_in_use(&self) -> bool {
        self.look_up != LookUpState::None || !self.askers.is_empty()
    }
}

/// Are the addresses of a name others now? No addresses are none to move to.
pub(super) fn has_moved(before: &[SocketAddr], after: &[SocketAddr]) -> bool {
    let sorted = |addresses: &[SocketAddr]| {
        // The order changes with each look-up.
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses
    };
    !after.is_empty() && sorted(before) != sorted(after)
}
