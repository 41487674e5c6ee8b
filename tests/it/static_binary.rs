//! The static binary, on an old processor and in little memory. `scripts/build-static --check` builds
//! it and names it in `STATIC_BINARY`, and qemu in `EMULATOR`; without them there is nothing to run.
//! `--check-small` names that without features in `SMALL_BINARY`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::support::origin::{Origin, Step, on};
use super::support::proxy::{Proxy, command_of};
use super::support::{TemporaryFolder, redis};

const MEBIBYTE: usize = 1 << 20;
const MEMORY_LIMIT: usize = 32 * MEBIBYTE;

/// MISS, HIT, a large body, and an https origin.
fn exercise(command: impl Fn(&[&str]) -> Command) -> Vec<Proxy> {
    let folder = TemporaryFolder::new();
    let large = [on("GET /large")
        .head(200, "Content-Length: 67108864")
        .then(Step::Repeat(vec![b'x'; MEBIBYTE], 64))];
    let small = on("GET /a").send(200, "Cache-Control: max-age=60", "hello");
    let plain = Origin::script([small.clone()].into_iter().chain(large));
    let (secure, pem) = Origin::script_tls([small]);
    let file = folder.file("ca.pem");
    std::fs::write(&file, pem).expect("a file");
    let file = file.to_str().expect("a path");
    // The name has to be looked up: static binaries of the GNU target may fail at that.
    let url = format!("https://localhost:{}", secure.port());
    let proxies = vec![
        Proxy::start_as(command(&["--origin", &plain.url()])),
        Proxy::start_as(command(&["--origin", &url, "--ca-cert", file])),
    ];
    for proxy in &proxies {
        let (miss, hit) = (proxy.get("/a"), proxy.get("/a"));
        assert_eq!((miss.body(), miss.is_hit()), ("hello".into(), false), "{}", miss.head.text);
        assert_eq!((hit.body(), hit.is_hit()), ("hello".into(), true));
    }
    let large = proxies[0].get("/large");
    assert_eq!((large.content.len(), large.complete), (64 * MEBIBYTE, true));
    plain.assert_finished();
    secure.assert_finished();
    proxies
}

fn static_binary() -> Option<String> {
    let binary = std::env::var("STATIC_BINARY").ok();
    if binary.is_none() {
        println!("STATIC_BINARY is not set; scripts/build-static --check sets it");
    }
    binary
}

/// It grew beyond that once, and nothing said so.
#[test]
fn it_is_no_larger_than_it_may_be() {
    let binaries = [("STATIC_BINARY", 10), ("SMALL_BINARY", 4)];
    for (name, mebibytes) in binaries {
        let Ok(binary) = std::env::var(name) else { continue };
        let bytes = std::fs::metadata(binary).expect("the binary").len();
        assert!(bytes <= mebibytes << 20, "{name}: {bytes} bytes");
    }
}

/// What is left out is named, and everything else works.
#[test]
fn the_small_one_runs() {
    let Ok(binary) = std::env::var("SMALL_BINARY") else { return };
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let start = |args: &[&str]| {
        let mut command = command_of(&binary);
        command.args(args);
        command
    };
    let mut proxy = Proxy::start_as(start(&["--origin", &origin.url()]));
    let (miss, hit) = (proxy.get("/a"), proxy.get("/a"));
    assert_eq!((miss.body(), miss.is_hit()), ("hello".into(), false), "{}", miss.head.text);
    assert_eq!((hit.body(), hit.is_hit()), ("hello".into(), true));
    println!("at most {} KiB", proxy.memory_kib().1);
    proxy.stop();
    let told = start(&["--origin", "https://127.0.0.1:1"]).output().expect("it ends");
    assert_eq!(told.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&told.stderr).contains("built without tls"), "{told:?}");
    origin.assert_finished();
}

#[test]
fn it_runs_on_an_old_processor() {
    let (Some(binary), Ok(emulator)) = (static_binary(), std::env::var("EMULATOR")) else { return };
    exercise(|args| {
        let mut command = command_of(&emulator);
        command.args(["-cpu", "core2duo", &binary]).args(args);
        command
    });
}

#[test]
fn it_runs_in_little_memory() {
    let Some(binary) = static_binary() else { return };
    // One group for each proxy: the limit is for one.
    let groups = [(); 2].map(|()| MemoryGroup::new());
    let next = std::cell::Cell::new(0);
    let proxies = exercise(|args| {
        let group = &groups[next.replace(next.get() + 1)];
        limited(group.as_ref(), &binary, args)
    });
    println!("within control groups of 32 MiB: {}", groups.iter().all(Option::is_some));
    for proxy in &proxies {
        let (_, highest) = proxy.memory_kib();
        println!("at most {highest} KiB");
        assert!(highest < (MEMORY_LIMIT / 1024) as u64, "{highest} KiB");
    }
}

/// Responses of many sizes, together more than the memory of the cache holds, asked for in turns.
fn churn(proxy: &Proxy) {
    let mut client = proxy.connect();
    for turn in 0..5 {
        for number in 0..CHURNED {
            let target = format!("/{}", (number * 7 + turn) % CHURNED);
            client.request("GET", &target, "", "");
            assert_eq!(
                client.reply().content.len(),
                size_of_churned((number * 7 + turn) % CHURNED)
            );
        }
    }
}

const CHURNED: usize = 500;

/// From nothing to 128 KiB, most of them small.
fn size_of_churned(number: usize) -> usize {
    (number * 37 % 97) * (1 << (number % 9)) * 5
}

#[test]
fn it_keeps_within_little_memory_with_every_store() {
    let Some(binary) = static_binary() else { return };
    let rules = (0..CHURNED).map(|number| {
        let (length, content) = (size_of_churned(number), "x".repeat(size_of_churned(number)));
        // In one piece, so that none waits until the one before is acknowledged.
        let fields = format!("Cache-Control: max-age=600\r\nContent-Length: {length}");
        let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{content}");
        on(&format!("GET /{number}")).bytes(&response).always()
    });
    let origin = Origin::script(rules);
    let folder = TemporaryFolder::new();
    let servers: Vec<_> = redis::programs().into_iter().map(redis::Server::start).collect();
    let mut stores =
        vec!["memory".to_string(), format!("sqlite:{}", folder.file("cache.sqlite").display())];
    stores.extend(servers.iter().map(redis::Server::url));
    for store in stores {
        let group = MemoryGroup::new();
        let url = origin.url();
        let args = ["--origin", &*url, "--threads", "2", "--cache-memory", "4M", "--store", &store];
        let proxy = Proxy::start_as(limited(group.as_ref(), &binary, &args));
        churn(&proxy);
        let (_, highest) = proxy.memory_kib();
        println!("{store}: at most {highest} KiB");
        let most = if store == "memory" { 12 << 10 } else { (MEMORY_LIMIT / 1024) as u64 };
        assert!(highest <= most, "{store}: {highest} KiB");
    }
}

/// The command, in a control group if there is one.
fn limited(group: Option<&MemoryGroup>, binary: &str, args: &[&str]) -> Command {
    let Some(group) = group else {
        let mut command = command_of(binary);
        command.args(args);
        return command;
    };
    let mut command = command_of("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
    command.arg(group.0.join("cgroup.procs")).arg(binary).args(args);
    command
}

/// A control group that ends whoever takes more than 32 MiB, where this machine lets us make one.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("caching-proxy-{}-{number}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let path = Path::new(root).join(&name);
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self(path);
            let written = std::fs::write(group.0.join(limit), MEMORY_LIMIT.to_string());
            if written.is_ok() && group.0.join("cgroup.procs").exists() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
