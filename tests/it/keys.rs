//! What takes part in the response takes part in the cache key, or does not reach the origin server.
//! RFC 9111 §2, RFC 9110 §4.2.3, §9.3.1.

use super::support::TemporaryFolder;
use super::support::origin::{Gate, Origin, on};
use super::support::proxy::Proxy;

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// The key does not hold the content, so its response is nobody else's (RFC 9110 §9.3.1).
#[test]
fn what_content_brought_is_not_stored() {
    let states = ["Cache-Control: max-age=60", "", "ETag: \"a\"", "CDN-Cache-Control: max-age=60"];
    for states in states {
        for (fields, content) in [("", "evil"), (CHUNKED, "4\r\nevil\r\n0\r\n\r\n")] {
            let origin = Origin::script([
                on("GET /a").having("Content-Length: 4").send(200, states, "evil"),
                on("GET /a").having("Transfer-Encoding: chunked").send(200, states, "evil"),
                on("GET /a").lacking("content-length").send(200, states, "good"),
            ]);
            let proxy = Proxy::before(&origin, &[]);
            let mut connection = proxy.connect();
            let asked = if content == "evil" {
                connection.request("GET", "/a", "", content).reply()
            } else {
                let head = format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{content}");
                connection.send(head).reply()
            };
            assert_eq!(asked.body(), "evil", "{states} {fields}");
            assert_eq!(asked.cache_status(), "proxy; fwd=method; fwd-status=200; detail=content");
            assert_eq!(origin.asked()[0].content, b"evil", "it is passed on");
            let plain = proxy.get("/a");
            assert_eq!(
                (plain.body().as_str(), plain.is_hit()),
                ("good", false),
                "{states} {fields}"
            );
        }
    }
}

/// Nor does it touch what is stored: it is not answered from it, and neither replaces, freshens nor
/// removes it.
#[test]
fn content_leaves_what_is_stored_alone() {
    let stale = "Cache-Control: max-age=60; Age: 60; ETag: \"a\"";
    for (method, answer) in [
        ("GET", on("GET /a").send(200, "Cache-Control: max-age=9", "evil")),
        ("GET", on("GET /a").send(200, "Cache-Control: no-store", "evil")),
        ("GET", on("GET /a").send(404, "", "evil")),
        ("GET", on("GET /a").head(304, "ETag: \"b\"; Cache-Control: max-age=9")),
        ("HEAD", on("HEAD /a").head(200, "Cache-Control: max-age=9; ETag: \"b\"")),
    ] {
        for (state, again) in [("Cache-Control: max-age=60; ETag: \"a\"", None), (stale, Some(304))]
        {
            let origin = Origin::script([
                on("GET /a")
                    .lacking("content-length")
                    .lacking("if-none-match")
                    .send(200, state, "good"),
                on("GET /a").having("If-None-Match: \"a\"").head(304, "Cache-Control: max-age=60"),
                answer.clone().having("Content-Length: 4"),
            ]);
            let proxy = Proxy::before(&origin, &[]);
            proxy.get("/a");
            let mut connection = proxy.connect();
            let reply = connection.request(method, "/a", "", "evil").reply_to(method);
            let reply = reply.expect("a response");
            assert!(reply.cache_status().ends_with("detail=content"), "{}", reply.cache_status());
            let after = proxy.get("/a");
            assert_eq!((after.body().as_str(), after.is_hit()), ("good", true), "{method} {state}");
            let told = again.map(|status| format!("fwd-status={status}"));
            assert!(told.is_none_or(|told| after.cache_status().contains(&told)), "{state}");
        }
    }
}

/// A length of zero is no content (RFC 9110 §8.6).
#[test]
fn a_length_of_zero_is_no_content() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/a");
    assert!(proxy.get_with("/a", "Content-Length: 0\r\n").is_hit());
}

/// Nobody waits for an answer to another question, asked with content or without.
#[test]
fn requests_with_content_do_not_collapse() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").having("Content-Length: 4").wait(&gate).send(200, "", "evil"),
        on("GET /a").having("Content-Length: 5").send(200, "", "other"),
        on("GET /a").lacking("content-length").send(200, "", "good"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let mut first = proxy.connect();
    first.request("GET", "/a", "", "evil");
    origin.wait_for(1);
    assert_eq!(proxy.ask("GET", "/a", "", "other").body(), "other");
    assert_eq!(proxy.get("/a").body(), "good");
    gate.open();
    assert_eq!(first.reply().body(), "evil");
}

/// Names that servers behind the proxy believe, and that the cache key does not hold.
const OVERRIDES: [&str; 18] = [
    "X-Host",
    "X-Original-Host",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "True-Client-IP",
    "X-Script-Name",
    "X-Client-IP",
    "CF-Connecting-IP",
    "X-Cluster-Client-IP",
    "X-ProxyUser-Ip",
    "Front-End-Https",
    "X_Host",
    "X_HTTP_Method_Override",
    "True_Client-IP",
    "Accept_Encoding",
    "If_None_Match",
    "Cache_Control",
];

/// What the proxy says itself, and what is about one connection only, under any spelling.
const NEVER: [&str; 14] = [
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "Forwarded",
    "X-Real-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X_Forwarded_Prefix",
    "X_Forwarded-Scheme",
    "X_Real_IP",
    "X_Original_URL",
    "Transfer_Encoding",
    "Content_Length",
    "Keep_Alive",
    "Proxy_Authorization",
];

/// A field that is not in the key could put words into what others are given.
#[test]
fn what_is_not_in_the_key_does_not_reach_the_origin_server() {
    let origin = Origin::script(["GET", "HEAD", "POST", "OPTIONS"].map(|method| {
        on(&format!("{method} /a")).head(200, "Cache-Control: no-store; Content-Length: 0").always()
    }));
    let proxy = Proxy::before(&origin, &[]);
    let all: Vec<&str> = OVERRIDES.iter().chain(&NEVER).copied().collect();
    let fields = all.join(": 9\r\n") + ": 9\r\n";
    let fields = format!("{fields}X-WAP-Profile: 9\r\napi_key: 9\r\nAccept: 9\r\n");
    for method in ["GET", "HEAD", "POST", "OPTIONS"] {
        let content = if method == "POST" { "x" } else { "" };
        let mut connection = proxy.connect();
        let reply = connection.request(method, "/a", &fields, content).reply_to(method);
        assert_eq!(reply.expect("a response").status, 200);
        let head = origin.asked().pop().expect("it was asked").head;
        let passes = |name: &str| head.field(name) == "9";
        for name in ["X-WAP-Profile", "api_key", "Accept"] {
            assert!(passes(name), "{method} {name}: it describes the client, or is its own");
        }
        for name in OVERRIDES {
            assert_eq!(passes(name), matches!(method, "POST" | "OPTIONS"), "{method} {name}");
        }
        for name in NEVER {
            assert!(!passes(name), "{method} {name}");
        }
    }
}

/// The answer to a POST may stand for that to a GET (RFC 9110 §9.3.3), but not where the POST says
/// what a GET could not.
#[test]
fn a_post_for_another_host_stores_nothing() {
    let told = "Cache-Control: max-age=60; Content-Location: /a";
    for (fields, stored) in [("", true), ("X-Host: evil.test\r\n", false)] {
        let origin = Origin::script([
            on("POST /a").send(200, told, "posted"),
            on("GET /a").send(200, "", "good"),
        ]);
        let proxy = Proxy::before(&origin, &[]);
        proxy.ask("POST", "/a", fields, "x");
        assert_eq!(proxy.get("/a").is_hit(), stored, "{fields}");
    }
}

/// URIs that mean the same are one key, in whatever way they are asked for (RFC 9110 §4.2.3,
/// RFC 3986 §6.2.2), and the origin server sees one spelling alone.
#[test]
fn spellings_of_one_uri_are_one_key() {
    #[rustfmt::skip]
    let table: [(&str, &[&str]); 6] = [
        ("/~a",          &["/%7Ea", "/%7ea", "/~%61"]),
        ("/a%2Fb",       &["/a%2fb", "/%61%2fb"]),
        ("/c?d=e&f=%26", &["/c?%64=e&f=%26", "/%63?d=%65&%66=%26"]),
        ("/%C3%A9",      &["/%c3%a9", "/%C3%a9"]),
        ("/%2%65",       &[]),
        ("/a%252fb",     &[]),
    ];
    for method in ["GET", "HEAD"] {
        for (normal, others) in table {
            let answer = |target: &str| {
                on(&format!("{method} {target}"))
                    .head(200, "Cache-Control: max-age=60; Content-Length: 0")
            };
            // A HEAD stores nothing, so it is sent on each time.
            let origin = Origin::script([answer(normal).times(1 + others.len())]);
            let proxy = Proxy::before(&origin, &[]);
            for target in others.iter().chain(&[normal]) {
                let ask = |fields: &str| {
                    let mut connection = proxy.connect();
                    connection
                        .request(method, target, fields, "")
                        .reply_to(method)
                        .expect("a reply")
                };
                assert_eq!(ask("").status, 200, "{method} {target}");
                if method == "GET" {
                    // The short way to a hit, and the long one.
                    assert!(ask("").is_hit() && ask("Content-Length: 0\r\n").is_hit(), "{target}");
                    assert_eq!(origin.asked().len(), 1, "{target}");
                }
            }
        }
    }
}

/// What stands for a reserved byte means something else than the byte.
#[test]
fn other_uris_are_other_keys() {
    let targets =
        ["/a/b", "/a%2Fb", "/a?b", "/a%3Fb", "/a?b&c", "/a?b%26c", "/a%20b", "/a+b", "/A"];
    let origin =
        Origin::script(targets.map(|target| {
            on(&format!("GET {target}")).send(200, "Cache-Control: max-age=60", target)
        }));
    let proxy = Proxy::before(&origin, &[]);
    for target in targets.iter().chain(&targets) {
        assert_eq!(proxy.get(target).body(), *target);
    }
    origin.assert_finished();
}

/// A request that changes something is passed on as it is, and makes the one key out of date.
#[test]
fn other_methods_keep_their_spelling_and_invalidate_the_key() {
    let origin = Origin::script([
        on("GET /p/~a").send(200, "Cache-Control: max-age=60", "old"),
        on("POST /p/%7Ea").send(200, "", ""),
        on("GET /p/~a").send(200, "Cache-Control: max-age=60", "new"),
        on("POST /p/other").send(200, "Location: /p/%7ea", ""),
        on("GET /p/~a").send(200, "Cache-Control: max-age=60", "newest"),
    ]);
    let url = format!("{}/%70", origin.url());
    let proxy = Proxy::start(&["--origin", &url]);
    for (method, target, body) in [
        ("GET", "/~a", "old"),
        ("POST", "/%7Ea", ""),
        ("GET", "/%7ea", "new"),
        ("POST", "/other", ""),
        ("GET", "/~a", "newest"),
    ] {
        assert_eq!(proxy.ask(method, target, "", "").body(), body, "{method} {target}");
    }
    origin.assert_finished();
}

/// Those who ask about a URI, and those who purge it, may spell it as they like.
#[test]
fn the_control_interface_knows_every_spelling() {
    let origin =
        Origin::script([on("GET /~a").send(200, "Cache-Control: max-age=60", "hello").always()]);
    let proxy = Proxy::before(&origin, &["--allow-purge", "127.0.0.1"]);
    let said = |words: &[&str]| {
        let output = proxy.tell(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}");
        text
    };
    for words in [["purge", "/%7Ea"], ["purge", "/%7ea"]] {
        proxy.get("/%7ea");
        let key = format!("{}/~a", origin.url());
        assert!(said(&["show", "/%7Ea"]).starts_with(&key));
        assert!(said(&["list"]).contains(&key));
        assert!(said(&words).contains("1 purged"), "{words:?}");
    }
    for words in [["purge", "--prefix", "/%7E"], ["purge", "--match", "/%7E*"]] {
        proxy.get("/~a");
        assert!(said(&words).contains("1 purged"), "{words:?}");
    }
    proxy.get("/~a");
    assert!(proxy.ask("PURGE", "/%7Ea", "", "").body().contains("purged 1"));
    let told = said(&["explain", "/%7Ea"]);
    assert!(told.contains("/%7Ea, shaped by one spelling"), "{told}");
    assert!(told.contains(&format!("Asked:      GET {}/~a", origin.url())), "{told}");
    assert!(!proxy.get("/~a").is_hit(), "an explanation stores nothing");
}

/// What is warmed is found under every spelling.
#[test]
fn what_is_warmed_is_found() {
    let origin = Origin::script([on("GET /~a").send(200, "Cache-Control: max-age=60", "hello")]);
    let proxy = Proxy::before(&origin, &[]);
    let folder = TemporaryFolder::new();
    let list = folder.file("list");
    std::fs::write(&list, "/%7Ea\n").expect("a file");
    let output = proxy.tell(&["warm", list.to_str().expect("text")]);
    assert!(output.status.success(), "{output:?}");
    assert!(proxy.get("/~a").is_hit() && proxy.get("/%7ea").is_hit());
}
