//! A connection without a socket, for tests and fuzzing: bytes in, bytes out, in any pieces.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::front::FrontSettings;
use crate::front::desk::Desk;
use crate::front::event::connection::Connection;
use crate::front::event::inbox::Inbox;
use crate::front::event::room::Room;
use crate::front::event::sending::Sent;
use crate::front::event::timeouts::{Moment, Timeouts};
use crate::front::workers::Pool;
use crate::proxy::Proxy;

/// Nothing that a worker does takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stage for connections, one after the other.
pub struct Rehearsal {
    room: Room,
    bell: Receiver<()>,
}

impl Rehearsal {
    /// A stage in front of an engine and a pool.
    pub fn new(proxy: Arc<Proxy>, pool: Pool, settings: &FrontSettings) -> Self {
        let (rings, bell) = channel();
        let inbox = Inbox::new(Box::new(move || _ = rings.send(())));
        let desk = Arc::new(Desk::new(proxy, pool, None));
        let timeouts = Timeouts::new(&settings.connections);
        let held_max = 1 << 20;
        let room = Room::new(desk, inbox, Arc::new(None), settings.limits, timeouts, held_max);
        Self { room, bell }
    }

    /// What a client is sent that sends these pieces, closes its side, and takes `most` bytes at a time;
    /// and whether the connection was cut so that it sees an error.
    pub fn play<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        most: usize,
    ) -> (Vec<u8>, bool) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut connection = Connection::new(peer, 0, Moment::default());
        let (mut sent, mut cut) = (Vec::new(), false);
        let mut pieces = pieces.into_iter();
        loop {
            let mut take = |slices: &[IoSlice<'_>]| {
                let all = slices.iter().flat_map(|slice| slice.iter().copied());
                let before = sent.len();
                sent.extend(all.take(most.max(1)));
                Ok(sent.len() - before)
            };
            match connection.transmit(&mut self.room, &mut take) {
                Sent::Enough | Sent::Last => {}
                Sent::More => continue,
                Sent::Over => break,
                Sent::Cut => {
                    cut = true;
                    break;
                }
            }
            if connection.has_more() {
                connection.go_on(&mut self.room);
            } else if connection.is_over() {
                break;
            } else if connection.wants_input() {
                match pieces.next() {
                    Some(piece) => connection.receive(piece, &mut self.room),
                    None => connection.end_of_input(&mut self.room),
                }
            } else {
                self.read_letters(&mut connection);
            }
        }
        connection.abandon(&mut self.room);
        assert_eq!(self.room.held, 0, "what was held is let go of");
        (sent, cut)
    }

    /// Waits for letters and reads them.
    fn read_letters(&mut self, connection: &mut Connection) {
        let mut letters = Vec::new();
        self.room.inbox.take(&mut letters);
        if letters.is_empty() {
            self.bell.recv_timeout(PATIENCE).expect("a connection that hangs");
        }
        for letter in letters {
            if letter.place().is_some_and(|place| connection.is_at(place)) {
                connection.deliver(letter, &mut self.room);
            }
        }
    }
}
