//! What a response says about limits on requests: that there were too many, until when, and whether a
//! whole quota is spent. RFC 6585 §4, RFC 9110 §10.2.3 and §15.6.4, draft-ietf-httpapi-ratelimit-headers.
//!
//! Whom a limit concerns, and who is held back, is decided before the origin server, in `origin::gate`.

use http::StatusCode;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::{Fields, split_unquoted};
use crate::policy::cache_control::{ResponseDirectives, read_seconds};

/// Beyond this, `X-RateLimit-Reset` is not a span but a date, in seconds since 1970: GitHub means the
/// one, others the other.
const SPAN_MAX: DeltaSeconds = DeltaSeconds(1_000_000_000);

/// The origin server has had too many requests, or has no room for this one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit {
    /// For how long, at least a second.
    pub wait: DeltaSeconds,
    /// Nothing is left of the quota; else the limit may be one of this path alone.
    pub is_spent: bool,
}

/// The limit that a response to a GET or HEAD states; `None` if it does not say for how long.
pub fn limit(status: StatusCode, fields: &Fields, now: Timestamp) -> Option<Limit> {
    let status = counts_as(status, fields);
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let is_spent = is_spent(fields);
    // A Retry-After that cannot be read is not replaced by the quota's end: the server has spoken, and
    // nobody knows what it meant.
    let wait = if fields.contains("retry-after") {
        retry_after(fields, now)
    } else {
        reset(fields, now).filter(|_| is_spent)
    };
    // Zero, or a date that is past, holds nobody back.
    let wait = wait.filter(|wait| *wait > DeltaSeconds::ZERO)?;
    Some(Limit { wait, is_spent })
}

/// A 403 with a Retry-After or a spent quota is a 429 by another name: GitHub's API answers so.
pub fn counts_as(status: StatusCode, fields: &Fields) -> StatusCode {
    let limits = || fields.contains("retry-after") || is_spent(fields);
    if status == StatusCode::FORBIDDEN && limits() { StatusCode::TOO_MANY_REQUESTS } else { status }
}

/// What of such a response all clients are told who are held back: nothing that was for one client
/// alone. `None` if it may not be kept for anybody.
pub fn told_to_all(fields: &Fields) -> Option<Fields> {
    let directives = ResponseDirectives::read(fields);
    if directives.no_store || directives.private {
        return None;
    }
    let mut told = fields.clone();
    // A list of what passes, not of what does not: a cookie or a token in an unknown field must not
    // reach others.
    told.retain(|name, _| {
        let name = name.as_str();
        matches!(name, "content-type" | "content-encoding" | "content-language")
            || ["ratelimit", "x-ratelimit", "x-rate-limit"].iter().any(|it| name.starts_with(it))
    });
    // It is kept, and the head that it came in is not.
    told.shrink();
    Some(told)
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(fields: &Fields, now: Timestamp) -> Option<DeltaSeconds> {
    let value = fields.get("retry-after")?.as_bytes().trim_ascii();
    match read_seconds(value) {
        Some(seconds) => Some(seconds),
        None => Some(fields.date("retry-after", now)?.seconds_since(now)),
    }
}

/// Is nothing left of the quota, by any of the names in use?
fn is_spent(fields: &Fields) -> bool {
    ["x-ratelimit-remaining", "x-rate-limit-remaining", "ratelimit-remaining"]
        .iter()
        .any(|name| number(fields, name) == Some(DeltaSeconds::ZERO))
        || items(fields).any(|(name, number)| {
            matches!(name, b"r" | b"remaining") && number == DeltaSeconds::ZERO
        })
}

/// When the quota is given anew: the longest of what is stated. A shorter one may be of another quota,
/// that is not the one that is spent.
fn reset(fields: &Fields, now: Timestamp) -> Option<DeltaSeconds> {
    let span = |number: DeltaSeconds| {
        let date = Timestamp::from_seconds(u64::from(number.0));
        if number > SPAN_MAX { date.seconds_since(now) } else { number }
    };
    ["x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset"]
        .iter()
        .filter_map(|name| number(fields, name))
        .chain(items(fields).filter(|(name, _)| matches!(*name, b"t" | b"reset")).map(|it| it.1))
        .map(span)
        .max()
}

fn number(fields: &Fields, name: &str) -> Option<DeltaSeconds> {
    read_seconds(fields.get(name)?.as_bytes().trim_ascii())
}

/// The numbers of `RateLimit`: parameters of its members (`"hour";r=0;t=60`), or, as older drafts had
/// it, members themselves (`limit=100, remaining=0, reset=60`).
fn items(fields: &Fields) -> impl Iterator<Item = (&[u8], DeltaSeconds)> {
    fields.members("ratelimit").flat_map(|member| split_unquoted(member, b';')).filter_map(|item| {
        let at = item.iter().position(|byte| *byte == b'=')?;
        Some((item[..at].trim_ascii(), read_seconds(item[at + 1..].trim_ascii())?))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fields(text: &str) -> Fields {
        let lines = text.split(" | ").filter_map(|line| line.split_once(": "));
        let line = |(name, value): (&str, &str)| {
            let name = HeaderName::try_from(name).expect("a name");
            (name, HeaderValue::try_from(value).expect("a value"))
        };
        lines.map(line).collect()
    }

    #[test]
    fn a_limit_is_read_from_status_retry_after_and_quota() {
        // 2027-01-15 08:00:00 GMT.
        let now = Timestamp::from_seconds(1_800_000_000);
        let path = |wait| Some((wait, false));
        let quota = |wait| Some((wait, true));
        #[rustfmt::skip]
        let table = [
            (429, "Retry-After: 5", path(5)),
            (503, "Retry-After: 5", path(5)),
            (403, "Retry-After: 5", path(5)),
            (500, "Retry-After: 5", None),
            (301, "Retry-After: 5", None),
            (200, "Retry-After: 5 | X-RateLimit-Remaining: 0", None),
            (429, "Retry-After: Fri, 15 Jan 2027 08:00:09 GMT", path(9)),
            (429, "Retry-After: 0", None),
            (429, "Retry-After: soon", None),
            (429, "A: b", None),
            (429, "Retry-After: 5 | X-RateLimit-Remaining: 0", quota(5)),
            (503, "Retry-After: 5 | X-RateLimit-Remaining: 00", quota(5)),
            (429, "Retry-After: 5 | X-RateLimit-Remaining: 1", path(5)),
            (429, "Retry-After: 5 | X-RateLimit-Remaining: zero", path(5)),
            (429, "Retry-After: 5 | X-Rate-Limit-Remaining: 0", quota(5)),
            (429, "Retry-After: 5 | RateLimit-Remaining: 0", quota(5)),
            (429, "Retry-After: 5 | RateLimit: \"day\";r=9;t=1, \"hour\"; r=0; t=50", quota(5)),
            (429, "Retry-After: 5 | RateLimit: \"r=0;r=0\";r=7;t=50", path(5)),
            (429, "Retry-After: 5 | RateLimit: limit=10, remaining=0, reset=7", quota(5)),
            // Without Retry-After, a spent quota says when it is given anew.
            (429, "RateLimit: \"hour\";r=0;t=50", quota(50)),
            (429, "RateLimit: \"hour\";r=1;t=50", None),
            (429, "RateLimit: limit=10, remaining=0, reset=7", quota(7)),
            (403, "X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 1800000012", quota(12)),
            (403, "X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 1700000000", None),
            (403, "X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 30", quota(30)),
            (403, "X-RateLimit-Remaining: 5 | X-RateLimit-Reset: 30", None),
            (403, "X-RateLimit-Remaining: 0", None),
            (429, "Retry-After: soon | X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 30", None),
        ];
        for (status, text, expected) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            let read = limit(status, &fields(text), now);
            assert_eq!(read.map(|it| (it.wait.0, it.is_spent)), expected, "{status} {text}");
        }
    }

    #[test]
    fn a_403_that_limits_is_a_429() {
        for (text, expected) in [
            ("Retry-After: 5", 429),
            ("X-RateLimit-Remaining: 0", 429),
            ("RateLimit: \"a\";r=0", 429),
            ("X-RateLimit-Remaining: 9", 403),
            ("A: b", 403),
        ] {
            assert_eq!(counts_as(StatusCode::FORBIDDEN, &fields(text)), expected, "{text}");
        }
        assert_eq!(counts_as(StatusCode::NOT_FOUND, &fields("Retry-After: 5")), 404);
    }

    #[test]
    fn what_was_for_one_client_is_not_told_to_all() {
        let told = told_to_all(&fields(
            "Content-Type: a/b | Set-Cookie: a=b | RateLimit: \"a\";r=0 | X-RateLimit-Limit: 5 | \
             ETag: \"x\" | X-User: me",
        ));
        let expected = fields("Content-Type: a/b | RateLimit: \"a\";r=0 | X-RateLimit-Limit: 5");
        assert_eq!(told, Some(expected));
        for text in ["Cache-Control: private", "Cache-Control: No-Store, max-age=5"] {
            assert_eq!(told_to_all(&fields(text)), None, "{text}");
        }
    }
}
