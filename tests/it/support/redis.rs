//! Real Redis and Valkey servers on free ports, ended by their process id.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{PATIENCE, TemporaryFolder};

/// What a server's log says when it listens.
const READY: &str = "Ready to accept connections";

/// A running server.
pub struct Server {
    child: Child,
    program: String,
    flags: Vec<String>,
    pub port: u16,
    folder: TemporaryFolder,
}

/// The servers that are installed; what needs one is left out where there is none, and `scripts/test` says
/// so.
pub fn programs() -> Vec<&'static str> {
    let installed = |program: &&str| {
        let asked = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    let found: Vec<_> = ["redis-server", "valkey-server"].into_iter().filter(installed).collect();
    if found.is_empty() {
        eprintln!("SKIPPED: neither redis-server nor valkey-server is installed");
    }
    found
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Server {
    pub fn start(program: &str) -> Self {
        Self::start_with(program, &[])
    }

    /// Starts it with more flags; `PORT` among them is its port, `BUS` another one that is free.
    pub fn start_with(program: &str, flags: &[&str]) -> Self {
        for _ in 0..10 {
            let folder = TemporaryFolder::new();
            let port = free_port();
            let flags: Vec<String> = flags
                .iter()
                .map(|flag| {
                    flag.replace("PORT", &port.to_string()).replace("BUS", &free_port().to_string())
                })
                .collect();
            let mut child = spawn(program, port, &folder, &flags);
            if is_up(&mut child, &folder, READY) {
                return Self { child, program: program.to_string(), flags, port, folder };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{program} does not start");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Ends it, with all it knows.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on the same port.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.child = spawn(&self.program, self.port, &self.folder, &self.flags);
            if is_up(&mut self.child, &self.folder, READY) {
                return;
            }
            assert!(Instant::now() < deadline, "it does not start again");
            self.stop();
        }
    }

    /// Where it writes its files.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What the server answers to a command.
    pub fn ask(&self, words: &[&str]) -> redis::Value {
        self.try_ask(words).expect("an answer")
    }

    /// The same, or the error that it answers.
    pub fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection().expect("it runs");
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut connection)
    }
}

fn spawn(program: &str, port: u16, folder: &TemporaryFolder, flags: &[String]) -> Child {
    let (port, path) = (port.to_string(), folder.path().display().to_string());
    let usual = ["--port", &port, "--bind", "127.0.0.1", "--dir", &path, "--save", ""];
    let mut command = Command::new(program);
    // Flags may say that there is no port but one for TLS.
    command.args(usual).args(["--appendonly", "no"]).args(flags);
    let log = File::create(log_of(folder)).expect("a file");
    command.stdout(log).stderr(Stdio::null()).stdin(Stdio::null());
    command.spawn().expect("it is installed")
}

fn log_of(folder: &TemporaryFolder) -> PathBuf {
    folder.file("server.log")
}

/// Waits until this very server listens; false if it has ended. A connection alone would prove nothing: the
/// port was free a moment ago, and whoever has taken it meanwhile accepts connections, too.
fn is_up(child: &mut Child, folder: &TemporaryFolder, sign: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let has_ended = child.try_wait().expect("a child").is_some();
        let log = fs::read(log_of(folder)).unwrap_or_default();
        if String::from_utf8_lossy(&log).contains(sign) {
            return !has_ended;
        }
        if has_ended {
            return false;
        }
        super::pause();
    }
    false
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Three nodes that are one cluster, and its URL; `None` if the tool that makes one is not there.
pub fn cluster() -> Option<(Vec<Server>, String)> {
    let program = *programs().first()?;
    let nodes: Vec<Server> = (0..3).map(|_| cluster_node(program)).collect();
    let addresses: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let tool = program.replace("-server", "-cli");
    let made = Command::new(&tool)
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-replicas", "0", "--cluster-yes"])
        .stdin(Stdio::null())
        .output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: {tool} is not installed");
        return None;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    let deadline = Instant::now() + PATIENCE;
    let is_ok = |node: &Server| {
        let redis::Value::BulkString(info) = node.ask(&["CLUSTER", "INFO"]) else { return false };
        String::from_utf8_lossy(&info).contains("cluster_state:ok")
    };
    while !nodes.iter().all(is_ok) {
        assert!(Instant::now() < deadline, "the cluster does not come together");
        super::pause();
    }
    let url = format!("redis+cluster://{}", addresses.join(","));
    Some((nodes, url))
}

fn cluster_node(program: &str) -> Server {
    // The port of its bus is its own plus 10,000, unless it is said.
    let bus = free_port().to_string();
    let flags =
        ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "5000"];
    Server::start_with(program, &flags)
}

/// A Sentinel that watches over the primary on `port` by the name of `main`. It asks for the user `u` and the
/// password `secret` if it `is_closed`.
pub fn sentinel(program: &str, watched: u16, is_closed: bool) -> Server {
    for _ in 0..10 {
        let (folder, port) = (TemporaryFolder::new(), free_port());
        let path = folder.path().display().to_string();
        let users =
            if is_closed { "user u on >secret ~* &* +@all\nuser default off\n" } else { "" };
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {path}\n{users}sentinel monitor main 127.0.0.1 {watched} 2\n\
            sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n\
            sentinel sentinel-user u\nsentinel sentinel-pass secret\n"
        );
        let file = folder.file("sentinel.conf");
        fs::write(&file, settings).expect("a file");
        let log = File::create(log_of(&folder)).expect("a file");
        let mut command = Command::new(program);
        command.arg(&file).arg("--sentinel").stdout(log).stderr(Stdio::null());
        let mut child = command.stdin(Stdio::null()).spawn().expect("it is installed");
        if is_up(&mut child, &folder, "+monitor master main") {
            let (program, flags) = (program.to_string(), Vec::new());
            return Server { child, program, flags, port, folder };
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("{program} does not start as a Sentinel");
}
