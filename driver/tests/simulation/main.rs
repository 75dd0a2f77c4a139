//! The real controller and the real agents over a simulated network, on simulated time and simulated kernels.
//!
//! Each seed is another world: who dies when, which messages are late or lost, which kernel calls take long or fail. After
//! each episode everything is put right, and then: nothing is frozen, groups are whole or gone, every group's members are of
//! one instant (writers leave a causal chain over the hosts), nothing has leaked, what callers were told is true, and what
//! they were not told succeeds when they ask again.
//!
//! Among what goes wrong are power failures, after which only what was synced is there, and raw devices that the kernel
//! writes to behind everybody's back.
//!
//! `SEED=n` replays one seed and prints what happened. `FROM=n`, `SEEDS=n` and `EPISODES=n` say which and how much,
//! `MINUTES=n` goes on with new ones for so long (`make soak`).

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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::Cluster;
use episode::{Told, episode};
use guard::Duty;
use stillpoint::controller::cuts::Barrier;
use stillpoint::host::fake::Lie;

/// A number from the environment; a variable that is empty counts as not set, and one that is no number is an error.
fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse().map_err(|error| format!("{name}={text:?}: {error}"));
    Some(number.expect("the variable holds a number"))
}

fn number(name: &str, otherwise: u64) -> u64 {
    given(name).unwrap_or(otherwise)
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
    if given("SEED").is_some() {
        println!("{}", cluster.trace());
    }
    Ok(told.rounds)
}

/// One seed that was asked for, so many from a number on, or new ones for so many minutes.
fn seeds() -> Box<dyn Iterator<Item = u64>> {
    if let Some(seed) = given("SEED") {
        return Box::new(std::iter::once(seed));
    }
    if let minutes @ 1.. = number("MINUTES", 0) {
        let end = Instant::now() + Duration::from_mins(minutes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        return Box::new((number("FROM", now)..).take_while(move |_| Instant::now() < end));
    }
    let from = number("FROM", 0);
    Box::new(from..from + number("SEEDS", 200))
}

#[test]
fn whatever_goes_wrong_groups_are_whole_or_gone() {
    let episodes = number("EPISODES", 1);
    let (mut rounds, mut count) = (0, 0_u64);
    for seed in seeds() {
        match run(seed, episodes, |_| {}) {
            Ok(more) => rounds += more,
            Err(why) => panic!("{why}"),
        }
        count += 1;
    }
    println!("{count} seeds, {rounds} rounds");
    assert!(rounds > 0, "nothing was simulated");
}

/// What earlier episodes leave behind, or use up, is seen only after many of them.
#[test]
fn a_thousand_rounds_in_one_world_are_as_good_as_the_first() {
    if given("SEED").is_none() {
        match run(number("FROM", 0) + 1_000_000, 320, |_| {}) {
            Ok(rounds) => assert!(rounds > 900, "{rounds} rounds"),
            Err(why) => panic!("{why}"),
        }
    }
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
    must_be_found(200, lazy, "is held for");
}

#[test]
fn disks_that_lie_about_syncs_are_found_when_the_power_fails() {
    let lying = |cluster: &mut Cluster| {
        for machine in &cluster.machines {
            machine.host.lie_about(Lie::Files);
            machine.host.lie_about(Lie::Directories);
        }
    };
    must_be_found(200, lying, "EOF while parsing");
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = || {
        let mut cluster = Cluster::new(7);
        let mut told = Told::default();
        for _ in 0..2 {
            episode(&mut cluster, &mut told).unwrap_or_else(|why| panic!("{why}\n{}", cluster.trace()));
        }
        // Attempts are random: eight hex digits.
        let is_attempt = |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let words = cluster.trace().lines().map(|line| {
            line.split_whitespace().filter(|word| !is_attempt(word)).collect::<Vec<_>>().join(" ")
        });
        words.collect::<Vec<_>>()
    };
    for (line, (once, again)) in story().into_iter().zip(story()).enumerate() {
        assert_eq!(once, again, "line {line}");
    }
}
