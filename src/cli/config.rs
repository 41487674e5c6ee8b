//! The values of the command line: read, checked, with their units, defaults and bounds.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use log::LevelFilter;

use crate::cli::units::{read_bytes, read_duration, whole_seconds};
use crate::cli::{Args, UsageError};
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
use crate::store::redis::{Address, FORMS};

/// The least `--cache-memory`.
const CACHE_MEMORY_MIN: u64 = 64 * 1024;
/// The least `--cache-disk`.
const CACHE_DISK_MIN: u64 = 1 << 20;
/// What `--store` takes.
/// What `--public-url` takes.
const PUBLIC_URLS: &str = "http or https and a host, without a path, such as https://shop.example or http://127.0.0.1:3000";
const ORIGIN_DEFAULT: &str = "http://127.0.0.1:8000";
/// The most `--workers`.
const WORKERS_MAX: u64 = 4096;

/// Everything the program is told.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one switch of the command line")]
pub struct Config {
    /// `--host`
    pub host: IpAddr,
    /// `--host localhost`, and the default: on both loopback addresses.
    pub both_loopbacks: bool,
    /// `--port`
    pub port: u16,
    /// `--origin`, without user information, else as it was written: what is wrong with it is found out at the start.
    pub origin: String,
    /// What stood in front of its host, as an `Authorization` field.
    pub origin_authorization: Option<HeaderValue>,
    /// Rules of reuse.
    pub reuse: ReuseRules,
    /// Rules of storing.
    pub storing: StoringRules,
    /// `--ignore-param`, `--sort-query`
    pub key: KeyRules,
    /// `--origin-rate`
    pub origin_rate: Option<Rate>,
    /// `--origin-concurrency`
    pub origin_concurrency: Option<usize>,
    /// `--eviction-policy`
    pub eviction: Eviction,
    /// `--cache-memory`, `--cache-size-limit`, `--max-object-size`
    pub limits: MemoryLimits,
    /// `--store`
    pub store: StoreKind,
    /// `--redis-prefix`
    pub redis_prefix: String,
    /// `--cache-disk`: bytes of the store on disk.
    pub cache_disk: u64,
    /// `--cache-clean-interval`; `None` for never.
    pub clean_interval: Option<Duration>,
    /// `--follow-redirects`
    pub follow_redirects: bool,
    /// `--no-browser-cache`
    pub no_browser_cache: bool,
    /// `--preserve-host`
    pub preserve_host: bool,
    /// `--public-url`
    pub public_url: Option<PublicUrl>,
    /// `--trust-forwarded`
    pub trusted: Vec<Network>,
    /// `--connect-timeout`
    pub connect_timeout: Duration,
    /// `--origin-timeout`
    pub origin_timeout: Duration,
    /// `--ca-cert`
    pub ca_cert: Option<PathBuf>,
    /// `--insecure`
    pub insecure: bool,
    /// `--workers`
    pub workers: usize,
    /// `--max-connections`
    pub connections_max: usize,
    /// `--header-timeout`
    pub header_timeout: Duration,
    /// `--idle-timeout`
    pub idle_timeout: Duration,
    /// `--max-header-fields`, `--max-header-size`, `--max-request-size`
    pub request: RequestLimits,
    /// `--store-lock-timeout`
    pub store_lock_timeout: Duration,
    /// `--drain-timeout`
    pub drain_timeout: Duration,
    /// `--take-over`
    pub take_over: bool,
    /// `--admin`
    pub admin: Option<SocketAddr>,
    /// `--admin-token`
    pub admin_token: Option<PathBuf>,
    /// `--allow-purge`
    pub purgers: Vec<Network>,
    /// Was `--port` given?
    pub port_given: bool,
    /// Was `--origin` given?
    pub origin_given: bool,
    /// `--front`
    pub front: FrontKind,
    /// `--threads`; `None` for one a core.
    pub threads: Option<usize>,
    /// `--allow-unsafe-front`
    pub allow_unsafe_front: bool,
    /// `--access-log`
    pub access_log: Option<PathBuf>,
    /// `--access-log-format`
    pub access_format: AccessFormat,
    /// `--log-level`
    pub log_level: LevelFilter,
    /// `--health-path`
    pub health_path: Option<String>,
    /// `--ready-file`
    pub ready_file: Option<PathBuf>,
}

/// What is behind memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreKind {
    /// Nothing.
    Memory,
    /// A SQLite file; `None` for the default one.
    Sqlite(Option<PathBuf>),
    /// Redis or Valkey.
    Redis(Address),
}

impl StoreKind {
    /// The `--max-object-size` that fits it.
    fn object_bytes_usual(&self) -> u64 {
        match self {
            Self::Memory => 8 << 20,
            Self::Sqlite(_) => 1 << 30,
            Self::Redis(_) => 64 << 20,
        }
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
    /// Reads the values; the first that is not accepted is the error.
    pub fn new(args: &Args) -> Result<Self, UsageError> {
        let read = Values(args);
        let mode = read.one_of("--cache-mode", &MODES)?.unwrap_or(Mode::Standard);
        let responses = read.number("--cache-size-limit", 0..=u64::MAX)?;
        let store = read.store()?;
        let storing = read.storing(mode, store.object_bytes_usual())?;
        let content_bytes = storing.object_bytes_max;
        let (origin, origin_authorization) = read.origin();
        Ok(Self {
            host: read.host()?,
            both_loopbacks: read.text("--host").is_none_or(|(host, _)| host.trim() == "localhost"),
            port: read.number("--port", 0..=65_535)?.map_or(3000, |port| port as u16),
            origin,
            origin_authorization,
            reuse: read.reuse(mode, responses == Some(0), &storing)?,
            storing,
            key: KeyRules {
                ignored: args.all("--ignore-param").iter().map(|glob| Glob::new(glob)).collect(),
                sort_query: args.is_on("--sort-query"),
            },
            origin_rate: read.rate("--origin-rate")?,
            origin_concurrency: read
                .number("--origin-concurrency", 1..=1_000_000)?
                .map(|most| most as usize),
            eviction: read.one_of("--eviction-policy", &POLICIES)?.unwrap_or(Eviction::S3Fifo),
            limits: MemoryLimits {
                bytes: read.cache_memory()?,
                responses: responses.filter(|most| *most > 0),
                content_bytes,
            },
            store,
            redis_prefix: read.redis_prefix()?,
            cache_disk: read.cache_disk()?,
            clean_interval: read.clean_interval()?,
            follow_redirects: args.is_on("--follow-redirects"),
            no_browser_cache: args.is_on("--no-browser-cache"),
            preserve_host: args.is_on("--preserve-host"),
            public_url: read.read("--public-url", PUBLIC_URLS, PublicUrl::parse)?,
            trusted: read.networks("--trust-forwarded")?,
            connect_timeout: read.limit("--connect-timeout", 5)?,
            origin_timeout: read.limit("--origin-timeout", 30)?,
            ca_cert: read.path("--ca-cert"),
            insecure: args.is_on("--insecure"),
            workers: read.number("--workers", 1..=WORKERS_MAX)?.unwrap_or(64) as usize,
            connections_max: read.number("--max-connections", 1..=1_000_000)?.unwrap_or(10_000)
                as usize,
            header_timeout: read.limit("--header-timeout", 10)?,
            idle_timeout: read.limit("--idle-timeout", 60)?,
            request: read.request_limits()?,
            store_lock_timeout: read.store_lock_timeout()?,
            drain_timeout: read.limit("--drain-timeout", 8)?,
            take_over: read.take_over()?,
            admin: read.admin()?,
            admin_token: read.path("--admin-token"),
            purgers: read.networks("--allow-purge")?,
            port_given: args.value("--port").is_some(),
            origin_given: args.value("--origin").is_some(),
            front: read.one_of("--front", &FRONTS)?.unwrap_or(FrontKind::Event),
            threads: read.number("--threads", 1..=WORKERS_MAX)?.map(|threads| threads as usize),
            allow_unsafe_front: args.is_on("--allow-unsafe-front"),
            access_log: read.path("--access-log"),
            access_format: read.access_format()?,
            log_level: read.one_of("--log-level", &LEVELS)?.unwrap_or(LevelFilter::Info),
            health_path: read.health_path()?,
            ready_file: read.path("--ready-file"),
        })
    }
}

const FRONTS: [(&str, FrontKind); 2] =
    [("event", FrontKind::Event), ("tiny-http", FrontKind::TinyHttp)];
const MODES: [(&str, Mode); 3] =
    [("standard", Mode::Standard), ("force", Mode::Force), ("offline", Mode::Offline)];
const POLICIES: [(&str, Eviction); 4] = [
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

/// Reads values by the name of their flag.
struct Values<'a>(&'a Args);

impl Values<'_> {
    fn text(&self, name: &'static str) -> Option<(String, String)> {
        let (value, called) = self.0.value(name)?;
        Some((value.to_string_lossy().into_owned(), called))
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.0.value(name).map(|(value, _): (&OsStr, _)| PathBuf::from(value))
    }

    fn read<T>(
        &self,
        name: &'static str,
        accepted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        let Some((seen, flag)) = self.text(name) else { return Ok(None) };
        match read(seen.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(UsageError::Value { flag, seen, accepted: accepted.to_string() }),
        }
    }

    fn one_of<T: Copy>(
        &self,
        name: &'static str,
        table: &[(&str, T)],
    ) -> Result<Option<T>, UsageError> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        self.read(name, &names.join(", "), |word| {
            table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
        })
    }

    fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, UsageError> {
        let accepted = match *range.end() {
            u64::MAX => format!("a number, {} or more", range.start()),
            end => format!("a number from {} to {end}", range.start()),
        };
        self.read(name, &accepted, |word| word.parse().ok().filter(|number| range.contains(number)))
    }

    fn duration(&self, name: &'static str) -> Result<Option<Duration>, UsageError> {
        self.read(name, "a duration: 30, 500ms, 30s, 10m, 2h or 7d", read_duration)
    }

    /// A duration that must not be zero.
    fn limit(&self, name: &'static str, default: u64) -> Result<Duration, UsageError> {
        let accepted = "a duration above 0: 30, 500ms, 30s, 10m, 2h or 7d";
        let read = |word: &str| read_duration(word).filter(|duration| !duration.is_zero());
        Ok(self.read(name, accepted, read)?.unwrap_or(Duration::from_secs(default)))
    }

    /// SQLite counts it in milliseconds.
    fn store_lock_timeout(&self) -> Result<Duration, UsageError> {
        let range = Duration::from_millis(1)..=Duration::from_secs(600);
        let read = |word: &str| read_duration(word).filter(|duration| range.contains(duration));
        let timeout = self.read("--store-lock-timeout", "a duration from 1ms to 10m", read)?;
        Ok(timeout.unwrap_or(Duration::from_secs(5)))
    }

    /// A duration that HTTP counts in whole seconds.
    fn seconds(&self, name: &'static str) -> Result<Option<DeltaSeconds>, UsageError> {
        let accepted = "a duration in whole seconds: 30, 30s, 10m, 2h or 7d";
        self.read(name, accepted, |word| read_duration(word).and_then(whole_seconds))
    }

    fn store(&self) -> Result<StoreKind, UsageError> {
        let read = |word: &str| match word.split_once(':') {
            None if word == "memory" => Some(StoreKind::Memory),
            None if word == "sqlite" => Some(StoreKind::Sqlite(None)),
            Some(("sqlite", path)) if !path.is_empty() => {
                Some(StoreKind::Sqlite(Some(path.into())))
            }
            _ => Address::read(word).map(StoreKind::Redis),
        };
        let accepted = format!("memory, sqlite, sqlite:PATH, {FORMS}");
        Ok(self.read("--store", &accepted, read)?.unwrap_or(StoreKind::Memory))
    }

    fn origin(&self) -> (String, Option<HeaderValue>) {
        let given = self.text("--origin");
        take_userinfo(given.as_ref().map_or(ORIGIN_DEFAULT, |(text, _)| text.trim()))
    }

    fn access_format(&self) -> Result<AccessFormat, UsageError> {
        let format = self.one_of("--access-log-format", &FORMATS)?;
        Ok(format.unwrap_or(AccessFormat::Combined))
    }

    fn take_over(&self) -> Result<bool, UsageError> {
        let is_plain = self.text("--front").is_some_and(|(front, _)| front.trim() == "tiny-http");
        let is_free = self.text("--port").is_some_and(|(port, _)| port.trim() == "0");
        match self.0.is_on("--take-over") {
            true if is_plain || is_free => Err(UsageError::Value {
                flag: "--take-over".to_string(),
                seen: if is_plain { "--front tiny-http" } else { "--port 0" }.to_string(),
                accepted: "--front event, and the port of the proxy that runs".to_string(),
            }),
            is_on => Ok(is_on),
        }
    }

    fn admin(&self) -> Result<Option<SocketAddr>, UsageError> {
        let read = |word: &str| word.parse::<SocketAddr>().ok();
        let admin = self.read("--admin", "an address and a port, such as 127.0.0.1:3001", read)?;
        match (admin, self.text("--admin")) {
            (Some(address), Some((seen, flag)))
                if !address.ip().is_loopback() && self.path("--admin-token").is_none() =>
            {
                let accepted = "a loopback address, or --admin-token FILE beside it".to_string();
                Err(UsageError::Value { flag, seen, accepted })
            }
            (admin, _) => Ok(admin),
        }
    }

    fn networks(&self, name: &'static str) -> Result<Vec<Network>, UsageError> {
        let read = |word: &String| {
            Network::read(word).ok_or_else(|| UsageError::Value {
                flag: name.to_string(),
                seen: word.clone(),
                accepted: "an address or a network, such as 127.0.0.1 or 10.0.0.0/8".to_string(),
            })
        };
        self.0.all(name).iter().map(read).collect()
    }

    fn redis_prefix(&self) -> Result<String, UsageError> {
        let accepted = "a word without spaces and braces, at most 100 bytes, such as proxy:";
        let unfit =
            |letter: char| letter.is_whitespace() || letter.is_control() || "{}".contains(letter);
        let read =
            |word: &str| (word.len() <= 100 && !word.contains(unfit)).then(|| word.to_string());
        Ok(self.read("--redis-prefix", accepted, read)?.unwrap_or_else(|| "proxy:".to_string()))
    }

    fn health_path(&self) -> Result<Option<String>, UsageError> {
        let read = |word: &str| {
            let is_path = word.starts_with('/') && !word.contains(['?', '#', ' ']);
            is_path.then(|| word.to_string())
        };
        self.read("--health-path", "a path, such as /healthz", read)
    }

    /// `None` for never.
    fn clean_interval(&self) -> Result<Option<Duration>, UsageError> {
        let interval = self.duration("--cache-clean-interval")?.unwrap_or(Duration::from_secs(60));
        Ok((!interval.is_zero()).then_some(interval))
    }

    fn cache_disk(&self) -> Result<u64, UsageError> {
        let accepted = "a size of at least 1M: bytes, or a number with K, M or G";
        let read = |word: &str| read_bytes(word).filter(|bytes| *bytes >= CACHE_DISK_MIN);
        Ok(self.read("--cache-disk", accepted, read)?.unwrap_or(1 << 30))
    }

    fn storing(&self, mode: Mode, object_bytes_usual: u64) -> Result<StoringRules, UsageError> {
        let day = DeltaSeconds(86_400);
        Ok(StoringRules {
            freshness: FreshnessRules {
                cache_ttl: self.seconds("--cache-ttl")?,
                default_ttl: self.default_ttl()?,
                force: mode == Mode::Force,
            },
            share_cookies: self.0.is_on("--share-cookies"),
            stale_if_error: self.seconds("--stale-if-error")?.unwrap_or(day),
            stale_while_revalidate: self.seconds("--stale-while-revalidate")?.unwrap_or_default(),
            object_bytes_max: self.bytes("--max-object-size")?.unwrap_or(object_bytes_usual),
        })
    }

    fn reuse(
        &self,
        mode: Mode,
        disabled: bool,
        storing: &StoringRules,
    ) -> Result<ReuseRules, UsageError> {
        Ok(ReuseRules {
            mode,
            disabled,
            share_credentials: self.0.is_on("--share-credentials"),
            reuses_max: self.hit_ttl()?,
            stale_while_revalidate: storing.stale_while_revalidate,
            stale_if_error: storing.stale_if_error,
        })
    }

    /// So many requests in a span: `5/s`, `30/m`, `1000/h`.
    fn rate(&self, name: &'static str) -> Result<Option<Rate>, UsageError> {
        let accepted =
            "a number of requests from 1 to 100000 in a span: 5/s, 30/m, 1000/h or 5000/d";
        self.read(name, accepted, |word| {
            let (number, unit) = word.split_once('/')?;
            let requests = number.parse().ok().filter(|number| (1..=100_000).contains(number))?;
            Some(Rate { requests, per: read_duration(&format!("1{unit}"))? })
        })
    }

    fn default_ttl(&self) -> Result<DeltaSeconds, UsageError> {
        let accepted = "a duration in whole seconds (30, 10m, 2h, 7d), or until-cleared";
        let read = |word: &str| match word {
            "until-cleared" => Some(DeltaSeconds::MAX),
            word => read_duration(word).and_then(whole_seconds),
        };
        Ok(self.read("--default-ttl", accepted, read)?.unwrap_or(DeltaSeconds::MAX))
    }

    fn bytes(&self, name: &'static str) -> Result<Option<u64>, UsageError> {
        self.read(name, "a size: bytes, or a number with K, M or G", read_bytes)
    }

    fn cache_memory(&self) -> Result<u64, UsageError> {
        let accepted = "a size of at least 64K: bytes, or a number with K, M or G";
        let read = |word: &str| read_bytes(word).filter(|bytes| *bytes >= CACHE_MEMORY_MIN);
        Ok(self.read("--cache-memory", accepted, read)?.unwrap_or(64 << 20))
    }

    fn request_limits(&self) -> Result<RequestLimits, UsageError> {
        let usual = RequestLimits::default();
        let accepted = "a size from 1K to 1M: bytes, or a number with K or M";
        let size =
            |word: &str| read_bytes(word).filter(|bytes| (1 << 10..=1 << 20).contains(bytes));
        let field_bytes = self.read("--max-header-size", accepted, size)?;
        Ok(RequestLimits {
            field_lines: self
                .number("--max-header-fields", 1..=1000)?
                .map_or(usual.field_lines, |lines| lines as usize),
            field_bytes: field_bytes.map_or(usual.field_bytes, |bytes| bytes as usize),
            content_bytes: self.bytes("--max-request-size")?,
        })
    }

    /// `None` for no limit.
    fn hit_ttl(&self) -> Result<Option<u64>, UsageError> {
        let accepted =
            "a number: how often, or a negative one for no limit (0 would store in vain)";
        let read = |word: &str| word.parse::<i64>().ok().filter(|reuses| *reuses != 0);
        Ok(self.read("--hit-ttl", accepted, read)?.and_then(|reuses| u64::try_from(reuses).ok()))
    }

    fn host(&self) -> Result<IpAddr, UsageError> {
        let read = |word: &str| match word {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            word => word.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        };
        let accepted = "an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1";
        Ok(self.read("--host", accepted, read)?.unwrap_or(IpAddr::from([127, 0, 0, 1])))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Command, parse};

    fn config(words: &[&str]) -> Result<Config, String> {
        let words = words.iter().map(OsString::from).collect();
        match parse(words, |_| None) {
            Ok(Command::Serve(args)) => Config::new(&args).map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = config(&[]).expect("no flags");
        assert_eq!(config.origin, ORIGIN_DEFAULT);
        assert_eq!((config.port, config.workers, config.limits.bytes), (3000, 64, 64 << 20));
        assert_eq!(config.storing.freshness.default_ttl, DeltaSeconds::MAX);
        assert_eq!(config.reuse.reuses_max, None);
        assert_eq!(config.clean_interval, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_wrong_value_names_flag_sight_and_remedy() {
        #[rustfmt::skip]
        let table = [
            ("--port", "70000", "--port: \"70000\"; expected a number from 0 to 65535"),
            ("--hit-ttl", "0", "--hit-ttl: \"0\"; expected a number: how often, or a negative one for no limit (0 would store in vain)"),
            ("--eviction-policy", "fifo", "--eviction-policy: \"fifo\"; expected s3-fifo, lru, entire, none"),
            ("--store", "mysql", "--store: \"mysql\"; expected memory, sqlite, sqlite:PATH, redis://HOST, rediss://HOST, redis+unix:/PATH, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/NAME"),
            ("--store-lock-timeout", "1h", "--store-lock-timeout: \"1h\"; expected a duration from 1ms to 10m"),
            ("--store-lock-timeout", "0", "--store-lock-timeout: \"0\"; expected a duration from 1ms to 10m"),
            ("--cache-disk", "10K", "--cache-disk: \"10K\"; expected a size of at least 1M: bytes, or a number with K, M or G"),
            ("--front", "nginx", "--front: \"nginx\"; expected event, tiny-http"),
            ("--threads", "0", "--threads: \"0\"; expected a number from 1 to 4096"),
            ("--max-header-size", "10", "--max-header-size: \"10\"; expected a size from 1K to 1M: bytes, or a number with K or M"),
            ("--cache-ttl", "500ms", "--cache-ttl: \"500ms\"; expected a duration in whole seconds: 30, 30s, 10m, 2h or 7d"),
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
