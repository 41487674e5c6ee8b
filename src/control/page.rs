//! The page: what a browser is shown at `/`, with its figures filled in, so that it needs no script for them.
//!
//! Three files of `page/` are all of it; they are part of the program, and name nothing outside. Whatever comes
//! from a request or a response is escaped where it is put in.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::control::live::Live;
use crate::control::{About, text_as};
use crate::message::request::Request;
use crate::message::visible::visible_lines;
use crate::policy::response::Response;
use crate::proxy::Proxy;
use crate::stats::figures::{number, percent, size, time, time_of_day};
use crate::stats::history::HistorySpan;
use crate::stats::{Counter, NumberedRequests, Snapshot, Tally};

const PAGE: &str = include_str!("page/page.html");
const LOGIN: &str = include_str!("page/login.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// The table of words behind `detail=`, with the meaning of each and what changes it.
const CACHING: &str = include_str!("../../docs/caching.md");

/// What the page may load: its own style, script and data, and nothing from anywhere else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Is the page wanted, and not the list of paths? A browser names HTML; curl takes anything.
pub(super) fn wants_page(request: &Request) -> bool {
    request.fields.members("accept").any(|kind| kind.starts_with(b"text/html"))
}

/// The style.
pub(super) fn style() -> Response {
    text_as("text/css; charset=utf-8", STYLE.to_string())
}

/// The script.
pub(super) fn script() -> Response {
    text_as("text/javascript; charset=utf-8", SCRIPT.to_string())
}

/// The form that asks for the token. `what` says what was wrong, if anything was.
pub(super) fn login(status: StatusCode, what: &str) -> Response {
    let mut response = html(filled(LOGIN, &[("what", escaped(what))]));
    response.status = status;
    response
}

/// The page. `token` is what it sends with changes; `has_login` says whether there is somebody to log out.
pub(super) fn page(
    proxy: &Proxy,
    (about, live): (&About, &Live),
    token: &str,
    has_login: bool,
) -> Response {
    let now = live.moment();
    let stats = &now.snapshot;
    let spans = HistorySpan::ALL.map(|span| (span, live.over(span, &now).snapshot));
    let recent = proxy.stats().recent().since(0);
    let usage = proxy.cache().memory_usage();
    let origin = live.origin_text();
    let origin_class = if origin.is_empty() { "good" } else { "bad" };
    let state = if origin.is_empty() { "answers, as far as is known".to_string() } else { origin };
    let logout = "<button type=button id=logout>Log out</button>";
    html(filled(
        PAGE,
        &[
            ("token", escaped(token)),
            ("address", escaped(&about.address)),
            ("origin", escaped(&about.origin)),
            ("origin_class", origin_class.to_string()),
            ("origin_state", escaped(&state)),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
            ("store", escaped(if about.store.is_empty() { "memory" } else { &about.store })),
            ("logout", if has_login { logout.to_string() } else { String::new() }),
            ("figures", figures(&spans)),
            ("latencies", latencies(&spans)),
            ("next", recent.next().to_string()),
            ("has_requests", hidden_if(recent.requests.is_empty())),
            ("has_none", hidden_if(!recent.requests.is_empty())),
            ("requests", requests(&recent)),
            ("details", details(stats)),
            ("responses", number(usage.responses)),
            ("bytes", size(usage.bytes)),
        ],
    ))
}

fn html(text: String) -> Response {
    let mut response = text_as("text/html; charset=utf-8", text);
    let name = HeaderName::from_static("content-security-policy");
    response.fields.append(name, HeaderValue::from_static(POLICY));
    response
}

/// The template with `{{name}}` replaced; values are not looked into.
fn filled(template: &str, values: &[(&str, String)]) -> String {
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").expect("a template closes what it opens");
        let value = values.iter().find(|(other, _)| *other == name);
        text += &value.expect("a template names what there is").1;
        text += rest;
    }
    text
}

/// A text as HTML has it, in content and in attributes with quotes.
fn escaped(text: &str) -> String {
    let text = visible_lines(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

fn hidden_if(is_hidden: bool) -> String {
    if is_hidden { "hidden" } else { "" }.to_string()
}

/// The names of the figures, and what they say of a span.
const FIGURES: [(&str, &str, fn(&Snapshot) -> String); 5] = [
    ("requests", "Requests", |counted| number(count(counted, Counter::Request))),
    ("ratio", "Hit ratio", |counted| {
        percent(count(counted, Counter::Hit), count(counted, Counter::Request))
    }),
    ("bytes", "Bytes sent", |counted| size(count(counted, Counter::BytesSent))),
    ("cached", "Bytes from the cache", |counted| size(count(counted, Counter::BytesFromCache))),
    ("saved", "Origin requests saved", |counted| {
        number(count(counted, Counter::OriginRequestSaved))
    }),
];

fn count(counted: &Snapshot, counter: Counter) -> u64 {
    counted.get(counter).unwrap_or(0)
}

/// One row for each figure, one cell for each span.
fn figures(spans: &[(HistorySpan, Snapshot); 3]) -> String {
    let mut text = String::new();
    for (name, title, say) in FIGURES {
        let _ = write!(text, "<tr><th scope=row>{title}</th>");
        for (span, counted) in spans {
            let (span, value) = (span.name(), say(counted));
            let _ = write!(
                text,
                "<td data-figure={name} data-span={span}><b>{value}</b><svg viewBox=\"0 0 120 30\" \
                 preserveAspectRatio=none role=img aria-label=\"{title}: no plot yet\"></svg></td>"
            );
        }
        text += "</tr>\n";
    }
    text
}

/// How long hits and misses took: two rows for each span, in the order of the events.
fn latencies(spans: &[(HistorySpan, Snapshot); 3]) -> String {
    let row = |kind: &str, span: HistorySpan, tally: &Tally| {
        let within = |share| time(tally.quantile_us(share));
        let of_span = match span {
            HistorySpan::Minute => "last minute",
            HistorySpan::Hour => "last hour",
            HistorySpan::Start => "since the start",
        };
        format!(
            "<tr><th scope=row>{kind}, {of_span}</th><td class=number>{}</td><td class=number>{}</td>\
             <td class=number>{}</td></tr>\n",
            number(tally.total()),
            within(0.5),
            within(0.99)
        )
    };
    let both = |(span, counted): &(HistorySpan, Snapshot)| {
        row("Hits", *span, &counted.hits) + &row("Misses", *span, &counted.misses)
    };
    spans.iter().map(both).collect()
}

/// The newest requests, the newest first.
fn requests(recent: &NumberedRequests) -> String {
    let mut text = String::new();
    for request in recent.requests.iter().rev() {
        let micros = request.taken.map(|taken| taken.as_micros() as u64);
        let _ = writeln!(
            text,
            "<tr><td class=\"{}\">{}</td><td class=\"{}\">{}</td><td>{} {}</td>\
             <td class=number>{}</td><td class=number>{}</td><td class=number>{}</td></tr>",
            if request.outcome == "hit" { "hit" } else { "" },
            escaped(request.outcome),
            if request.status >= 500 { "error" } else { "" },
            request.status,
            escaped(&request.method),
            escaped(&request.target),
            size(request.bytes),
            time(micros),
            time_of_day(request.at.seconds()),
        );
    }
    text
}

/// Every word behind `detail=`, its number, its meaning and what changes it; those without a number are hidden.
fn details(stats: &Snapshot) -> String {
    let (_, table) = CACHING.split_once("### The words behind `detail=`").unwrap_or_default();
    let rows = table.lines().take_while(|line| !line.starts_with("## "));
    let mut text = String::new();
    for row in rows.filter(|row| row.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let word = cells.next().unwrap_or_default().trim_matches('`');
        let count =
            stats.details.iter().find(|(name, _)| *name == word).map_or(0, |(_, count)| *count);
        let hidden = if count == 0 { " hidden" } else { "" };
        let _ = write!(
            text,
            "<tr data-detail=\"{0}\"{hidden}><th scope=row><code>{0}</code></th><td class=number>{1}</td>",
            escaped(word),
            number(count)
        );
        for cell in cells {
            let _ = write!(text, "<td>{}</td>", with_code(cell));
        }
        text += "</tr>\n";
    }
    text
}

/// A line of Markdown as HTML: what stands between backticks is code.
fn with_code(line: &str) -> String {
    let pieces = line.split('`').enumerate();
    pieces
        .map(|(index, piece)| match index % 2 {
            1 => format!("<code>{}</code>", escaped(piece)),
            _ => escaped(piece),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_stays_text() {
        let hostile = "<script>\"'&\u{202e}";
        assert_eq!(escaped(hostile), "&lt;script&gt;&quot;&#39;&amp;⟨U+202E⟩");
        assert_eq!(filled("a{{x}}b", &[("x", "{{y}}".to_string())]), "a{{y}}b");
        assert_eq!(with_code("a `<b>` c"), "a <code>&lt;b&gt;</code> c");
    }

    #[test]
    fn the_page_is_small_and_names_nothing_outside() {
        let all = [PAGE, LOGIN, STYLE, SCRIPT];
        assert!(all.iter().map(|text| text.len()).sum::<usize>() < 30 * 1024);
        for text in all {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for outside in
                ["http:", "https:", "//", "onclick", "style=", "url(", "@import", "innerHTML"]
            {
                let found = text.lines().find(|line| line.contains(outside));
                let is_comment = |line: &str| line.trim_start().starts_with("// ");
                assert!(found.is_none_or(is_comment), "{outside}: {found:?}");
            }
        }
    }
}
