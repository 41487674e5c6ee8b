//! The second step: a request that is not answered from memory follows another that asks the same, or
//! asks itself, for all who come to follow it. Never waits.

use std::sync::Arc;

use crate::policy::reason::{Detail, Why};
use crate::policy::validation::has_validator;
use crate::policy::vary::{Selecting, Sent};
use crate::proxy::Proxy;
use crate::proxy::collapse::{Duty, FlightKey, FlightRole};
use crate::proxy::lookup::{Cause, Found, Miss};
use crate::proxy::next::{Follow, History, Next, Recall, Refresh, WAITS_MAX};
use crate::proxy::plan::{Asks, Fetch, Plan};
use crate::proxy::question::Question;

impl Proxy {
    /// What a request does that is not answered from memory, by what it has followed so far.
    pub(in crate::proxy) fn join(&self, miss: Miss, history: History, cause: Cause) -> Next {
        if matches!(cause, Cause::Recalled(..)) {
            assert!(
                matches!(miss.found, Found::InBacking(_)),
                "what was recalled is looked at alone"
            );
        }
        match cause {
            // It has the lead already, or has been recalled for: nothing is left to wait for.
            Cause::Leads(duty) | Cause::Recalled(duty, _) => self.recall_or_fetch(miss, duty),
            Cause::Failed(failed) => self.fail_with_leader(&miss.forward, &failed).into(),
            // It waited once for nothing: to wait again would queue all of them one behind the other.
            Cause::Unshareable => self.ask_alone(miss, history),
            Cause::Growing(shareable) if self.may_follow(&miss.forward.question, &shareable) => {
                // It reads along in the backing store, and nobody follows it.
                let begun = self.cache.note(&miss.forward.key);
                let otherwise = fetch(miss, Duty::alone(begun));
                Next::Recall(Box::new(Recall::Underway { otherwise, shareable }))
            }
            // It did not fit; but now it is known which fields select.
            Cause::Growing(shareable) => {
                let selecting = self.selecting(&miss.forward.question, &shareable.head.selecting);
                self.collapse(miss, history, selecting)
            }
            Cause::Cleared => self.collapse_by_newest(miss, history.after_invalidation()),
            Cause::Stored | Cause::Arrived => self.collapse_by_newest(miss, history),
        }
    }

    /// What the cache fetches in the background, for what it has given out stale; `None` if that is not
    /// needed any more, or another request does so already. Never waits.
    pub fn refresh(&self, refresh: Refresh) -> Option<Next> {
        let Refresh { question, stored } = refresh;
        let question = question.in_the_background(self).after_a_wait(self.clock.now());
        let found = Found::InMemory(self.cache.look(&question.key));
        // Since the stale response was given out, another request may have brought a fresh one.
        if self.is_refreshed(&question, found.variants()) {
            return None;
        }
        let asks = if has_validator(&stored.fields) {
            Asks::Whether(Arc::clone(&stored))
        } else {
            Asks::Whole
        };
        let forward = self.forward(question, Why::Stale, None, Some(stored));
        match self.collapse_by_newest(Miss { forward, asks, found }, History::default()) {
            next @ (Next::Recall(_) | Next::Fetch(_)) => Some(next),
            // It is in flight already. Nobody is parked for what is dropped here.
            Next::Follow(_) | Next::Answer(_) => None,
        }
    }

    /// The most recent response tells which fields select; the next one will name the same.
    fn collapse_by_newest(&self, miss: Miss, history: History) -> Next {
        let newest = miss.found.variants().first();
        let selecting =
            newest.map(|stored| self.selecting(&miss.forward.question, &stored.selecting));
        let selecting = selecting.unwrap_or_default();
        self.collapse(miss, history, selecting)
    }

    /// Joins the flight for what the request has in common with others, or begins it.
    fn collapse(&self, mut miss: Miss, history: History, selecting: Vec<u8>) -> Next {
        let forward = &mut miss.forward;
        let question = &forward.question;
        let presented = &question.presented;
        let has_own_condition = presented.conditional && !matches!(miss.asks, Asks::Whether(_));
        let may_wait = presented.collapses()
            && !has_own_condition
            && !self.settings.reuse.disabled
            && history.waits < WAITS_MAX;
        // A request that follows nobody is followed by nobody: what it brings may be for it alone.
        if !may_wait {
            return self.ask_alone(miss, history);
        }
        // Was a response for it lately not shared because of credentials, and has it some?
        if presented.personal().is_some() && self.flights.is_personal(&forward.key) {
            forward.detail.get_or_insert(Detail::HitForMiss);
            return self.ask_alone(miss, history);
        }
        let flight_key = flight_key(question, selecting);
        let note = || self.cache.note(&forward.key);
        match self.flights.join(flight_key, note, history.invalidations > 0) {
            FlightRole::Lead(leader, begun) => {
                self.begin(miss, history, Duty::leading(leader, begun))
            }
            FlightRole::Alone => {
                forward.detail.get_or_insert(Detail::HitForMiss);
                self.ask_alone(miss, history)
            }
            FlightRole::Wait(joined) => {
                // Why it would have been forwarded is told to the client when it gets the other's response.
                let history = history.waiting(forward.why);
                Next::Follow(Follow { joined, question: Box::new(miss.forward.question), history })
            }
        }
    }

    /// The request asks for itself.
    fn ask_alone(&self, miss: Miss, history: History) -> Next {
        let begun = self.cache.note(&miss.forward.key);
        self.begin(miss, history, Duty::alone(begun))
    }

    /// The fetch is noted from here on.
    fn begin(&self, miss: Miss, history: History, duty: Duty) -> Next {
        let Miss { forward, found, .. } = &miss;
        // Between the look and the note, the flight before this one may have ended, or what was found
        // may have been purged, which nobody would learn of: look again, now that it is noted.
        if let Found::InMemory(look) = found
            && forward.question.has_client()
            && self.cache.has_changed(&forward.question.key, look)
        {
            return self.lookup(miss.forward.question, history, Cause::Leads(duty));
        }
        self.recall_or_fetch(miss, duty)
    }

    /// On the way to the origin server, by way of the backing store if that may have an answer.
    fn recall_or_fetch(&self, miss: Miss, duty: Duty) -> Next {
        if self.may_be_in_backing(&miss.found) {
            return Next::Recall(Box::new(Recall::BeforeFetch(fetch(miss, duty))));
        }
        Next::Fetch(Box::new(fetch(miss, duty)))
    }

    /// The values that this request has of the fields that select, as a fingerprint.
    fn selecting(&self, question: &Question, selecting: &Selecting) -> Vec<u8> {
        if selecting.is_empty() {
            return Vec::new();
        }
        let sent = Sent { fields: self.sent(question), salt: &self.salt() };
        selecting.of_request(sent).fingerprint()
    }
}

fn fetch(miss: Miss, duty: Duty) -> Fetch {
    let Miss { forward, asks, .. } = miss;
    Fetch { forward, plan: Plan::new(asks), duty }
}

/// What a request collapses with: those that ask for the same, with the same values of the fields that
/// are known to select, and the same ranges.
fn flight_key(question: &Question, mut selecting: Vec<u8>) -> FlightKey {
    if let Some(range) = question.request.fields.get("range").filter(|_| question.presented.range) {
        selecting.extend_from_slice(b"\nrange:");
        selecting.extend_from_slice(range.as_bytes());
    }
    FlightKey { key: question.key.clone(), selecting }
}
