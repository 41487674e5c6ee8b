//! One response on its way to a client while its body grows, sent piece by piece, as the client takes
//! it, without ever waiting.

use std::io;

use crate::front::exchange::{Exchange, Told};
use crate::front::sockets::Client;
use crate::front::wire::{Delimiting, LAST_CHUNK, chunk_head};
use crate::message::body::{Growing, Grown};
use crate::recording::PIECE_BYTES;

/// Room for one piece and the framing before it; a longer head goes out by itself.
pub(super) const SCRATCH_BYTES: usize = 4 * 1024 + PIECE_BYTES;

/// A response that is being sent.
pub(super) struct Sending {
    exchange: Exchange,
    socket: Client,
    body: Box<dyn Growing>,
    delimiting: Delimiting,
    /// Head or framing that has not been sent yet.
    pending: Vec<u8>,
    /// Bytes left of the piece that was announced last.
    piece_left: usize,
    ended: bool,
    /// Has anything been sent?
    begun: bool,
    sent: u64,
    told: Told,
}

/// Why sending stops for now, or for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Halt {
    /// All is sent.
    Done,
    /// The client is gone.
    Failed,
    /// The body is cut, or the client has fallen too far behind.
    Cut,
    /// The client takes no more at the moment.
    Blocked,
    /// There is no more of the body at the moment.
    Starved,
}

impl Sending {
    pub(super) fn new(
        exchange: Exchange,
        socket: Client,
        head: Vec<u8>,
        body: Box<dyn Growing>,
        delimiting: Delimiting,
        told: Told,
    ) -> Self {
        let (pending, piece_left, ended, begun, sent) = (head, 0, false, false, 0);
        Self { exchange, socket, body, delimiting, pending, piece_left, ended, begun, sent, told }
    }

    /// The client's socket.
    pub(super) fn socket(&self) -> &Client {
        &self.socket
    }

    /// `wake` is called when there is more of the body.
    pub(super) fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.body.listen(wake);
    }

    /// Sends what there is and what the client takes. `scratch` has [`SCRATCH_BYTES`].
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Halt {
        self.exchange.note_waiting(false);
        loop {
            match self.send_once(scratch) {
                Ok(None) => {}
                Ok(Some(halt)) => return halt,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.exchange.note_waiting(true);
                    return Halt::Blocked;
                }
                Err(error) => {
                    log::debug!("{}: response cut short: {error}", self.exchange.peer);
                    return Halt::Failed;
                }
            }
        }
    }

    /// One send; `None` if there may be more.
    fn send_once(&mut self, scratch: &mut [u8]) -> io::Result<Option<Halt>> {
        if self.pending.is_empty()
            && self.delimiting != Delimiting::Chunked
            && let Some(rest) = self.body.rest()
        {
            if rest.is_empty() {
                return Ok(Some(Halt::Done));
            }
            let taken = self.socket.send_some(rest)?;
            self.body.consume(taken);
            self.sent += taken as u64;
            return Ok(None);
        }
        let (framing, piece) = scratch.split_at_mut(SCRATCH_BYTES - PIECE_BYTES);
        let count = match self.copy_piece(piece) {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(Some(Halt::Starved)),
            Err(error) => {
                log::debug!("{}: body cut short: {error}", self.exchange.peer);
                return Ok(Some(Halt::Cut));
            }
        };
        let head = self.pending.len();
        if head == 0 && count == 0 {
            return Ok(Some(Halt::Done));
        }
        // Framing and piece go out together: one packet, and one call of the system.
        let taken = if head <= framing.len() {
            let start = framing.len() - head;
            framing[start..].copy_from_slice(&self.pending);
            self.socket.send_some(&scratch[start..SCRATCH_BYTES - PIECE_BYTES + count])?
        } else {
            self.socket.send_some(&self.pending)?
        };
        self.note_sent(taken);
        Ok(None)
    }

    /// Copies what is to be sent next, and adds the framing that belongs before it; how many bytes.
    /// `None` if there is nothing to send at the moment.
    fn copy_piece(&mut self, piece: &mut [u8]) -> io::Result<Option<usize>> {
        if self.ended {
            return Ok(Some(0));
        }
        let begun = self.piece_left > 0;
        let most = if begun { self.piece_left.min(PIECE_BYTES) } else { PIECE_BYTES };
        match self.body.peek(&mut piece[..most])? {
            Grown::Bytes(count) => {
                if !begun {
                    self.piece_left = count;
                    if self.delimiting == Delimiting::Chunked {
                        self.pending.extend_from_slice(&chunk_head(count));
                    }
                }
                return Ok(Some(count));
            }
            // What was announced is there, so this is between two pieces.
            Grown::NotYet if self.pending.is_empty() => return Ok(None),
            Grown::NotYet => {}
            Grown::End => {
                self.ended = true;
                if self.delimiting == Delimiting::Chunked {
                    self.pending.extend_from_slice(LAST_CHUNK);
                }
            }
        }
        Ok(Some(0))
    }

    /// So many bytes of framing and piece have been taken.
    fn note_sent(&mut self, taken: usize) {
        self.begun = true;
        let framing = taken.min(self.pending.len());
        self.pending.drain(..framing);
        let content = taken - framing;
        if content == 0 {
            return;
        }
        self.body.consume(content);
        self.sent += content as u64;
        self.piece_left -= content;
        if self.piece_left == 0 && self.delimiting == Delimiting::Chunked {
            self.pending.extend_from_slice(b"\r\n");
        }
    }

    /// Ends the exchange.
    pub(super) fn finish(self, halt: Halt) {
        if halt == Halt::Cut && !self.begun {
            return self.exchange.refuse_cut();
        }
        let well = halt == Halt::Done && self.delimiting != Delimiting::Close;
        self.exchange.conclude(&self.told, self.sent, well);
    }
}
