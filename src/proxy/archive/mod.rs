//! The cache as a recording: what is stored given out, and what was recorded taken in.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::message::content::Content;
use crate::message::target::{OriginUrl, is_loopback, split_authority};
use crate::policy::key::{CacheKey, PassedOn, unmarked};
use crate::policy::reason::Detail;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredResponse;
use crate::policy::storing::Received;
use crate::proxy::Proxy;
use crate::proxy::archive::har::{HarEntry, Recorded, Secrets};

pub mod har;
pub mod stream;

/// The most keys that one page is made of.
const KEYS_MAX: usize = 200;
/// A page ends with the key that brings its content to this many bytes.
const PAGE_BYTES: u64 = 8 << 20;
/// What stands in a recorded URL for the value of a parameter that is a secret.
const LEFT_OUT: &str = "=REDACTED";
/// The largest content that is recorded, in bytes.
const CONTENT_BYTES_MAX: u64 = 64 << 20;

/// Which origin servers' recorded responses are taken in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// The proxy's own alone: no request reaches what another one has said.
    OwnOrigin,
    /// Any: a store is filled for proxies of which nothing is known.
    AnyOrigin,
}

/// Some entries of a recording.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Page {
    /// The entries.
    pub entries: Vec<HarEntry>,
    /// How many responses are not among them: parts, and content that is too large or cannot be read.
    pub left_out: u64,
    /// How many entries had secrets in their URL, which are left out of it.
    #[serde(default)]
    pub redacted: u64,
    /// What the next page is asked for with; `None` if this is the last one.
    pub next: Option<String>,
}

impl Proxy {
    /// The stored responses after `after`, as entries of a recording. Waits.
    pub fn recorded(&self, after: &str, secrets: Secrets) -> Page {
        let listed = self.cache.list(after, KEYS_MAX);
        let mut page = Page::default();
        let mut bytes = 0;
        // All variants of a key are told together.
        for of_key in listed.chunk_by(|one, other| one.key == other.key) {
            let [.., last] = of_key else { continue };
            let key = &last.key;
            for response in self.all_of(key) {
                match content_of(&response) {
                    Some(content) => {
                        bytes += content.len() as u64;
                        let entry = HarEntry::new(key, response.head(), &content, secrets);
                        page.redacted += u64::from(entry.url().contains(LEFT_OUT));
                        page.entries.push(entry);
                    }
                    None => page.left_out += 1,
                }
            }
            // Looked at between keys: one with large variants may exceed the bound, but every page gets
            // on.
            page.next = Some(last.after().to_string());
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        page
    }

    fn all_of(&self, key: &CacheKey) -> Vec<Arc<StoredResponse>> {
        let recalled = self.cache.recall(key, &mut self.cache.note(key), false);
        if !recalled.variants.is_empty() {
            return recalled.variants;
        }
        // Memory alone has it: there is nothing behind, or it is not written yet.
        self.cache.look_at(key.as_str()).map(|variants| variants.to_vec()).unwrap_or_default()
    }

    /// Stores a recorded response as if it had just come, if it may be stored and a request can reach it; the
    /// error says why not.
    pub fn record(&self, recorded: Recorded, whose: Whose) -> Result<(), &'static str> {
        let key = self.recorded_key(&recorded.url, whose)?;
        self.store_recorded(&key, recorded).map_err(Detail::as_str)
    }

    /// The key that a request for `url` has; the error says why there is none.
    fn recorded_key(&self, url: &str, whose: Whose) -> Result<CacheKey, &'static str> {
        let url = url.split('#').next().unwrap_or_default();
        let settings = &self.settings;
        let key =
            if *unmarked(url) != *url || settings.preserve_host || !settings.trusted.is_empty() {
                // It was stored for a host or a scheme that the client has named.
                settings.key.key_of(url)
            } else {
                let (origin, target) = self.recorded_target(url, whose)?;
                CacheKey::new(&origin, &PassedOn::default(), &settings.key.shape(&target))
            };
        if key.as_str().contains(LEFT_OUT) {
            return Err(
                "a secret in its URL was left out; see --ignore-param and export --with-secrets",
            );
        }
        Ok(key)
    }

    /// The origin server of `url`, and the target under which a client asks for it.
    fn recorded_target(
        &self,
        url: &str,
        whose: Whose,
    ) -> Result<(OriginUrl, String), &'static str> {
        const UNREACHABLE: &str = "no http URL that a request can name";
        let (scheme, rest) = url.split_once("://").ok_or(UNREACHABLE)?;
        let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        let named = OriginUrl::parse(&format!("{scheme}://{authority}"));
        let named = named.map_err(|_| UNREACHABLE)?;
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UNREACHABLE);
        }
        let whole = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        let own = &self.settings.origin;
        let is_own = named.server == own.server;
        if whose == Whose::AnyOrigin && !is_own {
            return Ok((named, whole));
        }
        if is_own {
            let target = whole.strip_prefix(own.prefix()).filter(|rest| rest.starts_with('/'));
            let target = target.ok_or("not below the path of --origin")?;
            return Ok((own.clone(), target.to_string()));
        }
        // A browser that has asked the proxy writes down the proxy's own name.
        let authority = named.authority();
        let public = self.settings.public_url.as_ref();
        let (_, port) = split_authority(&self.settings.own_authority).unwrap_or_default();
        let is_proxy = authority == self.settings.own_authority
            || public.is_some_and(|public| public.authority == authority)
            || is_loopback(&named.server.host) && port == Some(named.server.port);
        if is_proxy { Ok((own.clone(), whole)) } else { Err("of another origin server") }
    }

    fn store_recorded(&self, key: &CacheKey, recorded: Recorded) -> Result<(), Detail> {
        let Recorded { request, status, fields, content, .. } = recorded;
        let now = self.clock.now();
        let received = Received {
            status,
            fields: &fields,
            length: Some(content.len() as u64),
            part: None,
            describes_target: false,
            // Under which names clients will ask for it is not known.
            leads_nowhere: false,
            request_time: now,
            response_time: now,
        };
        let presented = Presented { get: true, ..Presented::default() };
        let head = self.storable(&presented, &request, received)?;
        let mut begun = self.cache.note(key);
        // For the state of the backing store, which decides what may come in.
        self.cache.recall(key, &mut begun, false);
        let stored = Arc::new(StoredResponse::new(head, content));
        self.cache.put(key, stored, &begun).refusal().map_or(Ok(()), Err)
    }
}

/// The content of a whole response, if it can be had and is not too large.
fn content_of(response: &StoredResponse) -> Option<Bytes> {
    if response.part.is_some() || response.content.len() > CONTENT_BYTES_MAX {
        return None;
    }
    if let Content::Here(bytes) = &response.content {
        return Some(bytes.clone());
    }
    let mut slice = response.content.slice(0, response.content.len());
    let mut all = vec![0; response.content.len() as usize];
    let mut filled = 0;
    while filled < all.len() {
        // Cut short where it is stored, it is left out: a recording says nothing of a part.
        match slice.read(&mut all[filled..]) {
            Ok(count) if count > 0 => filled += count,
            _ => return None,
        }
    }
    Some(all.into())
}
