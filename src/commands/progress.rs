//! How far a command is that takes long: one line on the standard error, drawn in place, and only if that is a
//! terminal.
//!
//! No crate draws it: the smallest that is kept, indicatif, adds 145 KB and four crates to the binary, and this
//! needs only what `terminal.rs` has for `proxy top`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::commands::terminal::{draws, fitted, size};

/// How often the line is drawn anew, at most.
pub const SHOWN_EVERY: Duration = Duration::from_millis(100);
/// The bar's columns.
const BAR: u64 = 30;

/// A line about progress; gone when it is dropped.
pub struct ProgressLine {
    is_shown: bool,
    begun: Instant,
    drawn: Option<Instant>,
}

impl ProgressLine {
    /// A line on the standard error, if that is a terminal; it shows nothing yet.
    pub fn new() -> Self {
        Self { is_shown: draws(&io::stderr()), begun: Instant::now(), drawn: None }
    }

    /// Never shows anything.
    pub fn hidden() -> Self {
        Self { is_shown: false, ..Self::new() }
    }

    /// Does anybody see it?
    pub fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Shows that `done` of `all` are done, as `say` writes them, with a note; `None` if nobody knows how many there
    /// are. Draws nothing if the line has been drawn just now.
    pub fn show(&mut self, done: u64, all: Option<u64>, say: fn(u64) -> String, note: &str) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= SHOWN_EVERY);
        if !self.is_shown || !is_due {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line((done, all), say, note, self.begun.elapsed());
        // Not in the last column: some terminals go on to the next line there.
        let columns = size(&io::stderr()).0.saturating_sub(1);
        let _ = write!(io::stderr(), "\r{}\x1b[K", fitted(&line, columns));
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        // The result is what stays.
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// The text of the line.
fn line(
    (done, all): (u64, Option<u64>),
    say: fn(u64) -> String,
    note: &str,
    taken: Duration,
) -> String {
    let rate = u128::from(done) * 1000 / taken.as_millis().max(1);
    let rate = say(u64::try_from(rate).unwrap_or(u64::MAX));
    let count = match all {
        None => say(done),
        Some(all) => {
            // More may have come meanwhile.
            let all = all.max(done);
            let filled = (u128::from(BAR) * u128::from(done)).checked_div(all.into());
            let filled = filled.unwrap_or_default() as usize;
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR as usize - filled));
            format!("[{bar}] {}/{}", say(done), say(all))
        }
    };
    format!("{count}  {rate}/s  {note}")
}

#[cfg(test)]
mod tests {
    use caching_proxy::stats::figures::{self, number};

    use super::*;

    #[test]
    fn the_bar_fills_as_far_as_the_work_is_done() {
        let second = Duration::from_secs(1);
        let bar = |filled| format!("[{}{}]", "#".repeat(filled), ".".repeat(30 - filled));
        #[rustfmt::skip]
        let table = [
            (0, Some(0), format!("{} 0/0  0/s  x", bar(0))),
            (0, Some(10), format!("{} 0/10  0/s  x", bar(0))),
            (5, Some(10), format!("{} 5/10  5/s  x", bar(15))),
            (10, Some(10), format!("{} 10/10  10/s  x", bar(30))),
            (12, Some(10), format!("{} 12/12  12/s  x", bar(30))),
            (u64::MAX, Some(u64::MAX), format!("{} {1}/{1}  {1}/s  x", bar(30), number(u64::MAX))),
            (7000, None, "7,000  7,000/s  x".to_string()),
        ];
        for (done, all, expected) in table {
            assert_eq!(line((done, all), number, "x", second), expected);
        }
        let bytes = line((1536, Some(4096)), figures::size, "x", second);
        assert_eq!(bytes, format!("{} 1.5 KiB/4.0 KiB  1.5 KiB/s  x", bar(11)));
        let at_once = line((1, None), number, "", Duration::ZERO);
        assert!(at_once.contains("1,000/s"), "no division by no time");
    }
}
