//! One member of a round: a worker that does to it what it is told, in order.
//!
//! Its thread is made before the hold and waits, so that nothing is allocated or started while writers are held. Its
//! queue is what makes a late FIFREEZE harmless: a thaw that was ordered meanwhile is done right after it. A snapshot
//! that takes long must not keep writers waiting past the limit, so what was done to a member is shared ([`Quiesce`])
//! with the round's alarm, which resumes it while the snapshot goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use stillpoint_guard::fault::point;

use super::raw::{self, RawDevice};
use crate::agent::pool::{MemberPaths, Pool};
use crate::domain::{Code, Fault, VolumeId};
use crate::host::{Host, HostError, MountHandle};
use crate::proto::agent::{MemberKind, MemberPrepared};

/// How writes of a member are stopped.
#[derive(Clone)]
pub enum Grip {
    /// Not at all: it is not in use, or it is a raw device that is cut alone.
    None,
    /// Its filesystem is frozen.
    Freeze(Arc<dyn MountHandle>),
    /// The users of the raw device are throttled.
    Throttle(Arc<RawDevice>),
}

/// A member that is ready to be held.
pub struct Member {
    /// The volume.
    pub volume: VolumeId,
    /// How its writes are stopped.
    pub grip: Grip,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// What is copied where.
    pub paths: MemberPaths,
    /// How it was prepared.
    pub prepared: MemberPrepared,
}

impl Member {
    /// Whether there is nothing to hold.
    pub fn is_idle(&self) -> bool {
        self.prepared.kind == i32::from(MemberKind::Idle)
    }

    /// Whether its writes are stopped during the hold.
    pub fn is_held(&self) -> bool {
        !matches!(self.grip, Grip::None)
    }
}

/// What a member's worker can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// FIFREEZE, or the write limits.
    Freeze,
    /// Snapshot.
    Copy,
    /// FITHAW, or the limits as they were, if it was us who held.
    Thaw,
}

/// What a member's worker answers.
#[derive(Debug)]
pub struct Answer {
    /// Which member.
    pub index: usize,
    /// What it was told.
    pub work: Work,
    /// Start, microseconds on this host's monotonic clock.
    pub start_us: u64,
    /// End.
    pub end_us: u64,
    /// How it ended.
    pub result: Result<(), Fault>,
    /// It should have been let go and may still be held.
    pub stuck: bool,
}

/// Does to a member what it is told.
pub struct Worker {
    index: usize,
    quiesce: Arc<Quiesce>,
    pool: Arc<Pool>,
    paths: MemberPaths,
}

/// How a member is quiesced, and whether it is now.
pub struct Quiesce {
    volume: VolumeId,
    grip: Grip,
    host: Arc<dyn Host>,
    held: Mutex<Held>,
}

/// What was done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    Frozen,
    /// Limits are set, or some of them; the count of writes from when all had ended.
    Throttled(Option<u64>),
    /// The limit has passed: it was resumed, or could not be (`stuck`), and is not quiesced again.
    Expired {
        stuck: bool,
    },
}

/// A release that did not end as it should.
struct Unclean {
    fault: Fault,
    stuck: bool,
}

impl Worker {
    /// The worker of this member.
    pub fn of(index: usize, member: &Member, quiesce: Arc<Quiesce>) -> Self {
        Self { index, quiesce, pool: Arc::clone(&member.pool), paths: member.paths.clone() }
    }

    /// Does it; blocks as long as the kernel does.
    pub fn perform(&mut self, work: Work) -> Answer {
        let start_us = self.quiesce.host.monotonic_us();
        let result = match work {
            Work::Freeze => self.quiesce.begin().map_err(Unclean::from),
            Work::Copy => self.copy().map_err(Unclean::from),
            Work::Thaw => self.quiesce.end(),
        };
        let end_us = self.quiesce.host.monotonic_us();
        let stuck = result.as_ref().is_err_and(|unclean| unclean.stuck);
        let result = result.map_err(|unclean| unclean.fault);
        Answer { index: self.index, work, start_us, end_us, result, stuck }
    }

    /// The conductor is gone. Without a thaw, which only a panic can do, the member is let go here.
    pub fn abandoned(self) {
        let _ = self.quiesce.end();
    }

    fn copy(&self) -> Result<(), Fault> {
        point("agent.cut.copying");
        self.pool.copy_member(&self.paths).map_err(|error| Fault::from(error).context("snapshot"))?;
        point("agent.cut.copied");
        Ok(())
    }
}

impl Quiesce {
    /// Of a member that is not quiesced yet.
    pub fn of(member: &Member, host: &Arc<dyn Host>) -> Arc<Self> {
        let (volume, grip) = (member.volume.clone(), member.grip.clone());
        Arc::new(Self { volume, grip, host: Arc::clone(host), held: Mutex::new(Held::No) })
    }

    fn begin(&self) -> Result<(), Fault> {
        if !matches!(self.grip, Grip::None) {
            point("agent.cut.freezing");
        }
        match &self.grip {
            Grip::None => return Ok(()),
            Grip::Freeze(mount) => {
                // Not under the lock: it may last, and others are to be resumed meanwhile.
                mount.freeze().map_err(|error| freeze_fault(&self.volume, &error))?;
                if !self.becomes(Held::No, Held::Frozen) {
                    let stuck = mount.thaw().is_err();
                    *self.held() = Held::Expired { stuck };
                    return Err(expired(&self.volume));
                }
            }
            Grip::Throttle(raw) => {
                // Some limits may be set although others cannot be.
                if !self.becomes(Held::No, Held::Throttled(None)) {
                    return Err(expired(&self.volume));
                }
                let throttled = raw.throttle().hold();
                let before = throttled.and_then(|()| self.host.writes(&raw.device().path));
                let before = before.map_err(|error| count_fault(raw, &self.volume, &error))?;
                if !self.becomes(Held::Throttled(None), Held::Throttled(Some(before))) {
                    // Limits that were set after the others had been lifted.
                    let stuck = raw.throttle().lift().is_err();
                    *self.held() = Held::Expired { stuck };
                    return Err(expired(&self.volume));
                }
            }
        }
        point("agent.cut.frozen");
        Ok(())
    }

    /// Changes the state unless the alarm has changed it.
    fn becomes(&self, from: Held, to: Held) -> bool {
        let mut held = self.held();
        let is_as_left = *held == from;
        if is_as_left {
            *held = to;
        }
        is_as_left
    }

    /// Resumes the member. A filesystem that was frozen by somebody else is never thawed.
    fn end(&self) -> Result<(), Unclean> {
        let mut held = self.held();
        let was = std::mem::replace(&mut *held, Held::No);
        if was == Held::No {
            return Ok(());
        }
        point("agent.cut.thawing");
        match (&self.grip, was) {
            (_, Held::Expired { stuck }) => return Err(Unclean { fault: expired(&self.volume), stuck }),
            (Grip::Freeze(mount), Held::Frozen) => {
                mount.thaw().map_err(|error| thaw_fault(&self.volume, &error))?;
            }
            (Grip::Throttle(raw), Held::Throttled(before)) => self.lift(raw, before)?,
            (Grip::None | Grip::Freeze(_) | Grip::Throttle(_), _) => {}
        }
        point("agent.cut.thawed");
        Ok(())
    }

    /// The limit has passed: resumes the member now, whatever its worker is doing.
    pub fn expire(&self) {
        let mut held = self.held();
        let stuck = match (&self.grip, *held) {
            (Grip::Freeze(mount), Held::Frozen) => {
                mount.thaw().is_err_and(|error| thaw_fault(&self.volume, &error).stuck)
            }
            (Grip::Throttle(raw), Held::Throttled(_)) => raw.throttle().lift().is_err(),
            (Grip::None | Grip::Freeze(_) | Grip::Throttle(_), _) => false,
        };
        *held = Held::Expired { stuck };
    }

    /// The count is read before anybody may write again.
    fn lift(&self, raw: &RawDevice, before: Option<u64>) -> Result<(), Unclean> {
        let after = self.host.writes(&raw.device().path);
        raw.throttle().lift().map_err(|error| stuck_fault(&self.volume, &error))?;
        let after = after.map_err(|error| raw::unproven(raw, &error))?;
        match before {
            Some(before) if before != after => Err(raw::slipped(raw, before, after).into()),
            Some(_) | None => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Replaced as a whole, so a panic elsewhere leaves it whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn expired(volume: &VolumeId) -> Fault {
    Fault::new(
        Code::Deadline,
        format!(
            "the quiesce of volume {volume} was ended, because its limit had passed; the group does not count"
        ),
    )
}

impl From<Fault> for Unclean {
    fn from(fault: Fault) -> Self {
        Self { fault, stuck: false }
    }
}

fn is(error: &HostError, errno: Errno) -> bool {
    error.errno() == Some(errno as i32)
}

fn freeze_fault(volume: &VolumeId, error: &HostError) -> Fault {
    if is(error, Errno::EBUSY) {
        return Fault::aborted(format!(
            "volume {volume} is frozen by somebody else, who must thaw it first (fsfreeze -u on its mount point, if \
             whoever froze it is gone); it was left as it is"
        ));
    }
    if is(error, Errno::EROFS) || is(error, Errno::EIO) {
        return Fault::aborted(format!(
            "volume {volume} could not be frozen ({error}): its filesystem has become read-only or has shut down after an \
             error; end its users, so that it is unmounted and checked when it is mounted anew"
        ));
    }
    hold_fault(volume, error)
}

fn count_fault(raw: &RawDevice, volume: &VolumeId, error: &HostError) -> Fault {
    if is(error, Errno::ENODATA) { raw::unproven(raw, error) } else { hold_fault(volume, error) }
}

fn hold_fault(volume: &VolumeId, error: &HostError) -> Fault {
    Fault::aborted(format!("volume {volume} could not be held: {error}"))
}

fn thaw_fault(volume: &VolumeId, error: &HostError) -> Unclean {
    if is(error, Errno::EINVAL) {
        let why = "somebody thawed it before it was released";
        return Fault::aborted(format!("the hold of volume {volume} had lapsed: {why}")).into();
    }
    stuck_fault(volume, error)
}

fn stuck_fault(volume: &VolumeId, error: &HostError) -> Unclean {
    let text = format!("volume {volume} could not be let go: {error}; the guard was told to do it");
    Unclean { fault: Fault::aborted(text), stuck: true }
}
