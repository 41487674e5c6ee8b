//! A request's content on its way in: taken out of its framing, and given to whoever waits for
//! it, or thrown away. RFC 9112 §6.
//!
//! Content whose end is not proven is never passed on as whole: the worker's last read is an error.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::front::event::upload::Upload;
use crate::message::chunked::{Decoder, Piece};
use crate::message::request::{Framing, RequestLimits};

/// Content that no worker reads is read and thrown away up to this; beyond it the connection is closed.
const DISCARDED_MAX: u64 = 256 * 1024;

/// Content that has not come to its end.
pub(super) struct Intake {
    coding: Coding,
    sink: UploadSink,
    most: Option<u64>,
    /// Bytes that have come.
    pub received: u64,
    /// For how long they were waited for, altogether.
    pub waited: Duration,
}

enum Coding {
    /// This many bytes are left.
    Length(u64),
    Chunked(Decoder),
    /// Whatever comes, until the client ends its side: another protocol.
    Tunnel,
}

impl Coding {
    /// The next content in `bytes`, `space` bytes of it at most, and how many bytes it takes with its
    /// framing. The content is `None` at the end of a chunked body; all is `None` if this is no chunk.
    fn next<'a>(&mut self, bytes: &'a [u8], space: usize) -> Option<(usize, Option<&'a [u8]>)> {
        match self {
            Self::Length(left) => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX);
                let count = bytes.len().min(fits).min(space);
                *left -= count as u64;
                Some((count, Some(&bytes[..count])))
            }
            Self::Tunnel => {
                let count = bytes.len().min(space);
                Some((count, Some(&bytes[..count])))
            }
            Self::Chunked(decoder) => match decoder.next(bytes, space).ok()? {
                (count, Piece::Data(data)) => Some((count, Some(data))),
                (count, Piece::More) => Some((count, Some(&[]))),
                (count, Piece::End) => Some((count, None)),
            },
        }
    }
}

enum UploadSink {
    Upload(Arc<Upload>),
    /// No worker reads it; this many bytes more are thrown away.
    Discard(u64),
}

/// What has become of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// There is more to come.
    More,
    /// That was all.
    End,
    /// It is not what it should be, or too much: nothing shows where the next request begins.
    Failed,
}

impl Intake {
    /// Content with this framing, for `upload`.
    pub(super) fn new(framing: Framing, upload: &Arc<Upload>, limits: RequestLimits) -> Self {
        let coding = match framing {
            Framing::None => Coding::Length(0),
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked(Decoder::new(limits)),
        };
        let sink = UploadSink::Upload(Arc::clone(upload));
        let (most, waited) = (limits.content_bytes, Duration::ZERO);
        Self { coding, sink, most, received: 0, waited }
    }

    /// What a client sends in another protocol.
    pub(super) fn of_tunnel(upload: &Arc<Upload>) -> Self {
        let (coding, sink) = (Coding::Tunnel, UploadSink::Upload(Arc::clone(upload)));
        Self { coding, sink, most: None, received: 0, waited: Duration::ZERO }
    }

    /// Can it be given more bytes now, to be read by the worker or thrown away?
    pub(super) fn has_space(&self) -> bool {
        self.space() > 0
    }

    /// How many bytes it can be given now.
    fn space(&self) -> usize {
        match &self.sink {
            UploadSink::Upload(upload) => upload.space(),
            UploadSink::Discard(left) => *left as usize,
        }
    }

    /// How many bytes of input it can take at most, where it has space: content, and what its framing may have.
    pub(super) fn input_bytes_max(&self) -> usize {
        /// Small chunks are mostly framing; reading them a little at a time would cost more than it spares.
        const FRAMING_BYTES: usize = 1024;
        match self.coding {
            // What follows is the next request, which would wait here.
            Coding::Length(left) => {
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                if left <= self.space() { usize::MAX } else { self.space() }
            }
            Coding::Chunked(_) => self.space().saturating_add(FRAMING_BYTES),
            Coding::Tunnel => self.space(),
        }
    }

    /// The same; where there is no space, the loop is sent a message when there is some.
    fn space_or_wait(&self) -> usize {
        match &self.sink {
            UploadSink::Upload(upload) => upload.space_or_wait(),
            UploadSink::Discard(left) => *left as usize,
        }
    }

    /// Takes what can be taken of `bytes`; how many these were.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, Taken) {
        let mut used = 0;
        // One round for each piece: chunk heads stand between them, and what a round takes leaves less space.
        loop {
            // Without space nothing is taken, and the loop reads no more of this client until the worker
            // has: so a slow origin server slows its own client down.
            let space = self.space_or_wait();
            let rest = &bytes[used..];
            // RFC 9112 §7.1: what follows a chunk that cannot be read may be anything, so all of it counts
            // as taken.
            let Some((count, data)) = self.coding.next(rest, space) else {
                self.end(Err(io::ErrorKind::InvalidData));
                return (bytes.len(), Taken::Failed);
            };
            used += count;
            let ended = data.is_none() || matches!(self.coding, Coding::Length(0));
            if !self.pass(data.unwrap_or_default()) {
                return (bytes.len(), Taken::Failed);
            }
            // Only here is it known to be whole.
            if ended {
                self.end(Ok(()));
                return (used, Taken::End);
            }
            if data.is_none_or(<[u8]>::is_empty) {
                return (used, Taken::More);
            }
        }
    }

    /// Passes content on; `false` if it is more than a request may have.
    fn pass(&mut self, data: &[u8]) -> bool {
        self.received += data.len() as u64;
        // Chunked content announces no length, so its bound is found only here.
        if self.most.is_some_and(|most| self.received > most) {
            self.end(Err(io::ErrorKind::FileTooLarge));
            return false;
        }
        match &mut self.sink {
            UploadSink::Upload(upload) if !data.is_empty() => upload.push(data),
            UploadSink::Upload(_) => {}
            UploadSink::Discard(left) => {
                assert!(data.len() as u64 <= *left, "no more is taken than there is space for");
                *left -= data.len() as u64;
            }
        }
        true
    }

    /// It is complete, or never will be.
    pub(super) fn end(&self, how: Result<(), io::ErrorKind>) {
        if let UploadSink::Upload(upload) = &self.sink {
            upload.end(how);
        }
    }

    /// The client has ended its side.
    pub(super) fn end_with_client(&self) {
        // The reader sees an error, never an end: the origin server must not take a part for the whole. A tunnel ends
        // in no other way.
        self.end(match self.coding {
            Coding::Tunnel => Ok(()),
            Coding::Length(_) | Coding::Chunked(_) => Err(io::ErrorKind::UnexpectedEof),
        });
    }

    /// No worker reads it any more. `false` if more is left of it than is worth reading.
    pub(super) fn discard(&mut self) -> bool {
        if let UploadSink::Upload(_) = self.sink {
            self.sink = UploadSink::Discard(DISCARDED_MAX);
        }
        // How much chunked content there is to come is not known: it is read, up to the bound.
        match self.coding {
            Coding::Length(left) => left <= DISCARDED_MAX,
            Coding::Chunked(_) => true,
            // No request follows it.
            Coding::Tunnel => false,
        }
    }

    /// May there be any amount of it to come? It has no length, and was on its way to the origin server. What nobody
    /// has asked for is short, as a rule.
    pub(super) fn is_unbounded(&self) -> bool {
        let has_length = matches!(self.coding, Coding::Length(_));
        !has_length && matches!(&self.sink, UploadSink::Upload(upload) if upload.was_read())
    }

    /// May it be sent on while the response goes to the client?
    pub(super) fn continues(&self) -> bool {
        matches!(&self.sink, UploadSink::Upload(upload) if upload.continues())
    }

    /// Is it thrown away?
    pub(super) fn is_discarded(&self) -> bool {
        matches!(self.sink, UploadSink::Discard(_))
    }
}
