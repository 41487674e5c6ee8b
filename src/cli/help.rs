//! The texts about the command line: `-h`, `--help`, the help of each command, and `docs/flags.md`.
//!
//! They are made of the tables in `flags.rs` and `commands.rs`, so that no text can contradict the program. What is
//! written here is only what is true of all flags together. No line for a terminal is longer than 80 columns.

use std::fmt::Write as _;

use crate::cli::commands::{self, COMMANDS};
use crate::cli::environment::variable_name;
use crate::cli::flags::{self, Flag, GROUPS};

/// The width of a terminal that nobody has made wider.
const COLUMNS: usize = 80;
/// Where the texts beside flags begin: behind the longest flag.
const TEXT_COLUMN: usize = 30;
/// Where the texts beside the names of commands begin.
const SUMMARY_COLUMN: usize = 15;
/// Where the meanings of exit codes begin.
const CODE_COLUMN: usize = 8;

const HEAD: &str = "\
proxy: an HTTP caching reverse proxy

Usage: proxy [flags]
       proxy PORT [flags]
       proxy HOST PORT ORIGIN [flags]
       proxy COMMAND [flags]
";
const UNITS: &str = "\
D is a duration: seconds, or a number with ms, s, m, h or d. SIZE is in bytes, or with K, M or G. \
Defaults are in brackets; a flag without one is off. --flag VALUE and --flag=VALUE are the same. The environment variable CACHING_PROXY_CACHE_TTL sets \
--cache-ttl, and so on; the command line outranks it.";
/// Command lines that work, and what they do.
pub(super) const EXAMPLES: [(&str, &str); 3] = [
    ("proxy --port 3000 --origin https://dummyjson.com", "cache a public API in memory"),
    (
        "proxy --origin https://dummyjson.com --store sqlite --cache-ttl 10m",
        "keep the cache over restarts; ask again after 10 minutes",
    ),
    ("proxy purge --prefix /products/", "remove what a running proxy has stored below a path"),
];
/// What `main.rs` decides, and the second signal.
pub(super) const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "a signal ended the proxy; or the command was done"),
    ("1", "the proxy could not start; or the command failed"),
    ("2", "wrong usage"),
    ("130", "a second signal ended the proxy before its requests were finished"),
];

const TABLE_HEAD: &str =
    "| flag | default | accepted | meaning | variable |\n| --- | --- | --- | --- | --- |\n";
const REFERENCE_HEAD: &str = "\
# Flags

<!-- Generated from src/cli/flags.rs; to write it anew: UPDATE=1 cargo test --test it flags:: -->

For those who look a flag up; [choosing flags](choosing.md) starts from what you need.

`proxy --help` shows all flags in short, `proxy -h` the twelve used most, `proxy help FLAG` one.
`--flag value` and `--flag=value` are the same. `proxy PORT` stands for `--port PORT`, and
`proxy HOST PORT ORIGIN` for the three flags of these names.

- D is a duration: seconds, or a number with `ms`, `s`, `m`, `h` or `d`; a century at most.
- SIZE is a number of bytes, or a number with `K` (1024), `M` or `G`; 1024 TiB at most.
- A flag without a value is off unless it is given.
- A flag that may be repeated takes several values with commas, too.
- The environment variable beside a flag sets its default; the command line outranks it. Switches take `1`, `true`,
  `yes`, `on` and `0`, `false`, `no`, `off`. An empty variable counts as not set. The older names, `PROXY_CACHE_TTL`
  for `CACHING_PROXY_CACHE_TTL`, are read for one more release, except those of `--host`, `--port` and `--origin`.
";
const COMMANDS_HEAD: &str = "
## Flags of commands

Beside these, commands take the flags above; `proxy help COMMAND` says what `--port`, `--store` and `--origin` mean
for each. No environment variable sets the flags below.
";

/// The text of `-h`: the twelve flags that people use.
pub(super) fn short() -> String {
    let mut text = format!("{HEAD}\nThe flags used most:\n");
    for flag in flags::all().filter(|flag| flag.is_common) {
        text += &flag_lines(flag);
    }
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let commands = wrapped(&format!("Commands: {}", names.join(", ")), "  ");
    let _ = write!(
        text,
        "\n{commands}All flags and commands: proxy --help. One command: proxy help COMMAND.\n"
    );
    text
}

/// The text of `proxy help --port`, or `help port`; `None` if there is no such flag.
pub(super) fn of_flag(name: &str) -> Option<String> {
    let name = format!("--{}", name.trim_start_matches('-'));
    let flag = flags::all().find(|flag| flag.name == name)?;
    let mut text = flag_lines(flag);
    if !flag.long.is_empty() {
        let _ = write!(text, "\n{}", wrapped(&flag.long.replace('`', ""), ""));
    }
    if let Some(variable) = variable_name(flag) {
        let _ = write!(text, "\nAccepted: {}\nVariable: {variable}\n", flag.shape.accepted());
    }
    Some(text)
}

/// The text of `--help`: everything, the commands first.
pub(super) fn long() -> String {
    let mut text = format!("{HEAD}\nCommands (more: proxy help COMMAND):\n");
    for command in &COMMANDS {
        text += &beside(command.name, command.summary, SUMMARY_COLUMN);
    }
    for (title, flags) in &GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for flag in *flags {
            text += &flag_lines(flag);
        }
    }
    let _ = write!(text, "\n{}\nExamples:\n", wrapped(UNITS, ""));
    for (line, meaning) in EXAMPLES {
        let _ = write!(text, "  {line}\n      {meaning}\n");
    }
    text + "\nExit codes:\n" + &exit_codes(&EXIT_CODES)
}

/// The help of one command; `None` if there is no such command.
pub(super) fn of_command(name: &str) -> Option<String> {
    let command = commands::find(name)?;
    let usage = wrapped(&format!("Usage: {}", command.usage), "       ");
    let mut text = format!("{usage}\n");
    for paragraph in command.meaning.split("\n\n") {
        let _ = writeln!(text, "{}", wrapped(paragraph, ""));
    }
    if !command.flags.is_empty() || !command.general.is_empty() {
        text.push_str("Flags:\n");
    }
    for flag in command.flags {
        text += &flag_lines(flag);
    }
    for (name, meaning) in command.general {
        text += &beside(name, meaning, TEXT_COLUMN);
    }
    let text = text.trim_end();
    let mut text = format!("{text}\n\nExample:\n  {}\n\nExit codes:\n", command.example);
    let codes = [("0", "done"), ("1", command.failure), EXIT_CODES[2]];
    let codes = codes.iter().filter(|(_, meaning)| !meaning.is_empty());
    text.extend(codes.map(|(code, meaning)| beside(code, meaning, CODE_COLUMN)));
    Some(text + "\nAll flags and commands: proxy --help\n")
}

fn exit_codes(codes: &[(&str, &str)]) -> String {
    codes.iter().map(|(code, meaning)| beside(code, meaning, CODE_COLUMN)).collect()
}

/// A flag, what it does and its default, if it has one.
fn flag_lines(flag: &Flag) -> String {
    let shown = match flag.default_shown().as_str() {
        // They would be most of what a reader sees.
        "" | "none" | "off" => String::new(),
        default => format!(" [{default}]"),
    };
    beside(&flag.usage(), &format!("{}{shown}", flag.short), TEXT_COLUMN)
}

/// A name, and beside it a text, whose further lines begin below its first.
fn beside(name: &str, text: &str, column: usize) -> String {
    // A name that is too long for its column would run into the text; a test has the longest.
    let width = column - 2;
    wrapped(&format!("  {name:<width$}{text}"), &" ".repeat(column))
}

/// Breaks a text at its spaces into lines of at most [`COLUMNS`] characters; further lines begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut indent_now = "";
    while indent_now.len() + rest.chars().count() > COLUMNS {
        let room = COLUMNS - indent_now.len();
        // The character behind a full line may be the space. A word that no line has room for stays whole.
        let fitting = rest.char_indices().nth(room + 1).map_or(rest.len(), |(at, _)| at);
        // The spaces before a column are no place to break: a line has a word before its end.
        let Some(at) = rest[..fitting].rfind(' ').filter(|at| !rest[..*at].trim().is_empty())
        else {
            break;
        };
        let _ = writeln!(out, "{indent_now}{}", rest[..at].trim_end());
        (rest, indent_now) = (&rest[at + 1..], indent);
    }
    out + indent_now + rest + "\n"
}

/// The text of `docs/flags.md`.
pub fn reference() -> String {
    let mut text = String::from(REFERENCE_HEAD);
    for (title, flags) in &GROUPS {
        let _ = write!(text, "\n## {title}\n\n{TABLE_HEAD}");
        text.extend(flags.iter().map(|flag| row(flag, variable_name(flag))));
    }
    text.push_str(COMMANDS_HEAD);
    for command in COMMANDS.iter().filter(|command| !command.flags.is_empty()) {
        let _ = write!(text, "\n### proxy {}\n\n{TABLE_HEAD}", command.name);
        text.extend(command.flags.iter().map(|flag| row(flag, None)));
    }
    text.push_str("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for (code, meaning) in EXIT_CODES {
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    text
}

/// A flag as a line of a table.
fn row(flag: &Flag, variable: Option<String>) -> String {
    let usage = format!("`{}`", flag.usage());
    let default = match flag.default_shown().as_str() {
        "" => String::new(),
        word @ ("none" | "off" | "cores") => word.to_string(),
        text if text.contains(' ') => text.to_string(),
        text => format!("`{text}`"),
    };
    let accepted = if flag.is_alone() { String::new() } else { flag.shape.accepted() };
    // One meaning of two parts: the line of `--help`, and the sentences after it.
    let mut meaning = marked(flag.short);
    // A sentence begins with a capital letter, and a flag or a word that is typed stays as it is.
    meaning[..1].make_ascii_uppercase();
    if !flag.long.is_empty() {
        let _ = write!(meaning, ". {}", marked(flag.long));
    }
    let variable = variable.map(|name| format!("`{name}`")).unwrap_or_default();
    let cells = [usage, default, marked(&accepted), meaning, variable];
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // An empty cell has one space, not two.
    format!("| {} |\n", cells.join(" | ")).replace("  ", " ")
}

/// Marks as code what Markdown would read as its own: flags, globs and URLs.
pub(super) fn marked(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_code = word.starts_with("--") || word.contains(['*', '_']) || word.contains("://");
        let core = word.trim_matches(|c: char| ",.;()".contains(c));
        if word.contains('`') || !is_code || core.is_empty() {
            return word.to_string();
        }
        word.replace(core, &format!("`{core}`"))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Command, parse};

    /// The names of flags that begin lines of a text.
    fn listed(text: &str) -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("  "));
        lines
            .filter(|line| line.starts_with('-'))
            .filter_map(|line| line.split(' ').next())
            .collect()
    }

    fn names<'a>(flags: impl Iterator<Item = &'a Flag>) -> Vec<&'a str> {
        flags.map(|flag| flag.name).collect()
    }

    /// A line as a shell takes it apart, with single quotes.
    fn shell_words(line: &str) -> Vec<OsString> {
        let parts = line.split('\'').enumerate();
        let words = parts.flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        words.map(OsString::from).collect()
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let own = COMMANDS.iter().map(|command| of_command(command.name).expect("its help"));
        for text in [short(), long()].into_iter().chain(own) {
            for line in text.lines() {
                assert!(line.chars().count() <= COLUMNS && line.trim_end() == line, "{line:?}");
            }
        }
    }

    #[test]
    fn each_flag_is_in_the_help_and_in_the_reference() {
        assert_eq!(listed(&long()), names(flags::all()));
        let own = COMMANDS.iter().flat_map(|command| command.flags);
        let reference = reference();
        for flag in flags::all().chain(own) {
            let row = format!("\n| `{}` | ", flag.usage());
            assert!(reference.contains(&row), "{}", flag.name);
            assert!(flag.usage().len() + 2 < TEXT_COLUMN, "{} has room in its column", flag.name);
        }
        for flag in flags::all() {
            if let Some(variable) = variable_name(flag) {
                assert!(reference.contains(&format!(" | `{variable}` |\n")), "{variable}");
            }
        }
    }

    #[test]
    fn the_short_help_has_the_twelve_flags_used_most() {
        let text = short();
        assert_eq!(listed(&text), names(flags::all().filter(|flag| flag.is_common)));
        assert_eq!(listed(&text).len(), 12);
    }

    #[test]
    fn the_long_help_has_commands_first_then_examples_and_exit_codes() {
        let text = long();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is missing"));
        let order = [
            at("\nCommands"),
            at("\n  explain "),
            at("\n  --port "),
            at("\nExamples:"),
            at("\nExit codes:"),
        ];
        assert!(order.is_sorted(), "{order:?}");
        for (code, _) in EXIT_CODES {
            assert!(text[at("\nExit codes:")..].contains(&format!("\n  {code} ")), "{code}");
        }
        for command in &COMMANDS {
            let lines: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with(&format!("  {} ", command.name)))
                .collect();
            assert_eq!(lines.len(), 1, "{}", command.name);
        }
    }

    #[test]
    fn each_command_has_its_own_help() {
        let asked = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            match parse(words, |_| None) {
                Ok(Command::Help(text)) => text,
                other => panic!("{line}: {other:?}"),
            }
        };
        for command in &COMMANDS {
            let (name, own) = (command.name, of_command(command.name).expect("its help"));
            for line in [format!("{name} --help"), format!("{name} x y -h"), format!("help {name}")]
            {
                assert_eq!(asked(&line), own, "{line}");
            }
            let mut expected = names(command.flags.iter());
            expected.extend(command.general.iter().filter_map(|(name, _)| name.split(' ').next()));
            assert_eq!(listed(&own), expected, "{name}");
            assert!(command.summary.len() <= COLUMNS - SUMMARY_COLUMN, "{name}: it has one line");
            let example = command.example.strip_prefix("proxy ").expect("the program");
            match parse(shell_words(example), |_| None) {
                Ok(Command::Do(..)) => {}
                Ok(Command::Help(text)) => assert!(text != long(), "{example}"),
                other => panic!("{example}: {other:?}"),
            }
            for (usage, _) in command.general {
                assert_eq!(
                    *usage,
                    flags::find(usage.split(' ').next().unwrap_or_default()).usage()
                );
            }
        }
        assert!(asked("help port").starts_with("  --port N"));
        assert_eq!(asked("help port"), asked("help --port"));
        for line in ["--help", "help", "--help --port 1", "-h --help", "frobnicate --help"] {
            assert_eq!(asked(line), long(), "{line}");
        }
        for line in ["-h", "-h --port 1", "8080 -h"] {
            assert_eq!(asked(line), short(), "{line}");
        }
    }

    #[test]
    fn texts_are_broken_at_spaces() {
        let wide = "x".repeat(COLUMNS);
        #[rustfmt::skip]
        let table = [
            (String::new(), "\n".to_string()),
            (wide.clone(), format!("{wide}\n")),
            (format!("{wide} y"), format!("{wide}\n  y\n")),
            (format!("{wide}x y"), format!("{wide}x y\n")),
            (format!("a {wide}"), format!("a\n  {wide}\n")),
            (format!("{} zz", "y ".repeat(39).trim_end()), format!("{} zz\n", "y ".repeat(39).trim_end())),
            (format!("{} zzz", "y ".repeat(39).trim_end()), format!("{}\n  zzz\n", "y ".repeat(39).trim_end())),
        ];
        for (text, expected) in table {
            assert_eq!(wrapped(&text, "  "), expected, "{text}");
        }
    }
}
