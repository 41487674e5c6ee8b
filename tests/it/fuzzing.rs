//! A bounded number of odd bytes for what reads bytes: pieces of valid messages put together, cut and
//! changed at random, from a fixed seed. `scripts/fuzz` looks for more of them, for as long as it is
//! told.

#[path = "../../fuzz/targets.rs"]
mod targets;

/// What messages are made of, and what breaks them.
const PIECES: [&[u8]; 64] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS ",
    b"PUT ",
    b"CONNECT ",
    b"PRI * HTTP/2.0",
    b"/",
    b"/a",
    b"/ab",
    b"/abc",
    b"/abcd?e",
    b"*",
    b"http://h/x",
    b"/%2e%2e/",
    b"#",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\x7f",
    b"\xff",
    b":",
    b";",
    b",",
    b"\"",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/1.1\n",
    b"Host: h\r\n",
    b"Host: h\r\n\r\n",
    b"Host: h\n\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 30\r\n\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"5;x=y\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"1000\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: x\r\n",
    b"Connection: close\r\n",
    b"Accept: a\r\n",
    b"Connection: keep-alive\r\n",
    b"Range: bytes=1-3\r\n",
    b"If-None-Match: \"a\"\r\n",
    b"Cache-Control: no-cache\r\n",
    b"Cache-Control: only-if-cached\r\n",
    b"Via: 1.1 proxy\r\n",
    b"Cookie: a=b\r\n",
    b"A: ",
    b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"abc",
    b"cpx\x01",
    b"POST /ab HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /abc HTTP/1.0\r\n\r\n",
];

/// The same for responses.
const RESPONSE_PIECES: [&[u8]; 56] = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.7 200 OK\r\n",
    b"HTTP/1.1 204 \r\n",
    b"HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Go\r\nUpgrade: a\r\n\r\n",
    b"HTTP/1.1 199 A\r\nConnection: b\r\nContent-Length: 1\r\n",
    b"HTTP/1.1 099 No\r\n",
    b"HTTP/1.1 999\r\n",
    b"HTTP/2 200 OK\r\n",
    b"HTTP/1.1 ",
    b"200 OK",
    b" ",
    b"\t",
    b"\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\n\n",
    b"\r",
    b"\0",
    b"\x7f",
    b"\xff",
    b":",
    b";",
    b"A: b\r\n",
    b"A : b\r\n",
    b" folded\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 3, 3\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Length: +3\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: wombat\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: A\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"0\r\nA: b\r\nHost: c\r\n\r\n",
    b"5;x=y\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"0x3\r\n",
    b"3 \r\n",
    b"abc",
];

/// What chunks are made of, and what breaks them.
const CHUNK_PIECES: [&[u8]; 20] = [
    b"3\r\nabc\r\n",
    b"3\r\nabc\r\n",
    b"003;a=\"b\"\r\nabc\r\n",
    b"5;x=y\r\nhello\r\n",
    b"1000\r\n",
    b"0\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"0;x\r\nA: b\r\nA:c\r\n",
    b"\r\n",
    b"\r\n",
    b"A: b\r\n",
    b"Content-Length:\t5 \r\n",
    b" folded\r\n",
    b"\n",
    b"ffffffffffffffff\r\n",
    b"3 \r\n",
    b":",
    b"abc",
];

/// Marsaglia's xorshift: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    fn bytes(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..3).map(|_| self.next(256) as u8).collect();
        for _ in 0..=self.next(14) {
            bytes.extend_from_slice(pieces[self.next(pieces.len())]);
        }
        for _ in 0..self.next(3) {
            let at = self.next(bytes.len());
            bytes[at] = self.next(256) as u8;
        }
        if self.next(4) == 0 {
            bytes.truncate(self.next(bytes.len()) + 1);
        }
        bytes
    }
}

fn try_many(target: impl Fn(&[u8]), rounds: usize) {
    try_pieces(&PIECES, target, rounds);
}

fn try_pieces(pieces: &[&[u8]], target: impl Fn(&[u8]), rounds: usize) {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for _ in 0..rounds {
        try_one(&target, &numbers.bytes(pieces));
    }
}

fn try_one(target: impl Fn(&[u8]), bytes: &[u8]) {
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(bytes)));
    if let Err(reason) = tried {
        eprintln!("with {:?}", String::from_utf8_lossy(bytes));
        std::panic::resume_unwind(reason);
    }
}

#[test]
fn heads_are_read_alike() {
    try_many(|bytes| targets::request_head(bytes.get(3..).unwrap_or_default()), 200_000);
}

#[test]
fn chunks_are_read_alike() {
    try_pieces(
        &CHUNK_PIECES,
        |bytes| targets::chunked(bytes.get(2..).unwrap_or_default()),
        100_000,
    );
}

#[test]
fn responses_are_read_alike() {
    try_pieces(&RESPONSE_PIECES, targets::response, 30_000);
}

/// What one of our programs writes, the next one reads.
#[test]
fn responses_are_read_as_they_were_written() {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for _ in 0..6_000 {
        let length = numbers.next(300);
        let bytes: Vec<u8> = (0..length).map(|_| numbers.next(256) as u8).collect();
        try_one(targets::passed_on, &bytes);
    }
}

/// Requests of all framings, and now and then a byte that breaks one.
#[test]
fn requests_are_read_as_they_were_written() {
    let mut numbers = Numbers(0x2545_F491_4F6C_DD1D);
    for _ in 0..3_000 {
        let mut bytes = vec![numbers.next(256) as u8];
        for _ in 0..=numbers.next(2) {
            write_request(&mut numbers, &mut bytes);
        }
        if numbers.next(3) == 0 {
            let at = 1 + numbers.next(bytes.len() - 1);
            bytes[at] = numbers.next(256) as u8;
        }
        try_one(targets::in_a_row, &bytes);
    }
}

fn write_request(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    let method = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH"][numbers.next(7)];
    let target = TARGETS[numbers.next(TARGETS.len())];
    let minor = ["0", "1", "1", "1"][numbers.next(4)];
    let mut text = format!("{method} {target} HTTP/1.{minor}\r\nHost: h\r\n");
    for _ in 0..numbers.next(4) {
        text += &[FIELDS[numbers.next(FIELDS.len())], "\r\n"].concat();
    }
    let pieces: Vec<usize> = (0..numbers.next(4)).map(|_| 1 + numbers.next(600)).collect();
    match numbers.next(3) {
        0 => text += "\r\n",
        1 => {
            let length = pieces.iter().sum();
            let framing = format!("Content-Length: {length}\r\n\r\n");
            text += &[framing, "x".repeat(length)].concat();
        }
        _ => {
            text += "Transfer-Encoding: chunked\r\n\r\n";
            for piece in pieces {
                let extension = ["", ";a=b"][numbers.next(2)];
                let size = format!("{piece:x}{extension}");
                text += &[&size, "\r\n", &"x".repeat(piece), "\r\n"].concat();
            }
            text += ["0\r\n\r\n", "000\r\nA: b\r\n\r\n"][numbers.next(2)];
        }
    }
    bytes.extend_from_slice(text.as_bytes());
}

#[test]
fn connections_behave_alike() {
    try_many(targets::connection, 6_000);
}

/// What may stand between a request and its hit.
const FIELDS: [&str; 34] = [
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Keep-Alive, close",
    "Connection: cache-control",
    "Keep-Alive: timeout=5",
    "Cache-Control: no-cache",
    "Cache-Control: max-age=0",
    "Cache-Control: only-if-cached",
    "Pragma: no-cache",
    "Range: bytes=0-3",
    "Range: bytes=0-3,5-6",
    "If-Range: \"a\"",
    "If-None-Match: \"a\"",
    "If-None-Match: \"b\"",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Match: \"b\"",
    "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "Cookie: a=b",
    "Authorization: Basic YQ==",
    "X-API-Key: a",
    "X-Tenant: b",
    "Accept: text/html",
    "Accept: application/json",
    "Accept-Encoding: gzip",
    "Via: 1.1 proxy",
    "Expect: 100-continue",
    "Upgrade: websocket",
    "Content-Length: 0",
    "Content-Length: 1",
    "Transfer-Encoding: chunked",
    "TE: trailers",
    "Host: other",
    "Host: a b",
    "X-Forwarded-For: 10.0.0.1",
];

/// Most often one that is stored.
const TARGETS: [&str; 10] = [
    "/abc",
    "/abc",
    "/abc",
    "/a",
    "/ab",
    "/abcd?e",
    "/%61bc",
    "/abc#d",
    "/abc?token=1",
    "http://h/abc",
];

/// Heads whose targets are stored, and fields that could make a difference.
#[test]
fn hits_are_answered_alike_by_both_ways() {
    let mut numbers = Numbers(0x2545_F491_4F6C_DD1D);
    for _ in 0..3_000 {
        let mut text = String::new();
        for _ in 0..=numbers.next(2) {
            let method = ["GET", "GET", "GET", "HEAD", "POST"][numbers.next(5)];
            let minor = usize::from(numbers.next(4) > 0);
            let target = TARGETS[numbers.next(TARGETS.len())];
            text += &[method, " ", target, " HTTP/1.", &minor.to_string()].concat();
            text += "\r\nHost: h\r\n";
            for _ in 0..numbers.next(4) {
                text += &[FIELDS[numbers.next(FIELDS.len())], "\r\n"].concat();
            }
            text += "\r\n";
        }
        let tried = std::panic::catch_unwind(|| targets::fast_path(text.as_bytes()));
        if let Err(reason) = tried {
            eprintln!("with {text}");
            std::panic::resume_unwind(reason);
        }
    }
}

/// The first bytes say who they are and how they take bytes; the rest is what happens.
#[test]
fn clients_of_one_loop_are_kept_apart() {
    // Other numbers by environment, for longer looks.
    let read = |name: &str, default| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let mut numbers = Numbers(read("FUZZING_SEED", 0x9E37_79B9_7F4A_7C15));
    for round in 0..read("FUZZING_ROUNDS", 300) {
        let length = 1 + 2 * numbers.next(150);
        let bytes: Vec<u8> = (0..length).map(|_| numbers.next(256) as u8).collect();
        let tried = std::panic::catch_unwind(|| targets::clients(&bytes));
        if let Err(reason) = tried {
            eprintln!("round {round}: {bytes:?}");
            std::panic::resume_unwind(reason);
        }
    }
}

#[test]
fn frames_are_read_alike() {
    try_many(targets::stored, 50_000);
}
