//! The control interface, with which operators inspect and change a running proxy: a request in, a response out.
//!
//! It is served on a Unix socket that only the proxy's user can open, and on a TCP port where the operator asks
//! for one: then to loopback addresses, or to clients that present the token. It never speaks for the origin
//! server, and nothing here is reachable from the port that clients use.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::control::access::{Access, PAGE_PATH};
use crate::control::query::{Query, Wrong, bad};
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::message::visible::visible_lines;
use crate::origin::RequestContent;
use crate::policy::credentials::redacted;
use crate::policy::key::Glob;
use crate::policy::purging::Selector;
use crate::policy::response::Response;
use crate::proxy::archive::har::{HarEntry, Secrets};
use crate::proxy::archive::{Whose, stream};
use crate::proxy::{BlockingDriver, Proxy};
use crate::store::Purged;

mod access;
pub mod explanation;
mod listing;
mod live;
mod metrics;
mod page;
mod query;
mod shown;
mod table;

pub use live::Live;

/// How many stored responses one page of a list has, at most.
const PAGE_MAX: usize = 1000;

/// Fields of every answer over TCP. Not `no-referrer`: under that a browser sends the form of the login
/// with `Origin: null`.
const GUARDS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "same-origin"),
];

const HELP: &str = "\
GET  /health
GET  /info
GET  /stats[?text=1]
GET  /metrics
GET  /list[?after=AFTER][&most=N], AFTER of the last one, or its URL
GET  /recent[?from=NEXT], the newest requests
GET  /show?url=URL[&text=1]
GET  /explain?url=URL[&field=NAME:VALUE]
GET  /export[?after=NEXT][&with_secrets=1]
POST /purge?url=URL | prefix=P | match=GLOB | tag=T | stale=1 | all=1
POST /import, with a list of HAR entries (over the Unix socket)
For the page, over --admin:
GET  /, of a browser
GET  /events, a stream of one a second; /history
GET  /table[?search=TEXT][&sort=[-]url|status|bytes|hits|age|fresh_for][&page=N]
GET  /content?url=URL[&variant=V]
POST /refresh?url=URL[&variant=V]
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
    access: Access,
    /// What the proxy remembers of its figures; `None` where no proxy runs.
    live: Option<Arc<Live>>,
    has_page: bool,
}

impl Control {
    /// The control interface of the proxy that `driver` drives; clients over TCP must present `token`, if
    /// there is one.
    pub fn new(driver: BlockingDriver, about: About, token: Option<String>) -> Self {
        let proxy = Arc::clone(driver.proxy());
        Self { driver, proxy, about, access: Access::new(token), live: None, has_page: false }
    }

    /// The same with the figures of the last minute and hour.
    #[must_use]
    pub fn with_history(self, live: Arc<Live>) -> Self {
        Self { live: Some(live), ..self }
    }

    /// The same with a page for browsers, if there is a history.
    #[must_use]
    pub fn with_page(self) -> Self {
        Self { has_page: self.live.is_some(), ..self }
    }

    /// Answers a request over the Unix socket, with its content. May wait.
    pub fn answer(&self, request: &Request, content: &[u8]) -> Response {
        let (path, query) = split(request.target.as_str());
        self.route(request, path, query, Some(content))
    }

    /// Answers a request over TCP, from whom it may be. May wait: of a login, for its content.
    pub fn answer_client(&self, request: &Request, content: RequestContent<'_>) -> Response {
        let mut response = self.answer_unguarded(request, content);
        // A browser that guesses a type, or embeds an answer in another site's page, would be a way around.
        for (name, value) in GUARDS {
            response.fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }

    fn answer_unguarded(&self, request: &Request, content: RequestContent<'_>) -> Response {
        let prefers_json = request.prefers_json();
        let Some(client) = request.client else { return self.answer(request, &[]) };
        let (path, query) = split(request.target.as_str());
        // First of all: a client that is not admitted learns not even which paths there are.
        let wants_page = page::wants_page(request);
        if let Err((status, text)) = self.access.admit(request, client, path) {
            if status != StatusCode::UNAUTHORIZED || path != "/" || !wants_page {
                return Response::error(status, text, prefers_json);
            }
            // A session's cookie is for the page's own path, so that is where a browser is asked for it.
            let is_asked = request.target.as_str().starts_with(PAGE_PATH);
            return if is_asked { page::login(status, "") } else { see_page(None) };
        }
        if path == "/login" && request.method == Method::POST {
            return match self.access.log_in(request, client, content) {
                Ok(cookie) => see_page(Some(cookie)),
                Err((status, text)) if wants_page => page::login(status, text),
                Err((status, text)) => Response::error(status, text, prefers_json),
            };
        }
        // Over TCP no content is at hand: with the token one can look and purge, but not plant responses.
        self.route(request, path, query, None)
    }

    fn route(
        &self,
        request: &Request,
        path: &str,
        query: &str,
        content: Option<&[u8]>,
    ) -> Response {
        let (query, prefers_json) = (Query::read(query), request.prefers_json());
        let is_get = request.method == Method::GET || request.method == Method::HEAD;
        // A GET must change nothing (RFC 9110 §9.2.1): browsers and scanners follow links.
        let changes = ["/purge", "/import", "/refresh", "/logout"].contains(&path);
        if changes && request.method != Method::POST || !changes && !is_get {
            let text = if changes { "expected POST" } else { "expected GET" };
            return Response::error(StatusCode::METHOD_NOT_ALLOWED, text, prefers_json);
        }
        if changes
            && request.client.is_some()
            && let Err((status, text)) = self.access.admit_change(request)
        {
            return Response::error(status, text, prefers_json);
        }
        if let Some(live) = self.live.as_ref().filter(|_| self.has_page)
            && let Some(answer) = self.page(request, live, path, &query)
        {
            return answer.unwrap_or_else(|wrong| refusal(wrong, prefers_json));
        }
        let answer = match path {
            "/" => Ok(text(HELP)),
            "/health" => Ok(text("ok\n")),
            "/info" => Ok(json_response(&self.info())),
            "/stats" => Ok(self.stats(&query)),
            "/metrics" => {
                Ok(text_as("text/plain; version=0.0.4", metrics::text(&self.proxy, &self.about)))
            }
            "/list" => self.list(&query),
            "/recent" => self.recent(&query),
            "/show" => self.show(&query),
            "/explain" => self.explain(&query),
            "/purge" => self.purge(&query),
            "/export" => Ok(self.export(&query)),
            "/import" => self.import(content),
            _ => Err((StatusCode::NOT_FOUND, format!("{path}: not known; GET / lists what is"))),
        };
        answer.unwrap_or_else(|wrong| refusal(wrong, prefers_json))
    }

    /// What belongs to the page; `None` if this does not.
    fn page(
        &self,
        request: &Request,
        live: &Live,
        path: &str,
        query: &Query,
    ) -> Option<Result<Response, Wrong>> {
        Some(match path {
            "/" if page::wants_page(request) => {
                let (token, has_login) = (self.access.page_token(), self.access.has_login());
                Ok(page::page(&self.proxy, (&self.about, live), token, has_login))
            }
            "/page.css" => Ok(page::style()),
            "/page.js" => Ok(page::script()),
            // A HEAD wants to know what there is, and reads nothing.
            "/events" if request.method == Method::GET => Ok(live.open()),
            "/history" => Ok(json_response(&live.plots())),
            "/table" => table::table(&self.proxy, query).map(|table| json_response(&table)),
            "/content" => shown::content(&self.proxy, query),
            "/refresh" => shown::refresh(&self.driver, query),
            "/logout" => {
                self.access.log_out(request);
                Ok(text("logged out\n"))
            }
            _ => return None,
        })
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
            return text(&metrics::summary(&self.proxy, &self.about));
        }
        json_response(&metrics::json(&self.proxy, &self.about, self.live.as_deref()))
    }

    fn list(&self, query: &Query) -> Result<Response, Wrong> {
        let most = query.number("most", PAGE_MAX)?;
        let page =
            self.proxy.cache().list(query.get("after").unwrap_or(""), most.clamp(1, PAGE_MAX));
        // One moment for all of them, or the ages of a page would not agree.
        let now = self.proxy.now();
        let page: Value = page.iter().map(|listed| listing::json(listed, now)).collect();
        Ok(json_response(&page))
    }

    fn recent(&self, query: &Query) -> Result<Response, Wrong> {
        let from = query.number("from", 0)?;
        Ok(json_response(&listing::requests(&self.proxy.stats().recent().since(from as u64))))
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
            return Ok(text(&texts.collect::<Vec<_>>().join("\n")));
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
        Ok(text(&explained))
    }

    fn purge(&self, query: &Query) -> Result<Response, Wrong> {
        let mut all = Purged::default();
        // A purge has one selector: of two, it would not be clear whether both must match.
        let (what, value) = query.only().ok_or_else(|| bad(format!("purge: {ONE_SELECTOR}")))?;
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
        let content =
            content.ok_or_else(|| bad("import: over the Unix socket only".to_string()))?;
        let entries = stream::list(content).map_err(|error| bad(error.to_string()))?;
        Ok(json_response(&import(&self.proxy, entries, Whose::OwnOrigin)))
    }
}

/// What a purge is told.
const ONE_SELECTOR: &str = "expected one of url, prefix, match, tag, stale, all, and one alone";

/// Reads what is to be purged: several selectors where one URL has several keys. The error says what is expected.
pub fn selectors(proxy: &Proxy, what: &str, value: &str) -> Result<Vec<Selector>, String> {
    match (what, value) {
        // Most often a variable of a script that is not set; it would select everything.
        ("url" | "prefix" | "match" | "tag", "") => {
            return Err(format!("purge: the {what} is empty; to purge everything, say all"));
        }
        ("stale" | "all", value) if value != "1" => {
            return Err(format!("purge: {what}={value}: expected {what}=1"));
        }
        _ => {}
    }
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
        "tag" => Selector::Tag(value.to_string()),
        "stale" => Selector::Stale,
        "all" => Selector::All,
        _ => return Err(format!("purge: {ONE_SELECTOR}")),
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

/// The path and the query of a target; the path without the page's own beginning.
fn split(target: &str) -> (&str, &str) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path.strip_prefix(PAGE_PATH) {
        // With its slash, of which the beginning ends in one.
        Some(_) => (&path[PAGE_PATH.len() - 1..], query),
        None => (path, query),
    }
}

/// Sends a browser to the page; `cookie` is set for it, if there is one.
fn see_page(cookie: Option<String>) -> Response {
    let mut response = text(&format!("see {PAGE_PATH}\n"));
    response.status = StatusCode::SEE_OTHER;
    response.fields.append(http::header::LOCATION, HeaderValue::from_static(PAGE_PATH));
    if let Some(cookie) = cookie {
        response.fields.set_text("set-cookie", cookie);
    }
    response
}

/// An answer that is no 200. What was asked for may be a part of it.
fn refusal((status, text): Wrong, prefers_json: bool) -> Response {
    Response::error(status, &visible_lines(&text), prefers_json)
}

/// An answer for people: nothing that clients or origin servers have sent can hide in it.
fn text(text: &str) -> Response {
    text_as("text/plain; charset=utf-8", visible_lines(text).into_owned())
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
