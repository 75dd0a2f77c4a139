//! A series: volumes that were cut one after another under one name, as tools without a barrier do it.
//!
//! Storage knows only cuts, and each part of a series is a cut of one member with a name of its own,
//! `<name>.1of3`. Here the parts are put together again, so that a series is listed, shown, restored and deleted
//! like a cut, with the level that it has: crash.

use std::collections::BTreeMap;

use crate::domain::record::CutRecord;
use crate::domain::timeline::{Phase, Timeline};
use crate::domain::{CutId, Level};

/// Why a series has no higher level.
pub const REASON: &str = "the volumes were cut one after another, without a barrier";

/// A cut as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The cut's record, or one put together from those of a series.
    pub record: CutRecord,
    /// What must be deleted to delete it.
    pub parts: Vec<CutId>,
}

/// Name of part `index` (from 1) of `count`.
pub fn part_name(name: &str, index: usize, count: usize) -> String {
    format!("{name}.{index}of{count}")
}

/// The cuts, series put together, newest first. A series of which a part is missing stays in parts.
pub fn gather(records: Vec<CutRecord>) -> Vec<Shown> {
    let mut series: BTreeMap<(String, usize), Vec<(usize, CutRecord)>> = BTreeMap::new();
    let mut shown = Vec::new();
    for record in records {
        match part_of(&record) {
            Some((name, index, count)) => series.entry((name, count)).or_default().push((index, record)),
            None => shown.push(alone(record)),
        }
    }
    for ((name, count), mut parts) in series {
        parts.sort_by_key(|(index, _)| *index);
        let whole = parts.iter().map(|(index, _)| *index).eq(1..=count);
        let records: Vec<_> = parts.into_iter().map(|(_, record)| record).collect();
        if whole {
            shown.extend(together(name, records));
        } else {
            shown.extend(records.into_iter().map(alone));
        }
    }
    shown.sort_by(|a, b| (b.record.cut_at, &a.record.name).cmp(&(a.record.cut_at, &b.record.name)));
    shown
}

fn alone(record: CutRecord) -> Shown {
    Shown { parts: vec![record.id.clone()], record }
}

/// Name of the series, index and count, of a record that is a part of one.
fn part_of(record: &CutRecord) -> Option<(String, usize, usize)> {
    let is_part = record.level == Level::Crash
        && record.members.len() == 1
        && record.reasons.iter().any(|reason| reason == REASON);
    let (name, place) = record.name.rsplit_once('.')?;
    let (index, count) = place.split_once("of")?;
    is_part.then_some((name.to_owned(), index.parse().ok()?, count.parse().ok()?))
}

/// One record of all parts, in the order in which they were cut; `None` without parts.
fn together(name: String, records: Vec<CutRecord>) -> Option<Shown> {
    let parts: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
    let timeline = joined_timeline(&records);
    let mut members: Vec<_> = records.iter().flat_map(|record| record.members.clone()).collect();
    members.sort_by(|a, b| a.volume.cmp(&b.volume));
    let mut reasons: Vec<String> = Vec::new();
    for reason in records.iter().flat_map(|record| &record.reasons) {
        if !reasons.contains(reason) {
            reasons.push(reason.clone());
        }
    }
    let first = records.into_iter().next()?;
    Some(Shown { record: CutRecord { name, members, timeline, reasons, ..first }, parts })
}

/// The parts' timelines on the axis of the first. They are aligned by the wall clock of the controller, which
/// stamped the end of each cut.
fn joined_timeline(records: &[CutRecord]) -> Option<Timeline> {
    let timelines: Vec<_> = records
        .iter()
        .map(|record| record.timeline.as_ref().map(|timeline| (record, timeline)))
        .collect::<Option<_>>()?;
    let origin = |record: &CutRecord, timeline: &Timeline| {
        record.cut_at.as_microsecond().saturating_sub(last_cut_us(timeline).unwrap_or(0))
    };
    let zero = timelines.first().map(|(record, timeline)| origin(record, timeline))?;
    let mut joined = Timeline::default();
    let (mut released, mut cuts) = (0_i64, Vec::new());
    for (record, timeline) in timelines {
        let shift = origin(record, timeline).saturating_sub(zero);
        let window = i64::try_from(timeline.window_us).unwrap_or(i64::MAX);
        released = released.max(shift.saturating_add(window));
        joined.longest_stall_us = joined.longest_stall_us.max(timeline.longest_stall_us);
        cuts.extend(last_cut_us(timeline).map(|cut| cut.saturating_add(shift)));
        add_shifted(&mut joined, timeline, shift);
    }
    joined.window_us = u64::try_from(released).unwrap_or(0);
    if let (Some(first), Some(last)) = (cuts.iter().min(), cuts.iter().max()) {
        joined.skew_us = last.abs_diff(*first);
    }
    joined.hosts.sort_by(|a, b| a.host.cmp(&b.host));
    Some(joined)
}

fn add_shifted(joined: &mut Timeline, timeline: &Timeline, shift: i64) {
    for host in &timeline.hosts {
        let mut host = host.clone();
        for span in host.volumes.iter_mut().flat_map(|lane| &mut lane.spans) {
            span.start_us = span.start_us.saturating_add(shift);
            span.end_us = span.end_us.saturating_add(shift);
        }
        match joined.hosts.iter_mut().find(|known| known.host == host.host) {
            Some(known) => {
                known.clock_error_us = known.clock_error_us.max(host.clock_error_us);
                known.volumes.append(&mut host.volumes);
            }
            None => joined.hosts.push(host),
        }
    }
}

fn last_cut_us(timeline: &Timeline) -> Option<i64> {
    let spans = timeline.hosts.iter().flat_map(|host| &host.volumes).flat_map(|lane| &lane.spans);
    spans.filter(|span| span.phase == Phase::Cut).map(|span| span.end_us).max()
}

#[cfg(test)]
mod tests;
