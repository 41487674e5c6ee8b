//! What the proxies that share a store tell each other, and whether Redis can be reached at all: one thread
//! listens, and notices when there is nothing to listen to.
//!
//! While the connection is lost, something may be missed: then memory is emptied once Redis is there
//! again, which still has what is worth having. A Redis that has lost everything itself has nothing that
//! memory could have missed.
//!
//! The thread holds no lock while it listens or asks. It keeps the store alive only for one step at a time, so
//! that it ends when the store is dropped.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, PubSub, cmd};

use crate::policy::key::CacheKey;
use crate::store::backing::BackingError;
use crate::store::redis::link::backing_error;
use crate::store::redis::purges::read_purge;
use crate::store::redis::shared::RedisShared;
use crate::store::redis::values;
use crate::store::tiers::breaker::Breaker;
use crate::vital;

/// How often it is found out whether this proxy's own news still come back, and whether changes were made that
/// no news told of. With [`ANSWER_MAX`](super::ANSWER_MAX) and [`TURN`] this is a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// The longest time that the thread does nothing but listen.
const TURN: Duration = Duration::from_millis(100);
/// Where news of others come all the while, this proxy's own may take longer to be read.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// The field of the state that counts changes that no news told of.
const UNHEARD: &str = "unheard";
/// The first attempt has six steps that each may take as long as an answer: two connections (one to listen, one
/// to ask), then to subscribe, to hear an own message, to read the count of unheard changes, and to read the
/// state.
const FIRST_STEPS: u32 = 6;
/// Between two attempts to connect.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Begins to listen; waits for the first attempt, so that a proxy that has started uses Redis at once if it
/// is there.
pub(super) fn start(shared: &Arc<RedisShared>) -> Result<(), BackingError> {
    let name = format!("store {}", shared.address);
    let breaker = Breaker::new(name, "memory alone is used until it works again");
    let (tried, has_tried) = sync_channel(1);
    let listener = Listener {
        shared: Arc::downgrade(shared),
        breaker,
        tried: Some(tried),
        has_listened: false,
        lost: None,
    };
    let listen = move || {
        listener.run();
        Ok(())
    };
    vital::spawn("store-news", listen)
        .map_err(|error| BackingError(format!("a thread: {error}")))?;
    // Whether it has worked or not; on a busy machine each step may take as long as it may.
    let _ = has_tried.recv_timeout(shared.limits.answer_max * FIRST_STEPS);
    Ok(())
}

struct Listener {
    shared: Weak<RedisShared>,
    breaker: Breaker,
    /// Dropped after the first attempt, whatever its outcome: the start waits for that.
    tried: Option<SyncSender<()>>,
    /// Redis has been heard of since the last attempt to connect.
    has_listened: bool,
    /// Why it is not heard of any more, until the next attempt has shown more: a server that takes a right
    /// away closes the connection without a word.
    lost: Option<BackingError>,
}

impl Listener {
    /// Connects and listens, again and again, until the store is not used any more.
    fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        for attempt in 0.. {
            let Some(shared) = self.shared.upgrade() else { return };
            let connection = shared.links.dedicated(attempt);
            // Not held while the thread listens: the last other copy may be dropped meanwhile, and this one
            // would keep the store from ending.
            drop(shared);
            let lost = match connection {
                Ok(connection) => {
                    let begun = Instant::now();
                    let lost = self.listen(connection);
                    if begun.elapsed() > PAUSE_MAX {
                        pause = PAUSE_FIRST;
                    }
                    lost
                }
                Err(error) => Some(backing_error(&error)),
            };
            let Some((shared, lost)) = self.shared.upgrade().zip(lost) else { return };
            // Before the pause: without news, what Redis has may be outdated in memory, and is not used.
            shared.links.set_up(false);
            drop(shared);
            // A connection that has worked is often lost without a reason; the next attempt finds one. Only if
            // that fails, too, is it worth a line.
            if std::mem::take(&mut self.has_listened) {
                self.lost = Some(lost);
            } else {
                self.breaker.failed(&match self.lost.take() {
                    Some(before) => BackingError(format!("{before}, then {lost}")),
                    None => lost,
                });
            }
            self.tried = None;
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Listens until the connection is lost, and gives the reason; `None` if the store has been dropped.
    fn listen(&mut self, mut connection: Connection) -> Option<BackingError> {
        let channel = self.shared.upgrade()?.channel();
        let lost = |error: redis::RedisError| Some(backing_error(&error));
        let mut pubsub = connection.as_pubsub();
        if let Err(error) = pubsub.subscribe(&channel) {
            return lost(error);
        }
        if let Err(error) = self.await_own_message(&mut pubsub) {
            return Some(error);
        }
        // What happens from now on is heard; what happened before may have been missed. In this order: the count
        // is read after the subscription works, so a change is heard of or counted, or both.
        let shared = self.shared.upgrade()?;
        let unheard = match shared.unheard() {
            Ok(unheard) => unheard,
            Err(error) => return Some(error),
        };
        match shared.compare_generations() {
            Ok(RedisFound::HasLostAll) => {}
            // The first attempt: memory is empty, so nothing in it can be outdated.
            Ok(RedisFound::StillThere) if self.tried.is_some() => {}
            Ok(RedisFound::StillThere) => {
                shared.has_missed();
            }
            Err(error) => return Some(error),
        }
        // Memory is emptied before Redis is used: a lookup in between would find what others have removed.
        shared.links.set_up(true);
        self.has_listened = true;
        if let Some(lost) = self.lost.take() {
            self.breaker.failed(&lost);
        }
        self.breaker.worked();
        self.tried = None;
        drop(shared);
        if let Err(error) = pubsub.set_read_timeout(Some(TURN)) {
            return lost(error);
        }
        self.follow(&mut pubsub, unheard)
    }

    /// Waits for a message of this proxy's own. A server tells neither a user who may not publish nor one who
    /// may not subscribe that no news will come (new users may not, by default, since Redis 7). Without news,
    /// Redis is not used.
    fn await_own_message(&self, pubsub: &mut PubSub<'_>) -> Result<(), BackingError> {
        let shared = self.shared.upgrade().ok_or_else(|| BackingError("not used".to_string()))?;
        let own = shared.publish_own()?;
        let without_news = |error: &redis::RedisError| shared.without_news(&error.to_string());
        let answer_max = shared.limits.answer_max;
        let deadline = Instant::now() + answer_max;
        pubsub.set_read_timeout(Some(answer_max)).map_err(|error| without_news(&error))?;
        while Instant::now() < deadline {
            let message = pubsub.get_message().map_err(|error| without_news(&error))?;
            if message.get_payload_bytes() == own {
                return Ok(());
            }
            shared.hear(message.get_payload_bytes());
        }
        Err(shared.without_news("too late"))
    }

    /// Hears of what others do, until the connection is lost, or no news come over it any more: a server may
    /// take the right to a channel away while a proxy runs, or forget who listens.
    fn follow(&self, pubsub: &mut PubSub<'_>, mut unheard: u64) -> Option<BackingError> {
        let mut looked = Instant::now();
        // This proxy's own message that has not come back yet, sent at the last look. A PING would be answered
        // over a connection whose subscription the server has dropped.
        let mut own: Option<Vec<u8>> = None;
        let answer_max = self.shared.upgrade()?.limits.answer_max;
        loop {
            if own.is_none() && looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                let shared = self.shared.upgrade()?;
                match shared.check(&mut unheard).and_then(|()| shared.publish_own()) {
                    Ok(said) => own = Some(said),
                    Err(error) => return Some(error),
                }
            }
            let is_quiet = match pubsub.get_message() {
                Ok(message) if own.as_deref() == Some(message.get_payload_bytes()) => {
                    own = None;
                    false
                }
                Ok(message) => {
                    self.shared.upgrade()?.hear(message.get_payload_bytes());
                    false
                }
                Err(error) if error.is_timeout() => true,
                Err(error) => return Some(backing_error(&error)),
            };
            let patience = if is_quiet { answer_max } else { BUSY_MAX.max(answer_max) };
            if own.is_some() && looked.elapsed() >= patience {
                return Some(
                    self.shared.upgrade()?.without_news("our own message did not come back"),
                );
            }
        }
    }
}

/// What is found behind a connection.
enum RedisFound {
    /// Redis has what it had.
    StillThere,
    /// It has lost everything, or has never had anything.
    HasLostAll,
}

impl RedisShared {
    /// Sends a message to ourselves; what it is.
    fn publish_own(&self) -> Result<Vec<u8>, BackingError> {
        let own = format!("{} h {}", self.id, self.new_number()).into_bytes();
        let publish = cmd("PUBLISH").arg(self.channel()).arg(&own).clone();
        self.links.with(|link| link.one(&publish)).map_err(|error| self.without_news(&error.0))?;
        Ok(own)
    }

    fn without_news(&self, error: &str) -> BackingError {
        let channel = self.channel();
        BackingError(format!(
            "{error}: no news on channel {channel}; may the user publish and subscribe there?"
        ))
    }

    /// Is Redis still what it was? Empties memory if changes were made that no news told of.
    fn check(&self, unheard: &mut u64) -> Result<(), BackingError> {
        // A worker may have found it dead, or a replica.
        if !self.links.is_up() {
            return Err(BackingError("a request was not answered".to_string()));
        }
        self.links.still_leads()?;
        let now = self.unheard()?;
        if now != *unheard {
            *unheard = now;
            self.has_missed();
        }
        Ok(())
    }

    /// How often a proxy has done something that it could not tell the others.
    fn unheard(&self) -> Result<u64, BackingError> {
        let get = cmd("HGET").arg(self.state_key()).arg(UNHEARD).clone();
        self.links.with(|link| link.one(&get)).map(|count| values::number(&count))
    }

    /// Changes have failed, perhaps halfway: carried out, but not told. The other proxies find the count raised.
    pub(super) fn count_unheard(&self) {
        if self.links.is_up() {
            let raise = cmd("HINCRBY").arg(self.state_key()).arg(UNHEARD).arg(1).clone();
            // An error here: where nothing can be written, nothing was.
            let _ = self.links.with(|link| link.one(&raise));
        }
    }

    /// Something may have been missed: nothing is kept that may be outdated by it.
    fn has_missed(&self) {
        let invalidations = self.invalidations.lock().clone();
        if let Some(invalidations) = invalidations {
            invalidations.missed();
        }
    }

    /// Learns what has been cleared and purged, and sees to it that a Redis that was emptied does not
    /// come back to an old generation.
    fn compare_generations(&self) -> Result<RedisFound, BackingError> {
        let known = self.state().generation;
        self.links.with(|link| {
            // The generation that this process knows is the only witness of a Redis that was emptied.
            let mut answer = link.one(&self.read_state())?;
            let before = values::two_numbers(&answer).0;
            // One of a backup, say: it has not heard of what was cleared since.
            if before > 0 && before < known {
                self.renew_generation(link, &answer)?;
                answer = link.one(&self.read_state())?;
            }
            self.update_state(link, &answer)?;
            let has_lost_all = before == 0 || before < known;
            Ok(if has_lost_all { RedisFound::HasLostAll } else { RedisFound::StillThere })
        })
    }
}

impl RedisShared {
    /// Does to memory what another proxy has done to the store. Takes the locks of memory (`tiers/memory.rs`), one
    /// message at a time; none of this store's is held meanwhile.
    fn hear(&self, message: &[u8]) {
        let mut words = message.splitn(3, |byte| *byte == b' ');
        let (Some(who), Some(what), Some(rest)) = (words.next(), words.next(), words.next()) else {
            return;
        };
        let is_own = who == self.id.as_bytes();
        // A copy, so that the lock is not held while memory's are taken.
        let invalidations = self.invalidations.lock().clone();
        match what {
            b"k" => {
                let rest = String::from_utf8_lossy(rest);
                let Some((number, key)) = rest.split_once(' ') else { return };
                let number = number.parse().ok().filter(|number| *number > 0);
                let key = CacheKey::from(key);
                if let Some(invalidations) = invalidations.filter(|_| !is_own) {
                    invalidations.changed(&key, number);
                }
                // Also after own news: a worker of this proxy may wait for what another of its workers has
                // stored. And after memory was changed: a worker that is woken looks there first.
                self.waits.end(&key);
            }
            b"p" if !is_own => {
                if let Some(invalidations) = invalidations {
                    let (selector, at) = read_purge(rest);
                    invalidations.purged(&selector, at);
                }
            }
            _ => {}
        }
    }
}
