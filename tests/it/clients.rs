//! Clients and servers from outside: curl, requests, node, Java, Chromium, pip, npm, gunicorn.
//!
//! They are slow, and not everywhere: `scripts/test --clients` installs what it may, and names in `CLIENTS`
//! those that are there. Without a client's name in it, its test says so and does nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::TemporaryFolder;
use super::support::origin::{Origin, Rule, Step, on};
use super::support::proxy::{Proxy, command_of};

/// Whether a client is to be run.
pub fn is_there(client: &str) -> bool {
    let clients = std::env::var("CLIENTS").unwrap_or_default();
    let found = clients.split_whitespace().any(|name| name == client);
    if !found {
        println!(
            "SKIPPED: {client} is not among CLIENTS=\"{clients}\"; see scripts/test --clients"
        );
    }
    found
}

/// Runs a program to its end; what it has printed.
fn printed(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Clients, and the words with which they fetch the URL that is their last one and print what comes.
const FETCHERS: [(&str, &[&str]); 5] = [
    ("curl", &["curl", "-sf"]),
    (
        "requests",
        &["python3", "-c", "import requests, sys; print(requests.get(sys.argv[1]).text, end='')"],
    ),
    (
        "node",
        &[
            "node",
            "-e",
            "fetch(process.argv[1]).then(r => r.text()).then(t => process.stdout.write(t))",
        ],
    ),
    ("java", &["java", "FETCH"]),
    ("chromium", &["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]),
];
const FETCH: &str = "
    import java.net.URI;
    import java.net.http.*;
    class Fetch {
        public static void main(String[] arguments) throws Exception {
            var request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
            var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }";
const VARY: &str = "Content-Type: text/html; Cache-Control: max-age=600; \
                    Vary: Accept-Encoding, User-Agent, Accept, Accept-Language, Sec-Fetch-Mode";

/// What one client has recorded of a server that makes variants, all others replay.
#[test]
fn what_a_real_client_has_recorded_real_ones_replay() {
    let sources = TemporaryFolder::new();
    let source = sources.file("Fetch.java");
    fs::write(&source, FETCH).expect("a file");
    let fetch = |words: &[&str], proxy: &Proxy| {
        let mut command = command_of(words[0]);
        for word in &words[1..] {
            if *word == "FETCH" {
                command.arg(&source)
            } else {
                command.arg(word)
            };
        }
        command.arg(format!("http://{}/a", proxy.address));
        printed(command)
    };
    let fetchers: Vec<_> = FETCHERS.into_iter().filter(|(client, _)| is_there(client)).collect();
    for (recorder, words) in &fetchers {
        let folder = TemporaryFolder::new();
        let store = format!("sqlite:{}", folder.file("cache.db").display());
        // A browser asks for an icon, too.
        let icon = on("GET /favicon.ico").send(404, "Cache-Control: max-age=600", "").always();
        let origin = Origin::script([on("GET /a").send(200, VARY, "hello").always(), icon]);
        let mut proxy = Proxy::before(&origin, &["--store", &store]);
        assert!(fetch(words, &proxy).contains("hello"), "{recorder}");
        proxy.stop();
        let proxy = Proxy::before(&origin, &["--store", &store, "--cache-mode", "offline"]);
        for (client, words) in &fetchers {
            assert!(fetch(words, &proxy).contains("hello"), "{recorder}, replayed to {client}");
        }
        assert!(!proxy.get("/a").cache_status().contains("fwd"), "{recorder}");
    }
}

/// A file that is fetched once, and reused whatever client asks for it.
fn once(target: &str, content: Vec<u8>) -> Rule {
    let fields = format!("Cache-Control: max-age=600; Content-Length: {}", content.len());
    on(&format!("GET {target}")).head(200, &fields).then(Step::Send(content))
}

const WHEEL: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    wheel.writestr('house.py', 'ROOMS = 11\\n')
    wheel.writestr('house-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: house\\nVersion: 1.0\\n')
    wheel.writestr('house-1.0.dist-info/WHEEL',
                   'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr('house-1.0.dist-info/RECORD', '')
";

/// pip asks for the index anew each time; the file comes out of the cache.
#[test]
fn pip_downloads_a_file_once() {
    if !is_there("pip") {
        return;
    }
    let folder = TemporaryFolder::new();
    let name = "house-1.0-py3-none-any.whl";
    let mut make = command_of("python3");
    make.args(["-c", WHEEL]).arg(folder.file(name));
    printed(make);
    let wheel = fs::read(folder.file(name)).expect("a wheel");
    let index = format!("<!DOCTYPE html><a href=\"../../files/{name}\">{name}</a>");
    let html = "Content-Type: text/html; Cache-Control: max-age=600";
    let origin = Origin::script([
        on("GET /simple/house/").send(200, html, &index).always(),
        once(&format!("/files/{name}"), wheel.clone()),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for place in ["first", "second"] {
        let mut command = command_of("pip");
        command.args(["--isolated", "download", "--no-deps", "--no-cache-dir", "--index-url"]);
        command.arg(format!("http://{}/simple/", proxy.address));
        command.arg("--dest").arg(folder.file(place)).arg("house");
        printed(command);
        assert!(fs::read(folder.file(place).join(name)).expect("a file") == wheel, "{place}");
    }
    let is_wheel = |asked: &&super::support::origin::Asked| asked.head.text.contains("/files/");
    assert_eq!(origin.asked().iter().filter(is_wheel).count(), 1);
}

/// npm keeps a cache of its own; with an empty one, the tarball comes out of ours.
#[test]
fn npm_installs_a_package_that_is_fetched_once() {
    if !is_there("npm") {
        return;
    }
    let folder = TemporaryFolder::new();
    let package = r#"{"name":"house","version":"1.0.0"}"#;
    fs::write(folder.file("package.json"), package).expect("a file");
    fs::write(folder.file("index.js"), "module.exports = 11;\n").expect("a file");
    let mut pack = command_of("npm");
    pack.args(["pack", "--silent", "--offline"]).current_dir(folder.path());
    printed(pack);
    let tarball = fs::read(folder.file("house-1.0.0.tgz")).expect("a tarball");
    // The registry's own name: npm puts in its place that of the one it is told.
    let index = r#"{"name":"house","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"house",
        "version":"1.0.0","dist":{"tarball":"https://registry.npmjs.org/house/-/house-1.0.0.tgz"}}}}"#;
    let json = "Content-Type: application/json; Cache-Control: max-age=600";
    let origin = Origin::script([
        on("GET /house").send(200, json, index).always(),
        once("/house/-/house-1.0.0.tgz", tarball),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for place in ["first", "second"] {
        let mut command = command_of("npm");
        command.args(["install", "house", "--no-audit", "--no-fund", "--no-update-notifier"]);
        command.arg("--registry").arg(format!("http://{}/", proxy.address));
        command.arg("--prefix").arg(folder.file(place));
        command.arg("--cache").arg(folder.file(&format!("{place}-cache")));
        fs::create_dir(folder.file(place)).expect("a folder");
        command.current_dir(folder.file(place));
        printed(command);
        let installed = folder.file(place).join("node_modules/house/index.js");
        let installed = fs::read_to_string(installed).expect("a module");
        assert_eq!(installed, "module.exports = 11;\n", "{place}");
    }
    let is_tarball = |asked: &&super::support::origin::Asked| asked.head.text.contains(".tgz");
    assert_eq!(origin.asked().iter().filter(is_tarball).count(), 1);
}

const APPLICATION: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Length', '5'), ('Cache-Control', 'no-store')])
    return [b'hello']
";
/// The way to the server and back, each.
const DELAY: Duration = Duration::from_millis(20);

/// gunicorn, on a port of its own choice.
struct Gunicorn {
    child: Child,
    address: SocketAddr,
}

impl Gunicorn {
    fn start(folder: &TemporaryFolder) -> Self {
        fs::write(folder.file("house.py"), APPLICATION).expect("a file");
        let mut command = command_of("gunicorn");
        command.args(["--keep-alive", "2", "--worker-class", "gthread", "--threads", "4"]);
        command.args(["--bind", "127.0.0.1:0", "house:application"]);
        command.current_dir(folder.path()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("gunicorn runs");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("Listening at: http://") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a line") > 0, "gunicorn did not start");
        }
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|text| text.parse().ok()).expect("an address");
        // Whatever else it logs must not fill the pipe.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address }
    }
}

impl Drop for Gunicorn {
    fn drop(&mut self) {
        // It ends its workers then.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Passes bytes on after [`DELAY`], which is its subject: so it sleeps.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 65_536];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        thread::sleep(DELAY);
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// A relay to this server; its address, and how many connections it has had.
fn relay(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, count) = (listener.local_addr().expect("an address"), Arc::default());
    let connections: Arc<AtomicUsize> = Arc::clone(&count);
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(server) else { continue };
            connections.fetch_add(1, Ordering::Relaxed);
            let back = (far.try_clone().expect("a socket"), near.try_clone().expect("a socket"));
            thread::spawn(move || carry(near, far));
            thread::spawn(move || carry(back.0, back.1));
        }
    });
    (address, count)
}

/// RFC 9112 §9.3.1: the server closes a connection that it finds idle while a request is on its way. No
/// client learns of it.
#[test]
fn no_get_fails_where_the_server_closes_idle_connections() {
    if !is_there("gunicorn") {
        return;
    }
    let folder = TemporaryFolder::new();
    let server = Gunicorn::start(&folder);
    let (address, connections) = relay(server.address);
    // Each event loop has connections of its own.
    let proxy = Proxy::start(&["--origin", &format!("http://{address}"), "--threads", "1"]);
    let mut failed = BTreeSet::new();
    // gunicorn closes what is idle for two seconds: at once, and before version 27 within the third one.
    for number in 0..30 {
        let pause = Duration::from_millis(1_700 + 40 * number);
        let reply = proxy.get("/a");
        if (reply.status, reply.body().as_str()) != (200, "hello") {
            failed.insert((number, reply.status, reply.cache_status()));
        }
        thread::sleep(pause);
    }
    assert!(failed.is_empty(), "{failed:?}");
    let connections = connections.load(Ordering::Relaxed);
    assert!((2..30).contains(&connections), "some are reused, some are closed: {connections}");
}
