//! Clients that read what is in a store behind memory, or on its way there, hold no worker while they wait: for the
//! origin server, or because they take nothing. The event front, with one worker.

use std::io::Read;
use std::thread;

use super::support::TemporaryFolder;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::Proxy;
use super::support::wire::Connection;

const PART: usize = 2 << 20;

fn start(origin: &Origin, folder: &TemporaryFolder) -> Proxy {
    let store = format!("sqlite:{}", folder.file("cache.sqlite").display());
    Proxy::before(origin, &["--store", &store, "--cache-memory", "1M", "--workers", "1"])
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
    let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.request("GET", "/large", "", "");
    }
    origin.wait_for(1);
    // It has to be looked for in the store, on the one worker.
    assert_eq!(proxy.get("/small").body(), "small");
    gate.open();
    let ended = thread::scope(|scope| {
        let read = |mut client: Connection| scope.spawn(move || client.reply().content.len());
        let threads: Vec<_> = clients.into_iter().map(read).collect();
        threads.into_iter().map(|thread| thread.join().expect("a reply")).collect::<Vec<_>>()
    });
    assert_eq!(ended, [large; 4]);
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
