//! An upgrade without loss: a new process takes over the listening sockets of the one that runs.
//!
//! Clients that connect meanwhile wait in the one queue that both processes share, and none is refused.
//! The old process hands out its sockets, goes on as before, and ends in an orderly way once the new
//! one says that it serves. If the new one fails before that, nothing has happened.
//!
//! On the wire, over a Unix socket: the new process sends `T`, the old one answers with a byte that
//! carries the descriptors, and the new one sends `R` when it serves.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use signal_hook::consts::SIGTERM;

/// For how long a new process may take to start: it may have to read a large store.
const START_MAX: Duration = Duration::from_secs(60);
/// For how long the old process may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most listening sockets that are handed over.
const SOCKETS_MAX: usize = 16;
/// What the new process says first.
const WANTED: u8 = b'T';
/// What the new process says when it serves.
const SERVING: u8 = b'R';

/// The process whose sockets have been taken over. Dropped without [`Predecessor::retire`], as when the
/// start fails, it goes on.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells the old process that this one serves, so that it may end.
    pub fn retire(mut self) {
        if let Err(error) = self.0.write_all(&[SERVING]) {
            log::warn!(
                "take-over: the old process could not be told that this one serves: {error}"
            );
        }
    }
}

/// Takes over the listening sockets of the process that offers them at `stream`.
pub fn take(stream: UnixStream) -> io::Result<(Vec<TcpListener>, Predecessor)> {
    // The old process may hang: then this one does not start, and says so.
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    (&stream).write_all(&[WANTED])?;
    // Descriptors beyond the bound would be closed by the system without a word; the sender has the
    // same bound.
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    // CLOEXEC: what this process starts must not keep the port open after it has ended.
    recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let listeners: Vec<TcpListener> = descriptors.flatten().map(TcpListener::from).collect();
    // A byte without descriptors is no answer of a proxy like this one.
    if listeners.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((listeners, Predecessor(stream)))
}

/// The offer of this process to hand its listening sockets over.
pub struct Handover {
    /// What is handed out; `None` once this process ends without a successor. Its lock is held for no
    /// more than copying.
    listeners: Arc<Mutex<Option<Vec<TcpListener>>>>,
    /// Another process serves. Written before the signal that ends this one, which reads it.
    is_done: Arc<AtomicBool>,
}

impl Handover {
    /// Hands `listeners` to each process that asks at `handovers`, one after the other. Once one of
    /// them serves, this process ends as after SIGTERM.
    pub fn offer(handovers: UnixListener, listeners: Vec<TcpListener>) -> io::Result<Self> {
        let offered = Self {
            listeners: Arc::new(Mutex::new(Some(listeners))),
            is_done: Arc::new(AtomicBool::new(false)),
        };
        let (listeners, is_done) = (Arc::clone(&offered.listeners), Arc::clone(&offered.is_done));
        // A thread of its own: a new process may take a minute to start, and nobody here must wait for
        // it.
        let hand_over = move || {
            while let Ok((stream, _)) = handovers.accept() {
                // Copied for each process that asks: the first one may fail to start, and another one
                // may ask. The lock is given back before the wait in `hand_out`, because `withdraw`
                // needs it.
                let copies = listeners.lock().as_ref().map(|listeners| {
                    listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()
                });
                // Withdrawn, or no descriptor is left: the peer sees its connection closed, and says
                // that it cannot take over.
                let Some(Ok(copies)) = copies else { return };
                match hand_out(stream, copies) {
                    Ok(true) => {
                        log::info!("another process has taken over");
                        // First the mark, then the signal: the main thread looks at the mark as soon as
                        // the signal wakes it.
                        is_done.store(true, Ordering::Release);
                        let _ = signal_hook::low_level::raise(SIGTERM);
                        return;
                    }
                    Ok(false) => log::warn!("take-over: the new process did not come to serve"),
                    Err(error) => log::debug!("take-over: {error}"),
                }
            }
        };
        thread::Builder::new().name("handover".to_string()).spawn(hand_over)?;
        Ok(offered)
    }

    /// Does another process serve in this one's place?
    pub fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Gives up the copies of the sockets. Without a successor the port is then closed, and clients
    /// that connect are refused instead of waiting for nobody.
    pub fn withdraw(&self) {
        *self.listeners.lock() = None;
    }
}

/// Gives the sockets to the process at the other end; `true` if it came to serve.
fn hand_out(mut stream: UnixStream, listeners: Vec<TcpListener>) -> io::Result<bool> {
    // Only programs of this user reach the socket; one that says nothing must not keep an upgrade from
    // happening.
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte != [WANTED] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let descriptors: Vec<_> = listeners.iter().take(SOCKETS_MAX).map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&stream, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::empty())?;
    // The peer has its own copies now. Ours, kept for the wait below, would keep the port open beyond
    // this process's end.
    drop(listeners);
    // The end of the stream counts as a failure: that process has ended before it came to serve.
    stream.set_read_timeout(Some(START_MAX))?;
    Ok(stream.read_exact(&mut byte).is_ok() && byte == [SERVING])
}
