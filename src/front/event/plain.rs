//! Which requests can be answered at a glance: those that ask nothing of a cache but the response.

use http::Version;

use crate::front::event::parse::Head;
use crate::message::target::is_authority;
use crate::policy::credentials::is_credential;
use crate::proxy::Plain;

/// A request that may be answered at a glance.
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
    let target = std::str::from_utf8(head.target).ok()?;
    if !target.starts_with('/') || target.contains('#') {
        return None;
    }
    let modern = head.version == Version::HTTP_11;
    let (mut host, mut credentials, mut keeps_alive) = (false, false, modern);
    for line in head.lines {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        match line.name.len() {
            4 if is("host") => {
                if host || !is_authority(line.value) {
                    return None;
                }
                host = true;
            }
            10 if is("connection") => {
                keeps_alive = if line.value.eq_ignore_ascii_case(b"keep-alive") {
                    true
                } else if line.value.eq_ignore_ascii_case(b"close") {
                    false
                } else {
                    return None;
                };
            }
            length if is_telling(line.name, length) => return None,
            _ => credentials |= is_credential(line.name),
        }
    }
    let plain = Plain { target, credentials };
    (host || !modern).then_some(PlainHead { plain, head: is_head, keeps_alive })
}

/// Is this a field that could make a difference?
fn is_telling(name: &str, length: usize) -> bool {
    let names: &[&str] = match length {
        3 => &["via"],
        5 => &["range"],
        6 => &["expect"],
        7 => &["upgrade"],
        8 => &["if-match", "if-range"],
        13 => &["cache-control", "if-none-match"],
        14 => &["content-length"],
        17 => &["transfer-encoding", "if-modified-since"],
        19 => &["if-unmodified-since"],
        _ => &[],
    };
    names.iter().any(|telling| name.eq_ignore_ascii_case(telling))
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
