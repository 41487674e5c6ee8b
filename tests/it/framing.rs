//! Where a response of the origin server ends, and what may follow it on the same connection. RFC 9112
//! §2.3, §6, §7, §9.3. `src/message/framing.rs` and `src/origin/transport.rs` have the tables, and cut
//! messages everywhere; here the rules are seen from the client.

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::Proxy;

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
        on("GET /next").send(200, "", "hello"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    for target in ["/both", "/twice", "/zeros", "/later", "/next"] {
        let reply = proxy.get(target);
        let got = (reply.status, reply.body(), reply.complete);
        assert_eq!(got, (200, "hello".into(), true), "{target}: {}", reply.head.text);
    }
    let used: Vec<usize> = origin.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(used, [0, 1, 1, 1, 1]);
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
