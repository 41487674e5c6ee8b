//! Moments and spans, and the one clock that all of the program reads.
//!
//! Policy never reads the clock: it is given [`Timestamp`]s. The engine reads it at two points, when a
//! request arrives and when the head of the origin server's response is in. Sockets and queues measure
//! their waits with `Instant` instead, which no change of the system's time can disturb.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A span in whole seconds, as HTTP counts them (RFC 9111 §1.2.2). Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeltaSeconds(pub u32);

impl DeltaSeconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// 2^31 seconds, 68 years: what §1.2.2 tells a cache to take for anything larger.
    pub const MAX: Self = Self(1 << 31);

    /// `seconds`, or [`Self::MAX`] if that is less.
    pub fn saturating_from(seconds: u64) -> Self {
        Self(u32::try_from(seconds).map_or(Self::MAX.0, |seconds| seconds.min(Self::MAX.0)))
    }

    /// `span`, a part of a second counted as one; [`Self::MAX`] if that is less.
    pub(crate) fn covering(span: Duration) -> Self {
        Self::saturating_from(span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)))
    }

    /// The sum, at most [`Self::MAX`].
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self::saturating_from(u64::from(self.0) + u64::from(other.0))
    }
}

/// A moment, in milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The end of time: later than any date a message can state.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `seconds` after 1970 began.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since 1970 began.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Whole seconds from `earlier` to `self`; zero if `earlier` is the later one, as after the clock
    /// was set back.
    pub fn seconds_since(self, earlier: Self) -> DeltaSeconds {
        DeltaSeconds::saturating_from(self.0.saturating_sub(earlier.0) / 1000)
    }

    /// The moment `span` earlier, at least the beginning of 1970.
    #[must_use]
    pub(crate) fn minus(self, span: DeltaSeconds) -> Self {
        Self(self.0.saturating_sub(u64::from(span.0) * 1000))
    }

    /// The moment `span` later, to the millisecond.
    #[must_use]
    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `span` later.
    #[must_use]
    pub(crate) fn plus(self, span: DeltaSeconds) -> Self {
        Self(self.0.saturating_add(u64::from(span.0) * 1000))
    }
}

/// The source of the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's clock.
    System,
    /// A clock that stands still until it is set: milliseconds since 1970.
    ByHand(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that shows `start` until [`Clock::advance`] moves it.
    pub fn by_hand(start: Timestamp) -> Self {
        Self::ByHand(Arc::new(AtomicU64::new(start.0)))
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    // A clock set before 1970 makes everything look old, and hurts nothing else.
                    .map_or(0, |since| since.as_millis() as u64),
            ),
            // Relaxed: one number, and nothing else that it would have to come after.
            Self::ByHand(milliseconds) => Timestamp(milliseconds.load(Ordering::Relaxed)),
        }
    }

    /// Moves a clock that is set by hand; does nothing to the system's.
    pub fn advance(&self, span: DeltaSeconds) {
        if let Self::ByHand(milliseconds) = self {
            milliseconds.fetch_add(u64::from(span.0) * 1000, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_saturate() {
        assert_eq!(DeltaSeconds::saturating_from(99_999_999_999), DeltaSeconds::MAX);
        assert_eq!(DeltaSeconds::MAX.plus(DeltaSeconds(1)), DeltaSeconds::MAX);
        assert_eq!(Timestamp(5).seconds_since(Timestamp(9000)), DeltaSeconds::ZERO);
        assert_eq!(Timestamp::MAX.plus(DeltaSeconds::MAX), Timestamp::MAX);
    }
}
