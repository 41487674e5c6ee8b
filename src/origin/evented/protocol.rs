//! One connection to the origin server as HTTP/1.1 has it: bytes in, messages out, and no socket.
//! RFC 9112 §6, §9; RFC 9110 §15.2.
//!
//! Strict: what two readers could read as two messages is a violation, and ends the connection. Nothing of
//! the content is kept here, and of a head no more than a head may have.

use http::{HeaderName, StatusCode};

use crate::message::chunked::{Decoder, Piece};
use crate::message::fields::Fields;
use crate::message::framing::{ResponseFraming, leaves_connection_open, response_framing};
use crate::message::head::{ResponseHead, may_be_complete, read_response};
use crate::message::request::RequestLimits;
use crate::origin::outgoing::Asked;
use crate::origin::{HEAD_BYTES_MAX, INTERIM_MAX, OriginHead};
use crate::policy::bound::binds_connection;
use crate::policy::forwarding::{connection_options, strip_hop_by_hop};
use crate::policy::trailers::strip_trailers;

/// An incomplete head is looked at each time that so many bytes of it have come.
const READ_AGAIN_BYTES: usize = 4 * 1024;

/// What has been found in the bytes that came.
#[derive(Debug)]
pub enum ResponsePart<'a> {
    /// All bytes are used, and more are needed.
    Nothing,
    /// A 100: the content may be sent (RFC 9110 §15.2.1).
    Continue,
    /// Another interim response, without the fields that concern this connection.
    Interim(StatusCode, Fields),
    /// The head of the final response.
    Head(Box<OriginHead>),
    /// The other protocol begins behind these fields (RFC 9110 §15.2.2); bytes that follow are not HTTP.
    Switched(Fields),
    /// Content, not empty.
    Piece(&'a [u8]),
    /// The trailer section, where the request has asked for it and there is something in it: less what may not
    /// stand there (RFC 9110 §6.5.1). All of the content has come.
    Trailers(Fields),
    /// The end of the response, proven by its framing.
    End,
}

/// The reader of the responses that come over one connection.
#[derive(Debug, Default)]
pub struct ResponseReader {
    stage: ResponseStage,
    /// What has come of a head that is not complete.
    head: Vec<u8>,
    /// How many bytes of it have been searched for its end.
    searched: usize,
    /// Interim responses to the present request.
    interims: usize,
    /// Another request may follow on the connection.
    stays_open: bool,
    binds: bool,
    /// For how many seconds the server says it keeps the idle connection.
    keep_alive: Option<u64>,
    /// Something has come for the present request.
    has_begun: bool,
}

/// What comes next.
#[derive(Debug, Default)]
enum ResponseStage {
    /// No response is awaited.
    #[default]
    Idle,
    /// A head, to a request of this kind.
    Head(Asked),
    /// Content, of which so much is left.
    Counted(u64),
    /// Content in the chunked coding. Of what comes behind it, the fields with these names are about the
    /// connection.
    Chunked(Box<(Decoder, Vec<HeaderName>)>),
    /// Content that ends with the connection.
    UntilClose,
    /// The other protocol, or nothing that can be read any more.
    Over,
}

impl ResponseReader {
    /// A request goes out: its response is awaited.
    pub fn ask(&mut self, asked: Asked) {
        assert!(self.is_idle(), "one request at a time goes over a connection");
        self.stage = ResponseStage::Head(asked);
        (self.interims, self.has_begun, self.stays_open) = (0, false, true);
    }

    /// Is no response awaited?
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, ResponseStage::Idle)
    }

    /// Is a head awaited?
    pub fn awaits_head(&self) -> bool {
        matches!(self.stage, ResponseStage::Head(_))
    }

    /// Has anything come for the present request?
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// May another request go out on the connection, once this response has ended?
    pub fn stays_open(&self) -> bool {
        self.stays_open && !matches!(self.stage, ResponseStage::Over)
    }

    /// Has a response asked for authentication of the connection?
    pub fn binds(&self) -> bool {
        self.binds
    }

    /// For how many seconds the server keeps the idle connection, where it says so (`Keep-Alive: timeout`).
    pub fn keep_alive(&self) -> Option<u64> {
        self.keep_alive
    }

    /// Goes on with `bytes`; says how many of them were used. The error says what is wrong with them, and the
    /// connection is of no use any more.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, ResponsePart<'a>), String> {
        self.has_begun |= !bytes.is_empty();
        let found = match &mut self.stage {
            ResponseStage::Head(asked) => {
                let asked = *asked;
                return self.next_in_head(asked, bytes).inspect_err(|_| self.break_off());
            }
            ResponseStage::Counted(0) => {
                self.stage = ResponseStage::Idle;
                (0, ResponsePart::End)
            }
            _ if bytes.is_empty() => (0, ResponsePart::Nothing),
            ResponseStage::Counted(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                (count, ResponsePart::Piece(&bytes[..count]))
            }
            ResponseStage::Chunked(_) => return self.next_in_chunks(bytes),
            ResponseStage::UntilClose => (bytes.len(), ResponsePart::Piece(bytes)),
            ResponseStage::Idle | ResponseStage::Over => {
                self.break_off();
                return Err("bytes that no request has asked for".to_string());
            }
        };
        Ok(found)
    }

    /// The connection has ended; `true` if that is the end of the response. `false` is a cut, or no answer.
    pub fn end(&mut self) -> bool {
        let is_end = matches!(self.stage, ResponseStage::UntilClose);
        self.break_off();
        is_end
    }

    /// Is all of the content there that its framing announces, so that [`ResponsePart::End`] comes next?
    pub fn is_complete(&self) -> bool {
        matches!(self.stage, ResponseStage::Counted(0))
    }

    /// How many bytes of content are left whose number the head has stated; 0 where it has not.
    pub fn content_left(&self) -> u64 {
        if let ResponseStage::Counted(left) = self.stage { left } else { 0 }
    }

    /// `count` bytes of content, which are not the last, went another way.
    pub fn skip(&mut self, count: u64) {
        let ResponseStage::Counted(left) = &mut self.stage else {
            unreachable!("what is skipped is counted")
        };
        assert!(count < *left, "the last bytes are read");
        *left -= count;
    }

    fn break_off(&mut self) {
        self.stage = ResponseStage::Over;
        self.stays_open = false;
        self.head = Vec::new();
    }

    fn next_in_chunks<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, ResponsePart<'a>), String> {
        let ResponseStage::Chunked(coding) = &mut self.stage else { unreachable!("it is chunked") };
        let (decoder, options) = &mut **coding;
        Ok(match decoder.next(bytes, bytes.len()) {
            Ok((used, Piece::Data(data))) => (used, ResponsePart::Piece(data)),
            Ok((used, Piece::More)) => (used, ResponsePart::Nothing),
            Ok((used, Piece::End)) => {
                let mut trailers = decoder.take_trailers();
                strip_trailers(&mut trailers, options);
                if trailers.is_empty() {
                    self.stage = ResponseStage::Idle;
                    return Ok((used, ResponsePart::End));
                }
                // The end comes next, whatever follows.
                self.stage = ResponseStage::Counted(0);
                (used, ResponsePart::Trailers(trailers))
            }
            Err(_) => {
                self.break_off();
                return Err("the chunked coding is malformed".to_string());
            }
        })
    }

    fn next_in_head<'a>(
        &mut self,
        asked: Asked,
        bytes: &'a [u8],
    ) -> Result<(usize, ResponsePart<'a>), String> {
        let before = self.head.len();
        // Most heads come whole, and are read where they are.
        let read = if before == 0 {
            read_response(bytes)?
        } else {
            self.head.extend_from_slice(bytes);
            // However slowly it drips, it is read again only when it may be complete, or when there is so
            // much more of it that something may be wrong.
            let pointless = self.head.len() / READ_AGAIN_BYTES == self.searched / READ_AGAIN_BYTES
                && !may_be_complete(&self.head, self.searched);
            if pointless { None } else { read_response(&self.head)? }
        };
        let length = read.as_ref().map_or(before + bytes.len(), |head| head.length);
        if length > HEAD_BYTES_MAX {
            return Err(format!("a head of more than {HEAD_BYTES_MAX} bytes"));
        }
        let Some(head) = read else {
            if before == 0 {
                self.head.extend_from_slice(bytes);
            }
            self.searched = self.head.len();
            return Ok((bytes.len(), ResponsePart::Nothing));
        };
        (self.head, self.searched) = (Vec::new(), 0);
        // What was kept was no whole head, so it ends among the new bytes.
        assert!(head.length > before, "a head that is complete is taken at once");
        self.take(asked, head).map(|found| (length - before, found))
    }

    /// A head has come.
    fn take<'a>(&mut self, asked: Asked, head: ResponseHead) -> Result<ResponsePart<'a>, String> {
        let status = head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if !asked.upgrades {
                return Err("101, and nobody asked for another protocol".to_string());
            }
            self.stays_open = false;
            // What follows is in the other protocol, and has no end but that of the connection.
            self.stage = ResponseStage::UntilClose;
            return Ok(ResponsePart::Switched(head.fields));
        }
        if status.is_informational() {
            return self.take_interim(head);
        }
        let framing = response_framing(&head, asked.to_head)?;
        self.stays_open = leaves_connection_open(&head, framing);
        self.binds |= binds_connection(&head.fields);
        self.keep_alive = keep_alive_of(&head.fields);
        self.stage = match framing {
            ResponseFraming::None => ResponseStage::Counted(0),
            ResponseFraming::Length(length) => ResponseStage::Counted(length),
            ResponseFraming::Chunked if asked.takes_trailers => {
                let decoder = Decoder::keeping_trailers(RequestLimits::default());
                ResponseStage::Chunked(Box::new((decoder, connection_options(&head.fields))))
            }
            ResponseFraming::Chunked => {
                let decoder = Decoder::new(RequestLimits::default());
                ResponseStage::Chunked(Box::new((decoder, Vec::new())))
            }
            ResponseFraming::Close => ResponseStage::UntilClose,
        };
        Ok(ResponsePart::Head(Box::new(OriginHead::new(head, framing))))
    }

    fn take_interim<'a>(&mut self, head: ResponseHead) -> Result<ResponsePart<'a>, String> {
        self.interims += 1;
        if self.interims > INTERIM_MAX {
            return Err(format!("more than {INTERIM_MAX} interim responses"));
        }
        let ResponseHead { status, mut fields, .. } = head;
        if status == StatusCode::CONTINUE {
            return Ok(ResponsePart::Continue);
        }
        // RFC 9110 §15.2: it is passed on, and what concerns this connection alone is not.
        strip_hop_by_hop(&mut fields);
        fields.remove("content-length");
        Ok(ResponsePart::Interim(status, fields))
    }
}

/// The seconds of `Keep-Alive: timeout=N`.
fn keep_alive_of(fields: &Fields) -> Option<u64> {
    let timeout = fields.members("keep-alive").find_map(|member| {
        let (name, value) = std::str::from_utf8(member).ok()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().to_string())
    })?;
    timeout.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { to_head: false, upgrades: false, takes_trailers: false };
    const HEAD: Asked = Asked { to_head: true, ..GET };
    const UPGRADE: Asked = Asked { upgrades: true, ..GET };
    const TE: Asked = Asked { takes_trailers: true, ..GET };

    /// What is found, in words, with `step` bytes a read; the end of the connection comes last.
    fn found(asked: Asked, bytes: &[u8], step: usize) -> String {
        let mut reader = ResponseReader::default();
        reader.ask(asked);
        let (mut words, mut content) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            let mut rest = piece;
            loop {
                if reader.is_idle() && rest.is_empty() {
                    break;
                }
                let Ok((used, found)) = reader.next(rest) else {
                    words.push(format!("broken after {}", content.len()));
                    return words.join(" ");
                };
                rest = &rest[used..];
                match found {
                    ResponsePart::Nothing => break,
                    ResponsePart::Continue => words.push("continue".to_string()),
                    ResponsePart::Interim(status, _) => {
                        words.push(format!("interim {}", status.as_u16()));
                    }
                    ResponsePart::Head(head) => {
                        words.push(format!("head {}", head.status.as_u16()));
                    }
                    ResponsePart::Switched(_) => {
                        words.push("switched".to_string());
                        return words.join(" ");
                    }
                    ResponsePart::Piece(piece) => content.extend_from_slice(piece),
                    ResponsePart::Trailers(fields) => {
                        assert!(reader.is_complete(), "the end comes next");
                        let mut lines = Vec::new();
                        fields.write_to(&mut lines);
                        let lines = String::from_utf8_lossy(&lines).replace("\r\n", "|");
                        words.push(format!("trailers {lines}"));
                    }
                    ResponsePart::End => {
                        let open = if reader.stays_open() { "open" } else { "closes" };
                        words.push(format!("end {} {open}", content.len()));
                    }
                }
            }
        }
        if !reader.is_idle() {
            let end = if reader.end() { "end" } else { "cut" };
            words.push(format!("{end} {}", content.len()));
        }
        words.join(" ")
    }

    #[test]
    fn a_response_is_the_same_however_its_bytes_are_cut() {
        #[rustfmt::skip]
        let table = [
            ("6.3", GET,     "200 OK|Content-Length: 5||hello",                      "head 200 end 5 open"),
            ("6.3", GET,     "200 OK|Content-Length: 0||",                           "head 200 end 0 open"),
            ("6.3", HEAD,    "200 OK|Content-Length: 5||",                           "head 200 end 0 open"),
            ("6.3", GET,     "304 No|Content-Length: 5||",                           "head 304 end 0 open"),
            ("6.3", GET,     "200 OK|Content-Length: 5||hell",                       "head 200 cut 4"),
            ("6.3", GET,     "200 OK|Content-Length: 5||hello!",                     "head 200 end 5 open broken after 5"),
            ("6.3", GET,     "200 OK|||hello",                                       "head 200 end 7"),
            ("7.1", GET,     "200 OK|Transfer-Encoding: chunked||5|hello|0||",       "head 200 end 5 open"),
            ("7.1", GET,     "200 OK|Transfer-Encoding: chunked||5|hello|0|A: b||",  "head 200 end 5 open"),
            ("7.1", GET,     "200 OK|Transfer-Encoding: chunked||5|hello|0|",        "head 200 cut 5"),
            ("7.1", GET,     "200 OK|Transfer-Encoding: chunked||5|hello||",         "head 200 broken after 5"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked||5|hello|0|A: b|C:d||",
                                                                                     "head 200 trailers A: b|C: d| end 5 open"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked||0||",               "head 200 end 0 open"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked||0|Content-Length: 9||", "head 200 end 0 open"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked|Connection: A||0|A: b||", "head 200 end 0 open"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked||0|A : b||",         "head 200 broken after 0"),
            ("7.1", TE,      "200 OK|Transfer-Encoding: chunked||1|a|0|A: b|",       "head 200 cut 1"),
            ("9.3", TE,      "200 OK|Transfer-Encoding: chunked||1|a|0|A: b||HTTP",  "head 200 trailers A: b| end 1 open broken after 1"),
            ("9.3", GET,     "200 OK|Content-Length: 1|Connection: close||a",        "head 200 end 1 closes"),
            ("6.1", GET,     "200 OK|Content-Length: 9|Transfer-Encoding: chunked||1|a|0||", "head 200 end 1 closes"),
            ("6.3", GET,     "200 OK|Content-Length: 1|Content-Length: 2||a",        "broken after 0"),
            ("15.2", GET,    "100 C||HTTP/1.1 103 E|Link: </a>||HTTP/1.1 200 OK|Content-Length: 1||a",
                                                                                     "continue interim 103 head 200 end 1 open"),
            ("15.2", GET,    "101 S||",                                              "broken after 0"),
            ("15.2", UPGRADE, "101 S|Upgrade: a||raw",                               "switched"),
            ("15.2", UPGRADE, "426 No|Content-Length: 1||a",                         "head 426 end 1 open"),
        ];
        for (section, asked, text, expected) in &table {
            let bytes = format!("HTTP/1.1 {}", text.replace('|', "\r\n"));
            for step in 1..=bytes.len() {
                let got = found(*asked, bytes.as_bytes(), step);
                assert_eq!(got, *expected, "§{section}: {text}, {step} bytes a read");
            }
        }
    }

    #[test]
    fn heads_and_interim_responses_are_bounded() {
        let long = |count| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(count));
        let of_bytes = |count: usize| long(count - long(0).len());
        assert_eq!(found(HEAD, of_bytes(HEAD_BYTES_MAX).as_bytes(), 5000), "head 200 end 0 open");
        assert_eq!(found(HEAD, of_bytes(HEAD_BYTES_MAX + 1).as_bytes(), 5000), "broken after 0");
        let interims = |count| "HTTP/1.1 103 E\r\n\r\n".repeat(count);
        assert!(!found(GET, interims(INTERIM_MAX).as_bytes(), 99).contains("broken"));
        assert!(found(GET, interims(INTERIM_MAX + 1).as_bytes(), 99).contains("broken"));
    }

    #[test]
    fn a_server_says_for_how_long_it_keeps_an_idle_connection() {
        for (value, expected) in [
            ("timeout=5, max=100", Some(5)),
            ("max=100, Timeout = 7", Some(7)),
            ("timeout=a", None),
            ("5", None),
        ] {
            let bytes =
                format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 0\r\n\r\n");
            let mut reader = ResponseReader::default();
            reader.ask(GET);
            assert!(reader.next(bytes.as_bytes()).is_ok());
            assert_eq!(reader.keep_alive(), expected, "{value}");
        }
    }
}
