//! Another Stillpoint into a cluster that is up, while pods have volumes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use stillpoint_tests::cluster::workspace::Workspace;
use stillpoint_tests::harness::binaries;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, claim, pod, snapshot, source};

/// Writes a line with a number ten times a second and makes it durable each time.
const WRITER: &str =
    "n=0; while n=$((n+1)); do echo $n >> /data/log; sync /data/log; sleep 0.1; done >/dev/null 2>&1 &";

/// Brings the cluster up with these binaries; what it printed.
fn up(binaries_of: &Path) -> String {
    let program = binaries::binary("stillpoint-cluster").unwrap();
    let output = Command::new(program)
        .args(["up", "--binaries"])
        .arg(binaries_of)
        .env("CLUSTER", cluster())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Our pods, by the names that only one pod ever has.
fn own_pods(space: &Workspace) -> BTreeSet<String> {
    let args = ["-n", "stillpoint-system", "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"];
    space.kubectl.run(&args).unwrap().split(' ').map(str::to_owned).collect()
}

/// Runs what `up` tells people to try, as it is printed, but for the one that takes the cluster down.
fn try_what_is_printed(printed: &str) {
    let commands: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with("make "))
        .collect();
    assert_eq!(commands.len(), 3, "{printed}");
    let root = binaries::source_directory().join("..");
    for command in commands {
        let is_last = command.starts_with("make cluster-down");
        let line = if is_last { command.replacen("make", "make -n", 1) } else { command.to_owned() };
        // As somebody who has set nothing.
        let output = Command::new("sh").args(["-c", &line]).env_remove("CLUSTER").current_dir(&root).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
        let expected = if is_last { "down" } else { "stillpoint" };
        assert!(said.contains(expected), "{line} printed: {said}");
    }
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_new_image_replaces_every_pod_of_ours_and_volumes_in_use_stay_usable() {
    let space = Workspace::new(&cluster(), "upkeep").unwrap();
    space.apply(&(claim("kept", "") + &pod("kept"))).unwrap();
    space.wait("pod/kept", READY).unwrap();
    space.shell("kept", WRITER).unwrap();
    let count = || -> u64 { space.shell("kept", "wc -l < /data/log").unwrap().parse().unwrap() };

    // The same programs, one byte longer: another image.
    let other = tempfile::tempdir().unwrap();
    for name in ["stillpoint", "stillpoint-guard"] {
        let mut program = std::fs::read(binaries::binary(name).unwrap()).unwrap();
        program.push(0);
        let copy = other.path().join(name);
        std::fs::write(&copy, program).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&copy, executable).unwrap();
    }
    let (before, written) = (own_pods(&space), count());
    let printed = up(other.path());
    let after = own_pods(&space);
    assert_eq!((before.len(), after.len()), (7, 7), "a controller, three agents, three guards");
    assert!(before.is_disjoint(&after), "every pod is another one");
    up(other.path());
    assert_eq!(own_pods(&space), after, "the same image replaces nothing");
    try_what_is_printed(&printed);

    assert!(count() > written, "the writer went on");
    let unbroken = "awk '$1 != NR {bad = 1} END {exit bad}' /data/log";
    space.shell("kept", unbroken).unwrap();
    space.apply(&snapshot("taken", "kept")).unwrap();
    space.wait("volumesnapshot/taken", READY_TO_USE).unwrap();
    space.apply(&(claim("restored", &source("VolumeSnapshot", "taken")) + &pod("restored"))).unwrap();
    space.wait("pod/restored", READY).unwrap();
    // The last line may be half written at the instant of the cut.
    let restored =
        space.shell("restored", "sed '$d' /data/log | awk '$1 != NR {exit 1} END {print NR}'").unwrap();
    assert!(restored.parse::<u64>().unwrap() >= written, "{restored} of at least {written} lines");
    space.close().unwrap();
}
