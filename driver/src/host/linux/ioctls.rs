//! Numbers and structures of the ioctls, from the kernel's `uapi` headers (`linux/btrfs.h`, `linux/loop.h`,
//! `linux/fs.h`, `linux/fiemap.h`).

/// Longest subvolume name with its NUL in `btrfs_ioctl_vol_args_v2`.
const NAME_V2: usize = 4040;
/// Longest name with its NUL in `btrfs_ioctl_vol_args`.
const NAME_V1: usize = 4088;
/// Space kinds that one call can return; a filesystem has one per kind and profile in use.
pub const SPACE_SLOTS: usize = 32;

pub const SUBVOL_RDONLY: u64 = 1 << 1;
pub const NOCOW_FL: libc::c_long = 0x0080_0000;
pub const LO_READ_ONLY: u32 = 1;
pub const LO_DIRECT_IO: u32 = 16;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub struct VolArgs {
    pub fd: i64,
    pub name: [u8; NAME_V1],
}

impl VolArgs {
    /// Arguments that name `name` in the directory that the ioctl is called on; `None` when it is too long.
    pub fn named(name: &[u8]) -> Option<Box<Self>> {
        let mut args = Box::new(Self { fd: 0, name: [0; NAME_V1] });
        args.name.get_mut(..name.len()).filter(|_| name.len() < NAME_V1)?.copy_from_slice(name);
        Some(args)
    }
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
pub struct VolArgsV2 {
    pub fd: i64,
    pub transid: u64,
    pub flags: u64,
    pub unused: [u64; 4],
    pub name: [u8; NAME_V2],
}

impl VolArgsV2 {
    /// Arguments that name `name` in the directory that the ioctl is called on; `None` when it is too long.
    pub fn named(name: &[u8], flags: u64) -> Option<Box<Self>> {
        let mut args = Box::new(Self { fd: 0, transid: 0, flags, unused: [0; 4], name: [0; NAME_V2] });
        args.name.get_mut(..name.len()).filter(|_| name.len() < NAME_V2)?.copy_from_slice(name);
        Some(args)
    }
}

/// `struct btrfs_ioctl_space_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceInfo {
    pub flags: u64,
    pub total_bytes: u64,
    pub used_bytes: u64,
}

/// `struct btrfs_ioctl_space_args` with room for the answer behind it.
#[repr(C)]
pub struct SpaceArgs {
    pub slots: u64,
    pub total: u64,
    pub spaces: [SpaceInfo; SPACE_SLOTS],
}

/// The head of `struct btrfs_ioctl_space_args`: the ioctl number is made of its size.
#[repr(C)]
pub struct SpaceArgsHead {
    slots: u64,
    total: u64,
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
pub struct FsInfo {
    pub max_id: u64,
    pub num_devices: u64,
    pub rest: [u8; 1008],
}

/// `struct btrfs_ioctl_dev_info_args`.
#[repr(C)]
pub struct DevInfo {
    pub devid: u64,
    pub uuid: [u8; 16],
    pub bytes_used: u64,
    pub total_bytes: u64,
    pub rest: [u8; 4056],
}

/// `struct btrfs_ioctl_search_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SearchKey {
    pub tree_id: u64,
    pub min_objectid: u64,
    pub max_objectid: u64,
    pub min_offset: u64,
    pub max_offset: u64,
    pub min_transid: u64,
    pub max_transid: u64,
    pub min_type: u32,
    pub max_type: u32,
    pub nr_items: u32,
    pub unused: u32,
    pub unused_more: [u64; 4],
}

/// `struct btrfs_ioctl_search_args`.
#[repr(C)]
pub struct SearchArgs {
    pub key: SearchKey,
    pub found: [u8; 3992],
}

/// The tree of all trees, in which a deleted subvolume keeps an orphan item until its space is free.
pub const ROOT_TREE: u64 = 1;
pub const ORPHAN_OBJECTID: u64 = 5_u64.wrapping_neg();
pub const ORPHAN_ITEM: u32 = 48;

/// `struct btrfs_balance_args`, packed in the kernel's header; its fields need no padding.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BalanceFilter {
    pub profiles: u64,
    pub usage: u64,
    pub ranges: [u64; 6],
    pub flags: u64,
    pub limit: u64,
    pub stripes: u64,
    pub unused: [u64; 6],
}

/// `struct btrfs_ioctl_balance_args`.
#[repr(C)]
pub struct BalanceArgs {
    pub flags: u64,
    pub state: u64,
    pub data: BalanceFilter,
    pub metadata: BalanceFilter,
    pub system: BalanceFilter,
    pub expected: u64,
    pub considered: u64,
    pub completed: u64,
    pub unused: [u64; 72],
}

/// Balance data only.
pub const BALANCE_DATA: u64 = 1;
/// [`BalanceFilter::usage`] and [`BalanceFilter::limit`] count.
pub const BALANCE_USAGE_AND_LIMIT: u64 = (1 << 1) | (1 << 5);
pub const BALANCE_CANCEL: libc::c_int = 2;

/// `struct fiemap` without room for extents: only the count is asked for.
#[repr(C)]
pub struct Fiemap {
    pub start: u64,
    pub length: u64,
    pub flags: u32,
    pub mapped_extents: u32,
    pub extent_count: u32,
    pub reserved: u32,
}

/// The head of a `struct fiemap`, in words of eight bytes, as the kernel reads it.
pub const FIEMAP_HEAD_WORDS: usize = size_of::<Fiemap>() / size_of::<u64>();
/// What is dirty is written out first.
const FIEMAP_FLAG_SYNC: u64 = 1;

/// The head of a call that wants the map from `start` on and has room for so many extents.
pub fn fiemap_head(start: u64, room: usize) -> [u64; FIEMAP_HEAD_WORDS] {
    // Two fields of 32 bits share a word: flags and mapped_extents, then extent_count and reserved.
    let first = if cfg!(target_endian = "big") { 32 } else { 0 };
    let room = u64::try_from(room).unwrap_or_default();
    [start, u64::MAX - start, FIEMAP_FLAG_SYNC << first, room << first]
}

/// How many extents the kernel has filled in.
pub fn fiemap_mapped(words: &[u64]) -> usize {
    let shift = if cfg!(target_endian = "big") { 0 } else { 32 };
    words.get(2).map_or(0, |word| usize::try_from((word >> shift) & 0xffff_ffff).unwrap_or_default())
}

/// `struct fiemap_extent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FiemapExtent {
    pub logical: u64,
    pub physical: u64,
    pub length: u64,
    flags: u32,
}

impl FiemapExtent {
    pub const WORDS: usize = 7;
    const LAST: u32 = 0x1;
    const UNWRITTEN: u32 = 0x800;
    /// UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL.
    const NO_ADDRESS: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400;

    pub fn of_words(words: &[u64]) -> Option<Self> {
        let [logical, physical, length, _, _, flags, _] = *words else { return None };
        let shift = if cfg!(target_endian = "big") { 32 } else { 0 };
        let flags = u32::try_from((flags >> shift) & 0xffff_ffff).unwrap_or_default();
        Some(Self { logical, physical, length, flags })
    }

    pub const fn is_last(&self) -> bool {
        self.flags & Self::LAST != 0
    }

    pub const fn is_unwritten(&self) -> bool {
        self.flags & Self::UNWRITTEN != 0
    }

    /// Its physical address says nothing about its data.
    pub const fn has_no_address(&self) -> bool {
        self.flags & Self::NO_ADDRESS != 0
    }
}

/// `struct loop_info64`.
#[repr(C)]
pub struct LoopInfo {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub sizelimit: u64,
    pub number: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub file_name: [u8; 64],
    pub crypt_name: [u8; 64],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
}

impl LoopInfo {
    pub const fn empty() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
pub struct LoopConfig {
    pub fd: u32,
    pub block_size: u32,
    pub info: LoopInfo,
    pub reserved: [u64; 8],
}

/// `struct xfs_fsop_geom_v1`.
#[repr(C)]
#[derive(Default)]
pub struct XfsGeometry {
    pub block_size: u32,
    pub more: [u32; 7],
    pub data_blocks: u64,
    pub rest: [u64; 9],
}

// A wrong size would be a wrong ioctl number or a write past the end.
const _: () = assert!(size_of::<VolArgs>() == 4096);
const _: () = assert!(size_of::<VolArgsV2>() == 4096);
const _: () = assert!(size_of::<FsInfo>() == 1024);
const _: () = assert!(size_of::<DevInfo>() == 4096);
const _: () = assert!(size_of::<SearchArgs>() == 4096);
const _: () = assert!(size_of::<BalanceFilter>() == 136);
const _: () = assert!(size_of::<BalanceArgs>() == 1024);
const _: () = assert!(size_of::<Fiemap>() == 32);
const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<XfsGeometry>() == 112);

nix::ioctl_write_ptr!(btrfs_subvol_create_v2, 0x94, 24, VolArgsV2);
nix::ioctl_write_ptr!(btrfs_snap_create_v2, 0x94, 23, VolArgsV2);
nix::ioctl_write_ptr!(btrfs_snap_destroy, 0x94, 15, VolArgs);
nix::ioctl_readwrite_bad!(
    btrfs_space_info,
    nix::request_code_readwrite!(0x94, 20, size_of::<SpaceArgsHead>()),
    SpaceArgs
);
nix::ioctl_none!(btrfs_sync, 0x94, 8);
nix::ioctl_readwrite!(btrfs_tree_search, 0x94, 17, SearchArgs);
nix::ioctl_readwrite!(btrfs_balance_v2, 0x94, 32, BalanceArgs);
nix::ioctl_write_int_bad!(btrfs_balance_ctl, nix::request_code_write!(0x94, 33, size_of::<libc::c_int>()));
nix::ioctl_read!(btrfs_fs_info, 0x94, 31, FsInfo);
nix::ioctl_readwrite!(btrfs_dev_info, 0x94, 30, DevInfo);
nix::ioctl_write_int_bad!(ficlone, nix::request_code_write!(0x94, 9, size_of::<libc::c_int>()));
nix::ioctl_readwrite!(fiemap, b'f', 11, Fiemap);
nix::ioctl_read!(get_flags, b'f', 1, libc::c_long);
nix::ioctl_write_ptr!(set_flags, b'f', 2, libc::c_long);
nix::ioctl_read!(xfs_geometry, b'X', 100, XfsGeometry);
nix::ioctl_readwrite!(fifreeze, b'X', 119, libc::c_int);
nix::ioctl_readwrite!(fithaw, b'X', 120, libc::c_int);
nix::ioctl_none_bad!(loop_clr_fd, 0x4C01);
nix::ioctl_read_bad!(loop_get_status64, 0x4C05, LoopInfo);
nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);
nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
