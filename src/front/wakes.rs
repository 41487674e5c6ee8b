//! Wake-ups of event loops that one thread has many messages for: one each for all of them, at the end.

use std::cell::RefCell;
use std::sync::Arc;

/// Wakes a loop; must not block.
pub(super) type WakeLoop = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// Whom the calling thread is to wake later; `None` while it wakes at once.
    static HELD: RefCell<Option<Vec<WakeLoop>>> = const { RefCell::new(None) };
}

/// Wakes a loop, now or at the end of [`hold`].
pub(super) fn wake(wake: &WakeLoop) {
    let is_held = HELD.with_borrow_mut(|held| match held {
        Some(held) => {
            if !held.iter().any(|other| Arc::ptr_eq(other, wake)) {
                held.push(Arc::clone(wake));
            }
            true
        }
        None => false,
    });
    if !is_held {
        wake();
    }
}

/// Does `work`, and then wakes whoever it has woken. A loop on the same core would else run after each message, and
/// find one.
pub(super) fn hold<T>(work: impl FnOnce() -> T) -> T {
    // Also where `work` panics: what it has sent until then is to be read.
    let _waking = HeldWakes::begin();
    work()
}

/// Dropped, it wakes those who are to be woken.
struct HeldWakes;

impl HeldWakes {
    fn begin() -> Self {
        let before = HELD.replace(Some(Vec::new()));
        assert!(before.is_none(), "a thread holds its wake-ups once at a time");
        Self
    }
}

impl Drop for HeldWakes {
    fn drop(&mut self) {
        for wake in HELD.take().unwrap_or_default() {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_loop_is_woken_once_and_at_the_end() {
        let counts: [Arc<AtomicUsize>; 2] = Default::default();
        let wakes = counts.clone().map(|count| -> WakeLoop {
            Arc::new(move || _ = count.fetch_add(1, Ordering::Relaxed))
        });
        let woken = || counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        wake(&wakes[0]);
        assert_eq!(woken(), [1, 0], "at once");
        hold(|| {
            for number in [0, 1, 0, 1] {
                wake(&wakes[number]);
            }
            assert_eq!(woken(), [1, 0]);
        });
        assert_eq!(woken(), [2, 1]);
        let panics = || -> () {
            hold(|| {
                wake(&wakes[1]);
                panic!("on purpose");
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(woken(), [2, 2]);
        wake(&wakes[0]);
        assert_eq!(woken(), [3, 2]);
    }
}
