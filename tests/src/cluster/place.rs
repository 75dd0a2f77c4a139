//! Makes a place: a process that does nothing but keep a network and a mount namespace alive, and the mounts in it.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::launch::{Launcher, Program, recorded, run_with};
use super::{Layout, Place};

const HOLDER: &str = "holder";
const HOLDER_LIMIT: Duration = Duration::from_secs(10);

/// The kernel's settings that a kubelet wants. It finds them in files of its own: the host keeps what it has.
const KERNEL_SETTINGS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Lets go of other people's filesystems, which a copy of the mount table would keep busy, and gives a node its own
/// `/run`, `/var/lib` and `/var/log`. `$1`: the node's directory.
const NODE_MOUNTS: &str = r#"
mkdir -p "$1/var-lib" "$1/work" "$1/stillpoint"
mount --make-rshared /
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var/log
mount -t overlay -o "lowerdir=/var/lib,upperdir=$1/var-lib,workdir=$1/work" overlay /var/lib
mkdir -p /run/containerd /run/lock /var/log/pods /var/log/containers /var/lib/kubelet /var/lib/cni /var/lib/stillpoint
mount -t tmpfs -o mode=0755 tmpfs /var/lib/kubelet
mount -t tmpfs -o mode=0755 tmpfs /var/lib/cni
mount --bind "$1/stillpoint" /var/lib/stillpoint
# A peer group of its own: what is mounted below must not appear below $1 too.
mount --make-private /var/lib/stillpoint
mount --make-shared /var/lib/stillpoint
"#;

const FORGET_OTHERS: &str = r#"
tac /proc/self/mounts | awk '$1 ~ "^/dev/loop" { print $2 }' | while read -r path; do
    umount "$path" 2>/dev/null || umount -l "$path" 2>/dev/null || true
done
"#;

/// The process that keeps a place, when it lives.
pub fn holder(layout: &Layout, place: Place) -> Option<i32> {
    recorded(layout, place, HOLDER)
}

/// Makes a place; its holder's pid.
pub fn make(layout: &Layout, place: Place) -> Result<i32> {
    let launcher = Launcher::new(layout, place)?;
    let args = ["-n", "-m", "--propagation", "private", "sleep", "infinity"];
    let started = launcher.outside(&Program::new(HOLDER, "unshare", args))?;
    let end = Instant::now() + HOLDER_LIMIT;
    while !is_apart(started.pid)? {
        started.check()?;
        if Instant::now() > end {
            bail!("{place} got no namespaces of its own within {HOLDER_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    script(started.pid, FORGET_OTHERS, &[])?;
    match place {
        Place::ControlPlane => {}
        Place::Node(_) => node_mounts(layout, place, started.pid)?,
    }
    Ok(started.pid)
}

fn node_mounts(layout: &Layout, place: Place, holder: i32) -> Result<()> {
    let directory = layout.directory(place.to_string())?;
    script(holder, NODE_MOUNTS, &[&directory.display().to_string()])
        .context("cannot make the node's mounts")?;
    for (setting, value) in KERNEL_SETTINGS {
        let file = layout.directory(format!("{place}/settings"))?.join(setting.replace('/', "."));
        std::fs::write(&file, format!("{value}\n"))?;
        let target = format!("/proc/sys/{setting}");
        script(
            holder,
            r#"[ ! -e "$2" ] || mount --bind "$1" "$2""#,
            &[&file.display().to_string(), &target],
        )?;
    }
    Ok(())
}

/// Whether a process has left our mount and network namespaces (and so no longer is the shell before).
fn is_apart(pid: i32) -> Result<bool> {
    let of = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    for kind in ["net", "mnt"] {
        let own = of("self", kind).context("cannot read our own namespaces")?;
        if of(&pid.to_string(), kind).is_ok_and(|theirs| theirs == own) {
            return Ok(false);
        }
    }
    // Propagation is changed after the namespace is made and before the program starts.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Ok(name.trim_end() == "sleep")
}

/// Runs a shell script inside a place.
pub fn script(holder: i32, text: &str, args: &[&str]) -> Result<String> {
    let mut command = enter(holder);
    command.args(["sh", "-euc", text, "sh"]).args(args);
    run_with(&mut command, "")
}

/// A command that continues inside a place.
pub fn enter(holder: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &holder.to_string(), "-n", "-m", "--"]);
    command
}

/// Does work on a thread of its own in a place's network. Threads that it starts are there too.
pub fn in_network<T: Send>(holder: i32, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = format!("/proc/{holder}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            Ok(work())
        });
        thread.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
