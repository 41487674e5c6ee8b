//! Why the cache did what it did, in the words of RFC 9211. One spelling of each reason feeds the
//! `Cache-Status` field, the access log and the counters.

use std::fmt;

/// Why a request went on to the origin server (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// The cache was told not to handle this request.
    Bypass,
    /// The method asks for it.
    Method,
    /// Nothing is stored for the target URI.
    UriMiss,
    /// What is stored for it was made for other selecting header fields.
    VaryMiss,
    /// The request's own directives ask for it.
    Request,
    /// What is stored is stale.
    Stale,
}

impl Why {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Bypass, Self::Method, Self::UriMiss, Self::VaryMiss, Self::Request, Self::Stale];

    /// The token of RFC 9211.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// The particular rule behind it (RFC 9211 §2.8).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Detail {
    /// The cache is turned off (`--cache-size-limit 0`).
    Disabled,
    /// The request has a `Range`.
    Range,
    /// The request's credentials rule out what is fresh only by a guess.
    Cookie,
    /// The same for `Authorization`; or the response may not be shared (RFC 9111 §3.5).
    Authorization,
    /// The request said `no-cache`, or the response did.
    NoCache,
    /// The request said `max-age`, and what is stored is older.
    MaxAge,
    /// The request or the response said `no-store`.
    NoStore,
    /// The stored response has been reused as often as `--hit-ttl` allows.
    HitTtl,
    /// The response said `private`.
    Private,
    /// The response has a status that is not stored.
    Status,
    /// A 206, which is a part only.
    Partial,
    /// The response sets a cookie.
    SetCookie,
    /// The response says `Vary: *`.
    VaryStar,
    /// The response states no freshness, and none may be assumed.
    NoFreshness,
    /// `no-store` beside `must-understand` and a status that is not understood.
    MustUnderstand,
    /// Larger than `--max-object-size`.
    TooLarge,
    /// No room in memory for another body that is on its way in.
    Memory,
    /// Its end could not be proven: delimited by a close that nobody announced.
    CloseDelimited,
    /// It ended too early.
    Truncated,
    /// The cache was cleared while it was on its way in.
    Cleared,
    /// Recently this URI gave answers that cannot be shared, so nobody waited for another's.
    HitForMiss,
    /// Stale, and served because the origin server failed.
    StaleIfError,
    /// Stale, and served while a new one is fetched.
    StaleWhileRevalidate,
    /// Served from the cache because the origin server may not be asked.
    Offline,
    /// The request said `only-if-cached`, and nothing usable is stored.
    OnlyIfCached,
    /// No connection to the origin server.
    Connect,
    /// The origin server was too slow.
    Timeout,
    /// The TLS handshake with the origin server failed.
    Tls,
    /// The origin server's response was no valid HTTP.
    Invalid,
    /// Every worker is busy and the queue is full.
    Full,
    /// The request has passed through this proxy too often.
    Loop,
}

impl Detail {
    /// The token that goes into `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Range => "range",
            Self::Cookie => "cookie",
            Self::Authorization => "authorization",
            Self::NoCache => "no-cache",
            Self::MaxAge => "max-age",
            Self::NoStore => "no-store",
            Self::HitTtl => "hit-ttl",
            Self::Private => "private",
            Self::Status => "status",
            Self::Partial => "partial",
            Self::SetCookie => "set-cookie",
            Self::VaryStar => "vary-star",
            Self::NoFreshness => "no-freshness",
            Self::MustUnderstand => "must-understand",
            Self::TooLarge => "too-large",
            Self::Memory => "memory",
            Self::CloseDelimited => "close-delimited",
            Self::Truncated => "truncated",
            Self::Cleared => "cleared",
            Self::HitForMiss => "hit-for-miss",
            Self::StaleIfError => "stale-if-error",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::Offline => "offline",
            Self::OnlyIfCached => "only-if-cached",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Invalid => "invalid",
            Self::Full => "full",
            Self::Loop => "loop",
        }
    }
}

/// What the cache did with one request, as `Cache-Status` tells it (RFC 9211 §2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheStatus {
    /// Answered from the cache without asking the origin server.
    pub hit: bool,
    /// Why it was forwarded.
    pub why: Option<Why>,
    /// The status that the origin server answered.
    pub forward_status: Option<u16>,
    /// Seconds of freshness left; negative for a stale response.
    pub freshness_left: Option<i64>,
    /// The response is being stored.
    pub stored: bool,
    /// It waited for another request's answer, and got it.
    pub collapsed: bool,
    /// The particular rule.
    pub detail: Option<Detail>,
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("proxy")?;
        if self.hit {
            f.write_str("; hit")?;
        }
        if let Some(why) = self.why {
            write!(f, "; fwd={}", why.as_str())?;
        }
        if let Some(status) = self.forward_status {
            write!(f, "; fwd-status={status}")?;
        }
        if let Some(seconds) = self.freshness_left {
            write!(f, "; ttl={seconds}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(detail) = self.detail {
            write!(f, "; detail={}", detail.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_written_as_rfc_9211_says() {
        let hit = CacheStatus { hit: true, freshness_left: Some(59), ..CacheStatus::default() };
        assert_eq!(hit.to_string(), "proxy; hit; ttl=59");
        let miss = CacheStatus {
            why: Some(Why::UriMiss),
            forward_status: Some(200),
            stored: true,
            ..CacheStatus::default()
        };
        assert_eq!(miss.to_string(), "proxy; fwd=uri-miss; fwd-status=200; stored");
        let stale = CacheStatus {
            why: Some(Why::Stale),
            detail: Some(Detail::StaleIfError),
            ..CacheStatus::default()
        };
        assert_eq!(stale.to_string(), "proxy; fwd=stale; detail=stale-if-error");
    }
}
