//! The destination of a MOVE or COPY on its way to the origin server, and what is stored for it.
//! RFC 4918 §10.3, RFC 9111 §4.4.

use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::policy::destination::Destination;
use crate::policy::key::{CacheKey, PassedOn};
use crate::proxy::Settings;

impl Settings {
    /// Does it lead out of the origin server's path prefix, or would it write there?
    pub(super) fn escapes(&self, request: &Request) -> bool {
        let origin = &self.origin;
        request.target.escapes(origin)
            || Destination::leads_out(request, origin)
            || self.destination(request).is_some_and(|found| found.target.escapes(origin))
    }

    /// Names the destination as the origin server knows it: under the host that it is told, behind its
    /// prefix.
    pub(super) fn name_destination(&self, request: &Request, sent: &mut Fields) {
        let Some(Destination { target, by_path }) = self.destination(request) else { return };
        let origin = &self.origin;
        let value = if by_path {
            format!("{}{}", origin.prefix(), target.as_str())
        } else {
            // Not the key: the scheme and host that are believed are the origin server's to translate.
            let asked = PassedOn { host: self.passed_on_host(request), ..PassedOn::default() };
            CacheKey::new(origin, &asked, target.as_str()).to_string()
        };
        sent.set_text("destination", value);
    }

    /// What stored responses for the destination are found by.
    pub(super) fn destination_key(&self, request: &Request) -> Option<CacheKey> {
        let Destination { target, .. } = self.destination(request)?;
        let target = self.key.shape(target.as_str());
        Some(CacheKey::new(&self.origin, &self.passed_on_url(request), &target))
    }

    fn destination(&self, request: &Request) -> Option<Destination> {
        // Asked for every request, and nearly always in vain.
        if !Destination::belongs_to(&request.method) {
            return None;
        }
        let seen = self.site(request).authority.unwrap_or_default();
        let own = [&*seen, request.authority().unwrap_or_default(), &self.own_authority];
        Destination::read(request, &self.origin, &own)
    }
}
