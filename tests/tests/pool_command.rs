//! `stillpoint pool` on real files: nothing of anybody's is overwritten, and everything can be repeated.

// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use stillpoint::agent::pool::inspect;
use stillpoint::backend::BackendKind;
use stillpoint::cli::pool::{self, CreateArgs, DestroyArgs, PoolCommand};
use stillpoint::domain::{Bytes, Code, Fault};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Loops, Mounts};
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::{Scratch, why_not};

fn run(command: PoolCommand) -> Result<(), Fault> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Fault::internal(error.to_string()))?;
    runtime.block_on(pool::run(command))
}

fn create(scratch: &Scratch, backend: BackendKind, size: Option<Bytes>) -> Result<(), Fault> {
    run(PoolCommand::Create(CreateArgs {
        dir: scratch.dir().join("pool"),
        file: Some(scratch.dir().join("pool.img")),
        size,
        device: None,
        backend,
        force: false,
    }))
}

fn destroy(dir: &Path, yes: bool) -> Result<(), Fault> {
    run(PoolCommand::Destroy(DestroyArgs { dir: dir.to_owned(), yes }))
}

#[test]
fn a_pool_is_made_once_mounted_again_and_destroyed() {
    const TEST: &str = "a_pool_is_made_once_mounted_again_and_destroyed";
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(reason) = why_not(kind) {
            return skip(TEST, &reason);
        }
        let scratch = Scratch::new("pool-command").unwrap();
        let (dir, file) = (scratch.dir().join("pool"), scratch.dir().join("pool.img"));
        create(&scratch, kind, Some(Bytes::gib(1))).unwrap();
        let made = inspect(&LinuxHost, &dir).unwrap();
        assert_eq!(made.record.backend, kind.as_str());
        create(&scratch, kind, Some(Bytes::gib(1))).unwrap();

        // After a reboot the file is there and nothing is mounted.
        LinuxHost.unmount(&dir).unwrap();
        create(&scratch, kind, None).unwrap();
        assert_eq!(inspect(&LinuxHost, &dir).unwrap().record, made.record);

        assert_eq!(destroy(&dir, false).unwrap_err().code, Code::Precondition);
        assert!(inspect(&LinuxHost, &dir).is_ok(), "nothing is destroyed without --yes");
        destroy(&dir, true).unwrap();
        assert!(!file.exists());
        assert!(inspect(&LinuxHost, &dir).is_err());
    }
}

#[test]
fn what_is_somebodys_is_not_overwritten() {
    const TEST: &str = "what_is_somebodys_is_not_overwritten";
    if let Some(reason) = why_not(BackendKind::Btrfs) {
        return skip(TEST, &reason);
    }
    let scratch = Scratch::new("pool-refusals").unwrap();
    let (dir, file) = (scratch.dir().join("pool"), scratch.dir().join("pool.img"));
    // Content without any signature that a tool would know.
    let notes = b"my notes\n".repeat(1 << 20);
    fs::write(&file, &notes).unwrap();
    let refusal = create(&scratch, BackendKind::Btrfs, None).unwrap_err();
    assert!(refusal.message.contains("--force") && refusal.message.contains("unknown kind"), "{refusal}");
    assert_eq!(fs::read(&file).unwrap(), notes);

    // A filesystem that is no pool.
    fs::remove_file(&file).unwrap();
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let made = std::process::Command::new("mkfs.xfs").args(["-q", "-K"]).arg(&file).status();
    assert!(made.unwrap().success());
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        let refusal = create(&scratch, kind, None).unwrap_err();
        assert!(refusal.message.contains("--force"), "{refusal}");
    }
    assert!(LinuxHost.attached(&file).unwrap().is_empty(), "a refusal leaves no loop device");
    assert!(!LinuxHost.mounts().unwrap().iter().any(|mount| mount.target == dir));

    fs::remove_file(&file).unwrap();
    assert_eq!(create(&scratch, BackendKind::Btrfs, None).unwrap_err().code, Code::Invalid);
    let small = create(&scratch, BackendKind::Btrfs, Some(Bytes::mib(10))).unwrap_err();
    assert_eq!(small.code, Code::OutOfRange);
    assert!(!file.exists(), "a refusal makes no file");
}

fn run_tool(program: &str, args: &[&std::ffi::OsStr]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pool_whose_maker_was_killed_is_made_by_the_next_one() {
    const TEST: &str = "a_pool_whose_maker_was_killed_is_made_by_the_next_one";
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(reason) = why_not(kind) {
            return skip(TEST, &reason);
        }
        let scratch = Scratch::new("pool-half-made").unwrap();
        let (dir, file) = (scratch.dir().join("pool"), scratch.dir().join("pool.img"));
        let half = scratch.dir().join("pool.img.half-made");
        let make = || create(&scratch, kind, Some(Bytes::gib(1)));

        // Killed within mkfs: the file has data of no known kind, and a loop device.
        fs::write(&half, b"half a filesystem\n".repeat(1 << 20)).unwrap();
        LinuxHost.attach(&half, false).unwrap();
        make().unwrap();
        inspect(&LinuxHost, &dir).unwrap();
        assert!(file.exists() && !half.exists());
        let devices = run_tool("losetup", &["--list".as_ref(), "-O".as_ref(), "BACK-FILE".as_ref()]);
        assert!(!devices.contains(&half.display().to_string()), "{devices}");

        // Killed after mkfs, then after the mount, then before the record of the pool had its name.
        fs::remove_file(dir.join("stillpoint.json")).unwrap();
        fs::remove_dir(dir.join("cuts")).unwrap();
        fs::write(dir.join(".new-stillpoint.json"), "{").unwrap();
        make().unwrap();
        let before = inspect(&LinuxHost, &dir).unwrap().record.id;
        fs::remove_file(dir.join("stillpoint.json")).unwrap();
        LinuxHost.unmount(&dir).unwrap();
        make().unwrap();
        assert_ne!(inspect(&LinuxHost, &dir).unwrap().record.id, before);

        // What somebody has put there is nobody's half-made pool.
        fs::remove_file(dir.join("stillpoint.json")).unwrap();
        fs::write(dir.join("notes"), "mine").unwrap();
        let refusal = make().unwrap_err();
        assert!(refusal.message.contains("notes"), "{refusal}");
        assert_eq!(fs::read_to_string(dir.join("notes")).unwrap(), "mine", "what was mounted stays so");
        LinuxHost.unmount(&dir).unwrap();
        make().unwrap_err();
        assert!(!dir.join("notes").exists(), "what was not mounted is not mounted by a failure");
        let other = scratch.dir().join("elsewhere");
        fs::create_dir(&other).unwrap();
        run_tool("mount", &["-o".as_ref(), "loop".as_ref(), file.as_ref(), other.as_ref()]);
        assert_eq!(fs::read_to_string(other.join("notes")).unwrap(), "mine");
        LinuxHost.unmount(&other).unwrap();
    }
}

#[test]
fn a_pool_file_that_a_container_which_is_gone_has_attached_is_not_attached_twice() {
    const TEST: &str = "a_pool_file_that_a_container_which_is_gone_has_attached_is_not_attached_twice";
    let kind = BackendKind::Btrfs;
    if let Some(reason) = why_not(kind) {
        return skip(TEST, &reason);
    }
    let scratch = Scratch::new("pool-attached").unwrap();
    let (dir, file) = (scratch.dir().join("pool"), scratch.dir().join("pool.img"));
    create(&scratch, kind, Some(Bytes::gib(1))).unwrap();
    LinuxHost.unmount(&dir).unwrap();
    // In a mount namespace that is gone afterwards, and through a mount of its own, as a container sees a host's directory.
    let script = r#"mount --bind "$1" /mnt && losetup --find /mnt/pool.img"#;
    let parent = scratch.dir();
    run_tool(
        "unshare",
        &["--mount".as_ref(), "sh".as_ref(), "-c".as_ref(), script.as_ref(), "sh".as_ref(), parent.as_ref()],
    );
    let attached = || LinuxHost.attached(&file).unwrap();
    let before = attached();
    let backing = before[0].path.file_name().unwrap().to_string_lossy().into_owned();
    let shown = fs::read_to_string(format!("/sys/block/{backing}/loop/backing_file")).unwrap();
    assert_eq!(shown.trim(), "/pool.img", "the kernel knows no more of its place");
    create(&scratch, kind, None).unwrap();
    assert_eq!(
        attached(),
        before,
        "two devices over one file would be two filesystems that overwrite each other"
    );
    // Something else at the directory is not mounted over.
    let other = scratch.filesystem("other", kind, Bytes::gib(1)).unwrap();
    run_tool("mount", &["--bind".as_ref(), other.as_ref(), dir.as_ref()]);
    let refused = create(&scratch, kind, None).unwrap_err();
    assert!(refused.message.contains("is mounted at"), "{refused}");
    LinuxHost.unmount(&dir).unwrap();
    assert!(inspect(&LinuxHost, &dir).is_ok());
}
