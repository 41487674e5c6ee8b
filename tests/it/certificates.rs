//! Which certificates of an https origin server are trusted: with `--ca-cert`, also one that is itself the
//! server's, as `openssl req -x509` makes it. RFC 5280 §4.2.1.9, RFC 9110 §4.3.4.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::Proxy;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// A certificate and its key, in PEM.
#[derive(Clone)]
struct Made {
    certificate: String,
    key: String,
}

/// An authority's certificate for `localhost` that has signed itself, with whatever else is said.
fn authority(change: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_string()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    Made { certificate, key: key.serialize_pem() }
}

/// A server's certificate for `localhost`, signed by an authority; all authorities here have one name.
fn signed_by(authority: &Made) -> Made {
    let key = KeyPair::from_pem(&authority.key).expect("a key");
    let issuer = Issuer::new(CertificateParams::default(), key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_string()]).expect("a name");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    Made { certificate, key: key.serialize_pem() }
}

/// What a proxy with these certificates in `--ca-cert` makes of an origin server that shows `shown`: by
/// GET, and when it is asked to go over to another protocol.
fn is_trusted(shown: &Made, given: Option<&str>, host: &str) -> bool {
    let folder = TemporaryFolder::new();
    let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
    let rules = ["GET /get", "GET /upgrade"].map(|asked| on(asked).send(200, "", "trusted"));
    let origin = Origin::script_tls_as(rules, chain, &key);
    let url = format!("https://{host}:{}", origin.port());
    let file = folder.file("ca.pem");
    let mut arguments = vec!["--origin", &url];
    if let Some(given) = given {
        std::fs::write(&file, given).expect("a file");
        arguments.extend(["--ca-cert", file.to_str().expect("a path")]);
    }
    let [by_get, by_upgrade] = [("/get", ""), ("/upgrade", UPGRADE)].map(|(target, fields)| {
        // A proxy that has met the origin server's certificate would not ask again at once.
        let reply = Proxy::start(&arguments).get_with(target, fields);
        let is_trusted = reply.status == 200;
        assert_eq!(reply.body() == "trusted", is_trusted, "{}", reply.body());
        if !is_trusted {
            assert_eq!(reply.status, 502, "{}", reply.body());
            assert!(reply.cache_status().ends_with("detail=tls"), "{}", reply.cache_status());
            assert!(reply.body().contains("see --ca-cert, --insecure"), "{}", reply.body());
        }
        is_trusted
    });
    assert_eq!(by_get, by_upgrade, "{given:?} {host}");
    by_get
}

#[test]
fn a_given_certificate_that_is_the_servers_own_is_trusted_for_its_names() {
    let (own, other) = (authority(|_| {}), authority(|_| {}));
    let without_key = Made { key: other.key.clone(), ..own.clone() };
    let past = authority(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let future = authority(|params| params.not_before = date_time_ymd(4000, 1, 1));
    let purpose = |purpose| {
        authority(|params: &mut CertificateParams| params.extended_key_usages = vec![purpose])
    };
    let for_servers = purpose(ExtendedKeyUsagePurpose::ServerAuth);
    let for_clients = purpose(ExtendedKeyUsagePurpose::ClientAuth);
    let leaf = signed_by(&own);
    let leaf_without_key = Made { key: other.key.clone(), ..leaf.clone() };
    let bundle = format!("{}{}", other.certificate, own.certificate);
    let chain =
        Made { certificate: format!("{}{}", leaf.certificate, own.certificate), ..leaf.clone() };
    #[rustfmt::skip]
    let table = [
        ("its own",               &own, Some(&own.certificate), "localhost", true),
        ("among others",          &own, Some(&bundle), "localhost", true),
        ("another host",          &own, Some(&own.certificate), "127.0.0.1", false),
        ("not given",             &own, None, "localhost", false),
        ("another of that name",  &own, Some(&other.certificate), "localhost", false),
        ("without its key",       &without_key, Some(&own.certificate), "localhost", false),
        ("expired",               &past, Some(&past.certificate), "localhost", false),
        ("not valid yet",         &future, Some(&future.certificate), "localhost", false),
        ("for servers",           &for_servers, Some(&for_servers.certificate), "localhost", true),
        ("for clients",           &for_clients, Some(&for_clients.certificate), "localhost", false),
        ("signed",                &leaf, Some(&own.certificate), "localhost", true),
        ("signed, with a chain",  &chain, Some(&own.certificate), "localhost", true),
        ("signed, another host",  &leaf, Some(&own.certificate), "127.0.0.1", false),
        ("signed by another",     &leaf, Some(&other.certificate), "localhost", false),
        ("signed, without a key", &leaf_without_key, Some(&own.certificate), "localhost", false),
        ("signed, itself given",  &leaf, Some(&leaf.certificate), "localhost", false),
    ];
    for (what, shown, given, host, expected) in table {
        let given = given.map(String::as_str);
        assert_eq!(is_trusted(shown, given, host), expected, "{what}");
    }
}

/// As in half of all instructions for a certificate of one's own.
fn made_by_openssl(name: &str) -> Option<Made> {
    let folder = TemporaryFolder::new();
    let (certificate, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"])
        .args(["-addext", &format!("subjectAltName={name}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stdin(Stdio::null())
        .output();
    let Ok(output) = made else {
        eprintln!("SKIPPED: openssl is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path| std::fs::read_to_string(path).expect("a file");
    Some(Made { certificate: read(&certificate), key: read(&key) })
}

#[test]
fn what_openssl_makes_is_trusted_for_its_names() {
    let (Some(own), Some(other)) =
        (made_by_openssl("DNS:localhost"), made_by_openssl("DNS:localhost"))
    else {
        return;
    };
    assert!(is_trusted(&own, Some(&own.certificate), "localhost"));
    assert!(!is_trusted(&own, Some(&own.certificate), "127.0.0.1"));
    assert!(!is_trusted(&own, Some(&other.certificate), "localhost"));
    assert!(!is_trusted(&own, None, "localhost"));
    let address = made_by_openssl("IP:127.0.0.1").expect("it is installed");
    assert!(is_trusted(&address, Some(&address.certificate), "127.0.0.1"));
    assert!(!is_trusted(&address, Some(&address.certificate), "localhost"));
}

/// The time to connect is for the handshake, too.
#[test]
fn a_server_that_does_not_answer_the_handshake_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let limits = ["--connect-timeout", "200ms", "--origin-timeout", "1000"];
    let proxy = Proxy::start(&[&["--origin", &url], &limits[..]].concat());
    let reply = proxy.get("/a");
    assert_eq!(reply.status, 504, "{}", reply.body());
    assert!(reply.body().contains("no connection within 200ms"), "{}", reply.body());
}
