//! How wide the window of a body is that is passed on to one client: wide while both sides are fast, so that
//! each read and each write moves much; narrow for a client or an origin server that takes its time, because
//! what waits in a window is memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::ONE_READER_BYTES;

/// A window that is wide.
pub const WIDE_BYTES: usize = 128 * 1024;
/// The window of one reader is filled and emptied in this time, if both sides are fast.
const SOON: Duration = Duration::from_millis(20);

/// How many more windows may be wide. A wide one may cost twice its width: what has come, and what is being sent.
#[derive(Debug)]
pub struct WideWindows {
    left: AtomicUsize,
}

/// Counts against the bound until it is dropped.
struct WidePermit(Arc<WideWindows>);

/// What is known of the sides of one body.
pub(super) struct WindowPace {
    wide: Arc<WideWindows>,
    permit: Option<WidePermit>,
    /// The body may have no end, and bring nothing for hours: the permit is given back whenever the window is empty.
    is_endless: bool,
    /// When the window was seen to be empty last, and how many bytes had come by then.
    emptied: Option<(Instant, u64)>,
}

impl WideWindows {
    /// At most `most` at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(most) })
    }

    fn permit(self: &Arc<Self>) -> Option<WidePermit> {
        let take = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(WidePermit(Arc::clone(self)))
    }
}

impl Drop for WidePermit {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::Relaxed);
    }
}

impl WindowPace {
    /// Nothing is known yet: what has an end begins wide, where that is permitted.
    pub(super) fn new(wide: &Arc<WideWindows>, is_endless: bool) -> Self {
        let permit = if is_endless { None } else { wide.permit() };
        Self { wide: Arc::clone(wide), permit, is_endless, emptied: None }
    }

    pub(super) fn is_wide(&self) -> bool {
        self.permit.is_some()
    }

    pub(super) fn window_bytes(&self) -> usize {
        if self.is_wide() { WIDE_BYTES } else { ONE_READER_BYTES }
    }

    /// The window is empty, and it may be long until more comes; is it narrow from now on?
    pub(super) fn rest(&mut self) -> bool {
        self.permit.take_if(|_| self.is_endless);
        !self.is_wide()
    }

    /// The window is empty at `now`, and `total` bytes have come; gives how wide it is from now on.
    pub(super) fn note_taken(&mut self, now: Instant, total: u64) -> usize {
        match self.emptied {
            // Nothing has moved since.
            Some((_, before)) if before == total => {}
            Some((at, _)) if now.saturating_duration_since(at) > SOON => self.permit = None,
            // Here, or the window of a body that began without a permit would stay narrow.
            Some(_) if self.permit.is_none() => self.permit = self.wide.permit(),
            _ => {}
        }
        if self.emptied.is_none_or(|(_, before)| before != total) {
            self.emptied = Some((now, total));
        }
        self.window_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_wide_while_both_sides_are_fast_and_a_permit_is_left() {
        let (wide, begun) = (WideWindows::new(1), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        let (mut first, mut second) = (WindowPace::new(&wide, false), WindowPace::new(&wide, true));
        assert_eq!((first.window_bytes(), second.window_bytes()), (WIDE_BYTES, ONE_READER_BYTES));
        // When a window was empty, how many bytes had come, and how wide it is then: of the first, of the second.
        #[rustfmt::skip]
        let table = [
            (0,     0,      WIDE_BYTES,       ONE_READER_BYTES),
            (20,    1_000,  WIDE_BYTES,       ONE_READER_BYTES),
            (90,    1_000,  WIDE_BYTES,       ONE_READER_BYTES),
            (100,   2_000,  ONE_READER_BYTES, ONE_READER_BYTES),
            (110,   3_000,  WIDE_BYTES,       ONE_READER_BYTES),
        ];
        for (millis, total, of_first, of_second) in table {
            let got = first.note_taken(at(millis), total);
            assert_eq!((got, second.window_bytes()), (of_first, of_second), "{millis} ms");
        }
        drop(first);
        assert_eq!(second.note_taken(at(120), 0), ONE_READER_BYTES, "nothing is known of it");
        assert_eq!(second.note_taken(at(121), 1), WIDE_BYTES, "the permit is free again");
        let mut third = WindowPace::new(&wide, false);
        assert!(second.rest(), "a stream without an end keeps no permit while it is silent");
        assert_eq!(
            (third.note_taken(at(122), 1), third.note_taken(at(123), 2)),
            (ONE_READER_BYTES, WIDE_BYTES)
        );
        assert!(!third.rest(), "what ends does");
    }
}
