//! For how long a client may take its time. Nothing is set or cleared per request: a few times in each
//! timeout all connections of a loop are checked, and a request does no more than note the moment, which
//! the loop has read anyway.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::front::ConnectionLimits;

/// Content must come at this rate on the average, in bytes a second, beside what `--header-timeout`
/// grants.
const CONTENT_RATE_MIN: u64 = 500;
/// For how long what a client still sends is thrown away, after the last response on its connection.
const LINGER: Duration = Duration::from_secs(2);
/// Bounds of the span between two checks of all connections.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How many checks there are in the shortest timeout: a client is cut late by about an eighth of it.
const CHECKS_PER_TIMEOUT: u32 = 8;

/// Milliseconds since the loop began, modulo 2^32: 49 days. Spans between two of them are right as long
/// as they are shorter than that.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Moment(u32);

impl Moment {
    /// The span since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Duration {
        // Four bytes in each connection, where an `Instant` would take sixteen.
        Duration::from_millis(u64::from(self.0.wrapping_sub(earlier.0)))
    }

    /// The moment when this span has passed.
    pub(super) fn after(self, span: Duration) -> Self {
        Self(self.0.wrapping_add(span.as_millis() as u32))
    }
}

/// What a connection is waiting for its client to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Awaited {
    /// Nothing: the client waits for the proxy.
    Nothing,
    /// A request, of which nothing has come. On a new connection it must come as soon as a head must
    /// be complete.
    Request { first: bool },
    /// The rest of a head.
    Head,
    /// Content, of which so many bytes have come, and which was waited for so long altogether.
    Content { received: u64, waited: Duration },
    /// To take what is sent to it.
    Taking,
    /// To close, after the last response.
    Closing,
}

/// The timeouts of a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    header: Duration,
    idle: Duration,
}

impl Timeouts {
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        Self { header: limits.header_timeout, idle: limits.idle_timeout }
    }

    /// Has the client taken too long, when nothing has moved for `quiet`? For a head, that is the time
    /// since its first byte.
    pub(super) fn is_over(&self, awaited: Awaited, quiet: Duration) -> bool {
        match awaited {
            // The origin server has timeouts of its own, in the exchange with it.
            Awaited::Nothing => false,
            // A connection on which nothing comes is as cheap for an attacker as a head that never ends.
            Awaited::Request { first: true } | Awaited::Head => quiet > self.header,
            Awaited::Request { first: false } | Awaited::Taking => quiet > self.idle,
            // By the rate, too: a byte now and then would hold a worker for as long as the client likes.
            Awaited::Content { received, waited } => {
                let granted =
                    Duration::from_millis(received.saturating_mul(1000) / CONTENT_RATE_MIN);
                quiet > self.idle || waited > self.header.saturating_add(granted)
            }
            // RFC 9112 §9.6: long enough for the client to read the last response.
            Awaited::Closing => quiet > LINGER.min(self.idle),
        }
    }

    /// The span between two checks of all connections.
    pub(super) fn check_interval(&self) -> Duration {
        (self.header.min(self.idle) / CHECKS_PER_TIMEOUT)
            .clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX)
    }
}

/// Says when timeouts are to be checked.
pub(super) struct CheckTimer {
    begun: Instant,
    interval: Duration,
    last: Timestamp,
}

impl CheckTimer {
    pub(super) fn new(interval: Duration, now: Timestamp) -> Self {
        Self { begun: Instant::now(), interval, last: now }
    }

    /// The longest that the loop may sleep while there are connections.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The moment, if timeouts are to be checked. `now` is the system's time: when that is set back, a check
    /// comes early, and the moment is still read from a clock that is never set.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Moment> {
        // `None` if the clock was set back: a check that comes too early harms nothing.
        let passed = now.0.checked_sub(self.last.0);
        if passed.is_some_and(|passed| u128::from(passed) < self.interval.as_millis()) {
            return None;
        }
        self.last = now;
        Some(Moment(self.begun.elapsed().as_millis() as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_has_its_bound() {
        let (header, idle) = (Duration::from_secs(10), Duration::from_secs(60));
        let timeouts = Timeouts { header, idle };
        let content =
            |received, waited| Awaited::Content { received, waited: Duration::from_secs(waited) };
        #[rustfmt::skip]
        let table = [
            (Awaited::Nothing,                  1_000_000, false),
            (Awaited::Request { first: true },  10,        false),
            (Awaited::Request { first: true },  11,        true),
            (Awaited::Request { first: false }, 60,        false),
            (Awaited::Request { first: false }, 61,        true),
            (Awaited::Head,                     11,        true),
            (Awaited::Taking,                   60,        false),
            (Awaited::Taking,                   61,        true),
            (Awaited::Closing,                  2,         false),
            (Awaited::Closing,                  3,         true),
            (content(0, 10),                    0,         false),
            (content(0, 11),                    0,         true),
            (content(5_000, 20),                0,         false),
            (content(5_000, 21),                0,         true),
            (content(u64::MAX, 1_000_000),      60,        false),
            (content(u64::MAX, 1_000_000),      61,        true),
        ];
        for (awaited, seconds, expected) in table {
            let quiet = Duration::from_secs(seconds);
            assert_eq!(timeouts.is_over(awaited, quiet), expected, "{awaited:?} {seconds} s");
        }
        assert_eq!(timeouts.check_interval(), CHECK_INTERVAL_MAX);
        let timeouts = Timeouts { header: Duration::from_millis(400), idle };
        assert_eq!(timeouts.check_interval(), Duration::from_millis(50));
    }

    #[test]
    fn moments_wrap() {
        assert_eq!(Moment(5).since(Moment(u32::MAX - 4)), Duration::from_millis(10));
    }

    #[test]
    fn a_check_is_due_once_an_interval_and_when_the_clock_is_set_back() {
        let mut check_timer = CheckTimer::new(Duration::from_millis(100), Timestamp(1000));
        assert!(check_timer.due(Timestamp(1099)).is_none());
        assert!(check_timer.due(Timestamp(1100)).is_some());
        assert!(check_timer.due(Timestamp(1199)).is_none());
        assert!(check_timer.due(Timestamp(900)).is_some());
    }
}
