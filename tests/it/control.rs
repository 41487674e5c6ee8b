//! A running proxy is asked and told things: over its control socket from the shell, over TCP where that is
//! wanted, and by PURGE.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;

use super::support;
use super::support::TemporaryFolder;
use super::support::origin::{Gate, Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::wire::Connection;

const FRESH: &str = "Cache-Control: max-age=600";

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An origin server that answers `/NAME` with its name, any number of times.
fn names(names: &[&str]) -> Origin {
    Origin::script(names.iter().map(|name| {
        let fields = format!("{FRESH}; Surrogate-Key: all {name}");
        on(&format!("GET /{name}")).send(200, &fields, name).always()
    }))
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_proxy() {
    let origin = names(&[]);
    let runtime = TemporaryFolder::new();
    let mut with_runtime = command();
    with_runtime.env("XDG_RUNTIME_DIR", runtime.path()).args(["--origin", &origin.url()]);
    let mut proxy = Proxy::start_as(with_runtime);
    let socket = runtime.file(&format!("caching-proxy/{}.sock", proxy.address.port()));
    let mode = |path: &std::path::Path| {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!((mode(&socket), mode(&runtime.file("caching-proxy"))), (0o600, 0o700));
    proxy.stop();
    assert!(!fs::exists(&socket).expect("a folder"));
    // One that was killed leaves its socket; that is no running proxy, and no obstacle.
    let mut with_runtime = command();
    with_runtime.env("XDG_RUNTIME_DIR", runtime.path()).args(["--origin", &origin.url()]);
    let mut proxy = Proxy::start_as(with_runtime);
    let left = runtime.file(&format!("caching-proxy/{}.sock", proxy.address.port()));
    proxy.signal("-KILL");
    let _ = proxy.wait();
    assert!(fs::exists(&left).expect("a folder"));
    let mut stats = command();
    let output =
        stats.env("XDG_RUNTIME_DIR", runtime.path()).arg("stats").output().expect("it runs");
    assert_eq!(refused(&output), "proxy: no proxy of yours runs; start one\n");
    assert!(!fs::exists(&left).expect("a folder"));
}

#[test]
fn purge_forgets_what_is_selected() {
    let origin = names(&["a", "a/1", "a/2", "b"]);
    let proxy = Proxy::before(&origin, &[]);
    let port = proxy.address.port();
    let fill = || {
        for name in ["/a", "/a/1", "/a/2", "/b"] {
            proxy.get(name);
        }
    };
    let own = format!("http://{}/a", proxy.address);
    let of_origin = format!("{}/a", origin.url());
    #[rustfmt::skip]
    let table: [(&[&str], u32); 9] = [
        (&["purge", "/a"], 1), (&["purge", &own], 1), (&["purge", &of_origin], 1), (&["purge", "/none"], 0),
        (&["purge", "--prefix", "/a/"], 2), (&["purge", "--match", "*/a*"], 3),
        (&["purge", "--tag", "b"], 1), (&["purge", "--stale"], 0), (&["purge", "--all"], 4),
    ];
    for (words, expected) in table {
        fill();
        let told = said(&proxy.tell(words));
        assert_eq!(told, format!("port {port}: {expected} purged\n"), "{words:?}");
    }
    fill();
    let told = said(&proxy.tell(&["--clear-cache", "--store", "memory"]));
    assert!(told.contains(&format!("port {port}: 4 purged")), "{told}");
    assert!(!proxy.get("/a").is_hit());
}

/// A store that nobody runs for is purged itself; by a path, if it is said of which server.
#[cfg(feature = "sqlite")]
#[test]
fn a_store_is_purged_without_a_running_proxy() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = names(&["a", "b", "~c", "d%2Fe?x=1&y=2", "~f", "~g"]);
    let mut proxy = Proxy::before(&origin, &["--store", &store, "--sort-query"]);
    for target in ["/a", "/b", "/%7Ec", "/d%2fe?y=2&x=1", "/~f", "/~g"] {
        assert_eq!(proxy.get(target).status, 200, "{target}");
    }
    proxy.stop();
    let url = origin.url();
    let whole = format!("{url}/b");
    let told = refused(&proxy.tell(&["purge", "/a", "--store", &store]));
    assert!(told.contains("/a: of which server?"), "{told}");
    let told = said(&proxy.tell(&["purge", "/a", "--store", &store, "--origin", &url]));
    assert!(told.ends_with("cache.db: 1 purged\n"), "{told}");
    assert!(said(&proxy.tell(&["purge", &whole, "--store", &store])).ends_with(": 1 purged\n"));
    // Spellings of one URI are one key here, too.
    for what in [
        &["/%7ec"][..],
        &["/d%2fe?y=2&x=1", "--sort-query"],
        &["--prefix", "/%7Ef"],
        &["--match", "*/%7Eg"],
    ] {
        let mut words = vec!["purge", "--store", &store, "--origin", &url];
        words.extend(what);
        assert!(said(&proxy.tell(&words)).ends_with(": 1 purged\n"), "{what:?}");
    }
    assert!(refused(&proxy.tell(&["purge", "/a"])).contains("no proxy of yours runs"));
}

/// A store that is named is meant, in the running proxies that use it or by itself, and nothing else is.
#[cfg(feature = "sqlite")]
#[test]
fn one_rule_says_for_all_commands_which_cache_is_meant() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = names(&["a", "b"]);
    let url = origin.url();
    let start = |flags: &[&str]| {
        let mut with_runtime = command();
        with_runtime.env("XDG_RUNTIME_DIR", folder.path()).args(["--origin", &url]).args(flags);
        Proxy::start_as(with_runtime)
    };
    let tell = |words: &[&str]| {
        let mut told = command();
        // The file has another name from here.
        told.env("XDG_RUNTIME_DIR", folder.path()).current_dir(folder.path());
        told.args(words).output().expect("it runs")
    };
    let store_port;
    {
        let mut filled = start(&["--store", &store]);
        store_port = filled.address.port().to_string();
        filled.get("/a");
        filled.get("/b");
        // The running proxy's memory is in front of the store.
        let told = said(&tell(&["purge", "/b", "--store", "sqlite:cache.db"]));
        assert_eq!(told, format!("port {store_port}: 1 purged\n"));
        assert!(!filled.get("/b").is_hit());
        filled.stop();
    }
    let memory = start(&[]);
    memory.get("/a");
    let port = memory.address.port().to_string();
    // The store is not the running proxy's.
    let list = |words: &[&str]| said(&tell(words)).lines().skip(1).count();
    assert_eq!(list(&["list", "--store", &store]), 2);
    assert_eq!(list(&["list"]), 1);
    assert!(
        said(&tell(&["show", &format!("{url}/a"), "--store", &store, "--origin", &url]))
            .contains("200 OK")
    );
    let told = refused(&tell(&["purge", "--all", "--store", &store, "--port", &port]));
    assert!(told.contains("uses memory alone"), "{told}");
    assert!(refused(&tell(&["stats", "--store", &store])).contains("no proxy of yours runs with"));
    let own = format!("http://127.0.0.1:{store_port}/a");
    for (words, expected) in [
        (&["purge", "/a", "--origin", &url][..], 1),
        (&["purge", &own, "--origin", &url], 0),
        (&["purge", "--all"], 1),
    ] {
        let told = said(&tell(&[words, &["--store", &store]].concat()));
        assert!(told.ends_with(&format!("cache.db: {expected} purged\n")), "{words:?}: {told}");
    }
    assert_eq!(list(&["list", "--store", &store]), 0);
    assert!(memory.get("/a").is_hit());
}

/// What is on its way in when something is purged is not stored after it.
#[test]
fn a_purge_is_not_undone_by_a_fill_in_flight() {
    for words in [&["purge", "/a"][..], &["purge", "--prefix", "/"], &["--clear-cache"]] {
        let gate = Gate::new();
        let old = on("GET /a")
            .head(200, &format!("{FRESH}; Content-Length: 3"))
            .bytes("ol")
            .wait(&gate)
            .bytes("d");
        let origin = Origin::script([old, on("GET /a").send(200, FRESH, "new")]);
        let proxy = Proxy::before(&origin, &[]);
        let mut client = proxy.connect();
        client.request("GET", "/a", "", "");
        assert!(client.head().is_some());
        said(&proxy.tell(words));
        gate.open();
        let mut rest = [0; 3];
        std::io::Read::read_exact(&mut client.stream, &mut rest).expect("its content");
        assert_eq!(&rest, b"old");
        assert_eq!(proxy.get("/a").body(), "new", "{words:?}");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn clear_reaches_all_proxies_and_the_store_and_is_content_with_nothing() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = names(&["a", "b"]);
    let start = |flags: &[&str]| {
        let mut with_runtime = command();
        with_runtime
            .env("XDG_RUNTIME_DIR", folder.path())
            .args(["--origin", &origin.url()])
            .args(flags);
        Proxy::start_as(with_runtime)
    };
    let clear = |flags: &[&str]| {
        let mut clear = command();
        clear.env("XDG_RUNTIME_DIR", folder.path()).env("XDG_CACHE_HOME", folder.path());
        clear.env("HOME", folder.path());
        said(&clear.arg("--clear-cache").args(flags).output().expect("it runs"))
    };
    assert_eq!(clear(&[]), "nothing runs, and nothing is stored\n");
    let (first, mut second) = (start(&[]), start(&["--store", &store]));
    for proxy in [&first, &second] {
        proxy.get("/a");
        proxy.get("/b");
    }
    let told = clear(&["--port", &second.address.port().to_string()]);
    assert_eq!(told, format!("port {}: 2 purged\n", second.address.port()));
    assert!(first.get("/a").is_hit() && !second.get("/a").is_hit());
    let told = clear(&[]);
    assert!(told.contains(&format!("port {}: 2 purged", first.address.port())), "{told}");
    assert!(told.contains(&format!("port {}: 1 purged", second.address.port())), "{told}");
    second.get("/a");
    second.stop();
    let told = clear(&["--store", &store, "--port", "1"]);
    assert!(told.contains("cache.db: 1 purged"), "{told}");
    let second = start(&["--store", &store]);
    assert!(!second.get("/a").is_hit());
    // Which one is meant must be said where it matters.
    for words in [&["stats"][..], &["explain", "/a"]] {
        let mut asked = command();
        let output = asked.env("XDG_RUNTIME_DIR", folder.path()).args(words).output();
        let told = refused(&output.expect("it runs"));
        assert!(told.contains("several proxies run, on ports"), "{words:?}: {told}");
    }
}

#[test]
fn what_is_stored_is_listed_and_shown() {
    let origin = Origin::script([
        on("GET /a").send(
            200,
            "Cache-Control: max-age=600; Vary: Accept; ETag: \"1\"; xkey: t1 t2",
            "hello",
        ),
        on("GET /old").send(404, "Cache-Control: max-age=60; Age: 100", "gone"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get_with("/a", "Accept: text/plain\r\n");
    proxy.get_with("/a", "Accept: text/plain\r\n");
    proxy.get("/old");
    let table = said(&proxy.tell(&["list"]));
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!((lines[1][0], lines[1][1], lines[1][4]), ("200", "5", "1"), "{table}");
    let columns = |line: &str| {
        line.find("/a").or(line.find("/old")).map_or(0, |_| line.find("http").unwrap_or(0))
    };
    let expected = table.lines().next().and_then(|head| head.find("URL"));
    assert!(table.lines().skip(1).all(|line| Some(columns(line)) == expected), "{table}");
    assert!(lines[1][5].ends_with("/a") && lines[2][5].ends_with("/old"), "{table}");
    let json = said(&proxy.tell(&["list", "--json"]));
    let listed: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (listed[0]["bytes"].as_u64(), listed[0]["vary"].as_str()),
        (Some(5), Some("Accept"))
    );
    assert!(listed[1]["fresh_for"].as_i64().expect("a number") < 0, "it is stale: {json}");
    let shown = said(&proxy.tell(&["show", "/a"]));
    for expected in [
        "200 OK, 5 bytes",
        "made for          accept: text/plain",
        "tags              t1 t2",
        "ETag: \"1\"",
        "fresh             for ",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let shown: Value =
        serde_json::from_str(&said(&proxy.tell(&["show", "/a", "--json"]))).expect("JSON");
    assert_eq!(shown[0]["selecting"]["accept"], "text/plain");
    assert_eq!(shown[0]["tags"][1], "t2");
    assert!(refused(&proxy.tell(&["show", "/none"])).contains("/none: nothing is stored"));
    origin.assert_finished();
}

#[test]
fn a_running_proxy_explains_what_it_has_and_does() {
    let origin = names(&["a"]);
    let proxy = Proxy::before(&origin, &[]);
    let told = said(&proxy.tell(&["explain", "/a"]));
    assert!(told.contains("it would be stored") && told.contains("This request:"), "{told}");
    proxy.get("/a");
    let told = said(&proxy.tell(&["explain", "/a"]));
    assert!(told.contains("Stored:") && told.contains("proxy; hit"), "{told}");
}

/// What container hosts and scripts ask.
#[test]
fn an_exit_code_says_whether_the_proxy_answers() {
    let (origin, runtime) = (Origin::script([]), TemporaryFolder::new());
    let quiet = |args: &[&str]| {
        let mut stats = command();
        stats.env("XDG_RUNTIME_DIR", runtime.path()).args(["stats", "--quiet"]).args(args);
        stats.output().expect("it runs")
    };
    let mut with_runtime = command();
    with_runtime.env("XDG_RUNTIME_DIR", runtime.path()).args(["--origin", &origin.url()]);
    let mut proxy = Proxy::start_as(with_runtime);
    let port = proxy.address.port().to_string();
    for args in [&[][..], &["--port", &port]] {
        let answer = quiet(args);
        assert!(answer.stdout.is_empty() && answer.stderr.is_empty(), "{answer:?}");
        assert_eq!(answer.status.code(), Some(0), "{args:?}");
    }
    assert!(refused(&quiet(&["--port", "1"])).contains("no proxy of yours"));
    proxy.stop();
    assert_eq!(refused(&quiet(&[])), "proxy: no proxy of yours runs; start one\n");
}

#[test]
fn counters_are_told_to_people_programs_and_prometheus() {
    let origin = names(&["a"]);
    let proxy = Proxy::before(&origin, &["--admin", "127.0.0.1:0"]);
    for _ in 0..3 {
        proxy.get("/a");
    }
    let told = said(&proxy.tell(&["stats"]));
    assert!(told.contains("hits                         2 (66%)"), "{told}");
    let json: Value = serde_json::from_str(&said(&proxy.tell(&["stats", "--json"]))).expect("JSON");
    let number = |name: &str| json[name].as_u64();
    assert_eq!((number("requests"), number("hits"), number("misses")), (Some(3), Some(2), Some(1)));
    assert_eq!((number("origin_requests_saved"), number("memory_responses")), (Some(2), Some(1)));
    assert_eq!(json["forwarded"]["uri-miss"], 1);
    assert_eq!(json["hit_latency"]["count"], 2);
    // The proxy has its history, whether or not it has a page.
    for span in ["minute", "hour"] {
        let number = |name: &str| json[span][name].as_u64();
        assert_eq!(
            (number("requests"), number("hits"), number("misses")),
            (Some(3), Some(2), Some(1))
        );
        assert!(number("seconds").is_some_and(|seconds| seconds <= 60), "{json}");
        assert_eq!(json[span]["forwarded"]["uri-miss"], 1);
        assert_eq!(json[span]["miss_latency"]["count"], 1);
        assert!(json[span]["connections"].is_null(), "a level is of now: {json}");
    }
    let admin = admin_address(&proxy);
    let metrics = Connection::open(admin).request("GET", "/metrics", "", "").reply().body();
    for line in [
        "proxy_requests_total 3",
        "proxy_hits_total 2",
        "proxy_forwarded_total{reason=\"uri-miss\"} 1",
        "proxy_bytes_sent_total 3",
        "proxy_origin_requests_saved_total 2",
        "proxy_latency_seconds_count{outcome=\"hit\"} 2",
        "proxy_latency_seconds_count{outcome=\"miss\"} 1",
        "proxy_latency_seconds_bucket{outcome=\"hit\",le=\"+Inf\"} 2",
        "proxy_memory_responses 1",
        "proxy_memory_evicted_total 0",
        "proxy_workers 1",
        "proxy_workers_busy 0",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}:\n{metrics}");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

fn admin_address(proxy: &Proxy) -> std::net::SocketAddr {
    let log = proxy.log();
    let line = log.lines().find_map(|line| line.split_once("control interface at http://"));
    line.expect("a line").1.trim().parse().expect("an address")
}

#[test]
fn over_tcp_the_control_interface_is_for_this_machine_or_who_has_the_token() {
    let folder = TemporaryFolder::new();
    let token = folder.file("token");
    fs::write(&token, "0123456789abcdef\n").expect("a file");
    let origin = names(&["a"]);
    let ask = |proxy: &Proxy, method: &str, target: &str, fields: &str| {
        let mut connection = Connection::open(admin_address(proxy));
        connection.send(format!("{method} {target} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n"));
        connection.reply().status
    };
    let open = Proxy::before(&origin, &["--admin", "127.0.0.1:0"]);
    assert_eq!(ask(&open, "GET", "/health", "Host: 127.0.0.1\r\n"), 200);
    assert_eq!(ask(&open, "GET", "/health", "Host: localhost:3001\r\n"), 200);
    assert_eq!(ask(&open, "GET", "/health", "Host: evil.test\r\n"), 403, "a rebound name");
    let from_a_page = "Host: 127.0.0.1\r\nOrigin: http://evil.test\r\n";
    assert_eq!(ask(&open, "POST", "/purge?all=1", from_a_page), 403);
    assert_eq!(ask(&open, "GET", "/purge?all=1", "Host: 127.0.0.1\r\n"), 405);
    assert_eq!(ask(&open, "POST", "/purge", "Host: 127.0.0.1\r\n"), 400);
    assert_eq!(ask(&open, "POST", "/purge?all=1", "Host: 127.0.0.1\r\n"), 200);
    assert_eq!(ask(&open, "GET", "/nothing", "Host: 127.0.0.1\r\n"), 404);
    assert_eq!(open.get("/metrics").status, 599, "on the clients' port it is the origin server's");
    let token = token.display().to_string();
    let closed = Proxy::before(&origin, &["--admin", "0.0.0.0:0", "--admin-token", &token]);
    let port = admin_address(&closed).port();
    let ask = |fields: &str| {
        let mut connection = Connection::open(([127, 0, 0, 1], port).into());
        connection.send(format!("GET /stats HTTP/1.1\r\nHost: any\r\n{fields}\r\n"));
        connection.reply().status
    };
    assert_eq!(ask(""), 401);
    let mut check = Connection::open(([127, 0, 0, 1], port).into());
    check.send("GET /health HTTP/1.1\r\nHost: any\r\n\r\n");
    assert_eq!(check.reply().status, 200, "a health check has no token");
    assert_eq!(ask("Authorization: Bearer 0123456789abcdeF\r\n"), 401);
    assert_eq!(ask("Authorization: Bearer 0123456789abcdef\r\n"), 200);
    let output = support::proxy::run(&["--admin", "0.0.0.0:3001"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("a loopback address, or --admin-token FILE beside it"), "{told}");
}

/// A slip of the pen, or a variable of a script that is not set, must not purge more than was meant.
#[test]
fn a_purge_that_is_not_clear_purges_nothing() {
    let proxy = Proxy::before(&names(&["a", "b"]), &["--admin", "127.0.0.1:0"]);
    let admin = admin_address(&proxy);
    let are_stored = || ["/a", "/b"].iter().all(|target| proxy.get(target).is_hit());
    assert!(!are_stored() && !are_stored() && are_stored(), "each is fetched, and then there");
    for query in [
        "",
        "?",
        "?prefix=",
        "?prefix",
        "?match=",
        "?url=",
        "?tag=",
        "?all=0",
        "?all=",
        "?all",
        "?all=no",
        "?stale=0",
        "?everything=1",
        "?prefix=/a&stale=1",
        "?url=/a&url=/b",
        "?all=1&all=1",
    ] {
        let mut connection = Connection::open(admin);
        connection.request("POST", &format!("/purge{query}"), "", "");
        let refused = connection.reply();
        let said = refused.body();
        assert_eq!((refused.status, said.contains("purge: ")), (400, true), "{query}: {said}");
    }
    for words in [["purge", "--prefix", ""], ["purge", "--match", ""], ["purge", "--tag", ""]] {
        let said = refused(&proxy.tell(&words));
        assert!(said.contains("is empty"), "{said}");
    }
    assert!(are_stored());
}

#[test]
fn purge_as_a_method_is_for_those_who_may() {
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "one"),
        on("GET /a").send(200, FRESH, "two"),
        on("PURGE /a").send(204, "", ""),
        on("GET /a").send(200, FRESH, "three"),
    ]);
    let proxy = Proxy::before(&origin, &["--allow-purge", "10.0.0.0/8,127.0.0.1"]);
    proxy.get("/a");
    let purged = proxy.ask("PURGE", "/a", "", "");
    assert_eq!((purged.status, purged.body().as_str()), (200, "purged 1\n"));
    assert_eq!(purged.head.field("cache-status"), "proxy");
    assert_eq!(
        proxy.ask("PURGE", "/a", "Accept: application/json\r\n", "").body(),
        "{\"purged\":0}\n"
    );
    assert_eq!(proxy.get("/a").body(), "two");
    let others = Proxy::before(&origin, &["--allow-purge", "10.0.0.0/8"]);
    let refused = others.ask("PURGE", "/a", "", "");
    assert_eq!((refused.status, refused.head.field("cache-status").as_str()), (403, "proxy"));
    // Without the flag it is one method among others, for the origin server.
    let without = Proxy::before(&origin, &[]);
    assert_eq!(without.ask("PURGE", "/a", "", "").status, 204);
    without.get("/a");
    origin.assert_finished();
}

/// Only what stores something makes a store: a slip of the pen in a path is said, and leaves no file.
#[cfg(feature = "sqlite")]
#[test]
fn commands_that_store_nothing_make_no_store() {
    let folder = TemporaryFolder::new();
    let path = folder.file("none.db");
    let store = format!("sqlite:{}", path.display());
    let absent = format!("--store {store}: no such file");
    let table: [(&[&str], &str); 7] = [
        (&["list"], &absent),
        (&["show", "http://o/a"], &absent),
        (&["show", "/a"], "/a: of which server? give the whole URL, or --origin"),
        (&["export", "-"], &absent),
        (&["purge", "--all"], &absent),
        (&["purge", "http://o/a"], &absent),
        (&["warm", "-"], "of which server? give --origin, or start a proxy"),
    ];
    for (words, expected) in table {
        let mut command = command();
        command.env("XDG_RUNTIME_DIR", folder.path()).args(words).args(["--store", &store]);
        let told = refused(&command.output().expect("the binary runs"));
        assert!(told.contains(expected), "{words:?}: {told}");
        assert!(!fs::exists(&path).expect("a folder"), "{words:?}");
    }
}

/// A store by itself may have what is of many origin servers: a whole URL says which is meant.
#[cfg(feature = "sqlite")]
#[test]
fn a_store_by_itself_is_shown_and_explained_without_a_running_proxy() {
    let origin = names(&["a"]);
    let (folder, url) = (TemporaryFolder::new(), format!("{}/a", origin.url()));
    let store = format!("sqlite:{}", folder.file("x.db").display());
    let mut filling = Proxy::before(&origin, &["--store", &store]);
    filling.get("/a");
    filling.stop();
    let tell = |words: &[&str]| {
        let mut command = command();
        command.env("XDG_RUNTIME_DIR", folder.path()).args(words).args(["--store", &store]);
        said(&command.output().expect("the binary runs"))
    };
    assert!(tell(&["show", &url]).contains(&url));
    assert!(tell(&["show", "/a", "--origin", &origin.url()]).contains(&url));
    let told = tell(&["explain", "/a", "--origin", &origin.url()]);
    assert!(told.starts_with("answered 200 OK without asking: proxy; hit"), "{told}");
    assert_eq!(origin.asked().len(), 1);
}
