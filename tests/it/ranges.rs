//! Ranges and parts, through the whole engine. RFC 9110 §14, RFC 9111 §3.3, §3.4.

use super::support::engine::{Bench, Fetched, bench};

const TEN: &str = "0123456789";

fn shown(answer: &Fetched) -> (u16, String, String) {
    (answer.status, answer.field("content-range"), answer.content.clone())
}

fn fetch(bench: &Bench, range: &str) -> Fetched {
    bench.fetch("GET", "/a", &format!("Range: {range}"))
}

#[test]
fn ranges_are_served_from_a_whole_response() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; A: 1; ETag: \"a\"", TEN);
    bench.get("/a");
    #[rustfmt::skip]
    let table = [
        ("bytes=0-3",     206, "bytes 0-3/10", "0123"),
        ("bytes=4-",      206, "bytes 4-9/10", "456789"),
        ("bytes=-3",      206, "bytes 7-9/10", "789"),
        ("bytes=-30",     206, "bytes 0-9/10", TEN),
        ("bytes=9-99",    206, "bytes 9-9/10", "9"),
        ("BYTES=1-1",     206, "bytes 1-1/10", "1"),
        ("bytes=0-1,1-3", 206, "bytes 0-3/10", "0123"),
        ("bytes=6-7,0-1", 206, "bytes 0-7/10", "01234567"),
        ("bytes=10-",     416, "bytes */10",   ""),
        ("bytes=-0",      416, "bytes */10",   ""),
        ("bytes=99-100",  416, "bytes */10",   ""),
        ("bytes=99999999999999999999-", 416, "bytes */10", ""),
        ("bytes=3-1",     200, "",             TEN),
        ("bytes=a-b",     200, "",             TEN),
        ("bytes=",        200, "",             TEN),
        ("lines=0-1",     200, "",             TEN),
        ("bytes 0-1",     200, "",             TEN),
    ];
    for (range, status, content_range, content) in table {
        let answer = fetch(&bench, range);
        assert_eq!(
            shown(&answer),
            (status, content_range.into(), content.into()),
            "RFC 9110 §14.2: {range}"
        );
        assert_eq!(
            (answer.field("a"), answer.field("x-cache")),
            ("1".into(), "HIT".into()),
            "RFC 9111 §3.3"
        );
    }
    let head = bench.fetch("HEAD", "/a", "Range: bytes=0-1");
    assert_eq!(
        (head.status, head.field("content-range").as_str()),
        (200, ""),
        "only GET has ranges"
    );
}

#[test]
fn several_ranges_come_in_one_response_of_several_parts() {
    let bench = bench(|_| ());
    let content: &'static str = String::leak(
        (0..500).map(|number| format!("{:02}", number % 100)).collect::<Vec<_>>().concat(),
    );
    bench.answers(200, "Cache-Control: max-age=60; Content-Type: text/x", content);
    bench.get("/a");
    let answer = fetch(&bench, "bytes=900-901, 0-1, -2");
    assert_eq!(answer.status, 206);
    let kind = answer.field("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("RFC 9110 §14.6");
    let part = |range: &str, content: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: text/x\r\nContent-Range: bytes {range}/1000\r\n\r\n{content}"
        )
    };
    let expected = [part("900-901", "50"), part("0-1", "00"), part("998-999", "99")].concat();
    assert_eq!(
        answer.content,
        format!("{expected}\r\n--{boundary}--\r\n"),
        "RFC 9110 §15.3.7.2: in the order asked"
    );
    // Too many of them are not worth it: the whole comes instead.
    let many: Vec<String> = (0..17).map(|number| format!("{0}-{0}", number * 50)).collect();
    assert_eq!(fetch(&bench, &format!("bytes={}", many.join(","))).status, 200, "RFC 9110 §14.2");
    // However they overlap, no more comes than there is, and some framing.
    let greedy = fetch(&bench, "bytes=0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-,0-");
    assert_eq!((greedy.status, greedy.content.len()), (206, 1000), "RFC 9110 §17.15");
}

#[test]
fn if_range_decides_between_a_part_and_the_whole() {
    let bench = bench(|_| ());
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    bench.answers(
        200,
        &format!("Cache-Control: max-age=60; ETag: \"a\"; Last-Modified: {modified}; Date: Fri, 15 Jan 2027 08:00:00 GMT"),
        TEN,
    );
    bench.get("/a");
    #[rustfmt::skip]
    let table = [
        ("\"a\"", 206), ("\"b\"", 200), ("W/\"a\"", 200), (modified, 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200), ("Sunday, 06-Nov-94 08:49:37 GMT", 206), ("a", 200),
    ];
    for (value, status) in table {
        let answer = bench.fetch("GET", "/a", &format!("Range: bytes=0-1; If-Range: {value}"));
        assert_eq!(answer.status, status, "RFC 9110 §13.1.5: {value}");
    }
    bench.answers(
        200,
        "Cache-Control: max-age=60; ETag: W/\"w\"; Last-Modified: Fri, 15 Jan 2027 08:00:00 GMT; Date: Fri, 15 Jan 2027 08:00:00 GMT",
        TEN,
    );
    bench.get("/weak");
    for value in ["W/\"w\"", &bench.fetch("GET", "/weak", "").field("last-modified")] {
        let answer = bench.fetch("GET", "/weak", &format!("Range: bytes=0-1; If-Range: {value}"));
        assert_eq!(answer.status, 200, "RFC 9110 §13.1.5: {value} is weak");
    }
    // The client's other conditions come first.
    let answer = bench.fetch("GET", "/a", "Range: bytes=0-1; If-None-Match: \"a\"");
    assert_eq!(answer.status, 304, "RFC 9110 §13.2.2");
}

#[test]
fn a_part_is_stored_by_what_it_is_and_answers_what_lies_within() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=60; Content-Range: bytes 2-6/10; A: 1", "23456");
    // Asked for the last five, and given others: what counts is what came.
    let first = fetch(&bench, "bytes=-5");
    assert_eq!(bench.last_asked().field("range"), "bytes=-5");
    assert_eq!(shown(&first), (206, "bytes 2-6/10".into(), "23456".into()));
    assert_eq!(first.told(), "fwd=uri-miss; fwd-status=206; stored");
    #[rustfmt::skip]
    let table = [
        ("bytes=2-6", "bytes 2-6/10", "23456"), ("bytes=3-4", "bytes 3-4/10", "34"),
        ("bytes=6-6", "bytes 6-6/10", "6"),
    ];
    for (range, content_range, content) in table {
        let answer = fetch(&bench, range);
        assert_eq!(
            shown(&answer),
            (206, content_range.into(), content.into()),
            "RFC 9111 §3.3: {range}"
        );
        assert_eq!((answer.field("a"), answer.field("x-cache")), ("1".into(), "HIT".into()));
    }
    for range in ["bytes=1-3", "bytes=5-7", "bytes=2-", "bytes=-4", "bytes=0-9", "bytes=2-3,5-6"] {
        bench.answers(200, "Cache-Control: no-store", "other");
        let answer = fetch(&bench, range);
        assert_eq!(
            (answer.content.as_str(), answer.told().as_str()),
            ("other", "fwd=partial; fwd-status=200; detail=no-store"),
            "{range}"
        );
    }
    bench.answers(200, "Cache-Control: no-store", "all");
    assert_eq!(bench.get("/a").1, "all", "a part never answers a request for the whole");
    assert!(bench.is_finished());
}

#[test]
fn a_part_that_reaches_the_end_answers_open_and_suffix_ranges() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=60; Content-Range: bytes 4-9/10", "456789");
    fetch(&bench, "bytes=4-");
    for (range, content) in [
        ("bytes=4-", "456789"),
        ("bytes=6-", "6789"),
        ("bytes=-2", "89"),
        ("bytes=8-20", "89"),
        ("bytes=-6", "456789"),
    ] {
        assert_eq!(fetch(&bench, range).content, content, "{range}");
    }
    assert_eq!(bench.asked().len(), 1);
}

/// A part that claims to reach the end and is shorter: positions count from its front, and what did
/// not come does not exist.
#[test]
fn a_short_part_at_the_end_is_served_as_far_as_it_goes() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=60; Content-Range: bytes 4-9/10", "abcde");
    fetch(&bench, "bytes=-5");
    for (range, content) in
        [("bytes=6-8", "cde"), ("bytes=6-", "cde"), ("bytes=-1", "e"), ("bytes=-5", "abcde")]
    {
        assert_eq!(fetch(&bench, range).content, content, "{range}");
    }
    assert_eq!(bench.asked().len(), 1);
    // In the middle it is nothing that could be kept.
    bench.answers(206, "Cache-Control: max-age=60; Content-Range: bytes 0-5/10", "abcde");
    assert_eq!(
        bench.fetch("GET", "/b", "Range: bytes=0-5").told(),
        "fwd=uri-miss; fwd-status=206; detail=partial"
    );
}

#[test]
fn the_rest_of_a_part_from_the_front_is_asked_for() {
    let part = |tag: &str, range: &str| {
        format!("Cache-Control: max-age=60; {tag}; Content-Range: bytes {range}/10")
    };
    // With the same strong validator it completes what is stored.
    let bench = bench(|_| ());
    bench.answers(206, &part("ETag: \"a\"; A: 1; B: 1", "0-3"), "0123");
    bench.answers(206, &part("ETag: \"a\"; B: 2", "4-9"), "456789");
    fetch(&bench, "bytes=0-3");
    let answer = bench.fetch("GET", "/a", "");
    let asked = bench.last_asked();
    assert_eq!(
        (asked.field("range"), asked.field("if-range")),
        ("bytes=4-".into(), "\"a\"".into()),
        "RFC 9111 §3.3"
    );
    assert_eq!(
        (answer.status, answer.content.as_str(), answer.field("content-range").as_str()),
        (200, TEN, "")
    );
    assert_eq!([answer.field("a"), answer.field("b")], ["1", "2"]);
    assert_eq!(bench.get("/a"), (200, TEN.into(), "hit; ttl=60".into()));
    assert_eq!(bench.store.usage().memory.responses, 1);
}

#[test]
fn what_does_not_belong_together_is_not_combined() {
    let part = |tag: &str, range: &str| {
        format!("Cache-Control: max-age=60; {tag}; Content-Range: bytes {range}")
    };
    #[rustfmt::skip]
    let table = [
        // 200 with everything.
        (part("ETag: \"a\"", "0-3/10"), 200, "Cache-Control: max-age=60".to_string(), 1),
        (part("X: y", "0-3/10"),        200, "Cache-Control: max-age=60".to_string(), 1),
        // 206 without a validator, with another, a weak one, for another length, or other bytes.
        (part("X: y", "0-3/10"),        206, part("X: y", "4-9/10"), 2),
        (part("ETag: \"a\"", "0-3/10"), 206, part("ETag: \"b\"", "4-9/10"), 2),
        (part("ETag: W/\"a\"", "0-3/10"), 206, part("ETag: W/\"a\"", "4-9/10"), 2),
        (part("ETag: \"a\"", "0-3/10"), 206, part("ETag: \"a\"", "4-9/11"), 2),
        (part("ETag: \"a\"", "0-3/10"), 206, part("ETag: \"a\"", "5-9/10"), 2),
        (part("ETag: \"a\"", "0-3/10"), 416, "Content-Range: bytes */3".to_string(), 2),
    ];
    for (first, status, second, requests) in table {
        let bench = bench(|_| ());
        bench.answers(206, &first, "0123");
        bench.answers(status, &second, if status == 200 { TEN } else { "456789" });
        if requests == 2 {
            bench.answers(200, "Cache-Control: max-age=60", TEN);
        }
        fetch(&bench, "bytes=0-3");
        let answer = bench.fetch("GET", "/a", "");
        assert_eq!(
            (answer.status, answer.content.as_str()),
            (200, TEN),
            "RFC 9110 §15.3.7.3: {first} {status} {second}"
        );
        assert_eq!(bench.asked().len(), requests + 1);
        let last = bench.last_asked();
        assert_eq!(last.field("range").is_empty(), requests == 2);
        assert_eq!(bench.get("/a").2, "hit; ttl=60");
    }
}

#[test]
fn parts_with_the_same_strong_validator_become_one() {
    let part = |range: &str| {
        format!("Cache-Control: max-age=60; ETag: \"a\"; Content-Range: bytes {range}/10")
    };
    let bench = bench(|_| ());
    for (range, content) in [("0-2", "012"), ("6-9", "6789"), ("2-6", "23456")] {
        bench.answers(206, &part(range), content);
        fetch(&bench, &format!("bytes={range}"));
    }
    assert_eq!(
        bench.get("/a"),
        (200, TEN.into(), "hit; ttl=60".into()),
        "RFC 9111 §3.4: all of it is there"
    );
    assert_eq!(bench.store.usage().memory.responses, 1);
    // Without one they stay apart.
    for (range, content) in [("0-4", "01234"), ("5-9", "56789")] {
        bench.answers(
            206,
            &format!("Cache-Control: max-age=60; Content-Range: bytes {range}/10"),
            content,
        );
        bench.fetch("GET", "/b", &format!("Range: bytes={range}"));
    }
    assert_eq!(bench.fetch("GET", "/b", "Range: bytes=1-2").content, "12");
    assert_eq!(bench.fetch("GET", "/b", "Range: bytes=6-7").content, "67");
    assert!(bench.is_finished());
}

#[test]
fn a_stale_whole_is_validated_for_a_range_request() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"", TEN).answers(
        304,
        "Cache-Control: max-age=60",
        "",
    );
    bench.get("/a");
    let answer = bench.after(2).fetch("GET", "/a", "Range: bytes=1-2");
    assert_eq!(shown(&answer), (206, "bytes 1-2/10".into(), "12".into()));
    assert_eq!(bench.last_asked().field("if-none-match"), "\"a\"");
    // Changed meanwhile: the new part comes, and the old whole goes.
    bench.answers(206, "Cache-Control: max-age=60; ETag: \"b\"; Content-Range: bytes 1-2/10", "bc");
    assert_eq!(shown(&bench.after(61).fetch("GET", "/a", "Range: bytes=1-2")).2, "bc");
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"b\"", "abcdefghij");
    assert_eq!(bench.get("/a").1, "abcdefghij");
    assert_eq!(bench.fetch("GET", "/a", "Range: bytes=1-2").content, "bc");
}

#[test]
fn a_stale_part_is_validated_and_freshened() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=1; ETag: \"a\"; Content-Range: bytes 2-4/10", "234");
    bench.answers(304, "Cache-Control: max-age=60; A: 2", "");
    fetch(&bench, "bytes=2-4");
    let answer = bench.after(2).fetch("GET", "/a", "Range: bytes=3-4");
    assert_eq!(
        (shown(&answer), answer.field("a")),
        ((206, "bytes 3-4/10".into(), "34".into()), "2".into())
    );
    assert!(fetch(&bench, "bytes=2-2").told().starts_with("hit"));
}

#[test]
fn small_ranges_do_not_copy_a_large_part_again_and_again() {
    let bench = bench(|_| ());
    let large: &'static str = String::leak("x".repeat(9000));
    bench.answers(
        206,
        "Cache-Control: max-age=60; ETag: \"a\"; Content-Range: bytes 0-8999/100000",
        large,
    );
    fetch(&bench, "bytes=0-8999");
    bench.answers(
        206,
        "Cache-Control: max-age=60; ETag: \"a\"; Content-Range: bytes 9000-9000/100000",
        "y",
    );
    fetch(&bench, "bytes=9000-9000");
    assert_eq!(bench.store.usage().memory.responses, 2, "one byte is not worth nine thousand");
    // And there are only so many parts of one representation.
    for first in (10_000..12_000).step_by(100) {
        bench.answers(206, &format!("Cache-Control: max-age=60; ETag: \"a\"; Content-Range: bytes {first}-{first}/100000"), "z");
        fetch(&bench, &format!("bytes={first}-{first}"));
    }
    assert_eq!(bench.store.usage().memory.responses, 16);
}
