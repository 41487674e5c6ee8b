//! Answers made of what is stored: whole, in ranges, or "not modified". RFC 9111 §4, RFC 9110 §13,
//! §14, and what is done to every response on its way out.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};

use crate::clock::Timestamp;
use crate::message::body::{Arriving, Body, Growing, Grown};
use crate::message::content::{Content, Slice};
use crate::message::date;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::policy::digest::Salt;
use crate::policy::forwarding::{add_response_fields, has_content};
use crate::policy::partial::without_digests;
use crate::policy::precondition::{if_range_holds, is_not_modified, keep_for_304, keep_for_416};
use crate::policy::range::{self, Span, Wanted, content_range};
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::response::Response;
use crate::policy::reuse::{Judgement, judge};
use crate::policy::rewriting::rewrite;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::vary::{self, Sent};
use crate::proxy::collapse::Shareable;
use crate::proxy::question::Question;
use crate::proxy::{Proxy, Settings};
use crate::stats::Counter;

impl Proxy {
    /// Answers from a stored response (§4).
    pub(super) fn reuse(
        &self,
        question: &Question,
        stored: &Arc<StoredResponse>,
        followed: Option<Why>,
        detail: Option<Detail>,
    ) -> Response {
        // Where reuses are limited, `decide` has counted this one when it took it.
        if self.settings.reuse.reuses_max.is_none() {
            stored.note_reuse();
        }
        self.cache.touch(question.key.as_str(), stored);
        // The moment of the decision: at a later one, what was judged fresh might be sent with an age
        // beyond its lifetime.
        let now = question.request_time;
        let status = self.hit_status(stored, now, followed, detail);
        self.respond_with(question, stored, now, status)
    }

    fn hit_status(
        &self,
        head: &StoredHead,
        now: Timestamp,
        followed: Option<Why>,
        detail: Option<Detail>,
    ) -> CacheStatus {
        self.stats.count(Counter::Hit);
        if followed.is_some() {
            self.stats.count(Counter::Collapsed);
        }
        CacheStatus {
            from_cache: true,
            hit: followed.is_none(),
            why: followed,
            freshness_left: head.freshness_left(now),
            collapsed: followed.is_some(),
            detail,
            ..CacheStatus::default()
        }
    }

    /// What digests of credentials are keyed with now. A store that is not reachable yet tells later; what
    /// was kept under another salt until then fits nobody.
    pub(super) fn salt(&self) -> Arc<Salt> {
        self.cache.salt().unwrap_or_else(|| Arc::clone(&self.own_salt))
    }

    /// Does a response fit a request that the origin server would get with these fields (§4.1)? A redirect
    /// that would lead this client to where it comes from does not: that depends on the name by which the
    /// client knows the proxy, which the key may not hold.
    pub(super) fn fits(&self, question: &Question, head: &StoredHead) -> bool {
        let sent = Sent { fields: self.sent(question), salt: &self.salt() };
        vary::matches(&head.selecting, &head.fields, sent)
            && !self.settings.leads_nowhere(&question.request, head.status, &head.fields)
    }

    /// The response that another request is fetching, for this one; `None` if it does not fit or may not be
    /// reused, or if its beginning is gone.
    pub(super) fn share(
        &self,
        question: &Question,
        shareable: &Shareable,
        followed: Option<Why>,
    ) -> Option<Response> {
        let Question { request, presented, request_time: now, .. } = question;
        let (head, now) = (&shareable.head, *now);
        let usable = judge(presented, head, false, now, &self.settings.reuse);
        if !self.fits(question, head) || usable != Judgement::Usable {
            return None;
        }
        // Before anything is counted: a body that was cut, or whose front is gone, is no answer.
        let reader = shareable.body.reader()?;
        let status = self.hit_status(head, now, followed, None);
        if presented.conditional && is_not_modified(&request.fields, head) {
            // The reader is dropped here: the body's writer does not wait for a client that reads none
            // of it.
            return Some(self.not_modified(request, head, now, status));
        }
        let mut fields = self.outgoing(request, head, now, &status);
        if let Some(part) = head.part {
            // A stored part has no Content-Range field: its `part` says the same, and parts can be
            // joined.
            fields.set_text("content-range", content_range(part.span, part.complete));
        }
        let body = if request.method == Method::HEAD {
            Body::None { length: reader.length() }
        } else {
            Body::Growing(Box::new(reader))
        };
        Some(Response { status: head.status, fields, body, cache_status: status })
    }

    /// All but the body of what another request is fetching.
    pub(super) fn share_head(&self, question: &Question, head: &StoredHead, why: Why) -> Response {
        let now = question.request_time;
        let status = self.hit_status(head, now, Some(why), None);
        let fields = self.outgoing(&question.request, head, now, &status);
        let body = Body::None { length: None };
        Response { status: head.status, fields, body, cache_status: status }
    }

    /// The response to `request` made of a stored one: the client's conditions come first, then its
    /// ranges (RFC 9110 §13.2.2).
    pub(super) fn respond_with(
        &self,
        question: &Question,
        stored: &StoredResponse,
        now: Timestamp,
        cache_status: CacheStatus,
    ) -> Response {
        let Question { request, presented, .. } = question;
        if presented.conditional && is_not_modified(&request.fields, stored) {
            return self.not_modified(request, stored, now, cache_status);
        }
        let fields = self.outgoing(request, stored, now, &cache_status);
        if matches!(stored.content, Content::Packed(_)) {
            self.stats.count(Counter::Expanded);
        }
        // Ranges are of the representation that a 200 carries (RFC 9110 §14.2): of a redirect or an
        // error the client gets the whole.
        let about_ranges = matches!(stored.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
        if presented.range
            && about_ranges
            && let Some(specs) = range::read(&request.fields)
            && if_range_holds(&request.fields, stored)
        {
            return match wanted(stored, &specs) {
                Wanted::Nothing => self.unsatisfiable(request, stored, cache_status),
                wanted => Response { cache_status, ..ranged(fields, stored, wanted) },
            };
        }
        let length = has_content(stored.status).then_some(stored.content.len());
        let body = if request.method == Method::HEAD || length.is_none() {
            Body::None { length }
        } else {
            stored.content.body()
        };
        Response { status: stored.status, fields, body, cache_status }
    }

    /// None of the ranges exists (RFC 9110 §15.5.17). What describes the representation, and for how
    /// long it is fresh, says nothing about this response, which nobody but the proxy has made.
    fn unsatisfiable(
        &self,
        request: &Request,
        stored: &StoredResponse,
        cache_status: CacheStatus,
    ) -> Response {
        let mut fields = stored.fields.to_fields();
        keep_for_416(&mut fields);
        // No Age: the response is made now.
        self.finish(request, &mut fields, None, &cache_status);
        fields.set_text("date", date::format(self.clock.now()));
        fields.set_text("content-range", format!("bytes */{}", stored.content.len()));
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Response { status, fields, body: Body::Whole(Bytes::new()), cache_status }
    }

    fn not_modified(
        &self,
        request: &Request,
        head: &StoredHead,
        now: Timestamp,
        cache_status: CacheStatus,
    ) -> Response {
        let mut fields = self.outgoing(request, head, now, &cache_status);
        keep_for_304(&mut fields);
        let (status, body) = (StatusCode::NOT_MODIFIED, Body::None { length: None });
        Response { status, fields, body, cache_status }
    }

    /// A stored response's fields on their way to a client.
    fn outgoing(
        &self,
        request: &Request,
        head: &StoredHead,
        now: Timestamp,
        status: &CacheStatus,
    ) -> Fields {
        let mut fields = head.fields.to_fields();
        self.finish(request, &mut fields, Some(head.current_age(now).0), status);
        fields
    }

    /// What is done to every response on its way out, and counted.
    pub(super) fn finish(
        &self,
        request: &Request,
        fields: &mut Fields,
        age: Option<u32>,
        status: &CacheStatus,
    ) {
        // The proxy's own fields come last: rewriting and hiding are about the origin server's.
        self.stats.count_status(status);
        rewrite(fields, &self.settings.origin, &self.settings.site(request));
        self.settings.hide_from_browsers(fields);
        add_response_fields(fields, age, status);
    }
}

impl Settings {
    /// `--no-browser-cache`
    pub(super) fn hide_from_browsers(&self, fields: &mut Fields) {
        if self.no_browser_cache {
            fields.remove("expires");
            fields.set_text("cache-control", "no-store".to_string());
        }
    }
}

/// What to send of a stored response for these ranges.
fn wanted(stored: &StoredResponse, specs: &[range::Spec]) -> Wanted {
    let held = stored.content.len();
    match stored.part {
        None => range::wanted(specs, held),
        Some(part) => part.covers(held, specs).map_or(Wanted::Whole, Wanted::One),
    }
}

/// The answer to a range request that can be satisfied (RFC 9110 §14.2, §15.3.7).
fn ranged(mut fields: Fields, stored: &StoredResponse, wanted: Wanted) -> Response {
    let length = stored.content.len();
    // Positions are those of the complete representation, and what is stored of a part begins at
    // `first`.
    let (first, complete) = match stored.part {
        None => (0, Some(length)),
        Some(part) => (part.span.first, part.complete),
    };
    let content = match &stored.content {
        // Expanded once, however many ranges are asked for.
        Content::Packed(packed) if packed.is_short() => {
            packed.expand().map_or_else(|_| stored.content.clone(), Content::Here)
        }
        content => content.clone(),
    };
    let slice = |span: Span| content.slice(span.first - first, span.length());
    match wanted {
        Wanted::One(span) => {
            // A part that goes out as it came has the digests that it came with.
            if stored.part.is_none() || span.length() != length {
                without_digests(&mut fields);
            }
            fields.set_text("content-range", content_range(span, complete));
            let status = StatusCode::PARTIAL_CONTENT;
            Response::new(status, fields, slice(span).into_body())
        }
        Wanted::Several(spans) => several(fields, &spans, complete, slice),
        Wanted::Whole | Wanted::Nothing => {
            Response::new(stored.status, fields, stored.content.body())
        }
    }
}

/// Several ranges in one response (RFC 9110 §14.6). Nothing of the content is copied.
fn several(
    mut fields: Fields,
    spans: &[Span],
    complete: Option<u64>,
    slice: impl Fn(Span) -> Slice,
) -> Response {
    // Nobody can know it beforehand, so no content can hold it on purpose.
    let random = RandomState::new();
    let boundary = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
    let content_type = fields.get("content-type").cloned();
    let mut pieces = VecDeque::new();
    // Each part has the Content-Type of the representation; the response's own becomes multipart (RFC
    // 9110 §15.3.7.2).
    for span in spans {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(content_type) = &content_type {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(content_type.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        let range = content_range(*span, complete);
        head.extend_from_slice(format!("Content-Range: {range}\r\n\r\n").as_bytes());
        pieces.push_back(Slice::Here(head.into()));
        pieces.push_back(slice(*span));
    }
    pieces.push_back(Slice::Here(format!("\r\n--{boundary}--\r\n").into()));
    let length = pieces.iter().map(Slice::len).sum();
    fields.set_text("content-type", format!("multipart/byteranges; boundary={boundary}"));
    fields.remove("content-range");
    without_digests(&mut fields);
    // An event loop can send only what it can peek at; what is read from a disk may wait, and is a
    // worker's.
    let in_memory = pieces.iter().all(|piece| matches!(piece, Slice::Here(_)));
    let pieces = Box::new(Pieces { length, pieces });
    let body = if in_memory { Body::Growing(pieces) } else { Body::Arriving(pieces) };
    Response::new(StatusCode::PARTIAL_CONTENT, fields, body)
}

/// Content piece by piece: it grows if all of it is in memory, else it arrives.
struct Pieces {
    length: u64,
    pieces: VecDeque<Slice>,
}

impl Arriving for Pieces {
    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.pieces.front_mut() {
            let count = piece.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.pieces.pop_front();
        }
        Ok(0)
    }
}

impl Growing for Pieces {
    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown> {
        let mut filled = 0;
        for piece in &self.pieces {
            // Not reached: `several` gives a body with distant pieces as one that arrives.
            let Slice::Here(piece) = piece else { break };
            let count = piece.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        Ok(if filled == 0 { Grown::End } else { Grown::Bytes(filled) })
    }

    fn consume(&mut self, mut count: usize) {
        while let Some(Slice::Here(piece)) = self.pieces.front_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    // All of it is there from the beginning: there is nothing to wait for, and no news.
    fn wait(&mut self) {}

    fn listen(&mut self, _: Box<dyn Fn() + Send + Sync>) {}
}
