//! The service of the .deb under a systemd of its own, in namespaces and a copy of this machine's root: what confines
//! the proxy must leave it what it needs. `scripts/package --check` names the packages in `DIST`, and sets `SERVICE_RUNS`
//! where this machine lets us do that.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::packages_built::package;
use super::support::origin::{Origin, on};
use super::support::wire::Connection;
use super::support::{PATIENCE, TemporaryFolder, pause};

/// Starts systemd as process 1 of a copy of the root, whose changes are in memory: `$1` is where, `$2` the package, `$3`
/// the origin server, `$4` the folder that the copy shares with the test, `$5` what is done in there.
const BOOT: &str = r#"
mount -t tmpfs tmpfs "$1"
root=$1/root
mkdir "$1/upper" "$1/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mkdir -p "$root/shared"
mount --bind "$4" "$root/shared"
cp "$2" "$root/package.deb"
printf '%s' "$5" >"$root/steps"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" dpkg --install /package.deb >/dev/null
cat >>"$root/etc/default/caching-proxy" <<END
CACHING_PROXY_ORIGIN=$3
CACHING_PROXY_HOST=127.0.0.1
CACHING_PROXY_PORT=0
CACHING_PROXY_STORE=sqlite:/var/cache/caching-proxy/cache.db
CACHING_PROXY_ACCESS_LOG=/var/log/caching-proxy/access.log
END
# The network is this machine's, and is there.
sed -i '/network-online/d' "$root/usr/lib/systemd/system/proxy.service"
printf '[Unit]\nDefaultDependencies=no\nRequires=steps.service\n' >"$root/etc/systemd/system/steps.target"
printf '[Unit]\nWants=proxy.service\nAfter=proxy.service\n[Service]\nType=oneshot\nExecStart=/bin/sh /steps\n' \
    >"$root/etc/systemd/system/steps.service"
cd "$root"
mkdir -p old
# A process in a chroot may not make namespaces of users, as PrivateUsers does.
pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=steps.target \
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

/// What is done in there, by systemd.
const STEPS: &str = r"
exec >/shared/told 2>&1
# Whatever happens, this machine is not left running.
trap 'touch /shared/done; systemctl poweroff -ff' EXIT
systemctl is-active proxy || { systemctl status --no-pager proxy; exit; }
ls /run/caching-proxy >/shared/sockets
touch /shared/ready
until [ -e /shared/asked ]; do sleep 0.05; done
runuser -u caching-proxy -- env XDG_RUNTIME_DIR=/run proxy stats --quiet && echo answers
systemctl reload proxy && echo reloaded
systemctl restart proxy && echo restarted
[ -s /var/cache/caching-proxy/cache.db ] && [ -s /var/log/caching-proxy/access.log ] && echo written
systemctl stop proxy && systemctl show --property=Result proxy
";

/// A systemd in namespaces; killed with all that it has started when it is dropped.
struct Machine {
    process: Child,
    shared: TemporaryFolder,
    place: TemporaryFolder,
}

/// A shell in a mount namespace of its own, given a folder and the name of the test's control group.
fn shell(script: &str, place: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-eu", "-c", script, "sh"]).arg(place);
    command.arg(format!("caching-proxy-service-{}", std::process::id()));
    command
}

impl Machine {
    fn start(deb: &Path, origin: &Origin) -> Self {
        let (place, shared) = (TemporaryFolder::new(), TemporaryFolder::new());
        let mut command = shell(IN_A_GROUP, place.path());
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--uts", "--ipc", "--cgroup"]);
        command.args(["sh", "-eu", "-c", BOOT, "sh"]).arg(place.path()).arg(deb);
        command.arg(origin.url()).arg(shared.path()).arg(STEPS);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().expect("unshare");
        Self { process, shared, place }
    }

    /// Waits for a file that the machine makes; what it has said if it has ended without it.
    fn wait_for(&mut self, name: &str) -> PathBuf {
        let (path, deadline) = (self.shared.file(name), Instant::now() + PATIENCE);
        while !path.exists() {
            let ended = self.process.try_wait().expect("a child").is_some();
            assert!(!ended || path.exists(), "no {name}: {}", self.told());
            assert!(Instant::now() < deadline, "no {name} in time: {}", self.told());
            pause();
        }
        path
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

#[test]
fn the_service_serves_stores_and_logs_as_confined_as_it_is() {
    let dist = std::env::var_os("DIST").filter(|_| std::env::var_os("SERVICE_RUNS").is_some());
    let Some(dist) = dist.map(PathBuf::from) else { return };
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let mut machine = Machine::start(&package(&dist, "deb"), &origin);
    machine.wait_for("ready");
    let sockets = fs::read_to_string(machine.shared.file("sockets")).expect("a list");
    let port = sockets.lines().find_map(|name| name.strip_suffix(".sock")).expect("a socket");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().expect("a port")));
    for expected in [false, true] {
        let reply = Connection::open(address).request("GET", "/a", "", "").reply();
        assert_eq!((reply.body(), reply.is_hit()), ("hello".into(), expected));
    }
    fs::write(machine.shared.file("asked"), "").expect("a file");
    machine.wait_for("done");
    let told = machine.told();
    let expected = ["active", "answers", "reloaded", "restarted", "written", "Result=success"];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}
