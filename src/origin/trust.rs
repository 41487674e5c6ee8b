//! Which certificates are trusted: what the roots vouch for (the system's, the built-in ones, and
//! `--ca-cert`), and a certificate of `--ca-cert` that is itself the server's.
//!
//! Both sets of roots are trusted together, so that the binary works on a machine without any
//! certificates and with a company's own roots alike. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the
//! system's.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// A connection with TLS: what of it the two drivers see.
pub(crate) use rustls::ClientConnection as TlsSession;
/// Why there is no such connection.
pub(crate) use rustls::Error as TlsError;

/// The extension that says what a certificate is for (RFC 5280 §4.2.1.12), as DER has its name.
const EXTENDED_KEY_USAGE: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x25];
/// What it says of a server's certificate.
const SERVER_AUTHENTICATION: [u8; 10] =
    [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// The trusted roots, and a warning for each place that could not be read.
#[derive(Clone)]
pub struct Roots {
    /// All of them.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Those of `--ca-cert`, each of which may be a server's own.
    pub given: Vec<CertificateDer<'static>>,
    /// What went wrong on the way, one line each.
    pub warnings: Vec<String>,
}

/// Collects the roots; an error if `extra`, the file of `--ca-cert`, has none.
pub fn roots(extra: Option<&Path>) -> Result<Roots, String> {
    let system = rustls_native_certs::load_native_certs();
    let mut certificates = system.certs;
    // A machine without certificates is usual (containers): the built-in roots do, and a warning tells
    // of it.
    let warnings = system.errors.iter().map(|error| format!("system's roots: {error}")).collect();
    certificates.extend(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    let given = extra.map(read_file).transpose()?.unwrap_or_default();
    certificates.extend(given.iter().cloned());
    Ok(Roots { certificates, given, warnings })
}

impl Roots {
    /// As text (PEM, RFC 7468), for a library that reads nothing else; without those that cannot be
    /// anybody's root.
    pub fn pem(&self) -> Vec<u8> {
        let mut store = rustls::RootCertStore::empty();
        let mut text = String::new();
        for root in &self.certificates {
            // A single certificate that cannot be read would make that library refuse all of them.
            if store.add(root.clone()).is_err() {
                continue;
            }
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            // §2: lines of 64 letters.
            for letters in STANDARD.encode(root).as_bytes().chunks(64) {
                text.push_str(&String::from_utf8_lossy(letters));
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        text.into_bytes()
    }
}

/// Reads the certificates of `--ca-cert`. A file without one is an error, because the operator believes
/// that it has some.
fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("--ca-cert {shown}: {error}"))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
    if certificates.is_empty() {
        return Err(format!("--ca-cert {shown}: no certificate in it; a PEM file is expected"));
    }
    Ok(certificates)
}

/// What TLS connections are made with. The parts are made at the first use: reading all roots takes
/// longer than a start may.
#[derive(Clone)]
pub(crate) struct TlsSettings(Arc<LazyTlsConfig>);

/// Roots, and the configuration that is made of them once.
struct LazyTlsConfig {
    /// `None` for no verification at all.
    roots: Option<Roots>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsSettings {
    /// The settings for these roots; `None` for no verification at all (`--insecure`).
    pub fn new(roots: Option<Roots>) -> Self {
        Self(Arc::new(LazyTlsConfig { roots, config: OnceLock::new() }))
    }

    /// A connection to `host`, before the handshake. An IPv6 address may stand in brackets.
    pub fn connection(&self, host: &str) -> Result<rustls::ClientConnection, Error> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let name = ServerName::try_from(host).map_err(|error| Error::General(error.to_string()))?;
        let config = self.0.config.get_or_init(|| Arc::new(client_config(self.0.roots.as_ref())));
        rustls::ClientConnection::new(Arc::clone(config), name)
    }
}

fn client_config(roots: Option<&Roots>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        Some(roots) => Arc::new(TrustVerifier::new(roots, &provider)),
        None => Arc::new(NoVerifier),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions that rustls has")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // HTTP/1.1 is all that is spoken behind it; a server that insists on another version says so in the handshake.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Trusts what the roots vouch for, and a certificate that the operator has given, when the server
/// shows just that. `openssl req -x509` makes such certificates: they say that they are an authority's,
/// and the usual verifier refuses every authority's certificate as a server's.
#[derive(Debug)]
struct TrustVerifier {
    usual: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl TrustVerifier {
    fn new(roots: &Roots, provider: &Arc<CryptoProvider>) -> Self {
        let mut store = rustls::RootCertStore::empty();
        // Systems ship roots that webpki cannot read; they vouch for nobody.
        store.add_parsable_certificates(roots.certificates.iter().cloned());
        let usual =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .expect("the built-in roots are among them");
        Self { usual, given: roots.given.clone() }
    }
}

impl ServerCertVerifier for TrustVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // An expired certificate has another error, because its time is looked at first. The server
            // has to prove that it has the key, as always.
            Err(error)
                if is_authority_as_server(&error)
                    && self.given.contains(end_entity)
                    && may_be_a_servers(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Is it the only fault that an authority's certificate is used as a server's? rustls passes this error
/// of webpki on as it is, and does not show its type.
fn is_authority_as_server(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

/// Does a certificate leave open what it is for, or is it for servers? webpki refuses an authority's
/// certificate before it looks at this.
fn may_be_a_servers(certificate: &[u8]) -> bool {
    // The names are searched for in the bytes: taking the certificate apart would need another parser,
    // and a false match could only come from a certificate that the operator has given.
    let has = |name: &[u8]| certificate.windows(name.len()).any(|window| window == name);
    !has(&EXTENDED_KEY_USAGE) || has(&SERVER_AUTHENTICATION)
}

/// Accepts every certificate (`--insecure`).
#[derive(Debug)]
struct NoVerifier;

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// All that there are: nothing is verified, so none has to be understood.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as Scheme;
        vec![
            Scheme::ECDSA_NISTP256_SHA256,
            Scheme::ECDSA_NISTP384_SHA384,
            Scheme::ECDSA_NISTP521_SHA512,
            Scheme::ED25519,
            Scheme::ED448,
            Scheme::RSA_PSS_SHA256,
            Scheme::RSA_PSS_SHA384,
            Scheme::RSA_PSS_SHA512,
            Scheme::RSA_PKCS1_SHA256,
            Scheme::RSA_PKCS1_SHA384,
            Scheme::RSA_PKCS1_SHA512,
            Scheme::RSA_PKCS1_SHA1,
        ]
    }
}
