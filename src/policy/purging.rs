//! What an operator wants to be rid of: one URI, all that begin alike or fit a pattern, what the origin
//! server has tagged, or what is stale.

use std::fmt;

use crate::clock::Timestamp;
use crate::message::fields::FieldValues;
use crate::policy::key::Glob;
use crate::policy::stored::StoredHead;

/// The fields that carry tags: names in a list, separated by spaces or commas.
const TAG_FIELDS: [&str; 3] = ["surrogate-key", "cache-tag", "xkey"];
/// The most tags of one response that are heeded; further ones are not.
const TAGS_MAX: usize = 256;

/// Which stored responses an operator means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// All of them.
    All,
    /// Those for one target URI, all variants.
    Uri(String),
    /// Those whose target URI begins so.
    Prefix(String),
    /// Those whose target URI fits the pattern.
    Match(Glob),
    /// Those with this tag.
    Tag(String),
    /// Those that are stale.
    Stale,
}

impl Selector {
    /// Does it mean the response stored under `key`, at `now`?
    pub fn selects(&self, key: &str, head: &StoredHead, now: Timestamp) -> bool {
        match self {
            Self::Tag(tag) => tags(head).any(|other| other == tag),
            Self::Stale => !head.is_fresh(now),
            _ => self.selects_key(key) == Some(true),
        }
    }

    /// Does it mean all responses under `key`, or none? `None` where their heads decide.
    pub fn selects_key(&self, key: &str) -> Option<bool> {
        // The stores ask this first: most selectors are settled without a head being read from a disk.
        match self {
            Self::All => Some(true),
            Self::Uri(uri) => Some(key == uri),
            Self::Prefix(prefix) => Some(key.starts_with(prefix.as_str())),
            Self::Match(glob) => Some(glob.fits(key.as_bytes())),
            Self::Tag(_) | Self::Stale => None,
        }
    }
}

/// As an operator would say it, for logs.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Uri(uri) => f.write_str(uri),
            Self::Prefix(prefix) => write!(f, "{prefix}…"),
            Self::Match(glob) => write!(f, "{glob}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Stale => f.write_str("what is stale"),
        }
    }
}

/// The tags of a response, at most [`TAGS_MAX`].
pub(crate) fn tags(head: &StoredHead) -> impl Iterator<Item = &str> {
    // Fastly separates by spaces, Cloudflare by commas, Varnish's xkey by either; no tag has one in it.
    let values = TAG_FIELDS.into_iter().flat_map(|name| head.fields.values(name));
    let lists = values.filter_map(|value| str::from_utf8(value).ok());
    let names = lists.flat_map(|list| list.split([' ', '\t', ',']));
    names.filter(|name| !name.is_empty()).take(TAGS_MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::clock::DeltaSeconds;
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::stored::StoredResponse;
    use crate::policy::vary::Selecting;

    fn tagged(name: &'static str, value: &'static str) -> StoredResponse {
        let line = (HeaderName::from_static(name), HeaderValue::from_static(value));
        let head = StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: [line].into_iter().collect::<Fields>().into(),
            directives: ResponseDirectives::default(),
            selecting: std::iter::empty().collect::<Selecting>(),
            lifetime: Lifetime::Explicit(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(0),
            fresh_until: Timestamp::from_seconds(60),
            useful_until: Timestamp::MAX,
        };
        StoredResponse::new(head, Bytes::new())
    }

    #[test]
    fn a_selector_selects_what_it_says() {
        let key = "http://o/a/b?c";
        let now = Timestamp::from_seconds(10);
        #[rustfmt::skip]
        let table = [
            (Selector::All, true),
            (Selector::Uri("http://o/a/b?c".into()), true),
            (Selector::Uri("http://o/a/b".into()), false),
            (Selector::Prefix("http://o/a/".into()), true),
            (Selector::Prefix("http://o/b".into()), false),
            (Selector::Match(Glob::new("*/b?c")), true),
            (Selector::Match(Glob::new("*.png")), false),
            (Selector::Tag("two".into()), true),
            (Selector::Tag("tw".into()), false),
            (Selector::Stale, false),
        ];
        for (selector, expected) in table {
            for (name, value) in
                [("surrogate-key", "one two"), ("cache-tag", "one,two"), ("xkey", "two")]
            {
                let response = tagged(name, value);
                assert_eq!(selector.selects(key, &response, now), expected, "{selector} {name}");
                let by_key = selector.selects_key(key);
                assert!(by_key.is_none_or(|by_key| by_key == expected), "{selector}");
            }
        }
        let stale = tagged("xkey", "");
        assert!(Selector::Stale.selects(key, &stale, Timestamp::from_seconds(60)));
        let many = "a ".repeat(1000);
        let many: &'static str = many.leak();
        assert_eq!(tags(&tagged("xkey", many)).count(), TAGS_MAX, "they are bounded");
    }
}
