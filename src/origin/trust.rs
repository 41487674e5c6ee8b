//! Which certificates are trusted as roots: the system's, the built-in ones, and `--ca-cert`.
//!
//! Both sets are trusted together, so that the binary works on a machine without any certificates
//! and with a company's own roots alike. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use ureq::tls::{Certificate, PemItem, parse_pem};

/// The trusted roots, and a warning for each place that could not be read.
#[derive(Clone)]
pub struct Roots {
    /// DER-encoded certificates.
    pub certificates: Vec<Certificate<'static>>,
    /// What went wrong on the way, one line each.
    pub warnings: Vec<String>,
}

/// Collects the roots; an error if `extra`, the file of `--ca-cert`, holds none.
pub fn roots(extra: Option<&Path>) -> Result<Roots, String> {
    let system = rustls_native_certs::load_native_certs();
    let mut certificates: Vec<Certificate<'static>> =
        system.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let warnings = system.errors.iter().map(|error| format!("system's roots: {error}")).collect();
    certificates.extend(
        webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| Certificate::from_der(der)),
    );
    if let Some(path) = extra {
        certificates.extend(read_file(path)?);
    }
    Ok(Roots { certificates, warnings })
}

fn read_file(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("--ca-cert {shown}: {error}"))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(format!("--ca-cert {shown}: no certificate in it; a PEM file is expected"));
    }
    Ok(certificates)
}

/// What a TLS connection to the origin server is made with, outside of ureq.
pub struct TlsSettings(Arc<rustls::ClientConfig>);

impl TlsSettings {
    /// The settings for these roots; `None` for no verification at all (`--insecure`).
    pub fn new(roots: Option<&Roots>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring knows the versions that rustls has");
        let mut config = if let Some(roots) = roots {
            let mut store = rustls::RootCertStore::empty();
            let certificates = roots.certificates.iter();
            store.add_parsable_certificates(
                certificates.map(|root| CertificateDer::from(root.der().to_vec())),
            );
            builder.with_root_certificates(store).with_no_client_auth()
        } else {
            let anything = Arc::new(Anything(provider));
            builder.dangerous().with_custom_certificate_verifier(anything).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// A connection to `host`, before the handshake.
    pub fn connection(&self, host: &str) -> Result<rustls::ClientConnection, String> {
        let name = ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
        rustls::ClientConnection::new(Arc::clone(&self.0), name).map_err(|error| error.to_string())
    }
}

/// Takes every certificate for a good one (`--insecure`).
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
