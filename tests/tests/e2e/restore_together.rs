//! Restored members of a group from three nodes, used by one pod; and a single restore, which stays with its source.

use anyhow::{Result, ensure};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::manifests::{READY, claim, pod, source};
use crate::three::{NAMES, group, members, start_pods, wait_for_group};

/// A pod that mounts these claims.
fn pod_with(name: &str, claims: &[String]) -> String {
    let mounts = claims.iter().map(|claim| format!("{{name: {claim}, mountPath: /{claim}}}"));
    let volumes = claims
        .iter()
        .map(|claim| format!("{{name: {claim}, persistentVolumeClaim: {{claimName: {claim}}}}}"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:stillpoint\n    imagePullPolicy: Never\n    command: [sleep, infinity]\n    \
         volumeMounts: [{}]\n  volumes: [{}]\n---\n",
        mounts.collect::<Vec<_>>().join(", "),
        volumes.collect::<Vec<_>>().join(", ")
    )
}

fn node_of(space: &Workspace, pod: &str) -> Result<String> {
    space.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"])
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn members_of_a_group_from_three_nodes_are_restored_into_one_pod() -> Result<()> {
    let space = Workspace::new(&crate::cluster(), "restore-together")?;
    start_pods(&space)?;
    let mut nodes = Vec::new();
    for name in NAMES {
        nodes.push(node_of(&space, name)?);
        space.shell(name, &format!("echo {name} > /data/whose; sync"))?;
    }
    nodes.sort();
    nodes.dedup();
    ensure!(nodes.len() == 3, "the pods are on {nodes:?}");
    space.apply(&group("all", None))?;
    wait_for_group(&space, "all")?;

    let members = members(&space, "all")?;
    let claims: Vec<String> = (0..3).map(|index| format!("restored-{index}")).collect();
    let mut manifest = String::new();
    for (name, member) in claims.iter().zip(&members) {
        manifest += &claim(name, &source("VolumeSnapshot", member)).replace("1Gi", "300Mi");
    }
    space.apply(&(manifest + &pod_with("together", &claims)))?;
    space.wait("pod/together", READY)?;
    for (claim, name) in claims.iter().zip(NAMES) {
        let whose = space.shell("together", &format!("cat /{claim}/whose"))?;
        ensure!(whose.trim() == name, "{claim} has the data of {whose:?}");
    }

    // One restored claim stays where its data is.
    for (member, name) in members.iter().zip(NAMES) {
        let alone = format!("alone-{name}");
        let claim = claim(&alone, &source("VolumeSnapshot", member)).replace("1Gi", "300Mi");
        space.apply(&(claim + &pod(&alone)))?;
        space.wait(&format!("pod/{alone}"), READY)?;
        let (restored, original) = (node_of(&space, &alone)?, node_of(&space, name)?);
        ensure!(restored == original, "{alone} runs on {restored}, its source was on {original}");
    }
    space.close()
}
