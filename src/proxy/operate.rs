//! What an operator asks of the cache: to remove stored responses, and to show them.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Version};
use serde_json::json;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::network::Network;
use crate::message::percent::normalised;
use crate::message::request::Request;
use crate::message::target::Scheme;
use crate::policy::credentials::redacted;
use crate::policy::forwarded::Believed;
use crate::policy::key::{CacheKey, PassedOn, marked, unmarked};
use crate::policy::purging::Selector;
use crate::policy::reason::CacheStatus;
use crate::policy::response::Response;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::proxy::Proxy;
use crate::store::Purged;
use crate::store::backing::Listed;

impl Proxy {
    /// Removes what is selected, from memory and the backing store; how much that was, and where it is still to be
    /// done. No response that is on its way is stored over it. May wait.
    pub fn purge(&self, selector: &Selector) -> Purged {
        self.cache.forget(selector, self.clock.now())
    }

    /// The cache key of what a request for `url` asks for: a path, or a URL of the origin server or the
    /// proxy.
    pub fn key_for(&self, url: &str) -> Result<CacheKey, String> {
        // By the question of a request: whatever shapes keys has shaped this one.
        Ok(self.question(&self.request_for(url)?).key)
    }

    /// A request for `url`, as a client sends it that asks the proxy under its own name.
    fn request_for(&self, url: &str) -> Result<Arc<Request>, String> {
        // Keys are taken as well, as lists print them: the mark of what was believed goes.
        let url = &*unmarked(url);
        let path = if url.starts_with('/') || url.contains("://") {
            url.to_string()
        } else {
            format!("/{url}")
        };
        let path = self.settings.origin.strip(&path).map(str::to_string).unwrap_or(path);
        let mut fields = Fields::new();
        fields.set_text("host", self.settings.own_authority.clone());
        let request = Request::new(Method::GET, &path, Version::HTTP_11, fields, None);
        Ok(Arc::new(request.map_err(|error| format!("{}: {error}", redacted(url)))?))
    }

    /// The cache keys of what requests for `url` ask for: [`Proxy::key_for`], and under
    /// `--trust-forwarded` those of its schemes, and of its host, as trusted peers name them.
    pub fn keys_for(&self, url: &str) -> Result<Vec<CacheKey>, String> {
        let url = &*unmarked(url);
        let request = self.request_for(url)?;
        let question = self.question(&request);
        let named = url.split_once("://").map(|(_, rest)| rest);
        let named = named.and_then(|rest| rest.split(['/', '?', '#']).next());
        Ok(self.keys_beside(question.key.clone(), &request, named, question.target()))
    }

    /// `key`, and those under which the same target is stored for what trusted peers say of scheme and
    /// host. `named` is a host that they may have said.
    fn keys_beside(
        &self,
        key: CacheKey,
        request: &Request,
        named: Option<&str>,
        target: &str,
    ) -> Vec<CacheKey> {
        let mut keys = vec![key];
        if !self.settings.believes_urls() {
            return keys;
        }
        // Which scheme and host peers have said is not known here, so all that they can say for this
        // target is meant.
        let preserved = request.authority().filter(|_| self.settings.preserve_host);
        let hosts = [(preserved, false)].into_iter().chain(named.map(|named| (Some(named), true)));
        for (host, is_host_believed) in hosts {
            for scheme in [None, Some(Scheme::Http), Some(Scheme::Https)] {
                let host = host.map(Cow::Borrowed);
                let passed_on = PassedOn { host, is_host_believed, scheme };
                let key = CacheKey::new(&self.settings.origin, &passed_on, target);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// Removes what is stored under these keys, as [`Proxy::purge`] does. May wait.
    pub fn purge_all(&self, keys: &[CacheKey]) -> Purged {
        let mut all = Purged::default();
        for key in keys {
            all.add(self.purge(&Selector::Uri(key.to_string())));
        }
        all
    }

    /// What keys begin with that stand for targets that begin with `path`; anything else is a beginning
    /// itself. Under `--trust-forwarded` there are several.
    pub fn beginnings_of(&self, path: &str) -> Vec<String> {
        let path = &*normalised(path);
        let mut beginnings = vec![match path.strip_prefix('/') {
            Some(_) => format!("{}{path}", self.settings.origin),
            None => path.to_string(),
        }];
        if self.settings.believes_urls() {
            let uri = beginnings[0].clone();
            let schemes = if path.starts_with('/') { &["http", "https"][..] } else { &[] };
            beginnings.extend(marked(&uri, schemes));
        }
        beginnings
    }

    /// All that is stored for a key, in memory or in the backing store. May wait.
    pub fn stored_for(&self, key: &CacheKey) -> Vec<Listed> {
        self.stored_responses(key)
            .into_iter()
            .map(|(response, reuses)| Listed {
                key: key.clone(),
                head: response.head().clone(),
                bytes: response.content.len(),
                reuses,
                cursor: None,
            })
            .collect()
    }

    /// The same with their content, and how often each has been reused. May wait.
    pub fn stored_responses(&self, key: &CacheKey) -> Vec<(Arc<StoredResponse>, u64)> {
        let mut all: Vec<(Arc<StoredResponse>, u64)> = Vec::new();
        // Both are looked at: memory has what is not written yet, the backing store what memory has
        // evicted.
        let here = self.cache.look_at(key.as_str()).unwrap_or_default();
        let backing = self.cache.recall(key, &mut self.cache.note(key), false);
        for response in here.iter().chain(&backing.variants) {
            let known = all.iter_mut().find(|(known, _)| {
                known.selecting == response.selecting && known.part == response.part
            });
            match known {
                // Memory counts each reuse, and the backing store hears of them now and then.
                Some((_, reuses)) => *reuses = (*reuses).max(response.reuses()),
                None => all.push((Arc::clone(response), response.reuses())),
            }
        }
        all
    }

    /// A request that has the origin server asked for `url` whatever is stored, for the same variant as `like`.
    pub fn refreshing_request(&self, url: &str, like: &StoredHead) -> Result<Arc<Request>, String> {
        let mut request = Request::clone(&*self.request_for(url)?);
        for (name, value) in like.selecting.iter() {
            // Of credentials a digest is known, which is no use to the origin server.
            if let Some(value) = value.filter(|value| !value.starts_with(b"digest:"))
                && let Ok(value) = HeaderValue::from_bytes(value)
            {
                request.fields.append(name.clone(), value);
            }
        }
        request.fields.set_text("cache-control", "no-cache".to_string());
        Ok(Arc::new(request))
    }

    /// Is this a PURGE that is not for the origin server (`--allow-purge`)?
    pub fn is_purge(&self, request: &Request) -> bool {
        !self.settings.purgers.is_empty() && request.method.as_str() == "PURGE"
    }

    /// Carries out a PURGE, if its sender may; may wait.
    pub fn answer_purge(&self, request: &Arc<Request>) -> Response {
        let as_json = request.prefers_json();
        let Believed { client, is_hidden, host, .. } = self.settings.believed(request);
        // A proxy that hides its client cannot vouch for it.
        let client = client.filter(|_| !is_hidden);
        let may = |network: &Network| client.is_some_and(|client| network.holds(client));
        if !self.settings.purgers.iter().any(may) {
            let text = "PURGE: not from this address; see --allow-purge";
            let status = CacheStatus::default();
            return self.error(StatusCode::FORBIDDEN, request, text, status);
        }
        // Not by `question`: PURGE is no GET, and its target would be left as it was written.
        let target = self.settings.key.shape(request.target.as_str());
        let key =
            CacheKey::new(&self.settings.origin, &self.settings.passed_on_url(request), &target);
        let named = host.as_deref().or_else(|| request.authority());
        let purged = self.purge_all(&self.keys_beside(key.clone(), request, named, &target));
        let shortfall = purged.shortfall();
        let purged = purged.count;
        log::info!("purged {}: {purged} stored responses", key.redacted());
        if let Some(text) = shortfall {
            let status = CacheStatus::default();
            return self.error(StatusCode::SERVICE_UNAVAILABLE, request, &text, status);
        }
        let mut response = Response::error(StatusCode::OK, &format!("purged {purged}"), as_json);
        if as_json {
            response.body = Body::Whole(format!("{}\n", json!({ "purged": purged })).into());
        }
        response.fields.set_text("cache-status", CacheStatus::default().to_string());
        response
    }
}
