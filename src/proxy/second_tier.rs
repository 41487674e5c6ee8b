//! What the store behind memory has: asked by a worker that is on its way to the origin server, and only
//! then. RFC 9111 §4 knows one cache; this is its slower half.

use std::sync::Arc;

use crate::message::body::Body;
use crate::message::response::Response;
use crate::policy::reuse::{Judgement, judge};
use crate::policy::selection::{Sought, select};
use crate::policy::stored::StoredResponse;
use crate::proxy::collapse::{Landing, Outcome, Shareable};
use crate::proxy::steps::{Recall, Recollection};
use crate::proxy::{Answer, Attempt, Forward, Forwarded, Proxy};

impl Proxy {
    /// Asks the store behind memory, if there is one and the request has not done so; waits.
    pub(super) fn recall(&self, mut forward: Box<Forward>) -> Recall {
        if let Some(shareable) = forward.follows.take()
            && let Some(response) = self.follow(&forward, &shareable)
        {
            return Recall::Done(response.into());
        }
        if !forward.recalls {
            return Recall::GoOn(forward);
        }
        forward.recalls = false;
        // Who leads here asks for all; whoever does not may ask for what is nobody else's.
        let claims = forward.leader.is_some() && !forward.background;
        let mut begun = forward.begun.clone();
        let recalled = self.store.recall(&forward.key, &mut begun, claims);
        if let Some(leader) = &forward.leader {
            leader.renew(&begun);
        }
        forward.begun = begun;
        forward.claim = recalled.claim;
        let mut variants = self.fetched(&forward, recalled.variants);
        // To ask, and to read what was found, takes time: what is purged meanwhile must not be asked
        // about, nor stand in.
        variants.retain(|stored| forward.begun.admits(stored));
        if forward.background {
            return self.go_on_in_the_background(forward, &variants);
        }
        if variants.is_empty() {
            return match forward.refused {
                Some(detail) => {
                    let asked = self.asked(&forward.request);
                    Recall::Done(self.refuse_forwarding(&asked, detail).into())
                }
                None => Recall::GoOn(forward),
            };
        }
        let claim = std::mem::take(&mut forward.claim);
        let request = Arc::clone(&forward.request);
        let landing = forward.leader.take().map(Landing::Lead).or(forward.attempt.landing.take());
        let recalled = Some(Recollection { variants: Arc::new(variants), begun: forward.begun });
        let attempt = Attempt { landing, recalled, ..forward.attempt };
        match self.lookup(&request, attempt) {
            Answer::Ready(response) => Recall::Done(response.into()),
            Answer::Stale(response, refresh) => {
                let refresh = Some(refresh);
                Recall::Done(Forwarded { response, filler: None, refresh })
            }
            Answer::Forward(mut forward) => {
                forward.claim = claim;
                if let Some(Landing::Lead(leader)) = forward.attempt.landing.take() {
                    forward.lead(leader);
                }
                Recall::GoOn(forward)
            }
        }
    }

    /// The variants that were recalled; the content of the one that will be selected is in memory, if
    /// it fits there.
    fn fetched(
        &self,
        forward: &Forward,
        mut variants: Vec<Arc<StoredResponse>>,
    ) -> Vec<Arc<StoredResponse>> {
        let sought = Sought::read(&forward.presented, &forward.request.fields);
        while !variants.is_empty() {
            let selection = select(&variants, &sought, forward.request_time, |stored| {
                self.fits(&forward.request, stored, &forward.sent)
            });
            let Some(selected) = selection.used() else { break };
            let place = variants.iter().position(|other| Arc::ptr_eq(other, &selected));
            let place = place.expect("it was selected among them");
            if let Some(fetched) = self.store.bring(&forward.key, &selected, &forward.begun) {
                variants[place] = fetched;
                break;
            }
            variants.remove(place);
        }
        variants
    }

    /// A refresh in the background is not needed if another proxy has brought something fresh.
    fn go_on_in_the_background(
        &self,
        mut forward: Box<Forward>,
        variants: &[Arc<StoredResponse>],
    ) -> Recall {
        let now = self.clock.now();
        let fresh = variants.iter().find(|stored| {
            stored.is_fresh(now)
                && !stored.directives.no_cache
                && self.fits(&forward.request, stored, &forward.sent)
        });
        if fresh.is_none() {
            return Recall::GoOn(forward);
        }
        if let Some(leader) = forward.leader.take() {
            leader.land(&Outcome::Stored);
        }
        let response = Response {
            status: http::StatusCode::NO_CONTENT,
            fields: crate::message::fields::Fields::new(),
            body: Body::None { length: None },
        };
        Recall::Done(response.into())
    }

    /// May this request be given the body that is on its way into the store behind memory?
    pub(super) fn may_follow(&self, forward: &Forward, shareable: &Shareable) -> bool {
        let presented = &forward.presented;
        let usable =
            judge(presented, &shareable.head, false, self.clock.now(), &self.settings.reuse);
        shareable.spooled.get().is_some()
            && presented.get
            && !presented.range
            && !presented.conditional
            && self.fits(&forward.request, &shareable.head, &forward.sent)
            && usable == Judgement::Usable
    }

    fn follow(&self, forward: &Forward, shareable: &Shareable) -> Option<Response> {
        let follower = shareable.spooled.get()?.reader()?;
        let asked = self.asked(&forward.request);
        let response = self.share_head(&asked, &shareable.head, forward.why);
        Some(Response { body: Body::Arriving(Box::new(follower)), ..response })
    }
}
