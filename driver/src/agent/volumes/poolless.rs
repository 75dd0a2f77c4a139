//! Giving back volumes whose pool cannot be opened: their image is not known, and their users must be able to end.

use std::path::Path;

use super::faults::{machine, occupied};
use super::{NodeVolumes, STACK_LIMIT};
use crate::agent::mounts::DEVTMPFS;
use crate::domain::{Fault, Filesystem, VolumeId};
use crate::host::Mounted;

impl NodeVolumes {
    /// Unmounts what lies at a path that the orchestrator has had made for a volume. Only filesystems that volumes carry,
    /// and device nodes. The loop device goes with its last mount; that of a raw block volume is detached when its pool is
    /// opened again.
    pub(super) fn unmount_without_pool(
        &self,
        volume: &VolumeId,
        path: &Path,
        why: &Fault,
    ) -> Result<(), Fault> {
        for _ in 0..STACK_LIMIT {
            let mounts = self.host.mounts().map_err(machine)?;
            let Some(mount) = mounts.iter().rfind(|mount| mount.target == path) else { return Ok(()) };
            let has_filesystem = mount.kind.parse::<Filesystem>().is_ok();
            if !has_filesystem && !self.is_device_node(mount)? {
                return Err(occupied(path, &mount.kind).context(why));
            }
            if has_filesystem {
                self.thaw_mount(mount)?;
            }
            self.host.unmount(path).map_err(machine)?;
            tracing::warn!(%volume, path = %path.display(), %why, "unmounted a volume whose pool cannot be opened");
        }
        let why = format!("more than {STACK_LIMIT} mounts lie on each other at {}", path.display());
        Err(Fault::internal(format!("{why}; unmount them by hand")))
    }

    /// Whether a mount is the node of a loop device, where the machine has its nodes: what a raw block volume is given as.
    fn is_device_node(&self, mount: &Mounted) -> Result<bool, Fault> {
        let name = mount.root.file_name().filter(|name| name.to_string_lossy().starts_with("loop"));
        let Some(name) = name else { return Ok(false) };
        if mount.kind == DEVTMPFS {
            return Ok(true);
        }
        let node = self.host.stat(&Path::new("/dev").join(name)).map_err(machine)?;
        Ok(node.is_some_and(|node| node.device == mount.device))
    }

    /// A filesystem that is unmounted frozen stays frozen for ever. EIO: it has shut down, and cannot be frozen.
    fn thaw_mount(&self, mount: &Mounted) -> Result<(), Fault> {
        let opened = match self.host.open_mount(&mount.target) {
            Err(error) if error.errno() == Some(libc::EIO) => return Ok(()),
            other => other.map_err(machine)?,
        };
        match opened.thaw() {
            Err(error) if error.errno() != Some(libc::EINVAL) => Err(machine(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
