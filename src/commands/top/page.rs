//! The figures as they are shown: a page for a terminal, a line for everything else.

use std::fmt::Write as _;
use std::time::Duration;

use caching_proxy::stats::figures::{UNKNOWN, number, percent, size, span, time, time_of_day};

use crate::commands::terminal::{Style, StyledLine};
use crate::commands::top::sample::{SpanCounts, TopRequest, TopSample, TopSamples};

/// How many of the reasons for misses are shown.
const REASONS_MAX: usize = 8;
/// The columns of names, of reasons, and of each number.
const NAME: usize = 20;
const REASON: usize = 32;
const NUMBER: usize = 14;
/// With fewer columns, requests have neither their bytes nor their time: their targets say more.
const REQUEST: usize = 64;

/// The page, in so many columns and rows; `now` is in seconds since 1970, and `requests` are the newest ones, the oldest
/// first, if the proxy tells them. Empty before the first sample.
pub fn page(
    history: &TopSamples,
    requests: Option<&[TopRequest]>,
    now: u64,
    (columns, rows): (usize, usize),
) -> Vec<StyledLine> {
    let Some(newest) = history.newest() else { return Vec::new() };
    let mut lines = Vec::new();
    let mut add = |style, text: String| lines.push(StyledLine { style, text });
    let age = span(now.saturating_sub(newest.since));
    add(Style::Bold, format!("http://{} in front of {}, for {age}", newest.address, newest.origin));
    let minute = history.minute();
    // Told by the proxy, both go back to before it was watched.
    add(Style::Plain, if history.is_of_proxy() { String::new() } else { OWN_HISTORY.to_string() });
    let spans = [history.last(), minute.clone(), history.hour()];
    let since_start = SpanCounts { counts: newest.clone(), taken: Duration::MAX };
    let heads = spans.iter().zip(SPANS);
    let heads = heads.map(|(counted, (asked, name))| last(counted.as_ref(), asked, name));
    let heads: Vec<String> = heads.chain(["since start".to_string()]).collect();
    add(Style::Bold, row("", NAME, &heads, columns));
    let spans: Vec<_> = spans.into_iter().chain([Some(since_start)]).collect();
    for (name, figure) in FIGURES {
        let cells = spans.iter().map(|counted| {
            counted.as_ref().map_or(UNKNOWN.to_string(), |span| figure(&span.counts))
        });
        add(Style::Plain, row(name, NAME, &cells.collect::<Vec<_>>(), columns));
    }
    add(Style::Plain, String::new());
    let (style, state) = origin_state(minute.as_ref());
    add(style, format!("{:NAME$}{state}", "origin server"));
    let (style, stored) = stored(newest);
    add(style, format!("{:NAME$}{stored}", "stored"));
    add(Style::Plain, format!("{:NAME$}{}", "clients", number(newest.connections)));
    // Half of what is left is for the reasons, and the other half for requests; each has a head.
    let left = rows.saturating_sub(lines.len() + 4);
    reasons(&mut lines, newest, minute.as_ref(), (columns, (left / 2).max(1)));
    newest_requests(&mut lines, requests, columns);
    lines
}

/// A name and as many of the numbers behind it as there are columns for: a number that is cut would be another one. The
/// name gives way to the first.
fn row(name: &str, name_columns: usize, numbers: &[String], columns: usize) -> String {
    let width = name_columns.min(columns.saturating_sub(NUMBER));
    let mut text = format!("{name:width$.width$}");
    for shown in numbers.iter().take((columns - width) / NUMBER) {
        let _ = write!(text, "{shown:>NUMBER$}");
    }
    text
}

/// What is said where the proxy tells nothing of its past.
const OWN_HISTORY: &str = "minute and hour begin with this command: the proxy, of an older version, tells nothing of them";

/// The spans that are shown beside what is since the start: how long they are, and what they are called.
const SPANS: [(Duration, &str); 3] = [
    (Duration::from_secs(1), "second"),
    (Duration::from_secs(60), "minute"),
    (Duration::from_secs(3600), "hour"),
];

/// What a span is called. A proxy may have run, or have been watched, for less than the hour that is asked for.
fn last(counted: Option<&SpanCounts>, asked: Duration, name: &str) -> String {
    // A sample is a little late at times: the nearest second is meant.
    let seconds = |taken: Duration| (taken + Duration::from_millis(500)).as_secs();
    match counted.map(|counted| seconds(counted.taken)) {
        Some(taken) if taken < asked.as_secs() => format!("last {}", span(taken)),
        _ => format!("last {name}"),
    }
}

fn last_minute(minute: Option<&SpanCounts>) -> String {
    last(minute, SPANS[1].0, SPANS[1].1)
}

/// The figures of a span: what they are called, and how they are shown.
const FIGURES: [(&str, fn(&TopSample) -> String); 11] = [
    ("requests", |counts| number(counts.requests)),
    ("hit ratio", |counts| percent(counts.hits, counts.requests)),
    ("bytes sent", |counts| size(counts.bytes_sent)),
    ("  from the cache", |counts| size(counts.bytes_from_cache)),
    ("origin requests", |counts| number(counts.origin_requests)),
    ("  saved", |counts| number(counts.saved())),
    ("  errors", |counts| number(counts.origin_errors)),
    ("hits, half within", |counts| within(counts.hit_latency.p50_seconds)),
    ("  99 % within", |counts| within(counts.hit_latency.p99_seconds)),
    ("misses, half within", |counts| within(counts.miss_latency.p50_seconds)),
    ("  99 % within", |counts| within(counts.miss_latency.p99_seconds)),
];

fn within(seconds: Option<f64>) -> String {
    #[allow(clippy::cast_sign_loss, reason = "no answer takes less than no time")]
    time(seconds.map(|seconds| (seconds * 1e6).round() as u64))
}

/// What can be said of the origin server from the requests of the last minute.
fn origin_state(minute: Option<&SpanCounts>) -> (Style, String) {
    let Some(SpanCounts { counts, .. }) = minute else { return (Style::Plain, "-".to_string()) };
    let span = last_minute(minute);
    // While it is taken to be down, most requests are answered without asking it.
    let refused = number(counts.details.get("down").copied().unwrap_or(0));
    let (errors, asked) = (number(counts.origin_errors), number(counts.origin_requests));
    match (counts.origin_errors, counts.origin_requests) {
        (0, _) if refused != "0" => {
            (Style::Warning, format!("down: {refused} requests in the {span} were not sent to it"))
        }
        (0, 0) => (Style::Plain, format!("not asked in the {span}")),
        (0, _) => (Style::Plain, format!("answers; no errors in the {span}")),
        _ => (Style::Warning, format!("{errors} errors in the {span}, in {asked} origin requests")),
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

/// Why misses missed: the commonest reasons, at most `most`, those of the last minute first.
fn reasons(
    lines: &mut Vec<StyledLine>,
    newest: &TopSample,
    minute: Option<&SpanCounts>,
    (columns, most): (usize, usize),
) {
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
    let heads = [last_minute(minute), "since start".to_string()];
    add(Style::Bold, row("why not from the cache", REASON, &heads, columns));
    for (recent, count, word) in all.iter().take(most.min(REASONS_MAX)) {
        add(Style::Plain, row(word, REASON, &[number(*recent), number(*count)], columns));
    }
}

/// The newest requests, the newest first.
fn newest_requests(lines: &mut Vec<StyledLine>, requests: Option<&[TopRequest]>, columns: usize) {
    let mut add = |style, text: &str| lines.push(StyledLine { style, text: text.to_string() });
    add(Style::Plain, "");
    add(Style::Bold, "newest requests (some 6 a second, up to 30 at once)");
    let Some(requests) = requests else {
        return add(Style::Plain, "the proxy, of an older version, does not tell them");
    };
    if requests.is_empty() {
        add(Style::Plain, "none yet");
    }
    for request in requests.iter().rev() {
        let TopRequest { at, method, target, status, bytes, outcome, seconds } = request;
        let (at, bytes, taken) = (time_of_day(*at), size(*bytes), within(*seconds));
        let style = if *status >= 500 { Style::Warning } else { Style::Plain };
        let cost = if columns < REQUEST { "" } else { &*format!("{bytes:>10}{taken:>9}  ") };
        // The space is there whatever the outcome is: some are longer than their column.
        add(style, &format!("{at} {status:>4} {outcome:<13} {cost}{method} {target}"));
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
    latencies(&mut line, "", newest);
    let _ = write!(
        line,
        " stored={} requests_since_start={} hits_since_start={}",
        newest.memory_responses, newest.requests, newest.hits
    );
    let (minute, hour) = (history.minute(), history.hour());
    for (name, span) in [("minute_", minute), ("hour_", hour)] {
        let Some(SpanCounts { counts, .. }) = span else { continue };
        let (requests, hits, saved) = (counts.requests, counts.hits, counts.saved());
        let _ = write!(line, " {name}requests={requests} {name}hits={hits} {name}saved={saved}");
        latencies(&mut line, name, &counts);
    }
    for (label, counts) in [("fwd", &counts.forwarded), ("detail", &counts.details)] {
        for (word, count) in counts {
            let _ = write!(line, " {label}:{word}={count}");
        }
    }
    Some(line)
}

/// The latencies of a span, whose name stands before theirs.
fn latencies(line: &mut String, span: &str, counts: &TopSample) {
    for (name, latency) in [("hit", counts.hit_latency), ("miss", counts.miss_latency)] {
        for (share, seconds) in [("p50", latency.p50_seconds), ("p99", latency.p99_seconds)] {
            let shown = seconds.map_or(UNKNOWN.to_string(), |seconds| seconds.to_string());
            let _ = write!(line, " {span}{name}_{share}_seconds={shown}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Two samples that are a second apart.
    fn history(before: TopSample, after: TopSample) -> TopSamples {
        let (begun, mut history) = (Instant::now(), TopSamples::default());
        history.add(begun, before);
        history.add(begun + Duration::from_secs(1), after);
        history
    }

    fn text(history: &TopSamples, requests: Option<&[TopRequest]>, rows: usize) -> String {
        let lines = page(history, requests, 100, (100, rows));
        lines.iter().map(|line| line.text.clone() + "\n").collect()
    }

    fn counts(pairs: &[(&str, u64)]) -> std::collections::BTreeMap<String, u64> {
        pairs.iter().map(|(word, count)| ((*word).to_string(), *count)).collect()
    }

    fn requests(count: u64) -> Vec<TopRequest> {
        let one = |at| TopRequest {
            at,
            method: "GET".to_string(),
            target: format!("/{at}"),
            outcome: "hit".to_string(),
            seconds: Some(0.002_5),
            ..TopRequest::default()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn the_page_has_the_newest_requests_and_the_reasons_of_now_first() {
        let before =
            TopSample { since: 40, details: counts(&[("no-store", 90)]), ..TopSample::default() };
        let mut after = before.clone();
        after.details = counts(&[("no-store", 90), ("down", 2)]);
        after.requests = 7;
        let history = history(before, after);
        let text = text(&history, Some(&requests(20)), 60);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        let order = [
            at("for 60 s"),
            at("begin with this command"),
            at("last second"),
            at("last 1 s"),
            at("requests "),
            at("hit ratio"),
            at("  saved"),
            at("down: 2 requests in the last 1 s"),
            at("detail=down"),
            at("detail=no-store"),
            at("00:00:19    0 hit                  0 B   2.5 ms  GET /19\n"),
            at("GET /18\n"),
        ];
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn a_small_terminal_has_some_of_everything() {
        let words = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|word| (word, 1));
        let sample = TopSample { forwarded: counts(&words), ..TopSample::default() };
        let history = history(TopSample::default(), sample);
        for (rows, reasons) in [(24, 1), (30, 4), (60, 8)] {
            let text = text(&history, Some(&requests(60)), rows);
            assert_eq!(text.matches("fwd=").count(), reasons, "{rows}: {text}");
            let shown: Vec<&str> = text.lines().take(rows).collect();
            assert!(shown.last().is_some_and(|line| line.contains("GET /")), "{rows}: {text}");
        }
    }

    /// What is left of a number that is cut would be taken for another number.
    #[test]
    fn numbers_are_shown_whole_or_not_at_all() {
        let sample = TopSample {
            requests: 123_456_789,
            details: counts(&[("no-store", 987_654_321)]),
            ..TopSample::default()
        };
        let history = history(TopSample::default(), sample);
        let requests = requests(1);
        for columns in 0..100 {
            let lines = page(&history, Some(&requests), 100, (columns, 60));
            let line = |name: &str| {
                let mut texts = lines.iter().map(|line| &*line.text);
                texts.find(|text| text.starts_with(name)).unwrap_or_default()
            };
            let figures = (columns.max(NAME + NUMBER) - NAME) / NUMBER;
            // What comes behind the name, which gives way to the first number.
            for (name, shown, most) in
                [("reques", "123,456,789", figures), ("detail", "987,654,321", 2)]
            {
                let text = line(name);
                let numbers: Vec<&str> = text.split_whitespace().skip(1).collect();
                assert!(numbers.iter().all(|number| *number == shown), "{columns}: {text}");
                assert!(text.chars().count() <= columns && numbers.len() <= most, "{columns}");
                assert!(columns < 20 || !numbers.is_empty(), "{columns}: {text}");
            }
            let whole = line("requests").matches(',').count() / 2;
            assert!(columns < 34 || whole == figures.min(4), "{columns}: {whole}");
            let target = line("00:00:00").find("GET /0");
            assert!(columns < 34 || target.is_some_and(|at| at + 6 <= columns), "{columns}");
        }
    }

    /// Some reasons are longer than their column, and nothing but a space is behind them in a narrow terminal.
    #[test]
    fn an_outcome_and_a_method_are_two_words() {
        let mut requests = requests(1);
        for outcome in ["hit", "only-if-cached", "close-delimited", "upgrade-declined"] {
            requests[0].outcome = outcome.to_string();
            for columns in [REQUEST - 1, REQUEST] {
                let history = history(TopSample::default(), TopSample::default());
                let lines = page(&history, Some(&requests), 100, (columns, 60));
                let line = lines.iter().find(|line| line.text.starts_with("00:00:00")).expect("it");
                let words: Vec<&str> = line.text.split_whitespace().collect();
                assert!(words[2] == outcome && words.ends_with(&["GET", "/0"]), "{}", line.text);
            }
        }
    }

    #[test]
    fn what_the_proxy_tells_of_its_past_is_shown_as_that() {
        let span = |seconds, requests| {
            Some(Box::new(TopSample {
                seconds,
                requests,
                hits: requests,
                hit_latency: serde_json::from_str("{\"p50_seconds\":0.0001}").expect("JSON"),
                ..TopSample::default()
            }))
        };
        let (minute, hour) = (span(60, 30), span(600, 1234));
        let sample = TopSample { minute, hour, requests: 1234, ..TopSample::default() };
        let history = history(TopSample::default(), sample);
        let text = text(&history, Some(&[]), 60);
        assert!(!text.contains("older version"), "{text}");
        for part in
            ["last second   last minute   last 10 min", "        30         1,234", "none yet"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let half = text.lines().find(|line| line.starts_with("hits, half within")).expect("a line");
        assert_eq!(
            half.split_whitespace().skip(3).collect::<Vec<_>>().join(" "),
            "- 100 µs 100 µs -"
        );
        let line = line(&history).expect("two samples");
        let expected =
            " minute_requests=30 minute_hits=30 minute_saved=30 minute_hit_p50_seconds=0.0001 ";
        assert!(line.contains(expected) && line.contains(" hour_requests=1234 "), "{line}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(page(&TopSamples::default(), None, 0, (80, 60)).is_empty());
        assert_eq!(line(&TopSamples::default()), None);
        let failing = TopSample { store_failing: 1, origin_errors: 1, ..TopSample::default() };
        let history = history(TopSample::default(), failing);
        let text = text(&history, None, 60);
        for part in [
            "begin with this command",
            "does not tell them",
            "the store fails",
            "1 errors in the last 1 s, in 0 origin requests",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let line = line(&history).expect("two samples");
        assert!(
            line.starts_with("requests=0 hits=0 ") && line.contains(" miss_p99_seconds=- "),
            "{line}"
        );
    }
}
