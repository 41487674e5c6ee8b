//! What a request that asks the origin server owes to others.
//!
//! The others are the requests that follow it, the other proxies that wait for the same response in a shared
//! store, and operators and clients who invalidate what the fetch will bring. All three are settled once, by
//! one call, or by the drop of the [`Duty`]: so no way out of a fetch, a panic among them, leaves a request
//! waiting.

use std::sync::Arc;

use crate::proxy::collapse::{Leader, Outcome, Shareable};
use crate::store::tiers::FetchClaim;
use crate::store::underway::Begun;

/// What is owed to others by a request that asks the origin server.
pub struct Duty {
    /// The requests that follow this one.
    followers: Followers,
    /// Other proxies that wait for the response. Dropped after the followers have been resumed: what they do
    /// next may be to ask the same store.
    claim: FetchClaim,
    /// The fetch as it is noted: what was invalidated since must not be stored.
    begun: Begun,
}

/// Who may follow a request.
enum Followers {
    /// Nobody: the request asks for itself.
    Nobody,
    /// Requests that asked the same, and those that will.
    Of(Leader),
}

impl Duty {
    /// The duty of a request that nobody follows.
    pub(in crate::proxy) fn alone(begun: Begun) -> Self {
        Self { followers: Followers::Nobody, claim: FetchClaim::None, begun }
    }

    /// The duty of a request that others follow.
    pub(in crate::proxy) fn leading(leader: Leader, begun: Begun) -> Self {
        assert!(leader.leads_for(&begun), "the fetch is for what the others wait for");
        // What was invalidated before this fetch began is not its business.
        leader.renew(&begun);
        Self { followers: Followers::Of(leader), claim: FetchClaim::None, begun }
    }

    /// The fetch as it is noted.
    pub(in crate::proxy) fn begun(&self) -> &Begun {
        &self.begun
    }

    /// May others follow?
    pub(in crate::proxy) fn leads(&self) -> bool {
        matches!(self.followers, Followers::Of(_))
    }

    /// The backing store was asked: the fetch may have begun anew (`begun`), and other proxies may wait for it
    /// (`claim`).
    pub(in crate::proxy) fn recalled(&mut self, begun: Begun, claim: FetchClaim) {
        assert!(begun.key() == self.begun.key(), "the backing store was asked for the same");
        assert!(matches!(self.claim, FetchClaim::None), "the backing store is asked once");
        // Before those who follow can see it: a flight that looks outdated is left by everybody.
        if let Followers::Of(leader) = &self.followers {
            leader.renew(&begun);
        }
        (self.begun, self.claim) = (begun, claim);
    }

    /// The head of the response has come, and others may have it.
    pub(in crate::proxy) fn share(&self, shareable: &Arc<Shareable>) {
        if let Followers::Of(leader) = &self.followers {
            leader.share(shareable);
        }
    }

    /// The response is to be stored, but is not for those who follow: they are told so. Other proxies wait on,
    /// since they are to find it in the store.
    #[must_use]
    pub(in crate::proxy) fn without_followers(self, outcome: &Outcome) -> Self {
        let Self { followers, claim, begun } = self;
        // The claim and the note are dropped after this: a request that is resumed here finds both held.
        if let Followers::Of(leader) = followers {
            leader.settle(outcome);
        }
        Self { followers: Followers::Nobody, claim, begun }
    }

    /// This came of the fetch.
    pub(in crate::proxy) fn settle(self, outcome: &Outcome) {
        drop(self.without_followers(outcome));
    }
}
