//! The addresses of names, by calls that never wait: they are known, or they are looked up on another
//! thread and whoever has asked is woken.
//!
//! One lock guards all that is remembered. It is held for a look and a note, and never while a name is
//! looked up or an asker is woken.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use crate::origin::resolver::memory::{self, NameKey, NameMemory, RenewalStep, WakeAsker};

/// The most threads that look names up. A name server that is silent holds one for up to half a minute: the
/// origin servers of one proxy are few, and the names that redirects lead to must neither keep all threads
/// from them nor take one each. What is beyond waits, in the order in which it was asked for.
pub(super) const RESOLVERS_MAX: usize = 8;

/// Looks a name up: the system's resolver, or a test's.
type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A cache of names and their addresses, shared by its clones.
#[derive(Clone)]
pub struct Names {
    shared: Arc<SharedNames>,
}

struct SharedNames {
    look_up: Box<LookUp>,
    memory: Mutex<NameMemory>,
}

/// The answer to one who asks for the addresses of a name.
#[derive(Debug)]
pub enum NameAnswer {
    /// These are its addresses; none if it has none.
    Known(Vec<SocketAddr>),
    /// It is being looked up.
    Asked(AskedName),
}

/// The answer to one who has tried all addresses of a name.
#[derive(Debug)]
pub enum Renewal {
    /// It has no others.
    Unchanged,
    /// It has these now.
    Moved(Vec<SocketAddr>),
    /// It is being looked up again.
    Asked(RenewedName),
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
        let shared = SharedNames { look_up: Box::new(look_up), memory: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The addresses of a host, if they are known.
    ///
    /// If not, they are looked up, and `wake` is called once that has ended: from any thread, once. It must
    /// neither wait nor panic. Nothing calls it after the [`AskedName`] has been dropped, but for a call that is under way.
    /// Each asker has one waker here, so whoever bounds the askers bounds these; how long to wait is theirs
    /// to decide, too.
    pub fn ask(&self, host: &str, port: u16, wake: impl FnOnce() + Send + 'static) -> NameAnswer {
        let key = match key(host, port) {
            Ok(key) => key,
            Err(address) => return NameAnswer::Known(vec![address]),
        };
        let mut memory = self.shared.memory.lock();
        if let Some(addresses) = memory.valid(&key, Instant::now()) {
            return NameAnswer::Known(addresses);
        }
        match self.begin(&mut memory, key, Box::new(wake)) {
            Ok(asked) => NameAnswer::Asked(asked),
            Err(last_good) => NameAnswer::Known(last_good),
        }
    }

    /// Has a host moved, none of whose addresses in `tried` can be connected to? It is looked up again, at most
    /// once a second. `wake` is called as [`Names::ask`] does.
    pub fn renew(
        &self,
        host: &str,
        port: u16,
        tried: &[SocketAddr],
        wake: impl FnOnce() + Send + 'static,
    ) -> Renewal {
        // An address does not move.
        let Ok(key) = key(host, port) else { return Renewal::Unchanged };
        let mut memory = self.shared.memory.lock();
        match memory.renew(&key, tried, Instant::now()) {
            RenewalStep::Nothing => Renewal::Unchanged,
            RenewalStep::Moved(addresses) => Renewal::Moved(addresses),
            RenewalStep::LookUp => match self.begin(&mut memory, key, Box::new(wake)) {
                Ok(asked) => Renewal::Asked(RenewedName { asked, tried: tried.to_vec() }),
                Err(_) => Renewal::Unchanged,
            },
        }
    }

    /// The addresses of a host that were found last, however old; none if there are none yet. Old addresses are
    /// better than none, for one who has waited long enough: DNS fails more often than servers move.
    pub fn last_good(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        match key(host, port) {
            Ok(key) => self.shared.memory.lock().last_good(&key),
            Err(address) => vec![address],
        }
    }

    /// Sees to it that a name is looked up. If there is no thread to be had, the error is what was known last;
    /// the next request tries again.
    fn begin(
        &self,
        memory: &mut NameMemory,
        key: NameKey,
        wake: WakeAsker,
    ) -> Result<AskedName, Vec<SocketAddr>> {
        if memory.enqueue(&key) && memory.resolvers < RESOLVERS_MAX {
            let shared = Arc::clone(&self.shared);
            // Under the lock, which the thread takes first: it finds the name, and is counted by then.
            let started = thread::Builder::new().name("resolver".to_string());
            if started.spawn(move || shared.look_names_up()).is_ok() {
                memory.resolvers += 1;
            }
        }
        // Without a thread of its own the name waits for those that there are.
        if memory.resolvers == 0 {
            memory.dequeue(&key);
            return Err(memory.last_good(&key));
        }
        let number = memory.add_asker(&key, wake);
        Ok(AskedName { shared: Arc::clone(&self.shared), key, number, has_ended: false })
    }

    /// What is remembered.
    #[cfg(test)]
    pub(super) fn memory(&self) -> parking_lot::MutexGuard<'_, NameMemory> {
        self.shared.memory.lock()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl SharedNames {
    /// The work of one thread: looks names up until none waits.
    fn look_names_up(&self) {
        loop {
            let Some(key) = self.memory.lock().next_to_look_up() else { return };
            // Without the lock: this may take the system's resolver half a minute. A panic is a failure: the
            // thread goes on, or the name would be under way for ever.
            let found = catch_unwind(AssertUnwindSafe(|| (self.look_up)(&key.0, key.1)));
            let found = found.unwrap_or_else(|_| Err(io::Error::other("a panic")));
            let found = found.unwrap_or_else(|error| {
                log::debug!("{}: no address: {error}", key.0);
                Vec::new()
            });
            let woken = self.memory.lock().note(&key, found, Instant::now());
            // Without the lock: who is woken may come here at once.
            for wake in woken {
                wake();
            }
        }
    }
}

/// A name that has been asked for. Dropped, it takes the question back.
pub struct AskedName {
    shared: Arc<SharedNames>,
    key: NameKey,
    number: u64,
    /// Nothing of it is left in the memory.
    has_ended: bool,
}

impl AskedName {
    /// Asks again: when it was woken, or at any other time.
    pub fn poll(mut self) -> NameAnswer {
        let answer = self.shared.memory.lock().poll(&self.key, self.number);
        match answer {
            Some(addresses) => {
                self.has_ended = true;
                NameAnswer::Known(addresses)
            }
            None => NameAnswer::Asked(self),
        }
    }
}

impl Drop for AskedName {
    fn drop(&mut self) {
        if !self.has_ended {
            // Without the lock: what the waker owns is not known here.
            let _wake = self.shared.memory.lock().withdraw(&self.key, self.number);
        }
    }
}

impl fmt::Debug for AskedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AskedName").field(&self.key).finish()
    }
}

/// A name that has been asked for once more, because none of its addresses connects. Dropped, it takes the
/// question back.
#[derive(Debug)]
pub struct RenewedName {
    asked: AskedName,
    tried: Vec<SocketAddr>,
}

impl RenewedName {
    /// Asks again: when it was woken, or at any other time.
    pub fn poll(self) -> Renewal {
        let Self { asked, tried } = self;
        match asked.poll() {
            NameAnswer::Asked(asked) => Renewal::Asked(Self { asked, tried }),
            NameAnswer::Known(addresses) if memory::has_moved(&tried, &addresses) => {
                Renewal::Moved(addresses)
            }
            NameAnswer::Known(_) => Renewal::Unchanged,
        }
    }
}

/// By what a host is remembered; the error is its address if it is one, which is no name: `--origin
/// http://127.0.0.1` works on a machine without a resolver.
fn key(host: &str, port: u16) -> Result<NameKey, SocketAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => Err(SocketAddr::new(address, port)),
        Err(_) => Ok((bare.to_string(), port)),
    }
}
