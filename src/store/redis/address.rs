//! Where Redis is, as `--store` says it.

use std::fmt;

use redis::cluster::ClusterClientBuilder;
#[cfg(feature = "tls")]
use redis::{Client, TlsCertificates};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult};

/// What `--store` takes for Redis, for errors.
pub const FORMS: &str = "redis://HOST, rediss://HOST, redis+unix:/PATH, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/NAME";
/// Nodes or Sentinels that one address names; each may be waited for in turn.
const HOSTS_MAX: usize = 32;
const SENTINEL_PORT: u16 = 26_379;

/// Whose certificates are trusted, where the connection is encrypted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Trust {
    /// The system's roots.
    #[default]
    System,
    /// These roots, in PEM.
    Roots(Vec<u8>),
    /// Nothing is verified (`--insecure`).
    Anything,
}

/// Where Redis is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// URLs of one server, or of some nodes of a cluster, or of the primary as if it were each of the
    /// Sentinels: with user, password and database.
    urls: Vec<String>,
    is_secure: bool,
    topology: Topology,
    trust: Trust,
}

/// How the servers of an address work together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Topology {
    Server,
    /// One server on this machine.
    Unix,
    Cluster,
    /// Sentinels that know where the primary of this name is.
    Sentinel(String),
}

impl Address {
    /// Reads one of [`FORMS`]; `rediss+cluster` and `rediss+sentinel` are encrypted, too. `None` if it is none
    /// of these.
    pub fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        if scheme == "redis+unix" {
            return Self::of(vec![text.to_string()], false, Topology::Unix);
        }
        let rest = rest.strip_prefix("//")?;
        let (base, is_secure) = match scheme.split('+').next()? {
            "redis" => ("redis", false),
            "rediss" => ("rediss", true),
            _ => return None,
        };
        // A user and a password, if any, are those of every node.
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), rest),
        };
        let url = |host: &str| format!("{base}://{user}{}", host.trim());
        match scheme.split_once('+').map(|(_, kind)| kind) {
            None => Self::of(vec![url(hosts)], is_secure, Topology::Server),
            Some("cluster") => {
                let hosts: Vec<&str> = hosts.split(',').collect();
                let are_named = hosts.iter().all(|host| !host.trim().is_empty());
                let urls = hosts.into_iter().map(url).collect();
                if are_named { Self::of(urls, is_secure, Topology::Cluster) } else { None }
            }
            Some("sentinel") => {
                let (hosts, rest) = hosts.split_once('/')?;
                let (name, database) = rest.split_once('/').unwrap_or((rest, ""));
                let fits = |byte: u8| byte.is_ascii_graphic() && !b"/?#%,".contains(&byte);
                let hosts: Vec<String> = hosts.split(',').map(with_sentinel_port).collect();
                let are_named = hosts.iter().all(|host| !host.starts_with(':'));
                if name.is_empty() || !name.bytes().all(fits) || !are_named {
                    return None;
                }
                let urls = hosts.iter().map(|host| url(&format!("{host}/{database}"))).collect();
                Self::of(urls, is_secure, Topology::Sentinel(name.to_string()))
            }
            Some(_) => None,
        }
    }

    fn of(urls: Vec<String>, is_secure: bool, topology: Topology) -> Option<Self> {
        let readable = |url: &String| url.as_str().into_connection_info().is_ok();
        let fits = urls.len() <= HOSTS_MAX && urls.iter().all(readable);
        fits.then_some(Self { urls, is_secure, topology, trust: Trust::System })
    }

    /// The same, with these certificates.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Are connections encrypted?
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A cluster's client makes its connections itself, and has to know the roots for it.
    #[cfg(feature = "tls")]
    pub(super) fn equip(&self, builder: ClusterClientBuilder) -> ClusterClientBuilder {
        match self.certificates() {
            Some(certificates) => builder.certs(certificates),
            None => builder,
        }
    }

    /// Without TLS there is nothing to know.
    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "with TLS, it has the roots")]
    pub(super) fn equip(&self, builder: ClusterClientBuilder) -> ClusterClientBuilder {
        builder
    }

    /// The roots; `None` for the system's.
    #[cfg(feature = "tls")]
    fn certificates(&self) -> Option<TlsCertificates> {
        match &self.trust {
            Trust::Roots(pem) if self.is_secure => {
                Some(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) })
            }
            _ => None,
        }
    }

    /// How each server that the address names is connected to.
    pub(super) fn connections(&self) -> RedisResult<Vec<ConnectionInfo>> {
        #[cfg(not(feature = "tls"))]
        let tls = None;
        #[cfg(feature = "tls")]
        let mut tls = None;
        #[cfg(feature = "tls")]
        if let (Some(certificates), Some(first)) = (self.certificates(), self.urls.first()) {
            // They are read once, not at each connection.
            let client = Client::build_with_tls(first.as_str(), certificates)?;
            if let ConnectionAddr::TcpTls { tls_params, .. } = client.get_connection_info().addr() {
                tls.clone_from(tls_params);
            }
        }
        let connection = |url: &String| {
            let info = url.as_str().into_connection_info()?;
            // To say what library this is would be another answer to wait for.
            let settings = info.redis_settings().clone().set_skip_set_lib_name();
            let address = match info.addr().clone() {
                ConnectionAddr::TcpTls { host, port, .. } => ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: self.trust == Trust::Anything,
                    tls_params: tls.clone(),
                },
                plain => plain,
            };
            Ok(info.set_redis_settings(settings).set_addr(address))
        };
        self.urls.iter().map(connection).collect()
    }
}

/// A Sentinel's host and port; the port that Sentinels have, if it is not said.
fn with_sentinel_port(host: &str) -> String {
    let host = host.trim();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port { host.to_string() } else { format!("{host}:{SENTINEL_PORT}") }
}

/// Without user and password. Two that are shown alike are the same place.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |url: &String| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_string()
        };
        let hosts: Vec<String> = self.urls.iter().map(host).collect();
        let base = if self.is_secure { "rediss" } else { "redis" };
        match &self.topology {
            Topology::Server => write!(f, "{base}://{}", hosts.join(",")),
            Topology::Cluster => write!(f, "{base}+cluster://{}", hosts.join(",")),
            Topology::Unix => {
                // User and password are in the query.
                let info = self.urls[0].as_str().into_connection_info();
                let info = info.expect("it was read when the address was made");
                write!(f, "redis+unix:{}", info.addr())?;
                match info.redis_settings().db() {
                    0 => Ok(()),
                    database => write!(f, "?db={database}"),
                }
            }
            Topology::Sentinel(name) => {
                let split = |host: &String| {
                    let (host, database) = host.split_once('/').unwrap_or((host, ""));
                    (host.to_string(), database.to_string())
                };
                let (hosts, databases): (Vec<_>, Vec<_>) = hosts.iter().map(split).unzip();
                write!(f, "{base}+sentinel://{}/{name}", hosts.join(","))?;
                match databases.first().filter(|database| !database.is_empty()) {
                    Some(database) => write!(f, "/{database}"),
                    None => Ok(()),
                }
            }
        }
    }
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
            ("rediss://h:6380", Some("rediss://h:6380")),
            ("redis+cluster://a:1,b:2", Some("redis+cluster://a:1,b:2")),
            ("rediss+cluster://a:1,b:2", Some("rediss+cluster://a:1,b:2")),
            ("redis+cluster://:secret@a:1,b:2", Some("redis+cluster://a:1,b:2")),
            ("redis+unix:/run/r.sock", Some("redis+unix:/run/r.sock")),
            ("redis+unix:///run/r.sock", Some("redis+unix:/run/r.sock")),
            ("redis+unix:/r.sock?db=2&user=u&pass=secret", Some("redis+unix:/r.sock?db=2")),
            ("redis+sentinel://a:1,b:2/main", Some("redis+sentinel://a:1,b:2/main")),
            ("redis+sentinel://a,[::1]/main", Some("redis+sentinel://a:26379,[::1]:26379/main")),
            ("redis+sentinel://u:secret@a:1, b:2/main/3", Some("redis+sentinel://a:1,b:2/main/3")),
            ("rediss+sentinel://:secret@a:1/main", Some("rediss+sentinel://a:1/main")),
            ("redis+cluster://a:1,", None), ("redis://", None), ("http://h", None), ("redis", None),
            ("redis:/path", None), ("redis+unix:", None), ("redis+unix:path", None), ("redis+unix://h/path", None),
            ("redis+unix:/path?db=x", None), ("redis+tcp://h", None), ("redis+sentinel://a:1", None),
            ("redis+sentinel://a:1/", None), ("redis+sentinel://a:1,/main", None), ("redis+sentinel://a:1/main/x", None),
            ("redis+sentinel:///main", None), ("redis+sentinel://a:1/ma in", None), ("redis+sentinel://a:1/main?x", None),
        ];
        for (text, expected) in table {
            // Without TLS in the program, the command line tells of it before an address is read.
            let expected =
                expected.filter(|url| cfg!(feature = "tls") || !url.starts_with("rediss"));
            let read_back = Address::read(text).map(|address| address.to_string());
            assert_eq!(read_back.as_deref(), expected, "{text}");
        }
        let many = |count| format!("redis+cluster://{}", vec!["h:1"; count].join(","));
        assert!(Address::read(&many(HOSTS_MAX)).is_some());
        assert!(Address::read(&many(HOSTS_MAX + 1)).is_none());
    }
}
