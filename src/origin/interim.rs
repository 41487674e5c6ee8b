//! Interim responses, taken out of what the origin server sends before the final one comes.
//! RFC 9110 §15.2, RFC 8297.
//!
//! The client library reads them and throws them away, so the bytes are looked at before it gets them.
//! A 100 is taken out as well, and goes no further: nobody here has asked for it. 101 ends the
//! conversation.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::message::fields::Fields;
use crate::policy::forwarding::strip_hop_by_hop;

/// The most interim responses to one request; an origin server that sends more is broken.
pub const INTERIM_MAX: usize = 64;
/// The most field lines of one.
const LINES_MAX: usize = 64;

/// What the input begins with.
#[derive(Debug, Eq, PartialEq)]
pub enum Beginning {
    /// A complete interim response of so many bytes, to be passed on unless it is a 100.
    Interim {
        /// Its status: 100 to 199, but not 101.
        status: StatusCode,
        /// Its fields, without hop-by-hop ones.
        fields: Fields,
        /// How many bytes it takes.
        bytes: usize,
    },
    /// Not enough to tell.
    Partial,
    /// The final response, or something that is left to the client library.
    Other,
}

/// Looks at what has come from the origin server.
pub fn look_at(input: &[u8]) -> Beginning {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut head = httparse::Response::new(&mut lines);
    let bytes = match head.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        // As soon as the status is known it is known whether this is one.
        Ok(httparse::Status::Partial) if head.code.is_none_or(is_interim) => {
            return Beginning::Partial;
        }
        Ok(httparse::Status::Partial) | Err(_) => return Beginning::Other,
    };
    let Some(status) = head.code.filter(|code| is_interim(*code)) else {
        return Beginning::Other;
    };
    let Ok(status) = StatusCode::from_u16(status) else { return Beginning::Other };
    let mut fields: Fields = head
        .headers
        .iter()
        .filter_map(|line| {
            let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(line.value).ok()?))
        })
        .collect();
    strip_hop_by_hop(&mut fields);
    fields.remove("content-length");
    Beginning::Interim { status, fields, bytes }
}

fn is_interim(code: u16) -> bool {
    code == 100 || (102..200).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_response_is_known_by_its_head() {
        let early =
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: y\r\n\r\nHTTP/1.1";
        let Beginning::Interim { status, fields, bytes } = look_at(early) else {
            panic!("it is complete")
        };
        assert_eq!((status.as_u16(), bytes, fields.len()), (103, early.len() - 8, 1));
        for end in 0..bytes {
            assert_eq!(look_at(&early[..end]), Beginning::Partial, "{end}");
        }
        let bare = look_at(b"HTTP/1.1 102 Processing\r\n\r\n");
        assert!(matches!(bare, Beginning::Interim { bytes: 27, .. }), "{bare:?}");
        for other in ["HTTP/1.1 101 S\r\n\r\n", "HTTP/1.1 200 OK\r\n", "junk"] {
            assert_eq!(look_at(other.as_bytes()), Beginning::Other, "{other}");
        }
    }
}
