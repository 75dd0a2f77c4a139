//! Group snapshots that can never succeed, and the stock sidecars around them: they cost next to nothing, keep nobody
//! else waiting, and go quickly when they are deleted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, claim, pod};

/// A class with a parameter that nobody knows. Of the cluster, not of a namespace.
const CLASS: &str = "
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshotClass
metadata: {name: hopeless}
driver: csi.stillpoint.dev
deletionPolicy: Delete
parameters: {wrong.example/parameter: 'yes'}
---
";
/// How long requests are counted.
const WINDOW: Duration = Duration::from_mins(1);
/// More than the sidecar has workers by default.
const CROWD: usize = 12;

fn group(name: &str, class: &str, annotation: &str) -> String {
    format!(
        "apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshot\n\
         metadata: {{name: {name}, annotations: {{{annotation}}}}}\nspec:\n  volumeGroupSnapshotClassName: {class}\n  \
         source: {{selector: {{matchLabels: {{app: e2e}}}}}}\n---\n"
    )
}

/// Requests that the API server has answered about snapshots, groups, Rules, RuleRuns and events.
fn requests(space: &Workspace) -> f64 {
    let metrics = space.kubectl.run(&["get", "--raw", "/metrics"]).unwrap();
    let is_ours = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && (line.contains("snapshot.storage.k8s.io\"")
                || line.contains("group=\"stillpoint.dev\"")
                || line.contains("resource=\"events\""))
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
    metrics.lines().filter(is_ours).filter_map(count).sum()
}

/// Counts after the first ten requests, or ten seconds.
fn rate(space: &Workspace, what: &str) -> f64 {
    let (begin, before) = (Instant::now(), requests(space));
    while requests(space) < before + 10.0 && begin.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(500));
    }
    let (begin, before) = (Instant::now(), requests(space));
    sleep(WINDOW);
    let rate = (requests(space) - before) / begin.elapsed().as_secs_f64();
    println!("{what}: {rate:.2} API requests a second");
    rate
}

fn said(space: &Workspace, name: &str, words: &str) {
    let object = format!("volumegroupsnapshot/{name}");
    let path = "jsonpath={.status.error.message}";
    space
        .eventually(&format!("{name} says {words:?}"), || {
            Ok(space.run(&["get", &object, "-o", path]).unwrap_or_default().contains(words))
        })
        .unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_group_that_cannot_succeed_costs_little_keeps_nobody_waiting_and_goes_with_its_namespace() {
    let space = Workspace::new(&cluster(), "hopeless").unwrap();
    let other = Workspace::new(&cluster(), "hopeful").unwrap();
    space.kubectl.run(&["delete", "volumegroupsnapshotclass/hopeless", "--ignore-not-found"]).unwrap();
    space.apply(&(CLASS.to_owned() + &claim("one", "") + &pod("one"))).unwrap();
    other.apply(&(claim("one", "") + &pod("one"))).unwrap();
    space.wait("pod/one", READY).unwrap();
    other.wait("pod/one", READY).unwrap();
    let idle = rate(&space, "nothing hopeless");

    space.apply(&group("parameter", "hopeless", "")).unwrap();
    let parameter = rate(&space, "an unknown parameter of the class");
    said(&space, "parameter", "wrong.example/parameter");
    assert!(parameter - idle < 1.0, "{parameter} requests a second, {idle} without it");
    space.run(&["delete", "volumegroupsnapshot/parameter", "--timeout=60s"]).unwrap();

    space.apply(&group("rule", "stillpoint", "stillpoint.dev/rule: no-such-rule")).unwrap();
    let rule = rate(&space, "a Rule that does not exist");
    said(&space, "rule", "no-such-rule");
    assert!(rule - idle < 1.0, "{rule} requests a second, {idle} without it");

    let crowd: String = (0..CROWD).map(|number| group(&format!("crowd-{number}"), "hopeless", "")).collect();
    space.apply(&crowd).unwrap();
    for number in 0..CROWD {
        said(&space, &format!("crowd-{number}"), "wrong.example/parameter");
    }
    other.apply(&group("good", "stillpoint", "")).unwrap();
    let ready = other.wait("volumegroupsnapshot/good", READY_TO_USE).unwrap();
    println!("a good group beside {CROWD} hopeless ones: ready after {ready:?}");

    // The annotation is removed: the group is tried at once and becomes ready.
    let begin = Instant::now();
    space.run(&["annotate", "volumegroupsnapshot/rule", "stillpoint.dev/rule-"]).unwrap();
    space.wait("volumegroupsnapshot/rule", READY_TO_USE).unwrap();
    println!("ready after its annotation was removed: {:?}", begin.elapsed());

    other.run(&["delete", "volumegroupsnapshots", "--all", "--timeout=60s"]).unwrap();
    let begin = Instant::now();
    space.kubectl.run(&["delete", "namespace", "hopeless", "--timeout=120s"]).unwrap();
    println!("namespace with {CROWD} hopeless groups gone after {:?}", begin.elapsed());
    assert!(begin.elapsed() < LIMIT);
    space.kubectl.run(&["delete", "volumegroupsnapshotclass/hopeless"]).unwrap();
    space.leave().unwrap();
    other.close().unwrap();
}
