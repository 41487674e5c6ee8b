//! The manual page, which `proxy help --man` prints: proxy(1), in the `man` macros that groff and mandoc read.
//!
//! Everything about flags and commands comes from their tables. Texts are those of `--help` and of
//! `docs/flags.md`, with each character that roff would read as its own escaped.

use std::fmt::Write as _;

use crate::cli::commands::{COMMANDS, CommandHelp};
use crate::cli::environment::variable_name;
use crate::cli::flags::{Flag, GROUPS};
use crate::cli::help::{EXAMPLES, EXIT_CODES, marked};

/// The date of the newest version in `CHANGELOG.md`. Not the day of the build: the same source gives the same
/// page.
const DATE: &str = "2026-11-26";
/// How long a line of the page's source may be, in bytes before escaping: `mandoc -Tlint` warns above 80.
const LINE_BYTES_MAX: usize = 72;

const DESCRIPTION: [&str; 4] = [
    "proxy listens on a port of this machine, passes requests on to one origin server, stores the responses that \
     HTTP permits it to store (RFC 9111), and answers with them for as long as they are fresh.",
    "The first line of its standard output is `listening on http://127.0.0.1:3000`; the log goes to standard \
     error. Each response says in its Cache-Status field (RFC 9211) whether it comes from the cache and, if not, \
     why.",
    "With only a PORT, that port is listened on. HOST PORT ORIGIN stand for --host, --port and --origin. A COMMAND \
     inspects or changes running proxies and stores.",
    "SIGTERM and SIGINT let requests under way finish; a second signal ends at once. SIGHUP opens the access log \
     again.",
];
/// How values are written.
const UNITS: &str = "\
D is a duration: seconds, or a number with ms, s, m, h or d. SIZE is in bytes, or with K, M or G. A flag without a \
value is off unless it is given. `--flag VALUE` and `--flag=VALUE` are the same. A flag that may be repeated takes \
several values with commas, too.";
/// Variables that are not the default of one flag.
const VARIABLES: [(&str, &str); 7] = [
    (
        "CACHING_PROXY_…",
        "The default of a flag, for example CACHING_PROXY_CACHE_TTL for --cache-ttl; each is named with its flag. \
         The command line outranks it. Switches take 1, true, yes, on and 0, false, no, off. An empty variable \
         counts as not set.",
    ),
    (
        "http_proxy, https_proxy, all_proxy, no_proxy",
        "Another proxy through which the origin server is reached, and for which hosts it is not used; also in \
         capital letters, except HTTP_PROXY.",
    ),
    ("SSL_CERT_FILE", "The trusted root certificates, in place of the system's."),
    ("XDG_CACHE_HOME, HOME", "Where the sqlite file is if --store names none."),
    ("XDG_RUNTIME_DIR", "Where the control sockets are."),
    ("NO_COLOR", "If it is not empty, `proxy top` shows plain letters only."),
    ("NOTIFY_SOCKET, LISTEN_FDS", "Set by systemd: it is told of the start, and opens the socket."),
];
const FILES: [(&str, &str); 2] = [
    (
        "$XDG_RUNTIME_DIR/caching-proxy/PORT.sock",
        "The control socket of the proxy on that port, open to its user alone. Without the variable, the folder is \
         caching-proxy-UID in the temporary folder.",
    ),
    (
        "$XDG_CACHE_HOME/caching-proxy/cache.db",
        "The store of `--store sqlite`. Without the variable, it is below ~/.cache.",
    ),
];
const SEE_ALSO: &str = "\
RFC 9110 (HTTP semantics), RFC 9111 (HTTP caching), RFC 9211 (Cache-Status), curl(1).";

/// The page.
pub(super) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    // Neither hyphenated nor spread out: words that are typed are to be copied and searched for.
    let mut page = format!(
        ".\\\" Printed by proxy help --man.\n.TH PROXY 1 {DATE} \"proxy {version}\" \"User Commands\"\n\
         .nh\n.ad l\n.SH NAME\nproxy \\- an HTTP caching reverse proxy\n.SH SYNOPSIS\n"
    );
    let forms = ["[flags]", "PORT [flags]", "HOST PORT ORIGIN [flags]", "COMMAND [flags]"];
    for (index, form) in forms.iter().enumerate() {
        let between = if index == 0 { "" } else { ".br\n" };
        let _ = writeln!(page, "{between}.B proxy\n{}", escaped(form));
    }
    page += ".SH DESCRIPTION\n";
    page += &paragraphs(&DESCRIPTION);
    page += ".SH COMMANDS\n";
    page.extend(COMMANDS.iter().map(of_command));
    page += ".SH OPTIONS\n";
    page += &prose(UNITS);
    for (title, flags) in &GROUPS {
        let _ = writeln!(page, ".SS {}", escaped(title));
        page.extend(flags.iter().map(|flag| of_flag(flag, variable_name(flag))));
    }
    page += &section("ENVIRONMENT", &VARIABLES);
    page += &section("EXIT STATUS", &EXIT_CODES);
    page += &section("FILES", &FILES);
    page += ".SH EXAMPLES\n";
    for (line, meaning) in EXAMPLES {
        page += &term(line, meaning);
    }
    page + ".SH SEE ALSO\n" + &prose(SEE_ALSO)
}

/// A command: how it is used, what it does, and the flags that it alone has.
fn of_command(command: &CommandHelp) -> String {
    let mut text = format!(".SS proxy {}\n", escaped(command.name));
    // The name is part of the usage, which is longer than a line can be without a break in it.
    text += &prose(&format!("`{}`", command.usage));
    text += ".PP\n";
    text += &paragraphs(&command.meaning.split("\n\n").collect::<Vec<_>>());
    text.extend(command.flags.iter().map(|flag| of_flag(flag, None)));
    for (usage, meaning) in command.general {
        text += &term(usage, &sentence(&marked(meaning)));
    }
    text += &term("Example", &format!("`{}`", command.example));
    text
}

/// A flag: usage, meaning, default, bounds, and the variable that sets the default, if one does.
fn of_flag(flag: &Flag, variable: Option<String>) -> String {
    let mut meaning = sentence(&marked(flag.short));
    if !flag.long.is_empty() {
        let _ = write!(meaning, " {}", marked(flag.long));
    }
    match flag.default_shown().as_str() {
        "" | "none" | "off" => {}
        default => _ = write!(meaning, " Default: {}.", marked(default)),
    }
    if !flag.is_alone() {
        let _ = write!(meaning, " Accepted: {}.", marked(&flag.shape.accepted()));
    }
    if let Some(variable) = variable {
        let _ = write!(meaning, " Variable: `{variable}`.");
    }
    term(&flag.usage(), &meaning)
}

/// A text as a sentence: with a capital letter, unless it begins with a word that is typed, and a full stop.
fn sentence(text: &str) -> String {
    let mut text = text.to_string();
    text[..1].make_ascii_uppercase();
    text + "."
}

/// A section of terms and their meanings.
fn section(title: &str, terms: &[(&str, &str)]) -> String {
    let terms: String = terms.iter().map(|(name, meaning)| term(name, meaning)).collect();
    format!(".SH {title}\n{terms}")
}

/// A term in bold, and indented below it what it means.
fn term(name: &str, meaning: &str) -> String {
    format!(".TP\n\\fB{}\\fR\n{}", code(name), prose(meaning))
}

fn paragraphs(texts: &[&str]) -> String {
    texts.iter().map(|text| prose(text)).collect::<Vec<_>>().join(".PP\n")
}

/// Text in lines: a new sentence begins a new one, so that roff sets the space behind it. What stands in
/// backticks is bold.
fn prose(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    let mut is_code = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !line.is_empty() && line.len() + 1 + word.len() > LINE_BYTES_MAX {
            push_line(&mut out, &line, &mut is_code);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        let is_in_code = is_code != (line.matches('`').count() % 2 == 1);
        // A question mark that stands alone is a word: a glob's.
        if word.len() > 1 && word.ends_with(['.', '?', '!']) && !is_in_code {
            push_line(&mut out, &line, &mut is_code);
            line.clear();
        }
    }
    if !line.is_empty() {
        push_line(&mut out, &line, &mut is_code);
    }
    out
}

/// Adds one line, escaped; `is_code` says whether it begins in backticks, and then whether the next one does.
fn push_line(out: &mut String, line: &str, is_code: &mut bool) {
    // A dot or a quote at the beginning of a line makes it a request of roff's.
    if line.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    for (index, part) in line.split('`').enumerate() {
        if index > 0 {
            *is_code = !*is_code;
            out.push_str(if *is_code { "\\fB" } else { "\\fR" });
        }
        if *is_code {
            out.push_str(&code(part));
            continue;
        }
        for (index, word) in part.split(' ').enumerate() {
            out.push_str(if index > 0 { " " } else { "" });
            // A path is copied, too, and not broken at its hyphens.
            out.push_str(&if word.contains('/') { code(word) } else { escaped(word) });
        }
    }
    out.push('\n');
}

/// Text with what roff reads as its own escaped.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\e"),
            '"' => out.push_str("\\(dq"),
            // Not every roff reads UTF-8.
            _ if !letter.is_ascii() => _ = write!(out, "\\[u{:04X}]", u32::from(letter)),
            _ => out.push(letter),
        }
    }
    out
}

/// The same for what is typed: hyphens, quotes and carets stay what they are, so that it can be copied.
fn code(text: &str) -> String {
    let mut out = String::new();
    for letter in escaped(text).chars() {
        match letter {
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags;

    #[test]
    fn the_page_has_every_flag_and_every_command() {
        let page = page();
        let own = COMMANDS.iter().flat_map(|command| command.flags);
        for flag in flags::all().chain(own) {
            let term = format!("\n\\fB{}\\fR\n", code(&flag.usage()));
            assert!(page.contains(&term), "{}", flag.name);
        }
        for variable in flags::all().filter_map(variable_name) {
            assert!(page.contains(&format!("\\fB{variable}\\fR.\n")), "{variable}");
        }
        for command in &COMMANDS {
            assert!(page.contains(&format!("\n.SS proxy {}\n", command.name)), "{}", command.name);
        }
        let sections = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "COMMANDS",
            "OPTIONS",
            "ENVIRONMENT",
            "EXIT STATUS",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
        ];
        let at = sections.map(|name| page.find(&format!("\n.SH {name}\n")).expect(name));
        assert!(at.is_sorted(), "{at:?}");
    }

    #[test]
    fn what_roff_reads_as_its_own_is_escaped() {
        #[rustfmt::skip]
        let table = [
            ("plain-text", "plain-text\n"),
            ("in ~/a-b/c now", "in \\(ti/a\\-b/c now\n"),
            (".TH `.x` 'y'", "\\&.TH \\fB.x\\fR 'y'\n"),
            ("'quoted'", "\\&'quoted'\n"),
            ("`--flag=a'b^~` \\n \"q\" …", "\\fB\\-\\-flag=a\\(aqb\\(ha\\(ti\\fR \\en \\(dqq\\(dq \\[u2026]\n"),
            ("One. Two. `a. b` Three", "One.\nTwo.\n\\fBa. b\\fR Three\n"),
        ];
        for (text, expected) in table {
            assert_eq!(prose(text), expected, "{text}");
        }
        // A line that is broken inside of backticks goes on in bold.
        let long = format!("`{} .dot`", "word ".repeat(14).trim_end());
        assert_eq!(prose(&long), format!("\\fB{}\n\\&.dot\\fR\n", "word ".repeat(14).trim_end()));
    }

    #[test]
    fn its_date_is_that_of_the_newest_version() {
        let changes = include_str!("../../CHANGELOG.md");
        let newest = changes.lines().filter_map(|line| line.strip_prefix("## ")?.split_once(" - "));
        assert_eq!(newest.map(|(_, date)| date).next(), Some(DATE));
    }
}
