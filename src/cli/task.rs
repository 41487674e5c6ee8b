//! Commands: the words after the name of one, read into a [`Task`]. What they do is the program's.

use std::ffi::{OsStr, OsString};

use pico_args::Arguments;

use crate::cli::arguments::{Args, repeated, unknown};
use crate::cli::commands::{self, CommandHelp};
use crate::cli::error::UsageError;
use crate::cli::flags::DefaultValue;

/// What to do, other than to run a proxy.
#[derive(Debug, Eq, PartialEq)]
pub enum Task {
    /// `proxy explain`: make one request and show which rules decide about it.
    Explain {
        /// The request's target, or a URL.
        target: String,
        /// The request's fields, `Name: value` each.
        fields: Vec<String>,
    },
    /// `--clear-cache`: remove everything, from running proxies and from the store.
    Clear,
    /// `proxy purge`: remove what is selected, by the control interface's name of the selector and its value.
    Purge(&'static str, String),
    /// `proxy list`: all stored responses.
    List {
        /// `--json`: one object a line.
        json: bool,
    },
    /// `proxy show`: what is stored for one URL.
    Show {
        /// The URL, or its path.
        url: String,
        /// `--json`: for programs.
        json: bool,
    },
    /// `proxy warm`: fetch the URLs of a list or a sitemap.
    Warm {
        /// The file; `-` is the standard input.
        file: String,
        /// `-j`: requests at a time, at least 1.
        jobs: usize,
    },
    /// `proxy export`: the cache as an HTTP Archive.
    Export {
        /// The file; `-` is the standard output.
        file: String,
        /// `--with-secrets`: keep `Set-Cookie` and API keys in URLs.
        with_secrets: bool,
    },
    /// `proxy import`: store the responses of an HTTP Archive.
    Import {
        /// The file; `-` is the standard input.
        file: String,
    },
    /// `proxy stats`: the counters.
    Stats(StatsForm),
    /// `proxy top`: the counters, each second anew.
    Top {
        /// `--count`: after how many seconds it ends, at least 1; `None`: not by itself.
        count: Option<u64>,
    },
}

impl Task {
    /// Is what it prints JSON alone?
    pub fn prints_json(&self) -> bool {
        matches!(
            self,
            Self::List { json: true }
                | Self::Show { json: true, .. }
                | Self::Stats(StatsForm::Json)
        )
    }
}

/// How `proxy stats` answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StatsForm {
    /// For people.
    Text,
    /// `--json`: for programs.
    Json,
    /// `--quiet`: by the exit code alone.
    Quiet,
}

/// Reads the words after the name of a command; `None` if it is none.
pub(super) fn read(
    name: &str,
    words: Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<Result<(Args, Task), UsageError>> {
    let command = commands::find(name)?;
    Some(read_known(command, words, variable))
}

fn read_known(
    command: &'static CommandHelp,
    mut words: Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(Args, Task), UsageError> {
    let (name, usage) = (command.name, command.usage);
    // A flag of another command is left over and refused below: the user expects it to do something.
    let fields = own_values(command, "-H", &mut words)?;
    let json = is_on(command, "--json", &mut words);
    let with_secrets = is_on(command, "--with-secrets", &mut words);
    let jobs = number(command, "-j", &mut words)?;
    let count = number(command, "--count", &mut words)?;
    let selected = selected(command, &mut words)?;
    let form = stats_form(command, json, &mut words)?;
    let args = Args::read(&mut words, variable)?;
    let rest: Vec<String> = words.finish().into_iter().map(text).collect();
    // `-` alone is no flag but the standard input or output.
    if let Some(word) = rest.iter().find(|word| word.starts_with('-') && word.len() > 1) {
        return Err(unknown(word, command.flags));
    }
    let wrong = || UsageError::Words(name, rest.len(), usage);
    let one = || match &rest[..] {
        [word] => Ok(word.clone()),
        _ => Err(wrong()),
    };
    let none = |task| if rest.is_empty() { Ok(task) } else { Err(wrong()) };
    let task = match name {
        "explain" => Task::Explain { target: one()?, fields },
        "list" => none(Task::List { json })?,
        "show" => Task::Show { url: one()?, json },
        "stats" => none(Task::Stats(form))?,
        "top" => none(Task::Top { count })?,
        // At most 256, as its record says.
        "warm" => Task::Warm { file: one()?, jobs: jobs.unwrap_or(1) as usize },
        "export" => Task::Export { file: one()?, with_secrets },
        "import" => Task::Import { file: one()? },
        "purge" => match (&selected[..], &rest[..]) {
            ([], [url]) => Task::Purge("url", url.clone()),
            ([(what, value)], []) => Task::Purge(what, value.clone()),
            // The first of several would leave the others stored, and nobody would notice.
            ([_, ..], _) => return Err(UsageError::Several(name, usage)),
            _ => return Err(wrong()),
        },
        // A command that were read as another one could remove what it should show.
        other => unreachable!("{other} is on the table of commands and is not read"),
    };
    Ok((args, task))
}

/// All values of a flag that the command alone has; none if it has no such flag.
fn own_values(
    command: &'static CommandHelp,
    name: &str,
    words: &mut Arguments,
) -> Result<Vec<String>, UsageError> {
    let Some(flag) = command.flag(name) else { return Ok(Vec::new()) };
    Ok(repeated(words, flag)?.into_iter().map(text).collect())
}

/// Was a flag given that stands alone, and does the command have it?
fn is_on(command: &'static CommandHelp, name: &'static str, words: &mut Arguments) -> bool {
    command.flag(name).is_some() && words.contains(name)
}

/// What `proxy stats` prints; an error if that is to be two things.
fn stats_form(
    command: &'static CommandHelp,
    json: bool,
    words: &mut Arguments,
) -> Result<StatsForm, UsageError> {
    match (json, is_on(command, "--quiet", words)) {
        (false, false) => Ok(StatsForm::Text),
        (true, false) => Ok(StatsForm::Json),
        (false, true) => Ok(StatsForm::Quiet),
        (true, true) => Err(UsageError::Several(command.name, command.usage)),
    }
}

/// The number that a flag of the command's own has, given or by default; `None` if there is none.
fn number(
    command: &'static CommandHelp,
    name: &'static str,
    words: &mut Arguments,
) -> Result<Option<u64>, UsageError> {
    let Some(flag) = command.flag(name) else { return Ok(None) };
    // The last of several counts, as `make -j` has it.
    let seen = match (own_values(command, name, words)?.pop(), flag.default) {
        (Some(word), _) => word,
        (None, DefaultValue::Value(word)) => word.to_string(),
        (None, _) => return Ok(None),
    };
    match flag.shape.number(&seen) {
        Some(number) => Ok(Some(number)),
        None => Err(UsageError::Value {
            flag: flag.name.to_string(),
            seen,
            accepted: flag.shape.accepted(),
        }),
    }
}

/// What `proxy purge` is to select by flags: the control interface's names, and values.
fn selected(
    command: &'static CommandHelp,
    words: &mut Arguments,
) -> Result<Vec<(&'static str, String)>, UsageError> {
    let mut selected = Vec::new();
    if command.name != "purge" {
        return Ok(selected);
    }
    for flag in command.flags {
        // The control interface's selectors are named after the flags.
        let name = flag.name.trim_start_matches('-');
        if !flag.is_alone() {
            selected.extend(
                own_values(command, flag.name, words)?.into_iter().map(|word| (name, word)),
            );
        } else if words.contains(flag.name) {
            selected.push((name, "1".to_string()));
        }
    }
    Ok(selected)
}

fn text(word: impl AsRef<OsStr>) -> String {
    word.as_ref().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn task(line: &str) -> Result<Task, String> {
        let words = line.split(' ').map(OsString::from).collect();
        match parse(words, |_| None) {
            Ok(Command::Do(_, task)) => Ok(task),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn commands_are_read_with_their_flags_anywhere() {
        #[rustfmt::skip]
        let table = [
            ("purge /a", Task::Purge("url", "/a".into())),
            ("purge --port 3000 --prefix /a", Task::Purge("prefix", "/a".into())),
            ("purge --match *.png --port 1", Task::Purge("match", "*.png".into())),
            ("purge --tag t", Task::Purge("tag", "t".into())),
            ("purge --tag=t", Task::Purge("tag", "t".into())),
            ("purge /a?--tag=t", Task::Purge("url", "/a?--tag=t".into())),
            ("purge --stale", Task::Purge("stale", "1".into())),
            ("list --json", Task::List { json: true }),
            ("show /a", Task::Show { url: "/a".into(), json: false }),
            ("stats", Task::Stats(StatsForm::Text)),
            ("top", Task::Top { count: None }),
            ("top --count 3 --port 1", Task::Top { count: Some(3) }),
            ("warm - -j 8", Task::Warm { file: "-".into(), jobs: 8 }),
            ("warm urls.txt", Task::Warm { file: "urls.txt".into(), jobs: 4 }),
            ("export --with-secrets a.har", Task::Export { file: "a.har".into(), with_secrets: true }),
            ("import - --store sqlite", Task::Import { file: "-".into() }),
            ("--clear-cache --port 3000", Task::Clear),
            ("explain -H a:b /x", Task::Explain { target: "/x".into(), fields: vec!["a:b".into()] }),
        ];
        for (line, expected) in table {
            assert_eq!(task(line), Ok(expected), "{line}");
        }
        for line in ["purge", "purge /a /b", "purge /a --stale", "list x", "show", "explain"] {
            let told = task(line).expect_err(line);
            assert!(told.contains("expected proxy "), "{line}: {told}");
        }
        for line in ["purge /a --stale", "purge --tag t --all", "purge --tag a --tag b"] {
            let told = task(line).expect_err(line);
            assert!(told.starts_with("purge: one at a time; expected proxy "), "{line}: {told}");
        }
    }

    /// A flag of another command would do nothing here, in silence.
    #[test]
    fn a_flag_of_another_command_is_unknown_and_a_mistyped_one_is_named() {
        for line in [
            "purge /a --json",
            "warm - --json",
            "list -H a:b",
            "show /a --all",
            "list -j 2",
            "list --quiet",
        ] {
            let told = task(line).expect_err(line);
            assert!(told.contains(": unknown flag; "), "{line}: {told}");
        }
        assert_eq!(
            task("list --verbosely"),
            Err("--verbosely: unknown flag; see proxy --help".into())
        );
        #[rustfmt::skip]
        let mistyped = [
            ("list --jsn", "--jsn: unknown flag; did you mean --json?"),
            ("purge --prefx /a", "--prefx: unknown flag; did you mean --prefix?"),
            ("list --json --json", "--json: given twice; once is enough"),
            ("list --json=1", "--json: \"1\"; expected the flag alone, for it has no value"),
            ("top --count=0", "--count: \"0\"; expected a number, 1 or more"),
            ("warm - -j 0", "-j: \"0\"; expected a number from 1 to 256"),
            ("purge --prefix", "--prefix: no value; expected --prefix P"),
        ];
        for (line, expected) in mistyped {
            assert_eq!(task(line), Err(expected.into()), "{line}");
        }
    }

    #[test]
    fn stats_have_one_form() {
        for (line, form) in [
            ("stats", StatsForm::Text),
            ("stats --json", StatsForm::Json),
            ("stats --port 1 --quiet", StatsForm::Quiet),
        ] {
            assert_eq!(task(line), Ok(Task::Stats(form)), "{line}");
        }
        let told = task("stats --json --quiet").expect_err("two forms");
        assert!(told.starts_with("stats: one at a time; expected proxy stats "), "{told}");
    }
}
