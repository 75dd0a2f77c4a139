//! Asks the kernel which mount option it does not take: `mount(2)` says EINVAL to all of them together, a filesystem
//! context (`fsopen`, Linux 5.2) says it to each.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::domain::{Filesystem, mount_options};

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;

/// The first of these options (as text for `mount(2)`) that this kernel refuses for the filesystem, if one is. Nothing is
/// mounted.
pub(super) fn refused_option(filesystem: Filesystem, options: &str) -> Option<String> {
    let context = open(filesystem)?;
    mount_options::split(options)
        .find(|option| !option.is_empty() && is_refused(&context, option))
        .map(str::to_owned)
}

fn open(filesystem: Filesystem) -> Option<OwnedFd> {
    let name = CString::new(filesystem.as_str()).ok()?;
    // SAFETY: the name ends with NUL and outlives the call.
    let raw = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    let raw = libc::c_int::try_from(raw).ok().filter(|raw| *raw >= 0)?;
    // SAFETY: the kernel has just given us this descriptor.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn is_refused(context: &OwnedFd, option: &str) -> bool {
    let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
    let value = value.map(|value| CString::new(value.trim_matches('"'))).transpose();
    let (Ok(key), Ok(value)) = (CString::new(key), value) else { return true };
    let (command, value) = value
        .as_ref()
        .map_or((FSCONFIG_SET_FLAG, std::ptr::null()), |value| (FSCONFIG_SET_STRING, value.as_ptr()));
    // SAFETY: key and value end with NUL (the value may be null for a flag) and outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), value, 0) };
    result != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_that_the_kernel_does_not_take_is_named() {
        if !nix::unistd::geteuid().is_root() || open(Filesystem::Xfs).is_none() {
            println!("skipped: fsopen needs root and Linux 5.2 with XFS");
            return;
        }
        let refused = |options| refused_option(Filesystem::Xfs, options);
        assert_eq!(refused("nouuid,discard,logbufs=8"), None);
        assert_eq!(refused("nouuid,nonsense,discard"), Some("nonsense".into()));
        assert_eq!(refused("logbufs=many"), Some("logbufs=many".into()));
    }

    #[test]
    fn a_quoted_value_with_commas_is_asked_about_as_one_option() {
        if !nix::unistd::geteuid().is_root() || open(Filesystem::Xfs).is_none() {
            println!("skipped: fsopen needs root and Linux 5.2 with XFS");
            return;
        }
        // A kernel without SELinux refuses the option, one with SELinux takes it; no kernel is asked about half of it.
        let label = r#"context="system_u:object_r:container_file_t:s0:c10,c20""#;
        let refused = refused_option(Filesystem::Xfs, &format!("nouuid,{label},nonsense"));
        assert!(
            refused.as_deref().is_some_and(|option| option == label || option == "nonsense"),
            "{refused:?}"
        );
    }
}
