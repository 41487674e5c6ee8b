//! What must hold for any bytes. Shared by the fuzz targets, which look for bytes that break it, and by
//! `tests/fuzzing.rs`, which tries a bounded number of them in every test run.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caching_proxy::clock::{Clock, DeltaSeconds, Timestamp};
use caching_proxy::front::event::parse;
use caching_proxy::front::event::simulation::Simulation;
use caching_proxy::front::workers::Pool;
use caching_proxy::front::{ConnectionLimits, FrontSettings};
use caching_proxy::message::chunked::{Decoder, Malformed, Piece, last_chunk};
use caching_proxy::message::fields::{Fields, is_token_byte};
use caching_proxy::message::request::RequestLimits;
use caching_proxy::message::target::OriginUrl;
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};
use caching_proxy::policy::freshness::FreshnessRules;
use caching_proxy::policy::key::KeyRules;
use caching_proxy::policy::reuse::{Mode, ReuseRules};
use caching_proxy::policy::storing::StoringRules;
use caching_proxy::proxy::{BlockingDriver, Proxy, Settings};
use caching_proxy::stats::Stats;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::codec;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use http::{HeaderName, HeaderValue, StatusCode, Version};

#[path = "clients.rs"]
mod clients;
#[path = "origins.rs"]
mod origins;

// Each target uses one of all that is here.
#[allow(unused_imports)]
pub use clients::clients;
#[allow(unused_imports)]
pub use origins::{in_a_row, passed_on, response};

/// Small bounds, so that they are reached.
const LIMITS: RequestLimits =
    RequestLimits { field_lines: 40, field_bytes: 2048, content_bytes: Some(300_000) };

/// A head is read the same whatever follows it, its parts hold nothing that ends a line, and what is
/// written from them is read as the same head.
pub fn request_head(data: &[u8]) {
    let read = |bytes: &[u8]| {
        parse::head(bytes, LIMITS, |head| {
            let lines: Vec<(String, Vec<u8>)> = head
                .lines
                .iter()
                .map(|line| (line.name.to_string(), line.value.to_vec()))
                .collect();
            (head.method.to_vec(), head.target.to_vec(), head.version, lines, head.length)
        })
    };
    let Ok(Some(head)) = read(data) else { return };
    let (method, target, version, lines, length) = &head;
    assert_eq!(read(&data[..*length]).as_ref(), Ok(&Some(head.clone())));
    for end in [length / 2, length - 1] {
        assert!(!matches!(read(&data[..end]), Ok(Some(_))), "half a head is none");
    }
    assert!(parse::may_be_complete(&data[..*length], length - 1));
    let breaks = |bytes: &[u8]| bytes.iter().any(|byte| b"\r\n\0".contains(byte));
    assert!(!breaks(method) && !breaks(target) && !target.contains(&b' '));
    let mut written = [method, &b" "[..], target, b" HTTP/1."].concat();
    written.push(if *version == Version::HTTP_10 { b'0' } else { b'1' });
    written.extend_from_slice(b"\r\n");
    for (name, value) in lines {
        assert!(!breaks(value) && name.bytes().all(is_token_byte));
        written.extend_from_slice(&[name.as_bytes(), b":", value, b"\r\n"].concat());
    }
    written.extend_from_slice(b"\r\n");
    let again = read(&written).expect("it is well formed").expect("it is complete");
    assert_eq!((&again.0, &again.1, again.2, &again.3), (method, target, *version, lines));
}

/// Content, trailer section and end are the same however the bytes are cut; the first byte says how.
pub fn chunked(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let decode = |step: usize, most: usize| {
        let mut decoder = Decoder::keeping_trailers(LIMITS);
        let (mut content, mut at, mut seen) = (Vec::new(), 0, 0);
        while seen < data.len() {
            seen = (seen + step).min(data.len());
            loop {
                let (used, piece) = decoder.next(&data[at..seen], most)?;
                at += used;
                match piece {
                    Piece::Data(bytes) => content.extend_from_slice(bytes),
                    Piece::More => break,
                    Piece::End => return Ok((content, Some((at, decoder.take_trailers())))),
                }
            }
        }
        Ok::<_, Malformed>((content, None))
    };
    let whole = decode(data.len().max(1), usize::MAX);
    assert_eq!(decode(usize::from(*cut).max(1), usize::MAX), whole);
    assert_eq!(decode(1, 1), whole);
    if let Ok((_, Some((end, trailers)))) = &whole {
        // What is written of it is read as the same.
        let written = last_chunk(trailers);
        let mut decoder = Decoder::keeping_trailers(LIMITS);
        assert_eq!(decoder.next(&written, 1), Ok((written.len(), Piece::End)));
        assert_eq!(decoder.take_trailers(), *trailers);
        assert!(trailers.len() <= LIMITS.field_lines && *end <= data.len());
    }
}

/// What a client is sent does not depend on how its bytes are cut, nor on how it takes ours; and no
/// bytes make a connection hang, or keep memory. The first bytes say how they are cut.
pub fn connection(data: &[u8]) {
    let Some(([cut, more, most], data)) = data.split_first_chunk() else { return };
    let whole = play([data], usize::MAX);
    let step = usize::from(*cut).max(1);
    assert_eq!(play(data.chunks(step), usize::MAX), whole, "in pieces of {step}");
    let (first, rest) = data.split_at(usize::from(*more).min(data.len()));
    let most = usize::from(*most) + 1;
    assert_eq!(play([first, rest], most), whole, "cut at {more}, taken by {most}");
}

/// Bytes are a stored response or not; one that is, is written as it was read.
pub fn stored(data: &[u8]) {
    let sum = |body: &[u8]| [b"cpx\x01", &crc32fast::hash(body).to_le_bytes()[..], body].concat();
    // As it is, and with a checksum that lets it in.
    for frame in [Bytes::copy_from_slice(data), Bytes::from(sum(data))] {
        if let Ok((key, response)) = codec::decode(&frame) {
            let content = response.content.here().expect("a frame is in memory");
            let again = Bytes::from(codec::encode(&key, response.head(), content));
            let (read_key, read) = codec::decode(&again).expect("it was just written");
            assert_eq!((read_key, read.content.here()), (key, Some(content)));
            assert_eq!(format!("{:?}", read.head()), format!("{:?}", response.head()));
        }
    }
}

/// A request is answered alike by the shortest way to a hit and by the long way,
/// but for the order of fields.
pub fn fast_path(data: &[u8]) {
    // Under a bound on reuses, which none of them reaches, every request goes the long way.
    let [fast, long] = [None, Some(u64::MAX)].map(|reuses_max| {
        let mut simulation = simulation(reuses_max);
        // What the first client brings into the cache, the second finds there.
        [(); 2].map(|()| simulation.play([data], usize::MAX))
    });
    assert_eq!(shown(&fast), shown(&long));
}

/// What was sent, head by head; the order of fields with different names means nothing (RFC 9110 §5.3).
fn shown(played: &[(Vec<u8>, bool); 2]) -> [(Vec<Vec<String>>, bool); 2] {
    let sorted = |head: &str| {
        let mut lines: Vec<String> = head.split("\r\n").map(str::to_string).collect();
        lines.sort();
        lines
    };
    // A 100 comes or not, as the worker or the content is quicker (RFC 9110 §15.2.1).
    let heads = |sent: &[u8]| {
        let text = String::from_utf8_lossy(sent).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        text.split("\r\n\r\n").map(sorted).collect()
    };
    played.each_ref().map(|(sent, is_cut)| (heads(sent), *is_cut))
}

fn play<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, most: usize) -> (Vec<u8>, bool) {
    simulation(None).play(pieces, most)
}

fn simulation(reuses_max: Option<u64>) -> Simulation {
    simulation_of(Arc::new(Echo), reuses_max, Role::First)
}

/// Where a proxy stands.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Before clients.
    First,
    /// Before another proxy: it caches nothing, and what the first has let through fits it.
    Second,
}

fn simulation_before(origin: Arc<dyn Origin>, role: Role) -> Simulation {
    simulation_of(origin, None, role)
}

fn simulation_of(origin: Arc<dyn Origin>, reuses_max: Option<u64>, role: Role) -> Simulation {
    let limits = if role == Role::First { LIMITS } else { RequestLimits::default() };
    let wait = Duration::from_secs(60);
    let connections =
        ConnectionLimits { header_timeout: wait, idle_timeout: wait, connections_max: 1 };
    let settings = FrontSettings {
        connections,
        wait_max: wait,
        limits,
        access_log: None,
        origin: None,
        handler: None,
        health_path: None,
    };
    let stats = Arc::new(Stats::default());
    let pool = Pool::elastic(1, 4, &stats).expect("threads");
    Simulation::new(engine(&stats, origin, reuses_max, role), pool, &settings)
}

/// An engine whose clock stands still.
fn engine(
    stats: &Arc<Stats>,
    origin: Arc<dyn Origin>,
    reuses_max: Option<u64>,
    role: Role,
) -> BlockingDriver {
    let day = DeltaSeconds(86_400);
    let settings = Settings {
        origin: OriginUrl::parse("http://o.test").expect("a URL"),
        origin_authorization: None,
        own_authority: "127.0.0.1:3000".to_string(),
        reuse: ReuseRules {
            mode: Mode::Standard,
            disabled: role == Role::Second,
            share_credentials: false,
            reuses_max,
            stale_while_revalidate: DeltaSeconds::ZERO,
            stale_if_error: day,
        },
        storing: StoringRules {
            freshness: FreshnessRules {
                cache_ttl: None,
                default_ttl: DeltaSeconds::MAX,
                force: false,
            },
            share_cookies: false,
            stale_if_error: day,
            stale_while_revalidate: DeltaSeconds::ZERO,
            object_bytes_max: 1 << 20,
        },
        key: KeyRules::default(),
        follow_redirects: false,
        no_browser_cache: false,
        preserve_host: false,
        public_url: None,
        trusted: Vec::new(),
        limits: LIMITS,
        purgers: Vec::new(),
    };
    let limits = MemoryLimits { bytes: 1 << 20, responses: None, content_bytes: 1 << 18 };
    let store = Arc::new(Cache::in_memory(store(Eviction::Lru, limits)));
    let clock = Clock::by_hand(Timestamp(1_800_000_000_000));
    let proxy = Proxy::new(settings, store, clock, Arc::clone(stats));
    BlockingDriver::new(Arc::new(proxy), origin)
}

/// An origin server that tells what it was asked.
struct Echo;

impl Origin for Echo {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let mut content = Vec::new();
        let read = match request.content {
            RequestContent::None => Ok(0),
            RequestContent::Length(_, reader) | RequestContent::Chunked(reader) => {
                reader.read_to_end(&mut content)
            }
        };
        read.map_err(OriginError::Content)?;
        let (method, url) = (request.method, request.url);
        let told = format!("{method} {url} {}:", content.len()).into_bytes();
        // What is said about caching depends on what was asked.
        let fields: &[(&str, &str)] = match url.len() % 4 {
            0 => &[("cache-control", "no-store")],
            1 => &[("cache-control", "max-age=60"), ("etag", "\"a\"")],
            2 => &[("cache-control", "max-age=60"), ("vary", "accept")],
            _ => &[("cache-control", "max-age=60, private")],
        };
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let fields: Fields = fields.iter().map(line).collect();
        let content = [told, content].concat();
        let length = (url.len() % 3 != 0).then_some(content.len() as u64);
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::OK,
                version: Version::HTTP_11,
                fields,
                length,
                silently_delimited: false,
                has_content: *method != http::Method::HEAD,
            },
            body: (*method != http::Method::HEAD)
                .then(|| Box::new(Told(content)) as Box<dyn OriginBody>),
        })
    }
}

struct Told(Vec<u8>);

impl OriginBody for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }
}
