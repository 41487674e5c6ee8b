//! A store behind the memories of two proxies, as Redis is one: with claims, and with news that come late. While
//! one proxy asks it, what the other has handed in may be carried out, and news may be heard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::message::content::Content;
use caching_proxy::message::distant::Distant;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::partial::{displaced, outdates};
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::backing::{
    Backing, BackingError, BackingUsage, Change, Fetcher, Invalidations, Listed, Recalled, Stamp,
};
use caching_proxy::store::spooled::Spooled;
use caching_proxy::store::tiers::WriterSteps;
use parking_lot::Mutex;

use super::super::support::seeded::Random;
use super::Story;

/// The proxies that share it.
pub const PROXIES: usize = 2;
/// Content of more bytes is at a distance.
const INLINE_MAX: usize = 100;

/// The store.
pub struct SharedStore {
    state: Mutex<SharedState>,
    /// What carries out the changes of each proxy.
    writers: [Mutex<Option<WriterSteps>>; PROXIES],
    listeners: [Mutex<Option<Arc<dyn Invalidations>>>; PROXIES],
    random: Mutex<Random>,
    story: Arc<Story>,
    /// Changes and questions fail now and then.
    fails: bool,
    /// Nothing happens beside what is asked.
    is_quiet: AtomicBool,
    pub content_bytes_max: u64,
}

/// Guarded by [`SharedStore::state`], which is held for one step.
#[derive(Default)]
struct SharedState {
    /// The most recent first.
    stored: BTreeMap<CacheKey, Vec<Entry>>,
    /// The number of the last invalidation of a key.
    invalidated: HashMap<CacheKey, u64>,
    purges: Vec<(Selector, Timestamp)>,
    /// Which proxy fetches a key.
    claims: BTreeMap<CacheKey, usize>,
    spooled: HashMap<u64, Arc<Mutex<Vec<u8>>>>,
    news: [VecDeque<News>; PROXIES],
    heard: Vec<(usize, Selector, u64)>,
    last_number: u64,
}

struct Entry {
    number: u64,
    head: StoredHead,
    content: Bytes,
}

/// What one proxy has done, as the other hears of it.
enum News {
    Changed { key: CacheKey, number: Option<u64>, invalidates: bool },
    Purged(Selector, Timestamp),
}

/// The store as one proxy has it.
pub struct SharedEnd {
    pub store: Arc<SharedStore>,
    pub proxy: usize,
}

impl SharedStore {
    pub fn new(story: Arc<Story>, mut random: Random, fails: bool) -> Arc<Self> {
        let content_bytes_max = [u64::MAX, 8_000][random.below(2)];
        Arc::new(Self {
            state: Mutex::default(),
            writers: Default::default(),
            listeners: Default::default(),
            random: Mutex::new(random),
            story,
            fails,
            is_quiet: AtomicBool::new(false),
            content_bytes_max,
        })
    }

    /// What carries out the changes of a proxy.
    pub fn take_over(&self, proxy: usize, writer: WriterSteps) {
        *self.writers[proxy].lock() = Some(writer);
    }

    /// Nothing fails any more, and nothing happens that is not asked for.
    pub fn rest(&self) {
        self.is_quiet.store(true, Ordering::Relaxed);
    }

    /// The writers hold the store, and the store them.
    pub fn close(&self) {
        for (writer, listener) in self.writers.iter().zip(&self.listeners) {
            drop((writer.lock().take(), listener.lock().take()));
        }
    }

    /// Carries out what has been handed in, and lets everybody hear of it.
    pub fn settle(&self) {
        loop {
            let mut is_done = true;
            for proxy in 0..PROXIES {
                while self.write(proxy) || self.hear(proxy) {
                    is_done = false;
                }
            }
            if is_done {
                return;
            }
        }
    }

    /// One batch of a proxy's changes is carried out, if there is one.
    pub fn write(&self, proxy: usize) -> bool {
        // It may be about to: then this is called by what it carries out.
        let Some(mut writer) = self.writers[proxy].try_lock() else { return false };
        let has_written = writer.as_mut().is_some_and(WriterSteps::step);
        if has_written {
            self.story.note(&format!("a batch of proxy {proxy} is written"));
        }
        has_written
    }

    /// A proxy hears one piece of news, if there is one.
    pub fn hear(&self, proxy: usize) -> bool {
        let Some(news) = self.state.lock().news[proxy].pop_front() else { return false };
        let listener = self.listeners[proxy].lock().clone();
        let Some(listener) = listener else { return true };
        let invalidated = match news {
            News::Changed { key, number, invalidates } => {
                self.story.note(&format!("proxy {proxy} hears of {key}: {number:?}"));
                listener.changed(&key, number);
                invalidates.then(|| Selector::Uri(key.to_string()))
            }
            News::Purged(selector, now) => {
                self.story.note(&format!("proxy {proxy} hears of {selector}"));
                listener.purged(&selector, now);
                Some(selector)
            }
        };
        let step = self.story.step();
        self.state.lock().heard.extend(invalidated.map(|selector| (proxy, selector, step)));
        true
    }

    /// Which proxy has heard of which purges since this was asked, and in which step.
    pub fn heard(&self) -> Vec<(usize, Selector, u64)> {
        std::mem::take(&mut self.state.lock().heard)
    }

    /// Keys that are claimed.
    pub fn claims(&self) -> Vec<CacheKey> {
        self.state.lock().claims.keys().cloned().collect()
    }

    /// Something else happens, or nothing.
    fn meanwhile(&self) {
        let is_quiet = || self.is_quiet.load(Ordering::Relaxed);
        while !is_quiet() && self.random.lock().one_in(2) {
            let choice = self.random.lock().below(2 * PROXIES);
            let proxy = choice % PROXIES;
            let _ = if choice < PROXIES { self.write(proxy) } else { self.hear(proxy) };
        }
    }

    fn failure(&self, odds: usize) -> Result<(), BackingError> {
        let fails =
            self.fails && !self.is_quiet.load(Ordering::Relaxed) && self.random.lock().one_in(odds);
        if fails {
            self.story.note("the store fails");
            return Err(BackingError("a fault".to_string()));
        }
        Ok(())
    }
}

impl SharedState {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Tells all proxies but this one.
    fn tell(&mut self, proxy: usize, news: impl Fn() -> News) {
        let others = self.news.iter_mut().enumerate().filter(|(other, _)| *other != proxy);
        others.for_each(|(_, line)| line.push_back(news()));
    }

    fn tell_changed(&mut self, proxy: usize, key: &CacheKey, number: Option<u64>) {
        self.tell(proxy, || News::Changed { key: key.clone(), number, invalidates: false });
    }

    /// May what was asked for then still be stored, as far as purges go?
    fn stands(&self, key: &CacheKey, head: &StoredHead, begun: Stamp) -> bool {
        let Some([purges, ..]) = begun.numbers else { return false };
        let later = &self.purges[purges as usize..];
        !later.iter().any(|(selector, now)| selector.selects(key.as_str(), head, *now))
    }

    fn stamp(&self, key: &CacheKey) -> Stamp {
        let invalidated = self.invalidated.get(key).copied().unwrap_or(0);
        let was_empty = self.stored.get(key).is_none_or(Vec::is_empty);
        let numbers = Some([self.purges.len() as u64, invalidated, 0, 0]);
        Stamp { numbers, was_empty, ..Stamp::default() }
    }

    fn put(
        &mut self,
        proxy: usize,
        (key, response): (&CacheKey, &StoredResponse),
        (number, content): (u64, Bytes),
        begun: Stamp,
    ) -> u64 {
        if self.claims.get(key) == Some(&proxy) {
            self.claims.remove(key);
        }
        let made_of = response.place().number();
        let current = self.stamp(key);
        let entries = self.stored.entry(key.clone()).or_default();
        let is_there = |made_of| entries.iter().any(|entry| entry.number == made_of);
        let is_same = current.numbers.map(|all| all[1]) == begun.numbers.map(|all| all[1]);
        if !is_same || !made_of.is_none_or(is_there) {
            return 0;
        }
        entries.retain(|entry| Some(entry.number) != made_of && entry.number != number);
        let goes = displaced(response, entries.iter().map(|entry| &entry.head));
        let mut goes = goes.into_iter();
        entries.retain(|_| !goes.next().expect("one answer for each"));
        let newer = |entry: &&Entry| entry.head.response_time > response.response_time;
        let place = entries.iter().take_while(newer).count();
        entries.insert(place, Entry { number, head: response.head().clone(), content });
        self.tell_changed(proxy, key, Some(number));
        response.place().set(number);
        1
    }

    /// Removes what a response has replaced that is not stored here.
    fn displace(&mut self, proxy: usize, key: &CacheKey, head: &StoredHead) -> u64 {
        let entries = self.stored.entry(key.clone()).or_default();
        let before = entries.len();
        entries.retain(|entry| !outdates(head, &entry.head));
        if entries.len() < before {
            self.tell_changed(proxy, key, None);
        }
        0
    }

    fn remove(&mut self, proxy: usize, key: &CacheKey, response: &StoredResponse) -> u64 {
        let Some(number) = response.place().number() else { return 0 };
        let entries = self.stored.entry(key.clone()).or_default();
        let before = entries.len();
        entries.retain(|entry| entry.number != number);
        let removed = before - entries.len();
        if removed > 0 {
            self.tell_changed(proxy, key, None);
        }
        removed as u64
    }

    fn forget(&mut self, proxy: usize, key: &CacheKey, invalidates: bool) -> u64 {
        let gone = self.stored.remove(key).unwrap_or_default();
        if invalidates {
            let number = self.number();
            self.invalidated.insert(key.clone(), number);
        }
        self.tell(proxy, || News::Changed { key: key.clone(), number: None, invalidates });
        gone.len() as u64
    }

    fn purge(&mut self, proxy: usize, selector: &Selector, now: Timestamp) -> u64 {
        if let Selector::Uri(uri) = selector {
            return self.forget(proxy, &CacheKey::from(uri.as_str()), true);
        }
        self.purges.push((selector.clone(), now));
        let mut count = 0;
        for (key, entries) in &mut self.stored {
            let before = entries.len();
            entries.retain(|entry| !selector.selects(key.as_str(), &entry.head, now));
            count += before - entries.len();
        }
        self.tell(proxy, || News::Purged(selector.clone(), now));
        count as u64
    }

    fn chunk(&mut self, spooled: &Spooled, bytes: &[u8]) -> u64 {
        let number = spooled.number().unwrap_or_else(|| {
            let (number, written) = (self.number(), Arc::new(Mutex::default()));
            self.spooled.insert(number, Arc::clone(&written));
            spooled.begun(number, 0, Arc::new(Growing(written)));
            number
        });
        spooled.next_chunk();
        self.spooled[&number].lock().extend_from_slice(bytes);
        spooled.grown(bytes.len() as u64);
        1
    }

    fn whole(
        &mut self,
        proxy: usize,
        spooled: &Spooled,
        head: &StoredHead,
        begun: Option<Stamp>,
    ) -> u64 {
        let (Some(number), key) = (spooled.number(), spooled.key()) else { return 0 };
        let written = self.spooled.remove(&number).expect("it has begun");
        let begun = begun.filter(|begun| self.stands(key, head, *begun));
        let Some(begun) = begun else { return 0 };
        let response = StoredResponse::new(head.clone(), Bytes::new());
        let content = Bytes::copy_from_slice(&written.lock());
        self.put(proxy, (key, &response), (number, content), begun)
    }

    fn carry_out(&mut self, proxy: usize, change: &Change) -> u64 {
        match change {
            Change::Put { key, response, begun } => {
                if !self.stands(key, response, *begun) {
                    return self.displace(proxy, key, response);
                }
                let content = response.content.in_memory().expect("it is not damaged");
                let (number, content) = if let Some(content) = content {
                    (self.number(), content)
                } else {
                    let entries = self.stored.get(key).map_or(&[][..], |entries| entries);
                    let number = response.place().number();
                    let entry = entries.iter().find(|entry| Some(entry.number) == number);
                    let Some(entry) = entry else { return 0 };
                    (entry.number, entry.content.clone())
                };
                self.put(proxy, (key, response), (number, content), *begun)
            }
            Change::Displace { key, head } => self.displace(proxy, key, head),
            Change::Remove { key, response } => self.remove(proxy, key, response),
            Change::Forget { key, invalidates } => self.forget(proxy, key, *invalidates),
            Change::Purge { selector, now } => self.purge(proxy, selector, *now),
            Change::Release { key } => {
                if self.claims.get(key) == Some(&proxy) {
                    self.claims.remove(key);
                    self.tell_changed(proxy, key, None);
                }
                0
            }
            Change::Chunk { spooled, bytes } => self.chunk(spooled, bytes),
            Change::Whole { spooled, head, begun } => self.whole(proxy, spooled, head, *begun),
            Change::Abandon { .. } | Change::Used { .. } | Change::Sweep { .. } => 0,
        }
    }
}

impl Backing for SharedEnd {
    fn name(&self) -> String {
        format!("store of proxy {}", self.proxy)
    }

    fn listen(&self, invalidations: Arc<dyn Invalidations>) {
        *self.store.listeners[self.proxy].lock() = Some(invalidations);
    }

    fn recall(&self, key: &CacheKey, claims: bool) -> Result<Recalled, BackingError> {
        self.store.meanwhile();
        self.store.failure(40)?;
        let mut state = self.store.state.lock();
        let stamp = state.stamp(key);
        let store = &self.store;
        let entries = state.stored.get(key).map_or(&[][..], |entries| entries);
        let variants: Vec<_> = entries.iter().map(|entry| entry.response(store)).collect();
        let mut fetcher = Fetcher::Nobody;
        if variants.is_empty() && claims {
            // A claim is a proxy's: for another of its own fetches it is as if another proxy had it.
            let is_free = !state.claims.contains_key(key);
            fetcher = if is_free { Fetcher::Us } else { Fetcher::Another };
            state.claims.entry(key.clone()).or_insert(self.proxy);
        }
        drop(state);
        // Its answer is on its way.
        self.store.meanwhile();
        Ok(Recalled { variants, stamp, fetcher })
    }

    /// The time is too short for the other proxy to be done; but it may have been, and have to say so.
    fn wait(&self, _: &CacheKey, _: Duration) {
        for _ in 0..2 * PROXIES {
            self.store.meanwhile();
        }
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        let mut counts = Vec::new();
        for change in changes {
            // As Redis does, it carries out some of a batch and fails.
            self.store.failure(40)?;
            let count = self.store.state.lock().carry_out(self.proxy, change);
            self.store.story.note(&format!("{} of proxy {}: {count}", shown(change), self.proxy));
            counts.push(count);
        }
        Ok(counts)
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        Some(Arc::new(Salt::new([7; SALT_BYTES])))
    }

    fn content_bytes_max(&self) -> u64 {
        self.store.content_bytes_max
    }

    /// One change at a time, as a rule.
    fn batch_bytes(&self) -> u64 {
        1
    }

    fn usage(&self) -> Result<BackingUsage, BackingError> {
        Err(BackingError("it is shared".to_string()))
    }

    fn list(&self, _: &str, _: usize) -> Result<Vec<Listed>, BackingError> {
        Err(BackingError("it is shared".to_string()))
    }
}

impl Entry {
    fn response(&self, store: &Arc<SharedStore>) -> Arc<StoredResponse> {
        let content = if self.content.len() <= INLINE_MAX {
            Content::Here(self.content.clone())
        } else {
            let store = Arc::downgrade(store);
            Content::Distant(Arc::new(Pieces { store, content: self.content.clone() }))
        };
        Arc::new(StoredResponse::new(self.head.clone(), content).found_at(self.number, 0))
    }
}

/// Content in the store, which can be read for a while after it was removed.
struct Pieces {
    store: Weak<SharedStore>,
    content: Bytes,
}

impl Distant for Pieces {
    fn length(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(store) = self.store.upgrade() {
            store.meanwhile();
        }
        Ok(copy(&self.content[at as usize..], buffer))
    }
}

/// Content on its way in.
struct Growing(Arc<Mutex<Vec<u8>>>);

impl Distant for Growing {
    fn length(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(copy(&self.0.lock()[at as usize..], buffer))
    }
}

/// A change, for the story.
fn shown(change: &Change) -> String {
    match change {
        Change::Put { key, response, begun } => {
            let place = response.place();
            format!("put {key} {:?} {place:?} {begun:?}", response.fields.get("x-serial"))
        }
        Change::Displace { key, .. } => format!("displace {key}"),
        Change::Remove { key, response } => format!("remove {key} {:?}", response.place()),
        Change::Forget { key, invalidates } => format!("forget {key}, invalidates: {invalidates}"),
        Change::Purge { selector, .. } => format!("purge {selector}"),
        Change::Release { key } => format!("release {key}"),
        Change::Chunk { bytes, .. } => format!("chunk {}", bytes.len()),
        Change::Whole { spooled, .. } => format!("whole {}", spooled.key()),
        Change::Abandon { .. } => "abandon".to_string(),
        Change::Used { .. } => "used".to_string(),
        Change::Sweep { .. } => "sweep".to_string(),
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}
