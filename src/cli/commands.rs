//! The table of commands: one record a command, from which its help, its line in `--help` and its own flags
//! come. `task.rs` reads the words after the name.

use crate::cli::flags::{Flag, Shape, flag};

/// All that texts say of a command.
pub(super) struct CommandHelp {
    /// As it is typed behind `proxy`.
    pub name: &'static str,
    /// How it is used, in one line; errors show it, too.
    pub usage: &'static str,
    /// What it does, in one line of `--help`.
    pub summary: &'static str,
    /// What it does, in sentences.
    pub meaning: &'static str,
    /// What stands behind its name, for completions.
    pub operand: Operand,
    /// The flags that it alone has.
    pub flags: &'static [Flag],
    /// Flags of the program, and what they say here.
    pub general: &'static [(&'static str, &'static str)],
    /// A command line that works.
    pub example: &'static str,
    /// When the exit code is 1; empty if it never is.
    pub failure: &'static str,
}

/// What stands behind the name of a command and is no flag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    /// Nothing.
    None,
    /// A URL or a path of the origin server.
    Url,
    /// The path of a file, or `-`.
    File,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a command.
    Command,
}

// What these flags say to the proxy itself ("port to listen on") would mislead here.
const PORT: (&str, &str) = ("--port N", "the running proxy on this port; needed where several run");
// `purge` alone is about all running proxies, unless it is told otherwise.
const PORTS: (&str, &str) = ("--port N", "only the running proxy on this port");
const STORE: (&str, &str) =
    ("--store S", "the running proxy that uses this store; the store itself where none does");
const STORES: (&str, &str) =
    ("--store S", "the running proxies that use this store; the store itself where none does");
const ORIGIN: (&str, &str) =
    ("--origin URL", "the origin server; needed with a store that no running proxy uses");
const PATH_ORIGIN: (&str, &str) =
    ("--origin URL", "the origin server of a path; needed with a store that no running proxy uses");
const JSON: Flag = flag("--json", "", Shape::Action, "print JSON, for programs");
const ANY_TEXT: Shape = Shape::Text("any text");

/// All commands, in the order of `--help`.
#[rustfmt::skip]
pub(super) static COMMANDS: [CommandHelp; 11] = [
    CommandHelp {
        name: "explain",
        usage: "proxy explain [-H 'Name: value']... [flags] PATH",
        summary: "show what the cache does with a request, and which rules decide",
        meaning: "Makes one request for PATH and shows what is stored, what the origin server was asked and \
            answered, and which rules decide about storing and reusing the response. Nothing is stored and no \
            counter moves.\n\nThe running proxy makes the request. With --origin, or where none runs, a proxy with \
            the given flags is described instead: all flags of proxy count then.",
        operand: Operand::Url,
        flags: &[
            flag("-H", "'Name: value'", Shape::Text("a field line, such as 'Accept: text/html'"),
                "a field of the request; may be repeated").repeated(),
        ],
        general: &[PORT, ("--origin URL", "ask this origin server, not the running proxy")],
        example: "proxy explain --origin https://dummyjson.com -H 'Accept: */*' /products/1",
        failure: "the origin server gave no response",
    },
    CommandHelp {
        name: "purge",
        usage: "proxy purge URL | --prefix P | --match GLOB | --tag T | --stale | --all [--port N]",
        summary: "remove stored responses",
        meaning: "Removes stored responses and prints their number. URL is a URL or a path. Exactly one of URL \
            and the flags below says which responses go. A response that is being received during the purge is \
            not stored after it.",
        operand: Operand::Url,
        flags: &[
            flag("--prefix", "P", ANY_TEXT, "responses whose URL or path begins with P"),
            flag("--match", "GLOB", ANY_TEXT, "responses whose URL matches; * and ? stand for any characters"),
            flag("--tag", "T", ANY_TEXT, "responses with this tag (Surrogate-Key, Cache-Tag, xkey)"),
            flag("--stale", "", Shape::Action, "stale responses"),
            flag("--all", "", Shape::Action, "all responses"),
        ],
        general: &[PORTS, STORES, PATH_ORIGIN],
        example: "proxy purge --match '*.png'",
        failure: "one of the caches that are meant could not be purged; that nothing was stored is no failure",
    },
    CommandHelp {
        name: "list",
        usage: "proxy list [--json] [--port N]",
        summary: "list stored responses",
        meaning: "Lists all stored responses in the order of their URLs, one a line: size, age, remaining \
            freshness and number of hits. With --json each line is one object.",
        operand: Operand::None,
        flags: &[JSON],
        general: &[PORT, STORE],
        example: "proxy list --json --port 3000",
        failure: "no cache could be asked",
    },
    CommandHelp {
        name: "show",
        usage: "proxy show URL [--json] [--port N]",
        summary: "show what is stored for one URL: variants, fields, freshness",
        meaning: "Shows everything stored for a URL or path: each variant, its fields and its freshness.",
        operand: Operand::Url,
        flags: &[JSON],
        general: &[PORT, STORE, PATH_ORIGIN],
        example: "proxy show /products/1",
        failure: "nothing is stored for URL, or no cache could be asked",
    },
    CommandHelp {
        name: "stats",
        usage: "proxy stats [--json | --quiet] [--port N]",
        summary: "show the counters of a running proxy",
        meaning: "Shows the counters, latencies and sizes of a running proxy.",
        operand: Operand::None,
        flags: &[
            JSON,
            flag("--quiet", "", Shape::Action, "print nothing: the exit code says whether the proxy answers"),
        ],
        general: &[PORT, ("--store S", "the running proxy that uses this store")],
        example: "proxy stats --json",
        failure: "no running proxy could be asked",
    },
    CommandHelp {
        name: "top",
        usage: "proxy top [--count N] [--port N]",
        summary: "watch a running proxy, second by second",
        meaning: "Shows what a running proxy did in the last second, minute and hour and since its start: requests, hit \
            ratio, bytes, origin requests and those that were saved, latencies, why misses missed, the origin server's \
            state, and the newest requests. In a terminal the figures are redrawn each second, and q ends it; elsewhere \
            each second is a line of its own. The proxy remembers its minute and hour; one of an older version does \
            not, and they begin with the command.",
        operand: Operand::None,
        flags: &[
            flag("--count", "N", Shape::Number(1, u64::MAX), "end after N seconds")
                .absent("until it is ended"),
        ],
        general: &[PORT, ("--store S", "the running proxy that uses this store")],
        example: "proxy top --port 3000",
        failure: "no running proxy could be asked, or it has ended",
    },
    CommandHelp {
        name: "warm",
        usage: "proxy warm FILE|- [-j N] [--port N | --origin URL --store S]",
        summary: "fetch a list of URLs, or a sitemap, into the cache",
        meaning: "Fetches the URLs in FILE, so that their responses are stored; stale ones are validated. FILE has \
            one URL or path a line, or is a sitemap; - is the standard input. Prints how many were fetched, \
            refreshed, already stored, waited for, not stored (and why) and failed.",
        operand: Operand::File,
        flags: &[
            flag("-j", "N", Shape::Number(1, 256), "requests at a time").default("4"),
        ],
        general: &[PORT, STORE, ORIGIN],
        example: "proxy warm urls.txt -j 8",
        failure: "a URL failed or could not be refreshed",
    },
    CommandHelp {
        name: "export",
        usage: "proxy export FILE|- [--with-secrets] [--port N | --store S]",
        summary: "write the cache to an HTTP Archive (HAR)",
        meaning: "Writes all stored responses to FILE as an HTTP Archive, which the tools of browsers read; - is the \
            standard output. Parts of responses (206) and bodies above 64 MiB are left out. Contents are not searched \
            for secrets.",
        operand: Operand::File,
        flags: &[
            flag("--with-secrets", "", Shape::Action, "keep Set-Cookie fields and API keys in URLs"),
        ],
        general: &[PORT, STORE],
        example: "proxy export api.har",
        failure: "FILE could not be written, or no cache could be asked",
    },
    CommandHelp {
        name: "import",
        usage: "proxy import FILE|- [--port N | --store S]",
        summary: "store the responses of an HTTP Archive (HAR)",
        meaning: "Stores the responses in the HTTP Archive FILE; - is the standard input. Their dates are moved to \
            now. Prints what was left out and why: what may not be stored (--cache-mode force stores it anyway), \
            and what is of another origin server.",
        operand: Operand::File,
        flags: &[],
        general: &[PORT, STORE, ("--origin URL", "with a store: import only the responses of this origin server")],
        example: "proxy import api.har --store sqlite:ci.db",
        failure: "FILE could not be read, or no cache could be asked",
    },
    CommandHelp {
        name: "completions",
        usage: "proxy completions bash|zsh|fish",
        summary: "print what completes command lines in a shell",
        meaning: "Prints a script with which the shell completes commands, flags and their values. bash reads it from \
            ~/.local/share/bash-completion/completions/proxy, fish from ~/.config/fish/completions/proxy.fish, and zsh \
            from _proxy in a folder of its $fpath.",
        operand: Operand::Choice(&["bash", "zsh", "fish"]),
        flags: &[],
        general: &[],
        example: "proxy completions fish",
        failure: "",
    },
    CommandHelp {
        name: "help",
        usage: "proxy help [COMMAND | FLAG | --man]",
        summary: "show all flags and commands, one of them, or the manual page",
        meaning: "Shows all flags and commands, how COMMAND is used, or what FLAG is for. With --man it prints the manual \
            page, which man shows: proxy help --man | man -l -",
        operand: Operand::Command,
        flags: &[flag("--man", "", Shape::Action, "print the manual page, for man")],
        general: &[],
        example: "proxy help --man",
        failure: "",
    },
];

/// The record of a command.
pub(super) fn find(name: &str) -> Option<&'static CommandHelp> {
    COMMANDS.iter().find(|command| command.name == name)
}

impl CommandHelp {
    /// The record of a flag that this command alone has.
    pub(super) fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }
}
