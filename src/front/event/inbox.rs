//! What other threads tell an event loop: letters in a box, and a bell that is rung once for all that
//! lie in it.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use crate::front::event::accept::Acceptor;
use crate::front::tunnels;
use crate::message::fields::Fields;
use crate::message::response::Response;
use crate::origin::Tunnel;
use crate::proxy::Attempt;

/// An exchange, as other threads know it. Letters about one that is over are not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Where its connection stands in the loop's list.
    pub slot: usize,
    /// No other exchange of the loop has the same.
    pub number: u64,
}

/// What an event loop is told; `E` is an exchange as a worker has it, which knows this inbox.
pub(super) enum Letter<E> {
    /// A client that another loop has accepted.
    Client(TcpStream, SocketAddr),
    /// The response.
    Response(Place, Response),
    /// An interim response, as bytes.
    Interim(Place, Vec<u8>),
    /// The request's content is waited for.
    ContentWanted(Place),
    /// The body has grown.
    Grown(Place),
    /// The request it waited for is answered.
    Resume(Place, Box<E>, Attempt),
    /// The origin server has agreed to speak another protocol.
    GoOver(Place, Box<Agreed>),
    /// A worker panicked.
    Lost(Place),
    /// Clients are to be accepted.
    Accept(Box<Acceptor>),
    /// The proxy is to end.
    Drain(Endless),
    /// Somebody else accepts from now on; who is connected already is served once more.
    Retire,
}

impl<E> Letter<E> {
    /// Which exchange it is about, if any.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Client(..) | Self::Accept(_) | Self::Drain(_) | Self::Retire => None,
            Self::Response(place, _)
            | Self::Interim(place, _)
            | Self::ContentWanted(place)
            | Self::Grown(place)
            | Self::GoOver(place, _)
            | Self::Resume(place, ..)
            | Self::Lost(place) => Some(*place),
        }
    }
}

/// What becomes of streams without an end, and of tunnels, when the proxy is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Endless {
    /// They are cut: waiting for them would be in vain.
    Cut,
    /// They go on for as long as the process may take.
    GoOn,
}

/// What becomes a tunnel.
pub(super) struct Agreed {
    pub fields: Fields,
    pub tunnel: Tunnel,
    pub place: tunnels::Place,
}

/// The box of one loop. It holds a few letters for each exchange that is under way at most.
pub(super) struct Inbox<E> {
    letters: Mutex<Vec<Letter<E>>>,
    bell: Box<dyn Fn() + Send + Sync>,
    /// The loop's own thread looks into the box before it sleeps, and needs no bell.
    owner: OnceLock<ThreadId>,
}

impl<E> Inbox<E> {
    /// A box whose loop is woken by `bell`, which must not block.
    pub(super) fn new(bell: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { letters: Mutex::default(), bell, owner: OnceLock::new() })
    }

    /// The calling thread is the loop's.
    pub(super) fn own(&self) {
        let _ = self.owner.set(thread::current().id());
    }

    /// Puts a letter in.
    pub(super) fn post(&self, letter: Letter<E>) {
        let mut letters = self.letters.lock();
        let first = letters.is_empty();
        letters.push(letter);
        drop(letters);
        if first && self.owner.get() != Some(&thread::current().id()) {
            (self.bell)();
        }
    }

    /// Wakes the loop.
    pub(super) fn ring(&self) {
        (self.bell)();
    }

    /// Takes all letters out, into `letters`, which is empty.
    pub(super) fn take(&self, letters: &mut Vec<Letter<E>>) {
        std::mem::swap(letters, &mut *self.letters.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_bell_rings_once_for_many_letters() {
        let rings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rings);
        let inbox: Arc<Inbox<()>> =
            Inbox::new(Box::new(move || _ = counted.fetch_add(1, Ordering::Relaxed)));
        let mut letters = Vec::new();
        for _ in 0..2 {
            for _ in 0..1000 {
                inbox.post(Letter::Retire);
            }
            inbox.take(&mut letters);
            assert_eq!(letters.len(), 1000);
            letters.clear();
        }
        assert_eq!(rings.load(Ordering::Relaxed), 2);
        inbox.own();
        inbox.post(Letter::Retire);
        assert_eq!(rings.load(Ordering::Relaxed), 2, "who posts is about to look");
    }
}
