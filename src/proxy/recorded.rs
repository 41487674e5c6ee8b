//! The cache as a recording: what is stored given out, and what was recorded taken in.

use std::sync::Arc;

use bytes::Bytes;

use crate::har::{Recorded, Secrets, entry};
use crate::message::content::Content;
use crate::policy::key::CacheKey;
use crate::policy::reason::Detail;
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredResponse;
use crate::policy::storing::Received;
use crate::proxy::Proxy;

/// Keys that one page is made of, at most.
const KEYS_MAX: usize = 200;
/// About so many bytes of content are in one page.
const PAGE_BYTES: u64 = 8 << 20;
/// Larger content is not recorded.
const CONTENT_BYTES_MAX: u64 = 64 << 20;

/// Some entries of a recording.
#[derive(Debug, Default)]
pub struct Page {
    /// The entries.
    pub entries: Vec<serde_json::Value>,
    /// Parts, and content that is too large or cannot be read.
    pub left_out: u64,
    /// The key to go on after; `None` at the end.
    pub next: Option<String>,
}

impl Proxy {
    /// The stored responses after key `after`, as entries of a recording. Waits.
    pub fn recorded(&self, after: &str, secrets: Secrets) -> Page {
        let listed = self.store.list(after, KEYS_MAX);
        let mut keys: Vec<CacheKey> = listed.into_iter().map(|listed| listed.key).collect();
        keys.dedup();
        let mut page = Page::default();
        let mut bytes = 0;
        for key in keys {
            for response in self.all_of(&key) {
                match content_of(&response) {
                    Some(content) => {
                        bytes += content.len() as u64;
                        page.entries.push(entry(&key, response.head(), &content, secrets));
                    }
                    None => page.left_out += 1,
                }
            }
            page.next = Some(key.to_string());
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        page
    }

    fn all_of(&self, key: &CacheKey) -> Vec<Arc<StoredResponse>> {
        if let Some(tiers) = self.store.tiers()
            && let Some(recalled) = tiers.recall(key, false)
            && !recalled.variants.is_empty()
        {
            return recalled.variants;
        }
        self.store.get(key.as_str()).map(|variants| variants.to_vec()).unwrap_or_default()
    }

    /// Stores a recorded response as if it had just come, if it may be stored.
    pub fn record(&self, recorded: Recorded) -> Result<(), Detail> {
        let Recorded { url, request, status, fields, content } = recorded;
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
        let key = self.settings.key.key_of(&url);
        let mut begun = self.store.begin(&key);
        if let Some(tiers) = self.store.tiers() {
            begun = begun.with(tiers.recall(&key, false).unwrap_or_default().stamp);
        }
        let stored = Arc::new(StoredResponse::new(head, content));
        self.store.put(&key, stored, &begun).refusal().map_or(Ok(()), Err)
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
        match slice.read(&mut all[filled..]) {
            Ok(count) if count > 0 => filled += count,
            _ => return None,
        }
    }
    Some(all.into())
}
