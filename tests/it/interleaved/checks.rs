//! What must be so after every step: answers are whole, what is stored is whole, and nothing purged comes back.

use std::sync::Arc;

use caching_proxy::message::fields::Fields;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::response::Response;
use caching_proxy::policy::stored::StoredResponse;

use super::script::{RESOURCES, content, resource_of, text};
use super::world::World;

impl World {
    /// An answer that ends well has all the bytes of one version, and no others.
    pub(super) fn check_content(&self, index: usize, response: &Response, bytes: &[u8]) {
        let Some(expected) = expected(self.clients[index].resource, response) else { return };
        if bytes != expected {
            let (shown, fields) = (String::from_utf8_lossy(bytes), &response.fields);
            self.fail(&format!("client {index} got {} bytes {shown}, {fields:?}", bytes.len()));
        }
    }

    /// Nothing that was given before a purge is given to a request that came after it.
    pub(super) fn check_not_purged(&self, arrived: u64, response: &Response) {
        let Some(given) = self.given(&text(&response.fields, "x-serial")) else { return };
        let (key, tags) = self.named(&response.fields);
        for (purged, selector) in &self.purges {
            if *purged < arrived && *purged > given && means(selector, &key, &tags) {
                self.fail(&format!(
                    "given in step {given}, purged in {purged} by {selector:?}, and answered to a \
                     request of step {arrived}"
                ));
            }
        }
    }

    /// What is stored is whole, and not purged.
    pub(super) fn check_stored(&self) {
        for resource in 0..RESOURCES {
            let key = CacheKey::from(format!("http://o.test/{resource}").as_str());
            let look = self.cache.look(&key);
            self.check_variants(&key, look.variants());
        }
    }

    /// The same of what is behind memory, when all has been written.
    pub(super) fn check_written(&mut self) {
        self.write_all();
        for resource in 0..RESOURCES {
            let key = CacheKey::from(format!("http://o.test/{resource}").as_str());
            let recalled = self.cache.recall(&key, &mut self.cache.note(&key), false);
            self.check_variants(&key, &recalled.variants);
        }
    }

    fn check_variants(&self, key: &CacheKey, variants: &[Arc<StoredResponse>]) {
        for stored in variants {
            let resource = resource_of(key.as_str());
            let (version, accept) =
                (text(&stored.fields, "x-version"), text(&stored.fields, "x-accept"));
            let version = version.parse().unwrap_or_default();
            let all = content(resource, version, &accept);
            let expected = match stored.part {
                None => &all[..],
                Some(part) => &all[part.span.first as usize..=part.span.last as usize],
            };
            let mut slice = stored.content.slice(0, stored.content.len());
            let mut content = vec![0; stored.content.len() as usize];
            let mut filled = 0;
            while let Ok(count @ 1..) = slice.read(&mut content[filled..]) {
                filled += count;
            }
            if filled < content.len() || content != expected {
                self.fail(&format!("stored for {key} is no whole version: {stored:?}"));
            }
            let Some(given) = self.given(&text(&stored.fields, "x-serial")) else { continue };
            let (key, tags) = self.named(&stored.fields);
            let purge = self
                .purges
                .iter()
                .find(|(purged, selector)| *purged > given && means(selector, &key, &tags));
            if let Some(purge) = purge {
                self.fail(&format!("given in step {given}, purged, and stored: {purge:?}"));
            }
        }
    }

    fn given(&self, serial: &str) -> Option<u64> {
        serial.parse::<usize>().ok().map(|serial| self.script.given[serial])
    }

    /// The URI and the tags of a response.
    fn named(&self, fields: &Fields) -> (String, String) {
        let serial: usize = text(fields, "x-serial").parse().expect("a number");
        (format!("http://o.test/{}", self.script.resources[serial]), text(fields, "surrogate-key"))
    }
}

/// The bytes that a response with this head must have; `None` for what the proxy or the origin server says of
/// errors.
fn expected(resource: usize, response: &Response) -> Option<Vec<u8>> {
    let version = text(&response.fields, "x-version").parse().ok()?;
    let all = content(resource, version, &text(&response.fields, "x-accept"));
    match response.status.as_u16() {
        200 => Some(all),
        206 => {
            let range = text(&response.fields, "content-range");
            let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
            Some(all[first.parse().ok()?..=last.parse().ok()?].to_vec())
        }
        _ => None,
    }
}

fn means(selector: &Selector, uri: &str, tags: &str) -> bool {
    match selector {
        Selector::All | Selector::Prefix(_) => true,
        Selector::Uri(named) => named == uri,
        Selector::Tag(tag) => tags.split(' ').any(|one| one == tag),
        _ => false,
    }
}
