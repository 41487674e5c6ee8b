//! What an HTTP message is (RFC 9110 §6): no I/O and no caching.

pub mod body;
pub(crate) mod buffer;
pub mod chunked;
pub mod content;
pub mod date;
pub mod distant;
pub mod fields;
pub(crate) mod framing;
pub(crate) mod growing;
pub mod head;
pub mod inflate;
pub mod network;
pub mod packed;
pub(crate) mod percent;
pub mod pipe;
pub mod reference;
pub mod request;
mod spelling;
pub mod target;
pub mod visible;
#[cfg(not(feature = "zstd"))]
mod without_zstd;
