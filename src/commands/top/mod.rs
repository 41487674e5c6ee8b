//! `proxy top`: what a running proxy does, second by second; drawn in place in a terminal, and a line for each
//! second elsewhere.
//!
//! The proxy is asked for its counters, which have those of its last minute and hour with them, and for its newest
//! requests. An older one has counters alone: `sample.rs` remembers what they were. `page.rs` shows all of it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use caching_proxy::clock::Clock;
use caching_proxy::message::visible::visible;

use crate::commands::target::read;
use crate::commands::terminal::{Screen, draws, key};
use crate::commands::top::sample::{TopRequest, TopRequests, TopSample, TopSamples};
use crate::daemon::instances::{Instance, running};

mod page;
mod sample;

/// How often the proxy is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How many requests are kept to be shown.
const REQUESTS_MAX: usize = 60;
/// What ends it; 3 is Ctrl-C.
const ENDING_KEYS: [u8; 3] = [b'q', b'Q', 3];
/// How many events may wait; each of their threads waits then, too.
const EVENTS_MAX: usize = 8;

/// Something that `top` acts on.
enum TopEvent {
    /// The counters, and what has come since the last time; `None` if the proxy does not tell requests.
    Asked(Result<Box<TopSample>, String>, Option<TopRequests>),
    Key(u8),
    Signal(i32),
}

/// Watches a proxy for `count` seconds, or until it or the user ends it.
pub fn top(instance: Instance, count: Option<u64>) -> Result<String, String> {
    let (sender, events) = sync_channel(EVENTS_MAX);
    let is_drawn = draws(&io::stdout());
    if !is_drawn {
        // Signals end the process as they do by default: nothing is to be restored.
        thread::spawn(move || ask(instance, is_drawn, &sender));
        return print(&events, count);
    }
    let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH]);
    let mut signals = signals.map_err(|error| format!("signals: {error}"))?;
    let screen = Screen::open();
    // The threads end with the process: each may wait for long, and none holds anything.
    let told = sender.clone();
    thread::spawn(move || {
        signals.forever().try_for_each(|signal| told.send(TopEvent::Signal(signal)))
    });
    if screen.has_keys() {
        let pressed = sender.clone();
        thread::spawn(move || {
            while let Some(key) = key() {
                if pressed.send(TopEvent::Key(key)).is_err() {
                    return;
                }
            }
        });
    }
    thread::spawn(move || ask(instance, is_drawn, &sender));
    watch(&screen, &events, count)
}

/// Asks once a second, until nobody wants to know or the proxy has ended.
fn ask(mut instance: Instance, with_requests: bool, sender: &SyncSender<TopEvent>) {
    let (mut next, mut from) = (Instant::now(), 0);
    loop {
        let mut asked = sampled(&instance);
        if asked.is_err() {
            // Another process may have taken its socket over.
            if let Some(successor) = running(Some(instance.port)).into_iter().next() {
                (instance, from) = (successor, 0);
                asked = sampled(&instance);
            }
        }
        let is_wanted = with_requests && asked.is_ok();
        let requests = is_wanted.then(|| requests(&instance, from)).flatten();
        from = requests.as_ref().map_or(from, |requests| requests.next);
        let asked = asked.map_err(|error| format!("{error}; it has ended, or does not answer"));
        let is_over = asked.is_err();
        if sender.send(TopEvent::Asked(asked, requests)).is_err() || is_over {
            return;
        }
        // From the time it was due, so that the seconds do not grow; and not twice after a long one.
        next = (next + EVERY).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn sampled(instance: &Instance) -> Result<Box<TopSample>, String> {
    read(&instance.ask("GET", "/stats", &[])?).map(Box::new)
}

/// The requests from this number on; all that the proxy has if none has had the number. `None` if it does not tell them.
fn requests(instance: &Instance, from: u64) -> Option<TopRequests> {
    let answer = instance.ask("GET", "/recent", &[("from", &from.to_string())]);
    answer.and_then(|answer| read(&answer)).map(|answer| TopRequests::read(&answer)).ok()
}

/// Draws the page at each event.
fn watch(
    screen: &Screen,
    events: &Receiver<TopEvent>,
    count: Option<u64>,
) -> Result<String, String> {
    let mut history = TopSamples::default();
    let mut requests: Option<VecDeque<TopRequest>> = None;
    let mut seconds = 0;
    while let Ok(event) = events.recv() {
        match event {
            TopEvent::Asked(asked, more) => {
                history.add(Instant::now(), *asked?);
                if let Some(TopRequests { requests: more, .. }) = more {
                    let kept = requests.get_or_insert_default();
                    kept.extend(more);
                    kept.drain(..kept.len().saturating_sub(REQUESTS_MAX));
                }
                seconds += 1;
            }
            TopEvent::Key(key) if ENDING_KEYS.contains(&key) => break,
            // The terminal has another size: what is known is drawn anew.
            TopEvent::Key(_) | TopEvent::Signal(SIGWINCH) => {}
            TopEvent::Signal(_) => break,
        }
        let now = Clock::System.now().seconds();
        // A terminal that is gone ends it, as a pipe does.
        let newest = requests.as_mut().map(|kept| &*kept.make_contiguous());
        if screen.draw(|size| page::page(&history, newest, now, size)).is_err() {
            break;
        }
        // The first sample is the beginning of the first second.
        if count.is_some_and(|count| seconds > count) {
            break;
        }
    }
    Ok(String::new())
}

/// Prints a line for each second.
fn print(events: &Receiver<TopEvent>, count: Option<u64>) -> Result<String, String> {
    let mut history = TopSamples::default();
    let mut printed = 0;
    while let Ok(event) = events.recv() {
        let TopEvent::Asked(asked, _) = event else { continue };
        history.add(Instant::now(), *asked?);
        let Some(line) = page::line(&history) else { continue };
        // The reader has had enough, as in `proxy top | head -1`.
        if writeln!(io::stdout(), "{}", visible(&line)).is_err() {
            break;
        }
        printed += 1;
        if count.is_some_and(|count| printed >= count) {
            break;
        }
    }
    Ok(String::new())
}
