//! Request fields by which a gateway tells the server behind it who asked, for what and by which
//! method. RFC 9110 §7.6, RFC 7239.
//!
//! Frameworks believe them, and the cache key holds none of them: a client that wrote one into a GET
//! could put words into what all others are given. So they do not reach the origin server with a GET or
//! HEAD. Fields that describe the client itself (`User-Agent`, `Origin`, `X-WAP-Profile`) are not among
//! them: where they shape a response, `Vary` has to say so (RFC 9111 §4.1).

use std::borrow::Cow;

use http::Method;

/// A host, a path, a scheme or a method other than the request's own, or a client other than the one
/// that is connected.
const OVERRIDES: [&str; 46] = [
    "base-url",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-visitor",
    "client-ip",
    "fastly-client-ip",
    "fastly-ssl",
    "forwarded-for",
    "front-end-https",
    "incap-client-ip",
    "request-uri",
    "true-client-ip",
    "wl-proxy-client-ip",
    "wl-proxy-ssl",
    "x-arr-ssl",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-backend-host",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-custom-ip-authorization",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-forward-for",
    "x-forwarded",
    "x-host",
    "x-host-override",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-remote-addr",
    "x-originating-ip",
    "x-proxy-url",
    "x-proxyuser-ip",
    "x-real-host",
    "x-remote-addr",
    "x-remote-ip",
    "x-script-name",
    "x-sendfile-type",
    "x-url-scheme",
    "x-verb-tunnel",
];

/// What the names of the standard fields begin with by which clients choose among representations.
const NEGOTIATION: [&str; 5] = ["accept-", "cache-control", "content-", "if-", "user-agent"];

/// A name with `-` for each `_`. Servers that hand fields on as variables (CGI, WSGI, Rack, PHP) take
/// `X_Host` for `X-Host`.
pub fn dashed(name: &str) -> Cow<'_, str> {
    if name.contains('_') { name.replace('_', "-").into() } else { name.into() }
}

/// Is this a field that must not reach the origin server with a GET or HEAD, because the cache key does
/// not hold it? `name` is in lower case.
pub fn is_unkeyed(name: &str) -> bool {
    let dashed = dashed(name);
    // `Accept_Encoding` would be obeyed, and `Vary: Accept-Encoding` would not look at it.
    let is_disguised =
        name.contains('_') && NEGOTIATION.iter().any(|start| dashed.starts_with(start));
    // The list is in order, for a binary search: this is asked for every field of every request that
    // goes on.
    is_disguised || OVERRIDES.binary_search(&&*dashed).is_ok()
}

/// Are responses to this method stored, or answered from what is stored?
pub fn is_cached(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gateway_says_is_unkeyed_however_it_is_written() {
        assert!(OVERRIDES.is_sorted(), "the names are searched by halves");
        for name in OVERRIDES {
            assert!(is_unkeyed(name) && is_unkeyed(&name.replace('-', "_")), "{name}");
        }
        for name in ["accept_encoding", "if_none_match", "user_agent", "cache_control"] {
            assert!(is_unkeyed(name) && !is_unkeyed(&dashed(name)), "{name}");
        }
        for name in ["accept", "x-wap-profile", "origin", "api_key", "x_request_id", "host-x"] {
            assert!(!is_unkeyed(name), "{name}");
        }
    }
}
