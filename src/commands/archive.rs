//! `proxy export` and `proxy import`: the cache as an HTTP Archive, and back.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use serde_json::Value;

use caching_proxy::cli::config::Config;
use caching_proxy::control::Imported;
use caching_proxy::message::visible::visible;
use caching_proxy::proxy::archive::har::Secrets;
use caching_proxy::proxy::archive::{Page, stream};
use caching_proxy::stats::figures::{number, size};

use crate::commands::progress::ProgressLine;
use crate::commands::target::{MeantCache, read};

/// About so many bytes of entries are handed in at a time.
const BATCH_BYTES: usize = 4 << 20;

/// `proxy export FILE`: writes the recording all at once; `-` is the standard output.
pub fn export(config: &Config, file: &str, secrets: Secrets) -> Result<String, String> {
    let cache = MeantCache::existing(config)?;
    // A line about progress would be in the middle of a recording that goes to the same terminal.
    let is_seen = file == "-" && io::stdout().is_terminal();
    let progress = if is_seen { ProgressLine::hidden() } else { ProgressLine::new() };
    if file == "-" {
        let (_, told) = write(&cache, &mut io::stdout().lock(), secrets, progress)?;
        eprint!("{told}");
        return Ok(String::new());
    }
    // A recording that is there is not lost if this one fails.
    let unfinished = format!("{file}.tmp");
    let told = |error: io::Error| format!("{unfinished}: {error}");
    let mut out = BufWriter::new(File::create(&unfinished).map_err(told)?);
    let written = write(&cache, &mut out, secrets, progress);
    let written = written.and_then(|(count, told_of)| {
        out.flush().and_then(|()| fs::rename(&unfinished, file)).map_err(told)?;
        Ok(format!("{file}: {count} responses\n{told_of}"))
    });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Writes all entries; how many, and what there is to say of it.
fn write(
    cache: &MeantCache,
    out: &mut impl Write,
    secrets: Secrets,
    mut progress: ProgressLine,
) -> Result<(u64, String), String> {
    let told = |error: io::Error| error.to_string();
    out.write_all(stream::BEGINNING.as_bytes()).map_err(told)?;
    let kept = if secrets == Secrets::Kept { "1" } else { "0" };
    let (mut count, mut left_out, mut redacted) = (0, 0, 0);
    let mut after = String::new();
    let all = if progress.is_shown() { stored_count(cache) } else { None };
    loop {
        progress.show(count + left_out, all, number, "responses");
        let query = [("after", after.as_str()), ("with_secrets", kept)];
        let page: Page = read(&cache.ask("GET", "/export", &query)?)?;
        for entry in &page.entries {
            out.write_all(if count > 0 { b",\n" } else { b"\n" }).map_err(told)?;
            serde_json::to_writer(&mut *out, entry).map_err(|error| error.to_string())?;
            count += 1;
        }
        left_out += page.left_out;
        redacted += page.redacted;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    out.write_all(stream::END.as_bytes()).and_then(|()| out.flush()).map_err(told)?;
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

/// About how many responses there are, for those who wait; `None` if that is not known.
fn stored_count(cache: &MeantCache) -> Option<u64> {
    let stats: Value = read(&cache.ask("GET", "/stats", &[]).ok()?).ok()?;
    // Memory may have what the store behind it has, too.
    ["memory_responses", "store_responses"].iter().filter_map(|name| stats[*name].as_u64()).max()
}

/// `proxy import FILE`: stores what may be stored of a recording; `-` is the standard input.
pub fn import(config: &Config, file: &str) -> Result<String, String> {
    let cache = MeantCache::of(config)?;
    let mut all = None;
    let reader: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(Path::new(file)).map_err(|error| format!("{file}: {error}"))?;
        all = opened.metadata().ok().filter(fs::Metadata::is_file).map(|found| found.len());
        Box::new(opened)
    };
    let taken = Cell::new(0);
    let reader = CountedRead { reader, taken: &taken };
    let (mut progress, mut entries) = (ProgressLine::new(), 0_u64);
    let mut imported = Imported::default();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut hand_in = |batch: Vec<_>| -> Result<(), String> {
        if !batch.is_empty() {
            imported.add(cache.import(batch)?);
        }
        Ok(())
    };
    // A recording may be larger than memory: no more than a batch of it is read ahead.
    let read = stream::entries(BufReader::new(reader), |entry| {
        bytes += entry.bytes();
        entries += 1;
        progress.show(taken.get(), all, size, &format!("{} responses", number(entries)));
        batch.push(entry);
        if bytes >= BATCH_BYTES {
            bytes = 0;
            return hand_in(std::mem::take(&mut batch));
        }
        Ok(())
    });
    drop(progress);
    // What was whole before something went wrong is kept.
    let handed_in = hand_in(batch);
    let count = read.map_err(|error| format!("{file}: {error}"))?;
    handed_in?;
    cache.close()?;
    let Imported { stored, left_out } = imported;
    let mut told = format!("{file}: {stored} of {count} responses stored\n");
    for (reason, count) in left_out {
        let _ = writeln!(told, "  {count} not: {}", visible(&reason));
    }
    if stored < count {
        told.push_str("  --cache-mode force takes what says that it must not be stored\n");
    }
    Ok(told)
}

/// A reader that counts the bytes that are taken from it.
struct CountedRead<'a, R> {
    reader: R,
    taken: &'a Cell<u64>,
}

impl<R: Read> Read for CountedRead<'_, R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(space)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}
