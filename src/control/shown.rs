//! The content of a stored response, shown so that it can do nothing: text as text, a picture as a picture.
//!
//! What it is says the content itself, never its `Content-Type`: HTML, SVG and scripts are text here. A browser
//! that is given the answer by itself opens it in a sandbox.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::control::listing::variant;
use crate::control::query::{Query, Wrong, bad};
use crate::control::{json_response, text_as};
use crate::message::body::Body;
use crate::message::inflate::inflated;
use crate::message::visible::visible_lines;
use crate::policy::response::Response;
use crate::policy::stored::StoredResponse;
use crate::proxy::{BlockingDriver, Proxy};

/// How much of a text is shown, in bytes.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// The largest picture that is shown, in bytes.
const PICTURE_BYTES_MAX: u64 = 8 << 20;
/// How much is shown in hexadecimal digits of what is neither.
const BINARY_BYTES_MAX: usize = 512;
/// What a browser may do with the answer: show it.
const SANDBOX: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";

/// The stored response that is meant: of the URL's variants the one that `variant` names, or any.
fn selected(proxy: &Proxy, query: &Query) -> Result<Arc<StoredResponse>, Wrong> {
    let (url, named) = (query.need("url")?, query.get("variant"));
    let keys = proxy.keys_for(url).map_err(bad)?;
    let mut found = keys.iter().flat_map(|key| proxy.stored_responses(key)).map(|(found, _)| found);
    let gone = || (StatusCode::NOT_FOUND, format!("{}: not stored any more", keys[0]));
    found.find(|found| named.is_none_or(|named| named == variant(found))).ok_or_else(gone)
}

/// The content of what a query names.
pub(super) fn content(proxy: &Proxy, query: &Query) -> Result<Response, Wrong> {
    let stored = selected(proxy, query)?;
    let unreadable = |error| (StatusCode::SERVICE_UNAVAILABLE, format!("its content: {error}"));
    let beginning = beginning(&stored, TEXT_BYTES_MAX).map_err(unreadable)?;
    let length = stored.content.len();
    let picture = picture_type(&beginning);
    let mut response = if let Some(media_type) = picture.filter(|_| length <= PICTURE_BYTES_MAX) {
        let whole = self::beginning(&stored, PICTURE_BYTES_MAX).map_err(unreadable)?;
        let mut response = text_as(media_type, String::new());
        response.body = Body::Whole(whole.into());
        response
    } else {
        text_as("text/plain; charset=utf-8", text_of(&stored, &beginning))
    };
    let name = HeaderName::from_static("content-security-policy");
    response.fields.append(name, HeaderValue::from_static(SANDBOX));
    Ok(response)
}

/// Asks the origin server for what a query names, whatever is stored. May wait.
pub(super) fn refresh(driver: &BlockingDriver, query: &Query) -> Result<Response, Wrong> {
    let stored = selected(driver.proxy(), query)?;
    let request = driver.proxy().refreshing_request(query.need("url")?, &stored).map_err(bad)?;
    let delivery = driver.answer(&request);
    let (status, outcome) = (delivery.response.status, delivery.response.cache_status.to_string());
    // Its content is fetched if it is to be stored, and sent to nobody.
    delivery.finish();
    Ok(json_response(&json!({ "status": status.as_u16(), "cache_status": outcome })))
}

/// The first bytes of the content, at most `most`.
fn beginning(stored: &StoredResponse, most: u64) -> std::io::Result<Vec<u8>> {
    let length = stored.content.len().min(most);
    let mut slice = stored.content.slice(0, length);
    let (mut bytes, mut filled) = (vec![0; length as usize], 0);
    while filled < bytes.len() {
        match slice.read(&mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The media type of a raster picture, by its first bytes; `None` for anything else.
fn picture_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => Some("image/avif"),
        _ => None,
    }
}

/// What is shown of content that begins with these bytes: without its coding, if that is gzip or deflate.
fn text_of(stored: &StoredResponse, beginning: &[u8]) -> String {
    let length = stored.content.len();
    let mut codings = stored.fields.members("content-encoding");
    let coding = codings.next().filter(|_| codings.next().is_none());
    if let Some(decoded) =
        coding.and_then(|coding| inflated(coding, beginning, TEXT_BYTES_MAX as usize))
    {
        let (mut text, shown) = as_text(&decoded.bytes, decoded.is_whole);
        if !decoded.is_whole || shown < decoded.bytes.len() {
            let _ = write!(text, "\n[the first {shown} bytes; coded, all of it has {length}]\n");
        }
        return text;
    }
    let (mut text, shown) = as_text(beginning, beginning.len() as u64 == length);
    if (shown as u64) < length {
        let _ = write!(text, "\n[{shown} of {length} bytes]\n");
    }
    text
}

/// A text, or the beginning of one, of which nothing can hide; else bytes in hexadecimal digits. And how many of the
/// bytes that is.
fn as_text(bytes: &[u8], is_whole: bool) -> (String, usize) {
    // Cut within a letter, it is a text all the same.
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && !is_whole => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    if let Some(valid) = valid.filter(|text| !text.contains('\0')) {
        (visible_lines(valid).into_owned(), valid.len())
    } else {
        let shown = &bytes[..bytes.len().min(BINARY_BYTES_MAX)];
        let about = "not text (coded, or of another kind); in hexadecimal digits:";
        let mut text = format!("{about}\n\n");
        for line in shown.chunks(16) {
            let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "{}", digits.join(" "));
        }
        (text, shown.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_bytes_and_nothing_else_is_one() {
        #[rustfmt::skip]
        let table: [(&[u8], Option<&str>); 8] = [
            (b"\x89PNG\r\n\x1a\nrest", Some("image/png")), (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"GIF89a...", Some("image/gif")), (b"RIFF....WEBPVP8 ", Some("image/webp")),
            (b"....ftypavif", Some("image/avif")), (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
            (b"<script>alert(1)</script>", None), (b"", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(picture_type(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_hides_in_a_text_is_seen() {
        let hiding = "a\u{202e}b\u{7}\nc";
        let seen = ("a⟨U+202E⟩b⟨U+0007⟩\nc".to_string(), hiding.len());
        assert_eq!(as_text(hiding.as_bytes(), true), seen);
        let cut = "aé".as_bytes().split_last().expect("bytes").1;
        assert_eq!(as_text(cut, false), ("a".to_string(), 1));
        assert!(as_text(b"\x1f\x8b\x08", true).0.ends_with("1f 8b 08\n"));
    }
}
