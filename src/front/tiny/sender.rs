//! One response through tiny_http's writer, by a thread that waits for the client and for the body.

use std::io::{self, Write};

use http::Method;

use crate::front::wire::{Delimiting, WireClient};
use crate::message::body::{Arriving, BlockingBody, Body};
use crate::message::chunked::{CHUNK_HEAD_BYTES, LAST_CHUNK, chunk_head};
use crate::policy::response::Response;

/// A piece of a body on its way to a client.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// Writes one response to one client.
pub(super) struct Sender<'a> {
    pub out: Box<dyn Write + 'a>,
    /// Bytes of content that were sent.
    pub sent: u64,
    /// The rest of the body will not come.
    pub truncated: bool,
    /// Is called when waiting for the client begins, and when it ends.
    pub note: &'a dyn Fn(bool),
}

impl Sender<'_> {
    /// Sends a response; gives how it was delimited. After an error the connection must be cut.
    pub fn send(
        &mut self,
        client: WireClient,
        method: &Method,
        mut response: Response,
    ) -> io::Result<Delimiting> {
        let body = match std::mem::replace(&mut response.body, Body::None { length: None }) {
            // This thread can wait for it.
            Body::Growing(body) => Body::Arriving(Box::new(BlockingBody(body))),
            body => body,
        };
        response.body = body;
        let delimiting = client.delimiting_of(method, &response);
        let body = std::mem::replace(&mut response.body, Body::None { length: None });
        let mut head = client.head(&response, delimiting);
        match body {
            _ if matches!(delimiting, Delimiting::Nothing(_)) => self.write_now(&head)?,
            Body::Whole(bytes) => {
                if head.len() + bytes.len() <= PIECE_BYTES {
                    // One write for all: one packet, and one call of the system.
                    head.extend_from_slice(&bytes);
                    self.write_now(&head)?;
                } else {
                    self.write_now(&head)?;
                    self.write_now(&bytes)?;
                }
                self.sent = bytes.len() as u64;
            }
            Body::Arriving(body) => return self.relay(&head, body, delimiting),
            _ => self.write_now(&head)?,
        }
        Ok(delimiting)
    }

    /// Passes on what arrives, as it arrives.
    fn relay(
        &mut self,
        head: &[u8],
        mut body: Box<dyn Arriving>,
        delimiting: Delimiting,
    ) -> io::Result<Delimiting> {
        let mut result = self.write_now(head);
        // The chunk's size fits in front of the piece and the line end behind it: one write for all three.
        let mut piece = vec![0; PIECE_BYTES + CHUNK_HEAD_BYTES + 2];
        while result.is_ok() {
            let middle = CHUNK_HEAD_BYTES..CHUNK_HEAD_BYTES + PIECE_BYTES;
            let count = body.read(&mut piece[middle]).inspect_err(|error| {
                // TimedOut means that this client has fallen behind; then the body is not cut.
                self.truncated = error.kind() != io::ErrorKind::TimedOut;
            })?;
            if count == 0 {
                let last: &[u8] = if delimiting == Delimiting::Chunked { LAST_CHUNK } else { &[] };
                if !last.is_empty() {
                    self.write_now(last)?;
                }
                return Ok(delimiting);
            }
            // An error is not returned at once: the body may be worth fetching for others.
            result = self.write_now(framed(&mut piece, count, delimiting));
            if result.is_ok() {
                self.sent += count as u64;
            }
        }
        // The client is gone; what is worth keeping is fetched to its end.
        body.abandon();
        result.map(|()| delimiting)
    }

    /// Writes piece by piece: a client may be slow, as long as it takes a piece now and then.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES + CHUNK_HEAD_BYTES + 2) {
            (self.note)(true);
            self.out.write_all(piece)?;
        }
        let flushed = self.out.flush();
        (self.note)(false);
        flushed
    }
}

/// Puts the framing around `count` bytes of content, which begin at [`CHUNK_HEAD_BYTES`].
fn framed(piece: &mut [u8], count: usize, delimiting: Delimiting) -> &[u8] {
    let (mut start, mut end) = (CHUNK_HEAD_BYTES, CHUNK_HEAD_BYTES + count);
    if delimiting == Delimiting::Chunked {
        // The size line is as long as its digits, so it is put right in front of the content.
        let size = chunk_head(count);
        start -= size.len();
        piece[start..CHUNK_HEAD_BYTES].copy_from_slice(&size);
        piece[end..end + 2].copy_from_slice(b"\r\n");
        end += 2;
    }
    &piece[start..end]
}
