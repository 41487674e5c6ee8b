//! The cache filled on purpose, and taken from one place to another: warm, export, import.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::support::origin::{Gate, Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::{PATIENCE, TemporaryFolder};

const FRESH: &str = "Cache-Control: max-age=600";

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The binary as a command of the user in this folder.
fn tool(folder: &TemporaryFolder, args: &[&str]) -> Command {
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path()).env("HOME", folder.path()).args(args);
    command
}

fn with_input(mut command: Command, text: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn in_folder(folder: &TemporaryFolder, origin: &Origin, flags: &[&str]) -> Proxy {
    let mut command = tool(folder, flags);
    command.args(["--origin", &origin.url()]);
    Proxy::start_as(command)
}

#[test]
fn a_list_is_fetched_and_stored_by_the_running_proxy() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "a"),
        on("GET /b").send(200, FRESH, "b"),
        on("GET /none").send(404, "Cache-Control: no-store", ""),
    ]);
    let proxy = in_folder(&folder, &origin, &[]);
    let list = format!("# two of them\n/a\n{}/b\n\nhttp://elsewhere.test/c\n", origin.url());
    let told = said(&with_input(tool(&folder, &["warm", "-", "-j", "2"]), &list));
    assert_eq!(
        told,
        "2 URLs: 2 fetched, 0 refreshed, 0 stored already, 0 waited for, 0 not stored, 0 failed; \
         1 more are not of this origin server\n"
    );
    assert!(proxy.get("/a").is_hit() && proxy.get("/b").is_hit());
    let file = folder.file("urls.txt");
    fs::write(&file, format!("/a\nhttp://{}/none\n", proxy.address)).expect("a file");
    let output = tool(&folder, &["warm", &file.display().to_string()]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains(
            "1 stored already, 0 waited for, 0 not stored, 1 failed\n  /none: answered 404"
        ),
        "{told}"
    );
    let empty = with_input(tool(&folder, &["warm", "-"]), "# nothing\n");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("no URLs; expected one a line"));
    origin.assert_finished();
}

/// What each URL was before, and what the origin server says now.
#[test]
fn warming_tells_what_became_of_each_url() {
    const STALE: &str = "Cache-Control: max-age=9; Age: 10; ETag: \"1\"";
    const BACKGROUND: &str =
        "Cache-Control: max-age=9, stale-while-revalidate=90; Age: 10; ETag: \"1\"";
    let ask = |target: &str| on(&format!("GET {target}"));
    let confirmed = |target: &str| ask(target).having("If-None-Match: \"1\"").send(304, FRESH, "");
    #[rustfmt::skip]
    let table = [
        ("fresh", vec![ask("/u").send(200, FRESH, "a")], true, "1 stored already"),
        ("absent", vec![ask("/u").send(200, FRESH, "a")], false, "1 fetched"),
        ("made for others", vec![
            ask("/u").send(200, &format!("{FRESH}; Vary: X"), "a"), ask("/u").send(200, FRESH, "b"),
        ], true, "1 fetched"),
        ("stale, the same", vec![ask("/u").send(200, STALE, "a"), confirmed("/u")], true, "1 refreshed"),
        ("stale, changed", vec![ask("/u").send(200, STALE, "a"), ask("/u").send(200, FRESH, "b")], true, "1 refreshed"),
        ("stale, usable", vec![ask("/u").send(200, BACKGROUND, "a"), confirmed("/u")], true, "1 refreshed"),
        ("stale, failing", vec![ask("/u").send(200, STALE, "a"), ask("/u").send(503, "", "")], true,
            "1 failed\n  /u: what is stored could not be refreshed (detail=stale-if-error)"),
        ("private", vec![ask("/u").send(200, "Cache-Control: private", "a")], false,
            "1 not stored, 0 failed\n  1 not stored, or left stale: detail=private"),
        ("an error", vec![ask("/u").send(500, "", "")], false, "1 failed\n  /u: answered 500"),
        ("cut", vec![ask("/u").head(200, "Content-Length: 200000").bytes("a").close().always()], false, "1 failed\n  /u: "),
    ];
    for (name, rules, is_asked_before, expected) in table {
        let folder = TemporaryFolder::new();
        let origin = Origin::script(rules);
        let proxy = in_folder(&folder, &origin, &[]);
        if is_asked_before {
            proxy.get_with("/u", "X: y\r\n");
        }
        let output = with_input(tool(&folder, &["warm", "-"]), "/u\n");
        let told = [&output.stdout[..], &output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains(expected), "{name}: {told}");
        let fails = expected.contains("1 failed");
        assert_eq!(output.status.code(), Some(i32::from(fails)), "{name}: {told}");
        if expected == "1 refreshed" || expected == "1 fetched" {
            let again = said(&with_input(tool(&folder, &["warm", "-"]), "/u\n"));
            assert!(again.contains("1 stored already"), "{name}: {again}");
        }
        origin.assert_finished();
    }
}

/// One of them fetches, the other gets that and says so.
#[test]
fn two_who_warm_at_once_ask_once() {
    let (folder, held) = (TemporaryFolder::new(), Gate::new());
    let origin = Origin::script([on("GET /a").wait(&held).send(200, FRESH, "a")]);
    let _proxy = in_folder(&folder, &origin, &[]);
    let file = folder.file("list");
    fs::write(&file, "/a\n").expect("a file");
    let file = file.display().to_string();
    let warm = || {
        let mut command = tool(&folder, &["warm", &file]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    let both = [warm(), warm()];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = said(&tool(&folder, &["stats", "--json"]).output().expect("it runs"));
        let stats: Value = serde_json::from_str(&stats).expect("JSON");
        if stats["requests"] == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{stats}");
    }
    held.open();
    let mut told = both.map(|child| said(&child.wait_with_output().expect("it ends")));
    told.sort();
    let zero = "0 refreshed, 0 stored already";
    assert_eq!(
        told[0],
        format!("1 URLs: 0 fetched, {zero}, 1 waited for, 0 not stored, 0 failed\n")
    );
    assert_eq!(
        told[1],
        format!("1 URLs: 1 fetched, {zero}, 0 waited for, 0 not stored, 0 failed\n")
    );
    origin.assert_finished();
}

#[test]
fn a_sitemap_is_followed() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([
        on("GET /sitemap.xml").send(
            200,
            "Cache-Control: no-store",
            "<urlset><url><loc>/a</loc></url><url><loc>/b?x=1&amp;y=2</loc></url></urlset>",
        ),
        on("GET /a").send(200, FRESH, "a"),
        on("GET /b?x=1&y=2").send(200, FRESH, "b"),
    ]);
    let proxy = in_folder(&folder, &origin, &[]);
    let index = "<sitemapindex><sitemap><loc>/sitemap.xml</loc></sitemap></sitemapindex>";
    let told = said(&with_input(tool(&folder, &["warm", "-", "-j1"]), index));
    assert!(told.starts_with("2 URLs: 2 fetched"), "{told}");
    assert!(proxy.get("/b?x=1&y=2").is_hit());
    origin.assert_finished();
}

/// A store that lasts is filled without a running proxy, and serves offline.
#[cfg(feature = "sqlite")]
#[test]
fn a_store_is_filled_without_a_running_proxy() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let large = "x".repeat(3_000_000);
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "a"),
        on("GET /large").send(200, FRESH, &large),
        on("GET /twice").send(200, FRESH, "twice"),
        on("GET /stale").send(200, "Cache-Control: max-age=9; Age: 10; ETag: \"1\"", "stale"),
        on("GET /stale").having("If-None-Match: \"1\"").send(304, FRESH, ""),
    ]);
    let url = origin.url();
    let args = ["warm", "-", "--origin", &url, "--store", &store, "--cache-memory", "4M"];
    let told = said(&with_input(tool(&folder, &args), "/a\n/large\n"));
    assert!(told.starts_with("2 URLs: 2 fetched"), "{told}");
    // Of those who ask the same one asks the origin server; what was born stale is refreshed.
    let told = said(&with_input(tool(&folder, &args), "/twice\n/twice\n/twice\n/stale\n/a\n"));
    assert!(told.starts_with("5 URLs: 2 fetched, 0 refreshed"), "{told}");
    let told = said(&with_input(tool(&folder, &args), "/stale\n/a\n"));
    assert!(
        told.starts_with("2 URLs: 0 fetched, 1 refreshed, 1 stored already, 0 waited"),
        "{told}"
    );
    let proxy = in_folder(&folder, &origin, &["--store", &store, "--cache-mode", "offline"]);
    assert_eq!(proxy.get("/a").body(), "a");
    assert!(proxy.get("/large").body() == large);
    origin.assert_finished();
}

/// Fetches four responses, and exports them without their secrets; the file's path.
fn exported(folder: &TemporaryFolder, origin: &Origin) -> String {
    let proxy = in_folder(folder, origin, &["--share-cookies"]);
    proxy.get("/a");
    proxy.get_with("/b", "Accept: text/b\r\n");
    proxy.get("/gone");
    proxy.get("/key?api_key=s3cret&page=2");
    let file = folder.file("recording.har");
    let har = file.display().to_string();
    let told = said(&tool(folder, &["export", &har]).output().expect("it runs"));
    assert!(
        told.contains("recording.har: 4 responses") && told.contains("1 URLs had secrets"),
        "{told}"
    );
    drop(proxy);
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(!text.contains("s3cret"), "{text}");
    let recording: Value = serde_json::from_str(&text).expect("JSON");
    let entries = recording["log"]["entries"].as_array().expect("a list");
    assert_eq!((recording["log"]["version"].as_str(), entries.len()), (Some("1.2"), 4));
    for name in ["startedDateTime", "time", "request", "response", "cache", "timings"] {
        assert!(entries.iter().all(|entry| entry.get(name).is_some()), "HAR asks for {name}");
    }
    har
}

/// From a running proxy into a file, from there into a store, and that is played offline.
#[cfg(feature = "sqlite")]
#[test]
fn a_recording_is_replayed_offline() {
    let folder = TemporaryFolder::new();
    let bytes: String = (0..300_u32).filter_map(char::from_u32).collect();
    let origin = Origin::script([
        on("GET /a").send(
            200,
            "Cache-Control: max-age=60; Date: DATE-50; Content-Type: text/plain",
            "hello",
        ),
        on("GET /b").having("Accept: text/b").send(
            200,
            &format!("{FRESH}; Vary: Accept; ETag: \"1\""),
            &bytes,
        ),
        on("GET /gone").send(404, FRESH, "gone"),
        on("GET /key?api_key=s3cret&page=2").send(200, FRESH, "keyed"),
    ]);
    let har = exported(&folder, &origin);
    let store = format!("sqlite:{}", folder.file("replay.db").display());
    let told =
        said(&tool(&folder, &["import", &har, "--store", &store]).output().expect("it runs"));
    assert!(told.contains("3 of 4 responses stored"), "{told}");
    assert!(told.contains("1 not: a secret in its URL was left out; see --ignore-param"), "{told}");
    // Without the parameter it can be reached.
    let import = ["import", &har, "--store", &store, "--ignore-param", "api_key"];
    let told = said(&tool(&folder, &import).output().expect("it runs"));
    assert!(told.contains("4 of 4 responses stored"), "{told}");
    let flags = ["--store", &store, "--cache-mode", "offline", "--ignore-param", "api_key"];
    let replayed = in_folder(&folder, &origin, &flags);
    let a = replayed.get("/a");
    assert_eq!(
        (a.status, a.body().as_str(), a.field("content-type").as_str()),
        (200, "hello", "text/plain")
    );
    assert!(
        a.cache_status().starts_with("proxy; hit; ttl="),
        "it is fresh again: {}",
        a.cache_status()
    );
    assert_eq!(replayed.get_with("/b", "Accept: text/b\r\n").body(), bytes);
    let other = replayed.get_with("/b", "Accept: text/c\r\n");
    assert_eq!((other.body(), other.cache_status().contains("variant")), (bytes, true));
    assert_eq!(replayed.get("/gone").status, 404);
    assert_eq!(replayed.get("/key?page=2&api_key=another").body(), "keyed");
    origin.assert_finished();
}

#[test]
fn a_recording_goes_into_a_running_proxy_and_says_what_it_left_out() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([]);
    let proxy = in_folder(&folder, &origin, &[]);
    let entry = |target: &str, fields: &str, text: &str| {
        format!(
            "{{\"request\":{{\"method\":\"GET\",\"url\":\"{}{target}\",\"headers\":[]}},\
             \"response\":{{\"status\":200,\"headers\":[{fields}],\"content\":{{\"size\":{},\"text\":\"{text}\"}}}}}}",
            origin.url(),
            text.len()
        )
    };
    let no_store = "{\"name\":\"Cache-Control\",\"value\":\"no-store\"}";
    let entries = [entry("/a", "", "one"), entry("/b", no_store, "two"), "{}".to_string()];
    let recording = format!("{{\"log\":{{\"entries\":[{}]}}}}", entries.join(","));
    let told = said(&with_input(tool(&folder, &["import", "-"]), &recording));
    for line in [
        "1 of 3 responses stored",
        "1 not: no-store",
        "1 not: an entry without a URL",
        "--cache-mode force",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(proxy.get("/a").body(), "one");
    assert!(proxy.get("/a").is_hit());
    // What is no recording loses nothing, and is said.
    for wrong in ["", "[]", "{\"log\":{}}", "not JSON"] {
        let output = with_input(tool(&folder, &["import", "-"]), wrong);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && told.contains("no HTTP Archive"),
            "{wrong}: {told}"
        );
    }
    // A recording that is cut is taken as far as it goes.
    let whole = format!("{{\"log\":{{\"entries\":[{},", entry("/c", "", "three"));
    let output = with_input(tool(&folder, &["import", "-"]), &whole);
    assert_eq!(output.status.code(), Some(1));
    assert!(proxy.get("/c").is_hit());
    let missing = tool(&folder, &["import", "/nowhere/x.har"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere/x.har: No such file"));
    // An export that cannot be written leaves what was there.
    let unwritable = tool(&folder, &["export", "/nowhere/x.har"]).output().expect("it runs");
    assert_eq!(unwritable.status.code(), Some(1));
}

/// Over the control interface, where programs ask: numbers, and no text to be cut.
#[test]
fn an_import_answers_with_a_count_for_each_reason() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([]);
    let proxy = in_folder(&folder, &origin, &[]);
    let socket = folder.file(&format!("caching-proxy/{}.sock", proxy.address.port()));
    let entry = |method: &str, target: &str, directive: &str| {
        json!({
            "request": { "method": method, "url": format!("{}{target}", origin.url()) },
            "response": {
                "status": 200, "content": { "text": "a" },
                "headers": [{ "name": "Cache-Control", "value": directive }],
            },
        })
    };
    let (fresh, no_store) = ("max-age=60", "no-store");
    let all = json!([
        entry("GET", "/a", fresh),
        entry("GET", "/b", no_store),
        entry("GET", "/c", fresh),
        entry("GET", "/d", no_store),
        entry("POST", "/a", fresh),
        {},
        null,
        5
    ]);
    let left_out =
        json!({ "\"POST\"; only GET is stored": 1, "an entry without a URL": 3, "no-store": 2 });
    for (content, expected) in [
        (all, Some(json!({ "stored": 2, "left_out": left_out }))),
        (json!([]), Some(json!({ "stored": 0, "left_out": {} }))),
        (json!({}), None),
        (json!(5), None),
    ] {
        let content = content.to_string();
        let mut stream = UnixStream::connect(&socket).expect("a socket");
        let length = content.len();
        let head = "POST /import HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{content}").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head.starts_with("HTTP/1.1 200 "), expected.is_some(), "{content}: {answer}");
        if let Some(expected) = expected {
            let counts: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(counts, expected, "{content}");
        }
    }
    assert!(proxy.get("/c").is_hit());
}

/// What no request can reach would take room for nothing; it is said what that was.
#[cfg(feature = "sqlite")]
#[test]
fn what_no_request_can_reach_is_left_out_of_an_import() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([]);
    let mut command = tool(&folder, &["--origin", &format!("{}/api", origin.url())]);
    command.args(["--default-ttl", "1h"]);
    let proxy = Proxy::start_as(command);
    let (host, port) = (origin.url(), proxy.address.port());
    let own = host.trim_start_matches("http://");
    let table = [
        (format!("{host}/api/a"), "stored", "/a"),
        (format!("{host}/api/b?x=1#part"), "stored", "/b?x=1"),
        (format!("HTTP://{own}/api/%7Ec"), "stored", "/~c"),
        (format!("http://localhost:{port}/d"), "stored", "/d"),
        (format!("http://{}/e", proxy.address), "stored", "/e"),
        (format!("{host}/other"), "not below the path of --origin", ""),
        (format!("{host}/apiary"), "not below the path of --origin", ""),
        (format!("https://{own}/api/a"), "of another origin server", ""),
        ("http://elsewhere.test/api/a".to_string(), "of another origin server", ""),
        ("data:text/plain,hello".to_string(), "no http URL that a request can name", ""),
        ("blob:http://o/1".to_string(), "no http URL that a request can name", ""),
        ("ftp://o/a".to_string(), "no http URL that a request can name", ""),
        (format!("http://me@{own}/api/a"), "no http URL that a request can name", ""),
        (format!("{host}/api/a b"), "no http URL that a request can name", ""),
        (format!("{host}/api/k?token=REDACTED"), "a secret in its URL was left out", ""),
    ];
    for (url, expected, target) in &table {
        let recording = serde_json::json!({ "log": { "entries": [{
            "request": { "method": "GET", "url": url, "headers": [] },
            "response": { "status": 200, "headers": [], "content": { "size": 1, "text": "x" } },
        }]}});
        let told = said(&with_input(tool(&folder, &["import", "-"]), &recording.to_string()));
        if *expected == "stored" {
            assert!(told.contains("1 of 1 responses stored"), "{url}: {told}");
            assert!(proxy.get(target).is_hit(), "{url}");
        } else {
            let line = format!("1 not: {expected}");
            assert!(told.contains("0 of 1 responses") && told.contains(&line), "{url}: {told}");
        }
    }
    // A store that is filled for nobody in particular takes what any proxy could give.
    let recording = serde_json::json!({ "log": { "entries": [
        { "request": { "method": "GET", "url": "HTTP://One.test:80" },
          "response": { "status": 200, "headers": [], "content": { "size": 1, "text": "x" } } },
        { "request": { "method": "GET", "url": "data:,x" },
          "response": { "status": 200, "headers": [], "content": { "size": 1, "text": "x" } } },
    ]}});
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let told = said(&with_input(
        tool(&folder, &["import", "-", "--store", &store]),
        &recording.to_string(),
    ));
    assert!(told.contains("1 of 2 responses stored"), "{told}");
    let flags = ["--origin", "http://one.test", "--store", &store, "--cache-mode", "offline"];
    assert_eq!(Proxy::start(&flags).get("/").body(), "x");
}

#[test]
fn secrets_are_kept_only_when_that_is_said() {
    let folder = TemporaryFolder::new();
    let fields = "Cache-Control: public, max-age=600; Vary: Authorization; Set-Cookie: session=s3cret; Location: /b?code=s3cret; Content-Location: /a?token=s3cret; X-API-Key: s3cret";
    let origin = Origin::script([on("GET /a").send(200, fields, "a")]);
    let proxy = in_folder(&folder, &origin, &["--share-cookies"]);
    proxy.get_with("/a", "Authorization: Bearer t0ken\r\n");
    let redacted = said(&tool(&folder, &["export", "-"]).output().expect("it runs"));
    assert!(!redacted.contains("s3cret") && !redacted.contains("t0ken"), "{redacted}");
    assert!(redacted.contains("REDACTED"));
    let kept = said(&tool(&folder, &["export", "-", "--with-secrets"]).output().expect("it runs"));
    assert!(kept.contains("session=s3cret"), "{kept}");
    // Nobody has the credentials that selected it any more.
    assert!(kept.contains("digest:") && !kept.contains("t0ken"), "{kept}");
}
