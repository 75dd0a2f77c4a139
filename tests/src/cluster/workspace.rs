//! A namespace for one test: objects in it, commands in its pods, and the proof that nothing of it is left.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stillpoint::domain::record::CutRecord;

use super::launch::run;
use super::{Kubectl, Layout, Place, place, system};

/// Everything that a test waits for happens within this, or never.
pub const LIMIT: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(200);
pub(super) const POOL: &str = "/var/lib/stillpoint/pool";
const POOL_RECORD: &str = "stillpoint.json";

/// A namespace, deleted when dropped.
#[derive(Debug)]
pub struct Workspace {
    pub(super) layout: Layout,
    /// kubectl without a namespace.
    pub kubectl: Kubectl,
    pub(super) name: String,
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

    /// The cluster.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Records of all cuts that a node's pool has.
    pub fn cuts(&self, node: Place) -> Result<Vec<CutRecord>> {
        let text = self.on_node(node, &format!("cat {POOL}/cuts/*.json 2>/dev/null || true"))?;
        let records = serde_json::Deserializer::from_str(&text).into_iter();
        records
            .map(|record| record.with_context(|| format!("{node} has a record that cannot be read")))
            .collect()
    }

    /// Runs a shell script on a node.
    pub fn on_node(&self, node: Place, line: &str) -> Result<String> {
        let holder = place::holder(&self.layout, node).with_context(|| format!("{node} is gone"))?;
        place::script(holder, line, &[])
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

    /// Applies a manifest in this namespace as somebody else.
    pub fn apply_as(&self, user: &str, manifest: &str) -> Result<String> {
        let mut command = self.kubectl.command();
        let user = format!("--as={user}");
        super::launch::run_with(command.args(["-n", &self.name, &user, "apply", "-f", "-"]), manifest)
    }

    /// Waits until something is so; an error on the way is final.
    pub fn eventually(&self, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let left = || Ok(if is_so()? { String::new() } else { format!("not: {what}") });
        Self::soon(what, left).map_err(|error| anyhow::anyhow!("{error:#}\n{}", system::log(&self.kubectl)))
    }

    /// Waits until a condition or a `jsonpath` of an object is so; in the error, what the object's events say.
    pub fn wait(&self, object: &str, what: &str) -> Result<Duration> {
        self.wait_within(LIMIT, object, what)
    }

    /// As [`Workspace::wait`], for what needs longer.
    pub fn wait_within(&self, limit: Duration, object: &str, what: &str) -> Result<Duration> {
        let begin = Instant::now();
        let (what, limit) = (format!("--for={what}"), format!("--timeout={}s", limit.as_secs()));
        let waited = self.run(&["wait", &what, &limit, object]);
        waited.map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.told(object)))?;
        Ok(begin.elapsed())
    }

    /// What Kubernetes and the controller say about an object, for messages of tests.
    pub fn told(&self, object: &str) -> String {
        let told = self.run(&["describe", object]).unwrap_or_default();
        let runs = self.run(&["get", "runs", "-o", "wide"]).unwrap_or_default();
        let events = self.run(&["events"]).unwrap_or_default();
        let log = if object.starts_with("pod/") { self.log(object) } else { system::log(&self.kubectl) };
        format!("{told}\n{runs}\n{events}\n{log}")
    }

    /// The end of what a pod's containers have printed, those before a restart too. For errors: empty without a pod.
    pub fn log(&self, pod: &str) -> String {
        let read =
            |more: &[&str]| self.run(&[&["logs", pod, "--all-containers", "--tail=40"], more].concat());
        format!("{}\n{}", read(&["--previous"]).unwrap_or_default(), read(&[]).unwrap_or_default())
    }

    /// A pod's address.
    pub fn address(&self, pod: &str) -> Result<IpAddr> {
        let address = self.run(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
        address.parse().with_context(|| format!("the pod {pod} has the address {address:?}"))
    }

    /// Does work in a network from which every pod can be reached.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let holder = place::holder(&self.layout, Place::ControlPlane).context("the control plane is gone")?;
        place::in_network(holder, work)
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

    /// Deletes the namespace, where another one of the same test is still there.
    pub fn leave(self) -> Result<()> {
        self.delete()
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
            let script = format!(
                "find {POOL}/volumes {POOL}/cuts -mindepth 1 -maxdepth 1; find {POOL}/snapshots -mindepth 2 -maxdepth 2; \
                 find /var/lib/kubelet/plugins/kubernetes.io -name globalmount 2>/dev/null || true"
            );
            left += &self.on_node(node, &script)?;
            let record = self.on_node(node, &format!("cat {POOL}/{POOL_RECORD}"))?;
            let devices =
                run(Command::new("losetup").args(["--list", "--noheadings", "-O", "NAME,BACK-FILE"]))?;
            left += &devices_of(&pool_id(&record)?, &devices).join("\n");
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

fn pool_id(record: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(record).context("the pool's record is no JSON")?;
    Ok(value["id"].as_str().context("the pool's record has no id")?.to_owned())
}

/// Loop devices over volumes of one pool. Devices of all clusters of the machine are listed, all with the same
/// directories in their paths; but the id of a volume begins with the id of its pool.
fn devices_of<'a>(pool: &str, listed: &'a str) -> Vec<&'a str> {
    listed.lines().filter(|line| line.contains(&format!("/{pool}-"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_device_belongs_to_the_pool_whose_id_its_volume_has() {
        let listed = "/dev/loop1 /var/lib/stillpoint/pool/volumes/p1-abc/disk.img\n\
                      /dev/loop2 /var/lib/stillpoint/pool/volumes/p12-abc/disk.img\n\
                      /dev/loop3 /var/lib/stillpoint/pool.img\n\
                      /dev/loop4 /var/lib/stillpoint/pool/volumes/p1-def/disk.img (deleted)\n";
        let own = devices_of(&pool_id(r#"{"id": "p1"}"#).unwrap(), listed);
        assert_eq!(own.iter().map(|line| &line[..10]).collect::<Vec<_>>(), ["/dev/loop1", "/dev/loop4"]);
        assert!(pool_id("{}").is_err());
    }
}
