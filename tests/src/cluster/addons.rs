//! What a cluster has besides Kubernetes: the snapshot CRDs and the snapshot controller.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Kubectl, Layout};
use crate::harness::binaries;

/// How long the API server may take to serve a new kind, and a pod to run.
const LIMIT: Duration = Duration::from_secs(120);

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

/// Waits until the snapshot controller runs.
pub fn wait(kubectl: &Kubectl) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    kubectl.run(&["-n", "kube-system", "rollout", "status", "deployment/snapshot-controller", &limit])?;
    Ok(())
}
