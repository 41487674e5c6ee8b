//! Connections that leave an event loop for a tunnel, with threads of their own.
//!
//! The loop knows nothing of them any more. They are listed here, so that the end of the proxy can cut
//! them, and their front counts them among its open connections.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;

use crate::front::event::connection::UpgradedConnection;
use crate::front::event::inbox::AgreedUpgrade;
use crate::front::served::{LogRecord, record_response};
use crate::front::tunnels::{self, TunnelClient};
use crate::front::wire::interim_head;
use crate::proxy::Proxy;
use crate::stats::AccessLog;

/// The open tunnels of a front.
#[derive(Default)]
pub(super) struct OpenTunnels {
    by_number: Mutex<TunnelsByNumber>,
}

/// Guarded by [`OpenTunnels::by_number`].
#[derive(Default)]
struct TunnelsByNumber {
    streams: HashMap<u64, Arc<TcpStream>>,
    last: u64,
}

impl OpenTunnels {
    fn insert(&self, stream: &Arc<TcpStream>) -> u64 {
        let mut tunnels = self.by_number.lock();
        tunnels.last += 1;
        let number = tunnels.last;
        tunnels.streams.insert(number, Arc::clone(stream));
        number
    }

    fn remove(&self, number: u64) {
        let removed = self.by_number.lock().streams.remove(&number);
        assert!(removed.is_some(), "a tunnel is listed until it is dropped");
    }

    /// Cuts all tunnels.
    pub(super) fn cut(&self) {
        // They stay listed: each removes itself when its threads have seen the end. A client that is gone
        // already makes this fail, which does no harm.
        for stream in self.by_number.lock().streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A tunnel's client, listed in [`OpenTunnels`] until this is dropped.
pub(super) struct OpenTunnel {
    open_tunnels: Arc<OpenTunnels>,
    number: u64,
    stream: Arc<TcpStream>,
    /// Notes that the client's connection is closed.
    note_closed: Box<dyn Fn() + Send>,
}

impl OpenTunnel {
    /// Lists a client's socket; `note_closed` is called once, when the tunnel is over.
    pub(super) fn new(
        open_tunnels: &Arc<OpenTunnels>,
        stream: TcpStream,
        note_closed: impl Fn() + Send + 'static,
    ) -> Self {
        let stream = Arc::new(stream);
        let number = open_tunnels.insert(&stream);
        let (open_tunnels, note_closed) = (Arc::clone(open_tunnels), Box::new(note_closed));
        Self { open_tunnels, number, stream, note_closed }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        // Removed before it is counted as closed: a front that drains waits for the count, and the process
        // may end with it.
        self.open_tunnels.remove(self.number);
        (self.note_closed)();
    }
}

/// Makes a tunnel of a client's connection; its threads go on with it.
pub(super) fn tunnel(
    open: OpenTunnel,
    upgraded: UpgradedConnection,
    proxy: Arc<Proxy>,
    log: Arc<Option<AccessLog>>,
) {
    let UpgradedConnection { upgrade, request, arrival, early } = upgraded;
    let AgreedUpgrade { fields, tunnel, permit } = upgrade;
    // Its threads wait for bytes; the event loop's sockets never do.
    if let Err(error) = open.stream.set_nonblocking(false) {
        log::warn!("{}: no tunnel: {error}", arrival.peer);
        return (tunnel.hang_up)();
    }
    let [reading, writing, cutting] = [(); 3].map(|()| Arc::clone(&open.stream));
    let mut early = io::Cursor::new(early);
    let client = TunnelClient {
        greeting: interim_head(StatusCode::SWITCHING_PROTOCOLS, &fields),
        // What the loop has read too much comes first: these bytes are in no socket any more.
        read: Box::new(move |buffer| match early.read(buffer) {
            Ok(0) => (&*reading).read(buffer),
            count => count,
        }),
        write: Box::new(move |bytes| (&*writing).write_all(bytes)),
        cut: Box::new(move || _ = cutting.shutdown(Shutdown::Both)),
        concluded: Box::new(move |passed| {
            let (log, record) = (Option::as_ref(&log), LogRecord::of_tunnel());
            record_response(&proxy, log, &request, arrival, &record, passed);
            // Last: what is counted as closed has its line in the log.
            drop(open);
        }),
    };
    tunnels::begin(client, tunnel, permit);
}
