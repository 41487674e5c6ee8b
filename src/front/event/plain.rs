//! Which requests the fast path may answer: those that ask nothing of a cache but the response.

use http::Version;

use crate::front::event::parse::Head;
use crate::message::target::is_authority;
use crate::policy::effect::{Effect, effect_of};
use crate::policy::plain::is_field_plain;
use crate::proxy::Plain;

/// A request that the fast path may answer.
pub(super) struct PlainHead<'a> {
    pub plain: Plain<'a>,
    /// The method is HEAD.
    pub head: bool,
    /// What the client wants of the connection.
    pub keeps_alive: bool,
}

/// Reads a head as a plain request; `None` if there is anything in it that could make a difference, or
/// that is not as it should be. [`Request`](crate::message::request::Request) sees to those.
pub(super) fn read<'a>(head: &Head<'a, '_>) -> Option<PlainHead<'a>> {
    let is_head = match head.method {
        b"GET" => false,
        b"HEAD" => true,
        _ => return None,
    };
    // Origin form only: the other forms name the host a second time (RFC 9112 §3.2).
    let target = std::str::from_utf8(head.target).ok()?;
    if !target.starts_with('/') || target.contains('#') {
        return None;
    }
    let modern = head.version == Version::HTTP_11;
    // One pass, and no line is kept: this is done for every request.
    let (mut host, mut credentials) = (false, false);
    let mut keeps_alive = None;
    for line in head.lines {
        match effect_of(line.name) {
            Effect::Nothing => {}
            Effect::Host if !host && is_authority(line.value) => host = true,
            Effect::Connection if keeps_alive.is_none() => {
                keeps_alive = Some(keep_alive_or_close(line.value)?);
            }
            // A second one is not as it should be.
            Effect::Host | Effect::Connection => return None,
            effect if is_field_plain(effect) => credentials = true,
            _ => return None,
        }
    }
    let keeps_alive = keeps_alive.unwrap_or(modern);
    let plain = Plain { target, credentials };
    // §3.2: HTTP/1.1 without a host is refused, on the long way; HTTP/1.0 has none.
    (host || !modern).then_some(PlainHead { plain, head: is_head, keeps_alive })
}

/// What a `Connection` field with a single member asks for; `None` if it is neither of the two, and may name
/// other fields (RFC 9110 §7.6.1).
fn keep_alive_or_close(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        return Some(true);
    }
    value.eq_ignore_ascii_case(b"close").then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::event::parse;
    use crate::message::request::RequestLimits;

    #[test]
    fn what_could_make_a_difference_is_not_plain() {
        let is_plain = |text: &str| {
            let text = format!("{}\r\n\r\n", text.replace('|', "\r\n"));
            let read = |head: &Head<'_, '_>| read(head).map(|read| (read.keeps_alive, read.head));
            parse::head(text.as_bytes(), RequestLimits::default(), read)
                .expect("a head")
                .expect("a whole one")
        };
        #[rustfmt::skip]
        let table = [
            ("GET /a HTTP/1.1|Host: h",                            Some((true, false))),
            ("HEAD /a?b HTTP/1.1|Host: h:1|Accept: */*|Cookie: a", Some((true, true))),
            ("GET /a HTTP/1.1|Host: h|Connection: close",          Some((false, false))),
            ("GET /a HTTP/1.0",                                    Some((false, false))),
            ("GET /a HTTP/1.0|Connection: Keep-Alive",             Some((true, false))),
            ("GET /a HTTP/1.1",                                    None),
            ("GET /a HTTP/1.1|Host: h|Host: h",                    None),
            ("GET /a HTTP/1.1|Host: a b",                          None),
            ("GET /a#b HTTP/1.1|Host: h",                          None),
            ("GET http://h/a HTTP/1.1|Host: h",                    None),
            ("OPTIONS * HTTP/1.1|Host: h",                         None),
            ("POST /a HTTP/1.1|Host: h",                           None),
            ("GET /a HTTP/1.1|Host: h|Connection: close, x",       None),
            ("GET /a HTTP/1.1|Host: h|Connection: close|Connection: keep-alive", None),
            ("GET /a HTTP/1.1|Host: h|Connection: keep-alive|connection: close", None),
            ("GET /a HTTP/1.1|Host: h|Content-Length: 0",          None),
            ("GET /a HTTP/1.1|Host: h|Transfer-Encoding: chunked", None),
            ("GET /a HTTP/1.1|Host: h|Cache-Control: no-cache",    None),
            ("GET /a HTTP/1.1|Host: h|Range: bytes=0-1",           None),
            ("GET /a HTTP/1.1|Host: h|If-None-Match: \"a\"",       None),
            ("GET /a HTTP/1.1|Host: h|If-Modified-Since: a",       None),
            ("GET /a HTTP/1.1|Host: h|If-Unmodified-Since: a",     None),
            ("GET /a HTTP/1.1|Host: h|If-Match: a",                None),
            ("GET /a HTTP/1.1|Host: h|If-Range: a",                None),
            ("GET /a HTTP/1.1|Host: h|EXPECT: 100-continue",       None),
            ("GET /a HTTP/1.1|Host: h|Upgrade: x",                 None),
            ("GET /a HTTP/1.1|Host: h|Via: 1.1 proxy",             None),
        ];
        for (text, expected) in table {
            assert_eq!(is_plain(text), expected, "{text}");
        }
    }
}
