//! A thousand worlds. A seed replays: it is in the message of what fails.

use super::fate::Dice;
use super::{World, live, ring, shape};

const SEEDS: u64 = 1_000;

fn world(seed: u64) -> std::sync::Arc<World> {
    let mut dice = Dice::new(seed);
    let pods = ring(1 + usize::try_from(dice.roll(4)).unwrap());
    let rule = shape::rule(&shape::thrown(&mut dice));
    World::new(rule, pods, dice)
}

#[test]
fn in_a_thousand_worlds_where_anything_fails_and_the_process_dies_debts_are_paid_and_nothing_lost_is_sealed()
{
    let (mut deaths, mut seals) = (0, 0);
    for seed in 1..=SEEDS {
        let outcome = live(&world(seed));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
        deaths += u64::from(outcome.died);
        seals += u64::from(outcome.sealed);
    }
    // A world in which nothing works, or in which nothing fails, would prove nothing.
    assert!(deaths > SEEDS / 10 && seals > SEEDS / 20, "{deaths} deaths, {seals} sealed");
    eprintln!("{SEEDS} seeds: {deaths} processes died, {seals} cuts were sealed");
}
