//! `proxy warm`: fetches a list of URLs, or what a sitemap names, so that they are stored before anybody
//! asks.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caching_proxy::config::Config;
use caching_proxy::control::explanation;
use caching_proxy::message::body::Body;
use caching_proxy::message::response::Response;
use caching_proxy::origin::Content;
use caching_proxy::proxy::{Admission, Answer, Attempt, field_text};
use parking_lot::Mutex;
use serde_json::Value;

use crate::own_engine::OwnEngine;
use crate::target::Cache;

/// The largest list or sitemap that is read.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// Sitemaps that one names, and those that these name.
const DEPTH_MAX: usize = 2;
/// How often the progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(100);
/// For how long a response may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What fetches: a running proxy, or an engine of our own with a store that lasts.
enum Fetcher {
    Running { base: String, origin: String, agent: ureq::Agent },
    Own { engine: Box<OwnEngine>, origin: String },
}

/// How fetching went.
#[derive(Default)]
struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
    foreign: AtomicU64,
    /// The first failures, to be told.
    told: Mutex<Vec<String>>,
}

/// Fetches what `file` names, so many at a time.
pub fn warm(config: &Config, file: &str, jobs: usize) -> Result<String, String> {
    let fetcher = Fetcher::of(config)?;
    let mut text = String::new();
    let reader: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(|error| format!("{file}: {error}"))?)
    };
    let read = reader.take(LIST_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("{file}: {error}"))?;
    let tally = Tally::default();
    let begun = Instant::now();
    let urls = fetcher.all_urls(&text, DEPTH_MAX, &tally);
    if urls.is_empty() {
        return Err(format!("{file}: no URLs; expected one a line, or a sitemap"));
    }
    let all = urls.len();
    let waiting = Mutex::new(VecDeque::from(urls));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(all))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(url) = { waiting.lock().pop_front() } {
                        fetcher.fetch(&url, &tally);
                    }
                })
            })
            .collect();
        if io::stderr().is_terminal() {
            while workers.iter().any(|worker| !worker.is_finished()) {
                show(&tally, all, begun);
                thread::sleep(SHOWN_EVERY);
            }
            show(&tally, all, begun);
            eprintln!();
        }
    });
    fetcher.close()?;
    finish(&tally, all)
}

/// What to say in the end; failures are an error.
fn finish(tally: &Tally, all: usize) -> Result<String, String> {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (hits, misses) = (get(&tally.hits), get(&tally.misses));
    let (failures, foreign) = (get(&tally.failures), get(&tally.foreign));
    let mut told =
        format!("{all} URLs: {misses} fetched, {hits} stored already, {failures} failed");
    if foreign > 0 {
        let _ = write!(told, "; {foreign} more are not of this origin server");
    }
    if failures == 0 {
        return Ok(told + "\n");
    }
    for failure in tally.told.lock().iter() {
        let _ = write!(told, "\n  {failure}");
    }
    Err(told)
}

/// One line that is written over.
fn show(tally: &Tally, all: usize, begun: Instant) {
    const WIDTH: usize = 30;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as usize;
    let failed = get(&tally.failures);
    let done = get(&tally.hits) + get(&tally.misses) + failed;
    let filled = WIDTH * done / all.max(1);
    let rate = done as f64 / begun.elapsed().as_secs_f64().max(0.001);
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled));
    eprint!("\r[{bar}] {done}/{all}  {rate:.0}/s  {failed} failed ");
}

impl Fetcher {
    fn of(config: &Config) -> Result<Self, String> {
        let instance = match Cache::of(config)? {
            Cache::Running(instance) => instance,
            Cache::Own(_) if !config.origin_given => {
                return Err("of which server? give --origin, or start a proxy".to_string());
            }
            Cache::Own(engine) => {
                return Ok(Self::Own { engine, origin: config.origin.clone() });
            }
        };
        let info = instance.ask("GET", "/info", &[])?;
        let info: Value = serde_json::from_str(&info).map_err(|error| error.to_string())?;
        let text = |name: &str| info[name].as_str().unwrap_or_default().to_string();
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_recv_body(None)
            .build()
            .new_agent();
        let address = text("address");
        // Whoever listens on all addresses listens on this one.
        let address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
        Ok(Self::Running { base: format!("http://{address}"), origin: text("origin"), agent })
    }

    /// The targets that a list or a sitemap names; sitemaps that it names are fetched.
    fn all_urls(&self, text: &str, depth: usize, tally: &Tally) -> Vec<String> {
        let mut all = Vec::new();
        let is_index = text.contains("<sitemapindex");
        for url in named(text) {
            let Some(target) = self.target(&url) else {
                tally.foreign.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if !is_index {
                all.push(target);
                continue;
            }
            match self.get(&target) {
                Ok((_, _, content)) if depth > 0 => {
                    let text = String::from_utf8_lossy(&content).into_owned();
                    all.extend(self.all_urls(&text, depth - 1, tally));
                }
                Ok(_) => {}
                Err(error) => tally.fail(format!("{url}: {error}")),
            }
        }
        all
    }

    /// The target of a URL of the origin server or the proxy; `None` for others.
    fn target(&self, url: &str) -> Option<String> {
        let (base, origin) = match self {
            Self::Running { base, origin, .. } => (base.as_str(), origin),
            Self::Own { origin, .. } => ("", origin),
        };
        if url.starts_with('/') {
            return Some(url.to_string());
        }
        let of = |prefix: &str| {
            let rest = url.strip_prefix(prefix.trim_end_matches('/'))?;
            match rest.chars().next() {
                None => Some("/".to_string()),
                Some('/' | '?') => Some(rest.to_string()),
                Some(_) => None,
            }
        };
        of(origin).or_else(|| if base.is_empty() { None } else { of(base) })
    }

    fn fetch(&self, target: &str, tally: &Tally) {
        match self.get(target) {
            Ok((status, is_hit, _)) if status < 400 => {
                let counter = if is_hit { &tally.hits } else { &tally.misses };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok((status, ..)) => tally.fail(format!("{target}: answered {status}")),
            Err(error) => tally.fail(format!("{target}: {error}")),
        }
    }

    /// Fetches one response to its end: its status, whether it was stored, and the beginning of its
    /// content.
    fn get(&self, target: &str) -> Result<(u16, bool, Vec<u8>), String> {
        match self {
            Self::Running { base, agent, .. } => {
                let response = agent.get(format!("{base}{target}")).call();
                let mut response = response.map_err(|error| error.to_string())?;
                let is_hit = response.headers().get("x-cache").is_some_and(|value| value == "HIT");
                let mut content = Vec::new();
                let mut reader = response.body_mut().as_reader();
                let read = (&mut reader).take(LIST_BYTES_MAX).read_to_end(&mut content);
                let read = read.and_then(|_| io::copy(&mut reader, &mut io::sink()));
                read.map_err(|error| format!("cut short: {error}"))?;
                Ok((response.status().as_u16(), is_hit, content))
            }
            Self::Own { engine, .. } => {
                let OwnEngine { proxy, host, .. } = &**engine;
                let request = Arc::new(explanation::request(target, &[], host)?);
                let response = match proxy.lookup(&request, Attempt::default()) {
                    Answer::Ready(response) | Answer::Stale(response, _) => response,
                    Answer::Forward(forward) => match proxy.join(forward) {
                        Admission::Ready(response) => response,
                        Admission::Lead(forward) => {
                            proxy.forward(forward, Content::None, None).into_response()
                        }
                        // Another worker fetches the same.
                        Admission::Wait(_) => return Ok((200, true, Vec::new())),
                    },
                };
                drained(response)
            }
        }
    }

    fn close(&self) -> Result<(), String> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Own { engine, .. } => engine.close(),
        }
    }
}

impl Tally {
    fn fail(&self, text: String) {
        const TOLD_MAX: usize = 10;
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX {
            told.push(text);
        }
    }
}

/// Reads a response to its end.
fn drained(response: Response) -> Result<(u16, bool, Vec<u8>), String> {
    let is_hit = field_text(&response.fields, "x-cache") == "HIT";
    let mut content = Vec::new();
    let mut body = match response.body {
        Body::None { .. } => return Ok((response.status.as_u16(), is_hit, content)),
        Body::Whole(bytes) => return Ok((response.status.as_u16(), is_hit, bytes.to_vec())),
        Body::Arriving(body) => body,
        Body::Growing(body) => Box::new(caching_proxy::message::body::Awaited(body)),
    };
    let mut piece = vec![0; 64 * 1024];
    loop {
        match body.read(&mut piece) {
            Ok(0) => return Ok((response.status.as_u16(), is_hit, content)),
            Ok(count) if (content.len() as u64) < LIST_BYTES_MAX => {
                content.extend_from_slice(&piece[..count]);
            }
            Ok(_) => {}
            Err(error) => return Err(format!("cut short: {error}")),
        }
    }
}

/// What a text names: the locations of a sitemap, or one URL a line.
fn named(text: &str) -> Vec<String> {
    if text.contains("<urlset") || text.contains("<sitemapindex") {
        let locations = text.split("<loc>").skip(1);
        return locations
            .filter_map(|rest| rest.split_once("</loc>"))
            .map(|(location, _)| unescaped(location.trim()))
            .collect();
    }
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_string).collect()
}

/// XML's five entities; a sitemap's locations have no others.
fn unescaped(text: &str) -> String {
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.iter().fold(text.to_string(), |text, (entity, letter)| text.replace(entity, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_sitemaps_are_read() {
        assert_eq!(named("# all\n\n/a\n http://o/b \n"), ["/a", "http://o/b"]);
        let sitemap = "<?xml version=\"1.0\"?><urlset><url><loc>http://o/a?b=1&amp;c=2</loc></url>\n\
                       <url>\n<loc>\n http://o/d\n</loc><lastmod>2024</lastmod></url></urlset>";
        assert_eq!(named(sitemap), ["http://o/a?b=1&c=2", "http://o/d"]);
        assert!(named("").is_empty() && named("<urlset></urlset>").is_empty());
    }
}
