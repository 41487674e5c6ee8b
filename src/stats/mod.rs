//! What the proxy counts, in the words of the decision types, so that the counters, the access log and
//! `Cache-Status` never disagree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::policy::reason::{CacheStatus, Why};

mod access_log;
mod latency;

pub use access_log::{AccessFormat, AccessLog, AccessRecord};
pub use latency::{BOUNDS_US, Latencies, Tally};

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    requests: AtomicU64,
    hits: AtomicU64,
    stale: AtomicU64,
    collapsed: AtomicU64,
    freshened: AtomicU64,
    refused: AtomicU64,
    forwarded: [AtomicU64; Why::ALL.len()],
    origin_requests: AtomicU64,
    origin_errors: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_from_cache: AtomicU64,
    truncated: AtomicU64,
    swept: AtomicU64,
    panics: AtomicU64,
    access_log_lost: AtomicU64,
    /// How often each particular rule was told, by its word in `Cache-Status`.
    details: Mutex<BTreeMap<&'static str, u64>>,
    /// From a request's arrival to the last byte of its answer, where that came from the cache, and where
    /// it did not.
    hit_latencies: Latencies,
    miss_latencies: Latencies,
    connections: AtomicI64,
    workers: AtomicI64,
    workers_busy: AtomicI64,
    jobs_waiting: AtomicI64,
}

/// Something that there is more or less of.
#[derive(Clone, Copy, Debug)]
pub enum Gauge {
    /// Clients that are connected.
    Connections,
    /// Worker threads.
    Workers,
    /// Those that work.
    BusyWorkers,
    /// Pieces of work that wait for one.
    WaitingJobs,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// By name, as `proxy stats --json` and the metrics have it; each with what it counts.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Requests that went on to the origin server, by the reason.
    pub forwarded: Vec<(&'static str, u64)>,
    /// What responses were told, by the word in `Cache-Status`.
    pub details: Vec<(&'static str, u64)>,
    /// How much there is of something now.
    pub gauges: Vec<(&'static str, &'static str, i64)>,
    /// How long hits took.
    pub hits: Tally,
    /// How long everything else took.
    pub misses: Tally,
}

/// One thing that is counted.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A request came in.
    Request,
    /// The body came from the cache.
    Hit,
    /// It did, and was stale.
    Stale,
    /// It did, after waiting for another request's answer.
    Collapsed,
    /// It did, after the origin server had confirmed that it still holds.
    Freshened,
    /// The proxy answered with an error of its own.
    Refused,
    /// A request went on to the origin server, for this reason.
    Forwarded(Why),
    /// A request was sent to the origin server.
    OriginRequest,
    /// The origin server gave no usable response.
    OriginError,
    /// A response ended before it was complete.
    Truncated,
    /// A worker panicked.
    Panic,
}

impl Stats {
    /// Counts one event.
    pub fn count(&self, event: Event) {
        let counter = match event {
            Event::Request => &self.requests,
            Event::Hit => &self.hits,
            Event::Stale => &self.stale,
            Event::Collapsed => &self.collapsed,
            Event::Freshened => &self.freshened,
            Event::Refused => &self.refused,
            Event::Forwarded(why) => {
                let index = Why::ALL.iter().position(|other| *other == why);
                &self.forwarded[index.expect("ALL holds every variant")]
            }
            Event::OriginRequest => &self.origin_requests,
            Event::OriginError => &self.origin_errors,
            Event::Truncated => &self.truncated,
            Event::Panic => &self.panics,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what one response is told in `Cache-Status`.
    pub fn count_status(&self, status: &CacheStatus) {
        if let Some(detail) = status.detail {
            *self.details.lock().entry(detail.as_str()).or_default() += 1;
        }
    }

    /// Counts fresh hits that were answered at a glance, and the bytes of their content.
    pub fn count_glances(&self, hits: u64, bytes: u64) {
        self.requests.fetch_add(hits, Ordering::Relaxed);
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        self.bytes_from_cache.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the content of one response.
    pub fn count_bytes(&self, bytes: u64, from_cache: bool) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        if from_cache {
            self.bytes_from_cache.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts how long an answer took, from the arrival of the request to its last byte.
    pub fn count_latency(&self, from_cache: bool, taken: Duration) {
        if from_cache {
            self.hit_latencies.count(taken);
        } else {
            self.miss_latencies.count(taken);
        }
    }

    /// Counts how long hits took that were counted by somebody else.
    pub fn count_hit_latencies(&self, tally: &Tally) {
        self.hit_latencies.add(tally);
    }

    /// There is so much more of something, or less.
    pub fn gauge(&self, gauge: Gauge, more: i64) {
        let level = match gauge {
            Gauge::Connections => &self.connections,
            Gauge::Workers => &self.workers,
            Gauge::BusyWorkers => &self.workers_busy,
            Gauge::WaitingJobs => &self.jobs_waiting,
        };
        level.fetch_add(more, Ordering::Relaxed);
    }

    /// Everything that is counted.
    pub fn snapshot(&self) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (requests, hits) = (get(&self.requests), get(&self.hits));
        let saved = requests.saturating_sub(get(&self.origin_requests));
        let counters = vec![
            ("requests", "requests that came in", requests),
            ("hits", "answers whose body came from the cache", hits),
            ("misses", "all other answers", requests.saturating_sub(hits)),
            ("stale_hits", "hits that were stale", get(&self.stale)),
            (
                "collapsed_hits",
                "hits that waited for another request's answer",
                get(&self.collapsed),
            ),
            ("freshened_hits", "hits that the origin server had confirmed", get(&self.freshened)),
            ("refused", "answers with an error of the proxy's own", get(&self.refused)),
            ("origin_requests", "requests sent to the origin server", get(&self.origin_requests)),
            ("origin_requests_saved", "requests that needed none", saved),
            ("origin_errors", "requests without a usable response", get(&self.origin_errors)),
            ("truncated", "responses that ended before they were complete", get(&self.truncated)),
            ("bytes_sent", "bytes of content sent to clients", get(&self.bytes_sent)),
            (
                "bytes_from_cache",
                "bytes of content sent from the cache",
                get(&self.bytes_from_cache),
            ),
            ("swept", "stored responses that the timer removed", get(&self.swept)),
            ("panics", "workers that panicked", get(&self.panics)),
            (
                "access_log_lines_lost",
                "lines of the access log that could not be written, or too slowly",
                get(&self.access_log_lost),
            ),
        ];
        let level = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed);
        let gauges = vec![
            ("connections", "clients that are connected", level(&self.connections)),
            ("workers", "worker threads", level(&self.workers)),
            ("workers_busy", "worker threads that work", level(&self.workers_busy)),
            ("jobs_waiting", "pieces of work that wait for a worker", level(&self.jobs_waiting)),
        ];
        let whys = Why::ALL.iter().zip(&self.forwarded);
        Snapshot {
            counters,
            forwarded: whys.map(|(why, count)| (why.as_str(), get(count))).collect(),
            details: self.details.lock().iter().map(|(name, count)| (*name, *count)).collect(),
            gauges,
            hits: self.hit_latencies.tally(),
            misses: self.miss_latencies.tally(),
        }
    }

    /// Counts responses that the timer removed.
    pub fn count_swept(&self, responses: usize) {
        self.swept.fetch_add(responses as u64, Ordering::Relaxed);
    }

    /// Counts lines of the access log that nobody will read.
    fn count_lost_lines(&self, lines: u64) {
        self.access_log_lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// One line that sums everything up.
    pub fn summary(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (requests, hits) = (get(&self.requests), get(&self.hits));
        let (sent, from_cache) = (get(&self.bytes_sent), get(&self.bytes_from_cache));
        let percent = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or(0);
        let mut line = format!(
            "{requests} requests: {hits} hits ({}%), {} misses; {sent} bytes sent, {from_cache} \
             from the cache ({}%); {} origin requests, {} saved",
            percent(hits, requests),
            requests.saturating_sub(hits),
            percent(from_cache, sent),
            get(&self.origin_requests),
            // Redirects that were followed and refreshes make more of them than there are misses.
            requests.saturating_sub(get(&self.origin_requests)),
        );
        let reasons = Why::ALL.iter().zip(&self.forwarded).filter(|(_, count)| get(count) > 0);
        for (index, (why, count)) in reasons.enumerate() {
            let before = if index == 0 { "; forwarded: " } else { ", " };
            let _ = write!(line, "{before}{} {}", get(count), why.as_str());
        }
        for (index, (detail, count)) in self.details.lock().iter().enumerate() {
            let _ =
                write!(line, "{}{count} {detail}", if index == 0 { "; details: " } else { ", " });
        }
        for (name, counter) in [
            ("stale", &self.stale),
            ("collapsed", &self.collapsed),
            ("freshened", &self.freshened),
            ("refused", &self.refused),
            ("origin errors", &self.origin_errors),
            ("truncated", &self.truncated),
            ("removed by the timer", &self.swept),
            ("panics", &self.panics),
            ("lines of the access log lost", &self.access_log_lost),
        ] {
            if get(counter) > 0 {
                let _ = write!(line, "; {} {name}", get(counter));
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
    fn the_summary_counts_what_was_saved() {
        let stats = Stats::default();
        for event in [Event::Request, Event::Request, Event::Hit, Event::Forwarded(Why::UriMiss)] {
            stats.count(event);
        }
        stats.count(Event::OriginRequest);
        let detail = Some(Detail::NoStore);
        stats.count_status(&CacheStatus { detail, ..CacheStatus::default() });
        stats.count_status(&CacheStatus::default());
        stats.count_bytes(10, true);
        stats.count_bytes(10, false);
        assert_eq!(
            stats.summary(),
            "2 requests: 1 hits (50%), 1 misses; 20 bytes sent, 10 from the cache (50%); \
             1 origin requests, 1 saved; forwarded: 1 uri-miss; details: 1 no-store"
        );
    }
}
