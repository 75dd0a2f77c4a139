//! Publish and unpublish: one consumer of a staged volume.

use std::path::Path;

use super::faults::{check_access, machine, mode, occupied};
use super::{NodeVolumes, VolumeImage, Writing, staging_place};
use crate::agent::locks::Purpose;
use crate::agent::mounts::{At, PlaceKind, Sight, check_path};
use crate::domain::node::PublishRequest;
use crate::domain::{Bytes, Code, Fault, VolumeId};
use crate::host::FileKind;

impl NodeVolumes {
    /// Gives a staged volume to one consumer.
    pub fn publish(&self, request: &PublishRequest) -> Result<(), Fault> {
        check_path("staging_target_path", &request.staging)?;
        check_path("target_path", &request.target)?;
        let _guard = self.locks.try_lock(&request.volume, Purpose::Use)?;
        let image = self.catalogue.image(&request.volume)?;
        check_access(&request.volume, &image, &request.access)?;
        self.refuse_link(&request.target)?;
        let sight = self.sight(&image)?;
        let staging = staging_place(&request.staging, &image);
        let At::Volume(staged) = sight.at(&staging) else {
            return Err(Fault::precondition(format!(
                "volume {} is not staged at {}; stage it there first",
                request.volume,
                request.staging.display()
            )));
        };
        // A consumer of a read-only volume reads, whatever it asks for.
        let read_only = request.read_only || staged.read_only;
        match sight.at(&request.target) {
            At::Volume(place) if place.read_only == read_only => return Ok(()),
            At::Volume(place) => {
                return Err(Fault::already_exists(format!(
                    "volume {} is published at {} {}, and is asked for {}; unpublish it first",
                    request.volume,
                    request.target.display(),
                    mode(place.read_only),
                    mode(read_only)
                )));
            }
            At::Other(other) => return Err(occupied(&request.target, &other.kind)),
            At::Nothing => {}
        }
        self.refuse_unusable(&request.volume, &sight, staged)?;
        if request.single_writer {
            refuse_second_consumer(&sight, &staging, request)?;
        }
        match staged.kind {
            PlaceKind::Filesystem => self.publish_filesystem(&image, &sight, request, read_only),
            PlaceKind::Device if read_only && !staged.read_only => {
                let device = self.device(&image, &sight, Writing::Forbidden)?;
                self.bind_node(&image, &sight, &device, &request.target)
            }
            PlaceKind::Device => self.bind_node(&image, &sight, &staged.device, &request.target),
        }
    }

    fn publish_filesystem(
        &self,
        image: &VolumeImage,
        sight: &Sight,
        request: &PublishRequest,
        read_only: bool,
    ) -> Result<(), Fault> {
        let target = &request.target;
        self.directory("target_path", target)?;
        self.host.bind(&request.staging, target, read_only).map_err(machine)?;
        self.verify(image, sight, target)
    }

    /// Takes a volume from one consumer and removes its target. Not published is fine.
    pub fn unpublish(&self, volume: &VolumeId, target: &Path) -> Result<(), Fault> {
        check_path("target_path", target)?;
        let _guard = self.locks.try_lock(volume, Purpose::Use)?;
        let image = match self.known(volume, target) {
            Err(fault) if fault.code == Code::Unavailable => {
                self.unmount_without_pool(volume, target, &fault)?;
                return self.remove_target(target);
            }
            known => known?,
        };
        let Some(image) = image else { return Ok(()) };
        if self.sight(&image)?.staged().is_some_and(|place| place.target == target) {
            return Err(Fault::precondition(format!(
                "{} is where volume {volume} is staged, not where it is published; unstage it instead",
                target.display()
            )));
        }
        self.unmount_all(&image, target)?;
        self.unmount_behind_link(&image, target)?;
        self.remove_target(target)?;
        self.drop_unused_devices(&image);
        Ok(())
    }

    /// Where the target has been replaced by a symbolic link, the mount is where it leads.
    fn unmount_behind_link(&self, image: &VolumeImage, target: &Path) -> Result<(), Fault> {
        let resolved = self.host.resolve(target).map_err(machine)?.filter(|resolved| resolved != target);
        let Some(resolved) = resolved else { return Ok(()) };
        let sight = self.sight(image)?;
        let is_published = sight.places.iter().skip(1).any(|place| place.target == resolved);
        if is_published { self.unmount_all(image, &resolved) } else { Ok(()) }
    }

    /// Removes what publish made: an empty directory or an empty file, nothing else.
    fn remove_target(&self, target: &Path) -> Result<(), Fault> {
        let Some(meta) = self.host.stat(target).map_err(machine)? else { return Ok(()) };
        match meta.kind {
            FileKind::Directory => self.host.remove_directory(target).map_err(machine),
            FileKind::File if meta.size == Bytes(0) => self.host.remove_file(target).map_err(machine),
            FileKind::File | FileKind::Block | FileKind::Other => Err(Fault::precondition(format!(
                "{} is not empty and was not made by publish; look at it and remove it by hand",
                target.display()
            ))),
        }
    }
}

fn refuse_second_consumer(sight: &Sight, staging: &Path, request: &PublishRequest) -> Result<(), Fault> {
    match sight.places.iter().find(|place| place.target != staging) {
        None => Ok(()),
        Some(other) => Err(Fault::precondition(format!(
            "volume {} may have one consumer at a time and is published at {}; unpublish it there first",
            request.volume,
            other.target.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use crate::agent::fixtures::{Bench, STAGING, stage};
    use crate::domain::Filesystem;
    use crate::domain::node::Access;
    use crate::host::Mounts;

    use super::*;

    #[test]
    fn a_mount_behind_a_target_that_has_become_a_symbolic_link_is_unmounted_and_nothing_else() {
        let bench = Bench::new();
        let volume = bench.volume("data", Some(Filesystem::Xfs));
        bench.node.stage(&stage(&volume, Access::mount())).unwrap();
        let (link, real) = (Path::new("/kubelet/link"), Path::new("/kubelet/real"));
        bench.host.make_all(real);
        bench.host.bind(Path::new(STAGING), real, false).unwrap();
        bench.host.make_link(link, real);
        let is_mounted = |at: &Path| bench.host.mounts().unwrap().iter().any(|mount| mount.target == at);
        assert!(is_mounted(real));
        bench.node.unpublish(&volume, link).unwrap();
        assert!(!is_mounted(real), "success was said while the volume was still published");
        // A link to the staging path leads to no published place.
        bench.host.make_link(link, Path::new(STAGING));
        bench.node.unpublish(&volume, link).unwrap();
        assert!(is_mounted(Path::new(STAGING)));
    }
}
