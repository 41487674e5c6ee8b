//! The engine: the only file where policy, store and origin server meet.
//!
//! A request goes through [`Proxy::lookup`], which never waits; what it cannot answer goes through
//! [`Proxy::join`], which never waits either and may say "another request is fetching this"; and
//! then through [`Proxy::forward`], which waits for the origin server. Bodies are stored by
//! `recording.rs`, when their last byte has come.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::clock::{Clock, Timestamp};
use crate::flight::{FlightKey, Flights, Landing, Leader, Parked, Seat, Turn};
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::{Request, RequestError};
use crate::message::response::Response;
use crate::message::target::{OriginUrl, is_loopback, split_authority};
use crate::origin::redirects::send_and_follow;
use crate::origin::{Content, Origin, OriginError, OriginRequest, OriginResponse};
use crate::policy::forwarding::{
    Told, add_response_fields, goes_in_circles, has_content, request_fields,
};
use crate::policy::key::CacheKey;
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::reuse::{Decision, Mode, Presented, ReuseRules, decide};
use crate::policy::rewriting::rewrite;
use crate::policy::stored::StoredResponse;
use crate::policy::storing::StoringRules;
use crate::policy::vary;
use crate::stats::{Event, Stats};
use crate::store::{Generation, Store, Variants};

mod absorb;
mod refusal;

/// How often one request waits for others before it asks for itself.
const WAITS_MAX: u8 = 2;

/// How the engine is to behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--origin`
    pub origin: OriginUrl,
    /// Host and port that the proxy listens on.
    pub own_authority: String,
    /// Who may reuse what.
    pub reuse: ReuseRules,
    /// What is stored.
    pub storing: StoringRules,
    /// `--follow-redirects`
    pub follow_redirects: bool,
    /// `--no-browser-cache`
    pub no_browser_cache: bool,
    /// `--preserve-host`
    pub preserve_host: bool,
}

/// The engine. One for all threads.
pub struct Proxy {
    settings: Settings,
    store: Arc<dyn Store>,
    origin: Arc<dyn Origin>,
    flights: Arc<Flights>,
    clock: Clock,
    stats: Arc<Stats>,
}

/// What [`Proxy::lookup`] found.
pub enum Answer {
    /// The response.
    Ready(Response),
    /// A stale response, and what fetches a new one in the background.
    Stale(Response, Box<Forward>),
    /// The origin server has to be asked.
    Forward(Box<Forward>),
}

/// What [`Proxy::join`] decided.
pub enum Admission {
    /// Go on with [`Proxy::forward`].
    Lead(Box<Forward>),
    /// Another request is fetching this: park.
    Wait(Waiting),
}

/// How often a request has waited for another's answer, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt {
    waits: u8,
    landing: Option<Landing>,
    why: Option<Why>,
}

impl Attempt {
    /// The same, after waiting once more.
    fn waiting(self, why: Why) -> Self {
        Self { waits: self.waits + 1, landing: None, why: Some(self.why.unwrap_or(why)) }
    }

    /// Has it not waited for anyone yet?
    pub fn is_first(&self) -> bool {
        self.waits == 0
    }
}

/// A request on its way to the origin server.
pub struct Forward {
    request: Arc<Request>,
    presented: Presented,
    key: CacheKey,
    /// The header section as the origin server gets it.
    sent: Fields,
    /// Fingerprint of the selecting header fields, where some are known.
    selecting: Vec<u8>,
    why: Why,
    detail: Option<Detail>,
    stale: Option<Arc<StoredResponse>>,
    /// What was stored at the time of the lookup.
    found: Option<Variants>,
    request_time: Timestamp,
    generation: Generation,
    attempt: Attempt,
    leader: Option<Leader>,
}

/// A request that waits for another's answer.
pub struct Waiting {
    seat: Seat,
    attempt: Attempt,
}

impl Waiting {
    /// Parks the request: `resume` is called, on some other thread or in this very call, with what
    /// [`Proxy::lookup`] is to be given then. It must not block.
    pub fn park(self, resume: Box<dyn FnOnce(Attempt) + Send>) {
        let mut attempt = self.attempt;
        let parked: Parked = Box::new(move |landing| {
            attempt.landing = Some(landing);
            resume(attempt);
        });
        self.seat.park(parked);
    }
}

impl Proxy {
    /// Puts an engine together.
    pub fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        origin: Arc<dyn Origin>,
        clock: Clock,
        stats: Arc<Stats>,
    ) -> Self {
        Self { settings, store, origin, flights: Arc::default(), clock, stats }
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Removes what is of no more use (`--cache-clean-interval`).
    pub fn sweep(&self) {
        if self.settings.reuse.mode != Mode::Offline {
            let swept = self.store.sweep(self.clock.now());
            self.stats.count_swept(swept);
            if swept > 0 {
                log::debug!("timer: {swept} removed");
            }
        }
    }

    /// Sends those who have waited longer than `most` for another's answer to the origin server.
    pub fn release_the_patient(&self, most: Duration) {
        self.flights.expire(most);
    }

    /// Answers from the cache, or says what to ask the origin server. Never waits.
    pub fn lookup(&self, request: &Arc<Request>, attempt: Attempt) -> Answer {
        if attempt.waits == 0 {
            self.stats.count(Event::Request);
        }
        if request.target.escapes(&self.settings.origin) {
            return Answer::Ready(self.refuse(request, &RequestError::Escapes));
        }
        if goes_in_circles(request) {
            let text = "via: this request has come back to the proxy again and again; see --origin";
            let status = CacheStatus { detail: Some(Detail::Loop), ..CacheStatus::default() };
            return Answer::Ready(self.error(StatusCode::BAD_GATEWAY, request, text, status));
        }
        let now = self.clock.now();
        let presented = Presented::read(request);
        let host = self.passed_on_host(request);
        let key = CacheKey::new(&self.settings.origin, host, &request.target);
        let variants = if presented.get || presented.head { self.store.get(&key) } else { None };
        let mut sent = None;
        let selected = variants.as_ref().and_then(|variants| {
            let fits = |stored: &&Arc<StoredResponse>| {
                stored.selecting.is_empty()
                    || vary::matches(stored, sent.get_or_insert_with(|| self.sent_fields(request)))
            };
            variants.iter().find(fits).cloned()
        });
        let rules = &self.settings.reuse;
        match decide(&presented, selected, variants.is_some(), now, rules) {
            Decision::Reuse(stored) => {
                if rules.reuses_max.is_none_or(|most| stored.count_reuse(most)) {
                    return Answer::Ready(self.reuse(request, &key, &stored, now, attempt, None));
                }
                let detail = Some(Detail::HitTtl);
                let found =
                    Found { key, sent, variants, why: Why::Stale, detail, stale: Some(stored) };
                Answer::Forward(self.prepare(request, presented, found, now, attempt))
            }
            Decision::ReuseStale { stored, detail, refresh } => {
                self.stats.count(Event::Stale);
                let response = self.reuse(request, &key, &stored, now, attempt, Some(detail));
                if !refresh || !presented.collapses() {
                    return Answer::Ready(response);
                }
                let why = Why::Stale;
                let found = Found { key, sent, variants, why, detail: None, stale: Some(stored) };
                Answer::Stale(response, self.prepare(request, presented, found, now, attempt))
            }
            Decision::Forward { why, detail, stale } => {
                let found = Found { key, sent, variants, why, detail, stale };
                Answer::Forward(self.prepare(request, presented, found, now, attempt))
            }
            Decision::Refuse(detail) => {
                Answer::Ready(self.refuse_forwarding(request, &key, detail))
            }
        }
    }

    /// Decides whether a request asks the origin server itself or waits for another that does.
    /// Never waits.
    pub fn join(&self, mut forward: Box<Forward>) -> Admission {
        let attempt = forward.attempt;
        let waits = forward.presented.collapses()
            && !self.settings.reuse.disabled
            && attempt.waits < WAITS_MAX
            && attempt.landing != Some(Landing::Unshareable);
        if !waits {
            return Admission::Lead(forward);
        }
        let selecting = std::mem::take(&mut forward.selecting);
        match self.flights.join(FlightKey { key: forward.key.clone(), selecting }) {
            Turn::Lead(leader) if self.has_changed(&forward) => {
                // Between our lookup and now, the leader before us has landed.
                let attempt = attempt.waiting(forward.why);
                Admission::Wait(Waiting { seat: leader.step_back(), attempt })
            }
            Turn::Lead(leader) => {
                forward.leader = Some(leader);
                Admission::Lead(forward)
            }
            Turn::Alone => {
                forward.detail.get_or_insert(Detail::HitForMiss);
                Admission::Lead(forward)
            }
            Turn::Wait(seat) => {
                Admission::Wait(Waiting { seat, attempt: attempt.waiting(forward.why) })
            }
        }
    }

    /// Has something been stored for this target URI since the lookup?
    fn has_changed(&self, forward: &Forward) -> bool {
        match (self.store.get(&forward.key), &forward.found) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(now), Some(then)) => !Arc::ptr_eq(&now, then),
        }
    }

    /// Asks the origin server and waits for the head of its response.
    pub fn forward(&self, mut forward: Box<Forward>, content: Content<'_>) -> Response {
        self.stats.count(Event::Forwarded(forward.why));
        match self.ask(&forward, content) {
            Ok(received) => self.absorb(forward, received),
            Err(OriginError::Content(source)) => {
                log::info!("{}: client's content: {source}", forward.key);
                self.refuse(&forward.request, &RequestError::ContentCut)
            }
            Err(error) => {
                self.stats.count(Event::OriginError);
                log::warn!("{} {}: {error}", forward.request.method, forward.key);
                if let Some(response) = self.stand_in(&mut forward, None) {
                    return response;
                }
                let status = CacheStatus {
                    why: Some(forward.why),
                    detail: Some(error.detail()),
                    ..CacheStatus::default()
                };
                self.error(error.status(), &forward.request, &error.to_string(), status)
            }
        }
    }

    /// The client's host, where it is passed on and so is part of the key (`--preserve-host`).
    fn passed_on_host<'a>(&self, request: &'a Request) -> Option<&'a str> {
        if self.settings.preserve_host { request.authority() } else { None }
    }

    fn sent_fields(&self, request: &Request) -> Fields {
        let client = request.client.map(|client| client.ip());
        request_fields(request, Told { client, host: self.told_host(request) })
    }

    /// What the origin server is told about the host that the client asked.
    ///
    /// The cache key does not hold that host (but under `--preserve-host`), so the origin server
    /// must not learn it from the client: it would be written into what others are given. It is the
    /// client's own word only where it names this machine and our port.
    fn told_host<'a>(&'a self, request: &'a Request) -> &'a str {
        let own = self.settings.own_authority.as_str();
        let Some(authority) = request.authority() else { return own };
        if self.settings.preserve_host {
            return authority;
        }
        let port = split_authority(own).and_then(|(_, port)| port);
        match split_authority(authority) {
            Some((host, named)) if is_loopback(&host) && named == port => authority,
            _ => own,
        }
    }

    fn prepare(
        &self,
        request: &Arc<Request>,
        presented: Presented,
        found: Found,
        now: Timestamp,
        attempt: Attempt,
    ) -> Box<Forward> {
        let sent = found.sent.unwrap_or_else(|| self.sent_fields(request));
        // The most recent response tells which fields select; the next one will name the same.
        let newest = found.variants.as_ref().and_then(|variants| variants.first());
        let selecting = newest
            .map(|stored| stored.selecting.of_request(&sent).fingerprint())
            .unwrap_or_default();
        Box::new(Forward {
            request: Arc::clone(request),
            presented,
            key: found.key,
            sent,
            selecting,
            why: found.why,
            detail: found.detail,
            stale: found.stale,
            found: found.variants,
            request_time: now,
            generation: self.store.generation(),
            attempt,
            leader: None,
        })
    }

    /// Answers from a stored response (§4).
    fn reuse(
        &self,
        request: &Request,
        key: &CacheKey,
        stored: &Arc<StoredResponse>,
        now: Timestamp,
        attempt: Attempt,
        detail: Option<Detail>,
    ) -> Response {
        self.store.touch(key, stored);
        self.stats.count(Event::Hit);
        let waited_for = attempt.why.filter(|_| attempt.landing == Some(Landing::Stored));
        if waited_for.is_some() {
            self.stats.count(Event::Collapsed);
        }
        let status = CacheStatus {
            hit: waited_for.is_none(),
            why: waited_for,
            freshness_left: stored.freshness_left(now),
            collapsed: waited_for.is_some(),
            detail,
            ..CacheStatus::default()
        };
        self.respond_with(request, stored, now, &status)
    }

    fn respond_with(
        &self,
        request: &Request,
        stored: &StoredResponse,
        now: Timestamp,
        status: &CacheStatus,
    ) -> Response {
        let mut fields = stored.fields.clone();
        self.finish(request, &mut fields);
        add_response_fields(&mut fields, Some(stored.current_age(now).0), true, status);
        let length = has_content(stored.status).then_some(stored.content.len() as u64);
        let body = if request.method == Method::HEAD || length.is_none() {
            Body::None { length }
        } else {
            Body::Whole(stored.content.clone())
        };
        Response { status: stored.status, fields, body }
    }

    /// What is done to every response on its way out.
    fn finish(&self, request: &Request, fields: &mut Fields) {
        rewrite(fields, &self.settings.origin, request.authority());
        if self.settings.no_browser_cache {
            fields.remove("expires");
            fields.set_text("cache-control", "no-store".to_string());
        }
    }

    /// Sends the request, and follows redirects where the operator wants it.
    fn ask(&self, forward: &Forward, content: Content<'_>) -> Result<OriginResponse, OriginError> {
        let Forward { request, sent, .. } = forward;
        let method = &request.method;
        let url = request.target.url_at(&self.settings.origin);
        let host = self.passed_on_host(request);
        let asked = OriginRequest { method, url: &url, host, fields: sent, content };
        let follows =
            self.settings.follow_redirects && matches!(*method, Method::GET | Method::HEAD);
        if !follows {
            self.stats.count(Event::OriginRequest);
            return self.origin.send(asked);
        }
        send_and_follow(&*self.origin, asked, || self.stats.count(Event::OriginRequest))
    }
}

/// What a lookup that ends in forwarding has found out.
struct Found {
    key: CacheKey,
    sent: Option<Fields>,
    variants: Option<Variants>,
    why: Why,
    detail: Option<Detail>,
    stale: Option<Arc<StoredResponse>>,
}

/// Reads a field as text for the log; what is no text is left out.
pub fn field_text<'a>(fields: &'a Fields, name: &'a str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
