//! Connections that event loops keep for later requests: for how long, and what they spare. RFC 9112 §9.3, RFC 8446
//! §2.2. The loop's time is set by hand.

use std::time::Duration;

use caching_proxy::origin::resolver::Names;

use super::support::exchanges::{Client, IDLE_MAX, Loop};
use super::support::origin::{Gate, Origin, SCHEMES, on};

fn origin(secure: bool, fields: &str) -> Origin {
    let rules = [on("GET /a").send(200, fields, "").always()];
    if secure { Origin::script_tls(rules).0 } else { Origin::script(rules) }
}

/// Asks so many times, so many seconds apart.
fn ask(origin: &Origin, times: usize, apart: u64) -> Loop<Client> {
    let mut event_loop = Loop::new(Names::default(), Client);
    for _ in 0..times {
        event_loop.ask_for(format!("{}/a", origin.url().replace("127.0.0.1", "localhost")));
        assert_eq!(event_loop.outcome(), Ok(200));
        event_loop.pass(Duration::from_secs(apart));
    }
    event_loop
}

#[test]
fn connections_are_kept_for_a_minute_and_for_five_in_all() {
    #[rustfmt::skip]
    let table = [
        // What the origin server says, requests, seconds between them, connections.
        ("",                      5,  50, 1),
        ("",                      5,  61, 5),
        ("Keep-Alive: timeout=5", 4,  3,  1),
        ("Keep-Alive: timeout=5", 4,  5,  4),
        ("Keep-Alive: timeout=1000", 3, 61, 3),
        ("Connection: close",     3,  0,  3),
        // However busy it is: a name that moves is followed.
        ("",                      40, 14, 2),
    ];
    for &secure in SCHEMES {
        for (fields, times, apart, expected) in table {
            let origin = origin(secure, fields);
            ask(&origin, times, apart);
            assert_eq!(origin.connections(), expected, "{fields} {times} {apart} TLS: {secure}");
        }
    }
}

/// A request every 50 s pays for one handshake in all.
#[cfg(feature = "tls")]
#[test]
fn twenty_requests_fifty_seconds_apart_pay_one_handshake_in_five_minutes() {
    let origin = origin(true, "");
    ask(&origin, 20, 50);
    // 950 s, 300 s for each connection at most; those after the first go on from its handshake.
    assert_eq!((origin.connections(), origin.resumed()), (4, 3));
}

#[cfg(feature = "tls")]
#[test]
fn a_handshake_goes_on_from_an_earlier_one() {
    let origin = origin(true, "");
    ask(&origin, 3, 100);
    assert_eq!((origin.connections(), origin.resumed()), (3, 2));
}

/// The other side closes an idle connection: it is gone the moment the loop learns of it.
#[test]
fn an_idle_connection_that_is_closed_is_dropped_at_once() {
    for &secure in SCHEMES {
        let rules = [on("GET /a").send(200, "", "").close().always()];
        let origin = if secure { Origin::script_tls(rules).0 } else { Origin::script(rules) };
        let mut event_loop = ask(&origin, 1, 0);
        event_loop.until(|this| (this.connections() == 0).then_some(()));
        origin.wait_for_ends(1);
    }
}

/// Of more connections than may be kept, the others are closed when their exchange is over.
#[test]
fn only_so_many_idle_connections_are_kept() {
    const EXCHANGES: usize = IDLE_MAX + 5;
    let all_there = Gate::new();
    let origin = Origin::script([on("GET /a").wait(&all_there).send(200, "", "").times(EXCHANGES)]);
    let mut event_loop = Loop::new(Names::default(), Client);
    for _ in 0..EXCHANGES {
        event_loop.ask_for(format!("{}/a", origin.url()));
    }
    event_loop.until(|_| (origin.asked().len() == EXCHANGES).then_some(()));
    all_there.open();
    for _ in 0..EXCHANGES {
        assert_eq!(event_loop.outcome(), Ok(200));
    }
    assert_eq!((origin.connections(), event_loop.connections()), (EXCHANGES, IDLE_MAX));
}
