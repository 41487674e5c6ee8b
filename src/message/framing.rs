//! How the content of a response is delimited, and what may follow it. RFC 9112 §6, §9.3.
//!
//! Strict: a head out of which two readers could read two messages is an error, because what one of
//! them takes for content the other takes for the next response (§11.1). `chunked.rs` takes the chunked
//! coding apart; `request.rs` has the framing of requests.

use http::{StatusCode, Version};

use crate::message::fields::Fields;
use crate::message::head::ResponseHead;

/// How the content of a response is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseFraming {
    /// There is none, whatever the fields say.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Codings that are known, and that nobody here takes off (RFC 9112 §7.2).
const CODINGS: [&[u8]; 5] = [b"gzip", b"x-gzip", b"compress", b"x-compress", b"deflate"];

/// How the response with this head is delimited; `to_head` says that it answers a HEAD. The error says
/// what is wrong with the framing.
pub fn response_framing(
    head: &ResponseHead,
    to_head: bool,
) -> Result<ResponseFraming, &'static str> {
    let empty = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // §6.3, item 1: whatever the fields say, the head is all.
    if to_head || empty || head.status.is_informational() {
        return Ok(ResponseFraming::None);
    }
    let length = content_length(&head.fields)?;
    match transfer_coding(head)? {
        LastCoding::None => Ok(length.map_or(ResponseFraming::Close, ResponseFraming::Length)),
        // §6.3, item 3: it overrides the length.
        LastCoding::Chunked => Ok(ResponseFraming::Chunked),
        LastCoding::Unknown => Ok(ResponseFraming::Close),
    }
}

/// May another request go out on the connection that a response with this head came in?
pub fn leaves_connection_open(head: &ResponseHead, framing: ResponseFraming) -> bool {
    // All that follows on this connection is read as the next response, so any doubt closes it.
    let ResponseHead { version, fields, .. } = head;
    // §6.1: with both, somebody on the way may have read another message out of it.
    let ambiguous = fields.contains("transfer-encoding") && fields.contains("content-length");
    let old = *version == Version::HTTP_10;
    framing != ResponseFraming::Close
        && !ambiguous
        && !fields.has_member("connection", "close")
        && (!old || fields.has_member("connection", "keep-alive"))
}

/// The length that a header section states. Several lines or members are one if they agree (§6.3,
/// item 5).
pub fn content_length(fields: &Fields) -> Result<Option<u64>, &'static str> {
    let mut stated = None;
    // §6.3: senders and proxies that repeat the same number are seen; two that differ let two readers
    // see two messages.
    for member in fields.members("content-length") {
        let digits =
            std::str::from_utf8(member).ok().filter(|_| member.iter().all(u8::is_ascii_digit));
        let length = digits.and_then(|digits| digits.parse::<u64>().ok());
        let length = length.ok_or("Content-Length is not a number")?;
        if stated.is_some_and(|other| other != length) {
            return Err("two Content-Lengths that disagree");
        }
        stated = Some(length);
    }
    // Only commas, or nothing: the field is there, and says no length.
    if stated.is_none() && fields.contains("content-length") {
        return Err("Content-Length is not a number");
    }
    Ok(stated)
}

/// What the last transfer coding says about the end of the content.
enum LastCoding {
    None,
    Chunked,
    /// A coding that nobody knows, so that nobody can say what it means to the content.
    Unknown,
}

/// The transfer coding of a response; the error says what is wrong with it.
fn transfer_coding(head: &ResponseHead) -> Result<LastCoding, &'static str> {
    let mut members = head.fields.members("transfer-encoding");
    if !head.fields.contains("transfer-encoding") {
        return Ok(LastCoding::None);
    }
    // §6.1: whoever sent it there does not know what it means, so the framing is faulty.
    if head.version == Version::HTTP_10 {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    let only = members.next().ok_or("Transfer-Encoding without a coding")?;
    if members.next().is_some() {
        // Chunked twice, not as the last, or over another coding, which would stay on the content.
        return Err("more than one transfer coding");
    }
    let name = only.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    if is(b"chunked") {
        // §7.1: it has no parameters.
        return if name.len() == only.len() {
            Ok(LastCoding::Chunked)
        } else {
            Err("chunked with a parameter")
        };
    }
    // No TE was sent, so none was asked for (§7.2): taking it off would need a decoder, and leaving it
    // on would give clients content that no field describes.
    if CODINGS.into_iter().any(is) {
        return Err("a transfer coding that was not asked for");
    }
    // `identity` is the name that RFC 2616 had for no coding at all. Unknown codings are seen in the
    // wild with plain content behind them: the content then ends with the connection (§6.3), and the
    // field is dropped.
    Ok(if is(b"identity") { LastCoding::None } else { LastCoding::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::head::read_response;

    fn read(text: &str, to_head: bool) -> (Result<ResponseFraming, &'static str>, bool) {
        let bytes = format!("HTTP/{}\r\n\r\n", text.replace('|', "\r\n"));
        let head = read_response(bytes.as_bytes()).expect("well formed").expect("complete");
        let framing = response_framing(&head, to_head);
        (framing, framing.is_ok_and(|framing| leaves_connection_open(&head, framing)))
    }

    /// A section, a head, its framing, and whether the connection may be used again.
    type Row = (&'static str, &'static str, Result<ResponseFraming, ()>, bool);

    fn check(table: &[Row]) {
        for (section, head, framing, open) in table {
            let (got, left_open) = read(head, false);
            let got = got.map_err(|_| ());
            assert_eq!((got, left_open), (*framing, *open), "RFC 9112 §{section}: {head}");
            let to_head = read(head, true).0;
            assert_eq!(to_head, Ok(ResponseFraming::None), "§6.3: {head}, to a HEAD");
        }
    }

    #[test]
    fn a_length_is_unambiguous_or_an_error() {
        use ResponseFraming::{Close, Length, None};
        #[rustfmt::skip]
        let table: [Row; 24] = [
            ("6.3", "1.1 200 OK|Content-Length: 5",                                  Ok(Length(5)), true),
            ("6.3", "1.1 200 OK|Content-Length: 005",                                Ok(Length(5)), true),
            ("6.3", "1.1 200 OK|Content-Length: 5, 5",                               Ok(Length(5)), true),
            ("6.3", "1.1 200 OK|Content-Length: 5|Content-Length: 05",               Ok(Length(5)), true),
            ("6.3", "1.1 200 OK|Content-Length: 18446744073709551615",               Ok(Length(u64::MAX)), true),
            ("6.3", "1.1 200 OK|Content-Length: 5|Content-Length: 6",                Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: 5, 6",                               Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: 18446744073709551616",               Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: +5",                                 Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: -5",                                 Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: 5.0",                                Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: 5 5",                                Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: 0x5",                                Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: \"5\"",                              Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length:",                                    Err(()), false),
            ("6.3", "1.1 200 OK|Content-Length: ,",                                  Err(()), false),
            ("6.3", "1.1 200 OK",                                                    Ok(Close), false),
            ("2.3", "1.9 200 OK|Content-Length: 5",                                  Ok(Length(5)), true),
            ("6.3", "1.1 204 No|Content-Length: 5",                                  Ok(None), true),
            ("6.3", "1.1 304 No|Content-Length: 5|Content-Length: 6",                Ok(None), true),
            ("9.3", "1.1 200 OK|Content-Length: 5|Connection: a, Close",             Ok(Length(5)), false),
            ("9.3", "1.0 200 OK|Content-Length: 5",                                  Ok(Length(5)), false),
            ("9.3", "1.0 200 OK|Content-Length: 5|Connection: Keep-Alive",           Ok(Length(5)), true),
            ("9.3", "1.0 200 OK",                                                    Ok(Close), false),
        ];
        check(&table);
    }

    #[test]
    fn a_transfer_coding_is_unambiguous_or_an_error() {
        use ResponseFraming::{Chunked, Close, Length, None};
        #[rustfmt::skip]
        let table: [Row; 25] = [
            ("7.1", "1.1 200 OK|Transfer-Encoding: chunked",                         Ok(Chunked), true),
            ("7.1", "1.1 200 OK|Transfer-Encoding: , CHUNKED ,",                     Ok(Chunked), true),
            ("2.3", "1.2 200 OK|Transfer-Encoding: chunked",                         Ok(Chunked), true),
            ("6.1", "1.1 200 OK|Transfer-Encoding: chunked|Content-Length: 5",       Ok(Chunked), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: wombat|Content-Length: 5",        Ok(Close), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: chunked|Content-Length: x",       Err(()), false),
            ("6.1", "1.0 200 OK|Transfer-Encoding: chunked",                         Err(()), false),
            ("6.1", "1.0 200 OK|Transfer-Encoding: chunked|Connection: keep-alive",  Err(()), false),
            ("6.1", "1.0 200 OK|Transfer-Encoding: wombat",                          Err(()), false),
            ("6.3", "1.1 200 OK|Transfer-Encoding: wombat",                          Ok(Close), false),
            ("6.3", "1.1 200 OK|Transfer-Encoding: xchunked",                        Ok(Close), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: chunked, wombat",                 Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: wombat, chunked",                 Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: wombat|Transfer-Encoding: chunked", Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: chunked, chunked",                Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: chunked|Transfer-Encoding: chunked", Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding: identity, chunked",               Err(()), false),
            ("7.1", "1.1 200 OK|Transfer-Encoding: chunked;q=1",                     Err(()), false),
            ("7.1", "1.1 200 OK|Transfer-Encoding: chunked ; a",                     Err(()), false),
            ("7.2", "1.1 200 OK|Transfer-Encoding: gzip, chunked",                   Err(()), false),
            ("7.2", "1.1 200 OK|Transfer-Encoding: gzip",                            Err(()), false),
            ("7.2", "1.1 200 OK|Transfer-Encoding: X-Gzip",                          Err(()), false),
            ("6.1", "1.1 200 OK|Transfer-Encoding:",                                 Err(()), false),
            ("7",   "1.1 200 OK|Transfer-Encoding: identity|Content-Length: 5",      Ok(Length(5)), false),
            ("6.3", "1.1 103 Hints|Transfer-Encoding: chunked",                      Ok(None), true),
        ];
        check(&table);
    }
}
