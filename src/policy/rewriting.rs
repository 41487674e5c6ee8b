//! Keeping the client on the proxy: URIs and cookie domains that point at the origin server.
//!
//! Only absolute URIs of the origin server are rewritten; relative ones lead back to the proxy as
//! they are. What is stored is the origin server's own form: the rewriting is done on the way out,
//! because it depends on the name that the client knows the proxy by.

use http::header::{CONTENT_LOCATION, LINK, LOCATION, SET_COOKIE};

use crate::message::fields::Fields;
use crate::message::target::OriginUrl;

/// Rewrites `Location`, `Content-Location`, `Link` and the `Domain` of cookies that point at
/// `origin`, so that they point at `authority`, the proxy as this client knows it.
pub fn rewrite(fields: &mut Fields, origin: &OriginUrl, authority: Option<&str>) {
    let authority = authority.unwrap_or_default();
    for name in [LOCATION, CONTENT_LOCATION] {
        fields.rewrite(name.as_str(), |value| {
            let uri = std::str::from_utf8(value).ok()?;
            Some(at_proxy(uri, origin, authority)?.into_bytes())
        });
    }
    fields.rewrite(LINK.as_str(), |value| rewrite_link(value, origin, authority));
    fields.rewrite(SET_COOKIE.as_str(), |value| without_domain(value, origin));
}

/// The URI at the proxy for a URI at the origin server; `None` if it points elsewhere, or outside
/// the origin server's path prefix.
fn at_proxy(uri: &str, origin: &OriginUrl, authority: &str) -> Option<String> {
    let path = origin.strip(uri)?.strip_prefix(origin.prefix.as_str())?;
    if !path.is_empty() && !path.starts_with(['/', '?', '#']) {
        return None;
    }
    // A client that named no host (HTTP/1.0) gets a reference without one.
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(if authority.is_empty() {
        format!("{slash}{path}")
    } else {
        format!("http://{authority}{slash}{path}")
    })
}

/// Rewrites each `<URI>` of a `Link` field (RFC 8288 §3).
fn rewrite_link(value: &[u8], origin: &OriginUrl, authority: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut rewritten = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some((before, after)) = rest.split_once('<') {
        let (uri, tail) = after.split_once('>')?;
        let new = at_proxy(uri.trim(), origin, authority);
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

/// Takes out a cookie's `Domain` that covers the origin server's host: the cookie then belongs to
/// whatever host the client asked, which is the proxy (RFC 6265 §5.3).
fn without_domain(value: &[u8], origin: &OriginUrl) -> Option<Vec<u8>> {
    let covers = |attribute: &[u8]| {
        let mut halves = attribute.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let domain = halves.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let domain = domain.strip_prefix(b".").unwrap_or(&domain);
        let host = origin.host.as_bytes();
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
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_points_at_the_origin_is_rewritten() {
        let origin = OriginUrl::parse("https://www.example.com/api").expect("a URL");
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
            (LINK, "<https://elsewhere/a>", "<https://elsewhere/a>"),
            (SET_COOKIE, "a=b; Domain=example.com; Path=/", "a=b; Path=/"),
            (SET_COOKIE, "a=b;domain=.www.example.com", "a=b"),
            (SET_COOKIE, "a=b; Domain=ample.com", "a=b; Domain=ample.com"),
            (SET_COOKIE, "domain=example.com", "domain=example.com"),
        ];
        for (name, value, expected) in table {
            let mut fields = Fields::new();
            fields.append(name.clone(), HeaderValue::from_static(value));
            rewrite(&mut fields, &origin, Some("p:1"));
            let got = fields.get(name.as_str()).and_then(|value| value.to_str().ok());
            assert_eq!(got, Some(expected), "{name}: {value}");
        }
    }
}
