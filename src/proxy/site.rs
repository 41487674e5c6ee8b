//! Which client asks, and for which URL: what the client sees of the proxy, and what is forwarded of that to the
//! origin server. RFC 7239, RFC 9110 §7.2.
//!
//! Whatever of it comes from the client, and is passed on to the origin server, is part of the cache key:
//! `forwarded_scheme`, `forwarded_host` and `passed_on_host` say nothing that `passed_on_url` does not hold.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use http::header::AUTHORIZATION;

use crate::message::fields::{FieldValues, Fields};
use crate::message::request::Request;
use crate::message::target::{Scheme, is_loopback, split_authority};
use crate::origin::Interim;
use crate::policy::forwarded::{Believed, believe};
use crate::policy::forwarding::{ForwardingFacts, request_fields};
use crate::policy::key::PassedOn;
use crate::policy::redirect::{OwnUrl, leads_nowhere};
use crate::policy::rewriting::{Site, rewrite};
use crate::proxy::plan::Fetch;
use crate::proxy::{Proxy, Settings};

impl Settings {
    /// What is believed of a request (`--trust-forwarded`). An operator who says what clients see
    /// (`--public-url`) is believed before any peer.
    pub(super) fn believed(&self, request: &Request) -> Believed {
        let peer = request.client.map(|client| client.ip());
        let believed = believe(&request.fields, peer, &self.trusted);
        match self.public_url {
            Some(_) => Believed { scheme: None, host: None, ..believed },
            None => believed,
        }
    }

    /// Can one target be asked for under several schemes and hosts that the origin server is told?
    pub(super) fn believes_urls(&self) -> bool {
        !self.trusted.is_empty() && self.public_url.is_none()
    }

    /// The proxy as this client knows it.
    pub(super) fn site<'a>(&'a self, request: &'a Request) -> Site<'a> {
        if let Some(public) = &self.public_url {
            let authority = Some(Cow::Borrowed(public.authority.as_str()));
            return Site { scheme: public.scheme, authority };
        }
        let Believed { scheme, host, .. } = self.believed(request);
        let authority = host.map(Cow::Owned).or(request.authority().map(Cow::Borrowed));
        Site { scheme: scheme.unwrap_or(Scheme::Http), authority }
    }

    /// What of the client's URL is passed on, and so is part of the key.
    pub(super) fn passed_on_url<'a>(&self, request: &'a Request) -> PassedOn<'a> {
        let Believed { scheme, host, .. } = self.believed(request);
        // Marked in the key: what a trusted peer has said must not be met by a client that only writes
        // that host.
        let is_host_believed = host.is_some();
        let preserved = || request.authority().filter(|_| self.preserve_host);
        let host = host.map(Cow::Owned).or_else(|| preserved().map(Cow::Borrowed));
        PassedOn { host, is_host_believed, scheme }
    }

    /// The Host that the origin server is asked with, if it is not its own (`--preserve-host`).
    pub(super) fn passed_on_host<'a>(&self, request: &'a Request) -> Option<Cow<'a, str>> {
        if self.preserve_host { self.passed_on_url(request).host } else { None }
    }

    pub(super) fn sent_fields(&self, request: &Request) -> Fields {
        let believed = self.believed(request);
        let facts = ForwardingFacts {
            client: believed.client,
            proxies: &believed.proxies,
            scheme: self.forwarded_scheme(&believed),
            host: self.forwarded_host(request, &believed),
        };
        let mut fields = request_fields(request, facts);
        // After the client's own fields, in whose place it stands.
        if let Some(authorization) = &self.origin_authorization {
            fields.set(AUTHORIZATION, authorization.clone());
        }
        self.name_destination(request, &mut fields);
        fields
    }

    /// What the origin server is told about the scheme that the client speaks.
    ///
    /// The client speaks http to us. What it speaks to whatever may stand in front of us is not known
    /// unless somebody says it; an https origin server that were told `http` would send each client to
    /// the URL that it has asked for.
    fn forwarded_scheme(&self, believed: &Believed) -> Option<Scheme> {
        let said = self.public_url.as_ref().map(|public| public.scheme);
        let own = (!self.origin.server.secure).then_some(Scheme::Http);
        said.or(believed.scheme).or(own)
    }

    /// What the origin server is told about the host that the client asked.
    ///
    /// The cache key does not hold that host (but under `--preserve-host`), so the origin server
    /// must not learn it from the client: it would be written into what others are given. It is the
    /// client's own word only where it names this machine and our port, and comes from this machine:
    /// then all who are given it know this machine by such names, too.
    fn forwarded_host<'a>(&'a self, request: &'a Request, believed: &'a Believed) -> &'a str {
        if let Some(public) = &self.public_url {
            return &public.authority;
        }
        if let Some(host) = &believed.host {
            return host;
        }
        let own = self.own_authority.as_str();
        let Some(authority) = request.authority() else { return own };
        if self.preserve_host || authority == own {
            return authority;
        }
        let is_local = request.client.is_none_or(|peer| peer.ip().to_canonical().is_loopback());
        // The same port, too: another server on this machine is not this proxy.
        let port = split_authority(own).and_then(|(_, port)| port);
        match split_authority(authority) {
            Some((host, named)) if is_local && is_loopback(&host) && named == port => authority,
            _ => own,
        }
    }

    /// Does a response redirect its client to the URL that it has asked for?
    pub(super) fn leads_nowhere(
        &self,
        request: &Request,
        status: StatusCode,
        fields: &impl FieldValues,
    ) -> bool {
        if !status.is_redirection() {
            return false;
        }
        let believed = self.believed(request);
        let passed_on = self.passed_on_url(request);
        let mut aliases = vec![self.forwarded_host(request, &believed)];
        // The key has no host, so one stored response is given to clients that know the proxy by
        // several names. It must lead none of them back.
        if passed_on.host.is_none() {
            aliases.extend(request.authority());
            aliases.push(&self.own_authority);
        }
        let own = OwnUrl {
            site: self.site(request),
            aliases,
            target: &self.key.shape(request.target.as_str()),
            exact_scheme: passed_on.scheme.is_some(),
        };
        leads_nowhere(status, fields, &self.origin, &own, &self.key)
    }
}

impl Proxy {
    /// The client that has sent a request, through however many trusted proxies.
    pub fn client(&self, request: &Request) -> Option<IpAddr> {
        self.settings.believed(request).client
    }

    /// Interim responses are rewritten as final ones are: a `Link` in a 103 must not lead a client past
    /// the proxy (RFC 8297).
    pub(super) fn rewrite_interim(&self, fetch: &Fetch, fields: &mut Fields) {
        let site = self.settings.site(&fetch.forward.question.request);
        rewrite(fields, &self.settings.origin, &site);
    }

    /// What takes interim responses, and rewrites them.
    pub(super) fn rewriting(&self, interim: &Arc<Interim>, fetch: &Fetch) -> Arc<Interim> {
        // Owned: interim responses come from the connection, which borrows nothing of the request.
        let (interim, origin) = (Arc::clone(interim), self.settings.origin.clone());
        let Site { scheme, authority } = self.settings.site(&fetch.forward.question.request);
        let authority = authority.map(Cow::into_owned);
        Arc::new(move |status, mut fields| {
            let authority = authority.as_deref().map(Cow::Borrowed);
            rewrite(&mut fields, &origin, &Site { scheme, authority });
            interim(status, fields);
        })
    }
}
