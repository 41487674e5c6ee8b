//! An upgrade without loss: a new process takes over the listening socket of the one that runs, or gets
//! it from systemd. Whoever connects meanwhile waits in the one queue that both share, and is refused by
//! neither.
//!
//! The old process hands out its socket, goes on as before, and ends in an orderly way once the new one
//! says that it serves. If the new one fails before that, nothing has happened.

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

/// For how long a new process may take to start.
const START_MAX: Duration = Duration::from_secs(60);
/// For how long the old one may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most listening sockets that are handed over.
const SOCKETS_MAX: usize = 16;
/// What the new process says first, and when it serves.
const WANTED: u8 = b'T';
const SERVING: u8 = b'R';

/// A process whose socket has been taken over; it is told when this one serves.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// From now on the predecessor is not needed.
    pub fn retire(mut self) {
        if let Err(error) = self.0.write_all(&[SERVING]) {
            log::warn!("take-over: the old process does not hear that this one serves: {error}");
        }
    }
}

/// Takes over the listening sockets of the process that serves handovers at `stream`.
pub fn take(stream: UnixStream) -> io::Result<(Vec<TcpListener>, Predecessor)> {
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    (&stream).write_all(&[WANTED])?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let listeners: Vec<TcpListener> = descriptors.flatten().map(TcpListener::from).collect();
    if listeners.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((listeners, Predecessor(stream)))
}

/// The process stands ready to hand over its listening socket.
pub struct Handover {
    listeners: Arc<Mutex<Option<Vec<TcpListener>>>>,
    is_done: Arc<AtomicBool>,
}

impl Handover {
    /// Hands `listeners` to whoever asks at `handovers`; ends the process in an orderly way once somebody
    /// serves.
    pub fn offer(handovers: UnixListener, listeners: Vec<TcpListener>) -> io::Result<Self> {
        let offered = Self {
            listeners: Arc::new(Mutex::new(Some(listeners))),
            is_done: Arc::new(AtomicBool::new(false)),
        };
        let (listeners, is_done) = (Arc::clone(&offered.listeners), Arc::clone(&offered.is_done));
        let hand_over = move || {
            while let Ok((stream, _)) = handovers.accept() {
                let copies = listeners.lock().as_ref().map(|listeners| {
                    listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()
                });
                let Some(Ok(copies)) = copies else { return };
                match hand_out(stream, copies) {
                    Ok(true) => {
                        log::info!("another process has taken over");
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

    /// Has somebody taken over?
    pub fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// There is nothing to hand over any more: who connects now is refused, unless somebody has taken over.
    pub fn withdraw(&self) {
        *self.listeners.lock() = None;
    }
}

/// Gives the sockets to one who asks; does it come to serve?
fn hand_out(mut stream: UnixStream, listeners: Vec<TcpListener>) -> io::Result<bool> {
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
    // The other one has its own now.
    drop(listeners);
    stream.set_read_timeout(Some(START_MAX))?;
    Ok(stream.read_exact(&mut byte).is_ok() && byte == [SERVING])
}
