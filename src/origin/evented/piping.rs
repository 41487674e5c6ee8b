//! Content of a response that goes from the origin server's socket into a pipe, and from there to the client's: it is
//! neither copied nor seen. Only content whose length is stated, and of it not the end, so that what ends a response is
//! read as ever.

use std::io;
use std::sync::Arc;

use crate::message::growing::WIDE_BYTES;
use crate::origin::evented::exchange::Exchange;
use crate::origin::evented::stream::Stream;
use crate::origin::evented::{Consumer, Wish};

/// While more than this is left, content goes through a pipe; the rest is read at once.
const PIPED_FROM: u64 = 2 * WIDE_BYTES as u64;

/// Moves at most `most` bytes of content into the pipe, which is empty; `None` if content is to be read. The end of the
/// connection is an error, as it is within the content.
pub(super) fn pipe_content<C: Consumer>(
    exchange: &mut Exchange<C>,
    most: usize,
) -> Option<io::Result<Wish>> {
    let connection = exchange.connection.as_mut()?;
    let left = connection.reader.content_left();
    let Some(Stream::Plain(socket)) = Some(&connection.stream)
        .filter(|_| left > PIPED_FROM && exchange.limit_copy.is_none())
        .filter(|_| exchange.consumer.may_pipe())
    else {
        // Its descriptors count against a bound that does not hold any more.
        exchange.pipe = None;
        return None;
    };
    if exchange.pipe.is_none() {
        // Without one content is read as ever.
        exchange.pipe = Some(Arc::new(system::pipe().ok()?));
    }
    let pipe = exchange.pipe.as_ref()?;
    match system::fill(pipe, socket, most) {
        Ok(0) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        Ok(count) => {
            connection.reader.skip(count as u64);
            Some(Ok(exchange.consumer.piped(pipe, count)))
        }
        // A sandbox may not have the call, or not for sockets: nothing has moved, and content is read.
        Err(error) if is_refused(&error) => None,
        Err(error) => Some(Err(error)),
    }
}

fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

    use crate::message::pipe::BodyPipe;

    /// A new pipe.
    pub(super) fn pipe() -> io::Result<BodyPipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(BodyPipe { read, write })
    }

    /// Moves what the socket has; `WouldBlock` if that is nothing.
    pub(super) fn fill(pipe: &BodyPipe, socket: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(socket, None, &pipe.write, None, most, SpliceFlags::NONBLOCK)?)
    }
}

/// Only Linux has the call; elsewhere no client takes content from a pipe.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::AsFd;

    use crate::message::pipe::BodyPipe;

    pub(super) fn pipe() -> io::Result<BodyPipe> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn fill(_: &BodyPipe, _: impl AsFd, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
