//! Device nodes that a tenant makes in his own volume: they open nothing, and they keep nobody else's volume.

use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{major, minor};
use stillpoint_tests::cluster::Place;
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, claim, pod};

/// Every loop device has this major number.
const LOOP: u64 = 7;

fn on_node(manifest: &str, node: &str) -> String {
    manifest.replacen("spec:\n", &format!("spec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n"), 1)
}

/// The tenant's pod may do what root may, so that nothing but the mount keeps it from the device.
fn tenant(name: &str, mount: &str, node: &str) -> String {
    let privileged = pod(name)
        .replace("    volumeMounts", "    securityContext: {privileged: true}\n    volumeMounts")
        .replace("{name: data, mountPath: /data}", mount)
        .replace(&format!("claimName: {name}"), "claimName: tenant");
    on_node(&privileged, node)
}

fn node_of(space: &Workspace, pod: &str) -> String {
    space.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]).unwrap()
}

fn delete_pod(space: &Workspace, pod: &str) {
    space.run(&["delete", &format!("pod/{pod}"), "--timeout=60s"]).unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_device_node_of_a_tenant_opens_nothing_and_keeps_no_other_volume() {
    let space = Workspace::new(&cluster(), "device-nodes").unwrap();
    let victim = claim("victim", "").replace("ReadWriteOnce]", "ReadWriteOncePod]");
    space.apply(&(victim + &pod("victim"))).unwrap();
    space.wait("pod/victim", READY).unwrap();
    space.shell("victim", "echo secret > /data/file; sync").unwrap();
    let node = node_of(&space, "victim");
    let device = std::fs::metadata(space.directory("victim", "victim").unwrap()).unwrap().dev();
    assert_eq!(major(device), LOOP, "the volume is a loop device");
    let (number, name) = (minor(device), format!("loop{}", minor(device)));

    // The tenant makes the victim's device node in his own volume. A pod that mounts it as a file of that volume has the
    // kubelet bind it outside of any container.
    space.apply(&(claim("tenant", "") + &tenant("tenant", "{name: data, mountPath: /data}", &node))).unwrap();
    space.wait("pod/tenant", READY).unwrap();
    space.shell("tenant", &format!("mknod /data/{name} b 7 {number} && test -b /data/{name}")).unwrap();
    let opened = space.shell("tenant", &format!("dd if=/data/{name} bs=512 count=1 of=/dev/null"));
    let refused = format!("{:#}", opened.unwrap_err());
    assert!(refused.contains("Permission denied"), "{refused}");
    space.shell("tenant", &format!("touch /tmp/{name} && mount --bind /data/{name} /tmp/{name}")).unwrap();
    space
        .apply(&tenant("pinning", &format!("{{name: data, mountPath: /mnt/{name}, subPath: {name}}}"), &node))
        .unwrap();
    space.wait("pod/pinning", READY).unwrap();
    let place = Place::nodes().find(|place| place.to_string() == node).unwrap();
    let mounts = space.on_node(place, "cat /proc/self/mountinfo").unwrap();
    let is_bound = |line: &&str| line.contains("volume-subpaths") && line.contains(&format!("/{name} "));
    assert_eq!(mounts.lines().filter(is_bound).count(), 1, "the kubelet has bound the node:\n{mounts}");

    // The only pod that may use the victim's volume can start again, on this node too.
    delete_pod(&space, "victim");
    space.apply(&on_node(&pod("victim"), &node)).unwrap();
    space.wait("pod/victim", READY).unwrap();
    assert_eq!(space.shell("victim", "cat /data/file").unwrap(), "secret");
    let volume = space.run(&["get", "pvc", "victim", "-o", "jsonpath={.spec.volumeName}"]).unwrap();
    let handle = space.kubectl.get(&["pv", &volume], "{.spec.csi.volumeHandle}").unwrap();
    delete_pod(&space, "victim");
    space.run(&["delete", "pvc/victim", "--timeout=60s"]).unwrap();
    space.kubectl.run(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=60s"]).unwrap();
    let images = space.on_node(place, "losetup --list --noheadings -O BACK-FILE").unwrap();
    assert!(!images.contains(&handle), "{handle} is still attached:\n{images}");
    assert_eq!(
        space.run(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]).unwrap(),
        "Running Running"
    );
    space.close().unwrap();
}
