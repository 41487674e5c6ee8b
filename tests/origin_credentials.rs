//! `user:password@` in `--origin`: sent as `Authorization` to that origin server, and shown to nobody.
//! RFC 7617, RFC 9111 §3.5.

mod support;

use support::origin::{Origin, on};
use support::proxy::{Proxy, command};

const SENT: &str = "Authorization: Basic dXNlcjpzQGNyZXQ=";
/// What must be seen nowhere.
const SECRETS: [&str; 4] = ["s@cret", "s%40cret", "dXNlcjpzQGNyZXQ", "user:"];

fn with_password(origin: &Origin) -> String {
    origin.url().replace("http://", "http://user:s%40cret@")
}

#[test]
fn user_information_is_sent_in_place_of_the_clients_credentials() {
    let origin = Origin::script([
        on("GET /none").having(SENT).send(200, "", "x"),
        on("GET /other").having(SENT).send(200, "", "x"),
        on("POST /post").having(SENT).send(200, "", "x"),
    ]);
    let proxy = Proxy::start(&["--origin", &with_password(&origin)]);
    assert_eq!(proxy.get("/none").body(), "x");
    assert_eq!(proxy.get_with("/other", "Authorization: Bearer mine\r\n").body(), "x");
    assert_eq!(proxy.ask("POST", "/post", "", "content").body(), "x");
    for asked in origin.asked() {
        let text = &asked.head.text;
        let lines = text.to_ascii_lowercase().matches("\r\nauthorization:").count();
        assert_eq!(lines, 1, "{text}");
    }
    origin.assert_finished();
}

#[test]
fn responses_are_judged_as_if_the_client_had_sent_it() {
    let table = [
        ("/unstated", "X: y", false),
        ("/max-age", "Cache-Control: max-age=60", false),
        ("/public", "Cache-Control: max-age=60, public", true),
        ("/shared", "Cache-Control: s-maxage=60", true),
        ("/must", "Cache-Control: max-age=60, must-revalidate", true),
    ];
    let rules = table.iter().map(|(target, fields, is_shared)| {
        let rule = on(&format!("GET {target}")).having(SENT).send(200, fields, "x");
        rule.times(if *is_shared { 1 } else { 2 })
    });
    let origin = Origin::script(rules.collect::<Vec<_>>());
    let proxy = Proxy::start(&["--origin", &with_password(&origin)]);
    for (target, fields, is_shared) in table {
        proxy.get(target);
        assert_eq!(proxy.get(target).is_hit(), is_shared, "RFC 9111 §3.5: {fields}");
    }
    origin.assert_finished();
}

#[test]
fn a_redirects_target_elsewhere_does_not_get_it() {
    let other = Origin::script([on("GET /b").lacking("Authorization").send(200, "", "elsewhere")]);
    let origin = Origin::script([
        on("GET /here").having(SENT).send(302, "Location: /there", ""),
        on("GET /there").having(SENT).send(200, "", "there"),
        on("GET /away").having(SENT).send(302, &format!("Location: {}/b", other.url()), ""),
    ]);
    let proxy = Proxy::start(&["--origin", &with_password(&origin), "--follow-redirects"]);
    assert_eq!(proxy.get("/here").body(), "there");
    assert_eq!(proxy.get("/away").body(), "elsewhere");
    origin.assert_finished();
    other.assert_finished();
}

#[test]
fn it_is_in_no_key_log_or_error() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60, public; Vary: Authorization", "a"),
        on("GET /fails").close().times(2),
    ]);
    let proxy = Proxy::start(&["--origin", &with_password(&origin), "--log-level", "debug"]);
    proxy.get("/a");
    assert!(proxy.get("/a").is_hit());
    let failed = proxy.get("/fails");
    assert_eq!(failed.status, 502);
    let told = format!("{}{}{}", failed.head.text, failed.body(), proxy.log());
    assert!(!SECRETS.iter().any(|secret| told.contains(secret)), "{told}");
}

#[test]
fn refused_urls_are_printed_without_their_passwords() {
    for arguments in [
        ["--origin", "ftp://user:s@cret@h"],
        ["--origin", "http://user:s@cret@h:port"],
        ["--origin", "http://us%3Aer:s@cret@h"],
        ["--origin", "http://user:s@cret@h?query"],
        ["--store", "redis://user:s@cret@h:port"],
        ["--store", "rediss://user:s@cret@"],
        ["--public-url", "http://user:s@cret@h/path"],
    ] {
        let output = command().args(arguments).args(["--port", "0"]).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !told.is_empty(), "{arguments:?}");
        assert!(!told.contains("s@cret") && told.contains(arguments[0]), "{told}");
    }
    let mut proxied = command();
    proxied.env("http_proxy", "ftp://user:s@cret@h").args(["--origin", "http://192.0.2.1"]);
    let output = proxied.args(["--port", "0"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("s@cret") && told.contains("ftp://***@h"), "{told}");
}
