//! What an operator tells the cache: to forget, and to show what it has.

use std::sync::Arc;

use http::{Method, StatusCode, Version};

use crate::message::fields::Fields;
use crate::message::network::Network;
use crate::message::percent::normalised;
use crate::message::request::Request;
use crate::message::response::Response;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::reason::CacheStatus;
use crate::proxy::Proxy;
use crate::store::behind::Listed;

impl Proxy {
    /// Removes what is selected, here and behind memory; how many there were. Nothing that is on its way
    /// in undoes it. May wait.
    pub fn purge(&self, selector: &Selector) -> usize {
        self.store.purge(selector, self.clock.now())
    }

    /// The cache key of what a request for `url` asks for: a path, or a URL of the origin server or the
    /// proxy.
    pub fn key_for(&self, url: &str) -> Result<CacheKey, String> {
        let path = if url.starts_with('/') || url.contains("://") {
            url.to_string()
        } else {
            format!("/{url}")
        };
        let path = self.settings.origin.strip(&path).map(str::to_string).unwrap_or(path);
        let mut fields = Fields::new();
        fields.set_text("host", self.settings.own_authority.clone());
        let request = Request::new(Method::GET, &path, Version::HTTP_11, fields, None);
        let request = Arc::new(request.map_err(|error| format!("{url}: {error}"))?);
        Ok(self.asked(&request).key)
    }

    /// What keys begin with that stand for targets that begin with `path`; anything else is a beginning
    /// itself.
    pub fn beginning_of(&self, path: &str) -> String {
        let path = &*normalised(path);
        if path.starts_with('/') { format!("{}{path}", self.key_prefix) } else { path.to_string() }
    }

    /// All that is stored for a key, in memory or behind it. May wait.
    pub fn stored_for(&self, key: &CacheKey) -> Vec<Listed> {
        let mut all: Vec<Listed> = Vec::new();
        let here = self.store.get(key.as_str()).unwrap_or_default();
        let behind =
            self.store.tiers().and_then(|tiers| tiers.recall(key, false)).unwrap_or_default();
        for response in here.iter().chain(&behind.variants) {
            let known = all.iter_mut().find(|listed| {
                listed.head.selecting == response.selecting && listed.head.part == response.part
            });
            match known {
                Some(listed) => listed.reuses = listed.reuses.max(response.reuses()),
                None => all.push(Listed {
                    key: key.clone(),
                    head: response.head().clone(),
                    bytes: response.content.len(),
                    reuses: response.reuses(),
                }),
            }
        }
        all
    }

    /// Is this a PURGE that is not for the origin server (`--allow-purge`)?
    pub fn is_purge(&self, request: &Request) -> bool {
        !self.settings.purgers.is_empty() && request.method.as_str() == "PURGE"
    }

    /// Carries out a PURGE, if its sender may; may wait.
    pub fn answer_purge(&self, request: &Arc<Request>) -> Response {
        let as_json = request.prefers_json();
        let may =
            |network: &Network| request.client.is_some_and(|client| network.holds(client.ip()));
        if !self.settings.purgers.iter().any(may) {
            let text = "PURGE: not from this address; see --allow-purge";
            let status = CacheStatus::default();
            return self.error(StatusCode::FORBIDDEN, request, text, status);
        }
        let target = self.settings.key.shape(request.target.as_str());
        let key = CacheKey::new(&self.settings.origin, self.passed_on_host(request), &target);
        let purged = self.purge(&Selector::Uri(key.to_string()));
        log::info!("purged {}: {purged} stored responses", key.redacted());
        let mut response = Response::error(StatusCode::OK, &format!("purged {purged}"), as_json);
        if as_json {
            response.body =
                crate::message::body::Body::Whole(format!("{{\"purged\":{purged}}}\n").into());
        }
        response.fields.set_text("cache-status", CacheStatus::default().to_string());
        response
    }
}
