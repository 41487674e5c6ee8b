//! Each command block of the README and of the documents is run as it stands, in front of a scripted origin server:
//! every command succeeds, and what is printed is what is shown.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::support::origin::{Origin, Step, on, self_signed};
use super::support::proxy::command_of;
use super::support::redis::{Server, programs};
use super::support::{PATIENCE, TemporaryFolder, pause};

/// What the documents call the origin server.
const ORIGINS: [&str; 6] = [
    "https://dummyjson.com",
    "https://api.example.com",
    "http://127.0.0.1:8000",
    "http://127.0.0.1:8011",
    "http://127.0.0.1:5173",
    "http://127.0.0.1:8080",
];
/// Commands that are not run here: they build, install, or are another program's.
const LEFT_OUT: [&str; 6] = ["cargo ", "scripts/", "sudo", "npm ", "apt", "docker "];
/// Documents whose blocks are no recipes: measured ones, and packages, which `scripts/package --check` installs.
const NO_RECIPES: [&str; 3] = ["performance.md", "coming-from.md", "packaging.md"];

/// A command, and the lines that are shown below it.
struct Shown {
    command: String,
    lines: Vec<String>,
}

/// The commands of each block of a document, in order.
fn blocks(text: &str) -> Vec<Vec<Shown>> {
    let (mut all, mut block) = (Vec::new(), None::<(bool, Vec<Shown>)>);
    for line in text.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(language)) => {
                let kind = match language {
                    "sh" => Some(false),
                    "console" => Some(true),
                    _ => None,
                };
                // The lines of other blocks are passed over, up to their fence.
                block = Some((kind == Some(true), Vec::new()));
                if kind.is_none() {
                    block.as_mut().expect("it was just made").1.push(Shown::of(""));
                }
            }
            (Some(_), Some(_)) => {
                let (_, shown) = block.take().expect("it is open");
                if shown.first().is_none_or(|first| !first.command.is_empty()) {
                    all.push(shown);
                }
            }
            (Some((_, shown)), None)
                if shown.first().is_some_and(|first| first.command.is_empty()) => {}
            (Some((true, shown)), None) => match line.trim_start().strip_prefix("$ ") {
                Some(command) => shown.push(Shown::of(command)),
                None => shown.last_mut().expect("a command first").lines.push(line.to_string()),
            },
            (Some((false, shown)), None) => match shown.last_mut() {
                Some(before) if before.command.ends_with('\\') => {
                    before.command.pop();
                    before.command += line.trim();
                }
                _ if line.trim().is_empty() => {}
                _ => shown.push(Shown::of(line.trim())),
            },
            (None, None) => {}
        }
    }
    all
}

impl Shown {
    fn of(command: &str) -> Self {
        Self { command: command.to_string(), lines: Vec::new() }
    }
}

/// Where the commands of one document run: a home of their own, an origin server, and what they have started.
struct Home {
    folder: TemporaryFolder,
    origin: Origin,
    redis: Option<Server>,
    running: Vec<Child>,
    /// `HOST:PORT` of the proxy that was started last, and of its control interface.
    proxy: String,
    admin: String,
}

impl Home {
    fn new() -> Self {
        let folder = TemporaryFolder::new();
        fs::create_dir(folder.file("bin")).expect("a folder");
        let link = std::os::unix::fs::symlink;
        link(env!("CARGO_BIN_EXE_proxy"), folder.file("bin/proxy")).expect("a link");
        fs::write(folder.file("urls.txt"), "/products/1\n/products/2\n").expect("a file");
        fs::write(folder.file("company-ca.pem"), self_signed().1).expect("a file");
        // As Python's own server has it in the README.
        let file = "HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.7\r\n\
                    Date: Thu, 26 Nov 2026 20:52:05 GMT\r\nContent-type: application/json\r\n\
                    Content-Length: 29\r\nLast-Modified: Thu, 26 Nov 2026 20:35:23 GMT\r\n\r\n\
                    {\"id\":1,\"title\":\"a product\"}\n";
        let any = on("GET *any*").send(200, "Content-Type: application/json", "{\"id\":1}");
        let product = on("GET /product.json").then(Step::Send(file.as_bytes().to_vec())).close();
        let origin = Origin::script([product.always(), any.always()]);
        let redis = programs().first().map(|program| Server::start(program));
        let (proxy, admin) = (String::new(), String::new());
        Self { folder, origin, redis, running: Vec::new(), proxy, admin }
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = command_of("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        shell.args(["-euc", command]).current_dir(self.folder.path()).stdin(Stdio::null());
        shell.env("PATH", format!("{}:{path}", self.folder.file("bin").display()));
        shell.env("HOME", self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path());
        shell.env_remove("XDG_CACHE_HOME").env("KEY", "secret");
        shell
    }

    /// The command with the names of this place in it; `None` if it is left out.
    fn here(&self, command: &str) -> Option<String> {
        if LEFT_OUT.iter().any(|other| command.starts_with(other)) {
            return None;
        }
        let program = command.split_whitespace().next().unwrap_or_default();
        if ["curl", "sqlite3"].contains(&program) && !is_installed(program) {
            eprintln!("SKIPPED: there is no {program}: {command}");
            return None;
        }
        let mut command = command.to_string();
        for origin in ORIGINS {
            command = command.replace(origin, &self.origin.url());
        }
        if command.contains("redis://cache.internal") {
            let redis = self.redis.as_ref()?;
            command = command.replace("redis://cache.internal", &redis.url());
        }
        command = command.replace("localhost:3000", &self.proxy);
        command = command.replace("localhost:3001", &self.admin);
        if command.starts_with("proxy top") {
            // It has no end of its own.
            command = command.replacen("proxy top", "proxy top --count 1", 1);
        }
        if let Some(rest) = command.strip_prefix("curl ") {
            command = format!("curl -sS --fail {rest}");
        }
        Some(command)
    }

    /// Runs a command as it is written in a document; what it printed.
    fn run(&mut self, written: &str) -> Option<String> {
        let command = self.here(written)?;
        if serves(&command) {
            self.serve(&command);
            return Some(format!("listening on http://{}\n", self.proxy));
        }
        // A command without an end is a recipe that does not work.
        let command = format!("timeout 60 bash -euc {}", quoted(&command));
        let done = self.shell(&command).output().expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "{written}\n{command}\n{}\n{out}{err}", done.status);
        Some(out)
    }

    /// Starts a proxy on a free port, or in the place of the last one.
    fn serve(&mut self, command: &str) {
        let takes_over = command.contains("--take-over");
        let port = self.proxy.rsplit(':').next().unwrap_or_default();
        let port = if takes_over { port } else { "0" };
        let command = command.split('#').next().unwrap_or_default().trim_end();
        let command = command.replace("127.0.0.1:3001", "127.0.0.1:0");
        let command = format!("{} --port {port}", without_port(&command));
        if !takes_over {
            self.stop();
        }
        let log = self.folder.file(&format!("log{}", self.running.len()));
        let err = File::create(&log).expect("a file");
        let mut shell = self.shell(&format!("exec {command}"));
        let mut child = shell.stdout(Stdio::piped()).stderr(err).spawn().expect("bash runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let told = || fs::read_to_string(&log).unwrap_or_default();
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address else { panic!("{command}: {line}{}", told()) };
        self.proxy = address.to_string();
        self.running.push(child);
        let wanted = "control interface at http://";
        let deadline = Instant::now() + PATIENCE;
        while command.contains("--admin") {
            let told = told();
            if let Some((_, rest)) = told.split_once(wanted) {
                self.admin = rest.lines().next().unwrap_or_default().to_string();
                break;
            }
            assert!(Instant::now() < deadline, "{command}: {told}");
            pause();
        }
    }

    /// Ends the proxies that run.
    fn stop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.running.clear();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command without `--port N`, which is chosen here.
fn without_port(command: &str) -> String {
    let Some((before, after)) = command.split_once("--port ") else { return command.to_string() };
    let after = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
    format!("{before}{after}")
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn is_installed(program: &str) -> bool {
    let asked = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Does this command run a proxy, and end with it?
fn serves(command: &str) -> bool {
    let words = command.strip_prefix("proxy ").map(str::trim_start);
    words.is_some_and(|words| words.starts_with("--") && !words.starts_with("--clear-cache"))
}

/// Are these the lines that were shown? `…` alone stands for any lines, at the end of a line for the rest of it, where
/// numbers may differ, and a date for any date.
fn is_shown(expected: &[String], printed: &[&str]) -> bool {
    let Some((line, rest)) = expected.split_first() else { return printed.is_empty() };
    if line.trim() == "…" {
        return (0..=printed.len()).any(|after| is_shown(rest, &printed[after..]));
    }
    let Some((first, others)) = printed.split_first() else {
        // A document need not show the empty line at the end of what is printed, nor leave its own out.
        return line.is_empty() && is_shown(rest, printed);
    };
    let is_date = |text: &str| text.starts_with("Date:");
    let is_same = match line.strip_suffix('…') {
        Some(begun) => numberless(first).starts_with(&numberless(begun)),
        None => line.trim_end() == first.trim_end() || is_date(line) && is_date(first),
    };
    is_same && is_shown(rest, others)
}

/// A text with one digit for each number.
pub fn numberless(text: &str) -> String {
    let mut all = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if all.ends_with('0') => {}
            '0'..='9' => all.push('0'),
            other => all.push(other),
        }
    }
    all
}

fn try_document(path: &Path) {
    let text = fs::read_to_string(path).expect("a document");
    let mut home = Home::new();
    for block in blocks(&text) {
        // Who asks a proxy, asks one that runs and has something.
        let first = block.iter().find(|shown| home.here(&shown.command).is_some());
        let Some(first) = first else { continue };
        if !serves(&first.command) && !first.command.contains("--take-over") {
            let base = "proxy --port 3000 --origin https://dummyjson.com --admin 127.0.0.1:3001 \
                        --allow-purge 127.0.0.1";
            home.run(base);
            home.run("curl localhost:3000/products/1");
        }
        if first.command.contains("--take-over") {
            home.run("proxy --port 3000 --origin https://dummyjson.com");
        }
        for shown in &block {
            let Some(printed) = home.run(&shown.command) else { continue };
            if shown.lines.is_empty() {
                continue;
            }
            let printed: Vec<&str> = printed.lines().collect();
            assert!(
                is_shown(&shown.lines, &printed),
                "{}: {}\nprints\n{}\nand not\n{}",
                path.display(),
                shown.command,
                printed.join("\n"),
                shown.lines.join("\n")
            );
        }
        home.stop();
    }
}

/// Each script of `examples/recipes` gets something from the cache in the end, or an explanation.
#[test]
fn the_examples_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/recipes");
    let mut tried = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let home = Home::new();
        if name == "start" || !is_installed("curl") || name == "shared" && home.redis.is_none() {
            continue;
        }
        let mut script = home.shell(&path.display().to_string());
        script.env("ORIGIN", home.origin.url());
        if let Some(redis) = &home.redis {
            script.env("REDIS", redis.url());
        }
        let done = script.output().expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "{name}: {}\n{out}{err}", done.status);
        let last = if name == "dev-server" { "This request:" } else { "X-Cache: HIT" };
        assert!(out.contains("X-Cache: MISS") && out.contains(last), "{name}: {out}{err}");
        tried += 1;
    }
    assert!(tried >= 3 || !is_installed("curl"), "examples are missing");
}

#[test]
fn what_the_readme_shows_is_what_happens() {
    try_document(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
}

#[test]
fn what_the_documents_show_is_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut tried = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !NO_RECIPES.contains(&name) {
            try_document(&path);
            tried += 1;
        }
    }
    assert!(tried > 5, "documents are missing");
}
