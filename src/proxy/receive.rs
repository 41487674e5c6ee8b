//! What is done with the origin server's response: stored or not, passed on, or replaced by a stale
//! one. RFC 9111 §3, §4.2.4, §4.4.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{Method, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::body::Body;
use crate::message::content::Slice;
use crate::message::fields::Fields;
use crate::message::response::Response;
use crate::origin::{OriginBody, OriginError, OriginResponse};
use crate::policy::age::age_value;
use crate::policy::forwarding::{complete_received, strip_received};
use crate::policy::invalidation::{describes_target, invalidates, named};
use crate::policy::limited::counts_as;
use crate::policy::partial::without_digests;
use crate::policy::precondition::{holds_for, keep_for_304};
use crate::policy::range::Part;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::reuse::{Judgement, Presented, judge, may_stand_in, wants_the_error};
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::storing::Received;
use crate::policy::unkeyed::is_unkeyed;
use crate::policy::validation::{confirms, make_unconditional, merged};
use crate::proxy::collapse::{Failed, Outcome};
use crate::proxy::fill::again::Again;
use crate::proxy::fill::{Fetched, Filler, PIECE_BYTES, Progress, Relayed};
use crate::proxy::freshen::facts;
use crate::proxy::{Asking, Forward, Forwarded, Proxy};
use crate::stats::Counter;

/// What becomes of a response that has come.
struct Kept {
    /// Its content, as the client gets it.
    body: Body,
    /// What moves that along, if it is still to be fetched.
    filler: Option<Box<Filler>>,
    /// Why it is not stored, or will not be, as far as that is known as the head goes out.
    refusal: Option<Detail>,
}

impl Proxy {
    /// A response has come: stores it if it may be stored, and passes it on (§3).
    pub(super) fn absorb(
        &self,
        mut forward: Box<Forward>,
        mut received: OriginResponse,
    ) -> Forwarded {
        let response_time = self.clock.now();
        if let Asking::Whether(stored) = &forward.asking
            && received.status == StatusCode::NOT_MODIFIED
            && confirms(stored, &received.fields, response_time)
        {
            let stored = Arc::clone(stored);
            return self.freshen(forward, &stored, received).into();
        }
        let counted = counts_as(received.status, &received.fields);
        if is_failure(counted)
            && let Some(response) = self.stand_in(&mut forward, Some(received.status), None)
        {
            tell_of_failure(&mut forward, counted);
            return response.into();
        }
        complete_received(&mut received.fields, received.version, response_time);
        self.invalidate(&mut forward, &received);
        if forward.presented.head && received.status == StatusCode::OK {
            self.freshen_by_head(&forward, &received, response_time);
        }
        let mut status = CacheStatus {
            why: Some(forward.why),
            forward_status: Some(received.status.as_u16()),
            detail: forward.detail,
            ..CacheStatus::default()
        };
        if let Asking::Rest(prefix) = &forward.asking
            && received.status == StatusCode::PARTIAL_CONTENT
        {
            let prefix = Arc::clone(prefix);
            received = completed(&prefix, received);
        }
        let kept = match self.keep(&mut forward, &mut received, response_time) {
            Ok(kept) => kept,
            Err(error) => return self.fail(forward, &error).into(),
        };
        status.stored = kept.refusal.is_none();
        if let Some(detail) = kept.refusal {
            // That nobody waited, or how it was asked for, says less than why it is not stored.
            let says_less = matches!(
                status.detail,
                None | Some(Detail::HitForMiss | Detail::Validator | Detail::Rest)
            );
            if says_less && detail != Detail::Method {
                status.detail = Some(detail);
            }
            self.tell_of_credentials(&forward, detail);
        }
        self.pass_on(&forward, received, kept, response_time, &status)
    }

    /// Says once in the log that a response is not stored because of the request's credentials: it is
    /// what puzzles those who put a cache before an API.
    fn tell_of_credentials(&self, forward: &Forward, detail: Detail) {
        let personal = forward.presented.get && forward.presented.personal() == Some(detail);
        if personal && !self.told_of_credentials.swap(true, Ordering::Relaxed) {
            log::info!(
                "{}: not stored, because the request has credentials and the response does not say \
                 that it may be shared (detail={}); see --share-credentials. Further ones are not \
                 logged",
                forward.key.redacted(),
                detail.as_str()
            );
        }
    }

    /// What the client gets of a response that has come.
    fn pass_on(
        &self,
        forward: &Forward,
        received: OriginResponse,
        kept: Kept,
        response_time: Timestamp,
        told: &CacheStatus,
    ) -> Forwarded {
        let OriginResponse { status, fields, .. } = received;
        // The client's condition gave way to ours; what has come may be what it has (§4.3.2).
        let has_it = forward.presented.conditional
            && matches!(forward.asking, Asking::Whether(_) | Asking::Whole)
            && holds_for(&forward.request.fields, status, &fields, response_time);
        let mut fields = self.passed_on(forward, fields, response_time, told);
        if has_it {
            keep_for_304(&mut fields);
            let filler = kept.filler;
            let (status, body) = (StatusCode::NOT_MODIFIED, Body::None { length: None });
            let response = Response { status, fields, body };
            return Forwarded { response, filler, refresh: None };
        }
        let Kept { body, filler, .. } = kept;
        Forwarded { response: Response { status, fields, body }, filler, refresh: None }
    }

    /// A response's fields on their way to the client that asked for it.
    fn passed_on(
        &self,
        forward: &Forward,
        mut fields: Fields,
        response_time: Timestamp,
        status: &CacheStatus,
    ) -> Fields {
        let delay = response_time.seconds_since(forward.request_time);
        let age = age_value(&fields).unwrap_or(DeltaSeconds::ZERO).plus(delay);
        let age = (age > DeltaSeconds::ZERO).then_some(age.0);
        strip_received(&mut fields);
        self.finish(&forward.request, &mut fields, age, false, status);
        fields
    }

    /// §4.4: what is stored for the target URI, for those that the response names, and for the destination
    /// of a MOVE or COPY, is out of date. Nothing that is on its way in is stored after it.
    fn invalidate(&self, forward: &mut Forward, received: &OriginResponse) {
        if !invalidates(&forward.method, received.status) {
            return;
        }
        // Its own invalidation is not what keeps its response out, but those of others are, also where only
        // its head tells whether they mean it.
        let own = Some(&forward.begun);
        let shaped = self.settings.key.key_of(forward.key.as_str());
        let named = named(&forward.key, &received.fields, &self.settings.key);
        for key in named.into_iter().chain(self.destination_key(&forward.request)) {
            self.store.invalidate(&key, own);
        }
        self.store.invalidate(&shaped, own);
        self.store.invalidate(&forward.key, own);
        forward.key = shaped;
    }

    /// Stores the response, or begins to; or says which rule forbids it, and sends away those who wait
    /// for it.
    fn keep(
        &self,
        forward: &mut Forward,
        received: &mut OriginResponse,
        response_time: Timestamp,
    ) -> Result<Kept, OriginError> {
        let verdict = self.verdict(forward, received, response_time);
        let length = received.length;
        let begun = verdict.and_then(|head| {
            let (key, begun) = (forward.key.clone(), forward.begun.clone());
            self.store.begin(key, head, begun, length)
        });
        let leader = forward.leader.take();
        let (recording, content) = match begun {
            Ok(begun) => begun,
            Err(detail) => {
                let refusal = Some(detail);
                if let Some(leader) = leader {
                    leader.land(&forward.outcome(received.status, detail));
                }
                let counted = counts_as(received.status, &received.fields);
                self.drop_replaced(forward, counted, detail);
                let key = &forward.key;
                let body = Relayed::body(received.body.take(), length, key, &self.stats);
                let body = body.map_err(|error| self.cut(&error))?;
                return Ok(Kept { body, filler: None, refusal });
            }
        };
        let Some(body) = received.body.take() else {
            let put = recording.commit(Bytes::new()).wait();
            if let Some(leader) = leader {
                leader.land(&put.into());
            }
            let body = Body::None { length };
            return Ok(Kept { body, filler: None, refusal: put.refusal() });
        };
        let (rules, anybody) = (&self.settings.reuse, Presented::default());
        let shareable =
            judge(&anybody, recording.head(), false, response_time, rules) == Judgement::Usable;
        let again = leader.is_some().then(|| self.again(forward)).flatten();
        let claim = std::mem::take(&mut forward.claim);
        let recording = recording.under(claim);
        let fetched = Filler::begin(body, length, recording, content, leader, again, &self.stats);
        self.begin_to_fill(forward, fetched, shareable)
    }

    /// A response whose content did not come, and of which nothing has been passed on yet.
    pub(super) fn cut(&self, error: &io::Error) -> OriginError {
        let origin = self.settings.origin.to_string();
        OriginError::Cut { origin, what: error.to_string() }
    }

    /// How to ask once more for what `forward` has asked for.
    fn again(&self, forward: &Forward) -> Option<Again> {
        if matches!(forward.asking, Asking::Rest(_)) || self.settings.follow_redirects {
            return None;
        }
        let mut fields = forward.sent.clone();
        match forward.asking {
            Asking::Whole => make_unconditional(&mut fields),
            _ => fields.retain(|name, _| *name != IF_NONE_MATCH && *name != IF_MODIFIED_SINCE),
        }
        Some(Again {
            origin: Arc::clone(&self.origin),
            url: forward.url.clone(),
            host: self.passed_on_host(&forward.request).map(Cow::into_owned),
            fields,
            stats: Arc::clone(&self.stats),
        })
    }

    /// Fetches the first piece of a short body before its head is passed on: most come with the head,
    /// and if nothing comes there is still time to say so.
    fn begin_to_fill(
        &self,
        forward: &mut Forward,
        mut fetched: Fetched,
        shareable: bool,
    ) -> Result<Kept, OriginError> {
        let filler = &mut fetched.filler;
        if !shareable {
            filler.keep_to_oneself();
        }
        let short = filler.length().filter(|length| *length <= PIECE_BYTES as u64);
        if let Some(length) = short {
            let mut piece = vec![0; length.max(1) as usize];
            match filler.step(&mut piece) {
                Progress::More => {}
                Progress::Whole => {
                    let (content, refusal) = (filler.whole(), filler.refusal());
                    let grown = || Body::Growing(fetched.reader);
                    let body = content.map_or_else(grown, Body::Whole);
                    return Ok(Kept { body, filler: None, refusal });
                }
                Progress::Lost => {
                    forward.leader = filler.leader();
                    return Err(self.cut(&io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        filler.share();
        filler.begin_to_pass_on();
        let refusal = filler.refusal();
        let Fetched { filler, reader } = fetched;
        Ok(Kept { body: Body::Growing(reader), filler: Some(filler), refusal })
    }

    /// May the response be stored (§3)?
    fn verdict(
        &self,
        forward: &Forward,
        received: &OriginResponse,
        response_time: Timestamp,
    ) -> Result<StoredHead, Detail> {
        if self.settings.reuse.disabled {
            return Err(Detail::Disabled);
        }
        if received.silently_delimited {
            return Err(Detail::CloseDelimited);
        }
        // What speaks of another host or method may have shaped it, and a GET would not have.
        let is_plain = || !forward.sent.iter().any(|(name, _)| is_unkeyed(name.as_str()));
        let posted = forward.method == Method::POST && is_plain();
        let facts = Received {
            part: Part::of_response(received.status, &received.fields)
                .filter(|_| forward.presented.range),
            leads_nowhere: self.leads_nowhere(&forward.request, received.status, &received.fields),
            describes_target: posted
                && describes_target(&forward.key, &received.fields, &self.settings.key),
            ..facts(forward, received, response_time)
        };
        self.storable(&forward.presented, &forward.sent, facts)
    }

    /// A stale stored response in the place of one that failed (§4.2.4, RFC 5861 §4).
    pub(super) fn stand_in(
        &self,
        forward: &mut Forward,
        failed: Option<StatusCode>,
        detail: Option<Detail>,
    ) -> Option<Response> {
        let now = self.clock.now();
        let stored = forward.selected.as_ref()?;
        let rules = &self.settings.reuse;
        if forward.background
            || failed.is_some() && wants_the_error(&forward.presented, rules)
            || !may_stand_in(&forward.presented, stored, now, rules)
        {
            return None;
        }
        self.stats.count(Counter::Hit);
        self.stats.count(Counter::Stale);
        let status = CacheStatus {
            why: Some(forward.why),
            forward_status: failed.map(|status| status.as_u16()),
            freshness_left: stored.freshness_left(now),
            detail: detail.or(Some(Detail::StaleIfError)),
            ..CacheStatus::default()
        };
        Some(self.respond_with(&forward.request, forward.presented, stored, now, &status))
    }

    /// Is there something that could stand in, should the origin server fail?
    pub(super) fn has_stand_in(&self, forward: &Forward) -> bool {
        let (now, rules) = (self.clock.now(), &self.settings.reuse);
        let stored = forward.selected.as_ref();
        stored.is_some_and(|stored| may_stand_in(&forward.presented, stored, now, rules))
    }

    /// A response that may not be stored takes away the one it was to replace, unless it was the
    /// request that forbade it, its credentials among it, or the response is an error.
    fn drop_replaced(&self, forward: &Forward, status: StatusCode, forbids: Detail) {
        if forward.is_about_the_target(forbids)
            && !is_passing(status)
            && !status.is_server_error()
            && let Some(stored) = &forward.selected
        {
            self.store.remove(&forward.key, stored);
        }
    }
}

impl Forward {
    /// What a response with this status that may not be stored means for those who wait for it, and for
    /// those who come next: what is about this one request says nothing about theirs.
    pub(super) fn outcome(&self, status: StatusCode, forbids: Detail) -> Outcome {
        match (Outcome::of(Some(forbids)), forbids) {
            (outcome, _) if !outcome.is_remembered() => outcome,
            (_, Detail::Cookie | Detail::Authorization | Detail::Credentials) => Outcome::Personal,
            (outcome, _) if self.is_about_the_target(forbids) && !is_passing(status) => outcome,
            _ => Outcome::NotNow,
        }
    }

    /// Does a refusal to store say something about the target, not only about this request?
    pub(super) fn is_about_the_target(&self, forbids: Detail) -> bool {
        let personal = matches!(
            forbids,
            Detail::Cookie
                | Detail::Authorization
                | Detail::Credentials
                | Detail::Memory
                | Detail::Method
                | Detail::Cleared
        );
        self.presented.get && !self.presented.directives.no_store && !personal
    }
}

/// Those who wait for a response that has failed need not ask themselves, unless it is about the credentials
/// of the client that asked: its quota, say.
fn tell_of_failure(forward: &mut Forward, status: StatusCode) {
    if let Some(leader) = forward.leader.take() {
        let text = format!("the origin server answered {} to another request", status.as_u16());
        let failed = Failed { status, detail: Detail::StaleIfError, text };
        leader.land(&Outcome::failed(failed));
    }
}

/// Statuses that are about one request, or one moment, more than about the target.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 206 | 304 | 408 | 412 | 416 | 429)
}

/// Statuses that say that the origin server cannot answer now.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// The whole response, of a part from the front and the rest that has come (§3.4).
fn completed(prefix: &StoredResponse, mut received: OriginResponse) -> OriginResponse {
    let complete = Part::read(&received.fields).and_then(|part| part.complete);
    let mut fields = merged(prefix, &received.fields);
    fields.remove("content-range");
    without_digests(&mut fields);
    received.fields = fields;
    received.status = StatusCode::OK;
    received.length = complete;
    received.body = received.body.map(|rest| -> Box<dyn OriginBody> {
        Box::new(Completed { prefix: prefix.content.slice(0, prefix.content.len()), rest })
    });
    received
}

/// What is stored of a body, and then the rest of it.
struct Completed {
    prefix: Slice,
    rest: Box<dyn OriginBody>,
}

impl OriginBody for Completed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.prefix.is_empty() { self.rest.read(buffer) } else { self.prefix.read(buffer) }
    }
}
