//! A request that is not answered at once: its client as the exchange with the origin server has it, on the client's
//! own event loop, and as a worker has it that asks the backing store. What it reads from the client and sends to it
//! goes through the loop that has the client's socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::{StatusCode, Version};
use parking_lot::Mutex;

use crate::front::dispatch::{self, Dispatch};
use crate::front::event::inbox::{self, AgreedUpgrade, ExchangeId};
use crate::front::event::upload::{Upload, UploadReader};
use crate::front::relay::Relay;
use crate::front::wire::interim_head;
use crate::message::body::{Arriving, Body, Growing};
use crate::message::fields::Fields;
use crate::message::request::{Framing, Request};
use crate::origin::evented::ContentTaken;
use crate::origin::{Interim, RequestContent};
use crate::policy::response::Response;
use crate::proxy::{Answer, Attempt, Delivery, Fetch, FetchClient, UploadedContent};

/// Interim responses that one request's client is sent.
const INTERIMS_MAX: u32 = 64;

/// The inbox of a loop, and its messages.
pub(super) type LoopInbox = inbox::Inbox<EventExchange>;
pub(super) type LoopMessage = inbox::Message<EventExchange>;

/// A request, and the id that its answer carries. Dropped unanswered, it sends [`LoopMessage::Lost`].
pub(super) struct EventExchange {
    inbox: Arc<LoopInbox>,
    dispatch: Arc<Dispatch>,
    id: ExchangeId,
    /// The number of the client's connection.
    client: u64,
    request: Arc<Request>,
    upload: Option<Arc<Upload>>,
    presence: Arc<Presence>,
    /// How many interim responses it has been sent.
    interims: u32,
    answered: bool,
}

/// Is the client of an exchange still there? Shared by its connection and by what is done for it.
#[derive(Default)]
pub(super) struct Presence {
    is_gone: AtomicBool,
    /// Is called when it has gone.
    on_gone: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl Presence {
    /// The client has gone.
    pub(super) fn leave(&self) {
        self.is_gone.store(true, Ordering::Release);
        // Taken out first: whoever is told may look at once.
        let on_gone = self.on_gone.lock().take();
        if let Some(on_gone) = on_gone {
            on_gone();
        }
    }
}

impl EventExchange {
    pub(super) fn new(
        (inbox, dispatch): (Arc<LoopInbox>, Arc<Dispatch>),
        (id, client): (ExchangeId, u64),
        request: Arc<Request>,
        upload: Option<Arc<Upload>>,
        presence: Arc<Presence>,
    ) -> Self {
        Self {
            inbox,
            dispatch,
            id,
            client,
            request,
            upload,
            presence,
            interims: 0,
            answered: false,
        }
    }

    /// The number of the client's connection, which no other of the loop has.
    pub(super) fn client(&self) -> u64 {
        self.client
    }

    /// Gives the exchange up: the loop answers it by itself.
    pub(super) fn into_answered(mut self) {
        self.answered = true;
    }

    fn send_response(&mut self, response: Response) {
        assert!(!self.answered, "an exchange has one response");
        self.answered = true;
        self.inbox.send(LoopMessage::Response(self.id, response));
    }

    /// Passes on what arrives, through a bounded buffer.
    fn relay(&mut self, response: Response, body: Box<dyn Arriving>) {
        let (response, relay) = Relay::between(response, body, &self.dispatch);
        // First the body: what cannot be read from its first byte on is an error, as long as no head is on its way.
        relay.run();
        self.send_response(response);
    }
}

impl dispatch::ClientExchange for EventExchange {
    fn request(&self) -> &Arc<Request> {
        &self.request
    }

    fn with_content<T>(&mut self, send: impl FnOnce(RequestContent<'_>) -> T) -> T {
        // None for a length of zero either, whatever the framing says.
        let Some(upload) = &self.upload else { return send(RequestContent::None) };
        let mut reader = UploadReader(Arc::clone(upload));
        match self.request.framing {
            Framing::None => send(RequestContent::None),
            Framing::Length(length) => send(RequestContent::Length(length, &mut reader)),
            Framing::Chunked => send(RequestContent::Chunked(&mut reader)),
        }
    }

    fn interim(&self) -> Option<Arc<Interim>> {
        // RFC 9110 §15.2: an HTTP/1.0 client would take it for the response.
        if self.request.version == Version::HTTP_10 {
            return None;
        }
        let (inbox, id, sent) = (Arc::clone(&self.inbox), self.id, AtomicU32::new(0));
        Some(Arc::new(move |status, fields| {
            // Bounded for each request: an origin server can send them as fast as it likes.
            if sent.fetch_add(1, Ordering::Relaxed) < INTERIMS_MAX {
                inbox.send(LoopMessage::Interim(id, interim_head(status, &fields)));
            }
        }))
    }

    fn respond(mut self, delivery: Delivery) {
        let Delivery { mut response, rest, .. } = delivery;
        match std::mem::replace(&mut response.body, Body::None { length: None }) {
            Body::Arriving(body) => self.relay(response, body),
            body => self.send_response(Response { body, ..response }),
        }
        // The client has all that it needs from this thread; its upload is given up here.
        drop(self);
        // The client reads the body while it grows, or it is worth storing.
        if let Some(rest) = rest {
            rest.run();
        }
    }

    fn refuse(mut self, response: Response) {
        self.send_response(response);
    }

    fn upgrade(self, dispatch: &Arc<Dispatch>, protocols: &str) -> Option<(Self, Response)> {
        match dispatch.proxy.ask_to_upgrade(&self.request, protocols) {
            Err(response) => Some((self, response)),
            Ok(_) if !dispatch.fetches_on_loops() => {
                let prefers_json = self.request.prefers_json();
                let response = dispatch.proxy.refuse_for_want_of_tunnels(prefers_json);
                Some((self, response))
            }
            Ok(asked) => {
                let inbox = Arc::clone(&self.inbox);
                inbox.send(LoopMessage::AskToUpgrade(asked, Box::new(self)));
                None
            }
        }
    }

    fn begin_fetch(self, dispatch: &Dispatch, fetch: Box<Fetch>) -> Result<(), (Self, Box<Fetch>)> {
        if !dispatch.fetches_on_loops() {
            return Err((self, fetch));
        }
        let inbox = Arc::clone(&self.inbox);
        inbox.send(LoopMessage::Fetch(fetch, Some(Box::new(self))));
        Ok(())
    }

    fn resume(self, _: &Arc<Dispatch>, attempt: Attempt) {
        let (inbox, id) = (Arc::clone(&self.inbox), self.id);
        inbox.send(LoopMessage::Resume(id, Box::new(self), attempt));
    }
}

/// The client of a request that its loop asks the origin server for.
pub(super) struct FetchingClient {
    exchange: Box<EventExchange>,
}

impl FetchingClient {
    pub(super) fn new(exchange: Box<EventExchange>) -> Self {
        Self { exchange }
    }

    /// The content of the request, and how it is delimited.
    pub(super) fn take_upload(&mut self) -> (Framing, Option<Box<dyn UploadedContent>>) {
        // None for a length of zero either, whatever the framing says.
        let Some(upload) = self.exchange.upload.take() else { return (Framing::None, None) };
        (self.exchange.request.framing, Some(Box::new(ContinuingUpload(upload))))
    }
}

impl FetchClient for FetchingClient {
    fn respond(self, answer: Answer) {
        let Self { mut exchange } = self;
        let Answer { response, refresh } = answer;
        exchange.dispatch.submit_refresh(refresh);
        if let Body::Arriving(_) = response.body {
            // It is read from a store behind memory, which has to be waited for.
            let dispatch = Arc::clone(&exchange.dispatch);
            return dispatch.submit_response(*exchange, response);
        }
        exchange.send_response(response);
    }

    fn interim(&mut self, status: StatusCode, fields: &Fields) {
        let EventExchange { inbox, id, request, interims, .. } = &mut *self.exchange;
        // An HTTP/1.0 client would take it for the response. And they are bounded for each request: an origin server
        // can send them as fast as it likes.
        if request.version != Version::HTTP_10 && *interims < INTERIMS_MAX {
            *interims += 1;
            inbox.send(LoopMessage::Interim(*id, interim_head(status, fields)));
        }
    }

    fn switch(self, fields: Fields, content: Box<dyn Growing>) -> Box<dyn UploadedContent> {
        let Self { mut exchange } = self;
        exchange.answered = true;
        let (inbox, id) = (Arc::clone(&exchange.inbox), exchange.id);
        let ask_loop = move || inbox.send(LoopMessage::ContentWanted(id));
        let upload = Upload::new(Box::new(ask_loop));
        let upgrade = AgreedUpgrade { fields, content, upload: Arc::clone(&upload) };
        exchange.inbox.send(LoopMessage::Switched(id, Box::new(upgrade)));
        Box::new(ContinuingUpload(upload))
    }

    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        *self.exchange.presence.on_gone.lock() = Some(wake);
    }

    fn is_there(&self) -> bool {
        !self.exchange.presence.is_gone.load(Ordering::Acquire)
    }
}

/// Content that an event loop sends on, also when the response has begun.
struct ContinuingUpload(Arc<Upload>);

impl UploadedContent for ContinuingUpload {
    fn take(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<ContentTaken> {
        self.0.take(out, most)
    }

    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.0.listen(wake);
    }
}

impl Drop for ContinuingUpload {
    fn drop(&mut self) {
        self.0.drop_reader();
    }
}

impl Drop for EventExchange {
    fn drop(&mut self) {
        // A job panicked, and what it owned is dropped. The client must not wait for ever.
        if !self.answered {
            self.inbox.send(LoopMessage::Lost(self.id));
        }
    }
}
