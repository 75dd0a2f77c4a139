//! Write limits on cgroups, by which raw devices are held.
//!
//! Version 1: `blkio.throttle.write_bps_device`, not hierarchical, also in the root. Version 2: `io.max`, for everything
//! below a directory too, not in the root and only where the `io` controller is passed on: the nearest directory above a
//! process that has the file is used. Either way a limit concerns one device only, so a whole pod or slice may be limited
//! without anybody noticing but the users of the device.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use stillpoint_guard::client;
use stillpoint_guard::throttle::{HELD, Hierarchy, NO_LIMIT, set};

use super::files::is_absent;
use super::{Access, LinuxHost, failed, loops, open_file};
use crate::host::{HostError, LoopDevice, Openers, Result, ThrottleHandle, Throttling};

/// A limit that limits nothing, to make the kernel ready for one.
const HUGE: u64 = 1 << 62;
/// Writes that had got through before the limit end within this, or the device is too slow to be held.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// The first looks follow each other closely: usually nothing is in flight.
const DRAIN_POLL: Duration = Duration::from_micros(50);
/// Directories of cgroups that are looked through for leftovers.
const CGROUPS_MAX: usize = 65_536;

impl Throttling for LinuxHost {
    fn openers(&self, devices: &BTreeSet<u64>) -> Result<Openers> {
        Cgroups::of_this_machine()?.openers(devices)
    }

    fn open_throttle(
        &self,
        device: &LoopDevice,
        cgroups: &BTreeSet<PathBuf>,
    ) -> Result<Box<dyn ThrottleHandle>> {
        let hierarchy = Cgroups::of_this_machine()?.hierarchy;
        Ok(Box::new(OpenThrottle::new(device, hierarchy, cgroups)?))
    }

    fn lift_leftovers(&self, devices: &BTreeSet<u64>) -> Result<usize> {
        match Cgroups::of_this_machine() {
            Ok(cgroups) => cgroups.lift_leftovers(devices),
            // Where nothing can be throttled nothing was.
            Err(error) if error.errno() == Some(libc::ENOTSUP) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn unsupported(object: impl std::fmt::Display) -> HostError {
    HostError::new("throttle", object, Errno::ENOTSUP)
}

/// The hierarchy that can limit writes, and where it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroups {
    hierarchy: Hierarchy,
    /// Where it is mounted.
    mount: PathBuf,
    /// What of it is mounted there: `/` outside of containers.
    root: PathBuf,
    processes: PathBuf,
}

impl Cgroups {
    fn of_this_machine() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(failed("read", path))?;
        Self::among(&table).ok_or_else(|| unsupported("no cgroup hierarchy with blkio or io is mounted"))
    }

    /// Version 1 with `blkio` where there is one: on a hybrid machine the unified hierarchy has no `io` then. A
    /// container sees its own part of a hierarchy and may be given all of it elsewhere: the whole one is wanted.
    fn among(mountinfo: &str) -> Option<Self> {
        let found: Vec<Self> = mountinfo.lines().filter_map(hierarchy).collect();
        let whole = |one: &&Self| one.root == Path::new("/");
        let of = |version| found.iter().filter(move |one| one.hierarchy == version);
        let best = |version| of(version).find(whole).or_else(|| of(version).next());
        best(Hierarchy::V1).or_else(|| best(Hierarchy::V2)).cloned()
    }

    fn openers(&self, devices: &BTreeSet<u64>) -> Result<Openers> {
        let mut found = Openers::new();
        let processes = fs::read_dir(&self.processes).map_err(failed("list", &self.processes))?;
        for process in processes.flatten() {
            if !process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            let path = process.path();
            let open = open_devices(&path.join("fd"), devices);
            if open.is_empty() {
                continue;
            }
            // A process that has ended meanwhile has nothing open any more.
            let Ok(text) = fs::read_to_string(path.join("cgroup")) else { continue };
            let group =
                self.directory(&text).ok_or_else(|| unsupported(format!("process {}", path.display())))?;
            for device in open {
                found.entry(device).or_default().insert(group.clone());
            }
        }
        Ok(found)
    }

    /// The directory whose limits concern a process with this `/proc/<pid>/cgroup`.
    fn directory(&self, text: &str) -> Option<PathBuf> {
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            match self.hierarchy {
                Hierarchy::V1 => controllers.split(',').any(|name| name == "blkio").then_some(path),
                Hierarchy::V2 => controllers.is_empty().then_some(path),
            }
        })?;
        // `..` at the start: a cgroup outside of this process's cgroup namespace.
        let below = Path::new(path).strip_prefix(&self.root).ok().filter(|_| !path.starts_with("/.."))?;
        let own = if below.as_os_str().is_empty() { self.mount.clone() } else { self.mount.join(below) };
        let candidates = own.ancestors().take_while(|above| above.starts_with(&self.mount));
        let steps = match self.hierarchy {
            Hierarchy::V1 => 1,
            Hierarchy::V2 => usize::MAX,
        };
        let mut candidates = candidates.take(steps);
        candidates.find(|above| above.join(self.hierarchy.file()).exists()).map(Path::to_path_buf)
    }

    /// A limit of one byte per second on a device of ours is one of ours.
    fn lift_leftovers(&self, devices: &BTreeSet<u64>) -> Result<usize> {
        let minors: Vec<u32> = devices.iter().map(|device| minor(*device)).collect();
        let (mut lifted, mut resists) = (BTreeSet::new(), None);
        let mut waiting = vec![self.mount.clone()];
        let mut seen = 0;
        while let Some(directory) = waiting.pop() {
            seen += 1;
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if seen < CGROUPS_MAX {
                waiting.extend(below.map(|entry| entry.path()));
            }
            let path = directory.join(self.hierarchy.file());
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for minor in &minors {
                if self.hierarchy.limit_in(&text, *minor) != HELD {
                    continue;
                }
                // One that resists must not keep the others throttled.
                match self.lift(&path, *minor) {
                    Ok(()) => drop(lifted.insert(*minor)),
                    Err(error) => drop(resists.get_or_insert(error)),
                }
            }
        }
        if let Some(error) = resists {
            return Err(error);
        }
        Ok(lifted.len())
    }

    /// A cgroup that is gone meanwhile has nobody in it any more.
    fn lift(&self, path: &Path, minor: u32) -> Result<()> {
        let file = match open_file("throttle", path, Access::Write) {
            Err(error) if is_absent(&error.source) => return Ok(()),
            other => other?,
        };
        set(&file, &self.hierarchy.line(minor, NO_LIMIT)).map_err(failed("throttle", path))
    }
}

/// The hierarchy that a line of the mount table shows, if it can limit writes.
fn hierarchy(line: &str) -> Option<Cgroups> {
    let (left, right) = line.split_once(" - ")?;
    let (mut left, mut right) = (left.split(' '), right.split(' '));
    let (root, mount) = (left.nth(3)?, left.next()?);
    let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
    let hierarchy = match kind {
        "cgroup" if options.split(',').any(|option| option == "blkio") => Hierarchy::V1,
        "cgroup2" if has_io(Path::new(mount)) => Hierarchy::V2,
        _ => return None,
    };
    Some(Cgroups { hierarchy, mount: mount.into(), root: root.into(), processes: "/proc".into() })
}

fn has_io(mount: &Path) -> bool {
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_ascii_whitespace().any(|name| name == "io")
}

/// Which of these devices are open here. Links are looked at first: most are sockets and pipes.
fn open_devices(descriptors: &Path, devices: &BTreeSet<u64>) -> BTreeSet<u64> {
    // A process may end, or be one that we may not look at: then it is not ours to hold, and its writes show in the
    // device's counter.
    let Ok(entries) = fs::read_dir(descriptors) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for entry in entries.flatten() {
        let is_path = fs::read_link(entry.path()).is_ok_and(|link| link.is_absolute());
        if let Some(device) = is_path.then(|| stands_for(&entry.path())).flatten()
            && devices.contains(&device)
        {
            found.insert(device);
        }
    }
    found
}

/// The device that an open block device node stands for. Without asking a server: somebody else's dead network mount
/// must not hang a cut.
fn stands_for(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the name ends with NUL and `answer` has room for the structure; both outlive the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::AT_STATX_DONT_SYNC,
            libc::STATX_TYPE,
            answer.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: zeroed is a valid value of it, and the call has filled it.
    let answer = unsafe { answer.assume_init() };
    let is_block = u32::from(answer.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    is_block.then(|| libc::makedev(answer.stx_rdev_major, answer.stx_rdev_minor))
}

fn minor(device: u64) -> u32 {
    libc::minor(device)
}

struct OpenThrottle {
    device: LoopDevice,
    hierarchy: Hierarchy,
    limits: Vec<OpenLimit>,
}

struct OpenLimit {
    file: File,
    path: PathBuf,
    before: u64,
}

impl OpenThrottle {
    fn new(device: &LoopDevice, hierarchy: Hierarchy, cgroups: &BTreeSet<PathBuf>) -> Result<Self> {
        let mut limits = Vec::with_capacity(cgroups.len());
        for cgroup in cgroups {
            let path = cgroup.join(hierarchy.file());
            let file = match open_file("throttle", &path, Access::Write) {
                // A cgroup that is gone has nobody in it.
                Err(error) if error.errno() == Some(libc::ENOENT) => continue,
                other => other?,
            };
            let text = fs::read_to_string(&path).map_err(failed("throttle", &path))?;
            let before = match hierarchy.limit_in(&text, minor(device.device)) {
                // Left by an agent that died: nobody limits to that on purpose.
                HELD => NO_LIMIT,
                other => other,
            };
            limits.push(OpenLimit { file, path, before });
        }
        let throttle = Self { device: device.clone(), hierarchy, limits };
        throttle.make_ready()?;
        Ok(throttle)
    }

    /// The first limit on a device makes the kernel wait for all its requests. The state that this makes stays.
    fn make_ready(&self) -> Result<()> {
        let Some(first) = self.limits.first() else { return Ok(()) };
        if first.before == NO_LIMIT {
            self.write(first, HUGE)?;
            let text = fs::read_to_string(&first.path).map_err(failed("throttle", &first.path))?;
            let taken = self.hierarchy.limit_in(&text, minor(self.device.device));
            self.write(first, NO_LIMIT)?;
            if taken == NO_LIMIT {
                let text = "the kernel took a limit and does not show it, so it would not hold anybody";
                let error = io::Error::new(io::ErrorKind::Unsupported, text);
                return Err(HostError::new("throttle", first.path.display(), error));
            }
        }
        Ok(())
    }

    fn write(&self, limit: &OpenLimit, bytes_per_second: u64) -> Result<()> {
        let line = self.hierarchy.line(minor(self.device.device), bytes_per_second);
        set(&limit.file, &line).map_err(failed("throttle", &limit.path))
    }

    fn drain(&self) -> Result<()> {
        let start = Instant::now();
        while loops::writes_in_flight(&self.device.path)? > 0 {
            if start.elapsed() > DRAIN_LIMIT {
                let text = format!("writes were still in flight {DRAIN_LIMIT:?} after the limit was set");
                let error = io::Error::new(io::ErrorKind::TimedOut, text);
                return Err(HostError::new("drain", self.device.path.display(), error));
            }
            std::thread::sleep(DRAIN_POLL);
        }
        Ok(())
    }
}

impl ThrottleHandle for OpenThrottle {
    fn device(&self) -> u64 {
        self.device.device
    }

    fn limits(&self) -> Option<client::Throttle<'_>> {
        let limits = self.limits.iter().map(|limit| (limit.file.as_fd(), limit.before)).collect();
        Some(client::Throttle { minor: minor(self.device.device), hierarchy: self.hierarchy, limits })
    }

    fn sync(&self) -> Result<()> {
        let path = &self.device.path;
        open_file("fsync", path, Access::Read)?.sync_all().map_err(failed("fsync", path))
    }

    fn hold(&self) -> Result<()> {
        self.limits.iter().try_for_each(|limit| self.write(limit, HELD))?;
        self.drain()
    }

    fn lift(&self) -> Result<()> {
        // All of them, whatever becomes of one.
        let results: Vec<_> = self.limits.iter().map(|limit| self.write(limit, limit.before)).collect();
        results.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that looks like `/proc` and a cgroup hierarchy.
    struct Tree {
        scratch: tempfile::TempDir,
        cgroups: Cgroups,
    }

    impl Tree {
        fn new(hierarchy: Hierarchy) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let (mount, processes) = (scratch.path().join("cgroup"), scratch.path().join("proc"));
            for directory in [&mount, &processes] {
                fs::create_dir(directory).unwrap();
            }
            Self { scratch, cgroups: Cgroups { hierarchy, mount, root: "/".into(), processes } }
        }

        fn group(&self, path: &str, text: Option<&str>) -> PathBuf {
            let directory = self.cgroups.mount.join(path);
            fs::create_dir_all(&directory).unwrap();
            if let Some(text) = text {
                fs::write(directory.join(self.cgroups.hierarchy.file()), text).unwrap();
            }
            directory
        }

        fn process(&self, pid: u32, cgroup: &str, open: &[&str]) {
            let directory = self.cgroups.processes.join(pid.to_string());
            fs::create_dir_all(directory.join("fd")).unwrap();
            fs::write(directory.join("cgroup"), cgroup).unwrap();
            for (number, target) in open.iter().enumerate() {
                symlink(target, directory.join("fd").join(number.to_string())).unwrap();
            }
        }

        fn directory(&self, text: &str) -> Option<PathBuf> {
            self.cgroups.directory(text)
        }
    }

    fn device(minor: u32) -> LoopDevice {
        LoopDevice {
            path: "/dev/loop0".into(),
            device: libc::makedev(7, minor),
            size: crate::domain::Bytes(0),
            read_only: false,
        }
    }

    #[test]
    fn the_hierarchy_with_block_limits_is_found() {
        let hybrid = "34 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 30 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
                      36 30 0:31 / /nowhere/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::among(hybrid).unwrap();
        assert_eq!((found.hierarchy, found.mount), (Hierarchy::V1, "/sys/fs/cgroup/blkio".into()));
        let container = "35 30 0:30 /kubepods/pod1/c1 /sys/fs/cgroup/blkio ro - cgroup cgroup rw,blkio\n\
                         90 30 0:30 / /host/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
        assert_eq!(Cgroups::among(container).unwrap().mount, Path::new("/host/cgroup/blkio"));
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
        let unified = format!("36 30 0:31 / {} rw - cgroup2 cgroup2 rw\n", scratch.path().display());
        assert_eq!(Cgroups::among(&unified).unwrap().hierarchy, Hierarchy::V2);
        fs::write(scratch.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(Cgroups::among(&unified), None, "the io controller is on another hierarchy or off");
    }

    #[test]
    fn a_limit_of_version_one_is_set_on_the_very_cgroup_of_a_process() {
        let tree = Tree::new(Hierarchy::V1);
        let (top, pod) = (tree.group("", Some("")), tree.group("kubepods/pod1/c1", Some("")));
        let text = "9:name=systemd:/elsewhere\n7:blkio:/kubepods/pod1/c1\n0::/x\n";
        assert_eq!(tree.directory(text), Some(pod));
        assert_eq!(tree.directory("7:blkio:/\n"), Some(top));
        assert_eq!(tree.directory("7:blkio:/gone\n"), None);
        assert_eq!(tree.directory("7:blkio:/../other\n"), None, "outside of our cgroup namespace");
        assert_eq!(tree.directory("0::/kubepods\n"), None);
    }

    #[test]
    fn a_limit_of_version_two_is_set_on_the_nearest_cgroup_that_has_limits() {
        let tree = Tree::new(Hierarchy::V2);
        tree.group("", None);
        let pod = tree.group("kubepods.slice/pod1.slice", Some(""));
        tree.group("kubepods.slice/pod1.slice/c1", None);
        tree.group("system.slice", None);
        assert_eq!(tree.directory("0::/kubepods.slice/pod1.slice/c1\n"), Some(pod));
        assert_eq!(tree.directory("0::/system.slice\n"), None, "io is not passed on to it");
        assert_eq!(tree.directory("0::/\n"), None, "the root has no limits");
    }

    #[test]
    fn everybody_who_has_the_device_open_is_found_and_nobody_else() {
        // A block device that exists everywhere where these tests can mean something.
        let nodes = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path());
        let known = nodes.into_iter().find_map(|path| Some((stands_for(&path)?, path)));
        let (number, node) = known.expect("every machine that can run this has a block device in /dev");
        let tree = Tree::new(Hierarchy::V1);
        let (one, two) = (tree.group("one", Some("")), tree.group("two", Some("")));
        let node = node.to_str().unwrap();
        tree.process(10, "7:blkio:/one\n", &["/dev/null", node]);
        tree.process(11, "7:blkio:/one\n", &[node]);
        tree.process(12, "7:blkio:/two\n", &["socket:[1]", node]);
        tree.process(13, "7:blkio:/three\n", &["/dev/null", "/gone"]);
        fs::create_dir(tree.cgroups.processes.join("sys")).unwrap();
        let found = tree.cgroups.openers(&BTreeSet::from([number])).unwrap();
        assert_eq!(found, Openers::from([(number, BTreeSet::from([one, two]))]));
        tree.process(14, "7:blkio:/gone\n", &[node]);
        let error = tree.cgroups.openers(&BTreeSet::from([number])).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOTSUP), "{error}");
        drop(tree.scratch);
    }

    #[test]
    fn a_hold_sets_every_limit_and_a_lift_puts_back_what_was_there() {
        for (hierarchy, was, held, lifted) in [
            (Hierarchy::V1, "7:3 4096\n", "7:3 1", "7:3 4096"),
            (Hierarchy::V2, "7:3 rbps=max wbps=4096 riops=max wiops=max\n", "7:3 wbps=1", "7:3 wbps=4096"),
        ] {
            let tree = Tree::new(hierarchy);
            let group = tree.group("pod", Some(was));
            let throttle =
                OpenThrottle::new(&device(3), hierarchy, &BTreeSet::from([group.clone()])).unwrap();
            let text = || fs::read_to_string(group.join(hierarchy.file())).unwrap();
            assert_eq!(text(), was, "nothing is changed before the hold");
            throttle.limits.iter().for_each(|limit| throttle.write(limit, HELD).unwrap());
            assert!(text().starts_with(held), "{}", text());
            throttle.lift().unwrap();
            assert!(text().starts_with(lifted), "{}", text());
        }
    }

    #[test]
    fn what_a_dead_agent_left_is_lifted_in_every_cgroup_and_nothing_else_is() {
        let tree = Tree::new(Hierarchy::V1);
        let left = [tree.group("a", Some("7:3 1\n")), tree.group("a/b/c", Some("7:3 1\n"))];
        let others = [tree.group("a/b", Some("7:3 4096\n")), tree.group("d", Some("7:4 1\n8:0 1\n"))];
        let count = tree.cgroups.lift_leftovers(&BTreeSet::from([libc::makedev(7, 3)])).unwrap();
        assert_eq!(count, 1);
        let text = |group: &PathBuf| fs::read_to_string(group.join(tree.cgroups.hierarchy.file())).unwrap();
        assert!(left.iter().all(|group| text(group).starts_with("7:3 0")));
        assert_eq!(others.each_ref().map(text), ["7:3 4096\n", "7:4 1\n8:0 1\n"]);
    }
}
