//! What is wrong with a command line: one line on stderr, exit code 2.

use std::borrow::Cow;
use std::fmt;

use crate::cli::closest::closest;
use crate::cli::commands::COMMANDS;
use crate::message::target::without_password;

/// Why a command line is not accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsageError {
    /// An unknown flag, and the known one that it resembles.
    Unknown(String, Option<&'static str>),
    /// A flag without its value, and what stands for the value in texts.
    NoValue(&'static str, &'static str),
    /// A flag that is given twice.
    Twice(&'static str),
    /// This number of words that are no flags.
    Positional(usize),
    /// A word that is neither a command nor a port.
    Command(String),
    /// A word of which there is no help.
    NoHelp(String),
    /// A command, the number of its words that are no flags, and its usage.
    Words(&'static str, usize, &'static str),
    /// A command that was given several flags of which it takes one, and its usage.
    Several(&'static str, &'static str),
    /// A flag, or its environment variable, and the cargo feature without which its value means nothing here.
    LeftOut(String, String),
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

/// The command that was meant, or all of them.
fn meant(word: &str) -> String {
    let names = || COMMANDS.iter().map(|command| command.name);
    match closest(&word.to_lowercase(), names().chain(["--version"])) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("commands are {}", names().collect::<Vec<_>>().join(", ")),
    }
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
            // Easily typed without its flag, and with a password in it.
            Self::Command(word) if word.contains("://") => {
                let word = without_password(word);
                write!(f, "{word}: a URL without its flag; expected --origin {word}")
            }
            Self::Command(word) => {
                write!(f, "{word}: neither a command nor a port; {}", meant(word))
            }
            Self::NoHelp(word) => {
                write!(f, "help: {word:?} is neither a command nor a flag; {}", meant(word))
            }
            // The usage and not a pointer to the help: what is missing is then in sight.
            Self::Words(name, 0, usage) => {
                write!(f, "{name}: a word is missing; expected {usage}")
            }
            Self::Words(name, 1, usage) => {
                write!(f, "{name}: one word too many; expected {usage}")
            }
            Self::Words(name, count, usage) => {
                write!(f, "{name}: {count} words that are no flags; expected {usage}")
            }
            Self::Several(name, usage) => write!(f, "{name}: one at a time; expected {usage}"),
            Self::LeftOut(flag, feature) => write!(
                f,
                "{flag}: this proxy was built without {feature}; build it with --features {feature}"
            ),
            Self::Value { flag, seen, accepted } => {
                write!(f, "{flag}: {:?}; expected {accepted}", without_secrets(seen))
            }
        }
    }
}

/// A value without passwords: errors end up in logs. The URL of a socket (`redis+unix:`) has its password in the query.
fn without_secrets(value: &str) -> Cow<'_, str> {
    let at = if value.starts_with("redis") { value.find("pass=") } else { None };
    let Some((before, secret)) = at.map(|at| value.split_at(at + "pass=".len())) else {
        return without_password(value);
    };
    let after = secret.find('&').map_or("", |end| &secret[end..]);
    format!("{}***{after}", without_password(before)).into()
}
