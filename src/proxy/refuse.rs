//! What the proxy answers by itself when there is nothing else to answer: short, and with a reason.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

use crate::message::body::Body;
use crate::message::date;
use crate::message::fields::Fields;
use crate::message::request::{Request, RequestError};
use crate::origin::OriginError;
use crate::policy::reason::{CacheStatus, Detail};
use crate::policy::response::Response;
use crate::proxy::Proxy;
use crate::proxy::collapse::Failed;
use crate::proxy::plan::Forward;
use crate::proxy::question::Question;
use crate::stats::Counter;

impl Proxy {
    /// An answer for a request that no worker can take: the queue is full (503, RFC 9110 §15.6.4).
    pub fn refuse_for_want_of_workers(&self, prefers_json: bool) -> Response {
        let text = "proxy: every worker is busy and the queue is full; see --workers";
        let status = CacheStatus { detail: Some(Detail::Full), ..CacheStatus::default() };
        let mut response = self.own(StatusCode::SERVICE_UNAVAILABLE, text, prefers_json, status);
        // When a worker is free is not known; a second keeps clients from asking in a loop.
        response.fields.set_text("retry-after", "1".to_string());
        response
    }

    /// An answer for a request to speak another protocol when all tunnels are in use (503).
    pub fn refuse_for_want_of_tunnels(&self, prefers_json: bool) -> Response {
        // `ask` counts requests, and this one does not get there.
        self.stats.count(Counter::Request);
        let text = "proxy: too many connections speak another protocol already";
        let status = CacheStatus { detail: Some(Detail::Full), ..CacheStatus::default() };
        let mut response = self.own(StatusCode::SERVICE_UNAVAILABLE, text, prefers_json, status);
        response.fields.set_text("retry-after", "1".to_string());
        response
    }

    /// An answer for a client whose response was cut by the origin server before any of it was sent (502).
    pub fn refuse_cut(&self, request: &Request) -> Response {
        let text = "the origin server closed the connection in the middle of the response";
        let status = CacheStatus { detail: Some(Detail::Truncated), ..CacheStatus::default() };
        self.error(StatusCode::BAD_GATEWAY, request, text, status)
    }

    /// An answer for a request that is not acceptable.
    pub fn refuse(&self, request: &Request, error: &RequestError) -> Response {
        self.refuse_unread(error, request.prefers_json())
    }

    /// The same for a request that could not even be put together.
    pub fn refuse_unread(&self, error: &RequestError, prefers_json: bool) -> Response {
        self.own(error.status(), &error.to_string(), prefers_json, CacheStatus::default())
    }

    /// The origin server has failed: a stale response stands in, or the answer says what happened.
    pub(super) fn fail_forward(&self, forward: &Forward, error: &OriginError) -> Response {
        let Forward { question, key, .. } = forward;
        if let OriginError::Content(source) = error {
            log::info!("{}: client's content: {source}", key.redacted());
            // The client's own fault: no error of the origin server's, and nothing for a stale response
            // to stand in for.
            let error = RequestError::of_content(source, self.settings.limits);
            return self.refuse(&question.request, &error);
        }
        // The gate has refused, and the origin server has not been asked. One warning a request would
        // fill the log for as long as it is down.
        if error.spared_it() {
            log::debug!("{} {}: {error}", question.method, key.redacted());
        } else {
            self.stats.count(Counter::OriginError);
            log::warn!("{} {}: {error}", question.method, key.redacted());
        }
        let (status, detail) = (error.status(), error.detail());
        let spared = error.spared_it().then_some(detail);
        if let Some(response) = self.stand_in(forward, None, spared) {
            return response;
        }
        let mut response = self.forwarding_error(forward, status, detail, &error.to_string());
        say_when_to_come_back(&mut response, error, &question.request);
        response
    }

    /// The origin server has failed for another request that asked the same.
    pub(super) fn fail_with_leader(&self, forward: &Forward, failed: &Failed) -> Response {
        let Failed { status, detail, text, .. } = failed;
        // The request that it was has counted and logged the failure; this one is only answered.
        match self.stand_in(forward, None, None) {
            Some(response) => {
                self.stats.count(Counter::Collapsed);
                response
            }
            None => self.forwarding_error(forward, *status, *detail, text),
        }
    }

    fn forwarding_error(
        &self,
        forward: &Forward,
        status: StatusCode,
        detail: Detail,
        text: &str,
    ) -> Response {
        let (why, detail) = (Some(forward.why), Some(detail));
        let cache_status = CacheStatus { why, detail, ..CacheStatus::default() };
        self.error(status, &forward.question.request, text, cache_status)
    }

    /// The request has been here too often.
    pub(super) fn refuse_circles(&self, request: &Request) -> Response {
        let text = "via: this request has come back to the proxy again and again; see --origin";
        let status = CacheStatus { detail: Some(Detail::Loop), ..CacheStatus::default() };
        self.error(StatusCode::BAD_GATEWAY, request, text, status)
    }

    /// The answer to OPTIONS that goes no further (RFC 9110 §7.6.2): the usual methods are passed on.
    pub(super) fn answer_as_last(&self) -> Response {
        let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        let status = CacheStatus::default();
        // Not by `own`: nothing is refused here.
        self.stats.count_status(&status);
        let mut fields = Fields::new();
        fields.append(http::header::ALLOW, allow);
        fields.set_text("date", date::format(self.clock.now()));
        fields.set_text("x-cache", "MISS".to_string());
        fields.set_text("cache-status", status.to_string());
        Response::new(StatusCode::OK, fields, Body::Whole(Bytes::new()))
    }

    pub(super) fn error(
        &self,
        code: StatusCode,
        request: &Request,
        text: &str,
        status: CacheStatus,
    ) -> Response {
        self.own(code, text, request.prefers_json(), status)
    }

    /// A response that nobody but the proxy has made; so the `Date` is the proxy's, too.
    fn own(&self, code: StatusCode, text: &str, as_json: bool, status: CacheStatus) -> Response {
        self.stats.count(Counter::Refused);
        self.stats.count_status(&status);
        // No Age and nothing to rewrite: it comes from neither the cache nor the origin server.
        let mut response = Response::error(code, text, as_json);
        response.fields.set_text("date", date::format(self.clock.now()));
        response.fields.set_text("cache-status", status.to_string());
        response.cache_status = status;
        response
    }

    /// `--cache-mode offline`, and what is stored is for requests that have what `wanted` says.
    pub(super) fn refuse_offline(&self, question: &Question, wanted: &str) -> Response {
        let text = format!("{}: stored for {wanted}; --cache-mode is offline", question.key);
        let status = CacheStatus { detail: Some(Detail::Offline), ..CacheStatus::default() };
        self.error(StatusCode::GATEWAY_TIMEOUT, &question.request, &text, status)
    }

    /// RFC 9111 §5.2.1.7, or `--cache-mode offline`.
    pub(super) fn refuse_forwarding(&self, question: &Question, detail: Detail) -> Response {
        let Question { request, key, .. } = question;
        let text = match detail {
            Detail::Offline if !matches!(request.method, Method::GET | Method::HEAD) => {
                format!("{key}: {} has to be sent on, and --cache-mode is offline", request.method)
            }
            Detail::Offline => format!("{key}: not stored, and --cache-mode is offline"),
            _ => {
                format!("{key}: nothing stored that may be used, and the request is only-if-cached")
            }
        };
        let status = CacheStatus { detail: Some(detail), ..CacheStatus::default() };
        self.error(StatusCode::GATEWAY_TIMEOUT, request, &text, status)
    }
}

/// When the client may try again, and in the origin server's own words, if it is that which holds back.
pub(super) fn say_when_to_come_back(
    response: &mut Response,
    error: &OriginError,
    request: &Request,
) {
    if let OriginError::HeldBack { answer, .. } = error {
        answer.put_into(response, &request.fields);
    }
    if let Some(seconds) = error.retry_after() {
        response.fields.set_text("retry-after", seconds.to_string());
    }
}
