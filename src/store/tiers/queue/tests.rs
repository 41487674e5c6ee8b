//! The rules of the queue: its bounds, its order, and what is owed when a change is not carried out.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use http::StatusCode;

use super::*;
use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::policy::vary::Selecting;
use crate::store::backing::Stamp;

fn queue() -> Queue {
    let brief = Duration::from_millis(5);
    Queue::new(QueueLimits { settle_wait: brief, space_wait: brief, ..QueueLimits::of(1000) })
}

fn key(name: impl std::fmt::Display) -> CacheKey {
    CacheKey::from(format!("{name}").as_str())
}

fn forget(name: impl std::fmt::Display) -> Change {
    Change::Forget { key: key(name), invalidates: true }
}

fn put(name: impl std::fmt::Display, bytes: usize) -> Change {
    let head = StoredHead {
        status: StatusCode::OK,
        part: None,
        fields: Fields::new().into(),
        directives: ResponseDirectives::default(),
        selecting: std::iter::empty().collect::<Selecting>(),
        lifetime: Lifetime::Explicit(DeltaSeconds(60)),
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: Timestamp(0),
        fresh_until: Timestamp::MAX,
        useful_until: Timestamp::MAX,
    };
    let response = Arc::new(StoredResponse::new(head, Bytes::from(vec![0; bytes])));
    let begun = Stamp { was_empty: true, ..Stamp::default() };
    Change::Put { key: key(name), response, begun }
}

impl Change {
    /// A response for whose key there is another one.
    fn replacing(mut self) -> Self {
        if let Self::Put { begun, .. } = &mut self {
            begun.was_empty = false;
        }
        self
    }
}

fn work(queue: &Queue) -> Work {
    match queue.next(u64::MAX, Duration::ZERO, false) {
        NextWork::Work(work) => work,
        _ => panic!("there is something to do"),
    }
}

fn carry_out_all(queue: &Queue) {
    while let NextWork::Work(work) = queue.next(u64::MAX, Duration::ZERO, false) {
        let counts = vec![1; work.orders.len()];
        queue.done(work, &counts);
    }
}

#[test]
fn a_lookup_waits_for_the_changes_of_its_key_and_no_others() {
    let queue = queue();
    queue.send(forget("a"), None);
    assert!(!queue.settle(&key("a")) && queue.settle(&key("b")));
    carry_out_all(&queue);
    assert!(queue.settle(&key("a")) && queue.flush(Duration::ZERO));
    queue.send(Change::Purge { selector: Selector::All, now: Timestamp(0) }, None);
    assert!(!queue.settle(&key("b")), "any key may be meant");
}

#[test]
fn the_queue_is_bounded_and_what_must_go_is_owed() {
    let queue = queue();
    for number in 0..CHANGES_MAX {
        queue.send(forget(number), None);
    }
    queue.send(put("new", 0), None);
    queue.send(put("replaced", 0).replacing(), None);
    queue.send(forget("late"), None);
    assert_eq!(queue.dropped(), 3);
    let first = work(&queue);
    assert_eq!(first.orders.len(), BATCH_MAX);
    assert!(first.owed.is_empty(), "what was handed in before it may store it yet");
    queue.done(first, &[0; BATCH_MAX]);
    let is_settled = |name| queue.settle(&key(name));
    assert_eq!(["late", "replaced", "new"].map(is_settled), [false, false, true]);
    carry_out_all(&queue);
    assert_eq!(["late", "replaced", "new"].map(is_settled), [true; 3], "they are forgotten");
    assert!(queue.flush(Duration::ZERO));
}

/// More is replaced by what finds no place than can be owed: that must not cost all that is stored.
#[test]
fn what_is_replaced_and_not_owed_is_known_to_be_overtaken() {
    let queue = queue();
    for number in 0..CHANGES_MAX {
        queue.send(forget(format!("first {number}")), None);
    }
    for number in 0..OWED_MAX * 2 {
        queue.send(put(number, 0).replacing(), None);
    }
    let head = |change: Change| match change {
        Change::Put { response, .. } => response.head().clone(),
        _ => unreachable!("it is a response"),
    };
    let old = head(put("old", 0));
    assert!(queue.overtaken().has(&key(OWED_MAX * 2 - 1), &old));
    carry_out_all(&queue);
    assert!(queue.settle(&key("other")), "not everything is owed");
    let new = StoredHead { response_time: Timestamp(2), ..old };
    assert!(!queue.overtaken().has(&key(OWED_MAX * 2 - 1), &new));
}

#[test]
fn what_is_owed_again_is_owed_since_the_later_change() {
    let queue = queue();
    for number in 0..CHANGES_MAX - 1 {
        queue.send(forget(number), None);
    }
    queue.send(put("a", 0), None);
    queue.send(forget("a"), None);
    // An earlier one fails: the response that still waits came before the later one.
    let mut first = work(&queue);
    first.orders[0].change = forget("a");
    queue.state.lock().pending.insert(key("a"), 2);
    queue.failed(&first, true);
    let mut outdated = 0;
    while let NextWork::Work(work) = queue.next(u64::MAX, Duration::ZERO, false) {
        let put = work.orders.iter().find(|order| matches!(order.change, Change::Put { .. }));
        if let Some(put) = put {
            let owed = work.owed.iter().find(|(owed, _)| *owed == key("a"));
            outdated += usize::from(owed.is_some_and(|(_, owed)| put.number < owed.since));
        }
        let counts = vec![0; work.orders.len()];
        queue.done(work, &counts);
    }
    assert_eq!(outdated, 1);
}

#[test]
fn what_is_owed_is_bounded_too() {
    let queue = queue();
    for number in 0..CHANGES_MAX + OWED_MAX {
        queue.send(forget(number), None);
    }
    assert!(queue.settle(&key("other")));
    queue.send(forget("one more"), None);
    assert!(!queue.settle(&key("other")), "everything is owed");
    let mut owed_all = None;
    while owed_all.is_none() {
        let work = work(&queue);
        owed_all = work.owed_all;
        let counts = vec![0; work.orders.len()];
        queue.done(work, &counts);
    }
    assert!(queue.settle(&key("other")), "everything is forgotten");
}

#[test]
fn queued_content_is_bounded() {
    let queue = queue();
    queue.send(put("large", 5000), None);
    queue.send(put("small", 1), None);
    assert_eq!(queue.dropped(), 1, "a large one may stand there, but alone");
    carry_out_all(&queue);
    for _ in 0..3 {
        queue.send(put("a", 400), None);
    }
    assert_eq!(queue.dropped(), 2);
    assert!(!queue.send_waiting(put("b", 400)), "it has waited in vain");
    carry_out_all(&queue);
    assert!(queue.send_waiting(put("b", 400)));
}

/// Pieces are waited for, whole responses are not: these find a place beside the pieces of a large body.
#[test]
fn a_large_body_leaves_a_place_for_others() {
    let queue = queue();
    assert!(queue.send_waiting(put("piece", 300)) && queue.send_waiting(put("piece", 300)));
    assert!(queue.send_now(put("piece", 300)).is_some() && !queue.send_waiting(put("piece", 300)));
    queue.send(put("small", 400), None);
    assert_eq!(queue.dropped(), 0);
    queue.send(put("one more", 1), None);
    assert_eq!(queue.dropped(), 1, "the bound holds for all");
}

#[test]
fn what_fails_is_owed_and_the_thread_that_waits_for_it_learns_of_it() {
    let queue = queue();
    let (reply, outcome) = sync_channel(1);
    queue.send(put("a", 1), None);
    queue.send(forget("b"), Some(reply));
    let failed = work(&queue);
    queue.failed(&failed, true);
    drop(failed);
    assert!(outcome.recv().is_err());
    assert!(!queue.settle(&key("a")), "it may be there, or what it was to replace");
    assert!(!queue.settle(&key("b")));
    // While the store is left alone, what is owed waits.
    assert!(matches!(queue.next(1, Duration::ZERO, true), NextWork::Idle));
    carry_out_all(&queue);
    assert!(queue.settle(&key("b")));
    let selector = Selector::Uri("c".to_string());
    queue.send(Change::Purge { selector, now: Timestamp(0) }, None);
    queue.failed(&work(&queue), true);
    assert!(queue.settle(&key("a")) && !queue.settle(&key("c")), "one key is meant");
    queue.send(Change::Purge { selector: Selector::Stale, now: Timestamp(0) }, None);
    queue.failed(&work(&queue), true);
    assert!(!queue.settle(&key("a")), "any key may have been meant");
}

#[test]
fn after_the_end_the_rest_is_carried_out_and_no_more() {
    let queue = queue();
    queue.send(forget("a"), None);
    queue.close();
    queue.send(forget("b"), None);
    assert_eq!(work(&queue).orders.len(), 1);
    assert!(matches!(queue.next(1, Duration::from_secs(60), false), NextWork::Closed));
}

#[test]
fn changes_at_leisure_wait_for_others_or_for_the_writers_leisure() {
    let queue = queue();
    let used = || Change::Used { place: Arc::default(), reuses: 1 };
    queue.send_at_leisure(used());
    queue.send_at_leisure(used());
    queue.send(forget("a"), None);
    assert_eq!(work(&queue).orders.len(), 3, "with what hurries");
    for _ in 0..LEISURELY_MAX + 10 {
        queue.send_at_leisure(used());
    }
    // The writer has waited for as long as it does when nothing comes.
    assert_eq!(work(&queue).orders.len(), BATCH_MAX);
    assert_eq!(
        work(&queue).orders.len(),
        LEISURELY_MAX - BATCH_MAX,
        "what is beyond the bound is dropped"
    );
    assert!(matches!(queue.next(u64::MAX, Duration::ZERO, false), NextWork::Idle));
}
