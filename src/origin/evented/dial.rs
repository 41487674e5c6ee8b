//! In which order the addresses of a name are tried: both families in turn, the next one when one is refused or
//! has not answered for a while, all within one limit. RFC 8305 §4, §5.
//!
//! Only the order and the times are here; the sockets are the caller's.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// After this time without an answer the next address is tried as well (RFC 8305 §5).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// The most addresses that are tried of one name: a name may have very many, and each takes a descriptor.
const ADDRESSES_MAX: usize = 16;

/// A race of connections to the addresses of one name.
#[derive(Debug)]
pub struct Race {
    /// All addresses of the name, also those that are not tried.
    pub addresses: Vec<SocketAddr>,
    left: VecDeque<SocketAddr>,
    /// How many are being connected to.
    open: usize,
    /// When the next address is tried although none has failed.
    next_at: Instant,
    /// The error of the address that failed last.
    error: Option<io::Error>,
}

/// What is to be done next.
#[derive(Debug)]
pub enum DialStep {
    /// Connect to this address.
    Connect(SocketAddr),
    /// Wait for a connection, or until this moment; `None` without one.
    Wait(Option<Instant>),
    /// No address connects; the error is that of the last one.
    Failed(io::Error),
}

impl Race {
    /// A race for these addresses, which the resolver has given in its order of preference.
    pub fn new(addresses: Vec<SocketAddr>, now: Instant) -> Self {
        let (six, four): (Vec<SocketAddr>, Vec<SocketAddr>) =
            addresses.iter().copied().partition(SocketAddr::is_ipv6);
        let begins_with_six = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let (first, second) = if begins_with_six { (six, four) } else { (four, six) };
        let mut left = VecDeque::new();
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        // In turn: where one family leads nowhere, the other is not far behind.
        loop {
            let (one, other) = (first.next(), second.next());
            if one.is_none() && other.is_none() {
                break;
            }
            left.extend(one.into_iter().chain(other));
        }
        left.truncate(ADDRESSES_MAX);
        Self { addresses, left, open: 0, next_at: now, error: None }
    }

    /// What is to be done at `now`.
    pub fn next(&mut self, now: Instant) -> DialStep {
        if now >= self.next_at || self.open == 0 {
            if let Some(address) = self.left.pop_front() {
                self.open += 1;
                self.next_at = now + NEXT_AFTER;
                return DialStep::Connect(address);
            }
            if self.open == 0 {
                let error = self.error.take();
                return DialStep::Failed(
                    error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()),
                );
            }
        }
        DialStep::Wait((!self.left.is_empty()).then_some(self.next_at))
    }

    /// One that was being connected to has failed.
    pub fn failed(&mut self, error: io::Error, now: Instant) {
        assert!(self.open > 0, "only what is being connected to fails");
        self.open -= 1;
        self.error = Some(error);
        // At once (§5): a refusal is an answer.
        self.next_at = now;
    }
}

/// Are there no more descriptors, in the process or in the system?
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn connects(race: &mut Race, now: Instant) -> String {
        match race.next(now) {
            DialStep::Connect(address) => address.to_string(),
            DialStep::Wait(until) => format!("wait {:?}", until.map(|until| until - now)),
            DialStep::Failed(error) => format!("failed {:?}", error.kind()),
        }
    }

    #[test]
    fn families_take_turns_and_the_next_is_tried_after_a_while_or_a_failure() {
        let start = Instant::now();
        let list = addresses(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"]);
        let mut race = Race::new(list, start);
        assert_eq!(connects(&mut race, start), "[::1]:1");
        assert_eq!(connects(&mut race, start), "wait Some(250ms)");
        race.failed(io::ErrorKind::ConnectionRefused.into(), start);
        assert_eq!(connects(&mut race, start), "1.1.1.1:1");
        let later = start + NEXT_AFTER;
        assert_eq!(connects(&mut race, later), "[::2]:1");
        assert_eq!(connects(&mut race, later), "wait Some(250ms)");
        let later = later + NEXT_AFTER * 5;
        assert_eq!(connects(&mut race, later), "2.2.2.2:1");
        let later = later + NEXT_AFTER;
        assert_eq!(connects(&mut race, later), "3.3.3.3:1");
        assert_eq!(connects(&mut race, later), "wait None");
        for _ in 0..4 {
            race.failed(io::ErrorKind::ConnectionReset.into(), later);
        }
        assert_eq!(connects(&mut race, later), "failed ConnectionReset");
    }

    #[test]
    fn a_name_without_addresses_fails_and_one_with_many_has_a_bound() {
        let now = Instant::now();
        assert_eq!(connects(&mut Race::new(Vec::new(), now), now), "failed AddrNotAvailable");
        let many: Vec<SocketAddr> = (1..100).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let mut race = Race::new(many, now);
        let mut tried = 0;
        while let DialStep::Connect(_) = race.next(now) {
            race.failed(io::ErrorKind::ConnectionRefused.into(), now);
            tried += 1;
        }
        assert_eq!(tried, ADDRESSES_MAX);
    }
}
