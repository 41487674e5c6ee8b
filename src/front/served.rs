//! What is recorded of a response once it is sent: the counters and the access log.

use std::time::Instant;

use http::{StatusCode, Version};

use crate::clock::Timestamp;
use crate::message::request::Request;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::response::Response;
use crate::proxy::{Proxy, field_text};
use crate::stats::{AccessLog, AccessRecord, AnsweredRequest};

/// What the counters and the access log say of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogRecord {
    status: StatusCode,
    cache_status: CacheStatus,
}

impl LogRecord {
    /// Of a response that is about to be sent.
    pub(super) fn of(response: &Response) -> Self {
        Self { status: response.status, cache_status: response.cache_status }
    }

    /// The same of a response whose body was cut: it is not stored, whatever its head says.
    pub(super) fn truncated(&mut self) {
        // The head has said `stored` to the client, in good faith; the log is written when the end is
        // known.
        self.cache_status.stored = false;
        self.cache_status.detail = Some(Detail::Truncated);
    }

    /// Of a connection that has become a tunnel.
    pub(super) fn of_tunnel() -> Self {
        Self { status: StatusCode::SWITCHING_PROTOCOLS, cache_status: CacheStatus::of_upgrade() }
    }
}

/// When a request came, and from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub at: Timestamp,
    pub since: Instant,
}

/// Records a response of which `bytes` bytes of content were sent: in the counters, and in the log if there
/// is one.
pub(super) fn record_response(
    proxy: &Proxy,
    log: Option<&AccessLog>,
    request: &Request,
    arrival: Arrival,
    record: &LogRecord,
    bytes: u64,
) {
    // Both are counted at the end, when the client has taken what it took: a slow client is part of the
    // time.
    let taken = arrival.since.elapsed();
    let from_cache = record.cache_status.from_cache;
    proxy.stats().count_bytes(bytes, from_cache);
    proxy.stats().count_latency(from_cache, taken);
    proxy.stats().recent().note(|| AnsweredRequest {
        at: arrival.at,
        method: request.method.as_str(),
        target: request.target.as_str(),
        status: record.status.as_u16(),
        bytes,
        outcome: record.cache_status.outcome(),
        taken: Some(taken),
    });
    let Some(log) = log else { return };
    log.write(&AccessRecord {
        at: arrival.at,
        client: proxy.client(request),
        method: request.method.as_str(),
        target: request.target.as_str(),
        version: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
        status: record.status.as_u16(),
        bytes,
        referer: field_text(&request.fields, "referer"),
        user_agent: field_text(&request.fields, "user-agent"),
        from_cache,
        cache_status: &record.cache_status.to_string(),
        taken,
    });
}
