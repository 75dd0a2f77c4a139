//! Takes a cluster apart, or what a crash left of one. Nothing is asked of the cluster itself.
//!
//! Order: pods and programs of the nodes die first, then what they mounted is thawed and unmounted inside the node's
//! namespace (a pool outlives a namespace when a loop device still holds it), then the namespaces end with their
//! holders, then cgroups and files go.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cgroups::Cgroups;
use super::launch::run;
use super::{Layout, Place, place};

/// Where a node's volumes and pools are, seen from inside.
const NODE_ROOTS: &[&str] = &["/var/lib/kubelet", "/var/lib/stillpoint", "/run"];
/// Volumes are mounted on loop devices on pools on loop devices.
const PASSES: usize = 8;

/// Removes everything of the cluster; what had to be let go by force or is still there is an error.
pub fn down(layout: &Layout) -> Result<()> {
    let cgroups = Cgroups::of(layout)?;
    for node in Place::nodes() {
        let holder = place::holder(layout, node);
        cgroups.kill(node, holder)?;
        if let Some(holder) = holder {
            release_inside(holder).with_context(|| format!("cannot take the mounts of {node} apart"))?;
            cgroups.kill(node, None)?;
        }
    }
    cgroups.kill(Place::ControlPlane, None)?;
    cgroups.remove()?;
    let stuck = detach_files_below(&[layout.run()])?;
    ensure!(
        stuck.is_empty(),
        "loop devices of {} are still in use: {}",
        layout.run().display(),
        stuck.join(", ")
    );
    if layout.run().exists() {
        fs::remove_dir_all(layout.run())
            .with_context(|| format!("cannot remove {}", layout.run().display()))?;
    }
    Ok(())
}

/// Whether anything of the cluster exists.
pub fn exists(layout: &Layout) -> Result<bool> {
    let cgroups = Cgroups::of(layout)?;
    Ok(layout.run().exists() || Place::all().any(|place| !cgroups.processes(place).is_empty()))
}

/// Continues [`release`] inside a node, by this same program.
fn release_inside(holder: i32) -> Result<()> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let own = if own.ends_with("stillpoint-cluster") {
        own
    } else {
        crate::harness::binaries::binary("stillpoint-cluster")?
    };
    run(place::enter(holder).arg(own).arg("release"))?;
    Ok(())
}

/// Thaws, unmounts and detaches everything below the node's directories. Runs inside the node.
pub fn release() -> Result<()> {
    let roots: Vec<&Path> = NODE_ROOTS.iter().map(Path::new).collect();
    for target in mounts(&roots)? {
        // One that is not frozen refuses; then there is nothing to do.
        let _not_frozen = Command::new("fsfreeze").arg("-u").arg(&target).output();
    }
    let mut stuck = Vec::new();
    for _ in 0..PASSES {
        // What is in use by something that is unmounted later goes in the next pass.
        for target in mounts(&roots)? {
            if is_pool_in_use(&target)? {
                continue;
            }
            let _busy = Command::new("umount").arg(&target).output();
        }
        stuck = detach_files_below(&roots)?;
        if stuck.is_empty() && mounts(&roots)?.len() <= NODE_ROOTS.len() {
            break;
        }
    }
    ensure!(stuck.is_empty(), "loop devices are still in use: {}", stuck.join(", "));
    Ok(())
}

/// A pool must stay mounted until the loop devices over its files are gone: afterwards nobody could find them.
fn is_pool_in_use(target: &Path) -> Result<bool> {
    let files = identities(&[target]);
    Ok(loops()?.iter().any(|device| files.contains(&device.backing)))
}

/// Detaches the loop devices over files below these directories, and those over them: the kubelet makes one of each raw
/// volume. Those that did not go.
fn detach_files_below(roots: &[&Path]) -> Result<Vec<String>> {
    let files = identities(roots);
    let nodes = |device: &Loop| fs::metadata(&device.path).map(|node| (node.dev(), node.ino())).ok();
    for device in over(&files, &loops()?, nodes).iter().rev() {
        let _busy = Command::new("losetup").arg("-d").arg(device).output();
    }
    Ok(over(&files, &loops()?, nodes))
}

/// Loop devices over these files, and over such devices; each behind the one that it is over.
fn over(files: &BTreeSet<Identity>, loops: &[Loop], node: impl Fn(&Loop) -> Option<Identity>) -> Vec<String> {
    let mut below = files.clone();
    let mut found: Vec<String> = Vec::new();
    loop {
        let next = loops.iter().find(|d| below.contains(&d.backing) && !found.contains(&d.path));
        let Some(device) = next else { return found };
        found.push(device.path.clone());
        below.extend(node(device));
    }
}

/// Device and inode of a file: paths are no proof, every node has the same ones.
type Identity = (u64, u64);

struct Loop {
    path: String,
    backing: Identity,
}

fn loops() -> Result<Vec<Loop>> {
    let text = run(Command::new("losetup").args([
        "--list",
        "--noheadings",
        "--raw",
        "-O",
        "NAME,BACK-MAJ:MIN,BACK-INO",
    ]))?;
    Ok(text.lines().filter_map(parse_loop).collect())
}

fn parse_loop(line: &str) -> Option<Loop> {
    let mut words = line.split_whitespace();
    let (path, device, inode) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = device.split_once(':')?;
    let device = nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Loop { path: path.into(), backing: (device, inode.parse().ok()?) })
}

/// Regular files below directories; links are not followed.
fn identities(roots: &[&Path]) -> BTreeSet<Identity> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && let Ok(meta) = entry.metadata()
            {
                found.insert((meta.dev(), meta.ino()));
            }
        }
    }
    found
}

/// Mount points at or below directories, the newest first.
fn mounts(roots: &[&Path]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for root in roots {
        found.extend(crate::harness::leftovers::mounts_below(root)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_device_is_known_by_the_identity_of_its_file() {
        let device = parse_loop("/dev/loop7 254:0  131085").unwrap();
        assert_eq!(device.path, "/dev/loop7");
        assert_eq!(device.backing, (nix::sys::stat::makedev(254, 0), 131_085));
        assert!(parse_loop("/dev/loop7").is_none());
    }

    #[test]
    fn loop_devices_over_loop_devices_of_ours_are_ours() {
        let at = |path: &str, backing| Loop { path: path.into(), backing };
        let loops = [at("/dev/loop9", (6, 107)), at("/dev/loop7", (5, 1)), at("/dev/loop3", (6, 999))];
        let node = |device: &Loop| (device.path == "/dev/loop7").then_some((6, 107));
        assert_eq!(over(&BTreeSet::from([(5, 1)]), &loops, node), ["/dev/loop7", "/dev/loop9"]);
    }

    #[test]
    fn a_file_is_found_by_its_identity_and_a_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::create_dir(scratch.path().join("deep")).unwrap();
        fs::write(scratch.path().join("deep/disk.img"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), scratch.path().join("link")).unwrap();
        let meta = fs::metadata(scratch.path().join("deep/disk.img")).unwrap();
        assert_eq!(identities(&[scratch.path()]), BTreeSet::from([(meta.dev(), meta.ino())]));
    }
}
