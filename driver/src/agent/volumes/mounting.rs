//! Making one mount of a volume: what is checked before, and what is undone when it is not what was meant.

use std::path::Path;

use stillpoint_guard::fault::point;

use super::faults::{cannot_grow, machine, not_mounted, through_symlink};
use super::{NodeVolumes, VolumeImage, Wish, Writing};
use crate::agent::health;
use crate::agent::mounts::{At, Sight};
use crate::domain::Fault;
use crate::domain::health::Condition;
use crate::host::{Check, FileKind, LoopDevice, MountRequest};

impl NodeVolumes {
    /// Attaches and mounts. The device is writable even for a read-only mount: the image of a volume that was cut
    /// while it was in use has a log that the filesystem must replay.
    pub(super) fn mount(
        &self,
        image: &VolumeImage,
        sight: &Sight,
        target: &Path,
        wish: &Wish<'_>,
    ) -> Result<LoopDevice, Fault> {
        let device = self.device(image, sight, Writing::Allowed)?;
        point("agent.stage.attached");
        let mounted = self.make_fit(image, &device, wish).and_then(|()| {
            let request = MountRequest {
                device: &device.path,
                target,
                filesystem: wish.filesystem,
                read_only: wish.read_only,
                options: wish.options,
            };
            self.host.mount(&request).map_err(|error| not_mounted(error, image))
        });
        if let Err(fault) = mounted {
            self.drop_unused_devices(image);
            return Err(fault);
        }
        self.verify(image, sight, target)?;
        Ok(device)
    }

    /// Checks a filesystem that is not mounted, and grows it where that cannot be done once it is. One with errors that
    /// nobody has looked at is not mounted: writing to it could make them worse.
    fn make_fit(&self, image: &VolumeImage, device: &LoopDevice, wish: &Wish<'_>) -> Result<(), Fault> {
        let (volume, filesystem) = (wish.volume, wish.filesystem);
        match self.host.check_filesystem(&device.path, filesystem).map_err(machine)? {
            Check::Sound => {}
            Check::Repaired => tracing::warn!(%volume, "its filesystem had errors, which were repaired"),
            // Mounted already, where this process does not see it.
            Check::InUse => return Ok(()),
            Check::Damaged(said) => {
                let ailment = health::damaged(volume, &image.path, &said);
                self.noted.note(volume, ailment.clone());
                return Err(Fault::precondition(ailment.message));
            }
        }
        self.noted.clear(volume, Condition::FilesystemDamaged);
        if wish.read_only || self.host.grows_mounted(filesystem) {
            return Ok(());
        }
        if device.size < image.capacity {
            self.host.refresh_size(&device.path).map_err(machine)?;
        }
        if let Err(error) = self.host.grow_unmounted(&device.path, filesystem) {
            // Its users can work with the size that it has; the condition says so.
            tracing::warn!(%volume, %error, "the filesystem could not be grown before it was mounted");
        }
        Ok(())
    }

    /// Grows a mounted filesystem to its volume. Growing to the size that it has is fine for both filesystems.
    pub(super) fn grow_to_image(
        &self,
        image: &VolumeImage,
        device: &LoopDevice,
        mount: &Path,
    ) -> Result<(), Fault> {
        if device.size < image.capacity {
            self.host.refresh_size(&device.path).map_err(machine)?;
        }
        let Some(filesystem) = image.filesystem else { return Ok(()) };
        let covered = self.host.filesystem_size(mount, &device.path, filesystem).map_err(machine)?;
        if covered >= image.capacity {
            return Ok(());
        }
        let may_grow = self.host.grows_mounted(filesystem);
        let is_short = image.capacity.saturating_sub(covered) > filesystem.growth_slack();
        match self.host.grow_filesystem(mount, &device.path, filesystem) {
            Err(error) if may_grow || is_short => Err(cannot_grow(error, filesystem, may_grow)),
            // Nothing worth growing was left.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Binds a device node to a file.
    pub(super) fn bind_node(
        &self,
        image: &VolumeImage,
        sight: &Sight,
        device: &LoopDevice,
        target: &Path,
    ) -> Result<(), Fault> {
        match self.host.stat(target).map_err(machine)? {
            None => self.host.make_file(target).map_err(machine)?,
            Some(meta) if meta.kind == FileKind::File => {}
            Some(_) => {
                return Err(Fault::precondition(format!(
                    "{} exists and is not a file; remove it first",
                    target.display()
                )));
            }
        }
        self.host.bind(&device.path, target, device.read_only).map_err(|error| {
            self.drop_unused_devices(image);
            machine(error)
        })?;
        self.verify(image, sight, target)
    }

    /// Refuses a path that goes through a symbolic link, before anything is done at it. What does not exist yet is made
    /// in its parent.
    pub(super) fn refuse_link(&self, path: &Path) -> Result<(), Fault> {
        let there = self.host.resolve(path).map_err(machine)?;
        let (asked, found) = match (there, path.parent()) {
            (None, Some(parent)) => (parent, self.host.resolve(parent).map_err(machine)?),
            (there, _) => (path, there),
        };
        match found {
            Some(found) if found != asked => Err(through_symlink(path)),
            Some(_) | None => Ok(()),
        }
    }

    /// Makes sure that what was just mounted is at this path, and undoes it where it is not.
    pub(super) fn verify(&self, image: &VolumeImage, before: &Sight, target: &Path) -> Result<(), Fault> {
        let now = self.sight(image)?;
        if let At::Volume(_) = now.at(target) {
            return Ok(());
        }
        for place in now.places.iter().rev().filter(|place| !before.places.contains(place)) {
            self.host.unmount(&place.target).map_err(machine)?;
        }
        self.drop_unused_devices(image);
        Err(through_symlink(target))
    }
}
