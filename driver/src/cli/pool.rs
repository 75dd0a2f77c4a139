//! `stillpoint pool`: makes, shows and removes the pools of this machine. Needs root; talks to no controller.
//!
//! `pool create` is also what mounts a pool again after a reboot: whatever is there already is kept.
//!
//! | what it finds | what it does |
//! |---|---|
//! | the directory is a pool already | says so |
//! | the file or device carries a pool of the backend | mounts it |
//! | the file or device carries anything else | refuses, unless `--force` |
//! | nothing | makes the filesystem, mounts it, makes the pool |

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{Format, print, print_json};
use crate::agent::pool::{Access, Pool, PoolSummary, inspect};
use crate::backend::BackendKind;
use crate::domain::{Bytes, Fault};
use crate::host::linux::LinuxHost;
use crate::host::{Files, Loops, Mounts};
use crate::observe::table::with_header;

/// A pool smaller than this holds nothing but its own bookkeeping.
const LEAST_SIZE: Bytes = Bytes::gib(1);

/// Pools of this machine.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool, or mount one that exists.
    Create(CreateArgs),
    /// Show pools.
    List(ListArgs),
    /// Remove a pool that lives in a file, with everything in it.
    Destroy(DestroyArgs),
}

/// Arguments of `pool create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Directory at which the pool is mounted; made if missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Sparse file that holds the pool: for a first try.
    #[arg(long, value_name = "PATH", required_unless_present = "device", conflicts_with = "device")]
    pub file: Option<PathBuf>,
    /// Size of a new file, for example 20GiB.
    #[arg(long, value_name = "SIZE", requires = "file")]
    pub size: Option<Bytes>,
    /// Block device that holds the pool: for production.
    #[arg(long, value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// btrfs or xfs.
    #[arg(long, default_value = "btrfs")]
    pub backend: BackendKind,
    /// Overwrite what the file or device carries.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `pool list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Directories of pools; all mounted pools when none is named.
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

/// Arguments of `pool destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Directory of the pool.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Yes, with all volumes and snapshots in it.
    #[arg(long)]
    pub yes: bool,
}

/// Runs one of them.
pub fn run(command: PoolCommand) -> Result<(), Fault> {
    match command {
        PoolCommand::Create(args) => create(&args),
        PoolCommand::List(args) => list(&args),
        PoolCommand::Destroy(args) => destroy(&args),
    }
}

fn create(args: &CreateArgs) -> Result<(), Fault> {
    if args.backend == BackendKind::Memory {
        return Err(Fault::invalid(
            "a memory pool is made by the agent that has it; set kernel: memory in the agent's configuration",
        ));
    }
    if let Ok(pool) = inspect(&LinuxHost, &args.dir) {
        return print(&format!("{} is pool {} already", args.dir.display(), pool.record.id));
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| at(&args.dir, "cannot make the directory", &error))?;
    let carrier = Carrier::open(args)?;
    match bring_up(args, &carrier) {
        Ok(said) => {
            carrier.keep();
            print(&said)
        }
        Err(fault) => {
            carrier.undo(&args.dir);
            Err(fault)
        }
    }
}

/// Mounts what is there, or makes it.
fn bring_up(args: &CreateArgs, carrier: &Carrier) -> Result<String, Fault> {
    let kind = args.backend.as_str();
    let device = &carrier.device;
    let found = signature(device)?;
    let is_new = found.is_none() || args.force;
    if is_new {
        make_filesystem(args.backend, device)?;
    } else if found.as_deref() != Some(kind) {
        return Err(Fault::precondition(format!(
            "{} carries {}; name an empty one, or add --force to overwrite it",
            carrier.shown.display(),
            found.unwrap_or_default()
        )));
    }
    command(
        "mount",
        &[
            "-t".as_ref(),
            kind.as_ref(),
            "-o".as_ref(),
            "noatime".as_ref(),
            device.as_ref(),
            args.dir.as_ref(),
        ],
    )?;
    if !is_new {
        let pool = inspect(&LinuxHost, &args.dir).map_err(|error| {
            Fault::precondition(format!(
                "{} carries a {kind} filesystem that is no pool ({error}); name an empty one, or add --force to overwrite it",
                carrier.shown.display()
            ))
        })?;
        return Ok(format!("pool {} mounted at {}", pool.record.id, args.dir.display()));
    }
    let record = Pool::make(&LinuxHost, args.backend, &args.dir)?;
    let space = inspect(&LinuxHost, &args.dir)?.space;
    Ok(format!(
        "pool {} made at {}: {kind}, {}, {} available",
        record.id,
        args.dir.display(),
        space.total,
        space.available
    ))
}

/// What carries a pool's filesystem.
struct Carrier {
    /// What was named.
    shown: PathBuf,
    /// The block device.
    device: PathBuf,
    /// The file behind it, if it is one.
    file: Option<BackingFile>,
}

struct BackingFile {
    path: PathBuf,
    origin: Origin,
}

/// Where a backing file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Made by this command, so removed when it fails.
    MadeNow,
    /// It was there before.
    Found,
}

impl Carrier {
    fn open(args: &CreateArgs) -> Result<Self, Fault> {
        if let Some(device) = &args.device {
            let meta =
                std::fs::metadata(device).map_err(|error| at(device, "cannot look at the device", &error))?;
            if !meta.file_type().is_block_device() {
                return Err(Fault::invalid(format!(
                    "{} is not a block device; use --file for a pool in a file",
                    device.display()
                )));
            }
            return Ok(Self { shown: device.clone(), device: device.clone(), file: None });
        }
        let Some(path) = &args.file else { return Err(Fault::invalid("name --file or --device")) };
        let origin = if path.exists() { Origin::Found } else { make_file(path, args.size)? };
        let file = BackingFile { path: path.clone(), origin };
        let attached =
            LinuxHost.attached(path)?.into_iter().next().map_or_else(|| LinuxHost.attach(path, false), Ok);
        match attached {
            Ok(device) => Ok(Self { shown: path.clone(), device: device.path, file: Some(file) }),
            Err(error) => {
                file.remove_if_new();
                Err(Fault::precondition(format!(
                    "cannot attach {} as a loop device with direct I/O: {error}; put the file on a local filesystem",
                    path.display()
                )))
            }
        }
    }

    /// The kernel lets a loop device go when its filesystem is unmounted.
    fn keep(&self) {
        if self.file.is_some()
            && let Err(error) = LinuxHost.detach(&self.device)
        {
            tracing::warn!(%error, "the loop device stays attached after the pool is unmounted");
        }
    }

    /// After a failure: what was there before is there again. What resists is named by the next attempt.
    fn undo(&self, dir: &Path) {
        let undone = LinuxHost.unmount(dir).and_then(|()| match &self.file {
            Some(_) => LinuxHost.detach(&self.device),
            None => Ok(()),
        });
        if let Err(error) = undone {
            tracing::warn!(%error, "not everything could be undone");
        }
        if let Some(file) = &self.file {
            file.remove_if_new();
        }
    }
}

impl BackingFile {
    fn remove_if_new(&self) {
        if self.origin == Origin::MadeNow
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the new file could not be removed");
        }
    }
}

fn make_file(path: &Path, size: Option<Bytes>) -> Result<Origin, Fault> {
    let size = size.ok_or_else(|| {
        Fault::invalid(format!(
            "{} does not exist; add --size to make it, for example --size 20GiB",
            path.display()
        ))
    })?;
    if size < LEAST_SIZE {
        return Err(Fault::out_of_range(format!("a pool of {size} is too small; use {LEAST_SIZE} or more")));
    }
    let made = File::create_new(path).and_then(|file| file.set_len(size.0));
    made.map(|()| Origin::MadeNow).map_err(|error| at(path, "cannot make the file", &error))
}

/// Type of what a device carries, by its magic numbers.
fn signature(device: &Path) -> Result<Option<String>, Fault> {
    let output = Command::new("blkid")
        .args(["-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE"])
        .arg(device)
        .output()
        .map_err(|error| missing("blkid", &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (output.status.code(), text.lines().next()) {
        (Some(0), Some(kind)) => Ok(Some(kind.trim().to_owned())),
        // 2: nothing was found.
        (Some(0 | 2), _) => Ok(None),
        // 8: contradicting signatures. Anything else: an error.
        _ => Ok(Some(format!("something that blkid cannot tell ({})", output.status))),
    }
}

fn make_filesystem(backend: BackendKind, device: &Path) -> Result<(), Fault> {
    let (program, options): (_, &[&str]) = match backend {
        BackendKind::Btrfs => ("mkfs.btrfs", &["-f", "-q", "-K", "-d", "single", "-m", "single"]),
        BackendKind::Xfs => ("mkfs.xfs", &["-f", "-q", "-K", "-m", "reflink=1"]),
        BackendKind::Memory => return Err(Fault::invalid("a memory pool has no device")),
    };
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(std::convert::AsRef::as_ref).collect();
    arguments.push(device.as_ref());
    command(program, &arguments)
}

/// One line of `pool list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    dir: PathBuf,
    backend: String,
    total_bytes: u64,
    available_bytes: u64,
    volumes: usize,
    cuts: usize,
    read_only: bool,
}

impl Row {
    fn new(dir: PathBuf, pool: &PoolSummary) -> Self {
        Self {
            id: pool.record.id.to_string(),
            dir,
            backend: pool.record.backend.clone(),
            total_bytes: pool.space.total.0,
            available_bytes: pool.space.available.0,
            volumes: pool.volumes,
            cuts: pool.cuts,
            read_only: pool.access == Access::ReadOnly,
        }
    }
}

fn list(args: &ListArgs) -> Result<(), Fault> {
    let rows = if args.dirs.is_empty() {
        mounted_pools()?
    } else {
        let look = |dir: &PathBuf| Ok(Row::new(dir.clone(), &inspect(&LinuxHost, dir)?));
        args.dirs.iter().map(look).collect::<Result<_, Fault>>()?
    };
    match args.output {
        Format::Json => print_json(&rows),
        Format::Text if rows.is_empty() => {
            print("no pool is mounted; make one: stillpoint pool create --dir DIR --file PATH --size 20GiB")
        }
        Format::Text => print(&table(&rows)),
    }
}

/// Every mounted filesystem with a pool's record at its root.
fn mounted_pools() -> Result<Vec<Row>, Fault> {
    let is_pool_kind = |kind: &str| matches!(kind, "btrfs" | "xfs");
    let mut rows: Vec<Row> = LinuxHost
        .mounts()?
        .into_iter()
        .filter(|mounted| is_pool_kind(&mounted.kind) && mounted.root == Path::new("/"))
        .filter_map(|mounted| {
            Some(Row::new(mounted.target.clone(), &inspect(&LinuxHost, &mounted.target).ok()?))
        })
        .collect();
    rows.sort_by(|left, right| left.dir.cmp(&right.dir));
    rows.dedup_by(|left, right| left.dir == right.dir);
    Ok(rows)
}

fn table(rows: &[Row]) -> String {
    let mut table =
        with_header(&["POOL", "DIRECTORY", "BACKEND", "SIZE", "AVAILABLE", "VOLUMES", "CUTS", "ACCESS"]);
    for row in rows {
        table.add_row([
            row.id.clone(),
            row.dir.display().to_string(),
            row.backend.clone(),
            Bytes(row.total_bytes).to_string(),
            Bytes(row.available_bytes).to_string(),
            row.volumes.to_string(),
            row.cuts.to_string(),
            if row.read_only { "read-only" } else { "writable" }.to_owned(),
        ]);
    }
    table.to_string()
}

fn destroy(args: &DestroyArgs) -> Result<(), Fault> {
    let pool = inspect(&LinuxHost, &args.dir)?;
    let what = format!("pool {} with {} volumes and {} cuts", pool.record.id, pool.volumes, pool.cuts);
    if !args.yes {
        return Err(Fault::precondition(format!("this removes {what} for good; add --yes if that is meant")));
    }
    let source = source_of(&args.dir)?;
    let backing = backing_file(&source).ok_or_else(|| {
        Fault::precondition(format!(
            "{what} is on {}, not in a file; unmount {} and wipe the device by hand",
            source.display(),
            args.dir.display()
        ))
    })?;
    let used: Vec<String> = volumes_in_use(&args.dir)?;
    if !used.is_empty() {
        return Err(Fault::precondition(format!(
            "volumes are in use ({}); unstage them first",
            used.join(", ")
        )));
    }
    LinuxHost.unmount(&args.dir)?;
    LinuxHost.detach(&source)?;
    std::fs::remove_file(&backing).map_err(|error| at(&backing, "cannot remove the file", &error))?;
    print(&format!("{what} removed"))
}

fn source_of(dir: &Path) -> Result<PathBuf, Fault> {
    let output = Command::new("findmnt")
        .args(["-n", "-o", "SOURCE", "--mountpoint"])
        .arg(dir)
        .output()
        .map_err(|error| missing("findmnt", &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let source = text.lines().last().map(str::trim).filter(|source| source.starts_with("/dev/"));
    source
        .map(PathBuf::from)
        .ok_or_else(|| Fault::precondition(format!("nothing is mounted at {}", dir.display())))
}

/// The file behind a loop device.
fn backing_file(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str()?;
    let text = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end()))
}

/// Volumes below a pool that are attached to loop devices.
fn volumes_in_use(dir: &Path) -> Result<Vec<String>, Fault> {
    let volumes = dir.join("volumes");
    let mut used = Vec::new();
    for (name, _) in LinuxHost.list(&volumes)? {
        let image = volumes.join(&name).join(crate::backend::IMAGE);
        if LinuxHost.stat(&image)?.is_some() && !LinuxHost.attached(&image)?.is_empty() {
            used.push(name);
        }
    }
    Ok(used)
}

fn command(program: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<(), Fault> {
    let output = Command::new(program).args(arguments).output().map_err(|error| missing(program, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(Fault::internal(format!("{program} failed ({}): {said}", output.status)))
}

fn missing(program: &str, error: &std::io::Error) -> Fault {
    Fault::precondition(format!(
        "cannot run {program}: {error}; install it (btrfs-progs, xfsprogs, util-linux)"
    ))
}

fn at(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    Fault::precondition(format!("{what} {}: {error}", path.display()))
}

impl From<crate::host::HostError> for Fault {
    fn from(error: crate::host::HostError) -> Self {
        Self::internal(error.to_string())
    }
}
