//! What may happen in the world, by chance and at every save.

use proptest::prelude::*;

use super::world::{Act, FOREIGN, Plot, World};
use super::*;
use crate::retain::Fate;

fn plots() -> impl Strategy<Value = Plot> {
    prop_oneof![
        4 => (0_u64..200).prop_map(|ends_s| Plot::Cuts { ends_s }),
        2 => (0_u64..200).prop_map(|ends_s| Plot::Fails { ends_s }),
        1 => Just(Plot::Uncertain),
        1 => Just(Plot::Hangs),
        1 => Just(Plot::Stubborn),
    ]
}

fn acts(steps: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (1_i64..150).prop_map(|seconds| Act::Pass { seconds }),
        2 => steps.prop_map(|by_s| Act::SetClock { by_s }),
        2 => (0_i64..2_000).prop_map(|down_s| Act::Die { down_s }),
        3 => any::<bool>().prop_map(|saved| Act::DieAtSave { saved }),
        1 => Just(Act::FailSave),
        4 => plots().prop_map(Act::Plot),
        1 => Just(Act::Suspend),
        1 => Just(Act::Resume),
        1 => Just(Act::RunNow),
        3 => Just(Act::Clean),
        1 => Just(Act::DeleteNewest),
    ];
    proptest::collection::vec(act, 1..40)
}

fn jobs() -> impl Strategy<Value = Job> {
    let when = prop_oneof![
        Just("every: 7s"),
        Just("every: 1m"),
        Just("every: 5m\njitter: 2m"),
        Just("cron: '*/3 * * * *'"),
    ];
    let keep = prop_oneof![
        Just("{}"),
        Just("{last: 2, failed: 1}"),
        Just("{hourly: 2, maxAge: 1h}"),
        Just("{last: 1, daily: 1}"),
    ];
    (when, keep, 1_u32..4, 1_u32..6).prop_map(|(when, keep, catch_up, run)| {
        job(&format!("{when}\ncatchUp: {catch_up}m\nretention: {keep}\nlimits: {{run: {run}m}}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_dies_or_hangs_each_due_instant_is_handled_once(
        job in jobs(), acts in acts(-3_000..3_000), second in 1_760_000_000_i64..1_790_000_000,
    ) {
        let mut world = World::new(job, Timestamp::from_second(second).unwrap());
        for act in acts {
            world.act(act);
        }
    }

    #[test]
    fn a_clock_that_jumps_by_days_starts_nothing_twice_and_loses_no_cut(
        job in jobs(), acts in acts(-400_000..400_000), second in 1_760_000_000_i64..1_790_000_000,
    ) {
        let mut world = World::new(job, Timestamp::from_second(second).unwrap());
        for act in acts {
            world.act(act);
        }
        // Whatever happened: where nothing goes wrong any more, it works again.
        world.plot = Plot::Cuts { ends_s: 0 };
        (world.die_at_save, world.fail_save) = (None, false);
        world.act(Act::Die { down_s: 1 });
        world.act(Act::Resume);
        world.act(Act::SetClock { by_s: 400_000 });
        world.act(Act::Die { down_s: 1 });
        let before = world.cuts.len();
        world.act(Act::Pass { seconds: 700 });
        prop_assert!(world.cuts.len() > before, "the schedule stands still: {:?}", world.disk);
        world.act(Act::Clean);
        let book = &world.process.as_ref().unwrap().book;
        let left = kept(&world.job, book, world.wall);
        prop_assert!(left.iter().all(|cut| matches!(cut.fate, Fate::Keep(_))), "something was left to delete");
    }
}

#[test]
fn a_crash_at_every_save_of_a_day_loses_nothing() {
    let job = job("every: 5m\ncatchUp: 1h\nretention: {last: 4}");
    let begin = at("2026-03-01T00:00:00Z");
    for saved in [true, false] {
        for strike in 0..40 {
            let mut world = World::new(job.clone(), begin);
            world.plot = Plot::Cuts { ends_s: 20 };
            let mut saves = 0;
            for _ in 0..90 {
                // One strike per life, at another save each time.
                saves += 1;
                if saves == strike {
                    world.act(Act::DieAtSave { saved });
                }
                world.act(Act::Pass { seconds: 60 });
                world.act(Act::Clean);
            }
            let due = 90 * 60 / 300;
            assert!((due - 1..=due).contains(&world.handled), "{} of {due} at {strike}", world.handled);
            assert!(world.deleted >= 10, "{}", world.deleted);
            let newest = world.cuts.keys().filter(|name| *name != FOREIGN).count();
            assert!((4..=5).contains(&newest), "{:?}", world.cuts);
        }
    }
}

#[test]
#[should_panic(expected = "is started twice")]
fn an_executor_whose_records_do_not_last_is_found_out() {
    let mut world = World::new(job("every: 5m"), at("2026-03-01T00:00:00Z"));
    world.forgetful = true;
    world.act(Act::Pass { seconds: 310 });
    world.act(Act::Die { down_s: 1 });
}
