//! Where the primary is, as Sentinels know it. They are asked one after the other, each within a bound, whenever
//! the connection to the primary was lost or it turns out to be none.

use std::time::Duration;

use parking_lot::Mutex;
use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, cmd,
};

use crate::store::redis::link::{self, Link};
use crate::store::redis::values;

/// Sentinels, and the primary that they have named last.
pub(super) struct Sentinels {
    name: String,
    /// The primary as if it were at each Sentinel's address: user, password, database and certificates are the
    /// primary's.
    addresses: Vec<ConnectionInfo>,
    /// Written by the thread that listens for news, read by all that connect; held for one look.
    primary: Mutex<Option<Client>>,
    /// The longest wait to be connected, and for each answer.
    answer_max: Duration,
}

impl Sentinels {
    /// Makes no connection yet.
    pub(super) fn new(
        name: &str,
        addresses: Vec<ConnectionInfo>,
        answer_max: Duration,
    ) -> RedisResult<Self> {
        // What is wrong with an address is found at the start, not at the first failover.
        for address in &addresses {
            Client::open(address.clone())?;
        }
        Ok(Self { name: name.to_string(), addresses, primary: Mutex::default(), answer_max })
    }

    /// The primary that was found last.
    pub(super) fn known(&self) -> RedisResult<Client> {
        let known = self.primary.lock().clone();
        known.ok_or_else(|| error("no primary is known yet".to_string()))
    }

    /// Asks the Sentinels, another one first at each attempt, and connects to the primary. A Sentinel that was
    /// cut off from the others may name one that is none any more: then the next is asked.
    pub(super) fn find(&self, attempt: usize) -> RedisResult<Connection> {
        let mut last = None;
        for index in 0..self.addresses.len() {
            match self.find_by(&self.addresses[(attempt + index) % self.addresses.len()]) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("an address names at least one Sentinel"))
    }

    fn find_by(&self, place: &ConnectionInfo) -> RedisResult<Connection> {
        let about = |what: RedisError| error(format!("Sentinel {}: {what}", place.addr()));
        let (host, port) = self.ask(place).map_err(about)?;
        let address = match place.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let client = Client::open(place.clone().set_addr(address))?;
        let mut link = Link::Server(Box::new(link::open(&client, self.answer_max)?));
        // A Sentinel may not have heard of the failover yet, and the old primary may be back as a replica.
        Self::leads(&mut link)?;
        let Link::Server(connection) = link else { unreachable!("it was just made") };
        *self.primary.lock() = Some(client);
        Ok(*connection)
    }

    /// The host and port that one Sentinel names. Sentinels mostly know no users: the user and the password are
    /// sent only where they ask for some.
    fn ask(&self, place: &ConnectionInfo) -> RedisResult<(String, u16)> {
        let ask = |settings| {
            let client = Client::open(place.clone().set_redis_settings(settings))?;
            let mut link = Link::Server(Box::new(link::open(&client, self.answer_max)?));
            link.one(cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name))
        };
        // Without user and password first: a Sentinel that knows no users answers them with an error.
        let bare = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        let answer = match ask(bare) {
            Err(error) if error.code() == Some("NOAUTH") => {
                ask(place.redis_settings().clone().set_db(0))?
            }
            answer => answer?,
        };
        let words: Vec<String> = values::members(&answer)
            .iter()
            .filter_map(values::bytes)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let unknown = || error(format!("knows no primary named {}", self.name));
        let [host, port] = &words[..] else { return Err(unknown()) };
        let port = port.parse().map_err(|_| unknown())?;
        Ok((host.clone(), port))
    }

    /// Is this server a primary? An error if not.
    pub(super) fn leads(link: &mut Link) -> RedisResult<()> {
        let role = link.one(&cmd("ROLE"))?;
        match values::members(&role).first().and_then(values::bytes) {
            Some(b"master") => Ok(()),
            _ => Err(error("READONLY: it is not the primary any more".to_string())),
        }
    }
}

fn error(text: String) -> RedisError {
    RedisError::from((ErrorKind::Client, "Redis", text))
}
