//! Connections that leave an event loop for a tunnel, with threads of their own.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;

use crate::front::dispatch::Dispatch;
use crate::front::event::inbox::AgreedUpgrade;
use crate::front::served::{Arrival, LogRecord, record_response};
use crate::front::tunnels::{self, TunnelClient};
use crate::front::wire::interim_head;
use crate::message::request::Request;
use crate::stats::AccessLog;

/// The tunnels that there are, for the end.
#[derive(Default)]
pub(super) struct OpenTunnels {
    /// By number, and the next number.
    open: Mutex<(HashMap<u64, Arc<TcpStream>>, u64)>,
}

impl OpenTunnels {
    fn insert(&self, stream: &Arc<TcpStream>) -> u64 {
        let mut open = self.open.lock();
        open.1 += 1;
        let number = open.1;
        open.0.insert(number, Arc::clone(stream));
        number
    }

    /// Cuts all tunnels.
    pub(super) fn cut(&self) {
        for stream in self.open.lock().0.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A tunnel that is open: noted, and forgotten when this is dropped.
struct OpenTunnel {
    open_tunnels: Arc<OpenTunnels>,
    number: u64,
    /// Says that the client's connection is over.
    end: Box<dyn Fn() + Send>,
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.open_tunnels.open.lock().0.remove(&self.number);
        (self.end)();
    }
}

/// Makes a tunnel of a client's socket. `early` is what the client has sent for it already; `end` is called
/// once, when the tunnel is over.
pub(super) fn tunnel(
    stream: TcpStream,
    early: Vec<u8>,
    upgrade: AgreedUpgrade,
    (request, arrival): (Arc<Request>, Arrival),
    (dispatch, log): (&Arc<Dispatch>, &Arc<Option<AccessLog>>),
    open_tunnels: &Arc<OpenTunnels>,
    end: Box<dyn Fn() + Send>,
) {
    let AgreedUpgrade { fields, tunnel, permit } = upgrade;
    let stream = Arc::new(stream);
    let open = OpenTunnel {
        open_tunnels: Arc::clone(open_tunnels),
        number: open_tunnels.insert(&stream),
        end,
    };
    if let Err(error) = stream.set_nonblocking(false) {
        log::warn!("{}: no tunnel: {error}", arrival.peer);
        return (tunnel.hang_up)();
    }
    let (reading, writing, cutting) = (Arc::clone(&stream), Arc::clone(&stream), stream);
    let mut early = std::io::Cursor::new(early);
    let (dispatch, log) = (Arc::clone(dispatch), Arc::clone(log));
    let client = TunnelClient {
        greeting: interim_head(StatusCode::SWITCHING_PROTOCOLS, &fields),
        read: Box::new(move |buffer| match early.read(buffer) {
            Ok(0) => (&*reading).read(buffer),
            count => count,
        }),
        write: Box::new(move |bytes| (&*writing).write_all(bytes)),
        cut: Box::new(move || _ = cutting.shutdown(Shutdown::Both)),
        concluded: Box::new(move |passed| {
            let log = Option::as_ref(&log);
            record_response(
                &dispatch.proxy,
                log,
                &request,
                arrival,
                &LogRecord::of_tunnel(),
                passed,
            );
            drop(open);
        }),
    };
    tunnels::begin(client, tunnel, permit);
}
