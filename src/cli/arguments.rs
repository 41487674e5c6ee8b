//! Flags as they were given: on the command line, or else in the environment. Their values are not read here.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use pico_args::Arguments;

use crate::cli::closest::closest;
use crate::cli::environment;
use crate::cli::error::UsageError;
use crate::cli::flags::{self, Flag, Shape};

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
    /// The value of a flag, and the name under which the user gave it, for error messages: a variable's where
    /// it comes from the environment. `None` if it was not given, whatever its default is.
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

    /// Whether a switch is on: given, or set by its variable.
    pub fn is_on(&self, name: &'static str) -> bool {
        self.switches.get(name).copied().unwrap_or(false)
    }

    /// Warnings about the environment, a line each: variables that are ignored or will be.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes all flags of the program out of `words`; what is left is positional, or not known.
    pub(super) fn read(
        words: &mut Arguments,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, UsageError> {
        let mut args = Self::default();
        for flag in flags::all() {
            let found = environment::find(flag, &variable);
            args.notes.extend(found.note);
            if flag.is_alone() {
                let on = match found.value {
                    Some((value, variable)) => switch_value(variable, &value)?,
                    None => false,
                };
                args.switches.insert(flag.name, words.contains(flag.name) || on);
            } else if flag.is_repeated {
                let parts = list(words, flag, found.value.map(|(value, _)| value))?;
                args.lists.insert(flag.name, parts);
            } else {
                let given = words
                    .opt_value_from_os_str(flag.name, |word| Ok::<_, UsageError>(word.into()))
                    .map_err(|_| UsageError::NoValue(flag.name, flag.value))?
                    .map(|word| (word, Source::CommandLine));
                let set = found.value.map(|(word, name)| (word, Source::Environment(name)));
                // What was typed just now outranks what lies in the environment.
                args.values.extend(given.or(set).map(|value| (flag.name, value)));
            }
        }
        Ok(args)
    }

    /// Gives a flag the value of a positional word.
    pub(super) fn set(&mut self, name: &'static str, word: OsString) -> Result<(), UsageError> {
        if let Some((_, Source::CommandLine)) = self.values.get(name) {
            return Err(UsageError::Twice(name));
        }
        self.values.insert(name, (word, Source::CommandLine));
        Ok(())
    }
}

/// All values of a flag that may be repeated: the flag may come several times, and each time hold several values
/// with commas.
fn list(
    words: &mut Arguments,
    flag: &'static Flag,
    set: Option<OsString>,
) -> Result<Vec<String>, UsageError> {
    let given = repeated(words, flag)?;
    // In a script it is a variable that is not set: nobody wants a flag without a value.
    if given.iter().any(|word| word.is_empty()) {
        return Err(UsageError::NoValue(flag.name, flag.value));
    }
    // The command line replaces the variable's list and does not add to it, so that a value can be taken back.
    let given = if given.is_empty() { set.into_iter().collect() } else { given };
    let parts = given.iter().flat_map(|word| {
        let text = word.to_string_lossy().into_owned();
        text.split(',').map(|part| part.trim().to_string()).collect::<Vec<_>>()
    });
    Ok(parts.filter(|part| !part.is_empty()).collect())
}

/// All values of a flag, as they were typed.
pub(super) fn repeated(
    words: &mut Arguments,
    flag: &'static Flag,
) -> Result<Vec<OsString>, UsageError> {
    words
        .values_from_os_str(flag.name, |word| Ok::<_, UsageError>(word.to_os_string()))
        .map_err(|_| UsageError::NoValue(flag.name, flag.value))
}

/// Reads the variable of a switch. Any text for "on" would make `CACHING_PROXY_INSECURE=0` switch it on.
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

/// What is wrong with a flag that is left over when all known ones are taken: it was given twice, or with a value
/// that it has not, or nobody knows it. `own` are the flags of the command, if there is one.
pub(super) fn unknown(word: &str, own: &'static [Flag]) -> UsageError {
    let name = word.split('=').next().unwrap_or(word);
    let known = || flags::all().chain(own);
    if let Some(flag) = known().find(|flag| flag.name == name) {
        return match word.split_once('=') {
            Some((_, seen)) => UsageError::Value {
                flag: flag.name.to_string(),
                seen: seen.to_string(),
                accepted: Shape::Switch.accepted(),
            },
            None => UsageError::Twice(flag.name),
        };
    }
    UsageError::Unknown(name.to_string(), closest(name, known().map(|flag| flag.name)))
}
