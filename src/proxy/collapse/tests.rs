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

fn join(flights: &Arc<Flights>, uri: &str) -> Turn {
    let note = || Arc::<Underway>::default().begin(&CacheKey::from(uri));
    flights.join(key(uri), note, false)
}

fn lead(flights: &Arc<Flights>, uri: &str) -> Leader {
    let Turn::Lead(leader, _) = join(flights, uri) else { panic!("nobody leads yet") };
    leader
}

fn wait(flights: &Arc<Flights>, uri: &str, sender: &Sender<Landing>) {
    let Turn::Wait(seat) = join(flights, uri) else { panic!("a flight is in the air") };
    park(seat, sender);
}

fn park(seat: Seat, sender: &Sender<Landing>) {
    let sender = sender.clone();
    seat.park(Box::new(move |landing| drop(sender.send(landing))));
}

fn failed() -> Failed {
    let (status, detail) = (StatusCode::BAD_GATEWAY, Detail::Connect);
    Failed { status, detail, text: String::new(), another_may_try: false }
}

fn died() -> Outcome {
    Outcome::Failed(Failed { another_may_try: true, ..failed() }.into())
}

/// What those who waited were told, by name; who is to lead does so no more.
fn told(landings: &Receiver<Landing>) -> Vec<&'static str> {
    let name = |landing| match landing {
        Landing::Stored => "stored",
        Landing::Growing(_) => "growing",
        Landing::Cleared => "cleared",
        Landing::Failed(_) => "failed",
        Landing::Lead(leader) => {
            leader.land(&Outcome::Failed(failed().into()));
            "lead"
        }
        Landing::Unshareable => "unshareable",
    };
    landings.try_iter().map(name).collect()
}

#[test]
fn all_who_wait_are_resumed_when_the_leader_lands() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    assert!(matches!(join(&flights, "b"), Turn::Lead(..)));
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    assert_eq!(flights.count(), (1, 3));
    leader.land(&Outcome::Stored);
    assert_eq!(told(&landings), ["stored"; 3]);
    assert!(matches!(join(&flights, "a"), Turn::Lead(..)), "the flight is over");
}

#[test]
fn a_leader_that_dies_hands_over_once() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    drop(leader);
    let Ok(Landing::Lead(heir)) = landings.try_recv() else { panic!("one leads on") };
    assert!(landings.try_recv().is_err(), "the others wait on");
    wait(&flights, "a", &sender);
    drop(heir);
    assert_eq!(told(&landings), ["unshareable"; 3]);
    assert!(matches!(join(&flights, "a"), Turn::Lead(..)), "a death is not remembered");
}

#[test]
fn a_lost_connection_is_tried_once_more_and_then_shared() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    for _ in 0..3 {
        wait(&flights, "a", &sender);
    }
    leader.land(&died());
    let Ok(Landing::Lead(heir)) = landings.try_recv() else { panic!("one leads on") };
    heir.land(&died());
    assert_eq!(told(&landings), ["failed"; 2]);
}

#[test]
fn a_failure_is_shared_by_all_who_wait() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    wait(&flights, "a", &sender);
    leader.land(&Outcome::Failed(failed().into()));
    assert_eq!(told(&landings), ["failed"]);
    assert!(matches!(join(&flights, "a"), Turn::Lead(..)), "it is not remembered here");
}

#[test]
fn a_key_that_could_not_be_shared_is_remembered() {
    let flights = Arc::new(Flights::default());
    lead(&flights, "a").land(&Outcome::Unshareable(Scope::Everyone));
    assert!(matches!(join(&flights, "a"), Turn::Alone));
}

#[test]
fn the_memory_of_what_cannot_be_shared_is_bounded() {
    let flights = Arc::new(Flights::default());
    for number in 0..=HIT_FOR_MISS_MAX {
        lead(&flights, &number.to_string()).land(&Outcome::Unshareable(Scope::Everyone));
        lead(&flights, &format!("own {number}")).land(&Outcome::Unshareable(Scope::Credentials));
    }
    let state = flights.state.lock();
    assert!(state.hit_for_miss.len() <= HIT_FOR_MISS_MAX);
    assert!(state.personal.len() <= HIT_FOR_MISS_MAX);
}

#[test]
fn who_takes_a_seat_too_late_is_resumed_at_once() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    let Turn::Wait(seat) = join(&flights, "a") else { panic!("a flight is in the air") };
    leader.land(&Outcome::Stored);
    park(seat, &sender);
    assert_eq!(told(&landings), ["stored"]);
}

/// A flight that began on this list of fetches.
fn noted(
    flights: &Arc<Flights>,
    underway: &Arc<Underway>,
    sent_back: bool,
    sender: &Sender<Landing>,
) -> Option<Leader> {
    match flights.join(key("a"), || underway.begin(&"a".into()), sent_back) {
        Turn::Lead(leader, _) => return Some(leader),
        Turn::Wait(seat) => park(seat, sender),
        Turn::Alone => panic!("nothing is remembered"),
    }
    None
}

fn growing() -> Arc<Shareable> {
    let head = StoredHead {
        status: StatusCode::OK,
        part: None,
        fields: Fields::new(),
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
    let (sender, landings) = channel();
    let old = noted(&flights, &underway, false, &sender).expect("nobody leads yet");
    assert!(noted(&flights, &underway, false, &sender).is_none());
    underway.invalidate(&"a".into(), None);
    let new = noted(&flights, &underway, false, &sender).expect("it leads anew");
    assert!(noted(&flights, &underway, false, &sender).is_none(), "the others join it");
    old.share(&growing());
    old.land(&Outcome::Cleared);
    assert!(told(&landings).is_empty(), "the old one has nobody left to tell");
    new.share(&growing());
    assert_eq!(told(&landings), ["growing"; 2]);
    underway.invalidate(&"a".into(), None);
    assert!(noted(&flights, &underway, false, &sender).is_some(), "while it grows, too");
    new.land(&Outcome::Cleared);
    assert!(!matches!(join(&flights, "a"), Turn::Alone), "nothing is remembered");
}

/// Whoever was sent back may have what was invalidated after it came, but nobody what was before.
#[test]
fn who_waits_is_sent_back_once_by_what_came_after_it() {
    #[rustfmt::skip]
    let table = [
        // Sent back before, invalidated before and after it came; what it is told.
        (false, false, false, "growing"),
        (false, false, true, "cleared"),
        (true, false, true, "growing"),
        (false, true, false, "cleared"),
        (true, true, false, "cleared"),
        (true, true, true, "cleared"),
    ];
    for (sent_back, before, after, expected) in table {
        // Whether it sits down before the head comes, or just after.
        for is_late in [false, true] {
            let (flights, underway) = (Arc::new(Flights::default()), Arc::<Underway>::default());
            let (sender, landings) = channel();
            let leader = noted(&flights, &underway, false, &sender).expect("it leads");
            // Only the head will tell whether it was meant.
            let purge = || underway.purge(&Selector::Stale, Timestamp::MAX);
            before.then(purge);
            let turn = flights.join(key("a"), || underway.begin(&"a".into()), sent_back);
            let Turn::Wait(seat) = turn else { panic!("it waits") };
            let mut seat = Some(seat);
            if !is_late {
                park(seat.take().expect("it is there"), &sender);
            }
            after.then(purge);
            leader.share(&growing());
            if let Some(seat) = seat {
                park(seat, &sender);
            }
            leader.land(&Outcome::Cleared);
            assert_eq!(told(&landings), [expected], "{sent_back} {before} {after} {is_late}");
        }
    }
}

/// First to ask after an invalidation: the others wait for it, and may have it.
#[test]
fn who_leads_begins_when_it_leads() {
    let (flights, underway) = (Arc::new(Flights::default()), Arc::<Underway>::default());
    let (sender, landings) = channel();
    for purge in [Selector::All, Selector::Stale] {
        underway.purge(&purge, Timestamp::MAX);
        let note = || underway.begin(&"a".into());
        let Turn::Lead(leader, begun) = flights.join(key("a"), note, false) else {
            panic!("nobody leads yet")
        };
        assert!(noted(&flights, &underway, false, &sender).is_none(), "one leads");
        assert!(begun.admits(&growing().head), "it is stored, too");
        leader.share(&growing());
        leader.land(&Outcome::Stored);
        assert_eq!(told(&landings), ["growing"]);
    }
}

#[test]
fn an_heir_begins_anew() {
    let (flights, underway) = (Arc::new(Flights::default()), Arc::default());
    let (sender, landings) = channel();
    let leader = noted(&flights, &underway, false, &sender).expect("nobody leads yet");
    assert!(noted(&flights, &underway, false, &sender).is_none());
    underway.invalidate(&"a".into(), None);
    drop(leader);
    let Ok(Landing::Lead(heir)) = landings.try_recv() else { panic!("one leads on") };
    heir.renew(&underway.begin(&"a".into()));
    assert!(noted(&flights, &underway, false, &sender).is_none(), "it is worth waiting for");
    heir.share(&growing());
    assert_eq!(told(&landings), ["growing"]);
    heir.land(&Outcome::Stored);
    assert_eq!(underway.count(), 0);
}

/// What came of a fetch, what those who wait are told, and whether the next ones wait at all.
#[test]
fn each_outcome_has_its_landing() {
    use Outcome::{Cleared, Freshened, Stored, StoredBehind, TooLarge, Unshareable};
    use Scope::{Credentials, Everyone, Request};
    // What those who wait are told; does the next one wait at all, without credentials and with some?
    #[rustfmt::skip]
    let table = [
        (Stored, "stored", true, true), (Freshened, "stored", true, true),
        (StoredBehind, "unshareable", true, true), (Cleared, "cleared", true, true),
        (TooLarge, "unshareable", false, true), (Unshareable(Everyone), "unshareable", false, true),
        (Unshareable(Request), "unshareable", true, true),
        (Unshareable(Credentials), "unshareable", true, false),
        (Outcome::Failed(failed().into()), "failed", true, true),
    ];
    for (outcome, expected, waits, waits_with_credentials) in table {
        let flights = Arc::new(Flights::default());
        let (sender, landings) = channel();
        let leader = lead(&flights, "a");
        wait(&flights, "a", &sender);
        let shown = format!("{outcome:?}");
        leader.land(&outcome);
        assert_eq!(told(&landings), [expected], "{shown}");
        assert_eq!(!matches!(join(&flights, "a"), Turn::Alone), waits, "{shown}");
        let is_personal = flights.is_personal(&CacheKey::from("a"));
        assert_eq!(!is_personal, waits_with_credentials, "{shown}");
    }
}

#[test]
fn nobody_waits_beyond_the_bound() {
    let flights = Arc::new(Flights::default());
    let (sender, landings) = channel();
    let leader = lead(&flights, "a");
    wait(&flights, "a", &sender);
    flights.expire(Duration::from_secs(3600));
    assert!(landings.try_recv().is_err());
    flights.expire(Duration::ZERO);
    assert_eq!(told(&landings), ["unshareable"]);
    leader.land(&Outcome::Stored);
}
