//! What is done with the head of the origin server's response: ask again, freshen, replace it by a stale
//! response, or begin to store it and to pass it on. RFC 9111 §3, §4.2.4, §4.4.
//!
//! The duty of a fetch that failed, or brought nothing to store, is settled here; that of a response that is
//! being stored, by its sink (`fill/sink.rs`).

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::clock::Timestamp;
use crate::message::body::Body;
use crate::origin::{OriginError, OriginHead, RequestHead};
use crate::policy::forwarding::complete_received;
use crate::policy::invalidation::{describes_target, invalidates, may_change, named};
use crate::policy::limited::counts_as;
use crate::policy::partial::{completes, without_digests};
use crate::policy::range::Part;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::redirect::{REDIRECTS_MAX, followed, strip_for_elsewhere};
use crate::policy::response::Response;
use crate::policy::reuse::{Judgement, Presented, judge, may_stand_in, wants_the_error};
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::storing::Received;
use crate::policy::unkeyed::is_unkeyed;
use crate::policy::validation::{confirms, merged};
use crate::proxy::Proxy;
use crate::proxy::collapse::{Duty, Failed, Outcome, Scope};
use crate::proxy::fill::{Incoming, IncomingContent, Sink, commit_in_memory};
use crate::proxy::freshen::facts;
use crate::proxy::next::Answer;
use crate::proxy::plan::{Asks, Fetch, FollowedRedirect, Forward, Plan};
use crate::stats::Counter;

/// What is done next when the head of the origin server's response has come.
pub enum AfterHead {
    /// The response is of no use: ask again, by another plan. Its content is not needed.
    AskAgain(Box<Fetch>),
    /// The client gets what is stored. The content is not needed.
    Answer(Answer),
    /// The client gets the response; its content is to be fetched.
    Begun(Box<Incoming>),
}

impl Proxy {
    /// The head of the origin server's response has come: decides what is done with it. Never waits.
    pub fn receive(&self, mut fetch: Box<Fetch>, head: OriginHead) -> AfterHead {
        // Read once: all that is decided about the response follows from this moment (§4.2.3).
        let response_time = self.clock.now();
        self.stats.count(Counter::OriginRequest);
        match self.redirected(&fetch, &head) {
            None => {}
            Some(Ok(plan)) => return AfterHead::AskAgain(Box::new(Fetch { plan, ..*fetch })),
            Some(Err(error)) => return AfterHead::Answer(self.fail_fetch(fetch, &error)),
        }
        if let Some(detail) = self.why_ask_again(&fetch, &head, response_time) {
            fetch.forward.detail = Some(detail);
            return AfterHead::AskAgain(Box::new(Fetch { plan: Plan::new(Asks::Whole), ..*fetch }));
        }
        // Once for a request, however often the origin server was asked for it.
        self.stats.count_forwarded(fetch.forward.why);
        if let Asks::Whether(stored) = &fetch.plan.asks
            && head.status == StatusCode::NOT_MODIFIED
        {
            // It confirms what was offered, or it would have been asked again.
            let stored = Arc::clone(stored);
            return AfterHead::Answer(self.freshen(*fetch, &stored, head, response_time).into());
        }
        // A 403 that only limits is a 429 (RFC 6585 §4), and says nothing about the target.
        let counted = counts_as(head.status, &head.fields);
        if is_failure(counted)
            && let Some(response) = self.stand_in(&fetch.forward, Some(head.status), None)
        {
            fetch.duty.settle(&failure(counted));
            return AfterHead::Answer(response.into());
        }
        AfterHead::Begun(Box::new(self.begin_response(*fetch, head, response_time)))
    }

    /// The origin server has failed: a stale response stands in, or the answer is an error (502, 504, 500). A
    /// client whose own content could not be read is answered with that (4xx).
    pub fn fail(&self, fetch: Box<Fetch>, error: &OriginError) -> Answer {
        // What was held back here has not been sent.
        if !error.spared_it() {
            self.stats.count(Counter::OriginRequest);
        }
        if !error.undelivered() {
            self.invalidate_unanswered(&fetch);
        }
        self.fail_fetch(fetch, error)
    }

    /// Nobody waits for the answer to this request any more, which the origin server may have begun to carry out.
    pub fn abandon(&self, fetch: &Fetch) {
        self.stats.count(Counter::OriginRequest);
        self.stats.count_forwarded(fetch.forward.why);
        self.invalidate_unanswered(fetch);
        // Dropped, the duty hands over to a follower.
    }

    /// The same where the request that failed is counted already.
    fn fail_fetch(&self, fetch: Box<Fetch>, error: &OriginError) -> Answer {
        self.stats.count_forwarded(fetch.forward.why);
        let Fetch { forward, duty, .. } = *fetch;
        settle_failure(duty, error);
        self.fail_forward(&forward, error).into()
    }

    /// How to follow a redirect, if the operator wants it followed (`--follow-redirects`).
    pub(super) fn redirected(
        &self,
        fetch: &Fetch,
        head: &OriginHead,
    ) -> Option<Result<Plan, OriginError>> {
        let question = &fetch.forward.question;
        // A redirect is followed without content: that would be another question.
        let follows = self.settings.follow_redirects
            && !question.presented.content
            && matches!(question.method, Method::GET | Method::HEAD);
        if !follows {
            return None;
        }
        // Relative references are resolved against the URL of the last request, not the first.
        let before = self.head(fetch);
        let next = followed(&before.url, head.status, &head.fields)?;
        let redirects = fetch.plan.redirect.as_ref().map_or(0, |redirect| redirect.count);
        if redirects == REDIRECTS_MAX {
            return Some(Err(OriginError::Redirects { followed: redirects }));
        }
        let mut there = RequestHead { url: next.url, ..before };
        if next.is_elsewhere {
            // What the client says to one server is not for another's ears, nor by which name it knows it.
            strip_for_elsewhere(Arc::make_mut(&mut there.fields));
            there.host = None;
        }
        let redirect = FollowedRedirect { head: there, count: redirects + 1 };
        let asks = fetch.plan.asks.clone();
        Some(Ok(Plan { asks, redirect: Some(Box::new(redirect)) }))
    }

    /// Why the response is of no use, because of how the origin server was asked: then it is asked for the
    /// whole, without a condition.
    fn why_ask_again(&self, fetch: &Fetch, head: &OriginHead, now: Timestamp) -> Option<Detail> {
        let Fetch { forward, plan, .. } = fetch;
        match (&plan.asks, head.status) {
            // §4.3.4: it is about a representation that is not stored.
            (Asks::Whether(stored), StatusCode::NOT_MODIFIED)
                if !confirms(stored, &head.fields, now) =>
            {
                Some(Detail::Validator)
            }
            (Asks::Rest(_), StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_MODIFIED) => {
                Some(Detail::Rest)
            }
            (Asks::Rest(prefix), StatusCode::PARTIAL_CONTENT) => {
                let facts = Received {
                    part: Part::of_response(head.status, &head.fields),
                    ..facts(forward, head, now)
                };
                let part =
                    self.storable(&forward.question.presented, self.sent(&forward.question), facts);
                if part.is_ok_and(|part| completes(&part, head.length, prefix)) {
                    return None;
                }
                // The part would be asked to be completed again and again.
                self.cache.remove(&forward.key, prefix);
                Some(Detail::Rest)
            }
            _ => None,
        }
    }

    /// The response goes to the client, and into the cache if it may be stored (§3).
    fn begin_response(&self, fetch: Fetch, mut head: OriginHead, now: Timestamp) -> Incoming {
        complete_received(&mut head.fields, head.version, now);
        // Before the response is stored: it must not be among those that it invalidates.
        self.invalidate(&fetch, &head);
        let Fetch { forward, plan, duty } = fetch;
        if forward.question.presented.head && head.status == StatusCode::OK {
            self.freshen_by_head(&forward, duty.begun(), &head, now);
        }
        let mut incoming = Incoming::new(forward, plan, head, now);
        if incoming.head.status == StatusCode::PARTIAL_CONTENT
            && let Asks::Rest(prefix) = &incoming.plan.asks
        {
            complete(prefix, &mut incoming.head);
            incoming.prefix = Some(prefix.content.slice(0, prefix.content.len()));
        }
        incoming.content = self.keep(&incoming, duty);
        incoming
    }

    /// Begins to store the response; if a rule forbids it, followers learn that at once.
    fn keep(&self, incoming: &Incoming, duty: Duty) -> IncomingContent {
        let Incoming { forward, head, response_time, .. } = incoming;
        // A HEAD's length is that of a GET's content; here nothing will come.
        let length = if head.has_content { head.length } else { Some(0) };
        let begun = self.verdict(forward, head, *response_time).and_then(|stored| {
            self.cache.begin(forward.key.clone(), stored, duty.begun().clone(), length)
        });
        match begun {
            Ok((recording, _)) if !head.has_content => {
                let put = commit_in_memory(recording, Bytes::new());
                duty.settle(&put.into());
                let body = Body::None { length: head.length };
                IncomingContent::Ended { body, refusal: put.refusal() }
            }
            Ok((recording, buffer)) => {
                // Judged for anybody: requests that follow may have none of this client's credentials or
                // directives.
                let (rules, anybody) = (&self.settings.reuse, Presented::default());
                let shareable = judge(&anybody, recording.head(), false, *response_time, rules)
                    == Judgement::Usable;
                let (sink, reader) = Sink::storing(length, recording, buffer, duty, shareable);
                IncomingContent::Storing(Box::new(sink), reader)
            }
            Err(refusal) => {
                // Those who follow ask at once, and need not wait for content that is not theirs.
                duty.settle(&forward.outcome(head.status, refusal));
                self.drop_replaced(forward, counts_as(head.status, &head.fields), refusal);
                incoming.refused(refusal)
            }
        }
    }

    /// §4.4: what is stored for the target URI, for those that the response names, and for the destination
    /// of a MOVE or COPY, is out of date. Nothing that is on its way in is stored after it.
    fn invalidate(&self, fetch: &Fetch, head: &OriginHead) {
        let (question, duty) = (&fetch.forward.question, &fetch.duty);
        if !invalidates(&question.method, head.status) {
            return;
        }
        // Its own invalidation is not what keeps its response out, but those of others are, also where only
        // its head tells whether they mean it.
        let own = Some(duty.begun());
        for key in named(&question.key, &head.fields, &self.settings.key) {
            self.cache.invalidate(&key, own);
        }
        self.invalidate_target(fetch);
    }

    /// The same for a request that has no answer: it may have done what it was to do (§4.4).
    fn invalidate_unanswered(&self, fetch: &Fetch) {
        if may_change(&fetch.forward.question.method) {
            self.invalidate_target(fetch);
        }
    }

    /// What is stored for the target URI, and for a destination that the request names, is out of date.
    fn invalidate_target(&self, fetch: &Fetch) {
        let Fetch { forward, duty, .. } = fetch;
        let (question, own) = (&forward.question, Some(duty.begun()));
        let destination = self.settings.destination_key(&question.request);
        for key in destination.iter().chain([&forward.key, &question.key]) {
            self.cache.invalidate(key, own);
        }
    }

    /// May the response be stored (§3)?
    fn verdict(
        &self,
        forward: &Forward,
        head: &OriginHead,
        response_time: Timestamp,
    ) -> Result<StoredHead, Detail> {
        // Before the rules of §3: neither of these two is about what the fields of the response say.
        if self.settings.reuse.disabled {
            return Err(Detail::Disabled);
        }
        if head.silently_delimited {
            return Err(Detail::CloseDelimited);
        }
        let question = &forward.question;
        let (request, status) = (&question.request, head.status);
        // What speaks of another host or method may have shaped it, and a GET would not have.
        let is_plain = || !self.sent(question).iter().any(|(name, _)| is_unkeyed(name.as_str()));
        let posted = question.method == Method::POST && is_plain();
        let facts = Received {
            part: Part::of_response(status, &head.fields).filter(|_| question.presented.range),
            leads_nowhere: self.settings.leads_nowhere(request, status, &head.fields),
            describes_target: posted
                && describes_target(&forward.key, &head.fields, &self.settings.key),
            ..facts(forward, head, response_time)
        };
        self.storable(&question.presented, self.sent(question), facts)
    }

    /// A stale stored response in place of one that failed (§4.2.4, RFC 5861 §4); `None` if that is not permitted,
    /// or nothing is stored. `failed` is the status of the origin server's error, `None` if it did not answer.
    pub(super) fn stand_in(
        &self,
        forward: &Forward,
        failed: Option<StatusCode>,
        detail: Option<Detail>,
    ) -> Option<Response> {
        // The present, not the time of the request: the origin server may have taken long to fail, and
        // what stands in has a bound.
        let now = self.clock.now();
        let stored = forward.selected.as_ref()?;
        let (question, rules) = (&forward.question, &self.settings.reuse);
        let presented = &question.presented;
        if !question.has_client()
            || failed.is_some() && wants_the_error(presented, rules)
            || !may_stand_in(presented, stored, now, rules)
        {
            return None;
        }
        self.stats.count(Counter::Hit);
        self.stats.count(Counter::Stale);
        let status = CacheStatus {
            from_cache: true,
            why: Some(forward.why),
            forward_status: failed.map(|status| status.as_u16()),
            freshness_left: stored.freshness_left(now),
            detail: detail.or(Some(Detail::StaleIfError)),
            ..CacheStatus::default()
        };
        Some(self.respond_with(question, stored, now, status))
    }

    /// Is there something that could stand in, should the origin server fail?
    pub(super) fn has_stand_in(&self, forward: &Forward) -> bool {
        let (presented, rules) = (&forward.question.presented, &self.settings.reuse);
        let stored = forward.selected.as_ref();
        stored.is_some_and(|stored| may_stand_in(presented, stored, self.clock.now(), rules))
    }

    /// A response that may not be stored takes away the one it was to replace, unless it was the
    /// request that forbade it, its credentials among it, or the response is an error.
    fn drop_replaced(&self, forward: &Forward, status: StatusCode, forbids: Detail) {
        if forward.is_about_the_target(forbids)
            && !is_passing(status)
            && !status.is_server_error()
            && let Some(stored) = &forward.selected
        {
            self.cache.remove(&forward.key, stored);
        }
    }
}

impl Forward {
    /// The outcome of a response with this status that may not be stored, for its followers and for the requests
    /// that come next: a refusal that is about this one request says nothing about theirs.
    pub(super) fn outcome(&self, status: StatusCode, forbids: Detail) -> Outcome {
        match (Outcome::of(Some(forbids)), forbids) {
            (outcome, _) if !outcome.is_remembered() => outcome,
            (_, Detail::Cookie | Detail::Authorization | Detail::Credentials) => {
                Outcome::Unshareable(Scope::Credentials)
            }
            (outcome, _) if self.is_about_the_target(forbids) && !is_passing(status) => outcome,
            _ => Outcome::Unshareable(Scope::Request),
        }
    }

    /// Does a refusal to store say something about the target, not only about this request?
    pub(super) fn is_about_the_target(&self, forbids: Detail) -> bool {
        let personal = matches!(
            forbids,
            Detail::Cookie
                | Detail::Authorization
                | Detail::Credentials
                | Detail::Bound
                | Detail::Memory
                | Detail::Method
                | Detail::Cleared
        );
        let presented = &self.question.presented;
        presented.get && !presented.directives.no_store && !personal
    }
}

/// The outcome of a response that is an error: followers need not ask themselves, unless the error is about the
/// credentials of the client that asked: its quota, say.
fn failure(status: StatusCode) -> Outcome {
    let text = format!("the origin server answered {} to another request", status.as_u16());
    let (detail, another_may_try) = (Detail::StaleIfError, false);
    Outcome::failed(Failed { status, detail, text, another_may_try })
}

/// Settles the duty of a fetch that the origin server gave no response for.
pub(super) fn settle_failure(duty: Duty, error: &OriginError) {
    let another_may_try = match error {
        // The content was this client's: dropped, the duty hands over to a follower.
        OriginError::Content(_) => return,
        // The limit may not be that of the clients that follow.
        OriginError::HeldBack { .. } => return duty.settle(&Outcome::Unshareable(Scope::Request)),
        OriginError::Closed { .. } | OriginError::Cut { .. } => true,
        // Nobody else need try.
        _ => false,
    };
    let (status, detail, text) = (error.status(), error.detail(), error.to_string());
    duty.settle(&Outcome::failed(Failed { status, detail, text, another_may_try }));
}

/// Statuses that are about one request, or one moment, more than about the target.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 206 | 304 | 408 | 412 | 416 | 429)
}

/// Statuses that say that the origin server cannot answer now.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// Makes the head of the whole response of that of the rest, which has come, and the part before it (§3.4).
fn complete(prefix: &StoredResponse, head: &mut OriginHead) {
    let complete = Part::read(&head.fields).and_then(|part| part.complete);
    let mut fields = merged(prefix, &head.fields);
    fields.remove("content-range");
    without_digests(&mut fields);
    (head.fields, head.status, head.length) = (fields, StatusCode::OK, complete);
}
