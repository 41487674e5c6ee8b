//! `proxy warm`: fetches a list of URLs, or what a sitemap names, so that they are stored before
//! anybody asks for them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use caching_proxy::cli::config::Config;
use caching_proxy::control::{Info, explanation};
use caching_proxy::message::body::Body;
use caching_proxy::message::request::Request;
use caching_proxy::message::visible::visible;
use caching_proxy::origin::blocking::plain::{PlainClient, PlainResponse};
use caching_proxy::policy::reason::{ReadStatus, Why};
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::BlockingDriver;
use caching_proxy::stats::figures::number;

use crate::commands::progress::{ProgressLine, SHOWN_EVERY};
use crate::commands::target::{CacheTarget, MeantCache, read};
use crate::daemon::engine::OwnEngine;

/// The largest list or sitemap that is read.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// How deep sitemaps are followed: those that one names, and those that these name.
const DEPTH_MAX: usize = 2;
/// For how long a response may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What fetches: a running proxy, or an engine of this process over a store that lasts.
enum WarmSource {
    Running { base: String, origin: String, client: PlainClient },
    Own { engine: Box<OwnEngine>, origin: String },
}

/// What is asked of the cache: a response that is stale, or will be in a second, is validated and not
/// given as it is (RFC 9111 §5.2.1.3). Unlike requests with `no-cache`, these still collapse.
const ASKED: [&str; 2] = ["Cache-Control", "min-fresh=1"];

/// The outcome for one URL.
#[derive(Debug, Eq, PartialEq)]
enum WarmOutcome {
    /// It was stored and fresh.
    Hit,
    /// Nothing that fits was stored; now there is.
    Fetched,
    /// What was stored was stale; now it is fresh.
    Refreshed,
    /// Another request was fetching it.
    Waited,
    /// It was answered, and is not stored or not refreshed: the word behind `detail=`.
    NotStored(String),
    /// What went wrong, in one line.
    Failed(String),
}

impl WarmOutcome {
    /// The outcome that a status and a `Cache-Status` tell of; `None` if what answered has sent none.
    fn of(status: u16, told: Option<ReadStatus>) -> Self {
        // Explicitly fresh errors are stored, too; but nobody warms a cache with them.
        if status >= 400 {
            return Self::Failed(format!("answered {status}"));
        }
        let Some(told) = told else {
            return Self::Failed("what answers is no proxy like this one".to_string());
        };
        let is_stale = told.freshness_left.is_some_and(|left| left <= 0);
        let detail = told.detail.unwrap_or_else(|| "not said".to_string());
        match told.why {
            _ if told.collapsed => Self::Waited,
            // A stale one that stood in for an origin server that failed.
            Some(_) if is_stale && !told.stored => {
                Self::Failed(format!("what is stored could not be refreshed (detail={detail})"))
            }
            Some(Why::Stale | Why::Request) if told.stored => Self::Refreshed,
            Some(_) if told.stored => Self::Fetched,
            // Only where the cache does not do as clients say (`--cache-mode`).
            None if is_stale => Self::NotStored(detail),
            None if told.hit => Self::Hit,
            _ => Self::NotStored(detail),
        }
    }
}

/// A response: its status, its `Cache-Status`, and the beginning of its content.
struct Got {
    status: u16,
    told: Option<ReadStatus>,
    content: Vec<u8>,
}

/// Counts the outcomes. The workers share it: counters by themselves, the texts under locks that are
/// held for one entry.
#[derive(Default)]
struct WarmTally {
    hits: AtomicU64,
    fetched: AtomicU64,
    refreshed: AtomicU64,
    waited: AtomicU64,
    failures: AtomicU64,
    foreign: AtomicU64,
    /// How many responses are not stored, by the reason.
    not_stored: Mutex<BTreeMap<String, u64>>,
    /// The first failures, to be printed.
    told: Mutex<Vec<String>>,
}

/// Fetches what `file` names, with `jobs` requests at a time.
pub fn warm(config: &Config, file: &str, jobs: usize) -> Result<String, String> {
    let fetcher = WarmSource::of(config)?;
    let mut text = String::new();
    let reader: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(|error| format!("{file}: {error}"))?)
    };
    // The list is read before anything is fetched: a file that cannot be read must not leave half of it
    // warm.
    let read = reader.take(LIST_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("{file}: {error}"))?;
    let tally = WarmTally::default();
    let urls = fetcher.all_urls(&text, DEPTH_MAX, &tally);
    if urls.is_empty() {
        return Err(format!("{file}: no URLs; expected one a line, or a sitemap"));
    }
    let all = urls.len();
    // One queue for all workers, not a share for each: a slow URL holds up one worker only.
    let waiting = Mutex::new(VecDeque::from(urls));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(all))
            .map(|_| {
                scope.spawn(|| {
                    // The braces end the lock before the fetch, which may take minutes.
                    while let Some(url) = { waiting.lock().pop_front() } {
                        fetcher.fetch(&url, &tally);
                    }
                })
            })
            .collect();
        let mut progress = ProgressLine::new();
        while progress.is_shown() && workers.iter().any(|worker| !worker.is_finished()) {
            let failed = tally.failures.load(Ordering::Relaxed);
            let note = format!("{} failed", number(failed));
            progress.show(tally.done() as u64, Some(all as u64), number, &note);
            thread::sleep(SHOWN_EVERY);
        }
    });
    fetcher.close()?;
    finish(&tally, all)
}

/// The summary to print; failures make it an error, so that scripts see them by the exit code.
fn finish(tally: &WarmTally, all: usize) -> Result<String, String> {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let failures = get(&tally.failures);
    let not_stored = tally.not_stored.lock();
    let mut told = format!(
        "{all} URLs: {} fetched, {} refreshed, {} stored already, {} waited for, {} not stored, \
         {failures} failed",
        get(&tally.fetched),
        get(&tally.refreshed),
        get(&tally.hits),
        get(&tally.waited),
        not_stored.values().sum::<u64>(),
    );
    let foreign = get(&tally.foreign);
    if foreign > 0 {
        let _ = write!(told, "; {foreign} more are not of this origin server");
    }
    for (detail, count) in not_stored.iter() {
        let detail = visible(detail);
        let _ = write!(told, "\n  {count} not stored, or left stale: detail={detail}");
    }
    for failure in tally.told.lock().iter() {
        let _ = write!(told, "\n  {failure}");
    }
    if failures == 0 { Ok(told + "\n") } else { Err(told) }
}

impl WarmSource {
    /// What fetches; an error if there is no cache that it could be fetched into.
    fn of(config: &Config) -> Result<Self, String> {
        // Said before a store is opened, which would make it.
        if !config.origin_given && matches!(CacheTarget::of(config)?, CacheTarget::Store) {
            return Err("of which server? give --origin, or start a proxy".to_string());
        }
        let instance = match MeantCache::of(config)? {
            MeantCache::Running(instance) => instance,
            MeantCache::Own(engine) => {
                return Ok(Self::Own { engine, origin: config.origin.clone() });
            }
        };
        let Info { address, origin, .. } = read(&instance.ask("GET", "/info", &[])?)?;
        // A proxy that listens on all addresses cannot be connected to at `0.0.0.0` everywhere; on
        // loopback it can.
        let address = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
        let client = PlainClient::new(SILENCE_MAX);
        Ok(Self::Running { base: format!("http://{address}"), origin, client })
    }

    /// The targets that a list or a sitemap names. The sitemaps that a sitemap index names are fetched,
    /// `depth` levels deep.
    fn all_urls(&self, text: &str, depth: usize, tally: &WarmTally) -> Vec<String> {
        let mut all = Vec::new();
        let is_index = text.contains("<sitemapindex");
        for url in named(text) {
            // Sitemaps name other hosts (images, translations), which this proxy does not serve.
            let Some(target) = self.target(&url) else {
                tally.foreign.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if !is_index {
                all.push(target);
                continue;
            }
            match self.get(&target) {
                Ok(got) if depth > 0 => {
                    let text = String::from_utf8_lossy(&got.content).into_owned();
                    all.extend(self.all_urls(&text, depth - 1, tally));
                }
                // A bound, because an index may name itself.
                Ok(_) => {}
                Err(error) => tally.fail(&format!("{url}: {error}")),
            }
        }
        all
    }

    /// The target of a URL of the origin server or of the proxy; `None` for others.
    fn target(&self, url: &str) -> Option<String> {
        let (base, origin) = match self {
            Self::Running { base, origin, .. } => (base.as_str(), origin),
            Self::Own { origin, .. } => ("", origin),
        };
        if url.starts_with('/') {
            return Some(url.to_string());
        }
        // `http://host.example` is not a prefix of `http://host.example.org/`.
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

    /// Fetches one URL and counts the outcome.
    fn fetch(&self, target: &str, tally: &WarmTally) {
        let outcome = match self.get(target) {
            Ok(got) => WarmOutcome::of(got.status, got.told),
            Err(error) => WarmOutcome::Failed(error),
        };
        tally.count(target, outcome);
    }

    /// Fetches one response to its end: it is stored only when its last byte has come.
    fn get(&self, target: &str) -> Result<Got, String> {
        match self {
            Self::Running { base, client, .. } => {
                let url = format!("{base}{target}");
                let PlainResponse { status, cache_status, content } =
                    client.get(&url, ASKED.into(), LIST_BYTES_MAX)?;
                Ok(Got { status, told: ReadStatus::read(&cache_status), content })
            }
            Self::Own { engine, .. } => {
                let field = ASKED.join(": ");
                let request = explanation::request(target, &[field], &engine.host)?;
                drained(answer(&engine.driver, &Arc::new(request)))
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

impl WarmTally {
    /// How many URLs have an outcome.
    fn done(&self) -> usize {
        let counters = [&self.hits, &self.fetched, &self.refreshed, &self.waited, &self.failures];
        let done: u64 = counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
        (done + self.not_stored.lock().values().sum::<u64>()) as usize
    }

    /// Counts one outcome.
    fn count(&self, target: &str, outcome: WarmOutcome) {
        let counter = match outcome {
            WarmOutcome::Hit => &self.hits,
            WarmOutcome::Fetched => &self.fetched,
            WarmOutcome::Refreshed => &self.refreshed,
            WarmOutcome::Waited => &self.waited,
            WarmOutcome::NotStored(detail) => {
                *self.not_stored.lock().entry(detail).or_default() += 1;
                return;
            }
            WarmOutcome::Failed(text) => return self.fail(&format!("{target}: {text}")),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure, and keeps its text if it is one of the first.
    fn fail(&self, text: &str) {
        // A server that is down fails for every URL: ten lines say as much as a million.
        const TOLD_MAX: usize = 10;
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX {
            // A line for each: a location in a sitemap may have any character.
            told.push(visible(text).into_owned());
        }
    }
}

/// The answer of this process's own engine; waits if another worker fetches the same.
fn answer(driver: &BlockingDriver, request: &Arc<Request>) -> Response {
    let mut delivery = driver.answer(request);
    // There is nobody else in this process who could refresh in the background, so it is done here and
    // waited for.
    if let Some(refresh) = delivery.refresh.take()
        && let Some(next) = driver.proxy().refresh(*refresh)
    {
        driver.fetch_in_the_background(next);
    }
    delivery.into_response()
}

/// Reads a response to its end; keeps the beginning of its content.
fn drained(response: Response) -> Result<Got, String> {
    let told = Some(response.cache_status.into());
    let mut got = Got { status: response.status.as_u16(), told, content: Vec::new() };
    let mut body = match response.body {
        Body::None { .. } => return Ok(got),
        Body::Whole(bytes) => {
            got.content = bytes.to_vec();
            return Ok(got);
        }
        Body::Arriving(body) => body,
        Body::Growing(body) => Box::new(caching_proxy::message::body::BlockingBody(body)),
    };
    let mut piece = vec![0; 64 * 1024];
    loop {
        match body.read(&mut piece) {
            Ok(0) => return Ok(got),
            Ok(count) if (got.content.len() as u64) < LIST_BYTES_MAX => {
                got.content.extend_from_slice(&piece[..count]);
            }
            // Content beyond the bound is read all the same: reading is what moves the body along into
            // the store.
            Ok(_) => {}
            Err(error) => return Err(format!("cut short: {error}")),
        }
    }
}

/// What a text names: the locations of a sitemap, or one URL a line.
fn named(text: &str) -> Vec<String> {
    if text.contains("<urlset") || text.contains("<sitemapindex") {
        // No XML parser: a sitemap's locations have no attributes, and none can stand in another's text
        // without `&lt;`.
        let locations = text.split("<loc>").skip(1);
        return locations
            .filter_map(|rest| rest.split_once("</loc>"))
            .map(|(location, _)| unescaped(location.trim()))
            .collect();
    }
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_string).collect()
}

/// Replaces XML's five entities; a sitemap's locations have no others.
fn unescaped(text: &str) -> String {
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    // `&amp;` comes last, so that `&amp;lt;` becomes `&lt;` and no further.
    entities.iter().fold(text.to_string(), |text, (entity, letter)| text.replace(entity, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_one_outcome() {
        use WarmOutcome::{Failed, Fetched, Hit, NotStored, Refreshed, Waited};
        let word = str::to_string;
        #[rustfmt::skip]
        let table = [
            (200, "proxy; hit; ttl=5", Hit),
            (200, "proxy; hit", Hit),
            (301, "proxy; hit; ttl=5", Hit),
            (200, "proxy; fwd=uri-miss; fwd-status=200; stored", Fetched),
            (200, "proxy; fwd=vary-miss; fwd-status=200; stored", Fetched),
            (200, "proxy; fwd=partial; fwd-status=206; stored; detail=rest", Fetched),
            (200, "proxy; fwd=request; fwd-status=304; ttl=60; stored; detail=min-fresh", Refreshed),
            (200, "proxy; fwd=request; fwd-status=304; ttl=0; stored; detail=min-fresh", Refreshed),
            (200, "proxy; fwd=stale; fwd-status=200; stored; detail=no-cache", Refreshed),
            (200, "proxy; fwd=uri-miss; ttl=60; collapsed", Waited),
            (200, "proxy; fwd=uri-miss; collapsed", Waited),
            (200, "proxy; fwd=uri-miss; fwd-status=200; detail=private", NotStored(word("private"))),
            (302, "proxy; fwd=uri-miss; fwd-status=302; detail=no-freshness", NotStored(word("no-freshness"))),
            (200, "proxy; fwd=bypass; fwd-status=200; detail=disabled", NotStored(word("disabled"))),
            (200, "proxy; fwd=uri-miss; fwd-status=200", NotStored(word("not said"))),
            (200, "proxy; hit; ttl=-5; detail=stale-while-revalidate", NotStored(word("stale-while-revalidate"))),
            (200, "proxy; hit; ttl=-5; detail=offline", NotStored(word("offline"))),
            (200, "proxy; fwd=request; fwd-status=503; ttl=-5; detail=stale-if-error",
                Failed(word("what is stored could not be refreshed (detail=stale-if-error)"))),
            (404, "proxy; hit; ttl=5", Failed(word("answered 404"))),
            (502, "proxy; fwd=uri-miss; detail=connect", Failed(word("answered 502"))),
            (200, "other; hit", Failed(word("what answers is no proxy like this one"))),
        ];
        for (status, told, expected) in table {
            let read = ReadStatus::read(told);
            assert_eq!(WarmOutcome::of(status, read), expected, "{status}, {told}");
        }
    }

    #[test]
    fn lists_and_sitemaps_are_read() {
        assert_eq!(named("# all\n\n/a\n http://o/b \n"), ["/a", "http://o/b"]);
        let sitemap = "<?xml version=\"1.0\"?><urlset><url><loc>http://o/a?b=1&amp;c=2</loc></url>\n\
                       <url>\n<loc>\n http://o/d\n</loc><lastmod>2024</lastmod></url></urlset>";
        assert_eq!(named(sitemap), ["http://o/a?b=1&c=2", "http://o/d"]);
        assert!(named("").is_empty() && named("<urlset></urlset>").is_empty());
    }
}
