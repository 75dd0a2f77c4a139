//! Stillpoint's own pods, and what tests do to them.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kubectl, Layout, Place, node, place};
use crate::harness::process::start_time;

/// Where Stillpoint is installed.
pub const NAMESPACE: &str = "stillpoint-system";
const CONTROLLER: &str = "deployment/stillpoint-controller";

/// The end of the controller's log.
pub fn log(kubectl: &Kubectl) -> String {
    let log = |args: &[&str]| {
        let fixed = ["-n", NAMESPACE, "logs", CONTROLLER, "-c", "controller", "--tail=40"];
        kubectl.run(&[&fixed, args].concat()).unwrap_or_else(|error| format!("no log: {error}"))
    };
    format!("the controller's log ends with:\n{}", log(&[]))
}

/// Waits until the controller runs and is ready.
pub fn wait_for_controller(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["-n", NAMESPACE, "rollout", "status", CONTROLLER, "--timeout=90s"])?;
    Ok(())
}

/// Waits until all agents are ready.
pub fn wait_for_agents(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["-n", NAMESPACE, "rollout", "status", "daemonset/stillpoint-agent", "--timeout=90s"])?;
    Ok(())
}

/// A setting of the controller that is put back when dropped. Both start the controller anew.
#[derive(Debug)]
pub struct Setting {
    kubectl: Kubectl,
    name: &'static str,
}

impl Setting {
    /// Sets an environment variable of the controller and waits until a controller has it.
    pub fn new(kubectl: &Kubectl, name: &'static str, value: &str) -> Result<Self> {
        let setting = Self { kubectl: kubectl.clone(), name };
        setting.set(&format!("{name}={value}"))?;
        Ok(setting)
    }

    fn set(&self, what: &str) -> Result<()> {
        self.kubectl.run(&["-n", NAMESPACE, "set", "env", CONTROLLER, "-c", "controller", what])?;
        wait_for_controller(&self.kubectl)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = self.set(&format!("{}-", self.name)) {
            eprintln!("{} of the controller could not be put back: {error:#}", self.name);
        }
    }
}

/// Name of the pod of a component (`controller`, `agent`, `guard`) on a node, or of the only one.
pub fn pod(kubectl: &Kubectl, component: &str, node: Option<&str>) -> Result<String> {
    let label = format!("app.kubernetes.io/component={component}");
    let node = node.map(|node| format!("spec.nodeName={node}"));
    let mut args = vec!["-n", NAMESPACE, "pods", "-l", &label];
    if let Some(node) = &node {
        args.extend(["--field-selector", node]);
    }
    let names =
        kubectl.get(&args, r#"{range .items[?(@.status.phase=="Running")]}{.metadata.name} {end}"#)?;
    let name = names.split_whitespace().next();
    Ok(name.with_context(|| format!("no {component} runs on {node:?}"))?.to_owned())
}

/// The first process of a container. One that is stopped goes on when this is dropped.
#[derive(Debug)]
pub struct ContainerProcess {
    pid: i32,
    begun: u64,
}

impl ContainerProcess {
    /// Of a component's container of the same name.
    pub fn of(layout: &Layout, kubectl: &Kubectl, component: &str, on: Option<&str>) -> Result<Self> {
        let pod = pod(kubectl, component, on)?;
        let at = ["-n", NAMESPACE, "pod", &pod];
        let node_name = kubectl.get(&at, "{.spec.nodeName}")?;
        let path = format!(r#"{{.status.containerStatuses[?(@.name=="{component}")].containerID}}"#);
        let id = kubectl.get(&at, &path)?;
        let id = id.rsplit('/').next().unwrap_or_default().to_owned();
        let node = Place::nodes().find(|node| node.to_string() == node_name);
        let node = node.with_context(|| format!("{pod} is on {node_name:?}"))?;
        let holder = place::holder(layout, node).with_context(|| format!("{node} is gone"))?;
        let tasks = super::launch::run(node::ctr(layout, holder).args(["tasks", "ls"]))?;
        let pid = tasks.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == id).then(|| words.next()?.parse::<i32>().ok())?
        });
        let pid = pid.with_context(|| format!("{pod}: containerd knows no process of {id}"))?;
        let begun = u32::try_from(pid).ok().and_then(start_time).context("the process has ended")?;
        Ok(Self { pid, begun })
    }

    /// Sends a signal, if it is still the same process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        anyhow::ensure!(self.is_alive(), "process {} has ended", self.pid);
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot signal {}", self.pid))
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        u32::try_from(self.pid).ok().and_then(start_time) == Some(self.begun)
    }
}

impl Drop for ContainerProcess {
    fn drop(&mut self) {
        if self.is_alive() {
            // Nothing that a test has stopped stays so.
            let _gone = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
        }
    }
}
