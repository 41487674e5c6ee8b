//! The shared store, behind the real binary: several proxies on one Redis, and what becomes of them when it
//! is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::store::Put;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::MemoryLimits;
use caching_proxy::store::tiers::FetchClaim;

use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{Proxy, command};
use super::support::redis::{Server, cluster, programs};
use super::support::shared::{MEMORY, flush, open, open_with, promote};
use super::support::stored::{begun, clear, content, contents, put, recall, response, spool};
use super::support::wait_until;

const FRESH: &str = "Cache-Control: max-age=600";
/// Everything that one proxy does reaches the other, its memory included. On one server, and on a
/// cluster of three.
#[test]
fn proxies_that_share_a_store_see_what_each_other_does() {
    let mut places: Vec<(Vec<Server>, String)> = programs()
        .into_iter()
        .map(|program| {
            let server = Server::start(program);
            let url = server.url();
            (vec![server], url)
        })
        .collect();
    places.extend(cluster());
    for (_servers, url) in &places {
        let (one, other) = (open(url), open(url));
        for number in 0..20 {
            let key = format!("http://o/{number}");
            put(&one, &key, response(None, key.as_bytes(), 600));
            flush(&one);
            wait_until("it is in memory", || {
                promote(&other, &key);
                other.look_at(&key).is_some()
            });
            assert_eq!(
                other.look_at(&key).map(|found| content(&found[0])),
                Some(Bytes::from(key)),
                "{url}"
            );
        }
        let held =
            |store: &Arc<Cache>, key: &str| store.look_at(key).map(|found| content(&found[0]));
        // A new response, an invalidation, a purge and a clear.
        put(&one, "http://o/1", response(None, b"new", 700));
        wait_until("a new response", || held(&other, "http://o/1").is_none());
        wait_until("it is in memory", || {
            promote(&other, "http://o/1");
            other.look_at("http://o/1").is_some()
        });
        assert_eq!(held(&other, "http://o/1").as_deref(), Some(&b"new"[..]), "{url}");
        one.invalidate(&CacheKey::from("http://o/2"), None);
        wait_until("an invalidation", || held(&other, "http://o/2").is_none());
        assert!(contents(&other, "http://o/2").is_empty(), "{url}");
        assert_eq!(
            one.forget(&Selector::Prefix("http://o/1".into()), Timestamp(0)).count,
            11,
            "{url}"
        );
        wait_until("a purge", || held(&other, "http://o/15").is_none());
        assert!(held(&other, "http://o/5").is_some() && contents(&other, "http://o/15").is_empty());
        assert_eq!(one.list("", 100).len(), 8, "{url}");
        assert_eq!(clear(&one), 8, "{url}");
        wait_until("a clear", || held(&other, "http://o/5").is_none());
        assert!(one.list("", 100).is_empty() && contents(&other, "http://o/5").is_empty());
        // Content that is too large for one value, and for memory.
        let large: Vec<u8> = (0..6_000_000_u32).map(|number| (number % 251) as u8).collect();
        let key = CacheKey::from("http://o/large");
        let (head, begun) = (response(None, b"", 600).head().clone(), begun(&one, &key));
        assert_eq!(spool(&one, &key, head, &begun, &large), Put::Stored, "{url}");
        assert!(contents(&other, "http://o/large") == [large], "{url}");
    }
}

#[test]
fn what_was_on_its_way_in_another_proxy_is_not_stored_after_a_purge() {
    for program in programs() {
        let server = Server::start(program);
        let (one, other) = (open(&server.url()), open(&server.url()));
        let key = CacheKey::from("http://o/a");
        let removals: [fn(&Arc<Cache>); 4] = [
            |store| _ = store.invalidate(&CacheKey::from("http://o/a"), None),
            |store| _ = clear(store),
            |store| _ = store.forget(&Selector::Uri("http://o/a".into()), Timestamp(0)),
            |store| _ = store.forget(&Selector::Prefix("http://o/".into()), Timestamp(0)),
        ];
        for (index, remove) in removals.into_iter().enumerate() {
            let before = begun(&one, &key);
            remove(&other);
            flush(&other);
            // Whether or not it has heard of it yet.
            one.put(&key, response(None, b"old", 600), &before);
            flush(&one);
            assert!(contents(&one, "http://o/a").is_empty(), "{index}: {program}");
            assert!(contents(&other, "http://o/a").is_empty(), "{index}: {program}");
            // What is asked for now is stored, as soon as it has heard of it.
            wait_until("a new one is stored", || {
                put(&one, "http://o/a", response(None, b"new", 600));
                flush(&one);
                contents(&other, "http://o/a") == ["new"]
            });
        }
        // Purges that select something else do not matter, and any number of them may pass.
        let before = begun(&one, &key);
        for number in 0..10 {
            other.forget(&Selector::Tag(format!("t{number}")), Timestamp(0));
        }
        put(&one, "http://o/a", response(None, b"newer", 600));
        let late = before;
        one.put(&key, response(Some("en"), b"late", 600), &late);
        flush(&one);
        let found = contents(&other, "http://o/a");
        assert!(found.contains(&Bytes::from_static(b"newer")), "{found:?}");
        // More of them than are remembered are as good as one that selects everything.
        let before = begun(&one, &CacheKey::from("http://o/b"));
        for number in 0..300 {
            other.forget(&Selector::Tag(format!("t{number}")), Timestamp(0));
        }
        one.put(&CacheKey::from("http://o/b"), response(None, b"late", 600), &before);
        flush(&one);
        assert!(contents(&other, "http://o/b").is_empty());
    }
}

/// Who asks all the while does not find what is purged once more after having heard of the purge.
#[test]
fn what_is_purged_does_not_come_back_from_behind() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let (one, other) = (open(&server.url()), open(&server.url()));
    for round in 0..30 {
        put(&other, "http://o/a", response(None, b"old", 600));
        flush(&other);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    promote(&one, "http://o/a");
                }
            });
            other.forget(&Selector::Uri("http://o/a".into()), Timestamp(0));
            is_over.store(true, Ordering::Relaxed);
        });
        wait_until(&format!("round {round}"), || one.look_at("http://o/a").is_none());
    }
}

/// Whatever is in Redis that is not what was put there is no response.
#[test]
fn what_is_damaged_or_somebody_elses_is_not_given_out() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let store = open_with(&server.url(), MemoryLimits { responses: Some(1), ..MEMORY });
    let large = vec![7; 200_000];
    let fill = || {
        put(&store, "http://o/a", response(None, b"a", 600));
        put(&store, "http://o/b", response(None, b"b", 600));
        put(&store, "http://o/large", response(None, &large, 600));
        put(&store, "http://o/evicts", response(None, b"", 600));
        flush(&store);
    };
    let names = |pattern: &str| {
        let redis::Value::Array(names) = server.ask(&["KEYS", pattern]) else { panic!("a list") };
        let text = |name| match name {
            redis::Value::BulkString(name) => String::from_utf8_lossy(&name).into_owned(),
            other => panic!("{other:?}"),
        };
        let mut names: Vec<String> = names.into_iter().map(text).collect();
        names.sort();
        names
    };
    fill();
    assert_eq!(contents(&store, "http://o/large"), [&large[..]]);
    // Another key's hash in its place.
    let (a, b) = (names("*{http://o/a}"), names("*{http://o/b}"));
    server.ask(&["COPY", &b[0], &a[0], "REPLACE"]);
    assert!(contents(&store, "http://o/a").is_empty(), "its key is in it");
    // No hash at all, and fields that make no sense.
    server.ask(&["SET", &a[0], "x"]);
    assert!(recall(&store, "http://o/a").is_none());
    server.ask(&["DEL", &a[0]]);
    wait_until("it works again", || {
        recall(&store, "http://o/a").is_some_and(|recalled| recalled.is_empty())
    });
    server.ask(&["HSET", &a[0], "x", "nonsense"]);
    assert!(contents(&store, "http://o/a").is_empty());
    put(&store, "http://o/a", response(None, b"again", 600));
    assert_eq!(contents(&store, "http://o/a"), ["again"]);
    // Pieces of content that are gone, changed or swapped.
    let lost = |what: &str| {
        let key = CacheKey::from("http://o/large");
        for found in recall(&store, "http://o/large").expect("it works") {
            assert!(store.bring(&key, &found, &store.note(&key)).is_none(), "{what}");
        }
        clear(&store);
        fill();
    };
    server.ask(&["SETRANGE", names("*c:*:1").last().expect("one"), "1000", "x"]);
    lost("changed");
    server.ask(&["DEL", names("*c:*:3").last().expect("one")]);
    lost("gone");
    let (first, second) = (names("*c:*:1"), names("*c:*:2"));
    server.ask(&["COPY", first.last().expect("one"), second.last().expect("one"), "REPLACE"]);
    lost("swapped");
}

/// All that is written expires; and nothing is touched that has another prefix.
#[test]
fn everything_expires_and_a_clear_leaves_others_alone() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    server.ask(&["SET", "mine", "x"]);
    let store = open(&server.url());
    put(&store, "http://o/a", response(None, b"a", 600));
    put(&store, "http://o/large", response(None, &vec![7; 200_000], 600));
    let mut forever = response(None, b"f", 600).head().clone();
    forever.useful_until = Timestamp::MAX;
    let forever =
        caching_proxy::policy::stored::StoredResponse::new(forever, Bytes::from_static(b"f"));
    put(&store, "http://o/forever", Arc::new(forever));
    store.invalidate(&CacheKey::from("http://o/none"), None);
    flush(&store);
    let redis::Value::Array(names) = server.ask(&["KEYS", "test:*"]) else { panic!("a list") };
    assert!(names.len() > 7, "{names:?}");
    for name in names {
        let redis::Value::BulkString(name) = name else { panic!("a name") };
        let name = String::from_utf8_lossy(&name).into_owned();
        let redis::Value::Int(left) = server.ask(&["PTTL", &name]) else { panic!("a number") };
        assert!(left > 0 || name == "test:2:state", "{name}: {left}");
    }
    assert_eq!(clear(&store), 3);
    assert_eq!(server.ask(&["GET", "mine"]), redis::Value::BulkString(b"x".to_vec()));
}

#[test]
fn one_proxy_fetches_and_the_others_wait() {
    for program in programs() {
        let server = Server::start(program);
        let (one, other) = (open(&server.url()), open(&server.url()));
        let key = CacheKey::from("http://o/a");
        let claims = |store: &Arc<Cache>, key: &CacheKey| {
            let mut begun = store.note(key);
            let recalled = store.recall(key, &mut begun, true);
            assert!(recalled.was_answered, "it works");
            (recalled, begun)
        };
        let (recalled, begun) = claims(&one, &key);
        assert!(matches!(recalled.claim, FetchClaim::Held(_)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| claims(&other, &key).0);
            one.put(&key, response(None, b"a", 600), &begun);
            let found = waiting.join().expect("no panic");
            assert_eq!(
                found.variants.iter().map(|found| content(found)).collect::<Vec<_>>(),
                ["a"]
            );
        });
        // Who finds that it cannot be stored says so.
        let key = CacheKey::from("http://o/b");
        let (recalled, _) = claims(&one, &key);
        assert!(matches!(recalled.claim, FetchClaim::Held(_)));
        drop(recalled);
        flush(&one);
        let (next, _) = claims(&other, &key);
        assert!(matches!(next.claim, FetchClaim::Held(_)));
    }
}

fn before(origin: &Origin, server: &Server, flags: &[&str]) -> Proxy {
    let url = server.url();
    let mut all = vec!["--store", &url];
    all.extend_from_slice(flags);
    Proxy::before(origin, &all)
}

#[test]
fn two_proxies_share_one_cache() {
    for program in programs() {
        let server = Server::start(program);
        let origin = Origin::script([
            on("GET /a").send(200, &format!("{FRESH}; Vary: Accept"), "one"),
            on("GET /stale").send(200, "Cache-Control: max-age=60; Age: 60; ETag: \"1\"", "stale"),
            on("GET /stale").having("If-None-Match: \"1\"").send(304, FRESH, ""),
            on("POST /a").send(200, "", ""),
            on("GET /a").send(200, FRESH, "two"),
            on("GET /a").send(200, FRESH, "three"),
        ]);
        let (first, second) = (before(&origin, &server, &[]), before(&origin, &server, &[]));
        first.get("/a");
        wait_until("the other one has it", || {
            second.get_with("/a", "Cache-Control: only-if-cached\r\n").is_hit()
        });
        assert_eq!(second.get("/a").body(), "one");
        first.get("/stale");
        wait_until("the other one has it", || {
            second.get_with("/stale", "Cache-Control: only-if-cached, max-stale\r\n").is_hit()
        });
        assert_eq!(
            second.get("/stale").cache_status(),
            "proxy; fwd=stale; fwd-status=304; ttl=600; stored"
        );
        wait_until("it is fresh for the first one", || {
            first.get_with("/stale", "Cache-Control: only-if-cached\r\n").is_hit()
        });
        // A write through one proxy invalidates in both.
        first.ask("POST", "/a", "", "");
        wait_until("it is invalid", || {
            !second.get_with("/a", "Cache-Control: only-if-cached\r\n").is_hit()
        });
        assert_eq!(second.get("/a").body(), "two");
        // So does a purge.
        let told = first.tell(&["purge", "/a"]);
        assert!(told.status.success(), "{told:?}");
        wait_until("it is purged", || {
            !second.get_with("/a", "Cache-Control: only-if-cached\r\n").is_hit()
        });
        assert_eq!(second.get("/a").body(), "three");
        origin.assert_finished();
    }
}

#[test]
fn requests_collapse_across_proxies() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let gate = Gate::new();
    let origin = Origin::script([on("GET /a").wait(&gate).send(200, FRESH, "once")]);
    let (first, second) = (before(&origin, &server, &[]), before(&origin, &server, &[]));
    std::thread::scope(|scope| {
        let one = scope.spawn(|| first.get("/a"));
        wait_until("the first one fetches it", || {
            let redis::Value::Array(names) = server.ask(&["KEYS", "proxy:2:f:*"]) else {
                return false;
            };
            !names.is_empty()
        });
        let other = scope.spawn(|| second.get("/a"));
        gate.open();
        assert_eq!(one.join().expect("no panic").body(), "once");
        assert_eq!(other.join().expect("no panic").body(), "once");
    });
    origin.assert_finished();
}

/// A claim that its proxy never gives up, because it hangs or is gone: it is waited for once, and what is
/// fetched then is in memory and in Redis like any other response.
#[test]
fn a_claim_that_never_ends_keeps_nothing_from_being_stored() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a")]);
    let (first, second) = (before(&origin, &server, &[]), before(&origin, &server, &[]));
    server.ask(&["SET", &format!("proxy:2:f:{{{}/a}}", origin.url()), "somebody"]);
    assert_eq!(first.get("/a").body(), "a");
    assert!(first.get("/a").is_hit());
    wait_until("the other one has it", || {
        second.get_with("/a", "Cache-Control: only-if-cached\r\n").is_hit()
    });
    origin.assert_finished();
}

/// Redis goes, comes back, hangs and never was: requests are answered all the while, and the log is not
/// flooded.
#[test]
fn a_redis_that_is_gone_costs_nothing_but_its_help() {
    let Some(program) = programs().into_iter().next() else { return };
    let mut server = Server::start(program);
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "a").always(),
        on("GET /b").send(200, FRESH, "b").always(),
        on("GET /d").send(200, FRESH, "d").always(),
        on("GET *any*").send(200, FRESH, "c").always(),
    ]);
    let proxy = before(&origin, &server, &[]);
    proxy.get("/a");
    server.stop();
    assert_eq!(proxy.get("/b").body(), "b");
    assert!(proxy.get("/a").is_hit() && proxy.get("/b").is_hit(), "memory works");
    proxy.wait_for_log("memory alone is used until it works again");
    server.start_again();
    proxy.wait_for_log(": works again");
    assert!(
        proxy.get("/a").is_hit(),
        "a server that has lost everything takes nothing from memory"
    );
    let fresh = before(&origin, &server, &[]);
    let mut number = 0;
    wait_until("it is used again", || {
        number += 1;
        let target = format!("/c?{number}");
        proxy.get(&target);
        fresh.get_with(&target, "Cache-Control: only-if-cached\r\n").is_hit()
    });
    // It hangs: the first to ask waits half a second at most, the next ones do not wait at all.
    server.signal("-STOP");
    assert_eq!(proxy.get("/d").body(), "d");
    for _ in 0..50 {
        assert_eq!(proxy.get("/e").status, 200);
    }
    server.signal("-CONT");
    drop(fresh);
    assert!(proxy.log().matches("[WARN]").count() <= 3, "{}", proxy.log());
    // It never was.
    let mut nowhere = command();
    nowhere.args(["--origin", &origin.url(), "--store", "redis://127.0.0.1:1"]);
    let proxy = Proxy::start_as(nowhere);
    proxy.get("/a");
    assert!(proxy.get("/a").is_hit());
    proxy.wait_for_log("memory alone is used");
}

/// What was invalidated while Redis could not be told is forgotten by it before it is used again.
#[test]
fn what_is_invalidated_while_redis_is_away_stays_invalid() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let origin = Origin::script([
        on("GET /a").send(200, FRESH, "old"),
        on("POST /a").send(200, "", ""),
        on("GET /a").send(200, FRESH, "new").always(),
        on("GET /b").send(200, FRESH, "b").always(),
    ]);
    let proxy = before(&origin, &server, &[]);
    proxy.get("/a");
    wait_until("it is stored", || {
        let pattern = format!("proxy:2:e*:{{{}/a}}", origin.url());
        matches!(server.ask(&["KEYS", &pattern]), redis::Value::Array(names) if names.len() == 1)
    });
    server.signal("-STOP");
    proxy.get("/b");
    proxy.wait_for_log("memory alone is used");
    assert_eq!(proxy.ask("POST", "/a", "", "").status, 200);
    assert_eq!(proxy.get("/a").body(), "new");
    server.signal("-CONT");
    proxy.wait_for_log(": works again");
    for _ in 0..20 {
        assert_eq!(proxy.get("/a").body(), "new");
    }
    wait_until("the other's copy is gone", || {
        let other = before(&origin, &server, &[]);
        other.get("/a").body() == "new"
    });
}

/// A body that is too large for memory goes through Redis piece by piece.
#[test]
fn a_large_body_is_shared() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let piece: Vec<u8> = (0..10_000_u32).map(|number| (number % 253) as u8).collect();
    let origin = Origin::script([on("GET /large")
        .head(200, &format!("{FRESH}; Content-Length: 10000000"))
        .then(Step::Repeat(piece.clone(), 1000))]);
    let [first, second] = [(); 2].map(|()| before(&origin, &server, &["--cache-memory", "4M"]));
    let expected = piece.repeat(1000);
    assert!(first.get("/large").content == expected);
    let hit = second.get("/large");
    assert!(hit.is_hit() && hit.content == expected, "{}", hit.cache_status());
    origin.assert_finished();
}

/// A large body that has lost a piece is never begun: it is fetched anew. One that turns out damaged while it
/// is sent is cut for one client, and for no other.
#[test]
fn a_large_body_that_has_lost_a_piece_is_dropped_at_once() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let piece: Vec<u8> = (0..10_000_u32).map(|number| (number % 253) as u8).collect();
    let origin = Origin::script([on("GET /large")
        .head(200, &format!("{FRESH}; Content-Length: 10000000"))
        .then(Step::Repeat(piece.clone(), 1000))
        .always()]);
    let flags = ["--cache-memory", "4M"];
    let (first, second) = (before(&origin, &server, &flags), before(&origin, &server, &flags));
    let expected = piece.repeat(1000);
    let piece_names = |number: u32| {
        let redis::Value::Array(names) = server.ask(&["KEYS", &format!("proxy:2:c:*:{number}")])
        else {
            panic!("a list")
        };
        let text = |name| match name {
            redis::Value::BulkString(name) => String::from_utf8_lossy(&name).into_owned(),
            other => panic!("{other:?}"),
        };
        names.into_iter().map(text).collect::<Vec<String>>()
    };
    assert!(first.get("/large").content == expected);
    for lost in [0, 1, 77, 152] {
        assert!(second.get("/large").is_hit(), "{lost}");
        for name in piece_names(lost) {
            server.ask(&["DEL", &name]);
        }
        let reply = second.get("/large");
        assert!(reply.complete && reply.content == expected, "{lost}: {}", reply.cache_status());
        assert!(!reply.is_hit(), "{lost}: it is fetched anew");
        wait_until("it is stored again", || first.get("/large").is_hit());
    }
    let mut replaced = 0;
    for damaged in [0, 152] {
        // What was on its way into Redis may take the place of what was damaged: whole, then, and once.
        let cut = (0..3).find_map(|_| {
            for name in piece_names(damaged) {
                server.ask(&["SETRANGE", &name, "1000", "xxx"]);
            }
            let reply = second.get("/large");
            // Where nothing of it was sent yet, it is an error: 502.
            let is_refused = reply.status == 502;
            assert!(is_refused || expected.starts_with(&reply.content), "{damaged}: a wrong byte");
            replaced += usize::from(reply.complete && !is_refused);
            (!reply.complete || is_refused).then_some(())
        });
        assert!(cut.is_some(), "{damaged}: what is damaged does not look whole");
        for proxy in [&first, &second] {
            let reply = proxy.get("/large");
            assert!(reply.complete && reply.content == expected, "{damaged}: {}", reply.status);
            // It is written behind the answer; the other one would fetch it once more.
            wait_until("it is stored again", || proxy.get("/large").is_hit());
        }
    }
    assert_eq!(second.log().matches("missing content; it is dropped").count(), 1);
    let asked = origin.asked().len();
    // Each loss costs a request; where a removal crosses the next fetch, one more.
    assert!((7..=9 + replaced).contains(&asked), "{asked} requests, {replaced} replaced");
}
