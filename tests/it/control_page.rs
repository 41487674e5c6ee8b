//! The page of the control interface, and who may use it: as a browser asks, and as curl does.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use caching_proxy::control::{About, Control, Live};
use caching_proxy::message::body::Body;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::store::memory::{Eviction, MemoryLimits};

use super::support::engine::{bench_over, request};
use super::support::origin::{Origin, Step, on};
use super::support::proxy::Proxy;
use super::support::stored::{memory, response};
use super::support::wire::{Connection, Reply};
use super::support::{PATIENCE, TemporaryFolder};

const FRESH: &str = "Cache-Control: max-age=600";
const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
const TOKEN: &str = "0123456789abcdef";

/// The control interface of a running proxy.
struct Admin {
    proxy: Proxy,
    address: SocketAddr,
}

impl Admin {
    fn before(origin: &Origin, args: &[&str]) -> Self {
        let url = origin.url();
        let mut all = vec!["--origin", &url];
        all.extend_from_slice(args);
        Self::start(&all)
    }

    fn start(args: &[&str]) -> Self {
        let mut all = vec!["--admin", "127.0.0.1:0"];
        all.extend_from_slice(args);
        let proxy = Proxy::start(&all);
        let log = proxy.log();
        let line = log.lines().find_map(|line| line.split_once("control interface at http://"));
        let address = line.expect("a line").1.trim().parse().expect("an address");
        Self { proxy, address }
    }

    /// With [`TOKEN`].
    fn with_token(origin: &Origin, folder: &TemporaryFolder) -> Self {
        fs::write(folder.file("token"), TOKEN).expect("a file");
        Self::before(origin, &["--admin-token", &folder.file("token").display().to_string()])
    }

    /// Each field line ends in `\r\n`; Host is as a browser sends it, unless it is among them.
    fn ask(&self, method: &str, target: &str, fields: &str, content: &str) -> Reply {
        let mut connection = Connection::open(self.address);
        let host = format!("Host: {}\r\n", self.address);
        let host = if fields.contains("Host:") { "" } else { &host };
        connection.send(format!(
            "{method} {target} HTTP/1.1\r\n{host}{fields}Content-Length: {}\r\n\r\n{content}",
            content.len()
        ));
        connection.reply_to(method).expect("a response")
    }

    fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, "", "")
    }

    /// The token of the page.
    fn page_token(&self) -> String {
        let page = self.ask("GET", "/", HTML, "").body();
        let (_, rest) = page.split_once("page-token content=\"").expect("a token");
        rest.split('"').next().expect("its end").to_string()
    }

    fn own_origin(&self) -> String {
        format!("Origin: http://{}\r\n", self.address)
    }
}

/// Any number of times the same.
fn stored(contents: &[(&str, &str)]) -> Origin {
    Origin::script(
        contents.iter().map(|(target, content)| {
            on(&format!("GET {target}")).send(200, FRESH, content).always()
        }),
    )
}

#[test]
fn no_other_site_gets_in_and_a_change_needs_the_token_of_the_page() {
    let admin = Admin::before(&stored(&[]), &[]);
    let (own, token) = (admin.own_origin(), admin.page_token());
    let with_token = format!("X-Page-Token: {token}\r\n");
    let link =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    let frame =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n";
    let foreign = "Origin: http://evil.test\r\n";
    let same = "Sec-Fetch-Site: same-origin\r\n";
    let (get, purge) = (("GET", "/stats"), ("POST", "/purge?all=1"));
    let both = format!("{own}{with_token}");
    let rebound = format!(
        "Host: evil.test:{0}\r\nOrigin: http://evil.test:{0}\r\n{with_token}",
        admin.address.port()
    );
    let twice = format!("{own}{foreign}{with_token}");
    let wrong = format!("{own}X-Page-Token: {}\r\n", "0".repeat(64));
    let table = [
        // curl, as ever.
        (get, "", 200),
        (purge, "", 200),
        // The page itself.
        (get, &own, 200),
        (get, same, 200),
        (purge, &both, 200),
        // A browser, without the token of the page or with another.
        (purge, &own, 403),
        (purge, same, 403),
        (purge, &wrong, 403),
        (("POST", "/logout"), &own, 403),
        (("POST", "/refresh?url=/a"), &own, 403),
        // Other sites, whatever else they know.
        (get, foreign, 403),
        (get, "Origin: null\r\n", 403),
        (purge, foreign, 403),
        (purge, &twice, 403),
        (purge, &rebound, 403),
        (get, "Host: evil.test\r\n", 403),
        (get, "Host: 127.0.0.1.evil.test\r\n", 403),
        (get, "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403),
        (("GET", "/explain?url=/a"), "Sec-Fetch-Site: same-site\r\n", 403),
        // A link leads to the page, and to nothing else.
        (("GET", "/"), link, 200),
        (get, link, 403),
        (("GET", "/"), frame, 403),
    ];
    for ((method, target), fields, expected) in table {
        let reply = admin.ask(method, target, fields, "");
        assert_eq!(reply.status, expected, "{method} {target} {fields}: {}", reply.body());
    }
}

#[test]
fn with_a_token_the_page_has_a_login_whose_session_is_for_one_host() {
    let folder = TemporaryFolder::new();
    let admin = Admin::with_token(&stored(&[]), &folder);
    let sent_on = admin.ask("GET", "/", HTML, "");
    assert_eq!((sent_on.status, &*sent_on.head.field("location")), (303, "/control-page/"));
    let form = admin.ask("GET", "/control-page/", HTML, "");
    assert_eq!(form.status, 401);
    assert!(form.body().contains("<form method=post action=login>"), "{}", form.body());
    assert!(!form.body().contains("page-token"), "the token is for who has logged in");
    assert_eq!(admin.get("/control-page/page.css").status, 200);
    assert_eq!((admin.get("/").status, admin.get("/stats").status), (401, 401), "curl is as ever");
    let log_in = |fields: &str, content: &str| {
        admin.ask("POST", "/control-page/login", &format!("{HTML}{fields}"), content)
    };
    let own = admin.own_origin();
    let right = format!("token={TOKEN}");
    assert_eq!(log_in("Origin: http://evil.test\r\n", &right).status, 403);
    assert_eq!(log_in(&own, "").status, 400);
    assert_eq!(log_in(&own, &format!("token={}", "a".repeat(5000))).status, 413);
    assert!(log_in(&own, "token=0123456789abcdeF").body().contains("is not the token"));
    let session = log_in(&own, &right);
    assert_eq!((session.status, &*session.head.field("location")), (303, "/control-page/"));
    let cookie = session.head.field("set-cookie");
    let port = admin.address.port();
    assert!(cookie.starts_with(&format!("proxy-session-{port}=")), "{cookie}");
    assert!(cookie.ends_with("; Path=/control-page/; Max-Age=43200; HttpOnly; SameSite=Strict"));
    assert!(!cookie.contains(TOKEN));
    let cookie = format!("Cookie: other=1; {}\r\n", cookie.split(';').next().expect("a pair"));
    let page = admin.ask("GET", "/control-page/", &format!("{HTML}{cookie}"), "");
    assert_eq!(page.status, 200);
    let (_, token) = page.body().split_once("page-token content=\"").map_or_else(
        || panic!("no token"),
        |(before, rest)| (before.to_string(), rest.split('"').next().expect("its end").to_string()),
    );
    let token = format!("X-Page-Token: {token}\r\n");
    let purge = |fields: &str| admin.ask("POST", "/control-page/purge?all=1", fields, "").status;
    assert_eq!(purge(&cookie), 403, "a session is a browser's: it needs the token of the page");
    assert_eq!(purge(&format!("{cookie}{own}{token}")), 200);
    assert_eq!(purge(&format!("{cookie}{token}Host: other:{port}\r\n")), 403, "another Host");
    assert_eq!(purge(&format!("{own}{token}")), 401, "the token of the page admits nobody");
    let given = ["Bearer ", "bearer ", "Bearer", "Basic ", ""];
    let statuses = given.map(|scheme| purge(&format!("Authorization: {scheme}{TOKEN}\r\n")));
    assert_eq!(statuses, [200, 200, 401, 401, 401]);
    let out = admin.ask("POST", "/control-page/logout", &format!("{cookie}{token}"), "");
    assert_eq!(out.status, 200);
    assert_eq!(purge(&format!("{cookie}{own}{token}")), 401);
}

#[test]
fn wrong_tokens_are_counted() {
    let folder = TemporaryFolder::new();
    let admin = Admin::with_token(&stored(&[]), &folder);
    let log_in = |token: &str| admin.ask("POST", "/login", "", &format!("token={token}")).status;
    for _ in 0..10 {
        assert_eq!(log_in("wrong"), 401);
    }
    assert_eq!(log_in(TOKEN), 429);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(admin.ask("GET", "/stats", &bearer, "").status, 200);
}

/// Content that does not come keeps one worker, and no other client but those that log in.
#[test]
fn a_login_that_is_slow_delays_nobody_else() {
    let folder = TemporaryFolder::new();
    let admin = Admin::with_token(&stored(&[]), &folder);
    let content = format!("token={TOKEN}");
    let mut slow = Connection::open(admin.address);
    // It is asked for its content once a worker reads it.
    slow.send(format!(
        "POST /login HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        content.len()
    ));
    assert_eq!(slow.head().expect("a head").word(1), "100");
    assert_eq!(admin.ask("POST", "/login", "", &content).status, 503);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(admin.ask("GET", "/stats", &bearer, "").status, 200);
    slow.send(&content);
    assert_eq!(slow.reply().status, 303);
    assert_eq!(admin.ask("POST", "/login", "", &content).status, 303);
}

#[test]
fn a_browser_is_shown_a_page_whose_figures_need_no_script() {
    let admin = Admin::before(&stored(&[("/a", "hello")]), &[]);
    for _ in 0..4 {
        admin.proxy.get("/a");
    }
    admin.proxy.get_with("/a", "Cache-Control: no-cache\r\n");
    assert!(admin.get("/").body().starts_with("GET  /health\n"), "curl is given what it was given");
    let page = admin.ask("GET", "/", HTML, "");
    let policy = page.head.field("content-security-policy");
    for rule in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for reply in [&page, &admin.get("/stats"), &admin.get("/none"), &admin.get("/page.js")] {
        assert_eq!(reply.head.field("x-content-type-options"), "nosniff");
    }
    assert_eq!(page.head.field("cross-origin-resource-policy"), "same-origin");
    // The last answer is counted once all of it has been sent, which its client may be faster than.
    let deadline = Instant::now() + PATIENCE;
    for shown in [
        "data-figure=requests data-span=start><b>5</b>",
        "data-figure=ratio data-span=minute><b>60.0 %</b>",
        "data-figure=bytes data-span=hour><b>25 B</b>",
        "data-figure=cached data-span=minute><b>15 B</b>",
        "data-figure=saved data-span=start><b>3</b>",
        "<tr data-detail=\"no-cache\"><th scope=row><code>no-cache</code></th><td class=number>1</td>",
        "<tr data-detail=\"private\" hidden>",
        "<th scope=row>Misses, last minute</th><td class=number>2</td>",
        "<td class=\"\">no-cache</td><td class=\"\">200</td><td>GET /a</td><td class=number>5 B</td>",
        "<th scope=row>Hits, since the start</th><td class=number>3</td>",
    ] {
        let mut body = page.body();
        while !body.contains(shown) {
            assert!(Instant::now() < deadline, "{shown}: {body}");
            body = admin.ask("GET", "/", HTML, "").body();
        }
    }
    for name in ["page.css", "page.js"] {
        assert_eq!(admin.get(&format!("/{name}")).status, 200);
    }
}

/// The next event that names a request, and the longest so far.
fn next_event(stream: &mut Connection, has: impl Fn(&Value) -> bool) -> (Value, usize) {
    use std::io::Read as _;
    let mut longest = 0;
    loop {
        let (mut event, mut byte) = (Vec::new(), [0]);
        while !event.ends_with(b"\n\n") {
            stream.stream.read_exact(&mut byte).expect("an event");
            event.push(byte[0]);
        }
        // Without the framing of chunks, which are lines of their own.
        let text = String::from_utf8(event).expect("text");
        let Some((_, data)) = text.split_once("data: ") else { continue };
        longest = longest.max(data.len() + "data: ".len());
        let event: Value = serde_json::from_str(data.trim()).expect("JSON");
        if event["requests"].as_array().is_some_and(|requests| requests.iter().any(&has)) {
            return (event, longest);
        }
    }
}

#[test]
fn pages_that_are_open_get_an_event_a_second_hold_no_thread_and_are_bounded() {
    let long = format!("/{}", "%3Cscript%3E".repeat(50));
    let mut admin = Admin::before(&stored(&[("/a", "hello"), (&long, "long")]), &[]);
    admin.proxy.get("/a");
    let open = || {
        let mut stream = Connection::open(admin.address);
        stream.request("GET", "/events", "", "");
        let head = stream.head().expect("a head");
        (stream, head)
    };
    let (mut first, head) = open();
    assert_eq!(head.field("content-type"), "text/event-stream");
    let mut others: Vec<_> = (1..16).map(|_| open()).collect();
    assert!(others.iter().all(|(_, head)| head.word(1) == "200"));
    let threads = admin.proxy.threads();
    assert_eq!(open().1.word(1), "503", "sixteen pages are open");
    // The page is served all the same, by workers that no page holds.
    assert_eq!(admin.ask("GET", "/", HTML, "").status, 200);
    // Of each second a few are noted, so requests come until a hit is.
    let is_hit = |request: &Value| request[2] == "/a" && request[5] == "hit";
    let answer = std::thread::scope(|scope| {
        let seen = scope.spawn(|| next_event(&mut first, is_hit));
        while !seen.is_finished() {
            for _ in 0..20 {
                admin.proxy.get("/a");
                admin.proxy.get(&long);
            }
        }
        seen.join().expect("an event")
    });
    let (event, longest) = answer;
    assert!(longest <= 1024, "{longest} bytes: {event}");
    let requests = event["requests"].as_array().expect("a list");
    assert!(requests.len() <= 30, "{event}");
    let hit = requests.iter().find(|request| is_hit(request)).expect("a hit");
    assert_eq!((&hit[1], &hit[3], &hit[5]), (&"GET".into(), &200.into(), &"hit".into()), "{event}");
    assert_eq!(admin.proxy.threads(), threads);
    // A page that goes makes space for another one.
    drop(others.pop());
    let deadline = Instant::now() + PATIENCE;
    while open().1.word(1) != "200" {
        assert!(Instant::now() < deadline, "its space is not free");
        super::support::pause();
    }
    let history: Value = serde_json::from_str(&admin.get("/history").body()).expect("JSON");
    assert_eq!(history["minute"]["step"], 1);
    assert!(history["start"]["values"][0][0].as_u64().is_some(), "{history}");
    // A stream has no end of its own, and keeps no process: these are open still.
    let (status, _, log) = admin.proxy.stop();
    assert!(status.success(), "{log}");
    drop(others);
}

/// Pages and commands are each given every request that is noted, once and in order.
#[test]
fn readers_of_the_newest_requests_take_nothing_from_each_other() {
    let targets = ["/1", "/2", "/3", "/4", "/5"];
    let admin = Admin::before(&stored(&targets.map(|target| (target, "hello"))), &[]);
    let mut pages: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = Connection::open(admin.address);
            stream.request("GET", "/events", "", "");
            assert_eq!(stream.head().expect("a head").word(1), "200");
            stream
        })
        .collect();
    for target in targets {
        admin.proxy.get(target);
    }
    // Two event loops note what they have answered: in which order is not said, but to every reader the same.
    let mut order: Option<Vec<String>> = None;
    for page in &mut pages {
        let mut seen = Vec::new();
        while seen.len() < targets.len() {
            let (event, _) = next_event(page, |_| true);
            assert_eq!(event["first"], seen.len(), "{event}");
            let requests = event["requests"].as_array().expect("a list");
            seen.extend(requests.iter().map(|one| one[2].as_str().expect("text").to_string()));
        }
        assert_eq!(order.get_or_insert_with(|| seen.clone()), &seen);
    }
    let order = order.expect("pages");
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!(sorted, targets);
    let recent = |from: u64| -> Value {
        serde_json::from_str(&admin.get(&format!("/recent?from={from}")).body()).expect("JSON")
    };
    for _ in 0..2 {
        let all = recent(0);
        let seen = all["requests"].as_array().expect("a list").iter();
        assert_eq!(
            seen.map(|one| &one["target"]).collect::<Vec<_>>(),
            order.iter().collect::<Vec<_>>()
        );
        let (first, last) = (&all["requests"][0], &all["requests"][4]);
        assert_eq!((&all["next"], &last["number"]), (&5.into(), &4.into()), "{all}");
        assert_eq!((&first["status"], &first["bytes"]), (&200.into(), &5.into()), "{all}");
        assert!(first["at"].as_u64().is_some() && first["seconds"].as_f64().is_some(), "{all}");
    }
    assert_eq!(
        (&recent(4)["requests"][0]["target"], recent(5)["next"].as_u64()),
        (&order[4].as_str().into(), Some(5))
    );
    assert_eq!(admin.get("/recent?from=x").status, 400);
}

#[test]
fn stored_content_is_shown_as_text_or_as_a_picture_and_can_do_nothing() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    let head = |kind: &str, length: usize| {
        format!("{FRESH}; Content-Type: {kind}; Content-Length: {length}")
    };
    let big = 10 << 20;
    let html = "<script>alert(1)</script>\u{202e}";
    // `<b>U+202E</b>` in gzip.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xb3\x49\xb2\x7b\xd4\xb0\xce\x46\x3f\xc9\x0e\0\
                 \xf6\x32\x49\x29\x0a\0\0\0";
    let origin = Origin::script([
        on("GET /html").send(200, &format!("{FRESH}; Content-Type: text/html"), html),
        on("GET /svg").send(
            200,
            &format!("{FRESH}; Content-Type: image/svg+xml"),
            "<svg onload='x()'/>",
        ),
        on("GET /png").head(200, &head("text/html", png.len())).then(Step::Send(png.clone())),
        on("GET /coded").head(200, &head("text/html", 3)).then(Step::Send(vec![0x1f, 0x8b, 8])),
        on("GET /gzip")
            .head(200, &format!("{}; Content-Encoding: gzip", head("text/html", gzip.len())))
            .then(Step::Send(gzip.to_vec())),
        on("GET /big")
            .head(200, &head("text/plain", big))
            .then(Step::Repeat(b"0123456789".to_vec(), big / 10)),
        on("GET /big").head(200, &head("text/plain", big)),
    ]);
    let admin = Admin::before(&origin, &["--max-object-size", "16M", "--cache-memory", "128M"]);
    let shown = |target: &str| {
        assert_eq!(admin.proxy.get(target).status, 200);
        let reply = admin.get(&format!("/content?url={target}"));
        assert_eq!(reply.status, 200, "{target}");
        let policy = reply.head.field("content-security-policy");
        assert!(policy.starts_with("sandbox; default-src 'none'"), "{policy}");
        assert_eq!(reply.head.field("x-content-type-options"), "nosniff");
        (reply.head.field("content-type"), reply.content)
    };
    let text = |text: &str| ("text/plain; charset=utf-8".to_string(), text.as_bytes().to_vec());
    assert_eq!(shown("/html"), text("<script>alert(1)</script>⟨U+202E⟩"));
    assert_eq!(shown("/svg"), text("<svg onload='x()'/>"));
    assert_eq!(shown("/png"), ("image/png".to_string(), png));
    let (kind, content) = shown("/coded");
    assert!(
        kind.starts_with("text/plain") && String::from_utf8_lossy(&content).contains("1f 8b 08")
    );
    assert_eq!(shown("/gzip"), text("<b>⟨U+202E⟩</b>"));
    let (_, content) = shown("/big");
    assert!(String::from_utf8_lossy(&content).ends_with("\n[65536 of 10485760 bytes]\n"));
    assert!(content.len() < 70_000);
    assert_eq!(admin.get("/content?url=/none").status, 404);
    assert_eq!(admin.get("/content?url=/html&variant=1").status, 404);
}

#[test]
fn what_is_stored_is_searched_sorted_and_paged() {
    let names: Vec<String> = (0..30).map(|number| format!("/{number:02}")).collect();
    let contents: Vec<String> = (0..30).map(|number| "x".repeat(100 - number)).collect();
    let pairs: Vec<(&str, &str)> =
        names.iter().zip(&contents).map(|(name, content)| (&**name, &**content)).collect();
    let origin = stored(&pairs);
    let admin = Admin::before(&origin, &[]);
    for name in &names {
        admin.proxy.get(name);
    }
    let table = |query: &str| -> Value {
        serde_json::from_str(&admin.get(&format!("/table?{query}")).body()).expect("JSON")
    };
    let urls = |table: &Value| -> Vec<String> {
        let rows = table["rows"].as_array().expect("rows");
        rows.iter().map(|row| row["url"].as_str().expect("a URL").to_string()).collect()
    };
    let first = table("");
    assert_eq!(
        (urls(&first).len(), &first["pages"], &first["matched"]),
        (25, &2.into(), &30.into())
    );
    assert_eq!((urls(&table("page=1")).len(), &first["all_seen"]), (5, &true.into()));
    assert_eq!(urls(&table("page=99")).len(), 5, "the last page");
    assert!(urls(&table("sort=bytes"))[0].ends_with("/29"));
    assert!(urls(&table("sort=-bytes"))[0].ends_with("/00"));
    assert_eq!(urls(&table("search=/07")).len(), 1);
    // It is older than all others, has more time left, is another status, and is reused.
    origin.add(on("GET /other").send(404, "Cache-Control: max-age=9000; Age: 100", "other"));
    for _ in 0..2 {
        admin.proxy.get("/other");
    }
    for sort in ["age", "fresh_for", "status", "hits"] {
        assert!(urls(&table(&format!("sort=-{sort}")))[0].ends_with("/other"), "{sort}");
        let last = urls(&table(&format!("sort={sort}&page=1"))).pop();
        assert!(last.is_some_and(|last| last.ends_with("/other")), "{sort}");
    }
    assert_eq!(admin.get("/table?sort=colour").status, 400);
    assert_eq!(admin.get("/table?page=-1").status, 400);
}

/// One request does not look through a million of them.
#[test]
fn the_table_looks_through_so_many_stored_responses_and_says_so() {
    let limits = MemoryLimits { bytes: 64 << 20, responses: None, content_bytes: 1 << 20 };
    let bench = bench_over(memory(Eviction::Lru, limits), |_| {});
    let put = |name: &str| {
        let key = CacheKey::from(&*format!("http://o.test/{name}"));
        bench.store.put(&key, response(None, b"x", 1000), &bench.store.note(&key));
    };
    let about = About {
        address: "127.0.0.1:3000".to_string(),
        origin: "http://o.test".to_string(),
        store: String::new(),
        cache: String::new(),
        since: bench.proxy.now(),
    };
    let live = Arc::new(Live::new(bench.driver.clone()));
    let control = Control::new(bench.driver.clone(), about, None).with_history(live).with_page();
    let table = |query: &str| -> Value {
        let response = control.answer(&request("GET", &format!("/table?{query}"), ""), &[]);
        let Body::Whole(content) = response.body else { panic!("it is whole") };
        serde_json::from_slice(&content).expect("JSON")
    };
    let counts = |query: &str| {
        let table = table(query);
        (table["matched"].as_u64(), table["all_seen"].as_bool())
    };
    for number in 0..19_000 {
        put(&format!("{number:05}"));
    }
    assert_eq!(counts(""), (Some(19_000), Some(true)));
    for number in 19_000..21_500 {
        put(&format!("{number:05}"));
    }
    assert_eq!(counts(""), (Some(20_000), Some(false)));
    assert_eq!(counts("search=/00007"), (Some(1), Some(false)));
    // Their names may be long: then it is fewer.
    for number in 0..1200 {
        put(&format!("-{number}{}", "n".repeat(4000)));
    }
    let (matched, all_seen) = counts("");
    assert!(
        matched.is_some_and(|matched| matched < 2000) && all_seen == Some(false),
        "{matched:?}"
    );
}

#[test]
fn a_refresh_asks_the_origin_server_for_the_same_variant() {
    let varying = format!("{FRESH}; Vary: Accept-Language");
    let origin = Origin::script([
        on("GET /a").having("Accept-Language: de").send(200, &varying, "alt"),
        on("GET /a").having("Accept-Language: de").send(200, &varying, "neu"),
    ]);
    let admin = Admin::before(&origin, &[]);
    let get = || admin.proxy.get_with("/a", "Accept-Language: de\r\n").body();
    assert_eq!(get(), "alt");
    // Each row of the table, and each member of what is shown, names its variant.
    let read =
        |target: &str| -> Value { serde_json::from_str(&admin.get(target).body()).expect("JSON") };
    let (table, shown) = (read("/table"), read("/show?url=/a"));
    let variant = table["rows"][0]["variant"].as_str().expect("a word");
    assert_eq!(shown[0]["variant"], variant);
    let content = |variant: &str| admin.get(&format!("/content?url=/a&variant={variant}")).body();
    assert_eq!(content(variant), "alt");
    assert!(content("other").contains("not stored any more"));
    let refreshed = admin.ask("POST", "/refresh?url=/a", "", "");
    assert_eq!(refreshed.status, 200, "{}", refreshed.body());
    assert!(refreshed.body().contains("\"status\":200"), "{}", refreshed.body());
    assert_eq!(get(), "neu");
    assert_eq!(admin.ask("POST", "/refresh?url=/none", "", "").status, 404);
    origin.assert_finished();
}

#[test]
fn the_page_says_that_the_origin_server_is_down() {
    let admin = Admin::start(&["--origin", "http://127.0.0.1:1"]);
    assert!(admin.ask("GET", "/", HTML, "").body().contains("answers, as far as is known"));
    assert_eq!(admin.proxy.get("/a").status, 502);
    assert!(admin.ask("GET", "/", HTML, "").body().contains("127.0.0.1:1: no connection"));
}
