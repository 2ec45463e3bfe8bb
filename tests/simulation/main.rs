//! State, saga, planner and the leader's decisions with fake agents, in one thread under a manual clock.
//!
//! Everything that may happen to a cluster happens here in random order and by the thousand: lost, late and repeated
//! messages, agents that die and sleep, leaders that are replaced and do not know it, steps and undos that fail,
//! people who change their mind. An oracle that remembers what was promised looks after every event. One number replays
//! a run: `DROVER_SIMULATION=4711 cargo test -p tests --test simulation a_number -- --nocapture`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be"
)]

mod agent;
mod cluster;
mod disk;
mod leader;
mod mutant;
mod operator;
mod oracle;
mod schedule;
mod wire;
mod world;

use mutant::{MUTANTS, Mutant};
use world::{Counts, run};

/// Runs in CI; `DROVER_TEST_ALL` makes it a hundred times as many.
const RUNS: u64 = 1_000;
/// Runs within which each mutant must be found.
const MUTANT_RUNS: u64 = 1_000;

/// Runs a number, and again with a trace when something did not hold.
fn check(number: u64) -> Counts {
    run(number, None, false).unwrap_or_else(|_| {
        let violation = run(number, None, true).err().unwrap_or_default();
        panic!(
            "{violation}\nreplay: DROVER_SIMULATION={number} cargo test -p tests --test simulation a_number -- --nocapture"
        );
    })
}

/// Checks a part of the numbers and returns what happened in them.
fn check_part(part: u64, parts: u64) -> Counts {
    let runs = if std::env::var_os("DROVER_TEST_ALL").is_some_and(|all| !all.is_empty()) {
        RUNS * 100
    } else {
        RUNS
    };
    let mut all = Counts::default();
    for number in (0..runs).filter(|number| number % parts == part) {
        all.add(check(number));
    }
    all
}

#[test]
fn a_thousand_runs_hold_what_was_promised() {
    // Two threads, one for each core of the smallest machine that this is meant for.
    let other = std::thread::spawn(|| check_part(1, 2));
    let mut all = check_part(0, 2);
    all.add(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    assert!(all.has_everything(), "the simulation does not reach everything: {all:#?}");
}

#[test]
fn a_number_is_replayed() {
    let number = std::env::var("DROVER_SIMULATION").ok().and_then(|number| number.parse().ok());
    check(number.unwrap_or(0));
}

/// Looks for a mutant; says with which number it was found.
fn find(mutant: Mutant) -> Option<(u64, String)> {
    (0..MUTANT_RUNS).find_map(|number| Some((number, run(number, Some(mutant), false).err()?)))
}

#[test]
fn every_mutant_is_found() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        match find(mutant) {
            Some((number, why)) => println!("{mutant:?}: run {number}, {}", why.trim()),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "these were not found within {MUTANT_RUNS} runs: {missed:?}");
}
