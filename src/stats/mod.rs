//! What the proxy counts, in the words of the decision types, so that the counters, the access log and
//! `Cache-Status` never disagree.
//!
//! The counters themselves are the table in `counters.rs`. Every number may be read while it is counted: no
//! lock but that of `details` is taken, and it is never held across anything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::policy::reason::{CacheStatus, Why};
use crate::stats::counters::Cells;
use crate::stats::figures::whole_percent;

mod access_log;
mod counters;
pub mod figures;
pub mod history;
mod latency;
mod recent;

pub use access_log::{AccessFormat, AccessLog, AccessRecord};
pub use counters::{COUNTERS, Counter, CounterKind, CounterRecord, CounterSource};
pub use latency::{BOUNDS_US, Latencies, Tally};
pub use recent::{AnsweredRequest, NOTED_MAX, NumberedRequests, RecentRequest, RecentRequests};

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    cells: Cells,
    /// Requests that went on to the origin server, in the order of [`Why::ALL`].
    forwarded: [AtomicU64; Why::ALL.len()],
    /// How often `Cache-Status` named each particular rule, by its word there. Not an array: there are many
    /// rules, few of which ever apply, and none on the fast path, which does not come here.
    details: Mutex<BTreeMap<&'static str, u64>>,
    /// From a request's arrival to the last byte of its answer, where that came from the cache, and where
    /// it did not.
    hit_latencies: Latencies,
    miss_latencies: Latencies,
    recent: RecentRequests,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Those of one number, in the order of [`COUNTERS`].
    pub counts: Vec<(Counter, u64)>,
    /// Requests that went on to the origin server, by the reason.
    pub forwarded: Vec<(&'static str, u64)>,
    /// What `Cache-Status` said in detail, by its word there.
    pub details: Vec<(&'static str, u64)>,
    /// How long hits took.
    pub hits: Tally,
    /// How long everything else took.
    pub misses: Tally,
}

impl Snapshot {
    /// What was counted since an earlier one; levels are left out.
    #[must_use]
    pub fn less(&self, earlier: &Self) -> Self {
        // A number that is read while it is written to may seem to have gone back.
        let labelled = |now: &[(&'static str, u64)], then: &[(&'static str, u64)]| {
            let less = |(label, count): &(&'static str, u64)| {
                let before = then.iter().find(|(other, _)| other == label);
                (*label, count.saturating_sub(before.map_or(0, |(_, before)| *before)))
            };
            now.iter().map(less).collect()
        };
        let since = |counter| {
            let (now, then) = (self.get(counter), earlier.get(counter));
            now.unwrap_or(0).saturating_sub(then.unwrap_or(0))
        };
        // A difference is one of what was counted meanwhile: that of two differences would have a second of more origin
        // requests than requests taken back by the next.
        let less = |counter: Counter| match counter.record().source {
            CounterSource::Difference(all, part) => since(all).saturating_sub(since(part)),
            _ => since(counter),
        };
        let totals = self.counts.iter().filter(|(of, _)| of.record().kind == CounterKind::Total);
        Self {
            counts: totals.map(|(counter, _)| (*counter, less(*counter))).collect(),
            forwarded: labelled(&self.forwarded, &earlier.forwarded),
            details: labelled(&self.details, &earlier.details),
            hits: self.hits.less(&earlier.hits),
            misses: self.misses.less(&earlier.misses),
        }
    }

    /// The number of one of them; `None` if it is not among them.
    pub fn get(&self, counter: Counter) -> Option<u64> {
        self.counts.iter().find(|(other, _)| *other == counter).map(|(_, count)| *count)
    }
}

impl Stats {
    /// Counts one more.
    pub fn count(&self, counter: Counter) {
        self.cells.add(counter, 1);
    }

    /// Counts a request that went on to the origin server, for this reason.
    pub fn count_forwarded(&self, why: Why) {
        let index = Why::ALL.iter().position(|other| *other == why);
        let cell = &self.forwarded[index.expect("ALL holds every variant")];
        cell.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what `Cache-Status` says about one response.
    pub fn count_status(&self, status: &CacheStatus) {
        // Locked for one addition, on misses and refusals: a plain hit has no detail.
        if let Some(detail) = status.detail {
            *self.details.lock().entry(detail.as_str()).or_default() += 1;
        }
    }

    /// Counts fresh hits that were answered on the fast path, and the bytes of their content. The event loop
    /// counts them for itself and hands them in once a turn, so that hits on several loops do not contend for
    /// one cache line.
    pub fn count_fast_hits(&self, hits: u64, bytes: u64) {
        // Two additions a turn: a reader between them sees more requests than hits, never the other way
        // round.
        self.cells.add(Counter::Request, hits);
        self.cells.add(Counter::Hit, hits);
        self.count_bytes(bytes, true);
    }

    /// Counts the content of one response.
    pub fn count_bytes(&self, bytes: u64, from_cache: bool) {
        self.cells.add(Counter::BytesSent, bytes);
        if from_cache {
            self.cells.add(Counter::BytesFromCache, bytes);
        }
    }

    /// Counts how long an answer took, from the arrival of the request to its last byte.
    pub fn count_latency(&self, from_cache: bool, taken: Duration) {
        // Apart: a quantile of hits and misses together would describe neither.
        if from_cache {
            self.hit_latencies.count(taken);
        } else {
            self.miss_latencies.count(taken);
        }
    }

    /// Adds what an event loop has counted for itself.
    pub fn count_hit_latencies(&self, tally: &Tally) {
        self.hit_latencies.add(tally);
    }

    /// Counts responses that the timer removed.
    pub fn count_swept(&self, responses: usize) {
        self.cells.add(Counter::Swept, responses as u64);
    }

    /// Counts lines of the access log that are lost.
    fn count_lost_lines(&self, lines: u64) {
        self.cells.add(Counter::AccessLogLost, lines);
    }

    /// Raises a gauge by `more`, or lowers it if negative. Each rise needs its fall, however the thing ends: a
    /// panic included.
    pub fn gauge(&self, gauge: Counter, more: i64) {
        self.cells.change(gauge, more);
    }

    /// The newest requests, for who watches the proxy.
    pub fn recent(&self) -> &RecentRequests {
        &self.recent
    }

    /// One number; zero for those that are not counted here.
    pub fn get(&self, counter: Counter) -> u64 {
        self.cells.get(counter)
    }

    /// Everything that is counted here; the stores count for themselves.
    pub fn snapshot(&self) -> Snapshot {
        // The numbers are read one after the other, not at one moment: each is right, and their sums
        // may be a request apart.
        let counted = |record: &&CounterRecord| {
            matches!(record.source, CounterSource::Counted | CounterSource::Difference(..))
        };
        let count = |record: &CounterRecord| (record.counter, self.cells.get(record.counter));
        // The last ones first: requests are counted before hits, and there should be no more hits than requests.
        let mut counts: Vec<_> = COUNTERS.iter().rev().filter(counted).map(count).collect();
        counts.reverse();
        let forwarded = Why::ALL.iter().zip(&self.forwarded);
        Snapshot {
            counts,
            forwarded: forwarded
                .map(|(why, count)| (why.as_str(), count.load(Ordering::Relaxed)))
                .collect(),
            details: self.details.lock().iter().map(|(name, count)| (*name, *count)).collect(),
            hits: self.hit_latencies.tally(),
            misses: self.miss_latencies.tally(),
        }
    }

    /// One line that sums everything up, for the log at the end.
    pub fn summary(&self) -> String {
        let snapshot = self.snapshot();
        let get = |counter| snapshot.get(counter).unwrap_or(0);
        let (requests, hits) = (get(Counter::Request), get(Counter::Hit));
        let (sent, from_cache) = (get(Counter::BytesSent), get(Counter::BytesFromCache));
        let mut line = format!(
            "{requests} requests: {hits} hits ({}%), {} misses; {sent} bytes sent, {from_cache} \
             from the cache ({}%); {} origin requests, {} saved",
            whole_percent(hits, requests),
            get(Counter::Miss),
            whole_percent(from_cache, sent),
            get(Counter::OriginRequest),
            get(Counter::OriginRequestSaved),
        );
        for (family, counts) in [("forwarded", &snapshot.forwarded), ("details", &snapshot.details)]
        {
            let used = counts.iter().filter(|(_, count)| *count > 0);
            for (index, (label, count)) in used.enumerate() {
                let before = if index == 0 { format!("; {family}: ") } else { ", ".to_string() };
                let _ = write!(line, "{before}{count} {label}");
            }
        }
        for (counter, count) in snapshot.counts.iter().filter(|(_, count)| *count > 0) {
            let words = counter.record().in_summary;
            // The line names what is out of the ordinary, and only if it has occurred.
            if !words.is_empty() {
                let _ = write!(line, "; {count} {words}");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reason::Detail;

    #[test]
    fn what_was_counted_meanwhile_is_told_apart() {
        let stats = Stats::default();
        for refreshed in [Counter::OriginRequest; 3] {
            stats.count(refreshed);
        }
        stats.count_forwarded(Why::Stale);
        stats.gauge(Counter::Connections, 4);
        let then = stats.snapshot();
        for counter in [Counter::Request, Counter::Request, Counter::Hit, Counter::OriginRequest] {
            stats.count(counter);
        }
        let detail = Some(Detail::NoStore);
        stats.count_status(&CacheStatus { detail, ..CacheStatus::default() });
        stats.count_latency(true, Duration::from_millis(1));
        let meanwhile = stats.snapshot().less(&then);
        let get = |counter| meanwhile.get(counter);
        assert_eq!((get(Counter::Request), get(Counter::Miss)), (Some(2), Some(1)));
        assert_eq!(
            get(Counter::OriginRequestSaved),
            Some(1),
            "not less for what was refreshed before"
        );
        assert_eq!(get(Counter::Connections), None, "a level is of now");
        assert_eq!(meanwhile.details, [("no-store", 1)]);
        assert!(meanwhile.forwarded.iter().all(|(_, count)| *count == 0));
        assert_eq!((meanwhile.hits.total(), meanwhile.hits.sum_us), (1, 1000));
    }

    #[test]
    fn the_summary_counts_what_was_saved() {
        let stats = Stats::default();
        for counter in [Counter::Request, Counter::Request, Counter::Hit, Counter::OriginRequest] {
            stats.count(counter);
        }
        stats.count_forwarded(Why::UriMiss);
        let detail = Some(Detail::NoStore);
        stats.count_status(&CacheStatus { detail, ..CacheStatus::default() });
        stats.count_status(&CacheStatus::default());
        stats.count_bytes(10, true);
        stats.count_bytes(10, false);
        let begins = "2 requests: 1 hits (50%), 1 misses; 20 bytes sent, 10 from the cache (50%); \
                      1 origin requests, 1 saved; forwarded: 1 uri-miss; details: 1 no-store";
        assert_eq!(stats.summary(), begins);
        for counter in COUNTERS.iter().filter(|record| !record.in_summary.is_empty()) {
            stats.count(counter.counter);
        }
        let ends = "; 1 stale; 1 collapsed; 1 freshened; 1 expanded; 1 refused; 1 origin errors; \
                    1 truncated; 1 removed by the timer; 1 panics; 1 lines of the access log lost";
        assert_eq!(stats.summary(), format!("{begins}{ends}"));
    }
}
