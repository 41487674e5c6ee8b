//! What is written into Redis. Whatever must happen together or not at all is a script (`scripts.rs`).

use std::sync::Arc;

use redis::{Cmd, RedisResult, cmd};

use crate::clock::{Clock, Timestamp};
use crate::policy::key::CacheKey;
use crate::policy::partial::{displaced, outdates};
use crate::policy::purging::Selector;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::backing::{BackingError, CHUNK_BYTES, Change, Stamp};
use crate::store::codec;
use crate::store::redis::content::{RedisPieces, salt};
use crate::store::redis::link::Link;
use crate::store::redis::listing;
use crate::store::redis::purges::{PURGES_MAX, RedisState, selector_text};
use crate::store::redis::responses::ReadResponse;
use crate::store::redis::scripts::{FORGET, PURGE, PUT, RELEASE, REMOVE, script};
use crate::store::redis::shared::RedisShared;
use crate::store::redis::values;
use crate::store::spooled::Spooled;

/// Content up to this many bytes is in the field itself.
const INLINE_MAX: u64 = CHUNK_BYTES as u64;
/// Milliseconds after which a response that never becomes useless is forgotten, from when it was stored or
/// freshened.
const LONGEST_MS: u64 = 30 * 86_400 * 1000;
/// Milliseconds for which an invalidation is remembered; nothing is let in that was asked for longer ago.
const INVALIDATION_MS: u64 = 3_600_000;
const ASKED_MAX_MS: u64 = INVALIDATION_MS - 300_000;
/// Content that is on its way in, and content that was replaced and may still be read.
const ARRIVING_MS: u64 = 3_600_000;
const LEAVING_MS: u64 = 60_000;

/// Carries out changes. Called by the writer thread alone, without a lock.
///
/// Redis has no transaction over several keys of a cluster, so a batch that fails may be carried out in part:
/// the queue owes all of it, and the other proxies are made to forget what they have (`count_unheard`).
pub(super) fn apply(
    shared: &Arc<RedisShared>,
    changes: &[&Change],
) -> Result<Vec<u64>, BackingError> {
    let mut purges = Vec::new();
    let counts = shared.links.with(|link| {
        let state = state_now(shared, link)?;
        let mut batch = RedisBatch { shared, link, state, now: Clock::System.now() };
        let mut counts = Vec::with_capacity(changes.len());
        for change in changes {
            counts.push(batch.carry_out(change)?);
            match change {
                // One key: carried out as a removal, which needs no list of purges.
                Change::Purge { selector: Selector::Uri(_), .. } => {}
                Change::Purge { selector, now } => {
                    batch.note_purge(selector, *now)?;
                    purges.push((counts.len() - 1, selector, *now));
                }
                _ => {}
            }
        }
        Ok(counts)
    });
    let mut counts = counts.inspect_err(|_| shared.count_unheard())?;
    debug_assert_eq!(counts.len(), changes.len(), "each change has its count");
    // From here on it is only about space: what was purged is not used any more. A purge that has been
    // carried out must not be owed because its remains could not be found and counted.
    for (index, selector, now) in purges {
        match listing::delete(shared, selector, now) {
            Ok(count) => counts[index] = count,
            Err(error) => {
                log::warn!("store {}: {error}; purged, but not freed yet", shared.address);
            }
        }
    }
    Ok(counts)
}

/// What Redis knows of clears and purges now.
fn state_now(shared: &RedisShared, link: &mut Link) -> RedisResult<RedisState> {
    let answer = link.one(&shared.read_state())?;
    shared.update_state(link, &answer)
}

/// What goes for a response that is stored.
#[derive(Default)]
struct Displaced {
    /// Its fields, each with the number and the length of the pieces that go with it.
    gone: Vec<(Vec<u8>, (u64, u64))>,
    /// The field of what the response was made from, if that is still there.
    made_from: Option<Vec<u8>>,
}

struct RedisBatch<'a> {
    shared: &'a Arc<RedisShared>,
    link: &'a mut Link,
    state: RedisState,
    now: Timestamp,
}

impl RedisBatch<'_> {
    fn carry_out(&mut self, change: &Change) -> RedisResult<u64> {
        match change {
            Change::Put { key, response, begun } => self.put(key, response, *begun),
            Change::Displace { key, head } => self.displace(key, head),
            Change::Remove { key, response } => self.remove(key, response),
            Change::Forget { key, invalidates } => self.forget(key, *invalidates),
            Change::Release { key } => {
                let message = self.shared.changed_message(key, 0);
                let mut release = script(RELEASE, &[self.shared.claim(key)]);
                release.arg(&self.shared.id).arg(self.shared.channel()).arg(message);
                self.link.one(&release).map(|_| 0)
            }
            Change::Chunk { spooled, bytes } => self.piece(spooled, bytes),
            Change::Whole { spooled, head, begun } => self.whole(spooled, head, *begun),
            Change::Abandon { spooled } => {
                if let Some(number) = spooled.number() {
                    self.expire_soon(number, spooled.bytes())?;
                }
                Ok(0)
            }
            // All at once: a proxy that has heard of the purge must not find what it has removed.
            Change::Purge { selector: Selector::Uri(uri), .. } => {
                self.forget(&CacheKey::from(uri.as_str()), true)
            }
            // Redis expires; how often each proxy reuses what it has is its own business.
            Change::Used { .. } | Change::Sweep { .. } | Change::Purge { .. } => Ok(0),
        }
    }

    /// May what was asked for then still be stored? What Redis was not asked about may not.
    fn admits(&self, key: &CacheKey, head: &StoredHead, begun: Stamp) -> Option<u64> {
        // Beyond an hour the number of an invalidation may have expired, and would look as if there was none.
        let [generation, purges, invalidations, asked] = begun.numbers?;
        let in_time = self.now.0.saturating_sub(asked) < ASKED_MAX_MS;
        let stands = generation == self.state.generation && self.state.admits(purges, key, head);
        (in_time && stands).then_some(invalidations)
    }

    fn put(
        &mut self,
        key: &CacheKey,
        response: &Arc<StoredResponse>,
        begun: Stamp,
    ) -> RedisResult<u64> {
        let head = response.head();
        let Some(invalidations) = self.admits(key, head, begun) else {
            return self.displace(key, head);
        };
        let length = response.content.len();
        // Content first, the field that refers to it last: no lookup finds what a failure in
        // between leaves, and it expires.
        // What is compressed is written as it came.
        let Ok(content) = response.content.in_memory() else { return Ok(0) };
        let (number, value) = match &content {
            Some(content) if length <= INLINE_MAX => {
                let number = self.shared.new_number();
                let frame = codec::encode(key, head, content);
                (number, values::write(number, self.state.purges, true, &frame))
            }
            Some(content) => {
                let number = self.shared.new_number();
                for (piece, bytes) in content.chunks(CHUNK_BYTES).enumerate() {
                    let life_ms = self.life_ms(head);
                    self.set_piece((key, number), piece as u64, bytes, life_ms)?;
                }
                (number, self.without_content(key, head, number, length))
            }
            None => {
                let Some(number) = response.place().number() else { return Ok(0) };
                self.extend(number, length, self.life_ms(head))?;
                (number, self.without_content(key, head, number, length))
            }
        };
        let stored = self.store(key, response, (number, &value), begun, invalidations)?;
        // What is made from it later is compared with this number.
        if stored > 0 {
            response.place().set(number);
        }
        Ok(stored)
    }

    fn without_content(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        number: u64,
        length: u64,
    ) -> Vec<u8> {
        let frame = codec::encode_head(key, head, length);
        values::write(number, self.state.purges, false, &frame)
    }

    /// Writes the field, in the place of what it displaces.
    fn store(
        &mut self,
        key: &CacheKey,
        response: &StoredResponse,
        (number, value): (u64, &[u8]),
        begun: Stamp,
        invalidations: u64,
    ) -> RedisResult<u64> {
        let shared = self.shared;
        let entry = shared.entry(self.state.generation, key);
        let made_of = response.place().number();
        // A response that was made from another is looked for in any case: that one may have been stored after
        // the request had found nothing.
        let Displaced { gone: displaced, made_from } = if begun.was_empty && made_of.is_none() {
            Displaced::default()
        } else {
            self.displaced(&entry, response, number)?
        };
        if made_of.is_some() && made_from.is_none() {
            // The response that it was made from is not there any more, and something newer may be. The script
            // compares once more, for what happens between this look and it.
            return Ok(0);
        }
        let mut put = script(PUT, &[entry, shared.invalidations(key), shared.claim(key)]);
        put.arg(invalidations).arg(&shared.id).arg(shared.channel());
        put.arg(shared.changed_message(key, number)).arg(self.life_ms(response.head()));
        put.arg(values::field(response)).arg(value);
        put.arg(made_from.as_deref().unwrap_or_default());
        put.arg(format!("{:016x}", made_of.unwrap_or(0)));
        for (name, _) in &displaced {
            put.arg(name.as_slice());
        }
        let stored = values::number(&self.link.one(&put)?);
        // Even if nothing was stored: then the fields are there still, and their content for a minute. It is
        // found missing and dropped then, which costs a fetch.
        for (_, (number, length)) in displaced {
            self.expire_soon(number, length)?;
        }
        Ok(stored)
    }

    /// Removes what a response of this head has replaced in memory and cannot replace here.
    fn displace(&mut self, key: &CacheKey, head: &StoredHead) -> RedisResult<u64> {
        let entry = self.shared.entry(self.state.generation, key);
        let found = self.link.one(cmd("HGETALL").arg(entry))?;
        for (_, value) in values::fields(&found) {
            let Some((ReadResponse { response: old, .. }, _)) = self.shared.response(value) else {
                continue;
            };
            if outdates(head, &old) {
                self.remove(key, &old)?;
            }
        }
        Ok(0)
    }

    /// The fields that `response` displaces, and the pieces of content that go with them. Its own field
    /// is overwritten; a field that it had before, under fewer selecting header fields, goes without the
    /// pieces, which it has still.
    fn displaced(
        &mut self,
        entry: &str,
        response: &StoredResponse,
        number: u64,
    ) -> RedisResult<Displaced> {
        let found = self.link.one(cmd("HGETALL").arg(entry))?;
        let (mut gone, mut kept, mut made_from) = (Vec::new(), Vec::new(), None);
        let made_of = response.place().number();
        for (name, value) in values::fields(&found) {
            // What cannot be read, or is of another version, goes with the next response of the key.
            match self.shared.response(value) {
                Some((read, _)) => kept.push((name, read)),
                None => gone.push((name.to_vec(), (0, 0))),
            }
        }
        kept.sort_by_key(|(_, ReadResponse { response, .. })| {
            std::cmp::Reverse((response.response_time, response.place().number()))
        });
        let own_name = values::field(response);
        kept.retain(|(name, ReadResponse { response: old, .. })| {
            if made_of.is_some() && old.place().number() == made_of {
                made_from = Some(name.to_vec());
            }
            let own = old.place().number() == Some(number);
            if own && *name != own_name.as_bytes() {
                gone.push((name.to_vec(), (0, 0)));
            }
            !own
        });
        let goes = displaced(response, kept.iter().map(|(_, read)| read.response.head()));
        for ((name, read), _) in kept.into_iter().zip(goes).filter(|(_, goes)| *goes) {
            let ReadResponse { is_inline, response: old, .. } = read;
            let length = if is_inline { 0 } else { old.content.len() };
            gone.push((name.to_vec(), (old.place().number().unwrap_or(0), length)));
        }
        Ok(Displaced { gone, made_from })
    }

    fn remove(&mut self, key: &CacheKey, response: &StoredResponse) -> RedisResult<u64> {
        let Some(number) = response.place().number() else { return Ok(0) };
        let shared = self.shared;
        let mut remove = script(REMOVE, &[shared.entry(self.state.generation, key)]);
        remove.arg(values::field(response)).arg(format!("{number:016x}"));
        remove.arg(shared.channel()).arg(shared.changed_message(key, 0));
        let removed = values::number(&self.link.one(&remove)?);
        if removed > 0 && response.content.len() > INLINE_MAX {
            self.expire_soon(number, response.content.len())?;
        }
        Ok(removed)
    }

    fn forget(&mut self, key: &CacheKey, invalidates: bool) -> RedisResult<u64> {
        let shared = self.shared;
        let entry = shared.entry(self.state.generation, key);
        let mut forget = script(FORGET, &[entry, shared.invalidations(key)]);
        forget.arg(shared.channel()).arg(shared.changed_message(key, 0));
        // 0: what is owed for a replaced response rules out nothing that is on its way.
        forget.arg(if invalidates { INVALIDATION_MS } else { 0 });
        // Not a count: where that was evicted, it would come to the same number again, and let in what was
        // asked for before the first of the two invalidations.
        forget.arg(shared.new_number());
        self.link.one(&forget).map(|count| values::number(&count))
    }

    /// How long a response is kept, in milliseconds.
    fn life_ms(&self, head: &StoredHead) -> u64 {
        head.useful_until.0.saturating_sub(self.now.0).clamp(1, LONGEST_MS)
    }

    fn set_piece(
        &mut self,
        (key, number): (&CacheKey, u64),
        piece: u64,
        bytes: &[u8],
        life_ms: u64,
    ) -> RedisResult<()> {
        let value = values::piece(salt(number, key), piece, bytes);
        let mut set = cmd("SET");
        set.arg(self.shared.piece(number, piece)).arg(value).arg("PX").arg(life_ms);
        self.link.one(&set).map(drop)
    }

    /// Changes for how long the pieces of some content are kept.
    fn extend(&mut self, number: u64, length: u64, life_ms: u64) -> RedisResult<()> {
        let expire =
            |piece| cmd("PEXPIRE").arg(self.shared.piece(number, piece)).arg(life_ms).clone();
        let commands: Vec<Cmd> = (0..length.div_ceil(CHUNK_BYTES as u64)).map(expire).collect();
        if commands.is_empty() { Ok(()) } else { self.link.ask(&commands).map(drop) }
    }

    /// Content that nothing refers to any more expires, in time enough for those who read it now.
    fn expire_soon(&mut self, number: u64, length: u64) -> RedisResult<()> {
        self.extend(number, length, LEAVING_MS)
    }

    fn piece(&mut self, spooled: &Arc<Spooled>, bytes: &[u8]) -> RedisResult<u64> {
        let number = spooled.number().unwrap_or_else(|| {
            let number = self.shared.new_number();
            let content = RedisPieces::new(self.shared, spooled.key(), number, u64::MAX, None);
            // Its salt follows from its number and key.
            spooled.begun(number, 0, Arc::new(content));
            number
        });
        self.set_piece((spooled.key(), number), spooled.next_chunk(), bytes, ARRIVING_MS)?;
        spooled.grown(bytes.len() as u64);
        Ok(1)
    }

    fn whole(
        &mut self,
        spooled: &Arc<Spooled>,
        head: &StoredHead,
        begun: Option<Stamp>,
    ) -> RedisResult<u64> {
        let Some(number) = spooled.number() else { return Ok(0) };
        let (key, length) = (spooled.key(), spooled.bytes());
        let admitted = begun.and_then(|begun| Some((begun, self.admits(key, head, begun)?)));
        let Some((begun, invalidations)) = admitted else {
            return self.expire_soon(number, length).map(|()| 0);
        };
        self.extend(number, length, self.life_ms(head))?;
        let value = self.without_content(key, head, number, length);
        let response = StoredResponse::new(head.clone(), bytes::Bytes::new());
        self.store(key, &response, (number, &value), begun, invalidations)
    }

    /// Writes a purge down, so that no proxy uses or lets in what it selects; tells the others.
    fn note_purge(&mut self, selector: &Selector, now: Timestamp) -> RedisResult<()> {
        let shared = self.shared;
        match selector {
            Selector::All => {
                let new = shared.new_generation(self.state.generation);
                self.link.one(cmd("HSET").arg(shared.state_key()).arg("generation").arg(new))?;
            }
            selector => {
                let mut purge = script(PURGE, &[shared.state_key()]);
                let text = [format!("{} ", now.0).as_bytes(), &selector_text(selector)].concat();
                purge.arg(text).arg(PURGES_MAX);
                self.link.one(&purge)?;
            }
        }
        // Changes of the same batch that follow are compared with the purge.
        self.state = state_now(shared, self.link)?;
        // Written first, published second: a proxy that hears of it finds it in the list.
        let mut publish = cmd("PUBLISH");
        publish.arg(shared.channel()).arg(shared.purged_message(selector, now));
        self.link.one(&publish).map(drop)
    }
}
