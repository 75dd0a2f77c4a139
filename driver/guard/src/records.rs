//! What is armed, written down for the next guard: a file per hold beside the socket.
//!
//! It is written before the agent is told that it may freeze, and never synced: it must outlive this process, not
//! the machine, which takes its frozen filesystems with it. The directory belongs on a filesystem in memory (`/run`).

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};

use crate::thaw::{LOOP_MAJOR, OwnDevice, Thaw, check_is_image, check_is_volume, thaw};
use crate::throttle::{self, Limit};

/// The mount table.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The records of one guard. While it lives, no other guard serves the same socket.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    next: Arc<AtomicU64>,
    _lock: Flock<File>,
}

/// What one hold has armed. Dropping it removes it: everything was let go, or is the agent's again.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: Option<File>,
}

impl Records {
    /// The records of the guard at this socket.
    pub fn beside(socket: &Path) -> Result<Self, String> {
        let directory = with_suffix(socket, ".armed");
        let said = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| format!("{}: {error}", path.display())
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(said(&directory))?;
        let lock = directory.join("lock");
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&lock).map_err(said(&lock))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| format!("another guard serves {} ({errno})", socket.display()))?;
        Ok(Self { directory, next: Arc::default(), _lock: lock })
    }

    /// Lets go of what a guard that was killed had armed, and forgets it. What is not frozen or held is left as it is.
    pub fn let_go(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_name() != "lock") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for line in text.lines() {
                match let_go_of(line) {
                    Ok(None) => {}
                    Ok(Some(what)) => eprintln!("stillpoint-guard: an earlier guard was killed: {what}"),
                    Err(why) => eprintln!("stillpoint-guard: {line:?} of an earlier guard: {why}"),
                }
            }
            // A record that stays is let go of again, which does no harm.
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// A record for one more hold. Nothing is written before something is armed.
    pub(crate) fn next(&self) -> Record {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Record { path: self.directory.join(format!("hold-{number}")), file: None }
    }
}

impl Record {
    pub(crate) fn add_mounts(&mut self, devices: &[OwnDevice]) -> Result<(), String> {
        let mut text = String::new();
        for device in devices {
            let backing = one_line(&device.backing)?;
            let _ = writeln!(text, "mount\t{}\t{backing}", device.minor);
        }
        self.write(&text)
    }

    pub(crate) fn add_limits(&mut self, device: &OwnDevice, limits: &[Limit]) -> Result<(), String> {
        let mut text = String::new();
        for limit in limits {
            let path = limit.path.to_str().ok_or("a path that is not UTF-8")?;
            let (backing, path) = (one_line(&device.backing)?, one_line(path)?);
            let _ = writeln!(text, "limit\t{}\t{backing}\t{}\t{path}", device.minor, limit.line);
        }
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        let path = &self.path;
        let said = |error: std::io::Error| {
            format!("what is armed cannot be written down in {}: {error}", path.display())
        };
        if self.file.is_none() {
            let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            self.file = Some(made.map_err(said)?);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(text.as_bytes())).map_err(said)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.file.is_some() {
            // A record that stays is let go of by the next guard, which does no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn one_line(text: &str) -> Result<&str, String> {
    if text.contains(['\n', '\t']) {
        return Err(format!("{text:?} has a line break or tab in it"));
    }
    Ok(text)
}

/// Undoes one line of a record; what was done, if anything was left to do.
fn let_go_of(line: &str) -> Result<Option<String>, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let device = |minor: &str, backing: &str| {
        let minor = minor.parse().map_err(|_| format!("{minor:?} is no number of a loop device"))?;
        let device = check_is_image(minor)?;
        // The number may have been given to another volume since.
        if device.backing == backing { Ok(Some(device)) } else { Ok::<_, String>(None) }
    };
    match fields[..] {
        ["mount", minor, backing] => device(minor, backing)?.map_or(Ok(None), |device| thaw_mount(&device)),
        ["limit", minor, backing, line, path] => {
            let Some(_) = device(minor, backing)? else { return Ok(None) };
            let (file, _) = throttle::open(Path::new(path), line)?;
            throttle::set(&file, line).map_err(|error| format!("{path}: {error}"))?;
            Ok(Some(format!("set {line:?} in {path}")))
        }
        _ => Err("not understood".into()),
    }
}

fn thaw_mount(device: &OwnDevice) -> Result<Option<String>, String> {
    let table = std::fs::read_to_string(MOUNTS).map_err(|error| format!("{MOUNTS}: {error}"))?;
    let target = mount_of(&table, device.minor)
        .ok_or("no mount of it is seen here; the agent thaws it when it starts, if it is still mounted")?;
    let root = File::open(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    // It may have been unmounted since the look at the table.
    if check_is_volume(root.as_fd())? != *device {
        return Ok(None);
    }
    match thaw(root.as_fd()) {
        Thaw::Thawed => Ok(Some(format!("thawed {}", target.display()))),
        Thaw::NotFrozen => Ok(None),
        Thaw::Failed(errno) => Err(format!("FITHAW: {}", nix::Error::from_raw(errno))),
    }
}

/// A directory where this loop device is mounted.
fn mount_of(table: &str, minor: u32) -> Option<PathBuf> {
    let name = format!("{LOOP_MAJOR}:{minor}");
    table.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(2)? == name).then(|| unescape(words.nth(1)?)).flatten()
    })
}

/// The kernel writes blanks, tabs, line breaks and backslashes as three octal digits.
fn unescape(text: &str) -> Option<PathBuf> {
    let mut parts = text.split('\\');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        path.push_str(rest);
    }
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("stillpoint-guard-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_socket_has_one_guard() {
        let directory = scratch("one");
        let socket = directory.join("guard.sock");
        let first = Records::beside(&socket).unwrap();
        assert!(Records::beside(&socket).unwrap_err().contains("another guard"));
        drop(first);
        assert!(Records::beside(&socket).is_ok());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_record_lives_as_long_as_its_hold() {
        let directory = scratch("record");
        let records = Records::beside(&directory.join("guard.sock")).unwrap();
        let mut record = records.next();
        let path = record.path.clone();
        assert!(!path.exists(), "nothing is armed yet");
        let device = OwnDevice { minor: 4000, backing: "/p/volumes/a-v1/disk.img".into() };
        record.add_mounts(std::slice::from_ref(&device)).unwrap();
        record.add_mounts(&[device]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        drop(record);
        assert!(!path.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_record_of_a_device_that_is_gone_or_of_nonsense_is_forgotten_without_harm() {
        let directory = scratch("stale");
        let records = Records::beside(&directory.join("guard.sock")).unwrap();
        let path = records.directory.join("hold-0");
        std::fs::write(
            &path,
            "mount\t999999\t/p/volumes/a-v1/disk.img\nmount\n\u{0}\nlimit\tx\ty\tz\t/etc/passwd\n",
        )
        .unwrap();
        records.let_go();
        assert!(!path.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_mount_is_found_by_its_device_whatever_is_in_its_name() {
        let table = "30 1 7:31 / /other rw - xfs /dev/loop31 rw\n31 1 7:3 / /mnt/a\\040b rw,noatime - xfs /dev/loop3 rw\n";
        assert_eq!(mount_of(table, 3), Some("/mnt/a b".into()));
        assert_eq!(mount_of(table, 4), None);
    }
}
