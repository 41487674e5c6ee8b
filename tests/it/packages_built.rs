//! The packages themselves: the tarball, the .deb, and the image without a container engine. `scripts/package --check`
//! builds them and names their folder in `DIST`; without it there is nothing to look at. `IMAGE_RUNS` and `DEB_INSTALLS`
//! say that this machine lets us make namespaces for them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::packages::{exec_form, instructions};
use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command_of};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What both packages have beside the binary, by the ends of their paths.
const TEXTS: [&str; 4] = ["proxy.1", "proxy.bash", "_proxy", "proxy.fish"];

/// The folder of the packages.
fn dist() -> Option<PathBuf> {
    let dist = std::env::var_os("DIST").map(PathBuf::from);
    if dist.is_none() {
        println!("DIST is not set; scripts/package --check sets it");
    }
    dist
}

/// Does this machine let us? The script that sets the variable has tried, and tells what it leaves out.
fn may(what: &str) -> bool {
    std::env::var_os(what).is_some()
}

/// The package for this processor with such an end.
pub fn package(dist: &Path, end: &str) -> PathBuf {
    let architecture = match end {
        "deb" if cfg!(target_arch = "aarch64") => "arm64",
        "deb" => "amd64",
        _ => std::env::consts::ARCH,
    };
    let files = fs::read_dir(dist).expect("DIST").map(|entry| entry.expect("an entry").path());
    let mut found = files.filter(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.contains(architecture) && name.ends_with(&format!(".{end}"))
    });
    found.next().unwrap_or_else(|| panic!("no .{end} for {architecture}"))
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The tarball, unpacked.
fn unpacked(dist: &Path) -> (TemporaryFolder, PathBuf) {
    let folder = TemporaryFolder::new();
    said(Command::new("tar").arg("xzpf").arg(package(dist, "tar.gz")).arg("-C").arg(folder.path()));
    let entry = fs::read_dir(folder.path()).expect("a folder").next();
    let inside = entry.expect("a folder in it").expect("an entry").path();
    (folder, inside)
}

/// Whether the binary prints a man page and completions: then they are in the packages.
fn has_texts(binary: &Path) -> bool {
    let output = Command::new(binary).args(["help", "--man"]).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with(".TH "))
}

#[test]
fn the_tarball_has_what_is_needed_and_runs() {
    let Some(dist) = dist() else { return };
    let (_folder, inside) = unpacked(&dist);
    let name = inside.file_name().expect("a name").to_string_lossy().into_owned();
    let listed =
        said(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(package(&dist, "tar.gz")));
    assert!(listed.lines().all(|line| line.contains(" 0/0 ")), "not all root's: {listed}");
    let binary = inside.join("proxy");
    let mut expected: BTreeSet<String> = [
        "proxy",
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "LICENSES-THIRD-PARTY",
        "Dockerfile",
        "compose.yaml",
        "docs/packaging.md",
        "systemd/proxy.service",
        "systemd/proxy.socket",
        "systemd/environment",
        "systemd/sysusers.conf",
        "container/run/caching-proxy/",
        "container/var/cache/caching-proxy/",
    ]
    .map(String::from)
    .into();
    if has_texts(&binary) {
        expected.extend(TEXTS.iter().map(|text| {
            let folder = if *text == "proxy.1" { "man" } else { "completions" };
            format!("{folder}/{text}")
        }));
    }
    for path in expected {
        assert!(listed.contains(&format!(" {name}/{path}\n")), "{path} is missing: {listed}");
    }
    let licences = fs::read_to_string(inside.join("LICENSES-THIRD-PARTY")).expect("a text");
    for part in ["rustls-", "GNU C library", "Permission is hereby granted"] {
        assert!(licences.contains(part), "LICENSES-THIRD-PARTY does not have {part:?}");
    }
    assert_eq!(said(Command::new(&binary).arg("--version")), format!("proxy {VERSION}\n"));
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let mut command = command_of(binary.to_str().expect("a path"));
    command.args(["--origin", &origin.url()]);
    let proxy = Proxy::start_as(command);
    assert_eq!((proxy.get("/a").is_hit(), proxy.get("/a").is_hit()), (false, true));
}

/// Paths of whoever has built it would be other bytes elsewhere, and are nobody's business.
#[test]
fn the_binary_does_not_name_the_folder_of_its_sources() {
    let Some(dist) = dist() else { return };
    let (_folder, inside) = unpacked(&dist);
    let bytes = fs::read(inside.join("proxy")).expect("the binary");
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!has(env!("CARGO_MANIFEST_DIR")), "the folder of the sources is in the binary");
    assert!(!has("/.cargo/registry"), "the folder of cargo is in the binary");
    // A root certificate that everybody has, by its name.
    assert!(has("ISRG Root X1"), "the root certificates are not in the binary");
}

#[test]
fn the_deb_says_what_it_is() {
    let Some(dist) = dist() else { return };
    let deb = package(&dist, "deb");
    let info = said(Command::new("dpkg-deb").arg("--info").arg(&deb));
    for part in [
        " Package: caching-proxy\n",
        &format!(" Version: {VERSION}\n"),
        " Depends: adduser\n",
        " conffiles ",
        " md5sums ",
        " postinst ",
        " prerm ",
        " postrm ",
    ] {
        assert!(info.contains(part), "{part:?} is missing: {info}");
    }
    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(&deb));
    assert!(contents.lines().all(|line| line.contains(" root/root ")), "{contents}");
    for path in [
        "usr/bin/proxy",
        "usr/lib/systemd/system/proxy.service",
        "usr/lib/systemd/system/proxy.socket",
        "etc/default/caching-proxy",
        "usr/share/doc/caching-proxy/copyright",
        "usr/share/doc/caching-proxy/LICENSES-THIRD-PARTY.gz",
    ] {
        assert!(contents.contains(&format!(" ./{path}\n")), "{path} is missing: {contents}");
    }
}

/// What is done with the .deb, in a root that is thrown away: `$1` says whether it has a man page.
const INSTALL: &str = r#"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
fail() { echo "$1" >&2; exit 1; }
there() { for path; do [ -e "$path" ] || fail "$path is not there"; done; }
gone() { for path; do [ ! -e "$path" ] || fail "$path is there"; done; }
units=/usr/lib/systemd/system
# Images of containers leave man pages out.
rm -f /etc/dpkg/dpkg.cfg.d/*
gone /usr/bin/proxy
dpkg --install /package.deb || fail "not installed"
there /usr/bin/proxy $units/proxy.service $units/proxy.socket /etc/default/caching-proxy
[ -z "$1" ] || there /usr/share/man/man1/proxy.1.gz /usr/share/bash-completion/completions/proxy
getent passwd caching-proxy | grep -q ':/nonexistent:' || fail "no user"
[ "$(id -u caching-proxy)" -lt 1000 ] || fail "no user of the system"
# It is started when somebody asks for that.
gone /etc/systemd/system/multi-user.target.wants/proxy.service /etc/systemd/system/sockets.target.wants/proxy.socket
[ -z "$(dpkg --verify caching-proxy)" ] || fail "other bytes than were packed"
proxy --version
echo '# a change' >>/etc/default/caching-proxy
mkdir -p /var/cache/caching-proxy /var/log/caching-proxy
dpkg --install /package.deb </dev/null || fail "not installed again"
grep -q '^# a change' /etc/default/caching-proxy || fail "the change is lost"
dpkg --remove caching-proxy || fail "not removed"
gone /usr/bin/proxy $units/proxy.service $units/proxy.socket /usr/share/man/man1/proxy.1.gz
there /etc/default/caching-proxy /var/cache/caching-proxy
dpkg --purge caching-proxy || fail "not purged"
gone /etc/default/caching-proxy /var/cache/caching-proxy /var/log/caching-proxy
gone /usr/share/doc/caching-proxy /etc/systemd/system/proxy.service
! getent passwd caching-proxy || fail "the user is left"
"#;

/// A copy of this machine's root that costs nothing, since only changes are written, to memory: `$1` is where, `$2` the
/// package, `$3` the script, `$4` its argument.
const IN_A_COPY: &str = r#"
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --bind /dev "$1/root/dev"
cp "$2" "$1/root/package.deb"
exec chroot "$1/root" sh -u -c "$3" sh "$4"
"#;

#[test]
fn the_deb_is_installed_and_removed_without_a_trace() {
    let Some(dist) = dist().filter(|_| may("DEB_INSTALLS")) else { return };
    let (_folder, inside) = unpacked(&dist);
    let text = if has_texts(&inside.join("proxy")) { "man" } else { "" };
    let place = TemporaryFolder::new();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "sh", "-eu", "-c", IN_A_COPY, "sh"]);
    unshare.arg(place.path()).arg(package(&dist, "deb")).args([INSTALL, text]);
    let told = said(&mut unshare);
    assert!(told.contains(&format!("proxy {VERSION}")), "{told}");
}

/// The image as a folder, with what every container gets: /proc, and names.
struct Image {
    folder: TemporaryFolder,
    /// Of USER; nobody else's number can be had without root.
    user: Option<u32>,
    variables: Vec<(String, String)>,
    entry: Vec<String>,
    check: Vec<String>,
}

impl Image {
    /// Does what the instructions in the tarball say.
    fn build(context: &Path) -> Self {
        let text = fs::read_to_string(context.join("Dockerfile")).expect("a Dockerfile");
        let folder = TemporaryFolder::new();
        let is_root = fs::metadata("/proc/self").expect("a process").uid() == 0;
        let mut image =
            Self { folder, user: None, variables: vec![], entry: vec![], check: vec![] };
        for (name, rest) in instructions(&text).expect("a Dockerfile") {
            match &*name {
                "COPY" => image.copy(context, &rest, is_root),
                "USER" => {
                    let number = rest.split(':').next().and_then(|user| user.parse().ok());
                    image.user = number.filter(|_| is_root);
                }
                "ENV" => {
                    let (name, value) = rest.split_once('=').expect("a value");
                    image.variables.push((name.into(), value.into()));
                }
                "ENTRYPOINT" => image.entry = exec_form(&rest),
                "HEALTHCHECK" => {
                    image.check = exec_form(rest.split_once("CMD ").expect("a command").1);
                }
                _ => {}
            }
        }
        for name in ["proc", "etc"] {
            fs::DirBuilder::new().mode(0o755).create(image.folder.file(name)).expect("a folder");
        }
        fs::write(image.folder.file("etc/hosts"), "127.0.0.1 localhost\n").expect("a file");
        image
    }

    fn copy(&self, context: &Path, words: &str, is_root: bool) {
        let mut words: Vec<&str> = words.split(' ').collect();
        let owner =
            words[0].strip_prefix("--chown=").map(|owner| owner.split_once(':').expect("two"));
        if owner.is_some() {
            words.remove(0);
        }
        let [from, to] = words[..] else { panic!("COPY {words:?}") };
        let from = if from.ends_with('/') { format!("{from}.") } else { from.to_string() };
        let to = self.folder.path().join(to.trim_start_matches('/'));
        said(Command::new("cp").arg("-a").arg(context.join(&from)).arg(&to));
        let Some((user, group)) = owner.filter(|_| is_root) else { return };
        let number = |text: &str| text.parse().expect("a number");
        for path in ["run", "run/caching-proxy", "var", "var/cache", "var/cache/caching-proxy"] {
            chown(self.folder.file(path), Some(number(user)), Some(number(group))).expect("root");
        }
    }

    /// Its program as process 1 of a container, without a network of its own.
    fn start(&self, args: &[&str]) -> Proxy {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(format!("--root={}", self.folder.path().display()));
        match self.user {
            Some(user) => command.args([format!("--setgid={user}"), format!("--setuid={user}")]),
            None => command.arg("--map-root-user"),
        };
        command.args(&self.entry).args(args);
        command.env_clear().envs(self.variables.clone());
        Proxy::start_as(command)
    }

    /// The health check, in the container of process 1.
    fn check(&self, pid: u32) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--pid", "--root", "--wd=/"]);
        match self.user {
            Some(user) => command.args([format!("--setgid={user}"), format!("--setuid={user}")]),
            None => command.args(["--user", "--preserve-credentials"]),
        };
        command.args(&self.check).env_clear().envs(self.variables.clone());
        command.output().expect("nsenter")
    }
}

/// The process that `unshare` has started, which is number 1 in there.
fn first_process(proxy: &Proxy) -> u32 {
    let pid = proxy.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("the children of a process");
    children.trim().parse().unwrap_or_else(|_| panic!("one child is expected, not {children:?}"))
}

#[test]
fn the_image_serves_as_process_1_and_ends_by_a_signal() {
    let Some(dist) = dist().filter(|_| may("IMAGE_RUNS")) else { return };
    let (_folder, inside) = unpacked(&dist);
    let image = Image::build(&inside);
    for signal in ["-TERM", "-INT"] {
        let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
        // The name is looked up, which static binaries may fail at.
        let url = format!("http://localhost:{}", origin.port());
        let mut proxy =
            image.start(&["--origin", &url, "--store", "sqlite:/var/cache/caching-proxy/cache.db"]);
        assert!(proxy.address.ip().is_unspecified(), "{}: beyond loopback", proxy.address);
        assert_eq!((proxy.get("/a").is_hit(), proxy.get("/a").is_hit()), (false, true));
        let first = first_process(&proxy);
        let status = fs::read_to_string(format!("/proc/{first}/status")).expect("a process");
        let numbers = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.split_whitespace()
                .map(|word| word.parse().expect("a number"))
                .collect::<Vec<u32>>()
        };
        assert_eq!(numbers("NSpid:").last(), Some(&1), "{status}");
        if let Some(user) = image.user {
            assert_eq!(numbers("Uid:"), [user; 4]);
        }
        let answer = image.check(first);
        assert!(answer.status.success() && answer.stdout.is_empty(), "{answer:?}");
        let sent = Command::new("kill").args([signal, &first.to_string()]).status().expect("kill");
        assert!(sent.success());
        proxy.wait_for_end();
        let (status, _, log) = proxy.wait();
        assert!(status.success(), "{signal}: {status}: {log}");
        fs::remove_file(image.folder.file("var/cache/caching-proxy/cache.db")).expect("the store");
    }
    // Nothing runs any more: unhealthy.
    let mut command = Command::new("unshare");
    command.arg(format!("--root={}", image.folder.path().display()));
    match image.user {
        Some(user) => command.args([format!("--setgid={user}"), format!("--setuid={user}")]),
        None => command.arg("--map-root-user"),
    };
    let output = command.args(&image.check).env_clear().envs(image.variables.clone()).output();
    assert_eq!(output.expect("unshare").status.code(), Some(1));
}

/// There is no file with root certificates in the image: an origin server whose certificate nobody has signed is told
/// from one that could not be checked at all.
#[test]
fn the_image_checks_certificates_by_those_in_the_binary() {
    let Some(dist) = dist().filter(|_| may("IMAGE_RUNS")) else { return };
    let (_folder, inside) = unpacked(&dist);
    let image = Image::build(&inside);
    let (origin, _) = Origin::script_tls([]);
    let proxy = image.start(&["--origin", &format!("https://localhost:{}", origin.port())]);
    let reply = proxy.get("/");
    assert_eq!(reply.head.word(1), "502", "{}", reply.body());
    assert!(reply.body().contains("certificate"), "{}", reply.body());
    let pid = first_process(&proxy).to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
    assert!(sent.success());
}
