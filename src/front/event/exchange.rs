//! A request on a worker: what it reads from its client and sends to it goes through the event loop
//! that has the client's socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Version;

use crate::front::dispatch::{self, Dispatch};
use crate::front::event::inbox::{self, AgreedUpgrade, ExchangeId};
use crate::front::event::upload::{Upload, UploadReader};
use crate::front::tunnels;
use crate::front::wire::interim_head;
use crate::message::body::{Arriving, Body};
use crate::message::fields::Fields;
use crate::message::growing::Writer;
use crate::message::request::{Framing, Request};
use crate::origin::{Interim, RequestContent, Tunnel};
use crate::policy::response::Response;
use crate::proxy::fill::PIECE_BYTES;
use crate::proxy::{Attempt, Delivery};

/// Interim responses that one request's client is sent.
const INTERIMS_MAX: u32 = 64;

/// The inbox of a loop, and its messages.
pub(super) type LoopInbox = inbox::Inbox<EventExchange>;
pub(super) type LoopMessage = inbox::Message<EventExchange>;

/// A request, and the id that its answer carries. Dropped unanswered, it sends [`LoopMessage::Lost`].
pub(super) struct EventExchange {
    inbox: Arc<LoopInbox>,
    id: ExchangeId,
    request: Arc<Request>,
    upload: Option<Arc<Upload>>,
    answered: bool,
}

impl EventExchange {
    pub(super) fn new(
        inbox: Arc<LoopInbox>,
        id: ExchangeId,
        request: Arc<Request>,
        upload: Option<Arc<Upload>>,
    ) -> Self {
        Self { inbox, id, request, upload, answered: false }
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

    /// Passes on what arrives, through a bounded buffer. Waits for the client while that is full.
    fn relay(&mut self, response: Response, mut body: Box<dyn Arriving>) {
        let (mut writer, reader) = Writer::passing(body.length());
        self.send_response(Response { body: Body::Growing(Box::new(reader)), ..response });
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            writer.wait_for_space();
            match body.read(&mut piece) {
                Ok(0) => return writer.finish(),
                Ok(count) if writer.push(&piece[..count]) => {}
                // The client is gone; what is worth keeping is fetched to its end.
                Ok(_) => return body.abandon(),
                // The writer is dropped, which cuts the body.
                Err(error) => return log::debug!("body cut short: {error}"),
            }
        }
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

    fn switch_protocols(mut self, fields: &Fields, tunnel: Tunnel, permit: tunnels::TunnelPermit) {
        // From here on the message has the client: dropped unread, it ends the tunnel and gives the permit
        // back.
        self.answered = true;
        let upgrade = AgreedUpgrade { fields: fields.clone(), tunnel, permit };
        self.inbox.send(LoopMessage::Upgrade(self.id, Box::new(upgrade)));
    }

    fn resume(self, _: &Arc<Dispatch>, attempt: Attempt) {
        let (inbox, id) = (Arc::clone(&self.inbox), self.id);
        inbox.send(LoopMessage::Resume(id, Box::new(self), attempt));
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
