//! What a request is between two steps of the engine: an answer, a place among those who wait, or
//! something that is on its way to the origin server.

use std::sync::Arc;

use http::Method;

use crate::clock::Timestamp;
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::message::response::Response;
use crate::policy::key::CacheKey;
use crate::policy::reason::{Detail, Why};
use crate::policy::reuse::Presented;
use crate::policy::stored::StoredResponse;
use crate::policy::validation::has_validator;
use crate::proxy::collapse::{FlightKey, Landing, Leader, Outcome, Parked, Seat, Shareable};
use crate::proxy::fill::{Fetched, Filler};
use crate::store::Variants;
use crate::store::tiers::FetchClaim;
use crate::store::underway::Begun;

/// How often a request that waits collapses again because what it waited for was invalidated.
const SENT_BACK_MAX: u8 = 8;

/// What [`lookup`](crate::proxy::Proxy::lookup) found.
pub enum Answer {
    /// The response.
    Ready(Response),
    /// A stale response, and what fetches a new one in the background.
    Stale(Response, Box<Forward>),
    /// The origin server has to be asked.
    Forward(Box<Forward>),
}

/// What [`join`](crate::proxy::Proxy::join) decided.
pub enum Admission {
    /// Go on with [`forward`](crate::proxy::Proxy::forward).
    Lead(Box<Forward>),
    /// Another request is fetching this: park.
    Wait(Waiting),
    /// The response: the origin server has just failed for another request.
    Ready(Response),
}

/// How often a request has waited for another's answer, and what came of it.
#[derive(Default)]
pub struct Attempt {
    pub(super) waits: u8,
    /// How often what it waited for was invalidated; that does not count as waiting.
    pub(super) sent_back: u8,
    pub(super) landing: Option<Landing>,
    pub(super) why: Option<Why>,
    /// What the store behind memory had.
    pub(super) recalled: Option<Recollection>,
}

impl Attempt {
    /// The same, after waiting once more.
    pub(super) fn waiting(self, why: Why) -> Self {
        let why = Some(self.why.unwrap_or(why));
        Self { waits: self.waits + 1, landing: None, why, recalled: None, ..self }
    }

    /// What it waited for was invalidated: it may wait as if it had not, but not for ever.
    pub(super) fn send_back(&mut self) {
        if self.sent_back < SENT_BACK_MAX {
            self.waits = self.waits.saturating_sub(1);
            self.sent_back += 1;
        }
    }

    /// Has it not waited for anyone yet?
    pub fn is_first(&self) -> bool {
        self.waits == 0 && self.sent_back == 0 && self.recalled.is_none()
    }

    /// It has its answer, and hands on what it was given to lead.
    pub(super) fn satisfied(self, stored: &StoredResponse) {
        if let Some(Landing::Lead(leader)) = self.landing {
            // The others find it where this one has found it.
            let is_here = stored.content.here().is_some();
            leader.land(if is_here { &Outcome::Stored } else { &Outcome::Behind });
        }
    }

    /// Why it was to be forwarded, before it got what another request had fetched.
    pub(super) fn waited_for(&self) -> Option<Why> {
        let got = matches!(self.landing, Some(Landing::Stored | Landing::Growing(_)));
        self.why.filter(|_| got)
    }
}

/// A request on its way to the origin server.
pub struct Forward {
    pub(super) request: Arc<Request>,
    /// The method that the origin server is asked with: GET for what is fetched in the background.
    pub(super) method: Method,
    pub(super) presented: Presented,
    pub(super) key: CacheKey,
    pub(super) url: String,
    /// The header section as the origin server gets it, but for what [`Asking`] changes.
    pub(super) sent: Fields,
    pub(super) asking: Asking,
    /// Fingerprint of the selecting header fields, where some are known.
    pub(super) selecting: Vec<u8>,
    pub(super) why: Why,
    pub(super) detail: Option<Detail>,
    /// What fits the request but may not be used as it is.
    pub(super) selected: Option<Arc<StoredResponse>>,
    /// What was stored at the time of the lookup.
    pub(super) found: Option<Variants>,
    pub(super) request_time: Timestamp,
    pub(super) begun: Begun,
    pub(super) attempt: Attempt,
    pub(super) leader: Option<Leader>,
    /// Nobody waits for the answer.
    pub(super) background: bool,
    /// The store behind memory is still to be asked.
    pub(super) recalls: bool,
    /// It does not go to the origin server: if the store behind memory has nothing either, this is the
    /// reason.
    pub(super) refused: Option<Detail>,
    /// Other proxies may wait for the answer.
    pub(super) claim: FetchClaim,
    /// The answer is on its way into the store behind memory, and can be read there.
    pub(super) follows: Option<Arc<Shareable>>,
}

impl Forward {
    /// What this request collapses with: those that ask for the same, with the same values of the fields
    /// that are known to select, and the same ranges. Takes the selecting fields out.
    pub(super) fn flight_key(&mut self) -> FlightKey {
        let mut selecting = std::mem::take(&mut self.selecting);
        if let Some(range) = self.request.fields.get("range").filter(|_| self.presented.range) {
            selecting.extend_from_slice(b"\nrange:");
            selecting.extend_from_slice(range.as_bytes());
        }
        FlightKey { key: self.key.clone(), selecting }
    }

    /// It is the one that asks for all who wait; what was invalidated before it began is not its business.
    pub(super) fn lead(&mut self, leader: Leader) {
        leader.renew(&self.begun);
        self.leader = Some(leader);
    }
}

/// What the origin server is asked for.
pub(super) enum Asking {
    /// What the client asks for.
    AsItIs,
    /// Whether this one still holds (§4.3.1).
    Whether(Arc<StoredResponse>),
    /// The rest of this one (§3.3).
    Rest(Arc<StoredResponse>),
    /// The whole, without a condition.
    Whole,
}

impl Asking {
    /// What to ask about a stored response that fits, but may not be used as it is.
    pub(super) fn about(stored: &Arc<StoredResponse>, validate: bool) -> Self {
        if validate && has_validator(&stored.fields) {
            Self::Whether(Arc::clone(stored))
        } else {
            Self::AsItIs
        }
    }
}

/// What [`forward`](crate::proxy::Proxy::forward) brought: a response, and what has to be run to its
/// end by someone who can wait, if its body is still to be fetched.
pub struct Forwarded {
    /// The response.
    pub response: Response,
    /// What moves its growing body along.
    pub filler: Option<Box<Filler>>,
    /// What is to be fetched in the background.
    pub refresh: Option<Box<Forward>>,
}

impl Forwarded {
    /// The response alone, with a body that is fetched by whoever reads it.
    pub fn into_response(self) -> Response {
        let Self { response: Response { status, fields, body }, filler, .. } = self;
        let body = match (body, filler) {
            (Body::Growing(reader), Some(filler)) => Fetched { filler, reader }.into_body(),
            (body, Some(filler)) => {
                // The client does not need it, and it is worth keeping.
                filler.run();
                body
            }
            (body, None) => body,
        };
        Response { status, fields, body }
    }

    /// Fetches what is to be stored, and drops the rest: for what was asked in the background.
    pub fn finish(self) {
        drop(self.response);
        if let Some(filler) = self.filler {
            filler.run();
        }
    }
}

impl From<Response> for Forwarded {
    fn from(response: Response) -> Self {
        Self { response, filler: None, refresh: None }
    }
}

/// A request that waits for another's answer.
pub struct Waiting {
    pub(super) seat: Seat,
    pub(super) attempt: Attempt,
}

impl Waiting {
    /// Parks the request: `resume` is called, on some other thread or in this very call, with what
    /// [`lookup`](crate::proxy::Proxy::lookup) is to be given then. It must not block.
    pub fn park(self, resume: Box<dyn FnOnce(Attempt) + Send>) {
        let mut attempt = self.attempt;
        let parked: Parked = Box::new(move |landing| {
            attempt.landing = Some(landing);
            resume(attempt);
        });
        self.seat.park(parked);
    }
}

/// What has been recalled, and the fetch that it was recalled for, with the state of the store behind
/// memory then.
pub struct Recollection {
    pub(super) variants: Variants,
    pub(super) begun: Begun,
}

/// How a request goes on that has asked the store behind memory.
pub(super) enum Recall {
    /// To the origin server.
    GoOn(Box<Forward>),
    /// It has its answer.
    Done(Forwarded),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_back_so_often_and_then_it_has_waited() {
        let mut attempt = Attempt::default();
        assert!(attempt.is_first());
        for round in 1..=20 {
            attempt = attempt.waiting(Why::UriMiss);
            attempt.send_back();
            let counted = (attempt.sent_back, attempt.waits);
            assert_eq!(counted, (round.min(SENT_BACK_MAX), round.saturating_sub(SENT_BACK_MAX)));
            assert!(!attempt.is_first(), "it is counted once");
        }
    }
}
