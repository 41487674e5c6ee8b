//! Where a shared store may be: at a socket of this machine, wherever Sentinels say.

use redis::Value;

use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::redis::{Server, programs, sentinel};
use super::support::{TemporaryFolder, wait_until};

const FRESH: &str = "Cache-Control: max-age=600";

pub fn origin() -> Origin {
    Origin::script([
        on("GET /a").send(200, FRESH, "a").always(),
        on("GET *any*").send(200, FRESH, "b").always(),
    ])
}

pub fn is_there(proxy: &Proxy, path: &str) -> bool {
    proxy.get_with(path, "Cache-Control: only-if-cached\r\n").is_hit()
}

/// What one proxy stores, another finds.
pub fn assert_shared(origin: &Origin, flags: &[&str]) {
    let (one, other) = (Proxy::before(origin, flags), Proxy::before(origin, flags));
    one.get("/a");
    wait_until(&format!("{flags:?}: it is shared\n{}", other.log()), || is_there(&other, "/a"));
    for log in [one.log(), other.log()] {
        assert!(!log.contains("secret"), "{log}");
    }
}

#[test]
fn redis_is_reached_at_a_socket_of_this_machine() {
    let Some(program) = programs().into_iter().next() else { return };
    let folder = TemporaryFolder::new();
    let socket = folder.file("redis.sock").display().to_string();
    let server = Server::start_with(program, &["--unixsocket", &socket]);
    let origin = origin();
    assert_shared(&origin, &["--store", &format!("redis+unix:{socket}")]);
    server.ask(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all"]);
    server.ask(&["FLUSHALL"]);
    let address = format!("redis+unix:{socket}?db=2&user=u&pass=secret");
    assert_shared(&origin, &["--store", &address]);
    let Value::BulkString(spaces) = server.ask(&["INFO", "keyspace"]) else { panic!("text") };
    let spaces = String::from_utf8_lossy(&spaces).into_owned();
    assert!(spaces.contains("db2:") && !spaces.contains("db0:"), "{spaces}");
}

#[test]
fn an_address_that_is_none_is_refused_with_the_forms_and_without_its_password() {
    let folder = TemporaryFolder::new();
    for address in [
        "redis+unix:relative?pass=secret",
        "redis+unix:relative?db=1&pass=sec@secret&user=u",
        "redis+sentinel://u:secret@127.0.0.1:1",
        "redis+other://u:secret@127.0.0.1:1",
    ] {
        let mut proxy = command();
        proxy.env("XDG_RUNTIME_DIR", folder.path());
        let told = proxy.args(["--store", address]).output().expect("the binary runs");
        let error = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{address}");
        for form in
            ["redis://", "rediss://", "redis+unix:/", "redis+cluster://", "redis+sentinel://"]
        {
            assert!(error.contains(form), "{address}: {error}");
        }
        assert!(!error.contains("secret"), "{error}");
    }
}

fn primary(sentinel: &Server) -> Option<u16> {
    let Value::Array(place) = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]) else {
        return None;
    };
    match place.last() {
        Some(Value::BulkString(port)) => String::from_utf8_lossy(port).parse().ok(),
        _ => None,
    }
}

/// The number of stored responses there.
fn stored(server: &Server) -> usize {
    match server.ask(&["KEYS", "proxy:2:e*"]) {
        Value::Array(names) => names.len(),
        other => panic!("{other:?}"),
    }
}

/// Something new that each proxy fetches reaches this server, and the other proxy.
fn assert_used(proxies: [&Proxy; 2], server: &Server, what: &str) {
    let mut number = 0;
    wait_until(&format!("{what}: the primary is used"), || {
        number += 1;
        let path = format!("/{what}?{number}");
        let before = stored(server);
        proxies[0].get(&path);
        stored(server) > before && is_there(proxies[1], &path)
    });
}

/// Proxies find the primary that Sentinels know, and the next one, whether it was changed in good order, dies or
/// becomes a replica behind their backs.
#[test]
fn the_primary_is_followed_as_sentinels_say() {
    let Some(program) = programs().into_iter().next() else { return };
    let fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
    let mut first = Server::start_with(program, &fast);
    let port = first.port.to_string();
    let replica = [&fast[..], &["--replicaof", "127.0.0.1", &port]].concat();
    let second = Server::start_with(program, &replica);
    for server in [&first, &second] {
        server.ask(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all"]);
    }
    wait_until("the replica is one", || {
        let Value::BulkString(info) = second.ask(&["INFO", "replication"]) else { return false };
        String::from_utf8_lossy(&info).contains("master_link_status:up")
    });
    let sentinels = [false, true, true].map(|is_closed| sentinel(program, first.port, is_closed));
    let open = &sentinels[0];
    wait_until("they know each other", || open.try_ask(&["SENTINEL", "CKQUORUM", "main"]).is_ok());
    let origin = origin();
    let [a, b, c] = [0, 1, 2].map(|index| format!("127.0.0.1:{}", sentinels[index].port));
    // One asks a Sentinel that knows no users, the other one that does; nobody is at port 1.
    let one = format!("redis+sentinel://u:secret@127.0.0.1:1,{a},{b}/main");
    let other = format!("redis+sentinel://u:secret@{c},{b},{a}/main");
    let one = Proxy::before(&origin, &["--store", &one]);
    let other = Proxy::before(&origin, &["--store", &other]);
    assert_used([&one, &other], &first, "first");
    // In good order.
    wait_until("the replica is promoted", || {
        let _ = open.try_ask(&["SENTINEL", "FAILOVER", "main"]);
        primary(open) == Some(second.port)
    });
    assert_used([&one, &other], &second, "second");
    assert_used([&other, &one], &second, "other");
    wait_until("the first one is a replica", || {
        let Value::BulkString(info) = first.ask(&["INFO", "replication"]) else { return false };
        String::from_utf8_lossy(&info).contains("master_link_status:up")
    });
    // The primary dies.
    let mut second = second;
    second.stop();
    wait_until("the first one is promoted again", || primary(open) == Some(first.port));
    assert_used([&one, &other], &first, "third");
    for proxy in [&one, &other] {
        assert!(!proxy.log().contains("secret"), "{}", proxy.log());
        proxy.wait_for_log(": works again");
    }
    first.stop();
}
