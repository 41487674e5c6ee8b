//! The cache without a thread: changes wait in the queue until the test carries them out, one batch at a time, and
//! nothing waits. With an engine over it, the test is the driver.

use std::sync::Arc;

use bytes::Bytes;
use caching_proxy::clock::{Clock, Timestamp};
use caching_proxy::message::body::{Arriving, Body, Grown};
use caching_proxy::origin::OriginHead;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::response::Response;
use caching_proxy::proxy::fill::{Ending, PassedResponse, Progress, Transfer};
use caching_proxy::proxy::{AfterHead, Attempt, Next, Proxy};
use caching_proxy::stats::Stats;
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::recording::Commit;
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::tiers::{FetchClaim, QueueLimits, WriterSteps};
use http::{StatusCode, Version};
use parking_lot::Mutex;

use super::support::engine::{request, to_fields};
use super::support::stored::{at, begun, behind, content, recall, response};
use super::support::{TemporaryFolder, settings};

const KEY: &str = "http://o.test/a";
/// Two pieces of a large body.
const QUEUED: u64 = 2 << 16;

fn open(folder: &TemporaryFolder) -> (Arc<Cache>, WriterSteps) {
    let disk = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 64 << 20 };
    let backing = Sqlite::open(&folder.file("cache.db"), disk).expect("a store");
    let limits = MemoryLimits { bytes: 16 << 20, responses: None, content_bytes: 4 << 20 };
    let (memory, limits) = (store(Eviction::Lru, limits), QueueLimits::without_waits(QUEUED));
    let (cache, steps) = Cache::with_backing_by_hand(memory, Arc::new(backing), limits, false);
    (Arc::new(cache), steps)
}

fn found(cache: &Arc<Cache>) -> Option<Vec<Bytes>> {
    Some(recall(cache, KEY)?.iter().map(|response| content(response)).collect())
}

#[test]
fn changes_are_carried_out_when_the_test_says_so() {
    let folder = TemporaryFolder::new();
    let (cache, mut steps) = open(&folder);
    let key = CacheKey::from(KEY);
    assert_eq!(found(&cache), Some(vec![]));
    let begun = begun(&cache, &key);
    assert_eq!(cache.put(&key, response(None, b"a", 9), &begun), Put::Stored);
    assert!(cache.look(&key).variants.is_some());
    assert_eq!(found(&cache), None, "the change of its key is not carried out");
    assert!(steps.step() && !steps.step());
    assert_eq!(found(&cache), Some(vec![Bytes::from_static(b"a")]));
    let purged = cache.forget(&Selector::All, at(0));
    assert!(purged.count == 1 && purged.owed_by.is_some(), "it is not carried out yet: {purged:?}");
    steps.run();
    assert_eq!(found(&cache), Some(vec![]));
    // No thread is left to be waited for.
    drop(steps);
    assert!(cache.close(std::time::Duration::ZERO));
}

#[test]
fn a_large_body_goes_on_as_the_queue_has_space() {
    let folder = TemporaryFolder::new();
    let (cache, mut steps) = open(&folder);
    let key = CacheKey::from(KEY);
    let body: Vec<u8> = (0..1_000_000_u32).map(|number| (number / 9) as u8).collect();
    let head = response(None, b"", 9).head().clone();
    let mut recording = behind(&cache, &key, head, &begun(&cache, &key));
    let reader = recording.spooled().expect("it goes behind memory").reader();
    for piece in body.chunks(100_000) {
        while !recording.has_space() {
            assert!(steps.step() && recording.write(b""), "it tries again");
        }
        assert!(recording.write(piece));
    }
    let Commit::Pending(mut settling) = recording.commit(Bytes::new()) else {
        panic!("it is not carried out yet")
    };
    while !settling.hand_in() {
        assert!(steps.step(), "the queue was full");
    }
    steps.run();
    assert_eq!(settling.wait(), Put::Stored);
    assert!(found(&cache) == Some(vec![body.clone().into()]));
    let (mut reader, mut read) = (reader.expect("it has not failed"), Vec::new());
    let mut piece = vec![0; 100_000];
    while let count @ 1.. = reader.read(&mut piece).expect("a proven end") {
        read.extend_from_slice(&piece[..count]);
    }
    assert!(read == body);
}

/// Whoever commits a body and goes away: it is stored if that is done by then, else given up; and memory has in
/// no case what it may have displaced.
#[test]
fn a_body_that_nobody_waits_for_is_stored_by_then_or_given_up() {
    for is_done in [true, false] {
        let folder = TemporaryFolder::new();
        let (cache, mut steps) = open(&folder);
        let key = CacheKey::from(KEY);
        let begun = begun(&cache, &key);
        cache.put(&key, response(None, b"old", 9), &begun);
        steps.run();
        let mut recording = behind(&cache, &key, response(None, b"", 9).head().clone(), &begun);
        assert!(recording.write(b"new"));
        let commit = recording.commit(Bytes::new());
        if is_done {
            steps.run();
        }
        drop(commit);
        steps.run();
        assert!(cache.look(&key).variants.is_none(), "{is_done}");
        let expected = if is_done { "new" } else { "old" };
        assert_eq!(found(&cache), Some(vec![Bytes::from_static(expected.as_bytes())]));
    }
}

/// `proxy explain` sees what memory and what is behind it have, and what it does nobody sees.
#[test]
fn a_cache_apart_changes_nothing() {
    let folder = TemporaryFolder::new();
    let (cache, mut steps) = open(&folder);
    let key = CacheKey::from(KEY);
    let stored = response(None, b"a", 9);
    cache.put(&key, Arc::clone(&stored), &begun(&cache, &key));
    steps.run();
    // As after a restart: it is behind memory alone.
    let (again, mut more) = open(&folder);
    for below in [&cache, &again] {
        let (look, usage) = (below.look(&key), below.usage().memory);
        let apart = Cache::apart(below, &key);
        assert!(apart.has_backing());
        let mut begun = apart.note(&key);
        let recalled = apart.recall(&key, &mut begun, true);
        assert!(recalled.was_answered && matches!(recalled.claim, FetchClaim::None));
        let [found] = &recalled.variants[..] else { panic!("one response") };
        let brought = apart.bring(&key, found, &begun).expect("it is whole");
        assert!(content(&brought) == "a" && !apart.has_backing(), "all that there is is shown");
        brought.note_reuse();
        apart.invalidate(&key, None);
        apart.forget(&Selector::All, at(0));
        assert!(apart.look(&key).variants.is_none());
        assert!(!below.has_changed(&key, &look) && below.usage().memory == usage);
    }
    assert_eq!(stored.reuses(), 0);
    assert!(!steps.step() && !more.step(), "nothing was handed in");
}

/// An engine over a cache whose memory takes little.
fn small(folder: &TemporaryFolder) -> (Proxy, WriterSteps) {
    let disk = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 64 << 20 };
    let backing = Sqlite::open(&folder.file("cache.db"), disk).expect("a store");
    let limits = MemoryLimits { bytes: 16 << 10, responses: None, content_bytes: 4 << 10 };
    let (memory, limits) = (store(Eviction::Lru, limits), QueueLimits::without_waits(QUEUED));
    let (cache, steps) = Cache::with_backing_by_hand(memory, Arc::new(backing), limits, false);
    let (clock, stats) = (Clock::by_hand(Timestamp(1_800_000_000_000)), Arc::new(Stats::default()));
    (Proxy::new(settings(), Arc::new(cache), clock, stats), steps)
}

/// A GET that fetches a body of unknown length, whose head has come.
fn begin_to_fetch(proxy: &Proxy) -> (Response, Box<Transfer>) {
    let request = Arc::new(request("GET", "/a", ""));
    let Next::Recall(recall) = proxy.ask(&request, Attempt::First) else { panic!("a recall") };
    let Next::Fetch(fetch) = proxy.recall(*recall) else { panic!("a fetch") };
    let head = OriginHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        fields: to_fields("Cache-Control: max-age=60"),
        length: None,
        silently_delimited: false,
        has_content: true,
    };
    let AfterHead::Begun(incoming) = proxy.receive(fetch, head) else { panic!("a response") };
    let PassedResponse::Growing(response, transfer) = proxy.pass_on(*incoming) else {
        panic!("its content is to come")
    };
    (response, transfer)
}

/// Another GET, which reads along in the backing store.
fn read_along(proxy: &Proxy) -> Box<dyn Arriving> {
    let request = Arc::new(request("GET", "/a", ""));
    let Next::Follow(follow) = proxy.ask(&request, Attempt::First) else { panic!("it follows") };
    let attempt = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&attempt);
    follow.park(Box::new(move |attempt| *slot.lock() = Some(attempt)));
    let attempt = attempt.lock().take().expect("the head has come");
    let Next::Recall(recall) = proxy.ask(&request, attempt) else { panic!("it is behind memory") };
    let Next::Answer(answer) = proxy.recall(*recall) else { panic!("it reads along") };
    let Body::Arriving(body) = answer.response.body else { panic!("in the backing store") };
    body
}

/// The first client has gone, and the response will not be stored any more: that is no reason to cut it for
/// those who read it.
#[test]
fn a_purge_does_not_cut_who_reads_along_behind_memory() {
    let folder = TemporaryFolder::new();
    let (proxy, mut steps) = small(&folder);
    let content: Vec<u8> = (0..200_000_u32).map(|number| (number / 7) as u8).collect();
    let (response, mut transfer) = begin_to_fetch(&proxy);
    let Body::Growing(mut reader) = response.body else { panic!("it grows") };
    let (beginning, rest) = content.split_at(10_000);
    assert_eq!(transfer.sink.take(beginning), Progress::More);
    let Ok(Grown::Bytes(count)) = reader.peek(&mut [0; 10_000]) else { panic!("it has come") };
    reader.consume(count);
    // With the next piece, what the first client has had goes from memory: the next client reads elsewhere.
    let (next, rest) = rest.split_at(100);
    assert_eq!(transfer.sink.take(next), Progress::More);
    let mut body = read_along(&proxy);
    drop(reader);
    proxy.purge(&Selector::All);
    for piece in rest.chunks(50_000) {
        steps.run();
        assert!(!transfer.sink.is_in_vain(), "somebody reads it");
        assert_eq!(transfer.sink.take(piece), Progress::More);
    }
    let Ok(Ending::Settle(settling)) = transfer.finish(b"") else {
        panic!("it goes behind memory")
    };
    steps.run();
    assert!(settling.wait().refusal.is_some(), "it was purged");
    let (mut read, mut piece) = (Vec::new(), vec![0; 100_000]);
    while let count @ 1.. = body.read(&mut piece).expect("a proven end") {
        read.extend_from_slice(&piece[..count]);
    }
    assert!(read == content);
    assert_eq!(found(proxy.cache()), Some(vec![]));
    assert_eq!(proxy.unsettled(), (0, 0));
}
