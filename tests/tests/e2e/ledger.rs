//! The causal ledger over volumes of three nodes: the check that a group is of one instant, and that the check can fail.

use stillpoint::domain::Level;
use stillpoint_tests::cluster::system::Setting;
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::three::{Asked, Three, restore_and_audit, wait_for_group};

const CUTS: usize = 10;
const CUTS_WITHOUT: usize = 2;

fn take(space: &Workspace, three: &mut Three, name: &str) -> Asked {
    let asked = three.ask(space, name, None).unwrap();
    wait_for_group(space, name).unwrap();
    let stall = three.goes_on().unwrap();
    println!("{name}: longest stall of the writer {stall:?}");
    asked
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_ledger_over_three_nodes_keeps_its_order_in_ten_groups_and_not_without_the_barrier() {
    let space = Workspace::new(&cluster(), "ledger").unwrap();
    let mut three = Three::start(&space, "e2e-ledger").unwrap();
    let groups: Vec<Asked> =
        (0..CUTS).map(|number| take(&space, &mut three, &format!("cut-{number}"))).collect();
    for (group, audit) in groups.iter().zip(restore_and_audit(&space, &groups).unwrap()) {
        println!("{}: {audit}", group.name);
        assert!(audit.is_consistent(), "{}: {audit}", group.name);
    }

    let off = Setting::new(&space.kubectl, "STILLPOINT_TEST_BARRIER", "off").unwrap();
    let groups: Vec<Asked> =
        (0..CUTS_WITHOUT).map(|number| take(&space, &mut three, &format!("without-{number}"))).collect();
    drop(off);
    let audits = restore_and_audit(&space, &groups).unwrap();
    for (group, audit) in groups.iter().zip(&audits) {
        println!("{}: {audit}", group.name);
    }
    assert!(audits.iter().any(|audit| !audit.is_consistent()), "the check cannot fail: {audits:?}");
    let levels: Vec<Level> = space.all_cuts().unwrap().iter().map(|cut| cut.level).collect();
    // A record on each of three nodes.
    let of = |level: Level| levels.iter().filter(|one| **one == level).count();
    assert_eq!((of(Level::Filesystem), of(Level::Crash)), (3 * CUTS, 3 * CUTS_WITHOUT), "{levels:?}");
    three.stop().unwrap();
    space.close().unwrap();
}
