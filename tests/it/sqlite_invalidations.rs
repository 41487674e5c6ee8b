//! Several proxies on one file: what one of them invalidates keeps out what another one asked for before, and
//! nothing else, whatever the selector and the order of the steps.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::sqlite::{DiskLimits, Sqlite};
use caching_proxy::store::underway::Begun;
use http::{HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;

use super::support;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::seeded::seeded;
use super::support::stored::{at, begun, clear, contents, put, response, spool, variants};
use super::support::{PATIENCE, TemporaryFolder};

const ROOMY: DiskLimits = DiskLimits { bytes: 64 << 20, responses: None, content_bytes: 16 << 20 };
const SMALL: DiskLimits = DiskLimits { bytes: 1 << 20, ..ROOMY };
const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 8 << 20, responses: None, content_bytes: 8 << 20 };
const KEYS: [&str; 2] = ["http://o/a", "http://o/b"];
/// When purges are carried out.
const NOW: u64 = 50;

fn open(path: &Path, limits: DiskLimits) -> Arc<Cache> {
    let backing = Sqlite::open(path, limits).expect("a store");
    let memory = store(Eviction::Lru, MEMORY);
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 1 << 20, false).expect("a thread"))
}

fn close(store: &Arc<Cache>) {
    assert!(store.close(PATIENCE));
}

fn flush(store: &Arc<Cache>) {
    assert!(store.flush(PATIENCE));
}

fn key(name: &str) -> CacheKey {
    CacheKey::from(name)
}

/// A response with a tag that was received at `received`.
fn tagged(tag: &str, is_fresh: bool, content: &str, received: u64) -> Arc<StoredResponse> {
    let plain = response(None, b"", 1000);
    let mut head = plain.head().clone();
    let tag = HeaderValue::try_from(tag).expect("a value");
    let mut fields = head.fields.to_fields();
    fields.append(HeaderName::from_static("surrogate-key"), tag);
    head.fields = fields.into();
    head.fresh_until = at(if is_fresh { NOW + 50 } else { NOW });
    head.response_time = Timestamp::from_seconds(received);
    Arc::new(StoredResponse::new(head, Bytes::copy_from_slice(content.as_bytes())))
}

/// Stores a response piece by piece, without memory.
fn commit(store: &Arc<Cache>, key: &CacheKey, response: &StoredResponse, begun: &Begun) -> Put {
    let content = response.content.here().expect("it is in memory");
    spool(store, key, response.head().clone(), begun, content)
}

/// Invalidates something.
type Invalidate = fn(&Cache);

/// What selects a response for the first key that is tagged red and stale.
#[rustfmt::skip]
const RELATED: [Invalidate; 8] = [
    |store| _ = store.invalidate(&key(KEYS[0]), None),
    |store| _ = store.forget(&Selector::Uri(KEYS[0].into()), at(NOW)),
    |store| _ = store.forget(&Selector::Prefix("http://o/".into()), at(NOW)),
    |store| _ = store.forget(&Selector::Prefix("x".repeat(5_000)), at(NOW)),
    |store| _ = store.forget(&Selector::Match(Glob::new("*/a")), at(NOW)),
    |store| _ = store.forget(&Selector::Tag("red".into()), at(NOW)),
    |store| _ = store.forget(&Selector::Stale, at(NOW)),
    |store| _ = clear(store),
];
/// What does not.
#[rustfmt::skip]
const UNRELATED: [Invalidate; 7] = [
    |store| _ = store.invalidate(&key(KEYS[1]), None),
    |store| _ = store.forget(&Selector::Uri(KEYS[1].into()), at(NOW)),
    |store| _ = store.forget(&Selector::Prefix("http://o/a/".into()), at(NOW)),
    |store| _ = store.forget(&Selector::Match(Glob::new("*/?b")), at(NOW)),
    |store| _ = store.forget(&Selector::Tag("re".into()), at(NOW)),
    |store| _ = store.forget(&Selector::Stale, at(NOW - 1)),
    // Some of them are next to any key, however keys are counted.
    |store| for number in 0..2_000 { store.invalidate(&key(&format!("http://o/{number}")), None); },
];
/// The selector that is too long to be written down counts as all, but only for other processes.
const TOO_LONG: usize = 3;

/// Asked for by one store, then one of `invalidate` by itself or by another, then stored: is it in the file
/// after a restart?
fn is_let_in(invalidate: &[Invalidate], by_another: bool, in_pieces: bool) -> bool {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let (one, other) = (open(&path, ROOMY), open(&path, ROOMY));
    let (first, late) = (key(KEYS[0]), tagged("red", false, "late", 1));
    let begun = begun(&one, &first);
    for step in invalidate {
        let by = if by_another { &other } else { &one };
        step(by);
        flush(by);
    }
    let put =
        if in_pieces { commit(&one, &first, &late, &begun) } else { one.put(&first, late, &begun) };
    // What is first stored in memory does not wait for the file.
    let is_known = !by_another || in_pieces;
    close(&one);
    close(&other);
    let found = contents(&open(&path, ROOMY), KEYS[0]);
    assert!(!is_known || (put == Put::Stored) != found.is_empty(), "{put:?} {found:?}");
    !found.is_empty()
}

#[test]
fn what_concerns_a_response_keeps_it_out_and_nothing_else_does() {
    for (by_another, in_pieces) in [(false, false), (false, true), (true, false), (true, true)] {
        for (index, related) in RELATED.iter().enumerate() {
            if index == TOO_LONG && !by_another {
                continue;
            }
            let told = format!("{index}, by another: {by_another}, in pieces: {in_pieces}");
            assert!(!is_let_in(&[*related], by_another, in_pieces), "{told}");
            let amid = [UNRELATED[0], *related, UNRELATED[4], UNRELATED[5]];
            assert!(!is_let_in(&amid, by_another, in_pieces), "{told}, amid others");
        }
        for (index, unrelated) in UNRELATED.iter().enumerate() {
            let told = format!("{index}, by another: {by_another}, in pieces: {in_pieces}");
            assert!(is_let_in(&[*unrelated], by_another, in_pieces), "{told}");
        }
        assert!(is_let_in(&UNRELATED, by_another, in_pieces), "all of them together");
    }
}

/// A version to come may know selectors that this one does not.
#[test]
fn a_selector_that_cannot_be_read_counts_as_all() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = open(&path, ROOMY);
    let shell = Connection::open(&path).expect("a database");
    for (number, selector) in ["'regex .*'", "''", "x'ff'"].into_iter().enumerate() {
        let name = format!("http://o/{number}");
        let before = begun(&store, &key(&name));
        shell
            .execute_batch(&format!(
                "UPDATE invalidations SET sequence = sequence + 1, selectors = selectors + 1; \
                 INSERT INTO invalidated_selectors SELECT sequence, {selector}, 0 FROM invalidations"
            ))
            .expect("it is written");
        store.put(&key(&name), tagged("red", true, "late", 1), &before);
        assert!(contents(&store, &name).is_empty(), "{selector}");
        put(&store, &name, tagged("red", true, "new", 1));
        assert_eq!(contents(&store, &name), ["new"], "{selector}: what begins later is let in");
    }
}

fn count(path: &Path, table: &str) -> u64 {
    let shell = Connection::open(path).expect("a database");
    let text = format!("SELECT count(*) FROM {table}");
    shell.query_row(&text, [], |row| row.get(0)).expect("a number")
}

/// Carries out the n-th of many invalidations.
type Nth<'a> = &'a dyn Fn(&Arc<Cache>, usize);

/// What began before the oldest one that is remembered is kept out; what began after the first one that is not
/// is let in; and to invalidate the same again takes nothing.
#[test]
fn invalidations_are_remembered_up_to_a_bound() {
    let by_key = |store: &Arc<Cache>, number: usize| {
        store.invalidate(&key(&format!("http://o/{number}")), None);
        if number.is_multiple_of(1_000) {
            flush(store);
        }
    };
    let by_tag = |store: &Arc<Cache>, number: usize| {
        store.forget(&Selector::Tag(number.to_string()), at(NOW));
    };
    let table: [(DiskLimits, usize, &str, Nth); 4] = [
        (SMALL, 512, "invalidated_keys", &by_key),
        (ROOMY, 10_000, "invalidated_keys", &by_key),
        (SMALL, 25, "invalidated_selectors", &by_tag),
        (ROOMY, 1_000, "invalidated_selectors", &by_tag),
    ];
    for (limits, most, name, nth) in table {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        let (store, other) = (open(&path, limits), open(&path, limits));
        let early = begun(&store, &key("http://o/early"));
        nth(&other, 0);
        flush(&other);
        let later = begun(&store, &key("http://o/later"));
        for number in (1..=most).chain(std::iter::repeat_n(most, 20)) {
            nth(&other, number);
        }
        flush(&other);
        assert_eq!(count(&path, name), most as u64, "{name}");
        for (key_text, begun) in [("http://o/early", &early), ("http://o/later", &later)] {
            store.put(&key(key_text), tagged("red", true, "x", 1), begun);
        }
        assert!(contents(&store, "http://o/early").is_empty(), "{name}: nobody knows");
        assert_eq!(contents(&store, "http://o/later"), ["x"], "{name}");
        clear(&store);
        assert_eq!(count(&path, name), 0, "{name}");
    }
}

/// Makes a file of the previous schema of one that is closed.
fn set_back(path: &Path) {
    let shell = Connection::open(path).expect("a database");
    shell
        .execute_batch(
            "DROP TABLE invalidations; DROP TABLE invalidated_keys; DROP TABLE invalidated_selectors; \
             CREATE TABLE generations (stripe INTEGER PRIMARY KEY, number INTEGER NOT NULL); \
             INSERT INTO generations VALUES (0, 3), (7, 2); PRAGMA user_version = 1",
        )
        .expect("it is changed");
}

#[test]
fn a_file_of_the_previous_schema_is_brought_up_to_date_and_keeps_what_it_has() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let first = open(&path, ROOMY);
    for number in 0..20 {
        put(&first, &format!("http://o/{number}"), tagged("red", true, &number.to_string(), 1));
    }
    let salt = first.salt().expect("a salt");
    close(&first);
    set_back(&path);
    // Several processes open it at once, and one of them is first.
    let barrier = Barrier::new(4);
    let stores: Vec<_> = thread::scope(|scope| {
        let open = || {
            barrier.wait();
            open(&path, ROOMY)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a store")).collect()
    });
    for store in &stores {
        assert_eq!(store.salt().expect("a salt").bytes(), salt.bytes());
        for number in 0..20 {
            assert_eq!(contents(store, &format!("http://o/{number}")), [number.to_string()]);
        }
    }
    assert_eq!(count(&path, "sqlite_master WHERE name = 'generations'"), 0);
    assert_eq!(count(&path, "invalidations"), 1);
    assert!(!fs::exists(folder.file("cache.db.damaged")).expect("a folder"));
    let begun = begun(&stores[0], &key("http://o/1"));
    stores[1].invalidate(&key("http://o/1"), None);
    flush(&stores[1]);
    stores[0].put(&key("http://o/1"), tagged("red", true, "late", 2), &begun);
    assert!(contents(&stores[2], "http://o/1").is_empty(), "they have it in common");
}

#[test]
fn a_file_of_the_previous_schema_that_cannot_be_written_is_read() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let store = format!("sqlite:{}", path.display());
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=600", "hello")]);
    let mut first = Proxy::before(&origin, &["--store", &store]);
    first.get("/a");
    first.stop();
    set_back(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("it is ours");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).expect("it is ours");
    let mut unprivileged = command();
    // Root may write everywhere.
    if fs::metadata(folder.path()).expect("it is there").uid() == 0 {
        unprivileged.uid(65_534).gid(65_534);
    }
    unprivileged.args(["--origin", &origin.url(), "--store", &store]);
    let proxy = Proxy::start_as(unprivileged);
    assert!(proxy.get("/a").is_hit());
    drop(proxy);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Another process has purged a tag that the old response does not have and the new one does. Memory has the
/// new one, the file must not give the old one out again.
#[test]
fn what_a_refused_response_has_replaced_does_not_come_back() {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let (one, other) = (open(&path, ROOMY), open(&path, ROOMY));
    let purge = |tag: &str| _ = other.forget(&Selector::Tag(tag.into()), at(NOW));
    // A new response; the same one freshened; and one that somebody has replaced since.
    let old = || tagged("green", true, "old", 10);
    put(&one, "new", old());
    let fetch = begun(&one, &key("new"));
    purge("red");
    assert_eq!(one.put(&key("new"), tagged("red", true, "new", 20), &fetch), Put::Stored);
    assert!(contents(&one, "new").is_empty() && contents(&other, "new").is_empty());

    put(&one, "freshened", old());
    let found = variants(&one, "freshened")[0].clone();
    let fetch = begun(&one, &key("freshened"));
    purge("red");
    let head = StoredHead {
        selecting: found.selecting.clone(),
        ..tagged("red", true, "", 20).head().clone()
    };
    one.put(&key("freshened"), Arc::new(found.with(head, found.content.clone())), &fetch);
    assert!(contents(&one, "freshened").is_empty());

    put(&one, "later", old());
    put(&one, "later", response(Some("en"), b"another variant", 1000));
    let fetch = begun(&one, &key("later"));
    purge("red");
    put(&other, "later", tagged("green", true, "later", 30));
    flush(&other);
    one.put(&key("later"), tagged("red", true, "late", 20), &fetch);
    assert_eq!(contents(&one, "later"), ["later", "another variant"]);

    // All that is stored for an invalidated key was asked for later.
    let fetch = begun(&one, &key("invalidated"));
    other.invalidate(&key("invalidated"), None);
    put(&other, "invalidated", tagged("green", true, "asked for later", 10));
    flush(&other);
    one.put(&key("invalidated"), tagged("green", true, "late", 20), &fetch);
    assert_eq!(contents(&one, "invalidated"), ["asked for later"]);
}

/// The file is made anew while a response is on its way: what is invalidated in the new one counts.
#[test]
fn what_is_invalidated_in_a_file_that_was_made_anew_counts() {
    for is_related in [false, true] {
        let folder = TemporaryFolder::new();
        let path = folder.file("cache.db");
        let (one, other) = (open(&path, ROOMY), open(&path, ROOMY));
        for number in 0..50 {
            one.invalidate(&key(&number.to_string()), None);
        }
        flush(&one);
        let fetch = begun(&one, &key(KEYS[0]));
        fs::remove_file(&path).expect("it is there");
        other.invalidate(&key(KEYS[usize::from(!is_related)]), None);
        flush(&other);
        one.put(&key(KEYS[0]), tagged("red", true, "late", 1), &fetch);
        assert_eq!(contents(&one, KEYS[0]).is_empty(), is_related);
    }
}

/// One step of one of two stores.
#[derive(Clone, Debug)]
enum Step {
    Begin {
        by: usize,
        key: usize,
    },
    /// The response of the n-th fetch is there, and was received so many steps ago.
    Put {
        nth: usize,
        tag: &'static str,
        is_fresh: bool,
        in_pieces: bool,
        ago: u64,
    },
    Invalidate {
        by: usize,
        key: usize,
    },
    Purge {
        by: usize,
        selector: Selector,
    },
    Restart {
        by: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let tags = || prop::sample::select(vec!["red", "green"]);
    let selector = prop_oneof![
        1 => Just(Selector::All),
        1 => prop::sample::select(vec![KEYS[0], KEYS[1], "http://o/"])
            .prop_map(|prefix| Selector::Prefix(prefix.into())),
        1 => prop::sample::select(vec!["*/a", "*b"]).prop_map(|glob| Selector::Match(Glob::new(glob))),
        4 => tags().prop_map(|tag| Selector::Tag(tag.into())),
        2 => Just(Selector::Stale),
    ];
    prop_oneof![
        8 => (0..2_usize, 0..2_usize).prop_map(|(by, key)| Step::Begin { by, key }),
        8 => (0..8_usize, tags(), any::<bool>(), any::<bool>(), 0..4_u64).prop_map(
            |(nth, tag, is_fresh, in_pieces, ago)| Step::Put { nth, tag, is_fresh, in_pieces, ago }
        ),
        1 => (0..2_usize, 0..2_usize).prop_map(|(by, key)| Step::Invalidate { by, key }),
        3 => (0..2_usize, selector).prop_map(|(by, selector)| Step::Purge { by, selector }),
        1 => (0..2_usize).prop_map(|by| Step::Restart { by }),
    ]
}

/// A fetch under way: who fetches which key, and how many purges there had been.
struct Fetch {
    by: usize,
    key: usize,
    since: usize,
    begun: Begun,
}

/// What is to be in the file, and all that was purged, by whom.
#[derive(Default)]
struct Model {
    stored: [Option<Arc<StoredResponse>>; 2],
    purges: Vec<(usize, Selector)>,
}

impl Model {
    fn purge(&mut self, by: usize, selector: &Selector) {
        for (name, stored) in KEYS.iter().zip(&mut self.stored) {
            stored.take_if(|stored| selector.selects(name, stored, at(NOW)));
        }
        self.purges.push((by, selector.clone()));
    }

    fn put(&mut self, fetch: &Fetch, response: &Arc<StoredResponse>, in_pieces: bool) {
        let name = KEYS[fetch.key];
        let meant = |(_, selector): &&(usize, Selector)| selector.selects(name, response, at(NOW));
        let purges: Vec<_> = self.purges[fetch.since..].iter().filter(meant).collect();
        let stored = &mut self.stored[fetch.key];
        if purges.is_empty() {
            *stored = Some(Arc::clone(response));
        } else {
            // Memory has it if only others know better; then the file has nothing older.
            let is_in_memory = !in_pieces && purges.iter().all(|(by, _)| *by != fetch.by);
            let by_head = purges.iter().all(|(_, purge)| purge.selects_key(name).is_none());
            if is_in_memory && by_head {
                stored.take_if(|stored| stored.response_time <= response.response_time);
            }
        }
    }
}

fn play(steps: &[Step]) {
    let folder = TemporaryFolder::new();
    let path = folder.file("cache.db");
    let mut stores = [open(&path, ROOMY), open(&path, ROOMY)];
    let (mut model, mut fetches) = (Model::default(), Vec::<Fetch>::new());
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Begin { by, key: index } => {
                let begun = begun(&stores[*by], &key(KEYS[*index]));
                let since = model.purges.len();
                fetches.push(Fetch { by: *by, key: *index, since, begun });
            }
            Step::Put { nth, tag, is_fresh, in_pieces, ago } if !fetches.is_empty() => {
                let fetch = fetches.swap_remove(*nth % fetches.len());
                let received = (number as u64 + 10).saturating_sub(*ago);
                let response = tagged(tag, *is_fresh, &number.to_string(), received);
                let (by, key) = (&stores[fetch.by], key(KEYS[fetch.key]));
                if *in_pieces {
                    commit(by, &key, &response, &fetch.begun);
                } else {
                    by.put(&key, Arc::clone(&response), &fetch.begun);
                }
                model.put(&fetch, &response, *in_pieces);
            }
            Step::Put { .. } => {}
            Step::Invalidate { by, key: index } => {
                stores[*by].invalidate(&key(KEYS[*index]), None);
                model.purge(*by, &Selector::Uri(KEYS[*index].into()));
            }
            Step::Purge { by, selector } => {
                stores[*by].forget(selector, at(NOW));
                model.purge(*by, selector);
            }
            Step::Restart { by } => {
                close(&stores[*by]);
                fetches.retain(|fetch| fetch.by != *by);
                stores[*by] = open(&path, ROOMY);
            }
        }
        stores.iter().for_each(flush);
        for (name, stored) in KEYS.iter().zip(&model.stored) {
            let expected: Vec<_> =
                stored.iter().map(|stored| support::stored::content(stored)).collect();
            assert_eq!(contents(&stores[0], name), expected, "{name} after {number} of {steps:?}");
        }
    }
}

proptest! {
    #![proptest_config(seeded(Some(100)))]

    #[test]
    fn any_history_of_two_stores_on_one_file_ends_as_a_plain_model_says(
        steps in vec(step(), 1..60),
    ) {
        play(&steps);
    }
}
