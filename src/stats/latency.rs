//! How long answers took, in buckets.
//!
//! Two types of the same shape: [`Latencies`] is shared and atomic, [`Tally`] belongs to one thread. An event loop
//! counts its hits in a tally and adds that to the shared ones once a turn, for an atomic addition a hit would
//! have all loops contend for the same few cache lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; one more is for what took longer.
pub const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;

/// A histogram that any thread may add to.
#[derive(Debug, Default)]
pub struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// A histogram that one thread adds to, or a snapshot of one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many answers took no longer than the bound of that index, and longer than the bound before it.
    pub buckets: [u64; BUCKETS],
    /// The sum of all, in microseconds.
    pub sum_us: u64,
}

fn bucket(taken_us: u64) -> usize {
    // A latency that equals the bound is within it: Prometheus' `le` is less or equal.
    BOUNDS_US.partition_point(|bound| *bound < taken_us)
}

impl Latencies {
    /// Counts one answer.
    pub fn count(&self, taken: Duration) {
        let taken_us = taken.as_micros() as u64;
        self.buckets[bucket(taken_us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(taken_us, Ordering::Relaxed);
    }

    /// Adds what a thread has counted for itself.
    pub fn add(&self, tally: &Tally) {
        // Most buckets of a turn are empty, and cost no write to a line that other loops write to.
        for (bucket, count) in
            self.buckets.iter().zip(tally.buckets).filter(|(_, count)| *count > 0)
        {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(tally.sum_us, Ordering::Relaxed);
    }

    /// A snapshot. Its buckets may be of slightly different moments, which a histogram can bear.
    pub fn tally(&self) -> Tally {
        Tally {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl Tally {
    /// Counts several answers that took equally long.
    pub fn count(&mut self, taken: Duration, count: u64) {
        let taken_us = taken.as_micros() as u64;
        self.buckets[bucket(taken_us)] += count;
        self.sum_us += taken_us * count;
    }

    /// What was counted since an earlier tally of the same.
    #[must_use]
    pub fn less(&self, earlier: &Self) -> Self {
        let less = |index: usize| self.buckets[index].saturating_sub(earlier.buckets[index]);
        let sum_us = self.sum_us.saturating_sub(earlier.sum_us);
        Self { buckets: std::array::from_fn(less), sum_us }
    }

    /// How many answers are counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound in microseconds that this share of all answers stay below; `None` if nothing is counted, or
    /// the share reaches beyond the last bound. As coarse as the buckets: never less than the true quantile.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let total = self.total();
        #[allow(clippy::cast_sign_loss, reason = "neither is negative")]
        // Rounded up: the median of three answers is the second one.
        let rank = (total as f64 * share).ceil() as u64;
        let mut so_far = 0;
        let buckets = self.buckets.iter().zip(BOUNDS_US);
        let reached = |(count, bound): (&u64, u64)| {
            so_far += count;
            (so_far >= rank).then_some(bound)
        };
        // With nothing counted the rank is 0, which the first bucket reaches: that is no quantile.
        buckets.map(reached).find(Option::is_some).flatten().filter(|_| total > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_falls_into_the_bucket_that_bounds_it() {
        let latencies = Latencies::default();
        for taken_us in [0, 50, 51, 1_000, 29_000_000, 31_000_000] {
            latencies.count(Duration::from_micros(taken_us));
        }
        let mut own = Tally::default();
        own.count(Duration::from_micros(60), 10);
        latencies.add(&own);
        let tally = latencies.tally();
        assert_eq!((tally.buckets[0], tally.buckets[1], tally.buckets[4]), (2, 11, 1));
        assert_eq!((tally.buckets[17], tally.buckets[18], tally.total()), (1, 1, 16));
        assert_eq!(tally.sum_us, 101 + 1_000 + 60_000_000 + 600);
        assert_eq!((tally.quantile_us(0.5), tally.quantile_us(0.99)), (Some(100), None));
        assert_eq!(Tally::default().quantile_us(0.5), None);
    }
}
