//! Threads that the process cannot do without: event loops, the timer, those that write.
//!
//! A process that has lost one of them looks well and is not: it accepts and never answers, or stores
//! nothing more. Whoever started the process can start it again, if it ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::thread;

/// Starts a thread. If it panics, or its work returns an error, the process ends: exit code 1 and one
/// line.
pub fn spawn(
    name: &str,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> io::Result<()> {
    let called = name.to_string();
    let run = move || {
        if let Err(what) = outcome(work) {
            // Not by the log: it may be off, or be what has failed.
            eprintln!("proxy: the thread {called}: {what}; the process ends");
            process::exit(1);
        }
    };
    thread::Builder::new().name(name.to_string()).spawn(run).map(drop)
}

/// The outcome of the work; the error is why the thread cannot go on.
fn outcome(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    // Whatever the panic has left half done, nobody will use it: the process ends.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "a panic".to_string());
        // One line, as of every error that ends the process.
        Err(text.lines().next().unwrap_or_default().to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The process in which a thread ends.
    #[test]
    #[ignore = "the other test runs it"]
    fn a_process_whose_thread_ends() {
        let how = std::env::var("THREAD_ENDS").unwrap_or_default();
        let work = move || match how.as_str() {
            "panic" => panic!("no {}\nmore", "luck"),
            "error" => Err("waiting for clients: bad descriptor".to_string()),
            _ => Ok(()),
        };
        spawn("loop-0", work).expect("a thread");
        if std::env::var("THREAD_ENDS").is_ok_and(|how| how != "well") {
            loop {
                thread::park();
            }
        }
    }

    #[test]
    fn a_thread_that_must_not_end_takes_the_process_with_it() {
        for (how, code, line) in [
            ("panic", Some(1), "proxy: the thread loop-0: no luck; the process ends"),
            (
                "error",
                Some(1),
                "proxy: the thread loop-0: waiting for clients: bad descriptor; the process ends",
            ),
            ("well", Some(0), ""),
        ] {
            let program = std::env::current_exe().expect("a path");
            let output = Command::new(program)
                .args(["--exact", "vital::tests::a_process_whose_thread_ends"])
                .args(["--ignored", "--nocapture"])
                .env("THREAD_ENDS", how)
                .output()
                .expect("it runs");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), code, "{how}: {told}");
            assert!(line.is_empty() || told.lines().any(|other| other == line), "{how}: {told}");
        }
    }
}
