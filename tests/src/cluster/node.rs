//! containerd and kubelet of one node: their configuration and their start.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cgroups::Cgroups;
use super::images::{PAUSE, full_name};
use super::launch::{Launcher, Program, Started, run};
use super::layout::{DNS_SERVICE, DOMAIN};
use super::{Layout, Place, place};

const SOCKET: &str = "/run/containerd/containerd.sock";
const CONTAINERD_LIMIT: Duration = Duration::from_mins(1);

/// Starts containerd and waits until it answers.
pub fn start_containerd(layout: &Layout, node: Place, holder: i32) -> Result<Started> {
    let own = layout.directory(node.to_string())?;
    let cni = layout.directory(format!("{node}/cni"))?;
    fs::write(cni.join("10-stillpoint.conflist"), cni_configuration(node)?)?;
    let configuration = own.join("containerd.toml");
    fs::write(&configuration, containerd_configuration(layout, node))?;
    let args = ["--config".into(), configuration.display().to_string(), "--log-level=warn".into()];
    let program = Program::new("containerd", layout.tool("containerd"), args);
    let started = Launcher::new(layout, node)?.inside(holder, &program)?;
    let end = Instant::now() + CONTAINERD_LIMIT;
    while let Err(error) = run(ctr(layout, holder).arg("version")) {
        started.check()?;
        if Instant::now() > end {
            return Err(error).with_context(|| format!("containerd of {node} does not answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(started)
}

/// Starts the kubelet; containerd must answer already.
pub fn start_kubelet(layout: &Layout, node: Place, holder: i32) -> Result<Started> {
    let own = layout.directory(node.to_string())?;
    let configuration = own.join("kubelet.yaml");
    fs::write(&configuration, kubelet_configuration(layout, node)?)?;
    let args = [
        format!("--config={}", configuration.display()),
        format!("--kubeconfig={}", layout.pki(&format!("{node}.kubeconfig")).display()),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.address()),
        "--root-dir=/var/lib/kubelet".into(),
    ];
    Launcher::new(layout, node)?.inside(holder, &Program::new("kubelet", layout.tool("kubelet"), args))
}

/// containerd's own client in a node, in the namespace that the kubelet uses.
pub fn ctr(layout: &Layout, holder: i32) -> Command {
    let mut command = place::enter(holder);
    command.arg(layout.tool("ctr")).args(["--address", SOCKET, "--namespace", "k8s.io"]);
    command
}

fn cni_configuration(node: Place) -> Result<String> {
    let Some(range) = node.pod_range() else { bail!("{node} runs no pods") };
    let value = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "stillpoint",
        "plugins": [{
            "type": "ptp",
            "mtu": 1400,
            "ipam": {
                "type": "host-local",
                "dataDir": "/var/lib/cni/networks",
                "ranges": [[{"subnet": range}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    Ok(serde_json::to_string_pretty(&value)?)
}

fn containerd_configuration(layout: &Layout, node: Place) -> String {
    format!(
        r#"version = 3
root = "{own}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{own}/opt"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  use_local_image_pull = true
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody can lower an oom score, and runc dies trying.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{debian}/usr/lib/cni"]
    conf_dir = "{own}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{debian}/usr/sbin/runc"
        SystemdCgroup = false
"#,
        own = layout.file(node.to_string()).display(),
        pause = full_name(PAUSE),
        debian = layout.debian().display(),
    )
}

fn kubelet_configuration(layout: &Layout, node: Place) -> Result<String> {
    let pki = |file: String| layout.pki(&file).display().to_string();
    let value = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt".into())},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki(format!("{node}.crt")),
        "tlsPrivateKeyFile": pki(format!("{node}.key")),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Cgroups::of(layout)?.root(node),
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        "resolvConf": "",
        "clusterDomain": DOMAIN,
        "clusterDNS": [DNS_SERVICE],
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "serializeImagePulls": false,
        // The disk is the developer's: nothing of it is counted against the pods.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        // Waiting for the next look is most of the time that a small test takes.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    });
    // JSON is YAML.
    Ok(serde_json::to_string_pretty(&value)?)
}
