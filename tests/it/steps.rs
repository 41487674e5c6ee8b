//! What the steps of a request leave behind beside its answer: what is counted, and when the clock was read.

use std::io;
use std::sync::Arc;

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
        let (status, fields, content) = match self.0.lock().remove(0) {
            Does::Answers(status, fields, content) => (status, to_fields(fields), content),
            Does::Fails(error) => return Err(error),
        };
        let has_content = status != 304 && *request.method != http::Method::HEAD;
        let status = StatusCode::from_u16(status).expect("a status");
        let (version, length) = (Version::HTTP_11, Some(content.len() as u64));
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
    let limit = std::time::Duration::from_secs(1);
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
