//! Where a request points: the origin server's URL, the request target, and URI references.
//! RFC 9112 §3.2, RFC 3986 §5.
//!
//! The path and query are kept as the client wrote them, because the cache key is made of them.
//! Bytes that a URI may not hold, and that real clients send all the same (`<`, `"`, a space), are
//! percent-encoded only on their way to the origin server.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use http::Method;

use crate::message::percent::normalised;

/// The longest request target that is taken, in bytes. Longer ones are answered 414.
pub const TARGET_BYTES_MAX: usize = 32 * 1024;

/// The schemes of HTTP (RFC 9110 §4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Over TCP as it is.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Reads a scheme's name, in any case.
    pub fn read(name: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| name.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where clients find the proxy, in the operator's words: `https://host:port`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl {
    /// What clients speak to whatever stands in front of the proxy.
    pub scheme: Scheme,
    /// Host in lower case, and port where it is not the scheme's own.
    pub authority: String,
}

impl PublicUrl {
    /// Reads scheme and authority; a path, a query or user information is refused, because every path
    /// is the proxy's.
    pub fn parse(text: &str) -> Option<Self> {
        let url = OriginUrl::parse(text.strip_suffix('/').unwrap_or(text)).ok()?;
        // Two slashes at the end are a path, too, which the origin server's URL does not mind.
        // Nor does it mind a host with a `*`, which no client can ask.
        if !url.prefix.is_empty() || text.ends_with("//") || url.host.contains('*') {
            return None;
        }
        let scheme = if url.secure { Scheme::Https } else { Scheme::Http };
        Some(Self { scheme, authority: url.authority() })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

/// An origin server: `http://host:port/prefix`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OriginUrl {
    /// Is it reached over TLS?
    pub secure: bool,
    /// The host in lower case; an IPv6 address with its brackets.
    pub host: String,
    /// The port, 80 or 443 where none is written.
    pub port: u16,
    /// The path in front of every request's path, without a slash at its end.
    pub prefix: String,
}

impl OriginUrl {
    /// Reads an origin server's URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| "no scheme".to_string())?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            other => return Err(format!("the scheme is {other:?}")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if text.contains(['?', '#']) {
            return Err("a query or a fragment after the path".to_string());
        }
        if authority.contains('@') {
            return Err("a user name in it".to_string());
        }
        let (host, port) = split_authority(authority)
            .ok_or_else(|| format!("no host and port in {authority:?}"))?;
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let readable = path.bytes().all(|byte| byte.is_ascii_graphic());
        if port == 0 || !readable {
            return Err("port 0, or bytes in the path that a URL may not hold".to_string());
        }
        let prefix = normalised(path.trim_end_matches('/')).into_owned();
        Ok(Self { secure, host, port, prefix })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host, and port where it is not the scheme's own: what goes into a Host field.
    pub fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Does the absolute URI point at this origin server? If so, what follows the authority.
    pub fn strip<'a>(&self, uri: &'a str) -> Option<&'a str> {
        let (scheme, rest) = uri.split_once("://")?;
        scheme.eq_ignore_ascii_case(self.scheme()).then(|| self.strip_authority(rest))?
    }

    /// The same for a URI reference: one that names a server without a scheme (`//host/path`) has the
    /// scheme of the request that it answers (RFC 3986 §5.2.2).
    pub fn strip_reference<'a>(&self, reference: &'a str) -> Option<&'a str> {
        match reference.strip_prefix("//") {
            Some(rest) => self.strip_authority(rest),
            None => self.strip(reference),
        }
    }

    /// What follows the authority that `text` begins with, if that is this origin server's.
    fn strip_authority<'a>(&self, text: &'a str) -> Option<&'a str> {
        let (authority, path) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
        let (host, port) = split_authority(without_userinfo(authority)?)?;
        let port = port.unwrap_or(if self.secure { 443 } else { 80 });
        (host == self.host && port == self.port).then_some(path)
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.prefix)
    }
}

/// A URL as it may be shown: without user information, which holds a password or is one. The URL may be
/// any text, also one that was refused.
pub fn without_password(url: &str) -> Cow<'_, str> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let rest = &url[start..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with a slash in it, which ought to have been encoded, ends the authority early.
    let is_whole = rest[..end].contains('@') || split_authority(&rest[..end]).is_some();
    let end = if is_whole { end } else { rest.len() };
    match rest[..end].rfind('@') {
        Some(at) => format!("{}***{}", &url[..start], &rest[at..]).into(),
        None => url.into(),
    }
}

/// An authority without the user information in front of it (RFC 3986 §3.2.1); `None` if that holds
/// bytes which it may not hold. Browsers end an authority at a backslash, for one: what stands behind
/// the `@` is then not the host that they ask.
fn without_userinfo(authority: &str) -> Option<&str> {
    let Some((user, rest)) = authority.rsplit_once('@') else { return Some(authority) };
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&byte);
    user.bytes().all(may).then_some(rest)
}

/// Host in lower case and port of an authority; `None` if it has neither shape nor sense.
pub fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], after.strip_prefix(':').or(Some(after)))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(named) {
        return None;
    }
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// Has this authority shape and sense, as [`split_authority`] sees it? Nothing is copied.
pub fn is_authority(authority: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(authority) else { return false };
    if text.starts_with('[') {
        return split_authority(text).is_some();
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]".contains(&byte);
    !host.is_empty()
        && host.bytes().all(named)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// The target of a request, in origin form: what follows the authority of the target URI.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// Path and query as the client wrote them, or `*`.
    text: String,
    /// The authority of a target in absolute form; it outranks the Host field (RFC 9112 §3.2.2).
    authority: Option<String>,
}

impl Target {
    /// Reads a request target in origin, absolute or asterisk form; `None` for any other.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or_default();
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        if text.starts_with('/') || text == "*" {
            return Some(Self { text: text.to_string(), authority: None });
        }
        let (scheme, rest) = text.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        split_authority(authority)?;
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Some(Self { text: path, authority: Some(authority.to_string()) })
    }

    /// The same for a request with this method: an absolute form without a path means to OPTIONS what
    /// `*` means (RFC 9112 §3.2.4).
    pub fn of_request(method: &Method, text: &str) -> Option<Self> {
        let mut target = Self::parse(text)?;
        if *method == Method::OPTIONS && target.authority.is_some() {
            let rest = text.split("://").nth(1).unwrap_or_default();
            if !rest.contains(['/', '?']) {
                target.text = "*".to_string();
            }
        }
        Some(target)
    }

    /// Path and query as the client wrote them, or `*`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The authority of a target in absolute form.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Would dot segments lead out of the origin server's path prefix?
    pub fn escapes(&self, origin: &OriginUrl) -> bool {
        if origin.prefix.is_empty() {
            return false;
        }
        let path = self.text.split('?').next().unwrap_or_default();
        let mut depth = 0_i64;
        for segment in path.split('/').skip(1) {
            match segment.to_ascii_lowercase().replace("%2e", ".").as_str() {
                ".." => depth -= 1,
                "." | "" => {}
                _ => depth += 1,
            }
            if depth < 0 {
                return true;
            }
        }
        false
    }
}

/// The URL to ask the origin server for a target: prefix in front, forbidden bytes percent-encoded. `*`
/// is the server as a whole, whose URL has no path (RFC 9112 §3.2.4).
pub fn url_at(origin: &OriginUrl, target: &str) -> String {
    if target == "*" {
        return format!("{}://{}", origin.scheme(), origin.authority());
    }
    encode(&format!("{origin}{target}"))
}

/// An absolute http URI in two: scheme, host and port, and what follows the authority. User
/// information means nothing here and is left out (RFC 9110 §4.2.4), and so is a fragment.
pub fn split_url(url: &str) -> Result<(OriginUrl, &str), String> {
    let url = url.split('#').next().unwrap_or_default();
    let authority_at = url.find("://").map_or(0, |at| at + 3);
    let path_at = url[authority_at..].find(['/', '?']).map_or(url.len(), |at| authority_at + at);
    let (base, path) = url.split_at(path_at);
    let origin = match base.rsplit_once('@') {
        Some((_, host)) => OriginUrl::parse(&format!("{}{host}", &base[..authority_at])),
        None => OriginUrl::parse(base),
    };
    origin.map(|origin| (origin, path))
}

/// The absolute URI `uri` with scheme, host and port written as in `like`; `None` if they are not the
/// same.
pub fn written_like(uri: &str, like: &str) -> Option<String> {
    let parts = |uri: &str| {
        let (scheme, rest) = uri.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, port) = split_authority(without_userinfo(&rest[..end])?)?;
        let usual = if scheme == "https" { 443 } else { 80 };
        let path_at = uri.len() - rest.len() + end;
        Some(((scheme, host, port.unwrap_or(usual)), path_at))
    };
    let ((own, path_at), (other, other_path_at)) = (parts(uri)?, parts(like)?);
    (own == other).then(|| format!("{}{}", &like[..other_path_at], &uri[path_at..]))
}

/// Percent-encodes the bytes that a URI may not hold (RFC 3986 §2), and leaves `%` alone.
pub fn encode(uri: &str) -> String {
    let mut encoded = String::with_capacity(uri.len());
    for byte in uri.bytes() {
        if byte.is_ascii_graphic() && !b"<>\"`{}|\\^".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A request target as text. One that is not UTF-8, as old clients write theirs, has its bytes beyond
/// ASCII percent-encoded.
pub fn encode_beyond_ascii(target: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(target) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(target.len() + 16);
    for byte in target {
        if byte.is_ascii() {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// Resolves a URI reference against an absolute http URI (RFC 3986 §5.2); `None` if the result is
/// not an http or https URI.
pub fn resolve(base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, rest) = base.split_once("://")?;
    let (authority, base_path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let base_path = base_path.split('?').next().unwrap_or_default();
    let full = if let Some((scheme, _)) = reference.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        reference.to_string()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{}", without_dots(reference))
    } else if reference.is_empty() {
        // The query is the base's, too; only a fragment is not inherited.
        base.split('#').next().unwrap_or_default().to_string()
    } else if reference.starts_with('?') {
        let path = if base_path.is_empty() { "/" } else { base_path };
        format!("{scheme}://{authority}{path}{reference}")
    } else {
        let folder = &base_path[..base_path.rfind('/').map_or(0, |slash| slash + 1)];
        let folder = if folder.is_empty() { "/" } else { folder };
        format!("{scheme}://{authority}{}", without_dots(&format!("{folder}{reference}")))
    };
    let scheme_end = full.find("://")?;
    let known = ["http", "https"].iter().any(|name| full[..scheme_end].eq_ignore_ascii_case(name));
    known.then(|| encode(&full))
}

/// Takes dot segments out of a path (RFC 3986 §5.2.4); what follows `?` stays.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Is this host the machine itself: `localhost`, 127.0.0.0/8 or `[::1]`?
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        #[rustfmt::skip]
        let table = [
            ("http://h", "http://h"), ("http://h/a@b", "http://h/a@b"), ("http://h:8/a@b", "http://h:8/a@b"),
            ("http://u:secret@h:1/p", "http://***@h:1/p"), ("http://secret@h", "http://***@h"),
            ("http://u:sec@ret@h", "http://***@h"), ("http://u:sec/ret@h", "http://***@h"),
            ("http://u:sec?ret@h/p", "http://***@h/p"), ("u:secret@h", "***@h"),
            ("redis://:secret@h/0", "redis://***@h/0"), ("ftp://u:s@h", "ftp://***@h"),
            ("redis+cluster://u:secret@a:1,b:2", "redis+cluster://***@a:1,b:2"),
            ("", ""), ("@", "***@"), ("://", "://"), ("plain", "plain"),
        ];
        for (url, expected) in table {
            assert_eq!(without_password(url), expected, "{url}");
        }
    }

    #[test]
    fn an_origin_url_is_read_whole_or_refused() {
        let table = [
            ("http://example.com", Some("http://example.com")),
            ("HTTPS://Example.com:443/v1/", Some("https://example.com/v1")),
            ("http://[::1]:8000", Some("http://[::1]:8000")),
            ("http://127.0.0.1:8000/", Some("http://127.0.0.1:8000")),
            ("example.com", None),
            ("ftp://example.com", None),
            ("http://", None),
            ("http://user@example.com", None),
            ("http://example.com:0", None),
            ("http://example.com:99999", None),
            ("http://exa mple.com", None),
            ("http://example.com/?a", None),
        ];
        for (text, expected) in table {
            let shown = OriginUrl::parse(text).ok().map(|origin| origin.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_public_url_is_scheme_and_authority_alone() {
        #[rustfmt::skip]
        let table = [
            ("https://shop.example", Some("https://shop.example")),
            ("HTTPS://Shop.Example:443/", Some("https://shop.example")),
            ("http://127.0.0.1:3000", Some("http://127.0.0.1:3000")),
            ("https://[::1]:8443", Some("https://[::1]:8443")),
            ("https://shop.example/path", None), ("https://shop.example//", None),
            ("https://shop.example?q", None), ("https://shop.example/?q", None),
            ("https://shop.example#f", None), ("https://user@shop.example", None),
            ("https://", None), ("https:///", None), ("shop.example", None), ("//shop.example", None),
            ("ftp://shop.example", None), ("https://shop.example:0", None), ("https://a b", None),
            ("", None), ("/", None),
        ];
        for (text, expected) in table {
            let shown = PublicUrl::parse(text).map(|url| url.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_target_in_another_encoding_is_percent_encoded() {
        assert_eq!(encode_beyond_ascii("/é".as_bytes()), "/é");
        assert_eq!(encode_beyond_ascii(b"/a%20\xe9\xff"), "/a%20%E9%FF");
    }

    #[test]
    fn authorities_are_checked_alike() {
        #[rustfmt::skip]
        let table = [
            ("h", true), ("h:1", true), ("h:", true), ("[::1]", true), ("[::1]:80", true),
            ("H-.x_~%41", true), ("", false), (":1", false), ("h:99999", false), ("h:+1", false),
            ("h:1:2", false), ("a b", false), ("[::1", false), ("[::1]x", false), ("a@b", false),
            ("h/", false), ("é", false),
        ];
        for (authority, expected) in table {
            assert_eq!(is_authority(authority.as_bytes()), expected, "{authority}");
            assert_eq!(split_authority(authority).is_some(), expected, "{authority}");
        }
    }

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        let base = "http://a/b/c/d;p?q";
        #[rustfmt::skip]
        let table = [
            ("g", "http://a/b/c/g"), ("./g", "http://a/b/c/g"), ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"), ("//g", "http://g"), ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"), ("", "http://a/b/c/d;p?q"), ("#s", "http://a/b/c/d;p?q"), (".", "http://a/b/c/"),
            ("..", "http://a/b/"), ("../g", "http://a/b/g"), ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"), ("/../g", "http://a/g"), ("https://x/y", "https://x/y"),
            ("g#s", "http://a/b/c/g"), ("a b", "http://a/b/c/a%20b"),
        ];
        for (reference, expected) in table {
            let resolved = resolve(base, reference);
            assert_eq!(resolved.as_deref(), Some(expected), "RFC 3986 §5.4: {reference}");
        }
        assert_eq!(resolve(base, "ftp://x/"), None);
    }

    #[test]
    fn uris_of_one_server_can_be_written_alike() {
        let like = |uri| written_like(uri, "http://o:80/x?y");
        assert_eq!(like("HTTP://O/a?b").as_deref(), Some("http://o:80/a?b"));
        assert_eq!(like("http://o").as_deref(), Some("http://o:80"));
        for other in ["https://o/a", "http://o:81/a", "http://p/a", "/a", "http://"] {
            assert_eq!(like(other), None, "{other}");
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        #[rustfmt::skip]
        let table = [
            ("http://O:1/a?b#c", Some(("http://o:1", "/a?b"))), ("https://o", Some(("https://o", ""))),
            ("http://o?a/b", Some(("http://o", "?a/b"))), ("http://[::1]:2/", Some(("http://[::1]:2", "/"))),
            ("http://u:p@o/a@b", Some(("http://o", "/a@b"))), ("ftp://o/", None), ("/a", None),
        ];
        for (url, expected) in table {
            let parts = split_url(url).ok().map(|(origin, path)| (origin.to_string(), path));
            let parts = parts.as_ref().map(|(origin, path)| (origin.as_str(), *path));
            assert_eq!(parts, expected, "{url}");
        }
    }

    #[test]
    fn options_without_a_path_is_about_the_server() {
        #[rustfmt::skip]
        let table = [
            ("OPTIONS", "*", "*"), ("OPTIONS", "http://h:1", "*"), ("OPTIONS", "http://h/", "/"),
            ("OPTIONS", "http://h?a", "/?a"), ("OPTIONS", "/a", "/a"), ("GET", "http://h", "/"),
        ];
        for (method, text, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let target = Target::of_request(&method, text).expect("a target");
            assert_eq!(target.as_str(), expected, "RFC 9112 §3.2.4: {method} {text}");
        }
    }

    #[test]
    fn targets_keep_what_the_client_wrote() {
        let origin = OriginUrl::parse("http://o:1/p").expect("a URL");
        let table = [
            ("/a?b=<c>", Some(("/a?b=<c>", "http://o:1/p/a?b=%3Cc%3E"))),
            ("http://h:2/a", Some(("/a", "http://o:1/p/a"))),
            ("http://h", Some(("/", "http://o:1/p/"))),
            ("*", Some(("*", "http://o:1"))),
            ("/a#b", Some(("/a", "http://o:1/p/a"))),
            ("a", None),
            ("example.com:443", None),
        ];
        for (text, expected) in table {
            let target = Target::parse(text);
            let got =
                target.as_ref().map(|t| (t.as_str().to_string(), url_at(&origin, t.as_str())));
            let got = got.as_ref().map(|(key, url)| (key.as_str(), url.as_str()));
            assert_eq!(got, expected, "RFC 9112 §3.2: {text}");
        }
    }

    #[test]
    fn dot_segments_cannot_leave_the_prefix() {
        let origin = OriginUrl::parse("http://o/p").expect("a URL");
        for path in ["/..", "/a/../../b", "/%2e%2E/b", "/.%2e/b"] {
            assert!(Target::parse(path).expect("a target").escapes(&origin), "{path}");
        }
        for path in ["/a/..", "/a/../b", "/...", "/?/../.."] {
            assert!(!Target::parse(path).expect("a target").escapes(&origin), "{path}");
        }
    }
}
