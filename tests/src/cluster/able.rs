//! Whether this machine can run a cluster at all. Everything that goes wrong later is a failure.

use std::path::Path;
use std::process::Command;

use super::Layout;
use super::cgroups::Cgroups;
use super::launch::run;
use crate::harness::{Lack, go};

const LOOP_CONTROL: &str = "/dev/loop-control";

/// Why no cluster can run here; `None` when one can.
pub fn why_not(layout: &Layout) -> Option<Lack> {
    if let Some(lack) = Lack::of_root().or_else(|| Lack::of_tools(go::find())) {
        return Some(lack);
    }
    if let Err(error) = Cgroups::of(layout).and_then(|cgroups| cgroups.probe()) {
        return Some(Lack::Machine(format!("pods need cgroups of their own: {error:#}")));
    }
    let apart = ["-n", "-m", "--propagation", "private", "true"];
    if let Err(error) = run(Command::new("unshare").args(apart)) {
        return Some(Lack::Machine(format!(
            "nodes need namespaces of their own for network and mounts: {error:#}"
        )));
    }
    if !Path::new(LOOP_CONTROL).exists() {
        return Some(Lack::Machine(format!("volumes are loop devices, and there is no {LOOP_CONTROL}")));
    }
    None
}
