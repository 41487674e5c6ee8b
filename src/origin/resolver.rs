//! Names of origin servers and their addresses, remembered for half a minute.
//!
//! A name is looked up by one thread at a time, however many requests need it, and no request waits
//! longer than its own limit: the system's resolver cannot be interrupted, so it runs on a thread of
//! its own. When a look-up fails, the addresses that were good last are used. When none of a name's
//! addresses can be connected to, the name is looked up again: it may have moved.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// For how long an answer is used before the name is looked up again.
const REMEMBERED: Duration = Duration::from_secs(30);
/// For how long a failure is taken for an answer.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(1);
/// The most names remembered; redirects can lead to many.
const NAMES_MAX: usize = 256;

/// Looks a name up: the system's resolver, or a test's.
pub(crate) type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A cache of names and their addresses, shared by its clones.
#[derive(Clone)]
pub struct Names {
    cache: Arc<NameCache>,
}

struct NameCache {
    look_up: Box<LookUp>,
    names: Mutex<HashMap<(String, u16), ResolvedName>>,
    changed: Condvar,
}

/// Guarded by [`NameCache::names`].
#[derive(Default)]
struct ResolvedName {
    /// The addresses that were found last; a failure does not remove them.
    addresses: Vec<SocketAddr>,
    /// Until when no new look-up is made.
    valid_until: Option<Instant>,
    /// A thread is looking it up.
    is_looked_up: bool,
    /// Until when addresses that do not connect cause no other look-up.
    no_renewal_until: Option<Instant>,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

impl Names {
    /// A cache that looks names up by `look_up`.
    pub fn new(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let names = Mutex::new(HashMap::new());
        let cache = NameCache { look_up: Box::new(look_up), names, changed: Condvar::new() };
        Self { cache: Arc::new(cache) }
    }

    /// The addresses of a host, within `limit`; empty if it has none, or none were found in time.
    pub(crate) fn addresses(&self, host: &str, port: u16, limit: Duration) -> Vec<SocketAddr> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // An address is no name: `--origin http://127.0.0.1` works on a machine without a resolver.
        if let Ok(address) = bare.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, port)];
        }
        let deadline = Instant::now() + limit;
        let key = (bare.to_string(), port);
        let mut names = self.cache.names.lock();
        if names.len() >= NAMES_MAX && !names.contains_key(&key) {
            // A name under way is kept: its thread will look for it, and others wait for it.
            names.retain(|_, name| name.is_looked_up);
        }
        loop {
            let name = names.entry(key.clone()).or_default();
            // Asked again after each wake-up: the condition variable is for all names.
            if name.valid_until.is_some_and(|until| until > Instant::now()) {
                return name.addresses.clone();
            }
            if !name.is_looked_up {
                // Under the lock, so that only one thread is started. If there is none to be had, the
                // next request tries again.
                name.is_looked_up = self.begin(key.clone());
            }
            let waited = self.cache.changed.wait_until(&mut names, deadline);
            if waited.timed_out() {
                // Old addresses are better than none: DNS fails more often than servers move.
                let last_good = names.get(&key).map(|name| name.addresses.clone());
                return last_good.unwrap_or_default();
            }
        }
    }

    /// Has a host none of whose addresses can be connected to moved meanwhile? It is looked up again,
    /// at most once a second, within `limit`.
    pub(crate) fn has_moved(&self, host: &str, port: u16, limit: Duration) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut names = self.cache.names.lock();
        let Some(name) = names.get_mut(&(bare.to_string(), port)) else { return false };
        let now = Instant::now();
        // An origin server that is down would be looked up for every request otherwise.
        if name.no_renewal_until.is_some_and(|until| until > now) {
            return false;
        }
        name.no_renewal_until = Some(now + FAILURE_REMEMBERED);
        name.valid_until = None;
        let mut before = name.addresses.clone();
        // `addresses` takes the lock itself.
        drop(names);
        let mut after = self.addresses(host, port, limit);
        before.sort_unstable();
        // The order of addresses changes with each look-up.
        after.sort_unstable();
        before != after
    }

    /// Looks a name up on a thread of its own; `false` if there is no thread to be had. Called with the
    /// lock, which the thread takes only when it has an answer.
    fn begin(&self, key: (String, u16)) -> bool {
        let cache = Arc::clone(&self.cache);
        let work = move || {
            // Without the lock: this may take the system's resolver half a minute.
            let found = (cache.look_up)(&key.0, key.1).unwrap_or_default();
            let mut names = cache.names.lock();
            let name = names.entry(key).or_default();
            assert!(name.is_looked_up, "one thread looks a name up, and it is kept until then");
            name.is_looked_up = false;
            // A failure is remembered for a second: long enough that a burst of requests causes one
            // look-up.
            let lasts = if found.is_empty() { FAILURE_REMEMBERED } else { REMEMBERED };
            name.valid_until = Some(Instant::now() + lasts);
            if !found.is_empty() {
                name.addresses = found;
            }
            drop(names);
            cache.changed.notify_all();
        };
        std::thread::Builder::new().name("resolver".to_string()).spawn(work).is_ok()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_name_is_looked_up_once_and_remembered() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = Names::new(move |_, port| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        for _ in 0..3 {
            let expected = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
            assert_eq!(names.addresses("a.test", 80, LIMIT), expected);
        }
        assert_eq!(names.addresses("[::1]", 80, LIMIT), ["[::1]:80".parse().expect("an address")]);
        assert_eq!(count.load(Ordering::Relaxed), 1, "an address needs no look-up");
    }

    #[test]
    fn the_last_good_addresses_outlive_a_failure() {
        let count = AtomicUsize::new(0);
        let names = Names::new(move |_, port| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
            _ => Err(io::Error::other("no such name")),
        });
        let first = names.addresses("a.test", 80, LIMIT);
        let key = ("a.test".to_string(), 80);
        names.cache.names.lock().get_mut(&key).expect("it is remembered").valid_until = None;
        assert_eq!(names.addresses("a.test", 80, LIMIT), first);
    }

    #[test]
    fn a_name_whose_addresses_do_not_connect_is_looked_up_again_once_a_second() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = Names::new(move |host, port| {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let address = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
            match host {
                "moves" => Ok(vec![address(number as u8 + 1)]),
                "turns" if number % 2 == 1 => Ok(vec![address(2), address(1)]),
                "dies" if number > 0 => Err(io::Error::other("no such name")),
                _ => Ok(vec![address(1), address(2)]),
            }
        });
        for (host, expected) in [("moves", true), ("turns", false), ("dies", false)] {
            count.store(0, Ordering::Relaxed);
            assert!(!names.has_moved(host, 80, LIMIT), "{host}: nobody has asked for it");
            let before = names.addresses(host, 80, LIMIT);
            assert_eq!(names.has_moved(host, 80, LIMIT), expected, "{host}");
            assert_eq!(names.addresses(host, 80, LIMIT) != before, host != "dies", "{host}");
            assert!(!names.has_moved(host, 80, LIMIT), "{host}: it has just been looked up");
            assert_eq!(count.load(Ordering::Relaxed), 2, "{host}");
        }
    }

    #[test]
    fn a_resolver_that_hangs_holds_nobody_beyond_the_limit() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(held);
        let names = Names::new(move |_, _| {
            held.lock().recv().ok();
            Ok(Vec::new())
        });
        assert!(names.addresses("a.test", 80, Duration::from_millis(1)).is_empty());
        drop(release);
    }

    #[test]
    fn the_memory_of_names_is_bounded() {
        let names = Names::new(|_, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
        for number in 0..=NAMES_MAX {
            names.addresses(&format!("host{number}.test"), 80, LIMIT);
        }
        assert!(names.cache.names.lock().len() <= NAMES_MAX);
    }
}
