//! The scheduler places pods by CSIStorageCapacity objects, which csi-provisioner writes for each node and class.

use std::time::{Duration, Instant};

use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};

use crate::cluster;
use crate::manifests::{claim, pod};

const CLASSES: usize = 4;
/// A safety limit that the provisioner's defaults miss: with them it writes one object a second.
const SOON: Duration = Duration::from_secs(10);

/// Of the cluster, not of a namespace.
fn class(number: usize) -> String {
    format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: new-{number}}}\n\
         provisioner: csi.stillpoint.dev\nvolumeBindingMode: WaitForFirstConsumer\n---\n"
    )
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_pod_of_a_new_class_is_scheduled_soon() {
    let space = Workspace::new(&cluster(), "capacity").unwrap();
    let names: Vec<String> = (0..CLASSES).map(|number| format!("new-{number}")).collect();
    let delete: Vec<&str> = ["delete", "storageclass", "--ignore-not-found"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    space.kubectl.run(&delete).unwrap();
    let objects: String = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let claim =
                claim(name, "").replace("storageClassName: stillpoint", &format!("storageClassName: {name}"));
            class(number) + &claim + &pod(name)
        })
        .collect();
    let begin = Instant::now();
    space.apply(&objects).unwrap();
    let scheduled = || -> usize {
        let nodes = "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}";
        space.run(&["get", "pods", "-o", nodes]).unwrap().lines().filter(|line| !line.is_empty()).count()
    };
    let mut first = None;
    loop {
        let count = scheduled();
        if count > 0 {
            first.get_or_insert_with(|| begin.elapsed());
        }
        if count == CLASSES {
            break;
        }
        assert!(
            begin.elapsed() < LIMIT,
            "{count} of {CLASSES} pods are scheduled\n{}",
            space.told("pod/new-0")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let last = begin.elapsed();
    println!(
        "pods of {CLASSES} new classes, made together with them: first scheduled {first:?}, last {last:?}"
    );
    space.run(&["delete", "pods,pvc", "--all", "--timeout=60s"]).unwrap();
    space.kubectl.run(&delete).unwrap();
    space.close().unwrap();
    assert!(last < SOON, "{last:?}: csi-provisioner writes CSIStorageCapacity too slowly");
}
