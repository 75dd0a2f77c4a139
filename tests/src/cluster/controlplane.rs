//! etcd, API server, controller manager and scheduler: plain processes in the control plane's namespaces.

use anyhow::{Context, Result};

use super::launch::{Launcher, Program, Started};
use super::layout::SERVICE_RANGE;
use super::{Layout, Place};

/// Starts etcd and the API server, which waits for etcd by itself.
pub fn start_api(layout: &Layout, holder: i32) -> Result<Vec<Started>> {
    let launcher = Launcher::new(layout, Place::ControlPlane)?;
    let data = layout.directory("control-plane/etcd")?;
    let etcd = Program::new(
        "etcd",
        layout.tool("etcd"),
        [
            "--name=stillpoint".into(),
            format!("--data-dir={}", data.display()),
            // Nothing here outlives the machine.
            "--unsafe-no-fsync".into(),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=stillpoint=http://127.0.0.1:2380".into(),
            "--log-level=warn".into(),
        ],
    );
    let api = Program::new("kube-apiserver", layout.tool("kube-apiserver"), api_arguments(layout));
    Ok(vec![launcher.inside(holder, &etcd)?, launcher.inside(holder, &api)?])
}

fn api_arguments(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| layout.pki(file).display().to_string();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--bind-address=0.0.0.0".into(),
        "--secure-port=443".into(),
        format!("--advertise-address={}", Place::ControlPlane.address()),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
    ]
}

/// Starts the controllers; the API server must answer already.
pub fn start_controllers(layout: &Layout, holder: i32) -> Result<Vec<Started>> {
    let launcher = Launcher::new(layout, Place::ControlPlane)?;
    let pki = |file: &str| layout.pki(file).display().to_string();
    let manager = Program::new(
        "kube-controller-manager",
        layout.tool("kube-controller-manager"),
        [
            format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
            format!("--service-account-private-key-file={}", pki("service-accounts.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            "--use-service-account-credentials=true".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    );
    let scheduler = Program::new(
        "kube-scheduler",
        layout.tool("kube-scheduler"),
        [
            format!("--kubeconfig={}", pki("scheduler.kubeconfig")),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    );
    [manager, scheduler]
        .iter()
        .map(|program| launcher.inside(holder, program).context("cannot start a controller"))
        .collect()
}
