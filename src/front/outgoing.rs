//! A response on its way to a client, as bytes: sent piece by piece, as the client takes it, without
//! ever waiting. The bytes are given to a closure; no socket is seen here.
//!
//! What must hold: content is consumed from the body only when it has been taken, and framing goes out
//! in front of the content that it announces. A body that is cut is never followed by the last chunk.

use std::io::{self, IoSlice};

use bytes::Bytes;
use http::Method;

use crate::front::wire::{Delimiting, WireClient};
use crate::message::body::{Body, Growing, Grown, InMemory};
use crate::message::chunked::{chunk_head, last_chunk};
use crate::message::fields::Fields;
use crate::message::pipe::BodyPipe;
use crate::policy::response::Response;
use crate::proxy::fill::PIECE_BYTES;

/// One piece and the framing in front of it; a longer head goes out by itself.
pub const SCRATCH_BYTES: usize = 4 * 1024 + PIECE_BYTES;

/// The client, as far as it takes bytes: says how many it took, or `WouldBlock`.
pub trait Take {
    /// Takes some of these bytes.
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Takes at most `most` bytes out of a pipe. Asked for only after [`Outgoing::accept_pipe`].
    fn take_piped(&mut self, _pipe: &BodyPipe, _most: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<F: FnMut(&[IoSlice<'_>]) -> io::Result<usize>> Take for F {
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self(slices)
    }
}

/// A response that is being sent.
pub struct Outgoing {
    body: Box<dyn Growing>,
    delimiting: Delimiting,
    /// Head or framing that has not been sent yet; it comes before all content.
    pending: Vec<u8>,
    /// Bytes left of the piece that was announced last.
    piece_left: usize,
    rest: Rest,
    begun: bool,
    /// The body does not end by itself.
    endless: bool,
    takes_trailers: bool,
    sent: u64,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rest {
    More,
    Nothing,
    /// More, which will not come.
    Lost,
}

/// Why sending stops for now, or for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Halt {
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
    /// It has been given its share for this turn.
    Paused,
}

impl Outgoing {
    /// A response to a request with this method. A body that still arrives is given back: reading it
    /// may wait.
    pub fn new(client: WireClient, method: &Method, response: Response) -> Result<Self, Response> {
        let delimiting = client.delimiting_of(method, &response);
        let endless = response.is_endless() && !matches!(delimiting, Delimiting::Nothing(_));
        let Response { status, fields, body, cache_status } = response;
        let body: Box<dyn Growing> = match body {
            body @ Body::Arriving(_) => {
                return Err(Response { status, fields, body, cache_status });
            }
            // A HEAD or a 304: whatever body there is stays unread.
            _ if matches!(delimiting, Delimiting::Nothing(_)) => Box::new(InMemory(Bytes::new())),
            Body::None { .. } => Box::new(InMemory(Bytes::new())),
            Body::Whole(bytes) => Box::new(InMemory(bytes)),
            Body::Growing(body) => body,
        };
        let head = Response { status, fields, body: Body::None { length: None }, cache_status };
        let pending = client.head(&head, delimiting);
        let (piece_left, rest, begun, sent) = (0, Rest::More, false, 0);
        let takes_trailers = client.takes_trailers;
        Ok(Self {
            body,
            delimiting,
            pending,
            piece_left,
            rest,
            begun,
            endless,
            takes_trailers,
            sent,
        })
    }

    /// What goes to a client in another protocol, behind the head of a 101.
    pub fn of_tunnel(head: Vec<u8>, body: Box<dyn Growing>) -> Self {
        let (piece_left, rest, begun, sent) = (0, Rest::More, false, 0);
        let (delimiting, pending, endless) = (Delimiting::Close, head, true);
        let takes_trailers = false;
        Self { body, delimiting, pending, piece_left, rest, begun, endless, takes_trailers, sent }
    }

    /// Does the end of the connection mark the end of this response?
    pub fn ends_by_closing(&self) -> bool {
        self.delimiting == Delimiting::Close
    }

    /// Has anything been sent?
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Is it a stream that does not end by itself?
    pub fn is_endless(&self) -> bool {
        self.endless
    }

    /// Was the body cut on its way here?
    pub fn is_truncated(&self) -> bool {
        self.rest == Rest::Lost
    }

    /// Bytes of content that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The client takes content out of a pipe, too.
    pub fn accept_pipe(&mut self) {
        // Framing between pieces could not be put there.
        if let Delimiting::Length(_) = self.delimiting {
            self.body.accept_pipe();
        }
    }

    /// `wake` is called when there is more of the body to send.
    pub fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.body.listen(wake);
    }

    /// Sends what there is and what the client takes: at most `most` bytes of content, or a little
    /// more. `scratch` has [`SCRATCH_BYTES`].
    pub fn advance(&mut self, scratch: &mut [u8], most: u64, take: &mut dyn Take) -> Halt {
        assert!(scratch.len() >= SCRATCH_BYTES, "the scratch holds one piece and its framing");
        // The share bounds a turn: a client that takes everything at once would keep the others
        // waiting.
        let limit = self.sent.saturating_add(most);
        loop {
            match self.send_once(scratch, limit - self.sent, take) {
                Ok(None) if self.sent >= limit => return Halt::Paused,
                Ok(None) => {}
                Ok(Some(halt)) => return halt,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Halt::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::debug!("response cut short: {error}");
                    return Halt::Failed;
                }
            }
        }
    }

    /// Sends once, at most `most` bytes of what is here of the content; `None` if there may be more.
    fn send_once(
        &mut self,
        scratch: &mut [u8],
        most: u64,
        take: &mut dyn Take,
    ) -> io::Result<Option<Halt>> {
        // All of the body is in memory, and no chunks have to be put around it.
        if self.delimiting != Delimiting::Chunked
            && let Some(rest) = self.body.rest()
        {
            if rest.is_empty() && self.pending.is_empty() {
                return Ok(Some(Halt::Done));
            }
            // Nothing is copied, and head and content go out in one call of the system.
            let rest = &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            let taken = take.take(&[IoSlice::new(&self.pending), IoSlice::new(rest)])?;
            self.note_sent(taken);
            return Ok(None);
        }
        if self.send_piped(most, take)? || self.send_here(take)? {
            return Ok(None);
        }
        self.send_piece(scratch, take)
    }

    /// Sends what is in a pipe of a body that grows, after the head; `false` if nothing is.
    fn send_piped(&mut self, most: u64, take: &mut dyn Take) -> io::Result<bool> {
        let Some((pipe, count)) = self.body.piped() else { return Ok(false) };
        if !self.pending.is_empty() {
            let taken = take.take(&[IoSlice::new(&self.pending)])?;
            self.note_sent(taken);
            return Ok(true);
        }
        let taken =
            take.take_piped(&pipe, count.min(usize::try_from(most).unwrap_or(usize::MAX)))?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        assert!(taken <= count, "nothing but this is in the pipe");
        self.begun = true;
        self.body.consume(taken);
        self.sent += taken as u64;
        Ok(true)
    }

    /// Sends what is here of a body that grows, with the framing in front of it, without a copy; `false` if nothing is.
    fn send_here(&mut self, take: &mut dyn Take) -> io::Result<bool> {
        if self.rest == Rest::Nothing {
            return Ok(false);
        }
        let Some(here) = self.body.here() else { return Ok(false) };
        if self.piece_left == 0 {
            self.piece_left = here.len();
            if self.delimiting == Delimiting::Chunked {
                self.pending.extend_from_slice(&chunk_head(here.len()));
            }
        }
        // More may have come since the chunk was announced; it has a chunk of its own.
        let piece = &here[..self.piece_left.min(here.len())];
        let taken = take.take(&[IoSlice::new(&self.pending), IoSlice::new(piece)])?;
        self.note_sent(taken);
        Ok(true)
    }

    /// Sends the next piece of a body that grows, or is chunked, with the framing in front of it.
    fn send_piece(&mut self, scratch: &mut [u8], take: &mut dyn Take) -> io::Result<Option<Halt>> {
        // The piece is copied behind space for its framing, so that both are one slice.
        let (framing, piece) = scratch.split_at_mut(SCRATCH_BYTES - PIECE_BYTES);
        let count = match self.copy_piece(piece) {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(Some(Halt::Starved)),
            Err(error) => {
                // A client that has fallen too far behind has itself to blame.
                if error.kind() != io::ErrorKind::TimedOut {
                    self.rest = Rest::Lost;
                }
                log::debug!("body cut short: {error}");
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
            take.take(&[IoSlice::new(&scratch[start..SCRATCH_BYTES - PIECE_BYTES + count])])?
        } else {
            take.take(&[IoSlice::new(&self.pending)])?
        };
        self.note_sent(taken);
        Ok(None)
    }

    /// Copies what is to be sent next, adds the framing in front of it, and gives the number of bytes;
    /// `None` if there is nothing to send at the moment.
    fn copy_piece(&mut self, piece: &mut [u8]) -> io::Result<Option<usize>> {
        if self.rest == Rest::Nothing {
            return Ok(Some(0));
        }
        // A chunk that was announced is finished first: its size is on the wire, whatever has come of
        // the body since.
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
                // The last chunk would be taken for content of the one before.
                assert!(!begun, "what was announced of a body is there");
                self.rest = Rest::Nothing;
                if self.delimiting == Delimiting::Chunked {
                    // Nowhere else is there a place behind the content (RFC 9112 §7.1.2).
                    let trailers =
                        if self.takes_trailers { self.body.trailers() } else { Fields::new() };
                    self.pending.extend_from_slice(&last_chunk(&trailers));
                }
            }
        }
        Ok(Some(0))
    }

    /// Notes that `taken` bytes of framing and piece have been sent.
    fn note_sent(&mut self, taken: usize) {
        self.begun = true;
        let framing = taken.min(self.pending.len());
        if framing == self.pending.len() {
            // The head's memory is given back: a large body may take long.
            self.pending = Vec::new();
        } else {
            self.pending.drain(..framing);
        }
        let content = taken - framing;
        if content == 0 {
            return;
        }
        // Only now: bytes that the client has not taken are copied once more next time.
        let is_chunked = self.delimiting == Delimiting::Chunked;
        assert!(
            !is_chunked || content <= self.piece_left,
            "a chunk is as long as it was announced"
        );
        self.body.consume(content);
        self.sent += content as u64;
        self.piece_left = self.piece_left.saturating_sub(content);
        // RFC 9112 §7.1: a line end closes each chunk. It goes out with the next one.
        if self.piece_left == 0 && is_chunked {
            self.pending.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::Arc;

    use http::{HeaderName, HeaderValue, StatusCode, Version};

    use super::*;
    use crate::message::buffer::Buffer;
    use crate::message::growing::{WideWindows, Writer};

    fn outgoing(body: Body) -> Outgoing {
        outgoing_to(Version::HTTP_11, true, body)
    }

    fn outgoing_to(version: Version, takes_trailers: bool, body: Body) -> Outgoing {
        let response = Response::new(StatusCode::OK, Fields::new(), body);
        let client = WireClient { version, keeps_alive: true, takes_trailers };
        Outgoing::new(client, &Method::GET, response).expect("it need not be waited for")
    }

    /// Sends all, `step` bytes at a time, and blocks between.
    fn send(outgoing: &mut Outgoing, step: usize) -> (Vec<u8>, Halt) {
        let (mut sent, mut scratch) = (Vec::new(), vec![0; SCRATCH_BYTES]);
        loop {
            let mut taken = 0;
            let mut take = |slices: &[IoSlice<'_>]| {
                if taken > 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                taken = all.len().min(step);
                sent.extend_from_slice(&all[..taken]);
                Ok(taken)
            };
            match outgoing.advance(&mut scratch, u64::MAX, &mut take) {
                Halt::Blocked => {}
                halt => return (sent, halt),
            }
        }
    }

    #[test]
    fn whatever_the_client_takes_at_a_time_it_gets_the_same() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for step in 1..60 {
            let mut known = outgoing(Body::Whole("hello".into()));
            assert_eq!(send(&mut known, step), (whole.to_vec(), Halt::Done), "{step}");
            let (mut writer, reader) = Writer::new(None, Buffer::default());
            writer.let_go();
            let mut unknown = outgoing(Body::Growing(Box::new(reader)));
            assert!(writer.push(b"hello"));
            writer.finish();
            assert_eq!(send(&mut unknown, step), (chunked.to_vec(), Halt::Done), "{step}");
        }
    }

    /// A body that ends with a trailer section, as those who read it are sent it.
    fn sent_with_trailers(length: Option<u64>, version: Version, takes: bool) -> String {
        let (mut writer, reader) = Writer::passing(length);
        let mut outgoing = outgoing_to(version, takes, Body::Growing(Box::new(reader)));
        assert!(writer.push(b"hello"));
        let lines = [("server-timing", "a"), ("etag", "\"b\"")];
        let line = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        writer.finish_with(lines.into_iter().map(line).collect());
        let (sent, halt) = send(&mut outgoing, 7);
        assert_eq!(halt, Halt::Done);
        let sent = String::from_utf8(sent).expect("text");
        sent.split_once("\r\n\r\n").expect("a head").1.to_string()
    }

    #[test]
    fn trailer_fields_follow_the_last_chunk_for_those_who_take_them() {
        let plain = "5\r\nhello\r\n0\r\n\r\n";
        let with = "5\r\nhello\r\n0\r\nServer-Timing: a\r\nETag: \"b\"\r\n\r\n";
        let (new, old) = (Version::HTTP_11, Version::HTTP_10);
        assert_eq!(sent_with_trailers(None, new, true), with);
        assert_eq!(sent_with_trailers(None, new, false), plain);
        assert_eq!(
            sent_with_trailers(Some(5), new, true),
            "hello",
            "a length has no place for them"
        );
        assert_eq!(sent_with_trailers(None, old, true), "hello", "nor has HTTP/1.0");
    }

    /// Takes out of pipes, so many bytes at a time; the last one before it blocks.
    struct Piping {
        sent: Vec<u8>,
        step: usize,
        blocks: bool,
    }

    impl Take for Piping {
        fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.blocks = !self.blocks;
            if self.blocks {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = all.len().min(self.step);
            self.sent.extend_from_slice(&all[..count]);
            Ok(count)
        }

        fn take_piped(&mut self, pipe: &BodyPipe, most: usize) -> io::Result<usize> {
            let mut bytes = vec![0; most.min(self.step)];
            let mut file = File::from(pipe.read.try_clone()?);
            file.read_exact(&mut bytes)?;
            self.take(&[IoSlice::new(&bytes)]).or_else(|_| self.take(&[IoSlice::new(&bytes)]))
        }
    }

    #[test]
    fn what_is_in_a_pipe_comes_between_the_head_and_the_rest() {
        for step in 1..60 {
            let (mut writer, reader) = Writer::passing_fast(Some(14), &WideWindows::new(1));
            let mut outgoing = outgoing(Body::Growing(Box::new(reader)));
            outgoing.accept_pipe();
            let (read, mut write) = io::pipe().expect("a pipe");
            write.write_all(b"in a pipe, ").expect("it has space");
            let pipe = Arc::new(BodyPipe { read: read.into(), write: write.into() });
            assert!(writer.note_piped(&pipe, 11) && writer.push(b"end"));
            writer.finish();
            let mut client = Piping { sent: Vec::new(), step, blocks: false };
            let mut scratch = vec![0; SCRATCH_BYTES];
            while outgoing.advance(&mut scratch, u64::MAX, &mut client) == Halt::Blocked {}
            let expected = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nin a pipe, end";
            assert_eq!(
                (String::from_utf8_lossy(&client.sent), outgoing.sent()),
                (expected.into(), 14)
            );
        }
    }

    #[test]
    fn a_turn_has_an_end() {
        let mut large = outgoing(Body::Whole(vec![b'x'; 1000].into()));
        let mut take = |slices: &[IoSlice<'_>]| {
            Ok(slices.iter().map(|slice| slice.len()).sum::<usize>().min(100))
        };
        let mut scratch = vec![0; SCRATCH_BYTES];
        assert_eq!(large.advance(&mut scratch, 300, &mut take), Halt::Paused);
        assert!((300..400).contains(&large.sent()), "{}", large.sent());
    }
}
