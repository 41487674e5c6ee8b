//! The origin server of a trial: it does what the target of each request says, and looks at every byte that
//! it is sent. Each connection has a thread.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::support::origin::self_signed;
use super::super::support::wire::{Head, read_head};
use super::super::support::{PATIENCE, pause};
use super::content::{Arriving, Came, Content, PIECE_BYTES};
use super::script::{
    After, Answer, Caching, Dies, Early, Expectation, Framing, Range, TunnelEnd, answer_name,
    upload_name,
};

/// Waits for a part of the script, never for something to have happened.
pub fn rest(milliseconds: u64) {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    // It may be woken early.
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// A running origin server.
pub struct Origin {
    address: SocketAddr,
    /// Its certificate in PEM, where it has one.
    pub certificate: Option<String>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    tls: Option<Arc<ServerConfig>>,
    /// The connections, by number.
    open: Mutex<HashMap<u64, TcpStream>>,
    connections: AtomicU64,
    /// How often each target was asked for.
    asked: Mutex<HashMap<String, u64>>,
    requests: AtomicU64,
    /// What a proxy must not send.
    violations: Mutex<Vec<String>>,
    refuses_next: AtomicBool,
    /// Connections that were closed when they were accepted.
    refused: AtomicU64,
    /// Idle connections that were closed although nothing had said so.
    hung_up: AtomicU64,
}

impl Origin {
    pub fn start(secure: bool) -> Self {
        let (tls, certificate) = if secure {
            let (config, certificate) = self_signed();
            (Some(config), Some(certificate))
        } else {
            (None, None)
        };
        let shared = Arc::new(Shared { tls, ..Shared::default() });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepting.accept(stream);
            }
        });
        Self { address, certificate, shared }
    }

    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections there were, and how many requests.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.connections), count(&self.shared.requests))
    }

    /// Connections that were closed at once.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Acquire)
    }

    /// Idle connections that were closed while a request may have been on its way.
    pub fn hung_up(&self) -> u64 {
        self.shared.hung_up.load(Ordering::Acquire)
    }

    pub fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().clone()
    }

    /// Closes all connections, and waits until their threads have let go of them.
    pub fn close_all(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = self.shared.open.lock();
            if open.is_empty() {
                return;
            }
            for stream in open.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            assert!(Instant::now() < deadline, "{} connections are not over", open.len());
            drop(open);
            pause();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, stream: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        if self.refuses_next.swap(false, Ordering::AcqRel) {
            self.refused.fetch_add(1, Ordering::AcqRel);
            return;
        }
        let _ = stream.set_nodelay(true);
        self.open.lock().insert(number, stream.try_clone().expect("a second handle"));
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let ended = shared.serve(&stream);
            if let Ended::Reset = ended {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            // The last handle: what is unread is answered by a reset.
            shared.open.lock().remove(&number);
        });
    }

    fn serve(&self, stream: &TcpStream) -> Ended {
        let Some(config) = &self.tls else {
            return self.exchange_all(BufReader::with_capacity(PIECE_BYTES, stream));
        };
        let session = ServerConnection::new(Arc::clone(config)).expect("a session");
        let mut secured = StreamOwned::new(session, stream);
        let ended = self.exchange_all(BufReader::with_capacity(PIECE_BYTES, &mut secured));
        if let Ended::Closed = ended {
            secured.conn.send_close_notify();
            let _ = secured.flush();
        }
        ended
    }

    fn exchange_all<S: Read + Write>(&self, reader: BufReader<S>) -> Ended {
        let mut connection = Connection { shared: self, reader, hangs_up: None };
        loop {
            match connection.exchange() {
                Ok(After::StaysOpen | After::HangsUp) => {}
                Ok(After::SaysClose) => return Ended::Closed,
                Ok(After::Closes) => {
                    self.hung_up.fetch_add(1, Ordering::AcqRel);
                    return Ended::Closed;
                }
                Err(ended) => return ended,
            }
        }
    }

    fn violation(&self, what: String) {
        self.violations.lock().push(what);
    }
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// In order, on this side.
    Closed,
    /// By the other side, or in the middle of something.
    Lost,
    /// With a reset.
    Reset,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

struct Connection<'a, S> {
    shared: &'a Shared,
    reader: BufReader<S>,
    /// It is closed so when the next request comes.
    hangs_up: Option<Ended>,
}

/// A request, as far as its head.
struct Asked {
    id: String,
    head: Head,
    flavor: String,
    answer: Answer,
    /// Not asked for before.
    is_first: bool,
}

impl Asked {
    fn read(head: Head, counts: &Mutex<HashMap<String, u64>>) -> Result<Self, String> {
        let rest = head.word(1).strip_prefix("/x/").ok_or("the target of nobody")?;
        let (id, query) = rest.split_once('?').unwrap_or((rest, ""));
        let answer = Answer::read(query)?;
        let asker = head.field("x-asker");
        // Of what many clients ask for, the proxy asks in the words of one of them.
        if asker != id && !id.contains("-s-") {
            return Err(format!("the target is {id}'s and the fields are {asker}'s"));
        }
        let flavor = if answer.varies { head.field("x-flavor") } else { String::new() };
        let id = id.to_string();
        let mut counts = counts.lock();
        let count = counts.entry(id.clone()).or_insert(0);
        *count += 1;
        let is_first = *count == 1;
        Ok(Self { id, head, flavor, answer, is_first })
    }

    fn dies(&self) -> Dies {
        if self.answer.once && !self.is_first { Dies::No } else { self.answer.dies }
    }

    fn expects_continue(&self) -> bool {
        self.head.field("expect").eq_ignore_ascii_case("100-continue")
    }

    /// Status, what part of the content is sent, and what the head says of that.
    fn selected(&self) -> (u16, u64, u64, String) {
        let Answer { status, size, .. } = self.answer;
        let asked = self.head.field("if-none-match");
        let tag = self.answer.tag(&self.id, &self.flavor);
        if tag.is_some_and(|tag| asked.contains(&tag)) {
            return (304, 0, 0, String::new());
        }
        let range = self.head.field("range");
        if self.head.word(0) != "GET" || status != 200 || !self.answer.ranges || range.is_empty() {
            return (status, 0, size, String::new());
        }
        match Range::read(&range).and_then(|range| range.of(size)) {
            Some((first, length)) => {
                let last = first + length - 1;
                (206, first, length, format!("Content-Range: bytes {first}-{last}/{size}\r\n"))
            }
            None => (416, 0, 0, format!("Content-Range: bytes */{size}\r\n")),
        }
    }
}

impl<S: Read + Write> Connection<'_, S> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)?;
        self.reader.get_mut().flush()
    }

    /// One request and its answer; what becomes of the connection then.
    fn exchange(&mut self) -> Result<After, Ended> {
        if self.reader.fill_buf()?.is_empty() {
            return Err(Ended::Lost);
        }
        if let Some(ended) = self.hangs_up {
            self.shared.hung_up.fetch_add(1, Ordering::AcqRel);
            return Err(ended);
        }
        let head = read_head(&mut self.reader).ok_or(Ended::Lost)?;
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let text = head.text.clone();
        let asked = Asked::read(head, &self.shared.asked).map_err(|what| {
            self.shared.violation(format!("{what}: {text}"));
            Ended::Closed
        })?;
        if asked.answer.refuses_next && asked.is_first {
            self.shared.refuses_next.store(true, Ordering::Release);
        }
        let how = if asked.answer.reset { Ended::Reset } else { Ended::Closed };
        let upload = self.take_request(&asked)?;
        if asked.dies() == Dies::Unanswered {
            return Err(how);
        }
        rest(asked.answer.head_pause);
        if asked.answer.redirects > 0 {
            self.send(redirect(&asked).as_bytes())?;
            return Ok(After::StaysOpen);
        }
        self.send_interims(&asked)?;
        if asked.answer.tunnel_rounds > 0 {
            return Err(self.tunnel(&asked)?);
        }
        let after = self.answer(&asked, upload.count, how)?;
        self.finish_upload(&asked, upload, after)?;
        if after == After::HangsUp {
            self.hangs_up = Some(how);
        }
        Ok(after)
    }

    /// Takes the content of a request, as much of it as is read before the answer.
    fn take_request(&mut self, asked: &Asked) -> Result<Taken, Ended> {
        let Answer { early, early_at, expectation, upload, .. } = asked.answer;
        let arriving = framing_of(&asked.head);
        let announced = !matches!(arriving, Arriving::Over);
        if announced != (upload > 0) {
            self.shared.violation(format!("{upload} bytes of content? {}", asked.head.text));
        }
        let mut taken = Taken { arriving, count: 0, is_over: !announced };
        if asked.expects_continue() {
            match expectation {
                Expectation::Continues if early_at > 0 || early == Early::No => {
                    self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                Expectation::Refuses => return Ok(taken),
                _ => {}
            }
        }
        let most = if early == Early::No { u64::MAX } else { early_at };
        self.take_upload(asked, &mut taken, most)?;
        if taken.is_over && !self.reader.buffer().is_empty() {
            let rest = self.reader.buffer().escape_ascii();
            let text = format!("more than a request: {}{rest}", asked.head.text);
            self.shared.violation(text);
        }
        Ok(taken)
    }

    /// Reads so much content, and compares it with what the client has.
    fn take_upload(&mut self, asked: &Asked, taken: &mut Taken, most: u64) -> Result<(), Ended> {
        let content = Content::of(&upload_name(&asked.id));
        let mut piece = [0; PIECE_BYTES];
        let violation = |what: &str| {
            self.shared.violation(format!("upload of {}: {what}", asked.head.text));
        };
        while !taken.is_over && taken.count < most {
            let room = usize::try_from(most - taken.count).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            match taken.arriving.next(&mut self.reader, &mut piece[..room]) {
                Came::Bytes(count) => {
                    if let Err(what) = content.check(taken.count, &piece[..count]) {
                        violation(&what);
                        return Err(Ended::Closed);
                    }
                    taken.count += count as u64;
                }
                Came::End => {
                    taken.is_over = true;
                    if asked.answer.upload_cut {
                        violation("it is whole, and the client's was not");
                    } else if taken.count != asked.answer.upload {
                        violation(&format!("it ends behind {} bytes", taken.count));
                    }
                }
                Came::Cut(_) => return Err(Ended::Lost),
                Came::Malformed(what) => {
                    violation(&what);
                    return Err(Ended::Closed);
                }
            }
        }
        Ok(())
    }

    fn send_interims(&mut self, asked: &Asked) -> Result<(), Ended> {
        for number in 0..asked.answer.hints {
            let id = &asked.id;
            let head =
                format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\nX-Id: {id}\r\n\r\n");
            self.send(head.as_bytes())?;
        }
        // To those who do not wait for it, it means nothing; to those who do, it would.
        if asked.answer.stray_continue && !asked.expects_continue() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    fn answer(&mut self, asked: &Asked, uploaded: u64, how: Ended) -> Result<After, Ended> {
        let Answer { framing, .. } = asked.answer;
        let (status, first, length, part) = asked.selected();
        // Parts are announced with their length.
        let framing = if status == asked.answer.status { framing } else { Framing::Length };
        let mut head = head_of(asked, status, framing, length);
        head += &format!("{part}X-Upload: {uploaded}\r\n\r\n");
        if asked.dies() == Dies::InHead {
            self.send(&head.as_bytes()[..head.len() / 2])?;
            return Err(how);
        }
        let has_content = asked.head.word(0) != "HEAD" && !matches!(status, 204 | 304);
        if !has_content {
            head += excess(asked);
        }
        self.send(head.as_bytes())?;
        if has_content {
            self.send_content(asked, framing, first, length, how)?;
        } else if asked.dies() == Dies::InBody {
            return Err(how);
        }
        let closes = has_content && framing == Framing::UntilClose;
        Ok(match asked.answer.early {
            Early::Closes => return Err(Ended::Closed),
            _ if closes => After::SaysClose,
            _ => asked.answer.after,
        })
    }

    fn send_content(
        &mut self,
        asked: &Asked,
        framing: Framing,
        first: u64,
        length: u64,
        how: Ended,
    ) -> Result<(), Ended> {
        let Answer { pieces, pause, chunk, dies_at, trailers, .. } = asked.answer;
        let content = Content::of(&answer_name(&asked.id, &asked.flavor));
        let death = if asked.dies() == Dies::InBody { dies_at.min(length) } else { u64::MAX };
        let most = if framing == Framing::Chunked { chunk } else { 65_536 };
        let mut bytes = Vec::new();
        let mut sent = 0;
        for piece in 1..=pieces {
            rest(pause);
            let end = length * piece / pieces;
            while sent < end {
                let size = (end - sent).min(most);
                // A chunk that is cut is announced as if it were not.
                let alive = size.min(death - sent);
                bytes.clear();
                if framing == Framing::Chunked {
                    bytes.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                }
                let begin = bytes.len();
                bytes.resize(begin + alive as usize, 0);
                content.write(first + sent, &mut bytes[begin..]);
                if framing == Framing::Chunked && alive == size {
                    bytes.extend_from_slice(b"\r\n");
                }
                self.send(&bytes)?;
                sent += alive;
                if sent == death {
                    return Err(how);
                }
            }
        }
        if framing == Framing::Chunked {
            let trailers = if trailers { "X-Trailer: t\r\n" } else { "" };
            self.send(format!("0\r\n{trailers}\r\n{}", excess(asked)).as_bytes())?;
        }
        if death == length { Err(how) } else { Ok(()) }
    }

    /// Goes over to another protocol; how its connection ends.
    fn tunnel(&mut self, asked: &Asked) -> Result<Ended, Ended> {
        let Answer { tunnel_rounds, tunnel_up, tunnel_down, tunnel_end, .. } = asked.answer;
        let own = Content::of(&answer_name(&asked.id, &asked.flavor));
        let theirs = Content::of(&upload_name(&asked.id));
        let id = &asked.id;
        let fields = format!("Connection: Upgrade\r\nUpgrade: trial\r\nX-Id: {id}\r\n");
        let mut bytes = format!("HTTP/1.1 101 Switching\r\n{fields}\r\n").into_bytes();
        let mut received = vec![0; tunnel_up as usize];
        for round in 0..tunnel_rounds {
            let begin = bytes.len();
            bytes.resize(begin + tunnel_down as usize, 0);
            own.write(round * tunnel_down, &mut bytes[begin..]);
            self.send(&bytes)?;
            bytes.clear();
            self.reader.read_exact(&mut received)?;
            if let Err(what) = theirs.check(round * tunnel_up, &received) {
                self.shared.violation(format!("the tunnel of {id}: {what}"));
                return Err(Ended::Closed);
            }
        }
        let end = match tunnel_end {
            TunnelEnd::OriginCloses => Some(Ended::Closed),
            TunnelEnd::OriginResets => Some(Ended::Reset),
            _ => None,
        };
        if let Some(end) = end {
            // When the client has everything, it says so.
            self.reader.read_exact(&mut [0])?;
            return Ok(end);
        }
        if !self.reader.fill_buf()?.is_empty() {
            self.shared.violation(format!("the tunnel of {id} has more bytes than were sent"));
        }
        Ok(Ended::Closed)
    }

    /// What is left of an upload behind an early answer.
    fn finish_upload(
        &mut self,
        asked: &Asked,
        mut taken: Taken,
        after: After,
    ) -> Result<(), Ended> {
        if taken.is_over {
            return Ok(());
        }
        if asked.answer.early == Early::StopsReading {
            // It is not read, and the connection is there: the proxy has to end it.
            let Answer { upload, .. } = asked.answer;
            rest(20);
            return if upload == 0 { Ok(()) } else { Err(Ended::Closed) };
        }
        // Whatever comes next on the connection is the rest of the content, and is compared with it.
        match self.take_upload(asked, &mut taken, u64::MAX) {
            // The proxy sends no more of it. That is the end of an answer which ends with the connection.
            Err(Ended::Lost) if after == After::SaysClose => Err(Ended::Closed),
            result => result,
        }
    }
}

/// What comes behind an answer, in one piece with its end: whether what comes later belongs to it, nobody can know.
/// Whoever takes it for an answer has nobody's.
fn excess(asked: &Asked) -> &'static str {
    let excess = "HTTP/1.1 200 OK\r\nX-Id: nobody\r\nContent-Length: 3\r\n\r\nbad";
    if asked.answer.excess { excess } else { "" }
}

/// Redirects to the same without this redirect.
fn redirect(asked: &Asked) -> String {
    let there = Answer { redirects: asked.answer.redirects - 1, ..asked.answer.clone() };
    let location = format!("/x/{}?{}", asked.id, there.query());
    let content = if asked.head.word(0) == "HEAD" { "" } else { "there" };
    let fields = "Cache-Control: no-store\r\nContent-Length: 5\r\n";
    format!("HTTP/1.1 307 There\r\nLocation: {location}\r\n{fields}\r\n{content}")
}

/// The content of a request on its way in.
struct Taken {
    arriving: Arriving,
    count: u64,
    is_over: bool,
}

fn framing_of(head: &Head) -> Arriving {
    if head.field("transfer-encoding").eq_ignore_ascii_case("chunked") {
        return Arriving::chunked();
    }
    match head.field("content-length").parse() {
        Ok(length @ 1..) => Arriving::Length(length),
        _ => Arriving::Over,
    }
}

/// The head of an answer, without its last line.
fn head_of(asked: &Asked, status: u16, framing: Framing, length: u64) -> String {
    let Asked { id, flavor, answer, .. } = asked;
    let mut head = format!("HTTP/1.1 {status} Status\r\nX-Id: {id}\r\n");
    let caching = match answer.caching {
        Caching::NoStore => "Cache-Control: no-store\r\n",
        Caching::Fresh => "Cache-Control: max-age=600\r\n",
        Caching::Unstated => "",
        Caching::NoCache => "Cache-Control: no-cache\r\n",
    };
    head += caching;
    let has_content = !matches!(status, 204 | 304);
    match framing {
        Framing::Length if has_content => head += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked if has_content => head += "Transfer-Encoding: chunked\r\n",
        _ => {}
    }
    if answer.after == After::SaysClose {
        head += "Connection: close\r\n";
    }
    if answer.varies {
        head += "Vary: X-Flavor\r\n";
    }
    if answer.coded {
        head += "Content-Encoding: gzip\r\n";
    }
    if answer.trailers && framing == Framing::Chunked {
        head += "Trailer: X-Trailer\r\n";
    }
    if let Some(tag) = answer.tag(id, flavor) {
        head += &format!("ETag: {tag}\r\n");
    }
    head
}
