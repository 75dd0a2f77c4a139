//! Mount options of a volume: which are known, and what the kernel is given for them.
//!
//! * Options that only mount(8) and fstab(5) understand ([`is_for_userspace`]) are dropped: they say when and by whom
//!   a filesystem is mounted, which is the orchestrator's business here.
//! * Options that ask for what is so anyway (`rw`, `defaults`, …) change nothing but an earlier option.
//! * Access times: `noatime` unless asked otherwise. `relatime` and `strictatime` are kept; while a filesystem is
//!   quiesced the kernel leaves access times as they are, so reads do not wait.
//! * Everything else must be an option of the volume's filesystem, or it is refused by its name.

use std::collections::BTreeSet;

use super::{Fault, Filesystem};

/// What is mounted differently, whatever the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// Nobody writes.
    ReadOnly,
    /// Set-user-id bits have no effect.
    NoSuid,
    /// Nothing is executed.
    NoExec,
    /// Symbolic links are not followed.
    NoSymFollow,
    /// Every write is synchronous.
    Sync,
    /// Every change of a directory is synchronous.
    DirSync,
    /// No access times of directories.
    NoDirAtime,
    /// Times are kept in memory as long as possible.
    LazyTime,
}

/// When access times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessTimes {
    /// `noatime`.
    #[default]
    Never,
    /// `relatime`.
    Relative,
    /// `strictatime`.
    Always,
}

/// Options as the kernel takes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Flags of the mount.
    pub flags: BTreeSet<Flag>,
    /// Access times.
    pub access_times: AccessTimes,
    /// Options for the filesystem, in the order given, each once.
    pub filesystem: Vec<String>,
}

/// An option that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mount option {option:?} {why}")]
pub struct BadOption {
    option: String,
    why: String,
}

impl From<BadOption> for Fault {
    fn from(error: BadOption) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Names of options that end with `=` take a value, all others none.
const XFS: &[&str] = &[
    "allocsize=",
    "attr2",
    "noattr2",
    "bsdgroups",
    "dax",
    "dax=",
    "discard",
    "nodiscard",
    "filestreams",
    "gqnoenforce",
    "gquota",
    "grpid",
    "nogrpid",
    "grpquota",
    "ikeep",
    "noikeep",
    "inode32",
    "inode64",
    "largeio",
    "nolargeio",
    "lifetime",
    "nolifetime",
    "logbsize=",
    "logbufs=",
    "max_atomic_write=",
    "noalign",
    "noquota",
    "norecovery",
    "nouuid",
    "pqnoenforce",
    "pquota",
    "prjquota",
    "qnoenforce",
    "quota",
    "sunit=",
    "swalloc",
    "swidth=",
    "sysvgroups",
    "uqnoenforce",
    "uquota",
    "usrquota",
    "wsync",
];
const EXT4: &[&str] = &[
    "acl",
    "noacl",
    "auto_da_alloc",
    "auto_da_alloc=",
    "noauto_da_alloc",
    "barrier",
    "barrier=",
    "nobarrier",
    "block_validity",
    "noblock_validity",
    "bsddf",
    "minixdf",
    "bsdgroups",
    "commit=",
    "data=",
    "data_err=",
    "dax",
    "dax=",
    "debug",
    "delalloc",
    "nodelalloc",
    "dioread_lock",
    "dioread_nolock",
    "nodioread_nolock",
    "discard",
    "nodiscard",
    "errors=",
    "grpid",
    "nogrpid",
    "grpjquota=",
    "grpquota",
    "i_version",
    "init_itable",
    "init_itable=",
    "noinit_itable",
    "inlinecrypt",
    "inode_readahead_blks=",
    "journal_async_commit",
    "journal_checksum",
    "nojournal_checksum",
    "journal_ioprio=",
    "jqfmt=",
    "max_batch_time=",
    "max_dir_size_kb=",
    "mb_optimize_scan=",
    "min_batch_time=",
    "noload",
    "nombcache",
    "no_mbcache",
    "norecovery",
    "nouid32",
    "prefetch_block_bitmaps",
    "no_prefetch_block_bitmaps",
    "prjquota",
    "quota",
    "noquota",
    "resgid=",
    "resuid=",
    "sb=",
    "stripe=",
    "sysvgroups",
    "user_xattr",
    "nouser_xattr",
    "usrjquota=",
    "usrquota",
];
/// Options of security modules: the kubelet gives `context=` to volumes of pods with an SELinux label.
const SECURITY: &[&str] = &["context=", "defcontext=", "fscontext=", "rootcontext="];
/// Options that only mount(8) and fstab(5) know.
const USERSPACE: &[&str] = &[
    "_netdev", "auto", "noauto", "comment=", "group", "nogroup", "nofail", "owner", "noowner", "user",
    "user=", "nouser", "users", "nousers",
];
/// What mount(8) does instead of mounting.
const OPERATIONS: &[&str] = &[
    "bind",
    "rbind",
    "move",
    "remount",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
];
/// Options that name another device or file.
const ELSEWHERE: &[&str] =
    &["journal_dev=", "journal_path=", "loop", "loop=", "logdev=", "offset=", "rtdev="];

/// Whether only mount(8) and fstab(5) know an option; such options are dropped.
pub fn is_for_userspace(option: &str) -> bool {
    option.starts_with("x-") || option.starts_with("X-") || is_in(USERSPACE, option)
}

/// What the kernel is given for these options. Each element may hold several, separated by commas. Without a
/// filesystem, an option must be known to one of them.
pub fn parse(given: &[String], filesystem: Option<Filesystem>) -> Result<MountOptions, BadOption> {
    let mut parsed = MountOptions::default();
    for option in given.iter().flat_map(|text| split(text)).filter(|option| !option.is_empty()) {
        if is_for_userspace(option) || parsed.take_flag(option) {
            continue;
        }
        check(option, filesystem).map_err(|why| BadOption { option: shown(option), why })?;
        if !parsed.filesystem.iter().any(|known| known == option) {
            parsed.filesystem.push(option.to_owned());
        }
    }
    Ok(parsed)
}

impl MountOptions {
    /// Takes an option that every filesystem has; the last one of a pair counts. Says whether it is one.
    fn take_flag(&mut self, option: &str) -> bool {
        let (flag, set) = match option {
            "ro" => (Flag::ReadOnly, true),
            "rw" => (Flag::ReadOnly, false),
            "nosuid" => (Flag::NoSuid, true),
            "suid" => (Flag::NoSuid, false),
            "noexec" => (Flag::NoExec, true),
            "exec" => (Flag::NoExec, false),
            "nosymfollow" => (Flag::NoSymFollow, true),
            "symfollow" => (Flag::NoSymFollow, false),
            "sync" => (Flag::Sync, true),
            "async" => (Flag::Sync, false),
            "dirsync" => (Flag::DirSync, true),
            "nodiratime" => (Flag::NoDirAtime, true),
            "diratime" => (Flag::NoDirAtime, false),
            "lazytime" => (Flag::LazyTime, true),
            "nolazytime" => (Flag::LazyTime, false),
            "noatime" => return self.take_access_times(AccessTimes::Never),
            "atime" | "relatime" | "nostrictatime" => return self.take_access_times(AccessTimes::Relative),
            "strictatime" | "norelatime" => return self.take_access_times(AccessTimes::Always),
            // So it is: volumes are always mounted nodev.
            "defaults" | "nodev" => return true,
            _ => return false,
        };
        if set {
            self.flags.insert(flag);
        } else {
            self.flags.remove(&flag);
        }
        true
    }

    fn take_access_times(&mut self, wanted: AccessTimes) -> bool {
        self.access_times = wanted;
        true
    }
}

fn check(option: &str, filesystem: Option<Filesystem>) -> Result<(), String> {
    if option == "dev" {
        return Err(
            "is refused: volumes are mounted nodev, because a device node in one volume could lead to the \
                    device of another; remove it"
                .into(),
        );
    }
    if is_in(OPERATIONS, option) {
        return Err("asks for something else than a mount; remove it".into());
    }
    if is_in(ELSEWHERE, option) {
        return Err("names another device or file, and a volume is one device; remove it".into());
    }
    if is_in(SECURITY, option) || Filesystem::ALL.iter().any(|one| fits(*one, option, filesystem)) {
        return Ok(());
    }
    let of_another = Filesystem::ALL.iter().find(|other| is_in(known(**other), option));
    Err(match (filesystem, of_another) {
        (Some(own), Some(other)) => {
            format!("is an option of {other}, and the volume carries {own}; remove it")
        }
        (Some(own), None) => {
            format!("is not an option of {own} that this driver knows; correct or remove it")
        }
        (None, _) => "is not an option of xfs or ext4 that this driver knows; correct or remove it".into(),
    })
}

fn fits(candidate: Filesystem, option: &str, filesystem: Option<Filesystem>) -> bool {
    filesystem.is_none_or(|own| own == candidate) && is_in(known(candidate), option)
}

const fn known(filesystem: Filesystem) -> &'static [&'static str] {
    match filesystem {
        Filesystem::Xfs => XFS,
        Filesystem::Ext4 => EXT4,
    }
}

/// Whether an option has one of these names, with a value where the name wants one.
fn is_in(names: &[&str], option: &str) -> bool {
    names.iter().any(|name| match name.strip_suffix('=') {
        Some(_) => option.starts_with(name) && option.len() > name.len(),
        None => option == *name,
    })
}

/// Separates options at commas that are not between double quotes: the kubelet quotes SELinux labels, which hold commas.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    })
}

fn shown(option: &str) -> String {
    option.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[&str], filesystem: Option<Filesystem>) -> Result<MountOptions, String> {
        let given: Vec<String> = given.iter().map(|option| (*option).to_owned()).collect();
        parse(&given, filesystem).map_err(|error| error.to_string())
    }

    #[test]
    fn options_for_userspace_are_dropped_and_all_others_kept() {
        let given =
            ["_netdev,nofail", "x-systemd.automount", "comment=db", "users", "discard,nosuid", "noauto"];
        let parsed = of(&given, Some(Filesystem::Xfs)).unwrap();
        assert_eq!(parsed.filesystem, ["discard"]);
        assert_eq!(parsed.flags, BTreeSet::from([Flag::NoSuid]));
    }

    #[test]
    fn access_times_are_kept_off_unless_asked_for() {
        for (given, wanted) in [
            (&[][..], AccessTimes::Never),
            (&["relatime"], AccessTimes::Relative),
            (&["atime"], AccessTimes::Relative),
            (&["strictatime"], AccessTimes::Always),
            (&["relatime,noatime"], AccessTimes::Never),
        ] {
            assert_eq!(of(given, None).unwrap().access_times, wanted, "{given:?}");
        }
    }

    #[test]
    fn the_last_of_two_contrary_options_counts() {
        assert!(of(&["ro,rw"], None).unwrap().flags.is_empty());
        assert_eq!(of(&["rw", "ro"], None).unwrap().flags, BTreeSet::from([Flag::ReadOnly]));
    }

    #[test]
    fn an_option_that_is_not_accepted_is_named_with_the_reason() {
        for (option, filesystem, words) in [
            ("nobarier", None, "not an option of xfs or ext4"),
            ("nobarrier", Some(Filesystem::Xfs), "an option of ext4, and the volume carries xfs"),
            ("nouuid", Some(Filesystem::Ext4), "an option of xfs, and the volume carries ext4"),
            ("commit", Some(Filesystem::Ext4), "not an option of ext4"),
            ("dev", None, "mounted nodev"),
            ("remount", None, "something else than a mount"),
            ("logdev=/dev/sda", None, "one device"),
        ] {
            let error = of(&[option], filesystem).unwrap_err();
            assert!(error.contains(&format!("{option:?}")) && error.contains(words), "{error}");
        }
        assert!(of(&[&"x".repeat(5000)], None).unwrap_err().len() < 300);
    }

    #[test]
    fn a_quoted_value_with_commas_is_one_option() {
        let label = r#"context="system_u:object_r:container_file_t:s0:c10,c20""#;
        let parsed = of(&[&format!("discard,{label},nosuid")], Some(Filesystem::Ext4)).unwrap();
        assert_eq!(parsed.filesystem, ["discard", label]);
    }
}
