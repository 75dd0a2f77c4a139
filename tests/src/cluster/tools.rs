//! Go programs at the versions that `tests/cluster/*/go.mod` and `go.sum` pin, built once into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Layout;
use super::launch::run;
use crate::harness::{Step, binaries};

/// The version that everything of Kubernetes says it has; the same as in `kubernetes/go.mod`.
pub const KUBERNETES: &str = "v1.36.4";
const SNAPSHOTTER: &str = "github.com/kubernetes-csi/external-snapshotter";

/// A program and the package it is built from.
struct Tool {
    name: &'static str,
    package: &'static str,
    /// Version that the linker writes into it.
    version: Option<&'static str>,
}

struct Module {
    directory: &'static str,
    tags: &'static str,
    tools: &'static [Tool],
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, package, version: None }
}

const fn sidecar(name: &'static str, package: &'static str, version: &'static str) -> Tool {
    Tool { name, package, version: Some(version) }
}

/// The longest first: what the others share with it is compiled then.
const MODULES: &[Module] = &[
    Module {
        directory: "kubernetes",
        tags: "",
        tools: &[
            kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            kubernetes("etcd", "go.etcd.io/etcd/server/v3"),
            kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            sidecar(
                "csi-provisioner",
                "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
                "v6.3.0",
            ),
            sidecar("csi-resizer", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer", "v2.2.0"),
            sidecar(
                "csi-snapshotter",
                "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
                "v8.6.0",
            ),
            sidecar(
                "snapshot-controller",
                "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
                "v8.6.0",
            ),
        ],
    },
    Module { directory: "coredns", tags: "", tools: &[kubernetes("coredns", "github.com/coredns/coredns")] },
    Module {
        directory: "containerd",
        tags: "no_btrfs,no_zfs,no_devmapper",
        tools: &[
            kubernetes("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            kubernetes(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            kubernetes("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
];

/// Sidecars that become images: name and version.
pub fn sidecars() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODULES.iter().flat_map(|module| module.tools).filter_map(|tool| Some((tool.name, tool.version?)))
}

/// Builds what is missing or out of date, and copies the snapshot CRDs.
pub fn build(layout: &Layout) -> Result<()> {
    let go = go()?;
    for module in MODULES {
        let directory = binaries::source_directory().join("cluster").join(module.directory);
        let stamp = stamp(&directory, module)?;
        for tool in module.tools {
            build_tool(layout, &go, &directory, module.tags, tool, &stamp)?;
        }
    }
    copy_manifests(layout, &go)
}

fn build_tool(
    layout: &Layout,
    go: &Path,
    directory: &Path,
    tags: &str,
    tool: &Tool,
    stamp: &str,
) -> Result<()> {
    let built = layout.cache("built")?.join(tool.name);
    let target = layout.tool(tool.name);
    if target.is_file() && fs::read_to_string(&built).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    let step = Step::begin(format!("building {} (once; the first takes minutes)", tool.name));
    layout.cache("bin")?;
    let partial = target.with_extension("partial");
    let mut command = command(go, directory);
    command.args(["build", "-trimpath", "-mod=readonly", "-tags", tags, "-ldflags", &linker_flags(tool)]);
    command.arg("-o").arg(&partial).arg(tool.package);
    run(&mut command).with_context(|| format!("cannot build {}", tool.name))?;
    fs::rename(&partial, &target)?;
    fs::write(&built, stamp)?;
    step.done();
    Ok(())
}

/// What a built program depends on.
fn stamp(directory: &Path, module: &Module) -> Result<String> {
    let read = |file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(format!("{KUBERNETES} {}\n{}{}", module.tags, read("go.mod")?, read("go.sum")?))
}

fn linker_flags(tool: &Tool) -> String {
    let mut flags = vec!["-s -w".to_owned()];
    let mut parts = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        let values = [("gitVersion", KUBERNETES), ("gitMajor", major), ("gitMinor", minor)];
        flags.extend(values.map(|(name, value)| format!("-X {package}.{name}={value}")));
    }
    flags.extend(tool.version.map(|version| format!("-X main.version={version}")));
    flags.join(" ")
}

/// CRDs and permissions of the snapshot controller, from the module that it is built from.
fn copy_manifests(layout: &Layout, go: &Path) -> Result<()> {
    let directory = binaries::source_directory().join("cluster/kubernetes");
    for (module, below, into) in [
        (format!("{SNAPSHOTTER}/client/v8"), "config/crd", "manifests/snapshot-crds"),
        (
            format!("{SNAPSHOTTER}/v8"),
            "deploy/kubernetes/snapshot-controller",
            "manifests/snapshot-controller",
        ),
    ] {
        let root = run(command(go, &directory).args(["list", "-m", "-f", "{{.Dir}}", &module]))?;
        let into = layout.cache(into)?;
        let from = Path::new(root.trim()).join(below);
        for entry in fs::read_dir(&from).with_context(|| format!("{} is not there", from.display()))? {
            let entry = entry?;
            // Modules are read-only; contents are copied, not permissions.
            fs::write(into.join(entry.file_name()), fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn command(go: &Path, directory: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(go).current_dir(directory);
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GOWORK", "off");
    command
}

/// Go on the path, else where it is usually unpacked.
fn go() -> Result<PathBuf> {
    for candidate in ["go", "/usr/local/go/bin/go"] {
        if Command::new(candidate).arg("version").output().is_ok_and(|output| output.status.success()) {
            return Ok(candidate.into());
        }
    }
    bail!("the cluster is built with Go, which is not installed; unpack Go 1.26 or newer into /usr/local/go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_that_is_named_here_is_the_one_that_go_mod_pins() {
        let mut pinned = String::new();
        for module in MODULES {
            let path = binaries::source_directory().join("cluster").join(module.directory).join("go.mod");
            pinned += &fs::read_to_string(path).unwrap();
        }
        assert!(pinned.contains(&format!("k8s.io/kubernetes {KUBERNETES}")));
        for tool in MODULES.iter().flat_map(|module| module.tools) {
            assert!(pinned.contains(tool.package), "{} is no tool of a module", tool.package);
            if let Some(version) = tool.version {
                let module = tool.package.split("/cmd/").next().unwrap();
                assert!(pinned.contains(&format!("{module} {version}")), "{module} {version}");
            }
        }
    }
}
