//! The packages themselves: the tarball, the .deb, and the image without a container engine. `scripts/package --check`
//! builds them and names their folder in `DIST`; without it there is nothing to look at. `IMAGE_RUNS` and `DEB_INSTALLS`
//! say that this machine lets us make namespaces for them.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::packages::{exec_form, instructions};
use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command_of};

const VERSION: &str = env!("CARGO_PKG_VERSION");

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

/// A processor that packages are made for, by its names.
pub struct Processor {
    /// Rust's, which tarballs have.
    pub rust: &'static str,
    /// Debian's, which a .deb has.
    pub debian: &'static str,
    /// As `readelf` has it.
    pub elf: &'static str,
}

const PROCESSORS: [Processor; 2] = [
    Processor { rust: "x86_64", debian: "amd64", elf: "Advanced Micro Devices X86-64" },
    Processor { rust: "aarch64", debian: "arm64", elf: "AArch64" },
];

impl Processor {
    /// That of this machine.
    pub fn here() -> &'static Self {
        let is_here = |one: &&Self| one.rust == std::env::consts::ARCH;
        PROCESSORS.iter().find(is_here).expect("packages are made for it")
    }

    /// Those that there are packages for.
    pub fn packed(dist: &Path) -> impl Iterator<Item = &'static Self> {
        PROCESSORS.iter().filter(|one| one.path(dist, "tar.gz").exists())
    }

    /// The package with such an end.
    pub fn path(&self, dist: &Path, end: &str) -> PathBuf {
        dist.join(match end {
            "deb" => format!("caching-proxy_{VERSION}_{}.deb", self.debian),
            _ => format!("caching-proxy-{VERSION}-{}-unknown-linux-gnu.{end}", self.rust),
        })
    }

    /// The tarball, unpacked.
    pub fn unpacked(&self, dist: &Path) -> (TemporaryFolder, PathBuf) {
        let folder = TemporaryFolder::new();
        let mut tar = Command::new("tar");
        said(tar.arg("xzpf").arg(self.path(dist, "tar.gz")).arg("-C").arg(folder.path()));
        let entry = fs::read_dir(folder.path()).expect("a folder").next();
        let inside = entry.expect("a folder in it").expect("an entry").path();
        (folder, inside)
    }
}

/// What the command has written to stdout; it succeeds.
pub fn said(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn there_is_a_tarball_and_a_deb_for_each_processor_and_their_sums() {
    let Some(dist) = dist() else { return };
    let mut expected = vec!["SHA256SUMS".into()];
    for processor in Processor::packed(&dist) {
        let paths = ["tar.gz", "deb"].map(|end| processor.path(&dist, end));
        expected.extend(paths.map(|path| path.file_name().expect("a name").to_owned()));
    }
    let entries = fs::read_dir(&dist).expect("DIST").map(|entry| entry.expect("an entry"));
    let mut found: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    said(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&dist));
}

/// The tarball, unpacked, where it has what is expected.
fn complete(processor: &Processor, dist: &Path) -> (TemporaryFolder, PathBuf) {
    let (folder, inside) = processor.unpacked(dist);
    let name = inside.file_name().expect("a name").to_string_lossy().into_owned();
    let mut tar = Command::new("tar");
    let listed = said(tar.args(["--numeric-owner", "-tvzf"]).arg(processor.path(dist, "tar.gz")));
    assert!(listed.lines().all(|line| line.contains(" 0/0 ")), "not all root's: {listed}");
    for path in [
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
        "man/proxy.1",
        "completions/proxy.bash",
        "completions/_proxy",
        "completions/proxy.fish",
    ] {
        assert!(listed.contains(&format!(" {name}/{path}\n")), "{path} is missing: {listed}");
    }
    let licences = fs::read_to_string(inside.join("LICENSES-THIRD-PARTY")).expect("a text");
    for part in ["rustls-", "GNU C library", "Permission is hereby granted"] {
        assert!(licences.contains(part), "LICENSES-THIRD-PARTY does not have {part:?}");
    }
    (folder, inside)
}

/// The program says its version, prints what its packages have beside it, and answers from the cache.
fn exercise(inside: &Path, run: impl Fn(&Path) -> Command) {
    let program = || run(&inside.join("proxy"));
    assert_eq!(said(program().arg("--version")), format!("proxy {VERSION}\n"));
    for (words, path) in [
        (["help", "--man"], "man/proxy.1"),
        (["completions", "bash"], "completions/proxy.bash"),
        (["completions", "zsh"], "completions/_proxy"),
        (["completions", "fish"], "completions/proxy.fish"),
    ] {
        let text = fs::read_to_string(inside.join(path)).expect("a text");
        assert!(said(program().args(words)) == text, "{path} is not what {words:?} prints");
    }
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=60", "hello")]);
    let mut command = program();
    command.args(["--origin", &origin.url()]);
    let proxy = Proxy::start_as(command);
    for is_hit in [false, true] {
        let reply = proxy.get("/a");
        assert_eq!((reply.body(), reply.is_hit()), ("hello".into(), is_hit));
    }
}

#[test]
fn the_tarball_has_what_is_needed_and_runs() {
    let Some(dist) = dist() else { return };
    let (_folder, inside) = complete(Processor::here(), &dist);
    exercise(&inside, |binary| command_of(binary.to_str().expect("a path")));
}

/// Packages for another processor: the same but for their binary, which `EMULATOR` runs (qemu-aarch64).
#[test]
fn the_packages_for_another_processor_run_in_an_emulator() {
    let Some(dist) = dist() else { return };
    let here = Processor::here();
    for processor in Processor::packed(&dist).filter(|one| one.rust != here.rust) {
        let (folder, inside) = complete(processor, &dist);
        let (_own_folder, own) = here.unpacked(&dist);
        for path in ["man", "completions", "docs", "systemd", "container", "Dockerfile"] {
            said(Command::new("diff").arg("-r").args([own.join(path), inside.join(path)]));
        }
        let binary = inside.join("proxy");
        let header = said(Command::new("readelf").args(["-hlW", "-d"]).arg(&binary));
        assert!(header.contains(processor.elf), "not for {}: {header}", processor.elf);
        let dynamic = |line: &str| line.contains("INTERP") || line.contains("NEEDED");
        assert!(!header.lines().any(dynamic), "not static: {header}");
        let root = folder.file("deb");
        let mut extract = Command::new("dpkg-deb");
        said(extract.arg("--extract").arg(processor.path(&dist, "deb")).arg(&root));
        said(Command::new("cmp").arg(root.join("usr/bin/proxy")).arg(&binary));
        let Ok(emulator) = std::env::var("EMULATOR") else { continue };
        exercise(&inside, |binary| {
            let mut command = command_of(&emulator);
            command.arg(binary);
            command
        });
    }
}

/// Paths of whoever has built it would be other bytes elsewhere, and are nobody's business.
#[test]
fn the_binary_does_not_name_the_folder_of_its_sources() {
    let Some(dist) = dist() else { return };
    let (_folder, inside) = Processor::here().unpacked(&dist);
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
    for processor in Processor::packed(&dist) {
        assert_deb(processor, &dist);
    }
}

fn assert_deb(processor: &Processor, dist: &Path) {
    let deb = processor.path(dist, "deb");
    let info = said(Command::new("dpkg-deb").arg("--info").arg(&deb));
    for part in [
        " Package: caching-proxy\n",
        &format!(" Version: {VERSION}\n"),
        &format!(" Architecture: {}\n", processor.debian),
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
        "usr/share/man/man1/proxy.1.gz",
        "usr/share/bash-completion/completions/proxy",
        "usr/share/zsh/vendor-completions/_proxy",
        "usr/share/fish/vendor_completions.d/proxy.fish",
    ] {
        assert!(contents.contains(&format!(" ./{path}\n")), "{path} is missing: {contents}");
    }
}

/// What is done with the .deb, in a root that is thrown away.
const INSTALL: &str = r#"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
fail() { echo "$1" >&2; exit 1; }
there() { for path; do [ -e "$path" ] || fail "$path is not there"; done; }
gone() { for path; do [ ! -e "$path" ] || fail "$path is there"; done; }
units=/usr/lib/systemd/system
# Images of containers leave man pages out.
rm -f /etc/dpkg/dpkg.cfg.d/*
# An index of all of them takes half a minute.
rm -f /var/lib/man-db/auto-update
gone /usr/bin/proxy
dpkg --install /package.deb || fail "not installed"
there /usr/bin/proxy $units/proxy.service $units/proxy.socket /etc/default/caching-proxy
there /usr/share/man/man1/proxy.1.gz /usr/share/bash-completion/completions/proxy
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
/// package, `$3` the script.
const IN_A_COPY: &str = r#"
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --bind /dev "$1/root/dev"
cp "$2" "$1/root/package.deb"
exec chroot "$1/root" sh -u -c "$3" sh
"#;

#[test]
fn the_deb_is_installed_and_removed_without_a_trace() {
    let Some(dist) = dist().filter(|_| may("DEB_INSTALLS")) else { return };
    let place = TemporaryFolder::new();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "sh", "-eu", "-c", IN_A_COPY, "sh"]);
    unshare.arg(place.path()).arg(Processor::here().path(&dist, "deb")).arg(INSTALL);
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
    let (_folder, inside) = Processor::here().unpacked(&dist);
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
    let (_folder, inside) = Processor::here().unpacked(&dist);
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
