//! What a connection sends: responses, as far as the client takes them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::front::event::connection::{Connection, LINGERED_MAX, Phase};
use crate::front::event::exchange::LoopMessage;
use crate::front::event::inbox::Endless;
use crate::front::event::loop_state::LoopState;
use crate::front::outgoing::{Halt, Outgoing, Take};
use crate::front::relay::Relay;
use crate::front::served::{LogRecord, record_response};
use crate::front::wire::WireClient;
use crate::message::body::Body;
use crate::policy::bound::binds_connection;
use crate::policy::response::Response;

/// This much of one body is sent before other connections have their turn.
const TURN_BYTES: u64 = 1024 * 1024;

/// What sending came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transmitted {
    /// Nothing is to be sent at the moment, or the client takes nothing.
    Enough,
    /// There is more, after the others have had their turn.
    More,
    /// Nothing more will be sent: shut down this side.
    Last,
    /// Close it.
    Over,
    /// Close it so that the client sees an error: it has been sent a part only.
    Cut,
}

impl Connection {
    /// Begins to send the response of the exchange under way.
    pub(super) fn respond(&mut self, mut response: Response, state: &mut LoopState) {
        if binds_connection(&response.fields) {
            self.bind();
        }
        let Some(current) = &mut self.current else { return };
        response = match std::mem::replace(&mut response.body, Body::None { length: None }) {
            // Large content that is compressed in memory: to expand all of it would keep the others waiting.
            Body::Arriving(body) => {
                let (response, relay) = Relay::between(response, body, &state.dispatch);
                relay.start();
                response
            }
            body => Response { body, ..response },
        };
        // A body that is cut before its first byte is replaced by an error; nothing else is.
        let replaced = current.outgoing.as_ref();
        assert!(replaced.is_none_or(|outgoing| !outgoing.has_begun()), "one response to a request");
        let record = LogRecord::of(&response);
        let mut keeps_alive = current.client.keeps_alive && !state.draining;
        if let Some(intake) = &mut self.intake {
            // A client that waits for a 100 may send its content after all, or not: nothing shows which.
            let undecided = current.request.expects_continue() && !current.continued;
            let goes_on = intake.continues() && !undecided;
            // It may turn out to be more than is worth reading: a client that was told otherwise would lose its
            // next request (RFC 9112 §9.6).
            let is_unbounded = intake.is_unbounded();
            if undecided || !goes_on && (!intake.discard() || is_unbounded) {
                keeps_alive = false;
            }
            if undecided {
                intake.discard();
            }
        }
        let client = WireClient { keeps_alive, ..current.client };
        match Outgoing::new(client, &current.request.method, response) {
            Ok(mut outgoing) => {
                if state.takes_pipes {
                    outgoing.accept_pipe();
                }
                current.client.keeps_alive = keeps_alive && !outgoing.ends_by_closing();
                current.outgoing = Some(outgoing);
                current.record = Some(record);
            }
            Err(response) => {
                // A bug: a body that arrives has been made one that grows, because this thread cannot wait for it.
                log::error!("{}: a body that has to be waited for", self.peer);
                if let Body::Arriving(body) = response.body {
                    body.abandon();
                }
                self.phase = Phase::Over;
            }
        }
    }

    /// Sends what there is, as far as the client takes it. When the proxy is to end, a stream without an end
    /// ends with that.
    pub(super) fn transmit(&mut self, state: &mut LoopState, take: &mut dyn Take) -> Transmitted {
        // Sent first: what has come of the stream until now is the client's.
        let sent = self.send_on(state, take);
        let outgoing = self.current.as_ref().and_then(|current| current.outgoing.as_ref());
        match outgoing.filter(|outgoing| outgoing.is_endless() && state.endless == Endless::Cut) {
            // Whoever speaks another protocol is not deceived about HTTP's framing by an orderly end.
            Some(outgoing) if outgoing.ends_by_closing() && !self.is_tunnel() => Transmitted::Cut,
            Some(_) => Transmitted::Over,
            None => sent,
        }
    }

    fn is_tunnel(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.is_tunnel)
    }

    fn send_on(&mut self, state: &mut LoopState, take: &mut dyn Take) -> Transmitted {
        if self.phase == Phase::Over {
            return Transmitted::Over;
        }
        // The output comes first: it has earlier responses, and interim ones of this exchange.
        match self.send_ready(state, take) {
            Ok(true) => {}
            Ok(false) => return Transmitted::More,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Transmitted::Enough,
            Err(_) => return Transmitted::Over,
        }
        while let Some(halt) = self.advance(state, take) {
            if let Some(transmitted) = self.handle_halt(halt, state) {
                return transmitted;
            }
        }
        if self.closes && self.phase == Phase::Open {
            // The client's time to close begins.
            self.since = state.moment;
            return self.close();
        }
        Transmitted::Enough
    }

    /// Sends the response of the exchange under way, until it halts; `None` if there is none.
    fn advance(&mut self, state: &mut LoopState, take: &mut dyn Take) -> Option<Halt> {
        let current = self.current.as_mut()?;
        let outgoing = current.outgoing.as_mut()?;
        let before = (outgoing.sent(), outgoing.has_begun());
        let halt = outgoing.advance(&mut state.scratch, TURN_BYTES, take);
        // The client's timeout begins anew with each byte that it takes, and when there is something to
        // take again: while the body was waited for, the client was not late.
        if (outgoing.sent(), outgoing.has_begun()) != before || current.starved {
            self.since = state.moment;
        }
        current.starved = halt == Halt::Starved;
        Some(halt)
    }

    /// Does what follows from a halt; `None` if sending can go on at once.
    fn handle_halt(&mut self, halt: Halt, state: &mut LoopState) -> Option<Transmitted> {
        let current = self.current.as_mut()?;
        let outgoing = current.outgoing.as_ref()?;
        match halt {
            Halt::Blocked => return Some(Transmitted::Enough),
            Halt::Paused => return Some(Transmitted::More),
            // It is asked once more if it has grown meanwhile, or before it was listened to. Without that a
            // piece that came between the two would be sent with the next one, or never.
            Halt::Starved => match &current.grown {
                None => self.listen(state),
                Some(grown) if grown.swap(false, Ordering::AcqRel) => {}
                Some(_) => return Some(Transmitted::Enough),
            },
            // Nothing is on the wire yet, so the client can have a proper error.
            Halt::Cut if !outgoing.has_begun() && !current.is_tunnel => {
                let response = state.dispatch.proxy.refuse_cut(&current.request);
                current.client.keeps_alive = false;
                self.respond(response, state);
            }
            Halt::Done => self.conclude(state),
            // Other framing shows by itself that something is missing (RFC 9112 §8).
            Halt::Cut if outgoing.ends_by_closing() => return Some(Transmitted::Cut),
            Halt::Failed | Halt::Cut => return Some(Transmitted::Over),
        }
        None
    }

    /// Sends what was put together, before anything else; `false` if the others are to have their turn before the rest.
    fn send_ready(&mut self, state: &LoopState, take: &mut dyn Take) -> io::Result<bool> {
        let mut left = TURN_BYTES as usize;
        while left > 0 {
            let Some(count) = self.output.send_once(left, take)? else { return Ok(true) };
            left = left.saturating_sub(count);
            // Any byte counts: a client that takes a little now and then is slow, not gone.
            self.since = state.moment;
        }
        Ok(self.output.is_empty())
    }

    /// From now on the loop is sent a message when the body has grown.
    fn listen(&mut self, state: &LoopState) {
        let Some(current) = &mut self.current else { return };
        let (inbox, id) = (Arc::clone(&state.inbox), current.id);
        let grown = Arc::new(AtomicBool::new(false));
        current.grown = Some(Arc::clone(&grown));
        if let Some(outgoing) = &mut current.outgoing {
            // Called by the thread that fetches the body, with the body's lock held: it may do no more than
            // send a message.
            outgoing.listen(Box::new(move || {
                if !grown.swap(true, Ordering::AcqRel) {
                    inbox.send(LoopMessage::Grown(id));
                }
            }));
        }
    }

    /// The response is sent: the exchange is over.
    fn conclude(&mut self, state: &LoopState) {
        self.since = state.moment;
        // The origin server has answered before the content had come to its end, and wants no more of it.
        let is_discarded = self.intake.as_mut().is_none_or(|intake| intake.discard());
        // A response whose head was sent before the proxy was to end may be the last one all the same.
        let is_last = state.draining && self.input.is_empty();
        let keeps_alive = self.current.as_ref().is_none_or(|current| current.client.keeps_alive);
        self.closes = !keeps_alive || is_last || !is_discarded;
        self.end_exchange(state);
        self.has_more |= !self.input.is_empty();
    }

    /// Ends the exchange under way, and records what was sent of its response.
    pub(super) fn end_exchange(&mut self, state: &LoopState) {
        let Some(mut current) = self.current.take() else { return };
        if state.dispatch.has_handler() {
            // An operator was answered, not a client of the proxy.
            return;
        }
        if let (Some(record), Some(outgoing)) = (&mut current.record, &current.outgoing) {
            if outgoing.is_truncated() {
                // Known only now: the head went out when the response was still expected to be whole.
                record.truncated();
            }
            let (proxy, log) = (&state.dispatch.proxy, Option::as_ref(&state.log));
            record_response(proxy, log, &current.request, current.arrival, record, outgoing.sent());
        }
    }

    /// Ends a connection on which everything is sent and nothing more will be.
    fn close(&mut self) -> Transmitted {
        // A client that has nothing on its way loses nothing by a plain close.
        let quiet = self.intake.is_none() && self.input.is_empty() && !self.ignores_input;
        if quiet || self.half_closed {
            self.phase = Phase::Over;
            return Transmitted::Over;
        }
        self.phase = Phase::Lingering(LINGERED_MAX);
        Transmitted::Last
    }
}
