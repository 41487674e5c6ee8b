//! `proxy`: parse, configure, dispatch.
//!
//! Every exit code is decided here: 0 when all went well, a signal included; 1 when it could not start,
//! or a command failed; 2 for wrong usage. (130 after a second signal is `daemon`'s, which then ends at
//! once.)

use std::io::Write;
use std::process::ExitCode;

use caching_proxy::cli::config::Config;
use caching_proxy::cli::environment::unknown_variables;
use caching_proxy::cli::{Args, Command, Task, UsageError, features, parse};
use caching_proxy::message::visible::visible_lines;

mod commands;
mod daemon;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).collect();
    let command = parse(words, |name| std::env::var_os(name));
    let config = match command {
        Ok(Command::Help(text)) => return say(&text),
        Ok(Command::Version) => {
            return say(&format!("proxy {}{}\n", env!("CARGO_PKG_VERSION"), features::note()));
        }
        Ok(Command::Do(args, task)) => {
            note(&args);
            return match Config::new(&args) {
                Ok(config) => run(&config, &task),
                Err(error) => usage(&error),
            };
        }
        Ok(Command::Serve(args)) => {
            note(&args);
            Config::new(&args)
        }
        Err(error) => Err(error),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    match daemon::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {}", visible_lines(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Prints the notes about environment variables: on stderr, because stdout is for the result.
fn note(args: &Args) {
    let unknown = unknown_variables(std::env::vars_os().map(|(name, _)| name));
    for note in args.notes().iter().chain(&unknown) {
        eprintln!("proxy: {}", visible_lines(note));
    }
}

/// Prints what is wrong with the command line; exit code 2.
fn usage(error: &UsageError) -> ExitCode {
    eprintln!("proxy: {}", visible_lines(&error.to_string()));
    ExitCode::from(2)
}

/// Runs a command other than serving: exit code 0 if it was done.
fn run(config: &Config, task: &Task) -> ExitCode {
    // A command's output is its result; what the store has to say is shown only if it is a warning.
    daemon::log_lines::to_stderr(config.log_level.min(log::LevelFilter::Warn));
    match commands::run(config, task) {
        // JSON is for programs, and says everything as it is.
        Ok(text) if task.prints_json() => say(&text),
        Ok(text) => say(&visible_lines(&text)),
        Err(text) => {
            // One line says what is wrong; more of them are a report.
            let name = if text.trim_end().contains('\n') { "" } else { "proxy: " };
            eprintln!("{name}{}", visible_lines(text.trim_end()));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout. A reader that has gone away (`proxy --help | head -1`) is no error.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
