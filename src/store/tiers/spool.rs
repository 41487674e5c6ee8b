//! A body that is too large for memory, on its way into the store behind it: piece by piece, and read
//! by others meanwhile. It becomes a stored response when all of it has come, or nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::message::body::Arriving;
use crate::message::content::Distant;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::Put;
use crate::store::backing::{CHUNK_BYTES, Change, Stamp};
use crate::store::tiers::queue::Queue;

/// For how long the last word about a body is waited for.
const COMMIT_MAX: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 10_000 });

/// What is known of such a body, to who writes it, to the store, and to who reads it.
pub struct Spooled {
    key: CacheKey,
    /// Its length, where the origin server stated it.
    length: Option<u64>,
    state: Mutex<SpoolState>,
    /// The state has changed.
    moved: Condvar,
}

/// Guarded by [`Spooled::state`].
#[derive(Default)]
struct SpoolState {
    /// The store's own numbers for it, once there are some.
    place: Option<(u64, u64)>,
    /// Pieces that the store has been given.
    chunks: u64,
    /// What reads the bytes that are in the store.
    content: Option<Arc<dyn Distant>>,
    /// So many bytes are in the store.
    bytes: u64,
    end: Option<SpoolEnd>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum SpoolEnd {
    Whole,
    Cut,
}

impl Spooled {
    /// The key that it is to be stored under.
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// The store's own number for it.
    pub fn number(&self) -> Option<u64> {
        self.place().map(|(number, _)| number)
    }

    /// The same, and the number that makes its checksums its own.
    pub fn place(&self) -> Option<(u64, u64)> {
        self.state.lock().place
    }

    /// The number of the next piece.
    pub fn next_chunk(&self) -> u64 {
        let mut state = self.state.lock();
        state.chunks += 1;
        state.chunks - 1
    }

    /// Bytes that are in the store.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The store has begun to keep it.
    pub fn begun(&self, number: u64, salt: u64, content: Arc<dyn Distant>) {
        let mut state = self.state.lock();
        (state.place, state.content) = (Some((number, salt)), Some(content));
    }

    /// So many more bytes are in the store, for good.
    pub fn grown(&self, bytes: u64) {
        self.state.lock().bytes += bytes;
        self.moved.notify_all();
    }

    /// It will not be stored, and cannot be read any further.
    pub fn fail(&self) {
        self.end(SpoolEnd::Cut);
    }

    fn end(&self, end: SpoolEnd) {
        self.state.lock().end.get_or_insert(end);
        self.moved.notify_all();
    }

    /// Was some of it not written, so that nothing may be made of the rest?
    pub fn has_failed(&self) -> bool {
        self.state.lock().end == Some(SpoolEnd::Cut)
    }

    /// Reads it from the front, as it comes; `None` if it has failed.
    pub fn reader(self: &Arc<Self>) -> Option<Follower> {
        (!self.has_failed()).then(|| Follower { spooled: Arc::clone(self), at: 0 })
    }
}

/// The writing end. Dropped without a word, it abandons the body.
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
        let (state, moved) = (Mutex::default(), Condvar::new());
        let spooled = Arc::new(Spooled { key, length, state, moved });
        let (queue, rest) = (Arc::clone(queue), Vec::new());
        Self { queue, spooled, rest, handed_in: 0, committed: false }
    }

    /// What others read it by.
    pub fn spooled(&self) -> &Arc<Spooled> {
        &self.spooled
    }

    /// Adds bytes; waits while the store has too much before it. `false` if it cannot be stored any more.
    pub fn write(&mut self, mut bytes: &[u8]) -> bool {
        self.handed_in += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.rest.capacity() == 0 {
                // A short body needs no more than its length.
                let most = self.spooled.length.map_or(CHUNK_BYTES, |length| {
                    usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_BYTES)
                });
                self.rest.reserve_exact(most);
            }
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
    /// is `None`. Waits for nothing.
    pub(in crate::store) fn send_whole(
        &mut self,
        head: StoredHead,
        begun: Option<Stamp>,
    ) -> Receiver<u64> {
        let (reply, told) = sync_channel(1);
        let (spooled, head) = (Arc::clone(&self.spooled), Box::new(head));
        self.queue.send(Change::Whole { spooled, head, begun }, Some(reply));
        self.committed = true;
        told
    }

    /// Waits until that is done.
    pub(in crate::store) fn settle(self, told: &Receiver<u64>) -> Put {
        let put = match told.recv_timeout(COMMIT_MAX) {
            Ok(0) => Put::Cleared,
            Ok(_) => Put::Stored,
            Err(_) => Put::TooLarge,
        };
        // Whoever reads along may have all of it, stored or not; but what is not there cannot be read, and
        // only its length would tell a client that it is missing.
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

/// One reader of such a body; waits for what has not come yet.
pub struct Follower {
    spooled: Arc<Spooled>,
    at: u64,
}

impl Arriving for Follower {
    fn length(&self) -> Option<u64> {
        self.spooled.length
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.spooled.state.lock();
        while state.bytes == self.at && state.end.is_none() {
            self.spooled.moved.wait(&mut state);
        }
        let there = state.bytes - self.at;
        if there == 0 {
            return match state.end {
                Some(SpoolEnd::Whole) => Ok(0),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let content = state.content.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        drop(state);
        let most = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let count = content.read_at(self.at, &mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::clock::{DeltaSeconds, Timestamp};
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::Selecting;
    use crate::store::tiers::queue::{Next, Work};

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

    /// What becomes of the last word about a body, and what who reads it is told.
    #[test]
    fn a_body_ends_well_only_if_all_of_it_can_be_read() {
        const BODY: usize = CHUNK_BYTES * 2 + 1000;
        const PIECES: usize = 3;
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        enum Fate {
            Stored,
            Cleared,
            /// Nobody carries anything out in time, or so many pieces.
            Late(usize),
            Closed(usize),
            /// The store fails on what comes after so many pieces.
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
                let queue = Arc::new(Queue::new(1 << 20));
                let written = Arc::new(Written(Mutex::default()));
                let mut spool = Spool::new(&queue, CacheKey::from("a"), length);
                assert!(spool.write(&vec![1; BODY]) && spool.flush());
                let follower = spool.spooled().reader().expect("it has not failed");
                if let Closed(pieces) = fate {
                    write(&queue, &written, pieces, 1);
                    queue.close();
                }
                let told = spool.send_whole(head(), None);
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
                assert_eq!(spool.settle(&told), expected, "{fate:?} {length:?}");
                assert_eq!(read(follower), expected_read, "{fate:?} {length:?}");
            }
        }
    }

    #[test]
    fn what_has_failed_on_its_way_is_not_handed_in() {
        let queue = Arc::new(Queue::new(1 << 20));
        let mut spool = Spool::new(&queue, CacheKey::from("a"), None);
        assert!(spool.write(&vec![1; CHUNK_BYTES]), "nothing is left to be flushed");
        queue.failed(&work(&queue).expect("a piece"), true);
        assert!(!spool.flush());
    }
}
