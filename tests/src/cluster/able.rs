//! Whether this machine can run a cluster at all. What is missing here cannot be installed by us; everything else that
//! goes wrong later is a failure.

use std::path::Path;
use std::process::Command;

use super::cgroups::Cgroups;
use super::launch::run;
use super::{Layout, tools};

const LOOP_CONTROL: &str = "/dev/loop-control";

/// Why no cluster can run here; `None` when one can.
pub fn why_not(layout: &Layout) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("namespaces, mounts and cgroups need root, or sudo that asks for no password".into());
    }
    if let Err(error) = tools::go() {
        return Some(format!("{error:#}"));
    }
    if let Err(error) = Cgroups::of(layout).and_then(|cgroups| cgroups.probe()) {
        return Some(format!("pods need cgroups of their own: {error:#}"));
    }
    let apart = ["-n", "-m", "--propagation", "private", "true"];
    if let Err(error) = run(Command::new("unshare").args(apart)) {
        return Some(format!("nodes need network and mount namespaces of their own: {error:#}"));
    }
    if !Path::new(LOOP_CONTROL).exists() {
        return Some(format!("volumes are loop devices, and there is no {LOOP_CONTROL}"));
    }
    None
}
