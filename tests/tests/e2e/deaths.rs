//! Controller and agents that die in the middle of a group. Writers go on within the deadline, a group is whole or gone,
//! and the sidecar's next attempt makes the same object ready.
//!
//! The hold is reached in three steps, so that no time has to be guessed: a session of the rule keeps the round
//! prepared; then the agent of one node is stopped; then the session lets the round go on. The other nodes hold now, and
//! wait for the stopped one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use stillpoint::domain::record::CutState;
use stillpoint_tests::cluster::system::{self, ContainerProcess, NAMESPACE, Setting};
use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};

use crate::cluster;
use crate::manifests::{allow_exec, rule};
use crate::three::{Asked, NAMES, Three, restore_and_audit, wait_for_group};

/// Longer than the default, so that a hold can be met; the guards' limit stays.
const SOFT_LIMIT_MS: &str = "9000";
/// The guards' default.
const HARD_LIMIT: Duration = Duration::from_secs(10);

const GATE: &str = r#"{name: gate, pods: {selector: {matchLabels: {app: three}}, pick: one}, hold: {shell: "touch /tmp/taken; while ! [ -e /tmp/go ]; do sleep 0.1; done; echo held; cat", ready: held, limit: 60s}}"#;
const OWING: &str = r#"{name: owing, pods: {selector: {matchLabels: {app: three}}}, before: {shell: "echo began >> /tmp/began; while ! [ -e /tmp/done ]; do sleep 0.1; done", timeout: 60s}, after: {shell: "echo paid >> /tmp/paid"}}"#;

fn is_there(space: &Workspace, pod: &str, file: &str) -> Result<bool> {
    Ok(space.shell(pod, &format!("[ -e {file} ] && echo yes || echo no"))? == "yes")
}

fn node_of(space: &Workspace, pod: &str) -> Result<String> {
    space.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"])
}

/// The agent on the node of a pod.
fn agent(space: &Workspace, pod: &str) -> Result<ContainerProcess> {
    ContainerProcess::of(space.layout(), &space.kubectl, "agent", Some(&node_of(space, pod)?))
}

/// Brings a group to where two nodes hold and the third is awaited. Dropping what is given back lets the third go on.
fn hold(space: &Workspace, three: &mut Three, name: &str) -> Result<(ContainerProcess, Asked)> {
    space.shell(NAMES[0], "rm -f /tmp/go /tmp/taken")?;
    let asked = three.ask(space, name, Some("gate"))?;
    space.eventually("sessions are taken", || is_there(space, NAMES[0], "/tmp/taken"))?;
    let awaited = agent(space, NAMES[2])?;
    awaited.signal(Signal::SIGSTOP)?;
    three.ledger.mark()?;
    space.shell(NAMES[0], "touch /tmp/go")?;
    let end = Instant::now() + LIMIT;
    let (mut last, mut since) = (three.ledger.mark()?.written, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        ensure!(
            Instant::now() < end,
            "nothing is held\n{}",
            space.told(&format!("volumegroupsnapshot/{name}"))
        );
        std::thread::sleep(Duration::from_millis(20));
        let now = three.ledger.mark()?.written;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok((awaited, asked))
}

/// The writer goes on, and never stood still for longer than the guards' limit.
fn assert_goes_on(three: &mut Three, what: &str) {
    let stall = three.goes_on().unwrap();
    println!("{what}: longest stall of the writer {stall:?}");
    assert!(stall <= HARD_LIMIT + Duration::from_secs(1), "{what}: {stall:?}");
}

/// On every node one sealed record of each group, and nothing else.
fn assert_whole(space: &Workspace, groups: usize) {
    let cuts = space.all_cuts().unwrap();
    assert!(cuts.iter().all(|cut| cut.state == CutState::Sealed), "{cuts:?}");
    assert_eq!((cuts.len(), space.snapshots().unwrap().len()), (3 * groups, 3 * groups));
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn whoever_dies_during_a_hold_writers_go_on_and_the_same_object_becomes_ready() {
    let space = Workspace::new(&cluster(), "deaths").unwrap();
    let mut three = Three::start(&space, "e2e-deaths").unwrap();
    allow_exec(&space).unwrap();
    let _longer = Setting::new(&space.kubectl, "STILLPOINT_SOFT_LIMIT_MS", SOFT_LIMIT_MS).unwrap();
    space.apply(&(rule("gate", GATE) + &rule("owing", OWING))).unwrap();
    let delete = |component, node: Option<&str>| {
        let pod = system::pod(&space.kubectl, component, node).unwrap();
        space.kubectl.run(&["-n", NAMESPACE, "delete", "pod", &pod, "--wait=false"]).unwrap();
    };

    let (awaited, controller_deleted) = hold(&space, &mut three, "controller-deleted").unwrap();
    delete("controller", None);
    assert_goes_on(&mut three, "controller's pod deleted");
    drop(awaited);
    wait_for_group(&space, "controller-deleted").unwrap();
    assert_whole(&space, 1);

    let (awaited, agent_deleted) = hold(&space, &mut three, "agent-deleted").unwrap();
    delete("agent", Some(&node_of(&space, NAMES[0]).unwrap()));
    assert_goes_on(&mut three, "agent's pod deleted");
    drop(awaited);
    system::wait_for_agents(&space.kubectl).unwrap();
    wait_for_group(&space, "agent-deleted").unwrap();
    assert_whole(&space, 2);

    // One controller that is killed with a hold of one group, and in the middle of a `before` of another.
    let owed = three.ask(&space, "owed", Some("owing")).unwrap();
    for pod in NAMES {
        space.eventually("each pod has begun", || is_there(&space, pod, "/tmp/began")).unwrap();
    }
    let (awaited, controller_killed) = hold(&space, &mut three, "controller-killed").unwrap();
    let controller = ContainerProcess::of(space.layout(), &space.kubectl, "controller", None).unwrap();
    controller.signal(Signal::SIGKILL).unwrap();
    assert_goes_on(&mut three, "controller killed");
    drop(awaited);
    let lines = |pod: &str, file: &str| -> u32 {
        space.shell(pod, &format!("cat {file} 2>/dev/null | wc -l")).unwrap().parse().unwrap()
    };
    // What the killed one owed is paid before anything is begun anew.
    for pod in NAMES {
        space.eventually("the debt is paid", || Ok(lines(pod, "/tmp/paid") > 0)).unwrap();
        space.shell(pod, "touch /tmp/done").unwrap();
    }
    for name in ["controller-killed", "owed"] {
        wait_for_group(&space, name).unwrap();
    }
    for pod in NAMES {
        assert_eq!(
            lines(pod, "/tmp/paid"),
            lines(pod, "/tmp/began"),
            "{pod}: every `before` has its `after`"
        );
    }
    assert_whole(&space, 4);
    let groups = [controller_deleted, agent_deleted, controller_killed, owed];
    for (group, audit) in groups.iter().zip(restore_and_audit(&space, &groups).unwrap()) {
        println!("{}: {audit}", group.name);
        assert!(audit.is_consistent(), "{}: {audit}", group.name);
    }
    three.stop().unwrap();
    space.close().unwrap();
}
