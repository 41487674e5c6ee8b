//! The shared store: Redis or Valkey, on one server, a cluster or what Sentinels watch over.
//!
//! All responses for a target URI are fields of one hash, whose name is the prefix, the version of this
//! format, the generation and the URI in braces; so everything about one URI is on one node, and a clear is
//! a new generation. Generations are not counted but made from the clock: Redis may evict what says which
//! one it is, and the next must be none that was there before. Each field
//! has the response's number, how many purges it has stood, and a frame (`codec.rs`), with its content if
//! that is small; larger content is in keys of its own, piece by piece, each with a checksum. Redis
//! expires it all.
//!
//! What is removed stays removed: an invalidation raises a number beside the hash, a purge is written into
//! a list that each proxy compares with what it reads and writes, and what was asked for before is not
//! let in (`changes.rs`). What one proxy does, the others hear (`news.rs`). When Redis does not answer, it
//! is not asked any more until it is heard of again.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Value, cmd};

use crate::clock::{Clock, Timestamp};
use crate::message::content::{Content, Distant};
use crate::policy::digest::Salt;
use crate::policy::key::{CacheKey, Glob};
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::backing::{
    Backing, BackingError, BackingUsage, CHUNK_BYTES, Change, Fetcher, Invalidations, Listed,
    Recalled, Stamp,
};
use crate::store::codec;
use crate::store::redis::link::Links;
use crate::store::redis::waits::Waits;
use crate::store::salt::{from_text, random, to_text};
use crate::store::tiers::breaker::Remark;

mod address;
mod changes;
mod link;
mod listing;
mod news;
mod sentinel;
mod values;
mod waits;

pub use address::{Address, FORMS, Trust};

/// The version of the format. Proxies of different versions share nothing, and disturb nothing, in one Redis.
const FORMAT: &str = "2:";
/// How many purges are remembered; what is older than all of them is as good as purged.
const PURGES_MAX: u64 = 256;
/// Pieces that one command looks for.
const PIECES_MAX: usize = 1024;
/// For how long a proxy's word that it is fetching something holds.
const CLAIM: Duration = Duration::from_secs(10);

/// What the store is told.
#[derive(Clone, Debug)]
pub struct SharedLimits {
    /// `--redis-prefix`: what all keys begin with.
    pub prefix: String,
    /// `--max-object-size`: bytes of the largest content.
    pub content_bytes: u64,
}

/// A store in Redis.
pub struct Redis(Arc<RedisShared>);

/// What all threads share.
struct RedisShared {
    address: Address,
    limits: SharedLimits,
    links: Links,
    /// Who we are, among the proxies that share the store.
    id: String,
    state: Mutex<RedisState>,
    /// What digests of credentials are keyed with, once Redis has said.
    salt: Mutex<Option<Arc<Salt>>>,
    /// Who waits for another proxy's answer.
    waits: Waits,
    invalidations: Mutex<Option<Arc<dyn Invalidations>>>,
    last_number: AtomicU64,
    /// What is said of lost content.
    losses: Remark,
    hasher: RandomState,
}

/// What has been cleared and purged, as far as is known. Guarded by [`RedisShared::state`].
#[derive(Clone, Debug, Default)]
struct RedisState {
    generation: u64,
    purges: u64,
    /// The last of them by number: what, and when.
    remembered: BTreeMap<u64, (Selector, Timestamp)>,
}

impl RedisState {
    /// Has nothing that was purged since purge number `since` selected this response?
    fn spares(&self, since: u64, key: &CacheKey, head: &crate::policy::stored::StoredHead) -> bool {
        if since >= self.purges {
            return true;
        }
        // One that is not remembered may have selected anything.
        (since + 1..=self.purges).all(|number| {
            self.remembered
                .get(&number)
                .is_some_and(|(selector, at)| !selector.selects(key.as_str(), head, *at))
        })
    }
}

impl Redis {
    /// Opens the store. That Redis cannot be reached now is no error: it is used as soon as it can.
    pub fn open(address: Address, limits: SharedLimits) -> Result<Self, BackingError> {
        let links = Links::new(&address).map_err(|error| link::told(&error))?;
        let hasher = RandomState::new();
        let id = format!("{:016x}", hasher.hash_one("proxy"));
        let shared = Arc::new(RedisShared {
            address,
            limits,
            links,
            id,
            state: Mutex::default(),
            salt: Mutex::default(),
            waits: Waits::default(),
            invalidations: Mutex::default(),
            last_number: AtomicU64::new(0),
            losses: Remark::default(),
            hasher,
        });
        news::start(&shared)?;
        Ok(Self(shared))
    }
}

impl RedisShared {
    /// What the names of all keys begin with.
    fn beginning(&self) -> String {
        format!("{}{FORMAT}", self.limits.prefix)
    }

    /// The hash of what is stored for a target URI.
    fn entry(&self, generation: u64, key: &CacheKey) -> String {
        format!("{}e{generation:016x}:{{{key}}}", self.beginning())
    }

    /// The number of its last invalidation.
    fn invalidations(&self, key: &CacheKey) -> String {
        format!("{}i:{{{key}}}", self.beginning())
    }

    /// Who fetches it.
    fn claim(&self, key: &CacheKey) -> String {
        format!("{}f:{{{key}}}", self.beginning())
    }

    /// A piece of content.
    fn piece(&self, number: u64, piece: u64) -> String {
        format!("{}c:{{{number:016x}}}:{piece}", self.beginning())
    }

    /// What has been cleared and purged.
    fn state_key(&self) -> String {
        format!("{}state", self.beginning())
    }

    fn channel(&self) -> String {
        format!("{}news", self.beginning())
    }

    /// A number that nobody else has, as good as certainly; later ones are larger.
    fn new_number(&self) -> u64 {
        const RANDOM_BITS: u32 = 22;
        let now = Clock::System.now().0;
        let random = self.hasher.hash_one(now) >> (64 - RANDOM_BITS);
        let wanted = now << RANDOM_BITS | random;
        let later = |last: u64| Some(wanted.max(last + 1));
        let last = self.last_number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        wanted.max(last.unwrap_or(0) + 1)
    }

    fn state(&self) -> RedisState {
        self.state.lock().clone()
    }

    /// Asks for what [`Self::update_state`] takes over.
    fn read_state(&self) -> redis::Cmd {
        cmd("HMGET").arg(self.state_key()).arg(&["generation", "purges", "salt"]).clone()
    }

    /// Takes over the salt that all proxies use, or sees to it that there is one. A Redis that was
    /// emptied is given the one that it had: the first proxy to come back decides.
    fn update_salt(&self, link: &mut link::Link, told: Option<&Value>) -> redis::RedisResult<()> {
        let mut text = told.and_then(values::bytes).map(<[u8]>::to_vec);
        let known = self.salt.lock().clone();
        if text.is_none() {
            let own = known.as_ref().map_or_else(|| to_text(&random()), |salt| to_text(salt));
            link.one(cmd("HSETNX").arg(self.state_key()).arg("salt").arg(own))?;
            let kept = link.one(cmd("HGET").arg(self.state_key()).arg("salt"))?;
            text = values::bytes(&kept).map(<[u8]>::to_vec);
        }
        // What makes no sense is no salt: credentials then select nothing that others have stored.
        let kept = text.and_then(|text| from_text(&text));
        let is_same = match (&known, &kept) {
            (Some(known), Some(kept)) => known.bytes() == kept.bytes(),
            (known, kept) => known.is_none() && kept.is_none(),
        };
        if !is_same {
            *self.salt.lock() = kept.map(Arc::new);
        }
        Ok(())
    }

    /// Takes over what Redis says of clears and purges; reads more of it if something is new.
    fn update_state(&self, link: &mut link::Link, told: &Value) -> redis::RedisResult<RedisState> {
        self.update_salt(link, values::members(told).get(2))?;
        let (generation, purges) = values::two_numbers(told);
        let known = self.state();
        if generation > 0 && (known.generation, known.purges) == (generation, purges) {
            return Ok(known);
        }
        let all = if generation > 0 {
            link.one(cmd("HGETALL").arg(self.state_key()))?
        } else {
            // It has never been there, or was evicted or deleted, and the purges with it.
            self.renew_generation(link, told)?
        };
        let state = values::state(&all);
        *self.state.lock() = state.clone();
        Ok(state)
    }

    /// Begins a new generation in the place of the one that was `told`, if no other proxy has done so
    /// meanwhile; all that is known of clears and purges then.
    fn renew_generation(&self, link: &mut link::Link, told: &Value) -> redis::RedisResult<Value> {
        let seen = values::members(told).first().and_then(values::bytes).unwrap_or_default();
        let mut renew = changes::script(changes::RENEW, &[self.state_key()]);
        renew.arg(seen).arg(self.new_generation(self.state().generation));
        link.one(&renew)
    }

    /// A generation that has never been, and comes after `last`.
    fn new_generation(&self, last: u64) -> u64 {
        self.new_number().max(last.saturating_add(1))
    }
}

impl Backing for Redis {
    fn name(&self) -> String {
        format!("store {}", self.0.address)
    }

    fn is_ready(&self) -> bool {
        self.0.links.is_up()
    }

    fn listen(&self, invalidations: Arc<dyn Invalidations>) {
        *self.0.invalidations.lock() = Some(invalidations);
    }

    fn salt(&self) -> Option<Arc<Salt>> {
        self.0.salt.lock().clone()
    }

    fn recall(&self, key: &CacheKey, claims: bool) -> Result<Recalled, BackingError> {
        let shared = &self.0;
        shared.links.with(|link| {
            let known = shared.state().generation;
            let answers = link.ask(&[
                shared.read_state(),
                cmd("GET").arg(shared.invalidations(key)).clone(),
                cmd("HGETALL").arg(shared.entry(known, key)).clone(),
            ])?;
            let [told, invalidations, found] = &answers[..] else { return Ok(Recalled::default()) };
            let state = shared.update_state(link, told)?;
            let found = if state.generation == known {
                found.clone()
            } else {
                link.one(cmd("HGETALL").arg(shared.entry(state.generation, key)))?
            };
            let mut variants = shared.variants(key, &found, &state);
            let invalidations = values::number(invalidations);
            let now = Clock::System.now().0;
            let numbers = Some([state.generation, state.purges, invalidations, now]);
            let mut fetcher = Fetcher::Nobody;
            if variants.is_empty() && claims {
                let mut set = cmd("SET");
                set.arg(shared.claim(key)).arg(&shared.id).arg("NX");
                set.arg("PX").arg(CLAIM.as_millis() as u64);
                // Somebody may have stored it, and given up the claim, since we looked.
                let look = cmd("HGETALL").arg(shared.entry(state.generation, key)).clone();
                let answers = link.ask(&[set, look])?;
                let is_ours = answers.first().is_some_and(|answer| *answer != Value::Nil);
                variants = answers
                    .get(1)
                    .map(|found| shared.variants(key, found, &state))
                    .unwrap_or_default();
                fetcher = if is_ours { Fetcher::Us } else { Fetcher::Another };
            }
            let was_empty = variants.is_empty();
            let stamp = Stamp { numbers, was_empty, ..Stamp::default() };
            Ok(Recalled { variants, stamp, fetcher })
        })
    }

    fn wait(&self, key: &CacheKey, most: Duration) {
        let shared = &self.0;
        let deadline = Instant::now() + most;
        let wait = shared.waits.begin(key);
        // It may have been over before we began to listen.
        let claim = shared.links.with(|link| link.one(cmd("GET").arg(shared.claim(key))));
        if !matches!(claim, Ok(Value::Nil) | Err(_)) {
            wait.until(deadline);
        }
    }

    fn apply(&self, changes: &[&Change]) -> Result<Vec<u64>, BackingError> {
        if !self.is_ready() {
            return Err(BackingError("not reachable".to_string()));
        }
        changes::apply(&self.0, changes)
    }

    fn content_bytes_max(&self) -> u64 {
        self.0.limits.content_bytes
    }

    fn batch_bytes(&self) -> u64 {
        1 << 20
    }

    fn usage(&self) -> Result<BackingUsage, BackingError> {
        Err(BackingError("it is shared, and not counted".to_string()))
    }

    fn list(&self, after: &str, most: usize) -> Result<Vec<Listed>, BackingError> {
        listing::list(&self.0, after, most)
    }
}

impl RedisShared {
    /// The responses in a hash that belong to `key`, are whole, and have stood all purges; the most
    /// recent first.
    fn variants(
        self: &Arc<Self>,
        key: &CacheKey,
        found: &Value,
        state: &RedisState,
    ) -> Vec<Arc<StoredResponse>> {
        let mut variants: Vec<Arc<StoredResponse>> = values::fields(found)
            .into_iter()
            .filter_map(|(_, value)| {
                let (kept, own) = self.response(value)?;
                let fits = own == *key && state.spares(kept.purges, key, kept.response.head());
                fits.then(|| Arc::new(kept.response))
            })
            .collect();
        variants.sort_by_key(|response| {
            std::cmp::Reverse((response.response_time, response.place().number()))
        });
        variants
    }

    /// Reads a field of a hash.
    fn response(self: &Arc<Self>, value: &[u8]) -> Option<(ReadResponse, CacheKey)> {
        let read = values::read(value)?;
        let frame = Bytes::copy_from_slice(read.frame);
        let (key, response) = if read.is_inline {
            codec::decode(&frame).ok()?
        } else {
            let (key, head, length) = codec::decode_head(&frame).ok()?;
            let field = changes::field(&head);
            let content = RedisPieces::new(self, &key, read.number, length, Some(field));
            (key, StoredResponse::new(head, Content::Distant(Arc::new(content))))
        };
        let (number, purges) = (read.number, read.purges);
        let response = response.found_at(number, 0);
        Some((ReadResponse { purges, is_inline: read.is_inline, response }, key))
    }
}

/// A response as it was read.
struct ReadResponse {
    /// How many purges there had been when it was written.
    purges: u64,
    is_inline: bool,
    response: StoredResponse,
}

/// Content in keys of its own.
struct RedisPieces {
    shared: Arc<RedisShared>,
    number: u64,
    /// Makes its checksums its own, even if another response should have the same number.
    salt: u64,
    length: u64,
    key: CacheKey,
    /// Where the response is; `None` while it arrives.
    field: Option<String>,
}

impl RedisPieces {
    fn new(
        shared: &Arc<RedisShared>,
        key: &CacheKey,
        number: u64,
        length: u64,
        field: Option<String>,
    ) -> Self {
        let (shared, salt, key) = (Arc::clone(shared), salt(number, key), key.clone());
        Self { shared, number, salt, length, key, field }
    }

    /// A piece is not there, or is not what it was. The response goes at once: whoever asks next is
    /// not to find the same.
    fn lost(&self, what: &str) -> io::Error {
        if let Some(field) = &self.field {
            let shared = &self.shared;
            let entry = shared.entry(shared.state().generation, &self.key);
            let mut remove = changes::script(changes::REMOVE, &[entry]);
            remove.arg(field).arg(format!("{:016x}", self.number));
            remove.arg(shared.channel()).arg(news::changed(shared, &self.key, 0));
            // If it cannot be removed, it is found once more, and dropped then.
            let _ = shared.links.with(|link| link.one(&remove));
            if let Some(more) = shared.losses.due() {
                let key = self.key.redacted();
                log::warn!("store {}: {key}: {what} content; it is dropped{more}", shared.address);
            }
        }
        io::Error::new(io::ErrorKind::InvalidData, format!("{what} content"))
    }
}

/// What the checksums of a response's pieces begin with.
fn salt(number: u64, key: &CacheKey) -> u64 {
    number.rotate_left(32) ^ u64::from(codec::checksum(number, 0, key.as_str().as_bytes()))
}

impl Distant for RedisPieces {
    fn length(&self) -> u64 {
        self.length
    }

    fn is_whole(&self) -> io::Result<bool> {
        let pieces: Vec<u64> = (0..self.length.div_ceil(CHUNK_BYTES as u64)).collect();
        for some in pieces.chunks(PIECES_MAX) {
            // They are looked at as if they were read, so that none of them is evicted before the others.
            let mut touch = cmd("TOUCH");
            for piece in some {
                touch.arg(self.shared.piece(self.number, *piece));
            }
            let there = self.shared.links.with(|link| link.one(&touch));
            let there = there.map_err(|error| io::Error::other(error.0))?;
            if values::number(&there) != some.len() as u64 {
                return Err(self.lost("missing"));
            }
        }
        Ok(true)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (piece, skip) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
        let command = cmd("GET").arg(self.shared.piece(self.number, piece)).clone();
        let value = self.shared.links.with(|link| link.one(&command));
        let value = value.map_err(|error| io::Error::other(error.0))?;
        let Value::BulkString(bytes) = value else { return Err(self.lost("missing")) };
        let bytes =
            values::checked(self.salt, piece, &bytes).ok_or_else(|| self.lost("damaged"))?;
        let rest = bytes.get(skip..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// A selector as it is written down, and back.
fn selector_text(selector: &Selector) -> Vec<u8> {
    let with = |kind: u8, rest: &[u8]| [&[kind], rest].concat();
    match selector {
        Selector::All => vec![b'a'],
        Selector::Uri(uri) => with(b'u', uri.as_bytes()),
        Selector::Prefix(prefix) => with(b'p', prefix.as_bytes()),
        Selector::Match(glob) => with(b'm', glob.to_string().as_bytes()),
        Selector::Tag(tag) => with(b't', tag.as_bytes()),
        Selector::Stale => vec![b's'],
    }
}

/// One that makes no sense, of a newer proxy perhaps, may mean anything.
fn read_selector(text: &[u8]) -> Selector {
    let Some((kind, rest)) = text.split_first() else { return Selector::All };
    let rest = String::from_utf8_lossy(rest).into_owned();
    match kind {
        b'u' => Selector::Uri(rest),
        b'p' => Selector::Prefix(rest),
        b'm' => Selector::Match(Glob::new(&rest)),
        b't' => Selector::Tag(rest),
        b's' => Selector::Stale,
        _ => Selector::All,
    }
}

/// A purge as it is written down: when, in milliseconds, and what. If it makes no sense, it is of everything.
fn read_purge(text: &[u8]) -> (Selector, Timestamp) {
    let mut words = text.splitn(2, |byte| *byte == b' ');
    let at = words.next().and_then(|at| std::str::from_utf8(at).ok()?.parse().ok());
    match at.zip(words.next()) {
        Some((at, selector)) => (read_selector(selector), Timestamp(at)),
        None => (Selector::All, Timestamp::MAX),
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.0.address)
    }
}
