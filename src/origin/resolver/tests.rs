//! Names by table, by hand-set times, and with resolvers that hang until a test lets them go on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::origin::resolver::memory::{
    FAILURE_REMEMBERED, NAMES_MAX, NameKey, NameMemory, REMEMBERED, RenewalStep,
};
use crate::origin::resolver::names::RESOLVERS_MAX;
use crate::origin::resolver::{AskedName, NameAnswer, Names, Renewal};

const LIMIT: Duration = Duration::from_secs(20);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 80))
}

fn name(host: &str) -> NameKey {
    (host.to_string(), 80)
}

/// A resolver that tells which name it has begun with, and hangs until it is given the outcome.
struct HeldResolver {
    names: Names,
    begun: Receiver<String>,
    outcomes: Sender<Vec<SocketAddr>>,
}

impl HeldResolver {
    fn new() -> Self {
        let (begins, begun) = channel();
        let (outcomes, held) = channel::<Vec<SocketAddr>>();
        let (begins, held) = (Mutex::new(begins), Mutex::new(held));
        let names = Names::new(move |host, _| {
            begins.lock().send(host.to_string()).ok();
            held.lock().recv().map_err(io::Error::other)
        });
        Self { names, begun, outcomes }
    }

    /// Asks for a name that is not known.
    fn ask(&self, host: &str, woken: &Sender<usize>, number: usize) -> AskedName {
        let woken = woken.clone();
        match self.names.ask(host, 80, move || _ = woken.send(number)) {
            NameAnswer::Asked(asked) => asked,
            NameAnswer::Known(addresses) => panic!("{host}: known: {addresses:?}"),
        }
    }

    /// Which name a thread looks up next.
    fn next(&self) -> String {
        self.begun.recv_timeout(LIMIT).expect("a thread begins")
    }

    fn find(&self, last: u8) {
        self.outcomes.send(vec![address(last)]).expect("a thread waits");
    }
}

fn known(answer: NameAnswer) -> Vec<SocketAddr> {
    match answer {
        NameAnswer::Known(addresses) => addresses,
        NameAnswer::Asked(asked) => panic!("not known: {asked:?}"),
    }
}

#[test]
fn a_name_is_looked_up_once_and_remembered() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let names = Names::new(move |_, port| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
    });
    for _ in 0..3 {
        let expected = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
        assert_eq!(names.addresses("a.test", 80, LIMIT), expected);
    }
    assert_eq!(names.addresses("[::1]", 80, LIMIT), ["[::1]:80".parse().expect("an address")]);
    assert_eq!(count.load(Ordering::Relaxed), 1, "an address needs no look-up");
}

#[test]
fn the_last_good_addresses_outlive_a_failure() {
    let count = AtomicUsize::new(0);
    let names = Names::new(move |_, port| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        _ => Err(io::Error::other("no such name")),
    });
    let first = names.addresses("a.test", 80, LIMIT);
    names.memory().expire(&name("a.test"));
    assert_eq!(names.addresses("a.test", 80, LIMIT), first);
}

#[test]
fn a_name_whose_addresses_do_not_connect_is_looked_up_again_once_a_second() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let names = Names::new(move |host, port| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let address = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
        match host {
            "moves" => Ok(vec![address(number as u8 + 1)]),
            "turns" if number % 2 == 1 => Ok(vec![address(2), address(1)]),
            "dies" if number > 0 => Err(io::Error::other("no such name")),
            _ => Ok(vec![address(1), address(2)]),
        }
    });
    for (host, expected) in [("moves", true), ("turns", false), ("dies", false)] {
        count.store(0, Ordering::Relaxed);
        assert!(!names.has_moved(host, 80, LIMIT), "{host}: nobody has asked for it");
        let before = names.addresses(host, 80, LIMIT);
        assert_eq!(names.has_moved(host, 80, LIMIT), expected, "{host}");
        assert_eq!(names.addresses(host, 80, LIMIT) != before, host != "dies", "{host}");
        assert!(!names.has_moved(host, 80, LIMIT), "{host}: it has just been looked up");
        assert_eq!(count.load(Ordering::Relaxed), 2, "{host}");
    }
}

#[test]
fn a_resolver_that_hangs_holds_nobody_beyond_the_limit() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let names = Names::new(move |_, _| {
        held.lock().recv().ok();
        Ok(Vec::new())
    });
    assert!(names.addresses("a.test", 80, Duration::from_millis(1)).is_empty());
    drop(release);
}

#[test]
fn the_memory_of_names_is_bounded() {
    let names = Names::new(|_, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
    for number in 0..=NAMES_MAX {
        names.addresses(&format!("host{number}.test"), 80, LIMIT);
    }
    assert!(names.memory().counts().0 <= NAMES_MAX);
}

#[test]
fn hundreds_of_askers_cause_one_look_up_and_are_all_woken() {
    const ASKERS: usize = 400;
    let resolver = HeldResolver::new();
    let (wake, woken) = channel();
    let asked: Vec<AskedName> =
        (0..ASKERS).map(|number| resolver.ask("a.test", &wake, number)).collect();
    assert_eq!(resolver.next(), "a.test");
    assert!(woken.try_recv().is_err(), "there is no answer yet");
    // Polled too early, they wait on.
    let asked: Vec<AskedName> = asked
        .into_iter()
        .map(|asked| match asked.poll() {
            NameAnswer::Asked(asked) => asked,
            NameAnswer::Known(addresses) => panic!("known: {addresses:?}"),
        })
        .collect();
    resolver.find(1);
    let mut numbers: Vec<usize> =
        (0..ASKERS).map(|_| woken.recv_timeout(LIMIT).expect("it is woken")).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..ASKERS), "each once");
    for asked in asked {
        assert_eq!(known(asked.poll()), [address(1)]);
    }
    assert_eq!(resolver.names.memory().askers(&name("a.test")), 0);
    assert_eq!(known(resolver.names.ask("a.test", 80, || ())), [address(1)], "it is remembered");
    assert!(resolver.begun.try_recv().is_err(), "it was looked up once");
}

/// Threads that wait and an event loop that does not share one look-up.
#[test]
fn threads_and_event_loops_share_a_look_up() {
    let resolver = HeldResolver::new();
    let (wake, woken) = channel();
    let asked = resolver.ask("a.test", &wake, 0);
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..4).map(|_| scope.spawn(|| resolver.names.addresses("a.test", 80, LIMIT))).collect();
        assert_eq!(resolver.next(), "a.test");
        resolver.find(1);
        for thread in waiting {
            assert_eq!(thread.join().expect("no panic"), [address(1)]);
        }
    });
    assert_eq!(woken.recv_timeout(LIMIT), Ok(0));
    assert_eq!(known(asked.poll()), [address(1)]);
}

#[test]
fn who_withdraws_leaves_nothing_behind_and_is_not_woken() {
    let resolver = HeldResolver::new();
    let (wake, woken) = channel();
    let mut asked: Vec<AskedName> =
        (0..300).map(|number| resolver.ask("a.test", &wake, number)).collect();
    assert_eq!(resolver.next(), "a.test");
    let last = asked.pop().expect("there are some");
    // Their clients have given up while the resolver hangs.
    drop(asked);
    assert_eq!(resolver.names.memory().askers(&name("a.test")), 1);
    drop(wake);
    resolver.find(1);
    assert_eq!(woken.recv_timeout(LIMIT), Ok(299));
    assert!(woken.recv_timeout(LIMIT).is_err(), "the other wakers are gone");
    assert_eq!(known(last.poll()), [address(1)]);
}

#[test]
fn names_beyond_the_threads_wait_in_order_and_not_for_nobody() {
    let resolver = HeldResolver::new();
    let (wake, woken) = channel();
    let host = |number: usize| format!("host{number}.test");
    let mut asked: Vec<Option<AskedName>> = (0..RESOLVERS_MAX + 4)
        .map(|number| Some(resolver.ask(&host(number), &wake, number)))
        .collect();
    let mut begun: Vec<String> = (0..RESOLVERS_MAX).map(|_| resolver.next()).collect();
    begun.sort_unstable();
    let mut first: Vec<String> = (0..RESOLVERS_MAX).map(host).collect();
    first.sort_unstable();
    assert_eq!(begun, first, "the first ones, each on a thread");
    assert!(resolver.begun.try_recv().is_err());
    assert_eq!(resolver.names.memory().resolvers, RESOLVERS_MAX);
    assert_eq!(resolver.names.memory().counts().1, 4);
    // Nobody waits for this one any more; for the next one somebody else does.
    asked[RESOLVERS_MAX + 1] = None;
    let another = resolver.ask(&host(RESOLVERS_MAX + 2), &wake, 100);
    asked[RESOLVERS_MAX + 2] = None;
    assert_eq!(resolver.names.memory().counts().1, 3);
    for number in [RESOLVERS_MAX, RESOLVERS_MAX + 2, RESOLVERS_MAX + 3] {
        resolver.find(1);
        assert_eq!(resolver.next(), host(number));
    }
    for _ in 0..RESOLVERS_MAX {
        resolver.find(1);
    }
    let mut numbers: Vec<usize> =
        (0..RESOLVERS_MAX + 3).map(|_| woken.recv_timeout(LIMIT).expect("it is woken")).collect();
    numbers.sort_unstable();
    let mut expected: Vec<usize> = (0..=RESOLVERS_MAX).chain([RESOLVERS_MAX + 3, 100]).collect();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    assert_eq!(known(another.poll()), [address(1)]);
}

#[test]
fn a_panic_of_the_resolver_is_a_failed_look_up() {
    let names = Names::new(|host, _| match host {
        "panics" => panic!("on purpose"),
        _ => Ok(vec![address(1)]),
    });
    for _ in 0..=RESOLVERS_MAX {
        names.memory().expire(&name("panics"));
        assert!(names.addresses("panics", 80, LIMIT).is_empty());
    }
    assert_eq!(names.addresses("a.test", 80, LIMIT), [address(1)]);
}

/// A look-up that has ended, with this outcome.
fn looked_up(memory: &mut NameMemory, key: &NameKey, found: &[SocketAddr], now: Instant) {
    assert!(memory.enqueue(key));
    assert_eq!(memory.next_to_look_up().as_ref(), Some(key));
    assert!(memory.note(key, found.to_vec(), now).is_empty(), "nobody has asked");
}

#[test]
fn an_answer_is_remembered_for_half_a_minute_and_a_failure_for_a_second() {
    let (mut memory, now, key) = (NameMemory::default(), Instant::now(), name("a.test"));
    looked_up(&mut memory, &key, &[], now);
    assert_eq!(memory.valid(&key, now + FAILURE_REMEMBERED / 10 * 9), Some(Vec::new()));
    assert_eq!(memory.valid(&key, now + FAILURE_REMEMBERED), None);
    looked_up(&mut memory, &key, &[address(1)], now);
    assert_eq!(memory.valid(&key, now + REMEMBERED / 10 * 9), Some(vec![address(1)]));
    assert_eq!(memory.valid(&key, now + REMEMBERED), None);
    // A failure leaves the addresses, for a second at a time.
    looked_up(&mut memory, &key, &[], now);
    assert_eq!(memory.valid(&key, now), Some(vec![address(1)]));
    assert_eq!(memory.valid(&key, now + FAILURE_REMEMBERED), None);
    assert_eq!(memory.last_good(&key), [address(1)]);
}

#[test]
fn a_renewal_is_made_once_a_second_and_shared() {
    let (mut memory, now, key) = (NameMemory::default(), Instant::now(), name("a.test"));
    let (old, new) = ([address(1)], [address(2)]);
    assert_eq!(memory.renew(&key, &old, now), RenewalStep::Nothing, "nobody has asked for it");
    looked_up(&mut memory, &key, &old, now);
    assert_eq!(memory.renew(&key, &old, now), RenewalStep::LookUp);
    assert_eq!(memory.valid(&key, now), None, "new requests wait for it");
    assert!(memory.enqueue(&key));
    assert_eq!(memory.renew(&key, &old, now), RenewalStep::LookUp, "it is shared");
    assert!(!memory.enqueue(&key), "it is under way");
    assert_eq!(memory.next_to_look_up().as_ref(), Some(&key));
    assert!(memory.note(&key, old.to_vec(), now).is_empty());
    let later = now + FAILURE_REMEMBERED;
    assert_eq!(memory.renew(&key, &old, now + FAILURE_REMEMBERED / 10 * 9), RenewalStep::Nothing);
    assert_eq!(memory.renew(&key, &old, later), RenewalStep::LookUp);
    looked_up(&mut memory, &key, &new, later);
    // One that has raced the old addresses until now need not wait for anything.
    assert_eq!(memory.renew(&key, &old, later), RenewalStep::Moved(new.to_vec()));
    assert_eq!(memory.renew(&key, &new, later), RenewalStep::Nothing);
}

#[test]
fn a_renewal_tells_whether_the_name_has_moved() {
    for (found, moved) in [(1, false), (2, true)] {
        let resolver = HeldResolver::new();
        let (wake, woken) = channel();
        let asked = resolver.ask("a.test", &wake, 0);
        resolver.find(1);
        assert_eq!(woken.recv_timeout(LIMIT), Ok(0));
        assert_eq!(known(asked.poll()), [address(1)]);
        let renew = |number| {
            let wake = wake.clone();
            let wake = move || _ = wake.send(number);
            match resolver.names.renew("a.test", 80, &[address(1)], wake) {
                Renewal::Asked(renewed) => renewed,
                other => panic!("not asked: {other:?}"),
            }
        };
        let (first, second, withdrawn) = (renew(1), renew(2), renew(3));
        drop(withdrawn);
        // Until then the old addresses are what there is.
        assert_eq!(resolver.names.last_good("a.test", 80), [address(1)]);
        let Renewal::Asked(first) = first.poll() else { panic!("there is no answer yet") };
        resolver.find(found);
        let mut numbers = [woken.recv_timeout(LIMIT), woken.recv_timeout(LIMIT)];
        numbers.sort_unstable_by_key(|number| number.ok());
        assert_eq!(numbers, [Ok(1), Ok(2)]);
        for renewed in [first, second] {
            match renewed.poll() {
                Renewal::Moved(addresses) if moved => assert_eq!(addresses, [address(2)]),
                Renewal::Unchanged if !moved => {}
                other => panic!("{found}: {other:?}"),
            }
        }
        assert_eq!(resolver.names.memory().askers(&name("a.test")), 0);
    }
}

#[test]
fn an_address_is_no_name() {
    let names = Names::new(|host, _| panic!("{host} is looked up"));
    for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80")] {
        let expected: SocketAddr = expected.parse().expect("an address");
        assert_eq!(known(names.ask(host, 80, || ())), [expected]);
        assert_eq!(names.last_good(host, 80), [expected]);
        assert!(matches!(names.renew(host, 80, &[expected], || ()), Renewal::Unchanged));
    }
}
