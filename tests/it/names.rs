//! Names as event loops look them up: nothing waits, a server that has moved is followed, and a resolver that hangs
//! keeps nobody from a server that was there a moment ago.
//!
//! The loop's time is set by hand; its limits are so long that the system's never reaches them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use caching_proxy::origin::resolver::{Names, Renewal};
use parking_lot::Mutex;

use super::support::exchanges::{Client, LIMIT, Loop, local};
use super::support::origin::{Origin, on};

/// A resolver whose look-ups hang until the sender is dropped, but for the first one.
fn hangs_after(first: Vec<SocketAddr>) -> (Names, Sender<()>) {
    let (release, held) = channel::<()>();
    let (held, count) = (Mutex::new(held), AtomicUsize::new(0));
    let names = Names::new(move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 && !first.is_empty() {
            return Ok(first.clone());
        }
        held.lock().recv().map_err(io::Error::other)?;
        Ok(Vec::new())
    });
    (names, release)
}

#[test]
fn every_exchange_follows_a_name_that_has_moved() {
    const EXCHANGES: usize = 20;
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    let origin =
        Origin::script((0..EXCHANGES).map(|_| on("GET /a").send(204, "Connection: close", "")));
    let (port, count) = (origin.port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let names = Names::new(move |_, _| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(vec![closed]),
        _ => Ok(vec![local(port)]),
    });
    let mut event_loop = Loop::new(names, Client);
    for _ in 0..EXCHANGES {
        event_loop.ask("moves.test", 80);
    }
    for _ in 0..EXCHANGES {
        assert_eq!(event_loop.outcome(), Ok(204));
    }
    assert_eq!(count.load(Ordering::Relaxed), 2, "it was looked up for all of them together");
    assert_eq!(event_loop.exchanges.count(), 0);
}

#[test]
fn a_server_that_is_down_and_has_not_moved_is_said_to_be_down() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    let mut event_loop = Loop::new(Names::new(move |_, _| Ok(vec![closed])), Client);
    event_loop.ask("down.test", 80);
    let error = event_loop.outcome().expect_err("nobody is there");
    assert!(error.starts_with("Connect {"), "{error}");
}

#[test]
fn a_resolver_that_hangs_leaves_half_of_the_limit_to_the_addresses_that_were_good() {
    let origin = Origin::script([
        on("GET /a").send(204, "Connection: close", ""),
        on("GET /a").send(204, "Connection: close", ""),
    ]);
    let good = vec![local(origin.port())];
    let (names, release) = hangs_after(good.clone());
    let mut event_loop = Loop::new(names.clone(), Client);
    event_loop.ask("hangs.test", 80);
    assert_eq!(event_loop.outcome(), Ok(204));
    // The name is looked up again, which takes very long.
    let Renewal::Asked(_renewed) = names.renew("hangs.test", 80, &good, || ()) else {
        panic!("it is looked up again")
    };
    event_loop.ask("hangs.test", 80);
    event_loop.pass(LIMIT / 10 * 4);
    assert!(event_loop.outcomes.try_recv().is_err() && event_loop.exchanges.count() == 1);
    event_loop.pass(LIMIT / 10);
    assert_eq!(event_loop.outcome(), Ok(204));
    origin.assert_finished();
    drop(release);
}

#[test]
fn a_resolver_that_hangs_holds_no_exchange_beyond_its_limit() {
    let (names, release) = hangs_after(Vec::new());
    let mut event_loop = Loop::new(names, Client);
    event_loop.ask("hangs.test", 80);
    event_loop.ask("hangs.test", 80);
    event_loop.pass(LIMIT / 10 * 9);
    assert!(event_loop.outcomes.try_recv().is_err() && event_loop.exchanges.count() == 2);
    event_loop.pass(LIMIT / 10);
    for _ in 0..2 {
        let error = event_loop.outcome().expect_err("there is no address");
        assert!(error.starts_with("ConnectTimeout {"), "{error}");
    }
    assert_eq!(event_loop.exchanges.count(), 0);
    drop(release);
}

#[test]
fn a_name_without_addresses_is_an_error_at_once() {
    let mut event_loop =
        Loop::new(Names::new(|_, _| Err(io::Error::other("no such name"))), Client);
    event_loop.ask("nowhere.test", 80);
    let error = event_loop.outcome().expect_err("there is no address");
    assert!(error.starts_with("Resolve {"), "{error}");
}
