//! What a request is between two steps of the engine: answered, parked, or about to wait for the backing
//! store or the origin server. The steps are in `lookup.rs`, `collapse/`, `recall.rs`, `plan.rs` and
//! `receive.rs`; a driver carries out what they ask for.

use std::sync::Arc;

use crate::policy::reason::{Detail, Why};
use crate::policy::response::Response;
use crate::policy::stored::StoredResponse;
use crate::proxy::collapse::{FollowerOutcome, Joined, Parked, Shareable};
use crate::proxy::plan::Fetch;
use crate::proxy::question::Question;

/// How often one request follows others before it asks for itself.
// The first wait may teach which fields select (RFC 9111 §4.1); the second is for a request with the
// same values of these. A request that got nothing out of two would probably wait for a third in vain.
pub(super) const WAITS_MAX: u8 = 2;
/// How often a follower collapses again because what it followed was invalidated; later ones count as waits.
const INVALIDATIONS_MAX: u8 = 8;

/// What is to be done next for a request. No step waits; a driver does, where this says so.
pub enum Next {
    /// The response goes to the client.
    Answer(Answer),
    /// Another request is fetching the response: park, and ask again when there is something.
    Follow(Follow),
    /// The backing store has to be asked: [`Proxy::recall`](crate::proxy::Proxy::recall), the one step that may
    /// wait.
    Recall(Box<Recall>),
    /// The origin server has to be asked.
    Fetch(Box<Fetch>),
}

/// A response for the client.
pub struct Answer {
    /// The response.
    pub response: Response,
    /// What is to be fetched in the background, because the response is stale (RFC 5861 §3); `None` if nothing.
    pub refresh: Option<Box<Refresh>>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self { response, refresh: None }
    }
}

impl From<Response> for Next {
    fn from(response: Response) -> Self {
        Self::Answer(response.into())
    }
}

/// What the cache is to fetch on its own account: [`Proxy::refresh`](crate::proxy::Proxy::refresh).
pub struct Refresh {
    pub(super) question: Question,
    /// What was given out stale.
    pub(super) stored: Arc<StoredResponse>,
}

/// A question to the backing store, and what is done if that has nothing.
pub enum Recall {
    /// The origin server is asked.
    BeforeFetch(Fetch),
    /// The request is refused, for this reason; it must not reach the origin server.
    BeforeRefusal {
        /// What is asked.
        question: Question,
        /// Why it is refused.
        detail: Detail,
    },
    /// Another request is putting the response there, and its content can be read along.
    Underway {
        /// The fetch of its own, should the content not be readable any more.
        otherwise: Fetch,
        /// The response that is on its way.
        shareable: Arc<Shareable>,
    },
}

/// A request that is looked up: for the first time, or after it has followed another.
#[derive(Default)]
pub enum Attempt {
    /// The request has just come.
    #[default]
    First,
    /// The request is resumed: what it followed has an outcome for it.
    Resumed(Box<Resumed>),
}

impl Attempt {
    /// Has the request just come?
    pub fn is_first(&self) -> bool {
        matches!(self, Self::First)
    }
}

/// A request that has followed another, and the outcome.
pub struct Resumed {
    pub(super) question: Question,
    pub(super) history: History,
    pub(super) outcome: FollowerOutcome,
}

/// How often a request has followed others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct History {
    pub waits: u8,
    /// How often what it followed was invalidated; that does not count as a wait.
    pub invalidations: u8,
    /// Why the request would have been forwarded at first; `None` if it has followed none.
    pub first_why: Option<Why>,
}

impl History {
    /// The same, after following once more.
    pub(super) fn waiting(self, why: Why) -> Self {
        // The first reason stays: it is what `fwd=` says of a response that another request has fetched
        // (RFC 9211 §2.2, §2.6).
        let first_why = Some(self.first_why.unwrap_or(why));
        Self { waits: self.waits + 1, first_why, ..self }
    }

    /// What it followed was invalidated: it may wait as if it had not, but not for ever.
    pub(super) fn after_invalidation(self) -> Self {
        // From here on each wait counts. A key that is invalidated all the time would otherwise keep
        // its requests waiting for ever.
        if self.invalidations == INVALIDATIONS_MAX {
            return self;
        }
        Self { waits: self.waits.saturating_sub(1), invalidations: self.invalidations + 1, ..self }
    }
}

/// A request that follows another.
pub struct Follow {
    pub(super) joined: Joined,
    pub(super) question: Box<Question>,
    pub(super) history: History,
}

impl Follow {
    /// Parks the request: `resume` is called, on some other thread or in this very call, with what
    /// [`Proxy::ask`](crate::proxy::Proxy::ask) is to be given then. It must not block.
    pub fn park(self, resume: Box<dyn FnOnce(Attempt) + Send>) {
        let Self { joined, question, history } = self;
        // The closure owns all that is known of the request, so a parked request holds neither a thread
        // nor a lock.
        let parked: Parked = Box::new(move |outcome| {
            resume(Attempt::Resumed(Box::new(Resumed { question: *question, history, outcome })));
        });
        joined.park(parked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalidations_do_not_count_as_waits_up_to_a_bound() {
        let mut history = History::default();
        for round in 1..=20 {
            history = history.waiting(Why::UriMiss).after_invalidation();
            let counted = (history.invalidations, history.waits);
            assert_eq!(
                counted,
                (round.min(INVALIDATIONS_MAX), round.saturating_sub(INVALIDATIONS_MAX))
            );
        }
    }
}
