//! Requests to go over to another protocol: passed on, never cached. RFC 9110 §7.8.

use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Version};

use crate::message::fields::{Fields, text_value};
use crate::message::request::{Framing, Request, RequestError};
use crate::message::response::Response;
use crate::message::target::url_at;
use crate::origin::{OriginError, OriginRequest, OriginResponse, RequestContent, Tunnel, Upgrade};
use crate::policy::forwarding::{goes_in_circles, received_fields};
use crate::policy::key::CacheKey;
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::reuse::Mode;
use crate::proxy::fill::Relayed;
use crate::proxy::refuse::say_when_to_come_back;
use crate::proxy::{Asked, Proxy};
use crate::stats::Counter;

/// What came of a request to go over to another protocol.
pub enum Upgraded {
    /// The fields of the 101, and the connection.
    Agreed(Fields, Tunnel),
    /// An ordinary response.
    Declined(Response),
}

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

impl Proxy {
    /// Asks the origin server to go over to another of `protocols`, and waits for its answer.
    pub fn upgrade(&self, request: &Arc<Request>, protocols: &str) -> Upgraded {
        self.stats.count(Counter::Request);
        if request.target.escapes(&self.settings.origin) {
            return Upgraded::Declined(self.refuse(request, &RequestError::Escapes));
        }
        if goes_in_circles(request) {
            return Upgraded::Declined(self.refuse_circles(request));
        }
        let asked = self.asked(request);
        if let Some(detail) = self.refuses_upgrade(&asked) {
            return Upgraded::Declined(self.refuse_forwarding(&asked, detail));
        }
        let key = asked.key;
        let mut fields = self.sent_fields(request);
        let host = self.passed_on_host(request);
        fields.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.append(UPGRADE, text_value(protocols.to_string()));
        let asked = OriginRequest {
            method: &request.method,
            url: &url_at(&self.settings.origin, request.target.as_str()),
            host: host.as_deref(),
            fields: &fields,
            content: RequestContent::None,
            waits: true,
            interim: None,
        };
        let answer = self.origin.upgrade(asked);
        if !answer.as_ref().is_err_and(OriginError::spared_it) {
            self.stats.count(Counter::OriginRequest);
        }
        // What the proxy refused, or could not even deliver, has not gone on.
        if !answer.as_ref().is_err_and(OriginError::undelivered) {
            self.stats.count_forwarded(Why::Bypass);
        }
        let status = CacheStatus {
            why: Some(Why::Bypass),
            forward_status: Some(StatusCode::SWITCHING_PROTOCOLS.as_u16()),
            detail: Some(Detail::Upgrade),
            ..CacheStatus::default()
        };
        match answer {
            Ok(Upgrade::Agreed(mut fields, tunnel)) => {
                let protocol = fields.get(UPGRADE.as_str()).cloned();
                received_fields(&mut fields, Version::HTTP_11, self.clock.now());
                self.finish(request, &mut fields, None, false, &status);
                fields.append(CONNECTION, HeaderValue::from_static("Upgrade"));
                fields
                    .append(UPGRADE, protocol.unwrap_or_else(|| text_value(protocols.to_string())));
                Upgraded::Agreed(fields, tunnel)
            }
            Ok(Upgrade::Declined(received)) => self.declined(request, &key, received),
            Err(error) => self.no_tunnel(request, &key, &error),
        }
    }

    /// Why the origin server must not be asked to speak another protocol, if it must not.
    fn refuses_upgrade(&self, asked: &Asked<'_>) -> Option<Detail> {
        match self.settings.reuse.mode {
            Mode::Offline => Some(Detail::Offline),
            // No method, and no protocol, is exempt (RFC 9111 §5.2.1.7).
            Mode::Standard if asked.presented.directives.only_if_cached => {
                Some(Detail::OnlyIfCached)
            }
            _ => None,
        }
    }

    /// The origin server goes on in HTTP.
    fn declined(&self, request: &Request, key: &CacheKey, received: OriginResponse) -> Upgraded {
        let mut fields = received.fields;
        received_fields(&mut fields, received.version, self.clock.now());
        let told = CacheStatus {
            why: Some(Why::Bypass),
            forward_status: Some(received.status.as_u16()),
            detail: Some(Detail::UpgradeDeclined),
            ..CacheStatus::default()
        };
        self.finish(request, &mut fields, None, false, &told);
        match Relayed::body(received.body, received.length, key, &self.stats) {
            Ok(body) => Upgraded::Declined(Response { status: received.status, fields, body }),
            Err(error) => self.no_tunnel(request, key, &self.cut(&error)),
        }
    }

    fn no_tunnel(&self, request: &Request, key: &CacheKey, error: &OriginError) -> Upgraded {
        self.stats.count(Counter::OriginError);
        log::warn!("{} {}: {error}", request.method, key.redacted());
        let why = Some(Why::Bypass).filter(|_| !error.undelivered());
        let detail = Some(error.detail());
        let status = CacheStatus { why, detail, ..CacheStatus::default() };
        let mut response = self.error(error.status(), request, &error.to_string(), status);
        say_when_to_come_back(&mut response, error, request);
        Upgraded::Declined(response)
    }
}
