//! A response whose head has come, and of which nothing has gone to the client yet.
//!
//! The first piece of a short body is awaited before the head goes out: it usually comes with the head, and if
//! it does not come the client can still be given a 502 or a stale response.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::StatusCode;
use http::header::TRAILER;

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::body::Body;
use crate::message::content::Slice;
use crate::message::fields::Fields;
use crate::message::growing::Reader;
use crate::origin::{OriginError, OriginHead};
use crate::policy::age::age_value;
use crate::policy::forwarding::strip_received;
use crate::policy::precondition::{holds_for, keep_for_304};
use crate::policy::reason::{CacheStatus, Detail, Why};
use crate::policy::response::Response;
use crate::policy::trailers::announced_trailers;
use crate::proxy::Proxy;
use crate::proxy::fill::transfer::Transfer;
use crate::proxy::fill::{Ending, PIECE_BYTES, Progress, SettlingSink, Sink};
use crate::proxy::next::Answer;
use crate::proxy::plan::{Asks, Forward, Plan};
use crate::proxy::receive::settle_failure;
use crate::stats::Counter;

/// A response whose head has come. A driver takes the prefix, then the first piece if it is awaited, settles, and
/// passes the response on.
pub struct Incoming {
    pub(in crate::proxy) forward: Forward,
    pub(in crate::proxy) plan: Plan,
    pub(in crate::proxy) head: OriginHead,
    /// The status that came. That of the rest of a part is 206, and the client gets the whole.
    received_status: StatusCode,
    pub(in crate::proxy) response_time: Timestamp,
    /// The stored beginning of the content, which the origin server was asked for the rest of; `None` where the
    /// origin server sends all of it, and once the driver has taken it.
    pub(in crate::proxy) prefix: Option<Slice>,
    pub(in crate::proxy) content: IncomingContent,
    /// The driver hands on trailer fields, should some come, and the client takes them.
    pub(in crate::proxy) brings_trailers: bool,
}

/// What becomes of the content of a response that has not been passed on.
pub(in crate::proxy) enum IncomingContent {
    /// It is passed on to one client, and not stored for this reason. `first` is what has come of it.
    Passing { refusal: Detail, first: Bytes },
    /// It is to be stored; the client reads it by this reader.
    Storing(Box<Sink>, Reader),
    /// All of it has come; whether it is stored, the backing store has yet to say: memory was full.
    Settling(Box<SettlingSink>, Bytes),
    /// All of it has come, or there is none; `refusal` says why it is not stored, `None` that it is.
    Ended { body: Body, refusal: Option<Detail> },
    /// It is on its way from one of these states to another.
    Lost,
}

/// A response on its way to the client.
pub enum PassedResponse {
    /// All of it is here.
    Whole(Response),
    /// Its content is still to be fetched.
    Growing(Response, Box<Transfer>),
}

impl Incoming {
    pub(in crate::proxy) fn new(
        forward: Forward,
        plan: Plan,
        head: OriginHead,
        response_time: Timestamp,
    ) -> Self {
        // Until the caller knows what becomes of it: what is dropped before that has brought nothing.
        let (received_status, content) = (head.status, IncomingContent::Lost);
        Self {
            forward,
            plan,
            head,
            received_status,
            response_time,
            prefix: None,
            content,
            brings_trailers: false,
        }
    }

    /// A response that has no part in the cache.
    pub(in crate::proxy) fn passing(
        forward: Forward,
        head: OriginHead,
        response_time: Timestamp,
        refusal: Detail,
    ) -> Self {
        let mut incoming = Self::new(forward, Plan::new(Asks::AsItIs), head, response_time);
        incoming.content = incoming.refused(refusal);
        incoming
    }

    /// What becomes of content that is not stored for this reason.
    pub(in crate::proxy) fn refused(&self, refusal: Detail) -> IncomingContent {
        // Without content the response is over with its head, and has no sink to move along.
        if self.head.has_content {
            return IncomingContent::Passing { refusal, first: Bytes::new() };
        }
        // What memory has let go of went to the reader, piece by piece.
        let body = Body::None { length: self.head.length };
        IncomingContent::Ended { body, refusal: Some(refusal) }
    }

    /// The length in bytes of the content that is awaited before the head goes out, at most [`PIECE_BYTES`];
    /// `None` if the head goes out at once.
    pub fn awaited(&self) -> Option<usize> {
        let is_open = self.is_open();
        // A body of unknown length may bring its first piece much later than its head: that one goes
        // out at once.
        let length = self.head.length.filter(|length| is_open && *length <= PIECE_BYTES as u64)?;
        Some(length as usize)
    }

    /// Does content still come?
    fn is_open(&self) -> bool {
        matches!(self.content, IncomingContent::Passing { .. } | IncomingContent::Storing(..))
    }

    /// Is it passed on to one client alone?
    fn is_passing(&self) -> bool {
        matches!(self.content, IncomingContent::Passing { .. })
    }

    /// The stored beginning of the content, which a driver hands in before what it reads; `None` if the origin
    /// server sends all.
    pub fn take_prefix(&mut self) -> Option<Slice> {
        self.prefix.take()
    }

    /// The first piece has come, and is not all of the content.
    pub fn take(&mut self, piece: &[u8]) -> Progress {
        assert!(self.is_open(), "nothing comes after the end");
        match &mut self.content {
            IncomingContent::Passing { first, .. } => {
                // The one piece that comes before the head goes out; from then on a sink takes them.
                assert!(first.is_empty(), "one piece is awaited");
                *first = Bytes::copy_from_slice(piece);
                Progress::More
            }
            IncomingContent::Storing(sink, _) => sink.take(piece),
            _ => Progress::Lost,
        }
    }

    /// Has the backing store yet to say whether the response is stored? The head says it.
    pub fn has_to_settle(&self) -> bool {
        matches!(self.content, IncomingContent::Settling(..))
    }

    /// Waits until the backing store has said so.
    pub fn settle(&mut self) {
        let content = std::mem::replace(&mut self.content, IncomingContent::Lost);
        self.content = match content {
            IncomingContent::Settling(settling, content) => {
                // The head says whether it is stored (RFC 9211 §2.5), so it goes out after this.
                let refusal = settling.wait().refusal;
                IncomingContent::Ended { body: Body::Whole(content), refusal }
            }
            other => other,
        };
    }

    /// All of the content has come in one piece, as long as its head says, with its proven end.
    pub fn finish(&mut self, piece: Bytes) {
        assert_eq!(self.awaited(), Some(piece.len()), "it is all that is awaited");
        let content = std::mem::replace(&mut self.content, IncomingContent::Lost);
        self.content = match content {
            IncomingContent::Passing { refusal, .. } => {
                IncomingContent::Ended { body: Body::Whole(piece), refusal: Some(refusal) }
            }
            IncomingContent::Storing(sink, reader) => match sink.finish(&piece) {
                Ok(Ending::Done(ended)) => {
                    // Memory and the client share the bytes. What was not kept there is in the reader's window.
                    let body =
                        ended.whole.map_or_else(|| Body::Growing(Box::new(reader)), Body::Whole);
                    IncomingContent::Ended { body, refusal: ended.refusal }
                }
                Ok(Ending::Settle(settling)) => IncomingContent::Settling(settling, piece),
                Err(_) => unreachable!("nothing has come before, and this is all"),
            },
            other => other,
        };
    }
}

impl Proxy {
    /// The response goes to the client: its head now, its content as it comes.
    pub fn pass_on(&self, incoming: Incoming) -> PassedResponse {
        assert!(!incoming.has_to_settle(), "the driver has settled it");
        // What is stored has none: its next clients could not be given them (RFC 9111 §3.1).
        let announced = if incoming.brings_trailers && incoming.is_passing() {
            announced_trailers(&incoming.head.fields)
        } else {
            None
        };
        let Incoming {
            forward, plan, head, received_status, response_time, prefix, content, ..
        } = incoming;
        assert!(prefix.is_none(), "the driver has taken what is stored of the content");
        let (body, refusal, sink) = match content {
            IncomingContent::Passing { refusal, first } => {
                let (sink, reader) = Sink::passing(head.length, &first, &self.wide);
                (Body::Growing(Box::new(reader)), Some(refusal), Some(Box::new(sink)))
            }
            IncomingContent::Storing(mut sink, reader) => {
                // From here on others read along: the head has been decided about, and is not taken
                // back.
                sink.share();
                (Body::Growing(Box::new(reader)), sink.refusal(), Some(sink))
            }
            IncomingContent::Ended { body, refusal } => (body, refusal, None),
            IncomingContent::Settling(..) | IncomingContent::Lost => {
                unreachable!("it is settled, and what is lost is not passed on")
            }
        };
        let cache_status = self.cache_status(&forward, received_status, refusal);
        let OriginHead { status, fields, .. } = head;
        // The client's condition gave way to ours; what has come may be what it has (§4.3.2).
        let question = &forward.question;
        // What is fetched is not given up for it: the sink below takes the content, which may be
        // stored.
        let has_it = question.presented.conditional
            && matches!(plan.asks, Asks::Whether(_) | Asks::Whole)
            && holds_for(&question.request.fields, status, &fields, response_time);
        let mut fields = self.fields_for_client(&forward, fields, response_time, &cache_status);
        let (status, body) = if has_it {
            keep_for_304(&mut fields);
            (StatusCode::NOT_MODIFIED, Body::None { length: None })
        } else {
            (status, body)
        };
        if let Some(announced) = announced.filter(|_| !has_it) {
            fields.append(TRAILER, announced);
        }
        let response = Response { status, fields, body, cache_status };
        match sink {
            None => PassedResponse::Whole(response),
            Some(sink) => {
                // What has come as the rest of a stored part, or from where a redirect led, is not what
                // these words would bring again.
                let may_resume = !matches!(plan.asks, Asks::Rest(_)) && plan.redirect.is_none();
                let asks_whole = matches!(plan.asks, Asks::Whole);
                let transfer = Transfer::new(*sink, forward, may_resume, asks_whole);
                PassedResponse::Growing(response, Box::new(transfer))
            }
        }
    }

    /// The content was cut short, or did not come, before anything was passed on: the client is answered with a
    /// stale response or an error. `what` is for the log and the error.
    pub fn cut_before(&self, incoming: Incoming, what: &str) -> Answer {
        assert!(incoming.is_open(), "what has come to its end is not cut");
        self.stats.count(Counter::Truncated);
        let Incoming { forward, content, .. } = incoming;
        // A response that is only passed on owes nothing any more: its duty was settled with its head.
        let error =
            OriginError::Cut { origin: self.settings.origin.to_string(), what: what.to_string() };
        // Nobody has been given any of it yet, so followers can still be given the failure
        // instead.
        if let IncomingContent::Storing(sink, _) = content
            && let Some(duty) = sink.into_duty()
        {
            settle_failure(duty, &error);
        }
        self.fail_forward(&forward, &error).into()
    }

    /// What `Cache-Status` says about the response.
    fn cache_status(
        &self,
        forward: &Forward,
        code: StatusCode,
        refusal: Option<Detail>,
    ) -> CacheStatus {
        let mut status = CacheStatus {
            why: Some(forward.why),
            forward_status: Some(code.as_u16()),
            detail: forward.detail,
            stored: refusal.is_none(),
            ..CacheStatus::default()
        };
        if let Some(detail) = refusal {
            // That nobody waited, or how it was asked for, says less than why it is not stored.
            let says_less = matches!(
                status.detail,
                None | Some(Detail::HitForMiss | Detail::Validator | Detail::Rest)
            );
            // `fwd=method` says that already; of a HEAD nothing else says it.
            let is_said = detail == Detail::Method && forward.why == Why::Method;
            if says_less && !is_said {
                status.detail = Some(detail);
            }
            self.log_credentials(forward, detail);
        }
        status
    }

    /// Says once in the log that a response is not stored because of the request's credentials: it is
    /// what puzzles operators who put a cache before an API.
    fn log_credentials(&self, forward: &Forward, detail: Detail) {
        let presented = &forward.question.presented;
        let personal = presented.get && presented.personal() == Some(detail);
        if personal && !self.logged_credentials.swap(true, Ordering::Relaxed) {
            log::info!(
                "{}: not stored, because the request has credentials and the response does not say \
                 that it may be shared (detail={}); see --share-credentials. Further ones are not \
                 logged",
                forward.key.redacted(),
                detail.as_str()
            );
        }
    }

    /// A response's fields on their way to the client that asked for it.
    fn fields_for_client(
        &self,
        forward: &Forward,
        mut fields: Fields,
        response_time: Timestamp,
        status: &CacheStatus,
    ) -> Fields {
        let question = &forward.question;
        // Caches on the way may have kept it, and its own way took time (RFC 9111 §4.2.3).
        let delay = response_time.seconds_since(question.request_time);
        let age = age_value(&fields).unwrap_or(DeltaSeconds::ZERO).plus(delay);
        let age = (age > DeltaSeconds::ZERO).then_some(age.0);
        strip_received(&mut fields);
        self.finish(&question.request, &mut fields, age, status);
        fields
    }
}
