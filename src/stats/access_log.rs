//! The access log: the line that is written for each request, and the thread that writes it.
//!
//! Writing never holds up a request. Lines pass through a bounded queue to a thread of their own; lines that
//! do not fit, or that the disk refuses, are dropped and counted. What may stand in a line is decided here as
//! well: parameters that usually are secrets are left out, and no client can end a line or fake another one.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::message::date;
use crate::message::visible::hides;
use crate::policy::credentials::redacted;
use crate::stats::Stats;
use crate::vital;

/// The shape of the access log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AccessFormat {
    /// The combined format of Apache and nginx, with `Cache-Status` and the seconds taken behind it.
    Combined,
    /// One JSON object a line.
    Json,
}

/// One request and its response, as the access log records them.
#[derive(Debug)]
pub struct AccessRecord<'a> {
    /// When the request arrived.
    pub at: Timestamp,
    /// The client's address, as far as trusted peers tell it; `None` if it is not known.
    pub client: Option<IpAddr>,
    /// The method.
    pub method: &'a str,
    /// The request target.
    pub target: &'a str,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: &'a str,
    /// The status that was answered.
    pub status: u16,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// The request's `Referer`.
    pub referer: &'a str,
    /// The request's `User-Agent`.
    pub user_agent: &'a str,
    /// Whether the content came from the cache.
    pub from_cache: bool,
    /// The value of `Cache-Status`.
    pub cache_status: &'a str,
    /// From the arrival to the last byte.
    pub taken: Duration,
}

/// Lines that wait to be written, at most; further ones are dropped and counted.
const LINES_MAX: usize = 8192;
/// Lines are joined into writes of about this many bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// The access log: one line a request. A thread of its own writes it, so that no request waits for a disk or
/// for the reader of a pipe.
pub struct AccessLog {
    format: AccessFormat,
    lines: SyncSender<AccessLine>,
    /// Lines dropped since the thread last reported some; `stats` has them since the start.
    left_out: Arc<AtomicU64>,
    stats: Arc<Stats>,
    /// Whether the file is to be opened again: it may have been moved away. A flag, not a line in the queue:
    /// the queue may be full when the operator rotates the log, and the request must not be lost.
    reopens: Arc<AtomicBool>,
}

enum AccessLine {
    Text(String),
    /// Wakes the thread to look at `reopens`.
    Reopen,
    /// All lines before it are written: the sender is to be told.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Opens the log; `-` is the standard output. Lost lines are counted in `stats`.
    pub fn open(path: &Path, format: AccessFormat, stats: &Arc<Stats>) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::to(Box::new(io::stdout()), None, format, stats);
        }
        Self::to(Box::new(open(path)?), Some(path.to_path_buf()), format, stats)
    }

    /// A log that is written to `out`, the file at `path`.
    fn to(
        out: Box<dyn Write + Send>,
        path: Option<PathBuf>,
        format: AccessFormat,
        stats: &Arc<Stats>,
    ) -> io::Result<Self> {
        // Bounded: behind a disk that hangs, lines are lost and counted, and memory is not.
        let (lines, waiting) = sync_channel(LINES_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let reopens = Arc::new(AtomicBool::new(false));
        let (counted, asked) = (Arc::clone(&left_out), Arc::clone(&reopens));
        let lost = Lost { stats: Arc::clone(stats), all: 0, warned: None };
        let write = move || {
            write_lines(
                &waiting,
                LogOutput { out, is_torn: false },
                lost,
                path.as_deref(),
                &counted,
                &asked,
            );
            Ok(())
        };
        vital::spawn("access-log", write)?;
        Ok(Self { format, lines, left_out, stats: Arc::clone(stats), reopens })
    }

    /// Adds one line, which is written soon; waits for nothing.
    pub fn write(&self, served: &AccessRecord<'_>) {
        // The line is made here, on the caller's thread: the record borrows from the request, and several event
        // loops make lines at once where one writer could not.
        let line = match self.format {
            AccessFormat::Combined => combined(served),
            AccessFormat::Json => json(served),
        };
        // Full, or the writer is gone, which ends the process (`vital`): in no case is the request held
        // up.
        if self.lines.try_send(AccessLine::Text(line)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            self.stats.count_lost_lines(1);
        }
    }

    /// Opens the file again, after all lines so far: a program that rotates logs has moved it away.
    pub fn reopen(&self) {
        self.reopens.store(true, Ordering::Release);
        // If the queue is full, the writer has lines enough to wake up for.
        let _ = self.lines.try_send(AccessLine::Reopen);
    }

    /// Waits until all lines so far are written, but at most a second: the reader of a pipe may never read.
    pub fn flush(&self) {
        const WAIT_MAX: Duration = Duration::from_secs(1);
        let (done, is_done) = sync_channel(1);
        if self.lines.try_send(AccessLine::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(WAIT_MAX);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes lines as they come, several in one write where several wait. A log that cannot be written must not
/// stop the proxy: what is lost is counted, and reported once a minute.
fn write_lines(
    waiting: &Receiver<AccessLine>,
    mut output: LogOutput,
    mut lost: Lost,
    path: Option<&Path>,
    left_out: &AtomicU64,
    reopens: &AtomicBool,
) {
    let mut text = String::new();
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        let (mut done, mut looks) = (None, false);
        // Take what waits already, but do not wait for more: under little load a line appears at once.
        while let Some(line) = next.take() {
            match line {
                AccessLine::Text(line) => text.push_str(&line),
                AccessLine::Flush(sender) => done = Some(sender),
                AccessLine::Reopen => looks = true,
            }
            if text.len() < WRITE_BYTES && done.is_none() && !looks {
                next = waiting.try_recv().ok();
            }
        }
        if let Err((lines, error)) = output.write(text.as_bytes()) {
            lost.add(lines, &error, path);
        }
        text.clear();
        // Only now: lines from before the rotation belong into the file that was moved away.
        let reopens = reopens.swap(false, Ordering::AcqRel);
        if let Some(path) = path.filter(|_| reopens) {
            match open(path) {
                Ok(file) => output = LogOutput { out: Box::new(file), is_torn: false },
                Err(error) => {
                    log::warn!("--access-log {}: {error}; the old one is kept", path.display());
                }
            }
        }
        let missing = left_out.swap(0, Ordering::Relaxed);
        if missing > 0 {
            log::warn!("access log: {missing} lines left out; it is written too slowly");
        }
        if let Some(done) = done {
            // Who asked may have given up by now.
            let _ = done.send(());
        }
    }
}

/// The file, pipe or stream that lines are written to.
struct LogOutput {
    out: Box<dyn Write + Send>,
    /// Whether it ends in the middle of a line.
    is_torn: bool,
}

impl LogOutput {
    /// Writes whole lines. The error says how many of them are not written, or only in part.
    fn write(&mut self, mut lines: &[u8]) -> Result<(), (u64, io::Error)> {
        // Not `write_all`: after an error it does not say how far it came, and so which lines are lost.
        let mut written = || -> io::Result<()> {
            // A line that was torn when the disk was full must not spoil the next one.
            if self.is_torn && !lines.is_empty() {
                self.out.write_all(b"\n")?;
                self.is_torn = false;
            }
            while !lines.is_empty() {
                match self.out.write(lines) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        self.is_torn = lines[count - 1] != b'\n';
                        lines = &lines[count..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.out.flush()
        };
        written().map_err(|error| (lines.split(|byte| *byte == b'\n').count() as u64 - 1, error))
    }
}

/// Lines that could not be written, and when the operator was last warned of them.
struct Lost {
    stats: Arc<Stats>,
    all: u64,
    warned: Option<Instant>,
}

impl Lost {
    fn add(&mut self, lines: u64, error: &io::Error, path: Option<&Path>) {
        // A full disk refuses every write; the error log may be on the same disk.
        const WARNED_EVERY: Duration = Duration::from_secs(60);
        self.all += lines;
        self.stats.count_lost_lines(lines);
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNED_EVERY) {
            self.warned = Some(Instant::now());
            let (path, all) = (path.unwrap_or(Path::new("-")).display(), self.all);
            log::warn!("--access-log {path}: {error}; {all} lines are lost since the start");
        }
    }
}

/// A value between the quotes of a log line: what could end it, fake another line or turn its direction is escaped,
/// byte by byte.
fn quoted(value: &str) -> String {
    if value.is_empty() {
        return "-".to_string();
    }
    value.chars().fold(String::with_capacity(value.len()), |mut text, character| {
        if character == '"' || character == '\\' || hides(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(text, "\\x{byte:02X}");
            }
        } else {
            text.push(character);
        }
        text
    })
}

fn combined(served: &AccessRecord<'_>) -> String {
    let client = served.client.map_or_else(|| "-".to_string(), |client| client.to_string());
    format!(
        "{client} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\" \"{}\" {:.6}\n",
        date::format_for_log(served.at),
        quoted(served.method),
        quoted(&redacted(served.target)),
        served.version,
        served.status,
        served.bytes,
        quoted(&redacted(served.referer)),
        quoted(served.user_agent),
        quoted(served.cache_status),
        served.taken.as_secs_f64(),
    )
}

/// A line in JSON: what is known under fixed names, so that fields may be added.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: Option<IpAddr>,
    method: &'a str,
    target: Cow<'a, str>,
    status: u16,
    bytes: u64,
    hit: bool,
    cache_status: &'a str,
    /// In fixed notation: serde_json writes the microseconds of a hit as `2.5e-5`, which is the same number, but
    /// not to what searches logs with patterns.
    seconds: Box<RawValue>,
}

fn json(served: &AccessRecord<'_>) -> String {
    let seconds = RawValue::from_string(format!("{:.6}", served.taken.as_secs_f64()));
    let line = JsonLine {
        time: date::format_rfc3339(served.at),
        client: served.client,
        method: served.method,
        target: redacted(served.target),
        status: served.status,
        bytes: served.bytes,
        hit: served.from_cache,
        cache_status: served.cache_status,
        seconds: seconds.expect("a duration is a number, and no infinite one"),
    };
    let mut text = serde_json::to_string(&line).expect("neither keys nor values can be wrong");
    // JSON lets them stand for themselves, and terminals show the line.
    if text.contains(hides) {
        text = text.chars().fold(String::with_capacity(text.len() + 16), |mut text, character| {
            if hides(character) {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            } else {
                text.push(character);
            }
            text
        });
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    fn served(target: &str) -> AccessRecord<'_> {
        AccessRecord {
            at: Timestamp(784_111_777_000),
            client: Some(IpAddr::from([127, 0, 0, 1])),
            method: "GET",
            target,
            version: "HTTP/1.1",
            status: 200,
            bytes: 5,
            referer: "",
            user_agent: "a \"b\"",
            from_cache: true,
            cache_status: "proxy; hit",
            taken: Duration::from_millis(2),
        }
    }

    #[test]
    fn access_lines_cannot_be_forged() {
        assert_eq!(
            combined(&served("/a\n\"")),
            "127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a\\x0A\\x22 HTTP/1.1\" 200 5 \"-\" \
             \"a \\x22b\\x22\" \"proxy; hit\" 0.002000\n"
        );
        assert_eq!(
            json(&served("/a\n\"")),
            "{\"time\":\"1994-11-06T08:49:37.000Z\",\"client\":\"127.0.0.1\",\"method\":\"GET\",\
             \"target\":\"/a\\n\\\"\",\"status\":200,\"bytes\":5,\"hit\":true,\
             \"cache_status\":\"proxy; hit\",\"seconds\":0.002000}\n"
        );
    }

    #[test]
    fn access_lines_turn_no_terminal_around() {
        let target = "/a\u{202e}\u{9b}\u{e0041}é";
        let line = combined(&served(target));
        assert!(
            line.contains("GET /a\\xE2\\x80\\xAE\\xC2\\x9B\\xF3\\xA0\\x81\\x81é HTTP"),
            "{line}"
        );
        let line = json(&served(target));
        assert!(line.contains("\"/a\\u202e\\u009b\\udb40\\udc41é\""), "{line}");
        // It is the same to who reads it as JSON.
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["target"], target);
    }

    /// A log that is not written for as long as a test wants.
    struct Stuck(Receiver<()>, SyncSender<usize>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.split(|byte| *byte == b'\n').count() - 1);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_left_out_and_nobody_waits() {
        let ((go, stuck), (done, written)) = (sync_channel(0), sync_channel(LINES_MAX));
        let out = Box::new(Stuck(stuck, done));
        let stats = Arc::new(Stats::default());
        let log = AccessLog::to(out, None, AccessFormat::Combined, &stats).expect("a thread");
        // What the writer holds already is bounded as well.
        let many = 3 * LINES_MAX;
        for _ in 0..many {
            log.write(&served("/a"));
        }
        log.reopen();
        assert!(log.reopens.load(Ordering::Relaxed), "it is not lost though the queue is full");
        let left_out = log.left_out.load(Ordering::Relaxed) as usize;
        assert!(left_out >= LINES_MAX, "{left_out}");
        assert_eq!(stats.snapshot().get(Counter::AccessLogLost), Some(left_out as u64));
        drop(go);
        drop(log);
        assert_eq!(written.iter().sum::<usize>() + left_out, many, "all others are written");
    }

    /// A disk: how many bytes it has space for, and what is written to it.
    struct Small(Arc<parking_lot::Mutex<(usize, Vec<u8>)>>);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock();
            let count = bytes.len().min(disk.0);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.0 -= count;
            disk.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_counts_as_lost_unless_all_of_it_is_written() {
        let line = combined(&served("/a"));
        let length = line.len();
        // Space on the disk, then how many of three lines are lost.
        for (space, lost) in [
            (0, 3),
            (1, 3),
            (length - 2, 3),
            (length, 2),
            (length + 1, 2),
            (3 * length - 2, 1),
            (3 * length, 0),
        ] {
            let disk = Arc::new(parking_lot::Mutex::new((space, Vec::new())));
            let mut output = LogOutput { out: Box::new(Small(Arc::clone(&disk))), is_torn: false };
            let outcome = output.write(line.repeat(3).as_bytes());
            assert_eq!(
                outcome.map_err(|(lines, _)| lines),
                if lost == 0 { Ok(()) } else { Err(lost) },
                "{space}"
            );
            // The operator frees some.
            disk.lock().0 = usize::MAX;
            assert!(output.write(line.as_bytes()).is_ok());
            let text = String::from_utf8(disk.lock().1.clone()).expect("text");
            let whole = text.split_inclusive('\n').filter(|found| *found == line).count() as u64;
            assert_eq!(whole, 3 - lost + 1, "{space}: {text}");
        }
    }
}
