//! `user:password@` in `--origin`: sent as `Authorization` to that origin server, and shown to nobody.
//! RFC 7617, RFC 9111 §3.5.

use std::net::SocketAddr;
use std::process::Output;

use super::support;
use super::support::TemporaryFolder;
use super::support::origin::{Origin, Rule, on};
use super::support::proxy::{Proxy, command};
use super::support::redis::{Server, programs};
use super::support::wire::Connection;

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

/// What an origin server with a password is asked for by [`all_that_is_told`].
fn rules() -> Vec<Rule> {
    let shared = "Cache-Control: max-age=60, public; Vary: Authorization";
    let answers = ["/a", "/new", "/warm"]
        .map(|target| on(&format!("GET {target}")).having(SENT).send(200, shared, "x").always());
    let fails = on("GET /fails").having(SENT).close().always();
    let declines = on("GET /upgrade").having(SENT).having("Upgrade: x").send(200, "", "x");
    answers.into_iter().chain([fails, declines.always()]).collect()
}

/// Everything that a proxy tells: to clients, by its commands, by its control interface, and in its logs.
/// A URL with the same password, of another server.
const ELSEWHERE: &str = "http://user:s%40cret@h/a";

/// `whole` is its origin server's URL with the password in it.
fn all_that_is_told(mut command: std::process::Command, whole: &str) -> String {
    let folder = TemporaryFolder::new();
    let (access, urls) = (folder.file("access.log"), folder.file("urls"));
    command.args(["--origin", whole, "--admin", "127.0.0.1:0", "--log-level", "trace"]);
    command.arg("--access-log").arg(&access);
    let mut proxy = Proxy::start_as(command);
    let mut told = Vec::new();
    for (target, fields) in [
        ("/a", ""),
        ("/a", "Referer: http://user:s%40cret@h/\r\n"),
        (ELSEWHERE, ""),
        ("/fails", ""),
        ("/upgrade", "Connection: Upgrade\r\nUpgrade: x\r\n"),
    ] {
        let reply = proxy.get_with(target, fields);
        told.push(format!("{}{}", reply.head.text, reply.body()));
    }
    std::fs::write(&urls, format!("/warm\n{whole}/warm\n/fails\n")).expect("a file");
    told.extend(what_commands_say(&proxy, whole, urls.to_str().expect("a path")));
    let log = proxy.log();
    let admin = log.lines().find_map(|line| line.split_once("control interface at http://"));
    let admin: SocketAddr = admin.expect("a line").1.trim().parse().expect("an address");
    for target in ["/info", "/stats", "/metrics", "/list", "/show?url=/new", "/explain?url=/a"]
        .map(str::to_string)
        .into_iter()
        .chain(["show", "explain"].map(|what| format!("/{what}?url={ELSEWHERE}")))
    {
        let reply = Connection::open(admin).request("GET", &target, "", "").reply();
        let path = target.split('?').next().unwrap_or_default();
        told.push(format!("GET {path}:\n{}", reply.body()));
    }
    let (_, _, log) = proxy.stop();
    told.extend([log, std::fs::read_to_string(access).expect("a log")]);
    told.join("\n")
}

/// What the commands print that ask or tell a running proxy, and those that need none.
fn what_commands_say(proxy: &Proxy, whole: &str, urls: &str) -> Vec<String> {
    let mut told = Vec::new();
    let below = format!("{whole}/");
    let one = format!("{whole}/a");
    let commands: &[&[&str]] = &[
        &["list"],
        &["list", "--json"],
        &["show", "/a"],
        &["show", &one, "--json"],
        &["show", ELSEWHERE],
        &["explain", "/a"],
        &["explain", "/new"],
        &["explain", "/fails"],
        &["explain", ELSEWHERE],
        &["stats"],
        &["stats", "--json"],
        &["warm", urls],
        &["export", "-"],
        &["export", "-", "--with-secrets"],
        &["purge", &one],
        &["purge", ELSEWHERE],
        &["purge", "--prefix", &below],
        &["purge", "--match", ELSEWHERE],
    ];
    for words in commands {
        told.push(format!("proxy {}:\n{}", words[0], said(&proxy.tell(words))));
        if words[0] == "explain" {
            // The command, without a running proxy.
            let output = support::proxy::run(&[words, &["--origin", whole][..]].concat());
            told.push(said(&output));
        }
    }
    told
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn assert_is_told_to_nobody(told: &str, expected: &[&str]) {
    let mut leaks = told.lines().filter(|line| SECRETS.iter().any(|secret| line.contains(secret)));
    assert_eq!(leaks.next(), None);
    for text in expected {
        assert!(told.contains(text), "{text:?} is not in:\n{told}");
    }
}

#[test]
fn no_command_log_recording_or_error_tells_the_origins_password() {
    let origin = Origin::script(rules());
    let told = all_that_is_told(command(), &with_password(&origin));
    // The test has seen something.
    let asked = format!("Asked:      GET {}/new", origin.url());
    let expected = [
        "Authorization: REDACTED",
        &asked,
        "proxy list:",
        "digest:",
        "\"log\":{\"version\"",
        "http://***@h/a: request target",
        "control: purged http://***@h/a",
        "GET /explain:\nCache key:",
    ];
    assert_is_told_to_nobody(&told, &expected);
}

#[test]
fn nor_those_of_redis_and_of_the_proxy_that_leads_out() {
    let connects = on("CONNECT origin.test:80")
        .having("Proxy-Authorization: Basic dXNlcjpzQGNyZXQ=")
        .bytes("HTTP/1.1 200 OK\r\n\r\n")
        .always();
    let way_out = Origin::script(rules().into_iter().chain([connects]));
    let mut proxied = command();
    proxied.env("http_proxy", format!("http://user:s%40cret@localhost:{}", way_out.port()));
    let told = all_that_is_told(proxied, "http://user:s%40cret@origin.test");
    let shown = format!("through proxy http://***@localhost:{}", way_out.port());
    assert_is_told_to_nobody(&told, &[&shown, "Asked:      GET http://origin.test/a"]);
    for program in programs() {
        let flags = ["--user", "user", "on", ">s@cret", "~*", "&*", "+@all"];
        let server = Server::start_with(program, &flags);
        let store = |user: &str| server.url().replace("redis://", &format!("redis://{user}@"));
        // One that Redis takes, and one of nobody's.
        for (user, is_taken) in [("user:s%40cret", true), ("other:s%40cret", false)] {
            let origin = Origin::script(rules());
            let mut shared = command();
            shared.args(["--store", &store(user)]);
            let told = all_that_is_told(shared, &with_password(&origin));
            assert_is_told_to_nobody(&told, &[&format!("store {}", server.url())]);
            assert_eq!(!told.contains("memory alone is used"), is_taken, "{told}");
        }
    }
}

#[test]
fn commands_name_urls_without_their_passwords() {
    let runtime = TemporaryFolder::new();
    for arguments in [
        &["http://user:s@cret@h"][..],
        &["127.0.0.1", "0", "http://user:s@cret@h:port"],
        &["--port", "http://user:s@cret@h"],
        &["--orgin=http://user:s@cret@h"],
        &["explain", "http://user:s@cret@h/a"],
        &["explain", "ftp://user:s@cret@h/a"],
        &["explain", "--origin", "http://127.0.0.1:1", "http://user:s@cret@h/a"],
        &["show", "http://user:s@cret@h/a"],
        &["purge", "http://user:s@cret@h/a"],
        &["warm", "http://user:s@cret@h/a"],
        &["purge", "--all", "--store", "redis://user:s@cret@127.0.0.1:1"],
        &["list", "--store", "redis://user:s@cret@127.0.0.1:1"],
        &["show", "http://user:s@cret@h/a", "--store", "redis://user:s@cret@127.0.0.1:1"],
        &["export", "-", "--store", "redis+cluster://user:s@cret@127.0.0.1:1,127.0.0.1:2"],
        &["--clear-cache", "--store", "rediss://user:s@cret@127.0.0.1:1"],
    ] {
        let mut told = command();
        told.env("XDG_RUNTIME_DIR", runtime.path()).args(arguments);
        let told = said(&told.output().expect("it runs"));
        assert!(!told.is_empty() && !told.contains("s@cret"), "{arguments:?}: {told}");
    }
}
