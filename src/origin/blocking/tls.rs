//! TLS for ureq's connections, with the settings of `trust.rs`: ureq's own connector takes roots, and no
//! verifier.

use std::fmt;
use std::io::{Read, Write};

use rustls::{ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::origin::trust::TlsSettings;

/// Puts TLS on each new connection that is to have it: to an https origin server, or to an egress proxy
/// that is itself reached by https.
pub(super) struct TlsConnector(TlsSettings);

impl TlsConnector {
    pub fn new(settings: TlsSettings) -> Self {
        Self(settings)
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        // ureq asks each connector in turn; a connection that has TLS by now is passed on.
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().ok_or(Error::HostNotFound)?;
        let mut connection = self.0.connection(host)?;
        let transport: Box<dyn Transport> = Box::new(transport);
        // The handshake is made here, within the time to connect. At the first write it would have the time of
        // a response.
        let mut below = TransportAdapter::new(transport, details.current_time.clone());
        below.set_timeout(left_of_timeout(details));
        connection.complete_io(&mut below)?;
        // For the content behind TLS; the buffers below hold what is encrypted.
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let stream = StreamOwned::new(connection, below);
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

/// What TCP has left of the time to connect; the handshake has no more.
fn left_of_timeout(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    let now = (details.current_time)();
    if let (Duration::Exact(limit), Instant::Exact(begun), Instant::Exact(now)) =
        (timeout.after, details.now, now)
    {
        timeout.after = Duration::Exact(limit.saturating_sub(now.duration_since(begun)));
    }
    timeout
}

/// A connection with TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        // A connection that ends without close_notify gives an error here: content that only the end
        // delimits would else be taken for whole.
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport")
            .field("below", &self.stream.sock.inner())
            .finish_non_exhaustive()
    }
}
