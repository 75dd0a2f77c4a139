use super::*;
use crate::observe::timeline::Picture;
use crate::observe::timeline::findings::{Barrier, barrier};
use crate::standalone::fixtures::{record, volume};

fn part(name: &str, index: usize, count: usize, host: u8, cut_at_ms: i64) -> CutRecord {
    let volume = volume(&format!("v{index}"), host);
    let mut record = record(&part_name(name, index, count), &[volume], cut_at_ms);
    record.level = Level::Crash;
    record.reasons = vec![REASON.into()];
    record
}

#[test]
fn the_parts_of_a_series_are_shown_as_one_with_the_time_between_them_as_skew() {
    let parts = vec![part("serial", 2, 2, 2, 1_100), part("serial", 1, 2, 1, 1_000)];
    let shown = gather(parts.clone());
    assert_eq!(shown.len(), 1);
    let record = &shown[0].record;
    assert_eq!((record.name.as_str(), record.members.len(), record.level), ("serial", 2, Level::Crash));
    assert_eq!(shown[0].parts, [parts[1].id.clone(), parts[0].id.clone()]);
    let timeline = record.timeline.as_ref().unwrap();
    assert_eq!((timeline.skew_us, timeline.window_us, timeline.longest_stall_us), (100_000, 120_000, 20_000));
    assert_eq!(barrier(&Picture::of(record)), Barrier::Broken);
}

#[test]
fn an_incomplete_series_stays_in_parts() {
    let shown = gather(vec![part("serial", 1, 3, 1, 0), part("serial", 3, 3, 3, 100)]);
    assert_eq!(
        shown.iter().map(|cut| cut.record.name.as_str()).collect::<Vec<_>>(),
        ["serial.3of3", "serial.1of3"]
    );
}

#[test]
fn a_cut_that_only_looks_like_a_part_is_left_alone() {
    let innocent = record("release.1of1", &[volume("a", 1)], 0);
    let shown = gather(vec![innocent.clone()]);
    assert_eq!(shown, [Shown { parts: vec![innocent.id.clone()], record: innocent }]);
}

#[test]
fn newest_first() {
    let shown = gather(vec![record("old", &[volume("a", 1)], 1), record("new", &[volume("a", 1)], 2)]);
    assert_eq!(shown.iter().map(|cut| cut.record.name.as_str()).collect::<Vec<_>>(), ["new", "old"]);
}
