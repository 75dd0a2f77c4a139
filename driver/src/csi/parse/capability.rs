//! Volume capabilities: as what and by how many a volume is used.

use stillpoint_csi_proto::v1;
use v1::volume_capability::access_mode::Mode;
use v1::volume_capability::{AccessType, MountVolume};

use super::shown;
use crate::domain::mount_options;
use crate::domain::node::Access;
use crate::domain::{Fault, Filesystem};

/// Mount options of one volume, together, in bytes (one page is what mount(2) takes).
const OPTIONS_LIMIT: usize = 4095;

/// A use that is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Filesystem or device.
    pub access: Access,
    /// Nobody writes.
    pub read_only: bool,
    /// One target at a time on a host. All single-node modes but the multi-writer one mean that.
    pub single_target: bool,
}

/// What is wrong with a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// It makes no sense by itself.
    #[error("volume_capability: {0}")]
    Malformed(String),
    /// It makes sense, but this driver cannot do it.
    #[error("volume_capability: {0}")]
    Unsupported(String),
}

impl From<CapabilityError> for Fault {
    fn from(error: CapabilityError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// One capability.
pub fn capability(given: &v1::VolumeCapability) -> Result<Use, CapabilityError> {
    let access = match &given.access_type {
        None => return Err(CapabilityError::Malformed("access_type is missing; set block or mount".into())),
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => mounted(mount)?,
    };
    let (read_only, single_target) = mode(given)?;
    Ok(Use { access, read_only, single_target })
}

fn mode(given: &v1::VolumeCapability) -> Result<(bool, bool), CapabilityError> {
    let number = given.access_mode.as_ref().map_or(0, |mode| mode.mode);
    match Mode::try_from(number) {
        Ok(Mode::Unknown) => Err(CapabilityError::Malformed("access_mode is missing".into())),
        Ok(Mode::SingleNodeWriter | Mode::SingleNodeSingleWriter) => Ok((false, true)),
        Ok(Mode::SingleNodeMultiWriter) => Ok((false, false)),
        Ok(Mode::SingleNodeReaderOnly) => Ok((true, true)),
        Ok(mode @ (Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)) => {
            Err(CapabilityError::Unsupported(format!(
                "access_mode {} is not possible, a volume lives on one host; use a single-node mode \
                 (ReadWriteOnce or ReadWriteOncePod)",
                mode.as_str_name()
            )))
        }
        Err(_) => Err(CapabilityError::Malformed(format!("access_mode {number} does not exist in CSI 1.13"))),
    }
}

fn mounted(mount: &MountVolume) -> Result<Access, CapabilityError> {
    let filesystem = match mount.fs_type.as_str() {
        "" => None,
        text => {
            Some(text.parse::<Filesystem>().map_err(|why| CapabilityError::Unsupported(why.to_string()))?)
        }
    };
    let total: usize = mount.mount_flags.iter().map(|flag| flag.len() + 1).sum();
    if total > OPTIONS_LIMIT {
        return Err(CapabilityError::Malformed(format!(
            "mount_flags have {total} bytes; at most {OPTIONS_LIMIT} are allowed"
        )));
    }
    if let Some(flag) =
        mount.mount_flags.iter().find(|flag| flag.is_empty() || flag.chars().any(char::is_control))
    {
        return Err(CapabilityError::Malformed(format!(
            "mount_flags hold {:?}, which is no option",
            shown(flag)
        )));
    }
    let checked = mount_options::parse(&mount.mount_flags, filesystem);
    checked.map_err(|bad| CapabilityError::Malformed(format!("mount_flags: {bad}")))?;
    // The capability VOLUME_MOUNT_GROUP is not announced: the orchestrator changes ownership, all of it, and knows when
    // (fsGroupChangePolicy). To ignore a group in silence would leave files that nobody can read.
    if !mount.volume_mount_group.is_empty() {
        return Err(CapabilityError::Unsupported(format!(
            "volume_mount_group {:?} is set, and this driver does not announce VOLUME_MOUNT_GROUP; change the ownership of \
             the files after NodePublishVolume, as a kubelet does for a CSIDriver with fsGroupPolicy File",
            shown(&mount.volume_mount_group)
        )));
    }
    Ok(Access::Mount { filesystem, options: mount.mount_flags.clone() })
}
