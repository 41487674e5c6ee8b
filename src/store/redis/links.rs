//! All connections to Redis: to one server, to a cluster or to the primary that Sentinels know, one for each
//! thread that asks; and whether Redis answers.
//!
//! The lock of the idle connections is held to take one or put one back, never while Redis is asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::cluster::ClusterClient;
use redis::{Client, Connection, RedisResult};

use crate::store::backing::BackingError;
use crate::store::redis::address::{Address, Topology};
use crate::store::redis::link::{Link, backing_error, is_read_only, open};
use crate::store::redis::sentinel::Sentinels;

/// Connections that are kept open.
const IDLE_MAX: usize = 64;

enum RedisTarget {
    Server(Client),
    Cluster(ClusterClient),
    Sentinels(Sentinels),
}

/// All connections.
pub(super) struct Links {
    target: RedisTarget,
    /// One server, or each node that was named.
    nodes: Vec<Client>,
    /// Connections that no thread uses now; the last one that was put back is taken first.
    idle: Mutex<Vec<Link>>,
    /// It answered when it was last asked.
    is_up: AtomicBool,
    /// Raised when it goes down, so that no older connection is kept.
    epoch: AtomicU64,
    /// The longest wait to be connected, and for each answer.
    answer_max: Duration,
}

impl Links {
    /// Makes no connection yet.
    pub(super) fn new(address: &Address, answer_max: Duration) -> RedisResult<Self> {
        let named = address.connections()?;
        let nodes: Vec<Client> =
            named.iter().cloned().map(Client::open).collect::<RedisResult<_>>()?;
        let target = match address.topology() {
            Topology::Cluster => {
                let builder = ClusterClient::builder(named)
                    .connection_timeout(answer_max)
                    .response_timeout(answer_max)
                    // Enough for a slot that has moved, and a node that has gone.
                    .retries(2)
                    .max_retry_wait(100);
                RedisTarget::Cluster(address.equip(builder).build()?)
            }
            Topology::Sentinel(name) => {
                RedisTarget::Sentinels(Sentinels::new(name, named, answer_max)?)
            }
            Topology::Server | Topology::Unix => RedisTarget::Server(nodes[0].clone()),
        };
        let (idle, is_up, epoch) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { target, nodes, idle, is_up, epoch, answer_max })
    }

    /// Did it answer when it was last asked?
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// It answers, or it does not.
    pub(super) fn set_up(&self, is_up: bool) {
        if !is_up {
            // In this order: a connection that is put back in between has noted the old epoch.
            self.epoch.fetch_add(1, Ordering::AcqRel);
            self.idle.lock().clear();
        }
        self.is_up.store(is_up, Ordering::Release);
    }

    fn open(&self) -> RedisResult<Link> {
        match &self.target {
            RedisTarget::Server(client) => {
                open(client, self.answer_max).map(|connection| Link::Server(Box::new(connection)))
            }
            RedisTarget::Cluster(client) => {
                let connection = client.get_connection()?;
                connection.set_read_timeout(Some(self.answer_max))?;
                connection.set_write_timeout(Some(self.answer_max))?;
                Ok(Link::Cluster(Box::new(connection)))
            }
            RedisTarget::Sentinels(sentinels) => open(&sentinels.known()?, self.answer_max)
                .map(|connection| Link::Server(Box::new(connection))),
        }
    }

    /// Works with a connection. After any error it is closed: its next answer might be to somebody
    /// else's question. An error of the network means that Redis is down until it is heard of again.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Link) -> RedisResult<T>,
    ) -> Result<T, BackingError> {
        // Called without a lock. Noted before the connection is taken, so that one from before Redis went down
        // is not kept after it has come up again: it may be to a server that is no primary any more.
        let epoch = self.epoch.load(Ordering::Acquire);
        let kept = self.idle.lock().pop();
        let link = kept.map_or_else(|| self.open(), Ok);
        let result = link.and_then(|mut link| work(&mut link).map(|done| (link, done)));
        match result {
            Ok((link, done)) => {
                let mut idle = self.idle.lock();
                if idle.len() < IDLE_MAX && epoch == self.epoch.load(Ordering::Acquire) {
                    idle.push(link);
                }
                Ok(done)
            }
            Err(error) => {
                // An error that the server answers does not mean that it is down: without memory for
                // a write it still answers reads. A timeout does, or each worker would wait one out.
                // Where Sentinels say who takes writes, they are asked again.
                let is_demoted =
                    matches!(self.target, RedisTarget::Sentinels(_)) && is_read_only(&error);
                if error.is_io_error()
                    || error.is_timeout()
                    || error.is_connection_dropped()
                    || is_demoted
                {
                    self.set_up(false);
                }
                Err(backing_error(&error))
            }
        }
    }

    /// A connection of its own to the server, to the primary, or to one node of the cluster after the other.
    /// The Sentinels are asked here and nowhere else, so that no request waits for them.
    pub(super) fn dedicated(&self, number: usize) -> RedisResult<Connection> {
        match &self.target {
            RedisTarget::Sentinels(sentinels) => sentinels.find(number),
            _ => open(&self.nodes[number % self.nodes.len()], self.answer_max),
        }
    }

    /// Is the server that Sentinels have named still the primary? An error if it is not.
    pub(super) fn still_leads(&self) -> Result<(), BackingError> {
        if matches!(self.target, RedisTarget::Sentinels(_)) {
            return self.with(Sentinels::leads);
        }
        Ok(())
    }

    /// The servers that have keys of their own, always in the same order.
    pub(super) fn servers(&self) -> RedisResult<Vec<Client>> {
        match &self.target {
            RedisTarget::Server(client) => return Ok(vec![client.clone()]),
            RedisTarget::Sentinels(sentinels) => return Ok(vec![sentinels.known()?]),
            RedisTarget::Cluster(_) => {}
        }
        // Any node knows all others; the next is asked where one is down.
        let mut last = None;
        for node in &self.nodes {
            match masters(node, self.answer_max) {
                Ok(mut masters) => {
                    masters.sort_by_key(|client| client.get_connection_info().addr().to_string());
                    return Ok(masters);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a cluster has at least one node"))
    }
}

/// The nodes of a cluster that have slots, as one of them knows them.
fn masters(node: &Client, answer_max: Duration) -> RedisResult<Vec<Client>> {
    let known: String = redis::cmd("CLUSTER").arg("NODES").query(&mut open(node, answer_max)?)?;
    let info = node.get_connection_info();
    let mut masters = Vec::new();
    for line in known.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(address), Some(flags)) = (words.get(1), words.get(2)) else { continue };
        if !flags.split(',').any(|flag| flag == "master")
            || flags.contains("fail")
            || words.len() < 9
        {
            continue;
        }
        // HOST:PORT@BUS[,NAME]
        let Some((host, port)) = address.split('@').next().and_then(|place| place.rsplit_once(':'))
        else {
            continue;
        };
        let Ok(port) = port.parse() else { continue };
        let own = info.addr().clone();
        let host = match &own {
            // A node that no other has met does not know where it is; we do.
            redis::ConnectionAddr::Tcp(own, _)
            | redis::ConnectionAddr::TcpTls { host: own, .. }
                if host.is_empty() =>
            {
                own.as_str()
            }
            _ => host,
        };
        let host = host.to_string();
        let address = match own {
            redis::ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                redis::ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => redis::ConnectionAddr::Tcp(host, port),
        };
        masters.push(Client::open(info.clone().set_addr(address))?);
    }
    Ok(masters)
}
