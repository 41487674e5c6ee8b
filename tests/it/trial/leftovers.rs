//! What is left over of a trial in the proxy: descriptors, threads, memory, exchanges under way.

use std::collections::HashSet;
use std::fs;
use std::time::Instant;

use serde_json::Value;

use super::super::support::proxy::Proxy;
use super::super::support::{PATIENCE, pause};

/// Gauges that are zero when nobody is there.
const GAUGES: [&str; 4] = ["connections", "workers_busy", "jobs_waiting", "memory_arriving_bytes"];
/// What the allocator may hold of memory that was in use, and the memories of threads.
const MEMORY_KIB: u64 = 96 * 1024;

/// What a proxy has open while it is idle.
#[derive(Debug)]
pub struct Held {
    /// Descriptors but for those of its store and of its connections to the origin server.
    descriptors: Vec<String>,
    threads: usize,
    memory_kib: u64,
}

impl Held {
    /// What it has when nothing is under way.
    pub fn by(proxy: &Proxy, origin_port: u16) -> Self {
        wait_until_idle(proxy);
        let (descriptors, _) = descriptors(proxy, origin_port);
        Self { descriptors, threads: proxy.threads(), memory_kib: proxy.memory_kib().0 }
    }

    /// Waits until it has no more than this again. `cache_kib` is for what it has stored meanwhile.
    pub fn check_again(&self, proxy: &Proxy, origin_port: u16, cache_kib: u64) {
        wait_until_idle(proxy);
        wait_for(|| {
            let (descriptors, to_origin) = descriptors(proxy, origin_port);
            let more = descriptors.len().checked_sub(self.descriptors.len() + 1);
            let what = format!("{descriptors:#?}\nand {to_origin} to the origin server\n{self:#?}");
            if more.is_none() && to_origin == 0 { Ok(()) } else { Err(what) }
        });
        wait_for(|| match proxy.threads() {
            threads if threads <= self.threads => Ok(()),
            threads => Err(format!("{threads} threads, and there were {}", self.threads)),
        });
        let (memory_kib, _) = proxy.memory_kib();
        println!("memory: {} KiB, then {memory_kib} KiB", self.memory_kib);
        let most = self.memory_kib + cache_kib + MEMORY_KIB;
        assert!(memory_kib <= most, "{memory_kib} KiB of memory, and {most} KiB would be much");
    }
}

/// Polls until it is so.
fn wait_for(mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(what) = look() {
        assert!(Instant::now() < deadline, "left over: {what}");
        pause();
    }
}

fn wait_until_idle(proxy: &Proxy) {
    wait_for(|| {
        let stats = stats(proxy);
        let left = GAUGES.iter().filter(|name| stats[**name].as_u64() != Some(0));
        let left: Vec<_> = left.map(|name| format!("{name}: {}", stats[*name])).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
}

pub fn stats(proxy: &Proxy) -> Value {
    let told = proxy.tell(&["stats", "--json"]);
    assert!(told.status.success(), "{told:?}");
    serde_json::from_slice(&told.stdout).expect("JSON")
}

/// The open descriptors, and how many others are connections to this port.
fn descriptors(proxy: &Proxy, port: u16) -> (Vec<String>, usize) {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table");
    let end = format!(":{port:04X}");
    let to_origin: HashSet<String> = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>())
        .filter(|row| row.len() > 9 && row[2].ends_with(&end))
        .map(|row| format!("socket:[{}]", row[9]))
        .collect();
    let folder = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("a process");
    let links = folder.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let links = links.map(|link| link.to_string_lossy().into_owned());
    // The store opens its file as often as it needs it.
    let links = links.filter(|link| !link.contains("trial.sqlite"));
    let (to_origin, mut others): (Vec<_>, Vec<_>) =
        links.partition(|link| to_origin.contains(link));
    others.sort();
    (others, to_origin.len())
}
