//! What can be asked of running proxies, and of stores, from the command line: `proxy purge`, `proxy list`
//! and so on.

use std::ffi::{OsStr, OsString};

use pico_args::Arguments;

use crate::cli::{Args, UsageError, flags, repeated, unknown};

/// What to do, other than to run a proxy.
#[derive(Debug, Eq, PartialEq)]
pub enum Task {
    /// `proxy explain`: make one request and say what becomes of it.
    Explain {
        /// The request's target, or a URL.
        target: String,
        /// The request's fields, `Name: value` each.
        fields: Vec<String>,
    },
    /// `--clear-cache`: forget everything.
    Clear,
    /// `proxy purge`: forget what is selected, as the control interface calls it.
    Purge(&'static str, String),
    /// `proxy list`: all that is stored; as JSON, one object a line.
    List {
        /// `--json`
        json: bool,
    },
    /// `proxy show`: what is stored for one URL.
    Show {
        /// The URL, or its path.
        url: String,
        /// `--json`
        json: bool,
    },
    /// `proxy warm`: fetch what a list or a sitemap names.
    Warm {
        /// The file; `-` is the standard input.
        file: String,
        /// `-j`: how many at a time.
        jobs: usize,
    },
    /// `proxy export`: the cache as an HTTP Archive.
    Export {
        /// The file; `-` is the standard output.
        file: String,
        /// `--with-secrets`
        with_secrets: bool,
    },
    /// `proxy import`: and back.
    Import {
        /// The file; `-` is the standard input.
        file: String,
    },
    /// `proxy stats`: the counters.
    Stats {
        /// `--json`
        json: bool,
    },
}

/// How each is used; also the help's text.
pub(super) const USAGE: [(&str, &str); 9] = [
    ("explain", "proxy explain [-H 'Name: value']... [flags] PATH"),
    ("purge", "proxy purge URL | --prefix P | --match GLOB | --tag T | --stale | --all [--port N]"),
    ("list", "proxy list [--json] [--port N]"),
    ("show", "proxy show URL [--json] [--port N]"),
    ("stats", "proxy stats [--json] [--port N]"),
    ("warm", "proxy warm FILE|- [-j N] [--port N | --origin URL --store S]"),
    ("export", "proxy export FILE|- [--with-secrets] [--port N | --store S]"),
    ("import", "proxy import FILE|- [--port N | --store S]"),
    ("clear", "proxy --clear-cache [--store S] [--port N]"),
];

/// The names of the commands.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    USAGE.iter().map(|(name, _)| *name).filter(|name| *name != "clear")
}

/// Reads the words after the name of a command; `None` if it is none.
pub(super) fn read(
    name: &str,
    words: Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<Result<(Args, Task), UsageError>> {
    let (name, usage) = USAGE.iter().find(|(known, _)| *known == name && *known != "clear")?;
    Some(read_known(name, usage, words, variable))
}

fn read_known(
    name: &'static str,
    usage: &'static str,
    mut words: Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(Args, Task), UsageError> {
    let fields = repeated(&mut words, "-H", "'Name: value'")?.into_iter().map(text).collect();
    let json = words.contains("--json");
    let with_secrets = name == "export" && words.contains("--with-secrets");
    let jobs = if name == "warm" { jobs(&mut words)? } else { 1 };
    let selected = if name == "purge" { selected(&mut words)? } else { Vec::new() };
    let args = flags(&mut words, variable)?;
    let rest: Vec<String> = words.finish().into_iter().map(text).collect();
    if let Some(word) = rest.iter().find(|word| word.starts_with('-') && word.len() > 1) {
        return Err(unknown(word));
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
        "stats" => none(Task::Stats { json })?,
        "warm" => Task::Warm { file: one()?, jobs },
        "export" => Task::Export { file: one()?, with_secrets },
        "import" => Task::Import { file: one()? },
        _ => match (&selected[..], &rest[..]) {
            ([], [url]) => Task::Purge("url", url.clone()),
            ([(what, value)], []) => Task::Purge(what, value.clone()),
            _ => return Err(wrong()),
        },
    };
    Ok((args, task))
}

/// How many to fetch at a time.
fn jobs(words: &mut Arguments) -> Result<usize, UsageError> {
    const USUAL: usize = 4;
    const MOST: usize = 256;
    let Some(word) = repeated(words, "-j", "N")?.pop() else { return Ok(USUAL) };
    let (seen, accepted) = (text(&word), format!("a number from 1 to {MOST}"));
    let read = seen.parse().ok().filter(|jobs| (1..=MOST).contains(jobs));
    read.ok_or(UsageError::Value { flag: "-j".to_string(), seen, accepted })
}

/// What `proxy purge` is to select by flags.
fn selected(words: &mut Arguments) -> Result<Vec<(&'static str, String)>, UsageError> {
    let mut selected = Vec::new();
    for (flag, name, value) in
        [("--prefix", "prefix", "P"), ("--match", "match", "GLOB"), ("--tag", "tag", "T")]
    {
        for word in repeated(words, flag, value)? {
            selected.push((name, text(word)));
        }
    }
    for (flag, name) in [("--stale", "stale"), ("--all", "all")] {
        if words.contains(flag) {
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
            ("purge --stale", Task::Purge("stale", "1".into())),
            ("list --json", Task::List { json: true }),
            ("show /a", Task::Show { url: "/a".into(), json: false }),
            ("stats", Task::Stats { json: false }),
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
        assert_eq!(
            task("list --verbosely"),
            Err("--verbosely: unknown flag; see proxy --help".into())
        );
    }
}
