//! The driver in memory: what can happen next, and what must be so after it.

use std::fmt::Write as _;
use std::sync::Arc;

use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::message::body::{Body, Growing, Grown};
use caching_proxy::message::request::Request;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::fill::{CutShort, Ending, Incoming, PassedResponse, Progress, Transfer};
use caching_proxy::proxy::{AfterHead, Answer, Attempt, Fetch, Next, Proxy, Refresh};
use caching_proxy::stats::Stats;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits};
use http::Method;
use parking_lot::Mutex;

use super::super::support::engine::request;
use super::super::support::settings;
use super::super::support::stored::memory;
use super::Random;
use super::script::{Answered, RESOURCES, Script, content, text};

/// Requests and other things in one run.
const STEPS: u64 = 240;
/// Steps after which a run whose clients stay must be over.
const END_STEPS: u64 = 20_000;

/// Everything.
pub struct World {
    random: Random,
    proxy: Arc<Proxy>,
    cache: Arc<Cache>,
    clock: Clock,
    script: Script,
    clients: Vec<Client>,
    /// What the requests of this run are for: few things, so that they meet.
    resources: Vec<usize>,
    /// Content on its way from the origin server.
    transfers: Vec<(Box<Transfer>, Content)>,
    refreshes: Vec<Box<Refresh>>,
    /// What was purged, and in which step.
    purges: Vec<(u64, Selector)>,
    pub step: u64,
    seed: u64,
    log: String,
    /// Nobody leaves, no connection dies, and nothing new comes.
    is_ending: bool,
}

/// A request, and how far it has come.
struct Client {
    request: Arc<Request>,
    /// What it is for.
    resource: usize,
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
    Begun(Incoming, Content),
    Reading(Box<Response>, Box<dyn Growing>, Vec<u8>),
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
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let resources = (0..1 + random.below(3)).map(|_| random.below(RESOURCES)).collect();
        let limits = MemoryLimits {
            bytes: [16 << 10, 64 << 10, 1 << 20][random.below(3)],
            responses: None,
            content_bytes: 8_000,
        };
        let cache = memory([Eviction::Lru, Eviction::S3Fifo][random.below(2)], limits);
        let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
        let stats = Arc::new(Stats::default());
        let proxy = Arc::new(Proxy::new(settings(), Arc::clone(&cache), clock.clone(), stats));
        Self {
            random,
            proxy,
            cache,
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

    fn fail(&self, what: &str) -> ! {
        panic!("SEED={}: {what}\n{}", self.seed, self.log);
    }

    /// Lets things happen in any order.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            self.step += 1;
            match self.random.below(40) {
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
    pub fn log(&self) -> &str {
        &self.log
    }

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
            match self.random.below(4) {
                0 => self.transfer(),
                1 => self.begin_refresh(),
                _ => self.go_on(),
            }
        }
        self.check_stored();
        let unsettled = self.proxy.unsettled();
        if unsettled != (0, 0) {
            self.fail(&format!("left over: {unsettled:?} flights and requests that wait"));
        }
        let usage = self.cache.usage().memory;
        if usage.arriving_bytes != 0 {
            self.fail(&format!("left over: memory for what arrives, {usage:?}"));
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
        let begun = self.proxy.refresh(*refresh);
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
            State::Begun(incoming, content) => self.begin(index, incoming, content),
            State::Reading(response, reader, read) => self.read(index, response, reader, read),
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
                self.refreshes.extend(refresh);
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
                State::Begun(*incoming, Content { left, sent: 0, dies })
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
        assert!(!incoming.has_to_settle(), "memory has no second thoughts");
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
            return self.transfers.push((transfer, content));
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
                Ok(Ending::Settle(_)) => self.fail("memory has no second thoughts"),
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
            Body::Arriving(_) => self.fail("nothing here waits"),
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

    /// An answer that ends well has all the bytes of one version, and no others.
    fn check_content(&self, index: usize, response: &Response, bytes: &[u8]) {
        let Some(expected) = expected(self.clients[index].resource, response) else { return };
        if bytes != expected {
            let (shown, fields) = (String::from_utf8_lossy(bytes), &response.fields);
            self.fail(&format!("client {index} got {} bytes {shown}, {fields:?}", bytes.len()));
        }
    }

    /// Nothing that was given before a purge is given to a request that came after it.
    fn check_not_purged(&self, arrived: u64, response: &Response) {
        let Some(given) = self.given(&text(&response.fields, "x-serial")) else { return };
        let (key, tags) = self.named(&response.fields);
        for (purged, selector) in &self.purges {
            if *purged < arrived && *purged > given && means(selector, &key, &tags) {
                self.fail(&format!(
                    "given in step {given}, purged in {purged} by {selector:?}, and answered to a \
                     request of step {arrived}"
                ));
            }
        }
    }

    /// What is stored is whole, and not purged.
    fn check_stored(&self) {
        for resource in 0..RESOURCES {
            let key = CacheKey::from(format!("http://o.test/{resource}").as_str());
            let look = self.cache.look(&key);
            for stored in look.variants() {
                let (version, accept) =
                    (text(&stored.fields, "x-version"), text(&stored.fields, "x-accept"));
                let version = version.parse().unwrap_or_default();
                let all = content(resource, version, &accept);
                let expected = match stored.part {
                    None => &all[..],
                    Some(part) => &all[part.span.first as usize..=part.span.last as usize],
                };
                if stored.content.here().is_none_or(|content| content != expected) {
                    self.fail(&format!("stored for {key} is no whole version: {stored:?}"));
                }
                let Some(given) = self.given(&text(&stored.fields, "x-serial")) else { continue };
                let (key, tags) = self.named(&stored.fields);
                let purge = self
                    .purges
                    .iter()
                    .find(|(purged, selector)| *purged > given && means(selector, &key, &tags));
                if let Some(purge) = purge {
                    self.fail(&format!("given in step {given}, purged, and stored: {purge:?}"));
                }
            }
        }
    }

    fn given(&self, serial: &str) -> Option<u64> {
        serial.parse::<usize>().ok().map(|serial| self.script.given[serial])
    }

    /// The URI and the tags of a response.
    fn named(&self, fields: &caching_proxy::message::fields::Fields) -> (String, String) {
        let serial: usize = text(fields, "x-serial").parse().expect("a number");
        (format!("http://o.test/{}", self.script.resources[serial]), text(fields, "surrogate-key"))
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
            Self::Over => "over",
        }
    }
}

/// The bytes that a response with this head must have; `None` for what the proxy or the origin server says of
/// errors.
fn expected(resource: usize, response: &Response) -> Option<Vec<u8>> {
    let version = text(&response.fields, "x-version").parse().ok()?;
    let all = content(resource, version, &text(&response.fields, "x-accept"));
    match response.status.as_u16() {
        200 => Some(all),
        206 => {
            let range = text(&response.fields, "content-range");
            let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
            Some(all[first.parse().ok()?..=last.parse().ok()?].to_vec())
        }
        _ => None,
    }
}

fn means(selector: &Selector, uri: &str, tags: &str) -> bool {
    match selector {
        Selector::All | Selector::Prefix(_) => true,
        Selector::Uri(named) => named == uri,
        Selector::Tag(tag) => tags.split(' ').any(|one| one == tag),
        _ => false,
    }
}
