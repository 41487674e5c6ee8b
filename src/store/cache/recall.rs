//! What is behind memory: recalling it, bringing it into memory, and content that goes past memory.
//!
//! Called by workers. No lock is held while the backing store is asked; what changed meanwhile is found out
//! under the key's lock by comparing moments (`tiers/overtaken.rs`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::message::buffer::Buffer;
use crate::message::content::Content;
use crate::message::distant::Distant;
use crate::policy::key::CacheKey;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{CHUNK_BYTES, Fetcher, Recalled};
use crate::store::cache::{Behind, Below, Cache};
use crate::store::tiers::FetchClaim;
use crate::store::tiers::backed::{AskedTogether, Backed};
use crate::store::tiers::claim::HeldClaim;
use crate::store::tiers::spool::Spool;
use crate::store::underway::Begun;
use crate::store::{Store, Variants};

/// What was found behind memory.
#[derive(Default)]
pub struct Recollected {
    /// The responses, the most recent first; their content is distant, or here if it is small.
    pub variants: Vec<Arc<StoredResponse>>,
    /// That this proxy is to fetch a response, since there is none.
    pub claim: FetchClaim,
    /// The backing store has answered: it has these and no others. Else there is none, or it may not be used now.
    pub was_answered: bool,
}

impl Cache {
    /// What is behind memory for `key`, asked for the fetch `begun`; waits. If that is nothing and `claims` is
    /// set, this proxy is to fetch the response, and holds the claim for as long; if another proxy fetches it
    /// already, that is waited for.
    ///
    /// `begun` has the state of the backing store afterwards. It begins anew if another proxy was waited for: what
    /// that one has stored is the outcome of the wait, and news of it must not rule it out.
    pub fn recall(&self, key: &CacheKey, begun: &mut Begun, claims: bool) -> Recollected {
        match &self.behind {
            Behind::Nothing => Recollected::default(),
            Behind::Store(backed) => self.recall_from(backed, key, begun, claims),
            Behind::Below(below) => show(below, key, begun),
        }
    }

    fn recall_from(
        &self,
        backed: &Backed,
        key: &CacheKey,
        begun: &mut Begun,
        claims: bool,
    ) -> Recollected {
        let mut recalled = backed.ask(key, claims, &self.tier.moments);
        if recalled.as_ref().is_some_and(|recalled| recalled.fetcher == Fetcher::Another) {
            backed.backing.wait(key, backed.queue.limits().others_wait);
            // News of the other proxy's response has marked this fetch as invalidated. Without a new beginning
            // the response that was waited for could not be promoted.
            *begun = begun.anew();
            // Whatever is found now is used without a claim: a second wait would double the bound.
            recalled = backed.ask(key, false, &self.tier.moments);
        }
        let was_answered = recalled.is_some();
        let Recalled { variants, stamp, fetcher } = recalled.unwrap_or_default();
        *begun = begun.clone().with(stamp);
        let claim = match fetcher {
            Fetcher::Us => FetchClaim::Held(HeldClaim::new(&backed.queue, key)),
            Fetcher::Nobody | Fetcher::Another => FetchClaim::None,
        };
        Recollected { variants, claim, was_answered }
    }

    /// Can what is behind memory be asked about several keys at a time?
    pub fn recalls_together(&self) -> bool {
        self.backed().is_some_and(|backed| backed.backing.recalls_together())
    }

    /// The same as [`Cache::recall`] without a claim, for the first of these, and for as many more as the backing
    /// store is quick to answer: until `until`. `None` for a key that has to be asked about by itself, because it
    /// changes just now.
    pub fn recall_together(
        &self,
        asked: Vec<(&CacheKey, Begun)>,
        until: Instant,
    ) -> Vec<Option<(Begun, Recollected)>> {
        let Some(backed) = self.backed() else { return asked.iter().map(|_| None).collect() };
        let keys: Vec<_> = asked.iter().map(|(key, _)| *key).collect();
        let answers = backed.ask_together(&keys, &self.tier.moments, until);
        let taken_in = asked.into_iter().zip(answers).map(|((_, begun), answer)| {
            let recalled = match answer {
                AskedTogether::Alone => return None,
                AskedTogether::Answered(recalled) => recalled,
            };
            let was_answered = recalled.is_some();
            let Recalled { variants, stamp, .. } = recalled.unwrap_or_default();
            let claim = FetchClaim::None;
            Some((begun.with(stamp), Recollected { variants, claim, was_answered }))
        });
        taken_in.collect()
    }

    /// Brings a recalled response into memory, if it has space for it: the same response, its content in
    /// memory. `None`: its content is lost, and the response was dropped.
    pub fn bring(
        &self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: &Begun,
    ) -> Option<Arc<StoredResponse>> {
        let Some(backed) = self.backed() else {
            // Nothing is brought into the memory of an explanation: it shows what there is.
            return is_whole(response).then(|| Arc::clone(response));
        };
        if let Ok(brought) = self.promote(key, response, begun) {
            return Some(brought);
        }
        if let Some(more) = backed.lost.due() {
            let (store, key) = (backed.backing.name(), key.redacted());
            log::info!("{store}: {key}: its content is damaged or gone; it is dropped{more}");
        }
        self.remove(key, response);
        None
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
        let mut reservation = self.memory.reserve();
        // The client is sent this content straight from the backing store. A piece that is found missing
        // after the head has gone out could only cut the response short, for every client until it expires.
        let leave_there = || {
            let whole = distant.is_whole()?.then(|| Arc::clone(response));
            whole.ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        if length > self.memory.content_bytes_max() || !reservation.grow(length) {
            return leave_there();
        }
        let Some(buffer) = Buffer::with_capacity(length as usize) else {
            return leave_there();
        };
        let buffer = read_into(buffer, &**distant)?;
        let (head, place) = (response.head().clone(), response.place().number().unwrap_or(0));
        let fetched = StoredResponse::new(head, buffer.into_bytes());
        // The number goes along: by it, `is_twin` knows the two to be one response.
        let fetched = fetched.found_at(place, response.reuses());
        if response.place().was_heard() {
            fetched.place().note_heard();
        }
        let fetched = Arc::new(fetched);
        Ok(self.install(key, fetched, begun))
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
        let _stripe = self.tier.stripe(key).lock();
        let newer = |other: &&Arc<StoredResponse>| {
            other.selecting == fetched.selecting
                && other.part == fetched.part
                && other.response_time >= fetched.response_time
        };
        let present: Option<Variants> = self.memory.get(key.as_str());
        if let Some(newer) = present.iter().flat_map(|variants| variants.iter()).find(newer) {
            return Arc::clone(newer);
        }
        // Since it was found it may have been removed or replaced, and what has replaced it evicted: memory
        // alone cannot tell, the count of changes can. This request may still use it, since it was stored
        // when the request asked.
        if begun.backing().moment == self.tier.moments.now(key) {
            let _counted = self.tier.moments.bringing(key);
            self.put_in_memory(key, &fetched, begun);
        }
        fetched
    }
}

/// Bodies that go past memory (`recording.rs`).
impl Cache {
    /// Begins to store content that does not fit into memory; `None` if there is no other place.
    pub(in crate::store) fn spool(&self, key: &CacheKey, length: Option<u64>) -> Option<Spool> {
        self.backed().map(|backed| Spool::new(&backed.queue, key.clone(), length))
    }

    /// All of a spooled body has come, and has been handed in: makes a stored response of it, unless it was
    /// invalidated since `begun`. The outcome comes later.
    pub(in crate::store) fn hand_in_end(
        &self,
        spool: &mut Spool,
        head: StoredHead,
        begun: &Begun,
    ) -> Receiver<u64> {
        let key = spool.spooled().key().clone();
        let _purging = self.tier.purging.read();
        let _changing = self.tier.change(&key);
        // Under both locks: an invalidation has marked `begun` by now, or stands after this change in the
        // queue.
        let stamp = begun.admits(&head).then(|| begun.backing());
        spool.send_whole(head, stamp)
    }

    /// Something for `key` was stored in the backing store alone: what memory has from before is outdated.
    /// It goes without a mark, which would rule out the fetches under way.
    pub(in crate::store) fn forget_in_memory(&self, key: &CacheKey) {
        let _changing = self.tier.change(key);
        for other in self.memory.get(key.as_str()).unwrap_or_default().iter() {
            self.memory.remove(key, other);
        }
    }
}

/// Shows what is behind the cache below, which is asked as any request would ask it.
fn show(below: &Below, key: &CacheKey, begun: &mut Begun) -> Recollected {
    let asked = below.cache.backed().and_then(|backed| {
        below.is_asked.store(true, Ordering::Relaxed);
        backed.ask(key, false, &below.cache.tier.moments)
    });
    let was_answered = asked.is_some();
    let Recalled { variants, stamp, .. } = asked.unwrap_or_default();
    *begun = begun.clone().with(stamp);
    if !variants.is_empty() {
        below.overlay.show(key, &variants);
    }
    // Copies, as all that is seen through the overlay.
    let shown = below.overlay.get(key.as_str()).filter(|_| !variants.is_empty());
    let variants = shown.map(|shown| shown.to_vec()).unwrap_or_default();
    Recollected { variants, claim: FetchClaim::None, was_answered }
}

/// Can all of its content be read?
fn is_whole(response: &StoredResponse) -> bool {
    match &response.content {
        Content::Here(_) | Content::Packed(_) => true,
        Content::Distant(distant) => distant.is_whole().unwrap_or(false),
    }
}

/// All of `distant`, for which the buffer has room.
fn read_into(mut buffer: Buffer, distant: &dyn Distant) -> io::Result<Buffer> {
    let length = distant.length();
    let mut piece = vec![0; CHUNK_BYTES.min(length as usize)];
    while (buffer.len() as u64) < length {
        let most = piece.len().min(length as usize - buffer.len());
        let count = distant.read_at(buffer.len() as u64, &mut piece[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend(&piece[..count]);
    }
    assert_eq!(buffer.len() as u64, length, "no piece reaches beyond the length");
    Ok(buffer)
}
