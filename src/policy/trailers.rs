//! Which fields may come behind the content, in the trailer section. RFC 9110 §6.5.
//!
//! They are never merged into the header section: what a recipient has done by then was done without them
//! (§6.5.1). Some are dropped, because a recipient that merges them all the same would be told anew how the
//! message is framed, whose it is, or for how long it is fresh.

use http::header::{CONNECTION, TRAILER};
use http::{HeaderName, HeaderValue};

use crate::message::fields::{Fields, text_value};
use crate::policy::forwarding::{connection_options, is_hop_by_hop};
use crate::policy::unkeyed::dashed;

/// Fields that mean something only before the content (§6.5.1), besides the hop-by-hop fields, which
/// `forwarding.rs` has, and those that begin with one of [`FAMILIES`].
const HEADER_ONLY: [&str; 28] = [
    // Routing, and request modifiers.
    "host",
    "expect",
    "max-forwards",
    "pragma",
    "range",
    // Authentication, and cookies (RFC 6265).
    "authentication-info",
    "authorization",
    "cookie",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    // How the response is to be cached, and what becomes of the request.
    "age",
    "cache-control",
    "cdn-cache-control",
    "clear-site-data",
    "date",
    "expires",
    "last-modified",
    "retry-after",
    "surrogate-control",
    "vary",
    "warning",
    // URIs, which are rewritten in the header section alone.
    "link",
    "location",
    "refresh",
    // What the proxy says itself.
    "cache-status",
    "via",
    "x-cache",
];

/// How the names of others begin: the format of the content, conditions, and what proxies say of the client.
const FAMILIES: [&str; 4] = ["content-", "if-", "x-forwarded-", "forwarded"];

/// Made to come behind the content that it is about (RFC 9530 §2).
const MADE_FOR_IT: &str = "content-digest";

/// May a field of this name come behind the content, and be passed on there?
fn may_trail(name: &str) -> bool {
    // `Content_Length` is as good as `Content-Length` to those who hand fields on as variables.
    let name = &*dashed(name);
    let is_family = || FAMILIES.iter().any(|start| name.starts_with(start));
    name == MADE_FOR_IT || !(HEADER_ONLY.contains(&name) || is_hop_by_hop(name) || is_family())
}

/// Takes out of a trailer section what may not stand there, and what `options`, the members of `Connection`
/// in the header section, say is about the connection alone (§7.6.1).
pub fn strip_trailers(trailers: &mut Fields, options: &[HeaderName]) {
    trailers.retain(|name, _| may_trail(name.as_str()) && !options.contains(name));
}

/// The `Trailer` field of a response that came with these fields: the names of those that may follow (§6.6.2);
/// `None` if none is announced, or the content is not chunked and nothing can follow.
pub fn announced_trailers(received: &Fields) -> Option<HeaderValue> {
    if !received.has_member("transfer-encoding", "chunked") {
        return None;
    }
    let options = connection_options(received);
    let names: Vec<HeaderName> = received
        .members(TRAILER.as_str())
        .filter_map(|member| HeaderName::from_bytes(member).ok())
        .filter(|name| may_trail(name.as_str()) && !options.contains(name))
        .collect();
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    (!names.is_empty()).then(|| text_value(names.join(", ")))
}

/// Tells the origin server that trailer fields are welcome (§10.1.4): behind the other fields of a request that
/// says so by `TE`, which is about the connection alone.
pub fn te_option(sent: &Fields) -> Option<(HeaderName, HeaderValue)> {
    sent.contains("te").then(|| (CONNECTION, HeaderValue::from_static("TE")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let line = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn what_means_something_only_before_the_content_is_dropped_behind_it() {
        let kept = [
            "Server-Timing",
            "ETag",
            "X-Sum",
            "Grpc-Status",
            "Content-Digest",
            "Repr-Digest",
            "Proxy-Status",
            "Digest",
            "Signature",
        ];
        let dropped = [
            "Transfer-Encoding",
            "transfer_encoding",
            "Content-Length",
            "Content_Length",
            "Trailer",
            "Host",
            "Connection",
            "TE",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Authorization",
            "Set-Cookie",
            "Cookie",
            "WWW-Authenticate",
            "Cache-Control",
            "Expires",
            "Vary",
            "Age",
            "Date",
            "Location",
            "Content-Type",
            "Content-Encoding",
            "Content-Range",
            "Content-Location",
            "If-Match",
            "Range",
            "Via",
            "X-Cache",
            "Cache-Status",
            "X-Forwarded-For",
            "Forwarded",
            "X-Named",
        ];
        let options = [HeaderName::from_static("x-named")];
        for (names, is_kept) in [(&kept[..], true), (&dropped[..], false)] {
            for name in names {
                let mut trailers = fields(&[(name, "x")]);
                strip_trailers(&mut trailers, &options);
                assert_eq!(!trailers.is_empty(), is_kept, "RFC 9110 §6.5.1: {name}");
            }
        }
    }

    #[test]
    fn what_may_follow_is_announced() {
        let chunked = ("transfer-encoding", "chunked");
        #[rustfmt::skip]
        let table: [(&[(&str, &str)], Option<&str>); 5] = [
            (&[chunked, ("trailer", "X-Sum, Content-Length"), ("trailer", "ETag")], Some("x-sum, etag")),
            (&[chunked, ("trailer", "X-Sum, ETag"), ("connection", "x-sum")],       Some("etag")),
            (&[chunked, ("trailer", "Content-Length, a b")],                        None),
            (&[chunked],                                                            None),
            (&[("content-length", "1"), ("trailer", "X-Sum")],                      None),
        ];
        for (lines, expected) in table {
            let announced = announced_trailers(&fields(lines));
            let announced = announced.as_ref().map(|value| value.to_str().expect("text"));
            assert_eq!(announced, expected, "RFC 9110 §6.6.2: {lines:?}");
        }
    }
}
