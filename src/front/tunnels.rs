//! Connections that have gone over to another protocol: bytes pass in both directions until either side
//! closes. RFC 9110 §7.8.
//!
//! Each has two threads of its own, so that it holds no worker; and there are only so many.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

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

/// The client's side of a tunnel.
pub(super) struct Ends {
    /// What the client is sent first: the 101.
    pub greeting: Vec<u8>,
    /// Reads what the client sends; `Ok(0)` is the end.
    pub read: Box<dyn FnMut(&mut [u8]) -> io::Result<usize> + Send>,
    /// Sends all of it to the client, and waits for that.
    pub write: Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>,
    /// Ends the connection in both directions, from any thread.
    pub cut: Box<dyn Fn() + Send>,
    /// Is told at the end how many bytes the client was sent.
    pub concluded: Box<dyn FnOnce(u64) + Send>,
}

/// Tells the client that the origin server has agreed, and lets bytes pass from now on.
pub(super) fn begin(ends: Ends, tunnel: Tunnel, place: Place) {
    let Ends { greeting, mut read, mut write, cut, concluded } = ends;
    let Tunnel { mut from_origin, mut to_origin, hang_up } = tunnel;
    let inward = move || {
        let mut piece = vec![0; PIECE_BYTES];
        let mut passed = 0;
        if write(&greeting).is_err() {
            cut();
            return passed;
        }
        while let Ok(count) = from_origin.read(&mut piece) {
            if count == 0 || write(&piece[..count]).is_err() {
                break;
            }
            passed += count as u64;
        }
        // The other thread reads from the client; it ends with the connection.
        cut();
        passed
    };
    let inward = match thread::Builder::new().name("tunnel".to_string()).spawn(inward) {
        Ok(inward) => inward,
        Err(error) => return log::warn!("no thread for a tunnel: {error}"),
    };
    let outward = move || {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count) = read(&mut piece) {
            if count == 0 || to_origin.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        hang_up();
        concluded(inward.join().unwrap_or(0));
        drop(place);
    };
    if let Err(error) = thread::Builder::new().name("tunnel".to_string()).spawn(outward) {
        log::warn!("no thread for a tunnel: {error}");
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
