//! Several clients of one event loop. Whatever they, the workers and the clock do, and in whichever order:
//! each client is sent the answers to its own requests, in their order and whole, and nothing else.
//!
//! Each target names its client, and what the origin server answers names the target, in its head and all
//! through its body. So a byte that strays is seen.

use std::sync::Arc;
use std::time::Duration;

use caching_proxy::front::event::simulation::Simulation;
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{ConnectionLimits, FrontSettings};
use caching_proxy::message::fields::Fields;
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};
use caching_proxy::stats::Stats;
use http::{HeaderName, HeaderValue, StatusCode, Version};

/// Sizes of bodies: around the bounds where the proxy copies, cuts turns, or begins another piece.
const SIZES: [usize; 8] = [0, 1, 900, 8_192, 9_000, 66_000, 70_000, 150_000];
/// What the clients may do at the most.
const STEPS_MAX: usize = 400;
/// A client that says nothing for so long loses its connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The origin server, and the clients' memory of what is right: the body of a target.
fn body_of(target: &str) -> Vec<u8> {
    let size = target.rsplit('/').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
    let mut body = format!("{target};").repeat(size / (target.len() + 1) + 1).into_bytes();
    body.truncate(size);
    body
}

struct Mirror;

impl Origin for Mirror {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let target = request.url.strip_prefix("http://o.test").unwrap_or_default();
        let mut content = Vec::new();
        let read = match request.content {
            RequestContent::None => Ok(0),
            RequestContent::Length(_, reader) | RequestContent::Chunked(reader) => {
                reader.read_to_end(&mut content)
            }
        };
        read.map_err(OriginError::Content)?;
        let is_post = *request.method == http::Method::POST;
        let body = body_of(target);
        // What was sent up must be the sender's own.
        let who = if is_post && content != body { "another client's content" } else { target };
        let kind = target.rsplit('/').next().unwrap_or_default();
        let mut fields = Fields::new();
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).expect("a value");
            fields.append(HeaderName::from_static(name), value);
        };
        add("x-who", who);
        match kind {
            "stored" => add("cache-control", "max-age=60"),
            "varied" => {
                add("cache-control", "max-age=60");
                add("vary", "accept");
            }
            "tagged" => {
                add("cache-control", "max-age=60");
                add("etag", "\"a\"");
            }
            _ => add("cache-control", "no-store"),
        }
        let length = (kind != "unframed").then_some(body.len() as u64);
        let has_body = *request.method != http::Method::HEAD;
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::OK,
                version: Version::HTTP_11,
                fields,
                length,
                silently_delimited: false,
                has_content: has_body,
            },
            body: has_body.then(|| Box::new(Piecewise(body, 0)) as Box<dyn OriginBody>),
        })
    }
}

struct Piecewise(Vec<u8>, usize);

impl OriginBody for Piecewise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.0.len() - self.1).min(30_000);
        buffer[..count].copy_from_slice(&self.0[self.1..self.1 + count]);
        self.1 += count;
        Ok(count)
    }
}

/// What is known of one client.
#[derive(Default)]
struct Client {
    number: usize,
    /// Method and target of what it has asked.
    asked: Vec<(&'static str, String)>,
    /// Bytes of its requests that it has not sent yet.
    unsent: Vec<u8>,
    /// It has said that a request is its last, or it has left.
    is_last: bool,
    has_left: bool,
}

impl Client {
    /// Asks for something; which, the numbers say.
    fn ask(&mut self, what: u8, size: u8) {
        if self.is_last {
            return;
        }
        let mut size = SIZES[usize::from(size) % SIZES.len()];
        if what % 12 == 6 {
            // A range of nothing would be refused.
            size = size.max(1);
        }
        let (sequence, number) = (self.asked.len(), self.number);
        let own = format!("/client-{number}/{size}");
        let (method, target, fields, content) = match what % 12 {
            // Hits from the second time on, at a glance.
            0 | 1 => ("GET", format!("{own}/stored"), "", false),
            2 => ("GET", format!("/everybody/{size}/stored"), "", false),
            3 => ("HEAD", format!("{own}/stored"), "", false),
            // Hits by the longer way.
            4 => ("GET", format!("{own}/varied"), "Accept: a\r\n", false),
            5 => ("GET", format!("{own}/tagged"), "If-None-Match: \"a\"\r\n", false),
            6 => ("GET", format!("{own}/stored"), "Range: bytes=0-9\r\n", false),
            7 => ("GET", format!("/client-{number}/{sequence}/{size}/other"), "", false),
            8 => ("GET", format!("/client-{number}/{sequence}/{size}/unframed"), "", false),
            9 => ("POST", format!("/client-{number}/{sequence}/{size}/other"), "", true),
            10 => ("POST", format!("{own}/other"), "Expect: 100-continue\r\n", true),
            _ => {
                self.is_last = true;
                ("GET", format!("{own}/stored"), "Connection: close\r\n", false)
            }
        };
        let framing = if content { format!("Content-Length: {size}\r\n") } else { String::new() };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}{framing}\r\n");
        self.unsent.extend_from_slice(head.as_bytes());
        if content {
            self.unsent.extend(body_of(&target));
        }
        self.asked.push((method, target));
    }

    /// Reads what it was sent; how many final responses these were.
    fn check(&self, mut bytes: &[u8]) -> usize {
        let mut answered = 0;
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&bytes[..end]).expect("a head");
            bytes = &bytes[end + 4..];
            let status = head.get(9..12).expect("a status line");
            assert!(head.starts_with("HTTP/1.1 "), "client {}: {head}", self.number);
            if status == "100" {
                continue;
            }
            let Some((method, target)) = self.asked.get(answered) else {
                panic!("client {} has asked nothing more, and was sent: {head}", self.number);
            };
            answered += 1;
            if status.starts_with('4') || status.starts_with('5') {
                self.check_refusal(head, bytes);
                return answered;
            }
            assert_eq!(field(head, "X-Who"), Some(&**target), "client {}: {head}", self.number);
            let mut expected = body_of(target);
            if status == "206" {
                expected.truncate(10);
            }
            let none = *method == "HEAD" || status == "304";
            let (body, whole, rest) =
                if none { (Vec::new(), true, bytes) } else { body(head, bytes) };
            if !none {
                assert!(body == expected[..body.len()], "client {}: {head}", self.number);
                assert!(!whole || body.len() == expected.len(), "client {}: {head}", self.number);
            }
            bytes = rest;
            if !whole {
                return answered - 1;
            }
        }
        assert!(bytes.is_empty() || b"HTTP/1.1 ".starts_with(&bytes[..bytes.len().min(9)]));
        answered
    }

    /// A refusal speaks of nobody, and is the last thing that is said.
    fn check_refusal(&self, head: &str, rest: &[u8]) {
        assert_eq!(field(head, "X-Who"), None, "{head}");
        let length: usize =
            field(head, "Content-Length").and_then(|length| length.parse().ok()).expect("a length");
        assert!(rest.len() <= length, "client {}: more after {head}", self.number);
        assert!(!rest.windows(8).any(|eight| eight == b"/client-"), "client {}", self.number);
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The content that `bytes` begin with, whether it is all there, and what follows it.
fn body<'a>(head: &str, mut bytes: &'a [u8]) -> (Vec<u8>, bool, &'a [u8]) {
    if let Some(length) = field(head, "Content-Length") {
        let length: usize = length.parse().expect("a length");
        let here = length.min(bytes.len());
        return (bytes[..here].to_vec(), here == length, &bytes[here..]);
    }
    assert_eq!(field(head, "Transfer-Encoding"), Some("chunked"), "{head}");
    let mut content = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
            return (content, false, &[]);
        };
        let size = std::str::from_utf8(&bytes[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).expect("a size");
        bytes = &bytes[end + 2..];
        let here = size.min(bytes.len());
        content.extend_from_slice(&bytes[..here]);
        if bytes.len() < size + 2 {
            return (content, false, &[]);
        }
        assert_eq!(&bytes[size..size + 2], b"\r\n", "a chunk ends");
        bytes = &bytes[size + 2..];
        if size == 0 {
            return (content, true, bytes);
        }
    }
}

fn simulation() -> Simulation {
    let connections =
        ConnectionLimits { header_timeout: TIMEOUT, idle_timeout: TIMEOUT, connections_max: 100 };
    let settings = FrontSettings {
        connections,
        wait_max: TIMEOUT,
        limits: super::LIMITS,
        access_log: None,
        origin: None,
        handler: None,
        health_path: None,
    };
    let stats = Arc::new(Stats::default());
    let pool = Pool::elastic(8, 64, &stats).expect("threads");
    Simulation::new(
        super::engine(&stats, Arc::new(Mirror), None, super::Role::First),
        pool,
        &settings,
    )
}

/// The first byte says how many clients there are and how they take bytes; then each pair of bytes is one
/// thing that happens.
pub fn clients(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let mut simulation = simulation();
    let count = 2 + usize::from(*first % 3);
    let piece_max = [usize::MAX, 1_000, 70_000, 100][usize::from(first / 3 % 4)];
    let new = |simulation: &mut Simulation, number| {
        simulation.connect(piece_max);
        Client { number, ..Client::default() }
    };
    let mut clients: Vec<Client> = (0..count).map(|number| new(&mut simulation, number)).collect();
    // Those who are served: the newest ones.
    let mut present: Vec<usize> = (0..count).collect();
    let mut passed = Duration::ZERO;
    for step in steps.chunks_exact(2).take(STEPS_MAX) {
        let at = usize::from(step[0] >> 4) % present.len();
        let number = present[at];
        let client = &mut clients[number];
        match step[0] & 15 {
            0..=5 => {
                client.ask(step[1], step[1] >> 5);
                let bytes = std::mem::take(&mut client.unsent);
                simulation.send(number, &bytes);
            }
            // Many at once: their answers do not fit into one turn.
            6 => {
                for _ in 0..=step[1] % 40 {
                    client.ask(step[1] >> 6, step[1]);
                }
                let bytes = std::mem::take(&mut client.unsent);
                simulation.send(number, &bytes);
            }
            7 => {
                client.ask(step[1], step[1] >> 5);
                let half = client.unsent.len() / 2;
                let bytes: Vec<u8> = client.unsent.drain(..half).collect();
                simulation.send(number, &bytes);
            }
            8 => simulation.take(number, usize::from(step[1]) * 40),
            9 => simulation.take(number, usize::MAX),
            10 | 11 => _ = simulation.deliver(),
            12 => _ = simulation.deliver_within(Duration::from_millis(1)),
            13 => _ = simulation.go_on(),
            14 => {
                let span = Duration::from_millis(u64::from(step[1]) * 100);
                passed += span;
                simulation.advance_time(span);
            }
            _ => {
                // Another client comes into the slot of one that leaves.
                client.has_left = true;
                simulation.leave(number);
                clients.push(new(&mut simulation, clients.len()));
                present[at] = clients.len() - 1;
            }
        }
    }
    finish(&mut simulation, &mut clients);
    for client in &clients {
        let answered = client.check(&simulation.received(client.number));
        assert!(!simulation.is_cut(client.number), "client {} was cut", client.number);
        let all = client.has_left || passed > TIMEOUT / 2 || answered == client.asked.len();
        assert!(all, "client {}: {answered} of {:?}", client.number, client.asked);
    }
}

/// Everybody sends the rest of what was begun, and takes all there is.
fn finish(simulation: &mut Simulation, clients: &mut [Client]) {
    for client in clients.iter_mut().filter(|client| !client.has_left) {
        let bytes = std::mem::take(&mut client.unsent);
        simulation.send(client.number, &bytes);
        simulation.take(client.number, usize::MAX);
    }
    let present: Vec<usize> =
        clients.iter().filter(|client| !client.has_left).map(|client| client.number).collect();
    loop {
        if simulation.go_on() {
            continue;
        }
        match present.iter().find(|number| simulation.is_busy(**number)) {
            Some(_) => simulation.wait_and_deliver(),
            None if simulation.deliver() => {}
            None => return,
        }
    }
}
