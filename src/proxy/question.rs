//! What is asked: read once from a request, and the same until it is answered.
//!
//! The origin server is asked with its fields, the cache by its key, and every rule sees what it presents.
//! How far a request has come is no part of its question: `next.rs` has that.

use std::sync::{Arc, OnceLock};

use http::Method;

use crate::clock::Timestamp;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::policy::key::CacheKey;
use crate::policy::reuse::Presented;
use crate::policy::validation::make_own;
use crate::proxy::Proxy;

/// What a request asks for. Immutable: whatever a step finds out goes into a value of its own.
pub struct Question {
    pub(super) request: Arc<Request>,
    /// The method that the origin server is asked with: GET for what is fetched in the background.
    pub(super) method: Method,
    /// What the request presents to a cache: method, credentials, directives, conditions, ranges.
    pub(super) presented: Presented,
    /// What stored responses are found by.
    pub(super) key: CacheKey,
    /// When it was asked, for the last time if it has followed others since it came (RFC 9111 §4.2.3:
    /// `request_time`).
    pub(super) request_time: Timestamp,
    /// Who wants the answer.
    pub(super) asker: Asker,
    /// Path and query as the key has them; `None` where the client has written them so.
    shaped_target: Option<String>,
    /// The header section for the origin server, put together when it is first needed: a hit on what fits
    /// everybody needs none.
    sent: OnceLock<Arc<Fields>>,
}

/// Who wants the answer to a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asker {
    /// A client, which waits for it.
    Client,
    /// The cache itself, for a response that it has given out stale (RFC 5861 §3). Nobody waits for the answer.
    Cache,
}

impl Question {
    /// Path and query, as the key has them.
    pub(super) fn target(&self) -> &str {
        self.shaped_target.as_deref().unwrap_or(self.request.target.as_str())
    }

    /// May what is stored answer it at all: is it a GET or HEAD without content?
    pub(super) fn is_answerable(&self) -> bool {
        self.presented.get || self.presented.head
    }

    /// Does a client wait for the answer?
    pub(super) fn has_client(&self) -> bool {
        self.asker == Asker::Client
    }

    /// The same after a wait on this side: for another request, or for the backing store. Nothing of that is an
    /// age of what it is sent for (§4.2.3), and what is stored by now is judged by now.
    pub(super) fn after_a_wait(self, now: Timestamp) -> Self {
        Self { request_time: now, ..self }
    }

    /// What the cache asks on its own account when it has answered this one with a stale response: the
    /// whole, with those fields that do not ask for less.
    pub(super) fn in_the_background(&self, proxy: &Proxy) -> Self {
        assert!(self.has_client(), "only what a client was given stale is refreshed");
        // The request's own fields, credentials among them: the response replaces one that they selected.
        let mut sent = (**proxy.sent(self)).clone();
        make_own(&mut sent);
        Self {
            request: Arc::clone(&self.request),
            method: Method::GET,
            presented: self.presented.in_the_background(),
            key: self.key.clone(),
            // The earlier time: an age that is computed from it is never too small (RFC 9111 §4.2.3).
            request_time: self.request_time,
            asker: Asker::Cache,
            shaped_target: self.shaped_target.clone(),
            sent: OnceLock::from(Arc::new(sent)),
        }
    }
}

impl Proxy {
    /// Reads what a request asks for.
    pub(super) fn question(&self, request: &Arc<Request>) -> Question {
        let mut presented = Presented::read(request);
        // What it gets is judged as if the client had sent what the origin server is sent.
        presented.authorization |= self.settings.origin_authorization.is_some();
        let written = request.target.as_str();
        // A request that changes something goes to the origin server as it is.
        let target = if presented.get || presented.head {
            self.settings.key.shape(written)
        } else {
            written.into()
        };
        presented = if self.settings.reuse.share_credentials {
            presented.without_credentials()
        } else {
            // What `--ignore-param` leaves out does not reach the origin server.
            presented.at(&target)
        };
        let key =
            CacheKey::new(&self.settings.origin, &self.settings.passed_on_url(request), &target);
        // Most targets are in their normal spelling, and nothing is copied for them.
        let shaped_target = (target != written).then(|| target.into_owned());
        Question {
            request: Arc::clone(request),
            method: request.method.clone(),
            presented,
            key,
            request_time: self.clock.now(),
            asker: Asker::Client,
            shaped_target,
            sent: OnceLock::new(),
        }
    }

    /// The header section that the origin server is sent, but for what a plan changes in it.
    pub(super) fn sent<'a>(&self, question: &'a Question) -> &'a Arc<Fields> {
        question.sent.get_or_init(|| Arc::new(self.settings.sent_fields(&question.request)))
    }
}
