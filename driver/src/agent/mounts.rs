//! Where a volume is in use on this host, read from the kernel each time: loop devices over its image and the
//! mount table. Nothing is remembered, so an agent that was restarted knows as much as one that was not.
//!
//! How a volume looks in the mount table:
//! * a filesystem: mounts whose device is a loop device over the image; the first is the staging path, the
//!   others are binds of it (publish);
//! * a raw device: binds of the device node in `/dev`. The first is `<staging path>/device`: it is what "staged" means
//!   for a raw device, because a loop device alone does not say where it was staged. A node of the same device that
//!   somebody has made in a filesystem of his own (mknod in a pod) is not a place of the volume, wherever it is bound.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::domain::Fault;
use crate::host::{FileKind, Host, HostError, LoopDevice, Mounted};

/// Name of the bound device node in the staging directory of a raw block volume.
pub const STAGED_DEVICE: &str = "device";
/// The kernel's own filesystem of device nodes. Only who may change the host's `/dev` can make a node in it.
pub(super) const DEVTMPFS: &str = "devtmpfs";
/// Longest path that the kernel takes.
const PATH_LIMIT: usize = 4095;

/// What is mounted at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// The volume's filesystem.
    Filesystem,
    /// The volume's device node.
    Device,
}

/// One place where a volume is mounted or bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub target: PathBuf,
    /// As what.
    pub kind: PlaceKind,
    /// Through which device.
    pub device: LoopDevice,
    /// Nobody can write through this place.
    pub read_only: bool,
}

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    /// No mount.
    Nothing,
    /// The volume.
    Volume(&'a Place),
    /// A mount of something else.
    Other(&'a Mounted),
}

/// A volume as the kernel shows it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Loop devices over its image.
    pub devices: Vec<LoopDevice>,
    /// Where it is mounted or bound, in the order of the mount table: the staging place is the first.
    pub places: Vec<Place>,
    mounts: Arc<[Mounted]>,
}

impl Sight {
    /// Looks at the volume with this image. The image must exist.
    pub fn of(host: &dyn Host, image: &Path) -> Result<Self, HostError> {
        Self::among(host, image, &host.mounts()?.into())
    }

    /// As [`Sight::of`], with a mount table that was read before: to look at many volumes.
    pub fn among(host: &dyn Host, image: &Path, mounts: &Arc<[Mounted]>) -> Result<Self, HostError> {
        let devices = host.attached(image)?;
        let mut places = Vec::new();
        for mount in mounts.iter().filter(|_| !devices.is_empty()) {
            places.extend(place(host, &devices, mount)?);
        }
        Ok(Self { devices, places, mounts: Arc::clone(mounts) })
    }

    /// What is mounted on top at this path.
    pub fn at(&self, path: &Path) -> At<'_> {
        let Some(top) = self.mounts.iter().rev().find(|mount| mount.target == path) else {
            return At::Nothing;
        };
        match self.places.iter().rev().find(|place| place.target == path) {
            // Only the topmost counts: something else may lie over the volume.
            Some(place) if place.is(top) => At::Volume(place),
            Some(_) | None => At::Other(top),
        }
    }

    /// Where the volume is staged: its first place.
    pub fn staged(&self) -> Option<&Place> {
        self.places.first()
    }

    /// The line of the mount table that shows a place.
    pub fn mounted(&self, place: &Place) -> Option<&Mounted> {
        self.mounts.iter().rev().find(|mount| mount.target == place.target && place.is(mount))
    }

    /// Devices that no mount shows.
    pub fn unused_devices(&self) -> impl Iterator<Item = &LoopDevice> {
        self.devices.iter().filter(|device| self.places.iter().all(|place| place.device.path != device.path))
    }
}

impl Place {
    fn is(&self, mount: &Mounted) -> bool {
        match self.kind {
            PlaceKind::Filesystem => mount.device == self.device.device,
            PlaceKind::Device => mount.root.file_name() == self.device.path.file_name(),
        }
    }
}

/// The place that a mount is for the volume with these devices, if it is one.
fn place(host: &dyn Host, devices: &[LoopDevice], mount: &Mounted) -> Result<Option<Place>, HostError> {
    if let Some(device) = devices.iter().find(|device| device.device == mount.device) {
        return Ok(Some(Place {
            target: mount.target.clone(),
            kind: PlaceKind::Filesystem,
            device: device.clone(),
            read_only: mount.read_only,
        }));
    }
    // The root of a bound node is its path within devtmpfs. Name and filesystem are checked first: `stat` of somebody
    // else's dead network mount would hang, and a node that a tenant made in his volume must not pin another's.
    let named = |device: &&LoopDevice| {
        mount.root.file_name().is_some() && mount.root.file_name() == device.path.file_name()
    };
    let Some(device) = devices.iter().find(named) else { return Ok(None) };
    if mount.kind != DEVTMPFS && host.stat(&device.path)?.is_none_or(|node| node.device != mount.device) {
        return Ok(None);
    }
    let is_node = host
        .stat(&mount.target)?
        .is_some_and(|meta| meta.kind == FileKind::Block && meta.stands_for == device.device);
    Ok(is_node.then(|| Place {
        target: mount.target.clone(),
        kind: PlaceKind::Device,
        device: device.clone(),
        read_only: device.read_only,
    }))
}

/// Refuses a path that could lead anywhere else than it seems to.
pub fn check_path(field: &str, path: &Path) -> Result<(), Fault> {
    let refuse = |why: &str| {
        let shown: String = path.display().to_string().chars().take(128).collect();
        Err(Fault::invalid(format!("{field} {shown:?} {why}")))
    };
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return refuse("is empty; give an absolute path");
    }
    if bytes.len() > PATH_LIMIT {
        return refuse("is longer than 4095 bytes");
    }
    if bytes.contains(&0) {
        return refuse("has a NUL byte in it");
    }
    if !path.is_absolute() {
        return refuse("is not absolute");
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return refuse("has a `..` in it; give the path itself");
    }
    if path.parent().is_none() {
        return refuse("is the root directory");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Code;

    #[test]
    fn paths_that_lead_elsewhere_are_refused_by_field() {
        for bad in ["", "a/b", "/", "//", "/a/../b", "/a/..", "/a\0b", "some/path"] {
            let fault = check_path("target_path", Path::new(bad)).unwrap_err();
            assert_eq!(fault.code, Code::Invalid, "{bad:?}");
            assert!(fault.message.starts_with("target_path "), "{fault}");
        }
        assert!(check_path("target_path", &PathBuf::from(format!("/{}", "x".repeat(5000)))).is_err());
        for good in ["/a", "/var/lib/kubelet/pods/..data/x", "/a b/ü"] {
            assert_eq!(check_path("target_path", Path::new(good)), Ok(()));
        }
    }
}
