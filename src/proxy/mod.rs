//! The engine: the only file where policy, store and origin server meet.
//!
//! A request goes through [`Proxy::lookup`], which never waits; what it cannot answer goes through
//! [`Proxy::join`], which never waits either and may say "another request is fetching this"; and
//! then through [`Proxy::forward`], which waits for the origin server. Bodies are stored by
//! `fill`, when their last byte has come.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderValue, Method};

use crate::clock::{Clock, Timestamp};
use crate::message::fields::Fields;
use crate::message::network::Network;
use crate::message::request::{Request, RequestError, RequestLimits};
use crate::message::response::Response;
use crate::message::target::{OriginUrl, PublicUrl, url_at};
use crate::origin::blocking::redirects::send_and_follow;
use crate::origin::{Interim, Origin, OriginError, OriginRequest, OriginResponse, RequestContent};
use crate::policy::digest::Salt;
use crate::policy::forwarding::{goes_in_circles, max_forwards};
use crate::policy::key::{CacheKey, KeyRules};
use crate::policy::reason::{Detail, Why};
use crate::policy::reuse::{Decision, Mode, Presented, ReuseRules};
use crate::policy::selection::{Lacking, Sought, select};
use crate::policy::stored::StoredResponse;
use crate::policy::storing::StoringRules;
use crate::policy::validation::{
    ask_for_rest, has_validator, make_conditional, make_own, make_unconditional,
};
use crate::policy::vary::Sent;
use crate::proxy::collapse::{Flights, Landing, Turn};
use crate::proxy::steps::{Asking, Recall, Recollection};
use crate::stats::{Counter, Stats};
use crate::store::cache::Cache;
use crate::store::tiers::FetchClaim;
use crate::store::underway::Begun;
use crate::store::{Variants, salt};

mod answer;
pub mod archive;
pub mod collapse;
mod decision;
mod destination;
pub mod explain;
mod fast_path;
pub mod fill;
mod freshen;
mod operate;
mod receive;
mod refuse;
mod second_tier;
mod site;
mod steps;
mod upgrade;

pub use fast_path::{FastHit, Plain};
pub use steps::{Admission, Answer, Attempt, Forward, Forwarded, Waiting};
pub use upgrade::{Upgraded, protocols};

/// How often one request waits for others before it asks for itself.
const WAITS_MAX: u8 = 2;

/// How the engine is to behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--origin`
    pub origin: OriginUrl,
    /// `user:password@` of `--origin`: the `Authorization` of every request, in place of the client's.
    pub origin_authorization: Option<HeaderValue>,
    /// Host and port that the proxy listens on.
    pub own_authority: String,
    /// Who may reuse what.
    pub reuse: ReuseRules,
    /// What is stored.
    pub storing: StoringRules,
    /// Which differences of the query do not matter.
    pub key: KeyRules,
    /// `--follow-redirects`
    pub follow_redirects: bool,
    /// `--no-browser-cache`
    pub no_browser_cache: bool,
    /// `--preserve-host`
    pub preserve_host: bool,
    /// `--public-url`
    pub public_url: Option<PublicUrl>,
    /// `--trust-forwarded`: whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: Vec<Network>,
    /// How large a request may be.
    pub limits: RequestLimits,
    /// `--allow-purge`: from where a PURGE is taken; if from nowhere, it is the origin server's.
    pub purgers: Vec<Network>,
}

impl Settings {
    /// Is there nothing among them that the fast path does not heed?
    fn are_plain(&self) -> bool {
        let reuse = &self.reuse;
        reuse.mode == Mode::Standard
            && !reuse.disabled
            && reuse.reuses_max.is_none()
            && self.key.is_plain()
            && !self.preserve_host
            // What is believed of scheme and host is in the key, unless --public-url outranks it.
            && (self.trusted.is_empty() || self.public_url.is_some())
    }
}

/// The engine. One for all threads.
pub struct Proxy {
    settings: Settings,
    store: Arc<Cache>,
    origin: Arc<dyn Origin>,
    flights: Arc<Flights>,
    clock: Clock,
    stats: Arc<Stats>,
    /// What cache keys begin with.
    key_prefix: String,
    /// The settings are such that the fast path sees all that matters.
    plain: bool,
    /// The log has said that credentials kept a response from being stored.
    told_of_credentials: AtomicBool,
    /// What digests of credentials are keyed with, where memory is all there is.
    own_salt: Arc<Salt>,
}

impl Proxy {
    /// Puts an engine together.
    pub fn new(
        settings: Settings,
        store: Arc<Cache>,
        origin: Arc<dyn Origin>,
        clock: Clock,
        stats: Arc<Stats>,
    ) -> Self {
        let (key_prefix, plain) = (CacheKey::prefix(&settings.origin), settings.are_plain());
        let (flights, told_of_credentials) = (Arc::default(), AtomicBool::new(false));
        Self {
            settings,
            store,
            origin,
            flights,
            clock,
            stats,
            key_prefix,
            plain,
            told_of_credentials,
            own_salt: Arc::new(salt::random()),
        }
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Who may reuse what.
    pub fn reuse_rules(&self) -> ReuseRules {
        self.settings.reuse
    }

    /// The cache.
    pub fn store(&self) -> &Arc<Cache> {
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

    /// Sends requests that have been parked for longer than `most` to the origin server.
    pub fn expire_parked(&self, most: Duration) {
        self.flights.expire(most);
    }

    /// Answers from the cache, or says what to ask the origin server. Never waits.
    pub fn lookup(&self, request: &Arc<Request>, mut attempt: Attempt) -> Answer {
        if attempt.is_first() {
            self.stats.count(Counter::Request);
        }
        if let Some(response) = self.answer_here(request) {
            return Answer::Ready(response);
        }
        let asked = self.asked(request);
        let mut sent = None;
        if let Some(Landing::Growing(shareable)) = &attempt.landing {
            let sent = sent.get_or_insert_with(|| self.sent_fields(request));
            if let Some(response) = self.share(&asked, shareable, sent, &attempt) {
                return Answer::Ready(response);
            }
        }
        let presented = asked.presented;
        let answerable = presented.get || presented.head;
        let recalled = attempt.recalled.take();
        let recalls = recalled.is_none() && answerable && self.store.has_backing();
        let (found, backing) = match recalled {
            Some(Recollection { variants, begun }) => (Some(variants), Some(begun)),
            None if answerable => (self.store.look_at(asked.key.as_str()), None),
            None => (None, None),
        };
        let variants = found.as_ref().map_or(&[][..], |found| found);
        let sought = Sought::read(&presented, &request.fields);
        let selection = select(variants, &sought, asked.now, |stored| {
            // Most responses fit everybody, and the fields need not be put together.
            stored.selecting.is_empty() && !stored.status.is_redirection()
                || self.fits(request, stored, sent.get_or_insert_with(|| self.sent_fields(request)))
        });
        let decision = self.decide(&asked, selection.selected, variants, recalls);
        let lacking = selection.lacking;
        let found = Found { sent, variants: found, recalls, backing };
        self.carry_out(decision, asked, found, lacking, attempt)
    }

    /// What becomes of a request, now that it is decided.
    fn carry_out(
        &self,
        decision: Decision,
        asked: Asked,
        found: Found,
        lacking: Lacking,
        attempt: Attempt,
    ) -> Answer {
        match decision {
            Decision::Reuse(stored) => {
                let response = self.reuse(&asked, &stored, &attempt, None);
                attempt.satisfied(&stored);
                Answer::Ready(response)
            }
            Decision::ReuseStale { stored, detail, refresh } => {
                self.stats.count(Counter::Stale);
                let response = self.reuse(&asked, &stored, &attempt, Some(detail));
                attempt.satisfied(&stored);
                if refresh {
                    Answer::Stale(response, self.prepare_refresh(asked, found, stored))
                } else {
                    Answer::Ready(response)
                }
            }
            Decision::Forward { why, detail, selected, validate } => {
                let asking = match &selected {
                    Some(stored) => Asking::about(stored, validate),
                    None => self.asking_for_a_miss(asked.presented, why, lacking),
                };
                let reason = Reason { why, detail, selected };
                Answer::Forward(self.prepare(asked, found, reason, asking, attempt))
            }
            Decision::Refuse(detail) if found.recalls => {
                let reason = Reason { why: Why::UriMiss, detail: None, selected: None };
                let mut forward = self.prepare(asked, found, reason, Asking::AsItIs, attempt);
                forward.refused = Some(detail);
                Answer::Forward(forward)
            }
            Decision::Refuse(detail) => {
                let variants = found.variants.as_ref().map_or(&[][..], |variants| variants);
                Answer::Ready(self.refuse_variants(&asked, detail, variants))
            }
        }
    }

    /// The answer to a request that goes no further, and asks for nothing that is stored.
    fn answer_here(&self, request: &Request) -> Option<Response> {
        if self.escapes(request) {
            return Some(self.refuse(request, &RequestError::Escapes));
        }
        if goes_in_circles(request) {
            return Some(self.refuse_circles(request));
        }
        (max_forwards(request) == Some(0)).then(|| self.answer_as_last())
    }

    /// What fetches a new response in the background, with those fields of the request that found the
    /// stale one that do not ask for less than the whole.
    fn prepare_refresh(
        &self,
        asked: Asked<'_>,
        found: Found,
        stored: Arc<StoredResponse>,
    ) -> Box<Forward> {
        let asking = if has_validator(&stored.fields) {
            Asking::Whether(Arc::clone(&stored))
        } else {
            Asking::Whole
        };
        let presented = asked.presented.in_the_background();
        let mut sent = found.sent.unwrap_or_else(|| self.sent_fields(asked.request));
        make_own(&mut sent);
        let found = Found { sent: Some(sent), ..found };
        let reason = Reason { why: Why::Stale, detail: None, selected: Some(stored) };
        let mut forward = self.prepare(asked, found, reason, asking, Attempt::default());
        forward.presented = presented;
        forward.method = Method::GET;
        forward.background = true;
        forward
    }

    /// What to ask for when nothing stored fits: the rest of a part, or what the client asks for.
    fn asking_for_a_miss(&self, presented: Presented, why: Why, lacking: Lacking) -> Asking {
        let standard = self.settings.reuse.mode == Mode::Standard;
        // What was made for someone without credentials by a guess is not for those who have some.
        let personal = presented.personal().is_some();
        match lacking {
            Lacking::Whole => Asking::Whole,
            Lacking::Rest(prefix)
                if why == Why::Partial
                    && !(presented.head || presented.range || presented.conditional)
                    && standard
                    && !presented.directives.no_cache
                    && (!personal || prefix.lifetime.is_explicit())
                    && prefix
                        .part
                        .and_then(|part| part.complete)
                        .is_some_and(|length| length <= self.store.content_bytes_max()) =>
            {
                Asking::Rest(prefix)
            }
            _ => Asking::AsItIs,
        }
    }

    /// Decides whether a request asks the origin server itself or waits for another that does.
    /// Never waits.
    pub fn join(&self, mut forward: Box<Forward>) -> Admission {
        let own_condition =
            forward.presented.conditional && !matches!(forward.asking, Asking::Whether(_));
        match forward.attempt.landing.take() {
            _ if forward.refused.is_some() => return Admission::Lead(forward),
            Some(Landing::Lead(leader)) => {
                forward.lead(leader);
                return Admission::Lead(forward);
            }
            Some(Landing::Failed(failed)) => {
                return Admission::Ready(self.fail_alike(&mut forward, &failed));
            }
            Some(Landing::Unshareable) => return Admission::Lead(forward),
            Some(Landing::Growing(shareable)) if self.may_follow(&forward, &shareable) => {
                forward.follows = Some(shareable);
                return Admission::Lead(forward);
            }
            Some(Landing::Growing(shareable)) => {
                // It did not fit; but now it is known which fields select.
                let selecting = shareable
                    .head
                    .selecting
                    .of_request(Sent { fields: &forward.sent, salt: &self.salt() });
                forward.selecting = selecting.fingerprint();
            }
            Some(Landing::Cleared) => forward.attempt.send_back(),
            Some(Landing::Stored) | None => {}
        }
        let waits = forward.presented.collapses()
            && !own_condition
            && !self.settings.reuse.disabled
            && forward.attempt.waits < WAITS_MAX;
        if !waits || self.waits_in_vain(&mut forward) {
            return Admission::Lead(forward);
        }
        let (flight_key, sent_back) = (forward.flight_key(), forward.attempt.sent_back > 0);
        match self.flights.join(flight_key, &mut forward.begun, sent_back) {
            Turn::Lead(leader) if self.has_changed(&forward) => {
                // Between our lookup and now, the leader before us has landed.
                let attempt = forward.attempt.waiting(forward.why);
                Admission::Wait(Waiting { seat: leader.step_back(), attempt })
            }
            Turn::Lead(leader) => {
                let Forward { key, selected, asking, .. } = &mut *forward;
                self.forget_what_is_gone(key, selected, asking);
                forward.leader = Some(leader);
                Admission::Lead(forward)
            }
            Turn::Alone => {
                forward.detail.get_or_insert(Detail::HitForMiss);
                Admission::Lead(forward)
            }
            Turn::Wait(seat) => {
                Admission::Wait(Waiting { seat, attempt: forward.attempt.waiting(forward.why) })
            }
        }
    }

    /// Has something been stored for this target URI since the lookup?
    fn has_changed(&self, forward: &Forward) -> bool {
        match (self.store.look_at(forward.key.as_str()), &forward.found) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(now), Some(then)) => !Arc::ptr_eq(&now, then),
        }
    }

    /// Asks the origin server and waits for the head of its response. `interim` is told of interim
    /// responses on the way.
    pub fn forward(
        &self,
        forward: Box<Forward>,
        content: RequestContent<'_>,
        interim: Option<&Arc<Interim>>,
    ) -> Forwarded {
        let interim = interim.map(|interim| self.rewriting(interim, &forward.request));
        let interim = interim.as_ref();
        let mut forward = match self.recall(forward) {
            Recall::GoOn(forward) => forward,
            Recall::Done(forwarded) => return forwarded,
        };
        self.stats.count_forwarded(forward.why);
        let mut content = Some(content);
        loop {
            let content = content.take().unwrap_or(RequestContent::None);
            match self.ask(&forward, content, interim) {
                Ok(received) if self.has_to_ask_again(&mut forward, &received) => {}
                Ok(received) => return self.absorb(forward, received),
                Err(OriginError::Content(source)) => {
                    log::info!("{}: client's content: {source}", forward.key.redacted());
                    let error = RequestError::of_content(&source, self.settings.limits);
                    return self.refuse(&forward.request, &error).into();
                }
                Err(error) => return self.fail(forward, &error).into(),
            }
        }
    }

    fn prepare(
        &self,
        asked: Asked<'_>,
        found: Found,
        reason: Reason,
        mut asking: Asking,
        attempt: Attempt,
    ) -> Box<Forward> {
        let Asked { request, presented, key, target, now } = asked;
        let Found { sent, variants, recalls, backing } = found;
        let was_recalled = backing.is_some();
        let sent = sent.unwrap_or_else(|| self.sent_fields(request));
        // The most recent response tells which fields select; the next one will name the same.
        let newest = variants.as_ref().and_then(|variants| variants.first());
        let selecting = newest
            .map(|stored| {
                stored
                    .selecting
                    .of_request(Sent { fields: &sent, salt: &self.salt() })
                    .fingerprint()
            })
            .unwrap_or_default();
        let Reason { why, detail, mut selected } = reason;
        // What answers a request that changes something is stored under the key of a GET, if at all.
        let begun = match backing {
            // What is purged from before the store behind memory was asked is known from this one alone.
            Some(begun) => begun,
            None if presented.get || presented.head => self.store.note(&key),
            None => self.store.note(&self.settings.key.key_of(key.as_str())),
        };
        if !was_recalled {
            self.forget_what_is_gone(&key, &mut selected, &mut asking);
        }
        Box::new(Forward {
            request: Arc::clone(request),
            method: request.method.clone(),
            presented,
            url: url_at(&self.settings.origin, &target),
            begun,
            key,
            sent,
            asking,
            selecting,
            why,
            // Whatever the response is: that is why the cache has no part in it.
            detail: detail.or(presented.content.then_some(Detail::Content)),
            selected,
            found: variants,
            request_time: now,
            attempt,
            leader: None,
            background: false,
            recalls,
            refused: None,
            follows: None,
            claim: FetchClaim::None,
        })
    }

    /// What the lookup found may have been purged before the request was noted as begun, which nobody would
    /// learn of: then nothing is asked about it, and it does not stand in.
    fn forget_what_is_gone(
        &self,
        key: &CacheKey,
        selected: &mut Option<Arc<StoredResponse>>,
        asking: &mut Asking,
    ) {
        let asked_about: Vec<&Arc<StoredResponse>> = match &*asking {
            Asking::AsItIs | Asking::Whole => selected.iter().collect(),
            Asking::Whether(stored) => [stored].into_iter().chain(selected.iter()).collect(),
            Asking::Rest(prefix) => vec![prefix],
        };
        if asked_about.is_empty() {
            return;
        }
        let present = self.store.look_at(key.as_str()).unwrap_or_default();
        let is_there =
            |stored: &&Arc<StoredResponse>| present.iter().any(|other| Arc::ptr_eq(other, stored));
        if !asked_about.iter().all(is_there) {
            *selected = None;
            if !matches!(asking, Asking::AsItIs) {
                *asking = Asking::Whole;
            }
        }
    }

    /// Sends the request, and follows redirects where the operator wants it.
    fn ask(
        &self,
        forward: &Forward,
        content: RequestContent<'_>,
        interim: Option<&Arc<Interim>>,
    ) -> Result<OriginResponse, OriginError> {
        let Forward { method, url, sent, .. } = forward;
        let mut fields = Cow::Borrowed(sent);
        match &forward.asking {
            Asking::AsItIs => {}
            Asking::Whether(stored) => make_conditional(fields.to_mut(), stored),
            Asking::Rest(prefix) => ask_for_rest(fields.to_mut(), prefix),
            Asking::Whole => make_unconditional(fields.to_mut()),
        }
        let host = self.passed_on_host(&forward.request);
        let asked = OriginRequest {
            method,
            url,
            host: host.as_deref(),
            fields: &fields,
            content,
            waits: !forward.background && !self.has_stand_in(forward),
            interim: interim.cloned(),
        };
        let send = |asked: OriginRequest<'_, '_>| {
            let answer = self.origin.send(asked);
            if !answer.as_ref().is_err_and(OriginError::spared_it) {
                self.stats.count(Counter::OriginRequest);
            }
            answer
        };
        // A redirect is followed without content: that would be another question.
        let follows = self.settings.follow_redirects
            && !forward.presented.content
            && matches!(*method, Method::GET | Method::HEAD);
        if follows { send_and_follow(asked, send) } else { send(asked) }
    }
}

/// What a request asks for, read once.
struct Asked<'a> {
    request: &'a Arc<Request>,
    presented: Presented,
    key: CacheKey,
    /// Path and query, as the key has them.
    target: Cow<'a, str>,
    now: Timestamp,
}

/// What a lookup has found out.
struct Found {
    sent: Option<Fields>,
    variants: Option<Variants>,
    /// The store behind memory has not been asked.
    recalls: bool,
    /// The fetch that it was asked for, if it has been: noted before, and marked since.
    backing: Option<Begun>,
}

/// Why it ends in forwarding.
struct Reason {
    why: Why,
    detail: Option<Detail>,
    selected: Option<Arc<StoredResponse>>,
}

/// Reads a field as text for the log; what is no text is left out.
pub fn field_text<'a>(fields: &'a Fields, name: &'a str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
