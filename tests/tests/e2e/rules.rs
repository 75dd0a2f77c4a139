//! Rules that fail: the snapshot says what, why and how to fix it, nothing is held, nothing is left, and once the rule
//! is right the same object becomes ready.

use std::time::{Duration, Instant};

use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};

use crate::cluster;
use crate::manifests::{allow_exec, rule};
use crate::three::{Three, group, wait_for_group};

/// What is wrong with a rule, and how.
struct Wrong {
    /// Name of the rule and of the group.
    name: &'static str,
    /// Its step.
    step: &'static str,
    /// What, why and how to fix it, as people read it.
    words: &'static [&'static str],
}

const WRONG: [Wrong; 4] = [
    Wrong {
        name: "nobody",
        step: r#"{name: flush, pods: {selector: {matchLabels: {app: typo}}}, before: {command: ["true"]}}"#,
        words: &["step `flush`", "no pod matches app=typo", "they have app=three", "correct the step"],
    },
    Wrong {
        name: "nocontainer",
        step: r#"{name: flush, pods: {selector: {matchLabels: {app: three}}, container: db}, before: {command: ["true"]}}"#,
        words: &["step `flush`", "has no container `db`", "it has main", "correct `container`"],
    },
    Wrong {
        name: "slow",
        step: r#"{name: flush, pods: {selector: {matchLabels: {app: three}}}, before: {shell: "sleep 8", timeout: 1s}, after: {shell: "echo undone >> /tmp/undone"}}"#,
        words: &[
            "step `flush`",
            "`before` failed in 3 of 3 pods",
            "did not end within 1s",
            "try `/bin/sh -c 'sleep 8'`",
        ],
    },
    Wrong {
        name: "fails",
        step: r#"{name: flush, pods: {selector: {matchLabels: {app: three}}}, before: {shell: "echo no such table >&2; exit 3"}}"#,
        words: &["step `flush`", "exit code 3", "no such table", "by hand"],
    },
];

const RIGHT: &str = r#"{name: flush, pods: {selector: {matchLabels: {app: three}}, container: main}, before: {command: ["true"]}, after: {command: ["true"]}}"#;

fn status(space: &Workspace, name: &str, path: &str) -> String {
    space.run(&["get", &format!("volumegroupsnapshot/{name}"), "-o", &format!("jsonpath={path}")]).unwrap()
}

/// One value of the run of a group.
fn run_of(space: &Workspace, name: &str, path: &str) -> String {
    let path = format!(r#"jsonpath={{range .items[?(@.spec.snapshot.name=="{name}")]}}{path}{{end}}"#);
    space.run(&["get", "runs", "-o", &path]).unwrap()
}

fn assert_says(said: &str, words: &[&str], told: impl Fn() -> String) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}\n{}", told());
    }
}

fn assert_fails_in_words(space: &Workspace, wrong: &Wrong) {
    let object = format!("volumegroupsnapshot/{}", wrong.name);
    space.wait(&object, "jsonpath={.status.error.message}").unwrap();
    let told = || space.told(&object);
    assert_says(&status(space, wrong.name, "{.status.error.message}"), wrong.words, told);
    assert_eq!(status(space, wrong.name, "{.status.readyToUse}"), "false");
    let selector = format!("involvedObject.name={},reason=RuleFailed", wrong.name);
    let events = space
        .run(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[0].message}"])
        .unwrap();
    assert_says(&events, &wrong.words[..3], told);
    // While it is tried again, the run says what it is doing instead.
    let condition = || run_of(space, wrong.name, r#"{.status.conditions[?(@.type=="Succeeded")].message}"#);
    let between_attempts = soon(|| wrong.words[..3].iter().all(|word| condition().contains(word)));
    assert!(between_attempts, "{:?} is not in {:?}\n{}", wrong.words, condition(), told());
    let debts = || run_of(space, wrong.name, r#"{.status.conditions[?(@.type=="DebtsPaid")].status}"#);
    assert!(soon(|| debts() == "True"), "{}", told());
}

fn soon(is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_rule_that_fails_says_why_leaves_nothing_and_the_right_one_makes_the_same_object_ready() {
    let space = Workspace::new(&cluster(), "rules").unwrap();
    let mut three = Three::start(&space, "e2e-rules").unwrap();
    allow_exec(&space).unwrap();
    for wrong in &WRONG {
        space.apply(&(rule(wrong.name, wrong.step) + &group(wrong.name, Some(wrong.name)))).unwrap();
    }
    for wrong in &WRONG {
        assert_fails_in_words(&space, wrong);
    }
    // Nothing is held, nothing was cut, and nothing waits to be.
    println!("longest stall of the writer beside failing rules: {:?}", three.goes_on().unwrap());
    assert_eq!(space.snapshots().unwrap(), Vec::<String>::new());
    assert_eq!(space.all_cuts().unwrap(), vec![]);
    assert!(space.shell("three-0", "wc -l < /tmp/undone").unwrap().parse::<u32>().unwrap() > 0);
    // The rule is not run again and again: pauses between attempts grow.
    let attempts: u32 = run_of(&space, "fails", "{.status.attempt}").parse().unwrap();
    assert!(attempts < 10, "{attempts} attempts\n{}", space.told("volumegroupsnapshot/fails"));

    for wrong in &WRONG {
        space.apply(&rule(wrong.name, RIGHT)).unwrap();
    }
    for wrong in &WRONG {
        wait_for_group(&space, wrong.name).unwrap();
        assert_eq!(status(&space, wrong.name, "{.status.error}"), "", "{}", wrong.name);
        assert_eq!(run_of(&space, wrong.name, "{.status.level}"), "application");
    }
    three.goes_on().unwrap();
    three.stop().unwrap();
    space.close().unwrap();
}
