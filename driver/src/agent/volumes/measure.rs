//! Measuring and growing what is staged or published.

use std::path::Path;

use super::faults::{check_access, machine};
use super::{NodeVolumes, VolumeImage, staging_place};
use crate::agent::locks::Purpose;
use crate::agent::mounts::{At, Place, PlaceKind, check_path};
use crate::domain::node::{GrowRequest, Usage};
use crate::domain::{Bytes, Fault, VolumeId};

impl NodeVolumes {
    /// What is in use at a place where the volume is staged or published.
    pub fn stats(&self, volume: &VolumeId, path: &Path) -> Result<Usage, Fault> {
        let image = self.catalogue.image(volume)?;
        check_path("volume_path", path)?;
        let place = self.place_at(volume, &image, path)?;
        match place.kind {
            PlaceKind::Device => Ok(Usage::Device { total: place.device.size }),
            PlaceKind::Filesystem => {
                let usage = self.host.usage(path).map_err(machine)?;
                Ok(Usage::Filesystem {
                    total: usage.total,
                    available: usage.available,
                    inodes: usage.inodes,
                    inodes_free: usage.inodes_free,
                })
            }
        }
    }

    /// Makes what is at this place as large as the volume has become; says how large.
    pub fn grow(&self, request: &GrowRequest) -> Result<Bytes, Fault> {
        let volume = &request.volume;
        let image = self.catalogue.image(volume)?;
        check_path("volume_path", &request.path)?;
        let _guard = self.locks.try_lock(volume, Purpose::Expand)?;
        let place = self.place_at(volume, &image, &request.path)?;
        if let Some(wanted) = request.capacity.filter(|wanted| *wanted > image.capacity) {
            return Err(Fault::out_of_range(format!(
                "volume {volume} has {} and {wanted} is asked for; expand it at the controller first",
                image.capacity
            )));
        }
        if let Some(access) = &request.access {
            check_access(volume, &image, access)?;
        }
        // Readers next to a writer have a device of their own.
        for device in self.sight(&image)?.devices.iter().filter(|device| device.size < image.capacity) {
            self.host.refresh_size(&device.path).map_err(machine)?;
        }
        match place.kind {
            PlaceKind::Device => {}
            PlaceKind::Filesystem => self.grow_to_image(&image, &place.device, &place.target)?,
        }
        Ok(image.capacity)
    }

    /// The volume at this path, which may be of a device in its staging directory too.
    fn place_at(&self, volume: &VolumeId, image: &VolumeImage, path: &Path) -> Result<Place, Fault> {
        let sight = self.sight(image)?;
        for candidate in [path, &staging_place(path, image)] {
            if let At::Volume(place) = sight.at(candidate) {
                return Ok(place.clone());
            }
        }
        Err(Fault::not_found(format!(
            "volume {volume} is neither staged nor published at {}",
            path.display()
        )))
    }
}
