//! Which fields stop here, and which the proxy writes itself. RFC 9110 §7.6, RFC 9211.
//!
//! What a client says about itself in `X-Forwarded-*` is not passed on: the cache key does not hold
//! it, so it could otherwise put words into a response that others are given. What a trusted peer says
//! is in the key (`forwarded.rs`), and the proxy says it anew.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::clock::Timestamp;
use crate::message::date;
use crate::message::fields::{Fields, push_decimal, text_value};
use crate::message::request::Request;
use crate::message::target::Scheme;
use crate::policy::reason::CacheStatus;
use crate::policy::unkeyed;

/// Fields that are about one connection, or one proxy, only (RFC 9110 §7.6.1, §11.7).
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
];

/// What a client could say about who it is and what it asked; the proxy says it instead, or nobody
/// does.
const SAID_BY_THE_PROXY: [&str; 4] = ["forwarded", "x-real-ip", "x-original-url", "x-rewrite-url"];

/// How many lines the proxy adds to a request.
const ADDED_LINES: usize = 6;
/// How often `proxy` may stand in a request's `Via` before the request is taken to go round in circles.
/// More than once is usual: proxies like this one may stand in a row.
pub const HOPS_MAX: usize = 8;

/// Is this a field that is about one connection, or one proxy, only? `name` is in lower case.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

/// The fields that `Connection` names, as far as they are names.
pub fn connection_options(fields: &Fields) -> Vec<HeaderName> {
    // Mostly it is this one, which is hop-by-hop in any case.
    let is_usual = |member: &[u8]| member.eq_ignore_ascii_case(b"keep-alive");
    let members = fields.members("connection").filter(|member| !is_usual(member));
    members.filter_map(|member| HeaderName::from_bytes(member).ok()).collect()
}

/// Removes hop-by-hop fields, those that `Connection` names among them (RFC 9110 §7.6.1).
pub fn strip_hop_by_hop(fields: &mut Fields) {
    // Collected first: `Connection` itself is among the fields that go.
    let named = connection_options(fields);
    fields.retain(|name, _| !named.contains(name) && !is_hop_by_hop(name.as_str()));
}

/// What the proxy tells the origin server about the request that it passes on.
#[derive(Clone, Copy, Debug)]
pub struct ForwardingFacts<'a> {
    /// The address of the client.
    pub client: Option<IpAddr>,
    /// The proxies between the client and this one, the nearest last.
    pub proxies: &'a [IpAddr],
    /// The scheme that the client is known to speak; `None` if that cannot be told.
    pub scheme: Option<Scheme>,
    /// The host and port that the request is known to have been sent to.
    pub host: &'a str,
}

/// The header section of the request to the origin server, without Host and framing fields, which
/// the origin client writes.
pub fn request_fields(request: &Request, told: ForwardingFacts<'_>) -> Fields {
    let named = connection_options(&request.fields);
    // Nobody would send the content that the origin server asks for, so it is not made to wait (RFC
    // 9110 §10.1.1).
    let expects_continue = request.expects_continue();
    // What a GET brings is given to others under the same key, so nothing outside the key may shape it.
    let is_cached = unkeyed::is_cached(&request.method);
    let is_sent = |name: &HeaderName| {
        // `Transfer_Encoding` is as good as `Transfer-Encoding` to a server behind CGI.
        let dashed = &*unkeyed::dashed(name.as_str());
        !matches!(dashed, "host" | "content-length")
            && !is_hop_by_hop(dashed)
            && !named.contains(name)
            && (*name != http::header::EXPECT || expects_continue)
            && !dashed.starts_with("x-forwarded-")
            && !SAID_BY_THE_PROXY.contains(&dashed)
            && !(is_cached && unkeyed::is_unkeyed(name.as_str()))
    };
    let mut fields = Fields::with_capacity(request.fields.len() + ADDED_LINES);
    for line in request.fields.lines().filter(|line| is_sent(line.name)) {
        fields.append_line(line);
    }
    // The chain is written anew, not appended to: what the client had written there is gone.
    let mut chain = String::new();
    for address in told.client.iter().chain(told.proxies) {
        if !chain.is_empty() {
            chain.push_str(", ");
        }
        push_address(&mut chain, *address);
    }
    if !chain.is_empty() {
        fields.set_text("x-forwarded-for", chain);
    }
    // No scheme is better than a wrong one: an https application that was told `http` sent its clients
    // in circles.
    if let Some(scheme) = told.scheme {
        fields.set_text("x-forwarded-proto", scheme.as_str().to_string());
    }
    fields.set_text("x-forwarded-host", told.host.to_string());
    if let Some(hops) = max_forwards(request) {
        fields.set(http::header::MAX_FORWARDS, HeaderValue::from(hops.saturating_sub(1)));
    }
    // RFC 9110 §10.1.4: who says so passes trailer fields on. It is said in the proxy's own name, by the driver
    // that does, and `Vary: TE` sees it.
    if request.takes_trailers() {
        fields.append(http::header::TE, HeaderValue::from_static("trailers"));
    }
    // The version in which this proxy received the request (RFC 9110 §7.6.3).
    fields.append(http::header::VIA, via(request.version));
    fields
}

/// Writes an address. Most are of IPv4, and each request that is passed on has one.
fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else { return text.push_str(&address.to_string()) };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        push_decimal(text, octet.into());
    }
}

/// How many proxies may still pass this request on (RFC 9110 §7.6.2); `None` if any number may. TRACE,
/// the other method that the field is for, is not served.
pub fn max_forwards(request: &Request) -> Option<u64> {
    let mut lines = request.fields.get_all("max-forwards");
    let digits = lines.next()?.to_str().ok()?;
    let readable = digits.bytes().all(|byte| byte.is_ascii_digit()) && lines.next().is_none();
    // §7.6.2 lets recipients ignore the field on other methods; one that cannot be read is passed on as
    // it is.
    if request.method == Method::OPTIONS && readable { digits.parse().ok() } else { None }
}

/// Has this request passed through a proxy of this name more than [`HOPS_MAX`] times?
pub fn goes_in_circles(request: &Request) -> bool {
    request.fields.members("via").filter(|hop| is_ours(hop)).count() > HOPS_MAX
}

/// Is this member of `Via` one that a proxy of this name has written?
fn is_ours(hop: &[u8]) -> bool {
    hop.ends_with(b" proxy")
}

fn via(version: Version) -> HeaderValue {
    let minor = if version == Version::HTTP_10 { "1.0 proxy" } else { "1.1 proxy" };
    HeaderValue::from_static(minor)
}

/// Says to the client what the response came over (RFC 9110 §7.6.3), unless that was said when the
/// response came.
pub fn add_via(fields: &mut Fields) {
    if !fields.members("via").any(is_ours) {
        fields.append(http::header::VIA, via(Version::HTTP_11));
    }
}

/// Makes an origin server's response, which came in this version, ready to be passed on, where nothing is
/// decided by it.
pub fn received_fields(fields: &mut Fields, version: Version, response_time: Timestamp) {
    complete_received(fields, version, response_time);
    strip_received(fields);
}

/// Adds to an origin server's response what a recipient adds: a `Date` if it has none (RFC 9110
/// §6.6.1), and the version that it came in (§7.6.3). Of several `Date` lines the first one is left.
pub fn complete_received(fields: &mut Fields, version: Version, response_time: Timestamp) {
    // HTTP/1.1 is usual. It is left to [`add_via`], and takes no room in the store. It could not be
    // told from
    // what another proxy of this name has written.
    if version == Version::HTTP_10 || fields.members("via").any(is_ours) {
        fields.append(http::header::VIA, via(version));
    }
    // Age and freshness are counted from Date (RFC 9111 §4.2.3): two that differ would be read as none.
    match fields.get("date") {
        None => fields.set_text("date", date::format(response_time)),
        Some(_) if fields.get_all("date").count() > 1 => {
            fields.remove_all_but_first(&http::header::DATE);
        }
        Some(_) => {}
    }
}

/// Takes hop-by-hop and framing fields out of an origin server's response, on its way to a client or
/// into the store. It comes after every decision about the response: a field that `Connection` names is
/// meant for this recipient, and is obeyed here (RFC 9110 §7.6.1).
pub fn strip_received(fields: &mut Fields) {
    strip_hop_by_hop(fields);
    // The front frames what it sends; a stored length could contradict the content that is stored.
    fields.remove("content-length");
}

/// Adds what the proxy says about a response: `Age`, `Via`, `X-Cache` and `Cache-Status`.
///
/// `age` is `None` where there is nothing to say: a response that came straight from the origin
/// server (RFC 9111 §5.1).
pub fn add_response_fields(fields: &mut Fields, age: Option<u32>, status: &CacheStatus) {
    if let Some(age) = age {
        fields.set_last(http::header::AGE, HeaderValue::from(age));
    }
    add_via(fields);
    let verdict = if status.from_cache { "HIT" } else { "MISS" };
    fields.set_last(HeaderName::from_static("x-cache"), HeaderValue::from_static(verdict));
    // RFC 9211 §2: a cache adds itself to the end of the list.
    let mut line = String::with_capacity(96);
    let _ = write!(line, "{status}");
    let line = text_value(line);
    fields.append(HeaderName::from_static("cache-status"), line);
}

/// May a response with this status have content (RFC 9110 §6.4.1)?
pub fn has_content(status: StatusCode) -> bool {
    !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}
