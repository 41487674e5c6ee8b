//! A server that reads nothing of what it is asked and always answers the same bytes, on one thread:
//! what the machine can do, for `scripts/bench` to measure the proxy against.
//!
//! `canned BYTES` listens on a free port of 127.0.0.1, prints it, and answers each read with a response
//! of so many bytes of content.

use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

struct Client {
    stream: TcpStream,
    /// What it has not taken yet of how many responses.
    unsent: usize,
}

fn main() -> io::Result<()> {
    let bytes = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1024);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=3600\r\n\
         Date: Sat, 21 Nov 2026 12:00:00 GMT\r\nVia: 1.1 proxy\r\nX-Cache: HIT\r\n\
         Content-Length: {bytes}\r\nAge: 1\r\nCache-Status: proxy; hit; ttl=3599\r\n\r\n"
    );
    let canned = [head.as_bytes(), &vec![b'x'; bytes]].concat();
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    println!("{}", listener.local_addr()?.port());
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(clients.len()), interest)?;
                    clients.push(Some(Client { stream, unsent: 0 }));
                }
                continue;
            }
            let slot = &mut clients[event.token().0];
            if slot.as_mut().is_some_and(|client| client.serve(&canned, &mut buffer).is_err()) {
                *slot = None;
            }
        }
    }
}

impl Client {
    fn serve(&mut self, canned: &[u8], buffer: &mut [u8]) -> io::Result<()> {
        self.send(canned)?;
        match self.stream.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            // One that asks for one thing at a time has asked for one now, and nothing else.
            Ok(_) => {
                self.unsent = canned.len();
                self.send(canned)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, canned: &[u8]) -> io::Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&canned[canned.len() - self.unsent..]) {
                Ok(count) => self.unsent -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
