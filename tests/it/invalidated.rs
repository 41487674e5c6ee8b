//! What becomes of those who wait for a response, and of those who come later, when it is invalidated on its
//! way: they collapse again, nobody who came later is given it, and what was not meant is not touched.
//! RFC 9111 §4, §4.4.

use std::thread;

use super::support::TemporaryFolder;
use super::support::origin::{Gate, Origin, on};
use super::support::proxy::Proxy;
use super::support::wire::{Connection, Reply};

const FRESH: &str = "Cache-Control: max-age=600; Surrogate-Key: red";
/// How much a body has before the origin server is told to go on.
const BEGINNING: usize = 7_000;
/// More than a quarter of the least memory.
const BODY: usize = 20_000;

/// How something is invalidated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// What somebody tells the proxy.
    Words(&'static [&'static str]),
    /// A request of this method and target.
    Request(&'static str, &'static str),
}

impl By {
    fn is_carried_out(self, proxy: &Proxy) {
        match self {
            Self::Words(words) => {
                let told = proxy.tell(words);
                assert!(told.status.success(), "{told:?}");
            }
            Self::Request(method, target) => {
                assert_eq!(proxy.ask(method, target, "", "").status, 200, "{method} {target}");
            }
        }
    }
}

/// All ways of invalidating `/a`.
const MEANT: [By; 8] = [
    By::Words(&["purge", "/a"]),
    By::Words(&["purge", "--prefix", "/"]),
    By::Words(&["purge", "--match", "*/a"]),
    By::Words(&["purge", "--all"]),
    By::Words(&["--clear-cache", "--store", "memory"]),
    By::Request("PURGE", "/a"),
    By::Request("POST", "/a"),
    TAG,
];
/// It is known with the head whether this is meant.
const TAG: By = By::Words(&["purge", "--tag", "red"]);
/// Some that mean something else.
const NOT_MEANT: [By; 6] = [
    By::Words(&["purge", "/b"]),
    By::Words(&["purge", "--prefix", "/b"]),
    By::Words(&["purge", "--match", "*/b"]),
    By::Words(&["purge", "--tag", "green"]),
    By::Words(&["purge", "--stale"]),
    By::Request("POST", "/b"),
];

/// Memory alone; something behind it; and bodies that go there piece by piece.
fn stores(folder: &TemporaryFolder, number: usize) -> Vec<Vec<String>> {
    let disk =
        |name: &str| format!("sqlite:{}", folder.file(&format!("{name}{number}.db")).display());
    let text = |flags: &[&str]| flags.iter().map(ToString::to_string).collect();
    let mut all = vec![text(&[])];
    if cfg!(feature = "sqlite") {
        all.push(text(&["--store", &disk("roomy")]));
        all.push(text(&["--store", &disk("spooled"), "--cache-memory", "64K"]));
    }
    all
}

fn start(origin: &Origin, flags: &[String]) -> Proxy {
    let mut all = vec!["--workers", "8", "--allow-purge", "127.0.0.1"];
    all.extend(flags.iter().map(String::as_str));
    Proxy::before(origin, &all)
}

fn body(letter: &str) -> String {
    letter.repeat(BODY)
}

/// An origin server that sends old content, waiting at the gate before its head or in the middle of it, and
/// then new content.
fn origin(before_head: bool, gates: &[Gate; 2]) -> Origin {
    let length = format!("{FRESH}; Content-Length: {BODY}");
    let old = body("o");
    let first = if before_head {
        on("GET /a").wait(&gates[0]).head(200, &length).bytes(&old)
    } else {
        let (beginning, rest) = old.split_at(BEGINNING);
        on("GET /a").head(200, &length).bytes(beginning).wait(&gates[0]).bytes(rest)
    };
    Origin::script([
        first,
        on("GET /a").wait(&gates[1]).send(200, FRESH, &body("n")),
        on("POST /a").send(200, "", "").always(),
        on("POST /b").send(200, "", "").always(),
    ])
}

fn gets(origin: &Origin) -> usize {
    origin.asked().iter().filter(|asked| asked.head.word(0) == "GET").count()
}

fn ask(proxy: &Proxy, count: usize) -> Vec<Connection> {
    let open = |_| {
        let mut connection = proxy.connect();
        connection.request("GET", "/a", "", "");
        connection
    };
    (0..count).map(open).collect()
}

fn replies(connections: Vec<Connection>) -> Vec<Reply> {
    let read = |mut connection: Connection| thread::spawn(move || connection.reply());
    let threads: Vec<_> = connections.into_iter().map(read).collect();
    threads.into_iter().map(|thread| thread.join().expect("a reply")).collect()
}

fn wait_for_gets(origin: &Origin, by: By, count: usize) {
    origin.wait_for(count + usize::from(matches!(by, By::Request("POST", _))));
}

/// Invalidated before its head has come: who asked first gets it and is told that it is not stored; all
/// others get what one more request brings.
#[test]
fn those_who_wait_for_what_is_invalidated_collapse_again() {
    let folder = TemporaryFolder::new();
    for (number, by) in MEANT.into_iter().enumerate() {
        for flags in stores(&folder, number) {
            let gates = [Gate::new(), Gate::new()];
            let origin = origin(true, &gates);
            let proxy = start(&origin, &flags);
            let first = ask(&proxy, 1);
            origin.wait_for(1);
            let mut others = ask(&proxy, 9);
            by.is_carried_out(&proxy);
            others.extend(ask(&proxy, 5));
            if by != TAG {
                // Who comes later asks anew at once, however long the old response takes.
                wait_for_gets(&origin, by, 2);
            }
            gates[0].open();
            let first = replies(first).remove(0);
            assert!(first.complete && first.body() == body("o"), "{by:?} {flags:?}");
            assert_eq!(first.cache_status(), "proxy; fwd=uri-miss; fwd-status=200; detail=cleared");
            wait_for_gets(&origin, by, 2);
            gates[1].open();
            for reply in replies(others) {
                let told = reply.cache_status();
                assert!(reply.complete, "{by:?} {flags:?}: {told}");
                assert!(reply.body() == body("n"), "{by:?} {flags:?}: {told}: {:.9}", reply.body());
                assert!(!told.contains("hit-for-miss"), "{by:?} {flags:?}: {told}");
            }
            let later = proxy.get("/a");
            assert!(later.is_hit() && later.body() == body("n"), "{by:?} {flags:?}");
            assert_eq!(gets(&origin), 2, "{by:?} {flags:?}");
        }
    }
}

/// Invalidated while it is read: who reads it reads on, and who comes later gets what one more request
/// brings.
#[test]
fn what_is_invalidated_while_it_grows_is_given_to_nobody_else() {
    let folder = TemporaryFolder::new();
    for (number, by) in MEANT.into_iter().enumerate() {
        for flags in stores(&folder, number) {
            let gates = [Gate::new(), Gate::new()];
            let origin = origin(false, &gates);
            let proxy = start(&origin, &flags);
            let mut first = ask(&proxy, 10);
            for client in &mut first {
                assert_eq!(client.head().expect("a head").word(1), "200");
            }
            by.is_carried_out(&proxy);
            let later = ask(&proxy, 5);
            wait_for_gets(&origin, by, 2);
            gates[1].open();
            for reply in replies(later) {
                let told = reply.cache_status();
                assert!(reply.complete, "{by:?} {flags:?}: {told}");
                assert!(reply.body() == body("n"), "{by:?} {flags:?}: {told}: {:.9}", reply.body());
            }
            gates[0].open();
            for mut client in first {
                let mut content = vec![0; BODY];
                std::io::Read::read_exact(&mut client.stream, &mut content).expect("all of it");
                assert!(content == body("o").as_bytes(), "{by:?} {flags:?}");
            }
            let later = proxy.get("/a");
            assert!(later.is_hit() && later.body() == body("n"), "{by:?} {flags:?}");
            assert_eq!(gets(&origin), 2, "{by:?} {flags:?}");
        }
    }
}

/// What means something else changes nothing: one request for all, and it is stored.
#[test]
fn what_is_not_meant_is_shared_and_stored() {
    let folder = TemporaryFolder::new();
    for before_head in [true, false] {
        for (number, by) in NOT_MEANT.into_iter().enumerate() {
            for flags in stores(&folder, number + usize::from(before_head) * 10) {
                let gates = [Gate::new(), Gate::new()];
                let origin = origin(before_head, &gates);
                let mut proxy = start(&origin, &flags);
                let mut clients = ask(&proxy, 5);
                origin.wait_for(1);
                by.is_carried_out(&proxy);
                clients.extend(ask(&proxy, 5));
                gates[0].open();
                for reply in replies(clients) {
                    let told = reply.cache_status();
                    assert!(reply.body() == body("o"), "{by:?} {flags:?}: {told}");
                    assert!(!told.contains("cleared"), "{by:?} {flags:?}: {told}");
                }
                assert!(proxy.get("/a").is_hit(), "{by:?} {flags:?}");
                if !flags.is_empty() {
                    proxy.stop();
                    let proxy = start(&origin, &flags);
                    assert!(proxy.get("/a").is_hit(), "{by:?} {flags:?}: it is in the file");
                }
                assert_eq!(gets(&origin), 1, "{by:?} {flags:?}");
            }
        }
    }
}

/// A validation that is overtaken by a purge: nobody is told that it is stored, and nothing is.
#[test]
fn what_is_purged_while_it_is_validated_is_not_stored_again() {
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60; Age: 60; ETag: \"1\"", "old"),
        on("GET /a").having("If-None-Match: \"1\"").wait(&gate).send(304, FRESH, ""),
        // Any number: one of the others may look at the store while the purge is being carried out.
        on("GET /a").send(200, FRESH, "new").always(),
    ]);
    let proxy = Proxy::before(&origin, &["--allow-purge", "127.0.0.1"]);
    proxy.get("/a");
    let first = ask(&proxy, 1);
    origin.wait_for(2);
    let others = ask(&proxy, 5);
    By::Request("PURGE", "/a").is_carried_out(&proxy);
    gate.open();
    let first = replies(first).remove(0);
    assert_eq!(first.body(), "old");
    let told = first.cache_status();
    assert!(told.ends_with("detail=cleared") && !told.contains("stored"), "{told}");
    assert!(replies(others).iter().all(|reply| reply.body() == "new"));
    assert!(proxy.get("/a").body() == "new");
    origin.assert_finished();
}

/// Something is purged again and again while it is fetched: whoever was there before has an answer with the
/// second one at the latest, and the origin server is asked once a round.
#[test]
fn nobody_waits_for_ever_for_what_is_invalidated_again_and_again() {
    let gates = [Gate::new(), Gate::new()];
    let origin = Origin::script([
        on("GET /a").wait(&gates[0]).send(200, FRESH, "1"),
        on("GET /a").wait(&gates[1]).send(200, FRESH, "2"),
        on("GET /a").send(200, FRESH, "3").always(),
    ]);
    let proxy = start(&origin, &[]);
    let first = ask(&proxy, 1);
    origin.wait_for(1);
    let others = ask(&proxy, 20);
    for (round, gate) in gates.iter().enumerate() {
        origin.wait_for(round + 1);
        By::Request("PURGE", "/a").is_carried_out(&proxy);
        gate.open();
    }
    assert_eq!(replies(first)[0].body(), "1");
    let bodies: Vec<String> = replies(others).iter().map(Reply::body).collect();
    // Those who came back after the second purge have the third answer.
    assert!(bodies.iter().all(|body| body == "2" || body == "3"), "{bodies:?}");
    assert!(gets(&origin) <= 3, "{} requests", gets(&origin));
}

/// RFC 9111 §4.4: the origin server has died over it, and nobody knows what it has done.
#[test]
fn an_unsafe_request_without_an_answer_invalidates() {
    let origin = Origin::script([
        on("GET /a").send(200, "Cache-Control: max-age=60", "old"),
        on("POST /a").close(),
        on("GET /a").send(200, "Cache-Control: max-age=60", "new"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    assert_eq!(proxy.get("/a").body(), "old");
    let mut connection = proxy.connect();
    connection.request("POST", "/a", "", "change");
    assert_eq!(connection.reply().status, 502);
    assert_eq!(proxy.get("/a").body(), "new");
}
