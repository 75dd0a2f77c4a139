use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn open(id: &str, since: i64, claimed: bool, uses: &[&str]) -> OpenRun {
    OpenRun {
        id: id.into(),
        name: format!("run {id}"),
        since: Timestamp::from_second(since).unwrap(),
        claimed,
        is_alive: true,
        uses: uses.iter().map(|used| (*used).to_owned()).collect(),
    }
}

fn wait(words: &str) -> Decision {
    Decision::Wait(words.into())
}

#[test]
fn who_may_start_given_the_open_runs() {
    let dead = |run: OpenRun| OpenRun { is_alive: false, ..run };
    let both = "run b (both use pod x)";
    let table = [
        ("nobody else", open("a", 5, false, &["pod x"]), vec![], Decision::Go),
        ("only itself", open("a", 5, true, &["pod x"]), vec![open("a", 5, true, &["pod x"])], Decision::Go),
        (
            "nothing shared",
            open("a", 5, false, &["pod x"]),
            vec![open("b", 1, true, &["pod y"])],
            Decision::Go,
        ),
        (
            "it has its turn",
            open("a", 5, false, &["pod x"]),
            vec![open("b", 9, true, &["pod x"])],
            wait(both),
        ),
        (
            "a volume is shared",
            open("a", 5, false, &["pod x", "volume v"]),
            vec![open("b", 9, true, &["pod y", "volume v"])],
            wait("run b (both use volume v)"),
        ),
        (
            "it has waited for longer",
            open("a", 5, false, &["pod x"]),
            vec![open("b", 1, false, &["pod x"])],
            wait(both),
        ),
        (
            "it came later",
            open("a", 5, false, &["pod x"]),
            vec![open("b", 9, false, &["pod x"])],
            Decision::Go,
        ),
        (
            "the same instant: by id",
            open("a", 5, false, &["pod x"]),
            vec![open("b", 5, false, &["pod x"])],
            Decision::Go,
        ),
        (
            "a dead one that waits",
            open("a", 5, false, &["pod x"]),
            vec![dead(open("b", 1, false, &["pod x"]))],
            Decision::Go,
        ),
        (
            "a dead one that had its turn",
            open("a", 5, false, &["pod x"]),
            vec![dead(open("b", 9, true, &["pod x"]))],
            wait(both),
        ),
        (
            "two claims, mine is older",
            open("a", 5, true, &["pod x"]),
            vec![open("b", 9, true, &["pod x"])],
            Decision::Look(both.into()),
        ),
        (
            "two claims, mine is younger",
            open("a", 5, true, &["pod x"]),
            vec![open("b", 1, true, &["pod x"])],
            wait(both),
        ),
        (
            "claimed, and somebody only waits",
            open("a", 5, true, &["pod x"]),
            vec![open("b", 1, false, &["pod x"])],
            Decision::Go,
        ),
        (
            "whoever has its turn is named, not who waits for it",
            open("a", 5, false, &["pod x"]),
            vec![open("c", 1, false, &["pod x"]), open("b", 4, true, &["pod x"])],
            wait(both),
        ),
    ];
    for (what, mine, others, expected) in table {
        assert_eq!(decide(&mine, &others), expected, "{what}");
    }
}

/// Where one run stands in the protocol: exactly what the engine does, one write or one look at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// It does not claim, and decides by what it sees. Others see that it waits once it is written.
    Waits {
        is_written: bool,
    },
    /// It has looked and will claim.
    WillClaim {
        is_written: bool,
    },
    /// Its claim is written; it has not looked yet.
    Claimed,
    /// It has looked and goes, but nobody has been told: the claim stands.
    HasTurn,
    /// It has looked and will take its claim back.
    GivesWay,
    Ended,
}

/// All interleavings of three runs, with everybody's stage being what is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Scene([Stage; 3]);

const USES: [&[&str]; 4] = [&["x"], &["y"], &["x", "y"], &["z"]];

fn run(scene: Scene, n: usize, uses: [usize; 3], order: [i64; 3]) -> OpenRun {
    let claimed = matches!(scene.0[n], Stage::Claimed | Stage::HasTurn | Stage::GivesWay);
    open(&n.to_string(), order[n], claimed, USES[uses[n]])
}

fn is_written(stage: Stage) -> bool {
    match stage {
        Stage::Waits { is_written } | Stage::WillClaim { is_written } => is_written,
        Stage::Claimed | Stage::HasTurn | Stage::GivesWay => true,
        Stage::Ended => false,
    }
}

/// What run `n` can do next.
fn next(scene: Scene, n: usize, uses: [usize; 3], order: [i64; 3]) -> Option<Stage> {
    let written = (0..3).filter(|n| is_written(scene.0[*n]));
    let all: Vec<OpenRun> = written.map(|n| run(scene, n, uses, order)).collect();
    let decision = decide(&run(scene, n, uses, order), &all);
    match scene.0[n] {
        Stage::Waits { is_written } => match decision {
            Decision::Go => Some(Stage::WillClaim { is_written }),
            Decision::Look(_) | Decision::Wait(_) => {
                (!is_written).then_some(Stage::Waits { is_written: true })
            }
        },
        Stage::WillClaim { .. } => Some(Stage::Claimed),
        Stage::Claimed => match decision {
            Decision::Go => Some(Stage::HasTurn),
            Decision::Look(_) => None,
            Decision::Wait(_) => Some(Stage::GivesWay),
        },
        Stage::HasTurn => Some(Stage::Ended),
        Stage::GivesWay => Some(Stage::Waits { is_written: true }),
        Stage::Ended => None,
    }
}

/// Explores everything; gives what is wrong. `looks`: with the look between claim and turn, which is left out to see that this is
/// noticed.
fn explore(uses: [usize; 3], order: [i64; 3], looks: bool) -> Option<String> {
    let mut known = HashSet::new();
    let mut todo = vec![Scene([Stage::Waits { is_written: false }; 3])];
    while let Some(scene) = todo.pop() {
        if !known.insert(scene) {
            continue;
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let meet = USES[uses[a]].iter().any(|used| USES[uses[b]].contains(used));
            if meet && scene.0[a] == Stage::HasTurn && scene.0[b] == Stage::HasTurn {
                return Some(format!("{a} and {b} have their turn at once: {scene:?}"));
            }
        }
        let mut moved = false;
        for n in 0..3 {
            let stage = match (scene.0[n], looks) {
                (Stage::Claimed, false) => Some(Stage::HasTurn),
                (_, _) => next(scene, n, uses, order),
            };
            if let Some(stage) = stage {
                let mut then = scene;
                then.0[n] = stage;
                todo.push(then);
                moved = true;
            }
        }
        if !moved && scene.0 != [Stage::Ended; 3] {
            return Some(format!("nobody can go on: {scene:?}"));
        }
    }
    None
}

fn each_case(mut see: impl FnMut([usize; 3], [i64; 3])) {
    for uses in 0..64_usize {
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1], [1, 1, 1]] {
            see([uses % 4, uses / 4 % 4, uses / 16], order);
        }
    }
}

#[test]
fn in_every_interleaving_of_three_runs_no_two_that_meet_have_their_turn_at_once_and_all_end() {
    each_case(|uses, order| assert_eq!(explore(uses, order, true), None, "{uses:?} {order:?}"));
}

#[test]
fn the_exploration_notices_runs_that_do_not_look_between_their_claim_and_their_turn() {
    let mut noticed = 0;
    each_case(|uses, order| noticed += usize::from(explore(uses, order, false).is_some()));
    assert!(noticed > 0);
}

/// A run that works with one pod, as the journal has it.
fn of_pod(pod: &str, uid: &str, volume: &str) -> Run {
    let mut run = Run::new("cut", Some("rule"), Timestamp::UNIX_EPOCH);
    let target = serde_json::json!({
        "namespace": "shop", "pod": pod, "uid": uid, "container": "main", "host": "a",
    });
    let step = serde_json::json!({
        "name": "lock", "pick": "all", "question": null, "targets": [target], "left_out": [], "on_failure": "abort",
    });
    let volumes = serde_json::json!([{ "id": volume, "name": volume, "host": "a" }]);
    let plan = serde_json::json!({
        "rule": "rule", "steps": [step], "hosts": [{ "host": "a", "volumes": volumes }], "notes": [],
    });
    run.plan = Some(serde_json::from_value(plan).unwrap());
    run
}

#[test]
fn runs_meet_at_a_pod_at_its_name_and_at_a_volume() {
    let table = [
        ("the same pod", of_pod("db-0", "u1", "v1"), of_pod("db-0", "u1", "v2"), true),
        (
            "the pod has come back under its name",
            of_pod("db-0", "u1", "v1"),
            of_pod("db-0", "u2", "v2"),
            true,
        ),
        ("a volume of both", of_pod("db-0", "u1", "v1"), of_pod("db-1", "u2", "v1"), true),
        ("nothing", of_pod("db-0", "u1", "v1"), of_pod("db-1", "u2", "v2"), false),
    ];
    for (what, one, other, meet) in table {
        let shared: Vec<_> = uses(&one).intersection(&uses(&other)).cloned().collect();
        assert_eq!(!shared.is_empty(), meet, "{what}: {shared:?}");
    }
    let mut without_pods = of_pod("db-0", "u1", "v1");
    without_pods.plan.as_mut().unwrap().steps.clear();
    assert_eq!(uses(&without_pods), BTreeSet::new(), "it does nothing to an application");
}

fn runs() -> impl Strategy<Value = Vec<OpenRun>> {
    let run = (0..4_i64, any::<(bool, bool)>(), prop::collection::btree_set("[a-d]", 0..3));
    prop::collection::vec(run, 1..6).prop_map(|runs| {
        let one = |(n, (since, (claimed, is_alive), uses)): (usize, (i64, (bool, bool), _))| OpenRun {
            is_alive,
            uses,
            ..open(&n.to_string(), since, claimed, &[])
        };
        runs.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #[test]
    fn a_claim_of_somebody_else_is_never_passed_over(all in runs()) {
        for mine in &all {
            let meets = |other: &&OpenRun| other.id != mine.id && !mine.uses.is_disjoint(&other.uses);
            let claimed = all.iter().filter(meets).any(|other| other.claimed);
            prop_assert!(!claimed || decide(mine, &all) != Decision::Go);
        }
    }

    #[test]
    fn of_living_runs_one_can_always_go_on(all in runs()) {
        let living: Vec<OpenRun> = all.into_iter().map(|run| OpenRun { is_alive: true, claimed: false, ..run }).collect();
        prop_assert!(living.iter().any(|mine| decide(mine, &living) == Decision::Go));
    }
}
