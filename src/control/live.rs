//! What the page shows while it is open: the figures of the last minute, of the last hour and since the start,
//! and an event each second.
//!
//! One thread looks at the counters once a second, and tells all pages that are open the same. A page holds no
//! thread: its stream is a body that grows, which the event loop reads. An event has at most [`EVENT_BYTES_MAX`],
//! and a page that takes none of them has what fits into its window and misses the rest.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::growing::Writer;
use crate::message::visible::hides;
use crate::policy::response::Response;
use crate::proxy::{BlockingDriver, Proxy};
use crate::stats::{Counter, RecentRequest, Tally};

/// Pages that are open at a time.
const PAGES_MAX: usize = 16;
/// The longest event, in bytes; there is one a second.
const EVENT_BYTES_MAX: usize = 1024;
/// Requests that an event names, at most.
const REQUESTS_MAX: usize = 6;
/// Words behind `detail=` that an event counts, at most; the others follow in the next events.
const DETAILS_MAX: usize = 6;
/// The longest text about the origin server in an event, in bytes.
const ORIGIN_BYTES_MAX: usize = 100;
/// Values in the plot of a minute, and of an hour.
const POINTS: usize = 60;

/// The counters of which there are plots.
const PLOTTED: [Counter; 5] = [
    Counter::Request,
    Counter::Hit,
    Counter::BytesSent,
    Counter::BytesFromCache,
    Counter::OriginRequest,
];

/// The counters at one moment, in the order of [`PLOTTED`].
type Sample = [u64; PLOTTED.len()];

/// What was counted between two moments, in the order of [`PLOTTED`].
fn between(earlier: Sample, later: Sample) -> Sample {
    // A counter that is read while it is written to may seem to have gone back.
    std::array::from_fn(|index| later[index].saturating_sub(earlier[index]))
}

fn sample(proxy: &Proxy) -> Sample {
    PLOTTED.map(|counter| proxy.stats().get(counter))
}

/// Samples at equal distances.
struct Series {
    /// Seconds between two of them.
    step: u64,
    /// One more than there are values, the oldest first.
    samples: VecDeque<Sample>,
    /// When there are twice as many as [`POINTS`], every second one goes and the step doubles: it reaches back to
    /// the start. Otherwise the oldest goes.
    is_whole: bool,
}

impl Series {
    fn new(step: u64, is_whole: bool, first: Sample) -> Self {
        Self { step, samples: VecDeque::from([first]), is_whole }
    }

    /// Takes the sample of the second with this number.
    fn note(&mut self, second: u64, sample: Sample) {
        if !second.is_multiple_of(self.step) {
            return;
        }
        self.samples.push_back(sample);
        if !self.is_whole && self.samples.len() > POINTS + 1 {
            self.samples.pop_front();
        }
        if self.is_whole && self.samples.len() > 2 * POINTS {
            // The first one stays: it is the start.
            self.samples = self.samples.iter().step_by(2).copied().collect();
            self.step *= 2;
        }
    }

    /// What was counted in each step, and since the last one.
    fn values(&self, now: Sample) -> Vec<Sample> {
        let after = self.samples.iter().skip(1).copied().chain([now]);
        self.samples.iter().zip(after).map(|(one, next)| between(*one, next)).collect()
    }

    /// What was counted in all of it.
    fn sum(&self, now: Sample) -> Sample {
        self.samples.front().map_or(now, |first| between(*first, now))
    }
}

/// A range that the page shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PlotSpan {
    Minute,
    Hour,
    Start,
}

impl PlotSpan {
    /// All of them, in the order of the page.
    pub(super) const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Start];

    /// Its name in the page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Start => "start",
        }
    }
}

/// The figures of one range.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Figures {
    pub requests: u64,
    pub hits: u64,
    pub bytes: u64,
    pub bytes_from_cache: u64,
    /// Requests that went to the origin server.
    pub origin_requests: u64,
}

/// The pages that are open, and what they are shown.
pub(super) struct Live {
    driver: BlockingDriver,
    state: Mutex<LiveState>,
}

/// Guarded by [`Live::state`].
struct LiveState {
    /// Seconds since the start.
    second: u64,
    /// In the order of [`PlotSpan::ALL`].
    series: [Series; 3],
    pages: Vec<Writer>,
    /// The word with which the next event goes on.
    next_detail: usize,
}

impl Live {
    /// Begins to look at the counters, on a thread of its own; the error is that there is none.
    pub(super) fn start(driver: BlockingDriver) -> io::Result<Arc<Self>> {
        let first = sample(driver.proxy());
        let series = [(1, false), (60, false), (1, true)]
            .map(|(step, is_whole)| Series::new(step, is_whole, first));
        let state = LiveState { second: 0, series, pages: Vec::new(), next_detail: 0 };
        let live = Arc::new(Self { driver, state: Mutex::new(state) });
        let watched = Arc::clone(&live);
        let look = move || {
            let mut due = Instant::now();
            loop {
                // A process that was stopped for a while does not catch up.
                due = Instant::now().max(due + Duration::from_secs(1));
                thread::sleep(due.saturating_duration_since(Instant::now()));
                // A bug here costs a second of the page, and nothing of the proxy.
                if catch_unwind(AssertUnwindSafe(|| watched.look())).is_err() {
                    log::error!("control: the figures of the page panicked");
                }
            }
        };
        thread::Builder::new().name("page".to_string()).spawn(look)?;
        Ok(live)
    }

    /// Notes a second, and tells the pages.
    fn look(&self) {
        let now = sample(self.driver.proxy());
        let mut state = self.state.lock();
        state.second += 1;
        let second = state.second;
        let before = state.series[0].samples.back().copied().unwrap_or(now);
        for series in &mut state.series {
            series.note(second, now);
        }
        let recent = self.driver.proxy().stats().recent();
        let wanted = if state.pages.is_empty() { 0 } else { REQUESTS_MAX };
        let requests = recent.take(wanted);
        if state.pages.is_empty() {
            return;
        }
        let facts = self.facts(&mut state.next_detail, between(before, now), now);
        tell(&mut state.pages, &event(&facts, &requests));
    }

    /// What an event says beside the newest requests.
    fn facts(&self, next_detail: &mut usize, second: Sample, total: Sample) -> EventFacts {
        let stats = self.driver.proxy().stats().snapshot();
        let usage = self.driver.proxy().cache().memory_usage();
        let details = stats.details.iter().cycle().skip(*next_detail % stats.details.len().max(1));
        *next_detail = next_detail.wrapping_add(DETAILS_MAX);
        EventFacts {
            second,
            total,
            responses: usage.responses,
            bytes: usage.bytes,
            latency: [latency(&stats.hits), latency(&stats.misses)],
            origin: self.origin_text(),
            details: details.take(DETAILS_MAX.min(stats.details.len())).copied().collect(),
        }
    }

    /// The state of the origin server, in a few words; empty if it can be reached.
    pub(super) fn origin_text(&self) -> String {
        let condition = self.driver.origin_condition();
        let mut text = condition.unreachable.unwrap_or_default();
        if condition.held_back > 0 {
            let _ = write!(text, " {} held back by Retry-After", condition.held_back);
        }
        if condition.waiting > 0 {
            let _ = write!(text, " {} requests wait for their turn", condition.waiting);
        }
        short(text.trim())
    }

    /// The figures of a range.
    pub(super) fn figures(&self, span: PlotSpan) -> Figures {
        let now = sample(self.driver.proxy());
        let state = self.state.lock();
        let [requests, hits, bytes, bytes_from_cache, origin_requests] =
            state.series[span as usize].sum(now);
        Figures { requests, hits, bytes, bytes_from_cache, origin_requests }
    }

    /// All plots: for each range the seconds between two values, and the values.
    pub(super) fn history(&self) -> Value {
        let now = sample(self.driver.proxy());
        let state = self.state.lock();
        let plot = |span: PlotSpan| {
            let series = &state.series[span as usize];
            let value = json!({ "step": series.step, "values": series.values(now) });
            (span.name().to_string(), value)
        };
        Value::Object(PlotSpan::ALL.into_iter().map(plot).collect())
    }

    /// The stream of events, for one page more; 503 if there are too many.
    pub(super) fn open(&self) -> Response {
        let mut state = self.state.lock();
        state.pages.retain(|page| page.readers() > 0);
        if state.pages.len() >= PAGES_MAX {
            let text = format!("{PAGES_MAX} pages are open already; close one");
            return Response::error(StatusCode::SERVICE_UNAVAILABLE, &text, false);
        }
        let (mut writer, reader) = Writer::passing(None);
        // The browser learns at once that the stream is there.
        writer.push(b"retry: 5000\n\n");
        state.pages.push(writer);
        let mut fields = Fields::new();
        let content_type = HeaderValue::from_static("text/event-stream");
        fields.append(http::header::CONTENT_TYPE, content_type);
        fields.append(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Response::new(StatusCode::OK, fields, Body::Growing(Box::new(reader)))
    }
}

/// A text of at most [`ORIGIN_BYTES_MAX`], without what hides, which JSON would make six times as long.
fn short(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if hides(c) { ' ' } else { c }) {
        if short.len() + c.len_utf8() > ORIGIN_BYTES_MAX {
            break;
        }
        short.push(c);
    }
    short
}

/// What an event says beside the newest requests.
struct EventFacts {
    second: Sample,
    total: Sample,
    /// Responses in memory, and the bytes that they take.
    responses: u64,
    bytes: u64,
    /// Of hits and misses, each as [`latency`] has it.
    latency: [[Option<u64>; 3]; 2],
    origin: String,
    details: Vec<(&'static str, u64)>,
}

/// One event: at most [`EVENT_BYTES_MAX`], whatever there is to say.
fn event(facts: &EventFacts, requests: &[RecentRequest]) -> String {
    let details = facts.details.iter().map(|(word, count)| ((*word).to_string(), json!(count)));
    let mut event = json!({
        "second": facts.second,
        "total": facts.total,
        "responses": facts.responses,
        "bytes": facts.bytes,
        "latency": facts.latency,
        "origin": facts.origin,
        "details": details.collect::<Map<_, _>>(),
        "requests": [],
    });
    let mut text = as_event(&event);
    for request in requests {
        let RecentRequest { method, target, status, bytes, outcome, taken } = request;
        let taken = taken.map(|taken| taken.as_micros() as u64);
        if let Some(list) = event["requests"].as_array_mut() {
            list.push(json!([method, target, status, bytes, outcome, taken]));
        }
        let longer = as_event(&event);
        // Those that do not fit are not missed: of many requests a few are named.
        if longer.len() > EVENT_BYTES_MAX {
            break;
        }
        text = longer;
    }
    text
}

/// Tells all pages, and forgets those that are closed.
fn tell(pages: &mut Vec<Writer>, event: &str) {
    // One that has no space has not taken what there is, and misses this event.
    pages.retain_mut(|page| {
        page.readers() > 0 && (!page.has_space() || page.push(event.as_bytes()))
    });
}

fn as_event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// How many answers, and within how many microseconds half of them and 99 % came; null if that is not known.
fn latency(tally: &Tally) -> [Option<u64>; 3] {
    [Some(tally.total()), tally.quantile_us(0.5), tally.quantile_us(0.99)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body::{Growing, Grown};

    #[test]
    fn an_event_is_never_longer_than_it_may_be() {
        let most = [u64::MAX; PLOTTED.len()];
        let facts = EventFacts {
            second: most,
            total: most,
            responses: u64::MAX,
            bytes: u64::MAX,
            latency: [[Some(u64::MAX); 3]; 2],
            origin: short(&"\"\u{7}".repeat(1000)),
            details: vec![("stale-while-revalidate", u64::MAX); DETAILS_MAX]
                .into_iter()
                .enumerate()
                // Six words of that length.
                .map(|(index, (word, count))| (&word[..word.len() - index], count))
                .collect(),
        };
        let target = "\"".repeat(1000);
        let request =
            RecentRequest::new((&target, &target), (599, u64::MAX), "stale-if-error", None);
        let text = event(&facts, &vec![request.clone(); REQUESTS_MAX]);
        assert!(text.len() <= EVENT_BYTES_MAX, "{} bytes: {text}", text.len());
        let facts = EventFacts { details: Vec::new(), origin: String::new(), ..facts };
        let text = event(&facts, &vec![request; 100]);
        assert!(text.len() <= EVENT_BYTES_MAX && text.contains("599"), "{text}");
    }

    #[test]
    fn a_page_that_takes_nothing_keeps_a_window_and_one_that_is_closed_nothing() {
        let event = "x".repeat(EVENT_BYTES_MAX);
        let (stuck, mut reader) = Writer::passing(None);
        let (closed, gone) = Writer::passing(None);
        let mut pages = vec![stuck, closed];
        drop(gone);
        for _ in 0..100 {
            tell(&mut pages, &event);
        }
        assert_eq!(pages.len(), 1);
        let mut buffer = vec![0; 100 * EVENT_BYTES_MAX];
        let Ok(Grown::Bytes(kept)) = reader.peek(&mut buffer) else { panic!("there are bytes") };
        assert!((8 * 1024..=17 * 1024).contains(&kept), "{kept} bytes");
    }

    fn of(requests: u64) -> Sample {
        [requests, 0, 0, 0, 0]
    }

    #[test]
    fn a_series_forgets_the_oldest_or_grows_coarse() {
        let mut minute = Series::new(1, false, of(0));
        let mut whole = Series::new(1, true, of(0));
        for second in 1..=1000 {
            minute.note(second, of(second));
            whole.note(second, of(second));
        }
        assert_eq!(minute.values(of(1000)).len(), POINTS + 1);
        assert_eq!(minute.sum(of(1000))[0], 60);
        // 1000 seconds in steps of 16: the last sample is that of second 992.
        assert_eq!(whole.step, 16);
        assert_eq!(whole.sum(of(1000))[0], 1000);
        assert_eq!(whole.values(of(1000)).last(), Some(&of(8)));
        assert!(whole.values(of(1000))[..62].iter().all(|value| *value == of(16)));
    }
}
