//! The fixed pool of the front over tiny_http.

use std::sync::mpsc::channel;
use std::thread;

use super::support::origin::{Gate, Origin, on};
use super::support::proxy::Proxy;

/// Behind tiny_http each request has a worker; event loops let requests wait at the gate (`gate.rs`).
#[test]
fn a_full_pool_says_so_at_once() {
    let gate = Gate::new();
    let origin = Origin::script([on("GET *any*")
        .wait(&gate)
        .send(200, "Cache-Control: no-store", "x")
        .always()]);
    let proxy = Proxy::before(&origin, &["--workers", "1"]);
    let (sender, replies) = channel();
    for number in 0..30 {
        let (sender, mut connection) = (sender.clone(), proxy.connect());
        connection.request("GET", &format!("/{number}"), "", "");
        thread::spawn(move || sender.send(connection.reply()).expect("the test listens"));
        if number == 0 {
            // Until the worker has taken it, it is one of those that wait.
            origin.wait_for(1);
        }
    }
    drop(sender);
    // One is at work and sixteen wait in line; the others are refused while the origin is silent.
    for _ in 0..13 {
        let refused = replies.recv().expect("a reply");
        assert_eq!((refused.status, refused.field("retry-after")), (503, "1".into()));
        assert_eq!(refused.cache_status(), "proxy; detail=full");
    }
    gate.open();
    assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200; 17]);
}
