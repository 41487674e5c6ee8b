//! What the command line asks of running proxies and of stores: one function a command, each gives what
//! is to be printed or one line about what went wrong.

use std::fmt::Write as _;
use std::io::Write;

use caching_proxy::cli::Task;
use caching_proxy::clock::{Clock, Timestamp};
use caching_proxy::config::{Config, StoreKind};
use caching_proxy::control::explanation;
use caching_proxy::har::Secrets;
use caching_proxy::message::percent::normalised;
use caching_proxy::message::target::OriginUrl;
use caching_proxy::policy::key::{CacheKey, Glob};
use caching_proxy::policy::purging::Selector;
use caching_proxy::store::behind::{Behind, Change};
use serde_json::Value;

use crate::instances::{Instance, running};
use crate::{recordings, start, stores, warm};

/// Does what is asked for.
pub fn run(config: &Config, task: &Task) -> Result<String, String> {
    match task {
        Task::Explain { target, fields } => explain(config, target, fields),
        Task::Clear => clear(config),
        Task::Purge(what, value) => purge(config, what, value),
        Task::List { json } => list(config, *json),
        Task::Show { url, json } => {
            let text = if *json { ("json", "1") } else { ("text", "1") };
            the_one(config)?.ask("GET", "/show", &[("url", url), text])
        }
        Task::Warm { file, jobs } => warm::warm(config, file, *jobs),
        Task::Export { file, with_secrets } => {
            let secrets = if *with_secrets { Secrets::Kept } else { Secrets::Redacted };
            recordings::export(config, file, secrets)
        }
        Task::Import { file } => recordings::import(config, file),
        Task::Stats { json } => {
            let query: &[(&str, &str)] = if *json { &[] } else { &[("text", "1")] };
            the_one(config)?.ask("GET", "/stats", query)
        }
    }
}

/// Running proxies: the one on `--port`, or all.
fn instances(config: &Config) -> Vec<Instance> {
    running(config.port_given.then_some(config.port))
}

/// The one running proxy that is meant.
pub fn the_one(config: &Config) -> Result<Instance, String> {
    let mut all = instances(config);
    match (all.len(), config.port_given) {
        (1, _) => Ok(all.remove(0)),
        (0, true) => Err(format!("no proxy of yours runs on port {}", config.port)),
        (0, false) => Err("no proxy of yours runs; start one".to_string()),
        _ => {
            let ports: Vec<String> = all.iter().map(|one| one.port.to_string()).collect();
            Err(format!(
                "several proxies run, on ports {}; say which with --port",
                ports.join(", ")
            ))
        }
    }
}

/// `proxy explain`: by the running proxy, unless the flags describe another one.
fn explain(config: &Config, target: &str, fields: &[String]) -> Result<String, String> {
    if !config.origin_given
        && let Ok(instance) = the_one(config)
    {
        let mut query = vec![("url", target)];
        query.extend(fields.iter().map(|field| ("field", field.as_str())));
        return instance.ask("GET", "/explain", &query);
    }
    let (proxy, host) = start::for_one_request(config).map_err(|error| error.to_string())?;
    let request = explanation::request(target, fields, &host)?;
    explanation::explain(&proxy, request)
}

fn purged(answer: &str) -> u64 {
    serde_json::from_str::<Value>(answer)
        .ok()
        .and_then(|value| value["purged"].as_u64())
        .unwrap_or(0)
}

/// Purges all running proxies that are meant; a line for each.
fn purge_running(config: &Config, what: &str, value: &str) -> Result<(String, usize), String> {
    let all = instances(config);
    let mut out = String::new();
    for instance in &all {
        let count = purged(&instance.ask("POST", "/purge", &[(what, value)])?);
        let _ = writeln!(out, "port {}: {count} purged", instance.port);
    }
    Ok((out, all.len()))
}

fn purge(config: &Config, what: &str, value: &str) -> Result<String, String> {
    let (out, count) = purge_running(config, what, value)?;
    if count > 0 {
        return Ok(out);
    }
    if config.store == StoreKind::Memory {
        return the_one(config).map(|_| out);
    }
    // Nothing runs; but the store lasts.
    let whole = || whole(config, value);
    // A URI is looked for as it was stored: in one spelling, and without what does not matter.
    let selector = match what {
        "url" => Selector::Uri(config.key.key_of(&whole()?).to_string()),
        "prefix" => Selector::Prefix(normalised(&whole()?).into_owned()),
        "match" => Selector::Match(Glob::new(&normalised(&whole()?))),
        "tag" => Selector::Tag(value.to_string()),
        "stale" => Selector::Stale,
        _ => Selector::All,
    };
    let behind = stores::open_behind(config)?.ok_or("no store to purge")?;
    purge_store(&*behind, selector, Clock::System.now())
}

/// What is meant by a path, where no running proxy knows the origin server.
fn whole(config: &Config, value: &str) -> Result<String, String> {
    if !value.starts_with('/') {
        return Ok(value.to_string());
    }
    if !config.origin_given {
        return Err(format!("{value}: of which server? give the whole URL, or --origin"));
    }
    let origin = OriginUrl::parse(&config.origin).map_err(|what| format!("--origin: {what}"))?;
    Ok(CacheKey::prefix(&origin) + value)
}

fn purge_store(behind: &dyn Behind, selector: Selector, now: Timestamp) -> Result<String, String> {
    let name = behind.name();
    let told = |error| format!("{name}: {error}");
    let counts = behind.apply(&[&Change::Purge { selector, now }]).map_err(told)?;
    // What was freed goes back to the disk.
    for _ in 0..10_000 {
        if behind.tidy() >= std::time::Duration::from_secs(1) {
            break;
        }
    }
    behind.close();
    Ok(format!("{name}: {} purged\n", counts.first().unwrap_or(&0)))
}

/// `--clear-cache`: running proxies and the store that is given, or the default one if it is there.
/// Nothing to clear is no error.
fn clear(config: &Config) -> Result<String, String> {
    let (mut out, _) = purge_running(config, "all", "1")?;
    if let Some(behind) = stores::existing(config)? {
        out += &purge_store(&*behind, Selector::All, Clock::System.now())?;
    }
    if out.is_empty() {
        out.push_str("nothing runs, and nothing is stored\n");
    }
    Ok(out)
}

/// `proxy list`: printed page by page, for there may be millions.
fn list(config: &Config, json: bool) -> Result<String, String> {
    let instance = the_one(config)?;
    let mut after = String::new();
    let mut out = std::io::stdout().lock();
    if !json {
        let _ = writeln!(
            out,
            "{:>3} {:>12} {:>10} {:>10} {:>8}  URL",
            "", "bytes", "age", "fresh for", "hits"
        );
    }
    loop {
        let page = instance.ask("GET", "/list", &[("after", &after)])?;
        let page: Value = serde_json::from_str(&page).map_err(|error| error.to_string())?;
        let Some(page) = page.as_array().filter(|page| !page.is_empty()) else {
            return Ok(String::new());
        };
        for listed in page {
            let line = if json { listed.to_string() } else { line(listed) };
            if writeln!(out, "{line}").is_err() {
                // Whoever reads has had enough.
                return Ok(String::new());
            }
        }
        let last = page.last().and_then(|listed| listed["url"].as_str());
        last.unwrap_or_default().clone_into(&mut after);
    }
}

fn line(listed: &Value) -> String {
    let fresh_for =
        listed["fresh_for"].as_i64().map_or("cleared".to_string(), |left| left.to_string());
    format!(
        "{:>3} {:>12} {:>10} {:>10} {:>8}  {}",
        listed["status"],
        listed["bytes"],
        listed["age"],
        fresh_for,
        listed["hits"],
        listed["url"].as_str().unwrap_or_default()
    )
}
