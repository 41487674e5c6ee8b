//! Field lines go through as they came: the order of the lines and the case of the names, both ways, from the
//! cache and from the origin server. RFC 9110 §5.1, §5.3.

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::Proxy;
use super::support::wire::Reply;
use super::support::{TemporaryFolder, field_lines};

/// Lines of several programs: of one that writes lower case, of one that writes capitals, and in between.
const LINES: &str = "server: node\r\n\
    x-b: 1\r\n\
    Content-Type: text/plain\r\n\
    X-AMZ-Id-2: a\r\n\
    X-B: 2\r\n\
    cache-CONTROL: max-age=600, s-maxage=600\r\n\
    etag: \"1\"\r\n\
    x-b: 3\r\n\
    x-under_Score.and~more!: b\r\n\
    WWW-authenticate: c\r\n";

/// The field lines of a response up to the first one of the proxy's own.
fn lines(reply: &Reply) -> &str {
    let lines = reply.head.text.split_once("\r\n").expect("a status line").1;
    let own = ["Age: ", "Via: ", "X-Cache: ", "Cache-Status: ", "Content-Length: ", "\r\n"];
    let end = own.iter().filter_map(|own| Some(lines.find(&format!("\r\n{own}"))? + 2));
    &lines[..end.min().expect("the head ends")]
}

/// A line with the time, `seconds` ago.
fn dated(name: &str, seconds: u32) -> String {
    let (_, value) = field_lines(&format!("Date: DATE-{seconds}")).remove(0);
    format!("{name}: {value}\r\n")
}

/// A name of more letters than one word of a spelling has bits for.
fn long_line() -> String {
    format!("x-{}-END: d\r\n", "Long-name-".repeat(12))
}

fn with_lines(request: &str, lines: &str) -> Rule {
    on(request).bytes(&format!("HTTP/1.1 200 OK\r\n{lines}CONTENT-LENGTH: 5\r\n\r\nhello"))
}

#[test]
fn the_origin_server_gets_request_fields_as_the_client_wrote_them() {
    let requests = ["GET /a", "GET /b", "POST /a", "POST /b", "OPTIONS /a"];
    let origin = Origin::script(requests.map(|request| on(request).send(200, "", "x")));
    let proxy = Proxy::before(&origin, &[]);
    let long = long_line();
    let sent = [
        "user-agent: node\r\naccept: */*\r\nX-Jenkins-CLI-Port: 1\r\nx-amz-DATE: 1\r\n",
        "x-b: 1\r\nX-B: 2\r\nx-b: 3\r\naccept-LANGUAGE: en\r\nx-under_Score.and~more!: b\r\n",
        &long,
    ]
    .concat();
    let mut connection = proxy.connect();
    for (request, hop_by_hop, content) in [
        ("GET /a", "", ""),
        ("GET /b", "CONNECTION: x-HOP, keep-alive\r\nX-hop: 1\r\nte: trailers\r\n", ""),
        ("POST /a", "Content-length: 3\r\n", "abc"),
        ("POST /b", "TRANSFER-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("OPTIONS /a", "X-FORWARDED-for: 6.6.6.6\r\n", ""),
    ] {
        // What goes no further stands before, between and behind what does.
        let (first, second) = sent.split_at(sent.find("x-b").expect("a line"));
        connection.send(format!(
            "{request} HTTP/1.1\r\nhost: h\r\n{first}{hop_by_hop}{second}\r\n{content}"
        ));
        let method = request.split(' ').next().expect("a method");
        assert_eq!(connection.reply_to(method).expect("a response").status, 200, "{request}");
        let asked = origin.asked().pop().expect("a request");
        let text = &asked.head.text;
        let begin = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{sent}", origin.port());
        assert!(text.starts_with(&begin), "RFC 9110 §5.1: {request}: {text}\n{begin}");
        // What the proxy adds is in the usual capitals.
        for line in text[begin.len()..].split("\r\n").filter(|line| !line.is_empty()) {
            let name = line.split(':').next().expect("a name");
            let about = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"];
            let framing = ["Content-Length", "Transfer-Encoding"];
            let trailers = request == "GET /b" && ["TE", "Connection"].contains(&name);
            let is_known = about.contains(&name) || framing.contains(&name) || trailers;
            assert!(is_known, "{request}: {line}");
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_client_gets_response_fields_as_the_origin_server_wrote_them() {
    let lines_sent = [LINES, &dated("date", 0), &long_line()].concat();
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = Origin::script([
        with_lines("GET /a", &format!("{lines_sent}connection: X-hop\r\nx-HOP: 1\r\n")),
        with_lines("POST /a", &lines_sent),
    ]);
    let mut proxy = Proxy::before(&origin, &["--store", &store]);
    let posted = proxy.ask("POST", "/a", "", "x");
    assert_eq!(lines(&posted), lines_sent, "what is not stored");
    let get = |proxy: &Proxy, what: &str, fields: &str, is_hit| {
        let reply = proxy.get_with("/a", fields);
        assert_eq!((reply.body(), reply.is_hit()), ("hello".to_string(), is_hit), "{what}");
        assert_eq!(lines(&reply), lines_sent, "RFC 9110 §5.1: {what}: {}", reply.head.text);
    };
    get(&proxy, "miss", "", false);
    get(&proxy, "hit", "", true);
    get(&proxy, "hit, whose head is ready", "", true);
    // Not on the fast path.
    get(&proxy, "hit with a directive", "cache-control: max-age=9999999999\r\n", true);
    let head = proxy.ask("HEAD", "/a", "", "");
    assert_eq!(lines(&head), lines_sent, "HEAD");
    let unchanged = proxy.get_with("/a", "if-none-match: \"1\"\r\n");
    assert_eq!(unchanged.status, 304);
    assert!(unchanged.head.text.contains("\r\netag: \"1\"\r\n"), "{}", unchanged.head.text);
    proxy.stop();
    let proxy = Proxy::before(&origin, &["--store", &store]);
    get(&proxy, "hit from the disk", "", true);
    get(&proxy, "hit in memory, from the disk", "", true);
    origin.assert_finished();
}

/// RFC 9111 §3.2: the lines that came replace the stored ones, and are spelt as they came.
#[cfg(feature = "sqlite")]
#[test]
fn a_freshened_response_has_lines_as_they_came_last() {
    let (old, new) = (dated("Date", 70), dated("date", 1));
    let stored = format!(
        "server: node\r\nCache-control: max-age=60\r\nX-a: 1\r\nETAG: \"1\"\r\nx-A: 2\r\n\
         age: 60\r\nX-stays: 1\r\n{old}"
    );
    let received = format!(
        "HTTP/1.1 304 Not Modified\r\nx-NEW: 1\r\n{new}cache-CONTROL: max-age=600\r\nX-A: 3\r\n\
         etag: \"1\"\r\n\r\n"
    );
    let expected = format!(
        "server: node\r\ncache-CONTROL: max-age=600\r\nX-A: 3\r\netag: \"1\"\r\nX-stays: 1\r\n{new}\
         x-NEW: 1\r\n"
    );
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let origin = Origin::script([
        with_lines("GET /a", &stored),
        on("GET /a").having("If-None-Match: \"1\"").bytes(&received),
    ]);
    let mut proxy = Proxy::before(&origin, &["--store", &store]);
    assert_eq!(proxy.get("/a").status, 200);
    let freshened = proxy.get_with("/a", "X-b: 1\r\nif-none-MATCH: \"0\"\r\nx-C: 1\r\n");
    assert!(freshened.cache_status().contains("fwd-status=304"), "{}", freshened.cache_status());
    assert_eq!(lines(&freshened), expected);
    // The proxy's condition stands in the place of the client's own, and under its name.
    let asked = origin.asked().pop().expect("a request").head.text;
    assert!(asked.contains("\r\nX-b: 1\r\nif-none-MATCH: \"1\"\r\nx-C: 1\r\n"), "{asked}");
    assert_eq!(lines(&proxy.get("/a")), expected, "from memory");
    proxy.stop();
    let proxy = Proxy::before(&origin, &["--store", &store]);
    let reply = proxy.get("/a");
    assert!(reply.is_hit());
    assert_eq!(lines(&reply), expected, "from the disk");
    origin.assert_finished();
}

#[test]
fn interim_responses_and_upgrades_keep_their_names() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </b>\r\nX-a: 1\r\nlinK: </c>\r\n\r\n";
    let upgraded = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-webSocket-accept: a\r\nX-b: 1\r\n\r\n";
    let origin = Origin::script([
        on("GET /a").bytes(interim).send(200, "", "x"),
        on("GET /socket").bytes(upgraded).close(),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let reply = proxy.get("/a");
    let text = &reply.interim.first().expect("an interim response").text;
    assert!(text.ends_with("\r\nlink: </b>\r\nX-a: 1\r\nlinK: </c>\r\n\r\n"), "{text}");
    let asked = "Connection: Upgrade\r\nUpgrade: websocket\r\nsec-websocket-KEY: k\r\nX-c: 1\r\n";
    let reply = proxy.get_with("/socket", asked);
    assert_eq!(reply.status, 101);
    let text = &reply.head.text;
    assert!(text.contains("\r\nsec-webSocket-accept: a\r\nX-b: 1\r\n"), "{text}");
    let asked = origin.asked().pop().expect("a request").head.text;
    assert!(asked.contains("\r\nsec-websocket-KEY: k\r\nX-c: 1\r\n"), "{asked}");
}
