//! The command line: which words were given, and what they ask for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use pico_args::Arguments;

use crate::cli::arguments::{Args, unknown};
use crate::cli::commands::{self, COMMANDS};
use crate::cli::error::UsageError;
use crate::cli::flags::Flag;
use crate::cli::task::Task;
use crate::cli::{completions, flags, help, manual, task};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// `--help`, `-h` or `help`, alone or with a command, or `completions`: the text that is printed.
    Help(String),
    /// `--version`
    Version,
    /// Run the proxy.
    Serve(Args),
    /// Anything else, with the flags as for running the proxy.
    Do(Args, Task),
}

/// Reads the command line and, through `variable`, the environment.
pub fn parse(
    words: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let mut words = Arguments::from_vec(words.into_iter().flat_map(apart).collect());
    // Before anything else: help must be had in the middle of a line that is wrong.
    let (is_short, is_long) = (words.contains("-h"), words.contains("--help"));
    if is_short || is_long {
        let name = words.subcommand().ok().flatten();
        let own = name.and_then(|name| help::of_command(&name));
        return Ok(Command::Help(match own {
            Some(own) => own,
            None if is_long => help::long(),
            None => help::short(),
        }));
    }
    if words.contains(["-V", "--version"]) {
        return Ok(Command::Version);
    }
    // A port or a host is a "subcommand" for pico_args, too: the word stays where it is unless it is a command.
    let mut rest = words.clone();
    if let Ok(Some(name)) = rest.subcommand() {
        if name == "help" {
            if rest.contains("--man") {
                return Ok(Command::Help(manual::page()));
            }
            return help_about(&rest.finish()).map(Command::Help);
        }
        if name == "completions" {
            return completions_for(rest).map(Command::Help);
        }
        if let Some(read) = task::read(&name, rest, &variable) {
            return read.map(|(args, task)| Command::Do(args, task));
        }
    }
    let mut args = Args::read(&mut words, variable)?;
    positional(&mut args, words.finish())?;
    if args.is_on("--clear-cache") {
        return Ok(Command::Do(args, Task::Clear));
    }
    Ok(Command::Serve(args))
}

/// The help of the command, or of the flag, that is named; all of it if none is.
fn help_about(words: &[OsString]) -> Result<String, UsageError> {
    let Some(word) = words.first() else { return Ok(help::long()) };
    let word = word.to_string_lossy();
    let about = help::of_command(&word).or_else(|| help::of_flag(&word));
    about.ok_or_else(|| UsageError::NoHelp(word.into_owned()))
}

/// The script for the shell that is named.
fn completions_for(words: Arguments) -> Result<String, UsageError> {
    let command = commands::find("completions").expect("it is on the table of commands");
    let words = words.finish();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    if let Some(word) = words.iter().find(|word| word.starts_with('-')) {
        return Err(unknown(word, command.flags));
    }
    let [shell] = &words[..] else {
        return Err(UsageError::Words(command.name, words.len(), command.usage));
    };
    completions::script(shell).ok_or_else(|| UsageError::Value {
        flag: command.name.to_string(),
        seen: shell.to_string(),
        accepted: completions::SHELLS.join(", "),
    })
}

/// Takes `--flag=value` apart, where the flag is one that has a value, and `-j8`: pico_args would do so only for
/// the flags that it is asked for, and then not tell a switch with a value from an unknown flag.
fn apart(word: OsString) -> Vec<OsString> {
    let bytes = word.as_bytes();
    if let Some(number) = bytes.strip_prefix(b"-j")
        && !number.is_empty()
        && number.iter().all(u8::is_ascii_digit)
    {
        return vec!["-j".into(), OsStr::from_bytes(number).to_os_string()];
    }
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else { return vec![word] };
    let (name, value) = (&bytes[..at], &bytes[at + 1..]);
    // Only of a flag that is known and has a value: `/a?b=c` is a path, and `--insecure=1` an error.
    let own = COMMANDS.iter().flat_map(|command| command.flags);
    let is_split = |flag: &Flag| flag.name.as_bytes() == name && !flag.is_alone();
    if name.starts_with(b"--") && flags::all().chain(own).any(is_split) {
        return [name, value].map(|part| OsStr::from_bytes(part).to_os_string()).to_vec();
    }
    vec![word]
}

/// `HOST PORT ORIGIN` or `PORT`; what is left beyond that is an error.
fn positional(args: &mut Args, words: Vec<OsString>) -> Result<(), UsageError> {
    // All known flags are taken by now.
    if let Some(word) = words.iter().find(|word| word.to_string_lossy().starts_with('-')) {
        return Err(unknown(&word.to_string_lossy(), &[]));
    }
    // A word that does not begin like a port is meant as a command: the error names those.
    let is_number =
        |word: &OsString| word.to_string_lossy().starts_with(|first: char| first.is_ascii_digit());
    let names: &[&'static str] = match words.len() {
        0 => &[],
        1 | 2 if !is_number(&words[0]) => {
            return Err(UsageError::Command(words[0].to_string_lossy().into_owned()));
        }
        1 => &["--port"],
        3 => &["--host", "--port", "--origin"],
        count => return Err(UsageError::Positional(count)),
    };
    for (name, word) in names.iter().zip(words) {
        args.set(name, word)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str], environment: &[(&str, &str)]) -> Result<Args, String> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        match parse(words.iter().map(OsString::from).collect(), variable) {
            Ok(Command::Serve(args)) => Ok(args),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn value(args: &Args, name: &'static str) -> String {
        args.value(name).map(|(value, _)| value.to_string_lossy().into_owned()).unwrap_or_default()
    }

    #[test]
    fn all_forms_of_the_command_line_are_read() {
        let args = parse_words(&["--port", "1", "--host=h", "--insecure"], &[]).expect("flags");
        assert_eq!((value(&args, "--port"), value(&args, "--host")), ("1".into(), "h".into()));
        assert!(args.is_on("--insecure") && !args.is_on("--share-cookies"));
        let args = parse_words(&["8080", "--hit-ttl", "-1"], &[]).expect("a port");
        assert_eq!(
            (value(&args, "--port"), value(&args, "--hit-ttl")),
            ("8080".into(), "-1".into())
        );
        let args = parse_words(&["h", "1", "http://o"], &[]).expect("host, port, origin");
        assert_eq!(value(&args, "--origin"), "http://o");
    }

    #[test]
    fn the_environment_sets_defaults_that_the_command_line_overrides() {
        let environment = [
            ("CACHING_PROXY_PORT", "1"),
            ("PROXY_CACHE_TTL", "2"),
            ("CACHING_PROXY_INSECURE", "true"),
        ];
        let args = parse_words(&["--port", "3"], &environment).expect("flags");
        assert_eq!((value(&args, "--port"), value(&args, "--cache-ttl")), ("3".into(), "2".into()));
        assert!(args.is_on("--insecure"));
        let called = args.value("--cache-ttl").map(|(_, called)| called);
        assert_eq!(called.as_deref(), Some("PROXY_CACHE_TTL"));
        assert_eq!(args.notes().len(), 1, "{:?}", args.notes());
    }

    #[test]
    fn a_wrong_word_is_named() {
        let table: [(&[&str], &str); 17] = [
            (&["--prot", "1"], "--prot: unknown flag; did you mean --port?"),
            (&["--front-end", "x"], "--front-end: unknown flag; see proxy --help"),
            (&["--port"], "--port: no value; expected --port N"),
            (&["--port", "1", "--port", "2"], "--port: given twice; once is enough"),
            (&["1", "--port", "2"], "--port: given twice; once is enough"),
            (&["1", "b"], "2 words that are no flags; expected PORT, or HOST PORT ORIGIN"),
            (&["purg", "/x"], "purg: neither a command nor a port; did you mean purge?"),
            (&["PURGE", "/x"], "PURGE: neither a command nor a port; did you mean purge?"),
            (&["statss"], "statss: neither a command nor a port; did you mean stats?"),
            (&["version"], "version: neither a command nor a port; did you mean --version?"),
            (
                &["help", "purg"],
                "help: \"purg\" is neither a command nor a flag; did you mean purge?",
            ),
            (
                &["help", "foo"],
                "help: \"foo\" is neither a command nor a flag; commands are explain, purge, list, show, stats, top, warm, export, import, completions, help",
            ),
            (&["-x"], "-x: unknown flag; see proxy --help"),
            (&["--insecure=1"], "--insecure: \"1\"; expected the flag alone, for it has no value"),
            (
                &["bogus"],
                "bogus: neither a command nor a port; commands are explain, purge, list, show, stats, top, warm, export, import, completions, help",
            ),
            (
                &["http://user:secret@o.example"],
                "http://***@o.example: a URL without its flag; expected --origin http://***@o.example",
            ),
            (
                &["purge"],
                "purge: a word is missing; expected proxy purge URL | --prefix P | --match GLOB | --tag T | --stale | --all [--port N]",
            ),
        ];
        for (words, expected) in table {
            assert_eq!(parse_words(words, &[]).err().as_deref(), Some(expected), "{words:?}");
        }
        let wrong = parse_words(&[], &[("CACHING_PROXY_INSECURE", "maybe")]).err();
        assert!(wrong.is_some_and(|error| error.starts_with("CACHING_PROXY_INSECURE: \"maybe\"")));
    }
}
