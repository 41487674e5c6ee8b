//! RFC 9110 as tables: conditions (§13) and ranges (§14), a row per rule.

use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::message::fields::Fields;
use caching_proxy::policy::cache_control::ResponseDirectives;
use caching_proxy::policy::freshness::Lifetime;
use caching_proxy::policy::precondition::{if_range_holds, is_not_modified};
use caching_proxy::policy::range::{Part, Span, Spec, Wanted, read, wanted};
use caching_proxy::policy::stored::StoredHead;
use caching_proxy::policy::vary::Selecting;
use http::{HeaderName, HeaderValue, StatusCode};

/// Fri, 15 Jan 2027 08:00:00 GMT
const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Fields from text, separated by `|`.
fn fields(text: &str) -> Fields {
    let lines = text.split('|').filter(|line| !line.is_empty()).map(|line| {
        let (name, value) = line.split_once(':').expect("a name and a value");
        let value = HeaderValue::from_bytes(value.trim_start().as_bytes()).expect("a value");
        (HeaderName::try_from(name).expect("a name"), value)
    });
    lines.collect()
}

fn stored(status: u16, text: &str) -> StoredHead {
    StoredHead {
        status: StatusCode::from_u16(status).expect("a status"),
        part: None,
        fields: fields(text).into(),
        directives: ResponseDirectives::default(),
        selecting: Selecting::default(),
        lifetime: Lifetime::Explicit(DeltaSeconds(60)),
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: NOW,
        fresh_until: NOW,
        useful_until: NOW,
    }
}

#[test]
fn conditions_are_evaluated_against_the_selected_response() {
    let lm = "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT";
    #[rustfmt::skip]
    let table = [
        ("13.1.2", 200, "ETag: \"a\"",       "If-None-Match: \"a\"",                    true),
        ("13.1.2", 200, "ETag: \"a\"",       "If-None-Match: \"b\"",                    false),
        ("13.1.2", 200, "ETag: \"a\"",       "If-None-Match: *",                        true),
        ("13.1.2", 200, "X: y",              "If-None-Match: *",                        true),
        ("13.1.2", 200, "X: y",              "If-None-Match: \"a\"",                    false),
        ("13.1.2", 200, "ETag: \"a\"",       "If-None-Match: \"a\", \"b\"",             true),
        ("13.1.2", 200, "ETag: \"b\"",       "If-None-Match: \"a\", \"b\", \"c\"",      true),
        ("13.1.2", 200, "ETag: \"c\"",       "If-None-Match: \"a\",\"b\" ,\"c\"",       true),
        ("13.1.2", 200, "ETag: \"c\"",       "If-None-Match: \"a\"|If-None-Match: \"c\"", true),
        ("8.8.3",  200, "ETag: \"a,b\"",     "If-None-Match: \"a,b\"",                  true),
        ("8.8.3",  200, "ETag: \"b\"",       "If-None-Match: \"a,\"b\"",                false),
        ("8.8.3",  200, "ETag: \"a\\\"",     "If-None-Match: \"a\\\", \"b\"",           true),
        ("8.8.3.2", 200, "ETag: W/\"a\"",    "If-None-Match: W/\"a\"",                  true),
        ("8.8.3.2", 200, "ETag: W/\"a\"",    "If-None-Match: \"a\"",                    true),
        ("8.8.3.2", 200, "ETag: \"a\"",      "If-None-Match: W/\"a\"",                  true),
        ("8.8.3.2", 200, "ETag: \"a\"",      "If-None-Match: w/\"a\"",                  false),
        ("8.8.3",  200, "ETag: w/\"a\"",     "If-None-Match: w/\"a\"",                  true),
        ("8.8.3",  200, "ETag: a",           "If-None-Match: a",                        true),
        ("8.8.3",  200, "ETag: a",           "If-None-Match: \"a\"",                    false),
        ("8.8.3",  200, "ETag: \"a\"",       "If-None-Match: a",                        false),
        ("8.8.3",  200, "ETag: W\"a\"",      "If-None-Match: W\"a\"",                   true),
        ("8.8.3",  200, "ETag: W\\a",        "If-None-Match: W\\a",                     true),
        ("8.8.3",  200, "ETag: \"é\"",       "If-None-Match: \"é\"",                    true),
        ("13.2.1", 404, "ETag: \"a\"",       "If-None-Match: \"a\"",                    false),
        ("13.2.1", 206, "ETag: \"a\"",       "If-None-Match: \"a\"",                    true),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Fri, 15 Jan 2027 07:00:00 GMT", true),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Fri, 15 Jan 2027 07:00:01 GMT", true),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Fri, 15 Jan 2027 06:59:59 GMT", false),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Friday, 15-Jan-27 07:00:00 GMT", true),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Fri Jan 15 07:00:00 2027",      true),
        ("13.1.3", 200, lm,                  "If-Modified-Since: tomorrow",             false),
        ("13.1.3", 200, lm,                  "If-Modified-Since: Fri, 15 Jan 2027 07:00:00 GMT|If-Modified-Since: Fri, 15 Jan 2027 07:00:00 GMT", false),
        ("13.1.3", 200, "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT|ETag: \"a\"", "If-None-Match: \"b\"|If-Modified-Since: Fri, 15 Jan 2027 07:00:00 GMT", false),
        ("13.1.3", 200, "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT|ETag: \"a\"", "If-None-Match: \"a\"|If-Modified-Since: Fri, 15 Jan 2027 06:00:00 GMT", true),
        ("9111 4.3.2", 200, "Date: Fri, 15 Jan 2027 07:30:00 GMT", "If-Modified-Since: Fri, 15 Jan 2027 07:30:00 GMT", true),
        ("9111 4.3.2", 200, "Date: Fri, 15 Jan 2027 07:30:00 GMT", "If-Modified-Since: Fri, 15 Jan 2027 06:40:00 GMT", false),
        ("9111 4.3.2", 200, "X: y",          "If-Modified-Since: Fri, 15 Jan 2027 08:00:00 GMT", true),
        ("9111 4.3.2", 200, "X: y",          "If-Modified-Since: Fri, 15 Jan 2027 07:59:59 GMT", false),
        ("13",     200, "ETag: \"a\"",       "X: y",                                    false),
    ];
    for (section, status, response, request, expected) in table {
        let got = is_not_modified(&fields(request), &stored(status, response));
        assert_eq!(got, expected, "RFC 9110 §{section}: {status} {response} / {request}");
    }
}

#[test]
fn if_range_asks_for_the_same_representation() {
    let date = "Date: Fri, 15 Jan 2027 08:00:00 GMT";
    #[rustfmt::skip]
    let table = [
        ("ETag: \"a\"",   "X: y",                true),
        ("ETag: \"a\"",   "If-Range: \"a\"",     true),
        ("ETag: \"a\"",   "If-Range: \"b\"",     false),
        ("ETag: W/\"a\"", "If-Range: W/\"a\"",   false),
        ("ETag: W/\"a\"", "If-Range: \"a\"",     false),
        ("X: y",          "If-Range: \"a\"",     false),
        ("ETag: \"a\"",   "If-Range: \"a\"|If-Range: \"a\"", false),
        ("ETag: \"a\"",   "If-Range: nonsense",  false),
        ("Last-Modified: Fri, 15 Jan 2027 07:59:00 GMT", "If-Range: Fri, 15 Jan 2027 07:59:00 GMT", true),
        ("Last-Modified: Fri, 15 Jan 2027 07:59:01 GMT", "If-Range: Fri, 15 Jan 2027 07:59:01 GMT", false),
        ("Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT", "If-Range: Fri, 15 Jan 2027 07:00:01 GMT", false),
        ("Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT", "If-Range: Fri, 15 Jan 2027 06:00:00 GMT", false),
    ];
    for (response, request, expected) in table {
        let got = if_range_holds(&fields(request), &stored(200, &format!("{date}|{response}")));
        assert_eq!(got, expected, "RFC 9110 §13.1.5: {response} / {request}");
    }
}

#[test]
fn ranges_are_read_strictly() {
    use Spec::{From, Last};
    let max = u64::MAX;
    #[rustfmt::skip]
    let table: [(&str, Option<Vec<Spec>>); 22] = [
        ("bytes=0-0",            Some(vec![From(0, Some(0))])),
        ("bytes=0-499",          Some(vec![From(0, Some(499))])),
        ("bytes=500-",           Some(vec![From(500, None)])),
        ("bytes=-500",           Some(vec![Last(500)])),
        ("bytes=0-1,5-",         Some(vec![From(0, Some(1)), From(5, None)])),
        ("bytes= 0-1 , 5-6",     Some(vec![From(0, Some(1)), From(5, Some(6))])),
        ("bytes=,0-1,,",         Some(vec![From(0, Some(1))])),
        ("Bytes=0-1",            Some(vec![From(0, Some(1))])),
        ("bytes=007-010",        Some(vec![From(7, Some(10))])),
        ("bytes=99999999999999999999-", Some(vec![From(max, None)])),
        ("bytes=0-99999999999999999999", Some(vec![From(0, Some(max))])),
        ("bytes=",               None),
        ("bytes=-",              None),
        ("bytes=1",              None),
        ("bytes=2-1",            None),
        ("bytes=a-b",            None),
        ("bytes=0-1,2-1",        None),
        ("bytes=0 -1",           None),
        ("bytes=+0-1",           None),
        ("bytes=--1",            None),
        ("bytes",                None),
        ("items=0-1",            None),
    ];
    for (value, expected) in table {
        assert_eq!(
            read(&fields(&format!("Range: {value}"))),
            expected,
            "RFC 9110 §14.1.1: {value}"
        );
    }
    assert_eq!(read(&fields("Range: bytes=0-1|Range: bytes=2-3")), None);
    assert_eq!(read(&fields("X: y")), None);
}

#[test]
fn ranges_are_resolved_against_the_length() {
    let span = |first, last| Span { first, last };
    #[rustfmt::skip]
    let table = [
        ("bytes=0-0",        10, Wanted::One(span(0, 0))),
        ("bytes=0-",         10, Wanted::One(span(0, 9))),
        ("bytes=9-",         10, Wanted::One(span(9, 9))),
        ("bytes=10-",        10, Wanted::Nothing),
        ("bytes=-1",         10, Wanted::One(span(9, 9))),
        ("bytes=-99",        10, Wanted::One(span(0, 9))),
        ("bytes=-0",         10, Wanted::Nothing),
        ("bytes=5-99",       10, Wanted::One(span(5, 9))),
        ("bytes=0-",         0,  Wanted::Nothing),
        ("bytes=-5",         0,  Wanted::Whole),
        ("bytes=-0",         0,  Wanted::Nothing),
        ("bytes=0-1,-5",     0,  Wanted::Whole),
        ("bytes=0-1,99-",    10, Wanted::One(span(0, 1))),
        ("bytes=0-1,900-901", 1000, Wanted::Several(vec![span(0, 1), span(900, 901)])),
        ("bytes=900-901,0-1", 1000, Wanted::Several(vec![span(900, 901), span(0, 1)])),
        ("bytes=900-901,0-1,850-860,500-501,2-3", 1000, Wanted::Several(vec![span(850, 901), span(0, 3), span(500, 501)])),
        ("bytes=-1,2000-,0-0", 1000, Wanted::Several(vec![span(999, 999), span(0, 0)])),
        ("bytes=0-1,82-83",  1000, Wanted::Several(vec![span(0, 1), span(82, 83)])),
        ("bytes=0-1,81-83",  1000, Wanted::One(span(0, 83))),
        ("bytes=0-500,100-200", 1000, Wanted::One(span(0, 500))),
    ];
    for (value, length, expected) in table {
        let specs = read(&fields(&format!("Range: {value}"))).expect("readable");
        assert_eq!(wanted(&specs, length), expected, "RFC 9110 §14.1.2: {value} of {length}");
    }
}

#[test]
fn content_range_is_read_strictly() {
    let part = |first, last, complete| Some(Part { span: Span { first, last }, complete });
    #[rustfmt::skip]
    let table = [
        ("bytes 0-4/10",     part(0, 4, Some(10))),
        ("bytes 4-9/10",     part(4, 9, Some(10))),
        ("bytes 4-9/*",      part(4, 9, None)),
        ("BYTES 4-9/10",     part(4, 9, Some(10))),
        ("bytes 4-10/10",    None),
        ("bytes 5-4/10",     None),
        ("bytes */10",       None),
        ("bytes 4-9",        None),
        ("bytes=4-9/10",     None),
        ("bytes 4-9/a",      None),
        ("bytes -9/10",      None),
        ("items 4-9/10",     None),
        ("nonsense",         None),
        ("",                 None),
        ("bytes 0-99999999999999999999/*", None),
    ];
    for (value, expected) in table {
        assert_eq!(
            Part::read(&fields(&format!("Content-Range: {value}"))),
            expected,
            "RFC 9110 §14.4: {value}"
        );
    }
    assert_eq!(Part::read(&fields("Content-Range: bytes 0-1/2|Content-Range: bytes 0-1/2")), None);
}

#[test]
fn a_part_answers_what_lies_within_it() {
    #[rustfmt::skip]
    let table = [
        // The part, how many bytes are held, the range, and what answers it.
        ("bytes 2-6/10", 5, "bytes=2-6", Some((2, 6))),
        ("bytes 2-6/10", 5, "bytes=3-5", Some((3, 5))),
        ("bytes 2-6/10", 5, "bytes=2-7", None),
        ("bytes 2-6/10", 5, "bytes=1-3", None),
        ("bytes 2-6/10", 5, "bytes=2-",  None),
        ("bytes 2-6/10", 5, "bytes=-8",  None),
        ("bytes 2-6/*",  5, "bytes=2-",  None),
        ("bytes 4-9/10", 6, "bytes=5-",  Some((5, 9))),
        ("bytes 4-9/10", 6, "bytes=-3",  Some((7, 9))),
        ("bytes 4-9/10", 6, "bytes=-7",  None),
        ("bytes 4-9/10", 6, "bytes=8-99", Some((8, 9))),
        ("bytes 4-9/10", 6, "bytes=10-", None),
        ("bytes 4-9/10", 5, "bytes=6-8", Some((6, 8))),
        ("bytes 4-9/10", 5, "bytes=6-",  Some((6, 8))),
        ("bytes 4-9/10", 5, "bytes=-1",  Some((8, 8))),
        ("bytes 4-9/10", 5, "bytes=-5",  Some((4, 8))),
        ("bytes 4-9/10", 5, "bytes=9-9", None),
        ("bytes 0-9/10", 10, "bytes=-99", Some((0, 9))),
        ("bytes 0-9/10", 10, "bytes=0-1,4-5", None),
    ];
    for (content_range, held, range, expected) in table {
        let part = Part::read(&fields(&format!("Content-Range: {content_range}"))).expect("a part");
        let specs = read(&fields(&format!("Range: {range}"))).expect("readable");
        let got = part.covers(held, &specs).map(|span| (span.first, span.last));
        assert_eq!(got, expected, "RFC 9111 §3.3: {content_range}, {held} held: {range}");
    }
}
