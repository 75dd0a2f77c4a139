//! Objects that several tests apply.

use stillpoint_tests::cluster::workspace::Workspace;

/// A claim of 1 GiB; `extra` are further lines of its spec.
pub fn claim(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}, labels: {{app: e2e}}}}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: stillpoint\n  \
         resources: {{requests: {{storage: 1Gi}}}}\n{extra}---\n"
    )
}

/// What a claim is filled from, as its `extra`.
pub fn source(kind: &str, name: &str) -> String {
    let group = if kind == "VolumeSnapshot" { "apiGroup: snapshot.storage.k8s.io, " } else { "" };
    format!("  dataSource: {{{group}kind: {kind}, name: {name}}}\n")
}

/// A pod that mounts the claim of its own name at /data.
pub fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:stillpoint\n    imagePullPolicy: Never\n    command: [sleep, infinity]\n    \
         volumeMounts: [{{name: data, mountPath: /data}}]\n  \
         volumes: [{{name: data, persistentVolumeClaim: {{claimName: {name}}}}}]\n---\n"
    )
}

/// A pod that has the claim of its own name as /dev/data.
pub fn block_pod(name: &str) -> String {
    pod(name).replace(
        "volumeMounts: [{name: data, mountPath: /data}]",
        "volumeDevices: [{name: data, devicePath: /dev/data}]",
    )
}

/// A snapshot of a claim.
pub fn snapshot(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: {name}}}\nspec:\n  \
         volumeSnapshotClassName: stillpoint\n  source: {{persistentVolumeClaimName: {claim}}}\n"
    )
}

/// A pod runs.
pub const READY: &str = "condition=Ready";
/// A snapshot or a group of them can be restored.
pub const READY_TO_USE: &str = "jsonpath={.status.readyToUse}=true";

/// Three pods on three nodes, each with two volumes.
pub const SPREAD: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: spread}
spec:
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: spread}}}
      containers:
      - name: main
        image: busybox:stillpoint
        imagePullPolicy: Never
        command: [sleep, infinity]
        volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]
  volumeClaimTemplates:
  - metadata: {name: a, labels: {group: spread}}
    spec: {accessModes: [ReadWriteOnce], storageClassName: stillpoint, resources: {requests: {storage: 1Gi}}}
  - metadata: {name: b, labels: {group: spread}}
    spec: {accessModes: [ReadWriteOnce], storageClassName: stillpoint, resources: {requests: {storage: 1Gi}}}
";

/// A group snapshot of the claims of [`SPREAD`].
pub const GROUP: &str = "
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: all}
spec:
  volumeGroupSnapshotClassName: stillpoint
  source: {selector: {matchLabels: {group: spread}}}
";

/// A rule of one step.
pub fn rule(name: &str, step: &str) -> String {
    format!(
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {{name: {name}}}\nspec: {{steps: [{step}]}}\n---\n"
    )
}

/// Lets the engine run commands in pods of the test's namespace, by the command that its messages name.
pub fn allow_exec(space: &Workspace) -> anyhow::Result<()> {
    let account = "--serviceaccount=stillpoint-system:stillpoint-controller";
    space.run(&["create", "rolebinding", "stillpoint-exec", "--clusterrole=stillpoint-exec", account])?;
    Ok(())
}
