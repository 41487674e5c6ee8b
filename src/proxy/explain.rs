//! `proxy explain`: one request, made as the proxy would make it, and everything that decided about
//! its response.
//!
//! The origin server is asked, but nothing else is changed: the request is made by an engine of its own that has
//! the proxy's settings and origin server, counters and collapsed requests of its own, and a store whose changes
//! nobody else sees. So there is no way on which an explained request could count as a reuse, or be stored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::StatusCode;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::percent::normalised;
use crate::message::request::Request;
use crate::origin::{OriginBody, OriginError, OriginHead, OriginResponse, RequestContent};
use crate::policy::age::corrected_initial_age;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::credentials::REDACTED;
use crate::policy::forwarded::Believed;
use crate::policy::forwarding::{complete_received, strip_received};
use crate::policy::freshness::{Lifetime, freshness_lifetime};
use crate::policy::key::KeyRules;
use crate::policy::range::Part;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::stored::StoredResponse;
use crate::policy::storing::{Check, Received, checks};
use crate::proxy::Proxy;
use crate::proxy::blocking::{BlockingDriver, Watch};
use crate::proxy::freshen::facts;
use crate::proxy::next::{Answer, Attempt, Next, Recall};
use crate::proxy::plan::Fetch;
use crate::stats::Stats;
use crate::store::cache::Cache;

/// One request, and everything that decided about its response.
pub struct Explanation {
    /// What stored responses are found by.
    pub key: String,
    /// The client, scheme and host that were believed (`--trust-forwarded`).
    pub believed: Believed,
    /// The target as it was asked for, and the flags that have shaped it; `None` where it is as it was asked for.
    pub shaped_by: Option<String>,
    /// What the origin server was asked for.
    pub url: String,
    /// The fields it was sent, without Host.
    pub sent: Fields,
    /// The origin server's response, or why there is none.
    pub received: Result<Explained, Unanswered>,
    /// What `Cache-Status` says to the client.
    pub cache_status: CacheStatus,
}

/// Why the origin server gave no response.
#[derive(Debug)]
pub struct Unanswered {
    /// In words.
    pub text: String,
    /// As `Cache-Status` says it.
    pub detail: Detail,
}

impl Unanswered {
    fn of(error: &OriginError) -> Self {
        Self { text: error.to_string(), detail: error.detail() }
    }
}

/// A response, and what was decided about it.
pub struct Explained {
    /// What the rules say about it.
    pub judged: Judged,
    /// Bytes of content, or how reading it failed.
    pub content: Result<u64, String>,
    /// What would be stored; `None` if nothing would be.
    pub stored: Option<Arc<StoredResponse>>,
    /// What `Cache-Status` would say to the same request next.
    pub again: CacheStatus,
}

/// What the rules say about a response.
pub struct Judged {
    /// Its status.
    pub status: u16,
    /// Its fields as they came, without hop-by-hop ones.
    pub fields: Fields,
    /// The rules about storing it.
    pub checks: Vec<Check>,
    /// Its freshness lifetime, and where that comes from.
    pub lifetime: (Lifetime, &'static str),
    /// `--cache-ttl`, from which nothing is reused later.
    pub cache_ttl: Option<Duration>,
    /// Its age on arrival, in seconds.
    pub age: u32,
}

/// An answer for which the origin server was not asked: its status, and what `Cache-Status` says.
pub type Unasked = (StatusCode, CacheStatus);

impl BlockingDriver {
    /// Makes one request and tells what would become of it. An answer that needs no origin server
    /// (`only-if-cached`, `--cache-mode offline`) is the error. Waits.
    pub fn explain(&self, request: &Arc<Request>) -> Result<Explanation, Unasked> {
        let apart = Arc::new(self.proxy().apart(request));
        // The steps of the driver, up to the fetch, which is watched.
        let mut next = apart.ask(request, Attempt::First);
        let fetch = loop {
            next = match next {
                Next::Recall(recall) => apart.recall(*recall),
                Next::Fetch(fetch) => break fetch,
                Next::Answer(Answer { response, .. }) => {
                    return Err((response.status, response.cache_status));
                }
                Next::Follow(_) => unreachable!("an explained request is alone in its engine"),
            }
        };
        let below = self.proxy().cache();
        Ok(self.over(apart).explain_fetch(request, fetch, below))
    }

    fn explain_fetch(
        &self,
        request: &Arc<Request>,
        fetch: Box<Fetch>,
        below: &Cache,
    ) -> Explanation {
        let proxy = self.proxy();
        // All of this before the fetch is carried out, which consumes it.
        let question = &fetch.forward.question;
        let (key, url) = (question.key.clone(), proxy.url(question));
        let mut sent = (**proxy.sent(question)).clone();
        if proxy.settings.origin_authorization.is_some() {
            // The operator's own, from `--origin`: the operator who asks has not sent it.
            sent.set_text("authorization", REDACTED.to_string());
        }
        let believed = proxy.settings.believed(request);
        let target = request.target.as_str();
        let shaped_by = (proxy.settings.key.shape(target) != target)
            .then(|| format!("{target}, shaped by {}", shapers(target, &proxy.settings.key)));
        let (mut seen, mut read) = (None, None);
        let watch: Watch<'_> = &mut |fetch, answer| {
            // The last answer stays: where a plan was of no use, another one is sent, and its answer
            // decides.
            seen = Some(match answer {
                Ok(response) => {
                    if let Some(Err(error)) = proxy.redirected(fetch, &response.head) {
                        // This one leads on, and is followed no further: so there is no response.
                        Err(Unanswered::of(&error))
                    } else {
                        let judged = proxy.judged(fetch, &response.head);
                        read = without_content(response, below);
                        Ok(judged)
                    }
                }
                Err(error) => Err(Unanswered::of(error)),
            });
        };
        let mut response = self.fetch(fetch, RequestContent::None, None, watch).into_response();
        let cache_status = response.cache_status;
        // `fetch` sends at least once, and shows each answer to `watch`.
        let received = seen.expect("the origin server is asked").map(|judged| {
            // What was read past the engine says all about its content, and the rest of that never comes.
            let content = read.unwrap_or_else(|| read_all(&mut response.body));
            // What is asked next must find the fetch over.
            drop(response);
            let stored = proxy.cache.look(&key).variants().first().cloned();
            Explained { judged, content, stored, again: proxy.next_cache_status(request) }
        });
        Explanation { key: key.to_string(), believed, shaped_by, url, sent, received, cache_status }
    }
}

impl Proxy {
    /// An engine that goes on as this one does, over a cache whose changes nobody sees.
    fn apart(&self, request: &Arc<Request>) -> Self {
        let key = self.question(request).key;
        Self {
            settings: self.settings.clone(),
            // Flights and counters of its own as well: the request neither joins others nor leads them,
            // and is counted nowhere.
            cache: Arc::new(Cache::apart(&self.cache, &key)),
            flights: Arc::default(),
            clock: self.clock.clone(),
            stats: Arc::<Stats>::default(),
            plain: self.plain,
            // The explanation says it; the log need not.
            logged_credentials: AtomicBool::new(true),
            own_salt: Arc::clone(&self.own_salt),
            wide: Arc::clone(&self.wide),
        }
    }

    /// What the rules say about a response that has come.
    fn judged(&self, fetch: &Fetch, head: &OriginHead) -> Judged {
        let now = self.now();
        let question = &fetch.forward.question;
        let mut fields = head.fields.clone();
        complete_received(&mut fields, head.version, now);
        let facts = Received {
            fields: &fields,
            part: Part::of_response(head.status, &fields),
            leads_nowhere: self.settings.leads_nowhere(&question.request, head.status, &fields),
            ..facts(&fetch.forward, head, now)
        };
        let rules = &self.settings.storing;
        let checks = checks(&question.presented, &facts, rules);
        let directives = ResponseDirectives::read(&fields);
        let lifetime = freshness_lifetime(head.status, &fields, &directives, now, rules.freshness);
        let cache_ttl = rules.freshness.cache_ttl;
        let source = source_of(lifetime, &fields, &directives, cache_ttl.is_some());
        let age = corrected_initial_age(&fields, question.request_time, now).0;
        strip_received(&mut fields);
        let (status, lifetime) = (head.status.as_u16(), (lifetime, source));
        Judged { status, fields, checks, lifetime, cache_ttl, age }
    }

    /// What `Cache-Status` would say to the same request next. Nothing is asked for.
    fn next_cache_status(&self, request: &Arc<Request>) -> CacheStatus {
        // Asked of the same engine, whose cache has what the first request would have stored.
        match self.ask(request, Attempt::First) {
            Next::Answer(Answer { response, .. }) => response.cache_status,
            Next::Fetch(fetch) => cache_status_before_the_answer(&fetch),
            Next::Recall(recall) => match *recall {
                Recall::BeforeFetch(fetch) | Recall::Underway { otherwise: fetch, .. } => {
                    cache_status_before_the_answer(&fetch)
                }
                Recall::BeforeRefusal { detail, .. } => {
                    CacheStatus { detail: Some(detail), ..CacheStatus::default() }
                }
            },
            Next::Follow(_) => unreachable!("an explained request is alone in its engine"),
        }
    }
}

/// What `Cache-Status` would say, as far as that is known before the origin server answers. That nobody would
/// follow is not: it says less than why the response is not stored, which is said instead.
fn cache_status_before_the_answer(fetch: &Fetch) -> CacheStatus {
    let status = fetch.forward.cache_status();
    CacheStatus { detail: status.detail.filter(|detail| *detail != Detail::HitForMiss), ..status }
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
    lifetime: Lifetime,
    fields: &Fields,
    directives: &ResponseDirectives,
    cache_ttl: bool,
) -> &'static str {
    match lifetime {
        // In the order in which `freshness_lifetime` looks for them (RFC 9111 §4.2.1).
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
fn without_content(received: &mut OriginResponse, below: &Cache) -> Option<Result<u64, String>> {
    let OriginResponse { head, body } = received;
    let goes_behind = below.has_backing()
        && head.status != StatusCode::PARTIAL_CONTENT
        && head.length.is_none_or(|length| length > below.memory_content_bytes_max());
    let mut whole = body.take_if(|_| goes_behind)?;
    let read = count_all(|buffer| whole.read(buffer));
    if let Ok(bytes) = read {
        // Too large for every store, it is refused by its length; else an empty body stands for it.
        head.length = Some(if bytes > below.content_bytes_max() { bytes } else { 0 });
    } else {
        head.length = None;
        *body = Some(Box::new(NeverComes));
    }
    Some(read)
}

/// The rest of content that was cut short.
struct NeverComes;

impl OriginBody for NeverComes {
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
