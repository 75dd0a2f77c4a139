use super::*;
use crate::domain::Filesystem;
use crate::host::{Files, Freezing, Images, Loops, MountRequest, Mounts, Subvolumes};

const POOL: &str = "/pool";

fn host(kind: &str) -> FakeHost {
    FakeHost::with_disk(kind, Bytes::gib(1), Path::new(POOL))
}

fn at(path: &str) -> PathBuf {
    Path::new(POOL).join(path)
}

fn exists(host: &FakeHost, path: &str) -> bool {
    host.stat(&at(path)).unwrap().is_some()
}

/// A volume at `/vol` over an image of its own.
fn with_volume(host: &FakeHost) -> PathBuf {
    host.create_image(&at("disk.img"), Bytes::mib(300)).unwrap();
    host.make_filesystem(&at("disk.img"), Filesystem::Xfs).unwrap();
    let device = host.attach(&at("disk.img"), false).unwrap();
    host.make_all(Path::new("/vol"));
    let request = MountRequest {
        device: &device.path,
        target: Path::new("/vol"),
        filesystem: Filesystem::Xfs,
        read_only: false,
        options: &[],
    };
    host.mount(&request).unwrap();
    device.path
}

#[test]
fn a_file_whose_directory_was_not_synced_is_lost() {
    let host = host("xfs");
    host.write_synced(&at("a"), b"content").unwrap();
    assert!(!exists(&host.crash(Crash::OnlySynced), "a"));
    assert!(exists(&host.crash(Crash::NamesWithoutContents), "a"));
    host.sync_directory(Path::new(POOL)).unwrap();
    assert_eq!(host.crash(Crash::OnlySynced).read(&at("a")).unwrap(), b"content");
}

#[test]
fn a_rename_is_durable_only_after_the_directory_was_synced() {
    let host = host("xfs");
    host.write_synced(&at("old"), b"1").unwrap();
    host.sync_directory(Path::new(POOL)).unwrap();
    host.rename(&at("old"), &at("new")).unwrap();
    assert!(exists(&host.crash(Crash::OnlySynced), "old"));
    assert!(exists(&host.crash(Crash::Nothing), "new"));
    host.sync_directory(Path::new(POOL)).unwrap();
    let after = host.crash(Crash::OnlySynced);
    assert!(exists(&after, "new") && !exists(&after, "old"));
}

#[test]
fn a_reflink_is_empty_after_a_crash_unless_the_filesystem_was_synced() {
    let host = host("xfs");
    host.create_image(&at("a"), Bytes::mib(1)).unwrap();
    host.write_block(&at("a"), 3, 7).unwrap();
    host.reflink(&at("a"), &at("b")).unwrap();
    host.sync_directory(Path::new(POOL)).unwrap();
    assert_eq!(host.crash(Crash::OnlySynced).read_block(&at("b"), 3).unwrap(), 0);
    host.sync_filesystem(Path::new(POOL)).unwrap();
    assert_eq!(host.crash(Crash::OnlySynced).read_block(&at("b"), 3).unwrap(), 7);
}

#[test]
fn a_snapshot_is_there_as_a_whole_or_not_at_all() {
    let host = host("btrfs");
    host.create_subvolume(&at("a")).unwrap();
    host.create_image(&at("a/disk.img"), Bytes::mib(1)).unwrap();
    host.write_block(&at("a/disk.img"), 0, 7).unwrap();
    host.snapshot_subvolume(&at("a"), &at("b"), true).unwrap();
    host.write_block(&at("a/disk.img"), 0, 8).unwrap();
    assert!(!exists(&host.crash(Crash::OnlySynced), "b"));
    let after = host.crash(Crash::NamesWithoutContents);
    assert_eq!(after.read_block(&at("b/disk.img"), 0).unwrap(), 7);
    assert_eq!(host.read_block(&at("b/disk.img"), 0).unwrap(), 7);
}

#[test]
fn a_read_only_snapshot_can_be_renamed_but_neither_moved_nor_changed() {
    let host = host("btrfs");
    host.create_subvolume(&at("a")).unwrap();
    host.make_directory(&at("trash")).unwrap();
    host.snapshot_subvolume(&at("a"), &at("b"), true).unwrap();
    assert_eq!(host.rename(&at("b"), &at("trash/b")).unwrap_err().errno(), Some(libc::EROFS));
    assert_eq!(host.write_synced(&at("b/x"), b"").unwrap_err().errno(), Some(libc::EROFS));
    host.rename(&at("b"), &at(".gone-1")).unwrap();
    host.delete_subvolume(&at(".gone-1")).unwrap();
    assert_eq!(host.list(Path::new(POOL)).unwrap().len(), 2);
}

#[test]
fn shared_blocks_take_space_once_until_they_are_overwritten() {
    let host = host("memory");
    let free = || host.space(Path::new(POOL)).unwrap().available;
    host.create_image(&at("a"), Bytes::mib(1)).unwrap();
    host.write_block(&at("a"), 0, 1).unwrap();
    let before = free();
    host.reflink(&at("a"), &at("b")).unwrap();
    assert_eq!(free(), before);
    host.write_block(&at("b"), 0, 2).unwrap();
    assert_eq!(free(), before.saturating_sub(Bytes(4096)));
    host.leave_free(Path::new(POOL), Bytes(0));
    assert_eq!(host.write_block(&at("a"), 1, 1).unwrap_err().errno(), Some(libc::ENOSPC));
    host.write_block(&at("a"), 0, 3).unwrap();
}

#[test]
fn a_frozen_filesystem_has_no_owner() {
    let host = host("xfs");
    let device = with_volume(&host);
    let volume = Path::new("/vol");
    host.open_mount(volume).unwrap().freeze().unwrap();
    assert_eq!(host.open_mount(volume).unwrap().freeze().unwrap_err().errno(), Some(libc::EBUSY));
    assert_eq!(host.write_block(&device, 5, 1).unwrap_err().errno(), Some(libc::EAGAIN));
    // Unmounting and detaching "succeed" and leave it frozen and leaked.
    let handle = host.open_mount(volume).unwrap();
    host.unmount(volume).unwrap();
    assert_eq!(host.attached(&at("disk.img")).unwrap().len(), 1);
    handle.thaw().unwrap();
    assert_eq!(handle.thaw().unwrap_err().errno(), Some(libc::EINVAL));
    host.write_block(&device, 5, 1).unwrap();
    assert_eq!(host.writes(&device).unwrap(), 1);
}

#[test]
fn a_mounted_loop_device_goes_only_at_the_unmount() {
    let host = host("xfs");
    let device = with_volume(&host);
    host.detach(&device).unwrap();
    assert_eq!(host.attached(&at("disk.img")).unwrap().len(), 1);
    host.unmount(Path::new("/vol")).unwrap();
    assert!(host.attached(&at("disk.img")).unwrap().is_empty());
    host.detach(&device).unwrap();
}

#[test]
fn the_plan_fails_hangs_and_kills_exactly_the_planned_call() {
    let host = host("xfs");
    host.fail(When::NthOf("mkdir", 2), libc::EIO);
    host.make_directory(&at("a")).unwrap();
    assert_eq!(host.make_directory(&at("b")).unwrap_err().errno(), Some(libc::EIO));
    host.make_directory(&at("b")).unwrap();

    let hang = host.hang(When::NthOf("mkdir", 1));
    let other = host.clone();
    let thread = std::thread::spawn(move || other.make_directory(&at("c")));
    hang.wait_until_reached();
    assert!(!exists(&host, "c"), "a hanging call must not block others");
    hang.release();
    thread.join().unwrap().unwrap();
    assert!(exists(&host, "c"));

    host.die(When::Nth(2));
    host.make_directory(&at("d")).unwrap();
    assert!(HostDied::is(&host.make_directory(&at("e")).unwrap_err()));
    assert!(HostDied::is(&host.stat(&at("d")).unwrap_err()));
    let after = host.crash(Crash::Nothing);
    assert!(exists(&after, "d") && !exists(&after, "e"));
}
