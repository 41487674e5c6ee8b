//! The cache key: a method and a target URI. RFC 9111 §2.
//!
//! Only responses to GET are stored, so the method is not written down. The URI is the one that the
//! origin server is asked for, with path and query as the client wrote them, but in one spelling for all
//! that mean the same (RFC 9110 §4.2.3). The operator may say that some of the query does not matter.
//! The origin server is asked in that spelling and without that part, or one client could put words
//! into what others are given.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use crate::message::percent::{decoded, normalised};
use crate::message::target::{OriginUrl, Scheme};
use crate::policy::credentials::{SECRETS, redacted};

/// A target URI in its one spelling: what stored responses are found by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CacheKey(Arc<str>);

impl CacheKey {
    /// The key of a target (path and query, shaped by [`KeyRules::shape`]) at `origin`.
    pub(crate) fn new(origin: &OriginUrl, passed_on: &PassedOn<'_>, target: &str) -> Self {
        // The usual case, without a copy of host or scheme: this is done for every request.
        let mark = passed_on.mark();
        if passed_on.host.is_none() && mark.is_empty() {
            return Self([origin.as_str(), target].concat().into());
        }
        // A trusted peer's scheme and host are told to the origin server, which may put them into
        // links. So they are part of the key, or one client's links would be given to others.
        let scheme = passed_on.scheme.map_or(origin.scheme(), Scheme::as_str);
        let host = match &passed_on.host {
            Some(host) => host.to_ascii_lowercase(),
            None => origin.authority().to_string(),
        };
        Self(format!("{scheme}://{mark}{host}{}{target}", origin.prefix()).into())
    }

    /// The key as text: a target URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key for logs: parameters that usually are secrets have no values.
    pub(crate) fn redacted(&self) -> Cow<'_, str> {
        redacted(&self.0)
    }
}

impl From<&str> for CacheKey {
    fn from(uri: &str) -> Self {
        Self(uri.into())
    }
}

/// What the origin server is told of the client's own URL, and so takes part in its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassedOn<'a> {
    /// Host and port: in the Host field (`--preserve-host`), or believed.
    pub host: Option<Cow<'a, str>>,
    /// The host is one that a trusted peer has said; it stands in `X-Forwarded-Host`.
    pub is_host_believed: bool,
    /// The scheme that a trusted peer has said; it stands in `X-Forwarded-Proto`.
    pub scheme: Option<Scheme>,
}

/// Marks of what was believed; see [`PassedOn::mark`].
const MARKS: [&str; 3] = ["forwarded-proto@", "forwarded-host@", "forwarded@"];

/// A key, or the beginning of one, without its mark: a URI as clients write it.
pub(crate) fn unmarked(uri: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = uri.split_once("://") else { return Cow::Borrowed(uri) };
    match MARKS.iter().find_map(|mark| rest.strip_prefix(mark)) {
        Some(rest) => Cow::Owned(format!("{scheme}://{rest}")),
        None => Cow::Borrowed(uri),
    }
}

/// The beginning of a key with each of the marks, under these schemes, or under its own if there are
/// none. A purge by URL means all of them.
pub(crate) fn marked(uri: &str, schemes: &[&str]) -> Vec<String> {
    let uri = unmarked(uri);
    let Some((own, rest)) = uri.split_once("://") else { return Vec::new() };
    let schemes = if schemes.is_empty() { &[own] } else { schemes };
    schemes.iter().flat_map(|scheme| MARKS.map(|mark| format!("{scheme}://{mark}{rest}"))).collect()
}

impl PassedOn<'_> {
    /// What of it was believed, as user information in front of the host, which no client can write
    /// there (RFC 9110 §4.2.4). Without it, a client of which nothing is believed would share a key with
    /// one that is believed to ask for the origin server's own scheme and host; the origin server is
    /// told less of the first one.
    fn mark(&self) -> &'static str {
        match (self.scheme.is_some(), self.is_host_believed) {
            (false, false) => "",
            (true, false) => MARKS[0],
            (false, true) => MARKS[1],
            (true, true) => MARKS[2],
        }
    }
}

/// Hashed and compared as its text is, so that a lookup need not make one.
impl Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which differences of the query do not matter.
#[derive(Clone, Debug, Default)]
pub struct KeyRules {
    /// `--ignore-param`: parameters with such a name are left out.
    pub ignored: Vec<Glob>,
    /// `--sort-query`: parameters are put in the order of their names; those of one name keep theirs.
    pub sort_query: bool,
}

impl KeyRules {
    /// Is the query left as the client wrote it?
    pub(crate) fn is_plain(&self) -> bool {
        self.ignored.is_empty() && !self.sort_query
    }

    /// A target or URI as it is looked up and asked for: in its normal spelling, without ignored
    /// parameters.
    pub fn shape<'a>(&self, uri: &'a str) -> Cow<'a, str> {
        // The authority is what the operator or the Host field says.
        let after_scheme = uri.find("://").filter(|_| !uri.starts_with('/')).map_or(0, |at| at + 3);
        let path_at =
            uri[after_scheme..].find(['/', '?']).map_or(uri.len(), |at| after_scheme + at);
        // Borrowed and as long as before means unchanged; most targets are, and this runs for every
        // hit.
        let target = match self.shape_target(&uri[path_at..]) {
            Cow::Borrowed(same) if same.len() == uri.len() - path_at => return Cow::Borrowed(uri),
            target => target,
        };
        Cow::Owned(format!("{}{target}", &uri[..path_at]))
    }

    fn shape_target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        // In this order: parameters are compared by their decoded names, but kept as they are written.
        let target = normalised(target);
        if self.is_plain() {
            return target;
        }
        let Some((path, query)) = target.split_once('?') else { return target };
        // A name that is encoded is the same name: `utm%5Fsource` would get past `--ignore-param
        // utm_*`.
        let ignored =
            |parameter: &&str| self.ignored.iter().any(|glob| glob.fits(&name_of(parameter)));
        let mut parameters: Vec<&str> =
            query.split('&').filter(|parameter| !ignored(parameter)).collect();
        // A stable sort: `a=1&a=2` and `a=2&a=1` mean different things to many servers.
        if self.sort_query {
            parameters.sort_by_cached_key(|parameter| name_of(parameter));
        }
        // `/a?` and `/a` are different URIs, but a query of which nothing is left is none.
        if parameters.is_empty() {
            return Cow::Owned(path.to_string());
        }
        Cow::Owned(format!("{path}?{}", parameters.join("&")))
    }

    /// The key of an absolute URI, such as one that a response names.
    pub(crate) fn key_of(&self, uri: &str) -> CacheKey {
        CacheKey::from(&*self.shape(uri))
    }

    /// Parameters that usually tell one user from another and that are ignored: the start warns of
    /// them.
    pub fn ignored_secrets(&self) -> Vec<&'static str> {
        let ignored = |name: &&str| self.ignored.iter().any(|glob| glob.fits(name.as_bytes()));
        SECRETS.into_iter().filter(ignored).collect()
    }
}

/// Writes the flags that these rules come from.
impl fmt::Display for KeyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let globs = self.ignored.iter().map(|glob| format!("--ignore-param {glob}"));
        let sort = self.sort_query.then(|| "--sort-query".to_string());
        f.write_str(&globs.chain(sort).collect::<Vec<_>>().join(", "))
    }
}

/// A pattern for names: `*` stands for any text, `?` for one byte, anything else for itself.
// Ours, not the crate wildmatch's: that compares characters of text, but a name is bytes once its
// percent-encoding is undone, and need not be UTF-8; `?` would then stand for something else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Glob(Vec<u8>);

impl Glob {
    /// Reads a pattern; every text is one.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.as_bytes().to_vec())
    }

    /// Does the pattern fit the whole of `name`? It takes at most as many steps as the product of both
    /// lengths.
    pub(crate) fn fits(&self, name: &[u8]) -> bool {
        // One place to come back to is enough: whatever an earlier star could have taken, the last one
        // can take as well. So there is no recursion, and no pattern that takes exponential time.
        let (mut at, mut in_name) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while in_name < name.len() {
            match self.0.get(at) {
                Some(b'*') => {
                    star = Some((at, in_name));
                    at += 1;
                }
                Some(byte) if *byte == b'?' || *byte == name[in_name] => {
                    at += 1;
                    in_name += 1;
                }
                _ => {
                    // Let the last star stand for one byte more.
                    let Some((star_at, from)) = star else { return false };
                    star = Some((star_at, from + 1));
                    at = star_at + 1;
                    in_name = from + 1;
                }
            }
        }
        // Stars at the end may stand for nothing.
        self.0[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A parameter's name without its percent-encoding.
fn name_of(parameter: &str) -> Cow<'_, [u8]> {
    decoded(parameter.split('=').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_and_the_passed_on_host_are_part_of_the_key() {
        let origin = OriginUrl::parse("http://O/p").expect("a URL");
        let passed_on = |host: Option<&'static str>, is_host_believed, scheme| PassedOn {
            host: host.map(Cow::Borrowed),
            is_host_believed,
            scheme,
        };
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        #[rustfmt::skip]
        let table = [
            (passed_on(None, false, None),        "http://o/p/a?b"),
            (passed_on(Some("H:1"), false, None), "http://h:1/p/a?b"),
            (passed_on(Some("o"), true, None),    "http://forwarded-host@o/p/a?b"),
            (passed_on(Some("o"), true, http),    "http://forwarded@o/p/a?b"),
            (passed_on(Some("o"), true, https),   "https://forwarded@o/p/a?b"),
            (passed_on(Some("o"), false, https),  "https://forwarded-proto@o/p/a?b"),
            (passed_on(None, false, http),        "http://forwarded-proto@o/p/a?b"),
        ];
        for (passed_on, expected) in table {
            assert_eq!(
                CacheKey::new(&origin, &passed_on, "/a?b").as_str(),
                expected,
                "{passed_on:?}"
            );
        }
    }

    #[test]
    fn the_operator_shapes_the_query() {
        let rules = |ignored: &[&str], sort_query| KeyRules {
            ignored: ignored.iter().map(|pattern| Glob::new(pattern)).collect(),
            sort_query,
        };
        #[rustfmt::skip]
        let table = [
            (rules(&[], false),               "/a?b=2&a=1&",           "/a?b=2&a=1&"),
            (rules(&["utm_*"], false),        "/a?utm_x=1&b=2&utm_=3", "/a?b=2"),
            (rules(&["utm_*"], false),        "/a?utm_x=1",            "/a"),
            (rules(&["utm_*"], false),        "/a?xutm_x=1",           "/a?xutm_x=1"),
            (rules(&["utm_*"], false),        "/a?utm%5Fx=1&b",        "/a?b"),
            (rules(&["_"], false),            "/a?_=1&__=2",           "/a?__=2"),
            (rules(&["?b"], false),           "/a?ab=1&b=2&cb=3",      "/a?b=2"),
            (rules(&["utm_*"], false),        "/a",                    "/a"),
            (rules(&["utm_*"], false),        "/a?",                   "/a?"),
            (rules(&[], true),                "/a?b=2&a=2&a=1&c",      "/a?a=2&a=1&b=2&c"),
            (rules(&["a", "c"], true),        "/a?d&c=1&b&a",          "/a?b&d"),
            (rules(&["*"], false),            "/a?token=1",            "/a"),
            (rules(&[], false),               "/%7Ea?b=%2f",           "/~a?b=%2F"),
            (rules(&[], true),                "/%7Ea?b=%61&a",         "/~a?a&b=a"),
            (rules(&[], false),               "http://h%41/%7Ea",      "http://h%41/~a"),
            (rules(&["a"], false),            "http://h?a=/%7E&b",     "http://h?b"),
            (rules(&[], false),               "/a://%7E",              "/a://~"),
        ];
        for (rules, target, expected) in table {
            assert_eq!(rules.shape(target), expected, "{target} {rules:?}");
        }
        assert_eq!(rules(&["to*", "x"], false).ignored_secrets(), ["token"]);
    }

    #[test]
    fn globs_fit_whole_names() {
        let table = [
            ("*", "", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
            ("**a**", "xa", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Glob::new(pattern).fits(name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
