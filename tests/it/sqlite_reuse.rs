//! What a store on disk holds, and a proxy with other settings finds there.

use std::sync::Arc;
use std::time::Duration;

use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};

use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;
use super::support::stored::{at, begun, put, response, variants};

const DISK: DiskLimits = DiskLimits { bytes: 8 << 20, responses: None, content_bytes: 1 << 20 };
const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 20 };

/// `--cache-ttl` holds for whatever is reused, whoever has stored it and whatever it was fresh by.
#[test]
fn nothing_is_reused_later_than_cache_ttl_after_it_came() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let open = |cache_ttl| -> Arc<Cache> {
        let disk = Arc::new(Sqlite::open(&path, DISK).expect("a store"));
        let memory = store(Eviction::Lru, MEMORY);
        let tiers = Cache::with_backing(memory, disk, 1 << 20, false).expect("a thread");
        Arc::new(tiers.capped(cache_ttl))
    };
    let first = open(None);
    put(&first, "long", response(None, &vec![1; 100_000], 9));
    assert_eq!(variants(&first, "long")[0].fresh_until, at(9));
    drop(first);
    let second = open(Some(Duration::from_secs(60)));
    let found = variants(&second, "long")[0].clone();
    assert_eq!((found.fresh_until, found.useful_until), (Timestamp::from_seconds(60), at(9)));
    let key = CacheKey::from("long");
    let begun = begun(&second, &key);
    let promoted = second.bring(&key, &found, &begun).expect("it is whole");
    let kept = second.look_at("long").expect("it is in memory now");
    let listed = second.list("", 10);
    for head in [promoted.head(), kept[0].head(), &listed[0].head] {
        assert_eq!(head.fresh_until, Timestamp::from_seconds(60));
    }
    // A longer one gives nothing more.
    let third = open(Some(Duration::from_secs(86_400 * 36_500)));
    assert_eq!(variants(&third, "long")[0].fresh_until, at(9));
}

#[test]
fn cache_ttl_holds_for_what_an_earlier_process_has_stored() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let fields = ["Cache-Control: max-age=600", "Expires: DATE+600", "X-Nothing: said"];
    let targets = ["/stated", "/dated", "/unstated"];
    let origin = Origin::script(targets.into_iter().zip(fields).flat_map(|(target, fields)| {
        let fields = format!("{fields}; ETag: \"1\"");
        [
            on(&format!("GET {target}")).send(200, &fields, "old"),
            on(&format!("GET {target}")).having("If-None-Match: \"1\"").send(304, &fields, ""),
        ]
    }));
    let mut first = Proxy::before(&origin, &["--store", &store]);
    for target in targets {
        assert!(!first.get(target).is_hit() && first.get(target).is_hit(), "{target}");
    }
    first.stop();
    let second = Proxy::before(&origin, &["--store", &store, "--cache-ttl", "0"]);
    for target in targets {
        let status = second.get(target).cache_status();
        assert!(status.contains("fwd=stale; fwd-status=304"), "{target}: {status}");
    }
    origin.assert_finished();
}
