//! What a cluster has besides Kubernetes: the snapshot CRDs and the snapshot controller.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::layout::NODES;
use super::{Kubectl, Layout};
use crate::harness::binaries;

/// How long the API server may take to serve a new kind, and a pod to run.
const LIMIT: Duration = Duration::from_mins(2);
const NAMESPACE: &str = "stillpoint-system";
const DRIVER: &str = "csi.stillpoint.dev";
/// Pools of a test cluster promise more than they have.
const OVERCOMMIT: &str = r#"{"data": {"STILLPOINT_POOL_OVERCOMMIT": "4"}}"#;

/// Whether the nodes have got another Stillpoint than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Another.
    Changed,
    /// The one that they had.
    Same,
}

/// Applies them; pods are not waited for.
pub fn install(layout: &Layout, kubectl: &Kubectl) -> Result<()> {
    let crds = layout.cache("manifests/snapshot-crds")?.display().to_string();
    // Applied by the server: these CRDs are larger than the annotation that a client keeps.
    kubectl
        .run(&["apply", "--server-side", "--force-conflicts", "-k", &crds])
        .context("cannot apply the snapshot CRDs")?;
    let dns = binaries::source_directory().join("cluster/manifests/dns.yaml");
    kubectl.run(&["apply", "-f", &dns.display().to_string()])?;
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    kubectl.run(&["wait", "--for=condition=Established", &limit, "crd", "--all"])?;
    let rbac = layout.cache("manifests/snapshot-controller")?.join("rbac-snapshot-controller.yaml");
    kubectl.run(&["apply", "-f", &rbac.display().to_string()])?;
    let own = binaries::source_directory().join("cluster/manifests/snapshot-controller.yaml");
    kubectl
        .run(&["apply", "-f", &own.display().to_string()])
        .context("cannot install the snapshot controller")?;
    Ok(())
}

/// Installs Stillpoint from a kustomize directory and waits until every node can mount its volumes. When its image is
/// `Image::Changed`, pods that run already are made anew.
pub fn stillpoint(kubectl: &Kubectl, manifests: &Path, image: Image) -> Result<()> {
    let was_there =
        !kubectl.run(&["get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"])?.is_empty();
    kubectl.run(&["apply", "-k", &manifests.display().to_string()]).context("cannot install Stillpoint")?;
    // Small pools in sparse files, and tests whose volumes are hardly written. No agent has started yet: each waits for the
    // controller to write what it mounts.
    kubectl.run(&[
        "-n",
        NAMESPACE,
        "patch",
        "configmap",
        "stillpoint-agent",
        "--type=merge",
        "-p",
        OVERCOMMIT,
    ])?;
    match image {
        Image::Changed if was_there => {
            kubectl.run(&["-n", NAMESPACE, "delete", "pods", "--all"])?;
        }
        Image::Changed | Image::Same => {}
    }
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    // Guards are replaced by hand only, so kubectl does not follow their rollout.
    for workload in ["deployment/stillpoint-controller", "daemonset/stillpoint-agent"] {
        kubectl.run(&["-n", NAMESPACE, "rollout", "status", workload, &limit])?;
    }
    let end = Instant::now() + LIMIT;
    while kubectl
        .get(&["csinodes"], "{.items[*].spec.drivers[*].name}")?
        .split(' ')
        .filter(|name| *name == DRIVER)
        .count()
        < usize::from(NODES)
    {
        ensure!(
            Instant::now() < end,
            "not every kubelet knows {DRIVER} after {LIMIT:?}; the agents' logs say why"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Waits until the snapshot controller runs.
pub fn wait(kubectl: &Kubectl) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    kubectl.run(&["-n", "kube-system", "rollout", "status", "deployment/snapshot-controller", &limit])?;
    Ok(())
}
