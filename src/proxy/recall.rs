//! The backing store is asked on the way to the origin server, and only then. RFC 9111 §4 knows one cache; this
//! is the slower half of it.
//!
//! The one step that waits, for the backing store alone; a driver calls it on a thread that may.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::policy::reason::Why;
use crate::policy::response::Response;
use crate::policy::reuse::{Judgement, judge};
use crate::policy::stored::StoredResponse;
use crate::proxy::Proxy;
use crate::proxy::collapse::{Duty, Outcome, Shareable};
use crate::proxy::lookup::Cause;
use crate::proxy::next::{History, Next, Recall};
use crate::proxy::plan::{Fetch, Forward};
use crate::proxy::question::Question;
use crate::store::cache::Recollected;
use crate::store::underway::Begun;

impl Proxy {
    /// Asks the backing store, and goes on with what it has. Waits, within the backing store's own bounds.
    pub fn recall(&self, recall: Recall) -> Next {
        match recall {
            Recall::BeforeFetch(fetch) => self.recall_before(fetch, None),
            Recall::BeforeRefusal { question, detail } => {
                // Noted although nothing will be fetched: what is purged while the backing store is
                // read must not be found.
                let mut duty = Duty::alone(self.cache.note(&question.key));
                // No claim: it will not fetch, whatever the backing store has.
                let variants = self.recalled(&question, &mut duty);
                if variants.is_empty() {
                    return self.refuse_forwarding(&question, detail).into();
                }
                self.answer_recalled(question, duty, variants)
            }
            Recall::Underway { otherwise, shareable } => {
                match self.read_along(
                    &otherwise.forward.question,
                    &shareable,
                    otherwise.forward.why,
                ) {
                    Some(response) => response.into(),
                    None => self.recall_before(otherwise, None),
                }
            }
        }
    }

    /// Can the backing store be asked this together with other questions?
    pub fn recalls_together(&self, recall: &Recall) -> bool {
        matches!(recall, Recall::BeforeFetch(_)) && self.cache.recalls_together()
    }

    /// Asks the backing store the first of these questions, for each of which [`Proxy::recalls_together`] is true,
    /// and as many more as it can be asked until `until`; those that it was not asked come back. The next step of
    /// one that has to be asked by itself is to do so. Waits, within the backing store's own bounds.
    #[allow(clippy::vec_box, reason = "they come in their boxes and go in them")]
    pub fn recall_together(
        &self,
        recalls: Vec<Box<Recall>>,
        until: Instant,
    ) -> (Vec<Next>, Vec<Box<Recall>>) {
        let fetches = recalls.iter().map(|recall| match &**recall {
            Recall::BeforeFetch(fetch) => fetch,
            _ => unreachable!("it is asked together with others"),
        });
        let asked: Vec<_> = fetches
            .map(|fetch| (&fetch.forward.question.key, fetch.duty.begun().clone()))
            .collect();
        let found = self.cache.recall_together(asked, until);
        let mut recalls = recalls.into_iter();
        let nexts = recalls.by_ref().zip(found).map(|(recall, found)| match (*recall, found) {
            // What has yet to be read, piece by piece, would keep the others waiting: it is asked alone.
            (Recall::BeforeFetch(fetch), Some((_, found)))
                if found.variants.iter().any(|variant| variant.content.here().is_none()) =>
            {
                Next::Recall(Box::new(Recall::BeforeFetch(fetch)))
            }
            (Recall::BeforeFetch(fetch), Some(found)) => self.recall_before(fetch, Some(found)),
            (recall, _) => Next::Recall(Box::new(recall)),
        });
        (nexts.collect(), recalls.collect())
    }

    /// `found` is what the backing store has said; it is asked here if that is `None`.
    fn recall_before(&self, mut fetch: Fetch, found: Option<(Begun, Recollected)>) -> Next {
        let question = &fetch.forward.question;
        let noted = fetch.duty.begun().clone();
        let variants = match found {
            Some((begun, found)) => self.take_in(question, &mut fetch.duty, begun, found),
            None => self.recalled(question, &mut fetch.duty),
        };
        if !variants.is_empty() && question.has_client() {
            return self.answer_recalled(fetch.forward.question, fetch.duty, variants);
        }
        // A refresh in the background is not needed if another proxy has brought something fresh.
        if self.is_refreshed(question, &variants) {
            // What was selected is in memory by now, if it fits there: requests that follow look there.
            fetch.duty.settle(&Outcome::stored(true));
            return nothing().into();
        }
        let Fetch { forward, mut plan, duty } = fetch;
        if !noted.is_same(duty.begun()) {
            // Another proxy was waited for, so the fetch begins anew, and what was purged before does not keep
            // its response out: what is made of purged content would be stored.
            plan = plan.admitted_by(&noted);
        }
        let question = forward.question.after_a_wait(self.clock.now());
        Next::Fetch(Box::new(Fetch { forward: Forward { question, ..forward }, plan, duty }))
    }

    /// Looks at what was recalled as if it had been found in memory.
    fn answer_recalled(
        &self,
        question: Question,
        duty: Duty,
        variants: Vec<Arc<StoredResponse>>,
    ) -> Next {
        // Whatever the outcome, memory is not looked at again: these are as new as what it has.
        let cause = Cause::Recalled(duty, variants.into());
        // Another proxy may have been waited for, and what it has stored is newer than the question.
        let question = question.after_a_wait(self.clock.now());
        self.lookup(question, History::default(), cause)
    }

    /// The variants that the backing store has; the content of the one that will be selected is in memory,
    /// if it fits there.
    fn recalled(&self, question: &Question, duty: &mut Duty) -> Vec<Arc<StoredResponse>> {
        // A leader asks for all; a request that asks alone may ask for what is nobody else's.
        let claims = duty.leads() && question.has_client();
        let mut begun = duty.begun().clone();
        let found = self.cache.recall(&question.key, &mut begun, claims);
        self.take_in(question, duty, begun, found)
    }

    /// The backing store has been asked, and `begun` has its state.
    fn take_in(
        &self,
        question: &Question,
        duty: &mut Duty,
        begun: Begun,
        found: Recollected,
    ) -> Vec<Arc<StoredResponse>> {
        let Recollected { mut variants, claim, .. } = found;
        duty.recalled(begun, claim);
        self.bring(question, duty, &mut variants);
        // To ask, and to read what was found, takes time: what is purged meanwhile must not be asked
        // about, nor stand in.
        variants.retain(|stored| duty.begun().admits(stored));
        variants
    }

    /// Brings the content of the variant that will be selected into memory, if it fits there. One whose
    /// content is lost is left out, and the next one selected.
    fn bring(&self, question: &Question, duty: &Duty, variants: &mut Vec<Arc<StoredResponse>>) {
        while let Some(selected) = self.select(question, variants).used() {
            let index = variants.iter().position(|other| Arc::ptr_eq(other, &selected));
            let index = index.expect("it was selected among them");
            if let Some(here) = self.cache.bring(&question.key, &selected, duty.begun()) {
                variants[index] = here;
                return;
            }
            variants.remove(index);
        }
    }

    /// Is there something fresh among `variants` that fits?
    pub(super) fn is_refreshed(
        &self,
        question: &Question,
        variants: &[Arc<StoredResponse>],
    ) -> bool {
        let now = self.clock.now();
        let is_fresh =
            |stored: &&Arc<StoredResponse>| stored.is_fresh(now) && !stored.directives.no_cache;
        variants.iter().filter(is_fresh).any(|stored| self.fits(question, stored))
    }

    /// May this request be given the body that is on its way into the backing store?
    pub(super) fn may_follow(&self, question: &Question, shareable: &Shareable) -> bool {
        let presented = &question.presented;
        let usable =
            judge(presented, &shareable.head, false, self.clock.now(), &self.settings.reuse);
        shareable.spooled.get().is_some()
            && presented.get
            && !presented.range
            && !presented.conditional
            && self.fits(question, &shareable.head)
            && usable == Judgement::Usable
    }

    fn read_along(&self, question: &Question, shareable: &Shareable, why: Why) -> Option<Response> {
        let follower = shareable.spooled.get()?.reader()?;
        let response = self.share_head(question, &shareable.head, why);
        Some(Response { body: Body::Arriving(Box::new(follower)), ..response })
    }
}

/// The answer to a refresh that is not needed any more: nobody waits for it.
fn nothing() -> Response {
    Response::new(StatusCode::NO_CONTENT, Fields::new(), Body::None { length: None })
}
