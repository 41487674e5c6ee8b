//! A listener for this machine's own programs, on a Unix socket: one request a connection, answered by a thread that
//! ends with it. Whoever can connect is the user that started the proxy; a program may be at fault or hang all the same.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};
use parking_lot::{Condvar, Mutex};

use crate::front::event::parse;
use crate::front::wire::WireClient;
use crate::message::body::Body;
use crate::message::chunked::{Decoder, Piece};
use crate::message::request::{Framing, Request, RequestError, RequestLimits};
use crate::origin::HEAD_BYTES_MAX;
use crate::policy::response::Response;
use crate::vital;

/// The most content that a request may have. One is read at a time.
const CONTENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most clients that are answered at a time; more wait to be accepted.
const CLIENTS_MAX: usize = 16;
/// How long a client may take to send the head of its request, and to take or send a part of what follows.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to send all of its content.
const CONTENT_MAX: Duration = Duration::from_secs(300);
/// How much is read at a time.
const READ_BYTES: usize = 16 * 1024;

/// Answers a request, given its content; may wait.
pub(crate) type ControlHandler = Arc<dyn Fn(&Request, &[u8]) -> Response + Send + Sync>;

/// What the threads that answer share.
struct SharedAnswering {
    handler: ControlHandler,
    /// How many clients are being answered.
    clients: Mutex<usize>,
    /// There is one less.
    left: Condvar,
    /// Held while content is read, and used.
    content: Mutex<()>,
}

/// A client that is being answered; dropped, it is not any more.
struct AnsweredClient(Arc<SharedAnswering>);

impl AnsweredClient {
    /// Waits until there is one less than may be.
    fn wait(shared: &Arc<SharedAnswering>) -> Self {
        let mut clients = shared.clients.lock();
        while *clients == CLIENTS_MAX {
            shared.left.wait(&mut clients);
        }
        *clients += 1;
        drop(clients);
        Self(Arc::clone(shared))
    }
}

impl Drop for AnsweredClient {
    fn drop(&mut self) {
        *self.0.clients.lock() -= 1;
        self.0.left.notify_one();
    }
}

/// Answers clients of `listener` until the process ends. The error is that there is no thread for that.
pub fn serve(listener: UnixListener, handler: ControlHandler) -> io::Result<()> {
    let (clients, left, content) = (Mutex::default(), Condvar::new(), Mutex::default());
    let shared = Arc::new(SharedAnswering { handler, clients, left, content });
    vital::spawn("control", move || {
        loop {
            let client = AnsweredClient::wait(&shared);
            match listener.accept() {
                Ok((stream, _)) => answer_apart(stream, client),
                // The client has gone again, or descriptors are scarce.
                Err(error) => {
                    log::debug!("control: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    })
}

/// Answers a client on a thread of its own: one that is silent does not keep others waiting.
fn answer_apart(mut stream: UnixStream, client: AnsweredClient) {
    let answer = move || {
        // A bug that one request reaches costs that request.
        match catch_unwind(AssertUnwindSafe(|| answer(&mut stream, &client.0))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("control: {error}"),
            Err(_) => log::error!("control: a request panicked"),
        }
    };
    // Without a thread the client sees that it is not answered.
    if let Err(error) = thread::Builder::new().name("control".to_string()).spawn(answer) {
        log::warn!("control: no thread: {error}");
    }
}

/// Answers one request.
fn answer(stream: &mut UnixStream, shared: &SharedAnswering) -> io::Result<()> {
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut input = Vec::new();
    let (method, response) = match read_request(stream, &mut input)? {
        None => return Ok(()),
        Some(Ok(request)) => {
            // Of several large ones, one is in memory at a time.
            let has_content = !matches!(request.framing, Framing::None | Framing::Length(0));
            let _alone = has_content.then(|| shared.content.lock());
            let response = match read_content(stream, &request, input)? {
                Ok(content) => (shared.handler)(&request, &content),
                Err(text) => Response::error(StatusCode::BAD_REQUEST, &text, false),
            };
            (request.method, response)
        }
        Some(Err(error)) => {
            (Method::GET, Response::error(error.status(), &error.to_string(), false))
        }
    };
    let client =
        WireClient { version: Version::HTTP_11, keeps_alive: false, takes_trailers: false };
    let mut bytes = client.head(&response, client.delimiting_of(&method, &response));
    // The control interface answers with whole bodies only.
    if let Body::Whole(content) = &response.body
        && method != Method::HEAD
    {
        bytes.extend_from_slice(content);
    }
    stream.write_all(&bytes)?;
    linger(stream)
}

/// Reads what the client still sends, and throws it away: a socket that is closed before would lose the answer.
fn linger(stream: &mut UnixStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + SILENCE_MAX;
    let mut thrown = Vec::new();
    while read_some(stream, &mut thrown, deadline)? > 0 {
        thrown.clear();
    }
    Ok(())
}

/// Reads the head of a request; what comes behind it is left in `input`. `None` if the client has gone.
fn read_request(
    stream: &mut UnixStream,
    input: &mut Vec<u8>,
) -> io::Result<Option<Result<Request, RequestError>>> {
    let (limits, deadline) = (RequestLimits::default(), Instant::now() + SILENCE_MAX);
    let mut seen = 0;
    loop {
        // However slowly it drips, it is read again only when it may be complete, or is wrong by its first line.
        if seen == 0 || parse::may_be_complete(input, seen) {
            let read =
                parse::head(input, limits, |head| (head.to_request(None, limits), head.length));
            match read {
                Ok(Some((request, length))) => {
                    input.drain(..length);
                    return Ok(Some(request));
                }
                Ok(None) => {}
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        seen = input.len();
        if seen > HEAD_BYTES_MAX {
            return Ok(Some(Err(RequestError::FieldsTooLarge(limits.field_bytes))));
        }
        if read_some(stream, input, deadline)? == 0 {
            return Ok(None);
        }
    }
}

/// Reads the content of a request, of which `input` has come; the text says why it is refused.
fn read_content(
    stream: &mut UnixStream,
    request: &Request,
    mut input: Vec<u8>,
) -> io::Result<Result<Vec<u8>, String>> {
    let deadline = Instant::now() + CONTENT_MAX;
    let most = match request.framing {
        Framing::None => return Ok(Ok(Vec::new())),
        Framing::Length(length) => length,
        Framing::Chunked => CONTENT_BYTES_MAX,
    };
    // Refused by what is announced, before memory is taken.
    if most > CONTENT_BYTES_MAX {
        let text = format!("content of {most} bytes; at most {CONTENT_BYTES_MAX} are taken");
        return Ok(Err(text));
    }
    if request.expects_continue() && input.is_empty() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let cut = || Ok(Err("content: ended before it was complete".to_string()));
    if request.framing != Framing::Chunked {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        while input.len() < most {
            if read_some(stream, &mut input, deadline)? == 0 {
                return cut();
            }
        }
        input.truncate(most);
        return Ok(Ok(input));
    }
    let (mut decoder, mut content) = (Decoder::new(RequestLimits::default()), Vec::new());
    loop {
        match decoder.next(&input, usize::MAX) {
            Ok((used, piece)) => {
                match piece {
                    Piece::Data(data) => content.extend_from_slice(data),
                    Piece::End => return Ok(Ok(content)),
                    Piece::More => {}
                }
                input.drain(..used);
            }
            Err(_) => return Ok(Err("content: the chunked coding is malformed".to_string())),
        }
        if content.len() as u64 > CONTENT_BYTES_MAX {
            return Ok(Err(format!("content of more than {CONTENT_BYTES_MAX} bytes")));
        }
        if input.is_empty() && read_some(stream, &mut input, deadline)? == 0 {
            return cut();
        }
    }
}

/// Reads once, before this moment; how many bytes were added.
fn read_some(stream: &mut UnixStream, input: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
    let left = deadline.saturating_duration_since(Instant::now()).min(SILENCE_MAX);
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    let mut buffer = [0; READ_BYTES];
    let count = stream.read(&mut buffer)?;
    input.extend_from_slice(&buffer[..count]);
    Ok(count)
}
