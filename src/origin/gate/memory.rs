//! What the gate remembers of the origin server: that it is down, and which requests it has limited.
//!
//! No lock and no clock: `admission.rs` has both.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use http::{Method, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::origin::limit_response::{LimitCopy, LimitResponse};
use crate::origin::{OriginError, OriginHead};
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
pub(super) const REMEMBERED_MAX: usize = 1024;

/// For maps whose keys are hashes already, made with a key of this process: nobody outside can make them collide.
pub(super) type ByHash = BuildHasherDefault<SameHash>;

/// Gives back the one number that it is given.
#[derive(Default)]
pub(super) struct SameHash(u64);

impl Hasher for SameHash {
    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are numbers");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What the gate has to know of a request.
#[derive(Clone, Copy)]
pub struct GateRequest<'a> {
    /// The method, known or not.
    pub method: &'a Method,
    /// The server, as its scheme, host and port are written in all URLs of it.
    pub server: &'a str,
    /// The absolute URL.
    pub url: &'a str,
    /// The header section.
    pub fields: &'a Fields,
    /// May it wait for a permit? Not if a stale response can be had instead.
    pub waits: bool,
}

/// What a request is remembered by, as hashes: credentials are kept nowhere in clear.
#[derive(Clone, Copy)]
pub(super) struct RequestHashes {
    /// Scheme, host and port.
    pub authority: u64,
    /// The client: what a spent quota holds back.
    client: u64,
    /// The client and the path: what any other limit holds back. `None` for requests that are never
    /// held back.
    path: Option<u64>,
}

impl RequestHashes {
    pub(super) fn new(hasher: &RandomState, request: GateRequest<'_>) -> Self {
        let GateRequest { method, server, url, fields, .. } = request;
        let authority = hasher.hash_one(server);
        let credentials: Vec<_> = presented(fields, url).collect();
        // The proxy itself has written this field; the client's address comes first. With credentials
        // the address does not count: a quota belongs to the account, wherever it is used.
        let address = fields.members("x-forwarded-for").next();
        let address = address.filter(|_| credentials.is_empty());
        let client = hasher.hash_one((authority, credentials, address));
        let path = &url[..url.bytes().position(|byte| byte == b'?').unwrap_or(url.len())];
        // Whatever changes something is for the origin server to answer, each time (RFC 9110 §9.2.1).
        let is_held = matches!(*method, Method::GET | Method::HEAD);
        let path = is_held.then(|| hasher.hash_one((client, path)));
        Self { authority, client, path }
    }
}

/// What is remembered of the origin server.
#[derive(Default)]
pub(super) struct GateMemory {
    /// The servers that could not be reached, by the hash of scheme, host and port: redirects lead to
    /// others than the origin server.
    down: HashMap<u64, DownServer, ByHash>,
    /// When the origin server last answered.
    last_answer: Option<Timestamp>,
    /// How many requests have timed out since then.
    timeouts: u32,
    /// What the origin server has limited, by the hash of the client, or of the client and the path.
    held_back: HashMap<u64, RetryAfter, ByHash>,
}

/// A server that could not be reached.
struct DownServer {
    next_probe: Timestamp,
    status: StatusCode,
    text: String,
}

/// Requests that are held back (RFC 9110 §10.2.3), and what they are answered.
struct RetryAfter {
    until: Timestamp,
    /// What the origin server has stated: possibly later than what is obeyed.
    until_stated: Timestamp,
    answer: Arc<LimitResponse>,
}

impl GateMemory {
    /// Why a request is not sent now; `None` if it may be.
    pub(super) fn refusal(&self, hashes: RequestHashes, now: Timestamp) -> Option<OriginError> {
        // The spent quota first: it is the wider limit.
        for hash in hashes.path.iter().flat_map(|path| [hashes.client, *path]) {
            if let Some(RetryAfter { until, until_stated, answer }) = self.held_back.get(&hash)
                && now < *until
                && !is_set_back(now, *until, RETRY_AFTER_MAX)
            {
                let seconds = until_stated.seconds_since(now).0.max(1);
                return Some(OriginError::HeldBack { answer: Arc::clone(answer), seconds });
            }
        }
        let down = self.down.get(&hashes.authority)?;
        let is_probed = now < down.next_probe && !is_set_back(now, down.next_probe, PROBE_INTERVAL);
        is_probed.then(|| OriginError::Down { status: down.status, text: down.text.clone() })
    }

    /// A request is sent. If the server is down this one is the probe: the next one is due in a second,
    /// whatever becomes of it, because a probe that hangs must not open the gate for others.
    pub(super) fn begin(&mut self, hashes: RequestHashes, now: Timestamp) {
        if let Some(down) = self.down.get_mut(&hashes.authority) {
            down.next_probe = now.plus(PROBE_INTERVAL);
        }
    }

    /// The server has answered: any answer counts, an error as well.
    pub(super) fn note_reached(&mut self, hashes: RequestHashes, now: Timestamp) {
        self.down.remove(&hashes.authority);
        self.last_answer = Some(now);
        self.timeouts = 0;
    }

    /// Holds requests such as this one back if the answer limits them.
    pub(super) fn note_limit(
        &mut self,
        hashes: RequestHashes,
        head: &OriginHead,
        now: Timestamp,
    ) -> Option<LimitCopy> {
        // A limit on requests that change something says nothing of those that only read.
        let path = hashes.path?;
        let limit = limit(head.status, &head.fields, now)?;
        if self.held_back.len() >= REMEMBERED_MAX {
            self.held_back.clear();
        }
        let until = now.plus(limit.wait.min(RETRY_AFTER_MAX));
        let until_stated = now.plus(limit.wait);
        let hash = if limit.is_spent { hashes.client } else { path };
        let (answer, copy) = LimitResponse::new(head);
        self.held_back.insert(hash, RetryAfter { until, until_stated, answer });
        copy
    }

    /// Notes that the server could not be reached, where the error says so: no connection; or silence
    /// since this request was sent, for other requests as well.
    pub(super) fn note_error(
        &mut self,
        hashes: RequestHashes,
        asked_at: Timestamp,
        error: &OriginError,
    ) {
        let unreachable = match error {
            OriginError::Timeout { .. } => {
                // Another request was answered meanwhile: the server lives, and this URI is slow.
                let is_silent = self.last_answer.is_none_or(|last| last < asked_at);
                self.timeouts += u32::from(is_silent);
                is_silent && self.timeouts >= TIMEOUTS_MIN
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
            if self.down.len() >= REMEMBERED_MAX {
                self.down.clear();
            }
            // The others are told what this one has found out, and with what status.
            let (status, text) = (error.status(), error.to_string());
            self.down.insert(hashes.authority, DownServer { next_probe, status, text });
        }
    }

    /// Why a server could not be reached, if there is one; of several, any.
    pub(super) fn unreachable(&self) -> Option<String> {
        self.down.values().next().map(|down| down.text.clone())
    }

    /// How many clients and paths are held back at `now`.
    pub(super) fn held_back_at(&self, now: Timestamp) -> usize {
        self.held_back.values().filter(|held| now < held.until).count()
    }

    /// How many clients and paths are held back.
    #[cfg(test)]
    pub(super) fn held_back(&self) -> usize {
        self.held_back.len()
    }
}

/// Is `until` further away than it can be, because the clock was set back meanwhile? A second more is
/// allowed, because another thread may have read the clock a moment later.
fn is_set_back(now: Timestamp, until: Timestamp, most: DeltaSeconds) -> bool {
    until > now.plus(most).plus(DeltaSeconds(1))
}
