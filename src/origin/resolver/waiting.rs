//! The addresses of names, for threads that may wait: loops over what never waits.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::origin::resolver::names::{NameAnswer, Names, Renewal};

impl Names {
    /// The addresses of a host, within `limit`; empty if it has none, or none were found in time.
    pub(crate) fn addresses(&self, host: &str, port: u16, limit: Duration) -> Vec<SocketAddr> {
        let deadline = Instant::now() + limit;
        let this = thread::current();
        let mut answer = self.ask(host, port, move || this.unpark());
        loop {
            match answer {
                NameAnswer::Known(addresses) => return addresses,
                NameAnswer::Asked(asked) if park_until(deadline) => answer = asked.poll(),
                NameAnswer::Asked(_) => return self.last_good(host, port),
            }
        }
    }

    /// Has a host none of whose addresses can be connected to moved meanwhile? It is looked up again,
    /// at most once a second, within `limit`.
    pub(crate) fn has_moved(&self, host: &str, port: u16, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let this = thread::current();
        let tried = self.last_good(host, port);
        let mut renewal = self.renew(host, port, &tried, move || this.unpark());
        loop {
            match renewal {
                Renewal::Moved(_) => return true,
                Renewal::Asked(renewed) if park_until(deadline) => renewal = renewed.poll(),
                Renewal::Unchanged | Renewal::Asked(_) => return false,
            }
        }
    }
}

/// Waits to be woken; `false` if the deadline has come before. A wake-up that came before this is not lost: it
/// ends the wait at once. One that was meant for something else does no harm: who polls too early waits on.
fn park_until(deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    thread::park_timeout(left);
    true
}
