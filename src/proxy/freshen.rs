//! What the origin server's answer to a validation does to what is stored. RFC 9111 §4.3.3 to §4.3.5,
//! §3.2.

use std::sync::Arc;

use http::StatusCode;

use crate::clock::Timestamp;
use crate::message::fields::Fields;
use crate::message::response::Response;
use crate::origin::OriginResponse;
use crate::policy::age::corrected_initial_age;
use crate::policy::forwarding::{complete_received, strip_received};
use crate::policy::partial::completes;
use crate::policy::range::Part;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::reuse::Presented;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::storing::{Received, storable};
use crate::policy::validation::{confirms, head_confirms, merged};
use crate::policy::vary::Sent;
use crate::proxy::collapse::Outcome;
use crate::proxy::{Asking, Forward, Proxy};
use crate::stats::Counter;

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

    /// Has the origin server answered something that is of no use, because of how it was asked? Then
    /// `forward` asks for the whole, without a condition.
    pub(super) fn has_to_ask_again(
        &self,
        forward: &mut Forward,
        received: &OriginResponse,
    ) -> bool {
        let detail = match (&forward.asking, received.status) {
            // §4.3.4: it is about a representation that is not stored.
            (Asking::Whether(stored), StatusCode::NOT_MODIFIED)
                if !confirms(stored, &received.fields, self.clock.now()) =>
            {
                Detail::Validator
            }
            (Asking::Rest(_), StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_MODIFIED) => {
                Detail::Rest
            }
            (Asking::Rest(prefix), StatusCode::PARTIAL_CONTENT) => {
                let facts = Received {
                    part: Part::of_response(received.status, &received.fields),
                    ..facts(forward, received, self.clock.now())
                };
                let head = self.storable(&forward.presented, &forward.sent, facts);
                if head.is_ok_and(|head| completes(&head, prefix)) {
                    return false;
                }
                self.store.remove(&forward.key, prefix);
                Detail::Rest
            }
            _ => return false,
        };
        forward.asking = Asking::Whole;
        forward.detail = Some(detail);
        true
    }

    /// A 304 has come that confirms what was offered: freshens that, and answers with it (§4.3.3).
    pub(super) fn freshen(
        &self,
        mut forward: Box<Forward>,
        stored: &Arc<StoredResponse>,
        mut received: OriginResponse,
    ) -> Response {
        let response_time = self.clock.now();
        complete_received(&mut received.fields, received.version, response_time);
        let (freshened, refusal) = self.merge(&forward, stored, &received, response_time);
        if let Some(leader) = forward.leader.take() {
            let outcome = |refusal| forward.outcome(stored.status, refusal);
            leader.land(&refusal.map_or(Outcome::Freshened, outcome));
        }
        self.stats.count(Counter::Hit);
        self.stats.count(Counter::Freshened);
        let status = CacheStatus {
            why: Some(forward.why),
            forward_status: Some(received.status.as_u16()),
            freshness_left: freshened.freshness_left(response_time),
            stored: refusal.is_none(),
            detail: refusal.filter(|refusal| refusal.is_overtaken()).or(forward.detail),
            ..CacheStatus::default()
        };
        self.respond_with(&forward.request, forward.presented, &freshened, response_time, &status)
    }

    /// A stored response with the fields that have come, and why it is not stored in its place, if it is
    /// not.
    fn merge(
        &self,
        forward: &Forward,
        stored: &Arc<StoredResponse>,
        received: &OriginResponse,
        response_time: Timestamp,
    ) -> (Arc<StoredResponse>, Option<Detail>) {
        let mut fields = merged(stored, &received.fields);
        let facts = Received {
            status: stored.status,
            fields: &fields,
            length: Some(stored.content.len()),
            part: stored.part,
            leads_nowhere: self.leads_nowhere(&forward.request, stored.status, &fields),
            ..facts(forward, received, response_time)
        };
        let presented = forward.presented.as_get();
        let verdict = self.storable(&presented, &forward.sent, facts).and_then(|head| {
            // What the content was made for stays; what the 304 names besides comes from the request
            // that it answers (§4.1).
            let selecting = stored.selecting.with(&head.selecting).ok_or(Detail::VaryStar)?;
            Ok(StoredHead { selecting, ..head })
        });
        match verdict {
            Ok(head) => {
                let freshened = Arc::new(stored.with(head, stored.content.clone()));
                let (key, begun) = (&forward.key, &forward.begun);
                let put = self.store.replace(key, stored, Arc::clone(&freshened), begun);
                (freshened, put.refusal())
            }
            Err(detail) => {
                let forbidden = detail.forbids_sharing() && !presented.directives.no_store;
                if forbidden || forward.is_about_the_target(detail) {
                    self.store.remove(&forward.key, stored);
                }
                let age_on_arrival =
                    corrected_initial_age(&fields, forward.request_time, response_time);
                strip_received(&mut fields);
                let head =
                    StoredHead { fields, age_on_arrival, response_time, ..stored.head().clone() };
                (Arc::new(stored.with(head, stored.content.clone())), Some(detail))
            }
        }
    }

    /// A 200 to HEAD freshens the stored response to GET, or shows that it is out of date (§4.3.5), or may
    /// not be kept any more.
    pub(super) fn freshen_by_head(
        &self,
        forward: &Forward,
        received: &OriginResponse,
        response_time: Timestamp,
    ) {
        let Some(stored) = &forward.selected else { return };
        let presented = forward.presented.as_get();
        if stored.part.is_some() || presented.directives.no_store {
            return;
        }
        let facts = facts(forward, received, response_time);
        let verdict = self.storable(&presented, &forward.sent, facts);
        if verdict.is_err_and(Detail::forbids_sharing) {
            // What a GET would bring now may not be kept: what it brought before is not it.
            self.store.remove(&forward.key, stored);
        } else if head_confirms(stored, &received.fields, received.length) {
            self.merge(forward, stored, received, response_time);
        } else if stored.is_fresh(response_time) {
            let head = StoredHead { fresh_until: response_time, ..stored.head().clone() };
            let outdated = Arc::new(stored.with(head, stored.content.clone()));
            self.store.replace(&forward.key, stored, outdated, &forward.begun);
        }
    }
}

/// What is known of a response that has come.
pub(super) fn facts<'a>(
    forward: &Forward,
    received: &'a OriginResponse,
    response_time: Timestamp,
) -> Received<'a> {
    Received {
        status: received.status,
        fields: &received.fields,
        length: received.length,
        part: None,
        describes_target: false,
        leads_nowhere: false,
        request_time: forward.request_time,
        response_time,
    }
}
