//! What the steps of a request leave behind beside its answer: what is counted, and when the clock was read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use caching_proxy::message::body::Body;
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse,
};
use caching_proxy::proxy::Settings;
use caching_proxy::stats::Counter;
use http::{StatusCode, Version};
use parking_lot::Mutex;

use super::support::engine::{Bench, bench_with, to_fields};

/// What an origin server does with one request.
enum Does {
    Answers(u16, &'static str, &'static str),
    /// An answer whose head states no length.
    Streams(u16, &'static str, &'static str),
    Fails(OriginError),
}

/// An origin server that does this, in order.
struct Doing(Mutex<Vec<Does>>);

struct AtOnce(&'static [u8]);

impl OriginBody for AtOnce {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.0, buffer)
    }
}

impl Origin for Doing {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let (status, fields, content, is_stated) = match self.0.lock().remove(0) {
            Does::Answers(status, fields, content) => (status, to_fields(fields), content, true),
            Does::Streams(status, fields, content) => (status, to_fields(fields), content, false),
            Does::Fails(error) => return Err(error),
        };
        let has_content = status != 304 && *request.method != http::Method::HEAD;
        let status = StatusCode::from_u16(status).expect("a status");
        let (version, length) = (Version::HTTP_11, is_stated.then_some(content.len() as u64));
        let head =
            OriginHead { status, version, fields, length, silently_delimited: false, has_content };
        let body = has_content.then(|| Box::new(AtOnce(content.as_bytes())) as Box<dyn OriginBody>);
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
