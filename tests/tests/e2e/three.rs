//! Three pods on three nodes with a volume each, and the causal ledger that one writer keeps over them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};
use stillpoint_tests::harness::{RunDir, binaries};
use stillpoint_tests::workloads::ledger::{self, Audit, Ledger};

use crate::group::member_of;
use crate::manifests::{READY, READY_TO_USE, claim, pod, source};

const PODS: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: three}
spec:
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: three}}
  template:
    metadata: {labels: {app: three}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: three}}}
      containers:
      - name: main
        image: busybox:stillpoint
        imagePullPolicy: Never
        command: [sleep, infinity]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data, labels: {app: three}}
    spec: {accessModes: [ReadWriteOnce], storageClassName: stillpoint, resources: {requests: {storage: 300Mi}}}
";

/// The pods, on as many nodes.
pub const NAMES: [&str; 3] = ["three-0", "three-1", "three-2"];

/// Makes the pods and waits until they run.
pub fn start_pods(space: &Workspace) -> Result<()> {
    space.apply(PODS)?;
    for pod in NAMES {
        space.wait(&format!("pod/{pod}"), "create")?;
        space.wait(&format!("pod/{pod}"), READY)?;
    }
    Ok(())
}

/// A writer over the volumes of the three pods. Dropping it ends the writer.
pub struct Three {
    pub ledger: Ledger,
    run: RunDir,
}

impl Three {
    /// Makes the pods and begins to write.
    pub fn start(space: &Workspace, label: &str) -> Result<Self> {
        start_pods(space)?;
        let mut directories: [PathBuf; 3] = std::array::from_fn(|_| PathBuf::new());
        for (directory, pod) in directories.iter_mut().zip(NAMES) {
            *directory = space.directory(pod, &format!("data-{pod}"))?;
        }
        let run = RunDir::new(label)?;
        let program = binaries::binary("stillpoint-demo")?;
        Ok(Self { ledger: Ledger::start(&program, &directories, run.path())?, run })
    }

    /// Asks for a group snapshot of the three volumes.
    pub fn ask(&mut self, space: &Workspace, name: &str, rule: Option<&str>) -> Result<Asked> {
        let acknowledged = self.ledger.mark()?.written;
        space.apply(&group(name, rule))?;
        Ok(Asked { name: name.into(), acknowledged })
    }

    /// Ends the writer; the volumes are free again.
    pub fn stop(self) -> Result<()> {
        self.ledger.stop()?;
        let left = self.run.close();
        ensure!(left.is_clean(), "the writer left {left:?}");
        Ok(())
    }

    /// Proves that the writer goes on, on all three volumes; the longest time that it stood still since the last
    /// look.
    pub fn goes_on(&mut self) -> Result<Duration> {
        let begun = self.ledger.mark()?;
        let (mut longest, end) = (begun.longest, Instant::now() + LIMIT);
        loop {
            let now = self.ledger.mark()?;
            longest = longest.max(now.longest);
            if now.written >= begun.written + 3 {
                return Ok(longest);
            }
            ensure!(Instant::now() < end, "the writer stands still since {begun:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A group snapshot that was asked for, and what must be in it.
pub struct Asked {
    /// Its name.
    pub name: String,
    /// The ledger's last number that was on all three volumes before.
    pub acknowledged: u64,
}

/// A group snapshot of the three volumes; `rule` is the annotation.
pub fn group(name: &str, rule: Option<&str>) -> String {
    let rule = rule.map_or(String::new(), |rule| format!(", annotations: {{stillpoint.dev/rule: {rule}}}"));
    format!(
        "apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshot\nmetadata: {{name: {name}{rule}}}\nspec:\n  \
         volumeGroupSnapshotClassName: stillpoint\n  source: {{selector: {{matchLabels: {{app: three}}}}}}\n---\n"
    )
}

/// Waits until a group and all its members are ready.
pub fn wait_for_group(space: &Workspace, name: &str) -> Result<()> {
    space.wait(&format!("volumegroupsnapshot/{name}"), READY_TO_USE)?;
    for member in members(space, name)? {
        space.wait(&format!("volumesnapshot/{member}"), READY_TO_USE)?;
    }
    Ok(())
}

/// The snapshots of a group, in the order of the pods.
pub fn members(space: &Workspace, name: &str) -> Result<[String; 3]> {
    let mut found: [String; 3] = std::array::from_fn(|_| String::new());
    for (member, pod) in found.iter_mut().zip(NAMES) {
        *member = member_of(space, name, &format!("data-{pod}"))?;
    }
    Ok(found)
}

/// Restores groups, all at once, and compares what is in them.
pub fn restore_and_audit(space: &Workspace, groups: &[Asked]) -> Result<Vec<Audit>> {
    let mut manifest = String::new();
    for Asked { name: group, .. } in groups {
        for (index, member) in members(space, group)?.iter().enumerate() {
            let name = format!("{group}-{index}");
            manifest += &claim(&name, &source("VolumeSnapshot", member)).replace("1Gi", "300Mi");
            manifest += &pod(&name);
        }
    }
    space.apply(&manifest)?;
    let audit = |Asked { name: group, acknowledged }: &Asked| {
        let mut readings: [ledger::Reading; 3] = std::array::from_fn(|_| ledger::Reading::default());
        for (index, reading) in readings.iter_mut().enumerate() {
            let name = format!("{group}-{index}");
            space.wait(&format!("pod/{name}"), READY)?;
            *reading = ledger::read(&space.directory(&name, &name)?)?;
        }
        Ok(ledger::audit(&readings, *acknowledged))
    };
    groups.iter().map(audit).collect()
}
