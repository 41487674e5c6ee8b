//! The table of flags: one record a flag, from which parsing, defaults, bounds, `--help`, `-h` and
//! `docs/flags.md` come.
//!
//! A default and a bound are written here and nowhere else: `config.rs` reads the text of a default as it
//! reads what the user types. The flags that one command alone has are in `commands.rs`, as the same records.

use crate::cli::units::{read_bytes, read_duration, show_bytes, show_milliseconds, whole_seconds};
#[cfg(feature = "redis")]
use crate::store::redis::FORMS;

/// What `--store` takes.
const STORES: &[&str] = &[
    "memory",
    #[cfg(feature = "sqlite")]
    "sqlite, sqlite:PATH",
    #[cfg(feature = "redis")]
    FORMS,
];

/// All there is to know of a flag.
#[derive(Debug)]
pub struct Flag {
    /// As it is typed: `--port`.
    pub name: &'static str,
    /// What stands for the value in texts; empty where the flag has none.
    pub value: &'static str,
    /// Unit and bounds of the value.
    pub shape: Shape,
    /// What holds without the flag.
    pub default: DefaultValue,
    /// May it be given several times, or once with commas?
    pub is_repeated: bool,
    /// Is it one of the twelve that `-h` shows?
    pub is_common: bool,
    /// What it does, in one line, for `-h` and `--help`.
    pub short: &'static str,
    /// What else there is to say, for `docs/flags.md`: whole sentences, or nothing.
    pub long: &'static str,
}

/// The unit of a value and its bounds, both ends included.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// No value: the program does something else than to run a proxy. No environment variable sets it.
    Action,
    /// No value: on or off.
    Switch,
    /// A whole number; `u64::MAX` is no upper bound.
    Number(u64, u64),
    /// Bytes; `u64::MAX` is no upper bound.
    Size(u64, u64),
    /// Time.
    Duration(DurationBound),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// What `--store` takes.
    Store,
    /// The path of a file.
    File,
    /// Anything else: what is accepted, in words. Its reader in `config.rs` knows the bounds.
    Text(&'static str),
}

/// Which durations are accepted.
#[derive(Clone, Copy, Debug)]
pub enum DurationBound {
    /// Zero, too.
    Any,
    /// A wait of no time at all would fail always.
    AboveZero,
    /// From so many milliseconds to so many.
    Milliseconds(u64, u64),
    /// What HTTP counts: its fields have no fractions of a second.
    WholeSeconds,
}

/// What holds without the flag.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// No value; the word says in texts what that means.
    Absent(&'static str),
    /// This value, read like one that the user types.
    Value(&'static str),
    /// These values: with `--store memory`, with sqlite, with redis.
    ByStore([&'static str; 3]),
}

/// A heading, and the flags below it.
pub type Group = (&'static str, &'static [Flag]);

/// A flag with the default that its shape has.
pub(super) const fn flag(
    name: &'static str,
    value: &'static str,
    shape: Shape,
    short: &'static str,
) -> Flag {
    let default = match shape {
        Shape::Action => DefaultValue::Absent(""),
        Shape::Switch => DefaultValue::Absent("off"),
        _ => DefaultValue::Absent("none"),
    };
    Flag { name, value, shape, default, is_repeated: false, is_common: false, short, long: "" }
}

impl Flag {
    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = DefaultValue::Value(value);
        self
    }

    pub(super) const fn absent(mut self, word: &'static str) -> Self {
        self.default = DefaultValue::Absent(word);
        self
    }

    const fn by_store(mut self, values: [&'static str; 3]) -> Self {
        self.default = DefaultValue::ByStore(values);
        self
    }

    pub(super) const fn repeated(mut self) -> Self {
        self.is_repeated = true;
        self
    }

    const fn common(mut self) -> Self {
        self.is_common = true;
        self
    }

    pub(super) const fn long(mut self, sentences: &'static str) -> Self {
        self.long = sentences;
        self
    }

    /// Does it stand alone?
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.shape, Shape::Action | Shape::Switch)
    }

    /// The flag and what stands for its value.
    pub(super) fn usage(&self) -> String {
        format!("{} {}", self.name, self.value).trim_end().to_string()
    }

    /// The default as texts show it; empty where there is nothing to say.
    pub(super) fn default_shown(&self) -> String {
        match self.default {
            DefaultValue::Absent(text) | DefaultValue::Value(text) => text.to_string(),
            DefaultValue::ByStore([memory, sqlite, redis]) => {
                format!("{memory}; {sqlite} with sqlite, {redis} with redis")
            }
        }
    }
}

/// No upper bound.
const ANY: u64 = u64::MAX;
// More is a typing error, and would be an error of the system only after thousands of threads.
const THREADS: Shape = Shape::Number(1, 4096);
// A wait of zero would not switch a timeout off but let everything fail.
const WAIT: Shape = Shape::Duration(DurationBound::AboveZero);
const SECONDS: Shape = Shape::Duration(DurationBound::WholeSeconds);
const NETWORK: Shape = Shape::Text("an address or a network, such as 127.0.0.1 or 10.0.0.0/8");

impl Shape {
    /// What is accepted: for errors ("expected ...") and for `docs/flags.md`.
    pub(super) fn accepted(self) -> String {
        const UNITS: &str = "bytes, or a number with K, M or G";
        match self {
            Self::Action | Self::Switch => "the flag alone, for it has no value".to_string(),
            Self::Number(least, ANY) => format!("a number, {least} or more"),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Size(0, _) => format!("a size: {UNITS}"),
            Self::Size(least, ANY) => format!("a size of at least {}: {UNITS}", show_bytes(least)),
            Self::Size(least, most) => {
                // G is left out: it would be above every upper bound that there is.
                let (least, most) = (show_bytes(least), show_bytes(most));
                format!("a size from {least} to {most}: bytes, or a number with K or M")
            }
            Self::Duration(DurationBound::Any) => {
                "a duration: 30, 500ms, 30s, 10m, 2h or 7d".to_string()
            }
            Self::Duration(DurationBound::AboveZero) => {
                "a duration above 0: 30, 500ms, 30s, 10m, 2h or 7d".to_string()
            }
            Self::Duration(DurationBound::Milliseconds(least, most)) => {
                let (least, most) = (show_milliseconds(least), show_milliseconds(most));
                format!("a duration from {least} to {most}")
            }
            Self::Duration(DurationBound::WholeSeconds) => {
                "a duration in whole seconds: 30, 30s, 10m, 2h or 7d".to_string()
            }
            Self::Choice(words) => words.join(", "),
            Self::Store => STORES.join(", "),
            Self::File => "the path of a file".to_string(),
            Self::Text(accepted) => accepted.to_string(),
        }
    }

    /// Reads a number within the bounds.
    pub(super) fn number(self, word: &str) -> Option<u64> {
        // Here and below, the wrong shape is a wrong name in `config.rs`: a bug, not a user's mistake.
        let Self::Number(least, most) = self else { unreachable!("{self:?} is no number") };
        word.parse().ok().filter(|number| (least..=most).contains(number))
    }

    /// Reads a size within the bounds.
    pub(super) fn bytes(self, word: &str) -> Option<u64> {
        let Self::Size(least, most) = self else { unreachable!("{self:?} is no size") };
        read_bytes(word).filter(|bytes| (least..=most).contains(bytes))
    }

    /// Reads a duration within the bounds.
    pub(super) fn duration(self, word: &str) -> Option<std::time::Duration> {
        let Self::Duration(span) = self else { unreachable!("{self:?} is no duration") };
        read_duration(word).filter(|duration| match span {
            DurationBound::Any => true,
            DurationBound::AboveZero => !duration.is_zero(),
            DurationBound::Milliseconds(least, most) => {
                (u128::from(least)..=u128::from(most)).contains(&duration.as_millis())
            }
            DurationBound::WholeSeconds => whole_seconds(*duration).is_some(),
        })
    }
}

/// Every flag of the program itself.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|(_, flags)| *flags)
}

/// The record of a flag that the program has.
pub(super) fn find(name: &str) -> &'static Flag {
    // Names come from our own code alone: a wrong one is a bug, and reading no flags at all finds it.
    all().find(|flag| flag.name == name).expect("the table has every flag that is read")
}

/// All flags of the program itself, in groups, as `--help` and `docs/flags.md` show them.
#[rustfmt::skip]
pub(super) static GROUPS: [Group; 7] = [
    ("Listening and the origin server", &[
        // The forms `proxy PORT` and `proxy HOST PORT ORIGIN` set these three.
        flag("--port", "N", Shape::Number(0, 65_535), "port to listen on; 0 picks a free one")
            .default("3000").common(),
        flag("--host", "ADDR", Shape::Text("an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1"),
            "address to listen on, IPv4 or IPv6; localhost is both 127.0.0.1 and ::1")
            .default("localhost").common()
            .long("With `localhost` the proxy listens on the same port of both loopback addresses."),
        flag("--origin", "URL", Shape::Text("an http or https URL, such as https://dummyjson.com/api"),
            "the origin server: http or https, optionally with a path prefix")
            .default("http://127.0.0.1:8000").common()
            .long("User information in the URL (`https://user:password@host`) is sent as `Authorization` in \
                place of the client's, and responses are judged as if the client had sent it."),
        flag("--preserve-host", "", Shape::Switch, "send the client's Host to the origin server")
            .long("The client's Host is part of the cache key, too."),
        flag("--public-url", "URL", Shape::Text("http or https and a host, without a path, such as \
            https://shop.example or http://127.0.0.1:3000"),
            "where clients find the proxy, if another server stands in front of it")
            .long("Scheme, host and port that URIs of the origin server are rewritten to, and that it is told in \
                `X-Forwarded-Proto` and `X-Forwarded-Host`."),
        flag("--follow-redirects", "", Shape::Switch, "follow redirects of the origin server")
            .long("For GET and HEAD, at most 10 of them. The last response is stored under the first URI."),
        // The gate remembers the time of each request in the span, so their number is bounded.
        flag("--origin-rate", "N/s", Shape::Text("a number of requests from 1 to 100000 in a span: 5/s, 30/m, \
            1000/h or 5000/d"),
            "requests sent to the origin server in any second; also N/m, N/h and N/d")
            .long("A request beyond it gets a stale response if one may be used. Otherwise it waits for a turn, \
                --first-byte-timeout at most, and then gets 503 with `Retry-After`. Hits never wait."),
        flag("--origin-concurrency", "N", Shape::Number(1, 1_000_000),
            "requests under way at the origin server at a time")
            .long("A request beyond it waits as under --origin-rate."),
        flag("--origin-connections", "N", Shape::Number(1, 1_000_000),
            "connections to one origin server that are in use at a time").absent("as --max-connections")
            .long("A request beyond it waits as under --origin-rate. Idle connections are not counted: there are \
                1024 at most for each of --threads."),
        flag("--connect-timeout", "D", WAIT, "to look up the origin server's name and to connect").default("5s"),
        flag("--first-byte-timeout", "D", WAIT, "from a request to the first byte of its response")
            .absent("60s, or as --origin-timeout where that is not 30s")
            .long("Also the longest time for which a request waits for its turn, or for another request's response."),
        flag("--origin-timeout", "D", WAIT, "between two bytes of a response, or of content that the origin server takes")
            .default("30s"),
        flag("--ca-cert", "FILE", Shape::File, "more trusted root certificates (PEM), or the server's own")
            .long("For the origin server and `rediss://`. A certificate that `openssl req -x509` has made is \
                accepted. The system's and the built-in root certificates stay trusted; `SSL_CERT_FILE` works."),
        flag("--insecure", "", Shape::Switch, "verify no certificates, neither the origin server's nor those of rediss://"),
    ]),
    ("Storing and freshness", &[
        flag("--cache-mode", "MODE", Shape::Choice(&["standard", "force", "offline"]),
            "which rules hold: standard (HTTP's), force (store every 200 to a GET), offline (never contact the origin \
            server)")
            .default("standard").common()
            .long("`force` ignores what client and origin server say, for development. `offline` does not even \
                look up the origin server's name."),
        flag("--cache-ttl", "D", Shape::Duration(DurationBound::Any), "reuse nothing later than D after it was received").common()
            .long("A response that states no freshness is fresh for exactly D."),
        flag("--default-ttl", "D", Shape::Text("a duration in whole seconds (30, 10m, 2h, 7d), or until-cleared"),
            "freshness of responses that state none; 0: HTTP's heuristic").default("until-cleared").common()
            .long("For the status codes 200, 203, 300, 301 and 308. `until-cleared`: they are fresh until they are purged \
                or evicted."),
        // Zero is no value: a response would be stored, and then never reused.
        flag("--hit-ttl", "N", Shape::Text("a number: how often, or a negative one for no limit (0 would store \
            in vain)"),
            "reuse a stored response N times at most; negative: no limit").default("-1")
            .long("Each proxy counts by itself, and starts anew when memory has dropped the response."),
        flag("--share-cookies", "", Shape::Switch, "store and replay Set-Cookie under explicit freshness")
            .long("Without the flag a response that sets a cookie is stored only if it is explicitly fresh and the \
                origin server permits sharing it (`public`, `s-maxage`, `must-revalidate`)."),
        flag("--share-credentials", "", Shape::Switch,
            "store and reuse as if requests had no credentials: one key, many clients, one cache").common()
            .long("For one API key behind the proxy and many clients before it; such requests collapse. `private` \
                and `no-store` hold, and query parameters stay part of the URI. Responses stay stored when the \
                flag goes: clear a store that lasts (`proxy --clear-cache`) before it is used without the flag. \
                The log says at the start that it is on."),
        flag("--stale-if-error", "D", SECONDS, "for how long stale responses replace an error of the origin server")
            .default("1d")
            .long("Counted from the end of freshness. Holds when the origin server is down, too slow, or answers \
                429, 500, 502, 503 or 504, unless it forbade that (`must-revalidate`, `proxy-revalidate`, \
                `s-maxage`, `no-cache`). The shorter `stale-if-error` of response and request, if any, \
                takes the place of D."),
        flag("--stale-while-revalidate", "D", SECONDS, "for how long a stale response is served while it is validated")
            .default("0")
            .long("The validation goes on in the background. For responses without a `stale-while-revalidate` of \
                their own."),
        flag("--ignore-param", "GLOB", Shape::Text("a name, in which * and ? stand for any characters"),
            "query parameters to leave out (utm_*); may be repeated").repeated().common()
            .long("For GET and HEAD: they are part neither of the cache key nor of the request to the origin server."),
        flag("--sort-query", "", Shape::Switch, "sort query parameters by name")
            .long("URIs that differ only in the order of their parameters then have one cache key."),
        flag("--no-browser-cache", "", Shape::Switch, "tell clients to store nothing")
            .long("Clients get `no-store`, so that each of their requests reaches the proxy."),
    ]),
    ("Limits and stores", &[
        flag("--cache-memory", "SIZE", Shape::Size(64 << 10, ANY), "bytes of stored responses in memory")
            .default("64M").common()
            .long("Keys, fields, bodies and bookkeeping. A quarter of it is for bodies that are being received; while \
                there are none, the policies `cost` and `lru` use it for stored responses."),
        flag("--cache-size-limit", "N", Shape::Number(0, ANY), "number of stored responses; 0 turns caching off"),
        // The stores differ in what a large body costs: memory in the first place, a row of a file, or a
        // transfer over the network.
        flag("--max-object-size", "SIZE", Shape::Size(0, ANY), "larger bodies are passed on and not stored")
            .by_store(["8M", "1G", "64M"])
            .long("At most a quarter of --cache-memory counts, or nearly a half of --cache-disk."),
        flag("--eviction-policy", "P", Shape::Choice(&["cost", "s3-fifo", "lru", "entire", "none"]),
            "what is removed when memory is full: cost, s3-fifo, lru, entire, none").default("cost")
            .long("`cost`: what is worth least for each byte, by how often it is used and how long it took to fetch \
                (GreedyDual-Size with frequency). `s3-fifo`: what quick_cache chooses, by a CLOCK-Pro of a hot and a \
                cold part. With both, all variants of a URI go together. `lru`: exactly the least recently used \
                response. `entire`: everything. `none`: the limits do not apply."),
        flag("--cache-compress", "W", Shape::Choice(&["on", "off"]),
            "compress text in memory when that is nearly full: on, off")
            .default(if cfg!(feature = "zstd") { "on" } else { "off" })
            .long("Text, JSON, XML, scripts and SVG of 512 bytes or more, unless the origin server has compressed them or \
                they are used all the time. Clients get them as they came. Not with --hit-ttl."),
        flag("--cache-clean-interval", "D", Shape::Duration(DurationBound::Any),
            "how often responses of no more use are removed; 0: never").default("1m"),
        flag("--store", "S", Shape::Store,
            "memory alone, or memory in front of sqlite, sqlite:PATH, redis://HOST and other forms of Redis")
            .default("memory").common()
            .long("A SQLite file lasts over restarts. Redis or Valkey is shared: `rediss://` is encrypted, \
                `redis+unix:/PATH` is a socket of this machine, `redis+cluster://` a cluster, and \
                `redis+sentinel://` the primary that Sentinels know by this name."),
        flag("--redis-prefix", "TEXT", Shape::Text("a word without spaces and braces, at most 100 bytes, such as proxy:"),
            "what the names of all keys in Redis begin with").default("proxy:")
            .long("Proxies with the same Redis and the same prefix share one cache."),
        flag("--cache-disk", "SIZE", Shape::Size(1 << 20, ANY), "bytes of the sqlite file and its log").default("1G"),
        // SQLite counts whole milliseconds; zero would give up at any other process's write.
        flag("--store-lock-timeout", "D", Shape::Duration(DurationBound::Milliseconds(1, 600_000)),
            "how long to wait for another process's lock on the sqlite file").default("5s")
            .long("After it the proxy uses memory alone until the file is free."),
        flag("--warm-start", "W", Shape::Choice(&["on", "off"]),
            "after the start, fill memory from the sqlite file: on or off").default("on")
            .long("What was used last comes first, up to half of --cache-memory, slowly: requests come before it. What is \
                stale, and bodies above 64 KiB, stay in the file until they are asked for."),
    ]),
    ("Clients", &[
        flag("--threads", "N", THREADS, "event loops, which serve clients and ask the origin server").absent("cores"),
        flag("--workers", "N", THREADS, "the most threads for what has to wait").default("64")
            .long("Asking a backing store, purges, control requests; with `--front tiny-http` every request. 16 \
                requests for each of them wait in a queue; further ones get 503. One thread is always there; others \
                are started when they are needed, and end after 10 s without work. With `--front tiny-http` all of \
                them are there from the start, and two more for each eight."),
        flag("--max-connections", "N", Shape::Number(1, 1_000_000), "clients connected at a time").default("10000")
            .long("Fewer where file descriptors are scarce. Further clients wait in the kernel's queue."),
        flag("--header-timeout", "D", WAIT, "for the whole head of a request").default("10s")
            .long("Counted from its first byte, or from the beginning of the connection; then 408. Beside it, \
                content must arrive at 500 bytes a second."),
        flag("--idle-timeout", "D", WAIT,
            "for the next request, the next byte of content, or a client to take more of a response").default("1m"),
        // Fields lie in memory until the whole head has arrived, for each connection.
        flag("--max-header-size", "SIZE", Shape::Size(1 << 10, 1 << 20), "all fields of a request together")
            .default("64K").long("A larger request gets 431."),
        flag("--max-header-fields", "N", Shape::Number(1, 1000), "field lines of a request").default("100")
            .long("A request with more gets 431."),
        flag("--max-request-size", "SIZE", Shape::Size(0, ANY), "content of a request").absent("none")
            .long("More gets 413. Content is passed on as it arrives, not kept in memory."),
        flag("--trust-forwarded", "ADDR", NETWORK,
            "believe X-Forwarded-For, -Proto, -Host and Forwarded from this address or network; may be repeated")
            .repeated()
            .long("For a proxy or a load balancer in front, which must replace or remove these fields of its clients."),
        flag("--front", "F", Shape::Choice(&["event", "tiny-http"]),
            "which server: event (an event loop a core) or tiny-http (a thread a connection)").default("event")
            .long("`event` is safe on a network; `tiny-http` is for loopback addresses."),
        flag("--allow-unsafe-front", "", Shape::Switch, "let the tiny-http front listen beyond loopback"),
    ]),
    ("Logging and health", &[
        flag("--access-log", "FILE", Shape::File, "one line a request; - is the standard output")
            .absent("off").common(),
        flag("--access-log-format", "F", Shape::Choice(&["combined", "json"]), "the format of its lines: combined or json").default("combined")
            .long("`combined` has `Cache-Status` and the seconds taken at the end of the line."),
        flag("--log-level", "L", Shape::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
            "what is logged to stderr: off, error, warn, info, debug or trace").default("info"),
        flag("--health-path", "PATH", Shape::Text("a path, such as /healthz"),
            "answer a GET of this path with ok, without asking the origin server")
            .long("`/health` on --admin does the same, without a token."),
        flag("--ready-file", "FILE", Shape::File, "written, with the address in it, once connections are accepted"),
    ]),
    ("Control", &[
        flag("--admin", "ADDR:PORT", Shape::Text("an address and a port, such as 127.0.0.1:3001"),
            "the control interface over TCP, beside its Unix socket").absent("off")
            .long("A browser is shown a page there. An address beyond loopback needs --admin-token."),
        flag("--admin-token", "FILE", Shape::File, "clients of --admin must send the token in this file")
            .long("As `Authorization: Bearer`, or in the form that browsers are shown. The Unix socket needs no token: it is open to its user alone."),
        flag("--allow-purge", "ADDR", NETWORK, "accept PURGE from this address or network; may be repeated")
            .repeated().long("Without the flag, PURGE is passed on to the origin server like any other method."),
        flag("--take-over", "", Shape::Switch, "take the listening socket over from the proxy on this port")
            .long("The other proxy finishes its requests and ends; no client is refused meanwhile. Without one, the \
                proxy just starts. Needs `--front event` and another port than 0."),
        flag("--drain-timeout", "D", WAIT, "after a signal: for requests under way and for the store").default("8s")
            .long("Then the process ends. One that is taken over has ten minutes."),
        flag("--clear-cache", "", Shape::Action, "remove all that running proxies and the store hold, and exit")
            .common().long("Means the default sqlite file, or the store given with --store. Nothing to remove is no \
                error."),
    ]),
    ("Other", &[
        flag("--help", "", Shape::Action, "all flags and commands; -h: the twelve flags used most"),
        flag("--version", "", Shape::Action, "the version; also -V"),
    ]),
];
