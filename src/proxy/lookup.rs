//! The first step: what is stored is looked up, selected and judged, and what cannot be answered from
//! memory is passed to the next step. RFC 9111 §4.
//!
//! Never waits. Memory is looked at once; only where something was stored or removed between that look
//! and the note that a fetch begins, it is looked at again (`collapse/join.rs`).

use std::sync::Arc;

use crate::message::request::{Request, RequestError};
use crate::policy::forwarding::{goes_in_circles, max_forwards};
use crate::policy::reason::{Detail, Why};
use crate::policy::response::Response;
use crate::policy::reuse::{Decision, Mode};
use crate::policy::selection::{Lacking, Selection, Sought, select};
use crate::policy::stored::StoredResponse;
use crate::proxy::Proxy;
use crate::proxy::collapse::{Duty, Failed, FollowerOutcome, Outcome, Shareable};
use crate::proxy::next::{Answer, Attempt, History, Next, Recall, Refresh, Resumed};
use crate::proxy::plan::{Asks, Forward};
use crate::proxy::question::Question;
use crate::stats::Counter;
use crate::store::Variants;
use crate::store::cache::Look;

/// Why a request is looked up, and what is known from before.
pub(super) enum Cause {
    /// It has just come.
    Arrived,
    /// What it followed is stored.
    Stored,
    /// What it followed is on its way in.
    Growing(Arc<Shareable>),
    /// What it followed was invalidated.
    Cleared,
    /// What it followed has failed.
    Failed(Arc<Failed>),
    /// What it followed cannot be shared with it.
    Unshareable,
    /// It asks the origin server itself, perhaps for others. The fetch was noted before this look.
    Leads(Duty),
    /// The backing store has these.
    Recalled(Duty, Variants),
}

impl Cause {
    /// The request has its answer: its followers find it where this one has.
    fn satisfied(self, stored: &StoredResponse) {
        if let Self::Leads(duty) | Self::Recalled(duty, _) = self {
            duty.settle(&Outcome::stored(stored.content.memory_bytes().is_some()));
        }
    }

    /// Why the request was to be forwarded, before it got what another had fetched; `None` if it got nothing so.
    fn followed(&self, history: History) -> Option<Why> {
        let got = matches!(self, Self::Stored | Self::Growing(_));
        history.first_why.filter(|_| got)
    }
}

/// Where stored responses were found.
pub(super) enum Found {
    /// Memory was looked at.
    InMemory(Look),
    /// The backing store was asked, and has these.
    InBacking(Variants),
    /// No stored response could answer: it is no GET or HEAD, or has content.
    NotSought,
}

impl Found {
    /// The responses, the most recent first.
    pub(super) fn variants(&self) -> &[Arc<StoredResponse>] {
        match self {
            Self::InMemory(look) => look.variants(),
            Self::InBacking(variants) => variants,
            Self::NotSought => &[],
        }
    }
}

/// What a request that is not answered from memory asks for, and why.
pub(super) struct Miss {
    pub forward: Forward,
    pub asks: Asks,
    pub found: Found,
}

impl Proxy {
    /// Answers a request from memory, or says what is to be done next. Never waits.
    pub fn ask(&self, request: &Arc<Request>, attempt: Attempt) -> Next {
        match attempt {
            Attempt::First => {
                // Counted once, however often it is asked again after it has followed another.
                self.stats.count(Counter::Request);
                match self.answer_at_once(request) {
                    Some(response) => response.into(),
                    None => self.lookup(self.question(request), History::default(), Cause::Arrived),
                }
            }
            Attempt::Resumed(resumed) => self.resume(*resumed),
        }
    }

    /// A request goes on that has followed another.
    fn resume(&self, resumed: Resumed) -> Next {
        let Resumed { question, history, outcome } = resumed;
        // It is asked again: what is stored is judged now, and an exchange that it leads begins now. By the
        // time when it came, a response could be reused that has gone stale while it waited.
        let question = question.after_a_wait(self.clock.now());
        let cause = match outcome {
            FollowerOutcome::Stored => Cause::Stored,
            FollowerOutcome::Cleared => Cause::Cleared,
            FollowerOutcome::Failed(failed) => Cause::Failed(failed),
            FollowerOutcome::Unshareable => Cause::Unshareable,
            FollowerOutcome::Growing(shareable) => {
                let cause = Cause::Growing(Arc::clone(&shareable));
                let why = cause.followed(history);
                // Given without another look where it fits: the body grows, and is stored later.
                if let Some(response) = self.share(&question, &shareable, why) {
                    return response.into();
                }
                cause
            }
            FollowerOutcome::Lead(leader) => {
                // Noted before the look: what is invalidated from now on is seen.
                let begun = self.cache.note(&question.key);
                Cause::Leads(Duty::leading(leader, begun))
            }
        };
        self.lookup(question, history, cause)
    }

    /// The answer to a request that goes no further, and asks for nothing that is stored; `None` for all others.
    fn answer_at_once(&self, request: &Request) -> Option<Response> {
        // Before a key is made: what leads out of the path of --origin must reach neither the cache nor
        // the origin server.
        if self.settings.escapes(request) {
            return Some(self.refuse(request, &RequestError::Escapes));
        }
        if goes_in_circles(request) {
            return Some(self.refuse_circles(request));
        }
        (max_forwards(request) == Some(0)).then(|| self.answer_as_last())
    }

    /// The steps of a request that may be answered from what is stored: find, select, decide.
    pub(super) fn lookup(&self, question: Question, history: History, cause: Cause) -> Next {
        let found = self.find(&question, &cause);
        let Selection { selected, lacking } = self.select(&question, found.variants());
        // Read before `cause` is consumed: the answer says that it was waited for.
        let followed = cause.followed(history);
        match self.decide(&question, selected, &found) {
            Decision::Reuse(stored) => {
                // The response first: those who follow are resumed in the next call, on this thread.
                let response = self.reuse(&question, &stored, followed, None);
                cause.satisfied(&stored);
                response.into()
            }
            Decision::ReuseStale { stored, detail, refresh } => {
                self.stats.count(Counter::Stale);
                let response = self.reuse(&question, &stored, followed, Some(detail));
                cause.satisfied(&stored);
                let refresh = refresh.then(|| Box::new(Refresh { question, stored }));
                Next::Answer(Answer { response, refresh })
            }
            Decision::Forward { why, detail, selected, validate } => {
                // What was selected fits the request, but may not be reused as it is. It is asked
                // about, and may have to stand in for an error (§4.2.4).
                let asks = match &selected {
                    Some(stored) => Asks::about(stored, validate),
                    None => self.asks_for_a_miss(&question, why, lacking),
                };
                let forward = self.forward(question, why, detail, selected);
                self.join(Miss { forward, asks, found }, history, cause)
            }
            // What memory lacks may be behind it: `only-if-cached` and offline are about the whole cache.
            Decision::Refuse(detail) if self.may_be_in_backing(&found) => {
                Next::Recall(Box::new(Recall::BeforeRefusal { question, detail }))
            }
            Decision::Refuse(detail) => {
                self.refuse_variants(&question, detail, found.variants()).into()
            }
        }
    }

    /// All that is stored for the key, as far as it can answer such a question.
    fn find(&self, question: &Question, cause: &Cause) -> Found {
        match cause {
            Cause::Recalled(_, variants) => Found::InBacking(Arc::clone(variants)),
            // Nothing that is stored answers another method, so memory is not even looked at.
            _ if question.is_answerable() => Found::InMemory(self.cache.look(&question.key)),
            _ => Found::NotSought,
        }
    }

    /// Has the backing store not been asked, and may it have more?
    pub(super) fn may_be_in_backing(&self, found: &Found) -> bool {
        matches!(found, Found::InMemory(_)) && self.cache.has_backing()
    }

    /// Selects among `variants` (§4.1).
    pub(super) fn select(
        &self,
        question: &Question,
        variants: &[Arc<StoredResponse>],
    ) -> Selection {
        let sought = Sought::read(&question.presented, &question.request.fields);
        select(variants, &sought, question.request_time, |stored| {
            // Most responses fit everybody, and the fields need not be put together.
            stored.selecting.is_empty() && !stored.status.is_redirection()
                || self.fits(question, stored)
        })
    }

    /// What to ask for when nothing stored fits: the rest of a part, or what the client asks for.
    fn asks_for_a_miss(&self, question: &Question, why: Why, lacking: Lacking) -> Asks {
        let presented = &question.presented;
        let standard = self.settings.reuse.mode == Mode::Standard;
        // What was made for someone without credentials by a guess is not for those who have some.
        let personal = presented.personal().is_some();
        match lacking {
            Lacking::Whole => Asks::Whole,
            Lacking::Rest(prefix)
                if why == Why::Partial
                    // HEAD, a range or a condition asks for less than the whole that the rest completes
                    // (§3.4).
                    && !(presented.head || presented.range || presented.conditional)
                    && standard
                    && !presented.directives.no_cache
                    && (!personal || prefix.lifetime.is_explicit())
                    && prefix
                        .part
                        .and_then(|part| part.complete)
                        .is_some_and(|length| length <= self.cache.content_bytes_max()) =>
            {
                Asks::Rest(prefix)
            }
            _ => Asks::AsItIs,
        }
    }

    /// Makes a question one that goes to the origin server.
    pub(super) fn forward(
        &self,
        question: Question,
        why: Why,
        detail: Option<Detail>,
        selected: Option<Arc<StoredResponse>>,
    ) -> Forward {
        // Whatever the response is: that is why the cache has no part in it.
        let detail = detail.or(question.presented.content.then_some(Detail::Content));
        // What answers a request that changes something is stored under the key of a GET, if at all.
        let key = if question.is_answerable() {
            question.key.clone()
        } else {
            self.settings.key.key_of(question.key.as_str())
        };
        Forward { question, key, why, detail, selected }
    }
}
