//! What an orchestrator asks of this host about one volume: stage, publish, measure, grow and give back.
//!
//! Flow of a filesystem volume: image → loop device → mounted at the staging path → **detached while it is
//! mounted** → bound to each target. Detaching a device in use makes the kernel let it go at the last unmount
//! (as AUTOCLEAR does), so that neither a crash of the agent nor a forced unmount by hand leaks a device; a crash
//! between attach and mount leaves one that the next stage takes over.
//!
//! Flow of a raw block volume: image → loop device → its node bound to `<staging path>/device` → bound to each
//! target. A bound node does not keep a device in use, so it stays attached until unstage. A reader next to a
//! writer gets a second, read-only device, because a read-only bind of a device node forbids nothing.
//!
//! Guarantees: every call may be repeated, also by an agent that was restarted in its middle; only mounts of the
//! volume's own devices are unmounted, only devices over its own image are detached.
//! Paths through a symbolic link are refused before anything is done: the mount table shows resolved paths, so such a
//! mount could not be found again. Where that changes in between, exactly the mount that was made is undone.

mod faults;
mod measure;
mod mounting;
mod poolless;
mod publish;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stillpoint_guard::fault::point;

use faults::{check_access, machine, mode, occupied, unusable};

use super::health::{self, Noted};
use super::locks::{Purpose, VolumeLocks};
use super::mounts::{At, Place, PlaceKind, STAGED_DEVICE, Sight, check_path};
use crate::domain::health::Ailment;
use crate::domain::mount_options::{self, Flag};
use crate::domain::node::{Access, StageRequest};
use crate::domain::{Bytes, Code, Fault, Filesystem, VolumeId};
use crate::host::{FileKind, Host, LoopDevice};

/// Mounts that may lie on each other at one path before something is wrong.
const STACK_LIMIT: usize = 16;

/// What staging must know of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeImage {
    /// The image file.
    pub path: PathBuf,
    /// Its size.
    pub capacity: Bytes,
    /// Filesystem inside; `None` for a raw block volume.
    pub filesystem: Option<Filesystem>,
}

/// Where volumes are looked up; the agent's pools.
pub trait Catalogue: Send + Sync + 'static {
    /// The image of a volume; NOT_FOUND when there is no such volume.
    fn image(&self, volume: &VolumeId) -> Result<VolumeImage, Fault>;
    /// The id here of the volume that orchestrators know by this id; the same where it is not here.
    fn own_id(&self, known_as: &VolumeId) -> VolumeId {
        known_as.clone()
    }
    /// The volume is about to be used: whoever counts on its image standing still is told, durably.
    fn before_use(&self, _volume: &VolumeId) -> Result<(), Fault> {
        Ok(())
    }
    /// What is wrong with what volumes are stored on.
    fn ailments(&self) -> Vec<Ailment> {
        vec![]
    }
}

/// The volumes in use on this host. All calls block.
pub struct NodeVolumes {
    host: Arc<dyn Host>,
    catalogue: Arc<dyn Catalogue>,
    locks: VolumeLocks,
    pub(super) noted: Noted,
}

impl NodeVolumes {
    /// Volumes of `catalogue`, used through `host`, one operation at a time by `locks`.
    pub fn new(host: Arc<dyn Host>, catalogue: Arc<dyn Catalogue>, locks: VolumeLocks) -> Self {
        Self { host, catalogue, locks, noted: Noted::default() }
    }

    /// Makes a volume ready on this host.
    pub fn stage(&self, request: &StageRequest) -> Result<(), Fault> {
        check_path("staging_target_path", &request.target)?;
        let _guard = self.locks.try_lock(&request.volume, Purpose::Use)?;
        let image = self.catalogue.image(&request.volume)?;
        check_access(&request.volume, &image, &request.access)?;
        let wish = Wish::of(request, &image)?;
        self.refuse_link(&request.target)?;
        self.catalogue.before_use(&request.volume)?;
        let sight = self.sight(&image)?;
        match (&request.access, wish) {
            (Access::Mount { .. }, Some(wish)) => self.stage_filesystem(request, &image, &sight, &wish),
            (Access::Mount { .. } | Access::Block, _) => self.stage_device(request, &image, &sight),
        }
    }

    fn stage_filesystem(
        &self,
        request: &StageRequest,
        image: &VolumeImage,
        sight: &Sight,
        wish: &Wish<'_>,
    ) -> Result<(), Fault> {
        let read_only = wish.read_only;
        let device = if let Some(place) = found_staged(request, sight, &request.target, read_only)? {
            self.refuse_unusable(wish.volume, sight, &place)?;
            place.device
        } else {
            self.directory("staging_target_path", &request.target)?;
            point("agent.stage.begun");
            self.mount(image, sight, &request.target, wish)?
        };
        point("agent.stage.mounted");
        // Marks the mounted device, see above.
        self.host.detach(&device.path).map_err(machine)?;
        point("agent.stage.detached");
        if read_only {
            return Ok(());
        }
        // Its users can work with the size that it has; the condition says what to do.
        if let Err(fault) = self.grow_to_image(image, &device, &request.target) {
            tracing::warn!(volume = %wish.volume, %fault, "the filesystem could not be grown to its volume");
        }
        Ok(())
    }

    fn stage_device(&self, request: &StageRequest, image: &VolumeImage, sight: &Sight) -> Result<(), Fault> {
        let node = request.target.join(STAGED_DEVICE);
        self.refuse_link(&node)?;
        if found_staged(request, sight, &node, request.read_only)?.is_some() {
            return Ok(());
        }
        self.directory("staging_target_path", &request.target)?;
        let writing = if request.read_only { Writing::Forbidden } else { Writing::Allowed };
        let device = self.device(image, sight, writing)?;
        self.bind_node(image, sight, &device, &node)
    }

    /// Gives a volume back: unmounts it and detaches its devices. Not staged is fine.
    pub fn unstage(&self, volume: &VolumeId, staging: &Path) -> Result<(), Fault> {
        check_path("staging_target_path", staging)?;
        let _guard = self.locks.try_lock(volume, Purpose::Use)?;
        let image = match self.known(volume, staging) {
            Err(fault) if fault.code == Code::Unavailable => {
                let device = staging.join(STAGED_DEVICE);
                self.unmount_without_pool(volume, &device, &fault)?;
                self.unmount_without_pool(volume, staging, &fault)?;
                return self.host.remove_file(&device).map_err(machine);
            }
            known => known?,
        };
        let Some(image) = image else { return Ok(()) };
        let place = staging_place(staging, &image);
        let sight = self.sight(&image)?;
        if let At::Volume(staged) = sight.at(&place) {
            if let Some(published) = sight.places.iter().find(|other| other.target != place) {
                return Err(Fault::precondition(format!(
                    "volume {volume} is still published at {}; unpublish it there first",
                    published.target.display()
                )));
            }
            if self.thaw(staged)? {
                tracing::warn!(%volume, "the filesystem was frozen when it was given back; thawed it");
            }
        }
        self.unmount_all(&image, &place)?;
        if image.filesystem.is_none() {
            self.host.remove_file(&place).map_err(machine)?;
        }
        self.drop_unused_devices(&image);
        Ok(())
    }

    /// A filesystem that is unmounted frozen stays frozen for ever, invisibly. Rounds are locked out here, so
    /// whoever froze it is not there any more or did not ask us. Says whether it was frozen. EIO: the filesystem has
    /// shut down, so nobody waits for a thaw and nothing can be thawed.
    fn thaw(&self, place: &Place) -> Result<bool, Fault> {
        if place.kind == PlaceKind::Device {
            return Ok(false);
        }
        let mount = match self.host.open_mount(&place.target) {
            Err(error) if error.errno() == Some(libc::EIO) => return Ok(false),
            other => other.map_err(machine)?,
        };
        if mount.device() != place.device.device {
            return Err(Fault::aborted(format!(
                "{} was unmounted meanwhile; try again",
                place.target.display()
            )));
        }
        match mount.thaw() {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(machine(error)),
        }
    }

    /// Thaws a volume that an earlier agent left frozen, and detaches devices that it left without a use; says whether
    /// it was frozen. The image is enough: what a volume is may not be readable.
    pub fn thaw_leftover(&self, volume: &VolumeId, image: &Path) -> Result<bool, Fault> {
        let _guard = self.locks.try_lock(volume, Purpose::Use)?;
        if self.host.stat(image).map_err(machine)?.is_none() {
            // Told as a condition; there is nothing to thaw.
            return Ok(false);
        }
        let sight = Sight::of(&*self.host, image).map_err(machine)?;
        let thawed = sight.staged().map_or(Ok(false), |place| self.thaw(place))?;
        for device in sight.unused_devices() {
            // In use after all, where nobody sees it: the kernel lets it go when that ends.
            match self.host.detach(&device.path) {
                Ok(()) => {
                    tracing::warn!(%volume, device = %device.path.display(), "an earlier agent had left it attached; detached it");
                }
                // The next stage, unstage or deletion finds it again.
                Err(error) => {
                    tracing::warn!(%volume, %error, "a loop device that an earlier agent left could not be detached");
                }
            }
        }
        Ok(thawed)
    }

    /// What is wrong with a volume on this host. NOT_FOUND when there is no such volume.
    pub fn health(&self, volume: &VolumeId) -> Result<Vec<Ailment>, Fault> {
        let image = self.catalogue.image(volume)?;
        if self.host.stat(&image.path).map_err(machine)?.is_none() {
            return Ok(vec![health::image_missing(volume)]);
        }
        let mut found = health::of_volume(&*self.host, &self.sight(&image)?).map_err(machine)?;
        found.extend(self.noted.of(volume));
        Ok(found)
    }

    /// A volume whose filesystem is dead is not given to anybody.
    fn refuse_unusable(&self, volume: &VolumeId, sight: &Sight, place: &Place) -> Result<(), Fault> {
        let Some(mounted) = sight.mounted(place).filter(|_| place.kind == PlaceKind::Filesystem) else {
            return Ok(());
        };
        match health::unusable(&*self.host, mounted).map_err(machine)? {
            Some(ailment) => Err(unusable(volume, &ailment)),
            None => Ok(()),
        }
    }

    /// The id here of the volume that orchestrators know by this id.
    pub fn own_id(&self, known_as: &VolumeId) -> VolumeId {
        self.catalogue.own_id(known_as)
    }

    /// What is wrong with the pools of this host.
    pub fn storage_health(&self) -> Vec<Ailment> {
        self.catalogue.ailments()
    }

    /// Detaches devices of a volume that nothing uses. The caller has the volume's lock.
    pub(super) fn drop_leftovers(&self, volume: &VolumeId) -> Result<(), Fault> {
        match self.catalogue.image(volume) {
            Ok(image) => {
                self.drop_unused_devices(&image);
                Ok(())
            }
            Err(fault) if fault.code == Code::NotFound => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// The image of the volume, or `None` when there is no such volume and nothing at `path` that could be its.
    fn known(&self, volume: &VolumeId, path: &Path) -> Result<Option<VolumeImage>, Fault> {
        match self.catalogue.image(volume) {
            Ok(image) => Ok(Some(image)),
            Err(fault) if fault.code == Code::NotFound => {
                let mounts = self.host.mounts().map_err(machine)?;
                match mounts.iter().find(|mount| mount.target == path) {
                    None => Ok(None),
                    Some(mount) => Err(occupied(path, &mount.kind).context(fault)),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    fn unmount_all(&self, image: &VolumeImage, target: &Path) -> Result<(), Fault> {
        for _ in 0..STACK_LIMIT {
            match self.sight(image)?.at(target) {
                At::Nothing => return Ok(()),
                At::Other(other) => return Err(occupied(target, &other.kind)),
                At::Volume(_) => self.host.unmount(target).map_err(machine)?,
            }
        }
        let why = format!("more than {STACK_LIMIT} mounts lie on each other at {}", target.display());
        Err(Fault::internal(format!("{why}; unmount them by hand")))
    }

    fn directory(&self, field: &str, path: &Path) -> Result<(), Fault> {
        match self.host.stat(path).map_err(machine)? {
            Some(meta) if meta.kind == FileKind::Directory => Ok(()),
            Some(_) => Err(Fault::precondition(format!(
                "{field} {} exists and is not a directory; remove it first",
                path.display()
            ))),
            None => self.host.make_directory(path).map_err(machine),
        }
    }

    /// The device of the volume that allows or forbids writing; attached when there is none.
    fn device(&self, image: &VolumeImage, sight: &Sight, writing: Writing) -> Result<LoopDevice, Fault> {
        let read_only = writing == Writing::Forbidden;
        match sight.devices.iter().find(|device| device.read_only == read_only) {
            Some(device) => Ok(device.clone()),
            None => self.host.attach(&image.path, read_only).map_err(machine),
        }
    }

    /// Detaches devices that no mount shows. What cannot be detached now is found again by the next call.
    fn drop_unused_devices(&self, image: &VolumeImage) {
        let dropped = Sight::of(&*self.host, &image.path)
            .and_then(|sight| sight.unused_devices().try_for_each(|device| self.host.detach(&device.path)));
        if let Err(error) = dropped {
            tracing::warn!(%error, "a loop device that is not in use could not be detached");
        }
    }

    fn sight(&self, image: &VolumeImage) -> Result<Sight, Fault> {
        Sight::of(&*self.host, &image.path).map_err(machine)
    }
}

/// Whether a device allows writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Allowed,
    Forbidden,
}

/// A mount as it is asked for.
struct Wish<'a> {
    volume: &'a VolumeId,
    filesystem: Filesystem,
    options: &'a [String],
    read_only: bool,
}

impl<'a> Wish<'a> {
    /// `None` for a raw device. An option that the volume's filesystem does not have is refused by name.
    fn of(request: &'a StageRequest, image: &VolumeImage) -> Result<Option<Self>, Fault> {
        let (Access::Mount { options, .. }, Some(filesystem)) = (&request.access, image.filesystem) else {
            return Ok(None);
        };
        let asked = mount_options::parse(options, Some(filesystem))?;
        let read_only = request.read_only || asked.flags.contains(&Flag::ReadOnly);
        Ok(Some(Self { volume: &request.volume, filesystem, options, read_only }))
    }
}

/// The volume at its staging place: there as asked for, not there, or there otherwise.
fn found_staged(
    request: &StageRequest,
    sight: &Sight,
    at: &Path,
    read_only: bool,
) -> Result<Option<Place>, Fault> {
    let volume = &request.volume;
    match sight.at(at) {
        At::Volume(place) if place.read_only == read_only => Ok(Some(place.clone())),
        At::Volume(place) => Err(Fault::already_exists(format!(
            "volume {volume} is staged at {} {}, and is asked for {}; unstage it first",
            at.display(),
            mode(place.read_only),
            mode(read_only)
        ))),
        At::Other(other) => Err(occupied(at, &other.kind)),
        At::Nothing => match sight.staged() {
            None => Ok(None),
            Some(place) => Err(Fault::precondition(format!(
                "volume {volume} is staged at {} already; unstage it there first",
                place.target.display()
            ))),
        },
    }
}

fn staging_place(staging: &Path, image: &VolumeImage) -> PathBuf {
    match image.filesystem {
        Some(_) => staging.into(),
        None => staging.join(STAGED_DEVICE),
    }
}

#[cfg(test)]
mod tests;
