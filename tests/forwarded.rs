//! Behind another proxy, and in front of an application that insists on its own URL: what clients see,
//! what the origin server is told, and who is believed. RFC 7239, RFC 9110 §7.2, §15.4.

mod support;

use support::origin::{Origin, on};
use support::proxy::Proxy;
use support::wire::Reply;

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
