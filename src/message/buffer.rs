//! Content that is being collected, and becomes [`Bytes`] when it is complete.
//!
//! A small body is an ordinary allocation. A large one gets pages of its own from the system: a cache
//! drops bodies of all sizes in any order, and an allocator that keeps what it is given back would soon
//! hold twice what is stored. Pages that were never written to take no memory, so a mapping may be
//! larger than what is in it.

use bytes::Bytes;
use memmap2::MmapMut;

/// From this size on a body has pages of its own.
const PAGES_FROM: usize = 32 * 1024;
/// The first allocation for a body whose length is not known.
const FIRST_BYTES: usize = 4 * 1024;
/// What the system gives and takes.
const PAGE_BYTES: usize = 4 * 1024;

/// Content that is being collected.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    length: usize,
}

#[derive(Debug)]
enum Memory {
    Small(Vec<u8>),
    Pages(MmapMut),
}

impl Buffer {
    /// Room for `capacity` bytes; `None` if the system has none.
    pub fn with_capacity(capacity: usize) -> Option<Self> {
        Some(Self { memory: Memory::with_capacity(capacity)?, length: 0 })
    }

    /// The number of bytes that are in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The number of bytes that fit.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Small(bytes) => bytes.capacity(),
            Memory::Pages(pages) => pages.len(),
        }
    }

    /// The capacity to grow to for `more` bytes, at most `most`; the present one if they fit.
    pub fn capacity_for(&self, more: usize, most: usize) -> usize {
        let needed = self.length + more;
        let capacity = self.capacity();
        if needed <= capacity {
            return capacity;
        }
        // Doubled, so that a body which grows piece by piece is copied twice on average and no more.
        // Not beyond
        // `most`, which is what the caller has room for, or the stated length.
        needed.max((capacity * 2).max(FIRST_BYTES).min(most))
    }

    /// Grows to `capacity`; `false` if the system has no room, and nothing has changed then.
    pub fn grow(&mut self, capacity: usize) -> bool {
        if capacity <= self.capacity() {
            return true;
        }
        // Copied, not remapped: for a moment both are there, and the caller has counted that in.
        let Some(mut memory) = Memory::with_capacity(capacity) else { return false };
        memory.write(0, self.as_slice());
        self.memory = memory;
        true
    }

    /// Adds bytes at the end; they must fit.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(self.length + bytes.len() <= self.capacity(), "the buffer was grown for them");
        self.memory.write(self.length, bytes);
        self.length += bytes.len();
    }

    /// What is in it.
    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Small(bytes) => bytes,
            Memory::Pages(pages) => &pages[..self.length],
        }
    }

    /// What has been collected, in as much memory as it needs.
    pub fn into_bytes(self) -> Bytes {
        match self.memory {
            Memory::Small(mut bytes) => {
                // It is kept for long, and weighed by its length.
                bytes.shrink_to_fit();
                Bytes::from(bytes)
            }
            // No copy: the pages behind the end were never written to, and take no memory.
            Memory::Pages(pages) => Bytes::from_owner(pages).slice(..self.length),
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self { memory: Memory::Small(Vec::new()), length: 0 }
    }
}

impl Memory {
    fn with_capacity(capacity: usize) -> Option<Self> {
        // A page for a body of a few bytes would cost more than the body.
        if capacity < PAGES_FROM {
            return Some(Self::Small(Vec::with_capacity(capacity)));
        }
        MmapMut::map_anon(capacity).ok().map(Self::Pages)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        match self {
            // Bytes are added at the end only; `at` is where that is.
            Self::Small(all) => all.extend_from_slice(bytes),
            Self::Pages(pages) => pages[at..at + bytes.len()].copy_from_slice(bytes),
        }
    }
}

/// The bytes in memory that content of this length takes: whole pages where it has pages of its own.
pub fn memory_bytes(length: usize) -> usize {
    if length < PAGES_FROM { length } else { length.next_multiple_of(PAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_whatever_the_size() {
        for length in [0, 1, FIRST_BYTES, PAGES_FROM - 1, PAGES_FROM, 1_000_000] {
            let expected: Vec<u8> = (0..length).map(|number| number as u8).collect();
            // Once with the length known, and once by growing.
            let mut known = Buffer::with_capacity(length).expect("memory");
            known.extend(&expected);
            let mut grown = Buffer::with_capacity(0).expect("memory");
            for piece in expected.chunks(7000) {
                let capacity = grown.capacity_for(piece.len(), length);
                assert!(grown.grow(capacity) && capacity <= length.max(FIRST_BYTES));
                grown.extend(piece);
            }
            assert_eq!(
                (known.into_bytes(), grown.into_bytes()),
                (expected.clone().into(), expected.into())
            );
        }
    }
}
