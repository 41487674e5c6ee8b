//! Each client is sent its own bytes and no others, whoever else is connected.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support::PATIENCE;
use super::support::origin::{Origin, on};
use super::support::proxy::{FRONT, Proxy};

/// Sizes of bodies: around the bounds where the proxy copies content, cuts turns, or begins another piece.
const SIZES: [usize; 8] = [0, 1, 900, 8_192, 9_000, 66_000, 70_000, 150_000];
/// How many clients there are, and for how long at most.
const CLIENTS: usize = 40;
const TRIAL: Duration = Duration::from_secs(4);
const ROUNDS_MAX: usize = 60;
/// How many requests are sent at once. The plain front ends a connection that does not wait for so many.
const PIPELINED_MAX: usize = if FRONT.len() == "event".len() { 200 } else { 60 };

/// A body that names its target all through.
fn body_of(target: &str, size: usize) -> String {
    let mut body = format!("{target};").repeat(size / (target.len() + 1) + 1);
    body.truncate(size);
    body
}

/// Marsaglia's xorshift.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// A client that pipelines.
struct Client {
    number: usize,
    numbers: Numbers,
    reading: BufReader<TcpStream>,
}

impl Client {
    fn new(proxy: &Proxy, number: usize, seed: u64) -> Self {
        let stream = TcpStream::connect(proxy.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let seed = (seed + number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { number, numbers: Numbers(seed | 1), reading: BufReader::new(stream) }
    }

    /// Asks for up to `most` things at once, and reads the answers; how many they were.
    fn round(&mut self, most: usize) -> usize {
        let count = 1 + self.numbers.next(most);
        let mut asked = Vec::new();
        let mut heads = String::new();
        for _ in 0..count {
            // Large ones are rarer, or there would be little else.
            let few = if self.numbers.next(4) == 0 { SIZES.len() } else { 5 };
            let size = SIZES[self.numbers.next(few)];
            let kind = if self.numbers.next(50) == 0 { "passed" } else { "stored" };
            let target = format!("/{kind}/client-{}/{size}", self.number);
            heads.extend(["GET ", &target, " HTTP/1.1\r\nHost: h\r\n\r\n"]);
            asked.push((target, size));
        }
        self.reading.get_mut().write_all(heads.as_bytes()).expect("the client can send");
        for (target, size) in asked {
            self.read_answer(&target, size);
        }
        count
    }

    fn read_answer(&mut self, target: &str, size: usize) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = self.reading.read_line(&mut head).expect("a head of text");
            assert!(count > 0, "client {}: the end instead of {target}: {head:?}", self.number);
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "client {}: {head}", self.number);
        let who = format!("\r\nX-Who: {target}\r\n").to_ascii_lowercase();
        let seen = head.to_ascii_lowercase();
        assert!(seen.contains(&who), "client {} asked for {target}: {head}", self.number);
        assert!(seen.contains(&format!("\r\ncontent-length: {size}\r\n")), "{target}: {head}");
        let mut body = vec![0; size];
        self.reading.read_exact(&mut body).expect("a body");
        assert!(body == body_of(target, size).as_bytes(), "client {}: {target}", self.number);
    }
}

fn origin() -> Origin {
    let rules = (0..CLIENTS).flat_map(|number| {
        SIZES.into_iter().flat_map(move |size| {
            [("stored", "max-age=600"), ("passed", "no-store")].map(|(kind, caching)| {
                let target = format!("/{kind}/client-{number}/{size}");
                let fields = format!("Cache-Control: {caching}; X-Who: {target}");
                let body = body_of(&target, size);
                on(&format!("GET {target}")).always().send(200, &fields, &body)
            })
        })
    });
    Origin::script(rules)
}

/// A client that pipelines more than a turn's worth leaves nothing behind for the next client. It was so
/// once: sixteen hits of 9,000 bytes, and the other client got a head that was not its own.
#[test]
fn a_turn_that_ends_early_leaves_nothing_to_the_next_client() {
    let origin = origin();
    let proxy = Proxy::before(&origin, &["--threads", "1"]);
    let targets = [0, 1].map(|number| format!("/stored/client-{number}/9000"));
    let [mut first, mut second] = [0, 1].map(|number| Client::new(&proxy, number, 0));
    first.round(1);
    second.round(1);
    for count in [1, 15, 16, 17, 32, 33, PIPELINED_MAX] {
        let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", targets[0]);
        first.reading.get_mut().write_all(head.repeat(count).as_bytes()).expect("it can send");
        let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", targets[1]);
        second.reading.get_mut().write_all(head.as_bytes()).expect("it can send");
        second.read_answer(&targets[1], 9_000);
        for _ in 0..count {
            first.read_answer(&targets[0], 9_000);
        }
    }
}

/// Forty clients that pipeline, for some seconds; other numbers by environment.
#[test]
fn forty_clients_that_pipeline_are_kept_apart() {
    let seed = std::env::var("ISOLATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    let origin = origin();
    let exchanges = AtomicUsize::new(0);
    for threads in ["1", "2"] {
        let proxy = Proxy::before(&origin, &["--threads", threads]);
        let end = Instant::now() + TRIAL / 2;
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (proxy, exchanges) = (&proxy, &exchanges);
                scope.spawn(move || {
                    let mut client = Client::new(proxy, number, seed);
                    for _ in 0..ROUNDS_MAX {
                        exchanges.fetch_add(client.round(PIPELINED_MAX), Ordering::Relaxed);
                        if Instant::now() > end {
                            break;
                        }
                    }
                });
            }
        });
    }
    println!("seed {seed}: {} exchanges", exchanges.load(Ordering::Relaxed));
}
