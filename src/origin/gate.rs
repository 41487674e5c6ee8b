//! The gate in front of the origin server: no request passes while the server is down, while it has limited
//! such requests itself, or beyond the limits that the operator sets.
//!
//! An origin server that cannot be reached is asked once a second; all other requests fail at once with
//! the last one's error. A 429 or 503 that says for how long is obeyed, for a minute at most: a GET or
//! HEAD for the same path is held back, from the same client; for any path if its quota is spent.
//! Clients are told apart by their credentials, those without any by their addresses. `--origin-rate`
//! and `--origin-concurrency` let requests wait for a permit, but never longer than `wait_max`. What
//! is answered from the cache never comes here.
//!
//! One lock guards all that is remembered. It is held for a look and a note, and never while the origin
//! server is asked or the rate is waited for.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::{Clock, DeltaSeconds, Timestamp};
use crate::origin::limit_response::LimitResponse;
use crate::origin::{Origin, OriginBody, OriginError, OriginRequest, OriginResponse, Upgrade};
use crate::policy::credentials::presented;
use crate::policy::limited::limit;
use crate::policy::reason::Detail;

/// How often an origin server that is down is asked.
const PROBE_INTERVAL: DeltaSeconds = DeltaSeconds(1);
/// The longest that `Retry-After` is obeyed: a 429 with one of 156 hours has been seen.
const RETRY_AFTER_MAX: DeltaSeconds = DeltaSeconds(60);
/// As many requests must have timed out, and none been answered meanwhile, for the origin server to be
/// taken for dead: one slow URI is not.
const TIMEOUTS_MIN: u32 = 2;
/// The most clients and paths that are held back at a time, and servers that are down. Beyond it all of
/// them are forgotten: the origin server then says so again.
const REMEMBERED_MAX: usize = 1024;

/// `--origin-rate`: the most requests in any span of this length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// The number of requests, at least 1.
    pub requests: usize,
    /// The length of the span.
    pub per: Duration,
}

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--origin-rate`; `None` for no limit.
    pub rate: Option<Rate>,
    /// `--origin-concurrency`: requests under way at a time; `None` for no limit.
    pub concurrency: Option<usize>,
    /// The longest that a request waits for a permit.
    pub wait_max: Duration,
}

/// An origin server behind a gate.
pub struct Gated {
    inner: Arc<dyn Origin>,
    clock: Clock,
    limits: Limits,
    hasher: RandomState,
    gate: Arc<Gate>,
}

/// What is remembered of the origin server, and the requests that wait for a permit.
struct Gate {
    state: Mutex<GateState>,
    /// Signalled when a permit is given back; waited for with the state's lock.
    freed: Condvar,
}

/// Guarded by [`Gate::state`].
#[derive(Default)]
struct GateState {
    /// The servers that could not be reached, by the hash of scheme, host and port: redirects lead to
    /// others than the origin server.
    down: HashMap<u64, DownServer>,
    /// When the origin server last answered.
    last_answer: Option<Timestamp>,
    /// How many requests have timed out since then.
    timeouts: u32,
    /// What the origin server has limited, by the hash of the client, or of the client and the path.
    held_back: HashMap<u64, RetryAfter>,
    /// Permits that are out.
    in_flight: usize,
    /// When the last requests were admitted, or will be: as many of them as the rate counts.
    admitted: VecDeque<Instant>,
}

/// A server that could not be reached.
struct DownServer {
    next_probe: Timestamp,
    status: StatusCode,
    text: String,
}

/// Requests that are held back (RFC 9110 §10.2.3), and what they are answered.
#[derive(Clone)]
struct RetryAfter {
    until: Timestamp,
    /// What the origin server has stated: possibly later than what is obeyed.
    until_stated: Timestamp,
    answer: Arc<LimitResponse>,
}

/// What a request is remembered by, as hashes: credentials are kept nowhere in clear.
#[derive(Clone, Copy)]
struct RequestHashes {
    authority: u64,
    /// The client: what a spent quota holds back.
    client: u64,
    /// The client and the path: what any other limit holds back. `None` for requests that are never
    /// held back.
    path: Option<u64>,
}

impl Gated {
    /// Puts a gate in front of an origin server.
    pub fn new(inner: Arc<dyn Origin>, clock: Clock, limits: Limits) -> Self {
        // With neither could any request ever be admitted.
        assert!(limits.rate.is_none_or(|rate| rate.requests > 0), "a rate of none");
        assert!(limits.concurrency.is_none_or(|most| most > 0), "a concurrency of none");
        let gate = Gate { state: Mutex::default(), freed: Condvar::new() };
        Self { inner, clock, limits, hasher: RandomState::new(), gate: Arc::new(gate) }
    }

    /// The server that cannot be reached if this request fails.
    fn authority(&self, request: &OriginRequest<'_, '_>) -> u64 {
        self.hasher.hash_one(("authority", request.url.split('/').nth(2)))
    }

    /// What this request is remembered by.
    fn hashes(&self, request: &OriginRequest<'_, '_>) -> RequestHashes {
        let OriginRequest { method, url, fields, .. } = request;
        let authority = self.authority(request);
        let credentials: Vec<_> = presented(fields, url).collect();
        // The proxy itself has written this field; the client's address comes first. With credentials
        // the address does not count: a quota belongs to the account, wherever it is used.
        let address = fields.members("x-forwarded-for").next();
        let address = address.filter(|_| credentials.is_empty());
        let client = self.hasher.hash_one(("client", authority, credentials, address));
        let path = url.split('?').next();
        // Whatever changes something is for the origin server to answer, each time (RFC 9110 §9.2.1).
        let is_held = matches!(**method, Method::GET | Method::HEAD);
        let path = is_held.then(|| self.hasher.hash_one(("path", client, path)));
        RequestHashes { authority, client, path }
    }

    /// Admits a request, now or when the limits allow it; the error is why not.
    ///
    /// Everything is asked under one lock, so that of many requests at once exactly one is the probe of
    /// this second.
    fn admit(
        &self,
        request: &OriginRequest<'_, '_>,
        hashes: RequestHashes,
    ) -> Result<OriginPermit, OriginError> {
        let now = self.clock.now();
        // With a stale response at hand it is better given at once than after a wait.
        let wait_max = if request.waits { self.limits.wait_max } else { Duration::ZERO };
        let deadline = Instant::now() + wait_max;
        let mut state = self.gate.state.lock();
        // The spent quota first: it is the wider limit.
        for hash in hashes.path.iter().flat_map(|path| [hashes.client, *path]) {
            if let Some(RetryAfter { until, until_stated, answer }) =
                state.held_back.get(&hash).cloned()
                && now < until
                && !is_set_back(now, until, RETRY_AFTER_MAX)
            {
                let seconds = until_stated.seconds_since(now).0.max(1);
                return Err(OriginError::HeldBack { answer, seconds });
            }
        }
        if let Some(down) = state.down.get_mut(&hashes.authority) {
            if now < down.next_probe && !is_set_back(now, down.next_probe, PROBE_INTERVAL) {
                let (status, text) = (down.status, down.text.clone());
                return Err(OriginError::Down { status, text });
            }
            // This request is the probe. The next one is due in a second, whatever becomes of it: a
            // probe that hangs must not open the gate for others.
            down.next_probe = now.plus(PROBE_INTERVAL);
        }
        if let Some(most) = self.limits.concurrency {
            // The lock is given back while waiting. Looped, because another request may take the permit
            // that was given back.
            while state.in_flight >= most {
                if self.gate.freed.wait_until(&mut state, deadline).timed_out() {
                    return Err(OriginError::Busy { seconds: 1 });
                }
            }
        }
        // The rate is counted last: a request that is counted and not sent would delay others.
        let wait = self.reserve_by_rate(&mut state, deadline)?;
        state.in_flight += 1;
        drop(state);
        // From here on the permit's drop counts down again, also if the sleep or the request panics.
        let permit = OriginPermit(Arc::clone(&self.gate));
        // Without the lock: others reserve the times after this one meanwhile.
        std::thread::sleep(wait);
        Ok(permit)
    }

    /// How long a request has to wait under `--origin-rate`; from then on it counts as sent at that time.
    fn reserve_by_rate(
        &self,
        state: &mut MutexGuard<'_, GateState>,
        deadline: Instant,
    ) -> Result<Duration, OriginError> {
        let Some(rate) = self.limits.rate else { return Ok(Duration::ZERO) };
        let now = Instant::now();
        let mut time = now;
        // In any span of that length: the next request goes out one span after the one that lies as many
        // requests back.
        if state.admitted.len() >= rate.requests
            && let Some(first) = state.admitted.front()
        {
            time = now.max(*first + rate.per);
            if time > now && time > deadline {
                let seconds = (time - now).as_secs().saturating_add(1);
                return Err(OriginError::Busy { seconds: seconds.min(u64::from(u32::MAX)) as u32 });
            }
            state.admitted.pop_front();
        }
        state.admitted.push_back(time);
        assert!(state.admitted.len() <= rate.requests, "the memory of the rate is bounded by it");
        Ok(time - now)
    }

    /// Notes what an answer says about the origin server.
    fn note_answer(&self, hashes: RequestHashes, response: &mut OriginResponse) {
        let now = self.clock.now();
        let mut state = self.gate.state.lock();
        // Any answer counts, an error as well: it can be reached.
        state.down.remove(&hashes.authority);
        state.last_answer = Some(now);
        state.timeouts = 0;
        // A limit on requests that change something says nothing of those that only read.
        let Some(path) = hashes.path else { return };
        let Some(limit) = limit(response.head.status, &response.head.fields, now) else { return };
        if state.held_back.len() >= REMEMBERED_MAX {
            state.held_back.clear();
        }
        let until = now.plus(limit.wait.min(RETRY_AFTER_MAX));
        let until_stated = now.plus(limit.wait);
        let hash = if limit.is_spent { hashes.client } else { path };
        let answer = LimitResponse::of(response);
        state.held_back.insert(hash, RetryAfter { until, until_stated, answer });
    }

    /// Notes that the origin server could not be reached, where the error says so: no connection; or
    /// silence since this request began, for other requests as well.
    fn note_error(&self, hashes: RequestHashes, asked_at: Timestamp, error: &OriginError) {
        let mut state = self.gate.state.lock();
        let unreachable = match error {
            OriginError::Timeout { .. } => {
                // Another request was answered meanwhile: the server lives, and this URI is slow.
                let is_silent = state.last_answer.is_none_or(|last| last < asked_at);
                state.timeouts += u32::from(is_silent);
                is_silent && state.timeouts >= TIMEOUTS_MIN
            }
            error => {
                matches!(error.detail(), Detail::Connect | Detail::Tls)
                    || matches!(error, OriginError::ConnectTimeout { .. })
            }
        };
        if unreachable {
            // Counted from when this request began: it was the probe of that second, and by now the
            // next one may be due.
            let next_probe = asked_at.plus(PROBE_INTERVAL);
            if state.down.len() >= REMEMBERED_MAX {
                state.down.clear();
            }
            // The others are told what this one has found out, and with what status.
            let (status, text) = (error.status(), error.to_string());
            state.down.insert(hashes.authority, DownServer { next_probe, status, text });
        }
    }
}

impl Origin for Gated {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let hashes = self.hashes(&request);
        let permit = self.admit(&request, hashes)?;
        let asked_at = self.clock.now();
        match self.inner.send(request) {
            Ok(mut response) => {
                self.note_answer(hashes, &mut response);
                Ok(with_permit(response, permit))
            }
            Err(error) => {
                self.note_error(hashes, asked_at, &error);
                Err(error)
            }
        }
    }

    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        let hashes = self.hashes(&request);
        let permit = self.admit(&request, hashes)?;
        let asked_at = self.clock.now();
        match self.inner.upgrade(request) {
            Ok(Upgrade::Declined(mut response)) => {
                self.note_answer(hashes, &mut response);
                Ok(Upgrade::Declined(with_permit(response, permit)))
            }
            Ok(Upgrade::Agreed(fields, mut tunnel)) => {
                let held = WithPermit { inner: tunnel.from_origin, _permit: permit };
                tunnel.from_origin = Box::new(held);
                Ok(Upgrade::Agreed(fields, tunnel))
            }
            Err(error) => {
                self.note_error(hashes, asked_at, &error);
                Err(error)
            }
        }
    }
}

/// Is `until` further away than it can be, because the clock was set back meanwhile? A second more is
/// allowed, because another thread may have read the clock a moment later.
fn is_set_back(now: Timestamp, until: Timestamp, most: DeltaSeconds) -> bool {
    until > now.plus(most).plus(DeltaSeconds(1))
}

/// The permit to have one request in flight; given back when it is dropped.
struct OriginPermit(Arc<Gate>);

impl Drop for OriginPermit {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        assert!(state.in_flight > 0, "each permit was counted when it was given out");
        state.in_flight -= 1;
        drop(state);
        self.0.freed.notify_one();
    }
}

/// A response that holds the permit until its body is dropped: the request is in flight until then.
fn with_permit(mut response: OriginResponse, permit: OriginPermit) -> OriginResponse {
    response.body = response
        .body
        .map(|inner| -> Box<dyn OriginBody> { Box::new(WithPermit { inner, _permit: permit }) });
    response
}

/// Something that is read, with its permit. The permit is dropped first, as the first field: a waiting
/// request may begin while the connection is closed or goes back to its pool.
struct WithPermit<T: ?Sized> {
    _permit: OriginPermit,
    inner: Box<T>,
}

impl OriginBody for WithPermit<dyn OriginBody> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Read for WithPermit<dyn Read + Send> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Version};

    use super::*;
    use crate::message::fields::Fields;
    use crate::origin::{OriginHead, RequestContent};

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
        let limits = Limits { rate: None, concurrency: None, wait_max: Duration::ZERO };
        let gated = Gated::new(Arc::new(Overloaded), Clock::by_hand(Timestamp(0)), limits);
        let (method, fields) = (&Method::GET, &Fields::new());
        for number in 0..=REMEMBERED_MAX {
            let url = &format!("http://o/{number}");
            let content = RequestContent::None;
            let asked = OriginRequest {
                method,
                url,
                host: None,
                fields,
                content,
                waits: false,
                interim: None,
            };
            assert!(gated.send(asked).is_ok());
        }
        assert!(gated.gate.state.lock().held_back.len() <= REMEMBERED_MAX);
        assert_eq!(gated.gate.state.lock().in_flight, 0);
    }
}
