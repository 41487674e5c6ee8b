//! The origin server's side, alone and in pairs: a response is read the same however its bytes are cut, and what
//! one of our programs writes, the next one reads as the same message. So two in a row never disagree about where
//! a message ends (RFC 9112 §11).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use caching_proxy::front::event::simulation::Simulation;
use caching_proxy::front::outgoing::{Halt, Outgoing, SCRATCH_BYTES};
use caching_proxy::front::wire::{WireClient, interim_head};
use caching_proxy::message::body::{Body, Growing, Grown};
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Framing;
use caching_proxy::origin::HEAD_BYTES_MAX;
use caching_proxy::origin::egress::Egress;
use caching_proxy::origin::evented::protocol::{ResponsePart, ResponseReader};
use caching_proxy::origin::outgoing::{
    Asked, KnownServers, UnsentHead, WireRequest, frame, frame_end,
};
use caching_proxy::origin::{
    Origin, OriginBody, OriginError, OriginRequest, OriginResponse, RequestContent,
};
use caching_proxy::policy::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

/// What is read of one response.
#[derive(Debug, Default, PartialEq)]
struct Read {
    /// Statuses and fields of the interim responses; those of a 100 are of no interest.
    interims: Vec<(u16, Fields)>,
    /// Status, fields, length and whether there may be content.
    head: Option<(u16, Fields, Option<u64>, bool)>,
    switched: bool,
    content: Vec<u8>,
    trailers: Fields,
    is_whole: bool,
    stays_open: bool,
}

/// Bytes are the same responses however they are cut; the first of them say what was asked, and how they are cut.
pub fn response(data: &[u8]) {
    let Some(([how, cut, more], data)) = data.split_first_chunk() else { return };
    let asked =
        Asked { to_head: how & 1 != 0, upgrades: how & 2 != 0, takes_trailers: how & 4 != 0 };
    let asked = std::iter::repeat(asked);
    let whole = read_all([data], asked.clone());
    let step = usize::from(*cut).max(1);
    assert_eq!(read_all(data.chunks(step), asked.clone()), whole, "in pieces of {step}");
    assert_eq!(read_all(data.chunks(1), asked.clone()), whole, "byte by byte");
    let (first, rest) = data.split_at(usize::from(*more).min(data.len()));
    assert_eq!(read_all([first, rest], asked.clone()), whole, "cut at {more}");
    if how & 8 != 0 {
        head_ends(data, asked);
    }
}

/// A head without an end is refused before it is larger than a head may be.
fn head_ends(data: &[u8], mut asked: impl Iterator<Item = Asked>) {
    const FILLER: [u8; 4096] = [b'a'; 4096];
    let mut reader = ResponseReader::default();
    let mut message = Read::default();
    reader.ask(asked.next().expect("without end"));
    let mut rest = data;
    while let Some(used) = step(&mut reader, rest, &mut message) {
        rest = &rest[used..];
        if reader.is_idle() || rest.is_empty() {
            break;
        }
    }
    if !reader.awaits_head() || message.is_whole {
        return;
    }
    let refused = (0..=HEAD_BYTES_MAX / FILLER.len())
        .any(|_| step(&mut reader, &FILLER, &mut message).is_none());
    assert!(refused, "RFC 9112 §3: what never ends is kept");
}

/// Goes one step; how many bytes were used, `None` if they cannot be read.
fn step(reader: &mut ResponseReader, bytes: &[u8], message: &mut Read) -> Option<usize> {
    let (used, found) = reader.next(bytes).ok()?;
    assert!(used <= bytes.len(), "only what is there is used");
    match found {
        ResponsePart::Nothing => assert_eq!(used, bytes.len(), "all is used before more is needed"),
        ResponsePart::Continue => message.interims.push((100, Fields::new())),
        ResponsePart::Interim(status, fields) => message.interims.push((status.as_u16(), fields)),
        ResponsePart::Head(head) => {
            assert!(message.head.is_none(), "a response has one head");
            let head = *head;
            message.head = Some((head.status.as_u16(), head.fields, head.length, head.has_content));
        }
        ResponsePart::Switched(fields) => {
            message.switched = true;
            message.head = Some((101, fields, None, true));
        }
        ResponsePart::Piece(piece) => {
            assert!(!piece.is_empty(), "a piece is not empty");
            message.content.extend_from_slice(piece);
        }
        ResponsePart::Trailers(trailers) => message.trailers = trailers,
        ResponsePart::End => message.is_whole = true,
    }
    Some(used)
}

/// Reads responses until one ends the connection, or there is nothing more, or what there is cannot be read.
fn read_all<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    asked: impl IntoIterator<Item = Asked>,
) -> Vec<Read> {
    let mut reader = ResponseReader::default();
    let (mut messages, mut asked) = (Vec::new(), asked.into_iter());
    let mut message = Read::default();
    let mut is_broken = false;
    'pieces: for mut rest in pieces {
        while !rest.is_empty() || !reader.is_idle() {
            if reader.is_idle() {
                // What follows is a response if another request may have gone out.
                let Some(next) = asked.next() else { break 'pieces };
                reader.ask(next);
            }
            let Some(used) = step(&mut reader, rest, &mut message) else {
                is_broken = true;
                break 'pieces;
            };
            let found_nothing = used == rest.len() && !message.is_whole && !reader.is_complete();
            rest = &rest[used..];
            if message.is_whole {
                assert!(reader.is_idle(), "the end is the end");
                message.stays_open = reader.stays_open();
                messages.push(check(std::mem::take(&mut message)));
                if !reader.stays_open() {
                    break 'pieces;
                }
            } else if found_nothing {
                break;
            }
        }
    }
    if !reader.is_idle() {
        message.is_whole = reader.end() && !is_broken;
        messages.push(check(message));
    }
    messages
}

/// What holds for every response.
fn check(message: Read) -> Read {
    if let Some((status, _, length, has_content)) = &message.head {
        let count = message.content.len() as u64;
        assert!(*has_content || count == 0, "RFC 9112 §6.3: {status} has content");
        if let Some(length) = length.filter(|_| *has_content) {
            assert!(count <= length, "more than was announced");
            assert!(!message.is_whole || count == length, "less is not the whole");
        }
    } else {
        assert!(message.content.is_empty() && !message.is_whole, "a head comes first");
    }
    message
}

/// Fields that are passed on, wherever they stand.
const OTHERS: [&str; 2] = ["etag", "x-a"];
/// Fields that are about a connection, and are not passed on.
const HOP_BY_HOP: [&str; 4] = ["keep-alive", "trailer", "upgrade", "te"];
/// Fields that are not passed on behind the content.
const HEADER_ONLY: [&str; 2] = ["cache-control", "set-cookie"];
/// Fields that say how a response is framed, and are not the engine's to write.
const FRAMING: [&str; 3] = ["connection", "content-length", "transfer-encoding"];

/// Bytes that decide what happens; when there are no more of them, they are zero.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn next(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn below(&mut self, most: u8) -> usize {
        usize::from(self.next() % most)
    }

    fn bytes(&mut self, most: u8) -> &'a [u8] {
        let count = self.below(most).min(self.0.len());
        self.0.split_off(..count).unwrap_or_default()
    }

    /// Fields that a response may have before it is framed.
    fn fields(&mut self) -> Fields {
        let mut fields = Fields::new();
        for _ in 0..self.below(6) {
            let names = [&OTHERS[..], &HOP_BY_HOP, &HEADER_ONLY].concat();
            let known = HeaderName::from_static(names[self.below(8)]);
            // So begins no field that means something to us.
            let name = match self.below(4) {
                0 => HeaderName::from_bytes(&[b"n-", self.bytes(20)].concat()).unwrap_or(known),
                _ => known,
            };
            if let Ok(value) = HeaderValue::from_bytes(self.bytes(30).trim_ascii()) {
                fields.append(name, value);
            }
        }
        fields
    }
}

/// A body that comes in pieces, with pauses between them.
struct Piecewise {
    length: Option<u64>,
    pieces: VecDeque<Vec<u8>>,
    is_cut: bool,
    pauses: bool,
    trailers: Fields,
}

impl Growing for Piecewise {
    fn length(&self) -> Option<u64> {
        self.length
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown> {
        match self.pieces.front() {
            Some(piece) if piece.is_empty() => {
                self.pieces.pop_front();
                if self.pauses { Ok(Grown::NotYet) } else { self.peek(buffer) }
            }
            Some(piece) => {
                let count = piece.len().min(buffer.len());
                buffer[..count].copy_from_slice(&piece[..count]);
                Ok(Grown::Bytes(count))
            }
            None if self.is_cut => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Ok(Grown::End),
        }
    }

    fn consume(&mut self, count: usize) {
        let piece = self.pieces.front_mut().expect("it was shown");
        piece.drain(..count);
    }

    fn trailers(&self) -> Fields {
        self.trailers.clone()
    }

    fn wait(&mut self) {}

    fn listen(&mut self, _: Box<dyn Fn() + Send + Sync>) {}
}

/// Responses in one connection, interim ones between them, are read as they were written.
pub fn passed_on(data: &[u8]) {
    let mut numbers = Numbers(data);
    let (cut, step) = (usize::from(numbers.next()).max(1), usize::from(numbers.next()) + 1);
    let (mut bytes, mut asked, mut written) = (Vec::new(), Vec::new(), Vec::new());
    let mut cut_short = None;
    for _ in 0..=numbers.below(3) {
        let (message, halt) = write_one(&mut numbers, step, &mut bytes, &mut asked);
        let stays_open = message.stays_open;
        if halt == Halt::Done {
            written.push(message);
        } else {
            cut_short = Some(message);
        }
        if !stays_open {
            break;
        }
    }
    let whole = read_all([&bytes[..]], asked.iter().copied());
    let shown = String::from_utf8_lossy(&bytes);
    assert_eq!(read_all(bytes.chunks(cut), asked.iter().copied()), whole, "{shown}");
    let mut read: Vec<Read> = whole.into_iter().map(without_framing).collect();
    if let Some(cut) = cut_short {
        // As much of it as has gone out, and that is not taken for the whole.
        let last = if read.len() > written.len() { read.pop() } else { None };
        let last = last.unwrap_or_default();
        assert!(last.head.is_none() || last.head == cut.head, "{shown}");
        assert!(cut.content.starts_with(&last.content) && last.trailers.is_empty(), "{shown}");
        assert!(!last.is_whole || cut.is_whole, "RFC 9112 §8: {shown}");
    }
    assert_eq!(read, written, "{shown}");
}

/// What was said besides the framing.
fn without_framing(mut message: Read) -> Read {
    if let Some((_, fields, length, has_content)) = &mut message.head {
        *fields = without(fields, |name| FRAMING.contains(&name));
        (*length, *has_content) = (None, false);
    }
    message
}

/// Writes a response as it goes to a client. What is to be read of it, and what has stopped it.
fn write_one(
    numbers: &mut Numbers<'_>,
    step: usize,
    bytes: &mut Vec<u8>,
    asked: &mut Vec<Asked>,
) -> (Read, Halt) {
    let mut expected = Read { interims: write_interims(numbers, bytes), ..Read::default() };
    let status = [200, 206, 204, 304, 404, 502, 999][numbers.below(7)];
    let method = if numbers.below(4) == 0 { Method::HEAD } else { Method::GET };
    let client = WireClient {
        version: if numbers.below(4) == 0 { Version::HTTP_10 } else { Version::HTTP_11 },
        keeps_alive: numbers.below(4) > 0,
        takes_trailers: numbers.below(2) > 0,
    };
    asked.push(Asked {
        to_head: method == Method::HEAD,
        upgrades: false,
        takes_trailers: client.takes_trailers,
    });
    let (fields, trailers) = (numbers.fields(), numbers.fields());
    let pieces: VecDeque<Vec<u8>> = (0..numbers.below(4))
        .map(|_| numbers.bytes(60).repeat(1 + numbers.below(3) * 700))
        .collect();
    let content: Vec<u8> = pieces.iter().flatten().copied().collect();
    let is_cut = numbers.below(8) == 0;
    let has_none = method == Method::HEAD || status == 204 || status == 304;
    let body = match numbers.below(4) {
        0 => Body::Whole(Bytes::from(content.clone())),
        1 => Body::None { length: Some(content.len() as u64) },
        kind => Body::Growing(Box::new(Piecewise {
            // One that is cut lacks something.
            length: (kind == 2).then_some(content.len() as u64 + u64::from(is_cut)),
            pieces,
            is_cut,
            pauses: numbers.below(2) > 0,
            trailers: trailers.clone(),
        })),
    };
    let (is_growing, is_none) =
        (matches!(body, Body::Growing(_)), matches!(body, Body::None { .. }));
    let is_chunked = is_growing && body.length().is_none() && client.version != Version::HTTP_10;
    let status = StatusCode::from_u16(status).expect("a status");
    let response = Response::new(status, fields.clone(), body);
    let mut outgoing = Outgoing::new(client, &method, response).expect("nothing to wait for");
    let is_cut = is_cut && is_growing && !has_none;
    // The end of the connection would say that it is whole: who sends it resets the connection instead.
    let ends_by_closing = outgoing.ends_by_closing();
    let halt = write_all(&mut outgoing, step, bytes);
    assert_eq!(halt, if is_cut { Halt::Cut } else { Halt::Done });
    if !has_none && !is_none {
        expected.content = content;
    }
    if is_chunked && !has_none && !is_cut && client.takes_trailers {
        let header_only = |name: &str| HOP_BY_HOP.contains(&name) || HEADER_ONLY.contains(&name);
        expected.trailers = without(&trailers, header_only);
    }
    expected.head = Some((status.as_u16(), fields, None, false));
    expected.is_whole = !is_cut || ends_by_closing;
    expected.stays_open = client.keeps_alive && !ends_by_closing && !is_cut;
    (expected, halt)
}

/// Writes interim responses; what is to be read of them.
fn write_interims(numbers: &mut Numbers<'_>, bytes: &mut Vec<u8>) -> Vec<(u16, Fields)> {
    (0..numbers.below(3))
        .map(|_| {
            let (fields, status) = (numbers.fields(), [100, 102, 103, 199][numbers.below(4)]);
            bytes.extend(interim_head(StatusCode::from_u16(status).expect("a status"), &fields));
            let fields = match status {
                100 => Fields::new(),
                _ => without(&fields, |name| HOP_BY_HOP.contains(&name)),
            };
            (status, fields)
        })
        .collect()
}

/// The fields that have no such name.
fn without(fields: &Fields, is_dropped: impl Fn(&str) -> bool) -> Fields {
    fields.iter().filter(|(name, _)| !is_dropped(name.as_str())).cloned().collect()
}

/// Sends all of it to one who takes `step` bytes at a time; what stops it.
fn write_all(outgoing: &mut Outgoing, step: usize, bytes: &mut Vec<u8>) -> Halt {
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut starved = 0;
    loop {
        let mut take = |slices: &[IoSlice<'_>]| {
            let before = bytes.len();
            for slice in slices {
                let left = step - (bytes.len() - before);
                bytes.extend_from_slice(&slice[..slice.len().min(left)]);
            }
            Ok(bytes.len() - before)
        };
        match outgoing.advance(&mut scratch, 1000, &mut take) {
            Halt::Paused => {}
            Halt::Starved if starved < 100 => starved += 1,
            halt => return halt,
        }
    }
}

/// A request as an origin server is asked it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: Method,
    url: String,
    /// Less those that each proxy writes anew.
    fields: Vec<(HeaderName, HeaderValue)>,
    framing: Framing,
    content: Vec<u8>,
}

/// Tells what it was asked, and remembers it.
#[derive(Clone, Default)]
struct Remembering(Arc<Mutex<Vec<Seen>>>);

impl Origin for Remembering {
    fn send(&self, mut request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let (framing, content) = read_content(&mut request)?;
        let is_own = |name: &HeaderName| name == "via" || name.as_str().starts_with("x-forwarded-");
        let lines = request.fields.iter().filter(|(name, _)| !is_own(name));
        self.0.lock().expect("no panic").push(Seen {
            method: request.method.clone(),
            url: request.url.to_string(),
            fields: lines.cloned().collect(),
            framing,
            content: content.clone(),
        });
        let length = content.len() as u64;
        let mut content = &content[..];
        let content = match framing {
            Framing::None => RequestContent::None,
            Framing::Length(_) => RequestContent::Length(length, &mut content),
            Framing::Chunked => RequestContent::Chunked(&mut content),
        };
        let OriginRequest { method, url, host, fields, waits, .. } = request;
        let interim = None;
        super::Echo.send(OriginRequest { method, url, host, fields, content, waits, interim })
    }
}

fn read_content(request: &mut OriginRequest<'_, '_>) -> Result<(Framing, Vec<u8>), OriginError> {
    let mut content = Vec::new();
    let (framing, read) = match std::mem::replace(&mut request.content, RequestContent::None) {
        RequestContent::None => (Framing::None, Ok(0)),
        RequestContent::Length(length, reader) => {
            (Framing::Length(length), reader.read_to_end(&mut content))
        }
        RequestContent::Chunked(reader) => (Framing::Chunked, reader.read_to_end(&mut content)),
    };
    read.map_err(OriginError::Content)?;
    Ok((framing, content))
}

/// Another proxy of ours, to which requests are written, and whose responses are read, as the event loops do.
struct NextProxy {
    simulation: Mutex<Simulation>,
    piece: usize,
}

impl Origin for NextProxy {
    fn send(&self, mut request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let (framing, content) = read_content(&mut request)?;
        let head = UnsentHead {
            method: request.method,
            url: request.url,
            host: request.host,
            fields: request.fields,
        };
        let wire = WireRequest::new(
            head,
            framing,
            false,
            &mut KnownServers::default(),
            &Egress::default(),
        )?;
        let mut bytes = wire.head;
        for piece in content.chunks(self.piece) {
            frame(wire.framing, piece, &mut bytes);
        }
        frame_end(wire.framing, &mut bytes);
        let mut simulation = self.simulation.lock().expect("no panic");
        let (answer, _) = simulation.play(bytes.chunks(self.piece), usize::MAX);
        drop(simulation);
        Ok(read_answer(&answer, wire.asked))
    }
}

/// The one response that there is.
fn read_answer(mut bytes: &[u8], asked: Asked) -> OriginResponse {
    let mut reader = ResponseReader::default();
    reader.ask(asked);
    let (mut head, mut content) = (None, Vec::new());
    while !reader.is_idle() {
        let (used, found) = reader.next(bytes).expect("what we write can be read");
        match found {
            ResponsePart::Nothing => assert!(reader.end(), "the answer is whole"),
            ResponsePart::Head(found) => head = Some(*found),
            ResponsePart::Piece(piece) => content.extend_from_slice(piece),
            ResponsePart::End => assert_eq!(used, bytes.len(), "a request has one answer"),
            ResponsePart::Continue
            | ResponsePart::Interim(..)
            | ResponsePart::Switched(_)
            | ResponsePart::Trailers(_) => {}
        }
        bytes = &bytes[used..];
        if bytes.is_empty() && !reader.is_complete() && !reader.is_idle() {
            assert!(reader.end(), "the answer is whole");
            break;
        }
    }
    let head = head.expect("a request is answered");
    let body = head.has_content.then(|| Box::new(super::Told(content)) as Box<dyn OriginBody>);
    OriginResponse { head, body }
}

/// The origin server behind two proxies in a row is asked what it is asked behind one. The first byte says how
/// their bytes are cut; the rest is what a client sends.
pub fn in_a_row(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    // Both of these count proxies.
    let text = data.to_ascii_lowercase();
    let counts = |name: &[u8]| text.windows(name.len()).filter(|bytes| *bytes == name).count();
    if counts(b"max-forwards") > 0 || counts(b"proxy") > 6 {
        return;
    }
    let alone = Remembering::default();
    super::simulation_before(Arc::new(alone.clone()), super::Role::First).play([data], usize::MAX);
    let behind = Remembering::default();
    let second = super::simulation_before(Arc::new(behind.clone()), super::Role::Second);
    let next = NextProxy { simulation: Mutex::new(second), piece: usize::from(*cut).max(1) };
    super::simulation_before(Arc::new(next), super::Role::First).play([data], usize::MAX);
    let (alone, behind) = (alone.0.lock().expect("no panic"), behind.0.lock().expect("no panic"));
    assert_eq!(*alone, *behind);
}
