//! The writing end of a body that is too large for memory, on its way into the backing store: piece by
//! piece. It becomes a stored response when all of it has come, or nothing.
//!
//! What is known of the body to its readers is in `store/spooled.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::backing::{CHUNK_BYTES, Change, Stamp};
use crate::store::outcome::Put;
use crate::store::spooled::{SpoolEnd, Spooled};
use crate::store::tiers::queue::Queue;

/// The writing end. Dropped before the end of the body was handed in, it abandons it.
pub(in crate::store) struct Spool {
    queue: Arc<Queue>,
    spooled: Arc<Spooled>,
    /// The piece that the queue had no space for; then what memory had before, whole pieces in one; then full pieces
    /// that have come since.
    unsent: Option<Bytes>,
    before: Bytes,
    kept_back: VecDeque<Bytes>,
    /// What does not fill a piece yet.
    rest: Vec<u8>,
    /// All bytes so far, with those that are kept back.
    bytes: u64,
    is_handed_in: bool,
    is_settled: bool,
}

impl Spool {
    pub(in crate::store) fn new(queue: &Arc<Queue>, key: CacheKey, length: Option<u64>) -> Self {
        Self {
            queue: Arc::clone(queue),
            spooled: Arc::new(Spooled::new(key, length)),
            unsent: None,
            before: Bytes::new(),
            kept_back: VecDeque::new(),
            rest: Vec::new(),
            bytes: 0,
            is_handed_in: false,
            is_settled: false,
        }
    }

    /// What readers follow it by.
    pub(in crate::store) fn spooled(&self) -> &Arc<Spooled> {
        &self.spooled
    }

    /// Bytes that have come so far.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins with what memory had. As [`Spool::write`], but what is kept back is not copied: it is in the
    /// memory that was taken for it.
    pub(in crate::store) fn begin_with(&mut self, mut before: Bytes) -> bool {
        assert!(self.bytes == 0, "what memory had is the beginning");
        let rest = before.split_off(before.len() - before.len() % CHUNK_BYTES);
        self.bytes = before.len() as u64;
        self.before = before;
        self.write(&rest)
    }

    /// Adds bytes. Full pieces that the queue does not take now are kept back; `false` if the body cannot be
    /// stored any more. Never waits.
    pub(in crate::store) fn write(&mut self, mut bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        self.send_now();
        while !bytes.is_empty() {
            if self.rest.capacity() == 0 {
                // A short body needs no more than its length.
                let most = self.spooled.length().map_or(CHUNK_BYTES, |length| {
                    usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_BYTES)
                });
                self.rest.reserve_exact(most);
            }
            // Pieces are of one size, so that a reader finds a byte's piece by division.
            assert!(self.rest.len() < CHUNK_BYTES, "a full piece has been taken out");
            let count = bytes.len().min(CHUNK_BYTES - self.rest.len());
            self.rest.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.rest.len() == CHUNK_BYTES {
                self.kept_back.push_back(std::mem::take(&mut self.rest).into());
                self.send_now();
            }
        }
        !self.spooled.has_failed()
    }

    /// Is nothing kept back?
    pub(in crate::store) fn has_space(&self) -> bool {
        self.unsent.is_none() && self.before.is_empty() && self.kept_back.is_empty()
    }

    /// For how long a piece may wait for space in the queue.
    pub(in crate::store) fn space_wait(&self) -> Duration {
        self.queue.limits().space_wait
    }

    /// Waits until nothing is kept back; `false` if the body cannot be stored any more.
    ///
    /// Called without a lock: the wait is the backpressure on the origin server's connection.
    pub(in crate::store) fn wait_for_space(&mut self) -> bool {
        while let Some(bytes) = self.next_piece() {
            let spooled = Arc::clone(&self.spooled);
            if !self.queue.send_waiting(Change::Chunk { spooled, bytes }) {
                // There is a hole now: no later piece may make the body look whole.
                self.spooled.fail();
            }
        }
        !self.spooled.has_failed()
    }

    /// Hands in what is left, as far as the queue takes it now; is nothing left? No more bytes may come.
    pub(in crate::store) fn flush_now(&mut self) -> bool {
        self.keep_rest_back();
        self.send_now();
        self.has_space() && !self.spooled.has_failed()
    }

    /// The same, but waits as [`Spool::wait_for_space`] does.
    pub(in crate::store) fn flush(&mut self) -> bool {
        self.keep_rest_back();
        self.wait_for_space()
    }

    fn keep_rest_back(&mut self) {
        if !self.rest.is_empty() {
            self.kept_back.push_back(std::mem::take(&mut self.rest).into());
        }
    }

    /// Hands in what is kept back, until the queue is full.
    fn send_now(&mut self) {
        while let Some(bytes) = self.next_piece() {
            let spooled = Arc::clone(&self.spooled);
            if let Some(Change::Chunk { bytes, .. }) =
                self.queue.send_now(Change::Chunk { spooled, bytes })
            {
                self.unsent = Some(bytes);
                return;
            }
        }
    }

    /// The next piece that is kept back; none once the store has failed.
    fn next_piece(&mut self) -> Option<Bytes> {
        if self.spooled.has_failed() {
            (self.unsent, self.before, self.kept_back) = (None, Bytes::new(), VecDeque::new());
        }
        if self.unsent.is_some() {
            return self.unsent.take();
        }
        if !self.before.is_empty() {
            // A copy: one piece in the queue must not hold on to all that memory had.
            return Some(Bytes::copy_from_slice(&self.before.split_to(CHUNK_BYTES)));
        }
        self.kept_back.pop_front()
    }

    /// All of it has come: a stored response is to be made of it, unless it was invalidated, and `begun`
    /// is `None`. Waits for nothing: the key's lock is held, and the last piece has been flushed before.
    pub(in crate::store) fn send_whole(
        &mut self,
        head: StoredHead,
        begun: Option<Stamp>,
    ) -> Receiver<u64> {
        assert!(self.rest.is_empty() && self.has_space(), "the last piece comes before the end");
        let (reply, outcome) = sync_channel(1);
        let (spooled, head) = (Arc::clone(&self.spooled), Box::new(head));
        self.queue.send(Change::Whole { spooled, head, begun }, Some(reply));
        // Even if the queue is closed and takes nothing: `settle` sees the sender dropped.
        self.is_handed_in = true;
        outcome
    }

    /// Waits until that is done. Called without a lock.
    pub(in crate::store) fn settle(&mut self, outcome: &Receiver<u64>) -> Put {
        let put = match outcome.recv_timeout(self.queue.limits().commit_wait) {
            Ok(0) => Put::Cleared,
            Ok(_) => Put::Stored,
            Err(_) => Put::TooLarge,
        };
        self.end();
        put
    }

    /// What its readers are told of its end.
    fn end(&mut self) {
        // Readers may have all of it, stored or not; but what was not written cannot be read. A body of
        // unknown length once ended cleanly with bytes missing here, because the end was called proven
        // when the outcome had not come in time.
        let is_there = self.spooled.bytes() == self.bytes;
        self.spooled.end(if is_there { SpoolEnd::Whole } else { SpoolEnd::Cut });
        self.is_settled = true;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.is_handed_in {
            self.spooled.fail();
            self.queue.send(Change::Abandon { spooled: Arc::clone(&self.spooled) }, None);
        } else if !self.is_settled {
            // Nobody waits for the outcome; readers must not wait for ever.
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http::StatusCode;
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::body::Arriving;
    use crate::message::distant::Distant;
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::Selecting;
    use crate::store::spooled::Follower;
    use crate::store::tiers::queue::{NextWork, QueueLimits, Work};

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
            fields: Fields::new().into(),
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
            NextWork::Work(work) => Some(work),
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

    /// The queue takes two pieces, and nobody waits: what it does not take is kept back, and comes in its order.
    #[test]
    fn what_the_queue_does_not_take_is_kept_back_and_nothing_is_lost() {
        let body: Vec<u8> = (0..CHUNK_BYTES * 7 + 1000).map(|number| (number / 7) as u8).collect();
        for in_memory in [0, 1, CHUNK_BYTES, CHUNK_BYTES * 3 + 5, body.len()] {
            for piece in [CHUNK_BYTES * 4, 10_000] {
                let limits = QueueLimits { space_wait: Duration::ZERO, ..QueueLimits::of(2 << 16) };
                let queue = Arc::new(Queue::new(limits));
                let written = Arc::new(Written(Mutex::default()));
                let mut spool = Spool::new(&queue, CacheKey::from("a"), None);
                let (before, rest) = body.split_at(in_memory);
                assert!(spool.begin_with(Bytes::copy_from_slice(before)));
                for piece in rest.chunks(piece) {
                    while !spool.has_space() {
                        write(&queue, &written, 1, 1);
                        assert!(spool.write(b""), "it tries again");
                    }
                    assert!(spool.write(piece));
                    let kept: usize = spool.kept_back.iter().map(Bytes::len).sum();
                    assert!(kept <= piece.len() + CHUNK_BYTES, "what one call brings");
                }
                while !spool.flush_now() {
                    write(&queue, &written, 1, 1);
                }
                let outcome = spool.send_whole(head(), None);
                write(&queue, &written, body.len(), 1);
                assert_eq!(spool.settle(&outcome), Put::Stored);
                assert!(*written.0.lock() == body, "{in_memory} {piece}");
            }
        }
    }

    /// Whoever commits and does not wait: readers learn of an end all the same.
    #[test]
    fn readers_do_not_wait_for_an_outcome_that_nobody_waits_for() {
        for (pieces, expected) in [(9, Ok(CHUNK_BYTES * 2)), (1, Err(CHUNK_BYTES))] {
            let (queue, written) = (Arc::new(queue()), Arc::new(Written(Mutex::default())));
            let mut spool = Spool::new(&queue, CacheKey::from("a"), None);
            assert!(spool.write(&vec![1; CHUNK_BYTES * 2]) && spool.flush_now());
            let follower = spool.spooled().reader().expect("it has not failed");
            let _outcome = spool.send_whole(head(), None);
            write(&queue, &written, pieces, 1);
            drop(spool);
            assert_eq!(read(follower), expected, "{pieces}");
        }
    }

    #[test]
    fn a_piece_that_waits_too_long_lets_the_body_go() {
        let limits = QueueLimits { space_wait: Duration::ZERO, ..QueueLimits::of(1) };
        let queue = Arc::new(Queue::new(limits));
        let mut spool = Spool::new(&queue, CacheKey::from("a"), None);
        assert!(spool.write(&vec![1; CHUNK_BYTES * 2]) && !spool.has_space());
        assert!(!spool.wait_for_space() && !spool.write(b"x") && !spool.flush());
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
