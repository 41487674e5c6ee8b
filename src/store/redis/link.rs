//! Connections to Redis: to one server or to a cluster, one for each thread that asks, never used again
//! after an error, and never waited for beyond a bound.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::cluster::{ClusterClient, ClusterConnection};
use redis::{
    Client, Cmd, Connection, ConnectionLike, IntoConnectionInfo, Pipeline, RedisResult, Value,
};

use crate::store::behind::BehindError;

/// To connect, and to be let in.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(500);
/// For an answer.
pub(super) const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Connections that are kept open.
const IDLE_MAX: usize = 64;

/// Where Redis is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// URLs of one server, or of some nodes of a cluster.
    urls: Vec<String>,
    is_cluster: bool,
}

impl Address {
    /// Reads `redis://…`, `rediss://…`, `redis+cluster://HOST:PORT,…` or `rediss+cluster://…`. `None` if it
    /// is none of these.
    pub fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (scheme, is_cluster) = match scheme {
            "redis" | "rediss" => (scheme, false),
            "redis+cluster" => ("redis", true),
            "rediss+cluster" => ("rediss", true),
            _ => return None,
        };
        // A user and a password, if any, are those of every node.
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), rest),
        };
        let hosts: Vec<&str> = if is_cluster { hosts.split(',').collect() } else { vec![hosts] };
        let url = |host: &str| format!("{scheme}://{user}{host}");
        let urls: Vec<String> = hosts.iter().map(|host| url(host.trim())).collect();
        let readable = |url: &String| url.as_str().into_connection_info().is_ok();
        (urls.iter().all(readable) && !hosts.contains(&"")).then_some(Self { urls, is_cluster })
    }
}

/// Without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |url: &String| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_string()
        };
        let hosts: Vec<String> = self.urls.iter().map(host).collect();
        let kind = if self.is_cluster { "redis+cluster" } else { "redis" };
        write!(f, "{kind}://{}", hosts.join(","))
    }
}

/// One connection.
pub(super) enum Link {
    Server(Box<Connection>),
    Cluster(Box<ClusterConnection>),
}

impl Link {
    /// Sends commands and gives their answers, in their order. An answer that is an error (a replica that
    /// takes no writes, a user without rights, no memory) is an error here, too: no caller can take it
    /// for success.
    pub(super) fn ask(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                pipeline.query(&mut **connection)
            }
            // Their keys may live on several nodes.
            Self::Cluster(connection) => {
                let mut ask = |command| connection.req_command(command)?.extract_error();
                commands.iter().map(&mut ask).collect()
            }
        }
    }

    /// The same for one command. (`req_command` alone gives an error of the server as a value.)
    pub(super) fn one(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Server(connection) => connection.req_command(command),
            Self::Cluster(connection) => connection.req_command(command),
        };
        answer?.extract_error()
    }
}

enum Target {
    Server(Client),
    Cluster(ClusterClient),
}

/// All connections.
pub(super) struct Links {
    target: Target,
    /// One server, or each node that was named.
    nodes: Vec<Client>,
    idle: Mutex<Vec<Link>>,
    /// It answered when it was last asked.
    is_up: AtomicBool,
    /// Raised when it goes down, so that no older connection is kept.
    epoch: AtomicU64,
}

impl Links {
    /// Connects to nobody yet.
    pub(super) fn new(address: &Address) -> RedisResult<Self> {
        let mut places = Vec::new();
        for url in &address.urls {
            let info = url.as_str().into_connection_info()?;
            // To say what library this is would be another answer to wait for.
            let settings = info.redis_settings().clone().set_skip_set_lib_name();
            places.push(info.set_redis_settings(settings));
        }
        let nodes: Vec<Client> =
            places.iter().cloned().map(Client::open).collect::<RedisResult<_>>()?;
        let target = if address.is_cluster {
            let client = ClusterClient::builder(places)
                .connection_timeout(CONNECT_MAX)
                .response_timeout(ANSWER_MAX)
                // Enough for a slot that has moved, and a node that has gone.
                .retries(2)
                .max_retry_wait(100)
                .build()?;
            Target::Cluster(client)
        } else {
            Target::Server(nodes[0].clone())
        };
        let (idle, is_up, epoch) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { target, nodes, idle, is_up, epoch })
    }

    /// Did it answer when it was last asked?
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// It answers, or it does not.
    pub(super) fn set_up(&self, is_up: bool) {
        if !is_up {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            self.idle.lock().clear();
        }
        self.is_up.store(is_up, Ordering::Release);
    }

    fn open(&self) -> RedisResult<Link> {
        match &self.target {
            Target::Server(client) => {
                open(client).map(|connection| Link::Server(Box::new(connection)))
            }
            Target::Cluster(client) => {
                let connection = client.get_connection()?;
                connection.set_read_timeout(Some(ANSWER_MAX))?;
                connection.set_write_timeout(Some(ANSWER_MAX))?;
                Ok(Link::Cluster(Box::new(connection)))
            }
        }
    }

    /// Works with a connection. After any error it is closed: its next answer might be to somebody
    /// else's question. An error of the network means that Redis is down until it is heard of again.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Link) -> RedisResult<T>,
    ) -> Result<T, BehindError> {
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
                if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
                    self.set_up(false);
                }
                Err(BehindError(error.to_string()))
            }
        }
    }

    /// A connection of its own to the server, or to one node of the cluster after the other.
    pub(super) fn apart(&self, number: usize) -> RedisResult<Connection> {
        open(&self.nodes[number % self.nodes.len()])
    }

    /// A connection to each server that has keys of its own.
    pub(super) fn each(&self) -> RedisResult<Vec<Connection>> {
        if let Target::Server(client) = &self.target {
            return Ok(vec![open(client)?]);
        }
        let mut last = None;
        for node in &self.nodes {
            match masters(node) {
                Ok(masters) => return masters.iter().map(open).collect(),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a cluster has at least one node"))
    }
}

fn open(client: &Client) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(CONNECT_MAX)?;
    connection.set_read_timeout(Some(ANSWER_MAX))?;
    connection.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(connection)
}

/// The nodes of a cluster that have slots, as one of them knows them.
fn masters(node: &Client) -> RedisResult<Vec<Client>> {
    let known: String = redis::cmd("CLUSTER").arg("NODES").query(&mut open(node)?)?;
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
        let address = match own {
            redis::ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                redis::ConnectionAddr::TcpTls { host: host.to_string(), port, insecure, tls_params }
            }
            _ => redis::ConnectionAddr::Tcp(host.to_string(), port),
        };
        masters.push(Client::open(info.clone().set_addr(address))?);
    }
    Ok(masters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_without_secrets() {
        #[rustfmt::skip]
        let table = [
            ("redis://127.0.0.1", Some("redis://127.0.0.1")),
            ("redis://user:secret@h:6380/2", Some("redis://h:6380/2")),
            ("rediss://h:6380", Some("redis://h:6380")),
            ("redis+cluster://a:1,b:2", Some("redis+cluster://a:1,b:2")),
            ("redis+cluster://:secret@a:1,b:2", Some("redis+cluster://a:1,b:2")),
            ("redis+cluster://a:1,", None), ("redis://", None), ("http://h", None), ("redis", None),
        ];
        for (text, expected) in table {
            let told = Address::read(text).map(|address| address.to_string());
            assert_eq!(told.as_deref(), expected, "{text}");
        }
    }
}
