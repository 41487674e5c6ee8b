//! Properties that hold for any input: parsers take anything, arithmetic agrees with a plain model,
//! ranges put together make the whole. Every prefix of what is valid is tried, too.

use std::sync::Arc;
use std::time::Duration;

use super::support::seeded::seeded;
use bytes::Bytes;
use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::message::date;
use caching_proxy::message::fields::{Fields, list_members};
use caching_proxy::message::head::read_response;
use caching_proxy::message::reference::{resolve, written_like};
use caching_proxy::message::target::{OriginUrl, Target};
use caching_proxy::policy::age::{age_value, corrected_initial_age};
use caching_proxy::policy::cache_control::{RequestDirectives, ResponseDirectives, read_seconds};
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::freshness::{FreshnessRules, Lifetime, fresh_until, freshness_lifetime};
use caching_proxy::policy::key::{Glob, KeyRules};
use caching_proxy::policy::partial::{displaced, union};
use caching_proxy::policy::precondition::{entity_tags, is_not_modified};
use caching_proxy::policy::range::{Part, Span, Spec, Wanted, content_range, read, wanted};
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::targeted;
use caching_proxy::policy::vary::{Selecting, Sent};
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn one(name: &'static str, value: &[u8]) -> Fields {
    let value = HeaderValue::from_bytes(value).unwrap_or(HeaderValue::from_static(""));
    [(HeaderName::from_static(name), value)].into_iter().collect()
}

fn head(fields: Fields, part: Option<Part>) -> StoredHead {
    StoredHead {
        status: if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK },
        part,
        directives: ResponseDirectives::read(&fields),
        fields: fields.into(),
        selecting: Selecting::default(),
        lifetime: Lifetime::Unknown,
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: NOW,
        fresh_until: NOW,
        useful_until: NOW,
    }
}

/// Reads a value in every way that there is; nothing may panic, nor take long.
fn read_as_everything(value: &[u8]) {
    for name in [
        "cache-control",
        "cdn-cache-control",
        "age",
        "expires",
        "vary",
        "range",
        "content-range",
        "if-none-match",
        "if-modified-since",
        "accept-language",
    ] {
        let fields = one(name, value);
        let directives = ResponseDirectives::read(&fields);
        for span in
            [directives.max_age, directives.s_maxage, directives.stale_if_error, age_value(&fields)]
        {
            assert!(span.is_none_or(|span| span <= DeltaSeconds::MAX));
        }
        let _ = (
            RequestDirectives::read(&fields),
            targeted::read(&fields),
            read(&fields),
            Part::read(&fields),
        );
        let sent = Sent { fields: &fields, salt: &Salt::new([0; SALT_BYTES]) };
        let _ = Selecting::read(&one("vary", name.as_bytes()), sent)
            .map(|selecting| selecting.fingerprint());
        let _ = is_not_modified(&fields, &head(one("etag", value), None));
    }
    let _ = (date::parse(value, NOW), read_seconds(value), read_response(value));
    assert!(list_members(value).all(|member| member.len() <= value.len()));
    assert!(entity_tags(value).all(|tag| tag.len() <= value.len()));
    let text = String::from_utf8_lossy(value);
    let _ = (
        Target::parse(&text),
        OriginUrl::parse(&text),
        resolve("http://a/b?c", &text),
        resolve(&text, "d"),
    );
    let _ = written_like(&text, "http://a/");
    let rules = KeyRules { ignored: vec![Glob::new(&text), Glob::new("a*b*?")], sort_query: true };
    let shaped = rules.shape(&text).into_owned();
    assert_eq!(rules.shape(&shaped), shaped, "what is shaped stays as it is");
}

#[test]
fn every_prefix_of_what_is_valid_can_be_read() {
    let table: [&[u8]; 14] = [
        b"max-age=3600, s-maxage=\"99999999999\", no-cache=\"a, b\", private, stale-if-error=5",
        b"max-age=100, foo=(a b);c=\"d\", bar=:YQ==:, baz=?0, qux=1.5",
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"bytes=0-1, 5-, -7, 18446744073709551616-",
        b"bytes 0-18446744073709551615/*",
        b"\"a\", W/\"b,c\", *, \"d\\\"",
        b"en, de;q=0.5, fr;q=0.000, *;q=1e9",
        b"http://user@[::1]:8080/a/../b/./c?d=%41&e=%4&f=%#g",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"7200, 0",
        b"18446744073709551616",
        b"foo=\"unterminated \\",
    ];
    for whole in table {
        for end in 0..=whole.len() {
            read_as_everything(&whole[..end]);
        }
    }
}

fn here(stored: &StoredResponse) -> &[u8] {
    stored.content.here().expect("it is in memory")
}

proptest! {
    #![proptest_config(seeded(None))]

    #[test]
    fn anything_can_be_read(value in vec(any::<u8>(), 0..60)) {
        read_as_everything(&value);
    }

    /// The alphabet of the grammars: far more of these get far into the parsers.
    #[test]
    fn anything_that_looks_like_it_can_be_read(value in "[-=,;:/\\\\\" a-eGMT0-9*?%&()._W]{0,60}") {
        read_as_everything(value.as_bytes());
    }

    #[test]
    fn numbers_saturate(digits in "[0-9]{1,40}") {
        let exact: Option<u64> = digits.parse().ok();
        let expected = exact.map_or(DeltaSeconds::MAX, DeltaSeconds::saturating_from);
        prop_assert_eq!(read_seconds(digits.as_bytes()), Some(expected));
    }

    #[test]
    fn dates_come_back(seconds in 0_u64..4_102_444_800) {
        let moment = Timestamp::from_seconds(seconds);
        prop_assert_eq!(date::parse(date::format(moment).as_bytes(), NOW), Some(moment));
    }

    /// RFC 9111 §4.2, in seconds that may be negative and are as wide as need be.
    #[test]
    fn freshness_agrees_with_a_plain_model(
        max_age in proptest::option::of(0_u64..5_000_000_000),
        s_maxage in proptest::option::of(0_u64..5_000),
        expires in proptest::option::of(-5_000_i64..5_000),
        date_offset in proptest::option::of(-5_000_i64..5_000),
        age in proptest::option::of(0_u64..5_000),
        delay in 0_u64..100,
        later in 0_u64..20_000_000,
        cache_ttl in proptest::option::of(0_u64..5_000_000),
    ) {
        let now = NOW.seconds().cast_signed();
        let written = |offset: i64| date::format(Timestamp::from_seconds((now + offset).cast_unsigned()));
        let mut fields = Fields::new();
        let mut control = Vec::new();
        if let Some(seconds) = max_age { control.push(format!("max-age={seconds}")); }
        if let Some(seconds) = s_maxage { control.push(format!("s-maxage={seconds}")); }
        if !control.is_empty() { fields.set_text("cache-control", control.join(", ")); }
        if let Some(offset) = expires { fields.set_text("expires", written(offset)); }
        if let Some(offset) = date_offset { fields.set_text("date", written(offset)); }
        if let Some(age) = age { fields.set_text("age", age.to_string()); }
        let rules = FreshnessRules { cache_ttl: cache_ttl.map(Duration::from_millis), default_ttl: DeltaSeconds::ZERO, force: false };
        let lifetime = freshness_lifetime(StatusCode::OK, &fields, &ResponseDirectives::read(&fields), NOW, rules);
        let initial = corrected_initial_age(&fields, Timestamp(NOW.0 - delay * 1000), NOW);
        let until = fresh_until(lifetime, initial, NOW, rules);
        let got = Timestamp(NOW.0 + later) < until;

        let stated: Option<i128> = s_maxage.or(max_age).map(|seconds| i128::from(seconds.min(1 << 31)))
            .or(expires.map(|offset| i128::from(offset - date_offset.unwrap_or(0)).max(0)));
        let apparent = i128::from(-date_offset.unwrap_or(0)).max(0);
        let arrived = apparent.max(i128::from(age.unwrap_or(0) + delay));
        let expected = match (stated, cache_ttl) {
            (Some(stated), cap) => (stated - arrived) * 1000 > i128::from(later) && cap.is_none_or(|cap| i128::from(cap) > i128::from(later)),
            (None, Some(cap)) => i128::from(cap) > i128::from(later),
            (None, None) => false,
        };
        prop_assert_eq!(got, expected, "{:?} {:?}", fields, rules);
    }

    /// Whatever is asked for, what is sent lies within the representation, and the parts do not touch.
    #[test]
    fn ranges_lie_within_the_representation(
        specs in vec(prop_oneof![
            (0_u64..120, proptest::option::of(0_u64..120)).prop_map(|(first, more)| Spec::From(first, more.map(|more| first + more))),
            (0_u64..120).prop_map(Spec::Last),
            Just(Spec::From(u64::MAX, None)), Just(Spec::Last(u64::MAX)), Just(Spec::From(0, Some(u64::MAX))),
        ], 1..16),
        length in 0_u64..100,
    ) {
        let mut spans = match wanted(&specs, length) {
            // The last bytes of nothing.
            Wanted::Whole => {
                prop_assert!(length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(1..))));
                Vec::new()
            }
            Wanted::Nothing => Vec::new(),
            Wanted::One(span) => vec![span],
            Wanted::Several(spans) => spans,
        };
        spans.sort_unstable();
        let mut next = 0;
        for span in &spans {
            prop_assert!(span.first >= next && span.first <= span.last && span.last < length);
            next = span.last + 2;
        }
        // Every byte that exists and was asked for is sent.
        for position in 0..length {
            let asked = specs.iter().any(|spec| match *spec {
                Spec::From(first, last) => first <= position && last.is_none_or(|last| position <= last),
                Spec::Last(count) => count >= length - position,
            });
            let sent = spans.iter().any(|span| span.first <= position && position <= span.last);
            prop_assert!(sent || !asked, "{position} of {length}: {specs:?} {spans:?}");
        }
    }

    /// Any cut of any body into parts, in any order, overlapping or not, put together is the body.
    #[test]
    fn parts_put_together_are_the_body(
        body in vec(any::<u8>(), 1..200),
        cuts in vec((0_usize..200, 0_usize..200), 1..12),
    ) {
        let length = body.len();
        let mut kept: Vec<Arc<StoredResponse>> = Vec::new();
        let mut all: Vec<(usize, usize)> = cuts.iter().map(|(one, other)| {
            let (one, other) = (one % length, other % length);
            (one.min(other), one.max(other))
        }).collect();
        all.push((0, length / 2));
        all.push((length / 2, length - 1));
        for (first, last) in all {
            let span = Span { first: first as u64, last: last as u64 };
            let part = Part { span, complete: Some(length as u64) };
            let mut new = head(one("etag", b"\"a\""), Some(part));
            let mut content = body[first..=last].to_vec();
            for old in &kept {
                let Some(union) = union(&new, content.len() as u64, old) else { continue };
                let (low, high) = if union.new_first { (&content[..], here(old)) } else { (here(old), &content[..]) };
                content = [low, &high[union.from as usize..]].concat();
                new.part = Some(union.part);
            }
            let part = new.part.expect("a part");
            let expected = &body[part.span.first as usize..=part.span.last as usize];
            prop_assert_eq!(&content[..], expected);
            let new = StoredResponse::new(new, Bytes::from(content));
            let mut goes = displaced(&new, kept.iter().map(|old| old.head())).into_iter();
            kept.retain(|_| !goes.next().expect("one answer for each"));
            kept.insert(0, Arc::new(new));
        }
        for stored in &kept {
            let part = stored.part.expect("a part");
            for position in part.span.first..=part.span.last {
                let asked = [Spec::From(position, Some(position))];
                let covered = part.covers(stored.content.len(), &asked);
                prop_assert_eq!(covered, Some(Span { first: position, last: position }));
                prop_assert_eq!(here(stored)[(position - part.span.first) as usize], body[position as usize]);
            }
        }
    }

    /// What is written as Content-Range is read as the same.
    #[test]
    fn content_range_comes_back(first in 0_u64..1 << 40, more in 0_u64..1 << 40, rest in proptest::option::of(0_u64..1 << 40)) {
        let span = Span { first, last: first + more };
        let complete = rest.map(|rest| span.last + 1 + rest);
        let part = Part::read(&one("content-range", content_range(span, complete).as_bytes()));
        prop_assert_eq!(part, Some(Part { span, complete }));
    }

    /// However the bytes of a response's head are cut, the same one is seen.
    #[test]
    fn response_heads_are_seen_whole_or_not_yet(names in vec("[a-z]{1,8}", 0..5), code in 100_u16..1000, minor in 0..10, end in any::<prop::sample::Index>()) {
        let lines = names.iter().map(|name| format!("x-{name}: 1\r\n")).collect::<Vec<_>>().concat();
        let whole = format!("HTTP/1.{minor} {code} Text\r\n{lines}\r\n");
        let end = end.index(whole.len());
        prop_assert!(matches!(read_response(&whole.as_bytes()[..end]), Ok(None)));
        let Ok(Some(head)) = read_response(whole.as_bytes()) else { panic!("it is complete") };
        prop_assert_eq!((head.status.as_u16(), head.fields.len(), head.length), (code, names.len(), whole.len()));
    }
}
