//! What must be so after every step: answers are whole and for whom they are given to, what is stored is whole,
//! and nothing purged comes back.

use std::io;
use std::sync::Arc;

use caching_proxy::message::fields::{FieldValues, Fields};
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::reason::Detail;
use caching_proxy::policy::response::Response;
use caching_proxy::policy::stored::StoredResponse;
use http::Method;

use super::script::{
    Given, RESOURCES, Resource, Sharing, content, letter, resource_of, selecting, text,
};
use super::shared::PROXIES;
use super::world::World;

/// The fields with the numbers of the answers that a response was made of: its head, and its content by its first
/// byte.
const NUMBERS: [&str; 4] = ["x-serial", "x-content-0", "x-content-100", "x-content-300"];

/// A purge, or an invalidation.
#[derive(Debug)]
pub struct Purge {
    /// When it was made.
    pub step: u64,
    /// By which proxy.
    pub proxy: usize,
    pub selector: Selector,
    /// Since when each proxy knows of it.
    pub known: [Option<u64>; PROXIES],
    /// The number of the answer that has invalidated what was stored before: it is not meant itself.
    pub own: Option<usize>,
}

impl Purge {
    /// Is it about this resource, certainly or perhaps?
    pub fn is_about(&self, resource: usize) -> bool {
        let uri = format!("http://o.test/{}", letter(resource));
        matches!(self.selector, Selector::Tag(_) | Selector::Stale)
            || means(&self.selector, &uri, "")
    }
}

impl World {
    /// An answer is for the client that gets it, and as fresh as it has to be.
    pub(super) fn check_head(&mut self, index: usize, response: &Response) {
        let client = &self.clients[index];
        self.check_status(index, response);
        for name in NUMBERS {
            let serial = text(&response.fields, name);
            self.check_not_purged(client.proxy, client.asked, &serial, &response.fields);
        }
        let Ok(serial) = text(&response.fields, "x-serial").parse::<usize>() else { return };
        let given = &self.script.given[serial];
        assert_eq!(given.resource, client.resource, "client {index} asked for something else");
        let version = text(&response.fields, "x-version").parse().expect("a version");
        let selects = selecting(client.resource, version);
        let wanted = selects.map(|name| client.field(name)).unwrap_or_default();
        let got = text(&response.fields, "x-selected");
        assert_eq!(got, wanted, "client {index}: {selects:?} selects another variant");
        self.check_fresh(index, given, response);
        self.check_shared(index, serial, response);
    }

    /// Where nothing goes wrong, nobody is told that something did.
    fn check_status(&self, index: usize, response: &Response) {
        let client = &self.clients[index];
        let fields = &response.fields;
        let status = response.status.as_u16();
        let is_as_asked = match status {
            206 | 416 => !client.field("range").is_empty(),
            304 => {
                let tags = client.field("if-none-match");
                !tags.is_empty() && tags == text(fields, "etag")
            }
            504 if client.field("cache-control") == "only-if-cached" => true,
            429 | 500.. => self.mood.is_rough,
            status => status == RESOURCES[client.resource].status || status == 200,
        };
        assert!(is_as_asked, "client {index} got {status}: {:?}", response.cache_status);
    }

    /// What is made for one client is for no other.
    fn check_shared(&mut self, index: usize, serial: usize, response: &Response) {
        let client = &self.clients[index];
        let is_own = |name: &str, field| text(&response.fields, name) == client.field(field);
        let is_authorized = text(&response.fields, "x-authorization").is_empty()
            || is_own("x-authorization", "authorization");
        match RESOURCES[client.resource].sharing {
            Sharing::Everybody => {}
            Sharing::Explicit => assert!(is_authorized, "client {index} got another one's"),
            Sharing::Guess => {
                let is_own =
                    is_own("x-authorization", "authorization") && is_own("x-cookie", "cookie");
                assert!(is_own, "client {index} got what was made for others: {response:?}");
            }
            Sharing::Nobody => {
                self.personal.resize(self.script.given.len(), None);
                let before = self.personal[serial].replace(index);
                assert!(before.is_none(), "client {index} got what {before:?} has got");
            }
        }
    }

    /// What is stale is given only where something permits it, and the client learns what.
    fn check_fresh(&self, index: usize, given: &Given, response: &Response) {
        let client = &self.clients[index];
        let Resource { max_age, .. } = RESOURCES[client.resource];
        let wants_new = client.field("cache-control") == "no-cache";
        let Some(seconds) = (if wants_new { Some(0) } else { max_age }) else { return };
        let is_fresh = if seconds == 0 {
            given.step >= client.asked
        } else {
            given.at.0 + seconds * 1000 > client.asked_at.0
        };
        let detail = response.cache_status.detail;
        let may_be_stale = client.resource != 14
            && match detail {
                Some(Detail::StaleWhileRevalidate | Detail::MaxStale) => !wants_new,
                // Something has stood in for the origin server, which has failed.
                detail => self.mood.is_rough && detail.is_some(),
            };
        // What is fresh stands in, too, if it has to be validated for this request alone.
        let stands_in = wants_new && self.mood.is_rough && detail.is_some();
        assert!(
            is_fresh || may_be_stale || stands_in,
            "client {index} asked in step {} and got what was given in {}: {:?}",
            client.asked,
            given.step,
            response.cache_status
        );
    }

    /// An answer that ends well has all the bytes of one version, and no others.
    pub(super) fn check_content(
        &self,
        index: usize,
        response: &Response,
        length: Option<u64>,
        bytes: &[u8],
    ) {
        let stated = length.unwrap_or(bytes.len() as u64);
        assert_eq!(stated, bytes.len() as u64, "client {index} was told another length");
        if matches!(self.clients[index].request.method, Method::PUT | Method::POST) {
            return;
        }
        let Some(expected) = expected(self.clients[index].resource, response) else { return };
        assert!(
            bytes == expected,
            "client {index} got {} bytes {}, {:?}",
            bytes.len(),
            String::from_utf8_lossy(bytes),
            response.fields
        );
    }

    /// An answer ends badly only if a connection has, or the store.
    pub(super) fn check_cut(
        &self,
        index: usize,
        response: &Response,
        error: &io::Error,
        is_behind: bool,
    ) {
        // A client that reads along in the backing store is cut when the body turns out too large for it.
        let most = self.written_bytes_max();
        let all = expected(self.clients[index].resource, response);
        let is_outgrown = is_behind && all.is_some_and(|all| all.len() as u64 > most);
        let status = &response.cache_status;
        assert!(
            self.mood.is_rough || is_outgrown,
            "client {index} is cut short: {error}, {status:?}"
        );
    }

    /// Nothing that was given before a purge is given to a request that came after it.
    fn check_not_purged(&self, proxy: usize, asked: u64, serial: &str, fields: &Fields) {
        let is_later = |known: u64| known < asked;
        if let Some((given, purge)) = self.purge_of(proxy, serial, fields, is_later) {
            panic!(
                "given in step {given}, answered by proxy {proxy} to a request of step {asked}, {purge:?} {fields:?}"
            );
        }
    }

    /// The purge that should have removed what was given with this number, as far as a proxy knows.
    fn purge_of(
        &self,
        proxy: usize,
        serial: &str,
        fields: &impl FieldValues,
        is_later: impl Fn(u64) -> bool,
    ) -> Option<(u64, &Purge)> {
        let serial: usize = serial.parse().ok()?;
        let Given { step, resource, .. } = self.script.given[serial];
        let (uri, tags) =
            (format!("http://o.test/{}", letter(resource)), text(fields, "surrogate-key"));
        // A proxy that had not heard of it yet may have asked whether the content still holds, and heard so.
        let is_confirmed = |purge: &Purge| {
            let is_unaware =
                |proxy: usize, step| purge.known[proxy].is_none_or(|known| known >= step);
            self.script.given.iter().any(|given| {
                given.confirms
                    && given.resource == resource
                    && given.step > purge.step
                    && is_unaware(given.proxy, given.step)
            })
        };
        let purge = self.purges.iter().find(|purge| {
            purge.step > step
                && purge.own != Some(serial)
                && purge.known[proxy].is_some_and(&is_later)
                && means(&purge.selector, &uri, &tags)
                && !is_confirmed(purge)
        });
        purge.map(|purge| (step, purge))
    }

    /// What is stored is whole, and not purged.
    pub(super) fn check_stored(&self) {
        for (proxy, engine) in self.engines.iter().enumerate() {
            for resource in 0..RESOURCES.len() {
                let key = key(resource);
                let look = engine.cache.look(&key);
                self.check_variants(proxy, &key, look.variants());
            }
        }
    }

    /// The same of what is behind memory, when all has been written.
    pub(super) fn check_written(&mut self) {
        self.let_rest();
        for (proxy, engine) in self.engines.iter().enumerate() {
            for resource in 0..RESOURCES.len() {
                let key = key(resource);
                let recalled = engine.cache.recall(&key, &mut engine.cache.note(&key), false);
                self.check_variants(proxy, &key, &recalled.variants);
                let look = engine.cache.look(&key);
                self.check_current(proxy, look.variants(), &recalled.variants);
            }
        }
    }

    /// Memory has nothing older than what is behind it, once it has heard of everything.
    fn check_current(
        &self,
        proxy: usize,
        here: &[Arc<StoredResponse>],
        behind: &[Arc<StoredResponse>],
    ) {
        // A store that fails may refuse a proxy its put and give it no order: then nothing says which of two is newer.
        if self.mood.store_fails {
            return;
        }
        for (old, new) in here.iter().flat_map(|old| behind.iter().map(move |new| (old, new))) {
            let fits_the_same =
                old.part.is_none() && new.part.is_none() && old.selecting == new.selecting;
            // Another proxy may have freshened it: what is here is fresh for as long as it was.
            let given = |stored: &StoredResponse| {
                let serial: Option<usize> = text(&stored.fields, "x-content-0").parse().ok();
                serial.map(|serial| self.script.given[serial].step)
            };
            assert!(
                !fits_the_same || given(old) >= given(new),
                "proxy {proxy} has {:?}, and behind it is {:?}",
                old.fields,
                new.fields
            );
        }
    }

    fn check_variants(&self, proxy: usize, key: &CacheKey, variants: &[Arc<StoredResponse>]) {
        for stored in variants {
            let resource = resource_of(key.as_str());
            assert!(RESOURCES[resource].sharing != Sharing::Nobody, "stored: {stored:?}");
            let selected = text(&stored.fields, "x-selected");
            let version = text(&stored.fields, "x-version").parse().unwrap_or_default();
            let all = content(resource, version, &selected);
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
            let is_whole = filled == content.len() && content == expected;
            assert!(is_whole, "stored for {key} is no whole version: {stored:?}");
            for name in NUMBERS {
                let serial = text(&stored.fields, name);
                if let Some((given, purge)) =
                    self.purge_of(proxy, &serial, &stored.fields, |_| true)
                {
                    panic!("given in step {given}, purged, and stored: {purge:?}");
                }
            }
        }
    }
}

fn key(resource: usize) -> CacheKey {
    CacheKey::from(format!("http://o.test/{}", letter(resource)).as_str())
}

/// The bytes that a response with this head must have; `None` for what the proxy or the origin server says of
/// errors.
fn expected(resource: usize, response: &Response) -> Option<Vec<u8>> {
    let version = text(&response.fields, "x-version").parse().ok()?;
    let all = content(resource, version, &text(&response.fields, "x-selected"));
    match response.status.as_u16() {
        206 => {
            let range = text(&response.fields, "content-range");
            let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
            Some(all[first.parse().ok()?..=last.parse().ok()?].to_vec())
        }
        status if status == RESOURCES[resource].status => Some(all),
        _ => None,
    }
}

/// Is it certain that this is meant? What was stale at that moment is not looked into.
fn means(selector: &Selector, uri: &str, tags: &str) -> bool {
    match selector {
        Selector::All | Selector::Prefix(_) => true,
        Selector::Uri(named) => named == uri,
        Selector::Tag(tag) => tags.split(' ').any(|one| one == tag),
        Selector::Match(glob) => uri.ends_with(glob.to_string().trim_start_matches('*')),
        Selector::Stale => false,
    }
}
