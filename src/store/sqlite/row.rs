//! A response as a row of the file: the columns that people and indexes read, and the one that the program
//! reads.

use bytes::Bytes;
use rusqlite::ToSql;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::codec;

/// Content of at most so many bytes is in the row itself, so that one look finds all. With it most rows still share
/// a page with another one, and none needs many more pages than its head and its content would take apart.
pub(super) const INLINE_BYTES_MAX: usize = 2048;

/// What the columns of a response say, but for its URL and salt.
pub(super) struct ResponseRow {
    status: u16,
    stored: i64,
    expires: Option<i64>,
    useless: Option<i64>,
    used: i64,
    hits: i64,
    size: i64,
    content_type: Option<String>,
    etag: Option<String>,
    last_modified: Option<String>,
    selecting: Option<String>,
    fields: String,
    head: Vec<u8>,
}

impl ResponseRow {
    pub(super) fn of(
        key: &CacheKey,
        head: &StoredHead,
        content: RowContent<'_>,
        reuses: u64,
        now: Timestamp,
    ) -> Self {
        let text = |name: &str| {
            let value = head.fields.get(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let selecting: Vec<String> = head
            .selecting
            .iter()
            .map(|(name, value)| {
                format!("{name}: {}", String::from_utf8_lossy(value.unwrap_or_default()))
            })
            .collect();
        // NULL is never: SQLite has no number that is later than all others for a person who queries the file.
        let until = |moment: Timestamp| (moment != Timestamp::MAX).then(|| seconds(moment));
        let mut fields = Vec::new();
        fields.extend_from_slice(head.fields.as_bytes());
        Self {
            status: head.status.as_u16(),
            stored: seconds(head.response_time),
            expires: until(head.fresh_until),
            useless: until(head.useful_until),
            // To store is to use: a new response must not be the first to be evicted.
            used: seconds(now),
            hits: reuses.cast_signed(),
            size: content.length.cast_signed(),
            content_type: text("content-type"),
            etag: text("etag"),
            last_modified: text("last-modified"),
            selecting: (!selecting.is_empty()).then(|| selecting.join("\n")),
            // For people; `head` has the bytes.
            fields: String::from_utf8_lossy(&fields).replace("\r\n", "\n"),
            head: match content.inline {
                Some(bytes) => codec::encode(key, head, bytes),
                None => codec::encode_head(key, head, content.length),
            },
        }
    }

    /// In the order in which the statements count them, with what comes after.
    pub(super) fn params<'a>(&'a self, more: &[&'a dyn ToSql]) -> Vec<&'a dyn ToSql> {
        let own: [&dyn ToSql; 13] = [
            &self.status,
            &self.stored,
            &self.expires,
            &self.useless,
            &self.used,
            &self.hits,
            &self.size,
            &self.content_type,
            &self.etag,
            &self.last_modified,
            &self.selecting,
            &self.fields,
            &self.head,
        ];
        [&own[..], more].concat()
    }
}

/// The content of a response, as far as its row has to do with it.
#[derive(Clone, Copy)]
pub(super) struct RowContent<'a> {
    pub length: u64,
    /// All of it, if it is small and in memory: then it is in the row.
    pub inline: Option<&'a [u8]>,
}

impl<'a> RowContent<'a> {
    /// Of content with this length, which may be in memory.
    pub(super) fn of(length: u64, content: Option<&'a Bytes>) -> Self {
        let small = content.filter(|bytes| bytes.len() <= INLINE_BYTES_MAX);
        Self { length, inline: small.map(|bytes| &bytes[..]) }
    }

    /// It has `length` bytes, which are in rows of their own.
    pub(super) fn apart(length: u64) -> Self {
        Self { length, inline: None }
    }
}

/// Whole seconds, as SQLite has them.
pub(super) fn seconds(moment: Timestamp) -> i64 {
    i64::try_from(moment.seconds()).unwrap_or(i64::MAX)
}
