//! The program's own log on the standard error: what is a line, and that a line is one whatever is in it.

use std::io;

use log::Log;
use simplelog::{ConfigBuilder, WriteLogger};

use caching_proxy::message::visible::visible;

/// Sends the program's own log lines to stderr. stdout is for what a program that starts this one
/// reads.
pub fn to_stderr(level: log::LevelFilter) {
    let format = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_target_level(log::LevelFilter::Off)
        .set_thread_level(log::LevelFilter::Off)
        .set_location_level(log::LevelFilter::Off)
        // Dependencies log, too (rustls names each handshake): their lines mean nothing to an operator.
        .add_filter_allow_str("caching_proxy")
        .add_filter_allow_str("proxy")
        .build();
    let lines = LogLines(WriteLogger::new(level, format, io::stderr()));
    // It fails only if there is a logger already.
    if log::set_boxed_logger(Box::new(lines)).is_ok() {
        log::set_max_level(level);
    }
}

/// The program's own log: a record is one line, whatever clients and origin servers have put into it.
struct LogLines(Box<WriteLogger<io::Stderr>>);

impl Log for LogLines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        // Dependencies log much that is not written, and need not be put together for it.
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let mut line = log::Record::builder();
        line.metadata(record.metadata().clone()).module_path(record.module_path());
        self.0.log(&line.args(format_args!("{}", visible(&text))).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}
