//! What Redis knows of clears and purges, when it is evicted, deleted, put back or written by a proxy of
//! another version: nothing from before comes back.

use std::sync::Arc;

use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::store::cache::Cache;
use redis::Value;

use super::support::redis::{Server, programs};
use super::support::shared::{flush, open, promote};
use super::support::stored::{begun, clear, contents, put, recall, response};
use super::support::wait_until;

/// Responses of one round.
const RESPONSES: usize = 30;

fn key(number: usize) -> String {
    format!("http://o/{number}")
}

fn fill(store: &Arc<Cache>, round: usize) {
    for number in 0..RESPONSES {
        put(store, &key(number), response(None, format!("round {round}").as_bytes(), 600));
    }
    flush(store);
}

/// How many of them a store finds behind memory.
fn found(store: &Arc<Cache>) -> usize {
    (0..RESPONSES).filter(|number| !contents(store, &key(*number)).is_empty()).count()
}

fn names(server: &Server, pattern: &str) -> Vec<String> {
    let Value::Array(names) = server.ask(&["KEYS", pattern]) else { panic!("a list") };
    let text = |name| match name {
        Value::BulkString(name) => String::from_utf8_lossy(&name).into_owned(),
        other => panic!("{other:?}"),
    };
    names.into_iter().map(text).collect()
}

/// Whether the state is lost before a purge or after it, what was stored before is not seen: not by the
/// one that purges, not by another, and not after any number of further purges.
#[test]
fn a_lost_state_brings_nothing_back() {
    for program in programs() {
        let server = Server::start(program);
        let (one, other) = (open(&server.url()), open(&server.url()));
        for round in 0..10 {
            fill(&one, round);
            assert_eq!(found(&other), RESPONSES, "{program} {round}");
            server.ask(&["DEL", "test:2:state"]);
            assert_eq!((found(&one), found(&other)), (0, 0), "{program} {round}: it is lost");
            // Stored again, purged, and lost again.
            fill(&one, round);
            assert_eq!(found(&other), RESPONSES, "{program} {round}");
            if round % 2 == 0 {
                clear(&other);
            } else {
                other.forget(&Selector::Prefix("http://o/".into()), Timestamp(0));
            }
            assert_eq!((found(&one), found(&other)), (0, 0), "{program} {round}: it is purged");
            server.ask(&["DEL", "test:2:state"]);
            assert_eq!((found(&one), found(&other)), (0, 0), "{program} {round}: it is lost again");
        }
    }
}

/// The same where Redis evicts by itself, as it does where it is full.
#[test]
fn an_evicted_state_brings_nothing_back() {
    let Some(program) = programs().into_iter().next() else { return };
    let flags = ["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"];
    let server = Server::start_with(program, &flags);
    let store = open(&server.url());
    let (mut evicted, mut survived) = (0, 0);
    for round in 0..10 {
        fill(&store, round);
        // Nothing is asked for until the state is gone, or most of what is there.
        let mut fillers = Vec::new();
        while fillers.len() < 2000 && server.ask(&["EXISTS", "test:2:state"]) == Value::Int(1) {
            fillers.push(format!("filler:{}", fillers.len()));
            server.ask(&["SET", fillers.last().expect("one"), &"x".repeat(5000)]);
        }
        if server.ask(&["EXISTS", "test:2:state"]) == Value::Int(0) {
            evicted += 1;
            survived += names(&server, "test:2:e*").len();
        }
        let fillers = fillers.iter().map(String::as_str);
        server.ask(&["DEL"].into_iter().chain(fillers).collect::<Vec<_>>());
        clear(&store);
        assert_eq!(found(&store), 0, "round {round}");
    }
    eprintln!("the state was evicted {evicted} times, with {survived} responses left in all");
    assert!(evicted > 0, "nothing was evicted");
}

/// What was asked for before is not stored in the new generation, and what comes then is.
#[test]
fn what_was_on_its_way_is_not_stored_after_a_loss() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let store = open(&server.url());
    let key = CacheKey::from("http://o/a");
    let before = begun(&store, &key);
    server.ask(&["DEL", "test:2:state"]);
    store.put(&key, response(None, b"old", 600), &before);
    flush(&store);
    assert!(contents(&store, "http://o/a").is_empty());
    put(&store, "http://o/a", response(None, b"new", 600));
    flush(&store);
    assert_eq!(contents(&store, "http://o/a"), ["new"]);
}

/// A purge that a proxy of a newer version has written down may mean anything.
#[test]
fn a_selector_that_is_not_known_selects_everything() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let store = open(&server.url());
    for text in ["0 xhttp://other/", "0 ", "later", ""] {
        put(&store, "http://o/a", response(None, b"a", 600));
        flush(&store);
        assert_eq!(contents(&store, "http://o/a"), ["a"]);
        let Value::Int(number) = server.ask(&["HINCRBY", "test:2:state", "purges", "1"]) else {
            panic!("a number")
        };
        server.ask(&["HSET", "test:2:state", &format!("p{number}"), text]);
        assert!(contents(&store, "http://o/a").is_empty(), "{text:?}");
        // One that is not written down at all.
        put(&store, "http://o/a", response(None, b"a", 600));
        flush(&store);
        server.ask(&["HINCRBY", "test:2:state", "purges", "1"]);
        assert!(contents(&store, "http://o/a").is_empty(), "{text:?}");
        // And the news of it.
        put(&store, "http://o/a", response(None, b"a", 600));
        flush(&store);
        wait_until("it is in memory", || {
            promote(&store, "http://o/a");
            store.look_at("http://o/a").is_some()
        });
        server.ask(&["PUBLISH", "test:2:news", &format!("another p {text}")]);
        wait_until("the news are heard", || store.look_at("http://o/a").is_none());
    }
}

/// What a proxy of the version before has in the same Redis, under the same prefix, is neither read nor
/// touched.
#[test]
fn versions_leave_each_other_alone() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    server.ask(&["HSET", "test:state", "generation", "1", "purges", "3", "p3", "0 s"]);
    server.ask(&["HSET", "test:e1:{http://o/0}", "field", "value"]);
    server.ask(&["SET", "test:i:{http://o/0}", "4"]);
    let before = names(&server, "test:*");
    let store = open(&server.url());
    server.ask(&["PUBLISH", "test:news", "another p 0 a"]);
    fill(&store, 0);
    assert_eq!(found(&store), RESPONSES);
    store.invalidate(&CacheKey::from("http://o/0"), None);
    store.forget(&Selector::Prefix("http://o/1".into()), Timestamp(0));
    assert!(clear(&store) > 0);
    let mut left = names(&server, "test:*");
    left.retain(|name| !name.starts_with("test:2:"));
    assert_eq!(left.len(), before.len(), "{left:?}");
    let generation = server.ask(&["HGET", "test:state", "generation"]);
    assert_eq!(generation, Value::BulkString(b"1".to_vec()));
}

/// A Redis that comes back from an old backup has not heard of the last clear.
#[test]
fn an_old_backup_brings_nothing_back() {
    let Some(program) = programs().into_iter().next() else { return };
    let mut server = Server::start(program);
    let store = open(&server.url());
    fill(&store, 0);
    let path = server.folder().join("dump.rdb");
    server.ask(&["SAVE"]);
    let backup = std::fs::read(&path).expect("it is saved");
    clear(&store);
    server.stop();
    std::fs::write(&path, backup).expect("a file");
    server.start_again();
    assert!(!names(&server, "test:2:e*").is_empty(), "it has what was cleared");
    wait_until("it is used again", || recall(&store, "http://o/none").is_some());
    assert_eq!(found(&store), 0);
}
