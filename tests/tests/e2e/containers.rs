//! Which container a rule's commands run in, where an injector has put its own first.

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, allow_exec, claim, pod, rule, snapshot};

const MARK: &str = r#"{name: mark, pods: {fromVolumes: true}, before: {shell: "touch /data/marked"}}"#;

/// The pod of [`pod`] with a container in front of `main` that does not mount the volume; `annotated`: it says which is meant.
fn injected(name: &str, annotations: &str) -> String {
    let proxy = "  containers:\n  - name: proxy\n    image: busybox:stillpoint\n    imagePullPolicy: Never\n    \
                 command: [sleep, infinity]\n";
    let metadata = format!("metadata: {{name: {name}, annotations: {{{annotations}}}}}");
    pod(name).replace("  containers:\n", proxy).replace(&format!("metadata: {{name: {name}}}"), &metadata)
}

fn ruled(name: &str) -> String {
    let annotations = format!("{{name: {name}, annotations: {{stillpoint.dev/rule: mark}}}}");
    snapshot(name, name).replace(&format!("{{name: {name}}}"), &annotations) + "---\n"
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn commands_run_in_the_container_that_the_pod_names_and_nowhere_where_nobody_names_one() {
    let space = Workspace::new(&cluster(), "containers").unwrap();
    let named = injected("named", "kubectl.kubernetes.io/default-container: main");
    let manifest =
        claim("named", "") + &named + &claim("unnamed", "") + &injected("unnamed", "") + &rule("mark", MARK);
    space.apply(&manifest).unwrap();
    for pod in ["named", "unnamed"] {
        space.wait(&format!("pod/{pod}"), READY).unwrap();
    }
    allow_exec(&space).unwrap();
    space.apply(&(ruled("named") + &ruled("unnamed"))).unwrap();
    space.wait("volumesnapshot/named", READY_TO_USE).unwrap();
    space.run(&["exec", "named", "-c", "main", "--", "test", "-e", "/data/marked"]).unwrap();
    space.wait("volumesnapshot/unnamed", "jsonpath={.status.error.message}").unwrap();
    let said =
        space.run(&["get", "volumesnapshot/unnamed", "-o", "jsonpath={.status.error.message}"]).unwrap();
    for word in ["unnamed has the containers proxy, main", "`container:`", "default-container"] {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    space.run(&["annotate", "pod/unnamed", "kubectl.kubernetes.io/default-container=main"]).unwrap();
    space.wait("volumesnapshot/unnamed", READY_TO_USE).unwrap();
    space.run(&["exec", "unnamed", "-c", "main", "--", "test", "-e", "/data/marked"]).unwrap();
    space.close().unwrap();
}
