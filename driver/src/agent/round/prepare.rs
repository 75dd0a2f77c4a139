//! Before the hold: what there is to hold, whether it may be held, and flushing while writers go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use stillpoint_guard::fault::point;

use super::RoundContext;
use super::member::{Grip, Member};
use super::raw;
use crate::agent::health;
use crate::agent::locks::{Guard, Purpose};
use crate::agent::pool::{MemberPaths, Pool, TrashPause};
use crate::domain::record::CutRecord;
use crate::domain::{CutId, Fault, PoolId, SnapshotId, VolumeId};
use crate::host::{self, LoopDevice, MountHandle, Mounted};
use crate::proto::agent::{MemberKind, MemberPrepared, round_order};

/// A flush this short says that what is dirty will not delay the freeze.
const QUIET_US: u64 = 10_000;
/// More passes than this do not converge under load.
const PASSES_MAX: u32 = 3;

/// Members that are ready, and the locks that keep them as they are. Filled step by step: what a failure leaves in
/// it is what has to be undone.
#[derive(Default)]
pub struct Preparation {
    /// Members on this host.
    pub members: Vec<Member>,
    /// Held until nothing of the round is left.
    pub locks: Option<Guard>,
    /// Pools on which this round has begun to write.
    pub pools: Vec<Arc<Pool>>,
    /// Their cleaners wait: removing subvolumes triples the window.
    pauses: Vec<TrashPause>,
}

impl Preparation {
    /// Nothing of the round is left: others may have the volumes, and the cleaners go on.
    pub fn let_go(&mut self) {
        self.locks = None;
        self.pauses.clear();
    }
}

/// A request to open a round, parsed.
pub struct OpenRequest {
    /// The record to write with state *round*.
    pub record: CutRecord,
    /// Members on this host.
    pub volumes: Vec<VolumeId>,
}

impl OpenRequest {
    /// Checks what came over the wire: ids must fit each other and the record.
    pub fn parse(open: &round_order::Open) -> Result<Self, Fault> {
        let bad = |what: String| Fault::invalid(format!("round refused: {what}"));
        let text = open.record.as_ref().map_or("", |record| record.json.as_str());
        let record: CutRecord =
            serde_json::from_str(text).map_err(|error| bad(format!("record: {error}")))?;
        let cut: CutId = open.cut_id.parse().map_err(|error| bad(format!("cut_id: {error}")))?;
        if cut != record.id || open.attempt != record.attempt.to_string() {
            return Err(bad("the record is of another cut or attempt".into()));
        }
        let mut volumes = Vec::new();
        for member in &open.members {
            let volume: VolumeId =
                member.volume_id.parse().map_err(|error| bad(format!("volume_id: {error}")))?;
            if SnapshotId::of(&volume, &cut, record.attempt).to_string() != member.snapshot_id {
                return Err(bad(format!(
                    "snapshot {} is not the one of {volume} in {cut}",
                    member.snapshot_id
                )));
            }
            if !record.members.iter().any(|listed| listed.volume == volume) {
                return Err(bad(format!("volume {volume} is not in the record")));
            }
            volumes.push(volume);
        }
        if volumes.is_empty() {
            return Err(bad("no members".into()));
        }
        let here = |pool: &PoolId| volumes.iter().any(|volume| volume.pool == *pool);
        let missing = record
            .members
            .iter()
            .find(|listed| here(&listed.volume.pool) && !volumes.contains(&listed.volume));
        if let Some(missing) = missing {
            return Err(bad(format!("volume {} is in the record but not asked for", missing.volume)));
        }
        Ok(Self { record, volumes })
    }
}

/// Locks, checks, writes the record and flushes.
pub fn prepare(context: &RoundContext, request: &OpenRequest, into: &mut Preparation) -> Result<(), Fault> {
    into.locks =
        Some(context.locks.try_lock_all(&request.volumes, Purpose::Round(request.record.id.clone()))?);
    point("agent.cut.locked");
    let mounts = context.host.mounts().map_err(|error| Fault::internal(error.to_string()))?;
    let mut found = Vec::new();
    for (id, volumes) in by_pool(&request.volumes) {
        let pool = context.pools.get(id)?;
        into.pauses.push(pool.pause_trash());
        let members: Vec<Found> =
            volumes.iter().map(|volume| find(context, &pool, volume, &mounts)).collect::<Result<_, _>>()?;
        found.push((pool, members));
    }
    if request.record.members.len() > 1 {
        hold_raw_devices(context, found.iter_mut().flat_map(|(_, members)| members))?;
    }
    for (pool, found) in found {
        into.pools.push(Arc::clone(&pool));
        let paths = pool.prepare_cut(&request.record)?;
        point("agent.cut.recorded");
        for found in found {
            let own = paths.iter().find(|paths| paths.volume == found.volume);
            // The record has the same members on this pool as the request, or it was refused.
            let own =
                own.ok_or_else(|| Fault::internal(format!("volume {} was not prepared", found.volume)))?;
            into.members.push(found.into_member(&pool, own.clone()));
        }
    }
    flush(context, &mut into.members);
    point("agent.cut.flushed");
    for pool in &into.pools {
        pool.calm()?;
    }
    Ok(())
}

fn by_pool(volumes: &[VolumeId]) -> BTreeMap<&PoolId, Vec<VolumeId>> {
    let mut pools: BTreeMap<&PoolId, Vec<VolumeId>> = BTreeMap::new();
    for volume in volumes {
        pools.entry(&volume.pool).or_default().push(volume.clone());
    }
    pools
}

/// How a member is used on this host.
struct Found {
    volume: VolumeId,
    usage: Usage,
}

enum Usage {
    Idle,
    Mounted(Arc<dyn MountHandle>),
    /// A raw device that is in use and is not held.
    Raw(LoopDevice),
    HeldRaw(Arc<raw::RawDevice>),
}

impl Found {
    fn into_member(self, pool: &Arc<Pool>, paths: MemberPaths) -> Member {
        let (kind, grip) = match self.usage {
            Usage::Idle => (MemberKind::Idle, Grip::None),
            Usage::Mounted(mount) => (MemberKind::Filesystem, Grip::Freeze(mount)),
            Usage::Raw(_) => (MemberKind::Block, Grip::None),
            Usage::HeldRaw(raw) => (MemberKind::BlockHeld, Grip::Throttle(raw)),
        };
        let prepared = MemberPrepared {
            volume_id: self.volume.to_string(),
            kind: kind.into(),
            ..MemberPrepared::default()
        };
        Member { volume: self.volume, grip, pool: Arc::clone(pool), paths, prepared }
    }
}

fn find(context: &RoundContext, pool: &Pool, volume: &VolumeId, mounts: &[Mounted]) -> Result<Found, Fault> {
    pool.volume(volume)?;
    let usage = usage(context, pool, volume, mounts)?;
    Ok(Found { volume: volume.clone(), usage })
}

fn usage(context: &RoundContext, pool: &Pool, volume: &VolumeId, mounts: &[Mounted]) -> Result<Usage, Fault> {
    let kernel = |error: crate::host::HostError| Fault::internal(format!("volume {volume}: {error}"));
    let devices = context.host.attached(&pool.image(volume)?).map_err(kernel)?;
    let writable: Vec<&LoopDevice> = devices.iter().filter(|device| !device.read_only).collect();
    let Some(device) = writable.first() else {
        return Ok(Usage::Idle);
    };
    if writable.len() > 1 {
        return Err(Fault::precondition(format!(
            "volume {volume} is attached {} times for writing, so it cannot be held as one; unstage it and try again",
            writable.len()
        )));
    }
    let Some(mounted) = mounts.iter().find(|mounted| mounted.device == device.device) else {
        return Ok(Usage::Raw((*device).clone()));
    };
    if let Some(ailment) = health::unusable(&*context.host, mounted).map_err(kernel)? {
        return Err(Fault::precondition(format!("volume {volume} cannot be quiesced: {}", ailment.message)));
    }
    let mount = context.host.open_mount(&mounted.target).map_err(kernel)?;
    check_device(context, volume, device, mount.as_ref())?;
    Ok(Usage::Mounted(mount.into()))
}

/// The mount may have gone between look-up and open; then the directory below it was opened, on another device.
fn check_device(
    context: &RoundContext,
    volume: &VolumeId,
    device: &LoopDevice,
    mount: &dyn MountHandle,
) -> Result<(), Fault> {
    if mount.device() != device.device {
        return Err(Fault::aborted(format!(
            "volume {volume} was unmounted while it was looked up; try again"
        )));
    }
    if context.never_hold.contains(&mount.device()) {
        return Err(Fault::precondition(format!(
            "volume {volume} carries this agent's own state, log or root filesystem: holding it would hold the agent; \
             move the agent's stateDir off the volume"
        )));
    }
    Ok(())
}

/// A raw device that is in use has no filesystem to freeze. Alone it is still cut at one instant (the snapshot of the
/// image is atomic); in a group its users are held, or the group is refused.
fn hold_raw_devices<'a>(
    context: &RoundContext,
    members: impl Iterator<Item = &'a mut Found>,
) -> Result<(), Fault> {
    let raw: Vec<&mut Found> = members.filter(|found| matches!(found.usage, Usage::Raw(_))).collect();
    let device = |found: &&mut Found| match &found.usage {
        Usage::Raw(device) => Some((found.volume.clone(), device.clone())),
        Usage::Idle | Usage::Mounted(_) | Usage::HeldRaw(_) => None,
    };
    let mut held = raw::look_up(context, raw.iter().filter_map(device).collect())?;
    for found in raw {
        if let Some(device) = held.remove(&found.volume) {
            found.usage = Usage::HeldRaw(device);
        }
    }
    Ok(())
}

/// Writes out what is dirty in a member, while its users go on.
fn sync(grip: &Grip) -> Option<host::Result<()>> {
    match grip {
        Grip::None => None,
        Grip::Freeze(mount) => Some(mount.sync()),
        Grip::Throttle(raw) => Some(raw.throttle().sync()),
    }
}

/// Flushes all members in use at once until a pass is short. Writers go on, so this shortens the freeze under
/// buffered load; under fsync-bound load the first pass is short already. A flush that fails is found out by the freeze.
fn flush(context: &RoundContext, members: &mut [Member]) {
    std::thread::scope(|scope| {
        for member in members {
            if !member.is_held() {
                continue;
            }
            let grip = member.grip.clone();
            let prepared = &mut member.prepared;
            scope.spawn(move || {
                prepared.flush_start_us = context.host.monotonic_us();
                prepared.flush_end_us = prepared.flush_start_us;
                while prepared.flush_passes < PASSES_MAX {
                    let before = prepared.flush_end_us;
                    let Some(result) = sync(&grip) else { break };
                    prepared.flush_end_us = context.host.monotonic_us();
                    prepared.flush_passes += 1;
                    if result.is_err() || prepared.flush_end_us - before < QUIET_US {
                        break;
                    }
                }
            });
        }
    });
}
