//! Names and addresses of services: CoreDNS beside the API server, kube-proxy (nftables) on every node.

use std::fs;

use anyhow::Result;

use super::launch::{Launcher, Program, Started};
use super::layout::DOMAIN;
use super::{Layout, Place};

/// Starts CoreDNS in the control plane's namespace, where nodes reach its service address by their default route.
pub fn start_dns(layout: &Layout, holder: i32) -> Result<Started> {
    let corefile = layout.directory("control-plane")?.join("Corefile");
    let text = format!(
        ".:53 {{\n  errors\n  kubernetes {DOMAIN} in-addr.arpa {{\n    kubeconfig {} stillpoint\n    pods verified\n  }}\n  \
         cache 2\n}}\n",
        layout.kubeconfig().display()
    );
    fs::write(&corefile, text)?;
    let args = ["-conf".into(), corefile.display().to_string()];
    Launcher::new(layout, Place::ControlPlane)?
        .inside(holder, &Program::new("coredns", layout.tool("coredns"), args))
}

/// Starts kube-proxy on a node.
pub fn start_proxy(layout: &Layout, node: Place, holder: i32) -> Result<Started> {
    let configuration = layout.directory(node.to_string())?.join("kube-proxy.yaml");
    // JSON is YAML. Zeros leave the kernel's connection tracking as it is.
    let value = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.to_string(),
        "clusterCIDR": "10.78.0.0/16",
        "clientConnection": {"kubeconfig": layout.pki("proxy.kubeconfig")},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms"},
    });
    fs::write(&configuration, serde_json::to_string_pretty(&value)?)?;
    let args = [format!("--config={}", configuration.display())];
    Launcher::new(layout, node)?.inside(holder, &Program::new("kube-proxy", layout.tool("kube-proxy"), args))
}
