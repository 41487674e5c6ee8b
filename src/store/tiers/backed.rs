//! A backing store as the cache uses it: with the queue of changes in front, the writer thread, and the breakers
//! that keep a failing store from costing more than misses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::backing::{Backing, Change, Listed, Recalled};
use crate::store::tiers::breaker::{Breaker, LogLimit};
use crate::store::tiers::overtaken::Moments;
use crate::store::tiers::queue::{Queue, QueueLimits};
use crate::store::tiers::writer::{StoreWriter, WriterSteps};

/// A backing store, and what stands in front of it.
pub(in crate::store) struct Backed {
    pub backing: Arc<dyn Backing>,
    pub queue: Arc<Queue>,
    /// Two breakers: a file on a full disk can still be read, and must be.
    reads: Breaker,
    writes: Arc<Breaker>,
    /// How often lost content is logged.
    pub lost: LogLimit,
    /// The period in which a response's use is handed in once; raised by the writer.
    period: Arc<AtomicU32>,
    /// Each reuse is handed in, because the number of reuses is limited (`--hit-ttl`).
    reports_each_use: bool,
    /// `--cache-ttl`, for what was stored without it.
    pub cache_ttl: Option<Duration>,
    /// Closed when the writer has ended.
    ended: Mutex<Receiver<()>>,
}

/// What has come of a key that was to be asked about together with others.
pub(in crate::store) enum AskedTogether {
    /// The backing store's answer; `None` if it does not answer.
    Answered(Option<Recalled>),
    /// It was not asked about, and is to be asked about by itself.
    Alone,
}

impl Backed {
    /// Before `backing`, with the writer that is to carry out its changes and has not begun to.
    fn new(
        backing: Arc<dyn Backing>,
        limits: QueueLimits,
        reports_each_use: bool,
    ) -> (Self, StoreWriter) {
        let queue = Arc::new(Queue::new(limits));
        let period = Arc::new(AtomicU32::new(1));
        let (end, ended) = sync_channel(1);
        let writes = Breaker::new(backing.name(), "nothing is written to it until it works again");
        let writes = Arc::new(writes);
        let writer = StoreWriter::new(
            Arc::clone(&backing),
            Arc::clone(&queue),
            Arc::clone(&writes),
            Arc::clone(&period),
            end,
        );
        let reads = Breaker::new(backing.name(), "memory alone is used until it works again");
        let (cache_ttl, ended, lost) = (None, Mutex::new(ended), LogLimit::default());
        let backed = Self {
            backing,
            queue,
            reads,
            writes,
            lost,
            period,
            reports_each_use,
            cache_ttl,
            ended,
        };
        (backed, writer)
    }

    /// The same, with a thread that writes. It ends when this is dropped, or closed.
    pub(in crate::store) fn start(
        backing: Arc<dyn Backing>,
        limits: QueueLimits,
        reports_each_use: bool,
    ) -> io::Result<Self> {
        let (backed, writer) = Self::new(backing, limits, reports_each_use);
        writer.start()?;
        Ok(backed)
    }

    /// The same, where a test carries out the changes.
    pub(in crate::store) fn by_hand(
        backing: Arc<dyn Backing>,
        limits: QueueLimits,
        reports_each_use: bool,
    ) -> (Self, WriterSteps) {
        let (backed, writer) = Self::new(backing, limits, reports_each_use);
        (backed, WriterSteps::new(writer))
    }

    /// A response was reused. On the way of every hit: no lock but the queue's, and that only once in a period.
    pub(in crate::store) fn touch(&self, response: &StoredResponse) {
        let place = response.place();
        if self.reports_each_use || place.is_news(self.period.load(Ordering::Relaxed)) {
            let used = Change::Used { place: Arc::clone(place), reuses: response.reuses() };
            if self.reports_each_use {
                self.queue.send(used, None);
            } else {
                self.queue.send_at_leisure(used);
            }
        }
    }

    /// Asks the backing store, unless something says that its answer could not be used; waits.
    ///
    /// Called without a lock. The moment is read before the question, so whatever changes while the backing
    /// store answers makes the moments differ, and keeps the answer out of memory.
    pub(in crate::store) fn ask(
        &self,
        key: &CacheKey,
        claims: bool,
        moments: &Moments,
    ) -> Option<Recalled> {
        let is_ready = || self.backing.is_ready();
        // Asked twice: the wait in between may be as long as the store takes to go down. The breaker comes
        // last, because a question that it lets through as the one attempt must really be asked.
        if !is_ready() || !self.queue.settle(key) || !is_ready() || !self.reads.lets_through() {
            return None;
        }
        let moment = moments.now(key);
        match self.backing.recall(key, claims) {
            Ok(recalled) => {
                self.reads.worked();
                Some(self.usable(key, recalled, moment))
            }
            Err(error) => {
                self.reads.failed(&error);
                None
            }
        }
    }

    /// The same for the first of `keys`, and for as many more as the backing store reads until `until`. What would have
    /// to be waited for by itself is not asked, so that it holds up none of the others.
    pub(in crate::store) fn ask_together(
        &self,
        keys: &[&CacheKey],
        moments: &Moments,
        until: Instant,
    ) -> Vec<AskedTogether> {
        let none = |_| AskedTogether::Answered(None);
        if !self.backing.is_ready() {
            return keys.iter().map(none).collect();
        }
        let settled: Vec<_> = keys.iter().map(|key| self.queue.is_settled(key)).collect();
        let asked: Vec<_> = keys
            .iter()
            .zip(&settled)
            .filter(|(_, settled)| **settled)
            .map(|(key, _)| *key)
            .collect();
        if asked.is_empty() {
            return keys.iter().map(|_| AskedTogether::Alone).collect();
        }
        if !self.reads.lets_through() {
            return keys.iter().map(none).collect();
        }
        // Each before the question, as for one key.
        let moments: Vec<_> = asked.iter().map(|key| moments.now(key)).collect();
        let recalled = match self.backing.recall_together(&asked, until) {
            Ok(recalled) => recalled,
            Err(error) => {
                self.reads.failed(&error);
                return keys.iter().map(none).collect();
            }
        };
        self.reads.worked();
        assert!(!recalled.is_empty(), "the first key is always asked about");
        let usable = asked.iter().zip(recalled).zip(moments);
        let mut usable = usable.map(|((key, recalled), moment)| self.usable(key, recalled, moment));
        // Up to the first one that was not read.
        let answers = settled.into_iter().map_while(|settled| {
            if settled {
                usable.next().map(|it| AskedTogether::Answered(Some(it)))
            } else {
                Some(AskedTogether::Alone)
            }
        });
        answers.collect()
    }

    /// What may be used of an answer that was asked for at `moment`.
    fn usable(&self, key: &CacheKey, mut recalled: Recalled, moment: u64) -> Recalled {
        recalled.stamp.moment = moment;
        recalled.variants.retain(|response| !self.queue.overtaken().has(key, response));
        // A process without `--cache-ttl`, or an earlier one, may have stored it uncapped.
        if let Some(most) = self.cache_ttl {
            for response in &mut recalled.variants {
                *response = Arc::new(response.capped(most));
            }
        }
        recalled
    }

    /// What the backing store has; `None` if it does not answer.
    pub(in crate::store) fn list(&self, after: &str, most: usize) -> Option<Vec<Listed>> {
        // What was stored a moment ago should be on the list.
        self.queue.flush(self.queue.limits().list_wait);
        match self.backing.list(after, most) {
            Ok(mut listed) => {
                if let Some(most) = self.cache_ttl {
                    for listed in &mut listed {
                        listed.head.cap_freshness(most);
                    }
                }
                Some(listed)
            }
            Err(error) => {
                log::info!("{}: {error}; what is in memory is listed", self.backing.name());
                None
            }
        }
    }

    /// Is the backing store left alone, because it has failed?
    pub(in crate::store) fn is_failing(&self) -> bool {
        self.reads.is_open() || self.writes.is_open() || !self.backing.is_ready()
    }

    /// Ends the writer, once it has written what it has; waits no longer than `most`.
    pub(in crate::store) fn close(&self, most: Duration) -> bool {
        self.queue.close();
        // The writer sends nothing here: it drops its end when it has written what there was.
        let ended = self.ended.lock().recv_timeout(most);
        !matches!(ended, Err(RecvTimeoutError::Timeout))
    }
}

/// The writer thread holds the queue, not this: without a word it would wait for changes for ever.
impl Drop for Backed {
    fn drop(&mut self) {
        self.queue.close();
    }
}
