//! The origin server of an interleaving: what it says about each resource follows from the resource, its
//! version and the request, so that each byte of each answer can be checked.

use caching_proxy::message::fields::Fields;
use caching_proxy::origin::{OriginError, OriginHead};
use caching_proxy::proxy::RequestHead;
use http::{HeaderValue, Method, StatusCode, Version};

use super::super::support::engine::to_fields;
use super::Random;

/// How many resources there are, and in how many versions `Accept` selects of the third.
pub const RESOURCES: usize = 8;

/// The origin server.
pub struct Script {
    /// The current version of each resource; it changes with each PUT, and by itself.
    versions: [u64; RESOURCES],
    /// In which step each answer was given, by its number (`X-Serial`).
    pub given: Vec<u64>,
    /// Of which resource each was.
    pub resources: Vec<usize>,
}

/// An answer on its way: its head, and the content that it is to bring.
pub type Answered = Result<(OriginHead, Option<Vec<u8>>), OriginError>;

impl Script {
    pub fn new() -> Self {
        Self { versions: [1; RESOURCES], given: Vec::new(), resources: Vec::new() }
    }

    /// Somebody has changed a resource.
    pub fn change(&mut self, resource: usize) {
        self.versions[resource] += 1;
    }

    /// What is answered to a request in this step.
    pub fn answer(&mut self, head: &RequestHead, step: u64, random: &mut Random) -> Answered {
        let origin = "http://o.test".to_string();
        match random.below(48) {
            0 => {
                let source = std::io::ErrorKind::ConnectionRefused.into();
                return Err(OriginError::Connect { origin, source });
            }
            1 => return Err(OriginError::Closed { origin, what: "reset".to_string() }),
            2 => {
                let limit = std::time::Duration::from_secs(1);
                return Err(OriginError::Timeout { origin, limit });
            }
            3 => return Ok(whole(503, "Cache-Control: no-store", b"busy".to_vec())),
            _ => {}
        }
        let resource = resource_of(&head.url);
        if !matches!(head.method, Method::GET | Method::HEAD) {
            self.versions[resource] += 1;
            return Ok(whole(200, "Cache-Control: no-store", b"done".to_vec()));
        }
        let serial = self.given.len();
        self.given.push(step);
        self.resources.push(resource);
        let version = self.versions[resource];
        let accept = text(&head.fields, "accept");
        let said = format!(
            "{}; ETag: \"{version}\"; X-Version: {version}; X-Serial: {serial}; X-Accept: {accept}",
            said_of(resource)
        );
        if text(&head.fields, "if-none-match") == format!("\"{version}\"") {
            return Ok((origin_head(304, &said, None, false), None));
        }
        let content = content(resource, version, &accept);
        if resource == 7
            && let Some((first, last)) = span(&head.fields, content.len(), version)
        {
            let said = format!("{said}; Content-Range: bytes {first}-{last}/{}", content.len());
            return Ok(whole(206, &said, content[first..=last].to_vec()));
        }
        if head.method == Method::HEAD {
            return Ok((origin_head(200, &said, Some(content.len()), false), None));
        }
        let mut answered = whole(200, &said, content);
        if matches!(resource, 0 | 4) {
            answered.0.length = None;
        }
        Ok(answered)
    }
}

/// What the origin server says about caching.
fn said_of(resource: usize) -> &'static str {
    match resource {
        0 => "Cache-Control: max-age=60; Surrogate-Key: red",
        1 => "Cache-Control: no-store",
        2 => "Cache-Control: max-age=60; Vary: Accept",
        3 => "Cache-Control: no-cache",
        // Too large for its share of memory now and then, and of unknown length.
        4 => "Cache-Control: max-age=60; Surrogate-Key: red blue",
        5 => "Cache-Control: max-age=1, stale-while-revalidate=60, stale-if-error=60",
        6 => "Cache-Control: private, max-age=60",
        _ => "Cache-Control: max-age=60; Surrogate-Key: blue",
    }
}

/// The content of a resource in one version, for requests with this `Accept`.
pub fn content(resource: usize, version: u64, accept: &str) -> Vec<u8> {
    let selected = if resource == 2 { accept } else { "" };
    let marker = format!("<{resource} in version {version} for {selected:?}>");
    let length = match resource {
        4 => 3_000 + 3_500 * (version as usize % 4),
        0 | 7 => 1_000,
        _ => 20 + 37 * (version as usize % 5),
    };
    marker.bytes().cycle().take(length).collect()
}

/// The resource that a URL or a target names.
pub fn resource_of(url: &str) -> usize {
    url.as_bytes()[url.len() - 1] as usize - usize::from(b'0')
}

/// A field as text.
pub fn text(fields: &Fields, name: &str) -> String {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
}

fn whole(status: u16, said: &str, content: Vec<u8>) -> (OriginHead, Option<Vec<u8>>) {
    (origin_head(status, said, Some(content.len()), true), Some(content))
}

fn origin_head(status: u16, said: &str, length: Option<usize>, has_content: bool) -> OriginHead {
    let fields =
        to_fields(said).iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    OriginHead {
        status: StatusCode::from_u16(status).expect("a status"),
        version: Version::HTTP_11,
        fields,
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
