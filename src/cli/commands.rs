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

/// What each does, for its own help.
const MEANING: [(&str, &str); 8] = [
    (
        "explain",
        "Makes the request PATH and says what is stored, what was asked and answered, and which rules decide about\n\
         storing and reusing it. Nothing is stored. The running proxy is asked; with --origin URL the flags\n\
         describe another one. Exit code 1 if there was no answer.",
    ),
    (
        "purge",
        "Removes stored responses and says how many: those of one URL or path; of all that begin with P; that match\n\
         GLOB (* and ?); that have the tag T (Surrogate-Key, Cache-Tag, xkey); that are stale; or all. One of these.",
    ),
    ("list", "Lists what is stored, in the order of URLs; with --json one object a line."),
    (
        "show",
        "Shows all about what is stored for a URL or path: every variant, its fields and its freshness.",
    ),
    ("stats", "Shows the counters of a running proxy."),
    (
        "warm",
        "Fetches the URLs of FILE (one a line, or a sitemap; - is the standard input), N at a time [4], so that they\n\
         are stored; what is stale is validated. Says what became of them. Exit code 1 if one failed.",
    ),
    (
        "export",
        "Writes what is stored into FILE (- is the standard output) as an HTTP Archive. Cookies and keys of APIs are\n\
         left out without --with-secrets.",
    ),
    (
        "import",
        "Stores what the HTTP Archive FILE (- is the standard input) has, and says what was left out.",
    ),
];

/// The help for one command.
pub(super) fn help(name: &str) -> Option<String> {
    let (_, usage) = USAGE.iter().find(|(known, _)| *known == name)?;
    let (_, meaning) = MEANING.iter().find(|(known, _)| *known == name)?;
    Some(format!(
        "Usage: {usage}\n\n{meaning}\n\nThe running proxy is meant, --port N says which; with --store S those that use \
         that store, or the store itself.\nAll flags: proxy --help\n"
    ))
}

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
    let fields = match name {
        "explain" => repeated(&mut words, "-H", "'Name: value'")?,
        _ => Vec::new(),
    };
    let fields = fields.into_iter().map(text).collect();
    let json = matches!(name, "list" | "show" | "stats") && words.contains("--json");
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
            ([_, ..], _) => return Err(UsageError::Several(name, usage)),
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
    use crate::cli::{self, Command, parse};

    fn task(line: &str) -> Result<Task, String> {
        let words = line.split(' ').map(OsString::from).collect();
        match parse(words, |_| None) {
            Ok(Command::Do(_, task)) => Ok(task),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn each_command_has_its_own_help() {
        for name in super::names() {
            let own = help(name).expect("it has one");
            for line in [format!("{name} --help"), format!("{name} x y -h"), format!("help {name}")]
            {
                let read = parse(line.split(' ').map(OsString::from).collect(), |_| None);
                assert!(matches!(read, Ok(Command::Help(text)) if text == own), "{line}");
            }
        }
        for line in ["--help", "help", "-h --port 1", "help me", "frobnicate --help"] {
            let read = parse(line.split(' ').map(OsString::from).collect(), |_| None);
            assert!(matches!(read, Ok(Command::Help(text)) if text == cli::help()), "{line}");
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
        for line in ["purge /a --stale", "purge --tag t --all", "purge --tag a --tag b"] {
            let told = task(line).expect_err(line);
            assert!(told.starts_with("purge: one at a time; expected proxy "), "{line}: {told}");
        }
        // A flag of another command does nothing here, and who gives it expects something.
        for line in
            ["purge /a --json", "warm - --json", "list -H a:b", "show /a --all", "list -j 2"]
        {
            let told = task(line).expect_err(line);
            assert!(told.contains(": unknown flag; "), "{line}: {told}");
        }
        assert_eq!(
            task("list --verbosely"),
            Err("--verbosely: unknown flag; see proxy --help".into())
        );
    }
}
