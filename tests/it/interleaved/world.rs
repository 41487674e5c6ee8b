//! Everything that there is in one interleaving, and what can happen next.

use std::sync::Arc;
use std::time::Duration;

use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::proxy::fill::Transfer;
use caching_proxy::proxy::{Proxy, Refresh};
use caching_proxy::stats::Stats;
use caching_proxy::store::Store;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::tiers::{QueueLimits, WriterSteps};
use parking_lot::Mutex;

use super::super::support::engine::request;
use super::super::support::seeded::Random;
use super::super::support::{TemporaryFolder, settings};
use super::Story;
use super::checks::Purge;
use super::clients::{Client, Content, State};
use super::hasty::HastyMemory;
use super::script::{RESOURCES, SHAREABLE, Script, letter};
use super::shared::{PROXIES, SharedEnd, SharedStore};

/// Things that happen in one run, before it is brought to its end.
const STEPS: u64 = 240;
/// Steps after which a run whose clients stay must be over.
const END_STEPS: u64 = 20_000;
/// Bytes of content that wait to be written.
const QUEUED: u64 = 1 << 17;

/// What is behind memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behind {
    Nothing,
    /// A file, to which nothing is written but by a step.
    File,
    /// What two proxies have in common.
    Shared,
}

/// What goes wrong in one run.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    /// Connections die, and the origin server fails.
    pub is_rough: bool,
    /// The store that is shared fails.
    pub store_fails: bool,
    /// All ask for what can be shared, with room for all of it, and stay.
    pub is_calm: bool,
}

impl Mood {
    fn of(random: &mut Random) -> Self {
        let is_rough = !random.one_in(3);
        Self { is_rough, store_fails: is_rough && random.one_in(4), is_calm: false }
    }
}

/// A proxy.
pub struct Engine {
    pub proxy: Arc<Proxy>,
    pub cache: Arc<Cache>,
}

/// What carries out the changes behind memory.
enum Written {
    Nowhere,
    InFile(WriterSteps),
    Shared(Arc<SharedStore>),
}

/// Content on its way from the origin server: to which proxy, where it goes, and what comes. Others than the world
/// move it along, too.
pub type Transfers = Arc<Mutex<Vec<(usize, Box<Transfer>, Content)>>>;

/// Everything.
pub struct World {
    pub(super) random: Random,
    pub(super) mood: Mood,
    pub(super) engines: Vec<Engine>,
    written: Written,
    pub(super) clock: Clock,
    pub(super) script: Script,
    pub(super) clients: Vec<Client>,
    /// What the requests of this run are for: few things, so that they meet.
    resources: Vec<usize>,
    /// Content on its way from the origin server.
    pub(super) transfers: Transfers,
    /// What was purged right after a look.
    purged_meanwhile: Arc<Mutex<Vec<Selector>>>,
    /// The memory, where that is all there is.
    hasty: Option<Arc<HastyMemory>>,
    pub(super) refreshes: Vec<(usize, Refresh)>,
    pub(super) purges: Vec<Purge>,
    /// To whom an answer was given that is for nobody else.
    pub(super) personal: Vec<Option<usize>>,
    pub(super) story: Arc<Story>,
    seed: u64,
    /// Nobody leaves, no connection dies, and nothing new comes.
    pub(super) is_ending: bool,
}

impl World {
    pub fn new(seed: u64, behind: Behind, folder: Option<&TemporaryFolder>) -> Self {
        let mut random = Random::new(seed);
        let mood = Mood::of(&mut random);
        Self::in_mood(random, mood, (seed, behind, folder))
    }

    /// One in which whoever asks for the same can have one answer.
    pub fn calm(seed: u64) -> Self {
        let mood = Mood { is_rough: false, store_fails: false, is_calm: true };
        Self::in_mood(Random::new(seed), mood, (seed, Behind::Nothing, None))
    }

    fn in_mood(
        mut random: Random,
        mood: Mood,
        (seed, behind, folder): (u64, Behind, Option<&TemporaryFolder>),
    ) -> Self {
        let resource = |random: &mut Random| {
            if mood.is_calm {
                SHAREABLE[random.below(SHAREABLE.len())]
            } else {
                random.below(RESOURCES.len())
            }
        };
        let resources = (0..=random.below(3)).map(|_| resource(&mut random)).collect();
        let (clock, story) =
            (Clock::by_hand(Timestamp(1_800_000_000_000)), Arc::<Story>::default());
        let (caches, written, hasty) = caches(&mut random, mood, &story, (behind, folder));
        let engine = |cache: Arc<Cache>| {
            let (clock, stats) = (clock.clone(), Arc::new(Stats::default()));
            let proxy = Arc::new(Proxy::new(settings(), Arc::clone(&cache), clock, stats));
            Engine { proxy, cache }
        };
        let world = Self {
            random,
            mood,
            engines: caches.into_iter().map(engine).collect(),
            written,
            clock: clock.clone(),
            script: Script::new(!mood.is_rough),
            clients: Vec::new(),
            resources,
            transfers: Arc::default(),
            purged_meanwhile: Arc::default(),
            hasty,
            refreshes: Vec::new(),
            purges: Vec::new(),
            personal: Vec::new(),
            story,
            seed,
            is_ending: false,
        };
        world.make_hasty();
        world
    }

    /// After a look into memory, what was found may be purged, and content that is on its way may come to its end.
    fn make_hasty(&self) {
        let Some(hasty) = &self.hasty else { return };
        let cache = Arc::downgrade(&self.engines[0].cache);
        let (story, purged) = (Arc::clone(&self.story), Arc::clone(&self.purged_meanwhile));
        let transfers = Arc::clone(&self.transfers);
        let (mut random, is_calm) = (Random::new(self.seed ^ 1), self.mood.is_calm);
        let meanwhile = move |key: &str| {
            let Some(cache) = cache.upgrade() else { return };
            match random.below(24) {
                0 if !is_calm => {
                    let selector = Selector::Uri(key.to_string());
                    story.note(&format!("purge meanwhile: {selector:?}"));
                    purged.lock().push(selector.clone());
                    cache.forget(&selector, Timestamp(0));
                }
                1..5 => {
                    let last = transfers.lock().pop();
                    let is_over = last.is_none_or(|(_, transfer, content)| content.end(transfer));
                    story.note(&format!("content ends meanwhile: {is_over}"));
                }
                _ => {}
            }
        };
        hasty.set(Box::new(meanwhile));
    }

    /// While a request goes on, other things happen.
    pub(super) fn set_hasty(&self, is_hasty: bool) {
        if let Some(hasty) = &self.hasty {
            hasty.set_hasty(is_hasty);
        }
    }

    pub(super) fn note(&self, what: &str) {
        self.story.note(what);
    }

    pub fn step(&self) -> u64 {
        self.story.step()
    }

    /// What has happened.
    pub fn story(&self) -> String {
        self.story.text.lock().clone()
    }

    /// Lets things happen in any order.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            self.story.next_step();
            match self.random.below(44) {
                _ if self.mood.is_calm && self.has_resumed() => self.go_on(),
                8..12 if self.mood.is_calm => self.go_on(),
                40.. => self.write(),
                0..7 => self.arrive(),
                7 => self.purge(),
                8 => self.happen(),
                9 => self.leave(),
                10..12 => self.begin_refresh(),
                12..18 => self.transfer(),
                _ => self.go_on(),
            }
            self.hear();
            self.check_stored();
        }
    }

    /// Lets everything that has begun come to its end, and checks that nothing is left over.
    pub fn end(&mut self) {
        self.is_ending = true;
        let last = self.step() + END_STEPS;
        while self.clients.iter().any(|client| !client.state.is_over())
            || !self.transfers.lock().is_empty()
            || !self.refreshes.is_empty()
        {
            self.story.next_step();
            let states = || {
                let all = self.clients.iter().map(|client| client.state.name());
                all.filter(|name| *name != "over").collect::<Vec<_>>()
            };
            assert!(
                self.step() < last,
                "it does not end: {:?}, {} transfers",
                states(),
                self.transfers.lock().len()
            );
            match self.random.below(5) {
                0 => self.transfer(),
                1 => self.begin_refresh(),
                2 => self.write(),
                _ => self.go_on(),
            }
            self.hear();
            self.check_stored();
        }
        self.check_written();
        self.check_nothing_is_left();
    }

    /// Nothing waits, and nothing is held that something was to come of.
    fn check_nothing_is_left(&self) {
        for (number, Engine { proxy, cache }) in self.engines.iter().enumerate() {
            let unsettled = proxy.unsettled();
            assert_eq!(unsettled, (0, 0), "proxy {number}: flights and requests that wait");
            let usage = cache.usage().memory;
            let left = (usage.arriving_bytes, usage.under_way);
            assert_eq!(left, (0, 0), "proxy {number}: memory and notes of what arrives");
        }
        if let Written::Shared(store) = &self.written
            && !self.mood.store_fails
        {
            assert!(store.claims().is_empty(), "claims: {:?}", store.claims());
        }
    }

    /// A batch of changes is carried out behind memory, or another proxy hears of one.
    fn write(&mut self) {
        self.reform();
        match &mut self.written {
            Written::Nowhere => {}
            Written::InFile(writer) => {
                if writer.step() {
                    self.story.note("a batch is written");
                }
            }
            Written::Shared(store) => {
                let proxy = self.random.below(PROXIES);
                let _ = if self.random.one_in(2) { store.write(proxy) } else { store.hear(proxy) };
            }
        }
    }

    /// What is stored in memory is compressed, or expanded again.
    fn reform(&mut self) {
        let engine = self.random.below(self.engines.len());
        let cache = Arc::clone(&self.engines[engine].cache);
        match self.random.below(6) {
            0 | 1 => cache.compress_now(),
            2 => {
                let resource = letter(self.random.below(RESOURCES.len()));
                cache.expand_now(&CacheKey::from(&*format!("http://o.test/{resource}")));
            }
            _ => {}
        }
    }

    pub(super) fn write_all(&mut self) {
        match &mut self.written {
            Written::Nowhere => {}
            Written::InFile(writer) => writer.run(),
            Written::Shared(store) => store.settle(),
        }
        self.hear();
    }

    /// The largest content that can be stored behind memory, in bytes.
    pub(super) fn written_bytes_max(&self) -> u64 {
        match &self.written {
            Written::Shared(store) => store.content_bytes_max,
            Written::Nowhere | Written::InFile(_) => u64::MAX,
        }
    }

    /// From here on nothing happens behind memory.
    pub(super) fn let_rest(&mut self) {
        if let Written::Shared(store) = &self.written {
            store.rest();
        }
        self.write_all();
    }

    /// Takes down which proxy has heard of which purges by now.
    fn hear(&mut self) {
        let meanwhile = std::mem::take(&mut *self.purged_meanwhile.lock());
        for selector in meanwhile {
            self.purged(0, selector, None);
        }
        let Written::Shared(store) = &self.written else { return };
        for (proxy, selector, step) in store.heard() {
            // What could not be written is owed: whose turn it is cannot be told from the news then.
            if self.mood.store_fails {
                continue;
            }
            let is_it = |purge: &&mut Purge| {
                purge.proxy != proxy && purge.known[proxy].is_none() && purge.selector == selector
            };
            if let Some(purge) = self.purges.iter_mut().find(is_it) {
                purge.known[proxy] = Some(step);
            }
        }
    }

    /// A request comes.
    fn arrive(&mut self) {
        let resource = self.some_resource();
        let target = format!("/{}", letter(resource));
        let method = match self.random.below(24) {
            0 | 1 => "HEAD",
            2 => "PUT",
            3 => "POST",
            _ => "GET",
        };
        let (method, all) = if self.mood.is_calm { ("GET", 6) } else { (method, 28) };
        let fields = match self.random.below(all) {
            0 | 1 => "Accept: a",
            2 | 3 => "Accept: b",
            4 => "Accept-Language: a",
            5 if self.mood.is_calm => "Cookie: c",
            5 => "Cache-Control: no-cache",
            6 => "Cache-Control: no-store",
            7 => "Cache-Control: only-if-cached",
            8 => "Cache-Control: max-stale=100",
            9 => "Range: bytes=0-99",
            10 => "Range: bytes=100-299",
            11 => "Range: bytes=300-",
            12 => "Range: bytes=0-99; If-Range: \"1\"",
            13 => "If-None-Match: \"1\"",
            14 => "If-None-Match: \"2\"",
            15 => "If-Match: \"1\"",
            16 | 17 => "Cookie: c",
            18 => "Authorization: d",
            19 => "Authorization: e; Range: bytes=0-99",
            _ => "",
        };
        let proxy = self.random.below(self.engines.len());
        let number = self.clients.len();
        self.note(&format!("client {number} comes to proxy {proxy}: {method} {target} {fields}"));
        let request = Arc::new(request(method, &target, fields));
        self.clients.push(Client::new(request, proxy, resource));
    }

    fn purge(&mut self) {
        let letter = letter(self.some_resource());
        let selector = match self.random.below(9) {
            0 => Selector::All,
            1 => Selector::Prefix("http://o.test/".to_string()),
            2 => Selector::Tag("red".to_string()),
            3 => Selector::Match(Glob::new(&format!("*/{letter}"))),
            4 => Selector::Stale,
            _ => Selector::Uri(format!("http://o.test/{letter}")),
        };
        let proxy = self.random.below(self.engines.len());
        self.note(&format!("purge by proxy {proxy}: {selector:?}"));
        self.engines[proxy].proxy.purge(&selector);
        self.purged(proxy, selector, None);
    }

    /// Something was purged by a proxy, in this step. `own` is the answer that has done so.
    pub(super) fn purged(&mut self, proxy: usize, selector: Selector, own: Option<usize>) {
        let mut known = [None; PROXIES];
        known[proxy] = Some(self.step());
        self.purges.push(Purge { step: self.step(), proxy, selector, known, own });
    }

    /// The origin server is asked once for each resource, and once more after each purge.
    pub fn check_collapsed(&self) {
        for resource in 0..RESOURCES.len() {
            let asked = self.script.given.iter().filter(|given| given.resource == resource).count();
            let purged = self.purges.iter().filter(|purge| purge.is_about(resource)).count();
            let letter = letter(resource);
            assert!(asked <= 1 + purged, "/{letter}: {asked} requests, {purged} purges");
        }
    }

    /// Something that is about nobody in particular.
    fn happen(&mut self) {
        let proxy = self.random.below(self.engines.len());
        match self.random.below(8) {
            0..2 => {
                let resource = self.some_resource();
                self.note(&format!("resource {} changes", letter(resource)));
                self.script.change(resource);
            }
            2..5 => {
                self.note("a second passes");
                self.clock.advance(DeltaSeconds(1));
            }
            5 => {
                self.note("a minute passes");
                self.clock.advance(DeltaSeconds(60));
            }
            6 => {
                self.note("what is of no use is removed");
                self.engines[proxy].proxy.sweep();
            }
            _ => {
                self.note("who waits has waited long enough");
                self.engines[proxy].proxy.expire_parked(Duration::ZERO);
            }
        }
    }

    fn some_resource(&mut self) -> usize {
        self.resources[self.random.below(self.resources.len())]
    }

    /// A client goes away, whatever state its request is in.
    fn leave(&mut self) {
        let Some(index) = self.some_client() else { return };
        self.note(&format!("client {index} leaves, {}", self.clients[index].state.name()));
        self.clients[index].state = State::Over;
    }

    /// Can a request go on that has followed another? In a calm run it does so at once: what it has waited for could
    /// be purged before it looks, and a request waits no more than twice.
    fn has_resumed(&self) -> bool {
        self.clients.iter().any(|client| client.state.is_resumed())
    }

    pub(super) fn some_client(&mut self) -> Option<usize> {
        if self.mood.is_calm && self.has_resumed() {
            return self.clients.iter().position(|client| client.state.is_resumed());
        }
        let open: Vec<usize> =
            (0..self.clients.len()).filter(|index| !self.clients[*index].state.is_over()).collect();
        (!open.is_empty()).then(|| open[self.random.below(open.len())])
    }

    fn begin_refresh(&mut self) {
        let Some((proxy, refresh)) = self.refreshes.pop() else { return };
        if !self.is_ending && self.random.one_in(4) {
            return self.note("no worker for a refresh");
        }
        let begun = self.engines[proxy].proxy.refresh(refresh);
        self.note(&format!("a refresh begins: {}", begun.is_some()));
        if let Some(next) = begun {
            let request = Arc::new(request("GET", "/refresh", ""));
            self.clients.push(Client::refresh(request, proxy, State::Next(next)));
        }
    }
}

/// What an operator needs to try it again.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\nSEED={}, {:?}", self.story(), self.seed, self.mood);
        }
        if let Written::Shared(store) = &self.written {
            store.close();
        }
    }
}

/// The caches of the proxies, and what carries out what is to be written behind them.
fn caches(
    random: &mut Random,
    mood: Mood,
    story: &Arc<Story>,
    (behind, folder): (Behind, Option<&TemporaryFolder>),
) -> (Vec<Arc<Cache>>, Written, Option<Arc<HastyMemory>>) {
    let limits = MemoryLimits {
        bytes: [16 << 10, 64 << 10, 1 << 20][if mood.is_calm { 2 } else { random.below(3) }],
        responses: None,
        content_bytes: 8_000,
    };
    let eviction = [Eviction::Lru, Eviction::S3Fifo, Eviction::Cost][random.below(3)];
    let memory = || HastyMemory::new(store(eviction, limits));
    match (behind, folder) {
        (Behind::Shared, _) => {
            let store =
                SharedStore::new(Arc::clone(story), Random::new(random.next()), mood.store_fails);
            let cache = |proxy| {
                let end = SharedEnd { store: Arc::clone(&store), proxy };
                let queue = QueueLimits::without_waits(QUEUED);
                let (cache, writer) =
                    Cache::with_backing_by_hand(memory(), Arc::new(end), queue, false);
                store.take_over(proxy, writer);
                Arc::new(cache.compressing_by_hand())
            };
            ((0..PROXIES).map(cache).collect(), Written::Shared(Arc::clone(&store)), None)
        }
        (_, Some(folder)) => {
            let (cache, writer) = on_disk(folder, memory());
            (vec![cache], Written::InFile(writer), None)
        }
        (_, None) => {
            let hasty = memory();
            let cache = Cache::in_memory(Arc::clone(&hasty) as Arc<dyn Store>);
            (vec![Arc::new(cache.compressing_by_hand())], Written::Nowhere, Some(hasty))
        }
    }
}

/// A cache in front of a file that holds more than memory does, with short lines of what is to be written.
fn on_disk(folder: &TemporaryFolder, memory: Arc<dyn Store>) -> (Arc<Cache>, WriterSteps) {
    let disk = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 64 << 20 };
    let backing = Sqlite::open(&folder.file("cache.db"), disk).expect("a store");
    let limits = QueueLimits::without_waits(QUEUED);
    let (cache, writer) = Cache::with_backing_by_hand(memory, Arc::new(backing), limits, false);
    (Arc::new(cache.compressing_by_hand()), writer)
}
