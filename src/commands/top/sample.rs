//! What `/stats` says at one moment, and what became of it over spans of time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The counters at one moment. A proxy of another version may leave some out: they are zero then.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TopSample {
    /// The address on which the proxy serves clients.
    pub address: String,
    /// The URL of the origin server.
    pub origin: String,
    /// When the proxy started, in seconds since 1970.
    pub since: u64,
    /// Requests that came in.
    pub requests: u64,
    /// Answers whose body came from the cache.
    pub hits: u64,
    /// Bytes of content sent to clients.
    pub bytes_sent: u64,
    /// Those of them that came from the cache.
    pub bytes_from_cache: u64,
    /// Requests sent to the origin server.
    pub origin_requests: u64,
    /// Requests without a usable response.
    pub origin_errors: u64,
    /// Requests that went on to the origin server, by the reason.
    pub forwarded: BTreeMap<String, u64>,
    /// Responses by the word behind `detail=`.
    pub details: BTreeMap<String, u64>,
    /// How long hits took.
    pub hit_latency: SampledLatency,
    /// How long everything else took.
    pub miss_latency: SampledLatency,
    /// Clients that are connected now.
    pub connections: u64,
    /// Responses stored in memory now.
    pub memory_responses: u64,
    /// The bytes they take.
    pub memory_bytes: u64,
    /// Those in the store behind memory; `None` where there is none, or it cannot be asked.
    pub store_responses: Option<u64>,
    /// The bytes they take.
    pub store_bytes: Option<u64>,
    /// 1 while that store is left alone.
    pub store_failing: u64,
}

/// How long answers took since the start, in seconds; `None` before the first.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SampledLatency {
    /// Half of them took no longer.
    pub p50_seconds: Option<f64>,
    /// All but one in a hundred took no longer.
    pub p99_seconds: Option<f64>,
}

impl TopSample {
    /// What was counted from `before` to this one; the levels are those of now. A counter that has fallen is
    /// that of a proxy that has started anew, and counts from zero.
    pub fn less(&self, before: &Self) -> Self {
        let map = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let less = |(name, count): (&String, &u64)| {
                let before = before.get(name).copied().unwrap_or(0);
                (name.clone(), count.saturating_sub(before))
            };
            now.iter().map(less).filter(|(_, count)| *count > 0).collect()
        };
        Self {
            requests: self.requests.saturating_sub(before.requests),
            hits: self.hits.saturating_sub(before.hits),
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_from_cache: self.bytes_from_cache.saturating_sub(before.bytes_from_cache),
            origin_requests: self.origin_requests.saturating_sub(before.origin_requests),
            origin_errors: self.origin_errors.saturating_sub(before.origin_errors),
            forwarded: map(&self.forwarded, &before.forwarded),
            details: map(&self.details, &before.details),
            ..self.clone()
        }
    }

    /// Requests that needed none to the origin server.
    pub fn saved(&self) -> u64 {
        self.requests.saturating_sub(self.origin_requests)
    }

    /// Requests that were no hits.
    pub fn misses(&self) -> u64 {
        self.requests.saturating_sub(self.hits)
    }
}

/// What was counted in a span of time.
#[derive(Clone, Debug)]
pub struct SpanCounts {
    /// The counters, less what they were before.
    pub counts: TopSample,
    /// How long the span was: shorter than asked for until so much time has been seen.
    pub taken: Duration,
}

/// The samples of the last hour: each of the last minute, and one for each minute before. At most 123.
#[derive(Debug, Default)]
pub struct TopSamples {
    seconds: VecDeque<(Instant, TopSample)>,
    minutes: VecDeque<(Instant, TopSample)>,
}

impl TopSamples {
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    /// More than these are not kept in either list, whatever the clock says.
    const KEPT_MAX: usize = 62;

    /// Adds the newest sample. One of another process than before begins anew.
    pub fn add(&mut self, at: Instant, sample: TopSample) {
        if self.newest().is_some_and(|newest| newest.since != sample.since) {
            *self = Self::default();
        }
        let is_minute_over =
            self.minutes.back().is_none_or(|(last, _)| at.duration_since(*last) >= Self::MINUTE);
        if is_minute_over {
            push(&mut self.minutes, (at, sample.clone()), Self::HOUR);
        }
        push(&mut self.seconds, (at, sample), Self::MINUTE);
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<&TopSample> {
        self.seconds.back().map(|(_, sample)| sample)
    }

    /// What was counted between the last two samples; `None` before the second.
    pub fn last(&self) -> Option<SpanCounts> {
        let before = self.seconds.len().checked_sub(2).and_then(|at| self.seconds.get(at))?;
        self.from(before)
    }

    /// What was counted in the last minute; `None` before the second sample.
    pub fn minute(&self) -> Option<SpanCounts> {
        self.from(self.seconds.front().filter(|_| self.seconds.len() > 1)?)
    }

    /// What was counted in the last hour; `None` before the second sample.
    pub fn hour(&self) -> Option<SpanCounts> {
        self.from(self.minutes.front().filter(|_| self.seconds.len() > 1)?)
    }

    fn from(&self, (then, before): &(Instant, TopSample)) -> Option<SpanCounts> {
        let (now, newest) = self.seconds.back()?;
        Some(SpanCounts { counts: newest.less(before), taken: now.duration_since(*then) })
    }
}

/// Adds a sample, and drops those of which a later one is old enough, too.
fn push(list: &mut VecDeque<(Instant, TopSample)>, newest: (Instant, TopSample), span: Duration) {
    let now = newest.0;
    list.push_back(newest);
    while list.len() > TopSamples::KEPT_MAX
        || list.get(1).is_some_and(|(second, _)| now.duration_since(*second) >= span)
    {
        list.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minute_and_hour_are_counted_from_the_samples_and_bounded() {
        let begun = Instant::now();
        let mut history = TopSamples::default();
        assert!(history.last().is_none() && history.minute().is_none());
        // One request a second, over three hours.
        for second in 0..10_800_u64 {
            let sample = TopSample { requests: second, since: 1, ..TopSample::default() };
            history.add(begun + Duration::from_secs(second), sample);
            assert!(history.seconds.len() <= 62 && history.minutes.len() <= 62);
            let Some(last) = history.last() else { continue };
            let (minute, hour) = (history.minute(), history.hour());
            let (minute, hour) = (minute.expect("two samples"), hour.expect("two samples"));
            assert_eq!(last.counts.requests, 1);
            assert_eq!(minute.counts.requests, second.min(60));
            assert_eq!(minute.taken.as_secs(), second.min(60));
            // Its first sample is up to a minute older than an hour.
            assert_eq!(hour.counts.requests, hour.taken.as_secs());
            let expected = if second < 3600 { second..=second } else { 3600..=3659 };
            assert!(expected.contains(&hour.counts.requests), "{second}: {}", hour.counts.requests);
        }
        // Faster than once a second: bounded all the same.
        for step in 0..1000 {
            let at = begun + Duration::from_secs(10_800) + Duration::from_millis(step);
            history.add(at, TopSample { since: 1, ..TopSample::default() });
            assert!(history.seconds.len() <= 62);
        }
    }

    #[test]
    fn another_process_begins_anew_and_nothing_falls_below_zero() {
        let begun = Instant::now();
        let mut history = TopSamples::default();
        for (second, since, requests) in [(0, 1, 100), (1, 1, 110), (2, 5, 3), (3, 5, 4)] {
            let sample = TopSample { since, requests, ..TopSample::default() };
            history.add(begun + Duration::from_secs(second), sample);
            assert_eq!(history.last().is_none(), second % 2 == 0, "{second}");
        }
        assert_eq!(history.hour().expect("two samples").counts.requests, 1);
        let (few, many) = (
            TopSample { hits: 1, ..TopSample::default() },
            TopSample { hits: 9, ..TopSample::default() },
        );
        assert_eq!(few.less(&many).hits, 0);
    }

    #[test]
    fn the_answer_of_any_version_is_read() {
        let sample: TopSample = serde_json::from_str(
            "{\"requests\":3,\"hits\":2,\"forwarded\":{\"uri-miss\":1},\"hit_latency\":{\"p50_seconds\":null},\
             \"of_a_later_version\":[1]}",
        )
        .expect("JSON");
        assert_eq!((sample.requests, sample.misses(), sample.saved()), (3, 1, 3));
        assert_eq!(sample.forwarded["uri-miss"], 1);
        assert_eq!(sample.store_responses, None);
    }
}
