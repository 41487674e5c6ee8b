//! The origin server's side for a worker: one thread, one exchange, by ureq. No other room names its types.

pub mod client;
pub mod plain;
mod substitute;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod tls;
pub(in crate::origin) mod transport;
