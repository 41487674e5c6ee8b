//! `proxy completions SHELL`: each shell that is installed completes with it, in a process of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::TemporaryFolder;
use super::support::proxy::{command, run};
use super::support::terminal::any_in_terminal;

/// Where a line ends, what must be offered there, and what must not. `FILES` is a folder with two files.
const CASES: [(&str, &[&str], &[&str]); 13] = [
    ("", &["purge", "warm", "completions", "help"], &["FILES/a.har"]),
    ("ex", &["explain", "export"], &["purge"]),
    ("--port 3000 st", &["stats"], &["export"]),
    ("--evic", &["--eviction-policy"], &["--port"]),
    ("--eviction-policy ", &["cost", "s3-fifo", "lru", "entire", "none"], &["purge"]),
    ("--cache-mode o", &["offline"], &["standard"]),
    ("--front ", &["event", "tiny-http"], &["purge"]),
    ("--ca-cert FILES/a", &["FILES/a.har", "FILES/a b.har"], &[]),
    ("export FILES/a", &["FILES/a.har", "FILES/a b.har"], &[]),
    ("purge --p", &["--port", "--prefix"], &["--json"]),
    ("explain --cache-m", &["--cache-mode", "--cache-memory"], &[]),
    ("help exp", &["explain", "export"], &[]),
    ("completions ", &["bash", "zsh", "fish"], &["purge"]),
];

/// A program of the shell; `None`, and a line that says so, where there is none.
fn shell(name: &str, home: &Path) -> Option<Command> {
    let asked = Command::new(name).arg("--version").stdout(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: {name} is not installed");
        return None;
    }
    let mut shell = Command::new(name);
    shell.stdin(Stdio::null()).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
    // Their histories and settings are not those of whoever runs the tests.
    for variable in ["HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
        shell.env(variable, home);
    }
    Some(shell)
}

/// What the shell offers at the end of each line; it prints `==` before each.
fn offered(mut shell: Command) -> Vec<BTreeSet<String>> {
    let output = shell.output().expect("the shell runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{shell:?}: {out} {err}");
    // fish adds a tab and the meaning.
    let word = |line: &str| line.split('\t').next().unwrap_or_default().to_string();
    out.split("==\n").skip(1).map(|part| part.lines().map(word).collect()).collect()
}

/// Asks all cases of one process; `asks` gives it what it is to do with a script and lines.
fn completes(name: &str, asks: impl Fn(&mut Command)) {
    let folder = TemporaryFolder::new();
    let Some(mut shell) = shell(name, folder.path()) else { return };
    let script = folder.file("script");
    let output = run(&["completions", name]);
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    std::fs::write(&script, output.stdout).expect("a file");
    let files = folder.path().to_str().expect("text");
    for file in ["a.har", "a b.har"] {
        std::fs::write(folder.file(file), "").expect("a file");
    }
    asks(&mut shell);
    shell.arg(&script);
    shell.args(CASES.map(|(line, ..)| format!("proxy {}", line.replace("FILES", files))));
    let offered = offered(shell);
    assert_eq!(offered.len(), CASES.len(), "{name}");
    for ((line, expected, others), seen) in CASES.iter().zip(offered) {
        // zsh offers the names of files without their folder, and fish with the space escaped.
        let is_offered = |word: &&&str| {
            let whole = word.replace("FILES", files);
            let alone = word.replace("FILES/", "");
            let escaped = [whole.replace(' ', "\\ "), alone.replace(' ', "\\ ")];
            escaped.iter().chain([&whole, &alone]).any(|word| seen.contains(word))
        };
        assert_eq!(
            expected.iter().find(|word| !is_offered(word)),
            None,
            "{name}: {line}: {seen:?}"
        );
        assert_eq!(others.iter().find(is_offered), None, "{name}: {line}: {seen:?}");
    }
}

#[test]
fn bash_completes() {
    // As bash calls the function, with the words of the line.
    const ASKED: &str = "source \"$1\"; for line in \"${@:2}\"; do echo ==; read -ra COMP_WORDS <<<\"$line\"; \
        [[ $line == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _proxy; \
        ((${#COMPREPLY[@]} == 0)) || printf '%s\\n' \"${COMPREPLY[@]}\"; done";
    completes("bash", |shell| {
        shell.args(["--norc", "--noprofile", "-c", ASKED, "bash"]);
    });
}

/// Where somebody types: what is completed is quoted, and a flag is taken apart at its "=".
#[test]
fn bash_completes_in_a_terminal() {
    let folder = TemporaryFolder::new();
    let Some(_) = shell("bash", folder.path()) else { return };
    std::fs::write(folder.file("script"), run(&["completions", "bash"]).stdout).expect("a file");
    std::fs::write(folder.file("a b.har"), "").expect("a file");
    let line = "bash --norc --noprofile -i";
    let Some(mut bash) = any_in_terminal(folder.path(), (200, 24), line, &[]) else { return };
    bash.wait_for("bash-");
    // Ctrl-U takes the line away again.
    bash.press("cd; source ./script\n");
    bash.press("proxy --evic\t");
    bash.wait_for("tion-policy ");
    bash.press("\x15proxy export a\t");
    bash.wait_for("a\\ b.har ");
    bash.press("\x15proxy --cache-mode=of\t");
    bash.wait_for("offline ");
    bash.press("\x15exit\n");
    let (status, shown) = bash.finish();
    assert!(status.success(), "{shown:?}");
}

/// Its words are split at the "=", too.
#[test]
fn bash_completes_values_behind_an_equals_sign() {
    const ASKED: &str = "source <(\"$1\" completions bash); COMP_WORDS=(proxy --cache-mode = f); \
        COMP_CWORD=3; _proxy; echo \"${COMPREPLY[@]}\"; COMP_WORDS=(proxy --cache-mode =); COMP_CWORD=2; _proxy; \
        echo \"${COMPREPLY[@]}\"; complete -p proxy";
    let folder = TemporaryFolder::new();
    let Some(mut shell) = shell("bash", folder.path()) else { return };
    let program = env!("CARGO_BIN_EXE_proxy");
    let seen = shell.args(["--norc", "--noprofile", "-c", ASKED, "bash", program]).output();
    let seen = String::from_utf8(seen.expect("it runs").stdout).expect("text");
    assert_eq!(seen, "force\nstandard force offline\ncomplete -F _proxy proxy\n");
}

#[test]
fn zsh_completes() {
    let folder = TemporaryFolder::new();
    let capture = folder.file("completions.zsh");
    std::fs::write(&capture, include_str!("completions.zsh")).expect("a file");
    completes("zsh", |shell| {
        shell.arg("-f").arg(&capture);
    });
}

#[test]
fn fish_completes() {
    const ASKED: &str =
        "source $argv[1]; for line in $argv[2..-1]; echo ==; complete -C $line; end";
    completes("fish", |shell| {
        shell.args(["--no-config", "-c", ASKED]);
    });
}

#[test]
fn another_shell_is_one_line_and_exit_code_2() {
    #[rustfmt::skip]
    let table: [(&[&str], &str); 4] = [
        (&["tcsh"], "proxy: completions: \"tcsh\"; expected bash, zsh, fish\n"),
        (&[], "proxy: completions: a word is missing; expected proxy completions bash|zsh|fish\n"),
        (&["bash", "zsh"], "proxy: completions: 2 words that are no flags; expected proxy completions bash|zsh|fish\n"),
        (&["--shell"], "proxy: --shell: unknown flag; did you mean --help?\n"),
    ];
    for (words, expected) in table {
        let output = command().arg("completions").args(words).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*told), (Some(2), expected), "{words:?}");
        assert!(output.stdout.is_empty());
    }
}
