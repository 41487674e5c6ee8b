//! What the command line asks of running proxies and of stores: one function a command. Each gives the
//! text that is to be printed, or one line about what went wrong.
//!
//! `target.rs` says which cache is meant; `warm.rs` and `archive.rs` have the commands that take long, and
//! `progress.rs` the bars that they show; `top/` watches a proxy; `terminal.rs` is what knows terminals.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::Value;

use caching_proxy::cli::config::Config;
use caching_proxy::cli::{StatsForm, Task};
use caching_proxy::clock::{Clock, Timestamp};
use caching_proxy::control::{PurgeAnswer, explanation};
use caching_proxy::message::visible::visible;
use caching_proxy::policy::purging::Selector;
use caching_proxy::proxy::archive::har::Secrets;
use caching_proxy::store::backing::{Backing, Change};

use crate::commands::target::{CacheTarget, MeantCache, read, selectors, the_one, the_one_if_any};
use crate::daemon::engine::OwnEngine;
use crate::daemon::instances::{Instance, running};
use crate::daemon::stores;

mod archive;
mod progress;
pub mod target;
mod terminal;
mod top;
mod warm;

/// Runs one command; gives what is to be printed on stdout.
pub fn run(config: &Config, task: &Task) -> Result<String, String> {
    match task {
        Task::Explain { target, fields } => explain(config, target, fields),
        Task::Clear => clear(config),
        Task::Purge(what, value) => purge(config, what, value),
        Task::List { json } => list(config, *json),
        Task::Show { url, json } => {
            let text = if *json { ("json", "1") } else { ("text", "1") };
            MeantCache::holding(config, url)?.ask("GET", "/show", &[("url", url), text])
        }
        Task::Warm { file, jobs } => warm::warm(config, file, *jobs),
        Task::Export { file, with_secrets } => {
            let secrets = if *with_secrets { Secrets::Kept } else { Secrets::Redacted };
            archive::export(config, file, secrets)
        }
        Task::Import { file } => archive::import(config, file),
        Task::Top { count } => top::top(the_one(config)?, *count),
        Task::Stats(form) => {
            let instance = the_one(config)?;
            match form {
                StatsForm::Text => instance.ask("GET", "/stats", &[("text", "1")]),
                StatsForm::Json => instance.ask("GET", "/stats", &[]),
                StatsForm::Quiet => instance.ask("GET", "/health", &[]).map(|_| String::new()),
            }
        }
    }
}

/// `proxy explain`: by the running proxy, unless the flags describe another one.
fn explain(config: &Config, target: &str, fields: &[String]) -> Result<String, String> {
    if !config.origin_given
        && let Some(instance) = the_one_if_any(config)?
    {
        let mut query = vec![("url", target)];
        query.extend(fields.iter().map(|field| ("field", field.as_str())));
        return instance.ask("GET", "/explain", &query);
    }
    // With --origin, or where nothing runs, the question is about a proxy that would be started with
    // these flags.
    let engine = OwnEngine::new(config).map_err(|error| error.to_string())?;
    let request = explanation::request(target, fields, &engine.host)?;
    explanation::explain(&engine.driver, request)
}

/// Purges running proxies; gives a line for each.
fn purge_running(all: &[Instance], what: &str, value: &str) -> Result<String, String> {
    let (mut out, mut wrong) = (String::new(), Vec::new());
    for instance in all {
        // A proxy that cannot do it does not keep the others from it: what is to go is perhaps out of
        // date.
        let answer = instance.ask("POST", "/purge", &[(what, value)]);
        match answer.and_then(|answer| read(&answer)) {
            Ok(PurgeAnswer { purged }) => {
                let _ = writeln!(out, "port {}: {purged} purged", instance.port);
            }
            Err(error) => wrong.push(format!("port {}: {error}", instance.port)),
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(out + &wrong.join("\n")) }
}

/// `proxy purge`: running proxies purge themselves and the store behind them; a store that none of them
/// uses is purged directly.
fn purge(config: &Config, what: &str, value: &str) -> Result<String, String> {
    match CacheTarget::of(config)? {
        CacheTarget::Running(all) => purge_running(&all, what, value),
        CacheTarget::Store => {
            // Opening the store would make the file: a slip of the pen would report success.
            stores::must_exist(config)?;
            let selectors = selectors(config, what, value)?;
            let backing = stores::open_backing(config)?.ok_or("no store to purge")?;
            purge_store(&*backing, &selectors, Clock::System.now())
        }
    }
}

/// Purges a store that no running proxy has in use.
fn purge_store(
    backing: &dyn Backing,
    selectors: &[Selector],
    now: Timestamp,
) -> Result<String, String> {
    let name = backing.name();
    let told = |error| format!("{name}: {error}");
    let mut purged = 0;
    for selector in selectors {
        let counts = backing.apply(&[&Change::Purge { selector: selector.clone(), now }]);
        purged += counts.map_err(told)?.iter().sum::<u64>();
    }
    // Freed pages go back to the disk a few at a time, until the store says that nothing is urgent; the
    // bound is for one that never says so.
    for _ in 0..10_000 {
        if backing.tidy() >= std::time::Duration::from_secs(1) {
            break;
        }
    }
    backing.close();
    Ok(format!("{name}: {purged} purged\n"))
}

/// `--clear-cache`: clears running proxies and the store that is named, or the default one if it is
/// there. Nothing to clear is no error.
fn clear(config: &Config) -> Result<String, String> {
    // Both: the running proxies hold memory, and the store may be one that none of them uses.
    let all = running(config.port_given.then_some(config.port));
    let mut out = purge_running(&all, "all", "1")?;
    if let Some(backing) = stores::existing(config)? {
        out += &purge_store(&*backing, &[Selector::All], Clock::System.now())?;
    }
    if out.is_empty() {
        out.push_str("nothing runs, and nothing is stored\n");
    }
    Ok(out)
}

/// `proxy list`: printed page by page, because there may be millions of responses.
fn list(config: &Config, json: bool) -> Result<String, String> {
    let cache = MeantCache::existing(config)?;
    let mut after = String::new();
    let mut out = std::io::stdout().lock();
    if !json {
        let _ = writeln!(
            out,
            "{:>3} {:>12} {:>10} {:>13} {:>8}  URL",
            "", "bytes", "age", "fresh for", "hits"
        );
    }
    loop {
        let page = cache.ask("GET", "/list", &[("after", &after)])?;
        let page: Value = read(&page)?;
        let Some(page) = page.as_array().filter(|page| !page.is_empty()) else {
            return Ok(String::new());
        };
        for listed in page {
            let line = if json { listed.to_string() } else { line(listed) };
            if writeln!(out, "{line}").is_err() {
                // The reader has had enough, as in `proxy list | head`.
                return Ok(String::new());
            }
        }
        // The next page begins behind the last row, by its mark: a URL alone does not tell its variants
        // apart.
        let told = |listed: &'_ Value| {
            listed["after"].as_str().or(listed["url"].as_str()).map(str::to_string)
        };
        let last = page.last().and_then(told);
        after = last.unwrap_or_default();
    }
}

/// One row of the list, in columns.
fn line(listed: &Value) -> String {
    // A width does not reach a `Value`; it does reach text.
    let text = |name: &str| listed[name].to_string();
    let left = listed["fresh_for"].as_i64();
    let fresh_for = left.map_or("until cleared".to_string(), |left| left.to_string());
    format!(
        "{:>3} {:>12} {:>10} {fresh_for:>13} {:>8}  {}",
        text("status"),
        text("bytes"),
        text("age"),
        text("hits"),
        visible(listed["url"].as_str().unwrap_or_default())
    )
}
