//! The front in process, over an origin server that no socket could be.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support;
use super::support::PATIENCE;
use super::support::origin::Gate;
use super::support::wire::Connection;
use caching_proxy::clock::Clock;
use caching_proxy::front::ConnectionLimits;
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{FrontSettings, event, tiny};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::RequestLimits;
use caching_proxy::origin::{Origin, OriginError, OriginHead, OriginRequest, OriginResponse};
use caching_proxy::proxy::{BlockingDriver, Proxy};
use caching_proxy::stats::Stats;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use http::{StatusCode, Version};

/// Panics at the first request, and answers the others.
struct Panicking(AtomicUsize);

impl Origin for Panicking {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
        Ok(no_content())
    }
}

fn no_content() -> OriginResponse {
    OriginResponse {
        head: OriginHead {
            status: StatusCode::NO_CONTENT,
            version: Version::HTTP_11,
            fields: Fields::new(),
            length: None,
            silently_delimited: false,
            has_content: false,
        },
        body: None,
    }
}

#[test]
fn a_panic_costs_one_exchange() {
    over(|listener, driver, pool, settings| {
        let front =
            event::EventFront::start(vec![listener], driver, pool, 2, settings).expect("threads");
        Box::new(move |limit| front.drain(limit))
    });
    over(|listener, driver, pool, settings| {
        let front = tiny::TinyFront::start(listener, driver, pool, settings).expect("threads");
        Box::new(move |limit| front.drain(limit))
    });
}

/// Never answers the first request for as long as a test wants, and answers the others.
struct Stuck {
    asked: AtomicUsize,
    gate: Gate,
}

impl Origin for Stuck {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            self.gate.pass();
        }
        Ok(no_content())
    }
}

/// A request that waits for another one's answer waits no longer than it may, also when the proxy is about to
/// end or somebody else has taken over.
#[test]
fn a_parked_request_keeps_its_bound_while_the_front_drains() {
    let second = Duration::from_secs(20);
    parked(|listener, driver, pool, settings| {
        let front =
            event::EventFront::start(vec![listener], driver, pool, 2, settings).expect("threads");
        Box::new(move || front.drain(second))
    });
    parked(|listener, driver, pool, settings| {
        let front =
            event::EventFront::start(vec![listener], driver, pool, 2, settings).expect("threads");
        Box::new(move || front.retire(second))
    });
    parked(|listener, driver, pool, settings| {
        let front =
            event::EventFront::start(vec![listener], driver, pool, 2, settings).expect("threads");
        Box::new(move || front.give_way(second))
    });
    parked(|listener, driver, pool, settings| {
        let front = tiny::TinyFront::start(listener, driver, pool, settings).expect("threads");
        Box::new(move || front.drain(second))
    });
}

type End = Box<dyn FnOnce() -> bool + Send>;

fn parked(start: impl Fn(TcpListener, BlockingDriver, Pool, FrontSettings) -> End) {
    let gate = Gate::new();
    let origin = Arc::new(Stuck { asked: AtomicUsize::new(0), gate: gate.clone() });
    let (listener, driver, pool, settings) = parts(Arc::clone(&origin) as Arc<dyn Origin>, 4);
    let stats = Arc::clone(driver.proxy().stats());
    let address: SocketAddr = listener.local_addr().expect("an address");
    let end = start(
        listener,
        driver,
        pool,
        FrontSettings { wait_max: Duration::from_secs(1), ..settings },
    );
    let mut first = Connection::open(address);
    first.request("GET", "/a", "", "");
    wait_until(|| origin.asked.load(Ordering::Relaxed) == 1);
    let mut parked = Connection::open(address);
    parked.request("GET", "/a", "", "");
    wait_until(|| stats.summary().starts_with("2 requests"));
    let ending = thread::spawn(end);
    let reply = parked.reply_to("GET").expect("it is sent to the origin server itself");
    assert_eq!(reply.status, 204);
    assert!(!ending.is_finished(), "the first one is waited for");
    gate.open();
    assert_eq!(first.reply_to("GET").map(|reply| reply.status), Some(204));
    assert!(ending.join().expect("no panic"));
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline);
        super::support::pause();
    }
}

/// Ends a front.
type Drain = Box<dyn Fn(Duration) -> bool>;

fn over(start: impl Fn(TcpListener, BlockingDriver, Pool, FrontSettings) -> Drain) {
    let origin = Arc::new(Panicking(AtomicUsize::new(0)));
    let (listener, driver, pool, settings) = parts(origin, 1);
    let stats = Arc::clone(driver.proxy().stats());
    let address: SocketAddr = listener.local_addr().expect("an address");
    let second = Duration::from_secs(20);
    let drain = start(listener, driver, pool, settings);
    let mut connection = Connection::open(address);
    let reply = connection.request("GET", "/a", "", "").reply();
    assert_eq!((reply.status, reply.complete), (500, true), "{}", reply.head.text);
    assert!(connection.is_closed());
    let reply = Connection::open(address).request("GET", "/a", "", "").reply_to("GET");
    assert_eq!(reply.map(|reply| reply.status), Some(204), "the worker lives on");
    assert!(stats.summary().ends_with("1 panics"), "{}", stats.summary());
    assert!(drain(second));
}

/// What a front is started with.
fn parts(
    origin: Arc<dyn Origin>,
    workers: usize,
) -> (TcpListener, BlockingDriver, Pool, FrontSettings) {
    let limits = MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };
    let stats = Arc::new(Stats::default());
    let store = Arc::new(Cache::in_memory(store(Eviction::Lru, limits)));
    let proxy = Proxy::new(support::settings(), store, Clock::System, Arc::clone(&stats));
    let driver = BlockingDriver::new(Arc::new(proxy), origin);
    let pool = Pool::fixed(workers, 10, &stats).expect("threads");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = Duration::from_secs(20);
    let connections =
        ConnectionLimits { header_timeout: second, idle_timeout: second, connections_max: 10 };
    let settings = FrontSettings {
        connections,
        wait_max: second,
        limits: RequestLimits::default(),
        access_log: None,
        health_path: None,
        origin: None,
        handler: None,
    };
    (listener, driver, pool, settings)
}
