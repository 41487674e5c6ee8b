//! What the operator allows to go to the origin server.

use std::time::Duration;

/// `--origin-rate`: the most requests in any span of this length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// The number of requests, at least 1.
    pub requests: usize,
    /// The length of the span.
    pub per: Duration,
}

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--origin-rate`; `None` for no limit.
    pub rate: Option<Rate>,
    /// `--origin-concurrency`: requests under way at a time; `None` for no limit.
    pub concurrency: Option<usize>,
    /// Requests under way at a time to one authority, of the origin server or of one that a redirect
    /// leads to: as many connections at most; `None` for no limit.
    pub connections: Option<usize>,
    /// The longest that a request waits for a permit.
    pub wait_max: Duration,
}

impl Limits {
    /// With a limit of none could no request ever be admitted.
    pub(super) fn assert_possible(&self) {
        assert!(self.rate.is_none_or(|rate| rate.requests > 0), "a rate of none");
        assert!(self.concurrency.is_none_or(|most| most > 0), "a concurrency of none");
        assert!(self.connections.is_none_or(|most| most > 0), "connections of none");
    }
}
