//! HTTP/1.1 as it is on the wire: a client that hides nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

/// The head of a message.
#[derive(Clone, Debug)]
pub struct Head {
    pub text: String,
    pub first: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The values of a field, joined.
    pub fn field(&self, name: &str) -> String {
        self.all(name).join(", ")
    }

    fn length(&self) -> Option<usize> {
        self.all("content-length").first().and_then(|digits| digits.parse().ok())
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").eq_ignore_ascii_case("chunked")
    }

    /// The content of a request, and whether it is complete.
    pub fn read_request_content(&self, stream: &mut impl Read) -> (Vec<u8>, bool) {
        if self.is_chunked() {
            return read_chunked(stream);
        }
        read_length(stream, self.length().unwrap_or(0))
    }
}

/// Reads a head; `None` if the connection ends before it is complete.
pub fn read_head(stream: &mut impl Read) -> Option<Head> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        // Unlike `read`, it goes on after a signal, such as when a child is stopped.
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next()?.to_string();
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_string(), value.trim().to_string()))
        .collect();
    Some(Head { first, fields, text: text.clone() })
}

fn read_length(stream: &mut impl Read, length: usize) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let done = stream.take(length as u64).read_to_end(&mut content).is_ok();
    let complete = done && content.len() == length;
    (content, complete)
}

fn read_chunked(stream: &mut impl Read) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    loop {
        let Some(line) = read_line(stream) else { return (content, false) };
        let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
        else {
            return (content, false);
        };
        if size == 0 {
            let complete = read_line(stream).is_some_and(|line| line.is_empty());
            return (content, complete);
        }
        let (chunk, complete) = read_length(stream, size);
        content.extend(chunk);
        if !complete || read_line(stream).is_none() {
            return (content, false);
        }
    }
}

fn read_line(stream: &mut impl Read) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        // Unlike `read`, it goes on after a signal, such as when a child is stopped.
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// A response as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: Head,
    pub content: Vec<u8>,
    /// Did the framing prove the content whole?
    pub complete: bool,
    /// The interim responses before it.
    pub interim: Vec<Head>,
}

impl Reply {
    pub fn field(&self, name: &str) -> String {
        self.head.field(name)
    }

    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    pub fn is_hit(&self) -> bool {
        self.field("x-cache") == "HIT"
    }

    pub fn cache_status(&self) -> String {
        self.field("cache-status")
    }
}

/// A connection to the proxy.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self { stream }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("the proxy reads");
        self
    }

    /// Sends a request; each field line ends in `\r\n`.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &str,
        content: &str,
    ) -> &mut Self {
        let length = if content.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", content.len())
        };
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{fields}{length}\r\n{content}",
            self.host()
        ))
    }

    fn host(&self) -> SocketAddr {
        self.stream.peer_addr().expect("an address")
    }

    pub fn head(&mut self) -> Option<Head> {
        read_head(&mut self.stream)
    }

    /// Reads the response to a request with this method.
    pub fn reply_to(&mut self, method: &str) -> Option<Reply> {
        let mut interim = Vec::new();
        let (head, status) = loop {
            let head = self.head()?;
            let status: u16 = head.word(1).parse().ok()?;
            if status >= 200 || status == 101 {
                break (head, status);
            }
            interim.push(head);
        };
        let empty = method == "HEAD" || status == 204 || status == 304 || status < 200;
        let (content, complete) = if empty {
            (Vec::new(), true)
        } else if head.is_chunked() {
            read_chunked(&mut self.stream)
        } else if let Some(length) = head.length() {
            read_length(&mut self.stream, length)
        } else {
            let mut content = Vec::new();
            let done = self.stream.read_to_end(&mut content).is_ok();
            (content, done)
        };
        Some(Reply { status, head, content, complete, interim })
    }

    pub fn reply(&mut self) -> Reply {
        self.reply_to("GET").expect("a response")
    }

    /// What comes until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }

    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends it with a reset.
    pub fn reset(self) {
        let linger = Some(std::time::Duration::ZERO);
        socket2::SockRef::from(&self.stream).set_linger(linger).expect("an option");
    }

    /// Has the proxy closed it? Waits for that.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
            || self.stream.take_error().is_ok_and(|error| error.is_some())
    }
}
