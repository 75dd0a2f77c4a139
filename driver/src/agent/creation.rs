//! Makes a pool, or mounts one that exists: `stillpoint pool create`, and the start of an agent in Kubernetes.
//!
//! | what it finds | what it does |
//! |---|---|
//! | the directory is a pool already | says so |
//! | the file or device carries a pool of the backend | mounts it |
//! | an empty filesystem with our label: its maker died before it was a pool | makes the pool in it |
//! | a file that was never published under its name: its maker died before that | makes a new one |
//! | the file or device carries anything else, also what nobody knows | refuses, unless it may be overwritten |
//! | nothing: its start and end are zeros | makes the filesystem, mounts it, makes the pool |
//!
//! What was made is removed again when a later step fails. A new file has a name of its own until it has a filesystem;
//! on a device, a maker that died within mkfs leaves data of an unknown kind, which is refused.

mod carrier;

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::pool::{Pool, inspect};
use crate::backend::BackendKind;
use crate::domain::{Bytes, Fault, PoolId};
use crate::host::linux::LinuxHost;

use carrier::{Carrier, Origin};

/// So much of a device's start and end must be zeros for it to count as blank.
const BLANK_BYTES: u64 = 4 << 20;

/// The label of our filesystems. XFS has room for twelve letters.
const LABEL: &str = "stillpoint";

/// A pool that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOrder {
    /// Directory at which it is mounted; made if missing.
    pub dir: PathBuf,
    /// What holds it.
    pub carrier: CarrierChoice,
    /// Its filesystem.
    pub backend: BackendKind,
    /// What becomes of a filesystem that is on the carrier already.
    pub existing: Existing,
}

/// What holds a pool's filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CarrierChoice {
    /// A sparse file: for a first try.
    File {
        /// The file.
        path: PathBuf,
        /// Its size where it is to be made.
        size: Option<Bytes>,
    },
    /// A block device: for production.
    Device(PathBuf),
}

/// What becomes of a filesystem that is on the carrier already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// A pool is mounted, anything else is refused.
    Keep,
    /// It is overwritten.
    Overwrite,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolReady {
    /// The pool.
    pub id: PoolId,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// How that came to be.
    pub deed: Deed,
}

/// How a pool came to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It was mounted already.
    Nothing,
    /// It existed and was mounted.
    Mounted,
    /// It was made.
    Made {
        /// Its filesystem.
        backend: BackendKind,
        /// Its size.
        total: Bytes,
        /// What volumes may use of it.
        available: Bytes,
    },
}

impl fmt::Display for PoolReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, dir) = (&self.id, self.dir.display());
        match &self.deed {
            Deed::Nothing => write!(f, "{dir} is pool {id} already"),
            Deed::Mounted => write!(f, "pool {id} mounted at {dir}"),
            Deed::Made { backend, total, available } => {
                write!(f, "pool {id} made at {dir}: {backend}, {total}, {available} available")
            }
        }
    }
}

/// Whether [`create_pool`] would make a new pool: there is none, and nothing of one.
pub fn would_make(order: &PoolOrder) -> Result<bool, Fault> {
    if inspect(&LinuxHost, &order.dir).is_ok() {
        return Ok(false);
    }
    match &order.carrier {
        CarrierChoice::File { path, .. } => Ok(!path.exists()),
        CarrierChoice::Device(device) => Ok(signature(device)?.is_none()),
    }
}

/// Makes it so. Needs root, blocks.
pub fn create_pool(order: &PoolOrder) -> Result<PoolReady, Fault> {
    if order.backend == BackendKind::Memory {
        return Err(Fault::invalid(
            "a memory pool is made by the agent that has it; set kernel: memory in the agent's configuration",
        ));
    }
    std::fs::create_dir_all(&order.dir)
        .map_err(|error| at(&order.dir, "cannot make the directory", &error))?;
    let dir = absolute(&order.dir)?;
    if let Ok(pool) = inspect(&LinuxHost, &dir) {
        return Ok(PoolReady { id: pool.record.id, dir, deed: Deed::Nothing });
    }
    let mut carrier = Carrier::open(&order.carrier)?;
    match bring_up(order, &dir, &mut carrier) {
        Ok(ready) => {
            carrier.keep();
            Ok(ready)
        }
        Err(fault) => {
            carrier.undo(&dir);
            Err(fault)
        }
    }
}

/// Mounts what is there, or makes it.
fn bring_up(order: &PoolOrder, dir: &Path, carrier: &mut Carrier) -> Result<PoolReady, Fault> {
    let kind = order.backend.as_str();
    let found = signature(&carrier.device)?;
    let is_new = found.is_none() || order.existing == Existing::Overwrite;
    if is_new {
        make_filesystem(order.backend, &carrier.device)?;
        carrier.publish()?;
    } else if found.as_deref() != Some(kind) {
        return Err(Fault::precondition(format!(
            "{} carries {}; name an empty one, or allow it to be overwritten (--force)",
            carrier.shown.display(),
            found.unwrap_or_default()
        )));
    }
    carrier.mount = mount(kind, &carrier.device, dir)?;
    if !is_new {
        match inspect(&LinuxHost, dir) {
            Ok(pool) => return Ok(PoolReady { id: pool.record.id, dir: dir.into(), deed: Deed::Mounted }),
            Err(error) if !is_ours(&carrier.device)? => {
                return Err(Fault::precondition(format!(
                    "{} carries a {kind} filesystem that is no pool ({error}); name an empty one, or allow it to be overwritten (--force)",
                    carrier.shown.display()
                )));
            }
            // Its maker died here. With anything in it that is not ours, it is refused below.
            Err(_) => {}
        }
    }
    let record = Pool::make(&LinuxHost, order.backend, dir)?;
    let space = inspect(&LinuxHost, dir)?.space;
    let made = Deed::Made { backend: order.backend, total: space.total, available: space.available };
    Ok(PoolReady { id: record.id, dir: dir.into(), deed: made })
}

/// Mounts a device, unless somebody has done so already.
fn mount(kind: &str, device: &Path, dir: &Path) -> Result<Origin, Fault> {
    let source = printed("findmnt", &["--noheadings", "--output", "SOURCE", "--mountpoint"], dir)?;
    // A device may be named by a link, such as those in /dev/disk/by-id.
    let real = device.canonicalize().unwrap_or_else(|_| device.to_owned());
    match source.as_deref() {
        Some(source) if [device, &real].contains(&Path::new(source)) => return Ok(Origin::Found),
        Some(source) => {
            return Err(Fault::precondition(format!(
                "{source} is mounted at {}, not {}; unmount it, or name another directory",
                dir.display(),
                device.display()
            )));
        }
        None => {}
    }
    command(
        "mount",
        &["-t".as_ref(), kind.as_ref(), "-o".as_ref(), "noatime".as_ref(), device.as_ref(), dir.as_ref()],
    )?;
    Ok(Origin::MadeNow)
}

/// Whether a device carries a filesystem that was made here.
fn is_ours(device: &Path) -> Result<bool, Fault> {
    let label = printed("blkid", &["-p", "-o", "value", "-s", "LABEL"], device)?;
    Ok(label.as_deref() == Some(LABEL))
}

/// The line that a program prints of a path; `None` when it finds nothing to say.
fn printed(program: &'static str, arguments: &[&str], path: &Path) -> Result<Option<String>, Fault> {
    let output =
        Command::new(program).args(arguments).arg(path).output().map_err(|error| missing(program, &error))?;
    let line = String::from_utf8_lossy(&output.stdout).lines().last().map(|line| line.trim().to_owned());
    Ok(line.filter(|line| output.status.success() && !line.is_empty()))
}

/// The directory as the kernel's table of mounts calls it.
pub fn absolute(dir: &Path) -> Result<PathBuf, Fault> {
    dir.canonicalize().map_err(|error| at(dir, "cannot find the directory", &error))
}

/// Type of what a device carries, by its magic numbers, or by not being blank.
fn signature(device: &Path) -> Result<Option<String>, Fault> {
    let output = Command::new("blkid")
        .args(["-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE"])
        .arg(device)
        .output()
        .map_err(|error| missing("blkid", &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (output.status.code(), text.lines().next()) {
        (Some(0), Some(kind)) => Ok(Some(kind.trim().to_owned())),
        // 2: nothing was found that is known. It may still be somebody's notes.
        (Some(0 | 2), _) => {
            let blank = is_blank(device).map_err(|error| at(device, "cannot read", &error))?;
            Ok((!blank).then(|| "data of an unknown kind".to_owned()))
        }
        // 8: contradicting signatures. Anything else: an error.
        _ => Ok(Some(format!("something that blkid cannot tell ({})", output.status))),
    }
}

/// Whether the start and the end of a device are zeros.
fn is_blank(device: &Path) -> std::io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    for start in [0, size.saturating_sub(BLANK_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut looked_at = Vec::new();
        file.by_ref().take(BLANK_BYTES).read_to_end(&mut looked_at)?;
        if looked_at.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn make_filesystem(backend: BackendKind, device: &Path) -> Result<(), Fault> {
    let (program, options): (_, &[&str]) = match backend {
        BackendKind::Btrfs => {
            // Metadata twice, also on one disk: a bad sector in it would lose more than the blocks of one volume.
            ("mkfs.btrfs", &["-f", "-q", "-K", "-L", LABEL, "-d", "single", "-m", "dup"])
        }
        BackendKind::Xfs => ("mkfs.xfs", &["-f", "-q", "-K", "-L", LABEL, "-m", "reflink=1"]),
        BackendKind::Memory => return Err(Fault::invalid("a memory pool has no device")),
    };
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(std::convert::AsRef::as_ref).collect();
    arguments.push(device.as_ref());
    command(program, &arguments)
}

fn command(program: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<(), Fault> {
    let output = Command::new(program).args(arguments).output().map_err(|error| missing(program, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(Fault::internal(format!("{program} failed ({}): {said}", output.status)))
}

/// A program that cannot be run.
pub fn missing(program: &str, error: &std::io::Error) -> Fault {
    Fault::precondition(format!(
        "cannot run {program}: {error}; install it (btrfs-progs, xfsprogs, util-linux)"
    ))
}

/// Something that went wrong at a path.
pub fn at(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    Fault::precondition(format!("{what} {}: {error}", path.display()))
}

impl From<crate::host::HostError> for Fault {
    fn from(error: crate::host::HostError) -> Self {
        Self::internal(error.to_string())
    }
}
