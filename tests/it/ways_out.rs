//! The way out to an origin server, through the proxy that the environment names or directly: chosen for
//! each URL that is requested. RFC 9110 §7.3.2, §9.3.6.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use caching_proxy::message::target::OriginUrl;
use caching_proxy::origin;
use caching_proxy::origin::blocking::client::{OriginClient, OriginClientSettings};
use caching_proxy::origin::egress::Egress;
use caching_proxy::origin::resolver::Names;

use super::support::TemporaryFolder;
use super::support::engine::bench_with;
use super::support::origin::{Origin, SCHEMES, Step, on};
use super::support::proxy::{Proxy, command};
use super::support::wire::read_head;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: x\r\n";
const AGREES: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// A proxy in front of `origin`, to whose environment `way_out` leads out.
fn start(origin: &str, way_out: &Origin) -> Proxy {
    let mut command = command();
    command.args(["--origin", origin, "--follow-redirects"]).env("http_proxy", way_out.url());
    Proxy::start_as(command)
}

#[test]
fn a_redirects_target_has_a_way_of_its_own() {
    let away = Origin::script([on("GET http://target.test/b").having("Host: target.test").send(
        200,
        "",
        "through the proxy",
    )]);
    let direct = Origin::script([on("GET /a").send(302, "Location: http://target.test/b", "")]);
    let reply = start(&direct.url(), &away).get("/a");
    assert_eq!(reply.body(), "through the proxy");
    let target = Origin::script([on("GET /b").send(200, "", "directly")]);
    let way_out = Origin::script([on("GET http://origin.test/a").send(
        302,
        &format!("Location: {}/b", target.url()),
        "",
    )]);
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
        on("GET http://far.test/b").having("Host: far.test").send(200, "", "far"),
        on("GET http://far.test/in").having("Host: far.test").send(
            302,
            "Location: http://near.test/b",
            "",
        ),
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
    let client = OriginClient::new(OriginClientSettings {
        connect_timeout: Duration::from_secs(20),
        origin_timeout: Duration::from_secs(20),
        first_byte_timeout: Duration::from_secs(20),
        roots: None,
        names,
        // Each request has a connection of its own, so that the way is chosen for it.
        idle_connections_max: 0,
        egress: Egress::from_environment(environment),
    });
    let client: Arc<dyn origin::Origin> = Arc::new(client);
    for (url, path, expected) in
        [("http://near.test", "/out", "far"), ("http://far.test", "/in", "near")]
    {
        let bench = bench_with(Arc::clone(&client), |settings| {
            settings.origin = OriginUrl::parse(url).expect("a URL");
            settings.follow_redirects = true;
        });
        assert_eq!(bench.get(path).1, expected, "{url}{path}");
    }
    direct.assert_finished();
    way_out.assert_finished();
}

/// What goes over to another protocol tells the proxy that leads out as much as a GET does.
#[test]
fn the_proxy_that_leads_out_is_told_who_asks() {
    let folder = TemporaryFolder::new();
    let pem = folder.file("ca.pem");
    for &secure in SCHEMES {
        for (userinfo, expected) in [
            ("user:s%40cret@", "Proxy-Authorization: Basic dXNlcjpzQGNyZXQ="),
            ("user@", "Proxy-Authorization: Basic dXNlcjo="),
            ("", ""),
        ] {
            let told = |line: &str| match expected {
                "" => on(line).lacking("Proxy-Authorization"),
                field => on(line).having(field),
            };
            let rules = [
                told("GET http://origin.test/get").having("Host: origin.test").send(200, "", "got"),
                // What becomes a tunnel is connected to the origin server itself.
                told("CONNECT origin.test:80").bytes(AGREES),
                on("GET /upgrade")
                    .lacking("Proxy-Authorization")
                    .having("Host: origin.test")
                    .head(101, "Upgrade: x; Connection: Upgrade")
                    .then(Step::Echo),
            ];
            let (way_out, certificate) = if secure {
                Origin::script_tls(rules)
            } else {
                (Origin::script(rules), String::new())
            };
            let scheme = if secure { "https" } else { "http" };
            let url = format!("{scheme}://{userinfo}localhost:{}", way_out.port());
            let mut command = command();
            command.args(["--origin", "http://origin.test"]).env("http_proxy", &url);
            if secure {
                std::fs::write(&pem, certificate).expect("a file");
                command.arg("--ca-cert").arg(&pem);
            }
            let proxy = Proxy::start_as(command);
            assert_eq!(proxy.get("/get").body(), "got", "{url}");
            let mut connection = proxy.connect();
            connection.request("GET", "/upgrade", UPGRADE, "");
            assert_eq!(connection.head().expect("a head").word(1), "101", "{url}");
            connection.send("through");
            let mut echo = [0; 7];
            connection.stream.read_exact(&mut echo).expect("an echo");
            assert_eq!(&echo, b"THROUGH", "{url}");
            way_out.assert_finished();
        }
    }
}

#[test]
fn a_proxy_that_leads_out_and_wants_other_credentials_is_named_without_them() {
    let demands = "Proxy-Authenticate: Basic realm=\"out\"";
    let way_out = Origin::script([
        on("GET http://origin.test/a").send(407, demands, "").always(),
        on("CONNECT origin.test:80").send(407, demands, "").always(),
    ]);
    let shown =
        format!("http://origin.test through proxy http://***@localhost:{}: ", way_out.port());
    for fields in ["", UPGRADE] {
        let mut command = command();
        let url = format!("http://user:s%40cret@localhost:{}", way_out.port());
        command.args(["--origin", "http://origin.test"]).env("http_proxy", url);
        let proxy = Proxy::start_as(command);
        let reply = proxy.get_with("/a", fields);
        assert!(reply.status == 502 && reply.body().starts_with(&shown), "{}", reply.body());
        assert!(reply.body().contains("407"), "{}", reply.body());
        let told = format!("{}{}{}", reply.head.text, reply.body(), proxy.log());
        assert!(!told.contains("s%40cret") && !told.contains("dXNlcjpz"), "{told}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn the_certificate_of_a_proxy_that_leads_out_is_verified() {
    let (way_out, _) = Origin::script_tls([]);
    let url = format!("https://localhost:{}", way_out.port());
    for fields in ["", UPGRADE] {
        let mut command = command();
        command.args(["--origin", "http://origin.test"]).env("http_proxy", &url);
        let reply = Proxy::start_as(command).get_with("/a", fields);
        assert_eq!(reply.status, 502, "{}", reply.body());
        let shown = format!("http://origin.test through proxy {url}: no TLS (");
        assert!(reply.body().starts_with(&shown), "{}", reply.body());
        assert!(reply.body().contains("see --ca-cert, --insecure"), "{}", reply.body());
    }
    way_out.assert_finished();
}

/// TLS to the proxy that leads out, and in it TLS to the origin server; each with its own name.
#[cfg(feature = "tls")]
#[test]
fn an_https_origin_is_reached_through_an_https_proxy() {
    let folder = TemporaryFolder::new();
    let names = vec!["localhost".to_string(), "origin.test".to_string()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let pem = folder.file("ca.pem");
    std::fs::write(&pem, made.cert.pem()).expect("a file");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    let session = move || rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
    let way_out = thread::spawn(move || {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ngot",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        ];
        for answer in answers {
            let (stream, _) = listener.accept().expect("a connection");
            let mut outer = rustls::StreamOwned::new(session(), stream);
            let head = read_head(&mut outer).expect("a head");
            assert_eq!(head.first, "CONNECT origin.test:443 HTTP/1.1");
            outer.write_all(AGREES.as_bytes()).expect("a reader");
            let mut inner = rustls::StreamOwned::new(session(), outer);
            let head = read_head(&mut inner).expect("a head");
            assert_eq!(head.field("host"), "origin.test");
            inner.write_all(answer.as_bytes()).expect("a reader");
            let mut bytes = [0; 7];
            if answer.contains("101") {
                inner.read_exact(&mut bytes).expect("bytes");
                inner.write_all(&bytes).expect("a reader");
            }
        }
    });
    let mut command = command();
    command.args(["--origin", "https://origin.test", "--ca-cert"]).arg(&pem);
    command.env("https_proxy", url);
    let proxy = Proxy::start_as(command);
    assert_eq!(proxy.get("/get").body(), "got");
    let mut connection = proxy.connect();
    connection.request("GET", "/upgrade", UPGRADE, "");
    assert_eq!(connection.head().expect("a head").word(1), "101");
    connection.send("through");
    let mut echo = [0; 7];
    connection.stream.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"through");
    way_out.join().expect("what is asked is right");
}
