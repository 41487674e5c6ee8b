//! What an HTTP message is (RFC 9110 §6): no I/O and no caching.

pub mod body;
pub mod buffer;
pub mod chunked;
pub mod content;
pub mod date;
pub mod fields;
pub mod framing;
pub mod growing;
pub mod head;
pub mod network;
pub mod percent;
pub mod reference;
pub mod request;
pub mod response;
pub mod target;
