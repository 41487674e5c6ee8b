//! Which cache a command is about: for every command alike, as `--port` and `--store` say.
//!
//! A store that is named is meant wherever it is: in the running proxies that use it, whose memory is
//! in front of it, or, where there is none, by itself. Without a named store, running proxies are
//! meant.

use serde::de::DeserializeOwned;

use caching_proxy::cli::config::{Config, StoreKind};
use caching_proxy::control::{self, Imported, Info};
use caching_proxy::policy::purging::Selector;
use caching_proxy::proxy::archive::har::HarEntry;

use crate::daemon::engine::{OwnEngine, reader_of_urls};
use crate::daemon::instances::{Instance, running, with_query};
use crate::daemon::stores;

/// The caches that a command is about.
pub enum CacheTarget {
    /// Those of these running proxies, at least one.
    Running(Vec<Instance>),
    /// A store that lasts and that no running proxy of this user has in use.
    Store,
}

/// One cache that can be asked.
pub enum MeantCache {
    /// That of a running proxy, asked over its control socket.
    Running(Instance),
    /// A store that lasts, with an engine of this process.
    Own(Box<OwnEngine>),
}

impl CacheTarget {
    /// The caches that are meant; the error is that there is none.
    pub fn of(config: &Config) -> Result<Self, String> {
        let port = config.port_given.then_some(config.port);
        let all = running(port);
        // Memory belongs to its process: only a running proxy can be meant.
        if config.store == StoreKind::Memory {
            return match (all.is_empty(), port) {
                (false, _) => Ok(Self::Running(all)),
                (true, Some(port)) => Err(format!("no proxy of yours runs on port {port}")),
                (true, None) => Err("no proxy of yours runs; start one".to_string()),
            };
        }
        // A purge once emptied a proxy with memory alone, and not the file that was named: so each
        // proxy is asked which store it uses.
        let named = stores::identity(config)?;
        let mut users = Vec::new();
        for instance in all {
            let info = instance.ask("GET", "/info", &[])?;
            let Info { cache: used, .. } = read(&info)?;
            if used == named {
                users.push(instance);
            // Both flags were given and they contradict: neither is silently ignored.
            } else if let Some(port) = port {
                let used = if used.is_empty() { "memory alone" } else { &used };
                return Err(format!(
                    "--store {named}: the proxy on port {port} uses {used}; leave out one of the two flags"
                ));
            }
        }
        Ok(if users.is_empty() { Self::Store } else { Self::Running(users) })
    }
}

/// The one running proxy that is meant; an error if there are several, or none.
pub fn the_one(config: &Config) -> Result<Instance, String> {
    match CacheTarget::of(config)? {
        CacheTarget::Running(all) => only(all),
        CacheTarget::Store => {
            Err(format!("no proxy of yours runs with --store {}", stores::identity(config)?))
        }
    }
}

/// The one running proxy that is meant, or `None` if none runs; an error if there are several, or none on the
/// port that is named.
pub fn the_one_if_any(config: &Config) -> Result<Option<Instance>, String> {
    match CacheTarget::of(config) {
        Ok(CacheTarget::Running(all)) => only(all).map(Some),
        Err(error) if config.port_given => Err(error),
        Ok(CacheTarget::Store) | Err(_) => Ok(None),
    }
}

/// The single one of several proxies; the error names them all.
fn only(mut all: Vec<Instance>) -> Result<Instance, String> {
    if all.len() > 1 {
        let ports: Vec<String> = all.iter().map(|one| one.port.to_string()).collect();
        let ports = ports.join(", ");
        return Err(format!("several proxies run, on ports {ports}; say which with --port"));
    }
    all.pop().ok_or_else(|| "no proxy of yours runs; start one".to_string())
}

impl MeantCache {
    /// The one cache that is meant.
    pub fn of(config: &Config) -> Result<Self, String> {
        match CacheTarget::of(config)? {
            CacheTarget::Running(all) => only(all).map(Self::Running),
            CacheTarget::Store => {
                let engine = OwnEngine::new(config).map_err(|error| error.to_string())?;
                Ok(Self::Own(Box::new(engine)))
            }
        }
    }

    /// The same for a command that stores nothing: it does not make a store that is not there.
    pub fn existing(config: &Config) -> Result<Self, String> {
        stores::must_exist(config)?;
        Self::of(config)
    }

    /// The same for a command about this URL. In a store that no proxy runs for, the URL says whose
    /// responses are meant.
    pub fn holding(config: &Config, url: &str) -> Result<Self, String> {
        match CacheTarget::of(config)? {
            CacheTarget::Running(all) => only(all).map(Self::Running),
            CacheTarget::Store => {
                let origin = origin_of(config, "url", url)?;
                Self::existing(&Config { origin, ..config.clone() })
            }
        }
    }

    /// Asks, and gives the content of the answer; any status but 200 is an error.
    pub fn ask(&self, method: &str, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        match self {
            Self::Running(instance) => instance.ask(method, path, query),
            Self::Own(engine) => engine.answer(method, &with_query(path, query), b""),
        }
    }

    /// Hands recorded responses in; gives the outcome.
    pub fn import(&self, entries: Vec<HarEntry>) -> Result<Imported, String> {
        match self {
            Self::Running(instance) => {
                let content = serde_json::to_vec(&entries).map_err(|error| error.to_string())?;
                read(&instance.send("/import", &content)?)
            }
            Self::Own(engine) => Ok(engine.import(entries)),
        }
    }

    /// Waits until a store that this process has opened has written everything.
    pub fn close(&self) -> Result<(), String> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Own(engine) => engine.close(),
        }
    }
}

/// Reads an answer of the control interface.
pub fn read<T: DeserializeOwned>(answer: &str) -> Result<T, String> {
    serde_json::from_str(answer)
        .map_err(|error| format!("an answer that is not understood: {error}"))
}

/// What `proxy purge` selects in a store that no proxy runs for, read by the same code as in a running
/// one.
pub fn selectors(config: &Config, what: &str, value: &str) -> Result<Vec<Selector>, String> {
    let origin = origin_of(config, what, value)?;
    let reader = reader_of_urls(config, &origin).map_err(|error| error.to_string())?;
    control::selectors(&reader, what, value)
}

/// Whose responses are meant in a store that may have those of many origin servers.
fn origin_of(config: &Config, what: &str, value: &str) -> Result<String, String> {
    // A running proxy completes a path with its own origin server. A store has no such default: the
    // flags' default would be a guess, and delete another server's responses.
    let is_whole = value.split_once("://");
    let is_path = value.starts_with('/') || what == "url" && is_whole.is_none();
    match is_whole {
        _ if config.origin_given => Ok(config.origin.clone()),
        Some((scheme @ ("http" | "https"), rest)) if what == "url" => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            Ok(format!("{scheme}://{authority}"))
        }
        _ if is_path => Err(format!("{value}: of which server? give the whole URL, or --origin")),
        _ => Ok(config.origin.clone()),
    }
}
