//! One response on its way to a client while its body grows, past tiny_http's writer. It knows no
//! exchange: what learns of the outcome is a trait.

use std::io::IoSlice;

use crate::front::outgoing::{Halt, Outgoing};
use crate::front::served::LogRecord;
use crate::front::tiny::sockets::ClientSocket;

/// The client that a response is sent to, as far as sending goes.
pub(super) trait Recipient: Send {
    /// Is record whether the client takes nothing at the moment.
    fn note_waiting(&self, waits: bool);

    /// Answers with an error: the body is cut, and nothing of it has been sent.
    fn refuse_cut(self: Box<Self>);

    /// Ends the exchange after `sent` bytes of content.
    fn conclude(self: Box<Self>, record: &LogRecord, sent: u64, then: Then);
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    /// It may go on.
    Persists,
    /// It is closed.
    Closes,
    /// It is closed so that the client sees an error: its end would be that of a response which was cut.
    Resets,
}

/// A response that is being sent.
pub(super) struct Sending {
    recipient: Box<dyn Recipient>,
    socket: ClientSocket,
    outgoing: Outgoing,
    record: LogRecord,
}

impl Sending {
    pub(super) fn new(
        recipient: Box<dyn Recipient>,
        socket: ClientSocket,
        outgoing: Outgoing,
        record: LogRecord,
    ) -> Self {
        Self { recipient, socket, outgoing, record }
    }

    /// The client's socket.
    pub(super) fn socket(&self) -> &ClientSocket {
        &self.socket
    }

    /// `wake` is called when there is more of the body.
    pub(super) fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.outgoing.listen(wake);
    }

    /// Sends what there is and what the client takes. `scratch` is as long as [`Outgoing::advance`]
    /// asks for.
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Halt {
        self.recipient.note_waiting(false);
        let socket = &self.socket;
        let halt = self.outgoing.advance(scratch, u64::MAX, &mut |slices: &[IoSlice<'_>]| {
            // This is past tiny_http's own writer; one more call of the system for a head matters little.
            let slice = slices.iter().find(|slice| !slice.is_empty());
            slice.map_or(Ok(0), |slice| socket.send_some(slice))
        });
        if halt == Halt::Blocked {
            self.recipient.note_waiting(true);
        }
        halt
    }

    /// Ends the exchange.
    pub(super) fn finish(mut self, halt: Halt) {
        // Nothing is on the wire yet, so the client can have a proper error instead of a closed
        // connection.
        if halt == Halt::Cut && !self.outgoing.has_begun() {
            return self.recipient.refuse_cut();
        }
        if self.outgoing.is_truncated() {
            self.record.truncated();
        }
        let then = match (halt, self.outgoing.ends_by_closing()) {
            (Halt::Done, false) => Then::Persists,
            // Other framing shows by itself that something is missing (RFC 9112 §8).
            (Halt::Cut, true) => Then::Resets,
            _ => Then::Closes,
        };
        self.recipient.conclude(&self.record, self.outgoing.sent(), then);
    }
}
