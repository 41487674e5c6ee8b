//! What the origin server is asked, and with which fields. RFC 9111 §4.3.1, §3.3.
//!
//! The head of the request is put together here; a driver sends it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::message::fields::Fields;
use crate::message::target::url_at;
use crate::origin::RequestHead;
use crate::policy::key::CacheKey;
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::stored::StoredResponse;
use crate::policy::validation::{
    ask_for_rest, has_validator, make_conditional, make_unconditional,
};
use crate::proxy::Proxy;
use crate::proxy::collapse::Duty;
use crate::proxy::question::Question;
use crate::store::underway::Begun;

/// A question that goes to the origin server, and why.
pub struct Forward {
    pub(super) question: Question,
    /// The key that the response is stored under, if it is stored: that of a GET, also for the answer to a POST
    /// (RFC 9110 §9.3.3).
    pub(super) key: CacheKey,
    pub(super) why: Why,
    /// The particular rule, where one has decided; `None` where `why` says all.
    pub(super) detail: Option<Detail>,
    /// The stored response that fits the request but may not be reused as it is: it may have to stand in for an
    /// error. `None` if none fits.
    pub(super) selected: Option<Arc<StoredResponse>>,
}

/// A request on its way to the origin server: what is asked, how, and what is owed to others.
pub struct Fetch {
    pub(super) forward: Forward,
    pub(super) plan: Plan,
    pub(super) duty: Duty,
}

/// How the origin server is asked. Replaced as a whole when its answer is of no use.
pub struct Plan {
    /// What it is asked for.
    pub(super) asks: Asks,
    /// The redirect that was followed (`--follow-redirects`), which says where, and with which fields; `None`
    /// where the client's own target is asked for.
    pub(super) redirect: Option<Box<FollowedRedirect>>,
}

/// What the origin server is asked for.
#[derive(Clone)]
pub(super) enum Asks {
    /// What the client asks for, with the client's fields.
    AsItIs,
    /// Whether this one still holds (§4.3.1).
    Whether(Arc<StoredResponse>),
    /// The rest of this one (§3.3).
    Rest(Arc<StoredResponse>),
    /// The whole, without a condition.
    Whole,
}

/// Where a redirect leads that is followed.
pub(super) struct FollowedRedirect {
    pub head: RequestHead,
    /// How many redirects have been followed for the request, this one included.
    pub count: usize,
}

impl Proxy {
    /// Is the response worth fetching although its client has gone, because it may be stored? Others who wait for it
    /// ask anew if it is not.
    pub(super) fn is_worth_finishing(&self, fetch: &Fetch) -> bool {
        let presented = &fetch.forward.question.presented;
        presented.get && !presented.directives.no_store && !self.settings.reuse.disabled
    }
}

impl Plan {
    pub(super) fn new(asks: Asks) -> Self {
        Self { asks, redirect: None }
    }

    /// The same, but of what was invalidated since `begun` nothing is asked about.
    pub(super) fn admitted_by(self, begun: &Begun) -> Self {
        match &self.asks {
            Asks::Whether(stored) | Asks::Rest(stored) if !begun.admits(stored) => {
                Self::new(Asks::AsItIs)
            }
            _ => self,
        }
    }
}

impl Asks {
    /// What to ask about a stored response that fits, but may not be reused as it is.
    pub(super) fn about(stored: &Arc<StoredResponse>, validate: bool) -> Self {
        // Without a validator there is nothing to ask about (§4.3.1).
        if validate && has_validator(&stored.fields) {
            Self::Whether(Arc::clone(stored))
        } else {
            Self::AsItIs
        }
    }

    /// `sent`, as what is asked for changes it. Nothing is copied where nothing is changed.
    fn change(&self, sent: &Arc<Fields>) -> Arc<Fields> {
        // `make_mut` copies: the question's own fields have to be there for the next plan, should this
        // one turn out to be of no use.
        let mut fields = Arc::clone(sent);
        match self {
            Self::AsItIs => {}
            Self::Whether(stored) => make_conditional(Arc::make_mut(&mut fields), stored),
            Self::Rest(prefix) => {
                let is_front = prefix.part.is_some_and(|part| part.span.first == 0);
                assert!(is_front, "the rest is asked for of a part from the front");
                ask_for_rest(Arc::make_mut(&mut fields), prefix);
            }
            Self::Whole => make_unconditional(Arc::make_mut(&mut fields)),
        }
        fields
    }
}

impl Forward {
    /// What `Cache-Status` says as long as there is no response.
    pub(super) fn cache_status(&self) -> CacheStatus {
        CacheStatus { why: Some(self.why), detail: self.detail, ..CacheStatus::default() }
    }
}

impl Proxy {
    /// The head of the request that carries out the plan.
    pub fn head(&self, fetch: &Fetch) -> RequestHead {
        // Put together when the redirect was followed, less what another server must not see.
        if let Some(redirect) = &fetch.plan.redirect {
            return redirect.head.clone();
        }
        let question = &fetch.forward.question;
        RequestHead {
            method: question.method.clone(),
            url: self.url(question),
            host: self.settings.passed_on_host(&question.request).map(Cow::into_owned),
            fields: fetch.plan.asks.change(self.sent(question)),
            // Nobody waits for a refresh, and who can be given a stale response need not wait either:
            // both would take a turn at the gate from those who must.
            waits: question.has_client() && !self.has_stand_in(&fetch.forward),
        }
    }

    /// The URL that a question has at the origin server.
    pub(super) fn url(&self, question: &Question) -> String {
        // The target as the key has it: a parameter that --ignore-param leaves out must not shape what
        // is stored without it.
        url_at(&self.settings.origin, question.target())
    }
}
