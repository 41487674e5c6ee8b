//! TLS that never waits, against a server in memory: whatever its records are, all of its bytes come.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::{OriginSocket, RECEIVED_MAX, Stream};

/// What a server has sent, and what it is sent.
#[derive(Default)]
struct EncryptedPipe {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for EncryptedPipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() { Err(would_block()) } else { self.incoming.read(buffer) }
    }
}

impl Write for EncryptedPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OriginSocket for EncryptedPipe {
    fn end(&mut self) {}
}

fn would_block() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

fn pipe(stream: &mut Stream<EncryptedPipe>) -> &mut EncryptedPipe {
    match stream {
        Stream::Plain(pipe) => pipe,
        Stream::Secure(secure) => pipe(&mut secure.below),
    }
}

/// A connection whose handshake is done, and its server.
fn connected() -> (Stream<EncryptedPipe>, ServerConnection) {
    let made = rcgen::generate_simple_self_signed(vec!["h".to_string()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate and its key");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("h").expect("a name");
    let session = ClientConnection::new(Arc::new(client), name).expect("a session");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a session");
    let mut stream = Stream::Plain(EncryptedPipe::default()).secured(session);
    let mut scratch = vec![0; 2 * RECEIVED_MAX];
    while !stream.advance(&mut scratch).expect("a handshake") || server.is_handshaking() {
        let pipe = pipe(&mut stream);
        let sent = std::mem::take(&mut pipe.outgoing);
        let mut rest = &sent[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("space");
            server.process_new_packets().expect("a handshake");
        }
        while server.wants_write() {
            server.write_tls(&mut pipe.incoming).expect("memory");
        }
    }
    (stream, server)
}

/// Sends content in a record of its own.
fn send_record(server: &mut ServerConnection, stream: &mut Stream<EncryptedPipe>, content: &[u8]) {
    server.writer().write_all(content).expect("memory");
    while server.wants_write() {
        server.write_tls(&mut pipe(stream).incoming).expect("memory");
    }
}

/// Reads until there is no more; was that an end?
fn read_all(stream: &mut Stream<EncryptedPipe>, room: usize) -> (Vec<u8>, bool) {
    let (mut buffer, mut scratch) = (vec![0; room], vec![0; 2 * RECEIVED_MAX]);
    let mut all = Vec::new();
    loop {
        match stream.read(&mut buffer, &mut scratch) {
            Ok(0) => return (all, true),
            Ok(count) => {
                all.extend_from_slice(&buffer[..count]);
                if stream.is_drained(count, room) {
                    return (all, false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (all, false),
            Err(error) => panic!("{} bytes, then {error}", all.len()),
        }
    }
}

/// The session takes no more bytes while it has decrypted more than a record that nobody has read: what one read
/// brings may be more than that, where short records follow a long one.
#[test]
fn records_of_any_length_are_read_to_their_end() {
    let short = vec![1; 3000];
    let lengths: [&[usize]; 5] = [
        &[16_384, 16_384, 16_384, 16_384, 10, 6151, 5],
        &[16_384, 1, 16_384, 1, 16_384, 1],
        &[16_300, 100, 100, 8000, 8000, 8000, 100],
        &short,
        &[700; 200],
    ];
    for lengths in lengths {
        for room in [1, 1000, 16_384, 65_536] {
            let (mut stream, mut server) = connected();
            let mut sent = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                let content = vec![number as u8; *length];
                send_record(&mut server, &mut stream, &content);
                sent.extend(content);
            }
            let (received, is_end) = read_all(&mut stream, room);
            assert!(received == sent, "{} of {}, {room}", received.len(), sent.len());
            assert!(!is_end);
        }
    }
}

/// RFC 8446 §6.1: what comes behind a close_notify is ignored. It must not panic.
#[test]
fn bytes_behind_a_close_notify_are_ignored() {
    for (content, behind) in [("", 1), ("", 20_000), ("hello", 1), ("hello", 20_000)] {
        let (mut stream, mut server) = connected();
        send_record(&mut server, &mut stream, content.as_bytes());
        server.send_close_notify();
        send_record(&mut server, &mut stream, b"");
        pipe(&mut stream).incoming.extend(vec![0x17; behind]);
        let (received, is_end) = read_all(&mut stream, 100);
        assert_eq!((&*received, is_end), (content.as_bytes(), true), "{behind} bytes");
    }
}

/// Readiness is reported once: bytes that come while decrypted ones wait for space must be looked for, or the response
/// would stop there for ever.
#[test]
fn bytes_that_come_behind_decrypted_ones_are_not_overlooked() {
    let (mut stream, mut server) = connected();
    let (mut buffer, mut scratch) = (vec![0; 100], vec![0; 2 * RECEIVED_MAX]);
    send_record(&mut server, &mut stream, b"first record");
    assert_eq!(stream.read(&mut buffer[..5], &mut scratch).expect("bytes"), 5);
    send_record(&mut server, &mut stream, b"second");
    assert_eq!(stream.read(&mut buffer, &mut scratch).expect("bytes"), 7);
    assert!(!stream.is_drained(7, buffer.len()));
    assert_eq!(read_all(&mut stream, 100).0, b"second");
}
