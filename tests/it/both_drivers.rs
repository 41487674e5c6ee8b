//! One table of exchanges, over both drivers of the engine: event loops that talk to the origin server themselves, and
//! workers that ask it by ureq. What the client sees, what the origin server sees and what is stored afterwards is the
//! same.
//!
//! Not here: trailers, which ureq has no place for (`trailers.rs`), and content that is malformed right behind its head,
//! which is a 502 from an event loop and a 200 that is cut from a worker.

use super::support;
use super::support::origin::{Asked, Origin, Rule, Step, on};
use super::support::proxy::{ONE_LOOP, Proxy};
use super::support::wire::{Head, Reply};

const FRONTS: [&str; 2] = ["event", "tiny-http"];

/// What a client asks: method, target, field lines and content.
type Question = (&'static str, &'static str, &'static str, &'static str);

const PLAIN: Question = ("GET", "/a", "", "");
/// Answered from what is stored, or not at all.
const STORED: Question = ("GET", "/a", "Cache-Control: only-if-cached\r\n", "");

/// An exchange, or several in a row.
struct Row {
    what: &'static str,
    questions: Vec<Question>,
    answers: Vec<Rule>,
}

fn row(what: &'static str, questions: &[Question], answers: impl Into<Vec<Rule>>) -> Row {
    Row { what, questions: questions.to_vec(), answers: answers.into() }
}

/// One question, and what is stored afterwards.
fn get(what: &'static str, answer: Rule) -> Row {
    row(what, &[PLAIN, STORED], [answer])
}

fn fresh(body: &str) -> Rule {
    on("GET /a").send(200, "Cache-Control: max-age=60; ETag: \"1\"", body)
}

/// A large one, so that it comes in many pieces.
fn large() -> String {
    (0..40_000).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

fn stored_rows() -> Vec<Row> {
    let chunked =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{chunked}5\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: a\r\n\r\n");
    let old = "HTTP/1.0 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhello";
    let endless = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nhello";
    vec![
        get("fresh content", fresh("hello")),
        get("no content", fresh("")),
        get("large content", fresh(&large())),
        get("no-store", on("GET /a").send(200, "Cache-Control: no-store", "hello")),
        get(
            "a cookie",
            on("GET /a").send(200, "Cache-Control: max-age=60; Set-Cookie: a=b", "hello"),
        ),
        get(
            "names spelt oddly, in this order",
            on("GET /a").send(200, "x-ODD: 1; eTAG: \"a\"; X-odd: 2", "a"),
        ),
        get("an explicit 404", on("GET /a").send(404, "Cache-Control: max-age=60", "none")),
        get("an error", on("GET /a").send(500, "", "broken")),
        get("a redirect", on("GET /a").send(302, "Location: /b; Cache-Control: max-age=60", "")),
        get("204", on("GET /a").head(204, "Cache-Control: max-age=60")),
        get("chunks and a trailer", on("GET /a").bytes(&chunks)),
        get("HTTP/1.0", on("GET /a").bytes(old).close()),
        get("content that ends with the connection", on("GET /a").bytes(endless).close()),
        get(
            "interim responses",
            on("GET /a").head(103, "Link: </s>; rel=preload").send(200, "", "hello"),
        ),
    ]
}

fn broken_rows() -> Vec<Row> {
    let bytes = |bytes: &str| on("GET /a").bytes(bytes).close();
    let lines = "A: b\r\n".repeat(129);
    vec![
        get("nothing", on("GET /a").close()),
        get("nothing, with a reset", on("GET /a").then(Step::Reset)),
        get("no HTTP", bytes("SSH-2.0-x\r\n\r\n")),
        get("half a head", bytes("HTTP/1.1 200 OK\r\nA: b\r\n")),
        get(
            "less content than announced",
            bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
        ),
        get(
            "a chunk that is cut",
            bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"),
        ),
        get(
            "two lengths",
            bytes("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ),
        get("a folded line", bytes("HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n")),
        get("a 101 that nobody asked for", bytes("HTTP/1.1 101 Go\r\nUpgrade: a\r\n\r\n")),
        get(
            "too many lines",
            bytes(&format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n")),
        ),
        get(
            "too long a line",
            bytes(&format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(70_000))),
        ),
    ]
}

fn request_rows() -> Vec<Row> {
    let posted = |method: &'static str| {
        let answer = on(&format!("{method} /a")).send(201, "Location: /b", "made");
        row("content", &[(method, "/a", "X-spelt: 1\r\n", "content"), STORED], [answer])
    };
    let ok =
        |method: &str| on(&format!("{method} /a")).send(200, "Cache-Control: max-age=60", "ok");
    vec![
        posted("POST"),
        posted("PUT"),
        posted("PATCH"),
        row("POST without content", &[("POST", "/a", "", "")], [ok("POST")]),
        row("DELETE", &[PLAIN, ("DELETE", "/a", "", ""), STORED], [fresh("old"), ok("DELETE")]),
        row(
            "HEAD",
            &[("HEAD", "/a", "", ""), STORED],
            [on("HEAD /a").head(200, "Content-Length: 5")],
        ),
        row("OPTIONS", &[("OPTIONS", "*", "", "")], [on("OPTIONS *").head(204, "Allow: GET")]),
        row("an unknown method", &[("BREW", "/a", "", "tea")], [on("BREW /a").send(418, "", "no")]),
        row(
            "an encoded target",
            &[("GET", "/a%2fb?q=<%7e>", "", "")],
            [on("GET *any*").send(200, "", "a")],
        ),
        row(
            "a refused expectation",
            &[("POST", "/a", "Expect: 100-continue\r\n", "content")],
            [on("POST /a").send(417, "", "")],
        ),
        row(
            "an early answer",
            &[("POST", "/a", "", "content")],
            [on("POST /a").without_reading().send(413, "Connection: close", "no").close()],
        ),
        row(
            "credentials",
            &[("GET", "/a", "Authorization: Basic YTpi\r\n", ""), STORED],
            [fresh("mine")],
        ),
        row("NTLM", &[PLAIN, STORED], [on("GET /a").send(401, "WWW-Authenticate: NTLM", "")]),
        row(
            "hop-by-hop fields",
            &[("GET", "/a", "Connection: x-hop\r\nX-Hop: 1\r\n", "")],
            [fresh("a")],
        ),
    ]
}

fn rows_in_a_row() -> Vec<Row> {
    let stale = || on("GET /a").send(200, "Cache-Control: max-age=0; ETag: \"1\"", "stale");
    let validated = || on("GET /a").having("If-None-Match: \"1\"");
    let limited = || on("GET /a").send(429, "Retry-After: 9", "slow down");
    vec![
        row("a hit", &[PLAIN, PLAIN], [fresh("one")]),
        row(
            "validation",
            &[PLAIN, PLAIN],
            [stale(), validated().head(304, "Cache-Control: max-age=60")],
        ),
        row(
            "validation that brings another",
            &[PLAIN, PLAIN, STORED],
            [stale(), validated().send(200, "Cache-Control: max-age=60", "new")],
        ),
        row("stale for an error", &[PLAIN, PLAIN], [stale(), validated().send(503, "", "down")]),
        row("stale for no answer", &[PLAIN, PLAIN], [stale(), validated().times(2).close()]),
        row("a limit, which holds the next one back", &[PLAIN, PLAIN], [limited()]),
        row(
            "the rest of a part",
            &[("GET", "/a", "Range: bytes=0-4\r\n", ""), PLAIN, STORED],
            [
                on("GET /a").having("Range: bytes=0-4").send(
                    206,
                    "Cache-Control: max-age=60; ETag: \"1\"; Content-Range: bytes 0-4/11",
                    "hello",
                ),
                on("GET /a").having("Range: bytes=5-").send(
                    206,
                    "Cache-Control: max-age=60; ETag: \"1\"; Content-Range: bytes 5-10/11",
                    " world",
                ),
            ],
        ),
        row(
            "variants",
            &[
                ("GET", "/a", "Accept-Language: de\r\n", ""),
                PLAIN,
                ("GET", "/a", "Accept-Language: de\r\n", ""),
            ],
            [
                on("GET /a").having("Accept-Language: de").send(
                    200,
                    "Cache-Control: max-age=60; Vary: Accept-Language",
                    "ja",
                ),
                on("GET /a").lacking("Accept-Language").send(
                    200,
                    "Cache-Control: max-age=60; Vary: Accept-Language",
                    "yes",
                ),
            ],
        ),
    ]
}

/// A head as it can be compared: neither the present second, nor which port a server has, nor where a front puts its own
/// lines.
fn shown(head: &Head, ports: [u16; 2]) -> String {
    let mut text = head.text.replace("\r\n", "\n");
    for (port, name) in ports.into_iter().zip(["PROXY", "ORIGIN"]) {
        text = text.replace(&format!(":{port}"), &format!(":{name}"));
    }
    let is_of_the_moment = |line: &&str| {
        ["Date: ", "Age: ", "Retry-After: "].iter().any(|name| line.starts_with(name))
    };
    let mut lines: Vec<_> = text.lines().filter(|line| !is_of_the_moment(line)).collect();
    lines.sort_by_key(|line| line.starts_with("Content-Length: "));
    let seconds_left = |line: &str| match line.split_once("; ttl=") {
        Some((before, after)) => {
            format!(
                "{before}; ttl={}",
                after.trim_start_matches(|sign: char| sign == '-' || sign.is_ascii_digit())
            )
        }
        None => line.to_string(),
    };
    lines.into_iter().map(seconds_left).collect::<Vec<_>>().join("\n")
}

fn shown_reply(reply: Option<Reply>, ports: [u16; 2]) -> String {
    let Some(Reply { head, content, complete, interim, .. }) = reply else {
        return "nothing".to_string();
    };
    // tiny_http sends a 100 of its own.
    let interim: Vec<_> = interim.iter().filter(|head| head.word(1) != "100").collect();
    let interim: Vec<_> = interim.iter().map(|head| shown(head, ports)).collect();
    let head = shown(&head, ports);
    let content = String::from_utf8_lossy(&content);
    // What the driver's library says of a failure is its own matter.
    if content.starts_with("http://127.0.0.1:") {
        let is_same = |line: &&str| !line.starts_with("Content-Length");
        return head.lines().filter(is_same).collect::<Vec<_>>().join("\n");
    }
    format!("{}\n{head}\n{content}\ncomplete: {complete}", interim.join("\n"))
}

fn shown_asked(asked: &Asked, ports: [u16; 2]) -> String {
    let Asked { head, content, complete, .. } = asked;
    format!("{}\n{}\ncomplete: {complete}", shown(head, ports), String::from_utf8_lossy(content))
}

/// What a client and the origin server see, and what is found in the store by what is asked last.
fn seen(front: &str, row: &Row, args: &[&str]) -> String {
    let origin = Origin::script(row.answers.clone());
    // Of several loops, each has connections of its own.
    let args: Vec<_> = args.iter().chain(ONE_LOOP).copied().collect();
    let proxy = Proxy::before_over(front, &origin, &args);
    let ports = [proxy.address.port(), origin.port()];
    let mut seen = Vec::new();
    for (method, target, fields, content) in &row.questions {
        let mut client = proxy.connect();
        client.request(method, target, fields, content);
        seen.push(shown_reply(client.reply_to(method), ports));
    }
    seen.extend(origin.asked().iter().map(|asked| shown_asked(asked, ports)));
    origin.assert_finished();
    seen.join("\n--\n")
}

fn assert_same(rows: &[Row], args: &[&str]) {
    for row in rows {
        let [event, plain] = FRONTS.map(|front| seen(front, row, args));
        assert!(
            event == plain,
            "{}, {args:?}\nevent loops:\n{event}\n\nworkers:\n{plain}",
            row.what
        );
    }
}

#[test]
fn what_is_stored() {
    assert_same(&stored_rows(), &[]);
}

#[test]
fn what_is_broken() {
    assert_same(&broken_rows(), &[]);
}

#[test]
fn what_is_asked() {
    assert_same(&request_rows(), &[]);
}

#[test]
fn what_follows() {
    assert_same(&rows_in_a_row(), &[]);
}

/// Other ways through the engine: a host that is passed on, links that are rewritten, redirects that are followed, a
/// store behind memory.
#[test]
fn under_other_flags() {
    let folder = support::TemporaryFolder::new();
    let redirect = || on("GET /a").send(302, "Location: /b", "");
    let rows = [
        row(
            "a redirect that is followed",
            &[PLAIN, STORED],
            [redirect(), on("GET /b").send(200, "Cache-Control: max-age=60", "there")],
        ),
        get(
            "links",
            on("GET /a").send(200, "Link: </x>; rel=next; Cache-Control: max-age=60", "a"),
        ),
        get("large content", fresh(&large())),
        get(
            "less content than announced",
            on("GET /a").bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").close(),
        ),
    ];
    for (number, row) in rows.iter().enumerate() {
        let seen = FRONTS.map(|front| {
            let path = folder.file(&format!("{front}-{number}.sqlite"));
            let store = if cfg!(feature = "sqlite") {
                format!("sqlite:{}", path.display())
            } else {
                "memory".to_string()
            };
            let args = ["--preserve-host", "--follow-redirects", "--store", &store];
            seen(front, row, &args)
        });
        assert!(
            seen[0] == seen[1],
            "{}\nevent loops:\n{}\n\nworkers:\n{}",
            row.what,
            seen[0],
            seen[1]
        );
    }
}
