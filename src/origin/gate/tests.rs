//! The gate by table and by seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Version};

use crate::clock::{Clock, Timestamp};
use crate::message::fields::Fields;
use crate::origin::gate::admission::WAITING_MAX;
use crate::origin::gate::memory::REMEMBERED_MAX;
use crate::origin::gate::{
    Admission, Gate, GateRequest, Gated, Limits, OriginPermit, WaitingRequest,
};
use crate::origin::{
    Origin, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};

/// Answers every request with 503 and `Retry-After`.
struct Overloaded;

impl Origin for Overloaded {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let mut fields = Fields::new();
        fields.append(http::header::RETRY_AFTER, HeaderValue::from_static("60"));
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::SERVICE_UNAVAILABLE,
                version: Version::HTTP_11,
                fields,
                length: None,
                silently_delimited: false,
                has_content: false,
            },
            body: None,
        })
    }
}

#[test]
fn the_memory_of_limited_clients_and_paths_is_bounded() {
    let limits =
        Limits { rate: None, concurrency: None, connections: None, wait_max: Duration::ZERO };
    let gate = Gate::new(Clock::by_hand(Timestamp(0)), limits);
    let gated = Gated::behind(gate.clone(), Arc::new(Overloaded));
    let (method, fields) = (&Method::GET, &Fields::new());
    for number in 0..=REMEMBERED_MAX {
        let url = &format!("http://o/{number}");
        let content = RequestContent::None;
        let asked =
            OriginRequest { method, url, host: None, fields, content, waits: false, interim: None };
        assert!(gated.send(asked).is_ok());
    }
    assert!(gate.held_back() <= REMEMBERED_MAX);
    assert_eq!(gate.counts(), (0, 0));
}

/// One more than may wait is refused at once, and may wait when one of them has gone.
#[test]
fn only_so_many_requests_wait() {
    let limits = Limits {
        rate: None,
        concurrency: Some(1),
        connections: None,
        wait_max: Duration::from_secs(60),
    };
    let gate = Gate::new(Clock::by_hand(Timestamp(0)), limits);
    let (now, fields) = (Instant::now(), Fields::new());
    let admit = || {
        let (method, url) = (&Method::GET, "http://o/");
        gate.admit(
            GateRequest { method, server: "http://o", url, fields: &fields, waits: true },
            now,
            || {},
        )
    };
    let first = admit();
    assert!(matches!(first, Admission::Admitted(_)));
    let mut waiting: Vec<Admission> = (0..WAITING_MAX).map(|_| admit()).collect();
    assert!(waiting.iter().all(|one| matches!(one, Admission::Waits(_))));
    assert!(matches!(admit(), Admission::Refused(OriginError::Busy { .. })));
    waiting.pop();
    assert!(matches!(admit(), Admission::Waits(_)), "its place is free");
    drop((waiting, first));
    assert_eq!(gate.counts(), (0, 0));
}

const CONCURRENCY: usize = 3;
const CONNECTIONS: usize = 2;

/// Requests to several servers that share one gate.
struct Crowd {
    gate: Gate,
    now: Instant,
    under_way: Vec<(usize, OriginPermit)>,
    /// In the order of their arrival.
    waiting: Vec<(usize, WaitingRequest, Arc<AtomicBool>)>,
}

impl Crowd {
    fn new() -> Self {
        let limits = Limits {
            rate: None,
            concurrency: Some(CONCURRENCY),
            connections: Some(CONNECTIONS),
            wait_max: Duration::from_secs(3600),
        };
        let gate = Gate::new(Clock::by_hand(Timestamp(0)), limits);
        Self { gate, now: Instant::now(), under_way: Vec::new(), waiting: Vec::new() }
    }

    fn has_room(&self, server: usize) -> bool {
        let at_server = self.under_way.iter().filter(|(other, _)| *other == server).count();
        self.under_way.len() < CONCURRENCY && at_server < CONNECTIONS
    }

    fn arrive(&mut self, server: usize) {
        let woken = Arc::<AtomicBool>::default();
        let (method, fields) = (&Method::GET, &Fields::new());
        let (url, wakes) = (&format!("http://server{server}/"), Arc::clone(&woken));
        let request = GateRequest { method, server: url, url, fields, waits: true };
        let wake = move || wakes.store(true, Ordering::Relaxed);
        match self.gate.admit(request, self.now, wake) {
            Admission::Admitted(permit) => {
                assert!(self.has_room(server), "beyond the limits");
                self.under_way.push((server, permit));
            }
            Admission::Waits(waiting) => {
                assert!(!self.has_room(server), "it could go");
                self.waiting.push((server, waiting, woken));
            }
            Admission::Refused(error) => panic!("{error}"),
        }
    }

    /// Lets those go on that were woken, and nobody else.
    fn go_on(&mut self) {
        while let Some(at) =
            self.waiting.iter().position(|(.., woken)| woken.swap(false, Ordering::Relaxed))
        {
            let (server, waiting, woken) = self.waiting.remove(at);
            match waiting.poll(self.now) {
                Admission::Admitted(permit) => {
                    assert!(self.has_room(server), "beyond the limits");
                    let is_first = self.waiting[..at].iter().all(|(other, ..)| *other != server);
                    assert!(is_first, "one that came before it was overtaken");
                    self.under_way.push((server, permit));
                }
                Admission::Waits(waiting) => self.waiting.insert(at, (server, waiting, woken)),
                Admission::Refused(error) => panic!("{error}"),
            }
        }
        let stranded = self.waiting.iter().filter(|(server, ..)| self.has_room(*server)).count();
        assert_eq!(stranded, 0, "no wake-up is lost");
        assert_eq!(self.gate.counts(), (self.under_way.len(), self.waiting.len()));
    }
}

/// Requests to three servers come, end and go away while they wait, in any order.
#[test]
fn waiting_requests_go_in_order_and_none_is_stranded() {
    for seed in 0..200_u64 {
        let (mut crowd, mut random) = (Crowd::new(), seed);
        for _ in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            let (choice, index) = (random >> 60, (random >> 33) as usize);
            match choice {
                0..=6 => crowd.arrive(index % 3),
                7..=12 if !crowd.under_way.is_empty() => {
                    let count = crowd.under_way.len();
                    crowd.under_way.remove(index % count);
                }
                _ if !crowd.waiting.is_empty() => {
                    let count = crowd.waiting.len();
                    crowd.waiting.remove(index % count);
                }
                _ => {}
            }
            crowd.go_on();
        }
        crowd.waiting.clear();
        crowd.under_way.clear();
        assert_eq!(crowd.gate.counts(), (0, 0), "seed {seed}");
    }
}
