//! The engine's steps in any order: a scripted origin server, clients without sockets or threads, a clock that
//! is set by hand, and a seed that says what happens next. Whatever the order of pieces, deaths, purges, clears
//! and clients that leave: a stored response is whole, nothing purged comes back, every request that waits is
//! answered once, and nothing is left over.
//!
//! `SEED=N cargo test --test it interleaved::` runs one interleaving, `RUNS=N` that many.

mod checks;
mod clients;
mod hasty;
mod script;
mod shared;
mod world;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::support::TemporaryFolder;
use world::{Behind, World};

/// What has happened so far.
#[derive(Default)]
pub struct Story {
    step: AtomicU64,
    text: Mutex<String>,
}

impl Story {
    fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    fn next_step(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, what: &str) {
        let _ = writeln!(self.text.lock(), "{}: {what}", self.step());
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tries the interleavings of as many seeds as `runs`; says how many steps they had.
fn interleave(what: &str, runs: u64, try_one: impl Fn(u64) -> u64) {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUNS").unwrap_or(runs),
    };
    let runs = seeds.end - seeds.start;
    let steps: u64 = seeds.map(try_one).sum();
    println!("{what}: {runs} runs, {steps} steps");
}

/// One interleaving; how many steps it had.
fn try_one(seed: u64, behind: Behind) -> u64 {
    let folder = (behind == Behind::File).then(TemporaryFolder::new);
    let mut world = World::new(seed, behind, folder.as_ref());
    world.run();
    world.end();
    world.step()
}

#[test]
fn whatever_the_order_answers_are_whole_and_nothing_is_left_over() {
    interleave("memory", 300, |seed| try_one(seed, Behind::Nothing));
}

#[test]
fn the_same_with_a_backing_store_that_is_behind_with_its_work() {
    interleave("a file", 50, |seed| try_one(seed, Behind::File));
}

#[test]
fn the_same_with_two_proxies_that_share_a_backing_store() {
    interleave("a shared store", 200, |seed| try_one(seed, Behind::Shared));
}

/// However they meet, those who ask for the same have one answer.
#[test]
fn the_origin_server_is_asked_once_for_all_and_once_more_after_each_purge() {
    let try_one = |seed| {
        let mut world = World::calm(seed);
        world.run();
        world.end();
        world.check_collapsed();
        world.step()
    };
    interleave("calm", 200, try_one);
}

/// Else a failure could not be tried again.
#[test]
fn a_seed_has_one_story() {
    for behind in [Behind::Nothing, Behind::Shared] {
        for seed in 0..5 {
            let tell = || {
                let mut world = World::new(seed, behind, None);
                world.run();
                world.end();
                world.story()
            };
            let (one, other) = (tell(), tell());
            // Not all of two stories: the line in which they part.
            let parts = one.lines().zip(other.lines()).find(|(one, other)| one != other);
            assert!(one == other, "{seed} {behind:?}: {parts:?}");
        }
    }
}
