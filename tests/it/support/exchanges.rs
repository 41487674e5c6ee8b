//! An event loop that has exchanges with origin servers and nothing else. Its time is set by hand.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use caching_proxy::clock::{Clock, Timestamp};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Framing;
use caching_proxy::origin::blocking::client::{OriginClient, OriginClientSettings};
use caching_proxy::origin::egress::Egress;
use caching_proxy::origin::evented::{
    Consumer, ContentTaken, ExchangeKey, Exchanges, NewExchange, OriginReadiness, Space,
    WakeExchange, Wish,
};
use caching_proxy::origin::gate::{Gate, Limits};
use caching_proxy::origin::resolver::Names;
use caching_proxy::origin::{OriginError, OriginHead, RequestHead};
use http::{Method, StatusCode};
use mio::{Events, Poll, Token, Waker};

use super::PATIENCE;

/// `--connect-timeout` of the loop.
pub const LIMIT: Duration = Duration::from_secs(36_000);
/// The most idle connections of the loop.
pub const IDLE_MAX: usize = 3;
const FIRST_TOKEN: usize = 1;

/// An event loop that has exchanges only.
pub struct Loop<C> {
    poll: Poll,
    pub exchanges: Exchanges<C>,
    woken: Receiver<ExchangeKey>,
    pub outcomes: Receiver<Outcome>,
    client: C,
    /// How far its time is ahead.
    ahead: Duration,
}

/// The status, or why there is none.
pub type Outcome = Result<u16, String>;

/// Tells what has come of an exchange.
#[derive(Clone)]
pub struct Client(pub Sender<Outcome>);

impl Consumer for Client {
    fn begun(&mut self, _: ExchangeKey, _: &WakeExchange) {}

    fn take_content(&mut self, _: &mut Vec<u8>, _: usize) -> io::Result<ContentTaken> {
        Ok(ContentTaken::End)
    }

    fn drop_content(&mut self) {}

    fn interim(&mut self, _: StatusCode, _: Fields) {}

    fn head(&mut self, head: OriginHead) -> Wish {
        self.0.send(Ok(head.status.as_u16())).ok();
        Wish::Over
    }

    fn space(&mut self, _: Instant) -> Space {
        Space::Unwanted
    }

    fn piece(&mut self, _: &[u8]) -> Wish {
        Wish::Over
    }

    fn trailers(&mut self, _: Fields) {}

    fn last(&mut self, _: &[u8]) -> Wish {
        Wish::Over
    }

    fn fail(&mut self, error: OriginError) -> Wish {
        self.0.send(Err(format!("{error:?}"))).ok();
        Wish::Over
    }

    fn switched(&mut self, _: Fields) -> Wish {
        unreachable!("nobody asks for another protocol")
    }

    fn abandoned(self, _: bool) {}

    fn is_wanted(&self) -> bool {
        true
    }
}

impl<C: Consumer + Clone> Loop<C> {
    /// `client` makes the client of all exchanges, of where it is to tell what has come of one.
    pub fn new(names: Names, client: impl FnOnce(Sender<Outcome>) -> C) -> Self {
        let poll = Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
        let (wakes, woken) = channel();
        let wake: WakeExchange = Arc::new(move |key| {
            wakes.send(key).ok();
            waker.wake().expect("it wakes");
        });
        let origin_client = OriginClient::new(OriginClientSettings {
            connect_timeout: LIMIT,
            origin_timeout: LIMIT,
            first_byte_timeout: LIMIT,
            roots: None,
            names,
            idle_connections_max: 1,
            egress: Egress::default(),
        });
        let limits =
            Limits { rate: None, concurrency: None, connections: None, wait_max: Duration::ZERO };
        let gate = Gate::new(Clock::by_hand(Timestamp(0)), limits);
        let registry = poll.registry().try_clone().expect("a registry");
        let mut settings = origin_client.evented(gate);
        settings.idle_connections_max = IDLE_MAX;
        let settings = Arc::new(settings);
        let exchanges = Exchanges::new(settings, registry, FIRST_TOKEN, wake);
        let (tells, outcomes) = channel();
        let client = client(tells);
        Self { poll, exchanges, woken, outcomes, client, ahead: Duration::ZERO }
    }

    pub fn ask(&mut self, host: &str, port: u16) {
        self.ask_for(format!("http://{host}:{port}/a"));
    }

    /// Begins to ask for a URL.
    pub fn ask_for(&mut self, url: String) {
        self.begin(url, Framing::None);
    }

    /// Asks with content, which the client gives.
    pub fn ask_with(&mut self, host: &str, port: u16, content: Framing) {
        self.begin(format!("http://{host}:{port}/a"), content);
    }

    fn begin(&mut self, url: String, content: Framing) {
        let (method, fields) = (Method::GET, Arc::default());
        let head = RequestHead { method, url, host: None, fields, waits: false };
        self.exchanges.woke(Instant::now() + self.ahead);
        let new = NewExchange { content, ..NewExchange::without_content(&head, None) };
        self.exchanges.begin(self.client.clone(), new);
    }

    /// Connections that there are, idle ones among them.
    pub fn connections(&self) -> usize {
        self.exchanges.connections()
    }

    /// Lets its time pass at once.
    pub fn pass(&mut self, span: Duration) {
        self.ahead += span;
        self.exchanges.woke(Instant::now() + self.ahead);
        self.exchanges.go_on();
    }

    /// What has come of an exchange, once that is known.
    pub fn outcome(&mut self) -> Outcome {
        self.until(|this| this.outcomes.try_recv().ok())
    }

    /// Runs until there is what is looked for.
    pub fn until<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing comes of it");
            // What is looked for may happen elsewhere, and wakes nobody here.
            self.turn(left.min(Duration::from_millis(10)));
        }
    }

    /// Waits until something happens, and handles it.
    fn turn(&mut self, most: Duration) {
        let mut events = Events::with_capacity(64);
        let most = if self.exchanges.has_unfinished() { Duration::ZERO } else { most };
        self.poll.poll(&mut events, Some(most)).expect("it waits");
        self.exchanges.woke(Instant::now() + self.ahead);
        for event in events.iter().filter(|event| event.token() != Token(0)) {
            let readiness = OriginReadiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                ended: event.is_read_closed() || event.is_error(),
            };
            self.exchanges.handle_readiness(event.token().0, readiness);
        }
        for key in self.woken.try_iter() {
            self.exchanges.wake(key);
        }
        self.exchanges.go_on();
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
