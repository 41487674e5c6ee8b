//! `proxy explain`: one request, made as the proxy would make it, and everything that decided about
//! its response.
//!
//! The origin server is asked, but nothing else is changed: the request is made by an engine of its own that has
//! the proxy's settings and origin server, counters and collapsed requests of its own, and a store whose changes
//! nobody else sees. So there is no way on which an explained request could count as a reuse, or be stored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::StatusCode;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::percent::normalised;
use crate::message::request::Request;
use crate::origin::{OriginBody, OriginError, OriginResponse, RequestContent};
use crate::policy::age::corrected_initial_age;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::credentials::REDACTED;
use crate::policy::forwarded::Believed;
use crate::policy::forwarding::{complete_received, strip_received};
use crate::policy::freshness::freshness_lifetime;
use crate::policy::key::{CacheKey, KeyRules};
use crate::policy::range::Part;
use crate::policy::stored::StoredResponse;
use crate::policy::storing::{Check, Received, checks};
use crate::proxy::freshen::facts;
use crate::proxy::steps::Recall;
use crate::proxy::{Admission, Answer, Attempt, Forward, Proxy, field_text};
use crate::stats::Stats;
use crate::store::cache::Cache;

/// What became of one request.
pub struct Explanation {
    /// What stored responses are found by.
    pub key: String,
    /// What was believed of who asks, and for which URL.
    pub believed: Believed,
    /// The flags that have shaped it, where they have.
    pub shaped_by: Option<String>,
    /// What the origin server was asked for.
    pub url: String,
    /// The fields it was sent, without Host.
    pub sent: Fields,
    /// What it answered, or why it did not.
    pub received: Result<Explained, OriginError>,
    /// What the client is told in `Cache-Status`.
    pub told: String,
}

/// A response, and what was decided about it.
pub struct Explained {
    /// Its status.
    pub status: u16,
    /// Its fields as they came, without hop-by-hop ones.
    pub fields: Fields,
    /// Bytes of content, or how reading it failed.
    pub content: Result<u64, String>,
    /// The rules about storing it.
    pub checks: Vec<Check>,
    /// Its freshness lifetime, and where that comes from.
    pub lifetime: (crate::policy::freshness::Lifetime, &'static str),
    /// Its age on arrival, in seconds.
    pub age: u32,
    /// What would be stored, if it would be.
    pub stored: Option<Arc<StoredResponse>>,
    /// What `Cache-Status` would say to the same request after this one.
    pub again: String,
}

/// An answer for which the origin server was not asked: its status, and what `Cache-Status` says.
pub type Unasked = (StatusCode, String);

impl Proxy {
    /// Makes one request and tells what would become of it. An answer that needs no origin server
    /// (`only-if-cached`, `--cache-mode offline`) is the error. Waits.
    pub fn explain(&self, request: &Arc<Request>) -> Result<Explanation, Unasked> {
        let key = self.asked(request).key;
        let apart = self.apart(&key);
        let answer = match apart.lookup(request, Attempt::default()) {
            // As on the way to the origin server: what memory cannot answer may be behind it.
            Answer::Forward(forward) => match apart.recall(forward) {
                Recall::GoOn(forward) => Answer::Forward(forward),
                Recall::Done(forwarded) => Answer::Ready(forwarded.response),
            },
            answer => answer,
        };
        apart.go_on_explaining(request, answer, self.store.has_backing())
    }

    /// An engine that goes on as this one does, over a cache of its own for `key`.
    fn apart(&self, key: &CacheKey) -> Self {
        Self {
            settings: self.settings.clone(),
            store: Arc::new(Cache::apart(&self.store, key)),
            origin: Arc::clone(&self.origin),
            flights: Arc::default(),
            clock: self.clock.clone(),
            stats: Arc::<Stats>::default(),
            key_prefix: self.key_prefix.clone(),
            plain: self.plain,
            // Whoever reads the explanation is told; it is no news for the log.
            told_of_credentials: AtomicBool::new(true),
            own_salt: Arc::clone(&self.own_salt),
        }
    }

    fn go_on_explaining(
        &self,
        request: &Arc<Request>,
        answer: Answer,
        has_backing: bool,
    ) -> Result<Explanation, Unasked> {
        let forward = match answer {
            Answer::Forward(forward) => forward,
            Answer::Ready(response) | Answer::Stale(response, _) => {
                let told = field_text(&response.fields, "cache-status");
                return Err((response.status, told.to_string()));
            }
        };
        let (key, url) = (forward.key.to_string(), forward.url.clone());
        let mut sent = forward.sent.clone();
        if self.settings.origin_authorization.is_some() {
            // The operator's own, from `--origin`: who asks for an explanation has not sent it.
            sent.set_text("authorization", REDACTED.to_string());
        }
        let believed = self.believed(request);
        let target = request.target.as_str();
        let shaped_by = (self.settings.key.shape(target) != target)
            .then(|| format!("{target}, shaped by {}", shapers(target, &self.settings.key)));
        let (received, told) = match self.ask(&forward, RequestContent::None, None) {
            Ok(received) => {
                let (explained, told) = self.explained(request, forward, received, has_backing);
                (Ok(explained), told)
            }
            Err(error) => {
                let (why, detail) = (forward.why.as_str(), error.detail().as_str());
                let told = format!("proxy; fwd={why}; detail={detail}");
                (Err(error), told)
            }
        };
        Ok(Explanation { key, believed, shaped_by, url, sent, received, told })
    }

    /// What is made of a response, and what `Cache-Status` says of it.
    fn explained(
        &self,
        request: &Arc<Request>,
        forward: Box<Forward>,
        mut received: OriginResponse,
        has_backing: bool,
    ) -> (Explained, String) {
        let now = self.now();
        let mut fields = received.fields.clone();
        complete_received(&mut fields, received.version, now);
        let facts = Received {
            fields: &fields,
            part: Part::of_response(received.status, &fields),
            leads_nowhere: self.leads_nowhere(request, received.status, &fields),
            ..facts(&forward, &received, now)
        };
        let rules = &self.settings.storing;
        let checks = checks(&forward.presented, &facts, rules);
        let directives = ResponseDirectives::read(&fields);
        let lifetime =
            freshness_lifetime(received.status, &fields, &directives, now, rules.freshness);
        let source = source_of(lifetime, &fields, &directives, rules.freshness.cache_ttl.is_some());
        let age = corrected_initial_age(&fields, forward.request_time, now).0;
        strip_received(&mut fields);
        let (cache_key, status) = (forward.key.clone(), received.status.as_u16());
        let read = if has_backing { without_content(&mut received, &self.store) } else { None };
        let mut response = self.absorb(forward, received).into_response();
        let told = field_text(&response.fields, "cache-status").to_string();
        let content = read.unwrap_or_else(|| read_all(&mut response.body));
        let stored = self.store.look_at(cache_key.as_str()).and_then(|all| all.first().cloned());
        let explained = Explained {
            status,
            fields,
            content,
            checks,
            lifetime: (lifetime, source),
            age,
            stored,
            again: self.told_again(request),
        };
        (explained, told)
    }

    /// What `Cache-Status` would say to the same request next. Nothing is asked for.
    fn told_again(&self, request: &Arc<Request>) -> String {
        let forward = match self.lookup(request, Attempt::default()) {
            Answer::Ready(response) | Answer::Stale(response, _) => {
                return field_text(&response.fields, "cache-status").to_string();
            }
            Answer::Forward(forward) => forward,
        };
        let detail = forward.detail.map_or("", |detail| detail.as_str());
        let told = format!("proxy; fwd={}; detail={detail}", forward.why.as_str());
        if let Admission::Lead(forward) = self.join(forward) {
            drop(forward);
        }
        told.trim_end_matches("; detail=").to_string()
    }
}

/// What has given a target the form in which it is looked up.
fn shapers(target: &str, rules: &KeyRules) -> String {
    let flags = rules.to_string();
    if normalised(target) == target {
        return flags;
    }
    let spelling = "one spelling for what means the same (RFC 9110 §4.2.3)";
    if rules.is_plain() { spelling.to_string() } else { format!("{spelling}, {flags}") }
}

/// Where a freshness lifetime comes from.
fn source_of(
    lifetime: crate::policy::freshness::Lifetime,
    fields: &Fields,
    directives: &ResponseDirectives,
    cache_ttl: bool,
) -> &'static str {
    use crate::policy::freshness::Lifetime;
    match lifetime {
        Lifetime::Explicit(_) if directives.targeted => "CDN-Cache-Control (RFC 9213)",
        Lifetime::Explicit(_) if directives.s_maxage.is_some() => "s-maxage (RFC 9111 §5.2.2.10)",
        Lifetime::Explicit(_) if directives.max_age.is_some() => "max-age (RFC 9111 §5.2.2.1)",
        Lifetime::Explicit(_) if fields.contains("date") => "Expires minus Date (RFC 9111 §5.3)",
        Lifetime::Explicit(_) => "Expires minus the time it came (RFC 9111 §5.3)",
        Lifetime::Operator(_) if cache_ttl => "not stated; --cache-ttl",
        Lifetime::Operator(_) => "not stated; --default-ttl",
        Lifetime::Heuristic(_) => {
            "not stated; a tenth of Date minus Last-Modified (RFC 9111 §4.2.2)"
        }
        Lifetime::Unknown => "not stated, and nothing to guess from",
    }
}

/// Content that memory has no room for would be stored behind it. There is nothing behind the store of an
/// explanation, so the content is read here and let go of, and what is stored stands for it. The bytes that have
/// come, or how reading them failed; `None` for content that goes the usual way.
fn without_content(received: &mut OriginResponse, store: &Cache) -> Option<Result<u64, String>> {
    let goes_behind = received.status != StatusCode::PARTIAL_CONTENT
        && received.length.is_none_or(|length| length > store.memory_content_bytes_max());
    let mut body = received.body.take_if(|_| goes_behind)?;
    let read = count_all(|buffer| body.read(buffer));
    if let Ok(bytes) = read {
        received.length = Some(if bytes > store.content_bytes_max() { bytes } else { 0 });
    } else {
        received.length = None;
        received.body = Some(Box::new(CutShort));
    }
    Some(read)
}

/// The rest of content that was cut short.
struct CutShort;

impl OriginBody for CutShort {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn read_all(body: &mut Body) -> Result<u64, String> {
    match body {
        Body::None { .. } => Ok(0),
        Body::Whole(bytes) => Ok(bytes.len() as u64),
        Body::Growing(_) => Err("still growing".to_string()),
        Body::Arriving(body) => count_all(|buffer| body.read(buffer)),
    }
}

fn count_all(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Result<u64, String> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => total += count as u64,
            Err(error) => return Err(format!("cut short after {total} bytes: {error}")),
        }
    }
}
