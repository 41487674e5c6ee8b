//! Requests to go over to another protocol: passed on, never cached. RFC 9110 §7.8.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{CONNECTION, TE, UPGRADE};
use http::{HeaderValue, Method, Version};

use crate::message::fields::{Fields, text_value};
use crate::message::request::{Framing, Request, RequestError};
use crate::message::target::url_at;
use crate::origin::{OriginError, OriginHead, RequestHead};
use crate::policy::forwarding::{complete_received, goes_in_circles, received_fields};
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::response::Response;
use crate::policy::reuse::Mode;
use crate::proxy::Proxy;
use crate::proxy::fill::Incoming;
use crate::proxy::next::Answer;
use crate::proxy::plan::Forward;
use crate::proxy::question::Question;
use crate::proxy::refuse::say_when_to_come_back;
use crate::stats::Counter;

/// The protocols that a request asks to go over to; `None` if it does not, or may not.
///
/// HTTP/2 without TLS is not among them: it would still be HTTP, and past this cache.
pub fn protocols(request: &Request) -> Option<String> {
    let wants = request.fields.contains("upgrade")
        && request.version == Version::HTTP_11
        && request.method == Method::GET
        && matches!(request.framing, Framing::None | Framing::Length(0))
        && request.fields.has_member("connection", "upgrade");
    if !wants {
        return None;
    }
    let named: Vec<_> = request
        .fields
        .members("upgrade")
        .filter(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
        .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
        .collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// A request to go over to another protocol, on its way to the origin server.
pub struct UpgradeRequest {
    forward: Forward,
    /// The protocols that the client has asked for.
    protocols: String,
    /// The head to send.
    pub head: RequestHead,
}

impl Proxy {
    /// What the origin server is asked to go over to another of `protocols`; a response if it must not be
    /// asked.
    pub fn ask_to_upgrade(
        &self,
        request: &Arc<Request>,
        protocols: &str,
    ) -> Result<Box<UpgradeRequest>, Response> {
        self.stats.count(Counter::Request);
        if request.target.escapes(&self.settings.origin) {
            return Err(self.refuse(request, &RequestError::Escapes));
        }
        if goes_in_circles(request) {
            return Err(self.refuse_circles(request));
        }
        let question = self.question(request);
        if let Some(detail) = self.refuses_upgrade(&question) {
            return Err(self.refuse_forwarding(&question, detail));
        }
        // The client's own Connection and Upgrade went with the hop-by-hop fields; these are the
        // proxy's.
        let mut fields = (**self.sent(&question)).clone();
        // A tunnel has no trailer fields.
        fields.remove(TE.as_str());
        fields.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.append(UPGRADE, text_value(protocols.to_string()));
        let head = RequestHead {
            method: request.method.clone(),
            // As the client has written it: the key has no part in it.
            url: url_at(&self.settings.origin, request.target.as_str()),
            host: self.settings.passed_on_host(request).map(Cow::into_owned),
            fields: Arc::new(fields),
            waits: true,
        };
        let forward = self.forward(question, Why::Bypass, Some(Detail::UpgradeDeclined), None);
        Ok(Box::new(UpgradeRequest { forward, protocols: protocols.to_string(), head }))
    }

    /// Why the origin server must not be asked to speak another protocol, if it must not.
    fn refuses_upgrade(&self, question: &Question) -> Option<Detail> {
        match self.settings.reuse.mode {
            Mode::Offline => Some(Detail::Offline),
            // No method, and no protocol, is exempt (RFC 9111 §5.2.1.7).
            Mode::Standard if question.presented.directives.only_if_cached => {
                Some(Detail::OnlyIfCached)
            }
            _ => None,
        }
    }

    /// The origin server has agreed, with these fields: those that the client is sent.
    pub fn upgraded(&self, asked: &UpgradeRequest, mut fields: Fields) -> Fields {
        self.count_upgrade();
        let UpgradeRequest { forward, protocols, .. } = asked;
        let status = CacheStatus::of_upgrade();
        // Taken before the hop-by-hop fields go, of which Upgrade is one.
        let protocol = fields.get(UPGRADE.as_str()).cloned();
        received_fields(&mut fields, Version::HTTP_11, self.clock.now());
        self.finish(&forward.question.request, &mut fields, None, &status);
        fields.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.append(UPGRADE, protocol.unwrap_or_else(|| text_value(protocols.clone())));
        fields
    }

    /// The origin server goes on in HTTP: its response goes to the client, and not into the cache.
    pub fn upgrade_declined(&self, asked: UpgradeRequest, mut head: OriginHead) -> Incoming {
        self.count_upgrade();
        let now = self.clock.now();
        complete_received(&mut head.fields, head.version, now);
        Incoming::passing(asked.forward, head, now, Detail::UpgradeDeclined)
    }

    /// The origin server has failed.
    pub fn upgrade_failed(&self, asked: &UpgradeRequest, error: &OriginError) -> Answer {
        if !error.spared_it() {
            self.stats.count(Counter::OriginRequest);
        }
        // What the proxy refused, or could not even deliver, has not gone on.
        if !error.undelivered() {
            self.stats.count_forwarded(Why::Bypass);
        }
        self.stats.count(Counter::OriginError);
        let Question { request, key, .. } = &asked.forward.question;
        log::warn!("{} {}: {error}", request.method, key.redacted());
        let why = Some(Why::Bypass).filter(|_| !error.undelivered());
        let detail = Some(error.detail());
        let status = CacheStatus { why, detail, ..CacheStatus::default() };
        let mut response = self.error(error.status(), request, &error.to_string(), status);
        say_when_to_come_back(&mut response, error, request);
        response.into()
    }

    fn count_upgrade(&self) {
        self.stats.count(Counter::OriginRequest);
        self.stats.count_forwarded(Why::Bypass);
    }
}
