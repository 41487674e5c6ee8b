//! The units of the .deb under a systemd of its own, in namespaces and a copy of this machine's root: what confines the
//! proxy must leave it what it needs, and no client is refused while it restarts behind its socket.
//! `scripts/package --check` names the packages in `DIST`, and sets `SERVICE_RUNS` where this machine lets us do that.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::packages_built::Processor;
use super::support::origin::{Origin, Rule, on};
use super::support::proxy::command_of;
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder, pause, wait_until};

/// Starts systemd as process 1 of a copy of the root, whose changes are in memory: `$1` is where, `$2` the folder of the
/// packages, `$3` the one that the copy shares with the test, `$4` what is done in there.
const BOOT: &str = r#"
mount -t tmpfs tmpfs "$1"
root=$1/root
mkdir "$1/upper" "$1/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mkdir -p "$root/shared" "$root/packages"
mount --bind "$2" "$root/packages"
mount --bind "$3" "$root/shared"
printf '%s' "$4" >"$root/steps"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
# The network is this machine's, and is there.
ln -s /dev/null "$root/etc/systemd/system/network-online.target"
# Images of containers forbid scripts of packages to start services.
rm -f "$root/usr/sbin/policy-rc.d"
# An index of all man pages takes half a minute.
rm -f "$root/var/lib/man-db/auto-update"
printf '[Unit]\nDefaultDependencies=no\nRequires=steps.service\n' >"$root/etc/systemd/system/steps.target"
printf '[Service]\nType=oneshot\nExecStart=/bin/sh /steps\n' >"$root/etc/systemd/system/steps.service"
cd "$root"
mkdir -p old
# Programs are found in the copy from here on.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
# A process in a chroot may not make namespaces of users, as PrivateUsers does.
pivot_root . old
umount -l /old
exec env -i container=test "PATH=$PATH" /lib/systemd/systemd --system --unit=steps.target \
    --show-status=0
"#;

/// Enters a control group of its own, so that what systemd makes of groups is below it; then the words behind `$2`. `$1`
/// is a folder for the groups, `$2` the name of the group.
const IN_A_GROUP: &str = r#"
mount -t cgroup2 cgroup2 "$1"
mkdir "$1/$2"
echo $$ >"$1/$2/cgroup.procs"
umount "$1"
shift 2
exec "$@"
"#;

/// Removes that group, and those in it, when the last process has ended: the kernel takes a moment for that.
const NO_GROUP: &str = r#"
mount -t cgroup2 cgroup2 "$1"
turns=0
until grep -q '^populated 0' "$1/$2/cgroup.events" || [ "$turns" -gt 200 ]; do
    turns=$((turns + 1))
    sleep 0.05
done
find "$1/$2" -depth -type d -exec rmdir {} +
"#;

/// How the steps begin that systemd takes in there: what they print is read at the end, and whatever happens, no machine
/// is left running. `await NAME` waits for a file that the test makes; `$deb` is the package.
const PROLOGUE: &str = r#"
exec >/shared/told 2>&1
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
trap 'touch /shared/done; systemctl poweroff -ff' EXIT
await() { until [ -e "/shared/$1" ]; do sleep 0.05; done; }
process() { systemctl show --property=MainPID --value proxy.service; }
quietly() { "$@" >/shared/quiet 2>&1 || cat /shared/quiet; }
deb=$(echo "/packages/caching-proxy_"*"_$(dpkg --print-architecture).deb")
"#;

/// The package is installed, and its variables are set.
const INSTALL: &str = r#"
quietly dpkg --install "$deb"
cat /shared/variables >>/etc/default/caching-proxy
"#;

/// Of the service; its port is free, and it stores and logs.
const VARIABLES: &str = "CACHING_PROXY_HOST=127.0.0.1
CACHING_PROXY_PORT=0
CACHING_PROXY_STORE=sqlite:/var/cache/caching-proxy/cache.db
CACHING_PROXY_ACCESS_LOG=/var/log/caching-proxy/access.log
";

/// The service, as somebody starts, uses and stops it.
const SERVE: &str = r"
systemctl start proxy || { systemctl status --no-pager proxy; exit; }
systemctl is-active proxy
ls /run/caching-proxy >/shared/sockets
touch /shared/ready
await asked
runuser -u caching-proxy -- env XDG_RUNTIME_DIR=/run proxy stats --quiet && echo answers
systemctl reload proxy && echo reloaded
systemctl restart proxy && echo restarted
[ -s /var/cache/caching-proxy/cache.db ] && [ -s /var/log/caching-proxy/access.log ] && echo written
systemctl stop proxy && systemctl show --property=Result proxy
";

/// An older version is replaced by this one while the service runs, and this one by itself while it is stopped. The file
/// of variables has been changed.
const UPGRADE: &str = r#"
dpkg-deb --raw-extract "$deb" /tmp/older
sed -i 's/^Version: .*/Version: 0.0.1/' /tmp/older/DEBIAN/control
dpkg-deb -Znone --build /tmp/older /tmp/older.deb >/dev/null
quietly dpkg --force-downgrade --install /tmp/older.deb
quietly systemctl enable --now proxy
before=$(process)
quietly dpkg --install "$deb"
systemctl is-active proxy && systemctl is-enabled proxy
[ "$(process)" != "$before" ] && echo restarted
dpkg-query --show --showformat '${Version}\n' caching-proxy
systemctl stop proxy
quietly dpkg --install "$deb"
systemctl is-active proxy || systemctl is-enabled proxy
grep -c CACHING_PROXY_ORIGIN=http: /etc/default/caching-proxy
systemctl start proxy
before=$(process)
quietly dpkg --remove caching-proxy
[ -e "/proc/$before" ] || echo ended
"#;

/// The socket at an address of the test's: the service is started by its first client, and ends with it.
const LISTEN: &str = r#"
systemctl show --property=Accept --property=Listen proxy.socket
mkdir -p /etc/systemd/system/proxy.socket.d
at() {
    printf '[Socket]\nListenStream=\nListenStream=%s\n' "$1" >/etc/systemd/system/proxy.socket.d/override.conf
    systemctl daemon-reload
}
at "$(cat /shared/address)"
systemctl start proxy.socket && systemctl is-active proxy.service
touch /shared/ready
await answered
systemctl is-active proxy.service
tr '\0' '\n' <"/proc/$(process)/environ" | grep -x LISTEN_FDS=1
touch /shared/started
await asking
for turn in 1 2 3; do
    before=$(process)
    systemctl restart proxy.service
    [ "$(process)" != "$before" ] && echo restarted
done
touch /shared/restarted
await counted
at "$(cat /shared/other)"
systemctl restart proxy.socket && echo moved
touch /shared/moved
await answered-there
systemctl stop proxy.socket
systemctl is-active proxy.socket proxy.service
touch /shared/stopped
await refused
"#;

/// No steps in there take this long: packages are installed, and services started and stopped, several times.
const STEPS_MAX: Duration = PATIENCE.saturating_mul(4);

/// A systemd in namespaces; killed with all that it has started when it is dropped.
struct Machine {
    process: Child,
    shared: TemporaryFolder,
    place: TemporaryFolder,
}

/// A shell in a mount namespace of its own, given a folder and, from the folder's name, that of a control group.
fn shell(script: &str, place: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-eu", "-c", script, "sh"]).arg(place);
    command.arg(place.file_name().expect("a name"));
    command
}

/// The folder of the packages, where this machine lets us start a systemd.
fn packages() -> Option<PathBuf> {
    std::env::var_os("SERVICE_RUNS")?;
    std::env::var_os("DIST").map(PathBuf::from)
}

impl Machine {
    /// `files` are in the folder that it shares with the test from the start, and so are the variables of a service in
    /// front of `origin`.
    fn start(packages: &Path, origin: &Origin, steps: &[&str], files: &[(&str, &str)]) -> Self {
        let (place, shared) = (TemporaryFolder::new(), TemporaryFolder::new());
        let variables = format!("CACHING_PROXY_ORIGIN={}\n{VARIABLES}", origin.url());
        for (name, text) in files.iter().chain(&[("variables", &*variables)]) {
            fs::write(shared.file(name), text).expect("a file");
        }
        let mut command = shell(IN_A_GROUP, place.path());
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--uts", "--ipc", "--cgroup"]);
        command.args(["sh", "-eu", "-c", BOOT, "sh"]).arg(place.path()).arg(packages);
        command.arg(shared.path()).arg([PROLOGUE, &steps.concat()].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().expect("unshare");
        Self { process, shared, place }
    }

    /// Waits for a file that the machine makes; what it has said if it has ended without it.
    fn wait_for(&mut self, name: &str) -> PathBuf {
        let (path, deadline) = (self.shared.file(name), Instant::now() + STEPS_MAX);
        while !path.exists() {
            let ended = self.process.try_wait().expect("a child").is_some();
            assert!(!ended || path.exists(), "no {name}: {}", self.told());
            assert!(Instant::now() < deadline, "no {name} in time: {}", self.told());
            pause();
        }
        path
    }

    /// Makes a file that the machine waits for.
    fn tell(&self, name: &str) {
        fs::write(self.shared.file(name), "").expect("a file");
    }

    fn told(&self) -> String {
        fs::read_to_string(self.shared.file("told")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = shell(NO_GROUP, self.place.path()).output();
    }
}

/// A response that is reused.
fn stored() -> Rule {
    on("GET /a").send(200, "Cache-Control: max-age=60", "hello")
}

#[test]
fn the_service_serves_stores_and_logs_as_confined_as_it_is() {
    let Some(packages) = packages() else { return };
    let origin = Origin::script([stored()]);
    let mut machine = Machine::start(&packages, &origin, &[INSTALL, SERVE], &[]);
    machine.wait_for("ready");
    let sockets = fs::read_to_string(machine.shared.file("sockets")).expect("a list");
    let port = sockets.lines().find_map(|name| name.strip_suffix(".sock")).expect("a socket");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().expect("a port")));
    for expected in [false, true] {
        let reply = Connection::open(address).request("GET", "/a", "", "").reply();
        assert_eq!((reply.body(), reply.is_hit()), ("hello".into(), expected));
    }
    machine.tell("asked");
    machine.wait_for("done");
    let told = machine.told();
    let expected = ["active", "answers", "reloaded", "restarted", "written", "Result=success"];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_upgrade_keeps_what_was_changed_and_restarts_what_runs() {
    let Some(packages) = packages() else { return };
    let origin = Origin::script([]);
    let mut machine = Machine::start(&packages, &origin, &[INSTALL, UPGRADE], &[]);
    machine.wait_for("done");
    let told = machine.told();
    let version = env!("CARGO_PKG_VERSION");
    let running = ["active", "enabled", "restarted", version];
    let stopped = ["inactive", "enabled", "1", "ended"];
    assert_eq!(told.lines().collect::<Vec<_>>(), [running, stopped].concat());
}

/// The commands of docs/packaging.md before those for containers, a block each.
fn documented() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/packaging.md");
    let text = fs::read_to_string(path).expect("a document");
    let (text, _) = text.split_once("\n## A container").expect("such a part");
    let here = Processor::here();
    let text = text.replace("x86_64", here.rust).replace("_amd64", &format!("_{}", here.debian));
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("a block").into()).collect()
}

/// What people type as the document says, with root's rights.
const TYPED: &str = r#"
set -e
sudo() { if [ "$1" = -u ]; then shift; runuser -u "$@"; else "$@"; fi; }
sudoedit() { cat /shared/variables >>"$1"; }
cp /packages/* /tmp
cd /tmp
"#;

/// What lies between two parts of the document: the .deb is removed before the tarball is unpacked, and systemd listens
/// at an address of the test's.
const BETWEEN: [&str; 2] = [
    r"
systemctl is-active proxy
apt-get purge --yes caching-proxy
hash -r
",
    r#"
systemctl is-active proxy
[ "$(command -v proxy)" = /usr/local/bin/proxy ]
[ -s /usr/local/share/man/man1/proxy.1 ]
mkdir -p /etc/systemd/system/proxy.socket.d
printf '[Socket]\nListenStream=\nListenStream=%s\n' "$(cat /shared/address)" \
    >/etc/systemd/system/proxy.socket.d/override.conf
systemctl daemon-reload
"#,
];
/// Each command before has succeeded.
const READY: &str = "touch /shared/ready\nawait asked\n";

#[test]
fn the_commands_of_the_document_install_what_it_says() {
    let Some(packages) = packages() else { return };
    let origin = Origin::script([stored()]);
    let address = free_address(1);
    let blocks = documented();
    let [sums, deb, unpack, service, socket] = &blocks[..] else { panic!("{blocks:?}") };
    let steps = [TYPED, sums, deb, BETWEEN[0], unpack, service, BETWEEN[1], socket, READY];
    let files = [("address", &*address.to_string())];
    let mut machine = Machine::start(&packages, &origin, &steps, &files);
    machine.wait_for("ready");
    let reply = Connection::open(address).request("GET", "/a", "", "").reply();
    assert_eq!(reply.body(), "hello");
    machine.tell("asked");
    machine.wait_for("done");
}

/// A loopback address that no other test listens at, with a port that was free a moment ago: units of sockets cannot
/// leave the choice of a port to the kernel.
fn free_address(last: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, high, low, last), 0));
    listener.and_then(|listener| listener.local_addr()).expect("an address")
}

/// Asks on a connection of its own each time, until `ended`; how often.
fn ask_until(ended: &AtomicBool, address: SocketAddr) -> usize {
    let mut count = 0;
    while !ended.load(Ordering::Relaxed) {
        let reply = Connection::open(address).request("GET", "/a", "", "").reply();
        assert_eq!(reply.body(), "hello", "after {count}: {}", reply.head.text);
        count += 1;
    }
    count
}

#[test]
fn the_socket_starts_the_service_and_refuses_nobody_while_it_restarts() {
    let Some(packages) = packages() else { return };
    let origin = Origin::script([stored().always()]);
    let (address, other) = (free_address(2), free_address(3));
    let files = [("address", &*address.to_string()), ("other", &other.to_string())];
    let mut machine = Machine::start(&packages, &origin, &[INSTALL, LISTEN], &files);
    machine.wait_for("ready");
    for expected in [false, true] {
        let reply = Connection::open(address).request("GET", "/a", "", "").reply();
        assert_eq!((reply.body(), reply.is_hit()), ("hello".into(), expected));
    }
    machine.tell("answered");
    machine.wait_for("started");
    let ended = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let clients = [(); 3].map(|()| scope.spawn(|| ask_until(&ended, address)));
        machine.tell("asking");
        machine.wait_for("restarted");
        ended.store(true, Ordering::Relaxed);
        clients.map(|client| client.join().expect("each is answered"))
    });
    println!("answered: {counts:?}");
    machine.tell("counted");
    machine.wait_for("moved");
    assert_eq!(Connection::open(other).request("GET", "/a", "", "").reply().body(), "hello");
    assert!(TcpStream::connect(address).is_err(), "it is still at its old address");
    machine.tell("answered-there");
    machine.wait_for("stopped");
    assert!(TcpStream::connect(other).is_err(), "it is still there");
    machine.tell("refused");
    machine.wait_for("done");
    let told = machine.told();
    let mut lines = told.lines();
    // The unit's own address, in an order that depends on the version.
    let mut unit = [lines.next(), lines.next()].map(Option::unwrap_or_default);
    unit.sort_unstable();
    assert_eq!(unit, ["Accept=no", "Listen=[::]:3000 (Stream)"], "{told}");
    let expected = ["inactive", "active", "LISTEN_FDS=1", "restarted", "restarted", "restarted"];
    let ends = ["moved", "inactive", "inactive"];
    assert!(lines.eq(expected.into_iter().chain(ends)), "{told}");
}

/// Where systemd's own tool is, also without a systemd: the first client starts the program, which takes the socket.
#[test]
fn the_program_of_the_tarball_takes_a_socket_that_was_opened_for_it() {
    let Some(dist) = std::env::var_os("DIST") else { return };
    let has_tool = Command::new("systemd-socket-activate").arg("--version").output().is_ok();
    if !has_tool {
        println!("no systemd-socket-activate: no socket was handed over");
        return;
    }
    let (folder, inside) = Processor::here().unpacked(Path::new(&dist));
    let (origin, address) = (Origin::script([stored()]), free_address(4));
    let mut command = command_of("systemd-socket-activate");
    command.arg(format!("--listen={address}")).arg("--setenv=XDG_RUNTIME_DIR");
    command.arg(inside.join("proxy")).args(["--origin", &origin.url()]);
    command.env("XDG_RUNTIME_DIR", folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Killed(command.spawn().expect("it runs"));
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    for expected in [false, true] {
        let reply = Connection::open(address).request("GET", "/a", "", "").reply();
        assert_eq!((reply.body(), reply.is_hit()), ("hello".into(), expected));
    }
    let mut line = String::new();
    let stdout = process.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, format!("listening on http://{address}\n"));
}

/// A process that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
