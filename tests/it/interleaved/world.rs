//! The driver in memory: what can happen next, and what must be so after it.

use std::fmt::Write as _;
use std::sync::Arc;

use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::message::body::{Arriving, Body, Growing, Grown};
use caching_proxy::message::request::Request;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::fill::{CutShort, Ending, Incoming, PassedResponse, Progress, Transfer};
use caching_proxy::proxy::{AfterHead, Answer, Attempt, Fetch, Next, Proxy, Refresh};
use caching_proxy::stats::Stats;
use caching_proxy::store::Store;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::tiers::{QueueLimits, WriterSteps};
use http::Method;
use parking_lot::Mutex;

use super::super::support::engine::request;
use super::super::support::stored::memory;
use super::super::support::{TemporaryFolder, settings};
use super::Random;
use super::script::{Answered, RESOURCES, Script};

/// Requests and other things in one run.
const STEPS: u64 = 240;
/// Steps after which a run whose clients stay must be over.
const END_STEPS: u64 = 20_000;

/// Everything.
pub struct World {
    random: Random,
    proxy: Arc<Proxy>,
    pub(super) cache: Arc<Cache>,
    /// Carries out what is to be written behind memory.
    writer: Option<WriterSteps>,
    clock: Clock,
    pub(super) script: Script,
    pub(super) clients: Vec<Client>,
    /// What the requests of this run are for: few things, so that they meet.
    resources: Vec<usize>,
    /// Content on its way from the origin server.
    transfers: Vec<(Box<Transfer>, Content)>,
    refreshes: Vec<Refresh>,
    /// What was purged, and in which step.
    pub(super) purges: Vec<(u64, Selector)>,
    pub step: u64,
    seed: u64,
    log: String,
    /// Nobody leaves, no connection dies, and nothing new comes.
    is_ending: bool,
}

/// A request, and how far it has come.
pub(super) struct Client {
    request: Arc<Request>,
    /// What it is for.
    pub resource: usize,
    /// The step in which it came.
    arrived: u64,
    state: State,
    /// The cache asks on its own account.
    is_refresh: bool,
}

enum State {
    New,
    /// Parked; the slot is filled by whoever resumes it.
    Parked(Arc<Mutex<Option<Attempt>>>),
    Next(Next),
    /// The origin server has been asked, and has answered so.
    Asked(Box<Fetch>, Box<Answered>),
    Begun(Box<Incoming>, Content),
    Reading(Box<Response>, Box<dyn Growing>, Vec<u8>),
    /// Its content is behind memory, or on its way there. To read it would wait for whoever brings it.
    Behind(Box<Response>, Box<dyn Arriving>),
    Over,
}

/// What the origin server still has to send of a response; `None` if its connection dies before the end.
struct Content {
    left: Vec<u8>,
    /// Bytes that have come.
    sent: usize,
    dies: bool,
}

impl World {
    /// Memory alone, or in front of a file in `folder`, to which nothing is written but by a step.
    pub fn new(seed: u64, folder: Option<&TemporaryFolder>) -> Self {
        let mut random = Random(seed);
        let resources = (0..=random.below(3)).map(|_| random.below(RESOURCES)).collect();
        let limits = MemoryLimits {
            bytes: [16 << 10, 64 << 10, 1 << 20][random.below(3)],
            responses: None,
            content_bytes: 8_000,
        };
        let eviction = [Eviction::Lru, Eviction::S3Fifo][random.below(2)];
        let (cache, writer) = match folder {
            None => (memory(eviction, limits), None),
            Some(folder) => {
                let (cache, writer) = on_disk(folder, store(eviction, limits));
                (cache, Some(writer))
            }
        };
        let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
        let stats = Arc::new(Stats::default());
        let proxy = Arc::new(Proxy::new(settings(), Arc::clone(&cache), clock.clone(), stats));
        Self {
            random,
            proxy,
            cache,
            writer,
            clock,
            script: Script::new(),
            clients: Vec::new(),
            resources,
            transfers: Vec::new(),
            refreshes: Vec::new(),
            purges: Vec::new(),
            step: 0,
            seed,
            log: String::new(),
            is_ending: false,
        }
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.log, "{}: {what}", self.step);
    }

    pub(super) fn fail(&self, what: &str) -> ! {
        panic!("SEED={}: {what}\n{}", self.seed, self.log);
    }

    /// Lets things happen in any order.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            self.step += 1;
            match self.random.below(44) {
                40.. => self.write(),
                0..7 => self.arrive(),
                7 => self.purge(),
                8 => self.happen(),
                9 => self.leave(),
                10..12 => self.begin_refresh(),
                12..18 => self.transfer(),
                _ => self.go_on(),
            }
            self.check_stored();
        }
    }

    /// Lets everything that has begun come to its end, and checks that nothing is left over.
    pub fn end(&mut self) {
        self.is_ending = true;
        let last = self.step + END_STEPS;
        while self.clients.iter().any(|client| !matches!(client.state, State::Over))
            || !self.transfers.is_empty()
            || !self.refreshes.is_empty()
        {
            self.step += 1;
            if self.step > last {
                let states: Vec<_> =
                    self.clients.iter().map(|client| client.state.name()).collect();
                self.fail(&format!(
                    "it does not end: {states:?}, {} transfers",
                    self.transfers.len()
                ));
            }
            match self.random.below(5) {
                0 => self.transfer(),
                1 => self.begin_refresh(),
                2 => self.write(),
                _ => self.go_on(),
            }
        }
        self.check_stored();
        self.check_written();
        let unsettled = self.proxy.unsettled();
        if unsettled != (0, 0) {
            self.fail(&format!("left over: {unsettled:?} flights and requests that wait"));
        }
        let usage = self.cache.usage().memory;
        if usage.arriving_bytes != 0 {
            self.fail(&format!("left over: memory for what arrives, {usage:?}"));
        }
    }

    /// A batch of changes is carried out behind memory.
    fn write(&mut self) {
        if self.writer.as_mut().is_some_and(WriterSteps::step) {
            self.note("a batch is written");
        }
    }

    /// A request comes.
    fn arrive(&mut self) {
        let resource = self.some_resource();
        let target = format!("/{resource}");
        let method = match self.random.below(14) {
            0 => "HEAD",
            1 => "PUT",
            _ => "GET",
        };
        let fields = match self.random.below(14) {
            0 => "Accept: a",
            1 => "Accept: b",
            2 => "Cache-Control: no-cache",
            3 => "Range: bytes=0-99",
            4 => "Range: bytes=100-299",
            5 => "If-None-Match: \"1\"",
            6 => "Cookie: c",
            _ => "",
        };
        let (arrived, is_refresh) = (self.step, false);
        self.note(&format!("client {} comes: {method} {target} {fields}", self.clients.len()));
        let request = Arc::new(request(method, &target, fields));
        self.clients.push(Client { request, resource, arrived, state: State::New, is_refresh });
    }

    fn purge(&mut self) {
        let uri = format!("http://o.test/{}", self.some_resource());
        let selector = match self.random.below(5) {
            0 => Selector::All,
            1 => Selector::Prefix("http://o.test/".to_string()),
            2 => Selector::Tag("red".to_string()),
            _ => Selector::Uri(uri),
        };
        self.note(&format!("purge {selector:?}"));
        self.cache.forget(&selector, self.clock.now());
        self.purges.push((self.step, selector));
    }

    /// Something that is about nobody in particular.
    fn happen(&mut self) {
        match self.random.below(8) {
            0..2 => {
                let resource = self.some_resource();
                self.note(&format!("resource {resource} changes"));
                self.script.change(resource);
            }
            2..5 => {
                self.note("a second passes");
                self.clock.advance(DeltaSeconds(1));
            }
            5 => {
                self.note("a minute passes");
                self.clock.advance(DeltaSeconds(60));
            }
            6 => self.proxy.sweep(),
            _ => {
                self.note("who waits has waited long enough");
                self.proxy.expire_parked(std::time::Duration::ZERO);
            }
        }
    }

    fn some_resource(&mut self) -> usize {
        self.resources[self.random.below(self.resources.len())]
    }

    /// A client goes away, whatever state its request is in.
    fn leave(&mut self) {
        let Some(index) = self.some_client() else { return };
        self.note(&format!("client {index} leaves, {}", self.clients[index].state.name()));
        self.clients[index].state = State::Over;
    }

    fn some_client(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.clients.len())
            .filter(|index| !matches!(self.clients[*index].state, State::Over))
            .collect();
        (!open.is_empty()).then(|| open[self.random.below(open.len())])
    }

    fn begin_refresh(&mut self) {
        let Some(refresh) = self.refreshes.pop() else { return };
        if !self.is_ending && self.random.one_in(4) {
            return self.note("no worker for a refresh");
        }
        let begun = self.proxy.refresh(refresh);
        self.note(&format!("a refresh begins: {}", begun.is_some()));
        if let Some(next) = begun {
            let request = Arc::new(request("GET", "/refresh", ""));
            let (arrived, state) = (self.step, State::Next(next));
            let (resource, is_refresh) = (0, true);
            self.clients.push(Client { request, resource, arrived, state, is_refresh });
        }
    }

    /// The next thing happens to one client.
    fn go_on(&mut self) {
        let Some(index) = self.some_client() else { return };
        let state = std::mem::replace(&mut self.clients[index].state, State::Over);
        let name = state.name();
        let state = match state {
            State::New => self.ask(index, Attempt::First),
            State::Parked(slot) => match slot.lock().take() {
                Some(attempt) => self.ask(index, attempt),
                None => State::Parked(Arc::clone(&slot)),
            },
            State::Next(next) => self.carry_out(index, next),
            State::Asked(fetch, answered) => self.receive(index, fetch, *answered),
            State::Begun(incoming, content) => self.begin(index, *incoming, content),
            State::Reading(response, reader, read) => self.read(index, response, reader, read),
            State::Behind(response, body) => self.read_behind(index, response, body),
            State::Over => State::Over,
        };
        if name != state.name() {
            self.note(&format!("client {index}: {name} -> {}", state.name()));
        }
        self.clients[index].state = state;
    }

    fn ask(&mut self, index: usize, attempt: Attempt) -> State {
        let request = Arc::clone(&self.clients[index].request);
        let next = self.proxy.ask(&request, attempt);
        self.take(index, next)
    }

    fn take(&mut self, index: usize, next: Next) -> State {
        match next {
            Next::Answer(Answer { response, refresh }) => {
                self.refreshes.extend(refresh.map(|refresh| *refresh));
                self.deliver(index, response)
            }
            Next::Follow(follow) => {
                let slot = Arc::new(Mutex::new(None));
                // Whoever left is resumed into nothing: what it was given to lead is handed on.
                let filled = Arc::downgrade(&slot);
                follow.park(Box::new(move |attempt| {
                    if let Some(slot) = filled.upgrade() {
                        let before = slot.lock().replace(attempt);
                        assert!(before.is_none(), "it is resumed once");
                    }
                }));
                State::Parked(slot)
            }
            next => State::Next(next),
        }
    }

    fn carry_out(&mut self, index: usize, next: Next) -> State {
        match next {
            Next::Recall(recall) => {
                let next = self.proxy.recall(*recall);
                self.take(index, next)
            }
            Next::Fetch(fetch) => {
                let head = self.proxy.head(&fetch);
                let answered = self.script.answer(&head, self.step, &mut self.random);
                State::Asked(fetch, Box::new(answered))
            }
            next => self.take(index, next),
        }
    }

    fn receive(&mut self, index: usize, fetch: Box<Fetch>, answered: Answered) -> State {
        let (head, content) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                let answer = self.proxy.fail(fetch, &error);
                return self.take(index, Next::Answer(answer));
            }
        };
        let changes = !matches!(self.clients[index].request.method, Method::GET | Method::HEAD);
        if changes && head.status.is_success() {
            let uri = format!("http://o.test/{}", self.clients[index].resource);
            self.purges.push((self.step, Selector::Uri(uri)));
        }
        match self.proxy.receive(fetch, head) {
            AfterHead::AskAgain(fetch) => State::Next(Next::Fetch(fetch)),
            AfterHead::Answer(answer) => self.take(index, Next::Answer(answer)),
            AfterHead::Begun(incoming) => {
                let dies = !self.is_ending && self.random.one_in(5);
                let left = content.unwrap_or_default();
                State::Begun(incoming, Content { left, sent: 0, dies })
            }
        }
    }

    /// The head goes out; of a short body, with the first piece.
    fn begin(&mut self, index: usize, mut incoming: Incoming, mut content: Content) -> State {
        if let Some(mut prefix) = incoming.take_prefix() {
            let mut whole = vec![0; prefix.len() as usize];
            prefix.read(&mut whole).expect("it is in memory");
            whole.append(&mut content.left);
            content.left = whole;
        }
        if let Some(length) = incoming.awaited() {
            let all = content.left.len();
            if content.dies && self.random.one_in(2) {
                let answer = self.proxy.cut_before(incoming, "it died");
                return self.take(index, Next::Answer(answer));
            }
            if content.dies || length > 1 && self.random.one_in(3) {
                let count = self.random.below(all.max(1)).max(1);
                if count < length {
                    let piece: Vec<u8> = content.left.drain(..count).collect();
                    content.sent += piece.len();
                    incoming.take(&piece);
                }
            } else {
                incoming.finish(std::mem::take(&mut content.left).into());
            }
        }
        if incoming.has_to_settle() {
            self.write_all();
            incoming.settle();
        }
        match self.proxy.pass_on(incoming) {
            PassedResponse::Whole(response) => self.deliver(index, response),
            PassedResponse::Growing(response, transfer) => {
                self.transfers.push((transfer, content));
                self.deliver(index, response)
            }
        }
    }

    /// One piece of some content comes, its end, or its death.
    fn transfer(&mut self) {
        if self.transfers.is_empty() {
            return;
        }
        let index = self.random.below(self.transfers.len());
        let (mut transfer, mut content) = self.transfers.swap_remove(index);
        if !transfer.sink.has_space() {
            // Nothing here is as large as a window: it is the line of what is to be written that is full.
            self.write_all();
            transfer.sink.wait_for_space();
        }
        if content.dies && (content.left.len() < 2 || self.random.one_in(4)) {
            return self.die(transfer, content.sent);
        }
        let count = content.left.len().min(1 + self.random.below(2_000));
        let piece: Vec<u8> = content.left.drain(..count).collect();
        content.sent += count;
        if content.left.is_empty() && (transfer.sink.completes(count) || self.random.one_in(2)) {
            match transfer.finish(&piece) {
                Ok(Ending::Done(_)) => self.note("content ends"),
                Ok(Ending::Settle(settling)) => {
                    self.note("content ends, and goes behind memory");
                    // Sometimes too late: then it is let go of.
                    if self.is_ending || !self.random.one_in(4) {
                        self.write_all();
                    }
                    settling.wait();
                }
                Err(transfer) => self.proxy.lose(&transfer),
            }
            return;
        }
        match transfer.sink.take(&piece) {
            Progress::More => self.transfers.push((transfer, content)),
            Progress::Differs => self.die(transfer, 0),
            Progress::Whole | Progress::Lost => self.note("nobody wants the rest"),
        }
    }

    /// A connection dies; where others read along, the origin server is asked once more.
    fn die(&mut self, transfer: Box<Transfer>, sent: usize) {
        let CutShort::AskAgain(mut transfer, head) = self.proxy.cut(transfer) else {
            return self.note("content is cut");
        };
        match self.script.answer(&head, self.step, &mut self.random) {
            Ok((head, Some(mut left))) if transfer.resumes(&head) => {
                self.note("content is resumed");
                // The same head need not bring the same bytes. From what is known on they are others.
                if sent > 0 && self.random.one_in(3) {
                    let at = self.random.below(sent);
                    left[at..].iter_mut().for_each(|byte| *byte ^= 1);
                }
                let dies = !self.is_ending && self.random.one_in(5);
                self.transfers.push((transfer, Content { left, sent: 0, dies }));
            }
            _ => self.proxy.lose(&transfer),
        }
    }

    /// A client gets the head of its response.
    fn deliver(&mut self, index: usize, mut response: Response) -> State {
        let client = &self.clients[index];
        if client.is_refresh {
            return State::Over;
        }
        self.check_not_purged(client.arrived, &response);
        match std::mem::replace(&mut response.body, Body::None { length: None }) {
            Body::None { .. } => State::Over,
            Body::Whole(bytes) => {
                self.check_content(index, &response, &bytes);
                State::Over
            }
            Body::Growing(reader) => State::Reading(Box::new(response), reader, Vec::new()),
            Body::Arriving(body) => State::Behind(Box::new(response), body),
        }
    }

    fn read(
        &mut self,
        index: usize,
        response: Box<Response>,
        mut reader: Box<dyn Growing>,
        mut read: Vec<u8>,
    ) -> State {
        let mut buffer = vec![0; 1 + self.random.below(3_000)];
        match reader.peek(&mut buffer) {
            Ok(Grown::Bytes(count)) => {
                let used = count.min(1 + self.random.below(count));
                read.extend_from_slice(&buffer[..used]);
                reader.consume(used);
                State::Reading(response, reader, read)
            }
            Ok(Grown::NotYet) => State::Reading(response, reader, read),
            Ok(Grown::End) => {
                self.check_content(index, &response, &read);
                State::Over
            }
            // Its connection died; the client learns that.
            Err(_) => State::Over,
        }
    }

    fn read_behind(
        &mut self,
        index: usize,
        response: Box<Response>,
        mut body: Box<dyn Arriving>,
    ) -> State {
        if !self.transfers.is_empty() {
            return State::Behind(response, body);
        }
        self.write_all();
        let (mut read, mut piece) = (Vec::new(), vec![0; 3_000]);
        loop {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => read.extend_from_slice(&piece[..count]),
                Err(_) => return State::Over,
            }
        }
        self.check_content(index, &response, &read);
        State::Over
    }

    pub(super) fn write_all(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.run();
        }
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Parked(_) => "parked",
            Self::Next(Next::Recall(_)) => "recalls",
            Self::Next(_) => "fetches",
            Self::Asked(..) => "asked",
            Self::Begun(..) => "begun",
            Self::Reading(..) => "reading",
            Self::Behind(..) => "reads behind memory",
            Self::Over => "over",
        }
    }
}

/// A cache in front of a file that holds more than memory does, with short lines of what is to be written.
fn on_disk(folder: &TemporaryFolder, memory: Arc<dyn Store>) -> (Arc<Cache>, WriterSteps) {
    let disk = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 64 << 20 };
    let backing = Sqlite::open(&folder.file("cache.db"), disk).expect("a store");
    let limits = QueueLimits::without_waits(1 << 17);
    let (cache, writer) = Cache::with_backing_by_hand(memory, Arc::new(backing), limits, false);
    (Arc::new(cache), writer)
}
