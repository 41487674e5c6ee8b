//! The origin server of an interleaving: what it says about each resource follows from the resource, its
//! version and the request, so that each byte of each answer can be checked.

use std::time::Duration;

use caching_proxy::clock::Timestamp;
use caching_proxy::message::date;
use caching_proxy::message::fields::{FieldValues, Fields};
use caching_proxy::origin::RequestHead;
use caching_proxy::origin::{OriginError, OriginHead};
use http::{HeaderValue, Method, StatusCode, Version};

use super::super::support::engine::to_fields;
use super::super::support::seeded::Random;

/// What the origin server says of one resource.
pub struct Resource {
    pub status: u16,
    /// Fields about caching.
    said: &'static str,
    /// For how long it is fresh, in seconds; `None` where the proxy may guess.
    pub max_age: Option<u64>,
    pub sharing: Sharing,
    length: Length,
}

/// Who may be given a stored response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sharing {
    /// Everybody, whoever has asked for it.
    Everybody,
    /// Everybody, but what was asked for with an `Authorization` is for nobody else.
    Explicit,
    /// It is fresh by a guess: nobody who has credentials, and nobody else what was asked for with some.
    Guess,
    /// Nobody: each answer is for who has asked.
    Nobody,
}

/// How much content there is, and whether the head says so.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Length {
    Short,
    /// Of unknown length.
    Open,
    /// More than its share of the memory now and then, and of unknown length.
    Large,
    /// Ranges of it can be asked for.
    Ranges,
}

use Length::{Large, Open, Ranges, Short};
use Sharing::{Everybody, Explicit, Guess, Nobody};

const fn resource(
    said: &'static str,
    max_age: Option<u64>,
    sharing: Sharing,
    length: Length,
) -> Resource {
    Resource { status: 200, said, max_age, sharing, length }
}

/// All resources: `/a`, `/b` and so on.
#[rustfmt::skip]
pub const RESOURCES: [Resource; 16] = [
    resource("Cache-Control: max-age=60; Surrogate-Key: red", Some(60), Explicit, Open),
    resource("Cache-Control: no-store", Some(0), Nobody, Short),
    resource("Cache-Control: max-age=60; Vary: Accept", Some(60), Explicit, Short),
    resource("Cache-Control: no-cache", Some(0), Explicit, Short),
    resource("Cache-Control: max-age=60; Surrogate-Key: red blue", Some(60), Explicit, Large),
    resource("Cache-Control: max-age=1, stale-while-revalidate=60, stale-if-error=60", Some(1), Explicit, Short),
    resource("Cache-Control: private, max-age=60", Some(60), Nobody, Short),
    resource("Cache-Control: max-age=60; Surrogate-Key: blue", Some(60), Explicit, Ranges),
    resource("X-Nothing: said", None, Guess, Ranges),
    Resource { status: 404, ..resource("Cache-Control: max-age=30", Some(30), Explicit, Short) },
    Resource { status: 301, ..resource("Cache-Control: max-age=60; Location: /a", Some(60), Explicit, Short) },
    resource("Cache-Control: public, max-age=60", Some(60), Everybody, Short),
    // Which field selects changes with the version.
    resource("Cache-Control: max-age=2; Vary: Accept-Language", Some(2), Explicit, Open),
    resource("Cache-Control: max-age=60; Set-Cookie: a=b", Some(60), Nobody, Short),
    resource("Cache-Control: max-age=1, must-revalidate; Surrogate-Key: red", Some(1), Everybody, Ranges),
    resource("Cache-Control: max-age=60; Vary: Accept; Surrogate-Key: blue", Some(60), Explicit, Large),
];

/// Those of which all can have one answer. Not those of which there are variants: before the head of one has come,
/// nobody knows who waits for another.
pub const SHAREABLE: [usize; 6] = [0, 4, 7, 9, 10, 11];

/// An answer as it was given.
pub struct Given {
    /// In which step.
    pub step: u64,
    /// And when.
    pub at: Timestamp,
    /// To which proxy.
    pub proxy: usize,
    /// Of which resource.
    pub resource: usize,
    /// It says that what was offered still holds.
    pub confirms: bool,
}

/// The origin server.
pub struct Script {
    /// The current version of each resource; it changes with each PUT, and by itself.
    versions: [u64; RESOURCES.len()],
    /// All answers about resources, by their number (`X-Serial`).
    pub given: Vec<Given>,
    /// It answers each request, and each with what is asked for.
    pub is_reliable: bool,
}

/// An answer on its way: its head, and the content that it is to bring.
pub type Answered = Result<(OriginHead, Option<Vec<u8>>), OriginError>;

impl Script {
    pub fn new(is_reliable: bool) -> Self {
        Self { versions: [1; RESOURCES.len()], given: Vec::new(), is_reliable }
    }

    /// Somebody has changed a resource.
    pub fn change(&mut self, resource: usize) {
        self.versions[resource] += 1;
    }

    /// What is answered to a request in this step.
    pub fn answer(
        &mut self,
        head: &RequestHead,
        (proxy, step, at): (usize, u64, Timestamp),
        random: &mut Random,
    ) -> Answered {
        let asked = text(&*head.fields, "cache-control");
        assert!(!asked.contains("only-if-cached"), "the origin server is asked: {}", head.url);
        let resource = resource_of(&head.url);
        if !self.is_reliable
            && let Some(answered) = trouble(random)
        {
            return answered;
        }
        let serial = self.given.len();
        self.given.push(Given { step, at, proxy, resource, confirms: false });
        if !matches!(head.method, Method::GET | Method::HEAD) {
            self.versions[resource] += 1;
            return Ok(self.changed(resource, serial, head));
        }
        let version = self.versions[resource];
        let said = said(resource, version, serial, &head.fields);
        if not_modified(&head.fields, version) {
            self.given[serial].confirms = true;
            return Ok((origin_head(304, &said, None, false), None));
        }
        // Freshens what is stored by its head alone: the content has the number of what has brought it.
        if head.method == Method::HEAD {
            let content = content(resource, version, &selected(resource, version, &head.fields));
            let status = RESOURCES[resource].status;
            return Ok((origin_head(status, &said, Some(content.len()), false), None));
        }
        let content = content(resource, version, &selected(resource, version, &head.fields));
        if RESOURCES[resource].length == Ranges
            && let Some((first, last)) = span(&head.fields, content.len(), version)
        {
            // Another version would have been sent whole.
            self.given[serial].confirms = head.fields.contains("if-range");
            let said = format!("{said}; X-Content-{first}: {serial}");
            let said = format!("{said}; Content-Range: bytes {first}-{last}/{}", content.len());
            return Ok(whole(206, &said, content[first..=last].to_vec()));
        }
        let said = format!("{said}; X-Content-0: {serial}");
        let mut answered = whole(RESOURCES[resource].status, &said, content);
        if matches!(RESOURCES[resource].length, Open | Large) {
            answered.0.length = None;
        }
        Ok(answered)
    }

    /// What is answered to a request that has changed a resource. A POST has what a GET would bring.
    fn changed(
        &self,
        resource: usize,
        serial: usize,
        head: &RequestHead,
    ) -> (OriginHead, Option<Vec<u8>>) {
        let Resource { sharing, length, status, .. } = RESOURCES[resource];
        if head.method != Method::POST || sharing != Explicit || length != Short || status != 200 {
            return whole(200, "Cache-Control: no-store", b"done".to_vec());
        }
        let (version, fields) = (self.versions[resource], &head.fields);
        let said = said(resource, version, serial, fields);
        let place = letter(resource);
        let said = format!("{said}; X-Content-0: {serial}; Content-Location: /{place}");
        whole(200, &said, content(resource, version, &selected(resource, version, fields)))
    }
}

/// What goes wrong now and then.
fn trouble(random: &mut Random) -> Option<Answered> {
    let origin = "http://o.test".to_string();
    Some(match random.below(48) {
        0 => {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            Err(OriginError::Connect { origin, source })
        }
        1 => Err(OriginError::Closed { origin, what: "reset".to_string() }),
        2 => Err(OriginError::Timeout { origin, limit: Duration::from_secs(1) }),
        3 => Ok(whole(503, "Cache-Control: no-store", b"busy".to_vec())),
        4 => Ok(whole(500, "X-Nothing: said", b"broken".to_vec())),
        5 => Ok(whole(429, "Retry-After: 1", b"slowly".to_vec())),
        _ => return None,
    })
}

/// The fields of an answer: those about caching, and those by which it is checked.
fn said(resource: usize, version: u64, serial: usize, asked: &Fields) -> String {
    let mut said = format!(
        "{}; Content-Type: text/plain; ETag: \"{version}\"; X-Version: {version}; X-Serial: {serial}",
        RESOURCES[resource].said
    );
    if resource == 12 && version.is_multiple_of(2) {
        said = said.replace("Accept-Language", "Accept");
    }
    if RESOURCES[resource].sharing == Guess {
        said = format!("{said}; Last-Modified: {}", date::format(modified(version)));
    }
    for (name, shown) in [
        ("x-selected", selected(resource, version, asked)),
        ("x-authorization", text(asked, "authorization")),
        ("x-cookie", text(asked, "cookie")),
    ] {
        said = format!("{said}; {name}: {shown}");
    }
    said
}

/// When a version was made: long ago, so that a guess has it fresh for days.
fn modified(version: u64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000 + version)
}

/// The field that selects among the variants of a resource, if there is one.
pub fn selecting(resource: usize, version: u64) -> Option<&'static str> {
    match resource {
        2 | 15 => Some("accept"),
        12 if version.is_multiple_of(2) => Some("accept"),
        12 => Some("accept-language"),
        _ => None,
    }
}

fn selected(resource: usize, version: u64, asked: &Fields) -> String {
    selecting(resource, version).map(|name| text(asked, name)).unwrap_or_default()
}

fn not_modified(asked: &Fields, version: u64) -> bool {
    let tags = text(asked, "if-none-match");
    if !tags.is_empty() {
        return tags == format!("\"{version}\"");
    }
    text(asked, "if-modified-since") == date::format(modified(version))
}

/// The content of a resource in one version, for requests with this in the field that selects.
pub fn content(resource: usize, version: u64, selected: &str) -> Vec<u8> {
    let marker = format!("<{} in version {version} for {selected:?}>", letter(resource));
    let length = match RESOURCES[resource].length {
        Large => 3_000 + 3_500 * (version as usize % 4),
        Open | Ranges => 1_000,
        Short => 20 + 37 * (version as usize % 5),
    };
    marker.bytes().cycle().take(length).collect()
}

/// The resource that a URL or a target names.
pub fn resource_of(url: &str) -> usize {
    usize::from(url.as_bytes()[url.len() - 1] - b'a')
}

/// The last letter of its URL.
pub fn letter(resource: usize) -> char {
    char::from(b'a' + resource as u8)
}

/// A field as text.
pub fn text(fields: &impl FieldValues, name: &str) -> String {
    fields.value(name).map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

fn whole(status: u16, said: &str, content: Vec<u8>) -> (OriginHead, Option<Vec<u8>>) {
    (origin_head(status, said, Some(content.len()), true), Some(content))
}

fn origin_head(status: u16, said: &str, length: Option<usize>, has_content: bool) -> OriginHead {
    OriginHead {
        status: StatusCode::from_u16(status).expect("a status"),
        version: Version::HTTP_11,
        fields: to_fields(said),
        length: length.map(|length| length as u64),
        silently_delimited: false,
        has_content,
    }
}

/// The range that is asked for, if there is one and `If-Range` holds.
fn span(fields: &Fields, length: usize, version: u64) -> Option<(usize, usize)> {
    let range = fields.get("range").map(HeaderValue::as_bytes)?;
    let range = std::str::from_utf8(range).ok()?.strip_prefix("bytes=")?;
    let if_range = text(fields, "if-range");
    if !if_range.is_empty() && if_range != format!("\"{version}\"") {
        return None;
    }
    let (first, last) = range.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().unwrap_or(length - 1).min(length - 1);
    (first <= last).then_some((first, last))
}
