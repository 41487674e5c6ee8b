//! `proxy help --man`: the manual page, as man and mandoc read it.

use std::process::{Command, Output, Stdio};

use super::support::TemporaryFolder;
use super::support::proxy::run;

/// What a program makes of the page; `None`, and a line that says so, where it is not installed.
fn read_by(program: &str, args: &[&str]) -> Option<Output> {
    let folder = TemporaryFolder::new();
    let page = folder.file("proxy.1");
    let printed = run(&["help", "--man"]);
    assert_eq!((printed.status.code(), &*printed.stderr), (Some(0), &b""[..]));
    std::fs::write(&page, printed.stdout).expect("a file");
    let mut command = Command::new(program);
    // Options for man may stand in the environment.
    command
        .env_remove("MANOPT")
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "100")
        .stdin(Stdio::null());
    match command.args(args).arg(&page).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            None
        }
    }
}

/// The text that is shown, without the bold letters of terminals (letter, backspace, letter).
fn shown(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let mut plain = String::new();
    for letter in text.chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[test]
fn man_shows_the_page_without_a_warning() {
    let Some(output) = read_by("man", &["--warnings", "-l"]) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    let text = shown(&output);
    for part in [
        "proxy - an HTTP caching reverse proxy",
        "--eviction-policy P",
        "proxy purge",
        "[-H 'Name: value']...",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn mandoc_finds_nothing_to_remark() {
    let Some(output) = read_by("mandoc", &["-Tlint"]) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(output.status.success() && output.stderr.is_empty());
}
