//! The plain front: tiny_http hands each request to the pool.
//!
//! tiny_http 0.12 is one thread a connection, and has hazards of its own. What can be mended from
//! outside is mended here and in the files beside this one:
//!
//! - Framing that two servers would read differently is refused, and its connection cut, before
//!   anything else on that connection is read (CVE-2026-66752).
//! - Fields go through `http::HeaderValue`, so that none holds a line end (CVE-2026-66753).
//! - Responses are written by `sender.rs` and `sending.rs`, and cut ones cut the connection.
//! - Content is accounted for; a cut upload is never taken for a whole one, and an announced length
//!   that was not sent does not abort the process.
//! - Idle and overdue connections are cut; an accept loop that died is started anew; a connection
//!   that is stuck in tiny_http's queue is given a thread.
//!
//! What cannot be mended from outside: a head is read without a bound on its size before we see it;
//! a field value or target with a byte beyond ASCII closes the connection without an answer, and a
//! bare line feed waits for the header timeout; a request line that says HTTP/2.0 makes the
//! connection's thread wait for itself for ever, and costs it and its descriptors; a chunked upload
//! with trailer fields cannot be read to its end (400); a folded line is read as a field of its
//! own; excess connections are closed, where they should wait in the kernel's queue. This is why
//! this front serves loopback addresses only, unless `--allow-unsafe-front` is given.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Version};
use parking_lot::Mutex;

use crate::front::FrontSettings;
use crate::front::dispatch::Dispatch;
use crate::front::tiny::connections::Connections;
use crate::front::tiny::exchange::{TinyExchange, TinyShared, discard_unread};
use crate::front::tiny::pump::Pumps;
use crate::front::wire::WireClient;
use crate::front::workers::Pool;
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::{Framing, Request, RequestError, RequestLimits};
use crate::proxy::{Attempt, BlockingDriver};
use crate::stats::Counter;
use crate::vital;

mod connections;
mod exchange;
mod pump;
mod sender;
mod sending;
mod sockets;

/// How often the connections are checked, at least.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Checking the connections takes at most this part of the time.
const WATCH_SHARE: u32 = 20;
/// How long to wait before accepting again after that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The front over tiny_http.
pub struct TinyFront {
    inner: Arc<Inner>,
}

struct Inner {
    /// Kept to start another server on; dropped when the front stops, which closes the port.
    listener: Mutex<Option<TcpListener>>,
    local: SocketAddr,
    wait_max: Duration,
    limits: RequestLimits,
    shared: Arc<TinyShared>,
    /// No client is accepted any more.
    stopping: AtomicBool,
    /// No client is waited for any more.
    ended: AtomicBool,
    /// The server that accepts at present, to be woken when the front stops.
    server: Mutex<Option<Arc<tiny_http::Server>>>,
}

impl TinyFront {
    /// A front that serves: [`TinyFront::new`] and [`TinyFront::accept`] in one.
    pub fn start(
        listener: TcpListener,
        driver: BlockingDriver,
        pool: Pool,
        settings: FrontSettings,
    ) -> io::Result<Self> {
        let front = Self::new(listener, driver, pool, settings)?;
        front.accept()?;
        Ok(front)
    }

    /// Makes everything ready for the clients of `listener`, which need not listen yet.
    pub fn new(
        listener: TcpListener,
        driver: BlockingDriver,
        pool: Pool,
        settings: FrontSettings,
    ) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let connections = Connections::new(local, settings.connections);
        let proxy = Arc::clone(driver.proxy());
        let pumps = Pumps::start(proxy.stats())?;
        let dispatch = Dispatch::new(driver, pool, settings.handler, settings.health_path, None);
        let dispatch = Arc::new(dispatch);
        let access_log = settings.access_log;
        let shared = TinyShared { proxy, connections, pumps, dispatch, access_log };
        let inner = Arc::new(Inner {
            listener: Mutex::new(Some(listener)),
            local,
            wait_max: settings.wait_max,
            limits: settings.limits,
            shared: Arc::new(shared),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            server: Mutex::new(None),
        });
        Ok(Self { inner })
    }

    /// Begins to serve clients; the listener must listen.
    pub fn accept(&self) -> io::Result<()> {
        self.inner.accept()?;
        let watched = Arc::clone(&self.inner);
        let watch = move || {
            watched.watch();
            Ok(())
        };
        vital::spawn("watch", watch)
    }

    /// Opens the access log again.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.inner.shared.access_log {
            log.reopen();
        }
    }

    /// Stops accepting, cuts streams without an end, and lets what else is under way finish; `false` if
    /// it did not within `limit`.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let inner = &self.inner;
        // Before the server is woken: its dispatching thread asks for the reason.
        inner.stopping.store(true, Ordering::Release);
        drop(inner.listener.lock().take());
        // Its dispatching thread then drops it, which ends the accept thread.
        if let Some(server) = inner.server.lock().take() {
            server.unblock();
        }
        // Polled, because what is waited for ends on many threads, and the process has nothing else to
        // do.
        let drained = loop {
            // Some may have begun meanwhile.
            inner.shared.connections.cut_endless();
            if inner.shared.connections.under_way() == 0 {
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            thread::sleep(Duration::from_millis(5));
        };
        inner.ended.store(true, Ordering::Release);
        if drained {
            inner.shared.connections.cut_idle();
        }
        if let Some(log) = &inner.shared.access_log {
            log.flush();
        }
        drained
    }
}

impl Inner {
    /// Starts a server on a copy of the listener, and a thread that hands its requests to the pool.
    fn accept(self: &Arc<Self>) -> io::Result<()> {
        // The lock is held for the copy alone. No listener means that the front stops.
        let listener = match &*self.listener.lock() {
            Some(listener) => listener.try_clone()?,
            None => return Ok(()),
        };
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let server = Arc::new(server);
        *self.server.lock() = Some(Arc::clone(&server));
        let inner = Arc::clone(self);
        let dispatch = move || {
            loop {
                match server.recv() {
                    Ok(request) => {
                        // A bug that one request reaches must not end the thread that takes all of them.
                        let arrival = AssertUnwindSafe(|| inner.arrive(request));
                        if catch_unwind(arrival).is_err() {
                            inner.shared.proxy.stats().count(Counter::Panic);
                        }
                    }
                    Err(_) if inner.stopping.load(Ordering::Acquire) => return Ok(()),
                    // The server says so once; clients that are connected are served on.
                    Err(error) => log::warn!("accepting connections: {error}"),
                }
            }
        };
        vital::spawn("dispatch", dispatch)
    }

    /// Checks the connections now and then, until the front has ended. Requests that wait for a
    /// client or for another request's response have the same bounds while the front drains.
    fn watch(self: &Arc<Self>) {
        let mut pause = WATCH_INTERVAL;
        while !self.ended.load(Ordering::Acquire) {
            thread::sleep(pause);
            let begun = Instant::now();
            let watched = self.shared.connections.watch();
            // With very many descriptors a check takes long; it must not take a core.
            pause = WATCH_INTERVAL.max(begun.elapsed() * WATCH_SHARE);
            // Also while stopping: this thread once ended with accepting, and parked requests then
            // waited without a bound.
            self.shared.proxy.expire_parked(self.wait_max);
            if self.stopping.load(Ordering::Acquire) {
                continue;
            }
            // Our own copy of the listener is one descriptor; the accept thread of a server has the
            // other. tiny_http's accept thread ends at its first error, EMFILE for one, and the process
            // would live on and accept no client.
            if watched.listening == 1 {
                log::warn!(
                    "{} connections, and accepting them has stopped; starting anew",
                    watched.open
                );
                thread::sleep(ACCEPT_PAUSE);
                if let Err(error) = self.accept() {
                    log::warn!("accepting connections: {error}");
                }
            }
            for _ in 0..watched.maybe_queued {
                self.connect_to_self();
            }
        }
    }

    /// Makes tiny_http start a thread. Its pool can leave a new connection in its queue, believing
    /// that a thread is free which has just been given another one; the thread of this connection,
    /// which ends at once, then takes the one that was left.
    fn connect_to_self(&self) {
        // All addresses cannot be connected to; the loopback address is one of them.
        let ip = match self.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        drop(TcpStream::connect_timeout(&SocketAddr::new(ip, self.local.port()), WATCH_INTERVAL));
    }

    /// Takes in a request that tiny_http has read.
    fn arrive(self: &Arc<Self>, inner: tiny_http::Request) {
        let Some(peer) = inner.remote_addr().copied() else { return discard_unread(inner) };
        let Some(activity) = self.shared.connections.begin(peer) else {
            // It came over a connection that is cut: what it says may be content of another one.
            return discard_unread(inner);
        };
        match translate(&inner, peer, self.limits) {
            Ok(request) => {
                let shared = Arc::clone(&self.shared);
                let exchange = TinyExchange::new(shared, inner, Arc::new(request), peer, activity);
                self.begin(exchange, peer);
            }
            Err(error) => self.refuse_unread(inner, &error, peer),
        }
    }

    /// Hands an exchange to the pool, when those before it on its connection are answered.
    fn begin(self: &Arc<Self>, exchange: TinyExchange, peer: SocketAddr) {
        let front = Arc::clone(self);
        // The slot lets the exchange come back if too many requests wait on its connection.
        let slot = Arc::new(Mutex::new(Some(exchange)));
        let taken = Arc::clone(&slot);
        let begin = Box::new(move || {
            let exchange = taken.lock().take();
            if let Some(exchange) = exchange {
                front.shared.dispatch.submit_lookup(exchange, Attempt::default());
            }
        });
        if self.shared.connections.in_turn(peer, begin).is_err() {
            // Taken before it is refused: the lock would be held for as long as that takes.
            let exchange = slot.lock().take();
            if let Some(exchange) = exchange {
                self.shared.dispatch.refuse_full(exchange);
            }
        }
    }

    /// Answers what is not an acceptable request, and cuts its connection.
    fn refuse_unread(&self, inner: tiny_http::Request, error: &RequestError, peer: SocketAddr) {
        let client =
            WireClient { version: Version::HTTP_11, keeps_alive: false, takes_trailers: false };
        let mut response = self.shared.proxy.refuse_unread(error, false);
        let mut bytes = Vec::new();
        let body = std::mem::replace(&mut response.body, Body::None { length: None });
        if let Body::Whole(content) = body {
            bytes = client.head(&response, client.delimiting(Some(content.len() as u64)));
            bytes.extend_from_slice(&content);
        }
        log::info!("{peer}: {error}");
        // Cut before the request is dropped: tiny_http would read its content, by a framing that is not
        // to be trusted.
        self.shared.connections.cut_with(peer, &bytes);
        discard_unread(inner);
        self.shared.connections.end(peer);
    }
}

/// Makes a request of what tiny_http has parsed; an error if it is not acceptable.
fn translate(
    inner: &tiny_http::Request,
    peer: SocketAddr,
    limits: RequestLimits,
) -> Result<Request, RequestError> {
    let method = Method::from_bytes(inner.method().as_str().as_bytes())
        .map_err(|_| RequestError::Field("method".to_string()))?;
    let version = match (inner.http_version().0, inner.http_version().1) {
        (1, 1) => Version::HTTP_11,
        // HTTP/0.9 has no head to speak of; tiny_http wants one all the same.
        _ => Version::HTTP_10,
    };
    let mut fields = Fields::with_capacity(inner.headers().len());
    for header in inner.headers() {
        let name = header.field.as_str().as_str();
        let refused = || RequestError::Field(name.chars().take(40).collect());
        let value = HeaderValue::from_bytes(header.value.as_bytes()).map_err(|_| refused())?;
        fields.append_spelt(name.as_bytes(), value).map_err(|_| refused())?;
    }
    // tiny_http hands over the bare connection when an upgrade is asked for; nothing would take the
    // chunks apart.
    let request = Request::within(limits, method, inner.url(), version, fields, Some(peer))?;
    let upgrade = request.fields.has_member("connection", "upgrade");
    if upgrade && request.framing == Framing::Chunked {
        return Err(RequestError::Framing("an upgrade with chunked content"));
    }
    Ok(request)
}
