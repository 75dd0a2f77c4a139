//! What can be wrong with a volume on this host, in words.

use std::io::ErrorKind;
use std::path::Path;

use super::VolumeImage;
use crate::domain::health::Ailment;
use crate::domain::node::Access;
use crate::domain::{Fault, Filesystem, VolumeId};
use crate::host::HostError;

pub(super) fn mode(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "for writing" }
}

pub(super) fn occupied(path: &Path, kind: &str) -> Fault {
    Fault::precondition(format!(
        "something else ({kind}) is mounted at {}; unmount it by hand if it does not belong there",
        path.display()
    ))
}

pub(super) fn through_symlink(path: &Path) -> Fault {
    Fault::precondition(format!(
        "{} goes through a symbolic link, so that its mount could not be found again; give the resolved path \
         (for kubelet: set the driver's kubelet directory to where the link points)",
        path.display()
    ))
}

/// A kernel call that failed: the caller cannot do anything about most of them.
pub(super) fn machine(error: HostError) -> Fault {
    match error.errno() {
        Some(libc::ENOSPC) => Fault::exhausted(format!("{error}; free some space in the pool")),
        Some(libc::EBUSY) => Fault::aborted(format!("{error}; it is in use, try again")),
        _ => Fault::internal(error.to_string()),
    }
}

/// A volume is used as what it was made as.
pub(super) fn check_access(volume: &VolumeId, image: &VolumeImage, access: &Access) -> Result<(), Fault> {
    let refuse = |is: &str, asked: &str| {
        Err(Fault::precondition(format!(
            "volume {volume} was made as {is} and cannot be used as {asked}; make a volume of that kind"
        )))
    };
    match (access, image.filesystem) {
        (Access::Block, Some(is)) => refuse(is.as_str(), "a raw block device"),
        (Access::Mount { .. }, None) => refuse("a raw block device", "a filesystem"),
        (Access::Mount { filesystem: Some(asked), .. }, Some(is)) if *asked != is => {
            refuse(is.as_str(), asked.as_str())
        }
        (Access::Block, None) | (Access::Mount { .. }, Some(_)) => Ok(()),
    }
}

/// Its filesystem is dead.
pub(super) fn unusable(volume: &VolumeId, ailment: &Ailment) -> Fault {
    Fault::precondition(format!("volume {volume} cannot be used: {}", ailment.message))
}

/// A mount that the kernel refused. What is wrong with the request or the filesystem is not a failure of this driver.
pub(super) fn not_mounted(error: HostError, image: &VolumeImage) -> Fault {
    let repair = match image.filesystem {
        Some(Filesystem::Xfs) => "xfs_repair",
        Some(Filesystem::Ext4) | None => "e2fsck -f",
    };
    match (error.errno(), error.source.kind()) {
        (Some(libc::EUCLEAN), _) => Fault::precondition(format!(
            "{error}; its filesystem is damaged: run `{repair} {}` on its host and stage it again, or restore it from a \
             snapshot",
            image.path.display()
        )),
        (_, ErrorKind::InvalidInput) => Fault::invalid(error.to_string()),
        (_, ErrorKind::Unsupported) => Fault::precondition(error.to_string()),
        _ => machine(error),
    }
}

/// A mounted filesystem that could not be grown: for want of a capability, or because something is wrong with it.
pub(super) fn cannot_grow(error: HostError, filesystem: Filesystem, may_grow: bool) -> Fault {
    if may_grow {
        let fault = machine(error);
        return Fault::new(
            fault.code,
            format!("{}; the {filesystem} may have errors: look at the kernel's log", fault.message),
        );
    }
    Fault::precondition(format!(
        "{filesystem} cannot be grown while it is mounted, because the agent lacks CAP_SYS_RESOURCE ({error}); it grows \
         when it is mounted anew: restart its users, or give the agent the capability"
    ))
}
