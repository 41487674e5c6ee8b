//! The origin server's side for a worker: one thread, one exchange, by ureq. No other room names its types.

pub mod client;
pub mod plain;
mod substitute;
mod tls;
pub(in crate::origin) mod transport;
