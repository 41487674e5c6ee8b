//! `Destination`: where MOVE and COPY put what they take. RFC 4918 §10.3.
//!
//! It is the one request field that names a resource as the client knows it: under the proxy's name. The
//! origin server is told its own name for it, and what is stored for it is invalidated.

use http::Method;

use crate::message::request::Request;
use crate::message::target::{OriginUrl, Target, split_authority};

/// A resource of the origin server that a MOVE or COPY writes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// Path and query as a request for it would have them.
    pub target: Target,
    /// It was named by a path alone.
    pub by_path: bool,
}

impl Destination {
    /// Has a request with this method a destination? With any other the field means nothing.
    pub fn belongs_to(method: &Method) -> bool {
        matches!(method.as_str(), "MOVE" | "COPY")
    }

    /// The destination of a request; `None` if it has none, or one that is neither at the proxy nor at
    /// the origin server. `own` are the names (host, and port) that the proxy is known by.
    pub fn read(request: &Request, origin: &OriginUrl, own: &[&str]) -> Option<Self> {
        if !Self::belongs_to(&request.method) {
            return None;
        }
        // Which of several lines the origin server would obey nobody knows, so none is rewritten.
        let uri = only_line(request)?;
        let by_path = uri.starts_with('/') && !uri.starts_with("//");
        // `//host/x` begins with a slash, and names a server all the same.
        let path = if by_path { Some(uri) } else { at_origin(uri, origin).or(at_proxy(uri, own)) }?;
        // A fragment is the client's own (RFC 9110 §4.2.5); what is invalidated has none in its key.
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self { target: Target::parse(&format!("{slash}{path}"))?, by_path })
    }

    /// Would a MOVE or COPY write outside the origin server's path prefix? It does if it names a
    /// resource there. It may if it has several destinations.
    pub fn leads_out(request: &Request, origin: &OriginUrl) -> bool {
        let has_none =
            !Self::belongs_to(&request.method) || !request.fields.contains("destination");
        // Without a prefix every path is inside.
        if has_none || origin.prefix().is_empty() {
            return false;
        }
        let Some(uri) = only_line(request) else { return true };
        origin.strip_reference(uri).is_some() && at_origin(uri, origin).is_none()
    }
}

/// The one destination of a request, if it can be read.
fn only_line(request: &Request) -> Option<&str> {
    let mut lines = request.fields.get_all("destination");
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    Some(line.to_str().ok()?.trim())
}

/// What follows the origin server's prefix in an absolute URI there, with a scheme or without.
fn at_origin<'a>(uri: &'a str, origin: &OriginUrl) -> Option<&'a str> {
    let path = origin.strip_reference(uri)?.strip_prefix(origin.prefix())?;
    (path.is_empty() || path.starts_with(['/', '?', '#'])).then_some(path)
}

/// What follows the authority in an absolute URI at the proxy. The scheme may be another than the proxy
/// speaks: something in front of it may end TLS.
fn at_proxy<'a>(uri: &'a str, own: &[&str]) -> Option<&'a str> {
    let (scheme, rest) = uri.split_once("://")?;
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Ports are compared with the scheme's own filled in: clients leave it out or write it as they
    // like.
    let place = |authority: &str| {
        split_authority(authority).map(|(host, port)| (host.into_owned(), port.unwrap_or(usual)))
    };
    let named = place(authority)?;
    own.iter().any(|own| place(own).as_ref() == Some(&named)).then_some(path)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Version};

    use super::*;
    use crate::message::fields::Fields;

    #[test]
    fn a_destination_at_the_proxy_or_the_origin_server_is_found() {
        let origin = OriginUrl::parse("https://o.test/p").expect("a URL");
        #[rustfmt::skip]
        let table = [
            ("MOVE", "http://proxy:3000/b?c",       Some(("/b?c", false))),
            ("COPY", "https://PROXY:3000/b#c",      Some(("/b", false))),
            ("COPY", "http://127.0.0.1:3000/b",     Some(("/b", false))),
            ("MOVE", "http://proxy:3000",           Some(("/", false))),
            ("MOVE", "https://o.test/p/b",          Some(("/b", false))),
            ("MOVE", "https://o.test:443/p",        Some(("/", false))),
            ("MOVE", "/b/",                         Some(("/b/", true))),
            ("MOVE", "https://o.test/q/b",          None),
            ("MOVE", "https://o.test/pq",           None),
            ("MOVE", "http://o.test/p/b",           None),
            ("MOVE", "http://proxy/b",              None),
            ("MOVE", "http://elsewhere:3000/b",     None),
            ("MOVE", "http://user@proxy:3000/b",    None),
            ("MOVE", "//proxy:3000/b",              None),
            ("MOVE", "ftp://proxy:3000/b",          None),
            ("MOVE", "b",                           None),
            ("MOVE", "",                            None),
            ("POST", "http://proxy:3000/b",         None),
        ];
        for (method, value, expected) in table {
            let line =
                |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
            let fields: Fields =
                [line("host", "proxy:3000"), line("destination", value)].into_iter().collect();
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let request =
                Request::new(method, "/a", Version::HTTP_11, fields, None).expect("a request");
            let got = Destination::read(&request, &origin, &["proxy:3000", "127.0.0.1:3000"]);
            let shown = got.as_ref().map(|found| (found.target.as_str(), found.by_path));
            assert_eq!(shown, expected, "RFC 4918 §10.3: {value}");
        }
    }
}
