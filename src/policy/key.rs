//! The cache key: a method and a target URI. RFC 9111 §2.
//!
//! Only responses to GET are stored, so the method is not written down. The URI is the one that the
//! origin server is asked for, with path and query as the client wrote them.

use std::fmt;
use std::sync::Arc;

use crate::message::target::{OriginUrl, Target};

/// What stored responses are found by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CacheKey(Arc<str>);

impl CacheKey {
    /// The key of `target` at `origin`. `host` is the client's own, where it is passed on to the
    /// origin server, and so takes part in what the server answers.
    pub fn new(origin: &OriginUrl, host: Option<&str>, target: &Target) -> Self {
        let scheme = origin.scheme();
        let (prefix, path) = (&origin.prefix, target.as_str());
        Self(match host {
            Some(host) => format!("{scheme}://{}{prefix}{path}", host.to_ascii_lowercase()).into(),
            None => format!("{scheme}://{}{prefix}{path}", origin.authority()).into(),
        })
    }

    /// The key as text: a target URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for CacheKey {
    fn from(uri: &str) -> Self {
        Self(uri.into())
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_and_the_passed_on_host_are_part_of_the_key() {
        let origin = OriginUrl::parse("http://O/p").expect("a URL");
        let key = |host, target| {
            let target = Target::parse(target).expect("a target");
            CacheKey::new(&origin, host, &target).to_string()
        };
        assert_eq!(key(None, "/a?b"), "http://o/p/a?b");
        assert_eq!(key(Some("H:1"), "/a"), "http://h:1/p/a");
    }
}
