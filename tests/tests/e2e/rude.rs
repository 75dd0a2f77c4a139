//! What people do to a cluster without bad intentions.

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, allow_exec, claim, pod, rule, snapshot};
use crate::three::{NAMES, group, start_pods, wait_for_group};

/// Runs until the file is there, so that a test can do something meanwhile.
const WAITS: &str = r#"{name: waits, pods: {selector: {matchLabels: {app: three}}}, before: {shell: "touch /tmp/began; while ! [ -e /tmp/go ]; do sleep 0.1; done", timeout: 20s}, after: {shell: "echo paid >> /tmp/paid"}}"#;
const SNAPSHOTS: usize = 20;

fn wait_until_begun(space: &Workspace) {
    for pod in NAMES {
        let begun = || Ok(space.shell(pod, "[ -e /tmp/began ] && echo yes || echo no")? == "yes");
        space.eventually("each pod has begun", begun).unwrap();
    }
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_group_of_nothing_or_of_an_unbound_claim_says_so_and_becomes_ready_when_there_is_something() {
    let space = Workspace::new(&cluster(), "nothing").unwrap();
    let object = "volumegroupsnapshot/none";
    space.apply(&group("none", None)).unwrap();
    space.wait(object, "jsonpath={.status.error.message}").unwrap();
    let said = || space.run(&["get", object, "-o", "jsonpath={.status.error.message}"]).unwrap();
    println!("no claim: {}", said());
    // A claim that nobody uses is not bound yet.
    let labelled = claim("one", "").replace("app: e2e", "app: three");
    space.apply(&labelled).unwrap();
    space.eventually("an unbound claim is told", || Ok(said().contains("not yet bound"))).unwrap();
    println!("unbound claim: {}", said());
    space.apply(&pod("one")).unwrap();
    space.wait("pod/one", READY).unwrap();
    space.wait(object, READY_TO_USE).unwrap();
    assert_eq!(said(), "", "{}", space.told(object));
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn two_groups_over_the_same_volumes_and_twenty_snapshots_of_one_claim_all_become_ready() {
    let space = Workspace::new(&cluster(), "crowd").unwrap();
    start_pods(&space).unwrap();
    let singles =
        (0..SNAPSHOTS).map(|number| snapshot(&format!("single-{number}"), "data-three-1") + "---\n");
    space.apply(&(group("left", None) + &group("right", None) + &singles.collect::<String>())).unwrap();
    for name in ["left", "right"] {
        wait_for_group(&space, name).unwrap();
    }
    for number in 0..SNAPSHOTS {
        space.wait(&format!("volumesnapshot/single-{number}"), READY_TO_USE).unwrap();
    }
    let errors = space
        .run(&[
            "get",
            "volumesnapshots,volumegroupsnapshots",
            "-o",
            "jsonpath={.items[*].status.error.message}",
        ])
        .unwrap();
    assert_eq!(errors, "", "an error stayed");
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_group_that_is_deleted_while_it_is_made_leaves_nothing_and_owes_nothing() {
    let space = Workspace::new(&cluster(), "regret").unwrap();
    start_pods(&space).unwrap();
    allow_exec(&space).unwrap();
    space.apply(&(rule("waits", WAITS) + &group("regretted", Some("waits")))).unwrap();
    wait_until_begun(&space);
    space.run(&["delete", "volumegroupsnapshot/regretted", "--wait=false"]).unwrap();
    for pod in NAMES {
        space.shell(pod, "touch /tmp/go").unwrap();
    }
    space.wait("volumegroupsnapshot/regretted", "delete").unwrap();
    for pod in NAMES {
        space
            .eventually("paid", || Ok(space.shell(pod, "cat /tmp/paid 2>/dev/null || true")? == "paid"))
            .unwrap();
    }
    space
        .eventually("no snapshot is left", || {
            Ok(space.snapshots()?.is_empty() && space.all_cuts()?.is_empty())
        })
        .unwrap();
    // And the volumes can be taken again.
    space.apply(&group("again", None)).unwrap();
    wait_for_group(&space, "again").unwrap();
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_namespace_that_is_deleted_while_a_rule_runs_goes_and_others_are_served() {
    let space = Workspace::new(&cluster(), "doomed").unwrap();
    let other = Workspace::new(&cluster(), "neighbour").unwrap();
    start_pods(&space).unwrap();
    allow_exec(&space).unwrap();
    space.apply(&(rule("waits", WAITS) + &group("going", Some("waits")))).unwrap();
    wait_until_begun(&space);
    space.kubectl.run(&["delete", "namespace", "doomed", "--wait=false"]).unwrap();
    other.apply(&(claim("one", "") + &pod("one") + &snapshot("taken", "one"))).unwrap();
    other.wait("volumesnapshot/taken", READY_TO_USE).unwrap();
    other.run(&["delete", "volumesnapshot/taken", "pod/one", "pvc/one", "--timeout=60s"]).unwrap();
    space.close().unwrap();
    other.close().unwrap();
}
