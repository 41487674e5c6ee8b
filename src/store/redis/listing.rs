//! What is stored, found by looking at all keys: for lists, and to free what was purged. This takes long on
//! a large server, and is done page by page.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::{Cmd, Connection, RedisResult, Value, cmd};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::behind::{BehindError, Listed};
use crate::store::redis::link::told;
use crate::store::redis::{Shared, values};

/// Keys that are looked at in one step.
const SCAN_COUNT: u64 = 1000;

/// At most `most` responses whose key comes after `after`, and all variants of each key.
pub(super) fn list(
    shared: &Arc<Shared>,
    after: &str,
    most: usize,
) -> Result<Vec<Listed>, BehindError> {
    if !shared.links.is_up() {
        return Err(BehindError("not reachable".to_string()));
    }
    let state = shared.state();
    let mut first: BTreeSet<String> = BTreeSet::new();
    each_key(shared, |_, names| {
        for name in names {
            let Some((generation, uri)) = parts(shared, &name) else { continue };
            if generation == state.generation && uri.as_str() > after {
                first.insert(uri);
                if first.len() > most {
                    first.pop_last();
                }
            }
        }
        Ok(())
    })?;
    let mut listed = Vec::new();
    for uri in first {
        let key = CacheKey::from(uri.as_str());
        let read = cmd("HGETALL").arg(shared.entry(state.generation, &key)).clone();
        let found = shared.links.with(|link| link.one(&read))?;
        for response in shared.variants(&key, &found, &state) {
            listed.push(Listed {
                key: key.clone(),
                head: response.head().clone(),
                bytes: response.content.len(),
                reuses: 0,
            });
        }
        if listed.len() >= most {
            break;
        }
    }
    Ok(listed)
}

/// Deletes what a purge has selected; how many responses there were.
pub(super) fn delete(
    shared: &Arc<Shared>,
    selector: &Selector,
    now: Timestamp,
) -> Result<u64, BehindError> {
    let current = shared.state().generation;
    let mut gone = 0;
    each_key(shared, |connection, names| {
        for name in names {
            let Some((generation, uri)) = parts(shared, &name) else { continue };
            if generation != current {
                // Cleared, or lost; nobody reads it any more.
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
    shared: &Arc<Shared>,
    connection: &mut Connection,
    (name, uri): (&str, &str),
    selector: &Selector,
    now: Timestamp,
) -> RedisResult<u64> {
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
    shared: &Shared,
    mut look: impl FnMut(&mut Connection, Vec<String>) -> RedisResult<()>,
) -> Result<(), BehindError> {
    let pattern = format!("{}e*", escaped(&shared.beginning()));
    let mut scan_all = || -> RedisResult<()> {
        for mut connection in shared.links.each()? {
            let mut cursor = 0;
            loop {
                let (next, names) =
                    scan(&pattern, cursor).query::<(u64, Vec<String>)>(&mut connection)?;
                look(&mut connection, names)?;
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    };
    scan_all().map_err(|error| told(&error))
}

fn scan(pattern: &str, cursor: u64) -> Cmd {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
    scan
}

/// The generation and the URI of the name of a hash.
fn parts(shared: &Shared, name: &str) -> Option<(u64, String)> {
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
