//! The agent's side.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::throttle::Hierarchy;
use crate::wire::{Answer, DESCRIPTORS_PER_PACKET, LIMITS_PER_PACKET, PACKET_BYTES, Request};

/// A guard answers within a millisecond; one that has not after this is not guarding.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no guard over a hold.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It is not there.
    #[error("no guard answers at {}: {errno}; start stillpoint-guard on this host, nothing is held without it", socket.display())]
    Absent {
        /// Its socket.
        socket: PathBuf,
        /// What the kernel said.
        errno: nix::Error,
    },
    /// It was there and is not any more, or it does not answer.
    #[error("the guard at {} went away or does not answer: {errno}", socket.display())]
    Lost {
        /// Its socket.
        socket: PathBuf,
        /// What the kernel said.
        errno: nix::Error,
    },
    /// It will not guard this.
    #[error("the guard refuses: {0}")]
    Refused(String),
    /// It speaks something else.
    #[error("the guard answered something unknown; agent and guard must be of the same version")]
    Unknown,
}

/// How a guarded hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guard never thawed.
    Quiet,
    /// The limit had passed: the guard thawed, so the hold lapsed.
    Fired,
}

/// The write limits of one raw device that is about to be held.
#[derive(Debug, Clone)]
pub struct Throttle<'a> {
    /// Minor number of the loop device.
    pub minor: u32,
    /// How its limits are written.
    pub hierarchy: Hierarchy,
    /// The open files, and what each limit was before.
    pub limits: Vec<(BorrowedFd<'a>, u64)>,
}

/// A guard that holds our descriptors. Dropping it without [`Armed::disarm`] makes the guard thaw everything.
#[derive(Debug)]
pub struct Armed {
    socket: PathBuf,
    connection: OwnedFd,
}

impl Armed {
    /// Arms the guard at `socket` with these open mounts and limits.
    pub fn new(
        socket_path: &Path,
        mounts: &[BorrowedFd<'_>],
        throttles: &[Throttle<'_>],
        limit: Duration,
    ) -> Result<Self, GuardError> {
        let absent = |errno| GuardError::Absent { socket: socket_path.into(), errno };
        let connection =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(absent)?;
        let patience = TimeVal::new(ANSWER_LIMIT.as_secs().cast_signed(), 0);
        setsockopt(&connection, sockopt::ReceiveTimeout, &patience).map_err(absent)?;
        setsockopt(&connection, sockopt::SendTimeout, &patience).map_err(absent)?;
        let address = UnixAddr::new(socket_path).map_err(absent)?;
        connect(connection.as_raw_fd(), &address).map_err(absent)?;
        let armed = Self { socket: socket_path.into(), connection };
        let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        for part in mounts.chunks(DESCRIPTORS_PER_PACKET) {
            armed.arm(&Request::Arm { limit_ms }, part)?;
        }
        for throttle in throttles {
            let Throttle { minor, hierarchy, .. } = *throttle;
            for part in throttle.limits.chunks(LIMITS_PER_PACKET) {
                let (files, lifted): (Vec<_>, Vec<_>) = part.iter().copied().unzip();
                armed.arm(&Request::ArmLimits { limit_ms, minor, hierarchy, lifted }, &files)?;
            }
        }
        Ok(armed)
    }

    /// Ends the guarded hold. The caller has thawed everything, or wants nothing thawed.
    pub fn disarm(self) -> Result<Outcome, GuardError> {
        match self.ask(&Request::Disarm, &[])? {
            Answer::Disarmed { fired: false } => Ok(Outcome::Quiet),
            Answer::Disarmed { fired: true } => Ok(Outcome::Fired),
            Answer::Refused(why) => Err(GuardError::Refused(why)),
            Answer::Armed => Err(GuardError::Unknown),
        }
    }

    fn arm(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), GuardError> {
        match self.ask(request, descriptors)? {
            Answer::Armed => Ok(()),
            Answer::Refused(why) => Err(GuardError::Refused(why)),
            Answer::Disarmed { .. } => Err(GuardError::Unknown),
        }
    }

    fn ask(&self, request: &Request, mounts: &[BorrowedFd<'_>]) -> Result<Answer, GuardError> {
        let lost = |errno| GuardError::Lost { socket: self.socket.clone(), errno };
        let raw: Vec<RawFd> = mounts.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let beside = if raw.is_empty() { &[][..] } else { &rights[..] };
        let packet = request.encode();
        let descriptor = self.connection.as_raw_fd();
        sendmsg::<()>(descriptor, &[IoSlice::new(&packet)], beside, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(lost)?;
        let mut buffer = [0; PACKET_BYTES];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let length = recvmsg::<()>(descriptor, &mut parts, None, MsgFlags::empty()).map_err(lost)?.bytes;
        if length == 0 {
            return Err(lost(nix::Error::ECONNRESET));
        }
        Answer::decode(&buffer[..length]).ok_or(GuardError::Unknown)
    }
}
