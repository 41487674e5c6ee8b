//! The inbox of an event loop: messages from other threads, and a waker that is called once for all that
//! have come since the loop last read them.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use crate::front::event::accept::Acceptor;
use crate::front::event::upload::Upload;
use crate::front::wakes::{WakeLoop, wake};
use crate::message::body::Growing;
use crate::message::fields::Fields;
use crate::origin::evented::ExchangeKey;
use crate::policy::response::Response;
use crate::proxy::{Attempt, Fetch, UpgradeRequest};

/// An exchange, as other threads know it. The loop drops messages about one that is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ExchangeId {
    /// The slot of its connection.
    pub slot: usize,
    /// No other exchange of the loop has the same.
    pub number: u64,
}

/// A message to an event loop; `E` is an exchange as a worker has it, which knows this inbox.
pub(super) enum Message<E> {
    /// A client that another loop has accepted.
    Client(TcpStream, SocketAddr),
    /// The response.
    Response(ExchangeId, Response),
    /// An interim response, as bytes.
    Interim(ExchangeId, Vec<u8>),
    /// A worker waits for the request's content.
    ContentWanted(ExchangeId),
    /// The body has grown.
    Grown(ExchangeId),
    /// The request that this one was parked behind is answered, or has taken too long.
    Resume(ExchangeId, Box<E>, Attempt),
    /// The origin server is to be asked; the response goes to the exchange, or to nobody.
    Fetch(Box<Fetch>, Option<Box<E>>),
    /// The origin server is to be asked to go over to another protocol.
    AskToUpgrade(Box<UpgradeRequest>, Box<E>),
    /// An exchange with the origin server may go on.
    WakeOrigin(ExchangeKey),
    /// The origin server has gone over to another protocol.
    Switched(ExchangeId, Box<AgreedUpgrade>),
    /// A worker panicked.
    Lost(ExchangeId),
    /// Clients are to be accepted.
    Accept(Box<Acceptor>),
    /// The proxy is to end.
    Drain(Endless),
    /// Another process accepts from now on; each connected client is served once more.
    Retire,
}

impl<E> Message<E> {
    /// Which exchange it is about, if any.
    pub(super) fn exchange_id(&self) -> Option<ExchangeId> {
        match self {
            Self::Client(..)
            | Self::Accept(_)
            | Self::Drain(_)
            | Self::Retire
            | Self::Fetch(..)
            | Self::AskToUpgrade(..)
            | Self::WakeOrigin(_) => None,
            Self::Response(id, _)
            | Self::Interim(id, _)
            | Self::ContentWanted(id)
            | Self::Grown(id)
            | Self::Switched(id, _)
            | Self::Resume(id, ..)
            | Self::Lost(id) => Some(*id),
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
pub(super) struct AgreedUpgrade {
    /// Those that the client is sent with the 101.
    pub fields: Fields,
    /// What the origin server sends from then on.
    pub content: Box<dyn Growing>,
    /// Takes what the client sends.
    pub upload: Arc<Upload>,
}

/// The inbox of one loop. It holds a few messages for each exchange under way, at most.
pub(super) struct Inbox<E> {
    messages: Mutex<Vec<Message<E>>>,
    waker: WakeLoop,
    /// The loop's own thread reads the inbox before it sleeps, and need not be woken.
    owner: OnceLock<ThreadId>,
}

impl<E> Inbox<E> {
    /// An inbox whose loop is woken by `waker`, which must not block.
    pub(super) fn new(waker: WakeLoop) -> Arc<Self> {
        Arc::new(Self { messages: Mutex::default(), waker, owner: OnceLock::new() })
    }

    /// The calling thread is the one that reads the inbox.
    pub(super) fn set_owner(&self) {
        let is_first = self.owner.set(thread::current().id()).is_ok();
        assert!(is_first, "one thread reads an inbox");
    }

    /// Adds a message, and wakes the loop if it is the first one since the loop last read them.
    pub(super) fn send(&self, message: Message<E>) {
        // The lock is held for the push alone: event loops send to each other, and must not wait.
        let mut messages = self.messages.lock();
        let first = messages.is_empty();
        messages.push(message);
        drop(messages);
        // Behind the first message there is a wake-up on its way, or the loop is about to read the inbox.
        // Each wake-up is a call of the system, and bodies that grow would make very many.
        if first && self.owner.get() != Some(&thread::current().id()) {
            wake(&self.waker);
        }
    }

    /// Wakes the loop without a message.
    pub(super) fn wake(&self) {
        (self.waker)();
    }

    /// Takes all messages out, into `messages`, which is empty.
    pub(super) fn take(&self, messages: &mut Vec<Message<E>>) {
        assert!(messages.is_empty(), "all messages that were taken have been handled");
        // Swapped, so that both lists keep their memory.
        std::mem::swap(messages, &mut *self.messages.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_loop_is_woken_once_for_many_messages() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wakes);
        let inbox: Arc<Inbox<()>> =
            Inbox::new(Arc::new(move || _ = counted.fetch_add(1, Ordering::Relaxed)));
        let mut messages = Vec::new();
        for _ in 0..2 {
            for _ in 0..1000 {
                inbox.send(Message::Retire);
            }
            inbox.take(&mut messages);
            assert_eq!(messages.len(), 1000);
            messages.clear();
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        inbox.set_owner();
        inbox.send(Message::Retire);
        assert_eq!(wakes.load(Ordering::Relaxed), 2, "the sender is the reader, and about to read");
    }

    #[test]
    #[should_panic(expected = "all messages that were taken have been handled")]
    fn messages_that_are_not_handled_are_a_bug() {
        let inbox: Arc<Inbox<()>> = Inbox::new(Arc::new(|| ()));
        inbox.take(&mut vec![Message::Retire]);
    }
}
