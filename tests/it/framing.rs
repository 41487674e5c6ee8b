//! Where a response of the origin server ends, and what may follow it on the same connection. RFC 9112
//! §2.3, §6, §7, §9.3. `src/message/framing.rs` and `src/message/chunked.rs` have the tables, and cut messages
//! everywhere; here the rules are seen from the client, over both drivers: the module `over_tiny_http` has all of
//! this once more.

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::{ONE_LOOP, Proxy};
use super::support::wire::Reply;

const FRESH: &str = "Cache-Control: max-age=60";
const CHUNKED: &str = "Cache-Control: max-age=60; Transfer-Encoding: chunked";

/// A response in another version of HTTP.
fn in_version(rule: Rule, version: &str, fields: &str, content: &str) -> Rule {
    rule.bytes(&format!("HTTP/{version} 200 OK\r\n{FRESH}\r\n{fields}\r\n{content}"))
}

#[test]
fn chunked_content_is_whole_when_all_of_the_coding_has_come() {
    #[rustfmt::skip]
    let cut = [
        "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: y\r\n", "5\r\nhello\r\n0", "5\r\nhello\r\n",
        "5\r\nhello", "5\r\nhel", "", "5\r\nhello\r\n0\n\n", "5\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX0\r\n\r\n", "5\r\nhello\r\n10000000000000000\r\n",
        "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n", "5h\r\nhello\r\n0\r\n\r\n", "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\n", "5;\n\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nX : y\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    ];
    let rules = cut.iter().map(|body| on("GET /a").head(200, CHUNKED).bytes(body).close());
    let origin = Origin::script(rules.collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    for body in cut {
        let reply = proxy.get("/a");
        assert!(!reply.is_hit(), "RFC 9111 §3: {body:?} was stored");
        assert!(
            !reply.complete || reply.status == 502,
            "RFC 9112 §8: {body:?}: {} {}",
            reply.head.text,
            reply.body()
        );
    }
    origin.assert_finished();
}

#[test]
fn ambiguous_framing_is_no_response() {
    #[rustfmt::skip]
    let fields = [
        "Transfer-Encoding: chunked, foo", "Transfer-Encoding: foo, chunked",
        "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip; Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip", "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked; Content-Length: x",
        "Content-Length: 5; Content-Length: 6", "Content-Length: 5, 6", "Content-Length: +5",
        "Content-Length: -5", "Content-Length: 5 5", "Content-Length: 0x5", "Content-Length: 5.0", "Content-Length:",
        "Content-Length: \"5\"", "Content-Length: 18446744073709551616", "Content-Length: 5; Content-Length: x",
        "Transfer-Encoding:", "Transfer-Encoding: deflate", "Transfer-Encoding: identity, chunked",
        "Content-Length : 5", " Content-Length: 5", "Content-Length: 5\r\n folded", "A: b\r\n\tc; Content-Length: 5",
        "Content-Length\0: 5", "A: \0; Content-Length: 5", "A: b\rContent-Length: 5", ": a; Content-Length: 5",
    ];
    let rules = fields.iter().map(|fields| {
        // `;` separates lines of the script.
        let head = on("GET /a").bytes("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n");
        head.bytes(&format!("{}\r\n\r\n5\r\nhello\r\n0\r\n\r\n", fields.replace("; ", "\r\n")))
    });
    let mut rules: Vec<Rule> = rules.collect();
    let coded = "Transfer-Encoding: chunked\r\n";
    rules.push(in_version(on("GET /a"), "1.0", coded, "5\r\nhello\r\n0\r\n\r\n"));
    let origin = Origin::script(rules);
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    for fields in fields.iter().chain(&["Transfer-Encoding in HTTP/1.0"]) {
        let reply = proxy.get("/a");
        assert_eq!((reply.status, reply.is_hit()), (502, false), "RFC 9112 §6.1, §6.3: {fields}");
        assert!(reply.body().contains("no valid HTTP response"), "{}", reply.body());
    }
    assert_eq!(origin.connections(), fields.len() + 1, "none of them is used again");
    origin.assert_finished();
}

/// RFC 9112 §6.1: somebody on the way may have read another message out of it.
#[test]
fn a_length_beside_a_coding_spoils_the_connection() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let origin = Origin::script([
        on("GET /both").head(200, &format!("{CHUNKED}; Content-Length: 3")).bytes(body),
        on("GET /twice").head(200, "Content-Length: 5; Content-Length: 5").bytes("hello"),
        on("GET /zeros")
            .head(200, CHUNKED)
            .bytes("0000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
        in_version(on("GET /later"), "1.2", "Transfer-Encoding: chunked\r\n", body),
        on("GET /merged").head(200, "Content-Length: 5, 05").bytes("hello"),
        on("GET /extended").head(200, CHUNKED).bytes("5;a=\"b\";c\r\nhello\r\n0 ;d\r\n\r\n"),
        on("GET /lines").bytes("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
        on("GET /next").send(200, "", "hello"),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    let targets =
        ["/both", "/twice", "/zeros", "/later", "/merged", "/extended", "/lines", "/next"];
    for target in targets {
        let reply = proxy.get(target);
        let got = (reply.status, reply.body(), reply.complete);
        assert_eq!(got, (200, "hello".into(), true), "{target}: {}", reply.head.text);
    }
    let used: Vec<usize> = origin.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(used, [0, 1, 1, 1, 1, 1, 1, 1]);
    origin.assert_finished();
}

/// RFC 9110 §7.6.3, also when the response is reused.
#[test]
fn via_says_which_version_a_response_came_in() {
    let inner = "Via: 1.0 proxy\r\nContent-Length: 2\r\n";
    let rules = [
        in_version(on("GET /old"), "1.0", "", "ok").close(),
        in_version(on("GET /chain"), "1.1", inner, "ok"),
        in_version(on("GET /other"), "1.1", "Via: 1.0 other\r\nContent-Length: 2\r\n", "ok"),
        in_version(on("GET /new"), "1.1", "Content-Length: 2\r\n", "ok"),
    ];
    let origin = Origin::script(rules);
    let proxy = Proxy::before(&origin, &[]);
    let table = [
        ("/old", "1.0 proxy"),
        ("/chain", "1.0 proxy, 1.1 proxy"),
        ("/other", "1.0 other, 1.1 proxy"),
        ("/new", "1.1 proxy"),
    ];
    for (target, via) in table {
        for hit in [false, true, true] {
            let reply = proxy.get(target);
            let got = (reply.body(), reply.is_hit(), reply.field("via"));
            assert_eq!(got, ("ok".into(), hit, via.into()), "{target}");
        }
    }
    origin.assert_finished();
}

/// What an origin server answers instead of going over to another protocol is read as strictly.
#[test]
fn an_answer_to_an_upgrade_is_framed_as_any_other() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let origin = Origin::script([
        on("GET /whole").head(200, "Transfer-Encoding: chunked").bytes(body),
        on("GET /cut").head(200, "Transfer-Encoding: chunked").bytes("5\r\nhello\r\n0\r\n").close(),
        on("GET /under").head(200, "Transfer-Encoding: gzip, chunked").bytes(body),
        on("GET /two").head(200, "Content-Length: 5; Content-Length: 6").bytes(body),
    ]);
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (target, status, complete) in
        [("/whole", 200, true), ("/cut", 200, false), ("/under", 502, true), ("/two", 502, true)]
    {
        let reply = proxy.get_with(target, upgrade);
        assert_eq!((reply.status, reply.complete), (status, complete), "{target}");
    }
    origin.assert_finished();
}

/// What comes behind the end of a response was asked for by nobody: it is neither content nor the next response, and
/// the connection is not used again (RFC 9112 §9.2, §11.1).
#[test]
fn what_follows_the_end_is_not_the_next_response() {
    let smuggled = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil";
    #[rustfmt::skip]
    let table = [
        // Method, head, content, status, what the client gets.
        ("GET",  "200 OK|Content-Length: 5",             "hello",                200, "hello"),
        ("GET",  "200 OK|Content-Length: 0",             "",                     200, ""),
        ("GET",  "200 OK|Transfer-Encoding: chunked",    "5|hello|0||",          200, "hello"),
        ("GET",  "200 OK|Transfer-Encoding: chunked",    "5|hello|0|A: b||",     200, "hello"),
        ("GET",  "204 No",                               "",                     204, ""),
        ("GET",  "204 No|Content-Length: 5",             "hello",                204, ""),
        ("GET",  "204 No|Transfer-Encoding: chunked",    "5|hello|0||",          204, ""),
        ("GET",  "304 Same|Content-Length: 5",           "hello",                304, ""),
        ("HEAD", "200 OK|Content-Length: 5",             "hello",                200, ""),
        ("HEAD", "200 OK|Transfer-Encoding: chunked",    "5|hello|0||",          200, ""),
        ("POST", "201 Made|Content-Length: 5",           "hello",                201, "hello"),
    ];
    let lines = |text: &str| text.replace('|', "\r\n");
    let rules = table.iter().flat_map(|(method, head, content, _, _)| {
        let head = format!("HTTP/1.1 {}\r\nCache-Control: no-store\r\n\r\n", lines(head));
        let bytes = format!("{head}{}{smuggled}", lines(content));
        [
            on(&format!("{method} /a")).bytes(&bytes),
            on("GET /next").send(200, "Cache-Control: no-store", "next"),
        ]
    });
    let origin = Origin::script(rules.collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for (number, (method, head, _, status, content)) in table.iter().enumerate() {
        let reply = proxy.ask(method, "/a", "If-None-Match: \"a\"\r\n", "");
        let got = (reply.status, reply.body(), reply.complete);
        assert_eq!(got, (*status, (*content).to_string(), true), "{method} {head}");
        assert_eq!(proxy.get("/next").body(), "next", "RFC 9112 §11.1: {method} {head}");
        let asked = origin.asked();
        let used = |at: usize| asked[2 * number + at].connection;
        assert_ne!(used(0), used(1), "{method} {head}: the connection is used again");
    }
    origin.assert_finished();
}

/// RFC 9110 §15.2, §15.2.2: any number of interim responses is a way to keep a connection busy, and a 101 that nobody
/// has asked for is one between two protocols.
#[test]
fn interim_responses_are_bounded_and_a_101_has_to_be_asked_for() {
    let flood = |count| "HTTP/1.1 103 Early\r\nX: y\r\n\r\n".repeat(count);
    let last = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 5\r\n\r\nhello";
    let switch = "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n";
    let framed = "HTTP/1.1 103 Early\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let table = [
        (format!("{}{last}", flood(64)), 200, "hello"),
        (format!("{}{last}", flood(65)), 502, "interim responses"),
        (format!("{framed}{last}"), 200, "hello"),
        (format!("{switch}{last}"), 502, "no valid HTTP response"),
        (format!("{}{switch}", flood(1)), 502, "no valid HTTP response"),
        (flood(1), 502, ""),
    ];
    let rules = table.iter().map(|(bytes, ..)| on("GET /a").bytes(bytes).close());
    let origin = Origin::script(rules.collect::<Vec<Rule>>());
    let proxy = Proxy::before(&origin, &["--log-level", "off"]);
    for (bytes, status, text) in &table {
        let reply = proxy.get("/a");
        let shown = &bytes[bytes.len().saturating_sub(120)..];
        assert_eq!(reply.status, *status, "{shown:?}: {}", reply.body());
        assert!(reply.body().contains(text), "{shown:?}: {}", reply.body());
    }
    origin.assert_finished();
}

/// RFC 9112 §6.3: where nothing else ends it, content ends with the connection. Only an end that was announced proves
/// that it is whole.
#[test]
fn content_that_ends_with_the_connection_is_stored_if_that_was_announced() {
    let origin = Origin::script([
        on("GET /announced")
            .head(200, &format!("{FRESH}; Connection: close"))
            .bytes("hello")
            .close(),
        in_version(on("GET /old"), "1.0", "", "hello").close(),
        on("GET /silent").head(200, FRESH).bytes("hello").close().times(2),
        in_version(on("GET /old-kept"), "1.0", "Connection: keep-alive\r\n", "hello").close(),
    ]);
    let proxy = Proxy::before(&origin, ONE_LOOP);
    for (target, is_hit) in
        [("/announced", true), ("/old", true), ("/silent", false), ("/old-kept", true)]
    {
        let replies: Vec<Reply> = (0..2).map(|_| proxy.get(target)).collect();
        for reply in &replies {
            assert_eq!((reply.body(), reply.complete), ("hello".into(), true), "{target}");
        }
        assert_eq!(replies[1].is_hit(), is_hit, "{target}: {}", replies[1].head.text);
    }
    assert_eq!(origin.connections(), 5, "each has ended with its response");
    origin.assert_finished();
}
