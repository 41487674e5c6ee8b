//! Clears and purges: what Redis remembers of them, and which responses have stood them all.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::policy::key::{CacheKey, Glob};
use crate::policy::purging::Selector;
use crate::policy::stored::StoredHead;

/// The most purges that are remembered; a response from before all of them counts as purged.
pub(super) const PURGES_MAX: u64 = 256;

/// What has been cleared and purged, as far as is known. Guarded by `RedisShared::state`.
#[derive(Clone, Debug, Default)]
pub(super) struct RedisState {
    pub generation: u64,
    pub purges: u64,
    /// The last of them by number: what, and when.
    pub remembered: BTreeMap<u64, (Selector, Timestamp)>,
}

impl RedisState {
    /// Has nothing that was purged since purge number `since` selected this response?
    pub(super) fn admits(&self, since: u64, key: &CacheKey, head: &StoredHead) -> bool {
        // Written after the last purge, by a proxy that knew of it.
        if since >= self.purges {
            return true;
        }
        // One that is not remembered may have selected anything.
        (since + 1..=self.purges).all(|number| {
            self.remembered
                .get(&number)
                .is_some_and(|(selector, at)| !selector.selects(key.as_str(), head, *at))
        })
    }
}

/// A selector as it is written down: one letter, and what it selects by. Other versions read it, too.
pub(super) fn selector_text(selector: &Selector) -> Vec<u8> {
    let with = |kind: u8, rest: &[u8]| [&[kind], rest].concat();
    match selector {
        Selector::All => vec![b'a'],
        Selector::Uri(uri) => with(b'u', uri.as_bytes()),
        Selector::Prefix(prefix) => with(b'p', prefix.as_bytes()),
        Selector::Match(glob) => with(b'm', glob.to_string().as_bytes()),
        Selector::Tag(tag) => with(b't', tag.as_bytes()),
        Selector::Stale => vec![b's'],
    }
}

/// The selector of such a text. One that makes no sense, of a newer proxy perhaps, may mean anything.
pub(super) fn read_selector(text: &[u8]) -> Selector {
    let Some((kind, rest)) = text.split_first() else { return Selector::All };
    let rest = String::from_utf8_lossy(rest).into_owned();
    match kind {
        b'u' => Selector::Uri(rest),
        b'p' => Selector::Prefix(rest),
        b'm' => Selector::Match(Glob::new(&rest)),
        b't' => Selector::Tag(rest),
        b's' => Selector::Stale,
        _ => Selector::All,
    }
}

/// A purge as it is written down: when, in milliseconds, and what. If it makes no sense, it is of everything.
pub(super) fn read_purge(text: &[u8]) -> (Selector, Timestamp) {
    let mut words = text.splitn(2, |byte| *byte == b' ');
    let at = words.next().and_then(|at| std::str::from_utf8(at).ok()?.parse().ok());
    match at.zip(words.next()) {
        Some((at, selector)) => (read_selector(selector), Timestamp(at)),
        None => (Selector::All, Timestamp::MAX),
    }
}
