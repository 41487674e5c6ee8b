//! May a stored response answer this request? RFC 9111 §4, §4.2.4, §5.2.1.
//!
//! `vary.rs` has selected the response by then. What cannot be answered from the cache goes on to the
//! origin server, and the stored response goes along: it may have to stand in if that fails.
//!
//! The order of the questions matters, because the first one that objects is the reason that clients
//! and operators are given.

use std::sync::Arc;

use http::Method;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::request::{Framing, Request};
use crate::policy::bound::binds_connection;
use crate::policy::cache_control::RequestDirectives;
use crate::policy::credentials::is_signed;
use crate::policy::effect::{Effect, effect_of};
use crate::policy::plain::{is_field_plain, is_stored_plain};
use crate::policy::reason::{Detail, Why};
use crate::policy::stored::{StoredHead, StoredResponse};

/// What a request asks of a cache, read once.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one property of a request")]
pub struct Presented {
    /// Its `Cache-Control`.
    pub directives: RequestDirectives,
    /// It is a GET without content.
    pub get: bool,
    /// It is a HEAD without content.
    pub head: bool,
    /// It has a `Cookie`.
    pub cookie: bool,
    /// It has an `Authorization`.
    pub authorization: bool,
    /// It has credentials by another name, or a signature in its URI.
    pub credentials: bool,
    /// The method is POST.
    pub post: bool,
    /// It is a GET with a `Range`; on other methods the field means nothing (RFC 9110 §14.2).
    pub range: bool,
    /// It has an `If-None-Match` or `If-Modified-Since`: a 304 may be for this client alone.
    pub conditional: bool,
    /// It has an `If-Range`: what it gets may be a part or all.
    pub if_range: bool,
    /// It has an `If-Match` or `If-Unmodified-Since`, which a cache does not evaluate (§4.3.2).
    pub for_origin_alone: bool,
    /// It is a GET or HEAD with content. The cache key does not hold that content, so the cache has no
    /// part in such a request (RFC 9110 §9.3.1).
    pub content: bool,
    /// It has a field that is not plain (`policy/plain.rs`).
    pub weighed: bool,
    /// It is authenticated with its connection (`policy/bound.rs`).
    pub bound: bool,
}

impl Presented {
    /// Reads a request: its fields once, because this is done for every hit.
    pub fn read(request: &Request) -> Self {
        let (get, head) = (request.method == Method::GET, request.method == Method::HEAD);
        // Chunked content may turn out to be empty, but not before the request has to be decided on.
        let has_content = !matches!(request.framing, Framing::None | Framing::Length(0));
        // RFC 9110 §9.3.1: content in a GET has no defined meaning, so its response is passed on and is
        // nobody else's.
        let (content, get, head) =
            ((get || head) && has_content, get && !has_content, head && !has_content);
        let mut presented =
            Self { get, head, post: request.method == Method::POST, content, ..Self::default() };
        // Parsed only where the field is there: most requests have none.
        let mut directed = false;
        for (name, _) in request.fields.iter() {
            let effect = effect_of(name.as_str());
            presented.weighed |= !is_field_plain(effect);
            match effect {
                Effect::Directives => directed = true,
                Effect::Cookie => presented.cookie = true,
                Effect::Authorization => presented.authorization = true,
                Effect::Credentials => presented.credentials = true,
                Effect::Range => presented.range = get,
                Effect::Condition => presented.conditional = true,
                Effect::IfRange => presented.if_range = true,
                Effect::OriginCondition => presented.for_origin_alone = true,
                // Spelled out, so that a new effect does not compile until it is thought about here.
                Effect::Nothing | Effect::Host | Effect::Connection | Effect::Message => {}
            }
        }
        if directed {
            presented.directives = RequestDirectives::read(&request.fields);
        }
        presented.bound =
            request.is_bound || presented.authorization && binds_connection(&request.fields);
        presented
    }

    /// The same for a target with these parameters, which may be credentials themselves.
    #[must_use]
    pub fn at(self, target: &str) -> Self {
        Self { credentials: self.credentials || is_signed(target), ..self }
    }

    /// The same as if it had no credentials (`--share-credentials`).
    #[must_use]
    pub(crate) fn without_credentials(self) -> Self {
        Self { cookie: false, authorization: false, credentials: false, ..self }
    }

    /// Is there nothing to weigh about it but whether it has credentials?
    pub(crate) fn is_plain(&self) -> bool {
        (self.get || self.head) && !self.weighed
    }

    /// The rule by which a response that is fresh only by a guess is neither stored for this request
    /// nor given to it; `None` if the request has no credentials.
    pub(crate) fn personal(&self) -> Option<Detail> {
        // In the order of how clear the word is to a reader of `Cache-Status`.
        match self {
            Self { cookie: true, .. } => Some(Detail::Cookie),
            Self { authorization: true, .. } => Some(Detail::Authorization),
            Self { credentials: true, .. } => Some(Detail::Credentials),
            _ => None,
        }
    }

    /// May its response serve others who ask the same at the same time?
    pub(crate) fn collapses(&self) -> bool {
        // What is excluded here brings a response that is made for this client alone, or asks for one
        // that is. A condition of the client's own is no hindrance: it does not go to the origin server
        // then.
        self.get
            && !self.if_range
            && !self.for_origin_alone
            && !self.authorization
            && !self.bound
            && !self.directives.no_store
            && !self.directives.no_cache
    }

    /// The same as a plain GET for the whole.
    #[must_use]
    pub(crate) fn as_get(self) -> Self {
        Self { get: true, head: false, range: false, if_range: false, conditional: false, ..self }
    }

    /// What the cache asks for on its own account with this request's credentials: the whole response
    /// to a GET, whatever the client wanted of a cache.
    #[must_use]
    pub(crate) fn in_the_background(self) -> Self {
        // `only-if-cached` above all: the next cache would answer 504, and nothing would be refreshed.
        Self { directives: RequestDirectives::default(), ..self.as_get() }
    }
}

/// What the operator said about reuse.
#[derive(Clone, Copy, Debug)]
pub struct ReuseRules {
    /// `--cache-mode`
    pub mode: Mode,
    /// `--cache-size-limit 0`: nothing is stored or reused.
    pub disabled: bool,
    /// `--share-credentials`: requests are treated as if they had none.
    pub share_credentials: bool,
    /// `--hit-ttl`: how often a stored response may be reused.
    pub reuses_max: Option<u64>,
    /// `--stale-while-revalidate`, for responses that state none.
    pub stale_while_revalidate: DeltaSeconds,
    /// `--stale-if-error`, for responses that state none.
    pub stale_if_error: DeltaSeconds,
}

impl ReuseRules {
    /// Are they such that nothing has to be weighed (`policy/plain.rs`)?
    pub(crate) fn are_plain(&self) -> bool {
        self.mode == Mode::Standard && !self.disabled && self.reuses_max.is_none()
    }
}

/// `--cache-mode`: whose rules hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// HTTP's.
    Standard,
    /// The operator's: what is a 200 to a GET is stored and reused.
    Force,
    /// The origin server is never contacted.
    Offline,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Decision {
    /// Answer with this stored response.
    Reuse(Arc<StoredResponse>),
    /// Answer with this stale one. `refresh` says that a new one is to be fetched meanwhile.
    ReuseStale {
        /// The stale stored response.
        stored: Arc<StoredResponse>,
        /// The rule that permits it.
        detail: Detail,
        /// Fetch a new one in the background?
        refresh: bool,
    },
    /// Ask the origin server.
    Forward {
        /// Why, in the words of RFC 9211.
        why: Why,
        /// The particular rule.
        detail: Option<Detail>,
        /// What fits the request but may not be used as it is. It may stand in if the origin server
        /// fails.
        selected: Option<Arc<StoredResponse>>,
        /// May the origin server be asked just whether that still holds?
        validate: bool,
    },
    /// Answer 504: the origin server must not be asked (§5.2.1.7).
    Refuse(Detail),
}

/// Decides about a request, given the stored response that fits it, or why there is none (§4).
pub fn decide(
    presented: &Presented,
    selected: Result<Arc<StoredResponse>, Why>,
    now: Timestamp,
    rules: &ReuseRules,
) -> Decision {
    let answerable = presented.get || presented.head;
    // Before everything else: no directive and no flag may lead to the origin server (`--cache-mode
    // offline`).
    if rules.mode == Mode::Offline {
        return offline(selected.ok().filter(|_| answerable), now);
    }
    // A GET with content is none that could be answered from what is stored.
    let decision = if !answerable {
        forward(Why::Method, None)
    } else if rules.disabled {
        forward(Why::Bypass, Some(Detail::Disabled))
    } else if presented.for_origin_alone {
        // §4.3.2: If-Match and If-Unmodified-Since are for the origin server; a cache that answered
        // would have to guess.
        forward(Why::Request, Some(Detail::Precondition))
    } else {
        match selected {
            Ok(stored) => decide_on(presented, stored, now, rules),
            Err(why) => forward(why, None),
        }
    };
    // §5.2.1.7: also where another method or a bypass leads to the origin server, so it is asked last.
    match decision {
        Decision::Forward { .. }
            if presented.directives.only_if_cached && rules.mode == Mode::Standard =>
        {
            Decision::Refuse(Detail::OnlyIfCached)
        }
        decision => decision,
    }
}

fn forward(why: Why, detail: Option<Detail>) -> Decision {
    Decision::Forward { why, detail, selected: None, validate: false }
}

/// Offline, whatever fits the request answers, however stale: there is no better response to be had.
fn offline(selected: Option<Arc<StoredResponse>>, now: Timestamp) -> Decision {
    match selected {
        Some(stored) if stored.is_fresh(now) => Decision::Reuse(stored),
        Some(stored) => Decision::ReuseStale { stored, detail: Detail::Offline, refresh: false },
        None => Decision::Refuse(Detail::Offline),
    }
}

/// §4: a stored response fits; do freshness and the request's directives let it answer?
fn decide_on(
    presented: &Presented,
    stored: Arc<StoredResponse>,
    now: Timestamp,
    rules: &ReuseRules,
) -> Decision {
    // The fast path comes to the same: what is plain is given by both without another question.
    let is_personal = presented.personal().is_some();
    if presented.is_plain() && rules.are_plain() && is_stored_plain(&stored, is_personal, now) {
        return Decision::Reuse(stored);
    }
    let used_up = rules.reuses_max.is_some_and(|most| stored.is_used_up(most));
    match judge(presented, &stored, used_up, now, rules) {
        Judgement::Usable => Decision::Reuse(stored),
        Judgement::UsableStale { detail, refresh } => {
            Decision::ReuseStale { stored, detail, refresh }
        }
        // Without the stored response: it must not even stand in if the origin server fails.
        Judgement::NotForThisUser(detail) => forward(Why::Request, Some(detail)),
        Judgement::ToBeValidated(why, detail) => {
            Decision::Forward { why, detail, selected: Some(stored), validate: true }
        }
        // Without a condition: `--hit-ttl` asks for the response itself, and a 304 would not bring it.
        Judgement::UsedUp => {
            let (why, detail) = (Why::Stale, Some(Detail::HitTtl));
            Decision::Forward { why, detail, selected: Some(stored), validate: false }
        }
    }
}

/// How a response that fits a request is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Judgement {
    /// It may answer.
    Usable,
    /// It is stale, and may answer all the same.
    UsableStale {
        /// The rule that permits it.
        detail: Detail,
        /// Fetch a new one in the background?
        refresh: bool,
    },
    /// It was made for a client without credentials, and is fresh only by a guess: it may not even
    /// stand in.
    NotForThisUser(Detail),
    /// It may answer if the origin server says so.
    ToBeValidated(Why, Option<Detail>),
    /// `--hit-ttl`: it must come from the origin server again.
    UsedUp,
}

/// Judges a response, stored or on its way in, that fits the request (§4, §5.2.1, §5.2.2).
pub(crate) fn judge(
    presented: &Presented,
    head: &StoredHead,
    used_up: bool,
    now: Timestamp,
    rules: &ReuseRules,
) -> Judgement {
    use Judgement::{NotForThisUser, ToBeValidated, Usable, UsedUp};
    // `--cache-mode force` ignores what requests say; the origin server's own word still counts below,
    // where it is explicit.
    let standard = rules.mode == Mode::Standard;
    let directives = presented.directives;
    // First, because it decides whether the response may be seen at all; the rest only decides how
    // fresh it is.
    if standard
        && !head.lifetime.is_explicit()
        && let Some(detail) = presented.personal()
    {
        return NotForThisUser(detail);
    }
    // §5.2.2.4: however fresh. Under `force` the response was stored against the origin server's word,
    // and with it goes this one.
    if head.directives.no_cache && (standard || head.lifetime.is_explicit()) {
        return ToBeValidated(Why::Stale, Some(Detail::NoCache));
    }
    if standard && directives.no_cache {
        return ToBeValidated(Why::Request, Some(Detail::NoCache));
    }
    let age = head.current_age(now);
    if standard && directives.max_age.is_some_and(|most| age > most) {
        return ToBeValidated(Why::Request, Some(Detail::MaxAge));
    }
    // §5.2.1.1 and §5.2.1.3 ask about a response that is fresh by itself. A response "until cleared" is
    // fresh enough for any number.
    if standard && directives.min_fresh.is_some_and(|least| head.fresh_for(now) < least) {
        return ToBeValidated(Why::Request, Some(Detail::MinFresh));
    }
    // After the directives: a response that must be validated anyway is asked about, which costs less.
    if used_up {
        return UsedUp;
    }
    if head.is_fresh(now) {
        return Usable;
    }
    judge_stale(presented, head, now, rules)
}

/// Judges a stale response: does the client take it as it is, or may it be given while a new one is fetched
/// (§4.2.4)?
fn judge_stale(
    presented: &Presented,
    head: &StoredHead,
    now: Timestamp,
    rules: &ReuseRules,
) -> Judgement {
    let standard = rules.mode == Mode::Standard;
    let directives = presented.directives;
    // §5.2.1.2: the client takes what is stale, but not what the origin server forbids to give.
    let taken = directives.max_stale.filter(|_| standard && !head.directives.prohibits_stale());
    if taken.is_some_and(|most| most == DeltaSeconds::MAX || head.stale_for(now) <= most) {
        return Judgement::UsableStale { detail: Detail::MaxStale, refresh: false };
    }
    // RFC 5861 §3: the origin server's number, if it states one, outranks the operator's default,
    // shorter or longer.
    let window = head.directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate);
    // A client that names an age does not want what is stale (§5.2.1.1).
    if may_be_stale(head, window, now) && directives.max_age.is_none() {
        // What a no-store request brings may not be stored, so it would refresh nothing (§5.2.1.5).
        let refresh = !(standard && directives.no_store);
        return Judgement::UsableStale { detail: Detail::StaleWhileRevalidate, refresh };
    }
    Judgement::ToBeValidated(Why::Stale, None)
}

/// May a stored response stand in for an origin server that failed: that gave no response, must not
/// be asked now, or answered 429, 500, 502, 503 or 504 (§4.2.4, RFC 5861 §4)?
///
/// The request's `stale-if-error` and the response's outrank the operator's; where both state one, both
/// must permit it.
pub fn may_stand_in(
    presented: &Presented,
    stored: &StoredHead,
    now: Timestamp,
    rules: &ReuseRules,
) -> bool {
    // The shorter of the two words counts: the client's permission does not lift the origin server's
    // bound, nor the other way round.
    let asked = presented.directives.stale_if_error.filter(|_| rules.mode == Mode::Standard);
    let stated = [asked, stored.directives.stale_if_error].into_iter().flatten().min();
    let window = stated.unwrap_or(rules.stale_if_error);
    // A fresh response is here when the request asked for validation; without an answer it is still
    // fresh. §4.2.4 rules that out for `no-cache`.
    stored.is_fresh(now) && !stored.directives.no_cache || may_be_stale(stored, window, now)
}

/// Must a request that was answered with an error have that very answer? It said `no-cache`: it wants
/// what the origin server says now (§5.2.1.4).
pub(crate) fn wants_the_error(presented: &Presented, rules: &ReuseRules) -> bool {
    rules.mode == Mode::Standard && presented.directives.no_cache
}

/// Does nothing prohibit serving it stale, and has it been stale for less than `window`?
fn may_be_stale(head: &StoredHead, window: DeltaSeconds, now: Timestamp) -> bool {
    // §4.2.4: `must-revalidate` and its kin outrank every permission, the operator's as well.
    !head.directives.prohibits_stale() && now < head.fresh_until.plus(window)
}
