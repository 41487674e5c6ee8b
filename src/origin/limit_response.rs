//! The response with which the origin server has limited requests (429, 503), as far as it may be given to
//! other requests that are held back because of it.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::StatusCode;

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::origin::{OriginBody, OriginResponse};
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
    /// What others may have of this response. Its content is kept on its way to the client that asked.
    pub(super) fn of(response: &mut OriginResponse) -> Arc<Self> {
        // RFC 9111 §5.2.2.5, §5.2.2.7: what is private or must not be stored is kept for nobody else.
        let fields =
            told_to_all(&response.head.fields).filter(|it| it.memory_bytes() <= FIELDS_BYTES_MAX);
        let is_kept = fields.is_some();
        let answer =
            Arc::new(Self { status: response.head.status, fields, content: OnceLock::new() });
        // Content that is too long is not looked at, and the fields serve without it.
        let fits = response.head.length.is_none_or(|length| length <= CONTENT_BYTES_MAX as u64);
        if is_kept
            && fits
            && let Some(inner) = response.body.take()
        {
            let (length, copy) = (response.head.length, Some(Vec::new()));
            let answer = Arc::clone(&answer);
            response.body = Some(Box::new(CopiedBody { inner, length, copy, answer }));
        }
        answer
    }

    /// Puts it in the place of the proxy's own content, where this client accepts its content coding.
    pub fn put_into(&self, response: &mut Response, request_fields: &Fields) {
        let Some(fields) = &self.fields else { return };
        // CopiedBody bytes cannot be negotiated again: gzip that a client did not ask for is noise to it.
        let is_readable = fields.members("content-encoding").all(|coding| {
            let coding = String::from_utf8_lossy(coding);
            request_fields.has_member("accept-encoding", &coding)
        });
        let content = self.content.get().filter(|_| is_readable);
        if let Some(content) = content {
            response.fields.remove("content-type");
            response.body = Body::Whole(content.clone());
        }
        for (name, value) in fields.iter() {
            // `Content-Type` and its kin describe content that is not there.
            if content.is_some() || !name.as_str().starts_with("content-") {
                response.fields.append(name.clone(), value.clone());
            }
        }
    }
}

/// Content that is kept while it is passed on. The client's copy does not depend on it.
struct CopiedBody {
    inner: Box<dyn OriginBody>,
    length: Option<u64>,
    /// What has come so far; `None` once it is too long or has been handed over.
    copy: Option<Vec<u8>>,
    answer: Arc<LimitResponse>,
}

impl OriginBody for CopiedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(mut copy) = self.copy.take() else { return Ok(count) };
        if copy.len() + count > CONTENT_BYTES_MAX {
            return Ok(count);
        }
        copy.extend_from_slice(&buffer[..count]);
        // A reader that knows the length need not read on to the end, so that no read of 0 may come.
        let is_whole = self.length.is_some_and(|length| length == copy.len() as u64);
        if is_whole || count == 0 && !buffer.is_empty() {
            let _ = self.answer.content.set(copy.into());
        } else {
            self.copy = Some(copy);
        }
        Ok(count)
    }
}
