//! A program that was built without TLS: what would need it while it runs is an error that says so.

use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};

const TOLD: &str = "no TLS (this proxy was built without tls; build it with --features tls)";

#[test]
fn a_proxy_that_leads_out_by_https_is_not_used() {
    let way_out = Origin::script([]);
    let mut command = command();
    command.args(["--origin", "http://origin.test"]);
    command.env("http_proxy", way_out.url().replace("http", "https"));
    let proxy = Proxy::start_as(command);
    for fields in ["", "Connection: Upgrade\r\nUpgrade: x\r\n"] {
        let reply = proxy.get_with("/a", fields);
        assert_eq!(reply.status, 502, "{}", reply.body());
        assert!(reply.body().contains(TOLD), "{}", reply.body());
    }
}

#[test]
fn a_redirect_to_https_is_followed_no_further() {
    let there = Origin::script([]);
    let location = format!("Location: {}/b", there.url().replace("http", "https"));
    let origin = Origin::script([on("GET /a").send(302, &location, "")]);
    let proxy = Proxy::before(&origin, &["--follow-redirects"]);
    let reply = proxy.get("/a");
    assert_eq!(reply.status, 502, "{}", reply.body());
    assert!(reply.body().contains(TOLD), "{}", reply.body());
}
