//! The values of the command line: read, checked against unit and bounds, with defaults where none was given.
//!
//! Defaults and bounds are those of the table in `flags.rs`; here is what becomes of a value, and which values
//! do not go together. The rooms of the program take values out of [`Config`], never the whole.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use log::LevelFilter;

use crate::cli::arguments::Args;
use crate::cli::error::UsageError;
use crate::cli::features;
use crate::cli::flags::{self, DefaultValue};
use crate::cli::units::{read_duration, whole_seconds};
use crate::cli::values::Values;
use crate::clock::DeltaSeconds;
use crate::message::network::Network;
use crate::message::request::RequestLimits;
use crate::message::target::PublicUrl;
use crate::origin::gate::Rate;
use crate::policy::credentials::take_userinfo;
use crate::policy::freshness::FreshnessRules;
use crate::policy::key::{Glob, KeyRules};
use crate::policy::reuse::{Mode, ReuseRules};
use crate::policy::storing::StoringRules;
use crate::stats::AccessFormat;
use crate::store::memory::{Eviction, MemoryLimits};
#[cfg(feature = "redis")]
use crate::store::redis::Address;

/// The default of `--origin-timeout`.
const ORIGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// `--first-byte-timeout`, unless `--origin-timeout` is changed alone.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);

/// Every setting of the program, within its bounds. Each field names its flag; `None` is said where it is more
/// than "not given".
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one switch of the command line")]
pub struct Config {
    /// `--host`: the address to listen on.
    pub host: IpAddr,
    /// `--host localhost`, and the default: `::1` is listened on, too, where this machine has it.
    pub both_loopbacks: bool,
    /// `--port`; 0 for one that the system picks.
    pub port: u16,
    /// `--origin`, without user information, else unread: a wrong URL is a start-up error, not one of usage.
    pub origin: String,
    /// The user information of `--origin`, as an `Authorization` field.
    pub origin_authorization: Option<HeaderValue>,
    /// When stored responses are reused: `--cache-mode`, `--hit-ttl`, `--share-credentials`, ...
    pub reuse: ReuseRules,
    /// What is stored, and for how long it is fresh: `--cache-ttl`, `--default-ttl`, `--share-cookies`, ...
    pub storing: StoringRules,
    /// `--ignore-param`, `--sort-query`: which URIs have one cache key.
    pub key: KeyRules,
    /// `--origin-rate`; `None` for no bound.
    pub origin_rate: Option<Rate>,
    /// `--origin-concurrency`, in requests; `None` for no bound.
    pub origin_concurrency: Option<usize>,
    /// `--origin-connections`: connections to one authority that are in use at a time.
    pub origin_connections: usize,
    /// `--cache-compress`: text is compressed in memory when that is nearly full.
    pub compresses: bool,
    /// `--eviction-policy`: what memory removes when it is full.
    pub eviction: Eviction,
    /// The bounds of memory: `--cache-memory`, `--cache-size-limit`, `--max-object-size`.
    pub limits: MemoryLimits,
    /// `--store`: what is behind memory.
    pub store: StoreKind,
    /// `--redis-prefix`: what the names of keys in Redis begin with.
    pub redis_prefix: String,
    /// `--cache-disk`: bytes of the SQLite file and its log together.
    pub cache_disk: u64,
    /// `--cache-clean-interval`; `None` for never.
    pub clean_interval: Option<Duration>,
    /// `--follow-redirects`: follow the origin server's redirects here.
    pub follow_redirects: bool,
    /// `--no-browser-cache`: clients are told `no-store`.
    pub no_browser_cache: bool,
    /// `--preserve-host`: the origin server gets the client's Host.
    pub preserve_host: bool,
    /// `--public-url`; `None` where clients connect to the proxy itself.
    pub public_url: Option<PublicUrl>,
    /// `--trust-forwarded`: the networks of proxies whose `X-Forwarded-*` is believed.
    pub trusted: Vec<Network>,
    /// `--connect-timeout`: to look the origin server up and to connect; never zero.
    pub connect_timeout: Duration,
    /// `--origin-timeout`: between two bytes of a response; never zero.
    pub origin_timeout: Duration,
    /// `--first-byte-timeout`: from a request to the first byte of its response; never zero.
    pub first_byte_timeout: Duration,
    /// `--ca-cert`: a file of trusted root certificates, beside the system's.
    pub ca_cert: Option<PathBuf>,
    /// `--insecure`: no certificate is verified.
    pub insecure: bool,
    /// `--workers`: the most threads for what has to wait.
    pub workers: usize,
    /// `--max-connections`: clients at a time, before the limit of descriptors is known.
    pub connections_max: usize,
    /// `--header-timeout`: for the whole head of a request; never zero.
    pub header_timeout: Duration,
    /// `--idle-timeout`: for a client's next byte in either direction; never zero.
    pub idle_timeout: Duration,
    /// The bounds of a request: `--max-header-fields`, `--max-header-size`, `--max-request-size`.
    pub request: RequestLimits,
    /// `--store-lock-timeout`: for another process's lock on the SQLite file, 1 ms to 10 min.
    pub store_lock_timeout: Duration,
    /// `--warm-start`: memory is filled from the SQLite file after the start.
    pub warm_start: bool,
    /// `--drain-timeout`: from the first signal to the end of the process; never zero.
    pub drain_timeout: Duration,
    /// `--take-over`: the listening socket comes from the proxy on this port.
    pub take_over: bool,
    /// `--admin`; beyond loopback only together with a token. `None`: the Unix socket alone.
    pub admin: Option<SocketAddr>,
    /// `--admin-token`: the file with the token.
    pub admin_token: Option<PathBuf>,
    /// `--allow-purge`: the networks whose PURGE requests are the proxy's own.
    pub purgers: Vec<Network>,
    /// Whether `--port` was given: a command then means the proxy on this port alone.
    pub port_given: bool,
    /// Whether `--origin` was given: `explain` then describes another proxy than the running one.
    pub origin_given: bool,
    /// `--front`: which server accepts clients.
    pub front: FrontKind,
    /// `--threads`; `None` for one a core.
    pub threads: Option<usize>,
    /// `--allow-unsafe-front`: tiny_http may listen beyond loopback.
    pub allow_unsafe_front: bool,
    /// `--access-log`: a file, or `-` for the standard output.
    pub access_log: Option<PathBuf>,
    /// `--access-log-format`: the form of each line.
    pub access_format: AccessFormat,
    /// `--log-level`: the least grave message that is logged.
    pub log_level: LevelFilter,
    /// `--health-path`: a path that begins with `/`, answered without the origin server.
    pub health_path: Option<String>,
    /// `--ready-file`: written once connections are accepted.
    pub ready_file: Option<PathBuf>,
}

/// The store behind memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreKind {
    /// Nothing.
    Memory,
    /// A SQLite file; `None` for the default one.
    #[cfg(feature = "sqlite")]
    Sqlite(Option<PathBuf>),
    /// Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(Address),
}

impl StoreKind {
    /// The default of `--max-object-size` that fits it.
    fn default_of<'a>(&self, of_memory_sqlite_redis: [&'a str; 3]) -> &'a str {
        of_memory_sqlite_redis[match self {
            Self::Memory => 0,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => 1,
            #[cfg(feature = "redis")]
            Self::Redis(_) => 2,
        }]
    }
}

/// Which server accepts clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrontKind {
    /// An event loop a core.
    Event,
    /// tiny_http, a thread a connection.
    TinyHttp,
}

impl Config {
    /// Reads the values, in no order that matters; one that is not accepted is the error.
    ///
    /// With no flags at all it reads every default, so that one test of this finds a wrong one.
    pub fn new(args: &Args) -> Result<Self, UsageError> {
        let values = Values(args);
        features::refuse_what_needs_others(&values)?;
        let store = values.required("--store", store_of)?;
        let storing = storing(&values, &store)?;
        let (origin, origin_authorization) = take_userinfo(values.shown("--origin").trim());
        Ok(Self {
            host: values.required("--host", read_host)?,
            // Only this name means both: 127.0.0.1 is an address that was chosen.
            both_loopbacks: values.shown("--host").trim() == "localhost",
            port: values.number("--port")? as u16,
            origin,
            origin_authorization,
            reuse: reuse(&values, &storing)?,
            key: key(&values),
            origin_rate: values.read("--origin-rate", read_rate)?,
            origin_concurrency: values.number_if_any("--origin-concurrency")?.map(|n| n as usize),
            origin_connections: origin_connections(&values)?,
            eviction: values.one_of("--eviction-policy", &POLICIES)?,
            compresses: values.one_of("--cache-compress", &ON_OFF)?,
            limits: memory_limits(&values, storing.object_bytes_max)?,
            storing,
            store,
            redis_prefix: values.required("--redis-prefix", read_prefix)?,
            cache_disk: values.bytes("--cache-disk")?,
            clean_interval: some_above_zero(values.duration("--cache-clean-interval")?),
            follow_redirects: args.is_on("--follow-redirects"),
            no_browser_cache: args.is_on("--no-browser-cache"),
            preserve_host: args.is_on("--preserve-host"),
            public_url: values.read("--public-url", PublicUrl::parse)?,
            trusted: networks(args, "--trust-forwarded")?,
            connect_timeout: values.duration("--connect-timeout")?,
            origin_timeout: values.duration("--origin-timeout")?,
            first_byte_timeout: first_byte_timeout(&values)?,
            ca_cert: values.path("--ca-cert"),
            insecure: args.is_on("--insecure"),
            workers: values.number("--workers")? as usize,
            connections_max: values.number("--max-connections")? as usize,
            header_timeout: values.duration("--header-timeout")?,
            idle_timeout: values.duration("--idle-timeout")?,
            request: request_limits(&values)?,
            store_lock_timeout: values.duration("--store-lock-timeout")?,
            warm_start: values.one_of("--warm-start", &SWITCH)?,
            drain_timeout: values.duration("--drain-timeout")?,
            take_over: take_over(&values)?,
            admin: admin(&values)?,
            admin_token: values.path("--admin-token"),
            purgers: networks(args, "--allow-purge")?,
            port_given: args.value("--port").is_some(),
            origin_given: args.value("--origin").is_some(),
            front: values.one_of("--front", &FRONTS)?,
            threads: values.number_if_any("--threads")?.map(|n| n as usize),
            allow_unsafe_front: args.is_on("--allow-unsafe-front"),
            access_log: values.path("--access-log"),
            access_format: values.one_of("--access-log-format", &FORMATS)?,
            log_level: values.one_of("--log-level", &LEVELS)?,
            health_path: values.read("--health-path", read_path)?,
            ready_file: values.path("--ready-file"),
        })
    }
}

// Words of the table and what they mean; `Values::one_of` compares the two lists.
const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];
const FRONTS: [(&str, FrontKind); 2] =
    [("event", FrontKind::Event), ("tiny-http", FrontKind::TinyHttp)];
const MODES: [(&str, Mode); 3] =
    [("standard", Mode::Standard), ("force", Mode::Force), ("offline", Mode::Offline)];
const ON_OFF: [(&str, bool); 2] = [("on", true), ("off", false)];
const POLICIES: [(&str, Eviction); 5] = [
    ("cost", Eviction::Cost),
    ("s3-fifo", Eviction::S3Fifo),
    ("lru", Eviction::Lru),
    ("entire", Eviction::Entire),
    ("none", Eviction::None),
];
const FORMATS: [(&str, AccessFormat); 2] =
    [("combined", AccessFormat::Combined), ("json", AccessFormat::Json)];
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

fn store_of(word: &str) -> Option<StoreKind> {
    // `sqlite:` without a path is an error and not the default file: in a script its variable is not set.
    match word.split_once(':') {
        None if word == "memory" => Some(StoreKind::Memory),
        #[cfg(feature = "sqlite")]
        None if word == "sqlite" => Some(StoreKind::Sqlite(None)),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) if !path.is_empty() => Some(StoreKind::Sqlite(Some(path.into()))),
        #[cfg(feature = "redis")]
        _ => Address::read(word).map(StoreKind::Redis),
        #[cfg(not(feature = "redis"))]
        _ => None,
    }
}

fn read_host(word: &str) -> Option<IpAddr> {
    match word {
        // Not looked up: what a hosts file says of it must not open the proxy to a network.
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        word => word.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}

/// N requests in a span of time: `5/s`, `30/m`, `1000/h`.
fn read_rate(word: &str) -> Option<Rate> {
    // `5/s` is 5 in the duration `1s`: the units are those of durations.
    let (number, unit) = word.split_once('/')?;
    let requests = number.parse().ok().filter(|number| (1..=100_000).contains(number))?;
    Some(Rate { requests, per: read_duration(&format!("1{unit}"))? })
}

fn read_prefix(word: &str) -> Option<String> {
    // Redis Cluster takes what is in braces for the part of a key that says which node has it.
    let is_unfit = |c: char| c.is_whitespace() || c.is_control() || "{}".contains(c);
    (word.len() <= 100 && !word.contains(is_unfit)).then(|| word.to_string())
}

fn read_path(word: &str) -> Option<String> {
    // A query or a fragment would never be equal to the path of a request.
    (word.starts_with('/') && !word.contains(['?', '#', ' '])).then(|| word.to_string())
}

fn read_default_ttl(word: &str) -> Option<DeltaSeconds> {
    match word {
        "until-cleared" => Some(DeltaSeconds::MAX),
        word => read_duration(word).and_then(whole_seconds),
    }
}

/// Zero stands for never.
fn some_above_zero(interval: Duration) -> Option<Duration> {
    (!interval.is_zero()).then_some(interval)
}

fn key(values: &Values<'_>) -> KeyRules {
    let globs = values.0.all("--ignore-param");
    KeyRules {
        ignored: globs.iter().map(|glob| Glob::new(glob)).collect(),
        sort_query: values.0.is_on("--sort-query"),
    }
}

fn storing(values: &Values<'_>, store: &StoreKind) -> Result<StoringRules, UsageError> {
    let DefaultValue::ByStore(defaults) = flags::find("--max-object-size").default else {
        unreachable!("it depends on the store how large a body may be");
    };
    Ok(StoringRules {
        freshness: FreshnessRules {
            cache_ttl: values.duration_if_any("--cache-ttl")?,
            default_ttl: values.required("--default-ttl", read_default_ttl)?,
            force: values.one_of("--cache-mode", &MODES)? == Mode::Force,
        },
        share_cookies: values.0.is_on("--share-cookies"),
        stale_if_error: values.seconds("--stale-if-error")?,
        stale_while_revalidate: values.seconds("--stale-while-revalidate")?,
        object_bytes_max: values.bytes_or("--max-object-size", store.default_of(defaults))?,
    })
}

fn reuse(values: &Values<'_>, storing: &StoringRules) -> Result<ReuseRules, UsageError> {
    let read_reuses = |word: &str| word.parse::<i64>().ok().filter(|reuses| *reuses != 0);
    Ok(ReuseRules {
        mode: values.one_of("--cache-mode", &MODES)?,
        disabled: values.number_if_any("--cache-size-limit")? == Some(0),
        share_credentials: values.0.is_on("--share-credentials"),
        // A negative number is no limit.
        reuses_max: u64::try_from(values.required("--hit-ttl", read_reuses)?).ok(),
        // The same as for storing: what is kept beyond its freshness is what may be reused then.
        stale_while_revalidate: storing.stale_while_revalidate,
        stale_if_error: storing.stale_if_error,
    })
}

fn origin_connections(values: &Values<'_>) -> Result<usize, UsageError> {
    let set = values.number_if_any("--origin-connections")?;
    let connections = set.map_or_else(|| values.number("--max-connections"), Ok)?;
    Ok(connections as usize)
}

/// A `--origin-timeout` that was changed alone is the limit of all silence, as it was before there were two.
fn first_byte_timeout(values: &Values<'_>) -> Result<Duration, UsageError> {
    let origin_timeout = values.duration("--origin-timeout")?;
    let is_usual = origin_timeout == ORIGIN_TIMEOUT;
    let set = values.duration_if_any("--first-byte-timeout")?;
    Ok(set.unwrap_or(if is_usual { FIRST_BYTE_TIMEOUT } else { origin_timeout }))
}

fn memory_limits(values: &Values<'_>, content_bytes: u64) -> Result<MemoryLimits, UsageError> {
    let responses = values.number_if_any("--cache-size-limit")?;
    Ok(MemoryLimits {
        bytes: values.bytes("--cache-memory")?,
        // Zero turns caching off, which is a rule of reuse: memory is never asked then.
        responses: responses.filter(|most| *most > 0),
        content_bytes,
    })
}

fn request_limits(values: &Values<'_>) -> Result<RequestLimits, UsageError> {
    Ok(RequestLimits {
        field_lines: values.number("--max-header-fields")? as usize,
        field_bytes: values.bytes("--max-header-size")? as usize,
        content_bytes: values.bytes_if_any("--max-request-size")?,
    })
}

/// A socket is handed over by event loops alone, and a port that the system picks is nobody's to take over.
fn take_over(values: &Values<'_>) -> Result<bool, UsageError> {
    let is_plain = values.shown("--front").trim() == "tiny-http";
    let is_free = values.shown("--port").trim() == "0";
    match values.0.is_on("--take-over") {
        true if is_plain || is_free => Err(UsageError::Value {
            flag: "--take-over".to_string(),
            seen: if is_plain { "--front tiny-http" } else { "--port 0" }.to_string(),
            accepted: "--front event, and the port of the proxy that runs".to_string(),
        }),
        is_on => Ok(is_on),
    }
}

/// Beyond loopback anybody could purge and read the cache, so a token is needed there.
fn admin(values: &Values<'_>) -> Result<Option<SocketAddr>, UsageError> {
    let admin = values.read("--admin", |word| word.parse::<SocketAddr>().ok())?;
    match (admin, values.given("--admin")) {
        (Some(address), Some((seen, flag)))
            if !address.ip().is_loopback() && values.path("--admin-token").is_none() =>
        {
            let accepted = "a loopback address, or --admin-token FILE beside it".to_string();
            Err(UsageError::Value { flag, seen, accepted })
        }
        (admin, _) => Ok(admin),
    }
}

fn networks(args: &Args, name: &'static str) -> Result<Vec<Network>, UsageError> {
    let read = |word: &String| {
        Network::read(word).ok_or_else(|| UsageError::Value {
            flag: name.to_string(),
            seen: word.clone(),
            accepted: flags::find(name).shape.accepted(),
        })
    };
    args.all(name).iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::flags::Shape;
    use crate::cli::{Command, parse};

    fn config(words: &[&str]) -> Result<Config, String> {
        let words = words.iter().map(OsString::from).collect();
        match parse(words, |_| None) {
            Ok(Command::Serve(args)) => Config::new(&args).map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    /// The configuration as text, without whether a flag was given.
    fn outcome(words: &[&str]) -> String {
        let config = config(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        format!("{:?}", Config { port_given: false, origin_given: false, ..config })
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let without = outcome(&[]);
        for flag in flags::all() {
            match flag.default {
                DefaultValue::Value(text) => {
                    assert_eq!(outcome(&[flag.name, text]), without, "{}", flag.name);
                }
                DefaultValue::ByStore(texts) => {
                    for (store, text) in ["memory", "sqlite", "redis://localhost"].iter().zip(texts)
                    {
                        if features::LEFT_OUT.iter().any(|feature| store.starts_with(feature)) {
                            continue;
                        }
                        let words = ["--store", store, flag.name, text];
                        assert_eq!(outcome(&words), outcome(&words[..2]), "{}", flag.name);
                    }
                }
                DefaultValue::Absent(_) => {}
            }
        }
        let config = config(&[]).expect("no flags");
        assert_eq!(config.origin, "http://127.0.0.1:8000");
        assert_eq!((config.port, config.workers, config.limits.bytes), (3000, 64, 64 << 20));
        assert_eq!(config.storing.freshness.default_ttl, DeltaSeconds::MAX);
        assert_eq!(config.storing.object_bytes_max, 8 << 20);
        assert_eq!(config.reuse.reuses_max, None);
        assert_eq!(config.clean_interval, Some(Duration::from_secs(60)));
        // The admin interface and tunnels use these where there is no configuration.
        let usual = RequestLimits::default();
        assert_eq!(format!("{:?}", config.request), format!("{usual:?}"));
    }

    /// A flag that is on the table and that nobody reads would do nothing, in silence.
    #[test]
    fn each_flag_of_the_table_is_read() {
        let without = outcome(&[]);
        for flag in flags::all().filter(|flag| !matches!(flag.shape, Shape::Action)) {
            let value = match flag.shape {
                Shape::Number(least, _) | Shape::Size(least, _) => (least + 1).to_string(),
                Shape::Duration(_) => "77s".to_string(),
                Shape::Choice(words) => {
                    let mut others = words.iter().filter(|word| flag.default_shown() != **word);
                    (*others.next().expect("another word")).to_string()
                }
                Shape::Store => "sqlite".to_string(),
                Shape::File | Shape::Switch | Shape::Action => "x".to_string(),
                Shape::Text(accepted) => match flag.name {
                    "--hit-ttl" => "7".to_string(),
                    "--default-ttl" => "30".to_string(),
                    "--origin-rate" => "5/s".to_string(),
                    "--ignore-param" => "utm_*".to_string(),
                    "--redis-prefix" => "mine:".to_string(),
                    _ => accepted
                        .split("such as ")
                        .nth(1)
                        .and_then(|rest| rest.split([',', ' ']).next())
                        .unwrap_or_else(|| panic!("{}: no example", flag.name))
                        .to_string(),
                },
            };
            let words = [flag.name, &value];
            let words = if flag.is_alone() { &words[..1] } else { &words[..] };
            let is_left_out = config(words).is_err_and(|error| error.contains("built without"));
            assert!(is_left_out || outcome(words) != without, "{} is not read", flag.name);
        }
    }

    /// Bounds are exact: the least and the most are accepted, and what is beyond them is not.
    #[test]
    fn bounds_are_those_of_the_table() {
        for flag in flags::all() {
            let (Shape::Number(least, most) | Shape::Size(least, most)) = flag.shape else {
                continue;
            };
            let read = |number: u64| config(&[flag.name, &number.to_string()]).is_ok();
            assert!(read(least) && (least == 0 || !read(least - 1)), "{}", flag.name);
            if most < u64::MAX {
                assert!(read(most) && !read(most + 1), "{}", flag.name);
            }
        }
    }

    #[test]
    fn a_wrong_value_names_flag_sight_and_remedy() {
        #[rustfmt::skip]
        let table = [
            ("--port", "70000", "--port: \"70000\"; expected a number from 0 to 65535"),
            ("--hit-ttl", "0", "--hit-ttl: \"0\"; expected a number: how often, or a negative one for no limit (0 would store in vain)"),
            ("--eviction-policy", "fifo", "--eviction-policy: \"fifo\"; expected cost, s3-fifo, lru, entire, none"),
            #[cfg(all(feature = "redis", feature = "sqlite"))]
            ("--store", "mysql", "--store: \"mysql\"; expected memory, sqlite, sqlite:PATH, redis://HOST, rediss://HOST, redis+unix:/PATH, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/NAME"),
            ("--store-lock-timeout", "1h", "--store-lock-timeout: \"1h\"; expected a duration from 1ms to 10m"),
            ("--store-lock-timeout", "0", "--store-lock-timeout: \"0\"; expected a duration from 1ms to 10m"),
            ("--cache-disk", "10K", "--cache-disk: \"10K\"; expected a size of at least 1M: bytes, or a number with K, M or G"),
            ("--front", "nginx", "--front: \"nginx\"; expected event, tiny-http"),
            ("--threads", "0", "--threads: \"0\"; expected a number from 1 to 4096"),
            ("--max-header-size", "10", "--max-header-size: \"10\"; expected a size from 1K to 1M: bytes, or a number with K or M"),
            ("--stale-if-error", "500ms", "--stale-if-error: \"500ms\"; expected a duration in whole seconds: 30, 30s, 10m, 2h or 7d"),
            ("--origin-timeout", "0", "--origin-timeout: \"0\"; expected a duration above 0: 30, 500ms, 30s, 10m, 2h or 7d"),
            ("--cache-memory", "1K", "--cache-memory: \"1K\"; expected a size of at least 64K: bytes, or a number with K, M or G"),
            ("--public-url", "https://shop.example/path", "--public-url: \"https://shop.example/path\"; expected http or https and a host, without a path, such as https://shop.example or http://127.0.0.1:3000"),
            ("--trust-forwarded", "10.0.0.0/33", "--trust-forwarded: \"10.0.0.0/33\"; expected an address or a network, such as 127.0.0.1 or 10.0.0.0/8"),
            ("--allow-purge", "somewhere", "--allow-purge: \"somewhere\"; expected an address or a network, such as 127.0.0.1 or 10.0.0.0/8"),
            ("--host", "nowhere", "--host: \"nowhere\"; expected an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1"),
        ];
        for (flag, value, expected) in table {
            assert_eq!(config(&[flag, value]).err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn zero_responses_turn_caching_off() {
        let config =
            config(&["--cache-size-limit", "0", "--cache-clean-interval", "0"]).expect("flags");
        assert!(config.reuse.disabled);
        assert_eq!(config.limits.responses, None);
        assert_eq!(config.clean_interval, None);
    }
}
