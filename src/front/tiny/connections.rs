//! The connections of clients over tiny_http: which are idle, which are in the middle of something,
//! which are cut off.
//!
//! tiny_http has no timeouts and no limits, so a thread checks all connections a few times a second, from
//! outside: it cuts those that have not sent a request in time, those that are idle for too long,
//! and those beyond the bound.
//!
//! Workers, pumps and the watching thread share the map. Its lock is not held while descriptors are looked
//! through (but in `cut_idle`, at the end), and never while work begins or a socket is cut: both take the
//! lock themselves.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::front::ConnectionLimits;
use crate::front::tiny::sockets::{ClientSocket, Survey, survey};

/// Requests of one connection that may wait for the one before them (pipelining).
const PIPELINED_MAX: usize = 64;
/// How often [`Connections::watch`] asks for a thread for a connection without a request.
const SELF_CONNECTS_MAX: u32 = 3;

/// All connections to one listening address.
pub(super) struct Connections {
    local: SocketAddr,
    limits: ConnectionLimits,
    started: Instant,
    /// By the client's address. Its lock guards all of a [`ConnectionState`] but the activity.
    known: Mutex<HashMap<SocketAddr, ConnectionState>>,
}

/// Guarded by [`Connections::known`].
struct ConnectionState {
    since: Instant,
    requests: u64,
    /// Requests that are being answered, or wait in `waiting`.
    under_way: usize,
    activity: Arc<Activity>,
    /// Requests that came before the answer to an earlier one was sent.
    waiting: VecDeque<Begin>,
    self_connects: u32,
    /// A descriptor of its socket, as it was last seen: where to look first.
    descriptor: Option<RawFd>,
    /// It is a tunnel, which ends when either side ends it.
    tunnel: bool,
    /// The response on its way is a stream without an end.
    endless: bool,
    /// Requests that come over it are dropped from now on.
    cut: bool,
}

/// Begins the work on a request.
pub(super) type Begin = Box<dyn FnOnce() + Send>;

/// When something last moved on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Milliseconds since the front started.
    last: AtomicU64,
    /// Does a worker wait for the client, for its content or for it to take a response?
    waiting: AtomicBool,
}

/// What a check of all connections has found.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The number of connections.
    pub open: usize,
    /// How many have not brought a request yet: they may be stuck in the server library's queue.
    pub maybe_queued: usize,
    /// The number of descriptors that listen.
    pub listening: usize,
}

impl Connections {
    pub(super) fn new(local: SocketAddr, limits: ConnectionLimits) -> Self {
        Self { local, limits, started: Instant::now(), known: Mutex::default() }
    }

    /// Notes that a request has come; `None` if its connection is cut and the request must be dropped.
    pub(super) fn begin(&self, peer: SocketAddr) -> Option<Arc<Activity>> {
        let mut known = self.known.lock();
        let state = known.entry(peer).or_insert_with(ConnectionState::new);
        // The connection was cut because its framing was ambiguous, or its bytes are content that
        // nobody read: what looks like a request now may be chosen by whoever wrote that content.
        if state.cut {
            return None;
        }
        state.requests += 1;
        state.under_way += 1;
        self.note(&state.activity);
        Some(Arc::clone(&state.activity))
    }

    /// Begins the work on a request, now or when those before it on its connection are answered.
    /// tiny_http makes a thread wait that answers out of turn, so one client that pipelines could hold
    /// every worker. Gives the work back if too many requests wait already.
    pub(super) fn in_turn(&self, peer: SocketAddr, begin: Begin) -> Result<(), Begin> {
        let mut known = self.known.lock();
        let state = known.entry(peer).or_insert_with(ConnectionState::new);
        // `begin` has counted this request itself.
        if state.under_way <= 1 {
            // The work may end on this very thread, and `end` takes the lock.
            drop(known);
            begin();
        } else if state.waiting.len() >= PIPELINED_MAX {
            return Err(begin);
        } else {
            state.waiting.push_back(begin);
        }
        Ok(())
    }

    /// Notes that a request is answered, or given up: the next one on its connection begins.
    pub(super) fn end(&self, peer: SocketAddr) {
        let mut known = self.known.lock();
        let Some(state) = known.get_mut(&peer) else { return };
        assert!(state.under_way > 0, "a request ends once");
        state.under_way -= 1;
        state.endless = false;
        self.note(&state.activity);
        // One only: it calls `end` in its turn.
        let next = state.waiting.pop_front();
        drop(known);
        if let Some(begin) = next {
            begin();
        }
    }

    /// Notes that something moved on a connection.
    pub(super) fn note(&self, activity: &Activity) {
        // Relaxed: the watching thread reads it a few times a second, and a moment more or less does
        // not matter.
        let now = self.started.elapsed().as_millis() as u64;
        activity.last.store(now, Ordering::Relaxed);
    }

    /// Notes that a worker begins or ends waiting for the client.
    pub(super) fn note_waiting(&self, activity: &Activity, waiting: bool) {
        self.note(activity);
        activity.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Cuts a connection: whatever is still sent on it does not count.
    pub(super) fn cut(&self, peer: SocketAddr) {
        // First the mark, then the socket: tiny_http may hand over a request that it has read already.
        self.mark_cut(peer);
        if let Some(client) = self.socket(peer) {
            client.cut();
        }
    }

    /// The same so that the client sees an error, and not an end.
    pub(super) fn reset(&self, peer: SocketAddr) {
        self.mark_cut(peer);
        if let Some(client) = self.socket(peer) {
            client.reset();
        }
    }

    /// As [`Connections::cut`], after a last response that is not waited for. It is left out if an earlier response is
    /// still on its way (pipelining): it would be taken for a part of that one.
    pub(super) fn cut_with(&self, peer: SocketAddr, last_response: &[u8]) {
        let alone = self.mark_cut(peer) <= 1;
        if let Some(client) = self.socket(peer) {
            if alone {
                let _ = client.send_now(last_response);
            }
            client.cut();
        }
    }

    /// Sends something short, whole or not at all, on a connection whose next response has not begun. A
    /// connection on which a part of it was sent is cut.
    pub(super) fn send_between(&self, peer: SocketAddr, bytes: &[u8]) {
        let Some(client) = self.socket(peer) else { return };
        match client.send_some(bytes) {
            Ok(count) if count < bytes.len() => self.cut(peer),
            // A client that takes nothing just now can do without it.
            _ => {}
        }
    }

    /// Has the client closed its side? A client that is not found has.
    pub(super) fn has_ended(&self, peer: SocketAddr) -> bool {
        self.socket(peer).is_none_or(|client| client.has_ended())
    }

    /// A duplicate of a client's socket. Looking through all descriptors takes long where there are
    /// many, so what is seen on the way is noted for the others.
    pub(super) fn socket(&self, peer: SocketAddr) -> Option<ClientSocket> {
        // The lock is given back at the end of this statement. Asking the system about descriptors
        // takes long where there are many, and every request needs the lock.
        let seen = self.known.lock().get(&peer).and_then(|state| state.descriptor);
        if let Some(client) = seen.and_then(|seen| ClientSocket::at(seen, self.local, peer)) {
            return Some(client);
        }
        let Survey { clients, .. } = survey(self.local);
        let mut known = self.known.lock();
        let mut found = None;
        for (other, descriptor) in clients {
            if let Some(state) = known.get_mut(&other) {
                state.descriptor = Some(descriptor);
            }
            if other == peer {
                found = Some(descriptor);
            }
        }
        drop(known);
        ClientSocket::at(found?, self.local, peer)
    }

    /// Notes that the connection has become a tunnel.
    pub(super) fn note_tunnel(&self, peer: SocketAddr) {
        if let Some(state) = self.known.lock().get_mut(&peer) {
            state.tunnel = true;
        }
    }

    /// Notes that a stream without an end is sent over the connection.
    pub(super) fn note_endless(&self, peer: SocketAddr) {
        if let Some(state) = self.known.lock().get_mut(&peer) {
            state.endless = true;
        }
    }

    /// Cuts all tunnels and all streams without an end, when the process ends.
    pub(super) fn cut_endless(&self) {
        // They would never end by themselves: an event stream once held an ending process for all of
        // --drain-timeout.
        let is_endless = |state: &ConnectionState| (state.tunnel || state.endless) && !state.cut;
        let to_cut: Vec<SocketAddr> = {
            let known = self.known.lock();
            known.iter().filter(|(_, state)| is_endless(state)).map(|(peer, _)| *peer).collect()
        };
        for peer in to_cut {
            self.cut(peer);
        }
    }

    /// Marks a connection as cut; gives the number of its requests that are being answered.
    fn mark_cut(&self, peer: SocketAddr) -> usize {
        let mut known = self.known.lock();
        let state = known.entry(peer).or_insert_with(ConnectionState::new);
        state.cut = true;
        state.under_way
    }

    /// How many requests are being answered. A stream that was cut does not count: the worker that
    /// reads it from the origin server learns of the cut with the next byte, if there is one.
    pub(super) fn under_way(&self) -> usize {
        let known = self.known.lock();
        let is_waited_for = |state: &&ConnectionState| !(state.endless && state.cut);
        known.values().filter(is_waited_for).map(|state| state.under_way).sum()
    }

    /// Cuts every connection on which no request is under way, when the process ends.
    pub(super) fn cut_idle(&self) {
        let idle: Vec<SocketAddr> = {
            let known = self.known.lock();
            let busy = |peer: &SocketAddr| known.get(peer).is_some_and(|state| state.under_way > 0);
            let clients = survey(self.local).clients;
            clients.into_iter().map(|(peer, _)| peer).filter(|peer| !busy(peer)).collect()
        };
        for peer in idle {
            self.cut(peer);
        }
    }

    /// Checks all connections once and cuts those that are over a bound.
    pub(super) fn watch(&self) -> Watched {
        // Before the lock: this reads all of the process's descriptors.
        let Survey { clients, listening } = survey(self.local);
        let open: HashMap<SocketAddr, RawFd> = clients.into_iter().collect();
        let mut watched = Watched { open: open.len(), listening, maybe_queued: 0 };
        let mut to_cut = Vec::new();
        let mut known = self.known.lock();
        // A state whose request is still under way is kept, gone or not: `end` will look for it, and an
        // address that is used again must not inherit a count.
        known.retain(|peer, state| open.contains_key(peer) || state.under_way > 0);
        for (peer, descriptor) in &open {
            let state = known.entry(*peer).or_insert_with(ConnectionState::new);
            state.descriptor = Some(*descriptor);
            if state.cut || self.is_overdue(state) {
                to_cut.push(*peer);
            // tiny_http may have left the connection in its queue; see `Inner::connect_to_self`. For a client
            // that is merely slow to ask it is in vain, so it is done only a few times.
            } else if state.requests == 0 && state.self_connects < SELF_CONNECTS_MAX {
                state.self_connects += 1;
                watched.maybe_queued += 1;
            }
        }
        let excess =
            open.len().saturating_sub(to_cut.len()).saturating_sub(self.limits.connections_max);
        if excess > 0 {
            to_cut.extend(newest_idle(&open, &known).take(excess));
            log::warn!(
                "{} connections; at most {} are kept: see --max-connections",
                open.len(),
                self.limits.connections_max
            );
        }
        drop(known);
        for peer in to_cut {
            self.cut(peer);
        }
        watched
    }

    /// Has the connection been quiet for longer than it may in its state?
    fn is_overdue(&self, state: &ConnectionState) -> bool {
        let last = Duration::from_millis(state.activity.last.load(Ordering::Relaxed));
        let quiet = self.started.elapsed().saturating_sub(last);
        if state.requests == 0 {
            state.since.elapsed() > self.limits.header_timeout
        // A request that waits for the origin server has other bounds, and is not the client's fault.
        } else if state.under_way == 0 || state.activity.waiting.load(Ordering::Relaxed) {
            quiet > self.limits.idle_timeout
        } else {
            false
        }
    }
}

/// The clients without a request under way, the newest first: clients that have been served before are
/// served on.
fn newest_idle(
    open: &HashMap<SocketAddr, RawFd>,
    known: &HashMap<SocketAddr, ConnectionState>,
) -> impl Iterator<Item = SocketAddr> {
    let mut idle: Vec<(Instant, SocketAddr)> = open
        .keys()
        .filter_map(|peer| known.get(peer).map(|state| (peer, state)))
        .filter(|(_, state)| state.under_way == 0 && !state.cut)
        .map(|(peer, state)| (state.since, *peer))
        .collect();
    idle.sort_unstable_by(|one, other| other.cmp(one));
    idle.into_iter().map(|(_, peer)| peer)
}

impl ConnectionState {
    fn new() -> Self {
        let since = Instant::now();
        let activity = Arc::default();
        Self {
            since,
            requests: 0,
            under_way: 0,
            activity,
            waiting: VecDeque::new(),
            self_connects: 0,
            descriptor: None,
            tunnel: false,
            endless: false,
            cut: false,
        }
    }
}
