//! What was made for one request is not confirmed, nor given out, for another. RFC 9111 §4.1, §4.3.4.

use super::support::engine::bench;

/// A 304 to the tag of another request's variant would choose that variant, whatever this client can
/// take or may see: weak tags, and the strong ones of some servers, are the same for all of them.
#[test]
fn the_tags_of_variants_for_other_requests_are_not_offered() {
    #[rustfmt::skip]
    let table = [
        ("Accept-Encoding", "gzip",       "identity",    "ETag: W/\"a\"; Content-Encoding: gzip"),
        ("Accept-Encoding", "gzip",       "br",          "ETag: \"a\"; Content-Encoding: gzip"),
        ("Accept",          "text/html",  "image/webp",  "ETag: \"a\"; Content-Type: text/html"),
        ("Origin",          "http://a",   "http://b",    "ETag: \"a\"; Access-Control-Allow-Origin: http://a"),
        ("Cookie",          "user=a",     "user=b",      "ETag: \"a\"; X-User: a"),
        ("Foo",             "1",          "2",           "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    for (name, one, other, own) in table {
        for age in ["0", "60"] {
            let bench = bench(|_| ());
            let fields = format!("Cache-Control: max-age=60; Vary: {name}");
            bench.answers(200, &format!("{fields}; Age: {age}; {own}"), "one");
            bench.answers(200, &fields, "other").answers(200, &fields, "none");
            bench.get_with("/a", &format!("{name}: {one}"));
            let answer = bench.fetch("GET", "/a", &format!("{name}: {other}"));
            let asked = bench.last_asked();
            assert_eq!(
                (asked.field("if-none-match"), asked.field("if-modified-since")),
                (String::new(), String::new()),
                "RFC 9111 §4.1: {name}"
            );
            assert_eq!(asked.field(name), other);
            assert_eq!(
                (answer.content.as_str(), answer.told().as_str()),
                ("other", "fwd=vary-miss; fwd-status=200; stored")
            );
            assert_eq!(bench.get("/a").1, "none");
            assert_eq!(bench.get_with("/a", &format!("{name}: {other}")).1, "other");
            if age == "0" {
                assert_eq!(bench.get_with("/a", &format!("{name}: {one}")).1, "one");
            }
            assert!(bench.is_finished());
        }
    }
}

/// The client's own tag is for the client alone, and its 304 confirms nothing that is stored.
#[test]
fn a_304_to_the_clients_tag_confirms_no_variant() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; Vary: Foo; ETag: \"a\"", "1");
    bench.answers(304, "Vary: Foo; ETag: \"a\"; A: 1", "");
    bench.get_with("/a", "Foo: 1");
    let answer = bench.fetch("GET", "/a", "Foo: 2; If-None-Match: \"a\"");
    assert_eq!((answer.status, answer.field("a").as_str()), (304, "1"));
    bench.answers(200, "Cache-Control: max-age=60; Vary: Foo", "2");
    assert_eq!(bench.get_with("/a", "Foo: 2").1, "2");
    assert_eq!(bench.get_with("/a", "Foo: 1").2, "hit; ttl=60");
}

/// A stale variant of the request's own is validated, and the 304 freshens that one alone.
#[test]
fn a_stale_variant_is_validated_for_its_own_requests() {
    let bench = bench(|_| ());
    let variant = "Cache-Control: max-age=10; Vary: Foo; ETag: W/\"a\"";
    bench.answers(200, variant, "1").answers(200, variant, "2").answers(304, "X: y", "");
    bench.get_with("/a", "Foo: 1");
    bench.get_with("/a", "Foo: 2");
    let answer = bench.after(11).fetch("GET", "/a", "Foo: 1");
    assert_eq!(answer.content, "1");
    assert_eq!(bench.last_asked().field("if-none-match"), "W/\"a\"");
    assert_eq!(bench.get_with("/a", "Foo: 1").2, "hit; ttl=10");
    bench.answers(200, variant, "new");
    assert_eq!(bench.get_with("/a", "Foo: 2").1, "new");
}

/// A 304 may name other selecting fields than the stored response did: both select from then on, and
/// clients are told of both.
#[test]
fn what_a_304_adds_to_vary_selects_too() {
    #[rustfmt::skip]
    let table = [
        ("X: y",            "Vary: Foo",           "Foo"),
        ("Vary: Foo",       "X: y",                "Foo"),
        ("Vary: Foo",       "Vary: foo",           "foo"),
        ("Vary: Bar",       "Vary: Foo",           "Foo | Bar"),
        ("Vary: Foo",       "Vary: Bar",           "Bar | Foo"),
        ("Vary: Foo, Bar",  "Vary: bar, Baz",      "bar, Baz | Foo"),
    ];
    for (stored, received, told) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Cache-Control: max-age=1; ETag: W/\"a\"; {stored}"), "x");
        bench.answers(304, &format!("Cache-Control: max-age=60; {received}"), "");
        let own = "Foo: 1; Bar: 1; Baz: 1";
        bench.get_with("/a", own);
        let answer = bench.after(2).fetch("GET", "/a", own);
        assert_eq!((answer.content.as_str(), answer.field("vary").as_str()), ("x", told));
        let again = bench.fetch("GET", "/a", own);
        assert_eq!((again.told().as_str(), again.field("vary").as_str()), ("hit; ttl=60", told));
        assert_eq!(bench.store.usage().memory.responses, 1, "RFC 9111 §4.1: {stored} {received}");
        for name in told.split([' ', ',', '|']).filter(|name| !name.is_empty()) {
            let other = own.replace(&format!("{}: 1", capital(name)), &format!("{name}: 2"));
            bench.answers(200, "Cache-Control: no-store", "other");
            assert_eq!(bench.get_with("/a", &other).1, "other", "{name} of {stored} {received}");
            assert_eq!(bench.last_asked().field("if-none-match"), "");
        }
    }
}

fn capital(name: &str) -> String {
    name[..1].to_ascii_uppercase() + &name[1..]
}

/// A response with the same validator that names more selecting fields shows that the older one names
/// too few: that one could have been made for another request than it is given to.
#[test]
fn what_names_too_few_selecting_fields_gives_way() {
    #[rustfmt::skip]
    let table = [
        ("ETag: W/\"a\"",            "ETag: \"a\"; Vary: Foo",       1),
        ("ETag: \"a\"; Vary: Foo",   "ETag: \"a\"; Vary: Foo, Bar",  1),
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Vary: Foo; Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ("ETag: \"a\"",              "ETag: \"b\"; Vary: Foo",       2),
        ("X: y",                     "Vary: Foo",                    2),
        ("ETag: \"a\"; Vary: Foo",   "ETag: \"a\"; Vary: Bar",       2),
        ("ETag: \"a\"; Vary: Foo",   "ETag: \"a\"",                  2),
    ];
    for (old, new, left) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("Cache-Control: max-age=60; Age: 60; {old}"), "old");
        bench.answers(200, &format!("Cache-Control: max-age=60; {new}"), "new");
        bench.get_with("/a", "Foo: 1; Bar: 1");
        bench.get_with("/a", "Foo: 1; Bar: 1");
        assert_eq!(bench.store.usage().memory.responses, left, "RFC 9111 §4.1: {old} {new}");
        assert_eq!(bench.get_with("/a", "Foo: 1; Bar: 1").1, "new");
    }
}

/// `Vary: *` fits no request: the response goes to this client, and is kept for nobody.
#[test]
fn a_304_with_vary_star_takes_the_stored_response_away() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1; ETag: \"a\"; Vary: Foo", "x");
    bench.answers(304, "Cache-Control: max-age=60; Vary: *", "");
    bench.get("/a");
    assert_eq!(bench.after(2).get("/a").1, "x");
    assert_eq!(bench.store.usage().memory.responses, 0);
}

/// So many fields select at most; an origin server that names more, at once or one by one, gets as much as if
/// it had said `*`.
#[test]
fn the_number_of_selecting_fields_is_bounded() {
    let names = |range: std::ops::Range<usize>| {
        range.map(|number| format!("X-{number}")).collect::<Vec<_>>().join(", ")
    };
    let fresh = "Cache-Control: max-age=60";
    #[rustfmt::skip]
    let table = [
        (names(0..64), true), (names(0..65), false), (names(0..5000), false),
        // The same name again is no other.
        (format!("{}, x-0, X-1", names(0..64)), true),
        (["A"; 500].join(", "), true),
    ];
    for (vary, is_stored) in table {
        let bench = bench(|_| ());
        bench.answers(200, &format!("{fresh}; Vary: {vary}"), "x");
        let told = bench.get("/a").2;
        let detail = if is_stored { "stored" } else { "detail=vary-star" };
        assert_eq!(told, format!("fwd=uri-miss; fwd-status=200; {detail}"), "{vary}");
    }
    // One more with each 304, in a field that is kept or in one that is not.
    for connection in ["", "Connection: Vary; "] {
        let bench = bench(|_| ());
        let mut freshened = 0;
        bench.answers(200, "Cache-Control: max-age=0; ETag: \"a\"; Vary: X", "x").get("/a");
        for number in 0..200 {
            let vary = format!("{connection}Cache-Control: max-age=0; Vary: X-{number}");
            bench.answers(304, &vary, "");
            let told = bench.get("/a").2;
            let Some(stored) = bench.store.look_at("http://o.test/a") else {
                assert!(!told.contains("stored"), "{told}");
                break;
            };
            freshened += 1;
            let listed = stored[0].fields.members("vary").count();
            assert!(listed <= 64 && stored[0].selecting.iter().count() <= 64, "{connection}");
        }
        assert_eq!(freshened, 63, "{connection}: and then it is not stored any more");
    }
}
