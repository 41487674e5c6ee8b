//! The front in process, over an origin server that no socket could be.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use caching_proxy::clock::Clock;
use caching_proxy::front::ConnectionLimits;
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{FrontSettings, event, tiny};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::RequestLimits;
use caching_proxy::origin::{Origin, OriginError, OriginRequest, OriginResponse};
use caching_proxy::proxy::Proxy;
use caching_proxy::stats::Stats;
use caching_proxy::store::memory::{Eviction, Limits, store};
use http::{StatusCode, Version};
use support::wire::Connection;

/// Panics at the first request, and answers the others.
struct Panicking(AtomicUsize);

impl Origin for Panicking {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
        Ok(OriginResponse {
            status: StatusCode::NO_CONTENT,
            version: Version::HTTP_11,
            fields: Fields::new(),
            length: None,
            silently_delimited: false,
            body: None,
        })
    }
}

#[test]
fn a_panic_costs_one_exchange() {
    over(|listener, proxy, pool, settings| {
        let front = event::Front::start(vec![listener], proxy, pool, 2, settings).expect("threads");
        Box::new(move |limit| front.drain(limit))
    });
    over(|listener, proxy, pool, settings| {
        let front = tiny::Front::start(listener, proxy, pool, settings).expect("threads");
        Box::new(move |limit| front.drain(limit))
    });
}

/// Ends a front.
type Drain = Box<dyn Fn(Duration) -> bool>;

fn over(start: impl Fn(TcpListener, Arc<Proxy>, Pool, FrontSettings) -> Drain) {
    let limits = Limits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };
    let stats = Arc::new(Stats::default());
    let origin = Arc::new(Panicking(AtomicUsize::new(0)));
    let store = store(Eviction::Lru, limits);
    let proxy =
        Arc::new(Proxy::new(support::settings(), store, origin, Clock::System, Arc::clone(&stats)));
    let pool = Pool::start(1, 10, &stats).expect("threads");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let second = Duration::from_secs(20);
    let connections =
        ConnectionLimits { header_timeout: second, idle_timeout: second, connections_max: 10 };
    let settings = FrontSettings {
        connections,
        wait_max: second,
        limits: RequestLimits::default(),
        access_log: None,
        health_path: None,
        handler: None,
    };
    let drain = start(listener, proxy, pool, settings);
    let mut connection = Connection::open(address);
    let reply = connection.request("GET", "/a", "", "").reply();
    assert_eq!((reply.status, reply.complete), (500, true), "{}", reply.head.text);
    assert!(connection.is_closed());
    let reply = Connection::open(address).request("GET", "/a", "", "").reply_to("GET");
    assert_eq!(reply.map(|reply| reply.status), Some(204), "the worker lives on");
    assert!(stats.summary().ends_with("1 panics"), "{}", stats.summary());
    assert!(drain(second));
}
