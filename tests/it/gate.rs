//! What the origin server is spared: requests while it is down, while it has asked for patience, and
//! beyond `--origin-rate` and `--origin-concurrency`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::support::engine::{Bench, bench, content, to_fields};
use super::support::origin::{Gate, Origin as Scripted, on};
use super::support::proxy::Proxy;
use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Request;
use caching_proxy::origin::gate::{Gated, Limits, Rate};
use caching_proxy::origin::{
    Origin, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};
use http::{Method, StatusCode, Version};
use parking_lot::Mutex;

#[test]
fn a_dead_origin_is_asked_once_a_second() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "x").refuses();
    bench.get("/a");
    let (status, _, told) = bench.after(100).get("/b");
    assert_eq!((status, told.as_str()), (502, "fwd=uri-miss; detail=connect"));
    for _ in 0..50 {
        let stale = bench.get("/a");
        assert_eq!(
            (stale.0, stale.1.as_str(), stale.2.as_str()),
            (200, "x", "fwd=stale; ttl=-40; detail=down")
        );
        let nothing = bench.fetch("GET", "/c", "");
        assert_eq!(
            (nothing.status, nothing.told().as_str(), nothing.field("retry-after").as_str()),
            (502, "fwd=uri-miss; detail=down", "1")
        );
        assert!(nothing.content.contains("asked once a second"), "{}", nothing.content);
    }
    assert_eq!(bench.asked().len(), 2, "nobody has asked it again");
    // The probe of the next second fails, too; the one after that does not.
    bench.refuses();
    assert_eq!(bench.after(1).get("/b").2, "fwd=uri-miss; detail=connect");
    assert_eq!(bench.get("/b").2, "fwd=uri-miss; detail=down");
    bench.answers(200, "Cache-Control: max-age=60", "back").answers(200, "X: y", "all");
    assert_eq!(bench.after(1).get("/b").1, "back");
    assert_eq!(bench.get("/c").1, "all", "and everyone is let through again");
    assert!(bench.is_finished());
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_for_longer() {
    let bench = bench(|_| ());
    bench.refuses().answers(200, "X: y", "back");
    bench.get("/a");
    if let Clock::ByHand(now) = &bench.clock {
        now.fetch_sub(3_600_000, std::sync::atomic::Ordering::Relaxed);
    }
    assert_eq!(bench.get("/a").1, "back");
}

#[test]
fn retry_after_is_heeded_while_stale_is_served() {
    #[rustfmt::skip]
    let table = [
        // Status, Retry-After, and for how many seconds the same URI is left alone.
        (429, "10", 10), (503, "10", 10), (503, "1", 1), (503, "9999", 60), (429, "999999999999", 60),
        (503, "Fri, 15 Jan 2027 08:00:25 GMT", 20), (503, "Fri, 15 Jan 2027 07:00:00 GMT", 0),
        (503, "0", 0), (503, "soon", 0), (503, "-5", 0), (500, "10", 0),
    ];
    for (status, wait, seconds) in table {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: max-age=1", "x").answers(
            status,
            &format!("Retry-After: {wait}"),
            "busy",
        );
        bench.get("/a");
        let first = bench.after(5).fetch("GET", "/a", "");
        assert_eq!(
            (first.content.as_str(), first.told().ends_with("detail=stale-if-error")),
            ("x", true)
        );
        if seconds > 0 {
            assert_eq!(
                bench.after(seconds - 1).get("/a").2,
                format!("fwd=stale; ttl=-{}; detail=retry-after", 4 + seconds - 1),
                "{status} {wait}"
            );
            assert_eq!(bench.asked().len(), 2);
            bench.after(1);
        }
        bench.answers(200, "Cache-Control: max-age=60", "y");
        assert_eq!(bench.get("/a").1, "y", "{status} {wait}");
    }
}

/// A GET from this address, or from nowhere in particular.
fn get_from(bench: &Bench, client: &str, target: &str, fields: &str) -> (u16, String) {
    let fields = to_fields(&format!("Host: h; {fields}"));
    let client = Some(SocketAddr::new(client.parse().expect("an address"), 5000));
    let request = Request::new(Method::GET, target, Version::HTTP_11, fields, client);
    let mut response = bench.send(request.expect("a request"));
    (response.status.as_u16(), content(&mut response))
}

#[test]
fn a_limit_holds_back_what_was_limited_and_no_more() {
    const SPENT: &str = "Retry-After: 30; X-RateLimit-Remaining: 0";
    #[rustfmt::skip]
    let table = [
        // What the limited request has, the status and fields that it gets, what another request is and
        // has, and whether that is held back.
        ("", 429, "Retry-After: 30", "192.0.2.1", "/a", "", true),
        ("", 503, "Retry-After: 30", "192.0.2.1", "/a?x=y", "", true),
        ("", 403, "Retry-After: 30", "192.0.2.1", "/a", "", true),
        ("", 429, "Retry-After: 30", "192.0.2.1", "/b", "", false),
        ("", 503, "Retry-After: 30", "192.0.2.1", "/b", "", false),
        ("", 429, "Retry-After: 30", "192.0.2.2", "/a", "", false),
        ("", 503, "Retry-After: 30", "192.0.2.2", "/a", "", false),
        ("", 429, "Retry-After: 30", "192.0.2.1", "/a", "Authorization: one", false),
        ("Authorization: one", 429, "Retry-After: 30", "192.0.2.2", "/a", "Authorization: one", true),
        ("Authorization: one", 503, "Retry-After: 30", "192.0.2.2", "/a", "Authorization: one", true),
        ("Authorization: one", 429, "Retry-After: 30", "192.0.2.1", "/a", "Authorization: two", false),
        ("Authorization: one", 503, "Retry-After: 30", "192.0.2.1", "/a", "Authorization: two", false),
        ("Authorization: one", 429, "Retry-After: 30", "192.0.2.1", "/a", "", false),
        ("Authorization: one", 429, "Retry-After: 30", "192.0.2.1", "/b", "Authorization: one", false),
        ("Cookie: a=1", 429, "Retry-After: 30", "192.0.2.1", "/a", "Cookie: a=2", false),
        ("X-API-Key: k", 429, SPENT, "192.0.2.2", "/b", "X-API-Key: k", true),
        ("X-API-Key: k", 503, SPENT, "192.0.2.2", "/b", "X-API-Key: k", true),
        ("X-API-Key: k", 403, SPENT, "192.0.2.2", "/b", "X-API-Key: k", true),
        ("X-API-Key: k", 429, SPENT, "192.0.2.1", "/b", "X-API-Key: l", false),
        ("", 429, SPENT, "192.0.2.1", "/b", "", true),
        ("", 429, SPENT, "192.0.2.2", "/b", "", false),
        ("", 429, "Retry-After: 30; RateLimit: \"h\"", "192.0.2.1", "/b", "", false),
        ("", 403, "X: y", "192.0.2.1", "/a", "", false),
    ];
    for (who, status, limits, client, target, other, is_held) in table {
        let case = format!("{who:?} {status} {limits}: {client} {target} {other:?}");
        let bench = bench(|_| ());
        let limits = format!("Cache-Control: max-age=0; {limits}");
        bench.answers(status, &limits, "busy").answers(200, "Cache-Control: no-store", "free");
        assert_eq!(get_from(&bench, "192.0.2.1", "/a", who), (status, "busy".into()), "{case}");
        let expected = if is_held { (status, "busy".into()) } else { (200, "free".into()) };
        assert_eq!(get_from(&bench, client, target, other), expected, "{case}");
        assert_eq!(bench.asked().len(), if is_held { 1 } else { 2 }, "{case}");
    }
}

#[test]
fn only_get_and_head_are_held_back_and_hold_back() {
    let spent = "Retry-After: 30; X-RateLimit-Remaining: 0";
    for (first, second, is_held) in [
        ("GET", "HEAD", true),
        ("HEAD", "GET", true),
        ("GET", "POST", false),
        ("GET", "DELETE", false),
        ("GET", "OPTIONS", false),
        ("POST", "GET", false),
        ("POST", "POST", false),
    ] {
        let bench = bench(|_| ());
        bench.answers(429, spent, "busy").answers(200, "X: y", "free");
        bench.fetch(first, "/a", "");
        let status = bench.fetch(second, "/a", "").status;
        assert_eq!(status, if is_held { 429 } else { 200 }, "{first}, {second}");
    }
}

#[test]
fn whoever_is_held_back_is_told_what_the_origin_server_has_said() {
    let long: &'static str = "x".repeat(16 * 1024).leak();
    let too_long: &'static str = "x".repeat(16 * 1024 + 1).leak();
    let ours = "the origin server answered 429 and wants to be left alone for";
    #[rustfmt::skip]
    let table = [
        // Fields, content, what the second client accepts, and whether it gets that content.
        ("Content-Type: a/b", "busy", "", true),
        ("Content-Type: a/b", "", "", true),
        ("Content-Type: a/b", long, "", true),
        ("Content-Type: a/b", too_long, "", false),
        ("Content-Type: a/b; Content-Encoding: gzip", "busy", "Accept-Encoding: gzip", true),
        ("Content-Type: a/b; Content-Encoding: gzip", "busy", "Accept-Encoding: br", false),
        ("Content-Type: a/b; Cache-Control: private", "busy", "", false),
        ("Content-Type: a/b; Cache-Control: no-store", "busy", "", false),
    ];
    for (fields, text, accepts, is_given) in table {
        let bench = bench(|_| ());
        let fields = format!("{fields}; Retry-After: 90; RateLimit: \"h\"; Set-Cookie: a=b");
        bench.answers(429, &fields, text);
        assert_eq!(bench.fetch("GET", "/a", "").field("set-cookie"), "a=b");
        let held = bench.after(10).fetch("GET", "/a", accepts);
        let told = (held.status, held.told(), held.field("retry-after"));
        assert_eq!(told, (429, "fwd=uri-miss; detail=retry-after".into(), "80".into()), "{fields}");
        assert_eq!(held.field("set-cookie"), "", "{fields}");
        if is_given {
            assert_eq!(held.content, text, "{fields}");
            assert_eq!(held.field("content-type"), "a/b", "{fields}");
        } else {
            assert!(held.content.starts_with(ours), "{fields}: {}", held.content);
            assert_eq!(held.field("content-type"), "text/plain; charset=utf-8", "{fields}");
            assert_eq!(held.field("content-encoding"), "", "{fields}");
        }
        let kept = !fields.contains("Cache-Control");
        assert_eq!(held.field("ratelimit"), if kept { "\"h\"" } else { "" }, "{fields}");
    }
}

/// A 403 that limits is no word about the target: what is stale stands in, and stays.
#[test]
fn a_403_that_limits_lets_the_stale_stand_in() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=1", "x");
    bench.answers(403, "X-RateLimit-Remaining: 0; X-RateLimit-Reset: 20", "slow down");
    bench.get("/a");
    let told = bench.after(5).get("/a");
    assert_eq!((told.0, told.1.as_str()), (200, "x"));
    assert_eq!(bench.after(19).get("/a").2, "fwd=stale; ttl=-23; detail=retry-after");
    bench.answers(200, "Cache-Control: max-age=1", "y");
    assert_eq!(bench.after(1).get("/a").1, "y");
}

/// Several credentials, one key, one flight: whose quota is used up is nobody else's business, but that the
/// origin server does not work is everybody's.
#[test]
fn one_clients_429_is_not_told_to_those_who_wait_for_its_answer() {
    const STALE: &str = "Cache-Control: max-age=60; Age: 100";
    let credentials = ["X-Api-Key: one", "X-Api-Key: two", "Cookie: a=b", ""];
    for status in [429, 503, 500] {
        for (has_stale, is_held) in [(false, true), (true, false), (true, true)] {
            let bench = bench(|_| ());
            if has_stale {
                bench.answers(200, STALE, "stale").get("/a");
            }
            if is_held && status != 500 {
                // Either holds back these credentials at this path.
                bench.answers(status, "Retry-After: 30", "later");
                // It leads nobody, so that nothing is remembered of it.
                bench.get_with("/a", &format!("{}; Cache-Control: no-store", credentials[0]));
            } else if !has_stale {
                continue;
            } else {
                bench.answers(status, "", "later");
            }
            let case = format!("{status} {has_stale} {is_held}");
            let first = bench.set_out("GET", "/a", credentials[0]);
            let others: Vec<_> =
                credentials[1..].iter().map(|fields| bench.wait("GET", "/a", fields)).collect();
            let first = bench.arrive(first);
            assert_eq!(first.content == "stale", has_stale, "{case}");
            // What was held back was the first one's alone.
            let asks = status == 429 || status == 503 && is_held;
            for other in &others {
                if asks {
                    bench.answers(200, "Cache-Control: max-age=0, private", "own");
                }
                let other = bench.resume(other);
                let expected = match (status, has_stale) {
                    _ if asks => (200, "own"),
                    (_, true) => (200, "stale"),
                    (status, false) => (status, other.content.as_str()),
                };
                assert_eq!((other.status, other.content.as_str()), expected, "{case}");
            }
            let asked = 1 + usize::from(has_stale) + if asks { others.len() } else { 0 };
            assert_eq!(bench.asked().len(), asked, "{case}");
        }
    }
}

#[test]
fn hits_are_never_held_back() {
    let bench = bench(|_| ());
    bench.answers(200, "Cache-Control: max-age=60", "x").answers(429, "Retry-After: 30", "busy");
    bench.get("/a");
    bench.get("/b");
    assert_eq!(bench.get("/a").2, "hit; ttl=60");
}

/// An origin server that answers at once, or when it is let.
#[derive(Default)]
struct Quick {
    asked: Mutex<usize>,
}

impl Origin for Quick {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let mut asked = self.asked.lock();
        *asked += 1;
        if request.url.ends_with("/slow") {
            let (origin, limit) = ("http://o".to_string(), Duration::from_secs(30));
            return Err(OriginError::Timeout { origin, limit });
        }
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::OK,
                version: Version::HTTP_11,
                fields: Fields::new(),
                length: Some(0),
                silently_delimited: false,
                has_content: false,
            },
            body: None,
        })
    }
}

fn ask(gated: &Gated, url: &str, waits: bool) -> Result<OriginResponse, OriginError> {
    let (method, fields, content) = (&Method::GET, &Fields::new(), RequestContent::None);
    gated.send(OriginRequest { method, url, host: None, fields, content, waits, interim: None })
}

fn gated(rate: Option<Rate>, wait_max: Duration) -> (Gated, Arc<Quick>, Clock) {
    let quick = Arc::new(Quick::default());
    let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
    let limits = Limits { rate, concurrency: None, connections: None, wait_max };
    (Gated::new(Arc::<Quick>::clone(&quick), clock.clone(), limits), quick, clock)
}

#[test]
fn one_slow_uri_is_no_dead_origin() {
    let (gated, quick, clock) = gated(None, Duration::ZERO);
    let is_down = |answer: Result<OriginResponse, OriginError>| {
        matches!(answer, Err(OriginError::Down { .. }))
    };
    assert!(!is_down(ask(&gated, "http://o/slow", true)));
    clock.advance(DeltaSeconds(1));
    assert!(!is_down(ask(&gated, "http://o/quick", true)), "it answers others");
    clock.advance(DeltaSeconds(1));
    assert!(!is_down(ask(&gated, "http://o/slow", true)));
    assert!(!is_down(ask(&gated, "http://o/slow", true)), "and again");
    // Two silences and no answer meanwhile: it is dead, but only this one.
    assert!(is_down(ask(&gated, "http://o/quick", true)));
    assert!(!is_down(ask(&gated, "http://p/quick", true)), "redirects may lead to another");
    assert_eq!(*quick.asked.lock(), 5);
}

#[test]
fn the_rate_is_a_bound_for_any_span() {
    let rate = Rate { requests: 3, per: Duration::from_secs(3600) };
    let (gated, quick, _) = gated(Some(rate), Duration::from_secs(1));
    for _ in 0..3 {
        assert!(ask(&gated, "http://o/a", false).is_ok());
    }
    for waits in [false, true] {
        let Err(OriginError::Busy { seconds }) = ask(&gated, "http://o/a", waits) else {
            panic!("no turn within reach")
        };
        assert!((3590..=3600).contains(&seconds), "{seconds}");
    }
    assert_eq!(*quick.asked.lock(), 3);
}

#[test]
fn who_may_wait_gets_a_turn_within_the_rate() {
    let rate = Rate { requests: 5, per: Duration::from_millis(50) };
    let (gated, quick, _) = gated(Some(rate), Duration::from_secs(30));
    let begun = std::time::Instant::now();
    let all = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..20).map(|_| scope.spawn(|| ask(&gated, "http://o/a", true).is_ok())).collect();
        threads.into_iter().all(|thread| thread.join().expect("no panic"))
    });
    assert!(all && *quick.asked.lock() == 20);
    assert!(
        begun.elapsed() >= Duration::from_millis(150),
        "five at a time, so three spans are between"
    );
}

/// The same through the program: nothing but the clock brings their turn.
#[test]
fn clients_get_their_turn_within_the_rate() {
    let origin = Scripted::script([
        on("GET /1").send(200, "Cache-Control: no-store", "1"),
        on("GET /2").send(200, "Cache-Control: no-store", "2"),
    ]);
    let proxy = Proxy::before(&origin, &["--origin-rate", "1/s"]);
    for target in ["/1", "/2"] {
        assert_eq!(proxy.get(target).status, 200, "{target}");
    }
    origin.assert_finished();
}

#[test]
fn only_so_many_requests_are_under_way() {
    let gate = Gate::new();
    let origin = Scripted::script([
        on("GET /hit").send(200, "Cache-Control: max-age=60", "hit"),
        on("GET /stale").send(200, "Cache-Control: max-age=60; Age: 60", "stale"),
        on("GET /1").wait(&gate).send(200, "Cache-Control: no-store", "1"),
        on("GET /2").wait(&gate).send(200, "Cache-Control: no-store", "2"),
        on("GET /3").send(200, "Cache-Control: no-store", "3"),
    ]);
    let proxy = Proxy::before(&origin, &["--origin-concurrency", "2"]);
    proxy.get("/hit");
    proxy.get("/stale");
    let mut clients = ["/1", "/2", "/3"].map(|target| {
        let mut connection = proxy.connect();
        connection.request("GET", target, "", "");
        if target != "/3" {
            origin.wait_for(if target == "/1" { 3 } else { 4 });
        }
        connection
    });
    assert!(proxy.get("/hit").is_hit(), "a hit needs no turn");
    let stale = proxy.get("/stale");
    assert_eq!((stale.body(), stale.is_hit()), ("stale".into(), true));
    assert!(stale.cache_status().ends_with("detail=rate"), "{}", stale.cache_status());
    assert_eq!(origin.asked().len(), 4, "the third waits for its turn");
    gate.open();
    let bodies: Vec<String> = clients.iter_mut().map(|client| client.reply().body()).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    origin.assert_finished();
}

/// More requests than the workers' queue holds wait for one connection, and none is refused.
#[test]
fn requests_wait_for_a_connection() {
    const COUNT: usize = 30;
    let gate = Gate::new();
    let origin = Scripted::script([on("GET *any*")
        .wait(&gate)
        .send(200, "Cache-Control: no-store", "x")
        .always()]);
    let proxy = Proxy::before(&origin, &["--origin-connections", "1"]);
    let mut clients: Vec<_> = (0..COUNT)
        .map(|number| {
            let mut connection = proxy.connect();
            connection.request("GET", &format!("/{number}"), "", "");
            connection
        })
        .collect();
    assert_eq!(origin.wait_for(1).len(), 1);
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.status, reply.body()), (200, "x".into()));
    }
}

#[test]
fn beyond_the_rate_the_answer_says_when_to_try_again() {
    let origin = Scripted::script([on("GET /a").send(200, "Cache-Control: max-age=60", "a")]);
    let proxy = Proxy::before(&origin, &["--origin-rate", "1/h", "--origin-timeout", "2"]);
    assert_eq!(proxy.get("/a").body(), "a");
    let refused = proxy.get("/b");
    assert_eq!(
        (refused.status, refused.cache_status().as_str()),
        (503, "proxy; fwd=uri-miss; detail=rate")
    );
    let seconds: u32 = refused.field("retry-after").parse().expect("a number");
    assert!((3000..=3600).contains(&seconds) && refused.body().contains("--origin-rate"));
    assert!(proxy.get("/a").is_hit());
    origin.assert_finished();
}
