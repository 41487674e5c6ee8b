//! `--cache-mode offline`: what was recorded with one client is replayed to another.

use std::fs;

use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};

/// What usual clients send, as far as servers make variants of it.
const CLIENTS: [(&str, &str); 6] = [
    ("curl", "User-Agent: curl/8.14.1\r\nAccept: */*\r\n"),
    (
        "requests",
        "User-Agent: python-requests/2.32.4\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n",
    ),
    (
        "node",
        "Accept: */*\r\nAccept-Language: *\r\nSec-Fetch-Mode: cors\r\nUser-Agent: node\r\n\
         Accept-Encoding: gzip, deflate\r\n",
    ),
    ("Go", "User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n"),
    ("Java", "User-Agent: Java-http-client/21\r\n"),
    (
        "Chromium",
        "User-Agent: Mozilla/5.0 Chrome/138.0.0.0\r\nAccept: text/html,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.9\r\nSec-Fetch-Mode: navigate\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n",
    ),
];
const VARY: &str = "Cache-Control: max-age=600; \
                    Vary: Accept-Encoding, User-Agent, Accept, Accept-Language, Sec-Fetch-Mode";

fn store_flag(folder: &TemporaryFolder) -> String {
    format!("sqlite:{}", folder.file("cache.db").display())
}

fn offline(store: &str) -> Proxy {
    // Not the origin server that was recorded is asked, but its name is in the key.
    Proxy::start(&["--origin", "http://o.test", "--store", store, "--cache-mode", "offline"])
}

/// Imports one response for `http://o.test` and this path; content is as the origin server sent it.
fn import(folder: &TemporaryFolder, path: &str, request: &str, fields: &str, is_coded: bool) {
    let pairs = |text: &str, end: &str| -> Vec<serde_json::Value> {
        let lines = text.split(end).filter_map(|line| line.trim().split_once(": "));
        lines.map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect()
    };
    let recording = serde_json::json!({ "log": { "entries": [{
        "request": {
            "method": "GET", "url": format!("http://o.test{path}"), "headers": pairs(request, "\r\n"),
        },
        "response": {
            "status": 200, "headers": pairs(fields, ";  "),
            "content": { "size": 5, "text": path, "_encoded": is_coded },
        },
    }]}});
    let file = folder.file("recording.har");
    fs::write(&file, recording.to_string()).expect("a file");
    let file = file.display().to_string();
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path());
    let output = command.args(["import", &file, "--store", &store_flag(folder)]).output();
    let output = output.expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("1 of 1 responses stored"), "{told} {output:?}");
}

/// Whatever one client has recorded of a server that makes variants, all others replay.
#[cfg(feature = "sqlite")]
#[test]
fn what_one_client_has_recorded_every_other_one_replays() {
    for (recorder, recorded) in CLIENTS {
        let folder = TemporaryFolder::new();
        let store = store_flag(&folder);
        let origin = Origin::script([on("GET /a").send(200, VARY, "hello")]);
        let mut proxy = Proxy::before(&origin, &["--store", &store]);
        assert!(!proxy.get_with("/a", recorded).is_hit());
        proxy.stop();
        let flags = ["--store", &store, "--cache-mode", "offline"];
        let proxy = Proxy::before(&origin, &flags);
        for (client, fields) in CLIENTS {
            let reply = proxy.get_with("/a", fields);
            assert_eq!(
                (reply.status, reply.body().as_str()),
                (200, "hello"),
                "{recorder} {client}"
            );
            let is_other = reply.cache_status().contains("detail=variant");
            assert_eq!(
                is_other,
                client != recorder,
                "{recorder} {client}: {}",
                reply.cache_status()
            );
        }
        origin.assert_finished();
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn offline_a_client_is_given_no_variant_that_it_cannot_decode() {
    let folder = TemporaryFolder::new();
    let vary = "Cache-Control: max-age=600;  Vary: Accept-Encoding";
    let gzip = format!("{vary};  Content-Encoding: gzip");
    let br = format!("{vary};  Content-Encoding: br");
    let asks = |coding: &str| format!("Accept-Encoding: {coding}\r\n");
    import(&folder, "/coded", &asks("gzip"), &gzip, true);
    import(&folder, "/both", &asks("gzip"), &gzip, true);
    import(&folder, "/both", &asks("br"), &br, true);
    import(&folder, "/plain", "", vary, true);
    // A browser's archive has the content decoded.
    import(&folder, "/decoded", &asks("br"), &br, false);
    let users = "Cache-Control: public, max-age=600;  Vary: Authorization";
    import(&folder, "/personal", "Authorization: Bearer 1\r\n", users, true);
    let proxy = offline(&store_flag(&folder));
    let table = [
        ("/coded", "gzip", Ok("ttl")),
        ("/coded", "gzip, br", Ok("variant")),
        ("/coded", "br", Err("stored for Accept-Encoding: gzip;")),
        ("/coded", "", Err("stored for Accept-Encoding: gzip;")),
        ("/both", "deflate", Err("stored for Accept-Encoding: br, or Accept-Encoding: gzip;")),
        ("/both", "deflate, gzip", Ok("variant")),
        ("/plain", "gzip", Ok("variant")),
        ("/decoded", "", Ok("ttl")),
        ("/decoded", "gzip", Ok("ttl")),
        ("/personal", "", Err("stored for other credentials;")),
        ("/nothing", "gzip", Err("not stored")),
    ];
    for (path, coding, expected) in table {
        let fields = if coding.is_empty() { String::new() } else { asks(coding) };
        let reply = proxy.get_with(path, &fields);
        match expected {
            Ok(told) => {
                assert_eq!((reply.status, reply.body().as_str()), (200, path), "{coding}");
                let status = reply.cache_status();
                assert!(
                    status.contains("hit") && status.contains(told),
                    "{path} {coding}: {status}"
                );
                assert_eq!(
                    status.contains("variant"),
                    told == "variant",
                    "{path} {coding}: {status}"
                );
            }
            Err(told) => {
                assert_eq!(reply.status, 504, "{path} {coding}: {}", reply.cache_status());
                assert!(reply.body().contains(told), "{path} {coding}: {}", reply.body());
            }
        }
    }
}

/// The origin server can be asked: then only what fits is given (RFC 9111 §4.1).
#[cfg(feature = "sqlite")]
#[test]
fn a_variant_for_others_is_given_offline_alone() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([
        on("GET /a").send(200, VARY, "for curl"),
        on("GET /a").send(200, VARY, "for Go"),
    ]);
    let proxy = Proxy::before(&origin, &["--store", &store_flag(&folder)]);
    proxy.get_with("/a", CLIENTS[0].1);
    assert_eq!(proxy.get_with("/a", CLIENTS[3].1).body(), "for Go");
    origin.assert_finished();
}
