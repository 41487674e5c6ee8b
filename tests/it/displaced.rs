//! What a new response displaces is one rule (`policy::partial`), and every store goes by it: whatever is put in a
//! row, each has of it what the rule leaves. RFC 9111 §3.4, §4.1.

use std::sync::Arc;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::message::fields::Fields;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::partial::displaced;
use caching_proxy::policy::range::{Part, Span};
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::vary::{Selecting, Sent};
use caching_proxy::store::Put;
use http::{HeaderName, HeaderValue, header};
use proptest::collection::vec;
use proptest::prelude::*;

use super::stores::{Kept, all};
use super::support::seeded::seeded;
use super::support::stored::{content, put, response, variants};

/// One response: the values of the fields that select it, its tag, and which bytes of 100 it has.
#[derive(Clone, Debug)]
struct New {
    selected_by: Vec<&'static str>,
    tag: &'static str,
    bytes: Option<(u64, u64)>,
}

fn new() -> impl Strategy<Value = New> {
    let selected_by = vec(prop_oneof![Just("en"), Just("de")], 0..3);
    let bytes = proptest::option::of((0_u64..8, 0_u64..4));
    (selected_by, prop_oneof![Just("\"a\""), Just("\"b\"")], bytes).prop_map(
        |(selected_by, tag, bytes)| {
            let bytes = bytes.map(|(first, more)| (first * 10, (first + more) * 10 + 9));
            New { selected_by, tag, bytes: bytes.map(|(first, last)| (first, last.min(99))) }
        },
    )
}

/// The response number `number` of a row, each later than the one before.
fn stored(number: usize, new: &New) -> Arc<StoredResponse> {
    let (mut sent, mut fields) = (Fields::new(), Fields::new());
    for (name, value) in ["accept-language", "theme"].into_iter().zip(&new.selected_by) {
        sent.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        fields.append(header::VARY, HeaderValue::from_static(name));
    }
    fields.set_text("etag", new.tag.to_string());
    let sent = Sent { fields: &sent, salt: &Salt::new([0; SALT_BYTES]) };
    let plain = response(None, b"", 9);
    let head = StoredHead {
        selecting: Selecting::read(&fields, sent).expect("no star"),
        part: new
            .bytes
            .map(|(first, last)| Part { span: Span { first, last }, complete: Some(100) }),
        fields: fields.into(),
        response_time: Timestamp::from_seconds(1 + number as u64),
        ..plain.head().clone()
    };
    let length = new.bytes.map_or(100, |(first, last)| last + 1 - first) as usize;
    // The first byte tells which one it is.
    let mut content = vec![number as u8];
    content.resize(length, b'x');
    Arc::new(StoredResponse::new(head, Bytes::from(content)))
}

/// What the rule leaves of a row, the most recent first.
fn left(row: &[Arc<StoredResponse>]) -> Vec<u8> {
    let mut present: Vec<Arc<StoredResponse>> = Vec::new();
    for new in row {
        let mut goes = displaced(new, present.iter().map(|old| old.head())).into_iter();
        present.retain(|_| !goes.next().expect("one answer for each"));
        present.insert(0, Arc::clone(new));
    }
    present.iter().map(|response| content(response)[0]).collect()
}

#[test]
fn every_store_lets_go_of_the_same_responses() {
    let stores = all();
    // In turn, so that a store of one response has let go of the key before.
    let keys = std::cell::Cell::new(0);
    proptest!(seeded(Some(12)), |(row in vec(new(), 1..24))| {
        let made = || -> Vec<_> {
            row.iter().enumerate().map(|(number, new)| stored(number, new)).collect()
        };
        let expected = left(&made());
        let key = format!("http://o/{}", keys.replace(keys.get() + 1));
        for Kept { name, store, .. } in &stores {
            // Made anew for each: a response knows its place in one store.
            for response in made() {
                prop_assert_eq!(put(store, &key, response), Put::Stored, "{}", name);
            }
            let numbers = |found: &[Arc<StoredResponse>]| -> Vec<u8> {
                found.iter().map(|response| content(response)[0]).collect()
            };
            prop_assert_eq!(numbers(&variants(store, &key)), &expected[..], "{}", name);
            // Memory may have evicted some of them, but has nothing that had to go.
            let here = store.look_at(&key).unwrap_or_default();
            let outlived = numbers(&here).into_iter().filter(|number| !expected.contains(number));
            prop_assert_eq!(outlived.count(), 0, "{}", name);
            store.invalidate(&CacheKey::from(key.as_str()), None);
        }
    });
}
