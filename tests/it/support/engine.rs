//! The engine in process: the clock is set by hand, the origin server is a script.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::message::body::{Body, Grown};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Request;
use caching_proxy::origin::gate::{self, Gated};
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::{Attempt, BlockingDriver, Next, Proxy, Settings};
use caching_proxy::stats::Stats;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use parking_lot::Mutex;

use super::stored::memory;
use super::{field_lines, settings};

/// What the origin server answers, in order; `None` is no connection.
#[derive(Default)]
pub struct Script {
    answers: Mutex<VecDeque<Option<(u16, String, &'static str)>>>,
    asked: Mutex<Vec<Asked>>,
}

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub url: String,
    pub fields: Fields,
}

impl Asked {
    pub fn field(&self, name: &str) -> String {
        let all = self.fields.get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        all.collect::<Vec<_>>().join(" | ")
    }
}

struct Content10(VecDeque<u8>);

impl OriginBody for Content10 {
    /// A few bytes at a time.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len()).min(3);
        for slot in &mut buffer[..count] {
            *slot = self.0.pop_front().expect("it was counted");
        }
        Ok(count)
    }
}

impl Origin for Script {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let asked = Asked {
            method: request.method.to_string(),
            url: request.url.to_string(),
            fields: request.fields.clone(),
        };
        self.asked.lock().push(asked);
        let answer = self.answers.lock().pop_front();
        let Some((status, fields, content)) = answer.expect("the script has an answer") else {
            let source = io::ErrorKind::ConnectionRefused.into();
            return Err(OriginError::Connect { origin: request.url.to_string(), source });
        };
        let empty = status == 304 || status == 204 || *request.method == Method::HEAD;
        let fields = to_fields(&fields);
        let stated =
            fields.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let length = if empty { stated } else { Some(content.len() as u64) };
        let body = Content10(content.bytes().collect());
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::from_u16(status).expect("a status"),
                version: Version::HTTP_11,
                fields,
                length,
                silently_delimited: false,
                has_content: !empty,
            },
            body: (!empty).then(|| Box::new(body) as Box<dyn OriginBody>),
        })
    }
}

pub fn to_fields(text: &str) -> Fields {
    let line = |(name, value): (String, String)| {
        (
            HeaderName::try_from(name).expect("a name"),
            HeaderValue::try_from(value).expect("a value"),
        )
    };
    field_lines(text).into_iter().map(line).collect()
}

pub struct Bench {
    pub proxy: Arc<Proxy>,
    pub driver: BlockingDriver,
    pub script: Arc<Script>,
    pub clock: Clock,
    pub store: Arc<Cache>,
}

pub fn bench(change: impl FnOnce(&mut Settings)) -> Bench {
    bench_over(roomy(), change)
}

/// The same over another cache.
pub fn bench_over(store: Arc<Cache>, change: impl FnOnce(&mut Settings)) -> Bench {
    let script = Arc::new(Script::default());
    let origin: Arc<dyn Origin> = Arc::<Script>::clone(&script);
    bench_of(store, script, origin, change)
}

/// The same with another origin server than the script.
pub fn bench_with(origin: Arc<dyn Origin>, change: impl FnOnce(&mut Settings)) -> Bench {
    bench_of(roomy(), Arc::default(), origin, change)
}

fn roomy() -> Arc<Cache> {
    let limits = MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 1 << 20 };
    memory(Eviction::Lru, limits)
}

fn bench_of(
    store: Arc<Cache>,
    script: Arc<Script>,
    origin: Arc<dyn Origin>,
    change: impl FnOnce(&mut Settings),
) -> Bench {
    let mut settings = settings();
    change(&mut settings);
    let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
    let limits =
        gate::Limits { rate: None, concurrency: None, connections: None, wait_max: Duration::ZERO };
    let origin = Arc::new(Gated::new(origin, clock.clone(), limits));
    let stats = Arc::new(Stats::default());
    let proxy = Arc::new(Proxy::new(settings, Arc::clone(&store), clock.clone(), stats));
    let driver = BlockingDriver::new(Arc::clone(&proxy), origin);
    Bench { proxy, driver, script, clock, store }
}

impl Bench {
    pub fn answers(&self, status: u16, fields: &str, content: &'static str) -> &Self {
        self.script.answers.lock().push_back(Some((status, fields.to_string(), content)));
        self
    }

    pub fn refuses(&self) -> &Self {
        self.script.answers.lock().push_back(None);
        self
    }

    pub fn after(&self, seconds: u32) -> &Self {
        self.clock.advance(DeltaSeconds(seconds));
        self
    }

    /// Status, content, and what `Cache-Status` says behind `proxy; `.
    pub fn get(&self, target: &str) -> (u16, String, String) {
        self.get_with(target, "")
    }

    pub fn get_with(&self, target: &str, fields: &str) -> (u16, String, String) {
        let mut response = self.response(target, fields);
        let told = response
            .fields
            .get("cache-status")
            .expect("always there")
            .to_str()
            .expect("text")
            .to_string();
        let content = content(&mut response);
        (response.status.as_u16(), content, told.trim_start_matches("proxy; ").to_string())
    }

    pub fn response(&self, target: &str, fields: &str) -> Response {
        self.ask("GET", target, fields)
    }

    /// A request that is about to ask the origin server, or the backing store before it.
    pub fn set_out(&self, method: &str, target: &str, fields: &str) -> SetOut {
        let request = Arc::new(request(method, target, fields));
        let next = self.proxy.ask(&request, Attempt::First);
        assert!(matches!(next, Next::Recall(_) | Next::Fetch(_)), "it asks");
        SetOut { request, next }
    }

    /// A request that follows another; what it does then is given by [`Bench::resume`].
    pub fn wait(&self, method: &str, target: &str, fields: &str) -> Waiter {
        let request = Arc::new(request(method, target, fields));
        let Next::Follow(follow) = self.proxy.ask(&request, Attempt::First) else {
            panic!("nobody asks")
        };
        let (sender, attempt) = channel();
        follow.park(Box::new(move |attempt| drop(sender.send(attempt))));
        Waiter { request, attempt }
    }

    /// What it followed is over.
    pub fn resume(&self, waiter: &Waiter) -> Fetched {
        let attempt = waiter.attempt.try_recv().expect("the wait is over");
        let next = self.proxy.ask(&waiter.request, attempt);
        assert!(!matches!(next, Next::Follow(_)), "nobody else asks");
        self.arrive(SetOut { request: Arc::clone(&waiter.request), next })
    }

    /// It asks.
    pub fn arrive(&self, set_out: SetOut) -> Fetched {
        let SetOut { request, next } = set_out;
        let delivery = self.driver.carry_out(&request, next, RequestContent::None, None);
        let mut response = delivery.into_response();
        let content = content(&mut response);
        Fetched { status: response.status.as_u16(), content, fields: response.fields }
    }

    pub fn send(&self, request: Request) -> Response {
        let request = Arc::new(request);
        let next = self.proxy.ask(&request, Attempt::First);
        assert!(!matches!(next, Next::Follow(_)), "nobody else asks");
        let delivery = self.driver.carry_out(&request, next, RequestContent::None, None);
        if let Some(refresh) = delivery.refresh {
            if let Some(next) = self.proxy.refresh(*refresh) {
                self.driver.fetch_in_the_background(next);
            }
            return delivery.response;
        }
        delivery.into_response()
    }

    pub fn ask(&self, method: &str, target: &str, fields: &str) -> Response {
        self.send(request(method, target, fields))
    }

    /// Everything about one response: status, content, fields, and what `Cache-Status` says.
    pub fn fetch(&self, method: &str, target: &str, fields: &str) -> Fetched {
        let mut response = self.ask(method, target, fields);
        let content = content(&mut response);
        Fetched { status: response.status.as_u16(), content, fields: response.fields }
    }

    /// What the origin server was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().clone()
    }

    pub fn last_asked(&self) -> Asked {
        self.asked().pop().expect("it was asked")
    }

    /// Everything in the script was asked for.
    pub fn is_finished(&self) -> bool {
        self.script.answers.lock().is_empty()
    }
}

pub fn request(method: &str, target: &str, fields: &str) -> Request {
    let fields = to_fields(&format!("Host: h; {fields}"));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Request::new(method, target, Version::HTTP_11, fields, None).expect("a request")
}

/// A request on its way.
pub struct SetOut {
    request: Arc<Request>,
    next: Next,
}

/// A request that is parked.
pub struct Waiter {
    request: Arc<Request>,
    attempt: Receiver<Attempt>,
}

/// A response to a client.
#[derive(Debug)]
pub struct Fetched {
    pub status: u16,
    pub content: String,
    pub fields: Fields,
}

impl Fetched {
    pub fn field(&self, name: &str) -> String {
        let all = self.fields.get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        all.collect::<Vec<_>>().join(" | ")
    }

    pub fn told(&self) -> String {
        self.field("cache-status").trim_start_matches("proxy; ").to_string()
    }
}

pub fn content(response: &mut Response) -> String {
    match std::mem::replace(&mut response.body, Body::None { length: None }) {
        Body::None { .. } => String::new(),
        Body::Whole(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Body::Growing(mut body) => {
            let (mut all, mut buffer) = (Vec::new(), [0; 16]);
            loop {
                match body.peek(&mut buffer).expect("a whole body") {
                    Grown::Bytes(count) => {
                        all.extend_from_slice(&buffer[..count]);
                        body.consume(count);
                    }
                    Grown::End => return String::from_utf8_lossy(&all).into_owned(),
                    Grown::NotYet => panic!("nobody fetches it"),
                }
            }
        }
        Body::Arriving(mut body) => {
            let mut all = Vec::new();
            let mut buffer = [0; 16];
            loop {
                match body.read(&mut buffer).expect("a whole body") {
                    0 => return String::from_utf8_lossy(&all).into_owned(),
                    count => all.extend_from_slice(&buffer[..count]),
                }
            }
        }
    }
}
