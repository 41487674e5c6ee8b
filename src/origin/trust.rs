//! Which certificates are trusted as roots: the system's, the built-in ones, and `--ca-cert`.
//!
//! Both sets are trusted together, so that the binary works on a machine without any certificates
//! and with a company's own roots alike. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's.

use std::path::Path;

use ureq::tls::{Certificate, PemItem, parse_pem};

/// The trusted roots, and a warning for each place that could not be read.
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
