//! Where a request points: the origin server's URL and the request target. RFC 9112 §3.2, RFC 3986 §3.2.
//!
//! `reference.rs` resolves URI references against it.
//!
//! The path and query are kept as the client wrote them, because the cache key is made of them.
//! Bytes that a URI may not hold, and that real clients send all the same (`<`, `"`, a space), are
//! percent-encoded only on their way to the origin server.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use http::Method;

use crate::message::percent::{encode, encode_behind, normalised};

/// The longest request target that is taken, in bytes. Longer ones are answered 414.
pub(crate) const TARGET_BYTES_MAX: usize = 32 * 1024;

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
    pub(crate) fn as_str(self) -> &'static str {
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
        // What a URL of the proxy may be is what one of an origin server may be, less a path.
        let url = OriginUrl::parse(text.strip_suffix('/').unwrap_or(text)).ok()?;
        // Two slashes at the end are a path, too, which the origin server's URL does not mind.
        // Nor does it mind a host with a `*`, which no client can ask.
        if !url.prefix().is_empty() || text.ends_with("//") || url.server.host.contains('*') {
            return None;
        }
        let scheme = if url.server.secure { Scheme::Https } else { Scheme::Http };
        Some(Self { scheme, authority: url.authority().to_string() })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

/// A server of HTTP, as a URL names it (RFC 9110 §4.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server<'url> {
    /// Is it reached over TLS?
    pub secure: bool,
    /// The host in lower case; an IPv6 address with its brackets.
    pub host: Cow<'url, str>,
    /// The port, 80 or 443 where none is written.
    pub port: u16,
}

impl<'url> Server<'url> {
    /// Reads what stands in front of a URL's path; the error says what is wrong with it.
    fn parse(base: &'url str) -> Result<Self, String> {
        let (scheme, authority) = base.split_once("://").ok_or_else(|| "no scheme".to_string())?;
        let Some(scheme) = Scheme::read(scheme) else {
            return Err(format!("the scheme is {:?}", scheme.to_ascii_lowercase()));
        };
        // It has been taken out by then (`policy::credentials`), unless it cannot be sent.
        if authority.contains('@') {
            return Err("a user name in it".to_string());
        }
        let (host, port) = split_authority(authority)
            .ok_or_else(|| format!("no host and port in {authority:?}"))?;
        let secure = scheme == Scheme::Https;
        match port.unwrap_or(if secure { 443 } else { 80 }) {
            0 => Err("port 0".to_string()),
            port => Ok(Self { secure, host, port }),
        }
    }

    /// The same, with a host of its own.
    pub(crate) fn into_owned(self) -> Server<'static> {
        let Self { secure, host, port } = self;
        Server { secure, host: Cow::Owned(host.into_owned()), port }
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host, and port where it is not the scheme's own: what goes into a Host field.
    pub(crate) fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        let Self { host, port, .. } = self;
        if *port == usual { host.to_string() } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

/// The origin server's URL: `http://host:port/prefix`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OriginUrl {
    /// The server.
    pub server: Server<'static>,
    /// All of it, in its one spelling: each request's key begins so.
    text: String,
    /// The same as it goes out, with the bytes encoded that a URI may not hold.
    url: String,
    /// Bytes of `text` up to the authority, and up to its end.
    authority: Range<usize>,
}

impl OriginUrl {
    /// Reads an origin server's URL; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Looked for in the whole text: a `?` in the authority would end it, and what follows be taken
        // for a path.
        if text.contains(['?', '#']) {
            return Err("a query or a fragment after the path".to_string());
        }
        let path_at = path_at(text);
        let (server, path) = (Server::parse(&text[..path_at])?, &text[path_at..]);
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("bytes in the path that a URL may not hold".to_string());
        }
        let mut text = format!("{}://", server.scheme());
        let begin = text.len();
        text.push_str(&server.authority());
        let authority = begin..text.len();
        // In the spelling of keys, so that a reference to the origin server is recognised however it is
        // written.
        text.push_str(&normalised(path.trim_end_matches('/')));
        let url = encode(&text);
        Ok(Self { server: server.into_owned(), text, url, authority })
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme and authority.
    pub(crate) fn base(&self) -> &str {
        &self.text[..self.authority.end]
    }

    /// The path in front of every request's path, without a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.text[self.authority.end..]
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        self.server.scheme()
    }

    /// Host, and port where it is not the scheme's own: what goes into a Host field.
    pub(crate) fn authority(&self) -> &str {
        &self.text[self.authority.clone()]
    }

    /// What follows the authority in an absolute URI, if that points at this origin server.
    pub(crate) fn strip<'a>(&self, uri: &'a str) -> Option<&'a str> {
        let (scheme, rest) = uri.split_once("://")?;
        scheme.eq_ignore_ascii_case(self.scheme()).then(|| self.strip_authority(rest))?
    }

    /// The same for a URI reference: one that names a server without a scheme (`//host/path`) has the
    /// scheme of the request that it answers (RFC 3986 §5.2.2).
    pub(crate) fn strip_reference<'a>(&self, reference: &'a str) -> Option<&'a str> {
        match reference.strip_prefix("//") {
            Some(rest) => self.strip_authority(rest),
            None => self.strip(reference),
        }
    }

    /// What follows the authority that `text` begins with, if that is this origin server's.
    fn strip_authority<'a>(&self, text: &'a str) -> Option<&'a str> {
        let (authority, path) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
        // Compared as they mean, with the port filled in: `HTTP://Host:80/` is this server, too.
        let (host, port) = split_authority(without_userinfo(authority)?)?;
        let port = port.unwrap_or(if self.server.secure { 443 } else { 80 });
        (host == self.server.host && port == self.server.port).then_some(path)
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A URL as it may be shown: without user information, which holds a password or is one. Any text may
/// be given, also a URL that was refused.
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
pub(super) fn without_userinfo(authority: &str) -> Option<&str> {
    let Some((user, rest)) = authority.rsplit_once('@') else { return Some(authority) };
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&byte);
    user.bytes().all(may).then_some(rest)
}

/// Host in lower case and port of an authority; `None` if it is none.
pub(crate) fn split_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    // An IPv6 address has colons, so its brackets decide where the port begins.
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
    // RFC 3986 §3.2.2. No space, slash, `@` or control character gets into a key, a Host field or a
    // log.
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(named) {
        return None;
    }
    // `host:` has the scheme's own port (RFC 3986 §3.2.3).
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
    };
    let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
    let host = if is_lower { host.into() } else { host.to_ascii_lowercase().into() };
    Some((host, port))
}

/// Is this an authority, as [`split_authority`] sees it? Nothing is copied: this is asked for every
/// hit.
pub(crate) fn is_authority(authority: &[u8]) -> bool {
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
        // No fragment is to be sent; clients that do send one mean the resource without it.
        let text = text.split('#').next().unwrap_or_default();
        // A line end in a target would end the request line to the origin server.
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
        // The authority is kept as it was written: it is compared later, not taken apart again.
        split_authority(authority)?;
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Some(Self { text: path, authority: Some(authority.to_string()) })
    }

    /// The same for a request with this method: an absolute form without a path means to OPTIONS what
    /// `*` means (RFC 9112 §3.2.4).
    pub(crate) fn of_request(method: &Method, text: &str) -> Option<Self> {
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
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The authority of a target in absolute form.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Would dot segments lead out of the origin server's path prefix?
    pub(crate) fn escapes(&self, origin: &OriginUrl) -> bool {
        if origin.prefix().is_empty() {
            return false;
        }
        let path = self.text.split('?').next().unwrap_or_default();
        // Every beginning of the path counts: `/a/../../b` is outside for a moment, and servers differ
        // in what they make of it. Encoded dots are dots to many of them.
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

/// The URL by which the origin server is asked for a target: with the prefix in front, and forbidden
/// bytes percent-encoded. `*` is the server as a whole, whose URL has no path (RFC 9112 §3.2.4).
pub(crate) fn url_at(origin: &OriginUrl, target: &str) -> String {
    if target == "*" {
        return origin.base().to_string();
    }
    encode_behind(&origin.url, target)
}

/// An absolute http URI in two: the server, and what follows the authority. User information means nothing here and is
/// left out (RFC 9110 §4.2.4), and so is a fragment.
pub(crate) fn split_url(url: &str) -> Result<(Server<'_>, &str), String> {
    let url = without_fragment(url);
    let (base, path) = url.split_at(path_at(url));
    let authority_at = base.find("://").map_or(0, |at| at + 3);
    let server = match base[authority_at..].rsplit_once('@') {
        Some((_, host)) => {
            Server::parse(&format!("{}{host}", &base[..authority_at])).map(Server::into_owned)
        }
        None => Server::parse(base),
    };
    server.map(|server| (server, path))
}

/// What stands in front of a `#`.
pub(crate) fn without_fragment(url: &str) -> &str {
    url.bytes().position(|byte| byte == b'#').map_or(url, |at| &url[..at])
}

/// Where the authority of a URL ends.
fn path_at(url: &str) -> usize {
    let authority_at = url.find("://").map_or(0, |at| at + 3);
    url[authority_at..].find(['/', '?']).map_or(url.len(), |at| authority_at + at)
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
    fn a_url_is_taken_apart() {
        #[rustfmt::skip]
        let table = [
            ("http://O:1/a?b#c", Some(("http://o:1", "/a?b"))), ("https://o", Some(("https://o", ""))),
            ("http://o?a/b", Some(("http://o", "?a/b"))), ("http://[::1]:2/", Some(("http://[::1]:2", "/"))),
            ("http://u:p@o/a@b", Some(("http://o", "/a@b"))), ("ftp://o/", None), ("/a", None),
            ("ht@tp://o/", None), ("@http://o/", None), ("http://a@b@o", Some(("http://o", ""))),
        ];
        for (url, expected) in table {
            let parts = split_url(url).ok().map(|(server, path)| (server.to_string(), path));
            let parts = parts.as_ref().map(|(server, path)| (server.as_str(), *path));
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
        let odd = OriginUrl::parse("http://o/{t}%7e").expect("a URL");
        assert_eq!((odd.as_str(), &*url_at(&odd, "/a")), ("http://o/{t}~", "http://o/%7Bt%7D~/a"));
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
