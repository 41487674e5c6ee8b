//! The engine in process: the clock is set by hand, the origin server is a script.

use std::time::Duration;

use super::support::engine::{Bench, bench, content};
use super::support::stored::clear;
use caching_proxy::clock::DeltaSeconds;
use caching_proxy::policy::purging::Selector;
use http::HeaderValue;

#[test]
fn a_response_is_fresh_for_as_long_as_it_says() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; Age: 10", "old");
    assert_eq!(bench.get("/a").2, "fwd=uri-miss; fwd-status=200; stored");
    assert_eq!(bench.get("/a").2, "hit; ttl=50");
    assert_eq!(bench.after(49).get("/a").2, "hit; ttl=1");
    let age = bench.response("/a", "").fields.get("age").cloned();
    assert_eq!(age, Some(HeaderValue::from_static("59")), "RFC 9111 §4.2.3");
    bench.after(1).answers(200, "Cache-Control: max-age=60", "new");
    let (_, content, told) = bench.get("/a");
    assert_eq!((content.as_str(), told.as_str()), ("new", "fwd=stale; fwd-status=200; stored"));
}

#[test]
fn what_states_no_freshness_is_kept_until_it_is_cleared() {
    let bench = bench(|_| ());
    bench.answers(200, "Content-Type: text/plain", "x");
    bench.get("/a");
    assert_eq!(bench.after(1 << 30).get("/a").2, "hit");
    assert_eq!(clear(&bench.store), 1);
    bench.answers(200, "Content-Type: text/plain", "y");
    assert_eq!(bench.get("/a").1, "y");
}

#[test]
fn cache_ttl_bounds_what_the_origin_says() {
    let bench =
        bench(|settings| settings.storing.freshness.cache_ttl = Some(Duration::from_secs(5)));
    bench.answers(200, "Cache-Control: max-age=60", "x").answers(200, "X: y", "z");
    bench.get("/a");
    bench.get("/b");
    assert_eq!(
        (bench.after(4).get("/a").2, bench.get("/b").2),
        ("hit; ttl=1".into(), "hit; ttl=1".into())
    );
    bench.after(1).answers(200, "Cache-Control: max-age=60", "x").answers(200, "X: y", "z");
    assert!(
        bench.get("/a").2.starts_with("fwd=stale") && bench.get("/b").2.starts_with("fwd=stale")
    );
}

/// As nginx's pull request 1186 asks for: data that changes twice a second.
#[test]
fn cache_ttl_counts_milliseconds() {
    let ttl = Some(Duration::from_millis(1500));
    let bench = bench(|settings| settings.storing.freshness.cache_ttl = ttl);
    let answer = || _ = bench.answers(200, "Cache-Control: max-age=60", "x").answers(200, "", "z");
    answer();
    bench.get("/a");
    bench.get("/b");
    let told = |target| bench.get(target).2;
    assert_eq!(
        (bench.after(1).get("/a").2, told("/b")),
        ("hit; ttl=0".into(), "hit; ttl=0".into())
    );
    answer();
    let after = bench.after(1);
    let told = |target| after.get(target).2;
    assert!(told("/a").starts_with("fwd=stale") && told("/b").starts_with("fwd=stale"));
}

#[test]
fn a_stale_response_stands_in_until_its_window_ends() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60, stale-if-error=100", "x");
    bench.get("/a");
    bench.after(159).refuses();
    let (status, content, told) = bench.get("/a");
    assert_eq!((status, content.as_str()), (200, "x"));
    assert_eq!(told, "fwd=stale; ttl=-99; detail=stale-if-error");
    bench.after(1).refuses();
    let (status, _, told) = bench.get("/a");
    assert_eq!((status, told.as_str()), (502, "fwd=stale; detail=connect"));
}

#[test]
fn stale_while_revalidate_fetches_in_the_background() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60, stale-while-revalidate=10", "old");
    bench.get("/a");
    bench.after(69).answers(200, "Cache-Control: max-age=60", "new");
    assert_eq!(bench.get("/a").2, "hit; ttl=-9; detail=stale-while-revalidate");
    assert_eq!((bench.get("/a").1.as_str(), bench.get("/a").2.as_str()), ("new", "hit; ttl=60"));
}

#[test]
fn the_sweep_keeps_what_may_still_be_of_use() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60, stale-if-error=10", "x");
    bench.answers(200, "Cache-Control: max-age=60, must-revalidate", "x");
    bench.get("/a");
    bench.get("/b");
    bench.after(61).proxy.sweep();
    assert_eq!(bench.store.usage().memory.responses, 1);
    bench.after(10).proxy.sweep();
    assert_eq!(bench.store.usage().memory.responses, 0);
}

#[test]
fn a_response_that_may_not_be_stored_takes_the_old_one_away() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; Age: 60", "old");
    bench.get("/a");
    bench.answers(200, "Cache-Control: no-store", "secret");
    assert_eq!(bench.get("/a").2, "fwd=stale; fwd-status=200; detail=no-store");
    assert_eq!(bench.store.usage().memory.responses, 0);
}

/// One client's credentials must not cost the others what is stored for them.
#[test]
fn a_personal_response_leaves_the_shared_one_alone() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "shared").answers(200, "X: y", "own");
    bench.get("/a");
    let (_, content, told) = bench.get_with("/a", "Cookie: a=b; Cache-Control: no-cache");
    assert_eq!((content.as_str(), told.starts_with("fwd=request")), ("own", true));
    assert_eq!(bench.get("/a").1, "shared");
}

#[test]
fn an_error_does_not_take_the_old_one_away() {
    let bench = bench(|settings| settings.reuse.stale_if_error = DeltaSeconds::ZERO);
    bench.answers(200, "Cache-Control: max-age=60; Age: 60", "old").answers(503, "X: y", "busy");
    bench.get("/a");
    assert_eq!(bench.get("/a").0, 503);
    assert_eq!(bench.store.usage().memory.responses, 1);
}

#[test]
fn a_clear_is_not_undone_by_a_response_on_its_way() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "old");
    let mut response = bench.response("/a", "");
    clear(&bench.store);
    assert_eq!(content(&mut response), "old");
    assert_eq!(bench.store.usage().memory.responses, 0);
}

#[test]
fn fields_that_the_proxy_writes_take_part_in_vary() {
    let bench = bench(|_| ());
    let told = "Cache-Control: max-age=60; Vary: X-Forwarded-Host, X-Forwarded-For";
    bench.answers(200, told, "x");
    bench.get("/a");
    // What the client says in them does not matter, because it does not reach the origin server.
    assert!(bench.get_with("/a", "X-Forwarded-Host: evil.test").2.starts_with("hit"));
}

#[test]
fn the_origins_own_cache_status_stays_in_front() {
    let bench = bench(|_| ());
    bench.answers(
        200,
        "Cache-Control: max-age=60; Cache-Status: inner; hit; X-Cache: HIT; Via: 1.1 inner",
        "x",
    );
    let response = bench.response("/a", "");
    let all = |name| {
        response
            .fields
            .get_all(name)
            .map(|value| value.to_str().expect("text").to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(all("cache-status"), ["inner; hit", "proxy; fwd=uri-miss; fwd-status=200; stored"]);
    assert_eq!(all("x-cache"), ["MISS"]);
    assert_eq!(all("via"), ["1.1 inner", "1.1 proxy"]);
}

#[test]
fn a_late_response_has_an_age() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60; Age: 5", "x");
    let age = bench.response("/a", "").fields.get("age").cloned();
    assert_eq!(age, Some(HeaderValue::from_static("5")));
    bench.answers(200, "Cache-Control: max-age=60", "x");
    assert!(!bench.response("/b", "").fields.contains("age"));
}

/// RFC 9111 §4.3.4: it is the stored response that is freshened, and no other takes its place for it.
#[test]
fn a_slow_validation_does_not_bring_back_what_was_replaced() {
    const V1: &str = "Cache-Control: max-age=60; ETag: \"v1\"";
    const V2: &str = "Cache-Control: max-age=60; ETag: \"v2\"";
    #[rustfmt::skip]
    let table = [
        // How it is asked about, what the origin server says to that, and what it has said meanwhile.
        ("GET", 304, V1, V2, Some("new")),
        ("GET", 304, V1, "Cache-Control: no-store; ETag: \"v2\"", None),
        ("HEAD", 200, V1, V2, Some("new")),
        ("HEAD", 200, "Cache-Control: max-age=60; ETag: \"v0\"", V2, Some("new")),
    ];
    for (method, status, late, meanwhile, expected) in table {
        let bench = bench(|_| ());
        bench.answers(200, V1, "old").get("/a");
        // A HEAD asks about what is fresh, a GET about what is stale.
        let is_head = method == "HEAD";
        bench.after(if is_head { 10 } else { 70 });
        let slow =
            bench.set_out(method, "/a", if is_head { "Cache-Control: no-cache" } else { "" });
        bench.answers(200, meanwhile, "new");
        assert_eq!(bench.get_with("/a", "Cache-Control: no-cache").1, "new");
        bench.answers(status, late, "");
        let answer = bench.arrive(slow);
        assert_eq!(
            (answer.status, answer.content.as_str()),
            (200, if is_head { "" } else { "old" })
        );
        if !is_head {
            assert_eq!(answer.told(), "fwd=stale; fwd-status=304; ttl=60; detail=replaced");
        }
        let found = bench.store.look_at("http://o.test/a").map(|variants| variants[0].clone());
        let found = found.map(|stored| stored.content.here().cloned().expect("in memory"));
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{method} {late}");
        if expected.is_some() {
            assert_eq!(bench.get("/a").2, "hit; ttl=60", "{method} {late}");
        }
    }
}

/// RFC 9110 §9.3.3, RFC 9111 §4.4: the answer to a POST may be stored for a GET. Its own invalidation does not
/// keep it out; those of others do, whatever they select by.
#[test]
fn what_is_invalidated_while_a_post_is_answered_is_not_stored() {
    type Deed = fn(&Bench);
    #[rustfmt::skip]
    let table: [(&str, Deed, bool); 10] = [
        ("nothing", |_| (), true),
        ("another tag", |bench| _ = bench.store.forget(&Selector::Tag("green".into()), bench.clock.now()), true),
        ("another key", |bench| _ = bench.store.invalidate(&"http://o.test/b".into(), None), true),
        ("what is stale", |bench| _ = bench.store.forget(&Selector::Stale, bench.clock.now()), true),
        ("its tag", |bench| _ = bench.store.forget(&Selector::Tag("red".into()), bench.clock.now()), false),
        ("its prefix", |bench| _ = bench.store.forget(&Selector::Prefix("http://o.test/".into()), bench.clock.now()), false),
        ("its key", |bench| _ = bench.store.invalidate(&"http://o.test/a".into(), None), false),
        ("all", |bench| _ = clear(&bench.store), false),
        ("both tags", |bench| for tag in ["green", "red"] {
            bench.store.forget(&Selector::Tag(tag.into()), bench.clock.now());
        }, false),
        ("another POST", |bench| {
            let other = bench.set_out("POST", "/a", "");
            bench.answers(204, "", "");
            bench.arrive(other);
        }, false),
    ];
    for (what, deed, expected) in table {
        let bench = bench(|_| ());
        let slow = bench.set_out("POST", "/a", "");
        deed(&bench);
        let fields = "Cache-Control: max-age=60; Content-Location: /a; Surrogate-Key: red";
        bench.answers(200, fields, "posted");
        assert_eq!(bench.arrive(slow).content, "posted");
        assert_eq!(bench.store.look_at("http://o.test/a").is_some(), expected, "{what}");
    }
}

#[test]
fn credentials_share_nothing_that_is_fresh_by_guess() {
    let bench = bench(|_| ());
    bench.answers(200, "X: y", "public").answers(200, "X: y", "own");
    bench.get("/a");
    let (_, content, told) = bench.get_with("/a", "Cookie: a=b");
    assert_eq!(
        (content.as_str(), told.as_str()),
        ("own", "fwd=request; fwd-status=200; detail=cookie")
    );
    assert_eq!(bench.get("/a").1, "public", "and the others keep theirs");
}

/// What a request is judged by is the time at which it is looked up, however long it has followed another.
#[test]
fn a_request_that_has_waited_is_judged_when_it_goes_on() {
    let bench = bench(|_| {});
    let leader = bench.set_out("GET", "/a", "");
    let waiter = bench.wait("GET", "/a", "");
    bench.answers(200, "Cache-Control: max-age=10; ETag: \"v1\"", "first");
    assert_eq!(bench.arrive(leader).content, "first");
    // It is resumed by now; until it has its turn, what it waited for goes stale.
    bench.after(30).answers(304, "Cache-Control: max-age=10; ETag: \"v1\"", "");
    let response = bench.resume(&waiter);
    assert_eq!(response.content, "first");
    assert_eq!(response.told(), "fwd=stale; fwd-status=304; ttl=10; stored");
}

/// RFC 9111 §4.2.3: the delay of an exchange begins when the origin server is asked, not when a client that
/// waited for another came.
#[test]
fn the_time_that_a_request_has_waited_makes_no_response_older() {
    let bench = bench(|_| {});
    let leader = bench.set_out("GET", "/a", "");
    let waiter = bench.wait("GET", "/a", "");
    bench.after(30);
    drop(leader);
    bench.answers(200, "Cache-Control: max-age=60", "its own");
    let response = bench.resume(&waiter);
    assert_eq!((&*response.content, &*response.field("age")), ("its own", ""));
}

/// Whatever comes of it, a request that has reached for the origin server is counted once.
#[test]
fn each_request_to_the_origin_server_is_counted_once() {
    let bench = bench(|settings| settings.follow_redirects = true);
    let asked = || {
        let summary = bench.proxy.stats().summary();
        let (before, _) = summary.split_once(" origin requests").expect("it is counted");
        before.rsplit(' ').next().and_then(|number| number.parse::<usize>().ok())
    };
    bench.refuses();
    assert_eq!(bench.get("/refused").0, 502);
    assert_eq!(asked(), Some(1));
    // Refused once more: the origin server is spared this one.
    assert_eq!((bench.get("/refused").0, asked()), (502, Some(1)));
    bench.after(2).answers(302, "Location: /there", "").answers(
        200,
        "Cache-Control: max-age=60",
        "there",
    );
    assert_eq!(bench.get("/moved").1, "there");
    assert_eq!(asked(), Some(3));
    for _ in 0..11 {
        bench.answers(302, "Location: /on", "");
    }
    assert_eq!(bench.get("/on").0, 502);
    assert_eq!((asked(), bench.asked().len()), (Some(14), 14));
}
