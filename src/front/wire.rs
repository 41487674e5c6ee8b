//! Responses as bytes: status line, fields, framing. RFC 9112 §4, §6, §9.3.

use http::{Method, StatusCode, Version};

use crate::message::body::Body;
use crate::message::fields::{Fields, write_decimal};
use crate::message::head::write_status_line;
use crate::policy::forwarding::has_content;
use crate::policy::response::Response;

/// How the end of a response is marked (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delimiting {
    /// There is no content; the length is what `Content-Length` says all the same, if anything.
    Nothing(Option<u64>),
    /// By its length.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// What the head of a response depends on besides the response.
#[derive(Clone, Copy, Debug)]
pub struct WireClient {
    /// The version of the request.
    pub version: Version,
    /// Does the connection go on after this response?
    pub keeps_alive: bool,
    /// Does the client take trailer fields (RFC 9110 §10.1.4)?
    pub takes_trailers: bool,
}

impl WireClient {
    /// How a body of this length is delimited for this client; `None` for a length that is not known.
    pub fn delimiting(self, length: Option<u64>) -> Delimiting {
        match length {
            Some(length) => Delimiting::Length(length),
            // RFC 9112 §7.1: an HTTP/1.0 client does not know chunks. Old browsers showed the sizes as
            // text.
            None if self.version == Version::HTTP_10 => Delimiting::Close,
            None => Delimiting::Chunked,
        }
    }

    /// How the response to a request with this method is delimited for this client.
    pub fn delimiting_of(self, method: &Method, response: &Response) -> Delimiting {
        // RFC 9110 §8.6: the length that a GET would get may stand in the answer to a HEAD, and must
        // not stand in a 204. In a 304 it may be wrong, so it is left out there, too.
        let no_content = *method == Method::HEAD || !has_content(response.status);
        match &response.body {
            // A response that could have content and has none says so.
            Body::None { length: _ } if !no_content => Delimiting::Nothing(Some(0)),
            body if no_content => {
                Delimiting::Nothing(body.length().filter(|_| *method == Method::HEAD))
            }
            body => self.delimiting(body.length()),
        }
    }

    /// The head of a response, as bytes.
    pub fn head(self, response: &Response, delimiting: Delimiting) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        write_status_line(&mut out, response.status);
        response.fields.write_to(&mut out);
        match delimiting {
            Delimiting::Nothing(None) | Delimiting::Close => {}
            Delimiting::Nothing(Some(length)) | Delimiting::Length(length) => {
                out.extend_from_slice(b"Content-Length: ");
                write_decimal(&mut out, length);
                out.extend_from_slice(b"\r\n");
            }
            Delimiting::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        // Said to each client in the words of its version: HTTP/1.1 connections persist unless told
        // otherwise, HTTP/1.0 ones end (RFC 9112 §9.3).
        if !self.keeps_alive || delimiting == Delimiting::Close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.version == Version::HTTP_10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// An interim response, as bytes (RFC 9110 §15.2).
pub fn interim_head(status: StatusCode, fields: &Fields) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_status_line(&mut out, status);
    fields.write_to(&mut out);
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::message::body::Body;

    #[test]
    fn the_framing_fits_the_client() {
        let mut fields = Fields::new();
        fields.append(http::header::ETAG, HeaderValue::from_static("\"a\""));
        let response = Response::new(StatusCode::OK, fields, Body::None { length: None });
        #[rustfmt::skip]
        let table = [
            (Version::HTTP_11, true,  Some(3), "Content-Length: 3\r\n"),
            (Version::HTTP_11, false, Some(3), "Content-Length: 3\r\nConnection: close\r\n"),
            (Version::HTTP_11, true,  None,    "Transfer-Encoding: chunked\r\n"),
            (Version::HTTP_10, true,  Some(3), "Content-Length: 3\r\nConnection: keep-alive\r\n"),
            (Version::HTTP_10, true,  None,    "Connection: close\r\n"),
        ];
        for (version, keeps_alive, length, expected) in table {
            let client = WireClient { version, keeps_alive, takes_trailers: true };
            let head = client.head(&response, client.delimiting(length));
            let expected = format!("HTTP/1.1 200 OK\r\nETag: \"a\"\r\n{expected}\r\n");
            assert_eq!(String::from_utf8_lossy(&head), expected);
        }
    }
}
