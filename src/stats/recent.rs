//! The newest requests, while somebody watches them: a few each second, so that they cost nothing else.
//!
//! Whoever watches asks for a number of them. Once as many have come no more are noted until the next call,
//! and while nobody watches none are: then a request costs one relaxed load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The longest target that is noted, in bytes; what is longer is cut.
const TARGET_BYTES_MAX: usize = 80;
/// The same of a method.
const METHOD_BYTES_MAX: usize = 16;

/// Requests that were answered since the last look.
#[derive(Debug, Default)]
// Every hit reads `wanted`: counters that others write must not be in its cache line.
#[repr(align(64))]
pub struct RecentRequests {
    /// How many more are noted. Written with `noted` locked alone; read without.
    wanted: AtomicUsize,
    /// The oldest first.
    noted: Mutex<Vec<RecentRequest>>,
}

/// A request that was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecentRequest {
    /// Its method; cut if it is longer than any that has a name.
    pub method: String,
    /// Its target, or the beginning of it.
    pub target: String,
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

impl RecentRequest {
    /// An answered request, of which method and target are cut to what is shown.
    pub fn new(
        (method, target): (&str, &str),
        (status, bytes): (u16, u64),
        outcome: &'static str,
        taken: Option<Duration>,
    ) -> Self {
        let (method, target) = (cut(method, METHOD_BYTES_MAX), cut(target, TARGET_BYTES_MAX));
        Self { method, target, status, bytes, outcome, taken }
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

impl RecentRequests {
    /// Notes a request, if it is wanted.
    #[inline]
    pub fn note(&self, request: impl FnOnce() -> RecentRequest) {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            self.note_wanted(request());
        }
    }

    #[cold]
    fn note_wanted(&self, request: RecentRequest) {
        let mut noted = self.noted.lock();
        // Others may have come between the look and the lock.
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted > 0 {
            self.wanted.store(wanted - 1, Ordering::Relaxed);
            noted.push(request);
        }
    }

    /// Takes what has been noted, the oldest first; from now on up to `most` are noted.
    pub fn take(&self, most: usize) -> Vec<RecentRequest> {
        let mut noted = self.noted.lock();
        self.wanted.store(most, Ordering::Relaxed);
        std::mem::take(&mut *noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_noted_as_are_wanted_and_none_unless_asked() {
        let recent = RecentRequests::default();
        let request = |target: &str| RecentRequest::new(("GET", target), (200, 5), "hit", None);
        recent.note(|| unreachable!("nobody watches"));
        assert_eq!(recent.take(2), []);
        for target in ["/1", "/2", "/3"] {
            recent.note(|| request(target));
        }
        assert_eq!(recent.take(0), [request("/1"), request("/2")]);
        recent.note(|| unreachable!("nobody watches any more"));
        assert_eq!(recent.take(0), []);
    }

    #[test]
    fn what_is_noted_is_short_whatever_was_sent() {
        let long = "é".repeat(10_000);
        let noted = RecentRequest::new((&long, &long), (200, 5), "hit", None);
        assert_eq!(noted.method, format!("{}…", "é".repeat(METHOD_BYTES_MAX / 2)));
        assert_eq!(noted.target, format!("{}…", "é".repeat(TARGET_BYTES_MAX / 2)));
    }
}
