//! Asking once more for a body whose connection died half way, when others read along.
//!
//! The answer is taken for the same only if it is: same status, validators and length, and the same
//! bytes as far as they have come.

use std::sync::Arc;

use http::Method;

use crate::message::fields::Fields;
use crate::message::growing::Writer;
use crate::origin::{Origin, OriginBody, OriginRequest, RequestContent};
use crate::policy::stored::StoredHead;
use crate::proxy::fill::PIECE_BYTES;
use crate::stats::{Counter, Stats};

/// A request for the same once more.
pub struct Again {
    /// Who is asked.
    pub origin: Arc<dyn Origin>,
    /// The absolute URL.
    pub url: String,
    /// The Host field, where it is not the URL's own authority.
    pub host: Option<String>,
    /// The fields, without the conditions of the first request.
    pub fields: Fields,
    /// Counts the request.
    pub stats: Arc<Stats>,
}

impl Again {
    /// Asks, and reads as much as `writer` has got already; `None` if it is not the same response to
    /// the byte.
    pub fn ask(
        self,
        head: &StoredHead,
        length: Option<u64>,
        writer: &Writer,
    ) -> Option<Box<dyn OriginBody>> {
        self.stats.count(Counter::OriginRequest);
        let request = OriginRequest {
            method: &Method::GET,
            url: &self.url,
            host: self.host.as_deref(),
            fields: &self.fields,
            content: RequestContent::None,
            waits: true,
            interim: None,
        };
        let response = self.origin.send(request).ok()?;
        let same = |name: &str| response.fields.get(name) == head.fields.get(name);
        let is_same = response.status == head.status
            && response.length == length
            && !response.silently_delimited
            && ["etag", "last-modified", "content-type", "content-encoding"]
                .iter()
                .all(|name| same(name));
        if !is_same {
            return None;
        }
        let mut body = response.body?;
        let mut piece = vec![0; PIECE_BYTES];
        let (mut position, total) = (0, writer.total());
        while position < total {
            let most = piece.len().min((total - position) as usize);
            match body.read(&mut piece[..most]) {
                Ok(count) if count > 0 && writer.agrees(position, &piece[..count]) => {
                    position += count as u64;
                }
                _ => return None,
            }
        }
        Some(body)
    }
}
