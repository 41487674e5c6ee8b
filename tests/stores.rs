//! One contract, run against every store: what is put comes back, whole, until it is removed; limits
//! hold; a clear cannot be undone by what was on its way.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::message::fields::Fields;
use caching_proxy::policy::cache_control::ResponseDirectives;
use caching_proxy::policy::freshness::Lifetime;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::vary::Selecting;
use caching_proxy::store::memory::{Eviction, Limits, store};
use caching_proxy::store::{Put, Store};
use http::{HeaderName, HeaderValue, StatusCode};

const POLICIES: [Eviction; 4] = [Eviction::S3Fifo, Eviction::Lru, Eviction::Entire, Eviction::None];
const ROOMY: Limits = Limits { bytes: 64 << 20, responses: None, content_bytes: 8 << 20 };

/// A response that was made for `language`, and is of use until second `useful_until`.
fn response(language: Option<&str>, content: &[u8], useful_until: u64) -> Arc<StoredResponse> {
    let mut request = Fields::new();
    let mut fields = Fields::new();
    if let Some(language) = language {
        let value = HeaderValue::try_from(language).expect("a value");
        request.append(HeaderName::from_static("accept-language"), value);
        let names = HeaderValue::from_static("accept-language");
        fields.append(http::header::VARY, names);
    }
    let parts = StoredHead {
        status: StatusCode::OK,
        part: None,
        selecting: Selecting::read(&fields, &request).expect("no star"),
        fields,
        directives: ResponseDirectives::default(),
        lifetime: Lifetime::Explicit(DeltaSeconds(60)),
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: Timestamp(0),
        fresh_until: Timestamp::from_seconds(useful_until),
        useful_until: Timestamp::from_seconds(useful_until),
    };
    Arc::new(StoredResponse::new(parts, Bytes::copy_from_slice(content)))
}

fn put(store: &Arc<dyn Store>, key: &str, response: Arc<StoredResponse>) -> Put {
    let key = CacheKey::from(key);
    store.put(&key, response, store.generation(&key))
}

fn contents(store: &Arc<dyn Store>, key: &str) -> Vec<Bytes> {
    let variants = store.get(key).unwrap_or_default();
    variants.iter().map(|response| response.content.clone()).collect()
}

#[test]
fn what_is_put_comes_back_the_newest_first_until_it_is_removed() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        assert!(contents(&store, "a").is_empty());
        assert_eq!(put(&store, "a", response(Some("en"), b"en", 9)), Put::Stored);
        assert_eq!(put(&store, "a", response(Some("de"), b"de", 9)), Put::Stored);
        assert_eq!(contents(&store, "a"), ["de", "en"], "{policy:?}");
        assert_eq!(put(&store, "a", response(Some("en"), b"new", 9)), Put::Stored);
        assert_eq!(contents(&store, "a"), ["new", "de"], "{policy:?}: in the place of the old one");
        let newest = store.get("a").expect("two")[0].clone();
        store.remove(&CacheKey::from("a"), &newest);
        store.remove(&CacheKey::from("a"), &newest);
        assert_eq!(contents(&store, "a"), ["de"], "{policy:?}");
        assert_eq!(store.usage().responses, 1);
        assert_eq!(
            (store.remove_all(&CacheKey::from("a")), store.remove_all(&CacheKey::from("a"))),
            (1, 0)
        );
        assert_eq!((store.usage().responses, store.usage().bytes), (0, 0), "{policy:?}");
    }
}

#[test]
fn a_clear_cannot_be_undone_by_what_was_on_its_way() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        let begun = store.generation(&CacheKey::from("b"));
        put(&store, "a", response(None, b"a", 9));
        assert_eq!(store.clear(), 1, "{policy:?}");
        assert_eq!(store.put(&CacheKey::from("b"), response(None, b"b", 9), begun), Put::Cleared);
        assert_eq!(store.usage().responses, 0);
        assert_eq!(put(&store, "b", response(None, b"b", 9)), Put::Stored);
    }
}

#[test]
fn an_invalidation_cannot_be_undone_by_what_was_on_its_way() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        let key = CacheKey::from("a");
        let begun = store.generation(&key);
        assert_eq!(store.remove_all(&key), 0, "nothing was stored yet, but it is on its way");
        assert_eq!(store.put(&key, response(None, b"old", 9), begun), Put::Cleared, "{policy:?}");
        assert_eq!(put(&store, "a", response(None, b"new", 9)), Put::Stored);
    }
}

#[test]
fn a_sweep_removes_what_is_of_no_more_use_and_nothing_else() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        for number in 0..1000 {
            put(&store, &number.to_string(), response(None, b"x", number % 2 * 100));
        }
        assert_eq!(store.sweep(Timestamp::from_seconds(50)), 500, "{policy:?}");
        assert_eq!(store.usage().responses, 500);
        assert!(contents(&store, "0").is_empty() && contents(&store, "1").len() == 1);
    }
}

#[test]
fn the_number_of_responses_is_bounded_exactly() {
    for most in [1, 2, 3, 10, 100] {
        for policy in [Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
            let store = store(policy, Limits { responses: Some(most), ..ROOMY });
            for number in 0..most {
                put(&store, &number.to_string(), response(None, b"x", 9));
            }
            assert_eq!(store.usage().responses, most, "{policy:?} has room for {most}");
            for number in most..most * 5 {
                put(&store, &number.to_string(), response(None, b"x", 9));
                assert!(store.usage().responses <= most, "{policy:?}: {most}");
            }
            assert!(store.usage().evicted >= most * 4, "{policy:?}: {:?}", store.usage());
        }
    }
    let store = store(Eviction::None, Limits { responses: Some(2), bytes: 1 << 16, ..ROOMY });
    for number in 0..100 {
        put(&store, &number.to_string(), response(None, &[0; 10_000], 9));
    }
    assert_eq!(
        (store.usage().responses, store.usage().evicted),
        (100, 0),
        "none: no limit applies"
    );
}

#[test]
fn the_memory_is_bounded() {
    for policy in [Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
        let store = store(policy, Limits { bytes: 1 << 20, ..ROOMY });
        for number in 0..2000 {
            put(&store, &number.to_string(), response(None, &vec![0; number % 50 * 1000], 9));
            assert!(store.usage().bytes <= 1 << 20, "{policy:?}: {:?}", store.usage());
        }
        assert!(store.usage().responses > 0);
    }
}

#[test]
fn lru_evicts_exactly_the_least_recently_used() {
    let store = store(Eviction::Lru, Limits { responses: Some(3), ..ROOMY });
    for key in ["a", "b", "c"] {
        put(&store, key, response(None, key.as_bytes(), 9));
    }
    let first = store.get("a").expect("it is stored")[0].clone();
    store.touch("a", &first);
    // To look is not to use: only what is reused counts.
    store.get("b");
    put(&store, "d", response(None, b"d", 9));
    let kept = ["a", "b", "c", "d"].map(|key| contents(&store, key).len());
    assert_eq!(kept, [1, 0, 1, 1]);
    // Each variant counts by itself.
    put(&store, "d", response(Some("en"), b"en", 9));
    assert_eq!((contents(&store, "c").len(), contents(&store, "d").len()), (0, 2));
}

#[test]
fn entire_drops_everything_when_it_is_full() {
    let store = store(Eviction::Entire, Limits { responses: Some(3), ..ROOMY });
    for key in ["a", "b", "c", "d"] {
        put(&store, key, response(None, key.as_bytes(), 9));
    }
    assert_eq!(["a", "b", "c", "d"].map(|key| contents(&store, key).len()), [0, 0, 0, 1]);
    assert_eq!(store.usage().evicted, 3);
}

/// quick_cache refuses what is heavier than almost a whole shard.
#[test]
fn a_large_response_is_kept_whatever_the_number_of_shards() {
    for megabytes in [4, 16, 64, 256] {
        for policy in [Eviction::S3Fifo, Eviction::Lru, Eviction::Entire] {
            let limits = Limits { bytes: megabytes << 20, ..ROOMY };
            let store = store(policy, limits);
            let largest = vec![0; store.content_bytes_max() as usize];
            assert_eq!(largest.len() as u64, (8 << 20).min(megabytes << 18));
            for key in ["a", "b", "c"] {
                assert_eq!(put(&store, key, response(None, &largest, 9)), Put::Stored);
                assert_eq!(contents(&store, key).len(), 1, "{policy:?}: {megabytes}M");
            }
            let too_large = vec![0; largest.len() + 1];
            assert_eq!(put(&store, "d", response(None, &too_large, 9)), Put::TooLarge);
        }
    }
}

#[test]
fn a_scan_does_not_sweep_out_what_is_used() {
    let store = store(Eviction::S3Fifo, Limits { responses: Some(100), ..ROOMY });
    for key in 0..50 {
        put(&store, &format!("used{key}"), response(None, b"x", 9));
        contents(&store, &format!("used{key}"));
    }
    for key in 0..2000 {
        put(&store, &format!("scan{key}"), response(None, b"x", 9));
    }
    let kept = (0..50).filter(|key| !contents(&store, &format!("used{key}")).is_empty()).count();
    assert!(kept >= 45, "{kept} of 50");
}

#[test]
fn bodies_on_their_way_in_share_a_quarter_of_the_memory() {
    for policy in POLICIES {
        let store = store(policy, Limits { bytes: 4 << 20, ..ROOMY });
        let (mut first, mut second) = (store.room(), store.room());
        assert!(first.grow(700_000) && first.grow(300_000));
        let beyond = policy == Eviction::None;
        assert_eq!(second.grow(100_000), beyond, "{policy:?}");
        drop(first);
        assert!(second.grow(1_000_000));
        drop(second);
        assert_eq!(store.usage().arriving_bytes, 0);
    }
}

#[test]
fn variants_of_one_target_are_bounded() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        for number in 0..200 {
            put(&store, "a", response(Some(&format!("l{number}")), b"x", 9));
        }
        assert_eq!(contents(&store, "a").len(), caching_proxy::store::VARIANTS_MAX, "{policy:?}");
    }
}

#[test]
fn concurrent_use_loses_nothing_and_mixes_nothing_up() {
    for policy in POLICIES {
        let store = store(policy, ROOMY);
        thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let language = format!("l{thread}");
                    for round in 0..200 {
                        let key = format!("{}", round % 10);
                        let content = format!("{key} {language}");
                        put(store, &key, response(Some(&language), content.as_bytes(), 9));
                        for variant in store.get(key.as_str()).unwrap_or_default().iter() {
                            assert!(variant.content.starts_with(key.as_bytes()));
                        }
                        if round % 50 == 0 {
                            store.sweep(Timestamp::from_seconds(5));
                        }
                    }
                });
            }
        });
        for key in 0..10 {
            assert_eq!(
                contents(&store, &key.to_string()).len(),
                8,
                "{policy:?}: all variants are there"
            );
        }
    }
}
