//! How often what was evicted had been used: what comes back does not begin anew.
//!
//! A table of small numbers, four bytes for each response that it remembers: what a key's hash leaves of it, and its
//! uses. Two keys may look alike; then one of them is thought to have been used as often as the other, which costs a
//! few bytes of memory for some time and nothing else.

/// As many are remembered as are stored, times this.
const PER_STORED: usize = 2;
/// What one hash can choose from; the newest come first.
const WAYS: usize = 4;
/// Bits of a slot for the uses; the rest is of the hash.
const USES_BITS: u32 = 7;
const USES_MAX: u8 = (1 << USES_BITS) - 1;
/// The fewest slots, and the most: 64 MiB of them.
const SLOTS: (usize, usize) = (64, 1 << 24);

/// The uses of what was evicted.
pub(super) struct Ghosts {
    /// `WAYS` for each set; 0 is an empty one. A power of two of sets.
    slots: Vec<u32>,
}

impl Ghosts {
    /// The fewest bytes of memory.
    pub(super) const BYTES_MIN: u64 = (SLOTS.0 * size_of::<u32>()) as u64;

    pub(super) fn new() -> Self {
        Self { slots: vec![0; SLOTS.0] }
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.slots.len() * size_of::<u32>()) as u64
    }

    /// Remembers that the key with this hash was used `uses` times, at least once, when it was evicted; `stored` responses
    /// are left.
    pub(super) fn add(&mut self, hash: u64, uses: u8, stored: usize) {
        self.fit(stored);
        let tag = tag_of(hash);
        let set = self.set_of(hash);
        let known = set.iter().position(|slot| slot >> USES_BITS == tag);
        // In the place of what is known of it, or of the oldest.
        set[..=known.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = tag << USES_BITS | u32::from(uses.clamp(1, USES_MAX));
    }

    /// How often the key with this hash had been used, which is forgotten by it; 0 if that is not known.
    pub(super) fn take(&mut self, hash: u64) -> u8 {
        let tag = tag_of(hash);
        let set = self.set_of(hash);
        let Some(known) = set.iter().position(|slot| *slot != 0 && slot >> USES_BITS == tag) else {
            return 0;
        };
        let uses = set[known] as u8 & USES_MAX;
        set[known..].rotate_left(1);
        set[WAYS - 1] = 0;
        uses
    }

    /// Grows with what is stored. It does not shrink: what was stored once may be again.
    fn fit(&mut self, stored: usize) {
        let wanted = (stored * PER_STORED).next_power_of_two().clamp(SLOTS.0, SLOTS.1);
        // Each set is copied to both that its hashes may belong to now; what does not belong there is pushed out.
        while self.slots.len() < wanted {
            self.slots.extend_from_within(..);
        }
    }

    fn set_of(&mut self, hash: u64) -> &mut [u32] {
        let sets = self.slots.len() / WAYS;
        let first = hash as usize % sets * WAYS;
        &mut self.slots[first..first + WAYS]
    }
}

/// Of the upper bits: the lower ones choose the set.
fn tag_of(hash: u64) -> u32 {
    (hash >> (32 + USES_BITS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that looks like a hash.
    fn hash(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ number << 40
    }

    #[test]
    fn uses_are_remembered_until_they_are_taken() {
        let mut ghosts = Ghosts::new();
        ghosts.add(hash(1), 5, 1);
        ghosts.add(hash(1), 9, 1);
        ghosts.add(hash(2), 200, 1);
        assert_eq!(ghosts.take(hash(3)), 0);
        assert_eq!(ghosts.take(hash(1)), 9);
        assert_eq!(ghosts.take(hash(1)), 0, "once");
        assert_eq!(ghosts.take(hash(2)), 127, "capped");
    }

    #[test]
    fn the_table_grows_with_what_is_stored_and_forgets_the_oldest() {
        let mut ghosts = Ghosts::new();
        for number in 0..10_000 {
            ghosts.add(hash(number), 3, 1000);
        }
        assert_eq!(ghosts.memory_bytes(), 2048 * 4, "twice what is stored, as a power of two");
        let known = |from: u64, ghosts: &mut Ghosts| {
            (from..from + 500).filter(|number| ghosts.take(hash(*number)) > 0).count()
        };
        assert!(known(9_500, &mut ghosts) > 450, "the newest are known");
        assert!(known(0, &mut ghosts) < 25, "the oldest are not");
    }

    #[test]
    fn what_is_known_stays_known_when_the_table_grows() {
        let mut ghosts = Ghosts::new();
        for number in 0..16 {
            ghosts.add(hash(number), 7, 10);
        }
        let known = (0..16).filter(|number| ghosts.slots.contains(&slot(hash(*number), 7))).count();
        ghosts.fit(100_000);
        assert_eq!((0..16).filter(|number| ghosts.take(hash(*number)) == 7).count(), known);
    }

    fn slot(hash: u64, uses: u32) -> u32 {
        tag_of(hash) << USES_BITS | uses
    }
}
