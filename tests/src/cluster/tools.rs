//! Go programs at the versions that `tests/cluster/*/go.mod` and `go.sum` pin, built once into the cache.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Layout;
use super::launch::run;
use crate::harness::{Step, binaries, go};

/// The version that everything of Kubernetes says it has; the same as in `kubernetes/go.mod`.
pub const KUBERNETES: &str = "v1.36.4";
/// Lines of Go's errors that are kept.
const SAID_LIMIT: usize = 40;
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
            // Its own main has fifty plugins, ours three.
            kubernetes("coredns", "stillpoint.dev/tests/cluster/kubernetes/coredns"),
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

/// What the external-storage suite of Kubernetes needs; built when the suite is first run.
const SUITE: Module = Module {
    directory: "kubernetes",
    tags: "",
    tools: &[
        kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
        kubernetes("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
    ],
};
/// The suite itself, a test program.
pub const SUITE_PROGRAM: &str = "storage.test";

/// Sidecars that become images: name and version.
pub fn sidecars() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODULES.iter().flat_map(|module| module.tools).filter_map(|tool| Some((tool.name, tool.version?)))
}

/// Builds what is missing or out of date, and copies the snapshot CRDs.
pub fn build(layout: &Layout) -> Result<()> {
    let program = go::find()?;
    for module in MODULES {
        build_module(layout, &program, module)?;
    }
    copy_manifests(layout, &program)
}

/// Builds what the external-storage suite needs: agnhost, ginkgo and the suite.
pub fn build_suite(layout: &Layout) -> Result<()> {
    let compiler = go::find()?;
    build_module(layout, &compiler, &SUITE)?;
    let directory = binaries::source_directory().join("cluster").join(SUITE.directory);
    let source = directory.join("storage/suite_test.go");
    let source = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let stamp = stamp(&directory, &SUITE)? + &source;
    let stamp_file = layout.cache("built")?.join(SUITE_PROGRAM);
    let program = layout.tool(SUITE_PROGRAM);
    if program.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    let step = Step::begin("building the external-storage suite of Kubernetes (once)");
    let partial = program.with_extension("partial");
    let mut command = go::command(&compiler, &directory);
    command.args(["test", "-c", "-v", "-trimpath", "-mod=readonly", "-ldflags", &linker_flags(), "-o"]);
    command.arg(&partial).arg("./storage");
    watch(&mut command, &step).context("cannot build the external-storage suite")?;
    fs::rename(&partial, &program).with_context(|| format!("go has not written {}", partial.display()))?;
    fs::write(&stamp_file, &stamp)?;
    step.done();
    Ok(())
}

/// Builds what is missing of a module, all in one call: then packages that several programs share are compiled while
/// other programs are linked, and every core has something to do.
fn build_module(layout: &Layout, program: &Path, module: &Module) -> Result<()> {
    let directory = binaries::source_directory().join("cluster").join(module.directory);
    let stamp = stamp(&directory, module)?;
    let built = layout.cache("built")?;
    let is_current = |tool: &&Tool| {
        layout.tool(tool.name).is_file()
            && fs::read_to_string(built.join(tool.name)).is_ok_and(|text| text == stamp)
    };
    let missing: Vec<&Tool> = module.tools.iter().filter(|tool| !is_current(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|tool| tool.name).collect();
    let what = format!("building {} programs of {}", names.len(), module.directory);
    let step = Step::begin(format!("{what} (once; the first takes minutes)"));
    let into = layout.cache(format!("bin/{}.partial", module.directory))?;
    let mut command = go::command(program, &directory);
    // -v names every package that is compiled.
    command.args([
        "build",
        "-v",
        "-trimpath",
        "-mod=readonly",
        "-tags",
        module.tags,
        "-ldflags",
        &linker_flags(),
    ]);
    for tool in &missing {
        if let Some(version) = tool.version {
            // What is said of one package later counts more.
            let flags = format!("{}={} -X main.version={version}", tool.package, linker_flags());
            command.args(["-ldflags", &flags]);
        }
    }
    command.arg("-o").arg(&into).args(missing.iter().map(|tool| tool.package));
    watch(&mut command, &step).with_context(|| format!("cannot build {}", names.join(" ")))?;
    for tool in &missing {
        fs::rename(into.join(tool.output()), layout.tool(tool.name))
            .with_context(|| format!("go has not written {}", tool.output()))?;
        fs::write(built.join(tool.name), &stamp)?;
    }
    fs::remove_dir_all(&into)?;
    step.done();
    Ok(())
}

impl Tool {
    /// What Go calls it: the last part of its package's name that is not a version.
    fn output(&self) -> &'static str {
        let is_version = |part: &&str| {
            part.strip_prefix('v').is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
        };
        self.package.rsplit('/').find(|part| !is_version(part)).unwrap_or(self.name)
    }
}

/// Runs Go to its end and shows how far it is; in the error, the end of what it said.
fn watch(command: &mut Command, step: &Step) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run go")?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    let (mut packages, mut said) = (0_u32, VecDeque::new());
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if is_package(&line) {
            packages += 1;
            step.detail(&format!("package {packages}: {line}"));
            continue;
        }
        said.push_back(line);
        if said.len() > SAID_LIMIT {
            said.pop_front();
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "go: {status}\n{}", said.make_contiguous().join("\n"));
    Ok(())
}

/// Whether `go build -v` names a package with this line; whatever else it says has blanks.
fn is_package(line: &str) -> bool {
    !line.contains(' ') && !line.starts_with('#')
}

/// What a built program depends on.
fn stamp(directory: &Path, module: &Module) -> Result<String> {
    let read =
        |file: PathBuf| fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()));
    let mut stamp = format!("{KUBERNETES} {}\n", module.tags);
    stamp += &read(directory.join("go.mod"))?;
    stamp += &read(directory.join("go.sum"))?;
    for tool in module.tools {
        let own = directory.join(tool.output()).join("main.go");
        if own.is_file() {
            stamp += &read(own)?;
        }
    }
    Ok(stamp)
}

fn linker_flags() -> String {
    let mut flags = vec!["-s -w".to_owned()];
    let mut parts = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        let values = [("gitVersion", KUBERNETES), ("gitMajor", major), ("gitMinor", minor)];
        flags.extend(values.map(|(name, value)| format!("-X {package}.{name}={value}")));
    }
    flags.join(" ")
}

/// CRDs and permissions of the snapshot controller, from the module that it is built from.
fn copy_manifests(layout: &Layout, program: &Path) -> Result<()> {
    let directory = binaries::source_directory().join("cluster/kubernetes");
    for (module, below, into) in [
        (format!("{SNAPSHOTTER}/client/v8"), "config/crd", "manifests/snapshot-crds"),
        (
            format!("{SNAPSHOTTER}/v8"),
            "deploy/kubernetes/snapshot-controller",
            "manifests/snapshot-controller",
        ),
    ] {
        let root = run(go::command(program, &directory).args(["list", "-m", "-f", "{{.Dir}}", &module]))?;
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
        assert!(pinned.contains(&format!("go 1.{}.", go::MINOR)));
        for tool in MODULES.iter().chain([&SUITE]).flat_map(|module| module.tools) {
            let (module, below) = tool.package.split_once("/kubernetes/").unwrap_or_default();
            let own = binaries::source_directory().join("cluster/kubernetes").join(below).join("main.go");
            let is_own = module == "stillpoint.dev/tests/cluster" && own.is_file();
            assert!(is_own || pinned.contains(tool.package), "{} is no tool of a module", tool.package);
            if let Some(version) = tool.version {
                let module = tool.package.split("/cmd/").next().unwrap();
                assert!(pinned.contains(&format!("{module} {version}")), "{module} {version}");
            }
        }
    }

    #[test]
    fn a_program_is_called_by_the_last_part_of_its_package_that_is_no_version() {
        let outputs: Vec<_> =
            MODULES.iter().chain([&SUITE]).flat_map(|module| module.tools).map(Tool::output).collect();
        let different: std::collections::BTreeSet<_> = outputs.iter().collect();
        assert_eq!(different.len(), outputs.len(), "{outputs:?}");
        assert!(outputs.contains(&"server") && outputs.contains(&"containerd-shim-runc-v2"), "{outputs:?}");
    }

    #[test]
    fn lines_of_a_build_that_name_packages_are_told_from_errors() {
        assert!(is_package("k8s.io/api/core/v1"));
        assert!(!is_package("# k8s.io/api/core/v1") && !is_package("a.go:1:2: undefined: x"));
    }
}
