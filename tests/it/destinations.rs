//! Methods that change nothing, and those that change two resources, through the whole engine.
//! RFC 9110 §9.2.1, RFC 9111 §4.4, RFC 4918 §9.8, §9.9.

use super::support::engine::{Bench, bench};
use caching_proxy::message::target::OriginUrl;
use caching_proxy::proxy::Settings;

#[test]
fn methods_registered_as_safe_invalidate_nothing() {
    let safe = ["GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"];
    let other = ["PATCH", "MKCOL", "PROPPATCH", "LOCK", "propfind", "M-SEARCH"];
    for (method, kept) in
        safe.map(|method| (method, true)).into_iter().chain(other.map(|method| (method, false)))
    {
        let bench = bench(|_| ());
        for target in ["/a", "/b", "/c"] {
            bench.answers(200, "Cache-Control: max-age=60", "x");
            bench.get(target);
        }
        bench.answers(207, "Location: /b; Content-Location: /c", "");
        // A GET or HEAD would be answered from what is stored.
        bench.ask(method, "/a", "If-Match: \"x\"");
        let left = bench.store.usage().memory.responses;
        assert_eq!(left, if kept { 3 } else { 0 }, "RFC 9110 §16.1.1: {method}");
    }
}

const ORIGIN: &str = "https://o.test/dav";

fn at_prefix(settings: &mut Settings) {
    settings.origin = OriginUrl::parse(ORIGIN).expect("a URL");
}

/// A stored response for each of these paths.
fn store(bench: &Bench, targets: &[&str]) {
    for target in targets {
        bench.answers(200, "Cache-Control: max-age=60", "x");
        bench.get(target);
    }
}

fn is_stored(bench: &Bench, target: &str) -> bool {
    let (status, ..) = bench.get_with(target, "Cache-Control: only-if-cached");
    assert!(matches!(status, 200 | 504));
    status == 200
}

/// The client knows the destination under the proxy's name, and the origin server under its own.
#[test]
fn a_destination_is_named_as_the_origin_server_knows_it_and_invalidated() {
    #[rustfmt::skip]
    let table = [
        // What the client says, what the origin server is told, and is it /b?
        ("http://h/b",                "https://o.test/dav/b",  true),
        ("HTTP://H:80/b#c",           "https://o.test/dav/b",  true),
        ("https://h/b",               "https://o.test/dav/b",  true),
        ("http://127.0.0.1:3000/b",   "https://o.test/dav/b",  true),
        ("/b",                        "/dav/b",                true),
        ("https://o.test/dav/b",      "https://o.test/dav/b",  true),
        ("https://O.test:443/dav/b",  "https://o.test/dav/b",  true),
        ("http://h/c?d",              "https://o.test/dav/c?d", false),
        ("//o.test/dav/b",            "https://o.test/dav/b",  true),
        ("http://other.test/b",       "http://other.test/b",   false),
        ("nonsense",                  "nonsense",              false),
    ];
    for method in ["MOVE", "COPY"] {
        for status in [201, 204, 403, 502] {
            for (said, told, named) in table {
                let bench = bench(at_prefix);
                store(&bench, &["/a", "/b"]);
                bench.answers(status, "X: y", "");
                bench.ask(method, "/a", &format!("Destination: {said}"));
                let asked = bench.last_asked();
                assert_eq!(asked.field("destination"), told, "RFC 4918 §10.3: {said}");
                assert_eq!(asked.url, "https://o.test/dav/a");
                let gone = status < 400;
                assert_eq!(is_stored(&bench, "/a"), !gone, "RFC 9111 §4.4: {method} {status}");
                assert_eq!(is_stored(&bench, "/b"), !(gone && named), "{method} {status} {said}");
            }
        }
    }
}

/// With `--preserve-host` the origin server knows itself under the name that the client uses.
#[test]
fn a_preserved_host_is_kept_in_the_destination() {
    for (said, told) in [("http://h/b", "https://h/dav/b"), ("/b", "/dav/b")] {
        let bench = bench(|settings| {
            at_prefix(settings);
            settings.preserve_host = true;
        });
        store(&bench, &["/a", "/b"]);
        bench.answers(201, "X: y", "");
        bench.ask("MOVE", "/a", &format!("Destination: {said}"));
        assert_eq!(bench.last_asked().field("destination"), told);
        assert!(!is_stored(&bench, "/a") && !is_stored(&bench, "/b"), "{said}");
    }
}

#[test]
fn a_destination_outside_the_prefix_is_refused() {
    for said in [
        "http://h/../b",
        "/../b",
        "/x/%2E%2e/../b",
        "https://o.test/dav/../b",
        "https://o.test/elsewhere",
        "https://O.test:443/davos/b",
        "https://user@o.test/b",
        "//o.test/b",
        "https://o.test",
        // Nobody knows which of the two is obeyed.
        "http://h/b; Destination: http://h/c",
        "http://h/b; Destination: https://o.test/b",
    ] {
        let bench = bench(at_prefix);
        let answer = bench.fetch("MOVE", "/a", &format!("Destination: {said}"));
        assert_eq!((answer.status, bench.asked().len()), (400, 0), "{said}");
    }
}

/// It is a field like any other where the method gives it no meaning; and where it comes twice, and there is
/// no prefix to lead out of.
#[test]
fn what_is_no_destination_is_left_as_it_is() {
    let bench = bench(|_| ());
    store(&bench, &["/b"]);
    bench.answers(200, "X: y", "").answers(201, "X: y", "");
    bench.ask("POST", "/a", "Destination: http://h/b");
    assert_eq!(bench.last_asked().field("destination"), "http://h/b");
    bench.ask("MOVE", "/a", "Destination: http://h/b; Destination: http://h/c");
    assert_eq!(bench.last_asked().field("destination"), "http://h/b | http://h/c");
    assert!(is_stored(&bench, "/b"));
}

/// The parameters that the operator leaves out of the cache key are left out here, too.
#[test]
fn a_destination_is_found_under_the_operators_key_rules() {
    let bench = bench(|settings| settings.key.sort_query = true);
    store(&bench, &["/b?x=1&y=2"]);
    bench.answers(201, "X: y", "");
    bench.ask("COPY", "/a", "Destination: /b?y=2&x=1");
    assert_eq!(bench.last_asked().field("destination"), "/b?y=2&x=1");
    assert!(!is_stored(&bench, "/b?x=1&y=2"));
}
