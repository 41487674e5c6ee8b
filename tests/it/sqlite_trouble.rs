//! The store on disk where the start meets trouble that passes: a full disk, a lock, a missing folder; and
//! several processes that start at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use caching_proxy::store::backing::Backing;
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command, command_of, run};
use super::support::{PATIENCE, TemporaryFolder, pause, wait_until};

/// For what waits for a lock that nobody gives back.
const IMPATIENT: &[&str] = &["--store-lock-timeout", "100ms"];

fn store_flag(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// An origin server with `/0` to `/49`, each asked for as often as one likes.
fn origin() -> Origin {
    Origin::script((0..50).map(|number| {
        let target = format!("/{number}");
        on(&format!("GET {target}"))
            .send(200, "Cache-Control: max-age=600", &"x".repeat(2_000))
            .always()
    }))
}

/// The binary on a disk that is full for it: it may not write files beyond 8 KiB, until that is lifted.
fn on_a_full_disk(origin: &Origin, store: &str) -> Command {
    on_a_disk(origin, store, "16")
}

/// The binary, which may write files of so many blocks of 512 bytes.
fn on_a_disk(origin: &Origin, store: &str, blocks: &str) -> Command {
    let mut shell = command_of("sh");
    // The signal that goes with the limit is ignored, so that writing gives an error.
    let script = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_proxy")]);
    shell.args(["--origin", &origin.url(), "--store", store]);
    shell
}

fn lift_the_limit(proxy: &Proxy) {
    let pid = Pid::from_raw(proxy.pid().cast_signed()).expect("a process");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).expect("ours");
}

fn rows(path: &Path) -> u64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(shell) = Connection::open_with_flags(path, flags) else { return 0 };
    let count = "SELECT count(*) FROM responses WHERE state = 1";
    shell.query_row(count, [], |row| row.get(0)).unwrap_or(0)
}

/// Asks for one thing after the other, each time anew, until one of them is in the file.
fn stores_again(proxy: &Proxy, path: &Path, before: u64) {
    let deadline = Instant::now() + PATIENCE;
    for number in (10..50).cycle() {
        assert!(Instant::now() < deadline, "nothing is stored:\n{}", proxy.log());
        let reply = proxy.get_with(&format!("/{number}"), "Cache-Control: no-cache\r\n");
        assert_eq!(reply.status, 200);
        pause();
        if rows(path) > before {
            return;
        }
    }
}

/// What is said about it: once, and that it is over.
fn assert_told_once(proxy: &Proxy) {
    let log = proxy.log();
    assert_eq!(log.matches("[WARN]").count(), 1, "{log}");
    proxy.wait_for_log("works again");
}

#[test]
fn a_proxy_starts_on_a_full_disk_and_stores_when_there_is_room() {
    let (folder, origin) = (TemporaryFolder::new(), origin());
    let path = folder.file("cache.db");
    let proxy = Proxy::start_as(on_a_full_disk(&origin, &store_flag(&path)));
    assert!(!proxy.get("/0").is_hit() && proxy.get("/0").is_hit(), "memory works");
    proxy.wait_for_log("nothing is written to it until it works again");
    lift_the_limit(&proxy);
    stores_again(&proxy, &path, 0);
    assert_told_once(&proxy);
}

#[test]
fn what_is_stored_is_read_at_a_start_on_a_full_disk() {
    let (folder, origin) = (TemporaryFolder::new(), origin());
    let path = folder.file("cache.db");
    let mut first = Proxy::before(&origin, &["--store", &store_flag(&path)]);
    first.get("/0");
    first.stop();
    let proxy = Proxy::start_as(on_a_full_disk(&origin, &store_flag(&path)));
    assert!(proxy.get("/0").is_hit(), "{}", proxy.log());
    assert!(!proxy.get("/1").is_hit() && proxy.get("/1").is_hit(), "memory works");
    lift_the_limit(&proxy);
    stores_again(&proxy, &path, 1);
    assert_told_once(&proxy);
}

/// On a full disk something can be removed all the same, which is no success: it was said to work again, and dropped
/// whatever came next.
#[test]
fn a_disk_that_fills_up_is_not_said_to_work_before_it_does() {
    let (folder, origin) = (TemporaryFolder::new(), origin());
    let path = folder.file("cache.db");
    let proxy = Proxy::start_as(on_a_disk(&origin, &store_flag(&path), "unlimited"));
    proxy.get("/0");
    wait_until("it is stored", || rows(&path) == 1);
    let pid = Pid::from_raw(proxy.pid().cast_signed()).expect("a process");
    // Enough for the log.
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(8192), maximum: None })
        .expect("ours");
    let failing = || {
        let told = proxy.tell(&["stats", "--json"]).stdout;
        let stats: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
        stats["store_failing"].as_u64()
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        for number in 1..50 {
            proxy.get_with(&format!("/{number}"), "Cache-Control: no-cache\r\n");
        }
    }
    assert_eq!(
        (failing(), proxy.log().contains("db: works again")),
        (Some(1), false),
        "{}",
        proxy.log()
    );
    lift_the_limit(&proxy);
    stores_again(&proxy, &path, 1);
    assert_told_once(&proxy);
    assert_eq!(failing(), Some(0));
}

/// Another program's lock, on a file that is new and on one that is not.
#[test]
fn a_proxy_starts_on_a_file_that_is_locked_and_stores_when_it_is_not() {
    for is_new in [true, false] {
        let (folder, origin) = (TemporaryFolder::new(), origin());
        let path = folder.file("cache.db");
        if !is_new {
            let mut first = Proxy::before(&origin, &["--store", &store_flag(&path)]);
            first.get("/0");
            first.stop();
        }
        let shell = Connection::open(&path).expect("a database");
        shell.execute_batch("BEGIN EXCLUSIVE").expect("nobody else has it");
        let proxy = Proxy::before(&origin, &[&["--store", &store_flag(&path)], IMPATIENT].concat());
        assert_eq!(proxy.get("/0").is_hit(), !is_new, "what can be read is: {}", proxy.log());
        assert!(!proxy.get("/1").is_hit() && proxy.get("/1").is_hit(), "memory works");
        proxy.wait_for_log("another process holds it; nothing is written to it until it works");
        shell.execute_batch("ROLLBACK").expect("it was begun");
        stores_again(&proxy, &path, u64::from(!is_new));
        assert_told_once(&proxy);
    }
}

#[test]
fn a_folder_that_is_removed_is_made_again_when_it_can_be() {
    let (folder, origin) = (TemporaryFolder::new(), origin());
    let path = folder.file("a/b/cache.db");
    let proxy = Proxy::before(&origin, &["--store", &store_flag(&path)]);
    // Not in the middle of a write: that would fail, and the log would say so.
    proxy.get("/0");
    wait_until("it is written", || rows(&path) > 0);
    fs::remove_dir_all(folder.file("a")).expect("it is there");
    stores_again(&proxy, &path, 0);
    proxy.wait_for_log("it was taken away; begun anew");
    assert_eq!(proxy.log().matches("[WARN]").count(), 0, "{}", proxy.log());
    // Something is in its way.
    fs::remove_dir_all(folder.file("a")).expect("it is there");
    fs::write(folder.file("a"), "").expect("a file");
    proxy.get("/1");
    proxy.wait_for_log("its folder cannot be made");
    assert!(proxy.get("/1").is_hit(), "memory works");
    assert_eq!(proxy.log().matches("begun anew").count(), 1, "{}", proxy.log());
    fs::remove_file(folder.file("a")).expect("it is there");
    stores_again(&proxy, &path, 0);
    assert_told_once(&proxy);
}

/// Neither longer, nor shorter: a lock that is given back in time costs nothing but the wait.
#[test]
fn a_lock_is_waited_for_as_long_as_the_flag_says() {
    let (folder, origin) = (TemporaryFolder::new(), origin());
    let path = folder.file("cache.db");
    let mut first = Proxy::before(&origin, &["--store", &store_flag(&path)]);
    first.get("/0");
    first.stop();
    let shell = Connection::open(&path).expect("a database");
    shell.execute_batch("BEGIN EXCLUSIVE").expect("nobody else has it");
    let began = Instant::now();
    let limits = DiskLimits { bytes: 8 << 20, responses: None, content_bytes: 1 << 20 };
    let short = Duration::from_millis(50);
    let opened = Sqlite::open_within(&path, limits, short).expect("it may pass");
    assert!(began.elapsed() >= short && opened.trouble().is_some(), "{:?}", began.elapsed());
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| Sqlite::open_within(&path, limits, PATIENCE));
        shell.execute_batch("ROLLBACK").expect("it was begun");
        let opened = patient.join().expect("no panic").expect("it is free");
        assert!(opened.trouble().is_none());
    });
}

/// A proxy goes on without its store; a command that is about nothing else says what is wrong.
#[test]
fn commands_do_not_take_a_store_that_cannot_be_opened_for_an_empty_one() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let shell = Connection::open(&path).expect("a database");
    shell.execute_batch("BEGIN EXCLUSIVE").expect("nobody else has it");
    let store = store_flag(&path);
    let file = folder.file("recording.har").display().to_string();
    for words in [&["export", &file][..], &["purge", "--all"]] {
        let mut command = command();
        command.env("XDG_RUNTIME_DIR", folder.path()).args(words).args(["--store", &store]);
        command.args(IMPATIENT);
        let output = command.output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
        assert!(told.contains("another process holds it"), "{words:?}: {told}");
    }
}

/// The port opens when the store is there: nobody is accepted by a proxy that does not start.
#[test]
fn a_store_that_cannot_be_used_is_said_before_the_port_is_tried() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = run(&["--port", &port, "--store", "sqlite:/dev/null/cache.db"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("/dev/null") && !told.contains("in use"), "{told}");
}

/// A new file, a file of an older schema, and one that is damaged: all processes use what one has made.
#[test]
fn processes_that_start_at_once_use_one_file() {
    for (kind, aside, fewest) in [("new", false, 2), ("older", false, 7), ("damaged", true, 7)] {
        for count in fewest..=8 {
            let (folder, origin) = (TemporaryFolder::new(), origin());
            let path = folder.file("folder/cache.db");
            prepare(kind, &path);
            let store = store_flag(&path);
            let barrier = Barrier::new(count);
            let proxies: Vec<Proxy> = std::thread::scope(|scope| {
                let start = |_| {
                    scope.spawn(|| {
                        barrier.wait();
                        Proxy::before(&origin, &["--store", &store, "--workers", "2"])
                    })
                };
                let started: Vec<_> = (0..count).map(start).collect();
                started.into_iter().map(|one| one.join().expect("it starts")).collect()
            });
            for (number, proxy) in proxies.iter().enumerate() {
                proxy.get(&format!("/{number}"));
                let log = proxy.log();
                let warned = log.matches("[WARN]").count();
                assert!(warned == 0 || aside && log.contains("damaged"), "{kind} {count}: {log}");
            }
            let said = |proxy: &&Proxy| proxy.log().contains("begun anew");
            assert_eq!(proxies.iter().filter(said).count(), usize::from(aside), "{kind} {count}");
            assert_eq!(
                fs::exists(folder.file("folder/cache.db.damaged")).expect("a folder"),
                aside
            );
            let deadline = Instant::now() + PATIENCE;
            while rows(&path) < count as u64 {
                assert!(Instant::now() < deadline, "{kind} {count}: {} are stored", rows(&path));
                super::support::pause();
            }
        }
    }
}

fn prepare(kind: &str, path: &Path) {
    fs::create_dir(path.parent().expect("a folder")).expect("it can be made");
    match kind {
        "older" => {
            let limits = DiskLimits { bytes: 8 << 20, responses: None, content_bytes: 1 << 20 };
            drop(Sqlite::open(path, limits).expect("a store"));
            let older = "DROP TABLE invalidations; DROP TABLE invalidated_keys; \
                         DROP TABLE invalidated_selectors; CREATE TABLE generations (id INTEGER); \
                         PRAGMA user_version = 1;";
            Connection::open(path).expect("a database").execute_batch(older).expect("tables");
        }
        // As after a power cut.
        "damaged" => fs::write(path, vec![0; 50_000]).expect("a file"),
        _ => {}
    }
}

/// Somebody's file under the name of a store was moved away, and the next time overwritten.
#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = TemporaryFolder::new();
    let contents: [&[u8]; 4] =
        [b"notes", b"\x89PNG\r\n\x1a\n and more", &[0x55; 5_000], b"SQLite format 2\0"];
    for content in contents {
        let path = folder.file("notes.txt");
        fs::write(&path, content).expect("a file");
        let store = format!("sqlite:{}", path.display());
        let commands: [&[&str]; 3] = [
            &["--port", "0", "--store", &store],
            &["list", "--store", &store],
            &["--clear-cache", "--store", &store],
        ];
        for words in commands {
            let told = run(words);
            let error = String::from_utf8_lossy(&told.stderr);
            assert_eq!(told.status.code(), Some(1), "{words:?}: {error}");
            assert!(error.contains("no database, and is left as it is"), "{words:?}: {error}");
            assert_eq!(fs::read(&path).expect("it is there"), content, "{words:?}");
        }
        let others = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(others, 1, "nothing was made beside it");
    }
}
