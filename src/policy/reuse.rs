//! May a stored response answer this request? RFC 9111 §4, §4.2.4, §5.2.1.
//!
//! `vary.rs` has selected it by then. What cannot be answered from the cache goes on to the origin
//! server, and the stored response goes along: it may have to stand in if that fails.

use std::sync::Arc;

use http::Method;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::request::{Framing, Request};
use crate::policy::cache_control::RequestDirectives;
use crate::policy::reason::{Detail, Why};
use crate::policy::stored::StoredResponse;

/// What a request asks of a cache, read once.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one property of a request")]
pub struct Presented {
    /// Its `Cache-Control`.
    pub directives: RequestDirectives,
    /// The method is GET.
    pub get: bool,
    /// The method is HEAD.
    pub head: bool,
    /// It has a `Cookie`.
    pub cookie: bool,
    /// It has an `Authorization`.
    pub authorization: bool,
    /// It has a `Range`.
    pub range: bool,
    /// It has a condition of RFC 9110 §13: a 304 or 412 would be for this client alone.
    pub conditional: bool,
    /// It has content, which for these methods means nothing that a cache could know.
    pub content: bool,
}

impl Presented {
    /// Reads a request.
    pub fn read(request: &Request) -> Self {
        let fields = &request.fields;
        let has = |name| fields.contains(name);
        Self {
            directives: RequestDirectives::read(fields),
            get: request.method == Method::GET,
            head: request.method == Method::HEAD,
            cookie: has("cookie"),
            authorization: has("authorization"),
            range: has("range"),
            conditional: has("if-none-match")
                || has("if-modified-since")
                || has("if-match")
                || has("if-unmodified-since")
                || has("if-range"),
            content: !matches!(request.framing, Framing::None | Framing::Length(0)),
        }
    }

    /// May its answer serve others who ask the same at the same time?
    pub fn collapses(&self) -> bool {
        self.get
            && !self.range
            && !self.conditional
            && !self.content
            && !self.authorization
            && !self.directives.no_store
            && !self.directives.no_cache
    }
}

/// What the operator said about reuse.
#[derive(Clone, Copy, Debug)]
pub struct ReuseRules {
    /// `--cache-mode`
    pub mode: Mode,
    /// `--cache-size-limit 0`: nothing is stored or reused.
    pub disabled: bool,
    /// `--hit-ttl`: how often a stored response may be reused.
    pub reuses_max: Option<u64>,
    /// `--stale-while-revalidate`, for responses that state none.
    pub stale_while_revalidate: DeltaSeconds,
    /// `--stale-if-error`, for responses that state none.
    pub stale_if_error: DeltaSeconds,
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
        /// What may stand in if the origin server fails.
        stale: Option<Arc<StoredResponse>>,
    },
    /// Answer 504: the origin server must not be asked (§5.2.1.7).
    Refuse(Detail),
}

/// Decides about a request, given the stored response that fits it and whether anything is stored
/// for its target URI at all (§4).
pub fn decide(
    presented: &Presented,
    selected: Option<Arc<StoredResponse>>,
    any_stored: bool,
    now: Timestamp,
    rules: &ReuseRules,
) -> Decision {
    let answerable = (presented.get || presented.head) && !presented.content;
    if rules.mode == Mode::Offline {
        return offline(selected.filter(|_| answerable), now);
    }
    if !answerable {
        return forward(Why::Method, None);
    }
    let decision = if rules.disabled {
        forward(Why::Bypass, Some(Detail::Disabled))
    } else if presented.range {
        forward(Why::Bypass, Some(Detail::Range))
    } else {
        match selected {
            Some(stored) => decide_on(presented, stored, now, rules),
            None => forward(if any_stored { Why::VaryMiss } else { Why::UriMiss }, None),
        }
    };
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
    Decision::Forward { why, detail, stale: None }
}

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
    let standard = rules.mode == Mode::Standard;
    if standard && !stored.lifetime.is_explicit() && (presented.cookie || presented.authorization) {
        let detail = if presented.cookie { Detail::Cookie } else { Detail::Authorization };
        // It was made for someone without credentials, so it may not stand in either.
        return forward(Why::Request, Some(detail));
    }
    let against = |why, detail| Decision::Forward { why, detail, stale: Some(Arc::clone(&stored)) };
    if standard && presented.directives.no_cache {
        return against(Why::Request, Some(Detail::NoCache));
    }
    let age = stored.current_age(now);
    if standard && presented.directives.max_age.is_some_and(|most| age > most) {
        return against(Why::Request, Some(Detail::MaxAge));
    }
    if rules.reuses_max.is_some_and(|most| stored.is_used_up(most)) {
        return against(Why::Stale, Some(Detail::HitTtl));
    }
    if stored.is_fresh(now) {
        return Decision::Reuse(stored);
    }
    let window = stored.directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate);
    // A client that names an age does not want what is stale (§5.2.1.1).
    if may_be_stale(&stored, window, now) && presented.directives.max_age.is_none() {
        let detail = Detail::StaleWhileRevalidate;
        return Decision::ReuseStale { stored, detail, refresh: true };
    }
    against(Why::Stale, None)
}

/// May a stale response stand in for an origin server that failed (§4.2.4, RFC 5861 §4)?
pub fn may_stand_in(stored: &StoredResponse, now: Timestamp, rules: &ReuseRules) -> bool {
    let window = stored.directives.stale_if_error.unwrap_or(rules.stale_if_error);
    stored.is_fresh(now) || may_be_stale(stored, window, now)
}

/// Nothing prohibits serving it stale, and it has been so for less than `window`.
fn may_be_stale(stored: &StoredResponse, window: DeltaSeconds, now: Timestamp) -> bool {
    !stored.directives.prohibits_stale() && now < stored.fresh_until.plus(window)
}
