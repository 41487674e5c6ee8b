//! The fast path, the shortest way to a hit: a fresh response that every plain request for its target URI may be
//! given alike. Nothing is allocated and nothing is parsed here; whatever is not plain goes through
//! [`Proxy::ask`], which comes to the same answer. RFC 9111 §4.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::AGE;

use crate::clock::Timestamp;
use crate::message::fields::write_decimal;
use crate::message::head::write_status_line;
use crate::message::percent::normalised;
use crate::message::target::Scheme;
use crate::policy::credentials::is_signed;
use crate::policy::forwarding::{add_via, has_content};
use crate::policy::plain::is_stored_plain;
use crate::policy::rewriting::{Site, rewrite};
use crate::policy::stored::StoredResponse;
use crate::proxy::Proxy;
use crate::store::Variants;

/// A request that asks nothing of a cache: a GET or HEAD for a path, without content, conditions,
/// ranges, directives or anything else that could make a difference.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// The request target, in origin form and without a fragment.
    pub target: &'a str,
    /// Some of its fields carry credentials.
    pub credentials: bool,
}

/// What plain requests for a target URI are answered with.
pub struct FastHit {
    variants: Variants,
    now: Timestamp,
}

impl FastHit {
    /// The content.
    pub fn content(&self) -> &Bytes {
        self.stored().content.here().expect("a fast hit is found in memory")
    }

    /// Writes the head but for the empty line at its end: what was put together when it was first asked
    /// for, and the fields that change.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        let stored = self.stored();
        out.extend_from_slice(stored.ready_head().unwrap_or_default());
        out.extend_from_slice(b"Age: ");
        write_decimal(out, u64::from(stored.current_age(self.now).0));
        out.extend_from_slice(b"\r\nCache-Status: proxy; hit");
        if let Some(seconds) = stored.freshness_left(self.now) {
            out.extend_from_slice(b"; ttl=");
            write_decimal(out, seconds.unsigned_abs());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn stored(&self) -> &StoredResponse {
        // `answer_fast` has looked at the first one, and a list of variants is replaced, never changed.
        &self.variants[0]
    }
}

impl Proxy {
    /// A fresh response for a plain request, if memory has one that may be given as it is. `key` is a
    /// buffer for the cache key. Counts nothing.
    pub fn answer_fast(
        &self,
        plain: Plain<'_>,
        now: Timestamp,
        key: &mut String,
    ) -> Option<FastHit> {
        let Plain { target, credentials } = plain;
        let credentials = credentials || self.settings.origin_authorization.is_some();
        let prefix = self.settings.origin.prefix();
        // Dot segments, which could lead out of the prefix, are for the longer way.
        let dots = || ["..", "%2e", "%2E"].iter().any(|dots| target.contains(dots));
        if !self.plain || !prefix.is_empty() && dots() {
            return None;
        }
        // Nothing is copied unless the client has encoded what needs no encoding.
        let target = &*normalised(target);
        key.clear();
        key.push_str(self.settings.origin.as_str());
        key.push_str(target);
        let variants = self.cache.look_at(key)?;
        let stored = variants.first()?;
        let shares = self.settings.reuse.share_credentials;
        let is_personal = !shares && (credentials || is_signed(target));
        let usable = stored.content.here().is_some() && is_stored_plain(stored, is_personal, now);
        if !usable || stored.make_ready(|stored| self.ready_head(stored)).is_none() {
            return None;
        }
        // As `Proxy::reuse` does: neither eviction nor the count of reuses may depend on the path.
        stored.note_reuse();
        self.cache.touch(key, stored);
        Some(FastHit { variants, now })
    }

    /// What all plain requests are answered with, but for the fields that change: `None` if there is
    /// more to it, as with fields that name the host that the client asked.
    fn ready_head(&self, stored: &StoredResponse) -> Option<Vec<u8>> {
        if !has_content(stored.status) {
            return None;
        }
        let mut fields = stored.fields.clone();
        let public = self.settings.public_url.as_ref();
        // A host that nobody asks for: if rewriting changes anything, the head depends on the client's
        // Host, and is not the same for all.
        let authority = public.map_or("host.invalid", |public| &public.authority);
        let scheme = public.map_or(Scheme::Http, |public| public.scheme);
        let site = Site { scheme, authority: Some(Cow::Borrowed(authority)) };
        rewrite(&mut fields, &self.settings.origin, &site);
        if public.is_none() && fields != stored.fields {
            return None;
        }
        self.settings.hide_from_browsers(&mut fields);
        // `write_head` writes the age for each client; the proxy's own X-Cache stands below.
        fields.remove(AGE.as_str());
        fields.remove("x-cache");
        add_via(&mut fields);
        let mut head = Vec::with_capacity(stored.ready_bytes());
        write_status_line(&mut head, stored.status);
        fields.write_to(&mut head);
        head.extend_from_slice(b"X-Cache: HIT\r\nContent-Length: ");
        write_decimal(&mut head, stored.content.len());
        head.extend_from_slice(b"\r\n");
        head.shrink_to_fit();
        Some(head)
    }
}
