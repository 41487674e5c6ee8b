//! What a connection reads: heads, and content for the exchange under way. RFC 9112 §9.3.2, §9.6.

use crate::front::event::connection::{Connection, Phase};
use crate::front::event::intake::Taken;
use crate::front::event::loop_state::LoopState;
use crate::front::event::parse;
use crate::message::request::RequestError;

/// Responses to pipelined requests are sent once they have more bytes than this together.
const OUT_BYTES: usize = 64 * 1024;
/// An incomplete head is read again each time that this many bytes more of it have come.
const READ_AGAIN_BYTES: usize = 4 * 1024;

impl Connection {
    /// The client has sent bytes.
    pub(super) fn receive(&mut self, bytes: &[u8], state: &mut LoopState) {
        if let Phase::Lingering(left) = &mut self.phase {
            // It is thrown away, but not for ever: a client that goes on sending is cut.
            match left.checked_sub(bytes.len()) {
                Some(fewer) => *left = fewer,
                None => self.phase = Phase::Over,
            }
            return;
        }
        if self.input.is_empty() {
            // Used from the loop's own read buffer: most requests come whole, and are never copied.
            let used = self.work(bytes, state);
            self.keep(&bytes[used..], state);
        } else {
            self.keep(bytes, state);
            self.go_on(state);
        }
    }

    /// Goes on with what has come already.
    pub(super) fn go_on(&mut self, state: &mut LoopState) {
        // Taken and given back first, so that the count is right even if a panic loses these bytes.
        let mut input = std::mem::take(&mut self.input);
        state.release(input.len());
        let used = self.work(&input, state);
        if used < input.len() {
            input.drain(..used);
            assert!(state.hold(input.len()), "less is kept than before");
            self.input = input;
        }
    }

    /// Keeps bytes for later.
    fn keep(&mut self, bytes: &[u8], state: &mut LoopState) {
        if bytes.is_empty() {
            return;
        }
        if !state.hold(bytes.len()) {
            log::warn!(
                "{}: too much of unfinished requests is held; this one is refused",
                self.peer
            );
            if self.is_busy() {
                // A refusal would be taken for the answer that is on its way.
                self.phase = Phase::Over;
                return;
            }
            let response = state.dispatch.proxy.refuse_for_want_of_workers(false);
            return self.refuse(&response);
        }
        self.input.extend_from_slice(bytes);
    }

    /// The client has closed its side; it may still be waiting for answers (§9.6).
    pub(super) fn end_of_input(&mut self, state: &mut LoopState) {
        self.half_closed = true;
        if let Some(intake) = self.intake.take() {
            intake.end_with_client();
            self.ignore_input();
        } else if !self.input.is_empty() && !self.is_busy() && self.phase == Phase::Open {
            // It is read once more, for what may be wrong with it.
            self.searched = 0;
            self.go_on(state);
            if !self.input.is_empty() && !self.is_busy() {
                self.refuse_head(&RequestError::Line("ended before the head was complete"), state);
            }
        }
    }

    /// Ignores what the client sends from now on; the connection ends with the present response.
    pub(super) fn ignore_input(&mut self) {
        self.ignores_input = true;
        self.has_more = false;
        match &mut self.current {
            Some(current) => current.client.keeps_alive = false,
            None => self.closes = true,
        }
    }

    /// Uses what can be used of `bytes`; how many these were.
    fn work(&mut self, bytes: &[u8], state: &mut LoopState) -> usize {
        let mut used = 0;
        self.has_more = false;
        while used < bytes.len() {
            let rest = &bytes[used..];
            if self.ignores_input || self.phase != Phase::Open {
                // Used up, as far as the caller is concerned: what is ignored is not kept either.
                return bytes.len();
            }
            // Content comes before the next head, also where its request has been answered already.
            if self.intake.is_some() {
                let (count, taken) = self.take_content(rest, state);
                used += count;
                if taken == Taken::More {
                    return used;
                }
                continue;
            }
            // The bound is for clients that pipeline: their responses are put together, then sent first.
            if self.is_busy() || self.output.len() > OUT_BYTES {
                self.has_more = true;
                return used;
            }
            match self.read_head(rest, state) {
                Some(count) => used += count,
                None => return used,
            }
        }
        used
    }

    /// Takes what can be taken of `bytes` as content; how many these were, and what has become of it.
    fn take_content(&mut self, bytes: &[u8], state: &LoopState) -> (usize, Taken) {
        let intake = self.intake.as_mut().expect("the caller has seen it");
        self.since = state.moment;
        let (count, taken) = intake.take(bytes);
        match taken {
            Taken::End => self.intake = None,
            // Content that no worker reads is read only up to a bound. Beyond it, closing the connection is
            // cheaper than reading on to the next request.
            Taken::More if !intake.is_discarded() || intake.has_space() => {}
            Taken::More | Taken::Failed => {
                self.intake = None;
                self.ignore_input();
            }
        }
        (count, taken)
    }

    /// Begins with the request whose head `bytes` begin with; how long that is. `None` if it is not
    /// complete.
    fn read_head(&mut self, bytes: &[u8], state: &mut LoopState) -> Option<usize> {
        // A client that sends its head byte by byte would have it parsed as often: it is read again only
        // when it may be complete, or when enough has come that something in it may be wrong.
        let pointless = self.searched > 0
            && bytes.len() / READ_AGAIN_BYTES == self.searched / READ_AGAIN_BYTES
            && !parse::may_be_complete(bytes, self.searched);
        let read = if pointless {
            Ok(None)
        } else {
            parse::head(bytes, state.limits, |head| {
                self.searched = 0;
                self.begin(head, state);
                head.length
            })
        };
        match read {
            Ok(Some(length)) => Some(length),
            Ok(None) => {
                // Its first bytes: the timeout of a head begins, which later bytes do not extend. On a new
                // connection it began with the connection.
                if self.searched == 0 && !self.first {
                    self.since = state.moment;
                }
                self.searched = bytes.len();
                None
            }
            Err(error) => {
                self.searched = 0;
                self.refuse_head(&error, state);
                // All of it: where another request would begin cannot be known (RFC 9112 §11.2).
                Some(bytes.len())
            }
        }
    }
}
