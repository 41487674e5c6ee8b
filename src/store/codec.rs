//! Stored responses as bytes and back, for stores outside this process.
//!
//! A frame names its version, and has a checksum of everything in it: what is damaged, cut short, or of
//! another version is no response at all, never half of one. The key is in it, too, so that a store that
//! mixes up its answers is found out. What follows from the fields (the directives) is not written down.
//!
//! ```text
//! "cpx" version  checksum of all that follows  key  head  length of the content  content
//! ```
//!
//! Numbers are little-endian; texts and lists have their length before them, in 32 bits. A store that keeps content
//! by itself has frames without it, and checks the content by its own checksums.
//!
//! Field names are in lower case, but for the letters that came in another case than in the usual capitals. Version
//! 0.2.0 of this program wrote all letters in lower case, and compares names without regard to case: its frames are
//! read here in the usual capitals, it reads these, and both may use one store.

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::key::CacheKey;
use crate::policy::range::{Part, Span};
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::vary::Selecting;

/// What a frame begins with; the last byte is the version. The first had selecting credentials in
/// clear.
const MAGIC: [u8; 4] = *b"cpx\x02";
/// The most field lines, and the most selecting fields, that are read.
const LINES_MAX: usize = 4096;

/// Why bytes are not a stored response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreadable {
    /// It is no frame, or one of another version.
    Version,
    /// The checksum is another: bytes are missing or changed.
    Damaged,
    /// The checksum is right, and what it says makes no sense.
    Nonsense,
}

/// A stored response with its content, as bytes; the content must be in memory.
pub fn encode(key: &CacheKey, head: &StoredHead, content: &[u8]) -> Vec<u8> {
    let mut out = begin(key, head, content.len() as u64, content.len());
    out.extend_from_slice(content);
    seal(out)
}

/// The same but for the content, which has `length` bytes and is kept elsewhere.
pub fn encode_head(key: &CacheKey, head: &StoredHead, length: u64) -> Vec<u8> {
    seal(begin(key, head, length, 0))
}

fn begin(key: &CacheKey, head: &StoredHead, length: u64, more_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + more_bytes);
    out.extend_from_slice(&MAGIC);
    // The checksum's place: `seal` fills it in.
    out.extend_from_slice(&[0; 4]);
    put_text(&mut out, key.as_str().as_bytes());
    out.extend_from_slice(&head.status.as_u16().to_le_bytes());
    put_part(&mut out, head.part);
    let (kind, span) = match head.lifetime {
        Lifetime::Explicit(span) => (0, span),
        Lifetime::Operator(span) => (1, span),
        Lifetime::Heuristic(span) => (2, span),
        Lifetime::Unknown => (3, DeltaSeconds::ZERO),
    };
    out.push(kind);
    out.extend_from_slice(&span.0.to_le_bytes());
    out.extend_from_slice(&head.age_on_arrival.0.to_le_bytes());
    for moment in [head.response_time, head.fresh_until, head.useful_until] {
        out.extend_from_slice(&moment.0.to_le_bytes());
    }
    put_length(&mut out, head.fields.len());
    for line in head.fields.to_fields().lines() {
        put_length(&mut out, line.name.as_str().len());
        line.write_stored_name(&mut out);
        put_text(&mut out, line.value.as_bytes());
    }
    put_length(&mut out, head.selecting.iter().count());
    for (name, value) in head.selecting.iter() {
        put_text(&mut out, name.as_str().as_bytes());
        out.push(u8::from(value.is_some()));
        put_text(&mut out, value.unwrap_or_default());
    }
    out.extend_from_slice(&length.to_le_bytes());
    out
}

fn seal(mut frame: Vec<u8>) -> Vec<u8> {
    assert!(frame.starts_with(&MAGIC) && frame.len() > 8, "a frame begins with `begin`");
    let sum = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// A checksum of a piece of content; the same bytes as another piece, or of another body, have another one.
pub fn checksum(salt: u64, piece: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&piece.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The stored response that `frame` holds, and its key. The content is not copied.
pub fn decode(frame: &Bytes) -> Result<(CacheKey, StoredResponse), Unreadable> {
    let (key, head, length, content) = open(frame)?;
    if content.len() as u64 != length {
        return Err(Unreadable::Nonsense);
    }
    Ok((key, StoredResponse::new(head, content)))
}

/// What `frame` holds of a stored response whose content is kept elsewhere: its key, all but its
/// content, and the length of that.
pub fn decode_head(frame: &Bytes) -> Result<(CacheKey, StoredHead, u64), Unreadable> {
    let (key, head, length, content) = open(frame)?;
    if content.is_empty() { Ok((key, head, length)) } else { Err(Unreadable::Nonsense) }
}

/// A response as a store has it that keeps small content beside the head, and all other content elsewhere.
pub struct RowDecoded {
    /// Its key.
    pub key: CacheKey,
    /// All but its content.
    pub head: StoredHead,
    /// Bytes of content.
    pub length: u64,
    /// The content, if it is here.
    pub content: Option<Bytes>,
}

/// What `frame` holds of a stored response, whose content is in it or kept elsewhere.
pub fn decode_row(frame: &Bytes) -> Result<RowDecoded, Unreadable> {
    let (key, head, length, content) = open(frame)?;
    let is_here = content.len() as u64 == length;
    if !is_here && !content.is_empty() {
        return Err(Unreadable::Nonsense);
    }
    // Copied: a piece of the frame would keep all of it in memory.
    let content = is_here.then(|| Bytes::copy_from_slice(&content));
    Ok(RowDecoded { key, head, length, content })
}

/// Checks a frame, and takes it apart.
fn open(frame: &Bytes) -> Result<(CacheKey, StoredHead, u64, Bytes), Unreadable> {
    let magic = frame.get(..4).ok_or(Unreadable::Version)?;
    if magic != MAGIC {
        return Err(Unreadable::Version);
    }
    // The version comes before the checksum: another version may compute that in another way.
    let sum = frame.get(4..8).ok_or(Unreadable::Damaged)?;
    if sum != crc32fast::hash(&frame[8..]).to_le_bytes() {
        return Err(Unreadable::Damaged);
    }
    read(CodecReader(frame.slice(8..))).ok_or(Unreadable::Nonsense)
}

fn read(mut from: CodecReader) -> Option<(CacheKey, StoredHead, u64, Bytes)> {
    let key = CacheKey::from(std::str::from_utf8(&from.text()?).ok()?);
    let status = StatusCode::from_u16(from.0.try_get_u16_le().ok()?).ok()?;
    let part = from.part()?;
    let (kind, span) = (from.0.try_get_u8().ok()?, DeltaSeconds(from.0.try_get_u32_le().ok()?));
    let lifetime = match kind {
        0 => Lifetime::Explicit(span),
        1 => Lifetime::Operator(span),
        2 => Lifetime::Heuristic(span),
        3 => Lifetime::Unknown,
        _ => return None,
    };
    let age_on_arrival = DeltaSeconds(from.0.try_get_u32_le().ok()?);
    let mut moment = || from.0.try_get_u64_le().ok().map(Timestamp);
    let (response_time, fresh_until, useful_until) = (moment()?, moment()?, moment()?);
    // The checksum is right, but is no signature: a shared store may hold what anybody has written. Lengths are
    // compared with what is there before memory is taken for them.
    let mut fields = Fields::new();
    for _ in 0..from.length()? {
        let name = from.text()?;
        fields.append_stored(&name, HeaderValue::from_bytes(&from.text()?).ok()?).ok()?;
    }
    let mut selecting = Vec::new();
    for _ in 0..from.length()? {
        let name = HeaderName::from_bytes(&from.text()?).ok()?;
        let has_value = from.0.try_get_u8().ok()? == 1;
        let value = from.text()?;
        selecting.push((name, has_value.then(|| value.to_vec())));
    }
    let length = from.0.try_get_u64_le().ok()?;
    let head = StoredHead {
        status,
        part,
        // Read again, so that a newer version of the policy reads them by its own rules.
        directives: ResponseDirectives::read(&fields),
        fields: fields.into(),
        selecting: selecting.into_iter().collect::<Selecting>(),
        lifetime,
        age_on_arrival,
        response_time,
        fresh_until,
        useful_until,
    };
    Some((key, head, length, from.0))
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len());
    out.extend_from_slice(text);
}

fn put_part(out: &mut Vec<u8>, part: Option<Part>) {
    let Some(Part { span, complete }) = part else { return out.push(0) };
    out.push(if complete.is_some() { 2 } else { 1 });
    for number in [span.first, span.last, complete.unwrap_or(0)] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Reads what was put, and nothing that is not there.
struct CodecReader(Bytes);

impl CodecReader {
    fn length(&mut self) -> Option<usize> {
        Some(self.0.try_get_u32_le().ok()? as usize).filter(|length| *length <= LINES_MAX)
    }

    fn text(&mut self) -> Option<Bytes> {
        let length = self.0.try_get_u32_le().ok()? as usize;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    #[allow(clippy::option_option, reason = "the outer one is an error, the inner one a value")]
    fn part(&mut self) -> Option<Option<Part>> {
        let kind = self.0.try_get_u8().ok()?;
        if kind == 0 {
            return Some(None);
        }
        let mut number = || self.0.try_get_u64_le().ok();
        let (first, last, complete) = (number()?, number()?, number()?);
        let complete = match kind {
            1 => None,
            2 => Some(complete),
            _ => return None,
        };
        (first <= last).then_some(Some(Part { span: Span { first, last }, complete }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> StoredResponse {
        let line = |name, value| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a value"))
        };
        let fields: Fields =
            [line("cache-control", b"max-age=60"), line("x-a", b"caf\xe9")].into_iter().collect();
        let selecting: Selecting = [
            (HeaderName::from_static("accept"), Some(b"b".to_vec())),
            (HeaderName::from_static("accept-language"), None),
        ]
        .into_iter()
        .collect();
        let head = StoredHead {
            status: StatusCode::PARTIAL_CONTENT,
            part: Some(Part { span: Span { first: 3, last: 7 }, complete: Some(100) }),
            directives: ResponseDirectives::read(&fields),
            fields: fields.into(),
            selecting,
            lifetime: Lifetime::Explicit(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds(5),
            response_time: Timestamp(1_800_000_000_000),
            fresh_until: Timestamp(1_800_000_055_000),
            useful_until: Timestamp::MAX,
        };
        StoredResponse::new(head, Bytes::from_static(b"hello"))
    }

    #[test]
    fn what_is_written_is_read() {
        let key = CacheKey::from("http://o/a");
        let frame = Bytes::from(encode(&key, response().head(), b"hello"));
        let (read_key, read) = decode(&frame).expect("it was just written");
        assert_eq!(read_key, key);
        assert_eq!(format!("{:?}", read.head()), format!("{:?}", response().head()));
        assert_eq!(read.content.here(), response().content.here());
        let frame = Bytes::from(encode_head(&key, response().head(), 5));
        let (read_key, head, length) = decode_head(&frame).expect("it was just written");
        assert_eq!((read_key, length), (key, 5));
        assert_eq!(format!("{head:?}"), format!("{:?}", response().head()));
        assert_eq!(decode(&frame).err(), Some(Unreadable::Nonsense), "the content is elsewhere");
    }

    /// Fields with these names, as they came.
    fn spelt(names: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for name in names {
            let appended = fields.append_spelt(name.as_bytes(), HeaderValue::from_static("v"));
            appended.expect("a name");
        }
        fields
    }

    #[test]
    fn names_are_read_as_they_were_spelt() {
        let key = CacheKey::from("http://o/a");
        let long = ["x-a_1".repeat(40), "X-".repeat(100), "A".repeat(65)];
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let tables: [&[&str]; 4] = [
            &["date", "x-amz-id-2", "etag"],
            &["Date", "ETag", "X-Amz-Id-2"],
            &["DATE", "eTAG", "Etag", "x-B", "X-b", "x-b"],
            &long,
        ];
        for names in tables {
            let mut head = response().head().clone();
            head.fields = spelt(names).into();
            let frame = Bytes::from(encode(&key, &head, b"hello"));
            let (_, read) = decode(&frame).expect("it was just written");
            assert_eq!(read.fields, head.fields);
        }
    }

    /// What version 0.2.0 wrote for [`response`], whose names are in the usual capitals.
    const OLD_FRAME: &[u8] = b"cpx\x02\x1a4\xd4.\n\0\0\0http://o/a\xce\0\
        \x02\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0d\0\0\0\0\0\0\0\
        \0<\0\0\0\x05\0\0\0\0P\\\x18\xa3\x01\0\0\xd8&]\x18\xa3\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff\
        \x02\0\0\0\r\0\0\0cache-control\n\0\0\0max-age=60\x03\0\0\0x-a\x04\0\0\0caf\xe9\
        \x02\0\0\0\x06\0\0\0accept\x01\x01\0\0\0b\x0f\0\0\0accept-language\0\0\0\0\0\
        \x05\0\0\0\0\0\0\0hello";

    #[test]
    fn frames_that_know_no_spellings_are_read_in_the_usual_capitals() {
        let key = CacheKey::from("http://o/a");
        let (read_key, read) = decode(&Bytes::from_static(OLD_FRAME)).expect("it is whole");
        assert_eq!(read_key, key);
        assert_eq!(format!("{:?}", read.head()), format!("{:?}", response().head()));
        assert_eq!(read.fields.as_bytes(), b"Cache-Control: max-age=60\r\nX-A: caf\xe9\r\n");
        // Where all names are in the usual capitals, nothing is written that an older program would not write.
        assert_eq!(encode(&key, response().head(), b"hello"), OLD_FRAME);
    }

    #[test]
    fn what_is_damaged_is_no_response() {
        let frame = encode(&CacheKey::from("http://o/a"), response().head(), b"hello");
        for end in 0..frame.len() {
            assert!(decode(&Bytes::copy_from_slice(&frame[..end])).is_err(), "{end}");
        }
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0x10;
            let expected = if at < 4 { Unreadable::Version } else { Unreadable::Damaged };
            assert_eq!(decode(&changed.into()).err(), Some(expected), "{at}");
        }
    }

    #[test]
    fn nonsense_with_the_right_checksum_is_no_response() {
        for body in [&b""[..], b"\xff\xff\xff\xff", b"\x01\x00\x00\x00a\xff\xff"] {
            let sum = crc32fast::hash(body).to_le_bytes();
            let frame = [&MAGIC[..], &sum, body].concat();
            assert_eq!(decode(&frame.into()).err(), Some(Unreadable::Nonsense));
        }
    }
}
