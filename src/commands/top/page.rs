//! The figures as they are shown: a page for a terminal, a line for everything else.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use caching_proxy::stats::figures::{number, percent, size, span, time};

use crate::commands::terminal::{Style, StyledLine};
use crate::commands::top::sample::{SampledLatency, SpanCounts, TopSample, TopSamples};

/// How many of the reasons for misses are shown, and how many of the newest responses.
const REASONS_MAX: usize = 8;
const NEWEST_MAX: usize = 10;
/// The columns of names, and of each number.
const NAME: usize = 18;
const NUMBER: usize = 14;
const MINUTE: Duration = Duration::from_secs(60);

/// The stored responses that are known.
pub enum StoredList {
    /// All of them, as `/list` gives them.
    All(Vec<Value>),
    /// There are more than one page of a list has: the newest may be on any page.
    TooMany,
    /// They could not be asked for.
    Unknown,
}

/// The page; `now` is in seconds since 1970. Empty before the first sample.
pub fn page(history: &TopSamples, listed: &StoredList, now: u64) -> Vec<StyledLine> {
    let Some(newest) = history.newest() else { return Vec::new() };
    let mut lines = Vec::new();
    let mut add = |style, text: String| lines.push(StyledLine { style, text });
    let age = span(now.saturating_sub(newest.since));
    add(Style::Bold, format!("http://{} in front of {}, for {age}", newest.address, newest.origin));
    let minute = history.minute();
    add(Style::Plain, String::new());
    let columns = [history.last(), minute.clone(), history.hour()];
    let since_start = SpanCounts { counts: newest.clone(), taken: Duration::MAX };
    let spans = [Duration::from_secs(1), MINUTE, Duration::from_secs(3600)];
    let mut heads = String::new();
    for (counted, asked) in columns.iter().zip(spans) {
        let _ = write!(heads, "{:>NUMBER$}", last(counted.as_ref(), asked));
    }
    add(Style::Bold, format!("{:NAME$}{heads}{:>NUMBER$}", "", "since start"));
    let columns: Vec<_> = columns.into_iter().chain([Some(since_start)]).collect();
    for (name, figure) in FIGURES {
        let cells = columns.iter().map(|counted| {
            let shown = counted.as_ref().map_or("-".to_string(), |counted| figure(&counted.counts));
            format!("{shown:>NUMBER$}")
        });
        add(Style::Plain, format!("{name:NAME$}{}", cells.collect::<String>()));
    }
    add(Style::Plain, String::new());
    for (name, latency) in [("hits", newest.hit_latency), ("misses", newest.miss_latency)] {
        add(Style::Plain, format!("{name:NAME$}{}", latencies(latency)));
    }
    let (style, state) = origin_state(minute.as_ref());
    add(style, format!("{:NAME$}{state}", "origin server"));
    let (style, stored) = stored(newest);
    add(style, format!("{:NAME$}{stored}", "stored"));
    add(Style::Plain, format!("{:NAME$}{}", "clients", newest.connections));
    reasons(&mut lines, newest, minute.as_ref());
    newest_stored(&mut lines, listed);
    lines
}

/// What a span is called. A proxy may have been watched for less than the hour that is asked for.
fn last(counted: Option<&SpanCounts>, asked: Duration) -> String {
    // A sample is a little late at times: the nearest second is meant.
    let taken = counted.map_or(asked, |counted| counted.taken.min(asked));
    format!("last {}", span((taken + Duration::from_millis(500)).as_secs()))
}

/// The figures of a span: what they are called, and how they are shown.
const FIGURES: [(&str, fn(&TopSample) -> String); 7] = [
    ("requests", |counts| number(counts.requests)),
    ("hit ratio", |counts| percent(counts.hits, counts.requests)),
    ("bytes sent", |counts| size(counts.bytes_sent)),
    ("  from the cache", |counts| size(counts.bytes_from_cache)),
    ("origin requests", |counts| number(counts.origin_requests)),
    ("  saved", |counts| number(counts.saved())),
    ("  errors", |counts| number(counts.origin_errors)),
];

/// What can be said of the origin server from the requests of the last minute.
fn origin_state(minute: Option<&SpanCounts>) -> (Style, String) {
    let Some(SpanCounts { counts, .. }) = minute else { return (Style::Plain, "-".to_string()) };
    let span = last(minute, MINUTE);
    // While it is taken to be down, most requests are answered without asking it.
    let refused = counts.details.get("down").copied().unwrap_or(0);
    match (counts.origin_errors, counts.origin_requests) {
        (0, _) if refused > 0 => {
            (Style::Warning, format!("down: {refused} requests in the {span} were not sent to it"))
        }
        (0, 0) => (Style::Plain, format!("not asked in the {span}")),
        (0, _) => (Style::Plain, format!("answers; no errors in the {span}")),
        (errors, asked) => {
            (Style::Warning, format!("{errors} errors in the {span}, in {asked} origin requests"))
        }
    }
}

fn stored(newest: &TopSample) -> (Style, String) {
    let (count, bytes) = (number(newest.memory_responses), size(newest.memory_bytes));
    let mut text = format!("{count} responses in memory, {bytes}");
    if let (Some(count), Some(bytes)) = (newest.store_responses, newest.store_bytes) {
        let _ = write!(text, "; {} in the store behind it, {}", number(count), size(bytes));
    }
    match newest.store_failing {
        0 => (Style::Plain, text),
        _ => (Style::Warning, text + "; the store fails, and is left alone for now"),
    }
}

/// Why misses missed: the commonest reasons, those of the last minute first.
fn reasons(lines: &mut Vec<StyledLine>, newest: &TopSample, minute: Option<&SpanCounts>) {
    let none = TopSample::default();
    let recent = minute.map_or(&none, |minute| &minute.counts);
    let of = |label: &'static str, all: &TopSample, recent: &TopSample| {
        let (all, recent) = match label {
            "fwd" => (all.forwarded.clone(), recent.forwarded.clone()),
            _ => (all.details.clone(), recent.details.clone()),
        };
        let counts = all.into_iter().map(move |(word, count)| {
            let recent = recent.get(&word).copied().unwrap_or(0);
            (recent, count, format!("{label}={word}"))
        });
        counts.collect::<Vec<_>>()
    };
    let mut all = of("fwd", newest, recent);
    all.extend(of("detail", newest, recent));
    all.sort_by(|one, other| other.cmp(one));
    let mut add = |style, text: String| lines.push(StyledLine { style, text });
    add(Style::Plain, String::new());
    let span = last(minute, MINUTE);
    let head = format!("{:32}{span:>NUMBER$}{:>NUMBER$}", "why not from the cache", "since start");
    add(Style::Bold, head);
    for (recent, count, word) in all.iter().take(REASONS_MAX) {
        let (recent, count) = (number(*recent), number(*count));
        add(Style::Plain, format!("{word:32}{recent:>NUMBER$}{count:>NUMBER$}"));
    }
}

fn newest_stored(lines: &mut Vec<StyledLine>, listed: &StoredList) {
    let mut add = |style, text: &str| lines.push(StyledLine { style, text: text.to_string() });
    add(Style::Plain, "");
    add(Style::Bold, "newest stored");
    let mut all: Vec<&Value> = match listed {
        StoredList::All(all) => all.iter().collect(),
        StoredList::TooMany => {
            return add(Style::Plain, "there are too many to look for them: proxy list");
        }
        StoredList::Unknown => return add(Style::Plain, "-"),
    };
    let stored = |one: &Value| one["stored"].as_u64().unwrap_or(0);
    all.sort_by_key(|one| std::cmp::Reverse(stored(one)));
    for one in all.into_iter().take(NEWEST_MAX) {
        let url = one["url"].as_str().unwrap_or_default();
        let (bytes, age) = (one["bytes"].as_u64(), one["age"].as_u64());
        let (bytes, age) = (size(bytes.unwrap_or(0)), span(age.unwrap_or(0)));
        add(Style::Plain, &format!("{:>4}{bytes:>12}{age:>9} old  {url}", one["status"]));
    }
}

/// The line of one second, as `name=value` pairs; `None` before the second sample.
pub fn line(history: &TopSamples) -> Option<String> {
    let (newest, SpanCounts { counts, .. }) = (history.newest()?, history.last()?);
    let mut line = format!(
        "requests={} hits={} misses={} bytes={} bytes_from_cache={} origin_requests={} saved={} origin_errors={}",
        counts.requests,
        counts.hits,
        counts.misses(),
        counts.bytes_sent,
        counts.bytes_from_cache,
        counts.origin_requests,
        counts.saved(),
        counts.origin_errors,
    );
    for (name, latency) in [("hit", newest.hit_latency), ("miss", newest.miss_latency)] {
        for (share, seconds) in [("p50", latency.p50_seconds), ("p99", latency.p99_seconds)] {
            let shown = seconds.map_or("-".to_string(), |seconds| seconds.to_string());
            let _ = write!(line, " {name}_{share}_seconds={shown}");
        }
    }
    let _ = write!(
        line,
        " stored={} requests_since_start={} hits_since_start={}",
        newest.memory_responses, newest.requests, newest.hits
    );
    for (label, counts) in [("fwd", &counts.forwarded), ("detail", &counts.details)] {
        for (word, count) in counts {
            let _ = write!(line, " {label}:{word}={count}");
        }
    }
    Some(line)
}

fn latencies(latency: SampledLatency) -> String {
    #[allow(clippy::cast_sign_loss, reason = "no answer takes less than no time")]
    let bound = |seconds: Option<f64>| time(seconds.map(|seconds| (seconds * 1e6).round() as u64));
    let (half, most) = (bound(latency.p50_seconds), bound(latency.p99_seconds));
    format!("half within {half}, 99 % within {most}, since the start")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    /// Two samples that are a second apart.
    fn history(before: TopSample, after: TopSample) -> TopSamples {
        let (begun, mut history) = (Instant::now(), TopSamples::default());
        history.add(begun, before);
        history.add(begun + Duration::from_secs(1), after);
        history
    }

    fn text(history: &TopSamples, listed: &StoredList) -> String {
        let lines = page(history, listed, 100);
        lines.iter().map(|line| line.text.clone() + "\n").collect()
    }

    #[test]
    fn the_page_has_the_newest_responses_and_the_reasons_of_now_first() {
        let counts = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(word, count)| ((*word).to_string(), *count)).collect()
        };
        let before =
            TopSample { since: 40, details: counts(&[("no-store", 90)]), ..TopSample::default() };
        let mut after = before.clone();
        after.details = counts(&[("no-store", 90), ("down", 2)]);
        after.requests = 7;
        let history = history(before, after);
        let one = |url: &str, stored: u64| json!({"url": url, "stored": stored, "status": 200, "bytes": 1, "age": 3});
        let listed = StoredList::All((0..20).map(|at| one(&format!("/{at}"), at)).collect());
        let text = text(&history, &listed);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        let order = [
            at("for 60 s"),
            at("last 1 s"),
            at("requests "),
            at("hit ratio"),
            at("  saved"),
            at("down: 2 requests in the last 1 s"),
            at("detail=down"),
            at("detail=no-store"),
            at("old  /19\n"),
            at("old  /10\n"),
        ];
        assert!(order.is_sorted(), "{text}");
        assert!(!text.contains("old  /9\n"), "ten of them: {text}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(page(&TopSamples::default(), &StoredList::Unknown, 0).is_empty());
        assert_eq!(line(&TopSamples::default()), None);
        let failing = TopSample { store_failing: 1, origin_errors: 1, ..TopSample::default() };
        let history = history(TopSample::default(), failing);
        let text = text(&history, &StoredList::TooMany);
        for part in
            ["too many", "the store fails", "1 errors in the last 1 s, in 0 origin requests"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let line = line(&history).expect("two samples");
        assert!(
            line.starts_with("requests=0 hits=0 ") && line.contains(" miss_p99_seconds=- "),
            "{line}"
        );
    }
}
