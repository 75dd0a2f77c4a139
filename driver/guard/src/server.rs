//! The guard's side: one thread per hold, nothing shared between them.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    listen, recvmsg, send, socket,
};

use crate::expedite::Expedite;
use crate::fault::point;
use crate::records::{Record, Records};
use crate::thaw::{Thaw, check_is_image, check_is_volume, thaw};
use crate::throttle::{self, Hierarchy, Limit};
use crate::wire::{Answer, DESCRIPTORS_PER_PACKET, LONGEST_LIMIT_MS, PACKET_BYTES, Request};

/// Holds guarded at the same time; one host has a handful of rounds.
const HOLDS_MAX: usize = 64;
/// Members of one hold.
const MEMBERS_MAX: usize = 4096;
/// Stack of a thread: nothing here recurses. Locked memory, so kept small.
const STACK_BYTES: usize = 64 << 10;
/// How often everything is thawed again after the limit, until the agent speaks or dies.
const AGAIN: Duration = Duration::from_millis(50);

/// Listens at `path` (replacing a stale socket), mode 0600.
pub fn listen_at(path: &Path) -> nix::Result<OwnedFd> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
        }
        Ok(()) | Err(_) => {}
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = bind(listener.as_raw_fd(), &UnixAddr::new(path)?);
    nix::sys::stat::umask(before);
    bound?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// Serves for ever. Returns only when accepting fails for good.
pub fn serve(listener: &OwnedFd, expedite: &Expedite, records: &Records) -> nix::Error {
    let holds = Arc::new(AtomicUsize::new(0));
    loop {
        let connection = match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY is in `own`: accept4 just gave us this descriptor.
            Ok(raw) => own(raw),
            Err(nix::Error::EINTR | nix::Error::ECONNABORTED | nix::Error::EMFILE | nix::Error::ENFILE) => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(errno) => return errno,
        };
        if holds.fetch_add(1, Ordering::SeqCst) >= HOLDS_MAX {
            holds.fetch_sub(1, Ordering::SeqCst);
            answer(&connection, &Answer::Refused(format!("{HOLDS_MAX} holds are guarded already")));
            continue;
        }
        let (holds, expedite, record) = (Arc::clone(&holds), expedite.clone(), records.next());
        let hold = move || {
            Hold::new(connection, record).run();
            holds.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = expedite.put_back_if_unused() {
                eprintln!("stillpoint-guard: cannot put rcu_expedited back: {error}");
            }
        };
        if std::thread::Builder::new().stack_size(STACK_BYTES).spawn(hold).is_err() {
            // The closure and with it the connection is dropped: the agent sees the guard gone and holds nothing.
            eprintln!("stillpoint-guard: cannot start a thread; the hold is refused");
        }
    }
}

/// One agent's hold.
struct Hold {
    connection: OwnedFd,
    mounts: Vec<OwnedFd>,
    limits: Vec<Limit>,
    /// What the next guard lets go if this one is killed; goes with the hold.
    record: Record,
    /// When to thaw by ourselves; `None` before the first `Arm`.
    limit: Option<Instant>,
    fired: bool,
}

/// What a connection brought.
enum Arrival {
    Packet(Option<Request>, Vec<OwnedFd>),
    Ended,
}

impl Hold {
    fn new(connection: OwnedFd, record: Record) -> Self {
        Self { connection, mounts: Vec::new(), limits: Vec::new(), record, limit: None, fired: false }
    }

    fn run(mut self) {
        point("guard.hold.accepted");
        loop {
            if !self.wait() {
                self.fire();
                continue;
            }
            match receive(&self.connection) {
                Arrival::Packet(Some(Request::Arm { limit_ms }), mounts) => {
                    let armed = self.arm_mounts(limit_ms, mounts);
                    self.answer_arm(armed);
                }
                Arrival::Packet(Some(Request::ArmLimits { limit_ms, minor, hierarchy, lifted }), files) => {
                    let armed = self.arm_limits(limit_ms, minor, hierarchy, &lifted, files);
                    self.answer_arm(armed);
                }
                Arrival::Packet(Some(Request::Disarm), _) => {
                    point("guard.hold.disarming");
                    answer(&self.connection, &Answer::Disarmed { fired: self.fired });
                    point("guard.hold.disarmed");
                    return;
                }
                Arrival::Packet(None, _) => {
                    answer(&self.connection, &Answer::Refused("unknown message".into()));
                }
                Arrival::Ended => {
                    self.thaw_all("the agent's connection ended");
                    return;
                }
            }
        }
    }

    /// Waits until there is something to read; false when the limit (or the next look after it) came first.
    fn wait(&self) -> bool {
        let left = |limit: Instant| limit.saturating_duration_since(Instant::now());
        let patience = if self.fired { Some(AGAIN) } else { self.limit.map(left) };
        let timeout = match patience {
            None => PollTimeout::NONE,
            // Rounded up, so that a wait never ends just before the limit and spins.
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        };
        let mut polled = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => false,
            Err(nix::Error::EINTR) => self.wait(),
            // An error of the connection is found out by reading.
            Ok(_) | Err(_) => true,
        }
    }

    fn answer_arm(&self, armed: Result<(), String>) {
        point("guard.hold.checked");
        let word = armed.map_or_else(Answer::Refused, |()| Answer::Armed);
        answer(&self.connection, &word);
        point("guard.hold.armed");
    }

    fn arm_mounts(&mut self, limit_ms: u32, mounts: Vec<OwnedFd>) -> Result<(), String> {
        self.check(limit_ms, mounts.len())?;
        let devices =
            mounts.iter().map(|mount| check_is_volume(mount.as_fd())).collect::<Result<Vec<_>, _>>()?;
        self.record.add_mounts(&devices)?;
        self.mounts.extend(mounts);
        self.start(limit_ms);
        Ok(())
    }

    fn arm_limits(
        &mut self,
        limit_ms: u32,
        minor: u32,
        hierarchy: Hierarchy,
        lifted: &[u64],
        files: Vec<OwnedFd>,
    ) -> Result<(), String> {
        self.check(limit_ms, files.len())?;
        if files.len() != lifted.len() {
            return Err(format!("{} limits came with {} files", lifted.len(), files.len()));
        }
        let device = check_is_image(minor)?;
        let mut limits = Vec::with_capacity(files.len());
        for (file, before) in files.into_iter().zip(lifted) {
            let path = throttle::check_file(file.as_fd(), hierarchy)?;
            limits.push(Limit { file: file.into(), path, line: hierarchy.line(minor, *before) });
        }
        self.record.add_limits(&device, &limits)?;
        self.limits.extend(limits);
        self.start(limit_ms);
        Ok(())
    }

    /// The limit counts from the first packet.
    fn start(&mut self, limit_ms: u32) {
        self.limit.get_or_insert_with(|| Instant::now() + Duration::from_millis(u64::from(limit_ms)));
    }

    fn check(&self, limit_ms: u32, more: usize) -> Result<(), String> {
        if limit_ms == 0 || limit_ms > LONGEST_LIMIT_MS {
            return Err(format!("a limit of {limit_ms} ms is not between 1 and {LONGEST_LIMIT_MS} ms"));
        }
        if self.mounts.len() + self.limits.len() + more > MEMBERS_MAX {
            return Err(format!("more than {MEMBERS_MAX} members in one hold"));
        }
        Ok(())
    }

    fn fire(&mut self) {
        let first = !self.fired;
        self.fired = true;
        if first {
            self.thaw_all("the limit passed");
        } else {
            self.lift_all();
            self.thaw_each(|_| {});
        }
    }

    /// How many limits could be lifted. A cgroup that is gone counts: nobody waits in it.
    fn lift_all(&self) -> usize {
        let lift = |limit: &&Limit| match throttle::set(&limit.file, &limit.line) {
            Ok(()) => true,
            Err(error) => {
                eprintln!("stillpoint-guard: {}: {error}", limit.path.display());
                false
            }
        };
        self.limits.iter().filter(lift).count()
    }

    fn thaw_all(&self, why: &str) {
        let lifted = self.lift_all();
        if lifted > 0 {
            eprintln!("stillpoint-guard: {why}: lifted {lifted} of {} write limits", self.limits.len());
        }
        let thawed = AtomicUsize::new(0);
        self.thaw_each(|result| match result {
            Thaw::Thawed => {
                thawed.fetch_add(1, Ordering::SeqCst);
            }
            Thaw::NotFrozen => {}
            Thaw::Failed(errno) => eprintln!("stillpoint-guard: FITHAW: {}", nix::Error::from_raw(errno)),
        });
        let thawed = thawed.into_inner();
        if thawed > 0 {
            eprintln!("stillpoint-guard: {why}: thawed {thawed} of {} filesystems", self.mounts.len());
        }
    }

    /// A thread each: FITHAW waits while a FIFREEZE of the same filesystem is flushing, and must not delay others.
    fn thaw_each(&self, seen: impl Fn(Thaw) + Sync) {
        std::thread::scope(|scope| {
            for mount in &self.mounts {
                let work = || seen(thaw(mount.as_fd()));
                if std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).is_err() {
                    seen(thaw(mount.as_fd()));
                }
            }
        });
    }
}

fn receive(connection: &OwnedFd) -> Arrival {
    let mut buffer = [0; PACKET_BYTES];
    let mut rights = nix::cmsg_space!([RawFd; DESCRIPTORS_PER_PACKET]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let Ok(message) = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut rights), flags) else {
        return Arrival::Ended;
    };
    let mut mounts = Vec::new();
    if let Ok(controls) = message.cmsgs() {
        for control in controls {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                mounts.extend(descriptors.into_iter().map(own));
            }
        }
    }
    let length = message.bytes;
    if length == 0 { Arrival::Ended } else { Arrival::Packet(Request::decode(&buffer[..length]), mounts) }
}

fn answer(connection: &OwnedFd, answer: &Answer) {
    // An agent that is gone is noticed by the next read.
    let _ = send(connection.as_raw_fd(), &answer.encode(), MsgFlags::MSG_NOSIGNAL);
}

/// Takes a descriptor that the kernel has just given us.
#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: called only with descriptors fresh from accept4 or SCM_RIGHTS, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
