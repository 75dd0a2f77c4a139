//! What tests see below Kubernetes: volumes of pods as directories of this machine, and what pools hold.

use std::path::PathBuf;

use anyhow::{Context, Result};
use stillpoint::domain::record::CutRecord;

use super::workspace::{POOL, Workspace};
use super::{Place, place};

impl Workspace {
    /// The volume of a claim as a pod of this namespace has it mounted: a directory that this machine can reach
    /// through the mount namespace of the node.
    pub fn directory(&self, pod: &str, claim: &str) -> Result<PathBuf> {
        let pod_facts = self.run(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid} {.spec.nodeName}"])?;
        let (uid, node_name) =
            pod_facts.trim().split_once(' ').with_context(|| format!("{pod} has no node"))?;
        let volume = self.run(&["get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}"])?;
        let node = Place::nodes().find(|node| node.to_string() == node_name);
        let node = node.with_context(|| format!("{pod} is on {node_name:?}"))?;
        let holder = place::holder(&self.layout, node).with_context(|| format!("{node} is gone"))?;
        Ok(PathBuf::from(format!(
            "/proc/{holder}/root/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount"
        )))
    }

    /// Records of cuts in the pools of all nodes, sealed or not.
    pub fn all_cuts(&self) -> Result<Vec<CutRecord>> {
        let cuts = Place::nodes().map(|node| self.cuts(node)).collect::<Result<Vec<_>>>()?;
        Ok(cuts.into_iter().flatten().collect())
    }

    /// Paths of snapshots in the pools of all nodes, whole or half made.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        let found = self.in_pools("find snapshots -mindepth 2 -maxdepth 2")?;
        Ok(found.iter().flat_map(|text| text.lines()).map(str::to_owned).collect())
    }

    fn in_pools(&self, script: &str) -> Result<Vec<String>> {
        Place::nodes().map(|node| self.on_node(node, &format!("cd {POOL}; {script}"))).collect()
    }
}
