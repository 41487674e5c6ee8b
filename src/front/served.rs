//! What is recorded of a response once it is sent: the counters and the access log.

use std::net::SocketAddr;
use std::time::Instant;

use http::Version;

use crate::clock::Timestamp;
use crate::message::request::Request;
use crate::message::response::Response;
use crate::policy::reason::Detail;
use crate::proxy::{Proxy, field_text};
use crate::stats::{AccessLog, AccessRecord};

/// What the access log says of a response.
pub(super) struct LogRecord {
    pub status: u16,
    pub from_cache: bool,
    pub cache_status: String,
}

impl LogRecord {
    /// Reads it from a response that is about to be sent.
    pub(super) fn read(response: &Response, log: Option<&AccessLog>) -> Self {
        // Copied only where it is logged: this is done for each response.
        let cache_status = match log {
            Some(_) => field_text(&response.fields, "cache-status").to_string(),
            None => String::new(),
        };
        let from_cache = field_text(&response.fields, "x-cache") == "HIT";
        Self { status: response.status.as_u16(), from_cache, cache_status }
    }

    /// The same of a response whose body was cut: it is not stored, whatever its head says.
    pub(super) fn truncated(&mut self) {
        // The head has said `stored` to the client, in good faith; the log is written when the end is
        // known.
        let status = &mut self.cache_status;
        if !status.is_empty() {
            *status = status.replace("; stored", "");
            // The detail is the last member.
            status.truncate(status.find("; detail=").unwrap_or(status.len()));
            status.push_str("; detail=");
            status.push_str(Detail::Truncated.as_str());
        }
    }

    /// What the log says of a connection that has become a tunnel.
    pub(super) fn of_tunnel() -> Self {
        let cache_status = "proxy; fwd=bypass; fwd-status=101; detail=upgrade".to_string();
        Self { status: 101, from_cache: false, cache_status }
    }
}

/// When a request came, and from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub at: Timestamp,
    pub since: Instant,
    pub peer: SocketAddr,
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
    proxy.stats().count_bytes(bytes, record.from_cache);
    proxy.stats().count_latency(record.from_cache, taken);
    let Some(log) = log else { return };
    log.write(&AccessRecord {
        at: arrival.at,
        client: proxy.client(request),
        method: request.method.as_str(),
        target: request.target.as_str(),
        version: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
        status: record.status,
        bytes,
        referer: field_text(&request.fields, "referer"),
        user_agent: field_text(&request.fields, "user-agent"),
        from_cache: record.from_cache,
        cache_status: &record.cache_status,
        taken,
    });
}
