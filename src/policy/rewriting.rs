//! Keeping the client on the proxy: URIs and cookie domains that point at the origin server.
//!
//! Only absolute URIs of the origin server are rewritten; relative ones lead back to the proxy as
//! they are. What is stored is the origin server's own form: the rewriting is done on the way out,
//! because it depends on the name that the client knows the proxy by.

use std::borrow::Cow;
use std::ops::Range;

use http::header::{CONTENT_LOCATION, LINK, LOCATION, REFRESH, SET_COOKIE};

use crate::message::fields::Fields;
use crate::message::target::{OriginUrl, Scheme};

/// The proxy as a client knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Site<'a> {
    /// What the client speaks to it, or to whatever stands in front of it.
    pub scheme: Scheme,
    /// Host and port that the client asked for; `None` if it has named none (HTTP/1.0).
    pub authority: Option<Cow<'a, str>>,
}

/// Rewrites `Location`, `Content-Location`, `Link`, `Refresh` and the `Domain` of cookies that point at
/// `origin`, so that they point at `site`.
pub fn rewrite(fields: &mut Fields, origin: &OriginUrl, site: &Site<'_>) {
    // A value that is no UTF-8 is no URI of the origin server, and passes as it came.
    for name in [LOCATION, CONTENT_LOCATION] {
        fields.rewrite(name.as_str(), |value| {
            let uri = std::str::from_utf8(value).ok()?;
            Some(at_proxy(uri, origin, site)?.into_bytes())
        });
    }
    fields.rewrite(LINK.as_str(), |value| rewrite_link(value, origin, site));
    fields.rewrite(REFRESH.as_str(), |value| rewrite_refresh(value, origin, site));
    fields.rewrite(SET_COOKIE.as_str(), |value| without_domain(value, origin));
}

/// The URI at the proxy for a URI reference that names the origin server, with or without a scheme;
/// `None` if it points elsewhere, or outside the origin server's path prefix.
///
/// User information is left out, because a sender must not generate it (RFC 9110 §4.2.4).
pub fn at_proxy(reference: &str, origin: &OriginUrl, site: &Site<'_>) -> Option<String> {
    // Outside the prefix the proxy cannot be asked for it, so the reference is left alone.
    let path = origin.strip_reference(reference.trim())?.strip_prefix(origin.prefix())?;
    if !path.is_empty() && !path.starts_with(['/', '?', '#']) {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(match &site.authority {
        Some(authority) => format!("{}://{authority}{slash}{path}", site.scheme.as_str()),
        // A client that named no host gets a reference without one. Two slashes at its beginning would
        // name a server (RFC 3986 §4.2).
        None if path.starts_with("//") => format!("/.{path}"),
        None => format!("{slash}{path}"),
    })
}

/// Rewrites each `<URI>` of a `Link` field (RFC 8288 §3).
fn rewrite_link(value: &[u8], origin: &OriginUrl, site: &Site<'_>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut rewritten = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    // A `<` without its `>` ends the rewriting: half a field is not touched.
    while let Some((before, after)) = rest.split_once('<') {
        let (uri, tail) = after.split_once('>')?;
        let new = at_proxy(uri, origin, site);
        changed |= new.is_some();
        rewritten.push_str(before);
        rewritten.push('<');
        rewritten.push_str(new.as_deref().unwrap_or(uri));
        rewritten.push('>');
        rest = tail;
    }
    rewritten.push_str(rest);
    changed.then(|| rewritten.into_bytes())
}

/// Rewrites the URL of a `Refresh` field.
fn rewrite_refresh(value: &[u8], origin: &OriginUrl, site: &Site<'_>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let at = refresh_url(text)?;
    let new = at_proxy(&text[at.clone()], origin, site)?;
    Some([&text[..at.start], new.as_str(), &text[at.end..]].concat().into_bytes())
}

/// Where the URL of a `Refresh` field stands, as browsers read it: seconds, a separator, perhaps
/// `url=`, perhaps a quotation mark (WHATWG HTML §4.2.5.3, "shared declarative refresh steps").
fn refresh_url(text: &str) -> Option<Range<usize>> {
    // Digits and dots are skipped, not read: browsers do so, and what they accept is what must be rewritten.
    let seconds = |letter: char| letter.is_ascii_digit() || letter == '.';
    let start = text.trim_ascii_start();
    let rest = start.trim_start_matches(seconds);
    let separated = rest.trim_ascii_start();
    let url = separated.strip_prefix([';', ',']).unwrap_or(separated).trim_ascii_start();
    // Without a separator it is no Refresh; without seconds in front, neither.
    if rest.len() == start.len() || url.len() == rest.len() {
        return None;
    }
    let named = url.get(..3).filter(|name| name.eq_ignore_ascii_case("url"));
    let named = named.and_then(|_| url[3..].trim_ascii_start().strip_prefix('='));
    let url = named.map_or(url, str::trim_ascii_start);
    let (url, end) = match url.strip_prefix(['"', '\'']) {
        Some(quoted) => (quoted, quoted.find(&url[..1]).unwrap_or(quoted.len())),
        None => (url, url.len()),
    };
    let start = text.len() - url.len();
    Some(start..start + end)
}

/// Takes out a cookie's `Domain` that covers the origin server's host: the cookie then belongs to
/// whatever host the client asked, which is the proxy (RFC 6265 §5.3).
fn without_domain(value: &[u8], origin: &OriginUrl) -> Option<Vec<u8>> {
    // A Domain of another host is left: browsers refuse such a cookie, and it is not ours to make it
    // valid.
    let covers = |attribute: &[u8]| {
        let mut halves = attribute.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let domain = halves.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let domain = domain.strip_prefix(b".").unwrap_or(&domain);
        let host = origin.server.host.as_bytes();
        name.eq_ignore_ascii_case(b"domain")
            && !domain.is_empty()
            && host
                .strip_suffix(domain)
                .is_some_and(|before| before.is_empty() || before.ends_with(b"."))
    };
    let attributes: Vec<&[u8]> = value.split(|byte| *byte == b';').collect();
    let kept: Vec<&[u8]> = attributes
        .iter()
        .enumerate()
        // The first part is the cookie itself, whatever it is called.
        .filter(|(index, attribute)| *index == 0 || !covers(attribute))
        .map(|(_, attribute)| *attribute)
        .collect();
    (kept.len() < attributes.len()).then(|| kept.join(&b';'))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn rewritten(origin: &str, name: &HeaderName, value: &str, authority: Option<&str>) -> String {
        let origin = OriginUrl::parse(origin).expect("a URL");
        let site = Site { scheme: Scheme::Http, authority: authority.map(Cow::Borrowed) };
        let mut fields = Fields::new();
        fields.append(name.clone(), HeaderValue::from_str(value).expect("a value"));
        rewrite(&mut fields, &origin, &site);
        let value = fields.get(name.as_str()).expect("it is there");
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    }

    #[test]
    fn only_what_points_at_the_origin_is_rewritten() {
        #[rustfmt::skip]
        let table = [
            (LOCATION, "https://www.example.com/api/a?b#c", "http://p:1/a?b#c"),
            (LOCATION, "https://WWW.example.com:443/api", "http://p:1/"),
            (LOCATION, "http://www.example.com/api/a", "http://www.example.com/api/a"),
            (LOCATION, "https://www.example.com/other", "https://www.example.com/other"),
            (LOCATION, "https://www.example.com/apis", "https://www.example.com/apis"),
            (LOCATION, "https://example.com/api/a", "https://example.com/api/a"),
            (LOCATION, "/a", "/a"),
            (LOCATION, "a", "a"),
            (CONTENT_LOCATION, "https://www.example.com/api/a", "http://p:1/a"),
            (LINK, "<https://www.example.com/api/a>; rel=next, </b>; rel=prev", "<http://p:1/a>; rel=next, </b>; rel=prev"),
            (LINK, "<//www.example.com/api/a>", "<http://p:1/a>"),
            (LINK, "<https://elsewhere/a>", "<https://elsewhere/a>"),
            (SET_COOKIE, "a=b; Domain=example.com; Path=/", "a=b; Path=/"),
            (SET_COOKIE, "a=b;domain=.www.example.com", "a=b"),
            (SET_COOKIE, "a=b; Domain=ample.com", "a=b; Domain=ample.com"),
            (SET_COOKIE, "domain=example.com", "domain=example.com"),
        ];
        for (name, value, expected) in table {
            let got = rewritten("https://www.example.com/api", &name, value, Some("p:1"));
            assert_eq!(got, expected, "{name}: {value}");
        }
    }

    /// RFC 3986 §3.2, §4.2, §6.2.2: every way to name the origin server, and names that are alike.
    #[test]
    fn the_origin_is_recognised_however_it_is_written() {
        #[rustfmt::skip]
        let ours = [
            "http://o.test/x", "//o.test/x", "//O.Test/x", "HTTP://O.TEST/x", "http://o.test:80/x",
            "http://o.test:/x", "//o.test:80/x", "http://user@o.test/x", "http://user:pass@o.test/x",
            "http://@o.test/x", "//user@o.test:80/x", "http://evil%40x@o.test/x", "http://e.test:80@o.test/x",
            " http://o.test/x ",
        ];
        #[rustfmt::skip]
        let others = [
            "//o.test.evil/x", "//o.test@evil/x", "http://o.test@evil/x", "http://o.test:80@evil/x",
            "http://o.test.evil/x", "http://evilo.test/x", "https://o.test/x", "//o.test:443/x",
            "//o.test:8080/x", "http://o.test\\@evil/x", "http://evil\\@o.test/x", "http://a@b@o.test/x",
            "http://o.test:80:80/x", "http://o.test%2f@evil/x", "///o.test/x", "http:///o.test/x",
            "http:o.test/x", "ftp://o.test/x", "//", "http://", "/o.test/x", "?//o.test/x", "x://o.test/x",
        ];
        for value in ours {
            for (name, before, after) in
                [(LOCATION, "", ""), (REFRESH, "0; url=", ""), (LINK, "<", ">; rel=next")]
            {
                let value = format!("{before}{value}{after}");
                let got = rewritten("http://o.test", &name, &value, Some("p:1"));
                let new = got.trim().replace("url= ", "url=");
                assert_eq!(new, format!("{before}http://p:1/x{after}"), "{name}: {value}");
            }
        }
        for value in others {
            for (name, before, after) in
                [(LOCATION, "", ""), (REFRESH, "0; url=", ""), (LINK, "<", ">; rel=next")]
            {
                let value = format!("{before}{value}{after}");
                let got = rewritten("http://o.test", &name, &value, Some("p:1"));
                assert_eq!(got, value, "{name}");
            }
        }
    }

    #[test]
    fn a_refresh_is_read_as_browsers_read_it() {
        #[rustfmt::skip]
        let table = [
            ("0; url=http://o.test/x",     "0; url=http://p:1/x"),
            ("5;URL=http://o.test/x",      "5;URL=http://p:1/x"),
            ("0, url = \"http://o.test/x\"", "0, url = \"http://p:1/x\""),
            (" 0 ; Url='http://o.test/x' z", " 0 ; Url='http://p:1/x' z"),
            ("1.5;url='http://o.test/x",   "1.5;url='http://p:1/x"),
            ("0 http://o.test/x",          "0 http://p:1/x"),
            ("0;http://o.test/x",          "0;http://p:1/x"),
            ("0;'http://o.test/x'",        "0;'http://p:1/x'"),
            ("0; url=//o.test/x#y",        "0; url=http://p:1/x#y"),
            ("0; url=/x",                  "0; url=/x"),
            ("0; url=http://evil/http://o.test/x", "0; url=http://evil/http://o.test/x"),
            ("0; urls=http://o.test/x",    "0; urls=http://o.test/x"),
            ("url=http://o.test/x",        "url=http://o.test/x"),
            ("0url=http://o.test/x",       "0url=http://o.test/x"),
            ("http://o.test/x",            "http://o.test/x"),
            ("0", "0"), ("0;", "0;"), (";", ";"), ("0; url", "0; url"), ("0; url=", "0; url="), ("0; url='", "0; url='"),
            ("", ""),
        ];
        for (value, expected) in table {
            assert_eq!(
                rewritten("http://o.test", &REFRESH, value, Some("p:1")),
                expected,
                "{value}"
            );
            // Whatever it is cut to, it is read without a panic.
            for end in 0..value.len() {
                rewritten("http://o.test", &REFRESH, value[..end].trim_start(), Some("p:1"));
            }
        }
        let odd = rewritten("http://o.test", &REFRESH, "0; ürl=http://o.test/x", Some("p:1"));
        assert_eq!(odd, "0; ürl=http://o.test/x");
    }

    #[test]
    fn a_client_that_named_no_host_gets_a_path() {
        let table = [
            ("http://o.test/x", "/x"),
            ("http://o.test", "/"),
            ("http://o.test//evil/x", "/.//evil/x"),
        ];
        for (value, expected) in table {
            assert_eq!(rewritten("http://o.test", &LOCATION, value, None), expected, "{value}");
        }
    }
}
