//! What `/stats` says at one moment, and what became of it over spans of time; what `/recent` says of requests.
//!
//! A proxy tells what was counted in its last minute and hour. One of an older version does not: then it is the minute
//! and the hour since it is watched.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

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
    /// Of a span: how many seconds it was; 0 where the counters are those since the start.
    pub seconds: u64,
    /// What was counted in the last minute, as the proxy tells it.
    pub minute: Option<Box<TopSample>>,
    /// What was counted in the last hour.
    pub hour: Option<Box<TopSample>>,
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

/// How long answers took, in seconds; `None` before the first.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SampledLatency {
    /// Half of them took no longer.
    pub p50_seconds: Option<f64>,
    /// All but one in a hundred took no longer.
    pub p99_seconds: Option<f64>,
}

impl TopSample {
    /// What was counted from `before` to this one; the levels are those of now, and latencies are not known. A counter
    /// that has fallen is that of a proxy that has started anew, and counts from zero.
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
            hit_latency: SampledLatency::default(),
            miss_latency: SampledLatency::default(),
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

/// The answer to `/recent`.
#[derive(Clone, Debug, Default)]
pub struct TopRequests {
    /// What the next answer is asked for with.
    pub next: u64,
    /// The newest requests, the oldest first.
    pub requests: Vec<TopRequest>,
}

impl TopRequests {
    /// Reads an answer; what is missing in it is empty or zero. By hand: derived code for it takes 10 KB of the binary.
    pub fn read(answer: &Value) -> Self {
        let requests = answer["requests"].as_array().map_or(&[][..], |all| all);
        Self {
            next: answer["next"].as_u64().unwrap_or(0),
            requests: requests.iter().map(TopRequest::read).collect(),
        }
    }
}

/// A request that was answered.
#[derive(Clone, Debug, Default)]
pub struct TopRequest {
    /// When it arrived, in seconds since 1970.
    pub at: u64,
    /// Its method.
    pub method: String,
    /// Its target, or the beginning of it.
    pub target: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// `hit`, or why it was none.
    pub outcome: String,
    /// How long it took; `None` for hits that are not timed one by one.
    pub seconds: Option<f64>,
}

impl TopRequest {
    fn read(request: &Value) -> Self {
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_string();
        let number = |name: &str| request[name].as_u64().unwrap_or(0);
        Self {
            at: number("at"),
            method: text("method"),
            target: text("target"),
            status: number("status") as u16,
            bytes: number("bytes"),
            outcome: text("outcome"),
            seconds: request["seconds"].as_f64(),
        }
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

/// The samples of the last hour: each of the last minute, and one for each minute before. At most 123, and what the
/// proxy has told of its own minute and hour.
#[derive(Debug, Default)]
pub struct TopSamples {
    /// Minute and hour, from the newest sample.
    of_proxy: [Option<SpanCounts>; 2],
    seconds: VecDeque<(Instant, TopSample)>,
    minutes: VecDeque<(Instant, TopSample)>,
}

impl TopSamples {
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    /// More than these are not kept in either list, whatever the clock says.
    const KEPT_MAX: usize = 62;

    /// Adds the newest sample. One of another process than before begins anew.
    pub fn add(&mut self, at: Instant, mut sample: TopSample) {
        if self.newest().is_some_and(|newest| newest.since != sample.since) {
            *self = Self::default();
        }
        // Once, not in each of the samples that are kept.
        self.of_proxy = [sample.minute.take(), sample.hour.take()].map(|span| {
            span.map(|span| SpanCounts { taken: Duration::from_secs(span.seconds), counts: *span })
        });
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

    /// Does the proxy tell what was counted in its last minute and hour?
    pub fn is_of_proxy(&self) -> bool {
        self.of_proxy.iter().all(Option::is_some)
    }

    /// What was counted in the last minute; `None` if it is not told, and before the second sample.
    pub fn minute(&self) -> Option<SpanCounts> {
        if self.of_proxy[0].is_some() {
            return self.of_proxy[0].clone();
        }
        self.from(self.seconds.front().filter(|_| self.seconds.len() > 1)?)
    }

    /// The same of the last hour.
    pub fn hour(&self) -> Option<SpanCounts> {
        if self.of_proxy[1].is_some() {
            return self.of_proxy[1].clone();
        }
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
    fn what_the_proxy_tells_of_its_minute_and_hour_comes_first() {
        let (begun, mut history) = (Instant::now(), TopSamples::default());
        let sample: TopSample = serde_json::from_str(
            "{\"since\":1,\"requests\":900,\"minute\":{\"seconds\":60,\"requests\":30},\
             \"hour\":{\"seconds\":200,\"requests\":900,\"hit_latency\":{\"p50_seconds\":0.5}}}",
        )
        .expect("JSON");
        history.add(begun, sample.clone());
        let (minute, hour) = (history.minute().expect("told"), history.hour().expect("told"));
        assert!(history.is_of_proxy() && history.last().is_none());
        assert_eq!((minute.taken.as_secs(), minute.counts.requests), (60, 30));
        assert_eq!((hour.taken.as_secs(), hour.counts.requests), (200, 900));
        assert_eq!(hour.counts.hit_latency.p50_seconds, Some(0.5));
        assert!(history.seconds.iter().all(|(_, kept)| kept.hour.is_none()), "kept once");
        // An older version takes the port over.
        history.add(begun, TopSample { since: 2, ..TopSample::default() });
        assert!(!history.is_of_proxy() && history.hour().is_none());
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
