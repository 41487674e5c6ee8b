//! The second driver of the engine's steps: an exchange of an event loop with the origin server, for one request.
//! It waits for nothing, and decides nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;

use crate::message::body::Growing;
use crate::message::content::Slice;
use crate::message::fields::Fields;
use crate::message::growing::Writer;
use crate::message::pipe::BodyPipe;
use crate::origin::evented::{Consumer, ContentTaken, ExchangeKey, Space, WakeExchange, Wish};
use crate::origin::{OriginError, OriginHead, RequestHead};
use crate::proxy::Proxy;
use crate::proxy::fill::{
    CutShort, Ending, Incoming, PIECE_BYTES, PassedResponse, Progress, Transfer, WINDOW_PIECE_BYTES,
};
use crate::proxy::next::Answer;
use crate::proxy::plan::Fetch;
use crate::proxy::receive::AfterHead;
use crate::proxy::upgrade::UpgradeRequest;

/// The client of a request that is fetched on an event loop. Dropped unanswered, it sends its client an error.
pub trait FetchClient: Send + 'static {
    /// Takes the response, and what is to be fetched in the background after it.
    fn respond(self, answer: Answer);

    /// Takes an interim response, if its version of HTTP has them (RFC 9110 §15.2).
    fn interim(&mut self, status: StatusCode, fields: &Fields);

    /// Goes over to another protocol: the client is sent a 101 with these fields, and then what comes of `content`.
    /// Gives what the client sends from then on.
    fn switch(self, fields: Fields, content: Box<dyn Growing>) -> Box<dyn UploadedContent>;

    /// `wake` is called when the client has left, also after the response has begun.
    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>);

    /// Is the client still there?
    fn is_there(&self) -> bool;
}

/// The content of a request on its way from the client. Dropped, no more of it is asked for.
pub trait UploadedContent: Send {
    /// Adds some to `out`, at most `most` bytes. An error is the client's.
    fn take(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<ContentTaken>;

    /// `wake` is called when there is more.
    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>);
}

/// Runs what has to wait, on a thread that may.
pub type RunElsewhere = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// A request that an event loop asks the origin server for.
pub struct EventedFetch<C> {
    proxy: Arc<Proxy>,
    /// Whom the response is for; `None` for a refresh in the background, and once there is a response.
    client: Option<C>,
    /// It may be sent on when the response has begun (RFC 9112 §9.5); `None` if there is none, or no more.
    upload: Option<Box<dyn UploadedContent>>,
    state: EventedState,
    wake: Option<(ExchangeKey, WakeExchange)>,
    /// The exchange waits for space, and is woken once there is some.
    awaits_space: Arc<AtomicBool>,
    /// Readers tell when there is.
    listens_for_space: bool,
    /// The origin server is told that trailer fields are welcome.
    takes_trailers: bool,
    run_elsewhere: RunElsewhere,
}

/// How far it has come.
enum EventedState {
    /// The origin server is asked.
    Asking(Box<Fetch>),
    /// The origin server is asked to go over to another protocol.
    AskingToUpgrade(Box<UpgradeRequest>),
    /// It has: what it sends is passed on as it is.
    Tunnelling(Writer),
    /// The head has come. Nothing is passed on before the first piece has, of content that has this length.
    Awaiting(Box<Incoming>, usize),
    /// All that was announced has come; its end is not proven yet.
    AwaitingEnd(Box<Incoming>, Vec<u8>),
    /// The content is on its way. What may be its end is held back until its end is proven.
    Moving(Box<Transfer>, Vec<u8>),
    /// The content was cut short, and the origin server is asked once more.
    Resuming(Box<Transfer>),
    /// It is over.
    Over,
}

impl<C: FetchClient> EventedFetch<C> {
    /// The request that is to be sent for `fetch`; the response goes to `client`, where there is one.
    pub fn new(
        proxy: &Arc<Proxy>,
        fetch: Box<Fetch>,
        (client, upload): (Option<C>, Option<Box<dyn UploadedContent>>),
        run_elsewhere: RunElsewhere,
    ) -> (Self, RequestHead) {
        let head = proxy.head(&fetch);
        // The same whatever is asked for next.
        let takes_trailers = head.fields.contains("te");
        let this = Self {
            proxy: Arc::clone(proxy),
            client,
            upload,
            state: EventedState::Asking(fetch),
            wake: None,
            awaits_space: Arc::default(),
            listens_for_space: false,
            takes_trailers,
            run_elsewhere,
        };
        (this, head)
    }

    /// The request that is to be sent to go over to another protocol.
    pub fn upgrading(
        proxy: &Arc<Proxy>,
        asked: Box<UpgradeRequest>,
        client: C,
        run_elsewhere: RunElsewhere,
    ) -> (Self, RequestHead) {
        let head = asked.head.clone();
        let this = Self {
            proxy: Arc::clone(proxy),
            client: Some(client),
            upload: None,
            state: EventedState::AskingToUpgrade(asked),
            wake: None,
            awaits_space: Arc::default(),
            listens_for_space: false,
            takes_trailers: false,
            run_elsewhere,
        };
        (this, head)
    }

    fn respond(&mut self, answer: Answer) {
        // In the background nobody takes it; what is to be stored has its sink.
        if let Some(client) = self.client.take() {
            client.respond(answer);
        }
    }

    /// The response has begun.
    fn begin(&mut self, mut incoming: Box<Incoming>) -> Wish {
        incoming.brings_trailers = self.takes_trailers;
        let prefix = incoming.take_prefix();
        if let Some(prefix) = prefix {
            let Slice::Here(prefix) = prefix else { unreachable!("parts are in memory") };
            // What is stored of it is as much as anybody could wait for.
            if incoming.awaited().is_some() && !prefix.is_empty() {
                incoming.take(&prefix);
                return self.pass_on(*incoming);
            }
            return match self.pass_on(*incoming) {
                Wish::GoOn if !prefix.is_empty() => self.piece(&prefix),
                wish => wish,
            };
        }
        match incoming.awaited() {
            Some(length) => {
                self.state = EventedState::Awaiting(incoming, length);
                Wish::GoOn
            }
            None => self.pass_on(*incoming),
        }
    }

    /// The client is given the response, as far as it has come.
    fn pass_on(&mut self, mut incoming: Incoming) -> Wish {
        if incoming.has_to_settle() {
            // The head says whether the response is stored, and the backing store has yet to say so.
            let (proxy, client) = (Arc::clone(&self.proxy), self.client.take());
            (self.run_elsewhere)(Box::new(move || {
                incoming.settle();
                if let (PassedResponse::Whole(response), Some(client)) =
                    (proxy.pass_on(incoming), client)
                {
                    client.respond(response.into());
                }
            }));
            return Wish::Over;
        }
        match self.proxy.pass_on(incoming) {
            PassedResponse::Whole(response) => {
                self.respond(response.into());
                Wish::Over
            }
            PassedResponse::Growing(response, transfer) => {
                self.state = EventedState::Moving(transfer, Vec::new());
                self.respond(response.into());
                Wish::GoOn
            }
        }
    }

    /// The content was cut short, or is not what had come before.
    fn cut(&mut self, transfer: Box<Transfer>) -> Wish {
        match self.proxy.cut(transfer) {
            CutShort::AskAgain(transfer, head) => {
                self.state = EventedState::Resuming(transfer);
                Wish::Ask(Box::new(head))
            }
            CutShort::Lost => Wish::Over,
        }
    }

    /// A piece of content that is on its way.
    fn move_on(&mut self, mut transfer: Box<Transfer>, mut held: Vec<u8>, piece: &[u8]) -> Wish {
        // More than was announced: the sink says so itself.
        if !held.is_empty() {
            return self.cut(transfer);
        }
        if transfer.sink.completes(piece.len()) {
            // The length is reached; whether the content ends here, the framing has to say (RFC 9112 §8).
            held.extend_from_slice(piece);
            self.state = EventedState::Moving(transfer, held);
            return Wish::GoOn;
        }
        match transfer.sink.take(piece) {
            Progress::More => {
                self.state = EventedState::Moving(transfer, held);
                Wish::GoOn
            }
            Progress::Differs => self.cut(transfer),
            Progress::Whole | Progress::Lost => Wish::Over,
        }
    }

    /// The end of content that was on its way.
    fn finish(&mut self, transfer: Box<Transfer>, held: &[u8], piece: &[u8]) -> Wish {
        if !held.is_empty() && !piece.is_empty() {
            return self.cut(transfer);
        }
        let last = if held.is_empty() { piece } else { held };
        match transfer.finish(last) {
            Ok(Ending::Done(_)) => {}
            Ok(Ending::Settle(settling)) => {
                // Its readers have all but the last piece, which they get when it is stored.
                (self.run_elsewhere)(Box::new(move || _ = settling.wait()));
            }
            Err(transfer) => self.proxy.lose(&transfer),
        }
        Wish::Over
    }

    /// The end of content of which nothing has been passed on.
    fn finish_first(&mut self, mut incoming: Box<Incoming>, length: usize, piece: &[u8]) -> Wish {
        if piece.len() != length {
            let what = "the content is not as long as it was announced";
            let answer = self.proxy.cut_before(*incoming, what);
            self.respond(answer);
            return Wish::Over;
        }
        incoming.finish(Bytes::copy_from_slice(piece));
        self.pass_on(*incoming)
    }

    /// Has the sink space at `now`? If not, the exchange is woken when it has.
    fn space_in(&mut self, now: Instant) -> Space {
        let has_space = match &mut self.state {
            EventedState::Moving(transfer, _) if transfer.sink.is_in_vain() => {
                transfer.sink.give_up();
                return Space::Unwanted;
            }
            EventedState::Moving(transfer, _) => {
                transfer.sink.set_pace(now);
                transfer.sink.has_space()
            }
            EventedState::Tunnelling(writer) if writer.readers() == 0 => return Space::Unwanted,
            EventedState::Tunnelling(writer) => writer.has_space(),
            _ => return Space::Bytes(PIECE_BYTES),
        };
        if !self.listens_for_space && !has_space {
            self.listens_for_space = true;
            self.listen_for_space();
        }
        // Before the last look, so that space that comes after it wakes the exchange.
        self.awaits_space.store(true, Ordering::Release);
        let (until, most) = match &mut self.state {
            EventedState::Moving(transfer, _) => {
                (transfer.sink.space_or_until(now), transfer.sink.piece_bytes())
            }
            EventedState::Tunnelling(writer) => {
                let space = writer.space().unwrap_or(WINDOW_PIECE_BYTES);
                (writer.give_up_stalled(now), space.clamp(1, WINDOW_PIECE_BYTES))
            }
            _ => (None, PIECE_BYTES),
        };
        if let Some(until) = until {
            return Space::None(until);
        }
        self.awaits_space.store(false, Ordering::Relaxed);
        Space::Bytes(most)
    }

    /// From now on the exchange is woken when there is space again, if it waits for that.
    fn listen_for_space(&mut self) {
        let awaits = Arc::clone(&self.awaits_space);
        let (key, wake) = self.wake.clone().expect("the exchange has begun");
        let wake = Box::new(move || {
            // Readers take a little at a time; one message is enough.
            if awaits.swap(false, Ordering::AcqRel) {
                wake(key);
            }
        });
        match &mut self.state {
            EventedState::Moving(transfer, _) => transfer.sink.on_space(wake),
            EventedState::Tunnelling(writer) => writer.on_space(wake),
            _ => {}
        }
    }
}

impl<C: FetchClient> Consumer for EventedFetch<C> {
    fn begun(&mut self, key: ExchangeKey, wake: &WakeExchange) {
        self.wake = Some((key, Arc::clone(wake)));
        // It is another exchange if the origin server is asked again.
        self.listens_for_space = false;
        if let Some(client) = &mut self.client {
            let wake = Arc::clone(wake);
            client.listen(Box::new(move || wake(key)));
        }
        if let Some(upload) = &mut self.upload {
            let wake = Arc::clone(wake);
            upload.listen(Box::new(move || wake(key)));
        }
    }

    fn take_content(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<ContentTaken> {
        let upload = self.upload.as_mut().expect("content is asked for where it was announced");
        upload.take(out, most)
    }

    fn drop_content(&mut self) {
        self.upload = None;
    }

    fn switched(&mut self, fields: Fields) -> Wish {
        let EventedState::AskingToUpgrade(asked) =
            std::mem::replace(&mut self.state, EventedState::Over)
        else {
            unreachable!("only what asks to go over is answered so");
        };
        let fields = self.proxy.upgraded(&asked, fields);
        let (writer, reader) = Writer::passing(None);
        let client = self.client.take().expect("a client asks for a tunnel");
        let mut upload = client.switch(fields, Box::new(reader));
        let (key, wake) = self.wake.clone().expect("the exchange has begun");
        upload.listen(Box::new(move || wake(key)));
        self.upload = Some(upload);
        self.state = EventedState::Tunnelling(writer);
        Wish::GoOn
    }

    fn interim(&mut self, status: StatusCode, mut fields: Fields) {
        if let (EventedState::Asking(fetch), Some(client)) = (&self.state, &mut self.client) {
            self.proxy.rewrite_interim(fetch, &mut fields);
            client.interim(status, &fields);
        }
    }

    fn head(&mut self, head: OriginHead) -> Wish {
        match std::mem::replace(&mut self.state, EventedState::Over) {
            EventedState::Asking(fetch) => match self.proxy.receive(fetch, head) {
                AfterHead::AskAgain(again) => {
                    let head = self.proxy.head(&again);
                    self.state = EventedState::Asking(again);
                    Wish::Ask(Box::new(head))
                }
                AfterHead::Answer(answer) => {
                    self.respond(answer);
                    Wish::Over
                }
                AfterHead::Begun(incoming) => self.begin(incoming),
            },
            EventedState::AskingToUpgrade(asked) => {
                self.begin(Box::new(self.proxy.upgrade_declined(*asked, head)))
            }
            EventedState::Resuming(mut transfer) => {
                if transfer.resumes(&head) {
                    self.state = EventedState::Moving(transfer, Vec::new());
                    return Wish::GoOn;
                }
                self.proxy.lose(&transfer);
                Wish::Over
            }
            _ => unreachable!("one head answers a request"),
        }
    }

    fn space(&mut self, now: Instant) -> Space {
        self.space_in(now)
    }

    fn keeps_back(&self) -> bool {
        matches!(&self.state, EventedState::Moving(transfer, _) if transfer.sink.keeps_back())
    }

    fn piece(&mut self, piece: &[u8]) -> Wish {
        match std::mem::replace(&mut self.state, EventedState::Over) {
            EventedState::Tunnelling(mut writer) => {
                if !writer.push(piece) {
                    return Wish::Over;
                }
                self.state = EventedState::Tunnelling(writer);
                Wish::GoOn
            }
            EventedState::Moving(transfer, held) => self.move_on(transfer, held, piece),
            EventedState::Awaiting(mut incoming, length) if piece.len() < length => {
                incoming.take(piece);
                self.pass_on(*incoming)
            }
            // As long as was announced, or longer: only the end that its framing proves shows which.
            EventedState::Awaiting(incoming, length) if piece.len() == length => {
                self.state = EventedState::AwaitingEnd(incoming, piece.to_vec());
                Wish::GoOn
            }
            EventedState::Awaiting(incoming, length) => self.finish_first(incoming, length, piece),
            EventedState::AwaitingEnd(incoming, held) => {
                let answer = self.proxy.cut_before(*incoming, "more content than was announced");
                drop(held);
                self.respond(answer);
                Wish::Over
            }
            _ => unreachable!("content follows a head"),
        }
    }

    fn may_pipe(&self) -> bool {
        match &self.state {
            EventedState::Moving(transfer, held) => held.is_empty() && transfer.sink.may_pipe(),
            _ => false,
        }
    }

    fn piped(&mut self, pipe: &Arc<BodyPipe>, count: usize) -> Wish {
        let EventedState::Moving(transfer, _) = &mut self.state else {
            unreachable!("a pipe is for content that is on its way");
        };
        if transfer.sink.take_piped(pipe, count) == Progress::More {
            return Wish::GoOn;
        }
        self.state = EventedState::Over;
        Wish::Over
    }

    fn trailers(&mut self, fields: Fields) {
        // Where the content is all here before the head goes out, its length is known, and nothing can follow it.
        if let EventedState::Moving(transfer, _) = &mut self.state {
            transfer.sink.bring_trailers(fields);
        }
    }

    fn last(&mut self, piece: &[u8]) -> Wish {
        match std::mem::replace(&mut self.state, EventedState::Over) {
            EventedState::Moving(transfer, held) => self.finish(transfer, &held, piece),
            EventedState::Awaiting(incoming, length) => self.finish_first(incoming, length, piece),
            EventedState::AwaitingEnd(incoming, held) if piece.is_empty() => {
                self.finish_first(incoming, held.len(), &held)
            }
            EventedState::AwaitingEnd(incoming, _) => self.finish_first(incoming, 0, piece),
            EventedState::Tunnelling(mut writer) => {
                writer.push(piece);
                writer.finish();
                Wish::Over
            }
            // Its head has said all.
            _ => Wish::Over,
        }
    }

    fn fail(&mut self, error: OriginError) -> Wish {
        match std::mem::replace(&mut self.state, EventedState::Over) {
            EventedState::Asking(fetch) => {
                let answer = self.proxy.fail(fetch, &error);
                self.respond(answer);
                Wish::Over
            }
            EventedState::AskingToUpgrade(asked) => {
                let answer = self.proxy.upgrade_failed(&asked, &error);
                self.respond(answer);
                Wish::Over
            }
            // Dropped, the writer cuts what the client reads.
            EventedState::Tunnelling(_) => {
                log::debug!("a tunnel has ended: {error}");
                Wish::Over
            }
            EventedState::Awaiting(incoming, _) | EventedState::AwaitingEnd(incoming, _) => {
                let answer = self.proxy.cut_before(*incoming, &error.to_string());
                self.respond(answer);
                Wish::Over
            }
            EventedState::Moving(transfer, _) => {
                log::debug!("content cut short: {error}");
                self.cut(transfer)
            }
            EventedState::Resuming(transfer) => {
                self.proxy.lose(&transfer);
                Wish::Over
            }
            EventedState::Over => Wish::Over,
        }
    }

    fn is_wanted(&self) -> bool {
        // What may be stored is worth the rest, whoever has asked for it.
        match &self.state {
            EventedState::Asking(fetch) => {
                self.client.as_ref().is_none_or(FetchClient::is_there)
                    || self.proxy.is_worth_finishing(fetch)
            }
            EventedState::Moving(transfer, _) => !transfer.sink.is_in_vain(),
            EventedState::AskingToUpgrade(_) => {
                self.client.as_ref().is_some_and(FetchClient::is_there)
            }
            EventedState::Tunnelling(writer) => writer.readers() > 0,
            _ => true,
        }
    }

    fn abandoned(self, is_sent: bool) {
        match self.state {
            EventedState::Asking(fetch) if is_sent => self.proxy.abandon(&fetch),
            EventedState::Moving(mut transfer, _) => _ = transfer.sink.give_up(),
            _ => {}
        }
    }
}
