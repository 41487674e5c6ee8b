//! Opens the store that the command line asks for, and says which one that is.
#![cfg_attr(
    not(feature = "sqlite"),
    allow(clippy::unnecessary_wraps, reason = "only a file can be missing")
)]

#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use caching_proxy::cli::config::{Config, StoreKind};
use caching_proxy::cli::units::show_bytes;
use caching_proxy::clock::Clock;
#[cfg(feature = "redis")]
use caching_proxy::origin::trust::roots;
use caching_proxy::store::backing::Backing;
use caching_proxy::store::cache::{Cache, LoadBounds};
use caching_proxy::store::memory;
#[cfg(feature = "redis")]
use caching_proxy::store::redis::{ANSWER_MAX, Address, Redis, RedisLimits, Trust};
#[cfg(feature = "sqlite")]
use caching_proxy::store::sqlite::{DiskLimits, Sqlite, default_path};

/// Content that waits to be written behind memory is a sixteenth of `--cache-memory`, and at least this
/// many bytes.
const QUEUED_BYTES_MIN: u64 = 256 * 1024;

/// Opens memory and, where there is to be one, the store behind it; the error is one line.
pub fn open(config: &Config) -> Result<Arc<Cache>, String> {
    // Memory comes first in any case: it answers on the spot, and what is behind it must be waited for.
    let memory = memory::store(config.eviction, config.limits);
    let Some(backing) = open_backing(config)? else {
        if memory.content_bytes_max() < config.limits.content_bytes {
            log::info!(
                "bodies above {} are not stored: a quarter of --cache-memory",
                show_bytes(memory.content_bytes_max())
            );
        }
        return Ok(Arc::new(compressing(Cache::in_memory(memory), config)));
    };
    log::info!("{}", backing.name());
    // A file that can only be read says so itself.
    let most = backing.content_bytes_max();
    if most > 0 && most < config.limits.content_bytes {
        log::info!("bodies above {} are not stored in it", show_bytes(most));
    }
    let queued = (config.limits.bytes / 16).max(QUEUED_BYTES_MIN);
    // `--hit-ttl` counts reuses, across restarts and proxies; else the store hears of a use now and
    // then, for its order of eviction.
    let tells_each_use = config.reuse.reuses_max.is_some();
    let cache = Cache::with_backing(memory, backing, queued, tells_each_use)
        .map_err(|error| format!("the thread that writes to the store: {error}"))?;
    // The cap is for what is recalled: it may have been stored by a process with another `--cache-ttl`.
    let cache = cache.capped(config.storing.freshness.cache_ttl);
    Ok(Arc::new(compressing(cache, config)))
}

/// The same, with `--cache-compress`.
fn compressing(cache: Cache, config: &Config) -> Cache {
    // Two forms of one response count their reuses apart while a request holds the old one; and `--hit-ttl` counts
    // exactly.
    let counts_exactly = config.reuse.reuses_max.is_some();
    if config.compresses && !counts_exactly {
        cache.compressing(config.limits.bytes)
    } else {
        cache
    }
}

/// Begins to fill memory from the store behind it (`--warm-start`), on a thread that ends when that is done.
pub fn begin_load(config: &Config, cache: &Arc<Cache>) {
    if !config.warm_start || !cache.has_backing() {
        return;
    }
    // The other half is for what is asked for.
    let responses = config.limits.responses.map(|most| most / 2);
    let bounds = LoadBounds { bytes: config.limits.bytes / 2, responses };
    // Noted here: whoever looks as soon as the proxy serves sees that it has begun.
    cache.note_load(true);
    let loaded = Arc::clone(cache);
    let load = move || loaded.load(bounds, || Clock::System.now(), stand_back);
    if let Err(error) = thread::Builder::new().name("store-loader".to_string()).spawn(load) {
        cache.note_load(false);
        log::info!("memory is not filled from the store, for want of a thread: {error}");
    }
}

/// Waits, after some work that took so long, until it has had a fifth of the time at most.
fn stand_back(took: Duration) -> bool {
    thread::sleep((took * 4).max(Duration::from_millis(2)));
    true
}

/// The store behind memory; `None` for memory alone.
pub fn open_backing(config: &Config) -> Result<Option<Arc<dyn Backing>>, String> {
    match &config.store {
        StoreKind::Memory => Ok(None),
        #[cfg(feature = "sqlite")]
        StoreKind::Sqlite(path) => {
            sqlite(config, &sqlite_path(path.clone())?, config.limits.responses).map(Some)
        }
        #[cfg(feature = "redis")]
        StoreKind::Redis(address) => redis(config, address).map(Some),
    }
}

/// Opens the SQLite file.
#[cfg(feature = "sqlite")]
fn sqlite(
    config: &Config,
    path: &Path,
    responses: Option<u64>,
) -> Result<Arc<dyn Backing>, String> {
    let limits = DiskLimits {
        bytes: config.cache_disk,
        responses,
        content_bytes: config.limits.content_bytes,
    };
    let opened = Sqlite::open_within(path, limits, config.store_lock_timeout);
    Ok(Arc::new(opened.map_err(|error| format!("--store sqlite: {error}"))?))
}

/// Opens Redis with the roots that the flags name.
#[cfg(feature = "redis")]
fn redis(config: &Config, address: &Address) -> Result<Arc<dyn Backing>, String> {
    let limits = RedisLimits {
        prefix: config.redis_prefix.clone(),
        content_bytes: config.limits.content_bytes,
        answer_max: ANSWER_MAX,
    };
    let opened = Redis::open(address.clone().trusting(trust(config, address)?), limits);
    let opened = opened.map_err(|error| format!("--store {address}: {error}"))?;
    Ok(Arc::new(opened))
}

/// Whose certificates are good for Redis: those that are good for the origin server. `--ca-cert` was
/// for the origin server alone once, and a Redis with a company's certificate could not be used.
#[cfg(feature = "redis")]
fn trust(config: &Config, address: &Address) -> Result<Trust, String> {
    if !address.is_secure() {
        return Ok(Trust::System);
    }
    if config.insecure {
        log::warn!("--insecure: the certificate of {address} is not verified");
        return Ok(Trust::Anything);
    }
    Ok(Trust::Roots(roots(config.ca_cert.as_deref())?.pem()))
}

/// Which store the flags name, as text: two processes that mean the same store say the same. Empty for
/// memory alone.
pub fn identity(config: &Config) -> Result<String, String> {
    match &config.store {
        StoreKind::Memory => Ok(String::new()),
        #[cfg(feature = "sqlite")]
        StoreKind::Sqlite(path) => {
            let path = sqlite_path(path.clone())?;
            // A file that is not there yet, or not any more, has no other name.
            let path = path.canonicalize().or_else(|_| std::path::absolute(&path)).unwrap_or(path);
            Ok(format!("sqlite:{}", path.display()))
        }
        #[cfg(feature = "redis")]
        StoreKind::Redis(address) => Ok(format!("{address} {}", config.redis_prefix)),
    }
}

/// The store that `--clear-cache` is to empty: the one that is named or the default one, and `None` if
/// that is not there.
pub fn existing(config: &Config) -> Result<Option<Arc<dyn Backing>>, String> {
    match &config.store {
        #[cfg(feature = "sqlite")]
        StoreKind::Memory => existing_sqlite(config, None),
        #[cfg(not(feature = "sqlite"))]
        StoreKind::Memory => Ok(None),
        #[cfg(feature = "sqlite")]
        StoreKind::Sqlite(path) => existing_sqlite(config, path.clone()),
        #[cfg(feature = "redis")]
        StoreKind::Redis(address) => redis(config, address).map(Some),
    }
}

/// The file at `given`, or the default one, if it is there.
#[cfg(feature = "sqlite")]
fn existing_sqlite(
    config: &Config,
    given: Option<PathBuf>,
) -> Result<Option<Arc<dyn Backing>>, String> {
    let path = given.or_else(|| default_path(|name| std::env::var_os(name)));
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(None) };
    // A bound on responses means nothing to a store that is about to be emptied.
    sqlite(config, &path, None).map(Some)
}

/// The error is that the file which is named is not there, as after a slip of the pen: opening it would
/// make an empty store and report that nothing is in it.
#[cfg(feature = "sqlite")]
pub fn must_exist(config: &Config) -> Result<(), String> {
    let StoreKind::Sqlite(path) = &config.store else { return Ok(()) };
    let path = sqlite_path(path.clone())?;
    if path.exists() {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "--store sqlite:{path}: no such file; a proxy makes it, and so do proxy warm and import"
    ))
}

/// Nothing is named by a path.
#[cfg(not(feature = "sqlite"))]
pub fn must_exist(_: &Config) -> Result<(), String> {
    Ok(())
}

/// The path that is given, or the default one; the error is that the environment names no place for it.
#[cfg(feature = "sqlite")]
fn sqlite_path(given: Option<PathBuf>) -> Result<PathBuf, String> {
    given.or_else(|| default_path(|name| std::env::var_os(name))).ok_or_else(|| {
        "--store sqlite: neither XDG_CACHE_HOME nor HOME says where; give a path, sqlite:PATH"
            .to_string()
    })
}
