//! A request's content on its way in: taken out of its framing, and given to the worker that waits for
//! it, or thrown away. RFC 9112 §6.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::front::event::upload::Upload;
use crate::message::chunked::{Decoder, Piece};
use crate::message::request::{Framing, RequestLimits};

/// Content that nobody wanted is read to its end up to this; beyond it the connection is closed.
const DISCARDED_MAX: u64 = 256 * 1024;

/// Content that has not come to its end.
pub(super) struct Intake {
    coding: Coding,
    sink: Sink,
    most: Option<u64>,
    /// Bytes that have come.
    pub received: u64,
    /// For how long they were waited for, all together.
    pub waited: Duration,
}

enum Coding {
    /// So many bytes are left.
    Length(u64),
    Chunked(Decoder),
}

enum Sink {
    Upload(Arc<Upload>),
    /// Nobody wants it; so many bytes more are read.
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
    /// Content that is framed so, for `upload`; `None` if there is none.
    pub(super) fn new(framing: Framing, upload: &Arc<Upload>, limits: RequestLimits) -> Self {
        let coding = match framing {
            Framing::None => Coding::Length(0),
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked(Decoder::new(limits)),
        };
        let sink = Sink::Upload(Arc::clone(upload));
        let (most, waited) = (limits.content_bytes, Duration::ZERO);
        Self { coding, sink, most, received: 0, waited }
    }

    /// Can it be given more bytes now, to be read by the worker or thrown away?
    pub(super) fn has_space(&self) -> bool {
        self.space() > 0
    }

    /// How many bytes it can be given now.
    fn space(&self) -> usize {
        match &self.sink {
            Sink::Upload(upload) => upload.space(),
            Sink::Discard(left) => *left as usize,
        }
    }

    /// The same; where there is no space, the loop is sent a message when there is some.
    fn space_or_wait(&self) -> usize {
        match &self.sink {
            Sink::Upload(upload) => upload.space_or_wait(),
            Sink::Discard(left) => *left as usize,
        }
    }

    /// Takes what can be taken of `bytes`; how many these were.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, Taken) {
        let mut used = 0;
        loop {
            let space = self.space_or_wait();
            let rest = &bytes[used..];
            let (count, data) = match &mut self.coding {
                Coding::Length(left) => {
                    let fits = usize::try_from(*left).unwrap_or(usize::MAX);
                    let count = rest.len().min(fits).min(space);
                    *left -= count as u64;
                    (count, Some(&rest[..count]))
                }
                Coding::Chunked(decoder) => match decoder.next(rest, space) {
                    Ok((count, Piece::Data(data))) => (count, Some(data)),
                    Ok((count, Piece::More)) => (count, Some(&rest[..0])),
                    Ok((count, Piece::End)) => (count, None),
                    Err(_) => {
                        self.end(Err(io::ErrorKind::InvalidData));
                        return (bytes.len(), Taken::Failed);
                    }
                },
            };
            used += count;
            let ended = data.is_none() || matches!(self.coding, Coding::Length(0));
            if !self.pass(data.unwrap_or_default()) {
                return (bytes.len(), Taken::Failed);
            }
            if ended {
                self.end(Ok(()));
                return (used, Taken::End);
            }
            if data.is_none_or(<[u8]>::is_empty) {
                return (used, Taken::More);
            }
        }
    }

    fn pass(&mut self, data: &[u8]) -> bool {
        self.received += data.len() as u64;
        if self.most.is_some_and(|most| self.received > most) {
            self.end(Err(io::ErrorKind::FileTooLarge));
            return false;
        }
        match &mut self.sink {
            Sink::Upload(upload) if !data.is_empty() => upload.push(data),
            Sink::Upload(_) => {}
            Sink::Discard(left) => *left -= data.len() as u64,
        }
        true
    }

    /// It is complete, or never will be.
    pub(super) fn end(&self, how: Result<(), io::ErrorKind>) {
        if let Sink::Upload(upload) = &self.sink {
            upload.end(how);
        }
    }

    /// Nobody wants it any more. `false` if there is, or may be, more than is worth reading.
    pub(super) fn discard(&mut self) -> bool {
        if let Sink::Upload(_) = self.sink {
            self.sink = Sink::Discard(DISCARDED_MAX);
        }
        !matches!(self.coding, Coding::Length(left) if left > DISCARDED_MAX)
    }

    /// Does nobody want it?
    pub(super) fn is_discarded(&self) -> bool {
        matches!(self.sink, Sink::Discard(_))
    }
}
