//! The turns of an exchange with the origin server: what one turn leaves, the next one finds. The loop's time is set
//! by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Framing;
use caching_proxy::origin::evented::{
    Consumer, ContentTaken, ExchangeKey, Space, WakeExchange, Wish,
};
use caching_proxy::origin::resolver::Names;
use caching_proxy::origin::{OriginError, OriginHead};
use http::StatusCode;
use parking_lot::Mutex;

use super::support::exchanges::{Loop, Outcome, local};

/// Takes content byte by byte, and has no space for it at first.
#[derive(Clone)]
struct Client {
    outcomes: Sender<Outcome>,
    status: u16,
    /// How often it was asked for space, and how often it has none.
    asked: Arc<AtomicUsize>,
    blocked: usize,
    /// Does it keep back what has come while it has no space?
    keeps_back: Arc<AtomicBool>,
    /// How much content has come.
    taken: Arc<AtomicUsize>,
    /// Content of its own; `None` as long as it gives none.
    content: Arc<Mutex<Option<&'static [u8]>>>,
    key: Arc<Mutex<Option<ExchangeKey>>>,
}

/// When it has no space, it is to be asked again after this time.
const AGAIN: Duration = Duration::from_secs(3600);

impl Client {
    fn new(outcomes: Sender<Outcome>, blocked: usize) -> Self {
        let (asked, taken) = (Arc::default(), Arc::default());
        let (keeps_back, content, key) = (Arc::default(), Arc::default(), Arc::default());
        Self { outcomes, status: 0, asked, blocked, keeps_back, taken, content, key }
    }

    fn take(&self, piece: &[u8]) {
        self.taken.fetch_add(piece.len(), Ordering::Relaxed);
    }
}

impl Consumer for Client {
    fn begun(&mut self, key: ExchangeKey, _: &WakeExchange) {
        *self.key.lock() = Some(key);
    }

    fn take_content(&mut self, out: &mut Vec<u8>, _: usize) -> io::Result<ContentTaken> {
        let Some(content) = *self.content.lock() else { return Ok(ContentTaken::NotYet) };
        out.extend_from_slice(content);
        Ok(ContentTaken::Bytes)
    }

    fn drop_content(&mut self) {}

    fn interim(&mut self, _: StatusCode, _: Fields) {}

    fn head(&mut self, head: OriginHead) -> Wish {
        self.status = head.status.as_u16();
        Wish::GoOn
    }

    fn space(&mut self, now: Instant) -> Space {
        if self.asked.fetch_add(1, Ordering::Relaxed) < self.blocked {
            return Space::None(now + AGAIN);
        }
        Space::Bytes(1)
    }

    fn keeps_back(&self) -> bool {
        self.keeps_back.load(Ordering::Relaxed)
    }

    fn piece(&mut self, piece: &[u8]) -> Wish {
        self.take(piece);
        Wish::GoOn
    }

    fn trailers(&mut self, _: Fields) {}

    fn last(&mut self, piece: &[u8]) -> Wish {
        self.take(piece);
        self.outcomes.send(Ok(self.status)).ok();
        Wish::Over
    }

    fn fail(&mut self, error: OriginError) -> Wish {
        self.outcomes.send(Err(format!("{error:?}"))).ok();
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

/// A loop that has begun to ask, a client that has no space so many times, and the connection of the server.
fn asking(blocked: usize, content: Framing) -> (Loop<Client>, Client, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = local(listener.local_addr().expect("an address").port());
    let mut client = None;
    let mut event_loop = Loop::new(Names::new(move |_, _| Ok(vec![address])), |outcomes| {
        client.insert(Client::new(outcomes, blocked)).clone()
    });
    event_loop.ask_with(&address.ip().to_string(), address.port(), content);
    let (stream, _) = listener.accept().expect("the proxy connects");
    (event_loop, client.expect("it was made"), stream)
}

/// Readiness is reported once: what is reported before the connection is known to stand counts, too.
#[test]
fn an_answer_that_comes_with_the_connection_is_read() {
    let (mut event_loop, client, mut server) = asking(0, Framing::None);
    // Before the loop learns of anything. The server's side ends; its socket does not.
    server.write_all(b"HTTP/1.1 503 Busy\r\n\r\nbusy").expect("a connection");
    server.shutdown(Shutdown::Write).expect("a connection");
    assert_eq!(event_loop.outcome(), Ok(503));
    assert_eq!(client.taken.load(Ordering::Relaxed), 4);
}

/// The moment for which a client without space has asked is over once there is space: what comes after it is not
/// late.
#[test]
fn content_is_not_late_because_there_was_no_space_before() {
    const BYTES: usize = 1000;
    let (mut event_loop, client, mut server) = asking(1, Framing::None);
    // Content that comes with the head is not asked for.
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\nx");
    server.write_all(head.as_bytes()).expect("a connection");
    let is_above = |counter: &AtomicUsize| (counter.load(Ordering::Relaxed) > 0).then_some(());
    event_loop.until(|_| is_above(&client.taken));
    server.write_all(&[b'x'; BYTES - 1]).expect("a connection");
    event_loop.until(|_| is_above(&client.asked));
    // There is space before that moment. There is more than one turn reads, so this leaves some.
    let key = client.key.lock().expect("it has begun");
    event_loop.exchanges.wake(key);
    event_loop.pass(2 * AGAIN);
    assert_eq!(event_loop.outcome(), Ok(200));
    assert_eq!(client.taken.load(Ordering::Relaxed), BYTES);
}

/// What was read last may wait for space that nobody tells of, while the origin server sends nothing more: it is asked
/// for again and again, and the time of the origin server begins behind that.
#[test]
fn what_is_kept_back_goes_on_although_nothing_more_comes() {
    let (mut event_loop, client, mut server) = asking(3, Framing::None);
    client.keeps_back.store(true, Ordering::Relaxed);
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx").expect("a connection");
    let asked = || client.asked.load(Ordering::Relaxed);
    event_loop.until(|_| (asked() > 0).then_some(()));
    for count in 2..=4 {
        event_loop.pass(AGAIN);
        assert_eq!(asked(), count);
    }
    client.keeps_back.store(false, Ordering::Relaxed);
    server.write_all(b"y").expect("a connection");
    assert_eq!(event_loop.outcome(), Ok(200));
    assert_eq!(client.taken.load(Ordering::Relaxed), 2);
}

/// RFC 9112 §6.3: bytes behind a response are no response to the next request, also where a read ends between them.
#[test]
fn a_connection_with_more_than_a_response_is_not_kept() {
    for (more, kept) in [("", 1), ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0)] {
        let (mut event_loop, client, mut server) = asking(0, Framing::None);
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx").expect("a connection");
        event_loop.until(|_| (client.taken.load(Ordering::Relaxed) == 1).then_some(()));
        // The client takes one byte of it.
        server.write_all(format!("y{more}").as_bytes()).expect("a connection");
        assert_eq!(event_loop.outcome(), Ok(200));
        assert_eq!(event_loop.exchanges.connections(), kept, "{more:?}");
    }
}

/// The same of what comes while the connection is idle, and of its end: whatever the loop learns first.
#[test]
fn a_connection_on_which_something_has_come_is_not_used() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (more, ends, connections) in [("", false, 1), (more, false, 2), ("", true, 2)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = local(listener.local_addr().expect("an address").port());
        let (host, port) = (address.ip().to_string(), address.port());
        let names = Names::new(move |_, _| Ok(vec![address]));
        let mut event_loop = Loop::new(names, |outcomes| Client::new(outcomes, 0));
        event_loop.ask(&host, port);
        let (mut server, _) = listener.accept().expect("the proxy connects");
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        server.write_all(answer).expect("a connection");
        assert_eq!(event_loop.outcome(), Ok(204));
        server.write_all(more.as_bytes()).expect("a connection");
        if ends {
            server.shutdown(Shutdown::Write).expect("a connection");
        }
        // Before the loop learns of it.
        event_loop.ask(&host, port);
        let mut fresh = (connections > 1).then(|| listener.accept().expect("it connects").0);
        fresh.as_mut().unwrap_or(&mut server).write_all(answer).expect("a connection");
        assert_eq!(event_loop.outcome(), Ok(204), "{more:?} {ends}");
    }
}

/// RFC 9112 §8: whoever writes learns of a reset, and whoever reads then finds an end as if there had been none. It
/// is not the end of a response.
#[test]
fn a_reset_that_a_write_has_met_is_no_end_of_a_response() {
    let (mut event_loop, client, mut server) = asking(0, Framing::Chunked);
    server.set_nonblocking(true).expect("an option");
    let mut head = Vec::new();
    event_loop.until(|_| {
        let _ = server.read_to_end(&mut head);
        head.ends_with(b"\r\n\r\n").then_some(())
    });
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").expect("a connection");
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(server);
    *client.content.lock() = Some(b"content");
    let error = event_loop.outcome().expect_err("it is cut");
    assert!(error.starts_with("Cut {"), "{error}");
    assert_eq!(client.taken.load(Ordering::Relaxed), 4);
}
