//! What the engine asks of the backing store: recalling, promoting, and content that goes past memory.
//!
//! Called by workers. No lock is held while the backing store is asked; what changed meanwhile is found out
//! under the key's lock by comparing moments (`overtaken.rs`).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use crate::message::buffer::Buffer;
use crate::message::content::Content;
use crate::policy::key::CacheKey;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{BackingError, BackingUsage, CHUNK_BYTES, Change, Fetcher, Recalled};
use crate::store::outcome::Put;
use crate::store::second_tier::SecondTier;
use crate::store::tiers::Tiers;
use crate::store::tiers::spool::Spool;
use crate::store::underway::Begun;
use crate::store::{Store, Variants};

/// The longest wait for the response that another proxy fetches.
const OTHERS_MAX: Duration = Duration::from_secs(3);

impl SecondTier for Tiers {
    fn recall(&self, key: &CacheKey, claims: bool) -> Option<Recalled> {
        self.recall_for(&mut self.begin(key), key, claims)
    }

    fn recall_for(&self, begun: &mut Begun, key: &CacheKey, claims: bool) -> Option<Recalled> {
        let recalled = self.ask(key, claims)?;
        if recalled.fetcher != Fetcher::Another {
            return Some(recalled);
        }
        self.backing.wait(key, OTHERS_MAX);
        // News of the other proxy's response has marked this fetch as invalidated. Without a new beginning
        // the response that was waited for could not be promoted.
        *begun = begun.anew();
        // Whatever is found now is used without a claim: a second wait would double the bound.
        self.ask(key, false)
    }

    fn promote(
        &self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> io::Result<Arc<StoredResponse>> {
        let Content::Distant(distant) = &response.content else {
            return Ok(self.install(key, Arc::clone(response), begun));
        };
        let length = distant.length();
        let mut reservation = self.first.memory.reserve();
        // The client is sent this content straight from the backing store. A piece that is found missing
        // after the head has gone out could only cut the response short, for every client until it expires.
        let leave_there = || {
            let whole = distant.is_whole()?.then(|| Arc::clone(response));
            whole.ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        if length > self.first.memory.content_bytes_max() || !reservation.grow(length) {
            return leave_there();
        }
        let Some(mut buffer) = Buffer::with_capacity(length as usize) else {
            return leave_there();
        };
        let mut piece = vec![0; CHUNK_BYTES.min(length as usize)];
        while (buffer.len() as u64) < length {
            let most = piece.len().min(length as usize - buffer.len());
            let count = distant.read_at(buffer.len() as u64, &mut piece[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.extend(&piece[..count]);
        }
        debug_assert_eq!(buffer.len() as u64, length, "no piece reaches beyond the length");
        let (head, place) = (response.head().clone(), response.place().number().unwrap_or(0));
        let fetched = StoredResponse::new(head, buffer.into_bytes());
        // The number goes along: by it, `is_twin` knows the two to be one response.
        let fetched = Arc::new(fetched.found_at(place, response.reuses()));
        Ok(self.install(key, fetched, begun))
    }

    fn drop_lost(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        if let Some(more) = self.lost.due() {
            let (store, key) = (self.backing.name(), key.redacted());
            log::info!("{store}: {key}: its content is damaged or gone; it is dropped{more}");
        }
        self.remove(key, response);
    }

    fn spool(&self, key: CacheKey, length: Option<u64>) -> Spool {
        Spool::new(&self.queue, key, length)
    }

    fn commit(&self, mut spool: Spool, head: StoredHead, begun: &Begun) -> Put {
        // The last piece may wait seconds for space in the queue. That is done before the locks are taken:
        // under them, every other change of the key, and every purge, would wait with it.
        if !spool.flush() {
            return Put::TooLarge;
        }
        let key = spool.spooled().key().clone();
        let purging = self.first.purging.read();
        let changing = self.first.change(&key);
        // Under both locks: an invalidation has marked `begun` by now, or stands after this change in the
        // queue.
        let stamp = begun.admits(&head).then(|| begun.backing());
        let sent = spool.send_whole(head, stamp);
        drop((purging, changing));
        let put = spool.settle(&sent);
        if put == Put::Stored {
            self.forget_in_memory(&key);
        }
        put
    }

    fn name(&self) -> String {
        self.backing.name()
    }

    fn memory_content_bytes_max(&self) -> u64 {
        self.first.memory.content_bytes_max()
    }

    fn backing_usage(&self) -> Option<BackingUsage> {
        self.backing.usage().ok()
    }

    fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    fn trouble(&self) -> Option<BackingError> {
        self.backing.trouble()
    }

    fn is_ready(&self) -> bool {
        self.backing.is_ready()
    }

    fn is_failing(&self) -> bool {
        self.reads.is_open() || self.writes.is_open() || !self.backing.is_ready()
    }

    fn flush(&self, most: Duration) -> bool {
        self.queue.flush(most)
    }

    fn close(&self, most: Duration) -> bool {
        self.queue.close();
        // The writer thread sends nothing here: it drops its end when it has written what there was.
        let ended = self.ended.lock().recv_timeout(most);
        !matches!(ended, Err(RecvTimeoutError::Timeout))
    }

    fn release(&self, key: CacheKey) {
        self.queue.send(Change::Release { key }, None);
    }
}

impl Tiers {
    /// Asks the backing store, unless something says that its answer could not be used.
    ///
    /// Called without a lock. The moment is read before the question, so whatever changes while the backing
    /// store answers makes the moments differ, and [`Tiers::install`] keeps the answer out of memory.
    fn ask(&self, key: &CacheKey, claims: bool) -> Option<Recalled> {
        let is_ready = || self.backing.is_ready();
        // Asked twice: the wait in between may be as long as the store takes to go down. The breaker comes
        // last, because a question that it lets through as the one attempt must really be asked.
        if !is_ready() || !self.queue.settle(key) || !is_ready() || !self.reads.lets_through() {
            return None;
        }
        let moment = self.first.moments.now(key);
        match self.backing.recall(key, claims) {
            Ok(mut recalled) => {
                self.reads.worked();
                recalled.stamp.moment = moment;
                recalled.variants.retain(|response| !self.queue.overtaken().has(key, response));
                // A process without `--cache-ttl`, or an earlier one, may have stored it uncapped.
                if let Some(most) = self.cache_ttl {
                    for response in &mut recalled.variants {
                        *response = Arc::new(response.capped(most));
                    }
                }
                Some(recalled)
            }
            Err(error) => {
                self.reads.failed(&error);
                None
            }
        }
    }

    /// Puts a recalled response into memory, unless there is a newer one; gives the one to use.
    ///
    /// Takes the key's lock, and not the one of purges: the mark of a purge keeps the response out.
    fn install(
        &self,
        key: &CacheKey,
        fetched: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Arc<StoredResponse> {
        let _changing = self.first.stripe(key).lock();
        let newer = |other: &&Arc<StoredResponse>| {
            other.selecting == fetched.selecting
                && other.part == fetched.part
                && other.response_time >= fetched.response_time
        };
        let present: Option<Variants> = self.first.memory.get(key.as_str());
        if let Some(newer) = present.iter().flat_map(|variants| variants.iter()).find(newer) {
            return Arc::clone(newer);
        }
        // Since it was found it may have been removed or replaced, and what has replaced it evicted: memory
        // alone cannot tell, the count of changes can. This request may still use it, since it was stored
        // when the request asked.
        if begun.backing().moment == self.first.moments.now(key) {
            self.first.memory.put(key, Arc::clone(&fetched), begun);
        }
        fetched
    }

    /// Something for `key` was stored in the backing store alone: what memory has from before is outdated.
    /// It goes without a mark, which would rule out the fetches under way.
    fn forget_in_memory(&self, key: &CacheKey) {
        let _changing = self.first.change(key);
        for other in self.first.memory.get(key.as_str()).unwrap_or_default().iter() {
            self.first.memory.remove(key, other);
        }
    }
}
