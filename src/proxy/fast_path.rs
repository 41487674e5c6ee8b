//! The fast path, the shortest way to a hit: a fresh response that every plain request for its target URI may be
//! given alike. Nothing is allocated and nothing is parsed here; whatever is not plain goes through
//! [`Proxy::ask`], which comes to the same answer. RFC 9111 §4.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use http::header::AGE;

use crate::clock::Timestamp;
use crate::message::content::Content;
use crate::message::fields::write_decimal;
use crate::message::head::write_status_line;
use crate::message::percent::normalised;
use crate::message::target::Scheme;
use crate::policy::credentials::is_signed;
use crate::policy::forwarding::{add_via, has_content};
use crate::policy::plain::is_stored_plain;
use crate::policy::rewriting::{Site, rewrite};
use crate::policy::stored::{ReadyFields, StoredResponse};
use crate::proxy::Proxy;
use crate::stats::Counter;
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
    /// The field lines, where they are made for this request.
    lines: Option<Vec<u8>>,
    /// The content, where it was compressed.
    expanded: Option<Bytes>,
}

/// The line by which the proxy says what a response came over (RFC 9110 §7.6.3).
const VIA_LINE: &[u8] = b"Via: 1.1 proxy\r\n";

impl FastHit {
    /// The content.
    pub fn content(&self) -> &Bytes {
        let here = || self.stored().content.here().expect("a fast hit is found in memory");
        self.expanded.as_ref().unwrap_or_else(here)
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.stored().status
    }

    /// Writes the head but for the empty line at its end: what is stored, as far as all clients get it, and the fields
    /// that change.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        let stored = self.stored();
        write_status_line(out, stored.status);
        match (stored.ready(), &self.lines) {
            (_, Some(lines)) => out.extend_from_slice(lines),
            (Some(ReadyFields::Copy(lines)), _) => out.extend_from_slice(lines),
            _ => {
                out.extend_from_slice(stored.fields.as_bytes());
                out.extend_from_slice(VIA_LINE);
            }
        }
        out.extend_from_slice(b"X-Cache: HIT\r\nContent-Length: ");
        write_decimal(out, stored.content.len());
        out.extend_from_slice(b"\r\nAge: ");
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
    /// buffer for the cache key. Counts nothing but that it was compressed.
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
        let is_near = match &stored.content {
            Content::Here(_) => true,
            Content::Packed(packed) => packed.is_short(),
            Content::Distant(_) => false,
        };
        let usable = is_near && is_stored_plain(stored, is_personal, now);
        if !usable {
            return None;
        }
        let lines = match stored.make_ready(|stored| self.ready_fields(stored)) {
            ReadyFields::Differing => return None,
            ReadyFields::Stored | ReadyFields::Copy(_) => None,
            ReadyFields::Others => Some(self.plain_lines(stored)?),
        };
        let expanded = match &stored.content {
            Content::Packed(packed) => {
                let content = packed.expand().ok()?;
                self.stats.count(Counter::Expanded);
                Some(content)
            }
            _ => None,
        };
        // As `Proxy::reuse` does: neither eviction nor the count of reuses may depend on the path.
        stored.note_reuse();
        self.cache.touch(key, stored);
        Some(FastHit { variants, now, lines, expanded })
    }

    /// Which field lines plain requests get of this response.
    fn ready_fields(&self, stored: &StoredResponse) -> ReadyFields {
        let Some(lines) = self.plain_lines(stored) else { return ReadyFields::Differing };
        if lines.strip_suffix(VIA_LINE) == Some(stored.fields.as_bytes()) {
            ReadyFields::Stored
        } else if lines.len() <= stored.copy_bytes() {
            ReadyFields::Copy(lines.into_boxed_slice())
        } else {
            ReadyFields::Others
        }
    }

    /// The field lines that all plain requests get, but for those that change: `None` if there is
    /// more to it, as with fields that name the host that the client asked.
    fn plain_lines(&self, stored: &StoredResponse) -> Option<Vec<u8>> {
        if !has_content(stored.status) {
            return None;
        }
        let mut fields = stored.fields.to_fields();
        let public = self.settings.public_url.as_ref();
        // A host that nobody asks for: if rewriting changes anything, the head depends on the client's
        // Host, and is not the same for all.
        let authority = public.map_or("host.invalid", |public| &public.authority);
        let scheme = public.map_or(Scheme::Http, |public| public.scheme);
        let site = Site { scheme, authority: Some(Cow::Borrowed(authority)) };
        let before = public.is_none().then(|| fields.clone());
        rewrite(&mut fields, &self.settings.origin, &site);
        if before.is_some_and(|before| before != fields) {
            return None;
        }
        self.settings.hide_from_browsers(&mut fields);
        // `write_head` writes these for each client.
        fields.remove(AGE.as_str());
        fields.remove("x-cache");
        add_via(&mut fields);
        let mut lines = Vec::with_capacity(fields.wire_bytes());
        fields.write_to(&mut lines);
        Some(lines)
    }
}
