//! May this response be stored, and which fields of it? RFC 9111 §3.
//!
//! Whether its content arrived whole is not known yet when this is asked; the engine stores nothing
//! before the last byte has come (§3.3). `freshness.rs` says for how long a stored one is fresh.

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
    // The same list that `proxy explain` prints, so that the two cannot differ.
    for check in checks(presented, &received, rules) {
        check.verdict?;
    }
    let Received { status, fields, part, response_time, .. } = received;
    let directives = ResponseDirectives::read(fields);
    let forced = is_forced(status, rules);
    // `None` stands for `Vary: *`, which gets here under `--cache-mode force` alone: then it fits every
    // request.
    let selecting = Selecting::read(fields, sent).unwrap_or_default();
    let lifetime = freshness_lifetime(status, fields, &directives, response_time, rules.freshness);
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
    fields.shrink();
    Ok(StoredHead {
        status,
        part,
        fields,
        directives,
        selecting,
        lifetime,
        age_on_arrival,
        response_time,
        fresh_until,
        useful_until,
    })
}

/// Does `--cache-mode force` take this response, whatever it says? A 200 alone: errors forced into the
/// cache would stay.
fn is_forced(status: StatusCode, rules: &StoringRules) -> bool {
    rules.freshness.force && status == StatusCode::OK
}

/// All rules about storing a response, in the order in which they are asked. All are answered, for
/// `proxy explain`; the first that fails is the reason that is told.
pub(crate) fn checks(
    presented: &Presented,
    received: &Received<'_>,
    rules: &StoringRules,
) -> Vec<Check> {
    let Received { status, fields, response_time, .. } = *received;
    let directives = ResponseDirectives::read(fields);
    let lifetime = freshness_lifetime(status, fields, &directives, response_time, rules.freshness);
    let forced = is_forced(status, rules);
    let said = what_is_said(presented, received, &directives);
    // `force` lifts what the origin server said, not what the message is: the method, the status, the
    // length.
    let said = said.map(|check| if forced { Check { verdict: Ok(()), ..check } } else { check });
    let mut all = vec![
        check("RFC 9111 §3", METHOD, refused_by_method(presented, received, lifetime)),
        check("RFC 9111 §3, §3.3", STATUS, refused_by_status(presented, received)),
        check("RFC 9110 §15.4", REDIRECT, refuse_if(received.leads_nowhere, Detail::OwnUrl)),
    ];
    all.extend(said);
    let personal = refused_as_personal(presented, fields, &directives, lifetime, rules);
    let useless = refused_as_useless(status, fields, &directives, lifetime);
    all.extend([
        check(
            "RFC 4559 §6",
            "no connection is authenticated for one client",
            refuse_if(presented.bound || binds_connection(fields), Detail::Bound),
        ),
        check("RFC 9111 §3.5, §7.3", PERSONAL, if forced { Ok(()) } else { personal }),
        check("RFC 9111 §3, §4.2", USELESS, if forced { Ok(()) } else { useless }),
        check("RFC 9110 §7.6.1", KEPT, if forced { Ok(()) } else { refused_as_unkept(fields) }),
        check(
            "WHATWG HTML §9.2",
            "an event stream states its freshness: it has no end otherwise",
            refuse_if(is_event_stream(fields) && !lifetime.is_explicit(), Detail::EventStream),
        ),
        check(
            "--max-object-size",
            "it is not too large",
            refuse_if(
                received.length.is_some_and(|length| length > rules.object_bytes_max),
                Detail::TooLarge,
            ),
        ),
    ]);
    all
}

fn check(section: &'static str, rule: &'static str, verdict: Result<(), Detail>) -> Check {
    Check { section, rule, verdict }
}

/// What the directives and `Vary` forbid, which `--cache-mode force` does not obey.
fn what_is_said(
    presented: &Presented,
    received: &Received<'_>,
    directives: &ResponseDirectives,
) -> [Check; 6] {
    let Received { status, fields, .. } = *received;
    [
        check(
            "RFC 9111 §5.2.1.5",
            "the request does not say no-store",
            refuse_if(presented.directives.no_store, Detail::NoStore),
        ),
        check(
            "RFC 9111 §5.2.2.3",
            "must-understand comes with a status that is understood",
            refuse_if(directives.must_understand && !is_understood(status), Detail::MustUnderstand),
        ),
        check(
            "RFC 9111 §5.2.2.5",
            "the response does not say no-store, unless must-understand is beside it",
            refuse_if(directives.no_store && !directives.must_understand, Detail::NoStore),
        ),
        check(
            "RFC 9111 §5.2.2.7",
            "the response is not private",
            refuse_if(directives.private, Detail::Private),
        ),
        check(
            "RFC 9111 §5.2.2.4",
            "no-cache comes with a validator: without one it could never be reused",
            refuse_if(directives.no_cache && !has_validator(fields), Detail::NoCache),
        ),
        check(
            "RFC 9111 §4.1",
            "Vary names no *",
            refuse_if(matches_none(fields), Detail::VaryStar),
        ),
    ]
}

const PERSONAL: &str =
    "what is made for one user is shared only where the origin server permits it";
const USELESS: &str = "freshness is stated, or assumed, or a validator lets it be asked about";
const KEPT: &str = "what says how a response may be reused is not meant for one connection alone";
const METHOD: &str =
    "the method is GET, or POST with explicit freshness and its own Content-Location";
const REDIRECT: &str = "a redirect leads to another URL than the one that was asked for";
const STATUS: &str = "the status is final and about the target, and a 206 says which part it is";

fn refuse_if(forbidden: bool, detail: Detail) -> Result<(), Detail> {
    if forbidden { Err(detail) } else { Ok(()) }
}

/// Is the response one to GET, or what a GET would have brought (§3, RFC 9110 §9.3.3)?
fn refused_by_method(
    presented: &Presented,
    received: &Received<'_>,
    lifetime: Lifetime,
) -> Result<(), Detail> {
    let describes = received.describes_target && received.status == StatusCode::OK;
    // §9.3.3 asks for explicit freshness and a Content-Location that is the target URI: only then is it
    // the response to a later GET.
    let posted = presented.post && describes && lifetime.is_explicit();
    refuse_if(presented.content, Detail::Content)?;
    refuse_if(!presented.get && !posted, Detail::Method)
}

/// §3: the status is final, and says something about the target, not about one request's conditions.
fn refused_by_status(presented: &Presented, received: &Received<'_>) -> Result<(), Detail> {
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
fn refused_as_useless(
    status: StatusCode,
    fields: &Fields,
    directives: &ResponseDirectives,
    lifetime: Lifetime,
) -> Result<(), Detail> {
    // Without a lifetime a validator is the only use of it; §3 permits keeping it for these statuses
    // and directives.
    let may_be_asked_about = has_validator(fields)
        && (is_heuristically_cacheable(status) || directives.public || directives.no_cache);
    refuse_if(lifetime == Lifetime::Unknown && !may_be_asked_about, Detail::NoFreshness)
}

/// Was it made for one user, and does the origin server not permit sharing it (§3.5, §7.3)?
fn refused_as_personal(
    presented: &Presented,
    fields: &Fields,
    directives: &ResponseDirectives,
    lifetime: Lifetime,
    rules: &StoringRules,
) -> Result<(), Detail> {
    let explicit = lifetime.is_explicit();
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
