//! One member of a round: a worker that does to it what it is told, in order.
//!
//! Its thread is made before the hold and waits, so that nothing is allocated or started while writers are held. Its
//! queue is what makes a late FIFREEZE harmless: a thaw that was ordered meanwhile is done right after it.

use std::sync::Arc;

use nix::errno::Errno;
use stillpoint_guard::fault::point;

use crate::agent::pool::{MemberPaths, Pool};
use crate::domain::{Fault, VolumeId};
use crate::host::{Host, HostError, MountHandle};
use crate::proto::agent::{MemberKind, MemberPrepared};

/// A member that is ready to be held.
pub struct Member {
    /// The volume.
    pub volume: VolumeId,
    /// The open filesystem; `None` when the volume is not in use on this host.
    pub mount: Option<Arc<dyn MountHandle>>,
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
}

/// What a member's worker can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// FIFREEZE.
    Freeze,
    /// Snapshot.
    Copy,
    /// FITHAW, if it was frozen by us.
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
}

/// Does to a member what it is told.
pub struct Worker {
    index: usize,
    volume: VolumeId,
    mount: Option<Arc<dyn MountHandle>>,
    pool: Arc<Pool>,
    paths: MemberPaths,
    host: Arc<dyn Host>,
    frozen: bool,
}

impl Worker {
    /// The worker of this member.
    pub fn of(index: usize, member: &Member, host: &Arc<dyn Host>) -> Self {
        Self {
            index,
            volume: member.volume.clone(),
            mount: member.mount.clone(),
            pool: Arc::clone(&member.pool),
            paths: member.paths.clone(),
            host: Arc::clone(host),
            frozen: false,
        }
    }

    /// Does it; blocks as long as the kernel does.
    pub fn perform(&mut self, work: Work) -> Answer {
        let start_us = self.host.monotonic_us();
        let result = match work {
            Work::Freeze => self.freeze(),
            Work::Copy => self.copy(),
            Work::Thaw => self.thaw(),
        };
        let end_us = self.host.monotonic_us();
        Answer { index: self.index, work, start_us, end_us, result }
    }

    /// The conductor is gone. Without a thaw, which only a panic can do, the member is let go here.
    pub fn abandoned(mut self) {
        if self.frozen {
            let _ = self.thaw();
        }
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        let Some(mount) = &self.mount else { return Ok(()) };
        point("agent.cut.freezing");
        mount.freeze().map_err(|error| freeze_fault(&self.volume, &error))?;
        self.frozen = true;
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
    fn thaw(&mut self) -> Result<(), Fault> {
        let (Some(mount), true) = (&self.mount, self.frozen) else { return Ok(()) };
        point("agent.cut.thawing");
        self.frozen = false;
        mount.thaw().map_err(|error| thaw_fault(&self.volume, &error))?;
        point("agent.cut.thawed");
        Ok(())
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
    Fault::aborted(format!("volume {volume} could not be held: {error}"))
}

fn thaw_fault(volume: &VolumeId, error: &HostError) -> Fault {
    if is(error, Errno::EINVAL) {
        return Fault::aborted(format!(
            "the hold of volume {volume} had lapsed: somebody thawed it before it was released"
        ));
    }
    Fault::aborted(format!("volume {volume} could not be thawed: {error}; the guard goes on trying"))
}
