//! The writing end of a body that is too large for memory, on its way into the backing store: piece by
//! piece. It becomes a stored response when all of it has come, or nothing.
//!
//! What is known of the body to its readers is in `store/spooled.rs`.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::Bytes;

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::backing::{CHUNK_BYTES, Change, Stamp};
use crate::store::outcome::Put;
use crate::store::spooled::{SpoolEnd, Spooled};
use crate::store::tiers::queue::Queue;

/// The writing end. Dropped before the end of the body was handed in, it abandons it.
pub struct Spool {
    queue: Arc<Queue>,
    spooled: Arc<Spooled>,
    /// What does not fill a piece yet.
    rest: Vec<u8>,
    /// So many bytes were handed in.
    handed_in: u64,
    committed: bool,
}

impl Spool {
    pub(in crate::store) fn new(queue: &Arc<Queue>, key: CacheKey, length: Option<u64>) -> Self {
        let spooled = Arc::new(Spooled::new(key, length));
        let (queue, rest) = (Arc::clone(queue), Vec::new());
        Self { queue, spooled, rest, handed_in: 0, committed: false }
    }

    /// What readers follow it by.
    pub fn spooled(&self) -> &Arc<Spooled> {
        &self.spooled
    }

    /// Adds bytes; waits while the queue is full. `false` if the body cannot be stored any more.
    ///
    /// Called without a lock: the wait is the backpressure on the origin server's connection.
    pub fn write(&mut self, mut bytes: &[u8]) -> bool {
        self.handed_in += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.rest.capacity() == 0 {
                // A short body needs no more than its length.
                let most = self.spooled.length().map_or(CHUNK_BYTES, |length| {
                    usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_BYTES)
                });
                self.rest.reserve_exact(most);
            }
            // Pieces are of one size, so that a reader finds a byte's piece by division.
            debug_assert!(self.rest.len() < CHUNK_BYTES, "a full piece has been handed in");
            let count = bytes.len().min(CHUNK_BYTES - self.rest.len());
            self.rest.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.rest.len() == CHUNK_BYTES && !self.send() {
                return false;
            }
        }
        !self.spooled.has_failed()
    }

    fn send(&mut self) -> bool {
        let bytes = Bytes::from(std::mem::take(&mut self.rest));
        let spooled = Arc::clone(&self.spooled);
        !self.spooled.has_failed() && self.queue.send_waiting(Change::Chunk { spooled, bytes })
    }

    /// Hands in what is left; waits as [`Spool::write`] does.
    pub(in crate::store) fn flush(&mut self) -> bool {
        !self.spooled.has_failed() && (self.rest.is_empty() || self.send())
    }

    /// All of it has come: a stored response is to be made of it, unless it was invalidated, and `begun`
    /// is `None`. Waits for nothing: the key's lock is held, and the last piece has been flushed before.
    pub(in crate::store) fn send_whole(
        &mut self,
        head: StoredHead,
        begun: Option<Stamp>,
    ) -> Receiver<u64> {
        debug_assert!(self.rest.is_empty(), "the last piece comes before the end");
        let (reply, outcome) = sync_channel(1);
        let (spooled, head) = (Arc::clone(&self.spooled), Box::new(head));
        self.queue.send(Change::Whole { spooled, head, begun }, Some(reply));
        // Even if the queue is closed and takes nothing: `settle` sees the sender dropped.
        self.committed = true;
        outcome
    }

    /// Waits until that is done. Called without a lock.
    pub(in crate::store) fn settle(self, outcome: &Receiver<u64>) -> Put {
        let put = match outcome.recv_timeout(self.queue.limits().commit_wait) {
            Ok(0) => Put::Cleared,
            Ok(_) => Put::Stored,
            Err(_) => Put::TooLarge,
        };
        // Readers may have all of it, stored or not; but what was not written cannot be read. A body of
        // unknown length once ended cleanly with bytes missing here, because the end was called proven
        // when the outcome had not come in time.
        let is_there = self.spooled.bytes() == self.handed_in;
        self.spooled.end(if is_there { SpoolEnd::Whole } else { SpoolEnd::Cut });
        put
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.committed {
            self.spooled.fail();
            self.queue.send(Change::Abandon { spooled: Arc::clone(&self.spooled) }, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use http::StatusCode;
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::body::Arriving;
    use crate::message::content::Distant;
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::Selecting;
    use crate::store::spooled::Follower;
    use crate::store::tiers::queue::{Next, QueueLimits, Work};

    /// Content as the store would have it.
    struct Written(Mutex<Vec<u8>>);

    impl Distant for Written {
        fn length(&self) -> u64 {
            self.0.lock().len() as u64
        }

        fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let there = self.0.lock();
            let there = &there[at as usize..];
            let count = buffer.len().min(there.len());
            buffer[..count].copy_from_slice(&there[..count]);
            Ok(count)
        }
    }

    fn head() -> StoredHead {
        StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: Fields::new(),
            directives: ResponseDirectives::default(),
            selecting: Selecting::default(),
            lifetime: Lifetime::Unknown,
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: Timestamp(0),
            fresh_until: Timestamp::MAX,
            useful_until: Timestamp::MAX,
        }
    }

    fn queue() -> Queue {
        let commit_wait = Duration::from_millis(5);
        Queue::new(QueueLimits { commit_wait, ..QueueLimits::of(1 << 20) })
    }

    fn work(queue: &Queue) -> Option<Work> {
        match queue.next(1, Duration::ZERO, true) {
            Next::Work(work) => Some(work),
            _ => None,
        }
    }

    /// Carries out one piece, or all that is there.
    fn write(queue: &Queue, written: &Arc<Written>, most: usize, stores: u64) {
        for _ in 0..most {
            let Some(work) = work(queue) else { return };
            for order in &work.orders {
                if let Change::Chunk { spooled, bytes } = &order.change {
                    written.0.lock().extend_from_slice(bytes);
                    spooled.begun(1, 1, Arc::clone(written) as Arc<dyn Distant>);
                    spooled.grown(bytes.len() as u64);
                }
            }
            let counts = vec![stores; work.orders.len()];
            queue.done(work, &counts);
        }
    }

    /// Reads to the end, proven or not.
    fn read(mut follower: Follower) -> Result<usize, usize> {
        let (mut total, mut piece) = (0, vec![0; 10_000]);
        loop {
            match follower.read(&mut piece) {
                Ok(0) => return Ok(total),
                Ok(count) => total += count,
                Err(_) => return Err(total),
            }
        }
    }

    /// What becomes of the last word about a body, and what its readers learn.
    #[test]
    fn a_body_ends_well_only_if_all_of_it_can_be_read() {
        const BODY: usize = CHUNK_BYTES * 2 + 1000;
        const PIECES: usize = 3;
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        enum Fate {
            Stored,
            Cleared,
            /// Only these pieces are carried out in time.
            Late(usize),
            Closed(usize),
            /// The store fails on what comes after these pieces.
            Fails(usize),
        }
        use Fate::{Cleared, Closed, Fails, Late, Stored};
        #[rustfmt::skip]
        let table = [
            (Stored, Put::Stored, Ok(BODY)),
            (Cleared, Put::Cleared, Ok(BODY)),
            (Late(0), Put::TooLarge, Err(0)),
            (Late(1), Put::TooLarge, Err(CHUNK_BYTES)),
            (Late(PIECES), Put::TooLarge, Ok(BODY)),
            (Closed(1), Put::TooLarge, Err(CHUNK_BYTES)),
            (Fails(0), Put::TooLarge, Err(0)),
            (Fails(2), Put::TooLarge, Err(CHUNK_BYTES * 2)),
        ];
        for (fate, expected, expected_read) in table {
            for length in [None, Some(BODY as u64)] {
                let queue = Arc::new(queue());
                let written = Arc::new(Written(Mutex::default()));
                let mut spool = Spool::new(&queue, CacheKey::from("a"), length);
                assert!(spool.write(&vec![1; BODY]) && spool.flush());
                let follower = spool.spooled().reader().expect("it has not failed");
                if let Closed(pieces) = fate {
                    write(&queue, &written, pieces, 1);
                    queue.close();
                }
                let outcome = spool.send_whole(head(), None);
                match fate {
                    Stored => write(&queue, &written, PIECES + 1, 1),
                    Cleared => write(&queue, &written, PIECES + 1, 0),
                    Late(pieces) => write(&queue, &written, pieces, 1),
                    Closed(_) => {}
                    Fails(pieces) => {
                        write(&queue, &written, pieces, 1);
                        while let Some(work) = work(&queue) {
                            queue.failed(&work, true);
                        }
                    }
                }
                assert_eq!(spool.settle(&outcome), expected, "{fate:?} {length:?}");
                assert_eq!(read(follower), expected_read, "{fate:?} {length:?}");
            }
        }
    }

    #[test]
    fn what_has_failed_on_its_way_is_not_handed_in() {
        let queue = Arc::new(queue());
        let mut spool = Spool::new(&queue, CacheKey::from("a"), None);
        assert!(spool.write(&vec![1; CHUNK_BYTES]), "nothing is left to be flushed");
        queue.failed(&work(&queue).expect("a piece"), true);
        assert!(!spool.flush());
    }
}
