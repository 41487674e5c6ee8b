//! A client of a trial: it makes its exchanges one after the other, and looks at every byte that it is given.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::super::support::wire::{Head, read_head};
use super::Trial;
use super::content::{Came, Content, PIECE_BYTES};
use super::origin::rest;
use super::plan::Plan;
use super::script::{
    Answer, Exchange, Expects, Leaving, Reading, TunnelEnd, Upload, Wants, answer_name, upload_name,
};
use super::verdict::{Judged, is_early, judge, judge_interim};

/// An exchange that takes longer hangs.
pub const HANG: Duration = Duration::from_secs(30);
/// The proxy reads so much of content that nobody wants; behind it, it ends the connection, and the client may
/// not see the answer.
const DISCARDED_BYTES: u64 = 256 * 1024;

/// How an exchange has gone that went as it may.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    Whole,
    /// The body was visibly cut, because the origin server's was.
    Cut,
    /// The origin server has died, and so the proxy has answered.
    Refused,
    /// The same, and the script has no reason for it: another exchange's may.
    Unexplained,
    /// The client has left.
    Left,
    /// The connection ended with an earlier answer.
    Unanswered,
}

pub struct Client<'a> {
    trial: &'a Trial<'a>,
    plan: Plan,
    connection: Option<Connection>,
    /// What went before on it.
    behind: Option<Exchange>,
}

impl<'a> Client<'a> {
    pub fn new(trial: &'a Trial<'a>, number: u64) -> Self {
        let plan = Plan::new(trial.seed, number, trial.follows_redirects);
        Self { trial, plan, connection: None, behind: None }
    }

    /// Makes so many exchanges, unless something is found.
    pub fn run(&mut self, mut count: u64) {
        while count > 0 && !self.trial.has_failed() {
            let batch = self.plan.next_batch(count);
            count -= batch.len() as u64;
            if batch.len() > 1 {
                self.pipeline(&batch);
            } else {
                let result = self.exchange(&batch[0]);
                let goes_on = self.connection.is_some();
                self.note(&batch[0], result, goes_on);
            }
        }
    }

    /// Notes how an exchange has gone, and whether its connection goes on.
    fn note(&mut self, exchange: &Exchange, result: Result<Outcome, String>, goes_on: bool) {
        let behind = std::mem::take(&mut self.behind);
        // What went wrong may be the fault of what went before.
        let result = result.map_err(|what| format!("{what}\nbehind {behind:?}"));
        self.trial.note(exchange, result);
        self.behind = goes_on.then(|| exchange.clone());
    }

    fn connection(&mut self) -> Connection {
        self.connection.take().unwrap_or_else(|| Connection::open(self.trial))
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<Outcome, String> {
        let mut connection = self.connection();
        connection.begun = Instant::now();
        if exchange.answer.tunnel_rounds > 0 {
            return connection.tunnel(exchange);
        }
        let (is_whole, head) = match connection.send(exchange)? {
            Sent::Left => return Ok(Outcome::Left),
            Sent::Whole => (true, None),
            Sent::Part(head) => (false, head),
        };
        let (outcome, goes_on) = connection.receive(exchange, head)?;
        if goes_on && is_whole {
            self.connection = Some(connection);
        }
        Ok(outcome)
    }

    /// Sends several requests at once.
    fn pipeline(&mut self, batch: &[Exchange]) {
        let mut connection = self.connection();
        connection.begun = Instant::now();
        let requests: Vec<u8> = batch.iter().flat_map(whole_request).collect();
        // Short, all of them, so that there is room for them on the way.
        let mut goes_on = connection.write(&requests).is_ok();
        for exchange in batch {
            if !goes_on {
                self.note(exchange, Ok(Outcome::Unanswered), false);
                continue;
            }
            let received = connection.receive(exchange, None);
            goes_on = matches!(received, Ok((_, true)));
            self.note(exchange, received.map(|(outcome, _)| outcome), goes_on);
        }
        if goes_on {
            self.connection = Some(connection);
        }
    }
}

/// How much of a request was sent.
enum Sent {
    Whole,
    /// The rest was not wanted, or could not be sent; the head of the answer, if it has come.
    Part(Option<Head>),
    /// The client has left.
    Left,
}

struct Connection {
    reader: BufReader<TcpStream>,
    begun: Instant,
    hints: u64,
}

impl Connection {
    fn open(trial: &Trial<'_>) -> Self {
        let stream = TcpStream::connect(trial.address).expect("the proxy listens");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        stream.set_write_timeout(Some(HANG)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        let reader = BufReader::with_capacity(PIECE_BYTES, stream);
        Self { reader, begun: Instant::now(), hints: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a request, unless the script has the client leave or stop before its end.
    fn send(&mut self, exchange: &Exchange) -> Result<Sent, String> {
        let head = head_of(exchange);
        self.write(head.as_bytes())
            .map_err(|error| format!("a request cannot be sent: {error}"))?;
        if let Some(upload) = &exchange.upload {
            if upload.expects == Expects::Waits {
                let head = self.head(exchange, true)?;
                if head.word(1) != "100" {
                    return Ok(Sent::Part(Some(head)));
                }
            }
            match self.send_upload(exchange, upload) {
                Ok(None) => {}
                Ok(Some(sent)) => return Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::Other => return Err(error.to_string()),
                // The answer says why.
                Err(_) => return Ok(Sent::Part(None)),
            }
        }
        if exchange.half_closes {
            let _ = self.reader.get_ref().shutdown(Shutdown::Write);
        }
        if let Reading::Nothing(leaving) = exchange.reading {
            self.leave(leaving)?;
            return Ok(Sent::Left);
        }
        Ok(Sent::Whole)
    }

    /// Sends content; `None` if all of it was sent. The error is that of the connection, or of the kind `Other`.
    fn send_upload(&mut self, exchange: &Exchange, upload: &Upload) -> io::Result<Option<Sent>> {
        let content = Content::of(&upload_name(&exchange.id));
        let mut sent = 0;
        for piece in 1..=upload.pieces {
            rest(upload.pause);
            let end = upload.size * piece / upload.pieces;
            while sent < end {
                if upload.looks && is_early(exchange) && self.has_input() {
                    // A 100 asks it to go on.
                    if let Some(head) = self.one_head(exchange).map_err(io::Error::other)? {
                        return Ok(Some(Sent::Part(Some(head))));
                    }
                }
                let size = (end - sent).min(65_536);
                let most = upload.cut.map_or(u64::MAX, |(at, _)| at - sent);
                self.write(&framed(&content, upload.chunked, sent, size, most))?;
                if let Some((_, leaving)) = upload.cut.filter(|_| most < size) {
                    let _ = self.leave(leaving);
                    return Ok(Some(Sent::Left));
                }
                sent += size;
            }
        }
        if upload.chunked {
            self.write(b"0\r\n\r\n")?;
        }
        Ok(None)
    }

    fn has_input(&mut self) -> bool {
        if !self.reader.buffer().is_empty() {
            return true;
        }
        let stream = self.reader.get_ref();
        let is_quiet = stream.set_nonblocking(true).is_ok()
            && matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let _ = stream.set_nonblocking(false);
        !is_quiet
    }

    /// Leaves in the middle of an exchange.
    fn leave(&mut self, leaving: Leaving) -> Result<(), String> {
        let stream = self.reader.get_ref();
        match leaving {
            Leaving::Closes => {}
            Leaving::Resets => {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            Leaving::HalfCloses => {
                let _ = stream.shutdown(Shutdown::Write);
                // Whatever is answered: it comes to an end.
                let _ = io::copy(&mut self.reader, &mut io::sink());
                self.check_time("the connection does not end")?;
            }
        }
        Ok(())
    }

    fn check_time(&self, what: &str) -> Result<(), String> {
        if self.begun.elapsed() < HANG { Ok(()) } else { Err(format!("it hangs: {what}")) }
    }

    /// The next final head, or a 100 if that is waited for.
    fn head(&mut self, exchange: &Exchange, waits: bool) -> Result<Head, String> {
        loop {
            let is_continue = |head: &Head| waits && head.word(1) == "100";
            let head = self.any_head(exchange)?;
            if is_final(&head) || is_continue(&head) {
                return Ok(head);
            }
        }
    }

    /// The next head, if that is a final one.
    fn one_head(&mut self, exchange: &Exchange) -> Result<Option<Head>, String> {
        self.any_head(exchange).map(|head| Some(head).filter(is_final))
    }

    fn any_head(&mut self, exchange: &Exchange) -> Result<Head, String> {
        let Some(head) = read_head(&mut self.reader) else {
            self.check_time("no head")?;
            return Err("the connection ends without an answer".into());
        };
        if !is_final(&head) {
            self.hints += u64::from(head.word(1) == "103");
            let seen = judge_interim(exchange, &head, self.hints);
            seen.map_err(|what| format!("{what}: {}", head.text))?;
        }
        Ok(head)
    }

    /// Receives the answer to a request; what it came to, and whether the connection goes on.
    fn receive(
        &mut self,
        exchange: &Exchange,
        head: Option<Head>,
    ) -> Result<(Outcome, bool), String> {
        let (is_part, uploads) = (head.is_some(), exchange.upload.as_ref());
        let head = match head.map_or_else(|| self.head(exchange, false), Ok) {
            Ok(head) => head,
            // What was still on its way is answered by a reset, which may overtake the answer.
            Err(what) if uploads.is_some_and(|upload| upload.size > DISCARDED_BYTES) => {
                self.check_time(&what)?;
                let outcome = if is_early(exchange) { Outcome::Refused } else { failed(exchange) };
                return Ok((outcome, false));
            }
            Err(what) => return Err(what),
        };
        self.hints = 0;
        let with_head = |what: String| format!("{what}: {}", head.text);
        let judged = judge(exchange, &head).map_err(with_head)?;
        let Judged { is_own, keeps, .. } = judged;
        let outcome = self.receive_content(exchange, judged).map_err(with_head)?;
        if outcome == Outcome::Left {
            return Ok((outcome, false));
        }
        if outcome == Outcome::Whole && !keeps {
            self.check_end(is_own || is_part || is_early(exchange))?;
        }
        let outcome = if is_own { failed(exchange) } else { outcome };
        // Nobody has asked for the content, and nothing has said how much it is: the proxy learns too late that it
        // is more than it reads.
        let is_more = is_own && uploads.is_some_and(|upload| upload.size > DISCARDED_BYTES);
        let is_at_end = matches!(outcome, Outcome::Whole | Outcome::Refused | Outcome::Unexplained);
        Ok((outcome, keeps && is_at_end && !is_more && !exchange.half_closes))
    }

    /// Asks for another protocol, and speaks it.
    fn tunnel(mut self, exchange: &Exchange) -> Result<Outcome, String> {
        let Answer { tunnel_rounds, tunnel_up, tunnel_down, tunnel_end, .. } = exchange.answer;
        let own = Content::of(&upload_name(&exchange.id));
        let theirs = Content::of(&answer_name(&exchange.id, &exchange.selecting()));
        let mut received = vec![0; tunnel_down as usize];
        // What it sends first does not wait for the answer.
        let mut bytes = head_of(exchange).into_bytes();
        for round in 0..tunnel_rounds {
            let begin = bytes.len();
            bytes.resize(begin + tunnel_up as usize, 0);
            own.write(round * tunnel_up, &mut bytes[begin..]);
            self.write(&bytes).map_err(|error| format!("a tunnel takes nothing: {error}"))?;
            bytes.clear();
            if round == 0 {
                let head = self.head(exchange, false)?;
                if head.word(1) != "101" {
                    let judged = judge(exchange, &head);
                    let is_own = judged.is_ok_and(|judged| judged.is_own);
                    let what = || format!("no tunnel: {}", head.text);
                    return is_own.then(|| failed(exchange)).ok_or_else(what);
                }
                if head.field("x-id") != exchange.id || head.field("upgrade") != "trial" {
                    return Err(format!("another's tunnel: {}", head.text));
                }
            }
            self.reader.read_exact(&mut received).map_err(|error| {
                let what = format!("round {round} of a tunnel: {error}");
                self.check_time(&what).err().unwrap_or(what)
            })?;
            theirs.check(round * tunnel_down, &received)?;
        }
        match tunnel_end {
            TunnelEnd::ClientCloses => {}
            TunnelEnd::ClientResets => self.leave(Leaving::Resets)?,
            TunnelEnd::ClientHalfCloses => {
                let _ = self.reader.get_ref().shutdown(Shutdown::Write);
                self.check_end(false)?;
            }
            TunnelEnd::OriginCloses | TunnelEnd::OriginResets => {
                self.write(b".").map_err(|error| format!("a tunnel takes nothing: {error}"))?;
                self.check_end(tunnel_end == TunnelEnd::OriginResets)?;
            }
        }
        Ok(Outcome::Whole)
    }

    fn receive_content(&mut self, exchange: &Exchange, judged: Judged) -> Result<Outcome, String> {
        let Judged { is_own, name, first, length, mut arriving, .. } = judged;
        let content = Content::of(&name);
        let mut piece = [0; PIECE_BYTES];
        let (mut received, mut rested) = (0, 0);
        loop {
            let room = room(exchange.reading, received, rested);
            if let Reading::Cut(at, leaving) = exchange.reading
                && received >= at.min(length)
            {
                self.leave(leaving)?;
                return Ok(Outcome::Left);
            }
            match arriving.next(&mut self.reader, &mut piece[..room]) {
                // Its own words are anything but another's content; that has its name in it.
                Came::Bytes(count) if is_own => check_own(&piece[..count])?,
                Came::Bytes(count) if received + count as u64 > length => {
                    return Err(format!("there are more than {length} bytes"));
                }
                Came::Bytes(count) => {
                    content.check(first + received, &piece[..count])?;
                    received += count as u64;
                }
                Came::End if is_own || received == length => return Ok(Outcome::Whole),
                Came::End => return Err(format!("{received} bytes of {length} look whole")),
                Came::Cut(error) => {
                    self.check_time(&format!("{received} bytes of {length} have come"))?;
                    let what = format!("{received} bytes of {length} have come: {error}");
                    let may_be_cut = exchange.answer.may_fail() && !is_own;
                    return if may_be_cut { Ok(Outcome::Cut) } else { Err(what) };
                }
                Came::Malformed(what) => return Err(what),
            }
            if let Reading::Slow(each, pause) = exchange.reading
                && received / each > rested
            {
                rested = received / each;
                rest(pause);
            }
            self.check_time(&format!("{received} bytes of {length} have come"))?;
        }
    }

    /// Nothing comes behind the last answer of a connection, and it ends.
    fn check_end(&mut self, may_be_reset: bool) -> Result<(), String> {
        let mut rest = [0; 100];
        match self.reader.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("more than an answer: {}", rest[..count].escape_ascii())),
            Err(_) if may_be_reset => self.check_time("the connection does not end"),
            Err(error) => Err(format!("the end of the connection: {error}")),
        }
    }
}

fn is_final(head: &Head) -> bool {
    !head.word(1).starts_with('1') || head.word(1) == "101"
}

/// How much is read at a time.
fn room(reading: Reading, received: u64, rested: u64) -> usize {
    let most = match reading {
        Reading::Cut(at, _) => at - received.min(at),
        Reading::Slow(each, _) => (rested + 1) * each - received.min((rested + 1) * each),
        _ => u64::MAX,
    };
    usize::try_from(most).unwrap_or(PIECE_BYTES).clamp(1, PIECE_BYTES)
}

fn check_own(text: &[u8]) -> Result<(), String> {
    if text.iter().all(|byte| (b' '..0x7F).contains(byte) || b"\r\n\t".contains(byte)) {
        Ok(())
    } else {
        Err(format!("the proxy's own words: {}", text.escape_ascii()))
    }
}

/// The outcome of an exchange that the proxy has answered by itself.
fn failed(exchange: &Exchange) -> Outcome {
    if exchange.answer.may_fail() { Outcome::Refused } else { Outcome::Unexplained }
}

fn head_of(exchange: &Exchange) -> String {
    let version = if exchange.is_old { "1.0" } else { "1.1" };
    let mut head =
        format!("{} {} HTTP/{version}\r\nHost: h\r\n", exchange.method, exchange.target());
    head += &format!("X-Asker: {}\r\nX-Flavor: {}\r\n", exchange.asker, exchange.flavor);
    match exchange.wants {
        Wants::Whole => {}
        Wants::Part(range) => head += &format!("Range: {}\r\n", range.field()),
        Wants::IfNoneMatch { has_it } => {
            let tag = exchange.answer.tag(&exchange.id, &exchange.selecting()).unwrap_or_default();
            let tag = if has_it { tag } else { "\"none\"".to_string() };
            head += &format!("If-None-Match: {tag}\r\n");
        }
    }
    if let Some(directive) = exchange.directive {
        head += &format!("Cache-Control: {directive}\r\n");
    }
    if exchange.upgrades {
        head += "Connection: Upgrade\r\nUpgrade: trial\r\n";
    }
    if exchange.closes {
        head += "Connection: close\r\n";
    } else if exchange.is_old && exchange.flavor == 0 {
        head += "Connection: keep-alive\r\n";
    }
    if let Some(upload) = &exchange.upload {
        if upload.expects != Expects::Nothing {
            head += "Expect: 100-continue\r\n";
        }
        if upload.chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else {
            head += &format!("Content-Length: {}\r\n", upload.size);
        }
    }
    head + "\r\n"
}

/// `size` bytes of content from `from` on with their framing, or only `most` of them.
fn framed(content: &Content, chunked: bool, from: u64, size: u64, most: u64) -> Vec<u8> {
    let mut bytes = if chunked { format!("{size:x}\r\n").into_bytes() } else { Vec::new() };
    let begin = bytes.len();
    bytes.resize(begin + size.min(most) as usize, 0);
    content.write(from, &mut bytes[begin..]);
    if chunked && most >= size {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn whole_request(exchange: &Exchange) -> Vec<u8> {
    let mut bytes = head_of(exchange).into_bytes();
    if let Some(upload) = &exchange.upload {
        let content = Content::of(&upload_name(&exchange.id));
        bytes.extend(framed(&content, upload.chunked, 0, upload.size, u64::MAX));
        if upload.chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
    }
    bytes
}
