//! Compresses what is stored in memory, when that is nearly full (`--cache-compress`).
//!
//! One thread does it, from the oldest response on, and ends when there is nothing to do. What has been used a few times since
//! it came, or since the thread has passed it, is left as it is; what is compressed and turns out to be used often is
//! expanded again. Neither is a change of what is stored: a request that holds the other form goes on with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::message::content::Content;
use crate::message::packed::Packing;
use crate::policy::key::CacheKey;
use crate::policy::packing::is_worth_packing;
use crate::policy::stored::StoredResponse;
use crate::store::Store;

/// What is used as often as this between two looks stays as it came.
const USES_KEPT: u64 = 4;
/// What is used as often as this while it is compressed is expanded.
const USES_EXPANDED: u64 = 16;
/// For how long the thread waits for work before it ends.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// For how long it leaves alone what is used all the time.
const PAUSE: Duration = Duration::from_secs(1);
/// How many keys wait for it at a time: as many as there are likely to be responses in the memory, within these.
const WAITING: (u64, u64) = (256, 1 << 16);
/// What a response usually takes, as far as one can know.
const USUAL_BYTES: u64 = 2048;
/// How often it looks whether there is work.
const LOOK: Duration = Duration::from_millis(20);
/// For how long it works at a time.
const TURN: Duration = Duration::from_micros(500);
/// After each turn it rests for so many times as long, and takes an eighth of one core at most: its work can wait, and clients
/// cannot. A low priority would do the same, but for the locks: whoever waits for one would wait as if by that priority.
const REST: u32 = 7;

/// What is to be compressed, and who does it.
pub(in crate::store) struct Packer {
    memory: Arc<dyn Store>,
    waiting_max: usize,
    state: Mutex<PackerState>,
    packed: AtomicU64,
    /// No thread is started: [`Packer::pack_all`] and [`Packer::expand_all`] do its work.
    by_hand: bool,
}

/// Guarded by [`Packer::state`].
#[derive(Default)]
struct PackerState {
    waiting: VecDeque<Noted>,
    /// What is compressed and used often.
    used: VecDeque<CacheKey>,
    is_running: bool,
}

/// A key with something that may be worth compressing.
struct Noted {
    key: CacheKey,
    /// The uses of all that is stored for it, when the thread, or the client, was there last.
    uses: u64,
}

/// The outcome of a look at a key.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Passed {
    Done,
    /// It is used: look again.
    Kept(u64),
}

impl Packer {
    /// For a memory of `bytes`; without a thread if it works by hand.
    pub(in crate::store) fn new(memory: Arc<dyn Store>, bytes: u64, by_hand: bool) -> Arc<Self> {
        let waiting_max = (bytes / USUAL_BYTES).clamp(WAITING.0, WAITING.1) as usize;
        let (state, packed) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { memory, waiting_max, state, packed, by_hand })
    }

    /// Responses compressed so far.
    pub(in crate::store) fn packed(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    /// A response has been stored for `key`. Waits for nothing.
    pub(in crate::store) fn stored(self: &Arc<Self>, key: &CacheKey, response: &StoredResponse) {
        if response.content.here().is_none() || !is_worth_packing(response, response.content.len())
        {
            return;
        }
        let mut state = self.state.lock();
        if state.waiting.len() == self.waiting_max {
            // The oldest stays as it is, until it is evicted.
            state.waiting.pop_front();
        }
        state.waiting.push_back(Noted { key: key.clone(), uses: response.reuses() });
        if self.memory.is_nearly_full() {
            self.start(&mut state);
        }
    }

    /// A compressed response for `key` has been used. Waits for nothing.
    pub(in crate::store) fn used(self: &Arc<Self>, key: &str, response: &StoredResponse) {
        if !response.reuses().is_multiple_of(USES_EXPANDED) {
            return;
        }
        let mut state = self.state.lock();
        if state.used.len() < self.waiting_max {
            state.used.push_back(CacheKey::from(key));
            self.start(&mut state);
        }
    }

    /// Compresses all that waits for it, used or not.
    pub(in crate::store) fn pack_all(&self) {
        let Ok(mut packing) = Packing::new() else { return };
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for noted in waiting {
            self.pack(&Noted { uses: u64::MAX - USES_KEPT, ..noted }, &mut packing);
        }
    }

    /// Expands what is stored for a key.
    pub(in crate::store) fn expand_all(&self, key: &CacheKey) {
        self.expand(key);
    }

    /// Sees to it that the thread runs. It is not woken: that would cost whoever stores a response more than storing it.
    fn start(self: &Arc<Self>, state: &mut PackerState) {
        if self.by_hand || state.is_running {
            return;
        }
        let packer = Arc::clone(self);
        let started = thread::Builder::new().name("packer".to_string()).spawn(move || packer.run());
        // Without a thread, everything stays as it came.
        state.is_running = started.is_ok();
    }

    fn run(&self) {
        // Whatever goes wrong, the next response starts another thread.
        let ending = PackerEnd(self);
        let Ok(mut packing) = Packing::new() else { return };
        // How many have been left alone in turn.
        let mut kept = 0;
        let (mut turn_began, mut worked_last) = (Instant::now(), Instant::now());
        loop {
            let mut state = self.state.lock();
            let all_kept = kept > 0 && kept >= state.waiting.len();
            if let Some(key) = state.used.pop_front() {
                drop(state);
                self.expand(&key);
            } else if let Some(noted) = self.next_to_pack(&mut state, all_kept) {
                drop(state);
                match self.pack(&noted, &mut packing) {
                    Passed::Done => kept = 0,
                    Passed::Kept(uses) => {
                        kept += 1;
                        self.state.lock().waiting.push_back(Noted { uses, ..noted });
                    }
                }
            } else if !all_kept && worked_last.elapsed() >= IDLE_MAX {
                // Under the lock: whoever notes something from now on starts another thread.
                state.is_running = false;
                return std::mem::forget(ending);
            } else {
                drop(state);
                thread::sleep(if all_kept { PAUSE } else { LOOK });
                kept = 0;
                turn_began = Instant::now();
                continue;
            }
            worked_last = Instant::now();
            let worked = worked_last.duration_since(turn_began);
            if worked >= TURN {
                thread::sleep(worked * REST);
                turn_began = Instant::now();
            }
        }
    }

    /// What has waited longest, if there is need.
    fn next_to_pack(&self, state: &mut PackerState, all_kept: bool) -> Option<Noted> {
        if all_kept || !self.memory.is_nearly_full() {
            return None;
        }
        state.waiting.pop_front()
    }

    /// Compresses what is stored for a key, unless it is used.
    fn pack(&self, noted: &Noted, packing: &mut Packing) -> Passed {
        let variants = self.memory.peek(&noted.key);
        let Some(variants) = variants else { return Passed::Done };
        let uses = variants.iter().map(|response| response.reuses()).sum::<u64>();
        if uses >= noted.uses + USES_KEPT {
            return Passed::Kept(uses);
        }
        for response in variants.iter() {
            let Content::Here(content) = &response.content else { continue };
            if !is_worth_packing(response, response.content.len()) {
                continue;
            }
            if let Some(packed) = packing.pack(content) {
                let packed = response.in_form(Content::Packed(Arc::new(packed)));
                if self.memory.reform(&noted.key, response, Arc::new(packed)) {
                    self.packed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Passed::Done
    }

    /// Expands what is stored for a key, and notes it for later.
    fn expand(&self, key: &CacheKey) {
        let variants = self.memory.peek(key);
        for response in variants.iter().flat_map(|variants| variants.iter()) {
            let Content::Packed(packed) = &response.content else { continue };
            let Ok(content) = packed.expand() else { continue };
            let plain = Arc::new(response.in_form(Content::Here(content)));
            if self.memory.reform(key, response, Arc::clone(&plain)) {
                let noted = Noted { key: key.clone(), uses: plain.reuses() };
                let mut state = self.state.lock();
                if state.waiting.len() < self.waiting_max {
                    state.waiting.push_back(noted);
                }
            }
        }
    }
}

/// Notes that the thread is gone, if it panics or cannot begin.
struct PackerEnd<'a>(&'a Packer);

impl Drop for PackerEnd<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_running = false;
    }
}
