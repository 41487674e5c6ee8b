//! What is stored, found by looking at all keys: for lists, and to free what was purged. This takes long on
//! a large server, and is done page by page.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::{Cmd, Connection, RedisResult, Value, cmd};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::backing::{BackingError, Listed};
use crate::store::redis::link::{backing_error, open};
use crate::store::redis::shared::RedisShared;
use crate::store::redis::values;

/// Names that Redis looks at in one step: to free them, and for a list. (The second is part of what a cursor
/// means: it must not depend on the length of a page.)
const SCAN_COUNT: u64 = 1000;
const LIST_COUNT: u64 = 200;
/// What a cursor begins with; no key does.
const CURSOR: &str = "scan:";

/// Where a list goes on. Redis keeps no order of keys, but it has a place in its table that its own next step
/// begins at; the list is in the order of these steps, and within each in the order of keys.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct ListCursor {
    /// Which server, where there are several.
    server: usize,
    /// What the step begins at, as the server has said.
    step: u64,
    /// The last key of it that was listed.
    last: Option<String>,
    /// All is passed over until this key is found: what is given is a key alone.
    sought: Option<String>,
}

impl ListCursor {
    fn read(after: &str) -> Self {
        let words = || {
            let mut words = after.strip_prefix(CURSOR)?.splitn(3, ':');
            let (server, step) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let last = words.next().filter(|last| !last.is_empty()).map(str::to_string);
            Some(Self { server, step, last, sought: None })
        };
        let sought = (!after.is_empty()).then(|| after.to_string());
        words().unwrap_or(Self { sought, ..Self::default() })
    }

    fn text(&self) -> String {
        let last = self.last.as_deref().unwrap_or_default();
        format!("{CURSOR}{}:{}:{last}", self.server, self.step)
    }

    /// The step after this one: `next` is what the server has named, 0 at its end.
    fn next(self, next: u64) -> Self {
        let server = self.server + usize::from(next == 0);
        Self { server, step: next, last: None, sought: self.sought }
    }

    /// The keys of a step that are still to be listed.
    fn rest(&mut self, mut keys: BTreeSet<String>) -> BTreeSet<String> {
        if let Some(sought) = &self.sought {
            if !keys.contains(sought) {
                return BTreeSet::new();
            }
            self.last = self.sought.take();
        }
        // If the last key is not there any more, the table may have grown, and the step with it: better listed
        // twice than never.
        match self.last.as_ref().filter(|last| keys.contains(*last)) {
            Some(last) => {
                let mut rest = keys.split_off(last);
                rest.remove(last);
                rest
            }
            None => keys,
        }
    }
}

/// At most `most` responses that come after `after`, and all variants of each key. Looks no further than it has
/// to: at about as many names as a page has, where no other program has keys there.
pub(super) fn list(
    shared: &Arc<RedisShared>,
    after: &str,
    most: usize,
) -> Result<Vec<Listed>, BackingError> {
    if !shared.links.is_up() {
        return Err(BackingError("not reachable".to_string()));
    }
    let pattern = pattern(shared);
    let servers = shared.links.servers().map_err(|error| backing_error(&error))?;
    let (mut listed, mut cursor) = (Vec::new(), ListCursor::read(after));
    while let Some(server) = servers.get(cursor.server) {
        // A connection of its own: the idle ones of a cluster go wherever a key is, not to one server.
        let mut connection =
            open(server, shared.limits.answer_max).map_err(|error| backing_error(&error))?;
        let here = cursor.server;
        while cursor.server == here {
            let scan = scan(&pattern, cursor.step, LIST_COUNT);
            let (next, names) = scan
                .query::<(u64, Vec<String>)>(&mut connection)
                .map_err(|error| backing_error(&error))?;
            if !list_step(shared, &names, &mut cursor, &mut listed, most)? {
                return Ok(listed);
            }
            cursor = cursor.next(next);
            if let Some(last) = listed.last_mut() {
                last.cursor = Some(cursor.text());
            }
            if listed.len() >= most {
                return Ok(listed);
            }
        }
    }
    Ok(listed)
}

/// Lists what one step has found; `false` if there was more than fits.
fn list_step(
    shared: &Arc<RedisShared>,
    names: &[String],
    cursor: &mut ListCursor,
    listed: &mut Vec<Listed>,
    most: usize,
) -> Result<bool, BackingError> {
    let state = shared.state();
    let current = |name: &String| parts(shared, name).filter(|(at, _)| *at == state.generation);
    let uris = names.iter().filter_map(current).map(|(_, uri)| uri).collect();
    for uri in cursor.rest(uris) {
        let key = CacheKey::from(uri.as_str());
        let read = cmd("HGETALL").arg(shared.entry(state.generation, &key)).clone();
        let found = shared.links.with(|link| link.one(&read))?;
        let variants = shared.variants(&key, &found, &state);
        // One key with very many variants is better listed whole than not at all.
        if !listed.is_empty() && listed.len() + variants.len() > most {
            return Ok(false);
        }
        cursor.last = Some(uri);
        listed.extend(variants.iter().map(|response| Listed {
            key: key.clone(),
            head: response.head().clone(),
            bytes: response.content.len(),
            reuses: 0,
            cursor: Some(cursor.text()),
        }));
    }
    Ok(true)
}

/// Deletes what a purge has selected; how many responses there were.
pub(super) fn delete(
    shared: &Arc<RedisShared>,
    selector: &Selector,
    now: Timestamp,
) -> Result<u64, BackingError> {
    let current = shared.state().generation;
    let mut gone = 0;
    each_key(shared, |connection, names| {
        for name in names {
            let Some((generation, uri)) = parts(shared, &name) else { continue };
            if generation != current {
                // Cleared, or lost; nobody reads it any more. Counted here because a clear only begins a new
                // generation, and its operator wants to know how many responses went.
                let length: u64 = cmd("HLEN").arg(&name).query(connection)?;
                let () = cmd("UNLINK").arg(&name).query(connection)?;
                gone += length;
            } else if *selector != Selector::All {
                gone += delete_selected(shared, connection, (&name, &uri), selector, now)?;
            }
        }
        Ok(())
    })?;
    Ok(gone)
}

fn delete_selected(
    shared: &Arc<RedisShared>,
    connection: &mut Connection,
    (name, uri): (&str, &str),
    selector: &Selector,
    now: Timestamp,
) -> RedisResult<u64> {
    // Only to free memory: the purge is in the list already, and each proxy leaves out what it selects. So what
    // is stored between this look and the removal is not lost by more than one fetch.
    let found: Value = cmd("HGETALL").arg(name).query(connection)?;
    let mut delete = cmd("HDEL");
    delete.arg(name);
    let mut count = 0;
    for (field, value) in values::fields(&found) {
        let selected = shared
            .response(value)
            .is_none_or(|(kept, _)| selector.selects(uri, kept.response.head(), now));
        if selected {
            delete.arg(field);
            count += 1;
        }
    }
    if count > 0 {
        let () = delete.query(connection)?;
    }
    Ok(count)
}

/// Looks at all keys of stored responses, of any generation, some at a time.
fn each_key(
    shared: &RedisShared,
    mut look: impl FnMut(&mut Connection, Vec<String>) -> RedisResult<()>,
) -> Result<(), BackingError> {
    let pattern = pattern(shared);
    let mut scan_all = || -> RedisResult<()> {
        for server in shared.links.servers()? {
            let mut connection = open(&server, shared.limits.answer_max)?;
            let mut cursor = 0;
            // SCAN gives each key that is there all the while, some of them twice. Connections are this look's
            // own: it takes long, and must not keep one from the workers.
            loop {
                let (next, names) = scan(&pattern, cursor, SCAN_COUNT)
                    .query::<(u64, Vec<String>)>(&mut connection)?;
                look(&mut connection, names)?;
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    };
    scan_all().map_err(|error| backing_error(&error))
}

/// What the names of all stored responses match.
fn pattern(shared: &RedisShared) -> String {
    format!("{}e*", escaped(&shared.beginning()))
}

fn scan(pattern: &str, cursor: u64, count: u64) -> Cmd {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
    scan
}

/// The generation and the URI of the name of a hash.
fn parts(shared: &RedisShared, name: &str) -> Option<(u64, String)> {
    let rest = name.strip_prefix(&shared.beginning())?.strip_prefix('e')?;
    let (generation, rest) = rest.split_once(":{")?;
    Some((u64::from_str_radix(generation, 16).ok()?, rest.strip_suffix('}')?.to_string()))
}

/// Text that a pattern of Redis takes as it is.
fn escaped(text: &str) -> String {
    let special = |letter: char| "*?[]\\^-".contains(letter);
    text.chars()
        .flat_map(|letter| special(letter).then_some('\\').into_iter().chain([letter]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_it_was() {
        let keys = || ["a", "b", "c"].map(str::to_string).into_iter().collect::<BTreeSet<_>>();
        #[rustfmt::skip]
        let table = [
            ("", "abc"), ("scan:0:7:", "abc"), ("scan:0:7:a", "bc"), ("scan:1:7:c", ""),
            // It has gone; and keys alone, one of this step and one of another.
            ("scan:0:7:bb", "abc"), ("b", "c"), ("x", ""), ("scan:x", ""),
        ];
        for (after, expected) in table {
            let mut cursor = ListCursor::read(after);
            let rest: String = cursor.rest(keys()).into_iter().collect();
            assert_eq!(rest, expected, "{after}");
            if cursor.sought.is_none() {
                assert_eq!(ListCursor::read(&cursor.text()), cursor, "{after}");
            }
        }
        let cursor = ListCursor::read("scan:2:7:http://o/a?b:c");
        assert_eq!(cursor.last.as_deref(), Some("http://o/a?b:c"));
        assert_eq!(cursor.clone().next(9).text(), "scan:2:9:");
        assert_eq!(cursor.next(0).text(), "scan:3:0:");
    }
}
