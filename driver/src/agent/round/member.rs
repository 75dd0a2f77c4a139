//! One member of a round: a worker that does to it what it is told, in order.
//!
//! Its thread is made before the hold and waits, so that nothing is allocated or started while writers are held. Its
//! queue is what makes a late FIFREEZE harmless: a thaw that was ordered meanwhile is done right after it.

use std::sync::Arc;

use nix::errno::Errno;
use stillpoint_guard::fault::point;

use super::raw::{self, RawDevice};
use crate::agent::pool::{MemberPaths, Pool};
use crate::domain::{Fault, VolumeId};
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
    volume: VolumeId,
    grip: Grip,
    pool: Arc<Pool>,
    paths: MemberPaths,
    host: Arc<dyn Host>,
    held: Held,
}

/// What this thread has done to its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    Frozen,
    /// Limits are set, or some of them; the count of writes from when all had ended.
    Throttled(Option<u64>),
}

/// A release that did not end as it should.
struct Unclean {
    fault: Fault,
    stuck: bool,
}

impl Worker {
    /// The worker of this member.
    pub fn of(index: usize, member: &Member, host: &Arc<dyn Host>) -> Self {
        Self {
            index,
            volume: member.volume.clone(),
            grip: member.grip.clone(),
            pool: Arc::clone(&member.pool),
            paths: member.paths.clone(),
            host: Arc::clone(host),
            held: Held::No,
        }
    }

    /// Does it; blocks as long as the kernel does.
    pub fn perform(&mut self, work: Work) -> Answer {
        let start_us = self.host.monotonic_us();
        let result = match work {
            Work::Freeze => self.freeze().map_err(Unclean::from),
            Work::Copy => self.copy().map_err(Unclean::from),
            Work::Thaw => self.thaw(),
        };
        let end_us = self.host.monotonic_us();
        let stuck = result.as_ref().is_err_and(|unclean| unclean.stuck);
        let result = result.map_err(|unclean| unclean.fault);
        Answer { index: self.index, work, start_us, end_us, result, stuck }
    }

    /// The conductor is gone. Without a thaw, which only a panic can do, the member is let go here.
    pub fn abandoned(mut self) {
        if self.held != Held::No {
            let _ = self.thaw();
        }
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        if !matches!(self.grip, Grip::None) {
            point("agent.cut.freezing");
        }
        match &self.grip {
            Grip::None => return Ok(()),
            Grip::Freeze(mount) => {
                mount.freeze().map_err(|error| freeze_fault(&self.volume, &error))?;
                self.held = Held::Frozen;
            }
            Grip::Throttle(raw) => {
                // Some limits may be set although others cannot be.
                self.held = Held::Throttled(None);
                let throttled = raw.throttle().hold();
                let before = throttled.and_then(|()| self.host.writes(&raw.device().path));
                self.held = Held::Throttled(Some(before.map_err(|error| hold_fault(&self.volume, &error))?));
            }
        }
        point("agent.cut.frozen");
        Ok(())
    }

    fn copy(&self) -> Result<(), Fault> {
        point("agent.cut.copying");
        self.pool.copy_member(&self.paths).map_err(|error| Fault::from(error).context("snapshot"))?;
        point("agent.cut.copied");
        Ok(())
    }

    /// A filesystem that was frozen by somebody else is never thawed.
    fn thaw(&mut self) -> Result<(), Unclean> {
        if self.held == Held::No {
            return Ok(());
        }
        point("agent.cut.thawing");
        let held = std::mem::replace(&mut self.held, Held::No);
        match (&self.grip, held) {
            (Grip::Freeze(mount), Held::Frozen) => {
                mount.thaw().map_err(|error| thaw_fault(&self.volume, &error))?;
            }
            (Grip::Throttle(raw), Held::Throttled(before)) => self.lift(raw, before)?,
            (Grip::None | Grip::Freeze(_) | Grip::Throttle(_), _) => {}
        }
        point("agent.cut.thawed");
        Ok(())
    }

    /// The count is read before anybody may write again.
    fn lift(&self, raw: &RawDevice, before: Option<u64>) -> Result<(), Unclean> {
        let after = self.host.writes(&raw.device().path);
        raw.throttle().lift().map_err(|error| stuck_fault(&self.volume, &error))?;
        let after = after.map_err(|error| hold_fault(&self.volume, &error))?;
        match before {
            Some(before) if before != after => Err(raw::slipped(raw, before, after).into()),
            Some(_) | None => Ok(()),
        }
    }
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
    hold_fault(volume, error)
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
