//! The file or device that a pool is on. A new file has a name of its own until it has a filesystem.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{CarrierChoice, at};
use crate::domain::{Bytes, Fault};
use crate::host::linux::LinuxHost;
use crate::host::{Loops, Mounts};

/// A pool smaller than this holds nothing but its own bookkeeping.
const LEAST_SIZE: Bytes = Bytes::gib(1);

/// What a file is called while it has no filesystem, after its name.
const HALF_MADE: &str = ".half-made";

/// What carries a pool's filesystem.
pub(super) struct Carrier {
    /// What was named.
    pub(super) shown: PathBuf,
    /// The block device.
    pub(super) device: PathBuf,
    /// The file behind it, if it is one.
    file: Option<BackingFile>,
    /// Whether this command has mounted it.
    pub(super) mount: Origin,
}

struct BackingFile {
    /// Where it is now.
    path: PathBuf,
    /// Where it belongs.
    published: PathBuf,
    origin: Origin,
}

/// Where a backing file or a mount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Made by this command, so removed when it fails.
    MadeNow,
    /// It was there before.
    Found,
}

impl Carrier {
    pub(super) fn open(choice: &CarrierChoice) -> Result<Self, Fault> {
        let (path, size) = match choice {
            CarrierChoice::Device(device) => return Self::of_device(device),
            CarrierChoice::File { path, size } => (path, *size),
        };
        let file = if path.exists() { BackingFile::found(path) } else { BackingFile::make(path, size)? };
        let known = LinuxHost.attached(&file.path)?.into_iter().next();
        let attached = known.map_or_else(|| LinuxHost.attach(&file.path, false), Ok);
        match attached {
            Ok(device) => {
                let mount = Origin::Found;
                Ok(Self { shown: path.clone(), device: device.path, file: Some(file), mount })
            }
            Err(error) => {
                file.remove_if_new();
                Err(Fault::precondition(format!(
                    "cannot attach {} as a loop device with direct I/O: {error}; put the file on a local filesystem",
                    path.display()
                )))
            }
        }
    }

    fn of_device(device: &Path) -> Result<Self, Fault> {
        let meta =
            std::fs::metadata(device).map_err(|error| at(device, "cannot look at the device", &error))?;
        if !meta.file_type().is_block_device() {
            return Err(Fault::invalid(format!(
                "{} is not a block device; use --file for a pool in a file",
                device.display()
            )));
        }
        Ok(Self { shown: device.into(), device: device.into(), file: None, mount: Origin::Found })
    }

    /// Gives a new file its name, now that it has a filesystem.
    pub(super) fn publish(&mut self) -> Result<(), Fault> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.path == file.published {
            return Ok(());
        }
        let published = File::open(&file.path)
            .and_then(|open| open.sync_all())
            .and_then(|()| std::fs::rename(&file.path, &file.published))
            .and_then(|()| File::open(parent(&file.published))?.sync_all());
        published.map_err(|error| at(&file.published, "cannot publish the file", &error))?;
        file.path.clone_from(&file.published);
        Ok(())
    }

    /// The kernel lets a loop device go when its filesystem is unmounted.
    pub(super) fn keep(&self) {
        if self.file.is_some()
            && let Err(error) = LinuxHost.detach(&self.device)
        {
            tracing::warn!(%error, "the loop device stays attached after the pool is unmounted");
        }
    }

    /// After a failure: what was there before is there again. What resists is named by the next attempt.
    pub(super) fn undo(&self, dir: &Path) {
        let unmounted = match self.mount {
            Origin::MadeNow => LinuxHost.unmount(dir),
            Origin::Found => Ok(()),
        };
        // A device that is mounted still goes with its last mount.
        let undone = unmounted.and_then(|()| match &self.file {
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
    fn found(path: &Path) -> Self {
        Self { path: path.into(), published: path.into(), origin: Origin::Found }
    }

    /// Makes one under the name of a half-made file; what had that name is of somebody who died.
    fn make(published: &Path, size: Option<Bytes>) -> Result<Self, Fault> {
        let size = size.ok_or_else(|| {
            Fault::invalid(format!(
                "{} does not exist; give its size to make it, for example --size 20GiB",
                published.display()
            ))
        })?;
        if size < LEAST_SIZE {
            return Err(Fault::out_of_range(format!(
                "a pool of {size} is too small; use {LEAST_SIZE} or more"
            )));
        }
        let mut path = published.as_os_str().to_owned();
        path.push(HALF_MADE);
        let path = PathBuf::from(path);
        if path.exists() {
            tracing::info!(path = %path.display(), "making the pool again that somebody has left half made");
            for device in LinuxHost.attached(&path)? {
                LinuxHost.detach(&device.path)?;
            }
            std::fs::remove_file(&path).map_err(|error| at(&path, "cannot remove", &error))?;
        }
        let made = File::create_new(&path).and_then(|file| file.set_len(size.0));
        made.map_err(|error| at(&path, "cannot make the file", &error))?;
        Ok(Self { path, published: published.into(), origin: Origin::MadeNow })
    }

    fn remove_if_new(&self) {
        if self.origin == Origin::MadeNow
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the new file could not be removed");
        }
    }
}

/// The directory of a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
