//! `docs/troubleshooting.md`: each line that it quotes is one that the program prints, and each error that the proxy
//! makes by itself is on its table.
//!
//! What can be brought about in some milliseconds is run; of the rest ([`NOT_RUN`]) the words are in the source.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use caching_proxy::message::request::RequestError;
use caching_proxy::origin::OriginError;
use http::{Method, StatusCode};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;

use super::recipes::numberless;
use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command, command_of};

/// What begins so is not run here, because it takes a full disk, another file system, an older program or another
/// user; and the words of it that are in the source.
const NOT_RUN: [(&str, &[&str]); 13] = [
    (
        "proxy: port 80:",
        &["no permission; ports below 1024 are the system's, choose a higher --port"],
    ),
    (
        "[WARN] store …: the disk is full;",
        &["the disk is full; see --cache-disk", "nothing is written to it until it works again"],
    ),
    ("[WARN] --access-log", &["lines are lost since the start"]),
    ("[INFO] store …: on a network;", &["on a network; no other process can use it meanwhile"]),
    ("[WARN] store …: cannot be written;", &["cannot be written; what is in it is used as it is"]),
    ("[WARN] store …: of an older", &["of an older version; its contents are wiped"]),
    ("[WARN] accepting connections:", &["accepting connections:", "; trying again"]),
    ("proxy: every worker", &["every worker is busy and the queue is full; see --workers"]),
    (
        "proxy: too many connections",
        &["proxy: too many connections speak another protocol already"],
    ),
    (
        "the origin server closed the connection in the middle",
        &["the origin server closed the connection in the middle of the response"],
    ),
    // The words of a library.
    ("…: no TLS (received fatal alert: ProtocolVersion)", &["no TLS ("]),
    ("(no content)", &["RANGE_NOT_SATISFIABLE"]),
    ("request line: …", &["request line: {what}"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).expect("a document")
}

/// The lines of its blocks of text.
fn quoted_lines(page: &str) -> Vec<String> {
    let (mut lines, mut is_text) = (Vec::new(), false);
    for line in page.lines().map(str::trim) {
        match line.strip_prefix("```") {
            Some(language) => is_text = language == "text",
            None if is_text => lines.push(line.to_string()),
            None => {}
        }
    }
    lines
}

/// The cells of the table below a heading, a row each, without backticks around them.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(&format!("## {heading}\n")).expect("the heading");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().trim_matches('`').to_string()).collect()
    };
    rows.map(cells).collect()
}

/// Is this line what the page shows? `…` stands for anything, and numbers may differ.
fn is_quoted_as(quoted: &str, line: &str) -> bool {
    let (quoted, line) = (numberless(quoted), numberless(line));
    let mut pieces = quoted.split('…');
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let mut ends_open = false;
    for piece in pieces {
        ends_open = piece.is_empty();
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    ends_open || rest.is_empty()
}

/// All of the source, with strings that go over several lines as one.
fn source() -> String {
    fn collect(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, all);
            } else {
                all.push_str(&fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut all = String::new();
    collect(&root().join("src"), &mut all);
    let mut joined = String::new();
    for piece in all.split("\\\n") {
        joined.push_str(if joined.is_empty() { piece } else { piece.trim_start() });
    }
    joined
}

/// Panics unless each quoted line was printed, or is one of [`NOT_RUN`].
fn assert_printed(quoted: &[String], printed: &[String]) {
    let source = source();
    for line in quoted {
        if printed.iter().any(|other| is_quoted_as(line, other)) {
            continue;
        }
        let words = NOT_RUN.iter().find(|(beginning, _)| line.starts_with(beginning));
        let Some((_, words)) = words else {
            panic!("the page quotes\n{line}\nand what was printed is\n{}", printed.join("\n"));
        };
        for word in *words {
            assert!(source.contains(word), "{word:?} is not in the source any more");
        }
    }
}

/// What the binary prints to stderr before it ends.
fn said(words: &[&str], variable: Option<(&str, &str)>) -> Vec<String> {
    let runtime = TemporaryFolder::new();
    // What is accepted after all would serve for ever.
    let mut command = command_of("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_proxy")]).args(words);
    command.env("XDG_RUNTIME_DIR", runtime.path()).envs(variable);
    let output = command.output().expect("the binary runs");
    assert!(matches!(output.status.code(), Some(1 | 2)), "{words:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).lines().map(without_time).collect()
}

/// A line of the log without its beginning, which is the time.
fn without_time(line: &str) -> String {
    let is_time = line.starts_with("20");
    let rest = line.split_once(' ').filter(|_| is_time).map(|(_, rest)| rest);
    rest.unwrap_or(line).to_string()
}

/// What a running proxy has logged once this is in it.
fn logged(proxy: &Proxy, text: &str) -> Vec<String> {
    proxy.wait_for_log(text);
    proxy.log().lines().map(without_time).collect()
}

fn wrong_command_lines(folder: &TemporaryFolder) -> Vec<String> {
    let file = |name: &str, content: &str| {
        fs::write(folder.file(name), content).expect("a file");
        folder.file(name).display().to_string()
    };
    let (no_certificate, token) = (file("ca.pem", "none"), file("token", "short"));
    let admin = ["--port", "0", "--admin", "127.0.0.1:0", "--admin-token", &token];
    let cases: [&[&str]; 15] = [
        &["--port", "0", "--host", "192.0.2.1"],
        &["--prot", "1"],
        &["--default-ttl", "500ms"],
        &["--port"],
        &["--port", "1", "--port", "2"],
        &["https://dummyjson.com"],
        &["serve"],
        &["--port", "0", "--origin", "dummyjson.com"],
        &["--port", "0", "--store", "sqlite:/proc/cache.db"],
        &["--port", "0", "--ca-cert", &no_certificate],
        &["--admin", "0.0.0.0:3001"],
        &admin,
        &["--port", "0", "--host", "0.0.0.0", "--front", "tiny-http"],
        &["stats"],
        &["stats", "--port", "3000"],
    ];
    let mut all: Vec<String> = cases.iter().flat_map(|words| said(words, None)).collect();
    all.extend(said(&[], Some(("CACHING_PROXY_PORT", "abc"))));
    for old in [("PROXY_PORT", "tcp://192.0.2.1:80"), ("PROXY_CACHE_TTL", "60")] {
        all.extend(said(&["--port", "0", "--origin", "no-url"], Some(old)));
    }
    all
}

fn ports_in_use() -> Vec<String> {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let taken = port(&other).to_string();
    let running = Proxy::start(&[]);
    let own = running.address.port().to_string();
    let mut all: Vec<String> =
        [taken, own].iter().flat_map(|port| said(&["--port", port], None)).collect();
    // Another test may take a port between the two who want it; not five in a row.
    for _ in 0..5 {
        let free = port(&TcpListener::bind("127.0.0.1:0").expect("a port")).to_string();
        let itself = format!("http://localhost:{free}");
        all.extend(said(&["--port", &free, "--origin", &itself], None));
        if all.iter().any(|line| line.contains("this is the proxy itself")) {
            break;
        }
    }
    all
}

/// SQLite files that cannot be used, or not yet; and Redis.
fn stores(folder: &TemporaryFolder) -> Vec<String> {
    let path = |name: &str| folder.file(name);
    let store = |name: &str| format!("sqlite:{}", path(name).display());
    for name in ["locked.db", "newer.db"] {
        Proxy::start(&["--store", &store(name)]).stop();
    }
    let mut all = Vec::new();
    for (name, change) in [
        ("newer.db", "PRAGMA user_version = 999"),
        ("foreign.db", "CREATE TABLE t (x); PRAGMA application_id = 77"),
    ] {
        let database = rusqlite::Connection::open(path(name)).expect("a file");
        database.execute_batch(change).expect("a change");
        drop(database);
        all.extend(said(&["--port", "0", "--store", &store(name)], None));
    }
    fs::write(path("damaged.db"), "SQLite format 3\0 and no more").expect("a file");
    let damaged = Proxy::start(&["--store", &store("damaged.db")]);
    all.extend(logged(&damaged, "begun anew"));
    let holder = rusqlite::Connection::open(path("locked.db")).expect("a file");
    holder.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let origin = Origin::script([on("GET /a").send(200, "", "x")]);
    let flags = ["--store", &store("locked.db"), "--store-lock-timeout", "50ms"];
    let locked = Proxy::before(&origin, &flags);
    locked.get("/a");
    all.extend(logged(&locked, "another process holds it"));
    // Nobody listens at port 1.
    all.extend(logged(&Proxy::start(&["--store", "redis://127.0.0.1:1"]), "memory alone is used"));
    all
}

fn warnings_of_the_start(folder: &TemporaryFolder) -> Vec<String> {
    let weak = ["--share-credentials", "--cache-mode", "force", "--admin-token", "none"];
    let mut all = logged(&Proxy::start(&weak), "--admin-token");
    let mut few = command_of("bash");
    few.args(["-c", "ulimit -n 300; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_proxy")]);
    all.extend(logged(&Proxy::start_as(few), "file descriptors"));
    let cut = on("GET /cut").head(200, "Content-Length: 9").bytes("x").close();
    let origin = Origin::script([cut.always()]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get("/cut");
    all.extend(logged(&proxy, "in the middle of the response"));
    // Others may enter the folder for sockets.
    let open = folder.file("caching-proxy");
    fs::create_dir(&open).expect("a folder");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut unseen = command();
    unseen.env("XDG_RUNTIME_DIR", folder.path());
    all.extend(logged(&Proxy::start_as(unseen), "no control socket"));
    all
}

/// Two proxies of one user.
fn several_proxies() -> Vec<String> {
    let runtime = TemporaryFolder::new();
    let start = || {
        let mut command = command();
        command.env("XDG_RUNTIME_DIR", runtime.path());
        Proxy::start_as(command)
    };
    let _both = [start(), start()];
    let mut stats = command();
    let output = stats.env("XDG_RUNTIME_DIR", runtime.path()).arg("stats").output();
    let text = output.expect("the binary runs").stderr;
    String::from_utf8_lossy(&text).lines().map(str::to_string).collect()
}

/// Bytes, sent to an address of the proxy, and the answer to them.
fn answer(proxy: &Proxy, bytes: &str) -> (u16, String) {
    let mut connection = proxy.connect();
    connection.send(bytes);
    let reply = connection.reply_to("POST").expect("a response");
    (reply.status, reply.body().trim_end().to_string())
}

/// The page that refuses.
fn refusals_of_the_page() -> Vec<String> {
    let proxy = Proxy::start(&["--admin", "127.0.0.1:0"]);
    let log = proxy.log();
    let address = log.lines().find_map(|line| line.split_once("control interface at http://"));
    let address = address.expect("a line").1.trim().parse().expect("an address");
    let ask = |head: &str| {
        let mut connection = super::support::wire::Connection::open(address);
        let reply = connection.send(format!("{head}\r\n\r\n")).reply_to("POST");
        reply.expect("a response").body().trim_end().to_string()
    };
    let host = format!("Host: {address}");
    vec![
        ask("GET / HTTP/1.1\r\nHost: shop.example"),
        ask(&format!("GET /stats HTTP/1.1\r\n{host}\r\nOrigin: http://shop.example")),
        ask(&format!("POST /purge?all=1 HTTP/1.1\r\n{host}\r\nSec-Fetch-Site: same-origin")),
    ]
}

#[test]
fn what_the_page_quotes_is_what_is_printed() {
    let folder = TemporaryFolder::new();
    // Together: each waits for programs that start.
    let mut printed: Vec<String> = thread::scope(|scope| {
        let groups = [
            scope.spawn(|| wrong_command_lines(&folder)),
            scope.spawn(ports_in_use),
            scope.spawn(|| stores(&folder)),
            scope.spawn(|| warnings_of_the_start(&folder)),
            scope.spawn(several_proxies),
            scope.spawn(refusals_of_the_page),
        ];
        groups.into_iter().flat_map(|group| group.join().expect("no panic")).collect()
    });
    let proxy = Proxy::start(&[]);
    printed.push(answer(&proxy, "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n").1);
    let page = page();
    for (beginning, _) in NOT_RUN {
        assert!(page.contains(beginning), "{beginning:?} is not on the page any more");
    }
    let quoted = quoted_lines(&page);
    assert!(quoted.len() > 30, "lines are missing: {quoted:?}");
    assert_printed(&quoted, &printed);
}

/// One of each error of a request, with the status and the words for the client.
fn request_errors() -> Vec<(u16, String)> {
    let all = [
        RequestError::Target,
        RequestError::TargetTooLong,
        RequestError::TooManyFields(100),
        RequestError::FieldsTooLarge(65_536),
        RequestError::Line("the method is no token"),
        RequestError::Version,
        RequestError::Expectation("more".to_string()),
        RequestError::LengthRequired,
        RequestError::Late("head"),
        RequestError::Late("content"),
        RequestError::Field("x".to_string()),
        RequestError::Framing("a framing field is repeated"),
        RequestError::TransferCoding("gzip".to_string()),
        RequestError::Host("is missing"),
        RequestError::MethodRefused(Method::CONNECT),
        RequestError::MethodRefused(Method::TRACE),
        RequestError::Escapes,
        RequestError::ContentTooLong(10),
        RequestError::ContentCut,
    ];
    all.iter().map(|error| (error.status().as_u16(), error.to_string())).collect()
}

/// The same for what goes wrong at the origin server.
fn origin_errors() -> Vec<(u16, String)> {
    let origin = || "http://127.0.0.1:8000".to_string();
    let what = || "unexpected end of file".to_string();
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let limit = Duration::from_secs(30);
    let through = format!("{} through proxy http://127.0.0.1:3128", origin());
    let down = OriginError::Connect { origin: origin(), source: refused() };
    let all = [
        OriginError::Resolve { origin: origin() },
        OriginError::Connect { origin: through, source: refused() },
        OriginError::Tls { origin: origin(), what: what() },
        OriginError::ConnectTimeout { origin: origin(), limit },
        OriginError::Timeout { origin: origin(), limit },
        OriginError::Closed { origin: origin(), what: what() },
        OriginError::Cut { origin: origin(), what: what() },
        OriginError::Invalid { origin: origin(), what: what() },
        OriginError::Unsent { what: what() },
        OriginError::Redirects { followed: 10 },
        OriginError::Down { status: StatusCode::BAD_GATEWAY, text: down.to_string() },
        OriginError::Busy { seconds: 3 },
        down,
    ];
    all.iter().map(|error| (error.status().as_u16(), error.to_string())).collect()
}

/// What running proxies answer by themselves.
fn answers() -> Vec<(u16, String)> {
    let origin = Origin::script([
        on("GET /busy").send(429, "Retry-After: 30; Cache-Control: no-store", "wait"),
        on("GET /variant").send(
            200,
            "Cache-Control: max-age=60; Vary: Accept-Encoding; Content-Encoding: gzip",
            "x",
        ),
    ]);
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let purges = ["--allow-purge", "192.0.2.1", "--store", &store];
    let mut proxy = Proxy::before(&origin, &purges);
    let head = |method: &str, target: &str, fields: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    };
    let mut all = vec![
        answer(&proxy, "\x16\x03\x01\x02\x00\x01\x00\x01\x00"),
        answer(&proxy, &head("PURGE", "/a", "")),
        answer(&proxy, &head("GET", "/a", "Cache-Control: only-if-cached\r\n")),
        answer(&proxy, &head("GET", "/a", &"Via: 1.1 proxy\r\n".repeat(20))),
    ];
    proxy.get_with("/busy", "");
    all.push(answer(&proxy, &head("GET", "/busy", "")));
    proxy.get_with("/variant", "Accept-Encoding: gzip\r\n");
    proxy.stop();
    let offline = Proxy::before(&origin, &["--store", &store, "--cache-mode", "offline"]);
    all.push(answer(&offline, &head("GET", "/nothing", "")));
    all.push(answer(&offline, &head("GET", "/variant", "")));
    all
}

/// Each error has a row, and each row is of an error.
#[test]
fn the_table_of_errors_has_those_that_the_proxy_makes() {
    let mut made = request_errors();
    made.extend(origin_errors());
    made.extend(answers());
    let rows = rows(&page(), "An error from the proxy");
    let fits = |row: &[String], status: u16, text: &str| {
        row[0].split(", ").any(|one| one == status.to_string()) && is_quoted_as(&row[1], text)
    };
    for (status, text) in &made {
        assert!(rows.iter().any(|row| fits(row, *status, text)), "no row for {status} {text}");
    }
    for row in &rows {
        assert!(row.len() == 3 && !row[2].is_empty(), "{row:?}");
        if !made.iter().any(|(status, text)| fits(row, *status, text)) {
            assert_printed(&row[1..2], &[]);
        }
    }
}

/// A server whose bytes are no TLS.
fn plain_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    url
}

#[test]
fn each_kind_of_tls_error_has_a_row() {
    let folder = TemporaryFolder::new();
    let file = folder.file("ca.pem").display().to_string();
    let key = KeyPair::generate().expect("a key");
    let made = |name: &str, year| {
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("a name");
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let origin = Origin::script_tls_as([], vec![certificate.der().clone()], &key);
        (origin, certificate.pem())
    };
    let (current, _) = made("localhost", 4000);
    let (other, other_pem) = made("other.example", 4000);
    let (past, past_pem) = made("localhost", 2020);
    let ask = |url: &str, pem: &str| {
        fs::write(&file, pem).expect("a file");
        let trusting = ["--origin", url, "--ca-cert", &file];
        let words = if pem.is_empty() { &trusting[..2] } else { &trusting[..] };
        Proxy::start(words).get("/a").body().trim_end().to_string()
    };
    let at = |origin: &Origin| format!("https://localhost:{}", origin.port());
    let printed = [
        ask(&at(&current), ""),
        ask(&at(&other), &other_pem),
        ask(&at(&past), &past_pem),
        ask(&plain_server(), ""),
    ];
    let rows = rows(&page(), "TLS errors");
    for text in &printed {
        assert!(rows.iter().any(|row| is_quoted_as(&row[0], text)), "no row for {text}");
    }
    let quoted: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_printed(&quoted, &printed);
}
