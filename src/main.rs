//! `proxy`: parse, configure, start, wait. Every exit code is decided here: 0 after a signal, 1 when
//! it could not start, 2 for wrong usage.

use std::io::Write;
use std::process::ExitCode;

use caching_proxy::cli::{Command, UsageError, help, parse};
use caching_proxy::config::Config;

mod explain;
mod start;
mod stores;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).collect();
    let command = parse(words, |name| std::env::var_os(name));
    let config = match command {
        Ok(Command::Help) => {
            return say(&help());
        }
        Ok(Command::Version) => {
            return say(concat!("proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Ok(Command::Explain { args, target, fields }) => {
            return match Config::new(&args) {
                Ok(config) => explain(&config, &target, &fields),
                Err(error) => usage(&error),
            };
        }
        Ok(Command::Serve(args)) => Config::new(&args),
        Err(error) => Err(error),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    match start::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &UsageError) -> ExitCode {
    eprintln!("proxy: {error}");
    ExitCode::from(2)
}

/// `proxy explain`: 0 if the origin server answered, whatever it said.
fn explain(config: &Config, target: &str, fields: &[String]) -> ExitCode {
    let told = start::for_one_request(config).map_err(|error| format!("proxy: {error}\n"));
    let told = told.and_then(|(proxy, host)| {
        let request = explain::request(target, fields, &host);
        let request = request.map_err(|error| format!("proxy: {error}\n"))?;
        explain::explain(&proxy, request)
    });
    match told {
        Ok(text) => say(&text),
        Err(text) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout; a reader that has gone away (`proxy --help | head -1`) is no error.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
