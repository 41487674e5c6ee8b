//! What a proxy remembers of its own figures, and what the page shows of them while it is open: an event each second.
//!
//! The timer thread has the counters looked at once a second (`stats::history`), and all pages that are open told the
//! same. A page holds no thread: its stream is a body that grows, which the event loop reads. An event has at most
//! [`EVENT_BYTES_MAX`], and a page that takes none of them has what fits into its window and misses the rest.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::growing::Writer;
use crate::message::visible::hides;
use crate::policy::response::Response;
use crate::proxy::{BlockingDriver, Proxy};
use crate::stats::history::{HistorySpan, PlotPoint, SpanSnapshot, StatsHistory, StatsMoment};
use crate::stats::history::{between, plotted};
use crate::stats::{NumberedRequests, RecentRequest, Tally};

/// Pages that are open at a time.
const PAGES_MAX: usize = 16;
/// The longest event, in bytes; there is one a second.
const EVENT_BYTES_MAX: usize = 1024;
/// Words behind `detail=` that an event counts, at most; the others follow in the next events.
const DETAILS_MAX: usize = 6;
/// The longest text about the origin server in an event, in bytes.
const ORIGIN_BYTES_MAX: usize = 100;

/// The history of a proxy, and the pages that are open.
pub struct Live {
    driver: BlockingDriver,
    state: Mutex<LiveState>,
}

/// Guarded by [`Live::state`].
struct LiveState {
    history: StatsHistory,
    pages: Vec<Writer>,
    /// The word with which the next event goes on.
    next_detail: usize,
    /// The number of the next request that pages have not heard of.
    next_request: u64,
}

impl LiveState {
    /// The words that the next event counts: some of them each time, in turn.
    fn next_details(&mut self, details: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
        let next = details.iter().cycle().skip(self.next_detail % details.len().max(1));
        self.next_detail = self.next_detail.wrapping_add(DETAILS_MAX);
        next.take(DETAILS_MAX.min(details.len())).copied().collect()
    }
}

fn moment(proxy: &Proxy) -> StatsMoment {
    StatsMoment { at: Instant::now(), snapshot: Arc::new(proxy.stats().snapshot()) }
}

impl Live {
    /// The history of a proxy that starts now.
    pub fn new(driver: BlockingDriver) -> Self {
        let history = StatsHistory::new(Instant::now());
        let state = LiveState { history, pages: Vec::new(), next_detail: 0, next_request: 0 };
        Self { driver, state: Mutex::new(state) }
    }

    /// Notes a second, and tells the pages; called once a second. Does not panic.
    pub fn look(&self) {
        // A bug here costs a second of the history, and nothing of the proxy.
        if catch_unwind(AssertUnwindSafe(|| self.note_second())).is_err() {
            log::error!("control: the history of the figures panicked");
        }
    }

    fn note_second(&self) {
        let now = moment(self.driver.proxy());
        let recent = self.driver.proxy().stats().recent();
        let is_watched = !self.state.lock().pages.is_empty();
        // The locks of the cache and of the gate are not taken under this one.
        let levels =
            is_watched.then(|| (self.driver.proxy().cache().memory_usage(), self.origin_text()));
        let mut state = self.state.lock();
        let requests = recent.since(state.next_request);
        recent.renew();
        state.next_request = requests.next();
        let before = plotted(&state.history.last().snapshot);
        state.history.note(now.clone());
        // A page that has just come hears of the next second.
        let Some((usage, origin)) = levels else { return };
        let second = between(before, plotted(&now.snapshot));
        let details = state.next_details(&now.snapshot.details);
        let spans = HistorySpan::ALL.map(|span| state.history.over(span, &now).snapshot);
        let facts = EventFacts {
            second,
            responses: usage.responses,
            bytes: usage.bytes,
            latency: spans.map(|counted| [latency(&counted.hits), latency(&counted.misses)]),
            origin,
            details,
        };
        tell(&mut state.pages, &event(&facts, &requests));
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

    /// The counters now.
    pub(super) fn moment(&self) -> StatsMoment {
        moment(self.driver.proxy())
    }

    /// What was counted over a span that ends now.
    pub(super) fn over(&self, span: HistorySpan, now: &StatsMoment) -> SpanSnapshot {
        self.state.lock().history.over(span, now)
    }

    /// All plots: for each span the seconds between two values, and the values.
    pub(super) fn plots(&self) -> Value {
        let now = moment(self.driver.proxy());
        let state = self.state.lock();
        let plot = |span: HistorySpan| {
            let plot = state.history.plot(span, &now);
            (span.name().to_string(), json!({ "step": plot.step, "values": plot.values }))
        };
        Value::Object(HistorySpan::ALL.into_iter().map(plot).collect())
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

/// A text of at most [`ORIGIN_BYTES_MAX`], which ends in an ellipsis if it is cut; without what hides, which JSON would
/// make six times as long.
fn short(text: &str) -> String {
    let mut short: String = text.chars().map(|c| if hides(c) { ' ' } else { c }).collect();
    if short.len() > ORIGIN_BYTES_MAX {
        let most = ORIGIN_BYTES_MAX - '…'.len_utf8();
        let end = (0..=most).rev().find(|end| short.is_char_boundary(*end)).unwrap_or(0);
        short.truncate(end);
        short.push('…');
    }
    short
}

/// What an event says beside the newest requests.
struct EventFacts {
    second: PlotPoint,
    /// Responses in memory, and the bytes that they take.
    responses: u64,
    bytes: u64,
    /// For each span of hits and of misses, each as [`latency`] has it.
    latency: [[[Option<u64>; 3]; 2]; HistorySpan::ALL.len()],
    origin: String,
    details: Vec<(&'static str, u64)>,
}

/// One event: at most [`EVENT_BYTES_MAX`], whatever there is to say. Requests that do not fit are left to be asked for.
fn event(facts: &EventFacts, requests: &NumberedRequests) -> String {
    let details = facts.details.iter().map(|(word, count)| ((*word).to_string(), json!(count)));
    let mut event = json!({
        "second": facts.second,
        "responses": facts.responses,
        "bytes": facts.bytes,
        "latency": facts.latency,
        "origin": facts.origin,
        "details": details.collect::<Map<_, _>>(),
        "first": requests.first,
        "next": requests.next(),
        "requests": [],
    });
    let mut text = as_event(&event);
    for request in &requests.requests {
        let RecentRequest { at, method, target, status, bytes, outcome, taken } = request;
        let taken = taken.map(|taken| taken.as_micros() as u64);
        if let Some(list) = event["requests"].as_array_mut() {
            list.push(json!([at.seconds(), method, target, status, bytes, outcome, taken]));
        }
        let longer = as_event(&event);
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
    use crate::clock::Timestamp;
    use crate::message::body::{Growing, Grown};
    use crate::stats::history::PLOTTED;
    use crate::stats::{AnsweredRequest, BOUNDS_US, NOTED_MAX};

    #[test]
    fn an_event_is_never_longer_than_it_may_be() {
        // A latency is one of the bounds of its histogram.
        let longest = BOUNDS_US.last().copied();
        let facts = EventFacts {
            second: [u64::MAX; PLOTTED.len()],
            responses: u64::MAX,
            bytes: u64::MAX,
            latency: [[[Some(u64::MAX), longest, longest]; 2]; 3],
            origin: short(&"\"\u{7}".repeat(1000)),
            details: vec![("stale-while-revalidate", u64::MAX); DETAILS_MAX]
                .into_iter()
                .enumerate()
                // Six words of that length.
                .map(|(index, (word, count))| (&word[..word.len() - index], count))
                .collect(),
        };
        let target = "\"".repeat(1000);
        let request = RecentRequest::from(AnsweredRequest {
            at: Timestamp(u64::MAX),
            method: &target,
            target: &target,
            status: 599,
            bytes: u64::MAX,
            outcome: "stale-if-error",
            taken: None,
        });
        let first = u64::MAX - 100;
        let many = |count| NumberedRequests { first, requests: vec![request.clone(); count] };
        let text = event(&facts, &many(NOTED_MAX));
        assert!(text.len() <= EVENT_BYTES_MAX, "{} bytes: {text}", text.len());
        let facts = EventFacts { details: Vec::new(), origin: String::new(), ..facts };
        let text = event(&facts, &many(100));
        assert!(text.len() <= EVENT_BYTES_MAX && text.contains("599"), "{text}");
    }

    #[test]
    fn a_text_that_is_cut_says_so() {
        let longest = "é".repeat(ORIGIN_BYTES_MAX / 2);
        assert_eq!(short(&longest), longest);
        let cut = short(&format!("{longest}é"));
        assert_eq!(cut, format!("{}…", "é".repeat(48)));
        assert_eq!(short("a\u{202e}b"), "a b");
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
}
