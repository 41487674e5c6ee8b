//! The order of `--eviction-policy cost`: what goes first is worth least for each byte that it takes.
//!
//! Worth is uses, times what fetching cost, by size: GreedyDual-Size with frequency, and costs that are measured. What was
//! evicted last sets the level from which worth is counted, so that what is used no more loses by standing still, however
//! often it was used once.
//!
//! Reuses are counted in the stored responses, by hits that take no lock and know nothing of this order. It looks at the
//! counts of what stands first, when space is needed: what has been used since then is ranked anew, and the next one is
//! looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::key::CacheKey;
use crate::store::Variants;
use crate::store::memory::ghosts::Ghosts;

/// Uses count up to this many.
const USES_MAX: u8 = 64;
/// What the first use counts: most of what is asked for once is never asked for again.
const FIRST_USE: f64 = 0.25;
/// What is fetched faster is no cheaper, in seconds: so short times are noise.
const COST_MIN: f32 = 0.000_2;
/// What takes longer is no dearer, in seconds: one stall of the origin server must not fill the memory.
const COST_MAX: f32 = 60.0;

/// What is stored, in the order in which it goes.
pub(super) struct WorthOrder {
    ranks: BTreeSet<(Rank, u32)>,
    /// By number, which is that of the entry until it is taken out.
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    /// The rank of what was evicted last.
    level: f64,
    ghosts: Ghosts,
    bytes: u64,
    responses: u64,
}

/// A finite number that is not negative, by the bits of which it is ordered.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Rank(u64);

/// An entry.
struct Record {
    key: CacheKey,
    variants: Variants,
    bytes: u64,
    rank: Rank,
    /// What its responses had counted when it came in, as far as 32 bits go.
    reuses_before: u32,
    /// Seconds.
    cost: f32,
    /// Uses before it came in, and that by which it came in.
    uses_before: u8,
    /// All uses, when it was ranked.
    uses_ranked: u8,
}

/// What is known of an entry from before: the key was stored, or evicted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    uses: u8,
    /// Seconds.
    cost: Option<f32>,
}

impl Record {
    fn uses(&self) -> u8 {
        // Wrapping, for a response that was used four thousand million times before it came in.
        let reuses = (reuses(&self.variants) as u32).wrapping_sub(self.reuses_before);
        at_most(u64::from(self.uses_before) + u64::from(reuses))
    }

    /// What it is worth for each byte.
    fn worth(&self) -> f64 {
        let uses = if self.uses_ranked <= 1 { FIRST_USE } else { f64::from(self.uses_ranked) };
        // The root: with the cost itself, dear and large responses push out more uses than they save time.
        uses * f64::from(self.cost).sqrt() / self.bytes.max(1) as f64
    }
}

impl WorthOrder {
    /// What it takes when nothing is stored.
    pub(super) const BYTES_MIN: u64 = Ghosts::BYTES_MIN;

    pub(super) fn new() -> Self {
        Self {
            ranks: BTreeSet::new(),
            records: Vec::new(),
            free: Vec::new(),
            level: 0.0,
            ghosts: Ghosts::new(),
            bytes: 0,
            responses: 0,
        }
    }

    /// Bytes of all entries, and of what is remembered of others.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.ghosts.memory_bytes()
    }

    /// The same for the entries alone.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.bytes
    }

    /// Stored responses.
    pub(super) fn responses(&self) -> u64 {
        self.responses
    }

    /// What is remembered of a key that is not stored; by this it is forgotten.
    pub(super) fn past(&mut self, hash: u64) -> Past {
        Past { uses: self.ghosts.take(hash), cost: None }
    }

    /// Adds an entry that takes `bytes`, with one more use than before; `took` is what it took to fetch what is new of it, if it was
    /// fetched. Gives its number.
    pub(super) fn add(
        &mut self,
        key: &CacheKey,
        variants: &Variants,
        bytes: u64,
        past: Past,
        took: Option<Duration>,
    ) -> u32 {
        let now = took.map(|took| took.as_secs_f32().clamp(COST_MIN, COST_MAX));
        let cost = match (past.cost, now) {
            // Smoothed: one slow answer is not what the next one will cost.
            (Some(before), Some(now)) => 0.7 * before + 0.3 * now,
            (before, now) => now.or(before).unwrap_or(COST_MIN),
        };
        // Uses that the store behind memory has counted are uses as well.
        let reuses_before = reuses(variants);
        let known = reuses_before.max(u64::from(past.uses));
        let uses_before = at_most(known + u64::from(took.is_some()));
        let mut record = Record {
            key: key.clone(),
            variants: Arc::clone(variants),
            bytes,
            rank: Rank(0),
            reuses_before: reuses_before as u32,
            cost,
            uses_before,
            uses_ranked: uses_before,
        };
        record.rank = self.rank_of(&record);
        self.bytes += bytes;
        self.responses += variants.len() as u64;
        let number = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            (self.records.len() - 1) as u32
        });
        self.ranks.insert((record.rank, number));
        self.records[number as usize] = Some(record);
        number
    }

    /// Takes an entry out, if it is still there with these variants; what is known of it.
    pub(super) fn take_out(&mut self, number: u32, variants: &Variants) -> Option<Past> {
        let record = self.records.get(number as usize)?.as_ref()?;
        if !Arc::ptr_eq(&record.variants, variants) {
            return None;
        }
        let record = self.remove(number);
        Some(Past { uses: record.uses(), cost: Some(record.cost) })
    }

    /// Takes out what is worth least, and remembers its uses under the hash of its key; `None` if nothing is
    /// stored.
    pub(super) fn evict(
        &mut self,
        hash: impl Fn(&CacheKey) -> u64,
    ) -> Option<(CacheKey, Variants)> {
        /// Others wait for the lock meanwhile: what stands first goes then, used or not.
        const RANKED_MAX: usize = 128;
        for turn in 0.. {
            let (rank, number) = *self.ranks.first()?;
            self.level = self.level.max(f64::from_bits(rank.0));
            let record = self.records[number as usize].as_mut().expect("what is ranked is stored");
            let uses = record.uses();
            if uses == record.uses_ranked || turn == RANKED_MAX {
                let record = self.remove(number);
                self.ghosts.add(hash(&record.key), uses, self.ranks.len());
                return Some((record.key, record.variants));
            }
            record.uses_ranked = uses;
            self.ranks.remove(&(rank, number));
            let record = self.records[number as usize].take().expect("it was there a line above");
            let rank = self.rank_of(&record);
            self.ranks.insert((rank, number));
            self.records[number as usize] = Some(Record { rank, ..record });
        }
        unreachable!("the last turn evicts")
    }

    /// Forgets what was evicted, and gives back memory that was for more entries than there are.
    pub(super) fn forget(&mut self) {
        self.ghosts = Ghosts::new();
        if self.ranks.is_empty() {
            (self.records, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Empties it, and forgets the past; gives what it held.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::replace(self, Self::new())
    }

    fn rank_of(&self, record: &Record) -> Rank {
        Rank((self.level + record.worth()).to_bits())
    }

    fn remove(&mut self, number: u32) -> Record {
        let record = self.records[number as usize].take().expect("its callers have looked");
        self.ranks.remove(&(record.rank, number));
        self.free.push(number);
        self.bytes -= record.bytes;
        self.responses -= record.variants.len() as u64;
        record
    }
}

/// A number of uses, as far as they count.
fn at_most(uses: u64) -> u8 {
    uses.min(u64::from(USES_MAX)) as u8
}

fn reuses(variants: &Variants) -> u64 {
    variants.iter().map(|response| response.reuses()).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::fields::FieldSection;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::stored::{StoredHead, StoredResponse};
    use crate::policy::vary::Selecting;

    fn variants() -> Variants {
        let head = StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: FieldSection::default(),
            directives: ResponseDirectives::default(),
            selecting: Selecting::default(),
            lifetime: Lifetime::Explicit(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(0),
            fresh_until: Timestamp::MAX,
            useful_until: Timestamp::MAX,
        };
        [Arc::new(StoredResponse::new(head, Bytes::new()))].into()
    }

    /// Whoever asks for everything once must not have the next eviction rank everything anew.
    #[test]
    fn an_eviction_ranks_a_bounded_number_anew() {
        let mut order = WorthOrder::new();
        let all: Vec<_> = (0..1000).map(|_| variants()).collect();
        for (number, variants) in all.iter().enumerate() {
            let key = CacheKey::from(&*number.to_string());
            order.add(&key, variants, 1000, Past::default(), Some(Duration::from_millis(1)));
        }
        for variants in &all {
            variants[0].note_reuse();
        }
        assert!(order.evict(|_| 1).is_some());
        let ranked = order.records.iter().flatten().filter(|record| record.uses_ranked > 1);
        assert_eq!((ranked.count(), order.responses(), order.stored_bytes()), (128, 999, 999_000));
        // All go in the end, and then no memory is kept for them.
        while order.evict(|_| 1).is_some() {}
        order.forget();
        assert_eq!((order.responses(), order.bytes()), (0, WorthOrder::BYTES_MIN));
        assert!(order.records.is_empty() && order.free.is_empty());
    }
}
