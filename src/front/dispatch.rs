//! How a request goes on behind either front: it is looked up, answered, parked, or handed to a worker
//! that may wait for the origin server.
//!
//! Nothing here holds a lock while it calls the engine. An exchange has one owner at a time: the
//! front, a job in the pool, or the closure that resumes a parked request. Dropped with any of them, it
//! sends its client an error.

use std::sync::Arc;

use http::{Method, StatusCode};
use parking_lot::Mutex;

use crate::front::recalls::{Recalls, WaitingRecall};
use crate::front::tunnels::{TunnelPermit, Tunnels};
use crate::front::workers::{Job, Kind, Pool, Role};
use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::origin::{Interim, RequestContent, Tunnel};
use crate::policy::response::Response;
use crate::proxy::{
    Answer, Attempt, BlockingDriver, Delivery, Fetch, Next, Proxy, Recall, Refresh, Upgraded,
    protocols,
};

/// A request and its client, as either front has them. Dropped unanswered, it sends the client an error.
pub(super) trait ClientExchange: Send + Sized + 'static {
    /// The request.
    fn request(&self) -> &Arc<Request>;

    /// Runs `send` with the request's content, which may have to be waited for.
    fn with_content<T>(&mut self, send: impl FnOnce(RequestContent<'_>) -> T) -> T;

    /// What passes interim responses on to the client; `None` if its version has none (RFC 9110 §15.2).
    fn interim(&self) -> Option<Arc<Interim>>;

    /// Sends a response; may wait for the client, and for the rest of the body.
    fn respond(self, delivery: Delivery);

    /// Sends a short response and ends the connection; does not wait.
    fn refuse(self, response: Response);

    /// Asks the origin server to go over to another of `protocols`, and makes a tunnel of the connection if it agrees
    /// (RFC 9110 §7.8). Gives the response if there is one at once.
    fn upgrade(self, dispatch: &Arc<Dispatch>, protocols: &str) -> Option<(Self, Response)>;

    /// Begins to ask the origin server without a worker, if this front can.
    fn begin_fetch(self, dispatch: &Dispatch, fetch: Box<Fetch>) -> Result<(), (Self, Box<Fetch>)>;

    /// Goes on after another request has been waited for; must not wait itself.
    fn resume(self, dispatch: &Arc<Dispatch>, attempt: Attempt);
}

/// What all exchanges of a front go through: the engine, the workers, the tunnels.
pub(super) struct Dispatch {
    pub proxy: Arc<Proxy>,
    driver: BlockingDriver,
    pub tunnels: Tunnels,
    pool: Arc<Pool>,
    /// Who waits for what is behind memory together with others.
    recalls: Arc<Recalls>,
    /// What answers instead of the proxy: the control interface, on a listener of its own.
    handler: Option<Handler>,
    /// The path of health checks, which are answered before anything else.
    health_path: Option<String>,
    /// Asks the origin server on an event loop, for nobody; `None` where workers ask it.
    fetch_on_loop: Option<FetchOnLoop>,
}

/// Begins a fetch on an event loop, for no client.
pub(super) type FetchOnLoop = Box<dyn Fn(Box<Fetch>) + Send + Sync>;

/// Answers requests instead of the proxy, given their content; may wait, and need not read it.
pub type Handler = Arc<dyn Fn(&Request, RequestContent<'_>) -> Response + Send + Sync>;

impl Dispatch {
    pub(super) fn new(
        driver: BlockingDriver,
        pool: Pool,
        handler: Option<Handler>,
        health_path: Option<String>,
        fetch_on_loop: Option<FetchOnLoop>,
    ) -> Self {
        let (proxy, tunnels) = (Arc::clone(driver.proxy()), Tunnels::default());
        let pool = Arc::new(pool);
        let recalls = Recalls::new(&proxy, &pool);
        Self { proxy, driver, tunnels, pool, recalls, handler, health_path, fetch_on_loop }
    }

    /// Do the event loops ask the origin server themselves?
    pub(super) fn fetches_on_loops(&self) -> bool {
        self.fetch_on_loop.is_some()
    }

    /// The answer to a health check: the front serves, whatever the state of the origin server.
    fn health(&self, request: &Request) -> Option<Response> {
        // Without the query, which probes add to get past caches.
        let path = request.target.as_str().split('?').next();
        let is_check = self.health_path.as_deref() == path
            && (request.method == Method::GET || request.method == Method::HEAD);
        is_check.then(|| Response::error(StatusCode::OK, "ok", false))
    }

    /// Is there a handler that answers instead of the proxy?
    pub(super) fn has_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// Hands an exchange to a worker, to be looked up and answered.
    pub(super) fn submit_lookup(self: &Arc<Self>, exchange: impl ClientExchange, attempt: Attempt) {
        // What was accepted before is not refused now: its client has waited already.
        let kind = if attempt.is_first() { Kind::Arrival } else { Kind::Resumed };
        let dispatch = Arc::clone(self);
        self.submit(kind, exchange, move |exchange, role| {
            match dispatch.look_up(exchange, attempt, role) {
                // It is read from a disk or over a network, which a reserved worker must not wait for.
                Some((exchange, response))
                    if role == Role::Reserved && matches!(response.body, Body::Arriving(_)) =>
                {
                    dispatch.submit_response(exchange, response);
                }
                Some((exchange, response)) => exchange.respond(response.into()),
                None => {}
            }
        });
    }

    /// Looks a request up, without waiting unless `role` permits it. Gives the response if there is
    /// one already; else the exchange is on its way.
    pub(super) fn look_up<E: ClientExchange>(
        self: &Arc<Self>,
        exchange: E,
        attempt: Attempt,
        role: Role,
    ) -> Option<(E, Response)> {
        // Before the lookup, so that a health check is neither counted nor cached, nor asks the origin
        // server.
        if let Some(response) = self.health(exchange.request()) {
            return Some((exchange, response));
        }
        if self.handler.is_some() || self.proxy.is_purge(exchange.request()) {
            self.submit_handler(exchange);
            return None;
        }
        // An upgrade has no part in the cache (RFC 9110 §7.8).
        if let Some(protocols) = protocols(exchange.request()) {
            return exchange.upgrade(self, &protocols);
        }
        let kind = if attempt.is_first() { Kind::Forward } else { Kind::ResumedForward };
        let next = self.proxy.ask(exchange.request(), attempt);
        self.go_on(exchange, next, kind, role)
    }

    /// Does what is next for a request, without waiting unless `role` permits it. Gives the response if there is
    /// one; else the exchange is on its way.
    fn go_on<E: ClientExchange>(
        self: &Arc<Self>,
        exchange: E,
        next: Next,
        kind: Kind,
        role: Role,
    ) -> Option<(E, Response)> {
        let (exchange, next) = match next {
            Next::Answer(Answer { response, refresh }) => {
                self.submit_refresh(refresh);
                return Some((exchange, response));
            }
            Next::Follow(follow) => {
                let dispatch = Arc::clone(self);
                // The waker owns the exchange. It is called on another thread, possibly before `park`
                // returns, so nothing may be done with the exchange here afterwards.
                follow.park(Box::new(move |attempt| exchange.resume(&dispatch, attempt)));
                return None;
            }
            Next::Fetch(fetch) => match exchange.begin_fetch(self, fetch) {
                Ok(()) => return None,
                Err((exchange, fetch)) => (exchange, Next::Fetch(fetch)),
            },
            next @ Next::Recall(_) => (exchange, next),
        };
        // From here on this exchange waits. A reserved worker and an event loop must not, so they hand it on;
        // other requests for the same may be parked behind it already.
        match next {
            Next::Recall(recall) if role == Role::Any => {
                let next = self.proxy.recall(*recall);
                return self.go_on(exchange, next, kind, role);
            }
            // What follows a look together must not wait for the origin server on that worker.
            Next::Recall(recall) if self.fetches_on_loops() && self.recalls.takes(&recall) => {
                self.submit_recall(exchange, recall, kind);
            }
            next if role == Role::Any => self.carry_out(exchange, next),
            next => self.submit_next(exchange, next, kind),
        }
        None
    }

    /// Has a worker do what is next for a request.
    fn submit_next(self: &Arc<Self>, exchange: impl ClientExchange, next: Next, kind: Kind) {
        let dispatch = Arc::clone(self);
        self.submit(kind, exchange, move |exchange, role| {
            if let Some((exchange, response)) = dispatch.go_on(exchange, next, kind, role) {
                exchange.respond(response.into());
            }
        });
    }

    /// Has a worker ask the backing store for this request and for others together.
    fn submit_recall(
        self: &Arc<Self>,
        exchange: impl ClientExchange,
        recall: Box<Recall>,
        kind: Kind,
    ) {
        if self.recalls.is_full(kind) {
            return self.refuse_full(exchange);
        }
        let dispatch = Arc::clone(self);
        let go_on = Box::new(move |next| match next {
            next @ Next::Recall(_) => dispatch.submit_next(exchange, next, kind),
            next => match dispatch.go_on(exchange, next, kind, Role::Any) {
                // It would be read on this worker, which has others to answer.
                Some((exchange, response)) if matches!(response.body, Body::Arriving(_)) => {
                    dispatch.submit_response(exchange, response);
                }
                Some((exchange, response)) => exchange.respond(response.into()),
                None => {}
            },
        });
        self.recalls.push(WaitingRecall { recall, go_on });
    }

    /// Asks the origin server, and answers with the response. On a worker: it may take long.
    fn carry_out(self: &Arc<Self>, mut exchange: impl ClientExchange, next: Next) {
        let (interim, request) = (exchange.interim(), Arc::clone(exchange.request()));
        let mut delivery = exchange.with_content(|content| {
            self.driver.carry_out(&request, next, content, interim.as_ref())
        });
        // A stale response stood in, and the origin server is to be asked again: not on this client's
        // time.
        self.submit_refresh(delivery.refresh.take());
        exchange.respond(delivery);
    }

    /// Has a worker send a response whose content has to be waited for.
    pub(super) fn submit_response(&self, exchange: impl ClientExchange, response: Response) {
        self.submit(Kind::ResumedForward, exchange, move |exchange, _| {
            exchange.respond(response.into());
        });
    }

    /// Runs the next part of an exchange, which has to wait, on a worker.
    pub(super) fn run_elsewhere(&self, work: Box<dyn FnOnce() + Send>) {
        // A pool refuses none of these; the writer of a relay must not be dropped in here.
        if self.pool.submit(Kind::Begun, Box::new(move |_| work())).is_err() {
            log::debug!("no worker for the end of a response");
        }
    }

    /// Hands a request that is about the proxy itself (a purge, the control interface) to a worker that
    /// may wait.
    fn submit_handler(self: &Arc<Self>, exchange: impl ClientExchange) {
        let dispatch = Arc::clone(self);
        self.submit(Kind::Forward, exchange, move |mut exchange, _| {
            let request = Arc::clone(exchange.request());
            let response = match &dispatch.handler {
                Some(handler) => exchange.with_content(|content| handler(&request, content)),
                None => dispatch.proxy.answer_purge(&request),
            };
            exchange.respond(response.into());
        });
    }

    /// Hands a request for another protocol to a worker that may wait, which makes a tunnel of the connection by
    /// `become_tunnel`.
    pub(super) fn submit_upgrade<E: ClientExchange>(
        self: &Arc<Self>,
        exchange: E,
        protocols: &str,
        become_tunnel: impl FnOnce(E, &Fields, Tunnel, TunnelPermit) + Send + 'static,
    ) {
        let (dispatch, protocols) = (Arc::clone(self), protocols.to_string());
        self.submit(Kind::Forward, exchange, move |exchange, _| {
            // Taken before the origin server is asked: it would agree, and be left alone with a
            // connection.
            let Some(permit) = dispatch.tunnels.permit() else {
                let prefers_json = exchange.request().prefers_json();
                let response = dispatch.proxy.refuse_for_want_of_tunnels(prefers_json);
                return exchange.respond(response.into());
            };
            match dispatch.driver.upgrade(exchange.request(), &protocols) {
                Upgraded::Agreed(fields, tunnel) => {
                    become_tunnel(exchange, &fields, tunnel, permit);
                }
                Upgraded::Declined(delivery) => exchange.respond(delivery),
            }
        });
    }

    /// Hands an exchange to a worker, or refuses it if the queue is full.
    fn submit<E: ClientExchange>(
        &self,
        kind: Kind,
        exchange: E,
        work: impl FnOnce(E, Role) + Send + 'static,
    ) {
        // The slot lets the exchange come back out of a job that was not taken.
        let slot = Arc::new(Mutex::new(Some(exchange)));
        let taken = Arc::clone(&slot);
        let job: Job = Box::new(move |role| {
            let exchange = taken.lock().take();
            if let Some(exchange) = exchange {
                work(exchange, role);
            }
        });
        // The job that was not taken is gone by then, and has left the exchange in the slot. A job that
        // was taken has emptied the slot or will, so that only one of the two answers.
        if self.pool.submit(kind, job).is_err() {
            let exchange = slot.lock().take();
            if let Some(exchange) = exchange {
                self.refuse_full(exchange);
            }
        }
    }

    /// Answers 503 to a request for which there is no worker.
    pub(super) fn refuse_full(&self, exchange: impl ClientExchange) {
        let prefers_json = exchange.request().prefers_json();
        exchange.refuse(self.proxy.refuse_for_want_of_workers(prefers_json));
    }

    /// Fetches a new response in the background, unless another request does so already or no worker is
    /// free: then the next request tries again.
    pub(super) fn submit_refresh(self: &Arc<Self>, refresh: Option<Box<Refresh>>) {
        // Here, not in the job: a request that comes before a worker is free finds that it is under way.
        let Some(next) = refresh.and_then(|refresh| self.proxy.refresh(*refresh)) else { return };
        let next = match (next, &self.fetch_on_loop) {
            (Next::Fetch(fetch), Some(fetch_on_loop)) => return fetch_on_loop(fetch),
            (next, _) => next,
        };
        let dispatch = Arc::clone(self);
        // A job of its own, so that this client's connection is free at once.
        let job: Job = Box::new(move |_| dispatch.fetch_in_the_background(next));
        if self.pool.submit(Kind::Forward, job).is_err() {
            log::debug!("no worker for a refresh in the background");
        }
    }

    /// Carries out what a refresh wants; may wait.
    fn fetch_in_the_background(&self, mut next: Next) {
        loop {
            next = match (next, &self.fetch_on_loop) {
                (Next::Recall(recall), _) => self.proxy.recall(*recall),
                (Next::Fetch(fetch), Some(fetch_on_loop)) => return fetch_on_loop(fetch),
                (next, _) => return self.driver.fetch_in_the_background(next),
            };
        }
    }
}
