//! `stillpoint pool`: makes, shows and removes the pools of this machine. Needs root; only `pool dismiss` talks to a
//! controller.
//!
//! `pool create` is also what mounts a pool again after a reboot: whatever is there already is kept.
//!
//! What it does with what it finds is in [`crate::agent::creation`]; here it is only told.

mod list;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use super::client::{connect, quick};
use super::output::{Format, print};
use crate::agent::creation::{CarrierChoice, Existing, PoolOrder, absolute, at, create_pool, missing};
use crate::agent::pool::inspect;
use crate::args::SocketArgs;
use crate::backend::BackendKind;
use crate::domain::{Bytes, Fault, PoolId};
use crate::host::linux::LinuxHost;
use crate::host::{Files, Loops, Mounts};
use crate::proto::operator::DismissPoolRequest;
use crate::wire::status::fault_of;

/// Pools of this machine.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool, or mount one that exists.
    Create(CreateArgs),
    /// Show pools.
    List(ListArgs),
    /// Remove a pool that lives in a file, with everything in it.
    Destroy(DestroyArgs),
    /// Tell the controller that a pool will not come back: what only it had is lost, and is searched for no more.
    Dismiss(DismissArgs),
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

/// Arguments of `pool dismiss`.
#[derive(Debug, Args)]
pub struct DismissArgs {
    /// Id of the pool, as errors name it.
    #[arg(value_name = "POOL")]
    pub pool: PoolId,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Runs one of them.
pub async fn run(command: PoolCommand) -> Result<(), Fault> {
    match command {
        PoolCommand::Create(args) => create(&args),
        PoolCommand::List(args) => list::list(&args),
        PoolCommand::Destroy(args) => destroy(&args),
        PoolCommand::Dismiss(args) => dismiss(args).await,
    }
}

async fn dismiss(args: DismissArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let request = DismissPoolRequest { pool: args.pool.to_string() };
    client.dismiss_pool(quick(request)).await.map_err(fault_of)?;
    print(&format!("pool {} is dismissed: what only it had is lost", args.pool))
}

fn create(args: &CreateArgs) -> Result<(), Fault> {
    let carrier = match (&args.device, &args.file) {
        (Some(device), _) => CarrierChoice::Device(device.clone()),
        (None, Some(path)) => CarrierChoice::File { path: path.clone(), size: args.size },
        (None, None) => return Err(Fault::invalid("name --file or --device")),
    };
    let existing = if args.force { Existing::Overwrite } else { Existing::Keep };
    let order = PoolOrder { dir: args.dir.clone(), carrier, backend: args.backend, existing };
    print(&create_pool(&order)?.to_string())
}

fn destroy(args: &DestroyArgs) -> Result<(), Fault> {
    let dir = &absolute(&args.dir)?;
    let pool = inspect(&LinuxHost, dir)?;
    let what = format!("pool {} with {} volumes and {} cuts", pool.record.id, pool.volumes, pool.cuts);
    if !args.yes {
        return Err(Fault::precondition(format!("this removes {what} for good; add --yes if that is meant")));
    }
    let source = source_of(dir)?;
    let backing = backing_file(&source).ok_or_else(|| {
        Fault::precondition(format!(
            "{what} is on {}, not in a file; unmount {} and wipe the device by hand",
            source.display(),
            dir.display()
        ))
    })?;
    let used: Vec<String> = volumes_in_use(dir)?;
    if !used.is_empty() {
        return Err(Fault::precondition(format!(
            "volumes are in use ({}); unstage them first",
            used.join(", ")
        )));
    }
    LinuxHost.unmount(dir)?;
    LinuxHost.detach(&source)?;
    std::fs::remove_file(&backing).map_err(|error| at(&backing, "cannot remove the file", &error))?;
    print(&format!(
        "{what} removed; a controller that knows it misses it until `stillpoint pool dismiss` says that it is gone"
    ))
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
