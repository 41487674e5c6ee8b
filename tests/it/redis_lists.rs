//! What is in a shared store, listed and exported: a page costs a page, however much there is.

use std::collections::BTreeSet;
use std::sync::Arc;

use caching_proxy::store::cache::Cache;
use redis::Value;

use super::support::TemporaryFolder;
use super::support::proxy::command;
use super::support::redis::{Server, cluster, programs};
use super::support::shared::{flush, open};
use super::support::stored::{put, response};

/// Keys in the store.
const STORED: usize = 3000;

fn fill(store: &Arc<Cache>) -> BTreeSet<String> {
    let keys = (0..STORED).map(|number| format!("http://o/{number}"));
    for (number, key) in keys.clone().enumerate() {
        put(store, &key, response(None, b"a", 600));
        // What is to be written has a bound.
        if number % 100 == 0 {
            flush(store);
        }
    }
    put(store, "http://o/7", response(Some("en"), b"en", 600));
    flush(store);
    keys.collect()
}

/// How often these commands were called since it was counted anew.
fn calls(server: &Server, name: &str) -> u64 {
    let Value::BulkString(stats) = server.ask(&["INFO", "commandstats"]) else { panic!("text") };
    let stats = String::from_utf8_lossy(&stats).into_owned();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

fn bytes_sent(server: &Server) -> u64 {
    let Value::BulkString(stats) = server.ask(&["INFO", "stats"]) else { panic!("text") };
    let stats = String::from_utf8_lossy(&stats).into_owned();
    let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    line.and_then(|line| line.trim().parse().ok()).expect("a number")
}

#[test]
fn a_page_of_a_shared_store_costs_a_page() {
    let mut places: Vec<(Vec<Server>, String)> = Vec::new();
    for program in programs() {
        let server = Server::start(program);
        let url = server.url();
        places.push((vec![server], url));
    }
    places.extend(cluster());
    for (servers, url) in &places {
        let store = open(url);
        let keys = fill(&store);
        for most in [1, 10, 50, 333, 1000] {
            for server in servers {
                server.ask(&["CONFIG", "RESETSTAT"]);
            }
            let page = store.list("", most);
            assert!(page.len() <= most.max(2) && page.len() + 2 > most, "{url}: {most}");
            let steps: u64 = servers.iter().map(|server| calls(server, "scan")).sum();
            let reads: u64 = servers.iter().map(|server| calls(server, "hgetall")).sum();
            let sent: u64 = servers.iter().map(bytes_sent).sum();
            assert!(steps <= most as u64 / 200 + 3, "{url}: {most}: {steps} steps");
            assert!(reads <= most as u64 + 2, "{url}: {most}: {reads} responses read");
            assert!(sent < 100_000 + most as u64 * 1000, "{url}: {most}: {sent} bytes");
        }
        for most in [7, 100, 1000] {
            let (mut after, mut found, mut count) = (String::new(), BTreeSet::new(), 0);
            loop {
                let page = store.list(&after, most);
                let Some(last) = page.last() else { break };
                assert!(page.len() <= most, "{url}: {most}");
                after = last.after().to_string();
                count += page.len();
                found.extend(page.iter().map(|listed| listed.key.to_string()));
            }
            assert!(found == keys, "{url}: {most}: {} found", found.len());
            assert_eq!(count, STORED + 1, "{url}: {most}: each once");
        }
        // What goes meanwhile ends no list, and neither does a key alone.
        let page = store.list("", 10);
        let last = page.last().expect("a page");
        store.invalidate(&last.key, None);
        flush(&store);
        assert!(!store.list(last.after(), 10).is_empty(), "{url}");
        let known = page[3].key.as_str();
        // Not in the same order: the server may be moving its keys to a larger table.
        let next: BTreeSet<_> = store.list(known, 1000).into_iter().map(|one| one.key).collect();
        let rest = page[4..page.len() - 1].iter();
        assert!(rest.into_iter().all(|listed| next.contains(&listed.key)), "{url}: {known}");
    }
}

/// The commands go through all pages.
#[test]
fn all_of_a_shared_store_is_listed_and_exported() {
    let Some(program) = programs().into_iter().next() else { return };
    let server = Server::start(program);
    let keys = fill(&open(&server.url()));
    let folder = TemporaryFolder::new();
    let run = |words: &[&str]| {
        let mut proxy = command();
        proxy.env("XDG_RUNTIME_DIR", folder.path()).args(words);
        let told = proxy.args(["--store", &server.url(), "--redis-prefix", "test:"]).output();
        let told = told.expect("the binary runs");
        assert!(told.status.success(), "{words:?}: {told:?}");
        String::from_utf8_lossy(&told.stdout).into_owned()
    };
    let listed = run(&["list"]);
    let urls: BTreeSet<String> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().last().map(str::to_string))
        .collect();
    assert!(
        urls == keys && listed.lines().count() == STORED + 2,
        "{} lines",
        listed.lines().count()
    );
    let exported = run(&["export", "-"]);
    let exported: serde_json::Value = serde_json::from_str(&exported).expect("JSON");
    let entries = exported["log"]["entries"].as_array().expect("a list");
    let urls = entries.iter().filter_map(|entry| entry["request"]["url"].as_str());
    assert!(urls.map(str::to_string).collect::<BTreeSet<_>>() == keys);
    assert_eq!(entries.len(), STORED + 1);
}
