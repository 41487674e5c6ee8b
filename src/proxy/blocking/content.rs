//! The content of a response, read by a thread that may wait: from the origin server's connection into its
//! sink.

use std::io;
use std::sync::Arc;

use crate::message::body::{Arriving, Growing, Grown};
use crate::message::content::Slice;
use crate::origin::{Origin, OriginBody, OriginResponse, RequestContent};
use crate::proxy::Proxy;
use crate::proxy::fill::{CutShort, Ending, Incoming, PIECE_BYTES, Progress, Transfer};

/// The content of a response: what is stored of it, and then what comes.
pub(super) fn whole_body(
    prefix: Option<Slice>,
    body: Option<Box<dyn OriginBody>>,
) -> Box<dyn OriginBody> {
    let rest = body.unwrap_or_else(|| Box::new(NoContent));
    match prefix {
        Some(prefix) => Box::new(Completed { prefix, rest }),
        None => rest,
    }
}

/// Reads the first piece of a body of `length` bytes; waits for it.
pub(super) fn take_first(
    incoming: &mut Incoming,
    body: &mut Box<dyn OriginBody>,
    length: usize,
) -> io::Result<()> {
    // One byte at least: to read into an empty buffer proves no end.
    let mut piece = vec![0; length.max(1)];
    let count = body.read(&mut piece)?;
    if count == 0 && length > 0 {
        // An end before what was announced.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if count < length {
        incoming.take(&piece[..count]);
        return Ok(());
    }
    // The end is proven before the last byte is shown to anybody: a client that has all of it may ask again
    // at once, and is to find the response stored and the connection free.
    if count > 0 && body.read(&mut [0])? > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Dropped before anybody learns of it: the turn at the origin server is over.
    *body = Box::new(NoContent);
    piece.truncate(count);
    incoming.finish(piece.into());
    Ok(())
}

/// Moves content from the origin server's connection into its sink.
pub struct ContentFetch {
    proxy: Arc<Proxy>,
    origin: Arc<dyn Origin>,
    state: FetchState,
}

enum FetchState {
    Moving(Box<Transfer>, Box<dyn OriginBody>),
    Over,
}

impl ContentFetch {
    pub(super) fn new(
        proxy: Arc<Proxy>,
        origin: Arc<dyn Origin>,
        transfer: Box<Transfer>,
        body: Box<dyn OriginBody>,
    ) -> Self {
        Self { proxy, origin, state: FetchState::Moving(transfer, body) }
    }

    /// Moves one piece: waits for space in the sink, and for the origin server. `piece` is the buffer to read
    /// into, not empty. After the end every step is [`Progress::Lost`].
    pub fn step(&mut self, piece: &mut [u8]) -> Progress {
        // Nothing is read into it, and that would be taken for the end.
        assert!(!piece.is_empty(), "there is space to read into");
        // Over until the piece has moved: in a panic the transfer is dropped, which cuts the body for
        // its readers.
        match std::mem::replace(&mut self.state, FetchState::Over) {
            FetchState::Moving(transfer, body) => self.move_on(transfer, body, piece),
            FetchState::Over => Progress::Lost,
        }
    }

    /// Moves all that is left.
    pub fn run(mut self) {
        let mut piece = vec![0; PIECE_BYTES];
        while self.step(&mut piece) == Progress::More {}
    }

    fn move_on(
        &mut self,
        mut transfer: Box<Transfer>,
        mut body: Box<dyn OriginBody>,
        piece: &mut [u8],
    ) -> Progress {
        // Before the origin server is read: what has no place yet stays in the connection's own buffers.
        transfer.sink.wait_for_space();
        // The last reader may have left while there was no space: the next piece may be minutes away.
        if transfer.sink.is_in_vain() {
            return transfer.sink.give_up();
        }
        let count = match body.read(piece) {
            Ok(count) => count,
            Err(error) => {
                log::debug!("content cut short: {error}");
                return self.cut(transfer, body);
            }
        };
        let is_last = count == 0 || transfer.sink.completes(count);
        if !is_last {
            match transfer.sink.take(&piece[..count]) {
                Progress::Differs => return self.cut(transfer, body),
                Progress::More => self.state = FetchState::Moving(transfer, body),
                Progress::Whole | Progress::Lost => return Progress::Lost,
            }
            return Progress::More;
        }
        // The length is reached; whether the content ends here, the framing has to say (RFC 9112 §8).
        if count > 0 && !matches!(body.read(&mut [0]), Ok(0)) {
            return self.cut(transfer, body);
        }
        // Its turn at the origin server is over (`--origin-concurrency`). A client that has the last byte may
        // need one at once, and the backing store may take its time.
        drop(body);
        match transfer.finish(&piece[..count]) {
            Ok(Ending::Done(_)) => Progress::Whole,
            Ok(Ending::Settle(settling)) => {
                // Its readers have all but the last piece, which they get when it is stored.
                settling.wait();
                Progress::Whole
            }
            Err(transfer) => {
                self.proxy.lose(&transfer);
                Progress::Lost
            }
        }
    }

    /// The connection has died, or brought something else. Where others read along, the origin server is
    /// asked once more.
    fn cut(&mut self, transfer: Box<Transfer>, body: Box<dyn OriginBody>) -> Progress {
        // Its turn at the origin server is over, and may be the only one (`--origin-concurrency`).
        drop(body);
        let CutShort::AskAgain(mut transfer, head) = self.proxy.cut(transfer) else {
            return Progress::Lost;
        };
        match self.origin.send(head.request(RequestContent::None, None)) {
            Ok(OriginResponse { head, body: Some(body) }) if transfer.resumes(&head) => {
                self.state = FetchState::Moving(transfer, body);
                Progress::More
            }
            _ => {
                self.proxy.lose(&transfer);
                Progress::Lost
            }
        }
    }
}

/// Content that is fetched and read by one and the same thread.
pub(super) struct FetchedBody {
    rest: Box<ContentFetch>,
    reader: Box<dyn Growing>,
}

impl FetchedBody {
    pub(super) fn new(rest: Box<ContentFetch>, reader: Box<dyn Growing>) -> Self {
        Self { rest, reader }
    }
}

impl Arriving for FetchedBody {
    fn length(&self) -> Option<u64> {
        self.reader.length()
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.reader.peek(buffer)? {
                Grown::Bytes(count) => {
                    self.reader.consume(count);
                    return Ok(count);
                }
                Grown::End => return Ok(0),
                // The reader is the one that fetches: nobody else would bring more.
                Grown::NotYet => _ = self.rest.step(&mut piece),
            }
        }
    }

    fn abandon(self: Box<Self>) {
        // The client is gone. As long as its reader is there the sink would wait for it; what is worth
        // keeping is fetched without.
        let Self { rest, reader } = *self;
        // First the reader: the window must not wait for a client that has gone.
        drop(reader);
        rest.run();
    }
}

/// The content of a response that has none.
struct NoContent;

impl OriginBody for NoContent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

/// What is stored of a body, and then the rest of it.
struct Completed {
    prefix: Slice,
    rest: Box<dyn OriginBody>,
}

impl OriginBody for Completed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.prefix.is_empty() { self.rest.read(buffer) } else { self.prefix.read(buffer) }
    }
}
