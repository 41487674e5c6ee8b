//! What the steps of a request leave behind beside its answer: what is counted, and when the clock was read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use caching_proxy::message::body::{Body, Grown};
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse,
};
use caching_proxy::proxy::fill::Progress;
use caching_proxy::proxy::{Attempt, Delivery, Next, Settings};
use caching_proxy::stats::Counter;
use http::{StatusCode, Version};
use parking_lot::Mutex;

use super::support::engine::{Bench, bench_with, request, to_fields};

/// What an origin server does with one request.
enum Does {
    Answers(u16, &'static str, &'static str),
    /// An answer whose head states no length.
    Streams(u16, &'static str, &'static str),
    Fails(OriginError),
    /// An answer whose content is over when this has one owner less.
    Held(&'static str, Option<u64>, &'static str, Arc<()>),
    /// An answer whose content has no end; it is counted how often that is read.
    Endless(&'static str, Arc<AtomicUsize>),
}

/// An origin server that does this, in order.
struct Doing(Mutex<Vec<Does>>);

struct AtOnce(&'static [u8]);

struct HeldContent(AtOnce, #[expect(dead_code, reason = "held until it is dropped")] Arc<()>);

impl OriginBody for HeldContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

struct NoEnd(Arc<AtomicUsize>);

impl OriginBody for NoEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert!(self.0.load(Ordering::Relaxed) < 100, "it would never end");
        buffer[0] = b'x';
        Ok(1)
    }
}

impl OriginBody for AtOnce {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.0, buffer)
    }
}

impl Origin for Doing {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let (status, fields, length, body): (_, _, _, Box<dyn OriginBody>) =
            match self.0.lock().remove(0) {
                Does::Answers(status, fields, content) => {
                    let length = Some(content.len() as u64);
                    (status, fields, length, Box::new(AtOnce(content.as_bytes())))
                }
                Does::Streams(status, fields, content) => {
                    (status, fields, None, Box::new(AtOnce(content.as_bytes())))
                }
                Does::Held(fields, length, content, held) => {
                    (200, fields, length, Box::new(HeldContent(AtOnce(content.as_bytes()), held)))
                }
                Does::Fails(error) => return Err(error),
                Does::Endless(fields, reads) => (200, fields, None, Box::new(NoEnd(reads))),
            };
        let has_content = status != 304 && *request.method != http::Method::HEAD;
        let head = OriginHead {
            status: StatusCode::from_u16(status).expect("a status"),
            version: Version::HTTP_11,
            fields: to_fields(fields),
            length,
            silently_delimited: false,
            has_content,
        };
        let body = has_content.then_some(body);
        Ok(OriginResponse { head, body })
    }
}

fn over(does: Vec<Does>, change: impl FnOnce(&mut Settings)) -> Bench {
    bench_with(Arc::new(Doing(Mutex::new(does))), change)
}

fn origin() -> String {
    "http://o.test".to_string()
}

/// Each request that reaches out to the origin server is counted, whatever comes of it: answered, asked again,
/// redirected or failed. What the proxy holds back is not.
#[test]
fn a_request_to_the_origin_server_is_counted_whatever_comes_of_it() {
    use Does::{Answers, Fails};
    const STALE: &str = "Cache-Control: max-age=60; Age: 100; ETag: \"v\"";
    let closed = || Fails(OriginError::Closed { origin: origin(), what: String::new() });
    let refused = || {
        let source = io::ErrorKind::ConnectionRefused.into();
        Fails(OriginError::Connect { origin: origin(), source })
    };
    let limit = Duration::from_secs(1);
    let late = || Fails(OriginError::Timeout { origin: origin(), limit });
    let aborted = || Fails(OriginError::Content(io::ErrorKind::ConnectionReset.into()));
    let busy = || Fails(OriginError::Busy { seconds: 1 });
    let invalid = || Fails(OriginError::Invalid { origin: origin(), what: String::new() });
    let moved = || Answers(302, "Location: /a", "");
    #[rustfmt::skip]
    let table: [(&str, Vec<Does>, usize, u64); 12] = [
        ("an answer",                vec![Answers(200, "", "x")], 1, 1),
        ("a connection refused",     vec![refused()], 1, 1),
        ("a connection closed",      vec![closed()], 1, 1),
        ("silence",                  vec![late()], 1, 1),
        ("no HTTP",                  vec![invalid()], 1, 1),
        ("content that did not come", vec![aborted()], 1, 1),
        ("a limit of the proxy's",   vec![busy()], 1, 0),
        ("a validation that fails",  vec![Answers(200, STALE, "x"), closed()], 2, 2),
        ("a validator unknown",      vec![Answers(200, STALE, "x"), Answers(304, "ETag: \"w\"", ""), closed()], 2, 3),
        ("a redirect",               vec![moved(), Answers(200, "", "x")], 1, 2),
        ("a redirect to a failure",  vec![moved(), closed()], 1, 2),
        ("a circle",                 (0..11).map(|_| moved()).collect(), 1, 11),
    ];
    for (what, does, requests, expected) in table {
        let bench = over(does, |settings| settings.follow_redirects = true);
        for _ in 0..requests {
            bench.get("/a");
        }
        let counted = bench.proxy.stats().snapshot().get(Counter::OriginRequest);
        assert_eq!(counted, Some(expected), "{what}");
    }
}

/// A request that no worker takes is dropped on the way: it was not forwarded, whatever it was to be.
#[test]
fn a_request_is_counted_as_forwarded_when_the_origin_server_was_asked() {
    let forwarded = |bench: &Bench| -> u64 {
        bench.proxy.stats().snapshot().forwarded.iter().map(|(_, count)| count).sum()
    };
    let moved = || Does::Answers(302, "Location: /a", "");
    let answer = || Does::Answers(200, "", "x");
    let closed = || Does::Fails(OriginError::Closed { origin: origin(), what: String::new() });
    #[rustfmt::skip]
    let table = [
        ("answered",   vec![answer()]),
        ("redirected", vec![moved(), moved(), answer()]),
        ("failed",     vec![closed()]),
        ("held back",  vec![Does::Fails(OriginError::Busy { seconds: 1 })]),
        ("a circle",   (0..11).map(|_| moved()).collect()),
    ];
    for (what, does) in table {
        let bench = over(does, |settings| settings.follow_redirects = true);
        drop(bench.set_out("GET", "/a", ""));
        assert_eq!(forwarded(&bench), 0, "{what}: dropped");
        bench.get("/a");
        assert_eq!(forwarded(&bench), 1, "{what}");
    }
}

const PART: &str = "Cache-Control: max-age=60; ETag: \"v\"; Content-Range: bytes 0-4/10";
const REST: &str = "Cache-Control: max-age=60; ETag: \"v\"; Content-Range: bytes 5-9/10";
const WHOLE: &str = "Cache-Control: max-age=60; ETag: \"v\"";

/// RFC 9111 §3.3, §3.4: a part and the rest of it are the whole only if all of it is there. The head of the rest
/// may claim what its framing does not hold.
#[test]
fn a_part_is_made_whole_by_just_what_it_lacks() {
    use Does::{Answers, Streams};
    let whole = || Answers(200, WHOLE, "0123456789");
    #[rustfmt::skip]
    let table = [
        ("what it lacks",           vec![Answers(206, REST, "56789")], "fwd=partial; fwd-status=206; stored"),
        ("less, and it says so",    vec![Answers(206, REST, "567"), whole()], "fwd=partial; fwd-status=200; stored; detail=rest"),
        ("more, and it says so",    vec![Answers(206, REST, "56789ab"), whole()], "fwd=partial; fwd-status=200; stored; detail=rest"),
        ("nothing, and it says so", vec![Answers(206, REST, ""), whole()], "fwd=partial; fwd-status=200; stored; detail=rest"),
        ("what it lacks, streamed", vec![Streams(206, REST, "56789")], "fwd=partial; fwd-status=206; stored"),
    ];
    for (what, rest, expected) in table {
        let mut does = vec![Answers(206, PART, "01234")];
        does.extend(rest);
        let bench = over(does, |_| ());
        bench.get_with("/a", "Range: bytes=0-4");
        let (status, content, told) = bench.get("/a");
        assert_eq!((status, &*content, &*told), (200, "0123456789", expected), "{what}");
        let again = bench.get("/a");
        assert_eq!((&*again.1, &*again.2), ("0123456789", "hit; ttl=60"), "{what}");
    }
    for rest in ["", "5", "5678", "56789a", "56789abcdef"] {
        let does = vec![Answers(206, PART, "01234"), Streams(206, REST, rest), whole()];
        let bench = over(does, |_| ());
        bench.get_with("/a", "Range: bytes=0-4");
        let Body::Arriving(mut body) = bench.response("/a", "").body else { panic!("{rest}") };
        let (mut got, mut piece) = (Vec::new(), [0; 64]);
        let end = loop {
            match body.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(count) => got.extend_from_slice(&piece[..count]),
                Err(error) => break Err(error.kind()),
            }
        };
        // The client sees that it is cut: the head has gone out, and announced ten bytes.
        assert_eq!(end, Err(io::ErrorKind::UnexpectedEof), "{rest}");
        assert!(got.len() < 10 && b"0123456789".starts_with(&got), "{rest}: {got:?}");
        drop(body);
        assert_eq!(bench.get("/a").1, "0123456789", "{rest}: nothing of it is stored");
    }
}

/// RFC 9111 §4.2.3: what a request waited for on this side, before it was sent, is no age of its response; and what
/// it finds after a wait is judged then, not by the time of its arrival.
#[test]
fn a_request_that_has_waited_is_judged_by_the_time_after_the_wait() {
    let closed = || Does::Fails(OriginError::Closed { origin: origin(), what: String::new() });
    let answer = |content| Does::Answers(200, "Cache-Control: max-age=20; ETag: \"v\"", content);
    // The one that is followed fails, and the follower asks itself.
    let bench = over(vec![closed(), answer("x")], |_| ());
    let first = bench.set_out("GET", "/a", "");
    let waiter = bench.wait("GET", "/a", "");
    bench.after(30);
    assert_eq!(bench.arrive(first).status, 502);
    let late = bench.resume(&waiter);
    assert_eq!((late.status, &*late.field("age")), (200, ""), "it was asked for just now");
    assert_eq!(bench.get("/a").2, "hit; ttl=20");
    // Nobody answers in time, and it goes on alone.
    let bench = over(vec![answer("x"), closed()], |_| ());
    let first = bench.set_out("GET", "/a", "");
    let waiter = bench.wait("GET", "/a", "");
    bench.after(30);
    bench.proxy.expire_parked(Duration::ZERO);
    assert_eq!(bench.resume(&waiter).field("age"), "");
    assert_eq!(bench.get("/a").2, "hit; ttl=20");
    bench.arrive(first);
    // A third one, which follows nobody, stores a response meanwhile; it is stale when the wait is over.
    let bench = over(vec![answer("old"), closed(), answer("new")], |_| ());
    let first = bench.set_out("GET", "/a", "");
    let waiter = bench.wait("GET", "/a", "");
    assert_eq!(bench.after(5).get_with("/a", "If-None-Match: \"w\"").1, "old");
    bench.after(25);
    bench.arrive(first);
    assert_eq!(bench.resume(&waiter).told(), "fwd=stale; fwd-status=200; stored");
}

/// What nobody reads and nothing stores is not fetched on: to read it would wait, and hold a worker and a turn at
/// the origin server.
#[test]
fn content_that_nobody_wants_is_not_waited_for() {
    const STALE: &str =
        "Cache-Control: max-age=60, stale-while-revalidate=900; Age: 100; ETag: \"v\"";
    for fields in ["Cache-Control: no-store; ETag: \"w\"", "Cache-Control: private; ETag: \"w\""] {
        let reads = Arc::<AtomicUsize>::default();
        let endless = || Does::Endless(fields, Arc::clone(&reads));
        let read = || reads.swap(0, Ordering::Relaxed);
        let bench = over(vec![endless()], |_| ());
        let Body::Arriving(mut body) = bench.response("/a", "").body else { panic!("{fields}") };
        assert_eq!((body.read(&mut [0; 9]).expect("a byte"), read()), (1, 1), "{fields}");
        body.abandon();
        assert_eq!(read(), 0, "{fields}: its client has left");
        // The client's condition gave way to the cache's, and holds for what has come.
        let bench = over(vec![Does::Answers(200, STALE, "x"), endless()], |_| ());
        bench.get("/a");
        let response = bench.after(1000).response("/a", "If-None-Match: \"w\"");
        assert_eq!((response.status.as_u16(), read()), (304, 0), "{fields}");
        // Nobody waits for it, and it is not to be stored.
        let bench = over(vec![Does::Answers(200, STALE, "x"), endless()], |_| ());
        bench.get("/a");
        assert_eq!(bench.get("/a").2, "hit; ttl=-40; detail=stale-while-revalidate");
        assert_eq!(read(), 0, "{fields}: in the background");
    }
}

/// A client that has all of a response may ask for the next at once, and one that has followed it may ask for
/// itself: by then the turn at the origin server is over (`--origin-concurrency`).
#[test]
fn the_turn_at_the_origin_server_is_over_before_the_end_is_shown() {
    let large = &*"x".repeat(100_000).leak();
    for fields in
        ["Cache-Control: max-age=60", "Cache-Control: no-store", "Cache-Control: no-cache"]
    {
        for (length, content) in [(None, "x"), (Some(100_000), large), (None, large)] {
            let held = Arc::new(());
            let does = vec![Does::Held(fields, length, content, Arc::clone(&held))];
            let bench = over(does, |_| ());
            let request = Arc::new(request("GET", "/a", ""));
            let Delivery { response, rest, .. } = bench.driver.answer(&request);
            let Body::Growing(mut reader) = response.body else { panic!("{fields}") };
            let case = format!("{fields} {length:?} {}", content.len());
            let (owners, seen) = (Arc::downgrade(&held), Arc::new(Mutex::new(Vec::new())));
            let told = Arc::clone(&seen);
            reader.listen(Box::new(move || told.lock().push(owners.strong_count())));
            let mut rest = rest.expect("it is to be fetched");
            let mut piece = vec![0; 64 * 1024];
            while rest.step(&mut piece) == Progress::More {
                let mut had = vec![0; 64 * 1024];
                while let Ok(Grown::Bytes(count)) = reader.peek(&mut had) {
                    reader.consume(count);
                }
            }
            assert_eq!(seen.lock().last(), Some(&1), "{case}: {:?}", seen.lock());
        }
    }
    // What is awaited before its head goes out: a follower learns of it as it is stored.
    let held = Arc::new(());
    let does = vec![Does::Held("Cache-Control: max-age=60", Some(1), "x", Arc::clone(&held))];
    let bench = over(does, |_| ());
    let first = bench.set_out("GET", "/a", "");
    let (follower, owners) = (Arc::new(request("GET", "/a", "")), Arc::downgrade(&held));
    let Next::Follow(follow) = bench.proxy.ask(&follower, Attempt::First) else { panic!("alone") };
    let (sender, seen) = channel();
    follow.park(Box::new(move |_| _ = sender.send(owners.strong_count())));
    bench.arrive(first);
    assert_eq!(seen.try_recv(), Ok(1), "the test alone holds it");
}

/// A client that learns of a cut may ask again at once: it must not find the fetch that is over.
#[test]
fn a_fetch_is_over_before_its_readers_learn_that_it_was_cut() {
    let does = vec![Does::Streams(200, "Cache-Control: max-age=60", "a part of it")];
    let bench = over(does, |_| ());
    let request = Arc::new(request("GET", "/a", ""));
    let Delivery { response, rest, .. } = bench.driver.answer(&request);
    let Body::Growing(mut reader) = response.body else { panic!("it grows") };
    let next = bench.proxy.ask(&request, Attempt::First);
    assert!(matches!(next, Next::Follow(_)), "it is shared so far");
    let (sender, seen) = channel();
    let proxy = Arc::clone(&bench.proxy);
    reader.listen(Box::new(move || {
        let next = proxy.ask(&request, Attempt::First);
        let _ = sender.send(matches!(next, Next::Fetch(_)));
    }));
    drop(rest);
    assert_eq!(seen.try_recv(), Ok(true));
}
