//! The real binary over real sockets, between an origin server and many clients that do by chance what such do:
//! no client gets another's bytes, nothing hangs, and nothing is left over.
//!
//! What happens follows from a seed, though not when. An exchange is described by its target, so that each side
//! knows every byte of it. To try others, or more: `SEED=N RUNS=N EXCHANGES=N cargo test --test it trial::`.

#![allow(clippy::format_push_string, reason = "a head is put together once for each exchange")]

mod client;
mod content;
mod leftovers;
mod origin;
mod plan;
mod script;
mod verdict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::support::TemporaryFolder;
use super::support::proxy::Proxy;
use client::{Client, Outcome};
use leftovers::{Held, stats};
use origin::Origin;
use plan::Plan;
use script::{Answer, Exchange};

const CLIENTS: u64 = 60;
/// For each variant.
const EXCHANGES: u64 = 180;
/// Beside a failure, others are its consequences.
const FAILURES_SHOWN: usize = 5;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What clients share.
struct Trial<'a> {
    seed: u64,
    address: SocketAddr,
    origin: &'a Origin,
    follows_redirects: bool,
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
    /// Answers of the proxy for which the script of the exchange has no reason: method, and whether others
    /// have asked for the same.
    unexplained: Mutex<Vec<(&'static str, bool)>>,
    /// By the id of what was asked for.
    failures: Mutex<Vec<(String, String)>>,
    has_failed: AtomicBool,
}

impl<'a> Trial<'a> {
    fn new(seed: u64, address: SocketAddr, origin: &'a Origin, follows_redirects: bool) -> Self {
        Self {
            seed,
            address,
            origin,
            follows_redirects,
            outcomes: Mutex::default(),
            unexplained: Mutex::default(),
            failures: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    fn note(&self, exchange: &Exchange, result: Result<Outcome, String>) {
        match result {
            Ok(outcome) => {
                *self.outcomes.lock().entry(outcome).or_insert(0) += 1;
                if outcome == Outcome::Unexplained {
                    self.unexplained.lock().push((exchange.method, exchange.is_shared()));
                }
            }
            Err(what) => {
                self.has_failed.store(true, Ordering::Relaxed);
                let what = format!("{what}\nin {exchange:?}");
                self.failures.lock().push((exchange.id.clone(), what));
            }
        }
    }

    /// Lets so many clients make `exchanges` altogether.
    fn run(&self, exchanges: u64) {
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let count = (exchanges + number) / CLIENTS;
                scope.spawn(move || Client::new(self, number).run(count));
            }
        });
    }

    /// Nothing was found, and what the proxy has refused has its reasons.
    fn check(&self, proxy: &Proxy, command: &str) {
        let failures = self.failures.lock();
        let count = failures.len();
        if count > 0 {
            let log = proxy.log();
            let shown = failures.iter().take(FAILURES_SHOWN).map(|(id, what)| {
                let target = format!("/x/{id}?");
                let is_about = |line: &&str| line.contains(&target) || line.contains("panicked");
                let lines: Vec<_> = log.lines().filter(is_about).collect();
                format!("{what}\nThe proxy's log has {lines:#?}")
            });
            let shown: Vec<_> = shown.collect();
            panic!("{count} exchanges:\n{}\n{command}", shown.join("\n\n"));
        }
        let violations = self.origin.violations();
        assert!(violations.is_empty(), "the origin server: {violations:#?}\n{command}");
        let unexplained = self.unexplained.lock();
        let count = |is_meant: &dyn Fn(&str, bool) -> bool| {
            let all = unexplained.iter();
            all.filter(|(method, is_shared)| is_meant(method, *is_shared)).count() as u64
        };
        let is_repeatable = |method: &str| matches!(method, "GET" | "HEAD");
        // Each connection that was closed so may have had one request. One that asks for nothing to be changed
        // is repeated, unless its connection was a new one (RFC 9112 §9.3.1).
        let (refused, hung_up) = (self.origin.refused(), self.origin.hung_up());
        let of_new = count(&|method, is_shared| is_repeatable(method) && !is_shared);
        let others = count(&|method, _| !is_repeatable(method));
        let shared = count(&|_, is_shared| is_shared);
        let is_explained = of_new <= refused && of_new + others <= refused + hung_up;
        // What it cannot be given, its followers cannot be given either.
        assert!(
            is_explained && (shared == 0 || refused > 0),
            "{refused} connections were closed at once and {hung_up} later, and {unexplained:?}\n{command}"
        );
    }
}

/// How the proxy is started.
struct Variant {
    name: &'static str,
    secure: bool,
    arguments: &'static [&'static str],
    /// Memory for stored responses.
    cache_kib: u64,
    has_store: bool,
}

impl Variant {
    fn run(&self) {
        let exchanges = number("EXCHANGES");
        let seeds = match number("SEED") {
            Some(seed) => seed..seed + number("RUNS").unwrap_or(1),
            None => 0..number("RUNS").unwrap_or(1),
        };
        for seed in seeds {
            self.try_seed(seed, exchanges.unwrap_or(EXCHANGES));
        }
    }

    fn try_seed(&self, seed: u64, exchanges: u64) {
        let (name, path) = (self.name, module_path!().split_once("::").expect("the crate").1);
        let command = format!(
            "SEED={seed} EXCHANGES={exchanges} cargo test --test it {path}::{name} -- --nocapture"
        );
        let folder = TemporaryFolder::new();
        let origin = Origin::start(self.secure);
        let mut proxy = self.start(&folder, &origin);
        let port = origin.port();
        // Whatever is made when it is first needed is there after this.
        let follows = self.arguments.contains(&"--follow-redirects");
        let warm_up = Trial::new(u64::MAX - seed, proxy.address, &origin, follows);
        warm_up.run(CLIENTS.min(exchanges / 3));
        warm_up.check(&proxy, &command);
        origin.close_all();
        let held = Held::by(&proxy, port);
        let trial = Trial::new(seed, proxy.address, &origin, follows);
        trial.run(exchanges);
        let (connections, requests) = origin.counts();
        println!(
            "{name}, seed {seed}: {:?}; {requests} requests to the origin server on \
             {connections} connections",
            trial.outcomes.lock()
        );
        trial.check(&proxy, &command);
        origin.close_all();
        held.check_again(&proxy, port, self.cache_kib);
        assert_eq!(stats(&proxy)["panics"].as_u64(), Some(0), "{}\n{command}", proxy.log());
        proxy.signal("-TERM");
        proxy.wait_for_end();
        let (status, _, log) = proxy.wait();
        assert!(status.success(), "{status}: {log}\n{command}");
        assert!(!log.contains("panicked"), "{log}\n{command}");
    }

    fn start(&self, folder: &TemporaryFolder, origin: &Origin) -> Proxy {
        let url = origin.url();
        let (certificate, store) = (folder.file("certificate"), folder.file("trial.sqlite"));
        let certificate = certificate.to_str().expect("a path");
        let store = format!("sqlite:{}", store.to_str().expect("a path"));
        let memory = format!("{}K", self.cache_kib);
        // An exchange that does not end hangs the end of the proxy.
        let mut arguments =
            vec!["--origin", &url, "--cache-memory", &memory, "--drain-timeout", "10m"];
        arguments.extend_from_slice(self.arguments);
        if let Some(text) = &origin.certificate {
            std::fs::write(certificate, text).expect("a file");
            arguments.extend(["--ca-cert", certificate]);
        }
        if self.has_store {
            // Bodies on their way into a file make no space for each other: those who read them from there are cut
            // when it is full.
            arguments.extend(["--store", &store, "--cache-disk", "32M"]);
        }
        Proxy::start(&arguments)
    }
}

#[test]
fn one_loop() {
    let arguments = &["--threads", "1"];
    Variant { name: "one_loop", secure: false, arguments, cache_kib: 65_536, has_store: false }
        .run();
}

#[test]
fn two_loops_and_little_memory() {
    let (name, arguments) = ("two_loops_and_little_memory", &["--threads", "2"]);
    Variant { name, secure: false, arguments, cache_kib: 512, has_store: false }.run();
}

#[cfg(feature = "tls")]
#[test]
fn over_tls() {
    let arguments = &["--threads", "2"];
    Variant { name: "over_tls", secure: true, arguments, cache_kib: 65_536, has_store: false }
        .run();
}

#[cfg(all(feature = "sqlite", feature = "tls"))]
#[test]
fn over_tls_with_a_store() {
    let (name, arguments) = ("over_tls_with_a_store", &["--threads", "1", "--workers", "4"]);
    Variant { name, secure: true, arguments, cache_kib: 4096, has_store: true }.run();
}

/// Requests wait for their turn, and are admitted by exchanges that end, in whatever way. Redirects are followed: each
/// waits for a turn of its own.
#[test]
fn few_connections_to_the_origin_server() {
    let arguments = &["--threads", "2", "--origin-connections", "8", "--follow-redirects"];
    let name = "few_connections_to_the_origin_server";
    Variant { name, secure: false, arguments, cache_kib: 4096, has_store: false }.run();
}

/// Else a failure could not be tried again.
#[test]
fn a_seed_has_one_plan_and_each_target_says_what_is_in_it() {
    for client in 0..CLIENTS {
        let plan = || {
            let mut plan = Plan::new(7, client, true);
            (0..50).flat_map(|_| plan.next_batch(u64::MAX)).collect::<Vec<_>>()
        };
        let exchanges = plan();
        assert_eq!(format!("{exchanges:?}"), format!("{:?}", plan()));
        for exchange in exchanges {
            let target = exchange.target();
            let query = target.split_once('?').expect("a query").1;
            assert_eq!(Answer::read(query), Ok(exchange.answer), "{target}");
        }
    }
}
