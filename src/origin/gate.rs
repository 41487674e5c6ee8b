//! What the origin server is spared: requests while it is down, while it has asked to be left alone,
//! and beyond what the operator allows.
//!
//! An origin server that cannot be reached is asked once a second; all other requests fail at once with
//! the last one's error. A 429 or 503 that says for how long is obeyed, for a minute at most: a GET or
//! HEAD for the same path is held back, from the same client; for any path if its quota is spent.
//! Clients are told apart by their credentials, those without any by their addresses. `--origin-rate`
//! and `--origin-concurrency` let requests wait for their turn, but never longer than `wait_max`. What
//! is answered from the cache never comes here.
//!
//! One lock guards all that is remembered. It is held for a look and a note, and never while the origin
//! server is asked or a turn under the rate is waited for.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::{Clock, DeltaSeconds, Timestamp};
use crate::origin::held::HeldAnswer;
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
const SILENCES_MIN: u32 = 2;
/// The most clients and paths that are held back at a time, and servers that are down. Beyond it all of
/// them are forgotten: the origin server then says so again.
const HELD_MAX: usize = 1024;

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
    /// The longest that a request waits for its turn.
    pub wait_max: Duration,
}

/// An origin server behind a gate.
pub struct Gated {
    inner: Arc<dyn Origin>,
    clock: Clock,
    limits: Limits,
    hasher: RandomState,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a request is over; waited for with the state's lock.
    freed: Condvar,
}

/// Guarded by [`Shared::state`].
#[derive(Default)]
struct State {
    /// The servers that could not be reached, by the hash of scheme, host and port: redirects lead to
    /// others than the origin server.
    down: HashMap<u64, Down>,
    /// When the origin server last answered.
    last_answer: Option<Timestamp>,
    /// How many requests have timed out since then.
    silences: u32,
    /// Until when requests are held back, by the hash of the client, or of the client and the path.
    held: HashMap<u64, Held>,
    under_way: usize,
    /// When the last requests were let through, or will be: as many of them as the rate counts.
    let_through: VecDeque<Instant>,
}

/// A server that could not be reached.
struct Down {
    next_probe: Timestamp,
    status: StatusCode,
    text: String,
}

/// Requests that are held back, and what they are answered.
#[derive(Clone)]
struct Held {
    until: Timestamp,
    /// Until when the origin server has said: possibly later than what is obeyed.
    until_told: Timestamp,
    answer: Arc<HeldAnswer>,
}

/// What a request is remembered by, as hashes: credentials are kept nowhere in clear.
#[derive(Clone, Copy)]
struct Whom {
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
        let shared = Shared { state: Mutex::default(), freed: Condvar::new() };
        Self { inner, clock, limits, hasher: RandomState::new(), shared: Arc::new(shared) }
    }

    /// The server that cannot be reached if this request fails.
    fn authority(&self, request: &OriginRequest<'_, '_>) -> u64 {
        self.hasher.hash_one(("authority", request.url.split('/').nth(2)))
    }

    /// What this request is remembered by.
    fn whom(&self, request: &OriginRequest<'_, '_>) -> Whom {
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
        Whom { authority, client, path }
    }

    /// Lets a request through, now or when it is its turn; the error is why not.
    ///
    /// Everything is asked under one lock, so that of many requests at once exactly one is the probe of
    /// this second.
    fn admit(&self, request: &OriginRequest<'_, '_>, whom: Whom) -> Result<Pass, OriginError> {
        let now = self.clock.now();
        // With a stale response at hand it is better given at once than after a wait.
        let wait_max = if request.waits { self.limits.wait_max } else { Duration::ZERO };
        let deadline = Instant::now() + wait_max;
        let mut state = self.shared.state.lock();
        // The spent quota first: it is the wider limit.
        for hash in whom.path.iter().flat_map(|path| [whom.client, *path]) {
            if let Some(Held { until, until_told, answer }) = state.held.get(&hash).cloned()
                && now < until
                && !is_set_back(now, until, RETRY_AFTER_MAX)
            {
                let seconds = until_told.seconds_since(now).0.max(1);
                return Err(OriginError::HeldBack { answer, seconds });
            }
        }
        if let Some(down) = state.down.get_mut(&whom.authority) {
            if now < down.next_probe && !is_set_back(now, down.next_probe, PROBE_INTERVAL) {
                let (status, text) = (down.status, down.text.clone());
                return Err(OriginError::Down { status, text });
            }
            // This request is the probe. The next one is due in a second, whatever becomes of it: a
            // probe that hangs must not open the gate for others.
            down.next_probe = now.plus(PROBE_INTERVAL);
        }
        if let Some(most) = self.limits.concurrency {
            // The lock is given back while waiting. Looped, because another request may take the place
            // that was freed.
            while state.under_way >= most {
                if self.shared.freed.wait_until(&mut state, deadline).timed_out() {
                    return Err(OriginError::Busy { seconds: 1 });
                }
            }
        }
        // The turn is taken last: one that is taken and not used would count against the rate.
        let wait = self.turn(&mut state, deadline)?;
        state.under_way += 1;
        drop(state);
        // From here on the permit gives the place back, also if the sleep or the request panics.
        let pass = Pass(Arc::clone(&self.shared));
        // Without the lock: others take the turns behind this one meanwhile.
        std::thread::sleep(wait);
        Ok(pass)
    }

    /// How long a request has to wait for its turn under `--origin-rate`; its turn is taken.
    fn turn(
        &self,
        state: &mut MutexGuard<'_, State>,
        deadline: Instant,
    ) -> Result<Duration, OriginError> {
        let Some(rate) = self.limits.rate else { return Ok(Duration::ZERO) };
        let now = Instant::now();
        let mut turn = now;
        // In any span of that length: the next turn is one span after the turn that lies as many
        // requests back.
        if state.let_through.len() >= rate.requests
            && let Some(first) = state.let_through.front()
        {
            turn = now.max(*first + rate.per);
            if turn > now && turn > deadline {
                let seconds = (turn - now).as_secs().saturating_add(1);
                return Err(OriginError::Busy { seconds: seconds.min(u64::from(u32::MAX)) as u32 });
            }
            state.let_through.pop_front();
        }
        state.let_through.push_back(turn);
        Ok(turn - now)
    }

    /// Notes what an answer says about the origin server.
    fn note_answer(&self, whom: Whom, response: &mut OriginResponse) {
        let now = self.clock.now();
        let mut state = self.shared.state.lock();
        // Any answer counts, an error as well: it can be reached.
        state.down.remove(&whom.authority);
        state.last_answer = Some(now);
        state.silences = 0;
        // A limit on requests that change something says nothing of those that only read.
        let Some(path) = whom.path else { return };
        let Some(limit) = limit(response.head.status, &response.head.fields, now) else { return };
        if state.held.len() >= HELD_MAX {
            state.held.clear();
        }
        let until = now.plus(limit.wait.min(RETRY_AFTER_MAX));
        let until_told = now.plus(limit.wait);
        let hash = if limit.is_spent { whom.client } else { path };
        let answer = HeldAnswer::of(response);
        state.held.insert(hash, Held { until, until_told, answer });
    }

    /// Notes that the origin server could not be reached, where the error says so: no connection; or
    /// silence since this request began, for other requests as well.
    fn note_error(&self, whom: Whom, asked_at: Timestamp, error: &OriginError) {
        let mut state = self.shared.state.lock();
        let unreachable = match error {
            OriginError::Timeout { .. } => {
                // Another request was answered meanwhile: the server lives, and this URI is slow.
                let silent = state.last_answer.is_none_or(|last| last < asked_at);
                state.silences += u32::from(silent);
                silent && state.silences >= SILENCES_MIN
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
            if state.down.len() >= HELD_MAX {
                state.down.clear();
            }
            // The others are told what this one has found out, and with what status.
            let (status, text) = (error.status(), error.to_string());
            state.down.insert(whom.authority, Down { next_probe, status, text });
        }
    }
}

impl Origin for Gated {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let whom = self.whom(&request);
        let pass = self.admit(&request, whom)?;
        let asked_at = self.clock.now();
        match self.inner.send(request) {
            Ok(mut response) => {
                self.note_answer(whom, &mut response);
                Ok(held_by(response, pass))
            }
            Err(error) => {
                self.note_error(whom, asked_at, &error);
                Err(error)
            }
        }
    }

    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        let whom = self.whom(&request);
        let pass = self.admit(&request, whom)?;
        let asked_at = self.clock.now();
        match self.inner.upgrade(request) {
            Ok(Upgrade::Declined(mut response)) => {
                self.note_answer(whom, &mut response);
                Ok(Upgrade::Declined(held_by(response, pass)))
            }
            Ok(Upgrade::Agreed(fields, mut tunnel)) => {
                let held = Holding { inner: tunnel.from_origin, _pass: pass };
                tunnel.from_origin = Box::new(held);
                Ok(Upgrade::Agreed(fields, tunnel))
            }
            Err(error) => {
                self.note_error(whom, asked_at, &error);
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

/// The permit to have one request under way; given back when it is dropped.
struct Pass(Arc<Shared>);

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        assert!(state.under_way > 0, "each permit was counted when it was given out");
        state.under_way -= 1;
        drop(state);
        self.0.freed.notify_one();
    }
}

/// A response that holds the permit until its body is dropped: the request is under way until then.
fn held_by(mut response: OriginResponse, pass: Pass) -> OriginResponse {
    response.body = response
        .body
        .map(|inner| -> Box<dyn OriginBody> { Box::new(Holding { inner, _pass: pass }) });
    response
}

/// Something that is read, with its permit. The permit is dropped first, as the first field: whoever
/// waits may begin while the connection is put away.
struct Holding<T: ?Sized> {
    _pass: Pass,
    inner: Box<T>,
}

impl OriginBody for Holding<dyn OriginBody> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Read for Holding<dyn Read + Send> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Version};

    use super::*;
    use crate::message::fields::Fields;
    use crate::origin::OriginHead;
    use crate::origin::RequestContent;

    /// Asks for patience, whatever it is asked for.
    struct Overrun;

    impl Origin for Overrun {
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
    fn the_memory_of_who_wants_to_be_left_alone_is_bounded() {
        let limits = Limits { rate: None, concurrency: None, wait_max: Duration::ZERO };
        let gated = Gated::new(Arc::new(Overrun), Clock::by_hand(Timestamp(0)), limits);
        let (method, fields) = (&Method::GET, &Fields::new());
        for number in 0..=HELD_MAX {
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
        assert!(gated.shared.state.lock().held.len() <= HELD_MAX);
        assert_eq!(gated.shared.state.lock().under_way, 0);
    }
}
