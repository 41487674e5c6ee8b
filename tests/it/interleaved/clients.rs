//! The driver in memory: what the next step of a request is, and of the content that it has brought on its way.
//! It does what the blocking driver does, but stops after each step.

use std::sync::Arc;
use std::time::Instant;

use caching_proxy::clock::Timestamp;
use caching_proxy::message::body::{Arriving, Body, Growing, Grown};
use caching_proxy::message::request::Request;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::fill::{CutShort, Ending, Incoming, PassedResponse, Progress, Transfer};
use caching_proxy::proxy::{AfterHead, Answer, Attempt, Fetch, Next};
use http::Method;
use parking_lot::Mutex;

use super::script::{Answered, letter, text};
use super::world::{Engine, World};

/// A request, and how far it has come.
pub struct Client {
    pub request: Arc<Request>,
    /// Which proxy it has come to.
    pub proxy: usize,
    /// What it is for.
    pub resource: usize,
    /// The step in which it was looked up first.
    pub asked: u64,
    /// When it was looked up, for the last time.
    pub asked_at: Timestamp,
    pub state: State,
    /// The cache asks on its own account.
    is_refresh: bool,
}

pub enum State {
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

/// What the origin server still has to send of a response.
pub struct Content {
    left: Vec<u8>,
    /// Bytes that have come.
    sent: usize,
    /// Its connection ends before all has come.
    dies: bool,
}

impl Content {
    /// All that is left comes at once, with its end; is it over well?
    pub fn end(self, transfer: Box<Transfer>) -> bool {
        !self.dies && matches!(transfer.finish(&self.left), Ok(Ending::Done(_)))
    }
}

impl Client {
    pub fn new(request: Arc<Request>, proxy: usize, resource: usize) -> Self {
        let (asked, asked_at, state) = (0, Timestamp(0), State::New);
        Self { request, proxy, resource, asked, asked_at, state, is_refresh: false }
    }

    /// The cache's own request, of a proxy.
    pub fn refresh(request: Arc<Request>, proxy: usize, state: State) -> Self {
        Self { state, is_refresh: true, ..Self::new(request, proxy, 0) }
    }

    /// A field of its request.
    pub fn field(&self, name: &str) -> String {
        text(&self.request.fields, name)
    }
}

impl State {
    pub fn name(&self) -> &'static str {
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

    /// Has it followed another, and can it go on?
    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Parked(slot) if slot.lock().is_some())
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }
}

impl World {
    /// The next thing happens to one client.
    pub(super) fn go_on(&mut self) {
        let Some(index) = self.some_client() else { return };
        let state = std::mem::replace(&mut self.clients[index].state, State::Over);
        let name = state.name();
        self.set_hasty(true);
        let state = match state {
            State::New => {
                self.clients[index].asked = self.step();
                self.ask(index, Attempt::First)
            }
            State::Parked(slot) => {
                let attempt = slot.lock().take();
                match attempt {
                    Some(attempt) => self.ask(index, attempt),
                    None => State::Parked(slot),
                }
            }
            State::Next(next) => self.carry_out(index, next),
            State::Asked(fetch, answered) => self.receive(index, fetch, *answered),
            State::Begun(incoming, content) => self.begin(index, *incoming, content),
            State::Reading(response, reader, read) => self.read(index, response, reader, read),
            State::Behind(response, body) => self.read_behind(index, response, body),
            State::Over => State::Over,
        };
        self.set_hasty(false);
        if name != state.name() {
            self.note(&format!("client {index}: {name} -> {}", state.name()));
        }
        self.clients[index].state = state;
    }

    fn engine(&self, index: usize) -> &Engine {
        &self.engines[self.clients[index].proxy]
    }

    fn ask(&mut self, index: usize, attempt: Attempt) -> State {
        self.clients[index].asked_at = self.clock.now();
        let request = Arc::clone(&self.clients[index].request);
        let next = self.engine(index).proxy.ask(&request, attempt);
        self.take(index, next)
    }

    fn take(&mut self, index: usize, next: Next) -> State {
        match next {
            Next::Answer(Answer { response, refresh }) => {
                let proxy = self.clients[index].proxy;
                self.refreshes.extend(refresh.map(|refresh| (proxy, *refresh)));
                self.deliver(index, response)
            }
            Next::Follow(follow) => {
                let slot = Arc::new(Mutex::new(None));
                // A client that has left is resumed into nothing: what it was given to lead is handed on.
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
                let next = self.engine(index).proxy.recall(*recall);
                self.take(index, next)
            }
            Next::Fetch(fetch) => {
                let head = self.engine(index).proxy.head(&fetch);
                let proxy = self.clients[index].proxy;
                let moment = (proxy, self.step(), self.clock.now());
                let answered = self.script.answer(&head, moment, &mut self.random);
                State::Asked(fetch, Box::new(answered))
            }
            next => self.take(index, next),
        }
    }

    fn receive(&mut self, index: usize, fetch: Box<Fetch>, answered: Answered) -> State {
        let (head, content) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                let answer = self.engine(index).proxy.fail(fetch, &error);
                return self.take(index, Next::Answer(answer));
            }
        };
        let Client { request, proxy, resource, .. } = &self.clients[index];
        let changes = !matches!(request.method, Method::GET | Method::HEAD);
        if changes && head.status.is_success() {
            let selector = Selector::Uri(format!("http://o.test/{}", letter(*resource)));
            let (proxy, own) = (*proxy, text(&head.fields, "x-serial").parse().ok());
            // By the key that the response would have, and by that of the target; and by the one that a
            // Content-Location names.
            let times = if head.fields.contains("content-location") { 3 } else { 2 };
            for _ in 0..times {
                self.purged(proxy, selector.clone(), own);
            }
        }
        match self.engine(index).proxy.receive(fetch, head) {
            AfterHead::AskAgain(fetch) => State::Next(Next::Fetch(fetch)),
            AfterHead::Answer(answer) => self.take(index, Next::Answer(answer)),
            AfterHead::Begun(incoming) => {
                let (left, dies) = (content.unwrap_or_default(), self.has_to_die());
                State::Begun(incoming, Content { left, sent: 0, dies })
            }
        }
    }

    /// Does a connection end before its time?
    fn has_to_die(&mut self) -> bool {
        self.mood.is_rough && !self.is_ending && self.random.one_in(5)
    }

    /// The head goes out; of a short body, with the first piece.
    fn begin(&mut self, index: usize, mut incoming: Incoming, mut content: Content) -> State {
        if let Some(mut prefix) = incoming.take_prefix() {
            let mut whole = vec![0; prefix.len() as usize];
            let mut filled = 0;
            while filled < whole.len() {
                match prefix.read(&mut whole[filled..]) {
                    Ok(count @ 1..) => filled += count,
                    ended => panic!("client {index}: the stored part is not there: {ended:?}"),
                }
            }
            whole.append(&mut content.left);
            content.left = whole;
        }
        if let Some(length) = incoming.awaited() {
            let all = content.left.len();
            if content.dies && self.random.one_in(2) {
                let answer = self.engine(index).proxy.cut_before(incoming, "it died");
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
        let proxy = self.clients[index].proxy;
        match self.engines[proxy].proxy.pass_on(incoming) {
            PassedResponse::Whole(response) => self.deliver(index, response),
            PassedResponse::Growing(response, transfer) => {
                self.transfers.lock().push((proxy, transfer, content));
                self.deliver(index, response)
            }
        }
    }

    /// One piece of some content comes, its end, or its death.
    pub(super) fn transfer(&mut self) {
        let count = self.transfers.lock().len();
        if count == 0 {
            return;
        }
        let index = self.random.below(count);
        let (proxy, mut transfer, mut content) = self.transfers.lock().swap_remove(index);
        if !transfer.sink.has_space() {
            // The line of what is to be written is full, or the window of the one who reads it.
            self.write_all();
            if transfer.sink.give_up_stalled(Instant::now()).is_some() {
                self.transfers.lock().push((proxy, transfer, content));
                return self.note("the reader has to take some first");
            }
            transfer.sink.wait_for_space();
        }
        if transfer.sink.is_in_vain() {
            transfer.sink.give_up();
            return self.note("nobody wants the rest");
        }
        if content.dies && (content.left.len() < 2 || self.random.one_in(4)) {
            return self.die(proxy, transfer, content.sent);
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
                    if !self.mood.is_rough || self.is_ending || !self.random.one_in(4) {
                        self.write_all();
                    }
                    settling.wait();
                }
                Err(transfer) => self.engines[proxy].proxy.lose(&transfer),
            }
            return;
        }
        match transfer.sink.take(&piece) {
            Progress::More => self.transfers.lock().push((proxy, transfer, content)),
            Progress::Differs => self.die(proxy, transfer, 0),
            Progress::Whole | Progress::Lost => self.note("nobody wants the rest"),
        }
    }

    /// A connection dies; where others read along, the origin server is asked once more.
    fn die(&mut self, proxy: usize, transfer: Box<Transfer>, sent: usize) {
        let CutShort::AskAgain(mut transfer, head) = self.engines[proxy].proxy.cut(transfer) else {
            return self.note("content is cut");
        };
        let moment = (proxy, self.step(), self.clock.now());
        match self.script.answer(&head, moment, &mut self.random) {
            Ok((head, Some(mut left))) if transfer.resumes(&head) => {
                self.note("content is resumed");
                // The same head need not bring the same bytes. From what is known on they are others.
                if sent > 0 && self.random.one_in(3) {
                    let at = self.random.below(sent);
                    left[at..].iter_mut().for_each(|byte| *byte ^= 1);
                }
                let dies = self.has_to_die();
                self.transfers.lock().push((proxy, transfer, Content { left, sent: 0, dies }));
            }
            _ => self.engines[proxy].proxy.lose(&transfer),
        }
    }

    /// A client gets the head of its response.
    fn deliver(&mut self, index: usize, mut response: Response) -> State {
        if self.clients[index].is_refresh {
            return State::Over;
        }
        self.check_head(index, &response);
        match std::mem::replace(&mut response.body, Body::None { length: None }) {
            Body::None { .. } => State::Over,
            Body::Whole(bytes) => {
                self.check_content(index, &response, Some(bytes.len() as u64), &bytes);
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
                self.check_content(index, &response, reader.length(), &read);
                State::Over
            }
            Err(error) => {
                self.check_cut(index, &response, &error, false);
                State::Over
            }
        }
    }

    fn read_behind(
        &mut self,
        index: usize,
        response: Box<Response>,
        mut body: Box<dyn Arriving>,
    ) -> State {
        if !self.transfers.lock().is_empty() {
            return State::Behind(response, body);
        }
        self.write_all();
        let (mut read, mut piece) = (Vec::new(), vec![0; 3_000]);
        loop {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => read.extend_from_slice(&piece[..count]),
                Err(error) => {
                    self.check_cut(index, &response, &error, true);
                    return State::Over;
                }
            }
        }
        self.check_content(index, &response, body.length(), &read);
        State::Over
    }
}
