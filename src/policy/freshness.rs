//! Freshness lifetime: for how long may a stored response be reused without asking the origin
//! server? RFC 9111 §4.2.
//!
//! `age.rs` computes the age on arrival and `reuse.rs` compares; this file does neither. Every span
//! is a [`DeltaSeconds`], which saturates: nothing below can overflow (§1.2.2).

use std::time::Duration;

use http::StatusCode;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;

/// A freshness lifetime, and whose word it is.
///
/// The origin server's word is kept apart from everyone else's because §4.2.2 forbids the guess
/// where the word exists, and because what is fresh only by a guess is never shared between
/// requests that carry credentials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifetime {
    /// The origin server said so.
    Explicit(DeltaSeconds),
    /// It said nothing; the operator did (`--default-ttl`, and `--cache-ttl` rounded up).
    Operator(DeltaSeconds),
    /// A tenth of the time since it was last modified (§4.2.2).
    Heuristic(DeltaSeconds),
    /// Neither stated nor guessable: reuse needs validation.
    Unknown,
}

impl Lifetime {
    /// The span, counted from when the origin server generated the response.
    pub fn span(self) -> DeltaSeconds {
        match self {
            Self::Explicit(span) | Self::Operator(span) | Self::Heuristic(span) => span,
            Self::Unknown => DeltaSeconds::ZERO,
        }
    }

    /// Is it the origin server's own word?
    pub(crate) fn is_explicit(self) -> bool {
        matches!(self, Self::Explicit(_))
    }
}

/// What the operator said about freshness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FreshnessRules {
    /// `--cache-ttl`: nothing is reused later than this after it was received, to the millisecond.
    pub cache_ttl: Option<Duration>,
    /// `--default-ttl`: [`DeltaSeconds::MAX`] means "until cleared", and zero leaves it to the
    /// heuristic.
    pub default_ttl: DeltaSeconds,
    /// `--cache-mode force`: a 200 is fresh whatever the origin server said.
    pub force: bool,
}

/// The freshness lifetime of a response, counted from its generation (RFC 9111 §4.2.1).
///
/// The first match wins: `s-maxage` (this is a shared cache), `max-age`, `Expires` minus `Date`,
/// then the operator's word and the heuristic of §4.2.2, the longer of the two. A field that is
/// present but unreadable is the origin server's word too, and means zero, never
/// [`Lifetime::Unknown`].
pub fn freshness_lifetime(
    status: StatusCode,
    fields: &Fields,
    directives: &ResponseDirectives,
    response_time: Timestamp,
    rules: FreshnessRules,
) -> Lifetime {
    if rules.force && status == StatusCode::OK {
        return Lifetime::Operator(
            rules.cache_ttl.map_or(DeltaSeconds::MAX, DeltaSeconds::covering),
        );
    }
    // The first of them that is present decides alone: a zero `max-age` is not rescued by a future
    // Expires, nor a positive one harmed by a past one.
    if let Some(span) = directives.s_maxage.or(directives.max_age) {
        return Lifetime::Explicit(span);
    }
    // §4.2.1: without a Date, counted from the time the response was received. Never from the clock
    // where there is a Date: both dates are the origin server's, whose clock may be wrong.
    let date = fields.date("date", response_time).unwrap_or(response_time);
    if fields.contains("expires") && !directives.targeted {
        // §5.3: an invalid date, the value "0" above all, is a time in the past.
        let expires = fields.date("expires", response_time).unwrap_or(Timestamp(0));
        return Lifetime::Explicit(expires.seconds_since(date));
    }
    // From here on nothing was stated, which alone permits a guess (§4.2.2).
    let heuristic = heuristic_lifetime(status, fields, directives, date, response_time);
    let operator = rules.cache_ttl.map_or(rules.default_ttl, DeltaSeconds::covering);
    // `--default-ttl` is not for every status: an error page that stays until it is cleared would
    // outlive the error.
    if !is_kept_by_default(status) || operator == DeltaSeconds::ZERO {
        return heuristic;
    }
    // The longer of the two holds: the default is for servers that say nothing, not a cap for those
    // that do.
    if rules.cache_ttl.is_none() && heuristic.span() > operator {
        return heuristic;
    }
    Lifetime::Operator(operator)
}

/// §4.2.2: a tenth of the time between `Last-Modified` and `Date`.
fn heuristic_lifetime(
    status: StatusCode,
    fields: &Fields,
    directives: &ResponseDirectives,
    date: Timestamp,
    response_time: Timestamp,
) -> Lifetime {
    // §4.2.2 permits the guess for these statuses, and for any that is marked `public`.
    if !is_heuristically_cacheable(status) && !directives.public {
        return Lifetime::Unknown;
    }
    match fields.date("last-modified", response_time) {
        Some(modified) => Lifetime::Heuristic(DeltaSeconds(date.seconds_since(modified).0 / 10)),
        None => Lifetime::Unknown,
    }
}

/// Is a response with this status cacheable by default (RFC 9110 §15.1)?
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The statuses to which `--default-ttl` and `--cache-ttl` give a lifetime.
fn is_kept_by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 300 | 301 | 308)
}

/// Until when a response may be reused without validation: its lifetime less its age on arrival,
/// and never later than `--cache-ttl` after it came (§4.2).
///
/// The lifetime that `--cache-ttl` gives is counted from the arrival, whatever `Age` said.
pub fn fresh_until(
    lifetime: Lifetime,
    age_on_arrival: DeltaSeconds,
    response_time: Timestamp,
    rules: FreshnessRules,
) -> Timestamp {
    let given = match lifetime {
        // The operator's word is about this cache, so it is counted from here, below; `Age` is about
        // caches before it.
        Lifetime::Operator(_) if rules.cache_ttl.is_some() => Timestamp::MAX,
        Lifetime::Operator(DeltaSeconds::MAX) if age_on_arrival < DeltaSeconds::MAX => {
            Timestamp::MAX
        }
        // It may lie before the arrival: permissions to serve it stale count from here, too.
        _ => response_time.plus(lifetime.span()).minus(age_on_arrival),
    };
    rules.cache_ttl.map_or(given, |cap| given.min(response_time.after(cap)))
}
