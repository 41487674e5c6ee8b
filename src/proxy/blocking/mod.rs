//! The blocking driver: it carries out what the steps ask for, on a thread that may wait.
//!
//! Plan, send, receive, and move the content along. The tiny_http front, the event front's workers, the
//! refreshes in the background, `explain` and `warm` all come this way; nothing here decides anything.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::origin::{
    Interim, Origin, OriginBody, OriginCondition, OriginError, OriginResponse, RequestContent,
    Tunnel, Upgrade,
};
use crate::policy::response::Response;
use crate::proxy::Proxy;
use crate::proxy::fill::{Incoming, PassedResponse};
use crate::proxy::next::{Answer, Attempt, Next, Refresh};
use crate::proxy::plan::Fetch;
use crate::proxy::receive::AfterHead;

mod content;

pub use content::ContentFetch;

/// Carries out the engine's steps on the calling thread, which may wait. Cheap to clone.
#[derive(Clone)]
pub struct BlockingDriver {
    proxy: Arc<Proxy>,
    origin: Arc<dyn Origin>,
}

/// A response, and what is still to be done for it.
pub struct Delivery {
    /// The response.
    pub response: Response,
    /// Fetches its content, on a thread that may wait; `None` if all of it is there.
    pub rest: Option<Box<ContentFetch>>,
    /// What is to be fetched in the background; `None` if nothing.
    pub refresh: Option<Box<Refresh>>,
}

/// The origin server's answer to a request to go over to another protocol (RFC 9110 §7.8).
pub enum Upgraded {
    /// The fields of the 101, and the connection.
    Agreed(Fields, Tunnel),
    /// An ordinary response.
    Declined(Delivery),
}

/// Is shown each answer of the origin server before the engine is.
pub(super) type Watch<'a> = &'a mut dyn FnMut(&Fetch, Result<&mut OriginResponse, &OriginError>);

impl BlockingDriver {
    /// Carries out the steps of `proxy` with `origin`.
    pub fn new(proxy: Arc<Proxy>, origin: Arc<dyn Origin>) -> Self {
        Self { proxy, origin }
    }

    /// The engine.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// What requests have shown of the origin server so far.
    pub fn origin_condition(&self) -> OriginCondition {
        self.origin.condition()
    }

    /// The same with another engine.
    pub(super) fn over(&self, proxy: Arc<Proxy>) -> Self {
        Self { proxy, origin: Arc::clone(&self.origin) }
    }

    /// Answers a request to the last step. Waits for the stores, for other requests and for the origin
    /// server.
    pub fn answer(&self, request: &Arc<Request>) -> Delivery {
        // Whoever calls this sends no content: warm, and tests.
        let next = self.proxy.ask(request, Attempt::First);
        self.carry_out(request, next, RequestContent::None, None)
    }

    /// Carries out `next` and what follows from it. `content` is the request's; `interim` is called with interim
    /// responses on the way (RFC 9110 §15.2).
    pub fn carry_out(
        &self,
        request: &Arc<Request>,
        mut next: Next,
        content: RequestContent<'_>,
        interim: Option<&Arc<Interim>>,
    ) -> Delivery {
        loop {
            next = match next {
                Next::Answer(answer) => return answer.into(),
                Next::Recall(recall) => self.proxy.recall(*recall),
                Next::Fetch(fetch) => return self.fetch(fetch, content, interim, &mut |_, _| ()),
                Next::Follow(follow) => {
                    // It may be resumed before `recv` begins to wait, and by a thread that must not block:
                    // the channel has space for the one message.
                    let (over, wait) = sync_channel(1);
                    follow.park(Box::new(move |attempt| drop(over.send(attempt))));
                    let attempt = wait.recv().expect("a flight that ends resumes its followers");
                    self.proxy.ask(request, attempt)
                }
            }
        }
    }

    /// Carries out what [`Proxy::refresh`] wants, to the end of the content.
    pub fn fetch_in_the_background(&self, mut next: Next) {
        loop {
            next = match next {
                Next::Recall(recall) => self.proxy.recall(*recall),
                Next::Fetch(fetch) => {
                    let content = RequestContent::None;
                    return self.fetch(fetch, content, None, &mut |_, _| ()).finish();
                }
                // Another proxy has brought it.
                Next::Answer(_) | Next::Follow(_) => return,
            }
        }
    }

    /// Sends a request, by one plan after the other, until there is a response for the client.
    pub(super) fn fetch(
        &self,
        mut fetch: Box<Fetch>,
        content: RequestContent<'_>,
        interim: Option<&Arc<Interim>>,
        watch: Watch<'_>,
    ) -> Delivery {
        // Once for all plans: what the client knows the proxy by does not change with them.
        let interim = interim.map(|interim| self.proxy.rewriting(interim, &fetch));
        let mut content = Some(content);
        loop {
            let head = self.proxy.head(&fetch);
            // Content is read while it is sent, and is gone then: what is asked again has none.
            let content = content.take().unwrap_or(RequestContent::None);
            let mut answer = self.origin.send(head.request(content, interim.clone()));
            watch(&fetch, answer.as_mut().map_err(|error| &*error));
            let OriginResponse { head, body } = match answer {
                Ok(response) => response,
                Err(error) => return self.proxy.fail(fetch, &error).into(),
            };
            match self.proxy.receive(fetch, head) {
                AfterHead::AskAgain(again) => fetch = again,
                AfterHead::Answer(answer) => return answer.into(),
                AfterHead::Begun(incoming) => return self.begin(*incoming, body),
            }
        }
    }

    /// Asks the origin server to go over to another of `protocols`, and waits for its answer.
    pub fn upgrade(&self, request: &Arc<Request>, protocols: &str) -> Upgraded {
        let asked = match self.proxy.ask_to_upgrade(request, protocols) {
            Ok(asked) => asked,
            Err(response) => return Upgraded::Declined(response.into()),
        };
        match self.origin.upgrade(asked.head.request(RequestContent::None, None)) {
            Ok(Upgrade::Agreed(fields, tunnel)) => {
                Upgraded::Agreed(self.proxy.upgraded(&asked, fields), tunnel)
            }
            Ok(Upgrade::Declined(OriginResponse { head, body })) => {
                Upgraded::Declined(self.begin(self.proxy.upgrade_declined(*asked, head), body))
            }
            Err(error) => Upgraded::Declined(self.proxy.upgrade_failed(&asked, &error).into()),
        }
    }

    /// Passes a response on. Of a short body the first piece is awaited before.
    fn begin(&self, mut incoming: Incoming, body: Option<Box<dyn OriginBody>>) -> Delivery {
        let mut body = content::whole_body(incoming.take_prefix(), body);
        // Nothing has gone out, so a body that is cut here is a 502 or a stale response, and not a cut
        // one.
        if let Some(length) = incoming.awaited()
            && let Err(error) = content::take_first(&mut incoming, &mut body, length)
        {
            // First the connection: its turn at the origin server is over.
            drop(body);
            return self.proxy.cut_before(incoming, &error.to_string()).into();
        }
        // The head says whether the response is stored, so it waits for the backing store's word.
        if incoming.has_to_settle() {
            incoming.settle();
        }
        match self.proxy.pass_on(incoming) {
            PassedResponse::Whole(response) => response.into(),
            PassedResponse::Growing(response, transfer) => {
                let (proxy, origin) = (Arc::clone(&self.proxy), Arc::clone(&self.origin));
                let rest = ContentFetch::new(proxy, origin, transfer, body);
                Delivery { response, rest: Some(Box::new(rest)), refresh: None }
            }
        }
    }
}

impl From<Answer> for Delivery {
    fn from(answer: Answer) -> Self {
        let Answer { response, refresh } = answer;
        Self { response, rest: None, refresh }
    }
}

impl Delivery {
    /// The response alone, with a body that is fetched as it is read. May wait for the content if nobody is to read it.
    pub fn into_response(self) -> Response {
        let Self { mut response, rest, .. } = self;
        let Some(rest) = rest else { return response };
        response.body = match response.body {
            Body::Growing(reader) => {
                Body::Arriving(Box::new(content::FetchedBody::new(rest, reader)))
            }
            body => {
                // The client does not need it, and it may be worth keeping.
                rest.run();
                body
            }
        };
        response
    }

    /// Fetches the content to its end if it is to be stored, and drops the response: for a refresh.
    pub fn finish(self) {
        // Its reader would hold the window: nobody takes anything from it.
        drop(self.response);
        if let Some(rest) = self.rest {
            rest.run();
        }
    }
}

impl From<Response> for Delivery {
    fn from(response: Response) -> Self {
        Answer::from(response).into()
    }
}
