//! Modes and rewriting: what the operator may have other than as HTTP says, redirects that are followed
//! inside, and names in fields.

use super::support::origin::{Origin, Rule, on};
use super::support::proxy::Proxy;

#[test]
fn force_stores_what_http_forbids() {
    let fields = "Cache-Control: private, no-store; Vary: *; Set-Cookie: a=b";
    let origin = Origin::script([
        on("GET /a").send(200, fields, "x"),
        on("GET /b").send(404, "", "y").times(2),
    ]);
    let proxy = Proxy::before(&origin, &["--cache-mode", "force"]);
    assert_eq!(proxy.get_with("/a", "Authorization: x\r\n").field("set-cookie"), "a=b");
    let hit = proxy.get_with("/a", "Cache-Control: no-cache\r\nCookie: c=d\r\n");
    assert_eq!((hit.is_hit(), hit.field("set-cookie")), (true, String::new()));
    assert!(!proxy.get("/b").is_hit() && !proxy.get("/b").is_hit());
    assert!(proxy.log().contains("--cache-mode force"));
    origin.assert_finished();
}

#[test]
fn offline_never_contacts_the_origin_server() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--cache-mode", "offline"]);
    let told = [
        ("GET", "/a: not stored, and --cache-mode is offline"),
        ("POST", "/a: POST has to be sent on, and --cache-mode is offline"),
        ("DELETE", "/a: DELETE has to be sent on, and --cache-mode is offline"),
    ];
    for (method, told) in told {
        let reply = proxy.ask(method, "/a", "", "");
        assert_eq!((reply.status, reply.cache_status()), (504, "proxy; detail=offline".into()));
        assert!(reply.body().contains(told), "{}", reply.body());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn redirects_are_followed_inside_and_stored_under_the_first_target() {
    let other = Origin::script([on("GET /end").lacking("Cookie").send(200, "", "there")]);
    let origin = Origin::script([
        on("GET /a").send(302, "Location: /b", ""),
        on("GET /b").having("Cookie: a=b").send(
            301,
            &format!("Location: {}/end", other.url()),
            "away",
        ),
        on("GET /loop").send(302, "Location: /loop", "").times(11),
        on("POST /a").send(302, "Location: /b", ""),
    ]);
    let proxy =
        Proxy::before(&origin, &["--follow-redirects", "--share-cookies", "--cache-mode", "force"]);
    let first = proxy.get_with("/a", "Cookie: a=b\r\n");
    assert_eq!((first.status, first.body()), (200, "there".into()));
    assert!(proxy.get("/a").is_hit());
    assert_eq!(proxy.get("/loop").status, 502);
    assert_eq!(proxy.ask("POST", "/a", "", "x").status, 302);
    origin.assert_finished();
    other.assert_finished();
}

/// What a client says to one server is not for another's ears, whatever the field is called.
#[test]
fn a_redirect_to_another_server_takes_no_credentials_along() {
    let names = ["Authorization", "Cookie", "X-API-Key", "PRIVATE-TOKEN", "X-Tenant-Id"];
    let there = names.into_iter().fold(on("GET /end"), Rule::lacking);
    let other = Origin::script([there.having("Accept: b").send(200, "", "there")]);
    let here =
        |rule: Rule| names.iter().fold(rule, |rule, name| rule.having(&format!("{name}: a")));
    let away = format!("Location: {}/end", other.url());
    let origin = Origin::script([
        here(on("GET /a").having("Host: shop.test")).send(302, "Location: /b", ""),
        here(on("GET /b").having("Host: shop.test")).send(302, &away, ""),
    ]);
    let proxy = Proxy::before(&origin, &["--follow-redirects", "--preserve-host"]);
    let mut fields = "Accept: b\r\n".to_string();
    fields.extend(names.iter().flat_map(|name| [*name, ": a\r\n"]));
    let head = format!("GET /a HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    assert_eq!(proxy.connect().send(head).reply().body(), "there");
    origin.assert_finished();
    other.assert_finished();
}

#[test]
fn without_follow_redirects_they_are_passed_on() {
    let origin = Origin::script([on("GET /a").send(302, "Location: /b", "")]);
    let reply = Proxy::before(&origin, &[]).get("/a");
    assert_eq!((reply.status, reply.field("location")), (302, "/b".into()));
    origin.assert_finished();
}

#[test]
fn browsers_store_nothing_where_the_operator_wants_it() {
    let origin = Origin::script([on("GET /a").send(
        200,
        "Cache-Control: max-age=60; Expires: DATE+60",
        "x",
    )]);
    let proxy = Proxy::before(&origin, &["--no-browser-cache"]);
    proxy.get("/a");
    let hit = proxy.get("/a");
    assert_eq!(
        (hit.is_hit(), hit.field("cache-control"), hit.field("expires")),
        (true, "no-store".into(), String::new())
    );
    origin.assert_finished();
}

#[test]
fn the_host_is_the_origins_or_with_preserve_host_the_clients() {
    let origin = Origin::script([on("GET /a").send(200, "", "x").times(3)]);
    let own = origin.url().replace("http://", "");
    let proxy = Proxy::before(&origin, &[]);
    let ask = |proxy: &Proxy, host: &str| {
        proxy.connect().send(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply().is_hit()
    };
    assert_eq!((ask(&proxy, "one.test"), ask(&proxy, "two.test")), (false, true));
    assert_eq!(origin.asked()[0].head.field("host"), own);
    // A host that the key does not hold must not get into a stored response by way of the origin.
    assert_eq!(origin.asked()[0].head.field("x-forwarded-host"), proxy.address.to_string());
    let proxy = Proxy::before(&origin, &["--preserve-host"]);
    assert_eq!(
        (ask(&proxy, "one.test"), ask(&proxy, "two.test"), ask(&proxy, "one.test")),
        (false, false, true)
    );
    assert_eq!(origin.asked()[2].head.field("host"), "two.test");
    assert_eq!(origin.asked()[2].head.field("x-forwarded-host"), "two.test");
    origin.assert_finished();
}

#[test]
fn uris_of_the_origin_lead_back_to_the_proxy() {
    let origin = Origin::script([]);
    let url = origin.url();
    let fields = format!(
        "Location: {url}/b; Content-Location: {url}/c; Link: <{url}/d>; Set-Cookie: a=b; Domain=127.0.0.1; Path=/; Cache-Control: public, max-age=60"
    );
    origin.add(on("GET /a").send(301, &fields, ""));
    let proxy = Proxy::before(&origin, &[]);
    for _ in 0..2 {
        let reply = proxy.get_with("/a", "");
        let at = format!("http://{}", proxy.address);
        assert_eq!(reply.field("location"), format!("{at}/b"));
        assert_eq!(reply.field("content-location"), format!("{at}/c"));
        assert_eq!(reply.field("link"), format!("<{at}/d>"));
        assert_eq!(reply.field("set-cookie"), "a=b; Path=/");
    }
    origin.assert_finished();
}
