//! Redirects: those that are followed on this side (`--follow-redirects`), and those that lead to the URL
//! that was asked for. RFC 9110 §15.4.
//!
//! An application that insists on https answers with the latter when it is not told that its client speaks
//! https already. Stored, such an answer would be given for ever: each client that follows it finds it again.
//! It is passed on, because a cookie that it sets, say, may make the next answer another one.

use http::StatusCode;

use crate::message::fields::{FieldValues, Fields};
use crate::message::percent::encode;
use crate::message::reference::resolve;
use crate::message::target::{OriginUrl, split_authority};
use crate::policy::credentials::is_credential;
use crate::policy::key::KeyRules;
use crate::policy::rewriting::{Site, at_proxy};

/// The most redirects that are followed for one request.
pub const REDIRECTS_MAX: usize = 10;

/// Where a redirect leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedirectTarget {
    /// The absolute URL.
    pub url: String,
    /// It has another scheme, host or port than the URL that was requested: the next request has no Host
    /// field but its own, and goes through [`strip_for_elsewhere`].
    pub is_elsewhere: bool,
}

/// Where a response to a request for `url` redirects to, if it does, and if it can be followed.
///
/// A 300 leaves the choice to the user, and a 304 or 305 is no redirect (§15.4).
pub fn followed(url: &str, status: StatusCode, fields: &Fields) -> Option<RedirectTarget> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let target = resolve(url, fields.get("location")?.to_str().ok()?)?;
    let is_elsewhere = server_of(&target) != server_of(url);
    Some(RedirectTarget { url: target, is_elsewhere })
}

/// Takes out of a request's fields what is not for the server that a redirect leads to (§15.4).
pub fn strip_for_elsewhere(fields: &mut Fields) {
    // What the client says to one server is not for another's ears.
    fields.retain(|name, _| !is_credential(name.as_str()));
}

/// Scheme, host and port of an absolute URI.
fn server_of(url: &str) -> Option<(String, Option<u16>)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, port) = split_authority(rest.split(['/', '?']).next()?)?;
    Some((format!("{scheme}://{host}"), port))
}

/// The URL that was asked for, and its other names.
#[derive(Debug)]
pub struct OwnUrl<'a> {
    /// The proxy as the client knows it.
    pub site: Site<'a>,
    /// Other authorities under which the same stored responses are found.
    pub aliases: Vec<&'a str>,
    /// Path and query, as the key has them.
    pub target: &'a str,
    /// Is the scheme part of the key? Then another scheme makes another URL.
    pub exact_scheme: bool,
}

/// Does a response with this status redirect to `own`, once it is rewritten?
///
/// A fragment makes no other URL, because it is not sent (RFC 9110 §4.2.5). Nor does another scheme,
/// unless the key holds it: what is asked over https would find the same stored response.
pub fn leads_nowhere(
    status: StatusCode,
    fields: &impl FieldValues,
    origin: &OriginUrl,
    own: &OwnUrl<'_>,
    rules: &KeyRules,
) -> bool {
    let is_redirect = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    is_redirect
        && fields.values("location").any(|value| {
            let location = std::str::from_utf8(value).map(str::trim);
            location.is_ok_and(|location| names(location, origin, own, rules))
        })
}

/// Does this `Location`, resolved, name the URL that was asked for?
fn names(location: &str, origin: &OriginUrl, own: &OwnUrl<'_>, rules: &KeyRules) -> bool {
    // What the client will see is what it will follow, so the rewritten form is compared.
    let rewritten = at_proxy(location, origin, &own.site);
    let scheme = own.site.scheme.as_str();
    let authorities =
        || own.site.authority.as_deref().into_iter().chain(own.aliases.iter().copied());
    let target = encode(own.target);
    // A relative reference leads to whatever host the client has asked.
    let base = format!("{scheme}://{}{target}", authorities().next().unwrap_or("localhost"));
    let Some(uri) = resolve(&base, rewritten.as_deref().unwrap_or(location)) else { return false };
    let Some((its_scheme, rest)) = uri.split_once("://") else { return false };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // An empty path means `/` (RFC 9110 §4.2.3).
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let Some(asked) = without_usual_port(authority) else { return false };
    // By the key's own spelling: a redirect from `/%7Ea` to `/~a` finds the same stored response.
    rules.shape(&path) == target
        && (!own.exact_scheme || its_scheme.eq_ignore_ascii_case(scheme))
        && (is_relative(location)
            || authorities().any(|known| without_usual_port(known).as_ref() == Some(&asked)))
}

/// Does this reference name no server?
fn is_relative(reference: &str) -> bool {
    let scheme = reference.split(['/', '?', '#']).next().unwrap_or_default();
    !reference.starts_with("//") && !scheme.contains(':')
}

/// Host and port, without a port that one of the schemes has as its own: `https://a` and `http://a` are
/// to differ in their scheme alone.
fn without_usual_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = split_authority(authority)?;
    Some((host.into_owned(), port.filter(|port| !matches!(port, 80 | 443))))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT, AUTHORIZATION, COOKIE, LOCATION, USER_AGENT};

    use super::*;
    use crate::message::target::Scheme;
    use crate::policy::key::Glob;

    fn redirects(status: u16, location: &str, target: &str, exact_scheme: bool) -> bool {
        let origin = OriginUrl::parse("http://o.test:8000").expect("a URL");
        let rules = KeyRules { ignored: vec![Glob::new("utm_*")], sort_query: false };
        let mut fields = Fields::new();
        fields.append(LOCATION, HeaderValue::from_str(location).expect("a value"));
        let site = Site { scheme: Scheme::Http, authority: Some("Shop.test".into()) };
        let own = OwnUrl { site, aliases: vec!["127.0.0.1:3000"], target, exact_scheme };
        leads_nowhere(
            StatusCode::from_u16(status).expect("a status"),
            &fields,
            &origin,
            &own,
            &rules,
        )
    }

    #[test]
    fn a_redirect_is_followed_to_where_its_location_leads() {
        let url = "http://o.test:8000/a/b?c=1";
        #[rustfmt::skip]
        let table = [
            // Status, Location, the target, and whether another server gets it.
            (301, "/d",                      Some(("http://o.test:8000/d", false))),
            (302, "d?e",                     Some(("http://o.test:8000/a/d?e", false))),
            (303, "?e",                      Some(("http://o.test:8000/a/b?e", false))),
            (307, "http://o.test:8000/#top", Some(("http://o.test:8000/", false))),
            (308, "http://O.test:8000/d",    Some(("http://O.test:8000/d", false))),
            (302, "//o.test:8000/d",         Some(("http://o.test:8000/d", false))),
            // Another host, port or scheme.
            (302, "//p.test:8000/d",         Some(("http://p.test:8000/d", true))),
            (302, "http://o.test/d",         Some(("http://o.test/d", true))),
            (302, "https://o.test:8000/d",   Some(("https://o.test:8000/d", true))),
            (302, "http://o.test:8000.evil/", Some(("http://o.test:8000.evil/", true))),
            // Not followed.
            (300, "/d", None), (304, "/d", None), (305, "/d", None), (306, "/d", None),
            (200, "/d", None), (201, "/d", None), (404, "/d", None),
            (302, "ftp://o.test/d", None), (302, "javascript:d()", Some(("http://o.test:8000/a/javascript:d()", false))),
        ];
        for (status, location, expected) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            let mut fields = Fields::new();
            assert_eq!(followed(url, status, &fields), None, "{status} without Location");
            fields.append(LOCATION, HeaderValue::from_str(location).expect("a value"));
            let target = followed(url, status, &fields);
            let target = target.as_ref().map(|target| (target.url.as_str(), target.is_elsewhere));
            assert_eq!(target, expected, "{status} {location}");
        }
    }

    #[test]
    fn another_server_gets_no_credentials() {
        let mut fields = Fields::new();
        for (name, value) in [
            (AUTHORIZATION, "Basic YTpi"),
            (COOKIE, "a=b"),
            (ACCEPT, "text/plain"),
            (USER_AGENT, "curl"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        strip_for_elsewhere(&mut fields);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [ACCEPT, USER_AGENT]);
    }

    #[test]
    fn a_redirect_to_what_was_asked_for_is_recognised() {
        #[rustfmt::skip]
        let own = [
            // Relative, the origin server's, and the proxy's own names.
            "/a?b=1", "a?b=1", "./a?b=1", "?b=1", "", "#top", "/a?b=1#top", "../a?b=1",
            "http://o.test:8000/a?b=1", "//o.test:8000/a?b=1", "HTTP://user@O.TEST:8000/a?b=1#x",
            "http://shop.test/a?b=1", "//shop.test/a?b=1", "http://SHOP.test:80/a?b=1",
            "http://127.0.0.1:3000/a?b=1", "http://127.0.0.1:3000/a?b=1&utm_source=x",
        ];
        let schemes = [
            "https://shop.test/a?b=1",
            "https://shop.test:443/a?b=1#x",
            "https://127.0.0.1:3000/a?b=1",
        ];
        #[rustfmt::skip]
        let others = [
            "/", "/a", "/a?b=2", "/a/?b=1", "/A?b=1", "/b?b=1", "?b=1&c", "http://shop.test/", "b",
            "http://www.shop.test/a?b=1", "http://shop.test:8080/a?b=1", "//evil/a?b=1", "http://evil/a?b=1",
            "http://127.0.0.1/a?b=1", "ftp://shop.test/a?b=1", "http://o.test/a?b=1", "mailto:a@shop.test",
        ];
        for status in [300, 301, 302, 303, 307, 308] {
            for location in own {
                assert!(redirects(status, location, "/a?b=1", false), "{status} {location}");
                assert!(redirects(status, location, "/a?b=1", true), "{status} {location}");
            }
            for location in schemes {
                assert!(redirects(status, location, "/a?b=1", false), "{status} {location}");
                assert!(!redirects(status, location, "/a?b=1", true), "{status} {location}");
            }
            for location in others {
                assert!(!redirects(status, location, "/a?b=1", false), "{status} {location}");
            }
        }
        for status in [200, 201, 304, 404] {
            assert!(!redirects(status, "/a?b=1", "/a?b=1", false), "{status}");
        }
        assert!(redirects(301, "http://shop.test", "/", false), "an empty path is a slash");
        assert!(redirects(301, "/a%20%C3%A9", "/a é", false), "the origin server sees it encoded");
        assert!(redirects(301, "/b/../c", "/c", false), "clients take dot segments out");
        assert!(!redirects(301, "/c", "/b/../c", false), "the key has them");
    }
}
