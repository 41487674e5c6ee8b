//! A shared store behind TLS.

use redis::Value;

use super::redis_places::{assert_shared, is_there, origin};
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command, run};
use super::support::redis::{Server, programs};
use super::support::{TemporaryFolder, wait_until};

/// A server behind TLS, and the files of its certificate and of the one that has signed it.
fn behind_tls(program: &str, folder: &TemporaryFolder, flags: &[&str]) -> (Server, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(params, authority_key);
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(names).expect("names");
    let own = params.signed_by(&key, &issuer).expect("a certificate");
    let paths = ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.file(name));
    for (path, text) in paths.iter().zip([authority.pem(), own.pem(), key.serialize_pem()]) {
        std::fs::write(path, text).expect("a file");
    }
    let [authority, certificate, key] = paths.map(|path| path.display().to_string());
    let files =
        ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
    let usual = ["--port", "0", "--tls-port", "PORT", "--tls-auth-clients", "no"];
    (Server::start_with(program, &[&usual[..], &files, flags].concat()), authority)
}

/// `--ca-cert` and `--insecure` hold for Redis as they do for the origin server, and who has neither is told
/// of them.
#[test]
fn certificates_are_trusted_as_the_flags_say() {
    let Some(program) = programs().into_iter().next() else { return };
    let folder = TemporaryFolder::new();
    let (server, authority) = behind_tls(program, &folder, &["--requirepass", "secret"]);
    let origin = origin();
    let address = format!("rediss://:secret@localhost:{}", server.port);
    for trust in [&["--ca-cert", &authority][..], &["--insecure"]] {
        assert_shared(&origin, &[&["--store", &address][..], trust].concat());
    }
    let proxy = Proxy::before(&origin, &["--store", &address]);
    proxy.wait_for_log("see --ca-cert, --insecure");
    assert!(!is_there(&proxy, "/a") && proxy.get("/b").body() == "b");
    assert!(!proxy.log().contains("secret"), "{}", proxy.log());
    // A command says so, too, and one with the flag is let in.
    let told = run(&["list", "--store", &address]);
    let error = String::from_utf8_lossy(&told.stderr);
    assert!(error.contains("see --ca-cert, --insecure"), "{error}");
    assert!(!told.status.success() && error.contains("it cannot be reached"), "{error}");
    let told = run(&["list", "--store", &address, "--ca-cert", &authority]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("/a"), "{told:?}");
}

/// The same for a cluster, where each node is another server.
#[test]
fn certificates_of_a_cluster_are_trusted_as_the_flags_say() {
    let Some(program) = programs().into_iter().next() else { return };
    let folder = TemporaryFolder::new();
    let flags = ["--cluster-enabled", "yes", "--cluster-port", "BUS", "--tls-cluster", "yes"];
    let (server, authority) = behind_tls(program, &folder, &flags);
    let slots = command_line(&server, &authority, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    assert!(slots.contains("OK"), "{slots}");
    wait_until("the cluster is up", || {
        command_line(&server, &authority, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    let origin = origin();
    let address = format!("rediss+cluster://localhost:{}", server.port);
    for trust in [&["--ca-cert", &authority][..], &["--insecure"]] {
        assert_shared(&origin, &[&["--store", &address][..], trust].concat());
    }
    let proxy = Proxy::before(&origin, &["--store", &address]);
    proxy.wait_for_log("see --ca-cert, --insecure");
    assert!(!is_there(&proxy, "/a"));
}

/// What a server behind TLS answers.
fn command_line(server: &Server, authority: &str, words: &[&str]) -> String {
    let address = format!("rediss://localhost:{}", server.port);
    let root_cert = Some(std::fs::read(authority).expect("a file"));
    let certificates = redis::TlsCertificates { client_tls: None, root_cert };
    let client = redis::Client::build_with_tls(address, certificates).expect("an address");
    let mut connection = client.get_connection().expect("it runs");
    let answer: Value =
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).expect("an answer");
    match answer {
        Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
        other => format!("{other:?}").to_uppercase(),
    }
}

#[test]
fn redis_is_reached_over_tls() {
    let Some(program) = programs().into_iter().next() else { return };
    let folder = TemporaryFolder::new();
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let (certificate, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let paths = [&certificate, &key].map(|path| path.display().to_string());
    let flags = [
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &paths[0],
        "--tls-key-file",
        &paths[1],
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "secret",
    ];
    let server = Server::start_with(program, &flags);
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=600", "a")]);
    let url = format!("rediss://:secret@localhost:{}", server.port);
    let start = || {
        let mut proxy = command();
        proxy.env("SSL_CERT_FILE", &certificate);
        proxy.args(["--origin", &origin.url(), "--store", &url]);
        Proxy::start_as(proxy)
    };
    let mut first = start();
    first.get("/a");
    first.stop();
    let second = start();
    assert!(second.get("/a").is_hit(), "{}", second.log());
    assert!(!second.log().contains("secret"), "{}", second.log());
}
