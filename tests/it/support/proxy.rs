//! The real binary, running.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use super::origin::Origin;
use super::wire::{Connection, Reply};
use super::{PATIENCE, TemporaryFolder};

/// Which front these tests run over: the module `over_tiny_http` has them all once more.
pub const FRONT: &str = if is_plain(module_path!()) { "tiny-http" } else { "event" };

/// Each event loop has its own connections to the origin server: for tests that count them.
pub const ONE_LOOP: &[&str] = &["--threads", "1"];

const fn is_plain(module: &str) -> bool {
    let (module, plain) = (module.as_bytes(), b"it::over_tiny_http");
    let mut at = 0;
    while at < plain.len() && at < module.len() && plain[at] == module[at] {
        at += 1;
    }
    at == plain.len()
}

/// A running proxy; killed when it is dropped.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    folder: TemporaryFolder,
}

/// The binary, without whatever the environment says about proxies.
pub fn command() -> Command {
    command_of(env!("CARGO_BIN_EXE_proxy"))
}

/// The same for another program.
pub fn command_of(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        if name.to_ascii_lowercase().ends_with("_proxy")
            || name.starts_with("PROXY_")
            || name.starts_with("CACHING_PROXY_")
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    command().args(args).output().expect("the binary runs")
}

impl Proxy {
    pub fn start(args: &[&str]) -> Self {
        let mut command = command();
        command.args(args);
        Self::start_as(command)
    }

    /// Starts it in front of an origin server.
    pub fn before(origin: &Origin, args: &[&str]) -> Self {
        let url = origin.url();
        let mut all = vec!["--origin", &url];
        all.extend_from_slice(args);
        Self::start(&all)
    }

    /// The same over this front, whichever these tests run over.
    pub fn before_over(front: &str, origin: &Origin, args: &[&str]) -> Self {
        let mut command = command();
        command.args(["--origin", &origin.url()]).args(args);
        Self::start_over(front, command, 0)
    }

    /// Starts it on a free port.
    pub fn start_as(command: Command) -> Self {
        Self::start_on(command, 0)
    }

    /// Starts it on this port.
    pub fn start_on(command: Command, port: u16) -> Self {
        Self::start_over(FRONT, command, port)
    }

    fn start_over(front: &str, mut command: Command, port: u16) -> Self {
        let folder = TemporaryFolder::new();
        // Its control socket is its own, unless the test says where.
        if !command.get_envs().any(|(name, _)| name == "XDG_RUNTIME_DIR") {
            command.env("XDG_RUNTIME_DIR", folder.path());
        }
        command.args(["--front", front]);
        let log = File::create(folder.file("stderr")).expect("a file");
        let mut child = command
            .args(["--port", &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address else {
            let log = std::fs::read_to_string(folder.file("stderr")).unwrap_or_default();
            panic!("the proxy did not start: {line:?} {log}");
        };
        Self { child, address: address.parse().expect("an address"), folder }
    }

    /// Runs the binary to its end, as somebody who tells this proxy something.
    pub fn tell(&self, args: &[&str]) -> Output {
        let mut command = command();
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.args(args).output().expect("the binary runs")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, target: &str) -> Reply {
        self.get_with(target, "")
    }

    /// Each field line ends in `\r\n`.
    pub fn get_with(&self, target: &str, fields: &str) -> Reply {
        self.connect().request("GET", target, fields, "").reply()
    }

    pub fn ask(&self, method: &str, target: &str, fields: &str, content: &str) -> Reply {
        let mut connection = self.connect();
        connection.request(method, target, fields, content);
        connection.reply_to(method).expect("a response")
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.file("stderr")).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in the log:\n{}", self.log());
            super::pause();
        }
    }

    /// Its resident memory in KiB, and the highest so far.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    /// Waits until it has so many connections to its address.
    pub fn wait_for_clients(&self, count: usize) {
        let port = format!(":{:04X}", self.address.port());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
            let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
            let established =
                rows.filter(|row| row.len() > 3 && row[1].ends_with(&port) && row[3] == "01");
            if established.count() <= count {
                return;
            }
            assert!(Instant::now() < deadline, "more than {count} connections are left");
            super::pause();
        }
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process").count()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Waits until it has ended, and not for ever.
    pub fn wait_for_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_alive() {
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            super::pause();
        }
    }

    /// Waits for its end; the rest of stdout and all of stderr.
    pub fn wait(&mut self) -> (ExitStatus, String, String) {
        let status = self.child.wait().expect("a child");
        let mut out = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            let _ = stdout.read_to_string(&mut out);
        }
        (status, out, self.log())
    }

    pub fn stop(&mut self) -> (ExitStatus, String, String) {
        self.signal("-TERM");
        self.wait()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
