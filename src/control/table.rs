//! What is stored, as the page's table has it: searched, sorted, a page at a time.
//!
//! Nothing is kept between two requests: each looks through what is stored anew, up to a bound, and says so
//! where it has not seen all.

use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::control::listing::variant;
use crate::control::query::{Query, Wrong, bad};
use crate::proxy::Proxy;
use crate::store::backing::Listed;

/// Stored responses that one request looks through, at most.
const LOOKED_AT_MAX: usize = 20_000;
/// Bytes of the keys that it keeps meanwhile, at most.
const KEY_BYTES_MAX: usize = 4 << 20;
/// Stored responses that are asked for at a time.
const CHUNK: usize = 1000;
/// Rows of a page.
const ROWS: usize = 25;

/// A row, in the words of `/list`.
#[derive(Serialize)]
struct TableRow {
    url: String,
    /// Which of the responses that are stored for the URL.
    variant: String,
    status: u16,
    bytes: u64,
    hits: u64,
    age: u32,
    fresh_for: Option<i64>,
}

impl TableRow {
    fn new(listed: &Listed, now: Timestamp) -> Self {
        let head = &listed.head;
        Self {
            url: listed.key.as_str().to_string(),
            variant: variant(head),
            status: head.status.as_u16(),
            bytes: listed.bytes,
            hits: listed.reuses,
            age: head.current_age(now).0,
            fresh_for: head.freshness_left(now),
        }
    }
}

/// The rows that a query asks for: `search` is part of their URL, `sort` a member of theirs (`-` in front: the
/// largest first), `page` counts from 0.
pub(super) fn table(proxy: &Proxy, query: &Query) -> Result<Value, Wrong> {
    let page = query.number("page", 0)?;
    let sort = query.get("sort").unwrap_or("url");
    let (sort, is_falling) = sort.strip_prefix('-').map_or((sort, false), |sort| (sort, true));
    let (mut rows, all_seen) = looked_through(proxy, query.get("search").unwrap_or(""));
    match sort {
        "url" => rows.sort_by(|one, other| one.url.cmp(&other.url)),
        "status" => rows.sort_by_key(|row| row.status),
        "bytes" => rows.sort_by_key(|row| row.bytes),
        "hits" => rows.sort_by_key(|row| row.hits),
        "age" => rows.sort_by_key(|row| row.age),
        // What stays fresh until it is cleared has the most time left.
        "fresh_for" => rows.sort_by_key(|row| row.fresh_for.unwrap_or(i64::MAX)),
        _ => {
            let text = "expected url, status, bytes, hits, age or fresh_for, perhaps after a -";
            return Err(bad(format!("sort={sort}: {text}")));
        }
    }
    if is_falling {
        rows.reverse();
    }
    let (matched, pages) = (rows.len(), rows.len().div_ceil(ROWS).max(1));
    // What was on the last page may have gone meanwhile.
    let page = page.min(pages - 1);
    let shown: Vec<&TableRow> = rows.iter().skip(page * ROWS).take(ROWS).collect();
    Ok(json!({
        "rows": shown, "page": page, "pages": pages, "matched": matched, "all_seen": all_seen,
    }))
}

/// The rows whose URL has `search` in it, and whether these are all.
fn looked_through(proxy: &Proxy, search: &str) -> (Vec<TableRow>, bool) {
    let now = proxy.now();
    let (mut rows, mut looked_at, mut key_bytes) = (Vec::new(), 0, 0);
    let mut after = String::new();
    loop {
        let listed = proxy.cache().list(&after, CHUNK);
        let Some(end) = listed.last() else { return (rows, true) };
        end.after().clone_into(&mut after);
        for listed in &listed {
            let key = listed.key.as_str();
            if key.contains(search) {
                key_bytes += key.len();
                rows.push(TableRow::new(listed, now));
            }
            if key_bytes >= KEY_BYTES_MAX {
                return (rows, false);
            }
        }
        looked_at += listed.len();
        if looked_at >= LOOKED_AT_MAX {
            return (rows, false);
        }
    }
}
