//! Bodies on their way in, at any size of memory: whoever asks for one gets all of it, byte for byte, and
//! memory stays within its bound. In process, so that every piece can be looked at as it comes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use caching_proxy::clock::{Clock, Timestamp};
use caching_proxy::message::body::{Arriving, BlockingBody, Body};
use caching_proxy::message::request::Request;
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::{Attempt, BlockingDriver, Next, Proxy};
use caching_proxy::stats::Stats;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use http::{Method, StatusCode, Version};

use super::support::engine::to_fields;
use super::support::origin::{Gate, Origin as Server, on};
use super::support::proxy::Proxy as Binary;
use super::support::{PATIENCE, TemporaryFolder, settings};

const DISK: DiskLimits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 16 << 20 };

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
struct Case {
    memory: u64,
    size: usize,
    /// How much the origin server sends at a time.
    piece: usize,
    states_length: bool,
    on_disk: bool,
    /// Other bodies have taken all the room for what is on its way in.
    crowded: bool,
}

impl Case {
    fn content(self) -> Vec<u8> {
        (0..self.size).map(|number| (number * 31 % 251) as u8).collect()
    }

    /// A quarter of the memory is for what is on its way in, and for one response at most.
    fn fits_memory(self) -> bool {
        self.size as u64 <= self.memory / 4 && (!self.crowded || self.size == 0)
    }
}

/// Sends the content of a case, once, and looks at the store before each piece.
struct Pieces {
    case: Case,
    store: Arc<Cache>,
}

struct Piecemeal {
    left: VecDeque<u8>,
    case: Case,
    store: Arc<Cache>,
}

fn assert_bounded(store: &Arc<Cache>, case: Case) {
    let usage = store.usage().memory;
    assert!(usage.bytes + usage.arriving_bytes <= case.memory, "{case:?}: {usage:?}");
    assert!(usage.arriving_bytes <= case.memory / 4, "{case:?}: {usage:?}");
}

impl OriginBody for Piecemeal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert_bounded(&self.store, self.case);
        let count = buffer.len().min(self.left.len()).min(self.case.piece);
        for (slot, byte) in buffer.iter_mut().zip(self.left.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }
}

impl Origin for Pieces {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let left = VecDeque::from(self.case.content());
        let (case, store) = (self.case, Arc::clone(&self.store));
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::OK,
                version: Version::HTTP_11,
                fields: to_fields("Cache-Control: max-age=600"),
                length: case.states_length.then_some(case.size as u64),
                silently_delimited: false,
                has_content: true,
            },
            body: Some(Box::new(Piecemeal { left, case, store })),
        })
    }
}

fn open(case: Case, folder: &TemporaryFolder) -> Arc<Cache> {
    let limits = MemoryLimits { bytes: case.memory, responses: None, content_bytes: 16 << 20 };
    let memory = store(Eviction::Lru, limits);
    if !case.on_disk {
        return Arc::new(Cache::in_memory(memory));
    }
    let backing = Sqlite::open(&folder.file("cache.db"), DISK).expect("a store");
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 256 << 10, false).expect("a thread"))
}

fn request() -> Arc<Request> {
    let fields = to_fields("Host: h");
    Arc::new(Request::new(Method::GET, "/a", Version::HTTP_11, fields, None).expect("a request"))
}

/// What a request comes to that is sent now.
fn answer(driver: &BlockingDriver) -> Response {
    driver.answer(&request()).into_response()
}

/// All of a body, a few bytes at a time.
fn content(response: Response) -> io::Result<Vec<u8>> {
    let mut body: Box<dyn Arriving> = match response.body {
        Body::None { .. } => return Ok(Vec::new()),
        Body::Whole(bytes) => return Ok(bytes.to_vec()),
        Body::Arriving(body) => body,
        Body::Growing(body) => Box::new(BlockingBody(body)),
    };
    let (mut all, mut piece) = (Vec::new(), vec![0; 5_000]);
    loop {
        match body.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

fn told(response: &Response) -> String {
    let told = response.fields.get("cache-status").expect("always there");
    format!("{} {}", response.status.as_u16(), told.to_str().expect("text"))
}

/// Two clients ask at once, and a third one later.
fn run(case: Case) {
    let folder = TemporaryFolder::new();
    let store = open(case, &folder);
    let mut others = store.reserve();
    assert!(!case.crowded || others.grow(case.memory / 4));
    let origin = Arc::new(Pieces { case, store: Arc::clone(&store) });
    let mut settings = settings();
    settings.storing.object_bytes_max = 16 << 20;
    let stats = Arc::new(Stats::default());
    let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
    let proxy = Arc::new(Proxy::new(settings, Arc::clone(&store), clock, stats));
    let driver = BlockingDriver::new(Arc::clone(&proxy), origin);
    let leads = proxy.ask(&request(), Attempt::First);
    assert!(matches!(leads, Next::Recall(_) | Next::Fetch(_)), "{case:?}: it is the first");
    let Next::Follow(follow) = proxy.ask(&request(), Attempt::First) else {
        panic!("{case:?}: it follows")
    };
    let (resume, resumed) = channel();
    follow.park(Box::new(move |attempt| drop(resume.send(attempt))));
    let expected = case.content();
    thread::scope(|scope| {
        let driver = &driver;
        let carry_out =
            |next| driver.carry_out(&request(), next, RequestContent::None, None).into_response();
        let follower = scope.spawn(move || {
            let attempt = resumed.recv_timeout(PATIENCE).expect("it is told");
            let response = carry_out(driver.proxy().ask(&request(), attempt));
            (told(&response), content(response))
        });
        let response = carry_out(leads);
        let lead = (told(&response), content(response));
        for (told, content) in [lead, follower.join().expect("no panic")] {
            let content = content.unwrap_or_else(|error| panic!("{case:?}: {told}: {error}"));
            assert!(content == expected, "{case:?}: {told}: {} bytes", content.len());
            assert!(told.starts_with("200 "), "{case:?}: {told}");
        }
    });
    drop(others);
    assert_bounded(&store, case);
    assert_eq!(store.usage().memory.arriving_bytes, 0, "{case:?}: all room is given back");
    let later = answer(&driver);
    let is_stored = told(&later).contains(" hit");
    assert_eq!(is_stored, case.on_disk || case.fits_memory(), "{case:?}: {}", told(&later));
    assert!(content(later).expect("it is whole") == expected, "{case:?}");
    assert_bounded(&store, case);
}

fn all(on_disk: bool, crowded: bool) {
    for memory in [64 << 10, 128 << 10, 255 << 10, 1 << 20] {
        for size in [0, 1, 5_000, 20_000, 65_536, 65_537, 300_000] {
            // In one piece, as far as it fits a read; in two; and byte by byte.
            for piece in [size.max(1), size / 2 + 1, 1] {
                for states_length in [true, false] {
                    if piece > 1 || size <= 20_000 {
                        run(Case { memory, size, piece, states_length, on_disk, crowded });
                    }
                }
            }
        }
    }
}

#[test]
fn every_client_gets_the_whole_body_whatever_memory_has_space_for() {
    all(false, false);
}

#[test]
fn the_same_with_a_store_behind_memory_where_all_of_it_is_stored() {
    all(true, false);
}

/// The room for bodies on their way in is shared, and it is asked for: who finds none goes behind memory.
#[test]
fn a_body_that_finds_no_room_goes_behind_memory_or_is_passed_on() {
    all(false, true);
    all(true, true);
}

/// The same through the binary: a body that comes with its head, and one that comes in two pieces.
#[test]
fn a_short_body_larger_than_its_share_of_memory_is_sent_and_stored() {
    let folder = TemporaryFolder::new();
    let disk = format!("sqlite:{}", folder.file("cache.db").display());
    let body = "0123456789".repeat(2_000);
    let (first, second) = body.split_at(7_000);
    for flags in [vec!["--store", &disk, "--cache-memory", "64K"], vec!["--cache-memory", "64K"]] {
        let gate = Gate::new();
        let times = if flags.len() == 4 { 1 } else { 3 };
        let head = "Cache-Control: max-age=600; Content-Length: 20000";
        let origin = Server::script([
            on("GET /one").send(200, "Cache-Control: max-age=600", &body).times(times),
            on("GET /two").head(200, head).bytes(first).wait(&gate).bytes(second).times(times),
        ]);
        let proxy = Binary::before(&origin, &flags);
        for target in ["/one", "/two"] {
            let mut leads = proxy.connect();
            leads.request("GET", target, "", "");
            leads.head().expect("a head before the second piece");
            let follows = thread::scope(|scope| {
                let follows = scope.spawn(|| proxy.get(target));
                gate.open();
                follows.join().expect("a reply")
            });
            let mut content = vec![0; body.len()];
            io::Read::read_exact(&mut leads.stream, &mut content).expect("all of it");
            assert!(content == body.as_bytes() && follows.body() == body, "{target} {flags:?}");
            let later = proxy.get(target);
            assert_eq!((later.is_hit(), later.body() == body), (times == 1, true), "{flags:?}");
        }
    }
}
