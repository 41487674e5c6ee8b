//! Behind another proxy, and in front of an application that insists on its own URL: what clients see,
//! what the origin server is told, and who is believed. RFC 7239, RFC 9110 §7.2, §15.4.

use super::support::TemporaryFolder;
use super::support::engine::bench;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, run};
use super::support::wire::Reply;
use caching_proxy::message::request::Request;
use http::{HeaderName, HeaderValue, Method, Version};

/// Asks with these field lines, separated by `|`; `Host` is among them, or is the proxy's address.
fn ask(proxy: &Proxy, method: &str, target: &str, lines: &str) -> Reply {
    let host = if lines.starts_with("Host:") { "" } else { "Host: HERE|" };
    let lines = format!("{host}{lines}").replace("HERE", &proxy.address.to_string());
    let lines = lines.trim_end_matches('|').replace('|', "\r\n");
    proxy.connect().send(format!("{method} {target} HTTP/1.1\r\n{lines}\r\n\r\n")).reply()
}

fn get(proxy: &Proxy, target: &str, lines: &str) -> Reply {
    ask(proxy, "GET", target, lines)
}

/// `X-Forwarded-For`, `-Proto` and `-Host` of the request that the origin server was sent last.
fn told(origin: &Origin) -> [String; 3] {
    let asked = origin.asked().pop().expect("it was asked");
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(|name| asked.head.field(name))
}

/// Every field that can name the origin server at `url`.
fn fields_of(url: &str) -> String {
    let authority = url.replace("http://", "");
    format!(
        "Location: //{authority}/b; Content-Location: HTTP://user@{authority}/c; \
         Link: <//{authority}/d>; Refresh: 0; url=\"{url}/e\"; Cache-Control: max-age=60"
    )
}

fn assert_leads_to(reply: &Reply, at: &str, whose: &str) {
    assert_eq!(reply.field("location"), format!("{at}/b"), "{whose}");
    assert_eq!(reply.field("content-location"), format!("{at}/c"), "{whose}");
    assert_eq!(reply.field("link"), format!("<{at}/d>"), "{whose}");
    assert_eq!(reply.field("refresh"), format!("0; url=\"{at}/e\""), "{whose}");
}

#[test]
fn clients_are_led_to_the_host_that_they_asked_and_the_stored_form_is_the_origins() {
    let origin = Origin::script([]);
    origin.add(on("GET /a").send(302, &fields_of(&origin.url()), ""));
    let proxy = Proxy::before(&origin, &[]);
    assert_leads_to(&get(&proxy, "/a", ""), &format!("http://{}", proxy.address), "the first");
    for host in ["one.test", "two.test:81"] {
        let reply = get(&proxy, "/a", &format!("Host: {host}"));
        assert!(reply.is_hit(), "{host}");
        assert_leads_to(&reply, &format!("http://{host}"), host);
    }
    let shown = proxy.tell(&["show", "--port", &proxy.address.port().to_string(), "/a"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("url=\"{}/e\"", origin.url())), "{shown}");
    origin.assert_finished();
}

#[test]
fn another_servers_uris_are_left_alone() {
    let origin = Origin::script([]);
    let authority = origin.url().replace("http://", "");
    let others = [
        format!("//{authority}.evil/x"),
        format!("http://{authority}@evil/x"),
        format!("https://{authority}/x"),
        "/x".to_string(),
        "x?y#z".to_string(),
    ];
    let proxy = Proxy::before(&origin, &[]);
    for (number, other) in others.iter().enumerate() {
        let fields = format!("Location: {other}; Refresh: 0; url={other}; Link: <{other}>");
        origin.add(on(&format!("GET /{number}")).send(302, &fields, ""));
        let reply = get(&proxy, &format!("/{number}"), "");
        assert_eq!(reply.field("location"), *other);
        assert_eq!(reply.field("refresh"), format!("0; url={other}"));
        assert_eq!(reply.field("link"), format!("<{other}>"));
    }
    origin.assert_finished();
}

#[test]
fn early_hints_lead_to_the_proxy_too() {
    let origin = Origin::script([]);
    let hint = format!("Link: <{}/style.css>; rel=preload", origin.url());
    origin.add(on("GET /a").head(103, &hint).send(200, "Cache-Control: max-age=60", "x"));
    let proxy = Proxy::before(&origin, &[]);
    let reply = get(&proxy, "/a", "");
    let hints: Vec<String> = reply.interim.iter().map(|head| head.field("link")).collect();
    assert_eq!(hints, [format!("<http://{}/style.css>; rel=preload", proxy.address)]);
    origin.assert_finished();
}

#[test]
fn a_public_url_is_what_clients_see_and_the_origin_is_told() {
    let origin = Origin::script([]);
    origin.add(on("GET /a").send(302, &fields_of(&origin.url()), "x"));
    let proxy = Proxy::before(&origin, &["--public-url", "https://Shop.test:443/"]);
    let lies = "Host: evil.test|X-Forwarded-Proto: http|X-Forwarded-Host: evil.test|Forwarded: host=evil.test";
    // The plain hits are answered by the shortest way, the others by the long one.
    for lines in ["", "", "Host: one.test", lies, "If-Range: x", "Cache-Control: max-stale=1"] {
        assert_leads_to(&get(&proxy, "/a", lines), "https://shop.test", lines);
    }
    assert_eq!(told(&origin), ["127.0.0.1", "https", "shop.test"]);
    let old = proxy.connect().send("GET /a HTTP/1.0\r\n\r\n").reply();
    assert_leads_to(&old, "https://shop.test", "HTTP/1.0");
    origin.assert_finished();
}

#[cfg(feature = "tls")]
#[test]
fn an_https_origin_is_told_no_scheme_that_nobody_knows() {
    let (origin, _) = Origin::script_tls([
        on("GET /a").lacking("x-forwarded-proto").send(200, "", "x"),
        on("GET /a").having("X-Forwarded-Proto: https").send(200, "", "x").times(2),
        on("GET /a").having("X-Forwarded-Proto: http").send(200, "", "x").times(2),
    ]);
    let start = |args: &[&str]| Proxy::before(&origin, &[&["--insecure"], args].concat());
    let trusting = start(&["--trust-forwarded", "127.0.0.1"]);
    assert_eq!(get(&start(&[]), "/a", "X-Forwarded-Proto: https").status, 200);
    assert_eq!(get(&start(&["--public-url", "https://a.test"]), "/a", "").status, 200);
    assert_eq!(get(&start(&["--public-url", "http://a.test"]), "/a", "").status, 200);
    for scheme in ["https", "http"] {
        let reply = get(&trusting, "/a", &format!("X-Forwarded-Proto: {scheme}"));
        assert_eq!((reply.status, reply.is_hit()), (200, false), "{scheme}");
    }
    origin.assert_finished();
}

/// An application that insists on https, stored for ever: each client would be sent to itself.
#[test]
fn a_redirect_to_what_was_asked_for_is_passed_on_and_not_stored() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    let (here, there) = (format!("http://{}", proxy.address), origin.url());
    let own = [
        format!("{there}/OWN"),
        format!("//{}/OWN", there.replace("http://", "")),
        format!("{here}/OWN#top"),
        format!("{}/OWN", here.replace("http", "https")),
        "/OWN".to_string(),
        "#top".to_string(),
    ];
    for (number, location) in own.iter().enumerate() {
        for status in [301, 302, 308] {
            let target = format!("/{number}?status={status}");
            let location = location.replace("/OWN", &target);
            let fields = format!("Location: {location}; Cache-Control: max-age=60");
            origin.add(on(&format!("GET {target}")).send(status, &fields, ""));
            origin.add(on(&format!("GET {target}")).send(200, "Cache-Control: max-age=60", "x"));
            let first = get(&proxy, &target, "");
            let told = format!("proxy; fwd=uri-miss; fwd-status={status}; detail=own-url");
            assert_eq!((first.status, first.cache_status()), (status, told), "{location}");
            assert_eq!(get(&proxy, &target, "").status, 200, "{location}");
            assert!(get(&proxy, &target, "").is_hit(), "{location}");
        }
    }
    for (number, location) in ["/other", "http://www.test/10", "?more"].iter().enumerate() {
        let target = format!("/1{number}");
        let fields = format!("Location: {location}; Cache-Control: max-age=60");
        origin.add(on(&format!("GET {target}")).send(301, &fields, ""));
        get(&proxy, &target, "");
        assert!(get(&proxy, &target, "").is_hit(), "{location}");
    }
    origin.assert_finished();
}

/// Whether a redirect leads back depends on the name by which the client knows the proxy, which is not in the
/// key: each request is looked at, not only the one that it is stored for.
#[test]
fn a_stored_redirect_is_not_given_to_whom_it_leads_back() {
    let fields = "Location: http://shop.test/a; Cache-Control: max-age=60";
    let origin = Origin::script([
        on("GET /a").send(301, fields, ""),
        on("GET /a").send(200, "Cache-Control: max-age=60", "arrived"),
    ]);
    let proxy = Proxy::before(&origin, &[]);
    let from = |host: &str| {
        let head = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
        proxy.connect().send(head).reply()
    };
    assert_eq!(from("10.0.0.5:80").cache_status(), "proxy; fwd=uri-miss; fwd-status=301; stored");
    assert!(from("10.0.0.6").is_hit(), "it leads others to the shop");
    assert_eq!(from("shop.test").body(), "arrived");
    assert!(from("shop.test").is_hit());
    origin.assert_finished();
}

/// A name of this machine is told to the origin server only for a client on it.
#[test]
fn a_name_of_this_machine_is_the_own_word_of_those_on_it() {
    for (client, told) in [
        ("127.0.0.1:9", "127.6.6.6:3000"),
        ("[::1]:9", "127.6.6.6:3000"),
        ("10.0.0.9:9", "127.0.0.1:3000"),
    ] {
        let bench = bench(|_| ());
        bench.answers(200, "Cache-Control: no-store", "x");
        let host = [(HeaderName::from_static("host"), HeaderValue::from_static("127.6.6.6:3000"))];
        let client = Some(client.parse().expect("an address"));
        let fields = host.into_iter().collect();
        let request = Request::new(Method::GET, "/", Version::HTTP_11, fields, client);
        bench.send(request.expect("a request"));
        assert_eq!(bench.last_asked().field("x-forwarded-host"), told, "{client:?}");
    }
}

/// The scheme is in the key there: what is asked over http leads to another URL.
#[test]
fn a_redirect_to_another_scheme_is_stored_where_the_scheme_is_known() {
    let there = "Location: https://shop.test/a; Cache-Control: max-age=60";
    let origin = Origin::script([
        on("GET /a").having("X-Forwarded-Proto: http").send(301, there, ""),
        on("GET /a").having("X-Forwarded-Proto: https").send(200, "Cache-Control: max-age=60", "x"),
    ]);
    let proxy = Proxy::before(&origin, &["--trust-forwarded", "127.0.0.0/8"]);
    for turn in 0..2 {
        for (scheme, status) in [("http", 301), ("https", 200)] {
            let said =
                format!("Host: shop.test|X-Forwarded-Proto: {scheme}|X-Forwarded-Host: shop.test");
            let reply = get(&proxy, "/a", &said);
            assert_eq!((reply.status, reply.is_hit()), (status, turn == 1), "{scheme}");
        }
    }
    origin.assert_finished();
}

#[test]
fn what_a_trusted_peer_says_is_believed_and_said_anew() {
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: no-store", "x").always()]);
    let trusting = Proxy::before(&origin, &["--trust-forwarded", "127.0.0.1, 10.0.0.0/8"]);
    let here = trusting.address.to_string();
    #[rustfmt::skip]
    let table = [
        ("", ["127.0.0.1", "http", "HERE"]),
        ("X-Forwarded-For: 9.9.9.9, 1.1.1.1, 10.0.0.2|X-Forwarded-Proto: https|X-Forwarded-Host: Shop.test", ["1.1.1.1, 10.0.0.2, 127.0.0.1", "https", "shop.test"]),
        ("X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 10.0.0.2", ["1.1.1.1, 10.0.0.2, 127.0.0.1", "http", "HERE"]),
        ("Forwarded: for=\"[2001:db8::1]:80\";proto=https;host=\"a.test:1\"", ["2001:db8::1, 127.0.0.1", "https", "a.test:1"]),
        ("Forwarded: for=9.9.9.9;proto=https|X-Forwarded-For: 1.1.1.1", ["1.1.1.1, 127.0.0.1", "http", "HERE"]),
        ("X-Forwarded-For: unknown|X-Forwarded-Proto: gopher|X-Forwarded-Host: a/b", ["127.0.0.1", "http", "HERE"]),
    ];
    for (lines, expected) in table {
        get(&trusting, "/a", lines);
        assert_eq!(told(&origin), expected.map(|text| text.replace("HERE", &here)), "{lines}");
    }
    assert_eq!(
        origin.asked().pop().map(|asked| asked.head.field("forwarded")),
        Some(String::new())
    );
    // From everybody else, and with no flag, it is dropped.
    for args in [&["--trust-forwarded", "10.0.0.0/8,::1"][..], &[]] {
        let proxy = Proxy::before(&origin, args);
        for (lines, _) in table {
            get(&proxy, "/a", lines);
            assert_eq!(told(&origin), ["127.0.0.1", "http", &proxy.address.to_string()], "{lines}");
        }
    }
}

#[test]
fn clients_of_one_trusted_proxy_get_their_own_responses() {
    let kinds = [
        "",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: one.test",
        "X-Forwarded-Host: two.test",
        "X-Forwarded-Host: ORIGIN",
        "X-Forwarded-Proto: https|X-Forwarded-Host: one.test",
        "X-Forwarded-Proto: https|X-Forwarded-Host: ORIGIN",
        "Forwarded: proto=https;host=two.test",
    ];
    for flags in [&[][..], &["--preserve-host"]] {
        let origin = Origin::script([]);
        let authority = origin.url().replace("http://", "");
        origin.add(on("GET /a").send(200, &fields_of(&origin.url()), "x").times(kinds.len()));
        let proxy = Proxy::before(&origin, &[&["--trust-forwarded", "127.0.0.1"], flags].concat());
        let kinds = kinds.map(|kind| kind.replace("ORIGIN", &authority));
        for turn in 0..2 {
            for kind in &kinds {
                let reply = get(&proxy, "/a", kind);
                assert_eq!(reply.is_hit(), turn == 1, "{flags:?} {kind}");
                let own = format!("http://{}", proxy.address);
                let own = if kind.contains("https") { own.replace("http", "https") } else { own };
                let host = ["one.test", "two.test", &authority];
                let host = host.iter().find(|host| kind.contains(**host));
                let own =
                    host.map_or(own.clone(), |host| own.replace(&proxy.address.to_string(), host));
                assert_leads_to(&reply, &own, kind);
            }
        }
        // What differs in the client alone is shared.
        assert!(get(&proxy, "/a", "X-Forwarded-For: 1.1.1.1").is_hit());
        let sent: Vec<_> = origin
            .asked()
            .iter()
            .map(|asked| {
                ["x-forwarded-proto", "x-forwarded-host", "host"].map(|name| asked.head.field(name))
            })
            .collect();
        for (at, one) in sent.iter().enumerate() {
            // An http origin server is told http if nobody says so, too: those may be alike.
            let alike = sent[..at].iter().filter(|other| *other == one).count();
            assert!(alike <= 1, "{one:?}");
        }
        origin.assert_finished();
    }
}

#[test]
fn a_preserved_host_is_the_one_that_is_believed() {
    let origin = Origin::script([
        on("GET /a").having("Host: shop.test; X-Forwarded-Host: shop.test").send(200, "", "x"),
        on("GET /a").having("Host: inner.test; X-Forwarded-Host: inner.test").send(200, "", "x"),
    ]);
    let proxy = Proxy::before(&origin, &["--trust-forwarded", "127.0.0.1", "--preserve-host"]);
    assert_eq!(get(&proxy, "/a", "Host: inner.test|X-Forwarded-Host: shop.test").status, 200);
    assert_eq!(get(&proxy, "/a", "Host: inner.test").status, 200);
    origin.assert_finished();
}

#[test]
fn a_public_url_outranks_what_a_peer_says_of_scheme_and_host() {
    let origin = Origin::script([]);
    origin.add(on("GET /a").send(200, &fields_of(&origin.url()), "x"));
    let flags = ["--trust-forwarded", "127.0.0.1", "--public-url", "https://shop.test"];
    let proxy = Proxy::before(&origin, &flags);
    let said = "X-Forwarded-For: 1.1.1.1|X-Forwarded-Proto: http|X-Forwarded-Host: other.test";
    for (turn, lines) in [said, "", "X-Forwarded-Host: evil.test"].iter().enumerate() {
        let reply = get(&proxy, "/a", lines);
        assert_eq!(reply.is_hit(), turn > 0, "{lines}");
        assert_leads_to(&reply, "https://shop.test", lines);
    }
    assert_eq!(told(&origin), ["1.1.1.1, 127.0.0.1", "https", "shop.test"]);
    origin.assert_finished();
}

#[test]
fn the_access_log_names_the_client_that_is_believed() {
    let folder = TemporaryFolder::new();
    let log = folder.file("access.log");
    let origin = Origin::script([]);
    let path = log.to_string_lossy().into_owned();
    let flags = ["--trust-forwarded", "127.0.0.1,10.0.0.0/8", "--access-log", &path];
    let mut proxy = Proxy::before(&origin, &flags);
    let table = [
        ("X-Forwarded-For: 9.9.9.9, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("Forwarded: for=\"[2001:db8::1]\"", "2001:db8::1"),
        ("X-Forwarded-For: 1.1.1.1, _hidden", "127.0.0.1"),
        ("", "127.0.0.1"),
    ];
    for (number, (lines, _)) in table.iter().enumerate() {
        origin.add(on(&format!("GET /{number}")).send(200, "", "x"));
        get(&proxy, &format!("/{number}"), lines);
    }
    proxy.stop();
    let text = std::fs::read_to_string(&log).expect("a log");
    for (number, (lines, client)) in table.iter().enumerate() {
        // Several threads write them down, in whatever order.
        let asked = format!("\"GET /{number} ");
        let line = text.lines().find(|line| line.contains(&asked)).expect("a line");
        assert_eq!(line.split(' ').next(), Some(*client), "{lines}");
    }
}

#[test]
fn a_purge_is_allowed_to_the_client_that_is_believed() {
    let origin = Origin::script([on("PURGE /a").send(200, "", "x").times(0)]);
    let purge = |flags: &[&str], lines: &str| {
        let all =
            [&["--allow-purge", "203.0.113.0/24", "--allow-purge", "10.0.0.0/8"], flags].concat();
        ask(&Proxy::before(&origin, &all), "PURGE", "/a", lines).status
    };
    let trust = &["--trust-forwarded", "127.0.0.1,10.0.0.0/8"];
    #[rustfmt::skip]
    let table = [
        ("X-Forwarded-For: 203.0.113.7",                200),
        ("Forwarded: for=203.0.113.7",                  200),
        ("X-Forwarded-For: 203.0.113.7, 10.0.0.2",      200),
        ("X-Forwarded-For: 203.0.113.7, 9.9.9.9",       403),
        ("X-Forwarded-For: 10.0.0.3",                   200),
        ("",                                            403),
        // A proxy that hides its client is not the one who asks.
        ("X-Forwarded-For: 203.0.113.7, unknown",       403),
        ("X-Forwarded-For: _hidden, 10.0.0.2",          403),
    ];
    for (lines, expected) in table {
        assert_eq!(purge(trust, lines), expected, "{lines}");
        assert_eq!(purge(&[], lines), 403, "a stranger's {lines}");
    }
    let hidden = ["--trust-forwarded", "127.0.0.1", "--allow-purge", "127.0.0.1"];
    assert_eq!(purge(&hidden, "X-Forwarded-For: unknown"), 403);
    assert_eq!(purge(&hidden, ""), 200);
    origin.assert_finished();
}

#[test]
fn a_purge_finds_what_is_stored_under_every_scheme() {
    let origin =
        Origin::script([on("GET /a/b").send(200, "Cache-Control: max-age=60", "x").always()]);
    let flags = ["--trust-forwarded", "127.0.0.1", "--allow-purge", "127.0.0.1"];
    let proxy = Proxy::before(&origin, &flags);
    let port = proxy.address.port().to_string();
    // Under a host that nobody trusted has said, all is stored under the origin server's.
    let (own, shop) = (
        ["", "X-Forwarded-Proto: https", "X-Forwarded-Proto: http"],
        [
            "X-Forwarded-Host: shop.test",
            "X-Forwarded-Proto: https|X-Forwarded-Host: shop.test",
            "X-Forwarded-Proto: http|X-Forwarded-Host: shop.test",
        ],
    );
    let both = [own, shop].concat();
    let other = "X-Forwarded-Host: other.test";
    let everything = || own.iter().chain(&shop).chain([&other]);
    #[rustfmt::skip]
    let table: [(&[&str], &[&str]); 6] = [
        (&["purge", "/a/b"],                              &own),
        (&["purge", "https://shop.test/a/b"],             &both),
        (&["purge", "https://forwarded@shop.test/a/b"],   &both),
        (&["purge", "--prefix", "/a/"],                   &own),
        (&["purge", "--prefix", "https://shop.test/a/"],  &shop[1..2]),
        (&["purge", "--match", "*shop.test/*b"],          &shop),
    ];
    for (words, purged) in table {
        everything().for_each(|lines| drop(get(&proxy, "/a/b", lines)));
        assert!(everything().all(|lines| get(&proxy, "/a/b", lines).is_hit()));
        let told = proxy.tell(&[words, &["--port", &port]].concat());
        assert!(told.status.success(), "{words:?}: {}", String::from_utf8_lossy(&told.stderr));
        for lines in everything() {
            let is_gone = purged.contains(lines);
            assert_eq!(!get(&proxy, "/a/b", lines).is_hit(), is_gone, "{words:?}: {lines}");
        }
    }
    // PURGE takes the host that it names, under every scheme.
    for (lines, purged) in [("X-Forwarded-Host: shop.test", &shop), ("Host: shop.test", &shop)] {
        let reply = ask(&proxy, "PURGE", "/a/b", lines);
        assert_eq!(reply.status, 200, "{lines}");
        for lines in purged {
            assert!(!get(&proxy, "/a/b", lines).is_hit(), "{lines}");
        }
    }
}

/// RFC 9111 §4.4: those URIs that have scheme, host and port of the target URI, as the client knows it.
#[test]
fn what_is_named_after_a_post_is_found_under_its_believed_url() {
    let said = "X-Forwarded-Proto: https|X-Forwarded-Host: shop.test";
    #[rustfmt::skip]
    let table = [
        ("/a", true), ("../a", true), ("https://shop.test/a", true), ("//SHOP.test:443/a", true),
        ("http://shop.test/a", false), ("https://other.test/a", false), ("//other.test/a", false),
    ];
    for (location, invalidates) in table {
        let origin = Origin::script([
            on("GET /a").send(200, "Cache-Control: max-age=60", "x").always(),
            on("POST /x").send(201, &format!("Location: {location}"), ""),
        ]);
        let proxy = Proxy::before(&origin, &["--trust-forwarded", "127.0.0.1"]);
        get(&proxy, "/a", said);
        get(&proxy, "/a", "");
        ask(&proxy, "POST", "/x", &format!("{said}|Content-Length: 0"));
        assert_eq!(!get(&proxy, "/a", said).is_hit(), invalidates, "{location}");
        assert!(get(&proxy, "/a", "").is_hit(), "another URL: {location}");
    }
}

#[test]
fn explain_says_what_is_believed_and_that_a_redirect_leads_nowhere() {
    let origin = Origin::script([]);
    let url = origin.url();
    origin.add(on("GET /a").send(
        301,
        &format!("Location: {url}/a; Cache-Control: max-age=60"),
        "",
    ));
    #[rustfmt::skip]
    let said = [
        "explain", "--origin", &url, "--trust-forwarded", "10.0.0.0/8", "-H", "X-Forwarded-For: 1.1.1.1",
        "-H", "X-Forwarded-Proto: https", "-H", "X-Forwarded-Host: shop.test", "/a",
    ];
    let output = run(&said);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "Believed:   client 1.1.1.1, scheme https, host shop.test\n",
        "Cache key:  https://forwarded@shop.test/a\n",
        "X-Forwarded-Proto: https\n",
        "NO    a redirect leads to another URL than the one that was asked for (RFC 9110 §15.4)\n",
        "what would change it: --public-url",
        "This request:       proxy; fwd=uri-miss; fwd-status=301; detail=own-url\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    origin.assert_finished();
}

#[test]
fn wrong_values_are_usage_errors() {
    #[rustfmt::skip]
    let table = [
        ("--public-url", "https://shop.test/path"), ("--public-url", "https://user@shop.test"),
        ("--public-url", "https://shop.test/?q"), ("--public-url", "shop.test"),
        ("--public-url", "ftp://shop.test"), ("--trust-forwarded", "somewhere"),
        ("--trust-forwarded", "10.0.0.0/33"), ("--trust-forwarded", "127.0.0.1,::/129"),
        ("--public-url", "https://*.shop.test"), ("--trust-forwarded", ""), ("--allow-purge", ""),
    ];
    for (flag, value) in table {
        let output = run(&[flag, value]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{flag} {value}");
        assert_eq!(error.lines().count(), 1, "{error}");
        // User information, which may be a password, is not shown.
        let seen = value.rsplit([',', '@']).next().expect("a value");
        assert!(
            error.contains(flag) && error.contains(seen) && error.contains("expected"),
            "{error}"
        );
    }
}
