//! A response whose head has gone out: its content goes on to all its readers.
//!
//! When the connection to the origin server dies half way and others read along, the origin server is asked
//! once more. Its answer is taken for the same only if it is: same status, validators and length, and the
//! same bytes as far as they have come.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};

use crate::message::fields::FieldValues;
use crate::origin::{OriginHead, RequestHead};
use crate::policy::validation::make_unconditional;
use crate::proxy::Proxy;
use crate::proxy::fill::{Ending, Sink};
use crate::proxy::plan::Forward;
use crate::stats::Counter;

/// A response whose content is on its way.
pub struct Transfer {
    /// Where the content goes.
    pub sink: Sink,
    forward: Forward,
    resumption: Resumption,
}

/// May the origin server be asked for the response once more, and how?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Resumption {
    /// Without the conditions of the request.
    WithoutConditions,
    /// For the whole, as before.
    Whole,
    /// No: it has been asked once more, or was asked in a way that cannot be repeated.
    No,
}

/// What is done about content that was cut short.
pub enum CutShort {
    /// The content is lost: its readers see that it is cut.
    Lost,
    /// The origin server is asked once more: [`Transfer::resumes`].
    AskAgain(Box<Transfer>, RequestHead),
}

impl Transfer {
    pub(super) fn new(sink: Sink, forward: Forward, may_resume: bool, asks_whole: bool) -> Self {
        let resumption = match (may_resume, asks_whole) {
            (false, _) => Resumption::No,
            (true, true) => Resumption::Whole,
            (true, false) => Resumption::WithoutConditions,
        };
        Self { sink, forward, resumption }
    }

    /// The last piece has come, with its proven end. The error gives the transfer back, for [`Proxy::lose`]: what
    /// has come is not what had come before.
    pub fn finish(self, piece: &[u8]) -> Result<Ending, Box<Self>> {
        let Self { sink, forward, resumption } = self;
        let back = |sink: Box<Sink>| Box::new(Self { sink: *sink, forward, resumption });
        sink.finish(piece).map_err(back)
    }

    /// Does this head, of the answer to asking once more, belong to the same response? Then the sink takes the
    /// content from the front, and compares it with what has come.
    pub fn resumes(&mut self, head: &OriginHead) -> bool {
        assert!(
            self.resumption == Resumption::No,
            "the origin server is asked again once, by `cut`"
        );
        // What is not being stored any more has nothing to be compared with.
        let Some(before) = self.sink.head() else { return false };
        // The head can only show that it is another response; that it is the same one, the bytes show.
        let is_same = head.has_content
            && head.status == before.status
            && head.length == self.sink.length()
            && !head.silently_delimited
            && ["etag", "last-modified", "content-type", "content-encoding"]
                .iter()
                .all(|name| head.fields.value(name) == before.fields.get(name));
        if is_same {
            self.sink.begin_to_compare();
        }
        is_same
    }
}

impl Proxy {
    /// The content was cut short after its head was passed on, or is not what has come before.
    pub fn cut(&self, mut transfer: Box<Transfer>) -> CutShort {
        let Transfer { forward, resumption, sink } = &mut *transfer;
        // Once: readers of a body whose second connection dies as well learn it.
        let resumption = std::mem::replace(resumption, Resumption::No);
        if resumption != Resumption::No && sink.may_resume() {
            let head = self.head_to_resume(forward, resumption);
            // Counted here, since its answer goes to `resumes`, not to `receive`.
            self.stats.count(Counter::OriginRequest);
            return CutShort::AskAgain(transfer, head);
        }
        self.lose(&transfer);
        CutShort::Lost
    }

    /// The content is lost. The drop of the transfer cuts the body for its readers, and the next request for it
    /// begins a fetch of its own.
    pub fn lose(&self, transfer: &Transfer) {
        self.stats.count(Counter::Truncated);
        // The client can be told no more than by an end that is none. The driver knows which of the two it was;
        // here both look the same.
        log::warn!(
            "{}: the origin server closed the connection in the middle of the response, or sent nothing for \
             --origin-timeout; it is cut for its client, and not stored",
            transfer.forward.key.redacted()
        );
    }

    /// How to ask once more for what is asked in `forward`.
    fn head_to_resume(&self, forward: &Forward, resumption: Resumption) -> RequestHead {
        // By the words of the request, not of the plan: a condition could bring a 304 in place of the
        // content.
        let question = &forward.question;
        let mut fields = Arc::clone(self.sent(question));
        let changed = Arc::make_mut(&mut fields);
        match resumption {
            Resumption::Whole => make_unconditional(changed),
            _ => changed.retain(|name, _| *name != IF_NONE_MATCH && *name != IF_MODIFIED_SINCE),
        }
        let host = self.settings.passed_on_host(&question.request).map(Cow::into_owned);
        RequestHead { method: Method::GET, url: self.url(question), host, fields, waits: true }
    }
}
