//! Stored responses as they are listed and shown: as JSON for programs, as text for people.
//!
//! Field values are bytes (RFC 9110 §5.5), but JSON and terminals take text: bytes that are no UTF-8 appear as
//! replacement characters, here and never in what clients get.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::control::explanation::list;
use crate::control::explanation::until;
use crate::message::date;
use crate::message::fields::FieldSection;
use crate::policy::digest::{fingerprint, hexadecimal};
use crate::policy::key::CacheKey;
use crate::policy::purging::tags;
use crate::policy::stored::StoredHead;
use crate::proxy::Proxy;
use crate::stats::{NumberedRequests, RecentRequest};
use crate::store::backing::Listed;

/// A line of a list, for programs. `fresh_for` is in seconds, negative once the response is stale, and null if
/// it stays fresh until it is cleared. `after` is what the next page is asked for with, if that is not the
/// key.
pub(super) fn json(listed: &Listed, now: Timestamp) -> Value {
    // Scripts know these names: a member may be added, but none renamed.
    let head = &listed.head;
    let mut value = json!({
        "url": listed.key.as_str(),
        "status": head.status.as_u16(),
        "bytes": listed.bytes,
        "hits": listed.reuses,
        "stored": head.response_time.seconds(),
        "age": head.current_age(now).0,
        "fresh_for": head.freshness_left(now),
        "vary": head.fields.get("vary").map(String::from_utf8_lossy),
        "part": head.part.map(|part| (part.span.first, part.span.last)),
    });
    // Redis has no order of keys, and pages by a cursor of its own.
    if let Some(cursor) = &listed.cursor {
        value["after"] = json!(cursor);
    }
    value
}

/// The newest requests, the oldest first. `next` is what the next answer is asked for with; `seconds` is null for hits
/// that are not timed one by one.
pub(super) fn requests(numbered: &NumberedRequests) -> Value {
    let one = |(number, request): (u64, &RecentRequest)| {
        json!({
            "number": number,
            "at": request.at.seconds(),
            "method": request.method,
            "target": request.target,
            "status": request.status,
            "bytes": request.bytes,
            "outcome": request.outcome,
            "seconds": request.taken.map(|taken| taken.as_secs_f64()),
        })
    };
    let all: Vec<Value> = (numbered.first..).zip(&numbered.requests).map(one).collect();
    json!({ "next": numbered.next(), "requests": all })
}

/// What tells the variants of a URL apart, as a word: stores list them in different orders.
pub(super) fn variant(head: &StoredHead) -> String {
    let selecting: Vec<_> = head.selecting.iter().collect();
    let part = head.part.map(|part| (part.span.first, part.span.last));
    hexadecimal(&fingerprint(format!("{selecting:?} {part:?}").as_bytes()))
}

/// The same with all fields, tags, and the selecting header fields of the request it was made for.
pub(super) fn json_with_fields(key: &CacheKey, listed: &Listed, now: Timestamp) -> Value {
    let mut value = json(&Listed { key: key.clone(), ..listed.clone() }, now);
    // Null is a value here: the response was made for a request without that field (§4.1).
    let selecting: Map<String, Value> = listed
        .head
        .selecting
        .iter()
        .map(|(name, value)| {
            let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
            (name.as_str().to_string(), json!(value))
        })
        .collect();
    value["selecting"] = Value::Object(selecting);
    value["variant"] = json!(variant(&listed.head));
    value["tags"] = tags(&listed.head).collect();
    value["fields"] = pairs(&listed.head.fields);
    value
}

/// Field lines as pairs of name and value.
pub(super) fn pairs(fields: &FieldSection) -> Value {
    let pair = |(name, value): (&[u8], &[u8])| {
        // A pair and not a member: a field may have several lines, whose order matters (RFC 9110 §5.3).
        json!([String::from_utf8_lossy(&name.to_ascii_lowercase()), String::from_utf8_lossy(value)])
    };
    fields.lines().map(pair).collect()
}

/// Everything that is stored for a key, for people.
pub(super) fn text(proxy: &Proxy, key: &CacheKey, found: &[Listed], now: Timestamp) -> String {
    let mut text = format!("{key}\n");
    for listed in found {
        let head = &listed.head;
        let _ = write!(
            text,
            "\nStored:     {}, {} bytes, since {}, reused {} times\n",
            head.status,
            listed.bytes,
            date::format(head.response_time),
            listed.reuses,
        );
        let _ = writeln!(text, "  age               {} s", head.current_age(now).0);
        // In the words of `explain`, so that both say the same of the same response.
        until(&mut text, proxy, head, now);
        for (name, value) in head.selecting.iter() {
            let value = value.map_or("none".into(), String::from_utf8_lossy);
            let _ = writeln!(text, "  made for          {name}: {value}");
        }
        let tags: Vec<&str> = tags(head).collect();
        if !tags.is_empty() {
            let _ = writeln!(text, "  tags              {}", tags.join(" "));
        }
        if let Some(part) = head.part {
            let _ = writeln!(
                text,
                "  part              bytes {} to {}",
                part.span.first, part.span.last
            );
        }
        list(&mut text, &head.fields);
    }
    text
}
