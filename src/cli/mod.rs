//! The command line and the environment: which words were given, and the help text.
//!
//! Shape only: no value is read here, no file opened, no name resolved, so that `--help` and a typing
//! error answer at once. `config.rs` reads the values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;

use pico_args::Arguments;

mod commands;
pub mod config;
mod environment;
mod units;

pub use commands::Task;

use crate::message::target::without_password;

/// A flag: its name, what stands for its value in the help text (empty for a switch), its default,
/// and what it means.
struct Flag {
    name: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Flag {
    Flag { name, value, default, meaning }
}

/// All flags, in groups, as `--help` shows them.
#[rustfmt::skip]
const GROUPS: [(&str, &[Flag]); 7] = [
    ("Where to listen and whom to ask", &[
        flag("--port", "N", "3000", "port to listen on; 0 picks a free one"),
        flag("--host", "ADDR", "localhost", "address to listen on, IPv4 or IPv6; localhost is 127.0.0.1 and ::1"),
        flag("--origin", "URL", "http://127.0.0.1:8000", "the origin server: http or https, with a path prefix if need be"),
        flag("--preserve-host", "", "off", "the client's Host goes to the origin server, and into the cache key"),
        flag("--public-url", "URL", "none", "where clients find the proxy (https://shop.example), if something stands in front of it"),
        flag("--follow-redirects", "", "off", "follow the origin server's redirects here (GET and HEAD, at most 10)"),
        flag("--origin-rate", "N/s", "none", "requests that reach the origin server in any second; also N/m, N/h, N/d"),
        flag("--origin-concurrency", "N", "none", "requests under way at the origin server at a time"),
        flag("--connect-timeout", "D", "5", "to find and reach the origin server"),
        flag("--origin-timeout", "D", "30", "between two bytes of a response"),
        flag("--ca-cert", "FILE", "none", "more trusted roots, or the server's own certificate (PEM); for the origin server and rediss://"),
        flag("--insecure", "", "off", "do not verify the certificates of the origin server and of rediss:// at all"),
    ]),
    ("What is stored, and for how long", &[
        flag("--cache-mode", "MODE", "standard", "standard: HTTP's rules; force: store every 200 to a GET; offline: never contact the origin server"),
        flag("--cache-ttl", "D", "none", "nothing is reused later than D after it came; what states no freshness gets D"),
        flag("--default-ttl", "D", "until-cleared", "freshness of what states none; 0: HTTP's heuristics alone"),
        flag("--hit-ttl", "N", "-1", "a stored response is reused N times at most; negative: no limit"),
        flag("--share-cookies", "", "off", "store and replay Set-Cookie under any explicit freshness"),
        flag("--share-credentials", "", "off", "store and reuse as if requests had no credentials: one key, many clients, one cache"),
        flag("--stale-if-error", "D", "1d", "for how long stale responses stand in for a failed origin server"),
        flag("--stale-while-revalidate", "D", "0", "for how long stale responses are served while a new one is fetched"),
        flag("--ignore-param", "GLOB", "none", "query parameters that do not matter, and are not sent on (utm_*); may be repeated"),
        flag("--sort-query", "", "off", "the order of query parameters does not matter"),
        flag("--no-browser-cache", "", "off", "tell clients to store nothing, so that each request comes here"),
    ]),
    ("How much is stored", &[
        flag("--cache-memory", "SIZE", "64M", "bytes in memory, with bookkeeping and what is on its way in"),
        flag("--cache-size-limit", "N", "none", "number of stored responses; 0 turns caching off"),
        flag("--max-object-size", "SIZE", "8M; 1G with sqlite, 64M with redis", "larger bodies are passed on and not stored"),
        flag("--eviction-policy", "P", "s3-fifo", "what goes when there is no room: s3-fifo, lru, entire, none"),
        flag("--cache-clean-interval", "D", "60", "how often what is of no more use is removed; 0: never"),
        flag("--store", "S", "memory", "memory alone, or memory in front of what lasts (sqlite, sqlite:PATH) or is shared (redis://HOST, rediss://HOST, redis+unix:/PATH, redis+cluster://HOST:PORT,…, redis+sentinel://HOST:PORT,…/NAME)"),
        flag("--redis-prefix", "TEXT", "proxy:", "what the names of all keys in Redis begin with; proxies with the same one share a cache"),
        flag("--cache-disk", "SIZE", "1G", "bytes of the sqlite file and its log"),
        flag("--store-lock-timeout", "D", "5", "a lock of another process on the sqlite file is waited for so long"),
    ]),
    ("Clients", &[
        flag("--threads", "N", "cores", "event loops, which answer what is in memory"),
        flag("--workers", "N", "64", "threads that wait for the origin server"),
        flag("--max-connections", "N", "10000", "clients at a time, or less where descriptors are scarce"),
        flag("--header-timeout", "D", "10", "for the head of a request to arrive, from its first byte to its last"),
        flag("--idle-timeout", "D", "60", "for the next request, the next byte of content, or a client to read on"),
        flag("--max-header-size", "SIZE", "64K", "fields of a request, all together"),
        flag("--max-header-fields", "N", "100", "field lines of a request"),
        flag("--max-request-size", "SIZE", "none", "content of a request, which is passed on as it comes"),
        flag("--trust-forwarded", "ADDR", "none", "believe X-Forwarded-For, -Proto, -Host and Forwarded from this address or network; may be repeated"),
        flag("--front", "F", "event", "which server: event, an event loop a core; tiny-http, a thread a connection"),
        flag("--allow-unsafe-front", "", "off", "let --front tiny-http listen on other than loopback addresses"),
    ]),
    ("What is told", &[
        flag("--access-log", "FILE", "off", "one line a request; - is the standard output"),
        flag("--access-log-format", "F", "combined", "combined or json"),
        flag("--log-level", "L", "info", "off, error, warn, info, debug or trace; the log goes to stderr"),
        flag("--health-path", "PATH", "none", "answer ok to a GET of this path, without asking the origin server"),
        flag("--ready-file", "FILE", "none", "written, with the address, once connections are accepted"),
    ]),
    ("Control", &[
        flag("--admin", "ADDR:PORT", "off", "the control interface over TCP, too, beside its Unix socket"),
        flag("--admin-token", "FILE", "none", "who comes over TCP must have what is in this file; needed beyond loopback"),
        flag("--allow-purge", "ADDR", "none", "take PURGE requests from this address or network (10.0.0.0/8); may be repeated"),
        flag("--take-over", "", "off", "take the listening socket over from the proxy on this port, which then ends; none is refused meanwhile"),
        flag("--drain-timeout", "D", "8", "after a signal, for what is under way and for the store; then the process ends"),
        flag("--clear-cache", "", "", "forget all that running proxies and the store hold, and exit"),
    ]),
    ("Other", &[
        flag("--help", "", "", "this text"),
        flag("--version", "", "", "the version"),
    ]),
];

/// Flags that may be given several times, or once with commas.
const REPEATED: [&str; 3] = ["--allow-purge", "--ignore-param", "--trust-forwarded"];

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// `--help`, or `--help` behind a command: the text.
    Help(String),
    /// `--version`
    Version,
    /// Run the proxy.
    Serve(Args),
    /// Anything else, with the flags as for running the proxy.
    Do(Args, Task),
}

/// The words of the command line, over those of the environment.
#[derive(Debug, Default)]
pub struct Args {
    values: BTreeMap<&'static str, (OsString, Source)>,
    switches: BTreeMap<&'static str, bool>,
    lists: BTreeMap<&'static str, Vec<String>>,
    notes: Vec<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Source {
    CommandLine,
    /// The variable of this name.
    Environment(String),
}

impl Args {
    /// The value of a flag, and what to call the flag in an error message.
    pub fn value(&self, name: &'static str) -> Option<(&OsStr, String)> {
        let (value, source) = self.values.get(name)?;
        let called = match source {
            Source::CommandLine => name.to_string(),
            Source::Environment(variable) => variable.clone(),
        };
        Some((value, called))
    }

    /// All values of a flag that may be repeated.
    pub fn all(&self, name: &'static str) -> &[String] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }

    /// Is a switch on?
    pub fn is_on(&self, name: &'static str) -> bool {
        self.switches.get(name).copied().unwrap_or(false)
    }

    /// What the user is to know of the environment: a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Reads the command line and, through `variable`, the environment.
pub fn parse(
    words: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let mut words = Arguments::from_vec(words.into_iter().flat_map(apart).collect());
    if words.contains(["-h", "--help"]) {
        let name = words.subcommand().ok().flatten();
        return Ok(Command::Help(name.and_then(|name| commands::help(&name)).unwrap_or_else(help)));
    }
    if words.contains(["-V", "--version"]) {
        return Ok(Command::Version);
    }
    if let Ok(Some(name)) = words.clone().subcommand() {
        if name == "help" {
            let _ = words.subcommand();
            let about = words.subcommand().ok().flatten();
            let own = about.and_then(|name| commands::help(&name));
            return Ok(Command::Help(own.unwrap_or_else(help)));
        }
        let mut rest = words.clone();
        let _ = rest.subcommand();
        if let Some(read) = commands::read(&name, rest, &variable) {
            return read.map(|(args, task)| Command::Do(args, task));
        }
    }
    let mut args = flags(&mut words, variable)?;
    positional(&mut args, words.finish())?;
    if args.is_on("--clear-cache") {
        return Ok(Command::Do(args, Task::Clear));
    }
    Ok(Command::Serve(args))
}

/// Reads all flags.
fn flags(
    words: &mut Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Args, UsageError> {
    let mut args = Args::default();
    for flag in GROUPS.iter().flat_map(|(_, flags)| flags.iter()) {
        let found = environment::find(flag.name, &variable);
        args.notes.extend(found.note);
        let from_environment = found.value;
        if flag.value.is_empty() {
            let on = match from_environment {
                Some((value, variable)) => switch_value(variable, &value)?,
                None => false,
            };
            args.switches.insert(flag.name, words.contains(flag.name) || on);
            continue;
        }
        if REPEATED.contains(&flag.name) {
            let given = repeated(words, flag.name, flag.value)?;
            // In a script it is a variable that is not set: nobody wants a flag without a value.
            if given.iter().any(|word| word.is_empty()) {
                return Err(UsageError::NoValue(flag.name, flag.value));
            }
            let from_environment = from_environment.map(|(value, _)| value);
            let given =
                if given.is_empty() { from_environment.into_iter().collect() } else { given };
            let parts = given.iter().flat_map(|word| {
                let text = word.to_string_lossy().into_owned();
                text.split(',').map(|part| part.trim().to_string()).collect::<Vec<_>>()
            });
            args.lists.insert(flag.name, parts.filter(|part| !part.is_empty()).collect());
            continue;
        }
        let given = words
            .opt_value_from_os_str(flag.name, |word| Ok::<_, UsageError>(word.to_os_string()))
            .map_err(|_| UsageError::NoValue(flag.name, flag.value))?;
        if let Some(word) = given {
            args.values.insert(flag.name, (word, Source::CommandLine));
        } else if let Some((word, variable)) = from_environment {
            args.values.insert(flag.name, (word, Source::Environment(variable)));
        }
    }
    Ok(args)
}

/// All values of a flag.
fn repeated(
    words: &mut Arguments,
    name: &'static str,
    value: &'static str,
) -> Result<Vec<OsString>, UsageError> {
    words
        .values_from_os_str(name, |word| Ok::<_, UsageError>(word.to_os_string()))
        .map_err(|_| UsageError::NoValue(name, value))
}

/// Takes `--flag=value` apart, where the flag is one that has a value, and `-j8`.
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
    let mut flags = GROUPS.iter().flat_map(|(_, flags)| flags.iter());
    if flags.any(|flag| flag.name.as_bytes() == name && !flag.value.is_empty()) {
        return [name, value].map(|part| OsStr::from_bytes(part).to_os_string()).to_vec();
    }
    vec![word]
}

fn switch_value(variable: String, value: &OsStr) -> Result<bool, UsageError> {
    match value.to_string_lossy().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => Err(UsageError::Value {
            flag: variable,
            seen: other.to_string(),
            accepted: "1 or 0 (true, false; on, off)".to_string(),
        }),
    }
}

/// `HOST PORT ORIGIN` or `PORT`; what is left beyond that is an error.
fn positional(args: &mut Args, words: Vec<OsString>) -> Result<(), UsageError> {
    if let Some(word) = words.iter().find(|word| word.to_string_lossy().starts_with('-')) {
        return Err(unknown(&word.to_string_lossy()));
    }
    let names: &[&'static str] = match words.len() {
        0 => &[],
        1 if !words[0].to_string_lossy().starts_with(|first: char| first.is_ascii_digit()) => {
            return Err(UsageError::Command(words[0].to_string_lossy().into_owned()));
        }
        1 => &["--port"],
        3 => &["--host", "--port", "--origin"],
        count => return Err(UsageError::Positional(count)),
    };
    for (name, word) in names.iter().zip(words) {
        if let Some((_, Source::CommandLine)) = args.values.get(name) {
            return Err(UsageError::Twice(name));
        }
        args.values.insert(name, (word, Source::CommandLine));
    }
    Ok(())
}

/// A flag that is given twice, or not known; then the closest one that is.
fn unknown(word: &str) -> UsageError {
    let name = word.split('=').next().unwrap_or(word);
    let names = || GROUPS.iter().flat_map(|(_, flags)| flags.iter()).map(|flag| flag.name);
    if let Some(known) = names().find(|known| *known == name) {
        return match word.split_once('=') {
            Some((_, seen)) => UsageError::Value {
                flag: known.to_string(),
                seen: seen.to_string(),
                accepted: "the flag alone, for it has no value".to_string(),
            },
            None => UsageError::Twice(known),
        };
    }
    let likeness = |known: &str| (distance(name, known), name.len().abs_diff(known.len()));
    let closest = names().map(|known| (likeness(known), known)).min();
    let closest = closest.filter(|((edits, _), _)| *edits <= 3).map(|(_, known)| known);
    UsageError::Unknown(name.to_string(), closest)
}

/// Edits that turn one word into the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, byte) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other_byte) in other.bytes().enumerate() {
            let above = row[column + 1];
            let replaced = diagonal + usize::from(byte != other_byte);
            row[column + 1] = replaced.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[other.len()]
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "proxy: an HTTP caching reverse proxy\n\n\
         Usage: proxy [flags]\n       proxy PORT [flags]\n       proxy HOST PORT ORIGIN [flags]\n",
    );
    for (_, usage) in commands::USAGE {
        let _ = writeln!(text, "       {usage}");
    }
    for (title, flags) in &GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for flag in *flags {
            let name = format!("{} {}", flag.name, flag.value);
            let _ = write!(text, "  {name:<28} {}", flag.meaning);
            if !flag.default.is_empty() {
                let _ = write!(text, " [{}]", flag.default);
            }
            text.push('\n');
        }
    }
    text.push_str(
        "\nD is a duration: seconds, or a number with ms, s, m, h or d. SIZE is in bytes, or with K, M, G.\n\
         A flag may be written --flag=value. CACHING_PROXY_FLAG_NAME in the environment sets a\n\
         default.\n\
         Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong usage.\n",
    );
    text
}

/// What is wrong with a command line: one line, exit code 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsageError {
    /// An unknown flag, and the known one that it resembles.
    Unknown(String, Option<&'static str>),
    /// A flag without its value.
    NoValue(&'static str, &'static str),
    /// A flag that is given twice.
    Twice(&'static str),
    /// So many words that are no flags.
    Positional(usize),
    /// A word that is neither a command nor a port.
    Command(String),
    /// A command, so many of whose words are no flags, and how it is used.
    Words(&'static str, usize, &'static str),
    /// A command that is told several things of which it does one, and how it is used.
    Several(&'static str, &'static str),
    /// A value that is not accepted.
    Value {
        /// The flag, or the environment variable.
        flag: String,
        /// What was given.
        seen: String,
        /// What would be accepted.
        accepted: String,
    },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(flag, Some(known)) => {
                write!(f, "{flag}: unknown flag; did you mean {known}?")
            }
            Self::Unknown(flag, None) => write!(f, "{flag}: unknown flag; see proxy --help"),
            Self::NoValue(flag, value) => write!(f, "{flag}: no value; expected {flag} {value}"),
            Self::Twice(flag) => write!(f, "{flag}: given twice; once is enough"),
            Self::Positional(count) => {
                write!(f, "{count} words that are no flags; expected PORT, or HOST PORT ORIGIN")
            }
            Self::Command(word) => {
                let names: Vec<&str> = commands::names().collect();
                let (word, names) = (without_password(word), names.join(", "));
                write!(f, "{word}: neither a command nor a port; commands are {names}")
            }
            Self::Words(name, 0, usage) => {
                write!(f, "{name}: it is not said of what; expected {usage}")
            }
            Self::Words(name, 1, usage) => {
                write!(f, "{name}: one word too many; expected {usage}")
            }
            Self::Words(name, count, usage) => {
                write!(f, "{name}: {count} words that are no flags; expected {usage}")
            }
            Self::Several(name, usage) => write!(f, "{name}: one at a time; expected {usage}"),
            Self::Value { flag, seen, accepted } => {
                write!(f, "{flag}: {:?}; expected {accepted}", without_secrets(seen))
            }
        }
    }
}

/// A value as it may be shown. The URL of a socket (`redis+unix:`) has its password in the query.
fn without_secrets(value: &str) -> Cow<'_, str> {
    let at = if value.starts_with("redis") { value.find("pass=") } else { None };
    let Some((before, secret)) = at.map(|at| value.split_at(at + "pass=".len())) else {
        return without_password(value);
    };
    let after = secret.find('&').map_or("", |end| &secret[end..]);
    format!("{}***{after}", without_password(before)).into()
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
        let table: [(&[&str], &str); 10] = [
            (&["--prot", "1"], "--prot: unknown flag; did you mean --port?"),
            (&["--front-end", "x"], "--front-end: unknown flag; see proxy --help"),
            (&["--port"], "--port: no value; expected --port N"),
            (&["--port", "1", "--port", "2"], "--port: given twice; once is enough"),
            (&["1", "--port", "2"], "--port: given twice; once is enough"),
            (&["a", "b"], "2 words that are no flags; expected PORT, or HOST PORT ORIGIN"),
            (&["-x"], "-x: unknown flag; see proxy --help"),
            (&["--insecure=1"], "--insecure: \"1\"; expected the flag alone, for it has no value"),
            (
                &["bogus"],
                "bogus: neither a command nor a port; commands are explain, purge, list, show, stats, warm, export, import",
            ),
            (
                &["purge"],
                "purge: it is not said of what; expected proxy purge URL | --prefix P | --match GLOB | --tag T | --stale | --all [--port N]",
            ),
        ];
        for (words, expected) in table {
            assert_eq!(parse_words(words, &[]).err().as_deref(), Some(expected), "{words:?}");
        }
        let wrong = parse_words(&[], &[("CACHING_PROXY_INSECURE", "maybe")]).err();
        assert!(wrong.is_some_and(|error| error.starts_with("CACHING_PROXY_INSECURE: \"maybe\"")));
    }

    #[test]
    fn the_help_has_a_line_for_each_flag() {
        let help = help();
        for (_, flags) in &GROUPS {
            for flag in *flags {
                assert!(help.contains(&format!("\n  {} ", flag.name)), "{}", flag.name);
            }
        }
    }
}
