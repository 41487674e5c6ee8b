//! What is done with the origin server's response: stored or not, passed on, or replaced by a stale
//! one. RFC 9111 §3, §4.2.4.

use std::sync::Arc;

use http::StatusCode;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::response::Response;
use crate::origin::OriginResponse;
use crate::policy::age::age_value;
use crate::policy::forwarding::{add_response_fields, received_fields};
use crate::policy::invalidation::invalidates;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::reuse::{Presented, may_stand_in};
use crate::policy::storing::{Received, storable};
use crate::proxy::{Forward, Proxy};
use crate::recording::{Recording, Relayed};
use crate::stats::Event;

impl Proxy {
    /// A response has come: stores it if it may be stored, and passes it on (§3).
    pub(super) fn absorb(
        &self,
        mut forward: Box<Forward>,
        mut received: OriginResponse,
    ) -> Response {
        let response_time = self.clock.now();
        if matches!(received.status.as_u16(), 500 | 502 | 503 | 504)
            && let Some(response) = self.stand_in(&mut forward, Some(received.status))
        {
            return response;
        }
        if invalidates(&forward.request.method, received.status) {
            self.store.remove_all(&forward.key);
        }
        received_fields(&mut received.fields, response_time);
        let mut status = CacheStatus {
            why: Some(forward.why),
            forward_status: Some(received.status.as_u16()),
            detail: forward.detail,
            ..CacheStatus::default()
        };
        let recording = match self.record(&mut forward, &received, response_time) {
            Ok(recording) => Some(recording),
            Err(detail) => {
                // The method says it all where it is not GET; and that nobody waited says less
                // than why the answer is not stored.
                let says_less = matches!(status.detail, None | Some(Detail::HitForMiss));
                if forward.presented.get && says_less {
                    status.detail = Some(detail);
                }
                None
            }
        };
        status.stored = recording.is_some();
        let mut fields = received.fields;
        self.finish(&forward.request, &mut fields);
        let delay = response_time.seconds_since(forward.request_time);
        let age = age_value(&fields).unwrap_or(DeltaSeconds::ZERO).plus(delay);
        let age = (age > DeltaSeconds::ZERO).then_some(age.0);
        add_response_fields(&mut fields, age, false, &status);
        let (body, length) = (received.body, received.length);
        let stats = Arc::clone(&self.stats);
        let relayed = Relayed { body, length, stats, recording, received: 0 };
        Response { status: received.status, fields, body: relayed.into_body() }
    }

    /// Begins to store a response; if it may not be stored, the rule that forbids it, and those who
    /// wait for it are sent away.
    fn record(
        &self,
        forward: &mut Forward,
        received: &OriginResponse,
        response_time: Timestamp,
    ) -> Result<Recording, Detail> {
        let facts = Received {
            status: received.status,
            fields: &received.fields,
            length: received.length,
            request_time: forward.request_time,
            response_time,
        };
        let verdict = if self.settings.reuse.disabled {
            Err(Detail::Disabled)
        } else if received.silently_delimited {
            Err(Detail::CloseDelimited)
        } else {
            storable(&forward.presented, &forward.sent, facts, &self.settings.storing)
        };
        let leader = forward.leader.take();
        match verdict {
            Ok(head) => {
                let (key, begun) = (forward.key.clone(), forward.generation);
                Recording::begin(&self.store, key, head, begun, received.length, leader)
            }
            Err(detail) => {
                if let Some(leader) = leader {
                    leader.unshareable();
                }
                self.drop_replaced(forward, received.status, detail);
                Err(detail)
            }
        }
    }

    /// A stale stored response in the place of one that failed (§4.2.4, RFC 5861 §4).
    pub(super) fn stand_in(
        &self,
        forward: &mut Forward,
        failed: Option<StatusCode>,
    ) -> Option<Response> {
        let now = self.clock.now();
        let stored = forward.stale.take()?;
        if !may_stand_in(&stored, now, &self.settings.reuse) {
            forward.stale = Some(stored);
            return None;
        }
        self.stats.count(Event::Hit);
        self.stats.count(Event::Stale);
        let status = CacheStatus {
            why: Some(forward.why),
            forward_status: failed.map(|status| status.as_u16()),
            freshness_left: stored.freshness_left(now),
            detail: Some(Detail::StaleIfError),
            ..CacheStatus::default()
        };
        Some(self.respond_with(&forward.request, &stored, now, &status))
    }

    /// A response that may not be stored takes away the one it was to replace, unless it was the
    /// request that forbade it, its credentials among it, or the response is an error.
    fn drop_replaced(&self, forward: &Forward, status: StatusCode, forbids: Detail) {
        let Presented { get, range, conditional, directives, .. } = forward.presented;
        let personal = matches!(forbids, Detail::Cookie | Detail::Authorization);
        let about_the_target = get && !range && !conditional && !directives.no_store && !personal;
        if about_the_target
            && !status.is_server_error()
            && let Some(stored) = &forward.stale
        {
            self.store.remove(&forward.key, stored);
        }
    }
}
