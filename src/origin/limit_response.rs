//! The response with which the origin server has limited requests (429, 503), as far as it may be given to
//! other requests that are held back because of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::StatusCode;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::origin::OriginHead;
use crate::policy::limited::told_to_all;
use crate::policy::response::Response;

/// The most bytes of content that are kept for others.
const CONTENT_BYTES_MAX: usize = 16 * 1024;
/// The most bytes that its fields may take in memory.
const FIELDS_BYTES_MAX: usize = 4 * 1024;

/// A response that limits requests, as the requests get it that are held back.
#[derive(Debug)]
pub struct LimitResponse {
    /// The status code.
    pub status: StatusCode,
    /// The fields that all may have; `None` if nothing of the response may be given to others.
    fields: Option<Fields>,
    /// Set once, when all of it has come, if it is not too long.
    content: OnceLock<Bytes>,
}

impl LimitResponse {
    /// What others may have of this response, and what is to be given its content as that passes by on its
    /// way to the client that asked; `None` if that is of no use to others.
    pub(super) fn new(head: &OriginHead) -> (Arc<Self>, Option<LimitCopy>) {
        // RFC 9111 §5.2.2.5, §5.2.2.7: what is private or must not be stored is kept for nobody else.
        let fields = told_to_all(&head.fields).filter(|it| it.wire_bytes() <= FIELDS_BYTES_MAX);
        // Content that is too long is not looked at, and the fields serve without it.
        let fits = head.length.is_none_or(|length| length <= CONTENT_BYTES_MAX as u64);
        let is_copied = fields.is_some() && fits && head.has_content;
        let answer = Arc::new(Self { status: head.status, fields, content: OnceLock::new() });
        let copy = is_copied.then(|| LimitCopy {
            length: head.length,
            bytes: Some(Vec::new()),
            answer: Arc::clone(&answer),
        });
        (answer, copy)
    }

    /// Puts it in the place of the proxy's own content, where this client accepts its content coding.
    pub fn put_into(&self, response: &mut Response, request_fields: &Fields) {
        let Some(fields) = &self.fields else { return };
        // Coded bytes cannot be negotiated again: gzip that a client did not ask for is noise to it.
        let is_readable = fields.members("content-encoding").all(|coding| {
            let coding = String::from_utf8_lossy(coding);
            request_fields.has_member("accept-encoding", &coding)
        });
        let content = self.content.get().filter(|_| is_readable);
        if let Some(content) = content {
            response.fields.remove("content-type");
            response.body = Body::Whole(content.clone());
        }
        for line in fields.lines() {
            // `Content-Type` and its kin describe content that is not there.
            if content.is_some() || !line.name.as_str().starts_with("content-") {
                response.fields.append_line(line);
            }
        }
    }
}

/// Copies the content of a response that limits requests while it passes by: 16 KiB at most. Dropped before
/// the content has ended, it leaves nothing.
pub struct LimitCopy {
    length: Option<u64>,
    /// What has come so far; `None` once it is too long or has been handed over.
    bytes: Option<Vec<u8>>,
    answer: Arc<LimitResponse>,
}

impl LimitCopy {
    /// Takes the next piece of the content.
    pub fn push(&mut self, piece: &[u8]) {
        let Some(mut bytes) = self.bytes.take() else { return };
        if bytes.len() + piece.len() > CONTENT_BYTES_MAX {
            return;
        }
        bytes.extend_from_slice(piece);
        // A reader that knows the length need not read on to the end, so that `finish` may not come.
        if self.length.is_some_and(|length| length == bytes.len() as u64) {
            let _ = self.answer.content.set(bytes.into());
        } else {
            self.bytes = Some(bytes);
        }
    }

    /// The content has ended where its framing says so.
    pub fn finish(self) {
        if let Some(bytes) = self.bytes {
            let _ = self.answer.content.set(bytes.into());
        }
    }
}
