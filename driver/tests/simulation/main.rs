//! The real controller and the real agents over a simulated network, on simulated time and simulated kernels.
//!
//! Each seed is another world: who dies when, which messages are late or lost, which kernel calls take long or fail. After
//! each episode everything is put right, and then: nothing is frozen, groups are whole or gone, every group's members are of
//! one instant (writers leave a causal chain over the hosts), nothing has leaked, what callers were told is true, and what
//! they were not told succeeds when they ask again.
//!
//! `SEED=n` replays one seed and prints what happened. `FROM=n`, `SEEDS=n` and `EPISODES=n` say which and how much;
//! `make soak` goes on with new ones.

mod check;
mod cluster;
mod controller;
mod crew;
mod dice;
mod episode;
mod faults;
mod guard;
mod ledger;
mod machine;
mod net;
mod scenarios;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cluster::Cluster;
use episode::{Told, episode};
use guard::Duty;
use stillpoint::controller::cuts::Barrier;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs one seed; the error is what is wrong, with everything that happened before.
fn run(seed: u64, episodes: u64, prepare: fn(&mut Cluster)) -> Result<u64, String> {
    let mut cluster = Cluster::new(seed);
    prepare(&mut cluster);
    let mut told = Told::default();
    for _ in 0..episodes {
        let outcome = catch_unwind(AssertUnwindSafe(|| episode(&mut cluster, &mut told)));
        let outcome = outcome.unwrap_or_else(|_| Err("a panic, see above".into()));
        outcome.map_err(|why| format!("SEED={seed}: {why}\n{}", cluster.trace()))?;
    }
    if std::env::var_os("SEED").is_some() {
        println!("{}", cluster.trace());
    }
    Ok(told.rounds)
}

#[test]
fn whatever_goes_wrong_groups_are_whole_or_gone() {
    let episodes = number("EPISODES", 1);
    let seeds = match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => number("FROM", 0)..number("FROM", 0) + number("SEEDS", 200),
    };
    let (mut rounds, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        match run(seed, episodes, |_| {}) {
            Ok(more) => rounds += more,
            Err(why) => panic!("{why}"),
        }
    }
    println!("{count} seeds, {rounds} rounds");
}

/// A simulation that cannot fail shows nothing.
fn must_be_found(seeds: u64, prepare: fn(&mut Cluster), expected: &str) {
    for seed in 0..seeds {
        if let Err(why) = run(seed, 3, prepare) {
            assert!(why.contains(expected), "{why}");
            println!("found with seed {seed}");
            return;
        }
    }
    let nothing = "nothing was found";
    assert_eq!(nothing, expected, "in {seeds} seeds");
}

#[test]
fn without_the_barrier_a_cut_out_of_order_is_found() {
    must_be_found(10, |cluster| cluster.barrier = Barrier::Down, "the cut has entry");
}

#[test]
fn a_guard_that_sleeps_when_its_agent_dies_is_found() {
    let lazy = |cluster: &mut Cluster| {
        for machine in &cluster.machines {
            machine.guard.set_duty(Duty::SleepsAtEof);
        }
    };
    must_be_found(200, lazy, "is frozen for");
}
