//! Stored responses, and what a store has of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::message::fields::Fields;
use caching_proxy::policy::cache_control::ResponseDirectives;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::freshness::Lifetime;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::reason::Detail;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::vary::{Selecting, Sent};
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::recording::Recording;
use caching_proxy::store::underway::Begun;
use http::{HeaderName, HeaderValue, StatusCode};

use super::PATIENCE;

/// So many seconds after a moment that lies a day ahead: a server that expires what it holds by its own
/// clock keeps it until then.
pub fn at(seconds: u64) -> Timestamp {
    static BEGINNING: OnceLock<u64> = OnceLock::new();
    let beginning = BEGINNING.get_or_init(|| Clock::System.now().seconds() + 86_400);
    Timestamp::from_seconds(beginning + seconds)
}

/// A response that was made for `language`, and is of use until second `useful_until`, as `at` counts.
pub fn response(language: Option<&str>, content: &[u8], useful_until: u64) -> Arc<StoredResponse> {
    let mut request = Fields::new();
    let mut fields = Fields::new();
    if let Some(language) = language {
        let value = HeaderValue::try_from(language).expect("a value");
        request.append(HeaderName::from_static("accept-language"), value);
        let names = HeaderValue::from_static("accept-language");
        fields.append(http::header::VARY, names);
    }
    let sent = Sent { fields: &request, salt: &Salt::new([0; SALT_BYTES]) };
    let parts = StoredHead {
        status: StatusCode::OK,
        part: None,
        selecting: Selecting::read(&fields, sent).expect("no star"),
        fields: fields.into(),
        directives: ResponseDirectives::default(),
        lifetime: Lifetime::Explicit(DeltaSeconds(60)),
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: Timestamp(0),
        fresh_until: at(useful_until),
        useful_until: at(useful_until),
    };
    Arc::new(StoredResponse::new(parts, Bytes::copy_from_slice(content)))
}
/// A cache that is memory alone.
pub fn memory(eviction: Eviction, limits: MemoryLimits) -> Arc<Cache> {
    Arc::new(Cache::in_memory(store(eviction, limits)))
}

pub fn put(store: &Arc<Cache>, key: &str, response: Arc<StoredResponse>) -> Put {
    let key = CacheKey::from(key);
    let begun = begun(store, &key);
    store.put(&key, response, &begun)
}

/// The state when a request begins that asks everybody.
pub fn begun(store: &Arc<Cache>, key: &CacheKey) -> Begun {
    let mut begun = store.note(key);
    store.recall(key, &mut begun, false);
    begun
}

/// What a worker would find: all that is behind memory, or what is in memory if there is nothing else.
pub fn variants(store: &Arc<Cache>, key: &str) -> Vec<Arc<StoredResponse>> {
    if store.has_backing() {
        assert!(store.flush(PATIENCE));
        return recall(store, key).expect("it works");
    }
    store.look_at(key).map(|variants| variants.to_vec()).unwrap_or_default()
}

/// Begins to store a response of unknown length, past memory.
pub fn behind(store: &Arc<Cache>, key: &CacheKey, head: StoredHead, begun: &Begun) -> Recording {
    let begun = store.begin(key.clone(), head, begun.clone(), None);
    let (mut recording, _) = begun.map_err(Detail::as_str).expect("there is room");
    assert!(recording.overflow(Bytes::new(), None), "there is a backing store");
    recording
}

/// Stores a response piece by piece, past memory.
pub fn spool(
    store: &Arc<Cache>,
    key: &CacheKey,
    head: StoredHead,
    begun: &Begun,
    content: &[u8],
) -> Put {
    let mut recording = behind(store, key, head, begun);
    assert!(
        content.chunks(10_000).all(|piece| recording.write(piece) && recording.wait_for_space())
    );
    recording.commit(Bytes::new()).wait()
}

/// Removes everything; how many responses there were.
pub fn clear(store: &Cache) -> usize {
    store.forget(&Selector::All, Timestamp::MAX).count
}

/// What is behind memory; `None` if that cannot be asked.
pub fn recall(store: &Arc<Cache>, key: &str) -> Option<Vec<Arc<StoredResponse>>> {
    let key = CacheKey::from(key);
    let recalled = store.recall(&key, &mut store.note(&key), false);
    recalled.was_answered.then_some(recalled.variants)
}

pub fn contents(store: &Arc<Cache>, key: &str) -> Vec<Bytes> {
    variants(store, key).iter().map(|response| content(response)).collect()
}

pub fn content(response: &StoredResponse) -> Bytes {
    if let Some(bytes) = response.content.in_memory().expect("it is not damaged") {
        return bytes;
    }
    let (mut slice, mut all) = (response.content.slice(0, response.content.len()), Vec::new());
    let mut piece = vec![0; 10_000];
    loop {
        match slice.read(&mut piece).expect("it is whole") {
            0 => return all.into(),
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

pub fn stored(store: &Arc<Cache>) -> u64 {
    assert!(store.flush(PATIENCE));
    let usage = store.usage();
    match usage.backing.map(|backing| backing.usage) {
        Some(Some(backing)) => backing.responses,
        Some(None) => store.list("", 100_000).len() as u64,
        None => usage.memory.responses,
    }
}
