//! A listener for this machine's own programs, on a Unix socket: one thread answers, one request after
//! the other. Whoever can connect is the user that started the proxy, so tiny_http's hazards harm
//! nobody else.

use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::message::body::Body;
use crate::message::fields::Fields;
use crate::message::request::Request;
use crate::policy::response::Response;
use crate::vital;

/// The most content that a request may have.
const CONTENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Answers a request, given its content; may wait.
pub(crate) type ControlHandler = Arc<dyn Fn(&Request, &[u8]) -> Response + Send + Sync>;

/// Answers clients of `listener` until the process ends.
pub fn serve(listener: UnixListener, handler: ControlHandler) -> io::Result<()> {
    let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
    let answer = move || {
        while let Ok(request) = server.recv() {
            // A bug that one request reaches must not end the thread that answers all of them.
            let answered = catch_unwind(AssertUnwindSafe(|| respond(request, &handler)));
            match answered {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("control: {error}"),
                Err(_) => log::error!("control: a request panicked"),
            }
        }
        Ok(())
    };
    vital::spawn("control", answer)
}

/// Answers one request.
fn respond(mut request: tiny_http::Request, handler: &ControlHandler) -> io::Result<()> {
    let response = match read(&mut request) {
        Ok((request, content)) => handler(&request, &content),
        Err(text) => Response::error(StatusCode::BAD_REQUEST, &text, false),
    };
    // The control interface answers with whole bodies only.
    let content = match response.body {
        Body::Whole(bytes) => bytes,
        _ => bytes::Bytes::new(),
    };
    let status = tiny_http::StatusCode(response.status.as_u16());
    let headers = response.fields.iter().filter_map(|(name, value)| {
        tiny_http::Header::from_bytes(name.as_str(), value.as_bytes()).ok()
    });
    let length = Some(content.len());
    let answer = tiny_http::Response::new(status, headers.collect(), &content[..], length, None)
        // Always with a length, because the client checks by it that it has all of the answer.
        .with_chunked_threshold(usize::MAX);
    request.respond(answer)
}

/// The request as this program sees it, with its content.
fn read(request: &mut tiny_http::Request) -> Result<(Request, Vec<u8>), String> {
    let method = Method::from_bytes(request.method().as_str().as_bytes());
    let method = method.map_err(|error| error.to_string())?;
    let mut fields = Fields::new();
    for header in request.headers() {
        let name = HeaderName::from_bytes(header.field.as_str().as_str().as_bytes());
        let value = HeaderValue::from_str(header.value.as_str());
        // A field that cannot be read means nothing to the control interface.
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let mut content = Vec::new();
    // Refused by what is announced, before memory is taken; `take` is for chunked content, which
    // announces nothing.
    let length = request.body_length().unwrap_or(0) as u64;
    if length > CONTENT_BYTES_MAX {
        return Err(format!("content of {length} bytes; at most {CONTENT_BYTES_MAX} are taken"));
    }
    let read = request.as_reader().take(CONTENT_BYTES_MAX).read_to_end(&mut content);
    read.map_err(|error| format!("content: {error}"))?;
    let read = Request::new(method, request.url(), Version::HTTP_11, fields, None);
    Ok((read.map_err(|error| error.to_string())?, content))
}
