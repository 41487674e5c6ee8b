//! What stands between ureq and the wire: messages as RFC 9112 has them on one side, and as ureq reads
//! them on the other. RFC 9112 §6, §7, §9; RFC 9110 §10.1.1, §15.2.
//!
//! ureq has the sockets, TLS, the pool and the timeouts. Heads are written and read here: in the place
//! of the short request that ureq sends, the real one goes out, and in the place of a response ureq
//! reads a short one, with its content framed the plain way (`substitute.rs`). So there is one reader of framing, the one
//! of `message`, and whatever is wrong with a response is an error before ureq sees any of it.
//!
//! ureq works on the calling thread until it has the head of the final response, so the exchange is
//! thread-local; the content may be read on another.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use ureq::unversioned::transport::time::Duration;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use crate::message::chunked::Decoder;
use crate::message::framing::{ResponseFraming, leaves_connection_open, response_framing};
use crate::message::head::{ResponseHead, may_be_complete, read_response};
use crate::message::request::RequestLimits;
use crate::origin::blocking::substitute::{ReadStage, Substitute, reframe_chunks};
use crate::origin::{HEAD_BYTES_MAX, INTERIM_MAX, Interim};
use crate::policy::bound::binds_connection;
use crate::policy::forwarding::strip_hop_by_hop;

/// A connection's buffer for what goes out.
pub(in crate::origin) const OUTPUT_BUFFER_BYTES: usize = 16 * 1024;
/// What is wrong with content that cannot be taken apart.
const MALFORMED: &str = "the chunked coding is malformed";
/// An incomplete head is looked at each time that so many bytes of it have come.
const READ_AGAIN_BYTES: usize = 4 * 1024;

thread_local! {
    /// The exchange on this thread, until it has the head of the response.
    static EXCHANGE: RefCell<Option<WireExchange>> = const { RefCell::new(None) };
}

/// One request on the wire, and its outcome.
pub(in crate::origin) struct WireExchange {
    /// The head of the request; gone when it has been sent.
    pub head: Vec<u8>,
    /// The method is HEAD.
    pub to_head: bool,
    /// The content is sent only when the origin server wants it (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Its credentials are for a connection.
    pub binds: bool,
    /// Takes interim responses.
    pub interim: Option<Arc<Interim>>,
    pub outcome: WireOutcome,
}

/// What is known of an exchange when ureq is done with it.
#[derive(Default)]
pub(in crate::origin) struct WireOutcome {
    /// A connection was opened for it.
    pub opened: bool,
    /// The head of the request has gone out, or part of it.
    pub sent: bool,
    /// Something came back.
    pub received: bool,
    /// Interim responses.
    interims: usize,
    /// The head of the final response, and how its content is delimited.
    pub response: Option<(ResponseHead, ResponseFraming)>,
}

impl WireExchange {
    /// Lets ureq `run` this exchange on this thread.
    pub(in crate::origin) fn run<R>(self, run: impl FnOnce() -> R) -> (R, WireOutcome) {
        EXCHANGE.set(Some(self));
        let result = run();
        (result, EXCHANGE.take().map(|exchange| exchange.outcome).unwrap_or_default())
    }
}

fn with_exchange<R>(look: impl FnOnce(&mut WireExchange) -> R) -> Option<R> {
    EXCHANGE.with_borrow_mut(|exchange| exchange.as_mut().map(look))
}

/// What came is no HTTP, or not the HTTP that it should be.
#[derive(Debug)]
pub(in crate::origin) struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

fn violation(what: impl Into<String>) -> Error {
    Error::Other(Box::new(Violation(what.into())))
}

/// Has the other side ended a connection that there was?
pub(in crate::origin) fn is_end_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Puts a [`WireTransport`] around each new connection.
#[derive(Debug)]
pub(in crate::origin) struct WireConnector {
    /// An egress proxy is used.
    pub egress: bool,
    /// `--first-byte-timeout`: for the first byte of a head.
    pub first_byte_timeout: std::time::Duration,
}

impl<In: Transport> Connector<In> for WireConnector {
    type Out = Either<In, WireTransport<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // The connection to the egress proxy is made by the same connectors, with another
        // configuration; what ureq says to that proxy is ureq's own.
        if self.egress && details.config.proxy().is_none() {
            return Ok(chained.map(Either::A));
        }
        with_exchange(|exchange| exchange.outcome.opened = true);
        Ok(chained.map(|inner| {
            Either::B(WireTransport {
                inner,
                first_byte_timeout: self.first_byte_timeout,
                used: false,
                stage: ReadStage::Head,
                head: Vec::new(),
                searched: 0,
                substitute: Substitute::default(),
            })
        }))
    }
}

/// A connection to the origin server.
#[derive(Debug)]
pub(in crate::origin) struct WireTransport<T> {
    inner: T,
    first_byte_timeout: std::time::Duration,
    /// A request has gone out since the connection was last found open.
    used: bool,
    stage: ReadStage,
    /// What has come of a head that is not complete. While a head is waited for, nothing is left in
    /// the buffer below, so that ureq never sees raw bytes.
    head: Vec<u8>,
    /// How many of these bytes have been searched for the end of it.
    searched: usize,
    substitute: Substitute,
}

impl<T: Transport> WireTransport<T> {
    /// Sends the head of the request, however long it is, in the place of the one ureq has written.
    fn send_head(&mut self, head: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        // A head may be longer than the buffer, which was made for ureq's own.
        for piece in head.chunks(OUTPUT_BUFFER_BYTES) {
            self.inner.buffers().output()[..piece.len()].copy_from_slice(piece);
            self.inner.transmit_output(piece.len(), timeout)?;
        }
        Ok(())
    }

    /// Waits for a head that ureq has to know of; `false` if the connection ends first.
    fn await_head(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        let (begun, limit) = (Instant::now(), timeout.after);
        // Something may have come together with a 100.
        while !self.take_heads()? {
            if !self.await_bytes_of_head(timeout)? {
                // What has not been read so far because it was not complete may be no head at all.
                read_response(&self.head).map_err(violation)?;
                return Ok(false);
            }
            with_exchange(|exchange| exchange.outcome.received = true);
            if let (Timeout::Await100, Duration::Exact(limit)) = (timeout.reason, limit) {
                // However slowly it drips: after this time the content is sent.
                let left = limit.saturating_sub(begun.elapsed());
                timeout.after = Duration::Exact(left.max(std::time::Duration::from_millis(1)));
            }
        }
        Ok(true)
    }

    /// Waits for more of a head, or for its first byte, which may take longer.
    fn await_bytes_of_head(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        let has_begun = with_exchange(|exchange| exchange.outcome.received).unwrap_or(true);
        if has_begun || timeout.reason != Timeout::PerRead {
            return self.inner.await_input(timeout);
        }
        timeout.after = Duration::Exact(self.first_byte_timeout);
        // The error names the limit that it is about.
        self.inner.await_input(timeout).map_err(|error| match error {
            Error::Timeout(Timeout::PerRead) => Error::Timeout(Timeout::RecvResponse),
            error => error,
        })
    }

    /// Takes heads out of the input; `true` if there is one for ureq.
    fn take_heads(&mut self) -> Result<bool, Error> {
        loop {
            let in_place = self.head.is_empty();
            if !in_place {
                self.keep_input();
            }
            let bytes = if in_place { self.inner.buffers().input() } else { &self.head };
            if bytes.is_empty() {
                return Ok(false);
            }
            // However slowly it drips, it is read again only when it may be complete, or when there is
            // so much more of it that something may be wrong.
            let pointless = self.searched > 0
                && bytes.len() / READ_AGAIN_BYTES == self.searched / READ_AGAIN_BYTES
                && !may_be_complete(bytes, self.searched);
            let read = if pointless { Ok(None) } else { read_response(bytes) };
            let length = bytes.len();
            let head = read.map_err(|what| self.break_off(what))?;
            if head.as_ref().map_or(length, |head| head.length) > HEAD_BYTES_MAX {
                return Err(self.break_off(format!("a head of more than {HEAD_BYTES_MAX} bytes")));
            }
            let Some(head) = head else {
                self.searched = length;
                if in_place {
                    self.keep_input();
                }
                return Ok(false);
            };
            self.searched = 0;
            if in_place {
                self.inner.buffers().input_consume(head.length);
            } else {
                self.head.drain(..head.length);
            }
            if self.take(head)? {
                return Ok(true);
            }
        }
    }

    /// Moves what has come to the head that is waited for.
    fn keep_input(&mut self) {
        let input = self.inner.buffers();
        let count = input.input().len();
        if count > 0 {
            self.head.extend_from_slice(input.input());
            input.input_consume(count);
        }
    }

    /// A head has come; `true` if it is for ureq.
    fn take(&mut self, head: ResponseHead) -> Result<bool, Error> {
        let status = head.status;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return self.take_final(head).map(|()| true);
        }
        let count = with_exchange(|exchange| {
            exchange.outcome.interims += 1;
            exchange.outcome.interims
        });
        if count.is_none_or(|count| count > INTERIM_MAX) {
            return Err(self.break_off(format!("more than {INTERIM_MAX} interim responses")));
        }
        if status == StatusCode::CONTINUE {
            // Unless the client waits for it, nobody here has asked for it, and it goes no further.
            let expected = with_exchange(|exchange| exchange.expects_continue) == Some(true);
            if expected {
                self.substitute.extend(b"HTTP/1.1 100 \r\n\r\n");
                self.keep_input();
            }
            return Ok(expected);
        }
        let interim = with_exchange(|exchange| exchange.interim.clone()).flatten();
        if let Some(interim) = interim {
            let mut fields = head.fields;
            // RFC 9110 §15.2: it is passed on, and what concerns this connection alone is not.
            strip_hop_by_hop(&mut fields);
            fields.remove("content-length");
            interim(status, fields);
        }
        Ok(false)
    }

    /// The head of the final response has come: ureq reads one that says the same of the content and of the
    /// connection.
    fn take_final(&mut self, head: ResponseHead) -> Result<(), Error> {
        let to_head = with_exchange(|exchange| exchange.to_head).unwrap_or(false);
        let framing =
            response_framing(&head, to_head).map_err(|what| self.break_off(what.to_string()))?;
        // Credentials that are for a connection (NTLM) must not serve the next client.
        let bound = with_exchange(|exchange| exchange.binds).unwrap_or(true);
        let open =
            leaves_connection_open(&head, framing) && !bound && !binds_connection(&head.fields);
        let length;
        let (stage, framed) = match framing {
            ResponseFraming::None => (ReadStage::Counted, ""),
            ResponseFraming::Length(count) => {
                length = format!("Content-Length: {count}\r\n");
                (ReadStage::Counted, length.as_str())
            }
            ResponseFraming::Chunked => {
                let decoder = Decoder::new(RequestLimits::default());
                (ReadStage::Chunked(decoder), "Transfer-Encoding: chunked\r\n")
            }
            ResponseFraming::Close => (ReadStage::UntilClose, ""),
        };
        // ureq puts a connection back into its pool unless the head says that it ends.
        let connection = if open { "" } else { "Connection: close\r\n" };
        let status = head.status.as_u16();
        self.substitute
            .extend(format!("HTTP/1.1 {status} \r\n{framed}{connection}\r\n").as_bytes());
        self.stage = stage;
        let begun = std::mem::take(&mut self.head);
        // What has come behind the head goes ahead of what is still in the buffer below.
        if matches!(self.stage, ReadStage::Chunked(_)) {
            reframe_chunks(&mut self.stage, &begun, &mut self.substitute);
            self.reframe_input();
        } else {
            self.substitute.extend(&begun);
        }
        with_exchange(|exchange| exchange.outcome.response = Some((head, framing)));
        Ok(())
    }

    /// Waits for content in the chunked coding; `false` if the connection ends first.
    fn await_content(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        loop {
            self.reframe_input();
            if !self.substitute.is_empty() {
                return Ok(true);
            }
            if matches!(self.stage, ReadStage::Broken) {
                return Err(violation(MALFORMED));
            }
            if !self.inner.await_input(timeout)? {
                return Ok(false);
            }
        }
    }

    /// Reframes the chunks that have come, and leaves nothing of them in the buffer below.
    fn reframe_input(&mut self) {
        let input = self.inner.buffers();
        let count = input.input().len();
        reframe_chunks(&mut self.stage, input.input(), &mut self.substitute);
        if count > 0 {
            input.input_consume(count);
        }
    }

    fn break_off(&mut self, what: String) -> Error {
        self.stage = ReadStage::Broken;
        violation(what)
    }
}

impl<T: Transport> Transport for WireTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        if self.substitute.is_empty() { self.inner.buffers() } else { &mut self.substitute }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.used {
            return self.inner.transmit_output(amount, timeout);
        }
        self.used = true;
        self.stage = ReadStage::Head;
        let written = &self.inner.buffers().output()[..amount];
        assert!(written.ends_with(b"\r\n\r\n"), "ureq's own head is short, and goes out at once");
        let head = with_exchange(|exchange| {
            exchange.outcome.sent = true;
            std::mem::take(&mut exchange.head)
        });
        let head = head.expect("ureq begins to send on the thread that runs the exchange");
        assert!(!head.is_empty(), "an exchange sends its head once");
        self.send_head(&head, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        match &self.stage {
            ReadStage::Head => self.await_head(timeout),
            ReadStage::Chunked(_) => self.await_content(timeout),
            ReadStage::Counted => self.inner.await_input(timeout),
            // ureq takes any end for the end of such content: also a reset, and with TLS one without
            // close_notify, which anybody on the way can cause.
            ReadStage::UntilClose => match self.inner.await_input(timeout) {
                Err(Error::Io(error)) if is_end_of_connection(&error) => {
                    Err(Error::Io(io::Error::other(error)))
                }
                result => result,
            },
            ReadStage::Broken => Err(violation(MALFORMED)),
        }
    }

    fn is_open(&mut self) -> bool {
        // ureq probes a connection, with three calls of the system, when it goes into the pool and
        // again when it comes out. What happens in between is seen by the second probe alone, and
        // bytes beyond the end of a response are in the buffer, where ureq looks by itself.
        if self.used {
            self.used = false;
            (self.head, self.substitute) = (Vec::new(), Substitute::default());
            return !matches!(self.stage, ReadStage::Broken);
        }
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// A connection that brings these pieces, one a read, and then ends.
    #[derive(Debug)]
    struct Pieces {
        left: VecDeque<Vec<u8>>,
        buffers: LazyBuffers,
    }

    impl Transport for Pieces {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
            let Some(piece) = self.left.pop_front() else { return Ok(false) };
            self.buffers.input_append_buf()[..piece.len()].copy_from_slice(&piece);
            self.buffers.input_appended(piece.len());
            Ok(true)
        }

        /// As a socket would be found by a probe.
        fn is_open(&mut self) -> bool {
            self.left.is_empty()
        }
    }

    /// Opens such connections, and counts them.
    #[derive(Debug)]
    struct Opens(Vec<Vec<u8>>, Arc<AtomicUsize>);

    impl Connector<()> for Opens {
        type Out = Pieces;

        fn connect(
            &self,
            _: &ConnectionDetails<'_>,
            _: Option<()>,
        ) -> Result<Option<Pieces>, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let left = self.0.iter().cloned().collect();
            Ok(Some(Pieces { left, buffers: LazyBuffers::new(HEAD_BYTES_MAX, 1024) }))
        }
    }

    #[derive(Debug)]
    struct NoNames;

    impl Resolver for NoNames {
        fn resolve(
            &self,
            _: &http::Uri,
            _: &ureq::config::Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, Error> {
            Ok(self.empty())
        }
    }

    /// What is read of a response.
    #[derive(Clone, Debug, Eq, PartialEq)]
    enum Seen {
        /// Status, content, and whether the connection may be used again.
        Whole(u16, String, bool),
        /// The content is cut, or malformed.
        Cut,
        /// No response.
        Nothing,
    }

    fn see(pieces: &[&[u8]]) -> Seen {
        let opened = Arc::new(AtomicUsize::new(0));
        let pieces = pieces.iter().map(|piece| piece.to_vec()).filter(|piece| !piece.is_empty());
        let connector = Opens(pieces.collect(), Arc::clone(&opened)).chain(WireConnector {
            egress: false,
            first_byte_timeout: std::time::Duration::from_secs(60),
        });
        let config = ureq::config::Config::builder().http_status_as_error(false).max_redirects(0);
        let config = config.max_redirects_will_error(false).build();
        let agent = ureq::Agent::with_parts(config, connector, NoNames);
        let run = || {
            let exchange = WireExchange {
                head: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                to_head: false,
                expects_continue: false,
                binds: false,
                interim: None,
                outcome: WireOutcome::default(),
            };
            exchange.run(|| agent.get("http://o.test/").call())
        };
        let (Ok(response), outcome) = run() else { return Seen::Nothing };
        let (mut content, mut reader) = (String::new(), response.into_body().into_reader());
        if reader.read_to_string(&mut content).is_err() {
            return Seen::Cut;
        }
        let status = outcome.response.expect("it came").0.status.as_u16();
        // Another request opens another connection, unless it finds this one in the pool.
        let _ = run();
        Seen::Whole(status, content, opened.load(Ordering::Relaxed) == 1)
    }

    #[test]
    fn a_response_is_the_same_however_its_bytes_are_cut() {
        use Seen::{Cut, Nothing, Whole};
        let hello = |open| Whole(200, "hello".to_string(), open);
        let head = "HTTP/1.1 200 OK\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        #[rustfmt::skip]
        let table = [
            (format!("{head}Content-Length: 5\r\n\r\nhello"), hello(true)),
            (format!("{head}Content-Length: 5\r\n\r\nhello!"), hello(false)),
            (format!("{head}Content-Length: 5\r\n\r\nhell"), Cut),
            (format!("{head}\r\nhello"), hello(false)),
            (format!("{chunked}5\r\nhello\r\n0\r\n\r\n"), hello(true)),
            (format!("{chunked}2;a=b\r\nhe\r\n03\r\nllo\r\n00\r\nX: y\r\n\r\n"), hello(true)),
            (format!("{chunked}5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), hello(false)),
            (format!("{chunked}5\r\nhello\r\n0\r\n"), Cut),
            (format!("{chunked}5\r\nhello\r\n0\r\nX: y\r\n"), Cut),
            (format!("{chunked}5\r\nhello\r\n"), Cut),
            (format!("{chunked}5\r\nhello\r\n0\n\n"), Cut),
            (format!("{chunked}+5\r\nhello\r\n0\r\n\r\n"), Cut),
            (format!("HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 100 Go\r\n\r\n{chunked}5\r\nhello\r\n0\r\n\r\n"), hello(true)),
            (format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), hello(false)),
            (format!("{head}WWW-Authenticate: NTLM\r\nContent-Length: 5\r\n\r\nhello"), hello(false)),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello".into(), hello(true)),
            ("HTTP/1.3 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(), hello(true)),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n".into(), Whole(204, String::new(), true)),
            ("HTTP/1.1 304 No\r\nTransfer-Encoding: chunked, a\r\n\r\n".into(), Whole(304, String::new(), true)),
            ("HTTP/1.1 302 To\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".into(), Whole(302, String::new(), true)),
            (format!("{head}Transfer-Encoding: chunked, foo\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), Nothing),
            (format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), Nothing),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(), Nothing),
            ("HTTP/1.1 200 OK\r\nA: b\r\n".into(), Nothing),
            ("junk\r\n\r\n".into(), Nothing),
        ];
        for (text, expected) in &table {
            let bytes = text.as_bytes();
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(see(&each), *expected, "{text:?}, byte by byte");
            for at in 0..bytes.len() {
                let (first, second) = bytes.split_at(at);
                assert_eq!(see(&[first, second]), *expected, "{:?}", text.split_at(at));
            }
        }
    }

    #[test]
    fn heads_and_interim_responses_are_bounded() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(HEAD_BYTES_MAX));
        let pieces: Vec<&[u8]> = long.as_bytes().chunks(1000).collect();
        assert_eq!(see(&pieces), Seen::Nothing);
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let interims = |count| format!("{}{last}", "HTTP/1.1 102 P\r\n\r\n".repeat(count));
        assert_ne!(see(&[interims(INTERIM_MAX).as_bytes()]), Seen::Nothing);
        assert_eq!(see(&[interims(INTERIM_MAX + 1).as_bytes()]), Seen::Nothing);
    }
}
