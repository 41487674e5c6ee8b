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
    /// Parts are stored, and others are asked for.
    Partial,
}

impl Why {
    /// All of them, in the order of the counters.
    pub(crate) const ALL: [Self; 7] = [
        Self::Bypass,
        Self::Method,
        Self::UriMiss,
        Self::VaryMiss,
        Self::Request,
        Self::Stale,
        Self::Partial,
    ];

    /// The token of RFC 9211.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// The rule that decided (RFC 9211 §2.8).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Detail {
    /// The cache is turned off (`--cache-size-limit 0`).
    Disabled,
    /// The request has a condition that only the origin server may evaluate (RFC 9110 §13.1).
    Precondition,
    /// The 304 was about another representation than the one stored (RFC 9111 §4.3.4).
    Validator,
    /// A part is stored, and the rest was asked for (RFC 9111 §3.3).
    Rest,
    /// The request is a GET or HEAD with content, which the cache key does not hold.
    Content,
    /// The request's credentials rule out what is fresh only by a guess.
    Cookie,
    /// The same for `Authorization`; or the response may not be shared (RFC 9111 §3.5).
    Authorization,
    /// The same for credentials by another name, or a signed URI.
    Credentials,
    /// The request said `no-cache`, or the response did.
    NoCache,
    /// The request said `max-age`, and what is stored is older.
    MaxAge,
    /// The request said `min-fresh`, and what is stored is not fresh for so long.
    MinFresh,
    /// The request or the response said `no-store`.
    NoStore,
    /// The stored response has been reused as often as `--hit-ttl` allows.
    HitTtl,
    /// The response said `private`.
    Private,
    /// The method's responses are not stored.
    Method,
    /// The response has a status that is not stored.
    Status,
    /// The response redirects to the URL that was asked for.
    OwnUrl,
    /// NTLM or Negotiate authenticates the client's connection.
    Bound,
    /// A 206, which is a part only.
    Partial,
    /// An event stream, which has no end.
    EventStream,
    /// The response sets a cookie.
    SetCookie,
    /// The response says `Vary: *`.
    VaryStar,
    /// The response states no freshness, and none may be assumed.
    NoFreshness,
    /// `no-store` beside `must-understand` and a status that is not understood.
    MustUnderstand,
    /// The response's `Connection` takes out the field that says how it may be reused.
    Connection,
    /// Larger than `--max-object-size`.
    TooLarge,
    /// No memory is left for another body that is on its way in.
    Memory,
    /// The end of the body could not be proven: it was delimited by a close that nobody announced.
    CloseDelimited,
    /// The body ended too early.
    Truncated,
    /// The cache was cleared while it was on its way in.
    Cleared,
    /// Another response was stored, or this one was removed, while the origin server was asked about
    /// it.
    Replaced,
    /// Recently this URI gave responses that cannot be shared, so no request waited for another's.
    HitForMiss,
    /// Stale, and served because the origin server failed.
    StaleIfError,
    /// Stale, and served because the request said `max-stale`.
    MaxStale,
    /// Stale, and served while a new one is fetched.
    StaleWhileRevalidate,
    /// Served from the cache because the origin server may not be asked.
    Offline,
    /// Made for a request with other selecting fields, and served because the origin server may not be asked.
    Variant,
    /// The request said `only-if-cached`, and nothing usable is stored.
    OnlyIfCached,
    /// No connection to the origin server.
    Connect,
    /// The origin server could not be reached a moment ago, and is asked once a second.
    Down,
    /// The origin server has asked to be left alone for a while (RFC 9110 §10.2.3).
    RetryAfter,
    /// `--origin-rate`, `--origin-concurrency` or `--origin-connections` has been reached.
    Rate,
    /// The origin server was too slow.
    Timeout,
    /// The TLS handshake with the origin server failed.
    Tls,
    /// The origin server's response was no valid HTTP.
    Invalid,
    /// The proxy could not put the request on the wire.
    Unsent,
    /// Every worker is busy and the queue is full.
    Full,
    /// The connection goes over to another protocol.
    Upgrade,
    /// The connection was to go over to another protocol, and the origin server has answered in HTTP.
    UpgradeDeclined,
    /// The request has passed through this proxy too often.
    Loop,
}

impl Detail {
    /// The token that goes into `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Precondition => "precondition",
            Self::Validator => "validator",
            Self::Rest => "rest",
            Self::Content => "content",
            Self::Cookie => "cookie",
            Self::Authorization => "authorization",
            Self::Credentials => "credentials",
            Self::NoCache => "no-cache",
            Self::MaxAge => "max-age",
            Self::MinFresh => "min-fresh",
            Self::NoStore => "no-store",
            Self::HitTtl => "hit-ttl",
            Self::Private => "private",
            Self::Method => "method",
            Self::Status => "status",
            Self::OwnUrl => "own-url",
            Self::Bound => "bound",
            Self::Partial => "partial",
            Self::EventStream => "event-stream",
            Self::SetCookie => "set-cookie",
            Self::VaryStar => "vary-star",
            Self::NoFreshness => "no-freshness",
            Self::MustUnderstand => "must-understand",
            Self::Connection => "connection",
            Self::TooLarge => "too-large",
            Self::Memory => "memory",
            Self::CloseDelimited => "close-delimited",
            Self::Truncated => "truncated",
            Self::Cleared => "cleared",
            Self::Replaced => "replaced",
            Self::HitForMiss => "hit-for-miss",
            Self::StaleIfError => "stale-if-error",
            Self::MaxStale => "max-stale",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::Offline => "offline",
            Self::Variant => "variant",
            Self::OnlyIfCached => "only-if-cached",
            Self::Connect => "connect",
            Self::Down => "down",
            Self::RetryAfter => "retry-after",
            Self::Rate => "rate",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Invalid => "invalid",
            Self::Unsent => "unsent",
            Self::Full => "full",
            Self::Upgrade => "upgrade",
            Self::UpgradeDeclined => "upgrade-declined",
            Self::Loop => "loop",
        }
    }

    /// Was the response overtaken on its way, by an invalidation or by a newer response?
    pub(crate) fn is_overtaken(self) -> bool {
        // Such a response answers those who asked before that, and is of no use to anybody later.
        matches!(self, Self::Cleared | Self::Replaced)
    }

    /// Is it the origin server's word that a response is not for a shared cache?
    pub(crate) fn forbids_sharing(self) -> bool {
        matches!(self, Self::NoStore | Self::Private | Self::VaryStar | Self::MustUnderstand)
    }

    /// What an operator can do about it, in flags; `None` if nothing.
    pub(crate) fn remedy(self) -> Option<&'static str> {
        // Only where a flag changes this very outcome: `proxy explain` prints it as advice.
        match self {
            Self::Disabled => Some("--cache-size-limit above 0"),
            Self::NoStore | Self::Private | Self::VaryStar | Self::NoCache => {
                Some("--cache-mode force stores every 200 to a GET")
            }
            Self::MustUnderstand => {
                Some("--cache-mode force stores every 200 to a GET, for one user alone")
            }
            Self::Authorization | Self::Cookie | Self::Credentials => {
                Some("--share-credentials stores and reuses it as if the request had none")
            }
            Self::OwnUrl => {
                Some("--public-url, or --trust-forwarded, tells the origin server what clients see")
            }
            Self::SetCookie => Some(
                "--share-cookies keeps it under explicit freshness; --cache-mode force without it",
            ),
            Self::NoFreshness => Some("--default-ttl for 200, 203, 300, 301 and 308"),
            Self::TooLarge => Some("--max-object-size, and four times that of --cache-memory"),
            Self::Memory => Some("--cache-memory"),
            Self::HitTtl => Some("--hit-ttl"),
            Self::MaxAge | Self::MinFresh => {
                Some("--cache-mode force ignores what the request says")
            }
            Self::StaleIfError => Some("--stale-if-error"),
            Self::StaleWhileRevalidate => Some("--stale-while-revalidate"),
            Self::Offline | Self::Variant => Some("--cache-mode standard"),
            Self::Connect | Self::Timeout | Self::Down => {
                Some("--origin, --connect-timeout, --origin-timeout")
            }
            Self::Tls => Some("--ca-cert, --insecure"),
            Self::Rate => Some("--origin-rate, --origin-concurrency, --origin-connections"),
            Self::Full => Some("--workers"),
            _ => None,
        }
    }
}

/// What the cache did with one request, as `Cache-Status` tells it (RFC 9211 §2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one property of an answer")]
pub struct CacheStatus {
    /// The response is one that is stored: fresh, freshened, permitted stale, or just fetched by another
    /// request. RFC 9211 has no parameter for it; `X-Cache: HIT` says it.
    pub from_cache: bool,
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
    /// It waited for another request's response, and was answered with that.
    pub collapsed: bool,
    /// The particular rule.
    pub detail: Option<Detail>,
}

impl CacheStatus {
    /// Of a connection that the origin server has agreed to use for another protocol (RFC 9110 §7.8).
    pub fn of_upgrade() -> Self {
        Self {
            why: Some(Why::Bypass),
            forward_status: Some(101),
            detail: Some(Detail::Upgrade),
            ..Self::default()
        }
    }

    /// The outcome in one word: `hit`, or the rule or the reason by which it was none; `refused` if neither.
    pub fn outcome(&self) -> &'static str {
        if self.from_cache {
            return "hit";
        }
        let why = || self.why.map(Why::as_str);
        self.detail.map(Detail::as_str).or_else(why).unwrap_or("refused")
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("proxy")?;
        if self.hit {
            f.write_str("; hit")?;
        }
        if let Some(why) = self.why {
            f.write_str("; fwd=")?;
            f.write_str(why.as_str())?;
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
            f.write_str("; detail=")?;
            f.write_str(detail.as_str())?;
        }
        Ok(())
    }
}

/// What a `Cache-Status` line of this program says. The words for reasons stay words: the program that
/// wrote them may be a newer one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReadStatus {
    /// Answered from the cache without asking the origin server.
    pub hit: bool,
    /// Why it was forwarded.
    pub why: Option<Why>,
    /// Seconds of freshness left; negative for a stale response.
    pub freshness_left: Option<i64>,
    /// The response is being stored.
    pub stored: bool,
    /// It waited for another request's answer, and got it.
    pub collapsed: bool,
    /// The particular rule.
    pub detail: Option<String>,
}

impl From<CacheStatus> for ReadStatus {
    fn from(status: CacheStatus) -> Self {
        let CacheStatus { hit, why, freshness_left, stored, collapsed, detail, .. } = status;
        let detail = detail.map(|detail| detail.as_str().to_string());
        Self { hit, why, freshness_left, stored, collapsed, detail }
    }
}

impl ReadStatus {
    /// Reads a line as [`CacheStatus`] writes it; `None` if it is another cache's.
    pub fn read(line: &str) -> Option<Self> {
        let mut members = line.split(';').map(str::trim);
        if members.next() != Some("proxy") {
            return None;
        }
        let mut status = Self::default();
        for member in members {
            match member.split_once('=').unwrap_or((member, "")) {
                ("hit", _) => status.hit = true,
                ("stored", _) => status.stored = true,
                ("collapsed", _) => status.collapsed = true,
                ("fwd", word) => {
                    status.why = Why::ALL.into_iter().find(|why| why.as_str() == word);
                }
                ("ttl", seconds) => status.freshness_left = seconds.parse().ok(),
                ("detail", word) => status.detail = Some(word.to_string()),
                // A newer program may say more than this one knows.
                _ => {}
            }
        }
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_it_is_written() {
        for why in Why::ALL.into_iter().map(Some).chain([None]) {
            for (hit, stored, collapsed) in
                [(true, false, false), (false, true, false), (false, false, true)]
            {
                for (freshness_left, detail) in [(None, None), (Some(-7), Some(Detail::HitTtl))] {
                    let forward_status = why.map(|_| 200);
                    let written = CacheStatus {
                        from_cache: false,
                        hit,
                        why,
                        forward_status,
                        freshness_left,
                        stored,
                        collapsed,
                        detail,
                    };
                    let read = ReadStatus::read(&written.to_string());
                    assert_eq!(read, Some(written.into()), "{written}");
                }
            }
        }
        for other in ["", "other; hit", "proxy2; hit", "\"proxy; hit\""] {
            assert_eq!(ReadStatus::read(other), None, "{other:?}");
        }
    }

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
