//! The ratios of `scripts/bench --hits-of`, which replays a trace: in a cache that holds all of it, they follow from
//! the trace alone. Without Python, the tests say so and do nothing.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::TemporaryFolder;
use super::support::proxy::command_of;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// A script, to be run by Python; `None` where that, or what pins processes to a core, is missing.
fn script(name: &str) -> Option<Command> {
    for program in ["python3", "taskset"] {
        let mut version = Command::new(program);
        let version = version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().is_ok_and(|status| status.success()) {
            println!("SKIPPED: {name} is not tested: there is no {program}");
            return None;
        }
    }
    let mut command = command_of("python3");
    command.arg(Path::new(SCRIPTS).join(name));
    Some(command)
}

/// Runs it to its end; what it has printed.
fn printed(mut command: Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn synthetic(seed: &str, requests: &str) -> Option<String> {
    let mut command = script("synthetic_trace.py")?;
    command.args([seed, requests]);
    Some(printed(command))
}

/// Requests, bytes and hundredths of a millisecond, of all requests and of the first for each id.
fn sums(trace: &str) -> ([u64; 3], [u64; 3]) {
    let (mut all, mut first) = ([0; 3], [0; 3]);
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, size, cost] = words[..] else { panic!("{line}: not of three words") };
        let add = |sums: &mut [u64; 3]| {
            sums[0] += 1;
            sums[1] += size.parse::<u64>().expect("bytes");
            sums[2] += cost.replace('.', "").parse::<u64>().expect("hundredths");
        };
        add(&mut all);
        match seen.insert(id, line) {
            None => add(&mut first),
            Some(before) => assert_eq!(before, line, "an id keeps its size and its cost"),
        }
    }
    (all, first)
}

#[test]
fn cache_that_holds_the_whole_trace_hits_all_but_first_requests() {
    let Some(trace) = synthetic("1", "500") else { return };
    let Some(mut bench) = script("bench") else { return };
    let folder = TemporaryFolder::new();
    let file = folder.file("tiny.txt");
    std::fs::write(&file, &trace).expect("a file");
    bench.arg("--hits-of").arg(&file).args(["--binary", env!("CARGO_BIN_EXE_proxy")]);
    bench.args(["--memory", "1G", "--policies", "cost,s3-fifo,lru", "--peers", "none"]);
    let text = printed(bench);

    let (all, first) = sums(&trace);
    assert!(first[0] < all[0] && all[0] == 500, "{all:?}, {first:?}: nothing is asked for twice");
    let ratio = |at: usize| format!("{:.2}", 100.0 * (1.0 - first[at] as f64 / all[at] as f64));
    for policy in ["cost", "s3-fifo", "lru"] {
        let row = format!("| proxy, {policy} | {} | {} | {} | ", ratio(0), ratio(1), ratio(2));
        assert!(text.contains(&row), "{row}\nis not in\n{text}");
    }
}

#[test]
fn synthetic_trace_follows_from_its_seed() {
    let Some(trace) = synthetic("7", "300") else { return };
    let lines: Vec<&str> = trace.lines().collect();
    let same = synthetic("7", "200").expect("it ran before");
    assert_eq!(same.lines().collect::<Vec<_>>(), lines[..200], "a shorter trace is its beginning");
    assert_ne!(synthetic("8", "300").expect("it ran before"), trace);
}
