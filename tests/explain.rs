//! `proxy explain`, and how the operator shapes the key.

mod support;

use support::origin::{Origin, on};
use support::proxy::{Proxy, run};

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
            "Storing:    it is stored",
            "yes   the method is GET",
            "yes   the response is not private (RFC 9111 §5.2.2.7)",
            "lifetime          60 s: max-age (RFC 9111 §5.2.2.1)",
            "age on arrival    10 s",
            "fresh             for ",
            " s, until ",
            "when stale        for 86400 s if the origin server fails (--stale-if-error), for 7 s",
            "validators        etag",
            "selecting fields  Accept (Vary)",
            "Stored fields:",
            "This request:       proxy; fwd=uri-miss; fwd-status=200; stored",
            "The same one now:   proxy; hit; ttl=",
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
        ("Cache-Control: max-age=60", &["--cache-mode", "force"], &["it is stored", "until cleared"]),
        ("CDN-Cache-Control: max-age=9; Cache-Control: no-store", &[], &["it is stored", "9 s: CDN-Cache-Control (RFC 9213)"]),
    ];
    for (fields, flags, expected) in table {
        let origin = Origin::script([on("GET /a").send(200, fields, "hello")]);
        let mut args = flags.to_vec();
        args.push("/a");
        let (code, text, _) = explain(&origin, &args);
        assert_eq!(code, 0);
        assert_has(&text, expected);
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
            "proxy: explain: it is not said of what; expected proxy explain [-H 'Name: value']... [flags] PATH\n"
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
