//! The guard on the real kernel: whatever happens to the holder, the filesystem is writable again.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use stillpoint_guard::throttle::Hierarchy;
use stillpoint_guard::{Armed, GuardError, Outcome, Throttle};
use stillpoint_tests::harness::bench::{PATIENCE, command, needs_root, until, writable};
use stillpoint_tests::harness::binaries::binary;
use stillpoint_tests::harness::rundir::RunDir;

/// A guard process and one mounted volume image, all below one directory.
struct Bench {
    run: RunDir,
    guard: Child,
    socket: PathBuf,
    mount: PathBuf,
}

impl Bench {
    /// `None` where it cannot be built; the reason is printed.
    fn new(label: &str) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        let volume = run.directory("volumes/3f9a0c11d2e4-v00000000000000000000000000000000-00000001")?;
        let mount = run.directory("mount")?;
        let image = volume.join("disk.img");
        File::create(&image)?.set_len(64 << 20)?;
        command("mkfs.ext4", &["-q".as_ref(), image.as_os_str()])?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount.as_os_str()])?;
        let socket = run.path().join("guard.sock");
        let guard = Command::new(binary("stillpoint-guard")?)
            .arg("--socket")
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()?;
        until("the guard's socket", || socket.exists())?;
        Ok(Some(Self { run, guard, socket, mount }))
    }

    fn open(&self) -> Result<File> {
        Ok(File::open(&self.mount)?)
    }

    fn freeze(&self) -> Result<()> {
        command("fsfreeze", &["-f".as_ref(), self.mount.as_os_str()])
    }

    fn is_writable_within(&self, limit: Duration) -> Result<bool> {
        writable(&self.mount, limit)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Thaw first: a writer that sleeps on a frozen filesystem cannot be ended.
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.mount).stderr(Stdio::null()).status();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = &self.run;
    }
}

fn arm(socket: &Path, mount: &File, limit: Duration) -> Result<Armed, GuardError> {
    Armed::new(socket, &[mount.as_fd()], &[], limit)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_hold_whose_holder_is_gone_is_thawed_at_once() -> Result<()> {
    let Some(bench) = Bench::new("guard-eof")? else { return Ok(()) };
    let mount = bench.open()?;
    let armed = arm(&bench.socket, &mount, LONG)?;
    bench.freeze()?;
    assert!(!bench.is_writable_within(Duration::from_millis(300))?, "the freeze must be real");
    drop(armed);
    assert!(bench.is_writable_within(PATIENCE)?);
    Ok(())
}

#[test]
fn a_hold_past_its_limit_is_thawed_and_the_holder_is_told() -> Result<()> {
    let Some(bench) = Bench::new("guard-limit")? else { return Ok(()) };
    let mount = bench.open()?;
    let armed = arm(&bench.socket, &mount, Duration::from_millis(300))?;
    bench.freeze()?;
    assert!(bench.is_writable_within(PATIENCE)?);
    assert_eq!(armed.disarm()?, Outcome::Fired);
    Ok(())
}

#[test]
fn a_freeze_that_comes_after_the_limit_is_thawed_too() -> Result<()> {
    let Some(bench) = Bench::new("guard-late")? else { return Ok(()) };
    let mount = bench.open()?;
    let armed = arm(&bench.socket, &mount, Duration::from_millis(100))?;
    std::thread::sleep(Duration::from_millis(400));
    bench.freeze()?;
    assert!(bench.is_writable_within(PATIENCE)?);
    assert_eq!(armed.disarm()?, Outcome::Fired);
    Ok(())
}

#[test]
fn a_hold_that_is_disarmed_is_left_as_it_is() -> Result<()> {
    let Some(bench) = Bench::new("guard-quiet")? else { return Ok(()) };
    let mount = bench.open()?;
    let armed = arm(&bench.socket, &mount, LONG)?;
    bench.freeze()?;
    assert_eq!(armed.disarm()?, Outcome::Quiet);
    // What the holder disarmed while frozen is his: the guard must not touch it any more.
    assert!(!bench.is_writable_within(Duration::from_millis(500))?);
    command("fsfreeze", &["-u".as_ref(), bench.mount.as_os_str()])?;
    assert!(bench.is_writable_within(PATIENCE)?);
    Ok(())
}

#[test]
fn what_is_no_volume_is_refused() -> Result<()> {
    let Some(bench) = Bench::new("guard-foreign")? else { return Ok(()) };
    let root = File::open("/")?;
    let refused = arm(&bench.socket, &root, LONG);
    assert!(
        matches!(&refused, Err(GuardError::Refused(why)) if why.contains("not a loop device")),
        "{refused:?}"
    );
    let mount = bench.open()?;
    let refused = arm(&bench.socket, &mount, Duration::from_secs(31));
    assert!(matches!(&refused, Err(GuardError::Refused(why)) if why.contains("limit")), "{refused:?}");
    Ok(())
}

#[test]
fn without_a_guard_there_is_no_hold() -> Result<()> {
    let root = File::open("/")?;
    let absent = arm(Path::new("/nonexistent/guard.sock"), &root, LONG);
    assert!(matches!(&absent, Err(GuardError::Absent { .. })), "{absent:?}");
    Ok(())
}

#[test]
fn several_holds_do_not_know_each_other() -> Result<()> {
    let (Some(one), Some(two)) = (Bench::new("guard-one")?, Bench::new("guard-two")?) else { return Ok(()) };
    let (first, second) = (one.open()?, two.open()?);
    // Both through the first guard.
    let first = arm(&one.socket, &first, LONG)?;
    let second = arm(&one.socket, &second, LONG)?;
    one.freeze()?;
    two.freeze()?;
    drop(first);
    assert!(one.is_writable_within(PATIENCE)?);
    assert!(!two.is_writable_within(Duration::from_millis(300))?);
    drop(second);
    assert!(two.is_writable_within(PATIENCE)?);
    Ok(())
}

#[test]
fn a_socket_that_is_served_gets_no_second_guard() -> Result<()> {
    let Some(bench) = Bench::new("guard-second")? else { return Ok(()) };
    let second = Command::new(binary("stillpoint-guard")?).arg("--socket").arg(&bench.socket).output()?;
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another guard serves"), "{said}");
    // The first is as it was.
    let mount = bench.open()?;
    assert_eq!(arm(&bench.socket, &mount, LONG)?.disarm()?, Outcome::Quiet);
    Ok(())
}

#[test]
fn what_a_guard_had_armed_is_written_down_as_long_as_the_hold() -> Result<()> {
    let Some(bench) = Bench::new("guard-record")? else { return Ok(()) };
    let records = bench.run.path().join("guard.sock.armed");
    let held = || -> Result<usize> {
        let names = std::fs::read_dir(&records)?.flatten().filter(|entry| entry.file_name() != "lock");
        Ok(names.count())
    };
    assert_eq!(held()?, 0);
    let mount = bench.open()?;
    let armed = arm(&bench.socket, &mount, LONG)?;
    assert_eq!(held()?, 1);
    armed.disarm()?;
    until("the end of the record", || held().is_ok_and(|count| count == 0))
}

#[test]
fn a_device_that_is_no_volume_and_a_file_that_is_no_limit_are_refused() -> Result<()> {
    let Some(bench) = Bench::new("guard-limits")? else { return Ok(()) };
    let file = File::open("/dev/null")?;
    let throttle =
        |minor| Throttle { minor, hierarchy: Hierarchy::V1, limits: vec![(file.as_fd(), u64::MAX)] };
    let own = nix::sys::stat::minor(nix::sys::stat::fstat(bench.open()?)?.st_dev);
    for (minor, why) in [(u32::try_from(own)?, "of a cgroup"), (4_000_000, "backing_file")] {
        let refused = Armed::new(&bench.socket, &[], &[throttle(minor)], LONG);
        assert!(matches!(&refused, Err(GuardError::Refused(said)) if said.contains(why)), "{refused:?}");
    }
    Ok(())
}
