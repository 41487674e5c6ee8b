//! The newest requests: a few of each second, for who watches the proxy.
//!
//! They are kept in a ring, in the order in which their answers had been sent (two event loops may end theirs in
//! another order than that of their arrival), and have numbers, so that any number of readers see the same ones: a
//! reader asks for what came since the number that it has come to, and takes nothing from another. Once as many have
//! been noted as may be, a request costs one relaxed load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::credentials::redacted;

/// Requests that are noted a second, on average.
const NOTED_A_SECOND: usize = 6;
/// Requests that are noted in one second after some with less, at most: those of a web page that is loaded.
pub const NOTED_MAX: usize = 30;
/// Requests that are kept; a reader that asks every four seconds misses none.
const KEPT_MAX: usize = 60;
/// The longest target that is noted, in bytes; what is longer is cut.
const TARGET_BYTES_MAX: usize = 80;
/// The same of a method.
const METHOD_BYTES_MAX: usize = 16;

/// The newest requests of a proxy.
#[derive(Debug)]
// Every hit reads `wanted`: counters that others write must not be in its cache line.
#[repr(align(64))]
pub struct RecentRequests {
    /// How many more are noted. Written with `kept` locked alone; read without.
    wanted: AtomicUsize,
    kept: Mutex<KeptRequests>,
}

/// Guarded by [`RecentRequests::kept`].
#[derive(Debug, Default)]
struct KeptRequests {
    /// The oldest first; at most [`KEPT_MAX`].
    requests: VecDeque<RecentRequest>,
    /// The number of the next one. The first had 0.
    next: u64,
}

/// Requests in the order of their numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NumberedRequests {
    /// The number of the first one.
    pub first: u64,
    /// One after the other, without a gap.
    pub requests: Vec<RecentRequest>,
}

impl NumberedRequests {
    /// The number behind the last one, from which a reader goes on.
    pub fn next(&self) -> u64 {
        self.first + self.requests.len() as u64
    }
}

/// A request that was answered, as it is noted: what it has of its own is borrowed, since most are not wanted.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredRequest<'a> {
    /// When it arrived.
    pub at: Timestamp,
    /// Its method.
    pub method: &'a str,
    /// Its target.
    pub target: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// `hit`, or the word for why it was none.
    pub outcome: &'static str,
    /// From its arrival to the last byte of its answer; `None` for hits of the fast path, which are not timed
    /// one by one.
    pub taken: Option<Duration>,
}

/// An [`AnsweredRequest`] that was noted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecentRequest {
    /// When it arrived.
    pub at: Timestamp,
    /// Its method; cut if it is longer than any that has a name.
    pub method: String,
    /// Its target, or the beginning of it; without parameters that usually are secrets.
    pub target: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// `hit`, or the word for why it was none.
    pub outcome: &'static str,
    /// As [`AnsweredRequest::taken`].
    pub taken: Option<Duration>,
}

impl From<AnsweredRequest<'_>> for RecentRequest {
    /// Cuts method and target to what is shown, and leaves out secrets.
    fn from(request: AnsweredRequest<'_>) -> Self {
        let AnsweredRequest { at, method, target, status, bytes, outcome, taken } = request;
        // No more of it than is shown, however long it is: an event loop does this. A secret's name stands before it.
        let target = cut(&redacted(&cut(target, TARGET_BYTES_MAX)), TARGET_BYTES_MAX);
        let method = cut(method, METHOD_BYTES_MAX);
        Self { at, method, target, status, bytes, outcome, taken }
    }
}

/// At most `most` bytes of a text, which ends in an ellipsis then.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_string();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Default for RecentRequests {
    /// The first requests are noted before the first renewal.
    fn default() -> Self {
        Self { wanted: AtomicUsize::new(NOTED_MAX), kept: Mutex::default() }
    }
}

impl RecentRequests {
    /// Notes a request, if it is wanted.
    #[inline]
    pub fn note<'a>(&self, request: impl FnOnce() -> AnsweredRequest<'a>) {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            self.note_wanted(request().into());
        }
    }

    #[cold]
    fn note_wanted(&self, request: RecentRequest) {
        let mut kept = self.kept.lock();
        // Others may have come between the look and the lock.
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted > 0 {
            self.wanted.store(wanted - 1, Ordering::Relaxed);
            if kept.requests.len() == KEPT_MAX {
                kept.requests.pop_front();
            }
            kept.requests.push_back(request);
            kept.next += 1;
        }
    }

    /// From now on some six more are noted, but no more than [`NOTED_MAX`]; called once a second.
    pub fn renew(&self) {
        let _kept = self.kept.lock();
        let wanted = self.wanted.load(Ordering::Relaxed) + NOTED_A_SECOND;
        self.wanted.store(wanted.min(NOTED_MAX), Ordering::Relaxed);
    }

    /// Those that are kept, from this number on. All of them if no request has had it yet, as where the number is one
    /// of another process.
    pub fn since(&self, number: u64) -> NumberedRequests {
        let kept = self.kept.lock();
        let oldest = kept.next - kept.requests.len() as u64;
        let first = if number > kept.next { oldest } else { number.max(oldest) };
        let skipped = (first - oldest) as usize;
        NumberedRequests { first, requests: kept.requests.iter().skip(skipped).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn answered(target: &str) -> AnsweredRequest<'_> {
        AnsweredRequest {
            at: Timestamp(0),
            method: "GET",
            target,
            status: 200,
            bytes: 5,
            outcome: "hit",
            taken: None,
        }
    }

    fn note(recent: &RecentRequests, target: &str) {
        recent.note(|| answered(target));
    }

    #[test]
    fn a_few_are_noted_each_second_and_the_newest_kept() {
        let recent = RecentRequests::default();
        let mut number = 0;
        for second in 0..20 {
            for _ in 0..if second == 0 { NOTED_MAX } else { NOTED_A_SECOND } {
                note(&recent, &format!("/{number}"));
                number += 1;
            }
            recent.note(|| unreachable!("as many are noted as may be"));
            recent.renew();
        }
        let all = recent.since(0);
        assert_eq!((all.first, all.requests.len(), all.next()), (84, KEPT_MAX, 144));
        assert_eq!((&*all.requests[0].target, &*all.requests[59].target), ("/84", "/143"));
        assert_eq!(recent.since(143).requests, [answered("/143").into()]);
        assert_eq!(recent.since(144), NumberedRequests { first: 144, requests: Vec::new() });
        assert_eq!(recent.since(145), all, "a number of another process");
        // Seconds without requests do not add up without end.
        (0..1000).for_each(|_| recent.renew());
        (0..100).for_each(|_| note(&recent, "/"));
        assert_eq!(recent.since(144).requests.len(), NOTED_MAX);
    }

    /// Pages and commands read at the same time, while requests come: each sees every one, once and in order.
    #[test]
    fn readers_take_nothing_from_each_other() {
        const READERS: usize = 20;
        const ALL: u64 = 300;
        let (recent, seconds) = (RecentRequests::default(), Barrier::new(READERS + 1));
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|reader| {
                    let (recent, seconds) = (&recent, &seconds);
                    scope.spawn(move || {
                        let (mut next, mut seen) = (0, Vec::new());
                        for second in 0..=ALL / NOTED_A_SECOND as u64 {
                            // Some come every second, and some now and then.
                            if second.is_multiple_of(1 + reader as u64 % 4) {
                                let read = recent.since(next);
                                assert_eq!(read.first, next, "nothing is missing");
                                next = read.next();
                                seen.extend(read.requests.into_iter().map(|one| one.target));
                            }
                            seconds.wait();
                        }
                        let rest = recent.since(next);
                        seen.extend(rest.requests.into_iter().map(|one| one.target));
                        seen
                    })
                })
                .collect();
            for number in 0..ALL {
                note(&recent, &format!("/{number}"));
                if (number + 1).is_multiple_of(NOTED_A_SECOND as u64) {
                    seconds.wait();
                    recent.renew();
                }
            }
            seconds.wait();
            let expected: Vec<_> = (0..ALL).map(|number| format!("/{number}")).collect();
            for reader in readers {
                assert_eq!(reader.join().expect("a reader"), expected);
            }
        });
    }

    #[test]
    fn what_is_noted_is_short_and_without_secrets_whatever_was_sent() {
        let long = "é".repeat(10_000);
        let noted = RecentRequest::from(AnsweredRequest { method: &long, ..answered(&long) });
        assert_eq!(noted.method, format!("{}…", "é".repeat(METHOD_BYTES_MAX / 2)));
        assert_eq!(noted.target, format!("{}…", "é".repeat(TARGET_BYTES_MAX / 2)));
        let noted = RecentRequest::from(answered(&format!("/a?q={}&token=geheim", "b".repeat(60))));
        assert!(!noted.target.contains("geheim"), "{}", noted.target);
    }
}
