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

    /// Ends the exchange after `sent` bytes of content; `persists` if the connection may go on.
    fn conclude(self: Box<Self>, record: &LogRecord, sent: u64, persists: bool);
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
        let persists = halt == Halt::Done && !self.outgoing.ends_by_closing();
        self.recipient.conclude(&self.record, self.outgoing.sent(), persists);
    }
}
