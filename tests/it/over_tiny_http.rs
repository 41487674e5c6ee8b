//! The tests of the real binary once more, over the plain front.
#![allow(clippy::duplicate_mod, reason = "each of them has its own copy of what supports it")]

#[path = "support/mod.rs"]
mod support;

#[path = "caching.rs"]
mod caching;
#[cfg(feature = "tls")]
#[path = "certificates.rs"]
mod certificates;
#[path = "collapsed.rs"]
mod collapsed;
#[path = "credentials.rs"]
mod credentials;
#[cfg(feature = "sqlite")]
#[path = "disk_readers.rs"]
mod disk_readers;
#[path = "ending.rs"]
mod ending;
#[path = "forwarded.rs"]
mod forwarded;
#[path = "forwarding.rs"]
mod forwarding;
#[path = "framing.rs"]
mod framing;
#[path = "gate.rs"]
mod gate;
#[path = "hostile.rs"]
mod hostile;
#[path = "invalidated.rs"]
mod invalidated;
#[path = "isolation.rs"]
mod isolation;
#[path = "keys.rs"]
mod keys;
#[path = "modes.rs"]
mod modes;
#[path = "next_hop.rs"]
mod next_hop;
#[path = "odd_origins.rs"]
mod odd_origins;
#[cfg(all(feature = "redis", feature = "sqlite"))]
#[path = "origin_credentials.rs"]
mod origin_credentials;
#[path = "origin_trouble.rs"]
mod origin_trouble;
#[path = "plain_pool.rs"]
mod plain_pool;
#[cfg(all(feature = "redis", feature = "sqlite"))]
#[path = "secrets.rs"]
mod secrets;
#[path = "spelling.rs"]
mod spelling;
#[path = "upgrade.rs"]
mod upgrade;
#[path = "ways_out.rs"]
mod ways_out;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod without_tls;
