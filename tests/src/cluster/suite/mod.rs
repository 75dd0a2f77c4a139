//! The external-storage suite of Kubernetes against a cluster that is up.
//!
//! [`run`] builds the suite (`tests/cluster/kubernetes/storage`), imports the images that its pods use, runs it with
//! ginkgo in the control plane's network, and compares the report with two committed lists: `specs.txt` names every
//! spec that must pass, `skips.txt` every spec that is skipped or not started, with the reason ([`expected`]). A spec that
//! fails, that is skipped without being listed, that is new, or that is listed and did not run, fails the run
//! ([`report`]).

mod expected;
mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::launch::run as output_of;
use super::{Kubectl, Layout, Place, images, place, tools, up};
use crate::harness::{Step, binaries};

pub use expected::Expected;
pub use report::Outcome;

/// The storage suites of Kubernetes whose specs are run; the word after the test pattern in a spec's name.
const SUITES: &[&str] = &[
    "snapshottable",
    "fsgroupchangepolicy",
    "provisioning",
    "volumes",
    "volumeMode",
    "subPath",
    "topology",
    "capacity",
    "ephemeral",
    "volume-expand",
    "read-write-once-pod",
];
/// What the suite is told about the driver: with its default filesystem, XFS, and once more with ext4, for the specs that
/// depend on the filesystem.
const DRIVERS: [&str; 2] = ["driver.yaml", "driver-ext4.yaml"];
/// The class that `driver-ext4.yaml` names.
const EXT4_CLASS: &str = "stillpoint-suite-ext4";
/// Specs that run at once. They mostly wait: for the kubelet, and for sidecars.
const AT_ONCE: u32 = 6;
/// Afterwards ginkgo ends what still runs and reports it as failed.
const LIMIT: Duration = Duration::from_mins(20);

/// How to run the suite.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only specs whose names match this regular expression; the lists are then compared for these alone.
    pub focus: Option<String>,
    /// Write `specs.txt` from what passed.
    pub write: bool,
}

/// Runs the suite and prints a line for every spec that failed or was skipped, and one that counts. Whether everything
/// was as listed.
pub fn run(layout: &Layout, options: &Options) -> Result<bool> {
    let holder = place::holder(layout, Place::ControlPlane)
        .with_context(|| format!("the cluster {:?} is not up; start it with: make cluster", layout.name()))?;
    {
        let _lock = layout.lock_cache()?;
        up::prepare_suite(layout)?;
        import(layout)?;
    }
    make_class(layout)?;
    let lists = binaries::source_directory().join("cluster/storage-suite");
    let expected = Expected::read(&lists)?;
    let directory = layout.directory("suite")?;
    let step = Step::begin("running the external-storage suite of Kubernetes");
    let report = ginkgo(layout, holder, &expected, options, &directory)?;
    step.done();
    let outcome = Outcome::of(&fs::read_to_string(&report).with_context(|| {
        format!("ginkgo has written no report; {} says why", directory.join("suite.log").display())
    })?)?;
    if options.write {
        expected::write_specs(&lists, &outcome.passed)?;
    }
    let verdict = outcome.compare(&expected, options.focus.as_deref())?;
    print!("{verdict}");
    Ok(verdict.is_good())
}

/// Imports what the specs' pods run, under the names that this version of the suite gives.
fn import(layout: &Layout) -> Result<()> {
    let names = output_of(Command::new(layout.tool(tools::SUITE_PROGRAM)).arg("-print-images"))?;
    let name_of = |image: &str| {
        let line = names.lines().find_map(|line| line.strip_prefix(image)?.strip_prefix(' '));
        let named = line.map(str::to_owned);
        named.with_context(|| format!("the suite does not name the image {image}; it printed:\n{names}"))
    };
    let step = Step::begin("importing the images of the suite into the nodes");
    for image in images::stock::suite(layout, name_of)? {
        step.detail(&image.name);
        images::import(layout, &image)?;
    }
    step.done();
    Ok(())
}

/// A storage class like the installed one, for the specs that are run on ext4.
fn make_class(layout: &Layout) -> Result<()> {
    let kubectl = Kubectl::of(layout)?;
    let class = kubectl.run(&["get", "storageclass", "stillpoint", "-o", "json"])?;
    let mut class: serde_json::Value =
        serde_json::from_str(&class).context("cannot read the StorageClass")?;
    class["metadata"] = serde_json::json!({"name": EXT4_CLASS});
    class["parameters"] = serde_json::json!({"csi.storage.k8s.io/fstype": "ext4"});
    kubectl.apply(&class.to_string())?;
    Ok(())
}

/// Runs ginkgo; the path of the report. Its exit code says only whether a spec failed, which the report says too.
fn ginkgo(
    layout: &Layout,
    holder: i32,
    expected: &Expected,
    options: &Options,
    directory: &Path,
) -> Result<PathBuf> {
    let report = directory.join("report.json");
    drop(fs::remove_file(&report));
    let log = File::create(directory.join("suite.log"))?;
    let mut command = Command::new("nsenter");
    command.args(["-t", &holder.to_string(), "-n", "--"]).arg(layout.tool("ginkgo"));
    command.args(["--no-color", "--json-report", "report.json"]);
    command.arg(format!("--procs={AT_ONCE}")).arg(format!("--timeout={}s", LIMIT.as_secs()));
    command.arg("--output-dir").arg(directory);
    command.args(["--focus", options.focus.as_deref().unwrap_or(&focus())]);
    for regex in [r"\[Slow\]", r"\[Disruptive\]"] {
        command.args(["--skip", regex]);
    }
    for spec in expected.excluded().keys().chain(expected.not_applicable().keys()) {
        command.args(["--skip", &regex::escape(spec)]);
    }
    command.arg(layout.tool(tools::SUITE_PROGRAM)).arg("--");
    for name in DRIVERS {
        let driver = binaries::source_directory().join("cluster/storage-suite").join(name);
        ensure!(driver.is_file(), "{} is not there", driver.display());
        command.arg(format!("-storage.testdriver={}", driver.display()));
    }
    command.arg(format!("-kubeconfig={}", layout.kubeconfig().display()));
    command.arg(format!("-kubectl-path={}", layout.tool("kubectl").display()));
    command.args(["-provider=local", "-num-nodes=3"]);
    command.current_dir(directory).env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.status().context("cannot run nsenter")?;
    Ok(report)
}

/// What ginkgo compares with a spec's name: the driver, a pattern with its labels, and one of the suites.
fn focus() -> String {
    format!(r"External.Storage.*\[Testpattern: [^]]*\]( \[[^]]*\])* ({})( |$)", SUITES.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_focus_takes_the_named_suites_and_no_suite_whose_name_begins_the_same() {
        let focus = regex::Regex::new(&focus()).unwrap();
        let spec = |suite: &str| {
            format!("External Storage [Driver: x] [Testpattern: Dynamic PV (xfs)] [Feature:y] {suite} should")
        };
        for suite in SUITES {
            assert!(focus.is_match(&spec(suite)), "{suite}");
        }
        for other in ["snapshottable-stress", "volume-stress", "volumeLimits", "disruptive"] {
            assert!(!focus.is_match(&spec(other)), "{other}");
        }
    }

    #[test]
    fn every_suite_is_listed_and_both_filesystems_have_specs_that_must_pass() {
        let lists = binaries::source_directory().join("cluster/storage-suite");
        let expected = Expected::read(&lists).unwrap();
        // Of volumeMode all but the excluded specs are slow.
        let listed: Vec<&String> = expected.specs().iter().chain(expected.excluded().keys()).collect();
        for suite in SUITES {
            let of_suite = |spec: &&&String| spec.contains(&format!("] {suite} "));
            assert!(listed.iter().any(|spec| of_suite(&spec)), "no spec of {suite} is listed");
        }
        for driver in ["[Driver: csi.stillpoint.dev]", "[Driver: ext4.csi.stillpoint.dev]"] {
            assert!(expected.specs().iter().any(|spec| spec.contains(driver)), "{driver}");
        }
    }
}
