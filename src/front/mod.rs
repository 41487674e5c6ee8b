//! The server side: what a front owes the engine.
//!
//! A front reads requests, refuses those that are not acceptable, and asks the engine: first
//! `lookup`, then `join`, then, where it may wait, `forward`. It sends the response in whatever
//! framing the client understands, and when a body is cut short it cuts the connection too, so that
//! nobody takes a part for the whole (RFC 9112 §8). A request that waits for another's answer is
//! parked and holds no thread.

use std::sync::Arc;
use std::time::Duration;

use crate::message::request::RequestLimits;
use crate::origin::evented::EventedSettings;
use crate::stats::AccessLog;

mod dispatch;
pub mod event;
pub mod outgoing;
pub mod private;
mod recalls;
mod relay;
mod served;
pub mod tiny;
mod tunnels;
mod wakes;
pub mod wire;
pub mod workers;

pub use dispatch::Handler;

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// `--header-timeout`: for the head of a request, from its first byte, or from the beginning of the
    /// connection.
    pub header_timeout: Duration,
    /// `--idle-timeout`: between requests, between two bytes of a request's content, and for a client
    /// to take another piece of a response.
    pub idle_timeout: Duration,
    /// `--max-connections`, or less where descriptors are scarce.
    pub connections_max: usize,
}

/// What a front needs to know besides the engine.
pub struct FrontSettings {
    /// Bounds of connections.
    pub connections: ConnectionLimits,
    /// No request waits for another one's response longer than this.
    pub wait_max: Duration,
    /// How large a request may be.
    pub limits: RequestLimits,
    /// Where requests are logged, if anywhere.
    pub access_log: Option<AccessLog>,
    /// What answers instead of the proxy, on a listener that is not for the proxy's clients.
    pub handler: Option<Handler>,
    /// How event loops reach the origin server by themselves; `None` where workers do.
    pub origin: Option<Arc<EventedSettings>>,
    /// `--health-path`: the path at which the front says that it serves.
    pub health_path: Option<String>,
}
