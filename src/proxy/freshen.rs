//! What the origin server's answer to a validation does to what is stored. RFC 9111 §4.3.3 to §4.3.5,
//! §3.2.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::message::fields::Fields;
use crate::origin::OriginHead;
use crate::policy::age::corrected_initial_age;
use crate::policy::forwarding::{complete_received, strip_received};
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::response::Response;
use crate::policy::reuse::Presented;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::storing::{Received, storable};
use crate::policy::validation::{head_confirms, merged};
use crate::policy::vary::Sent;
use crate::proxy::Proxy;
use crate::proxy::collapse::Outcome;
use crate::proxy::plan::{Fetch, Forward};
use crate::stats::Counter;
use crate::store::underway::Begun;

impl Proxy {
    /// May the response to a request that the origin server got with these fields be stored (§3)?
    pub(super) fn storable(
        &self,
        presented: &Presented,
        sent: &Fields,
        received: Received<'_>,
    ) -> Result<StoredHead, Detail> {
        let sent = Sent { fields: sent, salt: &self.salt() };
        storable(presented, sent, received, &self.settings.storing)
    }

    /// A 304 has come that confirms what was offered: freshens that, and answers with it (§4.3.3).
    pub(super) fn freshen(
        &self,
        fetch: Fetch,
        stored: &Arc<StoredResponse>,
        mut received: OriginHead,
        response_time: Timestamp,
    ) -> Response {
        let Fetch { forward, duty, .. } = fetch;
        // What is stored was selected for this question, and is replaced under the key of the fetch.
        assert!(forward.key == forward.question.key, "what is freshened answers the question");
        // First: freshness is counted from Date, which the 304 may lack (RFC 9110 §6.6.1).
        complete_received(&mut received.fields, received.version, response_time);
        let (freshened, refusal) =
            self.merge(&forward, duty.begun(), stored, &received, response_time);
        // Stored before it is settled: requests that follow are resumed by that, and look it up.
        let outcome = |refusal| forward.outcome(stored.status, refusal);
        duty.settle(&refusal.map_or(Outcome::Freshened, outcome));
        self.stats.count(Counter::Hit);
        self.stats.count(Counter::Freshened);
        let status = CacheStatus {
            from_cache: true,
            why: Some(forward.why),
            forward_status: Some(received.status.as_u16()),
            freshness_left: freshened.freshness_left(response_time),
            stored: refusal.is_none(),
            detail: refusal.filter(|refusal| refusal.is_overtaken()).or(forward.detail),
            ..CacheStatus::default()
        };
        self.respond_with(&forward.question, &freshened, response_time, status)
    }

    /// The stored response with the fields that have come, and why it is not stored in place of the old one;
    /// `None` if it is stored.
    fn merge(
        &self,
        forward: &Forward,
        begun: &Begun,
        stored: &Arc<StoredResponse>,
        received: &OriginHead,
        response_time: Timestamp,
    ) -> (Arc<StoredResponse>, Option<Detail>) {
        let question = &forward.question;
        let mut fields = merged(stored, &received.fields);
        let facts = Received {
            status: stored.status,
            fields: &fields,
            length: Some(stored.content.len()),
            part: stored.part,
            leads_nowhere: self.settings.leads_nowhere(&question.request, stored.status, &fields),
            ..facts(forward, received, response_time)
        };
        // A 304 to HEAD is about what is stored for GET (§4.3.5).
        let presented = question.presented.as_get();
        let verdict = self.storable(&presented, self.sent(question), facts).and_then(|head| {
            // What the content was made for stays; what the 304 names besides comes from the request
            // that it answers (§4.1).
            let selecting = stored.selecting.with(&head.selecting).ok_or(Detail::VaryStar)?;
            Ok(StoredHead { selecting, ..head })
        });
        match verdict {
            Ok(head) => {
                let freshened = Arc::new(stored.with(head, stored.content.clone()));
                let put = self.cache.replace(&forward.key, stored, Arc::clone(&freshened), begun);
                (freshened, put.refusal())
            }
            Err(detail) => {
                let forbidden = detail.forbids_sharing() && !presented.directives.no_store;
                if forbidden || forward.is_about_the_target(detail) {
                    self.cache.remove(&forward.key, stored);
                }
                // What is not stored answers this client alone, with the fields that have come.
                let age_on_arrival =
                    corrected_initial_age(&fields, question.request_time, response_time);
                strip_received(&mut fields);
                let head = StoredHead {
                    fields: fields.into(),
                    age_on_arrival,
                    response_time,
                    ..stored.head().clone()
                };
                (Arc::new(stored.with(head, stored.content.clone())), Some(detail))
            }
        }
    }

    /// A 200 to HEAD freshens the stored response to GET, or shows that it is out of date (§4.3.5), or may
    /// not be kept any more.
    pub(super) fn freshen_by_head(
        &self,
        forward: &Forward,
        begun: &Begun,
        received: &OriginHead,
        response_time: Timestamp,
    ) {
        let Some(stored) = &forward.selected else { return };
        let question = &forward.question;
        let presented = question.presented.as_get();
        if stored.part.is_some() || presented.directives.no_store {
            return;
        }
        let facts = facts(forward, received, response_time);
        let verdict = self.storable(&presented, self.sent(question), facts);
        if verdict.is_err_and(Detail::forbids_sharing) {
            // What a GET would bring now may not be kept: what it brought before is not it.
            self.cache.remove(&forward.key, stored);
        } else if head_confirms(stored, &received.fields, received.length) {
            self.merge(forward, begun, stored, received, response_time);
        } else if stored.is_fresh(response_time) {
            // §4.3.5: it is considered stale, and stays: the next GET validates it.
            let head = StoredHead { fresh_until: response_time, ..stored.head().clone() };
            let outdated = Arc::new(stored.with(head, stored.content.clone()));
            self.cache.replace(&forward.key, stored, outdated, begun);
        }
    }
}

/// The facts about a response that has come, as the rules about storing take them.
pub(super) fn facts<'a>(
    forward: &Forward,
    received: &'a OriginHead,
    response_time: Timestamp,
) -> Received<'a> {
    Received {
        status: received.status,
        fields: &received.fields,
        length: received.length,
        part: None,
        describes_target: false,
        leads_nowhere: false,
        request_time: forward.question.request_time,
        response_time,
    }
}
