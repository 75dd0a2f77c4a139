#!/bin/sh
# Makes claims from snapshots in another namespace: restore.sh FROM TO [SNAPSHOT…]; all snapshots of FROM when none
# is named. A claim gets the name of the claim that was snapshotted, so a StatefulSet of the same name takes it over.
#
# A snapshot belongs to its namespace. What crosses it is the driver's handle of the snapshot: a VolumeSnapshotContent that
# names it, made by somebody who may write such objects. Its deletion policy is Retain: the original stays the owner.
set -eu
kubectl=${KUBECTL:-kubectl}
from=$1 to=$2
shift 2
[ $# -gt 0 ] || set -- $($kubectl -n "$from" get volumesnapshots -o 'jsonpath={.items[*].metadata.name}')

for snapshot in "$@"; do
    claim=$($kubectl -n "$from" get volumesnapshot "$snapshot" -o 'jsonpath={.spec.source.persistentVolumeClaimName}')
    size=$($kubectl -n "$from" get volumesnapshot "$snapshot" -o 'jsonpath={.status.restoreSize}')
    content=$($kubectl -n "$from" get volumesnapshot "$snapshot" -o 'jsonpath={.status.boundVolumeSnapshotContentName}')
    handle=$($kubectl get volumesnapshotcontent "$content" -o 'jsonpath={.status.snapshotHandle}')
    [ -n "$claim" ] && [ -n "$handle" ] || { echo "the snapshot $from/$snapshot is not ready" >&2; exit 1; }
    echo "$from/$snapshot -> $to/$claim"
    $kubectl apply -f - <<YAML
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: $to-$claim, labels: {restored-into: $to}}
spec:
  driver: csi.stillpoint.dev
  deletionPolicy: Retain
  source: {snapshotHandle: $handle}
  volumeSnapshotRef: {namespace: $to, name: $claim}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: $claim, namespace: $to}
spec: {source: {volumeSnapshotContentName: $to-$claim}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $claim, namespace: $to}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: stillpoint
  resources: {requests: {storage: $size}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: $claim}
YAML
done
