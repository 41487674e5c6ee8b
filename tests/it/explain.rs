//! `proxy explain`, and how the operator shapes the key.

use std::time::Instant;

use serde_json::Value;

use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command, run};
use super::support::{PATIENCE, TemporaryFolder, pause};

fn explain(origin: &Origin, args: &[&str]) -> (i32, String, String) {
    let url = origin.url();
    let mut all = vec!["explain", "--origin", &url];
    all.extend_from_slice(args);
    let output = run(&all);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn explain_shows_what_is_stored_and_for_how_long() {
    let fields = "Cache-Control: max-age=60, stale-while-revalidate=7; Age: 10; ETag: \"a\"; Vary: Accept; X-Own: 1";
    let origin = Origin::script([on("GET /p/a?b=1&x=2")
        .having("Accept: text/x")
        .send(200, fields, "hello")]);
    let url = format!("{}/p", origin.url());
    let output = run(&[
        "explain",
        "--origin",
        &url,
        "-H",
        "Accept: text/x",
        "--ignore-param=utm_*",
        "--sort-query",
        "/a?x=2&utm_a=3&b=1",
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert_has(
        &text,
        &[
            &format!("Cache key:  {url}/a?b=1&x=2"),
            "            from /a?x=2&utm_a=3&b=1, shaped by --ignore-param utm_*, --sort-query",
            &format!("Asked:      GET {url}/a?b=1&x=2"),
            "  Accept: text/x",
            "  Via: 1.1 proxy",
            "Answered:   200, 5 bytes of content",
            "  X-Own: 1",
            "Storing:    it would be stored",
            "yes   the method is GET",
            "yes   the response is not private (RFC 9111 §5.2.2.7)",
            "lifetime          60 s: max-age (RFC 9111 §5.2.2.1)",
            "age on arrival    10 s",
            "fresh             for ",
            " s, until ",
            "when stale        for 86400 s if the origin server fails (--stale-if-error), for 7 s",
            "validators        etag",
            "selecting fields  Accept (Vary)",
            "Fields to store:",
            "This request:       proxy; fwd=uri-miss; fwd-status=200; stored",
            "The same one next:  proxy; hit; ttl=",
        ],
    );
    origin.assert_finished();
}

#[test]
fn explain_names_each_rule_that_forbids_and_the_flag_that_would_change_it() {
    #[rustfmt::skip]
    let table: [(&str, &[&str], &[&str]); 7] = [
        ("Cache-Control: no-store, private", &[], &["NO    the response does not say no-store", "NO    the response is not private", "--cache-mode force", "detail=no-store"]),
        ("Set-Cookie: a=b; Cache-Control: max-age=60", &[], &["NO    what is made for one user", "--share-cookies", "detail=set-cookie"]),
        ("Vary: *", &[], &["NO    Vary names no *", "until cleared: not stated; --default-ttl"]),
        ("X: y", &["--default-ttl", "0"], &["NO    freshness is stated", "--default-ttl for 200", "none: not stated, and nothing to guess from"]),
        ("Cache-Control: max-age=60", &["--max-object-size", "3"], &["NO    it is not too large (--max-object-size)"]),
        ("Cache-Control: max-age=60", &["--cache-mode", "force"], &["it would be stored", "until cleared"]),
        ("CDN-Cache-Control: max-age=9; Cache-Control: no-store", &[], &["it would be stored", "9 s: CDN-Cache-Control (RFC 9213)"]),
    ];
    for (fields, flags, expected) in table {
        let origin = Origin::script([on("GET /a").send(200, fields, "hello")]);
        let mut args = flags.to_vec();
        args.push("/a");
        let (code, text, _) = explain(&origin, &args);
        assert_eq!(code, 0);
        assert_has(&text, expected);
        // What the explained request left behind in its own engine is no news about the next.
        let misses = text.contains("The same one next:  proxy; fwd=uri-miss\n");
        assert_eq!(misses, !text.contains("it would be stored"), "{fields}: {text}");
    }
}

#[test]
fn explain_says_what_stands_in_the_way() {
    let origin = Origin::script([]);
    let (code, _, error) = explain(&origin, &[]);
    assert_eq!(
        (code, error.as_str()),
        (
            2,
            "proxy: explain: a word is missing; expected proxy explain [-H 'Name: value']... [flags] PATH\n"
        )
    );
    let (code, _, error) = explain(&origin, &["-H", "nonsense", "/a"]);
    assert_eq!(
        (code, error.as_str()),
        (1, "proxy: -H \"nonsense\": not a field; expected 'Name: value'\n")
    );
    let (code, _, error) = explain(&origin, &["--prot", "1", "/a"]);
    assert_eq!((code, error.as_str()), (2, "proxy: --prot: unknown flag; did you mean --port?\n"));
    let output = run(&["explain", "--origin", "http://127.0.0.1:1", "/a"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert_has(
        &error,
        &[
            "Asked:      GET http://127.0.0.1:1/a",
            "Answered:   nothing",
            "no connection",
            "--origin",
        ],
    );
    let circle = Origin::script([on("GET /a").send(302, "Location: /a", "").always()]);
    let (code, _, error) = explain(&circle, &["--follow-redirects", "/a"]);
    assert_eq!(code, 1);
    assert_has(&error, &["Answered:   nothing", "10 followed", "--follow-redirects"]);
    let (code, _, error) = explain(&origin, &["--cache-mode", "offline", "/a"]);
    assert_eq!(code, 1);
    assert_has(&error, &["answered 504", "detail=offline"]);
    assert!(origin.asked().is_empty());
}

#[test]
fn parameters_that_do_not_matter_are_not_sent_on() {
    let fresh = "Cache-Control: max-age=60";
    let origin = Origin::script([
        on("GET /a?b=1").send(200, fresh, "get"),
        on("GET /a").send(200, fresh, "bare"),
        on("POST /a?utm_x=1&b=1").send(200, "", "posted"),
        on("GET /a?b=1").send(200, fresh, "anew"),
    ]);
    let proxy = Proxy::before(
        &origin,
        &["--ignore-param", "utm_*", "--ignore-param", "fbclid,_", "--sort-query"],
    );
    assert_eq!(proxy.get("/a?utm_source=x&b=1").body(), "get");
    for same in ["/a?b=1", "/a?b=1&fbclid=2", "/a?_=3&b=1", "/a?b=1&utm%5Fterm=4"] {
        assert!(proxy.get(same).is_hit(), "{same}");
    }
    assert_eq!((proxy.get("/a?_=1").body(), proxy.get("/a").is_hit()), ("bare".into(), true));
    // What changes something arrives as it was sent, and invalidates what is looked up.
    assert_eq!(proxy.ask("POST", "/a?utm_x=1&b=1", "", "x").body(), "posted");
    assert_eq!(proxy.get("/a?b=1&utm_source=z").body(), "anew");
    origin.assert_finished();
    assert!(!proxy.log().contains("do not matter"));
    let careless = Proxy::before(&origin, &["--ignore-param", "*key"]);
    careless.wait_for_log("parameters such as api_key, apikey, key do not matter");
}

#[test]
fn the_order_of_parameters_matters_unless_the_operator_says_otherwise() {
    let fresh = "Cache-Control: max-age=60";
    let origin = Origin::script([
        on("GET /a?b=2&a=2&a=1").send(200, fresh, "as it is"),
        on("GET /a?a=2&a=1&b=2").send(200, fresh, "other").times(2),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/a?b=2&a=2&a=1").body(), "as it is");
    assert_eq!(proxy.get("/a?a=2&a=1&b=2").body(), "other");
    let sorting = Proxy::before(&origin, &["--sort-query"]);
    assert_eq!(sorting.get("/a?b=2&a=2&a=1").body(), "other");
    assert!(sorting.get("/a?a=2&b=2&a=1").is_hit(), "the values of one name keep their order");
    origin.assert_finished();
}

fn said(proxy: &Proxy, args: &[&str]) -> String {
    let output = proxy.tell(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that a proxy says of itself and of what it holds, but for what time changes.
fn state(proxy: &Proxy) -> (Value, Vec<Value>) {
    let deadline = Instant::now() + PATIENCE;
    let mut stats: Value = loop {
        let told = said(proxy, &["stats", "--json"]);
        let stats: Value = serde_json::from_str(&told).expect("JSON");
        // What is in the store is brought into memory after the start.
        if stats["store_loading"].as_u64().unwrap_or(0) == 0 {
            break stats;
        }
        assert!(Instant::now() < deadline, "it loads for ever: {stats}");
        pause();
    };
    // Under load, the connection of the request before may still be on its way out; workers come and go, and a minute
    // goes on.
    for moves in ["connections", "workers", "workers_busy", "jobs_waiting", "minute", "hour"] {
        stats.as_object_mut().expect("an object").remove(moves);
    }
    let listed = said(proxy, &["list", "--json"]);
    let listed = listed.lines().map(|line| {
        let mut listed: Value = serde_json::from_str(line).expect("JSON");
        for moves in ["age", "fresh_for"] {
            listed.as_object_mut().expect("an object").remove(moves);
        }
        listed
    });
    (stats, listed.collect())
}

/// Whatever is stored or not, in memory, behind it, or both: it is as before, and so is every counter.
#[cfg(feature = "sqlite")]
#[test]
fn an_explanation_changes_nothing() {
    const FRESH: &str = "Cache-Control: max-age=60";
    // What is stored; the request; what the explanation has.
    #[rustfmt::skip]
    let standard: [(&str, &str, &str); 8] = [
        (FRESH, "", "answered 200 OK without asking: proxy; hit"),
        ("Cache-Control: max-age=60; Vary: Accept", "Accept: b", "fwd=vary-miss; fwd-status=200; stored"),
        ("Cache-Control: max-age=1, stale-while-revalidate=60; Age: 5", "", "detail=stale-while-revalidate"),
        ("Cache-Control: max-age=1; Age: 5", "", "fwd=stale; fwd-status=200; stored"),
        ("Cache-Control: max-age=1; Age: 5; ETag: \"a\"", "", "Answered:   304"),
        (FRESH, "Cache-Control: no-cache", "fwd=request; fwd-status=200; stored"),
        ("Cache-Control: private", "", "detail=private"),
        ("Cache-Control: max-age=60; Set-Cookie: a=b", "Cookie: a=b", "detail=set-cookie"),
    ];
    let limited = [(FRESH, "", "answered 200 OK without asking: proxy; hit")];
    let offline = [
        (FRESH, "", "without asking: proxy; hit"),
        ("Cache-Control: no-store", "", "answered 504 Gateway Timeout without asking"),
    ];
    for store in [false, true] {
        explain_each(&standard, &[], store);
        explain_each(&limited, &["--hit-ttl", "1"], store);
    }
    explain_each(&offline, &["--cache-mode", "offline"], true);
}

/// Each row has a target of its own, on one proxy with these flags.
fn explain_each(table: &[(&str, &str, &str)], flags: &[&str], store: bool) {
    let origin = Origin::script([]);
    for (number, (fields, ..)) in table.iter().enumerate() {
        let asked = format!("GET /{number}");
        let mut again = on(&asked).send(200, fields, "explained");
        if fields.contains("ETag") {
            again = on(&asked).having("If-None-Match: \"a\"").send(304, fields, "");
        }
        origin.add(on(&asked).send(200, fields, "hello"));
        origin.add(again.always());
    }
    let (folder, url) = (TemporaryFolder::new(), origin.url());
    let file = format!("sqlite:{}", folder.file("x.db").display());
    let backing: &[&str] = if store { &["--store", &file] } else { &[] };
    let start = |flags| Proxy::start(&[&["--origin", &url], backing, flags].concat());
    let mut proxy = start(if store { &[] } else { flags });
    for number in 0..table.len() {
        assert_eq!(proxy.get(&format!("/{number}")).body(), "hello");
    }
    if store {
        // What the next one has is behind its memory alone.
        assert!(proxy.stop().0.success());
        proxy = start(&[&["--warm-start", "off"], flags].concat());
    }
    let before = state(&proxy);
    for (number, (fields, asked, expected)) in table.iter().enumerate() {
        let target = format!("/{number}");
        let mut words = vec!["explain", &target];
        if !asked.is_empty() {
            words.extend(["-H", asked]);
        }
        let told = said(&proxy, &words);
        assert!(told.contains(expected), "{fields}, {flags:?}, {store}: {told}");
        assert_eq!(state(&proxy), before, "{fields}, {flags:?}, {store}");
    }
}

#[test]
fn an_explanation_of_what_is_absent_stores_nothing() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60", "explained").times(2),
        on("GET /a").send(200, "Cache-Control: max-age=60", "hello"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let before = state(&proxy);
    for _ in 0..2 {
        let told = said(&proxy, &["explain", "/a"]);
        assert_has(&told, &["it would be stored", "fwd=uri-miss; fwd-status=200; stored"]);
        assert_eq!(state(&proxy), before);
    }
    assert_eq!(proxy.get("/a").body(), "hello");
    origin.assert_finished();
}

/// What memory has no room for, stated or not, would be stored behind it.
#[cfg(feature = "sqlite")]
#[test]
fn large_content_is_explained_without_being_stored() {
    let large = "x".repeat(300_000);
    let head = "Cache-Control: max-age=60; Transfer-Encoding: chunked";
    let chunk = format!("{:x}\r\n{large}\r\n", large.len());
    let origin = Origin::script([
        on("GET /stated").send(200, "Cache-Control: max-age=60", &large),
        on("GET /chunked").head(200, head).bytes(&chunk).bytes("0\r\n\r\n"),
        on("GET /cut").head(200, head).bytes(&chunk).close(),
        on("GET /larger").send(200, "Cache-Control: max-age=60", &large.repeat(2)),
    ]);
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("x.db").display());
    let flags = ["--store", &store, "--cache-memory", "1M", "--max-object-size", "500k"];
    let proxy = Proxy::before(&origin, &flags);
    let before = state(&proxy);
    for (target, expected) in [
        ("/stated", ["200, 300000 bytes", "it would be stored", "status=200; stored"]),
        ("/chunked", ["200, 300000 bytes", "it would be stored", "status=200; stored"]),
        ("/cut", ["200, cut short after 300000 bytes", "it would not be stored", ""]),
        ("/larger", ["200, 600000 bytes", "it would not be stored", "detail=too-large"]),
    ] {
        assert_has(&said(&proxy, &["explain", target]), &expected);
    }
    assert_eq!(state(&proxy), before);
    origin.assert_finished();
}

/// It takes none of the reuses that are left, and does not keep from eviction what nobody asks for.
#[test]
fn an_explanation_is_no_use_of_what_is_stored() {
    let fresh = "Cache-Control: max-age=60";
    let any =
        ["a", "b", "c"].map(|name| on(&format!("GET /{name}")).send(200, fresh, name).always());
    let origin = Origin::script(any);
    let limited = Proxy::before(&origin, &["--hit-ttl", "1"]);
    limited.get("/a");
    for _ in 0..3 {
        assert_has(&said(&limited, &["explain", "/a"]), &["proxy; hit"]);
    }
    assert!(limited.get("/a").is_hit(), "the one reuse is left");
    assert_has(&said(&limited, &["explain", "/a"]), &["detail=hit-ttl"]);
    let small = Proxy::before(&origin, &["--eviction-policy", "lru", "--cache-size-limit", "2"]);
    small.get("/a");
    small.get("/b");
    assert_has(&said(&small, &["explain", "/a"]), &["proxy; hit"]);
    small.get("/c");
    assert!(small.get("/b").is_hit(), "what was explained is the older one");
}

/// What a proxy with the default flags would do is no answer to a question about a running one.
#[test]
fn a_port_on_which_no_proxy_runs_is_named() {
    let runtime = TemporaryFolder::new();
    let mut asked = command();
    asked.args(["explain", "--port", "1", "/a"]).env("XDG_RUNTIME_DIR", runtime.path());
    let output = asked.output().expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(told, "proxy: no proxy of yours runs on port 1\n");
}

#[test]
fn the_operators_bound_is_told_to_the_millisecond() {
    let origin = Origin::script([
        on("GET /stated").send(200, "Cache-Control: max-age=60", "a"),
        on("GET /unstated").send(200, "", "b"),
    ]);
    let proxy = Proxy::before(&origin, &["--cache-ttl", "1500ms"]);
    let told = said(&proxy, &["explain", "/stated"]);
    assert_has(
        &told,
        &[
            "lifetime          60 s: max-age",
            "at most           1500 ms after it came: --cache-ttl",
        ],
    );
    let told = said(&proxy, &["explain", "/unstated"]);
    assert_has(&told, &["lifetime          1500 ms: not stated; --cache-ttl"]);
    assert!(!told.contains("at most"), "{told}");
    origin.assert_finished();
}
