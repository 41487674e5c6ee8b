//! What a connection still has to send: bytes, and content behind them.
//!
//! It belongs to one connection, and nobody else can reach it. The connections of a loop use one buffer in
//! turn to put responses together in, and that buffer is empty between turns: what the client has not taken
//! by the end of the turn stays with its connection. So one client's bytes cannot be sent to another,
//! whichever way a turn ends.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use crate::front::outgoing::Take;

/// The buffer of the connection that has a turn. It is empty between turns, and only [`Output`] can put
/// anything into it.
#[derive(Default)]
pub(super) struct TurnBuffer(Vec<u8>);

/// What one connection has to send.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Sent behind the bytes; not copied.
    content: Bytes,
    /// The client has not taken all that there was.
    is_blocked: bool,
}

impl Output {
    /// Begins a turn: takes the loop's buffer.
    pub(super) fn begin_turn(&mut self, turn_buffer: &mut TurnBuffer) {
        assert!(
            turn_buffer.0.is_empty(),
            "another connection's bytes are left in the turn's buffer"
        );
        // Mostly none are copied: a client that takes what it asks for leaves nothing unsent.
        turn_buffer.0.extend_from_slice(&self.bytes);
        self.bytes = std::mem::take(&mut turn_buffer.0);
    }

    /// Ends a turn: gives the buffer back empty, and keeps what is unsent in as few bytes as it takes.
    pub(super) fn end_turn(&mut self, turn_buffer: &mut TurnBuffer) {
        // A copy of its own: a client that takes nothing must not keep the buffer, which has grown to the
        // largest responses of all.
        let unsent = self.bytes.as_slice().to_vec();
        turn_buffer.0 = std::mem::replace(&mut self.bytes, unsent);
        turn_buffer.0.clear();
    }

    /// Bytes to send, without the content behind them.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.content.is_empty()
    }

    /// Must what is here be sent before anything may be added? The client has not taken all of it, or there
    /// is content behind the bytes.
    pub(super) fn is_closed(&self) -> bool {
        self.is_blocked || !self.content.is_empty()
    }

    /// Adds bytes.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes_mut().extend_from_slice(bytes);
    }

    /// Where bytes are added. There must be no content yet, or they would overtake it.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        assert!(self.content.is_empty(), "bytes would overtake content");
        &mut self.bytes
    }

    /// Sends `content` behind the bytes.
    pub(super) fn follow_with(&mut self, content: Bytes) {
        assert!(self.content.is_empty(), "content would replace content");
        self.content = content;
    }

    /// Sends once, as much as the client takes, and of the content at most `most` bytes; how many bytes these were,
    /// `None` if there was nothing to send.
    pub(super) fn send_once(
        &mut self,
        most: usize,
        take: &mut dyn Take,
    ) -> io::Result<Option<usize>> {
        if self.is_empty() {
            return Ok(None);
        }
        // Until all is taken: also after an error, or an interrupted call, that leaves everything here.
        self.is_blocked = true;
        let content = &self.content[..most.min(self.content.len())];
        let count = match take.take(&[IoSlice::new(&self.bytes), IoSlice::new(content)]) {
            // A socket that takes nothing says `WouldBlock`; this would be asked for ever.
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Some(0)),
            count => count?,
        };
        assert!(count <= self.bytes.len() + content.len(), "a client takes what there is");
        let of_bytes = count.min(self.bytes.len());
        if of_bytes == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..of_bytes);
        }
        let of_content = count - of_bytes;
        if of_content == self.content.len() {
            // A part of it would keep all of it in memory.
            self.content = Bytes::new();
        } else {
            self.content.advance(of_content);
        }
        self.is_blocked = !self.is_empty();
        Ok(Some(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends to a client that takes so many bytes and then no more.
    fn send(output: &mut Output, mut window: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        let mut take = |slices: &[IoSlice<'_>]| {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = all.len().min(window);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            window -= count;
            sent.extend_from_slice(&all[..count]);
            Ok(count)
        };
        while let Ok(Some(_)) = output.send_once(7, &mut take) {}
        sent
    }

    #[test]
    fn what_is_unsent_stays_with_its_connection() {
        let whole = b"head and the content";
        for window in 0..=whole.len() {
            let (mut turn_buffer, mut first, mut second) =
                (TurnBuffer::default(), Output::default(), Output::default());
            first.begin_turn(&mut turn_buffer);
            first.extend(b"head");
            first.follow_with(Bytes::from_static(b" and the content"));
            assert_eq!(send(&mut first, window), whole[..window]);
            assert_eq!(first.is_closed(), window < whole.len(), "{window}");
            first.end_turn(&mut turn_buffer);
            second.begin_turn(&mut turn_buffer);
            second.extend(b"other");
            assert_eq!(send(&mut second, usize::MAX), b"other");
            second.end_turn(&mut turn_buffer);
            first.begin_turn(&mut turn_buffer);
            assert_eq!(send(&mut first, usize::MAX), whole[window..]);
            first.end_turn(&mut turn_buffer);
            assert!(first.is_empty() && !first.is_closed());
        }
    }

    /// A turn is bounded by this: a client that takes everything would be sent all of a large body in one call.
    #[test]
    fn no_more_content_is_sent_than_asked_for() {
        let mut output = Output::default();
        output.extend(b"head");
        output.follow_with(Bytes::from_static(b"content"));
        let mut take =
            |slices: &[IoSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum::<usize>());
        let mut send = || output.send_once(3, &mut take).expect("it takes all");
        assert_eq!([send(), send(), send(), send()], [Some(7), Some(3), Some(1), None]);
    }

    #[test]
    fn unsent_bytes_take_no_more_memory_than_they_need() {
        let (mut turn_buffer, mut output) = (TurnBuffer::default(), Output::default());
        output.begin_turn(&mut turn_buffer);
        output.extend(&vec![b'x'; 100_000]);
        assert_eq!(send(&mut output, 99_990).len(), 99_990);
        output.end_turn(&mut turn_buffer);
        assert!(output.bytes.capacity() <= 16 && turn_buffer.0.capacity() >= 100_000);
    }

    #[test]
    #[should_panic(expected = "another connection's bytes")]
    fn a_turn_buffer_that_is_not_empty_is_a_bug() {
        Output::default().begin_turn(&mut TurnBuffer(b"left".to_vec()));
    }

    #[test]
    #[should_panic(expected = "bytes would overtake content")]
    fn bytes_do_not_overtake_content() {
        let mut output = Output::default();
        output.follow_with(Bytes::from_static(b"content"));
        output.extend(b"head");
    }
}
