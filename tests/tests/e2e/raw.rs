//! A group of a raw block volume and a filesystem volume, while one pod writes to both.

use stillpoint::domain::Level;
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::group::member_of;
use crate::manifests::{READY, READY_TO_USE, claim, source};

const CUTS: usize = 3;

/// A pod with the raw volume as /dev/data and the filesystem volume at /files, that runs these lines.
fn both(name: &str, raw: &str, files: &str, lines: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:stillpoint\n    imagePullPolicy: Never\n    command: [sh, -c, {lines:?}]\n    \
         volumeDevices: [{{name: raw, devicePath: /dev/data}}]\n    \
         volumeMounts: [{{name: files, mountPath: /files}}]\n  volumes:\n  \
         - {{name: raw, persistentVolumeClaim: {{claimName: {raw}}}}}\n  \
         - {{name: files, persistentVolumeClaim: {{claimName: {files}}}}}\n---\n"
    )
}

const BLOCK: &str = "  volumeMode: Block\n";

/// Number n is on the raw device, durably, before it is in the file, and in the file before n + 1 is on the device. The
/// shell keeps the device open, as a database does.
const WRITE: &str = "exec 3<>/dev/data; n=0; while :; do n=$((n+1)); \
     e=$(printf %-4096s $n | dd of=/dev/data bs=4096 iflag=fullblock oflag=direct conv=notrunc 2>&1) || break; \
     e=$(printf %-16s $n | dd of=/files/number conv=notrunc,fsync 2>&1) || break; done; echo $e; exit 1";
const SLEEP: &str = "exec sleep infinity";

fn group(name: &str) -> String {
    format!(
        "apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshot\nmetadata: {{name: {name}}}\nspec:\n  \
         volumeGroupSnapshotClassName: stillpoint\n  source: {{selector: {{matchLabels: {{app: e2e}}}}}}\n---\n"
    )
}

fn numbers(space: &Workspace, pod: &str) -> (u64, u64) {
    let read = |line: &str| -> u64 {
        let text = space.shell(pod, line).unwrap();
        text.trim().parse().unwrap_or_else(|_| panic!("{pod}: {line}: {text:?}"))
    };
    (read("dd if=/dev/data bs=4096 count=1 iflag=direct 2>/dev/null"), read("cat /files/number"))
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_raw_device_and_a_filesystem_that_one_pod_writes_in_turn_are_cut_at_one_instant() {
    let space = Workspace::new(&cluster(), "raw-group").unwrap();
    space
        .apply(&(claim("raw", BLOCK) + &claim("files", "") + &both("writer", "raw", "files", WRITE)))
        .unwrap();
    space.wait("pod/writer", READY).unwrap();
    let has_written = || space.shell("writer", "[ -s /files/number ] && echo yes || echo no");
    space.eventually("the writer writes", || Ok(has_written()? == "yes")).unwrap();

    let names: Vec<String> = (0..CUTS).map(|number| format!("cut-{number}")).collect();
    let mut acknowledged = Vec::new();
    for name in &names {
        // The number in the file may not be synced yet; the one before it is, in the file and on the device.
        acknowledged.push(numbers(&space, "writer").1.saturating_sub(1));
        space.apply(&group(name)).unwrap();
        space.wait(&format!("volumegroupsnapshot/{name}"), READY_TO_USE).unwrap();
    }
    let levels: Vec<Level> = space.all_cuts().unwrap().iter().map(|cut| cut.level).collect();
    assert_eq!(
        levels,
        [Level::Group; CUTS],
        "writers of a raw device are held, and its filesystem is not known"
    );

    let mut last = 0;
    for (name, acknowledged) in names.iter().zip(acknowledged) {
        let member = |claim: &str| member_of(&space, name, claim).unwrap();
        let (raw, files) = (format!("{name}-raw"), format!("{name}-files"));
        let restored = claim(&raw, &(BLOCK.to_owned() + &source("VolumeSnapshot", &member("raw"))))
            + &claim(&files, &source("VolumeSnapshot", &member("files")))
            + &both(name, &raw, &files, SLEEP);
        // Restored claims are no members of the next group.
        space.apply(&restored.replace("labels: {app: e2e}", "labels: {app: restored}")).unwrap();
        space.wait(&format!("pod/{name}"), READY).unwrap();
        let (device, file) = numbers(&space, name);
        println!("{name}: {device} on the raw device, {file} in the file");
        assert!(device == file || device == file + 1, "{name}: {device} and {file} are not of one instant");
        assert!(file > last, "{name}: the writer stood still at {file}");
        assert!(
            file >= acknowledged,
            "{name} has {file}, and {acknowledged} was written before it was asked for"
        );
        last = file;
    }
    let now = numbers(&space, "writer").1;
    assert!(now > last, "the writer has stood still since the last cut, at {now}");
    space.close().unwrap();
}
