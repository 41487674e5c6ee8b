//! A program in a terminal: `script` of util-linux makes one.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::PATIENCE;
use super::proxy::command_of;

/// A program that runs in a terminal, and what it has shown there so far.
pub struct InTerminal {
    child: Child,
    keys: ChildStdin,
    shown: Vec<u8>,
}

/// Runs the binary in a terminal of this size; its control sockets are in `folder`. `None`, and a line that says
/// so, where there is no `script`.
pub fn in_terminal(
    folder: &Path,
    size: (u16, u16),
    args: &str,
    settings: &[(&str, &str)],
) -> Option<InTerminal> {
    let line = format!("'{}' {args}", env!("CARGO_BIN_EXE_proxy"));
    any_in_terminal(folder, size, &line, settings)
}

/// The same for any command line.
pub fn any_in_terminal(
    folder: &Path,
    (columns, rows): (u16, u16),
    line: &str,
    settings: &[(&str, &str)],
) -> Option<InTerminal> {
    let asked = Command::new("script").arg("--version").stdout(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: script (util-linux) is not installed");
        return None;
    }
    let line = format!("stty cols {columns} rows {rows}; exec {line}");
    let mut command = command_of("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("SHELL", "/bin/sh").env("TERM", "xterm").env_remove("NO_COLOR");
    command.env("XDG_RUNTIME_DIR", folder).env("HOME", folder);
    command.envs(settings.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("script runs");
    let keys = child.stdin.take().expect("a pipe");
    Some(InTerminal { child, keys, shown: Vec::new() })
}

impl InTerminal {
    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it takes them");
    }

    /// Waits until this has been shown.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not shown: {:?}", self.text());
            let mut piece = [0; 4096];
            let count = self.child.stdout.as_mut().expect("a pipe").read(&mut piece);
            let count = count.expect("the terminal");
            assert!(count > 0, "it has ended without {text:?}: {:?}", self.text());
            self.shown.extend_from_slice(&piece[..count]);
        }
    }

    /// The process of the terminal's program.
    pub fn pid(&self) -> u32 {
        let file = format!("/proc/{0}/task/{0}/children", self.child.id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let children = std::fs::read_to_string(&file).expect("a process");
            if let Some(pid) = children.split_whitespace().next() {
                return pid.parse().expect("a number");
            }
            assert!(Instant::now() < deadline, "it does not start");
            super::pause();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits for its end: its status, and everything that it has shown.
    pub fn finish(mut self) -> (ExitStatus, String) {
        self.child
            .stdout
            .as_mut()
            .expect("a pipe")
            .read_to_end(&mut self.shown)
            .expect("the terminal");
        let status = self.child.wait().expect("a child");
        (status, self.text())
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
