//! What hosts reported, as lanes of a timeline. Pure.

use super::clock::Alignment;
use crate::domain::record::CutMember;
use crate::domain::timeline::{HostLane, Phase, Span, Timeline, VolumeLane};
use crate::domain::{HostName, Level};
use crate::proto::agent::{MemberKind, MemberPrepared, MemberReleased, MemberSpan};

/// Everything that one host reported.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// How members were prepared.
    pub prepared: Vec<MemberPrepared>,
    /// Freezes.
    pub held: Vec<MemberSpan>,
    /// Snapshots.
    pub cut: Vec<MemberSpan>,
    /// Thaws; `None` until the host has let go.
    pub released: Option<Vec<MemberReleased>>,
}

/// One host as the controller sees it.
pub struct HostView<'a> {
    /// The host.
    pub host: &'a HostName,
    /// Its members.
    pub members: &'a [CutMember],
    /// How to read its clock.
    pub clock: Alignment,
    /// What it reported.
    pub reports: &'a Reports,
}

impl HostView<'_> {
    fn kind(&self, volume: &str) -> MemberKind {
        let prepared = self.reports.prepared.iter().find(|member| member.volume_id == volume);
        prepared.map_or(MemberKind::Unspecified, MemberPrepared::kind)
    }
}

/// The lane of one host, relative to `zero_us` on the controller's clock.
pub fn host_lane(view: &HostView<'_>, zero_us: u64) -> HostLane {
    let volumes = view.members.iter().map(|member| volume_lane(view, member, zero_us)).collect();
    HostLane { host: view.host.clone(), clock_error_us: view.clock.error_us, volumes }
}

fn volume_lane(view: &HostView<'_>, member: &CutMember, zero_us: u64) -> VolumeLane {
    let id = member.volume.to_string();
    let zero = i64::try_from(zero_us).unwrap_or(i64::MAX);
    let at = |us: u64| view.clock.read(us) - zero;
    let span = |phase, start, end| Span { phase, start_us: at(start), end_us: at(end) };
    let mut spans = Vec::new();
    let reports = view.reports;
    // A member that is not in use is only copied: nothing was flushed, frozen or thawed.
    let held = matches!(view.kind(&id), MemberKind::Filesystem | MemberKind::BlockHeld);
    if let Some(flush) =
        reports.prepared.iter().find(|flush| held && flush.volume_id == id && flush.flush_passes > 0)
    {
        spans.push(span(Phase::Flush, flush.flush_start_us, flush.flush_end_us));
    }
    if let Some(freeze) = reports.held.iter().find(|freeze| held && freeze.volume_id == id) {
        spans.push(span(Phase::Freeze, freeze.start_us, freeze.end_us));
    }
    if let Some(cut) = reports.cut.iter().find(|cut| cut.volume_id == id) {
        spans.push(span(Phase::Cut, cut.start_us, cut.end_us));
    }
    if let Some(thaw) = reports.released.iter().flatten().find(|thaw| held && thaw.volume_id == id) {
        spans.push(span(Phase::Thaw, thaw.start_us, thaw.end_us));
    }
    VolumeLane { volume: member.volume.clone(), name: member.volume_name.clone(), spans }
}

/// The figures of a cut from its lanes, whose zero is the first hold requested.
pub fn timeline(hosts: Vec<HostLane>) -> Timeline {
    let lanes = || hosts.iter().flat_map(|host| &host.volumes);
    let ends = |phase| {
        lanes().flat_map(|lane| &lane.spans).filter(move |span| span.phase == phase).map(|span| span.end_us)
    };
    let positive = |us: i64| u64::try_from(us).unwrap_or(0);
    let last_end = lanes().flat_map(|lane| &lane.spans).map(|span| span.end_us).max().unwrap_or(0);
    let skew = ends(Phase::Cut).max().unwrap_or(0) - ends(Phase::Cut).min().unwrap_or(0);
    let longest = lanes().filter_map(stall_us).max().unwrap_or(0);
    Timeline {
        window_us: positive(last_end),
        skew_us: positive(skew),
        longest_stall_us: positive(longest),
        hosts,
    }
}

/// From the beginning of the freeze to the end of the thaw.
fn stall_us(lane: &VolumeLane) -> Option<i64> {
    let of = |phase| lane.spans.iter().find(|span| span.phase == phase);
    Some(of(Phase::Thaw)?.end_us - of(Phase::Freeze)?.start_us)
}

/// The level that storage reached by itself, and why it is not higher. `one_instant`: all members were held together.
pub fn level(views: &[HostView<'_>], one_instant: bool) -> (Level, Vec<String>) {
    let raw: Vec<(MemberKind, &str)> = views
        .iter()
        .flat_map(|view| view.members.iter().map(move |member| (view, member)))
        .map(|(view, member)| (view.kind(&member.volume.to_string()), member.volume_name.as_str()))
        .filter(|(kind, _)| matches!(kind, MemberKind::Block | MemberKind::BlockHeld))
        .collect();
    if !one_instant {
        let why = "members were cut one after another, without the barrier; they are not at one instant";
        return (Level::Crash, vec![why.into()]);
    }
    if raw.is_empty() {
        return (Level::Filesystem, vec![]);
    }
    let why = |(_, name): &(MemberKind, &str)| {
        format!("{name} is a raw block device in use: what a power failure would have left of it")
    };
    let all_held = raw.iter().all(|(kind, _)| *kind == MemberKind::BlockHeld);
    let level = if all_held { Level::Group } else { Level::Crash };
    (level, raw.iter().map(why).collect())
}

#[cfg(test)]
mod tests;
