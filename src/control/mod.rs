//! The control interface, with which operators inspect and change a running proxy: a request in, a response out.
//!
//! It is served on a Unix socket that only the proxy's user can open, and on a TCP port where the operator asks
//! for one: then to loopback addresses, or to clients that present the token. It never speaks for the origin
//! server, and nothing here is reachable from the port that clients use.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::message::target::{is_loopback, split_authority};
use crate::policy::credentials::redacted;
use crate::policy::key::Glob;
use crate::policy::purging::Selector;
use crate::policy::response::Response;
use crate::proxy::archive::har::{HarEntry, Secrets};
use crate::proxy::archive::{Whose, stream};
use crate::proxy::{BlockingDriver, Proxy};
use crate::store::Purged;

pub mod explanation;
mod listing;
mod metrics;

/// How many stored responses one page of a list has, at most.
const PAGE_MAX: usize = 1000;

const HELP: &str = "\
GET  /health
GET  /info
GET  /stats[?text=1]
GET  /metrics
GET  /list[?after=AFTER][&most=N], AFTER of the last one, or its URL
GET  /show?url=URL[&text=1]
GET  /explain?url=URL[&field=NAME:VALUE]
GET  /export[?after=NEXT][&with_secrets=1]
POST /purge?url=URL | prefix=P | match=GLOB | tag=T | stale=1 | all=1
POST /import, with a list of HAR entries (over the Unix socket)
";

/// What a proxy states about itself.
#[derive(Clone, Debug)]
pub struct About {
    /// The address on which it serves clients.
    pub address: String,
    /// The URL of the origin server, without a password.
    pub origin: String,
    /// The backing store; empty if there is none.
    pub store: String,
    /// The identity of that store, the same in whatever folder a command was started; empty if there is none.
    pub cache: String,
    /// When it started.
    pub since: Timestamp,
}

/// The answer to `/info`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// See [`About::address`].
    pub address: String,
    /// See [`About::origin`].
    pub origin: String,
    /// See [`About::store`].
    pub store: String,
    /// See [`About::cache`].
    pub cache: String,
    /// In seconds since 1970; see [`About::since`].
    pub since: u64,
}

/// The answer to `/purge`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct PurgeAnswer {
    /// How many stored responses were purged.
    pub purged: u64,
}

/// The answer to `/import`: what became of the entries.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Imported {
    /// How many are stored.
    pub stored: u64,
    /// How many are not, by the reason.
    pub left_out: BTreeMap<String, u64>,
}

impl Imported {
    /// Adds the outcome of further entries.
    pub fn add(&mut self, more: Self) {
        self.stored += more.stored;
        for (reason, count) in more.left_out {
            *self.left_out.entry(reason).or_default() += count;
        }
    }
}

/// The control interface of one proxy.
pub struct Control {
    driver: BlockingDriver,
    proxy: Arc<Proxy>,
    about: About,
    /// Clients over TCP must present it; `None` admits loopback addresses alone.
    token: Option<String>,
}

impl Control {
    /// The control interface of the proxy that `driver` drives; clients over TCP must present `token`, if
    /// there is one.
    pub fn new(driver: BlockingDriver, about: About, token: Option<String>) -> Self {
        let proxy = Arc::clone(driver.proxy());
        Self { driver, proxy, about, token }
    }

    /// Answers a request; `content` is `None` where none is at hand (over TCP). May wait.
    pub fn answer(&self, request: &Request, content: Option<&[u8]>) -> Response {
        // First of all: a client that is not admitted learns not even which paths there are.
        if let Err((status, text)) = self.admit(request) {
            return Response::error(status, text, request.prefers_json());
        }
        let (path, query) =
            request.target.as_str().split_once('?').unwrap_or((request.target.as_str(), ""));
        let query = Query::read(query);
        let is_get = request.method == Method::GET || request.method == Method::HEAD;
        // A GET must change nothing (RFC 9110 §9.2.1): browsers and scanners follow links.
        let changes = path == "/purge" || path == "/import";
        if changes && request.method != Method::POST || !changes && !is_get {
            let text = if changes { "expected POST" } else { "expected GET" };
            return Response::error(StatusCode::METHOD_NOT_ALLOWED, text, request.prefers_json());
        }
        let answer = match path {
            "/" => Ok(text(HELP.to_string())),
            "/health" => Ok(text("ok\n".to_string())),
            "/info" => Ok(json_response(&self.info())),
            "/stats" => Ok(self.stats(&query)),
            "/metrics" => {
                Ok(text_as("text/plain; version=0.0.4", metrics::text(&self.proxy, &self.about)))
            }
            "/list" => self.list(&query),
            "/show" => self.show(&query),
            "/explain" => self.explain(&query),
            "/purge" => self.purge(&query),
            "/export" => Ok(self.export(&query)),
            "/import" => self.import(content),
            _ => Err((StatusCode::NOT_FOUND, format!("{path}: not known; GET / lists what is"))),
        };
        answer
            .unwrap_or_else(|(status, text)| Response::error(status, &text, request.prefers_json()))
    }

    /// Admits a request: over the Unix socket always, over TCP with the token or, where there is none, from this
    /// machine. A page that a browser shows must not get in either, although the browser is on this machine.
    fn admit(&self, request: &Request) -> Result<(), (StatusCode, &'static str)> {
        // The Unix socket's permissions have admitted it already (mode 0600).
        let Some(client) = request.client else { return Ok(()) };
        if let Some(token) = &self.token {
            // Load balancers and container hosts check health without a token, and learn nothing else.
            if request.target.as_str() == "/health" {
                return Ok(());
            }
            let given = request.fields.get("authorization").map(HeaderValue::as_bytes);
            let expected = format!("Bearer {token}");
            if !given.is_some_and(|given| is_same(given, expected.as_bytes())) {
                let text = "expected Authorization: Bearer with the token of --admin-token";
                return Err((StatusCode::UNAUTHORIZED, text));
            }
            return Ok(());
        }
        // A site can have its name resolve to 127.0.0.1 and then read the answers (DNS rebinding): the browser
        // still sends the site's name as Host. Where it asks across sites, it sends Origin.
        let host = request.authority().and_then(split_authority);
        let names_us = host.is_some_and(|(host, _)| is_loopback(&host));
        if !client.ip().is_loopback() || !names_us || request.fields.contains("origin") {
            return Err((StatusCode::FORBIDDEN, "for this machine alone; see --admin-token"));
        }
        Ok(())
    }

    fn info(&self) -> Info {
        let About { address, origin, store, cache, since } = self.about.clone();
        Info {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            address,
            origin,
            store,
            cache,
            since: since.seconds(),
        }
    }

    fn stats(&self, query: &Query) -> Response {
        if query.has("text") {
            return text(metrics::summary(&self.proxy, &self.about));
        }
        json_response(&metrics::json(&self.proxy, &self.about))
    }

    fn list(&self, query: &Query) -> Result<Response, Wrong> {
        let most = match query.get("most") {
            Some(text) => {
                text.parse().map_err(|_| bad(format!("most={text}: expected a number")))?
            }
            None => PAGE_MAX,
        };
        let page =
            self.proxy.cache().list(query.get("after").unwrap_or(""), most.clamp(1, PAGE_MAX));
        // One moment for all of them, or the ages of a page would not agree.
        let now = self.proxy.now();
        let page: Value = page.iter().map(|listed| listing::json(listed, now)).collect();
        Ok(json_response(&page))
    }

    fn show(&self, query: &Query) -> Result<Response, Wrong> {
        let url = query.need("url")?;
        let keys = self.proxy.keys_for(url).map_err(bad)?;
        let found = keys.iter().map(|key| (key, self.proxy.stored_for(key)));
        let found: Vec<_> = found.filter(|(_, found)| !found.is_empty()).collect();
        if found.is_empty() {
            return Err((StatusCode::NOT_FOUND, format!("{}: nothing is stored", keys[0])));
        }
        let now = self.proxy.now();
        if query.has("text") {
            let texts =
                found.iter().map(|(key, found)| listing::text(&self.proxy, key, found, now));
            return Ok(text(texts.collect::<Vec<_>>().join("\n")));
        }
        let shown: Value = found
            .iter()
            .flat_map(|(key, found)| {
                found.iter().map(|found| listing::json_with_fields(key, found, now))
            })
            .collect();
        Ok(json_response(&shown))
    }

    fn explain(&self, query: &Query) -> Result<Response, Wrong> {
        let url = query.need("url")?;
        let fields: Vec<String> = query.all("field").map(str::to_string).collect();
        let request = explanation::request(url, &fields, &self.about.address).map_err(bad)?;
        let key = self.proxy.key_for(url).map_err(bad)?;
        // Before the request is made: what is shown is what was there when the operator asked.
        let found = self.proxy.stored_for(&key);
        let mut explained = String::new();
        if !found.is_empty() {
            explained = listing::text(&self.proxy, &key, &found, self.proxy.now());
            explained.push('\n');
        }
        match explanation::explain(&self.driver, request) {
            // Without a response it is an explanation all the same: the operator asked why.
            Ok(more) | Err(more) => {
                let _ = writeln!(explained, "{}", more.trim_end());
            }
        }
        Ok(text(explained))
    }

    fn purge(&self, query: &Query) -> Result<Response, Wrong> {
        let mut all = Purged::default();
        // A purge has one selector: of two, it would not be clear whether both must match.
        let (what, value) = query.0.first().map_or(("", ""), |(what, value)| (what, value));
        for selector in selectors(&self.proxy, what, value).map_err(bad)? {
            let purged = self.proxy.purge(&selector);
            // The log may be read by more people than may see the URLs' secrets.
            let (selected, count) = (selector.to_string(), purged.count);
            log::info!("control: purged {}: {count} stored responses", redacted(&selected));
            all.add(purged);
        }
        // A purge that did not reach every tier must not look like one that did.
        match all.shortfall() {
            Some(text) => Err((StatusCode::SERVICE_UNAVAILABLE, text)),
            None => Ok(json_response(&PurgeAnswer { purged: all.count as u64 })),
        }
    }

    fn export(&self, query: &Query) -> Response {
        let kept = query.get("with_secrets") == Some("1");
        let secrets = if kept { Secrets::Kept } else { Secrets::Redacted };
        json_response(&self.proxy.recorded(query.get("after").unwrap_or(""), secrets))
    }

    fn import(&self, content: Option<&[u8]>) -> Result<Response, Wrong> {
        // Over TCP no content is at hand: with the token one can look and purge, but not plant responses.
        let content =
            content.ok_or_else(|| bad("import: over the Unix socket only".to_string()))?;
        let entries = stream::list(content).map_err(|error| bad(error.to_string()))?;
        Ok(json_response(&import(&self.proxy, entries, Whose::OwnOrigin)))
    }
}

/// Reads what is to be purged: several selectors where one URL has several keys. The error says what is expected.
pub fn selectors(proxy: &Proxy, what: &str, value: &str) -> Result<Vec<Selector>, String> {
    let beginnings = || proxy.beginnings_of(value).into_iter();
    let selector = match what {
        "url" => {
            let keys = proxy.keys_for(value)?;
            return Ok(keys.iter().map(|key| Selector::Uri(key.to_string())).collect());
        }
        "prefix" => return Ok(beginnings().map(Selector::Prefix).collect()),
        "match" => {
            return Ok(beginnings().map(|glob| Selector::Match(Glob::new(&glob))).collect());
        }
        "tag" if !value.is_empty() => Selector::Tag(value.to_string()),
        "stale" => Selector::Stale,
        "all" => Selector::All,
        _ => {
            return Err("purge: expected one of url, prefix, match, tag, stale, all".to_string());
        }
    };
    Ok(vec![selector])
}

/// Stores recorded responses, as far as that is possible.
pub fn import(proxy: &Proxy, entries: Vec<HarEntry>, whose: Whose) -> Imported {
    let mut imported = Imported::default();
    for entry in entries {
        // One that cannot be used does not keep the others out.
        let recorded = entry.read(proxy.now()).map_err(|unusable| unusable.to_string());
        match recorded.and_then(|recorded| proxy.record(recorded, whose).map_err(str::to_string)) {
            Ok(()) => imported.stored += 1,
            Err(reason) => *imported.left_out.entry(reason).or_default() += 1,
        }
    }
    imported
}

/// What is wrong with a request.
type Wrong = (StatusCode, String);

fn bad(text: String) -> Wrong {
    (StatusCode::BAD_REQUEST, text)
}

/// Compares in a time that does not depend on how much agrees, so that nobody finds the token byte by byte.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && differing == 0
}

/// The names and values of a query.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    fn need(&self, name: &'static str) -> Result<&str, Wrong> {
        self.get(name).ok_or_else(|| bad(format!("expected ?{name}=…")))
    }

    fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &'static str) -> bool {
        self.get(name).is_some()
    }
}

fn text(text: String) -> Response {
    text_as("text/plain; charset=utf-8", text)
}

fn text_as(content_type: &'static str, text: String) -> Response {
    let mut fields = Fields::new();
    fields.append(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.append(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Response::new(StatusCode::OK, fields, Body::Whole(text.into()))
}

fn json_response(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("no map has keys that are no text");
    text_as("application/json", text + "\n")
}
