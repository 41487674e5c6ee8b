//! Upgrades without loss, sockets from systemd, and logs that are moved away.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::support;
use super::support::origin::{Gate, Origin, Step, on};
use super::support::proxy::{Proxy, command, command_of};
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder};

const FRESH: &str = "Cache-Control: max-age=600";

fn in_folder(folder: &TemporaryFolder, origin: &Origin, flags: &[&str]) -> Command {
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path()).args(["--origin", &origin.url()]).args(flags);
    command
}

/// One connection after the other, all the while, from several threads: each is accepted and answered.
#[test]
fn a_new_process_takes_over_and_nobody_is_refused() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a").always()]);
    let mut old = Proxy::start_as(in_folder(&folder, &origin, &[]));
    let (address, port) = (old.address, old.address.port());
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let last = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut connection = Connection::open(address);
                    connection.request("GET", "/a", "Connection: close\r\n", "");
                    assert_eq!(connection.reply().body(), "a");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut last = None;
        for round in 0..3 {
            let before = answered.load(Ordering::Relaxed);
            let new = Proxy::start_on(in_folder(&folder, &origin, &["--take-over"]), port);
            assert_eq!(new.address, address);
            let mut retired = last.replace(new);
            let (status, _, log) = retired.as_mut().unwrap_or(&mut old).wait();
            assert!(
                status.success() && log.contains("another process has taken over"),
                "{round}: {log}"
            );
            while answered.load(Ordering::Relaxed) < before + 200 {
                super::support::pause();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        last.expect("three rounds")
    });
    assert_eq!(last.get("/a").body(), "a");
}

/// What is under way in the old process is finished there.
#[test]
fn what_is_under_way_is_finished_by_the_old_process() {
    let folder = TemporaryFolder::new();
    let gate = Gate::new();
    let origin = Origin::script([
        on("GET /slow").head(200, "Content-Length: 6").bytes("abc").wait(&gate).bytes("def"),
        on("GET /a").send(200, FRESH, "a"),
    ]);
    let mut old = Proxy::start_as(in_folder(&folder, &origin, &[]));
    let mut slow = old.connect();
    slow.request("GET", "/slow", "", "");
    assert!(slow.head().is_some());
    let new = Proxy::start_on(in_folder(&folder, &origin, &["--take-over"]), old.address.port());
    assert_eq!(new.get("/a").body(), "a");
    // All sockets are taken over.
    let second = (std::net::Ipv6Addr::LOCALHOST, old.address.port());
    if TcpListener::bind("[::1]:0").is_ok() {
        assert!(new.log().lines().all(|line| !line.contains("in use")), "{}", new.log());
        drop(TcpStream::connect(second).expect("the other loopback address"));
    }
    // Meanwhile commands find the proxy that accepts, and it alone.
    old.wait_for_log("finishing what is under way");
    let port = old.address.port().to_string();
    let told = command()
        .env("XDG_RUNTIME_DIR", folder.path())
        .args(["purge", "--all", "--port", &port])
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.starts_with(&format!("port {port}: ")) && told.lines().count() == 1, "{told}");
    gate.open();
    let mut content = [0; 6];
    slow.stream.read_exact(&mut content).expect("all of it");
    assert_eq!(&content, b"abcdef");
    assert!(old.wait().0.success());
    origin.assert_finished();
}

/// Nobody waits for the old process: streams without an end go on in it, as long as it may take.
#[test]
fn streams_go_on_in_the_old_process() {
    let folder = TemporaryFolder::new();
    let next = Gate::new();
    let origin = Origin::script([
        on("GET /events")
            .head(200, "Content-Type: text/event-stream")
            .bytes("one\n")
            .wait(&next)
            .bytes("two\n")
            .close(),
        on("GET /socket").head(101, "Upgrade: x; Connection: Upgrade").then(Step::Echo),
        on("GET /idle").send(204, "", ""),
    ]);
    let mut old = Proxy::start_as(in_folder(&folder, &origin, &[]));
    let mut idle = old.connect();
    idle.request("GET", "/idle", "", "");
    assert_eq!(idle.reply().status, 204);
    let mut events = old.connect();
    events.send("GET /events HTTP/1.0\r\n\r\n");
    assert!(events.head().is_some());
    let mut socket = old.connect();
    socket.request("GET", "/socket", "Connection: Upgrade\r\nUpgrade: x\r\n", "");
    assert!(socket.head().is_some());
    let new = Proxy::start_on(in_folder(&folder, &origin, &["--take-over"]), old.address.port());
    assert_eq!(new.address, old.address);
    // An idle connection is closed only when the old one does no more than to finish what is under way.
    old.wait_for_log("finishing what is under way");
    assert!(idle.is_closed());
    next.open();
    assert_eq!(String::from_utf8_lossy(&events.rest()), "one\ntwo\n");
    socket.send("echo");
    let mut echo = [0; 4];
    socket.stream.read_exact(&mut echo).expect("it is still a tunnel");
    assert_eq!(&echo, b"ECHO");
    drop(socket);
    assert!(old.wait().0.success());
}

/// A new process that does not come to serve changes nothing; and one that finds nobody just starts.
#[test]
fn a_take_over_that_fails_leaves_the_old_process_as_it_was() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a").always()]);
    let mut old = Proxy::start_as(in_folder(&folder, &origin, &[]));
    let port = old.address.port().to_string();
    let flags = ["--take-over", "--port", &port, "--access-log", "/dev/null/x"];
    let failed = in_folder(&folder, &origin, &flags).output().expect("it runs");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    old.wait_for_log("the new process did not come to serve");
    assert!(old.is_alive());
    assert_eq!(old.get("/a").body(), "a");
    let new = Proxy::start_on(in_folder(&folder, &origin, &["--take-over"]), old.address.port());
    assert!(old.wait().0.success(), "a second attempt works");
    drop(new);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let free = listener.local_addr().expect("an address").port();
    drop(listener);
    let alone = Proxy::start_on(in_folder(&folder, &origin, &["--take-over"]), free);
    assert_eq!(alone.get("/a").body(), "a");
    let refused = support::proxy::run(&["--take-over", "--port", "0"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// As systemd starts it: the sockets are descriptors 3 and 4, and the environment says so.
fn activated(listeners: [&TcpListener; 2], origin: &Origin) -> Command {
    let [first, second] = listeners.map(|listener| {
        rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty()).expect("a descriptor");
        std::os::fd::AsRawFd::as_raw_fd(listener)
    });
    // Other shells take descriptors of one digit only.
    let mut shell = command_of("bash");
    let script = format!(
        "exec 200<&{first} 201<&{second}; exec 3<&200 4<&201; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" --origin {}",
        origin.url()
    );
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_proxy")]);
    shell
}

#[test]
fn a_socket_from_systemd_is_served_and_it_is_told() {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a")]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = other.local_addr().expect("an address");
    let notified = std::os::unix::net::UnixDatagram::bind(folder.file("notify")).expect("a socket");
    notified.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut shell = activated([&listener, &other], &origin);
    shell.env("NOTIFY_SOCKET", folder.file("notify"));
    // Somebody who came before the proxy was there is served, too.
    let mut early = Connection { ..Connection::open(address) };
    early.request("GET", "/a", "", "");
    let proxy = Proxy::start_on(shell, 1);
    assert_eq!(proxy.address, address);
    assert_eq!(early.reply().body(), "a");
    let mut late = Connection { ..Connection::open(second) };
    assert!(late.request("GET", "/a", "", "").reply().is_hit(), "over the second socket");
    let mut told = [0; 100];
    let count = notified.recv(&mut told).expect("a message");
    assert!(String::from_utf8_lossy(&told[..count]).starts_with("READY=1\n"));
    drop(TcpStream::connect(address));
}

/// systemd keeps its sockets for the next process, which has not begun yet: whom this one has accepted has nobody else to
/// ask, and its request may be on its way.
#[test]
fn clients_of_a_socket_from_systemd_are_served_once_more_before_the_end() {
    let origin = Origin::script([on("GET /a").send(200, FRESH, "a")]);
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [first, second] = &listeners;
    let mut proxy = Proxy::start_on(activated([first, second], &origin), 1);
    let addresses = listeners.each_ref().map(|one| one.local_addr().expect("an address"));
    let mut clients = Vec::from(addresses.map(Connection::open));
    let mut ask = |client: &mut Connection| {
        let reply = client.request("GET", "/a", "", "").reply();
        assert_eq!(reply.body(), "a");
        reply.field("connection") == "close"
    };
    assert!(!clients.iter_mut().any(&mut ask));
    proxy.signal("-TERM");
    while !clients.is_empty() {
        // Nobody asks in vain: the last response says that it is the last.
        clients.retain_mut(|client| !ask(client) || !client.rest().is_empty());
    }
    // It does not wait for those who have left.
    proxy.wait_for_end();
    let (status, _, log) = proxy.wait();
    assert!(status.success(), "{status}: {log}");
}

/// systemd's socket may be in no folder; its name then begins with an `@`.
#[cfg(target_os = "linux")]
#[test]
fn an_abstract_socket_is_told_too() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let name = format!("caching-proxy-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let notified = UnixDatagram::bind_addr(&address).expect("a socket");
    notified.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut with_socket = command();
    with_socket.env("NOTIFY_SOCKET", format!("@{name}"));
    let _proxy = Proxy::start_as(with_socket);
    let mut told = [0; 100];
    let count = notified.recv(&mut told).expect("a message");
    assert!(String::from_utf8_lossy(&told[..count]).starts_with("READY=1\n"));
}

#[test]
fn sighup_opens_the_access_log_again() {
    let folder = TemporaryFolder::new();
    let (log, moved) = (folder.file("access.log"), folder.file("access.log.1"));
    let origin = Origin::script([on("GET *any*").send(200, "", "a").always()]);
    let path = log.display().to_string();
    let proxy = Proxy::before(&origin, &["--access-log", &path]);
    let wait_for = |path: &std::path::Path, text: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !fs::read_to_string(path).is_ok_and(|found| found.contains(text)) {
            assert!(std::time::Instant::now() < deadline, "{text} is not in {}", path.display());
            super::support::pause();
        }
    };
    proxy.get("/before");
    wait_for(&log, "/before");
    fs::rename(&log, &moved).expect("it is there");
    proxy.get("/between");
    wait_for(&moved, "/between");
    proxy.signal("-HUP");
    wait_for_file(&log);
    proxy.get("/after");
    wait_for(&log, "/after");
    assert!(!fs::read_to_string(&moved).expect("it is there").contains("/after"));
}

fn wait_for_file(path: &std::path::Path) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(std::time::Instant::now() < deadline, "{} is not there", path.display());
        super::support::pause();
    }
}
