//! Which cache is meant: by every command alike, as `--port` and `--store` say.
//!
//! A store that is named is meant wherever it is: in the running proxies that use it, whose memory is in
//! front of it, or, where there is none, by itself. Without one, running proxies are meant.

use caching_proxy::cli::config::{Config, StoreKind};
use caching_proxy::control;
use caching_proxy::policy::purging::Selector;
use serde_json::Value;

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
pub enum Cache {
    Running(Instance),
    /// A store that lasts, with an engine of our own.
    Own(Box<OwnEngine>),
}

impl CacheTarget {
    /// The caches that are meant; the error is that there is none.
    pub fn of(config: &Config) -> Result<Self, String> {
        let port = config.port_given.then_some(config.port);
        let all = running(port);
        if config.store == StoreKind::Memory {
            return match (all.is_empty(), port) {
                (false, _) => Ok(Self::Running(all)),
                (true, Some(port)) => Err(format!("no proxy of yours runs on port {port}")),
                (true, None) => Err("no proxy of yours runs; start one".to_string()),
            };
        }
        let named = stores::identity(config)?;
        let mut users = Vec::new();
        for instance in all {
            let info = instance.ask("GET", "/info", &[])?;
            let info: Value = serde_json::from_str(&info).map_err(|error| error.to_string())?;
            let used = info["cache"].as_str().unwrap_or_default();
            if used == named {
                users.push(instance);
            } else if let Some(port) = port {
                let used = if used.is_empty() { "memory alone" } else { used };
                return Err(format!(
                    "--store {named}: the proxy on port {port} uses {used}; leave out one of the two flags"
                ));
            }
        }
        Ok(if users.is_empty() { Self::Store } else { Self::Running(users) })
    }
}

/// The one running proxy that is meant.
pub fn the_one(config: &Config) -> Result<Instance, String> {
    match CacheTarget::of(config)? {
        CacheTarget::Running(all) => only(all),
        CacheTarget::Store => {
            Err(format!("no proxy of yours runs with --store {}", stores::identity(config)?))
        }
    }
}

fn only(mut all: Vec<Instance>) -> Result<Instance, String> {
    if all.len() > 1 {
        let ports: Vec<String> = all.iter().map(|one| one.port.to_string()).collect();
        let ports = ports.join(", ");
        return Err(format!("several proxies run, on ports {ports}; say which with --port"));
    }
    all.pop().ok_or_else(|| "no proxy of yours runs; start one".to_string())
}

impl Cache {
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

    /// The same for a command about this URL, which says in a store by itself which server's it is.
    pub fn holding(config: &Config, url: &str) -> Result<Self, String> {
        match CacheTarget::of(config)? {
            CacheTarget::Running(all) => only(all).map(Self::Running),
            CacheTarget::Store => {
                let origin = origin_of(config, "url", url)?;
                Self::existing(&Config { origin, ..config.clone() })
            }
        }
    }

    /// Asks, and gives the content of the answer; anything but success is the error.
    pub fn ask(&self, method: &str, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        match self {
            Self::Running(instance) => instance.ask(method, path, query),
            Self::Own(engine) => engine.answer(method, &with_query(path, query), b""),
        }
    }

    /// Hands recorded responses in; what became of them, as JSON.
    pub fn import(&self, content: &[u8]) -> Result<String, String> {
        match self {
            Self::Running(instance) => instance.send("/import", content),
            Self::Own(engine) => engine.import(content),
        }
    }

    /// Waits until a store of our own has written everything.
    pub fn close(&self) -> Result<(), String> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Own(engine) => engine.close(),
        }
    }
}

/// What `proxy purge` selects in a store that nobody runs for, as a running proxy would read it.
pub fn selectors(config: &Config, what: &str, value: &str) -> Result<Vec<Selector>, String> {
    let origin = origin_of(config, what, value)?;
    let reader = reader_of_urls(config, &origin).map_err(|error| error.to_string())?;
    control::selectors(&reader, what, value)
}

/// Whose responses are meant in a store that may have those of many origin servers.
fn origin_of(config: &Config, what: &str, value: &str) -> Result<String, String> {
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
