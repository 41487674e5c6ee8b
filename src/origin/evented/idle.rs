//! Connections that wait for the next request. RFC 9112 §9.3, §9.5.
//!
//! They are watched: one that its server closes is gone the moment the loop learns of it, so that no request is
//! sent into an end that is on its way, as far as that can be known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::origin::evented::exchange::OriginConnection;
use crate::origin::outgoing::Route;

/// For how long an idle connection is kept, unless its server says that it keeps it for less.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// For how long one is used altogether: a name that moves is followed.
const AGE_MAX: Duration = Duration::from_secs(300);

/// The idle connections of one loop.
pub struct IdleConnections {
    /// Not more of them than connections; mostly one.
    by_route: Vec<(Arc<Route>, Vec<OriginConnection>)>,
    /// Those that only one client may use, by that client; one each.
    by_client: HashMap<u64, OriginConnection>,
    count: usize,
    most: usize,
}

impl IdleConnections {
    /// Keeps at most `most`.
    pub fn new(most: usize) -> Self {
        Self { by_route: Vec::new(), by_client: HashMap::new(), count: 0, most }
    }

    /// The connection for this route that was used last: the one that its server is most likely to keep. Where there is
    /// one that is this client's alone, it is that one.
    pub fn take(
        &mut self,
        route: &Arc<Route>,
        client: Option<u64>,
        now: Instant,
    ) -> Option<OriginConnection> {
        let own = client.and_then(|client| self.by_client.get(&client).map(|own| (client, own)));
        if let Some((client, own)) = own
            && own.route == *route
            && now < keep_until(own)
        {
            self.count -= 1;
            return self.by_client.remove(&client);
        }
        let group = self.position(route)?;
        let connections = &self.by_route[group].1;
        let at = connections.iter().rposition(|connection| now < keep_until(connection))?;
        Some(self.remove(group, at))
    }

    /// Keeps a connection; gives it back if it is too old, or there are too many.
    pub fn keep(&mut self, connection: OriginConnection, now: Instant) -> Option<OriginConnection> {
        if self.count >= self.most || now >= keep_until(&connection) {
            return Some(connection);
        }
        self.count += 1;
        if let Some(client) = connection.client {
            let displaced = self.by_client.insert(client, connection);
            self.count -= usize::from(displaced.is_some());
            return displaced;
        }
        match self.position(&connection.route) {
            Some(group) => self.by_route[group].1.push(connection),
            None => self.by_route.push((Arc::clone(&connection.route), vec![connection])),
        }
        None
    }

    fn position(&self, route: &Arc<Route>) -> Option<usize> {
        let is_it = |other: &Arc<Route>| Arc::ptr_eq(other, route) || other == route;
        self.by_route.iter().position(|(other, _)| is_it(other))
    }

    fn remove(&mut self, group: usize, at: usize) -> OriginConnection {
        let connections = &mut self.by_route[group].1;
        let connection = connections.remove(at);
        if connections.is_empty() {
            self.by_route.swap_remove(group);
        }
        self.count -= 1;
        connection
    }

    /// The connection that was this client's alone.
    pub fn take_client(&mut self, client: u64) -> Option<OriginConnection> {
        let taken = self.by_client.remove(&client);
        self.count -= usize::from(taken.is_some());
        taken
    }

    /// The connection with this token.
    pub fn take_token(&mut self, token: usize) -> Option<OriginConnection> {
        let mut of_clients = self.by_client.values();
        if let Some(own) = of_clients.find(|connection| connection.token == token) {
            return own.client.and_then(|client| self.take_client(client));
        }
        let at_token = |(_, group): &(_, Vec<OriginConnection>)| {
            group.iter().position(|one| one.token == token)
        };
        let mut groups = self.by_route.iter().enumerate();
        let (group, at) = groups.find_map(|(number, group)| Some((number, at_token(group)?)))?;
        Some(self.remove(group, at))
    }

    /// Those that have been idle for too long.
    pub fn take_old(&mut self, now: Instant) -> Vec<OriginConnection> {
        let mut old = Vec::new();
        for (_, connections) in &mut self.by_route {
            old.extend(connections.extract_if(.., |one| now >= keep_until(one)));
        }
        self.by_route.retain(|(_, connections)| !connections.is_empty());
        old.extend(self.by_client.extract_if(|_, own| now >= keep_until(own)).map(|(_, own)| own));
        self.count -= old.len();
        old
    }

    /// All of them.
    pub fn take_all(&mut self) -> Vec<OriginConnection> {
        self.count = 0;
        let of_clients = self.by_client.drain().map(|(_, own)| own);
        self.by_route.drain(..).flat_map(|(_, connections)| connections).chain(of_clients).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Until when a connection that became idle is kept.
fn keep_until(connection: &OriginConnection) -> Instant {
    let idle = match connection.reader.keep_alive() {
        // A second less: a request that goes out just then would meet the end.
        Some(seconds) => IDLE_MAX.min(Duration::from_secs(seconds.saturating_sub(1))),
        None => IDLE_MAX,
    };
    let until = connection.idle_since + idle;
    // With a connection that is authenticated its client would lose that, in the middle of what it does.
    if connection.client.is_some() { until } else { until.min(connection.opened + AGE_MAX) }
}
