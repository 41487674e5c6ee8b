//! What a part is, and what it is not: all there is, a digest of the whole, an answer to a request whose
//! `If-Range` names another representation. RFC 9110 §13.1.5, §15.3.7; RFC 9530 §2.

use super::support;
use super::support::engine::bench;
use super::support::origin::{Origin, Step, on};
use super::support::proxy::Proxy;

const TEN: &str = "0123456789";

/// Asked for `bytes=0-`, an origin server sends everything as a part: later requests need not ask for
/// what lies behind the end.
#[test]
fn a_part_that_holds_everything_is_stored_as_the_whole() {
    let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    for range in ["bytes=0-", "bytes=0-9", "bytes=0-99", "bytes=-10", "bytes=-50"] {
        for validator in ["X: y", "ETag: \"a\"", "ETag: W/\"a\"", modified] {
            let bench = bench(|_| ());
            let fields = "Cache-Control: max-age=60; Content-Range: bytes 0-9/10";
            bench.answers(206, &format!("{fields}; {validator}"), TEN);
            let first = bench.fetch("GET", "/a", &format!("Range: {range}"));
            assert_eq!(
                (first.status, first.field("content-range").as_str(), first.content.as_str()),
                (206, "bytes 0-9/10", TEN)
            );
            assert_eq!(bench.last_asked().field("range"), range);
            let whole = bench.fetch("GET", "/a", "");
            assert_eq!(
                (whole.status, whole.field("content-range").as_str(), whole.content.as_str()),
                (200, "", TEN),
                "RFC 9110 §15.3.7: {range} {validator}"
            );
            assert_eq!(whole.told(), "hit; ttl=60");
            let several = bench.fetch("GET", "/a", "Range: bytes=0-0,-1");
            assert_eq!((several.status, several.content.as_str()), (206, TEN));
            let head = bench.fetch("HEAD", "/a", "");
            assert_eq!((head.status, bench.asked().len()), (200, 1));
        }
    }
}

#[test]
fn a_part_that_does_not_hold_everything_stays_a_part() {
    for (content_range, content) in [
        ("bytes 0-8/10", "012345678"),
        ("bytes 1-9/10", "123456789"),
        ("bytes 0-9/*", TEN),
        ("bytes 0-9/10", "01234"),
    ] {
        let bench = bench(|_| ());
        let fields = format!("Cache-Control: max-age=60; Content-Range: {content_range}");
        bench.answers(206, &fields, content).answers(200, "Cache-Control: max-age=60", TEN);
        bench.fetch("GET", "/a", "Range: bytes=0-");
        assert_eq!(bench.get("/a").1, TEN, "{content_range}");
        assert_eq!(bench.asked().len(), 2, "{content_range}");
    }
}

/// Its ranges are in its content, whatever its fields say: it is neither a part nor the whole.
#[test]
fn a_response_of_several_parts_is_not_stored() {
    for (kind, content_range) in [
        ("multipart/byteranges; boundary=b", "bytes 0-9/10"),
        ("Multipart/ByteRanges; boundary=b", "bytes 0-9/100"),
        ("multipart/byteranges; boundary=b", "nonsense"),
    ] {
        let bench = bench(|_| ());
        let fields = "Cache-Control: max-age=60; ETag: \"a\"";
        let several = format!("{fields}; Content-Type: {kind}; Content-Range: {content_range}");
        bench.answers(206, &several, TEN).answers(200, fields, "whole");
        let answer = bench.fetch("GET", "/a", "Range: bytes=0-1,8-9");
        assert_eq!((answer.status, answer.content.as_str()), (206, TEN));
        assert_eq!(answer.told(), "fwd=uri-miss; fwd-status=206; detail=partial");
        assert_eq!(bench.get("/a").1, "whole");
        // Nor does it complete a part.
        bench.answers(206, &format!("{fields}; Content-Range: bytes 0-1/10"), "01");
        bench.fetch("GET", "/b", "Range: bytes=0-1");
        let several = format!("{fields}; Content-Type: {kind}; Content-Range: bytes 2-9/10");
        bench.answers(206, &several, "23456789").answers(200, fields, "whole");
        assert_eq!(bench.get("/b").1, "whole");
        assert!(bench.is_finished());
    }
}

#[test]
fn digests_of_other_content_are_left_out() {
    let large: &'static str = String::leak("x".repeat(1000));
    let bench = bench(|_| ());
    let fields = "Cache-Control: max-age=60; ETag: \"a\"; Content-Digest: whole; Content-MD5: whole; Repr-Digest: all";
    bench.answers(200, fields, large);
    bench.get("/a");
    #[rustfmt::skip]
    let table = [
        ("X: y",                     200, "whole", "all"),
        ("Range: bytes=0-1",         206, "",      "all"),
        ("Range: bytes=0-",          206, "",      "all"),
        ("Range: bytes=0-1,800-801", 206, "",      "all"),
        ("Range: bytes=1000-",       416, "",      ""),
        ("If-None-Match: \"a\"",     304, "",      "all"),
    ];
    for (own, status, content, repr) in table {
        let answer = bench.fetch("GET", "/a", own);
        assert_eq!(answer.status, status);
        let digests =
            ["content-digest", "content-md5", "repr-digest"].map(|name| answer.field(name));
        assert_eq!(digests, [content, content, repr], "RFC 9530 §2: {own}");
    }
}

/// The digests that come with a part are of that part.
#[test]
fn digests_of_a_part_go_with_that_part_alone() {
    let part = |range: &str, digest: &str| {
        format!(
            "Cache-Control: max-age=60; ETag: \"a\"; Content-Range: bytes {range}/10; Content-Digest: {digest}; Content-MD5: {digest}; Repr-Digest: all"
        )
    };
    let digests = |answer: &support::engine::Fetched| {
        ["content-digest", "content-md5", "repr-digest"].map(|name| answer.field(name))
    };
    let bench = bench(|_| ());
    for target in ["/joined", "/completed"] {
        bench.answers(206, &part("0-3", "first"), "0123");
        bench.fetch("GET", target, "Range: bytes=0-3");
        let same = bench.fetch("GET", target, "Range: bytes=0-3");
        assert_eq!(digests(&same), ["first", "first", "all"]);
        let inside = bench.fetch("GET", target, "Range: bytes=1-2");
        assert_eq!(digests(&inside), ["", "", "all"]);
    }
    bench.answers(206, &part("4-9", "second"), "456789");
    let second = bench.fetch("GET", "/joined", "Range: bytes=4-9");
    assert_eq!(digests(&second), ["second", "second", "all"]);
    bench.answers(206, &part("4-9", "second"), "456789");
    let completed = bench.fetch("GET", "/completed", "");
    assert_eq!(
        (digests(&completed), completed.content),
        (["", "", "all"].map(String::from), TEN.into())
    );
    for target in ["/joined", "/completed"] {
        let whole = bench.fetch("GET", target, "");
        assert_eq!(
            (digests(&whole), whole.told().as_str()),
            (["", "", "all"].map(String::from), "hit; ttl=60")
        );
    }
}

/// A 304, and a response to HEAD, have no content: what they digest is nothing.
#[test]
fn the_digest_of_no_content_is_not_taken_for_the_stored_one() {
    for (method, status) in [("GET", 304), ("HEAD", 200)] {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"; Content-Digest: whole", "x");
        bench.answers(status, "Cache-Control: max-age=60; ETag: \"a\"; Content-Digest: empty", "");
        bench.get("/a");
        bench.after(2).ask(method, "/a", "");
        let answer = bench.fetch("GET", "/a", "");
        assert_eq!(
            (answer.field("content-digest").as_str(), answer.told().as_str()),
            ("whole", "hit; ttl=60"),
            "RFC 9530 §2: {method}"
        );
    }
}

/// What is true of the stored 200 is not true of a 416 that nobody but the proxy has made.
#[test]
fn a_416_says_how_long_the_representation_is_and_no_more_of_it() {
    let bench = bench(|_| ());
    bench.answers(
        200,
        "Cache-Control: max-age=60; CDN-Cache-Control: max-age=60; Expires: Fri, 15 Jan 2027 08:01:00 GMT; Date: Fri, 15 Jan 2027 08:00:00 GMT; Age: 3; ETag: \"a\"; Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT; Content-Type: text/x; Content-Encoding: x; Content-Language: en; Content-Location: /b; Content-Disposition: attachment; Vary: Foo; Access-Control-Allow-Origin: *",
        TEN,
    );
    bench.get("/a");
    let answer = bench.after(5).fetch("GET", "/a", "Range: bytes=10-");
    assert_eq!((answer.status, answer.content.as_str()), (416, ""));
    let shown = |name: &str| answer.field(name);
    for name in [
        "cache-control",
        "cdn-cache-control",
        "expires",
        "age",
        "etag",
        "last-modified",
        "content-type",
        "content-encoding",
        "content-language",
        "content-location",
        "content-disposition",
    ] {
        assert_eq!(shown(name), "", "RFC 9110 §15.5.17: {name}");
    }
    #[rustfmt::skip]
    let table = [
        ("content-range", "bytes */10"), ("date", "Fri, 15 Jan 2027 08:00:05 GMT"), ("vary", "Foo"),
        ("access-control-allow-origin", "*"), ("cache-status", "proxy; hit; ttl=52"),
    ];
    for (name, value) in table {
        assert_eq!(shown(name), value, "{name}");
    }
}

/// A suffix of an empty representation is satisfiable, and no part can hold it.
#[test]
fn a_suffix_of_nothing_is_everything() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "");
    bench.get("/a");
    #[rustfmt::skip]
    let table = [
        ("bytes=-5", 200), ("bytes=-1", 200), ("bytes=0-0,-5", 200), ("bytes=-0", 416),
        ("bytes=0-", 416), ("bytes=0-0", 416),
    ];
    for (range, status) in table {
        let answer = bench.fetch("GET", "/a", &format!("Range: {range}"));
        assert_eq!(answer.status, status, "RFC 9110 §14.1.2: {range}");
        let expected = if status == 416 { "bytes */0" } else { "" };
        assert_eq!(
            (answer.field("content-range").as_str(), answer.content.as_str()),
            (expected, "")
        );
    }
}

/// A fresh part whose validator is another than the client's says that the range is to be ignored.
#[test]
fn if_range_keeps_a_part_of_another_representation_from_the_client() {
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let part = format!(
        "Cache-Control: max-age=60; ETag: \"r\"; Last-Modified: {modified}; Date: Fri, 15 Jan 2027 08:00:00 GMT; Content-Range: bytes 0-9/20"
    );
    #[rustfmt::skip]
    let table = [
        ("\"r\"", true), (modified, true), ("\"x\"", false), ("W/\"r\"", false), ("nonsense", false),
        ("Mon, 07 Nov 1994 08:49:37 GMT", false),
    ];
    for (if_range, serves) in table {
        let bench = bench(|_| ());
        bench.answers(206, &part, TEN);
        bench.fetch("GET", "/a", "Range: bytes=0-9");
        if !serves {
            bench.answers(200, "Cache-Control: max-age=60; ETag: \"r\"", "all of it");
        }
        let own = format!("Range: bytes=2-5; If-Range: {if_range}");
        let answer = bench.fetch("GET", "/a", &own);
        let expected = if serves { (206, "2345") } else { (200, "all of it") };
        assert_eq!(
            (answer.status, answer.content.as_str()),
            expected,
            "RFC 9110 §13.1.5: {if_range}"
        );
        if !serves {
            let asked = bench.last_asked();
            assert_eq!((asked.field("range"), asked.field("if-range")), Default::default());
            assert_eq!(answer.told(), "fwd=partial; fwd-status=200; stored");
            assert_eq!(bench.get("/a").1, "all of it");
        }
    }
}

/// A stale part decides nothing: the origin server is asked what the client asks.
#[test]
fn a_stale_part_leaves_if_range_to_the_origin_server() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=1; ETag: \"r\"; Content-Range: bytes 0-9/20", TEN);
    bench.answers(
        206,
        "Cache-Control: max-age=60; ETag: \"x\"; Content-Range: bytes 2-5/20",
        "new!",
    );
    bench.fetch("GET", "/a", "Range: bytes=0-9");
    let answer = bench.after(2).fetch("GET", "/a", "Range: bytes=2-5; If-Range: \"x\"");
    assert_eq!((answer.status, answer.content.as_str()), (206, "new!"));
    let asked = bench.last_asked();
    assert_eq!(
        (asked.field("range").as_str(), asked.field("if-range").as_str()),
        ("bytes=2-5", "\"x\"")
    );
    assert_eq!(asked.field("if-none-match"), "");
}

/// The client's own condition gave way to the request for the whole, and is answered from what comes.
#[test]
fn a_condition_is_answered_where_the_range_was_ignored() {
    let bench = bench(|_| ());
    bench.answers(206, "Cache-Control: max-age=60; ETag: \"r\"; Content-Range: bytes 0-9/20", TEN);
    bench.answers(200, "Cache-Control: max-age=60; ETag: \"x\"", "new");
    bench.fetch("GET", "/a", "Range: bytes=0-9");
    let own = "Range: bytes=2-5; If-Range: \"x\"; If-None-Match: \"x\"";
    let answer = bench.fetch("GET", "/a", own);
    assert_eq!((answer.status, bench.get("/a").1.as_str()), (304, "new"));
}

/// Players begin with `bytes=0-`: what is larger than memory goes to the disk as it comes, and
/// answers as the whole.
#[cfg(feature = "sqlite")]
#[test]
fn a_large_part_that_holds_everything_is_the_whole_on_disk_too() {
    let folder = support::TemporaryFolder::new();
    let (piece, pieces) = (vec![b'x'; 100_000], 30);
    let length = piece.len() * pieces;
    let fields = format!(
        "Cache-Control: max-age=60; Content-Range: bytes 0-{}/{length}; Content-Length: {length}",
        length - 1
    );
    let origin = Origin::script([on("GET /a")
        .having("Range: bytes=0-")
        .head(206, &fields)
        .then(Step::Repeat(piece, pieces))]);
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let proxy = Proxy::before(&origin, &["--store", &store, "--cache-memory", "4M"]);
    let first = proxy.get_with("/a", "Range: bytes=0-\r\n");
    assert_eq!((first.status, first.content.len(), first.complete), (206, length, true));
    let whole = proxy.get("/a");
    assert!(whole.is_hit(), "{}", whole.head.text);
    assert_eq!((whole.status, whole.content.len(), whole.complete), (200, length, true));
    assert_eq!(proxy.get_with("/a", "Range: bytes=-5\r\n").body(), "xxxxx");
    origin.assert_finished();
}
