//! Connections that have gone over to another protocol: bytes pass in both directions until either side
//! closes. RFC 9110 §7.8.
//!
//! Those of `--front tiny-http`: each tunnel has two threads of its own, so that it holds no worker; their number is
//! bounded. An event loop's tunnels are exchanges like others.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::origin::Tunnel;

/// The most tunnels at a time; further requests are answered 503.
pub(super) const TUNNELS_MAX: usize = 256;
/// How much is read at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// Counts the tunnels of a front.
#[derive(Clone, Default)]
pub(super) struct Tunnels(Arc<AtomicUsize>);

/// The permit for one tunnel, given back when it is dropped.
pub(super) struct TunnelPermit(Arc<AtomicUsize>);

impl Tunnels {
    /// A permit, if there is one left.
    pub(super) fn permit(&self) -> Option<TunnelPermit> {
        // Compared and counted in one step: several workers may ask at once.
        let more = |count| (count < TUNNELS_MAX).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(TunnelPermit(Arc::clone(&self.0)))
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        // A count that wrapped would refuse every tunnel from then on.
        let count = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(count > 0, "a permit is given back once");
    }
}

/// The client's side of a tunnel.
pub(super) struct TunnelClient {
    /// What the client is sent first: the 101.
    pub greeting: Vec<u8>,
    /// Reads what the client sends; `Ok(0)` is the end.
    pub read: Box<dyn FnMut(&mut [u8]) -> io::Result<usize> + Send>,
    /// Sends all of it to the client, and waits for that.
    pub write: Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>,
    /// TunnelClient the connection in both directions, from any thread.
    pub cut: Box<dyn Fn() + Send>,
    /// Is called at the end with the number of bytes that the client was sent.
    pub concluded: Box<dyn FnOnce(u64) + Send>,
}

/// Sends the 101 to the client, and passes bytes from then on.
pub(super) fn begin(client: TunnelClient, tunnel: Tunnel, permit: TunnelPermit) {
    let TunnelClient { greeting, read, write, cut, concluded } = client;
    let Tunnel { from_origin, to_origin, hang_up } = tunnel;
    // Two threads, because either side may be silent while the other speaks, and neither read has a
    // timeout: a chat may be quiet for hours.
    let inward = move || {
        let passed = pass_to_client(&greeting, from_origin, write);
        // The other thread waits for the client; it ends when the connection does.
        cut();
        passed
    };
    let inward = match thread::Builder::new().name("tunnel".to_string()).spawn(inward) {
        Ok(inward) => inward,
        // What the closure owned is dropped, and with it both connections.
        Err(error) => return log::warn!("no thread for a tunnel: {error}"),
    };
    let outward = move || {
        pass_to_origin(read, to_origin);
        // The first thread waits for the origin server; it ends when that connection does. So each
        // thread ends the other one.
        hang_up();
        concluded(inward.join().unwrap_or(0));
        drop(permit);
    };
    if let Err(error) = thread::Builder::new().name("tunnel".to_string()).spawn(outward) {
        log::warn!("no thread for a tunnel: {error}");
    }
}

/// Passes bytes to the client until either side ends; gives their number.
fn pass_to_client(
    greeting: &[u8],
    mut from_origin: Box<dyn Read + Send>,
    mut write: Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>,
) -> u64 {
    let mut piece = vec![0; PIECE_BYTES];
    let mut passed = 0;
    // The 101 goes out on the thread that writes, before any byte of the other protocol.
    if write(greeting).is_err() {
        return passed;
    }
    while let Ok(count) = from_origin.read(&mut piece) {
        if count == 0 || write(&piece[..count]).is_err() {
            break;
        }
        passed += count as u64;
    }
    passed
}

/// Passes bytes to the origin server until either side ends.
fn pass_to_origin(
    mut read: Box<dyn FnMut(&mut [u8]) -> io::Result<usize> + Send>,
    mut to_origin: Box<dyn Write + Send>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(count) = read(&mut piece) {
        if count == 0 || to_origin.write_all(&piece[..count]).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tunnels_is_bounded() {
        let tunnels = Tunnels::default();
        let mut permits: Vec<TunnelPermit> =
            (0..TUNNELS_MAX).map(|_| tunnels.permit().expect("a permit is left")).collect();
        assert!(tunnels.permit().is_none());
        permits.pop();
        assert!(tunnels.permit().is_some());
    }
}
