//! The way out to an origin server, through the proxy that the environment names or directly: chosen for
//! each URL that is requested. RFC 9110 §7.3.2, §9.3.6.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use caching_proxy::message::fields::Fields;
use caching_proxy::origin::client::{Client, Reach};
use caching_proxy::origin::egress::Egress;
use caching_proxy::origin::redirects::send_and_follow;
use caching_proxy::origin::resolver::Names;
use caching_proxy::origin::{Content, Origin as _, OriginRequest};
use http::Method;

use support::origin::{Origin, on};
use support::proxy::{Proxy, command};

const AGREES: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// A proxy in front of `origin`, to whose environment `way_out` leads out.
fn start(origin: &str, way_out: &Origin) -> Proxy {
    let mut command = command();
    command.args(["--origin", origin, "--follow-redirects"]).env("http_proxy", way_out.url());
    Proxy::start_as(command)
}

#[test]
fn a_redirects_target_has_a_way_of_its_own() {
    let away = Origin::script([
        on("CONNECT target.test:80").bytes(AGREES),
        on("GET /b").having("Host: target.test").send(200, "", "through the proxy"),
    ]);
    let direct = Origin::script([on("GET /a").send(302, "Location: http://target.test/b", "")]);
    let reply = start(&direct.url(), &away).get("/a");
    assert_eq!(reply.body(), "through the proxy");
    let target = Origin::script([on("GET /b").send(200, "", "directly")]);
    let way_out = Origin::script([
        on("CONNECT origin.test:80").bytes(AGREES),
        on("GET /a").send(302, &format!("Location: {}/b", target.url()), ""),
    ]);
    let reply = start("http://origin.test", &way_out).get("/a");
    assert_eq!(reply.body(), "directly");
    for origin in [away, direct, target, way_out] {
        origin.assert_finished();
    }
}

/// The same with names that `no_proxy` holds, which here have this machine's address.
#[test]
fn no_proxy_is_asked_about_each_redirects_target() {
    let direct = Origin::script([
        on("GET /out").having("Host: near.test").send(302, "Location: http://far.test/b", ""),
        on("GET /b").having("Host: near.test").send(200, "", "near"),
    ]);
    let way_out = Origin::script([
        on("CONNECT far.test:80").bytes(AGREES).times(2),
        on("GET /b").having("Host: far.test").send(200, "", "far"),
        on("GET /in").having("Host: far.test").send(302, "Location: http://near.test/b", ""),
    ]);
    let environment = |name: &str| match name {
        "no_proxy" => Some("near.test".to_string()),
        "http_proxy" => Some(format!("http://way-out.test:{}", way_out.port())),
        _ => None,
    };
    let (near, out) = (direct.port(), way_out.port());
    let names = Names::new(move |host, _| match host {
        "near.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], near))]),
        "way-out.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], out))]),
        _ => Err(std::io::Error::other("nobody but the way out knows it")),
    });
    let client = Client::new(Reach {
        connect_timeout: Duration::from_secs(20),
        origin_timeout: Duration::from_secs(20),
        roots: None,
        names,
        // Each request has a connection of its own, so that the way is chosen for it.
        idle_connections_max: 0,
        egress: Egress::from_environment(environment),
    });
    for (url, expected) in [("http://near.test/out", "far"), ("http://far.test/in", "near")] {
        let request = OriginRequest {
            method: &Method::GET,
            url,
            host: None,
            fields: &Fields::new(),
            content: Content::None,
            waits: false,
            interim: None,
        };
        let response = send_and_follow(request, |request| client.send(request));
        let mut content = [0; 16];
        let mut body = response.expect("a response").body.expect("content");
        let count = body.read(&mut content).expect("content");
        assert_eq!(&content[..count], expected.as_bytes(), "{url}");
    }
    direct.assert_finished();
    way_out.assert_finished();
}
