//! `proxy export` and `proxy import`: the cache as an HTTP Archive, and back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use caching_proxy::cli::config::Config;
use caching_proxy::proxy::archive::har::{self, Secrets};
use serde_json::Value;

use crate::commands::target::Cache;

/// About so many bytes of entries are handed in at a time.
const BATCH_BYTES: usize = 4 << 20;

/// A page of entries, how many responses were left out of it, and where to go on.
fn page(
    cache: &Cache,
    after: &str,
    secrets: Secrets,
) -> Result<(Vec<Value>, u64, Option<String>), String> {
    let kept = if secrets == Secrets::Kept { "1" } else { "0" };
    let page = cache.ask("GET", "/export", &[("after", after), ("with_secrets", kept)])?;
    let mut page: Value = serde_json::from_str(&page).map_err(|error| error.to_string())?;
    let Value::Array(entries) = page["entries"].take() else {
        return Err("an answer without entries".to_string());
    };
    let next = page["next"].as_str().map(str::to_string);
    Ok((entries, page["left_out"].as_u64().unwrap_or(0), next))
}

/// Hands entries in; what became of them, by word.
fn take(cache: &Cache, entries: Vec<Value>) -> Result<BTreeMap<String, u64>, String> {
    let answer = cache.import(Value::Array(entries).to_string().as_bytes())?;
    let outcomes: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    let outcomes = outcomes.as_object().ok_or("an answer that is no object")?;
    Ok(outcomes.iter().map(|(word, count)| (word.clone(), count.as_u64().unwrap_or(0))).collect())
}

/// `proxy export FILE`: writes the recording all at once; `-` is the standard output.
pub fn export(config: &Config, file: &str, secrets: Secrets) -> Result<String, String> {
    let cache = Cache::existing(config)?;
    if file == "-" {
        let (_, told) = write(&cache, &mut io::stdout().lock(), secrets)?;
        eprint!("{told}");
        return Ok(String::new());
    }
    // A recording that is there is not lost if this one fails.
    let unfinished = format!("{file}.tmp");
    let told = |error: io::Error| format!("{unfinished}: {error}");
    let mut out = BufWriter::new(File::create(&unfinished).map_err(told)?);
    let written = write(&cache, &mut out, secrets);
    let written = written.and_then(|(count, told_of)| {
        out.flush().and_then(|()| std::fs::rename(&unfinished, file)).map_err(told)?;
        Ok(format!("{file}: {count} responses\n{told_of}"))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

/// Writes all entries; how many, and what there is to say of it.
fn write(cache: &Cache, out: &mut impl Write, secrets: Secrets) -> Result<(u64, String), String> {
    let told = |error: io::Error| error.to_string();
    out.write_all(har::BEGINNING.as_bytes()).map_err(told)?;
    let (mut count, mut left_out, mut redacted) = (0, 0, 0);
    let mut after = String::new();
    loop {
        let (entries, missing, next) = page(cache, &after, secrets)?;
        for entry in &entries {
            let separator = if count > 0 { ",\n" } else { "\n" };
            write!(out, "{separator}{entry}").map_err(told)?;
            count += 1;
            redacted += u64::from(
                entry["request"]["url"].as_str().is_some_and(|url| url.contains("=REDACTED")),
            );
        }
        left_out += missing;
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    out.write_all(har::END.as_bytes()).and_then(|()| out.flush()).map_err(told)?;
    let mut told = String::new();
    if left_out > 0 {
        let _ =
            writeln!(told, "{left_out} left out: parts, bodies above 64 MiB, or not to be read");
    }
    if redacted > 0 {
        let _ = writeln!(
            told,
            "{redacted} URLs had secrets, which are left out; replay them with --ignore-param, or export \
             --with-secrets"
        );
    }
    Ok((count, told))
}

/// `proxy import FILE`: stores what may be stored of a recording; `-` is the standard input.
pub fn import(config: &Config, file: &str) -> Result<String, String> {
    let cache = Cache::of(config)?;
    let reader: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(Path::new(file)).map_err(|error| format!("{file}: {error}"))?)
    };
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut hand_in = |batch: Vec<Value>| -> Result<(), String> {
        if !batch.is_empty() {
            for (word, count) in take(&cache, batch)? {
                *outcomes.entry(word).or_default() += count;
            }
        }
        Ok(())
    };
    let read = har::entries(BufReader::new(reader), |entry| {
        bytes += entry["response"]["content"]["text"].as_str().map_or(0, str::len) + 1024;
        batch.push(entry);
        if bytes >= BATCH_BYTES {
            bytes = 0;
            return hand_in(std::mem::take(&mut batch));
        }
        Ok(())
    });
    // What was whole before something went wrong is kept.
    let handed_in = hand_in(batch);
    let count = read.map_err(|error| format!("{file}: {error}"))?;
    handed_in?;
    cache.close()?;
    let stored = outcomes.remove("stored").unwrap_or(0);
    let mut told = format!("{file}: {stored} of {count} responses stored\n");
    for (word, count) in outcomes {
        let _ = writeln!(told, "  {count} not: {word}");
    }
    if stored < count {
        told.push_str("  --cache-mode force takes what says that it must not be stored\n");
    }
    Ok(told)
}
