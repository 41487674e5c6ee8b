//! May this response be stored, and which fields of it? RFC 9111 §3.
//!
//! Whether its content arrived whole is not known yet when this is asked; the engine stores nothing
//! before the last byte has come (§3.3). `freshness.rs` says for how long a stored one is fresh.

use std::cell::OnceCell;

use http::{HeaderName, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::age::corrected_initial_age;
use crate::policy::bound::binds_connection;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::forwarding::strip_received;
use crate::policy::freshness::{
    FreshnessRules, Lifetime, fresh_until, freshness_lifetime, is_heuristically_cacheable,
};
use crate::policy::range::Part;
use crate::policy::reason::Detail;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredHead;
use crate::policy::targeted::CDN_CACHE_CONTROL;
use crate::policy::validation::has_validator;
use crate::policy::vary::{Selecting, Sent, matches_none};

/// What the operator said about storing.
#[derive(Clone, Copy, Debug)]
pub struct StoringRules {
    /// Freshness where the origin server states none, and its bound.
    pub freshness: FreshnessRules,
    /// `--share-cookies`: any explicit freshness permits keeping `Set-Cookie`.
    pub share_cookies: bool,
    /// `--stale-if-error`, for responses that state none.
    pub stale_if_error: DeltaSeconds,
    /// `--stale-while-revalidate`, for responses that state none.
    pub stale_while_revalidate: DeltaSeconds,
    /// `--max-object-size`, in bytes.
    pub object_bytes_max: u64,
}

/// The head of an origin server's response, as it came: what `Connection` names decides, too, and is not
/// stored (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The status code.
    pub status: StatusCode,
    /// The header section.
    pub fields: &'a Fields,
    /// The length of the content, where the head states it.
    pub length: Option<u64>,
    /// Which part of the representation the content is, for a 206 that answers a range request.
    pub part: Option<Part>,
    /// Its `Content-Location` is the target URI: the answer to a POST is then what a GET would have
    /// brought (RFC 9110 §9.3.3).
    pub describes_target: bool,
    /// It redirects to the URL that was asked for.
    pub leads_nowhere: bool,
    /// When the request was received.
    pub request_time: Timestamp,
    /// When the head arrived.
    pub response_time: Timestamp,
}

/// One rule of §3 and what it says of a response.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Where the rule comes from.
    pub section: &'static str,
    /// What must hold for the response to be stored.
    pub rule: &'static str,
    /// `Err` if it does not hold.
    pub verdict: Result<(), Detail>,
}

/// May the response to `presented` be stored? If so, all of it but the content; if not, the first rule
/// that forbids it (§3).
///
/// `sent` is the request as the origin server got it; its fields select among variants (§4.1).
pub fn storable(
    presented: &Presented,
    sent: Sent<'_>,
    received: Received<'_>,
    rules: &StoringRules,
) -> Result<StoredHead, Detail> {
    let facts = Facts::new(presented, &received, rules);
    // The same list that `proxy explain` prints, so that the two cannot differ. What is refused is asked no further.
    for rule in &RULES {
        rule.verdict(&facts)?;
    }
    let (forced, lifetime) = (facts.is_forced, facts.lifetime());
    let Facts { directives, .. } = facts;
    let Received { status, fields, part, response_time, .. } = received;
    // `None` stands for `Vary: *`, which gets here under `--cache-mode force` alone: then it fits every
    // request.
    let selecting = Selecting::read(fields, sent).unwrap_or_default();
    let age_on_arrival = corrected_initial_age(fields, received.request_time, response_time);
    let fresh_until = fresh_until(lifetime, age_on_arrival, response_time, rules.freshness);
    let useful_until = useful_until(fields, &directives, fresh_until, rules);
    // Only now: everything above has decided by the fields as they came, with what `Connection` names.
    let mut fields = fields.clone();
    strip_received(&mut fields);
    // `force` keeps no cookie of one client for another. The range of a part is in `part`, and would be
    // wrong once parts are combined.
    let left_out = |name: &HeaderName| {
        directives.withheld.contains(name)
            || forced && *name == "set-cookie"
            || part.is_some() && *name == "content-range"
    };
    fields.retain(|name, _| !left_out(name));
    // They are left out, and nobody asks for their names again.
    let directives = ResponseDirectives { withheld: Vec::new(), ..directives };
    Ok(StoredHead {
        status,
        part,
        fields: fields.into(),
        directives,
        selecting,
        lifetime,
        age_on_arrival,
        response_time,
        fresh_until,
        useful_until,
    })
}

/// All rules about storing a response, and what they say of it. All are answered, for `proxy explain`; the first that
/// fails is the reason that is told.
pub(crate) fn checks(
    presented: &Presented,
    received: &Received<'_>,
    rules: &StoringRules,
) -> Vec<Check> {
    let facts = Facts::new(presented, received, rules);
    let check = |rule: &Rule| Check {
        section: rule.section,
        rule: rule.text,
        verdict: rule.verdict(&facts),
    };
    RULES.iter().map(check).collect()
}

/// What the rules look at.
struct Facts<'a> {
    presented: &'a Presented,
    received: &'a Received<'a>,
    rules: &'a StoringRules,
    directives: ResponseDirectives,
    /// `--cache-mode force` takes this response, whatever it says. A 200 alone: errors forced into the cache would
    /// stay.
    is_forced: bool,
    /// Worked out once, for the rules that ask.
    lifetime: OnceCell<Lifetime>,
}

impl<'a> Facts<'a> {
    fn new(presented: &'a Presented, received: &'a Received<'a>, rules: &'a StoringRules) -> Self {
        Self {
            presented,
            received,
            rules,
            directives: ResponseDirectives::read(received.fields),
            is_forced: rules.freshness.force && received.status == StatusCode::OK,
            lifetime: OnceCell::new(),
        }
    }

    fn lifetime(&self) -> Lifetime {
        let Received { status, fields, response_time, .. } = *self.received;
        *self.lifetime.get_or_init(|| {
            let freshness = self.rules.freshness;
            freshness_lifetime(status, fields, &self.directives, response_time, freshness)
        })
    }
}

/// A rule about storing.
struct Rule {
    section: &'static str,
    /// What must hold.
    text: &'static str,
    /// `--cache-mode force` lifts it: it is about what the origin server said, not about what the message is (the
    /// method, the status, the length).
    is_lifted: bool,
    refuses: fn(&Facts<'_>) -> Result<(), Detail>,
}

impl Rule {
    const fn new(
        section: &'static str,
        text: &'static str,
        refuses: fn(&Facts<'_>) -> Result<(), Detail>,
    ) -> Self {
        Self { section, text, is_lifted: false, refuses }
    }

    const fn lifted(self) -> Self {
        Self { is_lifted: true, ..self }
    }

    fn verdict(&self, facts: &Facts<'_>) -> Result<(), Detail> {
        if self.is_lifted && facts.is_forced { Ok(()) } else { (self.refuses)(facts) }
    }
}

/// All of them, in the order in which they are asked.
const RULES: [Rule; 15] = [
    Rule::new(
        "RFC 9111 §3",
        "the method is GET, or POST with explicit freshness and its own Content-Location",
        refused_by_method,
    ),
    Rule::new(
        "RFC 9111 §3, §3.3",
        "the status is final and about the target, and a 206 says which part it is",
        refused_by_status,
    ),
    Rule::new(
        "RFC 9110 §15.4",
        "a redirect leads to another URL than the one that was asked for",
        |facts| refuse_if(facts.received.leads_nowhere, Detail::OwnUrl),
    ),
    Rule::new("RFC 9111 §5.2.1.5", "the request does not say no-store", |facts| {
        refuse_if(facts.presented.directives.no_store, Detail::NoStore)
    })
    .lifted(),
    Rule::new(
        "RFC 9111 §5.2.2.3",
        "must-understand comes with a status that is understood",
        |facts| {
            let is_understood = is_understood(facts.received.status);
            refuse_if(facts.directives.must_understand && !is_understood, Detail::MustUnderstand)
        },
    )
    .lifted(),
    Rule::new(
        "RFC 9111 §5.2.2.5",
        "the response does not say no-store, unless must-understand is beside it",
        |Facts { directives, .. }| {
            refuse_if(directives.no_store && !directives.must_understand, Detail::NoStore)
        },
    )
    .lifted(),
    Rule::new("RFC 9111 §5.2.2.7", "the response is not private", |facts| {
        refuse_if(facts.directives.private, Detail::Private)
    })
    .lifted(),
    Rule::new(
        "RFC 9111 §5.2.2.4",
        "no-cache comes with a validator: without one it could never be reused",
        |facts| {
            let is_useless = facts.directives.no_cache && !has_validator(facts.received.fields);
            refuse_if(is_useless, Detail::NoCache)
        },
    )
    .lifted(),
    Rule::new("RFC 9111 §4.1", "Vary names no *", |facts| {
        refuse_if(matches_none(facts.received.fields), Detail::VaryStar)
    })
    .lifted(),
    Rule::new("RFC 4559 §6", "no connection is authenticated for one client", |facts| {
        let is_bound = facts.presented.bound || binds_connection(facts.received.fields);
        refuse_if(is_bound, Detail::Bound)
    }),
    Rule::new(
        "RFC 9111 §3.5, §7.3",
        "what is made for one user is shared only where the origin server permits it",
        refused_as_personal,
    )
    .lifted(),
    Rule::new(
        "RFC 9111 §3, §4.2",
        "freshness is stated, or assumed, or a validator lets it be asked about",
        refused_as_useless,
    )
    .lifted(),
    Rule::new(
        "RFC 9110 §7.6.1",
        "what says how a response may be reused is not meant for one connection alone",
        |facts| refused_as_unkept(facts.received.fields),
    )
    .lifted(),
    Rule::new(
        "WHATWG HTML §9.2",
        "an event stream states its freshness: it has no end otherwise",
        |facts| {
            let is_endless =
                is_event_stream(facts.received.fields) && !facts.lifetime().is_explicit();
            refuse_if(is_endless, Detail::EventStream)
        },
    ),
    Rule::new("--max-object-size", "it is not too large", |facts| {
        let most = facts.rules.object_bytes_max;
        let is_too_large = facts.received.length.is_some_and(|length| length > most);
        refuse_if(is_too_large, Detail::TooLarge)
    }),
];

fn refuse_if(forbidden: bool, detail: Detail) -> Result<(), Detail> {
    if forbidden { Err(detail) } else { Ok(()) }
}

/// Is the response one to GET, or what a GET would have brought (§3, RFC 9110 §9.3.3)?
fn refused_by_method(facts: &Facts<'_>) -> Result<(), Detail> {
    let Facts { presented, received, .. } = facts;
    let describes = received.describes_target && received.status == StatusCode::OK;
    // §9.3.3 asks for explicit freshness and a Content-Location that is the target URI: only then is it
    // the response to a later GET.
    let posted = presented.post && describes && facts.lifetime().is_explicit();
    refuse_if(presented.content, Detail::Content)?;
    refuse_if(!presented.get && !posted, Detail::Method)
}

/// §3: the status is final, and says something about the target, not about one request's conditions.
fn refused_by_status(Facts { presented, received, .. }: &Facts<'_>) -> Result<(), Detail> {
    match received.status {
        StatusCode::PARTIAL_CONTENT => {
            let held = received.length;
            // A 206 without a readable Content-Range, or whose length contradicts it, cannot be placed
            // anywhere.
            let kept = |part: Part| held.is_none_or(|held| part.admits(held));
            refuse_if(!received.part.is_some_and(kept), Detail::Partial)
        }
        // It answers the client's own condition; our own conditions do not get here.
        StatusCode::NOT_MODIFIED => Err(Detail::Status),
        // About this request's condition, unless it had none: then it is a status like any other.
        StatusCode::PRECONDITION_FAILED => refuse_if(
            presented.conditional || presented.for_origin_alone || presented.range,
            Detail::Status,
        ),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let about_a_range = presented.range || received.fields.contains("content-range");
            refuse_if(about_a_range, Detail::Status)
        }
        // §3 asks for a final status and nothing more: explicitly fresh 500s are stored, too.
        status => refuse_if(status.is_informational(), Detail::Status),
    }
}

/// §3: explicit freshness of any value; or an assumed one; or a validator with a status that may be
/// kept by default, `public` or `no-cache`.
fn refused_as_useless(facts: &Facts<'_>) -> Result<(), Detail> {
    let Facts { received: Received { status, fields, .. }, directives, .. } = facts;
    // Without a lifetime a validator is the only use of it; §3 permits keeping it for these statuses
    // and directives.
    let may_be_asked_about = has_validator(*fields)
        && (is_heuristically_cacheable(*status) || directives.public || directives.no_cache);
    refuse_if(facts.lifetime() == Lifetime::Unknown && !may_be_asked_about, Detail::NoFreshness)
}

/// Was it made for one user, and does the origin server not permit sharing it (§3.5, §7.3)?
fn refused_as_personal(facts: &Facts<'_>) -> Result<(), Detail> {
    let Facts { presented, received: Received { fields, .. }, rules, directives, .. } = facts;
    let explicit = facts.lifetime().is_explicit();
    let shared = directives.shares_what_is_personal();
    refuse_if(presented.authorization && !(explicit && shared), Detail::Authorization)?;
    // HTTP knows `Authorization` alone. For cookies and API keys the line is drawn at explicit
    // freshness: a server that states one has thought of caches.
    if let Some(detail) = presented.personal().filter(|_| !explicit) {
        return Err(detail);
    }
    // Deviation from §7.3: explicit freshness alone permits a cache to keep Set-Cookie, but here it
    // takes the same word as for Authorization, because servers put cookies on all they send, and a
    // session that is replayed is stolen.
    let kept = explicit && (shared || rules.share_cookies);
    // `no-cache="set-cookie"`: the field is left out, so it does not stand in the way of the rest.
    let withheld = |name: &str| explicit && directives.withheld.iter().any(|other| other == name);
    let sets = |name| fields.contains(name) && !withheld(name);
    let sets = sets("set-cookie") || sets("set-cookie2");
    refuse_if(sets && !kept, Detail::SetCookie)
}

/// Does `Connection` name the fields that say how the response may be reused (RFC 9110 §7.6.1)? They
/// are obeyed now and not stored, and would be forgotten when the response is read from a disk.
fn refused_as_unkept(fields: &Fields) -> Result<(), Detail> {
    let named = |name| fields.has_member("connection", name);
    if !named("cache-control") && !named(CDN_CACHE_CONTROL) {
        return Ok(());
    }
    let mut kept = fields.clone();
    strip_received(&mut kept);
    // Only the directives that are needed again at reuse; lifetimes have been worked out by then.
    let lasting = |fields: &Fields| {
        let all = ResponseDirectives::read(fields);
        (all.no_cache, all.prohibits_stale(), all.stale_while_revalidate, all.stale_if_error)
    };
    refuse_if(lasting(fields) != lasting(&kept), Detail::Connection)
}

/// Is it a stream of events, to which the server adds for as long as the client listens?
fn is_event_stream(fields: &Fields) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    fields.get("content-type").is_some_and(|value| {
        value.as_bytes().get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
    })
}

/// Statuses whose caching rules this cache knows (§5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        // An explicit list: a status that is in no list, such as 599, is not understood, whatever its
        // class.
        status.as_u16(),
        200..=206 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 451
            | 500..=505 | 511
    )
}

/// For how long a stale response is kept that can be validated: then a 304 saves its content.
const KEPT_TO_BE_VALIDATED: DeltaSeconds = DeltaSeconds(7 * 86_400);

/// Until when a response is of use: fresh, served stale (§4.2.4), or asked about (§4.3).
fn useful_until(
    fields: &Fields,
    directives: &ResponseDirectives,
    fresh_until: Timestamp,
    rules: &StoringRules,
) -> Timestamp {
    // The longest of its uses after it has become stale; then it is worth no room.
    let mut more = DeltaSeconds::ZERO;
    if !directives.prohibits_stale() {
        let while_revalidate =
            directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate);
        let if_error = directives.stale_if_error.unwrap_or(rules.stale_if_error);
        more = while_revalidate.max(if_error);
    }
    if has_validator(fields) {
        more = more.max(KEPT_TO_BE_VALIDATED);
    }
    fresh_until.plus(more)
}
