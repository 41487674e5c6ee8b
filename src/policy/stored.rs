//! A stored response, which all the other files of the policy are about. RFC 9111 §3.
//!
//! It is shared: all requests that it answers hold it at the same time, and nothing of it changes but
//! its count of reuses, its place in the store behind memory and its ready head. These are atomics or
//! set once, so that no reader takes a lock.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::content::Content;
use crate::message::fields::FieldSection;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::key::CacheKey;
use crate::policy::range::Part;
use crate::policy::vary::Selecting;

/// Fields that no client gets as they are stored: the proxy has its own, or adds itself.
const NOT_AS_STORED: [&str; 3] = ["age", "via", "x-cache"];

/// What is known of a response when its head has come: all but its content.
///
/// Everything that decides about its reuse is worked out once: a lookup compares and does not parse.
#[derive(Clone, Debug)]
pub struct StoredHead {
    /// The status code; 206 for a part.
    pub status: StatusCode,
    /// Which part of the representation the content is; `None` for all of it. A part's
    /// `Content-Range` is not among its fields.
    pub part: Option<Part>,
    /// The header section as the origin server sent it, less what may not be kept (§3.1).
    pub fields: FieldSection,
    /// The directives of its `Cache-Control`.
    pub directives: ResponseDirectives,
    /// What the request it answered had in the fields that `Vary` names.
    pub selecting: Selecting,
    /// Its freshness lifetime.
    pub lifetime: Lifetime,
    /// Its age when it arrived (§4.2.3).
    pub age_on_arrival: DeltaSeconds,
    /// When its head arrived.
    pub response_time: Timestamp,
    /// From this moment on it is stale.
    pub fresh_until: Timestamp,
    /// From this moment on it may not even be served stale, and is removed.
    pub useful_until: Timestamp,
}

/// A response of the origin server, complete or a part, as it is kept.
#[derive(Debug)]
pub struct StoredResponse {
    head: StoredHead,
    /// The content.
    pub content: Content,
    /// The same for a response and for what is the same response in another form.
    serial: u64,
    /// How often it has been reused.
    reuses: AtomicU64,
    /// Where the store behind memory keeps it. Responses that are made from it share the place: they
    /// may be made before the store has given one. Made when somebody asks: without such a store, nobody does.
    place: OnceLock<Arc<BackingId>>,
    /// Its field lines as plain requests get them; settled when the first one comes.
    ready: OnceLock<ReadyFields>,
}

/// The field lines of a stored response as all plain requests get them, but for those that change.
#[derive(Debug)]
pub(crate) enum ReadyFields {
    /// They are not the same for all.
    Differing,
    /// Those that are stored.
    Stored,
    /// Some of those that are stored.
    Copy(Box<[u8]>),
    /// Others, which are put together for each request: no memory is accounted for them.
    Others,
}

impl Deref for StoredResponse {
    type Target = StoredHead;

    fn deref(&self) -> &StoredHead {
        &self.head
    }
}

impl StoredHead {
    /// Makes it stale no later than `most` after it came. The program that stored it, or another one
    /// that shares the store, may have had another `--cache-ttl`.
    pub(crate) fn cap_freshness(&mut self, most: Duration) {
        self.fresh_until = self.fresh_until.min(self.response_time.after(most));
    }

    /// Its age at `now`, in whole seconds (§4.2.3).
    pub(crate) fn current_age(&self, now: Timestamp) -> DeltaSeconds {
        // A clock that was set back adds nothing: the age is at least that on arrival.
        self.age_on_arrival.plus(now.seconds_since(self.response_time))
    }

    /// Is it fresh at `now` (§4.2)?
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        // §4.2: fresh while the lifetime is greater than the age; equal is stale. The age is never less than that on
        // arrival, and an event loop that read its clock before that may ask: else what came stale would be fresh to it.
        now.max(self.response_time) < self.fresh_until
    }

    /// For how long it stays fresh, in whole seconds.
    pub(crate) fn fresh_for(&self, now: Timestamp) -> DeltaSeconds {
        self.fresh_until.seconds_since(now)
    }

    /// For how long it has been stale, in seconds, rounded up.
    pub(crate) fn stale_for(&self, now: Timestamp) -> DeltaSeconds {
        // Rounded up, so that `max-stale=1` ends after a second and not after two.
        Timestamp(now.0.saturating_add(999)).seconds_since(self.fresh_until)
    }

    /// Seconds of freshness left; negative once it is stale; `None` if its freshness never ends.
    pub(crate) fn freshness_left(&self, now: Timestamp) -> Option<i64> {
        if self.fresh_until == Timestamp::MAX {
            return None;
        }
        let seconds = |timestamp: Timestamp| timestamp.seconds().cast_signed();
        Some(if self.is_fresh(now) {
            i64::from(self.fresh_until.seconds_since(now).0)
        } else {
            seconds(self.fresh_until) - seconds(now)
        })
    }
}

impl StoredResponse {
    /// A stored response with its whole content.
    pub fn new(head: StoredHead, content: impl Into<Content>) -> Self {
        let (content, place) = (content.into(), OnceLock::new());
        let (serial, reuses, ready) = (next_serial(), AtomicU64::new(0), OnceLock::new());
        Self { head, content, serial, reuses, place, ready }
    }

    /// The same content under another head: a freshened response (§4.3.4), or one whose content has
    /// been fetched into memory. The caller says which; reuses are counted anew.
    #[must_use]
    pub fn with(&self, head: StoredHead, content: Content) -> Self {
        // The ready head is not taken along: it was made of the old fields.
        let place = Arc::clone(self.place()).into();
        let (serial, reuses, ready) = (next_serial(), AtomicU64::new(0), OnceLock::new());
        Self { head, content, serial, reuses, place, ready }
    }

    /// The same response, its content in another form: compressed, or not any more.
    #[must_use]
    pub fn in_form(&self, content: Content) -> Self {
        assert_eq!(content.len(), self.content.len(), "it is the same content");
        let twin = self.with(self.head.clone(), content);
        Self { serial: self.serial, reuses: AtomicU64::new(self.reuses()), ..twin }
    }

    /// Is it the same response, be it in another form?
    pub fn is_same(&self, other: &Self) -> bool {
        self.serial == other.serial
    }

    /// A response that the store behind memory keeps at `place`, and that has been reused `reuses`
    /// times.
    #[must_use]
    pub fn found_at(mut self, place: u64, reuses: u64) -> Self {
        self.place = Arc::new(BackingId::at(place)).into();
        self.reuses = AtomicU64::new(reuses);
        self
    }

    /// The same response, whose reuses are counted apart from this one's.
    #[must_use]
    pub(crate) fn copied(&self) -> Self {
        let copy = self.with(self.head.clone(), self.content.clone());
        Self { reuses: AtomicU64::new(self.reuses()), ..copy }
    }

    /// The same response, stale no later than `most` after it came.
    #[must_use]
    pub(crate) fn capped(&self, most: Duration) -> Self {
        let mut head = self.head.clone();
        head.cap_freshness(most);
        Self { head, ..self.copied() }
    }

    /// Where the store behind memory keeps it.
    pub fn place(&self) -> &Arc<BackingId> {
        self.place.get_or_init(Arc::default)
    }

    /// All but its content.
    pub fn head(&self) -> &StoredHead {
        &self.head
    }

    /// Counts one reuse; `false`, and nothing is counted, if it has been reused `most` times already
    /// (`--hit-ttl`).
    pub(crate) fn count_reuse(&self, most: u64) -> bool {
        // Compared and counted in one step: of several requests at once, exactly `most` may have it.
        let more = |reuses| (reuses < most).then_some(reuses + 1);
        self.reuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one reuse where the number has no bound.
    pub fn note_reuse(&self) {
        self.reuses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has been reused.
    pub fn reuses(&self) -> u64 {
        self.reuses.load(Ordering::Relaxed)
    }

    /// Has it been reused `most` times?
    pub(crate) fn is_used_up(&self, most: u64) -> bool {
        self.reuses.load(Ordering::Relaxed) >= most
    }

    /// Its field lines for requests that ask nothing in particular. `make` is called once at most, by the first of them.
    pub(crate) fn make_ready(&self, make: impl FnOnce(&Self) -> ReadyFields) -> &ReadyFields {
        self.ready.get_or_init(|| make(self))
    }

    /// The same, if that is settled.
    pub(crate) fn ready(&self) -> Option<&ReadyFields> {
        self.ready.get()
    }

    /// Bytes for a copy of the field lines, with one of the proxy's own; none unless a copy is to be expected.
    pub(crate) fn copy_bytes(&self) -> usize {
        const OWN_LINE: usize = 32;
        // Counted from the beginning, made or not: the weight of what is in memory must not change
        // later.
        let may_differ = NOT_AS_STORED.iter().any(|name| self.fields.may_have(name));
        if may_differ { self.fields.as_bytes().len() + OWN_LINE } else { 0 }
    }

    /// Bytes in memory under `key`: key, fields, content, and the bookkeeping around them.
    pub(crate) fn memory_bytes(&self, key: &CacheKey) -> usize {
        /// Reference counts, allocator slack, and the entries in quick_cache, in the order of eviction and among the
        /// names: as measured with 40,000 small responses.
        const BOOKKEEPING: usize = 304;
        size_of::<Self>()
            + self.fields.memory_bytes()
            + self.copy_bytes()
            + self.selecting.memory_bytes()
            + self.content.memory_bytes().unwrap_or(0)
            + key.as_str().len()
            + BOOKKEEPING
    }
}

fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Where a store behind memory keeps a response.
///
/// The writer of the store sets it, and removals, uses and freshened responses read it: possibly before
/// it is set, when they are queued behind the writing itself.
#[derive(Debug, Default)]
pub struct BackingId {
    /// The store's own number for it; 0 if it is not known to be there.
    number: AtomicU64,
    /// The store's period in which it last heard of a use; [`HEARD`] if it did before that is known.
    told: AtomicU32,
}

/// Stands for the period in which the next use is, whichever that will be.
const HEARD: u32 = u32::MAX;

impl BackingId {
    fn at(number: u64) -> Self {
        Self { number: AtomicU64::new(number), told: AtomicU32::new(0) }
    }

    /// The store's own number for it; `None` if it is not known to be there.
    pub fn number(&self) -> Option<u64> {
        // Acquire: whoever sees the number may go and read what was written under it.
        Some(self.number.load(Ordering::Acquire)).filter(|number| *number > 0)
    }

    /// Notes where the store has put it.
    pub fn set(&self, number: u64) {
        self.number.store(number, Ordering::Release);
    }

    /// The store has heard of a use so lately that another one in the present period is no news.
    pub fn note_heard(&self) {
        self.told.store(HEARD, Ordering::Relaxed);
    }

    /// Was that noted, and has it not been used since?
    pub(crate) fn was_heard(&self) -> bool {
        self.told.load(Ordering::Relaxed) == HEARD
    }

    /// Is a use in `period` the first one that the store hears of?
    pub(crate) fn is_news(&self, period: u32) -> bool {
        // Looked at before it is swapped: hits on one response from many threads would else pull its
        // cache line back and forth.
        if self.told.load(Ordering::Relaxed) == period {
            return false;
        }
        let told = self.told.swap(period, Ordering::Relaxed);
        told != period && told != HEARD
    }
}
