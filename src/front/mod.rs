//! The server side: what a front owes the engine.
//!
//! A front reads requests, refuses those that are not acceptable, and asks the engine: first
//! `lookup`, then `join`, then, where it may wait, `forward`. It sends the response in whatever
//! framing the client understands, and when a body is cut short it cuts the connection too, so that
//! nobody takes a part for the whole (RFC 9112 §8). A request that waits for another's answer is
//! parked and holds no thread.

pub mod connections;
mod exchange;
mod pump;
mod sending;
mod sockets;
pub mod tiny;
mod tunnels;
pub mod wire;
pub mod workers;
