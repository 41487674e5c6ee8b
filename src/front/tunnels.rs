//! Connections that have gone over to another protocol: bytes pass in both directions until either side
//! closes. RFC 9110 §7.8.
//!
//! Each has two threads of its own, so that it holds no worker; and there are only so many.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use http::StatusCode;

use crate::front::exchange::Exchange;
use crate::front::sockets::Client;
use crate::front::wire::interim_head;
use crate::message::fields::Fields;
use crate::origin::Tunnel;

/// The most tunnels at a time; further requests are answered 503.
pub(super) const TUNNELS_MAX: usize = 256;
/// How much is read at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// How many tunnels there are.
#[derive(Clone, Default)]
pub(super) struct Tunnels(Arc<AtomicUsize>);

/// A place for one tunnel.
pub(super) struct Place(Arc<AtomicUsize>);

impl Tunnels {
    /// A place, if there is one left.
    pub(super) fn place(&self) -> Option<Place> {
        let more = |count| (count < TUNNELS_MAX).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the client that the origin server has agreed, and lets bytes pass from now on.
pub(super) fn begin(mut exchange: Exchange, fields: &Fields, tunnel: Tunnel, place: Place) {
    let Some((socket, told)) = exchange.become_tunnel() else {
        log::warn!("{}: no tunnel: the client's socket was not found", exchange.peer);
        return;
    };
    if socket.send_all(&interim_head(StatusCode::SWITCHING_PROTOCOLS, fields)).is_err() {
        return exchange.conclude(&told, 0, false);
    }
    let peer = exchange.peer;
    let Tunnel { mut from_origin, mut to_origin, hang_up } = tunnel;
    let inward = move || {
        let mut piece = vec![0; PIECE_BYTES];
        let mut passed = 0;
        while let Ok(count) = from_origin.read(&mut piece) {
            if count == 0 || socket.send_all(&piece[..count]).is_err() {
                break;
            }
            passed += count as u64;
        }
        // The other thread reads from the client; it ends with the connection.
        Client::cut(&socket);
        passed
    };
    let inward = match thread::Builder::new().name("tunnel".to_string()).spawn(inward) {
        Ok(inward) => inward,
        Err(error) => return log::warn!("{peer}: no thread for a tunnel: {error}"),
    };
    let outward = move || {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count) = exchange.read_from_tunnel(&mut piece) {
            if count == 0 || to_origin.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        hang_up();
        let passed = inward.join().unwrap_or(0);
        exchange.conclude(&told, passed, false);
        drop(place);
    };
    if let Err(error) = thread::Builder::new().name("tunnel".to_string()).spawn(outward) {
        log::warn!("{peer}: no thread for a tunnel: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_tunnels() {
        let tunnels = Tunnels::default();
        let mut places: Vec<Place> =
            (0..TUNNELS_MAX).map(|_| tunnels.place().expect("there is room")).collect();
        assert!(tunnels.place().is_none());
        places.pop();
        assert!(tunnels.place().is_some());
    }
}
