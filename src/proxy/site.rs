//! What the client sees of the proxy.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;

use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::message::target::Scheme;
use crate::origin::Interim;
use crate::policy::redirect::{OwnUrl, leads_nowhere};
use crate::policy::rewriting::{Site, rewrite};
use crate::proxy::Proxy;

impl Proxy {
    /// The proxy as this client knows it.
    pub(super) fn site<'a>(&'a self, request: &'a Request) -> Site<'a> {
        Site { scheme: Scheme::Http, authority: request.authority().map(Cow::Borrowed) }
    }

    /// Does a response redirect its client to the URL that it has asked for?
    pub(super) fn leads_nowhere(
        &self,
        request: &Request,
        status: StatusCode,
        fields: &Fields,
    ) -> bool {
        if !status.is_redirection() {
            return false;
        }
        let mut aliases = Vec::new();
        if self.passed_on_host(request).is_none() {
            aliases.push(self.settings.own_authority.as_str());
        }
        let own = OwnUrl {
            site: self.site(request),
            aliases,
            target: &self.settings.key.shape(request.target.as_str()),
            exact_scheme: false,
        };
        leads_nowhere(status, fields, &self.settings.origin, &own, &self.settings.key)
    }

    /// Interim responses are rewritten as final ones are: a `Link` in a 103 must not lead a client past
    /// the proxy (RFC 8297).
    pub(super) fn rewriting(&self, interim: &Arc<Interim>, request: &Request) -> Arc<Interim> {
        let (interim, origin) = (Arc::clone(interim), self.settings.origin.clone());
        let Site { scheme, authority } = self.site(request);
        let authority = authority.map(Cow::into_owned);
        Arc::new(move |status, mut fields| {
            let authority = authority.as_deref().map(Cow::Borrowed);
            rewrite(&mut fields, &origin, &Site { scheme, authority });
            interim(status, fields);
        })
    }
}
