//! What those who wait for a flight are told, whatever comes of it.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::buffer::Buffer;
use crate::message::fields::Fields;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::purging::Selector;
use crate::policy::vary::Selecting;
use crate::store::underway::Underway;

fn key(uri: &str) -> FlightKey {
    FlightKey { key: CacheKey::from(uri), selecting: Vec::new() }
}

fn join(flights: &Arc<Flights>, uri: &str) -> FlightRole {
    let note = || Arc::<Underway>::default().begin(&CacheKey::from(uri));
    flights.join(key(uri), note, false)
}

fn lead(flights: &Arc<Flights>, uri: &str) -> Leader {
    let FlightRole::Lead(leader, _) = join(flights, uri) else { panic!("nobody leads yet") };
    leader
}

fn wait(flights: &Arc<Flights>, uri: &str, sender: &Sender<FollowerOutcome>) {
    let FlightRole::Wait(joined) = join(flights, uri) else { panic!("a flight is under way") };
    park(joined, sender);
}

fn park(joined: Joined, sender: &Sender<FollowerOutcome>) {
    let sender = sender.clone();
    joined.park(Box::new(move |outcome| drop(sender.send(outcome))));
}

fn failed() -> Failed {
    let (status, detail) = (StatusCode::BAD_GATEWAY, Detail::Connect);
    Failed { status, detail, text: String::new(), another_may_try: false }
}

fn died() -> Outcome {
    Outcome::Failed(Failed { another_may_try: true, ..failed() }.into())
}

/// What those who waited were told, by name; who is to lead does so no more.
fn names(outcomes: &Receiver<FollowerOutcome>) -> Vec<&'static str> {
    let name = |outcome| match outcome {
        FollowerOutcome::Stored => "stored",
        FollowerOutcome::Growing(_) => "growing",
        FollowerOutcome::Cleared => "cleared",
        FollowerOutcome::Failed(_) => "failed",
        FollowerOutcome::Lead(leader) => {
            leader.settle(&Outcome::Failed(failed().into()));
            "lead"
        }
        FollowerOutcome::Unshareable => "unshareable",
    };
    outcomes.try_iter().map(name).collect()
}

#[test]
fn all_who_wait_are_resumed_when_the_leader_settles() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    assert!(matches!(join(&flights, "b"), FlightRole::Lead(..)));
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    assert_eq!(flights.count(), (1, 3));
    leader.settle(&Outcome::Stored);
    assert_eq!(names(&outcomes), ["stored"; 3]);
    assert!(matches!(join(&flights, "a"), FlightRole::Lead(..)), "the flight is over");
}

#[test]
fn a_leader_that_dies_hands_over_once() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    drop(leader);
    let Ok(FollowerOutcome::Lead(next_leader)) = outcomes.try_recv() else {
        panic!("one leads on")
    };
    assert!(outcomes.try_recv().is_err(), "the others wait on");
    wait(&flights, "a", &sender);
    drop(next_leader);
    assert_eq!(names(&outcomes), ["unshareable"; 3]);
    assert!(matches!(join(&flights, "a"), FlightRole::Lead(..)), "a death is not remembered");
}

#[test]
fn a_lost_connection_is_tried_once_more_and_then_shared() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    leader.settle(&died());
    let Ok(FollowerOutcome::Lead(next_leader)) = outcomes.try_recv() else {
        panic!("one leads on")
    };
    next_leader.settle(&died());
    assert_eq!(names(&outcomes), ["failed"; 2]);
}

#[test]
fn a_failure_is_shared_by_all_who_wait() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    wait(&flights, "a", &sender);
    leader.settle(&Outcome::Failed(failed().into()));
    assert_eq!(names(&outcomes), ["failed"]);
    assert!(matches!(join(&flights, "a"), FlightRole::Lead(..)), "it is not remembered here");
}

#[test]
fn a_key_that_could_not_be_shared_is_remembered() {
    let flights = Arc::new(Flights::default());
    lead(&flights, "a").settle(&Outcome::Unshareable(Scope::Everyone));
    assert!(matches!(join(&flights, "a"), FlightRole::Alone));
}

#[test]
fn the_memory_of_what_cannot_be_shared_is_bounded() {
    let flights = Arc::new(Flights::default());
    for number in 0..=HIT_FOR_MISS_MAX {
        lead(&flights, &number.to_string()).settle(&Outcome::Unshareable(Scope::Everyone));
        lead(&flights, &format!("own {number}")).settle(&Outcome::Unshareable(Scope::Credentials));
    }
    let state = flights.state.lock();
    assert!(state.hit_for_miss.len() <= HIT_FOR_MISS_MAX);
    assert!(state.personal.len() <= HIT_FOR_MISS_MAX);
}

#[test]
fn who_parks_too_late_is_resumed_at_once() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    let FlightRole::Wait(joined) = join(&flights, "a") else { panic!("a flight is under way") };
    leader.settle(&Outcome::Stored);
    park(joined, &sender);
    assert_eq!(names(&outcomes), ["stored"]);
}

/// A flight that began on this list of fetches.
fn noted(
    flights: &Arc<Flights>,
    underway: &Arc<Underway>,
    was_invalidated: bool,
    sender: &Sender<FollowerOutcome>,
) -> Option<Leader> {
    match flights.join(key("a"), || underway.begin(&"a".into()), was_invalidated) {
        FlightRole::Lead(leader, _) => return Some(leader),
        FlightRole::Wait(joined) => park(joined, sender),
        FlightRole::Alone => panic!("nothing is remembered"),
    }
    None
}

fn growing() -> Arc<Shareable> {
    let head = StoredHead {
        status: StatusCode::OK,
        part: None,
        fields: Fields::new().into(),
        directives: ResponseDirectives::default(),
        selecting: Selecting::default(),
        lifetime: Lifetime::Unknown,
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: Timestamp(0),
        fresh_until: Timestamp::MAX,
        useful_until: Timestamp::MAX,
    };
    let (writer, _) = growing::Writer::new(None, Buffer::default());
    let body = Arc::clone(writer.shared());
    Arc::new(Shareable { head, body, spooled: OnceLock::new() })
}

#[test]
fn after_an_invalidation_the_next_one_leads_and_takes_over_who_waits() {
    let (flights, underway) = (Arc::new(Flights::default()), Arc::default());
    let (sender, outcomes) = channel();
    let old = noted(&flights, &underway, false, &sender).expect("nobody leads yet");
    assert!(noted(&flights, &underway, false, &sender).is_none());
    underway.invalidate(&"a".into(), None);
    let new = noted(&flights, &underway, false, &sender).expect("it leads anew");
    assert!(noted(&flights, &underway, false, &sender).is_none(), "the others join it");
    old.share(&growing());
    old.settle(&Outcome::Cleared);
    assert!(names(&outcomes).is_empty(), "the old one has no followers left");
    new.share(&growing());
    assert_eq!(names(&outcomes), ["growing"; 2]);
    underway.invalidate(&"a".into(), None);
    assert!(noted(&flights, &underway, false, &sender).is_some(), "while it grows, too");
    new.settle(&Outcome::Cleared);
    assert!(!matches!(join(&flights, "a"), FlightRole::Alone), "nothing is remembered");
}

/// Whoever was invalidated once may have what was invalidated after it came, but nobody what was before.
#[test]
fn who_waits_collapses_again_once_by_what_came_after_it() {
    #[rustfmt::skip]
    let table = [
        // Its flight invalidated before; invalidated before and after it came; what it is told.
        (false, false, false, "growing"),
        (false, false, true, "cleared"),
        (true, false, true, "growing"),
        (false, true, false, "cleared"),
        (true, true, false, "cleared"),
        (true, true, true, "cleared"),
    ];
    for (was_invalidated, before, after, expected) in table {
        // Whether it sits down before the head comes, or just after.
        for is_late in [false, true] {
            let (flights, underway) = (Arc::new(Flights::default()), Arc::<Underway>::default());
            let (sender, outcomes) = channel();
            let leader = noted(&flights, &underway, false, &sender).expect("it leads");
            // Only the head will tell whether it was meant.
            let purge = || underway.purge(&Selector::Stale, Timestamp::MAX);
            before.then(purge);
            let turn = flights.join(key("a"), || underway.begin(&"a".into()), was_invalidated);
            let FlightRole::Wait(joined) = turn else { panic!("it waits") };
            let mut joined = Some(joined);
            if !is_late {
                park(joined.take().expect("it is there"), &sender);
            }
            after.then(purge);
            leader.share(&growing());
            if let Some(joined) = joined {
                park(joined, &sender);
            }
            leader.settle(&Outcome::Cleared);
            assert_eq!(
                names(&outcomes),
                [expected],
                "{was_invalidated} {before} {after} {is_late}"
            );
        }
    }
}

/// First to ask after an invalidation: the others wait for it, and may have it.
#[test]
fn who_leads_begins_when_it_leads() {
    let (flights, underway) = (Arc::new(Flights::default()), Arc::<Underway>::default());
    let (sender, outcomes) = channel();
    for purge in [Selector::All, Selector::Stale] {
        underway.purge(&purge, Timestamp::MAX);
        let note = || underway.begin(&"a".into());
        let FlightRole::Lead(leader, begun) = flights.join(key("a"), note, false) else {
            panic!("nobody leads yet")
        };
        assert!(noted(&flights, &underway, false, &sender).is_none(), "one leads");
        assert!(begun.admits(&growing().head), "it is stored, too");
        leader.share(&growing());
        leader.settle(&Outcome::Stored);
        assert_eq!(names(&outcomes), ["growing"]);
    }
}

#[test]
fn the_next_leader_begins_anew() {
    let (flights, underway) = (Arc::new(Flights::default()), Arc::default());
    let (sender, outcomes) = channel();
    let leader = noted(&flights, &underway, false, &sender).expect("nobody leads yet");
    assert!(noted(&flights, &underway, false, &sender).is_none());
    underway.invalidate(&"a".into(), None);
    drop(leader);
    let Ok(FollowerOutcome::Lead(next_leader)) = outcomes.try_recv() else {
        panic!("one leads on")
    };
    next_leader.renew(&underway.begin(&"a".into()));
    assert!(noted(&flights, &underway, false, &sender).is_none(), "it is worth waiting for");
    next_leader.share(&growing());
    assert_eq!(names(&outcomes), ["growing"]);
    next_leader.settle(&Outcome::Stored);
    assert_eq!(underway.count(), 0);
}

/// What came of a fetch, what those who wait are told, and whether the next ones wait at all.
#[test]
fn each_outcome_has_one_for_followers() {
    use Outcome::{Cleared, Freshened, Stored, StoredInBacking, TooLarge, Unshareable};
    use Scope::{Credentials, Everyone, Request};
    // What those who wait are told; does the next one wait at all, without credentials and with some?
    #[rustfmt::skip]
    let table = [
        (Stored, "stored", true, true), (Freshened, "stored", true, true),
        (StoredInBacking, "unshareable", true, true), (Cleared, "cleared", true, true),
        (TooLarge, "unshareable", false, true), (Unshareable(Everyone), "unshareable", false, true),
        (Unshareable(Request), "unshareable", true, true),
        (Unshareable(Credentials), "unshareable", true, false),
        (Outcome::Failed(failed().into()), "failed", true, true),
    ];
    for (outcome, expected, waits, waits_with_credentials) in table {
        let flights = Arc::new(Flights::default());
        let (sender, outcomes) = channel();
        let leader = lead(&flights, "a");
        wait(&flights, "a", &sender);
        let shown = format!("{outcome:?}");
        leader.settle(&outcome);
        assert_eq!(names(&outcomes), [expected], "{shown}");
        assert_eq!(!matches!(join(&flights, "a"), FlightRole::Alone), waits, "{shown}");
        let is_personal = flights.is_personal(&CacheKey::from("a"));
        assert_eq!(!is_personal, waits_with_credentials, "{shown}");
    }
}

#[test]
fn nobody_waits_beyond_the_bound() {
    let flights = Arc::new(Flights::default());
    let (sender, outcomes) = channel();
    let leader = lead(&flights, "a");
    wait(&flights, "a", &sender);
    flights.expire(Duration::from_secs(3600));
    assert!(outcomes.try_recv().is_err());
    flights.expire(Duration::ZERO);
    assert_eq!(names(&outcomes), ["unshareable"]);
    leader.settle(&Outcome::Stored);
}
