//! What packages are made of: the units, the image's instructions, the scripts of the .deb, the release workflow.
//! `packages_built.rs` has the packages themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::TemporaryFolder;
use super::support::proxy::{command, run};

/// As `systemd-analyze security` has it, ten times: 2.0.
const EXPOSURE_MAX: &str = "20";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An instruction of a Dockerfile, and the rest of its line.
pub type Instruction = (String, String);

/// The instructions, each on a line of its own. The error names what is none.
pub fn instructions(text: &str) -> Result<Vec<Instruction>, String> {
    const KNOWN: [&str; 7] = ["FROM", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"];
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(' ') {
            Some((name, rest)) if KNOWN.contains(&name) => Ok((name.into(), rest.trim().into())),
            _ => Err(format!("{line:?}; expected one of {KNOWN:?}")),
        })
        .collect()
}

/// The words of the exec form, which no shell reads: there is none in the image.
pub fn exec_form(words: &str) -> Vec<String> {
    serde_json::from_str(words).unwrap_or_else(|error| panic!("{words}: no exec form: {error}"))
}

#[test]
fn the_image_has_two_copies_a_numeric_user_and_no_shell() {
    let all = instructions(&read("packaging/Dockerfile")).expect("a Dockerfile");
    let of = |name: &str| -> Vec<&str> {
        all.iter().filter(|(one, _)| one == name).map(|(_, rest)| &**rest).collect()
    };
    assert_eq!((&*all[0].0, of("FROM")), ("FROM", vec!["scratch"]));
    assert_eq!(of("COPY"), ["--chown=65532:65532 container/ /", "proxy /proxy"]);
    // Kubernetes knows only of numbers that they are not root's.
    assert_eq!(of("USER"), ["65532:65532"]);
    assert_eq!(of("EXPOSE"), ["3000"]);
    assert_eq!(of("ENV"), ["CACHING_PROXY_HOST=0.0.0.0", "XDG_RUNTIME_DIR=/run"]);
    assert_eq!(of("ENTRYPOINT").len(), 1);
    assert_eq!(exec_form(of("ENTRYPOINT")[0]), ["/proxy"]);
    let (_, check) = of("HEALTHCHECK")[0].split_once("CMD ").expect("a command");
    assert_eq!(exec_form(check), ["/proxy", "stats", "--quiet"]);
    assert!(instructions("RUN true").is_err());
}

/// The units in a folder, with the binary that there is.
fn units() -> (TemporaryFolder, Vec<PathBuf>) {
    let folder = TemporaryFolder::new();
    let service = read("packaging/proxy.service");
    let start = format!("ExecStart={} --origin", env!("CARGO_BIN_EXE_proxy"));
    assert!(service.contains("\nExecStart=proxy --origin ${CACHING_PROXY_ORIGIN}\n"));
    let texts = [
        ("proxy.service", service.replace("ExecStart=proxy --origin", &start)),
        ("proxy.socket", read("packaging/proxy.socket")),
    ];
    let paths = texts.map(|(name, text)| {
        std::fs::write(folder.file(name), text).expect("a file");
        folder.file(name)
    });
    (folder, paths.into())
}

/// Runs systemd-analyze; stdout, stderr and whether it succeeded. `None` where it is not there, or has no such option.
fn analyze(option: &str, words: &[&str], units: &[PathBuf]) -> Option<(String, bool)> {
    let help = Command::new("systemd-analyze").arg("--help").output().ok()?;
    if !String::from_utf8_lossy(&help.stdout).contains(option) {
        println!("systemd-analyze has no {option}");
        return None;
    }
    let output = Command::new("systemd-analyze").args(words).args(units).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    Some((String::from_utf8_lossy(&text).into_owned(), output.status.success()))
}

#[test]
fn systemd_accepts_the_units_and_finds_them_confined() {
    let (_folder, units) = units();
    let Some((told, accepted)) = analyze("--man", &["verify", "--man=no"], &units) else {
        println!("no systemd-analyze: the units were not checked");
        return;
    };
    // It reads the machine's own units, too, and tells of those.
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("proxy.")).collect();
    assert!(accepted && ours.is_empty(), "{told}");
    let words = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX];
    if let Some((told, confined)) = analyze("--offline", &words, &units[..1]) {
        let last = told.lines().last().unwrap_or_default();
        println!("{last}");
        assert!(confined && last.contains("exposure level for proxy.service"), "{told}");
    }
}

/// The variables of the service's file, those that are commented out among them.
fn variables() -> BTreeMap<String, String> {
    let text = read("packaging/environment");
    let lines = text.lines().map(|line| line.trim_start_matches('#'));
    let set = lines.filter(|line| line.starts_with("CACHING_PROXY_"));
    set.filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[cfg(feature = "sqlite")]
#[test]
fn the_variables_of_the_service_are_flags() {
    let variables = variables();
    assert_eq!(variables["CACHING_PROXY_HOST"], "0.0.0.0");
    let help = String::from_utf8(run(&["--help"]).stdout).expect("text");
    for name in variables.keys() {
        let flag = name.trim_start_matches("CACHING_PROXY").replace('_', "-").to_lowercase();
        assert!(help.contains(&format!(" -{flag} ")), "{name}: no such flag: -{flag}");
    }
    // The values are read; what is asked for afterwards needs no proxy that runs.
    let mut stats = command();
    let output = stats.envs(&variables).args(["stats", "--quiet"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// `--origin ${CACHING_PROXY_ORIGIN}` of the unit, without the variable.
#[test]
fn the_service_says_that_it_needs_an_origin_server() {
    let output = run(&["--origin", ""]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--origin") && told.contains("http"), "{told}");
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
}

#[test]
fn the_scripts_of_the_package_are_shell() {
    for name in ["postinst", "prerm", "postrm"] {
        let path = root().join("packaging/debian").join(name);
        assert!(read(&format!("packaging/debian/{name}")).starts_with("#!/bin/sh\n"), "{name}");
        let output = Command::new("sh").arg("-n").arg(path).output().expect("a shell");
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn shell_scripts_have_no_known_mistakes() {
    let listed = Command::new("git").args(["grep", "-lE", "^#!.*sh$"]).current_dir(root()).output();
    let Ok(listed) = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        println!("no git: shell scripts were not checked");
        return;
    };
    let Ok(output) = Command::new("shellcheck").args(listed.lines()).current_dir(root()).output()
    else {
        println!("no shellcheck: shell scripts were not checked");
        return;
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() || listed.is_empty(), "{told}");
}

#[test]
fn unknown_words_are_wrong_usage_of_the_scripts() {
    for (script, words) in [
        ("package", &["--chekc"][..]),
        ("package", &["--twice"]),
        ("package", &["--check", "--twice", "x"]),
        ("build-static", &["--target"]),
        ("build-static", &["--check", "x"]),
    ] {
        let path = root().join("scripts").join(script);
        let output = Command::new(path).args(words).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{script} {words:?}: {told}");
        assert!(
            told.starts_with(&format!("{script}: --")) && told.contains("; expected "),
            "{told}"
        );
    }
}

/// An action that is named by a tag can be another one tomorrow.
#[test]
fn the_release_workflow_pins_its_actions_and_may_little() {
    let text = read(".github/workflows/release.yml");
    let uses: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("uses: "))
        .map(|(_, action)| action)
        .collect();
    assert!(!uses.is_empty(), "no action");
    for action in uses {
        let commit = action
            .split_once('@')
            .map_or("", |(_, rest)| rest.split(' ').next().unwrap_or_default());
        let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_commit, "{action}: not pinned by its commit");
    }
    assert!(
        text.contains("\npermissions:\n  contents: read\n"),
        "what may be written is said by job"
    );
    assert!(text.contains("tags: [\"v*\"]"), "a release is a tag");
}

/// The workflow has each command from the scripts' own usage, and installs what they would leave something out without.
#[test]
fn the_release_workflow_calls_scripts_as_they_are_used_and_leaves_nothing_out() {
    let text = read(".github/workflows/release.yml");
    let of_scripts =
        text.split("scripts/").skip(1).map(|rest| rest.lines().next().expect("a line"));
    let mut called: Vec<&str> = of_scripts.collect();
    called.sort_unstable();
    assert_eq!(called, ["package --check --twice", "test"]);
    for command in called {
        let (script, words) = command.split_once(' ').unwrap_or((command, ""));
        let usage = read(&format!("scripts/{script}"));
        let usage = usage.lines().skip(1).take_while(|line| line.starts_with('#'));
        let mut uses =
            usage.filter_map(|line| line.strip_prefix(&*format!("#   scripts/{script}")));
        // Two spaces part a command from what it does.
        let is_use = |line: &str| line.split("  ").next().unwrap_or_default().trim() == words;
        assert!(uses.any(is_use), "scripts/{script} has no {words:?}");
    }
    let installed: Vec<&str> = text
        .split("apt-get install")
        .nth(1)
        .and_then(|rest| rest.split("- run:").next())
        .expect("packages")
        .split_whitespace()
        .collect();
    // Each is a package that a script or a test names where it SKIPS something, or leaves it OUT.
    for package in [
        "gcc-aarch64-linux-gnu",
        "libc6-dev-arm64-cross",
        "qemu-user",
        "lintian",
        "adduser",
        "systemd",
        "redis-server",
        "redis-tools",
        "shellcheck",
        "zsh",
        "fish",
        "man-db",
        "mandoc",
    ] {
        assert!(installed.contains(&package), "{package} is not installed: {installed:?}");
    }
    assert!(text.contains("--target aarch64-unknown-linux-gnu"), "no target of Rust for aarch64");
}
