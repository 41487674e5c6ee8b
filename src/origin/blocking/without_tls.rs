//! What stands for `tls.rs` in a program that was built without TLS: a connection that is to have it is an error.

use ureq::Error;
use ureq::unversioned::transport::{ConnectionDetails, Connector, Transport};

use crate::origin::trust::{BUILT_WITHOUT, TlsSettings};

/// Passes on connections that need no TLS.
#[derive(Debug)]
pub(super) struct TlsConnector;

impl TlsConnector {
    pub fn new(_: TlsSettings) -> Self {
        Self
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = In;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<In>, Error> {
        if details.needs_tls() { Err(Error::Tls(BUILT_WITHOUT)) } else { Ok(chained) }
    }
}
