//! A namespace for one test: objects in it, commands in its pods, and the proof that nothing of it is left.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Kubectl, Layout, Place, place};

/// Everything that a test waits for happens within this, or never.
pub const LIMIT: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(200);
const POOL: &str = "/var/lib/stillpoint/pool";

/// A namespace, deleted when dropped.
#[derive(Debug)]
pub struct Workspace {
    layout: Layout,
    /// kubectl without a namespace.
    pub kubectl: Kubectl,
    name: String,
}

impl Workspace {
    /// An empty namespace in a cluster that is up; one of the same name that is left is deleted first.
    pub fn new(cluster: &str, name: &str) -> Result<Self> {
        let layout = Layout::new(cluster)?;
        let kubectl = Kubectl::of(&layout)?;
        let own = Self { layout, kubectl, name: name.into() };
        own.delete()?;
        own.kubectl.run(&["create", "namespace", name])?;
        Ok(own)
    }

    /// kubectl in this namespace.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(&[&["-n", &self.name], args].concat())
    }

    /// Applies a manifest in this namespace.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let mut command = self.kubectl.command();
        super::launch::run_with(command.args(["-n", &self.name, "apply", "-f", "-"]), manifest)?;
        Ok(())
    }

    /// Waits until a condition or a `jsonpath` of an object is so; in the error, what the object's events say.
    pub fn wait(&self, object: &str, what: &str) -> Result<Duration> {
        let begin = Instant::now();
        let (what, limit) = (format!("--for={what}"), format!("--timeout={}s", LIMIT.as_secs()));
        let waited = self.run(&["wait", &what, &limit, object]);
        waited.map_err(|error| {
            let told = self.run(&["describe", object]).unwrap_or_default();
            let events = self.run(&["events"]).unwrap_or_default();
            anyhow::anyhow!("{error:#}\n{told}\n{events}")
        })?;
        Ok(begin.elapsed())
    }

    /// Runs a shell line in a pod; what it printed, trimmed.
    pub fn shell(&self, pod: &str, line: &str) -> Result<String> {
        let printed = self.run(&["exec", pod, "--", "sh", "-euc", line])?;
        Ok(printed.trim_end().to_owned())
    }

    /// Deletes the namespace and waits until it, its volumes and its snapshots are gone, also from the pools.
    pub fn close(self) -> Result<()> {
        self.delete()?;
        Self::soon("volumes, snapshots or loop devices are left", || self.leftovers())
    }

    fn delete(&self) -> Result<()> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl.run(&["delete", "namespace", &self.name, "--ignore-not-found", &limit])?;
        Ok(())
    }

    /// What the API server and the nodes still have of anybody's volumes. Tests run one after the other.
    fn leftovers(&self) -> Result<String> {
        let kinds = "persistentvolumes,volumesnapshotcontents,volumegroupsnapshotcontents,volumeattachments";
        let mut left = self.kubectl.run(&["get", kinds, "-o", "name", "--ignore-not-found"])?;
        for node in Place::nodes() {
            let holder = place::holder(&self.layout, node).with_context(|| format!("{node} is gone"))?;
            let script = format!(
                "find {POOL}/volumes {POOL}/cuts -mindepth 1 -maxdepth 1; find {POOL}/snapshots -mindepth 2 -maxdepth 2; \
                 find /var/lib/kubelet/plugins/kubernetes.io -name globalmount 2>/dev/null || true; \
                 losetup --list --noheadings -O BACK-FILE | grep /var/lib/stillpoint/pool/ || true"
            );
            left += &place::script(holder, &script, &[])?;
        }
        Ok(left)
    }

    fn soon(what: &str, left: impl Fn() -> Result<String>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let text = left()?;
            if text.trim().is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{what} after {LIMIT:?}:\n{text}");
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // A test that failed has said why; the next run deletes what is left now.
        drop(self.run(&["delete", "namespace", &self.name, "--ignore-not-found", "--wait=false"]));
    }
}
