//! The directives of `Cache-Control`, in requests and responses. RFC 9111 §5.2.
//!
//! `targeted.rs` reads the one field that outranks it. A directive is a list member outside quoted
//! strings: the `max-age` inside the quoted argument of an unknown directive is none. Where a
//! directive is repeated, the first one counts (§4.2.1). A number that cannot be read is zero, so that
//! a response is taken for stale rather than fresh.

use std::borrow::Cow;

use http::HeaderName;

use crate::clock::DeltaSeconds;
use crate::message::fields::{Fields, list_members};

/// What the origin server said about storing and reusing its response (§5.2.2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one directive, present or absent")]
pub struct ResponseDirectives {
    /// They come from `CDN-Cache-Control`, so `Expires` is not read either (RFC 9213 §2.2).
    pub targeted: bool,
    /// `max-age`: fresh until its age is this.
    pub max_age: Option<DeltaSeconds>,
    /// `s-maxage`: the same for shared caches, which this is.
    pub s_maxage: Option<DeltaSeconds>,
    /// `no-store`: nothing of the response is kept, but for `must-understand` beside it (§5.2.2.3).
    pub no_store: bool,
    /// `no-cache` without an argument: never reused without validation.
    pub no_cache: bool,
    /// `private` without an argument: not for a shared cache.
    pub private: bool,
    /// `public`: may be stored although the request was authorized, or the status is not one that is
    /// kept by default.
    pub public: bool,
    /// `must-revalidate`: never served stale.
    pub must_revalidate: bool,
    /// `proxy-revalidate`: the same, for shared caches.
    pub proxy_revalidate: bool,
    /// `must-understand`: stored only if the status is one whose rules this cache knows.
    pub must_understand: bool,
    /// The arguments of `no-cache="…"` and `private="…"`: fields that are left out of what is stored.
    pub withheld: Vec<HeaderName>,
    /// `stale-while-revalidate` (RFC 5861 §3): may be served stale for so long while it is validated.
    pub stale_while_revalidate: Option<DeltaSeconds>,
    /// `stale-if-error` (RFC 5861 §4): may be served stale for so long if the origin server fails.
    pub stale_if_error: Option<DeltaSeconds>,
}

impl ResponseDirectives {
    /// Reads `Cache-Control`, whatever `CDN-Cache-Control` says; [`ResponseDirectives::read`] knows which
    /// of them counts.
    pub(super) fn untargeted(fields: &Fields) -> Self {
        // Members, not a search for words: `no-store` inside the quoted argument of an extension is no
        // directive.
        let mut directives = Self::default();
        for directive in fields.members("cache-control").map(Directive::read) {
            match &*directive.name {
                "max-age" => first(&mut directives.max_age, &directive),
                "s-maxage" => first(&mut directives.s_maxage, &directive),
                "no-store" => directives.no_store = true,
                // With field names these two are about the fields only (§5.2.2.4, §5.2.2.7). Names of
                // which none can be read leave the directive as if it had no argument: the stricter
                // reading.
                "no-cache" => {
                    directives.no_cache |= !withhold(&mut directives.withheld, &directive);
                }
                "private" => {
                    directives.private |= !withhold(&mut directives.withheld, &directive);
                }
                "public" => directives.public = true,
                "must-revalidate" => directives.must_revalidate = true,
                "proxy-revalidate" => directives.proxy_revalidate = true,
                "must-understand" => directives.must_understand = true,
                "stale-while-revalidate" => {
                    first(&mut directives.stale_while_revalidate, &directive);
                }
                "stale-if-error" => first(&mut directives.stale_if_error, &directive),
                _ => {}
            }
        }
        directives
    }

    /// May a shared cache keep what was made for one user (§3.5)?
    pub(crate) fn shares_what_is_personal(&self) -> bool {
        self.public || self.s_maxage.is_some() || self.must_revalidate
    }

    /// Must this never be served stale (§4.2.4)? `s-maxage` says so too (§5.2.2.10).
    pub(crate) fn prohibits_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }
}

/// What the client said about storing and reusing (§5.2.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestDirectives {
    /// `max-age`: no response older than this.
    pub max_age: Option<DeltaSeconds>,
    /// `max-stale`: a response that has been stale for no longer than this will do;
    /// [`DeltaSeconds::MAX`] where it has no argument (§5.2.1.2).
    pub max_stale: Option<DeltaSeconds>,
    /// `min-fresh`: no response that is fresh for less than this (§5.2.1.3).
    pub min_fresh: Option<DeltaSeconds>,
    /// `no-cache`: no stored response without validation.
    pub no_cache: bool,
    /// `no-store`: nothing of this exchange is to be kept.
    pub no_store: bool,
    /// `only-if-cached`: the origin server is not to be asked.
    pub only_if_cached: bool,
    /// `stale-if-error`: a response that has been stale for no longer than this will do if the origin
    /// server fails (RFC 5861 §4).
    pub stale_if_error: Option<DeltaSeconds>,
}

impl RequestDirectives {
    /// Reads the directives of a request. `Pragma` is ignored (§5.4).
    pub fn read(fields: &Fields) -> Self {
        let mut directives = Self::default();
        for directive in fields.members("cache-control").map(Directive::read) {
            match &*directive.name {
                "max-age" => first(&mut directives.max_age, &directive),
                // Without an argument any staleness will do, which an unreadable one does not mean:
                // that is zero.
                "max-stale" if directive.argument.is_none() => {
                    directives.max_stale.get_or_insert(DeltaSeconds::MAX);
                }
                "max-stale" => first(&mut directives.max_stale, &directive),
                "min-fresh" => first(&mut directives.min_fresh, &directive),
                "no-cache" => directives.no_cache = true,
                "no-store" => directives.no_store = true,
                "only-if-cached" => directives.only_if_cached = true,
                "stale-if-error" => first(&mut directives.stale_if_error, &directive),
                _ => {}
            }
        }
        directives
    }
}

/// One directive: a name in lower case, and what stands behind the first `=`.
struct Directive<'a> {
    name: Cow<'a, str>,
    argument: Option<&'a [u8]>,
}

impl<'a> Directive<'a> {
    fn read(member: &'a [u8]) -> Self {
        let (name, argument) = match member.iter().position(|byte| *byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        // Space before the `=` is no valid syntax: the name stands, its argument is unreadable.
        let argument = if name.last().is_some_and(u8::is_ascii_whitespace) {
            Some(&b" "[..])
        } else {
            argument
        };
        let mut name = String::from_utf8_lossy(name.trim_ascii());
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            name.to_mut().make_ascii_lowercase();
        }
        Self { name, argument }
    }

    /// The argument without its quotes, if it has any (§5.2 accepts both forms).
    fn unquoted(&self) -> Option<Vec<u8>> {
        let argument = self.argument?;
        // Quotation marks on both sides, or none: `"3600` is no number either way, and so is zero.
        let Some(inner) = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""))
        else {
            return Some(argument.to_vec());
        };
        let mut plain = Vec::with_capacity(inner.len());
        let mut bytes = inner.iter();
        while let Some(byte) = bytes.next() {
            // RFC 9110 §5.6.4: a backslash stands for the byte behind it.
            let byte = if *byte == b'\\' { bytes.next() } else { Some(byte) };
            plain.extend(byte);
        }
        Some(plain)
    }

    /// The argument in seconds: digits and nothing else, or zero (§1.2.2, §4.2.1).
    fn seconds(&self) -> DeltaSeconds {
        let digits = self.unquoted().unwrap_or_default();
        read_seconds(&digits).unwrap_or(DeltaSeconds::ZERO)
    }
}

/// Digits and nothing else, in seconds; saturates. `None` for anything else.
pub fn read_seconds(digits: &[u8]) -> Option<DeltaSeconds> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    Some(DeltaSeconds::saturating_from(number))
}

/// Takes the first directive of a name and no later one (§4.2.1 permits that, or to call the response
/// stale).
fn first(slot: &mut Option<DeltaSeconds>, directive: &Directive<'_>) {
    if slot.is_none() {
        *slot = Some(directive.seconds());
    }
}

/// Adds the field names of a qualified `no-cache` or `private`; `false` if it has none.
fn withhold(withheld: &mut Vec<HeaderName>, directive: &Directive<'_>) -> bool {
    let Some(argument) = directive.unquoted() else { return false };
    let before = withheld.len();
    withheld.extend(list_members(&argument).filter_map(|name| HeaderName::from_bytes(name).ok()));
    withheld.len() > before
}
