//! Clients that read what is in a store behind memory, or on its way there, hold no worker while they wait: for the
//! origin server, or because they take nothing. There is one worker for them.

use std::io::Read;
use std::sync::mpsc::channel;
use std::thread;

use rusqlite::Connection as Database;

use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{FRONT, Proxy};
use super::support::seeded::Random;
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder};

const PART: usize = 2 << 20;

fn start(origin: &Origin, folder: &TemporaryFolder) -> Proxy {
    // Over tiny_http the one who fetches has a worker, too.
    let workers = if FRONT == "tiny-http" { "2" } else { "1" };
    start_with(origin, folder, workers)
}

fn start_with(origin: &Origin, folder: &TemporaryFolder, workers: &str) -> Proxy {
    let store = format!("sqlite:{}", folder.file("cache.sqlite").display());
    Proxy::before(origin, &["--store", &store, "--cache-memory", "1M", "--workers", workers])
}

fn fields() -> String {
    format!("Cache-Control: max-age=600; Content-Length: {}", 2 * PART)
}

#[test]
fn those_who_read_along_leave_the_workers_to_others() {
    let gate = Gate::new();
    let half = || Step::Repeat(vec![b'x'; 1 << 10], PART >> 10);
    let origin = Origin::script([
        on("GET /large").head(200, &fields()).then(half()).wait(&gate).then(half()),
        on("GET /small").send(200, "Cache-Control: max-age=600", "small"),
    ]);
    let (folder, large) = (TemporaryFolder::new(), 2 * PART);
    let proxy = start(&origin, &folder);
    let (begun, has_begun) = channel();
    let read = |mut client: Connection| {
        let begun = begun.clone();
        thread::spawn(move || {
            let mut content = vec![0; large];
            client.request("GET", "/large", "", "");
            assert_eq!(client.head().expect("a head").word(1), "200");
            let (first, rest) = content.split_at_mut(PART);
            client.stream.read_exact(first).expect("the first half");
            begun.send(()).expect("the test listens");
            client.stream.read_exact(rest).expect("the other half");
            assert!(content.iter().all(|byte| *byte == b'x'));
        })
    };
    // The first one's window is over the front of it by now: the others read what is in the store.
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(read(proxy.connect()));
        has_begun.recv_timeout(PATIENCE).expect("half of it");
    }
    // It has to be looked for in the store, by a worker that none of them holds.
    assert_eq!(proxy.get("/small").body(), "small");
    gate.open();
    for reader in readers {
        reader.join().expect("all of it");
    }
    origin.assert_finished();
}

#[test]
fn those_who_take_nothing_leave_the_workers_to_others() {
    let all = Step::Repeat(vec![b'x'; 1 << 10], (2 * PART) >> 10);
    let origin = Origin::script([
        on("GET /large").head(200, &fields()).then(all),
        on("GET /small").send(200, "Cache-Control: max-age=600", "small"),
    ]);
    let (folder, large) = (TemporaryFolder::new(), 2 * PART);
    let proxy = start(&origin, &folder);
    assert_eq!(proxy.get("/large").content.len(), large);
    let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.request("GET", "/large", "", "");
        // It is on its way, and no more of it is taken.
        assert!(client.head().expect("a head").first.contains("200"));
    }
    assert_eq!(proxy.get("/small").body(), "small");
    for client in &mut clients {
        let mut content = vec![0; large];
        client.stream.read_exact(&mut content).expect("all of it");
        assert!(content.iter().all(|byte| *byte == b'x'));
    }
    origin.assert_finished();
}

/// The origin server keeps as many waiting as there are workers: who has half of a stored body gets the other half.
#[test]
fn what_has_begun_goes_on_although_every_worker_waits() {
    // More than the system keeps for a client that takes nothing.
    let (gate, large) = (Gate::new(), 8 * PART);
    let slow = |name: &str| on(name).wait(&gate).send(200, "Cache-Control: no-store", "slow");
    let origin = Origin::script([
        on("GET /large")
            .head(200, &format!("Cache-Control: max-age=600; Content-Length: {large}"))
            .then(Step::Repeat(vec![b'x'; 1 << 10], large >> 10)),
        slow("GET /slow/1"),
        slow("GET /slow/2"),
    ]);
    let folder = TemporaryFolder::new();
    let proxy = start(&origin, &folder);
    assert_eq!(proxy.get("/large").content.len(), large);
    let mut client = proxy.connect();
    client.request("GET", "/large", "", "");
    assert!(client.head().expect("a head").first.contains("200"));
    let mut waiting = ["/slow/1", "/slow/2"].map(|target| {
        let mut connection = proxy.connect();
        connection.request("GET", target, "", "");
        connection
    });
    origin.wait_for(3);
    let mut content = vec![0; large];
    client.stream.read_exact(&mut content).expect("all of it");
    assert!(content.iter().all(|byte| *byte == b'x'));
    gate.open();
    assert!(waiting.iter_mut().all(|connection| connection.reply().body() == "slow"));
    origin.assert_finished();
}

/// Bodies of their own, read at once by clients of any pace, of which some leave: nobody has a byte of another one.
#[test]
fn readers_of_several_bodies_are_kept_apart() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    // Above a quarter of memory, and no two of one length.
    let count = |index: usize| 3_000 + 7 * index;
    let line = |name: &str| name.repeat(100);
    let origin = Origin::script(NAMES.iter().enumerate().map(|(index, name)| {
        let head = format!("Cache-Control: max-age=600; Content-Length: {}", 100 * count(index));
        let all = Step::Repeat(line(name).into_bytes(), count(index));
        on(&format!("GET /{name}")).head(200, &head).then(all)
    }));
    let folder = TemporaryFolder::new();
    // What is left over of clients that have gone waits in line, too; with these, all have a place there.
    let proxy = start_with(&origin, &folder, "4");
    thread::scope(|scope| {
        for seed in 0..12 {
            let (proxy, mut random) = (&proxy, Random::new(seed));
            scope.spawn(move || {
                let mut client = proxy.connect();
                for _ in 0..8 {
                    let index = random.below(NAMES.len());
                    client.request("GET", &format!("/{}", NAMES[index]), "", "");
                    let head = client.head().expect("a head");
                    let mut left = 100 * count(index);
                    let told = (head.word(1).to_string(), head.field("content-length"));
                    assert_eq!(told, ("200".to_string(), left.to_string()), "{seed}");
                    let leaves_at = if random.one_in(4) { random.below(left) } else { 0 };
                    while left > leaves_at {
                        let mut piece = vec![0; (1 + random.below(100_000)).min(left)];
                        client.stream.read_exact(&mut piece).expect("content");
                        assert!(
                            piece.iter().all(|byte| *byte == NAMES[index].as_bytes()[0]),
                            "{seed}"
                        );
                        left -= piece.len();
                    }
                    if left > 0 {
                        client = proxy.connect();
                    }
                }
            });
        }
    });
    origin.assert_finished();
}

/// Nothing of it is on the wire when the first read fails: a head, and then a connection that is closed, would say less
/// than an error does.
#[test]
fn content_that_cannot_be_read_from_its_first_byte_on_is_an_error() {
    let all = Step::Repeat(vec![b'x'; 1 << 10], (2 * PART) >> 10);
    let origin = Origin::script([
        on("GET /large").head(200, &fields()).then(all).always(),
        on("HEAD /large").head(200, &fields()).always(),
        on("GET /small").send(200, "Cache-Control: max-age=600", "small"),
    ]);
    let folder = TemporaryFolder::new();
    let proxy = start(&origin, &folder);
    assert_eq!(proxy.get("/large").content.len(), 2 * PART);
    let shell = Database::open(folder.file("cache.sqlite")).expect("a database");
    let damage = "UPDATE contents SET content = zeroblob(length(content))";
    shell.execute(damage, []).expect("rows");
    for number in 0..6 {
        let reply = proxy.get("/large");
        // The writer removes it as soon as it has nothing else to do: then it is fetched anew.
        if number > 0 && reply.status == 200 {
            assert!(reply.complete && !reply.is_hit());
            break;
        }
        assert_eq!((reply.status, reply.complete), (502, true));
        assert_eq!(reply.cache_status(), "proxy; detail=truncated");
        let head = proxy.ask("HEAD", "/large", "", "");
        assert_eq!((head.status, head.field("content-length")), (200, (2 * PART).to_string()));
    }
    assert_eq!(proxy.get("/small").body(), "small");
    origin.assert_finished();
}
