//! May this response be stored, and which fields of it? RFC 9111 §3.
//!
//! Whether its content arrived whole is not known yet when this is asked; the engine stores nothing
//! before the last byte has come (§3.3). `freshness.rs` says for how long a stored one is fresh.

use http::{HeaderName, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::age::corrected_initial_age;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::{FreshnessRules, Lifetime, fresh_until, freshness_lifetime};
use crate::policy::reason::Detail;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredHead;
use crate::policy::vary::Selecting;

/// What the operator said about storing.
#[derive(Clone, Copy, Debug)]
pub struct StoringRules {
    /// Freshness where the origin server states none, and its bound.
    pub freshness: FreshnessRules,
    /// `--share-cookies`: any explicit freshness is leave enough to keep `Set-Cookie`.
    pub share_cookies: bool,
    /// `--stale-if-error`: how long a stale response may stand in for a failed origin server.
    pub stale_if_error: DeltaSeconds,
    /// `--stale-while-revalidate`, for responses that state none.
    pub stale_while_revalidate: DeltaSeconds,
    /// `--max-object-size`, in bytes.
    pub object_bytes_max: u64,
}

/// The head of an origin server's response, without hop-by-hop fields.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The status code.
    pub status: StatusCode,
    /// The header section.
    pub fields: &'a Fields,
    /// The length of the content, where the head states it.
    pub length: Option<u64>,
    /// When the request was received.
    pub request_time: Timestamp,
    /// When the head arrived.
    pub response_time: Timestamp,
}

/// May the response to `presented` be stored? If so, all of it but the content; if not, the rule
/// that forbids it (§3).
///
/// `sent` is the request as the origin server got it; its fields select among variants (§4.1).
pub fn storable(
    presented: &Presented,
    sent: &Fields,
    received: Received<'_>,
    rules: &StoringRules,
) -> Result<StoredHead, Detail> {
    let Received { status, fields, response_time, .. } = received;
    let directives = ResponseDirectives::read(fields);
    let forced = rules.freshness.force && status == StatusCode::OK;
    if !presented.get || presented.range {
        return Err(if presented.range { Detail::Range } else { Detail::Status });
    }
    refused_by_status(status, fields)?;
    let lifetime = freshness_lifetime(status, fields, &directives, response_time, rules.freshness);
    if !forced {
        refused_by_directives(presented, status, &directives)?;
        refused_as_personal(presented, fields, &directives, lifetime, rules)?;
        if lifetime == Lifetime::Unknown {
            return Err(Detail::NoFreshness);
        }
    }
    let selecting = match Selecting::read(fields, sent) {
        Some(selecting) => selecting,
        None if forced => Selecting::default(),
        None => return Err(Detail::VaryStar),
    };
    if received.length.is_some_and(|length| length > rules.object_bytes_max) {
        return Err(Detail::TooLarge);
    }
    let age_on_arrival = corrected_initial_age(fields, received.request_time, response_time);
    let fresh_until = fresh_until(lifetime, age_on_arrival, response_time, rules.freshness);
    let useful_until = useful_until(&directives, fresh_until, rules);
    let mut fields = fields.clone();
    let withheld =
        |name: &HeaderName| directives.withheld.contains(name) || forced && *name == "set-cookie";
    fields.retain(|name, _| !withheld(name));
    fields.shrink();
    Ok(StoredHead {
        status,
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

/// §3: the status is final, and the response is a whole one.
fn refused_by_status(status: StatusCode, fields: &Fields) -> Result<(), Detail> {
    if status == StatusCode::PARTIAL_CONTENT {
        return Err(Detail::Partial);
    }
    // A 416 says something about one request's range, not about the target.
    let about_a_range =
        status == StatusCode::RANGE_NOT_SATISFIABLE && fields.contains("content-range");
    if status.is_informational() || status == StatusCode::NOT_MODIFIED || about_a_range {
        return Err(Detail::Status);
    }
    Ok(())
}

/// §3, §5.2.1.5, §5.2.2.3 to §5.2.2.7: what the directives of both sides forbid.
fn refused_by_directives(
    presented: &Presented,
    status: StatusCode,
    directives: &ResponseDirectives,
) -> Result<(), Detail> {
    if presented.directives.no_store {
        return Err(Detail::NoStore);
    }
    if directives.must_understand && !is_understood(status) {
        return Err(Detail::MustUnderstand);
    }
    // §5.2.2.3: beside must-understand and an understood status, no-store is for other caches.
    if directives.no_store && !directives.must_understand {
        return Err(Detail::NoStore);
    }
    if directives.private {
        return Err(Detail::Private);
    }
    // Without validation, which this cache does not do yet, such a response is of no use.
    if directives.no_cache {
        return Err(Detail::NoCache);
    }
    Ok(())
}

/// §3.5, §7.3: what is made for one user is kept only where the origin server says so.
fn refused_as_personal(
    presented: &Presented,
    fields: &Fields,
    directives: &ResponseDirectives,
    lifetime: Lifetime,
    rules: &StoringRules,
) -> Result<(), Detail> {
    let explicit = lifetime.is_explicit();
    let shared = directives.shares_what_is_personal();
    if presented.authorization && !(explicit && shared) {
        return Err(Detail::Authorization);
    }
    if presented.cookie && !explicit {
        return Err(Detail::Cookie);
    }
    let kept = explicit && (shared || rules.share_cookies);
    if (fields.contains("set-cookie") || fields.contains("set-cookie2")) && !kept {
        return Err(Detail::SetCookie);
    }
    Ok(())
}

/// Statuses whose caching rules this cache knows (§5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 451
            | 500..=505 | 511
    )
}

/// Until when a response may still be served stale; `fresh_until` if it never may (§4.2.4).
fn useful_until(
    directives: &ResponseDirectives,
    fresh_until: Timestamp,
    rules: &StoringRules,
) -> Timestamp {
    if directives.prohibits_stale() {
        return fresh_until;
    }
    let while_revalidate =
        directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate);
    let if_error = directives.stale_if_error.unwrap_or(rules.stale_if_error);
    fresh_until.plus(while_revalidate.max(if_error))
}
