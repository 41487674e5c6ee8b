//! What stands for `trust.rs` in a program that was built without TLS: nobody is trusted, and no connection is made.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::path::Path;

/// Why there is no connection, and what to do.
pub(crate) const BUILT_WITHOUT: &str =
    "this proxy was built without tls; build it with --features tls";

/// The trusted roots: none.
#[derive(Clone)]
pub struct Roots {
    /// What went wrong on the way: nothing.
    pub warnings: Vec<String>,
}

impl Roots {
    /// No text.
    #[allow(clippy::unused_self, reason = "with TLS, they are its content")]
    pub fn pem(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Collects no roots. The command line takes no `--ca-cert`.
pub fn roots(_: Option<&Path>) -> Result<Roots, String> {
    Ok(Roots { warnings: Vec::new() })
}

/// What TLS connections are made with.
#[derive(Clone)]
pub(crate) struct TlsSettings;

impl TlsSettings {
    pub fn new(_: Option<Roots>) -> Self {
        Self
    }

    /// No connection: the error says why.
    #[allow(clippy::unused_self, reason = "with TLS, it is what the connection is made with")]
    pub fn connection(&self, _: &str) -> Result<TlsSession, TlsError> {
        Err(io::Error::other(BUILT_WITHOUT))
    }
}

/// Why there is no connection.
pub(crate) type TlsError = io::Error;

/// A connection with TLS: none is ever made.
pub(crate) struct TlsSession(Infallible);

/// What a session has decrypted.
pub(crate) struct TlsState(Infallible);

impl TlsState {
    pub fn plaintext_bytes_to_read(&self) -> usize {
        match self.0 {}
    }
}

impl TlsSession {
    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub fn wants_write(&self) -> bool {
        match self.0 {}
    }

    pub fn complete_io<T: Read + Write>(&mut self, _: &mut T) -> io::Result<(usize, usize)> {
        match self.0 {}
    }

    pub fn read_tls(&mut self, _: &mut dyn Read) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn write_tls(&mut self, _: &mut dyn Write) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn process_new_packets(&mut self) -> Result<TlsState, TlsError> {
        match self.0 {}
    }

    pub fn reader(&mut self) -> io::Empty {
        match self.0 {}
    }

    pub fn writer(&mut self) -> io::Empty {
        match self.0 {}
    }

    pub fn send_close_notify(&mut self) {
        match self.0 {}
    }
}
