//! kubectl as the administrator, from the control plane's network.

use std::process::Command;

use anyhow::{Context, Result};

use super::launch::{run, run_with};
use super::{Layout, Place, place};

/// A way to ask the cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    layout: Layout,
    holder: i32,
}

impl Kubectl {
    /// For a cluster that is up.
    pub fn of(layout: &Layout) -> Result<Self> {
        let holder = place::holder(layout, Place::ControlPlane).with_context(|| {
            format!("the cluster {:?} is not up; start it with: make cluster", layout.name())
        })?;
        Ok(Self { layout: layout.clone(), holder })
    }

    /// The command, to be given its arguments. It sees the host's files.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.to_string(), "-n", "--"]).arg(self.layout.tool("kubectl"));
        command.arg("--kubeconfig").arg(self.layout.kubeconfig());
        command
    }

    /// Runs it; what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        run(self.command().args(args))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        run_with(self.command().args(["apply", "-f", "-"]), manifest)
    }

    /// One value of an object; empty where it has none.
    pub fn get(&self, args: &[&str], jsonpath: &str) -> Result<String> {
        let output = format!("jsonpath={jsonpath}");
        run(self.command().arg("get").args(args).args(["-o", &output]))
    }
}
