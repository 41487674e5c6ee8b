//! Everything that is counted, as one table: its name, its help, its kind, and where its number comes from.
//!
//! The enum, the snapshot, `proxy stats`, `/stats`, the metrics and the summary at the end are all made from it:
//! a new counter is one row here and the lines that count it. Names are part of the interface, for dashboards
//! and scripts know them: a row may be added, but none renamed.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use self::CounterKind::{Gauge, Histogram, Total};
use self::CounterSource::{Counted, Difference, Labelled, Stores};

/// One counter: its row of the table.
#[derive(Clone, Copy, Debug)]
pub struct CounterRecord {
    /// Which one it is.
    pub counter: Counter,
    /// What programs know it by, in snake case; the metrics put `proxy_` in front of it and the kind's ending
    /// behind it.
    pub name: &'static str,
    /// What it counts, as one phrase.
    pub help: &'static str,
    /// How it behaves over time.
    pub kind: CounterKind,
    /// Where its number comes from.
    pub source: CounterSource,
    /// Its words in the summary, which names it if it is not zero; empty for those that the summary always
    /// names or never does.
    pub in_summary: &'static str,
}

/// How a number behaves over time, in Prometheus' words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CounterKind {
    /// It only grows, from zero at the start.
    Total,
    /// It rises and falls.
    Gauge,
    /// Numbers in buckets, with their sum.
    Histogram,
}

/// Where a number comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CounterSource {
    /// [`super::Stats`] has a cell for it.
    Counted,
    /// The first less the second, but not below zero: the two are not read at the same moment.
    Difference(Counter, Counter),
    /// Several numbers, one for each value of this label.
    Labelled(&'static str),
    /// The stores are asked when it is read.
    Stores,
}

impl CounterKind {
    /// The kind's name in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Total => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        }
    }
}

/// Makes the enum and the table of the same rows in the same order, so that a counter's number in the enum is
/// its index in the table.
macro_rules! counters {
    ($($counter:ident: $kind:ident, $source:expr, $name:literal, $help:literal
        $(, in summary $in_summary:literal)?;)*) => {
        /// Something that is counted, or of which there is more or less.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Counter {
            $(#[doc = $help] $counter,)*
        }

        /// The table, in the order in which it is shown.
        pub static COUNTERS: [CounterRecord; [$($name),*].len()] = [
            $(CounterRecord {
                counter: Counter::$counter,
                name: $name,
                help: $help,
                kind: $kind,
                source: $source,
                in_summary: concat!("" $(, $in_summary)?),
            },)*
        ];
    };
}

counters! {
    Request: Total, Counted, "requests", "requests that came in";
    Hit: Total, Counted, "hits", "answers whose body came from the cache";
    Miss: Total, Difference(Counter::Request, Counter::Hit), "misses", "all other answers";
    Stale: Total, Counted, "stale_hits", "hits that were stale", in summary "stale";
    Collapsed: Total, Counted, "collapsed_hits", "hits that waited for another request's answer",
        in summary "collapsed";
    Freshened: Total, Counted, "freshened_hits", "hits that the origin server had confirmed",
        in summary "freshened";
    Expanded: Total, Counted, "expanded_hits", "hits that were compressed in memory", in summary "expanded";
    Refused: Total, Counted, "refused", "answers with an error of the proxy's own", in summary "refused";
    OriginRequest: Total, Counted, "origin_requests", "requests sent to the origin server";
    // Redirects that are followed and refreshes ask the origin server more often than clients ask the proxy.
    OriginRequestSaved: Total, Difference(Counter::Request, Counter::OriginRequest), "origin_requests_saved",
        "requests that needed none";
    OriginError: Total, Counted, "origin_errors", "requests without a usable response",
        in summary "origin errors";
    Truncated: Total, Counted, "truncated", "responses that ended before they were complete",
        in summary "truncated";
    BytesSent: Total, Counted, "bytes_sent", "bytes of content sent to clients";
    BytesFromCache: Total, Counted, "bytes_from_cache", "bytes of content sent from the cache";
    Swept: Total, Counted, "swept", "stored responses that the timer removed",
        in summary "removed by the timer";
    Panic: Total, Counted, "panics", "workers that panicked", in summary "panics";
    AccessLogLost: Total, Counted, "access_log_lines_lost",
        "lines of the access log that could not be written, or too slowly",
        in summary "lines of the access log lost";
    Forwarded: Total, Labelled("reason"), "forwarded", "requests that went on to the origin server";
    Details: Total, Labelled("detail"), "details", "what Cache-Status said in detail";
    Connections: Gauge, Counted, "connections", "clients that are connected";
    Workers: Gauge, Counted, "workers", "worker threads";
    BusyWorkers: Gauge, Counted, "workers_busy", "worker threads that work";
    WaitingJobs: Gauge, Counted, "jobs_waiting", "pieces of work that wait for a worker";
    MemoryResponses: Gauge, Stores, "memory_responses", "responses stored in memory";
    MemoryBytes: Gauge, Stores, "memory_bytes", "bytes they take";
    MemoryArrivingBytes: Gauge, Stores, "memory_arriving_bytes", "bytes of content on its way in";
    MemoryEvicted: Total, Stores, "memory_evicted", "responses dropped from memory to make space";
    MemoryCompressed: Total, Stores, "memory_compressed", "responses compressed in memory";
    StoreResponses: Gauge, Stores, "store_responses", "responses in the store behind memory";
    StoreBytes: Gauge, Stores, "store_bytes", "bytes they take";
    StoreEvicted: Total, Stores, "store_evicted", "responses dropped there to make space";
    StoreFailing: Gauge, Stores, "store_failing", "1 while the store behind memory is left alone";
    StoreDropped: Total, Stores, "store_dropped", "changes that it did not take";
    StoreLoaded: Total, Stores, "store_loaded", "responses brought from there into memory after the start";
    StoreLoading: Gauge, Stores, "store_loading", "1 while that goes on";
    Latency: Histogram, Labelled("outcome"), "latency_seconds",
        "from a request's arrival to the last byte of its answer";
}

impl Counter {
    /// The counter's row.
    pub fn record(self) -> &'static CounterRecord {
        COUNTERS.get(self as usize).expect("the macro makes a row for each")
    }
}

/// A cell for each counter, to which any thread may add.
///
/// Every access is relaxed: the counters order nothing else, and nobody needs two of them to agree at a moment.
#[derive(Debug)]
pub(super) struct Cells([AtomicU64; COUNTERS.len()]);

impl Default for Cells {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Cells {
    /// Adds `more` to a counter that only grows.
    pub(super) fn add(&self, counter: Counter, more: u64) {
        let record = counter.record();
        // What is derived or asked elsewhere has no number here, and would be counted without being seen.
        assert!(
            matches!((record.source, record.kind), (Counted, Total)),
            "{counter:?} is not counted"
        );
        self.0[counter as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Adds `more` to a gauge; a negative number takes away.
    pub(super) fn change(&self, gauge: Counter, more: i64) {
        let record = gauge.record();
        assert!(matches!((record.source, record.kind), (Counted, Gauge)), "{gauge:?} only grows");
        // In two's complement, adding the bits of a negative number takes away.
        self.0[gauge as usize].fetch_add(more.cast_unsigned(), Ordering::Relaxed);
    }

    /// The number now; zero for those that are not counted here.
    pub(super) fn get(&self, counter: Counter) -> u64 {
        // The macro has made enum and table of the same rows, so the number of one is the index into
        // the other.
        let cell = |counter: Counter| self.0[counter as usize].load(Ordering::Relaxed);
        let record = counter.record();
        match record.source {
            // Between the two reads one more may have been counted of the second.
            Difference(all, less) => cell(all).saturating_sub(cell(less)),
            // A thread may be seen to leave before it is seen to come.
            _ if record.kind == Gauge => cell(counter).cast_signed().max(0).cast_unsigned(),
            _ => cell(counter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_dashboards_know_stay() {
        let names = COUNTERS.map(|record| record.name).join(" ");
        assert_eq!(
            names,
            "requests hits misses stale_hits collapsed_hits freshened_hits expanded_hits refused origin_requests \
             origin_requests_saved origin_errors truncated bytes_sent bytes_from_cache swept panics \
             access_log_lines_lost forwarded details connections workers workers_busy jobs_waiting \
             memory_responses memory_bytes memory_arriving_bytes memory_evicted memory_compressed \
             store_responses store_bytes store_evicted store_failing store_dropped store_loaded store_loading latency_seconds"
        );
    }

    #[test]
    fn each_row_is_its_own_counter_and_counts_by_itself() {
        for (index, record) in COUNTERS.iter().enumerate() {
            assert_eq!(record.counter as usize, index, "{}", record.name);
            assert!(!record.help.is_empty(), "{}", record.name);
            let cells = Cells::default();
            match (record.source, record.kind) {
                (Counted, Total) => cells.add(record.counter, 7),
                (Counted, _) => cells.change(record.counter, 7),
                _ => continue,
            }
            for other in COUNTERS {
                let expected = match other.source {
                    _ if other.counter == record.counter => 7,
                    Difference(all, _) if all == record.counter => 7,
                    _ => 0,
                };
                assert_eq!(cells.get(other.counter), expected, "{} {}", record.name, other.name);
            }
        }
    }

    #[test]
    fn neither_a_gauge_nor_a_difference_falls_below_zero() {
        let cells = Cells::default();
        cells.change(Counter::Connections, -1);
        assert_eq!(cells.get(Counter::Connections), 0);
        cells.change(Counter::Connections, 3);
        assert_eq!(cells.get(Counter::Connections), 2);
        cells.add(Counter::Hit, 5);
        assert_eq!(cells.get(Counter::Miss), 0);
    }
}
